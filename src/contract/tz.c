#include "contract/tz.h"

#include <stdlib.h>

#include "codec/timefmt.h"
#include "sys/file.h"

enum { ZONE_FILE_SIZE_MAX = 1 << 20, ZONE_NAME_SIZE_MAX = 64, DAY_S = 86400 };

#define ZONE_DIR "/usr/share/zoneinfo/"

/* When a rule's half of the year begins: "M3.2.0/2", "J60", "59". */
struct rule_date {
    char kind; /* 'M' month.week.day, 'J' 1..365 without leap day, 'N' 0..365 */
    int month, week, day;
    int32_t time_s;
};

struct rule {
    bool set;
    bool has_dst;
    int32_t std_s, dst_s; /* east of UTC */
    struct rule_date start, end;
};

struct kz_zone {
    struct kz_zone *next;
    char name[ZONE_NAME_SIZE_MAX + 1];
    struct rule rule;
    int32_t first_s; /* before the first transition */
    size_t count;
    int64_t *times;     /* ascending */
    int32_t *offsets_s; /* from times[i] on */
};

static uint32_t be32(const char *p)
{
    return __builtin_bswap32(kz_load_u32(p));
}

/* ---- the POSIX rule at the end of a file (IEEE 1003.1, "TZ", with RFC 8536's extension) --------
 */

static bool number(struct kz_cursor *c, int max, int *ret)
{
    int n = 0;
    size_t digits = 0;

    while (c->left && *c->ptr >= '0' && *c->ptr <= '9' && digits < 4) {
        n = n * 10 + (*c->ptr - '0');
        kz_cursor_take(c, 1);
        digits++;
    }
    *ret = n;
    return digits && n <= max;
}

static bool accept(struct kz_cursor *c, char want)
{
    if (!c->left || *c->ptr != want)
        return false;
    kz_cursor_take(c, 1);
    return true;
}

/* [+-]hh[:mm[:ss]] */
static bool clock_time(struct kz_cursor *c, int32_t *ret_s)
{
    int sign = 1, h = 0, m = 0, s = 0;

    if (accept(c, '-'))
        sign = -1;
    else
        accept(c, '+');
    if (!number(c, 167, &h))
        return false;
    if (accept(c, ':') && !number(c, 59, &m))
        return false;
    if (accept(c, ':') && !number(c, 59, &s))
        return false;
    *ret_s = sign * (h * 3600 + m * 60 + s);
    return true;
}

static bool abbreviation(struct kz_cursor *c)
{
    size_t n = 0;

    if (accept(c, '<')) {
        while (c->left && *c->ptr != '>')
            kz_cursor_take(c, 1);
        return accept(c, '>');
    }
    while (c->left && ((*c->ptr | 32) >= 'a' && (*c->ptr | 32) <= 'z')) {
        kz_cursor_take(c, 1);
        n++;
    }
    return n >= 3;
}

static bool rule_date(struct kz_cursor *c, struct rule_date *ret)
{
    struct rule_date date = {.kind = 'N', .time_s = 7200};

    if (accept(c, 'M')) {
        date.kind = 'M';
        if (!number(c, 12, &date.month) || date.month < 1 || !accept(c, '.') ||
                !number(c, 5, &date.week) || date.week < 1 || !accept(c, '.') ||
                !number(c, 6, &date.day))
            return false;
    } else {
        if (accept(c, 'J'))
            date.kind = 'J';
        if (!number(c, 365, &date.day) || (date.kind == 'J' && date.day < 1))
            return false;
    }
    if (accept(c, '/') && !clock_time(c, &date.time_s))
        return false;
    *ret = date;
    return true;
}

static bool rule_parse(struct kz_str text, struct rule *ret)
{
    struct kz_cursor c = kz_cursor(text);
    struct rule rule = {.set = true};

    if (!abbreviation(&c) || !clock_time(&c, &rule.std_s))
        return false;
    rule.std_s = -rule.std_s; /* POSIX counts west of Greenwich */
    if (c.left) {
        rule.has_dst = true;
        if (!abbreviation(&c))
            return false;
        rule.dst_s = rule.std_s + 3600;
        if (c.left && *c.ptr != ',') {
            if (!clock_time(&c, &rule.dst_s))
                return false;
            rule.dst_s = -rule.dst_s;
        }
        if (!accept(&c, ',') || !rule_date(&c, &rule.start) || !accept(&c, ',') ||
                !rule_date(&c, &rule.end))
            return false;
    }
    *ret = rule;
    return c.left == 0;
}

