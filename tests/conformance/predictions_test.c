/* What contract/predictions.h promises, for every backend: the same cases over memory and over
 * Bigtable's emulator (skipped where BIGTABLE_EMULATOR_HOST is not set). Two handles on one store
 * stand for two processes; each case has a store of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backends/bigtable/bigtable.h"
#include "backends/memory/predictions.h"
#include "rpc/rpc.h"

struct fixture {
    struct kz_rpc *rpc;
    struct kz_predictions *p, *q; /* NULL: the backend's service is not there */
    struct kz_user_row row;
    struct kz_err err;
};

/* ---- backends -------------------------------------------------------------------------------- */

static int set_up_memory(void **state)
{
    struct fixture *f = kz_calloc(1, sizeof(*f));

    f->p = f->q = kz_memory_predictions_new();
    *state = f;
    return 0;
}

static int set_up_bigtable(void **state)
{
    static int number;
    struct fixture *f = kz_calloc(1, sizeof(*f));
    char table[50];
    const struct kz_bigtable_options template = {
            .project = "kizashi-test", .instance = "conformance", .table = table};
    struct kz_bigtable_options options = template;

    *state = f;
    if (!getenv("BIGTABLE_EMULATOR_HOST"))
        return 0;
    snprintf(table, sizeof(table), "kizashi_%d_%d", (int)getpid(), number++);
    assert_int_equal(kz_rpc_open(&f->rpc, NULL), KZ_OK);
    options.rpc = f->rpc;
    assert_int_equal(kz_bigtable_open(&options, &f->p, NULL), KZ_OK);
    assert_int_equal(kz_bigtable_open(&options, &f->q, NULL), KZ_OK);
    if (f->p->ops->create(f->p, NULL, NULL, &f->err) != KZ_OK)
        fail_msg("%s", f->err.message);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    if (f->q && f->q != f->p)
        f->q->ops->close(f->q);
    if (f->p)
        f->p->ops->close(f->p);
    kz_rpc_close(f->rpc);
    kz_buf_done(&f->row.bytes);
    free(f);
    return 0;
}

static struct fixture *start(void **state)
{
    struct fixture *f = *state;

    if (!f->p)
        skip();
    return f;
}

/* ---- helpers --------------------------------------------------------------------------------- */

static const struct kz_predictions_read everything = {.entries_max = UINT32_MAX};

static void read_row(struct fixture *f, uint64_t owner, const struct kz_predictions_read *what)
{
    if (f->p->ops->read(f->p, owner, what, &f->row, &f->err) != KZ_OK)
        fail_msg("%s", f->err.message);
}

static enum kz_code write_row(struct fixture *f, uint64_t owner, const char *expected,
        const char *state, const struct kz_entry *entries, size_t count)
{
    f->err.message[0] = '\0';
    return f->p->ops->write(f->p, owner, kz_str(expected), kz_str(state), entries, count, &f->err);
}

#define WRITE(f, owner, expected, state, entries, count)                                           \
    do {                                                                                           \
        if (write_row(f, owner, expected, state, entries, count) != KZ_OK)                         \
            fail_msg("%s", (f)->err.message);                                                      \
    } while (0)

static struct kz_entry entry(uint64_t request, uint64_t seq, const char *record)
{
    return (struct kz_entry){.request = request,
            .seq = seq,
            .type = KZ_RECORD_RESULT,
            .at_ms = 1700000000000 + (int64_t)seq,
            .record = kz_str(record)};
}

static void expect_state(struct fixture *f, uint64_t owner, const char *state)
{
    read_row(f, owner, &everything);
    assert_int_equal(f->row.there, state[0] != '\0');
    assert_int_equal(f->row.state.size, strlen(state));
    assert_true(kz_str_is(f->row.state, state));
}

/* The seqs of the row last read, "9 7 5 ". */
static const char *seqs(struct fixture *f)
{
    static char text[200];
    size_t used = 0;

    text[0] = '\0';
    for (size_t i = 0; i < f->row.entry_count; i++)
        used += (size_t)snprintf(
                text + used, sizeof(text) - used, "%" PRIu64 " ", f->row.entries[i].seq);
    return text;
}

/* ---- users ----------------------------------------------------------------------------------- */

