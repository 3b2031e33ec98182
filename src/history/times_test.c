/* Times against a plain sorted array: added in and out of order, forgotten, merged, as bytes and back. */
#include "history/fake_log.h"

enum { USERS = 3, NAMES = 2, ROUNDS = 30000 };

struct model {
    int64_t at_ms[USERS][NAMES][KZ_VIEWS_TIMES_MAX + 1]; /* oldest first */
    size_t count[USERS][NAMES];
};

static uint64_t seed = 7;

static uint64_t pick(uint64_t below)
{
    seed = kz_hash_mix(seed, 1);
    return seed % below;
}

static void model_add(struct model *m, size_t user, size_t n, int64_t at_ms, int64_t horizon_ms)
{
    int64_t *times = m->at_ms[user][n];
    size_t *count = &m->count[user][n], at = *count, gone = 0;

    for (; at && times[at - 1] > at_ms; at--)
        times[at] = times[at - 1];
    times[at] = at_ms;
    ++*count;
    while (gone < *count && (*count - gone > KZ_VIEWS_TIMES_MAX || times[gone] < horizon_ms))
        gone++;
    *count -= gone;
    memmove(times, times + gone, *count * sizeof(*times));
}

static size_t model_since(const struct model *m, size_t user, size_t n, int64_t since_ms)
{
    size_t found = 0;

    for (size_t i = 0; i < m->count[user][n]; i++)
        found += m->at_ms[user][n][i] >= since_ms;
    return found;
}

static void compare(const struct kz_views *views, const uint32_t *users, const struct model *m)
{
    for (size_t user = 0; user < USERS; user++) {
        for (size_t n = 0; n < NAMES; n++) {
            const struct kz_slot *slot = kz_views_slot(views, users[user], KZ_SLOT_TIMES, n + 1);
            size_t count = m->count[user][n];

            assert_int_equal(slot ? slot->ring.count : 0, count);
            for (size_t i = 0; i < count; i++)
                assert_int_equal(
                        kz_views_times_at(views, slot, i), m->at_ms[user][n][count - 1 - i]);
        }
    }
}

static void times_are_those_of_a_sorted_array(void **state)
{
    struct kz_views *views = kz_views_new(8);
    struct model *m = kz_calloc(1, sizeof(*m));
    uint32_t users[USERS];
    struct kz_err err = {0};
    int64_t now_ms = 1000;

    (void)state;
    for (size_t user = 0; user < USERS; user++) {
        char id[] = {'u', (char)('0' + user), 0};

        users[user] = kz_views_ensure(views, user_key(id));
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        size_t user = pick(USERS), n = pick(NAMES);
        int64_t at_ms = now_ms - (int64_t)(pick(4) ? 0 : pick(200));
        int64_t horizon_ms = pick(50) ? INT64_MIN : now_ms - (int64_t)pick(3000);
        int64_t since_ms = now_ms - (int64_t)pick(2000);

        now_ms += (int64_t)pick(6);
        kz_views_times_add(views, users[user], n + 1, at_ms, horizon_ms);
        model_add(m, user, n, at_ms, horizon_ms);
        assert_int_equal(kz_views_hits(views, users[user], n + 1, since_ms),
                model_since(m, user, n, since_ms));
        if (round % 64 == 0) {
            compare(views, users, m);
            must(kz_views_check(views, &err), &err);
        }
    }
    compare(views, users, m);
    for (size_t user = 0; user < USERS; user++)
        kz_views_slots_free(views, users[user]);
    must(kz_views_check(views, &err), &err);
    free(m);
    kz_views_free(views);
}

