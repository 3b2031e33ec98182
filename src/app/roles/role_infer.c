/* app/roles/role_infer.c -- the infer role: requests from the bus, through the models, to the users' rows.
 * role_infer_int.h has the states and invariants.
 */

#include "app/roles/role_infer_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "app/config/check.h"
#include "base/diag.h"
#include "base/hash.h"
#include "sys/clock.h"

enum {
    WORKERS = 8,
    PULL_MAX = 256,
    PULL_WAIT_MS = 200,
    HELD_MAX = 1000, /* of a model's subscription */
    WORDS_EVERY_MS = 200,
    CLOSE_WAIT_MS = 3000, /* for the bus to say what became of the last messages */
    BUS_WAIT_US = 2000,
};

/* ---- pulling ---------------------------------------------------------------------------------------- */

static struct task *new_task(struct puller *p, struct kz_bus_delivery *delivery)
{
    struct task *task = kz_calloc(1, sizeof(*task));

    task->magic = TASK_MAGIC;
    task->role = p->role;
    task->puller = p;
    task->delivery = delivery;
    task->published_ms = delivery->published_ms;
    task->model = p->model;
    task->begun_us = kz_mono_us();
    return task;
}

static void take_in(struct role_infer *r, struct task *task, struct kz_str data)
{
    const char *name = r->models[task->model].name;
    struct kz_err err;
    enum kz_code rc = kz_request_message_decode(data, &task->hold, &task->message, &err);

    if (rc == KZ_OK && !kz_str_is(kz_request_message_model(&task->message), name))
        rc = kz_fail(&err, KZ_INVALID, "a request of model \"" KZ_STR_FMT "\", not \"%s\"",
                KZ_STR_ARG(kz_request_message_model(&task->message)), name);
    kz_task_take_in(task, rc == KZ_OK);
    if (rc != KZ_OK)
        kz_task_poison(task, "bad_request", &err);
}

/* Not to be asked now: their messages wait in the bus, where others may take them. */
static bool is_resting(struct role_infer *r, unsigned model)
{
    struct kz_infer_status status;

    kz_infer_status(r->infer, model, &status);
    return status.paused || status.fenced;
}

static bool is_held(struct puller *p)
{
    bool held;

    pthread_mutex_lock(&p->role->lock);
    held = p->held > 0;
    pthread_mutex_unlock(&p->role->lock);
    return held;
}

static bool is_stopping(struct role_infer *r)
{
    bool stopping;

    pthread_mutex_lock(&r->lock);
    stopping = r->stopping;
    pthread_mutex_unlock(&r->lock);
    return stopping;
}

static void wait_a_moment(struct role_infer *r)
{
    struct timespec until = kz_mono_after(PULL_WAIT_MS);

    pthread_mutex_lock(&r->lock);
    if (!r->stopping)
        (void)pthread_cond_timedwait(&r->idle, &r->lock, &until);
    pthread_mutex_unlock(&r->lock);
}

static enum kz_code pull(struct puller *p, struct kz_err *err)
{
    struct role_infer *r = p->role;
    struct kz_bus *bus = r->env->bus;
    struct kz_bus_delivery *deliveries[PULL_MAX];
    struct kz_bus_pull_options options = {
            .topic = KZ_TOPIC_REQUESTS, .name = p->subscription, .messages_max = HELD_MAX};
    size_t count = 0;

    if (!p->source)
        KZ_TRY(bus->ops->open_source(bus, &options, &p->source, err));
    KZ_TRY(bus->ops->pull(p->source, deliveries, PULL_MAX, PULL_WAIT_MS, &count, err));
    for (size_t i = 0; i < count; i++)
        take_in(r, new_task(p, deliveries[i]), deliveries[i]->data);
    return KZ_OK;
}

static void run_puller(void *arg)
{
    struct puller *p = arg;
    struct role_infer *r = p->role;
    bool warned = false;

    while (!is_stopping(r)) {
        struct kz_err err;

        if (is_resting(r, p->model)) {
            /* What it has prefetched is for others, too. */
            if (p->source && !is_held(p)) {
                r->env->bus->ops->close_source(p->source);
                p->source = NULL;
            }
            wait_a_moment(r);
        } else if (pull(p, &err) == KZ_OK) {
            warned = false;
        } else {
            if (!warned)
                kz_diag_warn("requests cannot be pulled", "subscription=%s error=\"%s\"",
                        p->subscription, err.message);
            warned = true;
            wait_a_moment(r);
        }
    }
}

