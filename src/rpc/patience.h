/* rpc/patience.h -- how long a backend tries, and what it says of its service meanwhile: one rule
 * for all of them. kz_rpc_call() tries again by itself; this is for work of several calls, and for
 * streams.
 *
 * Threads  a patience belongs to one; a health is for any.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/err.h"

/* ---- patience ---------------------------------------------------------------------------- */

/* Tries until `deadline_ms` (monotonic), each wait longer than the one before and jittered. */
struct kz_rpc_patience {
    int64_t deadline_ms;
    unsigned tries;
};
struct kz_rpc_patience kz_rpc_patience(int64_t timeout_ms);
int64_t kz_rpc_left_ms(const struct kz_rpc_patience *patience); /* at least 1 */
/* Waits before the next try, at least `least_ms` (what the service asked for); false, and no wait:
 * there is no time for one. */
bool kz_rpc_wait(struct kz_rpc_patience *patience, int64_t least_ms);
/* How long to wait before the try behind `tries` others, jittered: 4 to 8 ms, at last 0.5 to 1 s.
 */
int64_t kz_rpc_backoff_ms(unsigned tries);
/* Whether a failure may pass, the server's status of this thread's last call included. */
bool kz_rpc_may_pass(enum kz_code code);

/* ---- health ------------------------------------------------------------------------------ */

/* What is wrong with a service now, for stats and status. */
struct kz_rpc_health {
    pthread_mutex_t lock;
    _Atomic int64_t throttled_until_ms; /* monotonic */
    _Atomic bool has_problem;
    char problem[KZ_PROBLEM_BYTES];
};
void kz_rpc_health_init(struct kz_rpc_health *health);
void kz_rpc_health_done(struct kz_rpc_health *health);
/* KZ_LIMIT: the service asks for less; shown for 10 s. */
void kz_rpc_health_failed(struct kz_rpc_health *health, enum kz_code code, const char *message);
void kz_rpc_health_worked(struct kz_rpc_health *health); /* cheap where nothing was wrong */
struct kz_rpc_channel;
/* Where no problem is known: that a channel has been silent (kz_rpc_silent_ms()) for more than
 * KZ_RPC_SILENT_MS. */
void kz_rpc_health_add_silence(struct kz_rpc_channel *channel, char problem[KZ_PROBLEM_BYTES]);
void kz_rpc_health_get(
        struct kz_rpc_health *health, bool *ret_throttled, char ret_problem[KZ_PROBLEM_BYTES]);
