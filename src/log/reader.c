/* Histories: chains walked from their heads backwards, merged by address.
 *
 * The common case is one source whose last events are in raw segments: a lock to take a scan from
 * the pool, then one dependent load a record. Nothing is allocated once the pool is warm.
 *
 * A walk goes from new to old, and with it from raw segments to sealed ones. With a cache
 *
 *     raw -> sealed: what the cache does not know yet -> kept: what it does -> sealed: what is older
 *
 * and at the end, where it was worth it, what was read is put to what is kept.
 */
#include <stdlib.h>

#include "log/cache.h"
#include "log/log_int.h"

enum {
    SCAN_MAGIC = 0x6e63536b,
    IDLE_SCANS_MAX = 64,
    /* So many events out of blocks are worth packing a run anew, and so many to begin one: a block
     * costs 3 to 6 us, packing a run of 50 events about 8. */
    FRESH_MIN = 4,
    FRESH_FIRST_MIN = 2,
};

/* Where one source's walk stands. */
struct walk {
    uint64_t owner;
    kz_lsn at;                      /* the record it stands on; 0: at the end */
    const struct kz_record *record; /* borrowed from segment, staging buffer, cursor or arena */
    enum { WALK_RAW, WALK_SEALED, WALK_KEPT } place;
    struct kz_sealed_cursor cursor; /* WALK_SEALED */
    /* With a cache. */
    struct kz_kept *kept;              /* of this owner, until `build` has taken it over; or NULL */
    bool left;                         /* the walk has come out behind it */
    struct kz_kept_cursor kept_cursor; /* WALK_KEPT */
    struct kz_kept_build build;        /* from the newest event in sealed segments on */
    uint32_t fresh, fresh_min;         /* of them in `build` out of blocks; how many are worth it */
    /* For the statistics. */
    uint32_t unsealed; /* events out of blocks */
    uint32_t cached;   /* and out of what is kept */
    uint32_t packed;   /* into `build` */
};

struct kz_scan {
    uint32_t magic;
    struct kz_scan *next_idle;
    struct kz_log *log;
    struct kz_log_view *view;
    struct kz_history_cache *cache; /* the query's, or NULL */
    struct kz_buf scratch;
    struct kz_arena arena;            /* copies out of sealed segments and of what is kept */
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
        scan = kz_calloc(1, sizeof(*scan));
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
    for (size_t i = 0; i < KZ_SOURCES_MAX; i++)
        kz_kept_build_done(&scan->walks[i].build);
    kz_buf_done(&scan->scratch);
    kz_arena_done(&scan->arena);
    free(scan->records);
    free(scan->lsns);
    free(scan);
}

