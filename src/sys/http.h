/* sys/http.h -- an HTTP/1.1 server on a caller's libuv loop (RFC 9110, RFC 9112).
 *
 * Owner    whoever called kz_http_server_new(); a request belongs to the handler from `handle`
 * until kz_http_respond*() or kz_http_stream_end() (or the stream's on_close) takes it back.
 * Threads  one: every call and every callback on the thread that runs the loop (asserted). Only
 *          kz_http_status_text(), kz_http_unescape() and the address helpers are free of it.
 * Life     new, listen (once or more), the loop runs, stop -> drained, free.
 * Fails    listen: KZ_INVALID, KZ_CONFLICT (in use), KZ_IO. What clients do wrong is answered and
 *          counted here and never reaches the caller. Never logs.
 *
 * A request is handed over when its head and body are complete; those of a connection in the order
 * they came, and bulk (see the options) behind what is short. The handler answers within the call
 * or later, in any order: answers leave in the order of the requests. Output is gathered over one
 * loop turn and written once a connection. A client that goes away leaves its requests valid:
 * answering them is then a no-op.
 */
#pragma once

#include <uv.h>

#include "base/arena.h"
#include "base/err.h"

struct kz_http_server;
struct kz_http_request;

enum kz_http_method {
    KZ_HTTP_OTHER, /* see method_name */
    KZ_HTTP_GET,
    KZ_HTTP_HEAD,
    KZ_HTTP_POST,
    KZ_HTTP_PUT,
    KZ_HTTP_DELETE,
    KZ_HTTP_OPTIONS,
    KZ_HTTP_PATCH,
};

/* What can grow has a row here; kz_http_options_default() fills it with the figures given. */
struct kz_http_options {
    size_t head_max_bytes;         /* 16 KiB, at most 64 KiB; over it 431 */
    size_t body_max_bytes;         /* 8 MiB; over it 413 and the connection is closed */
    size_t connections_max;        /* 10,000; over it 503 with Retry-After, and closed */
    size_t refused_max;            /* 256 more are told so; from there on they are closed at once */
    size_t pipeline_max;           /* 64 unanswered requests a connection; reading stops there */
    size_t buffered_max_bytes;     /* 512 MiB of input and output over all connections; then 503 */
    size_t output_pause_bytes;     /* 1 MiB unsent on a connection; no further request is read */
    size_t stream_queue_max_bytes; /* 1 MiB unsent on a stream; then it is cut */
    size_t arena_max_bytes;        /* 16 MiB; what one request's arena may hold */
    uint32_t request_timeout_ms;   /* 30,000 from the first byte to the last; then 408 */
    uint32_t idle_timeout_ms;      /* 75,000 between requests; then closed */
    uint32_t write_timeout_ms;     /* 30,000 without a byte taken by the client; then cut */
    uint32_t linger_timeout_ms;    /* 1,000 for the client to read an answer sent before closing */
    uint32_t retry_after_s;        /* 1; sent with 429 and 503 */
    size_t bulk_min_bytes;         /* 4 KiB; longer requests wait for the shorter ones of a turn */
    uint32_t bulk_turn_us;         /* 1,000; then what else is ready comes first again */
};

struct kz_http_options kz_http_options_default(void);

/* Called on the loop's thread. Only `handle` is required. */
struct kz_http_handler {
    /* A whole request. `req` is the handler's until it answers. */
    void (*handle)(void *arg, struct kz_http_request *req);
    /* The head is in, the body is not: path, headers and content_length can be read, and neither
     * arena nor user pointer used. May set *body_max_bytes (preset to the option) for this request.
     * Anything but KZ_OK refuses with `err` before a body is read. */
    enum kz_code (*admit)(void *arg, const struct kz_http_request *req, size_t *body_max_bytes,
            struct kz_err *err);
    /* Once `handle` was called, after every readable connection has been read and before output is
     * written, and again after a turn's bulk: the place to commit what came, then answer. */
    void (*on_batch_end)(void *arg);
    void *arg;
};

