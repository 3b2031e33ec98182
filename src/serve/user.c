/* serve/user.c -- what is known of one user: predictions, history, actions; and its erasure. */

#include <stdio.h>

#include "serve/serve_int.h"
#include "sys/clock.h"

enum { EVENTS_LIMIT_DEFAULT = 50, EVENTS_LIMIT_MAX = 1000, ACTIONS_ALL_MAX = 1000 };

/* {"user_id":..., "<list>":[ -- the id is given back as it was asked, so that it can be used again
 * and a visitor's proof of an anonymous id does not tell whose it has become. */
static struct kz_json_out begin_list(struct kz_serve_call *call, const char *list)
{
    struct kz_json_out out = kz_serve_json(call);

    kz_json_out_object(&out);
    kz_json_out_kv_str(&out, "user_id", call->user_text);
    kz_json_out_key(&out, list);
    kz_json_out_array(&out);
    return out;
}

static void end_list(struct kz_serve_call *call, struct kz_json_out *out)
{
    kz_json_out_array_end(out);
    kz_json_out_object_end(out);
    kz_serve_reply(call, 200);
}

static void empty_list(struct kz_serve_call *call, const char *list)
{
    struct kz_json_out out = begin_list(call, list);

    end_list(call, &out);
}

/* Room for the addresses in `kind`'s slots that are to be answered. */
static bool lsns_alloc(struct kz_serve_call *call, enum kz_slot_kind kind)
{
    struct kz_query *query = call->serve->query;
    const struct kz_slot *slot = NULL;
    struct kz_err err = {0};
    size_t count = 0;

    while ((slot = query->ops->slot(query, call->user, kind, slot)))
        count++;
    (void)kz_serve_head(call, KZ_CHAIN_NOTES); /* whose records they are, for reading them */
    call->lsns = kz_arena_alloc(&call->req->arena, (count + 1) * sizeof(*call->lsns));
    if (call->lsns)
        return true;
    kz_fail(&err, KZ_NO_MEMORY, "the request's memory is used up");
    kz_serve_fail(call, &err);
    return false;
}

/* ---- predictions
 * ---------------------------------------------------------------------------------- */

static void predictions_durable(struct kz_serve_call *call)
{
    struct kz_json_out out = begin_list(call, "predictions");

    for (size_t i = 0; i < call->lsn_count; i++) {
        const struct kz_record *record = kz_serve_read_own(call, call->lsns[i]);
        struct kz_prediction prediction;

        /* Gone by retention or erasure since: then it is no prediction any more. */
        if (record && kz_prediction_decode(record, &prediction, NULL) == KZ_OK)
            kz_prediction_json(&prediction, &out);
    }
    end_list(call, &out);
}

void kz_serve_predictions(struct kz_serve_call *call)
{
    struct kz_query *query = call->serve->query;
    const struct kz_slot *slot = NULL;
    int64_t now_ms = kz_clock_ms();
    struct kz_str model;
    uint64_t only = 0;
    kz_lsn newest = 0;

    if (call->req->query.size && kz_http_query_get(call->req, "model", &model)) {
        struct kz_err err = {0};

        if (!kz_project_model(query->project, model)) {
            (void)kz_project_no_model(query->project, model, &err);
            kz_serve_fail(call, &err);
            return;
        }
        only = kz_name_hash(model);
    }
    if (!kz_serve_find(call)) {
        empty_list(call, "predictions");
        return;
    }
    if (!lsns_alloc(call, KZ_SLOT_PREDICTION))
        return;
    while ((slot = query->ops->slot(query, call->user, KZ_SLOT_PREDICTION, slot))) {
        if (slot->prediction.expires_at_ms <= now_ms || (only && slot->name != only))
            continue;
        call->lsns[call->lsn_count++] = slot->prediction.result;
        newest = KZ_MAX(newest, slot->prediction.result);
    }
    kz_serve_when_durable(call, newest, predictions_durable);
}

/* ---- events
 * --------------------------------------------------------------------------------------- */

