/* app/roles/role_infer_int.h -- what the files of the infer role share.
 *
 * The way of one request (a task):
 *
 *   pull --> BEGIN --> ASK --> INSIDE --> TURN --> FINISH --> PUBLISH --> acknowledged
 *            worker    driver  kz_infer            worker     bus
 *              |                             ^        ^ |
 *              +- ends without a model ------+        +-+ the row was changed, or a backend is away
 *              +- was done before ---------------------------> PUBLISH (again) --> acknowledged
 *
 *   BEGIN   reads the user's row (is the request done?) and brings their history near.
 *   TURN    waits until all older requests of the user in this process are through FINISH.
 *   FINISH  decides over views made of the row, and writes state and entries by check-and-set.
 *
 * Invariants
 *   I1  a request has one outcome in effect: its entries are put in the same step as the state that
 *       rests on them, and whoever finds a RESULT of it puts none.
 *   I2  its message is acknowledged after all that follows from it is on the bus; until then it comes
 *       again, and what follows is made from the entries, equal to the first time.
 *   I3  within a process one user's requests are decided in the order of their seq.
 *   I4  seqs of what follows from a request are a function of the request (below), so the same
 *       decision has the same id each time.
 *   I5  a place under a cap in total is reserved before the write and taken back where the decision
 *       written is not to deliver.
 *
 * Seqs: process leaves 65,536 numbers behind the address of each record. Relative to a root request's
 * address, of the model with rank r (kz_infer_ranks(): a model after another has a higher one):
 *
 *       0 + 1..255            what the root's result is: RESULT, dead letter
 *       256 (1 + r)           the REQUEST of a model that comes after, and behind it its result
 *       32768 + 256 r + 2 n   the n-th DECISION of the request of rank r; the odd one: its DELIVERY
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "app/pipeline/pipeline_int.h"
#include "app/roles/role.h"
#include "app/roles/rowstate.h"
#include "contract/push.h"
#include "history/recent.h"
#include "sys/thread.h"

enum {
    INFER_MAGIC_ROLE = 0x6b7a7269,
    TASK_MAGIC = 0x6b7a7461,
    TASK_BUCKETS = 4096,
    ROWS_MAX = KZ_SOURCES_MAX,
    RESERVATIONS_MAX = 64,
};

enum task_state {
    TASK_BEGIN, /* in the work queue, or with a worker */
    TASK_ASK,   /* wants room in kz_infer */
    TASK_INSIDE,
    TASK_TURN,
    TASK_FINISH,  /* in the work queue, or with a worker */
    TASK_PUBLISH, /* the bus has what follows */
    TASK_ENDED,
};

struct puller;
struct role_infer;

struct task {
    uint32_t magic;
    enum task_state state;
    struct role_infer *role;
    struct puller *puller;            /* of `delivery` */
    struct kz_bus_delivery *delivery; /* NULL: pushed by HTTP */
    int64_t published_ms;             /* 0: pushed */
    struct kz_http_request *push;     /* the loop's; answered by turn() */
    struct kz_buf pushed;             /* the message, where it was pushed */
    bool push_done;                   /* 204, else it is to come again */
    struct kz_buf hold;               /* the request's record */
    struct kz_request_message message;
    unsigned model;
    uint64_t arrival;               /* in this process: a copy comes behind the first */
    struct kz_infer_result *result; /* the driver's to free */
    enum kz_request_end end;        /* without a model: EXPIRED, SUPERSEDED, DROPPED; 0 */
    struct kz_user_row row;         /* as read in BEGIN */
    uint64_t row_owner;             /* whose it is; 0: to be read again */
    bool stale;                     /* another of the user was written since; under the lock */
    unsigned tries;
    int64_t not_before_ms; /* monotonic */
    int64_t begun_us;
    bool waited;            /* there was no room in kz_infer at once */
    atomic_uint publishing; /* publish() calls without `done`, and one while they are made */
    atomic_bool publish_failed;
    struct kz_buf published;  /* entries' records, one after the other at multiples of 8 */
    struct task *next;        /* of a queue */
    struct task *bucket_next; /* of those whose turn counts */
    struct task *all_next, *all_prev;
};

struct task_list {
    struct task *first, **last;
    size_t count;
};
void kz_tasks_init(struct task_list *list);
void kz_tasks_push(struct task_list *list, struct task *task);
struct task *kz_tasks_pop(struct task_list *list);

/* Pulls the requests of one model. */
struct puller {
    struct role_infer *role;
    unsigned model;
    char subscription[256];
    struct kz_thread thread;
    struct kz_bus_source *source; /* under role->lock */
    size_t held;                  /* deliveries of it that tasks hold; under role->lock */
};

struct reservation {
    uint64_t cap, id;
    const struct action *action;
};

/* A thread that blocks on the backends, with an engine of its own. */
struct worker {
    struct role_infer *role;
    struct kz_thread thread;
    struct kz_pipeline *parts;
    struct kz_pl_remote remote;

    /* The journal of one decision, and the history that it sees. */
    struct kz_journal journal;
    struct kz_history_reader reader;
    struct task *task;
    struct kz_buf records; /* at multiples of 8 */
    size_t record_at[1024];
    size_t record_count;
    uint64_t early, late; /* the next seqs */
    bool is_late;
    struct reservation reservations[RESERVATIONS_MAX];
    size_t reservation_count;