/* Read-only for the handler, but for `user` and `arena`. Strings are views of the receive buffer
 * and last as long as the request. */
struct kz_http_request {
    uint32_t magic;
    enum kz_http_method method;
    struct kz_str method_name;
    struct kz_str target;   /* as sent */
    struct kz_str path;     /* up to "?", still escaped; kz_http_unescape() */
    struct kz_str query;    /* behind "?", still escaped; kz_http_query_get() */
    struct kz_str body;     /* contiguous, transfer coding removed, content coding not */
    int64_t content_length; /* as declared; -1 for a chunked body or none */
    const char *peer;       /* "192.0.2.1:4711", "[2001:db8::1]:4711" or "unix" */
    bool is_loopback;       /* the peer is 127.0.0.0/8, ::1 or a unix socket */
    uint64_t id;            /* unique in this process, starts at random */
    char id_text[17];       /* the same as hexadecimal digits, as errors carry it */
    uint64_t first_byte_us; /* monotonic (uv_hrtime) */
    uint64_t received_us;   /* monotonic: the last byte was there */
    struct kz_arena arena;  /* freed with the request; bounded by arena_max_bytes */
    void *user;             /* the handler's; NULL at first */
};

struct kz_http_header {
    struct kz_str name;
    struct kz_str value; /* CR, LF and NUL are sent as blanks, so that no answer can be split */
};

/* ---- the server ---- */

/* `options` NULL: the defaults. `handler` is copied. */
struct kz_http_server *kz_http_server_new(uv_loop_t *loop, const struct kz_http_options *options,
        const struct kz_http_handler *handler);
/* `address`: "127.0.0.1:8080", "[::1]:8080", "localhost:8080", ":8080" (all of IPv4), "unix:PATH";
 * port 0 takes a free one. Up to 4 listeners a server. */
KZ_MUST_USE enum kz_code kz_http_server_listen(
        struct kz_http_server *server, const char *address, struct kz_err *err);
/* The first TCP listener's port, 0 where there is none. */
unsigned kz_http_server_port(const struct kz_http_server *server);
/* Stops accepting, closes idle connections and streams, lets requests in flight finish, and cuts
 * what is left after `deadline_ms`. `drained` is called once, from the loop, when the last
 * connection is closed, with the number of requests the handler still owes an answer (0 but after
 * the deadline). The server may be freed within it, once those are answered. */
void kz_http_server_stop(struct kz_http_server *server, uint32_t deadline_ms,
        void (*drained)(void *arg, size_t unanswered), void *arg);
/* Only before the first listen or after `drained`, and with every request answered (asserted). */
void kz_http_server_free(struct kz_http_server *server);
KZ_DEFINE_FREEP(struct kz_http_server, kz_http_server_free)

/* ---- reading a request ---- */

/* The first field of that name (any case); a NULL pointer where there is none. */
struct kz_str kz_http_request_header(const struct kz_http_request *req, const char *name);
/* The first parameter `name` of the query, decoded ("+" is a blank) into the request's arena.
 * false: absent or not decodable. */
bool kz_http_query_get(struct kz_http_request *req, const char *name, struct kz_str *ret_value);
/* Decodes %XX (and "+" where `plus`) into `arena`. false: a broken escape, a NUL, or no room. */
bool kz_http_unescape(struct kz_arena *arena, struct kz_str s, bool plus, struct kz_str *ret);

/* ---- answering: each of these ends the handler's hold on `req` ---- */

/* `body` and `headers` are copied. `content_type` NULL: none is sent. Content-Length, Connection
 * and Date are added; a body is left out for HEAD, 204 and 304. */
void kz_http_respond(struct kz_http_request *req, int status, const char *content_type,
        struct kz_str body, const struct kz_http_header *headers, size_t header_count);
/* {"error":{"code","message","hint"?,"request_id"}} with the code's status; 429 and 503 carry
 * Retry-After. */
