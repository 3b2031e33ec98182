/* What a request's body and query hold. */
#include <inttypes.h>
#include <stdio.h>

#include "codec/base64.h"
#include "codec/gzip.h"
#include "codec/json.h"
#include "codec/timefmt.h"
#include "collect/collect_int.h"

enum { WAIT_DEFAULT_MS = 200, WAIT_MAX_MS = 10000, LISTED_MAX_BYTES = 400, PUSH_ID_BYTES = 160 };

/* -- compression ------------------------------------------------------------------------------ */

/* All that a body becomes is counted, and so bounded, until its request is answered. */
static void hold(struct passage *p, const struct kz_buf *buf)
{
    p->held_bytes += buf->capacity;
    p->collect->counters.inflated_bytes += buf->capacity;
}

static enum kz_code inflate_into(
        struct passage *p, struct kz_str data, struct kz_buf *buf, struct kz_err *err)
{
    struct kz_collect *c = p->collect;

    if (c->counters.inflated_bytes >= c->options.inflated_total_max_bytes)
        return kz_fail(err, KZ_OVERLOADED, "%" PRIu64 " bytes of decompressed bodies are in memory",
                c->counters.inflated_bytes);
    KZ_TRY(kz_gzip_inflate(data, c->options.inflated_max_bytes, buf, err));
    hold(p, buf);
    c->counters.inflated_bytes_total += buf->size;
    return KZ_OK;
}

enum kz_code passage_unpack(struct passage *p, struct kz_err *err)
{
    struct kz_str encoding = kz_http_request_header(p->req, "content-encoding");
    struct kz_str body = p->req->body;

    p->text = body;
    /* Content decides: clients forget the header, and proxies unpack without taking it away. */
    if (kz_gzip_is(body) || kz_http_name_eq(encoding, "deflate")) {
        KZ_TRY(inflate_into(p, body, &p->unpacked, err));
        p->text = kz_buf_view(&p->unpacked);
        return KZ_OK;
    }
    if (!encoding.size || kz_http_name_eq(encoding, "gzip") ||
            kz_http_name_eq(encoding, "x-gzip") || kz_http_name_eq(encoding, "identity"))
        return KZ_OK;
    (void)kz_fail(err, KZ_INVALID, "the content encoding \"" KZ_STR_FMT "\" is not read here",
            KZ_STR_ARG(kz_str_n(encoding.ptr, KZ_MIN(encoding.size, 60u))));
    return kz_hint(err, "send gzip, or no encoding");
}

void passage_release(struct passage *p)
{
    p->collect->counters.inflated_bytes -= p->held_bytes;
    p->held_bytes = 0;
    kz_buf_done(&p->unpacked);
    kz_buf_done(&p->decoded);
}

/* -- Pub/Sub push ----------------------------------------------------------------------------- */

static enum kz_code no_envelope(const char *what, struct kz_err *err)
{
    (void)kz_fail(err, KZ_INVALID, "no Pub/Sub push envelope: %s", what);
    return kz_hint(err, "{\"message\":{\"data\":base64,\"messageId\":...},\"subscription\":...}");
}

static bool is_printable(struct kz_str text)
{
    for (size_t i = 0; i < text.size; i++)
        if (text.ptr[i] <= ' ' || text.ptr[i] >= 0x7f)
            return false;
    return true;
}

/* Events without an id get one of the message, so that a redelivery is a duplicate; those without a
 * time the message's. */
static enum kz_code complete_items(
        struct passage *p, struct kz_json_value message, struct kz_err *err)
{
    struct kz_str id = KZ_STR_NULL, text;
    int64_t published_ms = 0;

    if (kz_json_get(message, "messageId").kind == KZ_JSON_STRING)
        KZ_TRY(kz_json_str(kz_json_get(message, "messageId"), &p->req->arena, &id, err));
    if (kz_json_str(kz_json_get(message, "publishTime"), &p->req->arena, &text, NULL) == KZ_OK &&
            kz_time_parse(text, &published_ms, NULL) != KZ_OK)
        published_ms = 0;
    for (size_t i = 0; i < p->shaped.item_count; i++) {
        struct kz_event *event = &p->shaped.items[i]->event;

        if (!event->client_ts_ms && published_ms > 0)
            event->client_ts_ms = published_ms;
        if (!event->event_id.size && id.size && id.size <= PUSH_ID_BYTES / 2 && is_printable(id)) {
            char *made = kz_arena_alloc(&p->req->arena, PUSH_ID_BYTES);

            if (!made)
                return kz_fail(
                        err, KZ_TOO_LARGE, "the request takes more memory than one may have");
            event->event_id = kz_str_n(
                    made, (size_t)snprintf(made, PUSH_ID_BYTES, "pubsub-" KZ_STR_FMT "-%zu",
                                  KZ_STR_ARG(id), i));
        }
    }
    return KZ_OK;
}

static enum kz_code decode_data(struct passage *p, struct kz_json_value data, struct kz_err *err)
{
    struct kz_buf plain = {0};
    struct kz_str text;
    enum kz_code rc;

