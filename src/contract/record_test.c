#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <math.h>

#include "contract/record.h"
#include "sys/clock.h"
#include "sys/random.h"

/* A record of `type` around a body; aligned as in the log. */
static struct kz_record *make_record(enum kz_record_type type, const struct kz_buf *body)
{
    struct kz_record *record = kz_calloc(1, sizeof(*record) + KZ_ALIGN8(body->size));

    *record = (struct kz_record){.size = (uint32_t)(sizeof(*record) + body->size),
            .type = (uint8_t)type,
            .flags = KZ_EVENT_IMPORTED,
            .seq = 42,
            .at_ms = 1700000000123,
            .owner = 7,
            .prev = KZ_LSN(1, 4144),
            .key = 9};
    if (body->size)
        memcpy(record + 1, body->data, body->size);
    return record;
}

static const char props[] = "{\"price\":12.5,\"item\":\"red shoe\"}";

static struct kz_event sample(const struct kz_value *columns, uint16_t count)
{
    return (struct kz_event){
            .event_id = KZ_STR("e-1"),
            .user_id = KZ_STR("u-1"),
            .anonymous_id = KZ_STR("a-1"),
            .name = KZ_STR("view"),
            .props = kz_str(props),
            .client_ts_ms = 1699999999000,
            .ts_ms = 1699999999500,
            .session = 40,
            .identity = KZ_IDENTITY_IDENTIFY,
            .columns_id = 0xabcd,
            .column_count = count,
            .columns = columns,
    };
}

static void test_event_comes_back_as_it_was(void **state)
{
    struct kz_value columns[] = {
            {.type = KZ_TYPE_FLOAT, .real = 12.5},
            {.type = KZ_TYPE_TEXT, .text = kz_str_n(strstr(props, "red"), 8)},
            {.type = KZ_TYPE_TEXT, .text = KZ_STR("elsewhere")},
            {.type = KZ_TYPE_NULL},
            {.type = KZ_TYPE_BOOL, .integer = 1},
            {.type = KZ_TYPE_INT, .integer = INT64_MIN},
    };
    struct kz_event event = sample(columns, KZ_ARRAY_COUNT(columns)), back;
    struct kz_buf body = {0};
    struct kz_record *record;
    struct kz_err err;

    (void)state;
    kz_event_encode(&event, &body);
    /* The text that props holds is not stored twice. */
    assert_int_equal(body.size, sizeof(struct kz_event_body) + 9 * 6 + 3 + 3 + 3 + 4 +
                                        sizeof(props) - 1 + strlen("elsewhere"));
    record = make_record(KZ_RECORD_EVENT, &body);
    assert_int_equal(kz_event_decode(record, &back, &err), KZ_OK);
    assert_true(kz_str_is(back.event_id, "e-1"));
    assert_true(kz_str_is(back.user_id, "u-1"));
    assert_true(kz_str_is(back.anonymous_id, "a-1"));
    assert_true(kz_str_is(back.name, "view"));
    assert_true(kz_str_is(back.props, props));
    assert_int_equal(back.client_ts_ms, 1699999999000);
    assert_int_equal(back.ts_ms, 1699999999500);
    assert_int_equal(back.received_at_ms, 1700000000123);
    assert_int_equal(back.seq, 42);
    assert_int_equal(back.session, 40);
    assert_int_equal(back.flags, KZ_EVENT_IMPORTED);
    assert_int_equal(back.identity, KZ_IDENTITY_IDENTIFY);
    assert_int_equal(kz_event_body(record)->sent_kind, 'u');
    assert_true(kz_event_column(record, 0).real == 12.5);
    assert_true(kz_str_is(kz_event_column(record, 1).text, "red shoe"));
    assert_true(kz_str_is(kz_event_column(record, 2).text, "elsewhere"));
    assert_int_equal(kz_event_column(record, 3).type, KZ_TYPE_NULL);
    assert_int_equal(kz_event_column(record, 4).integer, 1);
    assert_true(kz_event_column(record, 5).integer == INT64_MIN);
    assert_int_equal(kz_event_column(record, 6).type, KZ_TYPE_NULL);
    free(record);
    kz_buf_done(&body);
}

