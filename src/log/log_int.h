/* log/log_int.h -- what log.c, reader.c, recover.c, the sealer and sealed segments share.
 *
 *     log.c      writer: append, commit, roll; the sync thread; the disk reserve
 *     recover.c  open: finds the end of the log, cuts or refuses
 *     segment.c  a raw segment's file; views (lists of segments)
 *     reader.c   kz_history_reader over a view
 *     sealed.c   a sealed segment's file (sealed.h)
 *     sealer.c   kz_log_seal(), kz_log_drop(): make sealed segments, replace and drop
 */
#pragma once

#include "base/arena.h"
#include "log/sealed.h"
#include "log/segment.h"

/* ---- what the log offers the sealer ----------------------------------------------------------- */

/* A snapshot of all segments, counted for the caller. Any thread. */
struct kz_log_view *kz_log_get_view(struct kz_log *log);
struct kz_fs *kz_log_fs(const struct kz_log *log);
const char *kz_log_dir(const struct kz_log *log);
const uint8_t *kz_log_id(const struct kz_log *log); /* 16 bytes; goes into sealed headers */
struct kz_sealed_pool *kz_log_pool(const struct kz_log *log);
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
KZ_MUST_USE enum kz_code kz_log_replace_segment(struct kz_log *log, uint32_t number,
        struct kz_err *err);
/* Takes the oldest segment out of the list and unlinks its file, durably, so that the files that
 * are left are always a run of numbers without a gap. `upkeep` is held by the caller. Also counts it
 * in the stats. Never the one being written (asserted). */
KZ_MUST_USE enum kz_code kz_log_drop_oldest(struct kz_log *log, struct kz_err *err);
