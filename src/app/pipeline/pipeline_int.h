/* app/pipeline/pipeline_int.h -- what the files of the pipeline share. */
#pragma once

#include <pthread.h>
#include <semaphore.h>
#include <sys/types.h>

#include "act/places.h"
#include "act/webhook.h"
#include "app/pipeline/journal.h"
#include "app/pipeline/pipeline.h"
#include "app/pipeline/receiver.h"
#include "app/pipeline/waiting.h"
#include "history/checkpoint.h"
#include "history/views.h"
#include "infer/infer.h"
#include "log/log.h"
#include "trigger/trigger.h"

enum {
    PIPELINE_MAGIC = 0x6b7a7069,
    TIMINGS_MAX = 1 << 14, /* events whose timing is remembered; a power of two */
    WAITER_BUCKETS = 1 << 10,
    GROUP_SLACK_BYTES = 256 << 10, /* room for what one event leads to, beside itself */
    UNSYNCED_MAX_BYTES = 128 << 20,
    DEAD_PAYLOAD_MAX_BYTES = 16 << 10,
};

/* Something to be done once what was staged before it is durable. */
enum due_kind { DUE_SUBMISSION, DUE_CALL, DUE_RESULT, DUE_DECISION };
struct due {
    kz_lsn lsn;            /* of the frame's end; UINT64_MAX until it is committed */
    uint64_t staged_bytes; /* the pipeline's, when it was committed */
    enum due_kind kind;
    union {
        struct kz_submission *submission;
        struct {
            void (*then)(void *arg, enum kz_code code, const struct kz_err *err);
            void *arg;
        } call;
        struct {
            kz_lsn record;
            uint64_t owner;
            uint64_t request;   /* RESULT: to find waiters; DECISION: its seq */
            int64_t started_us; /* RESULT of a model: when its request was made; 0 none */
        } news;
    };
};

struct due_queue {
    struct due *items;
    size_t head, count, capacity; /* a ring; capacity a power of two */
    size_t uncommitted;           /* at the tail, lsn not known yet */
};

enum timer_kind { TIMER_TRIGGER, TIMER_RETRY, TIMER_EXPIRY, TIMER_GIVE_UP };
struct timer {
    int64_t at_ms;
    uint64_t owner; /* whose state it is about; found again through kz_views_state_user() */
    uint64_t name;  /* rule's name hash, or the decision's seq */
    enum timer_kind kind;
};

struct timers { /* binary heap by (at_ms, owner, name): the order is the same on every run */
    struct timer *items;
    size_t count, capacity;
};

struct backlog_entry {
    uint64_t owner;
    uint64_t request; /* or the decision's seq */
    kz_lsn lsn;       /* of a request */
};
struct backlog { /* what waits for a place: a model's requests, an action's webhooks; a ring */
    struct backlog_entry *items;
    size_t head, count, capacity;
};

struct action { /* an action rule, compiled */
    const struct kz_action_def *def;
    uint64_t name;
    struct kz_sql_expr *when, *having;
    bool *models; /* [model_count] those `when` speaks of */
    struct kz_receiver receiver;
    struct backlog posts; /* webhooks that are due and wait for a place */
};

struct model {
    const struct kz_model_def *def;
    uint64_t name;
    struct kz_sql_expr *features; /* for its column names */
    struct kz_sql_expr *after_when;
    unsigned after; /* index, or UINT_MAX */
    struct backlog backlog;
    uint64_t done, dead, expired, superseded, dropped;
};

/* What deciding asks of others where users' states are shared by processes. Then what actions did is
 * not put into the history here: a DECISION that is to be told there has the flag below, and whoever
 * has the journal passes it on. */
struct kz_pl_remote {
    /* Whether a delivery of `action` counts under its cap in total number `cap` from now on; one that
     * is not delivered after all is taken back by whoever has the journal. */
    enum kz_code (*reserve)(void *arg, const struct action *action, size_t cap, int64_t since_ms,
            bool *ret_held, struct kz_err *err);
    bool (*is_paused)(void *arg, const struct action *action);
    void *arg;
};
enum { KZ_DECISION_TOLD = 1 }; /* flag of a DECISION record made so */

