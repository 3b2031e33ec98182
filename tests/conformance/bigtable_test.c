/* What is Bigtable's alone: the table, what other programs read, and outages. Against an emulator
 * of its own, skipped where tools/with-emulators has not found one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "backends/bigtable/bigtable.h"
#include "backends/bigtable/rows.h"
#include "rpc/rpc.h"
#include "emulator.h"

#define PARENT "projects/kizashi-test/instances/outage"

enum { HANG_MS = 60000 }; /* what takes longer does not end: a busy machine takes its time */

struct fixture {
    struct emulator emulator;
    struct kz_rpc *rpc;
    struct kz_predictions *p; /* NULL: there is no emulator */
    struct kz_user_row row;
    struct kz_err err;
    char said[1000];     /* by create(), line by line */
    atomic_bool scanned; /* by scan_all(), to the end */
    bool is_resumed;     /* by a thread */
    pthread_t resumer;
};

/* ---- helpers --------------------------------------------------------------------------------- */

static struct kz_bigtable_options options_of(const struct fixture *f)
{
    return (struct kz_bigtable_options){.rpc = f->rpc,
            .project = "kizashi-test",
            .instance = "outage",
            .table = "kizashi_shop",
            .emulator = f->emulator.address,
            .timeout_ms = 30000};
}

static struct kz_predictions *open_with(
        struct fixture *f, const struct kz_bigtable_options *options)
{
    struct kz_predictions *p = NULL;

    if (kz_bigtable_open(options, &p, &f->err) != KZ_OK)
        fail_msg("%s", f->err.message);
    return p;
}

static int set_up(void **state)
{
    struct fixture *f = kz_calloc(1, sizeof(*f));
    struct kz_bigtable_options options;

    *state = f;
    if (!emulator_is_there("bigtable"))
        return 0;
    f->emulator = emulator_open("bigtable", "BIGTABLE_EMULATOR_HOST");
    assert_int_equal(kz_rpc_open(&f->rpc, NULL), KZ_OK);
    options = options_of(f);
    f->p = open_with(f, &options);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    if (f->p)
        f->p->ops->close(f->p);
    kz_rpc_close(f->rpc);
    emulator_close(&f->emulator);
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

static void say(void *arg, const char *line)
{
    struct fixture *f = arg;
    size_t used = strlen(f->said);

    snprintf(f->said + used, sizeof(f->said) - used, "%s\n", line);
}

static const char *create(struct fixture *f, struct kz_predictions *p)
{
    f->said[0] = '\0';
    if (p->ops->create(p, say, f, &f->err) != KZ_OK)
        fail_msg("%s", f->err.message);
    return f->said;
}

static enum kz_code write_state(struct fixture *f, uint64_t owner, const char *expected,
        const char *state, const struct kz_entry *entries, size_t count)
{
    return f->p->ops->write(f->p, owner, kz_str(expected), kz_str(state), entries, count, &f->err);
}

static enum kz_code read_state(struct fixture *f, uint64_t owner)
{
    static const struct kz_predictions_read everything = {.entries_max = UINT32_MAX};

    return f->p->ops->read(f->p, owner, &everything, &f->row, &f->err);
}

static void expect_text(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("\"%s\" has no \"%s\"", text, part);
}

static void expect_missing_table(const struct fixture *f, enum kz_code rc)
{
    assert_int_equal(rc, KZ_NOT_FOUND);
    expect_text(f->err.message,
            "table \"kizashi_shop\" of Bigtable instance \"outage\" in project \"kizashi-test\"");
    expect_text(f->err.hint, "kizashi gcp init DIR");
}

static const char *problem_of(struct fixture *f)
{
    static struct kz_predictions_stats stats;

    f->p->ops->stats(f->p, &stats);
    return stats.problem;
}

/* ---- the table ------------------------------------------------------------------------------- */

static void a_missing_table_names_the_command(void **state)
{
    struct fixture *f = start(state);
    bool held;
    struct kz_buf out = {0};

    expect_missing_table(f, f->p->ops->check(f->p, &f->err));
    expect_missing_table(f, read_state(f, 1));
    expect_missing_table(f, write_state(f, 1, "", "a", NULL, 0));
    expect_missing_table(f, f->p->ops->erase(f->p, 1, &f->err));
    expect_missing_table(f, f->p->ops->reserve(f->p, 1, 1, 1, 0, 1, &held, &f->err));
    expect_missing_table(f, f->p->ops->word(f->p, "pause", &out, &f->err));
    expect_text(problem_of(f), "kizashi_shop");
    kz_buf_done(&out);
}

static void create_says_what_it_did(void **state)
{
    struct fixture *f = start(state);
    struct kz_bigtable_options longer = options_of(f);
    struct kz_predictions *p;

    assert_string_equal(
            create(f, f->p), "Bigtable table kizashi_shop created in instance outage\n");
    assert_string_equal(create(f, f->p), "");
    assert_int_equal(write_state(f, 1, "", "a", NULL, 0), KZ_OK);

    longer.retention_ms = INT64_C(90) * 86400000 + 500;
    longer.state_retention_ms = INT64_C(400) * 86400000;
    p = open_with(f, &longer);
    assert_string_equal(create(f, p),
            "Bigtable table kizashi_shop: column family s keeps for another time now\n"
            "Bigtable table kizashi_shop: column family e keeps for another time now\n"
            "Bigtable table kizashi_shop: column family p keeps for another time now\n");
    assert_string_equal(create(f, p), "");
    assert_int_equal(p->ops->check(p, NULL), KZ_OK);
    p->ops->close(p);
    assert_int_equal(read_state(f, 1), KZ_OK);
    assert_true(kz_str_is(f->row.state, "a"));
}

static void *create_quietly(void *arg)
{
    struct kz_predictions *p = arg;

    return p->ops->create(p, NULL, NULL, NULL) == KZ_OK ? p : NULL;
}

static void two_may_create_at_once(void **state)
{
    struct fixture *f = start(state);
    pthread_t threads[4];

    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, create_quietly, f->p), 0);
    for (size_t i = 0; i < 4; i++) {
        void *ok = NULL;

        pthread_join(threads[i], &ok);
        assert_non_null(ok);
    }
    assert_int_equal(f->p->ops->check(f->p, NULL), KZ_OK);
}

