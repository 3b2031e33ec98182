#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "codec/duration.h"
#include "feature/hints.h"
#include "feature/lex.h"
#include "feature/sql_int.h"

enum { MAGIC_SQL = 0x6b7a7371, MAGIC_EXPR = 0x6b7a7378, SETUP_STEPS_MAX = 1000 * 1000 * 1000 };

/* X(parameter, what is bound) */
#define PARAMS(X)                                                                                  \
    X("@now", int64, params->now_ms)                                                               \
    X("@user_id", text, params->user_id)                                                           \
    X("@event_id", text, params->event_id)                                                         \
    X("@trigger_ts", int64, params->trigger_ts_ms)                                                 \
    X("@session", int64, (int64_t)params->session)                                                 \
    X("@seq", int64, (int64_t)params->seq)                                                         \
    X("@first_seen", int64, params->first_seen_ms)                                                 \
    X("@truncated", int64, params->truncated || (rows && rows->truncated))

static const char *const param_names[] = {
#define X(name, type, value) name,
        PARAMS(X)
#undef X
};

/* ---- engine
 * ---------------------------------------------------------------------------------------- */

static int on_progress(void *arg)
{
    struct kz_sql *sql = arg;

    sql->steps += KZ_SQL_STEPS_EACH;
    return sql->steps > sql->steps_max;
}

static enum kz_code check_columns(const struct kz_project *project, struct kz_err *err)
{
    if (project->events.column_count > KZ_COLUMNS_MAX)
        return kz_fail(err, KZ_CONFIG, "%s: %zu event columns; %d are the most", project->file,
                project->events.column_count, KZ_COLUMNS_MAX);
    for (size_t i = 0; i < project->events.column_count; i++) {
        const struct kz_column_def *def = &project->events.columns[i];

        for (size_t k = 0; k < i + KZ_EVENTS_FIXED; k++) {
            const char *other = k < KZ_EVENTS_FIXED
                                        ? kz_events_column_names[k]
                                        : project->events.columns[k - KZ_EVENTS_FIXED].name;

            if (strcasecmp(def->name, other) == 0)
                return kz_lex_fail(err, def->place, KZ_STR_NULL, 0,
                        "events have a column \"%s\" already", other);
        }
        if (strchr(def->name, '"'))
            return kz_lex_fail(
                    err, def->place, KZ_STR_NULL, 0, "a column's name cannot hold a quote");
    }
    return KZ_OK;
}

/* A virtual table declares its columns when it is first seen, which the authorizer would refuse
 * later. */
static enum kz_code connect_tables(struct kz_sql *sql, struct kz_err *err)
{
    if (sqlite3_exec(sql->db, "SELECT 1 FROM events, json_each('[]'), json_tree('[]') WHERE 0",
                NULL, NULL, NULL) != SQLITE_OK)
        return kz_fail(
                err, KZ_INTERNAL, "could not set up the tables: %s", sqlite3_errmsg(sql->db));
    return KZ_OK;
}

enum kz_code kz_sql_open(
        const struct kz_project *project, struct kz_sql **ret_sql, struct kz_err *err)
{
    KZ_AUTO(kz_sql_closep) struct kz_sql *sql = NULL;

    KZ_TRY(check_columns(project, err));
    sql = kz_calloc(1, sizeof(*sql));
    sql->magic = MAGIC_SQL;
    sql->project = project;
    sql->tables = "events";
    sql->steps_max = SETUP_STEPS_MAX;
    kz_arena_init(&sql->arena, 0);
    kz_arena_init(&sql->scratch, KZ_SQL_ARENA_SIZE_MAX);
    KZ_TRY(kz_connection_open(&sql->db, err));
    KZ_TRY(kz_functions_register(sql->db, &sql->functions, err));
    KZ_TRY(kz_events_register(sql, err));
    KZ_TRY(connect_tables(sql, err));
    sqlite3_progress_handler(sql->db, KZ_SQL_STEPS_EACH, on_progress, sql);
    sqlite3_set_authorizer(sql->db, kz_authorize, sql);
    KZ_TRY(kz_reference_load(sql, err));
    *ret_sql = kz_take(&sql);
    return KZ_OK;
}

