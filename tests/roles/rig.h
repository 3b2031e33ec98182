/* tests/roles/rig.h -- one input, run by the embedded pipeline on virtual time and by roles over the
 * backends in memory, and what came of it as lines that can be compared.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../support.h"
#include "app/roles/role.h"
#include "app/roles/rowstate.h"
#include "backends/memory/bus.h"
#include "backends/memory/predictions.h"
#include "backends/memory/store.h"
#include "base/diag.h"
#include "contract/message.h"
#include "sys/clock.h"
#include "sys/file_sim.h"
#include "sys/random.h"

/* ---- a project: two models on events, one after another; actions with caps, holdout, having ---------- */

enum { RIG_WAIT_MS = 60000 }; /* for what has to happen: a busy machine takes its time */

static struct kz_column_def rig_columns[] = {
        {.name = "price", .path = "$.price", .type = KZ_TYPE_FLOAT},
};
static struct kz_trigger_def rig_triggers[] = {
        {.name = "viewing", .when = "name = 'view'", .history = {604800000, 500, false}},
        {.name = "buying",
                .when = "name = 'buy'",
                .debounce_ms = 60000,
                .history = {604800000, 500, false}},
};
static const char *rig_viewing[] = {"viewing"};
static const char *rig_buying[] = {"buying"};
static char rig_count_sql[] = "SELECT count(*) AS n, total(price) AS spent FROM events";
static char rig_mean_sql[] =
        "SELECT avg(price) AS mean, count(*) AS n FROM events WHERE name = 'buy'";
static char rig_last_sql[] = "SELECT max(ts) - min(ts) AS span FROM events";
#define RIG_MODEL(model, sql_text, ...)                                                            \
    {                                                                                              \
        .name = model, .runtime = "native", .path = "/dev/null", .features_path = model ".sql",    \
        .features_sql = sql_text, .horizon_ms = 600000, .valid_for_ms = 600000,                    \
        .history = {604800000, 500, false}, .batch = {64, 1000}, .replicas = {1, 1},               \
        .timeout_ms = 1000, .queue_max = 1000, .config_json = "{}", __VA_ARGS__                    \
    }
static struct kz_model_def rig_models[] = {
        RIG_MODEL("counter", rig_count_sql, .triggers = rig_viewing, .trigger_count = 1),
        RIG_MODEL("span", rig_last_sql, .after = "counter", .after_when = "counter.score >= 4"),
        RIG_MODEL("mean", rig_mean_sql, .triggers = rig_buying, .trigger_count = 1),
};
static struct kz_cap_def rig_user_cap[] = {
        {.max = 2, .per_user = true, .every_ms = 3600000, .tz = "UTC"}};
static struct kz_cap_def rig_total_cap[] = {
        {.max = 1, .per_user = true, .every_ms = 86400000, .tz = "UTC"},
        {.max = 7, .per_user = false, .every_ms = 86400000, .tz = "UTC"}};
#define RIG_ACTION(action, condition, delivery, ...)                                               \
    {                                                                                              \
        .name = action, .mode = KZ_MODE_ON, .when = condition,                                     \
        .schedule = {.weekdays = 0x7f, .end_minute = 1440, .tz = "UTC"},                           \
        .deliver = {.kind = delivery,                                                              \
                .payload_json = "{\"code\":\"K\"}",                                                \
                .url = "http://127.0.0.1:1/",                                                      \
                .timeout_ms = 1000,                                                                \
                .attempts_max = 3,                                                                 \
                .valid_for_ms = 86400000},                                                         \
        __VA_ARGS__                                                                                \
    }
