/* Histories with a cache are those without: whatever is written, sealed, erased and dropped meanwhile. */
#include "log/log_rig.h"

#include <fcntl.h>

#include "log/cache.h"

enum { COLUMNS = 3, COLUMNS_ID = 9, HEADS = 4000 };

static const char *const names[] = {"view", "cart", "purchase"};

static const struct kz_event_parts parts = {
        .name = true, .columns_id = COLUMNS_ID, .columns = 1 << 0 | 1 << 2};

struct head {
    uint64_t owner;
    kz_lsn lsn;
};

struct world {
    struct fixture f;
    struct kz_prng prng;
    kz_lsn notes[OWNERS + 1];
    struct head heads[HEADS]; /* of events that were newest once, erased ones as well */
    size_t head_count;
    struct kz_history_cache *large, *small;
    uint64_t empty_bytes; /* of both, before anything was kept */
};

static void append_record(
        struct world *w, enum kz_record_type type, uint64_t owner, kz_lsn *prev, struct kz_str body)
{
    struct kz_log_entry entry = {
            .type = type,
            .owner = owner,
            .prev = *prev,
            .at_ms = w->f.now_ms += 10,
            .key = type == KZ_RECORD_EVENT ? key_of(kz_log_seq_last(w->f.log) + 1) : 0,
            .flags = type == KZ_RECORD_EVENT ? kz_prng_below(&w->prng, 8) == 0 : 0,
            .body = body,
    };
    struct kz_err err = {0};
    uint64_t seq;

    must(kz_log_append(w->f.log, &entry, prev, &seq, &err), &err);
    must(kz_log_commit(w->f.log, &err), &err);
}

static void append_event(struct world *w, uint64_t owner)
{
    struct kz_prng *prng = &w->prng;
    char props[100];
    struct kz_value columns[COLUMNS] = {
            {.type = KZ_TYPE_FLOAT, .real = kz_prng_unit(prng)},
            {.type = KZ_TYPE_INT, .integer = (int64_t)kz_prng_below(prng, 1000)},
            {.type = KZ_TYPE_TEXT, .text = kz_str_n(props + 4, kz_prng_below(prng, 9))},
    };
    struct kz_event event = {
            .event_id = KZ_STR("an id"),
            .user_id = KZ_STR("user"),
            .name = kz_str(names[kz_prng_below(prng, KZ_ARRAY_COUNT(names))]),
            .props = kz_str_n(props, sizeof(props)),
            .ts_ms = w->f.now_ms - (int64_t)kz_prng_below(prng, 2000),
            .session = kz_prng_below(prng, 50),
            .columns_id = kz_prng_below(prng, 10) ? COLUMNS_ID : COLUMNS_ID + 1,
            .column_count = COLUMNS,
            .columns = columns,
    };
    struct kz_buf body = {0};

    for (size_t i = 0; i < sizeof(props); i++)
        props[i] = (char)('a' + kz_prng_below(prng, 26));
    kz_event_encode(&event, &body);
    append_record(w, KZ_RECORD_EVENT, owner, &w->f.heads[owner], kz_buf_view(&body));
    kz_buf_done(&body);
    if (w->head_count < HEADS)
        w->heads[w->head_count++] = (struct head){owner, w->f.heads[owner]};
}

static void append_note(struct world *w, uint64_t owner)
{
    struct kz_trigger_body body = {.rule = owner, .op = KZ_TRIGGER_DELAY};

    append_record(w, KZ_RECORD_TRIGGER, owner, &w->notes[owner], kz_str_n(&body, sizeof(body)));
}

static void seal(struct world *w, uint64_t erased)
{
    kz_lsn below = kz_log_end(w->f.log);
    struct kz_log_seal seal = {
            .below = below,
            .segments_max = erased ? UINT32_MAX : 1 + (unsigned)kz_prng_below(&w->prng, 3),
            .erased = &erased,
            .erased_below = &below,
            .erased_count = erased != 0,
    };
    struct kz_err err = {0};

    must(kz_log_seal(w->f.log, &seal, &err), &err);
}

static void erase(struct world *w, uint64_t owner)
{
    struct kz_err err = {0};

    /* Its last records are in a segment of their own then, so that all of them can go. */
    kz_log_roll(w->f.log);
    append_note(w, owner == 1 ? 2 : 1);
    must(kz_log_wait(w->f.log, &err), &err);
    seal(w, owner);
    w->f.heads[owner] = w->notes[owner] = 0;
}

