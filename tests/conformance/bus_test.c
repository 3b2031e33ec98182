/* What contract/bus.h promises, of the bus in memory and of Pub/Sub (its emulator). */
#include "bus_rig.h"

static bool is_text(const struct kz_bus_delivery *delivery, const char *text)
{
    return kz_str_is(delivery->data, text);
}

static void assert_text(const struct kz_bus_delivery *delivery, const char *text)
{
    if (!is_text(delivery, text))
        fail_msg("\"" KZ_STR_FMT "\" came, not \"%s\"", KZ_STR_ARG(delivery->data), text);
}

static struct kz_str attribute(const struct kz_bus_delivery *delivery, const char *name)
{
    for (size_t i = 0; i < delivery->attribute_count; i++)
        if (kz_str_is(delivery->attributes[i].name, name))
            return delivery->attributes[i].value;
    return KZ_STR_NULL;
}

/* ---- one message ----------------------------------------------------------------------------- */

static void test_a_message_comes_whole_and_once_acknowledged_never_again(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;
    const struct kz_attribute attributes[] = {
            {KZ_STR("kizashi-format"), KZ_STR("1")}, {KZ_STR("empty"), KZ_STR("")}};
    const struct kz_bus_message message = {.data = {"a\0b\xff", 4},
            .key = KZ_STR("lane-0001"),
            .attributes = attributes,
            .attribute_count = 2};
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_EVENTS, "process");
    int64_t before_ms = kz_clock_ms();
    struct kz_bus_delivery *d;

    rig_publish(bus, KZ_TOPIC_EVENTS, &message, 1);
    d = rig_pull_one(source);
    assert_int_equal(d->data.size, 4);
    assert_memory_equal(d->data.ptr, "a\0b\xff", 4);
    assert_true(kz_str_is(d->key, "lane-0001"));
    assert_true(d->id.size > 0);
    assert_true(kz_str_is(attribute(d, "kizashi-format"), "1"));
    assert_int_equal(d->attribute_count, 2);
    assert_in_range(d->attempt, 0, 1);
    assert_in_range(d->published_ms, before_ms - 2000, kz_clock_ms() + 2000);
    rig_ack(source, d);
    rig_expect_nothing(source);
    rig_end(source);

    source = rig_source(bus, KZ_TOPIC_EVENTS, "process");
    rig_expect_nothing(source);
    rig_end(source);
}

static void test_attributes_alone_are_a_message(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;
    const struct kz_attribute attributes[] = {{KZ_STR("kizashi-watermark"), KZ_STR("17")}};
    const struct kz_bus_message message = {.attributes = attributes, .attribute_count = 1};
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_REQUESTS, "infer");
    struct kz_bus_delivery *d;

    rig_publish(bus, KZ_TOPIC_REQUESTS, &message, 1);
    d = rig_pull_one(source);
    assert_int_equal(d->data.size, 0);
    assert_int_equal(d->key.size, 0);
    assert_true(kz_str_is(attribute(d, "kizashi-watermark"), "17"));
    rig_ack(source, d);
    rig_end(source);
}

static void test_a_large_message_comes_whole(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_REQUESTS, "infer");
    struct kz_buf large = {0};
    struct kz_prng prng;
    struct kz_bus_delivery *d;

    kz_prng_init(&prng, 7);
    kz_prng_bytes(&prng, kz_buf_extend(&large, KZ_BUS_MESSAGE_SIZE_MAX), KZ_BUS_MESSAGE_SIZE_MAX);
    rig_publish(bus, KZ_TOPIC_REQUESTS, &(struct kz_bus_message){.data = kz_buf_view(&large)}, 1);
    d = rig_pull_one(source);
    assert_int_equal(d->data.size, large.size);
    assert_true(kz_str_eq(d->data, kz_buf_view(&large)));
    rig_ack(source, d);
    rig_end(source);
    kz_buf_done(&large);
}

