/* One answer of HTTP, from whatever pieces it comes in. */
#include "runtimes/http/http_int.h"

#include <stdio.h>

static void begin_head(struct exchange *x)
{
    x->head_valid = false;
    x->in_at = 0;
    kz_http_parse_begin(&x->parse, true, &x->head);
}

void kz_exchange_begin(struct exchange *x)
{
    kz_buf_clear(&x->in);
    kz_buf_clear(&x->body);
    x->any = x->complete = x->keep = false;
    begin_head(x);
}

void kz_exchange_done(struct exchange *x)
{
    kz_buf_done(&x->in);
    kz_buf_done(&x->body);
}

/* Interim answers (100, 103) are passed over. */
static enum kz_code take_head(struct exchange *x, struct kz_err *err)
{
    while (!x->head_valid) {
        bool complete = false;

        KZ_TRY(kz_http_parse_head(
                &x->parse, x->in.data, x->in.size, KZ_HTTP_HEAD_LIMIT_BYTES, &complete, err));
        if (!complete)
            return KZ_OK;
        if (x->head.status >= 200) {
            x->head_valid = true;
            x->in_at = x->head.size;
            kz_http_chunks_begin(&x->chunks);
        } else if (x->head.status == 101) {
            return kz_fail(err, KZ_INVALID, "the server wants to speak another protocol");
        } else {
            memmove(x->in.data, x->in.data + x->head.size, x->in.size - x->head.size);
            x->in.size -= x->head.size;
            begin_head(x);
        }
    }
    return KZ_OK;
}

static void finish(struct exchange *x)
{
    x->complete = true;
    /* Bytes that nobody asked for would be read as the next answer. */
    x->keep = x->head.keep_alive && x->in_at == x->in.size;
}

static enum kz_code take_chunks(struct exchange *x, struct kz_err *err)
{
    size_t raw_size = x->in.size - x->in_at, used = 0, size = 0;
    bool complete = false;
    char *out;

    kz_buf_reserve(&x->body, raw_size + 1);
    out = x->body.data + x->body.size;
    KZ_TRY(kz_http_chunks_step(&x->chunks, x->in.data + x->in_at, raw_size, out,
            HTTP_ANSWER_BYTES_MAX, &used, &size, &complete, err));
    x->in_at += used;
    x->body.size += size;
    if (complete)
        finish(x);
    return KZ_OK;
}

static enum kz_code take_plain(struct exchange *x, struct kz_err *err)
{
    size_t size = x->in.size - x->in_at;

    if (x->head.content_length >= 0)
        size = KZ_MIN(size, (size_t)x->head.content_length - x->body.size);
    if (x->head.content_length > HTTP_ANSWER_BYTES_MAX ||
            x->body.size + size > HTTP_ANSWER_BYTES_MAX)
        return kz_fail(err, KZ_TOO_LARGE, "the answer is over %d MiB", HTTP_ANSWER_BYTES_MAX >> 20);
    kz_buf_put(&x->body, x->in.data + x->in_at, size);
    x->in_at += size;
    if (x->head.content_length >= 0 && x->body.size == (size_t)x->head.content_length)
        finish(x);
    return KZ_OK;
}

enum kz_code kz_exchange_take(struct exchange *x, struct kz_str bytes, struct kz_err *err)
{
    if (x->complete) {
        x->keep = false;
        return KZ_OK;
    }
    if (!bytes.size)
        return KZ_OK;
    x->any = true;
    kz_buf_str(&x->in, bytes);
    KZ_TRY(take_head(x, err));
    if (!x->head_valid)
        return KZ_OK;
    if (x->head.status == 204 || x->head.status == 304)
        finish(x);
    else if (x->head.chunked)
        KZ_TRY(take_chunks(x, err));
    else
        KZ_TRY(take_plain(x, err));
    if (x->in_at == x->in.size) { /* what is decoded need not be kept, but for the head's names */
        x->in.size = x->in_at = x->head.size;
    }
    return KZ_OK;
}

enum kz_code kz_exchange_end(struct exchange *x, struct kz_err *err)
{
    if (!x->complete && x->head_valid && !x->head.chunked && x->head.content_length < 0) {
        finish(x);
        x->keep = false;
    }
    if (x->complete)
        return KZ_OK;
    return kz_fail(err, KZ_IO,
            x->any ? "the server closed the connection within its answer"
                   : "the server closed the connection without an answer");
}

void kz_exchange_put(
        struct kz_buf *out, const char *authority, const char *target, struct kz_str body)
{
    kz_buf_printf(out, "%s %s HTTP/1.1\r\nHost: %s\r\nAccept: application/json\r\n",
            body.size ? "POST" : "GET", target, authority);
    if (body.size)
        kz_buf_printf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", body.size);
    kz_buf_cstr(out, "User-Agent: kizashi\r\n\r\n");
    kz_buf_str(out, body);
}
