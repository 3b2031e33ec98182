/* app/roles/role_process.c -- the process role: its threads, and what is known of it. role_process_int.h
 * has the picture and the invariants. */

#include "app/roles/role_process_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/hash.h"
#include "contract/message.h"
#include "sys/clock.h"

enum {
    PULL_MAX = 256,
    PULL_WAIT_MS = 200,
    WORKERS_FAR = 8,
    CLOSE_WAIT_MS = 2500,
    GIVE_BACK_MS = 500,
    LEASE_MS = 20000 /* of a process that died, its messages come again so soon */
};

static struct role_process *role_of(struct kz_role *role)
{
    struct role_process *r = KZ_CONTAINER_OF(role, struct role_process, role);

    KZ_CHECK_MAGIC(r, ROLE_PROCESS_MAGIC);
    return r;
}

/* ---- what the threads share ----------------------------------------------------------------- */

bool kz_role_process_giving_up(struct role_process *r)
{
    bool giving_up;

    pthread_mutex_lock(&r->lock);
    giving_up = r->giving_up;
    pthread_mutex_unlock(&r->lock);
    return giving_up;
}

void kz_role_process_problem(struct role_process *r, const char *what, const struct kz_err *err)
{
    bool is_new;

    pthread_mutex_lock(&r->lock);
    is_new = !r->problem[0];
    snprintf(r->problem, sizeof(r->problem), "%s: %s", what, err->message);
    pthread_mutex_unlock(&r->lock);
    if (is_new) /* once, until it has gone well again */
        kz_diag_warn(what, "error=\"%s\"", err->message);
}

void kz_role_process_sleep(struct role_process *r, int64_t ms)
{
    struct timespec until = kz_mono_after(ms);

    pthread_mutex_lock(&r->lock);
    while (!r->giving_up &&
            pthread_cond_clockwait(&r->timer_wake, &r->lock, CLOCK_MONOTONIC, &until) == 0)
        ;
    pthread_mutex_unlock(&r->lock);
}

void kz_role_process_release(struct role_process *r, struct held *messages, bool ack)
{
    struct kz_bus_delivery *deliveries[PULL_MAX];
    const struct kz_bus_ops *ops = r->env->bus->ops;

    while (messages) {
        size_t count = 0;

        while (messages && count < PULL_MAX) {
            struct held *held = messages;

            messages = held->next;
            deliveries[count++] = held->delivery;
            free(held);
        }
        if (ack)
            ops->ack(r->source, deliveries, count);
        else
            ops->nack(r->source, deliveries, count);
        pthread_mutex_lock(&r->lock);
        r->held -= count;
        pthread_mutex_unlock(&r->lock);
    }
}

/* ---- pulling -------------------------------------------------------------------------------- */

/* One that came before is overtaken by a later one. */
static void keep_watermark(struct role_process *r, struct held *held, struct kz_str value)
{
    struct held *before;
    int64_t ms = 0;

    for (size_t i = 0; i < value.size && i < 18; i++)
        ms = value.ptr[i] >= '0' && value.ptr[i] <= '9' ? ms * 10 + (value.ptr[i] - '0') : ms;
    pthread_mutex_lock(&r->lock);
    before = r->watermark;
    r->watermark = held;
    r->watermark_ms = KZ_MAX(r->watermark_ms, ms);
    pthread_mutex_unlock(&r->lock);
    kz_role_process_release(r, before, true);
}

/* W2 */
static void enqueue(struct role_process *r, struct held *held)
{
    const struct kz_bus_delivery *d = held->delivery;
    struct kz_str lane = d->key.size ? d->key : d->id;
    struct worker *w = &r->workers[kz_hash_str(lane) % r->worker_count];

    pthread_mutex_lock(&r->lock);
    held->next = NULL;
    *w->queue.last = held;
    w->queue.last = &held->next;
    w->queue.count++;
    if (!w->oldest_ms)
        w->oldest_ms = d->published_ms;
    r->quiet_since_ms = kz_mono_ms();
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&r->lock);
}