static void drop(struct world *w)
{
    size_t count;
    KZ_AUTO(kz_freep) struct kz_log_segment_info *infos = kz_log_segments(w->f.log, &count);
    struct kz_err err = {0};

    if (count > 12)
        must(kz_log_drop(w->f.log, KZ_LSN(infos[2].number, 0), &err), &err);
}

/* ---- asking ----------------------------------------------------------------------------------- */

static void assert_str(struct kz_str got, struct kz_str want)
{
    assert_int_equal(got.size, want.size);
    if (want.size)
        assert_memory_equal(got.ptr, want.ptr, want.size);
}

static void assert_event(const struct kz_record *got, const struct kz_record *want)
{
    struct kz_event a, b;
    struct kz_err err;

    assert_int_equal(kz_event_decode(got, &a, &err), KZ_OK);
    assert_int_equal(kz_event_decode(want, &b, &err), KZ_OK);
    assert_int_equal(got->owner, want->owner);
    assert_int_equal(got->prev, want->prev);
    assert_int_equal(got->flags, want->flags);
    assert_int_equal(a.seq, b.seq);
    assert_int_equal(a.received_at_ms, b.received_at_ms);
    assert_int_equal(a.ts_ms, b.ts_ms);
    assert_int_equal(a.session, b.session);
    assert_int_equal(a.columns_id, b.columns_id);
    assert_str(a.name, b.name);
    if (a.columns_id != COLUMNS_ID)
        assert_str(a.props, b.props);
    for (unsigned i = 0; i < COLUMNS && a.columns_id == COLUMNS_ID; i += 2) {
        struct kz_value x = kz_event_column(got, i), y = kz_event_column(want, i);

        assert_int_equal(x.type, y.type);
        if (x.type == KZ_TYPE_TEXT)
            assert_str(x.text, y.text);
        else
            assert_memory_equal(&x.integer, &y.integer, sizeof(x.integer));
    }
}

static void compare(
        struct world *w, const struct kz_history_query *query, struct kz_history_cache *cache)
{
    struct kz_history_reader *reader = kz_log_reader(w->f.log);
    struct kz_history_query with = *query;
    struct kz_history_rows got, want;
    struct kz_err err = {0};

    with.cache = cache;
    must(reader->ops->scan(reader, query, &want, &err), &err);
    must(reader->ops->scan(reader, &with, &got, &err), &err);
    assert_int_equal(got.count, want.count);
    assert_int_equal(got.truncated, want.truncated);
    for (size_t i = 0; i < want.count; i++) {
        assert_int_equal(got.lsns[i], want.lsns[i]);
        assert_event(got.records[i], want.records[i]);
    }
    reader->ops->release(reader, &got);
    reader->ops->release(reader, &want);
}

static void ask(struct world *w)
{
    struct kz_prng *prng = &w->prng;
    struct kz_source sources[3];
    struct kz_history_query query = {
            .sources = sources,
            .chain = KZ_CHAIN_EVENTS,
            .as_of = UINT64_MAX,
            .events_max = (uint32_t[]){5, 20, 20, 20, 0}[kz_prng_below(prng, 5)],
            .since_ms = kz_prng_below(prng, 4) ? INT64_MIN
                                               : w->f.now_ms - (int64_t)kz_prng_below(prng, 20000),
            .include_actions = kz_prng_below(prng, 2),
    };
    size_t count = kz_prng_below(prng, 3) ? 1 : 1 + kz_prng_below(prng, 3);

    for (size_t i = 0; i < count; i++) {
        uint64_t owner = 1 + kz_prng_below(prng, OWNERS);
        struct head head = {owner, w->f.heads[owner]};

        if (w->head_count && !kz_prng_below(prng, 4))
            head = w->heads[kz_prng_below(prng, w->head_count)];
        if (!kz_prng_below(prng, 8))
            query.as_of = head.lsn;
        sources[query.source_count++] = (struct kz_source){head.owner, head.lsn};
    }
    compare(w, &query, w->large);
    compare(w, &query, w->small);
}

