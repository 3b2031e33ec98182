#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "sys/clock.h"
#include "sys/random.h"
#include "sys/thread.h"

static void the_generator_gives_the_published_numbers(void **state)
{
    struct kz_prng prng;
    unsigned counts[3] = {0};

    (void)state;
    /* splitmix64 from 0, and xoshiro256**'s first number from that state. */
    kz_prng_init(&prng, 0);
    assert_true(prng.state[0] == 0xe220a8397b1dcdafull);
    assert_true(prng.state[3] == 0xf88bb8a8724c81ecull);
    assert_true(kz_prng_u64(&prng) == 0x99ec5f36cb75f2b4ull);
    for (int i = 0; i < 30000; i++) {
        double unit = kz_prng_unit(&prng);

        assert_true(unit >= 0 && unit < 1);
        counts[kz_prng_below(&prng, 3)]++;
    }
    for (int i = 0; i < 3; i++)
        assert_in_range(counts[i], 9500, 10500);
    assert_true(kz_prng_below(&prng, 0) == 0);
}

static void random_bytes_differ_and_clocks_move(void **state)
{
    char a[300] = {0}, b[300] = {0};
    int64_t before = kz_mono_ns();

    (void)state;
    kz_random_bytes(a, sizeof(a));
    kz_random_bytes(b, sizeof(b));
    assert_memory_not_equal(a, b, 256);
    assert_memory_not_equal(a + 256, b + 256, 44);
    assert_true(kz_mono_ns() > before);
    assert_true(kz_clock_ms() > 1700000000000);
    assert_true(llabs(kz_clock_us() / 1000 - kz_clock_ms()) < 10000);
    assert_true(kz_cpu_count() >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(the_generator_gives_the_published_numbers),
            cmocka_unit_test(random_bytes_differ_and_clocks_move),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
