/* log/log_int.h -- what log.c, reader.c, recover.c, the sealer and sealed segments share.
 *
 *     log.c      writer: append, commit, roll; open and close
 *     sync.c     the sync thread
 *     space.c    the next segment, prepared ahead; the disk reserve
 *     recover.c  open: finds the end of the log, cuts or refuses
 *     segment.c  a raw segment's file; views (lists of segments)
 *     reader.c   kz_history_reader over a view
 *     cache.c    what is kept of histories for it
 *     sealed.c   a sealed segment's file (sealed.h); sealed_pool.c what its readers borrow
 *     sealer.c   kz_log_seal(), kz_log_drop(): make sealed segments, replace and drop
 */
#pragma once

#include "base/arena.h"
#include "log/keyfilter.h"
#include "log/sealed.h"
#include "log/segment.h"
#include "sys/thread.h"

/* ---- what the log offers the sealer ----------------------------------------------------------- */

/* A snapshot of all segments, counted for the caller. Any thread. */
struct kz_log_view *kz_log_get_view(struct kz_log *log);
struct kz_fs *kz_log_fs(const struct kz_log *log);
const char *kz_log_dir(const struct kz_log *log);
const uint8_t *kz_log_id(const struct kz_log *log); /* 16 bytes; goes into sealed headers */
/* One upkeep call at a time: seal, drop and backup hold this from begin to end. */
void kz_log_lock_upkeep(struct kz_log *log);
void kz_log_unlock_upkeep(struct kz_log *log);
/* Whether segment `number` is complete and durable to its end, so that it may be sealed or dropped:
 * never the one being written. */
bool kz_log_is_complete(const struct kz_log *log, uint32_t number);

/* To be called when kz_sealed_writer_finish() has made "%08x.kzs" durable: opens it and publishes it
 * in place of the segment of that number, raw or an older sealed one. A raw file that it replaces is
 * unlinked; after a crash in between recovery prefers the sealed one and unlinks the raw one. The
 * old segment stays readable through views taken before. `upkeep` is held by the caller. */
KZ_MUST_USE enum kz_code kz_log_replace_segment(
        struct kz_log *log, uint32_t number, struct kz_err *err);
/* Takes the oldest segment out of the list and unlinks its file, durably, so that the files that
 * are left are always a run of numbers without a gap. `upkeep` is held by the caller. Also counts it
 * in the stats. Never the one being written (asserted). */
KZ_MUST_USE enum kz_code kz_log_drop_oldest(struct kz_log *log, struct kz_err *err);

/* ---- the log itself: members are for log.c, sync.c, space.c, recover.c, reader.c, backup.c ---- */

enum { KZ_LOG_MAGIC = 0x676f4c6b };
/* So much may be written and not yet durable; commit waits beyond it. Recovery need look no further
 * than this behind the end of the log, and a longer run of zeros ends the look. */
#define KZ_LOG_UNSYNCED_MAX_BYTES ((uint64_t)2 * KZ_LOG_FRAME_SIZE_MAX)

struct kz_scan;

struct kz_log {
    uint32_t magic;
    struct kz_history_reader reader;
    struct kz_log_options options;
    struct kz_fs *fs;
    char *dir;
    uint8_t id[16];
    struct kz_file *lock_file; /* NULL where read-only */
    struct kz_sealed_pool *pool;
    pthread_mutex_t upkeep;

    /* The writer's. */
    struct kz_segment *current; /* the last of the view; counted here too */
    char *staged;               /* a frame being built, KZ_LOG_FRAME_SIZE_MAX bytes of room */
    uint32_t staged_size;       /* 0: nothing, not even the frame's header */
    uint32_t staged_count;
    uint64_t seq_next;
    bool roll_wanted;
    uint32_t next_asked;             /* number of the segment that space.c was last asked for */
    struct kz_log_view *writer_view; /* what find_key looks through, taken anew when it changed */
    uint64_t writer_view_change;
    struct kz_keyfilter keys;        /* of all segments, as far as it reaches */
    _Atomic(uint64_t) writer_thread; /* the one that stages, for reads of what is staged */

    /* The list of segments; also the pool of scans. */
    pthread_mutex_t table_lock;
    struct kz_log_view *view;
    _Atomic uint64_t view_change; /* counts publications */
    struct kz_scan *idle_scans;
    unsigned idle_scan_count;

