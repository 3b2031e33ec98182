/* Room on the disk: the next segment, made ahead of need, and the reserve.
 *
 *  P1  `next` is a file of zeros, durable with its name, and in no view.
 *  P2  While there is room a file "reserve" of reserve_bytes holds a part of it. When room is gone
 *      (a segment cannot be made, or little is left), the reserve is given up, intake is refused,
 *      and results, decisions, erasure and checkpoints have that much.
 *  P3  Intake is taken again when the reserve could be made again and the next segment is there or
 *      not asked for.
 *  P4  A segment that is in no view any more is closed here, once nobody reads it.
 *  P5  What another process has opened to read (`sql`, `dump`: kz_log_options.read_only) is not cut off
 *      under its mapping: a reader has a shared lock on the file, and without the other kind it goes
 *      as a whole when the last of them closes it.
 *
 * All of it happens in one step function, run by a thread of its own, or inline where there are no
 * threads. The disk is never touched with space_lock held.
 */
#include <stdio.h>
#include "log/log_int.h"
#include "sys/clock.h"

enum {
    STEP_BYTES = KZ_TRICKLE_BYTES, /* zeroed between two syncs; the log's own waits behind one */
    PAUSE_MAX_MS = 20,             /* after a step */
    CHECK_MS = 200,                /* while short of space */
    CHECK_IDLE_MS = 1000,          /* otherwise */
    SHRINK_BYTES = 8 << 20,        /* given back at a time */
    SHRINK_PAUSE_MS = 5,
    SMALL_SEGMENT_BYTES = 16 << 20, /* the first of a log, and out of the reserve */
};

uint64_t kz_space_segment_size(const struct kz_log *log, uint32_t number)
{
    /* A young log is small: 16 MiB, 64 MiB, 256 MiB ... */
    uint64_t size = SMALL_SEGMENT_BYTES;

    for (uint32_t i = 1; i < number && size < log->options.segment_size_bytes; i++)
        size *= 4;
    return KZ_MIN(size, log->options.segment_size_bytes);
}

/* ---- the reserve ------------------------------------------------------------------------------
 */

static void reserve_path(const struct kz_log *log, char *path, size_t size)
{
    snprintf(path, size, "%s/reserve", log->dir);
}

static void give_up_reserve(struct kz_log *log)
{
    char path[4096];

    reserve_path(log, path, sizeof(path));
    /* Where even this fails there is nothing left to give; the next step tries again. */
    if (log->fs->ops->unlink(log->fs, path, NULL) == KZ_OK)
        (void)log->fs->ops->sync_dir(log->fs, log->dir, NULL);
    log->has_reserve = false;
}

static enum kz_code make_reserve(struct kz_log *log, struct kz_err *err)
{
    KZ_AUTO(kz_file_closep) struct kz_file *file = NULL;
    char path[4096];
    int flags = KZ_OPEN_READ | KZ_OPEN_WRITE | KZ_OPEN_CREATE;

    reserve_path(log, path, sizeof(path));
    KZ_TRY(log->fs->ops->open(log->fs, path, flags, &file, err));
    for (uint64_t at = 0; at < log->options.reserve_bytes;) {
        at = KZ_MIN(log->options.reserve_bytes, at + STEP_BYTES);
        KZ_TRY(file->ops->allocate(file, at, err));
        KZ_TRY(file->ops->sync(file, err));
    }
    log->has_reserve = true;
    return KZ_OK;
}

static uint64_t free_bytes(struct kz_log *log)
{
    uint64_t free = UINT64_MAX; /* a file system that cannot say is not short */

    (void)log->fs->ops->free_bytes(log->fs, log->dir, &free, NULL);
    return free;
}

/* ---- the next segment -------------------------------------------------------------------------
 */

static void wait_until(struct kz_log *log, int ms)
{
    struct timespec until = kz_mono_after(ms);

    (void)pthread_cond_clockwait(
            &log->space_wanted, &log->space_lock, CLOCK_MONOTONIC, &until); /* asked again */
}

