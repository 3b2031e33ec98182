/* Serve over real HTTP, with a stand-in for the pipeline.
 *
 * `test_serve_serve_test serve PORT` runs that server with made-up traffic, to look at the
 * dashboard.
 */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <stdatomic.h>
#include <stdio.h>

#include "serve/fake_int.h"
#include "codec/json.h"
#include "sys/http_client.h"
#include "sys/thread.h"

enum { TIMEOUT_MS = 60000 };

struct rig {
    struct fake *fake;
    struct kz_auth auth;
    uv_loop_t loop;
    uv_async_t poke;
    void (*on_poke)(struct rig *rig); /* on the loop's thread */
    atomic_bool poked, stop;
    struct kz_http_server *server;
    struct kz_serve *serve;
    struct kz_thread thread;
    struct kz_http_client *client;
    struct kz_http_answer answer;
    const char *key;
    bool drained;
    size_t released;
};

static size_t names(void *arg, unsigned model, const char *const **ret_names)
{
    static const char *const all[] = {"price", "category"};

    (void)arg;
    *ret_names = all;
    return model == 0 ? 2 : 0;
}

static void handle(void *arg, struct kz_http_request *req)
{
    struct rig *rig = arg;

    if (!kz_serve_handle(rig->serve, req))
        kz_serve_unknown(rig->serve, req);
}

static void drained(void *arg, size_t unanswered)
{
    struct rig *rig = arg;

    assert_int_equal(unanswered, 0);
    rig->drained = true;
}

static void on_poke(uv_async_t *async)
{
    struct rig *rig = async->data;

    if (rig->on_poke) {
        rig->on_poke(rig);
        rig->on_poke = NULL;
        atomic_store(&rig->poked, true);
    }
    if (atomic_load(&rig->stop)) {
        kz_serve_drain(rig->serve);
        kz_http_server_stop(rig->server, 1000, drained, rig);
    }
}

static void run(void *arg)
{
    struct rig *rig = arg;

    while (!rig->drained)
        uv_run(&rig->loop, UV_RUN_ONCE);
}

static void rig_open(struct rig *rig, bool with_keys, const char *address)
{
    struct kz_http_handler handler = {.handle = handle, .arg = rig};
    struct kz_serve_options options = kz_serve_options_default();
    struct kz_err err;

    assert_int_equal(uv_loop_init(&rig->loop), 0);
    assert_int_equal(uv_async_init(&rig->loop, &rig->poke, on_poke), 0);
    rig->poke.data = rig;
    options.loop = &rig->loop;
    options.version = "0.1.0";
    options.build = "test";
    options.data_dir = "/tmp";
    options.feature_names = names;
    options.streams_max = 2;
    rig->serve = kz_serve_new(&rig->fake->query, with_keys ? &rig->auth : NULL, &options);
    rig->server = kz_http_server_new(&rig->loop, NULL, &handler);
    assert_int_equal(kz_http_server_listen(rig->server, address, &err), KZ_OK);
    kz_serve_watch(rig->serve, rig->server);
}

static void fill(struct fake *f)
{
    int64_t later_ms = kz_clock_ms() + 600000;
    uint64_t request;

    fake_event(f, "e1", "view", "{\"price\":2.5}");                       /* 1 */
    request = fake_request(f, 1, "e1")->seq;                              /* 2 */
    fake_result(f, request, "e1", 0.25, NULL);                            /* 3 */
    fake_decision(f, request, KZ_DECISION_DELIVER, later_ms);             /* 4 */
    fake_decision(f, request, KZ_DECISION_HOLDOUT, later_ms);             /* 5 */
    fake_event(f, "e2", "cart", "{}");                                    /* 6 */
    request = fake_request(f, 6, "e2")->seq;                              /* 7 */
    fake_letter(f, KZ_STAGE_INFER, request, "ValueError: no\nTraceback"); /* 8 */
    fake_result(f, request, "e2", 0, "ValueError: no");                   /* 9 */
    fake_slot(f, (struct kz_slot){.kind = KZ_SLOT_PREDICTION,
                         .name = kz_name_hash(KZ_STR("purchase")),
                         .prediction = {.result = 3 * 16, .expires_at_ms = later_ms}});
    fake_slot(f, (struct kz_slot){.kind = KZ_SLOT_PREDICTION,
                         .name = kz_name_hash(KZ_STR("leave")),
                         .prediction = {.result = 3 * 16, .expires_at_ms = 1}});
    fake_slot(f, (struct kz_slot){.kind = KZ_SLOT_DELIVERY,
                         .delivery = {.decision_lsn = 4 * 16,
                                 .decision = 4,
                                 .expires_at_ms = later_ms,
                                 .kind = KZ_DELIVER_WEB}});
    fake_slot(f, (struct kz_slot){.kind = KZ_SLOT_DELIVERY,
                         .delivery = {.decision_lsn = 5 * 16,
                                 .decision = 5,
                                 .expires_at_ms = 1,
                                 .kind = KZ_DELIVER_WEB}});
}

