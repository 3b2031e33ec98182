/* tests/conformance/store_rig.h -- stores in memory and on Spanner's emulator, and records to put
 * into them, for the tests of contract/store.h.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "backends/memory/store.h"
#include "backends/spanner/spanner.h"
#include "emulator.h"
#include "sys/clock.h"

#define NOW INT64_C(1795500000000)
#define ADA UINT64_C(0x1111111111111111)
#define BOB UINT64_C(0xeeeeeeeeeeeeeeee) /* negative as an INT64 */
#define CAT UINT64_C(0x2222222222222222)

/* ---- stores ------------------------------------------------------------------------------ */

struct fixture {
    struct kz_rpc *rpc;
    struct kz_store *store;
    const struct kz_store_ops *ops;
    struct kz_store *other; /* of a case that needs two */
    char database[40];
    struct emulator emulator; /* of a case that does something to it; else the shared one */
    bool spanner;
};

static KZ_UNUSED void must(enum kz_code rc, const struct kz_err *err)
{
    if (rc != KZ_OK)
        fail_msg("%s: %s (%s)", kz_code_name(rc), err->message, err->hint);
}

static KZ_UNUSED struct kz_spanner_options options_of(const struct fixture *f)
{
    return (struct kz_spanner_options){
            .rpc = f->rpc,
            .project = "kizashi-test",
            .instance = "conformance",
            .database = f->database,
            .emulator = f->emulator.pid ? f->emulator.address : NULL,
            .retention_ms = 90 * INT64_C(86400000),
            .dedupe_ms = 7 * INT64_C(86400000),
    };
}

static KZ_UNUSED int memory_up(void **state)
{
    struct fixture *f = kz_calloc(1, sizeof(*f));

    f->store = kz_memory_store_new();
    f->ops = f->store->ops;
    *state = f;
    return 0;
}

static KZ_UNUSED int spanner_open(struct fixture *f)
{
    static unsigned number;
    struct kz_spanner_options options;
    struct kz_err err = {0};

    snprintf(f->database, sizeof(f->database), "t%d-%u", (int)getpid(), number++);
    must(kz_rpc_open(&f->rpc, &err), &err);
    options = options_of(f);
    must(kz_spanner_open(&options, &f->store, &err), &err);
    f->ops = f->store->ops;
    must(f->ops->create(f->store, NULL, NULL, &err), &err);
    return 0;
}

static KZ_UNUSED int spanner_up(void **state)
{
    struct fixture *f = kz_calloc(1, sizeof(*f));

    f->spanner = true;
    *state = f;
    return getenv("SPANNER_EMULATOR_HOST") ? spanner_open(f) : 0;
}

static KZ_UNUSED int own_spanner_up(void **state)
{
    struct fixture *f = kz_calloc(1, sizeof(*f));

    f->spanner = true;
    *state = f;
    if (!emulator_is_there("spanner"))
        return 0;
    f->emulator = emulator_open("spanner", "SPANNER_EMULATOR_HOST");
    return spanner_open(f);
}

static KZ_UNUSED int down(void **state)
{
    struct fixture *f = *state;

    if (f->other)
        f->ops->close(f->other);
    if (f->store)
        f->ops->close(f->store);
    if (f->rpc)
        kz_rpc_close(f->rpc);
    emulator_close(&f->emulator);
    free(f);
    return 0;
}

static KZ_UNUSED struct fixture *fixture_of(void **state)
{
    struct fixture *f = *state;

    if (!f->store)
        skip();
    return f;
}

static KZ_UNUSED void sleep_ms(int64_t ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};

    while (nanosleep(&left, &left) != 0)
        ;
}

/* ---- records ----------------------------------------------------------------------------- */

struct event {
    uint64_t owner;
    kz_lsn lsn;
    const char *event_id, *name, *props;
    int64_t ts_ms;
    uint8_t flags;
};

static KZ_UNUSED struct kz_record *record_of(struct kz_buf *buf)
{
    struct kz_record *record = (struct kz_record *)(void *)buf->data;

    record->size = (uint32_t)buf->size;
    return record;
}

