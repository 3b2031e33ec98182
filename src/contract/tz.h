/* contract/tz.h -- local time of IANA time zones, from the system's TZif files (RFC 8536).
 *
 * The C library can only do this through the process-wide TZ, so we read the files ourselves:
 * version 2 or later, with the POSIX rule at the end for times behind the last transition.
 *
 * Owner    struct kz_zones keeps the zones it has read.
 * Threads  one at a time.
 * Fails    KZ_NOT_FOUND for a name that is no zone, KZ_CORRUPT for a file that is none.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

struct kz_zone;

/* Zones that were read, each once; zero-initialise. One thread. */
struct kz_zones {
    struct kz_zone *head;
};

/* Frees them all: what kz_zones_get() gave goes with it. */
void kz_zones_done(struct kz_zones *zones);

/* The zone of that name ("Asia/Tokyo", "UTC"), read on first use; borrowed. KZ_NOT_FOUND, KZ_CORRUPT. */
KZ_MUST_USE enum kz_code kz_zones_get(struct kz_zones *zones, struct kz_str name,
        const struct kz_zone **ret_zone, struct kz_err *err);

/* Seconds east of UTC at a time in seconds since 1970. */
int32_t kz_zone_offset_s(const struct kz_zone *zone, int64_t time_s);

/* Reads a zone from the bytes of a TZif file; for tests and fuzzing. free() it. */
KZ_MUST_USE enum kz_code kz_zone_parse(
        struct kz_str bytes, struct kz_zone **ret_zone, struct kz_err *err);