static void take(struct role_process *r, struct kz_bus_delivery *delivery)
{
    struct held *held = kz_calloc(1, sizeof(*held));
    struct kz_str watermark = kz_attribute_get(
            delivery->attributes, delivery->attribute_count, KZ_ATTRIBUTE_WATERMARK);

    held->delivery = delivery;
    pthread_mutex_lock(&r->lock);
    r->held++;
    r->counts.messages++;
    pthread_mutex_unlock(&r->lock);
    if (watermark.size && r->env->event_clock)
        keep_watermark(r, held, watermark);
    else if (watermark.size)
        kz_role_process_release(r, held, true);
    else
        enqueue(r, held);
}

static bool is_slow(struct role_process *r)
{
    bool slow;

    pthread_mutex_lock(&r->lock);
    slow = r->slow_until_ms > kz_mono_ms();
    pthread_mutex_unlock(&r->lock);
    return slow;
}

static bool is_stopping(struct role_process *r)
{
    bool stopping;

    pthread_mutex_lock(&r->lock);
    stopping = r->stopping || r->giving_up;
    pthread_mutex_unlock(&r->lock);
    return stopping;
}

void kz_role_process_ended(struct role_process *r)
{
    pthread_mutex_lock(&r->lock);
    r->running--;
    pthread_mutex_unlock(&r->lock);
}

static void pull(void *role)
{
    struct role_process *r = role;
    struct kz_bus_delivery *deliveries[PULL_MAX];
    const struct kz_bus_ops *ops = r->env->bus->ops;

    while (!is_stopping(r)) {
        size_t count = 0;
        struct kz_err err;

        if (is_slow(r)) {
            kz_role_process_sleep(r, 50);
            continue;
        }
        if (ops->pull(r->source, deliveries, PULL_MAX, PULL_WAIT_MS, &count, &err) != KZ_OK)
            kz_role_process_problem(r, "events cannot be pulled", &err);
        for (size_t i = 0; i < count; i++)
            take(r, deliveries[i]);
    }
    kz_role_process_ended(r);
}

/* ---- opening and closing -------------------------------------------------------------------- */

/* A store far away is waited for most of the time; the emulator of Spanner has one transaction at
 * a time. */
static unsigned worker_count(const struct kz_role_env *env)
{
    if (strcmp(env->store->ops->name, "memory") == 0)
        return KZ_MIN(kz_cpu_count(), (unsigned)WORKERS_MAX);
    return getenv("SPANNER_EMULATOR_HOST") ? 1 : WORKERS_FAR;
}

static enum kz_code open_worker(struct role_process *r, struct worker *w, struct kz_err *err)
{
    struct kz_process_options options = {.project = r->env->project, .store = r->env->store};

    w->role = r;
    w->queue.last = &w->queue.first;
    pthread_cond_init(&w->wake, NULL);
    kz_arena_init(&w->arena, 0);
    return kz_process_open(&options, &w->engine, err);
}

static enum kz_code start_thread(struct role_process *r, struct kz_thread *thread, const char *name,
        void (*run)(void *arg), void *arg, struct kz_err *err)
{
    enum kz_code rc;

    pthread_mutex_lock(&r->lock);
    r->running++;
    pthread_mutex_unlock(&r->lock);
    rc = kz_thread_start(thread, name, run, arg, err);
    if (rc != KZ_OK)
        kz_role_process_ended(r);
    return rc;
}

static enum kz_code start(struct role_process *r, struct kz_err *err)
{
    struct kz_bus_pull_options pull_options = {
            .topic = KZ_TOPIC_EVENTS,
            .name = "process",
            .messages_max = HELD_MESSAGES_MAX,
            .bytes_max = HELD_BYTES_MAX,
            .lease_ms = LEASE_MS,
    };
    unsigned count = worker_count(r->env);

    KZ_TRY(r->env->bus->ops->open_source(r->env->bus, &pull_options, &r->source, err));
    for (; r->worker_count < count; r->worker_count++)
        KZ_TRY(open_worker(r, &r->workers[r->worker_count], err));
    KZ_TRY(open_worker(r, &r->timer_worker, err));
    for (unsigned i = 0; i < count; i++)
        KZ_TRY(start_thread(r, &r->workers[i].thread, "kz-process", kz_process_worker_loop,
                &r->workers[i], err));
    KZ_TRY(start_thread(r, &r->finisher, "kz-finish", kz_process_finisher, r, err));
    KZ_TRY(start_thread(r, &r->timers, "kz-timers", kz_process_timer_loop, r, err));
    return start_thread(r, &r->puller, "kz-pull", pull, r, err);
}

