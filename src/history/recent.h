/* history/recent.h -- recent histories of users, kept in memory before a reader that is far away.
 *
 * A request is about events that have just been committed. kz_recent_fetch() brings the history of
 * its user up to it: with a read of what is new since the last one, or none where that was behind the
 * request already; many threads may fetch at once. The reader given then answers from memory, so
 * that whoever computes features does not wait for a network.
 *
 *     fetch (blocks, any thread) -> [kept] -> reader's scan (does not block where it was fetched)
 *
 * Invariants
 *   H1  read-your-own-event: what is kept counts as complete up to an address only if it was read,
 *       strongly, after all up to that address had been committed (the caller of fetch() vouches).
 *   H2  a scan gives what the reader behind would have given; where what is kept cannot tell, that
 *       one is asked.
 *   H3  what is kept never changes: a longer history is a new one, and rows given out hold theirs.
 *
 * Addresses of one user never fall from one commit to the next, so whoever sees a record sees all
 * of that user before it.
 *
 * Threads  any.
 * Fails    as the reader behind.
 */
#pragma once

#include "contract/history.h"

struct kz_recent;

struct kz_recent_options {
    struct kz_history_reader *behind; /* borrowed; its scans are strong reads */
    uint64_t bytes_max;               /* kept in all; 0: 64 MiB. The longest unused go first */
    int64_t age_max_ms; /* one that was not read for so long is read anew: what retention and erasure
                          * took goes here too; 0: 10 min */
    bool actions;       /* somebody asks for what actions did: it is kept as well */
};

struct kz_recent *kz_recent_new(const struct kz_recent_options *options);
void kz_recent_free(struct kz_recent *recent);
KZ_DEFINE_FREEP(struct kz_recent, kz_recent_free)

/* Makes a scan with `query` one that needs no read. Everything at or before `query->as_of` has been
 * committed; UINT64_MAX: whatever is there now. `ret_seen` (may be NULL): all up to there is known; a
 * scan as of it, or with that head of the user's own run, is answered from memory. `query->after` is not
 * looked at. */
KZ_MUST_USE enum kz_code kz_recent_fetch(struct kz_recent *recent,
        const struct kz_history_query *query, kz_lsn *ret_seen, struct kz_err *err);
/* Forgets a user (erased). */
void kz_recent_forget(struct kz_recent *recent, uint64_t owner);

/* The first source of a query is the user's own run. get() and scan_all() go behind. */
struct kz_history_reader *kz_recent_reader(struct kz_recent *recent);
/* The same, but a scan that would need a read is KZ_UNAVAILABLE: for who must not wait. */
struct kz_history_reader *kz_recent_memory(struct kz_recent *recent);

struct kz_recent_stats {
    uint64_t hits;      /* fetches that needed no read */
    uint64_t extended;  /* that read what was new only */
    uint64_t read;      /* that read all */
    uint64_t passed_on; /* scans that were answered from behind */
    uint64_t rows_read, dropped;
    uint64_t read_us_total;
    uint64_t users, bytes; /* kept now */
};
void kz_recent_stats(struct kz_recent *recent, struct kz_recent_stats *ret_stats);
