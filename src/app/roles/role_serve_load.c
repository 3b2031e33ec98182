/* app/roles/role_serve_load.c -- what a request will ask for, from the backends into a snapshot. */

#include "app/roles/role_serve_int.h"

#include <stdlib.h>

#include "app/roles/userstate.h"
#include "history/carry.h"
#include "sys/clock.h"

enum { HOPS_MAX = 8, ENTRIES_MAX = 100000 };

/* ---- records of a scan ---------------------------------------------------------------------------- */

void kz_gathered_done(struct gathered *g)
{
    kz_buf_done(&g->bytes);
    kz_buf_done(&g->at);
    kz_buf_done(&g->lsns);
    free(g->records);
    *g = (struct gathered){0};
}

static void gather(struct gathered *g, kz_lsn lsn, const struct kz_record *record)
{
    static const char zeros[8];
    size_t at = g->bytes.size;

    kz_buf_put(&g->bytes, record, record->size);
    kz_buf_put(&g->bytes, zeros, -g->bytes.size % 8);
    kz_buf_put(&g->at, &at, sizeof(at));
    kz_buf_put(&g->lsns, &lsn, sizeof(lsn));
    g->count++;
}

/* `bytes` moves no more. */
static void gathered_all(struct gathered *g)
{
    g->records = kz_malloc((g->count + 1) * sizeof(struct kz_record *));
    for (size_t i = 0; i < g->count; i++) {
        size_t at;

        memcpy(&at, g->at.data + i * sizeof(at), sizeof(at));
        g->records[i] = (const void *)(g->bytes.data + at);
    }
    g->there = true;
}

static enum kz_code scan(struct snapshot *s, enum kz_chain chain, kz_lsn as_of, uint32_t max,
        struct gathered *g, struct kz_err *err)
{
    struct kz_store *store = s->job.role->env->store;
    struct kz_history_reader *reader = store->ops->reader(store);
    struct kz_source sources[KZ_SOURCES_MAX];
    struct kz_history_query query = {
            .sources = sources,
            .source_count = kz_views_sources(s->views, s->user, chain, UINT64_MAX, sources),
            .chain = chain,
            .as_of = as_of,
            .events_max = max,
            .since_ms = INT64_MIN,
            .include_actions = true,
    };
    struct kz_history_rows rows;

    KZ_TRY(reader->ops->scan(reader, &query, &rows, err));
    for (size_t i = 0; i < rows.count; i++)
        gather(g, rows.lsns[i], rows.records[i]);
    g->truncated = rows.truncated;
    reader->ops->release(reader, &rows);
    return KZ_OK;
}

/* ---- notes: what process wrote to the store, and infer and serve to the rows ------------------------ */

struct note {
    kz_lsn lsn;
    const struct kz_record *record;
};

static int by_lsn(const void *a, const void *b)
{
    const struct note *x = a, *y = b;

    return x->lsn < y->lsn ? -1 : x->lsn > y->lsn;
}

static bool has_delivery(const struct note *notes, size_t count, uint64_t decision)
{
    for (size_t i = 0; i < count; i++)
        if (notes[i].record->type == KZ_RECORD_DELIVERY &&
                ((const struct kz_delivery_body *)(notes[i].record + 1))->decision == decision)
            return true;
    return false;
}

/* What became of a decision by itself: given to a topic with the request, or shown to nobody in
 * time. Nobody writes that down. */
static void put_silent_end(struct kz_buf *out, const struct kz_record *decision)
{
    const struct kz_decision_body *body = (const void *)(decision + 1);
    bool sent = body->kind == KZ_DELIVER_PUBSUB;
    struct {
        struct kz_record head;
        struct kz_delivery_body body;
    } end = {
            .head = {.size = sizeof(end),
                    .type = KZ_RECORD_DELIVERY,
                    .seq = decision->seq + 1,
                    .at_ms = sent ? decision->at_ms : body->expires_at_ms,
                    .owner = decision->owner},
            .body = {.decision = decision->seq,
                    .decision_lsn = decision->seq,
                    .state = sent ? KZ_DELIVERY_SENT : KZ_DELIVERY_EXPIRED,
                    .attempt_count = sent},
    };

    kz_buf_put(out, &end, sizeof(end));
}

