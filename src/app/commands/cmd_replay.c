/* app/commands/cmd_replay.c -- `kizashi replay --dir`: past events through the pipeline itself on virtual
 * time.
 */

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "app/config/check.h"
#include "app/commands/eventfile.h"
#include "app/commands/offline.h"
#include "app/commands/replay.h"
#include "base/diag.h"
#include "base/hash.h"
#include "codec/json_out.h"
#include "codec/timefmt.h"
#include "sys/clock.h"

/* ---- what came of a replay, from the log ---------------------------------------------------------------- */

struct model_columns {
    uint64_t name;
    const char *const *names;
    size_t count;
};

struct summary {
    uint64_t events, requests, done, superseded, expired, dead, other;
    uint64_t decisions[KZ_DECISION_PAUSED + 1];
    uint64_t dead_letters;
    uint64_t features_hash, decisions_hash, predictions_hash;

    FILE *out; /* NULL: not wanted */
    const char *out_path;
    struct kz_buf line;
    struct kz_json_out json;
    uint64_t held; /* the request whose line is being made; 0 none */
    struct model_columns *columns;
    size_t model_count;
};

static enum kz_code end_line(struct summary *s, struct kz_err *err)
{
    if (!s->held)
        return KZ_OK;
    kz_json_out_array_end(&s->json);
    kz_json_out_object_end(&s->json);
    kz_buf_char(&s->line, '\n');
    s->held = 0;
    if (fwrite(s->line.data, 1, s->line.size, s->out) != s->line.size)
        return kz_fail_errno(err, "could not write \"%s\"", s->out_path);
    return KZ_OK;
}

static void put_features(struct summary *s, struct kz_str model, struct kz_str row)
{
    struct kz_value values[512];
    const struct model_columns *columns = NULL;
    size_t count = 0;

    for (size_t m = 0; m < s->model_count; m++)
        if (s->columns[m].name == kz_name_hash(model))
            columns = &s->columns[m];
    kz_json_out_key(&s->json, "features");
    if (!row.size || kz_row_decode(row, values, KZ_ARRAY_COUNT(values), &count, NULL) != KZ_OK ||
            !columns) {
        kz_json_out_null(&s->json);
        return;
    }
    kz_json_out_object(&s->json);
    for (size_t i = 0; i < count && i < columns->count; i++) {
        struct kz_buf value = {0};

        kz_offline_value(values[i], &value);
        kz_json_out_kv_raw(&s->json, columns->names[i], kz_buf_view(&value));
        kz_buf_done(&value);
    }
    kz_json_out_object_end(&s->json);
}

static void begin_line(struct summary *s, const struct kz_record *record)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_result_body *body = (const void *)bytes.ptr;
    struct kz_str output = kz_span_str(bytes, body->output),
                  error = kz_span_str(bytes, body->error);
    char hash[20];

    kz_buf_clear(&s->line);
    s->json = kz_json_out(&s->line);
    s->held = body->request;
    snprintf(hash, sizeof(hash), "%016" PRIx64, body->features_hash);
    kz_json_out_object(&s->json);
    kz_json_out_kv_str(&s->json, body->user_kind == 'a' ? "anonymous_id" : "user_id",
            kz_span_str(bytes, body->user_id));
    kz_json_out_kv_str(&s->json, "event_id", kz_span_str(bytes, body->event_id));
    kz_json_out_kv_str(&s->json, "model", kz_span_str(bytes, body->model));
    kz_json_out_kv_str(&s->json, "version", kz_span_str(bytes, body->version));
    kz_json_out_kv_i64(&s->json, "as_of", body->as_of_ms);
    kz_json_out_kv_cstr(&s->json, "status", kz_request_end_name((enum kz_request_end)body->end));
    kz_json_out_kv_cstr(&s->json, "features_hash", hash);
    put_features(s, kz_span_str(bytes, body->model), kz_span_str(bytes, body->features));
    if (body->has_score)
        kz_json_out_kv_f64(&s->json, "score", body->score);
    if (output.size)
        kz_json_out_kv_raw(&s->json, "output", output);
    if (error.size)
        kz_json_out_kv_str(&s->json, "error", error);
    kz_json_out_key(&s->json, "decisions");
    kz_json_out_array(&s->json);
}