static int begin(void **state, bool with_keys)
{
    struct rig *rig = kz_calloc(1, sizeof(*rig));
    char url[64];
    struct kz_err err;

    rig->fake = fake_new();
    fill(rig->fake);
    rig_open(rig, with_keys, "127.0.0.1:0");
    snprintf(url, sizeof(url), "http://127.0.0.1:%u", kz_http_server_port(rig->server));
    assert_int_equal(kz_thread_start(&rig->thread, "loop", run, rig, &err), KZ_OK);
    assert_int_equal(kz_http_client_new(url, &rig->client, &err), KZ_OK);
    *state = rig;
    return 0;
}

static int setup(void **state)
{
    return begin(state, false);
}

static int setup_keys(void **state)
{
    return begin(state, true);
}

static void close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static int teardown(void **state)
{
    struct rig *rig = *state;

    atomic_store(&rig->stop, true);
    uv_async_send(&rig->poke);
    kz_thread_join(&rig->thread);
    kz_http_client_free(rig->client);
    kz_serve_free(rig->serve);
    kz_http_server_free(rig->server);
    uv_walk(&rig->loop, close_handle, NULL);
    uv_run(&rig->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&rig->loop), 0);
    fake_free(rig->fake);
    free(rig);
    return 0;
}

/* Runs `what` on the loop's thread and waits for it. */
static void on_loop(struct rig *rig, void (*what)(struct rig *rig))
{
    int64_t until_ms = kz_mono_ms() + TIMEOUT_MS;

    atomic_store(&rig->poked, false);
    rig->on_poke = what;
    uv_async_send(&rig->poke);
    while (!atomic_load(&rig->poked)) {
        assert_true(kz_mono_ms() < until_ms);
        uv_sleep(1);
    }
}

static int ask(struct rig *rig, const char *method, const char *path)
{
    char bearer[64];
    struct kz_http_client_header header;
    struct kz_err err;

    snprintf(bearer, sizeof(bearer), "Bearer %s", rig->key ? rig->key : "");
    header = (struct kz_http_client_header){KZ_STR("Authorization"), kz_str(bearer)};
    assert_int_equal(kz_http_client_request(rig->client, method, path, &header, rig->key != NULL,
                             KZ_STR_NULL, TIMEOUT_MS, &rig->answer, &err),
            KZ_OK);
    return rig->answer.status;
}

static bool has(const struct rig *rig, const char *text)
{
    return memmem(rig->answer.body.ptr, rig->answer.body.size, text, strlen(text)) != NULL;
}

#define ASSERT_HAS(rig, text)                                                                      \
    do {                                                                                           \
        if (!has(rig, text))                                                                       \
            fail_msg("no %s in " KZ_STR_FMT, text, KZ_STR_ARG((rig)->answer.body));                \
    } while (0)

static void assert_body(struct rig *rig, const char *expected)
{
    assert_int_equal(rig->answer.body.size, strlen(expected));
    assert_memory_equal(rig->answer.body.ptr, expected, strlen(expected));
}

static void assert_json(struct rig *rig)
{
    struct kz_json_value root;
    struct kz_err err;

    if (kz_json_parse(rig->answer.body, 0, &root, &err) != KZ_OK)
        fail_msg("%s: " KZ_STR_FMT, err.message, KZ_STR_ARG(rig->answer.body));
}