static bool ends_silently(const struct kz_record *record, int64_t now_ms)
{
    const struct kz_decision_body *body = (const void *)(record + 1);

    if (record->type != KZ_RECORD_DECISION || body->decision != KZ_DECISION_DELIVER)
        return false;
    return body->kind == KZ_DELIVER_PUBSUB ||
           (body->kind == KZ_DELIVER_WEB && body->expires_at_ms <= now_ms);
}

static void merge_notes(struct snapshot *s, struct gathered *store)
{
    struct gathered *g = &s->history[KZ_CHAIN_NOTES];
    struct kz_buf silent = {0};
    size_t count = store->count, most = store->count, first = 0;
    struct note *notes;
    int64_t now_ms = kz_clock_ms();

    for (size_t r = 0; r < s->row_count; r++)
        most += s->raw[r].entry_count;
    notes = kz_malloc((2 * most + 1) * sizeof(*notes));
    for (size_t i = 0; i < store->count; i++) {
        kz_lsn lsn;

        memcpy(&lsn, store->lsns.data + i * sizeof(lsn), sizeof(lsn));
        notes[i] = (struct note){lsn, store->records[i]};
    }
    for (size_t r = 0; r < s->row_count; r++)
        for (size_t i = 0; i < s->raw[r].entry_count; i++)
            notes[count++] = (struct note){
                    s->raw[r].entries[i].seq, (const void *)s->raw[r].entries[i].record.ptr};
    kz_buf_reserve(/* room first: it must not move */
            &silent, most * (sizeof(struct kz_record) + sizeof(struct kz_delivery_body)));
    for (size_t i = 0; i < most; i++) {
        if (!ends_silently(notes[i].record, now_ms) ||
                has_delivery(notes, most, notes[i].record->seq))
            continue;
        notes[count++] = (struct note){
                notes[i].record->seq + 1, (const void *)(silent.data + silent.size)};
        put_silent_end(&silent, notes[i].record);
    }
    qsort(notes, count, sizeof(*notes), by_lsn);
    if (s->want.notes_max && count > s->want.notes_max)
        first = count - s->want.notes_max;
    for (size_t i = first; i < count; i++)
        gather(g, notes[i].lsn, notes[i].record);
    g->truncated = store->truncated || first;
    gathered_all(g);
    free(notes);
    kz_buf_done(&silent);
}

static enum kz_code load_notes(struct snapshot *s, struct kz_err *err)
{
    struct gathered store = {0};
    enum kz_code rc = scan(s, KZ_CHAIN_NOTES, UINT64_MAX, s->want.notes_max, &store, err);

    if (rc == KZ_OK) {
        gathered_all(&store);
        merge_notes(s, &store);
    }
    kz_gathered_done(&store);
    return rc;
}

/* ---- who they are --------------------------------------------------------------------------------- */

/* The user's own state and, where they are linked, that of whom their events go to. */
struct states {
    struct kz_buf bytes;
    struct kz_user_state own, target;
    bool linked;
};

static enum kz_code read_states(struct snapshot *s, struct states *states, struct kz_err *err)
{
    struct kz_store *store = s->job.role->env->store;
    struct kz_store_user users[2] = {{.owner = kz_owner_hash(s->want.key, 0)}};
    enum kz_code rc;

    s->known = false;
    KZ_TRY(store->ops->users(store, users, 1, &states->bytes, err));
    if (!users[0].state.size)
        return KZ_OK;
    KZ_TRY(kz_user_state_decode(users[0].state, &states->own, err));
    states->linked = states->own.to_owner != 0;
    if (states->linked) {
        users[1].owner = states->own.to_owner;
        rc = store->ops->users(store, users, 2, &states->bytes, err); /* of one moment */
        KZ_TRY(rc);
        if (!users[0].state.size)
            return KZ_OK;
        KZ_TRY(kz_user_state_decode(users[0].state, &states->own, err));
        states->linked = users[1].state.size > 0;
        if (states->linked)
            KZ_TRY(kz_user_state_decode(users[1].state, &states->target, err));
    }
    s->known = states->own.key.kind == s->want.key.kind &&
               kz_str_eq(states->own.key.id, s->want.key.id);
    return KZ_OK;
}

static const struct kz_user_state *user_of(const struct states *states)
{
    return states->linked ? &states->target : &states->own;
}

