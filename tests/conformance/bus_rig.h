/* tests/conformance/bus_rig.h -- a bus for each test, in memory or on Pub/Sub's emulator, and the
 * few calls every test makes: publish and wait, pull until so many are there, by a deadline.
 */
#pragma once

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "backends/memory/bus.h"
#include "backends/pubsub/pubsub.h"
#include "sys/clock.h"
#include "sys/random.h"
#include "sys/thread.h"

enum {
    DEADLINE_MS = 120000, /* for what has to happen: a busy machine takes its time */
    NOTHING_MS = 1500,    /* how long nothing has to come where nothing may */
    ATTEMPTS_MAX = 5,     /* the least Pub/Sub takes */
    SENT_MAX_BYTES = 4 << 20,
};

struct rig {
    bool is_pubsub;
    char gcp_project[32]; /* of this test alone: the emulator takes any */
    struct kz_rpc *rpc;
    struct kz_bus *bus; /* NULL: the emulator is not there */
};

#define X(topic, name, ordered, what) +1
enum { RIG_STANDARD = 0 KZ_SUBSCRIPTIONS(X) };
#undef X
static const struct kz_bus_subscription rig_subscriptions[] = {
        {KZ_TOPIC_REQUESTS, "infer", false, NULL, NULL},
        {KZ_TOPIC_REQUESTS, "special", false, "model", "special"},
};

/* -- opening -- */

static struct kz_pubsub_options rig_options(const struct rig *rig)
{
    return (struct kz_pubsub_options){.rpc = rig->rpc,
            .gcp_project = rig->gcp_project,
            .project = "shop",
            .subscriptions = rig_subscriptions,
            .subscription_count = KZ_ARRAY_COUNT(rig_subscriptions),
            .attempts_max = ATTEMPTS_MAX};
}

static struct rig *rig_new(bool is_pubsub)
{
    struct rig *rig = kz_calloc(1, sizeof(*rig));
    uint64_t random;

    kz_random_bytes(&random, sizeof(random));
    snprintf(rig->gcp_project, sizeof(rig->gcp_project), "t%016llx", (unsigned long long)random);
    rig->is_pubsub = is_pubsub;
    return rig;
}

static void rig_must(enum kz_code code, const struct kz_err *err)
{
    if (code != KZ_OK)
        fail_msg("%s: %s (%s)", kz_code_name(code), err->message, err->hint);
}

static KZ_UNUSED int rig_open_memory(void **state)
{
    const struct kz_memory_bus_options options = {.subscriptions = rig_subscriptions,
            .subscription_count = KZ_ARRAY_COUNT(rig_subscriptions),
            .waiting_max_bytes = SENT_MAX_BYTES,
            .attempts_max = ATTEMPTS_MAX};
    struct rig *rig = rig_new(false);
    struct kz_err err;

    rig_must(kz_memory_bus_open(&options, &rig->bus, &err), &err);
    *state = rig;
    return 0;
}

/* Without topics and subscriptions. */
static KZ_UNUSED int rig_open_pubsub_bare(void **state)
{
    const char *ci = getenv("CI");
    struct rig *rig = rig_new(true);
    struct kz_pubsub_options options;
    struct kz_err err;

    *state = rig;
    if (!getenv("PUBSUB_EMULATOR_HOST")) {
        if (ci && strcmp(ci, "true") == 0)
            fail_msg("PUBSUB_EMULATOR_HOST is not set");
        return 0;
    }
    rig_must(kz_rpc_open(&rig->rpc, &err), &err);
    options = rig_options(rig);
    rig_must(kz_pubsub_open(&options, &rig->bus, &err), &err);
    return 0;
}

static KZ_UNUSED int rig_open_pubsub(void **state)
{
    struct kz_err err;
    struct rig *rig;

    if (rig_open_pubsub_bare(state) != 0)
        return -1;
    rig = *state;
    if (rig->bus)
        rig_must(rig->bus->ops->create(rig->bus, NULL, NULL, &err), &err);
    return 0;
}

/* Sources that are open: those a failed test has left behind are closed with its rig. */
static struct kz_bus_source *rig_sources[16];

static void rig_opened(struct kz_bus_source *source)
{
    size_t i = 0;

    while (rig_sources[i])
        assert_true(++i < KZ_ARRAY_COUNT(rig_sources));
    rig_sources[i] = source;
}

static KZ_UNUSED void rig_end(struct kz_bus_source *source)
{
    for (size_t i = 0; i < KZ_ARRAY_COUNT(rig_sources); i++)
        if (rig_sources[i] == source)
            rig_sources[i] = NULL;
    source->ops->close_source(source);
}

static KZ_UNUSED int rig_close(void **state)
{
    struct rig *rig = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(rig_sources); i++)
        if (rig_sources[i])
            rig_end(rig_sources[i]);
    if (rig->bus)
        rig->bus->ops->close(rig->bus);
    if (rig->rpc)
        kz_rpc_close(rig->rpc);
    free(rig);
    return 0;
}

