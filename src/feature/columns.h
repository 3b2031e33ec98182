/* feature/columns.h -- the columns of `events`, as SQL sees them, from a log record.
 *
 * A typed column is read in place where the record was written under the project's present column
 * definitions, else taken from props again, by the rules of kz_column_from_json().
 *
 * Threads  one at a time.
 */
#pragma once

#include <sqlite3.h>

#include "base/arena.h"
#include "contract/project.h"
#include "contract/record.h"

/* The fixed columns, in order; the project's own follow. */
enum kz_events_column {
    KZ_EVENTS_SEQ,
    KZ_EVENTS_EVENT_ID,
    KZ_EVENTS_USER_ID,
    KZ_EVENTS_NAME,
    KZ_EVENTS_TS,
    KZ_EVENTS_CLIENT_TS,
    KZ_EVENTS_RECEIVED_AT,
    KZ_EVENTS_SESSION,
    KZ_EVENTS_PROPS,
    KZ_EVENTS_FIXED,
};

extern const char *const kz_events_column_names[KZ_EVENTS_FIXED];
extern const enum kz_type kz_events_column_types[KZ_EVENTS_FIXED];

/* Affinity by name: "INTEGER", "REAL", "TEXT". */
const char *kz_column_sql_type(enum kz_type type);

/* Appends `"a" TEXT, "b" REAL` for all columns of `events`: seq, ..., props, typed ones. */
void kz_events_declare(const struct kz_project *project, struct kz_buf *out);

/* Which record a cursor stands on, and what was taken from its props already. */
struct kz_events_row {
    const struct kz_record *record;
    uint64_t have; /* typed columns in `values` */
    struct kz_value values[KZ_COLUMNS_MAX];
};

/* Gives column `column` as a function's or virtual table's result. `user_id` is who the event
 * belongs to now. Strings stay where they are if `in_place`: the record must then outlive the
 * statement; unescaped ones are put into `arena`, whose contents must too. */
int kz_events_result(sqlite3_context *ctx, const struct kz_project *project,
        struct kz_events_row *row, int column, struct kz_str user_id, bool in_place,
        struct kz_arena *arena);

/* What props hold for a column (contract/column.h); NULL where it does not fit. */
struct kz_value kz_column_from_json(
        const char *path, enum kz_type type, struct kz_str props, struct kz_arena *arena);