/* ---- one user
 * ------------------------------------------------------------------------------------- */

static const char prediction[] =
        "{\"user_id\":\"ada\",\"predictions\":[{\"user_id\":\"ada\",\"model\":\"purchase\","
        "\"version\":\"v1\",\"score\":0.25,\"output\":0.250,\"event_id\":\"e1\","
        "\"as_of\":1700000000000,\"computed_at\":1700000000100,\"expires_at\":1700000600100}]}\n";

static void predictions_that_are_valid(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(ask(rig, "GET", "/v1/users/ada/predictions"), 200);
    assert_body(rig, prediction);
    assert_int_equal(ask(rig, "GET", "/v1/users/%61da/predictions?model=purchase"), 200);
    assert_body(rig, prediction);
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/predictions?model=leave"), 200);
    assert_body(rig, "{\"user_id\":\"ada\",\"predictions\":[]}\n");
    assert_int_equal(ask(rig, "GET", "/v1/users/eve/predictions"), 200);
    assert_body(rig, "{\"user_id\":\"eve\",\"predictions\":[]}\n");
    assert_int_equal(ask(rig, "GET", "/v1/users/anonymous:visitor-of-ada/predictions"), 200);
    ASSERT_HAS(rig, "\"user_id\":\"anonymous:visitor-of-ada\",\"predictions\":[{");
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/predictions?model=x"), 404);
    assert_int_equal(ask(rig, "HEAD", "/v1/users/ada/predictions"), 200);
}

static void hold(struct rig *rig)
{
    rig->fake->hold = true;
}

static void release_held(struct rig *rig)
{
    rig->released = rig->fake->held_count;
    fake_release(rig->fake);
}

static void release_when_held(void *arg)
{
    struct rig *rig = arg;

    while (!rig->released)
        on_loop(rig, release_held);
}

static void an_answer_waits_until_it_is_durable(void **state)
{
    struct rig *rig = *state;
    struct kz_thread helper = {0};
    struct kz_err err;

    on_loop(rig, hold);
    assert_int_equal(kz_thread_start(&helper, "helper", release_when_held, rig, &err), KZ_OK);
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/predictions"), 200);
    assert_body(rig, prediction);
    kz_thread_join(&helper);
}

static void events_newest_first_in_pages(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(ask(rig, "GET", "/v1/users/ada/events"), 200);
    assert_json(rig);
    assert_true(memmem(rig->answer.body.ptr, rig->answer.body.size, "\"e1\"", 4) >
                memmem(rig->answer.body.ptr, rig->answer.body.size, "\"e2\"", 4));
    ASSERT_HAS(rig, "\"props\":{\"price\":2.5}");
    assert_false(has(rig, "\"next\""));
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/events?limit=1"), 200);
    ASSERT_HAS(rig, "\"e2\"");
    assert_false(has(rig, "\"e1\""));
    ASSERT_HAS(rig, "\"next\":\"6-96\"");
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/events?limit=1&before=6-96"), 200);
    ASSERT_HAS(rig, "\"e1\"");
    assert_false(has(rig, "\"e2\""));
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/events?limit=1&before=6"), 200);
    ASSERT_HAS(rig, "\"e1\"");
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/events?limit=1001"), 400);
    ASSERT_HAS(rig, "limit is \\\"1001\\\", not a number from 0 to 1000");
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/events?before=x"), 400);
}

static void actions_wait_until_they_are_acknowledged(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(ask(rig, "GET", "/v1/users/ada/actions"), 200);
    assert_json(rig);
    ASSERT_HAS(rig, "\"action\":\"coupon\",\"action_id\":\"4\"");
    ASSERT_HAS(rig, "\"payload\":{\"title\":\"10% off\",\"code\":\"KZ10\"}");
    assert_false(has(rig, "\"action_id\":\"5\""));
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/actions?all=1"), 200);
    ASSERT_HAS(rig, "\"decision\":\"holdout\"");
    ASSERT_HAS(rig, "\"delivery\":\"waiting\"");
    assert_int_equal(ask(rig, "POST", "/v1/users/ada/actions/4/ack"), 200);
    assert_int_equal(rig->fake->acknowledged, 4);
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/actions"), 200);
    assert_body(rig, "{\"user_id\":\"ada\",\"actions\":[]}\n");
    assert_int_equal(ask(rig, "POST", "/v1/users/ada/actions/4/ack"), 404);
    assert_int_equal(ask(rig, "POST", "/v1/users/ada/actions/four/ack"), 400);
}

