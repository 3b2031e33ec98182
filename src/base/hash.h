/* base/hash.h -- the one hash of Kizashi: XXH3, 64 bit (xxhash.com, by libxxhash).
 *
 * Values are stored on disk (owners, filters, request ids), so neither the function nor the seeds
 * may change without a new format version.
 */
#pragma once

#include "base/base.h"

uint64_t kz_hash(const void *data, size_t size);
uint64_t kz_hash_seed(const void *data, size_t size, uint64_t seed);

static inline uint64_t kz_hash_str(struct kz_str s)
{
    return kz_hash(s.ptr, s.size);
}

/* Folds a second hash into a first; order matters (the finalizer of splitmix64). */
static inline uint64_t kz_hash_mix(uint64_t a, uint64_t b)
{
    uint64_t x = a * 0x9e3779b97f4a7c15ull + b;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}
