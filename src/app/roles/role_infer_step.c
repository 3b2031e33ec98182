/* app/roles/role_infer_step.c -- the steps of a request that block on the backends: BEGIN and FINISH. */

#include "app/roles/role_infer_int.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "base/hash.h"
#include "codec/json_out.h"
#include "sys/clock.h"

enum {
    HOPS_MAX = 8,       /* rows that name another */
    ENTRIES_READ = 600, /* of one request: what follows from it is bounded by its seqs */
    EARLY_END = 256,
    LATE_AT = 32768,
    PER_RANK = 256,
    TRIES_AT_ONCE = 20,
    WAIT_MS = 5,
};

/* ---- seqs --------------------------------------------------------------------------------------- */

static unsigned depth_of(const struct kz_project *project, unsigned model)
{
    unsigned depth = 0;

    for (const char *after = project->models[model].after; after && depth < project->model_count;) {
        const struct kz_model_def *def = kz_project_model(project, kz_str(after));

        after = def ? def->after : NULL;
        depth++;
    }
    return depth;
}

void kz_infer_ranks(const struct kz_project *project, unsigned ranks[])
{
    unsigned rank = 0;

    for (unsigned depth = 0; rank < project->model_count; depth++)
        for (unsigned m = 0; m < project->model_count; m++)
            if (depth_of(project, m) == depth)
                ranks[m] = rank++;
}

/* ---- the journal: what one decision makes ------------------------------------------------------ */

static struct worker *worker_of_journal(struct kz_journal *journal)
{
    return KZ_CONTAINER_OF(journal, struct worker, journal);
}

static const struct kz_record *record_at(const struct worker *w, size_t i)
{
    return (const void *)(w->records.data + w->record_at[i]);
}

static const struct kz_record *journal_staged(struct kz_journal *journal, kz_lsn lsn)
{
    const struct worker *w = worker_of_journal(journal);

    for (size_t i = 0; i < w->record_count; i++)
        if (record_at(w, i)->seq == lsn)
            return record_at(w, i);
    return NULL;
}

static unsigned rank_of_request(const struct worker *w, struct kz_str bytes)
{
    const struct kz_request_body *body = (const void *)bytes.ptr;
    const struct kz_project *project = w->role->env->project;
    const struct kz_model_def *def = kz_project_model(project, kz_span_str(bytes, body->model));

    KZ_BUG_ON(!def); /* put_request() took it from the project */
    return w->role->ranks[def - project->models];
}

/* I4 */
static uint64_t next_seq(struct worker *w, const struct kz_log_entry *entry)
{
    uint64_t seq;

    if (entry->type == KZ_RECORD_REQUEST) {
        w->is_late = true;
        return w->task->message.lsn + PER_RANK * (1 + (uint64_t)rank_of_request(w, entry->body));
    }
    w->is_late |= entry->type == KZ_RECORD_DECISION;
    seq = w->is_late ? w->late : w->early;
    if (w->is_late)
        w->late += 2;
    else
        w->early++;
    return seq;
}

static enum kz_code journal_append(struct kz_journal *journal, const struct kz_log_entry *entry,
        kz_lsn *ret_lsn, const struct kz_record **ret_record, struct kz_err *err)
{
    struct worker *w = worker_of_journal(journal);
    uint64_t seq = next_seq(w, entry), root = w->task->message.lsn;
    struct kz_record head = {
            .size = (uint32_t)(sizeof(head) + entry->body.size),
            .type = entry->type,
            .flags = entry->flags,
            .seq = seq,
            .at_ms = entry->at_ms,
            .owner = entry->owner,
            .key = entry->key,
    };
    static const char zeros[8];

    if (w->record_count == KZ_ARRAY_COUNT(w->record_at) || seq > root + UINT16_MAX)
        return kz_fail(err, KZ_LIMIT, "more follows from request %" PRIu64 " than there may",
                kz_task_seq(w->task));
    w->record_at[w->record_count++] = w->records.size;
    kz_buf_put(&w->records, &head, sizeof(head));
    kz_buf_str(&w->records, entry->body);
    kz_buf_put(&w->records, zeros, -w->records.size % 8);
    journal->seq_next = seq + 1;
    *ret_lsn = seq;
    *ret_record = record_at(w, w->record_count - 1);
    return KZ_OK;
}

