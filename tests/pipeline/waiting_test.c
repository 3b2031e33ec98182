/* ?wait=: what it costs that many wait, in which order they are answered, and with what. */
#include <time.h>
#include <unistd.h>

#include "../retention/rig.h"
#include "sys/clock.h"

enum { SHORT = 2000, LONG = 16000, TRIES = 3, DEADLINE_MS = 120000 };

struct caller {
    struct kz_submission submission;
    struct kz_intake_item item, *items;
    char user[16];
    size_t *answered; /* so many were, of all */
    size_t place;     /* this one was the how manieth; 0: it waits */
    size_t results;
    char reason[16];
};

static const bool every_model[] = {true};

static void on_done(struct kz_submission *s, enum kz_code code, const struct kz_err *err)
{
    struct caller *c = s->user;

    (void)err;
    assert_int_equal(code, KZ_OK);
    assert_int_equal(c->place, 0);
    assert_int_equal(s->result_count + s->pending_count, 1);
    c->place = ++*c->answered;
    c->results = s->result_count;
    if (s->pending_count)
        snprintf(c->reason, sizeof(c->reason), "%s", s->pending[0].reason);
}

static void call(
        struct rig *rig, struct caller *c, size_t *answered, int number, uint32_t timeout_ms)
{
    struct kz_intake *intake = kz_pipeline_intake(rig->p);

    *c = (struct caller){.answered = answered, .items = &c->item};
    snprintf(c->user, sizeof(c->user), "u%d", number);
    c->item.event.user_id = kz_str(c->user);
    c->item.event.name = KZ_STR("view");
    c->submission = (struct kz_submission){.items = &c->items,
            .item_count = 1,
            .wait_models = every_model,
            .wait_timeout_ms = timeout_ms,
            .done = on_done,
            .user = c};
    intake->ops->submit(intake, &c->submission);
}

static void control(struct rig *rig, const char *verb)
{
    struct kz_query *query = kz_pipeline_query(rig->p);
    uint64_t count;

    assert_int_equal(
            query->ops->control(query, verb, KZ_STR("counter"), "test", &count, NULL), KZ_OK);
}

static void begin(struct rig *rig)
{
    *rig = (struct rig){.project = support_project, .ask = true, .real_clock = true};
    rig->project.action_count = 0;
    rig->fs = kz_fs_sim_new(1);
    rig_open(rig);
    control(rig, "pause-model");
}

static void end(struct rig *rig)
{
    rig_close(rig);
    kz_fs_sim_free(rig->fs);
}

static void turn_until(struct rig *rig, const size_t *answered, size_t count)
{
    int64_t until_ms = kz_mono_ms() + DEADLINE_MS;

    while (*answered < count && kz_mono_ms() < until_ms) {
        kz_pipeline_turn(rig->p);
        if (*answered < count)
            usleep(200); /* until a condition, with a deadline */
    }
    assert_int_equal(*answered, count);
}

static int64_t cpu_us(void)
{
    struct timespec now;

    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now), 0);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* What it takes this thread to answer `count` callers whose time is over at once. */
static int64_t cost_of(size_t count)
{
    struct caller *callers = kz_calloc(count, sizeof(*callers));
    size_t answered = 0;
    int64_t from_us;
    struct rig rig;

    begin(&rig);
    for (size_t i = 0; i < count; i++)
        call(&rig, &callers[i], &answered, (int)i, 1);
    from_us = cpu_us();
    turn_until(&rig, &answered, count);
    from_us = cpu_us() - from_us;
    for (size_t i = 0; i < count; i++)
        assert_string_equal(callers[i].reason, "timeout");
    end(&rig);
    free(callers);
    return KZ_MAX(from_us, (int64_t)1);
}

/* Eight times as many; where each looks at all others, that is sixty-four times the work. */
static void many_whose_time_is_over_cost_no_more_than_their_number(void **state)
{
    int64_t least = INT64_MAX;

    (void)state;
    for (int i = 0; i < TRIES && least >= 32; i++) {
        int64_t few_us = cost_of(SHORT), many_us = cost_of(LONG);

        print_message(
                "%d: %lld us, %d: %lld us\n", SHORT, (long long)few_us, LONG, (long long)many_us);
        least = KZ_MIN(least, many_us / few_us);
    }
    assert_true(least < 32);
}

static void who_waits_is_answered_in_the_order_of_their_time(void **state)
{
    enum { HASTY = 101, PATIENT = 50 };
    struct caller *callers = kz_calloc(HASTY + PATIENT, sizeof(*callers));
    size_t answered = 0;
    struct rig rig;

    (void)state;
    begin(&rig);
    for (int i = 0; i < HASTY + PATIENT; i++)
        call(&rig, &callers[i], &answered, i, i < HASTY ? 1 + i * 37 % HASTY * 20 : 600000);
    turn_until(&rig, &answered, HASTY);
    for (int i = 0; i < HASTY; i++)
        for (int j = 0; j < HASTY; j++)
            if (callers[i].submission.wait_until_us < callers[j].submission.wait_until_us)
                assert_true(callers[i].place < callers[j].place);
    for (int i = 0; i < HASTY + PATIENT; i++)
        assert_string_equal(callers[i].reason, i < HASTY ? "timeout" : "");
    control(&rig, "resume-model");
    turn_until(&rig, &answered, HASTY + PATIENT);
    for (int i = HASTY; i < HASTY + PATIENT; i++)
        assert_int_equal(callers[i].results, 1);
    assert_int_equal(
            kz_pipeline_next_ms(rig.p) > 0, 1); /* nobody is left whose time will be over */
    end(&rig);
    free(callers);
}

static void who_waits_when_it_stops_is_told_so(void **state)
{
    struct caller callers[3];
    size_t answered = 0;
    struct rig rig;

    (void)state;
    begin(&rig);
    for (int i = 0; i < 3; i++)
        call(&rig, &callers[i], &answered, i, 600000);
    kz_pipeline_turn(rig.p);
    assert_int_equal(answered, 0);
    end(&rig);
    assert_int_equal(answered, 3);
    for (int i = 0; i < 3; i++)
        assert_string_equal(callers[i].reason, "stopping");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(many_whose_time_is_over_cost_no_more_than_their_number),
            cmocka_unit_test(who_waits_is_answered_in_the_order_of_their_time),
            cmocka_unit_test(who_waits_when_it_stops_is_told_so),
    };

    (void)rig_upkeep, (void)rig_wait, (void)rig_again, (void)rig_send, (void)rig_counters;
    kz_diag_set(KZ_DIAG_ERROR - 1, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
