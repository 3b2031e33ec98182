/* infer/infer.h -- asking the models: features, micro-batches, replicas, and what goes wrong there.
 *
 * One infer thread with its own libuv loop takes jobs from the pipeline, computes their features on
 * the history up to the request, gathers them into micro-batches for the model's replicas and gives
 * results back. Jobs whose history is long go to a second thread (the slow lane), so that a user
 * with a million events delays nobody else.
 *
 *   submit -> [queue] -> features -> [ready] -> replica: batch -> rows ok            -> result done
 *      |                    |                        | failed, n > 1 -> two halves again
 *      |                    | SQL fails: dead        | failed, n = 1 -> result dead, with traceback
 *      | deadline passed: expired                    | replica lost -> another; the batch in halves
 *
 * Invariants
 *   I1  every job submitted comes back in exactly one result.
 *   I2  a model has at most queue_max jobs inside; kz_infer_room() says how many more fit.
 *   I3  one batch at a time a replica; a batch holds jobs of one model only.
 *   I4  a failed batch is retried in halves, single rows once more on a fresh replica when the
 *       replica was lost; so only the row at fault is dead, and it costs at most 2 log2(n) batches.
 *   I5  a model whose replicas fail to load or die `fence_after` times in a row without a success
 *       between is fenced: its jobs wait (the pipeline keeps them pending), status says why, and a
 *       replica is tried again with back-off up to a minute.
 *
 * Threads  open, submit, forget, take, room, pause, unfence, status, close: the pipeline's thread.
 */
#pragma once

#include "contract/infer.h"

struct kz_infer;

struct kz_infer_options {
    const struct kz_project *project;
    struct kz_history_reader *reader;
    const struct kz_runtime_ops *const *runtimes; /* ends with NULL */
    void (*wake)(void *arg); /* results are there; any thread; must only wake the pipeline */
    void *arg;
    uint32_t fence_after;   /* 0: 5 */
    uint64_t sql_steps_max; /* 0: default of contract/sql.h */
    uint32_t slow_events;   /* histories longer than this go to the slow lane; 0: 2,000 */
    uint64_t history_bytes; /* kept of the histories that features are computed on; 0: nothing */
    bool start_replicas;    /* false: the first job starts them (min: 0 behaves so always) */
};

/* Compiles features and starts replicas (does not wait for them). Features that do not compile are
 * KZ_CONFIG with file:line:column. */
KZ_MUST_USE enum kz_code kz_infer_open(
        const struct kz_infer_options *options, struct kz_infer **ret_infer, struct kz_err *err);
/* Stops replicas; jobs inside are given up without a result (they stay pending in the log). */
void kz_infer_close(struct kz_infer *infer);
KZ_DEFINE_FREEP(struct kz_infer, kz_infer_close)

/* A job from the pool; filled by the pipeline, then submitted. */
struct kz_infer_job *kz_infer_job_new(struct kz_infer *infer);
void kz_infer_job_free(struct kz_infer *infer, struct kz_infer_job *job);
/* Hands a chain of jobs (by `next`) over, in order. */
void kz_infer_submit(struct kz_infer *infer, struct kz_infer_job *jobs);
/* These owners were erased: what is kept of their events in memory is dropped, and nothing that a
 * job submitted before this needs is kept. At once, beside the caller. */
void kz_infer_forget(struct kz_infer *infer, const uint64_t *owners, size_t count);
/* All results there are, oldest first, chained by `next`; NULL for none. Each is given back with
 * kz_infer_result_free(), which frees its job too. */
struct kz_infer_result *kz_infer_take(struct kz_infer *infer);
void kz_infer_result_free(struct kz_infer *infer, struct kz_infer_result *result);

/* How many more jobs of the model may be submitted now; 0 while it is paused or fenced. */
uint32_t kz_infer_room(const struct kz_infer *infer, unsigned model);
void kz_infer_pause(struct kz_infer *infer, unsigned model, bool paused);
void kz_infer_unfence(struct kz_infer *infer, unsigned model);

struct kz_infer_status {
    const char *version; /* 12 hex digits of its version hash */
    uint32_t replicas_ready, replicas_starting;
    uint32_t inside;  /* jobs submitted and not taken back */
    uint32_t waiting; /* with features, for a replica */
    bool paused, fenced;
    char reason[300]; /* last failure of a replica or batch; empty for none */
    uint64_t done, dead, batches, batch_rows, restarts, timeouts, retried_batches;
    int64_t next_try_ms; /* until a fenced model's next try */
    uint64_t rss_bytes;  /* of its replicas */
};
void kz_infer_status(struct kz_infer *infer, unsigned model, struct kz_infer_status *ret_status);
/* Blocks until every model that keeps replicas has one ready, one failed to load or the deadline:
 * `check`, tests and the start of `up`. Reports each failure. */
KZ_MUST_USE enum kz_code kz_infer_wait_ready(struct kz_infer *infer, int64_t timeout_ms,
        void (*report)(void *arg, unsigned model, const char *problem), void *arg,
        struct kz_err *err);
