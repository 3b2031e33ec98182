/* log/log.h -- the one log: segments of checksummed frames, one writer, group commit.
 *
 * A turn of the pipeline stages records (append), writes them as one frame (commit), and learns
 * later that they are durable. Everything of one frame is there after a crash, or nothing of it.
 *
 *     append* -> commit -> [written: readable by address] -> sync thread: fdatasync -> on_durable
 *
 * Owner    the pipeline; readers hold views.
 * Threads  append, commit, roll, get_staged, find_key: the writer only, one thread from a
 *          frame's first record to its commit (asserted). Reads and upkeep: any thread. on_durable is
 *          called on the sync thread after each sync, and once when one fails; it must only wake
 *          somebody, who asks kz_log_durable() and kz_log_health().
 * Life     open (recovers, cuts a torn tail), use, close (commits nothing, joins threads).
 * Fails    KZ_IO from commit or kz_log_health() stops the log for good: nothing is acknowledged
 *          after a failed fsync. KZ_NO_SPACE from append: intake must refuse; records marked
 *          `reserved` still go in, from the reserve.
 */
#pragma once

#include "contract/history.h"
#include "sys/file.h"

struct kz_log;
struct kz_log_view;

enum { KZ_LOG_FRAME_SIZE_MAX = 8 << 20 };

struct kz_log_options {
    struct kz_fs *fs;
    const char *dir;             /* made if absent */
    uint64_t segment_size_bytes; /* 0: 256 MiB */
    uint64_t reserve_bytes;      /* 0: none (tests) */
    uint64_t keys_bytes_max;     /* memory of the filter over all keys; 0: 256 MiB */
    /* What a checkpoint covers, 0 for nothing: segments wholly below are not verified again, a log
     * that ends before it is refused as corrupt, and one that was another there with KZ_CONFLICT,
     * nothing changed. */
    struct kz_log_mark covered;
    int64_t behind_ms; /* the most that ts lies before at_ms (max_behind); 0: 24 h */
    bool read_only;    /* sql, dump, backup beside a running process: no lock, no repair */
    bool sync_inline;  /* tests, virtual time: commit returns durable, no sync thread */
    void (*on_durable)(void *arg);
    void *arg;
};

/* What open found; for status, fsck and the log line at start. */
struct kz_log_recovery {
    uint64_t seq_last;
    kz_lsn end;          /* where the next frame goes */
    uint64_t torn_bytes; /* cut off the tail */
    size_t segment_count;
    size_t sealed_count;
};

KZ_MUST_USE enum kz_code kz_log_open(const struct kz_log_options *options, struct kz_log **ret_log,
        struct kz_log_recovery *ret_recovery, struct kz_err *err);
void kz_log_close(struct kz_log *log);
KZ_DEFINE_FREEP(struct kz_log, kz_log_close)

/* What a record is to become; seq, size and address are the log's to give. */
struct kz_log_entry {
    enum kz_record_type type;
    uint8_t flags;
    bool reserved; /* may use the disk reserve: results, decisions, erasure, control */
    uint64_t owner;
    kz_lsn prev;
    uint64_t key;
    int64_t at_ms;
    struct kz_str body;
};

/* Stages a record (body copied). KZ_FULL: commit first, then again. KZ_NO_SPACE as above;
 * KZ_TOO_LARGE: over the frame limit. */
KZ_MUST_USE enum kz_code kz_log_append(struct kz_log *log, const struct kz_log_entry *entry,
        kz_lsn *ret_lsn, uint64_t *ret_seq, struct kz_err *err);
/* The record at an address the writer itself was given, staged or in a raw segment; valid until the
 * next commit. NULL where it is neither. */
const struct kz_record *kz_log_get_staged(struct kz_log *log, kz_lsn lsn);
/* Writes what is staged as one frame and asks for a sync. Nothing staged: nothing happens. */
KZ_MUST_USE enum kz_code kz_log_commit(struct kz_log *log, struct kz_err *err);
bool kz_log_has_staged(const struct kz_log *log);
/* Bytes (records with headers and padding) that can still be staged before KZ_FULL. Whoever has a
 * group of records that must not be parted commits first where this is less. */
uint64_t kz_log_room(const struct kz_log *log);

/* Everything at addresses below this is on disk. Any thread. */
kz_lsn kz_log_durable(const struct kz_log *log);
/* Where the next record will be at the earliest: all committed records are below it. */
kz_lsn kz_log_end(const struct kz_log *log);
/* The end as a mark. Writer only. */
struct kz_log_mark kz_log_mark(const struct kz_log *log);
uint64_t kz_log_seq_last(const struct kz_log *log);
/* KZ_OK, or why the log has stopped. Any thread. */
enum kz_code kz_log_health(const struct kz_log *log, struct kz_err *err);
/* Whether intake is refused for want of disk; tries again by itself as room appears. */
bool kz_log_no_space(struct kz_log *log);
/* Blocks until everything committed is durable (shutdown, tests). */
KZ_MUST_USE enum kz_code kz_log_wait(struct kz_log *log, struct kz_err *err);

