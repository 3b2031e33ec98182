/* Walking text that the parser (json.c) has passed, and what its values mean. Nothing here checks
 * grammar; everything here stays inside of the text whatever it holds. */
#include "codec/json.h"

#include <math.h>
#include <stdlib.h>

#include "codec/json_int.h"
#include "codec/utf8.h"

/* -- skipping --------------------------------------------------------------------------------- */

/* `at` is behind the opening quote; returns behind the closing one, or `end`. */
static const char *skip_string(const char *at, const char *end, bool *ret_escaped)
{
    for (;;) {
        at = kz_json_find_quote(at, end);
        if (at == end)
            return end;
        if (*at == '"')
            return at + 1;
        *ret_escaped = true;
        if (end - at < 2)
            return end;
        at += 2;
    }
}

/* `at` is the opening bracket; returns behind the closing one, or `end`. */
static const char *skip_brackets(const char *at, const char *end)
{
    size_t depth = 0;
    bool ignored;

    do {
        at = kz_json_find_structure(at, end);
        if (at == end)
            return end;
        if (*at == '"') {
            at = skip_string(at + 1, end, &ignored);
            continue;
        }
        if ((*at | 0x20) == '{')
            depth++;
        else
            depth--;
        at++;
    } while (depth);
    return at;
}

/* A number or a word: up to what ends it. Tells the floats among the numbers on the way. */
static const char *skip_plain(const char *at, const char *end, bool *ret_float)
{
    enum { END = 1, FLOAT = 2 };
    static const uint8_t classes[256] = {[0 ... ' '] = END,
            [','] = END,
            [':'] = END,
            [']'] = END,
            ['}'] = END,
            ['.'] = FLOAT,
            ['e'] = FLOAT,
            ['E'] = FLOAT};
    uint8_t seen = 0;

    while (at < end) {
        uint8_t class = classes[(unsigned char)*at];

        if (class == END)
            break;
        seen |= class;
        at++;
    }
    *ret_float = seen & FLOAT;
    return at;
}

/* The value that begins at `at` (not at `end`); KZ_JSON_NONE where none does. Inlined, so that the
 * pieces of the struct stay in registers: written to memory in pieces and copied whole, each copy
 * would wait for the store buffer, which doubled the time of a walk. */
static inline __attribute__((always_inline)) struct kz_json_value value_at(
        const char *at, const char *end)
{
    struct kz_json_value value = {0};
    bool is_float = false;
    const char *to;

    switch (*at) {
    case '"':
        value.kind = KZ_JSON_STRING;
        to = skip_string(at + 1, end, &value.escaped);
        break;
    case '{':
    case '[':
        value.kind = *at == '{' ? KZ_JSON_OBJECT : KZ_JSON_ARRAY;
        to = skip_brackets(at, end);
        break;
    default:
        to = skip_plain(at, end, &is_float);
        value.kind = *at == 'n'                                     ? KZ_JSON_NULL
                     : *at == 't'                                   ? KZ_JSON_TRUE
                     : *at == 'f'                                   ? KZ_JSON_FALSE
                     : *at != '-' && (unsigned char)(*at - '0') > 9 ? KZ_JSON_NONE
                     : is_float                                     ? KZ_JSON_FLOAT
                                                                    : KZ_JSON_INT;
    }
    value.raw = kz_str_n(at, (size_t)(to - at));
    return value;
}

struct kz_json_value kz_json_trusted(struct kz_str text)
{
    const char *end = text.ptr + text.size;
    const char *at = text.size ? kz_json_skip_space(text.ptr, end) : end;

    return at == end ? (struct kz_json_value){0} : value_at(at, end);
}

/* -- walking ---------------------------------------------------------------------------------- */

struct kz_json_walk kz_json_walk(struct kz_json_value value)
{
    if ((value.kind != KZ_JSON_OBJECT && value.kind != KZ_JSON_ARRAY) || value.raw.size < 2)
        return (struct kz_json_walk){0};
    return (struct kz_json_walk){value.raw.ptr + 1, value.raw.ptr + value.raw.size - 1};
}

