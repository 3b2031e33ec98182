#include "act/localtime.h"

#include <pthread.h>
#include <stdlib.h>

#include "contract/tz.h"

enum { NEAR_MS = 6 * 3600000 }; /* more than a clock is ever put forward or back, less than a day */

/* Zones are read once by each thread that asks, and go with it. */
static pthread_key_t zones_key;
static pthread_once_t zones_once = PTHREAD_ONCE_INIT;

static void free_zones(void *zones)
{
    kz_zones_done(zones);
    free(zones);
}

static void make_key(void)
{
    KZ_BUG_ON(pthread_key_create(&zones_key, free_zones) != 0);
}

static struct kz_zones *zones_of_thread(void)
{
    struct kz_zones *zones;

    KZ_BUG_ON(pthread_once(&zones_once, make_key) != 0);
    zones = pthread_getspecific(zones_key);
    if (!zones) {
        zones = kz_calloc(1, sizeof(*zones));
        KZ_BUG_ON(pthread_setspecific(zones_key, zones) != 0);
    }
    return zones;
}

enum kz_code kz_local_check(const char *tz, struct kz_err *err)
{
    const struct kz_zone *zone;
    struct kz_err inner;

    if (kz_zones_get(zones_of_thread(), kz_str(tz), &zone, &inner) == KZ_OK)
        return KZ_OK;
    (void)kz_fail(err, KZ_CONFIG, "%s", inner.message);
    if (*inner.hint)
        (void)kz_hint(err, "%s", inner.hint);
    return KZ_CONFIG;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int64_t offset_at(const struct kz_zone *zone, int64_t ms)
{
    return zone ? (int64_t)kz_zone_offset_s(zone, floor_div(ms, 1000)) * 1000 : 0;
}

/* Where a local day begins whose midnight is about `near_ms`. The clock may be changed within hours of
 * it, so of both offsets it is asked whether they give a midnight: the earlier one where there are two
 * (an hour that comes twice), and the first moment of the day where there is none. */
static int64_t day_start(const struct kz_zone *zone, int64_t midnight_local_ms, int64_t near_ms)
{
    int64_t before_ms = midnight_local_ms - offset_at(zone, near_ms - NEAR_MS);
    int64_t after_ms = midnight_local_ms - offset_at(zone, near_ms + NEAR_MS);
    int64_t earlier_ms = KZ_MIN(before_ms, after_ms), later_ms = KZ_MAX(before_ms, after_ms);

    return earlier_ms + offset_at(zone, earlier_ms) == midnight_local_ms ? earlier_ms : later_ms;
}

void kz_local_time(
        const char *tz, int64_t ms, int *ret_weekday, int *ret_minute, int64_t *ret_day_start_ms)
{
    const struct kz_zone *zone = NULL;
    int64_t local_ms, day;

    if (kz_zones_get(zones_of_thread(), kz_str(tz), &zone, NULL) != KZ_OK)
        zone = NULL;
    local_ms = ms + offset_at(zone, ms);
    day = floor_div(local_ms, 86400000);
    if (ret_weekday)
        *ret_weekday = (int)(((day + 3) % 7 + 7) % 7); /* 1970-01-01 was a Thursday */
    if (ret_minute)
        *ret_minute = (int)((local_ms - day * 86400000) / 60000);
    if (ret_day_start_ms)
        *ret_day_start_ms = day_start(zone, day * 86400000, ms - (local_ms - day * 86400000));
}
