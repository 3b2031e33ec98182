#include "app/commands/projecttest.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/config/yaml.h"
#include "codec/duration.h"
#include "codec/json_out.h"
#include "codec/timefmt.h"

static const char *const decision_names[] = {
        [KZ_DECISION_DELIVER] = "delivered",
        [KZ_DECISION_SHADOW] = "shadow",
        [KZ_DECISION_HOLDOUT] = "holdout",
        [KZ_DECISION_CAPPED] = "capped",
        [KZ_DECISION_SCHEDULE] = "schedule",
        [KZ_DECISION_PAUSED] = "paused",
};

const char *kz_test_decision_name(enum kz_decision decision)
{
    return decision < KZ_ARRAY_COUNT(decision_names) && decision_names[decision]
                   ? decision_names[decision]
                   : "unknown";
}

/* ---- reading -------------------------------------------------------------------------------------- */

struct reading {
    struct kz_arena *arena;
    const struct kz_project *project;
    kz_config_report *report;
    void *arg;
    size_t problems;
};

static void problem(struct reading *r, struct kz_place place, const char *fmt, ...) KZ_PRINTF(3, 4);
static void problem(struct reading *r, struct kz_place place, const char *fmt, ...)
{
    struct kz_err err;
    char text[800];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    (void)kz_place_fail(&err, place, "%s", text);
    r->problems++;
    if (r->report)
        r->report(r->arg, &err);
}

/* `allowed` ends with NULL. */
static bool is_map(struct reading *r, const struct kz_yaml *node, const char *const *allowed)
{
    if (node->kind != KZ_YAML_MAP) {
        problem(r, node->place, "expected keys and values");
        return false;
    }
    for (size_t i = 0; i < node->count; i++) {
        struct kz_buf names = {0};
        bool known = false;

        for (size_t k = 0; allowed[k]; k++) {
            known |= strcmp(node->keys[i]->text, allowed[k]) == 0;
            kz_buf_printf(&names, "%s%s", k ? ", " : "", allowed[k]);
        }
        if (!known)
            problem(r, node->keys[i]->place, "unknown key \"%s\"; there are " KZ_STR_FMT,
                    node->keys[i]->text, KZ_STR_ARG(kz_buf_view(&names)));
        kz_buf_done(&names);
    }
    return true;
}

static const struct kz_yaml *scalar_of(
        struct reading *r, const struct kz_yaml *map, const char *key, bool required)
{
    const struct kz_yaml *node = kz_yaml_get(map, key);

    if (!node && required)
        problem(r, map->place, "\"%s\" is missing", key);
    if (node && node->kind != KZ_YAML_SCALAR) {
        problem(r, node->place, "\"%s\" has to be one value", key);
        return NULL;
    }
    return node;
}

static const char *text_of(
        struct reading *r, const struct kz_yaml *map, const char *key, bool required)
{
    const struct kz_yaml *node = scalar_of(r, map, key, required);

    return node ? node->text : NULL;
}

static bool at_of(struct reading *r, const struct kz_yaml *map, bool required, int64_t *ret_ms)
{
    const struct kz_yaml *node = scalar_of(r, map, "at", required);
    struct kz_err err;

    if (!node)
        return false;
    if (kz_duration_parse(kz_str(node->text), ret_ms, &err) == KZ_OK)
        return true;
    problem(r, node->place, "%s", err.message);
    return false;
}

static bool time_of(struct reading *r, const struct kz_yaml *map, const char *key, bool required,
        int64_t *ret_ms)
{
    const struct kz_yaml *node = scalar_of(r, map, key, required);
    struct kz_err err;

    if (!node)
        return false;
    if (kz_time_parse(kz_str(node->text), ret_ms, &err) == KZ_OK)
        return true;
    problem(r, node->place, "%s", err.message);
    return false;
}

static bool number(const char *text, double *ret)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !isfinite(value))
        return false;
    *ret = value;
    return true;
}

