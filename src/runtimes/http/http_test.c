/* The runtime against a small server that misbehaves in one way at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtimes/http/http_int.h"

/* ---- the server: answers each request with the next of `answers` for infer, 200 for readiness ---- */

struct server {
    int fd;
    pthread_t thread;
    const char *ready;          /* the answer to readiness */
    const char *const *answers; /* for infer, the last one for ever; "" closes, NULL hangs */
    atomic_uint requests, connections;
    atomic_bool stop;
    unsigned drip_us; /* between two bytes of an answer */
    unsigned serves;  /* requests a connection, 0: as many as come */
};

static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

/* A whole request, or false at the end of the connection. */
static bool read_request(int fd, char *buf, size_t size)
{
    size_t used = 0;

    while (used + 1 < size) {
        ssize_t n = read(fd, buf + used, size - 1 - used);
        const char *end, *length;

        if (n <= 0)
            return false;
        used += (size_t)n;
        buf[used] = '\0';
        end = strstr(buf, "\r\n\r\n");
        length = strstr(buf, "Content-Length: ");
        if (end && used >= (size_t)(end + 4 - buf) + (length ? strtoul(length + 16, NULL, 10) : 0))
            return true;
    }
    return false;
}

static bool answer(struct server *s, int fd, const char *text)
{
    size_t size = strlen(text);

    if (!s->drip_us)
        return send(fd, text, size, MSG_NOSIGNAL) == (ssize_t)size;
    for (size_t i = 0; i < size && !atomic_load(&s->stop); i++) {
        if (send(fd, text + i, 1, MSG_NOSIGNAL) != 1)
            return false;
        usleep(s->drip_us);
    }
    return true;
}

static void serve(struct server *s, int fd)
{
    char request[16384];

    for (unsigned served = 0; !s->serves || served < s->serves; served++) {
        const char *text;
        unsigned number;

        if (!read_request(fd, request, sizeof(request)))
            break;
        if (strncmp(request, "GET ", 4) == 0) {
            if (!answer(s, fd, s->ready))
                break;
            continue;
        }
        number = atomic_fetch_add(&s->requests, 1);
        for (unsigned i = 0; i < number && s->answers[1]; i++)
            s->answers++;
        text = s->answers[0];
        if (!text[0] || strcmp(text, "hang") == 0) {
            while (text[0] && !atomic_load(&s->stop))
                usleep(1000);
            break;
        }
        if (!answer(s, fd, text) || strstr(text, "Connection: close"))
            break;
    }
    close(fd);
}

static void *run_server(void *arg)
{
    struct server *s = arg;

    for (;;) {
        int fd = accept(s->fd, NULL, NULL);

        if (fd < 0 || atomic_load(&s->stop)) {
            if (fd >= 0)
                close(fd);
            return NULL;
        }
        atomic_fetch_add(&s->connections, 1);
        serve(s, fd);
    }
}

/* For answers that come: a busy machine takes its time. */
enum { ANSWER_MS = 60000 };

/* ---- infer's part ----------------------------------------------------------------------------------- */

struct rig {
    struct server server;
    struct kz_model_def model;
    struct kz_project project;
    uv_loop_t loop;
    struct kz_replica *replica;
    char url[64];
    bool ready, lost, done, replica_lost;
    enum kz_code code;
    char fail_code[32], message[600];
    size_t row_count;
    double values[8];
    enum kz_row_state states[4];
    char row_code[16], json[100];
};

static void on_ready(void *arg, struct kz_replica *replica)
{
    struct rig *rig = arg;

    assert_ptr_equal(replica, rig->replica);
    rig->ready = true;
}

static void say(struct rig *rig, const char *code, struct kz_str message)
{
    snprintf(rig->fail_code, sizeof(rig->fail_code), "%s", code ? code : "");
    snprintf(rig->message, sizeof(rig->message), KZ_STR_FMT, KZ_STR_ARG(message));
}

static void on_lost(void *arg, struct kz_replica *replica, const char *code, struct kz_str message)
{
    struct rig *rig = arg;

    (void)replica;
    rig->lost = true;
    rig->replica = NULL;
    say(rig, code, message);
}

