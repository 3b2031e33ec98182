#include "codec/utf8.h"

/* Skips what is plain ASCII, eight bytes at a time. */
static const char *skip_ascii(const char *at, const char *end)
{
    while (end - at >= 8 && !(kz_load_u64(at) & 0x8080808080808080ull))
        at += 8;
    while (at < end && (unsigned char)*at < 0x80)
        at++;
    return at;
}

bool kz_utf8_check(struct kz_str s, size_t *ret_bad_offset)
{
    const char *at = s.size ? s.ptr : "", *end = at + s.size;

    while ((at = skip_ascii(at, end)) < end) {
        size_t n = kz_utf8_char(at, end);

        if (n == 0) {
            if (ret_bad_offset)
                *ret_bad_offset = (size_t)(at - s.ptr);
            return false;
        }
        at += n;
    }
    return true;
}

void kz_utf8_clean(struct kz_str s, struct kz_buf *buf)
{
    const char *at = s.size ? s.ptr : "", *end = at + s.size;
    bool in_bad_run = false;

    while (at < end) {
        size_t n = kz_utf8_char(at, end);

        if (n)
            kz_buf_put(buf, at, n);
        else if (!in_bad_run)
            kz_buf_cstr(buf, "\xef\xbf\xbd");
        in_bad_run = n == 0;
        at += n ? n : 1;
    }
}

struct kz_str kz_utf8_cut(struct kz_str s, size_t size_max)
{
    size_t size = KZ_MIN(s.size, size_max);

    /* At most three bytes back: what is no UTF-8 anyway is simply cut. */
    for (int i = 0; size < s.size && size && i < 3 && (s.ptr[size] & 0xc0) == 0x80; i++)
        size--;
    return kz_str_n(s.ptr, size);
}

size_t kz_utf8_put(char out[4], uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}