/* A score as far as predictions are comparable: 1e-6 (DESIGN.md section 10). */
static uint64_t rounded(double score)
{
    return (uint64_t)(int64_t)(score * 1e6 + (score < 0 ? -0.5 : 0.5));
}

static enum kz_code see_result(
        struct summary *s, const struct kz_record *record, struct kz_err *err)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_result_body *body = (const void *)bytes.ptr;
    uint64_t what = kz_hash_mix(kz_hash_mix(kz_hash_str(kz_span_str(bytes, body->event_id)),
                                        kz_hash_str(kz_span_str(bytes, body->model))),
            (uint64_t)body->as_of_ms);

    switch ((enum kz_request_end)body->end) {
    case KZ_END_DONE:
        s->done++;
        s->predictions_hash = kz_hash_mix(
                kz_hash_mix(s->predictions_hash, what), rounded(body->score));
        break;
    case KZ_END_SUPERSEDED:
        s->superseded++;
        break;
    case KZ_END_EXPIRED:
        s->expired++;
        break;
    case KZ_END_DEAD:
        s->dead++;
        break;
    case KZ_END_DROPPED:
        s->other++;
        break;
    }
    s->features_hash = kz_hash_mix(kz_hash_mix(s->features_hash, what), body->features_hash);
    if (!s->out)
        return KZ_OK;
    KZ_TRY(end_line(s, err));
    begin_line(s, record);
    return KZ_OK;
}

static void see_decision(struct summary *s, const struct kz_record *record)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_decision_body *body = (const void *)bytes.ptr;
    uint64_t what = kz_hash_mix(kz_hash_str(kz_span_str(bytes, body->user_id)),
            kz_hash_str(kz_span_str(bytes, body->action_name)));

    if (body->decision <= KZ_DECISION_PAUSED)
        s->decisions[body->decision]++;
    what = kz_hash_mix(kz_hash_mix(what, (uint64_t)record->at_ms), body->decision);
    s->decisions_hash = kz_hash_mix(s->decisions_hash, what);
    if (!s->out || s->held != body->request)
        return;
    kz_json_out_object(&s->json);
    kz_json_out_kv_str(&s->json, "action", kz_span_str(bytes, body->action_name));
    kz_json_out_kv_cstr(&s->json, "decision", kz_decision_name((enum kz_decision)body->decision));
    kz_json_out_object_end(&s->json);
}

struct seeing {
    struct summary *summary;
    struct kz_err *err;
};

static enum kz_code see(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct seeing *seeing = arg;
    struct summary *s = seeing->summary;

    (void)lsn;
    switch ((enum kz_record_type)record->type) {
    case KZ_RECORD_EVENT:
        s->events += !(record->flags & KZ_EVENT_ACTION);
        return KZ_OK;
    case KZ_RECORD_REQUEST:
        s->requests++;
        return KZ_OK;
    case KZ_RECORD_RESULT:
        return see_result(s, record, seeing->err);
    case KZ_RECORD_DECISION:
        see_decision(s, record);
        return KZ_OK;
    case KZ_RECORD_DEADLETTER:
        s->dead_letters++;
        return KZ_OK;
    default:
        return KZ_OK;
    }
}

static enum kz_code columns_of(
        struct summary *s, const struct kz_project *project, struct kz_sql *sql, struct kz_err *err)
{
    s->model_count = project->model_count;
    s->columns = kz_calloc(project->model_count + 1, sizeof(*s->columns));
    for (size_t m = 0; m < project->model_count; m++) {
        const struct kz_model_def *model = &project->models[m];
        struct kz_sql_expr *expr;

        s->columns[m].name = kz_name_hash(kz_str(model->name));
        if (!model->features_sql)
            continue;
        KZ_TRY(kz_sql_compile(
                sql, KZ_SQL_FEATURES, model->features_sql, model->features_place, &expr, err));
        kz_sql_columns(expr, &s->columns[m].names, &s->columns[m].count);
    }
    return KZ_OK;
}