static bool number_of(struct reading *r, const struct kz_yaml *map, const char *key, double *ret)
{
    const struct kz_yaml *node = scalar_of(r, map, key, false);

    if (!node)
        return false;
    if (number(node->text, ret))
        return true;
    problem(r, node->place, "\"%s\" is \"%s\", it has to be a number", key, node->text);
    return false;
}

static const struct kz_yaml *list_of(struct reading *r, const struct kz_yaml *map, const char *key)
{
    static const struct kz_yaml nothing = {.kind = KZ_YAML_LIST};
    const struct kz_yaml *node = kz_yaml_get(map, key);

    if (!node)
        return &nothing;
    if (node->kind == KZ_YAML_LIST)
        return node;
    if (!kz_yaml_is_null(node))
        problem(r, node->place, "\"%s\" has to be a list", key);
    return &nothing;
}

static const char *model_of(struct reading *r, const struct kz_yaml *map)
{
    const struct kz_yaml *node = scalar_of(r, map, "model", true);

    if (node && !kz_project_model(r->project, kz_str(node->text)))
        problem(r, node->place, "the project has no model \"%s\"", node->text);
    return node ? node->text : "";
}

static void read_event(struct reading *r, const struct kz_yaml *node, struct kz_test_event *event)
{
    static const char *const keys[] = {
            "at", "id", "user", "anonymous", "name", "ts", "props", NULL};
    const char *user, *anonymous, *name, *id;
    const struct kz_yaml *props;
    struct kz_buf json = {0};
    struct kz_json_out out = kz_json_out(&json);
    int64_t ts_ms;

    event->place = node->place;
    if (!is_map(r, node, keys))
        return;
    (void)at_of(r, node, true, &event->at_ms); /* a problem is counted */
    user = text_of(r, node, "user", false);
    anonymous = text_of(r, node, "anonymous", false);
    name = text_of(r, node, "name", true);
    id = text_of(r, node, "id", false);
    if (!user && !anonymous)
        problem(r, node->place, "an event needs \"user\" or \"anonymous\"");
    kz_json_out_object(&out);
    if (id)
        kz_json_out_kv_cstr(&out, "event_id", id);
    if (user)
        kz_json_out_kv_cstr(&out, "user_id", user);
    if (anonymous)
        kz_json_out_kv_cstr(&out, "anonymous_id", anonymous);
    kz_json_out_kv_cstr(&out, "name", name);
    if (time_of(r, node, "ts", false, &ts_ms))
        kz_json_out_kv_i64(&out, "ts", ts_ms);
    props = kz_yaml_get(node, "props");
    if (props && props->kind != KZ_YAML_MAP)
        problem(r, props->place, "\"props\" has to be keys and values");
    else if (props)
        kz_json_out_kv_raw(&out, "props", kz_str(kz_yaml_json(r->arena, props)));
    kz_json_out_object_end(&out);
    event->json = kz_arena_str(r->arena, kz_buf_view(&json));
    kz_buf_done(&json);
}

static int by_at(const void *a, const void *b)
{
    const struct kz_test_event *x = a, *y = b;

    if (x->at_ms != y->at_ms)
        return x->at_ms < y->at_ms ? -1 : 1;
    if (x->place.line != y->place.line)
        return x->place.line < y->place.line ? -1 : 1;
    return x->place.column < y->place.column ? -1 : x->place.column > y->place.column;
}