static bool is_leap(int64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* Seconds since 1970 of the date in `year`, on the clock that is `offset_s` east. */
static int64_t rule_time(const struct rule_date *date, int64_t year, int32_t offset_s)
{
    int64_t day;

    if (date->kind == 'M') {
        int64_t first = kz_days_from_civil(year, (unsigned)date->month, 1);
        int64_t next = date->month == 12 ? kz_days_from_civil(year + 1, 1, 1)
                                         : kz_days_from_civil(year, (unsigned)date->month + 1, 1);
        int weekday = (int)(((first + 4) % 7 + 7) % 7); /* 1970-01-01 was a Thursday; 0 is Sunday */

        day = first + (date->day - weekday + 7) % 7 + 7 * (date->week - 1);
        while (day >= next)
            day -= 7;
    } else {
        day = kz_days_from_civil(year, 1, 1) + date->day;
        if (date->kind == 'J')
            day -= !(is_leap(year) && date->day >= 60);
    }
    return day * DAY_S + date->time_s - offset_s;
}

static int32_t rule_offset_s(const struct rule *rule, int64_t time_s)
{
    int64_t year, start, end;
    int64_t days = (time_s + rule->std_s) / DAY_S - ((time_s + rule->std_s) % DAY_S < 0);
    unsigned month, day;
    bool dst;

    if (!rule->has_dst)
        return rule->std_s;
    kz_civil_from_days(days, &year, &month, &day);
    start = rule_time(&rule->start, year, rule->std_s);
    end = rule_time(&rule->end, year, rule->dst_s);
    if (start < end)
        dst = time_s >= start && time_s < end;
    else /* the southern summer spans the new year */
        dst = time_s >= start || time_s < end;
    return dst ? rule->dst_s : rule->std_s;
}

/* ---- TZif --------------------------------------------------------------------------------------
 */

struct tzif_header {
    uint32_t isutcnt, isstdcnt, leapcnt, timecnt, typecnt, charcnt;
};

static bool header(struct kz_cursor *c, char *ret_version, struct tzif_header *ret)
{
    const char *p = kz_cursor_take(c, 44);

    if (!p || memcmp(p, "TZif", 4) != 0)
        return false;
    *ret_version = p[4];
    *ret = (struct tzif_header){
            be32(p + 20), be32(p + 24), be32(p + 28), be32(p + 32), be32(p + 36), be32(p + 40)};
    return ret->timecnt < 100000 && ret->typecnt >= 1 && ret->typecnt <= 256 &&
           ret->leapcnt < 10000 && ret->charcnt < 10000 && ret->isutcnt <= 256 &&
           ret->isstdcnt <= 256;
}

enum kz_code kz_zone_parse(struct kz_str bytes, struct kz_zone **ret_zone, struct kz_err *err)
{
    struct kz_cursor c = kz_cursor(bytes);
    struct tzif_header h;
    const char *times, *index, *types;
    struct kz_zone *zone;
    char version;

    if (!header(&c, &version, &h) || version < '2')
        return kz_fail(err, KZ_CORRUPT, "not a TZif file of version 2 or later");
    kz_cursor_take(&c, (size_t)h.timecnt * 5 + h.typecnt * 6 + h.charcnt + h.leapcnt * 8 +
                               h.isstdcnt + h.isutcnt); /* the 32-bit block of version 1 */
    if (!header(&c, &version, &h))
        return kz_fail(err, KZ_CORRUPT, "the 64-bit part of the TZif file is missing");
    times = kz_cursor_take(&c, (size_t)h.timecnt * 8);
    index = kz_cursor_take(&c, h.timecnt);
    types = kz_cursor_take(&c, (size_t)h.typecnt * 6);
    kz_cursor_take(&c, h.charcnt + h.leapcnt * 12 + h.isstdcnt + h.isutcnt);
    if (c.failed)
        return kz_fail(err, KZ_CORRUPT, "the TZif file is cut short");

    zone = kz_calloc(1, sizeof(*zone) + (size_t)h.timecnt * (sizeof(int64_t) + sizeof(int32_t)));
    zone->count = h.timecnt;
    zone->times = (int64_t *)(zone + 1);
    zone->offsets_s = (int32_t *)(zone->times + h.timecnt);
    zone->first_s = (int32_t)be32(types);
    for (uint32_t i = 0; i < h.timecnt; i++) {
        if ((uint8_t)index[i] >= h.typecnt) {
            free(zone);
            return kz_fail(err, KZ_CORRUPT, "a transition of the TZif file has no type");
        }
        zone->times[i] = (int64_t)__builtin_bswap64(kz_load_u64(times + 8 * i));
        zone->offsets_s[i] = (int32_t)be32(types + 6 * (uint8_t)index[i]);
    }
    if (c.left > 2 && accept(&c, '\n')) {
        const char *end = memchr(c.ptr, '\n', c.left);

        if (end && end > c.ptr &&
                !rule_parse(kz_str_n(c.ptr, (size_t)(end - c.ptr)), &zone->rule)) {
            free(zone);
            return kz_fail(err, KZ_CORRUPT, "the rule at the end of the TZif file is malformed");
        }
    }
    *ret_zone = zone;
    return KZ_OK;
}

int32_t kz_zone_offset_s(const struct kz_zone *zone, int64_t time_s)
{
    size_t low = 0, high = zone->count;

    while (low < high) {
        size_t mid = (low + high) / 2;

        if (zone->times[mid] <= time_s)
            low = mid + 1;
        else
            high = mid;
    }
    if (low == zone->count && zone->rule.set)
        return rule_offset_s(&zone->rule, time_s);
    return low ? zone->offsets_s[low - 1] : zone->first_s;
}

/* ---- the zones of this machine ------------------------------------------------------------------
 */

/* Names reach us from SQL, so nothing that could leave the directory, and nothing that is no zone.
 */
static bool name_ok(struct kz_str name)
{
    bool start = true;

    if (!name.size || name.size > ZONE_NAME_SIZE_MAX || !(name.ptr[0] >= 'A' && name.ptr[0] <= 'Z'))
        return false;
    for (size_t i = 0; i < name.size; i++) {
        char ch = name.ptr[i];
        bool letter = ((ch | 32) >= 'a' && (ch | 32) <= 'z');

        if (ch == '/' ? start
                      : !letter && (start || !((ch >= '0' && ch <= '9') || strchr("_+-", ch))))
            return false;
        if (!ch)
            return false;
        start = ch == '/';
    }
    return !start;
}

enum kz_code kz_zones_get(struct kz_zones *zones, struct kz_str name,
        const struct kz_zone **ret_zone, struct kz_err *err)
{
    char path[sizeof(ZONE_DIR) + ZONE_NAME_SIZE_MAX];
    KZ_AUTO(kz_freep) char *data = NULL;
    struct kz_zone *zone;
    size_t size;

    for (zone = zones->head; zone; zone = zone->next) {
        if (kz_str_is(name, zone->name)) {
            *ret_zone = zone;
            return KZ_OK;
        }
    }
    if (!name_ok(name))
        return kz_fail(err, KZ_NOT_FOUND, "no time zone \"" KZ_STR_FMT "\"",
                (int)KZ_MIN(name.size, (size_t)ZONE_NAME_SIZE_MAX), name.ptr ? name.ptr : "");
    memcpy(path, ZONE_DIR, sizeof(ZONE_DIR) - 1);
    memcpy(path + sizeof(ZONE_DIR) - 1, name.ptr, name.size);
    path[sizeof(ZONE_DIR) - 1 + name.size] = '\0';
    if (kz_str_is(name, "UTC")) { /* known everywhere, also in an image without tzdata */
        zone = kz_calloc(1, sizeof(*zone));
    } else if (kz_fs_read_all(kz_fs_posix(), path, ZONE_FILE_SIZE_MAX, &data, &size, NULL) !=
               KZ_OK) {
        kz_fail(err, KZ_NOT_FOUND, "no time zone \"" KZ_STR_FMT "\"", KZ_STR_ARG(name));
        return kz_hint(err, "names are those below " ZONE_DIR ", such as Asia/Tokyo or UTC");
    } else if (kz_zone_parse(kz_str_n(data, size), &zone, err) != KZ_OK) {
        return kz_wrap(err, "\"%s\"", path);
    }
    memcpy(zone->name, name.ptr, name.size);
    zone->next = zones->head;
    zones->head = zone;
    *ret_zone = zone;
    return KZ_OK;
}

void kz_zones_done(struct kz_zones *zones)
{
    while (zones->head) {
        struct kz_zone *next = zones->head->next;

        free(zones->head);
        zones->head = next;
    }
}
