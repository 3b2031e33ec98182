/* codec/zstd.h -- zstd blocks (RFC 8878), with or without a trained dictionary.
 *
 * Owner    the handle keeps its own copy of the dictionary and reuses its work space.
 * Threads  one handle, one thread at a time; a prepared dictionary any.
 * Fails    KZ_CORRUPT for what does not decompress, KZ_TOO_LARGE past the limit.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

struct kz_zstd;

/* `dictionary` may be empty. `level` as zstd has it (negative: faster). `size_typical` is how much is
 * compressed at a time, so that the compressor's table is no larger than pays: zstd takes 128 KiB
 * for anything up to 16 KiB, and looks up all over it; 0: its own choice. NULL where the dictionary
 * is refused. No checksum and no content of the dictionary in the frames. */
struct kz_zstd *kz_zstd_new(struct kz_str dictionary, int level, size_t size_typical);
void kz_zstd_free(struct kz_zstd *zstd);
KZ_DEFINE_FREEP(struct kz_zstd, kz_zstd_free)

/* Appends one frame, which says its own size. */
KZ_MUST_USE enum kz_code kz_zstd_compress(
        struct kz_zstd *zstd, struct kz_str data, struct kz_buf *buf, struct kz_err *err);
/* Appends the contents of one frame, at most `size_max_bytes`. Nothing is appended on failure. */
KZ_MUST_USE enum kz_code kz_zstd_decompress(struct kz_zstd *zstd, struct kz_str frame,
        size_t size_max_bytes, struct kz_buf *buf, struct kz_err *err);

/* A dictionary made ready for decompressing, which any number of threads may do with it at once. */
struct kz_zstd_dictionary;
/* Keeps a copy. NULL where zstd refuses it. */
struct kz_zstd_dictionary *kz_zstd_dictionary_new(struct kz_str dictionary);
void kz_zstd_dictionary_free(struct kz_zstd_dictionary *dictionary);
/* kz_zstd_decompress() with this dictionary instead of the handle's own; NULL: with that. */
KZ_MUST_USE enum kz_code kz_zstd_decompress_with(struct kz_zstd *zstd,
        const struct kz_zstd_dictionary *dictionary, struct kz_str frame, size_t size_max_bytes,
        struct kz_buf *buf, struct kz_err *err);
/* Makes a dictionary of `content`, what frames will refer to, and of statistics: how often literals,
 * lengths and distances are what in `count` samples that lie behind one another in `samples`.
 * Nothing else of the samples is in it. Appends at most `size_max_bytes`. KZ_INVALID where there is
 * too little of either. */
KZ_MUST_USE enum kz_code kz_zstd_make_dictionary(struct kz_str content, struct kz_str samples,
        const size_t *sizes, unsigned count, int level, size_t size_max_bytes, struct kz_buf *buf,
        struct kz_err *err);