static enum kz_code journal_find(struct kz_journal *journal, const struct kz_journal_id *id,
        uint64_t owner, int64_t since_ms, bool *ret_found, struct kz_err *err)
{
    (void)journal, (void)id, (void)owner, (void)since_ms, (void)err;
    *ret_found = false; /* no events here */
    return KZ_OK;
}

static void journal_prefetch(struct kz_journal *journal, uint64_t key)
{
    (void)journal, (void)key;
}

static uint64_t journal_room(struct kz_journal *journal)
{
    (void)journal;
    return UINT64_MAX;
}

static const struct kz_journal_ops journal_ops = {
        .append = journal_append,
        .staged = journal_staged,
        .find = journal_find,
        .prefetch = journal_prefetch,
        .room = journal_room,
};

/* ---- the history a decision sees ----------------------------------------------------------------- */

static struct worker *worker_of_reader(struct kz_history_reader *reader)
{
    return KZ_CONTAINER_OF(reader, struct worker, reader);
}

/* As of the request, however much later it is decided: so it comes out the same when it is decided
 * again. */
static enum kz_code reader_scan(struct kz_history_reader *reader,
        const struct kz_history_query *query, struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct worker *w = worker_of_reader(reader);
    struct kz_history_reader *recent = kz_recent_reader(w->role->recent);
    struct kz_history_query as_of = *query;

    as_of.as_of = w->task->message.lsn;
    return recent->ops->scan(recent, &as_of, ret_rows, err);
}

static void reader_release(struct kz_history_reader *reader, struct kz_history_rows *rows)
{
    struct kz_history_reader *recent = kz_recent_reader(worker_of_reader(reader)->role->recent);

    recent->ops->release(recent, rows);
}

static enum kz_code reader_scan_all(struct kz_history_reader *reader, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err)
{
    (void)reader, (void)from, (void)until, (void)each, (void)arg;
    return kz_fail(err, KZ_UNSUPPORTED, "a user's row has no log");
}

static const struct kz_record *find_kept(const struct worker *w, kz_lsn lsn)
{
    const struct kz_record *record = kz_rowstate_record(&w->row, lsn);

    if (lsn == w->task->message.lsn || lsn == kz_task_seq(w->task))
        return w->task->message.record;
    for (size_t i = 0; i < w->other_count && !record; i++)
        record = kz_rowstate_record(&w->other_states[i], lsn);
    return record;
}

static enum kz_code reader_get(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    const struct kz_record *record = find_kept(worker_of_reader(reader), lsn);

    if (!record)
        return kz_fail(err, KZ_NOT_FOUND, "record %" PRIu64 " of owner %016" PRIx64 " is not kept",
                lsn, owner);
    kz_buf_clear(out);
    kz_buf_put(out, record, record->size);
    return KZ_OK;
}

static const struct kz_history_reader_ops reader_ops = {
        .scan = reader_scan,
        .release = reader_release,
        .scan_all = reader_scan_all,
        .get = reader_get,
};

/* ---- what others count and say -------------------------------------------------------------------- */

static uint64_t cap_of(const struct action *action, size_t cap)
{
    return kz_hash_mix(action->name, cap + 1);
}

static uint64_t reservation_id(const struct task *task, const struct action *action)
{
    return kz_hash_mix(kz_hash_mix(task->message.owner, kz_task_seq(task)), action->name);
}

static enum kz_code reserve(void *arg, const struct action *action, size_t cap, int64_t since_ms,
        bool *ret_held, struct kz_err *err)
{
    struct worker *w = arg;
    struct kz_predictions *predictions = w->role->env->predictions;
    struct reservation r = {cap_of(action, cap), reservation_id(w->task, action), action};

    if (w->reservation_count == RESERVATIONS_MAX)
        return kz_fail(err, KZ_LIMIT, "more than %d caps in total speak of one prediction",
                RESERVATIONS_MAX);
    KZ_TRY(predictions->ops->reserve(predictions, r.cap, r.id, w->parts->now_ms, since_ms,
            action->def->caps[cap].max, ret_held, err));
    for (size_t i = 0; i < w->reservation_count; i++)
        if (w->reservations[i].cap == r.cap)
            return KZ_OK;
    if (*ret_held)
        w->reservations[w->reservation_count++] = r;
    return KZ_OK;
}

