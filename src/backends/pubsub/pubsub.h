/* backends/pubsub/pubsub.h -- contract/bus.h on Google Cloud Pub/Sub.
 *
 * Topics are kizashi-<project>-<suffix>, subscriptions kizashi-<project>-<suffix>-<name>; a
 * subscription of one process ends with a random number and is deleted when it is closed, or by
 * Pub/Sub a day after its process died. What foreign programs may publish and read is in
 * docs/pubsub-format.md.
 *
 * Threads  any; those of the bus are in README.md.
 * Life     the kz_rpc outlives it; sources are closed before it.
 * Fails    KZ_NOT_FOUND names what is missing and the command that makes it, KZ_FORBIDDEN the role
 *          that is missing; KZ_UNAVAILABLE, KZ_TIMEOUT, KZ_LIMIT, KZ_OVERLOADED: try later.
 */
#pragma once

#include "contract/bus.h"
#include "rpc/rpc.h"

struct kz_pubsub_options {
    struct kz_rpc *rpc;
    const char *gcp_project; /* of Google Cloud */
    const char *prefix;      /* put before every name; NULL or "": none */
    const char *project;     /* Kizashi's */
    const char *emulator;    /* "localhost:8085"; NULL: PUBSUB_EMULATOR_HOST where it is set */
    const char *endpoint;    /* NULL: pubsub.googleapis.com:443. A key's order holds among those who
                              * publish in one region: name it here where they are in several */
    const struct kz_bus_subscription *subscriptions; /* besides KZ_SUBSCRIPTIONS */
    size_t subscription_count;
    unsigned attempts_max;     /* 5 to 100; 0: KZ_BUS_ATTEMPTS_MAX. A setting of create() */
    unsigned connection_count; /* 0: 2 */
    int64_t timeout_ms;     /* how long to try before a publish or a request has failed; 0: 30 s */
    int64_t batch_wait_ms;  /* a message waits for others that long; 0: 5; -1: not at all */
    size_t batch_max_bytes; /* sent at once when there are so many of a key; 0: 256 KiB */
    size_t publishing_max_bytes; /* taken and not done; KZ_OVERLOADED over it; 0: 64 MiB */
};

/* Strings are copied. Connects with the first call; freed by its ops' close(). */
KZ_MUST_USE enum kz_code kz_pubsub_open(
        const struct kz_pubsub_options *options, struct kz_bus **ret_bus, struct kz_err *err);
