/* log/filter.h -- "certainly not here, or probably": a split block Bloom filter over 64-bit keys.
 *
 * The design is Apache Parquet's (parquet-format, BloomFilter.md; after Putze, Sanders and Singler,
 * "Cache-, Hash- and Space-Efficient Bloom Filters", 2007): a key picks one block of 32 bytes, half
 * a cache line, by its upper half and sets one bit in each of the block's eight words by its lower
 * half. So a probe costs one cache miss at most. Unlike Parquet, keys are mixed first
 * (kz_hash_mix), because not every key of ours is a hash.
 *
 * Owner    the caller owns the bytes, which are the whole state and go to disk as they are.
 * Threads  pure.
 * Fails    never. No key ever added is denied.
 */
#pragma once

#include "base/base.h"

/* Bits a key for about one false "probably" in 10,000. The eight-bit blocks fill unevenly, so this
 * is more than the 19 bits of an ideal Bloom filter (BloomFilter.md, "Sizing"). */
enum { KZ_FILTER_KEY_BITS = 26, KZ_FILTER_BLOCK_BYTES = 32 };

/* Bytes of a filter for `key_count` keys: a multiple of the block, 0 for none. */
size_t kz_filter_size(size_t key_count);
/* `bytes` is zeroed by the caller before the first key; `size` from kz_filter_size(), not 0. */
void kz_filter_add(void *bytes, size_t size, uint64_t key);
/* Begins to fetch what kz_filter_has() will look at. */
void kz_filter_prefetch(const void *bytes, size_t size, uint64_t key);
/* False where `size` is 0. */
bool kz_filter_has(const void *bytes, size_t size, uint64_t key);