/* The disk is the log's first: zeros keep a little ahead of it, so that the next segment is there
 * when half of this one is used, and where the log is slower they still come at their own pace. */
static void pace(void *arg, uint64_t done_bytes)
{
    struct kz_log *log = arg;
    int64_t until_ms = kz_mono_ms() + PAUSE_MAX_MS;
    double size, half;

    if (log->options.sync_inline)
        return;
    pthread_mutex_lock(&log->space_lock);
    size = (double)kz_space_segment_size(log, log->next_number);
    half = (double)kz_space_segment_size(log, log->next_number - 1) / 2;
    while (!log->space_stop && !log->next_urgent && kz_mono_ms() < until_ms) {
        kz_lsn end = atomic_load_explicit(&log->end, memory_order_acquire);

        if (KZ_LSN_SEGMENT(end) + 1 != log->next_number ||
                (double)done_bytes / size < (double)KZ_LSN_OFFSET(end) / half)
            break;
        wait_until(log, 2);
    }
    pthread_mutex_unlock(&log->space_lock);
}

static enum kz_code make_segment(struct kz_log *log, uint32_t number, uint64_t size,
        struct kz_segment **ret_seg, struct kz_err *err)
{
    enum kz_code rc = kz_segment_create(
            log->fs, log->dir, number, size, STEP_BYTES, pace, log, ret_seg, err);

    if (rc != KZ_OK) {
        KZ_AUTO(kz_freep) char *path = kz_segment_path(log->dir, number, false);

        /* Recovery removes what is left if this fails too. */
        (void)log->fs->ops->unlink(log->fs, path, NULL);
    }
    return rc;
}

static void become_short(struct kz_log *log)
{
    atomic_store_explicit(&log->no_space, true, memory_order_release);
    give_up_reserve(log);
}

static enum kz_code prepare(
        struct kz_log *log, uint32_t number, struct kz_segment **ret_seg, struct kz_err *err)
{
    uint64_t size = kz_space_segment_size(log, number);
    bool is_short = atomic_load_explicit(&log->no_space, memory_order_acquire);
    enum kz_code rc = KZ_NO_SPACE;

    if (!is_short || !log->options.reserve_bytes) {
        rc = make_segment(log, number, size, ret_seg, err);
        if (rc == KZ_NO_SPACE)
            become_short(log);
    }
    /* Out of the reserve, in smaller pieces. */
    if (rc == KZ_NO_SPACE && log->options.reserve_bytes)
        rc = make_segment(log, number, KZ_MIN(size, (uint64_t)SMALL_SEGMENT_BYTES), ret_seg, err);
    return rc;
}

/* ---- the step ---------------------------------------------------------------------------------
 */

static void step_next(struct kz_log *log)
{
    struct kz_segment *seg = NULL;
    struct kz_err err = {0};
    enum kz_code rc;
    uint32_t number, key_count;
    bool wanted;

    pthread_mutex_lock(&log->space_lock);
    wanted = log->next_wanted && !log->next;
    number = log->next_number;
    key_count = log->next_keys;
    pthread_mutex_unlock(&log->space_lock);
    if (!wanted)
        return;
    rc = prepare(log, number, &seg, &err);
    /* The writer would otherwise wait for each page of the table as it first writes to it. */
    if (rc == KZ_OK && key_count) {
        kz_keytab_init(&seg->keys, key_count);
        kz_keytab_touch(&seg->keys);
    }
    pthread_mutex_lock(&log->space_lock);
    log->next = seg;
    log->next_rc = rc;
    log->next_err = err;
    if (rc == KZ_OK)
        log->next_wanted = false;
    pthread_cond_broadcast(&log->space_changed);
    pthread_mutex_unlock(&log->space_lock);
}

