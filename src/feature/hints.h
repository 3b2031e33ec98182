/* feature/hints.h -- the way out of a text that SQLite could not compile: what the dialects of other
 * engines call a function, names that are words of SQL, and which tables and columns there are.
 *
 * Owner    nothing is kept.
 * Threads  pure functions.
 * Fails    never; a complaint that is not known leaves `err` as it is.
 */
#pragma once

#include "contract/sql.h"

/* `message` is SQLite's, about `text` at byte `at`; `tables` are ours beside the project's, by commas. */
void kz_hint_dialect(const struct kz_project *project, const char *tables, const char *message,
        struct kz_str text, size_t at, struct kz_err *err);
/* The same for what depends on where the text stands. */
void kz_hint_names(const struct kz_project *project, enum kz_sql_kind kind, struct kz_err *err);
