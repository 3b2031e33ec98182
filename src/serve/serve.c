/* serve/serve.c -- from a request to its route, and what every route uses. */

#include "serve/serve_int.h"

#include <stdlib.h>

#include "sys/clock.h"

/* ---- life ---------------------------------------------------------------------------------------
 */

struct kz_serve_options kz_serve_options_default(void)
{
    return (struct kz_serve_options){
            .version = "",
            .build = "",
            .streams_max = 1000,
            .exports_max = 4,
            .heartbeat_ms = 15000,
            .scan_max = 10000,
    };
}

static void on_second(uv_timer_t *timer)
{
    struct kz_serve *serve = timer->data;

    KZ_CHECK_MAGIC(serve, KZ_SERVE_MAGIC);
    kz_serve_sample(serve);
    kz_serve_streams_tick(serve);
}

static void timer_closed(uv_handle_t *handle)
{
    free(handle);
}

void kz_serve_timer_free(uv_timer_t **timer)
{
    if (*timer)
        uv_close((uv_handle_t *)*timer, timer_closed);
    *timer = NULL;
}

struct kz_serve *kz_serve_new(
        struct kz_query *query, struct kz_auth *auth, const struct kz_serve_options *options)
{
    struct kz_serve *serve = kz_calloc(1, sizeof(*serve));

    serve->magic = KZ_SERVE_MAGIC;
    serve->query = query;
    serve->auth = auth;
    serve->options = *options;
    serve->started_ms = kz_clock_ms();
    serve->started_us = kz_mono_us();
    serve->second = kz_calloc(1, sizeof(*serve->second));
    KZ_BUG_ON(uv_timer_init(options->loop, serve->second));
    serve->second->data = serve;
    KZ_BUG_ON(uv_timer_start(serve->second, on_second, 1000, 1000));
    uv_unref((uv_handle_t *)serve->second);
    kz_serve_sample(serve);
    return serve;
}

void kz_serve_free(struct kz_serve *serve)
{
    if (!serve)
        return;
    KZ_CHECK_MAGIC(serve, KZ_SERVE_MAGIC);
    kz_serve_streams_end(serve);
    kz_serve_exports_end(serve);
    KZ_BUG_ON(serve->open);
    kz_serve_timer_free(&serve->second);
    kz_serve_timer_free(&serve->pump);
    kz_buf_done(&serve->body);
    kz_buf_done(&serve->record);
    kz_buf_done(&serve->frame);
    serve->magic = 0;
    free(serve);
}

void kz_serve_watch(struct kz_serve *serve, const struct kz_http_server *server)
{
    serve->http = server;
}

void kz_serve_drain(struct kz_serve *serve)
{
    serve->draining = true;
    kz_serve_streams_end(serve);
}

size_t kz_serve_open(const struct kz_serve *serve)
{
    return serve->open;
}

/* ---- answers ------------------------------------------------------------------------------------
 */

struct kz_json_out kz_serve_json(struct kz_serve_call *call)
{
    kz_buf_clear(&call->serve->body);
    return kz_json_out(&call->serve->body);
}

void kz_serve_answered(struct kz_serve_call *call)
{
    KZ_BUG_ON(!call->serve->open);
    call->serve->open--;
}

void kz_serve_reply_as(struct kz_serve_call *call, int status, const char *type)
{
    struct kz_http_header headers[KZ_SERVE_HEADERS_MAX];
    size_t count = kz_serve_headers(call, headers);

    kz_serve_answered(call);
    kz_http_respond(call->req, status, type, kz_buf_view(&call->serve->body), headers, count);
}

void kz_serve_reply(struct kz_serve_call *call, int status)
{
    kz_buf_char(&call->serve->body, '\n');
    kz_serve_reply_as(call, status, "application/json");
}

void kz_serve_fail(struct kz_serve_call *call, const struct kz_err *err)
{
    kz_serve_answered(call);
    kz_serve_refuse(call->serve, call->req, err);
}

static void durable(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct kz_serve_call *call = arg;

    if (code == KZ_OK)
        call->then(call);
    else
        kz_serve_fail(call, err);
}

void kz_serve_when_durable(
        struct kz_serve_call *call, kz_lsn lsn, void (*then)(struct kz_serve_call *call))
{
    struct kz_query *query = call->serve->query;