static void names_are_checked(void **state)
{
    static const char *const bad[] = {
            "", "-a", "a b", "a/b", "a23456789012345678901234567890123456789012345678901"};
    struct fixture *f = start(state);
    struct kz_bigtable_options options = options_of(f);
    struct kz_predictions *p = NULL;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(bad); i++) {
        options.table = bad[i];
        assert_int_equal(kz_bigtable_open(&options, &p, &f->err), KZ_CONFIG);
    }
    options = options_of(f);
    options.instance = "";
    assert_int_equal(kz_bigtable_open(&options, &p, &f->err), KZ_CONFIG);
    assert_null(p);
}

/* ---- what other programs read (docs/bigtable-format.md) -------------------------------------- */

static enum kz_code print_row(void *arg, const struct kz_bt_row *row, struct kz_err *err)
{
    struct kz_buf *out = arg;

    (void)err;
    kz_buf_printf(out, KZ_STR_FMT, KZ_STR_ARG(row->key));
    for (size_t i = 0; i < row->cell_count; i++)
        kz_buf_printf(out, " " KZ_STR_FMT ":" KZ_STR_FMT "=" KZ_STR_FMT,
                KZ_STR_ARG(row->cells[i].family), KZ_STR_ARG(row->cells[i].qualifier),
                KZ_STR_ARG(row->cells[i].value));
    kz_buf_char(out, '\n');
    return KZ_OK;
}

