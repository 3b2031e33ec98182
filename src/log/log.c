/* The writer: what is staged becomes a frame, frames fill segments.
 *
 * Invariants (README.md lists them; the code cites the numbers):
 *  L1  bytes below a segment's `end` are whole frames and never change;
 *  L2  the frames of a log form one chain of prev_crc over all segments, with dense seqs;
 *  L3  nothing is reported durable before a sync that began after its write has returned;
 *  L4  after a failed write or sync nothing more becomes durable: the log has stopped.
 */
#include "log/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "codec/crc32c.h"
#include "log/log_int.h"
#include "sys/clock.h"

enum {
    SEGMENT_SIZE_DEFAULT = 256 << 20,
    BEHIND_MS_DEFAULT = 24 * 3600 * 1000,
    KEYS_BYTES_MAX_DEFAULT = 256 << 20,
    KEY_RECORD_BYTES = 256, /* a guess at a record's size, for how many keys a segment will have */
    KEY_GUESS_BYTES_MIN = 1 << 20, /* of a segment that says more than that */
};

/* ---- stopping ---------------------------------------------------------------------------------
 */

void kz_log_stop(struct kz_log *log, const struct kz_err *err)
{
    pthread_mutex_lock(&log->sync_lock);
    if (!atomic_load_explicit(&log->failed, memory_order_relaxed)) {
        log->failure = *err;
        atomic_store_explicit(&log->failed, true, memory_order_release);
    }
    pthread_cond_broadcast(&log->sync_done);
    pthread_mutex_unlock(&log->sync_lock);
}

enum kz_code kz_log_health(const struct kz_log *log, struct kz_err *err)
{
    /* `failure` is written once, before `failed` is set. */
    if (KZ_LIKELY(!atomic_load_explicit(&log->failed, memory_order_acquire)))
        return KZ_OK;
    if (err)
        *err = log->failure;
    return log->failure.code;
}

static enum kz_code stop_with(struct kz_log *log, struct kz_err *err)
{
    (void)kz_wrap(err, "the log has stopped");
    (void)kz_hint(err, "mend the disk and start again: what was acknowledged is on it");
    kz_log_stop(log, err);
    return err->code;
}

/* ---- segments ---------------------------------------------------------------------------------
 */

void kz_log_publish(struct kz_log *log, struct kz_log_view *view)
{
    struct kz_log_view *old;

    view->first = view->segments[0]->number;
    pthread_mutex_lock(&log->table_lock);
    old = log->view;
    log->view = view;
    atomic_fetch_add_explicit(&log->view_change, 1, memory_order_release);
    pthread_mutex_unlock(&log->table_lock);
    kz_log_view_unref(old);
}

struct kz_log_view *kz_log_get_view(struct kz_log *log)
{
    struct kz_log_view *view;

    pthread_mutex_lock(&log->table_lock);
    view = kz_log_view_ref(log->view);
    pthread_mutex_unlock(&log->table_lock);
    return view;
}

/* The list changes at both ends at once (the writer adds, the sealer replaces and drops), so that
 * copying and publishing is one step under the lock. */
static void change_view(
        struct kz_log *log, size_t drop, struct kz_segment *add, struct kz_segment *replace)
{
    struct kz_log_view *old, *view;

    pthread_mutex_lock(&log->table_lock);
    old = log->view;
    view = kz_log_view_new((old ? old->count : 0) - drop + (add ? 1 : 0));
    for (size_t i = 0; old && i + drop < old->count; i++) {
        struct kz_segment *seg = old->segments[i + drop];

        if (replace && replace->number == seg->number)
            seg = replace;
        view->segments[i] = kz_segment_ref(seg);
    }
    if (add)
        view->segments[view->count - 1] = kz_segment_ref(add);
    KZ_BUG_ON(view->count == 0);
    view->first = view->segments[0]->number;
    log->view = view;
    atomic_fetch_add_explicit(&log->view_change, 1, memory_order_release);
    pthread_mutex_unlock(&log->table_lock);
    kz_log_view_unref(old);
}

/* How many keys a segment will have: as the one before, for its size, and a tenth more. A table
 * that has to grow while it is written holds up the writer; one that is too large is memory. */
