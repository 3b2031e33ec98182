#include "rpc/patience.h"

#include <stdio.h>
#include <time.h>

#include "rpc/rpc.h"
#include "rpc/silence.h"
#include "sys/clock.h"
#include "sys/random.h"

enum { WAIT_FIRST_MS = 8, WAIT_MAX_MS = 1000, THROTTLED_MS = 10000 };

/* ---- patience ---------------------------------------------------------------------------- */

struct kz_rpc_patience kz_rpc_patience(int64_t timeout_ms)
{
    return (struct kz_rpc_patience){.deadline_ms = kz_mono_ms() + timeout_ms};
}

int64_t kz_rpc_left_ms(const struct kz_rpc_patience *patience)
{
    return KZ_MAX(patience->deadline_ms - kz_mono_ms(), (int64_t)1);
}

static void sleep_ms(int64_t ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};

    while (nanosleep(&left, &left) != 0)
        ; /* a signal: sleep what is left */
}

int64_t kz_rpc_backoff_ms(unsigned tries)
{
    int64_t most = KZ_MIN((int64_t)WAIT_FIRST_MS << KZ_MIN(tries, 10u), (int64_t)WAIT_MAX_MS);
    uint32_t random;

    kz_random_bytes(&random, sizeof(random));
    return 1 + most / 2 + random % (most / 2);
}

bool kz_rpc_wait(struct kz_rpc_patience *patience, int64_t least_ms)
{
    int64_t wait_ms = KZ_MAX(kz_rpc_backoff_ms(patience->tries), least_ms);

    if (kz_mono_ms() + wait_ms >= patience->deadline_ms)
        return false;
    patience->tries++;
    sleep_ms(wait_ms);
    return true;
}

bool kz_rpc_may_pass(enum kz_code code)
{
    switch (code) {
    case KZ_TIMEOUT:
    case KZ_UNAVAILABLE:
    case KZ_OVERLOADED:
    case KZ_LIMIT:
    case KZ_IO: /* INTERNAL: a stream that was reset */
        return true;
    case KZ_CONFLICT:
        return kz_rpc_status() == KZ_RPC_ABORTED;
    default:
        return false;
    }
}

/* ---- health ------------------------------------------------------------------------------ */

void kz_rpc_health_init(struct kz_rpc_health *health)
{
    *health = (struct kz_rpc_health){.lock = PTHREAD_MUTEX_INITIALIZER};
}

void kz_rpc_health_done(struct kz_rpc_health *health)
{
    pthread_mutex_destroy(&health->lock);
}

void kz_rpc_health_failed(struct kz_rpc_health *health, enum kz_code code, const char *message)
{
    if (code == KZ_LIMIT)
        atomic_store(&health->throttled_until_ms, kz_mono_ms() + THROTTLED_MS);
    pthread_mutex_lock(&health->lock);
    snprintf(health->problem, sizeof(health->problem), "%s", message);
    atomic_store(&health->has_problem, true);
    pthread_mutex_unlock(&health->lock);
}

void kz_rpc_health_worked(struct kz_rpc_health *health)
{
    if (KZ_LIKELY(!atomic_load_explicit(&health->has_problem, memory_order_relaxed)))
        return;
    pthread_mutex_lock(&health->lock);
    health->problem[0] = '\0';
    atomic_store(&health->has_problem, false);
    pthread_mutex_unlock(&health->lock);
}

void kz_rpc_health_get(
        struct kz_rpc_health *health, bool *ret_throttled, char ret_problem[KZ_PROBLEM_BYTES])
{
    *ret_throttled = kz_mono_ms() < atomic_load(&health->throttled_until_ms);
    pthread_mutex_lock(&health->lock);
    memcpy(ret_problem, health->problem, sizeof(health->problem));
    pthread_mutex_unlock(&health->lock);
}

void kz_rpc_health_add_silence(struct kz_rpc_channel *channel, char problem[KZ_PROBLEM_BYTES])
{
    int64_t silent_ms = problem[0] ? 0 : kz_rpc_silent_ms(channel);

    if (silent_ms > KZ_RPC_SILENT_MS)
        snprintf(problem, KZ_PROBLEM_BYTES, "no answer for %.1f s", (double)silent_ms * 1e-3);
}
