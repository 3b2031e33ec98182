/* app/roles/role_serve_query.c -- contract/query.h over a snapshot: what the handlers of serve/ ask. */

#include "app/roles/role_serve_int.h"

#include <stdlib.h>

#include "app/roles/userstate.h"
#include "base/hash.h"
#include "sys/clock.h"

enum { KNOWN_AGE_MS = 5000, PASSING_USER = UINT32_MAX };

/* ---- preparing ------------------------------------------------------------------------------------- */

static struct known *known_of(struct role_serve *role, struct kz_user_key key)
{
    return &role->known[kz_owner_hash(key, 0) & (KNOWN_MAX - 1)];
}

static void remember(struct role_serve *role, const struct snapshot *s)
{
    struct known *known = known_of(role, s->want.key);
    uint64_t hash = kz_owner_hash(s->want.key, 0);

    *known = (struct known){hash, s->known ? s->owner : hash, kz_mono_ms(), false};
}

static void prepared(struct job *job)
{
    struct snapshot *s = KZ_CONTAINER_OF(job, struct snapshot, job);
    struct role_serve *role = job->role;

    *(s->prev ? &s->prev->next : &role->preparing) = s->next;
    if (s->next)
        s->next->prev = s->prev;
    role->counts.prepare_failed_total += job->code != KZ_OK;
    if (job->code == KZ_TIMEOUT) /* the caller's request was in time */
        job->code = job->err.code = KZ_UNAVAILABLE;
    if (job->code == KZ_OK && s->want.what & KZ_WANT_USER)
        remember(role, s);
    role->current = s;
    if (s->then)
        s->then(s->arg, job->code, &job->err);
    role->current = NULL;
    kz_snapshot_free(s);
}

static void prepare(struct kz_query *query, const struct kz_query_want *want,
        void (*then)(void *arg, enum kz_code code, const struct kz_err *err), void *arg)
{
    struct role_serve *role = kz_role_serve_of(query);
    struct snapshot *s = kz_calloc(1, sizeof(*s));

    s->job = (struct job){.role = role, .run = kz_snapshot_load, .done = prepared};
    s->want = *want;
    s->id = kz_strndup(want->key.id.ptr ? want->key.id.ptr : "", want->key.id.size);
    s->want.key.id.ptr = s->id;
    s->timed_event = kz_strndup(
            want->timed_event.ptr ? want->timed_event.ptr : "", want->timed_event.size);
    s->want.timed_event.ptr = s->timed_event;
    s->then = then;
    s->arg = arg;
    s->next = role->preparing;
    if (s->next)
        s->next->prev = s;
    role->preparing = s;
    role->counts.prepared_total++;
    kz_serve_job(role, &s->job);
}

void kz_serve_give_up(struct role_serve *role)
{
    struct kz_err err;

    (void)kz_fail(&err, KZ_UNAVAILABLE, "stopping");
    for (struct snapshot *s = role->preparing; s; s = s->next) {
        if (s->then)
            s->then(s->arg, KZ_UNAVAILABLE, &err);
        s->then = NULL;
    }
}

/* ---- the user ---------------------------------------------------------------------------------------- */

/* Outside of a snapshot (streams, once a second): whom the key belonged to a moment ago. */
static bool find_passing(struct role_serve *role, struct kz_user_key key, uint32_t *ret_user)
{
    struct known *known = known_of(role, key);
    struct kz_query_want want = {.what = KZ_WANT_USER, .key = key};

    if (!known->at_ms || known->hash != kz_owner_hash(key, 0))
        *known = (struct known){.hash = kz_owner_hash(key, 0), .owner = kz_owner_hash(key, 0)};
    if (!known->asked && kz_mono_ms() - known->at_ms > KNOWN_AGE_MS) {
        known->asked = true;
        prepare(&role->query, &want, NULL, NULL);
    }
    role->passing = (struct kz_user){.owner = known->owner};
    *ret_user = PASSING_USER;
    return true;
}

static bool find(struct kz_query *query, struct kz_user_key as_sent, uint32_t *ret_user)
{
    struct role_serve *role = kz_role_serve_of(query);
    const struct snapshot *s = role->current;

    if (!s || s->want.key.kind != as_sent.kind || !kz_str_eq(s->want.key.id, as_sent.id))
        return find_passing(role, as_sent, ret_user);
    if (!s->known)
        return false;
    *ret_user = s->user;
    return true;
}

static const struct kz_user *user_of(struct kz_query *query, uint32_t user)
{
    struct role_serve *role = kz_role_serve_of(query);

    return user == PASSING_USER || !role->current ? &role->passing
                                                  : kz_views_user(role->current->views, user);
}

static struct kz_user_key key_of(struct kz_query *query, uint32_t user)
{
    const struct snapshot *s = kz_role_serve_of(query)->current;

