/* What a request is answered (DESIGN.md section 6). */
#include <inttypes.h>

#include "collect/collect_int.h"

enum { ANSWER_KEEP_BYTES = 1 << 20 };

/* -- refusals --------------------------------------------------------------------------------- */

void passage_refuse(struct passage *p, const struct kz_err *err)
{
    struct kz_collect *c = p->collect;

    passage_release(p);
    c->counters.requests_open--;
    kz_auth_refuse(c->options.auth, p->req, err);
}

enum kz_code passage_set_invalid(struct passage *p, const struct kz_err *why, struct kz_err *err)
{
    struct kz_intake_item **items = kz_arena_alloc(&p->req->arena, sizeof(struct kz_intake_item *));

    p->verdict = kz_arena_alloc(&p->req->arena, sizeof(*p->verdict));
    if (!items || !p->verdict)
        return kz_fail(err, KZ_TOO_LARGE, "the request takes more memory than one may have");
    *p->verdict = *why;
    /* The whole text, as it came: what was shaped before the fault does not count. */
    KZ_TRY(kz_shape_rejected(&p->req->arena, why->code == KZ_TOO_LARGE ? "too_large" : "bad_json",
            kz_str(p->verdict->message), p->text, &items[0], err));
    p->shaped = (struct kz_shaped){.items = items, .item_count = 1, .rejected_count = 1};
    p->invalid = true;
    return KZ_OK;
}

/* -- parts of the answer ---------------------------------------------------------------------- */

static void put_counts(struct passage *p, struct kz_json_out *out, uint64_t *ret_rejected)
{
    uint64_t counts[3] = {0};

    for (size_t i = 0; i < p->shaped.item_count; i++)
        counts[p->shaped.items[i]->state]++;
    kz_json_out_kv_u64(out, "accepted", counts[KZ_INTAKE_ACCEPTED]);
    kz_json_out_kv_u64(out, "duplicates", counts[KZ_INTAKE_DUPLICATE]);
    *ret_rejected = counts[KZ_INTAKE_REJECTED];
}

/* All ids in order, null for what was rejected; left out where the client gave every one. */
static void put_ids(struct passage *p, struct kz_json_out *out)
{
    bool made = false;

    for (size_t i = 0; i < p->shaped.item_count && !made; i++)
        made = p->shaped.items[i]->event.flags & KZ_EVENT_ID_MADE;
    if (!made)
        return;
    kz_json_out_key(out, "event_ids");
    kz_json_out_array(out);
    for (size_t i = 0; i < p->shaped.item_count; i++) {
        const struct kz_intake_item *item = p->shaped.items[i];

        if (item->state == KZ_INTAKE_REJECTED)
            kz_json_out_null(out);
        else
            kz_json_out_str(out, item->event.event_id);
    }
    kz_json_out_array_end(out);
}

static void put_rejected(struct passage *p, struct kz_json_out *out)
{
    kz_json_out_key(out, "rejected");
    kz_json_out_array(out);
    for (size_t i = 0; i < p->shaped.item_count; i++) {
        const struct kz_intake_item *item = p->shaped.items[i];

        if (item->state != KZ_INTAKE_REJECTED)
            continue;
        kz_json_out_object(out);
        kz_json_out_kv_u64(out, "index", i);
        kz_json_out_kv_cstr(out, "code", item->code);
        kz_json_out_kv_str(out, "message", item->message);
        kz_json_out_object_end(out);
    }
    kz_json_out_array_end(out);
}

static void put_ignored(struct passage *p, struct kz_json_out *out)
{
    if (!p->shaped.ignored_count)
        return;
    kz_json_out_key(out, "ignored_fields");
    kz_json_out_array(out);
    for (size_t i = 0; i < p->shaped.ignored_count; i++)
        kz_json_out_raw(out, p->shaped.ignored[i]);
    kz_json_out_array_end(out);
}

static void put_predictions(struct passage *p, struct kz_json_out *out)
{
    struct kz_collect *c = p->collect;
    struct kz_history_reader *reader = c->options.query->reader;
    const struct kz_submission *sub = &p->submission;
    struct kz_prediction prediction;

    kz_json_out_key(out, "predictions");
    kz_json_out_array(out);
    for (size_t i = 0; i < sub->result_count; i++) {
        kz_buf_clear(&c->record);
        /* One that was erased in the meantime is not there, as for any reader. */
        if (reader->ops->get(reader, sub->results[i], 0, &c->record, NULL) == KZ_OK &&
                kz_prediction_decode((const struct kz_record *)(const void *)c->record.data,
                        &prediction, NULL) == KZ_OK)
            kz_prediction_json(&prediction, out);
    }
    kz_json_out_array_end(out);
    kz_json_out_key(out, "pending");
    kz_json_out_array(out);
    for (size_t i = 0; i < sub->pending_count; i++) {
        kz_json_out_object(out);
        kz_json_out_kv_cstr(out, "model", c->options.project->models[sub->pending[i].model].name);
        kz_json_out_kv_cstr(out, "reason", sub->pending[i].reason);
        kz_json_out_object_end(out);
    }
    kz_json_out_array_end(out);
}

/* For clients that look for an error and nothing else. */
static void put_error(struct passage *p, struct kz_json_out *out)
{
    const struct kz_intake_item *item = p->shaped.items[0];

    kz_json_out_key(out, "error");
    kz_json_out_object(out);
    kz_json_out_kv_cstr(out, "code", kz_code_name(KZ_INVALID));
    kz_json_out_kv_str(out, "message", item->message);
    kz_json_out_kv_cstr(out, "request_id", p->req->id_text);
    kz_json_out_object_end(out);
}

/* -- the answer ------------------------------------------------------------------------------- */

static void answer_push(struct passage *p)
{
    /* Everything, good or bad, is on disk: a redelivery could add nothing. */
    p->collect->counters.requests_open--;
    passage_release(p);
    kz_http_respond(p->req, 204, NULL, KZ_STR_NULL, NULL, 0);
}

void passage_answer(struct passage *p)
{
    struct kz_collect *c = p->collect;
    struct kz_json_out out = kz_json_out(&c->answer);
    struct kz_http_header headers[KZ_CORS_HEADERS_MAX];
    uint64_t rejected;
    bool refused;

    if (p->invalid && !p->is_poison) {
        passage_refuse(p, p->verdict);
        return;
    }
    if (p->endpoint->kind == ENDPOINT_PUSH) {
        answer_push(p);
        return;
    }
    kz_buf_clear(&c->answer);
    kz_json_out_object(&out);
    if (p->endpoint->kind == ENDPOINT_CALL) {
        /* Their clients look at this member. */
        refused = p->shaped.single && p->shaped.items[0]->state == KZ_INTAKE_REJECTED;
        kz_json_out_kv_bool(&out, "success", !refused);
    }
    put_counts(p, &out, &rejected);
    put_ids(p, &out);
    put_rejected(p, &out);
    put_ignored(p, &out);
    if (p->submission.wait_models)
        put_predictions(p, &out);
    refused = p->shaped.single && rejected;
    if (refused)
        put_error(p, &out);
    kz_json_out_object_end(&out);
    kz_buf_char(&c->answer, '\n');
    c->counters.requests_open--;
    c->counters.events_rejected_total += rejected;
    passage_release(p);
    kz_http_respond(p->req, refused ? 400 : 200, "application/json", kz_buf_view(&c->answer),
            headers, kz_auth_cors(c->options.auth, p->req, headers));
    if (c->answer.capacity > ANSWER_KEEP_BYTES)
        kz_buf_done(&c->answer);
}
