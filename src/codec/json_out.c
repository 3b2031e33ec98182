#include "codec/json_out.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/json_int.h"
#include "codec/utf8.h"

struct kz_json_out kz_json_out(struct kz_buf *buf)
{
    return (struct kz_json_out){.buf = buf};
}

/* What every value and key begins with, and leaves behind. */
static void separate(struct kz_json_out *out)
{
    if (out->comma)
        kz_buf_char(out->buf, ',');
    out->comma = true;
}

static void open_bracket(struct kz_json_out *out, char bracket)
{
    separate(out);
    kz_buf_char(out->buf, bracket);
    out->comma = false;
    out->depth++;
}

static void close_bracket(struct kz_json_out *out, char bracket)
{
    KZ_BUG_ON(out->depth == 0);
    kz_buf_char(out->buf, bracket);
    out->comma = true;
    out->depth--;
}

void kz_json_out_object(struct kz_json_out *out)
{
    open_bracket(out, '{');
}

void kz_json_out_object_end(struct kz_json_out *out)
{
    close_bracket(out, '}');
}

void kz_json_out_array(struct kz_json_out *out)
{
    open_bracket(out, '[');
}

void kz_json_out_array_end(struct kz_json_out *out)
{
    close_bracket(out, ']');
}

void kz_json_out_key_str(struct kz_json_out *out, struct kz_str name)
{
    separate(out);
    kz_json_quote(out->buf, name);
    kz_buf_char(out->buf, ':');
    out->comma = false;
}

void kz_json_out_key(struct kz_json_out *out, const char *name)
{
    kz_json_out_key_str(out, kz_str(name));
}

void kz_json_out_str(struct kz_json_out *out, struct kz_str s)
{
    separate(out);
    kz_json_quote(out->buf, s);
}

void kz_json_out_cstr(struct kz_json_out *out, const char *s)
{
    if (s)
        kz_json_out_str(out, kz_str(s));
    else
        kz_json_out_null(out);
}

static void put_u64(struct kz_buf *buf, uint64_t v)
{
    char digits[20];
    size_t n = sizeof(digits);

    do {
        digits[--n] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    kz_buf_put(buf, digits + n, sizeof(digits) - n);
}

void kz_json_out_u64(struct kz_json_out *out, uint64_t v)
{
    separate(out);
    put_u64(out->buf, v);
}

void kz_json_out_i64(struct kz_json_out *out, int64_t v)
{
    separate(out);
    if (v < 0)
        kz_buf_char(out->buf, '-');
    put_u64(out->buf, v < 0 ? -(uint64_t)v : (uint64_t)v);
}

void kz_json_out_f64(struct kz_json_out *out, double v)
{
    separate(out);
    kz_json_double(out->buf, v);
}

void kz_json_out_bool(struct kz_json_out *out, bool v)
{
    kz_json_out_raw(out, v ? KZ_STR("true") : KZ_STR("false"));
}

void kz_json_out_null(struct kz_json_out *out)
{
    kz_json_out_raw(out, KZ_STR("null"));
}

void kz_json_out_raw(struct kz_json_out *out, struct kz_str json)
{
    separate(out);
    kz_buf_str(out->buf, json);
}

void kz_json_out_kv_cstr(struct kz_json_out *out, const char *name, const char *v)
{
    kz_json_out_key(out, name);
    kz_json_out_cstr(out, v);
}

void kz_json_out_kv_str(struct kz_json_out *out, const char *name, struct kz_str v)
{
    kz_json_out_key(out, name);
    kz_json_out_str(out, v);
}

void kz_json_out_kv_i64(struct kz_json_out *out, const char *name, int64_t v)
{
    kz_json_out_key(out, name);
    kz_json_out_i64(out, v);
}

void kz_json_out_kv_u64(struct kz_json_out *out, const char *name, uint64_t v)
{
    kz_json_out_key(out, name);
    kz_json_out_u64(out, v);
}

void kz_json_out_kv_f64(struct kz_json_out *out, const char *name, double v)
{
    kz_json_out_key(out, name);
    kz_json_out_f64(out, v);
}

void kz_json_out_kv_bool(struct kz_json_out *out, const char *name, bool v)
{
    kz_json_out_key(out, name);
    kz_json_out_bool(out, v);
}

void kz_json_out_kv_raw(struct kz_json_out *out, const char *name, struct kz_str json)
{
    kz_json_out_key(out, name);
    kz_json_out_raw(out, json);
}

static void put_escape(struct kz_buf *buf, unsigned char c)
{
    static const char names[32] = {
            ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};

    if (c == '"' || c == '\\' || names[c]) {
        kz_buf_char(buf, '\\');
        kz_buf_char(buf, c < 32 ? names[c] : (char)c);
    } else {
        kz_buf_printf(buf, "\\u%04x", c);
    }
}

void kz_json_quote(struct kz_buf *buf, struct kz_str s)
{
    const char *at = s.size ? s.ptr : "", *end = at + s.size;

    kz_buf_reserve(buf, s.size + 2);
    kz_buf_char(buf, '"');
    while (at < end) {
        const char *special = kz_json_find_special(at, end);
        const char *bad;

        kz_buf_put(buf, at, (size_t)(special - at));
        at = special;
        if (at == end)
            break;
        if ((unsigned char)*at < 0x80) {
            put_escape(buf, (unsigned char)*at++);
            continue;
        }
        bad = at;
        while (at < end && (unsigned char)*at >= 0x80 && kz_utf8_char(at, end) == 0)
            at++;
        if (at > bad) {
            kz_buf_cstr(buf, "\xef\xbf\xbd");
        } else {
            at += kz_utf8_char(at, end);
            kz_buf_put(buf, bad, (size_t)(at - bad));
        }
    }
    kz_buf_char(buf, '"');
}

void kz_json_double(struct kz_buf *buf, double v)
{
    char text[40];

    if (!isfinite(v)) {
        kz_buf_cstr(buf, "null");
        return;
    }
    if (v == trunc(v) && fabs(v) < 1e15) {
        if (signbit(v))
            kz_buf_char(buf, '-');
        put_u64(buf, (uint64_t)fabs(v));
        kz_buf_cstr(buf, ".0");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, v);
        if (digits == 17 || strtod(text, NULL) == v)
            break;
    }
    kz_buf_cstr(buf, text);
    if (!strpbrk(text, ".e"))
        kz_buf_cstr(buf, ".0");
}
