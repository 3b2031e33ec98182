/* Old segments go, and what is live stays: links, caps, holdout, first-seen, valid predictions,
 * pending requests, timers, deliveries. What was carried must be enough: all is looked at again
 * after a start from the log alone, every checkpoint deleted.
 */
#include <unistd.h>

#include "rig.h"
#include "sys/clock.h"

#ifndef SEEDS
#define SEEDS 12
#endif

static struct kz_trigger_def triggers[] = {
        {.name = "viewing", .when = "name = 'view'", .history = {0, 500, false}},
        {.name = "asking", .when = "name = 'ask'", .history = {0, 500, false}},
        {.name = "leaving",
                .when = "name = 'cart'",
                .delay_ms = 40 * DAY,
                .history = {0, 500, false}},
};
static const char *viewing[] = {"viewing", "leaving"}, *asking[] = {"asking"};
static char sql[] = "SELECT count(*) AS n FROM events WHERE name <> 'noise'";
#define MODEL(n, list, count)                                                                      \
    {                                                                                              \
        .name = n, .triggers = list, .trigger_count = count, .runtime = "native",                  \
        .path = "/dev/null", .features_path = "n.sql", .features_sql = sql, .horizon_ms = DAY,     \
        .valid_for_ms = 60 * DAY, .history = {0, 500, false}, .batch = {64, 1000},                 \
        .replicas = {1, 1}, .timeout_ms = 1000, .queue_max = 1000, .config_json = "{}"             \
    }
static struct kz_model_def models[] = {MODEL("counter", viewing, 2), MODEL("slow", asking, 1)};
static struct kz_cap_def caps[] = {
        {.max = 1, .per_user = true, .every_ms = 200 * DAY, .tz = "UTC"}};
#define ACTION(n, held)                                                                            \
    {                                                                                              \
        .name = n, .mode = KZ_MODE_ON, .when = "counter.score >= 1",                               \
        .schedule = {.weekdays = 0x7f, .end_minute = 1440, .tz = "UTC"}, .holdout = held,          \
        .caps = caps, .cap_count = 1, .deliver = {                                                 \
            .kind = KZ_DELIVER_WEB,                                                                \
            .payload_json = "{\"off\":10}",                                                        \
            .valid_for_ms = 300 * DAY                                                              \
        }                                                                                          \
    }
static struct kz_action_def actions[] = {ACTION("coupon", 0), ACTION("banner", 0.5)};

static void prepare(struct rig *rig, uint64_t seed)
{
    *rig = (struct rig){.project = support_project, .now_ms = T0, .ask = true};
    rig->project.triggers = triggers;
    rig->project.trigger_count = KZ_ARRAY_COUNT(triggers);
    rig->project.models = models;
    rig->project.model_count = KZ_ARRAY_COUNT(models);
    rig->project.actions = actions;
    rig->project.action_count = KZ_ARRAY_COUNT(actions);
    rig->project.events.retention_size_bytes = 60000;
    rig->fs = kz_fs_sim_new(seed);
}

static void begin(struct rig *rig, uint64_t seed)
{
    prepare(rig, seed);
    rig_open(rig);
}

static void end(struct rig *rig)
{
    uint64_t records = 0;
    struct kz_err err = {0};

    rig_close(rig);
    if (kz_log_fsck(rig->fs, "/data/log", NULL, NULL, &records, &err) != KZ_OK)
        fail_msg("fsck: %s", err.message);
    kz_fs_sim_free(rig->fs);
}

static uint32_t first_segment(struct rig *rig)
{
    size_t count;
    struct kz_log_segment_info *segments = kz_log_segments(rig->p->log, &count);
    uint32_t number = segments[0].number;

    free(segments);
    return number;
}

/* Some 800 bytes that do not compress. */
static void send_padded(struct rig *rig, struct kz_prng *dice, const char *id)
{
    char props[900] = "{\"pad\":\"";

    for (size_t at = strlen(props); at < 800; at += 16)
        snprintf(props + at, sizeof(props) - at, "%016llx", (unsigned long long)kz_prng_u64(dice));
    strcat(props, "\"}");
    rig_send(rig, (struct sent){.anonymous_id = id, .props = props});
}

