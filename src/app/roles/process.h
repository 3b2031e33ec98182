/* app/roles/process.h -- events of many users into the shared store, each with all that follows from it,
 * in one transaction: what the process role does, without its threads.
 *
 *     items -> read states, ids, stones -> views -> kz_pl_event(), kz_pl_fire() -> commit
 *                      ^                                                          |
 *                      +------------------- conflict: again ----------------------+
 *                                                       requests: the caller publishes them
 *
 * Invariants
 *   S1  a user's records, state, ids, timers and requests change in one commit or not at all.
 *   S2  addresses, and with them the state, follow from the order of a user's events alone: not
 *       from clocks of this process, nor from whose events came between.
 *   S3  an event is in the store once: its id goes in with it, and is looked for in the same
 *       transaction.
 *   S4  before an event received at T is taken, the timers of its user due by T have fired.
 *   S5  a request is in the outbox until it is known to be published.
 *
 * Threads  one each; several in a process, and many processes, beside each other.
 */
#pragma once

#include "contract/intake.h"
#include "contract/query.h"
#include "contract/store.h"

struct kz_process;

struct kz_process_options {
    const struct kz_project *project; /* borrowed, as the store */
    struct kz_store *store;
    bool silent; /* history from before (import): nothing is asked, no timer fires */
};

KZ_MUST_USE enum kz_code kz_process_open(const struct kz_process_options *options,
        struct kz_process **ret_process, struct kz_err *err);
void kz_process_close(struct kz_process *process);
KZ_DEFINE_FREEP(struct kz_process, kz_process_close)

/* An event that somebody waits for: of each model of the project why the event did not ask it; NULL:
 * it did, or did when it came before. */
struct kz_process_unasked {
    struct kz_str awaited;
    const char **reasons;
};

/* Requests that were committed, to be published and then taken out of the outbox. Good until the
 * next call. */
struct kz_process_outcome {
    const struct kz_store_request *requests;
    size_t request_count;
    const struct kz_process_unasked *unasked; /* [unasked_count] */
    size_t unasked_count;
};

/* Takes events in their order (received_at set; state, seq and session are set here; rejected ones
 * become dead letters) in one transaction; on KZ_CONFLICT it begins again by itself, some times.
 * Nothing was taken where it fails, or, after KZ_TIMEOUT and KZ_UNAVAILABLE, all of it perhaps:
 * call it again, ids tell. kz_process_is_poison(): it will fail again, however often these items
 * come. */
KZ_MUST_USE enum kz_code kz_process_events(struct kz_process *process,
        struct kz_intake_item *const *items, size_t count, struct kz_process_outcome *ret_outcome,
        struct kz_err *err);
static inline bool kz_process_is_poison(enum kz_code code)
{
    /* All else may be mended while they wait: a right, a table, a version. */
    return code == KZ_INVALID || code == KZ_TOO_LARGE || code == KZ_CORRUPT;
}
/* Fires timers as the store's due() gave them: each as of its due time, before it the earlier ones
 * of the same user. One that was overtaken does nothing and is gone. */
KZ_MUST_USE enum kz_code kz_process_timers(struct kz_process *process,
        const struct kz_store_timer *timers, size_t count, struct kz_process_outcome *ret_outcome,
        struct kz_err *err);

/* Since it was opened; `retries`: transactions begun again. */
void kz_process_counters(const struct kz_process *process,
        struct kz_pipeline_counters *ret_counters, uint64_t *ret_retries);
