#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "log/keyfilter.h"
#include "sys/random.h"

static uint64_t tag_number(uint64_t i)
{
    return kz_tag(i + 1);
}

static void what_was_added_is_never_denied(void **state)
{
    struct kz_keyfilter filter;
    size_t denied = 0;

    (void)state;
    kz_keyfilter_init(&filter, 256 << 20);
    assert_int_equal(kz_keyfilter_covered_from(&filter), UINT64_MAX);
    assert_int_equal(kz_keyfilter_find(&filter, tag_number(0)), 0);
    kz_keyfilter_begin(&filter, KZ_LSN(1, 0), 0);
    for (uint64_t i = 0; i < 3000000; i++)
        kz_keyfilter_add(&filter, tag_number(i), KZ_LSN(1 + i / 500000, 4096 + 8 * i % 500000));
    /* 256 Ki, then three times as many as there are: 768 Ki, 3 Mi. */
    assert_int_equal(filter.group_count, 3);
    assert_int_equal(filter.groups[0].count, 262144);
    assert_int_equal(filter.groups[1].count, 786432);
    assert_int_equal(filter.groups[1].from, KZ_LSN(1, 4096 + 8 * 262144 % 500000));
    assert_int_equal(filter.groups[2].max, 3145728);
    for (uint64_t i = 0; i < 3000000; i++) {
        uint64_t found = kz_keyfilter_find(&filter, tag_number(i));
        uint32_t segment = (uint32_t)(1 + i / 500000);

        denied += !kz_keyfilter_allows(&filter, found, KZ_LSN(segment, 0), KZ_LSN(segment + 1, 0));
    }
    assert_int_equal(denied, 0);
    kz_keyfilter_done(&filter);
}

/* Of a full group of 10 bits a key, and of one that is a quarter full. */
static void few_foreign_keys_are_not_denied(void **state)
{
    struct kz_keyfilter filter;
    unsigned wrong = 0;

    (void)state;
    kz_keyfilter_init(&filter, 256 << 20);
    kz_keyfilter_begin(&filter, 0, 1 << 20);
    for (uint64_t i = 0; i < 1 << 18; i++)
        kz_keyfilter_add(&filter, tag_number(i), 0);
    for (uint64_t i = 0; i < 1000000; i++)
        wrong += kz_keyfilter_find(&filter, tag_number((1 << 20) + i)) != 0;
    assert_in_range(wrong, 1, 300);
    for (uint64_t i = 1 << 18; i < 1 << 20; i++)
        kz_keyfilter_add(&filter, tag_number(i), 0);
    assert_int_equal(filter.group_count, 1);
    wrong = 0;
    for (uint64_t i = 0; i < 1000000; i++)
        wrong += kz_keyfilter_find(&filter, tag_number((1 << 20) + i)) != 0;
    assert_in_range(wrong, 500, 2500);
    kz_keyfilter_done(&filter);
}

enum { COUNT = 100000, SEGMENTS = 5 };

/* Of the third there is none; the fourth's are spread unevenly. */
static void make_tags(
        uint64_t sorted[SEGMENTS][COUNT], uint32_t *packed[SEGMENTS], struct kz_tags tags[SEGMENTS])
{
    for (unsigned s = 0; s < SEGMENTS; s++) {
        size_t count = s == 2 ? 0 : COUNT;

        for (unsigned i = 0; i < COUNT; i++)
            sorted[s][i] = tag_number(s * COUNT + i) >> (s == 3 ? 9 : 0);
        sorted[s][0] = (UINT64_C(1) << KZ_TAG_BITS) - 1;
        sorted[s][1] = 0;
        kz_tags_sort(sorted[s], COUNT);
        packed[s] = kz_malloc(kz_tags_size(count) + 1);
        kz_tags_pack(sorted[s], count, packed[s]);
        tags[s] = kz_tags_at(packed[s], count);
    }
}

