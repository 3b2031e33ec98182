/* What the reader before a far one gives is what the far one would have given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "history/recent.h"

/* ---- a store: events of a few owners, by address ----------------------------------------------------- */

enum { EVENTS_MAX = 5000 };

struct store {
    struct kz_history_reader reader;
    struct {
        kz_lsn lsn;
        struct kz_record *record;
    } events[EVENTS_MAX];
    size_t count;
    bool leaves_out; /* what the caller knows: query.after */
    unsigned scans;
    size_t rows;
    enum kz_code fail;
};

static void store_add(struct store *store, uint64_t owner, kz_lsn lsn, int64_t ts_ms, bool action)
{
    struct kz_event event = {.ts_ms = ts_ms, .event_id = KZ_STR("e"), .name = KZ_STR("view")};
    struct kz_buf body = {0};
    struct kz_record *record;

    kz_event_encode(&event, &body);
    record = kz_calloc(1, sizeof(*record) + body.size);
    memcpy(record + 1, body.data, body.size);
    record->size = (uint32_t)(sizeof(*record) + body.size);
    record->type = KZ_RECORD_EVENT;
    record->flags = action ? KZ_EVENT_ACTION : 0;
    record->seq = lsn;
    record->owner = owner;
    kz_buf_done(&body);
    assert_true(store->count < EVENTS_MAX);
    store->events[store->count].lsn = lsn;
    store->events[store->count++].record = record;
}

static bool is_of(const struct kz_history_query *query, uint64_t owner, kz_lsn lsn)
{
    for (size_t i = 0; i < query->source_count; i++)
        if (query->sources[i].owner == owner && lsn <= query->sources[i].head)
            return true;
    return false;
}

static enum kz_code store_scan(struct kz_history_reader *reader,
        const struct kz_history_query *query, struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct store *store = KZ_CONTAINER_OF(reader, struct store, reader);
    const struct kz_record **records = kz_malloc(EVENTS_MAX * sizeof(*records));
    kz_lsn *lsns = kz_malloc(EVENTS_MAX * sizeof(*lsns));
    size_t at = EVENTS_MAX, most = query->events_max ? query->events_max : EVENTS_MAX;
    bool truncated = false;

    if (store->fail)
        kz_fail(err, store->fail, "the store is away");
    for (size_t i = store->count; i-- > 0 && !store->fail;) {
        const struct kz_record *record = store->events[i].record;
        kz_lsn lsn = store->events[i].lsn;

        if (lsn > query->as_of || !is_of(query, record->owner, lsn) ||
                (store->leaves_out && lsn <= query->after) ||
                ((record->flags & KZ_EVENT_ACTION) && !query->include_actions) ||
                kz_event_body(record)->ts_ms < query->since_ms)
            continue;
        if (EVENTS_MAX - at == most) {
            truncated = true;
            break;
        }
        records[--at] = record;
        lsns[at] = lsn;
    }
    store->scans++;
    store->rows += EVENTS_MAX - at;
    *ret_rows = (struct kz_history_rows){records + at, lsns + at, EVENTS_MAX - at, truncated, NULL};
    if (store->fail) {
        free(records);
        free(lsns);
        return store->fail;
    }
    memmove(records, records + at, ret_rows->count * sizeof(*records));
    memmove(lsns, lsns + at, ret_rows->count * sizeof(*lsns));
    ret_rows->records = records;
    ret_rows->lsns = lsns;
    ret_rows->priv = records;
    return KZ_OK;
}

static void store_release(struct kz_history_reader *reader, struct kz_history_rows *rows)
{
    (void)reader;
    free(rows->records);
    free((void *)rows->lsns);
    *rows = (struct kz_history_rows){0};
}

static struct store *store_new(bool leaves_out)
{
    static const struct kz_history_reader_ops ops = {.scan = store_scan, .release = store_release};
    struct store *store = kz_calloc(1, sizeof(*store));

    store->reader.ops = &ops;
    store->leaves_out = leaves_out;
    return store;
}

static void store_free(struct store *store)
{
    for (size_t i = 0; i < store->count; i++)
        free(store->events[i].record);
    free(store);
}

