#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "codec/json.h"
#include "contract/message.h"
#include "contract/shape.h"

static struct kz_column_def columns[] = {
        {.name = "price", .path = "$.price", .type = KZ_TYPE_FLOAT},
        {.name = "count", .path = "$.count", .type = KZ_TYPE_INT},
        {.name = "item", .path = "$.product_id", .type = KZ_TYPE_TEXT},
        {.name = "gift", .path = "$.gift", .type = KZ_TYPE_BOOL},
        {.name = "city", .path = "$.address.city", .type = KZ_TYPE_TEXT},
};
enum { PRICE, COUNT, ITEM, GIFT, CITY };
static const struct kz_project project = {
        .name = "test",
        .events = {.columns = columns, .column_count = KZ_ARRAY_COUNT(columns), .columns_id = 77},
};

static const int64_t NOW = 1795477900000; /* 2026-11-23T23:51:40Z */

struct rig {
    struct kz_arena arena;
    struct kz_shaper *shaper;
    struct kz_shaped shaped;
    struct kz_err err;
};

static int up(void **state)
{
    struct rig *rig = kz_calloc(1, sizeof(*rig));

    kz_arena_init(&rig->arena, 4 << 20);
    rig->shaper = kz_shaper_new(&project);
    *state = rig;
    return 0;
}

static int down(void **state)
{
    struct rig *rig = *state;

    kz_shaper_free(rig->shaper);
    kz_arena_done(&rig->arena);
    free(rig);
    return 0;
}

static enum kz_code events_n(struct rig *rig, struct kz_str text)
{
    struct kz_shape_input input = {.text = text, .arena = &rig->arena, .received_at_ms = NOW};

    kz_arena_reset(&rig->arena);
    rig->shaped = (struct kz_shaped){0};
    return kz_shape_events(rig->shaper, &input, &rig->shaped, &rig->err);
}

static enum kz_code events(struct rig *rig, const char *text)
{
    return events_n(rig, kz_str(text));
}

static enum kz_code calls(struct rig *rig, enum kz_call call, const char *text)
{
    struct kz_shape_input input = {
            .text = kz_str(text), .arena = &rig->arena, .received_at_ms = NOW};

    kz_arena_reset(&rig->arena);
    rig->shaped = (struct kz_shaped){0};
    return kz_shape_calls(rig->shaper, call, &input, &rig->shaped, &rig->err);
}

static void is_text(struct kz_str actual, const char *expected)
{
    if (!kz_str_is(actual, expected))
        fail_msg("\"" KZ_STR_FMT "\" is not \"%s\"", KZ_STR_ARG(actual), expected);
}

static struct kz_intake_item *only(struct rig *rig)
{
    assert_int_equal(rig->shaped.item_count, 1);
    return rig->shaped.items[0];
}

/* ---- our own format ---- */

static void one_object_with_everything(void **state)
{
    struct rig *rig = *state;
    const char *props = "{\"price\": 24.9, \"count\":3,\"product_id\":\"17\",\"gift\":true,"
                        "\"address\":{\"city\":\"K\\u00f6ln\"}}";
    char text[500];
    struct kz_event *e;

    snprintf(text, sizeof(text),
            "\n {\"event_id\":\"e1\",\"user_id\":\"u1\",\"anonymous_id\":\"a1\",\"name\":\"view\","
            "\"ts\":\"2026-11-23T23:50:00.250Z\",\"props\": %s }\r\n",
            props);
    assert_int_equal(events(rig, text), KZ_OK);
    assert_true(rig->shaped.single);
    e = &only(rig)->event;
    assert_int_equal(only(rig)->state, KZ_INTAKE_ACCEPTED);
    is_text(e->event_id, "e1");
    is_text(e->user_id, "u1");
    is_text(e->anonymous_id, "a1");
    is_text(e->name, "view");
    is_text(e->props, props);
    assert_true(e->client_ts_ms == 1795477800250);
    assert_int_equal(e->identity, KZ_IDENTITY_NONE);
    assert_int_equal(e->columns_id, 77);
    assert_int_equal(e->column_count, 5);
    assert_int_equal(e->columns[PRICE].type, KZ_TYPE_FLOAT);
    assert_true(e->columns[PRICE].real == 24.9);
    assert_int_equal(e->columns[COUNT].type, KZ_TYPE_INT);
    assert_int_equal(e->columns[COUNT].integer, 3);
    is_text(e->columns[ITEM].text, "17");
    assert_int_equal(e->columns[GIFT].type, KZ_TYPE_BOOL);
    assert_int_equal(e->columns[GIFT].integer, 1);
    is_text(e->columns[CITY].text, "K\xc3\xb6ln");
}

static void little_is_enough(void **state)
{
    struct rig *rig = *state;
    struct kz_event *e;

    assert_int_equal(
            events(rig, "\xef\xbb\xbf{\"anonymous_id\":12,\"name\":\"view\",\"user_id\":null}"),
            KZ_OK);
    e = &only(rig)->event;
    assert_int_equal(only(rig)->state, KZ_INTAKE_ACCEPTED);
    is_text(e->anonymous_id, "12");
    assert_int_equal(e->user_id.size, 0);
    assert_int_equal(e->event_id.size, 0);
    assert_int_equal(e->props.size, 0);
    assert_true(e->client_ts_ms == 0);
    assert_int_equal(e->columns[PRICE].type, KZ_TYPE_NULL);
    assert_int_equal(e->columns[CITY].type, KZ_TYPE_NULL);
}