/* Takes the value at the front, and what separates it from the next. */
static inline __attribute__((always_inline)) bool take_value(
        struct kz_json_walk *walk, char separator, struct kz_json_value *ret_value)
{
    struct kz_json_value value;
    const char *at = kz_json_skip_space(walk->at, walk->end);

    walk->at = walk->end;
    if (at == walk->end)
        return false;
    value = value_at(at, walk->end);
    if (value.kind == KZ_JSON_NONE)
        return false;
    at = kz_json_skip_space(value.raw.ptr + value.raw.size, walk->end);
    if (at < walk->end && *at == separator)
        walk->at = at + 1;
    *ret_value = value;
    return true;
}

bool kz_json_walk_member(
        struct kz_json_walk *walk, struct kz_json_value *ret_key, struct kz_json_value *ret_value)
{
    struct kz_json_value key, value;

    if (walk->at == walk->end || !take_value(walk, ':', &key) || key.kind != KZ_JSON_STRING ||
            !take_value(walk, ',', &value))
        return false;
    *ret_key = key;
    *ret_value = value;
    return true;
}

bool kz_json_walk_element(struct kz_json_walk *walk, struct kz_json_value *ret_value)
{
    return walk->at != walk->end && take_value(walk, ',', ret_value);
}

static struct kz_json_value get_member(struct kz_json_value object, struct kz_str name)
{
    struct kz_json_walk walk = kz_json_walk(object);
    struct kz_json_value key, value;

    if (object.kind != KZ_JSON_OBJECT)
        return (struct kz_json_value){0};
    while (kz_json_walk_member(&walk, &key, &value)) {
        if (kz_json_is_str(key, name))
            return value;
    }
    return (struct kz_json_value){0};
}

static struct kz_json_value get_element(struct kz_json_value array, uint64_t index)
{
    struct kz_json_walk walk = kz_json_walk(array);
    struct kz_json_value value;

    if (array.kind != KZ_JSON_ARRAY)
        return (struct kz_json_value){0};
    while (kz_json_walk_element(&walk, &value)) {
        if (index-- == 0)
            return value;
    }
    return (struct kz_json_value){0};
}

struct kz_json_value kz_json_get(struct kz_json_value object, const char *name)
{
    return get_member(object, kz_str(name));
}

/* -- paths ------------------------------------------------------------------------------------ */

struct step {
    bool is_index;
    uint64_t index;
    struct kz_str name;
};

/* A name in quotes of its own kind, `at` behind the opening one; returns behind the closing one. */
static const char *quoted_name(const char *at, const char *end, char quote, struct step *ret_step)
{
    const char *close = memchr(at, quote, (size_t)(end - at));

    if (!close)
        return NULL;
    *ret_step = (struct step){.name = kz_str_n(at, (size_t)(close - at))};
    return close + 1;
}

/* One step of a path; NULL where it is written wrongly. */
static const char *path_step(const char *at, const char *end, struct step *ret_step)
{
    const char *from;

    if (end - at < 2)
        return NULL;
    if (*at == '.' && at[1] == '"')
        return quoted_name(at + 2, end, '"', ret_step);
    if (*at == '.') {
        for (from = ++at; at < end && *at != '.' && *at != '['; at++)
            ;
        *ret_step = (struct step){.name = kz_str_n(from, (size_t)(at - from))};
        return at > from ? at : NULL;
    }
    if (*at != '[')
        return NULL;
    at++;
    if (*at == '"' || *at == '\'') {
        at = quoted_name(at + 1, end, *at, ret_step);
    } else {
        *ret_step = (struct step){.is_index = true};
        for (from = at; at < end && (unsigned char)(*at - '0') <= 9 && at - from < 18; at++)
            ret_step->index = ret_step->index * 10 + (uint64_t)(*at - '0');
        if (at == from)
            return NULL;
    }
    return at && at < end && *at == ']' ? at + 1 : NULL;
}

