#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "log/tags.h"
#include "sys/random.h"

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void a_sort_is_qsort_s(void **state)
{
    enum { COUNT = 10000 };
    static uint32_t tags[COUNT], expected[COUNT];
    struct kz_prng prng;

    (void)state;
    kz_prng_init(&prng, 3);
    for (int i = 0; i < COUNT; i++)
        expected[i] = tags[i] = (uint32_t)(kz_prng_u64(&prng) >> (i % 40));
    kz_tags_sort(tags, COUNT);
    qsort(expected, COUNT, sizeof(*expected), compare);
    assert_memory_equal(tags, expected, sizeof(tags));
    kz_tags_sort(tags, 1);
    kz_tags_sort(NULL, 0);
}

/* Every tag and both its neighbours, in arrays that are spread evenly and that are not at all. */
static void what_is_in_is_found_and_nothing_else(void **state)
{
    static uint32_t tags[3000];
    struct kz_prng prng;

    (void)state;
    kz_prng_init(&prng, 4);
    for (unsigned count = 0; count <= 3000; count = count * 3 / 2 + 1) {
        for (int spread = 0; spread < 3; spread++) {
            for (unsigned i = 0; i < count; i++) {
                uint32_t even = (uint32_t)kz_prng_u64(&prng);

                tags[i] = spread == 0 ? even : spread == 1 ? even >> 20 : ~(even >> 24);
            }
            kz_tags_sort(tags, count);
            for (unsigned i = 0; i < count; i++) {
                assert_true(kz_tags_have(tags, count, tags[i]));
                assert_int_equal(kz_tags_have(tags, count, tags[i] + 1),
                        bsearch(&(uint32_t){tags[i] + 1}, tags, count, 4, compare) != NULL);
                assert_int_equal(kz_tags_have(tags, count, tags[i] - 1),
                        bsearch(&(uint32_t){tags[i] - 1}, tags, count, 4, compare) != NULL);
            }
            assert_int_equal(
                    kz_tags_have(tags, count, UINT32_MAX), count && tags[count - 1] == UINT32_MAX);
            assert_int_equal(kz_tags_have(tags, count, 0), count && tags[0] == 0);
        }
    }
}

/* They are in files. */
static void a_key_s_tag_is_what_it_was(void **state)
{
    (void)state;
    assert_int_equal(kz_tag(1), 0xe220a839);
    assert_int_equal(kz_tag(UINT64_C(0x123456789abcdef0)), 0xf4901308);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_sort_is_qsort_s),
            cmocka_unit_test(what_is_in_is_found_and_nothing_else),
            cmocka_unit_test(a_key_s_tag_is_what_it_was),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
