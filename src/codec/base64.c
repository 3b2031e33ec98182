#include "codec/base64.h"

static const char letters[2][65] = {
        [KZ_BASE64_STD] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
        [KZ_BASE64_URL] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
};

void kz_base64_encode(struct kz_str data, enum kz_base64 alphabet, struct kz_buf *buf)
{
    const char *const of = letters[alphabet];
    const uint8_t *from = (const uint8_t *)data.ptr;
    size_t left = data.size;
    char *to;

    kz_buf_reserve(buf, data.size / 3 * 4 + 4);
    to = buf->data + buf->size;
    for (; left >= 3; left -= 3, from += 3, to += 4) {
        uint32_t bits = (uint32_t)from[0] << 16 | (uint32_t)from[1] << 8 | from[2];

        to[0] = of[bits >> 18];
        to[1] = of[bits >> 12 & 63];
        to[2] = of[bits >> 6 & 63];
        to[3] = of[bits & 63];
    }
    if (left) {
        uint32_t bits = (uint32_t)from[0] << 16 | (left > 1 ? (uint32_t)from[1] << 8 : 0);

        *to++ = of[bits >> 18];
        *to++ = of[bits >> 12 & 63];
        if (left > 1)
            *to++ = of[bits >> 6 & 63];
        for (; alphabet == KZ_BASE64_STD && left < 3; left++)
            *to++ = '=';
    }
    buf->size = (size_t)(to - buf->data);
}

/* One more than what a letter stands for; 0: it is none. */
#define LETTERS(a62, a63)                                                                          \
    {                                                                                              \
        ['A'] = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, \
        24, 25, 26, ['a'] = 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,    \
        44, 45, 46, 47, 48, 49, 50, 51, 52, ['0'] = 53, 54, 55, 56, 57, 58, 59, 60, 61,            \
        62, [a62] = 63, [a63] = 64,                                                                \
    }
static const uint8_t values[2][256] = {
        [KZ_BASE64_STD] = LETTERS('+', '/'),
        [KZ_BASE64_URL] = LETTERS('-', '_'),
};

enum kz_code kz_base64_decode(
        struct kz_str text, enum kz_base64 alphabet, struct kz_buf *buf, struct kz_err *err)
{
    const uint8_t *const value = values[alphabet], *from = (const uint8_t *)text.ptr;
    size_t size = text.size, before = buf->size, used, at = 0;
    uint32_t bits = 0;
    char *to;

    for (int i = 0; i < 2 && size && text.ptr[size - 1] == '='; i++)
        size--;
    /* A padded text comes in fours; standard texts are padded. */
    if ((size != text.size || alphabet == KZ_BASE64_STD) && text.size % 4 != 0)
        return kz_fail(err, KZ_INVALID, "base64 text of %zu characters is cut off", text.size);
    if (size % 4 == 1)
        return kz_fail(err, KZ_INVALID, "base64 text of %zu characters is cut off", text.size);
    to = kz_buf_extend(buf, size / 4 * 3 + size % 4 * 3 / 4);
    for (; size - at >= 4; at += 4, to += 3) {
        uint8_t a = value[from[at]], b = value[from[at + 1]], c = value[from[at + 2]],
                d = value[from[at + 3]];

        if (KZ_UNLIKELY(!a || !b || !c || !d))
            break;
        bits = (a - 1u) << 18 | (b - 1u) << 12 | (c - 1u) << 6 | (d - 1u);
        to[0] = (char)(bits >> 16);
        to[1] = (char)(bits >> 8);
        to[2] = (char)bits;
    }
    while (at < size && value[from[at]])
        at++;
    if (at < size) {
        buf->size = before;
        return kz_fail(err, KZ_INVALID, "no base64 letter at offset %zu", at);
    }
    used = size % 4;
    bits = 0;
    for (size_t i = size - used; i < size; i++)
        bits = bits << 6 | (value[from[i]] - 1u);
    if ((used == 2 && bits & 15) || (used == 3 && bits & 3)) {
        buf->size = before;
        return kz_fail(err, KZ_INVALID, "base64 text ends in bits that mean nothing");
    }
    if (used == 2)
        to[0] = (char)(bits >> 4);
    if (used == 3) {
        to[0] = (char)(bits >> 10);
        to[1] = (char)(bits >> 2);
    }
    return KZ_OK;
}