/* The CARRY body with more slots behind its own. */
static void carry_with(struct kz_str carry, struct kz_str more, bool unlinked, struct kz_buf *out)
{
    struct kz_carry_body body;
    struct kz_body_writer w;
    struct kz_buf slots = {0};
    struct kz_carry_body fixed;

    memcpy(&body, carry.ptr, sizeof(body)); /* it was decoded */
    kz_buf_str(&slots, kz_span_str(carry, body.slots));
    kz_buf_str(&slots, more);
    fixed = body;
    fixed.slot_count = (uint32_t)(slots.size / sizeof(struct kz_slot));
    if (unlinked)
        fixed.to_owner = fixed.merged = 0;
    w = kz_body_begin(out, &fixed, sizeof(fixed));
    kz_body_span(&w, offsetof(struct kz_carry_body, key_id), kz_span_str(carry, body.key_id));
    kz_body_span(&w, offsetof(struct kz_carry_body, to_id),
            unlinked ? KZ_STR_NULL : kz_span_str(carry, body.to_id));
    kz_body_span(&w, offsetof(struct kz_carry_body, slots), kz_buf_view(&slots));
    kz_buf_done(&slots);
}

static enum kz_code restore(
        struct snapshot *s, const struct states *states, struct kz_str more, struct kz_err *err)
{
    struct kz_user_state state = *user_of(states);
    struct kz_buf carry = {0};
    enum kz_code rc;

    kz_views_free(s->views);
    s->views = kz_views_new_small();
    kz_views_set_part(s->views);
    carry_with(state.carry, more, true, &carry);
    state.carry = kz_buf_view(&carry);
    rc = kz_user_state_restore(s->views, &state, err);
    kz_buf_done(&carry);
    s->owner = state.owner;
    s->user = kz_views_find_owner(s->views, s->owner);
    return rc;
}

/* ---- their rows ------------------------------------------------------------------------------------ */

enum kz_code kz_serve_row(struct role_serve *role, uint64_t owner, uint64_t *ret_owner,
        struct kz_user_row *ret_row, struct kz_rowstate *ret_state, struct kz_err *err)
{
    static const struct kz_predictions_read state_only = {0};
    struct kz_predictions *predictions = role->env->predictions;

    for (unsigned hops = 0; hops < HOPS_MAX; hops++) {
        KZ_TRY(predictions->ops->read(predictions, owner, &state_only, ret_row, err));
        KZ_TRY(kz_rowstate_decode(ret_row->state, ret_state, err));
        *ret_owner = owner;
        if (!ret_state->merged_into)
            return KZ_OK;
        owner = ret_state->merged_into;
    }
    return kz_fail(err, KZ_CORRUPT, "the row of a user leads nowhere");
}

/* The user's row, and those of ids linked to them which are not in it yet. With entries where notes are
 * wanted: those stay in the row they were put into. */
static enum kz_code read_rows(struct snapshot *s, struct kz_err *err)
{
    struct kz_predictions *predictions = s->job.role->env->predictions;
    struct kz_predictions_read what = {
            .entries_max = s->want.what & KZ_WANT_NOTES ? ENTRIES_MAX : 0};
    struct kz_source sources[KZ_SOURCES_MAX];
    size_t count = kz_views_sources(s->views, s->user, KZ_CHAIN_EVENTS, UINT64_MAX, sources);

    for (size_t i = 0; i <= count && s->row_count < SERVE_ROWS_MAX; i++) {
        uint64_t owner = i == 0 ? s->owner : sources[i - 1].owner;
        size_t at = s->row_count;

        if (i && (owner == s->owner ||
                         (!what.entries_max && kz_rowstate_has_absorbed(&s->rows[0], owner))))
            continue;
        KZ_TRY(predictions->ops->read(predictions, owner, &what, &s->raw[at], err));
        KZ_TRY(kz_rowstate_decode(s->raw[at].state, &s->rows[at], err));
        s->row_owners[s->row_count++] = owner;
    }
    return KZ_OK;
}

/* The slots of all rows, merged as infer will merge them. */
static enum kz_code merge_slots(
        struct snapshot *s, struct kz_user_key key, struct kz_buf *out, struct kz_err *err)
{
    KZ_AUTO(kz_views_freep) struct kz_views *views = kz_views_new_small();
    const struct kz_rowstate *also[SERVE_ROWS_MAX];
    uint64_t owners[SERVE_ROWS_MAX];
    size_t count = 0;
    uint32_t user;

