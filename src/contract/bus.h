/* contract/bus.h -- messages between roles, whoever carries them.
 *
 * Delivery is at least once: whoever takes a message must stand its coming again, and a message is
 * gone only once it has been acknowledged. Messages of one key come mostly in the order they were
 * published; nothing may lean on it.
 *
 * Threads  publish, ack, nack: any. pull: one at a time a source. Callbacks come on a thread of the
 *          bus and must not block.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

/* X(NAME, "suffix", what): topics of a project, kizashi-<project>-<suffix>. */
#define KZ_TOPICS(X)                                                                               \
    X(EVENTS, "events", "what was collected, for process")                                         \
    X(REQUESTS, "requests", "models are asked, for infer")                                         \
    X(NEWS, "news", "predictions and decisions as they happen, for streams")                       \
    X(ACTIONS, "actions", "what `deliver: pubsub` delivers, for others")                           \
    X(DEAD, "dead", "messages that could not be processed, with the reason")

enum kz_topic {
#define X(name, suffix, what) KZ_TOPIC_##name,
    KZ_TOPICS(X)
#undef X
            KZ_TOPIC_COUNT
};
const char *kz_topic_suffix(enum kz_topic topic); /* "events" */
const char *kz_topic_what(enum kz_topic topic);

/* X(TOPIC, "name", ordered, what): subscriptions every project has,
 * kizashi-<project>-<topic>-<name>. A topic keeps nothing: what is published goes to the
 * subscriptions there are then. Requests have one a model (kz_role_subscriptions()). */
#define KZ_SUBSCRIPTIONS(X)                                                                        \
    X(EVENTS, "process", true, "events not stored yet")                                            \
    X(DEAD, "kept", false, "dead messages, until somebody has looked at them")

/* One that a project has besides, for a part of a topic's messages. */
struct kz_bus_subscription {
    enum kz_topic topic;
    const char *name;
    bool ordered;
    const char *attribute, *value; /* only messages that have it so; NULL: all */
};

enum {
    KZ_ATTRIBUTES_MAX = 16, /* those beyond it are not shown */
    KZ_BUS_MESSAGE_SIZE_MAX = 9 << 20,
    KZ_BUS_ATTEMPTS_MAX = 100, /* then a message goes from its subscription to KZ_TOPIC_DEAD */
};

struct kz_attribute {
    struct kz_str name, value;
};

struct kz_bus_message {
    struct kz_str data;
    struct kz_str key; /* ordering key (lane); empty: none */
    const struct kz_attribute *attributes;
    size_t attribute_count;
};

/* One that came in; borrowed until ack() or nack(). */
struct kz_bus_delivery {
    struct kz_str id; /* the bus's own, unique for the topic */
    struct kz_str data;
    struct kz_str key;
    struct kz_attribute attributes[KZ_ATTRIBUTES_MAX];
    size_t attribute_count;
    unsigned attempt; /* 1: for the first time; 0: the bus does not say */
    int64_t published_ms;
};

struct kz_bus_pull_options {
    enum kz_topic topic;
    const char *name;      /* of the subscription, "process": shared by all who give the same; NULL:
                            * one of this process's own, which sees what is published from now on and
                            * goes when closed */
    uint32_t messages_max; /* given by pull() and not acknowledged yet; 0: 1,000 */
    uint64_t bytes_max;    /* of the same; 0: 64 MiB; a larger message comes alone */
    int64_t lease_ms;      /* of a process that died its messages come again after it; 0: 60 s, at
                            * least 10 s */
};
/* The defaults for what is 0. */
struct kz_bus_pull_options kz_bus_pull_options(const struct kz_bus_pull_options *options);

struct kz_bus_stats {
    uint64_t published, publish_failures, publish_retries, bytes_published;
    uint64_t received, acknowledged, rejected /* nack */, redelivered, leases_extended, reconnects;
    uint64_t publishing;            /* messages taken by publish() and not done, now */
    uint64_t held;                  /* received and not acknowledged, now */
    int64_t oldest_ms;              /* when the oldest of those was published; 0: none is held */
    bool throttled;                 /* the service asks for less: RESOURCE_EXHAUSTED */
    char problem[KZ_PROBLEM_BYTES]; /* what is wrong now; empty: nothing */
};

struct kz_bus {
    const struct kz_bus_ops *ops;
};
struct kz_bus_source { /* a subscription being pulled */
    const struct kz_bus_ops *ops;
};

struct kz_bus_ops {
    const char *name; /* "memory", "pubsub" */
    /* Publishes in the order given for equal keys; what it is given is copied within the call.
     * `done` comes once, when all are kept by the bus or one could not be (then none may be taken
     * as published), and never within the call. Where the call itself fails nothing was taken and
     * there is no `done`: KZ_OVERLOADED, too much is under way; KZ_TOO_LARGE, KZ_INVALID, a message
     * cannot be sent as it is. `done` may be NULL. */
    enum kz_code (*publish)(struct kz_bus *bus, enum kz_topic topic,
            const struct kz_bus_message *messages, size_t count,
            void (*done)(void *arg, enum kz_code code, const struct kz_err *err), void *arg,
            struct kz_err *err);
    /* Sends what waits to be batched, now. */
    void (*flush)(struct kz_bus *bus);
    enum kz_code (*open_source)(struct kz_bus *bus, const struct kz_bus_pull_options *options,
            struct kz_bus_source **ret_source, struct kz_err *err);
    /* Up to `max` messages: waits up to `wait_ms` for the first, gives what is there. None in time:
     * KZ_OK and 0. Leases are kept up until ack() or nack(). Errors that pass are waited out and
     * shown in stats; what somebody has to mend is returned, no sooner than after `wait_ms`
     * (KZ_NOT_FOUND, KZ_FORBIDDEN), and pull() goes on by itself once it is mended. */
    enum kz_code (*pull)(struct kz_bus_source *source, struct kz_bus_delivery **deliveries,
            size_t max, int64_t wait_ms, size_t *ret_count, struct kz_err *err);
    void (*ack)(struct kz_bus_source *source, struct kz_bus_delivery **deliveries, size_t count);
    /* To come again, soon. */
    void (*nack)(struct kz_bus_source *source, struct kz_bus_delivery **deliveries, size_t count);
    /* Ends the pull, sends the last acknowledgements; what is held comes again elsewhere, and its
     * deliveries are gone. */
    void (*close_source)(struct kz_bus_source *source);
    /* Whether topics and subscriptions are there: KZ_NOT_FOUND names the one that is not and the
     * command that makes it. The stats say so, too, until all was found well; then they name no
     * problem of publishing any more. */
    enum kz_code (*check)(struct kz_bus *bus, struct kz_err *err);
    /* Makes what is missing; says each thing made through `say` (may be NULL). */
    enum kz_code (*create)(struct kz_bus *bus, void (*say)(void *arg, const char *line), void *arg,
            struct kz_err *err);
    void (*stats)(struct kz_bus *bus, struct kz_bus_stats *ret_stats);
    /* Sources are closed by then. Waits for what is being published, some seconds at most; what is
     * left is done with KZ_UNAVAILABLE. */
    void (*close)(struct kz_bus *bus);
};

/* For backends: whether publish() may take these (KZ_INVALID, KZ_TOO_LARGE). */
KZ_MUST_USE enum kz_code kz_bus_messages_check(
        const struct kz_bus_message *messages, size_t count, struct kz_err *err);
