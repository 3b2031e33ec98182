/* Requests over a real server through collect and shape into a stand-in intake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "codec/base64.h"
#include "codec/gzip.h"
#include "codec/jwt_fixture.h"
#include "collect/collect.h"
#include "sys/file_sim.h"
#include "sys/http_client.h"

enum { SEEN_MAX = 200, WAIT_MS = 60000 };

static const int64_t NOW = 1795477900000;

static struct kz_column_def columns[] = {
        {.name = "price", .path = "$.price", .type = KZ_TYPE_FLOAT}};
static struct kz_model_def models[] = {{.name = "purchase"}, {.name = "leave"}};
static const struct kz_project project = {
        .name = "test",
        .events = {.columns = columns, .column_count = 1},
        .models = models,
        .model_count = 2,
};

/* The server's thread owns all of it while a request is under way, the test's in between. */
struct rig {
    struct kz_intake intake;
    struct kz_query query;
    struct kz_history_reader reader;
    struct kz_fs *fs;
    struct kz_auth *auth;
    struct kz_push_auth *push_auth; /* NULL: pushes need a key */
    EVP_PKEY *push_key;
    char push_keys[40]; /* the file of its set */
    struct kz_collect *collect;
    uv_loop_t loop;
    uv_async_t stop;
    struct kz_http_server *server;
    pthread_t thread;
    struct kz_http_client *client;
    struct kz_http_answer answer;
    struct kz_err err;

    char *seen[SEEN_MAX]; /* user and event_id of what was accepted */
    size_t seen_count;
    struct kz_buf log; /* what came in, one a line */
    struct kz_submission *waiting[64];
    size_t waiting_count;
    enum kz_code fail; /* submissions end so */
    enum kz_code not_ready;
};

/* ---- the stand-in ---- */

static void take_item(struct rig *rig, struct kz_intake_item *item)
{
    struct kz_event *e = &item->event;
    char key[600];

    if (item->state == KZ_INTAKE_REJECTED) {
        kz_buf_printf(
                &rig->log, "rejected %s " KZ_STR_FMT "\n", item->code, KZ_STR_ARG(item->payload));
        return;
    }
    if (!e->event_id.size) {
        snprintf(item->made_id, sizeof(item->made_id), "made-%020zu", rig->seen_count);
        e->event_id = kz_str_n(item->made_id, 25);
        e->flags |= KZ_EVENT_ID_MADE;
    }
    snprintf(key, sizeof(key), KZ_STR_FMT "/" KZ_STR_FMT "/" KZ_STR_FMT, KZ_STR_ARG(e->user_id),
            KZ_STR_ARG(e->anonymous_id), KZ_STR_ARG(e->event_id));
    for (size_t i = 0; i < rig->seen_count; i++) {
        if (strcmp(rig->seen[i], key) == 0) {
            item->state = KZ_INTAKE_DUPLICATE;
            return;
        }
    }
    assert_true(rig->seen_count < SEEN_MAX);
    rig->seen[rig->seen_count++] = kz_strdup(key);
    item->state = KZ_INTAKE_ACCEPTED;
    kz_buf_printf(&rig->log, "%s " KZ_STR_FMT "\n", key, KZ_STR_ARG(e->name));
}

static void submit(struct kz_intake *intake, struct kz_submission *sub)
{
    struct rig *rig = KZ_CONTAINER_OF(intake, struct rig, intake);

    for (size_t i = 0; rig->fail == KZ_OK && i < sub->item_count; i++)
        take_item(rig, sub->items[i]);
    rig->waiting[rig->waiting_count++] = sub;
}

static enum kz_code ready(struct kz_intake *intake, struct kz_err *err)
{
    struct rig *rig = KZ_CONTAINER_OF(intake, struct rig, intake);

    return rig->not_ready ? kz_fail(err, rig->not_ready, "not now") : KZ_OK;
}

static const struct kz_intake_ops intake_ops = {submit, ready};

static enum kz_code get(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    struct kz_result_body fixed = {.request = 7,
            .end = KZ_END_DONE,
            .has_score = 1,
            .score = 0.25,
            .as_of_ms = 100,
            .computed_at_ms = 101,
            .expires_at_ms = 102,
            .user_kind = 'u'};
    struct kz_record record = {.type = KZ_RECORD_RESULT, .seq = 9};
    struct kz_body_writer w;

    (void)reader;
    (void)owner;
    if (lsn != 5)
        return kz_fail(err, KZ_NOT_FOUND, "no record");
    kz_buf_put(out, &record, sizeof(record));
    w = kz_body_begin(out, &fixed, sizeof(fixed));
    kz_body_span(&w, offsetof(struct kz_result_body, model), KZ_STR("purchase"));
    kz_body_span(&w, offsetof(struct kz_result_body, version), KZ_STR("1"));
    kz_body_span(&w, offsetof(struct kz_result_body, user_id), KZ_STR("u1"));
    kz_body_span(&w, offsetof(struct kz_result_body, event_id), KZ_STR("e1"));
    kz_body_span(&w, offsetof(struct kz_result_body, output), KZ_STR("{\"p\":0.25}"));
    ((struct kz_record *)(void *)out->data)->size = (uint32_t)out->size;
    return KZ_OK;
}