struct kz_json_value kz_json_get_path(struct kz_json_value root, struct kz_str path)
{
    const char *at = path.ptr, *end = path.ptr + path.size;
    struct kz_json_value value = root;
    struct step step;

    if (path.size == 0 || *at++ != '$')
        return (struct kz_json_value){0};
    while (at < end && value.kind != KZ_JSON_NONE) {
        at = path_step(at, end, &step);
        if (!at)
            return (struct kz_json_value){0};
        value = step.is_index ? get_element(value, step.index) : get_member(value, step.name);
    }
    return value;
}

enum kz_code kz_json_path_check(struct kz_str path, struct kz_err *err)
{
    const char *at = path.ptr, *end = path.ptr + path.size;
    struct step step;

    if (path.size == 0 || *at != '$')
        return kz_fail(err, KZ_INVALID, "path \"" KZ_STR_FMT "\" does not begin with '$'",
                KZ_STR_ARG(path));
    for (at++; at < end;) {
        const char *next = path_step(at, end, &step);

        if (!next) {
            (void)kz_fail(err, KZ_INVALID, "path \"" KZ_STR_FMT "\" is wrong at byte %zu",
                    KZ_STR_ARG(path), (size_t)(at - path.ptr));
            return err ? kz_hint(err, "write it like $.name, $.\"any name\" or $.list[0]")
                       : KZ_INVALID;
        }
        at = next;
    }
    return KZ_OK;
}

/* -- strings ---------------------------------------------------------------------------------- */

/* What stands between the quotes. */
static struct kz_str inner(struct kz_json_value string)
{
    if (string.raw.size < 2)
        return KZ_STR("");
    return kz_str_n(string.raw.ptr + 1, string.raw.size - 2);
}

static uint32_t hex4(const char *at)
{
    uint32_t value = 0;

    for (int i = 0; i < 4; i++)
        value = value << 4 | ((uint32_t)kz_json_hex(at[i]) & 15);
    return value;
}

/* Decodes the escape at `at` (a backslash) into 1 to 4 bytes; returns behind it. */
static const char *decode_escape(const char *at, const char *end, char out[4], size_t *ret_size)
{
    uint32_t unit, low;

    *ret_size = 1;
    if (end - at < 2) {
        out[0] = '\\';
        return end;
    }
    switch (at[1]) {
    case 'b':
        out[0] = '\b';
        return at + 2;
    case 'f':
        out[0] = '\f';
        return at + 2;
    case 'n':
        out[0] = '\n';
        return at + 2;
    case 'r':
        out[0] = '\r';
        return at + 2;
    case 't':
        out[0] = '\t';
        return at + 2;
    case 'u':
        break;
    default:
        out[0] = at[1];
        return at + 2;
    }
    if (end - at < 6) {
        out[0] = 'u';
        return at + 2;
    }
    unit = hex4(at + 2);
    at += 6;
    if (unit >= 0xd800 && unit <= 0xdbff && end - at >= 6) {
        low = hex4(at + 2);
        unit = 0x10000 + ((unit - 0xd800) << 10) + ((low - 0xdc00) & 0x3ff);
        at += 6;
    }
    *ret_size = kz_utf8_put(out, unit);
    return at;
}

bool kz_json_is_str(struct kz_json_value string, struct kz_str text)
{
    struct kz_str s = inner(string);
    const char *at = s.size ? s.ptr : "", *end = at + s.size;
    size_t done = 0;

    if (string.kind != KZ_JSON_STRING)
        return false;
    if (!string.escaped)
        return kz_str_eq(s, text);
    while (at < end) {
        char piece[4];
        size_t size = 1;

        if (*at == '\\')
            at = decode_escape(at, end, piece, &size);
        else
            piece[0] = *at++;
        if (text.size - done < size || memcmp(text.ptr + done, piece, size) != 0)
            return false;
        done += size;
    }
    return done == text.size;
}