static struct kz_recent *recent_on(struct store *store, uint64_t bytes_max, bool actions)
{
    return kz_recent_new(&(struct kz_recent_options){
            .behind = &store->reader, .bytes_max = bytes_max, .actions = actions});
}

static struct kz_history_query query_of(const struct kz_source *sources, size_t source_count,
        kz_lsn as_of, uint32_t events_max, int64_t since_ms)
{
    return (struct kz_history_query){.sources = sources,
            .source_count = source_count,
            .chain = KZ_CHAIN_EVENTS,
            .as_of = as_of,
            .events_max = events_max,
            .since_ms = since_ms};
}

static void assert_same(const struct kz_history_rows *a, const struct kz_history_rows *b)
{
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->truncated, b->truncated);
    for (size_t i = 0; i < a->count; i++) {
        assert_true(a->lsns[i] == b->lsns[i]);
        assert_int_equal(a->records[i]->size, b->records[i]->size);
        assert_memory_equal(a->records[i], b->records[i], a->records[i]->size);
    }
}

/* Asks memory, and the store itself. */
static void assert_memory_tells(
        struct kz_recent *recent, struct store *store, const struct kz_history_query *query)
{
    struct kz_history_reader *memory = kz_recent_memory(recent);
    struct kz_history_rows got, expected;
    struct kz_err err = {0};
    unsigned scans = store->scans;

    assert_int_equal(memory->ops->scan(memory, query, &got, &err), KZ_OK);
    assert_int_equal(store->scans, scans);
    assert_int_equal(store_scan(&store->reader, query, &expected, &err), KZ_OK);
    store->scans = scans;
    assert_same(&got, &expected);
    store_release(&store->reader, &expected);
    memory->ops->release(memory, &got);
}

static void fetch(struct kz_recent *recent, const struct kz_history_query *query, kz_lsn *ret_seen)
{
    struct kz_err err = {0};

    assert_int_equal(kz_recent_fetch(recent, query, ret_seen, &err), KZ_OK);
}

/* ---- tests --------------------------------------------------------------------------------------------- */

static void a_fetched_history_is_the_one_of_the_store(void **state)
{
    struct store *store = store_new(true);
    struct kz_recent *recent = recent_on(store, 0, false);
    struct kz_source own = {.owner = 7, .head = 300};
    struct kz_history_query query = query_of(&own, 1, 310, 2, INT64_MIN);
    struct kz_recent_stats stats;

    (void)state;
    store_add(store, 7, 100, 1000, false);
    store_add(store, 7, 200, 2000, false);
    store_add(store, 8, 250, 2500, false);
    store_add(store, 7, 300, 3000, false);
    fetch(recent, &query, NULL);
    assert_memory_tells(recent, store, &query); /* two of three: truncated */
    query.events_max = 3;
    assert_memory_tells(recent, store, &query);
    query.since_ms = 2000;
    query.as_of = 299;
    assert_memory_tells(recent, store, &query);
    assert_int_equal(store->scans, 1);

    /* A newer request reads what is new and no more; one in between reads nothing. */
    store_add(store, 7, 400, 4000, false);
    store_add(store, 7, 500, 5000, false);
    own.head = 500;
    query = query_of(&own, 1, 510, 50, INT64_MIN);
    store->rows = 0;
    fetch(recent, &query, NULL);
    assert_int_equal(store->rows, 2);
    assert_memory_tells(recent, store, &query);
    query.as_of = 410;
    own.head = 400;
    fetch(recent, &query, NULL);
    assert_memory_tells(recent, store, &query);
    assert_int_equal(store->scans, 2);
    kz_recent_stats(recent, &stats);
    assert_int_equal(stats.read, 1);
    assert_int_equal(stats.extended, 1);
    assert_int_equal(stats.hits, 1);
    assert_int_equal(stats.passed_on, 0);
    assert_int_equal(stats.users, 1);
    kz_recent_free(recent);
    store_free(store);
}

