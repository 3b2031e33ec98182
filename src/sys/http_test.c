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
    struct kz_buf heard; /* by the last hear_*() */
};

enum { WAIT_MS = 5000 };

static uint64_t now_ms(void)
{
    return uv_hrtime() / 1000000;
}

static void on_stream_close(void *arg, struct kz_http_request *req)
{
    struct rig *rig = arg;

    assert_ptr_equal(rig->stream, req);
    rig->stream = NULL;
    rig->stream_closed++;
}

static void on_gone(void *arg, struct kz_http_request *req)
{
    struct rig *rig = arg;

    assert_true(kz_http_request_gone(req));
    rig->gone++;
}

static void handle(void *arg, struct kz_http_request *req)
{
    struct rig *rig = arg;
    struct kz_str value;

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

static enum kz_code admit(
        void *arg, const struct kz_http_request *req, size_t *body_max_bytes, struct kz_err *err)
{
    (void)arg;
    if (kz_str_is(req->path, "/tiny"))
        *body_max_bytes = 10;
    if (kz_str_is(req->path, "/locked"))
        return kz_fail(err, KZ_FORBIDDEN, "not for %s", req->peer);
    return KZ_OK;
}

static void on_batch_end(void *arg)
{
    ((struct rig *)arg)->batches++;
}

static void rig_up(struct rig *rig, const struct kz_http_options *options)
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

static void on_drained(void *arg, size_t unanswered)
{
    struct rig *rig = arg;

    rig->drained++;
    rig->unanswered = unanswered;
}

/* Every test ends in a drained server that held on to nothing. */
static void rig_down(struct rig *rig)
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

static void turn(struct rig *rig)
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

static int dial(struct rig *rig)
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
static void say_n(struct rig *rig, int fd, const char *data, size_t size)
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

static void say(struct rig *rig, int fd, const char *text)
{
    say_n(rig, fd, text, strlen(text));
}

/* 1: bytes came; 0: nothing yet; -1: closed. */
static int hear(struct rig *rig, int fd)
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

static size_t times(const struct rig *rig, const char *needle)
{
    size_t count = 0;

    for (const char *at = rig->heard.data; at && (at = strstr(at, needle)); at++)
        count++;
    return count;
}

static void hear_times(struct rig *rig, int fd, const char *needle, size_t count)
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

static void hear_close(struct rig *rig, int fd)
{
    uint64_t due = now_ms() + WAIT_MS;

    kz_buf_clear(&rig->heard);
    while (hear(rig, fd) >= 0) {
        if (now_ms() > due)
            fail_msg("the server did not close after: %s", rig->heard.data);
    }
    close(fd);
}

static void assert_heard(const struct rig *rig, const char *needle)
{
    if (!strstr(rig->heard.data, needle))
        fail_msg("no \"%s\" in: %s", needle, rig->heard.data);
}

static void assert_not_heard(const struct rig *rig, const char *needle)
{
    if (strstr(rig->heard.data, needle))
        fail_msg("\"%s\" in: %s", needle, rig->heard.data);
}

/* ---- what is answered ---- */

static void a_body_comes_back_and_the_connection_stays(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    for (int i = 0; i < 3; i++) {
        say(&rig, fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
        hear_times(&rig, fd, "\r\n\r\nhello", 1);
        assert_heard(&rig, "HTTP/1.1 200 OK\r\n");
        assert_heard(&rig, "Content-Length: 5\r\n");
        assert_heard(&rig, "\r\nDate: ");
        assert_not_heard(&rig, "Connection:");
    }
    assert_int_equal(kz_http_server_counters(rig.server)->connections_total, 1);
    assert_int_equal(kz_http_server_counters(rig.server)->requests_total, 3);
    assert_int_equal(kz_http_server_counters(rig.server)->responses_2xx, 3);
    assert_int_equal(rig.batches, 3);
    close(fd);
    rig_down(&rig);
}

static void chunked_bodies_are_decoded_however_they_are_split(void **state)
{
    static const char text[] =
            "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
            "5\r\nhello\r\n00006;ext=\"v\"\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
            "GET /query?q=n%2ext+1 HTTP/1.1\r\nhost: x\r\n\r\n";
    struct rig rig;

    (void)state;
    rig_up(&rig, NULL);
    for (size_t split = 1; split < sizeof(text) - 1; split++) {
        int fd = dial(&rig);

        say_n(&rig, fd, text, split);
        say_n(&rig, fd, text + split, sizeof(text) - 1 - split);
        hear_times(&rig, fd, "n.xt 1", 1);
        assert_heard(&rig, "\r\n\r\nhello worldHTTP/1.1 200");
        close(fd);
    }
    rig_down(&rig);
}

static void head_has_a_length_and_no_body(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd,
            "HEAD /query?q=abc HTTP/1.1\r\nHost: x\r\n\r\nGET /query?q=z HTTP/1.1\r\nHost: "
            "x\r\n\r\n");
    hear_times(&rig, fd, "\r\n\r\nz", 1);
    assert_heard(&rig, "Content-Length: 3\r\n\r\nHTTP/1.1 200");
    close(fd);
    rig_down(&rig);
}

static void http_1_0_closes_unless_asked_to_stay(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /query?q=a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
    hear_times(&rig, fd, "\r\n\r\na", 1);
    assert_heard(&rig, "Connection: keep-alive\r\n");
    say(&rig, fd, "GET /query?q=b HTTP/1.0\r\n\r\n");
    hear_close(&rig, fd);
    assert_heard(&rig, "Connection: close\r\n");
    assert_heard(&rig, "\r\n\r\nb");
    rig_down(&rig);
}

static void a_client_that_expects_100_gets_it(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd,
            "GET /defer HTTP/1.1\r\nHost: x\r\n\r\n"
            "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    TURN_UNTIL(&rig, rig.deferred_count == 1);
    /* Its turn comes behind the first request's answer. */
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("first"), NULL, 0);
    hear_times(&rig, fd, "firstHTTP/1.1 100 Continue\r\n\r\n", 1);
    say(&rig, fd, "ok");
    hear_times(&rig, fd, "\r\n\r\nok", 1);
    say(&rig, fd, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 42\r\nContent-Length: 2\r\n\r\nok");
    hear_close(&rig, fd);
    assert_heard(&rig, "HTTP/1.1 417 ");
    rig_down(&rig);
}

static void answers_leave_in_the_order_of_the_requests(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd,
            "GET /defer HTTP/1.1\r\nHost: x\r\n\r\nGET /defer HTTP/1.1\r\nHost: x\r\n\r\n"
            "GET /query?q=three HTTP/1.1\r\nHost: x\r\n\r\nGET /defer HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.deferred_count == 3);
    kz_http_respond(rig.deferred[2], 200, NULL, KZ_STR("four"), NULL, 0);
    kz_http_respond(rig.deferred[1], 200, NULL, KZ_STR("two"), NULL, 0);
    for (int i = 0; i < 20; i++)
        turn(&rig);
    kz_buf_clear(&rig.heard);
    assert_int_equal(hear(&rig, fd), 0);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("one"), NULL, 0);
    hear_times(&rig, fd, "HTTP/1.1 200", 4);
    assert_true(strstr(rig.heard.data, "one") < strstr(rig.heard.data, "two"));
    assert_true(strstr(rig.heard.data, "two") < strstr(rig.heard.data, "three"));
    assert_true(strstr(rig.heard.data, "three") < strstr(rig.heard.data, "four"));
    close(fd);
    rig_down(&rig);
}

