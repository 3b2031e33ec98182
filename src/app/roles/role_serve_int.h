/* app/roles/role_serve_int.h -- what the files of the serve role share.
 *
 * serve/ answers on the loop's thread from a struct kz_query that must not block, and what is known lies
 * in the backends. So a request is prepared: a worker brings what it will ask for into a snapshot, and
 * the handler runs over that, on the loop, in one go. What changes something (an acknowledgement, a
 * word, an erasure) is begun by the handler as a change, and kz_query_ops.when_durable waits for it.
 *
 *     loop      prepare() ----> [jobs] ...... turn(): then() over the snapshot --> answer
 *     workers                    load   --> done                     change --> done --> answer
 *     loop      news <---- puller of NEWS      webhooks: role_serve_deliver.c
 *
 * Threads  `jobs` and `done` under the lock; a job is its worker's while it runs, else the loop's. All else
 *          is the loop's.
 */
#pragma once

#include <pthread.h>

#include "act/webhook.h"
#include "app/roles/role.h"
#include "app/roles/rowstate.h"
#include "sys/thread.h"

enum {
    SERVE_MAGIC_ROLE = 0x6b7a7372,
    SERVE_WORKERS = 8,
    SERVE_ROWS_MAX = KZ_SOURCES_MAX + 1,
    TOLD_MAX = 16384, /* pieces of news that are remembered */
    KNOWN_MAX = 4096, /* keys whose owner is remembered, for streams; a power of two */
};
#define CHANGE_BIT                                                                                 \
    (UINT64_C(1) << 63) /* a place that when_durable() waits for: no address has it */

struct role_serve;

struct job {
    struct role_serve *role;
    void (*run)(struct job *job);  /* on a worker */
    void (*done)(struct job *job); /* on the loop; frees */
    enum kz_code code;
    struct kz_err err;
    struct job *next;
};

struct job_list {
    struct job *first, **last;
    size_t count;
};

/* Records as a scan gives them; given away whole. */
struct gathered {
    bool there;
    struct kz_buf bytes; /* at multiples of 8 */
    struct kz_buf at;    /* size_t each: where they are in `bytes` */
    struct kz_buf lsns;  /* kz_lsn each */
    const struct kz_record **records;
    size_t count;
    bool truncated;
};
void kz_gathered_done(struct gathered *gathered);

struct snapshot {
    struct job job; /* first */
    struct kz_query_want want;
    char *id; /* what want.key points to */
    void (*then)(void *arg, enum kz_code code, const struct kz_err *err); /* the loop's */
    void *arg;
    struct snapshot *next, *prev; /* of role->preparing; the loop's */

    bool known; /* the store has the user */
    uint64_t owner;
    struct kz_views *views; /* that user and the id that was asked for */
    uint32_t user;
    struct kz_rowstate rows[SERVE_ROWS_MAX];
    struct kz_user_row raw[SERVE_ROWS_MAX];
    uint64_t row_owners[SERVE_ROWS_MAX];
    size_t row_count;
    struct gathered history[KZ_CHAIN_COUNT];
    struct kz_buf letters; /* DEADLETTER records at multiples of 8 */
    size_t letter_count;
    struct kz_buf stone;
    char *timed_event; /* what want.timed_event points to */
    uint64_t timed;    /* that event's seq; 0: it is not there */
    int64_t intake_ms; /* from its receipt in collect until its commit in process */
};

struct change {
    struct job job; /* first */
    uint64_t number;
    void (*then)(void *arg, enum kz_code code, const struct kz_err *err);
    void *arg;
    bool ended;
    uint64_t *ret_count; /* the call's; set before `then` */
    uint64_t count;
    struct change *next;

    /* What is to be done. */
    char verb[64], who[80];
    char *object; /* or the user's id */
    char kind;
    uint64_t owner, decision; /* of an erasure: its id */
    struct kz_buf record;     /* the DECISION */
    struct going *going;      /* of an erasure */
    int64_t at_ms, due_ms;
};

struct known {
    uint64_t hash, owner;
    int64_t at_ms; /* monotonic; 0: nobody */
    bool asked;    /* a job is under way */
};

struct deliveries; /* role_serve_deliver.c */

#define ROLE_SERVE_COUNTERS(X)                                                                     \
    X(prepared_total, "requests whose data was fetched")                                           \
    X(prepare_failed_total, "of these failed")                                                     \
    X(changes_total, "acknowledgements, words and erasures")                                       \
    X(news_total, "pieces of news received")                                                       \
    X(news_bad_total, "of these broken")                                                           \
    X(news_again_total, "of these told before")                                                    \
    X(webhooks_begun_total, "attempts to post a webhook")                                          \
    X(webhooks_swept_total, "webhooks that were forgotten, found by the sweep")

struct role_serve {
    struct kz_role base;
    uint32_t magic;
    struct kz_role_env *env;
    struct kz_query query;
    struct kz_history_reader reader;

    pthread_mutex_t lock;
    pthread_cond_t work_there;
    struct job_list jobs, done;
    bool stop;
    size_t job_count; /* made and not done */
    struct kz_thread workers[SERVE_WORKERS];

