/* contract/query.h -- what is known, asked by serve and by the commands of an operator, whoever
 * keeps it.
 *
 * Threads  the pipeline's; every callback comes on it, some within the call.
 */
#pragma once

#include "codec/json_out.h"
#include "contract/history.h"
#include "contract/project.h"
#include "contract/state.h"

/* A prediction as it is read (DESIGN.md section 6). Strings are borrowed for the call. */
struct kz_prediction {
    struct kz_str user_id;
    char user_kind;
    struct kz_str model;
    struct kz_str version;
    bool has_score;
    double score;
    struct kz_str output; /* JSON */
    bool output_hidden;   /* shown as null */
    struct kz_str event_id;
    int64_t as_of_ms, computed_at_ms, expires_at_ms;
    uint64_t request, seq;
};
/* From a RESULT record; KZ_CORRUPT where it is none. */
enum kz_code kz_prediction_decode(
        const struct kz_record *record, struct kz_prediction *ret, struct kz_err *err);
/* Writes the object of DESIGN.md section 6: user_id (a visitor's anonymous_id, too), model,
 * version, score where there is one, output, event_id, as_of, computed_at, expires_at. */
void kz_prediction_json(const struct kz_prediction *prediction, struct kz_json_out *out);

/* Something that has become durable, for streams and deliveries. Borrowed for the call. */
enum kz_news_kind { KZ_NEWS_PREDICTION, KZ_NEWS_ACTION };
struct kz_news {
    enum kz_news_kind kind;
    uint64_t owner;
    const struct kz_record *record; /* RESULT (done) or DECISION (deliver, web) */
};

struct kz_subscription { /* the subscriber's */
    void (*news)(struct kz_subscription *subscription, const struct kz_news *news);
    /* An id was linked whose `owner` was this one's: whom it is about may have become another's, and
     * `owner` is to be looked up anew. NULL: that does not matter. */
    void (*linked)(struct kz_subscription *subscription);
    uint64_t owner; /* 0: everybody */
    void *user;
    struct kz_subscription *next, *prev;
};

/* What became of one event, measured in this process; zeros where it is not remembered. */
struct kz_event_timing {
    int64_t received_us;       /* monotonic */
    uint32_t parse_us, log_us; /* until staged; until durable: over a bus and in a shared store, by
                                * the clocks of two processes */
};

struct kz_model_status {
    const char *name, *version, *runtime;
    uint32_t replicas_ready, replicas_starting, replicas_max;
    uint32_t inside, waiting;
    uint64_t pending; /* in the log, not asked yet */
    bool paused, fenced;
    bool elsewhere; /* another process asks it: what is paused is all that is known here */
    char reason[300];
    uint64_t done, dead, expired, superseded, dropped;
    uint64_t batches, batch_rows, restarts, timeouts;
    uint64_t rss_bytes;
};

