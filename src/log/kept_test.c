/* Packed runs of events: what is put in comes out, in pieces, joined and cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "log/kept.h"
#include "sys/random.h"

enum { COLUMNS = 5, COLUMNS_ID = 77, OWNER = 42, EVENTS_MAX = 60 };

struct fixture {
    struct kz_prng prng;
    struct kz_arena arena;
    struct kz_buf scratch;
    struct kz_event_parts parts;
    size_t count; /* newest first */
    const struct kz_record *records[EVENTS_MAX];
    kz_lsn lsns[EVENTS_MAX];
};

static struct kz_str text(struct fixture *f, size_t size_max)
{
    size_t size = (size_t)kz_prng_below(&f->prng, size_max + 1);
    char *bytes = kz_arena_must(&f->arena, size + 1);

    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)kz_prng_below(&f->prng, 256);
    return kz_str_n(bytes, size);
}

/* Mostly small, sometimes anything. */
static uint64_t number(struct fixture *f)
{
    return kz_prng_u64(&f->prng) >> (kz_prng_below(&f->prng, 4) ? 40 : 0);
}

static struct kz_value value(struct fixture *f, struct kz_str props)
{
    struct kz_value v = {.type = (enum kz_type)kz_prng_below(&f->prng, KZ_TYPE_TEXT + 1)};
    uint64_t bits = kz_prng_u64(&f->prng); /* NaN, infinity and -0 are doubles, too */

    switch (v.type) {
    case KZ_TYPE_NULL:
        break;
    case KZ_TYPE_INT:
        v.integer = (int64_t)number(f);
        break;
    case KZ_TYPE_BOOL:
        v.integer = bits & 1;
        break;
    case KZ_TYPE_FLOAT:
        memcpy(&v.real, &bits, sizeof(v.real));
        break;
    case KZ_TYPE_TEXT:
        v.text = props.size > 4 && bits & 1 ? kz_str_n(props.ptr + 2, 2) : text(f, 20);
        break;
    }
    return v;
}

static const struct kz_record *make_record(struct fixture *f, kz_lsn prev)
{
    struct kz_value columns[COLUMNS];
    struct kz_event event = {
            .event_id = text(f, 20),
            .user_id = text(f, 8),
            .anonymous_id = text(f, 8),
            .name = text(f, 12),
            .props = text(f, 200),
            .ts_ms = (int64_t)number(f),
            .client_ts_ms = kz_prng_below(&f->prng, 3) ? (int64_t)number(f) : 0,
            .session = number(f),
            .identity = (enum kz_identity_op)kz_prng_below(&f->prng, 3),
            .columns_id = kz_prng_below(&f->prng, 8) ? COLUMNS_ID : COLUMNS_ID + 1,
            .column_count = (uint16_t)kz_prng_below(&f->prng, COLUMNS + 1),
            .columns = columns,
    };
    struct kz_buf body = {0};
    struct kz_record *record;

    for (int i = 0; i < COLUMNS; i++)
        columns[i] = value(f, event.props);
    kz_event_encode(&event, &body);
    record = kz_arena_must(&f->arena, sizeof(*record) + body.size);
    *record = (struct kz_record){
            .size = (uint32_t)(sizeof(*record) + body.size),
            .type = KZ_RECORD_EVENT,
            .flags = (uint8_t)kz_prng_below(&f->prng, 16),
            .project = (uint16_t)kz_prng_below(&f->prng, 2),
            .seq = number(f),
            .at_ms = (int64_t)number(f),
            .owner = OWNER,
            .prev = prev,
            .key = number(f),
    };
    memcpy(record + 1, body.data, body.size);
    kz_buf_done(&body);
    return record;
}

static void begin(struct fixture *f, uint64_t seed, size_t count)
{
    *f = (struct fixture){.count = count};
    kz_prng_init(&f->prng, seed);
    kz_arena_init(&f->arena, 0);
    f->parts = (struct kz_event_parts){
            .event_id = kz_prng_below(&f->prng, 2),
            .name = kz_prng_below(&f->prng, 2),
            .props = kz_prng_below(&f->prng, 2),
            .columns_id = COLUMNS_ID,
            .columns = kz_prng_below(&f->prng, 1 << COLUMNS),
    };
    for (size_t i = count; i-- > 0;)
        f->lsns[i] = KZ_LSN(1 + kz_prng_below(&f->prng, 3) + 3 * (count - i),
                8 * (1 + kz_prng_below(&f->prng, (1 << 29) - 1)));
    for (size_t i = 0; i < count; i++)
        f->records[i] = make_record(f, i + 1 < count ? f->lsns[i + 1] : 8 * number(f) % f->lsns[i]);
}

