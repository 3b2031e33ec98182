/* contract/store.h -- the shared raw log: events, what is kept of each user between events, timers and
 * requests on their way, for `process` roles that share it. (One machine has log/ and history/
 * instead: one writer needs no transactions.)
 *
 * A record's address (kz_lsn) is its place among the records of its owner, given by the process role
 * (kz_store_lsn()): our clock in the upper bits, so that addresses of different users compare nearly
 * as time does. A record is found by (owner, lsn). An event's ts may be ahead of its address's time by
 * at most KZ_STORE_AHEAD_MS: a store may look for since_ms by address.
 *
 * Threads  any; a transaction belongs to one thread.
 * Fails    KZ_CONFLICT: somebody else changed what was read, begin again. KZ_UNAVAILABLE, KZ_TIMEOUT,
 *          KZ_LIMIT: try later. All else will not pass.
 */
#pragma once

#include "contract/history.h"

enum {
    KZ_STORE_LSN_SHIFT = 21, /* what is below it, app/roles/address.h says */
    KZ_STORE_AHEAD_MS = 86400000,
    KZ_STORE_ROWS_MAX = 6000, /* users, ids, records and all the rest of one commit */
};
/* The first address of a ms; in [0, 2^42), so that it is no negative number in SQL: until 2109. */
static inline kz_lsn kz_store_lsn(int64_t ms)
{
    return (kz_lsn)ms << KZ_STORE_LSN_SHIFT;
}
static inline int64_t kz_store_lsn_ms(kz_lsn lsn)
{
    return (int64_t)(lsn >> KZ_STORE_LSN_SHIFT);
}

struct kz_store_user {
    uint64_t owner;
    struct kz_str state; /* opaque to the store; empty: no such user (put: it goes) */
};

/* What makes two events the same. Kept under the owner, so that ids go when a user is erased. */
struct kz_store_id {
    uint64_t owner;   /* kz_owner_hash(as sent, 0), whoever that is linked to */
    struct kz_str id; /* kind and id of the user as sent, NUL, event_id; no owner collides in it */
};

struct kz_store_record {
    kz_lsn lsn;
    const struct kz_record *record; /* `owner` and `type` say where it goes */
};

struct kz_store_timer {
    uint64_t owner; /* whose state it is about */
    uint64_t rule;
    int64_t due_ms;
};

struct kz_store_request { /* of the outbox: committed, not known to be published */
    uint64_t owner;
    kz_lsn lsn;
    struct kz_str message; /* opaque: what is to be published; published() does not look at it */
};

/* All of it, or nothing. */
struct kz_store_commit {
    const struct kz_store_user *users;
    size_t user_count; /* put */
    const struct kz_store_id *ids;
    size_t id_count; /* put; they were not there */
    const struct kz_store_record *records;
    size_t record_count; /* events and notes, put */
    const struct kz_store_timer *timers;
    size_t timer_count; /* put */
    const struct kz_store_timer *fired;
    size_t fired_count; /* removed, where they are there */
    const struct kz_store_request *requests;
    size_t request_count; /* into the outbox */
    const struct kz_store_record *letters;
    size_t letter_count; /* DEADLETTER records */
    int64_t now_ms;      /* what retention counts from */
};
static inline size_t kz_store_rows(const struct kz_store_commit *commit)
{
    return commit->user_count + commit->id_count + commit->record_count + commit->timer_count +
           commit->fired_count + commit->request_count + commit->letter_count;
}

struct kz_store_txn;

struct kz_store_stats {
    uint64_t commits, conflicts, retries, reads, rows_read, rows_written, bytes_written;
    uint64_t commit_us_total, read_us_total; /* spent waiting for the store */
    uint32_t sessions;
    bool throttled;
    char problem[KZ_PROBLEM_BYTES];
};

struct kz_store {
    const struct kz_store_ops *ops;
};

struct kz_store_ops {
    const char *name; /* "memory", "spanner" */

