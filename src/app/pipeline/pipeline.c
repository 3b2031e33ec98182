/* app/pipeline/pipeline.c -- opening, turns, commits, and what waits for them. */

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "app/pipeline/pipeline_int.h"
#include "base/diag.h"
#include "base/hash.h"
#include "sys/clock.h"

enum {
    SETTLE_STEP_MS = 1000,
    REFUSAL_OVER_MS = 1000,
    /* A start that reads more than a checkpoint leaves to be read says how far it is. */
    REPLAY_LOOK_EVERY = 65536,
    REPLAY_SAY_FIRST_MS = 2000,
    REPLAY_SAY_EVERY_MS = 5000
};

/* ---- clock, histograms ---------------------------------------------------------------------------- */

int64_t kz_pl_now(struct kz_pipeline *p)
{
    int64_t now_ms = p->options.virtual_clock ? p->virtual_ms : kz_clock_ms(), slow_ms;

    if (now_ms >= p->now_ms || p->options.virtual_clock) {
        p->behind.since_ms = 0;
        return KZ_MAX(now_ms, p->now_ms);
    }
    /* Records never go back in time, whatever the machine's clock does, or windows over a history
     * would not hold. Nor does time stand still, or no timer would fire: it goes on, slower, until
     * the clock has caught up. */
    if (!p->behind.since_ms) {
        p->behind.since_ms = kz_mono_ms();
        p->behind.from_ms = p->now_ms;
    }
    slow_ms = p->behind.from_ms + (kz_mono_ms() - p->behind.since_ms) * 9 / 10;
    return KZ_MAX(slow_ms, p->now_ms);
}

void kz_pl_observe(struct kz_histogram *histogram, int64_t us)
{
    unsigned bucket = us <= 1 ? 0 : 64 - (unsigned)__builtin_clzll((uint64_t)us - 1);

    histogram->buckets[KZ_MIN(bucket, (unsigned)KZ_HISTOGRAM_BUCKETS - 1)]++;
    histogram->count++;
    histogram->sum_seconds += (double)us * 1e-6;
}

/* ---- records -------------------------------------------------------------------------------------- */

kz_lsn kz_pl_head(struct kz_pipeline *p, uint32_t user, enum kz_chain chain)
{
    const struct kz_user *known = user ? kz_views_user(p->views, user) : NULL;

    if (!known)
        return 0;
    return chain == KZ_CHAIN_EVENTS ? known->events_head : known->notes_head;
}

enum kz_code kz_pl_get(struct kz_pipeline *p, uint32_t user, enum kz_chain chain, kz_lsn lsn,
        struct kz_buf *out, struct kz_err *err)
{
    struct kz_source sources[KZ_SOURCES_MAX];
    size_t count = kz_views_sources(p->views, user, chain, UINT64_MAX, sources);

    return kz_history_get_of(p->reader, lsn, sources, count, out, err);
}

static enum kz_code stop(struct kz_pipeline *p, enum kz_code code, const struct kz_err *err)
{
    if (!p->failed) {
        p->failed = true;
        p->failure = *err;
        if (p->log)
            kz_diag_error(
                    "the log has stopped: nothing more is accepted", "error=\"%s\"", err->message);
    }
    return code;
}

enum kz_code kz_pl_put(struct kz_pipeline *p, const struct kz_log_entry *entry, kz_lsn *ret_lsn,
        uint64_t *ret_seq, struct kz_err *err)
{
    kz_lsn lsn = 0;
    const struct kz_record *record = NULL;
    enum kz_code rc = p->journal->ops->append(p->journal, entry, &lsn, &record, err);

    if (rc == KZ_FULL) {
        /* Only a group larger than its estimate comes here; its parts land in two frames. */
        KZ_TRY(kz_pl_commit(p, err));
        rc = p->journal->ops->append(p->journal, entry, &lsn, &record, err);
    }
    if (rc != KZ_OK)
        return rc == KZ_IO || rc == KZ_CORRUPT ? stop(p, rc, err) : rc;
    rc = kz_views_apply(p->views, lsn, record, err);
    if (rc != KZ_OK)
        return stop(p, rc, err);
    p->seq = record->seq;
    p->staged_bytes += record->size;
    if (!p->turn.seq_first) {
        p->turn.seq_first = p->seq;
        p->turn.staged_us = kz_mono_us();
    }
    if (ret_lsn)
        *ret_lsn = lsn;
    if (ret_seq)
        *ret_seq = p->seq;
    return KZ_OK;
}

enum kz_code kz_pl_group(struct kz_pipeline *p, size_t size, struct kz_err *err)
{
    if (p->failed)
        return kz_fail(err, KZ_IO, "%s", p->failure.message);
    if (p->journal->ops->room(p->journal) < size + GROUP_SLACK_BYTES)
        return kz_pl_commit(p, err);
    return KZ_OK;
}