/* Others come and go until everything that is there now lies in segments that were dropped. */
static void time_passes(struct rig *rig, struct kz_prng *dice)
{
    static unsigned visitor;
    uint32_t until = KZ_LSN_SEGMENT(kz_log_end(rig->p->log)) + 1;
    char id[24];

    for (unsigned round = 0; first_segment(rig) <= until; round++) {
        assert_true(round < 100);
        for (unsigned i = 0; i < 20; i++) {
            snprintf(id, sizeof(id), "visitor%u", visitor++);
            send_padded(rig, dice, id);
        }
        rig_upkeep(rig);
    }
}

static uint32_t user(struct rig *rig, char kind, const char *id)
{
    return kz_views_resolve(rig->p->views, (struct kz_user_key){kind, kz_str(id)}).index;
}

/* What GET reads of the user's prediction; -1 where there is none. */
static double score_of(struct rig *rig, char kind, const char *id, const char *model)
{
    struct kz_query *query = kz_pipeline_query(rig->p);
    uint32_t index = user(rig, kind, id);
    const struct kz_slot *slot = kz_views_slot(
            rig->p->views, index, KZ_SLOT_PREDICTION, kz_name_hash(kz_str(model)));
    struct kz_buf found = {0};
    struct kz_prediction prediction;
    double score = -1;

    if (slot && slot->prediction.expires_at_ms > rig->now_ms &&
            query->reader->ops->get(query->reader, slot->prediction.result, 0, &found, NULL) ==
                    KZ_OK &&
            kz_prediction_decode((const void *)found.data, &prediction, NULL) == KZ_OK)
        score = prediction.score;
    kz_buf_done(&found);
    return score;
}

static unsigned deliveries_of(struct rig *rig, uint32_t index)
{
    struct kz_query *query = kz_pipeline_query(rig->p);
    const struct kz_slot *slot = NULL;
    unsigned count = 0;

    while ((slot = query->ops->slot(query, index, KZ_SLOT_DELIVERY, slot))) {
        struct kz_buf found = {0};
        const struct kz_record *record;

        assert_int_equal(query->reader->ops->get(
                                 query->reader, slot->delivery.decision_lsn, 0, &found, NULL),
                KZ_OK);
        record = (const void *)found.data;
        assert_int_equal(record->type, KZ_RECORD_DECISION);
        assert_int_equal(record->seq, slot->delivery.decision);
        kz_buf_done(&found);
        count++;
    }
    return count;
}

static const char *const banner_users[] = {"b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"};

static unsigned held_out(struct rig *rig, bool *ret_which)
{
    unsigned count = 0;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(banner_users); i++) {
        const struct kz_slot *slot = kz_views_slot(rig->p->views, user(rig, 'u', banner_users[i]),
                KZ_SLOT_ACTION, kz_name_hash(KZ_STR("banner")));

        assert_non_null(slot);
        assert_true(slot->action.holdout_assigned > 0);
        ret_which[i] = slot->action.holdout_assigned == 2;
        count += ret_which[i];
    }
    return count;
}