static void value_json(struct kz_json_out *out, const struct kz_value *value)
{
    switch (value->type) {
    case KZ_TYPE_NULL:
        kz_json_out_null(out);
        break;
    case KZ_TYPE_INT:
        kz_json_out_i64(out, value->integer);
        break;
    case KZ_TYPE_FLOAT:
        kz_json_out_f64(out, value->real);
        break;
    case KZ_TYPE_BOOL:
        kz_json_out_bool(out, value->integer != 0);
        break;
    case KZ_TYPE_TEXT:
        kz_json_out_str(out, value->text);
        break;
    }
}

void kz_serve_event_json(
        struct kz_serve *serve, struct kz_json_out *out, const struct kz_record *record)
{
    const struct kz_project *project = serve->query->project;
    struct kz_event event;

    if (kz_event_decode(record, &event, NULL) != KZ_OK)
        return;
    kz_json_out_object(out);
    kz_json_out_kv_str(out, "event_id", event.event_id);
    if (event.user_id.size)
        kz_json_out_kv_str(out, "user_id", event.user_id);
    if (event.anonymous_id.size)
        kz_json_out_kv_str(out, "anonymous_id", event.anonymous_id);
    kz_json_out_kv_str(out, "name", event.name);
    kz_json_out_kv_i64(out, "ts", event.ts_ms);
    kz_json_out_kv_i64(out, "client_ts", event.client_ts_ms);
    kz_json_out_kv_i64(out, "received_at", event.received_at_ms);
    kz_json_out_kv_u64(out, "seq", record->seq);
    kz_json_out_kv_u64(out, "session", event.session);
    if (record->flags & KZ_EVENT_CLAMPED)
        kz_json_out_kv_bool(out, "clamped", true);
    if (record->flags & KZ_EVENT_IMPORTED)
        kz_json_out_kv_bool(out, "imported", true);
    kz_json_out_kv_raw(out, "props", event.props.size ? event.props : KZ_STR("{}"));
    if (event.columns_id == project->events.columns_id && project->events.column_count) {
        kz_json_out_key(out, "columns");
        kz_json_out_object(out);
        for (unsigned i = 0; i < project->events.column_count; i++) {
            struct kz_value value = kz_event_column(record, i);

            if (value.type == KZ_TYPE_NULL)
                continue;
            kz_json_out_key(out, project->events.columns[i].name);
            value_json(out, &value);
        }
        kz_json_out_object_end(out);
    }
    kz_json_out_object_end(out);
}

/* `before`: a seq, or the cursor SEQ-ADDRESS that the page before gave as "next", which needs no
 * search. */
static enum kz_code parse_before(
        struct kz_serve_call *call, uint64_t *ret_seq, kz_lsn *ret_as_of, struct kz_err *err)
{
    struct kz_str text, seq, address = KZ_STR("0");
    const char *dash;

    *ret_seq = UINT64_MAX;
    *ret_as_of = UINT64_MAX;
    if (!kz_http_query_get(call->req, "before", &text))
        return KZ_OK;
    seq = text;
    dash = text.size ? memchr(text.ptr, '-', text.size) : NULL;
    if (dash) {
        seq.size = (size_t)(dash - text.ptr);
        address = kz_str_n(dash + 1, text.size - seq.size - 1);
    }
    if (!kz_serve_parse_u64(seq, ret_seq) || !kz_serve_parse_u64(address, ret_as_of)) {
        kz_fail(err, KZ_INVALID, "before is \"" KZ_STR_FMT "\", not a place in the history",
                KZ_STR_ARG(text));
        return kz_hint(err, "give an event's \"seq\" or the last answer's \"next\"");
    }
    if (!*ret_as_of && call->serve->query->ops->prepare)
        *ret_as_of = *ret_seq; /* they are one number there */
    *ret_as_of = *ret_as_of ? *ret_as_of - 1 : UINT64_MAX;
    return KZ_OK;
}

enum kz_code kz_serve_want_events(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err)
{
    uint64_t limit, before;