    /* Progress. end >= durable; both move up only. */
    _Atomic kz_lsn end, durable;
    _Atomic uint64_t seq_last;
    _Atomic uint64_t end_bytes,
            durable_bytes; /* the same as counts of bytes, to bound the difference */

    /* sync.c */
    pthread_mutex_t sync_lock;
    pthread_cond_t sync_wanted; /* the sync thread sleeps on it */
    pthread_cond_t sync_done;   /* whoever waits for durability */
    bool sync_stop;
    _Atomic bool sync_sleeping;
    _Atomic unsigned sync_waiters;
    struct kz_thread sync_thread;
    _Atomic bool failed; /* the log has stopped; `failure` says why */
    struct kz_err failure;

    /* space.c, under space_lock unless atomic */
    pthread_mutex_t space_lock;
    pthread_cond_t space_wanted, space_changed;
    bool space_stop;
    bool next_wanted;
    bool next_urgent; /* the writer waits for it */
    uint32_t next_number;
    uint32_t next_keys;      /* a guess at how many it will have; 0: none */
    struct kz_segment *next; /* zeros, durable, not in the view yet */
    enum kz_code next_rc;    /* of the last attempt to make it */
    struct kz_err next_err;
    struct kz_segment *leaving; /* by `leaving_next` */
    bool has_reserve;
    _Atomic bool no_space;
    int64_t space_checked_ms;
    struct kz_thread space_thread;

    /* Statistics; each has one writer. */
    _Atomic uint64_t commits, bytes, syncs, sync_us_total;
    _Atomic uint32_t sync_us_last, sync_us_max;
    _Atomic uint64_t dropped_segments;

    /* Sealed segments that were written anew without somebody; behind the view that has them. */
    _Atomic uint64_t rewrites;
    /* Of all caches of histories, and all scans; each adds to them. */
    _Atomic uint64_t cached_bytes, cache_dropped;
    _Atomic uint64_t events_unsealed, events_cached, events_packed;
};

/* Stops the log for good; the first reason stays. Any thread. */
void kz_log_stop(struct kz_log *log, const struct kz_err *err);
/* Puts `view` (taken) in place of the list. */
void kz_log_publish(struct kz_log *log, struct kz_log_view *view);

/* recover.c: fills view, current, id, seq_next, end and durable of a log that is being opened. */
KZ_MUST_USE enum kz_code kz_log_recover(
        struct kz_log *log, struct kz_log_recovery *ret_recovery, struct kz_err *err);
/* log.c: makes `seg` (zeros, taken) the current one behind `prev` (NULL: the first). */
KZ_MUST_USE enum kz_code kz_log_begin_segment(struct kz_log *log, struct kz_segment *seg,
        const struct kz_segment *prev, struct kz_err *err);

/* sync.c */
KZ_MUST_USE enum kz_code kz_sync_start(struct kz_log *log, struct kz_err *err);
void kz_sync_join(struct kz_log *log); /* what is committed is synced first */
/* Everything up to `end` is to become durable; inline where the options say so. */
KZ_MUST_USE enum kz_code kz_sync_request(struct kz_log *log, struct kz_err *err);
/* Blocks until at most `bytes_max` are written and not durable. */
KZ_MUST_USE enum kz_code kz_sync_wait(struct kz_log *log, uint64_t bytes_max, struct kz_err *err);

/* space.c */
KZ_MUST_USE enum kz_code kz_space_start(struct kz_log *log, struct kz_err *err);
void kz_space_join(struct kz_log *log);
/* How large segment `number` is to be. */
uint64_t kz_space_segment_size(const struct kz_log *log, uint32_t number);
/* Asks for segment `number` ahead of need, with a table for so many keys. Writer. */
void kz_space_want(struct kz_log *log, uint32_t number, uint32_t key_count);
/* Takes segment `number`, waiting until it is prepared. KZ_NO_SPACE: there is none. Writer. */
KZ_MUST_USE enum kz_code kz_space_take(
        struct kz_log *log, uint32_t number, struct kz_segment **ret_seg, struct kz_err *err);
/* `seg` is in no view from now on. It is closed by the space thread once nobody reads it any more:
 * closing a file that has lost its name frees its pages and blocks, tens of milliseconds for 256
 * MiB, and the last to let go may be the writer. */
void kz_space_leave(struct kz_log *log, struct kz_segment *seg);
/* Whether intake is refused. */
bool kz_space_is_short(struct kz_log *log);

/* reader.c */
extern const struct kz_history_reader_ops kz_log_reader_ops;
void kz_scans_free(struct kz_log *log);