static void live(struct world *w, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        uint64_t owner = 1 + kz_prng_below(&w->prng, OWNERS);

        switch (kz_prng_below(&w->prng, 100)) {
        case 0:
            if (!kz_prng_below(&w->prng, 4))
                erase(w, owner);
            break;
        case 1:
            drop(w);
            break;
        case 2:
        case 3:
            kz_log_roll(w->f.log);
            break;
        case 4:
        case 5:
        case 6:
            seal(w, 0);
            break;
        case 7:
        case 8:
            append_note(w, owner);
            break;
        default:
            if (kz_prng_below(&w->prng, 2))
                append_event(w, owner);
            else
                ask(w);
        }
    }
}

static struct kz_log_stats stats_of(const struct world *w)
{
    struct kz_log_stats stats;

    kz_log_stats(w->f.log, &stats);
    return stats;
}

static uint64_t kept_bytes(const struct world *w)
{
    return stats_of(w).cached_bytes - w->empty_bytes;
}

static void open_world(struct world *w, uint64_t seed)
{
    struct kz_history_reader *reader;

    *w = (struct world){.f = {.fs = new_sim(seed), .now_ms = 1700000000000}};
    kz_prng_init(&w->prng, seed);
    open_log(&w->f);
    reader = kz_log_reader(w->f.log);
    w->large = reader->ops->cache_new(reader, &parts, 1 << 20);
    w->small = reader->ops->cache_new(reader, &parts, 3000);
    w->empty_bytes = stats_of(w).cached_bytes;
}

static void close_world(struct world *w)
{
    struct kz_history_reader *reader = kz_log_reader(w->f.log);
    struct kz_log_stats stats;

    reader->ops->cache_free(reader, w->large);
    reader->ops->cache_free(reader, w->small);
    kz_log_stats(w->f.log, &stats);
    assert_int_equal(stats.cached_bytes, 0);
    close_log(&w->f);
    kz_fs_sim_free(w->f.fs);
}

static void a_cache_changes_nothing(void **state)
{
    static struct world w;

    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct kz_log_stats stats;

        open_world(&w, seed);
        live(&w, 6000);
        kz_log_stats(w.f.log, &stats);
        assert_true(stats.events_cached_total > 3000);
        assert_true(stats.cache_dropped_total > 20);
        assert_true(stats.cached_bytes <= (1 << 20) + 3000);
        close_world(&w);
    }
}

/* ---- one thing each --------------------------------------------------------------------------- */

static uint64_t unsealed(struct world *w, uint64_t owner, uint32_t events_max, size_t rows_expected)
{
    struct kz_history_reader *reader = kz_log_reader(w->f.log);
    struct kz_source source = {owner, w->f.heads[owner]};
    struct kz_history_query query = {
            .sources = &source,
            .source_count = 1,
            .as_of = UINT64_MAX,
            .events_max = events_max,
            .since_ms = INT64_MIN,
            .include_actions = true,
            .cache = w->large,
    };
    struct kz_log_stats before, after;
    struct kz_history_rows rows;
    struct kz_err err = {0};

    kz_log_stats(w->f.log, &before);
    must(reader->ops->scan(reader, &query, &rows, &err), &err);
    assert_int_equal(rows.count, rows_expected);
    reader->ops->release(reader, &rows);
    kz_log_stats(w->f.log, &after);
    return after.events_unsealed_total - before.events_unsealed_total;
}

static void put_sealed(struct world *w, uint64_t owner, unsigned count)
{
    struct kz_err err = {0};

    for (unsigned i = 0; i < count; i++) {
        append_event(w, owner);
        kz_log_roll(w->f.log);
    }
    append_note(w, owner == 1 ? 2 : 1);
    must(kz_log_wait(w->f.log, &err), &err);
    for (unsigned i = 0; i < count; i++)
        seal(w, 0);
}

static void what_was_read_is_not_read_again(void **state)
{
    static struct world w;

    (void)state;
    open_world(&w, 1);
    put_sealed(&w, 1, 30);
    assert_int_equal(unsealed(&w, 1, 10, 10), 11); /* one more tells that there are more */
    assert_int_equal(unsealed(&w, 1, 10, 10), 0);
    assert_int_equal(unsealed(&w, 1, 20, 20), 10); /* it goes on behind what is kept */
    assert_int_equal(unsealed(&w, 1, 20, 20), 0);
    assert_int_equal(unsealed(&w, 1, 0, 30), 9);
    assert_int_equal(unsealed(&w, 1, 0, 30), 0);
    put_sealed(&w, 1, 3); /* too few to pack it anew */
    assert_int_equal(unsealed(&w, 1, 0, 33), 3);
    assert_int_equal(unsealed(&w, 1, 0, 33), 3);
    put_sealed(&w, 1, 1);
    assert_int_equal(unsealed(&w, 1, 10, 10), 4);
    assert_int_equal(unsealed(&w, 1, 10, 10), 0);
    assert_int_equal(unsealed(&w, 1, 20, 20), 0); /* the shorter question took nothing away */
    close_world(&w);
}