static void look(struct rig *rig, const bool *held)
{
    uint32_t ann = user(rig, 'u', "ann");
    bool now_held[KZ_ARRAY_COUNT(banner_users)];

    /* Links, the one of an id without a record of its own among them. */
    assert_true(ann != 0);
    assert_int_equal(user(rig, 'a', "phone"), ann);
    assert_int_equal(user(rig, 'a', "tablet"), ann);
    assert_int_equal(user(rig, 'a', "kiosk"), user(rig, 'u', "bob"));
    assert_int_equal(user(rig, 'a', "laptop"), user(rig, 'u', "cleo"));
    assert_int_equal(user(rig, 'u', "cleo-old"), user(rig, 'u', "cleo"));
    /* What merging gave: first seen, count of events, caps. */
    assert_int_equal(kz_views_user(rig->p->views, ann)->first_seen_ms, T0);
    assert_int_equal(kz_views_user(rig->p->views, user(rig, 'u', "cleo"))->first_seen_ms, T0);
    assert_int_equal(kz_views_deliveries(rig->p->views, ann, kz_name_hash(KZ_STR("coupon")), 0), 1);
    assert_int_equal(kz_views_deliveries(rig->p->views, user(rig, 'u', "cleo"),
                             kz_name_hash(KZ_STR("coupon")), 0),
            1);
    /* The predictions made of them. */
    assert_true(score_of(rig, 'u', "ann", "counter") == 1);
    assert_true(score_of(rig, 'a', "laptop", "counter") == 1);
    assert_true(deliveries_of(rig, ann) >= 1);
    held_out(rig, now_held);
    assert_memory_equal(held, now_held, sizeof(now_held));
    /* The question and the timer. */
    assert_int_equal(kz_views_stats(rig->p->views).pending_requests, 1);
    assert_int_equal(kz_pipeline_timer_ms(rig->p), T0 + 40 * DAY);
}

static void what_is_live_outlives_its_segment(void **state)
{
    struct rig rig;
    struct kz_prng dice;
    bool held[KZ_ARRAY_COUNT(banner_users)];
    struct kz_pipeline_counters before, after;
    uint64_t count;
    struct kz_err err = {0};

    (void)state;
    begin(&rig, 7);
    kz_prng_init(&dice, 7);
    assert_int_equal(kz_pipeline_query(rig.p)->ops->control(kz_pipeline_query(rig.p), "pause-model",
                             KZ_STR("slow"), "test", &count, &err),
            KZ_OK);
    /* A visitor with a coupon becomes ann, who is known from another device as well. */
    rig_send(&rig, (struct sent){.anonymous_id = "phone", .name = "view"});
    rig_send(&rig,
            (struct sent){
                    .anonymous_id = "kiosk", .user_id = "ann", .identity = KZ_IDENTITY_IDENTIFY});
    rig_send(&rig, (struct sent){.anonymous_id = "laptop", .name = "view"});
    rig_send(&rig, (struct sent){.anonymous_id = "laptop",
                           .user_id = "cleo-old",
                           .identity = KZ_IDENTITY_IDENTIFY});
    for (size_t i = 0; i < KZ_ARRAY_COUNT(banner_users); i++)
        rig_send(&rig, (struct sent){.user_id = banner_users[i], .name = "view"});
    rig_send(&rig, (struct sent){.user_id = "waiting", .name = "ask"});
    rig_send(&rig, (struct sent){.user_id = "leaver", .name = "cart"});
    count = held_out(&rig, held);
    assert_true(count > 0 && count < KZ_ARRAY_COUNT(banner_users));
    rig_wait(&rig, 1000);
    rig_upkeep(&rig);
    /* In a segment of its own: what leans on the one before. */
    rig_send(&rig,
            (struct sent){
                    .anonymous_id = "phone", .user_id = "ann", .identity = KZ_IDENTITY_IDENTIFY});
    rig_send(&rig,
            (struct sent){
                    .anonymous_id = "tablet", .user_id = "ann", .identity = KZ_IDENTITY_IDENTIFY});
    rig_send(&rig,
            (struct sent){
                    .anonymous_id = "kiosk", .user_id = "bob", .identity = KZ_IDENTITY_IDENTIFY});
    rig_send(&rig,
            (struct sent){
                    .anonymous_id = "cleo-old", .user_id = "cleo", .identity = KZ_IDENTITY_ALIAS});
    look(&rig, held);
    rig_again(&rig, true);
    look(&rig, held);
    for (unsigned age = 0; age < 4; age++) {
        rig_wait(&rig, DAY);
        time_passes(&rig, &dice);
        look(&rig, held);
        rig_again(&rig, true);
        look(&rig, held);
    }
    /* The cap holds. */
    before = rig_counters(&rig);
    rig_send(&rig, (struct sent){.anonymous_id = "phone", .name = "view"});
    after = rig_counters(&rig);
    assert_int_equal(after.requests_done_total, before.requests_done_total + 1);
    assert_int_equal(after.decisions_capped_total + after.decisions_holdout_total,
            before.decisions_capped_total + before.decisions_holdout_total + 2);
    /* The question is asked after all. */
    assert_int_equal(kz_pipeline_query(rig.p)->ops->control(kz_pipeline_query(rig.p),
                             "resume-model", KZ_STR("slow"), "test", &count, &err),
            KZ_OK);
    assert_int_equal(kz_pipeline_settle(rig.p, 60000, &err), KZ_OK);
    assert_true(score_of(&rig, 'u', "waiting", "slow") >= 0);
    assert_int_equal(rig_counters(&rig).requests_pending, 0);
    /* And the timer goes off. */
    assert_true(score_of(&rig, 'u', "leaver", "counter") < 0);
    rig_wait(&rig, 40 * DAY);
    assert_true(score_of(&rig, 'u', "leaver", "counter") >= 0);
    /* A prediction that is valid no longer leaves with its record. */
    rig_wait(&rig, 61 * DAY);
    time_passes(&rig, &dice);
    time_passes(&rig, &dice);
    assert_null(kz_views_slot(rig.p->views, user(&rig, 'u', "leaver"), KZ_SLOT_PREDICTION, 0));
    rig_again(&rig, true);
    end(&rig);
}