    call->then = then;
    if (!lsn)
        then(call);
    else
        query->ops->when_durable(query, lsn, durable, call);
}

/* ---- reading ------------------------------------------------------------------------------------
 */

bool kz_serve_find(struct kz_serve_call *call)
{
    struct kz_query *query = call->serve->query;

    return query->ops->find(query, call->key, &call->user);
}

bool kz_serve_parse_u64(struct kz_str s, uint64_t *ret)
{
    uint64_t value = 0;

    if (!s.size || s.size > 20)
        return false;
    for (size_t i = 0; i < s.size; i++) {
        unsigned digit = (unsigned)(s.ptr[i] - '0');

        if (digit > 9 || __builtin_mul_overflow(value, 10u, &value) ||
                __builtin_add_overflow(value, digit, &value))
            return false;
    }
    *ret = value;
    return true;
}

enum kz_code kz_serve_number(struct kz_serve_call *call, const char *name, uint64_t preset,
        uint64_t max, uint64_t *ret, struct kz_err *err)
{
    struct kz_str text;
    uint64_t value;

    if (!kz_http_query_get(call->req, name, &text)) {
        *ret = preset;
        return KZ_OK;
    }
    if (!kz_serve_parse_u64(text, &value) || value > max) {
        kz_fail(err, KZ_INVALID, "%s is \"" KZ_STR_FMT "\", not a number from 0 to %llu", name,
                KZ_STR_ARG(text), (unsigned long long)max);
        return kz_hint(err, "leave it out for %llu", (unsigned long long)preset);
    }
    *ret = value;
    return KZ_OK;
}

bool kz_serve_flag(struct kz_serve_call *call, const char *name)
{
    struct kz_str text;

    return kz_http_query_get(call->req, name, &text) && !kz_str_is(text, "0") &&
           !kz_str_is(text, "false");
}

const struct kz_record *kz_serve_read(struct kz_serve *serve, kz_lsn lsn, uint64_t owner)
{
    struct kz_history_reader *reader = serve->query->reader;

    if (reader->ops->get(reader, lsn, owner, &serve->record, NULL) != KZ_OK)
        return NULL;
    return (const struct kz_record *)(void *)serve->record.data;
}

const struct kz_record *kz_serve_read_own(struct kz_serve_call *call, kz_lsn lsn)
{
    struct kz_serve *serve = call->serve;

    if (kz_history_get_of(serve->query->reader, lsn, call->sources[KZ_CHAIN_NOTES],
                call->source_counts[KZ_CHAIN_NOTES], &serve->record, NULL) != KZ_OK)
        return NULL;
    return (const struct kz_record *)(void *)serve->record.data;
}

kz_lsn kz_serve_head(struct kz_serve_call *call, enum kz_chain chain)
{
    struct kz_query *query = call->serve->query;
    struct kz_source sources[KZ_SOURCES_MAX];
    size_t count = query->ops->sources(query, call->user, chain, sources);
    kz_lsn head = 0;

    call->sources[chain] = kz_arena_must(&call->req->arena, (count + 1) * sizeof(*sources));
    memcpy(call->sources[chain], sources, count * sizeof(*sources));
    call->source_counts[chain] = count;
    for (size_t i = 0; i < count; i++)
        head = KZ_MAX(head, sources[i].head);
    return head;
}

enum kz_code kz_serve_scan(struct kz_serve_call *call, enum kz_chain chain, kz_lsn as_of,
        uint32_t max, struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct kz_query *query = call->serve->query;
    struct kz_history_query wanted = {
            .sources = call->sources[chain],
            .source_count = call->source_counts[chain],
            .chain = chain,
            .as_of = as_of,
            .events_max = max,
            .since_ms = INT64_MIN,
            .include_actions = true,
    };

    KZ_BUG_ON(!call->sources[chain]);
    *ret_rows = (struct kz_history_rows){0};
    return query->reader->ops->scan(query->reader, &wanted, ret_rows, err);
}

void kz_serve_release(struct kz_serve_call *call, struct kz_history_rows *rows)
{
    struct kz_history_reader *reader = call->serve->query->reader;

    reader->ops->release(reader, rows);
}

/* ---- routing ------------------------------------------------------------------------------------
 */

