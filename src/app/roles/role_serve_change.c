/* app/roles/role_serve_change.c -- what is changed through serve: deliveries acknowledged, an operator's words,
 * dead letters. A handler begins a change on the loop, a worker carries it out.
 */

#include "app/roles/role_serve_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/roles/news.h"
#include "app/pipeline/pipeline_int.h"
#include "app/roles/userstate.h"
#include "base/diag.h"
#include "sys/clock.h"

enum {
    TRIES_MAX = 20,
    LETTERS_AT_ONCE = 500,
    ENTRIES_MAX = 100000,
    RETRY_AT = 49152, /* seqs of requests asked again, behind the root's address */
    RETRY_STEP = 256,
};

/* ---- changes ------------------------------------------------------------------------------------------ */

void kz_change_free(struct change *change)
{
    free(change->going);
    free(change->object);
    kz_buf_done(&change->record);
    free(change);
}

void kz_change_done(struct job *job)
{
    struct change *change = KZ_CONTAINER_OF(job, struct change, job), **at = &job->role->changes;

    while (*at != change)
        at = &(*at)->next;
    *at = change->next;
    if (job->code == KZ_TIMEOUT || job->code == KZ_CONFLICT) /* not the caller's doing */
        job->code = job->err.code = KZ_UNAVAILABLE;
    if (change->ret_count && job->code == KZ_OK)
        *change->ret_count = change->count;
    if (change->then)
        change->then(change->arg, job->code, &job->err);
    else if (job->code != KZ_OK)
        kz_diag_warn("a change failed and nobody waits for it", "error=\"%s\"", job->err.message);
    kz_change_free(change);
}

void kz_serve_changes_give_up(struct role_serve *role)
{
    struct kz_err err;

    (void)kz_fail(&err, KZ_UNAVAILABLE, "stopping: it may still be carried out");
    for (struct change *change = role->changes; change; change = change->next) {
        if (change->then)
            change->then(change->arg, KZ_UNAVAILABLE, &err);
        change->then = NULL;
        change->ret_count = NULL;
    }
}

void kz_serve_changes_free(struct role_serve *role)
{
    while (role->erasing) { /* another serve, or the next start, carries them out */
        struct change *change = role->erasing;

        role->erasing = change->next;
        kz_change_free(change);
    }
    KZ_BUG_ON(role->changes); /* their jobs were given up */
}

struct change *kz_change_begin(struct role_serve *role, void (*run)(struct job *job))
{
    struct change *change = kz_calloc(1, sizeof(*change));

    change->job = (struct job){.role = role, .run = run, .done = kz_change_done};
    change->number = ++role->last_change;
    change->next = role->changes;
    role->changes = change;
    role->counts.changes_total++;
    return change;
}

/* ---- deliveries ------------------------------------------------------------------------------------- */

static enum kz_code end_once(
        struct role_serve *role, const struct delivery_end *end, struct kz_err *err)
{
    struct kz_predictions *predictions = role->env->predictions;
    const struct kz_decision_body *decision = (const void *)(end->decision + 1);
    KZ_AUTO(kz_views_freep) struct kz_views *views = kz_views_new_small();
    struct kz_user_row raw = {0};
    struct kz_rowstate row = {0};
    struct kz_buf record = {0}, state = {0};
    struct kz_delivery_body fixed = {.decision = end->decision->seq,
            .decision_lsn = end->decision->seq,
            .state = (uint8_t)end->state,
            .attempt_count = end->attempt_count,
            .retry_at_ms = end->retry_at_ms};
    struct kz_record head = {.type = KZ_RECORD_DELIVERY,
            .seq = end->decision->seq +
                   1, /* the odd number beside the decision's is its delivery's */
            .at_ms = kz_clock_ms()};
    struct kz_rowstate_encode what = {.views = views, .before = &row, .now_ms = head.at_ms};
    struct kz_entry entry;
    struct kz_body_writer w;
    enum kz_code rc = kz_serve_row(role, end->owner, &head.owner, &raw, &row, err);

