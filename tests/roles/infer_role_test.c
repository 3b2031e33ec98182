/* The infer role over the backends in memory against the embedded pipeline on the same input. */
#include "faults.h"

#include "app/roles/news.h"
#include "base/hash.h"
#include "sys/thread.h"

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

static struct kz_role *open_faulty(struct rig *rig, struct faults *faults)
{
    struct kz_bus *bus = rig->bus;
    struct kz_predictions *predictions = rig->predictions;
    struct kz_role *role;

    rig->bus = &faults->bus;
    rig->predictions = &faults->predictions;
    role = rig_open(rig, &kz_role_infer, true);
    rig->bus = bus;
    rig->predictions = predictions;
    return role;
}

/* Waits until nothing of the requests is left on the bus or held. */
static void await_done(struct rig *rig, struct rig_input *in)
{
    int64_t until_ms = kz_mono_ms() + 100000;
    struct kz_role_backlog backlog;
    struct rig_lines have;
    size_t count;

    do {
        usleep(20000);
        have = rig_outcomes(rig);
        count = have.count;
        rig_lines_done(&have);
        for (size_t i = 0; i < rig->role_count; i++) {
            rig->roles[i]->ops->backlog(rig->roles[i], &backlog);
            count -= KZ_MIN(count, (size_t)backlog.messages);
        }
    } while (count < in->lines.count && kz_mono_ms() < until_ms);
}

/* Whoever comes first: in all no more than the cap, and as many as the embedded run delivered. */
static void a_cap_in_total_holds_over_replicas(void **state)
{
    struct rig *rig = rig_new_with(false);
    struct faults *faults = kz_calloc(1, sizeof(*faults));
    struct rig_input *in;
    struct rig_lines have;

    (void)state;
    make_events(5);
    in = embedded(rig);
    faults_init(faults, rig);
    atomic_store(&faults->every, 20);
    assert_int_equal(count_of(&in->lines, " few counter deliver"), 7);
    assert_true(count_of(&in->lines, " few counter capped") > 0);
    publish_twice_shuffled(rig, in, 9);
    open_faulty(rig, faults);
    open_faulty(rig, faults);
    await_done(rig, in);
    have = rig_outcomes(rig);
    assert_int_equal(count_of(&have, " few counter deliver"), 7);
    assert_int_equal(
            count_of(&have, " few counter capped"), count_of(&in->lines, " few counter capped"));
    assert_int_equal(have.count, in->lines.count);
    rig_lines_done(&have);
    rig_input_done(in);
    rig_free(rig);
    free(faults);
}

/* The rival's state swallows some results, whose requests then wait for ever: until nothing has changed
 * for five seconds, in looks: while the whole machine is elsewhere nothing changes either. */
static void await_still(struct rig *rig, struct faults *faults)
{
    int64_t until_ms = kz_mono_ms() + 100000;
    size_t before = SIZE_MAX, still = 0;

    while (kz_mono_ms() < until_ms && still < 250) {
        struct rig_lines have = rig_outcomes(rig);
        size_t now = have.count + (size_t)atomic_load(&faults->rival_writes) * 1000;

        rig_lines_done(&have);
        still = now == before ? still + 1 : 0;
        before = now;
        usleep(20000);
    }
}

static void a_place_reserved_before_a_conflict_is_given_back(void **state)
{
    struct rig *rig = rig_new();
    struct faults *faults = kz_calloc(1, sizeof(*faults));
    uint64_t cap = kz_hash_mix(kz_name_hash(KZ_STR("few")), 1 + 1);
    struct rig_input *in;
    struct rig_lines have;
    struct kz_err err;

    (void)state;
    make_events(5);
    in = embedded(rig);
    faults_init(faults, rig);
    atomic_store(&faults->rivals, true);
    publish_twice_shuffled(rig, in, 9);
    open_faulty(rig, faults);
    await_still(rig, faults);
    rig_close_roles(rig);
    have = rig_outcomes(rig);
    assert_true(atomic_load(&faults->rival_writes) > 7);
    assert_int_equal(count_of(&have, " few counter deliver"), 0);
    for (uint64_t id = 1; id <= 8; id++) {
        bool held = false;

        assert_int_equal(rig->predictions->ops->reserve(rig->predictions, cap, id,
                                 events[EVENTS - 1].at_ms, START_MS - 1, 7, &held, &err),
                KZ_OK);
        assert_int_equal(held, id <= 7);
    }
    rig_lines_done(&have);
    rig_input_done(in);
    rig_free(rig);
    free(faults);
}

/* Conflicts that are none, calls that fail before or after they were carried out, publishing that is
 * refused, and roles that end in the middle: what is there at last is the same. */