static void a_trace_tells_every_stage(void **state)
{
    static const char *const expected[] = {"\"stage\":\"received\"", "\"stage\":\"parsed\"",
            "\"us\":7", "\"stage\":\"logged\"", "\"us\":250", "\"rule\":\"browsing\"",
            "\"queue_us\":11", "\"features_us\":22", "\"wait_us\":33", "\"model_us\":444",
            "\"features\":{\"price\":2.5,\"category\":\"shoes\"}", "\"end\":\"done\"",
            "\"score\":0.25", "\"decision\":\"deliver\"", "\"decision\":\"holdout\"",
            "\"stage\":\"delivery\"", "\"state\":\"shown\""};
    struct rig *rig = *state;

    fake_shown(rig->fake, 4);
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/events/e1/trace"), 200);
    assert_json(rig);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(expected); i++)
        ASSERT_HAS(rig, expected[i]);
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/events/e2/trace"), 200);
    ASSERT_HAS(rig, "\"end\":\"dead\"");
    ASSERT_HAS(rig, "\"dead_letter\":\"8\",\"failed_stage\":\"infer\",\"code\":\"exception\"");
    ASSERT_HAS(rig, "Traceback");
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/events/e3/trace"), 404);
    assert_int_equal(ask(rig, "GET", "/v1/users/eve/events/e1/trace"), 404);
}

static void an_export_has_all_of_it(void **state)
{
    struct rig *rig = *state;
    struct kz_lines lines;
    struct kz_str line;
    size_t count = 0;

    for (int i = 0; i < 3000; i++)
        fake_event(rig->fake, "more", "view", "{\"text\":\"some hundred bytes or so of props\"}");
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/export"), 200);
    lines = kz_lines(rig->answer.body);
    while (kz_lines_next(&lines, &line)) {
        struct kz_json_value root;
        struct kz_err err;

        assert_int_equal(kz_json_parse(line, 0, &root, &err), KZ_OK);
        count++;
    }
    assert_int_equal(count, 1 + 8 + 3000); /* the user's line; the dead letter has no owner */
    assert_int_equal(ask(rig, "GET", "/v1/users/eve/export"), 404);
}

static void erasure_is_accepted_and_followed(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(ask(rig, "DELETE", "/v1/users/ada"), 202);
    assert_body(rig, "{\"erasure_id\":\"77\"}\n");
    assert_int_equal(ask(rig, "GET", "/v1/erasures/77"), 200);
    assert_body(rig, "{\"erasure_id\":\"77\",\"state\":\"running\",\"asked_at\":1700000000000}\n");
    assert_int_equal(ask(rig, "GET", "/v1/erasures/78"), 404);
    assert_int_equal(ask(rig, "DELETE", "/v1/users/eve"), 404);
}

/* ---- streams
 * -------------------------------------------------------------------------------------- */

static void publish(struct rig *rig)
{
    fake_publish(rig->fake, KZ_NEWS_PREDICTION, fake_record(rig->fake, 3));
    fake_publish(rig->fake, KZ_NEWS_ACTION, fake_record(rig->fake, 4));
}

static void expect_line(struct rig *rig, const char *expected)
{
    struct kz_str line;
    struct kz_err err;

    assert_int_equal(kz_http_client_read_line(rig->client, TIMEOUT_MS, &line, &err), KZ_OK);
    if (line.size < strlen(expected) || memcmp(line.ptr, expected, strlen(expected)) != 0)
        fail_msg("\"" KZ_STR_FMT "\" does not begin with \"%s\"", KZ_STR_ARG(line), expected);
}