enum kz_code kz_pl_dead_letter(struct kz_pipeline *p, enum kz_stage stage, uint64_t ref,
        uint64_t owner, const char *code, struct kz_str reason, const char *model,
        struct kz_str payload, struct kz_err *err)
{
    struct kz_deadletter_body fixed = {.stage = (uint8_t)stage, .ref = ref};
    /* One of a client's making waits for room as events do; all others are the end of something that
     * was accepted. */
    struct kz_log_entry entry = {.type = KZ_RECORD_DEADLETTER,
            .owner = owner,
            .at_ms = p->now_ms,
            .reserved = stage != KZ_STAGE_SHAPE};
    struct kz_buf body = {0};
    struct kz_body_writer w = kz_body_begin(&body, &fixed, sizeof(fixed));
    enum kz_code rc;

    payload.size = KZ_MIN(payload.size, (size_t)DEAD_PAYLOAD_MAX_BYTES);
    reason.size = KZ_MIN(reason.size, (size_t)DEAD_PAYLOAD_MAX_BYTES);
    kz_body_span(&w, offsetof(struct kz_deadletter_body, code), kz_str(code));
    kz_body_span(&w, offsetof(struct kz_deadletter_body, reason), reason);
    kz_body_span(&w, offsetof(struct kz_deadletter_body, model), kz_str(model));
    kz_body_span(&w, offsetof(struct kz_deadletter_body, payload), payload);
    entry.body = kz_buf_view(&body);
    rc = kz_pl_put(p, &entry, NULL, NULL, err);
    kz_buf_done(&body);
    if (rc == KZ_OK)
        p->counters.dead_letters_total++;
    return rc;
}

/* ---- what waits for durability --------------------------------------------------------------------- */

struct due *kz_pl_due(struct kz_pipeline *p, enum due_kind kind)
{
    struct due_queue *q = &p->due;
    struct due *due;

    if (q->count == q->capacity) {
        size_t capacity = q->capacity ? q->capacity * 2 : 256;
        struct due *items = kz_malloc(capacity * sizeof(*items));

        for (size_t i = 0; i < q->count; i++)
            items[i] = q->items[(q->head + i) & (q->capacity - 1)];
        free(q->items);
        q->items = items;
        q->head = 0;
        q->capacity = capacity;
    }
    due = &q->items[(q->head + q->count++) & (q->capacity - 1)];
    *due = (struct due){.lsn = UINT64_MAX, .kind = kind};
    q->uncommitted++;
    return due;
}

static void date_dues(struct kz_pipeline *p, kz_lsn end)
{
    struct due_queue *q = &p->due;

    for (size_t i = q->count - q->uncommitted; i < q->count; i++) {
        struct due *due = &q->items[(q->head + i) & (q->capacity - 1)];

        due->lsn = end;
        due->staged_bytes = p->staged_bytes;
    }
    q->uncommitted = 0;
}

/* Events staged in this turn, for traces: when they came; how long until they were durable is
 * filled in when that is known. */
static void remember_timings(struct kz_pipeline *p)
{
    uint64_t first = KZ_MAX(p->turn.seq_first, p->seq > TIMINGS_MAX ? p->seq - TIMINGS_MAX + 1 : 1);

    for (uint64_t seq = first; seq <= p->seq; seq++) {
        size_t at = seq & (TIMINGS_MAX - 1);

        p->timings[at].seq = seq;
        p->timings[at].timing = (struct kz_event_timing){.received_us = p->turn.staged_us};
    }
}

static void remember_durable(struct kz_pipeline *p, const struct kz_submission *s)
{
    uint32_t us = (uint32_t)(kz_mono_us() - s->received_us);

    for (size_t i = 0; i < s->item_count; i++) {
        uint64_t seq = s->items[i]->seq;
        size_t at = seq & (TIMINGS_MAX - 1);

        if (seq && p->timings[at].seq == seq)
            p->timings[at].timing.log_us = us;
    }
}

enum kz_code kz_pl_commit(struct kz_pipeline *p, struct kz_err *err)
{
    enum kz_code rc;

    if (p->failed)
        return kz_fail(err, KZ_IO, "%s", p->failure.message);
    KZ_BUG_ON(!p->log); /* parts are committed by whoever has the journal */
    if (kz_log_has_staged(p->log)) {
        rc = kz_log_commit(p->log, err);
        if (rc != KZ_OK)
            return stop(p, rc, err);
        if (p->turn.seq_first)
            remember_timings(p);
        p->turn.seq_first = 0;
    }
    date_dues(p, kz_log_end(p->log));
    return KZ_OK;
}

