/* Webhooks against a real server on this thread's loop. */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <stdio.h>
#include <stdlib.h>

#include "act/webhook.h"
#include "codec/crypto.h"
#include "codec/hex.h"
#include "sys/clock.h"
#include "sys/http.h"

enum { DEADLINE_MS = 60000, KEPT_MAX = 128 };

struct rig {
    uv_loop_t loop;
    uv_async_t woken;
    uv_timer_t tick; /* keeps a turn of the loop from lasting for ever */
    struct kz_http_server *server;
    struct kz_webhooks *webhooks;
    int status; /* what the server answers; 0: it keeps the request */
    size_t answer_bytes;
    struct kz_http_request *kept[KEPT_MAX];
    size_t kept_count;
    size_t request_count;
    char idempotency[64], timestamp[32], signature[80], type[64], body[256];
    struct kz_webhook_attempt *outcomes;
    size_t outcome_count;
    bool drained;
};

static void copy(char *out, size_t size, struct kz_str s)
{
    snprintf(out, size, KZ_STR_FMT, KZ_STR_ARG(s));
}

static void handle(void *arg, struct kz_http_request *req)
{
    struct rig *rig = arg;
    struct kz_http_header location = {KZ_STR("Location"), KZ_STR("/elsewhere")};
    struct kz_buf body = {0};

    rig->request_count++;
    copy(rig->idempotency, sizeof(rig->idempotency),
            kz_http_request_header(req, "Idempotency-Key"));
    copy(rig->timestamp, sizeof(rig->timestamp), kz_http_request_header(req, "Kizashi-Timestamp"));
    copy(rig->signature, sizeof(rig->signature), kz_http_request_header(req, "Kizashi-Signature"));
    copy(rig->type, sizeof(rig->type), kz_http_request_header(req, "Content-Type"));
    copy(rig->body, sizeof(rig->body), req->body);
    if (!rig->status) {
        assert_true(rig->kept_count < KEPT_MAX);
        rig->kept[rig->kept_count++] = req;
        return;
    }
    memset(kz_buf_extend(&body, rig->answer_bytes + 1), 'x', rig->answer_bytes + 1);
    kz_http_respond(req, rig->status, "text/plain", kz_str_n(body.data, rig->answer_bytes),
            &location, rig->status == 302);
    kz_buf_done(&body);
}

static void on_wake(void *arg)
{
    struct rig *rig = arg;

    uv_async_send(&rig->woken);
}

static void on_woken(uv_async_t *async)
{
    struct rig *rig = async->data;
    struct kz_webhook_attempt *attempt = kz_webhooks_take(rig->webhooks);

    while (attempt) {
        struct kz_webhook_attempt *next = attempt->next;

        attempt->next = rig->outcomes;
        rig->outcomes = attempt;
        rig->outcome_count++;
        attempt = next;
    }
}

static void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

static int setup(void **state)
{
    struct rig *rig = kz_calloc(1, sizeof(*rig));
    struct kz_http_handler handler = {.handle = handle, .arg = rig};
    struct kz_err err;

    unsetenv("http_proxy");
    assert_int_equal(uv_loop_init(&rig->loop), 0);
    uv_async_init(&rig->loop, &rig->woken, on_woken);
    rig->woken.data = rig;
    uv_timer_init(&rig->loop, &rig->tick);
    uv_timer_start(&rig->tick, on_tick, 20, 20);
    rig->server = kz_http_server_new(&rig->loop, NULL, &handler);
    assert_int_equal(kz_http_server_listen(rig->server, "127.0.0.1:0", &err), KZ_OK);
    assert_int_equal(kz_webhooks_open(on_wake, rig, &rig->webhooks, &err), KZ_OK);
    rig->status = 200;
    *state = rig;
    return 0;
}

static void on_drained(void *arg, size_t unanswered)
{
    struct rig *rig = arg;

    (void)unanswered; /* they are answered below */
    rig->drained = true;
}

static int teardown(void **state)
{
    struct rig *rig = *state;

    kz_webhooks_close(rig->webhooks);
    for (size_t i = 0; i < rig->kept_count; i++)
        kz_http_respond(rig->kept[i], 200, NULL, KZ_STR_NULL, NULL, 0);
    kz_http_server_stop(rig->server, 1000, on_drained, rig);
    while (!rig->drained)
        uv_run(&rig->loop, UV_RUN_ONCE);
    kz_http_server_free(rig->server);
    while (rig->outcomes) {
        struct kz_webhook_attempt *next = rig->outcomes->next;

        kz_webhook_attempt_free(rig->outcomes);
        rig->outcomes = next;
    }
    uv_close((uv_handle_t *)&rig->woken, NULL);
    uv_close((uv_handle_t *)&rig->tick, NULL);
    uv_run(&rig->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&rig->loop), 0);
    free(rig);
    return 0;
}

