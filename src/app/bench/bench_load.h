/* app/bench/bench_load.h -- a lean load generator: one epoll loop in a process of its own.
 *
 * Open loop: requests have scheduled times, and a latency counts from the scheduled time, so a
 * server that stalls is charged for all who waited (Tene, "How NOT to Measure Latency"). With rate
 * 0 every connection sends again as soon as it is answered: that finds the capacity, and no latency
 * of it is reported.
 *
 * Requests are built once for each connection; only ids, users and times are written anew. It never
 * pipelines. Its own CPU time is in the result, since it has the same cores.
 *
 * Owner    the spec's users are shared by fork(), copy on write.
 * Fails    KZ_IO, KZ_NO_MEMORY; a server that refuses is counted, not an error.
 */
#pragma once

#include <sys/types.h>

#include "app/bench/bench_hist.h"
#include "base/err.h"

/* Users 0 .. active_count-1 are those who trigger; half of them have 50 events or more stored. */
struct kz_bench_users {
    uint32_t user_count, active_count;
    uint32_t *draws; /* skewed (Zipf) over all users, for live events */
    size_t draw_count;
    uint32_t *history; /* whose event each stored event is, in order of arrival */
    size_t history_count;
};

void kz_bench_users_init(
        struct kz_bench_users *users, uint32_t user_count, size_t history_count, uint64_t seed);
void kz_bench_users_done(struct kz_bench_users *users);

enum kz_bench_kind {
    KZ_BENCH_HISTORY, /* POST batches of users->history, none of which matches a rule */
    KZ_BENCH_INTAKE,  /* POST batches of live events, a tenth of which match a rule */
    KZ_BENCH_WAIT,    /* POST one triggering event and wait for its prediction */
    KZ_BENCH_GET,     /* GET an active user's prediction */
};

struct kz_bench_load {
    enum kz_bench_kind kind;
    unsigned port;
    const char *path; /* with its query; "%s" stands for the user in a GET */
    unsigned connections;
    double rate;            /* requests a second; 0: closed loop */
    double warm_s, seconds; /* nothing is counted while warming up */
    uint64_t request_max;   /* 0: only time ends it */
    unsigned batch;         /* events of a request */
    const struct kz_bench_users *users;
    unsigned run; /* makes event ids differ between runs: unique for each */
};

struct kz_bench_outcome {
    uint64_t requests, ok, refused, failed, broken; /* refused: 429, 503, 507 */
    uint64_t events;                                /* accepted, and said so before the end */
    uint64_t without_prediction;
    uint64_t unanswered; /* scheduled, and not answered within 5 s of the end, or not even sent */
    double seconds;
    double cpu_s;              /* of the generator, while counting */
    struct kz_hist latency;    /* from the scheduled time to the last byte of the answer */
    struct kz_hist less_model; /* WAIT: the same less the time the model says it took */
    struct kz_hist model;
};

struct kz_bench_child {
    pid_t pid;
    struct kz_bench_outcome *outcome; /* shared memory */
};

KZ_MUST_USE enum kz_code kz_bench_load_start(
        const struct kz_bench_load *load, struct kz_bench_child *ret_child, struct kz_err *err);
/* Waits for the child's end. */
KZ_MUST_USE enum kz_code kz_bench_load_wait(
        struct kz_bench_child *child, struct kz_bench_outcome *ret_outcome, struct kz_err *err);
KZ_MUST_USE enum kz_code kz_bench_load_run(
        const struct kz_bench_load *load, struct kz_bench_outcome *ret_outcome, struct kz_err *err);
