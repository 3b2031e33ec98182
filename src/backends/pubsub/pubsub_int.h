/* backends/pubsub/pubsub_int.h -- what the files of this folder share: names, calls, the publisher,
 * sources and their leases.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "backends/pubsub/pubsub.h"
#include "rpc/patience.h"
#include "rpc/proto/pubsub.pb-c.h"
#include "sys/thread.h"

#define KZ_PUBSUB(name) Google__Pubsub__V1__##name

/* ---- the bus (pubsub.c) ------------------------------------------------------------------------
 */

struct kz_ps_topic {
    char *id;                    /* kizashi-shop-events */
    char *name;                  /* projects/P/topics/kizashi-shop-events */
    char *routing;               /* topic=... */
    struct kz_rpc_health health; /* of publishing to it */
};

/* One that is there for good. */
struct kz_ps_subscription {
    enum kz_topic topic;
    char *short_name; /* process */
    char *id;         /* kizashi-shop-events-process */
    char *name;       /* projects/P/subscriptions/... */
    bool ordered;
    char *attribute, *value; /* NULL: no filter */
    char *filter;            /* the same as Pub/Sub has it; "": none */
};

struct kz_ps_publisher;
struct kz_ps_source;
TAILQ_HEAD(kz_ps_sources, kz_ps_source);

struct kz_ps {
    struct kz_bus base;
    uint32_t magic;
    char *gcp_project;
    char *id_prefix; /* kizashi-shop- */
    struct kz_ps_topic topics[KZ_TOPIC_COUNT];
    struct kz_rpc_health there; /* what check() found; publishing cannot tell of a subscription */
    struct kz_ps_subscription *subscriptions;
    size_t subscription_count;
    unsigned attempts_max;
    int64_t timeout_ms;
    bool is_emulator;
    struct kz_rpc_channel *channel;
    struct kz_ps_publisher *publisher;

    pthread_mutex_t lock; /* of `sources` */
    struct kz_ps_sources sources;

    _Atomic uint64_t published, publish_failures, publish_retries, bytes_published;
    _Atomic uint64_t received, acknowledged, rejected, redelivered, leases_extended, reconnects;
};
enum { KZ_PS_MAGIC = 0x70737562 };

static inline struct kz_ps *kz_ps_of(struct kz_bus *bus)
{
    struct kz_ps *ps = KZ_CONTAINER_OF(bus, struct kz_ps, base);

    KZ_CHECK_MAGIC(ps, KZ_PS_MAGIC);
    return ps;
}

char *kz_ps_text(const char *fmt, ...) KZ_PRINTF(1, 2) __attribute__((malloc, returns_nonnull));
/* With its clock CLOCK_MONOTONIC. */
void kz_ps_cond_init(pthread_cond_t *cond);
/* false: `until_ms` (monotonic) is past. */
bool kz_ps_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t until_ms);

/* Says of `err` which resource it is about ("topic", "kizashi-shop-events") and what to do; `role`
 * is what lacks where it is KZ_FORBIDDEN. Returns `code`. */
enum kz_code kz_ps_failed(const struct kz_ps *ps, enum kz_code code, const char *kind,
        const char *id, const char *role, struct kz_err *err);
/* Message and remedy, for stats. */
void kz_ps_unwell(struct kz_rpc_health *health, const struct kz_err *err);

/* ---- topics and subscriptions (schema.c) ----------------------------------------------------- */

enum kz_code kz_ps_check(struct kz_bus *bus, struct kz_err *err);
enum kz_code kz_ps_create(struct kz_bus *bus, void (*say)(void *arg, const char *line), void *arg,
        struct kz_err *err);
/* A subscription of one process. That it is there already is no failure. */
enum kz_code kz_ps_create_own(struct kz_ps *ps, enum kz_topic topic, const char *name,
        int64_t timeout_ms, struct kz_err *err);
enum kz_code kz_ps_delete_own(struct kz_ps *ps, const char *name, struct kz_err *err);

/* ---- publishing (publish.c) ------------------------------------------------------------------ */

enum kz_code kz_ps_publisher_open(struct kz_ps *ps, const struct kz_pubsub_options *options,
        struct kz_ps_publisher **ret_publisher, struct kz_err *err);
/* Sends what waits, waits for it some seconds, and gives up the rest but for calls under way: those
 * end with the channel. */
void kz_ps_publisher_stop(struct kz_ps_publisher *publisher);
/* After the channel. */
void kz_ps_publisher_free(struct kz_ps_publisher *publisher);
enum kz_code kz_ps_publish(struct kz_bus *bus, enum kz_topic topic,
        const struct kz_bus_message *messages, size_t count,
        void (*done)(void *arg, enum kz_code code, const struct kz_err *err), void *arg,
        struct kz_err *err);
