/* Features of one request: its user's history up to it, through the model's SQL, or as JSON. */
#include "infer/infer_int.h"

#include <stdlib.h>

#include "base/hash.h"
#include "codec/json_out.h"
#include "sys/clock.h"

static uint64_t all_columns(const struct kz_project *project)
{
    size_t count = project->events.column_count;

    return count < KZ_COLUMNS_MAX ? (UINT64_C(1) << count) - 1 : UINT64_MAX;
}

/* What any of the models looks at; a raw history is all there is. */
static struct kz_event_parts parts_read(const struct lane *lane)
{
    const struct kz_project *project = lane->infer->project;
    struct kz_event_parts all = {.columns_id = project->events.columns_id};

    for (size_t i = 0; i < project->model_count; i++) {
        struct kz_event_parts parts = {
                .event_id = true, .name = true, .props = true, .columns = all_columns(project)};

        if (lane->exprs[i])
            kz_sql_reads(lane->exprs[i], &parts);
        all.event_id |= parts.event_id;
        all.name |= parts.name;
        all.props |= parts.props;
        all.columns |= parts.columns;
    }
    return all;
}

/* Long histories would push out all others, and few ask for them: the slow lane has no cache. */
static void open_cache(struct lane *lane)
{
    struct kz_history_reader *reader = lane->infer->options.reader;
    struct kz_event_parts parts = parts_read(lane);

    if (!lane->slow && reader && reader->ops->cache_new)
        lane->cache = reader->ops->cache_new(reader, &parts, lane->infer->options.history_bytes);
}

enum kz_code kz_lane_open(struct lane *lane, struct kz_infer *infer, bool slow, struct kz_err *err)
{
    const struct kz_project *project = infer->project;

    *lane = (struct lane){.infer = infer, .slow = slow};
    lane->exprs = kz_calloc(project->model_count + 1, sizeof(*lane->exprs));
    KZ_TRY(kz_sql_open(project, &lane->sql, err));
    for (size_t i = 0; i < project->model_count; i++) {
        const struct kz_model_def *def = &project->models[i];

        if (!def->features_sql)
            continue;
        KZ_TRY(kz_sql_compile(lane->sql, KZ_SQL_FEATURES, def->features_sql, def->features_place,
                &lane->exprs[i], err));
    }
    open_cache(lane);
    return KZ_OK;
}

void kz_lane_close(struct lane *lane)
{
    struct kz_history_reader *reader;

    if (lane->cache) {
        reader = lane->infer->options.reader;
        reader->ops->cache_free(reader, lane->cache);
    }
    if (lane->sql)
        kz_sql_close(lane->sql);
    free(lane->exprs);
    *lane = (struct lane){0};
}

void kz_lane_forget(struct lane *lane, uint64_t owner)
{
    struct kz_history_reader *reader = lane->infer->options.reader;

    if (lane->cache)
        reader->ops->cache_forget(reader, lane->cache, owner);
}

static void fail(struct row *row, const char *code, const struct kz_err *err)
{
    struct kz_infer_result *result = &row->result;

    row->failed = true;
    result->stage = KZ_STAGE_FEATURES;
    memcpy(result->code, code, KZ_MIN(strlen(code) + 1, sizeof(result->code)));
    result->code[sizeof(result->code) - 1] = '\0';
    kz_buf_clear(&result->error);
    kz_buf_cstr(&result->error, err->message);
}

/* ---- raw history ---------------------------------------------------------------------------------- */

static void put_value(struct kz_json_out *json, struct kz_value v)
{
    switch (v.type) {
    case KZ_TYPE_NULL:
        kz_json_out_null(json);
        break;
    case KZ_TYPE_INT:
        kz_json_out_i64(json, v.integer);
        break;
    case KZ_TYPE_BOOL:
        kz_json_out_i64(json, v.integer != 0); /* as SQL sees it */
        break;
    case KZ_TYPE_FLOAT:
        kz_json_out_f64(json, v.real);
        break;
    case KZ_TYPE_TEXT:
        kz_json_out_str(json, v.text);
        break;
    }
}

/* Columns of another definition than today's were not filled in when the event was kept; they can
 * be had from props. */
static void put_columns(
        const struct kz_project *project, const struct kz_record *record, struct kz_json_out *json)
{
    if (kz_event_body(record)->columns_id != project->events.columns_id)
        return;
    for (size_t i = 0; i < project->events.column_count; i++) {
        kz_json_out_key(json, project->events.columns[i].name);
        put_value(json, kz_event_column(record, (unsigned)i));
    }
}

/* An event with the keys of the table `events`. */
static void put_event(const struct kz_project *project, const struct kz_record *record,
        struct kz_str user_id, struct kz_json_out *json)
{
    struct kz_event event;