static void nobody_is_an_empty_row(void **state)
{
    struct fixture *f = start(state);

    read_row(f, 4711, &everything);
    assert_false(f->row.there);
    assert_int_equal(f->row.state.size, 0);
    assert_int_equal(f->row.entry_count, 0);
}

static void what_is_written_is_read(void **state)
{
    struct fixture *f = start(state);
    struct kz_entry entries[] = {entry(10, 11, "first"), entry(10, 12, ""), entry(20, 30, "later")};
    static const char bytes[] = "\0\xff\x01 any bytes\n";

    entries[1].type = KZ_RECORD_DECISION;
    entries[1].record = kz_str_n(bytes, sizeof(bytes));
    entries[1].at_ms = -1;
    WRITE(f, 1, "", "state one", entries, 3);
    read_row(f, 1, &everything);
    assert_true(f->row.there);
    assert_true(kz_str_is(f->row.state, "state one"));
    assert_string_equal(seqs(f), "30 12 11 ");
    assert_int_equal(f->row.entries[0].request, 20);
    assert_int_equal(f->row.entries[0].type, KZ_RECORD_RESULT);
    assert_int_equal(f->row.entries[0].at_ms, 1700000000030);
    assert_true(kz_str_is(f->row.entries[0].record, "later"));
    assert_int_equal(f->row.entries[1].type, KZ_RECORD_DECISION);
    assert_int_equal(f->row.entries[1].at_ms, -1);
    assert_true(kz_str_eq(f->row.entries[1].record, entries[1].record));
    for (size_t i = 0; i < 3; i++)
        assert_int_equal((uintptr_t)f->row.entries[i].record.ptr % 8, 0);
}

static void a_write_that_expects_another_state_changes_nothing(void **state)
{
    struct fixture *f = start(state);
    const struct kz_entry one = entry(1, 2, "one"), two = entry(1, 3, "two");

    WRITE(f, 1, "", "a", &one, 1);
    assert_int_equal(write_row(f, 1, "", "b", &two, 1), KZ_CONFLICT);
    assert_non_null(strstr(f->err.message, "was changed meanwhile"));
    assert_int_equal(write_row(f, 1, "c", "b", &two, 1), KZ_CONFLICT);
    assert_int_equal(write_row(f, 2, "a", "b", &two, 1), KZ_CONFLICT);
    expect_state(f, 1, "a");
    assert_string_equal(seqs(f), "2 ");
    expect_state(f, 2, "");
    WRITE(f, 1, "a", "b", &two, 1);
    expect_state(f, 1, "b");
    assert_string_equal(seqs(f), "3 2 ");
    /* A beginning, or what it is the beginning of, is another state. */
    assert_int_equal(write_row(f, 1, "bb", "x", NULL, 0), KZ_CONFLICT);
    WRITE(f, 1, "b", "bb", NULL, 0);
    assert_int_equal(write_row(f, 1, "b", "x", NULL, 0), KZ_CONFLICT);
}

static void a_retry_finds_its_own_write(void **state)
{
    struct fixture *f = start(state);
    const struct kz_entry one = entry(1, 2, "one");

    WRITE(f, 1, "", "a", &one, 1);
    WRITE(f, 1, "", "a", &one, 1);
    WRITE(f, 1, "a", "b", NULL, 0);
    WRITE(f, 1, "a", "b", NULL, 0);
    expect_state(f, 1, "b");
    assert_string_equal(seqs(f), "2 ");
    /* What came in between is not its own. */
    WRITE(f, 1, "b", "c", NULL, 0);
    assert_int_equal(write_row(f, 1, "a", "b", NULL, 0), KZ_CONFLICT);
}

static void the_same_entry_again_replaces_it(void **state)
{
    struct fixture *f = start(state);
    struct kz_entry one = entry(1, 2, "one"), two = entry(1, 3, "two"), both[2];

    WRITE(f, 1, "", "a", &one, 1);
    one.record = KZ_STR("one, again");
    both[0] = two;
    both[1] = one;
    WRITE(f, 1, "a", "b", both, 2);
    read_row(f, 1, &everything);
    assert_string_equal(seqs(f), "3 2 ");
    assert_true(kz_str_is(f->row.entries[1].record, "one, again"));
    one.record = KZ_STR_NULL; /* a removal */
    WRITE(f, 1, "b", "c", &one, 1);
    expect_state(f, 1, "c");
    assert_string_equal(seqs(f), "3 ");
    WRITE(f, 1, "c", "d", &one, 1); /* of what is not there */
    expect_state(f, 1, "d");
    assert_string_equal(seqs(f), "3 ");
}

