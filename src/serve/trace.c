/* serve/trace.c -- what became of one event, stage by stage, from the user's records about it. */

#include <stdio.h>

#include "serve/serve_int.h"

/* What the trace is made of: the event and its user's newest notes. */
struct trace {
    struct kz_serve_call *call;
    struct kz_json_out out;
    const struct kz_record *event;
    kz_lsn event_lsn;
    struct kz_history_rows events, notes;
};

static void stage_begin(struct trace *t, const char *stage, int64_t ts_ms)
{
    kz_json_out_object(&t->out);
    kz_json_out_kv_cstr(&t->out, "stage", stage);
    kz_json_out_kv_i64(&t->out, "ts", ts_ms);
}

static void stage_end(struct trace *t)
{
    kz_json_out_object_end(&t->out);
}

static struct kz_str span(const struct kz_record *record, struct kz_span span)
{
    return kz_span_str(kz_record_body(record), span);
}

static const void *body_of(const struct kz_record *record)
{
    return record + 1;
}

/* ---- stages
 * --------------------------------------------------------------------------------------- */

static void put_intake(struct trace *t)
{
    struct kz_query *query = t->call->serve->query;
    struct kz_event_timing timing = {0};
    bool timed = query->ops->timing(query, t->event->seq, &timing);

    stage_begin(t, "received", t->event->at_ms);
    stage_end(t);
    stage_begin(t, "parsed", t->event->at_ms);
    if (timed && timing.parse_us)
        kz_json_out_kv_u64(&t->out, "us", timing.parse_us);
    if (t->event->flags & KZ_EVENT_CLAMPED)
        kz_json_out_kv_bool(&t->out, "clamped", true);
    stage_end(t);
    stage_begin(t, "logged", t->event->at_ms);
    if (timed && timing.log_us)
        kz_json_out_kv_u64(&t->out, "us", timing.log_us);
    kz_json_out_kv_u64(&t->out, "seq", t->event->seq);
    kz_json_out_kv_bool(&t->out, "durable", true);
    stage_end(t);
}

static const char *rule_name(const struct trace *t, uint64_t hash)
{
    const struct kz_project *project = t->call->serve->query->project;

    for (size_t i = 0; i < project->trigger_count; i++)
        if (kz_name_hash(kz_str(project->triggers[i].name)) == hash)
            return project->triggers[i].name;
    return NULL;
}

static void put_trigger(struct trace *t, const struct kz_record *record)
{
    static const char *const whats[] = {
            [KZ_TRIGGER_WINDOW] = "asked at once, window open until due",
            [KZ_TRIGGER_PENDING] = "within the window, asked at due",
            [KZ_TRIGGER_DELAY] = "asked at due",
            [KZ_TRIGGER_CANCEL] = "cancelled by unless",
            [KZ_TRIGGER_FIRE] = "due",
            [KZ_TRIGGER_COUNT] = "counted",
            [KZ_TRIGGER_REACHED] = "count reached, not again before due",
    };
    const struct kz_trigger_body *body = body_of(record);
    const char *name = rule_name(t, body->rule);

    stage_begin(t, "trigger", record->at_ms);
    kz_json_out_kv_cstr(&t->out, "rule", name ? name : "(no longer in the project)");
    kz_json_out_kv_cstr(&t->out, "what",
            body->op < KZ_ARRAY_COUNT(whats) && whats[body->op] ? whats[body->op] : "unknown");
    if (body->due_ms) /* of a count it is where its window begins */
        kz_json_out_kv_i64(&t->out, body->op == KZ_TRIGGER_COUNT ? "since" : "due", body->due_ms);
    stage_end(t);
}

static void put_value(struct kz_json_out *out, const struct kz_value *value)
{
    if (value->type == KZ_TYPE_INT)
        kz_json_out_i64(out, value->integer);
    else if (value->type == KZ_TYPE_FLOAT)
        kz_json_out_f64(out, value->real);
    else if (value->type == KZ_TYPE_BOOL)
        kz_json_out_bool(out, value->integer != 0);
    else if (value->type == KZ_TYPE_TEXT)
        kz_json_out_str(out, value->text);
    else
        kz_json_out_null(out);
}