static void done(struct fixture *f)
{
    kz_buf_done(&f->scratch);
    kz_arena_done(&f->arena);
}

static void assert_str(struct kz_str got, struct kz_str want)
{
    assert_int_equal(got.size, want.size);
    if (want.size)
        assert_memory_equal(got.ptr, want.ptr, want.size);
}

static void assert_value(struct kz_value got, struct kz_value want)
{
    assert_int_equal(got.type, want.type);
    if (want.type == KZ_TYPE_TEXT)
        assert_str(got.text, want.text);
    else if (want.type != KZ_TYPE_NULL)
        assert_memory_equal(&got.integer, &want.integer, sizeof(got.integer));
}

/* K2 */
static void assert_same(const struct kz_event_parts *parts, const struct kz_record *got,
        const struct kz_record *want)
{
    struct kz_event a, b;
    struct kz_err err;
    bool replaced = parts->columns && kz_event_body(want)->columns_id != parts->columns_id;

    assert_int_equal(kz_event_decode(got, &a, &err), KZ_OK);
    assert_int_equal(kz_event_decode(want, &b, &err), KZ_OK);
    assert_int_equal(got->flags, want->flags);
    assert_int_equal(got->project, want->project);
    assert_int_equal(got->owner, want->owner);
    assert_int_equal(got->prev, want->prev);
    assert_int_equal(a.seq, b.seq);
    assert_int_equal(a.received_at_ms, b.received_at_ms);
    assert_int_equal(a.ts_ms, b.ts_ms);
    assert_int_equal(a.client_ts_ms, b.client_ts_ms);
    assert_int_equal(a.session, b.session);
    assert_int_equal(a.identity, b.identity);
    assert_int_equal(a.columns_id, b.columns_id);
    assert_str(a.event_id, parts->event_id ? b.event_id : KZ_STR_NULL);
    assert_str(a.name, parts->name ? b.name : KZ_STR_NULL);
    assert_str(a.props, parts->props || replaced ? b.props : KZ_STR_NULL);
    for (unsigned i = 0; !replaced && i < COLUMNS; i++)
        assert_value(kz_event_column(got, i), parts->columns >> i & 1
                                                      ? kz_event_column(want, i)
                                                      : (struct kz_value){.type = KZ_TYPE_NULL});
}

/* The run has the events from the `first` on, `count` of them. */
static void assert_run(
        struct fixture *f, const struct kz_kept_run *run, size_t first, size_t count, kz_lsn from)
{
    struct kz_kept_cursor cursor;
    const struct kz_record *record;
    kz_lsn lsn;
    size_t i = first;

    assert_int_equal(run->count, count);
    assert_int_equal(run->newest, f->lsns[first]);
    assert_int_equal(run->oldest, f->lsns[first + count - 1]);
    assert_int_equal(run->behind, f->records[first + count - 1]->prev);
    while (i < first + count && f->lsns[i] > from)
        i++;
    assert_int_equal(kz_kept_seek(&cursor, run, &f->parts, from), i < first + count);
    while ((record = kz_kept_prev(&cursor, &f->scratch, &f->arena, &lsn))) {
        assert_int_equal(lsn, f->lsns[i]);
        assert_same(&f->parts, record, f->records[i]);
        i++;
    }
    assert_int_equal(i, first + count);
    assert_int_equal(cursor.passed, count);
}

static void what_is_added_comes_out(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct fixture f;
        struct kz_kept_build build = {0};
        struct kz_kept_run run;

        begin(&f, seed, 1 + seed % EVENTS_MAX);
        kz_kept_begin(&build, OWNER);
        for (size_t i = 0; i < f.count; i++)
            kz_kept_add(&build, &f.parts, f.lsns[i], f.records[i]);
        run = kz_kept_built(&build);
        assert_run(&f, &run, 0, f.count, UINT64_MAX);
        assert_run(&f, &run, 0, f.count, f.lsns[f.count / 2]);
        assert_run(&f, &run, 0, f.count, f.lsns[f.count / 2] - 8);
        assert_run(&f, &run, 0, f.count, f.lsns[f.count - 1] - 8);
        kz_kept_build_done(&build);
        done(&f);
    }
}