void kz_sql_close(struct kz_sql *sql)
{
    if (!sql)
        return;
    KZ_CHECK_MAGIC(sql, MAGIC_SQL);
    for (struct kz_sql_expr *expr = sql->exprs; expr; expr = expr->next)
        sqlite3_finalize(expr->stmt);
    sqlite3_close(sql->db);
    kz_functions_done(&sql->functions);
    kz_events_cursors_free(sql);
    kz_buf_done(&sql->text);
    kz_arena_done(&sql->scratch);
    kz_arena_done(&sql->arena);
    free(sql);
}

uint64_t kz_sql_tables_hash(const struct kz_sql *sql)
{
    return sql->tables_hash;
}

static char engine[32];

static void name_engine(void)
{
    snprintf(engine, sizeof(engine), "sqlite %s", sqlite3_libversion());
}

const char *kz_sql_engine(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    /* The library in use, which may be newer than the header. */
    pthread_once(&once, name_engine);
    return engine;
}

/* ---- checks before SQLite sees a text
 * ---------------------------------------------------------------- */

static int param_index(struct kz_str raw)
{
    for (size_t i = 0; i < KZ_ARRAY_COUNT(param_names); i++)
        if (kz_str_is(raw, param_names[i]))
            return (int)i;
    return -1;
}

static enum kz_code check_params(
        const struct kz_sql_expr *expr, struct kz_lex_tokens tokens, struct kz_err *err)
{
    bool allowed = expr->kind == KZ_SQL_HAVING || expr->kind == KZ_SQL_FEATURES;

    for (size_t i = 0; i < tokens.count; i++) {
        const struct kz_lex_token *token = &tokens.at[i];

        if (token->kind != KZ_LEX_PARAM)
            continue;
        if (token->offset && expr->text[token->offset - 1] == ':')
            continue; /* x::type, which is no parameter: SQLite refuses it */
        if (!allowed)
            return kz_lex_fail(err, expr->place, kz_str(expr->text), token->offset,
                    "parameter " KZ_STR_FMT " is not known here, only in features and having",
                    KZ_STR_ARG(token->raw));
        if (param_index(token->raw) < 0) {
            struct kz_buf known = {0};

            for (size_t k = 0; k < KZ_ARRAY_COUNT(param_names); k++)
                kz_buf_printf(&known, "%s%s", k ? " " : "", param_names[k]);
            kz_lex_fail(err, expr->place, kz_str(expr->text), token->offset,
                    "no parameter " KZ_STR_FMT "; there are " KZ_STR_FMT, KZ_STR_ARG(token->raw),
                    KZ_STR_ARG(kz_buf_view(&known)));
            kz_buf_done(&known);
            return KZ_CONFIG;
        }
    }
    return KZ_OK;
}

static bool is_date_function(const struct kz_lex_token *token)
{
    return kz_lex_word(token, "date") || kz_lex_word(token, "time") ||
           kz_lex_word(token, "datetime") || kz_lex_word(token, "julianday") ||
           kz_lex_word(token, "unixepoch") || kz_lex_word(token, "strftime");
}

/* The call at `token` (a name, then an opening parenthesis): arguments that are literals and that
 * we can judge now rather than at the first request. */