static void read_request(struct reading *r, const struct kz_yaml *node, struct kz_test_request *ret)
{
    static const char *const keys[] = {"at", "user", "model", "trigger", "now", "status", NULL};
    const struct kz_yaml *status, *trigger;

    *ret = (struct kz_test_request){.place = node->place, .end = KZ_END_DONE};
    if (!is_map(r, node, keys))
        return;
    (void)at_of(r, node, true, &ret->at_ms); /* a problem is counted */
    ret->user = text_of(r, node, "user", true);
    ret->model = model_of(r, node);
    trigger = scalar_of(r, node, "trigger", true);
    if (trigger && !kz_project_trigger(r->project, kz_str(trigger->text)) &&
            !kz_project_model(r->project, kz_str(trigger->text)))
        problem(r, trigger->place, "the project has no trigger \"%s\"", trigger->text);
    ret->trigger = trigger ? trigger->text : "";
    ret->has_now = time_of(r, node, "now", false, &ret->now_ms);
    status = scalar_of(r, node, "status", false);
    if (!status)
        return;
    for (int end = KZ_END_DONE; end <= KZ_END_DEAD; end++)
        if (strcmp(status->text, kz_request_end_name((enum kz_request_end)end)) == 0) {
            ret->end = (enum kz_request_end)end;
            return;
        }
    problem(r, status->place,
            "\"%s\" is no status; there are done, superseded, expired, dropped, dead",
            status->text);
}

static void read_value(struct reading *r, const struct kz_yaml *node, struct kz_test_value *ret)
{
    ret->place = node->place;
    if (node->kind != KZ_YAML_SCALAR)
        problem(r, node->place, "a feature is one value");
    else if (kz_yaml_is_null(node))
        ret->value.type = KZ_TYPE_NULL;
    else if (!node->quoted && number(node->text, &ret->value.real))
        ret->value.type = KZ_TYPE_FLOAT;
    else if (!node->quoted && (strcmp(node->text, "true") == 0 || strcmp(node->text, "false") == 0))
        ret->value = (struct kz_value){.type = KZ_TYPE_FLOAT, .real = node->text[0] == 't'};
    else
        ret->value = (struct kz_value){.type = KZ_TYPE_TEXT, .text = kz_str(node->text)};
}

static void read_features(
        struct reading *r, const struct kz_yaml *node, struct kz_test_features *ret)
{
    static const char *const keys[] = {"at", "user", "model", "values", NULL};
    const struct kz_yaml *values;

    *ret = (struct kz_test_features){.place = node->place};
    if (!is_map(r, node, keys))
        return;
    (void)at_of(r, node, true, &ret->at_ms); /* a problem is counted */
    ret->user = text_of(r, node, "user", true);
    ret->model = model_of(r, node);
    values = kz_yaml_get(node, "values");
    if (!values || values->kind != KZ_YAML_MAP) {
        problem(r, values ? values->place : node->place, "\"values\" has to be columns and values");
        return;
    }
    ret->values = kz_arena_zero(r->arena, (values->count + 1) * sizeof(*ret->values));
    for (; ret->count < values->count; ret->count++) {
        ret->values[ret->count].column = values->keys[ret->count]->text;
        read_value(r, values->items[ret->count], &ret->values[ret->count]);
    }
}

static void read_prediction(
        struct reading *r, const struct kz_yaml *node, struct kz_test_prediction *ret)
{
    static const char *const keys[] = {
            "at", "user", "model", "score", "within", "min", "max", NULL};

    *ret = (struct kz_test_prediction){.place = node->place, .within = 1e-6};
    if (!is_map(r, node, keys))
        return;
    (void)at_of(r, node, true, &ret->at_ms); /* a problem is counted */
    ret->user = text_of(r, node, "user", true);
    ret->model = model_of(r, node);
    ret->has_score = number_of(r, node, "score", &ret->score);
    (void)number_of(r, node, "within", &ret->within); /* else the default */
    ret->has_min = number_of(r, node, "min", &ret->min);
    ret->has_max = number_of(r, node, "max", &ret->max);
    if (!ret->has_score && !ret->has_min && !ret->has_max)
        problem(r, node->place, "a prediction needs \"score\", \"min\" or \"max\"");
}