enum upkeep_state { UPKEEP_IDLE, UPKEEP_RUNNING, UPKEEP_DONE };

/* Work that has failed: tried again after 1 s, 2 s ... a minute. */
struct retry {
    unsigned failures;
    int64_t at_ms; /* monotonic; 0: at once */
};

struct upkeep {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool started;
    atomic_bool stop; /* the process ends: nothing new, and a checkpoint is cut short */
    enum upkeep_state state;
    void (*work)(struct kz_pipeline *p); /* on the upkeep thread */
    enum kz_code code;
    struct kz_err err;
    /* Arguments and results of the work, touched by one side at a time. */
    kz_lsn seal_below;
    struct kz_buf erased;       /* uint64_t owners, sorted */
    struct kz_buf erased_below; /* kz_lsn: what they did at or behind it stays */
    struct kz_buf erasures;     /* uint64_t: those that this sealing carries out */
    unsigned sealed, rewritten;
    kz_lsn drop_below;
    struct kz_buf owners; /* uint64_t, of the segment to be dropped */
    char backup_dest[1024];
    void (*backup_done)(void *arg, enum kz_code code, const struct kz_err *err);
    void *backup_arg;

    struct kz_views *checkpoint_views;   /* being made */
    struct kz_log_mark checkpoint_until; /* its place */
    bool checkpoint_asked;
    struct kz_log_mark checkpoint_from; /* where the next one is to be, once that is durable */
    kz_lsn checkpoint_at;               /* position of the newest checkpoint */
    kz_lsn checkpoint_before;           /* of the one before it: segments below can be sealed */
    uint64_t checkpoint_log_bytes;      /* log bytes when it was written */
    int64_t checkpoint_tried_ms;
    bool erasing;             /* a round: the words before `erase_lsn` are carried out */
    bool seal_erases;         /* the sealing under way is its last step */
    kz_lsn erase_lsn;         /* both checkpoints have to lie behind it first */
    int64_t erase_ms;         /* when the last round began */
    struct retry erase_retry; /* of rounds; */
    struct retry retry;       /* and of all else but checkpoints */
    uint64_t damages;         /* that were said, and when */
    int64_t damage_said_ms;
    int64_t erase_waits_ms; /* since when there is no room to begin one; 0: there is */
    size_t noted;   /* tombstones, in their order, that the file beside the log has as well */
    bool not_noted; /* the last try failed, and it was said */
    enum { CARRY_NOT, CARRY_COPYING, CARRY_USERS, CARRY_SYNCING } carrying;
    struct kz_keep keep;  /* of what is carried */
    uint32_t copy_user;   /* COPYING: whose slots were looked at last */
    size_t carry_index;   /* USERS: progress through `owners` */
    size_t owners_sorted; /* those behind are added on the way: whom a carried one was merged into */
    kz_lsn carry_end;     /* SYNCING: drop when the log is durable up to here */
    int64_t next_ms;      /* real time of the next look */
};

struct kz_pipeline {
    uint32_t magic;
    struct kz_intake intake;
    struct kz_query query;
    struct kz_pipeline_options options;
    const struct kz_project *project;
    char *log_dir, *views_dir;
    struct kz_file *lock;

    struct kz_log *log; /* NULL where the parts only are used */
    struct kz_log_journal log_journal;
    struct kz_journal *journal;
    struct kz_history_reader *reader;
    struct kz_views *views;
    struct kz_sql *sql;
    struct kz_triggers *triggers;
    struct kz_infer *infer;
    struct kz_webhooks *webhooks;
    struct model *models;
    struct action *actions;
    struct kz_places places;           /* of attempts that are under way */
    size_t post_first;                 /* whose webhooks get a free place first */
    const struct kz_pl_remote *remote; /* NULL: all is here */

    int64_t now_ms;       /* our clock, of this turn */
    int64_t virtual_ms;   /* where options.virtual_clock */
    struct {              /* the machine's clock has gone back */
        int64_t since_ms; /* by the monotonic clock; 0: it has not */
        int64_t from_ms;  /* our time then */
    } behind;
    uint64_t seq;                          /* the last one written here */
    uint64_t staged_bytes, released_bytes; /* ever; the difference is not known to be on disk */
    bool failed;                           /* the log has stopped; `failure` says why */
    struct kz_err failure;
    bool closing;
    struct {
        enum kz_code
                said; /* why intake is refused, as the log of this process has it; KZ_OK: it is not */
        int64_t since_ms, last_ms;
    } refusal;

