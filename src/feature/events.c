/* The virtual table `events` over the rows of one history.
 *
 * Invariants
 *  1. rows are in seq order, so a seq range is a slice and ORDER BY seq costs nothing either way;
 *  2. a constraint is taken over (`omit`) only where our comparison is SQLite's own: integers
 *     against any value, and text against a literal text. Others are only used to skip rows early,
 *     and SQLite looks again;
 *  3. the plan depends on the query alone, never on the rows bound, so that the same query does the
 *     same additions in the same order;
 *  4. results point into the records, which outlive the statement's execution;
 *  5. of the columns only those are read that were noted when the query was compiled: rows need not
 *     have the others (kz_sql_reads()).
 */
#include <math.h>
#include <stdlib.h>

#include "feature/sql_int.h"

enum { NAMES_MAX = 16, PLAN_ROWS = 100 };

struct events_vtab {
    sqlite3_vtab base;
    struct kz_sql *sql;
};

struct range {
    int64_t min, max;
};

struct kz_events_cursor {
    sqlite3_vtab_cursor base;
    struct kz_sql *sql;
    size_t first, end; /* the slice still to be seen */
    bool descending;
    bool eof;
    struct range ts, session;
    bool by_name, by_event_id;
    size_t name_count;
    struct kz_span names[NAMES_MAX], event_id; /* in `texts` */
    struct kz_buf texts;
    struct kz_events_row row;
};

static int events_connect(sqlite3 *db, void *arg, int argc, const char *const *argv,
        sqlite3_vtab **ret_vtab, char **ret_message)
{
    struct kz_sql *sql = arg;
    struct events_vtab *vtab;
    struct kz_buf declaration = {0};
    int rc;

    (void)argc, (void)argv;
    kz_buf_cstr(&declaration, "CREATE TABLE events(");
    kz_events_declare(sql->project, &declaration);
    kz_buf_put(&declaration, ")", 2);
    rc = sqlite3_declare_vtab(db, declaration.data);
    kz_buf_done(&declaration);
    if (rc != SQLITE_OK) {
        *ret_message = sqlite3_mprintf("%s", sqlite3_errmsg(db));
        return rc;
    }
    sqlite3_vtab_config(db, SQLITE_VTAB_INNOCUOUS);
    vtab = sqlite3_malloc(sizeof(*vtab));
    if (!vtab)
        return SQLITE_NOMEM;
    *vtab = (struct events_vtab){.sql = sql};
    *ret_vtab = &vtab->base;
    return SQLITE_OK;
}

static int events_disconnect(sqlite3_vtab *vtab)
{
    sqlite3_free(vtab);
    return SQLITE_OK;
}

/* ---- which columns are read
 * ---------------------------------------------------------------------- */

static bool is_noted(const struct kz_event_parts *parts, int column)
{
    switch (column) {
    case KZ_EVENTS_EVENT_ID:
        return parts->event_id;
    case KZ_EVENTS_NAME:
        return parts->name;
    case KZ_EVENTS_PROPS:
        return parts->props;
    }
    return column < KZ_EVENTS_FIXED || parts->columns >> (column - KZ_EVENTS_FIXED) & 1;
}

void kz_events_note(struct kz_sql *sql, int column)
{
    struct kz_event_parts *parts = &sql->reads;

    parts->event_id |= column == KZ_EVENTS_EVENT_ID;
    parts->name |= column == KZ_EVENTS_NAME;
    parts->props |= column == KZ_EVENTS_PROPS;
    if (column >= KZ_EVENTS_FIXED)
        parts->columns |= UINT64_C(1) << (column - KZ_EVENTS_FIXED);
}

/* The last bit of colUsed stands for all columns from there on. */
static void note_used(struct kz_sql *sql, sqlite3_uint64 used)
{
    int count = KZ_EVENTS_FIXED + (int)sql->project->events.column_count;

    for (int i = 0; i < count; i++)
        if (used >> KZ_MIN(i, 63) & 1)
            kz_events_note(sql, i);
}

/* ---- planning
 * ------------------------------------------------------------------------------------
 *
 * idxStr has two characters for each argument of xFilter: what it is about (s seq, t ts, S session,
 * e event_id, n name, N a set of names) and the comparison (= > < and G for >=, L for <=). */

static char comparison(unsigned char op)
{
    switch (op) {
    case SQLITE_INDEX_CONSTRAINT_EQ:
        return '=';
    case SQLITE_INDEX_CONSTRAINT_GT:
        return '>';
    case SQLITE_INDEX_CONSTRAINT_GE:
        return 'G';
    case SQLITE_INDEX_CONSTRAINT_LT:
        return '<';
    case SQLITE_INDEX_CONSTRAINT_LE:
        return 'L';
    }
    return 0;
}