static struct kz_action_def rig_actions[] = {
        RIG_ACTION("coupon", "counter.score >= 3", KZ_DELIVER_WEB, .holdout = 0.3,
                .caps = rig_user_cap, .cap_count = 1),
        RIG_ACTION("topic", "mean.score > 2 OR span.score > 100000", KZ_DELIVER_PUBSUB,
                .having = "(SELECT count(*) FROM events WHERE name = 'buy') >= 2"),
        RIG_ACTION("shadowed", "span.score >= 0 AND counter.score >= 5", KZ_DELIVER_WEB),
        RIG_ACTION(
                "few", "counter.score >= 6", KZ_DELIVER_WEB, .caps = rig_total_cap, .cap_count = 2),
};
static struct kz_project rig_project = {
        .name = "rig",
        .dir = "/",
        .file = "kizashi.yaml",
        .events = {.columns = rig_columns,
                .column_count = 1,
                .columns_id = 77,
                .max_ahead_ms = 5000,
                .max_behind_ms = 86400000,
                .dedupe_ms = 604800000,
                .session_gap_ms = 1800000},
        .triggers = rig_triggers,
        .trigger_count = 2,
        .models = rig_models,
        .model_count = 3,
        .actions = rig_actions,
        .action_count = 4,
        .limits = {.segment_size_bytes = 1 << 20,
                .checkpoint_bytes = 256 << 20,
                .pending_max = 1000000,
                .dead_letters_max = 1000},
};

/* ---- lines: an outcome each --------------------------------------------------------------------------- */

struct rig_lines {
    char **items;
    size_t count, capacity;
};

static void rig_line(struct rig_lines *lines, char *text)
{
    if (lines->count == lines->capacity) {
        lines->capacity = lines->capacity ? lines->capacity * 2 : 256;
        lines->items = kz_realloc(lines->items, lines->capacity * sizeof(char *));
    }
    lines->items[lines->count++] = text;
}

static int rig_by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void rig_sort(struct rig_lines *lines)
{
    if (lines->count)
        qsort(lines->items, lines->count, sizeof(char *), rig_by_text);
}

static void rig_lines_done(struct rig_lines *lines)
{
    for (size_t i = 0; i < lines->count; i++)
        free(lines->items[i]);
    free(lines->items);
    *lines = (struct rig_lines){0};
}

static void rig_put_result(struct rig_lines *lines, const struct kz_record *record)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_result_body *body = (const void *)bytes.ptr;
    char *text = NULL;

    assert_true(asprintf(&text,
                        "result " KZ_STR_FMT " " KZ_STR_FMT " " KZ_STR_FMT " as_of=%" PRId64
                        " end=%d features=%016" PRIx64 " score=%.17g output=" KZ_STR_FMT
                        " expires=%" PRId64,
                        KZ_STR_ARG(kz_span_str(bytes, body->user_id)),
                        KZ_STR_ARG(kz_span_str(bytes, body->event_id)),
                        KZ_STR_ARG(kz_span_str(bytes, body->model)), body->as_of_ms, body->end,
                        body->features_hash, body->score,
                        KZ_STR_ARG(kz_span_str(bytes, body->output)), body->expires_at_ms) > 0);
    rig_line(lines, text);
}

static void rig_put_decision(struct rig_lines *lines, const struct kz_record *record)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_decision_body *body = (const void *)bytes.ptr;
    char *text = NULL;

    assert_true(asprintf(&text,
                        "decision " KZ_STR_FMT " " KZ_STR_FMT " " KZ_STR_FMT " " KZ_STR_FMT
                        " %s at=%" PRId64 " expires=%" PRId64,
                        KZ_STR_ARG(kz_span_str(bytes, body->user_id)),
                        KZ_STR_ARG(kz_span_str(bytes, body->event_id)),
                        KZ_STR_ARG(kz_span_str(bytes, body->action_name)),
                        KZ_STR_ARG(kz_span_str(bytes, body->model)),
                        kz_decision_name((enum kz_decision)body->decision), record->at_ms,
                        body->expires_at_ms) > 0);
    rig_line(lines, text);
}