/* Takes the next segment off a path; false at its end. */
static bool segment(struct kz_str *path, struct kz_str *ret)
{
    const char *slash;

    if (!path->size || path->ptr[0] != '/')
        return false;
    slash = memchr(path->ptr + 1, '/', path->size - 1);
    *ret = kz_str_n(path->ptr + 1, slash ? (size_t)(slash - path->ptr) - 1 : path->size - 1);
    path->ptr += ret->size + 1;
    path->size -= ret->size + 1;
    return true;
}

struct match {
    struct kz_str user;
    struct kz_str args[KZ_SERVE_ARGS_MAX];
    size_t arg_count;
};

static bool matches(const struct kz_serve_route *route, struct kz_str path, struct match *ret)
{
    struct kz_str pattern = kz_str(route->path), want, have;

    ret->user = KZ_STR_NULL;
    ret->arg_count = 0;
    while (segment(&pattern, &want)) {
        if (!segment(&path, &have))
            return false;
        if (want.size && want.ptr[0] == '{') {
            if (!have.size)
                return false;
            if (kz_str_is(want, "{user}"))
                ret->user = have;
            else
                ret->args[ret->arg_count++] = have;
        } else if (!kz_str_eq(want, have)) {
            return false;
        }
    }
    return !path.size;
}

static bool method_fits(const struct kz_serve_route *route, enum kz_http_method method)
{
    return route->method == method || (route->method == KZ_HTTP_GET && method == KZ_HTTP_HEAD);
}

/* Splits the prefix off an id of the path. */
static enum kz_code user_key(struct kz_serve_call *call, struct kz_err *err)
{
    struct kz_str text = call->user_text;

    call->key = (struct kz_user_key){'u', text};
    if (kz_str_starts(text, "anonymous:")) {
        call->key.kind = 'a';
        call->key.id = kz_str_n(text.ptr + 10, text.size - 10);
    }
    if (!call->key.id.size || call->key.id.size > KZ_ID_SIZE_MAX)
        return kz_fail(err, KZ_INVALID, "the user's id in the path is %zu bytes, not 1 to %d",
                call->key.id.size, KZ_ID_SIZE_MAX);
    return KZ_OK;
}

static enum kz_code unescape(
        struct kz_serve_call *call, struct kz_str s, struct kz_str *ret, struct kz_err *err)
{
    *ret = s;
    if (!memchr(s.ptr, '%', s.size))
        return KZ_OK;
    if (!kz_http_unescape(&call->req->arena, s, false, ret))
        return kz_fail(err, KZ_INVALID, "\"" KZ_STR_FMT "\" in the path has a broken %%-escape",
                KZ_STR_ARG(s));
    return KZ_OK;
}

static enum kz_code fill_in(
        struct kz_serve_call *call, const struct match *match, struct kz_err *err)
{
    call->arg_count = match->arg_count;
    for (size_t i = 0; i < match->arg_count; i++)
        KZ_TRY(unescape(call, match->args[i], &call->args[i], err));
    if (match->user.ptr) {
        KZ_TRY(unescape(call, match->user, &call->user_text, err));
        KZ_TRY(user_key(call, err));
    }
    return KZ_OK;
}

static void prepared(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct kz_serve_call *call = arg;

    if (code == KZ_OK)
        call->route->run(call);
    else
        kz_serve_fail(call, err);
}

/* Runs the route, once what it asks for is at hand. */
static void run(struct kz_serve_call *call)
{
    struct kz_query *query = call->serve->query;
    struct kz_query_want want = {.key = call->key};
    struct kz_err err = {0};

    if (call->key.id.size)
        want.what = KZ_WANT_USER;
    if (!query->ops->prepare)
        call->route->run(call);
    else if (call->route->want && call->route->want(call, &want, &err) != KZ_OK)
        kz_serve_fail(call, &err);
    else if (want.what)
        query->ops->prepare(query, &want, prepared, call);
    else
        call->route->run(call);
}

static void begin(struct kz_serve *serve, struct kz_http_request *req,
        const struct kz_serve_route *route, const struct match *match)
{
    struct kz_serve_call *call = kz_arena_alloc(&req->arena, sizeof(*call));
    struct kz_err err = {0};

    if (!call) {
        kz_fail(&err, KZ_NO_MEMORY, "the request's memory is used up");
        kz_http_respond_error(req, &err);
        return;
    }
    memset(call, 0, sizeof(*call));
    call->serve = serve;
    call->req = req;
    call->route = route;
    serve->open++;
    if (fill_in(call, match, &err) != KZ_OK ||
            kz_serve_permit(call, route->permission, &err) != KZ_OK)
        kz_serve_fail(call, &err);
    else
        run(call);
}

