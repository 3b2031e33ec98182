#include "collect/collect.h"

#include <inttypes.h>
#include <stdlib.h>

#include "collect/collect_int.h"
#include "sys/clock.h"

static const struct endpoint endpoints[] = {
        {"/v1/events", ENDPOINT_EVENTS, 0},
        {"/v1/batch", ENDPOINT_CALL, KZ_CALL_BATCH},
        {"/v1/track", ENDPOINT_CALL, KZ_CALL_TRACK},
        {"/v1/page", ENDPOINT_CALL, KZ_CALL_PAGE},
        {"/v1/screen", ENDPOINT_CALL, KZ_CALL_SCREEN},
        {"/v1/identify", ENDPOINT_CALL, KZ_CALL_IDENTIFY},
        {"/v1/group", ENDPOINT_CALL, KZ_CALL_GROUP},
        {"/v1/alias", ENDPOINT_CALL, KZ_CALL_ALIAS},
        /* Segment's client for browsers shortens the names. */
        {"/v1/b", ENDPOINT_CALL, KZ_CALL_BATCH},
        {"/v1/t", ENDPOINT_CALL, KZ_CALL_TRACK},
        {"/v1/p", ENDPOINT_CALL, KZ_CALL_PAGE},
        {"/v1/s", ENDPOINT_CALL, KZ_CALL_SCREEN},
        {"/v1/i", ENDPOINT_CALL, KZ_CALL_IDENTIFY},
        {"/v1/g", ENDPOINT_CALL, KZ_CALL_GROUP},
        {"/v1/a", ENDPOINT_CALL, KZ_CALL_ALIAS},
        {"/v1/pubsub/push", ENDPOINT_PUSH, 0},
};

static const struct endpoint *find_endpoint(struct kz_str path)
{
    if (path.size > 1 && path.ptr[path.size - 1] == '/')
        path.size--;
    if (!kz_str_starts(path, "/v1/"))
        return NULL;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(endpoints); i++)
        if (kz_str_is(path, endpoints[i].path))
            return &endpoints[i];
    return NULL;
}

/* -- life ------------------------------------------------------------------------------------- */

struct kz_collect *kz_collect_new(const struct kz_collect_options *options)
{
    struct kz_collect *c = kz_calloc(1, sizeof(*c));

    c->magic = COLLECT_MAGIC;
    c->options = *options;
    if (!c->options.body_max_bytes)
        c->options.body_max_bytes = 8 << 20;
    if (!c->options.inflated_max_bytes)
        c->options.inflated_max_bytes = 32 << 20;
    if (!c->options.inflated_total_max_bytes)
        c->options.inflated_total_max_bytes = 256 << 20;
    c->shaper = kz_shaper_new(options->project);
    return c;
}

void kz_collect_free(struct kz_collect *collect)
{
    if (!collect)
        return;
    KZ_CHECK_MAGIC(collect, COLLECT_MAGIC);
    KZ_BUG_ON(collect->counters.requests_open);
    collect->magic = 0;
    kz_shaper_free(collect->shaper);
    kz_buf_done(&collect->answer);
    kz_buf_done(&collect->record);
    free(collect);
}

const struct kz_collect_counters *kz_collect_counters(const struct kz_collect *collect)
{
    return &collect->counters;
}

void kz_collect_metrics(const struct kz_collect *collect, struct kz_buf *out)
{
#define X(name, gauge, help)                                                                       \
    kz_buf_printf(out,                                                                             \
            "# HELP kizashi_collect_" #name " " help "\n# TYPE kizashi_collect_" #name             \
            " %s\nkizashi_collect_" #name " %" PRIu64 "\n",                                        \
            (gauge) ? "gauge" : "counter", collect->counters.name);
    KZ_COLLECT_COUNTERS(X)
#undef X
}

static int64_t now_ms(const struct kz_collect *c)
{
    return c->options.clock_ms ? c->options.clock_ms(c->options.arg) : kz_clock_ms();
}

/* Whether a token of the pusher stands in for a key. */
static bool is_by_token(const struct kz_collect *c, const struct endpoint *endpoint)
{
    return endpoint->kind == ENDPOINT_PUSH && c->options.push_auth;
}