static void pipelining_is_bounded_and_goes_on(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    struct rig rig;
    int fd;

    (void)state;
    options.pipeline_max = 3;
    rig_up(&rig, &options);
    fd = dial(&rig);
    for (int i = 0; i < 10; i++)
        say(&rig, fd, "GET /defer HTTP/1.1\r\nHost: x\r\n\r\n");
    for (size_t i = 0; i < 10; i++) {
        TURN_UNTIL(&rig, rig.deferred_count == KZ_MIN(i + 3, 10));
        for (int j = 0; j < 5; j++)
            turn(&rig);
        assert_int_equal(rig.deferred_count, KZ_MIN(i + 3, 10));
        kz_http_respond(rig.deferred[i], 204, NULL, KZ_STR_NULL, NULL, 0);
    }
    hear_times(&rig, fd, "HTTP/1.1 204 No Content", 10);
    assert_not_heard(&rig, "Content-Length");
    /* A burst in one piece, answered at once. */
    for (int i = 0; i < 40; i++)
        assert_int_equal(send(fd, "GET /query?q=ab HTTP/1.1\r\nHost: x\r\n\r\n", 37, 0), 37);
    hear_times(&rig, fd, "\r\n\r\nab", 40);
    close(fd);
    rig_down(&rig);
}

static void an_error_has_the_shape_of_errors(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /error HTTP/1.1\r\nHost: x\r\n\r\n");
    hear_times(&rig, fd, "}}\n", 1);
    assert_heard(&rig, "HTTP/1.1 503 Service Unavailable\r\n");
    assert_heard(&rig, "Retry-After: 1\r\n");
    assert_heard(&rig,
            "{\"error\":{\"code\":\"overloaded\",\"message\":\"busy with \\\"x\\\"\\u0001?\","
            "\"hint\":\"wait\",\"request_id\":\"");
    say(&rig, fd, "GET /header?v=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    hear_times(&rig, fd, "\r\n\r\n127.0.0.1:", 1);
    assert_heard(&rig, "X-Echo: a  Set-Cookie: stolen\r\n");
    say(&rig, fd, "GET http://x/header HTTP/1.1\r\nHost: x\r\nX-IN: \t some thing \t\r\n\r\n");
    hear_times(&rig, fd, "\r\n\r\n127.0.0.1:", 1);
    assert_heard(&rig, "X-Echo: some thing\r\n");
    close(fd);
    rig_down(&rig);
}

/* ---- what is refused ---- */

static const struct {
    const char *input, *status;
} hostile[] = {
        {"\x16\x03\x01\x02\x01garbage and more of it", "400"},
        {"GET / HTTP/1.1\r\n\r\n", "400"}, /* no Host */
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"},
        {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "505"},
        {"GET /\r\nHost: a\r\n\r\n", "505"},
        {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"GET relative HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhello", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
                "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\nhello",
                "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n", "413"},
        {"POST /tiny HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", "413"},
        {"POST /tiny HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n", "413"},
        {"POST /tiny HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
         "8\r\n12345678\r\n8\r\n12345678\r\n0\r\n\r\n",
                "413"},
        {"POST /locked HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", "403"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: "
         "chunked\r\n\r\n0\r\n\r\n",
                "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: "
         "5\r\n\r\n0\r\n\r\n",
                "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: "
         "chunked\r\n\r\n"
         "0\r\n\r\n",
                "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "501"},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\n Folded: b\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\n X: b\r\nHost: a\r\n\r\n", "400"},
        {"GET / HTTP/1.1\nHost: a\n\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: b\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\nX\x01: b\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", "400"},
        {"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
};

static void hostile_heads_are_refused_and_the_connection_closed(void **state)
{
    struct rig rig;

    (void)state;
    rig_up(&rig, NULL);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(hostile); i++) {
        for (int bytewise = 0; bytewise < 2; bytewise++) {
            const char *input = hostile[i].input;
            int fd = dial(&rig);
            char want[32];

            if (bytewise) {
                for (size_t at = 0; input[at]; at++)
                    say_n(&rig, fd, input + at, 1);
            } else {
                say(&rig, fd, input);
            }
            hear_close(&rig, fd);
            snprintf(want, sizeof(want), "HTTP/1.1 %s ", hostile[i].status);
            if (strncmp(rig.heard.data, want, strlen(want)) != 0)
                fail_msg("%s: wanted %s, got %s", input, want, rig.heard.data);
            assert_heard(&rig, "\r\nConnection: close\r\n");
            assert_heard(&rig, "{\"error\":{\"code\":\"");
            assert_int_equal(times(&rig, "\r\nDate: "), 1);
        }
    }
    assert_int_equal(rig.handled, 0);
    rig_down(&rig);
}

static void broken_chunks_are_refused(void **state)
{
    static const char *const bodies[] = {"x\r\n", "-1\r\n", "0x5\r\nhello\r\n", "\r\n",
            " 5\r\nhello", "5 \r\nhello\r\n", "5\nhello\r\n", "5\rXhello\r\n",
            "5\r\nhelloXX0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "fffffffffffffffff\r\n",
            "7fffffffffffffff\r\n", ";\r\n", "0\r\n\x01: x\r\n\r\n", "0\r\n\rX", "0\r\nA: b\rX",
            "1;\x01\r\n"};
    struct rig rig;

    (void)state;
    rig_up(&rig, NULL);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(bodies); i++) {
        int fd = dial(&rig);

        say(&rig, fd, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        say(&rig, fd, bodies[i]);
        hear_close(&rig, fd);
        if (strncmp(rig.heard.data, "HTTP/1.1 400 ", 13) != 0 &&
                strncmp(rig.heard.data, "HTTP/1.1 413 ", 13) != 0)
            fail_msg("%s: %s", bodies[i], rig.heard.data);
    }
    assert_int_equal(rig.handled, 0);
    rig_down(&rig);
}

static void a_nul_in_a_head_is_refused(void **state)
{
    static const struct kz_str texts[] = {
            KZ_STR("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
            KZ_STR("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"),
            KZ_STR("GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n"),
            KZ_STR("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    };
    struct rig rig;

    (void)state;
    rig_up(&rig, NULL);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(texts); i++) {
        int fd = dial(&rig);

        say_n(&rig, fd, texts[i].ptr, texts[i].size);
        hear_close(&rig, fd);
        assert_heard(&rig, "HTTP/1.1 400 ");
    }
    rig_down(&rig);
}

static void floods_of_headers_are_431(void **state)
{
    struct rig rig;
    struct kz_buf text = {0};
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    kz_buf_cstr(&text, "GET / HTTP/1.1\r\nHost: a\r\nX: ");
    for (int i = 0; i < 20000; i++)
        kz_buf_char(&text, 'x');
    say_n(&rig, fd, text.data, text.size);
    hear_close(&rig, fd);
    assert_heard(&rig, "HTTP/1.1 431 ");

    kz_buf_clear(&text);
    kz_buf_cstr(&text, "GET / HTTP/1.1\r\nHost: a\r\n");
    for (int i = 0; i < 200; i++)
        kz_buf_printf(&text, "X%d: y\r\n", i);
    kz_buf_cstr(&text, "\r\n");
    fd = dial(&rig);
    say_n(&rig, fd, text.data, text.size);
    hear_close(&rig, fd);
    assert_heard(&rig, "HTTP/1.1 431 ");
    assert_int_equal(kz_http_server_counters(rig.server)->requests_too_large, 2);
    kz_buf_done(&text);
    rig_down(&rig);
}

static void a_refused_body_that_keeps_coming_does_not_eat_the_answer(void **state)
{
    struct rig rig;
    char junk[4096];
    int fd;

    (void)state;
    memset(junk, 'j', sizeof(junk));
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000000\r\n\r\n");
    for (int i = 0; i < 100; i++)
        say_n(&rig, fd, junk, sizeof(junk));
    hear_close(&rig, fd);
    assert_heard(&rig, "HTTP/1.1 413 ");
    rig_down(&rig);
}

static void a_request_refused_early_without_a_body_is_closed_in_order(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd,
            "GET /defer HTTP/1.1\r\nHost: x\r\n\r\nGET /locked HTTP/1.1\r\nHost: x\r\n\r\n"
            "GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.deferred_count == 1);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("one"), NULL, 0);
    hear_close(&rig, fd);
    assert_heard(&rig, "oneHTTP/1.1 403 ");
    assert_int_equal(times(&rig, "HTTP/1.1 "), 2);
    assert_int_equal(rig.handled, 1);
    rig_down(&rig);
}

/* ---- limits ---- */

static void a_slow_sender_is_408_however_steadily_it_drips(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    uint64_t due = now_ms() + WAIT_MS;
    struct rig rig;
    int fd;

    (void)state;
    options.request_timeout_ms = 100;
    rig_up(&rig, &options);
    fd = dial(&rig);
    say(&rig, fd,
            "GET /query?q=ok HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\n"
            "Content-Length: 100000\r\n\r\n");
    while (kz_http_server_counters(rig.server)->request_timeouts == 0) {
        say(&rig, fd, "x");
        usleep(5000);
        assert_true(now_ms() < due);
    }
    hear_close(&rig, fd);
    assert_heard(&rig, "\r\n\r\nokHTTP/1.1 408 ");
    assert_int_equal(rig.handled, 1);
    rig_down(&rig);
}

static void steady_pipelining_is_not_taken_for_a_slow_sender(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    struct rig rig;
    uint64_t until;
    size_t count = 0;
    int fd;

    (void)state;
    options.request_timeout_ms = 200;
    rig_up(&rig, &options);
    fd = dial(&rig);
    /* Whenever the server looks, the next request is there in part. */
    say(&rig, fd, "GET /echo HTTP/1.1\r\nHost: x\r\n");
    until = now_ms() + 700;
    while (now_ms() < until) {
        say(&rig, fd, "\r\nGET /echo HTTP/1.1\r\nHost: x\r\n");
        count++;
        usleep(5000);
    }
    say(&rig, fd, "\r\n");
    hear_times(&rig, fd, "HTTP/1.1 200", count + 1);
    assert_int_equal(kz_http_server_counters(rig.server)->request_timeouts, 0);
    close(fd);
    rig_down(&rig);
}

static void idle_connections_are_closed(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    struct rig rig;
    int fds[2];

    (void)state;
    options.idle_timeout_ms = 100;
    rig_up(&rig, &options);
    fds[0] = dial(&rig);
    fds[1] = dial(&rig);
    say(&rig, fds[1], "GET /query?q=a HTTP/1.1\r\nHost: x\r\n\r\n");
    hear_close(&rig, fds[0]);
    assert_int_equal(rig.heard.size, 0);
    hear_close(&rig, fds[1]);
    assert_int_equal(kz_http_server_counters(rig.server)->idle_timeouts, 2);
    rig_down(&rig);
}

static void connections_over_the_limit_are_told_to_come_back(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    struct rig rig;
    int fds[3];

    (void)state;
    options.connections_max = 2;
    rig_up(&rig, &options);
    for (int i = 0; i < 3; i++) {
        fds[i] = dial(&rig);
        TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->connections_total == (uint64_t)i + 1);
    }
    say(&rig, fds[2], "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    hear_close(&rig, fds[2]);
    assert_heard(&rig, "HTTP/1.1 503 ");
    assert_heard(&rig, "Retry-After: 1\r\n");
    say(&rig, fds[0], "GET /query?q=fine HTTP/1.1\r\nHost: x\r\n\r\n");
    hear_times(&rig, fds[0], "fine", 1);
    close(fds[1]);
    TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->connections_open == 1);
    fds[1] = dial(&rig);
    say(&rig, fds[1], "GET /query?q=again HTTP/1.1\r\nHost: x\r\n\r\n");
    hear_times(&rig, fds[1], "again", 1);
    assert_int_equal(kz_http_server_counters(rig.server)->connections_refused, 1);
    close(fds[0]);
    close(fds[1]);
    rig_down(&rig);
}

static void too_many_bytes_in_flight_are_refused_and_room_returns(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    char body[3000];
    struct rig rig;
    int fds[4];

    (void)state;
    memset(body, 'b', sizeof(body));
    options.buffered_max_bytes = 3 * 4096;
    rig_up(&rig, &options);
    for (int i = 0; i < 4; i++) {
        fds[i] = dial(&rig);
        say(&rig, fds[i], "POST /defer HTTP/1.1\r\nHost: x\r\nContent-Length: 3000\r\n\r\n");
        say_n(&rig, fds[i], body, sizeof(body));
    }
    hear_close(&rig, fds[3]);
    assert_heard(&rig, "HTTP/1.1 503 ");
    assert_int_equal(rig.deferred_count, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(rig.deferred[i]->body.size, 3000);
        kz_http_respond(rig.deferred[i], 200, NULL, KZ_STR("done"), NULL, 0);
        hear_times(&rig, fds[i], "done", 1);
        close(fds[i]);
    }
    assert_int_equal(kz_http_server_counters(rig.server)->requests_refused, 1);
    rig_down(&rig);
}

static void large_bodies_arrive_whole(void **state)
{
    struct rig rig;
    size_t size = 5 << 20;
    char *body = kz_malloc(size), head[128];
    int fd;

    (void)state;
    for (size_t i = 0; i < size; i++)
        body[i] = (char)('a' + i * 7 % 26);
    rig_up(&rig, NULL);
    fd = dial(&rig);
    snprintf(head, sizeof(head), "POST /defer HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
            size);
    for (int round = 0; round < 2; round++) {
        say(&rig, fd, head);
        say_n(&rig, fd, body, size);
        TURN_UNTIL(&rig, rig.deferred_count == 1);
        assert_int_equal(rig.deferred[0]->body.size, size);
        assert_memory_equal(rig.deferred[0]->body.ptr, body, size);
        rig.deferred_count = 0;
        kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("whole"), NULL, 0);
        hear_times(&rig, fd, "whole", 1);
    }
    close(fd);
    free(body);
    rig_down(&rig);
}

static void a_reader_that_stops_is_cut(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    struct rig rig;
    int fd;

    (void)state;
    options.write_timeout_ms = 100;
    rig_up(&rig, &options);
    fd = dial(&rig);
    say(&rig, fd, "GET /big HTTP/1.1\r\nHost: x\r\n\r\nGET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    /* Only the first is begun: the second waits for its output to leave. */
    TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->write_timeouts == 1);
    assert_int_equal(rig.handled, 1);
    TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->connections_open == 0);
    close(fd);
    rig_down(&rig);
}