    if (rc == KZ_OK && !row.there)
        rc = kz_fail(err, KZ_NOT_FOUND, "nothing waits for this user");
    if (rc == KZ_OK)
        rc = kz_rowstate_apply(
                views, head.owner, row.key, &row, NULL, NULL, 0, NULL, &what.user, err);
    if (rc == KZ_OK && !kz_views_delivery(views, what.user, end->decision->seq))
        rc = kz_fail(err, KZ_NOT_FOUND, "no delivery %" PRIu64 " waits for this user",
                end->decision->seq);
    if (rc == KZ_OK) {
        kz_buf_put(&record, &head, sizeof(head));
        w = kz_body_begin(&record, &fixed, sizeof(fixed));
        kz_body_span(&w, offsetof(struct kz_delivery_body, detail), end->detail);
        ((struct kz_record *)(void *)record.data)->size = (uint32_t)record.size;
        rc = kz_views_apply(views, head.seq, (const void *)record.data, err);
    }
    if (rc == KZ_OK) {
        entry = (struct kz_entry){.request = decision->request,
                .seq = head.seq,
                .type = KZ_RECORD_DELIVERY,
                .at_ms = head.at_ms,
                .record = kz_buf_view(&record)};
        kz_rowstate_encode(&what, &state);
        rc = predictions->ops->write(
                predictions, head.owner, raw.state, kz_buf_view(&state), &entry, 1, err);
    }
    kz_buf_done(&raw.bytes);
    kz_rowstate_done(&row);
    kz_buf_done(&record);
    kz_buf_done(&state);
    return rc;
}

enum kz_code kz_serve_end_delivery(
        struct role_serve *role, const struct delivery_end *end, struct kz_err *err)
{
    enum kz_code rc = KZ_CONFLICT;

    for (unsigned tries = 0; tries < TRIES_MAX && rc == KZ_CONFLICT; tries++)
        rc = end_once(role, end, err);
    return rc;
}

/* Told before it is put down: the event has one id, so telling it again changes nothing, and none
 * is lost where this process ends in between. */
static enum kz_code tell_shown(
        struct role_serve *role, const struct kz_record *decision, struct kz_err *err)
{
    struct kz_bus *bus = role->env->bus;
    const struct kz_attribute format = {KZ_STR(KZ_ATTRIBUTE_FORMAT), KZ_STR("1")};
    const struct kz_decision_body *body = (const void *)(decision + 1);
    struct kz_user_key key = {
            body->user_kind, kz_span_str(kz_record_body(decision), body->user_id)};
    struct kz_buf data = {0};
    char lane[KZ_LANE_BYTES];
    enum kz_code rc;

    kz_action_event_put(role->env->project, decision, "shown", kz_clock_ms(), &data);
    kz_lane_name(kz_owner_hash(key, 0), lane);
    rc = bus->ops->publish(bus, KZ_TOPIC_EVENTS,
            &(struct kz_bus_message){.data = kz_buf_view(&data),
                    .key = kz_str(lane),
                    .attributes = &format,
                    .attribute_count = 1},
            1, NULL, NULL, err);
    kz_buf_done(&data);
    return rc;
}

static void run_ack(struct job *job)
{
    struct change *change = KZ_CONTAINER_OF(job, struct change, job);
    struct delivery_end end = {.owner = change->owner,
            .decision = (const void *)change->record.data,
            .state = KZ_DELIVERY_SHOWN};

    job->code = tell_shown(job->role, end.decision, &job->err);
    if (job->code == KZ_OK)
        job->code = kz_serve_end_delivery(job->role, &end, &job->err);
}

enum kz_code kz_serve_ack(
        struct kz_query *query, uint32_t user, uint64_t decision, struct kz_err *err)
{
    struct role_serve *role = kz_role_serve_of(query);
    const struct snapshot *s = role->current;
    const struct kz_slot *slot = s ? kz_views_delivery(s->views, user, decision) : NULL;
    const struct kz_record *record = NULL;
    struct change *change;
    uint64_t owner = 0;

