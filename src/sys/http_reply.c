#include "sys/http_int.h"

#include <stdio.h>
#include <time.h>

/* An answer's head beside its headers and type: fixed words, Date and two numbers. */
enum { HEAD_FIXED_BYTES = 256 };

const char *kz_http_status_text(int status)
{
    return kz_http_parse_status_text(status);
}

static void count_status(struct kz_http_server *server, int status)
{
    uint64_t *classes[] = {&server->counters.responses_1xx, &server->counters.responses_2xx,
            &server->counters.responses_3xx, &server->counters.responses_4xx,
            &server->counters.responses_5xx};

    KZ_BUG_ON(status < 100 || status > 599);
    ++*classes[status / 100 - 1];
}

/* Formatted once a second; the loop's clock says when to look. */
static const char *date_line(struct kz_http_server *server)
{
    uint64_t second = uv_now(server->loop) / 1000 + 1;

    if (second != server->date_s) {
        time_t now = time(NULL);
        struct tm tm;

        gmtime_r(&now, &tm);
        /* The process keeps the C locale for LC_TIME; were it not to, clients only log this. */
        strftime(server->date, sizeof(server->date), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
        server->date_s = second;
    }
    return server->date;
}

static char *put(char *at, const char *s, size_t size)
{
    memcpy(at, s, size);
    return at + size;
}
#define PUT(at, literal) put(at, literal, sizeof(literal) - 1)

static char *put_number(char *at, uint64_t n)
{
    char digits[20];
    size_t size = 0;

    do {
        digits[sizeof(digits) - ++size] = (char)('0' + n % 10);
        n /= 10;
    } while (n);
    return put(at, digits + sizeof(digits) - size, size);
}

/* No caller's string may end a line and begin one of its own. */
static char *put_clean(char *at, struct kz_str s)
{
    for (size_t i = 0; i < s.size; i++) {
        char c = s.ptr[i];

        *at++ = c == '\r' || c == '\n' || c == '\0' ? ' ' : c;
    }
    return at;
}

struct kz_buf *kz_http_reply_begin(struct kz_http_req *req)
{
    struct kz_buf *buf = req->conn->first == req ? &req->conn->out : &req->out;

    kz_http_out_get(req->server, buf);
    return buf;
}

struct answer {
    int status;
    struct kz_str type;
    const struct kz_http_header *headers;
    size_t header_count;
    bool chunked; /* a stream, to a client that knows the chunked coding */
    bool with_length;
    uint64_t length;
    bool close;
};

static void put_head(struct kz_http_req *req, struct kz_buf *buf, const struct answer *a)
{
    size_t room = HEAD_FIXED_BYTES + a->type.size;
    const char *text = kz_http_status_text(a->status);
    const char *date = date_line(req->server);
    char *at;

    for (size_t i = 0; i < a->header_count; i++)
        room += a->headers[i].name.size + a->headers[i].value.size + 4;
    kz_buf_reserve(buf, room);
    at = buf->data + buf->size;
    at = PUT(at, "HTTP/1.1 ");
    at = put_number(at, (uint64_t)a->status);
    *at++ = ' ';
    at = put(at, text, strlen(text));
    at = PUT(at, "\r\n");
    at = put(at, date, strlen(date));
    if (a->type.size) {
        at = PUT(at, "Content-Type: ");
        at = put_clean(at, a->type);
        at = PUT(at, "\r\n");
    }
    if (a->with_length) {
        at = PUT(at, "Content-Length: ");
        at = put_number(at, a->length);
        at = PUT(at, "\r\n");
    }
    if (a->chunked)
        at = PUT(at, "Transfer-Encoding: chunked\r\n");
    if (a->close)
        at = PUT(at, "Connection: close\r\n");
    else if (req->head.version_minor == 0)
        at = PUT(at, "Connection: keep-alive\r\n");
    for (size_t i = 0; i < a->header_count; i++) {
        at = put_clean(at, a->headers[i].name);
        at = PUT(at, ": ");
        at = put_clean(at, a->headers[i].value);
        at = PUT(at, "\r\n");
    }
    at = PUT(at, "\r\n");
    buf->size = (size_t)(at - buf->data);
}

/* The handler's hold ends; the answer, if the client is still there, waits for its turn. */
static void answered(struct kz_http_req *req)
{
    struct kz_http_conn *conn = req->conn;

    req->server->requests_with_handler--;
    kz_http_req_set_state(req, KZ_HTTP_ANSWERED);
    if (!conn) {
        kz_http_req_put(req);
        return;
    }
    if (conn->state == KZ_HTTP_OPEN) {
        kz_http_conn_advance(conn);
        kz_http_conn_mark_dirty(conn);
    }
}

static void put_answer(struct kz_http_req *req, int status, const char *type, struct kz_str body,
        const struct kz_http_header *headers, size_t header_count)
{
    struct kz_http_conn *conn = req->conn;
    bool bodyless = status == 204 || status == 304;
    struct kz_buf *buf = kz_http_reply_begin(req);
    size_t before = buf->size;

    /* Nothing follows the last answer of a connection that reads no further request (I3). */
    if (conn->no_more && conn->last == req)
        req->close = true;
    conn->linger |= req->close;
    put_head(req, buf,
            &(struct answer){.status = status,
                    .type = kz_str(type),
                    .headers = headers,
                    .header_count = header_count,
                    .with_length = !bodyless,
                    .length = body.size,
                    .close = req->close});
    if (!bodyless && !req->no_body)
        kz_buf_str(buf, body);
    req->server->counters.buffered_bytes += buf->size - before;
}

void kz_http_respond(struct kz_http_request *pub, int status, const char *content_type,
        struct kz_str body, const struct kz_http_header *headers, size_t header_count)
{
    struct kz_http_req *req = kz_http_req_of(pub);

    kz_http_assert_owner(req->server);
    KZ_BUG_ON(req->state != KZ_HTTP_PENDING || status < 200);
    count_status(req->server, status);
    if (req->conn && req->conn->state == KZ_HTTP_OPEN)
        put_answer(req, status, content_type, body, headers, header_count);
    answered(req);
}

/* ---- errors ---- */

static void put_json_string(struct kz_buf *buf, const char *s)
{
    kz_buf_char(buf, '"');
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;

        if (c == '"' || c == '\\')
            kz_buf_printf(buf, "\\%c", c);
        else if (c < 32 || c == 127)
            kz_buf_printf(buf, "\\u%04x", c);
        else
            kz_buf_char(buf, (char)c);
    }
    kz_buf_char(buf, '"');
}