static void big_states(void **state)
{
    struct fixture *f = start(state);
    struct kz_buf big = {0}, bigger = {0};
    struct kz_entry large = entry(1, 2, "");

    memset(kz_buf_extend(&big, KZ_STATE_SIZE_MAX), 'x', KZ_STATE_SIZE_MAX);
    memset(kz_buf_extend(&bigger, KZ_STATE_SIZE_MAX + 1), 'y', KZ_STATE_SIZE_MAX + 1);
    large.record = kz_str_n(bigger.data, KZ_STATE_SIZE_MAX);
    if (f->p->ops->write(f->p, 1, KZ_STR_NULL, kz_buf_view(&big), &large, 1, &f->err) != KZ_OK)
        fail_msg("%s", f->err.message);
    read_row(f, 1, &everything);
    assert_true(kz_str_eq(f->row.state, kz_buf_view(&big)));
    assert_int_equal(f->row.entry_count, 1);
    assert_true(kz_str_eq(f->row.entries[0].record, large.record));
    /* Another state of that size, told apart by its last byte. */
    big.data[KZ_STATE_SIZE_MAX - 1] = 'z';
    assert_int_equal(
            f->p->ops->write(f->p, 1, kz_buf_view(&big), KZ_STR("s"), NULL, 0, NULL), KZ_CONFLICT);
    big.data[KZ_STATE_SIZE_MAX - 1] = 'x';
    assert_int_equal(
            f->p->ops->write(f->p, 1, kz_buf_view(&big), KZ_STR("s"), NULL, 0, NULL), KZ_OK);
    assert_int_equal(f->p->ops->write(f->p, 1, KZ_STR("s"), kz_buf_view(&bigger), NULL, 0, NULL),
            KZ_TOO_LARGE);
    large.record = kz_buf_view(&bigger);
    assert_int_equal(write_row(f, 1, "s", "t", &large, 1), KZ_TOO_LARGE);
    expect_state(f, 1, "s");
    kz_buf_done(&big);
    kz_buf_done(&bigger);
}

static void many_entries(void **state)
{
    enum { COUNT = KZ_ENTRIES_PUT_MAX };
    struct fixture *f = start(state);
    struct kz_entry *entries = kz_calloc(COUNT + 1, sizeof(*entries));

    for (uint64_t i = 0; i <= COUNT; i++)
        entries[i] = entry(1 + i / 2, 1000000 + i, "a record of some bytes");
    assert_int_equal(write_row(f, 1, "", "a", entries, COUNT + 1), KZ_TOO_LARGE);
    expect_state(f, 1, "");
    WRITE(f, 1, "", "a", entries, COUNT);
    read_row(f, 1, &everything);
    assert_int_equal(f->row.entry_count, COUNT);
    for (uint64_t i = 0; i < COUNT; i++) {
        assert_int_equal(f->row.entries[i].seq, 1000000 + COUNT - 1 - i);
        assert_int_equal(f->row.entries[i].request, 1 + (COUNT - 1 - i) / 2);
    }
    free(entries);
}