static void release_one(struct kz_pipeline *p, const struct due *due)
{
    switch (due->kind) {
    case DUE_SUBMISSION: {
        struct kz_submission *s = due->submission;

        kz_pl_observe(&p->histograms.commit, kz_mono_us() - s->received_us);
        s->durable_at = due->lsn;
        remember_durable(p, s);
        if (s->wait_models)
            kz_pl_finish_waiting(p, s);
        else
            s->done(s, KZ_OK, NULL);
        break;
    }
    case DUE_CALL:
        due->call.then(due->call.arg, KZ_OK, NULL);
        break;
    case DUE_RESULT:
        kz_pl_result_durable(p, due);
        break;
    case DUE_DECISION:
        kz_pl_decision_durable(p, due);
        break;
    }
}

static void release(struct kz_pipeline *p)
{
    struct due_queue *q = &p->due;
    kz_lsn durable = kz_log_durable(p->log);

    while (q->count > q->uncommitted && q->items[q->head].lsn <= durable) {
        struct due due = q->items[q->head];

        q->head = (q->head + 1) & (q->capacity - 1);
        q->count--;
        p->released_bytes = due.staged_bytes;
        release_one(p, &due);
    }
    if (q->count == 0)
        p->released_bytes = p->staged_bytes;
}

/* The log has stopped: nobody who waits is told that all is well. */
static void release_failed(struct kz_pipeline *p)
{
    struct due_queue *q = &p->due;

    while (q->count) {
        struct due due = q->items[q->head];

        q->head = (q->head + 1) & (q->capacity - 1);
        q->count--;
        if (due.kind == DUE_SUBMISSION) {
            kz_pl_forget_waiters(due.submission);
            kz_waiting_remove(&p->waiting, due.submission);
            kz_pl_submission_done(due.submission, KZ_IO, &p->failure);
        } else if (due.kind == DUE_CALL) {
            due.call.then(due.call.arg, KZ_IO, &p->failure);
        }
    }
    q->uncommitted = 0;
}

/* ---- timers ----------------------------------------------------------------------------------------- */

static bool earlier(const struct timer *a, const struct timer *b)
{
    if (a->at_ms != b->at_ms)
        return a->at_ms < b->at_ms;
    if (a->owner != b->owner)
        return a->owner < b->owner;
    return a->name < b->name;
}

void kz_pl_set_timer(
        struct kz_pipeline *p, enum timer_kind kind, int64_t at_ms, uint64_t owner, uint64_t name)
{
    struct timers *t = &p->timers;
    struct timer timer = {at_ms, owner, name, kind};
    size_t i = t->count++;

    if (t->count > t->capacity) {
        t->capacity = t->capacity ? t->capacity * 2 : 256;
        t->items = kz_realloc(t->items, t->capacity * sizeof(*t->items));
    }
    for (; i && earlier(&timer, &t->items[(i - 1) / 2]); i = (i - 1) / 2)
        t->items[i] = t->items[(i - 1) / 2];
    t->items[i] = timer;
}

static struct timer pop_timer(struct timers *t)
{
    struct timer first = t->items[0], last = t->items[--t->count];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < t->count) {
        if (child + 1 < t->count && earlier(&t->items[child + 1], &t->items[child]))
            child++;
        if (!earlier(&t->items[child], &last))
            break;
        t->items[i] = t->items[child];
        i = child;
    }
    t->items[i] = last;
    return first;
}

static void fire_timers(struct kz_pipeline *p, size_t max)
{
    while (max-- && p->timers.count && p->timers.items[0].at_ms <= p->now_ms && !p->failed) {
        struct timer timer = pop_timer(&p->timers);

        if (timer.kind == TIMER_TRIGGER)
            kz_pl_fire(p, &timer);
        else
            kz_pl_delivery_timer(p, &timer);
    }
}

/* Timers, pending requests and deliveries are in the views; after a start they are set again. */
static void set_timers(struct kz_pipeline *p)
{
    struct kz_slot_cursor cursor = {0};
    const struct kz_slot *slot;

    while ((slot = kz_views_next_slot(p->views, KZ_SLOT_TRIGGER, &cursor))) {
        int64_t due_ms = kz_trigger_due(&slot->trigger);

        if (due_ms)
            kz_pl_set_timer(p, TIMER_TRIGGER, due_ms, kz_views_user(p->views, cursor.user)->owner,
                    slot->name);
    }
    cursor = (struct kz_slot_cursor){0};
    while ((slot = kz_views_next_slot(p->views, KZ_SLOT_DELIVERY, &cursor))) {
        uint64_t owner = kz_views_user(p->views, cursor.user)->owner;

        if (slot->delivery.kind == KZ_DELIVER_WEB)
            kz_pl_set_timer(
                    p, TIMER_EXPIRY, slot->delivery.expires_at_ms, owner, slot->delivery.decision);
        else
            kz_pl_set_timer(
                    p, TIMER_RETRY, slot->delivery.retry_at_ms, owner, slot->delivery.decision);
    }
}