static const struct kz_history_reader_ops reader_ops = {.get = get};

static void on_batch_end(void *arg)
{
    static kz_lsn results[] = {5, 6};
    static struct kz_wait_pending pending[] = {{1, "timeout"}};
    struct rig *rig = arg;
    struct kz_err err;

    for (size_t i = 0; i < rig->waiting_count; i++) {
        struct kz_submission *sub = rig->waiting[i];

        if (sub->wait_models) {
            assert_true(sub->wait_models[0]);
            sub->results = results;
            sub->result_count = 2;
            sub->pending = pending;
            sub->pending_count = sub->wait_models[1];
        }
        if (rig->fail)
            (void)kz_fail(&err, rig->fail, "told to fail");
        sub->done(sub, rig->fail, rig->fail ? &err : NULL);
    }
    rig->waiting_count = 0;
}

/* ---- the server ---- */

static void handle(void *arg, struct kz_http_request *req)
{
    struct rig *rig = arg;

    if (!kz_collect_handle(rig->collect, req))
        kz_http_respond(req, 418, NULL, KZ_STR_NULL, NULL, 0);
}

static enum kz_code admit(
        void *arg, const struct kz_http_request *req, size_t *body_max_bytes, struct kz_err *err)
{
    return kz_collect_admit(((struct rig *)arg)->collect, req, body_max_bytes, err);
}

static void drained(void *arg, size_t unanswered)
{
    struct rig *rig = arg;

    KZ_BUG_ON(unanswered);
    kz_http_server_free(kz_take(&rig->server));
    uv_close((uv_handle_t *)&rig->stop, NULL);
}

static void on_stop(uv_async_t *async)
{
    struct rig *rig = async->data;

    kz_http_server_stop(rig->server, 1000, drained, rig);
}

static void *run(void *arg)
{
    uv_run(&((struct rig *)arg)->loop, UV_RUN_DEFAULT);
    return NULL;
}

static int64_t clock_ms(void *arg)
{
    (void)arg;
    return NOW;
}

/* A signer whose keys lie in a file. */
static void open_push_auth(struct rig *rig)
{
    char path[] = "/tmp/kizashi-intake-XXXXXX";
    const struct kz_push_auth_options options = {
            .audience = "https://push", .email = "p@g", .keys = path};
    struct kz_buf keys = {0};
    int fd = mkstemp(path);

    rig->push_key = jwt_make_key(2048);
    kz_buf_cstr(&keys, "{\"keys\":[");
    jwt_put_jwk(rig->push_key, "k1", &keys);
    kz_buf_cstr(&keys, "]}");
    assert_int_equal(write(fd, keys.data, keys.size), keys.size);
    close(fd);
    kz_buf_done(&keys);
    assert_int_equal(kz_push_auth_open(&options, &rig->push_auth, &rig->err), KZ_OK);
    snprintf(rig->push_keys, sizeof(rig->push_keys), "%s", path);
}

static int up_rig(void **state, bool with_tokens)
{
    struct rig *rig = kz_calloc(1, sizeof(*rig));
    struct kz_http_handler handler = {
            .handle = handle, .admit = admit, .on_batch_end = on_batch_end, .arg = rig};
    struct kz_collect_options options = {.project = &project,
            .intake = &rig->intake,
            .query = &rig->query,
            .clock_ms = clock_ms,
            .body_max_bytes = 1 << 20,
            .inflated_max_bytes = 2 << 20};
    char url[60];

    rig->intake.ops = &intake_ops;
    rig->reader.ops = &reader_ops;
    rig->query.reader = &rig->reader;
    rig->fs = kz_fs_sim_new(1);
    if (kz_auth_open(rig->fs, "/", &rig->auth, &rig->err) != KZ_OK)
        fail_msg("%s", rig->err.message);
    options.auth = rig->auth;
    if (with_tokens)
        open_push_auth(rig);
    options.push_auth = rig->push_auth;
    rig->collect = kz_collect_new(&options);
    uv_loop_init(&rig->loop);
    uv_async_init(&rig->loop, &rig->stop, on_stop);
    rig->stop.data = rig;
    rig->server = kz_http_server_new(&rig->loop, NULL, &handler);
    assert_int_equal(kz_http_server_listen(rig->server, "127.0.0.1:0", &rig->err), KZ_OK);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u", kz_http_server_port(rig->server));
    pthread_create(&rig->thread, NULL, run, rig);
    assert_int_equal(kz_http_client_new(url, &rig->client, &rig->err), KZ_OK);
    *state = rig;
    return 0;
}

