#include "history/recent.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "sys/clock.h"

enum {
    RECENT_MAGIC = 0x6b7a7263,
    BUCKETS = 1 << 14,
    BYTES_DEFAULT = 64 << 20,
    AGE_DEFAULT_MS = 10 * 60 * 1000,
    SLACK = 64, /* read beyond what was asked for: tells whether there was more, and lasts a while */
    BLOCKS_MAX = 8,   /* then they are copied into one */
    ROWS_TRIM = 4096, /* so many, and those before the window are let go */
    READS_MAX = 4,    /* where what actions did fills the history, more is read, so many times */
};

/* Bytes of some records, one after the other. */
struct block {
    atomic_uint refs;
    size_t size;
    char data[];
};

/* A user's events, oldest first: all with ts >= since_ms up to `high`, or, where `cut`, the newest of
 * them. */
struct kept {
    atomic_uint refs; /* the table's, and one for each who reads */
    uint64_t owner;
    size_t source_count;
    struct kz_source *sources;
    int64_t since_ms;
    int64_t read_ms; /* mono, when it was read as a whole */
    atomic_uint_fast64_t high;
    uint32_t want; /* the most that was asked for; UINT32_MAX all */
    bool cut;
    size_t count;
    const struct kz_record **records;
    kz_lsn *lsns;
    size_t block_count;
    struct block *blocks[BLOCKS_MAX];
    size_t bytes;
    /* Of the table, under the lock. */
    struct kept *next, *newer, *older;
};

struct kz_recent {
    uint32_t magic;
    struct kz_recent_options options;
    struct kz_history_reader reader, memory;
    pthread_mutex_t lock;
    struct kept *buckets[BUCKETS];
    struct kept *newest, *oldest; /* used */
    struct kz_recent_stats stats;
};

/* What a scan gave out. */
struct hold {
    struct kept *kept; /* or */
    struct kz_history_rows behind;
    const struct kz_record **records;
    kz_lsn *lsns;
};

/* ---- what is kept ---------------------------------------------------------------------------------- */

static void block_unref(struct block *block)
{
    if (atomic_fetch_sub(&block->refs, 1) == 1)
        free(block);
}

static void kept_unref(struct kept *kept)
{
    if (!kept || atomic_fetch_sub(&kept->refs, 1) != 1)
        return;
    for (size_t i = 0; i < kept->block_count; i++)
        block_unref(kept->blocks[i]);
    free(kept->sources);
    free(kept->records);
    free(kept->lsns);
    free(kept);
}
KZ_DEFINE_FREEP(struct kept, kept_unref)

static struct kept *kept_new(const struct kz_history_query *query, size_t row_max)
{
    struct kept *kept = kz_calloc(1, sizeof(*kept));

    atomic_init(&kept->refs, 1);
    kept->owner = query->sources[0].owner;
    kept->source_count = query->source_count;
    kept->sources = kz_malloc(query->source_count * sizeof(*kept->sources));
    memcpy(kept->sources, query->sources, query->source_count * sizeof(*kept->sources));
    kept->records = kz_malloc((row_max + 1) * sizeof(struct kz_record *));
    kept->lsns = kz_malloc((row_max + 1) * sizeof(kz_lsn));
    kept->bytes = sizeof(*kept) + row_max * (sizeof(struct kz_record *) + sizeof(kz_lsn));
    return kept;
}

/* Copies records into a block of their own, behind those that are there. */
static void kept_add(
        struct kept *kept, const struct kz_record *const *records, const kz_lsn *lsns, size_t count)
{
    struct block *block;
    size_t size = 0;
    char *at;

    if (!count)
        return;
    for (size_t i = 0; i < count; i++)
        size += KZ_ALIGN8(records[i]->size);
    block = kz_malloc(sizeof(*block) + size);
    atomic_init(&block->refs, 1);
    block->size = size;
    _Static_assert(offsetof(struct block, data) % 8 == 0, "records lie at multiples of 8");
    at = block->data;
    for (size_t i = 0; i < count; i++) {
        memcpy(at, records[i], records[i]->size);
        kept->records[kept->count] = (const struct kz_record *)(void *)at;
        kept->lsns[kept->count++] = lsns[i];
        at += KZ_ALIGN8(records[i]->size);
    }
    KZ_BUG_ON(kept->block_count == BLOCKS_MAX);
    kept->blocks[kept->block_count++] = block;
    kept->bytes += sizeof(*block) + size;
}

