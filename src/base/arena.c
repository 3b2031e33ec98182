#include "base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { BLOCK_BYTES = 16 * 1024 };

struct kz_arena_block {
    struct kz_arena_block *older;
    size_t size;
    size_t used;
    _Alignas(8) char data[];
};

void kz_arena_init(struct kz_arena *arena, size_t size_max_bytes)
{
    *arena = (struct kz_arena){.size_max_bytes = size_max_bytes};
}

void kz_arena_done(struct kz_arena *arena)
{
    struct kz_arena_block *block = arena->head;

    while (block) {
        struct kz_arena_block *older = block->older;

        free(block);
        block = older;
    }
    arena->head = NULL;
    arena->used_bytes = 0;
}

void kz_arena_reset(struct kz_arena *arena)
{
    struct kz_arena_block *keep = arena->head;

    if (!keep)
        return;
    arena->head = keep->older;
    kz_arena_done(arena);
    keep->older = NULL;
    keep->used = 0;
    arena->head = keep;
}

void *kz_arena_alloc(struct kz_arena *arena, size_t size)
{
    struct kz_arena_block *block = arena->head;
    void *ptr;

    size = KZ_ALIGN8(size);
    if (arena->size_max_bytes && arena->used_bytes + size > arena->size_max_bytes)
        return NULL;
    if (!block || block->size - block->used < size) {
        size_t want = KZ_MAX(size, (size_t)BLOCK_BYTES);

        block = kz_malloc(sizeof(*block) + want);
        block->older = arena->head;
        block->size = want;
        block->used = 0;
        arena->head = block;
    }
    ptr = block->data + block->used;
    block->used += size;
    arena->used_bytes += size;
    return ptr;
}

void *kz_arena_must(struct kz_arena *arena, size_t size)
{
    void *ptr = kz_arena_alloc(arena, size);

    KZ_BUG_ON(!ptr);
    return ptr;
}

void *kz_arena_zero(struct kz_arena *arena, size_t size)
{
    return memset(kz_arena_must(arena, size), 0, size);
}

char *kz_arena_cstr(struct kz_arena *arena, struct kz_str s)
{
    char *copy = kz_arena_must(arena, s.size + 1);

    if (s.size)
        memcpy(copy, s.ptr, s.size);
    copy[s.size] = '\0';
    return copy;
}

struct kz_str kz_arena_str(struct kz_arena *arena, struct kz_str s)
{
    return kz_str_n(kz_arena_cstr(arena, s), s.size);
}

char *kz_arena_printf(struct kz_arena *arena, const char *fmt, ...)
{
    va_list args, again;
    int size;
    char *text;

    va_start(args, fmt);
    va_copy(again, args);
    size = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    KZ_BUG_ON(size < 0);
    text = kz_arena_must(arena, (size_t)size + 1);
    if (vsnprintf(text, (size_t)size + 1, fmt, again) != size)
        text[0] = '\0';
    va_end(again);
    return text;
}
