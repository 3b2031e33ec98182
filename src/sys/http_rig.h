/* sys/http_rig.h -- a server and raw client sockets in one thread, for the tests of HTTP. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "sys/http.h"

/* Server and raw client sockets share one thread: whoever waits for bytes turns the loop. */
struct rig {
    uv_loop_t loop;
    struct kz_http_server *server;
    struct kz_http_request *deferred[64];
    size_t deferred_count;
    struct kz_http_request *stream;
    int stream_closed, gone, batches, handled, drained;
    size_t unanswered;
    char order[64];      /* of the requests handled: the first letter of each path */
    struct kz_buf heard; /* by the last hear_*() */
};

enum { WAIT_MS = 60000 }; /* for what has to happen: a busy machine takes its time */

static inline uint64_t now_ms(void)
{
    return uv_hrtime() / 1000000;
}

static inline void on_stream_close(void *arg, struct kz_http_request *req)
{
    struct rig *rig = arg;

    assert_ptr_equal(rig->stream, req);
    rig->stream = NULL;
    rig->stream_closed++;
}

static inline void on_gone(void *arg, struct kz_http_request *req)
{
    struct rig *rig = arg;

    assert_true(kz_http_request_gone(req));
    rig->gone++;
}

static inline void handle(void *arg, struct kz_http_request *req)
{
    struct rig *rig = arg;
    struct kz_str value;

    if ((size_t)rig->handled + 1 < sizeof(rig->order))
        rig->order[rig->handled] = req->path.size > 1 ? req->path.ptr[1] : '/';
    rig->handled++;
    if (kz_str_is(req->path, "/defer")) {
        kz_http_request_on_gone(req, on_gone, rig);
        rig->deferred[rig->deferred_count++] = req;
    } else if (kz_str_is(req->path, "/stream")) {
        rig->stream = req;
        kz_http_stream_begin(req, 200, "text/event-stream", NULL, 0, on_stream_close, rig);
    } else if (kz_str_is(req->path, "/query")) {
        if (kz_http_query_get(req, "q", &value))
            kz_http_respond(req, 200, "text/plain", value, NULL, 0);
        else
            kz_http_respond(req, 404, NULL, KZ_STR_NULL, NULL, 0);
    } else if (kz_str_is(req->path, "/header")) {
        struct kz_http_header split = {KZ_STR("X-Echo"), kz_http_request_header(req, "x-in")};

        if (kz_http_query_get(req, "v", &value))
            split.value = KZ_STR("a\r\nSet-Cookie: stolen");
        kz_http_respond(req, 200, "text/plain", kz_str(req->peer), &split, 1);
    } else if (kz_str_is(req->path, "/error")) {
        struct kz_err err;

        (void)kz_fail(&err, KZ_OVERLOADED, "busy with \"%s\"\x01\xff", "x");
        (void)kz_hint(&err, "wait");
        kz_http_respond_error(req, &err);
    } else if (kz_str_is(req->path, "/big")) {
        char *big = kz_malloc(8 << 20);

        memset(big, 'x', 8 << 20);
        kz_http_respond(req, 200, "text/plain", kz_str_n(big, 8 << 20), NULL, 0);
        free(big);
    } else {
        kz_http_respond(req, 200, "text/plain", req->body, NULL, 0);
    }
}

static inline enum kz_code admit(
        void *arg, const struct kz_http_request *req, size_t *body_max_bytes, struct kz_err *err)
{
    (void)arg;
    if (kz_str_is(req->path, "/tiny"))
        *body_max_bytes = 10;
    if (kz_str_is(req->path, "/locked"))
        return kz_fail(err, KZ_FORBIDDEN, "not for %s", req->peer);
    return KZ_OK;
}

static inline void on_batch_end(void *arg)
{
    ((struct rig *)arg)->batches++;
}

static inline void rig_up(struct rig *rig, const struct kz_http_options *options)
{
    struct kz_http_handler handler = {
            .handle = handle, .admit = admit, .on_batch_end = on_batch_end, .arg = rig};
    struct kz_err err;

    memset(rig, 0, sizeof(*rig));
    uv_loop_init(&rig->loop);
    rig->server = kz_http_server_new(&rig->loop, options, &handler);
    if (kz_http_server_listen(rig->server, "127.0.0.1:0", &err) != KZ_OK)
        fail_msg("%s", err.message);
    assert_true(kz_http_server_port(rig->server) > 0);
}