static void read_action(struct reading *r, const struct kz_yaml *node, struct kz_test_action *ret)
{
    static const char *const keys[] = {"at", "user", "action", "decision", NULL};
    const struct kz_yaml *action, *decision;
    bool known = false;

    *ret = (struct kz_test_action){.place = node->place, .decision = "", .action = ""};
    if (!is_map(r, node, keys))
        return;
    ret->user = text_of(r, node, "user", true);
    action = scalar_of(r, node, "action", true);
    if (action && !kz_project_action(r->project, kz_str(action->text)))
        problem(r, action->place, "the project has no action \"%s\"", action->text);
    ret->action = action ? action->text : "";
    decision = scalar_of(r, node, "decision", true);
    if (!decision)
        return;
    ret->decision = decision->text;
    if (strcmp(decision->text, "none") == 0) {
        if (kz_yaml_get(node, "at"))
            problem(r, node->place, "\"none\" is about the whole test, it has no \"at\"");
        return;
    }
    ret->has_at = at_of(r, node, true, &ret->at_ms);
    for (size_t i = 1; i < KZ_ARRAY_COUNT(decision_names); i++)
        known |= strcmp(decision->text, decision_names[i]) == 0;
    if (!known)
        problem(r, decision->place,
                "\"%s\" is no decision; there are delivered, shadow, holdout, capped, schedule, "
                "paused, none",
                decision->text);
}

/* A list of the test as an array in the arena. */
#define READ_LIST(r, map, key, array, size, read_one)                                              \
    do {                                                                                           \
        const struct kz_yaml *list_ = list_of((r), (map), (key));                                  \
        (array) = kz_arena_zero((r)->arena, (list_->count + 1) * sizeof(*(array)));                \
        for (; (size) < list_->count; (size)++)                                                    \
            read_one((r), list_->items[(size)], &(array)[(size)]);                                 \
    } while (0)

static void read_expectations(
        struct reading *r, const struct kz_yaml *node, struct kz_project_test *test)
{
    static const char *const keys[] = {"requests", "features", "predictions", "actions", NULL};

    if (!is_map(r, node, keys))
        return;
    test->has_requests = kz_yaml_get(node, "requests") != NULL;
    test->has_actions = kz_yaml_get(node, "actions") != NULL;
    READ_LIST(r, node, "requests", test->requests, test->request_count, read_request);
    READ_LIST(r, node, "features", test->features, test->features_count, read_features);
    READ_LIST(r, node, "predictions", test->predictions, test->prediction_count, read_prediction);
    READ_LIST(r, node, "actions", test->actions, test->action_count, read_action);
}

static void tree_problem(void *arg, struct kz_place place, const char *text)
{
    problem(arg, place, "%s", text);
}

enum kz_code kz_project_test_read(struct kz_arena *arena, const struct kz_project *project,
        const char *path, const char *shown, kz_config_report *report, void *arg,
        struct kz_project_test *ret_test, struct kz_err *err)
{
    static const char *const keys[] = {"name", "start", "events", "expect", NULL};
    struct reading r = {.arena = arena, .project = project, .report = report, .arg = arg};
    struct kz_project_test test = {0};
    const struct kz_yaml *root, *expect;

    KZ_TRY(kz_yaml_read(arena, path, shown, &root, err));
    kz_yaml_problems(root, tree_problem, &r);
    if (is_map(&r, root, keys)) {
        test.name = text_of(&r, root, "name", true);
        (void)time_of(&r, root, "start", true, &test.start_ms); /* a problem is counted */
        READ_LIST(&r, root, "events", test.events, test.event_count, read_event);
        if (!test.event_count)
            problem(&r, root->place, "a test needs \"events\"");
        expect = kz_yaml_get(root, "expect");
        if (expect)
            read_expectations(&r, expect, &test);
        else
            problem(&r, root->place, "\"expect\" is missing: a test has to be able to fail");
    }
    if (r.problems)
        return kz_fail(
                err, KZ_CONFIG, "%zu error%s in %s", r.problems, r.problems == 1 ? "" : "s", shown);
    qsort(test.events, test.event_count, sizeof(*test.events), by_at);
    *ret_test = test;
    return KZ_OK;
}

