#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "feature/fixture_int.h"
#include "feature/format.h"
#include "feature/tables.h"

static struct kz_column_def columns[] = {
        {.name = "price", .path = "$.price", .type = KZ_TYPE_FLOAT}};
static const struct kz_project project = {
        .name = "shop",
        .file = "kizashi.yaml",
        .events = {.columns = columns, .column_count = 1, .columns_id = 7},
};

/* A reader over records in memory; owner 1 is the user, 2 an anonymous id linked to them, 3
 * another. */
struct memory {
    struct kz_history_reader reader;
    struct fixture f;
    unsigned scans, scan_alls, released;
    enum kz_code fail;
    bool cancelled;
    struct kz_tables *tables;
    struct kz_tables_hooks hooks;
};

static enum kz_code memory_scan(struct kz_history_reader *reader,
        const struct kz_history_query *query, struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct memory *m = KZ_CONTAINER_OF(reader, struct memory, reader);
    size_t count = 0;

    (void)err;
    m->scans++;
    *ret_rows = (struct kz_history_rows){
            .records = kz_malloc(m->f.rows.count * sizeof(void *)),
            .lsns = kz_malloc(m->f.rows.count * sizeof(kz_lsn)),
    };
    for (size_t i = 0; i < m->f.rows.count; i++) {
        for (size_t k = 0; k < query->source_count; k++) {
            if (m->f.records[i]->owner != query->sources[k].owner ||
                    kz_record_chain(m->f.records[i]->type) != query->chain ||
                    m->f.lsns[i] > query->as_of)
                continue;
            ret_rows->records[count] = m->f.records[i];
            ((kz_lsn *)ret_rows->lsns)[count++] = m->f.lsns[i];
        }
    }
    ret_rows->count = count;
    return KZ_OK;
}

static void memory_release(struct kz_history_reader *reader, struct kz_history_rows *rows)
{
    KZ_CONTAINER_OF(reader, struct memory, reader)->released++;
    free(rows->records);
    free((void *)rows->lsns);
}

static enum kz_code memory_scan_all(struct kz_history_reader *reader, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *, kz_lsn, const struct kz_record *), void *arg,
        struct kz_err *err)
{
    struct memory *m = KZ_CONTAINER_OF(reader, struct memory, reader);

    m->scan_alls++;
    if (m->fail)
        return kz_fail(err, m->fail, "could not read segment 7");
    for (size_t i = 0; i < m->f.rows.count; i++)
        if (m->f.lsns[i] >= from && m->f.lsns[i] < until)
            KZ_TRY(each(arg, m->f.lsns[i], m->f.records[i]));
    return KZ_OK;
}

static const struct kz_history_reader_ops ops = {
        .scan = memory_scan, .release = memory_release, .scan_all = memory_scan_all};

static size_t lookup(void *arg, struct kz_str id, enum kz_chain chain, struct kz_source *out)
{
    (void)arg, (void)chain;
    if (kz_str_is(id, "u1") || kz_str_is(id, "anon")) {
        out[0] = (struct kz_source){1, UINT64_MAX};
        out[1] = (struct kz_source){2, UINT64_MAX};
        return 2;
    }
    if (kz_str_is(id, "u3")) {
        out[0] = (struct kz_source){3, UINT64_MAX};
        return 1;
    }
    return 0;
}

static struct kz_str user_id(void *arg, uint64_t owner, kz_lsn lsn)
{
    (void)arg, (void)lsn;
    return owner < 3 ? KZ_STR("u1") : KZ_STR_NULL;
}

static bool cancelled(void *arg)
{
    return ((struct memory *)arg)->cancelled;
}

