#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sys/http.h"
#include "sys/http_client.h"

enum { WAIT_MS = 60000 }; /* for what has to happen: a busy machine takes its time */

/* The client blocks, so the server has a thread of its own. */
struct rig {
    uv_loop_t loop;
    uv_async_t stop;
    uv_timer_t timer;
    struct kz_http_server *server;
    struct kz_http_request *stream, *slow[2];
    int slow_count;
    int lines;
    atomic_bool quiet;           /* the timer says nothing */
    atomic_uint_fast64_t idlers; /* connections closed while idle, as of the last tick */
    size_t unanswered;
    pthread_t thread;
    char url[64];
};

static void on_stream_close(void *arg, struct kz_http_request *req)
{
    (void)req;
    ((struct rig *)arg)->stream = NULL;
}

static void on_timer(uv_timer_t *timer)
{
    struct rig *rig = timer->data;
    char text[64];

    atomic_store(&rig->idlers, kz_http_server_counters(rig->server)->idle_timeouts);
    if (atomic_load(&rig->quiet))
        return;
    while (rig->slow_count > 0)
        kz_http_respond(rig->slow[--rig->slow_count], 200, NULL, KZ_STR("slow"), NULL, 0);
    if (!rig->stream)
        return;
    snprintf(text, sizeof(text), "data: %d\r\n\nda", rig->lines++);
    if (kz_http_stream_write(rig->stream, kz_str(text)) == KZ_OK && rig->lines == 3)
        kz_http_stream_end(kz_take(&rig->stream));
}

static void handle(void *arg, struct kz_http_request *req)
{
    struct rig *rig = arg;
    struct kz_http_header header = {KZ_STR("X-Seen"), kz_http_request_header(req, "x-sent")};

    if (kz_str_is(req->path, "/p/stream")) {
        rig->stream = req;
        rig->lines = 0;
        kz_http_stream_begin(req, 200, "text/event-stream", NULL, 0, on_stream_close, rig);
    } else if (kz_str_is(req->path, "/p/slow")) {
        rig->slow[rig->slow_count++] = req;
    } else if (kz_str_is(req->path, "/p/none")) {
        kz_http_respond(req, 204, NULL, KZ_STR_NULL, NULL, 0);
    } else {
        kz_http_respond(req, 201, "text/plain", req->body, &header, 1);
    }
}

static void on_drained(void *arg, size_t unanswered)
{
    struct rig *rig = arg;

    rig->unanswered = unanswered;
    uv_close((uv_handle_t *)&rig->stop, NULL);
    uv_close((uv_handle_t *)&rig->timer, NULL);
}

static void on_stop(uv_async_t *async)
{
    struct rig *rig = async->data;

    kz_http_server_stop(rig->server, 1000, on_drained, rig);
}

static void *run(void *arg)
{
    uv_run(&((struct rig *)arg)->loop, UV_RUN_DEFAULT);
    return NULL;
}

static void rig_up(struct rig *rig, const char *address, const struct kz_http_options *options)
{
    struct kz_http_handler handler = {.handle = handle, .arg = rig};
    struct kz_err err;

    memset(rig, 0, sizeof(*rig));
    uv_loop_init(&rig->loop);
    uv_async_init(&rig->loop, &rig->stop, on_stop);
    uv_timer_init(&rig->loop, &rig->timer);
    rig->stop.data = rig->timer.data = rig;
    uv_timer_start(&rig->timer, on_timer, 50, 50);
    rig->server = kz_http_server_new(&rig->loop, options, &handler);
    if (kz_http_server_listen(rig->server, address, &err) != KZ_OK)
        fail_msg("%s", err.message);
    if (strncmp(address, "unix:", 5) == 0)
        snprintf(rig->url, sizeof(rig->url), "%s", address);
    else
        snprintf(rig->url, sizeof(rig->url), "http://localhost:%u/p/",
                kz_http_server_port(rig->server));
    assert_int_equal(pthread_create(&rig->thread, NULL, run, rig), 0);
}

static void rig_down(struct rig *rig)
{
    uv_async_send(&rig->stop);
    pthread_join(rig->thread, NULL);
    assert_int_equal(rig->unanswered, 0);
    kz_http_server_free(rig->server);
    assert_int_equal(uv_loop_close(&rig->loop), 0);
}

static struct kz_http_client *client_of(const char *url)
{
    struct kz_http_client *client = NULL;
    struct kz_err err;

    if (kz_http_client_new(url, &client, &err) != KZ_OK)
        fail_msg("%s", err.message);
    return client;
}

