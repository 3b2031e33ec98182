/* Reading a user's records by key range, newest first, and all records by time. */
#include <stdlib.h>

#include "backends/spanner/sort.h"
#include "backends/spanner/spanner_int.h"
#include "codec/timefmt.h"

enum { PAGE_MIN = 32, SMALL_MAX = 1000, SORT_MEMORY = 128 << 20 };

static const char *const event_columns[] = {KZ_SP_EVENT_COLUMNS};
static const char *const note_columns[] = {"lsn", "record"};

static struct kz_sp *sp_of(struct kz_history_reader *reader)
{
    struct kz_sp *sp = KZ_CONTAINER_OF(reader, struct kz_sp, reader);

    KZ_CHECK_MAGIC(sp, KZ_SP_MAGIC);
    return sp;
}

static enum kz_code get_record(enum kz_chain chain, const struct kz_sp_cell *cells,
        struct kz_buf *scratch, struct kz_arena *arena, kz_lsn *ret_lsn,
        const struct kz_record **ret_record, struct kz_err *err)
{
    return chain == KZ_CHAIN_EVENTS
                   ? kz_sp_get_event(cells, scratch, arena, ret_lsn, ret_record, err)
                   : kz_sp_get_record(cells, scratch, arena, ret_lsn, ret_record, err);
}

static struct kz_sp_read read_of(enum kz_chain chain)
{
    if (chain == KZ_CHAIN_EVENTS)
        return (struct kz_sp_read){.table = "events",
                .columns = event_columns,
                .column_count = KZ_ARRAY_COUNT(event_columns)};
    return (struct kz_sp_read){.table = "notes",
            .columns = note_columns,
            .column_count = KZ_ARRAY_COUNT(note_columns)};
}

/* ---- one user ---------------------------------------------------------------------------- */

struct found {
    kz_lsn lsn;
    const struct kz_record *record;
};

struct list {
    struct found *items;
    size_t count, capacity;
};

static void add(struct list *list, struct found found)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? list->capacity * 2 : 64;
        list->items = kz_realloc(list->items, list->capacity * sizeof(*list->items));
    }
    list->items[list->count++] = found;
}

/* What was read of one source, newest first, a page at a time. */
struct source {
    uint64_t owner;
    kz_lsn top;       /* the next page begins at or below it */
    bool exhausted;   /* nothing is below it */
    struct list page; /* the records wanted */
    size_t at;
};

struct scan { /* what a caller's rows hold on to */
    struct kz_arena arena;
    const struct kz_record **records;
    kz_lsn *lsns;
};

struct reading {
    struct kz_sp *sp;
    const struct kz_history_query *query;
    kz_lsn low; /* nothing below it is wanted */
    struct scan *scan;
    struct kz_buf scratch;
    struct source sources[KZ_SOURCES_MAX];
    struct list result; /* newest first */
    /* The page being read. */
    struct source *source;
    uint64_t raw;
    kz_lsn last;
};

static bool wanted(const struct kz_history_query *query, const struct kz_record *record)
{
    if (record->type != KZ_RECORD_EVENT)
        return true;
    if ((record->flags & KZ_EVENT_ACTION) && !query->include_actions)
        return false;
    return kz_event_body(record)->ts_ms >= query->since_ms;
}

static enum kz_code take_record(void *arg, const struct kz_sp_cell *cells, struct kz_err *err)
{
    struct reading *reading = arg;
    struct found found;

    KZ_TRY(get_record(reading->query->chain, cells, &reading->scratch, &reading->scan->arena,
            &found.lsn, &found.record, err));
    reading->raw++;
    reading->last = found.lsn;
    if (wanted(reading->query, found.record))
        add(&reading->source->page, found);
    return KZ_OK;
}

static void forget_page(void *arg)
{
    struct reading *reading = arg;

    reading->raw = 0;
    reading->source->page.count = 0;
}

static enum kz_code read_page(struct reading *reading, struct source *source, struct kz_err *err)
{
    const uint32_t events_max = reading->query->events_max;
    struct kz_sp_read read = read_of(reading->query->chain);
    struct kz_sp_keys keys = {0};
    enum kz_code rc;

    kz_sp_u64(&keys.lists, source->owner);
    kz_sp_u64(&keys.lists, source->top);
    kz_sp_end(&keys.lists);
    kz_sp_u64(&keys.lists, source->owner);
    kz_sp_u64(&keys.lists, reading->low);
    kz_sp_end(&keys.lists);
    kz_sp_keys_range(&keys);
    read.keys = kz_sp_keys_set(&keys);
    read.limit = events_max ? (int64_t)KZ_MAX((int64_t)events_max + 1, (int64_t)PAGE_MIN) : 0;
    read.small = events_max > 0 && events_max <= SMALL_MAX;
    read.each = take_record;
    read.again = forget_page;
    read.arg = reading;
    reading->source = source;
    source->at = 0;
    forget_page(reading);
    rc = kz_sp_read(reading->sp, NULL, &read, err);
    kz_sp_keys_done(&keys);
    KZ_TRY(rc);
    if (!read.limit || reading->raw < (uint64_t)read.limit || reading->last <= reading->low)
        source->exhausted = true;
    else
        source->top = reading->last - 1;
    return KZ_OK;
}

