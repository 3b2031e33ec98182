#include "feature/tables.h"

#include <stdlib.h>
#include <strings.h>

#include "feature/lex.h"
#include "feature/sql_int.h"

enum { COLUMNS_MAX = 2000 };

enum table { TABLE_EVENTS, TABLE_PREDICTIONS, TABLE_ACTIONS, TABLE_DEAD_LETTERS, TABLE_COUNT };

static const struct {
    const char *name, *columns;
    uint32_t types; /* bits of the record types read */
    int user_id;    /* column, or -1 */
    enum kz_chain chain;
} definitions[TABLE_COUNT] = {
        [TABLE_EVENTS] = {"events", NULL, 1u << KZ_RECORD_EVENT, KZ_EVENTS_USER_ID,
                KZ_CHAIN_EVENTS},
        [TABLE_PREDICTIONS] = {"predictions",
                "user_id TEXT, model TEXT, version TEXT, score REAL, output TEXT, event_id TEXT, "
                "as_of INTEGER, computed_at INTEGER, expires_at INTEGER",
                1u << KZ_RECORD_RESULT, 0, KZ_CHAIN_NOTES},
        [TABLE_ACTIONS] = {"actions",
                "user_id TEXT, action TEXT, event_id TEXT, decided_at INTEGER, decision TEXT, "
                "delivered_at INTEGER",
                1u << KZ_RECORD_DECISION, 0, KZ_CHAIN_NOTES},
        [TABLE_DEAD_LETTERS] = {"dead_letters",
                "id INTEGER, stage TEXT, reason TEXT, at INTEGER, payload TEXT",
                1u << KZ_RECORD_DEADLETTER, -1, KZ_CHAIN_NONE},
};

enum { ACTIONS_DELIVERED_AT = 5 };

struct module {
    struct kz_tables *tables;
    enum table table;
};

struct kz_tables {
    struct kz_sql *sql; /* for its connection, functions and reference tables */
    struct kz_history_reader *reader;
    const struct kz_tables_hooks *hooks;
    struct module modules[TABLE_COUNT];
    struct kz_err err; /* what a table failed with; code KZ_OK: none did */
    struct kz_value *values;
    const char **names;
};

struct vtab {
    sqlite3_vtab base;
    struct module *module;
};

/* ---- a stream of records
 * ----------------------------------------------------------------------------
 *
 * Either a user's chain, held by the reader, or everything, copied batch by batch. In a batch each
 * record stands behind its address and is padded to 8 bytes. */

struct stream {
    struct kz_tables *tables;
    uint32_t types;
    bool chained;
    struct kz_history_rows rows; /* of the chain */
    size_t at;                   /* index into rows, or offset into batch */
    struct kz_buf batch;
    size_t batch_max; /* bytes; more from batch to batch */
    kz_lsn from;      /* where the next batch begins */
    bool last;        /* nothing behind this batch */
};

static void stream_end(struct stream *s)
{
    if (s->chained)
        s->tables->reader->ops->release(s->tables->reader, &s->rows);
    s->chained = false;
    s->last = true;
    s->at = 0;
    kz_buf_clear(&s->batch);
}

static void stream_all(struct stream *s, struct kz_tables *tables, uint32_t types)
{
    s->tables = tables;
    s->types = types;
    s->from = 0;
    s->batch_max = KZ_TABLES_BATCH_BYTES;
    s->last = false;
    s->at = 0;
    kz_buf_clear(&s->batch);
}

static enum kz_code stream_chain(struct stream *s, struct kz_tables *tables, uint32_t types,
        enum kz_chain chain, struct kz_str id, struct kz_err *err)
{
    struct kz_source sources[KZ_SOURCES_MAX];
    kz_lsn until = tables->hooks->until;
    struct kz_history_query query = {
            .sources = sources,
            .chain = chain,
            .as_of = until && until != UINT64_MAX ? until - 1 : until,
            .since_ms = INT64_MIN,
            .include_actions = true,
    };

    s->tables = tables;
    s->types = types;
    s->last = true;
    s->at = 0;
    query.source_count = tables->hooks->lookup(tables->hooks->arg, id, chain, sources);
    if (!query.source_count)
        return KZ_OK;
    KZ_TRY(tables->reader->ops->scan(tables->reader, &query, &s->rows, err));
    s->chained = true;
    return KZ_OK;
}

