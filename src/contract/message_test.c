#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "contract/message.h"

static void a_lane_is_one_of_128(void **state)
{
    char name[KZ_LANE_BYTES];

    (void)state;
    kz_lane_name(7, name);
    assert_string_equal(name, "lane-007");
    kz_lane_name(128 + 127, name);
    assert_string_equal(name, "lane-127");
}

static void an_event_is_a_line_with_what_collect_knows(void **state)
{
    struct kz_intake_item item = {.event = {
                                          .event_id = KZ_STR("e1"),
                                          .user_id = KZ_STR("ada"),
                                          .anonymous_id = KZ_STR("anon \"1\""),
                                          .name = KZ_STR("identify"),
                                          .props = KZ_STR("{\"a\": 1}"),
                                          .client_ts_ms = 5,
                                          .received_at_ms = 7,
                                          .identity = KZ_IDENTITY_IDENTIFY,
                                          .flags = KZ_EVENT_ID_MADE,
                                  }};
    struct kz_buf out = {0};

    (void)state;
    kz_message_put_item(&item, &out);
    assert_true(kz_str_is(kz_buf_view(&out),
            "{\"event_id\":\"e1\",\"user_id\":\"ada\",\"anonymous_id\":\"anon \\\"1\\\"\","
            "\"name\":\"identify\",\"ts\":5,\"props\":{\"a\": 1},\"identity\":\"identify\","
            "\"made\":true,\"received_at\":7}\n"));
    kz_buf_done(&out);
}

static void what_was_refused_goes_the_same_way(void **state)
{
    struct kz_intake_item item = {
            .event = {.user_id = KZ_STR("ada"), .received_at_ms = 7},
            .state = KZ_INTAKE_REJECTED,
            .code = "bad_name",
            .message = KZ_STR("name is 5"),
            .payload = KZ_STR("{\"name\":5,\xff"),
    };
    struct kz_buf out = {0};

    (void)state;
    kz_message_put_item(&item, &out);
    assert_true(kz_str_is(kz_buf_view(&out),
            "{\"rejected\":\"bad_name\",\"message\":\"name is 5\","
            "\"payload\":\"{\\\"name\\\":5,\xef\xbf\xbd\",\"user_id\":\"ada\",\"received_at\":7}\n"));
    kz_buf_done(&out);
}

/* ---- REQUESTS -------------------------------------------------------------------------------- */

static void make_record(struct kz_buf *out)
{
    struct kz_record head = {.type = KZ_RECORD_REQUEST, .seq = 40, .at_ms = 9, .owner = 77};
    struct kz_request_body body = {.now_ms = 9, .event = 30, .user_kind = 'u'};
    struct kz_body_writer w;

    kz_buf_put(out, &head, sizeof(head));
    w = kz_body_begin(out, &body, sizeof(body));
    kz_body_span(&w, offsetof(struct kz_request_body, model), KZ_STR("purchase"));
    kz_body_span(&w, offsetof(struct kz_request_body, trigger), KZ_STR("browsing"));
    kz_body_span(&w, offsetof(struct kz_request_body, user_id), KZ_STR("ada"));
    kz_body_span(&w, offsetof(struct kz_request_body, event_id), KZ_STR("e1"));
    kz_store_u32(out->data, (uint32_t)out->size);
}

static void encode(struct kz_buf *out)
{
    struct kz_buf record = {0};
    struct kz_request_message message = {
            .owner = 77, .lsn = 40, .sources = {{77, 30}, {78, 12}}, .source_count = 2};

    make_record(&record);
    message.record = (const struct kz_record *)(void *)record.data;
    kz_request_message_encode(&message, out);
    kz_buf_done(&record);
}

static void a_request_comes_back_as_it_was(void **state)
{
    struct kz_buf bytes = {0}, hold = {0};
    struct kz_request_message message;

    (void)state;
    kz_buf_char(&bytes, 'x'); /* wherever it lies in memory */
    encode(&bytes);
    assert_int_equal(kz_request_message_decode(
                             kz_str_n(bytes.data + 1, bytes.size - 1), &hold, &message, NULL),
            KZ_OK);
    assert_true(message.owner == 77 && message.lsn == 40);
    assert_int_equal(message.source_count, 2);
    assert_true(message.sources[1].owner == 78 && message.sources[1].head == 12);
    assert_true(message.record->seq == 40);
    assert_true(kz_str_is(kz_request_message_model(&message), "purchase"));
    kz_buf_done(&bytes);
    kz_buf_done(&hold);
}

static void every_byte_of_a_request_is_checked(void **state)
{
    struct kz_buf bytes = {0}, hold = {0};
    struct kz_request_message message = {.owner = 5};

    (void)state;
    encode(&bytes);
    for (size_t i = 0; i < bytes.size; i++) {
        bytes.data[i] ^= 4;
        assert_int_not_equal(
                kz_request_message_decode(kz_buf_view(&bytes), &hold, &message, NULL), KZ_OK);
        bytes.data[i] ^= 4;
        assert_int_not_equal(
                kz_request_message_decode(kz_str_n(bytes.data, i), &hold, &message, NULL), KZ_OK);
    }
    assert_true(message.owner == 5); /* untouched on failure */
    assert_int_equal(kz_request_message_decode(kz_buf_view(&bytes), &hold, &message, NULL), KZ_OK);
    kz_buf_done(&bytes);
    kz_buf_done(&hold);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_lane_is_one_of_128),
            cmocka_unit_test(an_event_is_a_line_with_what_collect_knows),
            cmocka_unit_test(what_was_refused_goes_the_same_way),
            cmocka_unit_test(a_request_comes_back_as_it_was),
            cmocka_unit_test(every_byte_of_a_request_is_checked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