static bool is_paused(void *arg, const struct action *action)
{
    struct worker *w = arg;

    return kz_words_paused(w->role->env->words, "action", kz_str(action->def->name));
}

static bool is_delivered(const struct worker *w, const struct action *action)
{
    for (size_t i = 0; i < w->record_count; i++) {
        const struct kz_record *record = record_at(w, i);
        const struct kz_decision_body *body = (const void *)(record + 1);

        if (record->type == KZ_RECORD_DECISION && body->action == action->name)
            return body->decision == KZ_DECISION_DELIVER;
    }
    return false;
}

/* The same of what somebody else has written. */
static bool is_delivered_there(const struct task *task, const struct action *action)
{
    for (size_t i = 0; i < task->row.entry_count; i++) {
        const struct kz_record *record = (const void *)task->row.entries[i].record.ptr;
        const struct kz_decision_body *body = (const void *)(record + 1);

        if (record->type == KZ_RECORD_DECISION && body->action == action->name)
            return body->decision == KZ_DECISION_DELIVER;
    }
    return false;
}

static void release(struct worker *w, const struct action *action, uint64_t cap, uint64_t id)
{
    struct kz_predictions *predictions = w->role->env->predictions;
    struct kz_err err;

    /* Else the place is lost until its window is over: fewer are delivered than may be. */
    if (predictions->ops->release(predictions, cap, id, &err) != KZ_OK)
        kz_diag_warn("a place under a cap in total could not be given back",
                "action=%s error=\"%s\"", action->def->name, err.message);
    w->role->counts.released_total++;
}

/* I5. One that came before may have reserved in another process that did not get so far as to write,
 * and decided otherwise. */
static void settle_reservations(struct worker *w)
{
    const struct kz_pipeline *p = w->parts;
    bool again = !w->task->delivery || w->task->delivery->attempt != 1 || w->task->tries;

    for (size_t i = 0; i < w->reservation_count; i++)
        if (!is_delivered(w, w->reservations[i].action))
            release(w, w->reservations[i].action, w->reservations[i].cap, w->reservations[i].id);
    for (size_t a = 0; again && a < p->project->action_count; a++) {
        const struct action *action = &p->actions[a];

        if (!action->models[w->task->model] || is_delivered(w, action))
            continue;
        for (size_t c = 0; c < action->def->cap_count; c++)
            if (!action->def->caps[c].per_user)
                release(w, action, cap_of(action, c), reservation_id(w->task, action));
    }
}

/* Somebody else was first, and places have the same ids for both. */
static void settle_with_theirs(struct worker *w)
{
    for (size_t i = 0; i < w->reservation_count; i++)
        if (!is_delivered_there(w->task, w->reservations[i].action))
            release(w, w->reservations[i].action, w->reservations[i].cap, w->reservations[i].id);
}

/* ---- rows ------------------------------------------------------------------------------------------ */

static bool has_result(const struct kz_user_row *row)
{
    for (size_t i = 0; i < row->entry_count; i++)
        if (row->entries[i].type == KZ_RECORD_RESULT)
            return true;
    return false;
}

/* The row that decides about the request: its user's, or that of whom the user was merged into. True
 * in `ret_done`: the request has a result, its entries are in the row. */
static enum kz_code read_row(
        struct worker *w, struct task *task, bool *ret_done, struct kz_err *err)
{
    struct kz_predictions *predictions = w->role->env->predictions;
    struct kz_predictions_read what = {.request = kz_task_seq(task), .entries_max = ENTRIES_READ};
    uint64_t owner = task->message.owner;

