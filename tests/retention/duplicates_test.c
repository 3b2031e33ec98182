/* An event is taken once, however often its sender's id is linked, aliased and redirected between
 * the first time it comes and the next, and whatever was sealed in between.
 */
#include "rig.h"

enum { ANONYMOUS = 8, USERS = 7, EVENTS = 400 };

static const char *const anonymous_ids[ANONYMOUS] = {
        "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7"};
/* An alias may name a visitor's id or a user's: some are both. */
static const char *const user_ids[USERS] = {"u0", "u1", "u2", "u3", "u4", "a0", "a1"};

static struct sent draw(struct kz_prng *dice, char id[16], unsigned number)
{
    struct sent sent = {.event_id = id, .props = "{}"};

    snprintf(id, 16, "e%u", number);
    switch (kz_prng_below(dice, 5)) {
    case 0:
        sent.user_id = user_ids[kz_prng_below(dice, USERS)];
        break;
    case 1:
        sent.anonymous_id = anonymous_ids[kz_prng_below(dice, ANONYMOUS)];
        sent.user_id = user_ids[kz_prng_below(dice, USERS)];
        sent.identity = KZ_IDENTITY_IDENTIFY;
        break;
    case 2:
        sent.anonymous_id = kz_prng_below(dice, 2) ? user_ids[kz_prng_below(dice, USERS)]
                                                   : anonymous_ids[kz_prng_below(dice, ANONYMOUS)];
        sent.user_id = user_ids[kz_prng_below(dice, USERS)];
        sent.identity = KZ_IDENTITY_ALIAS;
        break;
    default:
        sent.anonymous_id = anonymous_ids[kz_prng_below(dice, ANONYMOUS)];
    }
    return sent;
}

static void one_life(uint64_t seed)
{
    struct rig rig = {.project = support_project, .now_ms = T0};
    struct kz_prng dice;
    struct sent sent[EVENTS];
    char ids[EVENTS][16];
    unsigned accepted_again = 0;

    rig.fs = kz_fs_sim_new(seed);
    kz_prng_init(&dice, seed);
    rig_open(&rig);
    for (unsigned i = 0; i < EVENTS; i++) {
        sent[i] = draw(&dice, ids[i], i);
        assert_int_equal(rig_send(&rig, sent[i]), KZ_INTAKE_ACCEPTED);
        if (kz_prng_below(&dice, 20) == 0)
            rig_upkeep(&rig);
        if (kz_prng_below(&dice, 60) == 0)
            rig_again(&rig, kz_prng_below(&dice, 2));
        rig_wait(&rig, (int64_t)kz_prng_below(&dice, 60000));
    }
    assert_true(rig_counters(&rig).log_segments_sealed > 3);
    for (unsigned i = 0; i < EVENTS; i++)
        accepted_again += rig_send(&rig, sent[i]) != KZ_INTAKE_DUPLICATE;
    rig_upkeep(&rig);
    rig_again(&rig, true);
    for (unsigned i = 0; i < EVENTS; i++)
        accepted_again += rig_send(&rig, sent[i]) != KZ_INTAKE_DUPLICATE;
    if (accepted_again)
        fail_msg("seed %llu: %u events were taken twice", (unsigned long long)seed, accepted_again);
    rig_close(&rig);
    kz_fs_sim_free(rig.fs);
}

static void nothing_is_taken_twice_whatever_is_linked_in_between(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++)
        one_life(seed);
}

/* A device in a shop: more users than are remembered one by one. */
static void a_device_of_a_hundred_users_sends_nothing_twice(void **state)
{
    struct rig rig = {.project = support_project, .now_ms = T0};
    char event_id[16], user_id[16];
    struct sent sent = {.anonymous_id = "kiosk", .event_id = event_id};

    (void)state;
    rig.fs = kz_fs_sim_new(1);
    rig_open(&rig);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 100; i++) {
            snprintf(event_id, sizeof(event_id), "e%u", i);
            assert_int_equal(
                    rig_send(&rig, sent), round ? KZ_INTAKE_DUPLICATE : KZ_INTAKE_ACCEPTED);
            if (round)
                continue;
            snprintf(user_id, sizeof(user_id), "u%u", i);
            rig_send(&rig, (struct sent){.anonymous_id = "kiosk",
                                   .user_id = user_id,
                                   .identity = KZ_IDENTITY_IDENTIFY});
            if (i % 10 == 0)
                rig_upkeep(&rig);
        }
        rig_upkeep(&rig);
        rig_again(&rig, true);
    }
    assert_true(kz_views_stats(rig.p->views).slots <= KZ_TARGETS_MAX + 2 + 1);
    rig_close(&rig);
    kz_fs_sim_free(rig.fs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(nothing_is_taken_twice_whatever_is_linked_in_between),
            cmocka_unit_test(a_device_of_a_hundred_users_sends_nothing_twice),
    };

    kz_diag_set(KZ_DIAG_ERROR - 1, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