static void a_read_takes_what_it_asks_for(void **state)
{
    struct fixture *f = start(state);
    const struct kz_entry entries[] = {entry(10, 11, "a"), entry(10, 40, "b"), entry(20, 21, "c"),
            entry(20, 30, "d"), entry(21, 31, "e"), entry(0x0a, 0xaaaaaaaaaaaaaaaa, "f"),
            entry(UINT64_MAX - 1, UINT64_MAX, "g")};

    WRITE(f, 1, "", "s", entries, KZ_ARRAY_COUNT(entries));
    read_row(f, 1, &(struct kz_predictions_read){.entries_max = 0});
    assert_true(kz_str_is(f->row.state, "s"));
    assert_string_equal(seqs(f), "");
    read_row(f, 1, &(struct kz_predictions_read){.entries_max = 3});
    assert_true(kz_str_is(f->row.state, "s"));
    assert_string_equal(seqs(f), "18446744073709551615 12297829382473034410 40 ");
    read_row(f, 1, &(struct kz_predictions_read){.entries_max = 9, .request = 20});
    assert_true(kz_str_is(f->row.state, "s"));
    assert_string_equal(seqs(f), "30 21 ");
    read_row(f, 1, &(struct kz_predictions_read){.entries_max = 1, .request = 20});
    assert_string_equal(seqs(f), "30 ");
    read_row(f, 1, &(struct kz_predictions_read){.entries_max = 9, .request = 10});
    assert_string_equal(seqs(f), "12297829382473034410 40 11 ");
    read_row(f, 1, &(struct kz_predictions_read){.entries_max = 9, .request = UINT64_MAX - 1});
    assert_string_equal(seqs(f), "18446744073709551615 ");
    read_row(f, 1, &(struct kz_predictions_read){.entries_max = 9, .request = 22});
    assert_true(kz_str_is(f->row.state, "s"));
    assert_string_equal(seqs(f), "");
}

static void erase_takes_one_user(void **state)
{
    struct fixture *f = start(state);
    const struct kz_entry one = entry(1, 2, "one");

    WRITE(f, 1, "", "a", &one, 1);
    WRITE(f, 2, "", "b", &one, 1);
    assert_int_equal(f->p->ops->erase(f->p, 1, NULL), KZ_OK);
    assert_int_equal(f->p->ops->erase(f->p, 1, NULL), KZ_OK);
    expect_state(f, 1, "");
    assert_string_equal(seqs(f), "");
    expect_state(f, 2, "b");
    assert_int_equal(write_row(f, 1, "a", "c", NULL, 0), KZ_CONFLICT);
    WRITE(f, 1, "", "c", NULL, 0);
    expect_state(f, 1, "c");
}

static void rules_of_arguments(void **state)
{
    struct fixture *f = start(state);
    const struct kz_entry early = entry(5, 5, "x"), none = entry(0, 5, "x");
    struct kz_entry nameless = entry(5, 6, "x");
    bool held;

    nameless.json = KZ_STR("{}");
    assert_int_equal(write_row(f, 1, "", "", NULL, 0), KZ_INVALID);
    assert_int_equal(write_row(f, 1, "", "a", &early, 1), KZ_INVALID);
    assert_int_equal(write_row(f, 1, "", "a", &none, 1), KZ_INVALID);
    assert_int_equal(write_row(f, 1, "", "a", &nameless, 1), KZ_INVALID);
    assert_int_equal(
            f->p->ops->reserve(f->p, 1, 1, 0, 0, KZ_TOTALS_MAX + 1, &held, NULL), KZ_INVALID);
    expect_state(f, 1, "");
}

/* ---- many at once ---------------------------------------------------------------------------- */

enum { THREADS = 8 };

struct adder {
    struct kz_predictions *p;
    unsigned thread, rounds, conflicts, failures;
    char problem[200];
};

/* Adds one to the number that leads the state; the rest of it is nobody else's. */
static bool add_one(struct adder *a, unsigned round)
{
    static const struct kz_predictions_read state_only = {.entries_max = 0};
    struct kz_user_row row = {0};
    struct kz_err err = {0};
    enum kz_code rc;

    for (;;) {
        char text[64], record[32];
        uint64_t next;
        struct kz_entry made;

        rc = a->p->ops->read(a->p, 99, &state_only, &row, &err);
        if (rc != KZ_OK)
            break;
        snprintf(text, sizeof(text), KZ_STR_FMT, KZ_STR_ARG(row.state));
        next = strtoull(text, NULL, 10) + 1;
        snprintf(text, sizeof(text), "%" PRIu64 " %u.%u", next, a->thread, round);
        snprintf(record, sizeof(record), "%u.%u", a->thread, round);
        made = entry(1, 1 + next, record);
        rc = a->p->ops->write(a->p, 99, row.state, kz_str(text), &made, 1, &err);
        if (rc != KZ_CONFLICT)
            break;
        a->conflicts++;
    }
    kz_buf_done(&row.bytes);
    if (rc != KZ_OK)
        snprintf(a->problem, sizeof(a->problem), "%s", err.message);
    return rc == KZ_OK;
}