static int by_request(const void *a, const void *b)
{
    const struct backlog_entry *x = a, *y = b;

    return x->request < y->request ? -1 : x->request > y->request;
}

/* Pending requests are asked again, in the order they were made (P4); those of models that are
 * gone are ended as dropped. */
static void requeue_pending(struct kz_pipeline *p)
{
    struct kz_slot_cursor cursor = {0};
    const struct kz_slot *slot;
    bool orphans = false;

    while ((slot = kz_views_next_slot(p->views, KZ_SLOT_REQUEST, &cursor))) {
        unsigned m = 0;

        while (m < p->project->model_count && p->models[m].name != slot->name)
            m++;
        if (m < p->project->model_count)
            kz_pl_backlog_push(&p->models[m].backlog,
                    (struct backlog_entry){kz_views_user(p->views, cursor.user)->owner,
                            slot->request.request, slot->request.request_lsn});
        else
            orphans = true;
    }
    for (unsigned m = 0; m < p->project->model_count; m++) {
        struct backlog *b = &p->models[m].backlog;

        if (b->count)
            qsort(b->items, b->count, sizeof(*b->items), by_request); /* head is 0 here */
    }
    if (orphans)
        kz_diag_warn(
                "pending requests of models that are gone", "remedy=\"kizashi requests drop\"");
}

/* ---- turns ------------------------------------------------------------------------------------------ */

/* And behind them who was erased since they were made. */
static void hand_over_jobs(struct kz_pipeline *p)
{
    if (p->jobs)
        kz_infer_submit(p->infer, p->jobs);
    p->jobs = NULL;
    p->jobs_tail = &p->jobs;
    if (p->infer && p->forgotten.size)
        kz_infer_forget(p->infer, (const uint64_t *)(void *)p->forgotten.data,
                p->forgotten.size / sizeof(uint64_t));
    kz_buf_clear(&p->forgotten);
}

/* Says in this process' log when intake begins to be refused, and when it has been open again for a
 * second: a queue that is full comes and goes. */
static void watch_intake(struct kz_pipeline *p)
{
    int64_t now_ms = kz_mono_ms();
    struct kz_err err = {0};
    enum kz_code rc = kz_pl_ready(&p->intake, &err);

    if (p->closing)
        return;
    if (rc == KZ_OK) {
        if (p->refusal.said != KZ_OK && now_ms - p->refusal.last_ms >= REFUSAL_OVER_MS) {
            kz_diag_info("intake goes on", "refused_ms=%lld",
                    (long long)(p->refusal.last_ms - p->refusal.since_ms));
            p->refusal.said = KZ_OK;
        }
        return;
    }
    p->refusal.last_ms = now_ms;
    if (p->refusal.said == rc)
        return;
    if (p->refusal.said == KZ_OK)
        p->refusal.since_ms = now_ms;
    p->refusal.said = rc;
    kz_diag_error("intake is refused", "why=\"%s\" data=\"%s\" remedy=\"%s\"", err.message,
            p->options.data_dir, err.hint);
}

void kz_pipeline_turn(struct kz_pipeline *p)
{
    struct kz_err err;

    KZ_CHECK_MAGIC(p, PIPELINE_MAGIC);
    p->now_ms = kz_pl_now(p);
    if (!p->failed && kz_log_health(p->log, &err) != KZ_OK)
        KZ_IGNORE(stop(p, KZ_IO, &err)); /* kept in p->failure */
    if (!p->failed) {
        kz_pl_results(p);
        kz_pl_webhook_outcomes(p);
        fire_timers(p, 10000);
        kz_pl_refill(p);
        KZ_IGNORE(kz_pl_commit(p, &err)); /* kept in p->failure */
    }
    if (p->failed) {
        release_failed(p);
        kz_pl_waiters_timeout(p);
        return;
    }
    hand_over_jobs(p);
    release(p);
    kz_pl_waiters_timeout(p);
    if (!p->options.virtual_clock) {
        watch_intake(p);
        kz_pl_upkeep_tick(p);
    }
}

int kz_pipeline_next_ms(struct kz_pipeline *p)
{
    const struct kz_submission *waiting = kz_waiting_first(&p->waiting);
    int64_t wait_ms = 1000;

    if (p->timers.count)
        wait_ms = KZ_MIN(wait_ms, p->timers.items[0].at_ms - kz_pl_now(p));
    if (waiting)
        wait_ms = KZ_MIN(wait_ms, (waiting->wait_until_us - kz_mono_us() + 999) / 1000);
    return (int)KZ_MAX(wait_ms, (int64_t)0);
}

int64_t kz_pipeline_timer_ms(struct kz_pipeline *p)
{
    return p->timers.count ? p->timers.items[0].at_ms : INT64_MAX;
}

