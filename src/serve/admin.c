/* serve/admin.c -- what the commands of an operator do on a running system. Every change is logged
 * as a CONTROL record with the name of the key that asked. */

#include <stdio.h>
#include <stdlib.h>

#include "serve/serve_int.h"

/* ---- verbs
 * ---------------------------------------------------------------------------------------- */

static void counted(struct kz_serve_call *call)
{
    struct kz_json_out out = kz_serve_json(call);

    kz_json_out_object(&out);
    kz_json_out_kv_u64(&out, "count", call->number);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, 200);
}

/* Answers when the word is on disk. */
static void control(struct kz_serve_call *call, const char *verb, struct kz_str object)
{
    struct kz_query *query = call->serve->query;
    struct kz_err err = {0};

    if (query->ops->control(query, verb, object, call->who, &call->number, &err) != KZ_OK)
        kz_serve_fail(call, &err);
    else
        kz_serve_when_durable(call, query->ops->end(query), counted);
}

/* The last segment of the path, which the route has fixed. */
static struct kz_str last_segment(const struct kz_serve_call *call)
{
    const char *path = call->route->path;

    return kz_str(strrchr(path, '/') + 1);
}

static void verb_of(struct kz_serve_call *call, const char *noun)
{
    struct kz_str word = last_segment(call);
    char verb[64];

    snprintf(verb, sizeof(verb), KZ_STR_FMT "-%s", KZ_STR_ARG(word), noun);
    control(call, verb, call->args[0]);
}

void kz_serve_model_verb(struct kz_serve_call *call)
{
    verb_of(call, "model");
}

void kz_serve_action_verb(struct kz_serve_call *call)
{
    verb_of(call, "action");
}

void kz_serve_dead_letter_verb(struct kz_serve_call *call)
{
    verb_of(call, "deadletter");
}

void kz_serve_drop_requests(struct kz_serve_call *call)
{
    struct kz_str model;
    struct kz_err err = {0};

    if (!kz_http_query_get(call->req, "model", &model) || !model.size) {
        kz_fail(&err, KZ_INVALID, "which model's requests are to be dropped is not said");
        kz_hint(&err, "?model=NAME, or ?model=* for all");
        kz_serve_fail(call, &err);
        return;
    }
    control(call, "drop-requests", model);
}

/* ---- dead letters
 * --------------------------------------------------------------------------------- */

enum { DEAD_LETTERS_DEFAULT = 50, DEAD_LETTERS_MAX = 1000, PAYLOAD_LIST_MAX_BYTES = 2048 };

static const struct kz_deadletter_body *letter_body(const struct kz_record *record)
{
    if (!record || kz_record_check(record, NULL) != KZ_OK || record->type != KZ_RECORD_DEADLETTER)
        return NULL;
    return (const void *)(record + 1);
}

static void letter_json(struct kz_json_out *out, const struct kz_record *record,
        const struct kz_deadletter_body *body, bool whole)
{
    struct kz_str bytes = kz_record_body(record);
    struct kz_str reason = kz_span_str(bytes, body->reason);
    struct kz_str payload = kz_span_str(bytes, body->payload);
    struct kz_str model = kz_span_str(bytes, body->model);
    const char *end = reason.size ? memchr(reason.ptr, '\n', reason.size) : NULL;
    char id[24];

    snprintf(id, sizeof(id), "%llu", (unsigned long long)record->seq);
    if (!whole && end) /* the first line; a traceback follows */
        reason.size = (size_t)(end - reason.ptr);
    kz_json_out_object(out);
    kz_json_out_kv_cstr(out, "id", id);
    kz_json_out_kv_cstr(out, "stage", kz_stage_name((enum kz_stage)body->stage));
    kz_json_out_kv_str(out, "code", kz_span_str(bytes, body->code));
    kz_json_out_kv_str(out, "reason", reason);
    if (model.size)
        kz_json_out_kv_str(out, "model", model);
    if (body->ref)
        kz_json_out_kv_u64(out, "about", body->ref);
    kz_json_out_kv_i64(out, "at", record->at_ms);
    kz_json_out_kv_u64(out, "payload_bytes", payload.size);
    if (whole)
        kz_json_out_kv_str(out, "payload", payload); /* may be anything: as text */
    kz_json_out_object_end(out);
}

static enum kz_code wanted_stage(struct kz_serve_call *call, int *ret_stage, struct kz_err *err)
{
    struct kz_str text;

    *ret_stage = -1;
    if (!kz_http_query_get(call->req, "stage", &text))
        return KZ_OK;
    for (int s = 0; s < KZ_STAGE_COUNT; s++) {
        if (kz_str_is(text, kz_stage_name((enum kz_stage)s))) {
            *ret_stage = s;
            return KZ_OK;
        }
    }
    kz_fail(err, KZ_INVALID, "there is no stage \"" KZ_STR_FMT "\"", KZ_STR_ARG(text));
    return kz_hint(err, "collect, shape, log, trigger, features, infer, predict, act or deliver");
}

struct letters { /* a page being gathered */
    struct kz_serve_call *call;
    struct kz_json_out out;
    int stage;
    uint64_t limit, count;
    uint64_t next; /* the last one looked at; 0: there is no more */
};

/* Looks at `count` letters older than letters->next. */
static size_t letters_some(struct letters *letters, size_t count)
{
    struct kz_serve *serve = letters->call->serve;
    struct kz_query *query = serve->query;
    struct kz_letter_place places[256];
    size_t found = query->ops->dead_letters(
            query, letters->next, KZ_MIN(count, KZ_ARRAY_COUNT(places)), places);

    for (size_t i = 0; i < found && letters->count < letters->limit; i++) {
        const struct kz_record *record = kz_serve_read(serve, places[i].lsn, places[i].owner);
        const struct kz_deadletter_body *body = letter_body(record);

        letters->next = places[i].seq;
        if (!body || (letters->stage >= 0 && body->stage != letters->stage))
            continue;
        letter_json(&letters->out, record, body, false);
        letters->count++;
    }
    return found;
}