    /* A read-write transaction. What was read in it does not change before its commit, or the commit
     * is KZ_CONFLICT. Nothing put in it is seen before. */
    enum kz_code (*begin)(
            struct kz_store *store, struct kz_store_txn **ret_txn, struct kz_err *err);
    /* Fills `state` of each of `users` (owner set); good until the transaction's end. */
    enum kz_code (*read_users)(struct kz_store_txn *txn, struct kz_store_user *users, size_t count,
            struct kz_err *err);
    /* Which of `ids` are there. */
    enum kz_code (*read_ids)(struct kz_store_txn *txn, const struct kz_store_id *ids, size_t count,
            bool *ret_there, struct kz_err *err);
    /* Ends the transaction in any case. KZ_TOO_LARGE: more than KZ_STORE_ROWS_MAX, or than the store
     * takes at once (100 MB). An answer that was lost (KZ_TIMEOUT, KZ_UNAVAILABLE) leaves open
     * whether it was committed: begin again, the ids tell. */
    enum kz_code (*commit)(
            struct kz_store_txn *txn, const struct kz_store_commit *commit, struct kz_err *err);
    void (*rollback)(struct kz_store_txn *txn); /* takes NULL */
    /* After a failure of the calling thread's: how many ms it best waits before it begins again. What
     * the service asked for, or a back-off with jitter that grows until a commit succeeds. */
    int64_t (*retry_ms)(struct kz_store *store);

    /* Users outside a transaction, newest committed state; as read_users(). The bytes are in `out`. */
    enum kz_code (*users)(struct kz_store *store, struct kz_store_user *users, size_t count,
            struct kz_buf *out, struct kz_err *err);
    /* A user's records by key range, strong reads: everything committed before the call. get() finds
     * by (owner, lsn). scan_all() goes by time (lsn), for datasets; it may read everything. */
    struct kz_history_reader *(*reader)(struct kz_store *store);

    /* When an event was committed: the commit's now_ms. */
    enum kz_code (*stored_ms)(struct kz_store *store, kz_lsn lsn, uint64_t owner, int64_t *ret_ms,
            struct kz_err *err);

    /* Timers due at `now_ms`, earliest first, at most `max`, of those whose owner % `part_count` is
     * `part` (0 of 1: all). `ret_next_ms`: the next one behind them is not due before it: at the
     * latest then ask again; INT64_MAX: there is none. Others put timers meanwhile, so ask sooner. */
    enum kz_code (*due)(struct kz_store *store, int64_t now_ms, unsigned part, unsigned part_count,
            size_t max, struct kz_store_timer *ret_timers, size_t *ret_count, int64_t *ret_next_ms,
            struct kz_err *err);
    /* Requests committed before `before_ms` (our clock) and still in the outbox; oldest first. Messages
     * are in `out`. */
    enum kz_code (*outbox)(struct kz_store *store, int64_t before_ms, size_t max,
            struct kz_store_request *ret_requests, size_t *ret_count, struct kz_buf *out,
            struct kz_err *err);
    /* They are published. */
    enum kz_code (*published)(struct kz_store *store, const struct kz_store_request *requests,
            size_t count, struct kz_err *err);

    /* Dead letters, newest (lsn) first, those below `before` (0: all), `max` of them and then those
     * with the lsn of the last. Records are in `out` (cleared first), one after the other at multiples
     * of 8; their seq is their lsn. */
    enum kz_code (*letters)(struct kz_store *store, kz_lsn before, size_t max, struct kz_buf *out,
            size_t *ret_count, struct kz_err *err);
    /* Removes the letters at these addresses, where they are there. */
    enum kz_code (*drop_letters)(
            struct kz_store *store, const kz_lsn *lsns, size_t count, struct kz_err *err);

    /* Forgets users: everything under these owners, in batches; `stone` (id hash) with `body` is kept
     * and keeps them away: it is there before anything goes. Can be run again after a failure. */
    enum kz_code (*erase)(struct kz_store *store, uint64_t stone, struct kz_str body,
            const uint64_t *owners, size_t owner_count, struct kz_err *err);
    /* The bodies of the tombstones of these hashes that are there, in `out`; empty where not. Whoever
     * asks between read_users() and commit() of the owners commits nothing of a user erased meanwhile:
     * the erasure is seen here, or the commit is KZ_CONFLICT, or the erasure takes what it put. */
    enum kz_code (*stones)(struct kz_store *store, const uint64_t *hashes, size_t count,
            struct kz_str *ret_bodies, struct kz_buf *out, struct kz_err *err);

    /* As kz_bus_ops.check and .create: schema there and of this version (KZ_UNSUPPORTED: newer). */
    enum kz_code (*check)(struct kz_store *store, struct kz_err *err);
    enum kz_code (*create)(struct kz_store *store, void (*say)(void *arg, const char *line),
            void *arg, struct kz_err *err);
    void (*stats)(struct kz_store *store, struct kz_store_stats *ret_stats);
    void (*close)(struct kz_store *store);
};