static void faults_and_restarts_change_nothing(void **state)
{
    size_t action_count = rig_project.action_count;
    struct rig *rig = rig_new();
    struct faults *faults = kz_calloc(1, sizeof(*faults));
    int64_t until_ms = kz_mono_ms() + 100000;
    struct rig_input *in;
    struct rig_lines have;

    (void)state;
    rig_project.action_count = action_count - 1;
    make_events(11);
    in = embedded(rig);
    faults_init(faults, rig);
    publish_twice_shuffled(rig, in, 3);
    atomic_store(&faults->every, 9);
    for (unsigned round = 0; round < 12; round++) {
        open_faulty(rig, faults);
        open_faulty(rig, faults);
        do /* at least five a round, which takes longer the busier the machine is */
            usleep(60000);
        while (atomic_load(&faults->injected) <= 5 * (round + 1) && kz_mono_ms() < until_ms);
        rig_close_roles(rig);
    }
    assert_true(atomic_load(&faults->injected) > 50);
    atomic_store(&faults->every, 0);
    open_faulty(rig, faults);
    open_faulty(rig, faults);
    await_done(rig, in);
    have = rig_outcomes(rig);
    rig_same(&in->lines, &have);
    rig_lines_done(&have);
    rig_input_done(in);
    rig_free(rig);
    free(faults);
    rig_project.action_count = action_count;
}

/* At least once is once for whoever drops what they have seen. */
static void once_each(struct rig_lines *lines)
{
    size_t kept = 0;

    rig_sort(lines);
    for (size_t i = 0; i < lines->count; i++) {
        if (kept && strcmp(lines->items[kept - 1], lines->items[i]) == 0)
            free(lines->items[i]);
        else
            lines->items[kept++] = lines->items[i];
    }
    lines->count = kept;
}

/* Written, and nobody told: the messages come again, and what was decided is told as it is written. */
static void a_crash_between_write_and_publish_tells_what_is_written(void **state)
{
    size_t action_count = rig_project.action_count;
    struct rig *rig = rig_new();
    struct faults *faults = kz_calloc(1, sizeof(*faults));
    struct kz_bus_pull_options options = {.topic = KZ_TOPIC_NEWS};
    struct kz_bus_source *news;
    struct kz_bus_delivery *deliveries[64];
    struct rig_input *in;
    struct rig_lines have, told = {0};
    struct kz_bus_stats stats;
    size_t count = 0;
    struct kz_err err;

    (void)state;
    rig_project.action_count = 0;
    make_events(2);
    in = embedded(rig);
    faults_init(faults, rig);
    assert_int_equal(rig->bus->ops->open_source(rig->bus, &options, &news, &err), KZ_OK);
    atomic_store(&faults->no_news, true);
    for (size_t i = 0; i < in->request_count; i++)
        rig_publish_request(rig, &in->requests[i]);
    open_faulty(rig, faults);
    for (int i = 0; i < 10000; i++) {
        have = rig_outcomes(rig);
        count = have.count;
        rig_lines_done(&have);
        if (count)
            break;
        usleep(10000);
    }
    assert_true(count > 0);
    rig_close_roles(rig);
    rig->bus->ops->stats(rig->bus, &stats);
    assert_int_equal(stats.acknowledged, 0);
    atomic_store(&faults->no_news, false);
    open_faulty(rig, faults);
    for (int i = 0; i < 1000 && told.count < in->lines.count; i++) {
        assert_int_equal(rig->bus->ops->pull(news, deliveries, 64, 100, &count, &err), KZ_OK);
        for (size_t k = 0; k < count; k++) {
            struct kz_buf hold = {0};
            const struct kz_record *record;

            assert_int_equal(kz_news_decode(deliveries[k]->data, &hold, &record, &err), KZ_OK);
            rig_put(&told, record);
            kz_buf_done(&hold);
        }
        rig->bus->ops->ack(news, deliveries, count);
        once_each(&told);
    }
    have = rig_outcomes(rig);
    rig_same(&in->lines, &have);
    rig_same(&in->lines, &told);
    rig_lines_done(&have);
    rig_lines_done(&told);
    rig->bus->ops->close_source(news);
    rig_input_done(in);
    rig_free(rig);
    free(faults);
    rig_project.action_count = action_count;
}

/* ---- ends without a model ---------------------------------------------------------------------------- */

static struct rig_request *nth_of(
        struct rig_input *in, uint64_t owner, const char *model, unsigned n)
{
    for (size_t i = 0; i < in->request_count; i++)
        if ((!owner || in->requests[i].owner == owner) &&
                strcmp(in->requests[i].model, model) == 0 && !n--)
            return &in->requests[i];
    fail_msg("there are fewer requests of %s", model);
    return NULL;
}

