/* feature/functions.h -- the SQL functions that SQLite does not have, and those of its own that
 * must not see a clock.
 *
 * Threads  those of the connection they are registered with.
 */
#pragma once

#include <sqlite3.h>

#include "contract/tz.h"

enum { KZ_DATE_FUNCTIONS = 6, KZ_DATE_ARGS_MAX = 8 };

struct kz_functions {
    bool clock; /* date functions may read the clock and the machine's zone: an operator's queries
                 */
    struct kz_zones zones;
    sqlite3 *dates; /* a connection of its own, on which SQLite's date functions are asked */
    sqlite3_stmt *date_stmts[KZ_DATE_FUNCTIONS][KZ_DATE_ARGS_MAX + 1];
};

/* duration, local_hour, local_day, JSON_VALUE, stddev, median, and the date functions without
 * 'now', 'localtime' and 'utc'. `functions` (zeroed) must outlive the connection. */
KZ_MUST_USE enum kz_code kz_functions_register(
        sqlite3 *db, struct kz_functions *functions, struct kz_err *err);
void kz_functions_done(struct kz_functions *functions);

/* One time set-up of the library: no memory statistics, since these take a lock in every malloc. */
void kz_sqlite_setup(void);
