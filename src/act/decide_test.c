/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <stdio.h>

#include "act/act.h"
#include "act/localtime.h"
#include "codec/timefmt.h"

enum { MON, TUE, WED, THU, FRI, SAT, SUN };
enum { MON_FRI = 0x1f };

static struct kz_user_key user(const char *id)
{
    return (struct kz_user_key){'u', kz_str(id)};
}

static struct kz_action_def plain(void)
{
    return (struct kz_action_def){.name = "coupon", .mode = KZ_MODE_ON};
}

static enum kz_decision at(const struct kz_action_def *def, int weekday, int minute)
{
    struct kz_act_input input = {
            .key = {'u', KZ_STR("ada")},
            .schedule_local = {weekday, minute},
    };

    return kz_act_decide(def, &input);
}

static void schedule_is_open_from_start_until_before_end(void **state)
{
    static const struct {
        int start, end, weekday, minute;
        bool open;
    } rows[] = {
            {600, 1080, MON, 599, false},
            {600, 1080, MON, 600, true},
            {600, 1080, FRI, 1079, true},
            {600, 1080, FRI, 1080, false},
            {600, 1080, SAT, 700, false},
            {600, 1080, SUN, 700, false},
            /* 22:00 to 06:00: the small hours belong to the day before. */
            {1320, 360, MON, 1319, false},
            {1320, 360, MON, 1320, true},
            {1320, 360, MON, 1439, true},
            {1320, 360, TUE, 0, true},
            {1320, 360, TUE, 359, true},
            {1320, 360, TUE, 360, false},
            {1320, 360, MON, 0, false}, /* Sunday's night is not scheduled */
            {1320, 360, FRI, 1400, true},
            {1320, 360, SAT, 100, true}, /* Friday's night goes on */
            {1320, 360, SAT, 1400, false},
            {1320, 360, SUN, 100, false},
            /* A whole day, and nothing of one. */
            {0, 1440, WED, 0, true},
            {0, 1440, WED, 1439, true},
            {600, 600, WED, 600, false},
    };

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        struct kz_action_def def = plain();

        def.schedule.set = true;
        def.schedule.weekdays = MON_FRI;
        def.schedule.start_minute = rows[i].start;
        def.schedule.end_minute = rows[i].end;
        if (at(&def, rows[i].weekday, rows[i].minute) !=
                (rows[i].open ? KZ_DECISION_DELIVER : KZ_DECISION_SCHEDULE))
            fail_msg("row %zu: weekday %d minute %d", i, rows[i].weekday, rows[i].minute);
    }
}

static void holdout_places_never_change(void **state)
{
    /* Fixed when this was written: another figure would move users between the groups. */
    static const struct {
        const char *action, *id;
        char kind;
        double place;
    } rows[] = {
            {"coupon", "ada", 'u', 0.46220636548018612},
            {"coupon", "grace", 'u', 0.11482382317602546},
            {"coupon", "ada", 'a', 0.40298990974866822},
            {"banner", "ada", 'u', 0.89554126616004404},
    };

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        struct kz_user_key key = {rows[i].kind, kz_str(rows[i].id)};
        double place = kz_act_holdout_place(rows[i].action, key);

        if (fabs(place - rows[i].place) > 1e-12)
            fail_msg("%s %c:%s is at %.17g", rows[i].action, rows[i].kind, rows[i].id, place);
    }
}

static void a_tenth_is_held_out_and_independently_so(void **state)
{
    enum { USERS = 20000 };
    int first = 0, second = 0, both = 0;

    (void)state;
    for (int i = 0; i < USERS; i++) {
        char id[16];
        bool a, b;

        snprintf(id, sizeof(id), "u%d", i);
        a = kz_act_holdout_place("coupon", user(id)) < 0.1;
        b = kz_act_holdout_place("banner", user(id)) < 0.1;
        first += a;
        second += b;
        both += a && b;
    }
    assert_in_range(first, 1850, 2150);
    assert_in_range(second, 1850, 2150);
    assert_in_range(both, 140, 260);
}

static void an_assignment_sticks_whatever_the_share_becomes(void **state)
{
    struct kz_action_state treated = {.holdout_assigned = 1}, held = {.holdout_assigned = 2};
    struct kz_action_def def = plain();
    struct kz_act_input input = {.key = user("ada"), .state = &treated};

    (void)state;
    def.holdout = 1;
    assert_int_equal(kz_act_decide(&def, &input), KZ_DECISION_DELIVER);
    def.holdout = 0;
    input.state = &held;
    assert_int_equal(kz_act_decide(&def, &input), KZ_DECISION_HOLDOUT);
    input.state = NULL;
    assert_int_equal(kz_act_decide(&def, &input), KZ_DECISION_DELIVER);
    def.holdout = 1;
    assert_int_equal(kz_act_decide(&def, &input), KZ_DECISION_HOLDOUT);
}