static enum kz_code check_token(
        const struct kz_collect *c, const struct kz_http_request *req, struct kz_err *err)
{
    return kz_push_auth_check(
            c->options.push_auth, kz_http_request_header(req, "authorization"), now_ms(c), err);
}

/* -- before the body -------------------------------------------------------------------------- */

enum kz_code kz_collect_admit(struct kz_collect *collect, const struct kz_http_request *req,
        size_t *body_max_bytes, struct kz_err *err)
{
    struct kz_intake *intake = collect->options.intake;
    const struct endpoint *endpoint = find_endpoint(req->path);
    enum kz_code rc;

    if (!endpoint || req->method != KZ_HTTP_POST)
        return KZ_OK;
    *body_max_bytes = KZ_MIN(*body_max_bytes, collect->options.body_max_bytes);
    rc = is_by_token(collect, endpoint) ? check_token(collect, req, err)
                                        : kz_auth_admit(collect->options.auth, req, err);
    /* A page can read why only where the answer has CORS headers, so it is told by handle(). */
    if (rc != KZ_OK && kz_http_request_header(req, "origin").ptr) {
        *body_max_bytes = KZ_MIN(*body_max_bytes, (size_t)64 << 10);
        return KZ_OK;
    }
    if (rc != KZ_OK) {
        collect->counters.requests_denied_total++;
        return rc;
    }
    rc = intake->ops->ready(intake, err);
    if (rc == KZ_OK)
        return KZ_OK;
    collect->counters.requests_refused_total++;
    if (err && !err->hint[0])
        (void)kz_hint(err, "nothing was taken; send it again after Retry-After");
    return rc;
}

/* -- a request -------------------------------------------------------------------------------- */

static void on_done(struct kz_submission *submission, enum kz_code code, const struct kz_err *err)
{
    struct passage *p = submission->user;

    KZ_CHECK_MAGIC(p, PASSAGE_MAGIC);
    p->magic = 0;
    if (code != KZ_OK) {
        passage_refuse(p, err);
        return;
    }
    if (p->invalid)
        p->collect->counters.requests_invalid_total++;
    passage_answer(p);
}

static void answer_method(struct kz_collect *c, struct kz_http_request *req)
{
    struct kz_http_header headers[KZ_CORS_HEADERS_MAX + 1];
    size_t count = kz_auth_cors(c->options.auth, req, headers);
    struct kz_err err;

    (void)kz_fail(&err, KZ_METHOD, "events are sent with POST, not " KZ_STR_FMT,
            KZ_STR_ARG(kz_str_n(req->method_name.ptr, KZ_MIN(req->method_name.size, 20u))));
    headers[count++] = (struct kz_http_header){KZ_STR("Allow"), KZ_STR("POST, OPTIONS")};
    kz_http_respond_error_with(req, 405, &err, headers, count);
}

/* The text into items. What cannot be read becomes `invalid`, which is no failure here. */
static enum kz_code shape(struct passage *p, struct kz_err *err)
{
    struct kz_shape_input input = {.arena = &p->req->arena, .received_at_ms = now_ms(p->collect)};
    struct kz_err why;
    enum kz_code rc;

    if (p->endpoint->kind == ENDPOINT_PUSH) {
        rc = passage_unpack_push(p, &why);
    } else {
        rc = passage_unpack(p, &why);
        input.text = p->text;
        if (rc == KZ_OK && p->endpoint->kind == ENDPOINT_EVENTS)
            rc = kz_shape_events(p->collect->shaper, &input, &p->shaped, &why);
        else if (rc == KZ_OK)
            rc = kz_shape_calls(p->collect->shaper, p->endpoint->call, &input, &p->shaped, &why);
    }
    if (rc == KZ_OK)
        return KZ_OK;
    if (rc == KZ_INVALID && p->text.size)
        return passage_set_invalid(p, &why, err);
    if (err)
        *err = why;
    return rc;
}

