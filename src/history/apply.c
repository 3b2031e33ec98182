/* history/apply.c -- the one place where the log becomes state. What only reads is elsewhere; what
 * changes state is called from here.
 */
#include "history/views_int.h"

#include <math.h>

/* The user a note is about: where the state of its owner is now. The chain it hangs on stays its
 * owner's. 0 where nobody is there any more: erased, or carried later in the log. */
static uint32_t note_user(struct kz_views *views, kz_lsn lsn, const struct kz_record *record)
{
    uint32_t owner = kz_views_find_owner(views, record->owner);

    if (!owner) {
        views->odd.unknown_owners++;
        return 0;
    }
    kz_views_at(views, owner)->notes_head = lsn;
    return kz_views_state_user(views, record->owner);
}

/* ---- EVENT ----------------------------------------------------------------------------------- */

/* Who wrote to us for the first time. 0 where the owner is not the sender's own: they were linked
 * in a part of the log that is gone, and a CARRY further on knows them. */
static uint32_t new_sender(struct kz_views *views, const struct kz_record *record)
{
    struct kz_str body = kz_record_body(record);
    const struct kz_event_body *event = kz_event_body(record);
    struct kz_user_key key = {event->sent_kind,
            kz_span_str(body, event->sent_kind == 'u' ? event->user_id : event->anonymous_id)};
    uint32_t user = 0;

    for (unsigned attempt = 0; attempt < 4; attempt++) {
        if (views->owner_hash(key, attempt) == record->owner) {
            if (kz_views_ensure_owner(views, record->owner, key, &user, NULL) == KZ_OK)
                return user;
            break;
        }
    }
    views->odd.unknown_owners++;
    return 0;
}

static void apply_event(struct kz_views *views, kz_lsn lsn, const struct kz_record *record)
{
    const struct kz_event_body *event = kz_event_body(record);
    uint32_t user = kz_views_find_owner(views, record->owner);
    int64_t seen_ms = record->flags & KZ_EVENT_IMPORTED ? event->ts_ms : record->at_ms;
    struct kz_user *u;

    if (!user)
        user = new_sender(views, record);
    if (!user)
        return;
    u = kz_views_at(views, user);
    u->events_head = lsn;
    u->event_count++;
    u->last_event_at_ms = record->at_ms;
    /* What we did is no sign of life. It must not move @now either: it came when we were done with
     * deciding, so features would depend on how fast that was. */
    if (record->flags & KZ_EVENT_ACTION)
        return;
    u->last_ts_ms = u->session ? KZ_MAX(u->last_ts_ms, event->ts_ms) : event->ts_ms;
    if (!u->first_seen_ms || seen_ms < u->first_seen_ms)
        u->first_seen_ms = seen_ms;
    u->session_ts_ms = event->session == u->session ? KZ_MAX(u->session_ts_ms, event->ts_ms)
                                                    : event->ts_ms;
    u->session = event->session;
}

/* ---- TRIGGER --------------------------------------------------------------------------------- */

static void apply_trigger_op(struct kz_trigger_state *state, const struct kz_trigger_body *body)
{
    switch ((enum kz_trigger_op)body->op) {
    case KZ_TRIGGER_WINDOW:
        state->window_due_ms = body->due_ms;
        state->pending = 0;
        state->pending_ts_ms = 0;
        break;
    case KZ_TRIGGER_PENDING:
        state->window_due_ms = body->due_ms;
        state->pending = body->event;
        state->pending_ts_ms = body->event_ts_ms;
        break;
    case KZ_TRIGGER_DELAY:
        state->delay_due_ms = body->due_ms;
        state->pending = body->event;
        state->pending_ts_ms = body->event_ts_ms;
        break;
    case KZ_TRIGGER_CANCEL:
        state->delay_due_ms = 0;
        state->pending = 0;
        state->pending_ts_ms = 0;
        break;
    case KZ_TRIGGER_FIRE: /* whatever was due by then is over */
        state->pending = 0;
        state->pending_ts_ms = 0;
        if (state->window_due_ms <= body->due_ms)
            state->window_due_ms = 0;
        if (state->delay_due_ms <= body->due_ms)
            state->delay_due_ms = 0;
        break;
    case KZ_TRIGGER_REACHED:
        state->rearm_due_ms = body->due_ms;
        break;
    case KZ_TRIGGER_COUNT:
        break;
    }
}