static int up(void **state)
{
    return up_rig(state, false);
}

static int up_with_tokens(void **state)
{
    return up_rig(state, true);
}

static int down(void **state)
{
    struct rig *rig = *state;

    kz_http_client_free(rig->client);
    uv_async_send(&rig->stop);
    pthread_join(rig->thread, NULL);
    assert_int_equal(uv_loop_close(&rig->loop), 0);
    assert_int_equal(kz_collect_counters(rig->collect)->inflated_bytes, 0);
    kz_collect_free(rig->collect);
    kz_auth_close(rig->auth);
    kz_push_auth_close(rig->push_auth);
    EVP_PKEY_free(rig->push_key);
    if (rig->push_keys[0])
        unlink(rig->push_keys);
    kz_fs_sim_free(rig->fs);
    for (size_t i = 0; i < rig->seen_count; i++)
        free(rig->seen[i]);
    kz_buf_done(&rig->log);
    free(rig);
    return 0;
}

/* "Name: value" headers, up to a NULL. */
static int post_n(struct rig *rig, const char *method, const char *path, struct kz_str body, ...)
{
    struct kz_http_client_header headers[8];
    size_t count = 0;
    va_list args;
    const char *line;

    va_start(args, body);
    while ((line = va_arg(args, const char *))) {
        const char *colon = strchr(line, ':');

        headers[count++] = (struct kz_http_client_header){
                kz_str_n(line, (size_t)(colon - line)), kz_str(colon + 2)};
    }
    va_end(args);
    kz_buf_clear(&rig->log);
    if (kz_http_client_request(rig->client, method, path, headers, count, body, WAIT_MS,
                &rig->answer, &rig->err) != KZ_OK)
        fail_msg("%s", rig->err.message);
    kz_buf_char(&rig->log, '\0');
    return rig->answer.status;
}

static int post(struct rig *rig, const char *path, const char *body)
{
    return post_n(rig, "POST", path, kz_str(body), NULL);
}

static void answered(struct rig *rig, const char *expected)
{
    if (!kz_str_is(rig->answer.body, expected))
        fail_msg("answered " KZ_STR_FMT "\ninstead of %s", KZ_STR_ARG(rig->answer.body), expected);
}

static void answer_has(struct rig *rig, const char *part)
{
    if (!memmem(rig->answer.body.ptr, rig->answer.body.size, part, strlen(part)))
        fail_msg("answered " KZ_STR_FMT "\nwithout %s", KZ_STR_ARG(rig->answer.body), part);
}

/* ---- tests ---- */

static void events_in_each_form(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(
            post(rig, "/v1/events", "{\"event_id\":\"e1\",\"user_id\":\"u1\",\"name\":\"view\"}"),
            200);
    answered(rig, "{\"accepted\":1,\"duplicates\":0,\"rejected\":[]}\n");
    assert_string_equal(rig->log.data, "u1//e1 view\n");

    assert_int_equal(post(rig, "/v1/events/",
                             "[{\"event_id\":\"e1\",\"user_id\":\"u1\",\"name\":\"view\"},"
                             "{\"user_id\":\"u2\",\"name\":\"view\"},{\"name\":\"x\"}]"),
            200);
    answered(rig, "{\"accepted\":1,\"duplicates\":1,\"event_ids\":[\"e1\",\"made-"
                  "00000000000000000001\",null],"
                  "\"rejected\":[{\"index\":2,\"code\":\"missing_user\",\"message\":\"user_id and "
                  "anonymous_id are both missing\"}]}\n");
    assert_string_equal(rig->log.data,
            "u2//made-00000000000000000001 view\nrejected missing_user {\"name\":\"x\"}\n");

    assert_int_equal(post(rig, "/v1/events",
                             "{\"event_id\":1,\"user_id\":\"u3\",\"name\":\"a\"}\n{broken\n"
                             "{\"event_id\":2,\"user_id\":\"u3\",\"name\":\"b\",\"extra\":1}\n"),
            200);
    answered(rig, "{\"accepted\":2,\"duplicates\":0,\"rejected\":[{\"index\":1,\"code\":\"bad_"
                  "json\",\"message\":"
                  "\"unexpected 'b' at byte 1, expected a member "
                  "name\"}],\"ignored_fields\":[\"extra\"]}\n");
    assert_int_equal(post(rig, "/v1/events", "[]"), 200);
    answered(rig, "{\"accepted\":0,\"duplicates\":0,\"rejected\":[]}\n");
}