static void a_large_answer_reaches_a_patient_reader(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd,
            "GET /big HTTP/1.1\r\nHost: x\r\n\r\nGET /query?q=END HTTP/1.1\r\nHost: x\r\n"
            "Connection: close\r\n\r\n");
    hear_close(&rig, fd);
    assert_heard(&rig, "Content-Length: 8388608\r\n");
    assert_true(rig.heard.size > 8388608);
    assert_string_equal(rig.heard.data + rig.heard.size - 3, "END");
    rig_down(&rig);
}

/* ---- clients that leave ---- */

static void a_deferred_answer_to_a_client_that_left_is_dropped(void **state)
{
    struct rig rig;
    struct linger reset = {1, 0};
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd,
            "POST /defer HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbodyGET /defer "
            "HTTP/1.1\r\n"
            "Host: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.deferred_count == 2);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(fd);
    TURN_UNTIL(&rig, rig.gone == 2);
    TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->connections_open == 0);
    assert_true(kz_http_request_gone(rig.deferred[0]));
    assert_true(kz_str_is(rig.deferred[0]->body, "body"));
    assert_true(kz_str_is(kz_http_request_header(rig.deferred[0], "HOST"), "x"));
    assert_int_equal(kz_http_server_counters(rig.server)->requests_open, 2);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("late"), NULL, 0);
    /* A stream that begins too late ends at once. */
    rig.stream = rig.deferred[1];
    kz_http_stream_begin(rig.deferred[1], 200, "text/event-stream", NULL, 0, on_stream_close, &rig);
    assert_int_equal(kz_http_stream_write(rig.deferred[1], KZ_STR("x")), KZ_UNAVAILABLE);
    assert_int_equal(rig.stream_closed, 0);
    TURN_UNTIL(&rig, rig.stream_closed == 1);
    rig_down(&rig);
}