static void test_keys_keep_name_spaces_apart(void **state)
{
    struct kz_user_key user = {'u', KZ_STR("1")}, visitor = {'a', KZ_STR("1")};

    (void)state;
    assert_true(kz_owner_hash(user, 0) != kz_owner_hash(visitor, 0));
    assert_true(kz_owner_hash(user, 0) != kz_owner_hash(user, 1));
    assert_true(kz_dedupe_key(user, KZ_STR("e")) != kz_dedupe_key(visitor, KZ_STR("e")));
    assert_true(kz_dedupe_key(user, KZ_STR("e")) == kz_dedupe_key(user, KZ_STR("e")));
    /* On disk: may never change. */
    assert_true(kz_owner_hash(user, 0) == 0xc9dc6e350e13c588);
    assert_true(kz_owner_hash(user, 1) == 0x202205c58188d9a4);
    assert_true(kz_dedupe_key(user, KZ_STR("e")) == 0xcad31207fb89f76a);
}

static void test_names_and_chains(void **state)
{
    (void)state;
    assert_string_equal(kz_record_name(KZ_RECORD_DEADLETTER), "deadletter");
    assert_string_equal(kz_record_name((enum kz_record_type)200), "unknown");
    assert_int_equal(kz_record_chain(KZ_RECORD_EVENT), KZ_CHAIN_EVENTS);
    assert_int_equal(kz_record_chain(KZ_RECORD_RESULT), KZ_CHAIN_NOTES);
    assert_int_equal(kz_record_chain(KZ_RECORD_CONTROL), KZ_CHAIN_NONE);
    assert_int_equal(kz_record_chain((enum kz_record_type)0), KZ_CHAIN_NONE);
    assert_string_equal(kz_stage_name(KZ_STAGE_INFER), "infer");
    assert_string_equal(kz_request_end_name(KZ_END_SUPERSEDED), "superseded");
    assert_string_equal(kz_decision_name(KZ_DECISION_HOLDOUT), "holdout");
    assert_string_equal(kz_decision_name((enum kz_decision)0), "unknown");
}

static struct kz_record *make_result(void)
{
    struct kz_result_body fixed = {
            .request = 5, .end = KZ_END_DONE, .has_score = 1, .score = 0.25, .user_kind = 'u'};
    struct kz_value row[] = {{.type = KZ_TYPE_INT, .integer = 3}, {.type = KZ_TYPE_NULL}};
    struct kz_buf body = {0}, features = {0};
    struct kz_body_writer w = kz_body_begin(&body, &fixed, sizeof(fixed));
    struct kz_record *record;

    kz_row_encode(row, 2, &features);
    kz_body_span(&w, offsetof(struct kz_result_body, model), KZ_STR("purchase"));
    kz_body_span(&w, offsetof(struct kz_result_body, output), KZ_STR("{\"score\":0.25}"));
    kz_body_span(&w, offsetof(struct kz_result_body, features), kz_buf_view(&features));
    record = make_record(KZ_RECORD_RESULT, &body);
    kz_buf_done(&body);
    kz_buf_done(&features);
    return record;
}

static void test_dump_is_one_line_of_json(void **state)
{
    struct kz_record *record = make_result();
    struct kz_buf out = {0};

    (void)state;
    kz_record_dump(record, KZ_LSN(2, 4096), &out);
    kz_buf_char(&out, '\0');
    assert_ptr_equal(strchr(out.data, '\n'), out.data + out.size - 2);
    assert_non_null(strstr(out.data, "\"lsn\":\"00000002:00001000\""));
    assert_non_null(strstr(out.data, "\"type\":\"result\""));
    assert_non_null(strstr(out.data, "\"end\":\"done\""));
    assert_non_null(strstr(out.data, "\"model\":\"purchase\""));
    assert_non_null(strstr(out.data, "\"features\":[3,null]"));
    kz_buf_done(&out);
    free(record);
}

