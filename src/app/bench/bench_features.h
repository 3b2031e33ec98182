/* app/bench/bench_features.h -- features of one user's last events, in this process, over stored data. */
#pragma once

#include "app/bench/bench_hist.h"
#include "base/err.h"

struct kz_bench_features {
    struct kz_hist whole; /* the history found and read, and the SQL over it */
    double rows_mean;
};

/* `data` is read beside nobody or a running server; users u00000000 .. below active_count. */
KZ_MUST_USE enum kz_code kz_bench_features(const char *dir, const char *data, uint32_t active_count,
        struct kz_bench_features *ret, struct kz_err *err);
