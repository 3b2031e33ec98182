/* codec/uuid.h -- identifiers from random bytes and a time that the caller brings (see
 * sys/random.h), so that a simulation can repeat them.
 *
 * Threads  pure functions.
 */
#pragma once

#include "base/base.h"

enum { KZ_UUID_BYTES = 37, KZ_ULID_BYTES = 27 }; /* with the NUL */

/* RFC 9562: version 4; and version 7, which sorts by time. Return `out`. */
const char *kz_uuid_v4(const uint8_t random[16], char out[KZ_UUID_BYTES]);
const char *kz_uuid_v7(int64_t ms, const uint8_t random[10], char out[KZ_UUID_BYTES]);
/* The same 48 bits of time and 80 of randomness as 26 characters of Crockford's base 32, lower
 * case (github.com/ulid/spec). Sorts by time. */
const char *kz_ulid(int64_t ms, const uint8_t random[10], char out[KZ_ULID_BYTES]);
/* 8-4-4-4-12 hexadecimal digits, either case, any version. */
bool kz_uuid_is(struct kz_str text);
