#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "app/commands/projecttest.h"

static struct kz_model_def models[] = {{.name = "buy"}};
static struct kz_trigger_def triggers[] = {{.name = "looking"}};
static struct kz_action_def actions[] = {{.name = "coupon"}};
static const struct kz_project project = {
        .models = models,
        .model_count = 1,
        .triggers = triggers,
        .trigger_count = 1,
        .actions = actions,
        .action_count = 1,
};

static void note(void *arg, const struct kz_err *err)
{
    kz_buf_printf(arg, "%s\n", err->message);
}

/* Reads `text` as a test; the problems go to `out`. */
static enum kz_code read_text(
        struct kz_arena *arena, const char *text, struct kz_project_test *test, struct kz_buf *out)
{
    char path[] = "/tmp/projecttest-XXXXXX";
    int fd = mkstemp(path);
    struct kz_err err;
    enum kz_code rc;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    rc = kz_project_test_read(arena, &project, path, "t.yaml", note, out, test, &err);
    unlink(path);
    return rc;
}

static void assert_text(struct kz_buf *buf, const char *expected)
{
    kz_buf_char(buf, '\0');
    assert_string_equal(buf->data, expected);
    kz_buf_done(buf);
}

static void test_every_problem_has_its_place(void **state)
{
    struct kz_arena arena;
    struct kz_project_test test;
    struct kz_buf out = {0};

    (void)state;
    kz_arena_init(&arena, 0);
    assert_int_equal(read_text(&arena,
                             "name: n\n"
                             "start: soon\n"
                             "events:\n"
                             "  - {at: 1s, user: u, nane: view}\n"
                             "expect:\n"
                             "  requests: [{at: x, user: u, model: sell, trigger: looking}]\n"
                             "  actions: [{at: 0s, user: u, action: coupon, decision: none}]\n",
                             &test, &out),
            KZ_CONFIG);
    assert_text(&out,
            "t.yaml:2:8: \"soon\" is no time; write it like 2026-01-31T09:30:00.000Z\n"
            "t.yaml:4:23: unknown key \"nane\"; there are at, id, user, anonymous, name, ts, props\n"
            "t.yaml:4:5: \"name\" is missing\n"
            "t.yaml:6:19: \"x\" is no duration; write it like 500ms, 2s, 10m, 24h, 7d or 1h30m\n"
            "t.yaml:6:38: the project has no model \"sell\"\n"
            "t.yaml:7:13: \"none\" is about the whole test, it has no \"at\"\n");
    kz_arena_done(&arena);
}

static void test_a_test_that_expects_nothing_is_refused(void **state)
{
    struct kz_arena arena;
    struct kz_project_test test;
    struct kz_buf out = {0};

    (void)state;
    kz_arena_init(&arena, 0);
    assert_int_equal(
            read_text(&arena,
                    "name: n\nstart: 2026-03-02T01:00:00Z\nevents: [{at: 0s, user: u, name: view}]\n",
                    &test, &out),
            KZ_CONFIG);
    assert_text(&out, "t.yaml:1:1: \"expect\" is missing: a test has to be able to fail\n");
    kz_arena_done(&arena);
}

static void test_events_are_sent_by_time_then_as_listed(void **state)
{
    struct kz_arena arena;
    struct kz_project_test test;
    struct kz_buf out = {0};

    (void)state;
    kz_arena_init(&arena, 0);
    assert_int_equal(
            read_text(&arena,
                    "name: n\nstart: 2026-03-02T01:00:00Z\n"
                    "events:\n"
                    "  - {at: 2s, user: c, name: view}\n"
                    "  - {at: 1s, anonymous: a, name: view, ts: 2026-03-02T00:00:00Z}\n"
                    "  - {at: 1s, user: b, id: e, name: view, props: {price: 1.5, on: true}}\n"
                    "expect: {actions: []}\n",
                    &test, &out),
            KZ_OK);
    assert_int_equal(test.start_ms, 1772413200000);
    assert_int_equal(test.event_count, 3);
    assert_string_equal(test.events[0].json.ptr,
            "{\"anonymous_id\":\"a\",\"name\":\"view\",\"ts\":1772409600000}");
    assert_string_equal(test.events[1].json.ptr,
            "{\"event_id\":\"e\",\"user_id\":\"b\",\"name\":\"view\",\"props\":{\"price\":1.5,"
            "\"on\":true}}");
    assert_int_equal(test.events[2].at_ms, 2000);
    assert_true(test.has_actions);
    assert_false(test.has_requests);
    kz_buf_done(&out);
    kz_arena_done(&arena);
}

/* What happened in the tests below: one request at 2 s, answered 0.25, and one coupon. */
static const char *const columns[] = {"views", "price", "city"};
static struct kz_value values[] = {
        {.type = KZ_TYPE_INT, .integer = 3},
        {.type = KZ_TYPE_NULL},
        {.type = KZ_TYPE_TEXT, .text = {"Kyoto", 5}},
};
static struct kz_outcome_request requests[] = {{
        .request = 7,
        .at_ms = 2000,
        .user = "u",
        .model = "buy",
        .trigger = "looking",
        .now_ms = 1772413202000,
        .ended = true,
        .end = KZ_END_DONE,
        .has_score = true,
        .score = 0.25,
        .columns = columns,
        .values = values,
        .count = 3,
}};
static struct kz_outcome_action decided[] = {
        {.at_ms = 2000, .user = "u", .action = "coupon", .decision = "holdout"}};
static const struct kz_outcome outcome = {
        .requests = requests, .request_count = 1, .actions = decided, .action_count = 1};

