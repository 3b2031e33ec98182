/* app/commands/cmd_sql.c -- `kizashi sql` and `kizashi features`: what is known, asked beside a running `up`. */

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/config/check.h"
#include "app/commands/offline.h"
#include "base/diag.h"
#include "base/hash.h"
#include "codec/json_out.h"
#include "codec/timefmt.h"
#include "feature/format.h"
#include "feature/tables.h"
#include "sys/clock.h"

/* KZ_END: whoever reads our output has read enough. */
static enum kz_code write_out(void *arg, struct kz_str bytes, struct kz_err *err)
{
    if (fwrite(bytes.ptr, 1, bytes.size, arg) == bytes.size)
        return KZ_OK;
    return errno == EPIPE ? kz_fail(err, KZ_END, "the reader has gone")
                          : kz_fail_errno(err, "could not write the answer");
}

static enum kz_code flush_out(struct kz_err *err)
{
    if (fflush(stdout) == 0 || errno == EPIPE)
        return KZ_OK;
    return kz_fail_errno(err, "could not write the answer");
}

/* ---- sql ---------------------------------------------------------------------------------------------- */

static size_t lookup(
        void *arg, struct kz_str id, enum kz_chain chain, struct kz_source out[KZ_SOURCES_MAX])
{
    const struct kz_offline_reader *reader = arg;
    uint32_t user = kz_offline_find(reader->views, id);

    return user ? kz_views_sources(reader->views, user, chain, UINT64_MAX, out) : 0;
}

static struct kz_str user_id(void *arg, uint64_t owner, kz_lsn lsn)
{
    const struct kz_offline_reader *reader = arg;
    uint32_t user = kz_views_state_user(reader->views, owner);

    (void)lsn;
    return user ? kz_views_key(reader->views, user).id : KZ_STR_NULL;
}

static enum kz_code query(struct kz_offline_reader *reader, const struct kz_project *project,
        const char *text, enum kz_format_kind kind, struct kz_err *err)
{
    struct kz_tables_hooks hooks = {.arg = reader,
            .lookup = lookup,
            .user_id = user_id,
            .until = UINT64_MAX,
            .now_ms = kz_clock_ms()};
    KZ_AUTO(kz_tables_closep) struct kz_tables *tables = NULL;
    KZ_AUTO(kz_format_freep) struct kz_format *format = kz_format_new(kind, write_out, stdout);
    struct kz_tables_sink sink = {format, kz_format_columns, kz_format_row};
    enum kz_code rc;

    KZ_TRY(kz_tables_open(project, reader->reader, &hooks, &tables, err));
    rc = kz_tables_query(tables, text, &sink, err);
    if (rc == KZ_OK)
        rc = kz_format_end(format, err);
    if (rc == KZ_OK)
        rc = flush_out(err);
    return rc == KZ_END ? KZ_OK : rc;
}

static int run_sql(const struct kz_args *args)
{
    KZ_AUTO(kz_config_freep) struct kz_config *config = NULL;
    struct kz_offline_reader reader;
    enum kz_format_kind kind;
    char data[PATH_MAX];
    struct kz_err err;
    enum kz_code rc;

    if (!kz_format_parse(kz_args_get(args, "format"), &kind))
        return kz_command_usage(args, "--format is \"%s\", it has to be table, csv or json",
                kz_args_get(args, "format"));
    kz_diag_set(KZ_DIAG_ERROR, false);
    config = kz_check_load(args->arguments[0], kz_args_get(args, "env"), &err);
    if (!config)
        return kz_command_fail(&err);
    kz_command_data(args, args->arguments[0], data, sizeof(data));
    if (kz_offline_open_reader(kz_config_project(config), data, &reader, &err) != KZ_OK)
        return kz_command_fail(&err);
    rc = query(&reader, kz_config_project(config), args->arguments[1], kind, &err);
    kz_offline_close_reader(&reader);
    return rc == KZ_OK ? KZ_EXIT_DONE : kz_command_fail(&err);
}

