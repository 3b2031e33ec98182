/* feature/sql_int.h -- the engine behind contract/sql.h, for this folder only. */
#pragma once

#include <sqlite3.h>

#include "base/arena.h"
#include "contract/sql.h"
#include "feature/columns.h"
#include "feature/functions.h"
#include "feature/when.h"

enum {
    KZ_SQL_COLUMNS_MAX = 512,         /* of a feature row */
    KZ_SQL_TEXT_SIZE_MAX = 1 << 20,   /* all texts of a feature row */
    KZ_SQL_VALUE_SIZE_MAX = 16 << 20, /* any one value inside a query */
    KZ_SQL_ARENA_SIZE_MAX = 64 << 20, /* unescaped texts of one evaluation */
    KZ_SQL_STEPS_DEFAULT = 20 * 1000 * 1000,
    KZ_SQL_STEPS_EACH = 1000, /* between two looks at the limit */
    KZ_SQL_CURSORS_KEPT = 8,
};

/* What the authorizer lets a text see. */
enum kz_sql_scope {
    KZ_SCOPE_SETUP,  /* ourselves: everything */
    KZ_SCOPE_TABLES, /* reference tables: `when`, materialised tables */
    KZ_SCOPE_EVENTS, /* and the history */
};

struct kz_events_cursor;

struct kz_sql {
    uint32_t magic;
    const struct kz_project *project;
    const char *tables; /* that are there beside the project's, by commas, for a hint */
    sqlite3 *db;
    struct kz_functions functions;
    struct kz_arena arena; /* lives as long as the engine: expressions, names */
    uint64_t tables_hash;
    struct kz_sql_expr *exprs;

    enum kz_sql_scope scope;
    char refused[256];           /* why the authorizer said no; empty: it did not */
    struct kz_event_parts reads; /* what texts prepared since it was cleared read of events */

    /* of the evaluation under way */
    const struct kz_history_rows *rows;
    const struct kz_sql_params *params;
    const struct kz_event_parts *may_read; /* the expression's `reads` */
    uint64_t steps, steps_max;
    struct kz_arena scratch; /* reset by each */
    struct kz_events_cursor *cursors[KZ_SQL_CURSORS_KEPT];
    size_t cursor_count;

    struct kz_buf text; /* of the last feature row */
    struct kz_value values[KZ_SQL_COLUMNS_MAX];
};

struct kz_sql_expr {
    uint32_t magic;
    enum kz_sql_kind kind;
    struct kz_sql *sql;
    struct kz_sql_expr *next;
    struct kz_place place;
    const char *text;
    sqlite3_stmt *stmt;
    uint8_t *params; /* enum param of each ?NNN, or index of an event column or a model's value */
    int param_count;
    const char **columns;
    size_t column_count;
    const char *const *names;
    size_t name_count;
    struct kz_when *when; /* EVENT: our own evaluation, or NULL */
    struct kz_event_parts reads;
    const char **models; /* PREDICTION: those it mentions */
    size_t model_count;
};

/* feature/events.c: the virtual table over sql->rows. */
enum kz_code kz_events_register(struct kz_sql *sql, struct kz_err *err);
void kz_events_cursors_free(struct kz_sql *sql);
/* Notes in `sql->reads` that a text reads a column of events. */
void kz_events_note(struct kz_sql *sql, int column);

/* feature/connection.c: a hardened in-memory connection. */
enum kz_code kz_connection_open(sqlite3 **ret_db, struct kz_err *err);
/* Lets through what `sql->scope` permits, and leaves the reason in `sql->refused` otherwise. */
int kz_authorize(
        void *sql, int action, const char *a, const char *b, const char *db, const char *trigger);
bool kz_is_reference_table(const struct kz_project *project, const char *name);

/* Compiles `sql_text`, in which the user's `text` (which begins at `place`) stands `prefix` bytes
 * from the start, as `scope` permits: one SELECT and nothing behind it. */
enum kz_code kz_prepare(struct kz_sql *sql, enum kz_sql_scope scope, const char *sql_text,
        struct kz_place place, struct kz_str text, size_t prefix, sqlite3_stmt **ret_stmt,
        struct kz_err *err);

/* feature/reference.c: the project's reference tables, from CSV files, then those materialised from
 * SQL. An empty cell is NULL. A declared column holds what its type says or the load fails; a
 * file's other columns are TEXT. SQL tables may use each other in any order but not in a circle.
 * Sets tables_hash, which covers names, types and rows in order. Fails with KZ_CONFIG. */
enum kz_code kz_reference_load(struct kz_sql *sql, struct kz_err *err);

/* Turns SQLite's complaint about `text`, which stood `prefix` bytes into what was prepared, into
 * file:line:column, with the way out where one is known. `refused` is the authorizer's reason, or
 * empty. */
enum kz_code kz_sqlite_fail(struct kz_sql *sql, struct kz_place place, struct kz_str text,
        size_t prefix, const char *refused, struct kz_err *err);
