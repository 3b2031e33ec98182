/* app/roles/role_process_timers.c -- due timers and forgotten requests. Every replica looks for both; a
 * timer is fired by the transaction that removes it, so two who try do it once. */

#include <stdlib.h>

#include "app/roles/role_process_int.h"
#include "base/diag.h"
#include "sys/clock.h"
#include "sys/random.h"

enum {
    TICK_MS = 200, /* and as much again by chance, so that replicas do not march in step */
    CHUNK = 64,    /* timers of a transaction */
    DUE_MAX = 512,
    SWEEP_EVERY_MS = 2000,
    BEHIND_MS = 1000, /* from so much lag on, timers wait for the events that are behind */
    QUIET_MS = 1000,  /* before a watermark is believed */
};

/* Timers fire as of a time by which all events of it are stored, as far as this process knows:
 * what is on its way may cancel one. */
static int64_t horizon(struct role_process *r)
{
    int64_t now_ms = kz_clock_ms(), horizon_ms = now_ms;

    pthread_mutex_lock(&r->lock);
    for (unsigned i = 0; i < r->worker_count; i++) {
        int64_t oldest_ms = r->workers[i].oldest_ms;

        if (oldest_ms && oldest_ms < now_ms - BEHIND_MS)
            horizon_ms = KZ_MIN(horizon_ms, oldest_ms);
    }
    pthread_mutex_unlock(&r->lock);
    return horizon_ms;
}

static bool fire_chunk(struct role_process *r, const struct kz_store_timer *timers, size_t count)
{
    struct worker *w = &r->timer_worker;
    struct kz_process_outcome outcome;
    struct kz_err err;
    enum kz_code rc = kz_process_timers(w->engine, timers, count, &outcome, &err);

    if (rc == KZ_OK) {
        kz_process_worker_count(w);
        kz_process_publish(r, &outcome, NULL);
        return true;
    }
    kz_role_process_problem(r, "timers could not be fired", &err);
    if (kz_process_is_poison(rc) && count > 1) {
        /* One of them is at fault. */
        for (size_t i = 0; i < count; i++)
            (void)fire_chunk(r, &timers[i], 1); /* it was said above what is wrong */
        return true;
    }
    kz_role_process_sleep(r, r->env->store->ops->retry_ms(r->env->store) + 50);
    return false;
}

/* Fires what is due; true where there may be more. In chunks from a place by chance: replicas
 * begin at different ones. */
static bool fire_due(struct role_process *r, int64_t until_ms, struct kz_prng *dice)
{
    struct kz_store_timer *timers = kz_malloc(DUE_MAX * sizeof(*timers));
    struct kz_store *store = r->env->store;
    size_t count = 0, chunks, first;
    int64_t next_ms;
    struct kz_err err;
    bool fired = true;

    if (store->ops->due(store, until_ms, 0, 1, DUE_MAX, timers, &count, &next_ms, &err) != KZ_OK) {
        kz_role_process_problem(r, "due timers could not be read", &err);
        count = 0;
    }
    chunks = (count + CHUNK - 1) / CHUNK;
    first = chunks ? kz_prng_below(dice, chunks) : 0;
    for (size_t i = 0; i < chunks && fired && !kz_role_process_giving_up(r); i++) {
        size_t at = (first + i) % chunks * CHUNK;

        fired = fire_chunk(r, timers + at, KZ_MIN((size_t)CHUNK, count - at));
    }
    free(timers);
    return count == DUE_MAX && fired;
}

/* ---- virtual time --------------------------------------------------------------------------- */

/* A watermark is at the end of what was sent: it is heeded when nothing else is held, and nothing
 * came for a while. */
static struct held *take_watermark(struct role_process *r, int64_t *ret_ms)
{
    struct held *message = NULL;

    pthread_mutex_lock(&r->lock);
    if (r->watermark && r->held == 1 && kz_mono_ms() - r->quiet_since_ms > QUIET_MS) {
        message = kz_take(&r->watermark);
        *ret_ms = r->watermark_ms;
    }
    pthread_mutex_unlock(&r->lock);
    return message;
}

static void heed_watermark(struct role_process *r, struct kz_prng *dice)
{
    int64_t until_ms = 0;
    struct held *message = take_watermark(r, &until_ms);

    if (!message)
        return;
    while (fire_due(r, until_ms, dice) && !kz_role_process_giving_up(r))
        ;
    kz_diag_info("watermark", "ms=%lld", (long long)until_ms);
    kz_role_process_release(r, message, !kz_role_process_giving_up(r));
}

void kz_process_timer_loop(void *role)
{
    struct role_process *r = role;
    struct kz_prng dice;
    uint64_t seed;
    int64_t swept_ms = kz_mono_ms();

    kz_random_bytes(&seed, sizeof(seed));
    kz_prng_init(&dice, seed);
    while (!kz_role_process_giving_up(r)) {
        if (r->env->event_clock)
            heed_watermark(r, &dice);
        else
            while (fire_due(r, horizon(r), &dice) && !kz_role_process_giving_up(r))
                ;
        if (kz_mono_ms() - swept_ms > SWEEP_EVERY_MS) {
            kz_process_sweep_outbox(r);
            swept_ms = kz_mono_ms() + (int64_t)kz_prng_below(&dice, SWEEP_EVERY_MS);
        }
        kz_role_process_sleep(r, TICK_MS + (int64_t)kz_prng_below(&dice, TICK_MS));
    }
    kz_role_process_ended(r);
}