/* Compares an `expect` with the outcome above. */
static void assert_differs(const char *expect, const struct kz_outcome *got, const char *expected)
{
    struct kz_arena arena;
    struct kz_project_test test;
    struct kz_buf out = {0};
    char text[2000];
    size_t lines = 0, differences;

    kz_arena_init(&arena, 0);
    snprintf(text, sizeof(text),
            "name: n\nstart: 2026-03-02T01:00:00Z\nevents: [{at: 0s, user: u, name: view}]\n"
            "expect:\n%s",
            expect);
    assert_int_equal(read_text(&arena, text, &test, &out), KZ_OK);
    differences = kz_project_test_compare(&test, got, &out);
    for (size_t i = 0; i < out.size; i++)
        lines += out.data[i] == '\n';
    assert_int_equal(differences, lines);
    assert_text(&out, expected);
    kz_arena_done(&arena);
}

static void test_what_holds_differs_in_nothing(void **state)
{
    (void)state;
    assert_differs(
            "  requests: [{at: 2s, user: u, model: buy, trigger: looking, now: "
            "2026-03-02T01:00:02Z}]\n"
            "  features: [{at: 2s, user: u, model: buy, values: {views: 3, price: null, city: "
            "Kyoto}}]\n"
            "  predictions: [{at: 2s, user: u, model: buy, score: 0.2500005}, {at: 2s, user: "
            "u, model: buy, min: 0.25, max: 0.25}]\n"
            "  actions: [{at: 2s, user: u, action: coupon, decision: holdout}, {user: v, "
            "action: coupon, decision: none}]\n",
            &outcome, "");
}

static void test_lists_of_requests_and_actions_are_complete(void **state)
{
    (void)state;
    assert_differs("  requests: []\n  actions: []\n", &outcome,
            "request not expected: at 2s of u, buy by looking, done\n"
            "action not expected: coupon for u at 2s, holdout\n");
    assert_differs(
            "  requests: [{at: 2s, user: u, model: buy, trigger: looking}, {at: 2s, user: u, "
            "model: buy, trigger: looking}]\n",
            &outcome, "request missing: at 2s of u, buy by looking (t.yaml:5)\n");
    /* A list that is left out is not looked at. */
    assert_differs("  predictions: [{at: 2s, user: u, model: buy, min: 0}]\n", &outcome, "");
}

static void test_each_difference_is_named(void **state)
{
    (void)state;
    assert_differs(
            "  requests: [{at: 2s, user: u, model: buy, trigger: looking, status: expired, "
            "now: 2026-03-02T01:00:00Z}]\n"
            "  features: [{at: 2s, user: u, model: buy, values: {views: 3.00001, price: 0, "
            "city: \"3\", sum: 1}}]\n"
            "  predictions: [{at: 2s, user: u, model: buy, score: 0.2500015}, {at: 3s, user: "
            "u, model: buy, min: 0}]\n"
            "  actions: [{at: 2s, user: u, action: coupon, decision: delivered}, {user: u, "
            "action: coupon, decision: none}]\n",
            &outcome,
            "request at 2s of u, buy by looking: status is done, expected expired (t.yaml:5)\n"
            "request at 2s of u, buy by looking: @now is 2026-03-02T01:00:02.000Z, expected "
            "2026-03-02T01:00:00.000Z (t.yaml:5)\n"
            "features at 2s of u, buy: views is 3, expected 3.00001 (t.yaml:6)\n"
            "features at 2s of u, buy: price is null, expected 0 (t.yaml:6)\n"
            "features at 2s of u, buy: city is \"Kyoto\", expected \"3\" (t.yaml:6)\n"
            "features at 2s of u, buy: there is no column sum, there are views, price, city (t.yaml:6)\n"
            "prediction at 2s of u, buy: score is 0.25, expected 0.2500015 within 1e-06 "
            "(t.yaml:7)\n"
            "prediction at 3s of u, buy: there was no such request (t.yaml:7)\n"
            "action coupon for u at 2s: holdout, expected delivered (t.yaml:8)\n"
            "action coupon for u: holdout at 2s, expected none (t.yaml:8)\n");
}

static void test_a_failed_request_has_no_prediction(void **state)
{
    struct kz_outcome_request dead = requests[0];
    const struct kz_outcome got = {.requests = &dead, .request_count = 1};

    (void)state;
    dead.end = KZ_END_DEAD;
    dead.error = "ValueError: no";
    assert_differs("  predictions: [{at: 2s, user: u, model: buy, min: 0}]\n", &got,
            "prediction at 2s of u, buy: the request is dead: ValueError: no (t.yaml:5)\n");
}

static void test_one_of_two_requests_at_a_moment_has_to_hold(void **state)
{
    struct kz_outcome_request both[] = {requests[0], requests[0]};
    struct kz_value other[] = {{.type = KZ_TYPE_FLOAT, .real = 4.0}};
    const struct kz_outcome got = {.requests = both, .request_count = 2};

    (void)state;
    both[1].values = other;
    both[1].count = 1;
    both[1].score = 0.75;
    assert_differs("  features: [{at: 2s, user: u, model: buy, values: {views: 4}}]\n"
                   "  predictions: [{at: 2s, user: u, model: buy, score: 0.25}, {at: 2s, user: u, "
                   "model: buy, score: 0.75}]\n",
            &got, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_every_problem_has_its_place),
            cmocka_unit_test(test_a_test_that_expects_nothing_is_refused),
            cmocka_unit_test(test_events_are_sent_by_time_then_as_listed),
            cmocka_unit_test(test_what_holds_differs_in_nothing),
            cmocka_unit_test(test_lists_of_requests_and_actions_are_complete),
            cmocka_unit_test(test_each_difference_is_named),
            cmocka_unit_test(test_a_failed_request_has_no_prediction),
            cmocka_unit_test(test_one_of_two_requests_at_a_moment_has_to_hold),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
