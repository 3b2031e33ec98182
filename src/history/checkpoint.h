/* history/checkpoint.h -- the views as a file, so that a start replays only what came after.
 *
 *     ckpt-<seq, 16 hex digits>.kzc = header, sections (raw copies of the views' memory), footer
 *
 * Every part has a CRC-32C. A checkpoint is written beside its name, synced and renamed, so it is
 * there as a whole or not at all; the newest two are kept.
 *
 * Threads  save: the views' owner; it only reads them.
 * Fails    KZ_IO, KZ_NO_SPACE, KZ_UNAVAILABLE (cancelled): the older checkpoints stay as they were.
 */
#pragma once

#include <stdatomic.h>

#include "history/views.h"
#include "sys/file.h"

enum { KZ_CHECKPOINT_VERSION = 3 };

struct kz_checkpoint_info {
    struct kz_log_mark mark; /* the first record that has to be replayed is at or after it */
    uint64_t seq;            /* last record that is in */
    uint64_t size_bytes;
    /* load: where the one before it begins, which a start falls back to should this one be no good
     * then; its own position where there is none. The log is needed as it is from here on. */
    kz_lsn position_before;
    bool fell_back; /* load: the newest one was no good; `warning` says why */
    char warning[400];
};

/* Writes the views as they are. Everything applied to them must be durable in the log first: a
 * checkpoint must not know what a power cut takes back (wait for kz_log_durable() to pass
 * kz_views_lsn(), or sync before the call). `mark` is the log's end at that moment; the seq is the
 * views'. `project` is a project's name; `ret_info` may be NULL, and so may `cancel`: true cuts it
 * short. */
KZ_MUST_USE enum kz_code kz_checkpoint_save(struct kz_fs *fs, const char *dir,
        const struct kz_views *views, const struct kz_log_mark *mark, const char *project,
        const atomic_bool *cancel, struct kz_checkpoint_info *ret_info, struct kz_err *err);

/* Loads the newest checkpoint that is whole. KZ_NOT_FOUND: there is none, or none but of older
 * formats: replay from the start. KZ_CORRUPT: there are some and none is whole. KZ_UNSUPPORTED:
 * written by a newer Kizashi.
 * KZ_CONFLICT: of another project. The last two are final: no older file is tried.
 * `dead_letters_max` as in kz_views_new(). */
KZ_MUST_USE enum kz_code kz_checkpoint_load(struct kz_fs *fs, const char *dir, const char *project,
        uint32_t dead_letters_max, struct kz_views **ret_views, struct kz_checkpoint_info *ret_info,
        struct kz_err *err);

/* Removes all checkpoints: they are of another log. The newest by name would be kept for ever where
 * that one had more records. */
KZ_MUST_USE enum kz_code kz_checkpoint_forget(
        struct kz_fs *fs, const char *dir, struct kz_err *err);