/* Takes away what the key may not send. */
static void filter_names(struct passage *p)
{
    for (size_t i = 0; i < p->shaped.item_count; i++) {
        struct kz_intake_item *item = p->shaped.items[i];

        if (item->state == KZ_INTAKE_REJECTED || kz_auth_may_send(&p->identity, item->event.name))
            continue;
        kz_shape_reject(&p->req->arena, item, "name_not_allowed", item->event.props,
                "key \"%s\" may not send events named \"" KZ_STR_FMT "\"", p->identity.who,
                KZ_STR_ARG(item->event.name));
        p->shaped.rejected_count++;
    }
}

static enum kz_code authorise(struct passage *p, struct kz_str body_key, struct kz_err *err)
{
    bool wait = false;
    unsigned flags = p->endpoint->kind == ENDPOINT_PUSH ? KZ_AUTH_QUERY_KEY : 0;
    struct kz_str ignored;

    if (is_by_token(p->collect, p->endpoint)) {
        p->identity = (struct kz_identity){.who = "push"};
        return check_token(p->collect, p->req, err);
    }
    if (p->endpoint->kind != ENDPOINT_PUSH && p->req->query.size)
        wait = kz_http_query_get(p->req, "wait", &ignored);
    return kz_auth_check(p->collect->options.auth, p->req, wait ? KZ_NEED_READ : KZ_NEED_WRITE,
            flags, body_key, &p->identity, err);
}

/* Everything before the intake. */
static enum kz_code prepare(struct passage *p, struct kz_err *err)
{
    struct kz_collect *c = p->collect;
    struct kz_auth *auth = c->options.auth;
    bool key_in_body = p->endpoint->kind == ENDPOINT_CALL && !kz_auth_is_open(auth) &&
                       !kz_http_request_header(p->req, "authorization").ptr;
    enum kz_code rc = KZ_OK;

    if (!key_in_body)
        rc = authorise(p, KZ_STR_NULL, err);
    if (rc == KZ_OK)
        rc = shape(p, err);
    if (rc == KZ_OK && key_in_body)
        rc = authorise(p, p->shaped.write_key, err);
    if (rc == KZ_OK && p->endpoint->kind != ENDPOINT_PUSH)
        rc = passage_wait(p, err);
    if (rc == KZ_UNAUTHENTICATED || rc == KZ_FORBIDDEN)
        c->counters.requests_denied_total++;
    if (rc != KZ_OK)
        return rc;
    rc = kz_auth_spend(auth, &p->identity, KZ_MAX(p->shaped.item_count, 1u),
            (int64_t)p->req->received_us, err);
    c->counters.requests_limited_total += rc == KZ_LIMIT;
    if (rc == KZ_OK && !p->invalid)
        filter_names(p);
    return rc;
}

static void submit(struct passage *p)
{
    struct kz_intake *intake = p->collect->options.intake;
    struct kz_submission *sub = &p->submission;

    sub->items = p->shaped.items;
    sub->item_count = p->shaped.item_count;
    sub->done = on_done;
    sub->user = p;
    sub->received_us = (int64_t)p->req->received_us;
    if (p->invalid)
        sub->wait_models = NULL;
    else
        p->collect->counters.events_total += sub->item_count;
    if (sub->item_count) {
        intake->ops->submit(intake, sub);
    } else {
        /* An empty array or batch: nothing to be made durable. */
        on_done(sub, KZ_OK, NULL);
    }
}

bool kz_collect_handle(struct kz_collect *collect, struct kz_http_request *req)
{
    const struct endpoint *endpoint = find_endpoint(req->path);
    struct passage *p;
    struct kz_err err;

    KZ_CHECK_MAGIC(collect, COLLECT_MAGIC);
    if (!endpoint)
        return false;
    if (req->method == KZ_HTTP_OPTIONS) {
        kz_auth_preflight(collect->options.auth, req);
        return true;
    }
    if (req->method != KZ_HTTP_POST) {
        answer_method(collect, req);
        return true;
    }
    collect->counters.requests_total++;
    collect->counters.body_bytes_total += req->body.size;
    p = kz_arena_zero(&req->arena, sizeof(*p));
    *p = (struct passage){
            .magic = PASSAGE_MAGIC, .collect = collect, .req = req, .endpoint = endpoint};
    collect->counters.requests_open++;
    if (prepare(p, &err) != KZ_OK)
        passage_refuse(p, &err);
    else
        submit(p);
    return true;
}