static void test_what_cannot_be_sent_is_refused_at_once(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;
    struct kz_attribute attributes[KZ_ATTRIBUTES_MAX + 1];
    struct kz_bus_message message = {0};
    struct outcome outcome;
    struct kz_buf large = {0};
    struct kz_err err;

    outcome_init(&outcome);
    assert_int_equal(
            bus->ops->publish(bus, KZ_TOPIC_NEWS, &message, 1, outcome_done, &outcome, &err),
            KZ_INVALID);
    kz_buf_extend(&large, KZ_BUS_MESSAGE_SIZE_MAX + 1);
    memset(large.data, 'x', large.size);
    message.data = kz_buf_view(&large);
    assert_int_equal(
            bus->ops->publish(bus, KZ_TOPIC_NEWS, &message, 1, outcome_done, &outcome, &err),
            KZ_TOO_LARGE);
    assert_non_null(strstr(err.message, "9437185 bytes, at most 9437184"));
    message.data = KZ_STR("x");
    for (size_t i = 0; i < KZ_ARRAY_COUNT(attributes); i++)
        attributes[i] = (struct kz_attribute){KZ_STR("n"), KZ_STR("v")};
    message.attributes = attributes;
    message.attribute_count = KZ_ARRAY_COUNT(attributes);
    assert_int_equal(
            bus->ops->publish(bus, KZ_TOPIC_NEWS, &message, 1, outcome_done, &outcome, &err),
            KZ_INVALID);
    assert_int_equal(outcome.calls, 0);
    outcome_free(&outcome);
    kz_buf_done(&large);
}

static void test_nothing_to_publish_is_done(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;

    rig_publish(bus, KZ_TOPIC_NEWS, NULL, 0);
}

/* ---- many ------------------------------------------------------------------------------------ */

static void test_a_key_keeps_its_order(void **state)
{
    enum { KEYS = 3, EACH = 100 };
    struct kz_bus *bus = RIG(state)->bus;
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_EVENTS, "process");
    struct kz_bus_delivery *deliveries[KEYS * EACH];
    struct outcome outcomes[EACH];
    unsigned next[KEYS] = {0};
    size_t have = 0;
    struct kz_err err;

    for (unsigned i = 0; i < EACH; i++) {
        char text[KEYS][16], key[KEYS][16];
        struct kz_bus_message messages[KEYS];

        for (unsigned k = 0; k < KEYS; k++) {
            snprintf(text[k], sizeof(text[k]), "%u %u", k, i);
            snprintf(key[k], sizeof(key[k]), "lane-%u", k);
            messages[k] = (struct kz_bus_message){.data = kz_str(text[k]), .key = kz_str(key[k])};
        }
        outcome_init(&outcomes[i]);
        rig_must(bus->ops->publish(
                         bus, KZ_TOPIC_EVENTS, messages, KEYS, outcome_done, &outcomes[i], &err),
                &err);
    }
    for (unsigned i = 0; i < EACH; i++) {
        rig_must(outcome_wait(&outcomes[i]), &outcomes[i].err);
        outcome_free(&outcomes[i]);
    }
    /* Acknowledged as they come: a bus may hold a key back until its last message is done with. */
    while (have < KEYS * EACH) {
        size_t more = rig_pull(source, deliveries, 1, DEADLINE_MS);

        assert_int_equal(more, 1);
        for (size_t i = 0; i < more; i++) {
            size_t at = 0;
            unsigned k = rig_number(deliveries[i], &at), n = rig_number(deliveries[i], &at);

            assert_true(k < KEYS);
            if (n != next[k])
                fail_msg("of key %u message %u came, not %u", k, n, next[k]);
            next[k]++;
        }
        source->ops->ack(source, deliveries, more);
        have += more;
    }
    rig_end(source);
}

static void test_two_sources_of_a_subscription_share(void **state)
{
    enum { COUNT = 200, AT_ONCE = 10 };
    struct kz_bus *bus = RIG(state)->bus;
    const struct kz_bus_pull_options options = {
            .topic = KZ_TOPIC_REQUESTS, .name = "infer", .messages_max = AT_ONCE};
    struct kz_bus_source *sources[2];
    int64_t until_ms = kz_mono_ms() + DEADLINE_MS;
    unsigned seen[COUNT] = {0}, each[2] = {0};

    sources[0] = rig_source_with(bus, &options);
    sources[1] = rig_source_with(bus, &options);
    for (unsigned i = 0; i < COUNT; i++) {
        char text[16];

        snprintf(text, sizeof(text), "%u", i);
        rig_publish_text(bus, KZ_TOPIC_REQUESTS, text);
    }
    for (unsigned turn = 0; each[0] + each[1] < COUNT && kz_mono_ms() < until_ms; turn++) {
        struct kz_bus_source *source = sources[turn % 2];
        struct kz_bus_delivery *deliveries[AT_ONCE];
        size_t have = rig_pull(source, deliveries, AT_ONCE, 50);

        for (size_t i = 0; i < have; i++) {
            size_t at = 0;
            unsigned n = rig_number(deliveries[i], &at);

            assert_true(n < COUNT);
            if (seen[n]++)
                fail_msg("message %u came to both, or twice", n);
        }
        source->ops->ack(source, deliveries, have);
        each[turn % 2] += have;
    }
    assert_int_equal(each[0] + each[1], COUNT);
    assert_true(each[0] > 0);
    assert_true(each[1] > 0);
    rig_end(sources[0]);
    rig_end(sources[1]);
}

