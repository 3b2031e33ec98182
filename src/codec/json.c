/* The strict parser. Going through what it has passed is in json_value.c. */
#include "codec/json.h"

#include "codec/json_int.h"
#include "codec/utf8.h"

/* Where and why the text was refused; scanners return NULL once this is filled. */
struct scan {
    const char *end;
    const char *fail_at;
    const char *expected; /* "expected X", or NULL where `what` says it all */
    const char *what;
    bool escaped;  /* the string scanned last */
    bool is_float; /* the number scanned last */
};

static const char *expect(struct scan *s, const char *at, const char *expected)
{
    s->fail_at = at;
    s->expected = expected;
    return NULL;
}

static const char *refuse(struct scan *s, const char *at, const char *what)
{
    s->fail_at = at;
    s->what = what;
    return NULL;
}

/* -- scalars ---------------------------------------------------------------------------------- */

/* Four digits at `at`, or -1 with the failure noted. */
static int scan_hex4(struct scan *s, const char *at)
{
    int value = 0;

    for (int i = 0; i < 4; i++) {
        int digit = at + i < s->end ? kz_json_hex(at[i]) : -1;

        if (digit < 0) {
            expect(s, at + i, "four hexadecimal digits");
            return -1;
        }
        value = value << 4 | digit;
    }
    return value;
}

/* `at` is the backslash. */
static const char *scan_escape(struct scan *s, const char *at)
{
    int unit;

    if (at + 1 == s->end)
        return expect(s, at + 1, "an escape");
    switch (at[1]) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        return at + 2;
    case 'u':
        break;
    default:
        return expect(s, at + 1, "an escape");
    }
    unit = scan_hex4(s, at + 2);
    if (unit < 0)
        return NULL;
    if (unit < 0xd800 || unit > 0xdfff)
        return at + 6;
    if (unit > 0xdbff || s->end - at < 8 || at[6] != '\\' || at[7] != 'u')
        return refuse(s, at, "unpaired surrogate in a string");
    unit = scan_hex4(s, at + 8);
    if (unit < 0)
        return NULL;
    if (unit < 0xdc00 || unit > 0xdfff)
        return refuse(s, at, "unpaired surrogate in a string");
    return at + 12;
}

/* `at` is behind the opening quote; returns behind the closing one. */
static const char *scan_string(struct scan *s, const char *at)
{
    s->escaped = false;
    for (;;) {
        at = kz_json_find_special(at, s->end);
        if (KZ_UNLIKELY(at == s->end))
            return expect(s, at, "'\"'");
        if (KZ_LIKELY(*at == '"'))
            return at + 1;
        if (*at == '\\') {
            s->escaped = true;
            at = scan_escape(s, at);
            if (!at)
                return NULL;
            continue;
        }
        if ((unsigned char)*at < 0x20)
            return refuse(s, at, "control character in a string");
        while (at < s->end && (unsigned char)*at >= 0x80) {
            size_t n = kz_utf8_char(at, s->end);

            if (n == 0)
                return refuse(s, at, "invalid UTF-8 in a string");
            at += n;
        }
    }
}

static bool is_digit(const char *at, const char *end)
{
    return at < end && (unsigned char)(*at - '0') <= 9;
}

static const char *scan_number(struct scan *s, const char *at)
{
    const char *end = s->end;

    s->is_float = false;
    at += *at == '-';
    if (!is_digit(at, end))
        return expect(s, at, "a digit");
    if (*at == '0')
        at++;
    else
        while (is_digit(at, end))
            at++;
    if (is_digit(at, end))
        return refuse(s, at - 1, "leading zero in a number");
    if (at < end && *at == '.') {
        s->is_float = true;
        at++;
        if (!is_digit(at, end))
            return expect(s, at, "a digit");
        while (is_digit(at, end))
            at++;
    }
    if (at < end && (*at | 0x20) == 'e') {
        s->is_float = true;
        at++;
        if (at < end && (*at == '+' || *at == '-'))
            at++;
        if (!is_digit(at, end))
            return expect(s, at, "a digit");
        while (is_digit(at, end))
            at++;
    }
    return at;
}

static const char *scan_word(struct scan *s, const char *at, const char *word)
{
    for (; *word; at++, word++) {
        if (at == s->end || *at != *word)
            return expect(s, at, "null, true or false");
    }
    return at;
}

static const char *scan_scalar(struct scan *s, const char *at)
{
    switch (at < s->end ? *at : '\0') {
    case '"':
        return scan_string(s, at + 1);
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9':
        return scan_number(s, at);
    case 't':
        return scan_word(s, at, "true");
    case 'f':
        return scan_word(s, at, "false");
    case 'n':
        return scan_word(s, at, "null");
    default:
        return expect(s, at, "a value");
    }
}

/* -- whole values ----------------------------------------------------------------------------- */

/* `at` is at the key; returns behind the colon. */
static const char *scan_key(struct scan *s, const char *at)
{
    if (KZ_UNLIKELY(at == s->end || *at != '"'))
        return expect(s, at, "a member name");
    at = scan_string(s, at + 1);
    if (KZ_UNLIKELY(!at))
        return NULL;
    at = kz_json_skip_space(at, s->end);
    if (KZ_UNLIKELY(at == s->end || *at != ':'))
        return expect(s, at, "':'");
    return at + 1;
}

