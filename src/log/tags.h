/* log/tags.h -- the keys of a sealed segment as 32 bits each, sorted: "certainly not here, or
 * probably", and all of them again where a filter over many segments is made.
 *
 * A tag is half a hash, so a foreign key is taken for one of n in n of 4 billion cases. Tags are
 * spread evenly; a look-up guesses the place and is there after two or three cache misses.
 *
 * Owner    the caller owns the array, which goes to disk as it is (little-endian).
 * Threads  pure.
 * Fails    never. No key that is in there is denied.
 */
#pragma once

#include "base/base.h"
#include "base/hash.h"

static inline uint32_t kz_tag(uint64_t key)
{
    return (uint32_t)(kz_hash_mix(key, 0) >> 32);
}

void kz_tags_sort(uint32_t *tags, size_t count);
bool kz_tags_have(const uint32_t *tags, size_t count, uint32_t tag);