static void open_stream(struct rig *rig, const char *path, const char *bearer)
{
    struct kz_http_client_header header = {KZ_STR("Authorization"), kz_str(bearer)};
    struct kz_err err;
    int status;

    assert_int_equal(
            kz_http_client_stream(rig->client, path, &header, 1, TIMEOUT_MS, &status, &err), KZ_OK);
    assert_int_equal(status, 200);
    expect_line(rig, "retry: 2000");
    expect_line(rig, "");
}

static void a_stream_begins_with_what_waits_and_goes_on(void **state)
{
    struct rig *rig = *state;

    open_stream(rig, "/v1/users/ada/stream", "");
    expect_line(rig, "event: action");
    expect_line(rig, "id: 4");
    expect_line(rig, "data: {\"action\":\"coupon\",\"action_id\":\"4\"");
    expect_line(rig, "");
    on_loop(rig, publish);
    expect_line(rig, "event: prediction");
    expect_line(rig, "id: 3");
    expect_line(rig, "data: {\"user_id\":\"ada\",\"model\":\"purchase\"");
    expect_line(rig, "");
    expect_line(rig, "event: action");
    kz_http_client_close(rig->client);
}

static void streams_are_bounded(void **state)
{
    struct kz_http_client *others[2] = {NULL};
    struct rig *rig = *state;
    char url[64];
    struct kz_err err;
    int status;

    snprintf(url, sizeof(url), "http://127.0.0.1:%u", kz_http_server_port(rig->server));
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(kz_http_client_new(url, &others[i], &err), KZ_OK);
        assert_int_equal(
                kz_http_client_stream(others[i], "/v1/stream", NULL, 0, TIMEOUT_MS, &status, &err),
                KZ_OK);
        assert_int_equal(status, 200);
    }
    assert_int_equal(ask(rig, "GET", "/v1/stream"), 429);
    kz_http_client_free(others[0]);
    kz_http_client_free(others[1]);
}

static void a_write_key_sees_actions_of_whom_it_proves(void **state)
{
    struct rig *rig = *state;

    rig->key = "write";
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/predictions"), 403);
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/actions"), 403);
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/actions?token=proof"), 200);
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/actions?token=proof&all=1"), 403);
    assert_int_equal(ask(rig, "GET", "/v1/stream"), 403);
    assert_int_equal(ask(rig, "POST", "/v1/admin/checkpoint"), 403);
    open_stream(rig, "/v1/users/ada/stream?token=proof", "Bearer write");
    expect_line(rig, "event: action");
    expect_line(rig, "id: 4");
    expect_line(rig, "data: ");
    expect_line(rig, "");
    on_loop(rig, publish);
    expect_line(rig, "event: action"); /* the prediction before it was not for this key */
    kz_http_client_close(rig->client);
}

static void keys_open_what_they_should(void **state)
{
    static const struct {
        const char *key, *path;
        int status;
    } rows[] = {
            {NULL, "/healthz", 200},
            {NULL, "/readyz", 200},
            {NULL, "/v1", 200},
            {NULL, "/", 200},
            {NULL, "/metrics", 401},
            {NULL, "/v1/users/ada/predictions", 401},
            {"read", "/v1/users/ada/predictions", 200},
            {"read", "/metrics", 200},
            {"read", "/v1/admin/status", 200},
            {"read", "/v1/admin/deadletters", 403},
            {"admin", "/v1/admin/deadletters", 200},
            {"admin", "/v1/users/ada/predictions", 200},
    };
    struct rig *rig = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        rig->key = rows[i].key;
        if (ask(rig, "GET", rows[i].path) != rows[i].status)
            fail_msg("%s with %s: %d", rows[i].path, rows[i].key ? rows[i].key : "no key",
                    rig->answer.status);
    }
}

/* ---- operators
 * ------------------------------------------------------------------------------------ */