static bool settled(struct kz_pipeline *p)
{
    if (p->failed)
        return true;
    if (p->due.count || p->jobs || p->held)
        return false;
    for (unsigned m = 0; p->infer && m < p->project->model_count; m++) {
        struct kz_infer_status status;

        kz_infer_status(p->infer, m, &status);
        if (status.inside || (p->models[m].backlog.count && !status.paused && !status.fenced))
            return false;
    }
    return true;
}

/* Says what is still under way, for whoever has to find out why. */
static enum kz_code unsettled(struct kz_pipeline *p, int64_t timeout_ms, struct kz_err *err)
{
    struct kz_buf text = {0};

    kz_buf_printf(&text, "%zu not durable, %s to submit, %s to take", p->due.count,
            p->jobs ? "some" : "none", p->held ? "some" : "none");
    for (unsigned m = 0; p->infer && m < p->project->model_count; m++) {
        struct kz_infer_status status;

        kz_infer_status(p->infer, m, &status);
        kz_buf_printf(&text, "; model %s: %u inside, %zu behind, %u waiting, %u replicas ready%s%s",
                p->models[m].def->name, status.inside, (size_t)p->models[m].backlog.count,
                status.waiting, status.replicas_ready, status.paused ? ", paused" : "",
                status.fenced ? ", fenced" : "");
    }
    (void)kz_fail(err, KZ_TIMEOUT, "requests were still under way after %lld ms: " KZ_STR_FMT,
            (long long)timeout_ms, KZ_STR_ARG(kz_buf_view(&text)));
    kz_buf_done(&text);
    return KZ_TIMEOUT;
}

static void on_wake(void *arg)
{
    struct kz_pipeline *p = arg;

    sem_post(&p->woken);
    if (p->options.wake)
        p->options.wake(p->options.arg);
}

/* At most `ms`, since not all that a settling pipeline waits for wakes it. */
static void sleep_until_woken(struct kz_pipeline *p, int64_t ms)
{
    struct timespec until = kz_mono_after(ms);

    if (sem_clockwait(&p->woken, CLOCK_MONOTONIC, &until) == 0)
        while (sem_trywait(&p->woken) == 0)
            ;
}

enum kz_code kz_pipeline_settle(struct kz_pipeline *p, int64_t timeout_ms, struct kz_err *err)
{
    int64_t waited_ms = 0, last_ms = kz_mono_ms(), now_ms;

    for (;; last_ms = now_ms) {
        kz_pipeline_turn(p);
        if (p->failed)
            return kz_fail(err, KZ_IO, "%s", p->failure.message);
        if (settled(p))
            return KZ_OK;
        if (waited_ms > timeout_ms)
            return unsettled(p, timeout_ms, err);
        sleep_until_woken(p, 1);
        /* A machine that stood still meanwhile has given nobody the time to work. */
        now_ms = kz_mono_ms();
        waited_ms += KZ_MIN(now_ms - last_ms, (int64_t)SETTLE_STEP_MS);
    }
}

enum kz_code kz_pipeline_set_clock(struct kz_pipeline *p, int64_t now_ms, struct kz_err *err)
{
    KZ_BUG_ON(!p->options.virtual_clock);
    while (p->timers.count && p->timers.items[0].at_ms <= now_ms) {
        p->virtual_ms = KZ_MAX(p->virtual_ms, p->timers.items[0].at_ms);
        p->now_ms = kz_pl_now(p);
        fire_timers(p, 1);
        KZ_TRY(kz_pipeline_settle(p, 600000, err));
    }
    p->virtual_ms = KZ_MAX(p->virtual_ms, now_ms);
    p->now_ms = kz_pl_now(p);
    return KZ_OK;
}

/* ---- opening and closing ---------------------------------------------------------------------------- */

static const struct kz_intake_ops intake_ops = {.submit = kz_pl_submit, .ready = kz_pl_ready};

struct kz_intake *kz_pipeline_intake(struct kz_pipeline *p)
{
    return &p->intake;
}

struct kz_query *kz_pipeline_query(struct kz_pipeline *p)
{
    return &p->query;
}

struct kz_infer *kz_pipeline_infer(struct kz_pipeline *p)
{
    return p->infer;
}

size_t kz_pipeline_feature_names(
        struct kz_pipeline *p, unsigned model, const char *const **ret_names)
{
    size_t count = 0;

    if (p->models[model].features)
        kz_sql_columns(p->models[model].features, ret_names, &count);
    return count;
}

/* A directory whose name outlives a power cut. */
static enum kz_code make_dir(struct kz_fs *fs, const char *path, struct kz_err *err)
{
    char parent[PATH_MAX];
    char *slash;