static void a_client_that_has_sent_all_and_shut_its_side_is_answered(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /defer HTTP/1.1\r\nHost: x\r\n\r\nGET /half HTTP/1.1\r\n");
    shutdown(fd, SHUT_WR);
    TURN_UNTIL(&rig, rig.gone == 1);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("still here"), NULL, 0);
    hear_close(&rig, fd);
    assert_heard(&rig, "still here");
    assert_int_equal(times(&rig, "HTTP/1.1"), 1);
    rig_down(&rig);
}

/* ---- streams ---- */

static void a_stream_flows_and_ends(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\nGET /never HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.stream);
    assert_int_equal(kz_http_stream_write(rig.stream, KZ_STR("data: 1\n\n")), KZ_OK);
    hear_times(&rig, fd, "data: 1\n\n", 1);
    assert_heard(&rig, "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n");
    assert_int_equal(kz_http_stream_write(rig.stream, KZ_STR("data: 2\n\n")), KZ_OK);
    kz_http_stream_end(rig.stream);
    hear_close(&rig, fd);
    assert_string_equal(rig.heard.data, "9\r\ndata: 2\n\n\r\n0\r\n\r\n");
    assert_int_equal(rig.stream_closed, 0);
    rig_down(&rig);
}

static void a_stream_waits_for_the_answers_before_it(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /defer HTTP/1.1\r\nHost: x\r\n\r\nGET /stream HTTP/1.0\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.stream);
    assert_int_equal(kz_http_stream_write(rig.stream, KZ_STR("data: 1\n\n")), KZ_OK);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("one"), NULL, 0);
    kz_http_stream_end(rig.stream);
    hear_close(&rig, fd);
    assert_heard(&rig, "oneHTTP/1.1 200 OK\r\n");
    assert_not_heard(&rig, "chunked"); /* HTTP/1.0 does not know it */
    assert_heard(&rig, "\r\n\r\ndata: 1\n\n");
    rig_down(&rig);
}