static void wrong_method(struct kz_serve *serve, struct kz_http_request *req, const char *allow)
{
    struct kz_http_header header = {KZ_STR("Allow"), kz_str(allow)};
    struct kz_err err = {0};

    if (req->method == KZ_HTTP_OPTIONS) {
        if (!kz_serve_preflight(serve, req))
            kz_http_respond(req, 204, NULL, KZ_STR_NULL, &header, 1);
        return;
    }
    kz_fail(&err, KZ_METHOD, KZ_STR_FMT " does not take " KZ_STR_FMT, KZ_STR_ARG(req->path),
            KZ_STR_ARG(req->method_name));
    kz_hint(&err, "use %s", allow);
    kz_http_respond_error_with(req, 405, &err, &header, 1);
}

bool kz_serve_handle(struct kz_serve *serve, struct kz_http_request *req)
{
    char allow[64] = "";
    struct match match;

    KZ_CHECK_MAGIC(serve, KZ_SERVE_MAGIC);
    for (size_t i = 0; i < kz_serve_route_count; i++) {
        const struct kz_serve_route *route = &kz_serve_routes[i];

        if (!matches(route, req->path, &match))
            continue;
        if (method_fits(route, req->method)) {
            begin(serve, req, route, &match);
            return true;
        }
        if (*allow)
            strcat(allow, ", ");
        strcat(allow, route->method == KZ_HTTP_GET    ? "GET, HEAD"
                      : route->method == KZ_HTTP_POST ? "POST"
                                                      : "DELETE");
    }
    if (!*allow)
        return false;
    wrong_method(serve, req, allow);
    return true;
}

/* Segments in which a path and a pattern agree, those that may be anything counting less. */
static unsigned nearness(const char *route, struct kz_str path)
{
    struct kz_str pattern = kz_str(route), want, have;
    unsigned score = 0;

    while (segment(&pattern, &want) && segment(&path, &have)) {
        if (want.size && want.ptr[0] == '{') {
            score += 1;
            continue;
        }
        if (kz_str_eq(want, have)) {
            score += 4;
        } else if (want.size && have.size && want.ptr[0] == have.ptr[0] &&
                   (want.size > have.size ? want.size - have.size : have.size - want.size) <= 2) {
            score += 2; /* a slip of the pen: /v1/user, /metric */
        } else {
            break;
        }
    }
    return score;
}

void kz_serve_unknown(struct kz_serve *serve, struct kz_http_request *req)
{
    /* What other stages answer on the same listener. */
    static const char *const others[] = {"/v1/events", "/v1/batch", "/v1/track", "/v1/page",
            "/v1/screen", "/v1/identify", "/v1/group", "/v1/alias"};
    const char *near[3] = {NULL};
    unsigned scores[3] = {1, 1, 1};
    struct kz_err err = {0};

    for (size_t i = 0; i < kz_serve_route_count + KZ_ARRAY_COUNT(others); i++) {
        const char *path = i < kz_serve_route_count ? kz_serve_routes[i].path
                                                    : others[i - kz_serve_route_count];
        unsigned score = nearness(path, req->path);

        for (size_t j = 0; j < KZ_ARRAY_COUNT(near); j++) {
            if (score <= scores[j])
                continue;
            memmove(&near[j + 1], &near[j], (KZ_ARRAY_COUNT(near) - j - 1) * sizeof(near[0]));
            memmove(&scores[j + 1], &scores[j], (KZ_ARRAY_COUNT(near) - j - 1) * sizeof(scores[0]));
            near[j] = path;
            scores[j] = score;
            break;
        }
    }
    kz_fail(&err, KZ_NOT_FOUND, "there is no " KZ_STR_FMT, KZ_STR_ARG(req->path));
    if (near[0])
        kz_hint(&err, "near it: %s%s%s%s%s; GET /v1 lists all", near[0], near[1] ? ", " : "",
                near[1] ? near[1] : "", near[2] ? ", " : "", near[2] ? near[2] : "");
    else
        kz_hint(&err, "GET /v1 lists what there is");
    kz_serve_refuse(serve, req, &err);
}