    KZ_TRY(kz_serve_number(call, "limit", EVENTS_LIMIT_DEFAULT, EVENTS_LIMIT_MAX, &limit, err));
    KZ_TRY(parse_before(call, &before, &want->events_as_of, err));
    want->what |= KZ_WANT_EVENTS;
    want->events_max = (uint32_t)KZ_MAX(limit, 1u);
    return KZ_OK;
}

static void events_page(struct kz_serve_call *call, const struct kz_history_rows *rows, size_t end,
        uint64_t limit, bool more)
{
    struct kz_json_out out = begin_list(call, "events");
    size_t first = end > limit ? end - limit : 0;

    for (size_t i = end; i-- > first;)
        kz_serve_event_json(call->serve, &out, rows->records[i]);
    kz_json_out_array_end(&out);
    if ((more || first) && end) {
        char next[48];

        snprintf(next, sizeof(next), "%llu-%llu", (unsigned long long)rows->records[first]->seq,
                (unsigned long long)rows->lsns[first]);
        kz_json_out_kv_cstr(&out, "next", next);
    }
    kz_json_out_object_end(&out);
    kz_serve_reply(call, 200);
}

static void events_durable(struct kz_serve_call *call)
{
    struct kz_history_rows rows;
    struct kz_err err = {0};
    uint64_t limit, before;
    kz_lsn as_of;

    if (kz_serve_number(call, "limit", EVENTS_LIMIT_DEFAULT, EVENTS_LIMIT_MAX, &limit, &err) ||
            parse_before(call, &before, &as_of, &err)) {
        kz_serve_fail(call, &err);
        return;
    }
    limit = KZ_MAX(limit, 1u);
    for (uint32_t max = (uint32_t)limit;; max = KZ_MIN(max * 8, call->serve->options.scan_max)) {
        size_t end;

        if (kz_serve_scan(call, KZ_CHAIN_EVENTS, as_of, max, &rows, &err) != KZ_OK) {
            kz_serve_fail(call, &err);
            return;
        }
        end = rows.count;
        while (end && rows.records[end - 1]->seq >= before)
            end--;
        if (end >= limit || !rows.truncated || max >= call->serve->options.scan_max) {
            events_page(call, &rows, end, limit, rows.truncated);
            kz_serve_release(call, &rows);
            return;
        }
        kz_serve_release(call, &rows);
    }
}

void kz_serve_events(struct kz_serve_call *call)
{
    if (!kz_serve_find(call))
        empty_list(call, "events");
    else
        kz_serve_when_durable(call, kz_serve_head(call, KZ_CHAIN_EVENTS), events_durable);
}

/* ---- actions
 * -------------------------------------------------------------------------------------- */

static void decision_members(struct kz_json_out *out, const struct kz_record *record)
{
    const struct kz_decision_body *body = (const void *)(record + 1);
    struct kz_str bytes = kz_record_body(record);
    struct kz_str payload = kz_span_str(bytes, body->payload);
    char id[24];

    snprintf(id, sizeof(id), "%llu", (unsigned long long)record->seq);
    kz_json_out_kv_str(out, "action", kz_span_str(bytes, body->action_name));
    kz_json_out_kv_cstr(out, "action_id", id);
    kz_json_out_kv_str(out, "model", kz_span_str(bytes, body->model));
    kz_json_out_kv_str(out, "event_id", kz_span_str(bytes, body->event_id));
    if (payload.size)
        kz_json_out_kv_raw(out, "payload", payload);
    kz_json_out_kv_i64(out, "decided_at", record->at_ms);
    kz_json_out_kv_i64(out, "expires_at", body->expires_at_ms);
}

static bool is_decision(const struct kz_record *record)
{
    return record && record->type == KZ_RECORD_DECISION &&
           record->size >= sizeof(*record) + sizeof(struct kz_decision_body);
}

void kz_serve_action_json(struct kz_json_out *out, const struct kz_record *record)
{
    if (!is_decision(record))
        return;
    kz_json_out_object(out);
    decision_members(out, record);
    kz_json_out_object_end(out);
}

