/* One connection: bytes in, requests out to the handler, answers back in order.
 *
 *   OPEN --(last answer written)--> LINGERING --(client closed, or linger_timeout_ms)--> CLOSED
 *     \--(lost, cut, or nothing to linger for)------------------------------------------^
 *
 * The invariants I1 to I7 are in http_int.h.
 */
#include "sys/http_int.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    READ_MIN_BYTES = 512,        /* less room than this at a block's end: take another */
    TRUST_BYTES = 64 * 1024,     /* a declared length that is given room at once */
    DISCARD_MAX_BYTES = 1 << 20, /* thrown away before reading stops */
};

static struct kz_http_conn *conn_of(void *data)
{
    struct kz_http_conn *conn = data;

    KZ_CHECK_MAGIC(conn, KZ_HTTP_CONN_MAGIC);
    return conn;
}

static void conn_check(const struct kz_http_conn *conn)
{
#ifndef NDEBUG
    unsigned count = 0;

    for (const struct kz_http_req *req = conn->first; req; req = req->next, count++) {
        KZ_BUG_ON(req->conn != conn || req->state == KZ_HTTP_FREE);
        KZ_BUG_ON(
                req->state == KZ_HTTP_RECEIVING && (req != conn->receiving || req->next)); /* I1 */
        KZ_BUG_ON(req == conn->first && req->out.size > 0 && !conn->ended);                /* I2 */
        KZ_BUG_ON(!req->next && req != conn->last);
    }
    KZ_BUG_ON(count != conn->queued);
    KZ_BUG_ON(conn->in && conn->in_at > conn->in->size);
    KZ_BUG_ON((conn->parked_bytes > 0) == kz_http_link_empty(&conn->bulk_link));            /* I7 */
    KZ_BUG_ON(conn->parked_bytes > 0 && (!conn->receiving || !conn->in));                   /* I7 */
    KZ_BUG_ON(conn->parked_bytes > 0 && conn->in_at + conn->parked_bytes > conn->in->size); /* I7 */
#else
    (void)conn;
#endif
}

/* ---- deadlines ---- */

static void read_deadline(struct kz_http_conn *conn, enum kz_http_deadline deadline)
{
    const struct kz_http_options *options = &conn->server->options;
    uint64_t timeout_ms = deadline == KZ_HTTP_IDLE      ? options->idle_timeout_ms
                          : deadline == KZ_HTTP_REQUEST ? options->request_timeout_ms
                                                        : options->linger_timeout_ms;

    uint64_t request_id = deadline == KZ_HTTP_REQUEST ? conn->receiving->pub.id : 0;

    /* A request's time runs from its first byte, so for the same one it is not set anew. */
    if (deadline == conn->read_deadline && deadline != KZ_HTTP_IDLE &&
            request_id == conn->read_due_request)
        return;
    conn->read_due_request = request_id;
    kz_http_link_remove(&conn->read_link);
    conn->read_deadline = deadline;
    if (deadline == KZ_HTTP_NO_DEADLINE)
        return;
    conn->read_due_ms = uv_now(conn->server->loop) + timeout_ms;
    kz_http_link_append(&conn->server->deadlines[deadline], &conn->read_link);
}

static void write_deadline(struct kz_http_conn *conn)
{
    kz_http_link_remove(&conn->write_link);
    if (!conn->writing)
        return;
    conn->write_left = uv_stream_get_write_queue_size(&conn->uv.stream);
    conn->write_due_ms = uv_now(conn->server->loop) + conn->server->options.write_timeout_ms;
    kz_http_link_append(&conn->server->deadlines[KZ_HTTP_WRITE], &conn->write_link);
}

static void update_read_deadline(struct kz_http_conn *conn)
{
    if (conn->state == KZ_HTTP_LINGERING)
        read_deadline(conn, KZ_HTTP_LINGER);
    else if (conn->receiving && !conn->paused && !conn->parked_bytes)
        read_deadline(conn, KZ_HTTP_REQUEST);
    else if (!conn->first && !conn->writing)
        read_deadline(conn, KZ_HTTP_IDLE);
    else
        read_deadline(conn, KZ_HTTP_NO_DEADLINE);
}

/* ---- the end of a connection ---- */

