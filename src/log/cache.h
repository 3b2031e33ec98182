/* log/cache.h -- kz_history_cache of the log: events of users out of sealed segments, kept.
 *
 * A user's last events lie in as many sealed segments as there are while they happen, and each costs
 * a block to find, to check and to decompress. Whoever asks about the same users again and again
 * (the thread that computes features) keeps them, packed (log/kept.h): a run for each owner, and the
 * owners not asked about for longest go first.
 *
 * C1  A run is only what was read out of sealed segments, so it never changes, but by erasure: a
 *     segment that is rewritten without somebody is counted (kz_log.rewrites), and then nothing that
 *     is kept is believed any more. The count is taken before the view that a scan reads through.
 * C2  Retention: the reader leaves out what lies before its view's first segment.
 * C3  A run that goes is overwritten. That of an erased user goes when they are forgotten, which is
 *     long before their segments are rewritten; what is asked of them later is not to be kept.
 * C4  `bytes_max` bounds the runs with the table over them. What scans pack them in is their own.
 *
 * Threads  one; the statistics of the log that it adds to, any.
 */
#pragma once

#include "log/kept.h"

struct kz_log;
struct kz_kept; /* a run in the cache */

struct kz_history_cache *kz_cache_new(
        struct kz_log *log, const struct kz_event_parts *parts, uint64_t bytes_max);
void kz_cache_free(struct kz_history_cache *cache);
const struct kz_event_parts *kz_cache_parts(const struct kz_history_cache *cache);
/* To be called before a scan takes its view: forgets everything where C1 says so. */
void kz_cache_begin(struct kz_history_cache *cache);

/* NULL: nothing is kept of them. Borrowed until the next put() or begin(). */
struct kz_kept *kz_cache_find(struct kz_history_cache *cache, uint64_t owner);
const struct kz_kept_run *kz_cache_run(const struct kz_kept *kept);
/* How many of its events, from the newest on, scans have made use of; of them none is dropped when
 * newer ones are put before them. */
uint32_t kz_cache_depth(const struct kz_kept *kept);
void kz_cache_used(struct kz_kept *kept, uint32_t depth);
/* Copies `run` in place of what is kept of its owner, and lets others go to make room. */
void kz_cache_put(struct kz_history_cache *cache, const struct kz_kept_run *run);
/* Drops what is kept of an owner. */
void kz_cache_forget(struct kz_history_cache *cache, uint64_t owner);
