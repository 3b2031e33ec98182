#include "codec/base64.h"

static const char letters[2][65] = {
        [KZ_BASE64_STD] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
        [KZ_BASE64_URL] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
};

void kz_base64_encode(struct kz_str data, enum kz_base64 alphabet, struct kz_buf *buf)
{
    const uint8_t *at = (const uint8_t *)data.ptr;

    kz_buf_reserve(buf, data.size / 3 * 4 + 4);
    for (size_t left = data.size; left; left -= KZ_MIN(left, (size_t)3), at += 3) {
        uint32_t bits = (uint32_t)at[0] << 16 | (left > 1 ? (uint32_t)at[1] << 8 : 0) |
                        (left > 2 ? at[2] : 0);
        size_t count = KZ_MIN(left, (size_t)3) + 1;

        for (size_t i = 0; i < count; i++)
            kz_buf_char(buf, letters[alphabet][bits >> (18 - 6 * i) & 63]);
        for (size_t i = count; i < 4 && alphabet == KZ_BASE64_STD; i++)
            kz_buf_char(buf, '=');
    }
}

static int letter_value(char c, enum kz_base64 alphabet)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == letters[alphabet][62])
        return 62;
    return c == letters[alphabet][63] ? 63 : -1;
}

enum kz_code kz_base64_decode(
        struct kz_str text, enum kz_base64 alphabet, struct kz_buf *buf, struct kz_err *err)
{
    size_t size = text.size, before = buf->size, used;
    uint32_t bits = 0;

    for (int i = 0; i < 2 && size && text.ptr[size - 1] == '='; i++)
        size--;
    /* A padded text comes in fours; standard texts are padded. */
    if ((size != text.size || alphabet == KZ_BASE64_STD) && text.size % 4 != 0)
        return kz_fail(err, KZ_INVALID, "base64 text of %zu characters is cut off", text.size);
    if (size % 4 == 1)
        return kz_fail(err, KZ_INVALID, "base64 text of %zu characters is cut off", text.size);
    for (size_t i = 0; i < size; i++) {
        int value = letter_value(text.ptr[i], alphabet);

        if (value < 0) {
            buf->size = before;
            return kz_fail(err, KZ_INVALID, "no base64 letter at offset %zu", i);
        }
        bits = bits << 6 | (uint32_t)value;
        if (i % 4)
            kz_buf_u8(buf, (uint8_t)(bits >> (6 - 2 * (i % 4))));
    }
    used = size % 4;
    if ((used == 2 && bits & 15) || (used == 3 && bits & 3)) {
        buf->size = before;
        return kz_fail(err, KZ_INVALID, "base64 text ends in bits that mean nothing");
    }
    return KZ_OK;
}