static void on_closed(uv_handle_t *handle)
{
    struct kz_http_conn *conn = conn_of(handle->data);
    struct kz_http_server *server = conn->server;

    kz_http_out_put(server, &conn->out);
    kz_http_out_put(server, &conn->sending);
    kz_http_link_remove(&conn->all);
    conn->magic = 0;
    free(conn);
    server->counters.connections_open--;
    kz_http_server_conn_closed(server);
}

/* Calls on_gone of every request with the handler, which may answer any of them within it. */
static void tell_gone(struct kz_http_conn *conn)
{
    struct kz_http_req *req;

    for (req = conn->first; req; req = req->next) {
        if (req->state == KZ_HTTP_PENDING && !req->gone) {
            req->gone = true;
            conn->server->counters.requests_gone++;
        }
    }
again:
    for (req = conn->first; req; req = req->next) {
        if (req->state == KZ_HTTP_PENDING && !req->gone_told) {
            req->gone_told = true;
            if (req->on_gone) {
                req->on_gone(req->callback_arg, &req->pub);
                goto again; /* the queue may have changed */
            }
        }
    }
}

static void release_queue(struct kz_http_conn *conn)
{
    while (conn->first) {
        struct kz_http_req *req = conn->first;

        conn->first = req->next;
        conn->queued--;
        req->next = NULL;
        req->conn = NULL;
        if (req->state == KZ_HTTP_STREAMING) {
            void (*on_close)(void *, struct kz_http_request *) = req->on_close;

            conn->server->counters.streams_open--;
            conn->server->requests_with_handler--;
            on_close(req->callback_arg, &req->pub);
            kz_http_req_set_state(req, KZ_HTTP_ANSWERED);
        }
        if (req->state != KZ_HTTP_PENDING) /* I4 */
            kz_http_req_put(req);
    }
    conn->last = conn->receiving = NULL;
}

void kz_http_conn_lost(struct kz_http_conn *conn)
{
    if (conn->state == KZ_HTTP_CLOSED)
        return;
    conn->state = KZ_HTTP_CLOSED;
    conn->no_more = true;
    kz_http_link_remove(&conn->dirty_link);
    kz_http_link_remove(&conn->bulk_link);
    conn->parked_bytes = 0;
    kz_http_link_remove(&conn->read_link);
    kz_http_link_remove(&conn->write_link);
    uv_close(&conn->uv.handle, on_closed);
    tell_gone(conn);
    release_queue(conn);
    if (conn->in)
        kz_http_block_unref(conn->server, conn->in);
    conn->in = NULL;
}

static void on_shut(uv_shutdown_t *shutdown, int status)
{
    struct kz_http_conn *conn = conn_of(shutdown->data);

    if (status != 0)
        kz_http_conn_lost(conn);
}

/* All is written. Closing while the client is still sending would reset the connection and could
 * take the answer with it (RFC 9112 section 9.6), so only our side is shut at first. */
static void finish(struct kz_http_conn *conn)
{
    if (!conn->linger || conn->eof || conn->state != KZ_HTTP_OPEN) {
        kz_http_conn_lost(conn);
        return;
    }
    conn->state = KZ_HTTP_LINGERING;
    conn->shutdown.data = conn;
    if (uv_shutdown(&conn->shutdown, &conn->uv.stream, on_shut) != 0) {
        kz_http_conn_lost(conn);
        return;
    }
    update_read_deadline(conn);
}

/* ---- writing ---- */

void kz_http_conn_mark_dirty(struct kz_http_conn *conn)
{
    if (conn->state == KZ_HTTP_OPEN && kz_http_link_empty(&conn->dirty_link))
        kz_http_link_append(&conn->server->dirty, &conn->dirty_link);
}

size_t kz_http_conn_unsent(const struct kz_http_conn *conn)
{
    return conn->out.size + (conn->writing ? uv_stream_get_write_queue_size(&conn->uv.stream) : 0);
}

