#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/diag.h"

static char line[KZ_DIAG_LINE_MAX_BYTES + 1];

KZ_PRINTF(3, 4)
static const char *say(bool json, const char *what, const char *fields, ...)
{
    va_list args;
    size_t size;

    va_start(args, fields);
    size = kz_diag_format(line, KZ_DIAG_WARN, json, 1764293523456, what, fields, args);
    va_end(args);
    assert_true(size <= KZ_DIAG_LINE_MAX_BYTES);
    line[size] = '\0';
    assert_int_equal(line[size - 1], '\n');
    assert_ptr_equal(strchr(line, '\n'), line + size - 1); /* one line, whatever is in it */
    return line;
}

static void a_quote_within_a_value_ended_it(void **state)
{
    (void)state;
    assert_string_equal(say(false, "a webhook failed", "action=%s attempt=%u reason=\"%s\"",
                                "coupon", 3u, "said \"no=1\" to C:\\x"),
            "2025-11-28T01:32:03.456Z warn  a webhook failed action=coupon attempt=3 "
            "reason=\"said \\\"no=1\\\" to C:\\\\x\"\n");
    assert_string_equal(say(true, "a webhook failed", "action=%s attempt=%u reason=\"%s\"",
                                "coupon", 3u, "said \"no\""),
            "{\"time\":\"2025-11-28T01:32:03.456Z\",\"level\":\"warn\",\"message\":\"a webhook "
            "failed\",\"fields\":{\"action\":\"coupon\",\"attempt\":3,\"reason\":\"said "
            "\\\"no\\\"\"}}\n");
}

static void a_value_begins_no_other_field(void **state)
{
    (void)state;
    /* Without quotes in the format, too: what comes decides. */
    assert_string_equal(strstr(say(false, "x", "model=%s n=%d", "a b=c", -1), "model"),
            "model=\"a b=c\" n=-1\n");
    assert_string_equal(strstr(say(false, "x", "model=%s", ""), "model"), "model=\"\"\n");
    assert_string_equal(strstr(say(false, "x", "to=\"%s and %s\" last", "a", "b"), "to"),
            "to=\"a and b\" last=\"\"\n");
    assert_string_equal(strstr(say(false, "x", "error=\"%s\"", "a\nb\tc\x01\xff\xc3\xa4"), "error"),
            "error=\"a\\nb\\tc\\u0001\xef\xbf\xbd\xc3\xa4\"\n");
    assert_string_equal(strstr(say(true, "w\"", "k=%s", "x"), "\"message"),
            "\"message\":\"w\\\"\",\"fields\":{\"k\":\"x\"}}\n");
}

static void every_conversion_takes_its_own_argument(void **state)
{
    (void)state;
    assert_string_equal(
            strstr(say(true, "x",
                           "a=%llu b=%lld c=%zu d=%" PRIu64 " e=%" PRId64 " f=%.*s g=%.2f h=%x "
                           "i=100%% j=%d%% k=\"%s\" l=%u",
                           18446744073709551615ull, -7ll, (size_t)9, (uint64_t)10, (int64_t)-11, 3,
                           "cut here", 0.125, 255u, 50, "end", 12u),
                    "{\"a\""),
            "{\"a\":18446744073709551615,\"b\":-7,\"c\":9,\"d\":10,\"e\":-11,\"f\":\"cut\","
            "\"g\":0.12,\"h\":\"ff\",\"i\":\"100%\",\"j\":\"50%\",\"k\":\"end\",\"l\":12}}\n");
}

static void behind_an_unknown_conversion_arguments_were_read_at_the_wrong_place(void **state)
{
    (void)state;
    assert_string_equal(strstr(say(false, "x", "a=%d b=\"%5d of %s\" c=%s", 1, 2, "y", "z"), "a="),
            "a=1 b=?\n");
    assert_string_equal(
            strstr(say(true, "x", "a=%p b=%s", (void *)line, "y"), "{\"a"), "{\"a\":\"?\"}}\n");
}

static void a_line_that_is_too_long_can_still_be_read(void **state)
{
    char text[6000];

    (void)state;
    for (int fill = 0; fill < 3; fill++) {
        memset(text, fill == 0 ? 'x' : fill == 1 ? '"' : '\x01', sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        for (int size = 0; size < 6000; size += 37) {
            const char *cut = text + sizeof(text) - 1 - size;
            size_t end;

            say(true, "x", "a=\"%s\" b=\"%s\" c=\"%s\" d=%d", cut, cut, cut, 1);
            end = strlen(line);
            assert_string_equal(line + end - 3, "}}\n");
            assert_true(line[end - 4] == '"' || line[end - 4] == '1');
            say(false, "x", "a=\"%s\" b=\"%s\" c=\"%s\" d=%d", cut, cut, cut, 1);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_quote_within_a_value_ended_it),
            cmocka_unit_test(a_value_begins_no_other_field),
            cmocka_unit_test(every_conversion_takes_its_own_argument),
            cmocka_unit_test(behind_an_unknown_conversion_arguments_were_read_at_the_wrong_place),
            cmocka_unit_test(a_line_that_is_too_long_can_still_be_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