static void a_stream_hears_of_its_clients_end(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.stream);
    close(fd);
    TURN_UNTIL(&rig, rig.stream_closed == 1);
    assert_int_equal(kz_http_server_counters(rig.server)->streams_open, 0);
    rig_down(&rig);
}

static void a_stream_whose_reader_is_slow_is_cut(void **state)
{
    static char block[65536];
    struct rig rig;
    enum kz_code rc = KZ_OK;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.stream);
    for (int i = 0; i < 1000 && rc == KZ_OK; i++) {
        rc = kz_http_stream_write(rig.stream, kz_str_n(block, sizeof(block)));
        assert_true(kz_http_stream_queued(rig.stream) <= (1 << 20) + 4096);
        if (rc == KZ_OK)
            turn(&rig);
    }
    assert_int_equal(rc, KZ_LIMIT);
    assert_int_equal(kz_http_stream_write(rig.stream, KZ_STR("x")), KZ_UNAVAILABLE);
    assert_int_equal(rig.stream_closed, 0);
    TURN_UNTIL(&rig, rig.stream_closed == 1);
    assert_int_equal(kz_http_server_counters(rig.server)->streams_cut, 1);
    close(fd);
    rig_down(&rig);
}

/* ---- stopping ---- */

static void a_stop_finishes_what_is_in_flight(void **state)
{
    struct rig rig;
    int idle, busy, half, streaming;

    (void)state;
    rig_up(&rig, NULL);
    idle = dial(&rig);
    busy = dial(&rig);
    half = dial(&rig);
    streaming = dial(&rig);
    say(&rig, streaming, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    say(&rig, busy, "GET /defer HTTP/1.1\r\nHost: x\r\n\r\n");
    say(&rig, half, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n12");
    TURN_UNTIL(&rig, rig.stream && rig.deferred_count == 1);
    kz_http_server_stop(rig.server, 10000, on_drained, &rig);
    hear_close(&rig, idle);
    assert_int_equal(rig.heard.size, 0);
    hear_close(&rig, streaming);
    assert_int_equal(rig.stream_closed, 1);
    say(&rig, half, "34");
    hear_close(&rig, half);
    assert_heard(&rig, "Connection: close\r\n");
    assert_heard(&rig, "\r\n\r\n1234");
    assert_int_equal(rig.drained, 0);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("bye"), NULL, 0);
    hear_close(&rig, busy);
    assert_heard(&rig, "\r\n\r\nbye");
    TURN_UNTIL(&rig, rig.drained == 1);
    assert_int_equal(rig.unanswered, 0);
    rig_down(&rig);
}

static void a_stop_has_a_deadline(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /defer HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.deferred_count == 1);
    kz_http_server_stop(rig.server, 50, on_drained, &rig);
    TURN_UNTIL(&rig, rig.drained == 1);
    assert_int_equal(rig.unanswered, 1);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("late"), NULL, 0);
    close(fd);
    rig_down(&rig);
}