    task->row_owner = 0;
    for (unsigned hops = 0; hops < HOPS_MAX; hops++) {
        KZ_TRY(predictions->ops->read(predictions, owner, &what, &task->row, err));
        *ret_done = has_result(&task->row);
        if (!*ret_done)
            KZ_TRY(kz_rowstate_decode(task->row.state, &w->row, err));
        if (*ret_done || !w->row.merged_into) {
            task->row_owner = owner;
            return KZ_OK;
        }
        owner = w->row.merged_into;
    }
    return kz_fail(
            err, KZ_CORRUPT, "the row of owner %016" PRIx64 " leads nowhere", task->message.owner);
}

/* The user's key; for a row that is not there yet the request's, unless it was led here by a row that
 * names it. */
static struct kz_user_key key_of(const struct worker *w, const struct task *task)
{
    const struct kz_request_body *body = kz_task_request(task);

    if (w->row.there)
        return w->row.key;
    for (size_t i = 0; i < w->other_count; i++)
        if (w->other_owners[i] == task->message.owner && w->other_states[i].there)
            return w->other_states[i].key;
    return (struct kz_user_key){
            body->user_kind, kz_span_str(kz_record_body(task->message.record), body->user_id)};
}

/* Makes another's row ours: nobody writes to it after this but to say the same. */
static enum kz_code freeze(
        struct worker *w, uint64_t owner, size_t i, struct kz_user_key key, struct kz_err *err)
{
    static const struct kz_predictions_read state_only = {0};
    struct kz_predictions *predictions = w->role->env->predictions;
    enum kz_code rc = KZ_CONFLICT;

    for (unsigned tries = 0; tries < TRIES_AT_ONCE && rc == KZ_CONFLICT; tries++) {
        KZ_TRY(predictions->ops->read(predictions, owner, &state_only, &w->others[i], err));
        KZ_TRY(kz_rowstate_decode(w->others[i].state, &w->other_states[i], err));
        if (w->other_states[i].merged_into)
            return KZ_OK;
        kz_buf_clear(&w->state);
        kz_rowstate_encode_frozen(&w->other_states[i], w->task->row_owner, key, &w->state);
        rc = predictions->ops->write(
                predictions, owner, w->others[i].state, kz_buf_view(&w->state), NULL, 0, err);
    }
    return rc;
}

static enum kz_code absorb_one(
        struct worker *w, uint64_t owner, struct kz_user_key key, struct kz_err *err)
{
    size_t i = w->other_count;

    if (owner == w->task->row_owner || kz_rowstate_has_absorbed(&w->row, owner) || i == ROWS_MAX)
        return KZ_OK;
    KZ_TRY(freeze(w, owner, i, key, err));
    /* One that went to somebody in between has given them its slots, and those come with theirs. */
    if (w->other_states[i].merged_into && w->other_states[i].merged_into != w->task->row_owner)
        w->other_states[i].slot_count = 0;
    w->other_owners[w->other_count++] = owner;
    w->role->counts.merged_rows_total++;
    return KZ_OK;
}

/* Rows of ids that are the user's by now, and are not in their row yet. */
static enum kz_code absorb(struct worker *w, struct kz_err *err)
{
    const struct kz_request_message *message = &w->task->message;
    struct kz_user_key key;

    w->other_count = 0;
    if (message->owner != w->task->row_owner && !w->row.there) {
        /* Led here by a frozen row, which knows the key. */
        KZ_TRY(absorb_one(w, message->owner, (struct kz_user_key){'a', KZ_STR("?")}, err));
    }
    key = key_of(w, w->task);
    KZ_TRY(absorb_one(w, message->owner, key, err));
    for (size_t i = 0; i < message->source_count; i++)
        if (message->sources[i].owner != message->owner)
            KZ_TRY(absorb_one(w, message->sources[i].owner, key, err));
    return KZ_OK;
}

/* ---- BEGIN ------------------------------------------------------------------------------------------ */

static int64_t now_of(const struct task *task)
{
    return task->role->env->event_clock ? task->message.record->at_ms : kz_clock_ms();
}

/* Entries of a request that was done before, or the records of one just done. */
static void keep_entry(struct task *task, struct kz_str record)
{
    static const char zeros[8];

    kz_buf_str(&task->published, record);
    kz_buf_put(&task->published, zeros, -task->published.size % 8);
}