static bool is_literal_text(sqlite3_index_info *info, int i)
{
    sqlite3_value *value = NULL;

    return sqlite3_vtab_rhs_value(info, i, &value) == SQLITE_OK && value &&
           sqlite3_value_type(value) == SQLITE_TEXT;
}

struct plan {
    char about[64];
    int args;
    bool one_row, name, event_id;
    double rows;
};

static void plan_constraint(struct plan *plan, sqlite3_index_info *info, int i)
{
    const struct sqlite3_index_constraint *constraint = &info->aConstraint[i];
    struct sqlite3_index_constraint_usage *usage = &info->aConstraintUsage[i];
    char op = comparison(constraint->op), what = 0;
    bool text = false;

    if (!constraint->usable || !op || 2 * plan->args + 3 > (int)sizeof(plan->about))
        return;
    switch (constraint->iColumn) {
    case -1:
    case KZ_EVENTS_SEQ:
        what = 's';
        break;
    case KZ_EVENTS_TS:
        what = 't';
        break;
    case KZ_EVENTS_SESSION:
        what = 'S';
        break;
    case KZ_EVENTS_EVENT_ID:
        what = op == '=' && !plan->event_id ? 'e' : 0;
        text = true;
        break;
    case KZ_EVENTS_NAME:
        what = op == '=' && !plan->name ? 'n' : 0;
        text = true;
        break;
    }
    if (!what || (text && sqlite3_stricmp(sqlite3_vtab_collation(info, i), "BINARY") != 0))
        return;
    if (what == 'n' && sqlite3_vtab_in(info, i, -1)) {
        sqlite3_vtab_in(info, i, 1);
        what = 'N';
    } else {
        usage->omit = !text || is_literal_text(info, i);
    }
    plan->name |= what == 'n' || what == 'N';
    plan->event_id |= what == 'e';
    plan->one_row |= what == 's' && op == '=';
    plan->rows *= what == 'e' ? 0.02 : 0.5;
    plan->about[2 * plan->args] = what;
    plan->about[2 * plan->args + 1] = op;
    usage->argvIndex = ++plan->args;
}

static int events_best_index(sqlite3_vtab *vtab, sqlite3_index_info *info)
{
    struct plan plan = {.rows = PLAN_ROWS};

    note_used(((struct events_vtab *)vtab)->sql, info->colUsed);
    for (int i = 0; i < info->nConstraint; i++)
        plan_constraint(&plan, info, i);
    if (plan.one_row) {
        plan.rows = 1;
        info->idxFlags = SQLITE_INDEX_SCAN_UNIQUE;
    }
    info->estimatedRows = plan.rows < 1 ? 1 : (sqlite3_int64)plan.rows;
    info->estimatedCost = plan.one_row ? 2 : PLAN_ROWS + plan.rows;
    /* seq has no equals, so whatever else is ordered by behind it does not matter. */
    if (info->nOrderBy &&
            (info->aOrderBy[0].iColumn == KZ_EVENTS_SEQ || info->aOrderBy[0].iColumn == -1)) {
        info->orderByConsumed = 1;
        info->idxNum = info->aOrderBy[0].desc;
    }
    info->idxStr = sqlite3_mprintf("%s", plan.about);
    info->needToFreeIdxStr = 1;
    return info->idxStr ? SQLITE_OK : SQLITE_NOMEM;
}

/* ---- scanning
 * ------------------------------------------------------------------------------------ */

static int events_open(sqlite3_vtab *vtab, sqlite3_vtab_cursor **ret_cursor)
{
    struct kz_sql *sql = ((struct events_vtab *)vtab)->sql;
    struct kz_events_cursor *cursor;

    if (sql->cursor_count) {
        cursor = sql->cursors[--sql->cursor_count];
        cursor->base = (sqlite3_vtab_cursor){0};
    } else {
        cursor = kz_calloc(1, sizeof(*cursor));
        cursor->sql = sql;
    }
    *ret_cursor = &cursor->base;
    return SQLITE_OK;
}

static void cursor_free(struct kz_events_cursor *cursor)
{
    kz_buf_done(&cursor->texts);
    free(cursor);
}