/* ---- workers --------------------------------------------------------------------------------------- */

/* What was delayed and is due comes first. Milliseconds until the next one is. */
static int64_t wake_delayed(struct role_infer *r)
{
    int64_t now_ms = kz_mono_ms(), next_ms = 1000;
    struct task_list waiting;
    struct task *task;

    kz_tasks_init(&waiting);
    while ((task = kz_tasks_pop(&r->delayed))) {
        if (task->not_before_ms <= now_ms) {
            kz_tasks_push(&r->work, task);
        } else {
            next_ms = KZ_MIN(next_ms, task->not_before_ms - now_ms);
            kz_tasks_push(&waiting, task);
        }
    }
    while ((task = kz_tasks_pop(&waiting)))
        kz_tasks_push(&r->delayed, task);
    return next_ms;
}

static struct task *next_task(struct role_infer *r)
{
    struct task *task = NULL;

    pthread_mutex_lock(&r->lock);
    while (!r->stop) {
        int64_t wait_ms = r->delayed.first ? wake_delayed(r) : 1000;
        struct timespec until;

        task = kz_tasks_pop(&r->work);
        if (task && task->stale)
            task->row_owner = 0;
        if (task)
            break;
        until = kz_mono_after(wait_ms);
        (void)pthread_cond_timedwait(&r->work_there, &r->lock, &until);
    }
    pthread_mutex_unlock(&r->lock);
    return task;
}

static void run_worker(void *arg)
{
    struct worker *w = arg;
    struct task *task;

    while ((task = next_task(w->role))) {
        KZ_CHECK_MAGIC(task, TASK_MAGIC);
        if (task->state == TASK_BEGIN)
            kz_worker_begin(w, task);
        else if (task->state == TASK_FINISH)
            kz_worker_finish(w, task);
        else
            kz_task_publish(w, task);
    }
}

/* ---- the driver: owns kz_infer --------------------------------------------------------------------- */

static void on_infer(void *arg)
{
    sem_post(&((struct role_infer *)arg)->driver_woken);
}

static void take_results(struct role_infer *r)
{
    struct kz_infer_result *result = kz_infer_take(r->infer), *returned;

    while (result) {
        struct kz_infer_result *next = result->next;
        struct task *task = result->job->user;

        KZ_CHECK_MAGIC(task, TASK_MAGIC);
        task->result = result;
        if (result->end == KZ_END_EXPIRED)
            task->end = KZ_END_EXPIRED;
        kz_task_turn(task);
        result = next;
    }
    pthread_mutex_lock(&r->lock);
    returned = kz_take(&r->returned);
    pthread_mutex_unlock(&r->lock);
    while (returned) {
        struct kz_infer_result *next = returned->next;

        kz_infer_result_free(r->infer, returned);
        returned = next;
    }
}

static void heed_words(struct role_infer *r)
{
    for (unsigned m = 0; m < r->project.model_count; m++) {
        struct kz_str name = kz_str(r->models[m].name);
        int64_t said_ms;

        if (!r->ours[m])
            continue;
        kz_infer_pause(r->infer, m, kz_words_paused(r->env->words, "model", name));
        said_ms = kz_words_said_ms(r->env->words, "fence-model", name);
        if (said_ms > r->unfenced_ms[m]) {
            r->unfenced_ms[m] = said_ms;
            kz_infer_unfence(r->infer, m);
        }
        said_ms = KZ_MAX(kz_words_said_ms(r->env->words, "drop-requests", name),
                kz_words_said_ms(r->env->words, "drop-requests", KZ_STR("*")));
        atomic_store(&r->dropped_ms[m], said_ms);
    }
}