void kz_http_respond_error(struct kz_http_request *req, const struct kz_err *err);
/* The same with a status and headers of the caller's. */
void kz_http_respond_error_with(struct kz_http_request *req, int status, const struct kz_err *err,
        const struct kz_http_header *headers, size_t header_count);

/* ---- a client that goes away ---- */

/* The client has closed its side or the connection is lost. An answer may still be given. */
bool kz_http_request_gone(const struct kz_http_request *req);
/* `gone` is called at most once, from the loop, never from within a call on `req`, and not after
 * the answer. `req` stays the handler's: it must still be answered (also within `gone`). */
void kz_http_request_on_gone(struct kz_http_request *req,
        void (*gone)(void *arg, struct kz_http_request *req), void *arg);

/* ---- streams (Server-Sent Events) ---- */

/* Sends the head of an answer without end. The connection serves nothing after it. `on_close` is
 * called at most once, from the loop, never from within a call on `req`, when the client went away,
 * was too slow or the server stops; `req` is gone when it returns. Not called after
 * kz_http_stream_end(). */
void kz_http_stream_begin(struct kz_http_request *req, int status, const char *content_type,
        const struct kz_http_header *headers, size_t header_count,
        void (*on_close)(void *arg, struct kz_http_request *req), void *arg);
/* Queues `data` (copied); written at the end of the loop turn. KZ_LIMIT: over
 * stream_queue_max_bytes; KZ_UNAVAILABLE: the client is gone. After either, on_close follows. */
KZ_MUST_USE enum kz_code kz_http_stream_write(struct kz_http_request *req, struct kz_str data);
/* Bytes the client has not taken yet. */
size_t kz_http_stream_queued(const struct kz_http_request *req);
void kz_http_stream_end(struct kz_http_request *req);

/* ---- seen from outside ---- */

/* X(name, is a gauge, help) */
#define KZ_HTTP_COUNTERS(X)                                                                        \
    X(connections_open, true, "connections open now")                                              \
    X(connections_total, false, "connections accepted")                                            \
    X(connections_refused, false, "connections answered 503 over connections_max")                 \
    X(requests_open, true, "requests begun and not answered yet")                                  \
    X(requests_total, false, "requests handed to the handler")                                     \
    X(requests_malformed, false, "requests that broke the protocol")                               \
    X(requests_too_large, false, "requests over the head or body limit")                           \
    X(requests_refused, false, "requests answered 503 over buffered_max_bytes")                    \
    X(requests_gone, false, "requests whose client left before the answer")                        \
    X(request_timeouts, false, "requests not whole within request_timeout_ms")                     \
    X(idle_timeouts, false, "connections closed after idle_timeout_ms")                            \
    X(write_timeouts, false, "connections cut after write_timeout_ms")                             \
    X(streams_open, true, "streams open now")                                                      \
    X(streams_total, false, "streams begun")                                                       \
    X(streams_cut, false, "streams cut for a slow reader")                                         \
    X(responses_1xx, false, "interim answers")                                                     \
    X(responses_2xx, false, "answers of success")                                                  \
    X(responses_3xx, false, "answers of redirection")                                              \
    X(responses_4xx, false, "answers of client error")                                             \
    X(responses_5xx, false, "answers of server error")                                             \
    X(bytes_in, false, "bytes received")                                                           \
    X(bytes_out, false, "bytes handed to the kernel or queued for it")                             \
    X(buffered_bytes, true, "bytes of buffers in use")

struct kz_http_counters {
#define X(name, gauge, help) uint64_t name;
    KZ_HTTP_COUNTERS(X)
#undef X
};

/* Borrowed; changes as the loop runs. */
const struct kz_http_counters *kz_http_server_counters(const struct kz_http_server *server);

/* ---- small helpers ---- */

const char *kz_http_status_text(int status); /* "Not Found"; "Unknown" for what RFC 9110 has not */
/* Whether listening on `address` is reachable from this machine only. */
bool kz_http_address_is_loopback(const char *address);
/* Any case, ASCII. */
bool kz_http_name_eq(struct kz_str a, const char *name);