static uint32_t guess_keys(uint64_t size, const struct kz_segment *prev)
{
    uint64_t used = prev ? atomic_load_explicit(&prev->end, memory_order_relaxed) : 0;

    if (used < KEY_GUESS_BYTES_MIN)
        return (uint32_t)(size / KEY_RECORD_BYTES);
    return (uint32_t)(prev->keys.count * (size * 11 / 10) / used);
}

enum kz_code kz_log_begin_segment(struct kz_log *log, struct kz_segment *seg,
        const struct kz_segment *prev, struct kz_err *err)
{
    uint64_t durable = atomic_load_explicit(&log->durable, memory_order_acquire);
    struct kz_segment_header header = {
            .number = seg->number,
            .size_bytes = seg->file_size,
            .seq_first = log->seq_next,
            .created_ms = kz_clock_ms(),
            .durable = durable,
    };

    if (prev) {
        header.prev_crc = prev->last_crc;
        header.prev_end = atomic_load_explicit(&prev->end, memory_order_relaxed);
    }
    memcpy(header.log_id, log->id, sizeof(header.log_id));
    kz_segment_header_finish(&header);
    KZ_TRY(seg->file->ops->pwrite(seg->file, &header, sizeof(header), 0, err));
    seg->header = header;
    seg->seq_first = header.seq_first;
    seg->last_crc = header.prev_crc;
    if (!seg->keys.slots)
        kz_keytab_init(&seg->keys, guess_keys(seg->file_size, prev));
    change_view(log, 0, seg, NULL);
    kz_segment_unref(log->current);
    log->current = seg;
    return KZ_OK;
}

static uint32_t end_of(const struct kz_segment *seg)
{
    return atomic_load_explicit(&seg->end, memory_order_relaxed);
}

/* A frame begins only where at least this much is left of the segment, so that what fits an empty
 * frame once always does (kz_log_room). */
static uint64_t room_min(const struct kz_segment *seg)
{
    return KZ_MIN((uint64_t)KZ_LOG_FRAME_SIZE_MAX, seg->file_size / 2);
}

static enum kz_code roll(struct kz_log *log, struct kz_err *err)
{
    struct kz_segment *seg = NULL;
    struct kz_segment *prev = log->current;
    enum kz_code rc = kz_space_take(log, prev->number + 1, &seg, err);

    if (rc != KZ_OK)
        return rc == KZ_NO_SPACE ? rc : stop_with(log, err);
    if (kz_log_begin_segment(log, seg, prev, err) != KZ_OK) {
        kz_segment_unref(seg);
        return stop_with(log, err);
    }
    log->roll_wanted =
            false; /* `end` moves with the first commit, so that waiters wait for something */
    return KZ_OK;
}

void kz_log_roll(struct kz_log *log)
{
    if (end_of(log->current) > KZ_SEGMENT_HEADER_SIZE || log->staged_size)
        log->roll_wanted = true;
}

/* ---- staging ----------------------------------------------------------------------------------
 */

/* Where frames of the current segment may reach. */
static uint64_t frame_limit(const struct kz_log *log)
{
    return KZ_MIN((uint64_t)KZ_LOG_FRAME_SIZE_MAX, log->current->file_size - end_of(log->current));
}

static bool is_writer(const struct kz_log *log)
{
    return atomic_load_explicit(&log->writer_thread, memory_order_relaxed) ==
           (uint64_t)(uintptr_t)pthread_self();
}

static enum kz_code begin_frame(struct kz_log *log, size_t padded, struct kz_err *err)
{
    struct kz_segment *seg = log->current;
    uint64_t left = seg->file_size - end_of(seg);
    size_t need = sizeof(struct kz_frame) + padded;

    if (log->roll_wanted || left < room_min(seg) || left < need)
        KZ_TRY(roll(log, err));
    if (need > frame_limit(log))
        return kz_fail(err, KZ_TOO_LARGE,
                "a record of %zu bytes does not fit a segment of %llu bytes", padded,
                (unsigned long long)log->current->file_size);
    atomic_store_explicit(
            &log->writer_thread, (uint64_t)(uintptr_t)pthread_self(), memory_order_relaxed);
    log->staged_size = sizeof(struct kz_frame);
    log->staged_count = 0;
    return KZ_OK;
}

