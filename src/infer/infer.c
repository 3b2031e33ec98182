/* The infer thread, and the interface towards the pipeline's.
 *
 *   pipeline's thread   jobs ring ----> infer thread ----> results ring   + wake()
 *                                        |     ^
 *                               slow_jobs|     |computed
 *                                        v     |
 *                                      slow lane
 *
 * Threads  rows pass between threads through the rings only. What others ask about is in `shared`,
 *          under the lock, or atomic.
 */
#include "infer/infer_int.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "base/hash.h"
#include "sys/clock.h"

enum { CLOSE_MS = 5000, RING_MIN = 1024, KEEP_BYTES = 64 << 10 };

/* ---- results -------------------------------------------------------------------------------------- */

void kz_infer_finish(struct kz_infer *infer, struct row *row, enum kz_request_end end)
{
    struct model *model = &infer->models[row->job.model];

    row->result.end = end;
    row->result.version = model->version;
    row->result.version_hash = model->version_hash;
    model->now.done += end == KZ_END_DONE;
    model->now.dead += end == KZ_END_DEAD;
    model->dirty = true;
    /* Every job that is out has its place there. */
    KZ_BUG_ON(!kz_ring_push(infer->results, row));
    infer->news = true;
}

void kz_infer_dead(struct kz_infer *infer, struct row *row, enum kz_stage stage, const char *code,
        struct kz_str message)
{
    struct kz_infer_result *result = &row->result;

    result->stage = stage;
    snprintf(result->code, sizeof(result->code), "%s", code);
    kz_buf_clear(&result->error);
    kz_buf_str(&result->error, message);
    kz_infer_finish(infer, row, KZ_END_DEAD);
}

/* ---- the fast lane -------------------------------------------------------------------------------- */

/* Features are there, or have failed, or were too late to be begun in the slow lane. */
static void computed(struct kz_infer *infer, struct row *row)
{
    if (row->failed)
        kz_infer_finish(infer, row, KZ_END_DEAD);
    else if (!row->computed)
        kz_infer_finish(infer, row, KZ_END_EXPIRED);
    else
        kz_batch_ready(&infer->models[row->job.model], row);
}

static bool is_too_old(const struct row *row)
{
    return row->job.deadline_ms && kz_clock_ms() > row->job.deadline_ms;
}

static uint32_t since_us(int64_t from_us, int64_t to_us)
{
    return (uint32_t)KZ_MIN(KZ_MAX(to_us - from_us, 0), (int64_t)UINT32_MAX);
}

static bool compute(struct lane *lane, struct row *row)
{
    int64_t start_us = kz_mono_us();
    bool fits;

    row->result.queue_us = since_us(row->job.queued_us, start_us);
    fits = row->computed = kz_lane_compute(lane, row);
    row->result.features_us += since_us(start_us, kz_mono_us());
    return fits;
}

/* Before jobs are taken out of the ring: those in there may be about the same users. */
static bool forget_erased(struct kz_infer *infer)
{
    struct kz_buf owners;

    if (KZ_LIKELY(!atomic_load(&infer->forget)))
        return false;
    pthread_mutex_lock(&infer->lock);
    owners = infer->forgotten;
    infer->forgotten = (struct kz_buf){0};
    atomic_store(&infer->forget, false);
    pthread_mutex_unlock(&infer->lock);
    for (size_t at = 0; at < owners.size; at += sizeof(uint64_t))
        kz_lane_forget(&infer->fast, kz_load_u64(owners.data + at));
    kz_buf_done(&owners);
    return true;
}

static void take_in(struct kz_infer *infer)
{
    bool forgot = forget_erased(infer);
    struct row *row;

    while ((row = kz_ring_pop(infer->jobs))) {
        while (row) {
            struct row *next = row->job.next ? KZ_CONTAINER_OF(row->job.next, struct row, job)
                                             : NULL;

            row->job.next = NULL;
            kz_rows_push(&infer->incoming, row);
            row = next;
        }
    }
    if (forgot)
        infer->keep_nothing = infer->incoming.count;
    while ((row = kz_ring_pop(infer->computed)))
        computed(infer, row);
}

