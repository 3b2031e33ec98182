/* app/commands/cmd_tests.c -- `kizashi test`: a project's own tests, each in fresh data on a virtual clock. */

#include <dirent.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "app/config/check.h"
#include "app/commands/offline.h"
#include "app/commands/projecttest.h"
#include "base/diag.h"
#include "codec/json_out.h"
#include "sys/clock.h"

struct suite {
    const struct kz_project *project;
    struct kz_sql *sql;
    struct kz_sql_expr **features; /* [model_count], NULL for raw history */
    bool json;
    struct kz_json_out out;
    struct kz_buf out_buf;
    size_t passed, failed;
};

/* ---- what happened, from the log ------------------------------------------------------------------ */

struct gathering {
    const struct suite *suite;
    struct kz_arena *arena;
    struct kz_outcome *outcome;
    int64_t start_ms;
};

static const char *copy(struct gathering *g, struct kz_str body, struct kz_span span)
{
    return kz_arena_cstr(g->arena, kz_span_str(body, span));
}

static struct kz_outcome_request *request_of(struct kz_outcome *outcome, uint64_t request)
{
    for (size_t i = outcome->request_count; i-- > 0;)
        if (outcome->requests[i].request == request)
            return &outcome->requests[i];
    return NULL;
}

static void gather_request(struct gathering *g, const struct kz_record *record)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_request_body *body = (const void *)bytes.ptr;
    struct kz_outcome *outcome = g->outcome;

    if (outcome->request_count == outcome->request_capacity) {
        outcome->request_capacity = outcome->request_capacity * 2 + 64;
        outcome->requests = kz_realloc(
                outcome->requests, outcome->request_capacity * sizeof(*outcome->requests));
    }
    outcome->requests[outcome->request_count++] = (struct kz_outcome_request){
            .request = record->seq,
            .at_ms = record->at_ms - g->start_ms,
            .user = copy(g, bytes, body->user_id),
            .model = copy(g, bytes, body->model),
            .trigger = copy(g, bytes, body->trigger),
            .now_ms = body->now_ms,
    };
}

static void gather_result(struct gathering *g, const struct kz_record *record)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_result_body *body = (const void *)bytes.ptr;
    struct kz_outcome_request *request = request_of(g->outcome, body->request);
    const struct kz_project *project = g->suite->project;
    struct kz_value *values;
    size_t column_count, m = 0;

    if (!request)
        return;
    request->ended = true;
    request->end = (enum kz_request_end)body->end;
    request->error = copy(g, bytes, body->error);
    request->has_score = body->has_score;
    request->score = body->score;
    while (m < project->model_count && strcmp(project->models[m].name, request->model) != 0)
        m++;
    if (m == project->model_count || !g->suite->features[m] || !body->features.size)
        return;
    kz_sql_columns(g->suite->features[m], &request->columns, &column_count);
    values = kz_arena_zero(g->arena, (column_count + 1) * sizeof(*values));
    if (kz_row_decode(kz_arena_str(g->arena, kz_span_str(bytes, body->features)), values,
                column_count, &request->count, NULL) != KZ_OK)
        request->count = 0;
    request->values = values;
}

static void gather_decision(struct gathering *g, const struct kz_record *record)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_decision_body *body = (const void *)bytes.ptr;
    struct kz_outcome *outcome = g->outcome;
    const struct kz_outcome_request *request = request_of(outcome, body->request);

    if (outcome->action_count == outcome->action_capacity) {
        outcome->action_capacity = outcome->action_capacity * 2 + 64;
        outcome->actions = kz_realloc(
                outcome->actions, outcome->action_capacity * sizeof(*outcome->actions));
    }
    outcome->actions[outcome->action_count++] = (struct kz_outcome_action){
            .at_ms = request ? request->at_ms : record->at_ms - g->start_ms,
            .user = copy(g, bytes, body->user_id),
            .action = copy(g, bytes, body->action_name),
            .decision = kz_test_decision_name((enum kz_decision)body->decision),
    };
}

static enum kz_code gather(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct gathering *g = arg;

    (void)lsn;
    KZ_TRY(kz_record_check(record, NULL));
    if (record->type == KZ_RECORD_REQUEST)
        gather_request(g, record);
    else if (record->type == KZ_RECORD_RESULT)
        gather_result(g, record);
    else if (record->type == KZ_RECORD_DECISION)
        gather_decision(g, record);
    return KZ_OK;
}

/* ---- one test --------------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    (void)remove(path); /* what stays, stays in TMPDIR */
    return 0;
}

struct rejection {
    const struct kz_project_test *test;
    struct kz_buf *out;
    size_t count;
};