static void add(struct memory *m, enum kz_record_type type, uint64_t owner, struct kz_buf *body)
{
    size_t i = m->f.rows.count;
    struct kz_record *record = kz_malloc(sizeof(*record) + body->size);

    *record = (struct kz_record){.size = (uint32_t)(sizeof(*record) + body->size),
            .type = (uint8_t)type,
            .seq = i + 1,
            .at_ms = 1000 * (int64_t)(i + 1),
            .owner = owner};
    memcpy(record + 1, body->data, body->size);
    m->f.records[i] = record;
    m->f.lsns[i] = KZ_LSN(1, 64 * (i + 1));
    m->f.rows.count++;
    kz_buf_clear(body);
}

static void add_event(
        struct memory *m, uint64_t owner, const char *user, const char *anonymous, const char *id)
{
    struct kz_value price = value_real(2.5);
    struct kz_event event = {
            .event_id = kz_str(id),
            .user_id = kz_str(user),
            .anonymous_id = kz_str(anonymous),
            .name = kz_str("view"),
            .props = kz_str("{\"price\":2.5}"),
            .ts_ms = 5,
            .columns_id = 7,
            .column_count = 1,
            .columns = &price,
    };
    struct kz_buf body = {0};

    kz_event_encode(&event, &body);
    add(m, KZ_RECORD_EVENT, owner, &body);
    kz_buf_done(&body);
}

static void add_result(
        struct memory *m, uint64_t owner, const char *user, enum kz_request_end end, double score)
{
    struct kz_result_body fixed = {.end = (uint8_t)end,
            .has_score = 1,
            .score = score,
            .as_of_ms = 11,
            .computed_at_ms = 12,
            .expires_at_ms = 13,
            .user_kind = 'u'};
    struct kz_buf body = {0};
    struct kz_body_writer w = kz_body_begin(&body, &fixed, sizeof(fixed));

    kz_body_span(&w, offsetof(struct kz_result_body, model), KZ_STR("purchase"));
    kz_body_span(&w, offsetof(struct kz_result_body, version), KZ_STR("v1"));
    kz_body_span(&w, offsetof(struct kz_result_body, user_id), kz_str(user));
    kz_body_span(&w, offsetof(struct kz_result_body, event_id), KZ_STR("e1"));
    kz_body_span(&w, offsetof(struct kz_result_body, output), KZ_STR("0.5"));
    add(m, KZ_RECORD_RESULT, owner, &body);
    kz_buf_done(&body);
}

static void add_decision(
        struct memory *m, uint64_t owner, const char *user, enum kz_decision decision)
{
    struct kz_decision_body fixed = {.decision = (uint8_t)decision, .user_kind = 'u'};
    struct kz_buf body = {0};
    struct kz_body_writer w = kz_body_begin(&body, &fixed, sizeof(fixed));

    kz_body_span(&w, offsetof(struct kz_decision_body, action_name), KZ_STR("coupon"));
    kz_body_span(&w, offsetof(struct kz_decision_body, user_id), kz_str(user));
    kz_body_span(&w, offsetof(struct kz_decision_body, event_id), KZ_STR("e1"));
    add(m, KZ_RECORD_DECISION, owner, &body);
    kz_buf_done(&body);
}

static void add_delivery(
        struct memory *m, uint64_t owner, uint64_t decision, enum kz_delivery_state state)
{
    struct kz_delivery_body fixed = {.decision = decision, .state = (uint8_t)state};
    struct kz_buf body = {0};

    (void)kz_body_begin(&body, &fixed, sizeof(fixed));
    add(m, KZ_RECORD_DELIVERY, owner, &body);
    kz_buf_done(&body);
}

static void add_dead_letter(struct memory *m)
{
    struct kz_deadletter_body fixed = {.stage = KZ_STAGE_SHAPE};
    struct kz_buf body = {0};
    struct kz_body_writer w = kz_body_begin(&body, &fixed, sizeof(fixed));

    kz_body_span(&w, offsetof(struct kz_deadletter_body, code), KZ_STR("bad_json"));
    kz_body_span(&w, offsetof(struct kz_deadletter_body, reason), KZ_STR("unexpected '}'"));
    kz_body_span(&w, offsetof(struct kz_deadletter_body, payload), KZ_STR("{}}"));
    add(m, KZ_RECORD_DEADLETTER, 0, &body);
    kz_buf_done(&body);
}

