/* act/localtime.h -- our clock in an IANA time zone, for schedules and caps by the day.
 *
 * Threads  one at a time a thread: zones are cached per thread.
 */
#pragma once

#include "base/err.h"

/* KZ_CONFIG for a name that is no zone. */
KZ_MUST_USE enum kz_code kz_local_check(const char *tz, struct kz_err *err);
/* Outputs may be NULL. weekday 0 is Monday; minute of the local day; UTC ms of its
 * beginning: midnight, but the first moment where the clock skips that, and the first of two. A zone
 * that cannot be read counts as UTC (kz_local_check() has said so before). */
void kz_local_time(
        const char *tz, int64_t ms, int *ret_weekday, int *ret_minute, int64_t *ret_day_start_ms);
