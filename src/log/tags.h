/* log/tags.h -- the keys of a sealed segment as 40 bits each, sorted: "certainly not here, or
 * probably", and all of them again where a filter over many segments is made.
 *
 * A tag is 40 bits of a hash. Their upper 8 bits are not kept but counted, so that 4 bytes each do:
 *
 *     uint32_t ends[256];   of the run of tags with each of the upper 8 bits, as indices
 *     uint32_t low[count];  the lower 32 bits, ascending within a run
 *
 * Of 100 million keys a foreign one is taken for one of them once in 10,000 times, which is what
 * tags are for: behind a "probably" there is a block to decompress. Tags are spread evenly; a
 * look-up guesses the place and is there after two or three cache misses.
 *
 * Narrow tags, of sealed segments of version 2, are the upper 32 of the 40 bits, in one run. They
 * take a foreign key for one of 100 million once in 43 times.
 *
 * Owner    the caller owns the arrays, which go to disk as they are (little-endian).
 * Threads  pure.
 * Fails    never. No key that is in there is denied.
 */
#pragma once

#include "base/base.h"
#include "base/hash.h"

enum { KZ_TAG_BITS = 40, KZ_TAGS_RUNS = 256 };
/* What is known of a tag where it is narrow. */
#define KZ_TAG_NARROW (~UINT64_C(0xff))

static inline uint64_t kz_tag(uint64_t key)
{
    return kz_hash_mix(key, 0) >> (64 - KZ_TAG_BITS);
}

/* Those of one segment. */
struct kz_tags {
    const uint32_t *ends; /* of KZ_TAGS_RUNS; NULL: they are narrow, or there is none */
    const uint32_t *low;
    size_t count;
};

static inline bool kz_tags_are_narrow(const struct kz_tags *tags)
{
    return tags->count && !tags->ends;
}

void kz_tags_sort(uint64_t *tags, size_t count);
/* How many bytes `count` tags take; 0 where there is none. */
size_t kz_tags_size(size_t count);
/* Lays out sorted tags; `ret_packed` has kz_tags_size() bytes. */
void kz_tags_pack(const uint64_t *tags, size_t count, uint32_t *ret_packed);
/* `count` uint32_t instead. */
void kz_tags_pack_narrow(const uint64_t *tags, size_t count, uint32_t *ret_narrow);
/* What kz_tags_pack() has made; borrowed. */
struct kz_tags kz_tags_at(const uint32_t *packed, size_t count);
/* Whether each run lies within the array. */
bool kz_tags_are_sound(const struct kz_tags *tags);

/* Where the run of the tags with those upper 8 bits lies in `low`; narrow ones have such as well. */
void kz_tags_run(const struct kz_tags *tags, unsigned run, size_t *ret_from, size_t *ret_end);
/* The tag at a place within that run. */
static inline uint64_t kz_tags_get(const struct kz_tags *tags, unsigned run, size_t at)
{
    return tags->ends ? (uint64_t)run << 32 | tags->low[at] : (uint64_t)tags->low[at] << 8;
}
/* Begins to fetch what kz_tags_have() will look at. */
void kz_tags_prefetch(const struct kz_tags *tags, uint64_t tag);
bool kz_tags_have(const struct kz_tags *tags, uint64_t tag);