    struct due_queue due;
    struct timers timers;
    struct kz_waiter_list waiters[WAITER_BUCKETS]; /* by the request */
    struct kz_waiting waiting;
    struct kz_submission *current; /* being ingested */
    struct kz_subscription *subscriptions;
    struct kz_infer_job *jobs, **jobs_tail; /* to be handed over after the commit */
    struct kz_buf forgotten;                /* after them: uint64_t owners that were erased */
    struct kz_infer_result *held; /* virtual time: results until all are back, to go in order */
    sem_t woken;                  /* kz_pipeline_settle() sleeps on it */

    /* Scratch, reused. `body` holds the body being staged, `text` payloads and props. */
    struct kz_buf body, text, record;

    struct upkeep upkeep;
    struct kz_pipeline_counters counters;
    struct kz_pipeline_histograms histograms;
    struct {
        uint64_t seq;
        struct kz_event_timing timing;
    } * timings;
    struct { /* events staged since the last commit, for their log time */
        uint64_t seq_first;
        int64_t staged_us;
    } turn;
    uint64_t dice; /* jitter of retries only */
};

/* pipeline.c */
/* The parts that decide, for roles that keep users' states elsewhere: project, SQL, triggers, models
 * and actions compiled; no log, no infer, no webhooks, no upkeep, no thread. Of `options` only project,
 * ask, virtual_clock and actions_paused count. Journal and reader are borrowed. kz_pl_event(),
 * kz_pl_fire(), kz_pl_ask() and kz_pl_act() work on it; a request is a REQUEST record in the journal and no
 * more, timers and dues that were set are in p->timers and p->due for whoever wants them.
 * kz_pipeline_close() frees. */
KZ_MUST_USE enum kz_code kz_pl_parts_open(const struct kz_pipeline_options *options,
        struct kz_journal *journal, struct kz_history_reader *reader,
        struct kz_pipeline **ret_pipeline, struct kz_err *err);
/* Begins a transaction: `views` (taken; the ones before are freed) hold the users concerned as they
 * are, `now_ms` is our clock, which may go back. Forgets dues, timers and a failure. The journal is
 * the caller's to empty. */
void kz_pl_parts_reset(struct kz_pipeline *p, struct kz_views *views, int64_t now_ms);
int64_t kz_pl_now(struct kz_pipeline *p);
/* Stages a record and applies it (P2). */
KZ_MUST_USE enum kz_code kz_pl_put(struct kz_pipeline *p, const struct kz_log_entry *entry,
        kz_lsn *ret_lsn, uint64_t *ret_seq, struct kz_err *err);
/* Makes sure that a group of `size` bytes and its consequences go into one frame (P1). */
KZ_MUST_USE enum kz_code kz_pl_group(struct kz_pipeline *p, size_t size, struct kz_err *err);
KZ_MUST_USE enum kz_code kz_pl_commit(struct kz_pipeline *p, struct kz_err *err);
struct due *kz_pl_due(struct kz_pipeline *p, enum due_kind kind);
void kz_pl_set_timer(
        struct kz_pipeline *p, enum timer_kind kind, int64_t at_ms, uint64_t owner, uint64_t name);
void kz_pl_observe(struct kz_histogram *histogram, int64_t us);
kz_lsn kz_pl_head(struct kz_pipeline *p, uint32_t user, enum kz_chain chain);
/* A record of the user by address, on whichever of their runs; copied into `out`. */
KZ_MUST_USE enum kz_code kz_pl_get(struct kz_pipeline *p, uint32_t user, enum kz_chain chain,
        kz_lsn lsn, struct kz_buf *out, struct kz_err *err);
/* A dead letter of this turn; the payload is cut at DEAD_PAYLOAD_MAX_BYTES. */
KZ_MUST_USE enum kz_code kz_pl_dead_letter(struct kz_pipeline *p, enum kz_stage stage, uint64_t ref,
        uint64_t owner, const char *code, struct kz_str reason, const char *model,
        struct kz_str payload, struct kz_err *err);