/* One that waits for room, or is to wait no longer. True: it still waits. */
static bool ask(struct role_infer *r, struct task *task, struct kz_infer_job ***tail)
{
    int64_t expires_ms = kz_task_request(task)->expires_ms;
    struct kz_infer_job *job;

    if (is_resting(r, task->model)) {
        kz_task_give_back(task);
        return false;
    }
    if (task->message.record->at_ms < atomic_load(&r->dropped_ms[task->model]))
        task->end = KZ_END_DROPPED;
    else if (!r->env->event_clock && expires_ms && kz_clock_ms() > expires_ms)
        task->end = KZ_END_EXPIRED;
    else if (!r->env->event_clock && task->waited && kz_task_is_overtaken(task))
        task->end = KZ_END_SUPERSEDED;
    if (task->end) {
        kz_task_turn(task);
        return false;
    }
    if (!kz_infer_room(r->infer, task->model)) {
        task->waited = true;
        return true;
    }
    pthread_mutex_lock(&r->lock);
    task->state = TASK_INSIDE;
    pthread_mutex_unlock(&r->lock);
    job = kz_task_job(task);
    job->next = NULL;
    **tail = job;
    *tail = &job->next;
    return false;
}

static void ask_all(struct role_infer *r)
{
    struct task_list list, waiting;
    struct task *task;

    pthread_mutex_lock(&r->lock);
    list = r->ask;
    if (!list.first)
        list.last = &list.first;
    kz_tasks_init(&r->ask);
    pthread_mutex_unlock(&r->lock);
    kz_tasks_init(&waiting);
    while ((task = kz_tasks_pop(&list))) {
        struct kz_infer_job *jobs = NULL, **tail = &jobs;

        if (ask(r, task, &tail))
            kz_tasks_push(&waiting, task);
        else if (jobs)
            kz_infer_submit(r->infer, jobs); /* one at a time: room is counted by submissions */
    }
    if (!waiting.first)
        return;
    pthread_mutex_lock(&r->lock);
    *waiting.last = r->ask.first; /* they came first */
    if (!r->ask.first)
        r->ask.last = waiting.last;
    r->ask.first = waiting.first;
    r->ask.count += waiting.count;
    pthread_mutex_unlock(&r->lock);
}

static void run_driver(void *arg)
{
    struct role_infer *r = arg;
    int64_t words_ms = 0;
    bool stop = false;

    while (!stop) {
        struct timespec until;

        take_results(r);
        if (kz_mono_ms() >= words_ms) {
            words_ms = kz_mono_ms() + WORDS_EVERY_MS;
            heed_words(r);
        }
        ask_all(r);
        until = kz_mono_after(WORDS_EVERY_MS);
        if (sem_clockwait(&r->driver_woken, CLOCK_MONOTONIC, &until) == 0)
            while (sem_trywait(&r->driver_woken) == 0)
                ;
        pthread_mutex_lock(&r->lock);
        stop = r->stop;
        pthread_mutex_unlock(&r->lock);
    }
}

/* ---- seen from outside ------------------------------------------------------------------------------- */

static struct role_infer *of(struct kz_role *role)
{
    struct role_infer *r = KZ_CONTAINER_OF(role, struct role_infer, base);

    KZ_CHECK_MAGIC(r, INFER_MAGIC_ROLE);
    return r;
}

static void add_counters(struct kz_role *role, struct kz_pipeline_counters *counters)
{
    struct role_infer *r = of(role);

    pthread_mutex_lock(&r->lock);
#define X(name, gauge, help) counters->name += r->counters.name;
    KZ_PIPELINE_COUNTERS(X)
#undef X
    counters->requests_pending += r->task_count;
    pthread_mutex_unlock(&r->lock);
}

static void add_histograms(struct kz_role *role, struct kz_pipeline_histograms *histograms)
{
    struct role_infer *r = of(role);

    pthread_mutex_lock(&r->lock);
#define X(name, help)                                                                              \
    for (size_t b = 0; b < KZ_HISTOGRAM_BUCKETS; b++)                                              \
        histograms->name.buckets[b] += r->histograms.name.buckets[b];                              \
    histograms->name.count += r->histograms.name.count;                                            \
    histograms->name.sum_seconds += r->histograms.name.sum_seconds;
    KZ_PIPELINE_STAGES(X)
#undef X
    pthread_mutex_unlock(&r->lock);
}