static int setup(void **state)
{
    struct memory *m = kz_calloc(1, sizeof(*m));

    m->reader.ops = &ops;
    m->f.rows.records = m->f.records;
    m->f.rows.lsns = m->f.lsns;
    add_event(m, 2, "", "anon", "e1");             /* 1 */
    add_event(m, 1, "u1", "", "e2");               /* 2 */
    add_event(m, 3, "u3", "", "e3");               /* 3 */
    add_result(m, 1, "u1", KZ_END_DONE, 0.25);     /* 4 */
    add_result(m, 3, "u3", KZ_END_DEAD, 0.5);      /* 5 */
    add_decision(m, 1, "u1", KZ_DECISION_DELIVER); /* 6 */
    add_decision(m, 3, "u3", KZ_DECISION_DELIVER); /* 7 */
    add_delivery(m, 3, 7, KZ_DELIVERY_FAILED);     /* 8 */
    add_delivery(m, 1, 6, KZ_DELIVERY_SHOWN);      /* 9 */
    add_dead_letter(m);                            /* 10 */
    m->hooks = (struct kz_tables_hooks){m, lookup, user_id, cancelled, UINT64_MAX, 123};
    assert_int_equal(kz_tables_open(&project, &m->reader, &m->hooks, &m->tables, NULL), KZ_OK);
    *state = m;
    return 0;
}

static int teardown(void **state)
{
    struct memory *m = *state;

    kz_tables_close(m->tables);
    fixture_done(&m->f);
    free(m);
    return 0;
}

static enum kz_code into_buf(void *arg, struct kz_str bytes, struct kz_err *err)
{
    (void)err;
    kz_buf_str(arg, bytes);
    return KZ_OK;
}

static enum kz_code ask(struct memory *m, const char *sql, enum kz_format_kind kind,
        struct kz_buf *out, struct kz_err *err)
{
    KZ_AUTO(kz_format_freep) struct kz_format *format = kz_format_new(kind, into_buf, out);
    struct kz_tables_sink sink = {format, kz_format_columns, kz_format_row};

    kz_buf_clear(out);
    KZ_TRY(kz_tables_query(m->tables, sql, &sink, err));
    KZ_TRY(kz_format_end(format, err));
    kz_buf_char(out, '\0');
    return KZ_OK;
}

#define CHECK(sql, csv)                                                                            \
    do {                                                                                           \
        struct kz_buf out_ = {0};                                                                  \
        struct kz_err err_ = {0};                                                                  \
        if (ask(m, sql, KZ_FORMAT_CSV, &out_, &err_) != KZ_OK)                                     \
            fail_msg("%s", err_.message);                                                          \
        assert_string_equal(out_.data, csv);                                                       \
        kz_buf_done(&out_);                                                                        \
    } while (0)

static void test_events(void **state)
{
    struct memory *m = *state;

    CHECK("SELECT seq, event_id, user_id, price, props FROM events",
            "seq,event_id,user_id,price,props\n1,e1,u1,2.5,\"{\"\"price\"\":2.5}\"\n"
            "2,e2,u1,2.5,\"{\"\"price\"\":2.5}\"\n3,e3,u3,2.5,\"{\"\"price\"\":2.5}\"\n");
    assert_int_equal(m->scans, 0);
    CHECK("SELECT event_id FROM events WHERE user_id = 'u1' ORDER BY seq", "event_id\ne1\ne2\n");
    assert_int_equal(m->scans, 1);
    assert_int_equal(m->scan_alls, 1);
    /* The anonymous id is another user's now. */
    CHECK("SELECT count(*) AS n FROM events WHERE user_id = 'anon'", "n\n0\n");
    CHECK("SELECT count(*) AS n FROM events WHERE user_id = 'nobody'", "n\n0\n");
    assert_int_equal(m->released, m->scans);
}