    for (size_t i = 1; i < s->row_count; i++) {
        if (kz_rowstate_has_absorbed(&s->rows[0], s->row_owners[i]) ||
                (s->rows[i].merged_into && s->rows[i].merged_into != s->owner))
            continue;
        also[count] = &s->rows[i];
        owners[count++] = s->row_owners[i];
    }
    KZ_TRY(kz_rowstate_apply(
            views, s->owner, key, &s->rows[0], also, owners, count, NULL, &user, err));
    kz_rowstate_slots(views, user, out);
    return KZ_OK;
}

static enum kz_code load_user(struct snapshot *s, struct kz_err *err)
{
    struct states states = {0};
    struct kz_buf slots = {0};
    enum kz_code rc = read_states(s, &states, err);

    if (rc == KZ_OK && s->known)
        rc = restore(s, &states, KZ_STR_NULL, err);
    if (rc == KZ_OK && s->known)
        rc = read_rows(s, err);
    if (rc == KZ_OK && s->known)
        rc = merge_slots(s, user_of(&states)->key, &slots, err);
    if (rc == KZ_OK && s->known)
        rc = restore(s, &states, kz_buf_view(&slots), err);
    kz_buf_done(&states.bytes);
    kz_buf_done(&slots);
    return rc;
}

/* How long the event that a trace is about took to be stored. */
static enum kz_code load_timing(struct snapshot *s, struct kz_err *err)
{
    struct kz_store *store = s->job.role->env->store;
    const struct gathered *g = &s->history[KZ_CHAIN_EVENTS];
    int64_t stored_ms;
    enum kz_code rc;

    for (size_t i = g->count; i-- > 0;) {
        const struct kz_record *record = g->records[i];
        struct kz_event event;

        if (kz_event_decode(record, &event, NULL) != KZ_OK ||
                !kz_str_eq(event.event_id, s->want.timed_event))
            continue;
        rc = store->ops->stored_ms(store, record->seq, record->owner, &stored_ms, err);
        if (rc == KZ_NOT_FOUND)
            return KZ_OK; /* it has just gone */
        KZ_TRY(rc);
        s->timed = record->seq;
        s->intake_ms = KZ_MAX(stored_ms - record->at_ms, (int64_t)0);
        return KZ_OK;
    }
    return KZ_OK;
}

/* ---- all ---------------------------------------------------------------------------------------------- */

static enum kz_code load(struct snapshot *s, struct kz_err *err)
{
    struct kz_store *store = s->job.role->env->store;

    if (s->want.what & KZ_WANT_USER)
        KZ_TRY(load_user(s, err));
    if (s->known && s->want.what & KZ_WANT_EVENTS) {
        struct gathered *g = &s->history[KZ_CHAIN_EVENTS];

        KZ_TRY(scan(s, KZ_CHAIN_EVENTS, s->want.events_as_of, s->want.events_max, g, err));
        gathered_all(g);
        if (s->want.timed_event.size)
            KZ_TRY(load_timing(s, err));
    }
    if (s->known && s->want.what & KZ_WANT_NOTES)
        KZ_TRY(load_notes(s, err));
    if (s->want.what & KZ_WANT_LETTERS)
        KZ_TRY(store->ops->letters(store, s->want.letters_before, s->want.letters_max, &s->letters,
                &s->letter_count, err));
    if (s->want.what & KZ_WANT_ERASURE) {
        struct kz_str body;
        struct kz_buf out = {0};
        enum kz_code rc = store->ops->stones(store, &s->want.erasure, 1, &body, &out, err);

        if (rc == KZ_OK)
            kz_buf_str(&s->stone, body);
        kz_buf_done(&out);
        KZ_TRY(rc);
    }
    return KZ_OK;
}

void kz_snapshot_load(struct job *job)
{
    struct snapshot *s = KZ_CONTAINER_OF(job, struct snapshot, job);

    job->code = load(s, &job->err);
}

void kz_snapshot_free(struct snapshot *s)
{
    kz_views_free(s->views);
    for (size_t i = 0; i < SERVE_ROWS_MAX; i++) {
        kz_rowstate_done(&s->rows[i]);
        kz_buf_done(&s->raw[i].bytes);
    }
    for (int chain = 0; chain < KZ_CHAIN_COUNT; chain++)
        kz_gathered_done(&s->history[chain]);
    kz_buf_done(&s->letters);
    kz_buf_done(&s->stone);
    free(s->id);
    free(s->timed_event);
    free(s);
}