enum kz_code kz_serve_want_letters(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err)
{
    uint64_t limit;
    int stage;

    KZ_TRY(kz_serve_number(call, "limit", DEAD_LETTERS_DEFAULT, DEAD_LETTERS_MAX, &limit, err));
    KZ_TRY(kz_serve_number(call, "before", 0, UINT64_MAX, &want->letters_before, err));
    KZ_TRY(wanted_stage(call, &stage, err));
    want->what |= KZ_WANT_LETTERS;
    /* Of one stage there may be few among many. */
    want->letters_max = stage < 0 ? limit : call->serve->options.scan_max;
    return KZ_OK;
}

enum kz_code kz_serve_want_letter(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err)
{
    uint64_t id;

    (void)err; /* one that is no number is refused later */
    if (!kz_serve_parse_u64(call->args[0], &id) || id == UINT64_MAX)
        return KZ_OK;
    want->what |= KZ_WANT_LETTERS;
    want->letters_before = id + 1;
    want->letters_max = 1;
    return KZ_OK;
}

void kz_serve_dead_letters(struct kz_serve_call *call)
{
    struct letters letters = {.call = call};
    struct kz_pipeline_counters counters;
    struct kz_query *query = call->serve->query;
    struct kz_err err = {0};
    char next[24];
    size_t looked = 0, found;

    if (kz_serve_number(
                call, "limit", DEAD_LETTERS_DEFAULT, DEAD_LETTERS_MAX, &letters.limit, &err) ||
            kz_serve_number(call, "before", 0, UINT64_MAX, &letters.next, &err) ||
            wanted_stage(call, &letters.stage, &err)) {
        kz_serve_fail(call, &err);
        return;
    }
    query->ops->counters(query, &counters);
    letters.out = kz_serve_json(call);
    kz_json_out_object(&letters.out);
    kz_json_out_kv_u64(&letters.out, "total", counters.dead_letters);
    kz_json_out_key(&letters.out, "dead_letters");
    kz_json_out_array(&letters.out);
    do {
        found = letters_some(&letters, 256);
        looked += found;
    } while (found && letters.count < letters.limit && looked < call->serve->options.scan_max);
    kz_json_out_array_end(&letters.out);
    if (found) {
        snprintf(next, sizeof(next), "%llu", (unsigned long long)letters.next);
        kz_json_out_kv_cstr(&letters.out, "next", next);
    }
    kz_json_out_object_end(&letters.out);
    kz_serve_reply(call, 200);
}

void kz_serve_dead_letter(struct kz_serve_call *call)
{
    struct kz_query *query = call->serve->query;
    const struct kz_deadletter_body *body = NULL;
    const struct kz_record *record = NULL;
    struct kz_json_out out;
    struct kz_err err = {0};
    struct kz_letter_place place;
    uint64_t id;

    if (kz_serve_parse_u64(call->args[0], &id) && id < UINT64_MAX &&
            query->ops->dead_letters(query, id + 1, 1, &place) == 1 && place.seq == id) {
        record = kz_serve_read(call->serve, place.lsn, place.owner);
        body = letter_body(record);
    }
    if (!body) {
        kz_fail(&err, KZ_NOT_FOUND, "there is no dead letter \"" KZ_STR_FMT "\"",
                KZ_STR_ARG(call->args[0]));
        kz_hint(&err, "GET /v1/admin/deadletters lists them; only the newest are kept");
        kz_serve_fail(call, &err);
        return;
    }
    out = kz_serve_json(call);
    letter_json(&out, record, body, true);
    kz_serve_reply(call, 200);
}

/* ---- copies
 * --------------------------------------------------------------------------------------- */

static void backed_up(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct kz_serve_call *call = arg;
    struct kz_json_out out;
    struct kz_str dest = KZ_STR_NULL;

    if (code != KZ_OK) {
        kz_serve_fail(call, err);
        return;
    }
    (void)kz_http_query_get(call->req, "dest", &dest); /* it was there */
    out = kz_serve_json(call);
    kz_json_out_object(&out);
    kz_json_out_kv_bool(&out, "done", true);
    kz_json_out_kv_str(&out, "dest", dest);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, 200);
}

void kz_serve_backup(struct kz_serve_call *call)
{
    struct kz_query *query = call->serve->query;
    struct kz_err err = {0};
    struct kz_str dest;

    if (!kz_http_query_get(call->req, "dest", &dest) || !dest.size || dest.ptr[0] != '/') {
        kz_fail(&err, KZ_INVALID, "where the backup goes is not said");
        kz_hint(&err, "?dest=/absolute/path of a directory that does not exist yet");
        kz_serve_fail(call, &err);
        return;
    }
    if (query->ops->backup(query, kz_arena_cstr(&call->req->arena, dest), backed_up, call, &err) !=
            KZ_OK)
        kz_serve_fail(call, &err);
}

void kz_serve_checkpoint(struct kz_serve_call *call)
{
    struct kz_query *query = call->serve->query;
    struct kz_json_out out;
    struct kz_err err = {0};

    if (query->ops->checkpoint(query, &err) != KZ_OK) {
        kz_serve_fail(call, &err);
        return;
    }
    out = kz_serve_json(call);
    kz_json_out_object(&out);
    kz_json_out_kv_bool(&out, "started", true);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, 202);
}