enum kz_code kz_log_append(struct kz_log *log, const struct kz_log_entry *entry, kz_lsn *ret_lsn,
        uint64_t *ret_seq, struct kz_err *err)
{
    size_t size = sizeof(struct kz_record) + entry->body.size;
    size_t padded = KZ_ALIGN8(size);
    struct kz_record *record;
    uint32_t offset;
    struct kz_err local;

    err = err ? err : &local;
    KZ_BUG_ON(log->options.read_only);
    KZ_TRY(kz_log_health(log, err));
    if (KZ_UNLIKELY(padded > KZ_LOG_FRAME_SIZE_MAX - sizeof(struct kz_frame)))
        return kz_fail(err, KZ_TOO_LARGE, "a record of %zu bytes is over the limit of %zu", size,
                KZ_LOG_FRAME_SIZE_MAX - sizeof(struct kz_frame));
    if (KZ_UNLIKELY(!entry->reserved && kz_space_is_short(log)))
        return kz_fail(err, KZ_NO_SPACE, "the disk under \"%s\" is full", log->dir);
    if (log->staged_size == 0)
        KZ_TRY(begin_frame(log, padded, err));
    KZ_BUG_ON(
            !is_writer(log)); /* one thread at a time, from a frame's first record to its commit */
    if (KZ_UNLIKELY(log->staged_size + padded > frame_limit(log)))
        return kz_fail(err, KZ_FULL, "the frame is full");

    offset = end_of(log->current) + log->staged_size;
    record = (struct kz_record *)(log->staged + log->staged_size);
    memset((char *)record + padded - 8, 0, 8);
    *record = (struct kz_record){
            .size = (uint32_t)size,
            .type = (uint8_t)entry->type,
            .flags = entry->flags,
            .seq = log->seq_next,
            .at_ms = entry->at_ms,
            .owner = entry->owner,
            .prev = entry->prev,
            .key = entry->key,
    };
    if (entry->body.size)
        memcpy(record + 1, entry->body.ptr, entry->body.size);
    if (entry->key) {
        kz_keytab_put(&log->current->keys, entry->key, offset);
        kz_keyfilter_add(&log->keys, kz_tag(entry->key), KZ_LSN(log->current->number, offset));
    }
    log->staged_size += (uint32_t)padded;
    log->staged_count++;
    *ret_lsn = KZ_LSN(log->current->number, offset);
    *ret_seq = log->seq_next++;
    return KZ_OK;
}

uint64_t kz_log_room(const struct kz_log *log)
{
    if (log->staged_size)
        return frame_limit(log) - log->staged_size;
    return room_min(log->current) - sizeof(struct kz_frame);
}

bool kz_log_has_staged(const struct kz_log *log)
{
    return log->staged_size > sizeof(struct kz_frame);
}

static const struct kz_log_view *writer_view(struct kz_log *log)
{
    uint64_t change = atomic_load_explicit(&log->view_change, memory_order_acquire);

    if (change != log->writer_view_change || !log->writer_view) {
        kz_log_view_unref(log->writer_view);
        log->writer_view = kz_log_get_view(log);
        log->writer_view_change = change;
        kz_keyfilter_drop(&log->keys, KZ_LSN(log->writer_view->first, 0));
    }
    return log->writer_view;
}

static const struct kz_record *staged_at(const struct kz_log *log, kz_lsn lsn)
{
    uint64_t start = KZ_LSN(log->current->number, end_of(log->current));

    if (lsn < start + sizeof(struct kz_frame) || lsn >= start + log->staged_size)
        return NULL;
    return (const void *)(log->staged + (lsn - start));
}

const struct kz_record *kz_log_get_staged(struct kz_log *log, kz_lsn lsn)
{
    const struct kz_record *record = staged_at(log, lsn);
    const struct kz_segment *seg;

    if (record)
        return record;
    seg = kz_log_view_segment(writer_view(log), KZ_LSN_SEGMENT(lsn));
    return seg && !seg->is_sealed ? kz_segment_record(seg, KZ_LSN_OFFSET(lsn)) : NULL;
}

/* ---- commit -----------------------------------------------------------------------------------
 */

static void count_staged(struct kz_log *log)
{
    for (uint32_t at = sizeof(struct kz_frame); at < log->staged_size;) {
        const struct kz_record *record = (const void *)(log->staged + at);

        kz_segment_count(log->current, record);
        at += (uint32_t)KZ_ALIGN8(record->size);
    }
}

static void add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

