#include "log/tags.h"

#include <stdlib.h>

enum { DIGIT_BITS = 10, RADIX = 1 << DIGIT_BITS, DIGITS = KZ_TAG_BITS / DIGIT_BITS };
_Static_assert(DIGITS *DIGIT_BITS == KZ_TAG_BITS && DIGITS % 2 == 0, "ends where it began");

/* A radix sort, the lowest digit first. */
void kz_tags_sort(uint64_t *tags, size_t count)
{
    KZ_AUTO(kz_freep) uint64_t *spare = kz_malloc(count * sizeof(*spare) + 1);
    KZ_AUTO(kz_freep) size_t(*counts)[RADIX] = kz_calloc(DIGITS, sizeof(*counts));
    uint64_t *from = tags, *to = spare;

    for (size_t i = 0; i < count; i++)
        for (int digit = 0; digit < DIGITS; digit++)
            counts[digit][tags[i] >> (DIGIT_BITS * digit) & (RADIX - 1)]++;
    for (int digit = 0; digit < DIGITS; digit++) {
        size_t *starts = counts[digit], sum = 0;
        uint64_t *moved = to;

        for (int value = 0; value < RADIX; value++) {
            size_t n = starts[value];

            starts[value] = sum;
            sum += n;
        }
        for (size_t i = 0; i < count; i++)
            to[starts[from[i] >> (DIGIT_BITS * digit) & (RADIX - 1)]++] = from[i];
        to = from;
        from = moved;
    }
}

size_t kz_tags_size(size_t count)
{
    return count ? (KZ_TAGS_RUNS + count) * sizeof(uint32_t) : 0;
}

void kz_tags_pack(const uint64_t *tags, size_t count, uint32_t *ret_packed)
{
    size_t at = 0;

    for (unsigned run = 0; count && run < KZ_TAGS_RUNS; run++) {
        while (at < count && tags[at] >> 32 == run) {
            ret_packed[KZ_TAGS_RUNS + at] = (uint32_t)tags[at];
            at++;
        }
        ret_packed[run] = (uint32_t)at;
    }
    KZ_BUG_ON(at != count);
}

void kz_tags_pack_narrow(const uint64_t *tags, size_t count, uint32_t *ret_narrow)
{
    for (size_t i = 0; i < count; i++)
        ret_narrow[i] = (uint32_t)(tags[i] >> 8);
}

struct kz_tags kz_tags_at(const uint32_t *packed, size_t count)
{
    if (!count)
        return (struct kz_tags){0};
    return (struct kz_tags){packed, packed + KZ_TAGS_RUNS, count};
}

bool kz_tags_are_sound(const struct kz_tags *tags)
{
    uint32_t from = 0;

    for (unsigned run = 0; tags->ends && run < KZ_TAGS_RUNS; run++) {
        if (tags->ends[run] < from)
            return false;
        from = tags->ends[run];
    }
    return !tags->ends || from == tags->count;
}

/* The first that is not below `tag`, of sorted and evenly spread ones: from the place that the
 * spread would give, in growing steps to either side of it. */
static size_t first_from(const uint32_t *low_tags, size_t count, uint32_t tag)
{
    size_t low = 0, high = count, step = 16, guess;

    if (!count)
        return 0;
    guess = (size_t)(((uint64_t)tag * count) >> 32);
    if (low_tags[guess] < tag) {
        low = guess + 1;
        while (low + step < count && low_tags[low + step] < tag) {
            low += step;
            step *= 2;
        }
        high = KZ_MIN(low + step + 1, count);
    } else {
        high = guess + 1;
        while (high > step && low_tags[high - 1 - step] >= tag) {
            high -= step;
            step *= 2;
        }
        low = high > step + 1 ? high - 1 - step : 0;
    }
    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (low_tags[mid] < tag)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

void kz_tags_run(const struct kz_tags *tags, unsigned run, size_t *ret_from, size_t *ret_end)
{
    if (tags->ends) {
        *ret_from = run ? tags->ends[run - 1] : 0;
        *ret_end = tags->ends[run];
        return;
    }
    *ret_from = first_from(tags->low, tags->count, (uint32_t)run << 24);
    *ret_end = run + 1 < KZ_TAGS_RUNS
                       ? first_from(tags->low, tags->count, (uint32_t)(run + 1) << 24)
                       : tags->count;
}

/* The array in which to look for a tag, and what of the tag to look for there. */
static const uint32_t *array_of(
        const struct kz_tags *tags, uint64_t tag, size_t *ret_count, uint32_t *ret_low)
{
    size_t from, end;

    if (!tags->ends) {
        *ret_count = tags->count;
        *ret_low = (uint32_t)(tag >> 8);
        return tags->low;
    }
    kz_tags_run(tags, (unsigned)(tag >> 32), &from, &end);
    *ret_count = end - from;
    *ret_low = (uint32_t)tag;
    return tags->low + from;
}

void kz_tags_prefetch(const struct kz_tags *tags, uint64_t tag)
{
    size_t count;
    uint32_t low;
    const uint32_t *array = array_of(tags, tag, &count, &low);

    if (count)
        __builtin_prefetch(&array[((uint64_t)low * count) >> 32]);
}

bool kz_tags_have(const struct kz_tags *tags, uint64_t tag)
{
    size_t count, at;
    uint32_t low;
    const uint32_t *array = array_of(tags, tag, &count, &low);

    at = first_from(array, count, low);
    return at < count && array[at] == low;
}