static void publish_again(struct worker *w, struct task *task)
{
    task->role->counts.repeated_total++;
    kz_buf_clear(&task->published);
    for (size_t i = task->row.entry_count; i-- > 0;) /* oldest first */
        keep_entry(task, task->row.entries[i].record);
    kz_task_written(task);
    kz_task_publish(w, task);
}

static bool is_newer_known(const struct worker *w, const struct task *task)
{
    uint64_t model = w->parts->models[task->model].name;

    for (size_t i = 0; i < w->row.slot_count; i++) {
        const struct kz_slot *slot = &w->row.slots[i];

        if (slot->kind == KZ_SLOT_PREDICTION && slot->name == model &&
                slot->prediction.request > kz_task_seq(task))
            return true;
    }
    return false;
}

/* What ends the request without a model; 0: nothing. On virtual time nothing is overtaken: who was
 * faster must not matter. */
static enum kz_request_end end_of(const struct worker *w, struct task *task)
{
    const struct role_infer *role = task->role;
    int64_t expires_ms = kz_task_request(task)->expires_ms;

    if (task->message.record->at_ms < role->dropped_ms[task->model])
        return KZ_END_DROPPED;
    if (expires_ms && now_of(task) > expires_ms)
        return KZ_END_EXPIRED;
    if (!role->env->event_clock && is_newer_known(w, task))
        return KZ_END_SUPERSEDED;
    return 0;
}

static struct kz_history_query history_of(const struct task *task)
{
    const struct kz_history_def *def = &task->role->models[task->model].history;
    int64_t now_ms = kz_task_request(task)->now_ms;

    return (struct kz_history_query){
            .sources = task->message.sources,
            .source_count = task->message.source_count,
            .chain = KZ_CHAIN_EVENTS,
            .as_of = task->message.lsn,
            .events_max = def->events_max,
            .since_ms = def->window_ms ? now_ms - def->window_ms : INT64_MIN,
            .include_actions = def->include_actions,
    };
}

/* A step failed: later again, or never. */
static void failed(struct task *task, enum task_state state, const struct kz_err *err)
{
    bool passes = err->code == KZ_UNAVAILABLE || err->code == KZ_TIMEOUT ||
                  err->code == KZ_CONFLICT || err->code == KZ_LIMIT || err->code == KZ_OVERLOADED ||
                  err->code == KZ_IO || err->code == KZ_FORBIDDEN;

    task->row_owner = 0;
    if (passes) {
        task->role->counts.retries_total++;
        kz_task_later(task, state);
        return;
    }
    kz_diag_warn("a request cannot be handled", "request=%" PRIu64 " code=%s error=\"%s\"",
            kz_task_seq(task), kz_code_name(err->code), err->message);
    kz_task_written(task);
    kz_task_poison(task, kz_code_name(err->code), err);
}

void kz_worker_begin(struct worker *w, struct task *task)
{
    struct kz_history_query query = history_of(task);
    struct kz_err err;
    bool done = false;

    w->task = task;
    if (kz_task_is_copy(task)) {
        kz_task_turn(task);
        return;
    }
    if (read_row(w, task, &done, &err) != KZ_OK) {
        failed(task, TASK_BEGIN, &err);
        return;
    }
    if (done) {
        publish_again(w, task);
        return;
    }
    task->end = end_of(w, task);
    if (task->end)
        kz_task_turn(task);
    else if (kz_recent_fetch(task->role->recent, &query, NULL, &err) != KZ_OK)
        failed(task, TASK_BEGIN, &err);
    else
        kz_task_ask(task);
}

struct kz_infer_job *kz_task_job(struct task *task)
{
    const struct kz_request_message *message = &task->message;
    const struct kz_request_body *body = kz_task_request(task);
    struct kz_str bytes = kz_record_body(message->record);
    struct kz_str user_id = kz_span_str(bytes, body->user_id);
    struct kz_str event_id = kz_span_str(bytes, body->event_id);
    struct kz_infer_job *job = kz_infer_job_new(task->role->infer);