/* ---- comparing ------------------------------------------------------------------------------------ */

static const char *duration(int64_t ms, char out[KZ_DURATION_BYTES])
{
    return kz_duration_format(ms, out);
}

static void place(struct kz_buf *out, struct kz_place at)
{
    kz_buf_printf(out, " (%s:%u)\n", at.file, at.line);
}

static bool is_request(const struct kz_test_request *want, const struct kz_outcome_request *got)
{
    return want->at_ms == got->at_ms && strcmp(want->user, got->user) == 0 &&
           strcmp(want->model, got->model) == 0 && strcmp(want->trigger, got->trigger) == 0;
}

static const char *status(const struct kz_outcome_request *got)
{
    return got->ended ? kz_request_end_name(got->end) : "pending";
}

static size_t compare_found(const struct kz_test_request *want,
        const struct kz_outcome_request *got, struct kz_buf *out)
{
    char at[KZ_DURATION_BYTES], now[KZ_TIME_BYTES], wanted[KZ_TIME_BYTES];
    size_t differences = 0;

    if (!got->ended || got->end != want->end) {
        kz_buf_printf(out, "request at %s of %s, %s by %s: status is %s, expected %s",
                duration(got->at_ms, at), got->user, got->model, got->trigger, status(got),
                kz_request_end_name(want->end));
        if (got->error && got->error[0])
            kz_buf_printf(out, ": %s", got->error);
        place(out, want->place);
        differences++;
    }
    if (want->has_now && want->now_ms != got->now_ms) {
        kz_buf_printf(out, "request at %s of %s, %s by %s: @now is %s, expected %s",
                duration(got->at_ms, at), got->user, got->model, got->trigger,
                kz_time_format(got->now_ms, now), kz_time_format(want->now_ms, wanted));
        place(out, want->place);
        differences++;
    }
    return differences;
}

static size_t compare_requests(
        const struct kz_project_test *test, const struct kz_outcome *outcome, struct kz_buf *out)
{
    bool *taken = kz_calloc(outcome->request_count + 1, sizeof(*taken));
    char at[KZ_DURATION_BYTES];
    size_t differences = 0;

    for (size_t i = 0; i < test->request_count; i++) {
        const struct kz_test_request *want = &test->requests[i];
        size_t k = 0;

        while (k < outcome->request_count && (taken[k] || !is_request(want, &outcome->requests[k])))
            k++;
        if (k < outcome->request_count) {
            taken[k] = true;
            differences += compare_found(want, &outcome->requests[k], out);
            continue;
        }
        kz_buf_printf(out, "request missing: at %s of %s, %s by %s", duration(want->at_ms, at),
                want->user, want->model, want->trigger);
        place(out, want->place);
        differences++;
    }
    for (size_t k = 0; k < outcome->request_count; k++) {
        const struct kz_outcome_request *got = &outcome->requests[k];

        if (taken[k])
            continue;
        kz_buf_printf(out, "request not expected: at %s of %s, %s by %s, %s\n",
                duration(got->at_ms, at), got->user, got->model, got->trigger, status(got));
        differences++;
    }
    free(taken);
    return differences;
}

static void put_value(struct kz_buf *out, struct kz_value value)
{
    if (value.type == KZ_TYPE_NULL)
        kz_buf_cstr(out, "null");
    else if (value.type == KZ_TYPE_TEXT)
        kz_json_quote(out, value.text);
    else if (value.type == KZ_TYPE_FLOAT)
        kz_json_double(out, value.real);
    else
        kz_buf_printf(out, "%" PRId64, value.integer);
}

