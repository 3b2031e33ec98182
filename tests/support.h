/* tests/support.h -- a whole pipeline for tests that cross stages: a project made in C and a model
 * that counts in this process, so that every run is quick and exactly repeatable.
 */
#pragma once

#include <uv.h>

#include "app/pipeline/pipeline.h"
#include "base/buf.h"

/* ---- a runtime in this process: the score is the first numeric feature --------------------------- */

struct kz_replica {
    const struct kz_replica_events *events;
    void *arg;
    uv_timer_t timer;
    bool ready;
    size_t rows;
    double *scores;
    struct kz_batch_row *outcome_rows;
    bool stopping;
};

static void support_closed(uv_handle_t *handle)
{
    struct kz_replica *replica = handle->data;

    free(replica->scores);
    free(replica->outcome_rows);
    free(replica);
}

static void support_tick(uv_timer_t *timer)
{
    struct kz_replica *replica = timer->data;
    struct kz_batch_outcome outcome = {.code = KZ_OK, .model_us = 1};

    if (!replica->ready) {
        replica->ready = true;
        replica->events->ready(replica->arg, replica);
        return;
    }
    outcome.rows = replica->outcome_rows;
    outcome.row_count = replica->rows;
    replica->events->done(replica->arg, replica, &outcome);
}

static enum kz_code support_start(
        const struct kz_replica_start *start, struct kz_replica **ret_replica, struct kz_err *err)
{
    struct kz_replica *replica = kz_calloc(1, sizeof(*replica));

    (void)err;
    replica->events = start->events;
    replica->arg = start->arg;
    uv_timer_init(start->loop, &replica->timer);
    replica->timer.data = replica;
    uv_timer_start(&replica->timer, support_tick, 0, 0);
    *ret_replica = replica;
    return KZ_OK;
}

static enum kz_code support_predict(struct kz_replica *replica, const struct kz_batch *batch,
        int64_t timeout_ms, struct kz_err *err)
{
    (void)timeout_ms, (void)err;
    replica->rows = batch->row_count;
    replica->scores = kz_realloc(replica->scores, batch->row_count * sizeof(double));
    replica->outcome_rows = kz_realloc(
            replica->outcome_rows, batch->row_count * sizeof(struct kz_batch_row));
    for (size_t i = 0; i < batch->row_count; i++) {
        replica->scores[i] = batch->numeric_count ? batch->numeric[i * batch->numeric_count] : 0;
        replica->outcome_rows[i] = (struct kz_batch_row){
                .state = KZ_ROW_OK, .values = &replica->scores[i], .value_count = 1};
    }
    uv_timer_start(&replica->timer, support_tick, 0, 0);
    return KZ_OK;
}

static void support_stop(struct kz_replica *replica)
{
    uv_timer_stop(&replica->timer);
    uv_close((uv_handle_t *)&replica->timer, support_closed);
}

static int support_pid(const struct kz_replica *replica)
{
    (void)replica;
    return 0;
}

static const struct kz_runtime_ops support_runtime = {
        .name = "native",
        .native = true,
        .start = support_start,
        .predict = support_predict,
        .stop = support_stop,
        .pid = support_pid,
};
static const struct kz_runtime_ops *const support_runtimes[] = {&support_runtime, NULL};

/* ---- a project ------------------------------------------------------------------------------------ */

static struct kz_trigger_def support_triggers[] = {
        {.name = "viewing", .when = "name = 'view'", .history = {604800000, 500, false}},
};
static const char *support_trigger_names[] = {"viewing"};
static char support_sql[] = "SELECT count(*) AS n FROM events";
static struct kz_model_def support_models[] = {
        {.name = "counter",
                .triggers = support_trigger_names,
                .trigger_count = 1,
                .runtime = "native",
                .path = "/dev/null",
                .features_path = "n.sql",
                .features_sql = support_sql,
                .horizon_ms = 600000,
                .valid_for_ms = 600000,
                .history = {604800000, 500, false},
                .batch = {64, 1000},
                .replicas = {1, 1},
                .timeout_ms = 1000,
                .queue_max = 1000,
                .config_json = "{}"},
};
static struct kz_cap_def support_caps[] = {
        {.max = 1, .per_user = true, .every_ms = 86400000, .tz = "UTC"}};
static struct kz_action_def support_actions[] = {
        {.name = "coupon",
                .mode = KZ_MODE_ON,
                .when = "counter.score >= 3",
                .schedule = {.weekdays = 0x7f, .end_minute = 1440, .tz = "UTC"},
                .caps = support_caps,
                .cap_count = 1,
                .deliver = {.kind = KZ_DELIVER_WEB,
                        .payload_json = "{}",
                        .valid_for_ms = 86400000}},
};
static const struct kz_project support_project = {
        .name = "support",
        .dir = "/",
        .file = "kizashi.yaml",
        .events = {.max_ahead_ms = 5000,
                .max_behind_ms = 86400000,
                .dedupe_ms = 604800000,
                .session_gap_ms = 1800000},
        .triggers = support_triggers,
        .trigger_count = 1,
        .models = support_models,
        .model_count = 1,
        .actions = support_actions,
        .action_count = 1,
        .limits = {.segment_size_bytes = 1 << 20,
                .checkpoint_bytes = 256 << 20,
                .pending_max = 1000000,
                .dead_letters_max = 1000},
};
