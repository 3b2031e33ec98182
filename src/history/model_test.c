/* Random lives of a few users: whatever happens, the invariants hold, and a checkpoint in the
 * middle with the rest of the log gives the state that the whole log gives.
 */
#include "history/checkpoint.h"
#include "history/fake_log.h"
#include "sys/file_sim.h"

enum { STEPS = 4000, IDS = 24 };
/* With one thread there is nothing for ThreadSanitizer to find, and it takes its time. */
#ifdef __SANITIZE_THREAD__
enum { SEEDS = 2 };
#else
enum { SEEDS = 10 };
#endif

struct world {
    struct fake_log log;
    uint64_t random;
    char ids[IDS][16];
    uint64_t requests[64], decisions[64], letters[64];
    size_t request_count, decision_count, letter_count;
};

static uint64_t draw(struct world *w, uint64_t below)
{
    w->random = kz_hash_mix(w->random, 1);
    return w->random % below;
}

static struct kz_user_key any_key(struct world *w)
{
    uint64_t i = draw(w, IDS);

    return i < IDS / 2 ? anon_key(w->ids[i]) : user_key(w->ids[i]);
}

static void keep(struct world *w, uint64_t seqs[64], size_t *count, uint64_t seq)
{
    seqs[*count < 64 ? (*count)++ : draw(w, 64)] = seq;
}

/* Any of the numbers kept, right for the user or not, or none that ever was. */
static uint64_t any_of(struct world *w, const uint64_t seqs[64], size_t count)
{
    return count ? seqs[draw(w, count)] : 1;
}

static uint64_t any_owner(struct world *w)
{
    return kz_owner_hash(any_key(w), 0);
}

static const char *any_name(struct world *w)
{
    static const char *const names[] = {"buy", "leave", "coupon"};

    return names[draw(w, 3)];
}

static void forget_somebody(struct world *w)
{
    uint32_t user = kz_views_next_user(w->log.views, (uint32_t)draw(w, 30));
    struct kz_buf body = {0};

    if (!user || !kz_views_can_forget(w->log.views, user, &(struct kz_keep){.below = UINT64_MAX}))
        return;
    kz_views_forget(w->log.views, user, &body);
    fake_put(&w->log, KZ_RECORD_CARRY, 0, kz_views_user(w->log.views, user)->owner, &body);
    kz_buf_done(&body);
}

static void operate(struct world *w)
{
    char verb[64];

    switch (draw(w, 4)) {
    case 0:
        fake_control(&w->log, "pause-model", any_name(w));
        break;
    case 1:
        fake_control(&w->log, "resume-model", any_name(w));
        break;
    case 2:
        (void)snprintf(verb, sizeof(verb), "drop-deadletter:%llu",
                (unsigned long long)any_of(w, w->letters, w->letter_count));
        fake_control(&w->log, verb, "");
        break;
    default:
        fake_clock(&w->log);
    }
}

static void work(struct world *w)
{
    struct fake_log *log = &w->log;
    struct kz_user_key key = any_key(w);

    switch (draw(w, 8)) {
    case 0:
        fake_trigger(log, key, any_name(w), (enum kz_trigger_op)(1 + draw(w, 7)),
                (int64_t)draw(w, 9000), (int64_t)(1 + draw(w, 9000)), 64 + draw(w, 999));
        break;
    case 1:
    case 2:
        keep(w, w->requests, &w->request_count, fake_request(log, key, any_name(w)));
        break;
    case 3:
    case 4:
        fake_result(log, any_owner(w), any_of(w, w->requests, w->request_count),
                (enum kz_request_end)(1 + draw(w, 5)), 0.5);
        break;
    case 5:
        keep(w, w->decisions, &w->decision_count,
                fake_decision(log, key, any_name(w), (enum kz_decision)(1 + draw(w, 6))));
        break;
    case 6:
        fake_delivery(log, key, any_of(w, w->decisions, w->decision_count),
                (enum kz_delivery_state)(1 + draw(w, 5)), 1, (int64_t)draw(w, 9000));
        break;
    default:
        keep(w, w->letters, &w->letter_count,
                fake_dead_letter(log, draw(w, 2) ? any_owner(w) : 0, KZ_STAGE_ACT));
    }
}

static void step(struct world *w)
{
    struct fake_log *log = &w->log;
    struct kz_user_key key = any_key(w);
    uint64_t what = draw(w, 100);

    log->at_ms += (int64_t)draw(w, 50);
    if (what < 35)
        fake_event(log, key, (int64_t)(1 + draw(w, 9000)), draw(w, 3), (uint8_t)draw(w, 4));
    else if (what < 45)
        fake_link(
                log, key, any_key(w), draw(w, 2) ? KZ_IDENTITY_IDENTIFY : KZ_IDENTITY_ALIAS, NULL);
    else if (what < 88)
        work(w);
    else if (what < 92)
        fake_carry(log, kz_views_next_user(log->views, (uint32_t)draw(w, 30)));
    else if (what < 93)
        fake_erase(log, key, 1 + draw(w, 20));
    else if (what < 96)
        forget_somebody(w);
    else
        operate(w);
}