/* A whole value, `at` its first byte, with up to `depth_max` brackets open at a time. Iterative, so
 * that hostile nesting costs a byte a level and no stack. */
static const char *scan_value(struct scan *s, const char *at, uint32_t depth_max)
{
    char closing[KZ_JSON_DEPTH_MAX]; /* of each open bracket */
    uint32_t depth = 0;

    for (;;) {
        if (at < s->end && (*at == '{' || *at == '[')) {
            bool is_object = *at == '{';

            if (KZ_UNLIKELY(depth == depth_max))
                return refuse(s, at, "nested too deeply");
            closing[depth++] = is_object ? '}' : ']';
            at = kz_json_skip_space(at + 1, s->end);
            if (at == s->end || *at != closing[depth - 1]) {
                if (is_object) {
                    at = scan_key(s, at);
                    if (KZ_UNLIKELY(!at))
                        return NULL;
                    at = kz_json_skip_space(at, s->end);
                }
                continue;
            }
        } else {
            at = scan_scalar(s, at);
            if (KZ_UNLIKELY(!at))
                return NULL;
        }
        /* Behind a value, or at the bracket that closes an empty one. */
        while (depth) {
            at = kz_json_skip_space(at, s->end);
            if (at == s->end || *at != closing[depth - 1])
                break;
            at++;
            depth--;
        }
        if (depth == 0)
            return at;
        if (KZ_UNLIKELY(at == s->end || *at != ','))
            return expect(s, at, closing[depth - 1] == '}' ? "',' or '}'" : "',' or ']'");
        at = kz_json_skip_space(at + 1, s->end);
        if (closing[depth - 1] == '}') {
            at = scan_key(s, at);
            if (KZ_UNLIKELY(!at))
                return NULL;
            at = kz_json_skip_space(at, s->end);
        }
    }
}

/* -- the parser ------------------------------------------------------------------------------- */

static enum kz_code fail_scan(const struct kz_json *json, const struct scan *s, struct kz_err *err)
{
    const char *at = s->fail_at;
    size_t offset = (size_t)(at - json->start);

    if (s->what)
        return kz_fail(err, KZ_INVALID, "%s at byte %zu", s->what, offset);
    if (at == json->end)
        return kz_fail(
                err, KZ_INVALID, "unexpected end at byte %zu, expected %s", offset, s->expected);
    if (*at > ' ' && *at < 0x7f)
        return kz_fail(err, KZ_INVALID, "unexpected '%c' at byte %zu, expected %s", *at, offset,
                s->expected);
    return kz_fail(err, KZ_INVALID, "unexpected byte 0x%02x at byte %zu, expected %s",
            (unsigned char)*at, offset, s->expected);
}

static enum kz_code fail_expected(
        struct kz_json *json, const char *at, const char *expected, struct kz_err *err)
{
    struct scan s = {.fail_at = at, .expected = expected};

    return fail_scan(json, &s, err);
}

static enum kz_json_kind kind_of(const struct scan *s, char first)
{
    switch (first) {
    case '{':
        return KZ_JSON_OBJECT;
    case '[':
        return KZ_JSON_ARRAY;
    case '"':
        return KZ_JSON_STRING;
    case 't':
        return KZ_JSON_TRUE;
    case 'f':
        return KZ_JSON_FALSE;
    case 'n':
        return KZ_JSON_NULL;
    default:
        return s->is_float ? KZ_JSON_FLOAT : KZ_JSON_INT;
    }
}

void kz_json_init(struct kz_json *json, struct kz_str text, uint32_t depth_max)
{
    if (depth_max == 0)
        depth_max = KZ_JSON_DEPTH_DEFAULT;
    if (!text.ptr)
        text = KZ_STR("");
    *json = (struct kz_json){
            .start = text.ptr,
            .at = text.ptr,
            .end = text.ptr + text.size,
            .depth_max = KZ_MIN(depth_max, (uint32_t)KZ_JSON_DEPTH_MAX),
    };
}

/* kz_json_value() and kz_json_key() are inlined into their pairs, so that no struct written in
 * pieces is copied whole right after, which would wait for the store buffer. */
static inline __attribute__((always_inline)) enum kz_code read_value(
        struct kz_json *json, struct kz_json_value *ret_value, struct kz_err *err)
{
    struct scan s = {.end = json->end};
    const char *from = kz_json_skip_space(json->at, json->end);
    const char *to = scan_value(&s, from, json->depth_max - json->depth);

    if (KZ_UNLIKELY(!to))
        return fail_scan(json, &s, err);
    json->at = to;
    json->first = false;
    *ret_value = (struct kz_json_value){
            .raw = kz_str_n(from, (size_t)(to - from)),
            .kind = kind_of(&s, *from),
            .escaped = *from == '"' && s.escaped,
    };
    return KZ_OK;
}

