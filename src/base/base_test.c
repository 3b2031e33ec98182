#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/hash.h"

static void an_error_reads_from_the_outside_in(void **state)
{
    struct kz_err err;

    (void)state;
    errno = ENOSPC;
    assert_int_equal(kz_fail_errno(&err, "could not write \"%s\"", "x.log"), KZ_NO_SPACE);
    assert_int_equal(kz_wrap(&err, "sealing segment %u", 7u), KZ_NO_SPACE);
    assert_string_equal(
            err.message, "sealing segment 7: could not write \"x.log\": No space left on device");
    assert_int_equal(kz_code_http(KZ_NO_SPACE), 507);
    assert_string_equal(kz_code_name(KZ_LIMIT), "rate_limited");
}

static void an_arena_keeps_to_its_limit_and_starts_over(void **state)
{
    struct kz_arena arena;

    (void)state;
    kz_arena_init(&arena, 40000);
    for (int i = 0; i < 4; i++)
        assert_non_null(kz_arena_alloc(&arena, 10000));
    assert_null(kz_arena_alloc(&arena, 1));
    kz_arena_reset(&arena);
    assert_string_equal(kz_arena_printf(&arena, "%d-%s", 4, "x"), "4-x");
    kz_arena_done(&arena);
}

static void a_cursor_that_ran_out_stays_failed(void **state)
{
    struct kz_cursor c = kz_cursor(KZ_STR("\x01\x02\x03"));

    (void)state;
    assert_int_equal(kz_cursor_u8(&c), 1);
    assert_int_equal(kz_cursor_u32(&c), 0);
    assert_true(c.failed);
    assert_int_equal(kz_cursor_u8(&c), 0);
}

static void the_hash_never_changes(void **state)
{
    (void)state;
    /* XXH3_64bits of the empty string, from the algorithm's own test vectors. */
    assert_true(kz_hash("", 0) == 0x2d06800538d394c2ull);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(an_error_reads_from_the_outside_in),
            cmocka_unit_test(an_arena_keeps_to_its_limit_and_starts_over),
            cmocka_unit_test(a_cursor_that_ran_out_stays_failed),
            cmocka_unit_test(the_hash_never_changes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