static void requests_share_a_connection(void **state)
{
    struct kz_http_client_header header = {KZ_STR("X-Sent"), KZ_STR("abc")};
    struct kz_http_answer answer = {0};
    struct kz_http_client *client;
    struct kz_err err;
    struct rig rig;
    size_t size = 3 << 20;
    char *big = kz_calloc(1, size);

    (void)state;
    memset(big, 'z', size);
    rig_up(&rig, "127.0.0.1:0", NULL);
    client = client_of(rig.url);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kz_http_client_request(client, "POST", "/echo", &header, 1,
                                 KZ_STR("hello"), WAIT_MS, &answer, &err),
                KZ_OK);
        assert_int_equal(answer.status, 201);
        assert_true(kz_str_is(answer.body, "hello"));
        assert_true(kz_str_is(kz_http_client_header(client, "x-seen"), "abc"));
        assert_null(kz_http_client_header(client, "x-absent").ptr);
    }
    assert_int_equal(kz_http_client_request(client, "PUT", "/echo", NULL, 0, kz_str_n(big, size),
                             WAIT_MS, &answer, &err),
            KZ_OK);
    assert_int_equal(answer.body.size, size);
    assert_memory_equal(answer.body.ptr, big, size);
    assert_int_equal(kz_http_client_request(
                             client, "HEAD", "/echo", NULL, 0, KZ_STR_NULL, WAIT_MS, &answer, &err),
            KZ_OK);
    assert_int_equal(kz_http_client_request(client, "DELETE", "/none", NULL, 0, KZ_STR_NULL,
                             WAIT_MS, &answer, &err),
            KZ_OK);
    assert_int_equal(answer.status, 204);
    kz_http_client_set_answer_max(client, 1000);
    assert_int_equal(kz_http_client_request(client, "POST", "/echo", NULL, 0, kz_str_n(big, 1001),
                             WAIT_MS, &answer, &err),
            KZ_TOO_LARGE);
    kz_http_client_free(client);
    rig_down(&rig);
    assert_int_equal(rig.lines, 0);
    free(big);
}

static void a_connection_closed_while_idle_is_opened_again(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    struct kz_http_answer answer = {0};
    struct kz_http_client *client;
    struct kz_err err;
    struct rig rig;

    (void)state;
    options.idle_timeout_ms = 40;
    rig_up(&rig, "127.0.0.1:0", &options);
    client = client_of(rig.url);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kz_http_client_request(client, "POST", "/echo", NULL, 0, KZ_STR("x"),
                                 WAIT_MS, &answer, &err),
                KZ_OK);
        for (int ms = 0; atomic_load(&rig.idlers) <= (uint64_t)i; ms++) {
            assert_true(ms < WAIT_MS);
            usleep(1000);
        }
    }
    kz_http_client_free(client);
    rig_down(&rig);
}

static void an_answer_that_does_not_come_times_out(void **state)
{
    struct kz_http_answer answer = {0};
    struct kz_http_client *client;
    struct kz_err err;
    struct rig rig;

    (void)state;
    rig_up(&rig, "127.0.0.1:0", NULL);
    client = client_of(rig.url);
    atomic_store(&rig.quiet, true);
    assert_int_equal(
            kz_http_client_request(client, "GET", "/slow", NULL, 0, KZ_STR_NULL, 1, &answer, &err),
            KZ_TIMEOUT);
    atomic_store(&rig.quiet, false);
    assert_int_equal(kz_http_client_request(
                             client, "GET", "/slow", NULL, 0, KZ_STR_NULL, WAIT_MS, &answer, &err),
            KZ_OK);
    assert_true(kz_str_is(answer.body, "slow"));
    kz_http_client_free(client);
    rig_down(&rig);
}

static void a_stream_is_read_line_by_line(void **state)
{
    static const char *const lines[] = {"data: 0", "", "dadata: 1", "", "dadata: 2", "", "da"};
    struct kz_http_answer answer = {0};
    struct kz_http_client *client;
    struct kz_str line;
    struct kz_err err;
    struct rig rig;
    int status = 0;

    (void)state;
    rig_up(&rig, "127.0.0.1:0", NULL);
    client = client_of(rig.url);
    atomic_store(&rig.quiet, true);
    assert_int_equal(
            kz_http_client_stream(client, "/stream", NULL, 0, WAIT_MS, &status, &err), KZ_OK);
    assert_int_equal(status, 200);
    assert_int_equal(kz_http_client_read_line(client, 0, &line, &err), KZ_TIMEOUT);
    atomic_store(&rig.quiet, false);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(lines); i++) {
        assert_int_equal(kz_http_client_read_line(client, WAIT_MS, &line, &err), KZ_OK);
        assert_int_equal(line.size, strlen(lines[i]));
        assert_memory_equal(line.ptr, lines[i], line.size);
    }
    assert_int_equal(kz_http_client_read_line(client, WAIT_MS, &line, &err), KZ_END);
    assert_int_equal(
            kz_http_client_stream(client, "/stream", NULL, 0, WAIT_MS, &status, &err), KZ_OK);
    /* Given up in the middle for another request. */
    assert_int_equal(kz_http_client_request(
                             client, "POST", "/echo", NULL, 0, KZ_STR("x"), WAIT_MS, &answer, &err),
            KZ_OK);
    assert_true(kz_str_is(answer.body, "x"));
    kz_http_client_free(client);
    rig_down(&rig);
}

