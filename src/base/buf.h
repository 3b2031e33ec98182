/* base/buf.h -- a growable run of bytes.
 *
 * Owner    whoever holds the struct; kz_buf_done() frees, kz_buf_clear() keeps the memory.
 * Threads  one at a time.
 * Fails    never; whoever appends foreign input bounds it first.
 */
#pragma once

#include <stdarg.h>

#include "base/base.h"

struct kz_buf {
    char *data;
    size_t size;
    size_t capacity;
};

void kz_buf_done(struct kz_buf *buf);
void kz_buf_grow(struct kz_buf *buf, size_t extra);

static inline void kz_buf_clear(struct kz_buf *buf)
{
    buf->size = 0;
}

static inline void kz_buf_reserve(struct kz_buf *buf, size_t extra)
{
    if (KZ_UNLIKELY(buf->capacity - buf->size < extra))
        kz_buf_grow(buf, extra);
}

/* Room for `size` bytes at the end, counted as written. */
static inline void *kz_buf_extend(struct kz_buf *buf, size_t size)
{
    size_t at = buf->size;

    kz_buf_reserve(buf, KZ_MAX(size, (size_t)1)); /* never a NULL address */
    buf->size += size;
    return buf->data + at;
}

static inline void kz_buf_put(struct kz_buf *buf, const void *data, size_t size)
{
    if (size)
        memcpy(kz_buf_extend(buf, size), data, size);
}

static inline void kz_buf_str(struct kz_buf *buf, struct kz_str s)
{
    kz_buf_put(buf, s.ptr, s.size);
}

static inline void kz_buf_cstr(struct kz_buf *buf, const char *s)
{
    kz_buf_put(buf, s, strlen(s));
}

static inline void kz_buf_char(struct kz_buf *buf, char c)
{
    *(char *)kz_buf_extend(buf, 1) = c;
}

static inline void kz_buf_u8(struct kz_buf *buf, uint8_t v)
{
    kz_buf_put(buf, &v, sizeof(v));
}
static inline void kz_buf_u16(struct kz_buf *buf, uint16_t v)
{
    kz_buf_put(buf, &v, sizeof(v));
}
static inline void kz_buf_u32(struct kz_buf *buf, uint32_t v)
{
    kz_buf_put(buf, &v, sizeof(v));
}
static inline void kz_buf_u64(struct kz_buf *buf, uint64_t v)
{
    kz_buf_put(buf, &v, sizeof(v));
}
static inline void kz_buf_i64(struct kz_buf *buf, int64_t v)
{
    kz_buf_put(buf, &v, sizeof(v));
}
static inline void kz_buf_f64(struct kz_buf *buf, double v)
{
    kz_buf_put(buf, &v, sizeof(v));
}

void kz_buf_printf(struct kz_buf *buf, const char *fmt, ...) KZ_PRINTF(2, 3);
void kz_buf_vprintf(struct kz_buf *buf, const char *fmt, va_list args) KZ_PRINTF(2, 0);

static inline struct kz_str kz_buf_view(const struct kz_buf *buf)
{
    return kz_str_n(buf->data, buf->size);
}

/* Reading side: a cursor that fails once and stays failed, for decoding untrusted bytes. */
struct kz_cursor {
    const char *ptr;
    size_t left;
    bool failed;
};

static inline struct kz_cursor kz_cursor(struct kz_str s)
{
    return (struct kz_cursor){s.ptr, s.size, false};
}

static inline const void *kz_cursor_take(struct kz_cursor *c, size_t size)
{
    const char *at = c->ptr;

    if (KZ_UNLIKELY(c->failed || c->left < size)) {
        c->failed = true;
        return NULL;
    }
    c->ptr += size;
    c->left -= size;
    return at;
}

#define KZ_DEFINE_CURSOR_GET(name, type)                                                           \
    static inline type kz_cursor_##name(struct kz_cursor *c)                                       \
    {                                                                                              \
        type v = 0;                                                                                \
        const void *at = kz_cursor_take(c, sizeof(v));                                             \
        if (at)                                                                                    \
            memcpy(&v, at, sizeof(v));                                                             \
        return v;                                                                                  \
    }
KZ_DEFINE_CURSOR_GET(u8, uint8_t)
KZ_DEFINE_CURSOR_GET(u16, uint16_t)
KZ_DEFINE_CURSOR_GET(u32, uint32_t)
KZ_DEFINE_CURSOR_GET(u64, uint64_t)
KZ_DEFINE_CURSOR_GET(i64, int64_t)
KZ_DEFINE_CURSOR_GET(f64, double)

static inline struct kz_str kz_cursor_str(struct kz_cursor *c, size_t size)
{
    const void *at = kz_cursor_take(c, size);

    return at ? kz_str_n(at, size) : KZ_STR_NULL;
}
