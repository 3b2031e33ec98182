/* The process role over the backends in memory: what it publishes is what the embedded pipeline would have
 * asked; what cannot be processed is kept; whatever stops it loses nothing. */
#include "process_rig.h"

#include <unistd.h>

#include "app/roles/role.h"
#include "backends/memory/bus.h"
#include "base/diag.h"
#include "sys/clock.h"

enum { EVENTS = 2000, USERS = 40, WAIT_MS = 60000 };

struct deployment {
    struct kz_bus *bus;
    struct kz_store *memory;
    struct trouble trouble;
    struct kz_role_env env;
    struct kz_role *role;
    struct kz_bus_source *sources[KZ_ARRAY_COUNT(rig_models)], *dead;
};

static void wake(void *arg)
{
    (void)arg;
}

static struct kz_bus_source *subscribe(struct kz_bus *bus, enum kz_topic topic, const char *name)
{
    struct kz_bus_pull_options options = {.topic = topic, .name = name, .messages_max = 100000};
    struct kz_bus_source *source;

    assert_int_equal(bus->ops->open_source(bus, &options, &source, NULL), KZ_OK);
    return source;
}

static void open_role(struct deployment *d)
{
    struct kz_err err;

    if (kz_role_process.open(&d->env, &d->role, &err) != KZ_OK)
        fail_msg("%s", err.message);
}

static void deploy(struct deployment *d, bool event_clock)
{
    struct kz_memory_bus_options options = {0};
    struct kz_bus_subscription *subscriptions = kz_role_subscriptions(
            &rig_project, &options.subscription_count);

    *d = (struct deployment){.memory = kz_memory_store_new()};
    options.subscriptions = subscriptions;
    assert_int_equal(kz_memory_bus_open(&options, &d->bus, NULL), KZ_OK);
    free(subscriptions);
    trouble_init(&d->trouble, d->memory);
    d->env = (struct kz_role_env){
            .project = &rig_project,
            .kinds = 1u << KZ_ROLE_PROCESS,
            .event_clock = event_clock,
            .bus = d->bus,
            .store = &d->trouble.store,
            .wake = wake,
    };
    for (size_t m = 0; m < KZ_ARRAY_COUNT(rig_models); m++) {
        char name[64];

        snprintf(name, sizeof(name), "infer-%s", rig_models[m].name);
        d->sources[m] = subscribe(d->bus, KZ_TOPIC_REQUESTS, name);
    }
    d->dead = subscribe(d->bus, KZ_TOPIC_DEAD, "kept");
}

static void withdraw(struct deployment *d)
{
    if (d->role)
        d->role->ops->close(d->role);
    for (size_t m = 0; m < KZ_ARRAY_COUNT(rig_models); m++)
        d->bus->ops->close_source(d->sources[m]);
    d->bus->ops->close_source(d->dead);
    d->bus->ops->close(d->bus);
    d->memory->ops->close(d->memory);
}

static uint64_t acknowledged(struct deployment *d)
{
    struct kz_bus_stats stats;

    d->bus->ops->stats(d->bus, &stats);
    return stats.acknowledged;
}

static void await_acknowledged(struct deployment *d, uint64_t want)
{
    int64_t until_ms = kz_mono_ms() + WAIT_MS;

    while (acknowledged(d) < want && kz_mono_ms() < until_ms)
        usleep(1000);
    assert_int_equal(acknowledged(d), want);
}

static void publish(struct deployment *d, struct kz_str data, const char *key,
        const struct kz_attribute *attributes, size_t attribute_count)
{
    struct kz_bus_message message = {.data = data,
            .key = kz_str(key),
            .attributes = attributes,
            .attribute_count = attribute_count};

    assert_int_equal(
            d->bus->ops->publish(d->bus, KZ_TOPIC_EVENTS, &message, 1, NULL, NULL, NULL), KZ_OK);
}

static const struct kz_attribute collected = {
        {KZ_ATTRIBUTE_FORMAT, sizeof(KZ_ATTRIBUTE_FORMAT) - 1}, {"1", 1}};

/* As collect would, up to 20 events of a lane a message, each message `times` times. Gives how many. */
static uint64_t publish_stream(
        struct deployment *d, const struct rig_stream *stream, unsigned times)
{
    static struct {
        struct kz_buf data;
        size_t events;
    } lanes[KZ_LANE_COUNT];
    uint64_t messages = 0;

