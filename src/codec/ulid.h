/* codec/ulid.h -- identifiers from random bytes and a time that the caller brings (see
 * sys/random.h), so that a simulation can repeat them.
 *
 * Threads  pure functions.
 */
#pragma once

#include "base/base.h"

enum { KZ_ULID_BYTES = 27 }; /* with the NUL */

/* 48 bits of time and 80 of randomness as 26 characters of Crockford's base 32, lower case
 * (github.com/ulid/spec). Sorts by time. Returns `out`. */
const char *kz_ulid(int64_t ms, const uint8_t random[10], char out[KZ_ULID_BYTES]);
