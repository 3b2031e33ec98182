/* Histories: chains walked from their heads backwards, merged by address.
 *
 * The common case is one source whose last events are in raw segments: a lock to take a scan from
 * the pool, then one dependent load a record. Nothing is allocated once the pool is warm.
 */
#include <stdlib.h>

#include "log/log_int.h"

enum { SCAN_MAGIC = 0x6e63536b, IDLE_SCANS_MAX = 64 };

/* Where one source's walk stands. */
struct walk {
    uint64_t owner;
    kz_lsn at;                      /* the record it stands on; 0: at the end */
    const struct kz_record *record; /* borrowed from segment, staging buffer or cursor */
    bool in_sealed;
    struct kz_sealed_cursor cursor;
};

struct kz_scan {
    uint32_t magic;
    struct kz_scan *next_idle;
    struct kz_log *log;
    struct kz_log_view *view;
    struct kz_arena arena;            /* copies out of sealed segments */
    const struct kz_record **records; /* capacity of them, newest first until the end */
    kz_lsn *lsns;
    size_t count, capacity;
    size_t walk_count;
    struct walk walks[KZ_SOURCES_MAX];
};

/* ---- the pool ---------------------------------------------------------------------------------
 */

static struct kz_scan *scan_take(struct kz_log *log)
{
    struct kz_scan *scan;

    pthread_mutex_lock(&log->table_lock);
    scan = log->idle_scans;
    if (scan) {
        log->idle_scans = scan->next_idle;
        log->idle_scan_count--;
        scan->view = kz_log_view_ref(log->view);
    }
    pthread_mutex_unlock(&log->table_lock);
    if (!scan) {
        scan = kz_malloc(sizeof(*scan));
        memset(scan, 0, offsetof(struct kz_scan, walks));
        scan->magic = SCAN_MAGIC;
        scan->log = log;
        kz_arena_init(&scan->arena, 0);
        scan->view = kz_log_get_view(log);
    }
    scan->count = 0;
    scan->walk_count = 0;
    return scan;
}

static void scan_free(struct kz_scan *scan)
{
    kz_arena_done(&scan->arena);
    free(scan->records);
    free(scan->lsns);
    free(scan);
}

static void scan_give_back(struct kz_scan *scan)
{
    struct kz_log *log = scan->log;
    struct kz_log_view *view = scan->view;

    for (size_t i = 0; i < scan->walk_count; i++) {
        if (scan->walks[i].in_sealed)
            kz_sealed_cursor_done(&scan->walks[i].cursor);
    }
    scan->view = NULL;
    if (scan->arena.used_bytes)
        kz_arena_reset(&scan->arena);
    pthread_mutex_lock(&log->table_lock);
    if (log->idle_scan_count < IDLE_SCANS_MAX) {
        scan->next_idle = log->idle_scans;
        log->idle_scans = scan;
        log->idle_scan_count++;
        scan = NULL;
    }
    pthread_mutex_unlock(&log->table_lock);
    kz_log_view_unref(view);
    if (scan)
        scan_free(scan);
}

void kz_scans_free(struct kz_log *log)
{
    while (log->idle_scans) {
        struct kz_scan *scan = log->idle_scans;

        log->idle_scans = scan->next_idle;
        scan_free(scan);
    }
}

static void scan_grow(struct kz_scan *scan)
{
    scan->capacity = scan->capacity ? scan->capacity * 2 : 256;
    scan->records = kz_realloc(scan->records, scan->capacity * sizeof(*scan->records));
    scan->lsns = kz_realloc(scan->lsns, scan->capacity * sizeof(*scan->lsns));
}

/* ---- one chain --------------------------------------------------------------------------------
 */

/* A record of a raw segment, or what the writer itself has staged. */
static const struct kz_record *raw_record(struct kz_log *log, struct kz_segment *seg, kz_lsn lsn)
{
    const struct kz_record *record = kz_segment_record(seg, KZ_LSN_OFFSET(lsn));

    if (KZ_LIKELY(record != NULL))
        return record;
    /* Only the writer is ever given an address that is not committed. */
    if (atomic_load_explicit(&log->writer_thread, memory_order_relaxed) ==
                    (uint64_t)(uintptr_t)pthread_self() &&
            kz_log_has_staged(log))
        return kz_log_get_staged(log, lsn);
    return NULL;
}

static enum kz_code fail_chain(struct kz_err *err, kz_lsn lsn, const char *what)
{
    (void)kz_fail(err, KZ_CORRUPT, "the history's record at %08x:%08x %s", KZ_LSN_SEGMENT(lsn),
            KZ_LSN_OFFSET(lsn), what);
    return kz_hint(err, "run kizashi fsck");
}