static enum kz_code check_call(const struct kz_sql_expr *expr, struct kz_sql *sql,
        const struct kz_lex_token *token, struct kz_err *err)
{
    static const char *const clock[] = {"now", "localtime", "utc"};
    const struct kz_lex_token *arg = token + 2, *last = NULL;
    bool dates = is_date_function(token);
    bool zoned = kz_lex_word(token, "local_hour") || kz_lex_word(token, "local_day");
    struct kz_str text = kz_str(expr->text);
    int depth = 1;

    if (kz_lex_word(token, "duration") && arg->kind == KZ_LEX_STRING &&
            arg[1].kind == KZ_LEX_CLOSE) {
        struct kz_err why;
        int64_t ms;

        if (kz_duration_parse(kz_str(kz_lex_text(arg, &sql->scratch)), &ms, &why) != KZ_OK)
            return kz_lex_fail(err, expr->place, text, arg->offset, "%s", why.message);
    }
    if (!dates && !zoned)
        return KZ_OK;
    if (dates && arg->kind == KZ_LEX_CLOSE)
        return kz_lex_fail(err, expr->place, text, token->offset,
                KZ_STR_FMT "() reads the clock; use @now", KZ_STR_ARG(token->raw));
    for (; arg->kind != KZ_LEX_END && depth; arg++) {
        depth += (arg->kind == KZ_LEX_OPEN) - (arg->kind == KZ_LEX_CLOSE);
        last = depth ? arg : last;
        for (size_t i = 0; dates && arg->kind == KZ_LEX_STRING && i < KZ_ARRAY_COUNT(clock); i++)
            if (depth == 1 && strcasecmp(kz_lex_text(arg, &sql->scratch), clock[i]) == 0)
                return kz_lex_fail(err, expr->place, text, arg->offset,
                        "'%s' reads the clock or the machine's time zone; use @now, local_day() or "
                        "local_hour()",
                        clock[i]);
    }
    if (zoned && last && last->kind == KZ_LEX_STRING && kz_lex_op(last - 1, ",")) {
        const struct kz_zone *zone;
        struct kz_err why;

        if (kz_zones_get(&sql->functions.zones, kz_str(kz_lex_text(last, &sql->scratch)), &zone,
                    &why) != KZ_OK)
            return kz_lex_fail(err, expr->place, text, last->offset, "%s", why.message);
    }
    return KZ_OK;
}

static enum kz_code check_calls(const struct kz_sql_expr *expr, struct kz_sql *sql,
        struct kz_lex_tokens tokens, struct kz_err *err)
{
    for (size_t i = 0; i + 1 < tokens.count; i++)
        if (tokens.at[i].kind == KZ_LEX_WORD && tokens.at[i + 1].kind == KZ_LEX_OPEN)
            KZ_TRY(check_call(expr, sql, &tokens.at[i], err));
    return KZ_OK;
}

/* An expression is put between parentheses, so it must not close them. */
static enum kz_code check_expression(
        const struct kz_sql_expr *expr, struct kz_lex_tokens tokens, struct kz_err *err)
{
    struct kz_str text = kz_str(expr->text);
    int depth = 0;

    if (!tokens.count)
        return kz_lex_fail(err, expr->place, text, 0, "the expression is empty");
    for (size_t i = 0; i < tokens.count; i++) {
        const struct kz_lex_token *token = &tokens.at[i];

        depth += (token->kind == KZ_LEX_OPEN) - (token->kind == KZ_LEX_CLOSE);
        if (token->kind == KZ_LEX_BAD || depth < 0 || kz_lex_op(token, ";"))
            return kz_lex_fail(err, expr->place, text, token->offset,
                    "unexpected \"" KZ_STR_FMT "\"", (int)KZ_MIN(token->raw.size, (size_t)20),
                    token->raw.ptr);
    }
    if (depth)
        return kz_lex_fail(err, expr->place, text, text.size, "a parenthesis is not closed");
    return KZ_OK;
}

/* ---- compilation
 * -------------------------------------------------------------------------------------
 *
 * An expression becomes SELECT 1 FROM (SELECT CAST(?n AS type) AS column, ...) WHERE (expression):
 * a row comes out where it holds. CAST gives each column the affinity that it has in `events`. */

static void put_event_columns(
        struct kz_sql_expr *expr, struct kz_lex_tokens tokens, struct kz_buf *out)
{
    const struct kz_project *project = expr->sql->project;
    uint8_t used[KZ_EVENTS_FIXED + KZ_COLUMNS_MAX];
    int count = 0;

    for (size_t i = 0; i < tokens.count; i++) {
        int column = kz_event_value_find(project, &tokens.at[i]), k = 0;
        bool fixed = column < KZ_EVENTS_FIXED;

        while (k < count && used[k] != column)
            k++;
        if (column < 0 || k < count)
            continue;
        used[count++] = (uint8_t)column;
        kz_buf_printf(out, "%sCAST(?%d AS %s) AS \"%s\"", count > 1 ? ", " : " FROM (SELECT ",
                count,
                kz_column_sql_type(fixed ? kz_events_column_types[column]
                                         : project->events.columns[column - KZ_EVENTS_FIXED].type),
                fixed ? kz_events_column_names[column]
                      : project->events.columns[column - KZ_EVENTS_FIXED].name);
    }
    if (count)
        kz_buf_char(out, ')');
    expr->param_count = count;
    expr->params = kz_arena_must(&expr->sql->arena, (size_t)count);
    memcpy(expr->params, used, (size_t)count);
}

