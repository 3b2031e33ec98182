/* What each type of record does to the views, and who is who afterwards. */
#include "history/fake_log.h"

#include <math.h>

/* ---- identity -------------------------------------------------------------------------------- */

static void login_takes_the_anonymous_history(void **state)
{
    struct fake_log log;
    struct kz_source sources[KZ_SOURCES_MAX];
    kz_lsn first, link = 0, second;
    struct kz_link_plan plan;
    uint32_t user;

    (void)state;
    fake_open(&log);
    first = fake_event(&log, anon_key("A"), 500, 0, 0);
    plan = fake_link(&log, anon_key("A"), user_key("U"), KZ_IDENTITY_IDENTIFY, &link);
    assert_int_equal(plan.outcome, KZ_LINK_DO);
    assert_int_equal(plan.kind, KZ_LINK_MERGE);
    second = fake_event(&log, anon_key("A"), 700, 1, 0); /* still sent as A */
    user = kz_views_find(log.views, user_key("U"));
    assert_int_equal(user_of(&log, anon_key("A")), user);
    assert_int_equal(kz_views_user(log.views, user)->event_count, 2);
    assert_int_equal(kz_views_user(log.views, user)->last_ts_ms, 700);
    assert_int_equal(kz_views_user(log.views, user)->first_seen_ms, FAKE_START_MS);
    assert_int_equal(kz_views_user(log.views, user)->session, 1); /* goes on through the login */
    assert_int_equal(kz_views_sources(log.views, user, KZ_CHAIN_EVENTS, UINT64_MAX, sources), 2);
    assert_true(sources[0].owner == kz_owner_hash(user_key("U"), 0));
    assert_true(sources[0].head == second);
    assert_true(sources[1].owner == kz_owner_hash(anon_key("A"), 0));
    assert_true(sources[1].head == first);
    /* As of before the login, U has nothing of A's. */
    assert_int_equal(kz_views_sources(log.views, user, KZ_CHAIN_EVENTS, link - 1, sources), 1);
    assert_int_equal(
            fake_link(&log, anon_key("A"), user_key("U"), KZ_IDENTITY_IDENTIFY, NULL).outcome,
            KZ_LINK_NOTHING);
    fake_check(&log);
    fake_close(&log);
}

static void second_login_on_a_shared_device_inherits_nothing(void **state)
{
    struct fake_log log;
    struct kz_source sources[KZ_SOURCES_MAX];
    struct kz_link_plan plan;
    uint32_t first, second;

    (void)state;
    fake_open(&log);
    fake_event(&log, anon_key("A"), 500, 0, 0);
    fake_link(&log, anon_key("A"), user_key("U1"), KZ_IDENTITY_IDENTIFY, NULL);
    plan = fake_link(&log, anon_key("A"), user_key("U2"), KZ_IDENTITY_IDENTIFY, NULL);
    assert_int_equal(plan.outcome, KZ_LINK_DO);
    assert_int_equal(plan.kind, KZ_LINK_REDIRECT);
    fake_event(&log, anon_key("A"), 600, 0, 0);
    first = kz_views_find(log.views, user_key("U1"));
    second = kz_views_find(log.views, user_key("U2"));
    assert_int_equal(user_of(&log, anon_key("A")), second);
    assert_int_equal(kz_views_user(log.views, first)->event_count, 1);
    assert_int_equal(kz_views_user(log.views, second)->event_count, 1);
    assert_int_equal(kz_views_sources(log.views, first, KZ_CHAIN_EVENTS, UINT64_MAX, sources), 2);
    assert_int_equal(kz_views_sources(log.views, second, KZ_CHAIN_EVENTS, UINT64_MAX, sources), 1);
    /* And back: later events only, once more. */
    plan = fake_link(&log, anon_key("A"), user_key("U1"), KZ_IDENTITY_IDENTIFY, NULL);
    assert_int_equal(plan.kind, KZ_LINK_REDIRECT);
    assert_int_equal(user_of(&log, anon_key("A")), first);
    /* What was asked for A before any login ended up with the one who took the history. */
    assert_int_equal(kz_views_state_user(log.views, kz_owner_hash(anon_key("A"), 0)), first);
    fake_check(&log);
    fake_close(&log);
}

