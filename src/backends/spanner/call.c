/* What a failure means, and how long to wait after one. */
#include "backends/spanner/spanner_int.h"

bool kz_sp_session_lost(enum kz_code code, const struct kz_err *err)
{
    return code == KZ_NOT_FOUND && kz_rpc_status() == KZ_RPC_NOT_FOUND &&
           strstr(err->message, "Session not found");
}

static enum kz_code code_of(enum kz_code code, const struct kz_err *err)
{
    if (kz_sp_session_lost(code, err))
        return KZ_UNAVAILABLE;
    /* FAILED_PRECONDITION is no change of somebody else's: a value that is too large, a transaction
     * that is over. Beginning again would not help. */
    if (code == KZ_CONFLICT && kz_rpc_status() == KZ_RPC_FAILED_PRECONDITION)
        return KZ_INVALID;
    return code;
}

static void add_remedy(const struct kz_sp *sp, enum kz_code code, struct kz_err *err)
{
    if (code == KZ_NOT_FOUND)
        kz_hint(err,
                "`kizashi gcp migrate DIR` creates database and tables; the instance is created "
                "with gcloud spanner instances create %s",
                sp->instance);
    else if (code == KZ_FORBIDDEN)
        kz_hint(err,
                "grant roles/spanner.databaseUser on database %s to the service account; "
                "roles/spanner.databaseAdmin to whoever runs kizashi gcp migrate",
                sp->database);
}

enum kz_code kz_sp_failed(struct kz_sp *sp, enum kz_code code, struct kz_err *err)
{
    struct kz_err local = {0};

    if (!err)
        err = &local;
    err->code = code = code_of(code, err);
    kz_wrap(err, "database \"%s\" of Spanner instance \"%s\" in project \"%s\"", sp->database,
            sp->instance, sp->project);
    if (code == KZ_CONFLICT) /* is everyday life */
        return code;
    add_remedy(sp, code, err);
    kz_rpc_health_failed(&sp->health, code, err->message);
    return code;
}

/* ---- after a failure --------------------------------------------------------------------- */

static _Thread_local struct {
    const struct kz_sp *sp;
    unsigned tries;
    int64_t asked_ms;
    bool conflict;
} waiting;

void kz_sp_note_failure(struct kz_sp *sp, enum kz_code code)
{
    if (waiting.sp != sp)
        waiting.tries = 0;
    waiting.sp = sp;
    waiting.tries++;
    waiting.asked_ms = kz_rpc_retry_ms();
    waiting.conflict = code == KZ_CONFLICT;
    if (waiting.conflict)
        atomic_fetch_add(&sp->conflicts, 1);
}

void kz_sp_note_commit(struct kz_sp *sp)
{
    if (waiting.sp == sp)
        waiting.sp = NULL;
}

int64_t kz_sp_retry_ms(struct kz_store *store)
{
    unsigned tries;

    if (waiting.sp != kz_sp_of(store))
        return 0;
    tries = waiting.tries - 1;
    if (waiting.conflict)
        tries = KZ_MIN(tries, (unsigned)KZ_SP_CONFLICT_TRIES);
    return KZ_MAX(kz_rpc_backoff_ms(tries), waiting.asked_ms);
}