static enum kz_code open_role(
        struct kz_role_env *env, struct kz_role **ret_role, struct kz_err *err)
{
    struct role_process *r = kz_calloc(1, sizeof(*r));
    enum kz_code rc;

    r->role.ops = &kz_role_process;
    r->magic = ROLE_PROCESS_MAGIC;
    r->env = env;
    r->shaper = kz_shaper_new(env->project);
    r->finished_last = &r->finished;
    r->quiet_since_ms = kz_mono_ms();
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->finish_wake, NULL);
    pthread_cond_init(&r->timer_wake, NULL);
    rc = start(r, err);
    if (rc != KZ_OK) {
        kz_role_process.close(&r->role);
        return rc;
    }
    *ret_role = &r->role;
    return KZ_OK;
}

static void give_up(struct role_process *r)
{
    pthread_mutex_lock(&r->lock);
    r->stopping = r->giving_up = true;
    for (unsigned i = 0; i < r->worker_count; i++)
        pthread_cond_broadcast(&r->workers[i].wake);
    pthread_cond_broadcast(&r->timer_wake);
    pthread_cond_broadcast(&r->finish_wake);
    pthread_mutex_unlock(&r->lock);
}

/* What the bus has not answered by then lies in the outbox; what a call holds comes again. */
static bool wait_for_threads(struct role_process *r)
{
    int64_t until_ms = kz_mono_ms() + CLOSE_WAIT_MS;
    size_t left;

    do {
        pthread_mutex_lock(&r->lock);
        left = r->finishing + r->running;
        pthread_cond_broadcast(&r->finish_wake); /* the finisher ends behind the last of them */
        pthread_mutex_unlock(&r->lock);
        if (left)
            usleep(2000);
    } while (left && kz_mono_ms() < until_ms);
    return !left;
}

static void close_worker(struct worker *w)
{
    kz_role_process_release(w->role, w->queue.first, false);
    kz_process_close(w->engine);
    kz_arena_done(&w->arena);
    free(w->items);
    pthread_cond_destroy(&w->wake);
}

/* What no call holds comes again at once, not when its lease is over. */
static void give_back_queued(struct role_process *r)
{
    for (unsigned i = 0; i < r->worker_count; i++) {
        struct held_list *queue = &r->workers[i].queue;
        struct held *queued;

        pthread_mutex_lock(&r->lock);
        queued = kz_take(&queue->first);
        queue->last = &queue->first; /* the puller may be one of those that come back yet */
        queue->count = 0;
        pthread_mutex_unlock(&r->lock);
        kz_role_process_release(r, queued, false);
    }
    usleep(GIVE_BACK_MS * 1000); /* the bus sends it */
}

static void close_role(struct kz_role *role)
{
    struct role_process *r = role_of(role);

    give_up(r);
    if (!wait_for_threads(r)) {
        give_back_queued(r);
        r->env->abandoned = true;
        return; /* they find what they use: nothing is freed */
    }
    kz_thread_join(&r->puller);
    kz_thread_join(&r->timers);
    for (unsigned i = 0; i < r->worker_count; i++)
        kz_thread_join(&r->workers[i].thread);
    kz_thread_join(&r->finisher);
    kz_role_process_release(r, r->watermark, false);
    for (unsigned i = 0; i < r->worker_count; i++)
        close_worker(&r->workers[i]);
    if (r->timer_worker.role)
        close_worker(&r->timer_worker);
    if (r->source)
        r->env->bus->ops->close_source(r->source);
    kz_shaper_free(r->shaper);
    pthread_cond_destroy(&r->finish_wake);
    pthread_cond_destroy(&r->timer_wake);
    pthread_mutex_destroy(&r->lock);
    r->magic = 0;
    free(r);
}

static void stop_role(struct kz_role *role, int64_t deadline_ms)
{
    struct role_process *r = role_of(role);

    pthread_mutex_lock(&r->lock);
    r->stopping = true;
    r->deadline_ms = deadline_ms;
    pthread_mutex_unlock(&r->lock);
}