static uint32_t want_of(const struct kz_history_query *query)
{
    return query->events_max ? query->events_max : UINT32_MAX;
}

static uint32_t read_max(uint32_t want)
{
    return want > UINT32_MAX - SLACK ? 0 : want + SLACK;
}

static bool is_wanted(const struct kz_history_query *query, const struct kz_record *record)
{
    if ((record->flags & KZ_EVENT_ACTION) && !query->include_actions)
        return false;
    return query->since_ms == INT64_MIN ||
           record->size < sizeof(*record) + sizeof(struct kz_event_body) ||
           kz_event_body(record)->ts_ms >= query->since_ms;
}

/* Gathers a query's rows, newest first. False where what is kept cannot tell (H2). `hold` NULL: only
 * whether it can. */
static bool collect(const struct kept *kept, const struct kz_history_query *query,
        struct hold *hold, size_t *ret_count, bool *ret_truncated)
{
    size_t most = query->events_max ? query->events_max : SIZE_MAX, count = 0;
    const struct kz_source *own = &query->sources[0];

    for (size_t i = kept->count; i-- > 0;) {
        const struct kz_record *record = kept->records[i];
        kz_lsn lsn = kept->lsns[i];

        if (lsn > query->as_of || (lsn > own->head && record->owner == own->owner) ||
                !is_wanted(query, record))
            continue;
        if (count == most) {
            *ret_count = count;
            *ret_truncated = true;
            return true;
        }
        if (hold) {
            hold->records[count] = record;
            hold->lsns[count] = lsn;
        }
        count++;
    }
    *ret_count = count;
    *ret_truncated = false;
    return !kept->cut;
}

static bool can_tell(const struct kept *kept, const struct kz_history_query *query)
{
    bool truncated;
    size_t count;

    return collect(kept, query, NULL, &count, &truncated);
}

/* ---- the table, under the lock ------------------------------------------------------------------------ */

static struct kept **place_of(struct kz_recent *recent, uint64_t owner)
{
    struct kept **at = &recent->buckets[owner & (BUCKETS - 1)];

    while (*at && (*at)->owner != owner)
        at = &(*at)->next;
    return at;
}

static void unuse(struct kz_recent *recent, struct kept *kept)
{
    *(kept->newer ? &kept->newer->older : &recent->newest) = kept->older;
    *(kept->older ? &kept->older->newer : &recent->oldest) = kept->newer;
}

static void use(struct kz_recent *recent, struct kept *kept)
{
    kept->newer = NULL;
    kept->older = recent->newest;
    *(recent->newest ? &recent->newest->newer : &recent->oldest) = kept;
    recent->newest = kept;
}

static void remove_at(struct kz_recent *recent, struct kept **at)
{
    struct kept *kept = *at;

    *at = kept->next;
    unuse(recent, kept);
    recent->stats.users--;
    recent->stats.bytes -= kept->bytes;
    kept_unref(kept);
}

/* What is kept of the query's user, if it is about the same runs, goes back far enough and is not
 * too old. `ret_high`: how far anything is known of them. */
static struct kept *get(
        struct kz_recent *recent, const struct kz_history_query *query, kz_lsn *ret_high)
{
    struct kept *kept, **at;
    bool same;

    pthread_mutex_lock(&recent->lock);
    at = place_of(recent, query->sources[0].owner);
    kept = *at;
    if (ret_high)
        *ret_high = kept ? atomic_load(&kept->high) : 0;
    same = kept && kept->source_count == query->source_count && kept->since_ms <= query->since_ms &&
           (recent->options.actions || !query->include_actions) &&
           kz_mono_ms() - kept->read_ms <= recent->options.age_max_ms;
    for (size_t i = 1; same && i < kept->source_count; i++)
        same = kept->sources[i].owner == query->sources[i].owner &&
               kept->sources[i].head == query->sources[i].head;
    if (same) {
        atomic_fetch_add(&kept->refs, 1);
        unuse(recent, kept);
        use(recent, kept);
    }
    pthread_mutex_unlock(&recent->lock);
    return same ? kept : NULL;
}

