/* Silence of a backend, in ms of a clock that nobody waits for, looked at as a process does: by its tick
 * once a second, and by whoever asks /readyz in between. */
#include "app/roles/unwell.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "rpc/silence.h"

enum { STEP_MS = 50 };

struct backend {
    int64_t now_ms;
    struct kz_rpc_silence silence;
    struct kz_unwell unwell;
};

static bool look(struct backend *b)
{
    bool silent = kz_rpc_silence_ms(&b->silence, b->now_ms) > KZ_RPC_SILENT_MS;

    kz_unwell_look(&b->unwell, silent ? "no answer" : "", false, b->now_ms);
    return kz_unwell_is_gone(&b->unwell, b->now_ms);
}

/* Lets `ms` go by with a look each `every_ms`; how long it was until the look that found it gone, or -1. */
static int64_t gone_after(struct backend *b, int64_t ms, int64_t every_ms)
{
    const int64_t from_ms = b->now_ms;
    int64_t after_ms = -1;

    while (b->now_ms - from_ms < ms) {
        b->now_ms += STEP_MS;
        if ((b->now_ms - from_ms) % every_ms == 0 && look(b) && after_ms < 0)
            after_ms = b->now_ms - from_ms;
    }
    return after_ms;
}

static void ask(struct backend *b)
{
    kz_rpc_silence_await(&b->silence, b->now_ms);
}

static void answer(struct backend *b)
{
    kz_rpc_silence_end(&b->silence, true, b->now_ms);
}

static void in_vain(struct backend *b)
{
    kz_rpc_silence_end(&b->silence, false, b->now_ms);
}

static void one_slow_call_is_nothing(void **state)
{
    struct backend b = {.now_ms = 100000};

    (void)state;
    for (int i = 0; i < 10; i++) {
        ask(&b);
        assert_int_equal(gone_after(&b, 3400, STEP_MS), -1);
        assert_true(b.unwell.noticed);
        answer(&b);
        assert_false(look(&b));
        assert_false(b.unwell.noticed);
    }
}

static void one_that_is_gone_is_noticed_in_five_seconds(void **state)
{
    struct backend asked = {.now_ms = 100000}, ticked = asked;

    (void)state;
    ask(&asked);
    assert_int_equal(gone_after(&asked, 10000, STEP_MS), 1550 + 2000);
    assert_string_equal(asked.unwell.problem, "no answer");
    ask(&ticked);
    assert_int_equal(gone_after(&ticked, 10000, 1000), 2000 + 2000);
}

static void calls_that_fail_one_after_the_other_are_one_silence(void **state)
{
    struct backend b = {.now_ms = 100000};

    (void)state;
    for (int i = 0; i < 7; i++) {
        ask(&b);
        assert_int_equal(gone_after(&b, 500, STEP_MS), -1);
        in_vain(&b);
    }
    ask(&b);
    assert_int_equal(gone_after(&b, 500, STEP_MS), 50);
}

static void the_prober_s_answer_saves_who_has_a_slow_call(void **state)
{
    struct backend b = {.now_ms = 100000};

    (void)state;
    ask(&b); /* answered after 20 s */
    for (int i = 0; i < 10; i++) {
        assert_int_equal(gone_after(&b, 1750, STEP_MS), -1);
        ask(&b);
        assert_int_equal(gone_after(&b, 250, STEP_MS), -1);
        answer(&b);
    }
    answer(&b);
    assert_false(look(&b));
}

static void it_is_back_with_its_first_answer(void **state)
{
    struct backend b = {.now_ms = 100000};

    (void)state;
    ask(&b);
    assert_int_equal(gone_after(&b, 60000, STEP_MS), 3550);
    answer(&b);
    assert_false(look(&b));
    assert_false(b.unwell.noticed);
    assert_string_equal(b.unwell.problem, "");
    ask(&b); /* and gone again: from the beginning */
    assert_int_equal(gone_after(&b, 10000, STEP_MS), 3550);
}

