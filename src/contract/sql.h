/* contract/sql.h -- what stages ask of SQL, without knowing the engine.
 *
 * The feature stage implements it over SQLite. A context belongs to one thread: the pipeline's own
 * evaluates `when`, `unless`, `of` and `having`; every infer thread has one for features.
 *
 * Same rows, same parameters, same bits: no clock and no randomness reach a query.
 */
#pragma once

#include "contract/history.h"
#include "contract/project.h"

struct kz_sql;      /* one thread's engine: connection, reference tables, prepared statements */
struct kz_sql_expr; /* a compiled expression or query; owned by its kz_sql */

enum kz_sql_kind {
    KZ_SQL_EVENT,      /* boolean over one event's columns: when, unless, of */
    KZ_SQL_HAVING,     /* boolean over the history and @parameters */
    KZ_SQL_FEATURES,   /* one SELECT, one row */
    KZ_SQL_PREDICTION, /* boolean over <model>.score, <model>.output: an action's when, after-when */
};

/* The parameters of section 5; also what a request knows. */
struct kz_sql_params {
    int64_t now_ms;
    struct kz_str user_id;
    struct kz_str event_id;
    int64_t trigger_ts_ms;
    uint64_t session;
    uint64_t seq; /* of the trigger event */
    int64_t first_seen_ms;
    bool truncated;
};

struct kz_sql_prediction { /* a model's latest valid prediction; absent: NULLs */
    const char *model;
    bool present;
    bool has_score;
    double score;
    struct kz_str output; /* JSON */
};

/* One row of a query's values, in the order of its columns. */
struct kz_row {
    size_t count;
    const struct kz_value *values; /* valid until the next evaluation with the same kz_sql */
};

/* Opens an engine for a project: loads and materialises its reference tables. Fails with KZ_CONFIG
 * and file:line:column. `tables_hash` covers the tables' contents. */
KZ_MUST_USE enum kz_code kz_sql_open(
        const struct kz_project *project, struct kz_sql **ret_sql, struct kz_err *err);
void kz_sql_close(struct kz_sql *sql); /* and its expressions; takes NULL */
KZ_DEFINE_FREEP(struct kz_sql, kz_sql_close)
/* Of names, types and rows of all reference tables: a part of a version's hash. */
uint64_t kz_sql_tables_hash(const struct kz_sql *sql);
const char *kz_sql_engine(void); /* "sqlite 3.40.1" */

/* Compiles; a failure names the place within the text (message holds line:column relative to
 * `place`). Non-deterministic functions are refused. */
KZ_MUST_USE enum kz_code kz_sql_compile(struct kz_sql *sql, enum kz_sql_kind kind, const char *text,
        struct kz_place place, struct kz_sql_expr **ret_expr, struct kz_err *err);

/* The event names an EVENT expression can match at all, where it demands `name = 'x'` or
 * `name IN (...)` in a conjunction; count 0: any name. Borrowed from the expression. */
void kz_sql_event_names(
        const struct kz_sql_expr *expr, const char *const **ret_names, size_t *ret_count);
/* Column names of a FEATURES query and whether each is text-typed is known only by value. */
void kz_sql_columns(
        const struct kz_sql_expr *expr, const char *const **ret_names, size_t *ret_count);

/* Which parts of events a HAVING or FEATURES query can look at; all it reads is among them. */
void kz_sql_reads(const struct kz_sql_expr *expr, struct kz_event_parts *ret_parts);

/* NULL and 0 are false. `event` has its columns set (typed by the project's definitions). */
KZ_MUST_USE enum kz_code kz_sql_event_true(
        struct kz_sql_expr *expr, const struct kz_event *event, bool *ret_true, struct kz_err *err);
/* The same of a PREDICTION expression; a model that is not among them, or not present, is NULL. */
KZ_MUST_USE enum kz_code kz_sql_prediction_true(struct kz_sql_expr *expr,
        const struct kz_sql_prediction *predictions, size_t count, bool *ret_true,
        struct kz_err *err);
/* Over the history: `steps_max` bounds the engine's work (0: default); KZ_TIMEOUT when reached. */
KZ_MUST_USE enum kz_code kz_sql_having_true(struct kz_sql_expr *expr,
        const struct kz_history_rows *rows, const struct kz_sql_params *params, uint64_t steps_max,
        bool *ret_true, struct kz_err *err);
/* Exactly one row, or KZ_INVALID. */
KZ_MUST_USE enum kz_code kz_sql_features(struct kz_sql_expr *expr,
        const struct kz_history_rows *rows, const struct kz_sql_params *params, uint64_t steps_max,
        struct kz_row *ret_row, struct kz_err *err);