static void times(void **state)
{
    static const struct {
        const char *ts;
        int64_t ms; /* -1: rejected */
    } rows[] = {
            {"1795477800250", 1795477800250},
            {"1.795e12", 1795000000000},
            {"\"2026-11-24T08:50:00.250+09:00\"", 1795477800250},
            {"null", 0},
            {"0", 1},
            {"\"1970-01-01T00:00:00Z\"", 1},
            {"\"1999-01-01T00:00:00Z\"", 915148800000},
            {"1795477800", -1},
            {"1795477800250000", -1},
            {"1795477800250000000", -1},
            {"-5", -1},
            {"1795477800250.5", -1},
            {"\"1795477800250\"", -1},
            {"\"yesterday\"", -1},
            {"true", -1},
            {"{}", -1},
            {"99999999999999999999999999", -1},
    };
    struct rig *rig = *state;
    char text[200];

    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        snprintf(text, sizeof(text), "{\"user_id\":\"u\",\"name\":\"n\",\"ts\":%s}", rows[i].ts);
        assert_int_equal(events(rig, text), KZ_OK);
        if (rows[i].ms < 0) {
            assert_int_equal(only(rig)->state, KZ_INTAKE_REJECTED);
            assert_string_equal(only(rig)->code, "bad_ts");
        } else if (only(rig)->event.client_ts_ms != rows[i].ms ||
                   only(rig)->state == KZ_INTAKE_REJECTED) {
            fail_msg("%s gave %lld", rows[i].ts, (long long)only(rig)->event.client_ts_ms);
        }
    }
    assert_int_equal(events(rig, "{\"user_id\":\"u\",\"name\":\"n\",\"ts\":1795477800}"), KZ_OK);
    is_text(only(rig)->message,
            "ts 1795477800 looks like seconds, send milliseconds: 1795477800000");
}

static void rejections_name_field_and_value(void **state)
{
    static const struct {
        const char *text, *code, *message;
    } rows[] = {
            {"{\"name\":\"view\"}", "missing_user", "user_id and anonymous_id are both missing"},
            {"{\"name\":\"view\",\"user_id\":\"\"}", "missing_user",
                    "user_id and anonymous_id are both missing"},
            {"{\"userId\":\"u\",\"name\":\"view\"}", "missing_user",
                    "user_id and anonymous_id are both missing; userId and anonymousId are of "
                    "Segment's calls, as POST /v1/track"},
            {"{\"user_id\":[1],\"name\":\"view\"}", "bad_user_id",
                    "user_id must be a string or an integer, not an array [1]"},
            {"{\"user_id\":1.5,\"name\":\"view\"}", "bad_user_id",
                    "user_id must be a string or an integer, not a number 1.5"},
            {"{\"user_id\":\"a\\u0000b\",\"name\":\"view\"}", "bad_user_id",
                    "user_id has a control character in it: \"a\\u0000b\""},
            {"{\"user_id\":\"a\\u007fb\",\"name\":\"view\"}", "bad_user_id",
                    "user_id has a control character in it: \"a\\u007fb\""},
            {"{\"user_id\":\"u\",\"event_id\":true,\"name\":\"view\"}", "bad_event_id",
                    "event_id must be a string or an integer, not true true"},
            {"{\"user_id\":\"u\"}", "missing_name", "name is missing: it says what the user did"},
            {"{\"user_id\":\"u\",\"name\":\"\"}", "missing_name",
                    "name is empty: it says what the user did"},
            {"{\"user_id\":\"u\",\"name\":7}", "bad_name",
                    "name must be a string, not an integer 7"},
            {"{\"user_id\":\"u\",\"name\":\"a\\nb\"}", "bad_name",
                    "name has a control character in it: \"a\\nb\""},
            {"{\"user_id\":\"u\",\"name\":\"kizashi.action_shown\"}", "reserved_name",
                    "name \"kizashi.action_shown\" begins with \"kizashi.\", which is reserved"},
            {"{\"user_id\":\"u\",\"name\":\"n\",\"props\":[1]}", "bad_props",
                    "props must be an object, not an array [1]"},
            {"{\"user_id\":\"u\",\"name\":\"n\",\"user_id\":\"v\"}", "duplicate_field",
                    "user_id is there twice"},
            {"{\"user_id\":\"u\",\"name\":\"n\",\"props\":{\"price\":\"much\"}}", "bad_column",
                    "column \"price\" (props $.price) must be a number, not a string \"much\""},
            {"{\"user_id\":\"u\",\"name\":\"n\",\"props\":{\"count\":2.5}}", "bad_column",
                    "column \"count\" (props $.count) must be an integer, not a number 2.5"},
            {"{\"user_id\":\"u\",\"name\":\"n\",\"props\":{\"product_id\":{}}}", "bad_column",
                    "column \"item\" (props $.product_id) must be a text, not an object {}"},
            {"{\"user_id\":\"u\",\"name\":\"n\",\"props\":{\"gift\":2}}", "bad_column",
                    "column \"gift\" (props $.gift) must be true or false, not an integer 2"},
            {"{\"user_id\":\"u\",\"name\":\"n\",\"props\":{\"address\":{\"city\":[]}}}",
                    "bad_column",
                    "column \"city\" (props $.address.city) must be a text, not an array []"},
            {"{\"user_id\":\"u\",\"name\":\"n\",\"props\":{\"price\":1e999}}", "bad_column",
                    "column \"price\" (props $.price) must be a number, not a number 1e999"},
    };
    struct rig *rig = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        assert_int_equal(events(rig, rows[i].text), KZ_OK);
        assert_int_equal(only(rig)->state, KZ_INTAKE_REJECTED);
        assert_int_equal(rig->shaped.rejected_count, 1);
        assert_string_equal(only(rig)->code, rows[i].code);
        is_text(only(rig)->message, rows[i].message);
        is_text(only(rig)->payload, rows[i].text);
    }
}

