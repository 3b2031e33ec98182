/* infer/infer_int.h -- what the files of infer share. Everything here belongs to the infer thread
 * unless it says otherwise. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#include "base/arena.h"
#include "infer/infer.h"
#include "sys/ring.h"
#include "sys/thread.h"

enum {
    INFER_MAGIC = 0x6b7a696e,
    FENCE_AFTER_DEFAULT = 5,
    SLOW_EVENTS_DEFAULT = 2000,
    BACKOFF_FIRST_MS = 100,
    BACKOFF_MAX_MS = 60000,
    SCALE_UP_WAIT_US = 10000, /* a row has waited so long with every replica busy: one more */
    SCALE_DOWN_IDLE_MS = 30000,
    FORKS_REFUSED_MAX = 3,
    BATCH_BYTES_MAX = 16 << 20,
    ROW_BYTES_MAX = 48 << 20,
    TICK_BUSY_MS = 5,
    TICK_IDLE_MS = 1000,
    SLICE_ROWS = 16, /* rows whose features are computed between two looks at the replicas */
    SLICE_US = 300,
};
/* Steps of SQL (about 15 ns each) that the fast lane gives one request, and the slow one. */
#define FAST_STEPS UINT64_C(500000)
#define SLOW_STEPS UINT64_C(100000000)

/* A request on its way through infer. The pipeline knows its job and its result. */
struct row {
    struct kz_infer_job job;
    struct kz_infer_result result;
    struct kz_buf history; /* raw-history models: the JSON array */
    bool truncated;
    bool keep_nothing; /* it may be about somebody who was erased since */
    bool tried_alone;  /* it was the only row of a batch whose replica was lost */
    bool computed;     /* its features or history are there, or have failed */
    bool failed;       /* its features did: result is filled in */
    int64_t features_at_us, ready_at_us, sent_at_us;
    struct row *next, *prev; /* in one list at a time */
    struct row *group_next;  /* of a group's first row: the next group to be retried */
    size_t group_count;      /* of a group's first row */
    struct row *pool_next;   /* the pipeline's thread */
    struct row *all_next;    /* every row there is, for the end */
};

struct rows {
    struct row *first, *last;
    size_t count;
};

enum replica_state { REPLICA_STARTING, REPLICA_IDLE, REPLICA_BUSY, REPLICA_ENDING };

struct replica {
    struct model *model;
    struct kz_replica *runtime;
    enum replica_state state;
    unsigned generation; /* of the columns it was loaded for */
    int64_t since_ms;    /* in this state */
    bool forked;
    struct rows rows; /* inside */
    /* The batch's memory, kept from one to the next. */
    size_t capacity;
    double *numeric;
    struct kz_value *text;
    struct kz_str *user_ids, *event_ids, *histories;
    int64_t *now_ms;
    bool *truncated;
    struct kz_arena arena;
};

struct model {
    struct kz_infer *infer;
    unsigned index;
    const struct kz_model_def *def;
    const struct kz_runtime_ops *runtime;
    uint64_t version_hash;
    char version[13];

    struct kz_batch_column *columns; /* of the features query; kinds change to text only */
    size_t column_count, numeric_count, text_count;
    const char **numeric_names, **text_names;
    struct kz_value *values; /* [column_count] scratch */
    unsigned generation;     /* grows when a column turns out to be text */

    struct rows ready;
    struct row *retry_first, *retry_last; /* groups, by group_next */

    struct replica **replicas; /* [replicas.max + ending ones] */
    size_t replica_count, replica_capacity;
    unsigned failures;      /* replicas lost in a row without a batch done between */
    bool on_trial;          /* it was fenced, and has not answered since */
    bool wanted;            /* replicas up to min are kept */
    unsigned forks_refused; /* in a row; then replicas are spawned */
    int64_t next_try_ms;
    bool dirty; /* `shared` is to be brought up to date */
    struct kz_infer_status now;

    /* Any thread. */
    atomic_uint inside;
    atomic_bool paused, fenced, unfence;
    struct kz_infer_status shared;                             /* under infer->lock */
    enum { UNSETTLED, SETTLED_READY, SETTLED_FAILED } settled; /* under infer->lock */
};

/* One thread's engine for features. */
struct lane {
    struct kz_infer *infer;
    bool slow;
    struct kz_sql *sql;
    struct kz_sql_expr **exprs;     /* [model_count], NULL for raw history */
    struct kz_history_cache *cache; /* of all models; NULL: none */
};

struct kz_infer {
    uint32_t magic;
    struct kz_infer_options options;
    const struct kz_project *project;
    struct model *models;
    size_t model_count;
    struct lane fast, slow;