static void rig_put(struct rig_lines *lines, const struct kz_record *record)
{
    if (record->type == KZ_RECORD_RESULT)
        rig_put_result(lines, record);
    else if (record->type == KZ_RECORD_DECISION)
        rig_put_decision(lines, record);
}

/* Asserts that both hold the same lines, naming the first that differs. */
static inline void rig_same(struct rig_lines *want, struct rig_lines *have)
{
    rig_sort(want);
    rig_sort(have);
    if (getenv("KZ_RIG_DUMP")) {
        for (size_t i = 0; i < want->count; i++)
            print_message("want %s\n", want->items[i]);
        for (size_t i = 0; i < have->count; i++)
            print_message("have %s\n", have->items[i]);
    }
    for (size_t i = 0; i < want->count && i < have->count; i++)
        assert_string_equal(have->items[i], want->items[i]);
    assert_int_equal(have->count, want->count);
}

/* ---- the embedded run ------------------------------------------------------------------------------ */

struct rig_event {
    const char *user, *name;
    double price;
    int64_t at_ms;
};

static void rig_taken(struct kz_submission *submission, enum kz_code code, const struct kz_err *err)
{
    (void)err;
    assert_int_equal(code, KZ_OK);
    *(bool *)submission->user = true;
}

static void rig_submit(struct kz_pipeline *p, const struct rig_event *event, size_t number)
{
    struct kz_intake_item *item = kz_calloc(1, sizeof(*item));
    char id[24], props[64];
    bool taken = false;
    struct kz_submission submission = {
            .items = &item, .item_count = 1, .done = rig_taken, .user = &taken};
    struct kz_err err;

    snprintf(id, sizeof(id), "e%zu", number);
    snprintf(props, sizeof(props), "{\"price\":%g}", event->price);
    item->event.user_id = kz_str(event->user);
    item->event.event_id = kz_str(id);
    item->event.name = kz_str(event->name);
    item->event.props = kz_str(props);
    item->event.client_ts_ms = event->at_ms;
    item->event.columns_id = 77;
    item->event.columns = item->columns;
    item->event.column_count = 1;
    item->columns[0] = (struct kz_value){.type = KZ_TYPE_FLOAT, .real = event->price};
    assert_int_equal(kz_pipeline_set_clock(p, event->at_ms, &err), KZ_OK);
    kz_pipeline_intake(p)->ops->submit(kz_pipeline_intake(p), &submission);
    assert_int_equal(kz_pipeline_settle(p, 60000, &err), KZ_OK);
    assert_true(taken);
    free(item);
}

static void rig_nobody(void *arg)
{
    (void)arg;
}

static inline struct kz_pipeline *rig_embedded(
        struct kz_fs *fs, const struct rig_event *events, size_t count)
{
    struct kz_pipeline_options options = {.project = &rig_project,
            .fs = fs,
            .data_dir = "/data",
            .runtimes = support_runtimes,
            .wake = rig_nobody,
            .virtual_clock = true,
            .sync_inline = true,
            .ask = true};
    struct kz_pipeline *p = NULL;
    struct kz_err err;

    if (kz_pipeline_open(&options, &p, &err) != KZ_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < count; i++)
        rig_submit(p, &events[i], i);
    assert_int_equal(kz_pipeline_set_clock(p, events[count - 1].at_ms + 3600000, &err), KZ_OK);
    return p;
}

/* ---- the same input for roles ------------------------------------------------------------------------ */

/* Addresses of the log, apart as process makes them: 65,536 numbers follow each. */
static kz_lsn rig_address(kz_lsn lsn)
{
    return lsn << 16;
}

struct rig_request {
    uint64_t owner;
    struct kz_buf message;
    char model[32];
};

struct rig_input { /* what the log says, in its order */
    struct kz_store *store;
    struct rig_request requests[4096];
    size_t request_count;
    struct {
        uint64_t owner;
        kz_lsn head, asked;
    } heads[256];
    size_t head_count;
    struct rig_lines lines; /* outcomes of the embedded run */
    size_t chained;
};