static bool holds(struct kz_value want, struct kz_value got)
{
    double actual;

    if (want.type == KZ_TYPE_NULL || got.type == KZ_TYPE_NULL)
        return want.type == got.type;
    if (want.type == KZ_TYPE_TEXT || got.type == KZ_TYPE_TEXT)
        return want.type == got.type && kz_str_eq(want.text, got.text);
    actual = got.type == KZ_TYPE_FLOAT ? got.real : (double)got.integer;
    return fabs(actual - want.real) <= 1e-9 * fabs(want.real);
}

static size_t compare_row(const struct kz_test_features *want, const struct kz_outcome_request *got,
        struct kz_buf *out)
{
    char at[KZ_DURATION_BYTES];
    size_t differences = 0;

    for (size_t i = 0; i < want->count; i++) {
        const struct kz_test_value *value = &want->values[i];
        size_t c = 0;

        while (c < got->count && strcmp(got->columns[c], value->column) != 0)
            c++;
        if (c < got->count && holds(value->value, got->values[c]))
            continue;
        kz_buf_printf(out, "features at %s of %s, %s: ", duration(want->at_ms, at), want->user,
                want->model);
        if (c < got->count) {
            kz_buf_printf(out, "%s is ", value->column);
            put_value(out, got->values[c]);
            kz_buf_cstr(out, ", expected ");
            if (value->value.type == KZ_TYPE_FLOAT)
                kz_buf_printf(out, "%.15g", value->value.real);
            else
                put_value(out, value->value);
        } else {
            kz_buf_printf(out, "there is no column %s, there are ", value->column);
            for (size_t k = 0; k < got->count; k++)
                kz_buf_printf(out, "%s%s", k ? ", " : "", got->columns[k]);
        }
        place(out, value->place);
        differences++;
    }
    return differences;
}

/* The next request of that moment, user and model behind `after`; NULL at the end. */
static const struct kz_outcome_request *next_request(const struct kz_outcome *outcome,
        int64_t at_ms, const char *user, const char *model, const struct kz_outcome_request *after)
{
    const struct kz_outcome_request *end = outcome->requests + outcome->request_count;

    for (const struct kz_outcome_request *r = after ? after + 1 : outcome->requests; r < end; r++)
        if (r->at_ms == at_ms && strcmp(r->user, user) == 0 && strcmp(r->model, model) == 0)
            return r;
    return NULL;
}

static size_t compare_features(
        const struct kz_test_features *want, const struct kz_outcome *outcome, struct kz_buf *out)
{
    const struct kz_outcome_request *got = NULL;
    char at[KZ_DURATION_BYTES];
    size_t start = out->size, differences = 1;

    /* Two rules may ask at the same moment: one of the requests has to hold. */
    kz_buf_printf(out, "features at %s of %s, %s: there was no such request",
            duration(want->at_ms, at), want->user, want->model);
    place(out, want->place);
    while (differences &&
            (got = next_request(outcome, want->at_ms, want->user, want->model, got))) {
        out->size = start;
        if (got->columns && got->count) {
            differences = compare_row(want, got, out);
        } else {
            kz_buf_printf(out, "features at %s of %s, %s: the request has none, it is %s",
                    duration(want->at_ms, at), want->user, want->model, status(got));
            place(out, want->place);
            differences = 1;
        }
    }
    if (!differences)
        out->size = start;
    return differences;
}

static bool score_holds(const struct kz_test_prediction *want, const struct kz_outcome_request *got)
{
    if (!got->ended || got->end != KZ_END_DONE || !got->has_score)
        return false;
    return (!want->has_score || fabs(got->score - want->score) <= want->within) &&
           (!want->has_min || got->score >= want->min) &&
           (!want->has_max || got->score <= want->max);
}