    job->request = kz_task_seq(task);
    job->request_lsn = message->lsn;
    job->copy_lsn = kz_task_seq(task);
    job->model = task->model;
    job->owner = message->owner;
    job->user_kind = body->user_kind;
    memcpy(job->text, user_id.ptr, user_id.size); /* their sizes were checked */
    memcpy(job->text + user_id.size, event_id.ptr, event_id.size);
    job->params = (struct kz_sql_params){
            .now_ms = body->now_ms,
            .user_id = kz_str_n(job->text, user_id.size),
            .event_id = kz_str_n(job->text + user_id.size, event_id.size),
            .trigger_ts_ms = body->trigger_ts_ms,
            .session = body->session,
            .seq = body->event_seq,
            .first_seen_ms = body->first_seen_ms,
    };
    memcpy(job->sources, message->sources, message->source_count * sizeof(job->sources[0]));
    job->source_count = message->source_count;
    job->queued_us = kz_mono_us();
    job->deadline_ms = task->role->env->event_clock ? 0 : body->expires_ms;
    job->user = task;
    return job;
}

/* ---- FINISH ------------------------------------------------------------------------------------------ */

/* The request pending in the views, whoever it was about then. */
static enum kz_code apply_request(
        struct worker *w, struct kz_views *views, uint32_t user, struct kz_err *err)
{
    const struct kz_record *record = w->task->message.record;
    struct kz_buf copy = {0};
    enum kz_code rc;

    if (kz_views_request(views, user, record->seq))
        return KZ_OK; /* of a model that comes after another: the row knows it waits */
    kz_buf_put(&copy, record, record->size);
    ((struct kz_record *)(void *)copy.data)->owner = w->task->row_owner;
    rc = kz_views_apply(views, record->seq, (const void *)copy.data, err);
    kz_buf_done(&copy);
    return rc;
}

static void begin_journal(struct worker *w)
{
    uint64_t root = w->task->message.lsn;

    kz_buf_clear(&w->records);
    w->record_count = 0;
    w->early = kz_task_seq(w->task) + 1;
    w->late = root + LATE_AT + PER_RANK * (uint64_t)w->role->ranks[w->task->model];
    w->is_late = false;
    w->parts->counters = (struct kz_pipeline_counters){0};
    w->parts->histograms = (struct kz_pipeline_histograms){0};
}

/* All that follows from the result, over views of the row, into the journal. */
static enum kz_code decide(struct worker *w, uint32_t *ret_user, struct kz_err *err)
{
    const struct kz_rowstate *also[ROWS_MAX];
    struct kz_views *views = kz_views_new_small();
    struct task *task = w->task;
    uint32_t user = 0;
    enum kz_code rc;

    for (size_t i = 0; i < w->other_count; i++)
        also[i] = &w->other_states[i];
    rc = kz_rowstate_apply(views, task->row_owner, key_of(w, task), &w->row, also, w->other_owners,
            w->other_count, &task->message, &user, err);
    if (rc == KZ_OK)
        rc = apply_request(w, views, user, err);
    begin_journal(w);
    kz_pl_parts_reset(w->parts, views, now_of(task)); /* takes views */
    KZ_TRY(rc);
    *ret_user = user;
    if (task->end)
        return kz_pl_end_request(
                w->parts, user, task->message.lsn, task->message.record, task->end, err);
    return kz_pl_result(w->parts, user, task->result, err);
}

/* Dead letters are the store's. Putting one again puts the same. */
static enum kz_code put_letters(struct worker *w, struct kz_err *err)
{
    struct kz_store *store = w->role->env->store;
    struct kz_store_record letters[16];
    struct kz_store_commit commit = {.letters = letters, .now_ms = kz_clock_ms()};
    struct kz_store_txn *txn = NULL;

    for (size_t i = 0; i < w->record_count && commit.letter_count < KZ_ARRAY_COUNT(letters); i++)
        if (record_at(w, i)->type == KZ_RECORD_DEADLETTER)
            letters[commit.letter_count++] = (struct kz_store_record){
                    record_at(w, i)->seq, record_at(w, i)};
    if (!commit.letter_count)
        return KZ_OK;
    KZ_TRY(store->ops->begin(store, &txn, err));
    return store->ops->commit(txn, &commit, err);
}

static bool is_entry(const struct kz_record *record)
{
    return record->type == KZ_RECORD_RESULT || record->type == KZ_RECORD_DECISION ||
           record->type == KZ_RECORD_REQUEST;
}