static void put_models(struct kz_sql_expr *expr, struct kz_lex_tokens tokens, struct kz_buf *out)
{
    const struct kz_project *project = expr->sql->project;

    expr->models = kz_arena_must(&expr->sql->arena, project->model_count * sizeof(*expr->models));
    for (size_t m = 0; m < project->model_count; m++) {
        const char *name = project->models[m].name;
        bool used = false;

        for (size_t i = 0; i + 1 < tokens.count && !used; i++)
            used = kz_lex_ident(&tokens.at[i], name) && kz_lex_op(&tokens.at[i + 1], ".");
        if (!used)
            continue;
        kz_buf_printf(out,
                "%s(SELECT CAST(?%zu AS REAL) AS score, CAST(?%zu AS TEXT) AS output) AS \"%s\"",
                expr->model_count ? ", " : " FROM ", 2 * expr->model_count + 1,
                2 * expr->model_count + 2, name);
        expr->models[expr->model_count++] = name;
    }
}

static enum kz_code prepare_expression(
        struct kz_sql_expr *expr, struct kz_lex_tokens tokens, struct kz_err *err)
{
    struct kz_buf select = {0};
    enum kz_code code;
    size_t prefix;

    kz_buf_cstr(&select, "SELECT 1");
    if (expr->kind == KZ_SQL_EVENT)
        put_event_columns(expr, tokens, &select);
    else if (expr->kind == KZ_SQL_PREDICTION)
        put_models(expr, tokens, &select);
    kz_buf_cstr(&select, " WHERE (");
    prefix = select.size;
    kz_buf_cstr(&select, expr->text);
    kz_buf_put(&select, "\n)", 3); /* the line break ends a comment */
    code = kz_prepare(expr->sql, expr->kind == KZ_SQL_HAVING ? KZ_SCOPE_EVENTS : KZ_SCOPE_TABLES,
            select.data, expr->place, kz_str(expr->text), prefix, &expr->stmt, err);
    kz_buf_done(&select);
    if (code != KZ_OK)
        kz_hint_names(expr->sql->project, expr->kind, err);
    return code;
}

static void map_params(struct kz_sql_expr *expr)
{
    expr->param_count = sqlite3_bind_parameter_count(expr->stmt);
    expr->params = kz_arena_must(&expr->sql->arena, (size_t)expr->param_count);
    for (int i = 0; i < expr->param_count; i++)
        expr->params[i] = (uint8_t)param_index(
                kz_str(sqlite3_bind_parameter_name(expr->stmt, i + 1)));
}

/* A column without AS is named by SQLite after its text, which is not a name but where it happens
 * to look like one. */
static bool is_name(const char *name)
{
    if (!*name || (*name >= '0' && *name <= '9'))
        return false;
    for (; *name; name++) {
        bool letter = (*name | 32) >= 'a' && (*name | 32) <= 'z';

        if (!letter && !(*name >= '0' && *name <= '9') && *name != '_' &&
                (unsigned char)*name < 0x80)
            return false;
    }
    return true;
}

static enum kz_code name_columns(struct kz_sql_expr *expr, struct kz_err *err)
{
    struct kz_str text = kz_str(expr->text);
    int count = sqlite3_column_count(expr->stmt);

    if (count > KZ_SQL_COLUMNS_MAX)
        return kz_lex_fail(err, expr->place, text, 0, "%d columns; %d are the most", count,
                KZ_SQL_COLUMNS_MAX);
    expr->columns = kz_arena_must(&expr->sql->arena, (size_t)count * sizeof(*expr->columns));
    for (int i = 0; i < count; i++) {
        const char *name = sqlite3_column_name(expr->stmt, i);

        if (!is_name(name))
            return kz_lex_fail(err, expr->place, text, 0,
                    "column %d (%.80s) has no name; add AS name", i + 1, name);
        for (int k = 0; k < i; k++)
            if (strcmp(expr->columns[k], name) == 0)
                return kz_lex_fail(err, expr->place, text, 0,
                        "columns %d and %d are both named \"%s\"", k + 1, i + 1, name);
        expr->columns[i] = kz_arena_cstr(&expr->sql->arena, kz_str(name));
    }
    expr->column_count = (size_t)count;
    return KZ_OK;
}

