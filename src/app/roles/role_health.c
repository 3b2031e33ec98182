/* app/roles/role_health.c -- how the backends of a process are, for status and /readyz.
 *
 * A backend says that it is unwell when calls fail, or when nothing has been answered for a while though
 * something is waited for (rpc/silence.h); one that has said so for too long (unwell.h) makes the process
 * unready. One slow call is no sign: whoever is unwell is asked by a prober, whose call is answered
 * meanwhile, and then nothing is said any more. Predictions need no prober, since an operator's words are
 * read each second; nor does whoever pulls or looks for timers. A collect that nobody calls asks its bus
 * now and then, or it would be ready for callers whose events it cannot keep; so does one that is called, since
 * what is published to a topic without its subscription is kept by nobody, and no call tells.
 */
#include <stdio.h>
#include <stdlib.h>

#include "app/roles/role.h"
#include "app/roles/unwell.h"
#include "sys/clock.h"
#include "sys/thread.h"

enum {
    LOOK_EVERY_MS = 250,
    PROBE_STORE_MS = 500,
    PROBE_BUS_MS = 2000, /* a call for each topic and subscription, of a small quota: */
    CHECK_BUS_MS = 30000,
};

struct prober {
    struct kz_role_health *health;
    struct kz_thread thread;
    bool (*is_unwell)(struct kz_role_env *env);
    void (*ask)(struct kz_role_env *env);
    struct kz_probe probe;
};

struct kz_role_health {
    struct kz_role_env *env;
    struct kz_unwell bus, store, predictions; /* the loop's */
    struct prober probers[2];

    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop;
};

/* ---- asking those that are unwell ----------------------------------------------------------- */

static bool bus_is_unwell(struct kz_role_env *env)
{
    struct kz_bus_stats stats;

    env->bus->ops->stats(env->bus, &stats);
    return stats.problem[0];
}

static void ask_bus(struct kz_role_env *env)
{
    struct kz_err err;

    KZ_IGNORE(env->bus->ops->check(env->bus, &err)); /* its stats tell */
}

static bool store_is_unwell(struct kz_role_env *env)
{
    struct kz_store_stats stats;

    env->store->ops->stats(env->store, &stats);
    return stats.problem[0];
}

static void ask_store(struct kz_role_env *env)
{
    struct kz_store_user nobody = {.owner = 1};
    struct kz_buf state = {0};
    struct kz_err err;

    KZ_IGNORE(env->store->ops->users(env->store, &nobody, 1, &state, &err)); /* as above */
    kz_buf_done(&state);
}

/* false: the end. */
static bool rest(struct kz_role_health *health, int64_t ms)
{
    struct timespec until = kz_mono_after(ms);
    bool stop;

    pthread_mutex_lock(&health->lock);
    if (!health->stop)
        (void)pthread_cond_clockwait(
                &health->wake, &health->lock, CLOCK_MONOTONIC, &until); /* either way: look */
    stop = health->stop;
    pthread_mutex_unlock(&health->lock);
    return !stop;
}

static void run_prober(void *arg)
{
    struct prober *prober = arg;
    struct kz_role_env *env = prober->health->env;

    while (rest(prober->health, LOOK_EVERY_MS)) {
        if (!kz_probe_is_due(&prober->probe, prober->is_unwell(env), kz_mono_ms()))
            continue;
        prober->ask(env);
        kz_probe_asked(&prober->probe, kz_mono_ms());
    }
}

/* ---- life ----------------------------------------------------------------------------------- */

enum kz_code kz_role_health_open(
        struct kz_role_env *env, struct kz_role_health **ret_health, struct kz_err *err)
{
    struct kz_role_health *health = kz_calloc(1, sizeof(*health));
    enum kz_code rc = KZ_OK;

