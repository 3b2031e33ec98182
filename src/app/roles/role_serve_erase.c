/* app/roles/role_serve_erase.c -- a user's erasure: two passes over store and rows, the second when what was
 * under way at the first has ended.
 *
 *     asked -> [noted] -> first pass -> answered -> 60 s -> second pass -> [out of the note]
 *                             '-- killed here: whoever reads the note takes it over, 15 s later --'
 *
 * Both passes do the same, and again does no harm.
 */

#include "app/roles/role_serve_int.h"

#include <inttypes.h>
#include <stdlib.h>

#include "app/pipeline/pipeline_int.h"
#include "app/roles/openerasures.h"
#include "app/roles/userstate.h"
#include "base/diag.h"
#include "sys/clock.h"

enum { TRIES_MAX = 20 };

/* A user and the ids merged into them. */
struct going {
    struct kz_open_erasure owners[KZ_SOURCES_MAX + 1];
    size_t count;
};

/* ---- erasure -------------------------------------------------------------------------------------------- */

static void add_going(struct change *change, const struct kz_user_state *state)
{
    struct going *going = change->going;

    if (going->count == KZ_ARRAY_COUNT(going->owners))
        return;
    going->owners[going->count++] = (struct kz_open_erasure){
            .erasure = change->decision,
            .at_ms = change->at_ms,
            .due_ms = kz_clock_ms() + change->job.role->second_pass_ms,
            .stone = kz_tombstone_hash(change->job.role->env->project, state->key),
            .owner = state->owner,
    };
}

static enum kz_code find_in(
        struct change *change, struct kz_user_key key, struct kz_buf *bytes, struct kz_err *err)
{
    struct kz_store *store = change->job.role->env->store;
    struct kz_store_user users[KZ_SOURCES_MAX + 2] = {{.owner = kz_owner_hash(key, 0)}};
    struct kz_user_state state, user;
    uint64_t owner = users[0].owner;
    size_t count = 1;

    KZ_TRY(store->ops->users(store, users, 1, bytes, err));
    if (users[0].state.size) {
        KZ_TRY(kz_user_state_decode(users[0].state, &state, err));
        owner = state.to_owner ? state.to_owner : owner;
    }
    users[0].owner = owner;
    KZ_TRY(store->ops->users(store, users, 1, bytes, err));
    if (!users[0].state.size)
        return kz_fail(err, KZ_NOT_FOUND, "nothing is known of this user");
    KZ_TRY(kz_user_state_decode(users[0].state, &user, err));
    for (size_t at = 0; at + 8 <= user.linked.size && count < KZ_ARRAY_COUNT(users); at += 8)
        users[count++].owner = kz_load_u64(user.linked.ptr + at);
    KZ_TRY(store->ops->users(store, users, count, bytes, err)); /* all of one moment */
    for (size_t i = 0; i < count; i++) {
        if (!users[i].state.size)
            continue;
        KZ_TRY(kz_user_state_decode(users[i].state, &state, err));
        if (i == 0 || state.merged == owner) /* one that only leads here keeps its own past */
            add_going(change, &state);
    }
    return KZ_OK;
}

static enum kz_code find_going(struct change *change, struct kz_err *err)
{
    struct kz_buf bytes = {0};
    enum kz_code rc;

    change->going = kz_calloc(1, sizeof(*change->going));
    rc = find_in(change, (struct kz_user_key){change->kind, kz_str(change->object)}, &bytes, err);
    kz_buf_done(&bytes);
    return rc;
}

/* ---- the note ------------------------------------------------------------------------------------------ */

/* That the erasure is open, or is no more. */
static enum kz_code note(const struct change *change, bool is_open, struct kz_err *err)
{
    struct kz_predictions *predictions = change->job.role->env->predictions;
    const struct going *going = change->going;
    struct kz_buf before = {0}, after = {0};
    enum kz_code rc = KZ_CONFLICT;