/* As another program's client would: the newest cell of each column of family p. */
static void read_for_others(struct fixture *f, struct kz_buf *out)
{
    const struct kz_rpc_target target = {.emulator = f->emulator.address};
    const struct kz_rpc_options options = {.method = "/google.bigtable.v2.Bigtable/ReadRows"};
    Google__Bigtable__V2__ReadRowsRequest request = GOOGLE__BIGTABLE__V2__READ_ROWS_REQUEST__INIT;
    Google__Bigtable__V2__RowFilter chain = GOOGLE__BIGTABLE__V2__ROW_FILTER__INIT;
    Google__Bigtable__V2__RowFilter family = chain, newest = chain, *parts[] = {&family, &newest};
    Google__Bigtable__V2__RowFilter__Chain list = GOOGLE__BIGTABLE__V2__ROW_FILTER__CHAIN__INIT;
    KZ_AUTO(kz_rpc_channel_closep) struct kz_rpc_channel *channel = NULL;
    KZ_AUTO(kz_rpc_stream_closep) struct kz_rpc_stream *stream = NULL;
    KZ_AUTO(kz_bt_rows_freep) struct kz_bt_rows *rows = kz_bt_rows_new();
    ProtobufCMessage *message = NULL;

    family.filter_case = GOOGLE__BIGTABLE__V2__ROW_FILTER__FILTER_FAMILY_NAME_REGEX_FILTER;
    family.family_name_regex_filter = (char *)"p";
    newest.filter_case = GOOGLE__BIGTABLE__V2__ROW_FILTER__FILTER_CELLS_PER_COLUMN_LIMIT_FILTER;
    newest.cells_per_column_limit_filter = 1;
    list.filters = parts;
    list.n_filters = 2;
    chain.filter_case = GOOGLE__BIGTABLE__V2__ROW_FILTER__FILTER_CHAIN;
    chain.chain = &list;
    request.table_name = (char *)PARENT "/tables/kizashi_shop";
    request.filter = &chain;
    assert_int_equal(kz_rpc_connect(f->rpc, &target, &channel, NULL), KZ_OK);
    assert_int_equal(kz_rpc_stream_request(channel, &options, &request.base,
                             &google__bigtable__v2__read_rows_response__descriptor, &stream, NULL),
            KZ_OK);
    while (kz_rpc_stream_next(stream, -1, &message, NULL) == KZ_OK) {
        assert_int_equal(
                kz_bt_rows_push(rows, (const Google__Bigtable__V2__ReadRowsResponse *)message,
                        print_row, out, NULL),
                KZ_OK);
        protobuf_c_message_free_unpacked(message, NULL);
    }
}

static void predictions_are_there_for_other_programs(void **state)
{
    struct fixture *f = start(state);
    struct kz_entry results[] = {
            {.request = 1,
                    .seq = 2,
                    .type = KZ_RECORD_RESULT,
                    .record = KZ_STR("record"),
                    .model = KZ_STR("purchase"),
                    .json = KZ_STR("{\"score\":0.25}")},
            {.request = 1,
                    .seq = 3,
                    .type = KZ_RECORD_RESULT,
                    .record = KZ_STR("record"),
                    .model = KZ_STR("churn"),
                    .json = KZ_STR("{\"score\":1}")},
            {.request = 1, .seq = 4, .type = KZ_RECORD_RESULT, .record = KZ_STR("not the latest")},
    };
    struct kz_buf out = {0};

    create(f, f->p);
    assert_int_equal(write_state(f, 0xada, "", "a", results, 3), KZ_OK);
    assert_int_equal(write_state(f, 0xbeef, "", "a", &results[2], 1), KZ_OK);
    read_for_others(f, &out);
    kz_buf_char(&out, '\0');
    assert_string_equal(
            out.data, "0000000000000ada p:churn={\"score\":1} p:purchase={\"score\":0.25}\n");
    results[0].seq = 5;
    results[0].json = KZ_STR("{\"score\":0.5}");
    assert_int_equal(write_state(f, 0xada, "a", "b", results, 1), KZ_OK);
    /* The one that comes too late to be written changes nothing. */
    results[0].json = KZ_STR("{\"score\":0.75}");
    assert_int_equal(write_state(f, 0xada, "a", "c", results, 1), KZ_CONFLICT);
    kz_buf_clear(&out);
    read_for_others(f, &out);
    kz_buf_char(&out, '\0');
    assert_string_equal(
            out.data, "0000000000000ada p:churn={\"score\":1} p:purchase={\"score\":0.5}\n");
    kz_buf_done(&out);
}

/* ---- outages --------------------------------------------------------------------------------- */

static void killed_and_started_again(void **state)
{
    struct fixture *f = start(state);
    struct kz_bigtable_options options = options_of(f);
    const int64_t before_ms = kz_mono_ms();
    struct kz_predictions *lasting = f->p;

    create(f, f->p);
    assert_int_equal(write_state(f, 1, "", "a", NULL, 0), KZ_OK);
    emulator_kill(&f->emulator);
    options.timeout_ms = 2000;
    f->p = open_with(f, &options);
    assert_int_equal(read_state(f, 1), KZ_UNAVAILABLE);
    assert_int_equal(write_state(f, 1, "a", "b", NULL, 0), KZ_UNAVAILABLE);
    assert_true(kz_mono_ms() - before_ms < HANG_MS);
    expect_text(f->err.message, "Connection refused");
    expect_text(problem_of(f), "kizashi_shop");
    f->p->ops->close(f->p);
    f->p = lasting;

    emulator_start(&f->emulator); /* which has forgotten everything */
    expect_missing_table(f, read_state(f, 1));
    expect_missing_table(f, write_state(f, 1, "a", "b", NULL, 0));
    expect_text(create(f, f->p), "created");
    assert_int_equal(read_state(f, 1), KZ_OK);
    assert_false(f->row.there);
    assert_string_equal(problem_of(f), "");
    assert_int_equal(write_state(f, 1, "", "b", NULL, 0), KZ_OK);
}

