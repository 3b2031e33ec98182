/* trigger/trigger.h -- when is which model asked?
 *
 * A rule's decision is a step function: the rule, the state kept of one user, one event or one due
 * timer in; what to record and whether to ask out. It changes nothing itself: the pipeline logs the
 * ops and applies them (history/apply.c), so that a crash between the two cannot part them.
 *
 *               match / WINDOW + ask          due, pending / FIRE + ask
 *   debounce:  shut ---------------------> open -------------------------> shut
 *                                          | match / PENDING (the last one counts)
 *                match / DELAY                      due / FIRE + ask if having
 *   delay:     idle --------------> armed (restarts with each match) ---------------> idle
 *                                     | unless / CANCEL -> idle
 *   count:     every match / COUNT; the reaches-th within `within` / REACHED + ask, until rearmed
 *
 * All times here are on the event clock (ts). Invariants:
 *   T1  at most one timer of a rule and user is armed: delay_due, or window_due with pending.
 *   T2  a debounced rule asks at most twice about a user in debounce_ms of ts: at once and at the
 *       end of the window.
 *
 * Threads  a kz_triggers belongs to the thread of its kz_sql. The steps are pure.
 */
#pragma once

#include "contract/sql.h"
#include "contract/state.h"

struct kz_triggers;

/* Compiles every rule of the project; all errors of all rules are reported through `report`
 * (one call each) and KZ_CONFIG is returned. */
KZ_MUST_USE enum kz_code kz_triggers_open(const struct kz_project *project, struct kz_sql *sql,
        void (*report)(void *arg, const struct kz_err *err), void *arg,
        struct kz_triggers **ret_triggers, struct kz_err *err);
void kz_triggers_close(struct kz_triggers *triggers);
KZ_DEFINE_FREEP(struct kz_triggers, kz_triggers_close)

struct kz_rule {
    const struct kz_trigger_def *def;
    uint64_t name; /* kz_name_hash */
    unsigned index;
    unsigned *models; /* indices of the models it asks */
    size_t model_count;
    struct kz_sql_expr *when, *unless, *having;
};
const struct kz_rule *kz_triggers_by_name(const struct kz_triggers *triggers, uint64_t name);

/* What of an event concerns which rules. */
struct kz_match {
    const struct kz_rule *rule;
    bool when;
    bool unless;
};
enum { KZ_MATCHES_MAX = 256 };
/* Evaluates the rules whose names can match; gives only those where something is true. A rule whose
 * SQL fails on this event goes to `failed` (may be called several times) and counts as no match. */
size_t kz_triggers_match(struct kz_triggers *triggers, const struct kz_event *event,
        struct kz_match matches[KZ_MATCHES_MAX],
        void (*failed)(void *arg, const struct kz_rule *rule, const struct kz_err *err), void *arg);

enum { KZ_STEP_OPS_MAX = 4 };
struct kz_trigger_step {
    struct {
        enum kz_trigger_op op;
        int64_t due_ms;
        int64_t event_ts_ms;
        kz_lsn event;
    } ops[KZ_STEP_OPS_MAX];
    size_t op_count;
    bool ask;           /* request the rule's models (having permitting) */
    kz_lsn ask_event;   /* the trigger event */
    int64_t ask_ts_ms;  /* its ts */
    int64_t ask_now_ms; /* @now before it is held to the user's latest ts */
    int64_t timer_ms;   /* a timer to set, 0 none: the one that is set tells kz_trigger_due() */
};

/* `state` NULL: nothing kept yet. `hits` is how many earlier hits of a count rule lie in its window,
 * that is after ts_ms - within. */
void kz_trigger_on_event(const struct kz_trigger_def *def, const struct kz_trigger_state *state,
        size_t hits, const struct kz_match *match, int64_t ts_ms, kz_lsn event,
        struct kz_trigger_step *ret_step);
/* Gives op_count 0 where the timer was overtaken: cancelled, restarted, fired. What was restarted is
 * due at kz_trigger_due(), and the caller's to wait for: on_event sets no timer for it. */
void kz_trigger_on_timer(
        const struct kz_trigger_state *state, int64_t due_ms, struct kz_trigger_step *ret_step);
/* The timer that `state` stands for, 0 for none; to set timers again after a restart. */
int64_t kz_trigger_due(const struct kz_trigger_state *state);