static void test_any_bytes_are_checked_and_dumped_safely(void **state)
{
    struct kz_prng prng;

    (void)state;
    kz_prng_init(&prng, 1);
    for (int i = 0; i < 20000; i++) {
        size_t size = kz_prng_below(&prng, 300);
        struct kz_buf body = {0}, out = {0};
        struct kz_record *record;
        struct kz_event event;

        kz_prng_bytes(&prng, kz_buf_extend(&body, size), size);
        /* Small numbers now and then, so that some spans are nearly right. */
        for (size_t at = 0; at + 4 <= size; at += 4) {
            if (kz_prng_below(&prng, 2))
                kz_store_u32(body.data + at, (uint32_t)kz_prng_below(&prng, 320));
        }
        record = make_record((enum kz_record_type)kz_prng_below(&prng, 14), &body);
        if (kz_record_check(record, NULL) == KZ_OK && record->type == KZ_RECORD_EVENT)
            assert_int_equal(kz_event_decode(record, &event, NULL), KZ_OK);
        if (record->type == KZ_RECORD_EVENT)
            (void)kz_event_column(record, (unsigned)kz_prng_below(&prng, 70));
        kz_record_dump(record, 1, &out);
        assert_int_equal(out.data[out.size - 1], '\n');
        free(record);
        kz_buf_done(&body);
        kz_buf_done(&out);
    }
}

static void test_cut_bodies_are_refused(void **state)
{
    struct kz_record *record = make_result();
    uint32_t size = record->size;

    (void)state;
    assert_int_equal(kz_record_check(record, NULL), KZ_OK);
    for (record->size = 0; record->size < size; record->size++)
        assert_int_equal(kz_record_check(record, NULL), KZ_CORRUPT);
    free(record);
}

static void test_row_is_a_function_of_its_values(void **state)
{
    const uint64_t other_nan = 0xfff8000000000123;
    struct kz_value row[] = {
            {.type = KZ_TYPE_INT, .integer = -1},
            {.type = KZ_TYPE_FLOAT, .real = (double)NAN},
            {.type = KZ_TYPE_TEXT, .text = KZ_STR("x")},
            {.type = KZ_TYPE_BOOL, .integer = 5},
            {.type = KZ_TYPE_NULL, .integer = 99},
    };
    struct kz_value back[5];
    struct kz_buf a = {0}, b = {0};
    struct kz_err err;
    size_t count;

    (void)state;
    kz_row_encode(row, 5, &a);
    memcpy(&row[1].real, &other_nan, 8);
    row[3].integer = 1;
    row[4].integer = 0;
    kz_row_encode(row, 5, &b);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size);
    assert_int_equal(kz_row_decode(kz_buf_view(&a), back, 5, &count, &err), KZ_OK);
    assert_int_equal(count, 5);
    assert_int_equal(back[0].integer, -1);
    assert_true(isnan(back[1].real));
    assert_true(kz_str_is(back[2].text, "x"));
    assert_int_equal(back[3].integer, 1);
    assert_int_equal(back[4].type, KZ_TYPE_NULL);
    assert_int_equal(kz_row_decode(kz_buf_view(&a), back, 4, &count, &err), KZ_TOO_LARGE);
    for (size_t size = 0; size < a.size; size++)
        assert_int_equal(kz_row_decode(kz_str_n(a.data, size), back, 5, &count, &err), KZ_CORRUPT);
    kz_buf_done(&a);
    kz_buf_done(&b);
}

static void test_speed(void **state)
{
    enum { N = 3000000 };
    struct kz_value columns[] = {
            {.type = KZ_TYPE_FLOAT, .real = 12.5},
            {.type = KZ_TYPE_TEXT, .text = kz_str_n(strstr(props, "red"), 8)},
    };
    struct kz_event event = sample(columns, KZ_ARRAY_COUNT(columns));
    struct kz_buf body = {0};
    char long_props[140];
    int64_t began;

    (void)state;
    if (!getenv("KZ_BENCH"))
        skip();
    memset(long_props, 'x', sizeof(long_props));
    event.props = kz_str_n(long_props, sizeof(long_props));
    began = kz_mono_ns();
    for (int i = 0; i < N; i++) {
        kz_buf_clear(&body);
        kz_event_encode(&event, &body);
    }
    print_message("encode, %zu bytes: %.1f ns\n", body.size + sizeof(struct kz_record),
            (double)(kz_mono_ns() - began) / N);
    kz_buf_done(&body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_event_comes_back_as_it_was),
            cmocka_unit_test(test_keys_keep_name_spaces_apart),
            cmocka_unit_test(test_names_and_chains),
            cmocka_unit_test(test_dump_is_one_line_of_json),
            cmocka_unit_test(test_any_bytes_are_checked_and_dumped_safely),
            cmocka_unit_test(test_cut_bodies_are_refused),
            cmocka_unit_test(test_row_is_a_function_of_its_values),
            cmocka_unit_test(test_speed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