    KZ_TRY(fs->ops->mkdir(fs, path, err));
    snprintf(parent, sizeof(parent), "%s", path);
    slash = strrchr(parent, '/');
    if (!slash)
        return fs->ops->sync_dir(fs, ".", err);
    slash[slash == parent] = '\0';
    return fs->ops->sync_dir(fs, parent, err);
}

static enum kz_code lock_data(struct kz_pipeline *p, struct kz_err *err)
{
    char path[PATH_MAX], holder[40];
    struct kz_fs *fs = p->options.fs;
    enum kz_code rc;

    KZ_TRY(make_dir(fs, p->options.data_dir, err));
    KZ_TRY(make_dir(fs, p->log_dir, err));
    KZ_TRY(make_dir(fs, p->views_dir, err));
    snprintf(path, sizeof(path), "%s/lock", p->options.data_dir);
    rc = fs->ops->open(fs, path, KZ_OPEN_READ | KZ_OPEN_WRITE | KZ_OPEN_CREATE, &p->lock, err);
    if (rc != KZ_OK)
        return kz_fs_hint_access(fs, p->options.data_dir, rc, err);
    rc = kz_file_lock(p->lock, err);
    if (rc == KZ_LOCKED) {
        kz_file_lock_holder(p->lock, holder);
        (void)kz_fail(
                err, KZ_LOCKED, "the data in \"%s\" is in use by %s", p->options.data_dir, holder);
        return kz_hint(err, "stop it, or give another place with --data");
    }
    KZ_TRY(rc);
    kz_file_lock_sign(p->lock);
    return KZ_OK;
}

/* Records behind the checkpoint, on their way into the views. */
struct replay {
    struct kz_pipeline *p;
    uint64_t count, seq_last;
    int64_t say_ms; /* when the next word is due */
};

static enum kz_code apply_one(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct replay *replay = arg;

    if (++replay->count % REPLAY_LOOK_EVERY == 0 && kz_mono_ms() >= replay->say_ms) {
        kz_diag_info("reading the log", "seq=%llu of=%llu", (unsigned long long)record->seq,
                (unsigned long long)replay->seq_last);
        replay->say_ms = kz_mono_ms() + REPLAY_SAY_EVERY_MS;
    }
    return kz_views_apply(replay->p->views, lsn, record, &replay->p->failure);
}

/* Our clock's time of the newest record; 0 for none. */
static int64_t newest_ms(struct kz_log *log)
{
    size_t count;
    struct kz_log_segment_info *segments = kz_log_segments(log, &count);
    int64_t at_ms = 0;

    for (size_t i = 0; i < count; i++)
        at_ms = KZ_MAX(at_ms, segments[i].at_last_ms);
    free(segments);
    return at_ms;
}

/* The log that the checkpoint was made of, or without a checkpoint where the log is another. The
 * views follow from the log, so what they said of the other is of no use here, and is removed. */
static enum kz_code open_log(struct kz_pipeline *p, struct kz_log_options *options,
        struct kz_checkpoint_info *info, struct kz_log_recovery *ret_recovery, struct kz_err *err)
{
    enum kz_code rc;

    options->covered = info->mark;
    rc = kz_log_open(options, &p->log, ret_recovery, err);
    if (rc != KZ_CONFLICT)
        return rc;
    kz_diag_warn("the checkpoints are of another log: reading the whole log", "why=\"%s\"",
            err->message);
    KZ_TRY(kz_checkpoint_forget(p->options.fs, p->views_dir, err));
    kz_views_free(p->views);
    p->views = kz_views_new(p->project->limits.dead_letters_max);
    *info = (struct kz_checkpoint_info){0};
    options->covered = info->mark;
    return kz_log_open(options, &p->log, ret_recovery, err);
}

/* Checkpoint, then the records after it. */
static enum kz_code recover(struct kz_pipeline *p, struct kz_err *err)
{
    struct kz_checkpoint_info info = {0};
    struct kz_log_recovery recovery = {0};
    struct kz_log_options options = {
            .fs = p->options.fs,
            .dir = p->log_dir,
            .segment_size_bytes = p->project->limits.segment_size_bytes,
            .reserve_bytes = p->project->limits.reserve_bytes,
            .keys_bytes_max = p->project->limits.dedupe_memory_bytes,
            .behind_ms = p->project->events.max_behind_ms,
            .sync_inline = p->options.sync_inline,
            .on_durable = on_wake,
            .arg = p,
    };
    int64_t start_ms = kz_mono_ms();
    struct replay replay = {.p = p, .say_ms = start_ms + REPLAY_SAY_FIRST_MS};
    enum kz_code rc = kz_checkpoint_load(p->options.fs, p->views_dir, p->project->name,
            p->project->limits.dead_letters_max, &p->views, &info, err);

