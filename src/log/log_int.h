/* log/log_int.h -- what log.c, reader.c, recover.c, the sealer and sealed segments share.
 *
 *     log.c      writer: append, commit, roll; the sync thread; the disk reserve
 *     recover.c  open: finds the end of the log, cuts or refuses
 *     segment.c  a raw segment's file; views (lists of segments)
 *     reader.c   kz_history_reader over a view
 *     sealed.c   a sealed segment's file (only through the functions below)
 *     sealer.c   kz_log_seal(), kz_log_drop(): make sealed segments, replace and drop
 */
#pragma once

#include "base/arena.h"
#include "log/segment.h"

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

/* Publishes `seg` (sealed; the reference is taken also on failure) in place of the segment of the
 * same number. The caller has made its file durable under its final name (written as "<name>.tmp",
 * synced, renamed, directory synced). A raw file that it replaces is unlinked here; after a crash in
 * between recovery prefers the sealed one and unlinks the raw one. The old segment stays readable
 * through views taken before. */
KZ_MUST_USE enum kz_code kz_log_replace_segment(struct kz_log *log, struct kz_segment *seg,
        struct kz_err *err);
/* Takes the oldest segment out of the list and unlinks its file, durably, so that the files that
 * are left are always a run of numbers without a gap. */
KZ_MUST_USE enum kz_code kz_log_drop_oldest(struct kz_log *log, struct kz_err *err);

/* ---- what sealed.c offers the log ------------------------------------------------------------- */
/* A sealed segment is read through bytes that the segment has mapped; it owns no file. Any thread,
 * each call on its own. Records handed out are 8-byte aligned and either in the mapping or in
 * the caller's arena, so they last as long as view and arena. All addresses are the original ones. */

/* Checks header, footer and index (not every block) of segment `number`. */
KZ_MUST_USE enum kz_code kz_sealed_open(const char *path, const void *data, uint64_t size,
        uint32_t number, struct kz_sealed **ret_sealed, struct kz_err *err);
void kz_sealed_close(struct kz_sealed *sealed); /* NULL is nothing */
/* Fills all but `current`. */
void kz_sealed_info(const struct kz_sealed *sealed, struct kz_log_segment_info *ret_info);
const uint8_t *kz_sealed_log_id(const struct kz_sealed *sealed);

/* The newest at most `count_max` records of `owner` on `chain` with address <= `newest`, newest
 * first, into records[] and lsns[]. None: *ret_count is 0 and the chain ends here (erased). */
KZ_MUST_USE enum kz_code kz_sealed_owner(const struct kz_sealed *sealed, uint64_t owner,
        enum kz_chain chain, kz_lsn newest, size_t count_max, struct kz_arena *arena,
        const struct kz_record **records, kz_lsn *lsns, size_t *ret_count, struct kz_err *err);
/* Every record with from <= lsn < until in address order; `each` as in kz_segment_each(). */
KZ_MUST_USE enum kz_code kz_sealed_each(const struct kz_sealed *sealed, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err);
/* Appends the record at `lsn` to `out`. `owner` 0: not known. KZ_NOT_FOUND. */
KZ_MUST_USE enum kz_code kz_sealed_get(const struct kz_sealed *sealed, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err);
/* Filter first, then the records: is there one with `key` (and `owner`, unless 0) that `match`es,
 * the newest first? */
KZ_MUST_USE enum kz_code kz_sealed_find_key(const struct kz_sealed *sealed, uint64_t key,
        uint64_t owner, bool (*match)(void *arg, const struct kz_record *record), void *arg,
        bool *ret_found, struct kz_err *err);
/* Every checksum, the order of the index, the filter; problems go to `report`, one line each. The
 * records themselves fsck.c checks through kz_sealed_each(). KZ_CORRUPT where there was any. */
KZ_MUST_USE enum kz_code kz_sealed_fsck(const struct kz_sealed *sealed,
        void (*report)(void *arg, const char *line), void *arg, struct kz_err *err);