static void alias_chains_stay_flat_and_carry_everything_along(void **state)
{
    struct fake_log log;
    struct kz_source sources[KZ_SOURCES_MAX];
    uint32_t v;

    (void)state;
    fake_open(&log);
    fake_event(&log, anon_key("A"), 100, 0, 0);
    fake_link(&log, anon_key("A"), user_key("U"), KZ_IDENTITY_IDENTIFY, NULL);
    fake_event(&log, user_key("U"), 200, 0, 0);
    fake_event(&log, user_key("V"), 300, 0, 0);
    assert_int_equal(fake_link(&log, user_key("U"), user_key("V"), KZ_IDENTITY_ALIAS, NULL).kind,
            KZ_LINK_MERGE);
    v = kz_views_find(log.views, user_key("V"));
    assert_int_equal(user_of(&log, anon_key("A")), v);
    assert_int_equal(user_of(&log, user_key("U")), v);
    assert_int_equal(kz_views_sources(log.views, v, KZ_CHAIN_EVENTS, UINT64_MAX, sources), 3);
    assert_int_equal(kz_views_user(log.views, v)->event_count, 3);
    /* A login to U is one to V now. */
    fake_link(&log, anon_key("B"), user_key("U"), KZ_IDENTITY_IDENTIFY, NULL);
    assert_int_equal(user_of(&log, anon_key("B")), v);
    fake_check(&log);
    fake_close(&log);
}

static void circles_are_refused(void **state)
{
    struct fake_log log;
    uint64_t seq;

    (void)state;
    fake_open(&log);
    fake_link(&log, user_key("P"), user_key("U"), KZ_IDENTITY_ALIAS, NULL);
    seq = log.seq;
    assert_int_equal(fake_link(&log, user_key("U"), user_key("P"), KZ_IDENTITY_ALIAS, NULL).outcome,
            KZ_LINK_REFUSED);
    assert_int_equal(fake_link(&log, user_key("U"), user_key("U"), KZ_IDENTITY_ALIAS, NULL).outcome,
            KZ_LINK_NOTHING);
    assert_int_equal(
            fake_link(&log, user_key("P"), user_key("X"), KZ_IDENTITY_IDENTIFY, NULL).outcome,
            KZ_LINK_NOTHING); /* identify is about anonymous ids */
    assert_int_equal(log.seq, seq);
    fake_check(&log);
    fake_close(&log);
}

static void the_65th_chain_is_only_redirected(void **state)
{
    struct fake_log log;
    struct kz_link_plan plan = {0};
    struct kz_source sources[KZ_SOURCES_MAX];
    uint32_t user;

    (void)state;
    fake_open(&log);
    fake_event(&log, user_key("U"), 100, 0, 0);
    for (int i = 0; i < KZ_SOURCES_MAX; i++) {
        char id[16];

        (void)snprintf(id, sizeof(id), "A%d", i);
        fake_event(&log, anon_key(id), 100, 0, 0);
        plan = fake_link(&log, anon_key(id), user_key("U"), KZ_IDENTITY_IDENTIFY, NULL);
        assert_int_equal(plan.kind, i < KZ_SOURCES_MAX - 1 ? KZ_LINK_MERGE : KZ_LINK_REDIRECT);
    }
    assert_true(plan.sources_full);
    user = kz_views_find(log.views, user_key("U"));
    assert_int_equal(user_of(&log, anon_key("A63")), user);
    assert_int_equal(kz_views_sources(log.views, user, KZ_CHAIN_EVENTS, UINT64_MAX, sources), 64);
    assert_int_equal(kz_views_stats(log.views).links_without_sources, 1);
    fake_check(&log);
    fake_close(&log);
}