static struct kz_webhook_attempt *attempt_to(const char *url, const char *secret, uint64_t decision)
{
    struct kz_webhook_attempt *attempt = kz_calloc(1, sizeof(*attempt));

    attempt->decision = decision;
    attempt->attempt_count = 1;
    attempt->url = kz_strdup(url);
    attempt->secret = secret ? kz_strdup(secret) : NULL;
    attempt->project = kz_strdup("shop");
    attempt->timeout_ms = DEADLINE_MS;
    kz_buf_cstr(&attempt->body, "{\"action\":\"coupon\"}");
    return attempt;
}

static void submit(struct rig *rig, const char *secret, uint64_t decision, int64_t timeout_ms)
{
    char url[64];
    struct kz_webhook_attempt *attempt;

    snprintf(url, sizeof(url), "http://127.0.0.1:%u/hook", kz_http_server_port(rig->server));
    attempt = attempt_to(url, secret, decision);
    attempt->timeout_ms = timeout_ms;
    assert_true(kz_webhooks_submit(rig->webhooks, attempt));
}

static void run_until(struct rig *rig, const size_t *what, size_t count)
{
    int64_t until_ms = kz_mono_ms() + DEADLINE_MS;

    while (*what < count) {
        assert_true(kz_mono_ms() < until_ms);
        uv_run(&rig->loop, UV_RUN_ONCE);
    }
}

static const struct kz_webhook_attempt *post_one(struct rig *rig, const char *secret)
{
    submit(rig, secret, 42, DEADLINE_MS);
    run_until(rig, &rig->outcome_count, 1);
    return rig->outcomes;
}

static void a_post_is_signed_and_carries_its_key(void **state)
{
    struct rig *rig = *state;
    const struct kz_webhook_attempt *outcome = post_one(rig, "s3cret");
    uint8_t mac[KZ_SHA256_BYTES];
    char text[400], hex[2 * KZ_SHA256_BYTES + 1], expected[80];

    assert_true(outcome->ok);
    assert_false(outcome->final);
    assert_string_equal(outcome->detail, "200");
    assert_string_equal(rig->idempotency, "kz-shop-42");
    assert_string_equal(rig->type, "application/json");
    assert_string_equal(rig->body, "{\"action\":\"coupon\"}");
    assert_true(llabs(strtoll(rig->timestamp, NULL, 10) - kz_clock_ms() / 1000) <= 60);
    /* As a receiver would check it. */
    snprintf(text, sizeof(text), "%s.%s", rig->timestamp, rig->body);
    kz_hmac_sha256(KZ_STR("s3cret"), kz_str(text), mac);
    snprintf(expected, sizeof(expected), "v1=%s", kz_hex(mac, sizeof(mac), hex));
    assert_string_equal(rig->signature, expected);
}

static void without_a_secret_there_is_no_signature(void **state)
{
    struct rig *rig = *state;

    assert_true(post_one(rig, NULL)->ok);
    assert_string_equal(rig->signature, "");
}

static void what_a_status_means(void **state)
{
    static const struct {
        int status;
        bool ok, final;
        const char *detail;
    } rows[] = {
            {204, true, false, "204"},
            {302, false, false, "302 Found"},
            {400, false, true, "400 Bad Request"},
            {404, false, true, "404 Not Found"},
            {408, false, false, "408 Request Timeout"},
            {425, false, false, "425 Unknown"},
            {429, false, false, "429 Too Many Requests"},
            {500, false, false, "500 Internal Server Error"},
            {503, false, false, "503 Service Unavailable"},
    };
    struct rig *rig = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        rig->status = rows[i].status;
        submit(rig, NULL, i, DEADLINE_MS);
        run_until(rig, &rig->outcome_count, i + 1);
        assert_int_equal(rig->outcomes->ok, rows[i].ok);
        assert_int_equal(rig->outcomes->final, rows[i].final);
        assert_string_equal(rig->outcomes->detail, rows[i].detail);
    }
    /* A redirection was not followed, and one connection served all. */
    assert_int_equal(rig->request_count, KZ_ARRAY_COUNT(rows));
    assert_int_equal(kz_http_server_counters(rig->server)->connections_total, 1);
}