static void rejected(void *arg, uint64_t line, const char *code, struct kz_str message)
{
    struct rejection *r = arg;
    struct kz_place place = r->test->events[line].place;

    kz_buf_printf(r->out, "event rejected: %s: " KZ_STR_FMT " (%s:%u)\n", code, KZ_STR_ARG(message),
            place.file, place.line);
    r->count++;
}

static enum kz_code play(
        struct kz_offline *offline, const struct kz_project_test *test, struct kz_err *err)
{
    struct kz_pipeline *pipeline = kz_offline_pipeline(offline);

    KZ_TRY(kz_offline_wait_models(offline, err));
    for (size_t i = 0; i < test->event_count; i++) {
        KZ_TRY(kz_pipeline_set_clock(pipeline, test->start_ms + test->events[i].at_ms, err));
        KZ_TRY(kz_offline_add(offline, test->events[i].json, i, err));
        KZ_TRY(kz_offline_flush(offline, err));
    }
    return kz_offline_run_out(offline, err);
}

static enum kz_code play_and_compare(const struct suite *suite, struct kz_arena *arena,
        const struct kz_project_test *test, const char *data, size_t *ret_differences,
        struct kz_buf *out, struct kz_err *err)
{
    struct rejection rejection = {.test = test, .out = out};
    struct kz_offline_options options = {
            .project = suite->project,
            .data_dir = data,
            .virtual_clock = true,
            .ask = true,
            .rejected = rejected,
            .arg = &rejection,
    };
    KZ_AUTO(kz_offline_freep) struct kz_offline *offline = NULL;
    struct kz_outcome outcome = {0};
    struct gathering g = {suite, arena, &outcome, test->start_ms};
    struct kz_history_reader *reader;
    enum kz_code rc;

    KZ_TRY(kz_offline_open(&options, &offline, err));
    KZ_TRY(play(offline, test, err));
    reader = kz_pipeline_query(kz_offline_pipeline(offline))->reader;
    rc = reader->ops->scan_all(reader, 0, UINT64_MAX, gather, &g, err);
    if (rc == KZ_OK)
        *ret_differences = rejection.count + kz_project_test_compare(test, &outcome, out);
    free(outcome.requests);
    free(outcome.actions);
    return rc;
}

static void print_problem(void *arg, const struct kz_err *err)
{
    kz_buf_printf(arg, "%s\n", err->message);
}

static void show(struct suite *suite, const char *shown, const char *name, bool passed,
        struct kz_str text, int64_t ms)
{
    struct kz_str rest = text;

    if (passed)
        suite->passed++;
    else
        suite->failed++;
    if (suite->json) {
        kz_json_out_object(&suite->out);
        kz_json_out_kv_cstr(&suite->out, "file", shown);
        kz_json_out_kv_cstr(&suite->out, "name", name);
        kz_json_out_kv_bool(&suite->out, "passed", passed);
        kz_json_out_kv_i64(&suite->out, "ms", ms);
        kz_json_out_key(&suite->out, "differences");
        kz_json_out_array(&suite->out);
    } else {
        printf("%s  %s: %s (%" PRId64 " ms)\n", passed ? "ok  " : "FAIL", shown, name ? name : "?",
                ms);
    }
    while (rest.size) {
        const char *end = memchr(rest.ptr, '\n', rest.size);
        struct kz_str line = kz_str_n(rest.ptr, end ? (size_t)(end - rest.ptr) : rest.size);

        if (suite->json)
            kz_json_out_str(&suite->out, line);
        else
            printf("        " KZ_STR_FMT "\n", KZ_STR_ARG(line));
        rest = kz_str_n(
                rest.ptr + line.size + (end != NULL), rest.size - line.size - (end != NULL));
    }
    if (suite->json) {
        kz_json_out_array_end(&suite->out);
        kz_json_out_object_end(&suite->out);
    }
    fflush(stdout);
}

