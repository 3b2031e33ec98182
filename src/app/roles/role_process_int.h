/* app/roles/role_process_int.h -- the process role: EVENTS from the bus, in transactions into the store,
 * REQUESTS onto the bus.
 *
 *              .-> worker -> commit -> publish requests --(done)--> finisher: outbox, ack
 *     puller --+-> worker ...                 ^
 *              '-> worker ...                 |
 *     timers: due timers -> commit ------------'      what lies in the outbox for long -> publish
 *
 * Invariants
 *   W1  a message is acknowledged when all its events are committed (or kept as dead) and their
 *       requests were published; before that only given back.
 *   W2  messages of one lane go to one worker, in the order they came.
 *   W3  what cannot be processed is published to DEAD with the reason, then acknowledged.
 *
 * Threads  as drawn; `lock` guards what they share, each worker owns its engine.
 */
#pragma once

#include <pthread.h>

#include "app/roles/process.h"
#include "app/roles/role.h"
#include "base/arena.h"
#include "contract/shape.h"
#include "sys/thread.h"

enum {
    ROLE_PROCESS_MAGIC = 0x6b7a7072,
    WORKERS_MAX = 64,
    BATCH_EVENTS_MAX = 500,    /* of a transaction; KZ_STORE_ROWS_MAX leaves 12 rows to each */
    BATCH_BYTES_MAX = 8 << 20, /* of messages read for one */
    HELD_MESSAGES_MAX = 2000,
    HELD_BYTES_MAX = 64 << 20,
};

struct held { /* a message, from pull() to ack() */
    struct kz_bus_delivery *delivery;
    struct held *next;
};

struct held_list {
    struct held *first, **last;
    size_t count;
};

struct worker {
    struct role_process *role;
    struct kz_thread thread;
    struct kz_process *engine;
    struct kz_arena arena; /* of a batch: what messages were read into */
    struct kz_intake_item **items;
    size_t item_count, item_capacity;

    /* Under the role's lock. */
    pthread_cond_t wake;
    struct held_list queue;
    int64_t oldest_ms; /* of the batch at hand; 0 none */
    struct kz_pipeline_counters counters;
    uint64_t retries;
};

struct finish { /* a commit whose requests are being published */
    struct role_process *role;
    struct held *messages;             /* to be acknowledged; a list */
    struct kz_store_request *requests; /* without messages; [request_count] */
    size_t request_count;
    enum kz_code code; /* of the publishing */
    struct finish *next;
};

struct role_process {
    struct kz_role role;
    uint32_t magic;
    struct kz_role_env *env;
    struct kz_shaper *shaper;
    struct kz_bus_source *source;
    struct kz_thread puller, finisher, timers;
    struct worker workers[WORKERS_MAX];
    unsigned worker_count;
    struct worker timer_worker; /* no thread of its own: the timers' */

    pthread_mutex_t lock;
    pthread_cond_t finish_wake, timer_wake;
    bool stopping;  /* nothing new is pulled */
    bool giving_up; /* and what is held goes back */
    int64_t deadline_ms;
    size_t held;      /* messages not acknowledged yet */
    size_t running;   /* threads that have not ended */
    size_t finishing; /* commits whose requests are being published */
    struct finish *finished, **finished_last;
    int64_t watermark_ms; /* asked for by a message that waits; 0 none */
    struct held *watermark;
    int64_t quiet_since_ms; /* no message came since; kz_mono_ms() */
    int64_t slow_until_ms;  /* the store asked for less */
    char problem[200];
    struct {
        uint64_t messages, batches, dead, outbox, slowed, wrong_published;
    } counts;
};

/* role_process.c */
bool kz_role_process_giving_up(struct role_process *r);
void kz_role_process_problem(struct role_process *r, const char *what, const struct kz_err *err);
/* The calling thread is about to return. */
void kz_role_process_ended(struct role_process *r);
/* Sleeps for `ms`, or until the role gives up. */
void kz_role_process_sleep(struct role_process *r, int64_t ms);
/* The messages are done: acknowledged, or given back. */
void kz_role_process_release(struct role_process *r, struct held *messages, bool ack);

/* role_process_message.c */
/* Reads a message into the worker's items; KZ_INVALID, KZ_TOO_LARGE: never will be. */
KZ_MUST_USE enum kz_code kz_process_read_message(
        struct worker *w, const struct kz_bus_delivery *delivery, struct kz_err *err);
/* Onto the dead topic, until it is there. false: the role gives up. */
bool kz_process_bury(struct role_process *r, struct kz_str data, const struct kz_err *why);

/* role_process_publish.c */
/* Publishes what a transaction asks for, then acknowledges `messages` (taken). */
void kz_process_publish(
        struct role_process *r, const struct kz_process_outcome *outcome, struct held *messages);
void kz_process_finisher(void *role);
/* Requests that somebody committed and nobody is known to have published. */
void kz_process_sweep_outbox(struct role_process *r);

/* role_process_timers.c */
void kz_process_timer_loop(void *role);

/* role_process_worker.c */
void kz_process_worker_loop(void *worker);
/* What the engine counted, for everybody to see. */
void kz_process_worker_count(struct worker *w);
