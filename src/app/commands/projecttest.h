/* app/commands/projecttest.h -- a project's own tests: what one says, and how what came of it differs.
 *
 * The format is that of examples/shop/tests/README.md. Reading and comparing are pure; cmd_tests.c
 * runs the events through a pipeline in between.
 *
 * Owner    everything lives in the arena it was made in.
 * Units    at_ms is time after `start`, on our clock.
 */
#pragma once

#include "app/config/config.h"
#include "contract/record.h"

struct kz_test_event {
    int64_t at_ms;
    struct kz_str json; /* as POST /v1/events takes it */
    struct kz_place place;
};

struct kz_test_request {
    int64_t at_ms;
    const char *user, *model, *trigger;
    bool has_now;
    int64_t now_ms; /* since 1970 */
    enum kz_request_end end;
    struct kz_place place;
};

struct kz_test_value {
    const char *column;
    struct kz_value value; /* NULL, FLOAT (any number) or TEXT */
    struct kz_place place;
};

struct kz_test_features {
    int64_t at_ms;
    const char *user, *model;
    struct kz_test_value *values;
    size_t count;
    struct kz_place place;
};

struct kz_test_prediction {
    int64_t at_ms;
    const char *user, *model;
    bool has_score, has_min, has_max;
    double score, within, min, max;
    struct kz_place place;
};

struct kz_test_action {
    bool has_at;
    int64_t at_ms;
    const char *user, *action;
    const char *decision; /* "delivered", ..., "none" */
    struct kz_place place;
};

struct kz_project_test {
    const char *name;
    int64_t start_ms;
    struct kz_test_event *events; /* in the order they are sent */
    size_t event_count;
    bool has_requests, has_actions; /* these lists are complete */
    struct kz_test_request *requests;
    size_t request_count;
    struct kz_test_features *features;
    size_t features_count;
    struct kz_test_prediction *predictions;
    size_t prediction_count;
    struct kz_test_action *actions;
    size_t action_count;
};

/* Reads a test file and checks it against the project. Every problem is reported; then KZ_CONFIG. */
KZ_MUST_USE enum kz_code kz_project_test_read(struct kz_arena *arena,
        const struct kz_project *project, const char *path, const char *shown,
        kz_config_report *report, void *arg, struct kz_project_test *ret_test, struct kz_err *err);

/* What happened. */
struct kz_outcome_request {
    uint64_t request;
    int64_t at_ms;
    const char *user, *model, *trigger;
    int64_t now_ms;
    bool ended;
    enum kz_request_end end;
    const char *error; /* of a dead one */
    bool has_score;
    double score;
    const char *const *columns; /* NULL: raw history */
    const struct kz_value *values;
    size_t count;
};

struct kz_outcome_action {
    int64_t at_ms;
    const char *user, *action, *decision;
};

struct kz_outcome {
    struct kz_outcome_request *requests;
    size_t request_count, request_capacity;
    struct kz_outcome_action *actions;
    size_t action_count, action_capacity;
};

/* Appends one line for each thing that differs; gives how many there are. */
size_t kz_project_test_compare(
        const struct kz_project_test *test, const struct kz_outcome *outcome, struct kz_buf *out);
/* "delivered", "shadow", "holdout", "capped", "schedule", "paused". */
const char *kz_test_decision_name(enum kz_decision decision);