enum kz_code kz_json_value(
        struct kz_json *json, struct kz_json_value *ret_value, struct kz_err *err)
{
    return read_value(json, ret_value, err);
}

enum kz_code kz_json_open(struct kz_json *json, enum kz_json_kind kind, struct kz_err *err)
{
    const char *at = kz_json_skip_space(json->at, json->end);

    KZ_BUG_ON(kind != KZ_JSON_OBJECT && kind != KZ_JSON_ARRAY);
    if (at == json->end || *at != (kind == KZ_JSON_OBJECT ? '{' : '['))
        return fail_expected(json, at, kz_json_kind_name(kind), err);
    if (json->depth == json->depth_max) {
        struct scan s = {.fail_at = at, .what = "nested too deeply"};

        return fail_scan(json, &s, err);
    }
    json->depth++;
    json->at = at + 1;
    json->first = true;
    return KZ_OK;
}

/* To the next element or key, or out of the bracket. */
static enum kz_code next_item(struct kz_json *json, char closing, const char *expected,
        bool *ret_more, struct kz_err *err)
{
    const char *at = kz_json_skip_space(json->at, json->end);

    KZ_BUG_ON(json->depth == 0);
    if (at < json->end && *at == closing) {
        json->at = at + 1;
        json->depth--;
        json->first = false;
        *ret_more = false;
        return KZ_OK;
    }
    if (!json->first) {
        if (at == json->end || *at != ',')
            return fail_expected(json, at, expected, err);
        at = kz_json_skip_space(at + 1, json->end);
    }
    json->at = at;
    *ret_more = true;
    return KZ_OK;
}

static inline __attribute__((always_inline)) enum kz_code read_key(
        struct kz_json *json, bool *ret_more, struct kz_json_value *ret_key, struct kz_err *err)
{
    struct scan s = {.end = json->end};
    bool more = false;
    const char *from, *to;

    KZ_TRY(next_item(json, '}', "',' or '}'", &more, err));
    if (more) {
        from = json->at;
        if (from == json->end || *from != '"')
            return fail_expected(json, from, "a member name", err);
        to = scan_string(&s, from + 1);
        if (!to)
            return fail_scan(json, &s, err);
        json->at = kz_json_skip_space(to, json->end);
        if (json->at == json->end || *json->at != ':')
            return fail_expected(json, json->at, "':'", err);
        json->at++;
        *ret_key = (struct kz_json_value){
                kz_str_n(from, (size_t)(to - from)), KZ_JSON_STRING, s.escaped};
    }
    *ret_more = more;
    return KZ_OK;
}

enum kz_code kz_json_key(
        struct kz_json *json, bool *ret_more, struct kz_json_value *ret_key, struct kz_err *err)
{
    return read_key(json, ret_more, ret_key, err);
}

enum kz_code kz_json_more(struct kz_json *json, bool *ret_more, struct kz_err *err)
{
    return next_item(json, ']', "',' or ']'", ret_more, err);
}

enum kz_code kz_json_member(struct kz_json *json, bool *ret_more, struct kz_json_value *ret_key,
        struct kz_json_value *ret_value, struct kz_err *err)
{
    struct kz_json_value key = {0};
    bool more = false;

    KZ_TRY(read_key(json, &more, &key, err));
    if (more) {
        KZ_TRY(read_value(json, ret_value, err));
        *ret_key = key;
    }
    *ret_more = more;
    return KZ_OK;
}

enum kz_code kz_json_element(
        struct kz_json *json, bool *ret_more, struct kz_json_value *ret_value, struct kz_err *err)
{
    bool more = false;

    KZ_TRY(kz_json_more(json, &more, err));
    if (more)
        KZ_TRY(kz_json_value(json, ret_value, err));
    *ret_more = more;
    return KZ_OK;
}

enum kz_code kz_json_end(struct kz_json *json, struct kz_err *err)
{
    json->at = kz_json_skip_space(json->at, json->end);
    if (json->at != json->end)
        return fail_expected(json, json->at, "the end", err);
    return KZ_OK;
}

enum kz_code kz_json_parse(
        struct kz_str text, uint32_t depth_max, struct kz_json_value *ret_root, struct kz_err *err)
{
    struct kz_json_value root;
    struct kz_json json;

    kz_json_init(&json, text, depth_max);
    KZ_TRY(kz_json_value(&json, &root, err));
    KZ_TRY(kz_json_end(&json, err));
    *ret_root = root;
    return KZ_OK;
}

const char *kz_json_kind_name(enum kz_json_kind kind)
{
    switch (kind) {
    case KZ_JSON_NONE:
        break;
    case KZ_JSON_NULL:
        return "null";
    case KZ_JSON_FALSE:
        return "false";
    case KZ_JSON_TRUE:
        return "true";
    case KZ_JSON_INT:
        return "an integer";
    case KZ_JSON_FLOAT:
        return "a number";
    case KZ_JSON_STRING:
        return "a string";
    case KZ_JSON_ARRAY:
        return "an array";
    case KZ_JSON_OBJECT:
        return "an object";
    }
    return "nothing";
}