const struct kz_command kz_command_sql = {
        .name = "sql",
        .arguments = "DIR SELECT",
        .argument_min = 2,
        .argument_max = 2,
        .summary = "Asks everything that is stored, in SQLite's dialect; `up` may run meanwhile.",
        .details =
                "Tables: events(seq, event_id, user_id, name, ts, client_ts, received_at, session, "
                "props,\n<columns>), predictions(user_id, model, version, score, output, event_id, "
                "as_of, computed_at,\nexpires_at), actions(user_id, action, event_id, decided_at, "
                "decision, delivered_at),\ndead_letters(id, stage, reason, at, payload), and the "
                "reference tables. Times are epoch\nmilliseconds; @now is now.",
        .example = "kizashi sql examples/shop \"SELECT name, count(*) FROM events GROUP BY 1\"",
        .options =
                {
                        {"format", "FORMAT", "table", "table, csv or json"},
                        {"data", "PATH", NULL, "where the data is, instead of DIR/.kizashi"},
                        {"env", "NAME", NULL, "lays kizashi.NAME.yaml on kizashi.yaml"},
                },
        .run = run_sql,
};

/* ---- features of one user ----------------------------------------------------------------------------- */

struct asking {
    struct kz_offline_reader reader;
    const struct kz_project *project;
    const struct kz_model_def *model;
    struct kz_sql_expr *expr;
    struct kz_buf event, request, result; /* records; the moment's strings are in them */
};

/* Copies the records of a chain that concern the asked-for event: `see` picks them. */
static enum kz_code scan_user(struct asking *a, uint32_t user, enum kz_chain chain,
        void (*see)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err)
{
    struct kz_source sources[KZ_SOURCES_MAX];
    struct kz_history_query q = {
            .sources = sources,
            .source_count = kz_views_sources(a->reader.views, user, chain, UINT64_MAX, sources),
            .chain = chain,
            .as_of = UINT64_MAX,
            .since_ms = INT64_MIN,
            .include_actions = true,
    };
    struct kz_history_rows rows;

    KZ_TRY(a->reader.reader->ops->scan(a->reader.reader, &q, &rows, err));
    for (size_t i = 0; i < rows.count; i++)
        see(arg, rows.lsns[i], rows.records[i]);
    a->reader.reader->ops->release(a->reader.reader, &rows);
    return KZ_OK;
}

static void keep(struct kz_buf *buf, const struct kz_record *record)
{
    kz_buf_clear(buf);
    kz_buf_put(buf, record, record->size);
}

struct finding {
    struct asking *a;
    struct kz_str event_id; /* empty: the newest */
    int64_t ts_latest_ms;   /* of the history up to the event */
    kz_lsn event_lsn, request_lsn;
    uint64_t request;
};

static void see_event(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct finding *f = arg;
    struct kz_event event;

    if (kz_event_decode(record, &event, NULL) != KZ_OK)
        return;
    if (!f->event_lsn || !f->event_id.size)
        f->ts_latest_ms = KZ_MAX(f->ts_latest_ms, event.ts_ms);
    if (f->event_id.size ? !kz_str_eq(event.event_id, f->event_id)
                         : (record->flags & KZ_EVENT_ACTION) != 0)
        return;
    f->event_lsn = lsn;
    keep(&f->a->event, record);
}

/* The newest request of the model about the event, and its result. */
static void see_note(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct finding *f = arg;
    struct kz_str bytes = kz_record_body(record);

    if (record->type == KZ_RECORD_REQUEST) {
        const struct kz_request_body *body = (const void *)bytes.ptr;

        if (body->event != f->event_lsn ||
                !kz_str_is(kz_span_str(bytes, body->model), f->a->model->name))
            return;
        f->request_lsn = lsn;
        f->request = record->seq;
        keep(&f->a->request, record);
        kz_buf_clear(&f->a->result);
    } else if (record->type == KZ_RECORD_RESULT) {
        const struct kz_result_body *body = (const void *)bytes.ptr;

        if (f->request && body->request == f->request && body->features.size)
            keep(&f->a->result, record);
    }
}

static const struct kz_record *record_in(const struct kz_buf *buf)
{
    return (const struct kz_record *)(const void *)buf->data;
}