static void one_rejected_event_is_400(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(post(rig, "/v1/events",
                             "{\"user_id\":\"u1\",\"name\":\"v\",\"props\":{\"price\":\"x\"}}"),
            400);
    answer_has(rig,
            "{\"accepted\":0,\"duplicates\":0,\"rejected\":[{\"index\":0,\"code\":\"bad_column\"");
    answer_has(rig, "\"error\":{\"code\":\"invalid\",\"message\":\"column \\\"price\\\" (props "
                    "$.price) must be a number");
    assert_string_equal(rig->log.data,
            "rejected bad_column "
            "{\"user_id\":\"u1\",\"name\":\"v\",\"props\":{\"price\":\"x\"}}\n");
    /* In a list it is one of the list. */
    assert_int_equal(post(rig, "/v1/events", "[{\"name\":\"v\"}]"), 200);
}

static void broken_text_is_kept(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(post(rig, "/v1/events", "[{\"user_id\":\"u\",\"name\":\"n\"},"), 400);
    answer_has(rig, "\"message\":\"unexpected end at byte 28, expected a value\"");
    assert_string_equal(rig->log.data, "rejected bad_json [{\"user_id\":\"u\",\"name\":\"n\"},\n");
    assert_int_equal(post(rig, "/v1/events", ""), 400);
    answer_has(rig, "the body is empty");
    assert_string_equal(rig->log.data, "");
}

static void gzip_by_content(void **state)
{
    struct rig *rig = *state;
    struct kz_buf packed = {0}, zeros = {0};

    assert_int_equal(kz_gzip_deflate(KZ_STR("{\"event_id\":1,\"user_id\":\"u\",\"name\":\"n\"}"), 6,
                             &packed, NULL),
            KZ_OK);
    assert_int_equal(
            post_n(rig, "POST", "/v1/events", kz_buf_view(&packed), "Content-Encoding: gzip", NULL),
            200);
    assert_string_equal(rig->log.data, "u//1 n\n");
    assert_int_equal(post_n(rig, "POST", "/v1/events", kz_buf_view(&packed), NULL), 200);
    answer_has(rig, "\"duplicates\":1");
    packed.size -= 9;
    assert_int_equal(post_n(rig, "POST", "/v1/events", kz_buf_view(&packed), NULL), 400);
    assert_int_equal(
            post_n(rig, "POST", "/v1/events", KZ_STR("{}"), "Content-Encoding: br", NULL), 400);
    answer_has(rig, "\\\"br\\\"");
    /* A body that becomes larger than the limit is refused, and not kept. */
    memset(kz_buf_extend(&zeros, 3 << 20), ' ', 3 << 20);
    kz_buf_clear(&packed);
    assert_int_equal(kz_gzip_deflate(kz_buf_view(&zeros), 9, &packed, NULL), KZ_OK);
    assert_int_equal(post_n(rig, "POST", "/v1/events", kz_buf_view(&packed), NULL), 413);
    /* And so is one that is too large as it is. */
    assert_int_equal(post_n(rig, "POST", "/v1/events", kz_buf_view(&zeros), NULL), 413);
    kz_buf_done(&packed);
    kz_buf_done(&zeros);
}

static void calls_answer_as_their_clients_expect(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(post_n(rig, "POST", "/v1/batch",
                             KZ_STR("{\"batch\":[{\"type\":\"track\",\"userId\":\"u1\",\"event\":"
                                    "\"Buy\",\"messageId\":\"m1\"},"
                                    "{\"type\":\"page\",\"anonymousId\":\"a1\",\"messageId\":"
                                    "\"m2\"},{\"type\":\"track\"}]}"),
                             "Authorization: Basic V0s6",
                             "Content-Type: application/x-www-form-urlencoded", NULL),
            200);
    answered(rig, "{\"success\":true,\"accepted\":2,\"duplicates\":0,\"rejected\":[{\"index\":2,"
                  "\"code\":\"missing_user\","
                  "\"message\":\"userId and anonymousId are both missing\"}]}\n");
    assert_string_equal(
            rig->log.data, "u1//m1 Buy\n/a1/m2 page\nrejected missing_user {\"type\":\"track\"}\n");
    assert_int_equal(
            post(rig, "/v1/track", "{\"userId\":\"u1\",\"event\":\"Buy\",\"messageId\":\"m3\"}"),
            200);
    assert_int_equal(
            post(rig, "/v1/t", "{\"userId\":\"u1\",\"event\":\"Buy\",\"messageId\":\"m3\"}"), 200);
    answer_has(rig, "\"duplicates\":1");
    assert_int_equal(post(rig, "/v1/identify", "{\"userId\":[]}"), 400);
    answer_has(rig, "{\"success\":false,\"accepted\":0");
    assert_int_equal(post(rig, "/v1/batch", "{}"), 400);
    answer_has(rig, "\\\"batch\\\" is missing");
}