static enum kz_code compile(struct kz_sql_expr *expr, struct kz_err *err)
{
    struct kz_sql *sql = expr->sql;
    struct kz_str text = kz_str(expr->text);
    struct kz_lex_tokens tokens = kz_lex(text, &sql->arena);

    if (expr->kind != KZ_SQL_FEATURES)
        KZ_TRY(check_expression(expr, tokens, err));
    KZ_TRY(check_params(expr, tokens, err));
    KZ_TRY(check_calls(expr, sql, tokens, err));
    if (expr->kind != KZ_SQL_FEATURES)
        KZ_TRY(prepare_expression(expr, tokens, err));
    else if (kz_prepare(sql, KZ_SCOPE_EVENTS, expr->text, expr->place, text, 0, &expr->stmt, err) !=
             KZ_OK) {
        kz_hint_names(sql->project, expr->kind, err);
        return KZ_CONFIG;
    }
    if (expr->kind == KZ_SQL_FEATURES)
        KZ_TRY(name_columns(expr, err));
    if (expr->kind == KZ_SQL_FEATURES || expr->kind == KZ_SQL_HAVING)
        map_params(expr);
    if (expr->kind == KZ_SQL_EVENT) {
        expr->names = kz_lex_event_names(tokens, &sql->arena, &expr->name_count);
        expr->when = kz_when_compile(sql->db, sql->project, tokens, &sql->arena);
    }
    return KZ_OK;
}

enum kz_code kz_sql_compile(struct kz_sql *sql, enum kz_sql_kind kind, const char *text,
        struct kz_place place, struct kz_sql_expr **ret_expr, struct kz_err *err)
{
    struct kz_sql_expr *expr = kz_arena_zero(&sql->arena, sizeof(*expr));
    enum kz_code code;

    KZ_CHECK_MAGIC(sql, MAGIC_SQL);
    *expr = (struct kz_sql_expr){.magic = MAGIC_EXPR, .kind = kind, .sql = sql, .place = place};
    expr->text = kz_arena_cstr(&sql->arena, kz_str(text));
    if (place.file)
        expr->place.file = kz_arena_cstr(&sql->arena, kz_str(place.file));
    kz_arena_reset(&sql->scratch);
    sql->reads = (struct kz_event_parts){.columns_id = sql->project->events.columns_id};
    code = compile(expr, err);
    if (code != KZ_OK) {
        sqlite3_finalize(expr->stmt);
        return code;
    }
    expr->reads = sql->reads;
    expr->next = sql->exprs;
    sql->exprs = expr;
    *ret_expr = expr;
    return KZ_OK;
}

void kz_sql_reads(const struct kz_sql_expr *expr, struct kz_event_parts *ret_parts)
{
    *ret_parts = expr->reads;
}

void kz_sql_event_names(
        const struct kz_sql_expr *expr, const char *const **ret_names, size_t *ret_count)
{
    *ret_names = expr->names;
    *ret_count = expr->name_count;
}

void kz_sql_columns(
        const struct kz_sql_expr *expr, const char *const **ret_names, size_t *ret_count)
{
    *ret_names = expr->columns;
    *ret_count = expr->column_count;
}

/* ---- evaluation
 * --------------------------------------------------------------------------------------- */

static void bind_str(sqlite3_stmt *stmt, int at, struct kz_str s)
{
    sqlite3_bind_text64(stmt, at, s.ptr ? s.ptr : "", s.size, SQLITE_STATIC, SQLITE_UTF8);
}

static void bind_value(sqlite3_stmt *stmt, int at, struct kz_value value)
{
    switch (value.type) {
    case KZ_TYPE_INT:
    case KZ_TYPE_BOOL:
        sqlite3_bind_int64(stmt, at, value.integer);
        break;
    case KZ_TYPE_FLOAT:
        sqlite3_bind_double(stmt, at, value.real);
        break;
    case KZ_TYPE_TEXT:
        bind_str(stmt, at, value.text);
        break;
    case KZ_TYPE_NULL:
        sqlite3_bind_null(stmt, at);
        break;
    }
}

