/* log/kept.h -- a run of one user's events, packed: what a cache of histories holds (log/cache.h).
 *
 * A run is events that follow one another on their owner's chain, the newest first, each as
 * differences from the one before it (newer), and only those parts of it that somebody looks at.
 * An event of four columns of which a query sums one is some 30 bytes.
 *
 *     begin -> add* [-> join] -> a run's bytes -> seek -> prev*
 *
 * K1  The `prev` of each event of a run is the address of the next one, and that of the last is where
 *     the chain goes on behind the run.
 * K2  What a cursor gives has the same seq, times, session, flags and wanted parts as the record that
 *     was added, to the bit. All else is empty.
 *
 * Owner    the builder its bytes; a run is borrowed by cursors.
 * Threads  one.
 * Fails    never: what cannot be added ends the run.
 */
#pragma once

#include "base/arena.h"
#include "contract/history.h"

enum { KZ_KEPT_RUN_BYTES_MAX = 64 << 10 }; /* packed; the rest of a longer one is read */

/* What the next event is told as a difference from. */
struct kz_kept_state {
    kz_lsn next; /* the address of the next event */
    uint64_t seq;
    int64_t at_ms;
    uint64_t session;
    uint32_t columns_id;
    uint16_t project;
    uint8_t flags, identity;
};

struct kz_kept_run {
    uint64_t owner;
    kz_lsn newest, oldest;
    kz_lsn behind; /* `prev` of the oldest; 0: the chain ends */
    uint32_t count;
    uint32_t size;
    bool ended; /* what lies behind cannot be added: it would be too much, or is no event */
    const char *bytes;
};

/* ---- writing -------------------------------------------------------------------------------- */

struct kz_kept_build {
    uint64_t owner;
    kz_lsn newest, oldest;
    uint32_t count;
    bool ended; /* nothing more can be added */
    struct kz_kept_state state;
    struct kz_buf bytes; /* owned; kept from one run to the next */
};

void kz_kept_begin(struct kz_kept_build *build, uint64_t owner);
void kz_kept_build_done(struct kz_kept_build *build);
/* Adds the event at `lsn`. What does not follow the last one, is no event or too much ends the run. */
void kz_kept_add(struct kz_kept_build *build, const struct kz_event_parts *parts, kz_lsn lsn,
        const struct kz_record *record);
/* Adds the first `count` events of a run of the same owner and parts. */
void kz_kept_join(struct kz_kept_build *build, const struct kz_event_parts *parts,
        const struct kz_kept_run *run, uint32_t count);
/* Borrowed from the build until the next call on it. */
struct kz_kept_run kz_kept_built(const struct kz_kept_build *build);

/* ---- reading -------------------------------------------------------------------------------- */

struct kz_kept_cursor {
    const struct kz_kept_run *run;
    const struct kz_event_parts *parts;
    const char *at;
    uint32_t passed; /* events given or skipped */
    struct kz_kept_state state;
};

/* Stands before the newest event at or before `lsn`. False: none is. */
bool kz_kept_seek(struct kz_kept_cursor *cursor, const struct kz_kept_run *run,
        const struct kz_event_parts *parts, kz_lsn lsn);
/* The next older event as a record in `arena`, by way of `scratch`; NULL after the oldest. */
const struct kz_record *kz_kept_prev(struct kz_kept_cursor *cursor, struct kz_buf *scratch,
        struct kz_arena *arena, kz_lsn *ret_lsn);