static void a_long_answer_is_an_answer(void **state)
{
    struct rig *rig = *state;

    rig->answer_bytes = 1 << 20;
    assert_true(post_one(rig, NULL)->ok);
}

static void silence_ends_with_the_timeout(void **state)
{
    struct rig *rig = *state;

    rig->status = 0;
    submit(rig, NULL, 1, 100);
    run_until(rig, &rig->outcome_count, 1);
    assert_false(rig->outcomes->ok);
    assert_false(rig->outcomes->final);
    assert_string_equal(rig->outcomes->detail, "no answer within 100 ms");
}

static void nobody_there(void **state)
{
    struct rig *rig = *state;

    /* Port 1 of this machine: nothing listens. */
    assert_true(kz_webhooks_submit(rig->webhooks, attempt_to("http://127.0.0.1:1/", NULL, 1)));
    run_until(rig, &rig->outcome_count, 1);
    assert_false(rig->outcomes->ok);
    assert_false(rig->outcomes->final);
    assert_memory_equal(rig->outcomes->detail, "could not connect: ", 19);
}

static void urls_that_are_none_are_final(void **state)
{
    static const char *const urls[] = {"file:///etc/passwd", "gopher://127.0.0.1/", "http://", ""};
    struct rig *rig = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(urls); i++) {
        assert_true(kz_webhooks_submit(rig->webhooks, attempt_to(urls[i], NULL, 1)));
        run_until(rig, &rig->outcome_count, i + 1);
        assert_false(rig->outcomes->ok);
        assert_true(rig->outcomes->final);
    }
}

static void more_than_can_be_under_way_wait_or_are_refused(void **state)
{
    struct rig *rig = *state;
    struct kz_webhook_attempt *one_more = attempt_to("http://127.0.0.1:1/", NULL, 1);

    rig->status = 0;
    for (uint64_t i = 0; i < 256; i++)
        submit(rig, NULL, i, 10 * DEADLINE_MS);
    assert_false(kz_webhooks_submit(rig->webhooks, one_more));
    kz_webhook_attempt_free(one_more);
    run_until(rig, &rig->request_count, 64);
    /* Let them go: the rest follows, never more than 64 at a time. */
    rig->status = 200;
    assert_int_equal(kz_http_server_counters(rig->server)->connections_open, 64);
    while (rig->kept_count)
        kz_http_respond(rig->kept[--rig->kept_count], 200, NULL, KZ_STR_NULL, NULL, 0);
    run_until(rig, &rig->outcome_count, 256);
    assert_int_equal(kz_http_server_counters(rig->server)->connections_total, 64);
}

static void closing_while_busy_cuts_off(void **state)
{
    struct rig *rig = *state;
    int64_t began_ms;

    rig->status = 0;
    for (uint64_t i = 0; i < 100; i++)
        submit(rig, NULL, i, 10 * DEADLINE_MS);
    run_until(rig, &rig->request_count, 64);
    began_ms = kz_mono_ms();
    kz_webhooks_close(rig->webhooks);
    rig->webhooks = NULL;
    assert_true(kz_mono_ms() - began_ms < DEADLINE_MS);
}

static void attempts_back_off(void **state)
{
    static const struct {
        uint32_t count;
        double dice;
        int64_t ms;
    } rows[] = {
            {0, 0.5, 1000},
            {1, 0.5, 1000},
            {1, 0, 800},
            {2, 0.5, 2000},
            {5, 0.5, 16000},
            {10, 0.5, 512000},
            {11, 0.5, 600000},
            {4000000000u, 0, 480000},
    };

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++)
        assert_int_equal(kz_webhook_retry_ms(rows[i].count, rows[i].dice), rows[i].ms);
}

int main(void)
{
#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
            WITH_RIG(a_post_is_signed_and_carries_its_key),
            WITH_RIG(without_a_secret_there_is_no_signature),
            WITH_RIG(what_a_status_means),
            WITH_RIG(a_long_answer_is_an_answer),
            WITH_RIG(silence_ends_with_the_timeout),
            WITH_RIG(nobody_there),
            WITH_RIG(urls_that_are_none_are_final),
            WITH_RIG(more_than_can_be_under_way_wait_or_are_refused),
            WITH_RIG(closing_while_busy_cuts_off),
            cmocka_unit_test(attempts_back_off),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