    for (unsigned i = 0; i < TRIES_MAX && rc == KZ_CONFLICT; i++) {
        rc = predictions->ops->word(predictions, KZ_OPEN_ERASURES_WORD, &before, err);
        if (rc == KZ_OK)
            rc = kz_open_erasures_change(kz_buf_view(&before), change->decision, change->at_ms,
                    going->owners, is_open ? going->count : 0, &after, err);
        if (rc == KZ_OK && !kz_str_eq(kz_buf_view(&before), kz_buf_view(&after)))
            rc = predictions->ops->set_word(predictions, KZ_OPEN_ERASURES_WORD,
                    kz_buf_view(&before), kz_buf_view(&after), err);
    }
    kz_buf_done(&before);
    kz_buf_done(&after);
    return rc;
}

/* ---- a pass -------------------------------------------------------------------------------------------- */

static enum kz_code erase_all(struct change *change, int64_t done_at_ms, struct kz_err *err)
{
    struct role_serve *role = change->job.role;
    const struct going *going = change->going;
    struct kz_store *store = role->env->store;
    struct kz_predictions *predictions = role->env->predictions;
    struct kz_stone stone = {
            .erasure = change->decision, .at_ms = change->at_ms, .done_at_ms = done_at_ms};
    struct kz_buf body = {0};
    enum kz_code rc;

    kz_stone_encode(&stone, &body);
    /* Under the id that was asked about, so that it can be looked up, and under each that goes, so
     * that what comes late of it brings nobody back. */
    rc = store->ops->erase(store, change->decision, kz_buf_view(&body), NULL, 0, err);
    for (size_t i = going->count; i-- > 0 && rc == KZ_OK;) /* the user last: it names the others */
        rc = store->ops->erase(
                store, going->owners[i].stone, kz_buf_view(&body), &going->owners[i].owner, 1, err);
    for (size_t i = 0; i < going->count && rc == KZ_OK; i++)
        rc = predictions->ops->erase(predictions, going->owners[i].owner, err);
    kz_buf_done(&body);
    return rc;
}

static void erased(struct job *job)
{
    struct change *change = KZ_CONTAINER_OF(job, struct change, job), **at = &job->role->changes;

    if (!change->going || job->code != KZ_OK || change->ended) {
        if (change->ended && job->code != KZ_OK)
            kz_diag_warn("an erasure could not be finished yet", "erasure=%" PRIu64 " error=\"%s\"",
                    change->decision, job->err.message);
        kz_change_done(job);
        return;
    }
    /* The caller has its answer; what was under way then is erased in a second pass. */
    change->ended = true;
    if (change->then)
        change->then(change->arg, KZ_OK, NULL);
    change->then = NULL;
    change->due_ms = kz_mono_ms() + job->role->second_pass_ms;
    while (*at != change)
        at = &(*at)->next;
    *at = change->next;
    change->next = job->role->erasing;
    job->role->erasing = change;
}

/* The first pass where `ended` is not set, else the second. */
static void run_erase(struct job *job)
{
    struct change *change = KZ_CONTAINER_OF(job, struct change, job);

    if (!change->ended) {
        job->code = find_going(change, &job->err);
        if (job->code == KZ_OK)
            job->code = note(change, true, &job->err);
        if (job->code == KZ_OK)
            job->code = erase_all(change, 0, &job->err);
        return;
    }
    job->code = erase_all(change, kz_clock_ms(), &job->err);
    if (job->code == KZ_OK)
        job->code = note(change, false, &job->err);
}

static void begin_second_passes(struct role_serve *role)
{
    for (struct change **at = &role->erasing; *at;) {
        struct change *change = *at;

        if (kz_mono_ms() < change->due_ms) {
            at = &change->next;
            continue;
        }
        *at = change->next;
        change->next = role->changes;
        role->changes = change;
        kz_serve_job(role, &change->job);
    }
}

/* ---- what others have left behind ---------------------------------------------------------------------- */