/* Keeps it in the place of what was there, unless that is known further; the table has its own hold. */
static void put(struct kz_recent *recent, struct kept *kept)
{
    struct kept **at;

    pthread_mutex_lock(&recent->lock);
    at = place_of(recent, kept->owner);
    if (*at && atomic_load(&(*at)->high) > atomic_load(&kept->high)) {
        pthread_mutex_unlock(&recent->lock);
        return;
    }
    if (*at)
        remove_at(recent, at);
    if (kept->bytes <= recent->options.bytes_max / 2) {
        atomic_fetch_add(&kept->refs, 1);
        at = place_of(recent, kept->owner);
        kept->next = *at;
        *at = kept;
        use(recent, kept);
        recent->stats.users++;
        recent->stats.bytes += kept->bytes;
    }
    while (recent->stats.bytes > recent->options.bytes_max) {
        remove_at(recent, place_of(recent, recent->oldest->owner));
        recent->stats.dropped++;
    }
    pthread_mutex_unlock(&recent->lock);
}

void kz_recent_forget(struct kz_recent *recent, uint64_t owner)
{
    struct kept **at;

    pthread_mutex_lock(&recent->lock);
    at = place_of(recent, owner);
    if (*at)
        remove_at(recent, at);
    pthread_mutex_unlock(&recent->lock);
}

/* ---- reading -------------------------------------------------------------------------------------------- */

enum how { HIT, EXTENDED, READ };

static void count(struct kz_recent *recent, enum how how, size_t rows, int64_t us)
{
    pthread_mutex_lock(&recent->lock);
    recent->stats.hits += how == HIT;
    recent->stats.extended += how == EXTENDED;
    recent->stats.read += how == READ;
    recent->stats.rows_read += rows;
    recent->stats.read_us_total += (uint64_t)us;
    pthread_mutex_unlock(&recent->lock);
}

static enum kz_code read_behind(struct kz_recent *recent, const struct kz_history_query *query,
        enum how how, struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct kz_history_reader *behind = recent->options.behind;
    int64_t start_us = kz_mono_us();

    KZ_TRY(behind->ops->scan(behind, query, ret_rows, err));
    count(recent, how, ret_rows->count, kz_mono_us() - start_us);
    return KZ_OK;
}

/* H1: up to the request's address, which was committed before; where none was named, up to what
 * was seen. */
static void set_high(struct kept *kept, const struct kz_history_query *query, kz_lsn before)
{
    kz_lsn high = query->as_of == UINT64_MAX ? before : KZ_MAX(before, query->as_of);

    atomic_store(&kept->high, kept->count ? KZ_MAX(high, kept->lsns[kept->count - 1]) : high);
}

/* At least up to `high`: what others had is not lost by a late request's read. */
static enum kz_code read_all(struct kz_recent *recent, const struct kz_history_query *asked,
        uint32_t want, kz_lsn high, struct kept **ret_kept, struct kz_err *err)
{
    struct kz_history_reader *behind = recent->options.behind;
    struct kz_history_query query = *asked;
    struct kz_history_rows rows;
    struct kept *kept;

    query.as_of = KZ_MAX(query.as_of, high);
    query.events_max = read_max(want);
    query.include_actions = recent->options.actions;
    KZ_TRY(read_behind(recent, &query, READ, &rows, err));
    kept = kept_new(asked, rows.count);
    kept->since_ms = query.since_ms;
    kept->read_ms = kz_mono_ms();
    kept->want = want;
    kept->cut = rows.truncated;
    kept_add(kept, rows.records, rows.lsns, rows.count);
    behind->ops->release(behind, &rows);
    set_high(kept, asked, high);
    *ret_kept = kept;
    return KZ_OK;
}