static void a_dropped_request_of_a_segment_that_is_gone_ends(void **state)
{
    struct rig rig;
    struct kz_prng dice;
    uint64_t count;
    struct kz_err err = {0};

    (void)state;
    begin(&rig, 8);
    kz_prng_init(&dice, 8);
    assert_int_equal(kz_pipeline_query(rig.p)->ops->control(kz_pipeline_query(rig.p), "pause-model",
                             KZ_STR("slow"), "test", &count, &err),
            KZ_OK);
    rig_send(&rig, (struct sent){.user_id = "waiting", .name = "ask"});
    time_passes(&rig, &dice);
    assert_int_equal(kz_pipeline_query(rig.p)->ops->control(kz_pipeline_query(rig.p),
                             "drop-requests", KZ_STR("slow"), "test", &count, &err),
            KZ_OK);
    assert_int_equal(count, 1);
    assert_int_equal(rig_counters(&rig).requests_pending, 0);
    end(&rig);
}

static enum kz_code get_fails(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    (void)reader, (void)lsn, (void)owner, (void)out;
    return kz_fail(err, KZ_IO, "a bad sector");
}

static void a_request_that_cannot_be_read_ends_as_a_dead_letter(void **state)
{
    struct rig rig;
    struct kz_history_reader_ops ops;
    struct kz_history_reader failing = {&ops}, *reader;
    struct kz_query *query;
    uint64_t count;
    struct kz_err err = {0};

    (void)state;
    begin(&rig, 12);
    rig.project.events.retention_size_bytes = 0;
    query = kz_pipeline_query(rig.p);
    assert_int_equal(
            query->ops->control(query, "pause-model", KZ_STR("slow"), "test", &count, &err), KZ_OK);
    rig_send(&rig, (struct sent){.user_id = "waiting", .name = "ask"});
    rig_upkeep(&rig); /* sealed: its record is not at hand any more */
    assert_int_equal(rig_counters(&rig).requests_pending, 1);
    reader = rig.p->reader;
    ops = *reader->ops;
    ops.get = get_fails;
    rig.p->reader = &failing;
    assert_int_equal(
            query->ops->control(query, "resume-model", KZ_STR("slow"), "test", &count, &err),
            KZ_OK);
    assert_int_equal(kz_pipeline_settle(rig.p, 60000, &err), KZ_OK);
    rig.p->reader = reader;
    assert_int_equal(rig_counters(&rig).requests_pending, 0);
    assert_int_equal(rig_counters(&rig).requests_dead_total, 1);
    assert_int_equal(kz_views_dead_letter_count(rig.p->views), 1);
    rig_again(&rig, true);
    assert_int_equal(rig_counters(&rig).requests_pending, 0);
    end(&rig);
}