static void model_status(struct kz_role *role, unsigned m, struct kz_model_status *ret)
{
    struct role_infer *r = of(role);
    struct kz_infer_status s;

    if (!r->ours[m])
        return;
    kz_infer_status(r->infer, m, &s);
    pthread_mutex_lock(&r->lock);
    *ret = (struct kz_model_status){
            .name = r->models[m].name,
            .version = s.version ? s.version : "",
            .runtime = r->models[m].runtime,
            .replicas_ready = s.replicas_ready,
            .replicas_starting = s.replicas_starting,
            .replicas_max = r->models[m].replicas.max,
            .inside = s.inside,
            .waiting = s.waiting,
            .pending = r->pullers[m].held,
            .paused = s.paused,
            .fenced = s.fenced,
            .done = r->ends[m].done,
            .dead = r->ends[m].dead,
            .expired = r->ends[m].expired,
            .superseded = r->ends[m].superseded,
            .dropped = r->ends[m].dropped,
            .batches = s.batches,
            .batch_rows = s.batch_rows,
            .restarts = s.restarts,
            .timeouts = s.timeouts,
            .rss_bytes = s.rss_bytes,
    };
    pthread_mutex_unlock(&r->lock);
    memcpy(ret->reason, s.reason, sizeof(ret->reason));
}

static void backlog(struct kz_role *role, struct kz_role_backlog *ret)
{
    struct role_infer *r = of(role);

    *ret = (struct kz_role_backlog){0};
    pthread_mutex_lock(&r->lock);
    ret->messages = r->task_count;
    for (const struct task *t = r->all; t; t = t->all_next) {
        int64_t published_ms = t->published_ms; /* the delivery may be gone */

        if (published_ms && (!ret->oldest_ms || published_ms < ret->oldest_ms))
            ret->oldest_ms = published_ms;
    }
    pthread_mutex_unlock(&r->lock);
}

static void series(
        struct kz_buf *out, const char *name, const char *type, const char *help, double value)
{
    kz_buf_printf(out,
            "# HELP kizashi_role_infer_%s %s\n# TYPE kizashi_role_infer_%s %s\n"
            "kizashi_role_infer_%s %.17g\n",
            name, help, name, type, name, value);
}

static void metrics(struct kz_role *role, struct kz_buf *out)
{
    struct role_infer *r = of(role);
    struct kz_recent_stats s;

#define X(name, help) series(out, #name, "counter", help, (double)atomic_load(&r->counts.name));
    ROLE_INFER_COUNTERS(X)
#undef X
    kz_recent_stats(r->recent, &s);
    series(out, "histories_hit_total", "counter", "histories that were in memory whole",
            (double)s.hits);
    series(out, "histories_extended_total", "counter",
            "histories of which only what was new was read", (double)s.extended);
    series(out, "histories_read_total", "counter", "histories read whole", (double)s.read);
    series(out, "histories_read_seconds_total", "counter", "time spent reading them",
            (double)s.read_us_total * 1e-6);
    series(out, "histories_bytes", "gauge", "memory of histories kept", (double)s.bytes);
}

/* Models that keep replicas have one; a fenced model is no reason: others may take its place. */
static enum kz_code ready(struct kz_role *role, struct kz_err *err)
{
    struct role_infer *r = of(role);

    for (unsigned m = 0; m < r->project.model_count; m++) {
        struct kz_infer_status s;

        if (!r->ours[m] || !r->models[m].replicas.min)
            continue;
        kz_infer_status(r->infer, m, &s);
        if (!s.replicas_ready && !s.fenced && !s.done)
            return kz_fail(err, KZ_UNAVAILABLE, "model %s is not loaded yet%s%s", r->models[m].name,
                    *s.reason ? ": " : "", s.reason);
    }
    return KZ_OK;
}

/* ---- life ---------------------------------------------------------------------------------------------- */

/* "a,b" of --model; NULL: all. */
static enum kz_code choose_models(struct role_infer *r, const char *list, struct kz_err *err)
{
    for (unsigned m = 0; m < r->project.model_count; m++)
        r->ours[m] = !list;
    while (list && *list) {
        struct kz_str name = kz_str_n(list, strcspn(list, ","));
        const struct kz_model_def *def = kz_project_model(r->env->project, name);

        if (!def)
            return kz_fail(err, KZ_CONFIG, "there is no model \"" KZ_STR_FMT "\" (--model)",
                    KZ_STR_ARG(name));
        r->ours[def - r->env->project->models] = true;
        list += name.size + (list[name.size] == ',');
    }
    return KZ_OK;
}

static bool wants_actions(const struct kz_project *project)
{
    for (size_t m = 0; m < project->model_count; m++)
        if (project->models[m].history.include_actions)
            return true;
    return false;
}