/* ---- reading -------------------------------------------------------------------------------- */

/* A history reader over the log, living as long as it does; any thread may use it. It sees what is
 * committed, durable or not; the writer's own scans also see what it has staged (rows that it has
 * to release before it commits). A chain ends where retention or erasure has taken the rest. */
struct kz_history_reader *kz_log_reader(struct kz_log *log);

/* Newest record with this filter key that satisfies `match`, over everything written and staged
 * whose segment has something at or after `since_ms` (our clock). Writer only. `owner` restricts
 * to that owner's records in sealed segments. */
KZ_MUST_USE enum kz_code kz_log_find_key(struct kz_log *log, uint64_t key, uint64_t owner,
        int64_t since_ms, bool (*match)(void *arg, const struct kz_record *record), void *arg,
        bool *ret_found, struct kz_err *err);

/* Begins to fetch what kz_log_find_key() and kz_log_append() will look at: called some records
 * ahead, it hides their cache misses. Writer only. */
void kz_log_prefetch_key(struct kz_log *log, uint64_t key);

/* ---- upkeep (each can run while the log is written) ------------------------------------------ */

/* Ends the current segment at the next commit. */
void kz_log_roll(struct kz_log *log);
/* Seals complete segments wholly below `below` into user-sorted compressed ones, one call at most
 * `segments_max`; called from a background thread. Records of owners in `erased` are left out, and
 * already sealed segments below `below` that hold some are rewritten. Who was erased and came back
 * keeps what came since: records at or behind their `erased_below` stay. */
struct kz_log_seal {
    kz_lsn below;
    unsigned segments_max;
    const uint64_t *erased;     /* sorted owners, each once, or NULL */
    const kz_lsn *erased_below; /* one for each; NULL: all of their records go */
    size_t erased_count;
    unsigned ret_sealed;    /* out */
    unsigned ret_rewritten; /* out */
};
KZ_MUST_USE enum kz_code kz_log_seal(
        struct kz_log *log, struct kz_log_seal *seal, struct kz_err *err);
/* Drops whole segments, oldest first, below `below`. What is live in them has been carried. */
KZ_MUST_USE enum kz_code kz_log_drop(struct kz_log *log, kz_lsn below, struct kz_err *err);

struct kz_log_segment_info {
    uint32_t number;
    bool sealed;
    bool current;
    uint64_t disk_bytes;
    uint64_t raw_bytes;
    uint64_t seq_first, seq_last;
    int64_t at_first_ms, at_last_ms;
    uint64_t event_count;
};
/* A copy of the list of segments, oldest first; free() it. */
struct kz_log_segment_info *kz_log_segments(struct kz_log *log, size_t *ret_count);

struct kz_log_stats {
    uint64_t commits, records, bytes, syncs, sync_us_total;
    uint32_t sync_us_last, sync_us_max;
    uint64_t sealed_segments, dropped_segments;
    uint64_t keys_bytes;            /* of the filter over all keys; the writer's, as the next one */
    uint64_t keys_forgotten_total;  /* parts of it given up at keys_bytes_max: a duplicate of that
                                    * time costs a look a segment */
    uint64_t cached_bytes;          /* of what is kept of histories for those who ask again */
    uint64_t cache_dropped_total;   /* owners let go of, to make room */
    uint64_t events_unsealed_total; /* read by histories out of sealed segments */
    uint64_t events_cached_total;   /* and out of what is kept */
    uint64_t events_packed_total;   /* packed, anew or once more, to be kept */
};
void kz_log_stats(struct kz_log *log, struct kz_log_stats *ret_stats);
/* How often readers met damage in a sealed segment, and where last, unless never; may be NULL. */
uint64_t kz_log_damages(struct kz_log *log, char ret_last[KZ_PROBLEM_BYTES]);

/* Copies a consistent image up to the durable end into `dest` while the log is written. Calls
 * `progress` (may be NULL) with bytes done and all bytes. */
KZ_MUST_USE enum kz_code kz_log_backup(struct kz_log *log, const char *dest, kz_lsn *ret_end,
        void (*progress)(void *arg, uint64_t done, uint64_t all), void *arg, struct kz_err *err);

/* Verifies every checksum, every record's invariants, order of seq and chains of `prev`. Problems go
 * to `report`, one line each; the return is KZ_CORRUPT if there was any. */
KZ_MUST_USE enum kz_code kz_log_fsck(struct kz_fs *fs, const char *dir,
        void (*report)(void *arg, const char *line), void *arg, uint64_t *ret_records,
        struct kz_err *err);