/* Visitors that never come back take no memory once what they did is gone; who is linked stays. */
static void visitors_are_forgotten_and_links_are_not(void **state)
{
    struct rig rig;
    struct kz_prng dice;
    char id[24];
    uint64_t users;

    (void)state;
    begin(&rig, 9);
    kz_prng_init(&dice, 9);
    for (unsigned i = 0; i < 200; i++) {
        snprintf(id, sizeof(id), "passer%u", i);
        rig_send(&rig, (struct sent){.anonymous_id = id, .name = i % 2 ? "view" : "noise"});
    }
    rig_send(&rig,
            (struct sent){
                    .anonymous_id = "phone", .user_id = "ann", .identity = KZ_IDENTITY_IDENTIFY});
    rig_wait(&rig, 500 * DAY); /* predictions, caps, deliveries are over */
    time_passes(&rig, &dice);
    time_passes(&rig, &dice);
    for (unsigned i = 0; i < 200; i++) {
        snprintf(id, sizeof(id), "passer%u", i);
        assert_int_equal(user(&rig, 'a', id), 0);
    }
    assert_true(user(&rig, 'a', "phone") && user(&rig, 'a', "phone") == user(&rig, 'u', "ann"));
    assert_true(rig_counters(&rig).users_forgotten_total >= 200);
    users = kz_views_stats(rig.p->views).users;
    time_passes(&rig, &dice);
    time_passes(&rig, &dice);
    time_passes(&rig, &dice);
    assert_true(kz_views_stats(rig.p->views).users < users + 200);
    rig_again(&rig, true);
    assert_true(user(&rig, 'a', "phone") && user(&rig, 'a', "phone") == user(&rig, 'u', "ann"));
    /* Back again, they are new. */
    assert_int_equal(rig_send(&rig, (struct sent){.anonymous_id = "passer1", .event_id = "e"}),
            KZ_INTAKE_ACCEPTED);
    rig_again(&rig, true);
    end(&rig);
}

/* Random links, erasures, questions and restarts over a log that loses its beginning all the time.
 */
static void state_comes_out_the_same_from_whatever_is_left(void **state)
{
    static const char *const anonymous[] = {"a0", "a1", "a2", "a3", "a4", "a5"};
    static const char *const users[] = {"u0", "u1", "u2", "u3", "u4", "a0"};
    static const char *const names[] = {"view", "ask", "cart", "noise", "noise"};

    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct rig rig;
        struct kz_prng dice;

        begin(&rig, seed);
        rig.project.events.retention_size_bytes = 20000;
        kz_prng_init(&dice, seed);
        for (unsigned i = 0; i < 300; i++) {
            struct sent sent = {.name = names[kz_prng_below(&dice, KZ_ARRAY_COUNT(names))]};

            if (kz_prng_below(&dice, 4))
                sent.anonymous_id = anonymous[kz_prng_below(&dice, KZ_ARRAY_COUNT(anonymous))];
            if (!sent.anonymous_id || kz_prng_below(&dice, 3) == 0)
                sent.user_id = users[kz_prng_below(&dice, KZ_ARRAY_COUNT(users))];
            if (sent.anonymous_id && sent.user_id)
                sent.identity = kz_prng_below(&dice, 2) ? KZ_IDENTITY_IDENTIFY : KZ_IDENTITY_ALIAS;
            rig_send(&rig, sent);
            if (kz_prng_below(&dice, 10) == 0)
                rig_upkeep(&rig);
            if (kz_prng_below(&dice, 20) == 0)
                rig_again(&rig, true);
            if (kz_prng_below(&dice, 30) == 0) {
                struct kz_user_key key = {'u', kz_str(users[kz_prng_below(&dice, 6)])};
                uint64_t erasure;

                KZ_IGNORE(kz_pipeline_query(rig.p)->ops->erase(/* there may be nobody */
                        kz_pipeline_query(rig.p), key, "test", &erasure, NULL));
            }
            rig_wait(&rig, (int64_t)kz_prng_below(&dice, DAY / 2));
        }
        assert_true(first_segment(&rig) > 5);
        end(&rig);
    }
}