static void test_a_source_of_ones_own_sees_only_what_is_new(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;
    struct kz_bus_source *one, *two;
    struct kz_bus_delivery *d;

    rig_publish_text(bus, KZ_TOPIC_NEWS, "old");
    one = rig_source(bus, KZ_TOPIC_NEWS, NULL);
    two = rig_source(bus, KZ_TOPIC_NEWS, NULL);
    rig_publish_text(bus, KZ_TOPIC_NEWS, "new");
    d = rig_pull_one(one);
    assert_text(d, "new");
    rig_ack(one, d);
    d = rig_pull_one(two);
    assert_text(d, "new");
    rig_ack(two, d);
    rig_expect_nothing(one);
    rig_end(one);
    rig_publish_text(bus, KZ_TOPIC_NEWS, "newer");
    d = rig_pull_one(two);
    assert_text(d, "newer");
    rig_ack(two, d);
    rig_end(two);
}

static void test_a_subscription_may_see_only_what_is_for_it(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;
    const struct kz_attribute special[] = {{KZ_STR("model"), KZ_STR("special")}};
    const struct kz_attribute other[] = {{KZ_STR("model"), KZ_STR("other")}};
    const struct kz_bus_message messages[] = {
            {.data = KZ_STR("none")},
            {.data = KZ_STR("other"), .attributes = other, .attribute_count = 1},
            {.data = KZ_STR("special"), .attributes = special, .attribute_count = 1},
    };
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_REQUESTS, "special");
    struct kz_bus_source *all = rig_source(bus, KZ_TOPIC_REQUESTS, "infer");
    struct kz_bus_delivery *d, *three[3];

    rig_publish(bus, KZ_TOPIC_REQUESTS, messages, 3);
    d = rig_pull_one(source);
    assert_text(d, "special");
    rig_ack(source, d);
    rig_expect_nothing(source);
    assert_int_equal(rig_pull(all, three, 3, DEADLINE_MS), 3);
    all->ops->ack(all, three, 3);
    rig_end(source);
    rig_end(all);
}

static void test_no_more_is_given_than_may_be_held(void **state)
{
    enum { COUNT = 40, HELD_MAX = 7 };
    struct kz_bus *bus = RIG(state)->bus;
    const struct kz_bus_pull_options options = {
            .topic = KZ_TOPIC_REQUESTS, .name = "infer", .messages_max = HELD_MAX};
    struct kz_bus_delivery *deliveries[COUNT];
    struct kz_bus_source *source;

    for (unsigned i = 0; i < COUNT; i++)
        rig_publish_text(bus, KZ_TOPIC_REQUESTS, "x");
    source = rig_source_with(bus, &options);
    for (size_t done = 0; done < COUNT; done += HELD_MAX) {
        size_t want = KZ_MIN((size_t)HELD_MAX, COUNT - done);

        assert_int_equal(rig_pull(source, deliveries, want, DEADLINE_MS), want);
        if (done < 3 * HELD_MAX)
            assert_int_equal(rig_pull(source, deliveries + want, 1, NOTHING_MS), 0);
        source->ops->ack(source, deliveries, want);
    }
    rig_end(source);
}