static void *write_until_there(void *arg)
{
    struct fixture *f = arg;

    /* Between the emulator's start and create() the table is missing. */
    while (write_state(f, 1, "", "a", NULL, 0) == KZ_NOT_FOUND)
        ;
    return NULL;
}

/* A call that began while it was away ends well once it is back. */
static void a_call_waits_for_a_short_outage(void **state)
{
    struct fixture *f = start(state);
    struct kz_bigtable_options options = options_of(f);
    struct kz_predictions_stats stats;
    struct kz_predictions *other = open_with(f, &options);
    const int64_t before_ms = kz_mono_ms();
    pthread_t thread;

    create(f, f->p);
    emulator_kill(&f->emulator);
    assert_int_equal(pthread_create(&thread, NULL, write_until_there, f), 0);
    do {
        assert_true(kz_mono_ms() - before_ms < HANG_MS);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        f->p->ops->stats(f->p, &stats);
    } while (stats.retries < 3);
    emulator_start(&f->emulator);
    assert_int_equal(other->ops->create(other, NULL, NULL, NULL), KZ_OK);
    pthread_join(thread, NULL);
    other->ops->close(other);
    if (read_state(f, 1) != KZ_OK)
        fail_msg("%s", f->err.message);
    assert_true(kz_str_is(f->row.state, "a"));
}

/* A cap's row that was lost is another row: nobody counts on with what the old one held. */
static void caps_after_a_restart(void **state)
{
    struct fixture *f = start(state);
    bool held;

    create(f, f->p);
    for (uint64_t id = 1; id <= 3; id++) {
        assert_int_equal(f->p->ops->reserve(f->p, 7, id, 1000, 0, 2, &held, NULL), KZ_OK);
        assert_int_equal(held, id <= 2);
    }
    emulator_kill(&f->emulator);
    emulator_start(&f->emulator);
    create(f, f->p);
    for (uint64_t id = 11; id <= 13; id++) {
        if (f->p->ops->reserve(f->p, 7, id, 1000, 0, 2, &held, &f->err) != KZ_OK)
            fail_msg("%s", f->err.message);
        assert_int_equal(held, id <= 12);
    }
}

struct adder {
    struct kz_predictions *p;
    pthread_t thread;
    unsigned number;
    const atomic_bool *stop;
    atomic_uint added;
    char problem[300];
};

/* An attempt's answer was lost, and somebody else has written since: the entry says what came of it. */
static enum kz_code was_put(struct adder *a, uint64_t seq, bool *ret_put, struct kz_err *err)
{
    static const struct kz_predictions_read all = {.request = 1, .entries_max = 100000};
    struct kz_user_row row = {0};
    enum kz_code rc = a->p->ops->read(a->p, 5, &all, &row, err);

    *ret_put = false;
    for (size_t i = 0; rc == KZ_OK && i < row.entry_count; i++)
        *ret_put |= row.entries[i].seq == seq &&
                    memcmp(row.entries[i].record.ptr, &a->number, sizeof(a->number)) == 0;
    kz_buf_done(&row.bytes);
    return rc;
}

/* Puts entry after entry, each with the next number in the state, until it is told to stop. */
static void *add(void *arg)
{
    static const struct kz_predictions_read state_only = {.entries_max = 0};
    struct adder *a = arg;
    struct kz_user_row row = {0};
    struct kz_err err = {0};
    enum kz_code rc = KZ_OK;

    while (!atomic_load(a->stop) && rc == KZ_OK) {
        bool put = false;
        char text[64] = "0";
        struct kz_entry entry = {.request = 1, .record = kz_str_n(&a->number, sizeof(a->number))};

        rc = a->p->ops->read(a->p, 5, &state_only, &row, &err);
        if (rc != KZ_OK)
            break;
        if (row.there)
            snprintf(text, sizeof(text), KZ_STR_FMT, KZ_STR_ARG(row.state));
        entry.seq = strtoull(text, NULL, 10) + 2;
        snprintf(text, sizeof(text), "%" PRIu64 " of %u", entry.seq - 1, a->number);
        rc = a->p->ops->write(a->p, 5, row.state, kz_str(text), &entry, 1, &err);
        if (rc == KZ_UNAVAILABLE)
            rc = was_put(a, entry.seq, &put, &err);
        else
            put = rc == KZ_OK;
        a->added += put;
        if (rc == KZ_CONFLICT)
            rc = KZ_OK;
    }
    if (rc != KZ_OK)
        snprintf(a->problem, sizeof(a->problem), "%s", err.message);
    kz_buf_done(&row.bytes);
    return NULL;
}