static bool stopped(struct kz_role *role)
{
    struct role_process *r = role_of(role);
    bool late, done;

    pthread_mutex_lock(&r->lock);
    done = r->held == (r->watermark != NULL) && !r->finishing;
    late = kz_mono_ms() > r->deadline_ms;
    pthread_mutex_unlock(&r->lock);
    if (late && !done)
        give_up(r);
    return done || late;
}

/* ---- what is known -------------------------------------------------------------------------- */

static void add(struct kz_pipeline_counters *to, const struct kz_pipeline_counters *from)
{
#define X(name, gauge, help) to->name += (gauge) ? 0 : from->name;
    KZ_PIPELINE_COUNTERS(X)
#undef X
}

static void counters(struct kz_role *role, struct kz_pipeline_counters *to)
{
    struct role_process *r = role_of(role);

    pthread_mutex_lock(&r->lock);
    for (unsigned i = 0; i < r->worker_count; i++)
        add(to, &r->workers[i].counters);
    add(to, &r->timer_worker.counters);
    pthread_mutex_unlock(&r->lock);
}

static void backlog(struct kz_role *role, struct kz_role_backlog *ret)
{
    struct role_process *r = role_of(role);
    int64_t oldest_ms = 0;

    pthread_mutex_lock(&r->lock);
    for (unsigned i = 0; i < r->worker_count; i++)
        if (r->workers[i].oldest_ms && (!oldest_ms || r->workers[i].oldest_ms < oldest_ms))
            oldest_ms = r->workers[i].oldest_ms;
    *ret = (struct kz_role_backlog){.messages = r->held, .oldest_ms = oldest_ms};
    pthread_mutex_unlock(&r->lock);
}

static void metrics(struct kz_role *role, struct kz_buf *out)
{
    struct role_process *r = role_of(role);
    uint64_t retries = 0;

    pthread_mutex_lock(&r->lock);
    for (unsigned i = 0; i < r->worker_count; i++)
        retries += r->workers[i].retries;
    retries += r->timer_worker.retries;
#define COUNTER(name, help, value)                                                                 \
    kz_buf_printf(out,                                                                             \
            "# HELP kizashi_process_" name " " help "\n# TYPE kizashi_process_" name               \
            " counter\nkizashi_process_" name " %" PRIu64 "\n",                                    \
            (uint64_t)(value))
    COUNTER("messages_total", "messages of events taken", r->counts.messages);
    COUNTER("batches_total", "transactions of events or timers", r->counts.batches);
    COUNTER("retries_total", "transactions begun again after a conflict", retries);
    COUNTER("dead_total", "messages and events that went to the dead topic", r->counts.dead);
    COUNTER("outbox_swept_total", "requests found in the outbox and published again",
            r->counts.outbox);
    COUNTER("publish_failed_total", "publishings of requests that failed; they lie in the outbox",
            r->counts.wrong_published);
    COUNTER("slowed_total", "times that pulling was slowed because the store asked for less",
            r->counts.slowed);
#undef COUNTER
    pthread_mutex_unlock(&r->lock);
}

static void problems(struct kz_role *role, kz_serve_say *say, void *to)
{
    struct role_process *r = role_of(role);
    char problem[sizeof(r->problem)];
    uint64_t dead;
    bool slow;

    pthread_mutex_lock(&r->lock);
    memcpy(problem, r->problem, sizeof(problem));
    dead = r->counts.dead;
    slow = r->slow_until_ms > kz_mono_ms();
    pthread_mutex_unlock(&r->lock);
    if (*problem)
        say(to, KZ_SEVERE_ERROR, "events wait", problem,
                "they are held and tried again; see what the backend says below");
    if (slow)
        say(to, KZ_SEVERE_WARNING, "pulling is slowed down",
                "the store answered RESOURCE_EXHAUSTED",
                "give it more nodes or raise its quota; the backlog drains by itself");
    if (dead) {
        char why[100];

        snprintf(why, sizeof(why), "%" PRIu64 " messages or events since the start", dead);
        say(to, KZ_SEVERE_WARNING, "dead messages", why,
                "read the subscription \"kept\" of the dead topic: each has its reason as an "
                "attribute");
    }
}

const struct kz_role_ops kz_role_process = {
        .open = open_role,
        .counters = counters,
        .backlog = backlog,
        .metrics = metrics,
        .problems = problems,
        .stop = stop_role,
        .stopped = stopped,
        .close = close_role,
};