static size_t rig_user(struct rig_input *in, uint64_t owner)
{
    size_t i = 0;

    while (i < in->head_count && in->heads[i].owner != owner)
        i++;
    if (i == in->head_count) {
        assert_true(in->head_count < KZ_ARRAY_COUNT(in->heads));
        in->heads[in->head_count++].owner = owner;
    }
    return i;
}

static void rig_store(struct rig_input *in, kz_lsn lsn, const struct kz_record *record)
{
    struct kz_store_record put = {lsn, record};
    struct kz_store_commit commit = {.records = &put, .record_count = 1, .now_ms = record->at_ms};
    struct kz_store_txn *txn = NULL;
    struct kz_err err;

    assert_int_equal(in->store->ops->begin(in->store, &txn, &err), KZ_OK);
    assert_int_equal(in->store->ops->commit(txn, &commit, &err), KZ_OK);
    if (record->type == KZ_RECORD_EVENT)
        in->heads[rig_user(in, record->owner)].head = lsn;
}

static void rig_ask(struct rig_input *in, kz_lsn lsn, const struct kz_record *record)
{
    struct rig_request *request = &in->requests[in->request_count];
    size_t user = rig_user(in, record->owner);
    struct kz_request_message message = {.owner = record->owner,
            .lsn = lsn,
            .previous = in->heads[user].asked,
            .sources = {{record->owner, in->heads[user].head}},
            .source_count = 1};
    struct kz_buf copy = {0};
    struct kz_str model, trigger;
    const struct kz_request_body *body;

    kz_buf_put(&copy, record, record->size);
    ((struct kz_record *)(void *)copy.data)->seq = lsn;
    message.record = (const void *)copy.data;
    body = (const void *)(message.record + 1);
    trigger = kz_span_str(kz_record_body(message.record), body->trigger);
    model = kz_request_message_model(&message);
    if (kz_project_model(&rig_project, trigger)) {
        in->chained++; /* infer makes it by itself */
    } else {
        assert_true(in->request_count++ < KZ_ARRAY_COUNT(in->requests));
        in->heads[user].asked = lsn;
        request->owner = record->owner;
        snprintf(request->model, sizeof(request->model), KZ_STR_FMT, KZ_STR_ARG(model));
        kz_request_message_encode(&message, &request->message);
    }
    kz_buf_done(&copy);
}

static inline enum kz_code rig_take_over(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct rig_input *in = arg;

    if (record->type == KZ_RECORD_EVENT)
        rig_store(in, rig_address(lsn), record);
    else if (record->type == KZ_RECORD_REQUEST)
        rig_ask(in, rig_address(lsn), record);
    rig_put(&in->lines, record);
    return KZ_OK;
}

static inline void rig_input_done(struct rig_input *in)
{
    for (size_t i = 0; i < in->request_count; i++)
        kz_buf_done(&in->requests[i].message);
    rig_lines_done(&in->lines);
    free(in);
}

/* ---- backends shared by roles in this process ------------------------------------------------------- */

struct rig {
    struct kz_bus *bus;
    struct kz_store *store;
    struct kz_predictions *predictions;
    struct kz_words *words;
    struct kz_role_env envs[4];
    struct kz_role *roles[4];
    size_t role_count;
};

static void rig_wake(void *arg)
{
    (void)arg;
}

/* Not `ordered`: one user's requests may be with several roles at once. */
static struct rig *rig_new_with(bool ordered)
{
    struct rig *rig = kz_calloc(1, sizeof(*rig));
    struct kz_memory_bus_options options = {0};
    struct kz_bus_subscription *subscriptions = kz_role_subscriptions(
            &rig_project, &options.subscription_count);
    struct kz_err err;