static void verbs_reach_the_pipeline_with_a_name(void **state)
{
    static const struct {
        const char *path, *verb, *object;
    } rows[] = {
            {"/v1/admin/models/purchase/pause", "pause-model", "purchase"},
            {"/v1/admin/models/purchase/resume", "resume-model", "purchase"},
            {"/v1/admin/models/purchase/unfence", "unfence-model", "purchase"},
            {"/v1/admin/actions/*/pause", "pause-action", "*"},
            {"/v1/admin/actions/coupon/resume", "resume-action", "coupon"},
            {"/v1/admin/requests/drop?model=purchase", "drop-requests", "purchase"},
            {"/v1/admin/deadletters/8/retry", "retry-deadletter", "8"},
            {"/v1/admin/deadletters/*/drop", "drop-deadletter", "*"},
    };
    struct rig *rig = *state;

    rig->key = "admin";
    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        assert_int_equal(ask(rig, "POST", rows[i].path), 200);
        assert_body(rig, "{\"count\":3}\n");
        assert_string_equal(rig->fake->verb, rows[i].verb);
        assert_string_equal(rig->fake->object, rows[i].object);
        assert_string_equal(rig->fake->who, "admin");
    }
    assert_int_equal(ask(rig, "POST", "/v1/admin/models/nobody/pause"), 404);
    assert_int_equal(ask(rig, "POST", "/v1/admin/requests/drop"), 400);
    assert_int_equal(ask(rig, "POST", "/v1/admin/backup"), 400);
    assert_int_equal(ask(rig, "POST", "/v1/admin/backup?dest=/there"), 409);
    assert_int_equal(ask(rig, "POST", "/v1/admin/backup?dest=/new"), 200);
    assert_int_equal(ask(rig, "POST", "/v1/admin/checkpoint"), 202);
}

static void dead_letters_in_a_list_and_alone(void **state)
{
    struct rig *rig = *state;

    fake_letter(rig->fake, KZ_STAGE_SHAPE, 0, "no name"); /* 10 */
    assert_int_equal(ask(rig, "GET", "/v1/admin/deadletters"), 200);
    assert_json(rig);
    ASSERT_HAS(rig, "\"total\":2,\"dead_letters\":[{\"id\":\"10\",\"stage\":\"shape\"");
    ASSERT_HAS(rig, "\"reason\":\"ValueError: no\",");
    assert_int_equal(ask(rig, "GET", "/v1/admin/deadletters?stage=infer"), 200);
    assert_false(has(rig, "\"id\":\"10\""));
    assert_int_equal(ask(rig, "GET", "/v1/admin/deadletters?limit=1"), 200);
    ASSERT_HAS(rig, "\"next\":\"10\"");
    assert_int_equal(ask(rig, "GET", "/v1/admin/deadletters?limit=1&before=10"), 200);
    ASSERT_HAS(rig, "\"id\":\"8\"");
    assert_int_equal(ask(rig, "GET", "/v1/admin/deadletters?stage=nowhere"), 400);
    assert_int_equal(ask(rig, "GET", "/v1/admin/deadletters/8"), 200);
    ASSERT_HAS(rig, "\"payload\":\"{\\\"a\\\":1\"");
    ASSERT_HAS(rig, "Traceback");
    assert_int_equal(ask(rig, "GET", "/v1/admin/deadletters/9"), 404);
}

static void break_things(struct rig *rig)
{
    rig->fake->health = KZ_NO_SPACE;
    rig->fake->models[1].fenced = true;
    snprintf(rig->fake->models[1].reason, sizeof(rig->fake->models[1].reason), "10 crashes");
}

static void status_names_the_worst_first(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(ask(rig, "GET", "/v1/admin/status"), 200);
    assert_json(rig);
    ASSERT_HAS(rig,
            "{\"ok\":true,\"problems\":[{\"severity\":\"notice\",\"what\":\"1 dead letter is kept");
    assert_int_equal(ask(rig, "GET", "/readyz"), 200);
    assert_body(rig, "{\"ready\":true,\"reasons\":[],\"degraded\":[]}\n");
    on_loop(rig, break_things);
    assert_int_equal(ask(rig, "GET", "/v1/admin/status"), 200);
    ASSERT_HAS(rig, "{\"ok\":false,\"problems\":[{\"severity\":\"critical\"");
    ASSERT_HAS(rig, "\"why\":\"the disk of the log is full\"");
    ASSERT_HAS(rig, "kizashi models unfence leave");
    assert_int_equal(ask(rig, "GET", "/readyz"), 503);
    assert_body(rig, "{\"ready\":false,\"reasons\":[\"the disk of the log is full\"],"
                     "\"degraded\":[\"leave\"]}\n");
    assert_int_equal(ask(rig, "GET", "/healthz"), 200);
}