static void a_push_is_acked_once_kept(void **state)
{
    struct rig *rig = *state;
    struct kz_buf body = {0};

    kz_buf_cstr(&body, "{\"message\":{\"data\":\"");
    kz_base64_encode(KZ_STR("{\"user_id\":\"u\",\"name\":\"n\"}\n{\"user_id\":\"u\",\"name\":\"m\","
                            "\"event_id\":\"e\"}"),
            KZ_BASE64_STD, &body);
    kz_buf_cstr(&body, "\",\"messageId\":\"42\",\"publishTime\":\"2026-11-23T23:00:00Z\"},"
                       "\"subscription\":\"s\"}");
    for (int redelivered = 0; redelivered < 2; redelivered++) {
        assert_int_equal(post_n(rig, "POST", "/v1/pubsub/push", kz_buf_view(&body), NULL), 204);
        assert_string_equal(rig->log.data, redelivered ? "" : "u//pubsub-42-0 n\nu//e m\n");
    }
    assert_int_equal(post(rig, "/v1/pubsub/push", "{\"message\":{\"data\":\"e30tLQ==\"}}"), 204);
    assert_string_equal(rig->log.data, "rejected bad_json {}--\n");
    assert_int_equal(post(rig, "/v1/pubsub/push", "{\"message\":{\"data\":\"***\"}}"), 204);
    assert_string_equal(rig->log.data, "rejected bad_json {\"message\":{\"data\":\"***\"}}\n");
    assert_int_equal(post(rig, "/v1/pubsub/push", "{\"message\":{}}"), 204);
    assert_int_equal(post(rig, "/v1/pubsub/push", "{}"), 400);
    rig->fail = KZ_UNAVAILABLE;
    assert_int_equal(post_n(rig, "POST", "/v1/pubsub/push", kz_buf_view(&body), NULL), 503);
    kz_buf_done(&body);
}

static void waiting_gives_predictions(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(post(rig, "/v1/events?wait=purchase,leave&timeout_ms=50",
                             "{\"event_id\":\"e1\",\"user_id\":\"u1\",\"name\":\"view\"}"),
            200);
    answered(rig, "{\"accepted\":1,\"duplicates\":0,\"rejected\":[],\"predictions\":[{\"user_id\":"
                  "\"u1\",\"model\":\"purchase\","
                  "\"version\":\"1\",\"score\":0.25,\"output\":{\"p\":0.25},\"event_id\":\"e1\","
                  "\"as_of\":100,"
                  "\"computed_at\":101,\"expires_at\":102}],\"pending\":[{\"model\":\"leave\","
                  "\"reason\":\"timeout\"}]}\n");
    assert_int_equal(post(rig, "/v1/events?wait=nobody",
                             "{\"event_id\":\"e2\",\"user_id\":\"u1\",\"name\":\"view\"}"),
            400);
    answer_has(rig, "there is no model \\\"nobody\\\", there are: purchase, leave");
    assert_string_equal(rig->log.data, "");
    assert_int_equal(post(rig, "/v1/events?wait=purchase&timeout_ms=10001", "{}"), 400);
    assert_int_equal(post(rig, "/v1/events?wait=purchase&timeout_ms=x", "{}"), 400);
    assert_int_equal(post(rig, "/v1/events?wait=", "{\"user_id\":\"u1\",\"name\":\"view\"}"), 400);
}

static void overload_is_refused_early(void **state)
{
    struct rig *rig = *state;

    rig->not_ready = KZ_OVERLOADED;
    assert_int_equal(post(rig, "/v1/events", "{\"user_id\":\"u1\",\"name\":\"view\"}"), 503);
    assert_true(kz_http_client_header(rig->client, "retry-after").size > 0);
    answer_has(rig, "\"hint\"");
    rig->not_ready = KZ_NO_SPACE;
    assert_int_equal(post(rig, "/v1/events", "{\"user_id\":\"u1\",\"name\":\"view\"}"), 507);
    rig->not_ready = KZ_OK;
    rig->fail = KZ_NO_SPACE;
    assert_int_equal(post(rig, "/v1/events", "{\"user_id\":\"u1\",\"name\":\"view\"}"), 507);
    /* What could not be kept as a dead letter is not said to be wrong: the sender tries again. */
    assert_int_equal(post(rig, "/v1/events", "{"), 507);
    rig->fail = KZ_OK;
    assert_int_equal(post(rig, "/v1/events", "{\"user_id\":\"u1\",\"name\":\"view\"}"), 200);
}

