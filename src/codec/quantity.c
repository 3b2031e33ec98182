#include "codec/quantity.h"

static const struct suffix {
    const char *name;
    int power; /* of ten; of two for the binary ones */
    bool binary;
} suffixes[] = {{"", 0, false}, {"n", -9, false}, {"u", -6, false}, {"m", -3, false},
        {"k", 3, false}, {"M", 6, false}, {"G", 9, false}, {"T", 12, false}, {"P", 15, false},
        {"E", 18, false}, {"Ki", 10, true}, {"Mi", 20, true}, {"Gi", 30, true}, {"Ti", 40, true},
        {"Pi", 50, true}, {"Ei", 60, true}};

typedef unsigned __int128 u128; /* C17 has no name for it that fits a line */

/* value * 10^power, rounded up; false where it does not fit 64 bits. */
static bool scale_tens(u128 value, int power, uint64_t *ret)
{
    bool rest = false;

    for (; power > 0 && value; power--) {
        value *= 10;
        if (value > UINT64_MAX * (u128)1000000000)
            return false;
    }
    for (; power < 0 && value; power++) {
        rest |= value % 10 != 0;
        value /= 10;
    }
    value += rest;
    *ret = (uint64_t)value;
    return value <= UINT64_MAX;
}

static bool is_digit(char c)
{
    return (unsigned char)(c - '0') <= 9;
}

/* Digits without their point, and how many stood behind it. False where there are none or too many.
 */
static bool read_digits(const char **at, const char *end, u128 *ret_value, int *ret_decimals)
{
    u128 value = 0;
    int count = 0, decimals = 0;
    bool point = false;

    for (; *at < end && (is_digit(**at) || (**at == '.' && !point)); ++*at) {
        if (**at == '.') {
            point = true;
            continue;
        }
        if (value > UINT64_MAX)
            return false;
        value = value * 10 + (u128)(**at - '0');
        decimals += point;
        count++;
    }
    *ret_value = value;
    *ret_decimals = decimals;
    return count > 0;
}

/* e3, E-3: the exponent, and nothing behind it. */
static bool read_exponent(const char *at, const char *end, int *ret_power)
{
    bool minus = false;
    int power = 0;

    if (end - at < 2 || (*at | 0x20) != 'e')
        return false;
    at++;
    if (*at == '+' || *at == '-')
        minus = *at++ == '-';
    if (at == end)
        return false;
    for (; at < end; at++) {
        if (!is_digit(*at) || power > 99)
            return false;
        power = power * 10 + (*at - '0');
    }
    *ret_power = minus ? -power : power;
    return true;
}

/* The quantity times 10^`thousandths`. */
static bool parse(struct kz_str text, int thousandths, uint64_t *ret)
{
    const char *at = text.ptr, *end = text.ptr + text.size;
    struct kz_str name;
    int decimals, power;
    u128 value;

    if (text.size && *at == '+')
        at++;
    if (!read_digits(&at, end, &value, &decimals))
        return false;
    if (read_exponent(at, end, &power))
        return scale_tens(value, power + thousandths - decimals, ret);
    name = kz_str_n(at, (size_t)(end - at));
    for (size_t i = 0; i < KZ_ARRAY_COUNT(suffixes); i++) {
        const struct suffix *s = &suffixes[i];

        if (!kz_str_is(name, s->name))
            continue;
        if (!s->binary)
            return scale_tens(value, s->power + thousandths - decimals, ret);
        /* `value` is below 2^68, so the shift may not go over 2^128 but by being too large anyway.
         */
        if (value > ~(u128)0 >> s->power)
            return false;
        value <<= s->power;
        if (thousandths && value > ~(u128)0 / 1000)
            return false;
        return scale_tens(value * (thousandths ? 1000 : 1), -decimals, ret);
    }
    return false;
}

static enum kz_code fail_quantity(struct kz_str text, struct kz_err *err)
{
    return kz_fail(err, KZ_INVALID,
            "\"" KZ_STR_FMT "\" is no quantity; write it like 500m, 1.5, 512Mi or 200Gi",
            (int)KZ_MIN(text.size, (size_t)60), text.ptr ? text.ptr : "");
}

enum kz_code kz_quantity_bytes(struct kz_str text, uint64_t *ret_bytes, struct kz_err *err)
{
    uint64_t value;

    if (!parse(text, 0, &value))
        return fail_quantity(text, err);
    *ret_bytes = value;
    return KZ_OK;
}

enum kz_code kz_quantity_milli(struct kz_str text, uint64_t *ret_milli, struct kz_err *err)
{
    uint64_t value;

    if (!parse(text, 3, &value))
        return fail_quantity(text, err);
    *ret_milli = value;
    return KZ_OK;
}