static enum kz_code summarise(struct summary *s, const struct kz_project *project,
        struct kz_pipeline *pipeline, const char *out_path, struct kz_err *err)
{
    KZ_AUTO(kz_sql_closep) struct kz_sql *sql = NULL;
    struct kz_history_reader *reader = kz_pipeline_query(pipeline)->reader;
    struct seeing seeing = {s, err};
    enum kz_code rc;

    KZ_TRY(kz_sql_open(project, &sql, err));
    KZ_TRY(columns_of(s, project, sql, err));
    s->out_path = out_path;
    if (out_path && !(s->out = fopen(out_path, "we")))
        return kz_fail_errno(err, "could not open \"%s\"", out_path);
    rc = reader->ops->scan_all(reader, 0, UINT64_MAX, see, &seeing, err);
    if (rc == KZ_OK && s->out)
        rc = end_line(s, err);
    if (s->out && fclose(s->out) != 0 && rc == KZ_OK)
        rc = kz_fail_errno(err, "could not write \"%s\"", out_path);
    kz_buf_done(&s->line);
    free(s->columns);
    return rc;
}

static void print_summary(const struct summary *s, uint64_t broken_rows, int64_t ms, bool as_json)
{
    uint64_t decided = 0;
    struct kz_buf buf = {0};
    struct kz_json_out out = kz_json_out(&buf);
    char hash[20];

    for (size_t d = 0; d < KZ_ARRAY_COUNT(s->decisions); d++)
        decided += s->decisions[d];
    if (!as_json) {
        printf("events       %" PRIu64 "%s, %.0f a second\n", s->events,
                broken_rows ? " (some rows could not be taken)" : "",
                (double)s->events * 1000.0 / (double)KZ_MAX(ms, (int64_t)1));
        printf("requests     %" PRIu64 ": %" PRIu64 " done, %" PRIu64 " superseded, %" PRIu64
               " expired, %" PRIu64 " dead\n",
                s->requests, s->done, s->superseded, s->expired, s->dead);
        printf("decisions    %" PRIu64 ":", decided);
        for (int d = KZ_DECISION_DELIVER; d <= KZ_DECISION_PAUSED; d++)
            printf("%s %" PRIu64 " %s", d == KZ_DECISION_DELIVER ? "" : ",", s->decisions[d],
                    kz_decision_name((enum kz_decision)d));
        printf("\ndead letters %" PRIu64 "\n", s->dead_letters);
        printf("features     %016" PRIx64 "  equal hashes, equal bits\n", s->features_hash);
        printf("predictions  %016" PRIx64 "  scores to 1e-6\n", s->predictions_hash);
        printf("decided      %016" PRIx64 "\n", s->decisions_hash);
        return;
    }
    kz_json_out_object(&out);
    kz_json_out_kv_u64(&out, "events", s->events);
    kz_json_out_kv_u64(&out, "rejected_rows", broken_rows);
    kz_json_out_kv_u64(&out, "requests", s->requests);
    kz_json_out_kv_u64(&out, "done", s->done);
    kz_json_out_kv_u64(&out, "superseded", s->superseded);
    kz_json_out_kv_u64(&out, "expired", s->expired);
    kz_json_out_kv_u64(&out, "dead", s->dead);
    kz_json_out_kv_u64(&out, "decisions", decided);
    for (int d = KZ_DECISION_DELIVER; d <= KZ_DECISION_PAUSED; d++)
        kz_json_out_kv_u64(&out, kz_decision_name((enum kz_decision)d), s->decisions[d]);
    kz_json_out_kv_u64(&out, "dead_letters", s->dead_letters);
    snprintf(hash, sizeof(hash), "%016" PRIx64, s->features_hash);
    kz_json_out_kv_cstr(&out, "features_hash", hash);
    snprintf(hash, sizeof(hash), "%016" PRIx64, s->predictions_hash);
    kz_json_out_kv_cstr(&out, "predictions_hash", hash);
    snprintf(hash, sizeof(hash), "%016" PRIx64, s->decisions_hash);
    kz_json_out_kv_cstr(&out, "decisions_hash", hash);
    kz_json_out_kv_i64(&out, "ms", ms);
    kz_json_out_object_end(&out);
    printf(KZ_STR_FMT "\n", KZ_STR_ARG(kz_buf_view(&buf)));
    kz_buf_done(&buf);
}