static size_t compare_prediction(
        const struct kz_test_prediction *want, const struct kz_outcome *outcome, struct kz_buf *out)
{
    const struct kz_outcome_request *got = NULL, *last = NULL;
    char at[KZ_DURATION_BYTES];

    while ((got = next_request(outcome, want->at_ms, want->user, want->model, got))) {
        if (score_holds(want, got))
            return 0;
        last = got;
    }
    kz_buf_printf(out, "prediction at %s of %s, %s: ", duration(want->at_ms, at), want->user,
            want->model);
    if (!last)
        kz_buf_cstr(out, "there was no such request");
    else if (!last->ended || last->end != KZ_END_DONE)
        kz_buf_printf(out, "the request is %s%s%s", status(last), last->error ? ": " : "",
                last->error ? last->error : "");
    else if (!last->has_score)
        kz_buf_cstr(out, "its output is not one number");
    else {
        kz_buf_printf(out, "score is %.9g, expected", last->score);
        if (want->has_score)
            kz_buf_printf(out, " %.9g within %.3g", want->score, want->within);
        if (want->has_min)
            kz_buf_printf(out, " at least %.9g", want->min);
        if (want->has_max)
            kz_buf_printf(out, "%s at most %.9g", want->has_min ? " and" : "", want->max);
    }
    place(out, want->place);
    return 1;
}

static size_t compare_none(
        const struct kz_test_action *want, const struct kz_outcome *outcome, struct kz_buf *out)
{
    char at[KZ_DURATION_BYTES];

    for (size_t k = 0; k < outcome->action_count; k++) {
        const struct kz_outcome_action *got = &outcome->actions[k];

        if (strcmp(want->user, got->user) != 0 || strcmp(want->action, got->action) != 0)
            continue;
        kz_buf_printf(out, "action %s for %s: %s at %s, expected none", got->action, got->user,
                got->decision, duration(got->at_ms, at));
        place(out, want->place);
        return 1;
    }
    return 0;
}

static bool is_action(const struct kz_test_action *want, const struct kz_outcome_action *got)
{
    return want->at_ms == got->at_ms && strcmp(want->user, got->user) == 0 &&
           strcmp(want->action, got->action) == 0;
}

static size_t compare_actions(
        const struct kz_project_test *test, const struct kz_outcome *outcome, struct kz_buf *out)
{
    bool *taken = kz_calloc(outcome->action_count + 1, sizeof(*taken));
    char at[KZ_DURATION_BYTES];
    size_t differences = 0;

    for (size_t i = 0; i < test->action_count; i++) {
        const struct kz_test_action *want = &test->actions[i];
        size_t k = 0;

        if (strcmp(want->decision, "none") == 0) {
            differences += compare_none(want, outcome, out);
            continue;
        }
        while (k < outcome->action_count && (taken[k] || !is_action(want, &outcome->actions[k])))
            k++;
        if (k < outcome->action_count)
            taken[k] = true;
        if (k < outcome->action_count && strcmp(want->decision, outcome->actions[k].decision) == 0)
            continue;
        kz_buf_printf(out, "action %s for %s at %s: %s, expected %s", want->action, want->user,
                duration(want->at_ms, at),
                k < outcome->action_count ? outcome->actions[k].decision : "nothing was decided",
                want->decision);
        place(out, want->place);
        differences++;
    }
    for (size_t k = 0; k < outcome->action_count; k++) {
        const struct kz_outcome_action *got = &outcome->actions[k];

        if (taken[k])
            continue;
        kz_buf_printf(out, "action not expected: %s for %s at %s, %s\n", got->action, got->user,
                duration(got->at_ms, at), got->decision);
        differences++;
    }
    free(taken);
    return differences;
}

size_t kz_project_test_compare(
        const struct kz_project_test *test, const struct kz_outcome *outcome, struct kz_buf *out)
{
    size_t differences = 0;

    if (test->has_requests)
        differences += compare_requests(test, outcome, out);
    for (size_t i = 0; i < test->features_count; i++)
        differences += compare_features(&test->features[i], outcome, out);
    for (size_t i = 0; i < test->prediction_count; i++)
        differences += compare_prediction(&test->predictions[i], outcome, out);
    if (test->has_actions)
        differences += compare_actions(test, outcome, out);
    return differences;
}