/* The next older record of the sealed segment the walk is in, or none. */
static enum kz_code step_sealed(
        struct walk *walk, enum kz_chain chain, bool *ret_found, struct kz_err *err)
{
    for (;;) {
        enum kz_code rc = kz_sealed_prev(&walk->cursor, &walk->at, &walk->record, err);

        if (rc == KZ_END) {
            kz_sealed_cursor_done(&walk->cursor);
            walk->in_sealed = false;
            *ret_found = false;
            return KZ_OK;
        }
        KZ_TRY(rc);
        if (kz_record_chain(walk->record->type) == chain) {
            *ret_found = true;
            return KZ_OK;
        }
    }
}

/* Stands the walk on the record at `lsn`, or at its end where retention or erasure took it. */
static enum kz_code walk_to(struct kz_scan *scan, struct walk *walk, kz_lsn lsn,
        enum kz_chain chain, struct kz_err *err)
{
    struct kz_segment *seg = kz_log_view_segment(scan->view, KZ_LSN_SEGMENT(lsn));
    bool found;

    walk->at = 0;
    if (!lsn || KZ_LSN_SEGMENT(lsn) < scan->view->first)
        return KZ_OK;
    if (!seg)
        return fail_chain(err, lsn, "is in a segment that does not exist");
    if (seg->is_sealed) {
        kz_sealed_seek(&walk->cursor, seg->sealed, walk->owner, lsn);
        walk->in_sealed = true;
        KZ_TRY(step_sealed(walk, chain, &found, err));
        if (!found)
            walk->at = 0;
        return KZ_OK;
    }
    walk->record = raw_record(scan->log, seg, lsn);
    if (!walk->record || walk->record->owner != walk->owner ||
            kz_record_chain(walk->record->type) != chain)
        return fail_chain(err, lsn, "is not of the user it should be of");
    if (walk->record->prev >= lsn)
        return fail_chain(err, lsn, "has a predecessor that is newer");
    walk->at = lsn;
    return KZ_OK;
}

static enum kz_code walk_on(
        struct kz_scan *scan, struct walk *walk, enum kz_chain chain, struct kz_err *err)
{
    kz_lsn prev = walk->record->prev;
    bool found;

    if (walk->in_sealed) {
        KZ_TRY(step_sealed(walk, chain, &found, err));
        if (found)
            return KZ_OK;
        /* `prev` of the oldest one in there leads to an earlier segment. */
    }
    return walk_to(scan, walk, prev, chain, err);
}

static void prefetch_prev(const struct kz_scan *scan, const struct kz_record *record)
{
    const struct kz_segment *seg = kz_log_view_segment(scan->view, KZ_LSN_SEGMENT(record->prev));

    if (seg && !seg->is_sealed) {
        const char *at = seg->map + KZ_LSN_OFFSET(record->prev);

        __builtin_prefetch(at);
        __builtin_prefetch(at + 64);
    }
}

/* ---- scan -------------------------------------------------------------------------------------
 */

static struct walk *newest(struct kz_scan *scan)
{
    struct walk *best = NULL;

    for (size_t i = 0; i < scan->walk_count; i++) {
        struct walk *walk = &scan->walks[i];

        if (walk->at && (!best || walk->at > best->at))
            best = walk;
    }
    return best;
}

static bool wanted(const struct kz_history_query *query, const struct kz_record *record)
{
    if (record->type != KZ_RECORD_EVENT)
        return true;
    if ((record->flags & KZ_EVENT_ACTION) && !query->include_actions)
        return false;
    return query->since_ms == INT64_MIN ||
           record->size < sizeof(*record) + sizeof(struct kz_event_body) ||
           kz_event_body(record)->ts_ms >= query->since_ms;
}

/* Everything older in the chain was received before, so its ts cannot reach since_ms any more. */
static bool too_old(const struct kz_log *log, const struct kz_history_query *query,
        const struct kz_record *record)
{
    return query->since_ms != INT64_MIN && query->chain == KZ_CHAIN_EVENTS &&
           record->at_ms < INT64_MAX - log->options.behind_ms &&
           record->at_ms + log->options.behind_ms < query->since_ms;
}

static void emit(struct kz_scan *scan, const struct walk *walk)
{
    const struct kz_record *record = walk->record;

    if (scan->count == scan->capacity)
        scan_grow(scan);
    if (walk->in_sealed) { /* the cursor's record goes with its next step */
        struct kz_record *copy = kz_arena_must(&scan->arena, KZ_ALIGN8(record->size));

        memcpy(copy, record, record->size);
        record = copy;
    }
    scan->records[scan->count] = record;
    scan->lsns[scan->count++] = walk->at;
}

static enum kz_code start_walks(
        struct kz_scan *scan, const struct kz_history_query *query, struct kz_err *err)
{
    if (query->source_count > KZ_SOURCES_MAX)
        return kz_fail(err, KZ_LIMIT, "a history of %zu linked ids, the limit is %d",
                query->source_count, KZ_SOURCES_MAX);
    for (size_t i = 0; i < query->source_count; i++) {
        struct walk *walk = &scan->walks[scan->walk_count++];

        walk->owner = query->sources[i].owner;
        walk->in_sealed = false;
        KZ_TRY(walk_to(scan, walk, query->sources[i].head, query->chain, err));
    }
    return KZ_OK;
}