/* How many of the oldest rows are let go. */
static size_t surplus(const struct kept *old, size_t total, uint32_t want)
{
    size_t most = want > UINT32_MAX - SLACK ? SIZE_MAX : 2 * ((size_t)want + SLACK);

    return total > most ? KZ_MIN(total - (want + SLACK), old->count) : 0;
}

/* What was kept and the rows behind it, as a new one (H3). */
static struct kept *merge(const struct kept *old, const struct kz_history_query *asked,
        const struct kz_history_rows *rows, size_t from)
{
    uint32_t want = KZ_MAX(old->want, want_of(asked));
    size_t fresh = rows->count - from, drop = surplus(old, old->count + fresh, want);
    struct kept *kept = kept_new(asked, old->count - drop + fresh);

    kept->since_ms = old->since_ms;
    kept->read_ms = old->read_ms;
    kept->want = want;
    kept->cut = old->cut || drop;
    if (drop || old->block_count == BLOCKS_MAX) {
        kept_add(kept, old->records + drop, old->lsns + drop, old->count - drop);
    } else {
        memcpy(kept->records, old->records, old->count * sizeof(struct kz_record *));
        memcpy(kept->lsns, old->lsns, old->count * sizeof(kz_lsn));
        kept->count = old->count;
        for (size_t i = 0; i < old->block_count; i++) {
            kept->blocks[kept->block_count++] = old->blocks[i];
            atomic_fetch_add(&old->blocks[i]->refs, 1);
            kept->bytes += sizeof(struct block) + old->blocks[i]->size;
        }
    }
    kept_add(kept, rows->records + from, rows->lsns + from, fresh);
    return kept;
}

/* Reads what came after what is kept. */
static enum kz_code extend(struct kz_recent *recent, const struct kz_history_query *asked,
        struct kept *old, struct kept **ret_kept, struct kz_err *err)
{
    struct kz_history_reader *behind = recent->options.behind;
    struct kz_history_query query = *asked;
    struct kz_history_rows rows;
    kz_lsn high = atomic_load(&old->high);
    struct kept *kept;
    size_t from = 0;

    query.after = high;
    query.since_ms = old->since_ms;
    query.events_max = read_max(KZ_MAX(old->want, want_of(asked)));
    query.include_actions = recent->options.actions;
    KZ_TRY(read_behind(recent, &query, EXTENDED, &rows, err));
    while (from < rows.count && rows.lsns[from] <= high)
        from++;
    if (rows.truncated && !from) { /* there is a gap: the newest are all that is known */
        kept = kept_new(asked, rows.count);
        kept->since_ms = query.since_ms;
        kept->read_ms = kz_mono_ms();
        kept->want = KZ_MAX(old->want, want_of(asked));
        kept->cut = true;
        kept_add(kept, rows.records, rows.lsns, rows.count);
    } else {
        kept = merge(old, asked, &rows, from);
    }
    behind->ops->release(behind, &rows);
    set_high(kept, asked, high);
    *ret_kept = kept;
    return KZ_OK;
}

/* A long history of which most is before the window is read anew, and shorter, now and then. */
static bool is_bulky(const struct kept *kept, const struct kz_history_query *query)
{
    return kept->count > ROWS_TRIM && kept->want == UINT32_MAX &&
           !is_wanted(query, kept->records[kept->count / 2]);
}