static void late_and_old_requests_end_once_and_say_so(void **state)
{
    struct rig *rig = rig_new();
    struct rig_request *older, *newer, expired = {0};
    struct kz_request_message message;
    struct kz_buf hold = {0};
    struct rig_input *in;
    struct rig_lines have;
    struct kz_err err;

    (void)state;
    make_events(4);
    in = embedded(rig);
    older = nth_of(in, 0, "mean", 0);
    newer = nth_of(in, older->owner, "mean", 1);
    assert_int_equal(
            kz_request_message_decode(kz_buf_view(&nth_of(in, older->owner, "mean", 2)->message),
                    &hold, &message, &err),
            KZ_OK);
    ((struct kz_request_body *)(void *)(hold.data + sizeof(struct kz_record)))->expires_ms = 1;
    kz_request_message_encode(&message, &expired.message);
    expired.owner = older->owner;
    snprintf(expired.model, sizeof(expired.model), "mean");
    rig_open(rig, &kz_role_infer, false);
    rig_publish_request(rig, newer);
    rig_await_acknowledged(rig, 1);
    rig_publish_request(rig, older);
    rig_publish_request(rig, &expired);
    rig_publish_request(rig, older);
    rig_publish_request(rig, &expired);
    rig_await_acknowledged(rig, 5);
    have = rig_outcomes(rig);
    assert_int_equal(count_of(&have, " end=1 "), 1);
    assert_int_equal(count_of(&have, " end=2 "), 1); /* superseded */
    assert_int_equal(count_of(&have, " end=3 "), 1); /* expired */
    rig_lines_done(&have);
    kz_buf_done(&hold);
    kz_buf_done(&expired.message);
    rig_input_done(in);
    rig_free(rig);
}

static void what_is_no_request_goes_to_the_dead_topic(void **state)
{
    struct rig *rig = rig_new();
    struct kz_bus_pull_options options = {.topic = KZ_TOPIC_DEAD, .name = "kept"};
    struct kz_bus_delivery *dead[4];
    struct kz_bus_source *kept;
    struct rig_request broken = {.owner = 1, .model = "mean"};
    size_t count = 0;
    struct kz_err err;

    (void)state;
    kz_buf_cstr(&broken.message, "no request at all");
    rig_open(rig, &kz_role_infer, false);
    rig_publish_request(rig, &broken);
    assert_int_equal(rig->bus->ops->open_source(rig->bus, &options, &kept, &err), KZ_OK);
    assert_int_equal(rig->bus->ops->pull(kept, dead, 4, RIG_WAIT_MS, &count, &err), KZ_OK);
    assert_int_equal(count, 1);
    assert_true(kz_str_is(dead[0]->data, "no request at all"));
    assert_true(kz_str_is(
            kz_attribute_get(dead[0]->attributes, dead[0]->attribute_count, KZ_ATTRIBUTE_CODE),
            "bad_request"));
    assert_true(kz_attribute_get(dead[0]->attributes, dead[0]->attribute_count, KZ_ATTRIBUTE_REASON)
                        .size > 10);
    rig->bus->ops->close_source(kept);
    rig_await_acknowledged(rig, 1);
    kz_buf_done(&broken.message);
    rig_free(rig);
}

/* The role is told to end while its message is on the way to the dead topic. */
static void what_the_bus_says_at_the_end_finds_its_request(void **state)
{
    struct rig *rig = rig_new();
    struct faults *faults = kz_calloc(1, sizeof(*faults));
    struct rig_request broken = {.owner = 1, .model = "mean"};
    struct kz_thread thread = {0};
    int64_t until_ms = kz_mono_ms() + 100000;
    struct kz_err err;

    (void)state;
    kz_buf_cstr(&broken.message, "no request at all");
    faults_init(faults, rig);
    atomic_store(&faults->late, true);
    open_faulty(rig, faults);
    rig_publish_request(rig, &broken);
    while (!atomic_load(&faults->late_arg) && kz_mono_ms() < until_ms)
        usleep(1000);
    assert_non_null(atomic_load(&faults->late_arg));
    assert_int_equal(kz_thread_start(&thread, "late", faults_answer_late, faults, &err), KZ_OK);
    rig_close_roles(rig);
    rig_await_acknowledged(rig, 1);
    kz_thread_join(&thread);
    kz_buf_done(&broken.message);
    rig_free(rig);
    free(faults);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(results_and_decisions_equal_the_embedded_run),
            cmocka_unit_test(a_cap_in_total_holds_over_replicas),
            cmocka_unit_test(a_place_reserved_before_a_conflict_is_given_back),
            cmocka_unit_test(faults_and_restarts_change_nothing),
            cmocka_unit_test(a_crash_between_write_and_publish_tells_what_is_written),
            cmocka_unit_test(late_and_old_requests_end_once_and_say_so),
            cmocka_unit_test(what_is_no_request_goes_to_the_dead_topic),
            cmocka_unit_test(what_the_bus_says_at_the_end_finds_its_request),
    };

    kz_diag_set(KZ_DIAG_ERROR, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
