#include "codec/hex.h"

#include "codec/json_int.h"

const char *kz_hex(const void *data, size_t size, char *out)
{
    const uint8_t *at = data;

    for (size_t i = 0; i < size; i++) {
        out[2 * i] = "0123456789abcdef"[at[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[at[i] & 15];
    }
    out[2 * size] = '\0';
    return out;
}

enum kz_code kz_hex_decode(struct kz_str text, void *data, size_t size, struct kz_err *err)
{
    uint8_t *to = data;

    if (text.size != 2 * size)
        return kz_fail(
                err, KZ_INVALID, "expected %zu hexadecimal digits, not %zu", 2 * size, text.size);
    for (size_t i = 0; i < text.size; i++) {
        int digit = kz_json_hex(text.ptr[i]);

        if (digit < 0)
            return kz_fail(err, KZ_INVALID, "no hexadecimal digit at offset %zu", i);
        to[i / 2] = (uint8_t)(i % 2 ? to[i / 2] | digit : digit << 4);
    }
    return KZ_OK;
}
