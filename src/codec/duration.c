#include "codec/duration.h"

#include <inttypes.h>
#include <stdio.h>

static const struct unit {
    const char *name;
    int64_t ms;
} units[] = {
        {"w", 604800000}, {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

/* Digits with an optional fraction, scaled by the unit that follows; false where it is none, is
 * not whole milliseconds, or does not fit. */
static bool take_part(struct kz_str *rest, size_t *unit, int64_t *total)
{
    const char *at = rest->ptr, *end = rest->ptr + rest->size, *from = at;
    int64_t digits = 0, divisor = 1, ms;
    struct kz_str name;
    bool point = false;

    for (; at < end && (*at == '.' || (unsigned char)(*at - '0') <= 9); at++) {
        if (*at == '.' &&
                (point || at == from || at + 1 == end || (unsigned char)(at[1] - '0') > 9))
            return false;
        if (*at == '.') {
            point = true;
            continue;
        }
        if (__builtin_mul_overflow(digits, (int64_t)10, &digits) ||
                __builtin_add_overflow(digits, (int64_t)(*at - '0'), &digits) ||
                (point && __builtin_mul_overflow(divisor, (int64_t)10, &divisor)))
            return false;
    }
    if (at == from)
        return false;
    for (from = at; at < end && *at >= 'a' && *at <= 'z'; at++)
        ;
    name = kz_str_n(from, (size_t)(at - from));
    while (*unit < KZ_ARRAY_COUNT(units) && !kz_str_is(name, units[*unit].name))
        ++*unit;
    if (*unit == KZ_ARRAY_COUNT(units) || __builtin_mul_overflow(digits, units[*unit].ms, &ms) ||
            ms % divisor != 0 || __builtin_add_overflow(*total, ms / divisor, total))
        return false;
    ++*unit; /* the next part has a smaller one */
    *rest = kz_str_n(at, (size_t)(end - at));
    return true;
}

enum kz_code kz_duration_parse(struct kz_str text, int64_t *ret_ms, struct kz_err *err)
{
    struct kz_str rest = text;
    int64_t total = 0;
    size_t unit = 0;
    bool ok = text.size > 0;

    if (kz_str_is(text, "0")) {
        *ret_ms = 0;
        return KZ_OK;
    }
    while (ok && rest.size)
        ok = take_part(&rest, &unit, &total);
    if (!ok)
        return kz_fail(err, KZ_INVALID,
                "\"" KZ_STR_FMT "\" is no duration; write it like 500ms, 2s, 10m, 24h, 7d or 1h30m",
                (int)KZ_MIN(text.size, (size_t)60), text.ptr ? text.ptr : "");
    *ret_ms = total;
    return KZ_OK;
}

const char *kz_duration_format(int64_t ms, char out[KZ_DURATION_BYTES])
{
    uint64_t left = ms < 0 ? -(uint64_t)ms : (uint64_t)ms;
    int size = snprintf(out, KZ_DURATION_BYTES, "%s%s", ms < 0 ? "-" : "", left ? "" : "0s");

    for (size_t i = 1; i < KZ_ARRAY_COUNT(units); i++) { /* without weeks */
        uint64_t unit_ms = (uint64_t)units[i].ms;

        if (left / unit_ms)
            size += snprintf(out + size, KZ_DURATION_BYTES - (size_t)size, "%" PRIu64 "%s",
                    left / unit_ms, units[i].name);
        left %= unit_ms;
    }
    return out;
}