static void open_world(struct world *w, uint64_t seed)
{
    *w = (struct world){.random = seed};
    fake_open(&w->log);
    for (int i = 0; i < IDS; i++)
        (void)snprintf(w->ids[i], sizeof(w->ids[i]), "id-%d", i);
}

static void a_checkpoint_and_the_rest_give_what_the_whole_log_gives(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(seed);
        struct kz_views *fresh = kz_views_new(8), *loaded = NULL;
        struct kz_checkpoint_info info;
        struct kz_log_mark mark = {0};
        struct kz_err err = {0};
        struct world w;
        size_t middle = 0;

        open_world(&w, seed);
        for (int i = 0; i < STEPS; i++) {
            step(&w);
            if (i % 50 == 0)
                fake_check(&w.log);
            if (i != STEPS / 2)
                continue;
            middle = w.log.count;
            mark.position = kz_views_lsn(w.log.views) + 8;
            must(kz_checkpoint_save(fs, "/", w.log.views, &mark, "shop", NULL, NULL, &err), &err);
        }
        fake_check(&w.log);
        fake_replay(&w.log, 0, fresh);
        assert_true(kz_views_hash(fresh) == kz_views_hash(w.log.views));
        must(kz_checkpoint_load(fs, "/", "shop", 8, &loaded, &info, &err), &err);
        assert_int_equal(info.seq, middle);
        assert_false(info.fell_back);
        must(kz_views_check(loaded, &err), &err);
        fake_replay(&w.log, middle - 5, loaded); /* a little early does no harm */
        must(kz_views_check(loaded, &err), &err);
        assert_true(kz_views_hash(loaded) == kz_views_hash(w.log.views));
        assert_int_equal(kz_views_stats(loaded).slots, kz_views_stats(w.log.views).slots);
        kz_views_free(loaded);
        kz_views_free(fresh);
        fake_close(&w.log);
    }
}

/* Retention: everybody carried, the log before dropped, and no checkpoint. */
static void carries_of_everybody_give_what_the_whole_log_gives(void **state)
{
    (void)state;
    for (uint64_t seed = 100; seed < 100 + SEEDS; seed++) {
        struct kz_views *late = kz_views_new(8);
        struct kz_err err = {0};
        struct world w;
        size_t from;

        open_world(&w, seed);
        for (int i = 0; i < STEPS / 2; i++)
            step(&w);
        from = w.log.count;
        for (uint32_t user = kz_views_next_user(w.log.views, 0); user;
                user = kz_views_next_user(w.log.views, user))
            fake_carry(&w.log, user);
        fake_carry(&w.log, 0);
        for (int i = 0; i < STEPS / 4; i++)
            step(&w);
        fake_replay(&w.log, from, late);
        must(kz_views_check(late, &err), &err);
        assert_true(kz_views_hash(late) == kz_views_hash(w.log.views));
        kz_views_free(late);
        fake_close(&w.log);
    }
}

/* Many come and go, so that the tables grow and shrink and keys are used again. */
static void tables_survive_many_comings_and_goings(void **state)
{
    struct fake_log log;
    char id[32];

    (void)state;
    fake_open(&log);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 30000; i++) {
            (void)snprintf(id, sizeof(id), "visitor-%d", i);
            fake_event(&log, user_key(id), 1 + i, 0, 0);
        }
        assert_int_equal(kz_views_stats(log.views).users, 30000);
        fake_check(&log);
        for (int i = 0; i < 30000; i++) {
            (void)snprintf(id, sizeof(id), "visitor-%d", i);
            assert_int_not_equal(kz_views_find(log.views, user_key(id)), 0);
            fake_erase(&log, user_key(id), 1 + (uint64_t)i);
        }
        assert_int_equal(kz_views_stats(log.views).users, 0);
        fake_check(&log);
    }
    /* When the last 30,000 came, 90,000 had gone: all but 65,536 of the indexes were used again. */
    assert_int_equal(log.views->users.end, 1 + KZ_VIEWS_INDEX_REST + 30000);
    assert_true(log.views->runs.end < 2 * 30000 * 2);
    fake_close(&log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_checkpoint_and_the_rest_give_what_the_whole_log_gives),
            cmocka_unit_test(carries_of_everybody_give_what_the_whole_log_gives),
            cmocka_unit_test(tables_survive_many_comings_and_goings),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