/* Where nobody asked: as of the event itself, or now. */
static void moment_of_event(struct asking *a, const struct finding *f, uint32_t user, bool now,
        struct kz_offline_moment *ret)
{
    const struct kz_user *known = kz_views_user(a->reader.views, user);
    const struct kz_record *record = record_in(&a->event);
    uint32_t then = kz_views_find_owner(a->reader.views, record->owner);
    struct kz_event event = {0};

    KZ_IGNORE(kz_event_decode(record, &event, NULL)); /* see_event() has decoded it */
    *ret = (struct kz_offline_moment){.user = now || !then ? user : then,
            .as_of = now ? UINT64_MAX : f->event_lsn,
            .params = {
                    .now_ms = now ? KZ_MAX(kz_clock_ms(), known->last_ts_ms) : f->ts_latest_ms,
                    .user_id = kz_views_key(a->reader.views, now || !then ? user : then).id,
                    .event_id = event.event_id,
                    .trigger_ts_ms = event.ts_ms,
                    .session = event.session,
                    .seq = record->seq,
                    .first_seen_ms = known->first_seen_ms,
            }};
}

static enum kz_code find_moment(struct asking *a, const char *id, const char *as_of,
        struct kz_offline_moment *ret, struct kz_err *err)
{
    uint32_t user = kz_offline_find(a->reader.views, kz_str(id));
    struct finding f = {.a = a, .event_id = kz_str(as_of), .ts_latest_ms = INT64_MIN};

    if (!user)
        return kz_fail(err, KZ_NOT_FOUND, "nothing is known of a user \"%s\"", id);
    KZ_TRY(scan_user(a, user, KZ_CHAIN_EVENTS, see_event, &f, err));
    if (!f.event_lsn && as_of)
        return kz_fail(err, KZ_NOT_FOUND, "user \"%s\" has no event \"%s\"", id, as_of);
    if (!f.event_lsn)
        return kz_fail(err, KZ_NOT_FOUND, "user \"%s\" has no event", id);
    if (as_of)
        KZ_TRY(scan_user(a, user, KZ_CHAIN_NOTES, see_note, &f, err));
    if (f.request)
        return kz_offline_moment_of(&a->reader, f.request_lsn, record_in(&a->request), ret, err);
    moment_of_event(a, &f, user, !as_of, ret);
    return KZ_OK;
}

static struct kz_value text_value(struct kz_str text)
{
    return (struct kz_value){.type = KZ_TYPE_TEXT, .text = text};
}

static enum kz_code print_table(const char *const *names, const struct kz_row *row,
        const struct kz_value *served, size_t served_count, struct kz_err *err)
{
    static const char *const columns[] = {"feature", "value", "served"};
    KZ_AUTO(kz_format_freep)
    struct kz_format *format = kz_format_new(KZ_FORMAT_TABLE, write_out, stdout);
    size_t column_count = served ? 3 : 2;

    KZ_TRY(kz_format_columns(format, columns, column_count, err));
    for (size_t i = 0; i < row->count; i++) {
        struct kz_buf value = {0}, was = {0};
        struct kz_value cells[3];
        enum kz_code rc;

        kz_offline_value(row->values[i], &value);
        if (served && i < served_count)
            kz_offline_value(served[i], &was);
        if (served && (i >= served_count || !kz_offline_same(row->values[i], served[i])))
            kz_buf_cstr(&was, "  DIFFERS");
        cells[0] = text_value(kz_str(names[i]));
        cells[1] = text_value(kz_buf_view(&value));
        cells[2] = text_value(kz_buf_view(&was));
        rc = kz_format_row(format, cells, column_count, err);
        kz_buf_done(&value);
        kz_buf_done(&was);
        KZ_TRY(rc);
    }
    return kz_format_end(format, err);
}

static void put_object(struct kz_json_out *out, const char *key, const char *const *names,
        const struct kz_value *values, size_t count)
{
    kz_json_out_key(out, key);
    kz_json_out_object(out);
    for (size_t i = 0; i < count; i++) {
        struct kz_buf value = {0};

        kz_offline_value(values[i], &value);
        kz_json_out_kv_raw(out, names[i], kz_buf_view(&value));
        kz_buf_done(&value);
    }
    kz_json_out_object_end(out);
}