    if (rc == KZ_CORRUPT) {
        kz_diag_warn(
                "no checkpoint can be used: reading the whole log", "error=\"%s\"", err->message);
        rc = KZ_NOT_FOUND;
    }
    if (rc == KZ_NOT_FOUND)
        p->views = kz_views_new(p->project->limits.dead_letters_max);
    else if (rc != KZ_OK)
        return rc;
    if (info.fell_back)
        kz_diag_warn("the newest checkpoint is no good, took the one before", "why=\"%s\"",
                info.warning);
    KZ_TRY(open_log(p, &options, &info, &recovery, err));
    kz_log_journal_init(&p->log_journal, p->log);
    p->journal = &p->log_journal.journal;
    p->reader = kz_log_reader(p->log);
    replay.seq_last = recovery.seq_last;
    rc = p->reader->ops->scan_all(
            p->reader, info.mark.position, recovery.end, apply_one, &replay, err);
    if (rc != KZ_OK)
        return kz_wrap(err, "reading the log after the checkpoint");
    p->seq = recovery.seq_last;
    p->upkeep.checkpoint_at = info.mark.position;
    p->upkeep.checkpoint_before = info.position_before;
    p->now_ms = KZ_MAX(kz_views_clock_ms(p->views), newest_ms(p->log));
    p->virtual_ms = p->now_ms;
    kz_diag_info("log opened",
            "segments=%zu sealed=%zu seq=%llu users=%llu checkpoint=%llu torn_bytes=%llu ms=%lld",
            recovery.segment_count, recovery.sealed_count, (unsigned long long)p->seq,
            (unsigned long long)kz_views_stats(p->views).users, (unsigned long long)info.seq,
            (unsigned long long)recovery.torn_bytes, (long long)(kz_mono_ms() - start_ms));
    return KZ_OK;
}

static void report_rule(void *arg, const struct kz_err *err)
{
    (void)arg;
    kz_diag_error("the project is wrong", "error=\"%s\"", err->message);
}

static enum kz_code open_models(struct kz_pipeline *p, struct kz_err *err)
{
    const struct kz_project *project = p->project;

    p->models = kz_calloc(project->model_count + 1, sizeof(*p->models));
    for (unsigned i = 0; i < project->model_count; i++) {
        struct model *model = &p->models[i];

        model->def = &project->models[i];
        model->name = kz_name_hash(kz_str(model->def->name));
        model->after = UINT_MAX;
        for (unsigned k = 0; model->def->after && k < project->model_count; k++)
            if (strcmp(project->models[k].name, model->def->after) == 0)
                model->after = k;
        if (model->def->features_sql)
            KZ_TRY(kz_sql_compile(p->sql, KZ_SQL_FEATURES, model->def->features_sql,
                    model->def->features_place, &model->features, err));
        if (model->def->after_when)
            KZ_TRY(kz_sql_compile(p->sql, KZ_SQL_PREDICTION, model->def->after_when,
                    model->def->place, &model->after_when, err));
    }
    return KZ_OK;
}

static enum kz_code open_asking(struct kz_pipeline *p, struct kz_err *err)
{
    struct kz_infer_options infer = {
            .project = p->project,
            .reader = p->reader,
            .runtimes = p->options.runtimes,
            .wake = on_wake,
            .arg = p,
            .history_bytes = p->project->limits.history_memory_bytes,
            .start_replicas = true,
    };

    if (!p->options.ask || !p->project->model_count)
        return KZ_OK;
    KZ_TRY(kz_infer_open(&infer, &p->infer, err));
    for (unsigned m = 0; m < p->project->model_count; m++)
        if (kz_views_paused(p->views, "model", kz_str(p->project->models[m].name)))
            kz_infer_pause(p->infer, m, true);
    /* What is decided on virtual time is not delivered to anybody. */
    return p->options.virtual_clock ? KZ_OK : kz_webhooks_open(on_wake, p, &p->webhooks, err);
}

static struct kz_pipeline *new_pipeline(const struct kz_pipeline_options *options)
{
    struct kz_pipeline *p = kz_calloc(1, sizeof(*p));

    p->magic = PIPELINE_MAGIC;
    p->options = *options;
    p->options.data_dir = options->data_dir ? kz_strdup(options->data_dir) : NULL;
    if (!p->options.fs)
        p->options.fs = kz_fs_posix();
    p->project = options->project;
    p->jobs_tail = &p->jobs;
    p->dice = (uint64_t)kz_mono_ns();
    sem_init(&p->woken, 0, 0);
    return p;
}

/* What decides: compiled from the project. */
static enum kz_code open_rules(struct kz_pipeline *p, struct kz_err *err)
{
    KZ_TRY(kz_sql_open(p->project, &p->sql, err));
    KZ_TRY(kz_triggers_open(p->project, p->sql, report_rule, NULL, &p->triggers, err));
    KZ_TRY(open_models(p, err));
    return kz_pl_actions_open(p, err);
}