static void sizes_at_their_limits(void **state)
{
    struct rig *rig = *state;
    char *text = kz_malloc(3 << 20), *big = kz_malloc(2 << 20);

    memset(big, 'x', 2 << 20);
    for (int extra = 0; extra < 2; extra++) {
        snprintf(text, 3 << 20, "{\"user_id\":\"%.*s\",\"name\":\"n\"}", 256 + extra, big);
        assert_int_equal(events(rig, text), KZ_OK);
        assert_int_equal(only(rig)->state == KZ_INTAKE_REJECTED, extra);
        snprintf(text, 3 << 20, "{\"user_id\":\"u\",\"name\":\"%.*s\"}", 128 + extra, big);
        assert_int_equal(events(rig, text), KZ_OK);
        assert_int_equal(only(rig)->state == KZ_INTAKE_REJECTED, extra);
        snprintf(text, 3 << 20, "{\"user_id\":\"u\",\"name\":\"n\",\"props\":{\"p\":\"%.*s\"}}",
                KZ_PROPS_SIZE_MAX - 8 + extra, big);
        assert_int_equal(events(rig, text), KZ_OK);
        assert_int_equal(only(rig)->state == KZ_INTAKE_REJECTED, extra);
        if (extra)
            assert_string_equal(only(rig)->code, "props_too_large");
    }
    free(text);
    free(big);
}

static void columns_convert(void **state)
{
    struct rig *rig = *state;
    const struct kz_value *c;

    assert_int_equal(events(rig, "{\"user_id\":\"u\",\"name\":\"n\",\"props\":{\"price\":\"24.9\","
                                 "\"count\":\"3\",\"product_id\":17,\"gift\":\"false\"}}"),
            KZ_OK);
    c = only(rig)->event.columns;
    assert_int_equal(only(rig)->state, KZ_INTAKE_ACCEPTED);
    assert_true(c[PRICE].type == KZ_TYPE_FLOAT && c[PRICE].real == 24.9);
    assert_true(c[COUNT].type == KZ_TYPE_INT && c[COUNT].integer == 3);
    is_text(c[ITEM].text, "17");
    assert_true(c[GIFT].type == KZ_TYPE_BOOL && c[GIFT].integer == 0);

    assert_int_equal(events(rig, "{\"user_id\":\"u\",\"name\":\"n\",\"props\":{\"price\":\"\","
                                 "\"count\":5.0,\"product_id\":\"\",\"gift\":null}}"),
            KZ_OK);
    c = only(rig)->event.columns;
    assert_int_equal(only(rig)->state, KZ_INTAKE_ACCEPTED);
    assert_int_equal(c[PRICE].type, KZ_TYPE_NULL);
    assert_true(c[COUNT].type == KZ_TYPE_INT && c[COUNT].integer == 5);
    assert_int_equal(c[ITEM].type, KZ_TYPE_TEXT);
    assert_int_equal(c[GIFT].type, KZ_TYPE_NULL);
}

static void the_first_of_two_members_counts(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(events(rig, "{\"user_id\":\"u\",\"name\":\"n\",\"props\":{\"count\":1,"
                                 "\"coun\\u0074\":2}}"),
            KZ_OK);
    assert_int_equal(only(rig)->event.columns[COUNT].integer, 1);
    assert_int_equal(
            events(rig, "{\"user_id\":\"u\",\"name\":\"n\",\"props\":{\"coun\\u0074\":2}}"), KZ_OK);
    assert_int_equal(only(rig)->event.columns[COUNT].integer, 2);
}

static void escaped_field_names_are_fields(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(events(rig, "{\"user\\u005fid\":\"u\\u00e9\",\"name\":\"n\"}"), KZ_OK);
    is_text(only(rig)->event.user_id, "u\xc3\xa9");
}