/* The test's rig, or the test ends here, skipped by its name. */
#define RIG(state)                                                                                 \
    ({                                                                                             \
        struct rig *rig_ = *(state);                                                               \
        if (!rig_->bus)                                                                            \
            skip();                                                                                \
        rig_;                                                                                      \
    })

/* -- publishing -- */

struct outcome { /* of one publish() */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned calls;
    enum kz_code code;
    struct kz_err err;
};

static void outcome_init(struct outcome *outcome)
{
    pthread_condattr_t attr;

    memset(outcome, 0, sizeof(*outcome));
    pthread_mutex_init(&outcome->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&outcome->changed, &attr);
    pthread_condattr_destroy(&attr);
}

static void outcome_done(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct outcome *outcome = arg;

    pthread_mutex_lock(&outcome->lock);
    outcome->calls++;
    outcome->code = code;
    if (err)
        outcome->err = *err;
    pthread_cond_signal(&outcome->changed);
    pthread_mutex_unlock(&outcome->lock);
}

static enum kz_code outcome_wait(struct outcome *outcome)
{
    int64_t until_ms = kz_mono_ms() + 3 * DEADLINE_MS;
    struct timespec until = {until_ms / 1000, until_ms % 1000 * 1000000};
    enum kz_code code;

    pthread_mutex_lock(&outcome->lock);
    while (!outcome->calls &&
            pthread_cond_timedwait(&outcome->changed, &outcome->lock, &until) == 0)
        ;
    assert_int_equal(outcome->calls, 1);
    code = outcome->code;
    pthread_mutex_unlock(&outcome->lock);
    return code;
}

static void outcome_free(struct outcome *outcome)
{
    pthread_mutex_destroy(&outcome->lock);
    pthread_cond_destroy(&outcome->changed);
}

/* Publishes and waits until it is kept. */
static KZ_UNUSED void rig_publish(struct kz_bus *bus, enum kz_topic topic,
        const struct kz_bus_message *messages, size_t count)
{
    struct outcome outcome;
    struct kz_err err;

    outcome_init(&outcome);
    rig_must(bus->ops->publish(bus, topic, messages, count, outcome_done, &outcome, &err), &err);
    bus->ops->flush(bus);
    rig_must(outcome_wait(&outcome), &outcome.err);
    outcome_free(&outcome);
}

static KZ_UNUSED void rig_publish_text(struct kz_bus *bus, enum kz_topic topic, const char *text)
{
    rig_publish(bus, topic, &(struct kz_bus_message){.data = kz_str(text)}, 1);
}

/* -- pulling -- */

static KZ_UNUSED struct kz_bus_source *rig_source_with(
        struct kz_bus *bus, const struct kz_bus_pull_options *options)
{
    struct kz_bus_source *source = NULL;
    struct kz_err err;

    rig_must(bus->ops->open_source(bus, options, &source, &err), &err);
    rig_opened(source);
    return source;
}

static KZ_UNUSED struct kz_bus_source *rig_source(
        struct kz_bus *bus, enum kz_topic topic, const char *name)
{
    return rig_source_with(bus, &(struct kz_bus_pull_options){.topic = topic, .name = name});
}

/* Pulls until `count` are there, or `wait_ms` is over; gives how many there are. */
static KZ_UNUSED size_t rig_pull(struct kz_bus_source *source, struct kz_bus_delivery **deliveries,
        size_t count, int64_t wait_ms)
{
    int64_t until_ms = kz_mono_ms() + wait_ms;
    size_t have = 0;

    while (have < count && kz_mono_ms() < until_ms) {
        struct kz_err err;
        size_t more = 0;

        rig_must(source->ops->pull(source, deliveries + have, count - have,
                         KZ_MAX(until_ms - kz_mono_ms(), (int64_t)0), &more, &err),
                &err);
        have += more;
    }
    return have;
}

static KZ_UNUSED struct kz_bus_delivery *rig_pull_one(struct kz_bus_source *source)
{
    struct kz_bus_delivery *delivery = NULL;

    assert_int_equal(rig_pull(source, &delivery, 1, DEADLINE_MS), 1);
    return delivery;
}

static KZ_UNUSED void rig_expect_nothing(struct kz_bus_source *source)
{
    struct kz_bus_delivery *delivery = NULL;

    if (rig_pull(source, &delivery, 1, NOTHING_MS))
        fail_msg("\"" KZ_STR_FMT "\" came, attempt %u", KZ_STR_ARG(delivery->data),
                delivery->attempt);
}

static KZ_UNUSED void rig_ack(struct kz_bus_source *source, struct kz_bus_delivery *delivery)
{
    source->ops->ack(source, &delivery, 1);
}

/* The decimal number the data begins with behind `*at`, which moves behind it and a blank. */
static KZ_UNUSED unsigned rig_number(const struct kz_bus_delivery *delivery, size_t *at)
{
    unsigned number = 0;

    assert_true(*at < delivery->data.size);
    for (; *at < delivery->data.size && delivery->data.ptr[*at] != ' '; (*at)++) {
        assert_in_range(delivery->data.ptr[*at], '0', '9');
        number = number * 10 + (unsigned)(delivery->data.ptr[*at] - '0');
    }
    (*at)++;
    return number;
}