/* A message may quote a client's bytes: what is not UTF-8 becomes "?", so that the answer is JSON
 * (well-formed sequences of Unicode's table 3-7, without the finer bounds of their second byte,
 * which are checked for the four lead bytes that have them). */
static void make_utf8(char *s)
{
    unsigned char *at = (unsigned char *)s;

    while (*at) {
        size_t more = *at < 0x80                   ? 0
                      : *at >= 0xc2 && *at <= 0xdf ? 1
                      : *at >= 0xe0 && *at <= 0xef ? 2
                      : *at >= 0xf0 && *at <= 0xf4 ? 3
                                                   : SIZE_MAX;
        bool sound = more != SIZE_MAX;

        for (size_t i = 1; sound && i <= more; i++)
            sound = (at[i] & 0xc0) == 0x80;
        if (sound && more >= 2) {
            sound = !(at[0] == 0xe0 && at[1] < 0xa0) && !(at[0] == 0xed && at[1] > 0x9f) &&
                    !(at[0] == 0xf0 && at[1] < 0x90) && !(at[0] == 0xf4 && at[1] > 0x8f);
        }
        if (!sound) {
            *at++ = '?';
            continue;
        }
        at += 1 + more;
    }
}

static void error_body(struct kz_buf *buf, const struct kz_http_req *req, const struct kz_err *err)
{
    struct kz_err clean = *err;

    make_utf8(clean.message);
    make_utf8(clean.hint);
    kz_buf_cstr(buf, "{\"error\":{\"code\":");
    put_json_string(buf, kz_code_name(err->code));
    kz_buf_cstr(buf, ",\"message\":");
    put_json_string(buf, clean.message);
    if (clean.hint[0]) {
        kz_buf_cstr(buf, ",\"hint\":");
        put_json_string(buf, clean.hint);
    }
    kz_buf_cstr(buf, ",\"request_id\":");
    put_json_string(buf, req->pub.id_text);
    kz_buf_cstr(buf, "}}\n");
}