static void unknown_fields_are_reported(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(events(rig, "[{\"user_id\":\"u\",\"name\":\"n\",\"price\":3},"
                                 "{\"user_id\":\"u\",\"name\":\"n\",\"price\":3,\"x\":{}}]"),
            KZ_OK);
    assert_int_equal(rig->shaped.rejected_count, 0);
    assert_int_equal(rig->shaped.ignored_count, 2);
    is_text(rig->shaped.ignored[0], "\"price\"");
    is_text(rig->shaped.ignored[1], "\"x\"");
}

static void identity_by_name(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(
            events(rig, "[{\"user_id\":\"u\",\"anonymous_id\":\"a\",\"name\":\"identify\"},"
                        "{\"user_id\":\"u\",\"anonymous_id\":\"a\",\"name\":\"alias\"},"
                        "{\"user_id\":\"u\",\"name\":\"identify\"},"
                        "{\"user_id\":\"u\",\"anonymous_id\":\"a\",\"name\":\"view\"}]"),
            KZ_OK);
    assert_int_equal(rig->shaped.items[0]->event.identity, KZ_IDENTITY_IDENTIFY);
    assert_int_equal(rig->shaped.items[1]->event.identity, KZ_IDENTITY_ALIAS);
    assert_int_equal(rig->shaped.items[2]->event.identity, KZ_IDENTITY_NONE);
    assert_int_equal(rig->shaped.items[3]->event.identity, KZ_IDENTITY_NONE);
}

static void arrays_lines_and_objects_are_told_apart(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(
            events(rig, "[{\"user_id\":\"u\",\"name\":\"n\"}, 3, {\"name\":\"n\"}]"), KZ_OK);
    assert_false(rig->shaped.single);
    assert_int_equal(rig->shaped.item_count, 3);
    assert_int_equal(rig->shaped.rejected_count, 2);
    assert_string_equal(rig->shaped.items[1]->code, "not_object");
    is_text(rig->shaped.items[1]->payload, "3");
    is_text(rig->shaped.items[2]->payload, "{\"name\":\"n\"}");

    assert_int_equal(events(rig, "[]"), KZ_OK);
    assert_int_equal(rig->shaped.item_count, 0);

    assert_int_equal(events(rig, "{\"user_id\":\"u\",\n \"name\":\n\"n\"}\n"), KZ_OK);
    assert_true(rig->shaped.single);

    assert_int_equal(events(rig, "{\"user_id\":\"u\",\"name\":\"n\"}\r\n\r\n{\"user_id\":\"v\","
                                 "\"name\":\"m\"}\r\n"),
            KZ_OK);
    assert_false(rig->shaped.single);
    assert_int_equal(rig->shaped.item_count, 2);
    is_text(rig->shaped.items[1]->event.user_id, "v");
}

static void a_broken_line_costs_that_line(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(events(rig, "{\"user_id\":\"u\",\"name\":\"n\"}\n"
                                 "{\"user_id\":\"u\",\"name\":}\n"
                                 "nonsense\n"
                                 "[1]\n"
                                 "{\"user_id\":\"w\",\"name\":\"n\"} x\n"
                                 "{\"user_id\":\"v\",\"name\":\"n\"}"),
            KZ_OK);
    assert_int_equal(rig->shaped.item_count, 6);
    assert_int_equal(rig->shaped.rejected_count, 4);
    assert_string_equal(rig->shaped.items[1]->code, "bad_json");
    is_text(rig->shaped.items[1]->message, "unexpected '}' at byte 22, expected a value");
    is_text(rig->shaped.items[1]->payload, "{\"user_id\":\"u\",\"name\":}");
    assert_string_equal(rig->shaped.items[2]->code, "bad_json");
    assert_string_equal(rig->shaped.items[3]->code, "not_object");
    assert_string_equal(rig->shaped.items[4]->code, "bad_json");
    assert_int_equal(rig->shaped.items[5]->state, KZ_INTAKE_ACCEPTED);

    /* Also where it is the first. */
    assert_int_equal(events(rig, "{\"user_id\":\n{\"user_id\":\"v\",\"name\":\"n\"}"), KZ_OK);
    assert_int_equal(rig->shaped.item_count, 2);
    assert_int_equal(rig->shaped.rejected_count, 1);
    is_text(rig->shaped.items[1]->event.user_id, "v");
}

static void a_broken_text_fails_with_its_byte(void **state)
{
    static const struct {
        const char *text, *message;
    } rows[] = {
            {"", "there is no event: the body is empty"},
            {" \n\t", "there is no event: the body is empty"},
            {" \n{\"user_id\":}", "unexpected '}' at byte 13, expected a value"},
            {"[{\"user_id\":\"u\",\"name\":\"n\"},]",
                    "unexpected ']' at byte 28, expected a value"},
            {"[{\"user_id\":\"u\",\"name\":\"n\"}",
                    "unexpected end at byte 27, expected ',' or ']'"},
            {"{\"user_id\":\"\xff\"}", "invalid UTF-8 in a string at byte 12"},
            {"{\"a\":1}{\"b\":2}", "unexpected '{' at byte 7, expected the end"},
            {"hello", "unexpected 'h' at byte 0, expected a value"},
    };
    struct rig *rig = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        assert_int_equal(events(rig, rows[i].text), KZ_INVALID);
        assert_string_equal(rig->err.message, rows[i].message);
    }
}