    KZ_TRY(kz_json_str(data, &p->req->arena, &text, err));
    KZ_TRY(kz_base64_decode(text, KZ_BASE64_STD, &p->decoded, err));
    hold(p, &p->decoded);
    p->text = kz_buf_view(&p->decoded);
    if (!kz_gzip_is(p->text))
        return KZ_OK;
    rc = inflate_into(p, p->text, &plain, err);
    if (rc != KZ_OK) {
        kz_buf_done(&plain);
        return rc;
    }
    kz_buf_done(&p->decoded);
    p->decoded = plain;
    p->text = kz_buf_view(&p->decoded);
    return KZ_OK;
}

enum kz_code passage_unpack_push(struct passage *p, struct kz_err *err)
{
    struct kz_json_value root, message, data;
    struct kz_shape_input input = {.arena = &p->req->arena};
    struct kz_err why;
    enum kz_code rc;

    KZ_TRY(passage_unpack(p, err));
    KZ_TRY(kz_json_parse(p->text, 0, &root, err));
    message = kz_json_get(root, "message");
    if (message.kind != KZ_JSON_OBJECT)
        return no_envelope("\"message\" is missing", err);
    data = kz_json_get(message, "data");
    if (data.kind != KZ_JSON_NONE && data.kind != KZ_JSON_STRING)
        return no_envelope("\"data\" is no string", err);
    if (data.kind == KZ_JSON_NONE) {
        rc = kz_fail(&why, KZ_INVALID, "the message has no data");
    } else {
        rc = decode_data(p, data, &why);
        if (rc == KZ_OK) {
            input.text = p->text;
            rc = kz_shape_events(p->collect->shaper, &input, &p->shaped, &why);
        }
    }
    if (rc == KZ_OK)
        return complete_items(p, message, err);
    /* A redelivery would help only where we were short of something. */
    if (rc != KZ_INVALID && rc != KZ_TOO_LARGE) {
        if (err)
            *err = why;
        return rc;
    }
    p->is_poison = true;
    return passage_set_invalid(p, &why, err);
}

/* -- ?wait= ----------------------------------------------------------------------------------- */

static enum kz_code unknown_model(struct passage *p, struct kz_str name, struct kz_err *err)
{
    const struct kz_project *project = p->collect->options.project;
    char known[LISTED_MAX_BYTES] = "";
    size_t used = 0;

    for (size_t i = 0; i < project->model_count; i++) {
        size_t size = strlen(project->models[i].name);

        if (used + size + 3 >= sizeof(known))
            break;
        used += (size_t)(stpcpy(stpcpy(known + used, i ? ", " : ""), project->models[i].name) -
                         (known + used));
    }
    (void)kz_fail(err, KZ_INVALID, "wait: there is no model \"" KZ_STR_FMT "\", there %s: %s",
            KZ_STR_ARG(kz_str_n(name.ptr, KZ_MIN(name.size, 100u))),
            project->model_count == 1 ? "is" : "are", project->model_count ? known : "none");
    return kz_hint(err, "?wait=model or ?wait=model,model");
}

static enum kz_code parse_timeout(struct passage *p, uint32_t *ret_ms, struct kz_err *err)
{
    struct kz_str text;
    uint32_t ms = 0;

    *ret_ms = WAIT_DEFAULT_MS;
    if (!kz_http_query_get(p->req, "timeout_ms", &text))
        return KZ_OK;
    for (size_t i = 0; i < text.size && ms <= WAIT_MAX_MS; i++)
        ms = text.ptr[i] >= '0' && text.ptr[i] <= '9' ? ms * 10 + (uint32_t)(text.ptr[i] - '0')
                                                      : WAIT_MAX_MS + 1;
    if (!text.size || ms > WAIT_MAX_MS)
        return kz_fail(err, KZ_INVALID, "timeout_ms must be 0 to %d, not \"" KZ_STR_FMT "\"",
                WAIT_MAX_MS, KZ_STR_ARG(kz_str_n(text.ptr, KZ_MIN(text.size, 40u))));
    *ret_ms = ms;
    return KZ_OK;
}

enum kz_code passage_wait(struct passage *p, struct kz_err *err)
{
    const struct kz_project *project = p->collect->options.project;
    struct kz_str list;
    bool *models;

    if (!p->req->query.size || !kz_http_query_get(p->req, "wait", &list))
        return KZ_OK;
    if (!p->collect->options.query)
        return kz_fail(err, KZ_UNSUPPORTED, "wait is not offered by this role");
    KZ_TRY(parse_timeout(p, &p->submission.wait_timeout_ms, err));
    models = kz_arena_alloc(&p->req->arena, KZ_MAX(project->model_count, 1u));
    if (!models)
        return kz_fail(err, KZ_TOO_LARGE, "the request takes more memory than one may have");
    memset(models, 0, KZ_MAX(project->model_count, 1u));
    for (;;) {
        const char *comma = list.size ? memchr(list.ptr, ',', list.size) : NULL;
        struct kz_str name = comma ? kz_str_n(list.ptr, (size_t)(comma - list.ptr)) : list;
        const struct kz_model_def *model = kz_project_model(project, name);

        if (!model)
            return unknown_model(p, name, err);
        models[model - project->models] = true;
        if (!comma)
            break;
        list = kz_str_n(comma + 1, list.size - name.size - 1);
    }
    p->submission.wait_models = models;
    p->collect->counters.waits_total++;
    return KZ_OK;
}
