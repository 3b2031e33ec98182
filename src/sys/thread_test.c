/* What threads ask of the scheduler, seen as the kernel has it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys/thread.h"

/* nice and slice of struct sched_attr; the slice is 0 before Linux 6.12. */
static void look(int *ret_nice, uint64_t *ret_slice_ns)
{
    uint64_t attributes[7] = {0};

    assert_int_equal(syscall(SYS_sched_getattr, 0, attributes, 56U, 0U), 0);
    *ret_nice = (int32_t)attributes[2];
    *ret_slice_ns = attributes[3];
}

struct seen {
    int nice;
    uint64_t slice_ns;
};

static void look_from_there(void *arg)
{
    struct seen *seen = arg;

    look(&seen->nice, &seen->slice_ns);
}

static void ask_and_start(void *arg)
{
    struct seen *seen = arg; /* before, after, of a thread that it starts */
    struct kz_thread child = {0};

    look(&seen[0].nice, &seen[0].slice_ns);
    kz_thread_prompt();
    look(&seen[1].nice, &seen[1].slice_ns);
    assert_int_equal(kz_thread_start(&child, "child", look_from_there, &seen[2], NULL), KZ_OK);
    kz_thread_join(&child);
}

static void short_turns_are_the_threads_own(void **state)
{
    struct seen seen[3] = {0};
    struct kz_thread thread = {0};

    (void)state;
    assert_int_equal(kz_thread_start(&thread, "prompt", ask_and_start, seen, NULL), KZ_OK);
    kz_thread_join(&thread);
    assert_int_equal(seen[1].nice, seen[0].nice);
    assert_int_equal(seen[2].nice, seen[0].nice);
    assert_int_equal(seen[2].slice_ns, seen[0].slice_ns);
    if (!seen[0].slice_ns) {
        print_message("this kernel has no slices to ask for\n");
        return;
    }
    assert_int_equal(seen[1].slice_ns, 200000);
}

static void choose_and_ask(void *arg)
{
    static const struct sched_param none;
    long *policy = arg;

    assert_int_equal(syscall(SYS_sched_setscheduler, 0, SCHED_BATCH, &none), 0);
    kz_thread_prompt();
    *policy = syscall(SYS_sched_getscheduler, 0);
}

static void short_turns_took_the_policy_that_an_operator_chose(void **state)
{
    struct kz_thread thread = {0};
    long policy = -1;

    (void)state;
    assert_int_equal(kz_thread_start(&thread, "batch", choose_and_ask, &policy, NULL), KZ_OK);
    kz_thread_join(&thread);
    assert_int_equal(policy, SCHED_BATCH);
}

static void go_back(void *arg)
{
    struct seen *seen = arg;

    assert_false(kz_thread_is_background());
    kz_thread_background();
    assert_true(kz_thread_is_background());
    look(&seen->nice, &seen->slice_ns);
}

static void a_background_thread_is_behind_the_others(void **state)
{
    struct seen seen = {0};
    struct kz_thread thread = {0};

    (void)state;
    assert_int_equal(kz_thread_start(&thread, "back", go_back, &seen, NULL), KZ_OK);
    kz_thread_join(&thread);
    assert_true(seen.nice >= 10);
    assert_false(kz_thread_is_background());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(short_turns_are_the_threads_own),
            cmocka_unit_test(short_turns_took_the_policy_that_an_operator_chose),
            cmocka_unit_test(a_background_thread_is_behind_the_others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