void kz_http_conn_advance(struct kz_http_conn *conn)
{
    struct kz_http_server *server = conn->server;

    while (conn->first && !conn->ended) {
        struct kz_http_req *req = conn->first;

        if (req->out.size > 0) {
            kz_http_out_get(server, &conn->out);
            kz_buf_str(&conn->out, kz_buf_view(&req->out));
            server->counters.buffered_bytes += req->out.size;
            kz_http_out_put(server, &req->out);
        }
        if (req->want_continue && req->state == KZ_HTTP_RECEIVING) {
            req->want_continue = false;
            kz_http_reply_interim(conn);
        }
        if (req->state != KZ_HTTP_ANSWERED)
            return;
        conn->ended = req->close;
        conn->first = req->next;
        conn->queued--;
        if (!conn->first)
            conn->last = NULL;
        kz_http_req_put(req);
    }
}

static void on_written(uv_write_t *write, int status)
{
    struct kz_http_conn *conn = conn_of(write->data);

    conn->writing = false;
    kz_http_link_remove(&conn->write_link);
    kz_http_out_put(conn->server, &conn->sending);
    if (conn->state == KZ_HTTP_CLOSED)
        return;
    if (status != 0) {
        kz_http_conn_lost(conn);
        return;
    }
    kz_http_conn_mark_dirty(conn);
}

/* What the kernel takes at once, and the rest by uv_write(). false: the connection is lost. */
static bool write_out(struct kz_http_conn *conn)
{
    struct kz_http_server *server = conn->server;
    uv_buf_t buf = uv_buf_init(conn->out.data, (unsigned)conn->out.size);
    int n = uv_try_write(&conn->uv.stream, &buf, 1);

    if (n < 0 && n != UV_EAGAIN)
        return false;
    server->counters.bytes_out += conn->out.size;
    if (n == (int)conn->out.size) {
        kz_http_out_put(server, &conn->out);
        return true;
    }
    conn->sending = conn->out;
    conn->out = (struct kz_buf){0};
    n = KZ_MAX(n, 0);
    buf = uv_buf_init(conn->sending.data + n, (unsigned)(conn->sending.size - (size_t)n));
    conn->write.data = conn;
    if (uv_write(&conn->write, &conn->uv.stream, &buf, 1, on_written) != 0)
        return false;
    conn->writing = true;
    write_deadline(conn);
    return true;
}

static void parse(struct kz_http_conn *conn);
static void start_reading(struct kz_http_conn *conn);

static bool is_full(const struct kz_http_conn *conn)
{
    return conn->queued >= conn->server->options.pipeline_max ||
           kz_http_conn_unsent(conn) > conn->server->options.output_pause_bytes;
}

/* The end of the loop turn for a connection that changed in it. */
void kz_http_conn_flush(struct kz_http_conn *conn)
{
    conn_check(conn);
    if (conn->state != KZ_HTTP_OPEN)
        return;
    if (conn->doomed) {
        kz_http_conn_lost(conn);
        return;
    }
    if (conn->out.size > 0 && !conn->writing && !write_out(conn)) {
        kz_http_conn_lost(conn);
        return;
    }
    if (conn->paused && !is_full(conn)) {
        conn->paused = false;
        conn->server->read_us = uv_hrtime() / 1000;
        parse(conn);
        if (conn->state == KZ_HTTP_OPEN && !conn->paused && !conn->parked_bytes)
            start_reading(conn);
    }
    if (!conn->writing && conn->out.size == 0 && (conn->ended || (conn->no_more && !conn->first))) {
        finish(conn);
        return;
    }
    update_read_deadline(conn);
}

/* ---- requests ---- */

static void begin_request(struct kz_http_conn *conn)
{
    struct kz_http_req *req = kz_http_req_get(conn->server);

    req->conn = conn;
    req->pub.is_loopback = conn->is_loopback;
    memcpy(req->peer, conn->peer, sizeof(req->peer));
    req->pub.peer = req->peer;
    kz_http_parse_begin(&req->parse, false, &req->head);
    if (conn->last)
        conn->last->next = req;
    else
        conn->first = req;
    conn->last = conn->receiving = req;
    conn->queued++;
}

static void drop_in(struct kz_http_conn *conn)
{
    if (conn->in)
        kz_http_block_unref(conn->server, conn->in);
    conn->in = NULL;
    conn->in_at = 0;
}

static void refuse(struct kz_http_conn *conn, int status, const struct kz_err *err)
{
    struct kz_http_req *req = conn->receiving;

    conn->no_more = true;
    conn->receiving = NULL;
    kz_http_reply_refuse(req, status, err);
    drop_in(conn);
    kz_http_conn_advance(conn);
    kz_http_conn_mark_dirty(conn);
}