static enum kz_code stream_take(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct stream *s = arg;
    size_t size = KZ_ALIGN8((size_t)record->size);

    s->from = lsn + 1;
    if (record->type < 32 && (s->types & (1u << record->type))) {
        char *entry = kz_buf_extend(&s->batch, sizeof(lsn) + size);

        memcpy(entry, &lsn, sizeof(lsn));
        memcpy(entry + sizeof(lsn), record, record->size);
        memset(entry + sizeof(lsn) + record->size, 0, size - record->size);
    }
    return s->batch.size >= s->batch_max ? KZ_END : KZ_OK;
}

/* A sealed segment lies sorted by user, so the log reads all of it for each batch: a small one at first,
 * for who looks at a few rows, then few large ones. */
static enum kz_code stream_fill(struct stream *s, struct kz_err *err)
{
    struct kz_history_reader *reader = s->tables->reader;
    enum kz_code code;

    kz_buf_clear(&s->batch);
    s->at = 0;
    code = reader->ops->scan_all(reader, s->from, s->tables->hooks->until, stream_take, s, err);
    if (code != KZ_OK && code != KZ_END)
        return code;
    s->last = s->batch.size < s->batch_max;
    s->batch_max = KZ_MIN(8 * s->batch_max, (size_t)KZ_TABLES_BATCH_BYTES_MAX);
    return KZ_OK;
}

/* The next record, or NULL at the end. It stays until the call after. */
static enum kz_code stream_next(
        struct stream *s, const struct kz_record **ret_record, kz_lsn *ret_lsn, struct kz_err *err)
{
    *ret_record = NULL;
    if (s->chained) {
        while (s->at < s->rows.count) {
            size_t i = s->at++;

            if (s->rows.records[i]->type < 32 && (s->types & (1u << s->rows.records[i]->type))) {
                *ret_record = s->rows.records[i];
                *ret_lsn = s->rows.lsns[i];
                return KZ_OK;
            }
        }
        return KZ_OK;
    }
    if (s->at == s->batch.size) {
        if (s->last)
            return KZ_OK;
        KZ_TRY(stream_fill(s, err));
        if (s->at == s->batch.size)
            return KZ_OK;
    }
    memcpy(ret_lsn, s->batch.data + s->at, sizeof(*ret_lsn));
    *ret_record = (const struct kz_record *)(s->batch.data + s->at + sizeof(*ret_lsn));
    s->at += sizeof(*ret_lsn) + KZ_ALIGN8((size_t)(*ret_record)->size);
    return KZ_OK;
}

/* ---- deliveries
 * --------------------------------------------------------------------------------------- */

struct delivery {
    uint64_t decision; /* seq */
    int64_t at_ms;
};

struct cursor {
    sqlite3_vtab_cursor base;
    struct module *module;
    struct stream stream;
    struct kz_events_row row; /* the record in it is NULL at the end */
    kz_lsn lsn;
    struct kz_buf deliveries; /* of struct delivery, by decision */
    struct kz_arena scratch;
};

static int by_decision(const void *a, const void *b)
{
    const struct delivery *x = a, *y = b;

    if (x->decision != y->decision)
        return x->decision < y->decision ? -1 : 1;
    return (x->at_ms > y->at_ms) - (x->at_ms < y->at_ms);
}

/* Reads all of `s`, which gives DELIVERY records. */
static enum kz_code collect_deliveries(struct cursor *cursor, struct stream *s, struct kz_err *err)
{
    const struct kz_record *record;
    kz_lsn lsn;

    for (;;) {
        const struct kz_delivery_body *body;

        KZ_TRY(stream_next(s, &record, &lsn, err));
        if (!record)
            break;
        body = (const struct kz_delivery_body *)(record + 1);
        if (record->size < sizeof(*record) + sizeof(*body) ||
                (body->state != KZ_DELIVERY_SHOWN && body->state != KZ_DELIVERY_SENT))
            continue;
        if (cursor->deliveries.size >= KZ_TABLES_DELIVERIES_MAX * sizeof(struct delivery)) {
            kz_fail(err, KZ_LIMIT, "more than %d deliveries", KZ_TABLES_DELIVERIES_MAX);
            return kz_hint(err, "ask for one user_id, or leave delivered_at out");
        }
        *(struct delivery *)kz_buf_extend(&cursor->deliveries,
                sizeof(struct delivery)) = (struct delivery){body->decision, record->at_ms};
    }
    if (cursor->deliveries.size)
        qsort(cursor->deliveries.data, cursor->deliveries.size / sizeof(struct delivery),
                sizeof(struct delivery), by_decision);
    return KZ_OK;
}