static void tags_of_segments_are_all_in(void **state)
{
    static uint64_t sorted[SEGMENTS][COUNT];
    uint32_t *packed[SEGMENTS];
    struct kz_tags tags[SEGMENTS];
    struct kz_keyfilter filter;
    unsigned wrong = 0;

    (void)state;
    make_tags(sorted, packed, tags);
    kz_keyfilter_init(&filter, 256 << 20);
    kz_keyfilter_begin(&filter, 0, SEGMENTS * COUNT);
    kz_keyfilter_add_tags(&filter, tags, SEGMENTS);
    assert_int_equal(filter.group_count, 1);
    assert_int_equal(filter.groups[0].count, 400000);
    for (unsigned s = 0; s < SEGMENTS; s++)
        for (unsigned i = 0; i < COUNT && s != 2; i++)
            assert_int_equal(kz_keyfilter_find(&filter, sorted[s][i]), 1);
    /* One bit beside one that is in; not where the fourth's crowd. */
    for (unsigned i = COUNT / 2; i < COUNT - 1; i++)
        wrong += kz_keyfilter_find(&filter, sorted[0][i] ^ 1) != 0;
    assert_in_range(wrong, 5, 100);
    kz_keyfilter_done(&filter);
    for (unsigned s = 0; s < SEGMENTS; s++)
        free(packed[s]);
}

/* A group with a segment of the older format takes tags for the same that agree in 32 bits, and what
 * is added later is found all the same. */
static void narrow_tags_make_a_narrow_group(void **state)
{
    static uint64_t sorted[SEGMENTS][COUNT];
    static uint32_t narrow[COUNT];
    uint32_t *packed[SEGMENTS];
    struct kz_tags tags[SEGMENTS];
    struct kz_keyfilter filter;

    (void)state;
    make_tags(sorted, packed, tags);
    kz_tags_pack_narrow(sorted[4], COUNT, narrow);
    tags[4] = (struct kz_tags){.low = narrow, .count = COUNT};
    kz_keyfilter_init(&filter, 256 << 20);
    kz_keyfilter_begin(&filter, 8, SEGMENTS * COUNT);
    kz_keyfilter_add_tags(&filter, tags, SEGMENTS);
    kz_keyfilter_add(&filter, tag_number(12345678), 16);
    assert_true(filter.groups[0].is_narrow);
    kz_keyfilter_begin(&filter, 24, 1000);
    kz_keyfilter_add(&filter, tag_number(12345679), 32);
    assert_int_equal(filter.group_count, 2);
    for (unsigned s = 0; s < SEGMENTS; s++)
        for (unsigned i = 0; i < COUNT && s != 2; i++) {
            assert_int_equal(kz_keyfilter_find(&filter, sorted[s][i]) & 1, 1);
            assert_int_equal(kz_keyfilter_find(&filter, sorted[s][i] ^ 0xff) & 1, 1);
        }
    assert_int_equal(kz_keyfilter_find(&filter, tag_number(12345678)), 1);
    assert_int_equal(kz_keyfilter_find(&filter, tag_number(12345679)), 2);
    assert_int_equal(kz_keyfilter_find(&filter, tag_number(12345679) ^ 1), 0);
    kz_keyfilter_done(&filter);
    for (unsigned s = 0; s < SEGMENTS; s++)
        free(packed[s]);
}