static void test_predictions_actions_and_dead_letters(void **state)
{
    struct memory *m = *state;

    CHECK("SELECT * FROM predictions",
            "user_id,model,version,score,output,event_id,as_of,computed_at,expires_at\n"
            "u1,purchase,v1,0.25,0.5,e1,11,12,13\n");
    CHECK("SELECT * FROM actions", "user_id,action,event_id,decided_at,decision,delivered_at\n"
                                   "u1,coupon,e1,6000,deliver,9000\nu3,coupon,e1,7000,deliver,\n");
    CHECK("SELECT action, delivered_at FROM actions WHERE user_id = 'u1'",
            "action,delivered_at\ncoupon,9000\n");
    assert_int_equal(m->released, m->scans);
    CHECK("SELECT * FROM dead_letters",
            "id,stage,reason,at,payload\n10,shape,unexpected '}',10000,{}}\n");
    CHECK("SELECT e.event_id, p.score FROM events AS e JOIN predictions AS p USING (user_id, "
          "event_id)",
            "event_id,score\ne1,0.25\n");
    CHECK("SELECT @now AS now, date(0, 'unixepoch', 'utc') IS NOT NULL AS d, random() IS NULL AS r",
            "now,d,r\n123,1,0\n");
    CHECK("SELECT x'00ff' AS b", "b\nX'00FF'\n");
}

/* More than a batch, and a query that stops early reads no further. */
static void test_batches(void **state)
{
    struct memory *m = *state;

    while (m->f.rows.count < 4000) {
        struct kz_buf body = {0};
        char props[1200];
        struct kz_event event = {
                .event_id = KZ_STR("x"), .user_id = KZ_STR("u3"), .name = KZ_STR("view")};

        snprintf(props, sizeof(props), "{\"pad\":\"%01000d\"}", 7);
        event.props = kz_str(props);
        kz_event_encode(&event, &body);
        add(m, KZ_RECORD_EVENT, 3, &body);
        kz_buf_done(&body);
    }
    CHECK("SELECT count(*) AS n, count(DISTINCT seq) AS d, max(seq) AS m FROM events",
            "n,d,m\n3993,3993,4000\n");
    assert_int_equal(m->scan_alls, 2); /* not one a MiB: of a sealed segment each reads all of it */
    m->scan_alls = 0;
    CHECK("SELECT seq FROM events LIMIT 2", "seq\n1\n2\n");
    assert_int_equal(m->scan_alls, 1);
    m->hooks.until = KZ_LSN(1, 64 * 3);
    CHECK("SELECT count(*) AS n FROM events", "n\n2\n");
    CHECK("SELECT count(*) AS n FROM events WHERE user_id = 'u3'", "n\n0\n");
}

static void check_fails(struct memory *m, const char *sql, enum kz_code code, const char *message)
{
    struct kz_buf out = {0};
    struct kz_err err = {0};

    assert_int_equal(ask(m, sql, KZ_FORMAT_CSV, &out, &err), code);
    assert_int_equal(err.code, code);
    assert_string_equal(err.message, message);
    kz_buf_done(&out);
}

static void test_failures(void **state)
{
    struct memory *m = *state;

    check_fails(m, "SELECT\n nam FROM events", KZ_INVALID, "2:2: no such column: nam");
    check_fails(m, "DELETE FROM events", KZ_INVALID, "1:1: table events may not be modified");
    check_fails(m, "CREATE TABLE x(a)", KZ_INVALID, "1:1: only SELECT is permitted");
    check_fails(m, "ATTACH 'x' AS y", KZ_INVALID, "1:1: only SELECT is permitted");
    check_fails(m, "", KZ_INVALID, "there is no SQL to run");
    check_fails(m, "SELECT 1; SELECT 2", KZ_INVALID,
            "only one statement is expected, not also \" SELECT 2\"");
    check_fails(m, "SELECT @then", KZ_INVALID, "no parameter @then; there is @now");
    m->fail = KZ_IO;
    check_fails(m, "SELECT count(*) FROM events", KZ_IO, "could not read segment 7");
    m->fail = KZ_OK;
    CHECK("SELECT count(*) AS n FROM events", "n\n3\n");
    m->cancelled = true;
    check_fails(m,
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM "
            "c",
            KZ_UNAVAILABLE, "the query was cancelled");
}