    return s && user != PASSING_USER ? kz_views_key(s->views, user)
                                     : (struct kz_user_key){'u', KZ_STR_NULL};
}

static size_t sources_of(struct kz_query *query, uint32_t user, enum kz_chain chain,
        struct kz_source out[KZ_SOURCES_MAX])
{
    const struct snapshot *s = kz_role_serve_of(query)->current;

    return s && user != PASSING_USER ? kz_views_sources(s->views, user, chain, UINT64_MAX, out) : 0;
}

static const struct kz_slot *slot_of(
        struct kz_query *query, uint32_t user, enum kz_slot_kind kind, const struct kz_slot *after)
{
    const struct snapshot *s = kz_role_serve_of(query)->current;

    if (!s || user == PASSING_USER)
        return NULL;
    return after ? kz_views_slot_next(s->views, after, kind, 0)
                 : kz_views_slot(s->views, user, kind, 0);
}

/* ---- records --------------------------------------------------------------------------------------- */

static struct role_serve *role_of_reader(struct kz_history_reader *reader)
{
    return KZ_CONTAINER_OF(reader, struct role_serve, reader);
}

static enum kz_code reader_scan(struct kz_history_reader *reader,
        const struct kz_history_query *query, struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct role_serve *role = role_of_reader(reader);
    struct gathered *mine,
            *there = role->current ? (struct gathered *)&role->current->history[query->chain]
                                   : NULL;

    if (!there || !there->there)
        return kz_fail(err, KZ_UNAVAILABLE, "the history was not brought near");
    mine = kz_malloc(sizeof(*mine));
    *mine = *there;
    *there = (struct gathered){0};
    *ret_rows = (struct kz_history_rows){
            .records = mine->records,
            .lsns = (const kz_lsn *)(const void *)mine->lsns.data,
            .count = mine->count,
            .truncated = mine->truncated,
            .priv = mine,
    };
    return KZ_OK;
}

static void reader_release(struct kz_history_reader *reader, struct kz_history_rows *rows)
{
    (void)reader;
    if (rows->priv)
        kz_gathered_done(rows->priv);
    free(rows->priv);
    *rows = (struct kz_history_rows){0};
}

static enum kz_code reader_scan_all(struct kz_history_reader *reader, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err)
{
    (void)reader, (void)from, (void)until, (void)each, (void)arg;
    return kz_fail(err, KZ_UNSUPPORTED, "a snapshot of a user has no log");
}

static const struct kz_record *letter_of(const struct snapshot *s, uint64_t seq, uint64_t owner)
{
    for (size_t at = 0; at + sizeof(struct kz_record) <= s->letters.size;) {
        const struct kz_record *record = (const void *)(s->letters.data + at);

        if (record->seq == seq && record->owner == owner)
            return record;
        at += KZ_ALIGN8((size_t)record->size);
    }
    return NULL;
}

static enum kz_code reader_get(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    const struct snapshot *s = role_of_reader(reader)->current;
    const struct kz_record *record = NULL;

    for (size_t i = 0; s && i < s->row_count && !record; i++)
        record = kz_rowstate_record(&s->rows[i], lsn);
    if (s && !record)
        record = letter_of(s, lsn, owner);
    if (!record)
        return kz_fail(err, KZ_NOT_FOUND, "record %llu is not kept", (unsigned long long)lsn);
    kz_buf_clear(out);
    kz_buf_put(out, record, record->size);
    return KZ_OK;
}

const struct kz_history_reader_ops kz_serve_reader_ops = {
        .scan = reader_scan,
        .release = reader_release,
        .scan_all = reader_scan_all,
        .get = reader_get,
};

static size_t dead_letters(
        struct kz_query *query, uint64_t before, size_t count, struct kz_letter_place *places)
{
    const struct snapshot *s = kz_role_serve_of(query)->current;
    size_t found = 0;

    for (size_t at = 0; s && at + sizeof(struct kz_record) <= s->letters.size && found < count;) {
        const struct kz_record *record = (const void *)(s->letters.data + at);

        at += KZ_ALIGN8((size_t)record->size);
        if (before && record->seq >= before)
            continue;
        places[found++] = (struct kz_letter_place){record->seq, record->seq, record->owner};
    }
    return found;
}

/* ---- waiting ---------------------------------------------------------------------------------------- */

/* All that a snapshot has is durable; only what was begun here is to be waited for. */
static void when_durable(struct kz_query *query, kz_lsn lsn,
        void (*then)(void *arg, enum kz_code code, const struct kz_err *err), void *arg)
{
    struct role_serve *role = kz_role_serve_of(query);
    struct change *change = role->changes;

    while (change && !(lsn & CHANGE_BIT && change->number == (lsn & ~CHANGE_BIT)))
        change = change->next;
    if (!change || change->then) {
        then(arg, KZ_OK, NULL);
        return;
    }
    change->then = then;
    change->arg = arg;
}