static enum kz_code collect(struct kz_scan *scan, const struct kz_history_query *query,
        bool *ret_truncated, struct kz_err *err)
{
    kz_lsn last = 0;
    struct walk *walk;

    KZ_TRY(start_walks(scan, query, err));
    while ((walk = scan->walk_count == 1 ? (scan->walks[0].at ? &scan->walks[0] : NULL)
                                         : newest(scan))) {
        const struct kz_record *record = walk->record;

        prefetch_prev(scan, record);
        if (too_old(scan->log, query, record)) {
            walk->at = 0;
            continue;
        }
        /* Two sources may share a chain; a record counts once. */
        if (walk->at <= query->as_of && walk->at != last && wanted(query, record)) {
            if (query->events_max && scan->count == query->events_max) {
                *ret_truncated = true;
                return KZ_OK;
            }
            last = walk->at;
            emit(scan, walk);
        }
        KZ_TRY(walk_on(scan, walk, query->chain, err));
    }
    return KZ_OK;
}

static struct kz_log *log_of(struct kz_history_reader *reader)
{
    struct kz_log *log = KZ_CONTAINER_OF(reader, struct kz_log, reader);

    KZ_CHECK_MAGIC(log, KZ_LOG_MAGIC);
    return log;
}

static enum kz_code scan_history(struct kz_history_reader *reader,
        const struct kz_history_query *query, struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct kz_scan *scan = scan_take(log_of(reader));
    bool truncated = false;
    enum kz_code rc = collect(scan, query, &truncated, err);

    if (rc != KZ_OK) {
        scan_give_back(scan);
        return rc;
    }
    kz_history_reverse(scan->records, scan->lsns, scan->count);
    *ret_rows = (struct kz_history_rows){
            .records = scan->records,
            .lsns = scan->lsns,
            .count = scan->count,
            .truncated = truncated,
            .priv = scan,
    };
    return KZ_OK;
}

static void release(struct kz_history_reader *reader, struct kz_history_rows *rows)
{
    struct kz_scan *scan = rows->priv;

    (void)reader;
    if (!scan)
        return;
    KZ_CHECK_MAGIC(scan, SCAN_MAGIC);
    *rows = (struct kz_history_rows){0};
    scan_give_back(scan);
}

/* ---- everything, and one ----------------------------------------------------------------------
 */

static enum kz_code scan_all(struct kz_history_reader *reader, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err)
{
    KZ_AUTO(kz_log_view_unrefp) struct kz_log_view *view = kz_log_get_view(log_of(reader));

    for (size_t i = 0; i < view->count; i++) {
        struct kz_segment *seg = view->segments[i];

        if (seg->number < KZ_LSN_SEGMENT(from) || KZ_LSN(seg->number, 0) >= until)
            continue;
        if (seg->is_sealed)
            KZ_TRY(kz_sealed_scan(seg->sealed, from, until, each, arg, err));
        else
            KZ_TRY(kz_segment_each(seg, from, until, each, arg, err));
    }
    return KZ_OK;
}

/* A COPY becomes the record it holds. */
static enum kz_code unwrap(struct kz_buf *out, struct kz_err *err)
{
    const struct kz_record *record = (const void *)out->data, *original;
    size_t size;

    if (record->type != KZ_RECORD_COPY)
        return KZ_OK;
    KZ_TRY(kz_record_check(record, err));
    original = kz_record_original(record);
    size = original->size;
    memmove(out->data, original, size);
    out->size = size;
    return KZ_OK;
}

static enum kz_code get(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    struct kz_log *log = log_of(reader);
    KZ_AUTO(kz_log_view_unrefp) struct kz_log_view *view = kz_log_get_view(log);
    struct kz_segment *seg = kz_log_view_segment(view, KZ_LSN_SEGMENT(lsn));
    const struct kz_record *record = NULL;

    kz_buf_clear(out);
    if (seg && seg->is_sealed) {
        KZ_TRY(kz_sealed_get(seg->sealed, lsn, owner, out, err));
        return unwrap(out, err);
    }
    if (seg)
        record = raw_record(log, seg, lsn);
    if (!record || (owner && record->owner != owner))
        return kz_fail(err, KZ_NOT_FOUND, "there is no record at %08x:%08x", KZ_LSN_SEGMENT(lsn),
                KZ_LSN_OFFSET(lsn));
    kz_buf_put(out, record, record->size);
    return unwrap(out, err);
}

const struct kz_history_reader_ops kz_log_reader_ops = {
        .scan = scan_history,
        .release = release,
        .scan_all = scan_all,
        .get = get,
};