    const struct snapshot *current; /* while `then` runs */
    struct snapshot *preparing;     /* on their way */
    struct change *changes;         /* begun, and not answered */
    struct change *erasing;         /* wait for their second pass */
    int64_t second_pass_ms;         /* what was under way at an erasure has ended by then: 60 s */
    int64_t look_every_ms, look_ms; /* for erasures that others began; the next time, monotonic */
    int64_t take_over_ms;           /* so long behind their second pass they may do it themselves */
    uint64_t last_change;
    struct kz_subscription *subscriptions;
    struct known known[KNOWN_MAX];
    uint64_t told[TOLD_MAX];
    struct kz_user passing; /* of find() outside of a snapshot */
    int64_t deadline_ms;    /* when stopping: nobody is kept waiting after it */
    bool stopping;          /* the loop's; pullers look at `stop_pulling` */
    bool stop_pulling;

    struct kz_thread puller; /* of NEWS */
    struct kz_bus_source *news;
    struct deliveries *deliveries;
    int64_t sweep_every_ms, sweep_grace_ms; /* of role_serve_deliver.c; 0: the defaults */
    struct {
#define X(name, help) uint64_t name;
        ROLE_SERVE_COUNTERS(X)
#undef X
    } counts;
    struct kz_pipeline_counters counters;
    struct kz_pipeline_histograms histograms;
};

/* role_serve.c: any thread. To a worker, then to the loop; or to the loop at once. */
void kz_serve_job(struct role_serve *role, struct job *job);
void kz_serve_done(struct role_serve *role, struct job *job);

/* role_serve_load.c: on a worker */
void kz_snapshot_load(struct job *job);
void kz_snapshot_free(struct snapshot *snapshot);
/* The row that holds what is known of the owner, led by rows that name another. */
KZ_MUST_USE enum kz_code kz_serve_row(struct role_serve *role, uint64_t owner, uint64_t *ret_owner,
        struct kz_user_row *ret_row, struct kz_rowstate *ret_state, struct kz_err *err);

/* role_serve_query.c */
extern const struct kz_query_ops kz_serve_query_ops;
extern const struct kz_history_reader_ops kz_serve_reader_ops;
void kz_serve_publish(struct role_serve *role, const struct kz_record *record);
/* Tells all who wait for a snapshot that we stop; what is fetched is thrown away. */
void kz_serve_give_up(struct role_serve *role);

/* role_serve_change.c */
KZ_MUST_USE enum kz_code kz_serve_ack(
        struct kz_query *query, uint32_t user, uint64_t decision, struct kz_err *err);
KZ_MUST_USE enum kz_code kz_serve_control(struct kz_query *query, const char *verb,
        struct kz_str object, const char *who, uint64_t *ret_count, struct kz_err *err);
/* Tells all who wait for a change that we stop: it may still come about. */
void kz_serve_changes_give_up(struct role_serve *role);
/* At the end: those that are left are given up. */
void kz_serve_changes_free(struct role_serve *role);
/* A new one, in role->changes; `run` is carried out once it is given to kz_serve_job(). */
struct change *kz_change_begin(struct role_serve *role, void (*run)(struct job *job));
void kz_change_done(struct job *job);
void kz_change_free(struct change *change);
/* Puts a DELIVERY of a decision into the row of its user and the slot's state after it, unless it
 * waits no more (KZ_NOT_FOUND). On a worker. */
struct delivery_end {
    uint64_t owner; /* of the decision's record */
    const struct kz_record *decision;
    enum kz_delivery_state state;
    uint32_t attempt_count;
    int64_t retry_at_ms;
    struct kz_str detail;
};
KZ_MUST_USE enum kz_code kz_serve_end_delivery(
        struct role_serve *role, const struct delivery_end *end, struct kz_err *err);
KZ_MUST_USE enum kz_code kz_serve_put_letter(
        struct role_serve *role, const struct kz_record *record, struct kz_err *err);

/* role_serve_erase.c */
KZ_MUST_USE enum kz_code kz_serve_forget(struct kz_query *query, struct kz_user_key key,
        const char *who, uint64_t *ret_erasure, struct kz_err *err);
/* Second passes that are due, and those that others have left. */
void kz_serve_erase_again(struct role_serve *role);

/* role_serve_deliver.c */
KZ_MUST_USE enum kz_code kz_deliveries_open(struct role_serve *role, struct kz_err *err);
void kz_deliveries_turn(struct role_serve *role);
void kz_deliveries_sweep_now(struct role_serve *role); /* with the next turn */
/* Begins nothing new; idle() once no attempt is under way. */
void kz_deliveries_stop(struct role_serve *role);
bool kz_deliveries_idle(const struct role_serve *role);
void kz_deliveries_close(struct role_serve *role);
void kz_deliveries_backlog(const struct role_serve *role, struct kz_role_backlog *ret_backlog);
int64_t kz_deliveries_next_ms(const struct role_serve *role); /* monotonic; INT64_MAX */

static inline struct role_serve *kz_role_serve_of(struct kz_query *query)
{
    struct role_serve *role = KZ_CONTAINER_OF(query, struct role_serve, query);

    KZ_CHECK_MAGIC(role, SERVE_MAGIC_ROLE);
    return role;
}
