#include "log/tags.h"

#include <stdlib.h>

enum { DIGIT_BITS = 11, RADIX = 1 << DIGIT_BITS, DIGITS = 3 };

/* A radix sort, the lowest digit first; the third pass ends in `spare`. */
void kz_tags_sort(uint32_t *tags, size_t count)
{
    KZ_AUTO(kz_freep) uint32_t *spare = kz_malloc(count * sizeof(*spare) + 1);
    KZ_AUTO(kz_freep) size_t(*counts)[RADIX] = kz_calloc(DIGITS, sizeof(*counts));
    uint32_t *from = tags, *to = spare;

    for (size_t i = 0; i < count; i++)
        for (int digit = 0; digit < DIGITS; digit++)
            counts[digit][tags[i] >> (DIGIT_BITS * digit) & (RADIX - 1)]++;
    for (int digit = 0; digit < DIGITS; digit++) {
        size_t *starts = counts[digit], sum = 0;
        uint32_t *moved = to;

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
    if (count)
        memcpy(tags, from, count * sizeof(*tags));
}

bool kz_tags_have(const uint32_t *tags, size_t count, uint32_t tag)
{
    size_t low = 0, high = count, step = 16, guess;

    if (!count)
        return false;
    /* From the place that an even spread would give, in growing steps to either side of the tag. */
    guess = (size_t)(((uint64_t)tag * count) >> 32);
    if (tags[guess] < tag) {
        low = guess + 1;
        while (low + step < count && tags[low + step] < tag) {
            low += step;
            step *= 2;
        }
        high = KZ_MIN(low + step + 1, count);
    } else {
        high = guess + 1;
        while (high > step && tags[high - 1 - step] >= tag) {
            high -= step;
            step *= 2;
        }
        low = high > step + 1 ? high - 1 - step : 0;
    }
    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (tags[mid] < tag)
            low = mid + 1;
        else
            high = mid;
    }
    return low < count && tags[low] == tag;
}