/* The newest record that is left of all sources; NULL none. */
static enum kz_code find_newest(
        struct reading *reading, struct source **ret_source, struct kz_err *err)
{
    struct source *best = NULL;

    for (size_t i = 0; i < reading->query->source_count; i++) {
        struct source *source = &reading->sources[i];
        const struct found *x, *y;

        while (source->at == source->page.count && !source->exhausted)
            KZ_TRY(read_page(reading, source, err));
        if (source->at == source->page.count)
            continue;
        x = &source->page.items[source->at];
        y = best ? &best->page.items[best->at] : NULL;
        if (!y || x->lsn > y->lsn || (x->lsn == y->lsn && source->owner > best->owner))
            best = source;
    }
    *ret_source = best;
    return KZ_OK;
}

static enum kz_code collect(struct reading *reading, bool *ret_truncated, struct kz_err *err)
{
    const struct kz_history_query *query = reading->query;
    struct list *result = &reading->result;
    struct source *source, *before = NULL;

    *ret_truncated = false;
    for (;;) {
        struct found found;

        KZ_TRY(find_newest(reading, &source, err));
        if (!source)
            return KZ_OK;
        found = source->page.items[source->at++];
        /* Two sources may be of one owner; a record counts once. */
        if (before && before->owner == source->owner &&
                result->items[result->count - 1].lsn == found.lsn)
            continue;
        if (query->events_max && result->count == query->events_max) {
            *ret_truncated = true;
            return KZ_OK;
        }
        add(result, found);
        before = source;
    }
}

/* The lowest address that can matter. */
static kz_lsn lowest(const struct kz_history_query *query)
{
    kz_lsn low = query->after < UINT64_MAX ? query->after + 1 : UINT64_MAX;

    if (query->chain == KZ_CHAIN_EVENTS && query->since_ms > KZ_STORE_AHEAD_MS)
        low = KZ_MAX(low, kz_store_lsn(KZ_MIN(query->since_ms - KZ_STORE_AHEAD_MS,
                                  INT64_MAX >> KZ_STORE_LSN_SHIFT)));
    return low;
}

static void scan_free(struct scan *scan)
{
    kz_arena_done(&scan->arena);
    free(scan->records);
    free(scan->lsns);
    free(scan);
}

static void hand_over(struct reading *reading, bool truncated, struct kz_history_rows *ret_rows)
{
    struct scan *scan = reading->scan;
    size_t count = reading->result.count;

    scan->records = kz_malloc(KZ_MAX(count, (size_t)1) * sizeof(*scan->records));
    scan->lsns = kz_malloc(KZ_MAX(count, (size_t)1) * sizeof(*scan->lsns));
    for (size_t i = 0; i < count; i++) { /* oldest first */
        scan->records[i] = reading->result.items[count - 1 - i].record;
        scan->lsns[i] = reading->result.items[count - 1 - i].lsn;
    }
    *ret_rows = (struct kz_history_rows){
            .records = scan->records,
            .lsns = scan->lsns,
            .count = count,
            .truncated = truncated,
            .priv = scan,
    };
}

static enum kz_code scan_history(struct kz_history_reader *reader,
        const struct kz_history_query *query, struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct reading reading = {.sp = sp_of(reader), .query = query, .low = lowest(query)};
    bool truncated;
    enum kz_code rc;

    if (query->source_count > KZ_SOURCES_MAX)
        return kz_fail(err, KZ_LIMIT, "a history of %zu linked ids, the limit is %d",
                query->source_count, KZ_SOURCES_MAX);
    reading.scan = kz_calloc(1, sizeof(*reading.scan));
    kz_arena_init(&reading.scan->arena, 0);
    for (size_t i = 0; i < query->source_count; i++) {
        struct source *source = &reading.sources[i];

        source->owner = query->sources[i].owner;
        source->top = KZ_MIN(KZ_MIN(query->sources[i].head, query->as_of), (kz_lsn)INT64_MAX);
        source->exhausted = source->top < reading.low;
    }
    rc = collect(&reading, &truncated, err);
    if (rc == KZ_OK)
        hand_over(&reading, truncated, ret_rows);
    else
        scan_free(reading.scan);
    for (size_t i = 0; i < query->source_count; i++)
        free(reading.sources[i].page.items);
    free(reading.result.items);
    kz_buf_done(&reading.scratch);
    return rc;
}

static void release(struct kz_history_reader *reader, struct kz_history_rows *rows)
{
    struct scan *scan = rows->priv;

    (void)reader;
    *rows = (struct kz_history_rows){0};
    if (scan)
        scan_free(scan);
}

/* ---- one record -------------------------------------------------------------------------- */

struct one {
    enum kz_chain chain;
    struct kz_buf scratch;
    struct kz_arena arena;
    const struct kz_record *record;
};

static enum kz_code take_one(void *arg, const struct kz_sp_cell *cells, struct kz_err *err)
{
    struct one *one = arg;
    kz_lsn lsn;

    return get_record(one->chain, cells, &one->scratch, &one->arena, &lsn, &one->record, err);
}