struct answer {
    const char *const *names;
    struct kz_row row;
    struct kz_value served[KZ_COLUMNS_MAX * 8];
    size_t served_count;
    bool was_served, same;
};

static enum kz_code print_answer(const struct asking *a, const struct kz_offline_moment *moment,
        const struct answer *answer, bool as_json, struct kz_err *err)
{
    struct kz_buf buf = {0};
    struct kz_json_out out = kz_json_out(&buf);
    char now[KZ_TIME_BYTES];

    if (!as_json) {
        printf("%s of " KZ_STR_FMT " as of event " KZ_STR_FMT ", @now %s%s\n", a->model->name,
                KZ_STR_ARG(moment->params.user_id), KZ_STR_ARG(moment->params.event_id),
                kz_time_format(moment->params.now_ms, now),
                moment->params.truncated ? ", history truncated" : "");
        KZ_TRY(print_table(answer->names, &answer->row, answer->was_served ? answer->served : NULL,
                answer->served_count, err));
        if (answer->was_served)
            printf("%s\n", answer->same
                                   ? "bit for bit what was served"
                                   : "NOT what was served: SQL, tables or columns have changed "
                                     "since, or the log has");
        return flush_out(err);
    }
    kz_json_out_object(&out);
    kz_json_out_kv_cstr(&out, "model", a->model->name);
    kz_json_out_kv_str(&out, "user_id", moment->params.user_id);
    kz_json_out_kv_str(&out, "event_id", moment->params.event_id);
    kz_json_out_kv_i64(&out, "now", moment->params.now_ms);
    kz_json_out_kv_bool(&out, "truncated", moment->params.truncated);
    put_object(&out, "features", answer->names, answer->row.values, answer->row.count);
    if (answer->was_served) {
        put_object(&out, "served", answer->names, answer->served,
                KZ_MIN(answer->served_count, answer->row.count));
        kz_json_out_kv_bool(&out, "same", answer->same);
    }
    kz_json_out_object_end(&out);
    printf(KZ_STR_FMT "\n", KZ_STR_ARG(kz_buf_view(&buf)));
    kz_buf_done(&buf);
    return flush_out(err);
}

/* `ret_same` stays true where nothing was served to compare with. */
static enum kz_code features_of(
        struct asking *a, const struct kz_args *args, bool *ret_same, struct kz_err *err)
{
    struct kz_offline_moment moment;
    struct answer answer = {.same = true};
    struct kz_buf encoded = {0};
    size_t count;

    KZ_TRY(find_moment(a, kz_args_get(args, "user"), kz_args_get(args, "as-of"), &moment, err));
    KZ_TRY(kz_offline_features(&a->reader, a->expr, a->model, &moment, &answer.row, err));
    kz_sql_columns(a->expr, &answer.names, &count);
    if (a->result.size) {
        struct kz_str bytes = kz_record_body(record_in(&a->result));
        const struct kz_result_body *body = (const void *)bytes.ptr;
        struct kz_str row = kz_span_str(bytes, body->features);

        KZ_TRY(kz_row_decode(
                row, answer.served, KZ_ARRAY_COUNT(answer.served), &answer.served_count, err));
        kz_row_encode(answer.row.values, answer.row.count, &encoded);
        answer.was_served = true;
        answer.same = kz_str_eq(row, kz_buf_view(&encoded));
        kz_buf_done(&encoded);
    }
    *ret_same = answer.same;
    return print_answer(a, &moment, &answer, kz_args_flag(args, "json"), err);
}

/* ---- features --verify ---------------------------------------------------------------------------------- */

enum { SERVED_BATCH = 65536, DIFFERENCES_SHOWN = 10 };

struct served {
    kz_lsn lsn, request_lsn;
    uint64_t features_hash;
    unsigned model;
};

struct verifying {
    struct kz_offline_reader *reader;
    const struct kz_project *project;
    const char *only; /* a model's name, or NULL: all */
    struct kz_sql_expr **exprs;
    struct counts {
        uint64_t served, equal, differ, gone, past;
    } * counts; /* [model_count] */
    struct served *batch;
    size_t count;
    kz_lsn from;
    uint64_t seq, differences;
    int64_t kept_from_ms; /* what happened before is not all kept; INT64_MIN: everything is */
    struct kz_buf request, result, row;
};