static void a_unix_socket_serves_too(void **state)
{
    struct kz_http_answer answer = {0};
    struct kz_http_client *client;
    char dir[] = "/tmp/kz_http_XXXXXX", address[64];
    struct kz_err err;
    struct rig rig;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(address, sizeof(address), "unix:%s/s", dir);
    for (int i = 0; i < 2; i++) {
        rig_up(&rig, address, NULL);
        client = client_of(rig.url);
        assert_int_equal(kz_http_client_request(client, "POST", "/echo", NULL, 0, KZ_STR("x"),
                                 WAIT_MS, &answer, &err),
                KZ_OK);
        assert_true(kz_str_is(answer.body, "x"));
        kz_http_client_free(client);
        rig_down(&rig);
        if (i == 0) {
            /* What a killed server leaves behind. */
            struct sockaddr_storage left = {.ss_family = AF_UNIX};
            int fd = socket(AF_UNIX, SOCK_STREAM, 0);

            strcpy((char *)&left + sizeof(left.ss_family), address + 5);
            assert_int_equal(bind(fd, (struct sockaddr *)&left, 110), 0);
            close(fd);
        }
    }
    (void)unlink(address + 5); /* the server may have removed it */
    assert_int_equal(rmdir(dir), 0);
}

static void a_refused_body_still_yields_the_answer(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    struct kz_http_answer answer = {0};
    struct kz_http_client *client;
    struct kz_err err;
    struct rig rig;
    size_t size = 4 << 20;
    char *big = kz_calloc(1, size);

    (void)state;
    options.body_max_bytes = 1000;
    rig_up(&rig, "127.0.0.1:0", &options);
    client = client_of(rig.url);
    assert_int_equal(kz_http_client_request(client, "POST", "/echo", NULL, 0, kz_str_n(big, size),
                             WAIT_MS, &answer, &err),
            KZ_OK);
    assert_int_equal(answer.status, 413);
    kz_http_client_free(client);
    rig_down(&rig);
    free(big);
}

/* A server that says one thing and closes. */
static void *say_and_close(void *arg)
{
    int *fd = arg;
    int peer = accept(*fd, NULL, NULL);
    static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    char request[4096];

    assert_true(recv(peer, request, sizeof(request), 0) > 0);
    assert_int_equal(send(peer, text, sizeof(text) - 1, 0), sizeof(text) - 1);
    close(peer);
    return NULL;
}

static void an_answer_cut_short_is_an_error(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    struct kz_http_answer answer = {0};
    struct kz_http_client *client;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct kz_err err;
    pthread_t thread;
    char url[64];

    (void)state;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    assert_int_equal(pthread_create(&thread, NULL, say_and_close, &fd), 0);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u", ntohs(address.sin_port));
    client = client_of(url);
    assert_int_equal(kz_http_client_request(
                             client, "GET", "/", NULL, 0, KZ_STR_NULL, WAIT_MS, &answer, &err),
            KZ_IO);
    pthread_join(thread, NULL);
    close(fd);
    assert_int_equal(kz_http_client_request(
                             client, "GET", "/", NULL, 0, KZ_STR_NULL, WAIT_MS, &answer, &err),
            KZ_UNAVAILABLE);
    kz_http_client_free(client);
}

static void urls_are_read_strictly(void **state)
{
    static const char *const bad[] = {"", "localhost:8080", "https://x/", "http://", "http://:80",
            "http://x:", "http://x:8a", "http://[::1", "http://x y/", "http://[::1]x"};
    struct kz_http_client *client = NULL;
    struct kz_err err;

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(bad); i++)
        assert_int_equal(kz_http_client_new(bad[i], &client, &err), KZ_INVALID);
    assert_null(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(requests_share_a_connection),
            cmocka_unit_test(a_connection_closed_while_idle_is_opened_again),
            cmocka_unit_test(an_answer_that_does_not_come_times_out),
            cmocka_unit_test(a_stream_is_read_line_by_line),
            cmocka_unit_test(a_unix_socket_serves_too),
            cmocka_unit_test(a_refused_body_still_yields_the_answer),
            cmocka_unit_test(an_answer_cut_short_is_an_error),
            cmocka_unit_test(urls_are_read_strictly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