static void a_run_does_not_grow_beyond_what_is_asked(void **state)
{
    static struct world w;

    (void)state;
    open_world(&w, 2);
    for (unsigned i = 0; i < 40; i++) {
        put_sealed(&w, 1, 5);
        (void)unsealed(&w, 1, 10, i ? 10 : 5);
    }
    assert_in_range(kept_bytes(&w), 300, 1500); /* 11 events, not 200 */
    close_world(&w);
}

static void nobody_erased_is_kept(void **state)
{
    static struct world w;

    (void)state;
    open_world(&w, 3);
    put_sealed(&w, 1, 10);
    put_sealed(&w, 2, 10);
    (void)unsealed(&w, 1, 0, 10);
    (void)unsealed(&w, 2, 0, 10);
    erase(&w, 1);
    assert_int_equal(unsealed(&w, 1, 0, 0), 0);
    assert_int_equal(kept_bytes(&w), 0);
    assert_int_equal(unsealed(&w, 2, 0, 10), 10);
    close_world(&w);
}

/* Memory that may have been given back, past the compiler and the sanitizer. */
static void peek(const char *at, char *ret_bytes, size_t size)
{
    int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, ret_bytes, size, (off_t)(uintptr_t)at), size);
    close(fd);
}

static void who_is_forgotten_is_overwritten(void **state)
{
    /* The allocator writes to the first bytes of what it is given back. */
    enum { SIZE = 256, FROM = 32 };
    char before[SIZE], after[SIZE], zeros[SIZE] = {0};
    struct kz_history_reader *reader;
    struct kz_kept_run run;
    static struct world w;
    uint64_t both;

    (void)state;
    open_world(&w, 5);
    reader = kz_log_reader(w.f.log);
    put_sealed(&w, 1, 20);
    put_sealed(&w, 2, 20);
    (void)unsealed(&w, 1, 0, 20);
    (void)unsealed(&w, 2, 0, 20);
    both = kept_bytes(&w);
    run = *kz_cache_run(kz_cache_find(w.large, 1));
    assert_in_range(run.size, FROM + SIZE, both / 2 + SIZE);
    peek(run.bytes + FROM, before, SIZE);
    assert_memory_not_equal(before, zeros, SIZE);
    reader->ops->cache_forget(reader, w.large, 1);
    peek(run.bytes + FROM, after, SIZE);
    assert_memory_equal(after, zeros, SIZE);
    assert_null(kz_cache_find(w.large, 1));
    assert_in_range(kept_bytes(&w), both - run.size - SIZE, both - run.size);
    reader->ops->cache_forget(reader, w.large, 1); /* of whom nothing is there */
    reader->ops->cache_forget(reader, w.large, 7);
    assert_int_equal(unsealed(&w, 2, 0, 20), 0);
    close_world(&w);
}

static void what_a_cache_holds_is_within_its_limit(void **state)
{
    enum { LIMIT = 4 << 20 };
    static struct world w;
    struct kz_history_reader *reader;
    struct kz_history_cache *cache;

    (void)state;
    open_world(&w, 6);
    reader = kz_log_reader(w.f.log);
    cache = reader->ops->cache_new(reader, &parts, LIMIT);
    /* A table of 2,048 lists. */
    assert_in_range(kept_bytes(&w), 2048 * sizeof(void *), 2048 * sizeof(void *) + 256);
    for (uint64_t owner = 1; owner < 100000; owner++) {
        struct kz_kept_run run = {.owner = owner, .size = 100, .bytes = (char[100]){0}};

        kz_cache_put(cache, &run);
        assert_true(kept_bytes(&w) <= LIMIT);
    }
    assert_true(kept_bytes(&w) > LIMIT - 1000);
    reader->ops->cache_free(reader, cache);
    assert_int_equal(kept_bytes(&w), 0);
    cache = reader->ops->cache_new(reader, &parts, 1); /* not even the table */
    kz_cache_put(cache, &(struct kz_kept_run){.owner = 1, .size = 1, .bytes = ""});
    assert_null(kz_cache_find(cache, 1));
    reader->ops->cache_free(reader, cache);
    close_world(&w);
}