static void test_formats(void **state)
{
    static const char sql[] =
            "SELECT 'カート' AS \"名前\", 12 AS n, 1.5 AS real, NULL AS missing UNION ALL "
            "SELECT 'a' || char(10) || char(27) || '[2J', -3, 1e999, 'say \"hi\", twice'";
    struct memory *m = *state;
    struct kz_buf out = {0};

    assert_int_equal(ask(m, sql, KZ_FORMAT_TABLE, &out, NULL), KZ_OK);
    assert_string_equal(out.data, "名前         n      real  missing\n"
                                  "----------  --  --------  ---------------\n"
                                  "カート      12       1.5  NULL\n"
                                  "a\\n\\x1b[2J  -3  Infinity  say \"hi\", twice\n"
                                  "(2 rows)\n");
    assert_int_equal(ask(m, sql, KZ_FORMAT_CSV, &out, NULL), KZ_OK);
    assert_string_equal(out.data, "名前,n,real,missing\nカート,12,1.5,\n"
                                  "\"a\n\x1b[2J\",-3,Infinity,\"say \"\"hi\"\", twice\"\n");
    assert_int_equal(ask(m, sql, KZ_FORMAT_JSON, &out, NULL), KZ_OK);
    assert_string_equal(out.data,
            "[\n{\"名前\":\"カート\",\"n\":12,\"real\":1.5,\"missing\":null},\n"
            "{\"名前\":\"a\\n\\u001b[2J\",\"n\":-3,\"real\":null,\"missing\":\"say "
            "\\\"hi\\\", twice\"}\n]\n");
    assert_int_equal(ask(m, "SELECT 1 AS a WHERE 0", KZ_FORMAT_JSON, &out, NULL), KZ_OK);
    assert_string_equal(out.data, "[]\n");
    assert_int_equal(ask(m, "SELECT 1 AS a WHERE 0", KZ_FORMAT_TABLE, &out, NULL), KZ_OK);
    assert_string_equal(out.data, "a\n-\n(0 rows)\n");
    kz_buf_done(&out);
}

static void test_a_long_table_streams(void **state)
{
    struct memory *m = *state;
    struct kz_buf out = {0};
    size_t lines = 0;

    assert_int_equal(ask(m,
                             "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE "
                             "x < 1000) "
                             "SELECT x FROM c",
                             KZ_FORMAT_TABLE, &out, NULL),
            KZ_OK);
    for (size_t i = 0; i < out.size; i++)
        lines += out.data[i] == '\n';
    assert_int_equal(lines, 1003);
    assert_true(strncmp(out.data, "  x\n---\n  1\n", 12) == 0);
    assert_non_null(strstr(out.data, "\n999\n1000\n(1000 rows)\n"));
    kz_buf_done(&out);
}

static void test_widths(void **state)
{
    (void)state;
    assert_int_equal(kz_text_width(kz_str("")), 0);
    assert_int_equal(kz_text_width(kz_str("abc")), 3);
    assert_int_equal(kz_text_width(kz_str("日本語")), 6);
    assert_int_equal(kz_text_width(kz_str("ｶﾅ")), 2);
    assert_int_equal(kz_text_width(kz_str("e\xcc\x81")), 1);
    assert_int_equal(kz_text_width(kz_str("🎉")), 2);
    assert_int_equal(kz_text_width(kz_str("\xff\xfe")), 2);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
            T(test_events),
            T(test_predictions_actions_and_dead_letters),
            T(test_batches),
            T(test_failures),
            T(test_formats),
            T(test_a_long_table_streams),
            cmocka_unit_test(test_widths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