static int events_close(sqlite3_vtab_cursor *base)
{
    struct kz_events_cursor *cursor = (struct kz_events_cursor *)base;
    struct kz_sql *sql = cursor->sql;

    if (sql->cursor_count < KZ_SQL_CURSORS_KEPT)
        sql->cursors[sql->cursor_count++] = cursor;
    else
        cursor_free(cursor);
    return SQLITE_OK;
}

void kz_events_cursors_free(struct kz_sql *sql)
{
    while (sql->cursor_count)
        cursor_free(sql->cursors[--sql->cursor_count]);
}

static const struct range nothing = {1, 0};
static const struct range everything = {INT64_MIN, INT64_MAX};

static struct range range_of_int(char op, int64_t v)
{
    switch (op) {
    case '=':
        return (struct range){v, v};
    case '>':
        return v == INT64_MAX ? nothing : (struct range){v + 1, INT64_MAX};
    case 'G':
        return (struct range){v, INT64_MAX};
    case '<':
        return v == INT64_MIN ? nothing : (struct range){INT64_MIN, v - 1};
    }
    return (struct range){INT64_MIN, v};
}

static struct range range_of_double(char op, double v)
{
    double whole = floor(v);
    bool below = op == '<' || op == 'L';

    if (v >= 0x1p63)
        return below ? everything : nothing;
    if (v < -0x1p63)
        return below || op == '=' ? nothing : everything;
    if (whole == v)
        return range_of_int(op, (int64_t)v);
    /* Between two integers: from the next one up, or up to the one before. */
    return op == '=' ? nothing : range_of_int(below ? 'L' : '>', (int64_t)whole);
}

/* The integers that compare so with a value, as SQLite orders them: NULL compares with nothing,
 * text that is no number and blobs are above all numbers. */
static struct range range_of(char op, sqlite3_value *value)
{
    switch (sqlite3_value_numeric_type(value)) {
    case SQLITE_INTEGER:
        return range_of_int(op, sqlite3_value_int64(value));
    case SQLITE_FLOAT:
        return range_of_double(op, sqlite3_value_double(value));
    case SQLITE_NULL:
        return nothing;
    }
    return op == '<' || op == 'L' ? everything : nothing;
}

static void narrow(struct range *range, struct range by)
{
    range->min = KZ_MAX(range->min, by.min);
    range->max = KZ_MIN(range->max, by.max);
}

static struct kz_span keep_text(struct kz_events_cursor *cursor, sqlite3_value *value)
{
    struct kz_span span = {(uint32_t)cursor->texts.size, (uint32_t)sqlite3_value_bytes(value)};

    kz_buf_put(&cursor->texts, sqlite3_value_blob(value), span.size);
    return span;
}

static void keep_names(struct kz_events_cursor *cursor, sqlite3_value *set)
{
    sqlite3_value *value;

    cursor->by_name = true;
    for (int rc = sqlite3_vtab_in_first(set, &value); rc == SQLITE_OK && value;
            rc = sqlite3_vtab_in_next(set, &value)) {
        if (sqlite3_value_type(value) == SQLITE_NULL)
            continue;
        if (sqlite3_value_type(value) != SQLITE_TEXT || cursor->name_count == NAMES_MAX) {
            cursor->by_name = false; /* SQLite will see to it */
            return;
        }
        cursor->names[cursor->name_count++] = keep_text(cursor, value);
    }
}

static void keep(struct kz_events_cursor *cursor, char what, char op, sqlite3_value *value,
        struct range *seq)
{
    bool is_text = what != 'N' && sqlite3_value_type(value) == SQLITE_TEXT;

    switch (what) {
    case 's':
        narrow(seq, range_of(op, value));
        break;
    case 't':
        narrow(&cursor->ts, range_of(op, value));
        break;
    case 'S':
        narrow(&cursor->session, range_of(op, value));
        break;
    case 'e':
        if (is_text) {
            cursor->by_event_id = true;
            cursor->event_id = keep_text(cursor, value);
        }
        break;
    case 'n':
        if (is_text) {
            cursor->by_name = true;
            cursor->names[cursor->name_count++] = keep_text(cursor, value);
        }
        break;
    case 'N':
        keep_names(cursor, value);
        break;
    }
}