/* Some of what came in; between two slices the replicas' answers are looked at. */
static void work(struct kz_infer *infer)
{
    int64_t until_us = infer->incoming.first ? kz_mono_us() + SLICE_US : 0;

    for (int i = 0; i < SLICE_ROWS && infer->incoming.first; i++) {
        struct row *row = kz_rows_pop(&infer->incoming);

        row->keep_nothing = infer->keep_nothing > 0;
        infer->keep_nothing -= row->keep_nothing;
        if (is_too_old(row)) {
            kz_infer_finish(infer, row, KZ_END_EXPIRED);
        } else if (compute(&infer->fast, row)) {
            computed(infer, row);
        } else {
            KZ_BUG_ON(!kz_ring_push(infer->slow_jobs, row));
            kz_waker_wake(&infer->slow_waker);
        }
        if (kz_mono_us() > until_us)
            break;
    }
}

/* ---- the slow lane -------------------------------------------------------------------------------- */

static void run_slow(void *arg)
{
    struct kz_infer *infer = arg;
    struct row *row;

    while (!atomic_load(&infer->stop)) {
        (void)kz_waker_wait(&infer->slow_waker, -1);
        while (!atomic_load(&infer->stop) && (row = kz_ring_pop(infer->slow_jobs))) {
            if (!is_too_old(row))
                KZ_BUG_ON(!compute(&infer->slow, row));
            KZ_BUG_ON(!kz_ring_push(infer->computed, row));
            kz_waker_wake(&infer->waker);
        }
    }
}

/* ---- the thread ------------------------------------------------------------------------------------ */

static void publish(struct kz_infer *infer)
{
    for (size_t i = 0; i < infer->model_count; i++) {
        struct model *m = &infer->models[i];

        if (!m->dirty)
            continue;
        m->dirty = false;
        m->now.replicas_ready = m->now.replicas_starting = 0;
        for (size_t j = 0; j < m->replica_count; j++) {
            m->now.replicas_ready += m->replicas[j]->state == REPLICA_IDLE ||
                                     m->replicas[j]->state == REPLICA_BUSY;
            m->now.replicas_starting += m->replicas[j]->state == REPLICA_STARTING;
        }
        m->now.waiting = (uint32_t)m->ready.count;
        m->now.next_try_ms = m->next_try_ms;
        pthread_mutex_lock(&infer->lock);
        m->shared = m->now;
        pthread_mutex_unlock(&infer->lock);
    }
}

/* Everything that is not an answer of a replica. True: there is more at once. */
static bool turn(struct kz_infer *infer)
{
    int64_t now_ms = kz_mono_ms();
    bool measure = now_ms >= infer->upkeep_ms;

    take_in(infer);
    work(infer);
    if (measure)
        infer->upkeep_ms = now_ms + TICK_IDLE_MS;
    for (size_t i = 0; i < infer->model_count; i++) {
        struct model *m = &infer->models[i];

        kz_batch_dispatch(m);
        kz_fleet_tick(m, now_ms);
        if (measure) {
            kz_batch_expire(m);
            kz_fleet_measure(m);
        }
    }
    publish(infer);
    if (infer->news) {
        infer->news = false;
        infer->options.wake(infer->options.arg);
    }
    return infer->incoming.first != NULL;
}

static bool is_waiting(const struct kz_infer *infer)
{
    for (size_t i = 0; i < infer->model_count; i++)
        if (kz_batch_waiting(&infer->models[i]))
            return true;
    return false;
}

static void on_bell(uv_poll_t *bell, int status, int events)
{
    struct kz_infer *infer = bell->data;

    (void)status;
    (void)events;
    KZ_CHECK_MAGIC(infer, INFER_MAGIC);
    kz_waker_drain(&infer->waker);
}

static void on_tick(uv_timer_t *tick)
{
    (void)tick; /* only ends the sleep; turn() looks at the clock itself */
}

/* A replica's timer that came due since the last turn has called us just now, and the poll would
 * sleep over what it brought: this one is not to. */
static void on_before_poll(uv_prepare_t *before_poll)
{
    struct kz_infer *infer = before_poll->data;

    if (infer->called)
        KZ_BUG_ON(uv_timer_start(&infer->tick, on_tick, 0, 0) != 0);
}

static void close_loop(struct kz_infer *infer)
{
    int64_t until_ms = kz_mono_ms() + CLOSE_MS;

    for (size_t i = 0; i < infer->model_count; i++)
        kz_fleet_close(&infer->models[i]);
    uv_close((uv_handle_t *)&infer->bell, NULL);
    uv_close((uv_handle_t *)&infer->tick, NULL);
    uv_close((uv_handle_t *)&infer->before_poll, NULL);
    /* Replicas' processes are reaped by their own timers; one stuck in the kernel is left to init. */
    while (uv_run(&infer->loop, UV_RUN_ONCE) && kz_mono_ms() < until_ms)
        ;
    if (uv_loop_close(&infer->loop) != 0)
        kz_diag_warn("a model's process did not end", "after_ms=%d", CLOSE_MS);
}

