#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "log/tags.h"
#include "sys/random.h"

#define TAG_MAX ((UINT64_C(1) << KZ_TAG_BITS) - 1)

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void a_sort_is_qsort_s(void **state)
{
    enum { COUNT = 10000 };
    static uint64_t tags[COUNT], expected[COUNT];
    struct kz_prng prng;

    (void)state;
    kz_prng_init(&prng, 3);
    for (int i = 0; i < COUNT; i++)
        expected[i] = tags[i] = (kz_prng_u64(&prng) & TAG_MAX) >> (i % 48);
    kz_tags_sort(tags, COUNT);
    qsort(expected, COUNT, sizeof(*expected), compare);
    assert_memory_equal(tags, expected, sizeof(tags));
    kz_tags_sort(tags, 1);
    kz_tags_sort(NULL, 0);
}

static bool has(const uint64_t *sorted, size_t count, uint64_t tag)
{
    return bsearch(&tag, sorted, count, sizeof(tag), compare) != NULL;
}

static void check_run_of_each(const struct kz_tags *tags, const uint64_t *sorted, uint64_t known)
{
    size_t seen = 0, from, end;

    for (unsigned run = 0; run < KZ_TAGS_RUNS; run++) {
        kz_tags_run(tags, run, &from, &end);
        assert_int_equal(from, seen);
        for (; seen < end; seen++)
            assert_int_equal(kz_tags_get(tags, run, seen), sorted[seen] & known);
        if (seen < tags->count)
            assert_true(sorted[seen] >> 32 > run);
    }
    assert_int_equal(seen, tags->count);
}

/* Every tag and its neighbours, in arrays that are spread evenly and that are not at all. */
static void what_is_in_is_found_and_nothing_else(void **state)
{
    static uint64_t sorted[3000];
    static uint32_t packed[KZ_TAGS_RUNS + 3000];
    struct kz_prng prng;

    (void)state;
    kz_prng_init(&prng, 4);
    for (unsigned count = 0; count <= 3000; count = count * 3 / 2 + 1) {
        for (int spread = 0; spread < 4; spread++) {
            struct kz_tags tags;

            for (unsigned i = 0; i < count; i++) {
                uint64_t even = kz_prng_u64(&prng) & TAG_MAX;

                sorted[i] = spread == 0   ? even
                            : spread == 1 ? even >> 28
                            : spread == 2 ? TAG_MAX - (even >> 32)
                                          : even & UINT64_C(7) << 30;
            }
            kz_tags_sort(sorted, count);
            kz_tags_pack(sorted, count, packed);
            tags = kz_tags_at(packed, count);
            assert_true(kz_tags_are_sound(&tags));
            check_run_of_each(&tags, sorted, TAG_MAX);
            for (unsigned i = 0; i < count; i++) {
                assert_true(kz_tags_have(&tags, sorted[i]));
                for (int bit = 0; bit < KZ_TAG_BITS; bit++) {
                    uint64_t other = sorted[i] ^ UINT64_C(1) << bit;

                    assert_int_equal(kz_tags_have(&tags, other), has(sorted, count, other));
                }
            }
            assert_int_equal(kz_tags_have(&tags, TAG_MAX), has(sorted, count, TAG_MAX));
            assert_int_equal(kz_tags_have(&tags, 0), has(sorted, count, 0));
        }
    }
}

static void narrow_ones_know_no_more_than_32_bits(void **state)
{
    enum { COUNT = 3000 };
    static uint64_t sorted[COUNT];
    static uint32_t narrow[COUNT];
    struct kz_tags tags = {.low = narrow, .count = COUNT};
    struct kz_prng prng;

    (void)state;
    kz_prng_init(&prng, 5);
    for (int i = 0; i < COUNT; i++)
        sorted[i] = kz_prng_u64(&prng) & TAG_MAX;
    sorted[0] = TAG_MAX;
    kz_tags_sort(sorted, COUNT);
    kz_tags_pack_narrow(sorted, COUNT, narrow);
    assert_true(kz_tags_are_sound(&tags));
    check_run_of_each(&tags, sorted, KZ_TAG_NARROW);
    for (int i = 0; i < COUNT; i++) {
        assert_true(kz_tags_have(&tags, sorted[i]));
        assert_true(kz_tags_have(&tags, sorted[i] ^ 0xff));
        assert_false(kz_tags_have(&tags, sorted[i] ^ 0x100));
        assert_false(kz_tags_have(&tags, sorted[i] ^ UINT64_C(1) << 39));
    }
    tags.count = 0;
    assert_false(kz_tags_have(&tags, 0));
}

static void runs_that_leave_the_array_are_noticed(void **state)
{
    uint64_t sorted[3] = {5, UINT64_C(7) << 32, TAG_MAX};
    uint32_t packed[KZ_TAGS_RUNS + 3] = {0};
    struct kz_tags tags = kz_tags_at(packed, 3);

    (void)state;
    assert_int_equal(kz_tags_size(3), sizeof(packed));
    assert_int_equal(kz_tags_size(0), 0);
    kz_tags_pack(sorted, 3, packed);
    assert_int_equal(packed[6], 1);
    assert_int_equal(packed[7], 2);
    assert_int_equal(packed[255], 3);
    assert_true(kz_tags_are_sound(&tags));
    packed[255] = 4;
    assert_false(kz_tags_are_sound(&tags));
    packed[255] = 2;
    assert_false(kz_tags_are_sound(&tags));
    packed[255] = 3;
    packed[100] = 3; /* then one run would end before it begins */
    assert_false(kz_tags_are_sound(&tags));
    packed[100] = 1;
    assert_false(kz_tags_are_sound(&tags));
    packed[100] = 2;
    assert_true(kz_tags_are_sound(&tags));
}

/* They are in files. */
static void a_key_s_tag_is_what_it_was(void **state)
{
    (void)state;
    assert_int_equal(kz_tag(1), 0xe220a8397b);
    assert_int_equal(kz_tag(UINT64_C(0x123456789abcdef0)) >> 8, 0xf4901308);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_sort_is_qsort_s),
            cmocka_unit_test(what_is_in_is_found_and_nothing_else),
            cmocka_unit_test(narrow_ones_know_no_more_than_32_bits),
            cmocka_unit_test(runs_that_leave_the_array_are_noticed),
            cmocka_unit_test(a_key_s_tag_is_what_it_was),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