static void refuse_over_budget(struct kz_http_conn *conn)
{
    struct kz_err err;

    conn->server->counters.requests_refused++;
    (void)kz_fail(&err, KZ_OVERLOADED, "too much is being received at once");
    (void)kz_hint(&err, "come back after Retry-After");
    if (!conn->receiving)
        begin_request(conn);
    refuse(conn, 503, &err);
}

/* The request is whole: it is the handler's. */
static void deliver(struct kz_http_conn *conn, size_t message_bytes)
{
    struct kz_http_server *server = conn->server;
    struct kz_http_req *req = conn->receiving;
    const char *message = conn->in->data + conn->in_at;
    enum kz_code rc;

    req->at = conn->in_at;
    req->block = conn->in;
    req->block->refs++;
    rc = kz_http_req_resolve(req, message, NULL);
    KZ_BUG_ON(rc != KZ_OK); /* it was when the head was complete */
    req->pub.body = kz_str_n(message + req->head.size, req->body_size);
    req->no_body = req->pub.method == KZ_HTTP_HEAD;
    req->gone = conn->eof;
    if (!req->head.keep_alive) {
        req->close = true;
        conn->no_more = true;
    }
    conn->in_at += message_bytes;
    conn->message_hint_bytes = req->head.size + req->body_size;
    conn->receiving = NULL;
    kz_http_req_set_state(req, KZ_HTTP_PENDING);
    server->counters.requests_total++;
    server->requests_with_handler++;
    server->handled = true;
    server->handler.handle(server->handler.arg, &req->pub);
}

/* The head is in: what is to become of the body? false: refused. */
static bool admit(struct kz_http_conn *conn, const char *message)
{
    struct kz_http_server *server = conn->server;
    struct kz_http_req *req = conn->receiving;
    bool has_body = req->head.chunked || req->head.content_length > 0;
    struct kz_err err = {0};
    enum kz_code rc = kz_http_req_resolve(req, message, &err);

    req->body_max_bytes = server->options.body_max_bytes;
    if (rc != KZ_OK) {
        server->counters.requests_malformed++;
        refuse(conn, 400, &err);
        return false;
    }
    if (server->handler.admit) {
        rc = server->handler.admit(server->handler.arg, &req->pub, &req->body_max_bytes, &err);
        if (rc != KZ_OK) {
            refuse(conn, kz_code_http(rc), &err);
            return false;
        }
    }
    if (req->head.content_length > 0 && (uint64_t)req->head.content_length > req->body_max_bytes) {
        (void)kz_fail(&err, KZ_TOO_LARGE, "the body of %lld bytes is over the limit of %zu",
                (long long)req->head.content_length, req->body_max_bytes);
        server->counters.requests_too_large++;
        refuse(conn, 413, &err);
        return false;
    }
    req->want_continue = req->head.expect_continue && has_body;
    if (req->head.chunked)
        kz_http_chunks_begin(&req->chunks);
    return true;
}

static void refuse_parse(struct kz_http_conn *conn, int status, const struct kz_err *err)
{
    if (status == 413 || status == 431)
        conn->server->counters.requests_too_large++;
    else
        conn->server->counters.requests_malformed++;
    refuse(conn, status, err);
}

/* false: more bytes are needed, or it was refused. */
static bool parse_head(struct kz_http_conn *conn)
{
    struct kz_http_req *req = conn->receiving;
    const char *message = conn->in->data + conn->in_at;
    bool complete = false;
    struct kz_err err;

    if (kz_http_parse_head(&req->parse, message, conn->in->size - conn->in_at,
                conn->server->options.head_max_bytes, &complete, &err) != KZ_OK) {
        refuse_parse(conn, req->parse.status, &err);
        return false;
    }
    if (!complete)
        return false;
    req->head_complete = true;
    return admit(conn, message);
}