static void run(void *arg)
{
    struct kz_infer *infer = arg;
    bool more = false;

    kz_thread_prompt();
    while (!atomic_load(&infer->stop)) {
        /* No spinning before the sleep: measured, it doubles the round trip (README). */
        if (!more) {
            uint64_t ms = is_waiting(infer) ? TICK_BUSY_MS : TICK_IDLE_MS;

            uv_update_time(&infer->loop);
            KZ_BUG_ON(uv_timer_start(&infer->tick, on_tick, ms, 0) != 0);
        }
        infer->called = false;
        uv_run(&infer->loop, more ? UV_RUN_NOWAIT : UV_RUN_ONCE);
        more = turn(infer);
    }
    close_loop(infer);
}

/* ---- open and close --------------------------------------------------------------------------------- */

const struct kz_runtime_ops *kz_runtime_find(
        const struct kz_runtime_ops *const *table, const char *name)
{
    for (; table && *table; table++)
        if (strcmp((*table)->name, name) == 0)
            return *table;
    return NULL;
}

static enum kz_code open_model(struct kz_infer *infer, unsigned index, struct kz_err *err)
{
    const struct kz_model_def *def = &infer->project->models[index];
    struct model *m = &infer->models[index];

    *m = (struct model){.infer = infer, .index = index, .def = def, .dirty = true};
    m->runtime = kz_runtime_find(infer->options.runtimes, def->runtime);
    if (!m->runtime)
        return kz_fail(err, KZ_CONFIG,
                "%s:%u:%u: runtime \"%s\" of model \"%s\" is not in this build",
                def->place.file ? def->place.file : "kizashi.yaml", def->place.line,
                def->place.column, def->runtime, def->name);
    m->version_hash = kz_version_hash(def, kz_sql_tables_hash(infer->fast.sql));
    snprintf(
            m->version, sizeof(m->version), "%012llx", (unsigned long long)(m->version_hash >> 16));
    m->wanted = infer->options.start_replicas;
    kz_columns_open(m, &infer->fast);
    return KZ_OK;
}

static size_t jobs_max(const struct kz_project *project)
{
    size_t total = RING_MIN;

    for (size_t i = 0; i < project->model_count; i++)
        total += project->models[i].queue_max;
    return total;
}

static enum kz_code open_queues(struct kz_infer *infer, struct kz_err *err)
{
    size_t most = jobs_max(infer->project);

    infer->jobs = kz_ring_new(most);
    infer->results = kz_ring_new(most);
    infer->slow_jobs = kz_ring_new(most);
    infer->computed = kz_ring_new(most);
    KZ_TRY(kz_waker_init(&infer->waker, err));
    return kz_waker_init(&infer->slow_waker, err);
}

static void free_row(struct row *row)
{
    kz_buf_done(&row->history);
    kz_buf_done(&row->result.output);
    kz_buf_done(&row->result.features);
    kz_buf_done(&row->result.error);
    free(row);
}

static void free_infer(struct kz_infer *infer)
{
    while (infer->all) {
        struct row *row = infer->all;

        infer->all = row->all_next;
        free_row(row);
    }
    for (size_t i = 0; infer->models && i < infer->model_count; i++)
        kz_columns_close(&infer->models[i]);
    free(infer->models);
    kz_lane_close(&infer->fast);
    kz_lane_close(&infer->slow);
    kz_ring_freep(&infer->jobs);
    kz_ring_freep(&infer->results);
    kz_ring_freep(&infer->slow_jobs);
    kz_ring_freep(&infer->computed);
    if (infer->waker.fd >= 0)
        kz_waker_done(&infer->waker);
    if (infer->slow_waker.fd >= 0)
        kz_waker_done(&infer->slow_waker);
    kz_buf_done(&infer->forgotten);
    pthread_mutex_destroy(&infer->lock);
    pthread_cond_destroy(&infer->settled);
    infer->magic = 0;
    free(infer);
}

static void init_sync(struct kz_infer *infer)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&infer->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&infer->settled, &attr);
    pthread_condattr_destroy(&attr);
}

static enum kz_code prepare(struct kz_infer *infer, struct kz_err *err)
{
    const struct kz_project *project = infer->project;