static inline void on_drained(void *arg, size_t unanswered)
{
    struct rig *rig = arg;

    rig->drained++;
    rig->unanswered = unanswered;
}

/* Every test ends in a drained server that held on to nothing. */
static inline void rig_down(struct rig *rig)
{
    if (!rig->drained) {
        kz_http_server_stop(rig->server, 200, on_drained, rig);
        uv_run(&rig->loop, UV_RUN_DEFAULT);
    }
    assert_int_equal(rig->drained, 1);
    assert_int_equal(kz_http_server_counters(rig->server)->connections_open, 0);
    assert_int_equal(kz_http_server_counters(rig->server)->requests_open, 0);
    assert_int_equal(kz_http_server_counters(rig->server)->streams_open, 0);
    assert_int_equal(kz_http_server_counters(rig->server)->buffered_bytes, 0);
    kz_http_server_free(rig->server);
    uv_run(&rig->loop, UV_RUN_NOWAIT);
    assert_int_equal(uv_loop_close(&rig->loop), 0);
    kz_buf_done(&rig->heard);
}

static inline void turn(struct rig *rig)
{
    uv_run(&rig->loop, UV_RUN_NOWAIT);
}

#define TURN_UNTIL(rig, condition)                                                                 \
    do {                                                                                           \
        uint64_t due_ = now_ms() + WAIT_MS;                                                        \
        while (!(condition)) {                                                                     \
            turn(rig);                                                                             \
            if (now_ms() > due_)                                                                   \
                fail_msg("waited in vain for %s", #condition);                                     \
        }                                                                                          \
    } while (0)

static inline int dial(struct rig *rig)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
            .sin_port = htons((uint16_t)kz_http_server_port(rig->server)),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

/* Sends all of it, turning the loop where the socket is full. A server that has closed is no
 * failure here: what it said is what tests look at. */
static inline void say_n(struct rig *rig, int fd, const char *data, size_t size)
{
    uint64_t due = now_ms() + WAIT_MS;

    while (size > 0) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);

        if (n < 0 && errno != EAGAIN)
            return;
        if (n > 0) {
            data += n;
            size -= (size_t)n;
        }
        turn(rig);
        if (now_ms() > due)
            fail_msg("could not send all");
    }
}

static inline void say(struct rig *rig, int fd, const char *text)
{
    say_n(rig, fd, text, strlen(text));
}

/* 1: bytes came; 0: nothing yet; -1: closed. */
static inline int hear(struct rig *rig, int fd)
{
    ssize_t n;

    turn(rig);
    kz_buf_reserve(&rig->heard, 65536);
    n = recv(fd, rig->heard.data + rig->heard.size, 65535, 0);
    if (n > 0) {
        rig->heard.size += (size_t)n;
        rig->heard.data[rig->heard.size] = '\0';
        return 1;
    }
    rig->heard.data[rig->heard.size] = '\0';
    return n == 0 || errno != EAGAIN ? -1 : 0;
}

static inline size_t times(const struct rig *rig, const char *needle)
{
    size_t count = 0;

    for (const char *at = rig->heard.data; at && (at = strstr(at, needle)); at++)
        count++;
    return count;
}

static inline void hear_times(struct rig *rig, int fd, const char *needle, size_t count)
{
    uint64_t due = now_ms() + WAIT_MS;

    kz_buf_clear(&rig->heard);
    do {
        if (hear(rig, fd) < 0 && times(rig, needle) < count)
            fail_msg("closed before \"%s\": %s", needle, rig->heard.data);
        if (now_ms() > due)
            fail_msg("waited in vain for \"%s\": %s", needle, rig->heard.data);
    } while (times(rig, needle) < count);
}

static inline void hear_close(struct rig *rig, int fd)
{
    uint64_t due = now_ms() + WAIT_MS;

    kz_buf_clear(&rig->heard);
    while (hear(rig, fd) >= 0) {
        if (now_ms() > due)
            fail_msg("the server did not close after: %s", rig->heard.data);
    }
    close(fd);
}

static inline void assert_heard(const struct rig *rig, const char *needle)
{
    if (!strstr(rig->heard.data, needle))
        fail_msg("no \"%s\" in: %s", needle, rig->heard.data);
}

static inline void assert_not_heard(const struct rig *rig, const char *needle)
{
    if (strstr(rig->heard.data, needle))
        fail_msg("\"%s\" in: %s", needle, rig->heard.data);
}