    for (size_t i = 0; i < stream->count + KZ_LANE_COUNT; i++) {
        size_t lane = i - stream->count;
        char key[KZ_LANE_BYTES];

        if (i < stream->count) {
            struct kz_intake_item *item = rig_item(&stream->events[i]);

            lane = kz_owner_hash(kz_event_key(&item->event), 0) % KZ_LANE_COUNT;
            kz_message_put_item(item, &lanes[lane].data);
            lanes[lane].events++;
            free(item);
            if (lanes[lane].events < 20)
                continue;
        }
        if (!lanes[lane].events)
            continue;
        kz_lane_name(lane, key);
        for (unsigned n = 0; n < times; n++, messages++)
            publish(d, kz_buf_view(&lanes[lane].data), key, &collected, 1);
        kz_buf_done(&lanes[lane].data);
        lanes[lane].events = 0;
    }
    return messages;
}

static void publish_watermark(struct deployment *d, int64_t ms)
{
    char text[24];
    struct kz_attribute attributes[2] = {collected, {KZ_STR(KZ_ATTRIBUTE_WATERMARK), KZ_STR_NULL}};

    snprintf(text, sizeof(text), "%lld", (long long)ms);
    attributes[1].value = kz_str(text);
    publish(d, KZ_STR("\n"), "lane-000", attributes, 2);
}

/* What was published of requests, each once; `ret_messages` of them with repetitions. */
static void pull_requests(struct deployment *d, struct rig_lines *lines, size_t *ret_messages)
{
    struct rig_sql sql = rig_sql_open();
    struct kz_history_reader *reader = d->memory->ops->reader(d->memory);
    struct kz_buf hold = {0};
    size_t kept = 0;

    *ret_messages = 0;
    for (size_t m = 0; m < KZ_ARRAY_COUNT(rig_models); m++) {
        struct kz_bus_delivery *deliveries[500];
        size_t count = 1;

        while (count) {
            assert_int_equal(
                    d->bus->ops->pull(d->sources[m], deliveries, 500, 50, &count, NULL), KZ_OK);
            for (size_t i = 0; i < count; i++) {
                struct kz_request_message message;

                assert_int_equal(
                        kz_request_message_decode(deliveries[i]->data, &hold, &message, NULL),
                        KZ_OK);
                assert_true(kz_str_is(kz_request_message_model(&message), rig_models[m].name));
                rig_request(lines, sql.features, reader, message.record, message.lsn,
                        message.sources, message.source_count);
                (*ret_messages)++;
            }
            d->bus->ops->ack(d->sources[m], deliveries, count);
        }
    }
    qsort(lines->items, lines->count, sizeof(char *), rig_by_text);
    for (size_t i = 0; i < lines->count; i++) {
        if (kept && strcmp(lines->items[kept - 1], lines->items[i]) == 0)
            free(lines->items[i]);
        else
            lines->items[kept++] = lines->items[i];
    }
    lines->count = kept;
    kz_sql_close(sql.sql);
    kz_buf_done(&hold);
}

static size_t outbox_count(struct deployment *d)
{
    struct kz_store_request *requests = kz_malloc(10000 * sizeof(*requests));
    struct kz_buf bytes = {0};
    size_t count;

    assert_int_equal(
            d->memory->ops->outbox(d->memory, INT64_MAX, 10000, requests, &count, &bytes, NULL),
            KZ_OK);
    kz_buf_done(&bytes);
    free(requests);
    return count;
}

