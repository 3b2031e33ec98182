/* app/bench/bench_pause.h -- when the machine itself stood still: a hypervisor that takes all cores away,
 * a firmware that does. No program can answer meanwhile, so whoever reads a p99 has to know.
 *
 * A thread of real-time priority on each core sleeps a millisecond at a time and looks how late it is
 * woken; what all cores are late by at once is no thread's doing. (The idea is jHiccup's, Gil Tene.)
 *
 * Threads  one for each core between start and stop; start and stop are the same thread's.
 * Fails    never; without the right to real-time priority (CAP_SYS_NICE) nothing is known.
 */
#pragma once

#include "base/base.h"

struct kz_bench_pauses {
    bool known;
    unsigned count; /* of at least 5 ms */
    double longest_ms, total_ms;
};

struct kz_bench_pause_watch;

struct kz_bench_pause_watch *kz_bench_pauses_start(void);
/* Frees the watch. */
struct kz_bench_pauses kz_bench_pauses_stop(struct kz_bench_pause_watch *watch);