static void any_full_cap_stops_it(void **state)
{
    static const struct {
        size_t used[2];
        enum kz_decision decision;
    } rows[] = {
            {{0, 0}, KZ_DECISION_DELIVER},
            {{0, 499}, KZ_DECISION_DELIVER},
            {{1, 0}, KZ_DECISION_CAPPED},
            {{0, 500}, KZ_DECISION_CAPPED},
            {{0, 501}, KZ_DECISION_CAPPED},
            {{1, 500}, KZ_DECISION_CAPPED},
    };
    struct kz_cap_def caps[] = {{.max = 1, .per_user = true}, {.max = 500}};
    struct kz_action_def def = plain();

    (void)state;
    def.caps = caps;
    def.cap_count = 2;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        struct kz_act_input input = {.key = user("ada"), .cap_used = rows[i].used};

        assert_int_equal(kz_act_decide(&def, &input), rows[i].decision);
    }
}

static void caps_count_a_sliding_window_or_the_local_day(void **state)
{
    struct kz_cap_def sliding = {.every_ms = 86400000}, daily = {.every_ms = 0};

    (void)state;
    /* A delivery exactly 24 h ago does not count any more, one a millisecond later does. */
    assert_int_equal(kz_act_cap_since(&sliding, 100000000, 5), 13600001);
    assert_int_equal(kz_act_cap_since(&daily, 100000000, 86400000), 86400000);
}

static int64_t ms_of(const char *time)
{
    int64_t ms = 0;

    assert_int_equal(kz_time_parse(kz_str(time), &ms, NULL), KZ_OK);
    return ms;
}

/* It was reckoned with the offset of now: on a day whose clock was put forward the last hour of the
 * day before counted too, and on one put back the first hour of the day did not. */
static void a_cap_by_the_day_begins_at_midnight_also_where_the_clock_was_changed_since(void **state)
{
    static const struct {
        const char *tz, *now, *begins;
    } rows[] = {
            {"Asia/Tokyo", "2025-03-09T03:00:00Z", "2025-03-08T15:00:00Z"},
            {"America/New_York", "2025-03-09T06:30:00Z", "2025-03-09T05:00:00Z"},
            {"America/New_York", "2025-03-09T16:00:00Z", "2025-03-09T05:00:00Z"},
            {"America/New_York", "2025-03-10T16:00:00Z", "2025-03-10T04:00:00Z"},
            {"America/New_York", "2025-11-02T04:30:00Z", "2025-11-02T04:00:00Z"},
            {"America/New_York", "2025-11-02T17:00:00Z", "2025-11-02T04:00:00Z"},
            {"America/New_York", "2025-11-03T17:00:00Z", "2025-11-03T05:00:00Z"},
            {"Australia/Lord_Howe", "2025-10-05T03:00:00Z", "2025-10-04T13:30:00Z"},
            /* There is no midnight: the day begins at one. */
            {"America/Havana", "2025-03-09T05:00:00Z", "2025-03-09T05:00:00Z"},
            {"America/Havana", "2025-03-09T16:00:00Z", "2025-03-09T05:00:00Z"},
            /* There are two: the first counts. */
            {"America/Havana", "2025-11-02T04:30:00Z", "2025-11-02T04:00:00Z"},
            {"America/Havana", "2025-11-02T05:30:00Z", "2025-11-02T04:00:00Z"},
            {"America/Havana", "2025-11-02T17:00:00Z", "2025-11-02T04:00:00Z"},
    };

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        int64_t begins_ms;

        kz_local_time(rows[i].tz, ms_of(rows[i].now), NULL, NULL, &begins_ms);
        if (begins_ms != ms_of(rows[i].begins))
            fail_msg("%s at %s: the day begins %lld ms off", rows[i].tz, rows[i].now,
                    (long long)(begins_ms - ms_of(rows[i].begins)));
    }
}

static void the_first_reason_wins(void **state)
{
    static const struct {
        bool paused, closed, held, capped, shadow;
        enum kz_decision decision;
    } rows[] = {
            {true, true, true, true, true, KZ_DECISION_PAUSED},
            {false, true, true, true, true, KZ_DECISION_SCHEDULE},
            {false, false, true, true, true, KZ_DECISION_HOLDOUT},
            {false, false, false, true, true, KZ_DECISION_CAPPED},
            {false, false, false, false, true, KZ_DECISION_SHADOW},
            {false, false, false, false, false, KZ_DECISION_DELIVER},
    };
    struct kz_cap_def cap = {.max = 1};

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        struct kz_action_def def = plain();
        size_t used = rows[i].capped;
        struct kz_act_input input = {
                .paused = rows[i].paused, .key = user("ada"), .cap_used = &used};

        def.mode = rows[i].shadow ? KZ_MODE_SHADOW : KZ_MODE_ON;
        def.schedule.set = rows[i].closed; /* on no day of the week */
        def.holdout = rows[i].held ? 1 : 0;
        def.caps = &cap;
        def.cap_count = 1;
        assert_int_equal(kz_act_decide(&def, &input), rows[i].decision);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(schedule_is_open_from_start_until_before_end),
            cmocka_unit_test(holdout_places_never_change),
            cmocka_unit_test(a_tenth_is_held_out_and_independently_so),
            cmocka_unit_test(an_assignment_sticks_whatever_the_share_becomes),
            cmocka_unit_test(any_full_cap_stops_it),
            cmocka_unit_test(caps_count_a_sliding_window_or_the_local_day),
            cmocka_unit_test(
                    a_cap_by_the_day_begins_at_midnight_also_where_the_clock_was_changed_since),
            cmocka_unit_test(the_first_reason_wins),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