struct look {
    struct job job;     /* first */
    struct kz_buf open; /* struct kz_open_erasure */
};

static void run_look(struct job *job)
{
    struct look *look = KZ_CONTAINER_OF(job, struct look, job);
    struct kz_predictions *predictions = job->role->env->predictions;
    struct kz_buf word = {0};

    job->code = predictions->ops->word(predictions, KZ_OPEN_ERASURES_WORD, &word, &job->err);
    if (job->code == KZ_OK)
        job->code = kz_open_erasures_read(kz_buf_view(&word), &look->open, &job->err);
    kz_buf_done(&word);
}

static bool is_ours(const struct change *list, const struct kz_open_erasure *open)
{
    for (; list; list = list->next)
        if (list->going && list->decision == open->erasure && list->at_ms == open->at_ms)
            return true;
    return false;
}

/* `count` owners of one erasure. */
static void take_over(struct role_serve *role, const struct kz_open_erasure *open, size_t count)
{
    struct change *change;

    if (open->due_ms + role->take_over_ms > kz_clock_ms() || is_ours(role->changes, open) ||
            is_ours(role->erasing, open))
        return;
    change = kz_change_begin(role, run_erase);
    change->job.done = erased;
    change->ended = true;
    change->decision = open->erasure;
    change->at_ms = open->at_ms;
    change->going = kz_calloc(1, sizeof(*change->going));
    change->going->count = KZ_MIN(count, KZ_ARRAY_COUNT(change->going->owners));
    memcpy(change->going->owners, open, change->going->count * sizeof(*open));
    kz_diag_info("an erasure that another began is finished", "erasure=%" PRIu64, open->erasure);
    kz_serve_job(role, &change->job);
}

static void looked(struct job *job)
{
    struct look *look = KZ_CONTAINER_OF(job, struct look, job);
    struct role_serve *role = job->role;
    const struct kz_open_erasure *open = (const void *)look->open.data;
    size_t count = look->open.size / sizeof(*open);

    role->look_ms = kz_mono_ms() + role->look_every_ms;
    if (job->code != KZ_OK)
        kz_diag_warn("open erasures could not be read", "error=\"%s\"", job->err.message);
    for (size_t at = 0, end; at < count && !role->stopping; at = end) {
        end = at + 1;
        while (end < count && open[end].erasure == open[at].erasure &&
                open[end].at_ms == open[at].at_ms)
            end++;
        take_over(role, &open[at], end - at);
    }
    kz_buf_done(&look->open);
    free(look);
}

void kz_serve_erase_again(struct role_serve *role)
{
    struct look *look;

    begin_second_passes(role);
    if (kz_mono_ms() < role->look_ms)
        return;
    role->look_ms = INT64_MAX; /* until it has come back */
    look = kz_calloc(1, sizeof(*look));
    look->job = (struct job){.role = role, .run = run_look, .done = looked};
    kz_serve_job(role, &look->job);
}

/* ---- asking for one ------------------------------------------------------------------------------------ */

enum kz_code kz_serve_forget(struct kz_query *query, struct kz_user_key key, const char *who,
        uint64_t *ret_erasure, struct kz_err *err)
{
    struct role_serve *role = kz_role_serve_of(query);
    struct change *change;

    if (!role->current || !role->current->known)
        return kz_fail(err, KZ_NOT_FOUND, "nothing is known of this user");
    change = kz_change_begin(role, run_erase);
    change->job.done = erased;
    change->at_ms = kz_clock_ms();
    change->kind = key.kind;
    change->object = kz_strndup(key.id.ptr, key.id.size);
    change->decision = *ret_erasure = kz_tombstone_hash(role->env->project, key);
    role->counters.erasures_total++;
    kz_diag_info("operator", "verb=erase by=%s erasure=%" PRIu64, who, *ret_erasure);
    kz_serve_job(role, &change->job);
    return KZ_OK;
}