static void depth_is_32_in_every_clothing(void **state)
{
    struct rig *rig = *state;
    char deep[100] = "", text[400];

    for (int depth = 31; depth <= 32; depth++) {
        memset(deep, '[', 31);
        sprintf(deep, "%.*s%.*s", depth - 1, "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", depth - 1,
                "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]");
        /* The event and its props are two more. */
        snprintf(text, sizeof(text), "{\"user_id\":\"u\",\"name\":\"n\",\"props\":{\"p\":%s}}",
                deep);
        assert_int_equal(events(rig, text), depth == 31 ? KZ_OK : KZ_INVALID);
        snprintf(text, sizeof(text), "[{\"user_id\":\"u\",\"name\":\"n\",\"props\":{\"p\":%s}}]",
                deep);
        assert_int_equal(events(rig, text), depth == 31 ? KZ_OK : KZ_INVALID);
        snprintf(text, sizeof(text),
                "{\"batch\":[{\"type\":\"track\",\"userId\":\"u\",\"event\":\"n\",\"properties\":{"
                "\"p\":%s}}]}",
                deep);
        assert_int_equal(calls(rig, KZ_CALL_BATCH, text), depth == 31 ? KZ_OK : KZ_INVALID);
    }
}

static void a_request_is_bounded(void **state)
{
    struct rig *rig = *state;
    struct kz_buf buf = {0};
    struct kz_arena small;
    struct kz_shape_input input = {.arena = &small};

    kz_buf_char(&buf, '[');
    for (int i = 0; i < KZ_SHAPE_ITEMS_MAX; i++)
        kz_buf_cstr(&buf, i ? ",{}" : "{}");
    kz_buf_char(&buf, ']');
    rig->arena.size_max_bytes = 64 << 20;
    assert_int_equal(events_n(rig, kz_buf_view(&buf)), KZ_OK);
    assert_int_equal(rig->shaped.rejected_count, KZ_SHAPE_ITEMS_MAX);
    buf.size--;
    kz_buf_cstr(&buf, ",{}]");
    assert_int_equal(events_n(rig, kz_buf_view(&buf)), KZ_TOO_LARGE);
    assert_string_equal(rig->err.message, "more than 10000 events in one request");
    /* An arena that is full is an error and no crash, wherever it happens. */
    for (size_t size = 0; size < 12000; size += 56) {
        kz_arena_init(&small, size + 8);
        input.text = KZ_STR(
                "[{\"user_id\":\"\\u0041\",\"name\":\"\\u0041\",\"event_id\":\"\\u0041\","
                "\"props\":{\"product_id\":\"\\u0041\",\"address\":{\"city\":\"\\u0041\"}}},"
                "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}]");
        if (kz_shape_events(rig->shaper, &input, &rig->shaped, &rig->err) != KZ_OK)
            assert_int_equal(rig->err.code, KZ_TOO_LARGE);
        kz_arena_done(&small);
    }
    kz_buf_done(&buf);
}

/* ---- calls ---- */

static void track_takes_the_clock_out(void **state)
{
    struct rig *rig = *state;
    struct kz_event *e;

    /* Their clock is an hour behind; the event happened 10 s before it was sent. */
    assert_int_equal(
            calls(rig, KZ_CALL_TRACK,
                    "{\"userId\":\"u1\",\"anonymousId\":\"a1\",\"messageId\":\"m1\",\"event\":"
                    "\"Product Added\","
                    "\"properties\":{\"price\":\"24.9\",\"product_id\":\"17\"},\"writeKey\":\"WK\","
                    "\"timestamp\":\"2026-11-23T22:51:20.000Z\",\"sentAt\":\"2026-11-23T22:51:30."
                    "000Z\"}"),
            KZ_OK);
    assert_true(rig->shaped.single);
    is_text(rig->shaped.write_key, "WK");
    e = &only(rig)->event;
    is_text(e->name, "Product Added");
    is_text(e->event_id, "m1");
    assert_true(e->client_ts_ms == NOW - 10000);
    assert_true(e->ts_ms == 0);
    is_text(e->props, "{\"price\":\"24.9\",\"product_id\":\"17\"}");
    assert_true(e->columns[PRICE].real == 24.9);
}