static void actions_durable(struct kz_serve_call *call)
{
    struct kz_json_out out = begin_list(call, "actions");

    for (size_t i = 0; i < call->lsn_count; i++)
        kz_serve_action_json(&out, kz_serve_read_own(call, call->lsns[i]));
    end_list(call, &out);
}

static const char *delivery_name(unsigned state)
{
    static const char *const names[] = {
            [0] = "waiting",
            [KZ_DELIVERY_SHOWN] = "shown",
            [KZ_DELIVERY_SENT] = "sent",
            [KZ_DELIVERY_FAILED] = "failed",
            [KZ_DELIVERY_GAVE_UP] = "gave_up",
            [KZ_DELIVERY_EXPIRED] = "expired",
    };

    return state < KZ_ARRAY_COUNT(names) ? names[state] : "unknown";
}

/* The state of a decision's delivery: that of the newest DELIVERY record about it. */
static const struct kz_record *delivery_of(
        const struct kz_history_rows *rows, size_t from, uint64_t decision)
{
    for (size_t i = rows->count; i-- > from;) {
        const struct kz_record *record = rows->records[i];
        const struct kz_delivery_body *body = (const void *)(record + 1);

        if (record->type == KZ_RECORD_DELIVERY && body->decision == decision)
            return record;
    }
    return NULL;
}

static void decision_json(struct kz_json_out *out, const struct kz_history_rows *rows, size_t at)
{
    const struct kz_record *record = rows->records[at];
    const struct kz_decision_body *body = (const void *)(record + 1);
    const struct kz_record *delivery;

    kz_json_out_object(out);
    decision_members(out, record);
    kz_json_out_kv_cstr(out, "decision", kz_decision_name(body->decision));
    if (body->decision == KZ_DECISION_DELIVER) {
        delivery = delivery_of(rows, at + 1, record->seq);
        kz_json_out_kv_cstr(out, "delivery",
                delivery_name(
                        delivery ? ((const struct kz_delivery_body *)(delivery + 1))->state : 0));
        if (delivery)
            kz_json_out_kv_i64(out, "delivered_at", delivery->at_ms);
    }
    kz_json_out_object_end(out);
}

static void actions_all_durable(struct kz_serve_call *call)
{
    struct kz_history_rows rows;
    struct kz_json_out out;
    struct kz_err err = {0};
    size_t written = 0;

    if (kz_serve_scan(call, KZ_CHAIN_NOTES, UINT64_MAX, call->serve->options.scan_max, &rows,
                &err) != KZ_OK) {
        kz_serve_fail(call, &err);
        return;
    }
    out = begin_list(call, "actions");
    for (size_t i = rows.count; i-- > 0 && written < ACTIONS_ALL_MAX;) {
        if (!is_decision(rows.records[i]))
            continue;
        decision_json(&out, &rows, i);
        written++;
    }
    kz_serve_release(call, &rows);
    end_list(call, &out);
}

enum kz_code kz_serve_want_actions(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err)
{
    (void)err;
    if (!kz_serve_flag(call, "all") || call->is_write_key)
        return KZ_OK;
    want->what |= KZ_WANT_NOTES;
    want->notes_max = call->serve->options.scan_max;
    return KZ_OK;
}

static void actions_all(struct kz_serve_call *call)
{
    struct kz_err err = {0};

    if (call->is_write_key) {
        kz_fail(&err, KZ_FORBIDDEN, "a write key does not see every decision");
        kz_hint(&err, "leave out ?all, or use a read key");
        kz_serve_fail(call, &err);
    } else if (!kz_serve_find(call)) {
        empty_list(call, "actions");
    } else {
        kz_serve_when_durable(call, kz_serve_head(call, KZ_CHAIN_NOTES), actions_all_durable);
    }
}

