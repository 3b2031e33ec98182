#include "codec/uuid.h"

#include "codec/hex.h"
#include "codec/json_int.h"

/* Sets version and variant, and writes 8-4-4-4-12. */
static const char *format(uint8_t bytes[16], int version, char out[KZ_UUID_BYTES])
{
    char digits[33];
    size_t from = 0, to = 0;

    bytes[6] = (uint8_t)(version << 4 | (bytes[6] & 15));
    bytes[8] = (uint8_t)(0x80 | (bytes[8] & 0x3f));
    kz_hex(bytes, 16, digits);
    while (from < 32) {
        if (from == 8 || from == 12 || from == 16 || from == 20)
            out[to++] = '-';
        out[to++] = digits[from++];
    }
    out[to] = '\0';
    return out;
}

/* 48 bits of time, big-endian, so that the text sorts; then the randomness. */
static void fill_by_time(int64_t ms, const uint8_t random[10], uint8_t bytes[16])
{
    for (int i = 0; i < 6; i++)
        bytes[i] = (uint8_t)((uint64_t)ms >> (40 - 8 * i));
    memcpy(bytes + 6, random, 10);
}

const char *kz_uuid_v4(const uint8_t random[16], char out[KZ_UUID_BYTES])
{
    uint8_t bytes[16];

    memcpy(bytes, random, 16);
    return format(bytes, 4, out);
}

const char *kz_uuid_v7(int64_t ms, const uint8_t random[10], char out[KZ_UUID_BYTES])
{
    uint8_t bytes[16];

    fill_by_time(ms, random, bytes);
    return format(bytes, 7, out);
}

const char *kz_ulid(int64_t ms, const uint8_t random[10], char out[KZ_ULID_BYTES])
{
    unsigned __int128 value = 0;
    uint8_t bytes[16];

    fill_by_time(ms, random, bytes);
    for (int i = 0; i < 16; i++)
        value = value << 8 | bytes[i];
    for (int i = 25; i >= 0; i--, value >>= 5)
        out[i] = "0123456789abcdefghjkmnpqrstvwxyz"[value & 31];
    out[26] = '\0';
    return out;
}

bool kz_uuid_is(struct kz_str text)
{
    if (text.size != KZ_UUID_BYTES - 1)
        return false;
    for (size_t i = 0; i < text.size; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;

        if (dash ? text.ptr[i] != '-' : kz_json_hex(text.ptr[i]) < 0)
            return false;
    }
    return true;
}