static const struct delivery *find_delivery(const struct cursor *cursor, uint64_t decision)
{
    const struct delivery *all = (const struct delivery *)cursor->deliveries.data;
    size_t low = 0, count = cursor->deliveries.size / sizeof(*all), high = count;

    while (low < high) {
        size_t mid = (low + high) / 2;

        if (all[mid].decision < decision)
            low = mid + 1;
        else
            high = mid;
    }
    return low < count && all[low].decision == decision ? &all[low] : NULL;
}

/* ---- virtual tables
 * ------------------------------------------------------------------------------------- */

static int fail(struct kz_tables *tables, sqlite3_vtab *vtab)
{
    sqlite3_free(vtab->zErrMsg);
    vtab->zErrMsg = sqlite3_mprintf("%s", tables->err.message);
    return SQLITE_ERROR;
}

static int connect(sqlite3 *db, void *arg, int argc, const char *const *argv,
        sqlite3_vtab **ret_vtab, char **ret_message)
{
    struct module *module = arg;
    struct kz_buf declaration = {0};
    struct vtab *vtab;
    int rc;

    (void)argc, (void)argv;
    kz_buf_cstr(&declaration, "CREATE TABLE x(");
    if (module->table == TABLE_EVENTS)
        kz_events_declare(module->tables->sql->project, &declaration);
    else
        kz_buf_cstr(&declaration, definitions[module->table].columns);
    kz_buf_put(&declaration, ")", 2);
    rc = sqlite3_declare_vtab(db, declaration.data);
    kz_buf_done(&declaration);
    if (rc != SQLITE_OK) {
        *ret_message = sqlite3_mprintf("%s", sqlite3_errmsg(db));
        return rc;
    }
    vtab = sqlite3_malloc(sizeof(*vtab));
    if (!vtab)
        return SQLITE_NOMEM;
    *vtab = (struct vtab){.module = module};
    *ret_vtab = &vtab->base;
    return SQLITE_OK;
}

static int disconnect(sqlite3_vtab *vtab)
{
    sqlite3_free(vtab);
    return SQLITE_OK;
}

enum { PLAN_USER = 1, PLAN_DELIVERIES = 2 };

static int best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    struct module *module = ((struct vtab *)base)->module;
    int user_id = module->tables->hooks->lookup ? definitions[module->table].user_id : -1;

    info->estimatedRows = 10 * 1000 * 1000;
    info->estimatedCost = 1e7;
    for (int i = 0; user_id >= 0 && i < info->nConstraint && !(info->idxNum & PLAN_USER); i++) {
        if (!info->aConstraint[i].usable || info->aConstraint[i].iColumn != user_id ||
                info->aConstraint[i].op != SQLITE_INDEX_CONSTRAINT_EQ ||
                sqlite3_stricmp(sqlite3_vtab_collation(info, i), "BINARY") != 0)
            continue;
        /* Not omitted: the id may be one that was linked to another user since. */
        info->aConstraintUsage[i].argvIndex = 1;
        info->idxNum |= PLAN_USER;
        info->estimatedRows = 100;
        info->estimatedCost = 200;
    }
    /* Records come by address, so by seq. */
    if (module->table == TABLE_EVENTS && info->nOrderBy && !info->aOrderBy[0].desc &&
            (info->aOrderBy[0].iColumn == KZ_EVENTS_SEQ || info->aOrderBy[0].iColumn == -1))
        info->orderByConsumed = 1;
    if (module->table == TABLE_ACTIONS && (info->colUsed & (UINT64_C(1) << ACTIONS_DELIVERED_AT)))
        info->idxNum |= PLAN_DELIVERIES;
    return SQLITE_OK;
}

static int cursor_open(sqlite3_vtab *vtab, sqlite3_vtab_cursor **ret_cursor)
{
    struct cursor *cursor = kz_calloc(1, sizeof(*cursor));

    cursor->module = ((struct vtab *)vtab)->module;
    kz_arena_init(&cursor->scratch, KZ_SQL_ARENA_SIZE_MAX);
    *ret_cursor = &cursor->base;
    return SQLITE_OK;
}