/* The prediction as others read it, where it is the user's latest from now on. */
static void describe(
        struct worker *w, uint32_t user, const struct kz_record *record, struct kz_entry *entry)
{
    uint64_t model = w->parts->models[w->task->model].name;
    const struct kz_slot *slot = kz_views_slot(w->parts->views, user, KZ_SLOT_PREDICTION, model);
    struct kz_json_out out;
    struct kz_prediction prediction;

    if (!slot || slot->prediction.result != record->seq ||
            kz_prediction_decode(record, &prediction, NULL) != KZ_OK)
        return;
    kz_buf_clear(&w->json);
    out = kz_json_out(&w->json);
    kz_prediction_json(&prediction, &out);
    entry->model = prediction.model;
    entry->json = kz_buf_view(&w->json);
}

static const struct kz_record *find_staged(void *arg, uint64_t seq)
{
    struct worker *w = arg;
    const struct kz_record *record = journal_staged(&w->journal, seq);

    return record ? record : find_kept(w, seq);
}

static enum kz_code write_row(struct worker *w, uint32_t user, struct kz_err *err)
{
    struct kz_predictions *predictions = w->role->env->predictions;
    struct task *task = w->task;
    struct kz_entry entries[KZ_ARRAY_COUNT(w->record_at)];
    struct kz_rowstate_encode what = {
            .views = w->parts->views,
            .user = user,
            .before = &w->row,
            .absorbed = w->other_owners,
            .absorbed_count = w->other_count,
            .record = find_staged,
            .arg = w,
            .now_ms = w->parts->now_ms,
    };
    size_t count = 0;

    for (size_t i = 0; i < w->record_count; i++) {
        const struct kz_record *record = record_at(w, i);

        if (!is_entry(record))
            continue;
        entries[count] = (struct kz_entry){
                .request = kz_task_seq(task),
                .seq = record->seq,
                .type = record->type,
                .at_ms = record->at_ms,
                .record = kz_str_n(record, record->size),
        };
        if (record->type == KZ_RECORD_RESULT)
            describe(w, user, record, &entries[count]);
        count++;
    }
    kz_buf_clear(&w->state);
    kz_rowstate_encode(&what, &w->state);
    return predictions->ops->write(predictions, task->row_owner, task->row.state,
            kz_buf_view(&w->state), entries, count, err);
}

enum finish { FINISH_WRITTEN, FINISH_DONE_BEFORE, FINISH_WAITS };

/* On virtual time all of a user's older requests are decided first, wherever they are. */
static enum kz_code must_wait(struct worker *w, bool *ret_wait, struct kz_err *err)
{
    struct kz_predictions *predictions = w->role->env->predictions;
    const struct task *task = w->task;
    struct kz_predictions_read what = {
            .request = task->message.previous, .entries_max = ENTRIES_READ};
    struct kz_user_row row = {0};
    enum kz_code rc;

    *ret_wait = false;
    for (size_t i = 0; i < w->row.slot_count; i++)
        *ret_wait |= w->row.slots[i].kind == KZ_SLOT_REQUEST &&
                     w->row.slots[i].request.request < kz_task_seq(task);
    if (*ret_wait || !task->message.previous || kz_task_seq(task) != task->message.lsn)
        return KZ_OK;
    rc = predictions->ops->read(predictions, task->message.owner, &what, &row, err);
    *ret_wait = rc == KZ_OK && !has_result(&row);
    kz_buf_done(&row.bytes);
    return rc;
}

/* Once; KZ_CONFLICT: the row was changed meanwhile. */
static enum kz_code finish_once(struct worker *w, enum finish *ret_finish, struct kz_err *err)
{
    struct task *task = w->task;
    bool done = false, wait = false;
    uint32_t user;

    if (!task->row_owner)
        KZ_TRY(read_row(w, task, &done, err));
    else
        KZ_TRY(kz_rowstate_decode(task->row.state, &w->row, err));
    if (!done && w->role->env->event_clock)
        KZ_TRY(must_wait(w, &wait, err));
    *ret_finish = done ? FINISH_DONE_BEFORE : wait ? FINISH_WAITS : FINISH_WRITTEN;
    if (done || wait)
        return KZ_OK;
    KZ_TRY(absorb(w, err));
    KZ_TRY(decide(w, &user, err));
    KZ_TRY(put_letters(w, err));
    return write_row(w, user, err);
}