static void step_reserve(struct kz_log *log)
{
    uint64_t reserve = log->options.reserve_bytes;
    uint64_t free = free_bytes(log);
    bool is_short = atomic_load_explicit(&log->no_space, memory_order_acquire);
    uint64_t margin = reserve / 8;

    if (!is_short && free < margin) {
        become_short(log);
        return;
    }
    if (!is_short && !log->has_reserve && reserve && make_reserve(log, NULL) != KZ_OK)
        become_short(log);
}

static void step_recover(struct kz_log *log)
{
    uint64_t reserve = log->options.reserve_bytes;
    uint64_t need = reserve + reserve / 8;
    bool pending;

    if (!atomic_load_explicit(&log->no_space, memory_order_acquire))
        return;
    pthread_mutex_lock(&log->space_lock);
    pending = log->next_wanted && !log->next;
    if (pending)
        need += kz_space_segment_size(log, log->next_number);
    pthread_mutex_unlock(&log->space_lock);
    if ((pending && !reserve) || free_bytes(log) < need)
        return;
    if (reserve && make_reserve(log, NULL) != KZ_OK) {
        give_up_reserve(log);
        return;
    }
    atomic_store_explicit(&log->no_space, false, memory_order_release);
}

/* One that nobody else refers to; none can begin to, since it is in no view. */
static struct kz_segment *take_unread(struct kz_log *log)
{
    struct kz_segment **at, *seg;

    pthread_mutex_lock(&log->space_lock);
    for (at = &log->leaving; *at; at = &(*at)->leaving_next)
        if (atomic_load_explicit(&(*at)->refs, memory_order_acquire) == 1)
            break;
    seg = *at;
    if (seg)
        *at = seg->leaving_next;
    pthread_mutex_unlock(&log->space_lock);
    return seg;
}

/* Its blocks go back in pieces, where the disk is told of each (discard): all of a segment at once
 * would keep it from the log's syncs for tens of milliseconds. Should its name come back after a
 * power cut, the sealed segment is there as well and takes precedence. */
static void shrink(struct kz_log *log, struct kz_segment *seg)
{
    uint64_t size = seg->file_size;
    bool stop = false;

    kz_segment_unmap(seg);
    if (seg->file->ops->lock(seg->file, NULL) != KZ_OK) /* P5 */
        return;
    while (size > SHRINK_BYTES && !stop) {
        size -= SHRINK_BYTES;
        if (seg->file->ops->truncate(seg->file, size, NULL) != KZ_OK)
            return; /* read-only; it goes as a whole when it is closed */
        pthread_mutex_lock(&log->space_lock);
        if (!log->space_stop && !log->next_wanted)
            wait_until(log, SHRINK_PAUSE_MS);
        stop = log->space_stop;
        pthread_mutex_unlock(&log->space_lock);
    }
}

static void step_leaving(struct kz_log *log)
{
    struct kz_segment *seg;

    while ((seg = take_unread(log))) {
        shrink(log, seg);
        kz_segment_unref(seg);
    }
}

static void step(struct kz_log *log)
{
    step_next(log);
    step_leaving(log);
    if (!log->options.sync_inline)
        kz_keyfilter_make_spare(&log->keys);
    step_recover(log);
    step_reserve(log);
}

/* ---- the thread -------------------------------------------------------------------------------
 */

static void run(void *arg)
{
    struct kz_log *log = arg;

    KZ_CHECK_MAGIC(log, KZ_LOG_MAGIC);
    for (;;) {
        struct timespec until;
        int ms;
        bool stop;

        step(log);
        ms = atomic_load_explicit(&log->no_space, memory_order_acquire) ? CHECK_MS : CHECK_IDLE_MS;
        until = kz_mono_after(ms);
        pthread_mutex_lock(&log->space_lock);
        /* A segment that could not be made is tried again at the next check, not at once. */
        while (!log->space_stop && !(log->next_wanted && !log->next && log->next_rc == KZ_OK) &&
                pthread_cond_clockwait(
                        &log->space_wanted, &log->space_lock, CLOCK_MONOTONIC, &until) == 0)
            ;
        stop = log->space_stop;
        pthread_mutex_unlock(&log->space_lock);
        if (stop)
            return;
    }
}