/* An address is looked for in the groups that reach into its segment, and in no others. */
static void only_the_group_of_an_address_speaks_for_it(void **state)
{
    struct kz_keyfilter filter;

    (void)state;
    kz_keyfilter_init(&filter, 256 << 20);
    kz_keyfilter_begin(&filter, KZ_LSN(4, 0), 0);
    kz_keyfilter_begin(&filter, KZ_LSN(6, 5000), 0);
    kz_keyfilter_begin(&filter, KZ_LSN(9, 0), 0);
    for (uint32_t segment = 4; segment < 12; segment++) {
        kz_lsn from = KZ_LSN(segment, 0), until = KZ_LSN(segment + 1, 0);

        assert_false(kz_keyfilter_allows(&filter, 0, from, until));
        assert_int_equal(kz_keyfilter_allows(&filter, 1, from, until), segment <= 6);
        assert_int_equal(
                kz_keyfilter_allows(&filter, 2, from, until), segment >= 6 && segment <= 8);
        assert_int_equal(kz_keyfilter_allows(&filter, 4, from, until), segment >= 9);
        assert_int_equal(
                kz_keyfilter_allows(&filter, 5, from, until), segment <= 6 || segment >= 9);
    }
    kz_keyfilter_drop(&filter, KZ_LSN(6, 0));
    assert_int_equal(kz_keyfilter_covered_from(&filter), KZ_LSN(4, 0));
    kz_keyfilter_drop(&filter, KZ_LSN(7, 0));
    assert_int_equal(kz_keyfilter_covered_from(&filter), KZ_LSN(6, 5000));
    kz_keyfilter_drop(&filter, KZ_LSN(100, 0));
    assert_int_equal(filter.group_count, 1); /* the one that is being filled */
    assert_int_equal(kz_keyfilter_covered_from(&filter), KZ_LSN(9, 0));
    kz_keyfilter_done(&filter);
}

static void at_its_limit_the_oldest_go(void **state)
{
    struct kz_keyfilter filter;

    (void)state;
    kz_keyfilter_init(&filter, 1000000);
    kz_keyfilter_begin(&filter, 8, 0);
    for (uint64_t i = 0; i < 3000000; i++) {
        kz_keyfilter_add(&filter, tag_number(i), 8 * i + 8);
        assert_true(filter.bytes <= 1000000);
    }
    /* 24 groups of 125,000 keys, 250,000 bytes each, of which there is room for four. */
    assert_int_equal(filter.group_count, 4);
    assert_int_equal(filter.groups[0].max, 125000);
    assert_int_equal(filter.forgotten_total, 20);
    assert_int_equal(kz_keyfilter_covered_from(&filter), 8 * 20 * 125000 + 8);
    assert_int_equal(kz_keyfilter_find(&filter, tag_number(2999999)) & 8, 8);
    kz_keyfilter_done(&filter);
    assert_int_equal(filter.bytes, 0);
}

static void the_next_group_is_made_ahead(void **state)
{
    struct kz_keyfilter filter;

    (void)state;
    kz_keyfilter_init(&filter, 64 << 20);
    kz_keyfilter_begin(&filter, 8, 0);
    kz_keyfilter_make_spare(&filter);
    assert_null(filter.spare); /* nobody wants one yet */
    for (uint64_t i = 0; i < KZ_KEYFILTER_KEYS_MIN * 5; i++) {
        void *spare = filter.spare;
        unsigned count = filter.group_count;

        kz_keyfilter_add(&filter, tag_number(i), 8 * i + 8);
        if (filter.group_count > count)
            assert_ptr_equal(filter.groups[count].lines, spare);
        kz_keyfilter_make_spare(&filter);
    }
    assert_int_equal(filter.group_count, 3);
    for (uint64_t i = 0; i < KZ_KEYFILTER_KEYS_MIN * 5; i++)
        assert_int_not_equal(kz_keyfilter_find(&filter, tag_number(i)), 0);
    kz_keyfilter_done(&filter);
    assert_int_equal(filter.bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(what_was_added_is_never_denied),
            cmocka_unit_test(few_foreign_keys_are_not_denied),
            cmocka_unit_test(tags_of_segments_are_all_in),
            cmocka_unit_test(narrow_tags_make_a_narrow_group),
            cmocka_unit_test(only_the_group_of_an_address_speaks_for_it),
            cmocka_unit_test(at_its_limit_the_oldest_go),
            cmocka_unit_test(the_next_group_is_made_ahead),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