static uint64_t packed(struct world *w, uint32_t events_max, size_t rows_expected)
{
    uint64_t before = stats_of(w).events_packed_total;

    (void)unsealed(w, 1, events_max, rows_expected);
    return stats_of(w).events_packed_total - before;
}

/* What is asked for in vain behind a chain's end, or before too few new events, packs nothing. */
static void nothing_is_packed_that_is_not_put(void **state)
{
    static struct world w;

    (void)state;
    open_world(&w, 7);
    put_sealed(&w, 1, 30);
    assert_int_equal(packed(&w, 50, 30), 30);
    assert_int_equal(packed(&w, 50, 30), 0);
    put_sealed(&w, 1, 3);
    assert_int_equal(packed(&w, 50, 33), 3); /* as they are read */
    assert_int_equal(packed(&w, 10, 10), 3);
    put_sealed(&w, 1, 1);
    assert_int_equal(packed(&w, 50, 34), 34);
    assert_int_equal(packed(&w, 50, 34), 0);
    close_world(&w);
}

static void open_with_a_full_run(struct world *w, unsigned events)
{
    enum { SEGMENTS_MAX = 64 };

    open_world(w, 4);
    for (unsigned i = 0; i < events; i++)
        append_event(w, 1);
    kz_log_roll(w->f.log);
    put_sealed(w, 2, 1);
    for (unsigned i = 0; i < SEGMENTS_MAX; i++)
        seal(w, 0);
}

/* A full run goes with the times: it has the newest events, and its oldest go. */
static void a_full_run_has_the_newest(void **state)
{
    enum { EVENTS = 6000 };
    static struct world w;
    uint32_t count;

    (void)state;
    open_with_a_full_run(&w, EVENTS);
    assert_int_equal(unsealed(&w, 1, 0, EVENTS), EVENTS);
    count = kz_cache_run(kz_cache_find(w.large, 1))->count;
    for (unsigned i = 1; i <= 10; i++) {
        const struct kz_kept_run *run;

        put_sealed(&w, 1, 5);
        assert_in_range(unsealed(&w, 1, i % 2 ? 50 : 0, i % 2 ? 50 : EVENTS + 5 * i), 5, EVENTS);
        run = kz_cache_run(kz_cache_find(w.large, 1));
        assert_int_equal(run->newest, w.f.heads[1]);
        assert_in_range(run->count, count - 100, count + 100);
        assert_int_equal(unsealed(&w, 1, count - 100, count - 100), 0);
    }
    close_world(&w);
}

/* What lies behind a full run is read each time; the run is not packed and put again for that. */
static void a_full_run_is_put_once(void **state)
{
    enum { EVENTS = 6000 };
    static struct world w;
    const struct kz_kept *kept;
    uint64_t read;

    (void)state;
    open_with_a_full_run(&w, EVENTS);
    assert_int_equal(unsealed(&w, 1, 0, EVENTS), EVENTS);
    kept = kz_cache_find(w.large, 1);
    assert_non_null(kept);
    read = unsealed(&w, 1, 0, EVENTS);
    assert_in_range(read, 100, EVENTS - 100); /* it holds a part of them */
    assert_ptr_equal(kz_cache_find(w.large, 1), kept);
    assert_int_equal(unsealed(&w, 1, 0, EVENTS), read);
    assert_int_equal(packed(&w, 0, EVENTS), 0);
    assert_ptr_equal(kz_cache_find(w.large, 1), kept);
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(what_was_read_is_not_read_again),
            cmocka_unit_test(a_run_does_not_grow_beyond_what_is_asked),
            cmocka_unit_test(nobody_erased_is_kept),
            cmocka_unit_test(who_is_forgotten_is_overwritten),
            cmocka_unit_test(what_a_cache_holds_is_within_its_limit),
            cmocka_unit_test(nothing_is_packed_that_is_not_put),
            cmocka_unit_test(a_full_run_has_the_newest),
            cmocka_unit_test(a_full_run_is_put_once),
            cmocka_unit_test(a_cache_changes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