static enum kz_code open_infer(struct role_infer *r, struct kz_err *err)
{
    struct kz_recent_options recent = {
            .behind = r->env->store->ops->reader(r->env->store),
            .actions = wants_actions(r->env->project),
    };
    struct kz_infer_options infer = {
            .project = &r->project,
            .runtimes = r->env->runtimes ? r->env->runtimes : kz_runtimes(),
            .wake = on_infer,
            .arg = r,
            .start_replicas = true,
    };

    r->recent = kz_recent_new(&recent);
    /* What fell out of memory between the fetch and the features is read again: rare, and better than
     * a dead letter. */
    infer.reader = kz_recent_reader(r->recent);
    return kz_infer_open(&infer, &r->infer, err);
}

static enum kz_code start(struct role_infer *r, struct kz_err *err)
{
    KZ_TRY(kz_thread_start(&r->driver, "kz-ask", run_driver, r, err));
    for (unsigned i = 0; i < WORKERS; i++) {
        r->worker_count = i + 1;
        KZ_TRY(kz_worker_open(&r->workers[i], r, err));
        KZ_TRY(kz_thread_start(
                &r->workers[i].thread, "kz-infer-work", run_worker, &r->workers[i], err));
    }
    for (unsigned m = 0; m < r->project.model_count; m++) {
        struct puller *p = &r->pullers[m];

        p->role = r;
        p->model = m;
        snprintf(p->subscription, sizeof(p->subscription), "infer-%.200s", r->models[m].name);
        if (r->ours[m] && !r->env->push_only)
            KZ_TRY(kz_thread_start(&p->thread, "kz-infer-pull", run_puller, p, err));
    }
    return KZ_OK;
}

static void init(struct role_infer *r, struct kz_role_env *env)
{
    size_t models = env->project->model_count;
    pthread_condattr_t attr;

    r->base.ops = &kz_role_infer;
    r->magic = INFER_MAGIC_ROLE;
    r->env = env;
    r->project = *env->project;
    r->models = kz_calloc(models + 1, sizeof(*r->models));
    if (models)
        memcpy(r->models, env->project->models, models * sizeof(*r->models));
    r->project.models = r->models;
    r->ours = kz_calloc(models + 1, sizeof(*r->ours));
    r->ranks = kz_calloc(models + 1, sizeof(*r->ranks));
    r->ends = kz_calloc(models + 1, sizeof(*r->ends));
    r->unfenced_ms = kz_calloc(models + 1, sizeof(*r->unfenced_ms));
    r->dropped_ms = kz_calloc(models + 1, sizeof(*r->dropped_ms));
    r->pullers = kz_calloc(models + 1, sizeof(*r->pullers));
    r->workers = kz_calloc(WORKERS, sizeof(*r->workers));
    kz_infer_ranks(env->project, r->ranks);
    kz_tasks_init(&r->work);
    kz_tasks_init(&r->delayed);
    kz_tasks_init(&r->ask);
    kz_tasks_init(&r->pushed);
    sem_init(&r->driver_woken, 0, 0);
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->work_there, &attr);
    pthread_cond_init(&r->idle, &attr);
    pthread_condattr_destroy(&attr);
}

static void close_role(struct kz_role *role);

static enum kz_code open_role(
        struct kz_role_env *env, struct kz_role **ret_role, struct kz_err *err)
{
    struct role_infer *r = kz_calloc(1, sizeof(*r));
    enum kz_code rc;

    init(r, env);
    rc = choose_models(r, env->models, err);
    if (rc == KZ_OK)
        rc = kz_push_auth_open_project(env->project, &r->push_auth, err);
    for (unsigned m = 0; m < r->project.model_count; m++)
        if (!r->ours[m])
            r->models[m].replicas.min = 0; /* never asked, so never started */
    if (rc == KZ_OK)
        rc = open_infer(r, err);
    if (rc == KZ_OK) {
        /* Words of before this start have been heeded by whoever ran then. */
        for (unsigned m = 0; m < r->project.model_count; m++)
            r->unfenced_ms[m] = kz_words_said_ms(
                    env->words, "fence-model", kz_str(r->models[m].name));
        rc = start(r, err);
    }
    if (rc != KZ_OK) {
        close_role(&r->base);
        return rc;
    }
    *ret_role = &r->base;
    return KZ_OK;
}