static size_t feature_names(const struct trace *t, struct kz_str model, const char *const **ret)
{
    const struct kz_serve_options *options = &t->call->serve->options;
    const struct kz_project *project = t->call->serve->query->project;
    const struct kz_model_def *def = kz_project_model(project, model);

    if (!def || !options->feature_names)
        return 0;
    return options->feature_names(options->arg, (unsigned)(def - project->models), ret);
}

/* An object by name where as many names are known as there are values, else an array. */
static void put_features(struct trace *t, const struct kz_record *record)
{
    enum { FEATURES_MAX = 2000 };
    const struct kz_result_body *body = body_of(record);
    struct kz_str bytes = span(record, body->features);
    struct kz_value *values = kz_arena_alloc(&t->call->req->arena, FEATURES_MAX * sizeof(*values));
    const char *const *names = NULL;
    size_t count = 0, name_count;

    if (!bytes.size || !values || kz_row_decode(bytes, values, FEATURES_MAX, &count, NULL) != KZ_OK)
        return;
    name_count = feature_names(t, span(record, body->model), &names);
    kz_json_out_key(&t->out, "features");
    if (name_count == count)
        kz_json_out_object(&t->out);
    else
        kz_json_out_array(&t->out);
    for (size_t i = 0; i < count; i++) {
        if (name_count == count)
            kz_json_out_key(&t->out, names[i]);
        put_value(&t->out, &values[i]);
    }
    if (name_count == count)
        kz_json_out_object_end(&t->out);
    else
        kz_json_out_array_end(&t->out);
}

/* The dead letter about a request: written just before or after its result. */
static void put_dead_letter(struct trace *t, const struct kz_record *result)
{
    enum { NEAR = 64 };
    struct kz_serve *serve = t->call->serve;
    const struct kz_result_body *body = body_of(result);
    struct kz_letter_place places[NEAR];
    size_t found = serve->query->ops->dead_letters(
            serve->query, result->seq + NEAR / 2, NEAR, places);

    for (size_t i = 0; i < found && places[i].seq + NEAR > result->seq; i++) {
        const struct kz_record *record = kz_serve_read(serve, places[i].lsn, places[i].owner);
        const struct kz_deadletter_body *letter;
        char id[24];

        if (!record || kz_record_check(record, NULL) != KZ_OK ||
                record->type != KZ_RECORD_DEADLETTER)
            continue;
        letter = body_of(record);
        if (letter->ref != body->request)
            continue;
        snprintf(id, sizeof(id), "%llu", (unsigned long long)places[i].seq);
        kz_json_out_kv_cstr(&t->out, "dead_letter", id);
        kz_json_out_kv_cstr(&t->out, "failed_stage", kz_stage_name((enum kz_stage)letter->stage));
        kz_json_out_kv_str(&t->out, "code", span(record, letter->code));
        kz_json_out_kv_str(&t->out, "reason", span(record, letter->reason));
        return;
    }
    kz_json_out_kv_str(&t->out, "reason", span(result, body->error));
}

static void put_result(struct trace *t, const struct kz_record *record)
{
    const struct kz_result_body *body = body_of(record);
    struct kz_str output = span(record, body->output);

    kz_json_out_kv_cstr(&t->out, "end", kz_request_end_name((enum kz_request_end)body->end));
    kz_json_out_kv_i64(&t->out, "ended_at", record->at_ms);
    kz_json_out_kv_u64(&t->out, "queue_us", body->queue_us);
    kz_json_out_kv_u64(&t->out, "features_us", body->features_us);
    kz_json_out_kv_u64(&t->out, "wait_us", body->wait_us);
    kz_json_out_kv_u64(&t->out, "model_us", body->model_us);
    kz_json_out_kv_u64(&t->out, "attempts", body->attempt_count);
    if (body->version.size)
        kz_json_out_kv_str(&t->out, "version", span(record, body->version));
    put_features(t, record);
    if (body->end == KZ_END_DEAD)
        put_dead_letter(t, record);
    if (body->end != KZ_END_DONE)
        return;
    if (body->has_score)
        kz_json_out_kv_f64(&t->out, "score", body->score);
    if (output.size)
        kz_json_out_kv_raw(&t->out, "output", output);
    kz_json_out_kv_i64(&t->out, "expires_at", body->expires_at_ms);
}