static void props_of_each_call(void **state)
{
    static const struct {
        enum kz_call call;
        const char *text, *name, *props;
        enum kz_identity_op identity;
    } rows[] = {
            {KZ_CALL_PAGE,
                    "{\"userId\":\"u\",\"name\":\"Product\",\"category\":\"shop\",\"properties\":{"
                    "\"url\":\"/\"}}",
                    "page", "{\"url\":\"/\",\"name\":\"Product\",\"category\":\"shop\"}",
                    KZ_IDENTITY_NONE},
            {KZ_CALL_PAGE,
                    "{\"userId\":\"u\",\"name\":\"Product\",\"properties\":{\"name\":\"P\"}}",
                    "page", "{\"name\":\"P\"}", KZ_IDENTITY_NONE},
            {KZ_CALL_SCREEN, "{\"userId\":\"u\",\"name\":\"Home\"}", "screen",
                    "{\"name\":\"Home\"}", KZ_IDENTITY_NONE},
            {KZ_CALL_IDENTIFY,
                    "{\"userId\":\"u\",\"anonymousId\":\"a\",\"traits\":{\"plan\":\"gold\"},"
                    "\"context\":{\"ip\":\"::1\"}}",
                    "identify", "{\"plan\":\"gold\",\"context\":{\"ip\":\"::1\"}}",
                    KZ_IDENTITY_IDENTIFY},
            {KZ_CALL_IDENTIFY, "{\"userId\":\"u\",\"context\":{\"traits\":{\"plan\":\"gold\"}}}",
                    "identify", "{\"plan\":\"gold\",\"context\":{\"traits\":{\"plan\":\"gold\"}}}",
                    KZ_IDENTITY_NONE},
            {KZ_CALL_GROUP, "{\"userId\":\"u\",\"groupId\":\"g\",\"traits\":{ }}", "group",
                    "{\"groupId\":\"g\"}", KZ_IDENTITY_NONE},
            {KZ_CALL_ALIAS, "{\"userId\":\"u\",\"previousId\":\"old\"}", "alias", "",
                    KZ_IDENTITY_ALIAS},
            {KZ_CALL_TRACK, "{\"userId\":\"u\",\"event\":\"x\",\"properties\":null,\"context\":{}}",
                    "x", "", KZ_IDENTITY_NONE},
    };
    struct rig *rig = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        assert_int_equal(calls(rig, rows[i].call, rows[i].text), KZ_OK);
        assert_int_equal(only(rig)->state, KZ_INTAKE_ACCEPTED);
        is_text(only(rig)->event.name, rows[i].name);
        is_text(only(rig)->event.props, rows[i].props);
        assert_int_equal(only(rig)->event.identity, rows[i].identity);
    }
    assert_int_equal(calls(rig, KZ_CALL_ALIAS, "{\"userId\":\"u\",\"previousId\":\"old\"}"), KZ_OK);
    is_text(only(rig)->event.anonymous_id, "old");
}

static void batches_are_partial(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(calls(rig, KZ_CALL_BATCH,
                             "{\"batch\":[{\"type\":\"track\",\"userId\":\"u\",\"event\":\"a\","
                             "\"timestamp\":\"2026-11-23T23:00:00Z\"},"
                             "{\"type\":\"dance\",\"userId\":\"u\"}, 7,"
                             "{\"type\":\"track\",\"userId\":\"u\"},"
                             "{\"type\":\"alias\",\"userId\":\"u\"},"
                             "{\"type\":\"track\",\"event\":\"b\",\"anonymousId\":\"a\","
                             "\"originalTimestamp\":\"2026-11-23T23:00:00Z\","
                             "\"sentAt\":\"2026-11-23T23:00:02Z\"}],"
                             "\"sentAt\":\"2026-11-23T23:00:01Z\",\"writeKey\":\"WK\"}"),
            KZ_OK);
    assert_false(rig->shaped.single);
    assert_int_equal(rig->shaped.item_count, 6);
    assert_true(rig->shaped.items[0]->event.client_ts_ms == NOW - 1000);
    assert_string_equal(rig->shaped.items[1]->code, "bad_type");
    is_text(rig->shaped.items[1]->payload, "{\"type\":\"dance\",\"userId\":\"u\"}");
    is_text(rig->shaped.items[1]->event.user_id, "u");
    assert_string_equal(rig->shaped.items[2]->code, "not_object");
    assert_string_equal(rig->shaped.items[3]->code, "missing_name");
    assert_string_equal(rig->shaped.items[4]->code, "missing_previous_id");
    assert_true(rig->shaped.items[5]->event.client_ts_ms == NOW - 2000);
    is_text(rig->shaped.write_key, "WK");

    assert_int_equal(
            calls(rig, KZ_CALL_BATCH, "{\"sentAt\":\"2026-11-23T23:00:01Z\"}"), KZ_INVALID);
    assert_string_equal(rig->err.message, "\"batch\" is missing");
    assert_int_equal(calls(rig, KZ_CALL_BATCH, "{\"batch\":{}}"), KZ_INVALID);
    assert_int_equal(calls(rig, KZ_CALL_BATCH, "{\"batch\":[],\"sentAt\":\"soon\"}"), KZ_INVALID);
    assert_int_equal(calls(rig, KZ_CALL_BATCH, "{\"batch\":[{]}"), KZ_INVALID);
    assert_string_equal(rig->err.message, "unexpected ']' at byte 11, expected a member name");
}

/* ---- the clients' own requests ---- */

static char *read_shared(const char *path)
{
    const char *shared = getenv("KZ_SHARED");
    char full[1000];
    char *data = NULL;
    size_t size = 0;
    FILE *file;

    snprintf(full, sizeof(full), "%s/%s", shared ? shared : "../shared", path);
    file = fopen(full, "r");
    if (!file)
        return NULL;
    data = kz_calloc(1, 1 << 20);
    size = fread(data, 1, (1 << 20) - 1, file);
    fclose(file);
    data[size] = '\0';
    return data;
}