enum kz_code kz_pl_parts_open(const struct kz_pipeline_options *options, struct kz_journal *journal,
        struct kz_history_reader *reader, struct kz_pipeline **ret_pipeline, struct kz_err *err)
{
    KZ_AUTO(kz_pipeline_closep) struct kz_pipeline *p = new_pipeline(options);

    p->journal = journal;
    p->reader = reader;
    p->views = kz_views_new(p->project->limits.dead_letters_max);
    KZ_TRY(open_rules(p, err));
    *ret_pipeline = kz_take(&p);
    return KZ_OK;
}

void kz_pl_parts_reset(struct kz_pipeline *p, struct kz_views *views, int64_t now_ms)
{
    KZ_CHECK_MAGIC(p, PIPELINE_MAGIC);
    KZ_BUG_ON(p->log);
    kz_views_free(p->views);
    p->views = views;
    p->now_ms = now_ms;
    p->failed = false;
    p->due.head = p->due.count = p->due.uncommitted = 0;
    p->timers.count = 0;
    p->staged_bytes = p->released_bytes = 0;
    p->turn.seq_first = 0;
}

enum kz_code kz_pipeline_open(const struct kz_pipeline_options *options,
        struct kz_pipeline **ret_pipeline, struct kz_err *err)
{
    KZ_AUTO(kz_pipeline_closep) struct kz_pipeline *p = new_pipeline(options);
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/log", options->data_dir);
    p->log_dir = kz_strdup(path);
    snprintf(path, sizeof(path), "%s/views", options->data_dir);
    p->views_dir = kz_strdup(path);
    p->timings = kz_calloc(TIMINGS_MAX, sizeof(*p->timings));
    p->intake.ops = &intake_ops;
    p->query = (struct kz_query){.ops = &kz_pl_query_ops, .project = p->project};
    KZ_TRY(lock_data(p, err));
    KZ_TRY(recover(p, err));
    p->query.reader = p->reader;
    KZ_TRY(open_rules(p, err));
    KZ_TRY(open_asking(p, err));
    KZ_TRY(kz_pl_upkeep_open(p, err));
    KZ_TRY(kz_pl_erasures_open(p, err));
    if (p->options.ask) {
        set_timers(p);
        requeue_pending(p);
    }
    *ret_pipeline = kz_take(&p);
    return KZ_OK;
}

/* What is acknowledged is made durable and a checkpoint written; requests under way stay pending. */
static void finish(struct kz_pipeline *p)
{
    struct kz_err err;

    p->closing = true;
    if (!p->failed && p->views) {
        kz_pl_results(p);
        kz_pl_webhook_outcomes(p);
        if (kz_pl_commit(p, &err) != KZ_OK || kz_log_wait(p->log, &err) != KZ_OK)
            KZ_IGNORE(stop(p, KZ_IO, &err)); /* kept in p->failure */
        else
            release(p);
        if (!p->failed)
            kz_pipeline_end_waiting(p);
    }
    kz_pl_upkeep_close(p);
    if (p->failed)
        release_failed(p);
    else if (p->upkeep.started && kz_pl_checkpoint(p, &err) != KZ_OK)
        kz_diag_warn("no checkpoint at the end: the next start takes longer", "error=\"%s\"",
                err.message);
}

void kz_pipeline_close(struct kz_pipeline *p)
{
    if (!p)
        return;
    if (p->log)
        finish(p);
    while (p->jobs) {
        struct kz_infer_job *job = p->jobs;

        p->jobs = job->next;
        kz_infer_job_free(p->infer, job);
    }
    while (p->held) {
        struct kz_infer_result *result = p->held;

        p->held = result->next;
        kz_infer_result_free(p->infer, result);
    }
    kz_infer_close(p->infer);
    kz_buf_done(&p->forgotten);
    kz_webhooks_close(p->webhooks);
    kz_triggers_close(p->triggers);
    kz_sql_close(p->sql);
    for (unsigned i = 0; p->models && i < p->project->model_count; i++)
        free(p->models[i].backlog.items);
    free(p->models);
    for (size_t i = 0; p->actions && i < p->project->action_count; i++) {
        free(p->actions[i].models);
        free(p->actions[i].posts.items);
    }
    free(p->actions);
    kz_places_done(&p->places);
    kz_views_free(p->views);
    kz_log_close(p->log);
    if (p->lock)
        kz_file_close(p->lock);
    kz_pl_waiting_done(p);
    free(p->due.items);
    free(p->timers.items);
    kz_buf_done(&p->body);
    kz_buf_done(&p->text);
    kz_buf_done(&p->record);
    free(p->timings);
    free(p->log_dir);
    free(p->views_dir);
    free((char *)p->options.data_dir);
    sem_destroy(&p->woken);
    free(p);
}