static void newer_events_go_before_a_run_and_older_behind_it(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct fixture f;
        struct kz_kept_build old = {0}, build = {0};
        struct kz_kept_run run, joined;
        size_t fresh, end, kept;

        begin(&f, seed, 30);
        fresh = (size_t)kz_prng_below(&f.prng, 5);
        end = fresh + 1 + (size_t)kz_prng_below(&f.prng, 20);
        kept = 1 + (size_t)kz_prng_below(&f.prng, end - fresh + 2);
        kz_kept_begin(&old, OWNER);
        for (size_t i = fresh; i < end; i++)
            kz_kept_add(&old, &f.parts, f.lsns[i], f.records[i]);
        run = kz_kept_built(&old);
        kz_kept_begin(&build, OWNER);
        for (size_t i = 0; i < fresh; i++)
            kz_kept_add(&build, &f.parts, f.lsns[i], f.records[i]);
        kz_kept_join(&build, &f.parts, &run, (uint32_t)kept);
        end = KZ_MIN(end, fresh + kept);
        joined = kz_kept_built(&build);
        assert_run(&f, &joined, 0, end, UINT64_MAX);
        for (size_t i = end; i < f.count; i++)
            kz_kept_add(&build, &f.parts, f.lsns[i], f.records[i]);
        joined = kz_kept_built(&build);
        assert_run(&f, &joined, 0, f.count, UINT64_MAX);
        kz_kept_build_done(&old);
        kz_kept_build_done(&build);
        done(&f);
    }
}

static void what_does_not_follow_ends_the_run(void **state)
{
    struct fixture f;
    struct kz_kept_build build = {0};
    struct kz_kept_run run;
    struct kz_record note = {.size = sizeof(note), .type = KZ_RECORD_TRIGGER, .owner = OWNER};

    (void)state;
    begin(&f, 1, 10);
    kz_kept_begin(&build, OWNER);
    kz_kept_add(&build, &f.parts, f.lsns[0], f.records[0]);
    kz_kept_add(&build, &f.parts, f.lsns[2], f.records[2]); /* one is missing */
    kz_kept_add(&build, &f.parts, f.lsns[1], f.records[1]); /* too late */
    run = kz_kept_built(&build);
    assert_run(&f, &run, 0, 1, UINT64_MAX);
    kz_kept_begin(&build, OWNER + 1);
    kz_kept_add(&build, &f.parts, f.lsns[0], f.records[0]); /* somebody else's */
    assert_int_equal(kz_kept_built(&build).count, 0);
    kz_kept_begin(&build, OWNER);
    kz_kept_add(&build, &f.parts, f.lsns[0], &note);
    assert_int_equal(kz_kept_built(&build).count, 0);
    kz_kept_build_done(&build);
    done(&f);
}

static void a_run_has_a_limit(void **state)
{
    static char props[20000];
    struct fixture f;
    struct kz_kept_build old = {0}, build = {0};
    struct kz_kept_run run;

    (void)state;
    begin(&f, 2, 5);
    f.parts = (struct kz_event_parts){.props = true};
    for (size_t i = 0; i < f.count; i++) {
        struct kz_event event = {.name = KZ_STR("n"), .props = kz_str_n(props, sizeof(props))};
        struct kz_buf body = {0};
        struct kz_record *record;

        kz_event_encode(&event, &body);
        record = kz_arena_must(&f.arena, sizeof(*record) + body.size);
        *record = (struct kz_record){.size = (uint32_t)(sizeof(*record) + body.size),
                .type = KZ_RECORD_EVENT,
                .owner = OWNER,
                .prev = i + 1 < f.count ? f.lsns[i + 1] : 0};
        memcpy(record + 1, body.data, body.size);
        kz_buf_done(&body);
        f.records[i] = record;
    }
    kz_kept_begin(&old, OWNER);
    for (size_t i = 1; i < f.count; i++)
        kz_kept_add(&old, &f.parts, f.lsns[i], f.records[i]);
    run = kz_kept_built(&old);
    assert_run(&f, &run, 1, 3, UINT64_MAX); /* 3 of 20,000 bytes are below 64 KiB */
    kz_kept_begin(&build, OWNER);
    kz_kept_add(&build, &f.parts, f.lsns[0], f.records[0]);
    kz_kept_join(&build, &f.parts, &run, UINT32_MAX);
    kz_kept_add(&build, &f.parts, f.lsns[4], f.records[4]);
    run = kz_kept_built(&build);
    assert_run(&f, &run, 0, 3, UINT64_MAX);
    assert_true(run.size <= KZ_KEPT_RUN_BYTES_MAX);
    kz_kept_build_done(&old);
    kz_kept_build_done(&build);
    done(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(what_is_added_comes_out),
            cmocka_unit_test(newer_events_go_before_a_run_and_older_behind_it),
            cmocka_unit_test(what_does_not_follow_ends_the_run),
            cmocka_unit_test(a_run_has_a_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
