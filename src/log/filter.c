#include "log/filter.h"

#include "base/hash.h"

enum { WORDS = 8 };

/* BloomFilter.md: odd constants, one a word; stored filters depend on them. */
static const uint32_t salt[WORDS] = {0x47b6137bu, 0x44974d91u, 0x8824ad5bu, 0xa2b7289du,
        0x705495c7u, 0x2df1424bu, 0x9efc4947u, 0x5c6bfb31u};

size_t kz_filter_size(size_t key_count)
{
    size_t block_bits = KZ_FILTER_BLOCK_BYTES * 8;

    return (key_count * KZ_FILTER_KEY_BITS + block_bits - 1) / block_bits * KZ_FILTER_BLOCK_BYTES;
}

/* The block's number: hash's upper half scaled to the range, which needs no division (Lemire). */
static size_t block_offset(size_t size, uint64_t hash)
{
    uint64_t block_count = size / KZ_FILTER_BLOCK_BYTES;

    return (size_t)(((hash >> 32) * block_count) >> 32) * KZ_FILTER_BLOCK_BYTES;
}

void kz_filter_add(void *bytes, size_t size, uint64_t key)
{
    uint64_t hash = kz_hash_mix(key, 0);
    char *block = (char *)bytes + block_offset(size, hash);

    for (int i = 0; i < WORDS; i++) {
        uint32_t bit = 1u << (((uint32_t)hash * salt[i]) >> 27);

        kz_store_u32(block + 4 * i, kz_load_u32(block + 4 * i) | bit);
    }
}

void kz_filter_prefetch(const void *bytes, size_t size, uint64_t key)
{
    if (size >= KZ_FILTER_BLOCK_BYTES)
        __builtin_prefetch((const char *)bytes + block_offset(size, kz_hash_mix(key, 0)));
}

bool kz_filter_has(const void *bytes, size_t size, uint64_t key)
{
    uint64_t hash = kz_hash_mix(key, 0);
    const char *block;
    uint32_t missing = 0;

    if (size < KZ_FILTER_BLOCK_BYTES)
        return false;
    block = (const char *)bytes + block_offset(size, hash);
    for (int i = 0; i < WORDS; i++)
        missing |= ~kz_load_u32(block + 4 * i) & (1u << (((uint32_t)hash * salt[i]) >> 27));
    return missing == 0;
}