static int cursor_close(sqlite3_vtab_cursor *base)
{
    struct cursor *cursor = (struct cursor *)base;

    stream_end(&cursor->stream);
    kz_buf_done(&cursor->stream.batch);
    kz_buf_done(&cursor->deliveries);
    kz_arena_done(&cursor->scratch);
    free(cursor);
    return SQLITE_OK;
}

static size_t body_size(enum table table)
{
    switch (table) {
    case TABLE_EVENTS:
        return sizeof(struct kz_event_body);
    case TABLE_PREDICTIONS:
        return sizeof(struct kz_result_body);
    case TABLE_ACTIONS:
        return sizeof(struct kz_decision_body);
    default:
        return sizeof(struct kz_deadletter_body);
    }
}

static int next(sqlite3_vtab_cursor *base)
{
    struct cursor *cursor = (struct cursor *)base;
    struct kz_tables *tables = cursor->module->tables;
    enum table table = cursor->module->table;
    const struct kz_record *record;

    do {
        if (stream_next(&cursor->stream, &record, &cursor->lsn, &tables->err) != KZ_OK)
            return fail(tables, base->pVtab);
    } while (record &&
             (record->size < sizeof(*record) + body_size(table) ||
                     (table == TABLE_PREDICTIONS &&
                             ((const struct kz_result_body *)(record + 1))->end != KZ_END_DONE)));
    cursor->row.record = record;
    cursor->row.have = 0;
    kz_arena_reset(&cursor->scratch);
    return SQLITE_OK;
}

static enum kz_code begin_stream(struct cursor *cursor, struct stream *s, uint32_t types,
        sqlite3_value *user, struct kz_err *err)
{
    struct kz_tables *tables = cursor->module->tables;

    if (!user) {
        stream_all(s, tables, types);
        return KZ_OK;
    }
    return stream_chain(s, tables, types, definitions[cursor->module->table].chain,
            kz_str_n(sqlite3_value_blob(user), (size_t)sqlite3_value_bytes(user)), err);
}

static int filter(
        sqlite3_vtab_cursor *base, int plan, const char *about, int argc, sqlite3_value **argv)
{
    struct cursor *cursor = (struct cursor *)base;
    struct kz_tables *tables = cursor->module->tables;
    sqlite3_value *user = argc && sqlite3_value_type(argv[0]) == SQLITE_TEXT ? argv[0] : NULL;
    enum kz_code code = KZ_OK;

    (void)about;
    stream_end(&cursor->stream);
    kz_buf_clear(&cursor->deliveries);
    if (plan & PLAN_DELIVERIES) {
        struct stream s = {0};

        code = begin_stream(cursor, &s, 1u << KZ_RECORD_DELIVERY, user, &tables->err);
        if (code == KZ_OK)
            code = collect_deliveries(cursor, &s, &tables->err);
        if (s.tables)
            stream_end(&s);
        kz_buf_done(&s.batch);
    }
    if (code == KZ_OK)
        code = begin_stream(cursor, &cursor->stream, definitions[cursor->module->table].types, user,
                &tables->err);
    return code == KZ_OK ? next(base) : fail(tables, base->pVtab);
}

static int eof(sqlite3_vtab_cursor *base)
{
    return !((struct cursor *)base)->row.record;
}

static int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *ret_rowid)
{
    *ret_rowid = (int64_t)((struct cursor *)base)->row.record->seq;
    return SQLITE_OK;
}

/* ---- columns
 * --------------------------------------------------------------------------------------------- */

static void result_span(sqlite3_context *ctx, struct kz_str body, struct kz_span span)
{
    struct kz_str s = kz_span_str(body, span);

    if (s.size)
        sqlite3_result_text64(ctx, s.ptr, s.size, SQLITE_TRANSIENT, SQLITE_UTF8);
}

static struct kz_str user_of(const struct cursor *cursor, struct kz_str as_sent)
{
    const struct kz_tables_hooks *hooks = cursor->module->tables->hooks;
    struct kz_str id = KZ_STR_NULL;

    if (hooks->user_id)
        id = hooks->user_id(hooks->arg, cursor->row.record->owner, cursor->lsn);
    return id.size ? id : as_sent;
}