    struct kz_user_row others[ROWS_MAX]; /* rows being absorbed */
    struct kz_rowstate row, other_states[ROWS_MAX];
    uint64_t other_owners[ROWS_MAX];
    size_t other_count;
    struct kz_buf state, json, message;
};

#define ROLE_INFER_COUNTERS(X)                                                                     \
    X(requests_total, "requests taken from the bus or by push")                                    \
    X(repeated_total, "requests that had been done before and came again")                         \
    X(conflicts_total, "decisions taken again because the user's row was changed meanwhile")       \
    X(retries_total, "steps tried again because a backend was away")                               \
    X(given_back_total, "requests given back to the bus")                                          \
    X(poison_total, "messages that were no requests, put on the dead topic")                       \
    X(merged_rows_total, "rows of linked ids taken into their users'")                             \
    X(released_total, "places under caps in total taken back")

struct role_infer {
    struct kz_role base;
    uint32_t magic;
    struct kz_role_env *env;
    struct kz_project project; /* a copy: models that are not ours keep no replicas */
    struct kz_model_def *models;
    bool *ours;             /* [model_count] */
    unsigned *ranks;        /* [model_count] */
    struct kz_infer *infer; /* the driver's, but its status */
    struct kz_recent *recent;

    pthread_mutex_t lock;
    pthread_cond_t work_there, idle;
    struct task_list work;    /* BEGIN and FINISH that can go on */
    struct task_list delayed; /* the same, not before their time */
    struct task_list ask;
    struct task_list pushed;            /* ended, to be answered by the loop */
    struct kz_infer_result *returned;   /* to be freed by the driver */
    struct task *buckets[TASK_BUCKETS]; /* not written yet, by owner */
    struct task *all;
    size_t task_count;
    uint64_t arrivals;
    bool stopping; /* nothing new is taken */
    bool stop;     /* threads end */
    int64_t deadline_ms;

    struct kz_push_auth *push_auth; /* NULL: no token is asked for */
    struct kz_thread driver;
    sem_t driver_woken;
    struct puller *pullers; /* [model_count] */
    struct worker *workers;
    unsigned worker_count;

    struct kz_pipeline_counters counters;
    struct kz_pipeline_histograms histograms;
    struct { /* by model */
        uint64_t done, dead, expired, superseded, dropped;
    } * ends;
    int64_t *unfenced_ms;             /* words that were heeded, by model */
    atomic_int_least64_t *dropped_ms; /* requests made before it are dropped, by model */
    struct {
#define X(name, help) atomic_uint_fast64_t name;
        ROLE_INFER_COUNTERS(X)
#undef X
    } counts;
};

/* role_infer.c: under no lock. What becomes of a task after a step. */
void kz_task_again(struct task *task, enum task_state state); /* now */
void kz_task_later(struct task *task, enum task_state state); /* with back-off */
void kz_task_wait(struct task *task, enum task_state state, int64_t wait_ms);
void kz_task_ask(struct task *task);
void kz_task_turn(struct task *task);
void kz_task_written(struct task *task); /* the next of the user may finish */
void kz_task_done(struct task *task);    /* to be acknowledged */
void kz_task_give_back(struct task *task);
/* Takes it off every list, under the lock; it is the caller's to free. */
void kz_task_end_locked(struct role_infer *r, struct task *task);
/* The message can never be handled: to the dead topic, then acknowledged. */
void kz_task_poison(struct task *task, const char *code, const struct kz_err *err);
/* A newer request of the same user and model is here. */
bool kz_task_is_overtaken(struct task *task);
/* An older copy of the same request is here. */
bool kz_task_is_copy(struct task *task);

/* A new task: to be begun, unless its message was no request. */
void kz_task_take_in(struct task *task, bool is_request);
void kz_task_free(struct task *task);

/* role_infer_push.c: the loop's. The requests that came by push; answers to those that have ended. */
bool kz_infer_handle(struct kz_role *role, struct kz_http_request *req);
void kz_infer_answer(struct kz_role *role);

/* role_infer_step.c */
KZ_MUST_USE enum kz_code kz_worker_open(
        struct worker *worker, struct role_infer *role, struct kz_err *err);
void kz_worker_close(struct worker *worker);
void kz_worker_begin(struct worker *worker, struct task *task);
void kz_worker_finish(struct worker *worker, struct task *task);
/* A job of kz_infer for the task. */
struct kz_infer_job *kz_task_job(struct task *task);
/* Gives every model a number: one that comes after another has a higher one. */
void kz_infer_ranks(const struct kz_project *project, unsigned ranks[]);

/* role_infer_publish.c: puts what follows from task->published on the bus; kz_task_done() or
 * kz_task_later() follow. */
void kz_task_publish(struct worker *worker, struct task *task);

static inline const struct kz_request_body *kz_task_request(const struct task *task)
{
    return (const void *)kz_record_body(task->message.record).ptr;
}
static inline uint64_t kz_task_seq(const struct task *task)
{
    return task->message.record->seq;
}