static void login_merges_caps_holdout_timers_and_pending_work(void **state)
{
    struct fake_log log;
    uint64_t asked_a, asked_u;
    const struct kz_slot *slot;
    kz_lsn event;
    uint32_t user;

    (void)state;
    fake_open(&log);
    event = fake_event(&log, anon_key("A"), 500, 0, 0);
    fake_event(&log, user_key("U"), 510, 0, 0);
    fake_decision(&log, anon_key("A"), "coupon", KZ_DECISION_HOLDOUT);
    fake_decision(&log, anon_key("A"), "banner", KZ_DECISION_DELIVER);
    log.at_ms += 1000;
    fake_decision(&log, user_key("U"), "coupon", KZ_DECISION_DELIVER);
    fake_decision(&log, user_key("U"), "banner", KZ_DECISION_DELIVER);
    fake_trigger(&log, anon_key("A"), "gone", KZ_TRIGGER_DELAY, 9000, 500, event);
    fake_trigger(&log, anon_key("A"), "third", KZ_TRIGGER_COUNT, 0, 500, event);
    fake_trigger(&log, user_key("U"), "third", KZ_TRIGGER_COUNT, 0, 510, event);
    asked_u = fake_request(&log, user_key("U"), "buy");
    asked_a = fake_request(&log, anon_key("A"), "buy");
    fake_link(&log, anon_key("A"), user_key("U"), KZ_IDENTITY_IDENTIFY, NULL);
    user = kz_views_find(log.views, user_key("U"));
    assert_int_equal(kz_views_deliveries(log.views, user, name("banner"), 0), 2);
    assert_int_equal(kz_views_deliveries(log.views, user, name("banner"), FAKE_START_MS + 1), 1);
    assert_int_equal(kz_views_deliveries_total(log.views, name("banner"), 0), 2);
    assert_int_equal(kz_views_hits(log.views, user, name("third"), 500), 2);
    assert_int_equal(kz_views_hits(log.views, user, name("third"), 501), 1);
    slot = kz_views_slot(log.views, user, KZ_SLOT_ACTION, name("coupon"));
    assert_int_equal(slot->action.holdout_assigned, 2); /* A's came first */
    slot = kz_views_slot(log.views, user, KZ_SLOT_TRIGGER, name("gone"));
    assert_int_equal(slot->trigger.delay_due_ms, 9000);
    assert_true(slot->trigger.pending == event);
    assert_int_equal(kz_views_stats(log.views).pending_requests, 2);
    assert_int_equal(kz_views_stats(log.views).waiting_deliveries, 3);
    /* The newer request's prediction stays, whichever comes first, and under whichever owner. */
    fake_result(&log, kz_owner_hash(anon_key("A"), 0), asked_a, KZ_END_DONE, 0.7);
    fake_result(&log, kz_owner_hash(user_key("U"), 0), asked_u, KZ_END_DONE, 0.1);
    slot = kz_views_slot(log.views, user, KZ_SLOT_PREDICTION, name("buy"));
    assert_true(slot->prediction.score == 0.7);
    assert_true(slot->prediction.request == asked_a);
    assert_int_equal(kz_views_stats(log.views).pending_requests, 0);
    fake_check(&log);
    fake_close(&log);
}

static uint64_t colliding_hash(struct kz_user_key key, unsigned attempt)
{
    return attempt ? kz_owner_hash(key, attempt) : 42;
}

static void ids_with_one_hash_are_told_apart(void **state)
{
    struct fake_log log;
    struct kz_views_place place;

    (void)state;
    fake_open(&log);
    log.views->owner_hash = colliding_hash;
    fake_event(&log, user_key("one"), 100, 0, 0);
    fake_event(&log, user_key("two"), 100, 0, 0);
    fake_event(&log, user_key("two"), 200, 0, 0);
    place = kz_views_lookup(log.views, user_key("two"));
    assert_true(place.owner == kz_owner_hash(user_key("two"), 1));
    assert_int_equal(kz_views_user(log.views, place.index)->event_count, 2);
    place = kz_views_lookup(log.views, user_key("one"));
    assert_true(place.owner == 42);
    assert_int_equal(kz_views_user(log.views, place.index)->event_count, 1);
    /* Both ends of a link new, and colliding. */
    log.views->owner_hash = colliding_hash;
    fake_erase(&log, user_key("one"), 1);
    fake_link(&log, anon_key("x"), user_key("y"), KZ_IDENTITY_IDENTIFY, NULL);
    assert_int_equal(user_of(&log, anon_key("x")), kz_views_find(log.views, user_key("y")));
    assert_int_not_equal(0, user_of(&log, anon_key("x")));
    fake_check(&log);
    fake_close(&log);
}

/* ---- records --------------------------------------------------------------------------------- */

static void events_keep_first_seen_session_and_latest_time(void **state)
{
    struct fake_log log;
    const struct kz_user *user;
    kz_lsn last;

    (void)state;
    fake_open(&log);
    fake_event(&log, user_key("U"), 5000, 0, 0);
    log.at_ms += 10;
    fake_event(&log, user_key("U"), 4000, 1, 0); /* late */
    user = kz_views_user(log.views, user_of(&log, user_key("U")));
    assert_int_equal(user->last_ts_ms, 5000);
    assert_int_equal(user->session_ts_ms, 5000);
    assert_int_equal(user->first_seen_ms, FAKE_START_MS);
    assert_int_equal(user->last_event_at_ms, FAKE_START_MS + 10);
    last = fake_event(&log, user_key("U"), 9000, 99, KZ_EVENT_ACTION);
    assert_true(user->events_head == last);
    assert_int_equal(user->session, 1); /* ours, not theirs */
    assert_int_equal(user->event_count, 3);
    assert_int_equal(user->last_ts_ms, 5000); /* @now does not follow what we did */
    fake_event(&log, user_key("U"), 77, 98, KZ_EVENT_IMPORTED);
    assert_int_equal(user->first_seen_ms, 77); /* the past is older than its import */
    fake_event(&log, user_key("V"), 9000, 0, KZ_EVENT_ACTION); /* ours came first */
    fake_event(&log, user_key("V"), 6000, 0, 0);
    user = kz_views_user(log.views, user_of(&log, user_key("V")));
    assert_int_equal(user->last_ts_ms, 6000);
    fake_close(&log);
}