enum kz_code kz_log_commit(struct kz_log *log, struct kz_err *err)
{
    struct kz_segment *seg = log->current;
    struct kz_frame *frame = (struct kz_frame *)log->staged;
    const struct kz_record *first = (const void *)(frame + 1);
    uint32_t offset = end_of(seg);
    uint32_t size = log->staged_size;
    struct kz_err local;

    err = err ? err : &local;
    KZ_TRY(kz_log_health(log, err));
    if (size <= sizeof(*frame))
        return KZ_OK;
    KZ_BUG_ON(!is_writer(log));
    KZ_TRY(kz_sync_wait(log, KZ_LOG_UNSYNCED_MAX_BYTES - size, err));
    *frame = (struct kz_frame){
            .magic = KZ_FRAME_MAGIC,
            .size = size,
            .record_count = log->staged_count,
            .first_seq = first->seq,
            .prev_crc = seg->last_crc,
            .at_ms = first->at_ms,
            .durable = atomic_load_explicit(&log->durable, memory_order_acquire),
    };
    frame->crc = kz_frame_crc(log->id, KZ_LSN(seg->number, offset), frame);
    if (seg->file->ops->pwrite(seg->file, frame, size, offset, err) != KZ_OK)
        return stop_with(log, err);
    seg->last_crc = frame->crc;
    count_staged(log);
    add(&log->commits, 1);
    add(&log->bytes, size);
    add(&log->end_bytes, size);
    log->staged_size = 0;
    atomic_store_explicit(&log->seq_last, log->seq_next - 1, memory_order_release);
    atomic_store_explicit(&seg->end, offset + size, memory_order_release);
    atomic_store_explicit(&log->end, KZ_LSN(seg->number, offset + size), memory_order_release);
    /* Rolling must never wait for the disk, so the next segment, which may be four times as large,
     * is begun as soon as this one is used at all. */
    if (log->next_asked != seg->number + 1 && offset + size > seg->file_size / 16) {
        log->next_asked = seg->number + 1;
        kz_space_want(
                log, seg->number + 1, guess_keys(kz_space_segment_size(log, seg->number + 1), seg));
    }
    return kz_sync_request(log, err);
}

/* ---- what it says of itself -------------------------------------------------------------------
 */

kz_lsn kz_log_durable(const struct kz_log *log)
{
    return atomic_load_explicit(&log->durable, memory_order_acquire);
}

kz_lsn kz_log_end(const struct kz_log *log)
{
    return atomic_load_explicit(&log->end, memory_order_acquire);
}

struct kz_log_mark kz_log_mark(const struct kz_log *log)
{
    /* A segment that has no frame yet has the CRC of the one before it. */
    struct kz_log_mark mark = {.position = kz_log_end(log), .crc = log->current->last_crc};

    memcpy(mark.log_id, log->id, sizeof(mark.log_id));
    return mark;
}

uint64_t kz_log_seq_last(const struct kz_log *log)
{
    return atomic_load_explicit(&log->seq_last, memory_order_acquire);
}

bool kz_log_no_space(struct kz_log *log)
{
    return kz_space_is_short(log);
}

enum kz_code kz_log_wait(struct kz_log *log, struct kz_err *err)
{
    return kz_sync_wait(log, 0, err);
}

struct kz_fs *kz_log_fs(const struct kz_log *log)
{
    return log->fs;
}

const char *kz_log_dir(const struct kz_log *log)
{
    return log->dir;
}

const uint8_t *kz_log_id(const struct kz_log *log)
{
    return log->id;
}

struct kz_history_reader *kz_log_reader(struct kz_log *log)
{
    return &log->reader;
}

struct kz_log_segment_info *kz_log_segments(struct kz_log *log, size_t *ret_count)
{
    KZ_AUTO(kz_log_view_unrefp) struct kz_log_view *view = kz_log_get_view(log);
    struct kz_log_segment_info *infos = kz_calloc(view->count, sizeof(*infos));

    for (size_t i = 0; i < view->count; i++)
        kz_segment_info(view->segments[i], &infos[i]);
    infos[view->count - 1].current = true;
    *ret_count = view->count;
    return infos;
}

uint64_t kz_log_damages(struct kz_log *log, char ret_last[KZ_PROBLEM_BYTES])
{
    return kz_sealed_pool_damages(log->pool, ret_last);
}