static void *add_many(void *arg)
{
    struct adder *a = arg;

    for (unsigned i = 0; i < a->rounds; i++)
        a->failures += !add_one(a, i);
    return NULL;
}

static void no_update_is_lost(void **state)
{
    enum { ROUNDS = 15 };
    struct fixture *f = start(state);
    struct adder adders[THREADS];
    pthread_t threads[THREADS];
    bool seen[THREADS][ROUNDS] = {{0}};
    char expected[16];

    for (unsigned i = 0; i < THREADS; i++) {
        adders[i] = (struct adder){.p = i % 2 ? f->p : f->q, .thread = i, .rounds = ROUNDS};
        assert_int_equal(pthread_create(&threads[i], NULL, add_many, &adders[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_string_equal(adders[i].problem, "");
        assert_int_equal(adders[i].failures, 0);
    }
    read_row(f, 99, &everything);
    snprintf(expected, sizeof(expected), "%d ", THREADS * ROUNDS);
    assert_true(kz_str_starts(f->row.state, expected));
    assert_int_equal(f->row.entry_count, THREADS * ROUNDS);
    for (size_t i = 0; i < f->row.entry_count; i++) {
        unsigned thread, round;
        char text[32];

        snprintf(text, sizeof(text), KZ_STR_FMT, KZ_STR_ARG(f->row.entries[i].record));
        assert_int_equal(sscanf(text, "%u.%u", &thread, &round), 2);
        assert_false(seen[thread][round]);
        seen[thread][round] = true;
    }
}

/* ---- totals ---------------------------------------------------------------------------------- */

static bool reserve(struct kz_predictions *p, uint64_t action, uint64_t id, int64_t at_ms,
        int64_t since_ms, uint32_t max)
{
    struct kz_err err = {0};
    bool held = false;

    if (p->ops->reserve(p, action, id, at_ms, since_ms, max, &held, &err) != KZ_OK)
        fail_msg("%s", err.message);
    return held;
}

static void caps_in_total(void **state)
{
    struct fixture *f = start(state);

    assert_true(reserve(f->p, 7, 100, 1000, 0, 2));
    assert_true(reserve(f->q, 7, 101, 1001, 0, 2));
    assert_false(reserve(f->p, 7, 102, 1002, 0, 2));
    assert_false(reserve(f->q, 7, 103, 1002, 0, 2));
    /* Again: it is there. */
    assert_true(reserve(f->q, 7, 100, 1003, 0, 2));
    assert_true(reserve(f->p, 7, 101, 1003, 0, 2));
    /* Another cap. */
    assert_true(reserve(f->p, 8, 102, 1002, 0, 1));
    /* Taken back by the other process. */
    assert_int_equal(f->q->ops->release(f->q, 7, 100, NULL), KZ_OK);
    assert_int_equal(f->q->ops->release(f->q, 7, 100, NULL), KZ_OK);
    assert_int_equal(f->q->ops->release(f->q, 7, 4711, NULL), KZ_OK);
    assert_true(reserve(f->p, 7, 102, 1004, 0, 2));
    assert_false(reserve(f->p, 7, 100, 1005, 0, 2));
    /* A larger cap, none at all. */
    assert_true(reserve(f->p, 7, 100, 1005, 0, 3));
    assert_false(reserve(f->p, 9, 1, 1, 0, 0));
}

static void caps_count_in_a_window(void **state)
{
    struct fixture *f = start(state);

    assert_true(reserve(f->p, 7, 1, 1000, 500, 2));
    assert_true(reserve(f->p, 7, 2, 2000, 500, 2));
    assert_false(reserve(f->q, 7, 3, 2500, 1000, 2)); /* at the edge is in */
    assert_true(reserve(f->q, 7, 3, 2500, 1001, 2));
    assert_false(reserve(f->p, 7, 4, 2600, 1500, 2));
    assert_true(reserve(f->p, 7, 4, 9000, 8000, 2));
    assert_true(reserve(f->q, 7, 5, 9001, 8000, 2));
    assert_false(reserve(f->q, 7, 6, 9002, 8000, 2));
}

struct grabber {
    struct kz_predictions *p;
    atomic_int *holding, *most;
    unsigned thread, rounds, held, failures;
    uint32_t max;
    bool release;
};

static void *grab(void *arg)
{
    struct grabber *g = arg;

    for (unsigned i = 0; i < g->rounds; i++) {
        const uint64_t id = 1000 * (g->thread + 1) + i;
        bool held = false;
        int now, most;

        if (g->p->ops->reserve(g->p, 5, id, 1000, 0, g->max, &held, NULL) != KZ_OK)
            g->failures++;
        if (!held)
            continue;
        g->held++;
        now = atomic_fetch_add(g->holding, 1) + 1;
        most = atomic_load(g->most);
        while (now > most && !atomic_compare_exchange_weak(g->most, &most, now))
            ;
        if (!g->release)
            continue;
        /* Before it is given back, so that what we count is never more than what is held. */
        atomic_fetch_sub(g->holding, 1);
        if (g->p->ops->release(g->p, 5, id, NULL) != KZ_OK)
            g->failures++;
    }
    return NULL;
}

static unsigned grab_all(
        struct fixture *f, unsigned rounds, uint32_t max, bool release, int *ret_most)
{
    atomic_int holding = 0, most = 0;
    struct grabber grabbers[THREADS];
    pthread_t threads[THREADS];
    unsigned held = 0;

    for (unsigned i = 0; i < THREADS; i++) {
        grabbers[i] = (struct grabber){.p = i % 2 ? f->p : f->q,
                .holding = &holding,
                .most = &most,
                .thread = i,
                .rounds = rounds,
                .max = max,
                .release = release};
        assert_int_equal(pthread_create(&threads[i], NULL, grab, &grabbers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(grabbers[i].failures, 0);
        held += grabbers[i].held;
    }
    *ret_most = most;
    return held;
}

static void a_cap_is_reached_and_never_passed(void **state)
{
    struct fixture *f = start(state);
    int most;

    assert_int_equal(grab_all(f, 20, 50, false, &most), 50);
    assert_int_equal(most, 50);
    assert_false(reserve(f->p, 5, 1, 1000, 0, 50));
}

static void a_cap_holds_while_others_give_back(void **state)
{
    struct fixture *f = start(state);
    int most;

    assert_true(grab_all(f, 20, 3, true, &most) >= 20);
    assert_true(most <= 3);
    assert_true(reserve(f->p, 5, 1, 1000, 0, 3));
    assert_true(reserve(f->p, 5, 2, 1000, 0, 3));
    assert_true(reserve(f->p, 5, 3, 1000, 0, 3));
    assert_false(reserve(f->p, 5, 4, 1000, 0, 3));
}

/* ---- words ----------------------------------------------------------------------------------- */

static void expect_word(struct fixture *f, const char *name, const char *value)
{
    struct kz_buf out = {0};

    kz_buf_cstr(&out, "left over");
    if (f->q->ops->word(f->q, name, &out, &f->err) != KZ_OK)
        fail_msg("%s", f->err.message);
    assert_int_equal(out.size, strlen(value));
    assert_true(kz_str_is(kz_buf_view(&out), value));
    kz_buf_done(&out);
}

static enum kz_code set_word(
        struct fixture *f, const char *name, const char *expected, const char *value)
{
    return f->p->ops->set_word(f->p, name, kz_str(expected), kz_str(value), &f->err);
}

static void words(void **state)
{
    struct fixture *f = start(state);

    expect_word(f, "pause", "");
    assert_int_equal(set_word(f, "pause", "", "purchase"), KZ_OK);
    assert_int_equal(set_word(f, "pause", "", "purchase"), KZ_OK); /* its own */
    expect_word(f, "pause", "purchase");
    expect_word(f, "paus", "");
    expect_word(f, "pauses", "");
    assert_int_equal(set_word(f, "pause", "", "other"), KZ_CONFLICT);
    assert_int_equal(set_word(f, "pause", "other", "x"), KZ_CONFLICT);
    expect_word(f, "pause", "purchase");
    assert_int_equal(set_word(f, "Some other/name.", "", "2"), KZ_OK);
    assert_int_equal(set_word(f, "pause", "purchase", "both"), KZ_OK);
    expect_word(f, "pause", "both");
    assert_int_equal(set_word(f, "pause", "both", ""), KZ_OK);
    assert_int_equal(set_word(f, "pause", "both", ""), KZ_OK);
    expect_word(f, "pause", "");
    expect_word(f, "Some other/name.", "2");
    assert_int_equal(set_word(f, "pause", "", "anew"), KZ_OK);
    expect_word(f, "pause", "anew");
}

/* ---- scans ----------------------------------------------------------------------------------- */

struct seen {
    uint64_t owners[1000];
    size_t count, entries;
    size_t stop_at; /* 0: not */
    enum kz_code stop_with;
    bool wrong;
};

static enum kz_code see(void *arg, uint64_t owner, const struct kz_user_row *row)
{
    struct seen *seen = arg;
    char state[32];

    snprintf(state, sizeof(state), "of %" PRIu64, owner);
    seen->wrong |= !row->there || !kz_str_is(row->state, state);
    for (size_t i = 0; i < row->entry_count; i++)
        seen->wrong |= !kz_str_is(row->entries[i].record, state);
    seen->entries += row->entry_count;
    seen->owners[seen->count++ % 1000] = owner;
    return seen->count == seen->stop_at ? seen->stop_with : KZ_OK;
}

static enum kz_code scan(struct fixture *f, uint64_t from, uint64_t until, struct seen *seen)
{
    return f->p->ops->scan(f->p, from, until, see, seen, &f->err);
}

static void put_owner(struct fixture *f, uint64_t owner, size_t entry_count)
{
    struct kz_entry entries[4];
    char text[32];

    snprintf(text, sizeof(text), "of %" PRIu64, owner);
    for (size_t i = 0; i < entry_count; i++)
        entries[i] = entry(1, 2 + i, text);
    WRITE(f, owner, "", text, entries, entry_count);
}

static void scan_is_in_order(void **state)
{
    static const uint64_t owners[] = {1, 9, 10, 255, 256, 0x7fffffffffffffff, 0x8000000000000000,
            0xa000000000000000, UINT64_MAX};
    struct fixture *f = start(state);
    struct seen seen = {.count = 0};

    for (size_t i = KZ_ARRAY_COUNT(owners); i > 0; i--)
        put_owner(f, owners[i - 1], i % 3);
    /* What is not a user's is not shown. */
    assert_true(reserve(f->p, 7, 100, 1000, 0, 2));
    assert_int_equal(set_word(f, "pause", "", "x"), KZ_OK);
    assert_int_equal(scan(f, 0, 0, &seen), KZ_OK);
    assert_false(seen.wrong);
    assert_int_equal(seen.count, KZ_ARRAY_COUNT(owners));
    assert_memory_equal(seen.owners, owners, sizeof(owners));
    assert_int_equal(seen.entries, 1 + 2 + 0 + 1 + 2 + 0 + 1 + 2 + 0);

    seen = (struct seen){.count = 0};
    assert_int_equal(scan(f, 9, 256, &seen), KZ_OK);
    assert_int_equal(seen.count, 3);
    assert_memory_equal(seen.owners, &owners[1], 3 * sizeof(owners[0]));
    seen = (struct seen){.count = 0};
    assert_int_equal(scan(f, 0xa000000000000001, 0, &seen), KZ_OK);
    assert_int_equal(seen.count, 1);
    assert_true(seen.owners[0] == UINT64_MAX);
    seen = (struct seen){.count = 0};
    assert_int_equal(scan(f, 11, 255, &seen), KZ_OK);
    assert_int_equal(scan(f, 300, 200, &seen), KZ_OK);
    assert_int_equal(scan(f, 9, 9, &seen), KZ_OK);
    assert_int_equal(seen.count, 0);
}

static void scan_ends_where_it_is_told(void **state)
{
    struct fixture *f = start(state);
    struct seen seen = {.stop_at = 2, .stop_with = KZ_END};

    for (uint64_t owner = 1; owner <= 300; owner++)
        put_owner(f, owner, 1);
    assert_int_equal(scan(f, 0, 0, &seen), KZ_END);
    assert_int_equal(seen.count, 2);
    seen = (struct seen){.stop_at = 3, .stop_with = KZ_NO_SPACE};
    assert_int_equal(scan(f, 0, 0, &seen), KZ_NO_SPACE);
    assert_int_equal(seen.count, 3);
    seen = (struct seen){.count = 0};
    assert_int_equal(scan(f, 0, 0, &seen), KZ_OK);
    assert_int_equal(seen.count, 300);
    assert_int_equal(seen.entries, 300);
    assert_false(seen.wrong);
}

struct reader {
    struct fixture *f;
    size_t count;
};

static enum kz_code read_within(void *arg, uint64_t owner, const struct kz_user_row *row)
{
    struct reader *reader = arg;

    read_row(reader->f, owner, &everything);
    assert_true(kz_str_eq(reader->f->row.state, row->state));
    reader->count++;
    return KZ_OK;
}

static void a_scan_may_read(void **state)
{
    struct fixture *f = start(state);
    struct reader reader = {.f = f};

    for (uint64_t owner = 1; owner <= 5; owner++)
        put_owner(f, owner, 1);
    assert_int_equal(f->p->ops->scan(f->p, 0, 0, read_within, &reader, NULL), KZ_OK);
    assert_int_equal(reader.count, 5);
}

/* ---- the rest -------------------------------------------------------------------------------- */

static void check_and_create_again(void **state)
{
    struct fixture *f = start(state);

    WRITE(f, 1, "", "a", NULL, 0);
    if (f->p->ops->check(f->p, &f->err) != KZ_OK)
        fail_msg("%s", f->err.message);
    if (f->p->ops->create(f->p, NULL, NULL, &f->err) != KZ_OK)
        fail_msg("%s", f->err.message);
    assert_int_equal(f->p->ops->check(f->p, NULL), KZ_OK);
    expect_state(f, 1, "a");
}

static void stats_count(void **state)
{
    struct fixture *f = start(state);
    const struct kz_entry one = entry(1, 2, "0123456789");
    struct kz_predictions_stats before, after;

    f->p->ops->stats(f->p, &before);
    WRITE(f, 1, "", "a", &one, 1);
    assert_int_equal(write_row(f, 1, "", "b", NULL, 0), KZ_CONFLICT);
    read_row(f, 1, &everything);
    f->p->ops->stats(f->p, &after);
    assert_int_equal(after.writes - before.writes, 2);
    assert_int_equal(after.conflicts - before.conflicts, 1);
    assert_true(after.reads - before.reads >= 1);
    assert_true(after.rows_read - before.rows_read >= 1);
    assert_true(after.bytes_written - before.bytes_written >= 11);
    assert_int_equal(after.retries, 0);
    assert_false(after.throttled);
    assert_string_equal(after.problem, "");
}

#define CASES(X)                                                                                   \
    X(nobody_is_an_empty_row)                                                                      \
    X(what_is_written_is_read)                                                                     \
    X(a_write_that_expects_another_state_changes_nothing)                                          \
    X(a_retry_finds_its_own_write)                                                                 \
    X(the_same_entry_again_replaces_it)                                                            \
    X(big_states)                                                                                  \
    X(many_entries)                                                                                \
    X(a_read_takes_what_it_asks_for)                                                               \
    X(erase_takes_one_user)                                                                        \
    X(rules_of_arguments)                                                                          \
    X(no_update_is_lost)                                                                           \
    X(caps_in_total)                                                                               \
    X(caps_count_in_a_window)                                                                      \
    X(a_cap_is_reached_and_never_passed)                                                           \
    X(a_cap_holds_while_others_give_back)                                                          \
    X(words)                                                                                       \
    X(scan_is_in_order)                                                                            \
    X(scan_ends_where_it_is_told)                                                                  \
    X(a_scan_may_read)                                                                             \
    X(check_and_create_again)                                                                      \
    X(stats_count)

int main(void)
{
#define X(test) {"memory_" #test, test, set_up_memory, tear_down, NULL},
    const struct CMUnitTest memory[] = {CASES(X)};
#undef X
#define X(test) {"bigtable_" #test, test, set_up_bigtable, tear_down, NULL},
    const struct CMUnitTest bigtable[] = {CASES(X)};
#undef X
    int failed = cmocka_run_group_tests_name("memory", memory, NULL, NULL);

    return failed + cmocka_run_group_tests_name("bigtable", bigtable, NULL, NULL);
}