enum kz_code kz_space_start(struct kz_log *log, struct kz_err *err)
{
    if (log->options.sync_inline) {
        step(log);
        return KZ_OK;
    }
    return kz_thread_start(&log->space_thread, "kz-log-space", run, log, err);
}

void kz_space_join(struct kz_log *log)
{
    pthread_mutex_lock(&log->space_lock);
    log->space_stop = true;
    pthread_cond_signal(&log->space_wanted);
    pthread_mutex_unlock(&log->space_lock);
    kz_thread_join(&log->space_thread);
    while (log->leaving) {
        struct kz_segment *seg = log->leaving;

        log->leaving = seg->leaving_next;
        kz_segment_unref(seg);
    }
    if (log->next) {
        KZ_AUTO(kz_freep) char *path = kz_segment_path(log->dir, log->next->number, false);

        kz_segment_unref(log->next);
        log->next = NULL;
        /* Recovery would remove it as well; this only leaves a tidy directory. */
        (void)log->fs->ops->unlink(log->fs, path, NULL);
    }
}

/* ---- the writer's side ------------------------------------------------------------------------
 */

void kz_space_leave(struct kz_log *log, struct kz_segment *seg)
{
    if (log->options.sync_inline)
        return; /* there is no thread: whoever lets go last closes it */
    pthread_mutex_lock(&log->space_lock);
    seg->leaving_next = log->leaving;
    log->leaving = kz_segment_ref(seg);
    pthread_mutex_unlock(&log->space_lock);
}

void kz_space_want(struct kz_log *log, uint32_t number, uint32_t key_count)
{
    if (log->options.sync_inline)
        return; /* made when it is taken */
    pthread_mutex_lock(&log->space_lock);
    if (!log->next) {
        log->next_wanted = true;
        log->next_number = number;
        log->next_keys = key_count;
        log->next_rc = KZ_OK;
        pthread_cond_signal(&log->space_wanted);
    }
    pthread_mutex_unlock(&log->space_lock);
}

enum kz_code kz_space_take(
        struct kz_log *log, uint32_t number, struct kz_segment **ret_seg, struct kz_err *err)
{
    enum kz_code rc;

    pthread_mutex_lock(&log->space_lock);
    if (!log->next) {
        log->next_wanted = true;
        log->next_number = number;
        log->next_keys = 0;
        if (log->next_rc != KZ_NO_SPACE)
            log->next_rc = KZ_OK;
        pthread_cond_signal(&log->space_wanted);
    }
    if (log->options.sync_inline && !log->next) {
        pthread_mutex_unlock(&log->space_lock);
        step(log);
        pthread_mutex_lock(&log->space_lock);
    }
    log->next_urgent = true;
    while (!log->next && log->next_rc == KZ_OK && !log->options.sync_inline)
        pthread_cond_wait(&log->space_changed, &log->space_lock);
    log->next_urgent = false;
    rc = log->next_rc;
    if (log->next) {
        KZ_BUG_ON(log->next->number != number);
        *ret_seg = kz_take(&log->next);
        log->next_wanted = false;
        rc = KZ_OK;
    } else if (err) {
        *err = log->next_err;
    }
    pthread_mutex_unlock(&log->space_lock);
    return rc;
}

bool kz_space_is_short(struct kz_log *log)
{
    int64_t now_ms;

    if (KZ_LIKELY(!atomic_load_explicit(&log->no_space, memory_order_acquire)))
        return false;
    if (log->options.sync_inline && (now_ms = kz_mono_ms()) >= log->space_checked_ms + CHECK_MS) {
        log->space_checked_ms = now_ms;
        step(log);
    }
    return atomic_load_explicit(&log->no_space, memory_order_acquire);
}