static void other_paths_and_methods(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(post(rig, "/v1/users/u1/predictions", "{}"), 418);
    assert_int_equal(post(rig, "/v1/eventsx", "{}"), 418);
    assert_int_equal(post_n(rig, "GET", "/v1/events", KZ_STR_NULL, NULL), 405);
    assert_true(kz_str_is(kz_http_client_header(rig->client, "allow"), "POST, OPTIONS"));
}

/* The status of a request with a Host of its own; 0 where the server hung up. */
static int status_for_host(struct rig *rig, const char *host)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
            .sin_port = htons((uint16_t)kz_http_server_port(rig->server)),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char text[300], *at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    ssize_t got,
            size = snprintf(text, sizeof(text),
                    "POST /v1/events HTTP/1.1\r\nHost: %s\r\nContent-Length: 2\r\n\r\n[]", host);

    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    assert_int_equal(write(fd, text, (size_t)size), size);
    got = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[got > 0 ? got : 0] = '\0';
    at = strchr(text, ' ');
    return at ? atoi(at) : 0;
}

static void a_rebound_name_gets_nowhere(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(status_for_host(rig, "localhost:8080"), 200);
    assert_int_equal(status_for_host(rig, "[::1]"), 200);
    assert_int_equal(status_for_host(rig, "evil.example"), 403);
    assert_int_equal(status_for_host(rig, "127.0.0.1.evil.example:80"), 403);
    assert_int_equal(status_for_host(rig, "localhost.evil.example"), 403);
}

static void open_mode_is_for_this_machine(void **state)
{
    static const char body[] = "{\"user_id\":\"u1\",\"name\":\"view\"}";
    struct rig *rig = *state;

    assert_int_equal(
            post_n(rig, "POST", "/v1/events", kz_str(body), "Origin: https://evil.example", NULL),
            403);
    answer_has(rig, "evil.example");
    assert_int_equal(post_n(rig, "POST", "/v1/events", kz_str(body), "Origin: null", NULL), 403);
    assert_int_equal(post_n(rig, "POST", "/v1/events", kz_str(body),
                             "Origin: http://localhost.evil.example", NULL),
            403);
    assert_int_equal(
            post_n(rig, "POST", "/v1/events", kz_str(body), "X-Forwarded-For: 203.0.113.1", NULL),
            401);
    assert_int_equal(
            post_n(rig, "POST", "/v1/events", kz_str(body), "Origin: http://localhost:3000", NULL),
            200);
    assert_true(kz_str_is(kz_http_client_header(rig->client, "access-control-allow-origin"),
            "http://localhost:3000"));
    assert_int_equal(post_n(rig, "OPTIONS", "/v1/events", KZ_STR_NULL,
                             "Origin: http://localhost:3000", NULL),
            204);
    assert_int_equal(
            post_n(rig, "OPTIONS", "/v1/events", KZ_STR_NULL, "Origin: https://evil.example", NULL),
            403);
}