void kz_log_stats(struct kz_log *log, struct kz_log_stats *ret_stats)
{
    KZ_AUTO(kz_log_view_unrefp) struct kz_log_view *view = kz_log_get_view(log);
    struct kz_log_stats stats = {
            .commits = atomic_load(&log->commits),
            .records = atomic_load(&log->seq_last),
            .bytes = atomic_load(&log->bytes),
            .syncs = atomic_load(&log->syncs),
            .sync_us_total = atomic_load(&log->sync_us_total),
            .sync_us_last = atomic_load(&log->sync_us_last),
            .sync_us_max = atomic_load(&log->sync_us_max),
            .dropped_segments = atomic_load(&log->dropped_segments),
            .keys_bytes = log->keys.bytes,
            .keys_forgotten_total = log->keys.forgotten_total,
            .cached_bytes = atomic_load(&log->cached_bytes),
            .cache_dropped_total = atomic_load(&log->cache_dropped),
            .events_unsealed_total = atomic_load(&log->events_unsealed),
            .events_cached_total = atomic_load(&log->events_cached),
            .events_packed_total = atomic_load(&log->events_packed),
    };

    for (size_t i = 0; i < view->count; i++)
        stats.sealed_segments += view->segments[i]->is_sealed;
    *ret_stats = stats;
}

/* ---- upkeep -----------------------------------------------------------------------------------
 */

void kz_log_lock_upkeep(struct kz_log *log)
{
    pthread_mutex_lock(&log->upkeep);
}

void kz_log_unlock_upkeep(struct kz_log *log)
{
    pthread_mutex_unlock(&log->upkeep);
}

bool kz_log_is_complete(const struct kz_log *log, uint32_t number)
{
    return number < KZ_LSN_SEGMENT(kz_log_durable(log));
}

enum kz_code kz_log_replace_segment(struct kz_log *log, uint32_t number, struct kz_err *err)
{
    KZ_AUTO(kz_log_view_unrefp) struct kz_log_view *view = kz_log_get_view(log);
    KZ_AUTO(kz_segment_unrefp) struct kz_segment *seg = NULL;
    KZ_AUTO(kz_freep) char *raw = kz_segment_path(log->dir, number, false);
    struct kz_segment *old = kz_log_view_segment(view, number);
    struct kz_tags tags;

    KZ_BUG_ON(!old || !kz_log_is_complete(log, number));
    KZ_TRY(kz_segment_open_sealed(log->fs, log->dir, number, log->pool, &seg, err));
    /* Its keys are verified, and their pages mapped, here and not by the writer at its first look. */
    (void)kz_sealed_tags(seg->sealed, &tags);
    change_view(log, 0, NULL, seg);
    if (old->is_sealed)
        atomic_fetch_add_explicit(&log->rewrites, 1, memory_order_release);
    else
        KZ_TRY(log->fs->ops->unlink(log->fs, raw, err));
    kz_space_leave(log, old);
    return KZ_OK;
}

enum kz_code kz_log_drop_oldest(struct kz_log *log, struct kz_err *err)
{
    KZ_AUTO(kz_log_view_unrefp) struct kz_log_view *view = kz_log_get_view(log);
    struct kz_segment *oldest = view->segments[0];
    KZ_AUTO(kz_freep)
    char *path = kz_segment_path(log->dir, oldest->number, oldest->is_sealed);

    KZ_BUG_ON(!kz_log_is_complete(log, oldest->number));
    change_view(log, 1, NULL, NULL);
    add(&log->dropped_segments, 1);
    KZ_TRY(log->fs->ops->unlink(log->fs, path, err));
    kz_space_leave(log, oldest);
    return log->fs->ops->sync_dir(log->fs, log->dir, err);
}

/* ---- find_key ---------------------------------------------------------------------------------
 */

/* Whoever's: an id that was linked on and on has events with owners that nobody remembers. */
static bool find_in_raw(struct kz_log *log, struct kz_segment *seg, uint64_t key,
        bool (*match)(void *arg, const struct kz_record *record), void *arg)
{
    uint32_t cursor = 0;
    uint32_t offset;

    while ((offset = kz_keytab_next(&seg->keys, key, &cursor))) {
        const struct kz_record *record = offset >= end_of(seg)
                                                 ? staged_at(log, KZ_LSN(seg->number, offset))
                                                 : kz_segment_record(seg, offset);

        KZ_BUG_ON(!record);
        if (record->key == key && (!match || match(arg, record)))
            return true;
    }
    return false;
}