    if (kz_event_decode(record, &event, NULL) != KZ_OK)
        return; /* a record that fsck will name; SQL skips it too */
    kz_json_out_object(json);
    kz_json_out_kv_u64(json, "seq", record->seq);
    kz_json_out_kv_str(json, "event_id", event.event_id);
    kz_json_out_kv_str(json, "user_id", user_id);
    kz_json_out_kv_str(json, "name", event.name);
    kz_json_out_kv_i64(json, "ts", event.ts_ms);
    if (event.client_ts_ms)
        kz_json_out_kv_i64(json, "client_ts", event.client_ts_ms);
    kz_json_out_kv_i64(json, "received_at", record->at_ms);
    kz_json_out_kv_u64(json, "session", event.session);
    kz_json_out_kv_raw(json, "props", event.props.size ? event.props : KZ_STR("{}"));
    put_columns(project, record, json);
    kz_json_out_object_end(json);
}

static void put_history(struct lane *lane, struct row *row, const struct kz_history_rows *rows)
{
    struct kz_json_out json;
    struct kz_err err;

    kz_buf_clear(&row->history);
    json = kz_json_out(&row->history);
    kz_json_out_array(&json);
    for (size_t i = 0; i < rows->count && row->history.size < ROW_BYTES_MAX; i++)
        put_event(lane->infer->project, rows->records[i], row->job.params.user_id, &json);
    kz_json_out_array_end(&json);
    if (row->history.size >= ROW_BYTES_MAX) {
        kz_fail(&err, KZ_TOO_LARGE, "the history of %zu events is over %d MiB as JSON: set history",
                rows->count, ROW_BYTES_MAX >> 20);
        fail(row, "too_large", &err);
        return;
    }
    row->result.features_hash = kz_hash(row->history.data, row->history.size);
}

/* ---- SQL ------------------------------------------------------------------------------------------ */

/* False: took too many steps for this lane. */
static bool put_features(struct lane *lane, struct row *row, const struct kz_history_rows *rows)
{
    uint64_t most = lane->infer->options.sql_steps_max ? lane->infer->options.sql_steps_max
                                                       : SLOW_STEPS;
    uint64_t steps = lane->slow ? most : KZ_MIN(most, FAST_STEPS);
    struct kz_infer_result *result = &row->result;
    struct kz_row values;
    struct kz_err err;
    enum kz_code rc;

    rc = kz_sql_features(lane->exprs[row->job.model], rows, &row->job.params, steps, &values, &err);
    if (rc == KZ_TIMEOUT && !lane->slow)
        return false;
    if (rc != KZ_OK) {
        fail(row, rc == KZ_TIMEOUT ? "features_timeout" : "features", &err);
        return true;
    }
    kz_buf_clear(&result->features);
    kz_row_encode(values.values, values.count, &result->features);
    result->features_hash = kz_hash(result->features.data, result->features.size);
    return true;
}

/* ---- both ----------------------------------------------------------------------------------------- */

static struct kz_history_query make_query(const struct lane *lane, const struct row *row)
{
    const struct kz_infer_job *job = &row->job;
    const struct kz_history_def *def = &lane->infer->project->models[job->model].history;

    return (struct kz_history_query){
            .sources = job->sources,
            .source_count = job->source_count,
            .chain = KZ_CHAIN_EVENTS,
            .as_of = job->request_lsn,
            .events_max = def->events_max,
            .since_ms = def->window_ms ? job->params.now_ms - def->window_ms : INT64_MIN,
            .include_actions = def->include_actions,
            .cache = row->keep_nothing ? NULL : lane->cache,
    };
}

bool kz_lane_compute(struct lane *lane, struct row *row)
{
    struct kz_infer *infer = lane->infer;
    struct kz_history_reader *reader = infer->options.reader;
    struct kz_history_query query = make_query(lane, row);
    uint32_t slow_events = infer->options.slow_events;
    bool may_be_slow = !lane->slow && (!query.events_max || query.events_max > slow_events);
    bool fits = true;
    struct kz_history_rows rows;
    struct kz_err err;

    /* One more than the fast lane takes tells whether it is for the slow one, and costs no more
     * than what the fast lane may. */
    if (may_be_slow)
        query.events_max = slow_events + 1;
    if (reader->ops->scan(reader, &query, &rows, &err) != KZ_OK) {
        fail(row, "history", &err);
        return true;
    }
    if (may_be_slow && rows.count > slow_events) {
        fits = false;
    } else {
        row->truncated = row->job.params.truncated = rows.truncated;
        if (lane->exprs[row->job.model])
            fits = put_features(lane, row, &rows);
        else
            put_history(lane, row, &rows);
    }
    reader->ops->release(reader, &rows);
    return fits;
}
