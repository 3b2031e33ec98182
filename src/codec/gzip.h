/* codec/gzip.h -- request bodies in gzip (RFC 1952) or zlib (RFC 1950) clothes.
 *
 * Threads  pure functions.
 * Fails    KZ_INVALID for what is damaged, cut off or followed by garbage; KZ_TOO_LARGE past the
 *          limit, before more than the limit has been allocated.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

/* Whether it begins like gzip: content decides, not the header. */
bool kz_gzip_is(struct kz_str data);
/* Appends at most `size_max_bytes`; several gzip members in a row are one body. Nothing is appended
 * on failure. */
KZ_MUST_USE enum kz_code kz_gzip_inflate(
        struct kz_str data, size_t size_max_bytes, struct kz_buf *buf, struct kz_err *err);
/* `level` 1 to 9. */
KZ_MUST_USE enum kz_code kz_gzip_deflate(
        struct kz_str data, int level, struct kz_buf *buf, struct kz_err *err);