/* pipeline_ingest.c */
void kz_pl_submit(struct kz_intake *intake, struct kz_submission *submission);
enum kz_code kz_pl_ready(struct kz_intake *intake, struct kz_err *err);
/* Stages one event of a user and what follows from it; `ask`: rules are tried. */
KZ_MUST_USE enum kz_code kz_pl_event(
        struct kz_pipeline *p, struct kz_intake_item *item, bool ask, struct kz_err *err);
/* The history of a user as of now, staged records included (the log shows them to its writer).
 * Release through the reader before the next record is put. */
KZ_MUST_USE enum kz_code kz_pl_history(struct kz_pipeline *p, uint32_t user,
        const struct kz_history_def *def, int64_t now_ms, struct kz_history_rows *ret_rows,
        struct kz_err *err);

/* pipeline_ask.c */
struct asking { /* what a request is about */
    uint32_t user;
    kz_lsn event;
    uint64_t event_seq;
    struct kz_str event_id;
    uint64_t session;
    int64_t trigger_ts_ms;
    int64_t now_ms;
    const char *trigger;
    int64_t max_age_ms;
};
/* Asks a rule's models, where its `having` holds. */
KZ_MUST_USE enum kz_code kz_pl_ask(struct kz_pipeline *p, const struct kz_rule *rule,
        const struct asking *asking, struct kz_err *err);
/* A new request like an ended one (a dead letter tried again), as of the same moment. */
KZ_MUST_USE enum kz_code kz_pl_ask_again(
        struct kz_pipeline *p, uint64_t owner, uint64_t request, struct kz_err *err);
void kz_pl_fire(struct kz_pipeline *p, const struct timer *timer);
/* What becomes of a result: RESULT, what follows from it, or a dead letter. `user` has the request
 * pending. */
KZ_MUST_USE enum kz_code kz_pl_result(struct kz_pipeline *p, uint32_t user,
        const struct kz_infer_result *result, struct kz_err *err);
/* Ends a pending request without a model: expired, superseded, dropped. */
KZ_MUST_USE enum kz_code kz_pl_end_request(struct kz_pipeline *p, uint32_t user, kz_lsn lsn,
        const struct kz_record *record, enum kz_request_end end, struct kz_err *err);
void kz_pl_results(struct kz_pipeline *p);
void kz_pl_refill(struct kz_pipeline *p);
void kz_pl_backlog_push(struct backlog *backlog, struct backlog_entry entry);
struct backlog_entry kz_pl_backlog_pop(struct backlog *backlog);
/* Ends every pending request of a model (UINT_MAX: of all); gives how many. */
uint64_t kz_pl_drop_requests(struct kz_pipeline *p, unsigned model);

/* pipeline_wait.c */
void kz_pl_wait_for(
        struct kz_pipeline *p, uint64_t request, unsigned model, struct kz_submission *submission);
void kz_pl_forget_waiters(struct kz_submission *submission);
/* Tells who submitted, and frees what was gathered for them. */
void kz_pl_submission_done(
        struct kz_submission *submission, enum kz_code code, const struct kz_err *err);
void kz_pl_finish_waiting(struct kz_pipeline *p, struct kz_submission *submission);
/* The submission being ingested matched a rule that asks at the end of its window or delay. */
void kz_pl_asked_later(struct kz_pipeline *p, const struct kz_rule *rule);
/* Answers those whose time is over, as many as a turn may. */
void kz_pl_waiters_timeout(struct kz_pipeline *p);
void kz_pl_waiting_done(struct kz_pipeline *p);
void kz_pl_result_durable(struct kz_pipeline *p, const struct due *due);
/* Where the answer is given elsewhere: of each model why the events of p->current did not ask it, as of
 * struct kz_wait_pending; NULL: it was asked. Nothing is waited for here any more. */
void kz_pl_unasked(
        struct kz_pipeline *p, struct kz_submission *submission, const char **ret_reasons);

