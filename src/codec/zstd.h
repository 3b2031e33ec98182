/* codec/zstd.h -- zstd blocks (RFC 8878), with or without a trained dictionary.
 *
 * Owner    the handle keeps its own copy of the dictionary and reuses its work space.
 * Threads  one handle, one thread at a time.
 * Fails    KZ_CORRUPT for what does not decompress, KZ_TOO_LARGE past the limit.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

struct kz_zstd;

/* `dictionary` may be empty. `level` as zstd has it (negative: faster). NULL where the dictionary
 * is refused. No checksum and no content of the dictionary in the frames. */
struct kz_zstd *kz_zstd_new(struct kz_str dictionary, int level);
void kz_zstd_free(struct kz_zstd *zstd);
KZ_DEFINE_FREEP(struct kz_zstd, kz_zstd_free)

/* Appends one frame, which says its own size. */
KZ_MUST_USE enum kz_code kz_zstd_compress(
        struct kz_zstd *zstd, struct kz_str data, struct kz_buf *buf, struct kz_err *err);
/* Appends the contents of one frame, at most `size_max_bytes`. Nothing is appended on failure. */
KZ_MUST_USE enum kz_code kz_zstd_decompress(struct kz_zstd *zstd, struct kz_str frame,
        size_t size_max_bytes, struct kz_buf *buf, struct kz_err *err);
/* Trains a dictionary of at most `size_max_bytes` from `count` samples that lie behind one another
 * in `samples`, and appends it. KZ_INVALID where there is too little to learn from. */
KZ_MUST_USE enum kz_code kz_zstd_train(struct kz_str samples, const size_t *sizes, unsigned count,
        size_t size_max_bytes, struct kz_buf *buf, struct kz_err *err);