static void on_done(void *arg, struct kz_replica *replica, const struct kz_batch_outcome *outcome)
{
    struct rig *rig = arg;

    (void)replica;
    assert_false(rig->done); /* once */
    rig->done = true;
    rig->code = outcome->code;
    rig->replica_lost = outcome->replica_lost;
    if (outcome->replica_lost)
        rig->replica = NULL;
    say(rig, outcome->fail_code, outcome->message);
    rig->row_count = outcome->row_count;
    for (size_t i = 0; i < outcome->row_count; i++) {
        const struct kz_batch_row *row = &outcome->rows[i];

        rig->states[i] = row->state;
        if (row->state == KZ_ROW_FAILED)
            snprintf(rig->row_code, sizeof(rig->row_code), "%s", row->fail_code);
        else if (row->json.size)
            snprintf(rig->json, sizeof(rig->json), KZ_STR_FMT, KZ_STR_ARG(row->json));
        else
            rig->values[i] = row->values[row->value_count - 1];
    }
}

static const struct kz_replica_events events = {on_ready, on_lost, on_done, NULL};

static void rig_open(struct rig *rig, const char *const *answers)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(address);

    rig->server.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(rig->server.fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(rig->server.fd, 16), 0);
    assert_int_equal(getsockname(rig->server.fd, (struct sockaddr *)&address, &size), 0);
    snprintf(rig->url, sizeof(rig->url), "http://127.0.0.1:%d/pre/", ntohs(address.sin_port));
    if (!rig->server.ready)
        rig->server.ready = ok;
    rig->server.answers = answers;
    rig->model.name = "m";
    rig->model.url = rig->url;
    rig->model.config_json = "{}";
    rig->project.name = "p";
    assert_int_equal(uv_loop_init(&rig->loop), 0);
    assert_int_equal(pthread_create(&rig->server.thread, NULL, run_server, &rig->server), 0);
}

static void rig_start(struct rig *rig)
{
    struct kz_replica_start start = {.model = &rig->model,
            .project = &rig->project,
            .loop = &rig->loop,
            .version = "abc",
            .events = &events,
            .arg = rig};
    struct kz_err err;

    assert_int_equal(kz_runtime_http.start(&start, &rig->replica, &err), KZ_OK);
    while (!rig->ready && !rig->lost)
        uv_run(&rig->loop, UV_RUN_ONCE);
}

static void rig_ask(struct rig *rig, int64_t timeout_ms)
{
    static const char *const names[] = {"a"};
    const double numeric[] = {1, (double)NAN};
    const struct kz_str ids[] = {KZ_STR("ann"), KZ_STR("bo")};
    const int64_t now[] = {1, 2};
    const bool truncated[] = {false, true};
    struct kz_batch batch = {.row_count = 2,
            .numeric_count = 1,
            .numeric_names = names,
            .numeric = numeric,
            .user_ids = ids,
            .event_ids = ids,
            .now_ms = now,
            .truncated = truncated};
    struct kz_err err;

    rig->done = false;
    assert_int_equal(kz_runtime_http.predict(rig->replica, &batch, timeout_ms, &err), KZ_OK);
    assert_false(rig->done);
    while (!rig->done)
        uv_run(&rig->loop, UV_RUN_ONCE);
}

/* The loop ends by itself: nothing was left open. */
static void rig_close(struct rig *rig)
{
    if (rig->replica)
        kz_runtime_http.stop(rig->replica);
    assert_int_equal(uv_run(&rig->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&rig->loop), 0);
    atomic_store(&rig->server.stop, true);
    shutdown(rig->server.fd, SHUT_RDWR);
    pthread_join(rig->server.thread, NULL);
    close(rig->server.fd);
}

/* A whole life: ready, one batch, the end. */
static void one_batch(struct rig *rig, const char *text, int64_t timeout_ms)
{
    const char *answers[] = {text, NULL};

    rig_open(rig, answers);
    rig_start(rig);
    assert_true(rig->ready);
    rig_ask(rig, timeout_ms);
    rig_close(rig);
}