static void assert_as_embedded(
        const struct rig_stream *stream, int64_t end_ms, const struct rig_lines *lines)
{
    struct rig_lines embedded = {0};
    struct kz_pipeline_counters counters;

    rig_run_embedded(stream, end_ms, &embedded, &counters);
    assert_true(embedded.count > 300);
    assert_int_equal(lines->count, embedded.count);
    for (size_t i = 0; i < embedded.count; i++)
        if (strcmp(lines->items[i], embedded.items[i]) != 0)
            fail_msg("%s\n  is not\n%s", lines->items[i], embedded.items[i]);
    rig_lines_done(&embedded);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void every_message_twice_asks_what_the_embedded_pipeline_asks(void **state)
{
    struct rig_stream stream = rig_stream(41, EVENTS, USERS, false);
    int64_t end_ms = stream.events[EVENTS - 1].ts_ms + 60 * MINUTE;
    struct rig_lines lines = {0};
    struct kz_pipeline_counters counters = {0};
    struct deployment d;
    uint64_t messages;
    size_t asked;

    (void)state;
    deploy(&d, true);
    d.trouble.conflicts = 10;
    d.trouble.lost_answers = 15;
    open_role(&d);
    messages = publish_stream(&d, &stream, 2);
    await_acknowledged(&d, messages);
    publish_watermark(&d, end_ms);
    await_acknowledged(&d, messages + 1);
    kz_role_process.counters(d.role, &counters);
    assert_true(counters.timers_fired_total > 50);
    /* What lost answers left in the outbox is found by the sweep. */
    for (int64_t until_ms = kz_mono_ms() + WAIT_MS; outbox_count(&d) && kz_mono_ms() < until_ms;)
        usleep(10000);
    assert_int_equal(outbox_count(&d), 0);
    pull_requests(&d, &lines, &asked);
    assert_as_embedded(&stream, end_ms, &lines);
    rig_lines_done(&lines);
    withdraw(&d);
    free(stream.events);
}

/* Committed, and then the process died: its requests are published by another. */
static void what_was_committed_and_not_published_is_published_by_another(void **state)
{
    struct rig_stream stream = rig_stream(42, 300, 10, false);
    struct kz_process_options options = {.project = &rig_project};
    struct kz_process_outcome outcome;
    struct rig_lines lines = {0};
    struct kz_process *died;
    struct deployment d;
    size_t left = 0, asked;

    (void)state;
    deploy(&d, true);
    options.store = &d.trouble.store;
    assert_int_equal(kz_process_open(&options, &died, NULL), KZ_OK);
    for (size_t i = 0; i < 300; i++) {
        struct kz_intake_item *item = rig_item(&stream.events[i]);

        assert_int_equal(kz_process_events(died, &item, 1, &outcome, NULL), KZ_OK);
        left += outcome.request_count;
        free(item);
    }
    kz_process_close(died);
    assert_true(left > 50 && outbox_count(&d) == left);
    open_role(&d);
    /* Its messages come again, too: nothing is asked twice because of that. */
    await_acknowledged(&d, publish_stream(&d, &stream, 1));
    for (int64_t until_ms = kz_mono_ms() + WAIT_MS; outbox_count(&d) && kz_mono_ms() < until_ms;)
        usleep(10000);
    assert_int_equal(outbox_count(&d), 0);
    pull_requests(&d, &lines, &asked);
    assert_int_equal(asked, left);
    rig_lines_done(&lines);
    withdraw(&d);
    free(stream.events);
}

static struct kz_bus_delivery *pull_dead(struct deployment *d)
{
    struct kz_bus_delivery *delivery;
    size_t count;

    assert_int_equal(d->bus->ops->pull(d->dead, &delivery, 1, WAIT_MS, &count, NULL), KZ_OK);
    assert_int_equal(count, 1);
    return delivery;
}

static void assert_dead(struct deployment *d, const char *data, const char *reason)
{
    struct kz_bus_delivery *dead = pull_dead(d);
    struct kz_str why = kz_attribute_get(
            dead->attributes, dead->attribute_count, KZ_ATTRIBUTE_REASON);

    assert_true(kz_str_is(dead->data, data));
    if (!why.size || !memmem(why.ptr, why.size, reason, strlen(reason)))
        fail_msg("\"" KZ_STR_FMT "\" does not say \"%s\"", KZ_STR_ARG(why), reason);
    assert_true(
            kz_str_is(kz_attribute_get(dead->attributes, dead->attribute_count, KZ_ATTRIBUTE_TOPIC),
                    "events"));
    d->bus->ops->ack(d->dead, &dead, 1);
}

static void what_is_no_message_of_events_goes_to_the_dead_topic_with_its_reason(void **state)
{
    static const struct kz_attribute newer = {
            {KZ_ATTRIBUTE_FORMAT, sizeof(KZ_ATTRIBUTE_FORMAT) - 1}, {"7", 1}};
    struct deployment d;

    (void)state;
    deploy(&d, false);
    open_role(&d);
    publish(&d, KZ_STR("no JSON"), "", NULL, 0);
    assert_dead(&d, "no JSON", "byte 1");
    publish(&d, KZ_STR("{\"user_id\":\"u\",\"name\":\"n\"}"), "", &collected, 1);
    assert_dead(&d, "{\"user_id\":\"u\",\"name\":\"n\"}", "received_at");
    publish(&d, KZ_STR("{}"), "", &newer, 1);
    assert_dead(&d, "{}", "format 7");
    await_acknowledged(&d, 3 + 3); /* theirs, and ours of the dead ones */
    withdraw(&d);
}

static void a_foreign_publisher_is_understood_and_what_is_wrong_with_one_event_is_its_own(
        void **state)
{
    struct kz_store_user user = {
            .owner = kz_owner_hash((struct kz_user_key){'u', KZ_STR("ada")}, 0)};
    struct kz_pipeline_counters counters = {0};
    struct kz_buf letters = {0}, bytes = {0};
    struct deployment d;
    size_t count;

    (void)state;
    deploy(&d, false);
    open_role(&d);
    for (int twice = 0; twice < 2; twice++)
        publish(&d,
                KZ_STR("[{\"event_id\":\"f1\",\"user_id\":\"ada\",\"name\":\"view\",\"props\":{"
                       "\"price\":5}},"
                       "{\"user_id\":\"ada\",\"name\":5},{\"user_id\":\"bob\",\"name\":\"cart\"}]"),
                "", NULL, 0);
    await_acknowledged(&d, 2);
    kz_role_process.counters(d.role, &counters);
    /* Bob's has no id: each message made it one of its own. */
    assert_int_equal(counters.events_accepted_total, 3);
    assert_int_equal(counters.events_duplicate_total, 1);
    assert_int_equal(d.memory->ops->letters(d.memory, 0, 10, &letters, &count, NULL), KZ_OK);
    assert_true(count >= 1 && count <= 2);
    assert_int_equal(d.memory->ops->users(d.memory, &user, 1, &bytes, NULL), KZ_OK);
    assert_true(user.state.size > 0);
    kz_buf_done(&letters);
    kz_buf_done(&bytes);
    withdraw(&d);
}

/* A store that is away: told to stop, the role gives back what it holds within its time, and another takes
 * all of it. */
static void what_is_held_when_it_has_to_stop_is_taken_by_another(void **state)
{
    struct rig_stream stream = rig_stream(43, EVENTS, USERS, false);
    struct kz_pipeline_counters counters = {0};
    struct kz_role_backlog backlog;
    struct deployment d;
    uint64_t messages;
    int64_t until_ms;

    (void)state;
    deploy(&d, true);
    __atomic_store_n(&d.trouble.fail, KZ_UNAVAILABLE, __ATOMIC_RELEASE);
    open_role(&d);
    messages = publish_stream(&d, &stream, 1);
    until_ms = kz_mono_ms() + WAIT_MS;
    do
        kz_role_process.backlog(d.role, &backlog);
    while (backlog.messages < messages && kz_mono_ms() < until_ms);
    assert_int_equal(backlog.messages, messages);
    assert_true(backlog.oldest_ms > 0);
    kz_role_process.stop(d.role, kz_mono_ms() + 50);
    until_ms = kz_mono_ms() + WAIT_MS;
    while (!kz_role_process.stopped(d.role) && kz_mono_ms() < until_ms)
        usleep(1000);
    assert_true(kz_role_process.stopped(d.role)); /* the store would have it wait for ever */
    kz_role_process.close(d.role);
    assert_int_equal(acknowledged(&d), 0);
    __atomic_store_n(&d.trouble.fail, KZ_OK, __ATOMIC_RELEASE);
    open_role(&d);
    await_acknowledged(&d, messages);
    kz_role_process.counters(d.role, &counters);
    assert_true(counters.events_accepted_total + counters.events_duplicate_total == EVENTS);
    withdraw(&d);
    free(stream.events);
}

struct said {
    char text[2000];
};

static void say(
        void *to, enum kz_severity severity, const char *what, const char *why, const char *remedy)
{
    struct said *said = to;
    size_t used = strlen(said->text);

    (void)severity, (void)remedy;
    snprintf(said->text + used, sizeof(said->text) - used, "%s: %s\n", what, why);
}

/* What somebody has to mend, or the service has to get over, costs nothing but time; and it is said. */
static void events_wait_for_a_store_that_asks_for_less_or_forbids(void **state)
{
    static const enum kz_code codes[] = {KZ_LIMIT, KZ_FORBIDDEN, KZ_NOT_FOUND};
    struct rig_stream stream = rig_stream(44, 600, USERS, false);

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(codes); i++) {
        struct kz_pipeline_counters counters = {0};
        struct said said = {""};
        struct kz_buf metrics = {0};
        struct deployment d;
        uint64_t messages;
        int64_t until_ms = kz_mono_ms() + WAIT_MS;

        deploy(&d, true);
        __atomic_store_n(&d.trouble.fail, codes[i], __ATOMIC_RELEASE);
        open_role(&d);
        messages = publish_stream(&d, &stream, 1);
        while (!strstr(said.text, codes[i] == KZ_LIMIT ? "slowed down" : "events wait") &&
                kz_mono_ms() < until_ms) {
            said.text[0] = '\0';
            kz_role_process.problems(d.role, say, &said);
            usleep(200);
        }
        assert_non_null(strstr(said.text, "so it was told"));
        kz_role_process.metrics(d.role, &metrics);
        kz_buf_char(&metrics, '\0');
        if (codes[i] == KZ_LIMIT)
            assert_null(strstr(metrics.data, "kizashi_process_slowed_total 0\n"));
        assert_non_null(strstr(metrics.data, "kizashi_process_dead_total 0\n"));
        assert_int_equal(acknowledged(&d), 0);
        __atomic_store_n(&d.trouble.fail, KZ_OK, __ATOMIC_RELEASE);
        await_acknowledged(&d, messages);
        kz_role_process.counters(d.role, &counters);
        assert_int_equal(counters.events_accepted_total + counters.events_duplicate_total, 600);
        kz_buf_done(&metrics);
        withdraw(&d);
    }
    free(stream.events);
}