static void put_delivery(struct trace *t, const struct kz_record *record)
{
    static const char *const states[] = {
            [KZ_DELIVERY_SHOWN] = "shown",
            [KZ_DELIVERY_SENT] = "sent",
            [KZ_DELIVERY_FAILED] = "failed",
            [KZ_DELIVERY_GAVE_UP] = "gave_up",
            [KZ_DELIVERY_EXPIRED] = "expired",
    };
    const struct kz_delivery_body *body = body_of(record);

    stage_begin(t, "delivery", record->at_ms);
    kz_json_out_kv_cstr(&t->out, "state",
            body->state < KZ_ARRAY_COUNT(states) && states[body->state] ? states[body->state]
                                                                        : "unknown");
    kz_json_out_kv_u64(&t->out, "attempt", body->attempt_count);
    if (body->detail.size)
        kz_json_out_kv_str(&t->out, "detail", span(record, body->detail));
    if (body->retry_at_ms)
        kz_json_out_kv_i64(&t->out, "retry_at", body->retry_at_ms);
    stage_end(t);
}

static void put_decision(struct trace *t, size_t at)
{
    const struct kz_record *record = t->notes.records[at];
    const struct kz_decision_body *body = body_of(record);
    char id[24];

    snprintf(id, sizeof(id), "%llu", (unsigned long long)record->seq);
    stage_begin(t, "decision", record->at_ms);
    kz_json_out_kv_str(&t->out, "action", span(record, body->action_name));
    kz_json_out_kv_cstr(&t->out, "action_id", id);
    kz_json_out_kv_cstr(&t->out, "decision", kz_decision_name((enum kz_decision)body->decision));
    kz_json_out_kv_i64(&t->out, "expires_at", body->expires_at_ms);
    stage_end(t);
    for (size_t i = at + 1; i < t->notes.count; i++) {
        const struct kz_record *later = t->notes.records[i];

        if (later->type == KZ_RECORD_DELIVERY &&
                ((const struct kz_delivery_body *)body_of(later))->decision == record->seq)
            put_delivery(t, later);
    }
}

/* A request, its result, and what was decided about it. */
static void put_request(struct trace *t, size_t at)
{
    const struct kz_record *record = t->notes.records[at];
    const struct kz_request_body *body = body_of(record);
    bool ended = false;

    stage_begin(t, "request", record->at_ms);
    kz_json_out_kv_str(&t->out, "model", span(record, body->model));
    kz_json_out_kv_str(&t->out, "rule", span(record, body->trigger));
    kz_json_out_kv_u64(&t->out, "request", record->seq);
    kz_json_out_kv_i64(&t->out, "as_of", body->now_ms);
    for (size_t i = at + 1; i < t->notes.count && !ended; i++) {
        const struct kz_record *later = t->notes.records[i];

        if (later->type != KZ_RECORD_RESULT ||
                ((const struct kz_result_body *)body_of(later))->request != record->seq)
            continue;
        put_result(t, later);
        ended = true;
    }
    if (!ended)
        kz_json_out_kv_cstr(&t->out, "end", "pending");
    stage_end(t);
    for (size_t i = at + 1; i < t->notes.count; i++) {
        const struct kz_record *later = t->notes.records[i];

        if (later->type == KZ_RECORD_DECISION &&
                ((const struct kz_decision_body *)body_of(later))->request == record->seq)
            put_decision(t, i);
    }
}