/* Segments before this one are looked through each by itself: the filter over all keys does not reach
 * back to their beginning. */
static uint32_t first_covered(const struct kz_log *log)
{
    kz_lsn from = kz_keyfilter_covered_from(&log->keys);

    if (from == UINT64_MAX)
        return UINT32_MAX;
    return KZ_LSN_SEGMENT(from) + (KZ_LSN_OFFSET(from) != 0);
}

void kz_log_prefetch_key(struct kz_log *log, uint64_t key)
{
    const struct kz_log_view *view = writer_view(log);
    uint32_t covered = first_covered(log);

    kz_keyfilter_prefetch(&log->keys, kz_tag(key));
    kz_keytab_prefetch(&log->current->keys, key); /* its place, should it be new */
    for (size_t i = 0; i < view->count && view->segments[i]->number < covered; i++) {
        const struct kz_segment *seg = view->segments[i];

        if (seg->is_sealed)
            kz_sealed_prefetch_key(seg->sealed, key);
        else
            kz_keytab_prefetch(&seg->keys, key);
    }
}

static enum kz_code find_in(struct kz_log *log, struct kz_segment *seg, uint64_t key,
        uint64_t owner, int64_t since_ms, bool (*match)(void *arg, const struct kz_record *record),
        void *arg, bool *ret_found, struct kz_err *err)
{
    if (!seg->is_sealed) {
        if (seg == log->current ||
                atomic_load_explicit(&seg->at_last_ms, memory_order_relaxed) >= since_ms)
            *ret_found = find_in_raw(log, seg, key, match, arg);
        return KZ_OK;
    }
    if (kz_sealed_get_header(seg->sealed)->at_last_ms < since_ms)
        return KZ_OK;
    return kz_sealed_find_key(seg->sealed, key, owner, match, arg, ret_found, err);
}

enum kz_code kz_log_find_key(struct kz_log *log, uint64_t key, uint64_t owner, int64_t since_ms,
        bool (*match)(void *arg, const struct kz_record *record), void *arg, bool *ret_found,
        struct kz_err *err)
{
    const struct kz_log_view *view = writer_view(log);
    uint64_t groups = kz_keyfilter_find(&log->keys, kz_tag(key));
    uint32_t covered = first_covered(log);
    bool found = false;

    /* As nearly always: it is new, and all is covered. */
    if (!groups && view->first >= covered) {
        *ret_found = false;
        return KZ_OK;
    }
    for (size_t i = view->count; i-- > 0 && !found;) {
        struct kz_segment *seg = view->segments[i];

        if (seg->number < covered || kz_keyfilter_allows(&log->keys, groups, KZ_LSN(seg->number, 0),
                                             KZ_LSN((uint64_t)seg->number + 1, 0)))
            KZ_TRY(find_in(log, seg, key, owner, since_ms, match, arg, &found, err));
    }
    *ret_found = found;
    return KZ_OK;
}

/* ---- open and close ---------------------------------------------------------------------------
 */

static void parent_of(const char *dir, char **ret_parent)
{
    size_t size = strlen(dir);

    while (size > 1 && dir[size - 1] == '/')
        size--;
    while (size > 0 && dir[size - 1] != '/')
        size--;
    while (size > 1 && dir[size - 1] == '/')
        size--;
    *ret_parent = size ? kz_strndup(dir, size) : kz_strdup(".");
}

static enum kz_code fail_locked(struct kz_log *log, struct kz_err *err)
{
    char holder[40];

    kz_file_lock_holder(log->lock_file, holder);
    (void)kz_fail(err, KZ_LOCKED, "the data directory \"%s\" is in use by %s", log->dir, holder);
    return kz_hint(err, "stop that process, or use another --data directory");
}

static enum kz_code lock_dir(struct kz_log *log, struct kz_err *err)
{
    KZ_AUTO(kz_freep) char *path = kz_malloc(strlen(log->dir) + sizeof("/lock"));
    KZ_AUTO(kz_freep) char *parent = NULL;
    enum kz_code rc;