static enum kz_code collect(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct verifying *v = arg;
    struct kz_str bytes = kz_record_body(record);
    const struct kz_result_body *body = (const void *)bytes.ptr;
    unsigned m = 0;

    v->from = lsn + 1;
    v->seq = record->seq;
    if (record->type != KZ_RECORD_RESULT || !body->features.size)
        return KZ_OK;
    while (m < v->project->model_count &&
            !kz_str_is(kz_span_str(bytes, body->model), v->project->models[m].name))
        m++;
    if (m == v->project->model_count || !v->exprs[m] ||
            (v->only && strcmp(v->only, v->project->models[m].name) != 0))
        return KZ_OK;
    v->batch[v->count++] = (struct served){lsn, body->request_lsn, body->features_hash, m};
    return v->count == SERVED_BATCH ? KZ_END : KZ_OK;
}

static void show_difference(struct verifying *v, const struct served *s,
        const struct kz_offline_moment *moment, const struct kz_row *row)
{
    struct kz_history_reader *reader = v->reader->reader;
    struct kz_value served[KZ_COLUMNS_MAX * 8];
    const char *const *names;
    struct kz_str bytes;
    size_t count, name_count;

    if (v->differences++ >= DIFFERENCES_SHOWN ||
            reader->ops->get(reader, s->lsn, 0, &v->result, NULL) != KZ_OK)
        return;
    bytes = kz_record_body(record_in(&v->result));
    if (kz_row_decode(kz_span_str(bytes,
                              ((const struct kz_result_body *)(const void *)bytes.ptr)->features),
                served, KZ_ARRAY_COUNT(served), &count, NULL) != KZ_OK)
        return;
    fprintf(stderr, "%s of " KZ_STR_FMT ", event " KZ_STR_FMT ":",
            v->project->models[s->model].name, KZ_STR_ARG(moment->params.user_id),
            KZ_STR_ARG(moment->params.event_id));
    kz_sql_columns(v->exprs[s->model], &names, &name_count);
    if (count != row->count)
        fprintf(stderr, " %zu columns, served %zu", row->count, count);
    for (size_t i = 0; i < row->count && i < count; i++) {
        struct kz_buf text = {0};

        if (kz_offline_same(row->values[i], served[i]))
            continue;
        kz_buf_printf(&text, " %s is ", names[i]);
        kz_offline_value(row->values[i], &text);
        kz_buf_cstr(&text, ", served ");
        kz_offline_value(served[i], &text);
        fprintf(stderr, KZ_STR_FMT ";", KZ_STR_ARG(kz_buf_view(&text)));
        kz_buf_done(&text);
    }
    fprintf(stderr, "\n");
}

static enum kz_code verify_one(struct verifying *v, const struct served *s, struct kz_err *err)
{
    const struct kz_model_def *model = &v->project->models[s->model];
    struct kz_history_reader *reader = v->reader->reader;
    struct counts *counts = &v->counts[s->model];
    struct kz_offline_moment moment;
    struct kz_row row;
    enum kz_code rc;

    counts->served++;
    rc = reader->ops->get(reader, s->request_lsn, 0, &v->request, err);
    if (rc == KZ_OK)
        rc = kz_offline_moment_of(v->reader, s->request_lsn, record_in(&v->request), &moment, err);
    if (rc == KZ_NOT_FOUND) {
        counts->gone++;
        return KZ_OK;
    }
    KZ_TRY(rc);
    KZ_TRY(kz_offline_features(v->reader, v->exprs[s->model], model, &moment, &row, err));
    kz_buf_clear(&v->row);
    kz_row_encode(row.values, row.count, &v->row);
    if (kz_hash_str(kz_buf_view(&v->row)) == s->features_hash) {
        counts->equal++;
    } else if (v->kept_from_ms != INT64_MIN &&
               (!model->history.window_ms ||
                       moment.params.now_ms - model->history.window_ms < v->kept_from_ms)) {
        counts->past++; /* what it saw is not all kept any more */
    } else {
        counts->differ++;
        show_difference(v, s, &moment, &row);
    }
    return KZ_OK;
}