static uint64_t erase(struct rig *rig, char kind, const char *id)
{
    struct kz_query *query = kz_pipeline_query(rig->p);
    uint64_t erasure = 0;

    assert_int_equal(query->ops->erase(
                             query, (struct kz_user_key){kind, kz_str(id)}, "test", &erasure, NULL),
            KZ_OK);
    return erasure;
}

static bool is_carried_out(struct rig *rig, uint64_t erasure)
{
    struct kz_query *query = kz_pipeline_query(rig->p);
    int64_t asked_ms, done_ms;
    bool done;

    assert_int_equal(query->ops->erasure(query, erasure, &done, &asked_ms, &done_ms, NULL), KZ_OK);
    return done;
}

static enum kz_code count_secret(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct kz_str body = kz_record_body(record);

    (void)lsn;
    if (body.size && memmem(body.ptr, body.size, "secret", 6))
        ++*(unsigned *)arg;
    return KZ_OK;
}

static unsigned records_with_secret(struct rig *rig)
{
    struct kz_history_reader *reader = kz_pipeline_query(rig->p)->reader;
    unsigned count = 0;

    assert_int_equal(
            reader->ops->scan_all(reader, 0, UINT64_MAX, count_secret, &count, NULL), KZ_OK);
    return count;
}

/* What the first erasure named, an id that was linked then, is not in the second's list. */
static void two_erasures_of_one_id_are_both_carried_out(void **state)
{
    struct rig rig;
    uint64_t first, second;

    (void)state;
    begin(&rig, 21);
    rig.project.events.retention_size_bytes = 0;
    rig_send(&rig, (struct sent){.anonymous_id = "phone", .props = "{\"x\":\"secret\"}"});
    rig_send(&rig,
            (struct sent){
                    .anonymous_id = "phone", .user_id = "ann", .identity = KZ_IDENTITY_IDENTIFY});
    rig_send(&rig, (struct sent){.user_id = "ann", .props = "{\"x\":\"secret\"}"});
    first = erase(&rig, 'u', "ann");
    rig_send(&rig, (struct sent){.user_id = "ann", .props = "{\"x\":\"secret\"}"});
    second = erase(&rig, 'u', "ann");
    rig_send(&rig, (struct sent){.user_id = "ann"});
    assert_int_equal(records_with_secret(&rig), 3);
    assert_false(is_carried_out(&rig, first) || is_carried_out(&rig, second));
    rig_again(&rig, true);
    rig_upkeep(&rig);
    assert_true(is_carried_out(&rig, first));
    assert_true(is_carried_out(&rig, second));
    assert_int_equal(records_with_secret(&rig), 0);
    assert_int_equal(kz_views_user(rig.p->views, user(&rig, 'u', "ann"))->event_count, 1);
    rig_again(&rig, true);
    assert_true(is_carried_out(&rig, first));
    end(&rig);
}

struct half_reader { /* reads everything, but no single record */
    struct kz_history_reader base, *real;
};

static enum kz_code pass_on(struct kz_history_reader *reader, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err)
{
    struct kz_history_reader *real = ((struct half_reader *)reader)->real;

    return real->ops->scan_all(real, from, until, each, arg, err);
}

/* It was called done, and the user's records were all there. */
static void an_erasure_whose_word_cannot_be_read_stays_open(void **state)
{
    static const struct kz_history_reader_ops ops = {.scan_all = pass_on, .get = get_fails};
    struct rig rig;
    struct half_reader half = {.base = {&ops}};
    uint64_t erasure;

    (void)state;
    begin(&rig, 23);
    rig.project.events.retention_size_bytes = 0;
    rig_send(&rig, (struct sent){.user_id = "ann", .props = "{\"x\":\"secret\"}"});
    erasure = erase(&rig, 'u', "ann");
    half.real = rig.p->reader;
    rig.p->reader = &half.base;
    rig_upkeep(&rig);
    rig.p->reader = half.real;
    assert_int_equal(records_with_secret(&rig), 1);
    assert_false(is_carried_out(&rig, erasure));
    rig_upkeep(&rig);
    assert_int_equal(records_with_secret(&rig), 0);
    assert_true(is_carried_out(&rig, erasure));
    end(&rig);
}