static void metrics_are_prometheus_text(void **state)
{
    struct rig *rig = *state;
    struct kz_lines lines;
    struct kz_str line;

    rig->fake->counters.events_accepted_total = 12;
    rig->fake->histograms.model.buckets[9] = 4;
    rig->fake->histograms.model.count = 4;
    assert_int_equal(ask(rig, "GET", "/metrics"), 200);
    ASSERT_HAS(rig, "# TYPE kizashi_events_accepted_total counter\n"
                    "kizashi_events_accepted_total 12\n");
    ASSERT_HAS(rig, "kizashi_stage_seconds_bucket{stage=\"model\",le=\"0.000256\"} 0\n");
    ASSERT_HAS(rig, "kizashi_stage_seconds_bucket{stage=\"model\",le=\"0.000512\"} 4\n");
    ASSERT_HAS(rig, "kizashi_stage_seconds_bucket{stage=\"model\",le=\"+Inf\"} 4\n");
    ASSERT_HAS(rig, "kizashi_model_replicas_ready{model=\"purchase\"} 1\n");
    ASSERT_HAS(rig, "kizashi_http_requests_malformed_total 0\n");
    ASSERT_HAS(rig, "kizashi_build_info{version=\"0.1.0\",build=\"test\"} 1\n");
    lines = kz_lines(rig->answer.body);
    while (kz_lines_next(&lines, &line))
        if (!kz_str_starts(line, "kizashi_") && !kz_str_starts(line, "# HELP kizashi_") &&
                !kz_str_starts(line, "# TYPE kizashi_"))
            fail_msg("\"" KZ_STR_FMT "\"", KZ_STR_ARG(line));
    assert_int_equal(ask(rig, "GET", "/v1/admin/top"), 200);
    assert_json(rig);
    ASSERT_HAS(rig, "\"stages\":{\"commit\":{");
}

/* ---- paths
 * ---------------------------------------------------------------------------------------- */

static void unknown_paths_and_wrong_methods(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(ask(rig, "GET", "/v1/user/ada/predictions"), 404);
    ASSERT_HAS(rig, "near it: /v1/users/{user}/predictions");
    assert_int_equal(ask(rig, "GET", "/metric"), 404);
    ASSERT_HAS(rig, "/metrics");
    assert_int_equal(ask(rig, "GET", "/v1/users//predictions"), 404);
    assert_int_equal(ask(rig, "GET", "/v1/users/ada/predictions/"), 404);
    assert_int_equal(ask(rig, "GET", "/v1/users/%zz/predictions"), 400);
    assert_int_equal(ask(rig, "GET", "/v1/users/anonymous:/predictions"), 400);
    assert_int_equal(ask(rig, "POST", "/v1/users/ada/predictions"), 405);
    assert_true(kz_str_is(kz_http_client_header(rig->client, "Allow"), "GET, HEAD"));
    assert_int_equal(ask(rig, "GET", "/v1/users/ada"), 405);
    assert_true(kz_str_is(kz_http_client_header(rig->client, "Allow"), "DELETE"));
    assert_int_equal(ask(rig, "OPTIONS", "/v1/users/ada"), 204);
    assert_int_equal(ask(rig, "GET", "/v1"), 200);
    assert_json(rig);
    ASSERT_HAS(rig, "\"path\":\"/v1/users/{user}/predictions\"");
}

static void open_inference_metadata(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(ask(rig, "GET", "/v2"), 200);
    assert_body(rig, "{\"name\":\"kizashi\",\"version\":\"0.1.0\",\"extensions\":[]}\n");
    assert_int_equal(ask(rig, "GET", "/v2/health/live"), 200);
    assert_int_equal(ask(rig, "GET", "/v2/health/ready"), 200);
    assert_int_equal(ask(rig, "GET", "/v2/models/purchase"), 200);
    assert_body(rig, "{\"name\":\"purchase\",\"versions\":[\"v1\"],\"platform\":\"python\","
                     "\"inputs\":[],\"outputs\":[]}\n");
    assert_int_equal(ask(rig, "GET", "/v2/models/purchase/versions/v1/ready"), 200);
    assert_int_equal(ask(rig, "GET", "/v2/models/purchase/versions/v2"), 404);
    assert_int_equal(ask(rig, "GET", "/v2/models/nobody/ready"), 404);
    assert_int_equal(ask(rig, "POST", "/v2/models/purchase/infer"), 501);
}