/* X(name, is a gauge, help): counters of the pipeline, all of them in /metrics as kizashi_<name>. */
#define KZ_PIPELINE_COUNTERS(X)                                                                    \
    X(seq, true, "the last record's place in the order of arrival")                                \
    X(events_accepted_total, false, "events accepted")                                             \
    X(events_duplicate_total, false, "events that were there already")                             \
    X(events_rejected_total, false, "events rejected with a reason")                               \
    X(events_clamped_total, false, "events whose client clock was held to the permitted range")    \
    X(events_imported_total, false, "events of history from before")                               \
    X(links_total, false, "ids linked to a user")                                                  \
    X(links_refused_total, false, "links refused: a cycle, or too many ids of one user")           \
    X(rules_matched_total, false, "rules an event matched")                                        \
    X(rules_failed_total, false, "rules whose SQL failed on an event")                             \
    X(timers_fired_total, false, "delays and debounce windows that ended in a request")            \
    X(timers_set, true, "timers waiting")                                                          \
    X(requests_total, false, "requests made")                                                      \
    X(requests_pending, true, "requests without a result")                                         \
    X(requests_done_total, false, "requests that ended done")                                      \
    X(requests_superseded_total, false, "requests overtaken by a newer one")                       \
    X(requests_expired_total, false, "requests older than max_age")                                \
    X(requests_dropped_total, false, "requests dropped")                                           \
    X(requests_dead_total, false, "requests that became dead letters")                             \
    X(decisions_deliver_total, false, "actions decided: deliver")                                  \
    X(decisions_shadow_total, false, "actions decided: shadow")                                    \
    X(decisions_holdout_total, false, "actions decided: held out")                                 \
    X(decisions_capped_total, false, "actions decided: a cap was full")                            \
    X(decisions_schedule_total, false, "actions decided: outside the schedule")                    \
    X(deliveries_shown_total, false, "web deliveries acknowledged")                                \
    X(deliveries_sent_total, false, "webhooks answered 2xx")                                       \
    X(deliveries_failed_total, false, "webhook attempts that failed")                              \
    X(deliveries_given_up_total, false, "webhooks given up")                                       \
    X(dead_letters, true, "dead letters kept")                                                     \
    X(dead_letters_total, false, "dead letters written")                                           \
    X(users, true, "users known")                                                                  \
    X(views_bytes, true, "memory of the views")                                                    \
    X(log_commits_total, false, "group commits")                                                   \
    X(log_bytes_total, false, "bytes written to the log")                                          \
    X(log_syncs_total, false, "fsyncs")                                                            \
    X(log_segments, true, "segments of the log")                                                   \
    X(log_segments_sealed, true, "of these sealed")                                                \
    X(log_disk_bytes, true, "bytes of the log on disk")                                            \
    X(log_keys_bytes, true, "memory of the filter that duplicates are looked for in")              \
    X(log_keys_forgotten_total, false,                                                             \
            "parts of it given up at limits.dedupe_memory; such events cost a look a segment")     \
    X(history_memory_bytes, true, "memory of histories kept for models that ask again")            \
    X(history_memory_dropped_total, false,                                                         \
            "users of whom nothing is kept any more, since limits.history_memory was reached")     \
    X(history_events_unsealed_total, false, "events that histories read in sealed segments")       \
    X(history_events_kept_total, false, "events that were kept in memory instead")                 \
    X(checkpoints_total, false, "checkpoints written")                                             \
    X(checkpoints_failed_total, false, "checkpoints that could not be written")                    \
    X(records_copied_total, false,                                                                 \
            "records still needed (predictions, requests, deliveries) copied out of old segments") \
    X(users_forgotten_total, false, "users forgotten because retention took all they had done")    \
    X(erasures_total, false, "users erased")                                                       \
    X(erasures_again_total, false, "users erased again, back from a backup older than that")       \
    X(damaged_reads_total, false, "reads that met damage in a sealed segment")                     \
    X(clock_behind_seconds, true, "by how much this machine's clock is behind the newest record")

struct kz_pipeline_counters {
#define X(name, gauge, help) uint64_t name;
    KZ_PIPELINE_COUNTERS(X)
#undef X
};

/* Histograms of seconds, log-spaced: bucket i counts values <= 2^i microseconds. */
#define KZ_PIPELINE_STAGES(X)                                                                      \
    X(commit, "event staged to durable")                                                           \
    X(queue, "request made to features begun")                                                     \
    X(features, "features computed")                                                               \
    X(wait, "features ready to replica taken")                                                     \
    X(model, "inside the model")                                                                   \
    X(total, "request made to prediction readable")
enum { KZ_HISTOGRAM_BUCKETS = 26 };
struct kz_histogram {
    uint64_t buckets[KZ_HISTOGRAM_BUCKETS]; /* [i]: <= 2^i us; the last holds the rest too */
    uint64_t count;
    double sum_seconds;
};
struct kz_pipeline_histograms {
#define X(name, help) struct kz_histogram name;
    KZ_PIPELINE_STAGES(X)
#undef X
};

/* Where a dead letter lies. */
struct kz_letter_place {
    uint64_t seq; /* its id */
    kz_lsn lsn;
    uint64_t owner; /* whose it is, or 0 */
};

/* What a request is about to ask for. */
enum kz_query_what {
    KZ_WANT_USER = 1,    /* user, key, sources, slots, and records that slots lean on */
    KZ_WANT_EVENTS = 2,  /* a scan of their events as below */
    KZ_WANT_NOTES = 4,   /* and one of their notes */
    KZ_WANT_LETTERS = 8, /* dead letters, and their records */
    KZ_WANT_ERASURE = 16,
};
struct kz_query_want {
    unsigned what;
    struct kz_user_key key; /* borrowed for the call */
    kz_lsn events_as_of;    /* as in struct kz_history_query */
    uint32_t events_max, notes_max;
    uint64_t letters_before;
    size_t letters_max;
    uint64_t erasure;
    struct kz_str timed_event; /* borrowed for the call: the event_id timing() is asked for, with
                                * KZ_WANT_EVENTS; empty: none */
};