static const struct kz_trigger_state *trigger_of(struct fake_log *log, const char *rule)
{
    const struct kz_slot *slot = kz_views_slot(
            log->views, user_of(log, user_key("U")), KZ_SLOT_TRIGGER, name(rule));

    return slot ? &slot->trigger : NULL;
}

static void trigger_ops_move_a_rules_state(void **state)
{
    struct fake_log log;
    struct kz_user_key u = user_key("U");
    uint32_t user;

    (void)state;
    fake_open(&log);
    fake_event(&log, u, 100, 0, 0);
    fake_trigger(&log, u, "r", KZ_TRIGGER_WINDOW, 2100, 100, 11);
    assert_int_equal(trigger_of(&log, "r")->window_due_ms, 2100);
    assert_int_equal(trigger_of(&log, "r")->pending, 0);
    fake_trigger(&log, u, "r", KZ_TRIGGER_PENDING, 2100, 900, 12);
    assert_int_equal(trigger_of(&log, "r")->pending, 12);
    assert_int_equal(trigger_of(&log, "r")->pending_ts_ms, 900);
    fake_trigger(&log, u, "r", KZ_TRIGGER_FIRE, 2100, 900, 12);
    assert_null(trigger_of(&log, "r")); /* nothing left to remember */
    fake_trigger(&log, u, "d", KZ_TRIGGER_DELAY, 5000, 100, 13);
    fake_trigger(&log, u, "d", KZ_TRIGGER_DELAY, 6000, 200, 14);
    assert_int_equal(trigger_of(&log, "d")->delay_due_ms, 6000);
    assert_int_equal(trigger_of(&log, "d")->pending, 14);
    fake_trigger(&log, u, "d", KZ_TRIGGER_CANCEL, 0, 300, 15);
    assert_null(trigger_of(&log, "d"));
    fake_trigger(&log, u, "c", KZ_TRIGGER_REACHED, 7000, 300, 15);
    assert_int_equal(trigger_of(&log, "c")->rearm_due_ms, 7000);
    user = user_of(&log, u);
    for (int i = 1; i <= 400; i++)
        fake_trigger(&log, u, "c", KZ_TRIGGER_COUNT, 0, 1000 + i, 15);
    assert_int_equal(kz_views_hits(log.views, user, name("c"), 0), KZ_VIEWS_TIMES_MAX);
    assert_int_equal(kz_views_hits(log.views, user, name("c"), 1400), 1);
    fake_check(&log);
    fake_trigger(&log, u, "c", KZ_TRIGGER_COUNT, 1399, 1398, 15); /* late: forgotten at once */
    assert_int_equal(kz_views_hits(log.views, user, name("c"), 0), 2);
    assert_int_equal(kz_views_stats(log.views).slots, 2); /* the state and one of times */
    fake_check(&log);
    fake_close(&log);
}

static void requests_end_and_leave_predictions(void **state)
{
    struct fake_log log;
    struct kz_user_key u = user_key("U");
    struct kz_slot_cursor cursor = {0};
    const struct kz_slot *slot;
    uint64_t owner, first, second;
    kz_lsn result;
    uint32_t user;

    (void)state;
    fake_open(&log);
    fake_event(&log, user_key("other"), 100, 0, 0);
    fake_event(&log, u, 100, 0, 0);
    owner = fake_owner(&log, u);
    user = user_of(&log, u);
    first = fake_request(&log, u, "buy");
    second = fake_request(&log, u, "leave");
    slot = kz_views_next_slot(log.views, KZ_SLOT_REQUEST, &cursor);
    assert_int_equal(cursor.user, user);
    assert_non_null(slot);
    assert_non_null(kz_views_next_slot(log.views, KZ_SLOT_REQUEST, &cursor));
    assert_null(kz_views_next_slot(log.views, KZ_SLOT_REQUEST, &cursor));
    assert_null(kz_views_next_slot(log.views, KZ_SLOT_REQUEST, &cursor));
    result = fake_result(&log, owner, first, KZ_END_DONE, 0.25);
    slot = kz_views_slot(log.views, user, KZ_SLOT_PREDICTION, name("buy"));
    assert_true(slot->prediction.score == 0.25);
    assert_true(slot->prediction.result == result);
    fake_result(&log, owner, second, KZ_END_EXPIRED, 0);
    assert_null(kz_views_slot(log.views, user, KZ_SLOT_PREDICTION, name("leave")));
    assert_int_equal(kz_views_stats(log.views).pending_requests, 0);
    fake_result(&log, owner, first, KZ_END_DONE, 0.99); /* a repeat */
    assert_true(slot->prediction.score == 0.25);
    assert_int_equal(kz_views_stats(log.views).unknown_requests, 1);
    fake_result(&log, 123456, first, KZ_END_DONE, 0.99);
    assert_int_equal(kz_views_stats(log.views).unknown_owners, 1);
    fake_close(&log);
}

