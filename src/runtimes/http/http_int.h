/* runtimes/http/http_int.h -- what the files of the HTTP runtime share. */
#pragma once

#include <uv.h>

#include "base/arena.h"
#include "runtimes/http/http.h"
#include "sys/http_parse.h"

enum {
    HTTP_REQUEST_BYTES_MAX = 64 << 20,
    HTTP_ANSWER_BYTES_MAX = 64 << 20,
    HTTP_WIDTH_MAX = 16384,
};

/* ---- inference.c: the protocol's JSON; pure, over untrusted bytes --------------------------------- */

/* Appends the body of an infer request (docs/models.md); KZ_TOO_LARGE. */
enum kz_code kz_oip_put_request(struct kz_buf *out, const char *version, const char *config_json,
        const struct kz_batch *batch, struct kz_err *err);

/* An answer read and checked. Memory is kept from one to the next. */
struct oip_answer {
    struct kz_batch_row *rows; /* strings are in `arena` or borrowed from the body */
    double *values;
    size_t rows_capacity, values_capacity;
    size_t row_count;
    struct kz_arena arena;
    struct kz_buf mended; /* the body again, where it had to be changed to be JSON */
};
void kz_oip_answer_init(struct oip_answer *answer);
void kz_oip_answer_done(struct oip_answer *answer);
/* `row_count` is what was asked. On failure *ret_fail_code is "protocol" (no such answer) or "shape"
 * (one of other rows or columns than the model's `output` says). */
enum kz_code kz_oip_get_answer(struct kz_str body, const struct kz_model_def *model,
        size_t row_count, struct oip_answer *answer, const char **ret_fail_code,
        struct kz_err *err);
/* What an error's body says: its member "error" (the protocol's), "detail" or "message", else the
 * text itself, cut to a few hundred bytes of clean UTF-8. */
void kz_oip_put_error(struct kz_str body, struct kz_buf *out);

/* ---- exchange.c: one request's answer as HTTP; pure ------------------------------------------------ */

struct exchange {
    struct kz_buf in;   /* the head, then raw bytes of the body behind it */
    struct kz_buf body; /* transfer coding removed */
    struct kz_http_parse parse;
    struct kz_http_head head;
    struct kz_http_chunks chunks;
    size_t in_at; /* first byte of `in` not decoded */
    bool any;     /* a byte has come */
    bool head_valid, complete, keep;
};
void kz_exchange_begin(struct exchange *x);
void kz_exchange_done(struct exchange *x);
/* Takes what has come; x->complete once the answer is whole, and then x->keep where the connection
 * may serve another request. */
enum kz_code kz_exchange_take(struct exchange *x, struct kz_str bytes, struct kz_err *err);
/* The connection has ended: fine for a body without a length, else cut short. */
enum kz_code kz_exchange_end(struct exchange *x, struct kz_err *err);
/* Appends a request's head and body; an empty body is a GET. */
void kz_exchange_put(
        struct kz_buf *out, const char *authority, const char *target, struct kz_str body);

/* ---- link.c: a connection -------------------------------------------------------------------------- */

struct link;
struct link_events { /* on the loop's thread, never from within kz_link_open or _send */
    void (*opened)(void *arg);
    void (*came)(void *arg, struct kz_str bytes);
    void (*ended)(void *arg, int uv_code); /* UV_EOF, or what went wrong; close it */
};
/* Looks the host up and connects. Always gives a link. */
struct link *kz_link_open(uv_loop_t *loop, const char *host, const char *port,
        const struct link_events *events, void *arg);
/* Takes the buffer's bytes and leaves it empty. One at a time. */
void kz_link_send(struct link *link, struct kz_buf *out);
/* Whether some of what was sent has not left yet. */
bool kz_link_is_sending(const struct link *link);
/* No callback follows; NULL is fine. */
void kz_link_close(struct link *link);