static void stop_role(struct kz_role *role, int64_t deadline_ms)
{
    struct role_infer *r = of(role);

    pthread_mutex_lock(&r->lock);
    r->stopping = true;
    r->deadline_ms = deadline_ms;
    pthread_cond_broadcast(&r->idle);
    pthread_mutex_unlock(&r->lock);
}

static bool stopped(struct kz_role *role)
{
    struct role_infer *r = of(role);
    bool is_stopped;

    pthread_mutex_lock(&r->lock);
    is_stopped = !r->task_count || kz_mono_ms() >= r->deadline_ms;
    pthread_mutex_unlock(&r->lock);
    return is_stopped;
}

/* What waits for a worker does so in vain. Under the lock. */
static void leave_queues(struct role_infer *r)
{
    struct task *task;

    while ((task = kz_tasks_pop(&r->work)) || (task = kz_tasks_pop(&r->delayed)))
        task->state = TASK_BEGIN;
}

/* All threads have ended; only the bus may still be about to say that something is published: a task in
 * TASK_PUBLISH and in no queue is the bus's, until it is out of `all` or in a queue again. */
static bool give_back_rest(struct role_infer *r)
{
    int64_t until_ms = kz_mono_ms() + CLOSE_WAIT_MS;
    size_t publishing;

    do {
        struct task *next;

        publishing = 0;
        pthread_mutex_lock(&r->lock);
        leave_queues(r);
        for (struct task *t = r->all; t; t = next) {
            next = t->all_next;
            if (t->state == TASK_PUBLISH) {
                publishing++;
                continue;
            }
            if (t->delivery)
                r->env->bus->ops->nack(t->puller->source, &t->delivery, 1);
            kz_task_end_locked(r, t);
            if (t->push)
                kz_tasks_push(&r->pushed, t);
            else
                kz_task_free(t);
        }
        pthread_mutex_unlock(&r->lock);
        if (publishing)
            usleep(BUS_WAIT_US);
    } while (publishing && kz_mono_ms() < until_ms);
    return !publishing;
}

static void join(struct role_infer *r)
{
    pthread_mutex_lock(&r->lock);
    r->stopping = r->stop = true;
    pthread_cond_broadcast(&r->idle);
    pthread_cond_broadcast(&r->work_there);
    pthread_mutex_unlock(&r->lock);
    sem_post(&r->driver_woken);
    for (unsigned m = 0; m < r->project.model_count; m++)
        kz_thread_join(&r->pullers[m].thread);
    for (unsigned i = 0; i < r->worker_count; i++)
        kz_thread_join(&r->workers[i].thread);
    kz_thread_join(&r->driver);
}

static void close_role(struct kz_role *role)
{
    struct role_infer *r = of(role);
    bool all_back;

    join(r);
    all_back = give_back_rest(r);
    kz_infer_answer(role);
    for (unsigned m = 0; m < r->project.model_count && all_back; m++)
        if (r->pullers[m].source)
            r->env->bus->ops->close_source(r->pullers[m].source);
    kz_infer_close(r->infer);
    for (unsigned i = 0; i < r->worker_count; i++)
        kz_worker_close(&r->workers[i]);
    kz_recent_free(r->recent);
    kz_push_auth_close(r->push_auth);
    if (!all_back) {
        kz_diag_warn(
                "the bus has not said what became of the last messages", "they=\"come again\"");
        r->env->abandoned =
                true; /* it may still do so: its answers need the role and its sources */
        return;
    }
    pthread_cond_destroy(&r->work_there);
    pthread_cond_destroy(&r->idle);
    pthread_mutex_destroy(&r->lock);
    sem_destroy(&r->driver_woken);
    free(r->models);
    free(r->ours);
    free(r->ranks);
    free(r->ends);
    free(r->unfenced_ms);
    free(r->dropped_ms);
    free(r->pullers);
    free(r->workers);
    r->magic = 0;
    free(r);
}

const struct kz_role_ops kz_role_infer = {
        .open = open_role,
        .handle = kz_infer_handle,
        .turn = kz_infer_answer,
        .counters = add_counters,
        .histograms = add_histograms,
        .model = model_status,
        .backlog = backlog,
        .metrics = metrics,
        .ready = ready,
        .stop = stop_role,
        .stopped = stopped,
        .close = close_role,
};