static void result_user(sqlite3_context *ctx, const struct cursor *cursor, struct kz_str body,
        struct kz_span as_sent)
{
    struct kz_str id = user_of(cursor, kz_span_str(body, as_sent));

    sqlite3_result_text64(ctx, id.ptr ? id.ptr : "", id.size, SQLITE_TRANSIENT, SQLITE_UTF8);
}

static int event_column(struct cursor *cursor, sqlite3_context *ctx, int column)
{
    const struct kz_record *record = cursor->row.record;
    const struct kz_event_body *body = kz_event_body(record);
    struct kz_str bytes = kz_record_body(record), user = KZ_STR_NULL;

    if (column == KZ_EVENTS_USER_ID)
        user = user_of(cursor,
                kz_span_str(bytes, body->user_id.size ? body->user_id : body->anonymous_id));
    return kz_events_result(ctx, cursor->module->tables->sql->project, &cursor->row, column, user,
            false, &cursor->scratch);
}

static void prediction_column(struct cursor *cursor, sqlite3_context *ctx, int column)
{
    const struct kz_result_body *body = (const struct kz_result_body *)(cursor->row.record + 1);
    struct kz_str bytes = kz_record_body(cursor->row.record);

    switch (column) {
    case 0:
        result_user(ctx, cursor, bytes, body->user_id);
        break;
    case 1:
        result_span(ctx, bytes, body->model);
        break;
    case 2:
        result_span(ctx, bytes, body->version);
        break;
    case 3:
        if (body->has_score)
            sqlite3_result_double(ctx, body->score);
        break;
    case 4:
        result_span(ctx, bytes, body->output);
        break;
    case 5:
        result_span(ctx, bytes, body->event_id);
        break;
    case 6:
        sqlite3_result_int64(ctx, body->as_of_ms);
        break;
    case 7:
        sqlite3_result_int64(ctx, body->computed_at_ms);
        break;
    case 8:
        sqlite3_result_int64(ctx, body->expires_at_ms);
        break;
    }
}

static void action_column(struct cursor *cursor, sqlite3_context *ctx, int column)
{
    const struct kz_record *record = cursor->row.record;
    const struct kz_decision_body *body = (const struct kz_decision_body *)(record + 1);
    const struct delivery *delivery;
    struct kz_str bytes = kz_record_body(record);

    switch (column) {
    case 0:
        result_user(ctx, cursor, bytes, body->user_id);
        break;
    case 1:
        result_span(ctx, bytes, body->action_name);
        break;
    case 2:
        result_span(ctx, bytes, body->event_id);
        break;
    case 3:
        sqlite3_result_int64(ctx, record->at_ms);
        break;
    case 4:
        sqlite3_result_text(ctx, kz_decision_name(body->decision), -1, SQLITE_STATIC);
        break;
    case ACTIONS_DELIVERED_AT:
        delivery = find_delivery(cursor, record->seq);
        if (delivery)
            sqlite3_result_int64(ctx, delivery->at_ms);
        break;
    }
}

static void dead_letter_column(struct cursor *cursor, sqlite3_context *ctx, int column)
{
    const struct kz_record *record = cursor->row.record;
    const struct kz_deadletter_body *body = (const struct kz_deadletter_body *)(record + 1);
    struct kz_str bytes = kz_record_body(record);

    switch (column) {
    case 0:
        sqlite3_result_int64(ctx, (int64_t)record->seq);
        break;
    case 1:
        sqlite3_result_text(ctx, kz_stage_name(body->stage), -1, SQLITE_STATIC);
        break;
    case 2:
        result_span(ctx, bytes, body->reason);
        break;
    case 3:
        sqlite3_result_int64(ctx, record->at_ms);
        break;
    case 4:
        result_span(ctx, bytes, body->payload);
        break;
    }
}

static int column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int index)
{
    struct cursor *cursor = (struct cursor *)base;

    switch (cursor->module->table) {
    case TABLE_EVENTS:
        return event_column(cursor, ctx, index);
    case TABLE_PREDICTIONS:
        prediction_column(cursor, ctx, index);
        break;
    case TABLE_ACTIONS:
        action_column(cursor, ctx, index);
        break;
    default:
        dead_letter_column(cursor, ctx, index);
    }
    return SQLITE_OK;
}

/* ---- the connection
 * ---------------------------------------------------------------------------------------- */