/* Decodes in place: the body grows behind the head, over the raw bytes already read. */
static bool parse_chunked_body(struct kz_http_conn *conn, size_t *ret_message_bytes)
{
    struct kz_http_req *req = conn->receiving;
    struct kz_http_block *in = conn->in;
    size_t raw_at = conn->in_at + req->head.size + req->body_size;
    size_t used = 0, size = 0;
    bool complete = false;
    struct kz_err err;

    if (kz_http_chunks_step(&req->chunks, in->data + raw_at, in->size - raw_at, in->data + raw_at,
                req->body_max_bytes, &used, &size, &complete, &err) != KZ_OK) {
        refuse_parse(conn, req->chunks.status, &err);
        return false;
    }
    req->body_size += size;
    if (!complete) {
        in->size = raw_at + size;
        return false;
    }
    *ret_message_bytes = raw_at + used - conn->in_at;
    return true;
}

static bool parse_body(struct kz_http_conn *conn, size_t *ret_message_bytes)
{
    struct kz_http_req *req = conn->receiving;
    size_t length = req->head.content_length > 0 ? (size_t)req->head.content_length : 0;

    if (req->head.chunked)
        return parse_chunked_body(conn, ret_message_bytes);
    if (conn->in->size - conn->in_at - req->head.size < length)
        return false;
    req->body_size = length;
    *ret_message_bytes = req->head.size + length;
    return true;
}

static void park(struct kz_http_conn *conn, size_t message_bytes)
{
    conn->parked_bytes = message_bytes;
    conn->receiving->want_continue = false; /* what would go on is here */
    kz_http_server_park(conn->server, &conn->bulk_link);
}

/* Takes every whole request out of what has been received. */
static void parse(struct kz_http_conn *conn)
{
    while (conn->in && conn->state == KZ_HTTP_OPEN && (conn->receiving || !conn->no_more)) {
        size_t message_bytes = 0;

        if (!conn->receiving) {
            /* Empty lines before a request line are passed over (RFC 9112 section 2.2). */
            while (conn->in_at < conn->in->size &&
                    (conn->in->data[conn->in_at] == '\r' || conn->in->data[conn->in_at] == '\n'))
                conn->in_at++;
            if (conn->in_at == conn->in->size)
                break;
            if (is_full(conn)) {
                conn->paused = true;
                return;
            }
            begin_request(conn);
        }
        if (!conn->receiving->head_complete && !parse_head(conn))
            break;
        if (!parse_body(conn, &message_bytes)) {
            if (conn->receiving && conn->receiving->want_continue) {
                kz_http_conn_advance(conn);
                kz_http_conn_mark_dirty(conn);
            }
            break;
        }
        conn->receiving->pub.received_us = conn->server->read_us;
        if (message_bytes >= conn->server->options.bulk_min_bytes) {
            park(conn, message_bytes);
            return;
        }
        deliver(conn, message_bytes);
    }
    if (!conn->receiving)
        drop_in(conn);
}

/* ---- reading ---- */

/* Room for what is expected next; the incomplete message moves along. NULL: over the budget. */
static struct kz_http_block *make_room(struct kz_http_conn *conn)
{
    struct kz_http_req *req = conn->receiving;
    size_t have = conn->in ? conn->in->size - conn->in_at : 0;
    size_t want = KZ_MIN(conn->message_hint_bytes, (size_t)TRUST_BYTES);
    struct kz_http_block *block;

    if (req && req->head_complete && !req->head.chunked) {
        size_t need = req->head.size + (size_t)KZ_MAX(req->head.content_length, 0);

        if (conn->in->capacity - conn->in_at >= need)
            return conn->in;
        /* A declared length is believed up to a point; beyond it room doubles with what came. */
        want = KZ_MIN(need, KZ_MAX((size_t)TRUST_BYTES, have * 2));
        if (conn->in->capacity - conn->in_at >= want && conn->in->capacity > conn->in->size)
            return conn->in;
    } else if (conn->in && conn->in->capacity - conn->in->size >= READ_MIN_BYTES) {
        return conn->in;
    } else if (req) {
        want = KZ_MAX(want, have * 2);
    }
    block = kz_http_block_get(conn->server, KZ_MAX(want, have + READ_MIN_BYTES));
    if (!block)
        return NULL;
    if (have > 0)
        memcpy(block->data, conn->in->data + conn->in_at, have);
    block->size = have;
    drop_in(conn);
    conn->in = block;
    return block;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    struct kz_http_conn *conn = conn_of(handle->data);
    struct kz_http_block *block;

