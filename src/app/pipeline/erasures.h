/* app/pipeline/erasures.h -- who was erased, kept beside the log so that it outlives it.
 *
 * An erasure is a record of the log, and a backup made before it knows nothing of it. This file does:
 * `restore` keeps it, and a start erases again whom it names and the log does not. It holds salted
 * hashes and times only. A backup has a copy.
 *
 *     kizashi-erasures 1 PROJECT
 *     ID_HASH ASKED_MS CRC           16 hex digits, decimal, 8 hex digits of CRC-32C over what is before
 *
 * Lines are added at the end and synced; a damaged one, or one cut off by a crash, is passed over.
 *
 * Threads  whoever has the data directory's lock; a copy may be made beside.
 * Fails    KZ_NOT_FOUND where there is no such file, KZ_CONFLICT where it is another project's,
 *          KZ_CORRUPT where it is something else.
 */
#pragma once

#include "base/buf.h"
#include "sys/file.h"

#define KZ_ERASURES_NAME "erasures"

struct kz_erasure {
    uint64_t id_hash; /* kz_pl_tombstone_hash() */
    int64_t asked_ms;
};

/* Appends every struct kz_erasure of the file to `out`. */
KZ_MUST_USE enum kz_code kz_erasures_read(struct kz_fs *fs, const char *path, const char *project,
        struct kz_buf *out, struct kz_err *err);
/* The project the file is of, into `out`. */
KZ_MUST_USE enum kz_code kz_erasures_project(
        struct kz_fs *fs, const char *path, char out[64], struct kz_err *err);
/* Adds them to the file, which is made if need be; durable when it returns. */
KZ_MUST_USE enum kz_code kz_erasures_add(struct kz_fs *fs, const char *path, const char *project,
        const struct kz_erasure *erasures, size_t count, struct kz_err *err);
/* The file of one data directory to another, where there is one. */
KZ_MUST_USE enum kz_code kz_erasures_copy(
        struct kz_fs *fs, const char *from_dir, const char *to_dir, struct kz_err *err);
/* By hash, then by time; for qsort and bsearch. */
int kz_erasures_order(const void *a, const void *b);