static void a_second_stop_changes_nothing(void **state)
{
    struct rig rig;

    (void)state;
    rig_up(&rig, NULL);
    kz_http_server_stop(rig.server, 50, on_drained, &rig);
    kz_http_server_stop(rig.server, 50, on_drained, &rig);
    TURN_UNTIL(&rig, rig.drained == 1);
    rig_down(&rig);
}

/* ---- addresses ---- */

static void addresses_are_read_strictly(void **state)
{
    static const char *const bad[] = {"", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x",
            "127.0.0.1:65536", "example.org:80", "[::1:80", "::1:80", "127.0.0.1:-1", "unix:"};
    struct rig rig;
    struct kz_err err;
    char text[64];

    (void)state;
    rig_up(&rig, NULL);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(bad); i++)
        assert_int_equal(kz_http_server_listen(rig.server, bad[i], &err), KZ_INVALID);
    snprintf(text, sizeof(text), "localhost:%u", kz_http_server_port(rig.server));
    assert_int_equal(kz_http_server_listen(rig.server, text, &err), KZ_CONFLICT);
    assert_non_null(strstr(err.message, "address already in use"));
    assert_true(kz_http_address_is_loopback("localhost:1"));
    assert_true(kz_http_address_is_loopback("127.9.9.9:1"));
    assert_true(kz_http_address_is_loopback("[::1]:1"));
    assert_true(kz_http_address_is_loopback("unix:/x"));
    assert_false(kz_http_address_is_loopback(":80"));
    assert_false(kz_http_address_is_loopback("0.0.0.0:80"));
    assert_false(kz_http_address_is_loopback("[::]:80"));
    assert_string_equal(kz_http_status_text(507), "Insufficient Storage");
    rig_down(&rig);
}

