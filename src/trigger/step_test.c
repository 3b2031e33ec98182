#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "trigger/trigger.h"

/* Runs a rule over one user the way the pipeline does and writes down what happens. */
struct run {
    struct kz_trigger_def def;
    struct kz_trigger_state state;
    int64_t hits[16];
    size_t hit_count;
    char trace[1024];
};

static void note(struct run *run, const char *what, int64_t a, int64_t b)
{
    size_t used = strlen(run->trace);

    snprintf(run->trace + used, sizeof(run->trace) - used, "%s%s %lld/%lld", used ? "; " : "", what,
            (long long)a, (long long)b);
}

static void apply(struct run *run, const struct kz_trigger_step *step)
{
    struct kz_trigger_state *s = &run->state;

    for (size_t i = 0; i < step->op_count; i++) {
        int64_t due = step->ops[i].due_ms, ts = step->ops[i].event_ts_ms;
        kz_lsn event = step->ops[i].event;

        switch (step->ops[i].op) {
        case KZ_TRIGGER_WINDOW:
            note(run, "window", due, ts);
            s->window_due_ms = due;
            break;
        case KZ_TRIGGER_PENDING:
            note(run, "pending", due, ts);
            s->pending = event;
            s->pending_ts_ms = ts;
            break;
        case KZ_TRIGGER_DELAY:
            note(run, "delay", due, ts);
            s->delay_due_ms = due;
            s->pending = event;
            s->pending_ts_ms = ts;
            break;
        case KZ_TRIGGER_CANCEL:
            note(run, "cancel", due, ts);
            s->pending = 0;
            s->delay_due_ms = 0;
            break;
        case KZ_TRIGGER_FIRE:
            note(run, "fire", due, ts);
            s->pending = 0;
            s->delay_due_ms = 0;
            break;
        case KZ_TRIGGER_COUNT:
            run->hits[run->hit_count++] = ts;
            break;
        case KZ_TRIGGER_REACHED:
            note(run, "reached", due, ts);
            s->rearm_due_ms = due;
            break;
        }
    }
    if (step->ask)
        note(run, "ask", step->ask_now_ms, step->ask_ts_ms);
}

static void event(struct run *run, int64_t ts, bool when, bool unless)
{
    struct kz_match match = {.when = when, .unless = unless};
    struct kz_trigger_step step;

    size_t hits = 0;

    for (size_t i = 0; i < run->hit_count; i++)
        hits += run->hits[i] > ts - run->def.count.within_ms;
    kz_trigger_on_event(&run->def, &run->state, hits, &match, ts, (kz_lsn)ts + 1, &step);
    apply(run, &step);
}

static void timer(struct run *run, int64_t due)
{
    struct kz_trigger_step step;

    kz_trigger_on_timer(&run->state, due, &step);
    apply(run, &step);
}

static void debounce_asks_at_once_and_once_more_at_the_end(void **state)
{
    struct run run = {.def = {.debounce_ms = 2000}};

    (void)state;
    event(&run, 1000, true, false);
    event(&run, 1500, true, false);
    event(&run, 2900, true, false);
    timer(&run, 3000);
    event(&run, 3000, true, false); /* the window is over: a first one again */
    timer(&run, 5000);              /* nothing came since */
    event(&run, 5100, true, false);
    assert_string_equal(run.trace,
            "window 3000/1000; ask 1000/1000; pending 3000/1500; pending 3000/2900; "
            "fire 3000/2900; ask 3000/2900; window 5000/3000; ask 3000/3000; "
            "window 7100/5100; ask 5100/5100");
}

static void delay_restarts_with_each_match_and_unless_ends_it(void **state)
{
    struct run run = {.def = {.delay_ms = 60000, .unless = "x"}};

    (void)state;
    event(&run, 1000, true, false);
    event(&run, 31000, true, false);
    timer(&run, 61000); /* overtaken by the restart */
    timer(&run, 91000);
    event(&run, 100000, true, false);
    event(&run, 110000, false, true);
    timer(&run, 160000);
    event(&run, 170000, false, true); /* nothing armed: nothing to cancel */
    assert_string_equal(run.trace, "delay 61000/1000; delay 91000/31000; "
                                   "fire 91000/31000; ask 91000/31000; "
                                   "delay 160000/100000; cancel 0/110000");
}

static void a_match_that_comes_late_does_not_shorten_a_delay(void **state)
{
    struct run run = {.def = {.delay_ms = 60000}};

    (void)state;
    event(&run, 100000, true, false);
    event(&run, 45000, true, false); /* would have asked 5 s after the match at 100 s */
    timer(&run, 105000);
    timer(&run, 160000);
    assert_string_equal(run.trace, "delay 160000/100000; fire 160000/100000; ask 160000/100000");
}

static void a_delay_begun_again_needs_no_second_timer(void **state)
{
    const struct kz_trigger_def def = {.delay_ms = 60000, .unless = "x"};
    const struct kz_trigger_state armed = {.delay_due_ms = 61000, .pending = 1};
    const struct kz_match match = {.when = true}, both = {.when = true, .unless = true};
    struct kz_trigger_step step;

    (void)state;
    kz_trigger_on_event(&def, NULL, 0, &match, 1000, 1, &step);
    assert_int_equal(step.timer_ms, 61000);
    kz_trigger_on_event(&def, &armed, 0, &match, 2000, 2, &step);
    assert_int_equal(step.ops[0].due_ms, 62000);
    assert_int_equal(step.timer_ms, 0);
    kz_trigger_on_event(&def, &armed, 0, &both, 500, 3, &step); /* cancelled, then anew */
    assert_int_equal(step.op_count, 2);
    assert_int_equal(step.ops[1].due_ms, 60500);
    assert_int_equal(step.timer_ms, 60500);
}

static void count_asks_when_reached_and_again_only_when_rearmed(void **state)
{
    struct run run = {.def = {.count = {"x", 300, 3, 500}}};

    (void)state;
    event(&run, 100, true, false);
    event(&run, 200, true, false);
    event(&run, 400, true, false); /* 100 is out of the window (100, 400] */
    event(&run, 450, true, false); /* 200, 400, 450 */
    event(&run, 460, true, false); /* not rearmed before 950 */
    event(&run, 940, true, false);
    event(&run, 960, true, false);
    event(&run, 970, true, false);
    assert_string_equal(run.trace, "reached 950/450; ask 450/450; reached 1470/970; ask 970/970");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(debounce_asks_at_once_and_once_more_at_the_end),
            cmocka_unit_test(delay_restarts_with_each_match_and_unless_ends_it),
            cmocka_unit_test(a_match_that_comes_late_does_not_shorten_a_delay),
            cmocka_unit_test(a_delay_begun_again_needs_no_second_timer),
            cmocka_unit_test(count_asks_when_reached_and_again_only_when_rearmed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