static void decisions_assign_cap_and_wait(void **state)
{
    struct fake_log log;
    struct kz_user_key u = user_key("U");
    const struct kz_slot *slot;
    uint64_t shown, retried;
    uint32_t user;

    (void)state;
    fake_open(&log);
    fake_event(&log, u, 100, 0, 0);
    user = user_of(&log, u);
    fake_decision(&log, u, "coupon", KZ_DECISION_SCHEDULE);
    fake_decision(&log, u, "coupon", KZ_DECISION_PAUSED);
    assert_int_equal(kz_views_stats(log.views).slots, 0);
    fake_decision(&log, u, "coupon", KZ_DECISION_SHADOW);
    slot = kz_views_slot(log.views, user, KZ_SLOT_ACTION, name("coupon"));
    assert_int_equal(slot->action.holdout_assigned, 1);
    assert_int_equal(kz_views_deliveries(log.views, user, name("coupon"), 0), 0);
    shown = fake_decision(&log, u, "coupon", KZ_DECISION_DELIVER);
    retried = fake_decision(&log, u, "coupon", KZ_DECISION_DELIVER);
    assert_int_equal(kz_views_deliveries(log.views, user, name("coupon"), 0), 2);
    assert_int_equal(
            kz_views_hits(log.views, user, name("coupon"), 0), 0); /* a rule of that name */
    fake_delivery(&log, u, shown, KZ_DELIVERY_SHOWN, 0, 0);
    assert_null(kz_views_delivery(log.views, user, shown));
    fake_delivery(&log, u, retried, KZ_DELIVERY_FAILED, 3, 777);
    slot = kz_views_delivery(log.views, user, retried);
    assert_int_equal(slot->delivery.attempt_count, 3);
    assert_int_equal(slot->delivery.retry_at_ms, 777);
    fake_delivery(&log, u, retried, KZ_DELIVERY_GAVE_UP, 4, 0);
    assert_int_equal(kz_views_stats(log.views).waiting_deliveries, 0);
    fake_delivery(&log, u, retried, KZ_DELIVERY_SENT, 4, 0);
    assert_int_equal(kz_views_stats(log.views).unknown_decisions, 1);
    fake_check(&log);
    fake_close(&log);
}

static void dead_letters_are_bounded_and_can_be_dropped(void **state)
{
    struct fake_log log;
    uint64_t ids[10];

    (void)state;
    fake_open(&log); /* keeps 8 */
    for (int i = 0; i < 10; i++)
        ids[i] = fake_dead_letter(&log, 0, KZ_STAGE_INFER);
    assert_int_equal(kz_views_dead_letter_count(log.views), 8);
    assert_int_equal(kz_views_stats(log.views).dead_letters_lost, 2);
    assert_null(kz_views_dead_letter(log.views, ids[1]));
    assert_int_equal(kz_views_dead_letter_at(log.views, 0)->seq, ids[2]);
    assert_int_equal(kz_views_dead_letter(log.views, ids[5])->stage, KZ_STAGE_INFER);
    fake_control(&log, "drop-deadletter:6", "");
    assert_null(kz_views_dead_letter(log.views, 6));
    fake_control(&log, "retry-deadletter", "8");
    assert_null(kz_views_dead_letter(log.views, 8));
    fake_control(&log, "drop-deadletter:nonsense", "");
    assert_int_equal(kz_views_dead_letter_count(log.views), 6);
    assert_int_equal(kz_views_dead_letter(log.views, 10)->seq, 10);
    fake_check(&log);
    fake_close(&log);
}