/* On our clock: a delay that is over is asked about without another event. */
static void a_timer_that_is_due_fires_once_beside_another_replica(void **state)
{
    struct rig_event e[3] = {{.user_id = "ada",
                                     .event_id = "t1",
                                     .name = "view",
                                     .props = "{\"price\": 1, \"item\": \"x\"}"},
            {.user_id = "ada",
                    .event_id = "t2",
                    .name = "view",
                    .props = "{\"price\": 1, \"item\": \"x\"}"},
            {.user_id = "ada",
                    .event_id = "t3",
                    .name = "cart",
                    .props = "{\"price\": 1, \"item\": \"x\"}"}};
    struct rig_stream stream = {e, 3};
    struct kz_role *second;
    struct rig_lines lines = {0};
    struct deployment d;
    int64_t until_ms;
    struct kz_pipeline_counters counters = {0};
    size_t asked;

    (void)state;
    for (int i = 0; i < 3; i++) /* the delay of 2 minutes ends in half a second */
        e[i].ts_ms = kz_clock_ms() - 2 * MINUTE + 500 - 3 + i;
    deploy(&d, false);
    open_role(&d);
    assert_int_equal(kz_role_process.open(&d.env, &second, NULL), KZ_OK);
    await_acknowledged(&d, publish_stream(&d, &stream, 1));
    until_ms = kz_mono_ms() + WAIT_MS;
    do {
        usleep(2000);
        counters = (struct kz_pipeline_counters){0};
        kz_role_process.counters(d.role, &counters);
        kz_role_process.counters(second, &counters);
    } while (!counters.timers_fired_total && kz_mono_ms() < until_ms);
    assert_int_equal(counters.timers_fired_total, 1);
    while (outbox_count(&d) && kz_mono_ms() < until_ms)
        usleep(2000);
    pull_requests(&d, &lines, &asked);
    assert_int_equal(asked, 2); /* "abandoning" asks both models */
    rig_lines_done(&lines);
    kz_role_process.close(second);
    withdraw(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(every_message_twice_asks_what_the_embedded_pipeline_asks),
            cmocka_unit_test(what_was_committed_and_not_published_is_published_by_another),
            cmocka_unit_test(what_is_no_message_of_events_goes_to_the_dead_topic_with_its_reason),
            cmocka_unit_test(
                    a_foreign_publisher_is_understood_and_what_is_wrong_with_one_event_is_its_own),
            cmocka_unit_test(what_is_held_when_it_has_to_stop_is_taken_by_another),
            cmocka_unit_test(events_wait_for_a_store_that_asks_for_less_or_forbids),
            cmocka_unit_test(a_timer_that_is_due_fires_once_beside_another_replica),
    };

    kz_diag_set(KZ_DIAG_ERROR, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