bool kz_json_is(struct kz_json_value string, const char *text)
{
    return kz_json_is_str(string, kz_str(text));
}

/* Into `out`, which holds as many bytes as `s`: no escape stands for more than it is long. */
static size_t unescape(struct kz_str s, char *out)
{
    const char *at = s.size ? s.ptr : "", *end = at + s.size;
    char *to = out;

    while (at < end) {
        const char *slash = memchr(at, '\\', (size_t)(end - at));
        size_t plain = (size_t)((slash ? slash : end) - at);
        char piece[4];
        size_t size;

        memcpy(to, at, plain);
        to += plain;
        if (!slash)
            break;
        at = decode_escape(slash, end, piece, &size);
        memcpy(to, piece, size);
        to += size;
    }
    return (size_t)(to - out);
}

enum kz_code kz_json_str(struct kz_json_value string, struct kz_arena *arena,
        struct kz_str *ret_str, struct kz_err *err)
{
    struct kz_str s = inner(string);
    char *out;

    if (string.kind != KZ_JSON_STRING)
        return kz_fail(
                err, KZ_INVALID, "expected a string, not %s", kz_json_kind_name(string.kind));
    if (!string.escaped) {
        *ret_str = s;
        return KZ_OK;
    }
    out = kz_arena_alloc(arena, s.size);
    if (!out)
        return kz_fail(err, KZ_TOO_LARGE, "no room for a string of %zu bytes", s.size);
    *ret_str = kz_str_n(out, unescape(s, out));
    return KZ_OK;
}

void kz_json_unescape(struct kz_json_value string, struct kz_buf *buf)
{
    struct kz_str s = inner(string);
    size_t before = buf->size;

    KZ_BUG_ON(string.kind != KZ_JSON_STRING);
    if (!string.escaped || s.size == 0)
        kz_buf_str(buf, s);
    else
        buf->size = before + unescape(s, kz_buf_extend(buf, s.size));
}

/* -- numbers ---------------------------------------------------------------------------------- */

/* Digits, decimal point and exponent of a number, as far as 19 digits and a small exponent go. */
struct decimal {
    uint64_t digits;
    int exponent;
    bool negative;
    bool exact; /* nothing was left out */
};

static struct decimal read_decimal(struct kz_str raw)
{
    const char *at = raw.ptr, *end = raw.ptr + raw.size;
    struct decimal d = {.exact = true};
    int exponent = 0, count = 0;
    bool behind_point = false, minus = false;

    if (at < end && *at == '-') {
        d.negative = true;
        at++;
    }
    for (; at < end && (*at | 0x20) != 'e'; at++) {
        if (*at == '.') {
            behind_point = true;
            continue;
        }
        if (d.digits || *at != '0')
            count++;
        if (count > 19) {
            d.exact = false;
            return d;
        }
        d.digits = d.digits * 10 + (uint64_t)(*at - '0');
        d.exponent -= behind_point && d.exponent > -10000;
    }
    if (at < end)
        at++;
    if (at < end && (*at == '+' || *at == '-'))
        minus = *at++ == '-';
    for (; at < end && exponent < 10000; at++)
        exponent = exponent * 10 + (*at - '0');
    d.exponent += minus ? -exponent : exponent;
    return d;
}

/* The C library's, which rounds correctly, on a terminated copy. */
static double slow_double(struct kz_str raw)
{
    char small[64];
    char *copy = raw.size < sizeof(small) ? small : kz_malloc(raw.size + 1);
    double value;

    memcpy(copy, raw.ptr, raw.size);
    copy[raw.size] = '\0';
    value = strtod(copy, NULL);
    if (copy != small)
        free(copy);
    return value;
}

/* Clinger's fast path: digits below 2^53 and a power of ten up to 22 are exact doubles, and one
 * correctly rounded operation on exact operands is correctly rounded. */