static enum kz_code apply_trigger(
        struct kz_views *views, kz_lsn lsn, const struct kz_record *record, struct kz_err *err)
{
    static const struct kz_trigger_state nothing;
    const struct kz_trigger_body *body = (const void *)kz_record_body(record).ptr;
    struct kz_slot *slot;
    uint32_t user;

    if (body->op < KZ_TRIGGER_WINDOW || body->op > KZ_TRIGGER_REACHED || !body->rule)
        return kz_fail(err, KZ_CORRUPT, "trigger record seq %llu has unknown op %u",
                (unsigned long long)record->seq, body->op);
    user = note_user(views, lsn, record);
    if (!user)
        return KZ_OK;
    if (body->op == KZ_TRIGGER_COUNT) {
        kz_views_times_add(views, user, body->rule, body->event_ts_ms, body->due_ms);
        return KZ_OK;
    }
    slot = kz_views_slot_get(views, user, KZ_SLOT_TRIGGER, body->rule);
    apply_trigger_op(&slot->trigger, body);
    if (memcmp(&slot->trigger, &nothing, sizeof(nothing)) == 0)
        kz_views_slot_remove(views, user, slot);
    return KZ_OK;
}

/* ---- REQUEST, RESULT ------------------------------------------------------------------------- */

static void apply_request(struct kz_views *views, kz_lsn lsn, const struct kz_record *record)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_request_body *body = (const void *)bytes.ptr;
    uint32_t user = note_user(views, lsn, record);
    struct kz_slot *slot;

    if (!user)
        return;
    slot = kz_views_slot_add(
            views, user, KZ_SLOT_REQUEST, kz_name_hash(kz_span_str(bytes, body->model)));
    slot->request = (struct kz_request_state){
            .request_lsn = lsn, .request = record->seq, .expires_ms = body->expires_ms};
}

static void apply_result(struct kz_views *views, kz_lsn lsn, const struct kz_record *record)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_result_body *body = (const void *)bytes.ptr;
    uint32_t user = note_user(views, lsn, record);
    struct kz_slot *slot;
    uint64_t model;

    if (!user)
        return;
    slot = (struct kz_slot *)kz_views_request(views, user, body->request);
    if (!slot) {
        views->odd.unknown_requests++;
        return;
    }
    model = slot->name;
    kz_views_slot_remove(views, user, slot);
    if (body->end != KZ_END_DONE)
        return;
    slot = kz_views_slot_get(views, user, KZ_SLOT_PREDICTION, model);
    if (slot->prediction.request >= body->request)
        return;
    slot->prediction = (struct kz_prediction_state){
            .result = lsn,
            .request = body->request,
            .score = body->has_score ? body->score : NAN,
            .computed_at_ms = body->computed_at_ms,
            .expires_at_ms = body->expires_at_ms,
    };
}

/* ---- DECISION, DELIVERY ---------------------------------------------------------------------- */

/* The first assignment sticks. */
static void assign(struct kz_views *views, uint32_t user, const struct kz_record *record,
        const struct kz_decision_body *body)
{
    struct kz_slot *slot = kz_views_slot_get(views, user, KZ_SLOT_ACTION, body->action);

    if (slot->action.holdout_assigned)
        return;
    slot->action.holdout_assigned = body->decision == KZ_DECISION_HOLDOUT ? 2 : 1;
    slot->action.assigned_at_ms = record->at_ms;
}

static void deliver(struct kz_views *views, uint32_t user, kz_lsn lsn,
        const struct kz_record *record, const struct kz_decision_body *body)
{
    struct kz_slot *slot = kz_views_slot_add(views, user, KZ_SLOT_DELIVERY, body->action);

    slot->delivery = (struct kz_delivery_wait){
            .decision_lsn = lsn,
            .decision = record->seq,
            .expires_at_ms = body->expires_at_ms,
            .kind = body->kind,
    };
    kz_views_times_add(views, user, kz_views_cap_name(body->action), record->at_ms, INT64_MIN);
    kz_views_cap_total_add(views, body->action, record->at_ms);
}

static void apply_decision(struct kz_views *views, kz_lsn lsn, const struct kz_record *record)
{
    const struct kz_decision_body *body = (const void *)kz_record_body(record).ptr;
    uint32_t user = note_user(views, lsn, record);

    if (!user)
        return;
    switch ((enum kz_decision)body->decision) {
    case KZ_DECISION_DELIVER:
        assign(views, user, record, body);
        deliver(views, user, lsn, record, body);
        break;
    case KZ_DECISION_SHADOW:
    case KZ_DECISION_CAPPED:
    case KZ_DECISION_HOLDOUT:
        assign(views, user, record, body);
        break;
    case KZ_DECISION_SCHEDULE:
    case KZ_DECISION_PAUSED:
        break;
    }
}