/* Suspended, or without its share of CPU: the silence is its own. */
static void a_process_that_stood_still_is_not_unready_at_once(void **state)
{
    struct backend b = {.now_ms = 100000};

    (void)state;
    ask(&b);
    b.now_ms += 60000;
    assert_false(look(&b));
    assert_int_equal(gone_after(&b, 1950, STEP_MS), -1);
    answer(&b);
    assert_false(look(&b));
}

static void a_long_problem_is_cut(void **state)
{
    struct kz_unwell unwell = {0};
    char problem[1000];

    (void)state;
    memset(problem, 'x', sizeof(problem) - 1);
    problem[sizeof(problem) - 1] = '\0';
    kz_unwell_look(&unwell, problem, true, 0); /* a clock may begin at 0 */
    assert_int_equal(strlen(unwell.problem), 319);
    assert_true(unwell.throttled);
    assert_false(kz_unwell_is_gone(&unwell, 1999));
    assert_true(kz_unwell_is_gone(&unwell, 2000));
}

/* A bus whose topic can be gone, as a collect sees it that nobody calls: by its prober. */
struct idle {
    int64_t now_ms, gone_ms, back_ms;
    bool found_gone;
    unsigned questions;
    struct kz_probe probe;
    struct kz_unwell unwell;
};

/* As the prober's thread does each 250 ms, and the process's tick each second; how it stands at the end. */
static bool idle_until(struct idle *b, int64_t until_ms)
{
    while (b->now_ms < until_ms) {
        b->now_ms += 250;
        if (kz_probe_is_due(&b->probe, b->found_gone, b->now_ms)) {
            b->found_gone = b->now_ms >= b->gone_ms && b->now_ms < b->back_ms;
            b->questions++;
            kz_probe_asked(&b->probe, b->now_ms);
        }
        if (b->now_ms % 1000 == 0)
            kz_unwell_look(&b->unwell, b->found_gone ? "no such topic" : "", false, b->now_ms);
    }
    return kz_unwell_is_gone(&b->unwell, b->now_ms);
}

static void a_topic_that_was_deleted_under_an_idle_collect_stayed_unseen(void **state)
{
    struct idle b = {.gone_ms = 31000,
            .back_ms = 101000,
            .probe = {.unwell_every_ms = 2000, .well_every_ms = 30000}};

    (void)state;
    assert_false(idle_until(&b, 60000)); /* asked at 30.25 s and 60.25 s */
    assert_int_equal(b.questions, 1);
    assert_false(idle_until(&b, 62000));
    assert_true(idle_until(&b, 63000));
    assert_int_equal(b.questions, 3);
    assert_true(idle_until(&b, 101000)); /* and again and again meanwhile */
    assert_false(idle_until(&b, 103000));
    assert_int_equal(b.questions, 2 + 21);
    assert_false(idle_until(&b, 132000));
    assert_int_equal(b.questions, 2 + 21);
}

static void who_is_well_is_not_asked_where_others_would_notice(void **state)
{
    struct kz_probe probe = {.unwell_every_ms = 500};

    (void)state;
    assert_false(kz_probe_is_due(&probe, false, 0));
    assert_false(kz_probe_is_due(&probe, false, 1000000));
    assert_true(kz_probe_is_due(&probe, true, 1000250));
    kz_probe_asked(&probe, 1004000); /* a slow answer */
    assert_false(kz_probe_is_due(&probe, true, 1004250));
    assert_true(kz_probe_is_due(&probe, true, 1004500));
    assert_true(kz_probe_is_due(&(struct kz_probe){.unwell_every_ms = 500}, true, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(one_slow_call_is_nothing),
            cmocka_unit_test(one_that_is_gone_is_noticed_in_five_seconds),
            cmocka_unit_test(calls_that_fail_one_after_the_other_are_one_silence),
            cmocka_unit_test(the_prober_s_answer_saves_who_has_a_slow_call),
            cmocka_unit_test(it_is_back_with_its_first_answer),
            cmocka_unit_test(a_process_that_stood_still_is_not_unready_at_once),
            cmocka_unit_test(a_long_problem_is_cut),
            cmocka_unit_test(a_topic_that_was_deleted_under_an_idle_collect_stayed_unseen),
            cmocka_unit_test(who_is_well_is_not_asked_where_others_would_notice),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
