#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "log/filter.h"
#include "sys/random.h"

enum { KEYS = 100000, PROBES = 2000000 };

static uint64_t random_key(struct kz_prng *prng)
{
    return kz_prng_u64(prng);
}

/* Small numbers, as an id that is no hash would be. */
static uint64_t counted_key(struct kz_prng *prng)
{
    return prng->state[0]++;
}

static void measure(uint64_t (*next)(struct kz_prng *prng), struct kz_prng *prng)
{
    size_t size = kz_filter_size(KEYS);
    KZ_AUTO(kz_freep) uint8_t *filter = kz_calloc(1, size);
    KZ_AUTO(kz_freep) uint64_t *keys = kz_calloc(KEYS, sizeof(*keys));
    unsigned wrong = 0;

    for (int i = 0; i < KEYS; i++) {
        keys[i] = next(prng);
        kz_filter_add(filter, size, keys[i]);
    }
    for (int i = 0; i < KEYS; i++)
        assert_true(kz_filter_has(filter, size, keys[i]));
    for (int i = 0; i < PROBES; i++)
        wrong += kz_filter_has(filter, size, next(prng));
    /* 1 in 10,000 of them is 200; and it is no filter if it is never wrong. */
    assert_in_range(wrong, 20, 300);
}

static void a_filter_denies_no_key_and_errs_once_in_ten_thousand(void **state)
{
    struct kz_prng prng;

    (void)state;
    kz_prng_init(&prng, 1);
    measure(random_key, &prng);
    prng.state[0] = 1;
    measure(counted_key, &prng);
}

static void a_filter_takes_26_bits_a_key(void **state)
{
    (void)state;
    assert_int_equal(kz_filter_size(0), 0);
    assert_int_equal(kz_filter_size(1), 32);
    assert_int_equal(kz_filter_size(9), 32);
    assert_int_equal(kz_filter_size(10), 64);
    assert_int_equal(kz_filter_size(100000), 325024);
    assert_false(kz_filter_has(NULL, 0, 7));
}

/* Filters are stored: the same key must set the same bits for ever. */
static void the_bits_of_a_key_never_change(void **state)
{
    uint8_t filter[64] = {0};
    /* Worked out apart from this code, from BloomFilter.md and splitmix64. */
    uint8_t expected[64] = {[3] = 0x10,
            [4] = 0x40,
            [8] = 0x40,
            [15] = 0x08,
            [18] = 0x04,
            [20] = 0x04,
            [25] = 0x01,
            [28] = 0x80};

    (void)state;
    kz_filter_add(filter, sizeof(filter), 0x0123456789abcdef);
    assert_memory_equal(filter, expected, sizeof(filter));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_filter_denies_no_key_and_errs_once_in_ten_thousand),
            cmocka_unit_test(a_filter_takes_26_bits_a_key),
            cmocka_unit_test(the_bits_of_a_key_never_change),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