    for (size_t i = 0; slot && i < s->row_count && !record; i++) {
        record = kz_rowstate_record(&s->rows[i], slot->delivery.decision_lsn);
        owner = s->row_owners[i];
    }
    if (!record || slot->delivery.kind != KZ_DELIVER_WEB)
        return kz_fail(err, KZ_NOT_FOUND, "no delivery %" PRIu64 " waits for this user", decision);
    change = kz_change_begin(role, run_ack);
    change->owner = owner;
    kz_buf_put(&change->record, record, record->size);
    role->counters.deliveries_shown_total++;
    kz_serve_job(role, &change->job);
    return KZ_OK;
}

/* ---- dead letters ------------------------------------------------------------------------------------- */

enum kz_code kz_serve_put_letter(
        struct role_serve *role, const struct kz_record *record, struct kz_err *err)
{
    struct kz_store *store = role->env->store;
    struct kz_store_record letter = {record->seq, record};
    struct kz_store_commit commit = {
            .letters = &letter, .letter_count = 1, .now_ms = kz_clock_ms()};
    struct kz_store_txn *txn = NULL;
    enum kz_code rc = KZ_CONFLICT;

    for (unsigned tries = 0; tries < TRIES_MAX && rc == KZ_CONFLICT; tries++) {
        KZ_TRY(store->ops->begin(store, &txn, err));
        rc = store->ops->commit(txn, &commit, err);
    }
    return rc;
}

/* Of which root the request was, and which model it asked: its RESULT says so. */
static void find_root(
        const struct kz_user_row *row, uint64_t seq, kz_lsn *root, struct kz_str *model)
{
    for (size_t i = 0; i < row->entry_count; i++) {
        const struct kz_record *record = (const void *)row->entries[i].record.ptr;
        const struct kz_result_body *body = (const void *)(record + 1);

        if (row->entries[i].type != KZ_RECORD_RESULT || body->request != seq)
            continue;
        *root = body->request_lsn;
        *model = kz_span_str(kz_record_body(record), body->model);
        return;
    }
}

static bool asks(const struct kz_record *record, struct kz_str model)
{
    const struct kz_request_body *body = (const void *)(record + 1);

    return record->type == KZ_RECORD_REQUEST &&
           (!model.size || kz_str_eq(kz_span_str(kz_record_body(record), body->model), model));
}

/* The REQUEST that a letter is about, or that the one it is about was made from by an earlier retry:
 * process wrote it to the store; that of a model that comes after another lies in the user's row. */
static enum kz_code find_request(struct role_serve *role, uint64_t owner, uint64_t seq,
        kz_lsn *ret_root, struct kz_buf *out, struct kz_err *err)
{
    struct kz_store *store = role->env->store;
    struct kz_predictions *predictions = role->env->predictions;
    struct kz_history_reader *reader = store->ops->reader(store);
    const struct kz_predictions_read all = {.entries_max = ENTRIES_MAX};
    struct kz_user_row row = {0};
    struct kz_str model = KZ_STR_NULL;
    bool found = false;
    enum kz_code rc = predictions->ops->read(predictions, owner, &all, &row, err);

    *ret_root = seq;
    if (rc == KZ_OK) {
        find_root(&row, seq, ret_root, &model);
        rc = reader->ops->get(reader, *ret_root, owner, out, err);
        found = rc == KZ_OK && asks((const void *)out->data, model);
        rc = rc == KZ_NOT_FOUND ? KZ_OK : rc;
    }
    for (size_t i = 0; rc == KZ_OK && i < row.entry_count && !found; i++) {
        const struct kz_record *record = (const void *)row.entries[i].record.ptr;

        found = record->seq - *ret_root <= UINT16_MAX && asks(record, model);
        kz_buf_clear(out);
        kz_buf_put(out, record, record->size);
    }
    if (rc == KZ_OK && !found)
        rc = kz_fail(err, KZ_NOT_FOUND, "the request %" PRIu64 " is not kept any more", seq);
    kz_buf_done(&row.bytes);
    return rc;
}