static void escapes_are_decoded_strictly(void **state)
{
    struct kz_arena arena;
    struct kz_str out;

    (void)state;
    kz_arena_init(&arena, 4096);
    assert_true(kz_http_unescape(&arena, KZ_STR("a%2Fb%c3%a9+"), false, &out));
    assert_true(kz_str_is(out, "a/b\xc3\xa9+"));
    assert_false(kz_http_unescape(&arena, KZ_STR("a%2"), false, &out));
    assert_false(kz_http_unescape(&arena, KZ_STR("a%zz"), false, &out));
    assert_false(kz_http_unescape(&arena, KZ_STR("a%00"), false, &out));
    kz_arena_done(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_body_comes_back_and_the_connection_stays),
            cmocka_unit_test(chunked_bodies_are_decoded_however_they_are_split),
            cmocka_unit_test(head_has_a_length_and_no_body),
            cmocka_unit_test(http_1_0_closes_unless_asked_to_stay),
            cmocka_unit_test(a_client_that_expects_100_gets_it),
            cmocka_unit_test(answers_leave_in_the_order_of_the_requests),
            cmocka_unit_test(pipelining_is_bounded_and_goes_on),
            cmocka_unit_test(an_error_has_the_shape_of_errors),
            cmocka_unit_test(hostile_heads_are_refused_and_the_connection_closed),
            cmocka_unit_test(broken_chunks_are_refused),
            cmocka_unit_test(a_nul_in_a_head_is_refused),
            cmocka_unit_test(floods_of_headers_are_431),
            cmocka_unit_test(a_refused_body_that_keeps_coming_does_not_eat_the_answer),
            cmocka_unit_test(a_request_refused_early_without_a_body_is_closed_in_order),
            cmocka_unit_test(a_slow_sender_is_408_however_steadily_it_drips),
            cmocka_unit_test(steady_pipelining_is_not_taken_for_a_slow_sender),
            cmocka_unit_test(idle_connections_are_closed),
            cmocka_unit_test(connections_over_the_limit_are_told_to_come_back),
            cmocka_unit_test(too_many_bytes_in_flight_are_refused_and_room_returns),
            cmocka_unit_test(large_bodies_arrive_whole),
            cmocka_unit_test(a_reader_that_stops_is_cut),
            cmocka_unit_test(a_large_answer_reaches_a_patient_reader),
            cmocka_unit_test(a_deferred_answer_to_a_client_that_left_is_dropped),
            cmocka_unit_test(a_client_that_has_sent_all_and_shut_its_side_is_answered),
            cmocka_unit_test(a_stream_flows_and_ends),
            cmocka_unit_test(a_stream_waits_for_the_answers_before_it),
            cmocka_unit_test(a_stream_hears_of_its_clients_end),
            cmocka_unit_test(a_stream_whose_reader_is_slow_is_cut),
            cmocka_unit_test(a_stop_finishes_what_is_in_flight),
            cmocka_unit_test(a_stop_has_a_deadline),
            cmocka_unit_test(a_second_stop_changes_nothing),
            cmocka_unit_test(addresses_are_read_strictly),
            cmocka_unit_test(escapes_are_decoded_strictly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