static void the_page_allows_nothing_from_elsewhere(void **state)
{
    struct rig *rig = *state;
    struct kz_str policy;

    assert_int_equal(ask(rig, "GET", "/"), 200);
    ASSERT_HAS(rig, "Kizashi");
    assert_false(has(rig, "src=\"http"));
    policy = kz_http_client_header(rig->client, "Content-Security-Policy");
    assert_true(kz_str_starts(policy, "default-src 'none'"));
}

/* ---- to look at
 * ----------------------------------------------------------------------------------- */

static void traffic(uv_timer_t *timer)
{
    struct rig *rig = timer->data;
    struct fake *f = rig->fake;
    double wave = 1 + 0.3 * sin((double)kz_mono_ms() / 3000);
    uint64_t request;

    f->counters.events_accepted_total += (uint64_t)(640 * wave);
    f->counters.requests_done_total += (uint64_t)(84 * wave);
    f->counters.users = 18234;
    f->counters.log_segments = 3;
    f->counters.log_disk_bytes = 734003200;
    f->histograms.commit.buckets[9] += 500;
    f->histograms.commit.buckets[10] += 60;
    f->histograms.commit.count += 560;
    f->histograms.total.buckets[10] += 60;
    f->histograms.total.buckets[11] += 20;
    f->histograms.total.buckets[13] += 1;
    f->histograms.total.count += 81;
    f->histograms.model.buckets[8] += 80;
    f->histograms.model.count += 80;
    if (f->seq > FAKE_RECORDS_MAX - 8)
        return;
    request = fake_request(f, 1, "e1")->seq;
    fake_publish(f, KZ_NEWS_PREDICTION,
            fake_result(f, request, "e1", 0.5 + 0.4 * sin((double)f->seq), NULL));
    if (f->seq % 7 == 0)
        fake_publish(f, KZ_NEWS_ACTION,
                fake_decision(f, request, KZ_DECISION_DELIVER, kz_clock_ms() + 600000));
}

static int serve_for_a_look(const char *port)
{
    struct rig *rig = kz_calloc(1, sizeof(*rig));
    char address[64];
    uv_timer_t timer;

    snprintf(address, sizeof(address), "127.0.0.1:%s", port);
    rig->fake = fake_new();
    fill(rig->fake);
    break_things(rig);
    rig->fake->health = KZ_OK;
    rig_open(rig, false, address);
    uv_timer_init(&rig->loop, &timer);
    timer.data = rig;
    uv_timer_start(&timer, traffic, 100, 100);
    return uv_run(&rig->loop, UV_RUN_DEFAULT);
}

int main(int argc, char **argv)
{
#define OPEN(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define KEYS(test) cmocka_unit_test_setup_teardown(test, setup_keys, teardown)
    const struct CMUnitTest tests[] = {
            OPEN(predictions_that_are_valid),
            OPEN(an_answer_waits_until_it_is_durable),
            OPEN(events_newest_first_in_pages),
            OPEN(actions_wait_until_they_are_acknowledged),
            OPEN(a_trace_tells_every_stage),
            OPEN(an_export_has_all_of_it),
            OPEN(erasure_is_accepted_and_followed),
            OPEN(a_stream_begins_with_what_waits_and_goes_on),
            OPEN(streams_are_bounded),
            KEYS(a_write_key_sees_actions_of_whom_it_proves),
            KEYS(keys_open_what_they_should),
            KEYS(verbs_reach_the_pipeline_with_a_name),
            OPEN(dead_letters_in_a_list_and_alone),
            OPEN(status_names_the_worst_first),
            OPEN(metrics_are_prometheus_text),
            OPEN(unknown_paths_and_wrong_methods),
            OPEN(open_inference_metadata),
            OPEN(the_page_allows_nothing_from_elsewhere),
    };

    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return serve_for_a_look(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
