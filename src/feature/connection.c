#include <ctype.h>
#include <stdio.h>
#include <strings.h>

#include "feature/hints.h"
#include "feature/lex.h"
#include "feature/sql_int.h"

enum kz_code kz_connection_open(sqlite3 **ret_db, struct kz_err *err)
{
    static const struct {
        int id, value;
    } limits[] = {
            {SQLITE_LIMIT_LENGTH, KZ_SQL_VALUE_SIZE_MAX},
            {SQLITE_LIMIT_SQL_LENGTH, 1 << 20},
            {SQLITE_LIMIT_ATTACHED, 0},
            {SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000},
            {SQLITE_LIMIT_WORKER_THREADS, 0},
            {SQLITE_LIMIT_TRIGGER_DEPTH, 1},
    };
    static const struct {
        int id, value;
    } switches[] = {
            {SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
            {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0},
            {SQLITE_DBCONFIG_ENABLE_VIEW, 0},
            {SQLITE_DBCONFIG_DEFENSIVE, 1},
            {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
            /* "x" is an identifier and never a text, so that a misspelt column is an error. */
            {SQLITE_DBCONFIG_DQS_DML, 0},
            {SQLITE_DBCONFIG_DQS_DDL, 0},
    };
    sqlite3 *db = NULL;
    int rc;

    kz_sqlite_setup();
    rc = sqlite3_open_v2(":memory:", &db,
            SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MEMORY | SQLITE_OPEN_NOMUTEX,
            NULL);
    if (rc != SQLITE_OK) {
        kz_fail(err, KZ_INTERNAL, "could not open an SQL engine: %s", sqlite3_errstr(rc));
        sqlite3_close(db);
        return KZ_INTERNAL;
    }
    sqlite3_db_config(db, SQLITE_DBCONFIG_LOOKASIDE, NULL, 1200, 200);
    sqlite3_extended_result_codes(db, 1);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(limits); i++)
        sqlite3_limit(db, limits[i].id, limits[i].value);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(switches); i++)
        sqlite3_db_config(db, switches[i].id, switches[i].value, NULL);
    /* Sorting spills nowhere. */
    (void)sqlite3_exec(db, "PRAGMA temp_store = MEMORY", NULL, NULL, NULL);
    *ret_db = db;
    return KZ_OK;
}

bool kz_is_reference_table(const struct kz_project *project, const char *name)
{
    for (size_t i = 0; i < project->table_count; i++)
        if (strcasecmp(project->tables[i].name, name) == 0)
            return true;
    return false;
}

static int refuse(struct kz_sql *sql, const char *fmt, const char *what)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(sql->refused, sizeof(sql->refused), fmt, what ? what : "");
#pragma GCC diagnostic pop
    return SQLITE_DENY;
}

static int may_call(struct kz_sql *sql, const char *name)
{
    static const char *const random[] = {"random", "randomblob"};
    static const char *const clock[] = {"current_timestamp", "current_date", "current_time"};
    static const char *const connection[] = {"changes", "total_changes", "last_insert_rowid",
            "load_extension", "sqlite_offset", "sqlite_source_id", "sqlite_version",
            "sqlite_compileoption_get", "sqlite_compileoption_used", "sqlite_log", "fts3_tokenizer",
            "subtype"};

    for (size_t i = 0; i < KZ_ARRAY_COUNT(random); i++)
        if (strcasecmp(name, random[i]) == 0)
            return refuse(sql, "%s() is random; the same history must give the same result", name);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(clock); i++)
        if (strcasecmp(name, clock[i]) == 0)
            return refuse(sql, "%s reads the clock; use @now", clock[i]);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(connection); i++)
        if (strcasecmp(name, connection[i]) == 0)
            return refuse(sql, "%s() depends on the engine, not on the history", name);
    return SQLITE_OK;
}

/* The authorizer is told of each column that a text names, but not of those that USING compares;
 * events_best_index() is. */
static void note_column(struct kz_sql *sql, const char *name)
{
    for (int i = 0; i < KZ_EVENTS_FIXED; i++)
        if (strcasecmp(name, kz_events_column_names[i]) == 0)
            kz_events_note(sql, i);
    for (size_t i = 0; i < sql->project->events.column_count; i++)
        if (strcasecmp(name, sql->project->events.columns[i].name) == 0)
            kz_events_note(sql, KZ_EVENTS_FIXED + (int)i);
}