static double decimal_to_double(struct decimal d, struct kz_str raw)
{
    static const double powers[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
            1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    double value = (double)d.digits;

    if (!d.exact || d.digits > (uint64_t)1 << 53 || d.exponent < -22 || d.exponent > 22)
        return slow_double(raw);
    value = d.exponent < 0 ? value / powers[-d.exponent] : value * powers[d.exponent];
    return d.negative ? -value : value;
}

enum kz_code kz_json_number(
        struct kz_json_value value, struct kz_json_number *ret_number, struct kz_err *err)
{
    struct kz_json_number number = {0};
    struct decimal d;

    if (value.kind != KZ_JSON_INT && value.kind != KZ_JSON_FLOAT)
        return kz_fail(err, KZ_INVALID, "expected a number, not %s", kz_json_kind_name(value.kind));
    d = read_decimal(value.raw);
    if (value.kind == KZ_JSON_INT && d.exact && d.digits <= (uint64_t)INT64_MAX + d.negative) {
        number.is_int = true;
        number.i64 = (int64_t)(d.negative ? -d.digits : d.digits);
        number.f64 = (double)number.i64;
    } else {
        number.f64 = decimal_to_double(d, value.raw);
        if (isinf(number.f64))
            return kz_fail(err, KZ_INVALID, "number " KZ_STR_FMT " is beyond the range of a double",
                    (int)KZ_MIN(value.raw.size, (size_t)40), value.raw.ptr);
    }
    *ret_number = number;
    return KZ_OK;
}

enum kz_code kz_json_i64(struct kz_json_value value, int64_t *ret, struct kz_err *err)
{
    struct kz_json_number number;

    KZ_TRY(kz_json_number(value, &number, err));
    /* Beyond 2^53 a double no longer says which integer was meant. */
    if (!number.is_int && (number.f64 != trunc(number.f64) || fabs(number.f64) > 0x1p53))
        return kz_fail(err, KZ_INVALID, "expected an integer of 64 bits, not " KZ_STR_FMT,
                (int)KZ_MIN(value.raw.size, (size_t)40), value.raw.ptr);
    *ret = number.is_int ? number.i64 : (int64_t)number.f64;
    return KZ_OK;
}

enum kz_code kz_json_f64(struct kz_json_value value, double *ret, struct kz_err *err)
{
    struct kz_json_number number;

    KZ_TRY(kz_json_number(value, &number, err));
    *ret = number.f64;
    return KZ_OK;
}

/* -- text ------------------------------------------------------------------------------------- */

void kz_json_compact(struct kz_str text, struct kz_buf *buf)
{
    const char *at = text.ptr, *end = text.ptr + text.size;
    char *from, *to;
    bool ignored;

    if (text.size == 0)
        return;
    from = to = kz_buf_extend(buf, text.size);
    while (at < end) {
        if (*at == '"') {
            const char *next = skip_string(at + 1, end, &ignored);

            memcpy(to, at, (size_t)(next - at));
            to += next - at;
            at = next;
        } else if (kz_json_is_space(*at)) {
            at++;
        } else {
            *to++ = *at++;
        }
    }
    buf->size -= text.size - (size_t)(to - from);
}

struct kz_lines kz_lines(struct kz_str text)
{
    return (struct kz_lines){.rest = text};
}

bool kz_lines_next(struct kz_lines *lines, struct kz_str *ret_line)
{
    while (lines->rest.size) {
        struct kz_str *rest = &lines->rest;
        const char *end = memchr(rest->ptr, '\n', rest->size);
        size_t size = end ? (size_t)(end - rest->ptr) : rest->size;
        struct kz_str line = kz_str_n(rest->ptr, size);
        size_t used = size + (end != NULL);

        rest->ptr += used;
        rest->size -= used;
        lines->line++;
        if (line.size && line.ptr[line.size - 1] == '\r')
            line.size--;
        if (line.size &&
                kz_json_skip_space(line.ptr, line.ptr + line.size) < line.ptr + line.size) {
            *ret_line = line;
            return true;
        }
    }
    return false;
}
