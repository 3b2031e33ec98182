#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "codec/json.h"
#include "codec/json_out.h"

static void assert_buf(struct kz_buf *buf, const char *expected)
{
    kz_buf_char(buf, '\0');
    assert_string_equal(buf->data, expected);
    kz_buf_clear(buf);
}

static void commas_come_by_themselves(void **state)
{
    struct kz_buf buf = {0};
    struct kz_json_out out = kz_json_out(&buf);

    (void)state;
    kz_json_out_object(&out);
    kz_json_out_kv_cstr(&out, "a", "x");
    kz_json_out_key(&out, "b");
    kz_json_out_array(&out);
    kz_json_out_i64(&out, INT64_MIN);
    kz_json_out_u64(&out, UINT64_MAX);
    kz_json_out_array(&out);
    kz_json_out_array_end(&out);
    kz_json_out_object(&out);
    kz_json_out_object_end(&out);
    kz_json_out_bool(&out, true);
    kz_json_out_cstr(&out, NULL);
    kz_json_out_array_end(&out);
    kz_json_out_kv_bool(&out, "c", false);
    kz_json_out_kv_i64(&out, "d", 0);
    kz_json_out_kv_u64(&out, "e", 7);
    kz_json_out_kv_f64(&out, "f", 0.5);
    kz_json_out_kv_raw(&out, "g", KZ_STR("[1]"));
    kz_json_out_kv_str(&out, "h", KZ_STR_NULL);
    kz_json_out_object_end(&out);
    assert_buf(&buf,
            "{\"a\":\"x\",\"b\":[-9223372036854775808,18446744073709551615,[],{},true,null],"
            "\"c\":false,\"d\":0,\"e\":7,\"f\":0.5,\"g\":[1],\"h\":\"\"}");
    kz_buf_done(&buf);
}

static void strings_are_always_valid(void **state)
{
    struct kz_buf buf = {0};

    (void)state;
    kz_json_quote(&buf, KZ_STR("a\"b\\c\n\r\t\b\f\x01\x1f\x7f/\xe5\x85\x86"));
    assert_buf(&buf, "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001\\u001f\x7f/\xe5\x85\x86\"");
    kz_json_quote(&buf, KZ_STR("a\xff\xfe"
                               "b\xe5\x85"));
    assert_buf(&buf, "\"a\xef\xbf\xbd"
                     "b\xef\xbf\xbd\"");
    kz_json_quote(&buf, kz_str_n("\0", 1));
    assert_buf(&buf, "\"\\u0000\"");
    kz_buf_done(&buf);
}

static void doubles_are_short_and_read_back(void **state)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0, "0.0"}, {-0.0, "-0.0"}, {3, "3.0"}, {-12, "-12.0"}, {0.1, "0.1"},
            {0.1 + 0.2, "0.30000000000000004"}, {19.99, "19.99"}, {1e15, "1e+15"}, {1e22, "1e+22"},
            {123456.789, "123456.789"}, {5e-324, "4.94065645841247e-324"},
            {1.0 / 3, "0.3333333333333333"}, {9007199254740993.0, "9007199254740992.0"},
            {NAN, "null"}, {INFINITY, "null"}};
    struct kz_buf buf = {0};
    uint64_t bits = 1;

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++) {
        kz_json_double(&buf, cases[i].value);
        assert_buf(&buf, cases[i].text);
    }
    for (int i = 0; i < 20000; i++) {
        struct kz_json_value value;
        double v, back = 0;

        bits = bits * 6364136223846793005ull + 1442695040888963407ull;
        memcpy(&v, &bits, sizeof(v));
        if (!isfinite(v))
            continue;
        kz_json_double(&buf, v);
        assert_int_equal(kz_json_parse(kz_buf_view(&buf), 0, &value, NULL), KZ_OK);
        assert_int_equal(value.kind, KZ_JSON_FLOAT);
        assert_int_equal(kz_json_f64(value, &back, NULL), KZ_OK);
        assert_memory_equal(&v, &back, sizeof(v));
        kz_buf_clear(&buf);
    }
    kz_buf_done(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(commas_come_by_themselves),
            cmocka_unit_test(strings_are_always_valid),
            cmocka_unit_test(doubles_are_short_and_read_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
