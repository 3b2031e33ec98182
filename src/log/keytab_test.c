#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "log/keytab.h"
#include "sys/random.h"

enum { COUNT = 20000 };

static bool has(const struct kz_keytab *tab, uint64_t key, uint32_t wanted)
{
    uint32_t cursor = 0, offset, seen = 0;

    while ((offset = kz_keytab_next(tab, key, &cursor)))
        seen += offset == wanted;
    assert_true(seen <= 1);
    return seen == 1;
}

static void test_put_keys_are_found_where_they_are(void **state)
{
    static uint64_t keys[COUNT];
    struct kz_keytab tab = {0};
    struct kz_prng prng;

    (void)state;
    kz_prng_init(&prng, 1);
    kz_keytab_init(&tab, 100); /* grows */
    for (uint32_t i = 0; i < COUNT; i++) {
        /* Every eighth key comes twice and more. */
        keys[i] = i % 8 == 7 ? keys[i - 7] : kz_prng_u64(&prng);
        kz_keytab_put(&tab, keys[i], 8 * (i + 1));
    }
    for (uint32_t i = 0; i < COUNT; i++)
        assert_true(has(&tab, keys[i], 8 * (i + 1)));
    for (uint32_t i = 0; i < COUNT; i++)
        assert_false(has(&tab, kz_prng_u64(&prng), 8 * (i + 1)));
    assert_int_equal(tab.count, COUNT);
    kz_keytab_done(&tab);
}

static void test_empty_table_has_nothing(void **state)
{
    struct kz_keytab tab = {0};
    uint32_t cursor = 0;

    (void)state;
    assert_int_equal(kz_keytab_next(&tab, 1, &cursor), 0);
    kz_keytab_put(&tab, 1, 8);
    assert_true(has(&tab, 1, 8));
    kz_keytab_done(&tab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_put_keys_are_found_where_they_are),
            cmocka_unit_test(test_empty_table_has_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
