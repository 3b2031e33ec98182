/* codec/base64.h -- RFC 4648, standard and URL-safe alphabets.
 *
 * Threads  pure functions.
 * Fails    KZ_INVALID with the offset of the bad character.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

enum kz_base64 {
    KZ_BASE64_STD, /* + and /, padded with = */
    KZ_BASE64_URL, /* - and _, without padding when encoding, with or without when decoding */
};

void kz_base64_encode(struct kz_str data, enum kz_base64 alphabet, struct kz_buf *buf);
/* Nothing is appended on failure. Bits left over must be zero: one text for one value. */
KZ_MUST_USE enum kz_code kz_base64_decode(
        struct kz_str text, enum kz_base64 alphabet, struct kz_buf *buf, struct kz_err *err);