static int read_only(
        void *arg, int action, const char *a, const char *b, const char *db, const char *trigger)
{
    static const char *const pragmas[] = {
            "table_list", "table_info", "table_xinfo", "function_list"};

    (void)arg, (void)b, (void)db, (void)trigger;
    switch (action) {
    case SQLITE_SELECT:
    case SQLITE_READ:
    case SQLITE_FUNCTION:
    case SQLITE_RECURSIVE:
        return SQLITE_OK;
    case SQLITE_PRAGMA:
        for (size_t i = 0; i < KZ_ARRAY_COUNT(pragmas); i++)
            if (strcasecmp(a, pragmas[i]) == 0)
                return SQLITE_OK;
    }
    return SQLITE_DENY;
}

static int ask_cancelled(void *arg)
{
    const struct kz_tables_hooks *hooks = ((struct kz_tables *)arg)->hooks;

    return hooks->cancelled && hooks->cancelled(hooks->arg);
}

enum kz_code kz_tables_open(const struct kz_project *project, struct kz_history_reader *reader,
        const struct kz_tables_hooks *hooks, struct kz_tables **ret_tables, struct kz_err *err)
{
    static const sqlite3_module module = {
            .xConnect = connect,
            .xBestIndex = best_index,
            .xDisconnect = disconnect,
            .xOpen = cursor_open,
            .xClose = cursor_close,
            .xFilter = filter,
            .xNext = next,
            .xEof = eof,
            .xColumn = column,
            .xRowid = rowid,
    };
    KZ_AUTO(kz_tables_closep) struct kz_tables *tables = kz_calloc(1, sizeof(*tables));
    sqlite3 *db;

    tables->reader = reader;
    tables->hooks = hooks;
    tables->values = kz_calloc(COLUMNS_MAX, sizeof(*tables->values));
    tables->names = kz_calloc(COLUMNS_MAX, sizeof(*tables->names));
    KZ_TRY(kz_sql_open(project, &tables->sql, err));
    db = tables->sql->db;
    tables->sql->functions.clock = true;
    tables->sql->tables = "events, predictions, actions, dead_letters";
    sqlite3_set_authorizer(db, NULL, NULL);
    for (int i = 0; i < TABLE_COUNT; i++) {
        tables->modules[i] = (struct module){tables, i};
        if (sqlite3_create_module_v2(db, definitions[i].name, &module, &tables->modules[i], NULL) !=
                SQLITE_OK)
            return kz_fail(err, KZ_INTERNAL, "could not register %s: %s", definitions[i].name,
                    sqlite3_errmsg(db));
    }
    /* Declared now, since the authorizer refuses declarations. */
    if (sqlite3_exec(db, "SELECT 1 FROM events, predictions, actions, dead_letters WHERE 0", NULL,
                NULL, NULL) != SQLITE_OK)
        return kz_fail(err, KZ_INTERNAL, "could not set up the tables: %s", sqlite3_errmsg(db));
    sqlite3_progress_handler(db, KZ_SQL_STEPS_EACH, ask_cancelled, tables);
    sqlite3_set_authorizer(db, read_only, tables);
    *ret_tables = kz_take(&tables);
    return KZ_OK;
}

void kz_tables_close(struct kz_tables *tables)
{
    if (!tables)
        return;
    kz_sql_close(tables->sql);
    free(tables->values);
    free(tables->names);
    free(tables);
}

/* ---- queries
 * -------------------------------------------------------------------------------------------------
 */

static enum kz_code prepare(
        struct kz_tables *tables, const char *sql, sqlite3_stmt **ret_stmt, struct kz_err *err)
{
    sqlite3 *db = tables->sql->db;
    const char *tail = NULL;
    sqlite3_stmt *stmt = NULL;