    parent_of(log->dir, &parent);
    KZ_TRY(log->fs->ops->mkdir(log->fs, log->dir, err));
    KZ_TRY(log->fs->ops->sync_dir(log->fs, parent, err));
    sprintf(path, "%s/lock", log->dir);
    KZ_TRY(log->fs->ops->open(
            log->fs, path, KZ_OPEN_READ | KZ_OPEN_WRITE | KZ_OPEN_CREATE, &log->lock_file, err));
    rc = kz_file_lock(log->lock_file, err);
    if (rc == KZ_LOCKED)
        return fail_locked(log, err);
    KZ_TRY(rc);
    kz_file_lock_sign(log->lock_file);
    return KZ_OK;
}

static struct kz_log *log_new(const struct kz_log_options *options)
{
    struct kz_log *log = kz_calloc(1, sizeof(*log));

    log->magic = KZ_LOG_MAGIC;
    log->reader.ops = &kz_log_reader_ops;
    log->options = *options;
    if (!log->options.segment_size_bytes)
        log->options.segment_size_bytes = SEGMENT_SIZE_DEFAULT;
    if (!log->options.behind_ms)
        log->options.behind_ms = BEHIND_MS_DEFAULT;
    log->fs = options->fs;
    log->dir = kz_strdup(options->dir);
    log->options.dir = log->dir;
    pthread_mutex_init(&log->upkeep, NULL);
    pthread_mutex_init(&log->table_lock, NULL);
    pthread_mutex_init(&log->sync_lock, NULL);
    pthread_mutex_init(&log->space_lock, NULL);
    pthread_cond_init(&log->sync_wanted, NULL);
    pthread_cond_init(&log->sync_done, NULL);
    pthread_cond_init(&log->space_wanted, NULL);
    pthread_cond_init(&log->space_changed, NULL);
    log->pool = kz_sealed_pool_new(4);
    kz_keyfilter_init(
            &log->keys, options->keys_bytes_max ? options->keys_bytes_max : KEYS_BYTES_MAX_DEFAULT);
    return log;
}

enum kz_code kz_log_open(const struct kz_log_options *options, struct kz_log **ret_log,
        struct kz_log_recovery *ret_recovery, struct kz_err *err)
{
    KZ_AUTO(kz_log_closep) struct kz_log *log = NULL;
    struct kz_log_recovery recovery = {0};
    uint64_t size = options->segment_size_bytes;

    if (size && (size < KZ_SEGMENT_SIZE_MIN || size > KZ_SEGMENT_SIZE_MAX || size % 4096))
        return kz_fail(err, KZ_CONFIG,
                "a segment cannot have %llu bytes: from %d to %d, in steps of 4096",
                (unsigned long long)size, KZ_SEGMENT_SIZE_MIN, KZ_SEGMENT_SIZE_MAX);
    log = log_new(options);
    if (!options->read_only) {
        KZ_TRY(lock_dir(log, err));
        /* Its pages cost nothing until they are written. */
        log->staged = kz_malloc(KZ_LOG_FRAME_SIZE_MAX);
    }
    KZ_TRY(kz_log_recover(log, &recovery, err));
    if (!options->read_only) {
        KZ_TRY(kz_space_start(log, err));
        KZ_TRY(kz_sync_start(log, err));
    }
    if (ret_recovery)
        *ret_recovery = recovery;
    *ret_log = kz_take(&log);
    return KZ_OK;
}

void kz_log_close(struct kz_log *log)
{
    if (!log)
        return;
    KZ_CHECK_MAGIC(log, KZ_LOG_MAGIC);
    kz_sync_join(log);
    kz_space_join(log);
    kz_scans_free(log);
    kz_log_view_unref(log->writer_view);
    kz_log_view_unref(log->view);
    kz_segment_unref(log->current);
    kz_sealed_pool_free(log->pool);
    kz_keyfilter_done(&log->keys);
    kz_file_close(log->lock_file);
    pthread_cond_destroy(&log->space_changed);
    pthread_cond_destroy(&log->space_wanted);
    pthread_cond_destroy(&log->sync_done);
    pthread_cond_destroy(&log->sync_wanted);
    pthread_mutex_destroy(&log->space_lock);
    pthread_mutex_destroy(&log->sync_lock);
    pthread_mutex_destroy(&log->table_lock);
    pthread_mutex_destroy(&log->upkeep);
    free(log->staged);
    free(log->dir);
    log->magic = 0;
    free(log);
}