static void what_was_not_fetched_is_not_made_up(void **state)
{
    struct store *store = store_new(true);
    struct kz_recent *recent = recent_on(store, 0, false);
    struct kz_history_reader *memory = kz_recent_memory(recent), *reader = kz_recent_reader(recent);
    struct kz_source own = {.owner = 7, .head = 100};
    struct kz_history_query query = query_of(&own, 1, 110, 50, 0);
    struct kz_history_rows rows;
    struct kz_err err = {0};

    (void)state;
    store_add(store, 7, 100, 1000, false);
    assert_int_equal(memory->ops->scan(memory, &query, &rows, &err), KZ_UNAVAILABLE);
    fetch(recent, &query, NULL);
    /* Read-your-own-event: the next event is not in what was read before it was committed. */
    store_add(store, 7, 200, 2000, false);
    own.head = 200;
    query.as_of = 210;
    assert_int_equal(memory->ops->scan(memory, &query, &rows, &err), KZ_UNAVAILABLE);
    assert_int_equal(reader->ops->scan(reader, &query, &rows, &err), KZ_OK);
    assert_int_equal(rows.count, 2);
    reader->ops->release(reader, &rows);
    /* Nor is what lies before the window that was read, nor what actions did. */
    query = query_of(&own, 1, 110, 50, -1);
    assert_int_equal(memory->ops->scan(memory, &query, &rows, &err), KZ_UNAVAILABLE);
    query = query_of(&own, 1, 110, 50, 0);
    query.include_actions = true;
    assert_int_equal(memory->ops->scan(memory, &query, &rows, &err), KZ_UNAVAILABLE);
    query.include_actions = false;
    query.chain = KZ_CHAIN_NOTES;
    assert_int_equal(memory->ops->scan(memory, &query, &rows, &err), KZ_UNAVAILABLE);
    kz_recent_free(recent);
    store_free(store);
}

static void a_failed_read_is_the_callers(void **state)
{
    struct store *store = store_new(true);
    struct kz_recent *recent = recent_on(store, 0, false);
    struct kz_source own = {.owner = 7, .head = 100};
    struct kz_history_query query = query_of(&own, 1, 110, 50, INT64_MIN);
    struct kz_err err = {0};

    (void)state;
    store_add(store, 7, 100, 1000, false);
    store->fail = KZ_UNAVAILABLE;
    assert_int_equal(kz_recent_fetch(recent, &query, NULL, &err), KZ_UNAVAILABLE);
    store->fail = KZ_OK;
    fetch(recent, &query, NULL);
    query.as_of = 210;
    store->fail = KZ_TIMEOUT;
    assert_int_equal(kz_recent_fetch(recent, &query, NULL, &err), KZ_TIMEOUT);
    query.as_of = 110; /* what was there still is */
    store->fail = KZ_OK;
    assert_memory_tells(recent, store, &query);
    kz_recent_free(recent);
    store_free(store);
}

static void a_new_link_is_read_anew(void **state)
{
    struct store *store = store_new(true);
    struct kz_recent *recent = recent_on(store, 0, false);
    struct kz_source runs[] = {{.owner = 7, .head = 100}, {.owner = 9, .head = 50}};
    struct kz_history_query query = query_of(runs, 1, 110, 50, INT64_MIN);

    (void)state;
    store_add(store, 9, 50, 500, false);
    store_add(store, 9, 60, 600, false); /* theirs, after they were linked */
    store_add(store, 7, 100, 1000, false);
    fetch(recent, &query, NULL);
    query.source_count = 2;
    fetch(recent, &query, NULL);
    assert_memory_tells(recent, store, &query);
    assert_int_equal(store->scans, 2);
    kz_recent_forget(recent, 7);
    fetch(recent, &query, NULL);
    assert_int_equal(store->scans, 3);
    kz_recent_free(recent);
    store_free(store);
}

