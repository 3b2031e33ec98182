/* Records sorted in memory, and in runs on disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "backends/spanner/sort.h"
#include "sys/random.h"

enum { COUNT = 5000 };

struct seen {
    kz_lsn last;
    uint64_t owner;
    uint64_t sum;
    unsigned count, stop_at;
};

static enum kz_code see(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct seen *seen = arg;
    const char *body = (const char *)(record + 1);

    if (seen->stop_at && seen->count == seen->stop_at)
        return KZ_END;
    assert_int_equal((uintptr_t)record % 8, 0);
    assert_true(lsn > seen->last || (lsn == seen->last && record->owner > seen->owner));
    assert_true(record->seq == lsn);
    for (size_t i = 0; i < record->size - sizeof(*record); i++) /* all of its bytes are its own */
        assert_int_equal(body[i], (char)(record->owner + i));
    seen->last = lsn;
    seen->owner = record->owner;
    seen->sum += lsn * record->owner;
    seen->count++;
    return KZ_OK;
}

static void check(size_t memory_max, unsigned stop_at)
{
    KZ_AUTO(kz_sp_sort_freep) struct kz_sp_sort *sort = kz_sp_sort_new(memory_max);
    struct kz_record *record = kz_calloc(1, sizeof(*record) + (1 << 20));
    struct seen seen = {.stop_at = stop_at};
    struct kz_err err = {0};
    struct kz_prng prng;
    uint64_t sum = 0;

    kz_prng_init(&prng, 7);
    for (uint64_t i = 0; i < COUNT; i++) {
        size_t size = i % 1000 == 3 ? 600000 : kz_prng_below(&prng, 400);

        record->size = (uint32_t)(sizeof(*record) + size);
        record->seq = 1 + kz_prng_below(&prng, 2000); /* many are alike */
        record->owner = i + 1;
        for (size_t k = 0; k < size; k++)
            ((char *)(record + 1))[k] = (char)(record->owner + k);
        sum += record->seq * record->owner;
        assert_int_equal(kz_sp_sort_add(sort, record->seq, record, &err), KZ_OK);
    }
    assert_int_equal(kz_sp_sort_each(sort, see, &seen, &err), stop_at ? KZ_END : KZ_OK);
    assert_int_equal(seen.count, stop_at ? stop_at : COUNT);
    assert_true(stop_at || seen.sum == sum);
    free(record);
}

static void in_memory(void **state)
{
    (void)state;
    check(64 << 20, 0);
    check(64 << 20, 10);
}

static void in_runs_on_disk(void **state)
{
    (void)state;
    check(300 << 10, 0); /* records larger than all that, and than the windows on runs */
    check(20 << 10, 0);
    check(1, 0); /* a run a record */
    check(20 << 10, 10);
}

static void of_nothing(void **state)
{
    KZ_AUTO(kz_sp_sort_freep) struct kz_sp_sort *sort = kz_sp_sort_new(100);
    struct seen seen = {0};

    (void)state;
    assert_int_equal(kz_sp_sort_each(sort, see, &seen, NULL), KZ_OK);
    assert_int_equal(seen.count, 0);
}

static void a_directory_that_is_not_there_is_an_error(void **state)
{
    KZ_AUTO(kz_sp_sort_freep) struct kz_sp_sort *sort = kz_sp_sort_new(1);
    struct kz_record record = {.size = sizeof(record)};
    struct kz_err err = {0};

    (void)state;
    setenv("TMPDIR", "/there/is/none", 1);
    assert_int_equal(kz_sp_sort_add(sort, 1, &record, &err), KZ_OK);
    assert_int_not_equal(kz_sp_sort_add(sort, 2, &record, &err), KZ_OK);
    assert_non_null(strstr(err.message, "/there/is/none/"));
    unsetenv("TMPDIR");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(in_memory),
            cmocka_unit_test(in_runs_on_disk),
            cmocka_unit_test(of_nothing),
            cmocka_unit_test(a_directory_that_is_not_there_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