static void kept_from(struct verifying *v)
{
    size_t count;
    struct kz_log_segment_info *segments = kz_log_segments(v->reader->log, &count);

    v->kept_from_ms = count && segments[0].seq_first > 1 ? segments[0].at_first_ms : INT64_MIN;
    free(segments);
}

static enum kz_code verify_all(struct verifying *v, bool quiet, struct kz_err *err)
{
    struct kz_history_reader *reader = v->reader->reader;
    struct kz_progress progress;
    uint64_t done = 0;
    enum kz_code rc;

    kept_from(v);
    kz_progress_begin(&progress, "recomputing", 0, quiet);
    do {
        v->count = 0;
        rc = reader->ops->scan_all(reader, v->from, UINT64_MAX, collect, v, err);
        if (rc != KZ_OK && rc != KZ_END)
            return rc;
        for (size_t i = 0; i < v->count; i++) {
            KZ_TRY(verify_one(v, &v->batch[i], err));
            kz_progress_show(&progress, ++done, NULL);
        }
    } while (v->count == SERVED_BATCH);
    kz_progress_end(&progress, done, NULL);
    return KZ_OK;
}

static uint64_t print_counts(const struct verifying *v, bool as_json)
{
    struct kz_buf buf = {0};
    struct kz_json_out out = kz_json_out(&buf);
    uint64_t differ = 0;

    kz_json_out_object(&out);
    for (size_t m = 0; m < v->project->model_count; m++) {
        const struct counts *c = &v->counts[m];
        const char *name = v->project->models[m].name;

        if (v->only && strcmp(v->only, name) != 0)
            continue;
        differ += c->differ;
        kz_json_out_key(&out, name);
        kz_json_out_object(&out);
        kz_json_out_kv_u64(&out, "served", c->served);
        kz_json_out_kv_u64(&out, "equal", c->equal);
        kz_json_out_kv_u64(&out, "differ", c->differ);
        kz_json_out_kv_u64(&out, "gone", c->gone);
        kz_json_out_kv_u64(&out, "past_retention", c->past);
        kz_json_out_object_end(&out);
        if (as_json)
            continue;
        if (!v->exprs[m]) {
            printf("%s: raw history, no features to compare\n", name);
            continue;
        }
        printf("%s: %" PRIu64 " served, %" PRIu64 " equal bit for bit, %" PRIu64 " differ", name,
                c->served, c->equal, c->differ);
        if (c->gone)
            printf(", %" PRIu64 " of users erased since", c->gone);
        if (c->past)
            printf(", %" PRIu64 " whose history is past retention", c->past);
        printf("\n");
    }
    kz_json_out_object_end(&out);
    if (as_json)
        printf(KZ_STR_FMT "\n", KZ_STR_ARG(kz_buf_view(&buf)));
    kz_buf_done(&buf);
    return differ;
}

static enum kz_code verify(struct kz_offline_reader *reader, const struct kz_project *project,
        const struct kz_args *args, bool *ret_same, struct kz_err *err)
{
    struct verifying v = {.reader = reader, .project = project, .only = kz_args_get(args, "model")};
    KZ_AUTO(kz_sql_closep) struct kz_sql *sql = NULL;
    enum kz_code rc;

    KZ_TRY(kz_sql_open(project, &sql, err));
    v.exprs = kz_calloc(project->model_count + 1, sizeof(struct kz_sql_expr *));
    v.counts = kz_calloc(project->model_count + 1, sizeof(*v.counts));
    v.batch = kz_calloc(SERVED_BATCH, sizeof(*v.batch));
    rc = KZ_OK;
    for (size_t m = 0; m < project->model_count && rc == KZ_OK; m++)
        if (project->models[m].features_sql)
            rc = kz_sql_compile(sql, KZ_SQL_FEATURES, project->models[m].features_sql,
                    project->models[m].features_place, &v.exprs[m], err);
    if (rc == KZ_OK)
        rc = verify_all(&v, kz_args_flag(args, "quiet"), err);
    if (rc == KZ_OK)
        *ret_same = print_counts(&v, kz_args_flag(args, "json")) == 0;
    kz_buf_done(&v.request);
    kz_buf_done(&v.result);
    kz_buf_done(&v.row);
    free(v.exprs);
    free(v.counts);
    free(v.batch);
    return rc;
}

