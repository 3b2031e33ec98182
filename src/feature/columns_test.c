#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "feature/columns.h"

static void test_from_json(void **state)
{
    static const struct {
        const char *props, *path;
        enum kz_type type;
        const char *expected;
    } cases[] = {
            {"{\"p\":12}", "$.p", KZ_TYPE_FLOAT, "12.00"},
            {"{\"p\":\"12.5\"}", "$.p", KZ_TYPE_FLOAT, "12.50"},
            {"{\"p\":\"\"}", "$.p", KZ_TYPE_FLOAT, "NULL"},
            {"{\"p\":\"cheap\"}", "$.p", KZ_TYPE_FLOAT, "NULL"},
            {"{\"p\":true}", "$.p", KZ_TYPE_FLOAT, "NULL"},
            {"{\"p\":[1]}", "$.p", KZ_TYPE_FLOAT, "NULL"},
            {"{\"p\":null}", "$.p", KZ_TYPE_FLOAT, "NULL"},
            {"{}", "$.p", KZ_TYPE_FLOAT, "NULL"},
            {"", "$.p", KZ_TYPE_FLOAT, "NULL"},
            {"{\"p\":5.0}", "$.p", KZ_TYPE_INT, "5"},
            {"{\"p\":5.5}", "$.p", KZ_TYPE_INT, "NULL"},
            {"{\"p\":\"7\"}", "$.p", KZ_TYPE_INT, "7"},
            {"{\"p\":99999999999999999999}", "$.p", KZ_TYPE_INT, "NULL"},
            {"{\"p\":true}", "$.p", KZ_TYPE_BOOL, "1"},
            {"{\"p\":0}", "$.p", KZ_TYPE_BOOL, "0"},
            {"{\"p\":\"false\"}", "$.p", KZ_TYPE_BOOL, "0"},
            {"{\"p\":2}", "$.p", KZ_TYPE_BOOL, "NULL"},
            {"{\"p\":\"a\\u0062\"}", "$.p", KZ_TYPE_TEXT, "'ab'"},
            {"{\"p\":\"\"}", "$.p", KZ_TYPE_TEXT, "''"},
            {"{\"p\":1.50}", "$.p", KZ_TYPE_TEXT, "'1.50'"},
            {"{\"p\":true}", "$.p", KZ_TYPE_TEXT, "NULL"},
            {"{\"a\":{\"p\":3}}", "$.p", KZ_TYPE_INT, "NULL"},
            {"{\"a\":{\"p\":3}}", "$.a.p", KZ_TYPE_INT, "3"},
            {"{\"a\":[1,{\"p\":3}]}", "$.a[1].p", KZ_TYPE_INT, "3"},
            {"{\"p\":1,\"p\":2}", "$.p", KZ_TYPE_INT, "1"},
            {"{\"\\u0070\":4}", "$.p", KZ_TYPE_INT, "4"},
            {"{\"p q\":4}", "$.\"p q\"", KZ_TYPE_INT, "4"},
    };
    struct kz_arena arena;

    (void)state;
    kz_arena_init(&arena, 0);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++) {
        struct kz_value v = kz_column_from_json(
                cases[i].path, cases[i].type, kz_str(cases[i].props), &arena);
        char out[64] = "NULL";

        if (v.type == KZ_TYPE_FLOAT)
            snprintf(out, sizeof(out), "%.2f", v.real);
        else if (v.type == KZ_TYPE_TEXT)
            snprintf(out, sizeof(out), "'" KZ_STR_FMT "'", KZ_STR_ARG(v.text));
        else if (v.type != KZ_TYPE_NULL)
            snprintf(out, sizeof(out), "%lld", (long long)v.integer);
        assert_true(v.type == KZ_TYPE_NULL || v.type == cases[i].type);
        if (strcmp(out, cases[i].expected) != 0)
            fail_msg("%s %s: %s", cases[i].props, cases[i].path, out);
    }
    kz_arena_done(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_from_json),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