/* ---- replay --------------------------------------------------------------------------------------------- */

/* Two clocks in one log would make neither repeatable. */
static enum kz_code must_be_fresh(const char *data, struct kz_err *err)
{
    struct kz_offline_reader reader;
    uint64_t records;
    struct kz_err inner;
    enum kz_code rc = kz_offline_open_log(data, NULL, &reader, &inner);

    if (rc == KZ_NOT_FOUND)
        return KZ_OK;
    if (rc != KZ_OK) {
        *err = inner;
        return rc;
    }
    records = reader.found.seq_last;
    kz_offline_close_reader(&reader);
    if (!records)
        return KZ_OK;
    (void)kz_fail(err, KZ_CONFLICT,
            "\"%s\" holds %" PRIu64 " records already; a replay on virtual time begins with none",
            data, records);
    return kz_hint(err, "name a new place with --data PATH, or remove that one");
}

static enum kz_code play(struct kz_offline *offline, struct kz_event_file *file,
        struct kz_row_problems *problems, bool quiet, struct kz_err *err)
{
    struct kz_pipeline *pipeline = kz_offline_pipeline(offline);
    struct kz_progress progress;
    struct kz_event_line line;
    uint64_t done = 0;
    enum kz_code rc;

    KZ_TRY(kz_offline_wait_models(offline, err));
    kz_progress_begin(&progress, "replaying", kz_event_file_count(file), quiet);
    while ((rc = kz_event_file_next(file, &line, err)) == KZ_OK) {
        char now[KZ_TIME_BYTES];

        if (!line.ts_ms) {
            kz_row_rejected(problems, line.line, "no_ts", KZ_STR("virtual time needs a ts"));
            continue;
        }
        KZ_TRY(kz_pipeline_set_clock(pipeline, line.ts_ms, err));
        KZ_TRY(kz_offline_add(offline, line.json, line.line, err));
        KZ_TRY(kz_offline_flush(offline, err));
        done++;
        if (done % 64 == 0)
            kz_progress_show(&progress, done, kz_time_format(line.ts_ms, now));
    }
    if (rc != KZ_END)
        return rc;
    KZ_TRY(kz_offline_run_out(offline, err));
    kz_progress_end(&progress, done, NULL);
    return KZ_OK;
}

static enum kz_code replay(const struct kz_args *args, const struct kz_project *project,
        const char *data, struct kz_err *err)
{
    struct kz_row_problems problems = {.file = args->arguments[0]};
    struct kz_offline_options options = {
            .project = project,
            .data_dir = data,
            .virtual_clock = true,
            .ask = true,
            .rejected = kz_row_rejected,
            .arg = &problems,
    };
    KZ_AUTO(kz_event_file_closep) struct kz_event_file *file = NULL;
    KZ_AUTO(kz_offline_freep) struct kz_offline *offline = NULL;
    struct summary summary = {0};
    int64_t started_ms;

    KZ_TRY(must_be_fresh(data, err));
    KZ_TRY(kz_event_file_open(args->arguments[0], kz_args_get(args, "map"), &file, err));
    KZ_TRY(kz_event_file_sort(file, &problems, err));
    KZ_TRY(kz_offline_open(&options, &offline, err));
    started_ms = kz_mono_ms();
    KZ_TRY(play(offline, file, &problems, kz_args_flag(args, "quiet"), err));
    started_ms = kz_mono_ms() - started_ms;
    KZ_TRY(summarise(
            &summary, project, kz_offline_pipeline(offline), kz_args_get(args, "out"), err));
    KZ_TRY(kz_offline_finish(offline, err));
    print_summary(&summary, problems.count, started_ms, kz_args_flag(args, "json"));
    return KZ_OK;
}

