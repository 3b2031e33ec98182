/* The sync thread: takes the newest end of the log, syncs what leads up to it, publishes it. While
 * a sync runs the writer goes on, and what it wrote meanwhile is the next sync's. */
#include "log/log_int.h"
#include "sys/clock.h"

/* After a sync the next commit is often microseconds away, and waking a sleeping thread costs more
 * than the sync; so it looks out for so long before it sleeps. */
enum { SPIN_US = 30 };

static uint64_t get(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_acquire);
}

static enum kz_code sync_segments(
        struct kz_log *log, uint32_t from, uint32_t to, struct kz_err *err)
{
    KZ_AUTO(kz_log_view_unrefp) struct kz_log_view *view = kz_log_get_view(log);

    /* In order, so that a frame of a later segment never survives with a gap before it (L2). */
    for (uint32_t number = from; number <= to; number++) {
        struct kz_segment *seg = kz_log_view_segment(view, number);

        KZ_BUG_ON(
                !seg || seg->is_sealed); /* only complete, durable segments are sealed or dropped */
        KZ_TRY(seg->file->ops->sync(seg->file, err));
    }
    return KZ_OK;
}

/* One sync. Only one thread at a time: the sync thread, or inline the writer. */
static enum kz_code sync_once(struct kz_log *log, struct kz_err *err)
{
    /* `bytes` first: with it a little too small the bound on unsynced bytes errs to the safe side.
     */
    uint64_t bytes = get(&log->end_bytes);
    kz_lsn target = get(&log->end);
    int64_t began_us = kz_mono_us();
    uint32_t us;

    KZ_TRY(sync_segments(log, KZ_LSN_SEGMENT(get(&log->durable)), KZ_LSN_SEGMENT(target), err));
    us = (uint32_t)(kz_mono_us() - began_us);
    atomic_fetch_add_explicit(&log->syncs, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&log->sync_us_total, us, memory_order_relaxed);
    atomic_store_explicit(&log->sync_us_last, us, memory_order_relaxed);
    if (us > atomic_load_explicit(&log->sync_us_max, memory_order_relaxed))
        atomic_store_explicit(&log->sync_us_max, us, memory_order_relaxed);
    atomic_store_explicit(&log->durable_bytes, bytes, memory_order_release);
    atomic_store(&log->durable, target);
    if (atomic_load(&log->sync_waiters)) {
        pthread_mutex_lock(&log->sync_lock);
        pthread_cond_broadcast(&log->sync_done);
        pthread_mutex_unlock(&log->sync_lock);
    }
    return KZ_OK;
}

static bool has_work(const struct kz_log *log)
{
    return atomic_load(&log->end) > atomic_load(&log->durable);
}

/* false: stop, with nothing left to sync. */
static bool wait_for_work(struct kz_log *log)
{
    int64_t until_us = kz_mono_us() + SPIN_US;
    bool work;

    while (!(work = has_work(log)) && kz_mono_us() < until_us) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    if (work)
        return true;
    pthread_mutex_lock(&log->sync_lock);
    atomic_store(&log->sync_sleeping, true);
    while (!has_work(log) && !log->sync_stop)
        pthread_cond_wait(&log->sync_wanted, &log->sync_lock);
    atomic_store(&log->sync_sleeping, false);
    pthread_mutex_unlock(&log->sync_lock);
    return has_work(log);
}

static void run(void *arg)
{
    struct kz_log *log = arg;

    KZ_CHECK_MAGIC(log, KZ_LOG_MAGIC);
    kz_thread_prompt();
    while (wait_for_work(log)) {
        struct kz_err err;
        enum kz_code rc = kz_log_health(log, &err);

        if (rc == KZ_OK && (rc = sync_once(log, &err)) != KZ_OK) {
            (void)kz_wrap(&err, "the log has stopped");
            (void)kz_hint(&err, "mend the disk and start again: what was acknowledged is on it");
            kz_log_stop(log, &err);
        }
        if (log->options.on_durable)
            log->options.on_durable(log->options.arg);
        if (rc != KZ_OK)
            return; /* L4 */
    }
}

enum kz_code kz_sync_start(struct kz_log *log, struct kz_err *err)
{
    if (log->options.sync_inline)
        return KZ_OK;
    return kz_thread_start(&log->sync_thread, "kz-log-sync", run, log, err);
}

void kz_sync_join(struct kz_log *log)
{
    pthread_mutex_lock(&log->sync_lock);
    log->sync_stop = true;
    pthread_cond_signal(&log->sync_wanted);
    pthread_mutex_unlock(&log->sync_lock);
    kz_thread_join(&log->sync_thread);
}

enum kz_code kz_sync_request(struct kz_log *log, struct kz_err *err)
{
    if (log->options.sync_inline) {
        enum kz_code rc = sync_once(log, err);

        if (rc != KZ_OK) {
            (void)kz_wrap(err, "the log has stopped");
            kz_log_stop(log, err);
        } else if (log->options.on_durable) {
            log->options.on_durable(log->options.arg);
        }
        return rc;
    }
    /* Pairs with wait_for_work(): either it sees the new end, or we see it asleep. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load(&log->sync_sleeping)) {
        pthread_mutex_lock(&log->sync_lock);
        pthread_cond_signal(&log->sync_wanted);
        pthread_mutex_unlock(&log->sync_lock);
    }
    return KZ_OK;
}

static bool is_behind(const struct kz_log *log, uint64_t bytes_max)
{
    /* The counts of bytes are taken a step apart, so only the addresses say that nothing is left.
     */
    if (!has_work(log))
        return false;
    return bytes_max == 0 || get(&log->end_bytes) - get(&log->durable_bytes) > bytes_max;
}

enum kz_code kz_sync_wait(struct kz_log *log, uint64_t bytes_max, struct kz_err *err)
{
    if (KZ_LIKELY(!is_behind(log, bytes_max)))
        return kz_log_health(log, err);
    pthread_mutex_lock(&log->sync_lock);
    atomic_fetch_add(&log->sync_waiters, 1);
    while (is_behind(log, bytes_max) && !atomic_load_explicit(&log->failed, memory_order_relaxed))
        pthread_cond_wait(&log->sync_done, &log->sync_lock);
    atomic_fetch_sub(&log->sync_waiters, 1);
    pthread_mutex_unlock(&log->sync_lock);
    return kz_log_health(log, err);
}