/* The runs of events of who the request was about, as of it. */
static enum kz_code find_sources(struct role_serve *role, uint64_t owner, kz_lsn as_of,
        struct kz_request_message *message, struct kz_err *err)
{
    struct kz_store *store = role->env->store;
    struct kz_store_user user = {.owner = owner};
    struct kz_views *views = kz_views_new_small();
    struct kz_user_state state;
    struct kz_buf bytes = {0};
    enum kz_code rc = store->ops->users(store, &user, 1, &bytes, err);

    kz_views_set_part(views);
    if (rc == KZ_OK && !user.state.size)
        rc = kz_fail(err, KZ_NOT_FOUND, "its user is not known any more");
    if (rc == KZ_OK)
        rc = kz_user_state_decode(user.state, &state, err);
    if (rc == KZ_OK && state.to_owner) {
        message->source_count = 1; /* before they were linked: their own run */
        message->sources[0] = (struct kz_source){owner, as_of};
    } else if (rc == KZ_OK) {
        rc = kz_user_state_restore(views, &state, err);
        if (rc == KZ_OK)
            message->source_count = kz_views_sources(views, kz_views_find_owner(views, owner),
                    KZ_CHAIN_EVENTS, as_of, message->sources);
    }
    kz_views_free(views);
    kz_buf_done(&bytes);
    return rc;
}

static enum kz_code ask_again(
        struct role_serve *role, const struct kz_record *letter, struct kz_err *err)
{
    const struct kz_deadletter_body *body = (const void *)(letter + 1);
    struct kz_bus *bus = role->env->bus;
    struct kz_request_message message = {.owner = letter->owner};
    struct kz_attribute model = {KZ_STR(KZ_ATTRIBUTE_MODEL), KZ_STR_NULL};
    struct kz_buf record = {0}, data = {0};
    struct kz_request_body *asked;
    struct kz_record *head;
    char lane[KZ_LANE_BYTES];
    uint64_t offset;
    enum kz_code rc;

    if (body->stage != KZ_STAGE_FEATURES && body->stage != KZ_STAGE_INFER)
        return kz_fail(err, KZ_UNSUPPORTED,
                "dead letter %" PRIu64
                " is of stage %s; only requests can be tried again, an event "
                "is to be sent again",
                letter->seq, kz_stage_name((enum kz_stage)body->stage));
    rc = find_request(role, letter->owner, body->ref, &message.lsn, &record, err);
    if (rc == KZ_OK)
        rc = find_sources(role, letter->owner, message.lsn, &message, err);
    if (rc == KZ_OK) {
        /* The n-th try has a place of its own, so that trying twice asks once. */
        head = (struct kz_record *)(void *)record.data;
        asked = (struct kz_request_body *)(void *)(record.data + sizeof(*head));
        offset = body->ref - message.lsn;
        head->seq = message.lsn + (offset < RETRY_AT ? RETRY_AT : offset + RETRY_STEP);
        head->at_ms = kz_clock_ms();
        asked->expires_ms = 0;
        message.record = head;
        if (head->seq > message.lsn + UINT16_MAX - RETRY_STEP)
            rc = kz_fail(err, KZ_LIMIT, "the request was tried again too often");
    }
    if (rc == KZ_OK) {
        model.value = kz_request_message_model(&message);
        kz_request_message_encode(&message, &data);
        kz_lane_name(message.owner, lane);
        rc = bus->ops->publish(bus, KZ_TOPIC_REQUESTS,
                &(struct kz_bus_message){.data = kz_buf_view(&data),
                        .key = kz_str(lane),
                        .attributes = &model,
                        .attribute_count = 1},
                1, NULL, NULL, err);
    }
    kz_buf_done(&record);
    kz_buf_done(&data);
    return rc;
}

