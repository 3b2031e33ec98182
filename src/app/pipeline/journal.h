/* app/pipeline/journal.h -- where the pipeline's records go: the one place that tells one machine from many.
 *
 * The code that decides (kz_pl_event, kz_pl_ask, kz_pl_fire, kz_pl_act) makes records, applies them to
 * the views and looks at what it has made. On one machine that is the log. Where users' states lie
 * in a shared store, it is a transaction: records gather in memory, are committed together, and
 * nothing of them is there before.
 *
 * Threads  the pipeline's.
 */
#pragma once

#include "log/log.h"

/* What makes two events the same. */
struct kz_journal_id {
    uint64_t key; /* kz_dedupe_key() */
    struct kz_user_key as_sent;
    struct kz_str event_id;
};

struct kz_journal {
    const struct kz_journal_ops *ops;
    /* The seq that the next record (which is no REQUEST: those may skip some) gets. Kept up by the
     * implementation. */
    uint64_t seq_next;
};

struct kz_journal_ops {
    /* Stages a record (body copied) and gives it, good until the next append. KZ_FULL: commit first,
     * then again; a journal without commit does not say it. */
    enum kz_code (*append)(struct kz_journal *journal, const struct kz_log_entry *entry,
            kz_lsn *ret_lsn, const struct kz_record **ret_record, struct kz_err *err);
    /* A record at an address that the journal gave, good until the next append; NULL where it has
     * it no more (then a history reader does). */
    const struct kz_record *(*staged)(struct kz_journal *journal, kz_lsn lsn);
    /* Whether an event of this id was taken, and went to `owner`, since `since_ms` (our clock). */
    enum kz_code (*find)(struct kz_journal *journal, const struct kz_journal_id *id, uint64_t owner,
            int64_t since_ms, bool *ret_found, struct kz_err *err);
    /* Begins to fetch what find() will look at. */
    void (*prefetch)(struct kz_journal *journal, uint64_t key);
    /* Bytes that can still be staged with what is staged already, to be kept or lost together;
     * UINT64_MAX where nothing is staged, or where there is no such bound. */
    uint64_t (*room)(struct kz_journal *journal);
};

/* The log of one machine as a journal. */
struct kz_log_journal {
    struct kz_journal journal;
    struct kz_log *log;
};
void kz_log_journal_init(struct kz_log_journal *journal, struct kz_log *log);