static void the_operators_last_word_counts(void **state)
{
    struct fake_log log;

    (void)state;
    fake_open(&log);
    assert_false(kz_views_paused(log.views, "model", KZ_STR("buy")));
    fake_control(&log, "pause-model", "buy");
    assert_true(kz_views_paused(log.views, "model", KZ_STR("buy")));
    assert_false(kz_views_paused(log.views, "action", KZ_STR("buy")));
    fake_control(&log, "promote-model:v7", "buy");
    assert_true(kz_views_paused(log.views, "model", KZ_STR("buy")));
    assert_true(kz_str_is(
            kz_views_control(log.views, "promote-model", KZ_STR("buy")), "promote-model:v7"));
    fake_control(&log, "resume-model", "buy");
    assert_false(kz_views_paused(log.views, "model", KZ_STR("buy")));
    fake_control(&log, "pause-action", "*");
    assert_true(kz_views_paused(log.views, "action", KZ_STR("coupon")));
    fake_control(&log, "resume-action", "coupon");
    assert_false(kz_views_paused(log.views, "action", KZ_STR("coupon")));
    assert_true(kz_views_paused(log.views, "action", KZ_STR("banner")));
    fake_control(&log, "pause-action", "coupon");
    fake_control(&log, "resume-action", "*");
    assert_false(kz_views_paused(log.views, "action", KZ_STR("coupon")));
    log.at_ms = 5555;
    fake_clock(&log);
    assert_int_equal(kz_views_clock_ms(log.views), 5555);
    fake_close(&log);
}

static void erasure_takes_linked_ids_and_leaves_a_tombstone(void **state)
{
    struct fake_log log;
    uint64_t asked, letter;
    struct kz_views_stats stats;

    (void)state;
    fake_open(&log);
    fake_event(&log, anon_key("A"), 100, 0, 0);
    fake_link(&log, anon_key("A"), user_key("U"), KZ_IDENTITY_IDENTIFY, NULL);
    fake_link(&log, anon_key("B"), user_key("U"), KZ_IDENTITY_IDENTIFY, NULL); /* no history */
    fake_event(&log, user_key("U"), 200, 0, 0);
    fake_request(&log, user_key("U"), "buy");
    fake_decision(&log, user_key("U"), "coupon", KZ_DECISION_DELIVER);
    fake_dead_letter(&log, fake_owner(&log, user_key("U")), KZ_STAGE_INFER);
    letter = fake_dead_letter(&log, 0, KZ_STAGE_COLLECT);
    fake_event(&log, user_key("stays"), 200, 0, 0);
    asked = fake_erase(&log, anon_key("A"), 4711);
    assert_int_equal(kz_views_find(log.views, user_key("U")), 0);
    assert_int_equal(kz_views_find(log.views, anon_key("A")), 0);
    assert_int_equal(kz_views_find(log.views, anon_key("B")), 0);
    stats = kz_views_stats(log.views);
    assert_int_equal(stats.users, 1);
    assert_int_equal(stats.slots + stats.pending_requests + stats.waiting_deliveries, 0);
    assert_int_equal(stats.linked, 0);
    assert_int_equal(stats.dead_letters, 1);
    assert_non_null(kz_views_dead_letter(log.views, letter));
    assert_int_equal(kz_views_tombstone(log.views, 4711)->seq, asked);
    assert_int_equal(kz_views_tombstone(log.views, 4711)->done_at_ms, 0);
    assert_null(kz_views_tombstone(log.views, 4712));
    /* Who comes back is new. */
    fake_event(&log, user_key("U"), 300, 0, 0);
    assert_int_equal(
            kz_views_user(log.views, kz_views_find(log.views, user_key("U")))->event_count, 1);
    {
        struct kz_erase_body done = {.id_hash = 4711, .what = KZ_ERASE_DONE, .erasure = asked};
        struct kz_buf body = {0};

        kz_buf_put(&body, &done, sizeof(done));
        fake_put(&log, KZ_RECORD_ERASE, 0, 0, &body);
        kz_buf_done(&body);
    }
    assert_int_equal(kz_views_tombstone(log.views, 4711)->done_at_ms, FAKE_START_MS);
    assert_int_equal(kz_views_erasure(log.views, asked)->id_hash, 4711);
    fake_check(&log);
    fake_close(&log);
}

static void a_second_erasure_of_an_id_leaves_the_first_to_be_carried_out(void **state)
{
    struct fake_log log;
    uint64_t first, second;
    const struct kz_erase_body done = {.id_hash = 4711, .what = KZ_ERASE_DONE};

    (void)state;
    fake_open(&log);
    fake_event(&log, anon_key("A"), 100, 0, 0);
    fake_link(&log, anon_key("A"), user_key("U"), KZ_IDENTITY_IDENTIFY, NULL);
    first = fake_erase(&log, user_key("U"), 4711);
    fake_event(&log, user_key("U"), 200, 0, 0);
    second = fake_erase(&log, user_key("U"), 4711);
    assert_int_equal(kz_views_stats(log.views).tombstones, 2);
    assert_int_equal(kz_views_erasure(log.views, first)->done_at_ms, 0);
    assert_int_equal(kz_views_tombstone(log.views, 4711)->seq, second);
    fake_check(&log);
    for (unsigned i = 0; i < 2; i++) {
        struct kz_erase_body body = done;
        struct kz_buf bytes = {0};

        body.erasure = i ? second : first;
        kz_buf_put(&bytes, &body, sizeof(body));
        fake_put(&log, KZ_RECORD_ERASE, 0, 0, &bytes);
        kz_buf_done(&bytes);
        assert_int_equal(kz_views_erasure(log.views, first)->done_at_ms, FAKE_START_MS);
        assert_int_equal(kz_views_erasure(log.views, second)->done_at_ms, i ? FAKE_START_MS : 0);
    }
    fake_carry(&log, 0);
    assert_int_equal(kz_views_tombstone(log.views, 4711)->seq, second);
    assert_int_equal(kz_views_erasure(log.views, first)->id_hash, 4711);
    fake_check(&log);
    fake_close(&log);
}

