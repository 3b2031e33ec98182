/* feature/tables.h -- SQL over everything: what `kizashi sql DIR` asks.
 *
 * Tables: events, predictions, actions, dead_letters (DESIGN.md section 5) and the reference
 * tables. Reading is streaming and bounded: all records are read by address, a batch of
 * KZ_TABLES_BATCH_BYTES, then up to KZ_TABLES_BATCH_BYTES_MAX at a time, copied out of the reader's
 * hands, so that nothing is held while SQLite or the terminal takes its time. `user_id = ...` goes to that user's chain instead. Only
 * actions.delivered_at needs more: a pass over all deliveries first, 16 bytes kept for each.
 *
 * Here the operator asks, not a model: date('now'), random() and @now are permitted; writing is
 * not.
 *
 * Owner    the caller; project, reader and hooks must outlive it.
 * Threads  one at a time.
 * Fails    KZ_INVALID with "line:column: ..." for bad SQL, KZ_LIMIT, KZ_UNAVAILABLE when cancelled,
 *          and what the reader or the sink fail with.
 */
#pragma once

#include "contract/history.h"
#include "contract/project.h"

enum {
    KZ_TABLES_BATCH_BYTES = 1 << 20,
    KZ_TABLES_BATCH_BYTES_MAX = 32 << 20,
    KZ_TABLES_DELIVERIES_MAX = 16 * 1000 * 1000,
};

struct kz_tables;

struct kz_tables_hooks {
    void *arg;
    /* Fills `out` with the chains of whoever is known by this id now, be it a user id or an
     * anonymous one, and returns how many; 0: nobody. NULL: every query reads everything. */
    size_t (*lookup)(
            void *arg, struct kz_str id, enum kz_chain chain, struct kz_source out[KZ_SOURCES_MAX]);
    /* The id of the user that the record at `lsn` of `owner` belongs to now; borrowed until the
     * next call. Empty, or a NULL hook: the id it was sent under. */
    struct kz_str (*user_id)(void *arg, uint64_t owner, kz_lsn lsn);
    /* Asked now and then; true ends the query. May be NULL. */
    bool (*cancelled)(void *arg);
    kz_lsn until;   /* records below; UINT64_MAX for all there are */
    int64_t now_ms; /* @now */
};

KZ_MUST_USE enum kz_code kz_tables_open(const struct kz_project *project,
        struct kz_history_reader *reader, const struct kz_tables_hooks *hooks,
        struct kz_tables **ret_tables, struct kz_err *err);
void kz_tables_close(struct kz_tables *tables);
KZ_DEFINE_FREEP(struct kz_tables, kz_tables_close)

/* Who takes the answer. Names and values are borrowed for the call; a blob comes as text X'00FF'.
 */
struct kz_tables_sink {
    void *arg;
    enum kz_code (*columns)(void *arg, const char *const *names, size_t count, struct kz_err *err);
    enum kz_code (*row)(void *arg, const struct kz_value *values, size_t count, struct kz_err *err);
};

/* Runs one SELECT. */
KZ_MUST_USE enum kz_code kz_tables_query(struct kz_tables *tables, const char *sql,
        const struct kz_tables_sink *sink, struct kz_err *err);