static void count(_Atomic uint64_t *counter, uint32_t n)
{
    if (n)
        atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static void scan_give_back(struct kz_scan *scan)
{
    struct kz_log *log = scan->log;
    struct kz_log_view *view = scan->view;

    for (size_t i = 0; i < scan->walk_count; i++) {
        if (scan->walks[i].place == WALK_SEALED)
            kz_sealed_cursor_done(&scan->walks[i].cursor);
        count(&log->events_unsealed, scan->walks[i].unsealed);
        count(&log->events_cached, scan->walks[i].cached);
        count(&log->events_packed, scan->walks[i].packed);
    }
    scan->view = NULL;
    scan->cache = NULL;
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

/* Packs the first `depth` of what is kept behind what the walk has read. */
static void join(struct kz_scan *scan, struct walk *walk, uint32_t depth)
{
    uint32_t before = walk->build.count;

    kz_kept_join(&walk->build, kz_cache_parts(scan->cache), kz_cache_run(walk->kept), depth);
    walk->packed += walk->build.count - before;
}

/* A run that is full takes no more, and is neither unpacked nor put again for what it does not take. */
static void add_fresh(struct kz_scan *scan, struct walk *walk)
{
    uint32_t before;

    if (walk->left) {
        if (kz_cache_run(walk->kept)->ended)
            return;
        join(scan, walk, UINT32_MAX);
        walk->kept = NULL;
        walk->left = false;
    }
    before = walk->build.count;
    kz_kept_add(&walk->build, kz_cache_parts(scan->cache), walk->at, walk->record);
    walk->fresh += walk->build.count - before;
    walk->packed += walk->build.count - before;
}

/* The next older record of the sealed segment the walk is in, or none. */
static enum kz_code step_sealed(struct kz_scan *scan, struct walk *walk, enum kz_chain chain,
        bool *ret_found, struct kz_err *err)
{
    for (;;) {
        enum kz_code rc = kz_sealed_prev(&walk->cursor, &walk->at, &walk->record, err);

        if (rc == KZ_END) {
            kz_sealed_cursor_done(&walk->cursor);
            walk->place = WALK_RAW;
            *ret_found = false;
            return KZ_OK;
        }
        KZ_TRY(rc);
        if (kz_record_chain(walk->record->type) == chain) {
            walk->unsealed++;
            if (scan->cache)
                add_fresh(scan, walk);
            *ret_found = true;
            return KZ_OK;
        }
    }
}

/* ---- what is kept -----------------------------------------------------------------------------
 */

/* Stands the walk on the next older event that is kept, or leaves what is kept for what is older. */
static void step_kept(struct kz_scan *scan, struct walk *walk, bool *ret_found)
{
    walk->record = kz_kept_prev(&walk->kept_cursor, &scan->scratch, &scan->arena, &walk->at);
    *ret_found = walk->record != NULL;
    if (*ret_found) {
        walk->cached++;
        if (KZ_LSN_SEGMENT(walk->at) < scan->view->first) /* C2 */
            walk->at = 0;
        return;
    }
    kz_cache_used(walk->kept, walk->kept_cursor.passed);
    walk->left = true;
    walk->place = WALK_RAW;
}

/* Goes on at `lsn` in what is kept, where it has that. */
static bool enter_kept(struct kz_scan *scan, struct walk *walk, kz_lsn lsn)
{
    const struct kz_kept_run *run;
    bool found;

    if (!walk->kept || walk->left)
        return false;
    run = kz_cache_run(walk->kept);
    if (lsn < run->oldest)
        walk->build.ended = true; /* asked as of long ago: what is kept stays as it is */
    if (lsn < run->oldest || lsn > run->newest || (walk->build.count && lsn != run->newest) ||
            !kz_kept_seek(&walk->kept_cursor, run, kz_cache_parts(scan->cache), lsn))
        return false;
    walk->place = WALK_KEPT;
    step_kept(scan, walk, &found);
    return true;
}

/* What was read is put before what is kept, which keeps its length unless more was made use of. */
static void join_kept(struct kz_scan *scan, struct walk *walk)
{
    uint32_t depth, passed = walk->kept_cursor.passed;

    if (!walk->kept || (walk->place != WALK_KEPT && !walk->left))
        return;
    kz_cache_used(walk->kept, passed);
    depth = kz_cache_depth(walk->kept);
    if (walk->fresh >= walk->fresh_min)
        join(scan, walk, KZ_MAX(passed, depth - KZ_MIN(depth, walk->build.count)));
}

static void keep(struct kz_scan *scan)
{
    for (size_t i = 0; i < scan->walk_count; i++)
        join_kept(scan, &scan->walks[i]);
    /* A put may let go of what another walk borrows. */
    for (size_t i = 0; i < scan->walk_count; i++) {
        struct walk *walk = &scan->walks[i];
        struct kz_kept_run run = kz_kept_built(&walk->build);

        if (run.count && walk->fresh >= walk->fresh_min)
            kz_cache_put(scan->cache, &run);
        walk->kept = NULL;
    }
}

/* ---- from one record to the next --------------------------------------------------------------
 */

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
        if (enter_kept(scan, walk, lsn))
            return KZ_OK;
        kz_sealed_seek(&walk->cursor, seg->sealed, walk->owner, lsn);
        walk->place = WALK_SEALED;
        KZ_TRY(step_sealed(scan, walk, chain, &found, err));
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
    bool found = false;

    if (walk->place == WALK_KEPT) {
        step_kept(scan, walk, &found);
    } else if (walk->place == WALK_SEALED) {
        if (walk->kept && prev == kz_cache_run(walk->kept)->newest) {
            kz_sealed_cursor_done(&walk->cursor);
            walk->place = WALK_RAW;
            return walk_to(scan, walk, prev, chain, err);
        }
        KZ_TRY(step_sealed(scan, walk, chain, &found, err));
    }
    /* `prev` of the oldest one in there leads to an earlier segment. */
    return found ? KZ_OK : walk_to(scan, walk, prev, chain, err);
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
    if (walk->place == WALK_SEALED) { /* the cursor's record goes with its next step */
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
        walk->place = WALK_RAW;
        walk->fresh = walk->unsealed = walk->cached = walk->packed = 0;
        walk->kept = NULL;
        walk->left = false;
        if (scan->cache) {
            walk->kept = kz_cache_find(scan->cache, walk->owner);
            walk->fresh_min = walk->kept ? FRESH_MIN : FRESH_FIRST_MIN;
            kz_kept_begin(&walk->build, walk->owner);
        }
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
    struct kz_log *log = log_of(reader);
    bool truncated = false;
    struct kz_scan *scan;
    enum kz_code rc;

    if (query->cache)
        kz_cache_begin(query->cache);
    scan = scan_take(log);
    if (query->chain == KZ_CHAIN_EVENTS)
        scan->cache = query->cache;
    rc = collect(scan, query, &truncated, err);
    if (rc != KZ_OK) {
        scan_give_back(scan);
        return rc;
    }
    if (scan->cache)
        keep(scan);
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

/* ---- a cache ----------------------------------------------------------------------------------
 */

static struct kz_history_cache *cache_new(
        struct kz_history_reader *reader, const struct kz_event_parts *parts, uint64_t bytes_max)
{
    return bytes_max ? kz_cache_new(log_of(reader), parts, bytes_max) : NULL;
}

static void cache_free(struct kz_history_reader *reader, struct kz_history_cache *cache)
{
    (void)reader;
    kz_cache_free(cache);
}

static void cache_forget(
        struct kz_history_reader *reader, struct kz_history_cache *cache, uint64_t owner)
{
    (void)reader;
    kz_cache_forget(cache, owner);
}

const struct kz_history_reader_ops kz_log_reader_ops = {
        .scan = scan_history,
        .release = release,
        .scan_all = scan_all,
        .get = get,
        .cache_new = cache_new,
        .cache_free = cache_free,
        .cache_forget = cache_forget,
};