struct search {
    struct rig *rig;
    const char *what;
    unsigned found;
};

static void look_into(void *arg, const char *name)
{
    struct search *search = arg;
    char path[128], *data;
    size_t size;

    snprintf(path, sizeof(path), "/data/views/%s", name);
    assert_int_equal(kz_fs_read_all(search->rig->fs, path, 1 << 30, &data, &size, NULL), KZ_OK);
    search->found += memmem(data, size, search->what, strlen(search->what)) != NULL;
    free(data);
}

/* A segment each would fill the disk: one of 256 MiB is made ready for the next. */
static void many_erasures_end_one_segment(void **state)
{
    struct rig rig;
    uint64_t erasures[40];
    uint32_t segment;
    char id[24];
    struct search search = {.rig = &rig, .what = "leaver-7"};

    (void)state;
    begin(&rig, 22);
    rig.project.events.retention_size_bytes = 0;
    for (unsigned i = 0; i < KZ_ARRAY_COUNT(erasures); i++) {
        snprintf(id, sizeof(id), "leaver-%u", i);
        rig_send(&rig, (struct sent){.user_id = id, .props = "{\"x\":\"secret\"}"});
    }
    rig_upkeep(&rig);
    segment = KZ_LSN_SEGMENT(kz_log_end(rig.p->log));
    for (unsigned i = 0; i < KZ_ARRAY_COUNT(erasures); i++) {
        snprintf(id, sizeof(id), "leaver-%u", i);
        rig_send(&rig, (struct sent){.user_id = id, .props = "{\"x\":\"secret\"}"});
        erasures[i] = erase(&rig, 'u', id);
        if (i % 2) /* back again at once, in the segment of the word */
            rig_send(&rig, (struct sent){.user_id = id, .props = "{\"x\":\"since\"}"});
    }
    assert_int_equal(KZ_LSN_SEGMENT(kz_log_end(rig.p->log)), segment);
    assert_int_equal(records_with_secret(&rig), 80);
    rig_upkeep(&rig);
    assert_true(KZ_LSN_SEGMENT(kz_log_end(rig.p->log)) <= segment + 2);
    assert_int_equal(records_with_secret(&rig), 0);
    for (unsigned i = 0; i < KZ_ARRAY_COUNT(erasures); i++) {
        assert_true(is_carried_out(&rig, erasures[i]));
        snprintf(id, sizeof(id), "leaver-%u", i);
        assert_int_equal(user(&rig, 'u', id) != 0, i % 2);
        if (i % 2)
            assert_int_equal(kz_views_user(rig.p->views, user(&rig, 'u', id))->event_count, 1);
    }
    rig_again(&rig, true);
    /* No checkpoint from before is left, the log standing still meanwhile. */
    rig_send(&rig, (struct sent){.user_id = "leaver-7777"});
    rig_upkeep(&rig);
    erase(&rig, 'u', "leaver-7");
    erase(&rig, 'u', "leaver-7777");
    rig_upkeep(&rig);
    assert_int_equal(rig.fs->ops->list(rig.fs, "/data/views", look_into, &search, NULL), KZ_OK);
    assert_int_equal(search.found, 0);
    end(&rig);
}