    uv_loop_t loop;
    uv_poll_t bell;
    uv_timer_t tick;
    uv_prepare_t before_poll;
    struct kz_thread thread, slow_thread;
    struct kz_ring *jobs;     /* chains of rows from the pipeline */
    struct kz_ring *computed; /* rows back from the slow lane */
    struct kz_waker waker;    /* for both */
    struct kz_ring *slow_jobs;
    struct kz_waker slow_waker;
    struct kz_ring *results; /* rows to the pipeline */
    atomic_bool stop;
    struct rows incoming;
    size_t keep_nothing; /* so many of the first ones there */
    bool news;           /* results were pushed since the last wake */
    bool called;         /* by a replica since the last turn */
    int64_t upkeep_ms;

    pthread_mutex_t lock;
    pthread_cond_t settled;
    struct kz_buf forgotten; /* under the lock: uint64_t owners that were erased */
    atomic_bool forget;      /* there are some */
    struct row *pool, *all;  /* the pipeline's thread */
};

static inline void kz_rows_push(struct rows *rows, struct row *row)
{
    row->next = NULL;
    row->prev = rows->last;
    *(rows->last ? &rows->last->next : &rows->first) = row;
    rows->last = row;
    rows->count++;
}

static inline void kz_rows_remove(struct rows *rows, struct row *row)
{
    *(row->prev ? &row->prev->next : &rows->first) = row->next;
    *(row->next ? &row->next->prev : &rows->last) = row->prev;
    row->next = row->prev = NULL;
    rows->count--;
}

static inline struct row *kz_rows_pop(struct rows *rows)
{
    struct row *row = rows->first;

    if (row)
        kz_rows_remove(rows, row);
    return row;
}

/* ---- infer.c ------------------------------------------------------------------------------------ */

/* Gives a row back to the pipeline (I1). */
void kz_infer_finish(struct kz_infer *infer, struct row *row, enum kz_request_end end);
void kz_infer_dead(struct kz_infer *infer, struct row *row, enum kz_stage stage, const char *code,
        struct kz_str message);

/* ---- lane.c: features; either thread ------------------------------------------------------------- */

KZ_MUST_USE enum kz_code kz_lane_open(
        struct lane *lane, struct kz_infer *infer, bool slow, struct kz_err *err);
void kz_lane_close(struct lane *lane);
/* Computes a row's features or history. False: it is one for the slow lane. A failure is a row that
 * has `failed`. */
bool kz_lane_compute(struct lane *lane, struct row *row);
/* Drops what is kept of an owner's events. */
void kz_lane_forget(struct lane *lane, uint64_t owner);

/* ---- columns.c ----------------------------------------------------------------------------------- */

/* Names from the query, kinds by trying it on made-up events. */
void kz_columns_open(struct model *model, struct lane *lane);
void kz_columns_close(struct model *model);
/* Looks at a row's values; where a number column holds text it becomes a text column and the model's
 * generation grows. */
void kz_columns_learn(struct model *model, const struct row *row);

/* ---- version.c ----------------------------------------------------------------------------------- */

uint64_t kz_version_hash(const struct kz_model_def *def, uint64_t tables_hash);

/* ---- output.c ------------------------------------------------------------------------------------ */

/* What a row of a model's answer says: score and JSON. */
void kz_output_set(const struct kz_model_def *def, const struct kz_batch_row *answer,
        struct kz_infer_result *result);

/* ---- batch.c ------------------------------------------------------------------------------------- */

/* A row with features joins those that wait for a replica. */
void kz_batch_ready(struct model *model, struct row *row);
void kz_batch_expire(struct model *model);
bool kz_batch_waiting(const struct model *model);
/* Microseconds that the oldest has waited. */
int64_t kz_batch_wait_us(const struct model *model);
/* Gives work to idle replicas as long as there are both. */
void kz_batch_dispatch(struct model *model);
void kz_batch_done(struct replica *replica, const struct kz_batch_outcome *outcome);

/* ---- fleet.c ------------------------------------------------------------------------------------- */

/* Starts and stops replicas as the queue wants it; cheap, called on every turn. */
void kz_fleet_tick(struct model *model, int64_t now_ms);
/* Memory of the replicas, about once a second. */
void kz_fleet_measure(struct model *model);
struct replica *kz_fleet_idle(struct model *model);
void kz_fleet_set(struct replica *replica, enum replica_state state);
void kz_fleet_succeeded(struct model *model);
void kz_fleet_failed(struct model *model, const char *code, struct kz_str message);
void kz_fleet_note(struct model *model, const char *code, struct kz_str message);
void kz_fleet_remove(struct replica *replica);
void kz_fleet_unfence(struct model *model);
void kz_fleet_close(struct model *model);
