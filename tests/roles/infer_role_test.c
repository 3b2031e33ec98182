/* The infer role over the backends in memory against the embedded pipeline on the same input. */
#include "rig.h"

enum { USERS = 24, EVENTS = 600 };
static const int64_t START_MS = 1795478400000;
static char names[USERS][16];
static struct rig_event events[EVENTS];

static void make_events(uint64_t seed)
{
    struct kz_prng dice;
    int64_t at_ms = START_MS;

    kz_prng_init(&dice, seed);
    for (unsigned u = 0; u < USERS; u++)
        snprintf(names[u], sizeof(names[u]), "user-%u", u);
    for (unsigned i = 0; i < EVENTS; i++) {
        at_ms += 1 + (int64_t)kz_prng_below(&dice, 20000);
        events[i] = (struct rig_event){
                .user = names[kz_prng_below(&dice, USERS)],
                .name = kz_prng_below(&dice, 3) ? "view" : "buy",
                .price = (double)kz_prng_below(&dice, 1000) / 7,
                .at_ms = at_ms,
        };
    }
}

/* Without the total cap, which others' order decides: what is left is a user's own. */
static struct rig_input *embedded(struct rig *rig)
{
    struct kz_fs *fs = kz_fs_sim_new(1);
    struct kz_pipeline *p = rig_embedded(fs, events, EVENTS);
    struct kz_history_reader *reader = kz_pipeline_query(p)->reader;
    struct rig_input *in = kz_calloc(1, sizeof(*in));
    struct kz_err err;

    in->store = rig->store;
    assert_int_equal(reader->ops->scan_all(reader, 0, UINT64_MAX, rig_take_over, in, &err), KZ_OK);
    kz_pipeline_close(p);
    kz_fs_sim_free(fs);
    assert_true(in->request_count > 100);
    assert_true(in->chained > 20);
    return in;
}

static size_t count_of(const struct rig_lines *lines, const char *text)
{
    size_t count = 0;

    for (size_t i = 0; i < lines->count; i++)
        count += strstr(lines->items[i], text) != NULL;
    return count;
}

/* Each request's message twice, the copies anywhere later among their user's, users mixed. */
static void publish_twice_shuffled(struct rig *rig, struct rig_input *in, uint64_t seed)
{
    size_t *left = kz_calloc(in->head_count + 1, sizeof(*left)), total = 2 * in->request_count;
    size_t *sent = kz_calloc(in->request_count, sizeof(*sent));
    struct kz_prng dice;

    kz_prng_init(&dice, seed);
    while (total) {
        uint64_t owner = in->heads[kz_prng_below(&dice, in->head_count)].owner;
        size_t next = in->request_count, behind = in->request_count;

        for (size_t i = 0; i < in->request_count; i++) {
            if (in->requests[i].owner != owner)
                continue;
            if (sent[i] == 1 && behind == in->request_count)
                behind = i;
            if (!sent[i]) {
                next = i;
                break;
            }
        }
        if (behind < in->request_count && (next == in->request_count || kz_prng_below(&dice, 2)))
            next = behind;
        if (next == in->request_count)
            continue;
        rig_publish_request(rig, &in->requests[next]);
        sent[next]++;
        total--;
    }
    free(left);
    free(sent);
}

static void results_and_decisions_equal_the_embedded_run(void **state)
{
    size_t action_count = rig_project.action_count;

    (void)state;
    rig_project.action_count = action_count - 1;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct rig *rig = rig_new();
        struct rig_input *in;
        struct rig_lines have;

        make_events(seed);
        in = embedded(rig);
        assert_true(count_of(&in->lines, "holdout") > 0);
        assert_true(count_of(&in->lines, "capped") > 0);
        assert_true(count_of(&in->lines, "deliver") > 10);
        publish_twice_shuffled(rig, in, seed);
        rig_open(rig, &kz_role_infer, true);
        rig_open(rig, &kz_role_infer, true);
        /* Chained requests come again with each copy of the one they follow from. */
        rig_await_acknowledged(rig, 2 * in->request_count + 2 * in->chained);
        have = rig_outcomes(rig);
        rig_same(&in->lines, &have);
        rig_lines_done(&have);
        rig_input_done(in);
        rig_free(rig);
    }
    rig_project.action_count = action_count;
}

/* Whoever comes first: in all no more than the cap, and as many as the embedded run delivered. */
static void a_cap_in_total_holds_over_replicas(void **state)
{
    struct rig *rig = rig_new();
    struct rig_input *in;
    struct rig_lines have;

    (void)state;
    make_events(5);
    in = embedded(rig);
    assert_int_equal(count_of(&in->lines, " few counter deliver"), 7);
    assert_true(count_of(&in->lines, " few counter capped") > 0);
    publish_twice_shuffled(rig, in, 9);
    rig_open(rig, &kz_role_infer, true);
    rig_open(rig, &kz_role_infer, true);
    rig_await_acknowledged(rig, 2 * in->request_count + 2 * in->chained);
    have = rig_outcomes(rig);
    assert_int_equal(count_of(&have, " few counter deliver"), 7);
    assert_int_equal(count_of(&have, " few counter capped"),
            count_of(&in->lines, " few counter capped"));
    assert_int_equal(have.count, in->lines.count);
    rig_lines_done(&have);
    rig_input_done(in);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(results_and_decisions_equal_the_embedded_run),
            cmocka_unit_test(a_cap_in_total_holds_over_replicas),
    };

    kz_diag_set(KZ_DIAG_ERROR, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
