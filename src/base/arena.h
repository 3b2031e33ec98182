/* base/arena.h -- bump allocation with one free for all.
 *
 * Owner    whoever made it; nothing in it may outlive kz_arena_reset() or kz_arena_done().
 * Threads  one at a time.
 * Fails    never below the limit; above it kz_arena_alloc() returns NULL (a request that wants
 *          more than its bound), kz_arena_must() ends the process.
 */
#pragma once

#include "base/base.h"

struct kz_arena_block;

struct kz_arena {
    struct kz_arena_block *head; /* the block being filled; older ones behind it */
    size_t used_bytes;           /* all blocks */
    size_t size_max_bytes;       /* 0: no limit */
};

void kz_arena_init(struct kz_arena *arena, size_t size_max_bytes);
void kz_arena_done(struct kz_arena *arena);
/* Forgets everything allocated and keeps one block for the next use. */
void kz_arena_reset(struct kz_arena *arena);

/* 8-byte aligned, not zeroed. */
void *kz_arena_alloc(struct kz_arena *arena, size_t size);
void *kz_arena_must(struct kz_arena *arena, size_t size) __attribute__((returns_nonnull));
void *kz_arena_zero(struct kz_arena *arena, size_t size) __attribute__((returns_nonnull));
/* A copy in the arena, with a NUL behind it that does not count. */
struct kz_str kz_arena_str(struct kz_arena *arena, struct kz_str s);
char *kz_arena_cstr(struct kz_arena *arena, struct kz_str s) __attribute__((returns_nonnull));
char *kz_arena_printf(struct kz_arena *arena, const char *fmt, ...) KZ_PRINTF(2, 3)
        __attribute__((returns_nonnull));