static size_t retry_header(
        struct kz_http_req *req, int status, char text[12], struct kz_http_header *ret_header)
{
    if (status != 429 && status != 503)
        return 0;
    snprintf(text, 12, "%u", req->server->options.retry_after_s);
    *ret_header = (struct kz_http_header){KZ_STR("Retry-After"), kz_str(text)};
    return 1;
}

void kz_http_respond_error_with(struct kz_http_request *pub, int status, const struct kz_err *err,
        const struct kz_http_header *headers, size_t header_count)
{
    struct kz_http_req *req = kz_http_req_of(pub);
    struct kz_http_header all[16];
    struct kz_buf body = {0};
    size_t count = 0;
    char retry[12];

    KZ_BUG_ON(header_count >= KZ_ARRAY_COUNT(all));
    for (; count < header_count; count++)
        all[count] = headers[count];
    count += retry_header(req, status, retry, &all[count]);
    kz_http_out_get(req->server, &body);
    error_body(&body, req, err);
    kz_http_respond(pub, status, "application/json", kz_buf_view(&body), all, count);
    /* Not accounted for: it lived within this call. */
    kz_buf_clear(&body);
    kz_http_out_put(req->server, &body);
}

void kz_http_respond_error(struct kz_http_request *pub, const struct kz_err *err)
{
    kz_http_respond_error_with(pub, kz_code_http(err->code), err, NULL, 0);
}

void kz_http_reply_refuse(struct kz_http_req *req, int status, const struct kz_err *err)
{
    struct kz_http_server *server = req->server;
    struct kz_http_header retry_after;
    struct kz_buf body = {0};
    char retry[12];
    size_t count;

    KZ_BUG_ON(req->state != KZ_HTTP_RECEIVING);
    req->close = true;
    req->want_continue = false;
    count_status(server, status);
    count = retry_header(req, status, retry, &retry_after);
    error_body(&body, req, err);
    put_answer(req, status, "application/json", kz_buf_view(&body), &retry_after, count);
    kz_buf_done(&body);
    kz_http_req_set_state(req, KZ_HTTP_ANSWERED);
}

void kz_http_reply_interim(struct kz_http_conn *conn)
{
    static const struct kz_str text = KZ_STR("HTTP/1.1 100 Continue\r\n\r\n");

    kz_http_out_get(conn->server, &conn->out);
    kz_buf_str(&conn->out, text);
    conn->server->counters.buffered_bytes += text.size;
    conn->server->counters.responses_1xx++;
}

void kz_http_reply_refused(struct kz_http_conn *conn)
{
    static const char body[] = "{\"error\":{\"code\":\"overloaded\",\"message\":\"too many "
                               "connections\",\"hint\":\"come back after Retry-After\","
                               "\"request_id\":\"\"}}\n";
    size_t before = conn->out.size;

    kz_http_out_get(conn->server, &conn->out);
    kz_buf_printf(&conn->out,
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
            "Content-Length: %zu\r\nRetry-After: %u\r\nConnection: close\r\n\r\n%s",
            sizeof(body) - 1, conn->server->options.retry_after_s, body);
    conn->server->counters.buffered_bytes += conn->out.size - before;
    conn->server->counters.responses_5xx++;
}

/* ---- streams ---- */

