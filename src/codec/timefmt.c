#include "codec/timefmt.h"

enum { DAY_MS = 86400000 };

/* Both by Howard Hinnant, "chrono-compatible low-level date algorithms": years begin in March, so
 * that the leap day is the last of a year; eras are 400 years of 146097 days. */
int64_t kz_days_from_civil(int64_t year, unsigned month, unsigned day)
{
    int64_t y = year - (month <= 2);
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    int64_t year_of_era = y - era * 400;
    int64_t day_of_year = (153 * (int64_t)(month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;

    return era * 146097 + day_of_era - 719468;
}

void kz_civil_from_days(int64_t days, int64_t *ret_year, unsigned *ret_month, unsigned *ret_day)
{
    int64_t z = days + 719468;
    int64_t era = (z >= 0 ? z : z - 146096) / 146097;
    int64_t day_of_era = z - era * 146097;
    int64_t year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t shifted_month = (5 * day_of_year + 2) / 153;
    unsigned month = (unsigned)(shifted_month < 10 ? shifted_month + 3 : shifted_month - 9);

    *ret_year = year_of_era + era * 400 + (month <= 2);
    *ret_month = month;
    *ret_day = (unsigned)(day_of_year - (153 * shifted_month + 2) / 5 + 1);
}

/* What is left of the text; failed once, it stays failed. */
struct reader {
    const char *at;
    const char *end;
    bool failed;
};

static unsigned digits(struct reader *r, int count, unsigned max)
{
    unsigned value = 0;

    for (int i = 0; i < count; i++) {
        if (r->at == r->end || (unsigned char)(*r->at - '0') > 9) {
            r->failed = true;
            return 0;
        }
        value = value * 10 + (unsigned)(*r->at++ - '0');
    }
    r->failed |= value > max;
    return value;
}

static bool accept(struct reader *r, const char *any_of)
{
    if (r->failed || r->at == r->end || *r->at == '\0' || !strchr(any_of, *r->at))
        return false;
    r->at++;
    return true;
}

static void require(struct reader *r, const char *any_of)
{
    if (!accept(r, any_of))
        r->failed = true;
}

static unsigned days_in_month(unsigned year, unsigned month)
{
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

    return days[month - 1] + (month == 2 && leap);
}

static int64_t read_date(struct reader *r)
{
    unsigned year, month, day;

    year = digits(r, 4, 9999);
    require(r, "-");
    month = digits(r, 2, 12);
    require(r, "-");
    day = digits(r, 2, 31);
    r->failed |= month == 0 || day == 0;
    if (r->failed || day > days_in_month(year, month)) {
        r->failed = true;
        return 0;
    }
    return kz_days_from_civil(year, month, day) * DAY_MS;
}

static int64_t read_clock(struct reader *r)
{
    int64_t ms;

    ms = (int64_t)digits(r, 2, 23) * 3600000;
    require(r, ":");
    ms += (int64_t)digits(r, 2, 59) * 60000;
    require(r, ":");
    ms += (int64_t)digits(r, 2, 60) * 1000;
    if (accept(r, ".,")) {
        int64_t unit = 100;

        do {
            ms += (int64_t)digits(r, 1, 9) * unit;
            unit /= 10;
        } while (!r->failed && r->at < r->end && (unsigned char)(*r->at - '0') <= 9);
    }
    return ms;
}

/* How far local time is ahead of UTC. */
static int64_t read_zone(struct reader *r)
{
    int64_t minutes;
    bool west;

    if (r->failed || r->at == r->end)
        return 0;
    if (kz_str_is(kz_str_n(r->at, (size_t)(r->end - r->at)), " UTC")) {
        r->at = r->end;
        return 0;
    }
    if (accept(r, "Zz"))
        return 0;
    west = *r->at == '-';
    require(r, "+-");
    minutes = (int64_t)digits(r, 2, 23) * 60;
    (void)accept(r, ":"); /* RFC 3339 wants it, ISO 8601's basic form has none */
    minutes += digits(r, 2, 59);
    return (west ? -minutes : minutes) * 60000;
}

enum kz_code kz_time_parse(struct kz_str text, int64_t *ret_ms, struct kz_err *err)
{
    struct reader r = {text.ptr, text.ptr + text.size, false};
    int64_t ms = read_date(&r);

    if (!r.failed && r.at < r.end) {
        require(&r, "Tt ");
        ms += read_clock(&r);
        ms -= read_zone(&r);
    }
    if (r.failed || r.at != r.end)
        return kz_fail(err, KZ_INVALID,
                "\"" KZ_STR_FMT "\" is no time; write it like 2026-01-31T09:30:00.000Z",
                (int)KZ_MIN(text.size, (size_t)60), text.ptr ? text.ptr : "");
    *ret_ms = ms;
    return KZ_OK;
}

static char *put_digits(char *at, unsigned number, unsigned count)
{
    for (unsigned i = count; i-- > 0; number /= 10)
        at[i] = (char)('0' + number % 10);
    return at + count;
}

const char *kz_time_format(int64_t ms, char out[KZ_TIME_BYTES])
{
    const int64_t min = kz_days_from_civil(0, 1, 1) * DAY_MS;
    const int64_t max = kz_days_from_civil(10000, 1, 1) * DAY_MS - 1;
    int64_t days, year, left;
    unsigned month, day;
    char *at = out;

    ms = KZ_MAX(min, KZ_MIN(ms, max));
    days = (ms - (ms < 0 ? DAY_MS - 1 : 0)) / DAY_MS;
    left = ms - days * DAY_MS;
    kz_civil_from_days(days, &year, &month, &day);
    at = put_digits(at, (unsigned)year, 4);
    *at++ = '-';
    at = put_digits(at, month, 2);
    *at++ = '-';
    at = put_digits(at, day, 2);
    *at++ = 'T';
    at = put_digits(at, (unsigned)(left / 3600000), 2);
    *at++ = ':';
    at = put_digits(at, (unsigned)(left / 60000 % 60), 2);
    *at++ = ':';
    at = put_digits(at, (unsigned)(left / 1000 % 60), 2);
    *at++ = '.';
    at = put_digits(at, (unsigned)(left % 1000), 3);
    *at++ = 'Z';
    *at = '\0';
    return out;
}