static void keys_guard_the_door(void **state)
{
    static const char *const names[] = {"view", "cart.*"};
    static const char *const origins[] = {"https://shop.example"};
    static const char body[] = "[{\"user_id\":\"u1\",\"name\":\"view\",\"event_id\":1},"
                               "{\"user_id\":\"u1\",\"name\":\"purchase\",\"event_id\":2}]";
    struct rig *rig = *state;
    struct kz_key_spec web = {.name = "web",
            .kind = KZ_KEY_WRITE,
            .events = names,
            .event_count = 2,
            .origins = origins,
            .origin_count = 1,
            .rate = 100};
    struct kz_key_spec server = {.name = "server", .kind = KZ_KEY_READ};
    struct kz_key_spec push = {.name = "push", .kind = KZ_KEY_WRITE};
    char web_secret[KZ_SECRET_BYTES], server_secret[KZ_SECRET_BYTES], push_secret[KZ_SECRET_BYTES];
    char bearer[80], call[200];
    struct kz_buf basic = {0};

    assert_int_equal(kz_auth_create(rig->auth, &web, 1, web_secret, NULL, &rig->err), KZ_OK);
    assert_int_equal(kz_auth_create(rig->auth, &server, 1, server_secret, NULL, &rig->err), KZ_OK);
    assert_int_equal(kz_auth_create(rig->auth, &push, 1, push_secret, NULL, &rig->err), KZ_OK);
    assert_int_equal(post(rig, "/v1/events", body), 401);
    assert_string_equal(rig->log.data, "");
    assert_int_equal(post_n(rig, "POST", "/v1/events", kz_str(body),
                             "Authorization: Bearer kz_w_nonsense", NULL),
            401);

    snprintf(bearer, sizeof(bearer), "Authorization: Bearer %s", web_secret);
    assert_int_equal(post_n(rig, "POST", "/v1/events", kz_str(body), bearer,
                             "Origin: https://shop.example", NULL),
            200);
    answer_has(rig, "\"accepted\":1");
    answer_has(rig, "\"code\":\"name_not_allowed\"");
    assert_true(kz_str_is(kz_http_client_header(rig->client, "access-control-allow-origin"),
            "https://shop.example"));
    assert_int_equal(post_n(rig, "POST", "/v1/events", kz_str(body), bearer,
                             "Origin: https://evil.example", NULL),
            403);
    assert_int_equal(post_n(rig, "POST", "/v1/events", kz_str(body), bearer, NULL), 403);
    assert_int_equal(post_n(rig, "POST", "/v1/events?wait=purchase", kz_str(body), bearer,
                             "Origin: https://shop.example", NULL),
            403);
    answer_has(rig, "this takes a read key");

    snprintf(bearer, sizeof(bearer), "Authorization: Bearer %s", server_secret);
    assert_int_equal(
            post_n(rig, "POST", "/v1/events?wait=purchase", kz_str(body), bearer, NULL), 200);
    answer_has(rig, "\"predictions\":[");

    /* Segment's client for browsers has the key in the body. */
    snprintf(call, sizeof(call),
            "{\"userId\":\"u\",\"event\":\"view\",\"messageId\":\"m\",\"writeKey\":\"%s\"}",
            web_secret);
    assert_int_equal(
            post_n(rig, "POST", "/v1/track", kz_str(call), "Origin: https://shop.example", NULL),
            200);
    snprintf(call, sizeof(call),
            "{\"userId\":\"u\",\"event\":\"view\",\"messageId\":\"m\",\"writeKey\":\"%s\"}",
            server_secret);
    assert_int_equal(post(rig, "/v1/track", call), 403);
    assert_int_equal(post(rig, "/v1/track", "{\"userId\":\"u\",\"event\":\"view\"}"), 401);
    assert_int_equal(post(rig, "/v1/track", "{"), 401);
    assert_string_equal(rig->log.data, "");

    /* As Segment's clients for servers send it, and as Pub/Sub can. */
    kz_buf_cstr(&basic, "Authorization: Basic ");
    snprintf(call, sizeof(call), "%s:", server_secret);
    kz_base64_encode(kz_str(call), KZ_BASE64_STD, &basic);
    kz_buf_char(&basic, '\0');
    assert_int_equal(post_n(rig, "POST", "/v1/track", KZ_STR("{\"userId\":\"u\",\"event\":\"x\"}"),
                             basic.data, NULL),
            200);
    kz_buf_done(&basic);
    snprintf(call, sizeof(call), "/v1/pubsub/push?key=%s", push_secret);
    assert_int_equal(post(rig, call, "{\"message\":{\"data\":\"W10=\"}}"), 204);
    snprintf(call, sizeof(call), "/v1/pubsub/push?key=%s", server_secret);
    assert_int_equal(post(rig, call, "{\"message\":{\"data\":\"W10=\"}}"), 403);
    snprintf(call, sizeof(call), "/v1/events?key=%s", push_secret);
    assert_int_equal(post(rig, call, "[]"), 401);

    assert_int_equal(kz_auth_revoke(rig->auth, "server", 2, &rig->err), KZ_OK);
    assert_int_equal(post_n(rig, "POST", "/v1/events", kz_str(body), bearer, NULL), 401);
}