void kz_serve_actions(struct kz_serve_call *call)
{
    struct kz_query *query = call->serve->query;
    const struct kz_slot *slot = NULL;
    int64_t now_ms = kz_clock_ms();
    kz_lsn newest = 0;

    if (kz_serve_flag(call, "all")) {
        actions_all(call);
        return;
    }
    if (!kz_serve_find(call)) {
        empty_list(call, "actions");
        return;
    }
    if (!lsns_alloc(call, KZ_SLOT_DELIVERY))
        return;
    while ((slot = query->ops->slot(query, call->user, KZ_SLOT_DELIVERY, slot))) {
        if (slot->delivery.kind != KZ_DELIVER_WEB || slot->delivery.expires_at_ms <= now_ms)
            continue;
        call->lsns[call->lsn_count++] = slot->delivery.decision_lsn;
        newest = KZ_MAX(newest, slot->delivery.decision_lsn);
    }
    kz_serve_when_durable(call, newest, actions_durable);
}

static void acknowledged(struct kz_serve_call *call)
{
    struct kz_json_out out = kz_serve_json(call);

    kz_json_out_object(&out);
    kz_json_out_kv_str(&out, "action_id", call->args[0]);
    kz_json_out_kv_bool(&out, "acknowledged", true);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, 200);
}

void kz_serve_acknowledge(struct kz_serve_call *call)
{
    struct kz_query *query = call->serve->query;
    struct kz_err err = {0};
    uint64_t decision;

    if (!kz_serve_parse_u64(call->args[0], &decision)) {
        kz_fail(&err, KZ_INVALID, "\"" KZ_STR_FMT "\" is no action_id", KZ_STR_ARG(call->args[0]));
        kz_serve_fail(call, &err);
    } else if (!kz_serve_find(call)) {
        kz_fail(&err, KZ_NOT_FOUND, "no delivery %llu waits for this user",
                (unsigned long long)decision);
        kz_serve_fail(call, &err);
    } else if (query->ops->acknowledge(query, call->user, decision, &err) != KZ_OK) {
        kz_serve_fail(call, &err);
    } else {
        kz_serve_when_durable(call, query->ops->end(query), acknowledged);
    }
}

/* ---- erasure
 * -------------------------------------------------------------------------------------- */

static void erasing(struct kz_serve_call *call)
{
    struct kz_json_out out = kz_serve_json(call);
    char id[24];

    snprintf(id, sizeof(id), "%llu", (unsigned long long)call->number);
    kz_json_out_object(&out);
    kz_json_out_kv_cstr(&out, "erasure_id", id);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, 202);
}

void kz_serve_erase(struct kz_serve_call *call)
{
    struct kz_query *query = call->serve->query;
    struct kz_err err = {0};

    if (query->ops->erase(query, call->key, call->who, &call->number, &err) != KZ_OK)
        kz_serve_fail(call, &err);
    else
        kz_serve_when_durable(call, query->ops->end(query), erasing);
}

enum kz_code kz_serve_want_erasure(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err)
{
    (void)err; /* one that is no number is refused later */
    if (kz_serve_parse_u64(call->args[0], &want->erasure))
        want->what |= KZ_WANT_ERASURE;
    return KZ_OK;
}

void kz_serve_erasure(struct kz_serve_call *call)
{
    struct kz_query *query = call->serve->query;
    int64_t asked_ms = 0, done_ms = 0;
    struct kz_json_out out;
    struct kz_err err = {0};
    bool done = false;
    uint64_t id;

    if (!kz_serve_parse_u64(call->args[0], &id)) {
        kz_fail(&err, KZ_INVALID, "\"" KZ_STR_FMT "\" is no erasure_id", KZ_STR_ARG(call->args[0]));
        kz_serve_fail(call, &err);
        return;
    }
    if (query->ops->erasure(query, id, &done, &asked_ms, &done_ms, &err) != KZ_OK) {
        kz_serve_fail(call, &err);
        return;
    }
    out = kz_serve_json(call);
    kz_json_out_object(&out);
    kz_json_out_kv_str(&out, "erasure_id", call->args[0]);
    kz_json_out_kv_cstr(&out, "state", done ? "done" : "running");
    kz_json_out_kv_i64(&out, "asked_at", asked_ms);
    if (done)
        kz_json_out_kv_i64(&out, "done_at", done_ms);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, 200);
}