enum kz_code kz_recent_fetch(struct kz_recent *recent, const struct kz_history_query *asked,
        kz_lsn *ret_seen, struct kz_err *err)
{
    KZ_AUTO(kept_unrefp) struct kept *kept = NULL;
    struct kz_source sources[KZ_SOURCES_MAX];
    struct kz_history_query query = *asked;
    uint32_t want = want_of(asked);
    bool known, whole = false;
    kz_lsn high;

    KZ_CHECK_MAGIC(recent, RECENT_MAGIC);
    if (!asked->source_count || asked->source_count > KZ_SOURCES_MAX)
        return kz_fail(err, KZ_LIMIT, "a history of %zu linked ids, the limit is %d",
                asked->source_count, KZ_SOURCES_MAX);
    memcpy(sources, asked->sources, asked->source_count * sizeof(*sources));
    sources[0].head = UINT64_MAX;
    query.sources = sources;
    query.after = 0;
    kept = get(recent, &query, &high);
    known = kept && query.as_of != UINT64_MAX && high >= query.as_of;
    if (known && can_tell(kept, &query)) {
        count(recent, HIT, 0, 0);
        if (ret_seen)
            *ret_seen = atomic_load(&kept->high);
        return KZ_OK;
    }
    if (kept && !known && !is_bulky(kept, &query)) {
        struct kept *more = NULL;

        KZ_TRY(extend(recent, &query, kept, &more, err));
        kept_unref(kept);
        kept = more;
    } else {
        kept_unref(kz_take(&kept));
        KZ_TRY(read_all(recent, &query, want, high, &kept, err));
        whole = true;
    }
    for (unsigned i = 0; i < READS_MAX && !can_tell(kept, &query); i++) {
        if (whole)
            want = want > UINT32_MAX / 4 ? UINT32_MAX : want * 4;
        whole = true;
        kept_unref(kz_take(&kept));
        KZ_TRY(read_all(recent, &query, want, high, &kept, err));
    }
    put(recent, kept);
    if (ret_seen)
        *ret_seen = atomic_load(&kept->high);
    return KZ_OK;
}

/* ---- as a reader ------------------------------------------------------------------------------------------ */

static struct hold *hold_new(struct kept *kept, size_t row_max)
{
    struct hold *hold = kz_calloc(1, sizeof(*hold));

    hold->kept = kept;
    if (kept) {
        hold->records = kz_malloc((row_max + 1) * sizeof(struct kz_record *));
        hold->lsns = kz_malloc((row_max + 1) * sizeof(kz_lsn));
    }
    return hold;
}

static void hold_free(struct hold *hold)
{
    kept_unref(hold->kept);
    free(hold->records);
    free(hold->lsns);
    free(hold);
}

/* From memory; false where it cannot tell. */
static bool scan_kept(struct kz_recent *recent, const struct kz_history_query *query,
        struct kz_history_rows *ret_rows)
{
    struct kept *kept;
    struct hold *hold;
    size_t rows;
    bool truncated;

    if (query->chain != KZ_CHAIN_EVENTS || !query->source_count)
        return false;
    kept = get(recent, query, NULL);
    if (!kept)
        return false;
    hold = hold_new(kept, query->events_max ? KZ_MIN(query->events_max, kept->count) : kept->count);
    if (KZ_MIN(query->as_of, query->sources[0].head) > atomic_load(&kept->high) ||
            !collect(kept, query, hold, &rows, &truncated)) {
        hold_free(hold);
        return false;
    }
    kz_history_reverse(hold->records, hold->lsns, rows);
    *ret_rows = (struct kz_history_rows){
            .records = hold->records,
            .lsns = hold->lsns,
            .count = rows,
            .truncated = truncated,
            .priv = hold,
    };
    return true;
}

static struct kz_recent *of_reader(struct kz_history_reader *reader)
{
    struct kz_recent *recent = KZ_CONTAINER_OF(reader, struct kz_recent, reader);

    KZ_CHECK_MAGIC(recent, RECENT_MAGIC);
    return recent;
}

static struct kz_recent *of_memory(struct kz_history_reader *reader)
{
    struct kz_recent *recent = KZ_CONTAINER_OF(reader, struct kz_recent, memory);

    KZ_CHECK_MAGIC(recent, RECENT_MAGIC);
    return recent;
}

static enum kz_code scan(struct kz_history_reader *reader, const struct kz_history_query *query,
        struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct kz_recent *recent = of_reader(reader);
    struct kz_history_reader *behind = recent->options.behind;
    struct kz_history_rows rows;
    struct hold *hold;

    if (scan_kept(recent, query, ret_rows))
        return KZ_OK;
    KZ_TRY(behind->ops->scan(behind, query, &rows, err));
    pthread_mutex_lock(&recent->lock);
    recent->stats.passed_on++;
    pthread_mutex_unlock(&recent->lock);
    hold = hold_new(NULL, 0);
    hold->behind = rows;
    *ret_rows = rows;
    ret_rows->priv = hold;
    return KZ_OK;
}