    (void)suggested;
    if (conn->parked_bytes) {
        *ret_buf = uv_buf_init(NULL, 0); /* it pipelines: the rest may wait in the kernel */
        return;
    }
    if (conn->no_more && !conn->receiving) {
        *ret_buf = uv_buf_init(conn->server->discard, sizeof(conn->server->discard));
        return;
    }
    block = make_room(conn);
    if (!block)
        *ret_buf = uv_buf_init(NULL, 0); /* on_read gets UV_ENOBUFS */
    else
        *ret_buf = uv_buf_init(block->data + block->size,
                (unsigned)KZ_MIN(block->capacity - block->size, (size_t)INT32_MAX));
}

/* The client has shut its side. It may still read: what was asked is answered. */
static void on_eof(struct kz_http_conn *conn)
{
    struct kz_http_req *req = conn->receiving;

    conn->eof = true;
    conn->no_more = true;
    conn->reading = false;
    if (conn->state == KZ_HTTP_LINGERING) {
        kz_http_conn_lost(conn);
        return;
    }
    if (req) {
        /* Half a request: nobody can answer it. It is the queue's last (I1). */
        struct kz_http_req **at = &conn->first;
        struct kz_http_req *before = NULL;

        for (; *at != req; at = &(*at)->next)
            before = *at;
        *at = NULL;
        conn->last = before;
        conn->queued--;
        conn->receiving = NULL;
        kz_http_req_put(req);
    }
    drop_in(conn);
    for (req = conn->first; req; req = req->next)
        conn->doomed |= req->state == KZ_HTTP_STREAMING;
    tell_gone(conn);
    kz_http_conn_mark_dirty(conn);
}

static void stop_reading(struct kz_http_conn *conn)
{
    uv_read_stop(&conn->uv.stream);
    conn->reading = false;
}

static void discard(struct kz_http_conn *conn, size_t size)
{
    conn->discarded_bytes += size;
    if (conn->state == KZ_HTTP_OPEN && conn->discarded_bytes > DISCARD_MAX_BYTES)
        stop_reading(conn);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct kz_http_conn *conn = conn_of(stream->data);
    struct kz_http_server *server = conn->server;

    /* Its end is found again when its turn has come: whole requests may lie before it. */
    if ((n == UV_ENOBUFS || n == UV_EOF) && conn->parked_bytes) {
        stop_reading(conn);
        return;
    }
    if (n == UV_ENOBUFS) {
        refuse_over_budget(conn);
        return;
    }
    if (n == UV_EOF) {
        on_eof(conn);
        return;
    }
    if (n < 0) {
        kz_http_conn_lost(conn);
        return;
    }
    server->counters.bytes_in += (uint64_t)n;
    if (buf->base == server->discard) {
        discard(conn, (size_t)n);
        return;
    }
    if (n > 0) {
        server->read_us = uv_hrtime() / 1000;
        conn->in->size += (size_t)n;
        parse(conn);
    } else if (!conn->receiving) {
        drop_in(conn);
    }
    conn_check(conn);
    if (conn->paused)
        stop_reading(conn);
    update_read_deadline(conn);
}

static void start_reading(struct kz_http_conn *conn)
{
    if (conn->reading || conn->eof || uv_is_closing(&conn->uv.handle))
        return;
    if (uv_read_start(&conn->uv.stream, on_alloc, on_read) == 0)
        conn->reading = true;
    else
        conn->doomed = true;
}

/* ---- what the server does to it ---- */

void kz_http_conn_unpark(struct kz_http_conn *conn)
{
    size_t message_bytes = conn->parked_bytes;
    uint64_t read_us = conn->receiving->pub.received_us;

    conn->parked_bytes = 0;
    deliver(conn, message_bytes);
    conn->server->read_us = read_us; /* what lies behind it came with it, or before */
    parse(conn);
    conn_check(conn);
    if (conn->paused)
        stop_reading(conn);
    else if (!conn->parked_bytes)
        start_reading(conn);
    update_read_deadline(conn);
}

void kz_http_conn_drain(struct kz_http_conn *conn)
{
    if (conn->state != KZ_HTTP_OPEN)
        return;
    conn->no_more = true;
    for (const struct kz_http_req *req = conn->first; req; req = req->next)
        conn->doomed |= req->state == KZ_HTTP_STREAMING;
    kz_http_conn_mark_dirty(conn);
}