static int may_read(struct kz_sql *sql, const char *table, const char *column)
{
    static const char *const inner[] = {"dbstat", "bytecode", "tables_used", "sqlite_stmt"};

    if (strcasecmp(table, "events") == 0 && column)
        note_column(sql, column);
    if (strcasecmp(table, "events") == 0)
        return sql->scope == KZ_SCOPE_EVENTS
                       ? SQLITE_OK
                       : refuse(sql, "%s is not to be seen here, only in features and having",
                                 table);
    /* Without a column it may be a common table expression's name, which can be anything. */
    if (kz_is_reference_table(sql->project, table) || strcasecmp(table, "json_each") == 0 ||
            strcasecmp(table, "json_tree") == 0)
        return SQLITE_OK;
    if (!column || !*column) {
        bool own = strncasecmp(table, "sqlite_", 7) == 0 || strncasecmp(table, "pragma_", 7) == 0;

        for (size_t i = 0; i < KZ_ARRAY_COUNT(inner); i++)
            own |= strcasecmp(table, inner[i]) == 0;
        if (!own)
            return SQLITE_OK;
    }
    return refuse(sql, "table %s is not to be seen here", table);
}

int kz_authorize(
        void *arg, int action, const char *a, const char *b, const char *db, const char *trigger)
{
    struct kz_sql *sql = arg;

    (void)db, (void)trigger;
    if (sql->scope == KZ_SCOPE_SETUP)
        return SQLITE_OK;
    switch (action) {
    case SQLITE_SELECT:
    case SQLITE_RECURSIVE:
        return SQLITE_OK;
    case SQLITE_READ:
        return may_read(sql, a ? a : "", b);
    case SQLITE_FUNCTION:
        return may_call(sql, b ? b : "");
    case SQLITE_PRAGMA:
        return refuse(sql, "PRAGMA %s is not permitted; only SELECT is", a);
    case SQLITE_ATTACH:
        return refuse(sql, "ATTACH is not permitted; only SELECT is%s", "");
    }
    return refuse(sql, "only SELECT is permitted%s", "");
}

enum kz_code kz_prepare(struct kz_sql *sql, enum kz_sql_scope scope, const char *sql_text,
        struct kz_place place, struct kz_str text, size_t prefix, sqlite3_stmt **ret_stmt,
        struct kz_err *err)
{
    sqlite3_stmt *stmt = NULL;
    const char *tail = NULL;
    struct kz_lex_tokens rest;
    struct kz_arena arena;
    enum kz_code code = KZ_OK;

    sql->refused[0] = '\0';
    sql->scope = scope;
    if (sqlite3_prepare_v3(sql->db, sql_text, -1, SQLITE_PREPARE_PERSISTENT, &stmt, &tail) !=
            SQLITE_OK) {
        sql->scope = KZ_SCOPE_SETUP;
        return kz_sqlite_fail(sql, place, text, prefix, sql->refused, err);
    }
    sql->scope = KZ_SCOPE_SETUP;
    if (!stmt)
        return kz_lex_fail(err, place, text, 0, "there is no SQL here");

    kz_arena_init(&arena, 0);
    rest = kz_lex(kz_str(tail), &arena);
    for (size_t i = 0; code == KZ_OK && i < rest.count; i++)
        if (!kz_lex_op(&rest.at[i], ";"))
            code = kz_lex_fail(err, place, text,
                    (size_t)(tail - sql_text) + rest.at[i].offset - prefix,
                    "only one statement is expected");
    kz_arena_done(&arena);
    if (code == KZ_OK && (sqlite3_stmt_isexplain(stmt) || !sqlite3_stmt_readonly(stmt) ||
                                 sqlite3_column_count(stmt) == 0))
        code = kz_lex_fail(err, place, text, 0, "only SELECT is permitted");
    if (code != KZ_OK) {
        sqlite3_finalize(stmt);
        return code;
    }
    *ret_stmt = stmt;
    return KZ_OK;
}

/* Where the table stands that a message says is not there, which SQLite does not tell; 0: not found. */
static size_t find_table(const char *message, struct kz_str text)
{
    static const char before[] = "no such table: ";
    struct kz_lex_tokens tokens;
    struct kz_arena arena;
    size_t at = 0;

    if (strncmp(message, before, sizeof(before) - 1) != 0)
        return 0;
    kz_arena_init(&arena, 0);
    tokens = kz_lex(text, &arena);
    for (size_t i = tokens.count; i-- > 0;)
        if (kz_lex_ident(&tokens.at[i], message + sizeof(before) - 1))
            at = tokens.at[i].offset;
    kz_arena_done(&arena);
    return at;
}

enum kz_code kz_sqlite_fail(struct kz_sql *sql, struct kz_place place, struct kz_str text,
        size_t prefix, const char *refused, struct kz_err *err)
{
    int offset = sqlite3_error_offset(sql->db);
    const char *message = refused && *refused ? refused : sqlite3_errmsg(sql->db);
    size_t at = offset < 0 || (size_t)offset < prefix ? find_table(message, text)
                                                      : (size_t)offset - prefix;
    enum kz_code code;

    /* SQLite places an unexpected end, or our own closing parenthesis, behind the text. */
    at = KZ_MIN(at, text.size);
    code = kz_lex_fail(err, place, text, at, "%s", message);
    kz_hint_dialect(sql->project, sql->tables, message, text, at, err);
    return code;
}
