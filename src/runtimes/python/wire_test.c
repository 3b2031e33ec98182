#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "codec/hex.h"
#include "runtimes/python/python_int.h"

/* The example at the end of docs/worker-protocol.md. */
static const char predict[] =
        "790000000201000007000000020000000200000001000000000000000000000000000840000000000000e03f"
        "000000000000f03f000000000000f87f0068e5cf8b0100000168e5cf8b010000010000000000000005000000"
        "0300000002000000616e6e626f04000000020000000200000065316532040000000400000"
        "0ffffffff4f697461";
static const char answer[] =
        "0200000001010000010000002a000000000000000000d03f000000000000f87f00031d000000ffffffff1d00"
        "0000707265646963742829"
        "2072657475726e6564206e616e206174205b315d";

static struct kz_str bytes_of(const char *hex, char *out)
{
    size_t size = strlen(hex) / 2;

    assert_int_equal(kz_hex_decode(kz_str(hex), out, size, NULL), KZ_OK);
    return kz_str_n(out, size);
}

static void test_predict_is_as_documented(void **state)
{
    const double numeric[] = {3, 0.5, 1, (double)NAN};
    const struct kz_value text[] = {
            {.type = KZ_TYPE_TEXT, .text = KZ_STR("Oita")}, {.type = KZ_TYPE_NULL}};
    const struct kz_str users[] = {KZ_STR("ann"), KZ_STR("bo")},
                        events[] = {KZ_STR("e1"), KZ_STR("e2")};
    const int64_t now[] = {1700000000000, 1700000000001};
    const bool truncated[] = {true, false};
    struct kz_batch batch = {.row_count = 2,
            .numeric_count = 2,
            .numeric = numeric,
            .text_count = 1,
            .text = text,
            .user_ids = users,
            .event_ids = events,
            .now_ms = now,
            .truncated = truncated};
    struct kz_buf out = {0};
    char expected[256];

    (void)state;
    assert_int_equal(kz_py_put_predict(&out, 7, &batch, NULL), KZ_OK);
    assert_true(kz_str_eq(kz_buf_view(&out), bytes_of(predict, expected)));
    kz_buf_done(&out);
}

static void test_result_is_as_documented(void **state)
{
    struct kz_model_def model = {.name = "m"};
    struct wire_result result = {0};
    char bytes[256];

    (void)state;
    assert_int_equal(kz_py_get_result(bytes_of(answer, bytes), &model, 2, &result, NULL), KZ_OK);
    assert_int_equal(result.predict_us, 42);
    assert_int_equal(result.rows[0].state, KZ_ROW_OK);
    assert_true(result.rows[0].value_count == 1 && result.rows[0].values[0] == 0.25);
    assert_int_equal(result.rows[1].state, KZ_ROW_FAILED);
    assert_string_equal(result.rows[1].fail_code, "nan");
    assert_true(kz_str_is(result.rows[1].message, "predict() returned nan at [1]"));
    kz_py_result_done(&result);
}

static void test_every_cut_of_a_result_is_refused(void **state)
{
    struct kz_model_def model = {.name = "m"};
    struct wire_result result = {0};
    char bytes[256];
    struct kz_str whole = bytes_of(answer, bytes);

    (void)state;
    for (size_t size = 0; size < whole.size; size++)
        assert_int_equal(
                kz_py_get_result(kz_str_n(whole.ptr, size), &model, 2, &result, NULL), KZ_INVALID);
    assert_int_equal(kz_py_get_result(whole, &model, 1, &result, NULL), KZ_INVALID);
    kz_py_result_done(&result);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_predict_is_as_documented),
            cmocka_unit_test(test_result_is_as_documented),
            cmocka_unit_test(test_every_cut_of_a_result_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