static void erasing_one_user_of_a_shared_device_spares_the_other(void **state)
{
    struct fake_log log;
    uint32_t second;

    (void)state;
    fake_open(&log);
    fake_event(&log, anon_key("A"), 100, 0, 0);
    fake_link(&log, anon_key("A"), user_key("U1"), KZ_IDENTITY_IDENTIFY, NULL);
    fake_link(&log, anon_key("A"), user_key("U2"), KZ_IDENTITY_IDENTIFY, NULL);
    fake_event(&log, anon_key("A"), 200, 0, 0);
    second = kz_views_find(log.views, user_key("U2"));
    fake_erase(&log, user_key("U1"), 1);
    assert_int_equal(kz_views_find(log.views, user_key("U1")), 0);
    assert_int_equal(user_of(&log, anon_key("A")), second);
    assert_int_equal(kz_views_user(log.views, second)->event_count, 1);
    assert_int_equal(
            kz_views_user(log.views, kz_views_find(log.views, anon_key("A")))->events_head, 0);
    fake_check(&log);
    /* The other way round: the device falls back to the one who owns its history. */
    fake_event(&log, anon_key("B"), 100, 0, 0);
    fake_link(&log, anon_key("B"), user_key("V1"), KZ_IDENTITY_IDENTIFY, NULL);
    fake_link(&log, anon_key("B"), user_key("V2"), KZ_IDENTITY_IDENTIFY, NULL);
    fake_erase(&log, user_key("V2"), 2);
    assert_int_equal(user_of(&log, anon_key("B")), kz_views_find(log.views, user_key("V1")));
    fake_check(&log);
    fake_close(&log);
}

/* Everything of one user, then only the CARRYs of it, in views that know nothing. */
static void carried_state_stands_for_the_log_before_it(void **state)
{
    struct fake_log log;
    struct kz_views *late = kz_views_new(8);
    struct kz_err err = {0};
    const struct kz_slot *slot;
    uint32_t user;
    size_t from;
    uint64_t asked;
    kz_lsn head;

    (void)state;
    fake_open(&log);
    fake_event(&log, anon_key("A"), 100, 0, 0);
    fake_link(&log, anon_key("A"), user_key("U"), KZ_IDENTITY_IDENTIFY, NULL);
    head = fake_event(&log, user_key("U"), 200, 0, 0);
    asked = fake_request(&log, user_key("U"), "buy");
    fake_decision(&log, user_key("U"), "coupon", KZ_DECISION_DELIVER);
    for (int i = 0; i < 12; i++)
        fake_trigger(&log, user_key("U"), "c", KZ_TRIGGER_COUNT, 0, 1000 + i, head);
    fake_control(&log, "pause-model", "buy");
    fake_dead_letter(&log, 0, KZ_STAGE_INFER);
    slot = kz_views_request(log.views, user_of(&log, user_key("U")), asked);
    from = log.count;
    fake_carry(&log, kz_views_find(log.views, anon_key("A")));
    fake_carry(&log, user_of(&log, user_key("U")));
    fake_carry(&log, 0);
    /* Live, nothing moved. */
    assert_ptr_equal(slot, kz_views_request(log.views, user_of(&log, user_key("U")), asked));
    fake_event(&log, anon_key("A"), 300, 0, 0);
    fake_result(&log, fake_owner(&log, user_key("U")), asked, KZ_END_DONE, 0.5);
    fake_replay(&log, from, late);
    assert_true(kz_views_hash(late) == kz_views_hash(log.views));
    must(kz_views_check(late, &err), &err);
    user = kz_views_resolve(late, anon_key("A")).index;
    assert_int_equal(kz_views_user(late, user)->event_count, 3);
    assert_int_equal(kz_views_hits(late, user, name("c"), 1002), 10);
    assert_true(kz_views_paused(late, "model", KZ_STR("buy")));
    kz_views_free(late);
    fake_close(&log);
}