static void test_no_more_bytes_are_given_than_may_be_held(void **state)
{
    enum { SIZE = 100000, COUNT = 6 };
    struct kz_bus *bus = RIG(state)->bus;
    const struct kz_bus_pull_options options = {
            .topic = KZ_TOPIC_REQUESTS, .name = "infer", .bytes_max = 250000};
    struct kz_bus_delivery *deliveries[COUNT];
    struct kz_bus_source *source;
    struct kz_buf text = {0};

    memset(kz_buf_extend(&text, SIZE), 'x', SIZE);
    for (unsigned i = 0; i < COUNT; i++)
        rig_publish(
                bus, KZ_TOPIC_REQUESTS, &(struct kz_bus_message){.data = kz_buf_view(&text)}, 1);
    source = rig_source_with(bus, &options);
    for (unsigned left = COUNT; left; left -= 2) {
        assert_int_equal(rig_pull(source, deliveries, 2, DEADLINE_MS), 2);
        assert_int_equal(rig_pull(source, deliveries + 2, 1, NOTHING_MS), 0);
        source->ops->ack(source, deliveries, 2);
    }
    rig_end(source);
    kz_buf_done(&text);
}

/* ---- coming again ---------------------------------------------------------------------------- */

static void test_a_nack_brings_it_again(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_REQUESTS, "infer");
    struct kz_bus_delivery *d;

    rig_publish_text(bus, KZ_TOPIC_REQUESTS, "again");
    d = rig_pull_one(source);
    source->ops->nack(source, &d, 1);
    d = rig_pull_one(source);
    assert_text(d, "again");
    assert_int_equal(d->attempt, 2);
    rig_ack(source, d);
    rig_expect_nothing(source);
    rig_end(source);
}

/* How long it took until it was there again. */
static int64_t held_comes_again(struct kz_bus *bus)
{
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_EVENTS, "process");
    const struct kz_bus_message messages[] = {{.data = KZ_STR("done"), .key = KZ_STR("a")},
            {.data = KZ_STR("held"), .key = KZ_STR("b")},
            {.data = KZ_STR("held too"), .key = KZ_STR("c")}};
    struct kz_bus_delivery *deliveries[3];
    int64_t closed_ms, took_ms;

    rig_publish(bus, KZ_TOPIC_EVENTS, messages, 3);
    assert_int_equal(rig_pull(source, deliveries, 3, DEADLINE_MS), 3);
    for (unsigned i = 0; i < 3; i++)
        if (is_text(deliveries[i], "done"))
            rig_ack(source, deliveries[i]);
    rig_end(source);
    closed_ms = kz_mono_ms();
    source = rig_source(bus, KZ_TOPIC_EVENTS, "process");
    assert_int_equal(rig_pull(source, deliveries, 2, DEADLINE_MS), 2);
    took_ms = kz_mono_ms() - closed_ms;
    assert_true(is_text(deliveries[0], "held") || is_text(deliveries[0], "held too"));
    assert_true(is_text(deliveries[1], "held") || is_text(deliveries[1], "held too"));
    source->ops->ack(source, deliveries, 2);
    rig_expect_nothing(source);
    rig_end(source);
    return took_ms;
}

static void test_what_was_held_comes_again_elsewhere_after_close(void **state)
{
    enum { LEASE_MS = 9000 }; /* none ends sooner: it was given back */
    int64_t took_ms = INT64_MAX;

    for (int tries = 0; took_ms >= LEASE_MS && tries < 3; tries++) /* the machine may be busy */
        took_ms = held_comes_again(RIG(state)->bus);
    assert_true(took_ms < LEASE_MS);
}

static void test_a_message_nobody_can_take_goes_to_the_dead(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;
    const struct kz_attribute attributes[] = {{KZ_STR("kind"), KZ_STR("poison")}};
    const struct kz_bus_message message = {
            .data = KZ_STR("poison"), .attributes = attributes, .attribute_count = 1};
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_REQUESTS, "infer");
    struct kz_bus_source *dead = rig_source(bus, KZ_TOPIC_DEAD, "kept");
    struct kz_bus_delivery *d;

    rig_publish(bus, KZ_TOPIC_REQUESTS, &message, 1);
    for (unsigned i = 1; i <= ATTEMPTS_MAX; i++) {
        d = rig_pull_one(source);
        assert_int_equal(d->attempt, i);
        source->ops->nack(source, &d, 1);
    }
    d = rig_pull_one(dead);
    assert_text(d, "poison");
    assert_true(kz_str_is(attribute(d, "kind"), "poison"));
    assert_true(attribute(d, "CloudPubSubDeadLetterSourceSubscription").size > 0);
    rig_ack(dead, d);
    rig_expect_nothing(source);
    rig_end(source);
    rig_end(dead);
}