/* With tokens configured, a push shows one; a key is of no use, and open mode neither. */
static void a_push_shows_a_token_where_they_are_asked_for(void **state)
{
    static const char good[] =
            "{\"iss\":\"https://accounts.google.com\",\"aud\":\"https://push\",\"email\":\"p@g\","
            "\"email_verified\":true,\"exp\":99999999999}";
    static const char other[] =
            "{\"iss\":\"https://accounts.google.com\",\"aud\":\"https://else\",\"email\":\"p@g\","
            "\"email_verified\":true,\"exp\":99999999999}";
    static const char header[] = "{\"alg\":\"RS256\",\"kid\":\"k1\"}";
    static const char push[] =
            "{\"message\":{\"data\":\"eyJ1c2VyX2lkIjoidTEiLCJuYW1lIjoidmlldyJ9\",\"messageId\":\"7\"}}";
    struct rig *rig = *state;
    struct kz_key_spec spec = {.name = "push", .kind = KZ_KEY_WRITE};
    char secret[KZ_SECRET_BYTES], path[80], *tokens[2];
    struct kz_buf lines[2] = {0};

    tokens[0] = jwt_sign(rig->push_key, header, good);
    tokens[1] = jwt_sign(rig->push_key, header, other);
    for (size_t i = 0; i < 2; i++) {
        kz_buf_printf(&lines[i], "Authorization: Bearer %s", tokens[i]);
        kz_buf_char(&lines[i], '\0');
    }
    while (post_n(rig, "POST", "/v1/pubsub/push", kz_str(push), lines[0].data, NULL) == 503)
        ; /* until the keys have been read */
    assert_int_equal(rig->answer.status, 204);
    assert_string_equal(rig->log.data, "u1//pubsub-7-0 view\n");
    assert_int_equal(post(rig, "/v1/pubsub/push", push), 401);
    answer_has(rig, "the push has no token");
    assert_int_equal(
            post_n(rig, "POST", "/v1/pubsub/push", kz_str(push), lines[1].data, NULL), 403);
    answer_has(rig, "audience");
    assert_string_equal(rig->log.data, "");
    /* Neither is a token of use elsewhere once there are keys. */
    assert_int_equal(post(rig, "/v1/events", "{\"user_id\":\"u1\",\"name\":\"view\"}"), 200);
    assert_int_equal(kz_auth_create(rig->auth, &spec, 1, secret, NULL, &rig->err), KZ_OK);
    snprintf(path, sizeof(path), "/v1/pubsub/push?key=%s", secret);
    assert_int_equal(post(rig, path, push), 401);
    assert_int_equal(
            post_n(rig, "POST", "/v1/pubsub/push", kz_str(push), lines[0].data, NULL), 204);
    assert_int_equal(post_n(rig, "POST", "/v1/events",
                             KZ_STR("{\"user_id\":\"u1\",\"name\":\"view\"}"), lines[0].data, NULL),
            401);
    for (size_t i = 0; i < 2; i++) {
        free(tokens[i]);
        kz_buf_done(&lines[i]);
    }
}

/* Every text cut off everywhere, and with bytes broken: an answer below 500, and never silence. */
static void hostile_bodies(void **state)
{
    static const struct {
        const char *path, *body;
    } rows[] = {
            {"/v1/events", "[{\"event_id\":\"e\\u00e9\",\"user_id\":\"u\",\"name\":\"n\",\"ts\":1,"
                           "\"props\":{\"price\":1}}]"},
            {"/v1/events?wait=purchase",
                    "{\"user_id\":\"u\",\"name\":\"n\"}\n{\"user_id\":1,\"name\":\"n\"}"},
            {"/v1/batch", "{\"batch\":[{\"type\":\"page\",\"userId\":\"u\",\"name\":\"x\","
                          "\"context\":{}}],\"sentAt\":\"2026-11-23T23:00:00Z\"}"},
            {"/v1/alias", "{\"userId\":\"u\",\"previousId\":\"a\",\"properties\":{\"a\":[1]},"
                          "\"context\":{\"b\":2}}"},
            {"/v1/pubsub/push",
                    "{\"message\":{\"data\":\"eyJ1c2VyX2lkIjoxfQ==\",\"messageId\":\"1\"}}"},
    };
    static const char bytes[] = "\0\xff{[\"";
    struct rig *rig = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        size_t size = strlen(rows[i].body);

        for (size_t at = 0; at < size; at += 2) {
            char *copy = kz_strndup(rows[i].body, size);
            int status = post_n(rig, "POST", rows[i].path, kz_str_n(copy, at), NULL);

            assert_in_range(status, 200, 499);
            copy[at] = bytes[at % (sizeof(bytes) - 1)];
            status = post_n(rig, "POST", rows[i].path, kz_str_n(copy, size), NULL);
            assert_in_range(status, 200, 499);
            free(copy);
        }
        while (rig->seen_count)
            free(rig->seen[--rig->seen_count]);
    }
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, up, down)
    const struct CMUnitTest tests[] = {
            T(events_in_each_form),
            T(one_rejected_event_is_400),
            T(broken_text_is_kept),
            T(gzip_by_content),
            T(calls_answer_as_their_clients_expect),
            T(a_push_is_acked_once_kept),
            T(waiting_gives_predictions),
            T(overload_is_refused_early),
            T(other_paths_and_methods),
            T(a_rebound_name_gets_nowhere),
            T(open_mode_is_for_this_machine),
            T(keys_guard_the_door),
            cmocka_unit_test_setup_teardown(
                    a_push_shows_a_token_where_they_are_asked_for, up_with_tokens, down),
            T(hostile_bodies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