/* ---- the command ---------------------------------------------------------------------------------------- */

static enum kz_code one_user(struct kz_offline_reader *reader, const struct kz_project *project,
        const struct kz_args *args, bool *ret_same, struct kz_err *err)
{
    struct asking a = {.reader = *reader,
            .project = project,
            .model = kz_project_model(project, kz_str(kz_args_get(args, "model")))};
    KZ_AUTO(kz_sql_closep) struct kz_sql *sql = NULL;
    enum kz_code rc;

    if (!a.model->features_sql)
        return kz_fail(err, KZ_INVALID, "model \"%s\" has no features: it gets the raw history",
                a.model->name);
    KZ_TRY(kz_sql_open(project, &sql, err));
    rc = kz_sql_compile(
            sql, KZ_SQL_FEATURES, a.model->features_sql, a.model->features_place, &a.expr, err);
    if (rc == KZ_OK)
        rc = features_of(&a, args, ret_same, err);
    kz_buf_done(&a.event);
    kz_buf_done(&a.request);
    kz_buf_done(&a.result);
    return rc == KZ_END ? KZ_OK : rc;
}

static int run_features(const struct kz_args *args)
{
    const char *model = kz_args_get(args, "model");
    KZ_AUTO(kz_config_freep) struct kz_config *config = NULL;
    const struct kz_project *project;
    struct kz_offline_reader reader;
    bool same = true;
    char data[PATH_MAX];
    struct kz_err err;
    enum kz_code rc;

    if (!kz_args_flag(args, "verify") && (!model || !kz_args_get(args, "user")))
        return kz_command_usage(args, "it needs --model M and --user U, or --verify");
    if (kz_args_flag(args, "verify") && (kz_args_get(args, "user") || kz_args_get(args, "as-of")))
        return kz_command_usage(args, "--verify is about every request: no --user, no --as-of");
    kz_diag_set(KZ_DIAG_ERROR, false);
    config = kz_check_load(args->arguments[0], kz_args_get(args, "env"), &err);
    if (!config)
        return kz_command_fail(&err);
    project = kz_config_project(config);
    if (model && !kz_project_model(project, kz_str(model))) {
        (void)kz_project_no_model(project, kz_str(model), &err);
        return kz_command_fail(&err);
    }
    kz_command_data(args, args->arguments[0], data, sizeof(data));
    if (kz_offline_open_reader(project, data, &reader, &err) != KZ_OK)
        return kz_command_fail(&err);
    rc = kz_args_flag(args, "verify") ? verify(&reader, project, args, &same, &err)
                                      : one_user(&reader, project, args, &same, &err);
    kz_offline_close_reader(&reader);
    if (rc != KZ_OK)
        return kz_command_fail(&err);
    return same ? KZ_EXIT_DONE : KZ_EXIT_FAILED;
}

const struct kz_command kz_command_features = {
        .name = "features",
        .arguments = "DIR",
        .argument_min = 1,
        .argument_max = 1,
        .summary = "Recomputes features from the log, and compares them with what was served.",
        .details =
                "With --user: the features of one user as of an event (--as-of) or now; where "
                "that event\nasked the model, as of that request, beside what was served.\n\n"
                "With --verify: every request served, recomputed and compared bit for bit; exit "
                "1 on any\ndifference. The project has to be as it was then: SQL, tables, columns.",
        .example = "kizashi features examples/shop --model purchase --user u1",
        .options =
                {
                        {"model", "M", NULL, "the model (with --verify: all, if left out)"},
                        {"user", "U", NULL, "a user id, or an anonymous one"},
                        {"as-of", "EVENT", NULL, "an event_id of the user"},
                        {"verify", NULL, NULL, "every request served"},
                        {"data", "PATH", NULL, "where the data is, instead of DIR/.kizashi"},
                        {"env", "NAME", NULL, "lays kizashi.NAME.yaml on kizashi.yaml"},
                        {"quiet", NULL, NULL, "no progress"},
                        {"json", NULL, NULL, "prints JSON"},
                },
        .run = run_features,
};