static kz_lsn end_of(struct kz_query *query)
{
    return kz_role_serve_of(query)->last_change | CHANGE_BIT;
}

/* ---- news -------------------------------------------------------------------------------------------- */

static void subscribe(struct kz_query *query, struct kz_subscription *subscription)
{
    struct role_serve *role = kz_role_serve_of(query);

    subscription->prev = NULL;
    subscription->next = role->subscriptions;
    if (role->subscriptions)
        role->subscriptions->prev = subscription;
    role->subscriptions = subscription;
}

static void unsubscribe(struct kz_query *query, struct kz_subscription *subscription)
{
    struct role_serve *role = kz_role_serve_of(query);

    if (subscription->prev)
        subscription->prev->next = subscription->next;
    else
        role->subscriptions = subscription->next;
    if (subscription->next)
        subscription->next->prev = subscription->prev;
}

void kz_serve_publish(struct role_serve *role, const struct kz_record *record)
{
    struct kz_news news = {
            .kind = record->type == KZ_RECORD_RESULT ? KZ_NEWS_PREDICTION : KZ_NEWS_ACTION,
            .owner = record->owner,
            .record = record,
    };

    for (struct kz_subscription *s = role->subscriptions, *next; s; s = next) {
        next = s->next; /* a subscriber may leave within the call */
        if (!s->owner || s->owner == record->owner)
            s->news(s, &news);
    }
}

/* ---- the rest ------------------------------------------------------------------------------------------ */

static bool timing(struct kz_query *query, uint64_t seq, struct kz_event_timing *ret)
{
    const struct snapshot *s = kz_role_serve_of(query)->current;

    if (!s || !seq || s->timed != seq)
        return false;
    *ret = (struct kz_event_timing){
            .log_us = (uint32_t)KZ_MIN(s->intake_ms * 1000, (int64_t)UINT32_MAX)};
    return true;
}

static enum kz_code erasure(struct kz_query *query, uint64_t id, bool *ret_done,
        int64_t *ret_asked_ms, int64_t *ret_done_ms, struct kz_err *err)
{
    const struct snapshot *s = kz_role_serve_of(query)->current;
    struct kz_stone stone;

    if (!s || !s->stone.size || s->want.erasure != id)
        return kz_fail(err, KZ_NOT_FOUND, "there is no erasure %llu", (unsigned long long)id);
    KZ_TRY(kz_stone_decode(kz_buf_view(&s->stone), &stone, err));
    *ret_done = stone.done_at_ms != 0;
    *ret_asked_ms = stone.at_ms;
    *ret_done_ms = stone.done_at_ms;
    return KZ_OK;
}

static void counters(struct kz_query *query, struct kz_pipeline_counters *ret)
{
    kz_role_env_counters(kz_role_serve_of(query)->env, ret);
}

static const struct kz_pipeline_histograms *histograms(struct kz_query *query)
{
    struct role_serve *role = kz_role_serve_of(query);

    kz_role_env_histograms(role->env, &role->histograms);
    return &role->histograms;
}

static void model_status(struct kz_query *query, unsigned m, struct kz_model_status *ret)
{
    kz_role_env_model(kz_role_serve_of(query)->env, m, ret);
}

static bool action_paused(struct kz_query *query, unsigned action)
{
    return kz_role_env_action_paused(kz_role_serve_of(query)->env, action);
}

static enum kz_code health(struct kz_query *query, struct kz_err *err)
{
    return kz_role_env_ready(kz_role_serve_of(query)->env, err);
}

static enum kz_code no_copy(struct kz_err *err)
{
    (void)kz_fail(err, KZ_UNSUPPORTED, "data in shared backends is not copied by a role");
    return kz_hint(err, "use the backups of Spanner and Bigtable, or kizashi export");
}

static enum kz_code backup(struct kz_query *query, const char *dest,
        void (*done)(void *arg, enum kz_code code, const struct kz_err *err), void *arg,
        struct kz_err *err)
{
    (void)query, (void)dest, (void)done, (void)arg;
    return no_copy(err);
}

static enum kz_code checkpoint(struct kz_query *query, struct kz_err *err)
{
    (void)query;
    return no_copy(err);
}

const struct kz_query_ops kz_serve_query_ops = {
        .prepare = prepare,
        .find = find,
        .user = user_of,
        .key = key_of,
        .sources = sources_of,
        .slot = slot_of,
        .when_durable = when_durable,
        .end = end_of,
        .subscribe = subscribe,
        .unsubscribe = unsubscribe,
        .acknowledge = kz_serve_ack,
        .timing = timing,
        .control = kz_serve_control,
        .erase = kz_serve_forget,
        .erasure = erasure,
        .dead_letters = dead_letters,
        .counters = counters,
        .histograms = histograms,
        .model = model_status,
        .action_paused = action_paused,
        .health = health,
        .backup = backup,
        .checkpoint = checkpoint,
};