void kz_ps_flush(struct kz_bus *bus);
uint64_t kz_ps_publishing(struct kz_ps_publisher *publisher); /* messages */

/* ---- pulling (source.c) ---------------------------------------------------------------------- */

/* A message that was received and neither acknowledged nor rejected: `ready` until pull() gives it,
 * then `given`. */
struct kz_ps_held {
    uint32_t magic;
    struct kz_bus_delivery delivery;
    KZ_PUBSUB(ReceivedMessage) * message;
    unsigned life;          /* of its subscription, as in its source */
    int64_t lease_until_ms; /* monotonic; as asked for */
    TAILQ_ENTRY(kz_ps_held) place;
};
TAILQ_HEAD(kz_ps_held_list, kz_ps_held);

/* Ids of acknowledgements that wait to be sent together; strings are owned. */
struct kz_ps_ids {
    char **items;
    size_t count, capacity;
    int64_t due_ms; /* when to send them, monotonic */
};

/*                 stream                pull()               ack(), nack()
 *     Pub/Sub ------------> ready ------------> given ----------------------> acks, nacks
 *                             |                   |        close_source()        |
 *                             +-------------------+----------> nacks             v
 *                                                                             Pub/Sub
 */
struct kz_ps_source {
    struct kz_bus_source base;
    uint32_t magic;
    struct kz_ps *ps;
    struct kz_bus_pull_options options;
    char *id, *name, *routing;
    char client_id[17];
    bool is_own;
    const struct kz_ps_subscription *subscription; /* NULL: one that is not known here */
    TAILQ_ENTRY(kz_ps_source) place;               /* in ps->sources */
    struct kz_rpc_health health;
    struct kz_thread reader, keeper;

    pthread_mutex_t lock;   /* of what follows */
    pthread_cond_t arrived; /* for pull(): something is ready, or may be given again */
    pthread_cond_t room;    /* for the reader: less is held */
    pthread_cond_t work;    /* for the keeper */
    struct kz_ps_held_list ready, given;
    size_t ready_count, given_count;
    uint64_t ready_bytes, given_bytes;
    bool closing;
    struct kz_rpc_stream *opening; /* the reader's, while nothing bounds how long that takes */
    enum kz_code broken;           /* somebody has to mend it; KZ_OK: nobody */
    struct kz_err broken_err;

    /* Counts the lives of the subscription: ids of an earlier one mean nothing, or, in the
     * emulator, which numbers from 1 again, other messages. */
    unsigned life;
    struct kz_ps_ids acks, nacks; /* of this life */
    int64_t lease_scan_ms;        /* when to look at leases, monotonic */
    bool extend_all;              /* the last extension failed */
    unsigned calls;               /* under way */
    bool finish;                  /* the keeper: send everything, then end ... */
    int64_t finish_by_ms;         /* ... and try no more from then on, monotonic */
};
enum { KZ_PS_SOURCE_MAGIC = 0x70737372, KZ_PS_HELD_MAGIC = 0x70736865 };

enum kz_code kz_ps_open_source(struct kz_bus *bus, const struct kz_bus_pull_options *options,
        struct kz_bus_source **ret_source, struct kz_err *err);
enum kz_code kz_ps_pull(struct kz_bus_source *base, struct kz_bus_delivery **deliveries, size_t max,
        int64_t wait_ms, size_t *ret_count, struct kz_err *err);
void kz_ps_ack(struct kz_bus_source *base, struct kz_bus_delivery **deliveries, size_t count);
void kz_ps_nack(struct kz_bus_source *base, struct kz_bus_delivery **deliveries, size_t count);
void kz_ps_close_source(struct kz_bus_source *base);
/* What is held, and the publish time of the oldest of it (0: nothing). */
void kz_ps_source_held(struct kz_ps_source *source, uint64_t *ret_count, int64_t *ret_oldest_ms);

/* The thread that keeps a stream open and reads it (stream.c). */
void kz_ps_read(void *source);

/* ---- leases and acknowledgements (lease.c) --------------------------------------------------- */

/* The thread that sends them. */
void kz_ps_keep(void *source);
/* Under the source's lock. Takes the id out of `held` and frees it. */
void kz_ps_settle(struct kz_ps_source *source, struct kz_ps_held *held, bool acknowledge);
/* The subscription has another life: what is held can only be forgotten. */
void kz_ps_forget(struct kz_ps_source *source);
