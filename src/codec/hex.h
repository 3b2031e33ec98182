/* codec/hex.h -- bytes as lower-case hexadecimal, and back (either case).
 *
 * Threads  pure functions.
 * Fails    KZ_INVALID with the offset of the bad character.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

/* `out` holds 2 * size + 1 bytes and gets a NUL. Returns `out`. */
const char *kz_hex(const void *data, size_t size, char *out);
/* Exactly `size` bytes into `data`, which may be partly written on failure. */
KZ_MUST_USE enum kz_code kz_hex_decode(
        struct kz_str text, void *data, size_t size, struct kz_err *err);
