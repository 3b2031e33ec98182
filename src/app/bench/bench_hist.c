#include "app/bench/bench_hist.h"

/* Below 64 each value has its bucket; above, the 6 bits behind the leading one choose it. */
static size_t bucket_of(uint64_t ns)
{
    unsigned top;
    size_t bucket;

    if (ns < KZ_HIST_SUB)
        return (size_t)ns;
    top = 63 - (unsigned)__builtin_clzll(ns);
    bucket = (size_t)(top - 5) * KZ_HIST_SUB + (size_t)((ns >> (top - 6)) - KZ_HIST_SUB);
    return KZ_MIN(bucket, (size_t)KZ_HIST_BUCKETS - 1);
}

static uint64_t upper_end(size_t bucket)
{
    size_t octave = bucket / KZ_HIST_SUB;

    if (!octave)
        return bucket;
    return ((bucket % KZ_HIST_SUB + KZ_HIST_SUB + 1) << (octave - 1)) - 1;
}

void kz_hist_add(struct kz_hist *hist, uint64_t ns)
{
    hist->buckets[bucket_of(ns)]++;
    hist->count++;
    hist->sum_ns += (double)ns;
    hist->max_ns = KZ_MAX(hist->max_ns, ns);
}

uint64_t kz_hist_at(const struct kz_hist *hist, double q)
{
    uint64_t rank = (uint64_t)(q * (double)hist->count + 0.5), seen = 0;

    if (!hist->count)
        return 0;
    rank = KZ_MAX(rank, (uint64_t)1);
    for (size_t i = 0; i < KZ_HIST_BUCKETS; i++) {
        seen += hist->buckets[i];
        if (seen >= rank)
            return KZ_MIN(upper_end(i), hist->max_ns);
    }
    return hist->max_ns;
}