    if (sqlite3_prepare_v2(db, sql, -1, &stmt, &tail) != SQLITE_OK) {
        kz_sqlite_fail(tables->sql, (struct kz_place){0}, kz_str(sql), 0,
                sqlite3_errcode(db) == SQLITE_AUTH ? "only SELECT is permitted" : "", err);
        if (err && strstr(err->message, "no such column"))
            (void)kz_hint(err, "`kizashi sql --help` lists tables and columns");
        if (err)
            err->code = KZ_INVALID;
        return KZ_INVALID;
    }
    if (!stmt)
        return kz_fail(err, KZ_INVALID, "there is no SQL to run");
    if (tail[strspn(tail, "; \t\r\n")]) {
        sqlite3_finalize(stmt);
        return kz_fail(err, KZ_INVALID, "only one statement is expected, not also \"%.60s\"", tail);
    }
    for (int i = 1; i <= sqlite3_bind_parameter_count(stmt); i++) {
        const char *name = sqlite3_bind_parameter_name(stmt, i);

        if (!name || strcmp(name, "@now") != 0) {
            kz_fail(err, KZ_INVALID, "no parameter %s; there is @now", name ? name : "?");
            sqlite3_finalize(stmt);
            return KZ_INVALID;
        }
        sqlite3_bind_int64(stmt, i, tables->hooks->now_ms);
    }
    *ret_stmt = stmt;
    return KZ_OK;
}

/* A blob, as SQL would write it. */
static struct kz_str blob_text(sqlite3_stmt *stmt, int i, struct kz_arena *arena)
{
    static const char digits[] = "0123456789ABCDEF";
    const unsigned char *bytes = sqlite3_column_blob(stmt, i);
    size_t size = (size_t)sqlite3_column_bytes(stmt, i);
    char *text = kz_arena_must(arena, 2 * size + 3), *out = text;

    *out++ = 'X';
    *out++ = '\'';
    for (size_t k = 0; k < size; k++) {
        *out++ = digits[bytes[k] >> 4];
        *out++ = digits[bytes[k] & 15];
    }
    *out++ = '\'';
    return kz_str_n(text, 2 * size + 3);
}

static void take_values(
        struct kz_tables *tables, sqlite3_stmt *stmt, int count, struct kz_arena *arena)
{
    for (int i = 0; i < count; i++) {
        struct kz_value *value = &tables->values[i];

        switch (sqlite3_column_type(stmt, i)) {
        case SQLITE_INTEGER:
            *value = (struct kz_value){
                    .type = KZ_TYPE_INT, .integer = sqlite3_column_int64(stmt, i)};
            break;
        case SQLITE_FLOAT:
            *value = (struct kz_value){
                    .type = KZ_TYPE_FLOAT, .real = sqlite3_column_double(stmt, i)};
            break;
        case SQLITE_TEXT:
            value->type = KZ_TYPE_TEXT;
            value->text = kz_str_n(
                    sqlite3_column_text(stmt, i), (size_t)sqlite3_column_bytes(stmt, i));
            break;
        case SQLITE_BLOB:
            value->type = KZ_TYPE_TEXT;
            value->text = blob_text(stmt, i, arena);
            break;
        default:
            *value = (struct kz_value){.type = KZ_TYPE_NULL};
        }
    }
}

static enum kz_code run(struct kz_tables *tables, sqlite3_stmt *stmt,
        const struct kz_tables_sink *sink, struct kz_arena *arena, struct kz_err *err)
{
    int count = sqlite3_column_count(stmt), rc;

    for (int i = 0; i < count; i++)
        tables->names[i] = sqlite3_column_name(stmt, i);
    KZ_TRY(sink->columns(sink->arg, tables->names, (size_t)count, err));
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        kz_arena_reset(arena);
        take_values(tables, stmt, count, arena);
        KZ_TRY(sink->row(sink->arg, tables->values, (size_t)count, err));
    }
    if (rc == SQLITE_DONE)
        return KZ_OK;
    if (tables->err.code != KZ_OK) {
        if (err)
            *err = tables->err;
        return tables->err.code;
    }
    if ((rc & 0xff) == SQLITE_INTERRUPT)
        return kz_fail(err, KZ_UNAVAILABLE, "the query was cancelled");
    return kz_fail(err, KZ_INVALID, "%s", sqlite3_errmsg(tables->sql->db));
}

enum kz_code kz_tables_query(struct kz_tables *tables, const char *sql,
        const struct kz_tables_sink *sink, struct kz_err *err)
{
    struct kz_arena arena;
    sqlite3_stmt *stmt = NULL;
    enum kz_code code;

    tables->err.code = KZ_OK;
    KZ_TRY(prepare(tables, sql, &stmt, err));
    kz_arena_init(&arena, 0);
    code = run(tables, stmt, sink, &arena, err);
    kz_arena_done(&arena);
    sqlite3_finalize(stmt);
    return code;
}