/* Freed by the caller. */
static KZ_UNUSED struct kz_record *event_record(const struct event *event)
{
    struct kz_record head = {.type = KZ_RECORD_EVENT,
            .owner = event->owner,
            .seq = event->lsn,
            .at_ms = NOW,
            .flags = event->flags};
    const struct kz_value columns[] = {
            {.type = KZ_TYPE_FLOAT, .real = 9.5},
            {.type = KZ_TYPE_TEXT, .text = KZ_STR("r\xc3\xa9sum\xc3\xa9")},
    };
    const struct kz_event full = {
            .event_id = kz_str(event->event_id ? event->event_id : "e"),
            .user_id = kz_str("ada"),
            .name = kz_str(event->name ? event->name : "view"),
            .props = kz_str(event->props),
            .ts_ms = event->ts_ms ? event->ts_ms : NOW,
            .columns = columns,
            .column_count = 2,
    };
    struct kz_buf buf = {0};

    kz_buf_put(&buf, &head, sizeof(head));
    kz_event_encode(&full, &buf);
    return record_of(&buf);
}

static KZ_UNUSED struct kz_record *note_record(uint64_t owner, kz_lsn lsn)
{
    struct kz_record head = {.type = KZ_RECORD_TRIGGER, .owner = owner, .seq = lsn, .at_ms = NOW};
    struct kz_trigger_body body = {.rule = 7, .op = KZ_TRIGGER_DELAY, .due_ms = NOW + 60000};
    struct kz_buf buf = {0};

    kz_buf_put(&buf, &head, sizeof(head));
    kz_buf_put(&buf, &body, sizeof(body));
    return record_of(&buf);
}

static KZ_UNUSED struct kz_record *letter_record(uint64_t owner, kz_lsn lsn, const char *reason)
{
    struct kz_record head = {
            .type = KZ_RECORD_DEADLETTER, .owner = owner, .seq = lsn, .at_ms = NOW};
    struct kz_deadletter_body body = {.stage = KZ_STAGE_SHAPE};
    struct kz_body_writer writer;
    struct kz_buf buf = {0};

    kz_buf_put(&buf, &head, sizeof(head));
    writer = kz_body_begin(&buf, &body, sizeof(body));
    kz_body_span(&writer, offsetof(struct kz_deadletter_body, reason), kz_str(reason));
    return record_of(&buf);
}

/* ---- committing -------------------------------------------------------------------------- */

/* Commits what reads nothing, again as long as others are in the way. */
static KZ_UNUSED void commit(struct fixture *f, struct kz_store_commit what)
{
    struct kz_store_txn *txn;
    struct kz_err err = {0};
    enum kz_code rc;

    what.now_ms = what.now_ms ? what.now_ms : NOW;
    for (int i = 0; i < 50; i++) {
        must(f->ops->begin(f->store, &txn, &err), &err);
        rc = f->ops->commit(txn, &what, &err);
        if (rc != KZ_CONFLICT)
            break;
        sleep_ms(f->ops->retry_ms(f->store));
    }
    must(rc, &err);
}

static KZ_UNUSED void put_user(struct fixture *f, uint64_t owner, const char *state)
{
    const struct kz_store_user user = {owner, kz_str(state)};

    commit(f, (struct kz_store_commit){.users = &user, .user_count = 1});
}

static KZ_UNUSED void put_events(struct fixture *f, const struct event *events, size_t count)
{
    struct kz_store_record *records = kz_malloc(count * sizeof(*records));

    for (size_t i = 0; i < count; i++)
        records[i] = (struct kz_store_record){events[i].lsn, event_record(&events[i])};
    commit(f, (struct kz_store_commit){.records = records, .record_count = count});
    for (size_t i = 0; i < count; i++)
        free((void *)(uintptr_t)records[i].record);
    free(records);
}

static KZ_UNUSED void put_note(struct fixture *f, uint64_t owner, kz_lsn lsn)
{
    struct kz_record *record = note_record(owner, lsn);
    const struct kz_store_record put = {lsn, record};

    commit(f, (struct kz_store_commit){.records = &put, .record_count = 1});
    free(record);
}

static KZ_UNUSED struct kz_store_txn *begin(struct fixture *f)
{
    struct kz_store_txn *txn = NULL;
    struct kz_err err = {0};

    must(f->ops->begin(f->store, &txn, &err), &err);
    return txn;
}

static KZ_UNUSED void assert_str(struct kz_str got, const char *expected)
{
    char *text = kz_strndup(got.ptr ? got.ptr : "", got.size);

    assert_string_equal(text, expected);
    free(text);
}

static KZ_UNUSED void assert_user(struct fixture *f, uint64_t owner, const char *expected)
{
    struct kz_store_user user = {.owner = owner};
    struct kz_buf out = {0};
    struct kz_err err = {0};

    must(f->ops->users(f->store, &user, 1, &out, &err), &err);
    assert_str(user.state, expected);
    kz_buf_done(&out);
}