/* Rings that differ in capacity and in where they begin, of equal times. */
static void how_times_are_kept_is_no_part_of_the_state(void **state)
{
    struct kz_views *grown = kz_views_new(8), *carried = kz_views_new(8);
    uint32_t user = kz_views_ensure(grown, user_key("u")), again;
    uint64_t owner = kz_views_user(grown, user)->owner;
    struct kz_buf body = {0}, body_again = {0};
    struct kz_err err = {0};

    (void)state;
    for (int i = 1; i <= 300; i++)
        kz_views_times_add(grown, user, 5, i, i - 90);
    for (int i = 1; i <= 3; i++)
        kz_views_times_add(grown, user, 6, i, INT64_MIN);
    kz_views_carry(grown, user, NULL, &body);
    must(kz_views_restore(carried, owner, kz_buf_view(&body), &err), &err);
    again = kz_views_find_owner(carried, owner);
    assert_int_not_equal(kz_views_slot(grown, user, KZ_SLOT_TIMES, 5)->ring.first,
            kz_views_slot(carried, again, KZ_SLOT_TIMES, 5)->ring.first);
    assert_int_equal(kz_views_hash(grown), kz_views_hash(carried));
    kz_views_carry(carried, again, NULL, &body_again);
    assert_true(kz_str_eq(kz_buf_view(&body), kz_buf_view(&body_again)));
    must(kz_views_check(carried, &err), &err);
    kz_buf_done(&body);
    kz_buf_done(&body_again);
    kz_views_free(grown);
    kz_views_free(carried);
}

static void memory_is_used_again(void **state)
{
    struct kz_views *views = kz_views_new(8);
    uint32_t user = kz_views_ensure(views, user_key("u"));
    uint32_t end = 0;

    (void)state;
    for (int round = 0; round < 100; round++) {
        for (int i = 1; i <= 400; i++)
            kz_views_times_add(views, user, 5, i, INT64_MIN);
        kz_views_times_add(views, user, 5, 1000, 1000); /* back into the slot, by steps */
        assert_int_equal(kz_views_slot(views, user, KZ_SLOT_TIMES, 5)->ring.capacity, KZ_TIMES_FEW);
        kz_views_slots_free(views, user);
        if (round == 0)
            end = views->runs.end;
        assert_int_equal(views->runs.end, end);
    }
    kz_views_free(views);
}

static void merged_times_are_those_of_both(void **state)
{
    struct kz_views *views = kz_views_new(8);
    uint32_t to = kz_views_ensure(views, user_key("to"));
    uint32_t from = kz_views_ensure(views, user_key("from"));
    struct kz_err err = {0};

    (void)state;
    for (int i = 1; i <= 200; i++) {
        kz_views_times_add(views, to, 5, 2 * i, INT64_MIN);
        kz_views_times_add(views, from, 5, 2 * i + 1, INT64_MIN);
    }
    kz_views_times_merge(views, to, kz_views_slot(views, from, KZ_SLOT_TIMES, 5));
    assert_int_equal(kz_views_hits(views, to, 5, 0), KZ_VIEWS_TIMES_MAX);
    assert_int_equal(kz_views_hits(views, to, 5, 82), KZ_VIEWS_TIMES_MAX); /* 82 .. 401 */
    assert_int_equal(kz_views_hits(views, to, 5, 392), 10);
    must(kz_views_check(views, &err), &err);
    kz_views_free(views);
}

/* A loaded ring whose numbers would lead out of its memory. */
static void rings_that_cannot_be_are_seen(void **state)
{
    struct kz_views *views = kz_views_new(8);
    uint32_t user = kz_views_ensure(views, user_key("u"));
    struct kz_slot *slot, good;

    (void)state;
    for (int i = 1; i <= 20; i++)
        kz_views_times_add(views, user, 5, i, INT64_MIN);
    slot = kz_views_slot_find(views, user, KZ_SLOT_TIMES, 5);
    good = *slot;
    assert_true(kz_views_times_valid(views, slot));
    slot->ring.first = 32;
    assert_false(kz_views_times_valid(views, slot));
    *slot = good;
    slot->ring.count = 33;
    assert_false(kz_views_times_valid(views, slot));
    slot->ring.count = 0;
    assert_false(kz_views_times_valid(views, slot));
    *slot = good;
    slot->ring.capacity = 31;
    assert_false(kz_views_times_valid(views, slot));
    slot->ring.capacity = UINT32_MAX;
    assert_false(kz_views_times_valid(views, slot));
    *slot = good;
    slot->ring.run = views->runs.end - 31;
    assert_false(kz_views_times_valid(views, slot));
    slot->ring.run = 0;
    assert_false(kz_views_times_valid(views, slot));
    *slot = good;
    kz_views_free(views);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(times_are_those_of_a_sorted_array),
            cmocka_unit_test(how_times_are_kept_is_no_part_of_the_state),
            cmocka_unit_test(memory_is_used_again),
            cmocka_unit_test(merged_times_are_those_of_both),
            cmocka_unit_test(rings_that_cannot_be_are_seen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