static uint64_t retries_of(struct fixture *f)
{
    struct kz_predictions_stats stats;

    f->p->ops->stats(f->p, &stats);
    return stats.retries;
}

/* Until each has added something more: on a slow machine that takes its time. */
static void wait_for_adders(struct adder *adders, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned before = adders[i].added;

        for (int tries = 0; adders[i].added == before && tries < 6000; tries++)
            nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
}

/* Requests that lie in its sockets meanwhile are answered late, or twice: each counts once. */
static void suspended_while_many_write(void **state)
{
    enum { ADDERS = 4 };
    struct fixture *f = start(state);
    struct kz_bigtable_options options = options_of(f);
    struct adder adders[ADDERS];
    atomic_bool stop = false;
    unsigned added = 0;
    char expected[32];

    create(f, f->p);
    options.timeout_ms = 12000;
    f->p->ops->close(f->p);
    f->p = open_with(f, &options);
    for (unsigned i = 0; i < ADDERS; i++) {
        adders[i] = (struct adder){.p = f->p, .number = i, .stop = &stop};
        assert_int_equal(pthread_create(&adders[i].thread, NULL, add, &adders[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        uint64_t before = retries_of(f);

        wait_for_adders(adders, ADDERS);
        emulator_suspend(&f->emulator);
        /* An attempt is given up after a third of 12 s, so each thread sends one again. */
        for (int tries = 0; retries_of(f) < before + ADDERS && tries < 140; tries++)
            nanosleep(&(struct timespec){0, 50000000}, NULL);
        emulator_resume(&f->emulator);
    }
    wait_for_adders(adders, ADDERS);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < ADDERS; i++) {
        pthread_join(adders[i].thread, NULL);
        assert_string_equal(adders[i].problem, "");
        added += adders[i].added;
    }
    assert_true(retries_of(f) > 0);
    assert_int_equal(read_state(f, 5), KZ_OK);
    snprintf(expected, sizeof(expected), "%u of ", added);
    assert_true(kz_str_starts(f->row.state, expected));
    assert_int_equal(f->row.entry_count, added);
    for (unsigned i = 0; i < ADDERS; i++) {
        unsigned own = 0;

        for (size_t k = 0; k < f->row.entry_count; k++)
            own += memcmp(f->row.entries[k].record.ptr, &i, sizeof(i)) == 0;
        assert_int_equal(own, adders[i].added);
    }
}

struct scanning {
    struct fixture *f;
    uint64_t count;
    void (*at_second)(struct fixture *f);
};

static enum kz_code scan_row(void *arg, uint64_t owner, const struct kz_user_row *row)
{
    struct scanning *scanning = arg;

    scanning->count++;
    assert_int_equal(owner, scanning->count);
    assert_int_equal(row->entry_count, 1);
    if (scanning->count == 2)
        scanning->at_second(scanning->f);
    return KZ_OK;
}

/* How much is under way at once is gRPC's matter: it measures what the connection takes, which is more
 * on a busy machine. A scan that had everything before its second row was handed on is no test: it is
 * made again with twice as many rows. */
enum { SCAN_ROWS = 60, SCAN_ROWS_MAX = 480, SCAN_RECORD_SIZE = 500000 };

static void put_many(struct fixture *f, uint64_t count)
{
    char *record = kz_calloc(1, SCAN_RECORD_SIZE);
    const struct kz_entry entry = {
            .request = 1, .seq = 2, .record = kz_str_n(record, SCAN_RECORD_SIZE)};

    for (uint64_t owner = 1; owner <= count; owner++) {
        if (read_state(f, owner) == KZ_OK && f->row.there)
            continue; /* from the scan before */
        assert_int_equal(write_state(f, owner, "", "s", &entry, 1), KZ_OK);
    }
    free(record);
}

/* All rows, by one who waits for a row no longer than `timeout_ms`; gives what it came to. */
static enum kz_code scan_all(
        struct fixture *f, uint32_t timeout_ms, struct scanning *scanning, uint64_t *ret_retries)
{
    struct kz_bigtable_options options = options_of(f);
    struct kz_predictions_stats stats;
    struct kz_predictions *lasting = f->p;
    enum kz_code rc;

    options.timeout_ms = timeout_ms;
    f->p = open_with(f, &options);
    atomic_store(&f->scanned, false);
    rc = f->p->ops->scan(f->p, 0, 0, scan_row, scanning, &f->err);
    atomic_store(&f->scanned, true);
    if (f->is_resumed)
        pthread_join(f->resumer, NULL);
    f->is_resumed = false;
    f->p->ops->stats(f->p, &stats);
    f->p->ops->close(f->p);
    f->p = lasting;
    *ret_retries = stats.retries;
    return rc;
}

static void kill_it(struct fixture *f)
{
    emulator_kill(&f->emulator);
}

static void *resume_soon(void *arg)
{
    struct fixture *f = arg;

    nanosleep(&(struct timespec){1, 0}, NULL);
    emulator_resume(&f->emulator);
    return NULL;
}

static void suspend_until(struct fixture *f, void *(*resume)(void *))
{
    emulator_suspend(&f->emulator);
    assert_int_equal(pthread_create(&f->resumer, NULL, resume, f), 0);
    f->is_resumed = true;
}

static void suspend_it(struct fixture *f)
{
    suspend_until(f, resume_soon);
}

static void *resume_once_asked_again(void *arg)
{
    struct fixture *f = arg;

    for (int tries = 0; !retries_of(f) && !f->scanned && tries < HANG_MS / 10; tries++)
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    emulator_resume(&f->emulator);
    return NULL;
}

static void suspend_until_asked_again(struct fixture *f)
{
    suspend_until(f, resume_once_asked_again);
}

static void killed_under_a_scan(void **state)
{
    struct fixture *f = start(state);
    uint64_t rows = SCAN_ROWS, retries;

    create(f, f->p);
    for (;; rows *= 2) {
        struct scanning scanning = {.f = f, .at_second = kill_it};
        enum kz_code rc;

        put_many(f, rows);
        rc = scan_all(f, 3000, &scanning, &retries);
        if (rc != KZ_OK || rows == SCAN_ROWS_MAX) {
            assert_int_equal(rc, KZ_UNAVAILABLE);
            assert_true(scanning.count >= 2 && scanning.count < rows);
            return;
        }
        assert_int_equal(scanning.count, rows);
        emulator_start(&f->emulator);
        expect_text(create(f, f->p), "created");
    }
}

static void suspended_under_a_scan(void **state)
{
    struct fixture *f = start(state);
    struct scanning scanning = {.f = f, .at_second = suspend_it};
    uint64_t retries;

    create(f, f->p);
    put_many(f, SCAN_ROWS);
    assert_int_equal(scan_all(f, 30000, &scanning, &retries), KZ_OK);
    assert_int_equal(scanning.count, SCAN_ROWS);
}

/* For longer than a scan waits for a row: it is asked for again behind the last one. */
static void a_scan_goes_on_behind_its_last_row(void **state)
{
    struct fixture *f = start(state);
    uint64_t rows = SCAN_ROWS, retries = 0;

    create(f, f->p);
    for (; !retries; rows *= 2) {
        struct scanning scanning = {.f = f, .at_second = suspend_until_asked_again};

        assert_true(rows <= SCAN_ROWS_MAX);
        put_many(f, rows);
        if (scan_all(f, 5000, &scanning, &retries) != KZ_OK)
            fail_msg("%s", f->err.message);
        assert_int_equal(scanning.count, rows);
        print_message("%" PRIu64 " rows, %" PRIu64 " retries\n", rows, retries);
    }
}

#define TEST(test)                                                                                 \
    {                                                                                              \
        "bigtable_" #test, test, set_up, tear_down, NULL                                           \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
            TEST(a_missing_table_names_the_command),
            TEST(create_says_what_it_did),
            TEST(two_may_create_at_once),
            TEST(names_are_checked),
            TEST(predictions_are_there_for_other_programs),
            TEST(killed_and_started_again),
            TEST(a_call_waits_for_a_short_outage),
            TEST(caps_after_a_restart),
            TEST(suspended_while_many_write),
            TEST(killed_under_a_scan),
            TEST(suspended_under_a_scan),
            TEST(a_scan_goes_on_behind_its_last_row),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