static void expect_failure(
        const char *text, int64_t timeout_ms, const char *code, bool lost, const char *words)
{
    struct rig rig = {0};

    one_batch(&rig, text, timeout_ms);
    assert_int_not_equal(rig.code, KZ_OK);
    assert_string_equal(rig.fail_code, code);
    assert_int_equal(rig.replica_lost, lost);
    if (!strstr(rig.message, words))
        fail_msg("\"%s\" is not in \"%s\"", words, rig.message);
}

/* ---- tests -------------------------------------------------------------------------------------------- */

#define HEAD "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
#define GOOD                                                                                       \
    HEAD "{\"outputs\":[{\"name\":\"p\",\"datatype\":\"FP64\",\"shape\":[2],\"data\":[0.25,1]}]}"

static void test_good_answers(void **state)
{
    static const char *const texts[] = {GOOD, "HTTP/1.1 103 Early Hints\r\n\r\n" GOOD,
            HEAD
            "{\"outputs\":[{\"name\":\"p\",\"datatype\":\"INT64\",\"shape\":[2,1],\"data\":[[0],[1]]}]}",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            "b\r\n{\"outputs\":\r\n"
            "48\r\n[{\"name\":\"p\",\"datatype\":\"BOOL\",\"shape\":[2],\"data\":[false,true]}       ]}\r\n"
            "0\r\n\r\n"};

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(texts); i++) {
        struct rig rig = {0};

        one_batch(&rig, texts[i], ANSWER_MS);
        if (rig.code != KZ_OK)
            fail_msg("answer %zu: %s", i, rig.message);
        assert_int_equal(rig.row_count, 2);
        assert_true(rig.values[1] == 1);
    }
}

static void test_dicts(void **state)
{
    struct rig rig = {0};

    (void)state;
    one_batch(&rig,
            HEAD "{\"outputs\":[{\"name\":\"p\",\"datatype\":\"BYTES\",\"shape\":[2],"
                 "\"data\":[\"{\\\"score\\\":0.5}\",\"[]\"]}]}",
            ANSWER_MS);
    assert_int_equal(rig.code, KZ_OK);
    assert_string_equal(rig.json, "{\"score\":0.5}");
    assert_int_equal(rig.states[1], KZ_ROW_FAILED);
    assert_string_equal(rig.row_code, "shape");
}

static void test_nan_costs_its_row(void **state)
{
    static const char *const words[] = {"NaN", "null", "-Infinity", "1e999"};

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(words); i++) {
        struct rig rig = {0};
        char text[300];

        snprintf(text, sizeof(text),
                HEAD "{\"outputs\":[{\"name\":\"NaN\",\"datatype\":\"FP64\",\"shape\":[2],"
                     "\"data\":[0.5,%s]}]}",
                words[i]);
        one_batch(&rig, text, ANSWER_MS);
        assert_int_equal(rig.code, KZ_OK);
        assert_int_equal(rig.states[0], KZ_ROW_OK);
        assert_int_equal(rig.states[1], KZ_ROW_FAILED);
        assert_string_equal(rig.row_code, "nan");
    }
}

static void test_wrong_shapes(void **state)
{
    static const char *const outputs[] = {
            "\"datatype\":\"FP64\",\"shape\":[3],\"data\":[1,2,3]",
            "\"datatype\":\"FP64\",\"shape\":[2],\"data\":[1]",
            "\"datatype\":\"FP64\",\"shape\":[2],\"data\":[1,2,3]",
            "\"datatype\":\"FP64\",\"shape\":[2,2],\"data\":[[1,2,3],[4]]",
            "\"datatype\":\"FP64\",\"shape\":[2,2],\"data\":[[1,2],3,4]",
            "\"datatype\":\"FP64\",\"shape\":[2,9000],\"data\":[]",
            "\"datatype\":\"FP64\",\"shape\":[2,-1],\"data\":[]",
            "\"datatype\":\"FP64\",\"shape\":[2,99999999999999999999],\"data\":[]",
            "\"datatype\":\"FP64\",\"shape\":[2,1,1],\"data\":[1,2]",
            "\"datatype\":\"FP64\",\"shape\":[2],\"data\":[1,\"x\"]",
            "\"datatype\":\"FP64\",\"shape\":[2]",
            "\"datatype\":\"FP64\",\"data\":[1,2]",
    };

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(outputs); i++) {
        char text[300];

        snprintf(text, sizeof(text), HEAD "{\"outputs\":[{\"name\":\"p\",%s}]}", outputs[i]);
        expect_failure(text, ANSWER_MS, "shape", false, "");
    }
}