static KZ_UNUSED struct kz_store_id id_of(uint64_t owner, const char *id, size_t size)
{
    return (struct kz_store_id){owner, kz_str_n(id, size)};
}

/* ---- scans as text ----------------------------------------------------------------------- */

static KZ_UNUSED struct kz_history_query query_of(const struct kz_source *sources, size_t count)
{
    return (struct kz_history_query){.sources = sources,
            .source_count = count,
            .chain = KZ_CHAIN_EVENTS,
            .as_of = UINT64_MAX,
            .since_ms = INT64_MIN};
}

/* Addresses (without the time in them) in the order they came, and whether it was truncated. */
static KZ_UNUSED void assert_scan(
        struct fixture *f, struct kz_history_query query, const char *expected)
{
    struct kz_history_reader *reader = f->ops->reader(f->store);
    struct kz_history_rows rows;
    struct kz_buf text = {0};
    struct kz_err err = {0};

    must(reader->ops->scan(reader, &query, &rows, &err), &err);
    for (size_t i = 0; i < rows.count; i++) {
        assert_int_equal((uintptr_t)rows.records[i] % 8, 0);
        must(kz_record_check(rows.records[i], &err), &err);
        assert_true(rows.records[i]->seq == rows.lsns[i]);
        kz_buf_printf(&text, "%s%s%llu", i ? " " : "",
                rows.records[i]->owner == ADA   ? "a"
                : rows.records[i]->owner == BOB ? "b"
                                                : "c",
                (unsigned long long)rows.lsns[i] & 0xffff);
    }
    if (rows.truncated)
        kz_buf_cstr(&text, " ...");
    kz_buf_char(&text, '\0');
    assert_string_equal(text.data, expected);
    reader->ops->release(reader, &rows);
    kz_buf_done(&text);
}

static KZ_UNUSED kz_lsn at(unsigned n)
{
    return kz_store_lsn(NOW) + n;
}

/* ---- a race ----------------------------------------------------------------------------- */

struct racer {
    struct fixture *f;
    unsigned number, rounds, done;
    uint64_t conflicts;
    char problem[300];
    pthread_t thread;
};

/* One more on the counter that is the user's state, and an event that says which. */
static KZ_UNUSED enum kz_code count_once(struct racer *racer, struct kz_err *err)
{
    struct fixture *f = racer->f;
    struct kz_store_user user = {.owner = ADA};
    struct kz_store_commit what = {.users = &user, .user_count = 1, .now_ms = NOW};
    struct kz_store_record put;
    struct kz_store_txn *txn;
    struct kz_record *record;
    char digits[20];
    enum kz_code rc;
    unsigned count;

    KZ_TRY(f->ops->begin(f->store, &txn, err));
    rc = f->ops->read_users(txn, &user, 1, err);
    if (rc != KZ_OK) {
        f->ops->rollback(txn);
        return rc;
    }
    count = user.state.size ? (unsigned)strtoul(user.state.ptr, NULL, 10) + 1 : 1;
    snprintf(digits, sizeof(digits), "%u", count);
    record = event_record(&(struct event){.owner = ADA, .lsn = at(count), .event_id = digits});
    put = (struct kz_store_record){at(count), record};
    user.state = kz_str_n(digits, strlen(digits) + 1);
    what.records = &put;
    what.record_count = 1;
    rc = f->ops->commit(txn, &what, err);
    free(record);
    return rc;
}

static KZ_UNUSED void *race(void *arg)
{
    struct racer *racer = arg;
    const int64_t until_ms = kz_mono_ms() + 120000;

    while (racer->done < racer->rounds && kz_mono_ms() < until_ms) {
        struct kz_err err = {0};
        enum kz_code rc = count_once(racer, &err);

        racer->done += rc == KZ_OK;
        racer->conflicts += rc == KZ_CONFLICT;
        if (rc != KZ_OK && rc != KZ_CONFLICT) {
            snprintf(racer->problem, sizeof(racer->problem), "%s", err.message);
            break;
        }
        if (rc != KZ_OK)
            sleep_ms(racer->f->ops->retry_ms(racer->f->store));
    }
    return NULL;
}

static KZ_UNUSED void gather_line(void *arg, const char *line)
{
    kz_buf_cstr(arg, line);
    kz_buf_char(arg, '\n');
}
