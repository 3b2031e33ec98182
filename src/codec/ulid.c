#include "codec/ulid.h"

#include <string.h>

/* 48 bits of time, big-endian, so that the text sorts; then the randomness. */
static void fill_by_time(int64_t ms, const uint8_t random[10], uint8_t bytes[16])
{
    for (int i = 0; i < 6; i++)
        bytes[i] = (uint8_t)((uint64_t)ms >> (40 - 8 * i));
    memcpy(bytes + 6, random, 10);
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
