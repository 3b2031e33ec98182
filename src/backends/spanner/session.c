/* The pool of sessions.
 *
 * A session carries one transaction at a time and costs nothing while it waits, so there are as
 * many as transactions and reads have ever been under way at once. The service forgets one that is
 * not used for an hour, and any of them when it likes: one that has waited for long is not tried at
 * all, and whoever finds one forgotten takes another.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "backends/spanner/spanner_int.h"
#include "sys/clock.h"

enum { IDLE_MAX_MS = 45 * 60000, MAKE_MIN = 2, MAKE_MAX = 25, DELETE_TIMEOUT_MS = 1000 };

static void session_free(struct kz_sp_session *session)
{
    free(session->name);
    free(session);
}

/* All under the lock. */
static struct kz_sp_session *pop(struct kz_sp *sp)
{
    int64_t now_ms = kz_mono_ms();

    while (sp->sessions) {
        struct kz_sp_session *session = sp->sessions;

        sp->sessions = session->next;
        if (now_ms - session->used_ms < IDLE_MAX_MS)
            return session;
        sp->session_count--;
        session_free(session);
    }
    return NULL;
}

static void push(struct kz_sp *sp, struct kz_sp_session *session)
{
    session->next = sp->sessions;
    sp->sessions = session;
    pthread_cond_signal(&sp->sessions_there);
}

/* Not under the lock. */
static enum kz_code make(struct kz_sp *sp, unsigned count, struct kz_err *err)
{
    KZ_SP(BatchCreateSessionsRequest)
    request = GOOGLE__SPANNER__V1__BATCH_CREATE_SESSIONS_REQUEST__INIT;
    const struct kz_rpc_options options = {
            .method = "/google.spanner.v1.Spanner/BatchCreateSessions",
            .timeout_ms = sp->timeout_ms,
            .idempotent = true, /* what is made and not heard of is forgotten within an hour */
            .routing = sp->routing,
            .resource = sp->database_name,
    };
    const KZ_SP(BatchCreateSessionsResponse) * response;
    ProtobufCMessage *answer = NULL;

    request.database = sp->database_name;
    request.session_count = (int32_t)count;
    KZ_TRY(kz_rpc_call(sp->data, &options, &request.base,
            &google__spanner__v1__batch_create_sessions_response__descriptor, &answer, err));
    response = (const void *)answer;
    pthread_mutex_lock(&sp->sessions_lock);
    for (size_t i = 0; i < response->n_session; i++) {
        struct kz_sp_session *session = kz_calloc(1, sizeof(*session));

        session->name = kz_strdup(response->session[i]->name);
        session->used_ms = kz_mono_ms();
        sp->session_count++;
        push(sp, session);
    }
    pthread_mutex_unlock(&sp->sessions_lock);
    count = (unsigned)response->n_session;
    protobuf_c_message_free_unpacked(answer, NULL);
    return count ? KZ_OK : kz_fail(err, KZ_UNAVAILABLE, "Spanner gave no session");
}

/* Under the lock; false: not in time. */
static bool wait_for_one(struct kz_sp *sp, int64_t until_ms)
{
    struct timespec until = {until_ms / 1000, until_ms % 1000 * 1000000};

    return pthread_cond_timedwait(&sp->sessions_there, &sp->sessions_lock, &until) != ETIMEDOUT;
}

enum kz_code kz_sp_session_take(
        struct kz_sp *sp, struct kz_sp_session **ret_session, struct kz_err *err)
{
    const int64_t until_ms = kz_mono_ms() + sp->timeout_ms;
    struct kz_sp_session *session;
    enum kz_code rc = KZ_OK;

    pthread_mutex_lock(&sp->sessions_lock);
    while (!(session = pop(sp)) && rc == KZ_OK) {
        unsigned there = sp->session_count + sp->session_making, want;

        if (there >= sp->session_max) {
            if (!wait_for_one(sp, until_ms))
                rc = kz_fail(err, KZ_OVERLOADED, "all %u sessions are busy", sp->session_max);
            continue;
        }
        want = KZ_MIN(KZ_MIN(KZ_MAX(there / 2, (unsigned)MAKE_MIN), (unsigned)MAKE_MAX),
                sp->session_max - there);
        sp->session_making += want;
        pthread_mutex_unlock(&sp->sessions_lock);
        rc = make(sp, want, err);
        pthread_mutex_lock(&sp->sessions_lock);
        sp->session_making -= want;
        if (rc != KZ_OK)
            pthread_cond_broadcast(&sp->sessions_there); /* others may make some themselves */
    }
    if (session && rc != KZ_OK)
        rc = KZ_OK; /* somebody gave one back meanwhile */
    pthread_mutex_unlock(&sp->sessions_lock);
    if (session)
        *ret_session = session;
    return rc;
}

void kz_sp_session_give(struct kz_sp *sp, struct kz_sp_session *session, bool lost)
{
    if (!session)
        return;
    session->used_ms = kz_mono_ms();
    pthread_mutex_lock(&sp->sessions_lock);
    if (lost) {
        sp->session_count--;
        pthread_cond_signal(&sp->sessions_there);
    } else {
        push(sp, session);
    }
    pthread_mutex_unlock(&sp->sessions_lock);
    if (lost)
        session_free(session);
}

static enum kz_code delete_session(struct kz_sp *sp, struct kz_sp_session *session)
{
    KZ_SP(DeleteSessionRequest) request = GOOGLE__SPANNER__V1__DELETE_SESSION_REQUEST__INIT;
    const struct kz_rpc_options options = {
            .method = "/google.spanner.v1.Spanner/DeleteSession",
            .timeout_ms = DELETE_TIMEOUT_MS,
            .routing = sp->routing,
            .resource = sp->database_name,
    };
    ProtobufCMessage *answer = NULL;
    enum kz_code rc;

    request.name = session->name;
    rc = kz_rpc_call(sp->data, &options, &request.base, &google__spanner__v1__empty__descriptor,
            &answer, NULL);
    if (rc == KZ_OK)
        protobuf_c_message_free_unpacked(answer, NULL);
    return rc;
}

void kz_sp_sessions_done(struct kz_sp *sp)
{
    /* The emulator takes a session away under a transaction that still runs in it, and crashes. */
    bool told = !sp->emulator;

    while (sp->sessions) {
        struct kz_sp_session *session = sp->sessions;

        sp->sessions = session->next;
        /* A service that is away is not waited for: it forgets them by itself. */
        told = told && delete_session(sp, session) == KZ_OK;
        session_free(session);
    }
}