static int replay_dir(const struct kz_args *args)
{
    const char *dir = kz_args_get(args, "dir"), *clock = kz_args_get(args, "clock");
    KZ_AUTO(kz_config_freep) struct kz_config *config = NULL;
    char data[PATH_MAX];
    struct kz_err err;

    if (clock && strcmp(clock, "event") != 0)
        return kz_command_usage(
                args, "--dir runs on virtual time: --clock event, not \"%s\"", clock);
    if (kz_args_get(args, "url") || kz_args_get(args, "speed") || kz_args_get(args, "users") ||
            kz_args_get(args, "ts") || kz_args_flag(args, "loop"))
        return kz_command_usage(
                args, "--url, --speed, --users, --ts and --loop do not go with --dir");
    kz_diag_set(KZ_DIAG_WARN, false);
    config = kz_check_load(dir, kz_args_get(args, "env"), &err);
    if (!config)
        return kz_command_fail(&err);
    kz_command_data(args, dir, data, sizeof(data));
    if (replay(args, kz_config_project(config), data, &err) != KZ_OK)
        return kz_command_fail(&err);
    return KZ_EXIT_DONE;
}

static int run_replay(const struct kz_args *args)
{
    const char *clock = kz_args_get(args, "clock");

    if (kz_args_get(args, "dir"))
        return replay_dir(args);
    if (clock && strcmp(clock, "event") == 0 &&
            (!kz_args_get(args, "url") || kz_args_get(args, "speed") ||
                    kz_args_get(args, "users") || kz_args_get(args, "ts") ||
                    kz_args_flag(args, "loop")))
        return kz_command_usage(args,
                "--clock event needs --dir DIR, or --url of roles that run on "
                "it, and then no --speed, --users, --ts and --loop");
    if (kz_args_get(args, "out") || kz_args_get(args, "data"))
        return kz_command_usage(args, "--out and --data go with --dir");
    return kz_replay_url(args);
}

const struct kz_command kz_command_replay = {
        .name = "replay",
        .arguments = "FILE",
        .argument_min = 1,
        .argument_max = 1,
        .summary = "Plays past events: at a running system, or through a project on virtual time.",
        .details =
                "FILE is NDJSON as POST /v1/events takes it, or CSV with --map.\n\n"
                "With --url events are sent as they were spaced in time, --speed times as fast.\n\n"
                "With --dir the pipeline itself runs on virtual time: events by ts, timers as time "
                "passes,\neach with all its consequences before the next. Two runs give the same "
                "features bit for bit;\nthe hashes printed at the end tell. It begins with fresh "
                "data (--data). Webhooks are decided, not sent.\n\n"
                "With --url and --clock event, roles that were started with --clock event run on the "
                "events' times.",
        .example = "kizashi replay events.csv --dir examples/shop --data /tmp/replay --clock event "
                   "--map ts=event_time,name=event_type,user_id=user_id",
        .options =
                {
                        {"url", "URL", NULL,
                                "a running system (default: KIZASHI_URL, else http://127.0.0.1:8080)"},
                        {"key", "KEY", NULL, "with --url: a write key"},
                        {"speed", "FACTOR", NULL, "with --url: 10x is ten times as fast; max"},
                        {"users", "xN", NULL, "with --url: N times as many users"},
                        {"ts", "shift|keep", NULL,
                                "with --url: times moved to now (the default), or as they are"},
                        {"loop", NULL, NULL, "with --url: again and again, each time new visitors"},
                        {"dir", "DIR", NULL, "run the project DIR on virtual time"},
                        {"data", "PATH", NULL, "with --dir: where the data goes, not DIR/.kizashi"},
                        {"env", "NAME", NULL, "with --dir: lays kizashi.NAME.yaml on kizashi.yaml"},
                        {"clock", "wall|event", NULL, "event: virtual time (with --dir always)"},
                        {"out", "FILE", NULL, "with --dir: every result as a line of JSON"},
                        {"map", "FIELD=COLUMN,...", NULL,
                                "CSV: which column is ts, name, user_id, "
                                "anonymous_id, event_id"},
                        {"quiet", NULL, NULL, "no progress"},
                        {"json", NULL, NULL, "prints the summary as JSON"},
                },
        .run = run_replay,
};