void kz_http_conn_due(struct kz_http_conn *conn, enum kz_http_deadline deadline)
{
    struct kz_http_server *server = conn->server;
    struct kz_err err;

    switch (deadline) {
    case KZ_HTTP_IDLE:
        server->counters.idle_timeouts++;
        kz_http_conn_lost(conn);
        return;
    case KZ_HTTP_REQUEST:
        server->counters.request_timeouts++;
        kz_http_link_remove(&conn->read_link);
        conn->read_deadline = KZ_HTTP_NO_DEADLINE;
        (void)kz_fail(&err, KZ_TIMEOUT, "the request was not whole within %u ms",
                server->options.request_timeout_ms);
        refuse(conn, 408, &err);
        return;
    case KZ_HTTP_WRITE:
        if (uv_stream_get_write_queue_size(&conn->uv.stream) < conn->write_left) {
            write_deadline(conn);
            return;
        }
        server->counters.write_timeouts++;
        kz_http_conn_lost(conn);
        return;
    case KZ_HTTP_LINGER:
    case KZ_HTTP_DEADLINES:
    case KZ_HTTP_NO_DEADLINE:
        kz_http_conn_lost(conn);
        return;
    }
}

static void read_peer(struct kz_http_conn *conn, bool is_unix)
{
    struct sockaddr_storage address = {0};
    int size = sizeof(address);
    char host[INET6_ADDRSTRLEN] = "?";

    if (is_unix || uv_tcp_getpeername(&conn->uv.tcp, (struct sockaddr *)&address, &size) != 0) {
        conn->is_loopback = is_unix;
        snprintf(conn->peer, sizeof(conn->peer), is_unix ? "unix" : "?");
        return;
    }
    if (address.ss_family == AF_INET) {
        const struct sockaddr_in *in4 = (const struct sockaddr_in *)&address;

        uv_ip4_name(in4, host, sizeof(host));
        conn->is_loopback = ntohl(in4->sin_addr.s_addr) >> 24 == 127;
        snprintf(conn->peer, sizeof(conn->peer), "%s:%u", host, ntohs(in4->sin_port));
        return;
    }
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address;

    uv_ip6_name(in6, host, sizeof(host));
    conn->is_loopback = IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr) ||
                        (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr) &&
                                in6->sin6_addr.s6_addr[12] == 127);
    snprintf(conn->peer, sizeof(conn->peer), "[%s]:%u", host, ntohs(in6->sin6_port));
}

void kz_http_conn_accept(struct kz_http_server *server, struct kz_http_listener *listener)
{
    struct kz_http_conn *conn = kz_calloc(1, sizeof(*conn));
    struct kz_http_counters *counters = &server->counters;

    conn->magic = KZ_HTTP_CONN_MAGIC;
    conn->server = server;
    conn->read_deadline = KZ_HTTP_NO_DEADLINE;
    kz_http_link_init(&conn->dirty_link);
    kz_http_link_init(&conn->bulk_link);
    kz_http_link_init(&conn->read_link);
    kz_http_link_init(&conn->write_link);
    kz_http_link_append(&server->conns, &conn->all);
    if (listener->is_unix)
        (void)uv_pipe_init(server->loop, &conn->uv.pipe, 0); /* cannot fail on Unix */
    else
        (void)uv_tcp_init(server->loop, &conn->uv.tcp); /* nor can it without flags */
    conn->uv.handle.data = conn;
    counters->connections_open++;
    if (uv_accept(&listener->uv.stream, &conn->uv.stream) != 0 || server->stopping ||
            counters->connections_open >
                    server->options.connections_max + server->options.refused_max) {
        counters->connections_refused += !server->stopping;
        kz_http_conn_lost(conn);
        return;
    }
    counters->connections_total++;
    if (!listener->is_unix)
        (void)uv_tcp_nodelay(&conn->uv.tcp, 1); /* slower without, no worse */
    read_peer(conn, listener->is_unix);
    if (counters->connections_open > server->options.connections_max) {
        counters->connections_refused++;
        conn->no_more = conn->linger = true;
        kz_http_reply_refused(conn);
        kz_http_conn_mark_dirty(conn);
    }
    start_reading(conn);
    if (conn->doomed)
        kz_http_conn_mark_dirty(conn);
    update_read_deadline(conn);
    kz_http_server_ticks(server);
}