    KZ_TRY(kz_lane_open(&infer->fast, infer, false, err));
    KZ_TRY(kz_lane_open(&infer->slow, infer, true, err));
    for (size_t i = 0; i < project->model_count; i++) {
        infer->model_count = i + 1;
        KZ_TRY(open_model(infer, (unsigned)i, err));
    }
    return open_queues(infer, err);
}

static enum kz_code start_threads(struct kz_infer *infer, struct kz_err *err)
{
    int rc = uv_loop_init(&infer->loop);

    if (rc != 0)
        return kz_fail(err, KZ_IO, "could not make infer's event loop: %s", uv_strerror(rc));
    KZ_BUG_ON(uv_poll_init(&infer->loop, &infer->bell, kz_waker_fd(&infer->waker)) != 0);
    KZ_BUG_ON(uv_timer_init(&infer->loop, &infer->tick) != 0);
    KZ_BUG_ON(uv_prepare_init(&infer->loop, &infer->before_poll) != 0);
    infer->bell.data = infer->before_poll.data = infer;
    KZ_BUG_ON(uv_prepare_start(&infer->before_poll, on_before_poll) != 0);
    KZ_BUG_ON(uv_poll_start(&infer->bell, UV_READABLE, on_bell) != 0);
    if (kz_thread_start(&infer->slow_thread, "kz-slow", run_slow, infer, err) != KZ_OK ||
            kz_thread_start(&infer->thread, "kz-infer", run, infer, err) != KZ_OK) {
        atomic_store(&infer->stop, true);
        kz_waker_wake(&infer->slow_waker);
        kz_thread_join(&infer->slow_thread);
        close_loop(infer);
        return err ? err->code : KZ_NO_MEMORY;
    }
    return KZ_OK;
}

enum kz_code kz_infer_open(
        const struct kz_infer_options *options, struct kz_infer **ret_infer, struct kz_err *err)
{
    struct kz_infer *infer = kz_calloc(1, sizeof(*infer));
    enum kz_code rc;

    infer->magic = INFER_MAGIC;
    infer->options = *options;
    infer->project = options->project;
    infer->models = kz_calloc(options->project->model_count + 1, sizeof(*infer->models));
    infer->waker.fd = infer->slow_waker.fd = -1;
    if (!infer->options.fence_after)
        infer->options.fence_after = FENCE_AFTER_DEFAULT;
    if (!infer->options.slow_events)
        infer->options.slow_events = SLOW_EVENTS_DEFAULT;
    init_sync(infer);
    rc = prepare(infer, err);
    if (rc == KZ_OK)
        rc = start_threads(infer, err);
    if (rc != KZ_OK) {
        free_infer(infer);
        return rc;
    }
    *ret_infer = infer;
    return KZ_OK;
}

void kz_infer_close(struct kz_infer *infer)
{
    if (!infer)
        return;
    KZ_CHECK_MAGIC(infer, INFER_MAGIC);
    atomic_store(&infer->stop, true);
    kz_waker_wake(&infer->waker);
    kz_waker_wake(&infer->slow_waker);
    kz_thread_join(&infer->thread);
    kz_thread_join(&infer->slow_thread);
    free_infer(infer);
}

/* ---- the pipeline's side ----------------------------------------------------------------------------- */

static struct row *row_of(struct kz_infer_job *job)
{
    return KZ_CONTAINER_OF(job, struct row, job);
}

/* A job's memory is kept, but not what one large request made of it. */
static void forget(struct kz_buf *buf)
{
    if (buf->capacity > KEEP_BYTES)
        kz_buf_done(buf);
    kz_buf_clear(buf);
}

struct kz_infer_job *kz_infer_job_new(struct kz_infer *infer)
{
    struct row *row = infer->pool, *all_next;
    struct kz_infer_result kept = {0};
    struct kz_buf history = {0};

    if (row) {
        infer->pool = row->pool_next;
        kept.output = row->result.output;
        kept.features = row->result.features;
        kept.error = row->result.error;
        history = row->history;
        all_next = row->all_next;
    } else {
        row = kz_calloc(1, sizeof(*row));
        all_next = infer->all;
        infer->all = row;
    }
    *row = (struct row){.all_next = all_next, .result = kept, .history = history};
    row->result.job = &row->job;
    return &row->job;
}

void kz_infer_job_free(struct kz_infer *infer, struct kz_infer_job *job)
{
    struct row *row = row_of(job);

    forget(&row->history);
    forget(&row->result.output);
    forget(&row->result.features);
    forget(&row->result.error);
    row->pool_next = infer->pool;
    infer->pool = row;
}