static void forget_one(void *arg)
{
    struct one *one = arg;

    one->record = NULL;
}

static enum kz_code get(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    struct kz_sp *sp = sp_of(reader);
    struct kz_sp_keys keys = {0};
    struct one one = {0};
    enum kz_code rc = KZ_OK;

    kz_buf_clear(out);
    kz_arena_init(&one.arena, 0);
    kz_sp_u64(&keys.lists, owner);
    kz_sp_u64(&keys.lists, lsn);
    kz_sp_end(&keys.lists);
    for (int chain = 0; chain < KZ_CHAIN_COUNT && rc == KZ_OK && !one.record; chain++) {
        struct kz_sp_read read = read_of((enum kz_chain)chain);

        one.chain = (enum kz_chain)chain;
        read.keys = kz_sp_keys_set(&keys);
        read.small = true;
        read.each = take_one;
        read.again = forget_one;
        read.arg = &one;
        rc = kz_sp_read(sp, NULL, &read, err);
    }
    if (rc == KZ_OK && one.record) {
        const struct kz_record *record = kz_record_original(one.record);

        kz_buf_put(out, record, record->size);
    } else if (rc == KZ_OK) {
        rc = kz_fail(err, KZ_NOT_FOUND, "there is no record %016llx of owner %016llx",
                (unsigned long long)lsn, (unsigned long long)owner);
    }
    kz_sp_keys_done(&keys);
    kz_buf_done(&one.scratch);
    kz_arena_done(&one.arena);
    return rc;
}

static enum kz_code take_time(void *arg, const struct kz_sp_cell *cells, struct kz_err *err)
{
    return kz_time_parse(cells[0].text, arg, err);
}

static void forget_time(void *arg)
{
    *(int64_t *)arg = 0;
}

enum kz_code kz_sp_stored_ms(
        struct kz_store *store, kz_lsn lsn, uint64_t owner, int64_t *ret_ms, struct kz_err *err)
{
    static const char *const columns[] = {"stored_at"};
    struct kz_sp_keys keys = {0};
    int64_t ms = 0;
    struct kz_sp_read read = {
            .table = "events",
            .columns = columns,
            .column_count = KZ_ARRAY_COUNT(columns),
            .small = true,
            .each = take_time,
            .again = forget_time,
            .arg = &ms,
    };
    enum kz_code rc;

    kz_sp_u64(&keys.lists, owner);
    kz_sp_u64(&keys.lists, lsn);
    kz_sp_end(&keys.lists);
    read.keys = kz_sp_keys_set(&keys);
    rc = kz_sp_read(kz_sp_of(store), NULL, &read, err);
    kz_sp_keys_done(&keys);
    if (rc == KZ_OK && !ms)
        rc = kz_fail(err, KZ_NOT_FOUND, "there is no event %016llx of owner %016llx",
                (unsigned long long)lsn, (unsigned long long)owner);
    if (rc == KZ_OK)
        *ret_ms = ms;
    return rc;
}

/* ---- all records ------------------------------------------------------------------------- */

struct everything {
    enum kz_chain chain;
    kz_lsn from, until;
    struct kz_sp_sort *sort;
    struct kz_arena arena;
    struct kz_buf scratch;
};

/* The table is led by owners, so all of it is read, whatever the time that is asked for. */
static enum kz_code take_any(void *arg, const struct kz_sp_cell *cells, struct kz_err *err)
{
    struct everything *all = arg;
    const struct kz_record *record;
    kz_lsn lsn;

    KZ_TRY(kz_sp_get_u64(&cells[0], &lsn, err));
    if (lsn < all->from || lsn >= all->until)
        return KZ_OK;
    kz_arena_reset(&all->arena);
    KZ_TRY(get_record(all->chain, cells, &all->scratch, &all->arena, &lsn, &record, err));
    return kz_sp_sort_add(all->sort, lsn, record, err);
}

static enum kz_code scan_all(struct kz_history_reader *reader, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err)
{
    KZ_SP(KeySet) set = GOOGLE__SPANNER__V1__KEY_SET__INIT;
    struct everything all = {.from = from, .until = until};
    enum kz_code rc = KZ_OK;

    set.all = true;
    all.sort = kz_sp_sort_new(SORT_MEMORY);
    kz_arena_init(&all.arena, 0);
    for (int chain = 0; chain < KZ_CHAIN_COUNT && rc == KZ_OK; chain++) {
        struct kz_sp_read read = read_of((enum kz_chain)chain);

        all.chain = (enum kz_chain)chain;
        read.keys = &set;
        read.each = take_any;
        read.arg = &all;
        rc = kz_sp_read(sp_of(reader), NULL, &read, err);
    }
    if (rc == KZ_OK)
        rc = kz_sp_sort_each(all.sort, each, arg, err);
    kz_sp_sort_free(all.sort);
    kz_arena_done(&all.arena);
    kz_buf_done(&all.scratch);
    return rc;
}

const struct kz_history_reader_ops kz_sp_reader_ops = {
        .scan = scan_history,
        .release = release,
        .scan_all = scan_all,
        .get = get,
};