/* "name user anonymous identity age", one a line: what must come of a client's requests. */
static void describe(struct rig *rig, struct kz_buf *out)
{
    for (size_t i = 0; i < rig->shaped.item_count; i++) {
        const struct kz_intake_item *item = rig->shaped.items[i];

        assert_int_equal(item->state, KZ_INTAKE_ACCEPTED);
        assert_true(item->event.event_id.size > 20);
        kz_buf_printf(out, KZ_STR_FMT "|" KZ_STR_FMT "|" KZ_STR_FMT "|%lld|",
                KZ_STR_ARG(item->event.name), KZ_STR_ARG(item->event.user_id),
                KZ_STR_ARG(item->event.anonymous_id), (long long)(NOW - item->event.client_ts_ms));
        if (item->event.columns[PRICE].type == KZ_TYPE_FLOAT)
            kz_buf_printf(out, "%g", item->event.columns[PRICE].real);
        kz_buf_printf(out, "|" KZ_STR_FMT "\n", KZ_STR_ARG(item->event.columns[ITEM].text));
    }
}

static void captured_segment_and_rudderstack(void **state)
{
    struct rig *rig = *state;
    char *captures = read_shared("data/sdk-captures/captures.json");
    struct kz_json_value root, capture;
    struct kz_json_walk walk;
    struct kz_buf segment = {0}, rudder = {0};

    if (!captures) {
        print_message("no captures: set KZ_SHARED to the directory that holds data/sdk-captures\n");
        skip();
    }
    assert_int_equal(kz_json_parse(kz_str(captures), 0, &root, &rig->err), KZ_OK);
    walk = kz_json_walk(root);
    while (kz_json_walk_element(&walk, &capture)) {
        struct kz_json_value client = kz_json_get(capture, "client");
        struct kz_str body = kz_json_get(capture, "body").raw;
        bool is_segment = kz_json_is(client, "@segment/analytics-node");
        char *text;

        if (!is_segment && !kz_json_is(client, "@rudderstack/rudder-sdk-node"))
            continue;
        assert_true(kz_json_is(kz_json_get(capture, "path"), "/v1/batch"));
        text = kz_strndup(body.ptr, body.size);
        assert_int_equal(calls(rig, KZ_CALL_BATCH, text), KZ_OK);
        describe(rig, is_segment ? &segment : &rudder);
        free(text);
    }
    kz_buf_char(&segment, '\0');
    kz_buf_char(&rudder, '\0');
    assert_string_equal(segment.data, "identify|u1||26||\n"
                                      "page|u1||25||\n"
                                      "Product Added|u1||8|24.9|17\n"
                                      "Order Completed||anon-1|7||\n");
    assert_string_equal(rudder.data, "identify|u1||1||\n"
                                     "page|u1||39||\n"
                                     "Product Added|u1||33|24.9|17\n"
                                     "Order Completed||anon-1|33||\n");
    kz_buf_done(&segment);
    kz_buf_done(&rudder);
    free(captures);
}

/* ---- on its way over a bus ---- */

static void same_item(const struct kz_intake_item *a, const struct kz_intake_item *b)
{
    assert_true(kz_str_eq(a->event.event_id, b->event.event_id));
    assert_true(kz_str_eq(a->event.user_id, b->event.user_id));
    assert_true(kz_str_eq(a->event.anonymous_id, b->event.anonymous_id));
    assert_true(kz_str_eq(a->event.name, b->event.name));
    assert_true(kz_str_eq(a->awaited, b->awaited));
    assert_true(kz_str_eq(a->event.props, b->event.props));
    assert_true(a->event.client_ts_ms == b->event.client_ts_ms);
    assert_true(a->event.received_at_ms == b->event.received_at_ms);
    assert_true(a->event.flags == b->event.flags && a->event.identity == b->event.identity);
    assert_true(a->event.columns_id == b->event.columns_id);
    assert_int_equal(a->event.column_count, b->event.column_count);
    for (size_t i = 0; i < a->event.column_count; i++) {
        assert_int_equal(a->columns[i].type, b->columns[i].type);
        if (a->columns[i].type == KZ_TYPE_TEXT)
            assert_true(kz_str_eq(a->columns[i].text, b->columns[i].text));
        else if (a->columns[i].type != KZ_TYPE_NULL)
            assert_true(a->columns[i].integer == b->columns[i].integer);
    }
}