static void bind_params(const struct kz_sql_expr *expr, const struct kz_sql_params *params,
        const struct kz_history_rows *rows)
{
    for (int i = 0; i < expr->param_count; i++) {
        int at = i + 1, index = 0;

#define BIND_int64(value) sqlite3_bind_int64(expr->stmt, at, value)
#define BIND_text(value) bind_str(expr->stmt, at, value)
#define X(name, type, value)                                                                       \
    if (expr->params[i] == index++)                                                                \
        BIND_##type(value);
        PARAMS(X)
#undef X
    }
}

static void begin(struct kz_sql_expr *expr, enum kz_sql_kind kind,
        const struct kz_history_rows *rows, const struct kz_sql_params *params, uint64_t steps_max)
{
    struct kz_sql *sql = expr->sql;

    KZ_CHECK_MAGIC(expr, MAGIC_EXPR);
    KZ_BUG_ON(expr->kind != kind);
    sql->rows = rows;
    sql->params = params;
    sql->may_read = &expr->reads;
    sql->steps = 0;
    sql->steps_max = steps_max ? steps_max : KZ_SQL_STEPS_DEFAULT;
    kz_arena_reset(&sql->scratch);
}

static void end(struct kz_sql_expr *expr)
{
    sqlite3_reset(expr->stmt);
    expr->sql->rows = NULL;
    expr->sql->params = NULL;
}

static enum kz_code step_fail(const struct kz_sql_expr *expr, int rc, struct kz_err *err)
{
    struct kz_sql *sql = expr->sql;
    enum kz_code code = KZ_INVALID;
    const char *what = sqlite3_errmsg(sql->db);
    const char *file = expr->place.file ? expr->place.file : "SQL";
    unsigned line = expr->place.line ? expr->place.line : 1;

    switch (rc & 0xff) {
    case SQLITE_INTERRUPT:
        kz_fail(err, KZ_TIMEOUT, "%s:%u: stopped after %llu steps of work", file, line,
                (unsigned long long)sql->steps_max);
        return KZ_TIMEOUT;
    case SQLITE_NOMEM:
        code = KZ_NO_MEMORY;
        break;
    case SQLITE_TOOBIG:
        code = KZ_TOO_LARGE;
        break;
    }
    return kz_fail(err, code, "%s:%u: %s", file, line, what);
}

/* Whether a row comes out. */
static enum kz_code step_true(struct kz_sql_expr *expr, bool *ret_true, struct kz_err *err)
{
    int rc = sqlite3_step(expr->stmt);
    enum kz_code code = KZ_OK;

    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        code = step_fail(expr, rc, err);
    end(expr);
    if (code == KZ_OK)
        *ret_true = rc == SQLITE_ROW;
    return code;
}

enum kz_code kz_sql_event_true(
        struct kz_sql_expr *expr, const struct kz_event *event, bool *ret_true, struct kz_err *err)
{
    const struct kz_project *project = expr->sql->project;

    if (expr->when && kz_when_true(expr->when, project, event, ret_true))
        return KZ_OK;
    begin(expr, KZ_SQL_EVENT, NULL, NULL, 0);
    for (int i = 0; i < expr->param_count; i++)
        bind_value(expr->stmt, i + 1, kz_event_value(project, event, expr->params[i]));
    return step_true(expr, ret_true, err);
}

static const struct kz_sql_prediction *find_prediction(
        const struct kz_sql_prediction *predictions, size_t count, const char *model)
{
    for (size_t i = 0; i < count; i++)
        if (predictions[i].present && strcmp(predictions[i].model, model) == 0)
            return &predictions[i];
    return NULL;
}

enum kz_code kz_sql_prediction_true(struct kz_sql_expr *expr,
        const struct kz_sql_prediction *predictions, size_t count, bool *ret_true,
        struct kz_err *err)
{
    begin(expr, KZ_SQL_PREDICTION, NULL, NULL, 0);
    for (size_t i = 0; i < expr->model_count; i++) {
        const struct kz_sql_prediction *p = find_prediction(predictions, count, expr->models[i]);
        int at = (int)(2 * i) + 1;

        if (p && p->has_score)
            sqlite3_bind_double(expr->stmt, at, p->score);
        else
            sqlite3_bind_null(expr->stmt, at);
        if (p && p->output.size)
            bind_str(expr->stmt, at + 1, p->output);
        else
            sqlite3_bind_null(expr->stmt, at + 1);
    }
    return step_true(expr, ret_true, err);
}