void kz_http_stream_begin(struct kz_http_request *pub, int status, const char *content_type,
        const struct kz_http_header *headers, size_t header_count,
        void (*on_close)(void *arg, struct kz_http_request *req), void *arg)
{
    struct kz_http_req *req = kz_http_req_of(pub);
    struct kz_http_server *server = req->server;
    struct kz_http_conn *conn = req->conn;
    struct kz_buf *buf;
    size_t before;

    kz_http_assert_owner(server);
    KZ_BUG_ON(req->state != KZ_HTTP_PENDING || !on_close);
    count_status(server, status);
    server->counters.streams_open++;
    server->counters.streams_total++;
    kz_http_req_set_state(req, KZ_HTTP_STREAMING);
    req->on_gone = NULL;
    req->on_close = on_close;
    req->callback_arg = arg;
    req->close = true;
    if (!conn) {
        /* Nobody is there; on_close must still come from the loop (I5). */
        kz_http_link_append(&server->orphans, &req->orphan);
        return;
    }
    conn->no_more = true;
    conn->linger = true;
    req->stream_chunked = req->head.version_minor > 0;
    buf = kz_http_reply_begin(req);
    before = buf->size;
    put_head(req, buf,
            &(struct answer){.status = status,
                    .type = kz_str(content_type),
                    .headers = headers,
                    .header_count = header_count,
                    .chunked = req->stream_chunked,
                    .close = true});
    server->counters.buffered_bytes += buf->size - before;
    if (req->gone || server->stopping)
        conn->doomed = true;
    kz_http_conn_mark_dirty(conn);
}

size_t kz_http_stream_queued(const struct kz_http_request *pub)
{
    const struct kz_http_req *req = kz_http_req_of(pub);

    if (!req->conn)
        return 0;
    return req->out.size + (req->conn->first == req ? kz_http_conn_unsent(req->conn) : 0);
}

enum kz_code kz_http_stream_write(struct kz_http_request *pub, struct kz_str data)
{
    struct kz_http_req *req = kz_http_req_of(pub);
    struct kz_http_server *server = req->server;
    struct kz_http_conn *conn = req->conn;
    struct kz_buf *buf;
    size_t before;

    kz_http_assert_owner(server);
    KZ_BUG_ON(req->state != KZ_HTTP_STREAMING);
    if (!conn || conn->state != KZ_HTTP_OPEN || conn->doomed)
        return KZ_UNAVAILABLE;
    if (req->no_body || data.size == 0)
        return KZ_OK;
    if (kz_http_stream_queued(pub) + data.size > server->options.stream_queue_max_bytes) {
        server->counters.streams_cut++;
        conn->doomed = true;
        kz_http_conn_mark_dirty(conn);
        return KZ_LIMIT;
    }
    buf = kz_http_reply_begin(req);
    before = buf->size;
    if (req->stream_chunked)
        kz_buf_printf(buf, "%zx\r\n", data.size);
    kz_buf_str(buf, data);
    if (req->stream_chunked)
        kz_buf_str(buf, KZ_STR("\r\n"));
    server->counters.buffered_bytes += buf->size - before;
    kz_http_conn_mark_dirty(conn);
    return KZ_OK;
}

void kz_http_stream_end(struct kz_http_request *pub)
{
    struct kz_http_req *req = kz_http_req_of(pub);
    struct kz_http_server *server = req->server;
    struct kz_http_conn *conn = req->conn;

    kz_http_assert_owner(server);
    KZ_BUG_ON(req->state != KZ_HTTP_STREAMING);
    server->counters.streams_open--;
    req->on_close = NULL;
    kz_http_link_remove(&req->orphan);
    if (conn && conn->state == KZ_HTTP_OPEN && !conn->doomed && req->stream_chunked &&
            !req->no_body) {
        struct kz_buf *buf = kz_http_reply_begin(req);

        kz_buf_str(buf, KZ_STR("0\r\n\r\n"));
        server->counters.buffered_bytes += 5;
    }
    answered(req);
}