static void idle_users_are_forgotten_once_their_log_is_gone(void **state)
{
    struct fake_log log;
    struct kz_buf body = {0};
    struct kz_keep keep = {0};
    uint32_t user, busy;
    uint64_t owner;

    (void)state;
    fake_open(&log);
    fake_event(&log, user_key("idle"), 100, 0, 0);
    fake_event(&log, user_key("busy"), 100, 0, 0);
    fake_request(&log, user_key("busy"), "buy");
    user = user_of(&log, user_key("idle"));
    busy = user_of(&log, user_key("busy"));
    owner = fake_owner(&log, user_key("idle"));
    keep.below = kz_views_user(log.views, user)->events_head;
    assert_false(kz_views_can_forget(log.views, user, &keep));
    keep.below = KZ_LSN(9, 9);
    assert_true(kz_views_can_forget(log.views, user, &keep));
    assert_false(kz_views_can_forget(log.views, busy, &keep));
    kz_views_forget(log.views, user, &body);
    fake_put(&log, KZ_RECORD_CARRY, 0, owner, &body);
    kz_buf_done(&body);
    assert_int_equal(kz_views_find(log.views, user_key("idle")), 0);
    assert_int_equal(kz_views_stats(log.views).users, 1);
    fake_check(&log);
    fake_close(&log);
}

static void records_that_lie_are_corrupt_and_change_nothing(void **state)
{
    struct fake_log log;
    struct {
        struct kz_record record;
        char body[256];
    } bad = {.record = {.seq = 1000, .owner = 77}};
    uint64_t hash;

    (void)state;
    fake_open(&log);
    fake_event(&log, user_key("U"), 100, 0, 0);
    bad.record.owner = fake_owner(&log, user_key("U"));
    hash = kz_views_hash(log.views);
    memset(bad.body, 0xee, sizeof(bad.body));
    for (unsigned type = 0; type < 20; type++) {
        for (uint32_t size = 0; size <= sizeof(bad.body); size += 4) {
            bad.record.type = (uint8_t)type;
            bad.record.size = (uint32_t)sizeof(bad.record) + size;
            if (type == KZ_RECORD_CLOCK)
                continue;
            if (kz_views_apply(log.views, KZ_LSN(2, 64), &bad.record, NULL) == KZ_OK) {
                assert_int_equal(type, KZ_RECORD_DELIVERY);
                fail_msg("type %u of %u bytes was taken", type, size);
            }
        }
    }
    assert_true(kz_views_hash(log.views) == hash);
    fake_check(&log);
    fake_close(&log);
}

static void records_seen_before_are_skipped(void **state)
{
    struct fake_log log;
    uint64_t hash;

    (void)state;
    fake_open(&log);
    fake_event(&log, user_key("U"), 100, 0, 0);
    fake_request(&log, user_key("U"), "buy");
    hash = kz_views_hash(log.views);
    fake_replay(&log, 0, log.views);
    assert_true(kz_views_hash(log.views) == hash);
    assert_int_equal(kz_views_stats(log.views).pending_requests, 1);
    fake_close(&log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(login_takes_the_anonymous_history),
            cmocka_unit_test(second_login_on_a_shared_device_inherits_nothing),
            cmocka_unit_test(alias_chains_stay_flat_and_carry_everything_along),
            cmocka_unit_test(circles_are_refused),
            cmocka_unit_test(the_65th_chain_is_only_redirected),
            cmocka_unit_test(login_merges_caps_holdout_timers_and_pending_work),
            cmocka_unit_test(ids_with_one_hash_are_told_apart),
            cmocka_unit_test(events_keep_first_seen_session_and_latest_time),
            cmocka_unit_test(trigger_ops_move_a_rules_state),
            cmocka_unit_test(requests_end_and_leave_predictions),
            cmocka_unit_test(decisions_assign_cap_and_wait),
            cmocka_unit_test(dead_letters_are_bounded_and_can_be_dropped),
            cmocka_unit_test(the_operators_last_word_counts),
            cmocka_unit_test(erasure_takes_linked_ids_and_leaves_a_tombstone),
            cmocka_unit_test(a_second_erasure_of_an_id_leaves_the_first_to_be_carried_out),
            cmocka_unit_test(erasing_one_user_of_a_shared_device_spares_the_other),
            cmocka_unit_test(carried_state_stands_for_the_log_before_it),
            cmocka_unit_test(idle_users_are_forgotten_once_their_log_is_gone),
            cmocka_unit_test(records_that_lie_are_corrupt_and_change_nothing),
            cmocka_unit_test(records_seen_before_are_skipped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