static void what_collect_made_comes_out_the_same(void **state)
{
    static const char text[] =
            "[{\"event_id\":\"e\\u00e41\",\"user_id\":17,\"name\":\"view\",\"ts\":\"1970-01-01T00:00:00.005Z\","
            "\"props\":{\"price\": 3,\n \"product_id\":\"\\\"x\\\"\",\"address\":{\"city\":\"K\\u00f6ln\"}}},"
            "{\"event_id\":\"e2\",\"user_id\":\"ada\",\"anonymous_id\":\"a b\",\"name\":\"alias\"},"
            "{\"event_id\":\"e3\",\"anonymous_id\":\"a1\",\"name\":\"n\",\"props\":{}}]";
    struct rig *rig = *state;
    struct kz_shape_input input = {.arena = &rig->arena};
    struct kz_shaped back = {0};
    struct kz_buf message = {0};

    assert_int_equal(events(rig, text), KZ_OK);
    assert_int_equal(rig->shaped.item_count, 3);
    for (size_t i = 0; i < 3; i++) {
        rig->shaped.items[i]->event.received_at_ms = NOW + (int64_t)i;
        if (i == 2)
            rig->shaped.items[i]->event.flags |= KZ_EVENT_ID_MADE | KZ_EVENT_ACTION;
        if (i == 1)
            rig->shaped.items[i]->awaited = KZ_STR("5f00-7-1");
        kz_message_put_item(rig->shaped.items[i], &message);
    }
    input.text = kz_buf_view(&message);
    assert_int_equal(kz_shape_collected(rig->shaper, &input, &back, &rig->err), KZ_OK);
    assert_int_equal(back.item_count, 3);
    for (size_t i = 0; i < 3; i++)
        same_item(rig->shaped.items[i], back.items[i]);
    kz_buf_done(&message);
}

static void what_collect_refused_comes_out_with_its_reason(void **state)
{
    struct rig *rig = *state;
    struct kz_shape_input input = {.arena = &rig->arena};
    struct kz_shaped back = {0};
    struct kz_buf message = {0};

    assert_int_equal(events(rig, "{\"user_id\":\"ada\",\"name\":5}"), KZ_OK);
    rig->shaped.items[0]->event.received_at_ms = NOW;
    kz_message_put_item(rig->shaped.items[0], &message);
    input.text = kz_buf_view(&message);
    assert_int_equal(kz_shape_collected(rig->shaper, &input, &back, &rig->err), KZ_OK);
    assert_int_equal(back.rejected_count, 1);
    assert_int_equal(back.items[0]->state, KZ_INTAKE_REJECTED);
    assert_string_equal(back.items[0]->code, "bad_name");
    assert_true(kz_str_is(back.items[0]->payload, "{\"user_id\":\"ada\",\"name\":5}"));
    assert_true(kz_str_is(back.items[0]->event.user_id, "ada"));
    assert_true(back.items[0]->event.received_at_ms == NOW);
    kz_buf_done(&message);
}

static void a_message_that_collect_did_not_write_is_refused_whole(void **state)
{
    static const char *const texts[] = {
            "",
            "5",
            "{}",
            "{\"received_at\":5}",
            "{\"event_id\":\"e\",\"user_id\":\"u\",\"name\":\"n\"}",
            "{\"event_id\":\"e\",\"user_id\":\"u\",\"name\":\"n\",\"received_at\":0}",
            "{\"event_id\":\"e\",\"user_id\":\"u\",\"name\":\"n\",\"received_at\":5.5}",
            "{\"event_id\":\"e\",\"user_id\":5,\"name\":\"n\",\"received_at\":5}",
            "{\"event_id\":\"e\",\"name\":\"n\",\"received_at\":5}",
            "{\"user_id\":\"u\",\"name\":\"n\",\"received_at\":5}",
            "{\"event_id\":\"e\",\"user_id\":\"u\",\"received_at\":5}",
            "{\"event_id\":\"e\",\"user_id\":\"u\",\"name\":\"n\",\"received_at\":5,\"props\":[]}",
            "{\"event_id\":\"e\",\"user_id\":\"u\",\"name\":\"n\",\"received_at\":5,\"identity\":\"alias\"}",
            "{\"event_id\":\"e\",\"user_id\":\"u\",\"name\":\"n\",\"received_at\":5,\"received_at\":5}",
            "{\"event_id\":\"e\",\"user_id\":\"u\",\"name\":\"n\",\"received_at\":5}\n{\"event_id\":",
            "{\"rejected\":\"\",\"received_at\":5}",
    };
    struct rig *rig = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(texts); i++) {
        struct kz_shape_input input = {.text = kz_str(texts[i]), .arena = &rig->arena};
        struct kz_shaped back = {0};

        if (kz_shape_collected(rig->shaper, &input, &back, &rig->err) != KZ_INVALID)
            fail_msg("was taken: %s", texts[i]);
    }
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, up, down)
    const struct CMUnitTest tests[] = {
            T(one_object_with_everything),
            T(what_collect_made_comes_out_the_same),
            T(what_collect_refused_comes_out_with_its_reason),
            T(a_message_that_collect_did_not_write_is_refused_whole),
            T(little_is_enough),
            T(times),
            T(rejections_name_field_and_value),
            T(sizes_at_their_limits),
            T(columns_convert),
            T(the_first_of_two_members_counts),
            T(escaped_field_names_are_fields),
            T(unknown_fields_are_reported),
            T(identity_by_name),
            T(arrays_lines_and_objects_are_told_apart),
            T(a_broken_line_costs_that_line),
            T(a_broken_text_fails_with_its_byte),
            T(depth_is_32_in_every_clothing),
            T(a_request_is_bounded),
            T(track_takes_the_clock_out),
            T(props_of_each_call),
            T(batches_are_partial),
            T(captured_segment_and_rudderstack),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
