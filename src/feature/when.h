/* feature/when.h -- the common part of `when` evaluated by ourselves, in a tenth of SQLite's time.
 *
 * Understood: columns, literals, + - * /, comparisons, IS, IS NULL, BETWEEN, IN with literals, NOT,
 * AND, OR, and only where types make SQLite's affinities without effect: numbers with numbers, text
 * with text. For all else kz_when_compile() gives NULL and SQLite evaluates. when_test.c compares
 * the two on random expressions and events.
 *
 * Owner    the arena given.
 * Threads  one at a time.
 */
#pragma once

#include <sqlite3.h>

#include "contract/project.h"
#include "feature/lex.h"

struct kz_when;

/* `db` says what a literal number is worth. */
struct kz_when *kz_when_compile(sqlite3 *db, const struct kz_project *project,
        struct kz_lex_tokens tokens, struct kz_arena *arena);

/* Returns false where a value is not of its column's type: SQLite has to decide. */
bool kz_when_true(const struct kz_when *when, const struct kz_project *project,
        const struct kz_event *event, bool *ret_true);

/* Column `index` of an event as `when` sees it, counted as enum kz_events_column does. */
struct kz_value kz_event_value(
        const struct kz_project *project, const struct kz_event *event, unsigned index);
/* The column of that name, or -1. `seq` is not among them: it is not given yet. */
int kz_event_value_find(const struct kz_project *project, const struct kz_lex_token *ident);
