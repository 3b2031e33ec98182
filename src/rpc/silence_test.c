#include "rpc/silence.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void nothing_asked_is_no_silence(void **state)
{
    struct kz_rpc_silence silence = {0};

    (void)state;
    assert_int_equal(kz_rpc_silence_ms(&silence, 5000), 0);
    kz_rpc_silence_await(&silence, 5000);
    assert_int_equal(kz_rpc_silence_ms(&silence, 5000), 1);
    assert_int_equal(kz_rpc_silence_ms(&silence, 5700), 700);
    kz_rpc_silence_end(&silence, true, 5700);
    assert_int_equal(kz_rpc_silence_ms(&silence, 9000), 0);
}

static void an_answer_ends_it_though_another_is_awaited(void **state)
{
    struct kz_rpc_silence silence = {0};

    (void)state;
    kz_rpc_silence_await(&silence, 1000); /* the slow one */
    kz_rpc_silence_await(&silence, 2400);
    assert_int_equal(kz_rpc_silence_ms(&silence, 2400), 1400);
    kz_rpc_silence_end(&silence, true, 2500);
    assert_int_equal(kz_rpc_silence_ms(&silence, 2500), 1);
    assert_int_equal(kz_rpc_silence_ms(&silence, 3100), 600);
    kz_rpc_silence_end(&silence, true, 3100);
    assert_int_equal(kz_rpc_silence_ms(&silence, 9000), 0);
}

static void what_was_awaited_in_vain_is_as_silent(void **state)
{
    struct kz_rpc_silence silence = {0};

    (void)state;
    kz_rpc_silence_await(&silence, 1000);
    kz_rpc_silence_end(&silence, false, 2500);
    assert_int_equal(kz_rpc_silence_ms(&silence, 2600), 1600);
    kz_rpc_silence_await(&silence, 3000); /* another try is no new beginning */
    assert_int_equal(kz_rpc_silence_ms(&silence, 3500), 2500);
    kz_rpc_silence_end(&silence, true, 3600);
    assert_int_equal(kz_rpc_silence_ms(&silence, 3600), 0);
    kz_rpc_silence_await(&silence, 8000);
    assert_int_equal(kz_rpc_silence_ms(&silence, 8100), 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(nothing_asked_is_no_silence),
            cmocka_unit_test(an_answer_ends_it_though_another_is_awaited),
            cmocka_unit_test(what_was_awaited_in_vain_is_as_silent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