static void test_a_lease_is_kept_up_while_a_message_is_held(void **state)
{
    struct rig *rig = RIG(state);
    struct kz_bus *bus = rig->bus;
    const struct kz_bus_pull_options options = {
            .topic = KZ_TOPIC_REQUESTS, .name = "infer", .lease_ms = 10000};
    struct kz_bus_source *holder, *other;
    struct kz_bus_delivery *held, *d;
    struct kz_bus_stats stats;

    holder = rig_source_with(bus, &options);
    rig_publish_text(bus, KZ_TOPIC_REQUESTS, "held");
    held = rig_pull_one(holder);
    other = rig_source_with(bus, &options);
    if (rig_pull(other, &d, 1, rig->is_pubsub ? 23000 : NOTHING_MS))
        fail_msg("what is held came again");
    if (rig_pull(holder, &d, 1, 0))
        fail_msg("what is held came again to its holder");
    bus->ops->stats(bus, &stats);
    assert_int_equal(stats.held, 1);
    assert_int_equal(stats.leases_extended > 1, rig->is_pubsub);
    assert_text(held, "held");
    rig_ack(holder, held);
    rig_end(holder);
    rig_expect_nothing(other);
    rig_end(other);
}

/* ---- done, limits, numbers ------------------------------------------------------------------- */

struct counted {
    atomic_uint calls, failures;
};

static void count_done(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct counted *counted = arg;

    (void)err;
    counted->failures += code != KZ_OK;
    counted->calls++;
}

static void test_done_comes_once_for_each_publish(void **state)
{
    enum { COUNT = 500 };
    struct kz_bus *bus = RIG(state)->bus;
    struct counted *counted = kz_calloc(COUNT, sizeof(*counted));
    int64_t until_ms = kz_mono_ms() + DEADLINE_MS;
    unsigned waiting = COUNT;
    struct kz_bus_stats stats;
    struct kz_err err;

    for (unsigned i = 0; i < COUNT; i++) {
        char key[16];
        struct kz_bus_message messages[3] = {
                {.data = KZ_STR("1")}, {.data = KZ_STR("2")}, {.data = KZ_STR("3")}};

        snprintf(key, sizeof(key), "lane-%u", i % 7);
        messages[0].key = kz_str(key);
        rig_must(bus->ops->publish(
                         bus, KZ_TOPIC_NEWS, messages, 1 + i % 3, count_done, &counted[i], &err),
                &err);
    }
    while (waiting && kz_mono_ms() < until_ms) {
        nanosleep(&(struct timespec){0, 5000000}, NULL);
        waiting = 0;
        for (unsigned i = 0; i < COUNT; i++)
            waiting += counted[i].calls == 0;
    }
    assert_int_equal(waiting, 0);
    bus->ops->stats(bus, &stats);
    assert_int_equal(stats.published, 167 + 2 * 167 + 3 * 166);
    assert_int_equal(stats.bytes_published, stats.published);
    assert_int_equal(stats.publishing, 0);
    assert_int_equal(stats.publish_failures, 0);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(counted[i].calls, 1);
        assert_int_equal(counted[i].failures, 0);
    }
    free(counted);
}

static void test_stats_count_what_happened(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_REQUESTS, "infer");
    struct kz_bus_delivery *deliveries[3];
    int64_t before_ms = kz_clock_ms();
    struct kz_bus_stats stats;

    for (unsigned i = 0; i < 3; i++)
        rig_publish_text(bus, KZ_TOPIC_REQUESTS, "four");
    assert_int_equal(rig_pull(source, deliveries, 3, DEADLINE_MS), 3);
    bus->ops->stats(bus, &stats);
    assert_int_equal(stats.published, 3);
    assert_int_equal(stats.bytes_published, 12);
    assert_int_equal(stats.received, 3);
    assert_int_equal(stats.held, 3);
    assert_int_equal(stats.acknowledged, 0);
    assert_in_range(stats.oldest_ms, before_ms - 2000, kz_clock_ms() + 2000);
    assert_string_equal(stats.problem, "");
    assert_false(stats.throttled);
    source->ops->ack(source, deliveries, 2);
    source->ops->nack(source, &deliveries[2], 1);
    bus->ops->stats(bus, &stats);
    assert_int_equal(stats.acknowledged, 2);
    assert_int_equal(stats.rejected, 1);
    assert_int_equal(rig_pull(source, deliveries, 1, DEADLINE_MS), 1);
    bus->ops->stats(bus, &stats);
    assert_int_equal(stats.received, 4);
    assert_int_equal(stats.redelivered, 1);
    assert_int_equal(stats.held, 1);
    rig_ack(source, deliveries[0]);
    bus->ops->stats(bus, &stats);
    assert_int_equal(stats.held, 0);
    assert_int_equal(stats.oldest_ms, 0);
    rig_end(source);
}