static enum kz_code scan_memory(struct kz_history_reader *reader,
        const struct kz_history_query *query, struct kz_history_rows *ret_rows, struct kz_err *err)
{
    if (scan_kept(of_memory(reader), query, ret_rows))
        return KZ_OK;
    return kz_fail(err, KZ_UNAVAILABLE, "the history was not fetched");
}

static void release_rows(struct kz_recent *recent, struct kz_history_rows *rows)
{
    struct kz_history_reader *behind = recent->options.behind;
    struct hold *hold = rows->priv;

    if (!hold)
        return;
    if (!hold->kept)
        behind->ops->release(behind, &hold->behind);
    hold_free(hold);
    *rows = (struct kz_history_rows){0};
}

static void release(struct kz_history_reader *reader, struct kz_history_rows *rows)
{
    release_rows(of_reader(reader), rows);
}

static void release_memory(struct kz_history_reader *reader, struct kz_history_rows *rows)
{
    release_rows(of_memory(reader), rows);
}

static enum kz_code scan_all(struct kz_history_reader *reader, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err)
{
    struct kz_history_reader *behind = of_reader(reader)->options.behind;

    return behind->ops->scan_all(behind, from, until, each, arg, err);
}

static enum kz_code get_one(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    struct kz_history_reader *behind = of_reader(reader)->options.behind;

    return behind->ops->get(behind, lsn, owner, out, err);
}

static enum kz_code scan_all_memory(struct kz_history_reader *reader, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err)
{
    (void)reader, (void)from, (void)until, (void)each, (void)arg;
    return kz_fail(err, KZ_UNAVAILABLE, "not everything is in memory");
}

static enum kz_code get_memory(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    (void)reader, (void)owner, (void)out;
    return kz_fail(err, KZ_NOT_FOUND, "record %llu is not in memory", (unsigned long long)lsn);
}

struct kz_history_reader *kz_recent_reader(struct kz_recent *recent)
{
    return &recent->reader;
}

struct kz_history_reader *kz_recent_memory(struct kz_recent *recent)
{
    return &recent->memory;
}

/* ---- open and close ---------------------------------------------------------------------------------------- */

struct kz_recent *kz_recent_new(const struct kz_recent_options *options)
{
    static const struct kz_history_reader_ops reader_ops = {
            .scan = scan, .release = release, .scan_all = scan_all, .get = get_one};
    static const struct kz_history_reader_ops memory_ops = {.scan = scan_memory,
            .release = release_memory,
            .scan_all = scan_all_memory,
            .get = get_memory};
    struct kz_recent *recent = kz_calloc(1, sizeof(*recent));

    recent->magic = RECENT_MAGIC;
    recent->options = *options;
    if (!recent->options.bytes_max)
        recent->options.bytes_max = BYTES_DEFAULT;
    if (!recent->options.age_max_ms)
        recent->options.age_max_ms = AGE_DEFAULT_MS;
    recent->reader.ops = &reader_ops;
    recent->memory.ops = &memory_ops;
    KZ_BUG_ON(pthread_mutex_init(&recent->lock, NULL) != 0);
    return recent;
}

void kz_recent_free(struct kz_recent *recent)
{
    if (!recent)
        return;
    KZ_CHECK_MAGIC(recent, RECENT_MAGIC);
    while (recent->oldest)
        remove_at(recent, place_of(recent, recent->oldest->owner));
    pthread_mutex_destroy(&recent->lock);
    recent->magic = 0;
    free(recent);
}

void kz_recent_stats(struct kz_recent *recent, struct kz_recent_stats *ret_stats)
{
    pthread_mutex_lock(&recent->lock);
    *ret_stats = recent->stats;
    pthread_mutex_unlock(&recent->lock);
}