/* One letter (before its seq + 1), or all. */
static void run_letters(struct job *job)
{
    struct change *change = KZ_CONTAINER_OF(job, struct change, job);
    struct kz_store *store = job->role->env->store;
    bool retry = strncmp(change->verb, "retry", 5) == 0, all = strcmp(change->object, "*") == 0;
    uint64_t wanted = strtoull(change->object, NULL, 10), before = all ? 0 : wanted + 1;
    struct kz_buf letters = {0};
    size_t count = 1;

    while (job->code == KZ_OK && count) {
        job->code = store->ops->letters(
                store, before, all ? LETTERS_AT_ONCE : 1, &letters, &count, &job->err);
        for (size_t at = 0, i = 0; job->code == KZ_OK && i < count; i++) {
            const struct kz_record *letter = (const void *)(letters.data + at);
            enum kz_code rc = KZ_OK;

            at += KZ_ALIGN8((size_t)letter->size);
            before = letter->seq;
            if (!all && letter->seq != wanted)
                continue;
            if (retry)
                rc = ask_again(job->role, letter, &job->err);
            if (rc == KZ_OK)
                rc = store->ops->drop_letters(store, &letter->seq, 1, &job->err);
            if (rc == KZ_OK)
                change->count++;
            else if (!all)
                job->code = rc;
        }
        if (!all)
            break;
    }
    if (job->code == KZ_OK && !all && !change->count)
        job->code = kz_fail(&job->err, KZ_NOT_FOUND, "there is no dead letter %s", change->object);
    kz_buf_done(&letters);
}

/* ---- words -------------------------------------------------------------------------------------------- */

static void run_word(struct job *job)
{
    struct change *change = KZ_CONTAINER_OF(job, struct change, job);
    int64_t now_ms = kz_clock_ms();

    if (strcmp(change->verb, "unfence-model") == 0 || strcmp(change->verb, "drop-requests") == 0) {
        size_t size = strlen(change->verb);

        snprintf(change->verb + size, sizeof(change->verb) - size, ":%" PRId64, now_ms);
    }
    job->code = kz_words_say(job->role->env->words, change->verb, kz_str(change->object),
            change->who, now_ms, &job->err);
    if (job->code == KZ_OK)
        kz_diag_info("operator", "verb=%s object=\"%s\" by=%s", change->verb, change->object,
                change->who);
}

static enum kz_code check_object(const struct kz_project *project, const char *verb,
        struct kz_str object, uint64_t *ret_count, struct kz_err *err)
{
    bool all = kz_str_is(object, "*");

    *ret_count = 1;
    if (strstr(verb, "-action")) {
        if (!all && !kz_project_action(project, object))
            return kz_project_no_action(project, object, err);
        *ret_count = all ? project->action_count : 1;
        return KZ_OK;
    }
    if (strcmp(verb, "drop-requests") == 0) {
        *ret_count = 0; /* how many wait on the bus nobody knows */
        if (all)
            return KZ_OK;
    } else if (!strstr(verb, "-model")) {
        return kz_fail(err, KZ_INVALID, "unknown verb \"%s\"", verb);
    }
    if (!kz_project_model(project, object))
        return kz_project_no_model(project, object, err);
    return KZ_OK;
}

enum kz_code kz_serve_control(struct kz_query *query, const char *verb, struct kz_str object,
        const char *who, uint64_t *ret_count, struct kz_err *err)
{
    struct role_serve *role = kz_role_serve_of(query);
    bool letters = strstr(verb, "deadletter") != NULL;
    struct change *change;
    uint64_t count = 0;

    if (!letters)
        KZ_TRY(check_object(role->env->project, verb, object, &count, err));
    change = kz_change_begin(role, letters ? run_letters : run_word);
    snprintf(change->verb, sizeof(change->verb), "%s", verb);
    snprintf(change->who, sizeof(change->who), "%s", who);
    change->object = kz_strndup(object.ptr, object.size);
    change->count = count;
    change->ret_count = ret_count;
    kz_serve_job(role, &change->job);
    return KZ_OK;
}