struct kz_query {
    const struct kz_query_ops *ops;
    const struct kz_project *project;
    struct kz_history_reader *reader;
};

struct kz_query_ops {
    /* NULL: all that is known is at hand. Else it is far away, and this brings what a request will
     * ask for: `then` comes on the same thread, perhaps within the call, and what the others give
     * until it returns is of that moment. Outside of it they know little. A record is found by its seq
     * (seq and address are one number). */
    void (*prepare)(struct kz_query *q, const struct kz_query_want *want,
            void (*then)(void *arg, enum kz_code code, const struct kz_err *err), void *arg);
    /* The user that events sent under this key belong to now. false: nobody. */
    bool (*find)(struct kz_query *q, struct kz_user_key as_sent, uint32_t *ret_user);
    const struct kz_user *(*user)(struct kz_query *q, uint32_t user);
    struct kz_user_key (*key)(struct kz_query *q, uint32_t user);
    size_t (*sources)(struct kz_query *q, uint32_t user, enum kz_chain chain,
            struct kz_source out[KZ_SOURCES_MAX]);
    /* The user's slots of a kind (latest predictions, waiting deliveries, pending requests). */
    const struct kz_slot *(*slot)(
            struct kz_query *q, uint32_t user, enum kz_slot_kind kind, const struct kz_slot *after);
    /* Calls `then` once everything at or below `lsn` is durable; within the call if it is. On a log
     * that has stopped, with an error. */
    void (*when_durable)(struct kz_query *q, kz_lsn lsn,
            void (*then)(void *arg, enum kz_code code, const struct kz_err *err), void *arg);
    kz_lsn (*end)(struct kz_query *q); /* of what is written, durable or not */

    void (*subscribe)(struct kz_query *q, struct kz_subscription *subscription);
    void (*unsubscribe)(struct kz_query *q, struct kz_subscription *subscription);
    /* The page showed it. KZ_NOT_FOUND: no such delivery waits for this user. Durable when_durable. */
    enum kz_code (*acknowledge)(
            struct kz_query *q, uint32_t user, uint64_t decision, struct kz_err *err);
    bool (*timing)(struct kz_query *q, uint64_t event_seq, struct kz_event_timing *ret);

    /* An operator's word, logged with who said it: verbs pause-model, resume-model, unfence-model,
     * drop-requests (object: model or "*"), pause-action, resume-action ("*": all),
     * drop-deadletter, retry-deadletter (object: seq or "*"). `ret_count`: how many it concerned; known
     * once it is durable. */
    enum kz_code (*control)(struct kz_query *q, const char *verb, struct kz_str object,
            const char *who, uint64_t *ret_count, struct kz_err *err);
    /* Erasure: 202 and its id; progress by erasure(). KZ_NOT_FOUND: nothing is known of the id. */
    enum kz_code (*erase)(struct kz_query *q, struct kz_user_key key, const char *who,
            uint64_t *ret_erasure, struct kz_err *err);
    enum kz_code (*erasure)(struct kz_query *q, uint64_t erasure, bool *ret_done,
            int64_t *ret_asked_ms, int64_t *ret_done_ms, struct kz_err *err);
    /* Dead letters, newest first, from `before` (0: the newest) at most `count`. */
    size_t (*dead_letters)(
            struct kz_query *q, uint64_t before, size_t count, struct kz_letter_place *places);

    void (*counters)(struct kz_query *q, struct kz_pipeline_counters *ret);
    const struct kz_pipeline_histograms *(*histograms)(struct kz_query *q);
    void (*model)(struct kz_query *q, unsigned model, struct kz_model_status *ret);
    /* Whether nothing is decided for an action: by an operator, or since a restore. */
    bool (*action_paused)(struct kz_query *q, unsigned action);
    /* Whether intake and serving work: KZ_OK or why not. */
    enum kz_code (*health)(struct kz_query *q, struct kz_err *err);
    /* A consistent copy of the data to `dest` (a new directory) in the background. */
    enum kz_code (*backup)(struct kz_query *q, const char *dest,
            void (*done)(void *arg, enum kz_code code, const struct kz_err *err), void *arg,
            struct kz_err *err);
    /* Writes a checkpoint and rolls the segment, so that everything so far can be sealed. */
    enum kz_code (*checkpoint)(struct kz_query *q, struct kz_err *err);
};