static void test_refusals(void **state)
{
    (void)state;
    expect_failure("HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n{\"error\":\"who are you\"}",
            ANSWER_MS, "exception", false, "500 (Internal Server Error): who are you");
    expect_failure("HTTP/1.1 422 No\r\nContent-Length: 5\r\n\r\nplain", ANSWER_MS, "exception",
            false, "422 (Unprocessable Entity): plain");
    expect_failure(
            "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", ANSWER_MS, "crash", true, "503");
    expect_failure("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", ANSWER_MS,
            "protocol", true, "302");
}

static void test_no_http_and_no_answer(void **state)
{
    (void)state;
    expect_failure("SSH-2.0-OpenSSH\r\n\r\n", ANSWER_MS, "protocol", true, "");
    expect_failure(HEAD "{\"outputs\":[", ANSWER_MS, "protocol", true, "not JSON");
    expect_failure(HEAD "[]", ANSWER_MS, "protocol", true, "outputs");
    expect_failure(HEAD "{\"outputs\":[]}", ANSWER_MS, "protocol", true, "no output");
    expect_failure(HEAD "{\"outputs\":[{\"datatype\":\"STRING\"}]}", ANSWER_MS, "protocol", true,
            "datatype");
    expect_failure("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{", ANSWER_MS, "protocol",
            true, "");
    expect_failure("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            ANSWER_MS, "protocol", true, "");
    expect_failure("hang", 50, "timeout", true, "within 50 ms");
}

static void test_closed_within_its_answer(void **state)
{
    struct rig rig = {.server.serves = 3}; /* two for readiness */

    (void)state;
    one_batch(&rig, "HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{\"outp", ANSWER_MS);
    assert_string_equal(rig.fail_code, "crash");
    assert_true(rig.replica_lost);
    assert_non_null(strstr(rig.message, "within its answer"));
}

/* H4: on the kept connection once more, on a new one it is over. */
static void test_closed_without_an_answer(void **state)
{
    struct rig rig = {0};

    (void)state;
    one_batch(&rig, "", ANSWER_MS);
    assert_string_equal(rig.fail_code, "crash");
    assert_true(rig.replica_lost);
    assert_int_equal(atomic_load(&rig.server.requests), 2);
    assert_int_equal(atomic_load(&rig.server.connections), 2);
}

static void test_slow_drip_is_a_timeout(void **state)
{
    const char *answers[] = {GOOD, NULL};
    struct rig rig = {0};

    (void)state;
    rig_open(&rig, answers);
    rig_start(&rig);
    rig.server.drip_us = 10000; /* over a second for all of it; read after the request has come */
    rig_ask(&rig, 100);
    rig_close(&rig);
    assert_int_equal(rig.code, KZ_TIMEOUT);
    assert_string_equal(rig.fail_code, "timeout");
}

/* One connection for everything, and what was closed while idle is opened again. */
static void test_connections(void **state)
{
    static const char kept[] =
            "HTTP/1.1 200 OK\r\nContent-Length: 74\r\n\r\n"
            "{\"outputs\":[{\"name\":\"p\",\"datatype\":\"FP64\",\"shape\":[2],\"data\":[0.25,100]}]}";
    const char *answers[] = {kept, NULL};

    (void)state;
    for (unsigned serves = 0; serves < 4; serves++) {
        struct rig rig = {.server.serves = serves};

        rig_open(&rig, answers);
        rig_start(&rig);
        assert_true(rig.ready);
        for (int i = 0; i < 4; i++) {
            rig_ask(&rig, ANSWER_MS);
            if (rig.code != KZ_OK)
                fail_msg("serves %u, batch %d: %s", serves, i, rig.message);
        }
        rig_close(&rig);
        assert_int_equal(atomic_load(&rig.server.requests), 4);
        if (!serves)
            assert_int_equal(atomic_load(&rig.server.connections), 1);
    }
}

static void test_not_ready(void **state)
{
    const char *answers[] = {GOOD, NULL};
    struct rig rig = {.server.ready = "HTTP/1.1 503 No\r\nContent-Length: 7\r\n\r\nloading"};

    (void)state;
    rig_open(&rig, answers);
    rig_start(&rig);
    assert_true(rig.lost);
    assert_string_equal(rig.fail_code, "load");
    assert_non_null(strstr(rig.message, "503 (Service Unavailable): loading"));
    rig_close(&rig);
}

static void test_nobody_there(void **state)
{
    const char *answers[] = {GOOD, NULL};
    struct rig rig = {0};

    (void)state;
    rig_open(&rig, answers);
    rig.model.url = "http://127.0.0.1:1";
    rig_start(&rig);
    assert_true(rig.lost);
    assert_string_equal(rig.fail_code, "crash");
    assert_non_null(strstr(rig.message, "could not connect to 127.0.0.1:1: connection refused"));
    rig_close(&rig);
}

/* libuv's lookups come through here: "two.test" has an address where nobody listens, then one that
 * is right. A list may be hung onto another, freeaddrinfo() frees it piece by piece. */
int getaddrinfo(
        const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **ret)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    int rc;

    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (!host || strcmp(host, "two.test") != 0)
        return real(host, port, hints, ret);
    rc = real("127.0.0.1", "1", hints, ret);
    return rc ? rc : real("127.0.0.1", port, hints, &(*ret)->ai_next);
}