static void test_pull_waits_no_longer_than_it_may(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_REQUESTS, "infer");
    struct kz_bus_delivery *d;
    int64_t before_ms = kz_mono_ms();
    struct kz_err err;
    size_t count = 9;

    rig_must(source->ops->pull(source, &d, 1, 300, &count, &err), &err);
    assert_int_equal(count, 0);
    assert_in_range(kz_mono_ms() - before_ms, 290, DEADLINE_MS);
    rig_must(source->ops->pull(source, &d, 1, 0, &count, &err), &err);
    assert_int_equal(count, 0);
    rig_end(source);
}

/* ---- there or not ---------------------------------------------------------------------------- */

static void test_a_subscription_that_is_not_there_is_named(void **state)
{
    struct rig *rig = RIG(state);
    struct kz_bus *bus = rig->bus;
    const struct kz_bus_pull_options options = {.topic = KZ_TOPIC_ACTIONS, .name = "nobody"};
    struct kz_bus_source *source = NULL;
    struct kz_bus_delivery *d;
    struct kz_err err;
    size_t count = 0;
    enum kz_code rc = bus->ops->open_source(bus, &options, &source, &err);

    if (rc == KZ_OK) {
        int64_t until_ms = kz_mono_ms() + DEADLINE_MS;

        while (rc == KZ_OK && kz_mono_ms() < until_ms)
            rc = source->ops->pull(source, &d, 1, 200, &count, &err);
        rig_end(source);
    }
    assert_int_equal(rc, KZ_NOT_FOUND);
    assert_non_null(strstr(err.message, "nobody"));
    if (rig->is_pubsub)
        assert_non_null(strstr(err.hint, "kizashi gcp init DIR"));
}

struct said {
    unsigned lines;
    bool topic, subscription;
};

static void hear(void *arg, const char *line)
{
    struct said *said = arg;

    said->lines++;
    said->topic |= strstr(line, "topic kizashi-shop-requests") != NULL;
    said->subscription |= strstr(line, "subscription kizashi-shop-events-process") != NULL;
}

static void test_create_makes_what_is_missing_and_says_so(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;
    struct said said = {0};
    struct kz_bus_stats stats;
    struct kz_err err;

    assert_int_equal(bus->ops->check(bus, &err), KZ_NOT_FOUND);
    assert_non_null(strstr(err.message, "kizashi-shop-events"));
    assert_non_null(strstr(err.hint, "kizashi gcp init DIR"));
    bus->ops->stats(bus, &stats);
    assert_non_null(strstr(stats.problem, "topic \"kizashi-shop-events\" does not exist"));
    assert_non_null(strstr(stats.problem, "kizashi gcp init DIR"));
    rig_must(bus->ops->create(bus, hear, &said, &err), &err);
    bus->ops->stats(bus, &stats);
    assert_non_null(strstr(stats.problem, "does not exist")); /* until it is looked for again */
    assert_int_equal(said.lines, KZ_TOPIC_COUNT + RIG_STANDARD + KZ_ARRAY_COUNT(rig_subscriptions));
    assert_true(said.topic);
    assert_true(said.subscription);
    rig_must(bus->ops->check(bus, &err), &err);
    bus->ops->stats(bus, &stats);
    assert_string_equal(stats.problem, "");
    rig_must(bus->ops->create(bus, hear, &said, &err), &err);
    assert_int_equal(said.lines, KZ_TOPIC_COUNT + RIG_STANDARD + KZ_ARRAY_COUNT(rig_subscriptions));
}

