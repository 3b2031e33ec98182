#include "codec/url.h"

#include "codec/json_int.h"

enum kz_code kz_url_decode(struct kz_str text, bool plus, struct kz_arena *arena,
        struct kz_str *ret_str, struct kz_err *err)
{
    char *out, *to;

    if (text.size == 0 ||
            (!memchr(text.ptr, '%', text.size) && !(plus && memchr(text.ptr, '+', text.size)))) {
        *ret_str = text;
        return KZ_OK;
    }
    to = out = kz_arena_alloc(arena, text.size);
    if (!out)
        return kz_fail(err, KZ_TOO_LARGE, "no room for a parameter of %zu bytes", text.size);
    for (size_t i = 0; i < text.size; i++) {
        char c = text.ptr[i];

        if (c == '+' && plus) {
            c = ' ';
        } else if (c == '%') {
            int high = text.size - i > 2 ? kz_json_hex(text.ptr[i + 1]) : -1;
            int low = text.size - i > 2 ? kz_json_hex(text.ptr[i + 2]) : -1;

            if (high < 0 || low < 0)
                return kz_fail(err, KZ_INVALID,
                        "'%%' at byte %zu of a URL needs two hexadecimal digits behind it", i);
            c = (char)(high << 4 | low);
            i += 2;
        }
        *to++ = c;
    }
    *ret_str = kz_str_n(out, (size_t)(to - out));
    return KZ_OK;
}

void kz_url_encode(struct kz_str text, struct kz_buf *buf)
{
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = (uint8_t)text.ptr[i];

        if ((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
                (c && strchr("-._~", c))) {
            kz_buf_u8(buf, c);
        } else {
            kz_buf_char(buf, '%');
            kz_buf_char(buf, "0123456789ABCDEF"[c >> 4]);
            kz_buf_char(buf, "0123456789ABCDEF"[c & 15]);
        }
    }
}

bool kz_query_next(struct kz_str *rest, struct kz_str *ret_name, struct kz_str *ret_value)
{
    while (rest->size) {
        const char *from = rest->ptr;
        const char *end = memchr(from, '&', rest->size);
        size_t size = end ? (size_t)(end - from) : rest->size;
        const char *equals = memchr(from, '=', size);
        size_t used = size + (end != NULL);

        rest->ptr += used;
        rest->size -= used;
        if (size == 0)
            continue;
        *ret_name = kz_str_n(from, equals ? (size_t)(equals - from) : size);
        *ret_value = equals ? kz_str_n(equals + 1, size - (size_t)(equals + 1 - from)) : KZ_STR("");
        return true;
    }
    return false;
}

enum kz_code kz_query_get(struct kz_str query, const char *name, struct kz_arena *arena,
        struct kz_str *ret_value, struct kz_err *err)
{
    struct kz_str raw_name, raw_value, decoded;

    while (kz_query_next(&query, &raw_name, &raw_value)) {
        KZ_TRY(kz_url_decode(raw_name, true, arena, &decoded, err));
        if (kz_str_is(decoded, name))
            return kz_url_decode(raw_value, true, arena, ret_value, err);
    }
    return kz_fail(err, KZ_NOT_FOUND, "no parameter \"%s\"", name);
}