    health->env = env;
    pthread_mutex_init(&health->lock, NULL);
    pthread_cond_init(&health->wake, NULL);
    health->probers[0] = (struct prober){.health = health,
            .is_unwell = bus_is_unwell,
            .ask = ask_bus,
            .probe = {.unwell_every_ms = PROBE_BUS_MS,
                    .well_every_ms = env->kinds & 1u << KZ_ROLE_COLLECT ? CHECK_BUS_MS : 0}};
    health->probers[1] = (struct prober){.health = health,
            .is_unwell = store_is_unwell,
            .ask = ask_store,
            .probe = {.unwell_every_ms = PROBE_STORE_MS}};
    if (env->bus)
        rc = kz_thread_start(
                &health->probers[0].thread, "kz-probe-bus", run_prober, &health->probers[0], err);
    if (rc == KZ_OK && env->store)
        rc = kz_thread_start(
                &health->probers[1].thread, "kz-probe-store", run_prober, &health->probers[1], err);
    if (rc != KZ_OK) {
        kz_role_health_close(health);
        return rc;
    }
    *ret_health = health;
    return KZ_OK;
}

void kz_role_health_close(struct kz_role_health *health)
{
    if (!health)
        return;
    pthread_mutex_lock(&health->lock);
    health->stop = true;
    pthread_cond_broadcast(&health->wake);
    pthread_mutex_unlock(&health->lock);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(health->probers); i++)
        kz_thread_join(&health->probers[i].thread);
    pthread_cond_destroy(&health->wake);
    pthread_mutex_destroy(&health->lock);
    free(health);
}

/* ---- what is wrong -------------------------------------------------------------------------- */

void kz_role_env_tick(struct kz_role_env *env)
{
    struct kz_role_health *health = env->health;
    struct kz_bus_stats bus = {0};
    struct kz_store_stats store = {0};
    struct kz_predictions_stats predictions = {0};
    int64_t now_ms = kz_mono_ms();

    if (env->bus)
        env->bus->ops->stats(env->bus, &bus);
    if (env->store)
        env->store->ops->stats(env->store, &store);
    if (env->predictions)
        env->predictions->ops->stats(env->predictions, &predictions);
    kz_unwell_look(&health->bus, bus.problem, bus.throttled, now_ms);
    kz_unwell_look(&health->store, store.problem, store.throttled, now_ms);
    kz_unwell_look(&health->predictions, predictions.problem, predictions.throttled, now_ms);
}

static void say_of(const struct kz_unwell *unwell, const char *name, kz_serve_say *say, void *to)
{
    char what[80];

    if (kz_unwell_is_gone(unwell, kz_mono_ms())) {
        snprintf(what, sizeof(what), "%s cannot be used", name);
        say(to, KZ_SEVERE_ERROR, what, unwell->problem,
                "look whether the service is up and this process may use it; what is held is tried "
                "again by itself");
    }
    if (unwell->throttled) {
        snprintf(what, sizeof(what), "%s asks for less", name);
        say(to, KZ_SEVERE_WARNING, what, "it answered RESOURCE_EXHAUSTED: calls are slowed down",
                "raise its quota or give it more nodes; the backlog drains by itself");
    }
}

void kz_role_env_problems(struct kz_role_env *env, kz_serve_say *say, void *to)
{
    kz_role_env_tick(env);
    say_of(&env->health->bus, "the bus", say, to);
    say_of(&env->health->store, "the store", say, to);
    say_of(&env->health->predictions, "the predictions' backend", say, to);
}

static enum kz_code ready(const struct kz_unwell *unwell, const char *name, struct kz_err *err)
{
    if (!kz_unwell_is_gone(unwell, kz_mono_ms()))
        return KZ_OK;
    return kz_fail(err, KZ_UNAVAILABLE, "%s cannot be used: %s", name, unwell->problem);
}

enum kz_code kz_role_env_ready(struct kz_role_env *env, struct kz_err *err)
{
    kz_role_env_tick(env);
    KZ_TRY(ready(&env->health->bus, "the bus", err));
    KZ_TRY(ready(&env->health->store, "the store", err));
    KZ_TRY(ready(&env->health->predictions, "the predictions' backend", err));
    for (unsigned kind = 0; kind < KZ_ROLE_COUNT; kind++) {
        struct kz_role *role = env->roles[kind];

        if (role && role->ops->ready)
            KZ_TRY(role->ops->ready(role, err));
    }
    return KZ_OK;
}