enum kz_code kz_sql_having_true(struct kz_sql_expr *expr, const struct kz_history_rows *rows,
        const struct kz_sql_params *params, uint64_t steps_max, bool *ret_true, struct kz_err *err)
{
    begin(expr, KZ_SQL_HAVING, rows, params, steps_max);
    bind_params(expr, params, rows);
    return step_true(expr, ret_true, err);
}

static enum kz_code take_row(struct kz_sql_expr *expr, struct kz_err *err)
{
    struct kz_sql *sql = expr->sql;
    const char *file = expr->place.file ? expr->place.file : "SQL";
    size_t text_bytes = 0;

    for (int i = 0; i < (int)expr->column_count; i++) {
        int type = sqlite3_column_type(expr->stmt, i);

        if (type == SQLITE_BLOB)
            return kz_fail(err, KZ_INVALID,
                    "%s: column \"%s\" is a blob; features are numbers and texts", file,
                    expr->columns[i]);
        if (type == SQLITE_TEXT)
            text_bytes += (size_t)sqlite3_column_bytes(expr->stmt, i);
    }
    if (text_bytes > KZ_SQL_TEXT_SIZE_MAX)
        return kz_fail(err, KZ_TOO_LARGE, "%s: %zu bytes of text in one row; %d are the most", file,
                text_bytes, KZ_SQL_TEXT_SIZE_MAX);
    kz_buf_clear(&sql->text);
    kz_buf_reserve(&sql->text, text_bytes + 1);
    for (int i = 0; i < (int)expr->column_count; i++) {
        struct kz_value *value = &sql->values[i];
        struct kz_str bytes;

        switch (sqlite3_column_type(expr->stmt, i)) {
        case SQLITE_INTEGER:
            *value = (struct kz_value){
                    .type = KZ_TYPE_INT, .integer = sqlite3_column_int64(expr->stmt, i)};
            break;
        case SQLITE_FLOAT:
            *value = (struct kz_value){
                    .type = KZ_TYPE_FLOAT, .real = sqlite3_column_double(expr->stmt, i)};
            break;
        case SQLITE_TEXT:
            bytes = kz_str_n(sqlite3_column_blob(expr->stmt, i),
                    (size_t)sqlite3_column_bytes(expr->stmt, i));
            value->type = KZ_TYPE_TEXT;
            value->text = kz_str_n(sql->text.data + sql->text.size, bytes.size);
            kz_buf_str(&sql->text, bytes);
            break;
        default:
            *value = (struct kz_value){.type = KZ_TYPE_NULL};
        }
    }
    return KZ_OK;
}

enum kz_code kz_sql_features(struct kz_sql_expr *expr, const struct kz_history_rows *rows,
        const struct kz_sql_params *params, uint64_t steps_max, struct kz_row *ret_row,
        struct kz_err *err)
{
    const char *file = expr->place.file ? expr->place.file : "SQL";
    enum kz_code code;
    int rc;

    begin(expr, KZ_SQL_FEATURES, rows, params, steps_max);
    bind_params(expr, params, rows);
    rc = sqlite3_step(expr->stmt);
    if (rc == SQLITE_ROW) {
        code = take_row(expr, err);
        rc = code == KZ_OK ? sqlite3_step(expr->stmt) : SQLITE_DONE;
        if (rc == SQLITE_ROW)
            code = kz_fail(
                    err, KZ_INVALID, "%s: more than one row; features are exactly one", file);
        else if (rc != SQLITE_DONE)
            code = step_fail(expr, rc, err);
    } else if (rc == SQLITE_DONE) {
        code = kz_fail(err, KZ_INVALID, "%s: no row; features are exactly one", file);
    } else {
        code = step_fail(expr, rc, err);
    }
    end(expr);
    if (code == KZ_OK)
        *ret_row = (struct kz_row){expr->column_count, expr->sql->values};
    return code;
}