static void test_a_name_with_several_addresses(void **state)
{
    const char *answers[] = {GOOD, NULL};
    struct rig rig = {0};
    char url[64];

    (void)state;
    rig_open(&rig, answers);
    snprintf(url, sizeof(url), "http://two.test%s", strrchr(rig.url, ':'));
    rig.model.url = url;
    rig_start(&rig);
    if (!rig.ready)
        fail_msg("%s", rig.message);
    rig_ask(&rig, ANSWER_MS);
    rig_close(&rig);
    assert_int_equal(rig.code, KZ_OK);
}

static void test_a_name_that_is_none(void **state)
{
    const char *answers[] = {GOOD, NULL};
    struct rig rig = {0};

    (void)state;
    rig_open(&rig, answers);
    rig.model.url = "http://nobody.invalid:80";
    rig_start(&rig);
    assert_true(rig.lost);
    assert_string_equal(rig.fail_code, strstr(rig.message, "within") ? "timeout" : "crash");
    rig_close(&rig);
}

static void test_urls(void **state)
{
    static const char *const bad[] = {"", "https://h", "http://", "http://:80", "http://h:x",
            "http://h:123456", "http://u@h", "http://h/ x", "http://h?q"};
    struct kz_model_def model = {.name = "m", .config_json = "{}"};
    uv_loop_t loop;

    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(bad); i++) {
        struct kz_replica_start start = {
                .model = &model, .loop = &loop, .version = "", .events = &events};
        struct kz_replica *replica = NULL;

        model.url = bad[i];
        assert_int_equal(kz_runtime_http.start(&start, &replica, NULL), KZ_CONFIG);
        assert_null(replica);
    }
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&loop), 0);
}

/* Stopped at each point of its life; the loop then has nothing left to do. */
static void test_stop_at_any_time(void **state)
{
    const char *answers[] = {"hang", NULL};

    (void)state;
    for (int turns = 0; turns < 12; turns++) {
        struct rig rig = {0};
        struct kz_replica_start start = {.model = &rig.model,
                .project = &rig.project,
                .loop = &rig.loop,
                .version = "",
                .events = &events,
                .arg = &rig};

        rig_open(&rig, answers);
        assert_int_equal(kz_runtime_http.start(&start, &rig.replica, NULL), KZ_OK);
        for (int i = 0; i < turns && !rig.ready; i++)
            uv_run(&rig.loop, UV_RUN_ONCE);
        rig_close(&rig);
        assert_false(rig.lost);
    }
}

