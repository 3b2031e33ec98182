/* codec/timefmt.h -- moments as text: RFC 3339 to and from milliseconds since 1970, UTC.
 *
 * Threads  pure functions.
 * Fails    KZ_INVALID, quoting the text.
 */
#pragma once

#include "base/err.h"

enum { KZ_TIME_BYTES = 32 }; /* a formatted time with its NUL */

/* 2019-10-01T09:30:00Z, .123 (more digits are cut, not rounded), +09:00, +0900, a space or 't'
 * instead of 'T', ' UTC' instead of 'Z', and a date alone (midnight UTC). Without any zone it is
 * UTC. A leap second (:60) counts as the second after :59. Years 0000 to 9999. */
KZ_MUST_USE enum kz_code kz_time_parse(struct kz_str text, int64_t *ret_ms, struct kz_err *err);

/* 2026-11-24T01:02:03.456Z. Beyond the years 0000 to 9999 the nearest of them is printed. Returns
 * `out`. */
const char *kz_time_format(int64_t ms, char out[KZ_TIME_BYTES]);

/* Days since 1970-01-01 of a civil date (proleptic Gregorian), and back. */
int64_t kz_days_from_civil(int64_t year, unsigned month, unsigned day);
void kz_civil_from_days(int64_t days, int64_t *ret_year, unsigned *ret_month, unsigned *ret_day);