static void put_notes(struct trace *t)
{
    for (size_t i = 0; i < t->notes.count; i++) {
        const struct kz_record *record = t->notes.records[i];

        if (kz_record_check(record, NULL) != KZ_OK)
            continue;
        if (record->type == KZ_RECORD_TRIGGER &&
                ((const struct kz_trigger_body *)body_of(record))->event == t->event_lsn)
            put_trigger(t, record);
        else if (record->type == KZ_RECORD_REQUEST &&
                 ((const struct kz_request_body *)body_of(record))->event_seq == t->event->seq)
            put_request(t, i);
    }
}

/* ---- finding
 * -------------------------------------------------------------------------------------- */

static bool find_event(struct trace *t, struct kz_str event_id)
{
    for (size_t i = t->events.count; i-- > 0;) {
        struct kz_event event;

        if (kz_event_decode(t->events.records[i], &event, NULL) != KZ_OK ||
                !kz_str_eq(event.event_id, event_id))
            continue;
        t->event = t->events.records[i];
        t->event_lsn = t->events.lsns[i];
        return true;
    }
    return false;
}

static enum kz_code not_found(struct kz_serve_call *call, struct kz_err *err)
{
    kz_fail(err, KZ_NOT_FOUND,
            "user \"" KZ_STR_FMT "\" has no event \"" KZ_STR_FMT "\" among the newest %u",
            KZ_STR_ARG(call->user_text), KZ_STR_ARG(call->args[0]), call->serve->options.scan_max);
    return kz_hint(err,
            "GET /v1/users/{user}/events lists them; an anonymous id is asked for as anonymous:ID");
}

static enum kz_code gather(struct trace *t, struct kz_err *err)
{
    struct kz_serve_call *call = t->call;
    uint32_t max = call->serve->options.scan_max;

    KZ_TRY(kz_serve_scan(call, KZ_CHAIN_EVENTS, UINT64_MAX, max, &t->events, err));
    if (!find_event(t, call->args[0]))
        return not_found(call, err);
    return kz_serve_scan(call, KZ_CHAIN_NOTES, UINT64_MAX, max, &t->notes, err);
}

static void trace_durable(struct kz_serve_call *call)
{
    struct trace t = {.call = call};
    struct kz_err err = {0};
    enum kz_code rc = gather(&t, &err);

    if (rc == KZ_OK) {
        t.out = kz_serve_json(call);
        kz_json_out_object(&t.out);
        kz_json_out_kv_str(&t.out, "user_id", call->user_text);
        kz_json_out_kv_str(&t.out, "event_id", call->args[0]);
        kz_json_out_key(&t.out, "event");
        kz_serve_event_json(call->serve, &t.out, t.event);
        kz_json_out_key(&t.out, "stages");
        kz_json_out_array(&t.out);
        put_intake(&t);
        put_notes(&t);
        kz_json_out_array_end(&t.out);
        if (t.notes.truncated)
            kz_json_out_kv_bool(&t.out, "truncated", true);
        kz_json_out_object_end(&t.out);
    }
    kz_serve_release(call, &t.events);
    kz_serve_release(call, &t.notes);
    if (rc == KZ_OK)
        kz_serve_reply(call, 200);
    else
        kz_serve_fail(call, &err);
}

enum kz_code kz_serve_want_history(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err)
{
    (void)err;
    want->what |= KZ_WANT_EVENTS | KZ_WANT_NOTES;
    want->events_as_of = UINT64_MAX;
    want->events_max = want->notes_max = call->route->run == kz_serve_export
                                                 ? 0
                                                 : call->serve->options.scan_max;
    return KZ_OK;
}

enum kz_code kz_serve_want_trace(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err)
{
    want->timed_event = call->args[0];
    return kz_serve_want_history(call, want, err);
}

void kz_serve_trace(struct kz_serve_call *call)
{
    struct kz_err err = {0};
    kz_lsn head;

    if (!kz_serve_find(call)) {
        KZ_IGNORE(not_found(call, &err)); /* it is in err */
        kz_serve_fail(call, &err);
        return;
    }
    head = kz_serve_head(call, KZ_CHAIN_EVENTS);
    kz_serve_when_durable(call, KZ_MAX(head, kz_serve_head(call, KZ_CHAIN_NOTES)), trace_durable);
}