/* The example of docs/models.md. */
static void test_request_is_as_documented(void **state)
{
    static const char *const numeric_names[] = {"views", "spent"};
    static const char *const text_names[] = {"city", "user_id"};
    const double numeric[] = {3, 0.5, 1, (double)NAN};
    const struct kz_value text[] = {{.type = KZ_TYPE_TEXT, .text = KZ_STR("Oita")},
            {.type = KZ_TYPE_TEXT, .text = KZ_STR("x")}, {.type = KZ_TYPE_NULL},
            {.type = KZ_TYPE_NULL}};
    const struct kz_str users[] = {KZ_STR("ann"), KZ_STR("bo")};
    const struct kz_str ids[] = {KZ_STR("e1"), KZ_STR("e2")};
    const struct kz_str histories[] = {KZ_STR("[{\"name\":\"view\"}]"), KZ_STR("[]")};
    const int64_t now[] = {1700000000000, 1700000000001};
    const bool truncated[] = {true, false};
    struct kz_batch batch = {.row_count = 2,
            .numeric_count = 2,
            .numeric_names = numeric_names,
            .numeric = numeric,
            .text_count = 2,
            .text_names = text_names,
            .text = text,
            .user_ids = users,
            .event_ids = ids,
            .now_ms = now,
            .histories = histories,
            .truncated = truncated};
    struct kz_buf out = {0};

    (void)state;
    assert_int_equal(kz_oip_put_request(&out, "0123456789ab", "{\"t\":1}", &batch, NULL), KZ_OK);
    kz_buf_char(&out, '\0');
    assert_string_equal(out.data,
            "{\"parameters\":{\"version\":\"0123456789ab\",\"config\":\"{\\\"t\\\":1}\"},\"inputs\":["
            "{\"name\":\"features\",\"datatype\":\"FP64\",\"shape\":[2,2],"
            "\"parameters\":{\"columns\":\"[\\\"views\\\",\\\"spent\\\"]\"},"
            "\"data\":[3.0,0.5,1.0,null]},"
            "{\"name\":\"city\",\"datatype\":\"BYTES\",\"shape\":[2],\"data\":[\"Oita\",null]},"
            "{\"name\":\"column.user_id\",\"datatype\":\"BYTES\",\"shape\":[2],\"data\":[\"x\",null]},"
            "{\"name\":\"user_id\",\"datatype\":\"BYTES\",\"shape\":[2],\"data\":[\"ann\",\"bo\"]},"
            "{\"name\":\"event_id\",\"datatype\":\"BYTES\",\"shape\":[2],\"data\":[\"e1\",\"e2\"]},"
            "{\"name\":\"now_ms\",\"datatype\":\"INT64\",\"shape\":[2],"
            "\"data\":[1700000000000,1700000000001]},"
            "{\"name\":\"truncated\",\"datatype\":\"BOOL\",\"shape\":[2],\"data\":[true,false]},"
            "{\"name\":\"history\",\"datatype\":\"BYTES\",\"shape\":[2],"
            "\"data\":[\"[{\\\"name\\\":\\\"view\\\"}]\",\"[]\"]}]}");
    kz_buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_request_is_as_documented),
            cmocka_unit_test(test_good_answers),
            cmocka_unit_test(test_dicts),
            cmocka_unit_test(test_nan_costs_its_row),
            cmocka_unit_test(test_wrong_shapes),
            cmocka_unit_test(test_refusals),
            cmocka_unit_test(test_no_http_and_no_answer),
            cmocka_unit_test(test_closed_within_its_answer),
            cmocka_unit_test(test_closed_without_an_answer),
            cmocka_unit_test(test_slow_drip_is_a_timeout),
            cmocka_unit_test(test_connections),
            cmocka_unit_test(test_not_ready),
            cmocka_unit_test(test_nobody_there),
            cmocka_unit_test(test_a_name_with_several_addresses),
            cmocka_unit_test(test_a_name_that_is_none),
            cmocka_unit_test(test_urls),
            cmocka_unit_test(test_stop_at_any_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
