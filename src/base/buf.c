#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

void kz_buf_done(struct kz_buf *buf)
{
    free(buf->data);
    *buf = (struct kz_buf){0};
}

void kz_buf_grow(struct kz_buf *buf, size_t extra)
{
    size_t want = buf->capacity ? buf->capacity * 2 : 256;

    while (want - buf->size < extra)
        want *= 2;
    buf->data = kz_realloc(buf->data, want);
    buf->capacity = want;
}

void kz_buf_vprintf(struct kz_buf *buf, const char *fmt, va_list args)
{
    va_list again;
    int size;

    va_copy(again, args);
    size = vsnprintf(NULL, 0, fmt, args);
    KZ_BUG_ON(size < 0);
    kz_buf_reserve(buf, (size_t)size + 1);
    vsnprintf(buf->data + buf->size, (size_t)size + 1, fmt, again);
    va_end(again);
    buf->size += (size_t)size;
}

void kz_buf_printf(struct kz_buf *buf, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    kz_buf_vprintf(buf, fmt, args);
    va_end(args);
}