/* A call costs a hundred times what a message in it does. */
static void test_messages_of_a_key_go_together(void **state)
{
    enum { COUNT = 2000, KEYS = 2 };
    struct rig *rig = RIG(state);
    struct kz_bus *bus = rig->bus;
    struct counted counted = {0};
    int64_t until_ms = kz_mono_ms() + DEADLINE_MS;
    struct kz_rpc_stats before, after;
    struct kz_err err;

    kz_rpc_stats(rig->rpc, &before);
    for (unsigned i = 0; i < COUNT; i++) {
        const struct kz_bus_message message = {
                .data = KZ_STR("x"), .key = i % KEYS ? KZ_STR("one") : KZ_STR("other")};

        rig_must(bus->ops->publish(bus, KZ_TOPIC_NEWS, &message, 1, count_done, &counted, &err),
                &err);
    }
    while (counted.calls < COUNT && kz_mono_ms() < until_ms)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    assert_int_equal(counted.calls, COUNT);
    assert_int_equal(counted.failures, 0);
    kz_rpc_stats(rig->rpc, &after);
    assert_in_range(after.calls - before.calls, KEYS, COUNT / 10);
}

static void test_in_memory_all_is_there_from_the_start(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;
    struct said said = {0};
    struct kz_err err;

    rig_must(bus->ops->check(bus, &err), &err);
    rig_must(bus->ops->create(bus, hear, &said, &err), &err);
    assert_int_equal(said.lines, 0);
}

static void test_waiting_messages_are_bounded_in_memory(void **state)
{
    struct kz_bus *bus = RIG(state)->bus;
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_REQUESTS, "infer");
    struct kz_buf text = {0};
    struct kz_bus_message message;
    struct kz_bus_delivery *d;
    struct kz_err err;
    enum kz_code rc;
    unsigned count = 0;

    memset(kz_buf_extend(&text, 1 << 20), 'x', 1 << 20);
    message = (struct kz_bus_message){.data = kz_buf_view(&text)};
    while ((rc = bus->ops->publish(bus, KZ_TOPIC_REQUESTS, &message, 1, NULL, NULL, &err)) ==
                    KZ_OK &&
            count < 100)
        count++;
    assert_int_equal(rc, KZ_OVERLOADED);
    assert_int_equal(count, SENT_MAX_BYTES >> 20);
    d = rig_pull_one(source);
    rig_ack(source, d);
    rig_must(bus->ops->publish(bus, KZ_TOPIC_REQUESTS, &message, 1, NULL, NULL, &err), &err);
    rig_end(source);
    kz_buf_done(&text);
}

#define CASES(open)                                                                                \
    T(open, test_a_message_comes_whole_and_once_acknowledged_never_again)                          \
    T(open, test_attributes_alone_are_a_message)                                                   \
    T(open, test_a_large_message_comes_whole)                                                      \
    T(open, test_what_cannot_be_sent_is_refused_at_once)                                           \
    T(open, test_nothing_to_publish_is_done)                                                       \
    T(open, test_a_key_keeps_its_order)                                                            \
    T(open, test_two_sources_of_a_subscription_share)                                              \
    T(open, test_a_source_of_ones_own_sees_only_what_is_new)                                       \
    T(open, test_a_subscription_may_see_only_what_is_for_it)                                       \
    T(open, test_no_more_is_given_than_may_be_held)                                                \
    T(open, test_no_more_bytes_are_given_than_may_be_held)                                         \
    T(open, test_a_nack_brings_it_again)                                                           \
    T(open, test_what_was_held_comes_again_elsewhere_after_close)                                  \
    T(open, test_a_message_nobody_can_take_goes_to_the_dead)                                       \
    T(open, test_a_lease_is_kept_up_while_a_message_is_held)                                       \
    T(open, test_done_comes_once_for_each_publish)                                                 \
    T(open, test_stats_count_what_happened)                                                        \
    T(open, test_pull_waits_no_longer_than_it_may)                                                 \
    T(open, test_a_subscription_that_is_not_there_is_named)
#define T(open, test) cmocka_unit_test_setup_teardown(test, open, rig_close),

int main(void)
{
    const struct CMUnitTest memory[] = {
            CASES(rig_open_memory) T(rig_open_memory, test_in_memory_all_is_there_from_the_start)
                    T(rig_open_memory, test_waiting_messages_are_bounded_in_memory)};
    const struct CMUnitTest pubsub[] = {
            CASES(rig_open_pubsub) T(rig_open_pubsub, test_messages_of_a_key_go_together)
                    T(rig_open_pubsub_bare, test_create_makes_what_is_missing_and_says_so)};

    return cmocka_run_group_tests_name("bus in memory", memory, NULL, NULL) +
           cmocka_run_group_tests_name("bus on Pub/Sub", pubsub, NULL, NULL);
}