/* The index of the first row whose seq is at least `seq`. */
static size_t lower_bound(const struct kz_history_rows *rows, int64_t seq)
{
    size_t low = 0, high = rows->count;

    while (low < high) {
        size_t mid = (low + high) / 2;

        if ((int64_t)rows->records[mid]->seq < seq)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool text_is(const struct kz_events_cursor *cursor, struct kz_span want, struct kz_str have)
{
    return have.size == want.size &&
           (want.size == 0 || memcmp(cursor->texts.data + want.offset, have.ptr, want.size) == 0);
}

static bool matches(const struct kz_events_cursor *cursor, const struct kz_record *record)
{
    const struct kz_event_body *body = kz_event_body(record);
    struct kz_str bytes;

    if (record->size < sizeof(*record) + sizeof(*body)) /* not an event: our reader's mistake */
        return false;
    if (body->ts_ms < cursor->ts.min || body->ts_ms > cursor->ts.max)
        return false;
    if ((int64_t)body->session < cursor->session.min ||
            (int64_t)body->session > cursor->session.max)
        return false;
    bytes = kz_record_body(record);
    if (cursor->by_event_id &&
            !text_is(cursor, cursor->event_id, kz_span_str(bytes, body->event_id)))
        return false;
    if (cursor->by_name) {
        struct kz_str name = kz_span_str(bytes, body->name);
        size_t i = 0;

        while (i < cursor->name_count && !text_is(cursor, cursor->names[i], name))
            i++;
        return i < cursor->name_count;
    }
    return true;
}

static int events_next(sqlite3_vtab_cursor *base)
{
    struct kz_events_cursor *cursor = (struct kz_events_cursor *)base;
    struct kz_sql *sql = cursor->sql;

    while (cursor->first < cursor->end) {
        size_t at = cursor->descending ? --cursor->end : cursor->first++;
        const struct kz_record *record = sql->rows->records[at];

        if (matches(cursor, record)) {
            cursor->row.record = record;
            cursor->row.have = 0;
            return SQLITE_OK;
        }
        if (++sql->steps > sql->steps_max) /* rows skipped are work too */
            return SQLITE_INTERRUPT;
    }
    cursor->eof = true;
    return SQLITE_OK;
}

static int events_filter(sqlite3_vtab_cursor *base, int descending, const char *about, int argc,
        sqlite3_value **argv)
{
    struct kz_events_cursor *cursor = (struct kz_events_cursor *)base;
    const struct kz_history_rows *rows = cursor->sql->rows;
    struct range seq = everything;

    cursor->ts = cursor->session = everything;
    cursor->by_name = cursor->by_event_id = cursor->eof = false;
    cursor->name_count = 0;
    cursor->descending = descending;
    kz_buf_clear(&cursor->texts);
    for (int i = 0; i < argc; i++)
        keep(cursor, about[2 * i], about[2 * i + 1], argv[i], &seq);

    cursor->first = 0;
    cursor->end = rows ? rows->count : 0;
    if (seq.min > seq.max || cursor->ts.min > cursor->ts.max ||
            cursor->session.min > cursor->session.max) {
        cursor->end = 0;
    } else if (rows) {
        if (seq.min != INT64_MIN)
            cursor->first = lower_bound(rows, seq.min);
        if (seq.max != INT64_MAX)
            cursor->end = lower_bound(rows, seq.max + 1);
    }
    return events_next(base);
}

static int events_eof(sqlite3_vtab_cursor *base)
{
    return ((struct kz_events_cursor *)base)->eof;
}

static int events_column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int column)
{
    struct kz_events_cursor *cursor = (struct kz_events_cursor *)base;
    struct kz_sql *sql = cursor->sql;

    /* It may not be there (invariant 5), and must not pass for NULL. */
    if (!is_noted(sql->may_read, column)) {
        sqlite3_result_error(ctx, "an event's column was not seen when the query was compiled", -1);
        return SQLITE_OK;
    }
    return kz_events_result(
            ctx, sql->project, &cursor->row, column, sql->params->user_id, true, &sql->scratch);
}

static int events_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *ret_rowid)
{
    *ret_rowid = (int64_t)((struct kz_events_cursor *)base)->row.record->seq;
    return SQLITE_OK;
}

enum kz_code kz_events_register(struct kz_sql *sql, struct kz_err *err)
{
    /* Without xCreate it is there under its own name, with no CREATE VIRTUAL TABLE. */
    static const sqlite3_module module = {
            .xConnect = events_connect,
            .xBestIndex = events_best_index,
            .xDisconnect = events_disconnect,
            .xOpen = events_open,
            .xClose = events_close,
            .xFilter = events_filter,
            .xNext = events_next,
            .xEof = events_eof,
            .xColumn = events_column,
            .xRowid = events_rowid,
    };

    if (sqlite3_create_module_v2(sql->db, "events", &module, sql, NULL) != SQLITE_OK)
        return kz_fail(err, KZ_INTERNAL, "could not register events: %s", sqlite3_errmsg(sql->db));
    return KZ_OK;
}
