/* app/bench/bench_hist.h -- a histogram of durations with log-linear buckets, as HdrHistogram's: 64 a
 * power of two, so a quantile is right within 1.6 %. No allocation: it lives in shared memory.
 */
#pragma once

#include "base/base.h"

enum { KZ_HIST_SUB = 64, KZ_HIST_BUCKETS = 40 * KZ_HIST_SUB };

struct kz_hist {
    uint64_t buckets[KZ_HIST_BUCKETS];
    uint64_t count, max_ns;
    double sum_ns;
};

void kz_hist_add(struct kz_hist *hist, uint64_t ns);
/* Nanoseconds at quantile q of [0, 1]; the upper end of its bucket; 0 where nothing was counted. */
uint64_t kz_hist_at(const struct kz_hist *hist, double q);