void kz_infer_submit(struct kz_infer *infer, struct kz_infer_job *jobs)
{
    if (!jobs)
        return;
    for (const struct kz_infer_job *job = jobs; job; job = job->next) {
        KZ_BUG_ON(job->model >= infer->model_count);
        atomic_fetch_add_explicit(&infer->models[job->model].inside, 1, memory_order_relaxed);
    }
    KZ_BUG_ON(!kz_ring_push(infer->jobs, row_of(jobs))); /* I2: kz_infer_room() was asked */
    kz_waker_wake(&infer->waker);
}

void kz_infer_forget(struct kz_infer *infer, const uint64_t *owners, size_t count)
{
    pthread_mutex_lock(&infer->lock);
    kz_buf_put(&infer->forgotten, owners, count * sizeof(*owners));
    atomic_store(&infer->forget, true);
    pthread_mutex_unlock(&infer->lock);
    kz_waker_wake(&infer->waker);
}

struct kz_infer_result *kz_infer_take(struct kz_infer *infer)
{
    struct kz_infer_result *first = NULL, **last = &first;
    struct row *row;

    while ((row = kz_ring_pop(infer->results))) {
        atomic_fetch_sub_explicit(&infer->models[row->job.model].inside, 1, memory_order_relaxed);
        row->result.next = NULL;
        *last = &row->result;
        last = &row->result.next;
    }
    return first;
}

void kz_infer_result_free(struct kz_infer *infer, struct kz_infer_result *result)
{
    kz_infer_job_free(infer, result->job);
}

uint32_t kz_infer_room(const struct kz_infer *infer, unsigned model)
{
    const struct model *m = &infer->models[model];
    uint32_t inside = atomic_load_explicit(&m->inside, memory_order_relaxed);

    if (atomic_load(&m->paused) || atomic_load(&m->fenced) || inside >= m->def->queue_max)
        return 0;
    return m->def->queue_max - inside;
}

void kz_infer_pause(struct kz_infer *infer, unsigned model, bool paused)
{
    atomic_store(&infer->models[model].paused, paused);
}

void kz_infer_unfence(struct kz_infer *infer, unsigned model)
{
    atomic_store(&infer->models[model].unfence, true);
    kz_waker_wake(&infer->waker);
}

void kz_infer_status(struct kz_infer *infer, unsigned model, struct kz_infer_status *ret_status)
{
    struct model *m = &infer->models[model];
    int64_t left;

    pthread_mutex_lock(&infer->lock);
    *ret_status = m->shared;
    pthread_mutex_unlock(&infer->lock);
    ret_status->version = m->version;
    ret_status->inside = atomic_load(&m->inside);
    ret_status->paused = atomic_load(&m->paused);
    ret_status->fenced = atomic_load(&m->fenced);
    left = ret_status->next_try_ms - kz_mono_ms();
    ret_status->next_try_ms = ret_status->fenced ? KZ_MAX(left, 0) : 0;
}

/* Models that keep replicas and have neither one ready nor one that failed. */
static size_t count_unsettled(const struct kz_infer *infer)
{
    size_t count = 0;

    for (size_t i = 0; i < infer->model_count; i++)
        count += infer->models[i].def->replicas.min && infer->models[i].settled == UNSETTLED;
    return count;
}

enum kz_code kz_infer_wait_ready(struct kz_infer *infer, int64_t timeout_ms,
        void (*report)(void *arg, unsigned model, const char *problem), void *arg,
        struct kz_err *err)
{
    struct timespec deadline = kz_mono_after(timeout_ms);
    size_t failed = 0, late;

    pthread_mutex_lock(&infer->lock);
    while (count_unsettled(infer) &&
            pthread_cond_timedwait(&infer->settled, &infer->lock, &deadline) == 0)
        ;
    late = count_unsettled(infer);
    for (size_t i = 0; i < infer->model_count; i++) {
        const struct model *m = &infer->models[i];
        bool is_late = m->def->replicas.min && m->settled == UNSETTLED;

        failed += m->settled == SETTLED_FAILED;
        if (report && (is_late || m->settled == SETTLED_FAILED))
            report(arg, (unsigned)i, is_late ? "still loading" : m->shared.reason);
    }
    pthread_mutex_unlock(&infer->lock);
    if (failed)
        return kz_fail(err, KZ_MODEL, "%zu of %zu models did not load", failed, infer->model_count);
    if (late)
        return kz_fail(
                err, KZ_TIMEOUT, "%zu of %zu models are still loading", late, infer->model_count);
    return KZ_OK;
}
