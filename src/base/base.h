/* base/base.h -- what every file of Kizashi may use: annotations, assertions,
 * strings that know their length.
 *
 * Threads  everything here is pure or per-object; nothing is shared.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KZ_MUST_USE __attribute__((warn_unused_result))
/* Leaves a result unused on purpose; the comment beside it says why. */
#define KZ_IGNORE(expr)                                                                            \
    do {                                                                                           \
        __typeof__(expr) kz_ignored_ = (expr);                                                     \
        (void)kz_ignored_;                                                                         \
    } while (0)
#define KZ_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define KZ_UNUSED __attribute__((unused))
#define KZ_NORETURN __attribute__((noreturn))
#define KZ_LIKELY(x) __builtin_expect(!!(x), 1)
#define KZ_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define KZ_ARRAY_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define KZ_MIN(a, b) ((a) < (b) ? (a) : (b))
#define KZ_MAX(a, b) ((a) > (b) ? (a) : (b))
#define KZ_ALIGN8(n) (((n) + 7) & ~(size_t)7)
#define KZ_CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Cleanup on scope exit: KZ_AUTO(kz_thing_freep) struct kz_thing *t = NULL;
 * the destructor takes a pointer to the variable and copes with NULL. */
#define KZ_AUTO(fn) __attribute__((cleanup(fn)))
#define KZ_DEFINE_FREEP(type, fn)                                                                  \
    static inline void fn##p(type **p)                                                             \
    {                                                                                              \
        if (*p)                                                                                    \
            fn(*p);                                                                                \
        *p = NULL;                                                                                 \
    }
/* Hands an owned pointer on and leaves NULL behind. */
#define kz_take(pp)                                                                                \
    ({                                                                                             \
        __typeof__(*(pp)) kz_taken_ = *(pp);                                                       \
        *(pp) = NULL;                                                                              \
        kz_taken_;                                                                                 \
    })

/* Asserts are for our own mistakes only and stay on in release builds. */
KZ_NORETURN void kz_bug(const char *file, int line, const char *what);
#define KZ_BUG_ON(cond)                                                                            \
    do {                                                                                           \
        if (KZ_UNLIKELY(cond))                                                                     \
            kz_bug(__FILE__, __LINE__, #cond);                                                     \
    } while (0)

/* A magic number at the head of a struct, checked whenever it comes back from a void pointer. */
#define KZ_CHECK_MAGIC(ptr, value) KZ_BUG_ON(!(ptr) || (ptr)->magic != (value))

/* A borrowed run of bytes; not terminated. The empty string may have a NULL pointer. */
struct kz_str {
    const char *ptr;
    size_t size;
};

#define KZ_STR(literal) ((struct kz_str){"" literal, sizeof(literal) - 1})
#define KZ_STR_NULL ((struct kz_str){NULL, 0})
#define KZ_STR_FMT "%.*s"
#define KZ_STR_ARG(s) (int)(s).size, (s).ptr ? (s).ptr : ""

static inline struct kz_str kz_str(const char *cstring)
{
    return (struct kz_str){cstring, cstring ? strlen(cstring) : 0};
}

static inline struct kz_str kz_str_n(const void *ptr, size_t size)
{
    return (struct kz_str){ptr, size};
}

static inline bool kz_str_eq(struct kz_str a, struct kz_str b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.ptr, b.ptr, a.size) == 0);
}

static inline bool kz_str_is(struct kz_str a, const char *cstring)
{
    return kz_str_eq(a, kz_str(cstring));
}

static inline bool kz_str_starts(struct kz_str a, const char *prefix)
{
    size_t n = strlen(prefix);
    return a.size >= n && memcmp(a.ptr, prefix, n) == 0;
}

/* Unaligned little-endian loads and stores; every on-disk and on-wire number goes through these
 * or through a struct whose size is asserted. */
static inline uint32_t kz_load_u32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}
static inline uint64_t kz_load_u64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}
static inline void kz_store_u32(void *p, uint32_t v)
{
    memcpy(p, &v, sizeof(v));
}
static inline void kz_store_u64(void *p, uint64_t v)
{
    memcpy(p, &v, sizeof(v));
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "Kizashi's formats are little-endian");

/* malloc family that never returns NULL: memory that start-up or a bounded pool needs and cannot
 * have ends the process with a message, since nothing sensible can follow. */
void *kz_malloc(size_t size) __attribute__((malloc, returns_nonnull));
void *kz_calloc(size_t count, size_t size) __attribute__((malloc, returns_nonnull));
void *kz_realloc(void *ptr, size_t size) __attribute__((returns_nonnull));
char *kz_strdup(const char *s) __attribute__((malloc, returns_nonnull));
char *kz_strndup(const char *s, size_t size) __attribute__((malloc, returns_nonnull));
static inline void kz_freep(void *pp)
{
    extern void free(void *);
    free(*(void **)pp);
    *(void **)pp = NULL;
}
