/* What follows from an event, when something is short or much is waited for. */
#include "log/log_int.h"

#include "../retention/rig.h"

#define ACTION(n)                                                                                  \
    {                                                                                              \
        .name = n, .mode = KZ_MODE_ON, .when = "counter.score >= 1",                               \
        .schedule = {.weekdays = 0x7f, .end_minute = 1440, .tz = "UTC"},                           \
        .deliver = {.kind = KZ_DELIVER_WEB, .payload_json = "{}", .valid_for_ms = DAY},            \
    }
static struct kz_action_def two_actions[] = {ACTION("coupon"), ACTION("banner")};

static void begin(struct rig *rig)
{
    *rig = (struct rig){.project = support_project, .now_ms = T0, .ask = true};
    rig->fs = kz_fs_sim_new(1);
}

static void end(struct rig *rig)
{
    rig_close(rig);
    kz_fs_sim_free(rig->fs);
}

static void ignore_done(
        struct kz_submission *submission, enum kz_code code, const struct kz_err *err)
{
    (void)submission, (void)code, (void)err;
}

/* ---- the disk is full -------------------------------------------------------------------------- */

/* No event of a client is taken any more; there is the reserve for all else. */
static void fill_disk(struct rig *rig)
{
    kz_fs_sim_set_capacity(rig->fs, kz_fs_sim_used_bytes(rig->fs));
    atomic_store(&rig->p->log->no_space, true);
}

static void a_full_disk_keeps_no_action_from_being_decided(void **state)
{
    struct kz_intake_item *item = kz_calloc(1, sizeof(*item));
    struct kz_submission submission = {.items = &item, .item_count = 1, .done = ignore_done};
    struct kz_pipeline_counters counters;
    struct kz_err err = {0};
    struct rig rig;

    (void)state;
    begin(&rig);
    rig.project.actions = two_actions;
    rig.project.action_count = KZ_ARRAY_COUNT(two_actions);
    rig.project.limits.reserve_bytes = 1 << 20;
    rig_open(&rig);
    item->event.user_id = KZ_STR("ada");
    item->event.name = KZ_STR("view");
    kz_pipeline_intake(rig.p)->ops->submit(kz_pipeline_intake(rig.p), &submission);
    fill_disk(&rig);
    assert_int_equal(kz_pipeline_settle(rig.p, 60000, &err), KZ_OK);
    counters = rig_counters(&rig);
    assert_int_equal(counters.events_accepted_total, 1);
    assert_int_equal(counters.requests_done_total, 1);
    assert_int_equal(counters.decisions_deliver_total, 2);
    free(item);
    end(&rig);
}

/* ---- timers ------------------------------------------------------------------------------------- */

static struct kz_trigger_def delayed[] = {
        {.name = "viewing", .when = "name = 'view'", .delay_ms = 60000, .history = {0, 500, false}},
};

static void a_delay_that_is_begun_again_is_one_timer(void **state)
{
    struct rig rig;

    (void)state;
    begin(&rig);
    rig.project.triggers = delayed;
    rig.project.action_count = 0;
    rig_open(&rig);
    for (int i = 0; i < 50; i++) {
        rig_send(&rig, (struct sent){.user_id = "ada", .name = "view"});
        rig_wait(&rig, 1000);
    }
    assert_int_equal(rig_counters(&rig).timers_set, 1);
    rig_again(&rig, true);
    rig_upkeep(&rig);
    rig_wait(&rig, 58000); /* 59 s after the last */
    assert_int_equal(rig_counters(&rig).requests_total, 0);
    rig_wait(&rig, 1000);
    assert_int_equal(rig_counters(&rig).requests_total, 1);
    assert_int_equal(rig_counters(&rig).timers_fired_total, 1);
    assert_int_equal(rig_counters(&rig).timers_set, 0);
    end(&rig);
}

/* ---- who listens -------------------------------------------------------------------------------- */

struct listener { /* as serve's streams do it */
    struct kz_subscription subscription;
    struct kz_query *query;
    struct kz_user_key key;
    size_t heard;
};

static void on_news(struct kz_subscription *subscription, const struct kz_news *news)
{
    (void)news;
    KZ_CONTAINER_OF(subscription, struct listener, subscription)->heard++;
}

static void look_again(struct kz_subscription *subscription)
{
    struct listener *l = KZ_CONTAINER_OF(subscription, struct listener, subscription);
    uint32_t user = 0;

    assert_true(l->query->ops->find(l->query, l->key, &user));
    subscription->owner = l->query->ops->user(l->query, user)->owner;
}

static void listen_to(struct listener *l, struct rig *rig, struct kz_user_key key)
{
    *l = (struct listener){.subscription = {.news = on_news, .linked = look_again},
            .query = kz_pipeline_query(rig->p),
            .key = key};
    look_again(&l->subscription);
    l->query->ops->subscribe(l->query, &l->subscription);
}

static void log_in(struct rig *rig, const char *user)
{
    rig_send(rig, (struct sent){.anonymous_id = "device",
                          .user_id = user,
                          .name = "login",
                          .identity = KZ_IDENTITY_IDENTIFY});
}

static void who_listens_to_a_visitor_hears_of_whom_they_log_in_as(void **state)
{
    struct listener device, ada;
    struct rig rig;

    (void)state;
    begin(&rig);
    rig.project.action_count = 0;
    rig_open(&rig);
    rig_send(&rig, (struct sent){.anonymous_id = "device", .name = "noise"});
    rig_send(&rig, (struct sent){.user_id = "ada", .name = "noise"});
    listen_to(&device, &rig, (struct kz_user_key){'a', KZ_STR("device")});
    listen_to(&ada, &rig, (struct kz_user_key){'u', KZ_STR("ada")});
    log_in(&rig, "ada"); /* merged */
    rig_send(&rig, (struct sent){.user_id = "ada", .name = "view"});
    assert_int_equal(device.heard, 1);
    assert_int_equal(ada.heard, 1);
    log_in(&rig, "bob"); /* redirected: what ada does is the device's no longer */
    rig_send(&rig, (struct sent){.user_id = "bob", .name = "view"});
    rig_send(&rig, (struct sent){.user_id = "ada", .name = "view"});
    assert_int_equal(device.heard, 2);
    assert_int_equal(ada.heard, 2);
    end(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_full_disk_keeps_no_action_from_being_decided),
            cmocka_unit_test(a_delay_that_is_begun_again_is_one_timer),
            cmocka_unit_test(who_listens_to_a_visitor_hears_of_whom_they_log_in_as),
    };

    kz_diag_set(KZ_DIAG_ERROR - 1, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