/* pipeline_act.c */
/* Tries the actions that speak of `model` on a new prediction. */
KZ_MUST_USE enum kz_code kz_pl_act(struct kz_pipeline *p, uint32_t user, unsigned model,
        const struct kz_record *result, struct kz_err *err);
bool kz_pl_after_holds(struct kz_pipeline *p, struct model *model, uint32_t user,
        const struct kz_record *result, struct kz_err *err);
void kz_pl_decision_durable(struct kz_pipeline *p, const struct due *due);
void kz_pl_delivery_timer(struct kz_pipeline *p, const struct timer *timer);
void kz_pl_webhook_outcomes(struct kz_pipeline *p);
KZ_MUST_USE enum kz_code kz_pl_acknowledge(
        struct kz_query *query, uint32_t user, uint64_t decision, struct kz_err *err);
KZ_MUST_USE enum kz_code kz_pl_actions_open(struct kz_pipeline *p, struct kz_err *err);

/* pipeline_upkeep.c */
KZ_MUST_USE enum kz_code kz_pl_upkeep_open(struct kz_pipeline *p, struct kz_err *err);
void kz_pl_upkeep_close(struct kz_pipeline *p);
void kz_pl_upkeep_tick(struct kz_pipeline *p);
/* Writes a checkpoint of all there is, in this thread. */
KZ_MUST_USE enum kz_code kz_pl_checkpoint(struct kz_pipeline *p, struct kz_err *err);
/* The upkeep thread is to make one of all that was put until now, or more. */
KZ_MUST_USE enum kz_code kz_pl_ask_checkpoint(struct kz_pipeline *p, struct kz_err *err);
KZ_MUST_USE enum kz_code kz_pl_backup(struct kz_query *query, const char *dest,
        void (*done)(void *arg, enum kz_code code, const struct kz_err *err), void *arg,
        struct kz_err *err);
/* After a LINK to `user`: what it brought along from segments that are about to go is copied. */
KZ_MUST_USE enum kz_code kz_pl_linked(struct kz_pipeline *p, uint32_t user, struct kz_err *err);

/* pipeline_erase.c */
KZ_MUST_USE enum kz_code kz_pl_erase(struct kz_query *query, struct kz_user_key key,
        const char *who, uint64_t *ret_erasure, struct kz_err *err);
uint64_t kz_pl_tombstone_hash(const struct kz_pipeline *p, struct kz_user_key key);
uint64_t kz_tombstone_hash(const struct kz_project *project, struct kz_user_key key);
/* At open: erases again whom the file beside the log names and the log does not. */
KZ_MUST_USE enum kz_code kz_pl_erasures_open(struct kz_pipeline *p, struct kz_err *err);
/* Adds to that file what it does not have; tried again at the next tick where that fails. */
void kz_pl_erasures_note(struct kz_pipeline *p);
/* What is to be left out by the next sealing, into p->upkeep; gives how many erasures are open. */
size_t kz_pl_collect_erased(struct kz_pipeline *p);
/* Begins to carry out what was asked for until now. */
KZ_MUST_USE enum kz_code kz_pl_erase_round(struct kz_pipeline *p, struct kz_err *err);
/* The sealing has ended well. */
void kz_pl_erasures_done(struct kz_pipeline *p);
int kz_pl_by_owner(const void *a, const void *b); /* uint64_t */

/* pipeline_query.c */
extern const struct kz_query_ops kz_pl_query_ops;
/* Stages an operator's word. */
KZ_MUST_USE enum kz_code kz_pl_control(struct kz_pipeline *p, struct kz_str verb,
        struct kz_str object, const char *who, struct kz_err *err);
/* The news of a record that became durable. */
void kz_pl_publish(struct kz_pipeline *p, enum kz_news_kind kind, const struct kz_record *record);
/* An id that led to `owner` leads to somebody else from now on. */
void kz_pl_tell_linked(struct kz_pipeline *p, uint64_t owner);

static inline struct kz_pipeline *kz_pl_of_query(struct kz_query *query)
{
    struct kz_pipeline *p = KZ_CONTAINER_OF(query, struct kz_pipeline, query);

    KZ_CHECK_MAGIC(p, PIPELINE_MAGIC);
    return p;
}
