/* codec/duration.h -- spans of time as people write them: 500ms 2s 10m 24h 7d 1h30m 1.5s.
 *
 * Threads  pure functions.
 * Fails    KZ_INVALID, quoting the text.
 */
#pragma once

#include "base/err.h"

enum { KZ_DURATION_BYTES = 64 };

/* Units ms s m h d w, the larger first, each at most once; "0" needs none. Never negative, always a
 * whole number of milliseconds. */
KZ_MUST_USE enum kz_code kz_duration_parse(struct kz_str text, int64_t *ret_ms, struct kz_err *err);
/* The shortest form that parses to the same: 90000 -> "1m30s", 0 -> "0s", negative with '-'.
 * Weeks are never written. Returns `out`. */
const char *kz_duration_format(int64_t ms, char out[KZ_DURATION_BYTES]);
