/* app/pipeline/pipeline.h -- the way of one event through one process: log, views, triggers, requests,
 * results, decisions, deliveries. It wires the stages; each of them decides, this carries out.
 *
 * A turn: take what is ready (submitted events, results, due timers, webhook outcomes), stage the
 * records they lead to, commit once, hand new requests to infer, and release what has become durable.
 *
 *     submit* -> kz_pipeline_turn():  results -> timers -> commit -> jobs to infer -> answers
 *                      ^                                      |
 *                      +---- wake: durable, results, webhooks-+
 *
 * Invariants
 *   P1  an event, its trigger ops, its link and its requests are in one frame of the log.
 *   P2  views change only by applying the record that was just staged, in order.
 *   P3  nobody is told of a record before it is durable: answers, predictions, deliveries.
 *   P4  every REQUEST ends in exactly one RESULT, across crashes: pending ones are asked again at
 *       start, a second RESULT of the same request is not written.
 *   P5  the only clock a decision sees is `now` of its turn, and it is in the record.
 *
 * Threads  one: open, submit, turn, close and the query interface. Only `wake` comes from others.
 */
#pragma once

#include "contract/infer.h"
#include "contract/intake.h"
#include "contract/query.h"
#include "sys/file.h"

struct kz_pipeline;

struct kz_pipeline_options {
    const struct kz_project *project; /* borrowed */
    struct kz_fs *fs;                 /* NULL: the real one */
    const char *data_dir;
    const struct kz_runtime_ops *const *runtimes;
    void (*wake)(void *arg); /* any thread: a turn is wanted */
    void *arg;
    bool virtual_clock;  /* time is set by kz_pipeline_set_clock() */
    bool sync_inline;    /* commits return durable; no sync thread (tests, replay) */
    bool ask;            /* false: nothing is asked or delivered (import, tools) */
    bool actions_paused; /* start so (after restore) */
};

KZ_MUST_USE enum kz_code kz_pipeline_open(const struct kz_pipeline_options *options,
        struct kz_pipeline **ret_pipeline, struct kz_err *err);
/* Commits, waits until all is durable, writes a checkpoint, frees. What could not be finished stays
 * pending in the log. */
void kz_pipeline_close(struct kz_pipeline *pipeline);
KZ_DEFINE_FREEP(struct kz_pipeline, kz_pipeline_close)

struct kz_intake *kz_pipeline_intake(struct kz_pipeline *pipeline);
struct kz_query *kz_pipeline_query(struct kz_pipeline *pipeline);
struct kz_infer;
struct kz_infer *kz_pipeline_infer(struct kz_pipeline *pipeline);

/* The column names of a model's features; 0 for a model without. Borrowed. */
size_t kz_pipeline_feature_names(
        struct kz_pipeline *pipeline, unsigned model, const char *const **ret_names);

/* One turn. Call it after submitting, when woken, and when kz_pipeline_next_ms() says so. */
void kz_pipeline_turn(struct kz_pipeline *pipeline);
/* Milliseconds until a turn is due on its own (timer, retry, upkeep); at most 1000. */
int kz_pipeline_next_ms(struct kz_pipeline *pipeline);

/* When stopping: whoever still waits for a prediction is answered without it. */
void kz_pipeline_end_waiting(struct kz_pipeline *pipeline);

/* Virtual time. Moves our clock forward to `now_ms`, firing timers on the way, each with all its
 * consequences, before the next. */
KZ_MUST_USE enum kz_code kz_pipeline_set_clock(
        struct kz_pipeline *pipeline, int64_t now_ms, struct kz_err *err);
/* Turns until no request is inside and everything is durable. KZ_TIMEOUT after `timeout_ms` real. */
KZ_MUST_USE enum kz_code kz_pipeline_settle(
        struct kz_pipeline *pipeline, int64_t timeout_ms, struct kz_err *err);
/* The due time of the earliest timer; INT64_MAX for none. */
int64_t kz_pipeline_timer_ms(struct kz_pipeline *pipeline);

/* Checkpoints, sealing, retention and erasure now, in this thread (tools, tests). */
KZ_MUST_USE enum kz_code kz_pipeline_upkeep(struct kz_pipeline *pipeline, struct kz_err *err);
/* Of this, erasure only. */
KZ_MUST_USE enum kz_code kz_pipeline_erase(struct kz_pipeline *pipeline, struct kz_err *err);