/* The same in small steps beside the traffic, as it goes on in a server. */
static void upkeep_beside_traffic_keeps_what_is_live(void **state)
{
    struct rig rig;
    struct kz_prng dice;
    char id[24];
    struct kz_err err = {0};
    int64_t until_ms = kz_mono_ms() + 120000;
    struct kz_query *query;

    (void)state;
    prepare(&rig, 11);
    rig.real_clock = true;
    rig_open(&rig);
    kz_prng_init(&dice, 11);
    rig_send(&rig, (struct sent){.anonymous_id = "phone", .name = "view"});
    rig_send(&rig,
            (struct sent){
                    .anonymous_id = "phone", .user_id = "ann", .identity = KZ_IDENTITY_IDENTIFY});
    query = kz_pipeline_query(rig.p);
    for (unsigned segment = 0; segment < 8; segment++) {
        for (unsigned i = 0; i < 20; i++) {
            snprintf(id, sizeof(id), "v%llu", (unsigned long long)kz_prng_u64(&dice));
            send_padded(&rig, &dice, id);
        }
        assert_int_equal(query->ops->checkpoint(query, &err), KZ_OK);
    }
    for (unsigned n = 0; first_segment(&rig) < 3; n++) {
        assert_true(kz_mono_ms() < until_ms);
        if (n < 200 && n % 50 == 0) /* those above were made of several questions each */
            assert_int_equal(query->ops->checkpoint(query, &err), KZ_OK);
        snprintf(id, sizeof(id), "v%llu", (unsigned long long)kz_prng_u64(&dice));
        send_padded(&rig, &dice, id);
        usleep(20000); /* a tick of upkeep is half a second of real time */
    }
    rig.now_ms = kz_clock_ms();
    assert_int_equal(user(&rig, 'a', "phone"), user(&rig, 'u', "ann"));
    assert_true(score_of(&rig, 'u', "ann", "counter") == 1);
    rig_again(&rig, true);
    assert_int_equal(user(&rig, 'a', "phone"), user(&rig, 'u', "ann"));
    assert_true(score_of(&rig, 'u', "ann", "counter") == 1);
    end(&rig);
}

/* Old events that were imported are new to retention: their age counts from the import. */
static void imported_history_is_not_old_at_once(void **state)
{
    struct rig rig;
    char id[24];
    unsigned there = 0;

    (void)state;
    begin(&rig, 10);
    rig.project.events.retention_size_bytes = 0;
    rig.project.events.retention_age_ms = 90 * DAY; /* the default */
    for (unsigned i = 0; i < 100; i++) {
        snprintf(id, sizeof(id), "e%u", i);
        assert_int_equal(rig_send(&rig, (struct sent){.user_id = "old",
                                                .event_id = id,
                                                .imported_ms = T0 - 400 * DAY + i}),
                KZ_INTAKE_ACCEPTED);
    }
    rig_upkeep(&rig);
    rig_wait(&rig, DAY);
    rig_again(&rig, false);
    rig_upkeep(&rig);
    assert_true(rig_counters(&rig).log_segments_sealed > 0);
    assert_int_equal(first_segment(&rig), 1);
    for (unsigned i = 0; i < 100; i++) {
        snprintf(id, sizeof(id), "e%u", i);
        there += rig_send(&rig, (struct sent){.user_id = "old",
                                        .event_id = id,
                                        .imported_ms = T0 - 400 * DAY + i}) == KZ_INTAKE_DUPLICATE;
    }
    assert_int_equal(there, 100);
    assert_int_equal(
            kz_views_user(rig.p->views, user(&rig, 'u', "old"))->first_seen_ms, T0 - 400 * DAY);
    rig_wait(&rig, 90 * DAY);
    rig_upkeep(&rig);
    assert_true(first_segment(&rig) > 1);
    end(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(what_is_live_outlives_its_segment),
            cmocka_unit_test(a_dropped_request_of_a_segment_that_is_gone_ends),
            cmocka_unit_test(a_request_that_cannot_be_read_ends_as_a_dead_letter),
            cmocka_unit_test(visitors_are_forgotten_and_links_are_not),
            cmocka_unit_test(state_comes_out_the_same_from_whatever_is_left),
            cmocka_unit_test(two_erasures_of_one_id_are_both_carried_out),
            cmocka_unit_test(an_erasure_whose_word_cannot_be_read_stays_open),
            cmocka_unit_test(many_erasures_end_one_segment),
            cmocka_unit_test(upkeep_beside_traffic_keeps_what_is_live),
            cmocka_unit_test(imported_history_is_not_old_at_once),
    };

    kz_diag_set(KZ_DIAG_ERROR - 1, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