static void run_file(struct suite *suite, const char *path)
{
    const char *tmp = getenv("TMPDIR");
    struct kz_arena arena;
    struct kz_project_test test = {0};
    struct kz_buf text = {0};
    struct kz_err err;
    char data[PATH_MAX];
    size_t differences = 0;
    int64_t started_ms = kz_mono_ms();
    enum kz_code rc;

    kz_arena_init(&arena, 0);
    snprintf(data, sizeof(data), "%s/kizashi-test-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
    rc = kz_project_test_read(
            &arena, suite->project, path, path, print_problem, &text, &test, &err);
    if (rc == KZ_OK && !mkdtemp(data)) {
        rc = kz_fail_errno(&err, "could not make \"%s\"", data);
    } else if (rc == KZ_OK) {
        rc = play_and_compare(suite, &arena, &test, data, &differences, &text, &err);
        (void)nftw(data, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    if (rc != KZ_OK && !(rc == KZ_CONFIG && text.size))
        kz_buf_printf(&text, "%s\n", err.message);
    show(suite, path, test.name, rc == KZ_OK && !differences, kz_buf_view(&text),
            kz_mono_ms() - started_ms);
    kz_buf_done(&text);
    kz_arena_done(&arena);
}

/* ---- the command ------------------------------------------------------------------------------------ */

static int is_test(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');

    return entry->d_name[0] != '.' && dot &&
           (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static enum kz_code run_directory(struct suite *suite, const char *dir, struct kz_err *err)
{
    struct dirent **entries;
    char path[PATH_MAX];
    int count;

    snprintf(path, sizeof(path), "%s/tests", dir);
    count = scandir(path, &entries, is_test, by_name);
    if (count < 0)
        return kz_fail_errno(err, "could not read \"%s\"", path);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof(path), "%s/tests/%s", dir, entries[i]->d_name);
        run_file(suite, path);
        free(entries[i]);
    }
    free(entries);
    if (count)
        return KZ_OK;
    (void)kz_fail(err, KZ_NOT_FOUND, "there is no test in \"%s/tests\"", dir);
    return kz_hint(err, "a test is a file *.yaml with events and what is expected of them");
}

static enum kz_code compile_features(struct suite *suite, struct kz_err *err)
{
    const struct kz_project *project = suite->project;

    KZ_TRY(kz_sql_open(project, &suite->sql, err));
    suite->features = kz_calloc(project->model_count + 1, sizeof(struct kz_sql_expr *));
    for (size_t m = 0; m < project->model_count; m++)
        if (project->models[m].features_sql)
            KZ_TRY(kz_sql_compile(suite->sql, KZ_SQL_FEATURES, project->models[m].features_sql,
                    project->models[m].features_place, &suite->features[m], err));
    return KZ_OK;
}

static enum kz_code run_all(struct suite *suite, const struct kz_args *args, struct kz_err *err)
{
    KZ_TRY(compile_features(suite, err));
    if (args->argument_count == 1)
        return run_directory(suite, args->arguments[0], err);
    for (unsigned i = 1; i < args->argument_count; i++)
        run_file(suite, args->arguments[i]);
    return KZ_OK;
}

static int run(const struct kz_args *args)
{
    struct suite suite = {.json = kz_args_flag(args, "json")};
    KZ_AUTO(kz_config_freep) struct kz_config *config = NULL;
    struct kz_err err;
    enum kz_code rc;

    kz_diag_set(KZ_DIAG_ERROR, false);
    config = kz_check_load(args->arguments[0], kz_args_get(args, "env"), &err);
    if (!config)
        return kz_command_fail(&err);
    suite.project = kz_config_project(config);
    suite.out = kz_json_out(&suite.out_buf);
    kz_json_out_object(&suite.out);
    kz_json_out_key(&suite.out, "tests");
    kz_json_out_array(&suite.out);
    rc = run_all(&suite, args, &err);
    kz_json_out_array_end(&suite.out);
    kz_json_out_kv_u64(&suite.out, "passed", suite.passed);
    kz_json_out_kv_u64(&suite.out, "failed", suite.failed);
    kz_json_out_object_end(&suite.out);
    if (rc == KZ_OK && suite.json)
        printf(KZ_STR_FMT "\n", KZ_STR_ARG(kz_buf_view(&suite.out_buf)));
    else if (rc == KZ_OK)
        printf("%zu passed, %zu failed\n", suite.passed, suite.failed);
    kz_buf_done(&suite.out_buf);
    kz_sql_close(suite.sql);
    free(suite.features);
    if (rc != KZ_OK)
        return kz_command_fail(&err);
    return suite.failed ? KZ_EXIT_FAILED : KZ_EXIT_DONE;
}

const struct kz_command kz_command_test = {
        .name = "test",
        .arguments = "DIR [FILE...]",
        .argument_min = 1,
        .argument_max = KZ_ARGUMENTS_MAX,
        .summary = "Runs a project's own tests (DIR/tests/*.yaml) on a virtual clock.",
        .details = "Each test sends its events into fresh data, lets every timer come due, and "
                   "compares\nrequests, features, predictions and actions with what it expects.\n"
                   "Webhooks are decided, not sent.",
        .example = "kizashi test examples/shop",
        .options =
                {
                        {"env", "NAME", NULL, "lays kizashi.NAME.yaml on kizashi.yaml"},
                        {"json", NULL, NULL, "prints the outcome as JSON"},
                },
        .run = run,
};