static void count(struct worker *w)
{
    struct role_infer *role = w->role;
    const struct kz_pipeline *p = w->parts;

    pthread_mutex_lock(&role->lock);
#define X(name, gauge, help) role->counters.name += p->counters.name;
    KZ_PIPELINE_COUNTERS(X)
#undef X
#define X(name, help)                                                                              \
    for (size_t b = 0; b < KZ_HISTOGRAM_BUCKETS; b++)                                              \
        role->histograms.name.buckets[b] += p->histograms.name.buckets[b];                         \
    role->histograms.name.count += p->histograms.name.count;                                       \
    role->histograms.name.sum_seconds += p->histograms.name.sum_seconds;
    KZ_PIPELINE_STAGES(X)
#undef X
    kz_pl_observe(&role->histograms.total, kz_mono_us() - w->task->begun_us);
    role->ends[w->task->model].done += p->counters.requests_done_total;
    role->ends[w->task->model].dead += p->counters.requests_dead_total;
    role->ends[w->task->model].expired += p->counters.requests_expired_total;
    role->ends[w->task->model].superseded += p->counters.requests_superseded_total;
    role->ends[w->task->model].dropped += p->counters.requests_dropped_total;
    pthread_mutex_unlock(&role->lock);
}

void kz_worker_finish(struct worker *w, struct task *task)
{
    enum finish finish = FINISH_WRITTEN;
    enum kz_code rc = KZ_CONFLICT;
    struct kz_err err;

    if (!task->end && !task->result) { /* a copy, now that the first one is through */
        kz_worker_begin(w, task);
        return;
    }
    w->task = task;
    w->reservation_count = 0; /* those of all tries are settled at the end */
    for (unsigned tries = 0; tries < TRIES_AT_ONCE && rc == KZ_CONFLICT; tries++) {
        if (tries) {
            task->row_owner = 0;
            task->role->counts.conflicts_total++;
        }
        rc = finish_once(w, &finish, &err);
    }
    if (rc != KZ_OK) {
        failed(task, TASK_FINISH, &err);
        return;
    }
    if (finish == FINISH_DONE_BEFORE) {
        settle_with_theirs(w);
        publish_again(w, task);
        return;
    }
    if (finish == FINISH_WAITS) {
        task->row_owner = 0;
        kz_task_wait(task, TASK_FINISH, WAIT_MS);
        return;
    }
    kz_buf_clear(&task->published);
    for (size_t i = 0; i < w->record_count; i++)
        if (is_entry(record_at(w, i)))
            keep_entry(task, kz_str_n(record_at(w, i), record_at(w, i)->size));
    kz_task_written(task);
    settle_reservations(w);
    count(w);
    kz_task_publish(w, task);
}

/* ---- life --------------------------------------------------------------------------------------------- */

enum kz_code kz_worker_open(struct worker *w, struct role_infer *role, struct kz_err *err)
{
    struct kz_pipeline_options options = {
            .project = role->env->project, .ask = true, .virtual_clock = role->env->event_clock};

    w->role = role;
    w->journal.ops = &journal_ops;
    w->reader.ops = &reader_ops;
    w->remote = (struct kz_pl_remote){.reserve = reserve, .is_paused = is_paused, .arg = w};
    KZ_TRY(kz_pl_parts_open(&options, &w->journal, &w->reader, &w->parts, err));
    w->parts->remote = &w->remote;
    return KZ_OK;
}

void kz_worker_close(struct worker *w)
{
    kz_pipeline_close(w->parts);
    kz_buf_done(&w->records);
    kz_rowstate_done(&w->row);
    for (size_t i = 0; i < ROWS_MAX; i++) {
        kz_buf_done(&w->others[i].bytes);
        kz_rowstate_done(&w->other_states[i]);
    }
    kz_buf_done(&w->state);
    kz_buf_done(&w->json);
    kz_buf_done(&w->message);
}