    for (size_t i = 0; i < options.subscription_count; i++)
        subscriptions[i].ordered &= ordered;
    options.subscriptions = subscriptions;
    assert_int_equal(kz_memory_bus_open(&options, &rig->bus, &err), KZ_OK);
    free(subscriptions);
    rig->store = kz_memory_store_new();
    rig->predictions = kz_memory_predictions_new();
    assert_int_equal(kz_words_open(rig->predictions, &rig->words, &err), KZ_OK);
    return rig;
}

static inline struct rig *rig_new(void)
{
    return rig_new_with(true);
}

static struct kz_role *rig_open(struct rig *rig, const struct kz_role_ops *ops, bool event_clock)
{
    struct kz_role_env *env = &rig->envs[rig->role_count];
    struct kz_role *role = NULL;
    struct kz_err err;

    *env = (struct kz_role_env){.project = &rig_project,
            .event_clock = event_clock,
            .bus = rig->bus,
            .store = rig->store,
            .predictions = rig->predictions,
            .words = rig->words,
            .runtimes = support_runtimes,
            .wake = rig_wake};
    if (ops->open(env, &role, &err) != KZ_OK)
        fail_msg("%s", err.message);
    rig->roles[rig->role_count++] = role;
    return role;
}

static void rig_close_roles(struct rig *rig)
{
    for (size_t i = 0; i < rig->role_count; i++)
        rig->roles[i]->ops->close(rig->roles[i]);
    rig->role_count = 0;
}

static void rig_free(struct rig *rig)
{
    rig_close_roles(rig);
    kz_words_close(rig->words);
    rig->bus->ops->close(rig->bus);
    rig->store->ops->close(rig->store);
    rig->predictions->ops->close(rig->predictions);
    free(rig);
}

static void rig_publish_request(struct rig *rig, const struct rig_request *request)
{
    struct kz_attribute model = {KZ_STR(KZ_ATTRIBUTE_MODEL), kz_str(request->model)};
    char key[KZ_LANE_BYTES];
    struct kz_bus_message message = {
            .data = kz_buf_view(&request->message), .attributes = &model, .attribute_count = 1};
    struct kz_err err;

    kz_lane_name(request->owner, key);
    message.key = kz_str(key);
    assert_int_equal(
            rig->bus->ops->publish(rig->bus, KZ_TOPIC_REQUESTS, &message, 1, NULL, NULL, &err),
            KZ_OK);
}

/* Waits until `want` messages were acknowledged on the bus. */
static inline void rig_await_acknowledged(struct rig *rig, uint64_t want)
{
    int64_t until_ms = kz_mono_ms() + RIG_WAIT_MS;
    struct kz_bus_stats stats;

    do {
        usleep(2000);
        rig->bus->ops->stats(rig->bus, &stats);
    } while (stats.acknowledged < want && kz_mono_ms() < until_ms);
    assert_int_equal(stats.acknowledged, want);
}

static enum kz_code rig_collect(void *arg, uint64_t owner, const struct kz_user_row *row)
{
    (void)owner;
    for (size_t i = 0; i < row->entry_count; i++)
        rig_put(arg, (const void *)row->entries[i].record.ptr);
    return KZ_OK;
}

static struct rig_lines rig_outcomes(struct rig *rig)
{
    struct rig_lines lines = {0};
    struct kz_err err;

    assert_int_equal(
            rig->predictions->ops->scan(rig->predictions, 0, 0, rig_collect, &lines, &err), KZ_OK);
    return lines;
}

/* Decisions of an action to deliver, over all users. */
static inline size_t rig_caps_used(struct rig *rig, const char *action)
{
    struct rig_lines lines = rig_outcomes(rig);
    char text[80];
    size_t count = 0;

    snprintf(text, sizeof(text), " %s ", action);
    for (size_t i = 0; i < lines.count; i++)
        count += strstr(lines.items[i], text) && strstr(lines.items[i], " deliver ");
    rig_lines_done(&lines);
    return count;
}