static void what_is_there_now_is_read_every_time(void **state)
{
    struct store *store = store_new(true);
    struct kz_recent *recent = recent_on(store, 0, false);
    struct kz_source own = {.owner = 7, .head = UINT64_MAX};
    struct kz_history_query query = query_of(&own, 1, UINT64_MAX, 50, INT64_MIN);
    kz_lsn seen = 1;

    (void)state;
    fetch(recent, &query, &seen);
    assert_int_equal(seen, 0);
    store_add(store, 7, 100, 1000, false);
    fetch(recent, &query, &seen);
    assert_int_equal(seen, 100);
    fetch(recent, &query, &seen);
    assert_int_equal(seen, 100);
    assert_int_equal(store->scans, 3);
    own.head = seen; /* as views say it: no bound, but a head */
    assert_memory_tells(recent, store, &query);
    kz_recent_free(recent);
    store_free(store);
}

static void memory_is_bounded(void **state)
{
    struct store *store = store_new(true);
    struct kz_recent *recent = recent_on(store, 20000, false);
    struct kz_recent_stats stats;

    (void)state;
    for (uint64_t owner = 1; owner <= 100; owner++) {
        struct kz_source own = {.owner = owner, .head = owner * 100};
        struct kz_history_query query = query_of(&own, 1, own.head, 50, INT64_MIN);

        store_add(store, owner, own.head, 1000, false);
        store_add(store, owner, own.head, 1000, false);
        fetch(recent, &query, NULL);
    }
    kz_recent_stats(recent, &stats);
    assert_true(stats.bytes <= 20000);
    assert_true(stats.users > 10 && stats.users < 100);
    assert_int_equal(stats.dropped + stats.users, 100);
    kz_recent_free(recent);
    store_free(store);
}

static uint64_t roll(uint64_t *dice)
{
    *dice = *dice * 6364136223846793005ull + 1442695040888963407ull;
    return *dice >> 33;
}

/* Users write, requests come with windows and bounds of several models, some late; whatever was
 * fetched is told from memory as the store would. */
static void random_requests(bool leaves_out, uint64_t dice)
{
    static const uint32_t most[] = {0, 1, 5, 40};
    static const int64_t windows[] = {0, 50, 700};
    struct store *store = store_new(leaves_out);
    struct kz_recent *recent = recent_on(store, 8 << 20, true);
    struct kz_recent_stats stats;
    struct kz_source runs[2];
    struct kz_history_query query;

    for (kz_lsn lsn = 10; store->count < EVENTS_MAX; lsn += 1 + roll(&dice) % 3) {
        uint64_t owner = 1 + roll(&dice) % 5;
        int64_t window_ms = windows[roll(&dice) % 3];
        kz_lsn back = roll(&dice) % 8 ? 0 : roll(&dice) % 100;

        store_add(store, owner, lsn, (int64_t)lsn - (int64_t)(roll(&dice) % 30),
                roll(&dice) % 4 == 0);
        if (roll(&dice) % 2)
            continue;
        runs[0] = (struct kz_source){owner, lsn};
        runs[1] = (struct kz_source){owner == 1 ? 99 : owner - 1, KZ_MIN(lsn - 5, (kz_lsn)2000)};
        query = query_of(runs, lsn > 3000 ? 2 : 1, lsn - KZ_MIN(back, lsn), most[roll(&dice) % 4],
                window_ms ? (int64_t)lsn - window_ms : INT64_MIN);
        query.include_actions = roll(&dice) % 2;
        fetch(recent, &query, NULL);
        assert_memory_tells(recent, store, &query);
    }
    kz_recent_stats(recent, &stats);
    assert_true(stats.hits > 0 && stats.extended > 0 && stats.read > 0);
    kz_recent_free(recent);
    store_free(store);
}

static void random_requests_are_told_as_the_store_would(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        random_requests(true, seed);
        random_requests(false, seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_fetched_history_is_the_one_of_the_store),
            cmocka_unit_test(what_was_not_fetched_is_not_made_up),
            cmocka_unit_test(a_failed_read_is_the_callers),
            cmocka_unit_test(a_new_link_is_read_anew),
            cmocka_unit_test(what_is_there_now_is_read_every_time),
            cmocka_unit_test(memory_is_bounded),
            cmocka_unit_test(random_requests_are_told_as_the_store_would),
    };

    return cmocka_run_group_tests_name("history/recent", tests, NULL, NULL);
}