static void apply_delivery(struct kz_views *views, kz_lsn lsn, const struct kz_record *record)
{
    const struct kz_delivery_body *body = (const void *)kz_record_body(record).ptr;
    uint32_t user = note_user(views, lsn, record);
    struct kz_slot *slot;

    if (!user)
        return;
    slot = (struct kz_slot *)kz_views_delivery(views, user, body->decision);
    if (!slot) {
        views->odd.unknown_decisions++;
        return;
    }
    if (body->state == KZ_DELIVERY_FAILED) {
        slot->delivery.retry_at_ms = body->retry_at_ms;
        slot->delivery.attempt_count = body->attempt_count;
    } else {
        kz_views_slot_remove(views, user, slot);
    }
}

/* ---- COPY ------------------------------------------------------------------------------------ */

static void repoint(struct kz_slot *slot, kz_lsn to)
{
    switch ((enum kz_slot_kind)slot->kind) {
    case KZ_SLOT_TRIGGER:
        slot->trigger.pending = to;
        break;
    case KZ_SLOT_PREDICTION:
        slot->prediction.result = to;
        break;
    case KZ_SLOT_REQUEST: /* as-of stays the request's own address */
        slot->request.copy_lsn = to;
        break;
    case KZ_SLOT_DELIVERY:
        slot->delivery.decision_lsn = to;
        break;
    case KZ_SLOT_FREE:
    case KZ_SLOT_TIMES:
    case KZ_SLOT_ACTION:
    case KZ_SLOT_SOURCE:
    case KZ_SLOT_TARGET:
    case KZ_SLOT_KIND_END:
        break;
    }
}

/* What pointed to the record points to its copy. */
static void apply_copy(struct kz_views *views, kz_lsn lsn, const struct kz_record *record)
{
    const struct kz_copy_body *body = (const void *)kz_record_body(record).ptr;
    uint32_t user = kz_views_state_user(views, record->owner);

    if (!user || !body->from)
        return;
    for (uint32_t at = kz_views_at(views, user)->slots; at;) {
        struct kz_slot *slot = kz_views_slot_at(views, at);

        at = slot->next;
        if (kz_slot_address(slot) == body->from)
            repoint(slot, lsn);
    }
}

/* ---- all ------------------------------------------------------------------------------------- */

static enum kz_code apply_one(
        struct kz_views *views, kz_lsn lsn, const struct kz_record *record, struct kz_err *err)
{
    switch ((enum kz_record_type)record->type) {
    case KZ_RECORD_EVENT:
        apply_event(views, lsn, record);
        break;
    case KZ_RECORD_LINK:
        return kz_views_apply_link(views, lsn, record, err);
    case KZ_RECORD_TRIGGER:
        return apply_trigger(views, lsn, record, err);
    case KZ_RECORD_REQUEST:
        apply_request(views, lsn, record);
        break;
    case KZ_RECORD_RESULT:
        apply_result(views, lsn, record);
        break;
    case KZ_RECORD_DECISION:
        apply_decision(views, lsn, record);
        break;
    case KZ_RECORD_DELIVERY:
        apply_delivery(views, lsn, record);
        break;
    case KZ_RECORD_DEADLETTER:
        kz_views_apply_dead_letter(views, lsn, record);
        break;
    case KZ_RECORD_ERASE:
        return kz_views_apply_erase(views, lsn, record, err);
    case KZ_RECORD_CARRY:
        return kz_views_apply_carry(views, lsn, record, err);
    case KZ_RECORD_CONTROL:
        kz_views_apply_control(views, record);
        break;
    case KZ_RECORD_CLOCK:
        views->clock_ms = record->at_ms;
        break;
    case KZ_RECORD_COPY:
        apply_copy(views, lsn, record);
        break;
    case KZ_RECORD_TYPE_END:
        break;
    }
    return KZ_OK;
}

enum kz_code kz_views_apply(
        struct kz_views *views, kz_lsn lsn, const struct kz_record *record, struct kz_err *err)
{
    KZ_TRY(kz_record_check(record, err));
    if (record->seq <= views->seq && !views->part)
        return KZ_OK;
    KZ_TRY(apply_one(views, lsn, record, err));
    views->seq = record->seq;
    views->lsn = lsn;
    return KZ_OK;
}
