/* A replica: one kept connection to a model's server, and what is awaited on it.
 *
 *   STARTING --- /v2/health/ready, /v2/models/M/ready: 200 ---> IDLE <--- answer: done ---> BUSY
 *       |                                                        |                           |
 *       +--- anything else: lost ---> GONE <--- probe failed ----+------- lost inside -------+
 *
 * Invariants
 *   H1  infer hears exactly one of lost, done with replica_lost, or has called stop(): on the way
 *       into GONE. Then no callback follows.
 *   H2  `link` is NULL, or the connection on which the one exchange of `step` is under way or which
 *       waits for the next one.
 *   H3  no callback is made from within start(), predict() or stop(): kz_link_open() and _send() tell
 *       of trouble later.
 *   H4  a request is sent a second time only where a kept connection ended before a byte of its answer
 *       came: the server had closed it while we wrote. Asking a model changes nothing.
 */
#include "runtimes/http/http_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "sys/clock.h"

enum {
    REPLICA_MAGIC = 0x6b7a6872,
    READY_TIMEOUT_MS = 10000, /* to connect and to say that it is ready */
    PROBE_EVERY_MS = 10000,   /* while idle */
    PROBE_TIMEOUT_MS = 5000,
};

enum state { STARTING, IDLE, BUSY, GONE };
enum step { NOTHING, HEALTH, MODEL, PROBE, INFER };

struct kz_replica {
    uint32_t magic;
    enum state state;
    enum step step;
    const struct kz_model_def *model;
    const struct kz_replica_events *events;
    void *arg;
    uv_loop_t *loop;
    char *host, *port, *authority, *prefix;
    char version[32];

    uv_timer_t timer;
    struct link *link;
    bool connected;
    bool reused;           /* the connection has served a request before */
    struct kz_buf request; /* the body of INFER, until its answer is there */
    struct kz_buf out;
    struct exchange exchange;
    struct oip_answer answer;
    size_t row_count;
    int64_t sent_us, timeout_ms;
};

static const struct link_events link_events;
static void on_timer(uv_timer_t *timer);
static void begin_step(struct kz_replica *r, enum step step);

static void set_timer(struct kz_replica *r, int64_t ms)
{
    uv_update_time(r->loop);
    KZ_BUG_ON(uv_timer_start(&r->timer, on_timer, (uint64_t)KZ_MAX(ms, (int64_t)0), 0) != 0);
}

static void disconnect(struct kz_replica *r)
{
    kz_link_close(r->link);
    r->link = NULL;
    r->connected = r->reused = false;
}

/* ---- the end -------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
    struct kz_replica *r = handle->data;

    KZ_CHECK_MAGIC(r, REPLICA_MAGIC);
    kz_buf_done(&r->request);
    kz_buf_done(&r->out);
    kz_exchange_done(&r->exchange);
    kz_oip_answer_done(&r->answer);
    free(r->host);
    free(r->port);
    free(r->authority);
    free(r->prefix);
    r->magic = 0;
    free(r);
}

static void go(struct kz_replica *r)
{
    KZ_BUG_ON(r->state == GONE);
    r->state = GONE;
    disconnect(r);
    uv_close((uv_handle_t *)&r->timer, on_closed);
}

static void lose(struct kz_replica *r, const char *code, struct kz_str message)
{
    bool was_busy = r->state == BUSY;
    struct kz_batch_outcome outcome = {
            .code = strcmp(code, "timeout") == 0 ? KZ_TIMEOUT : KZ_MODEL,
            .fail_code = code,
            .message = message,
            .replica_lost = true,
    };

    go(r); /* `r` lasts until the loop's next turn */
    if (was_busy)
        r->events->done(r->arg, r, &outcome);
    else
        r->events->lost(r->arg, r, code, message);
}

static void on_timer(uv_timer_t *timer)
{
    struct kz_replica *r = timer->data;
    char text[160];

    KZ_CHECK_MAGIC(r, REPLICA_MAGIC);
    if (r->state == BUSY)
        snprintf(text, sizeof(text), "the server did not answer within %lld ms",
                (long long)r->timeout_ms);
    else
        snprintf(text, sizeof(text), "%.80s did not say within %d s whether it is ready",
                r->authority, (r->state == IDLE ? PROBE_TIMEOUT_MS : READY_TIMEOUT_MS) / 1000);
    if (r->state == IDLE && r->step == NOTHING) {
        set_timer(r, PROBE_TIMEOUT_MS);
        begin_step(r, PROBE);
    } else {
        lose(r, "timeout", kz_str(text));
    }
}

/* ---- exchanges ------------------------------------------------------------------------------------ */

/* Sends what the step asks for, on a connection that is there. */
static void send_step(struct kz_replica *r)
{
    struct kz_buf target = {0};

    kz_buf_cstr(&target, r->prefix);
    if (r->step == HEALTH || r->step == PROBE)
        kz_buf_cstr(&target, "/v2/health/ready");
    else
        kz_buf_printf(
                &target, "/v2/models/%s/%s", r->model->name, r->step == INFER ? "infer" : "ready");
    kz_buf_char(&target, '\0');
    kz_exchange_put(&r->out, r->authority, target.data,
            r->step == INFER ? kz_buf_view(&r->request) : KZ_STR_NULL);
    kz_buf_done(&target);
    kz_link_send(r->link, &r->out);
}

/* Begins a step on the kept connection, or on a new one. */
static void begin_step(struct kz_replica *r, enum step step)
{
    r->step = step;
    kz_exchange_begin(&r->exchange);
    if (r->link && r->connected)
        send_step(r);
    else if (!r->link)
        r->link = kz_link_open(r->loop, r->host, r->port, &link_events, r);
}

static void rest(struct kz_replica *r)
{
    r->state = IDLE;
    r->step = NOTHING;
    set_timer(r, PROBE_EVERY_MS);
}

/* "the server answered 503: ..." */
static void describe_status(const struct kz_replica *r, const char *what, struct kz_buf *out)
{
    int status = r->exchange.head.status;

    kz_buf_printf(out, "%s answered %d (%s)", what, status, kz_http_parse_status_text(status));
    if (r->exchange.body.size) {
        kz_buf_cstr(out, ": ");
        kz_oip_put_error(kz_buf_view(&r->exchange.body), out);
    }
}

static void on_readiness(struct kz_replica *r)
{
    static const char *const what[] = {[HEALTH] = "/v2/health/ready",
            [PROBE] = "/v2/health/ready",
            [MODEL] = "the model's /ready"};
    int status = r->exchange.head.status;
    struct kz_buf message = {0};

    if (status == 200 || status == 204) {
        if (r->step == HEALTH) {
            begin_step(r, MODEL);
        } else if (r->step == MODEL) {
            rest(r);
            r->events->ready(r->arg, r);
        } else {
            rest(r);
        }
        return;
    }
    kz_buf_cstr(&message, "the model is not ready: ");
    describe_status(r, what[r->step], &message);
    lose(r, r->state == IDLE ? "crash" : "load", kz_buf_view(&message));
    kz_buf_done(&message);
}

static void finish_batch(struct kz_replica *r, struct kz_batch_outcome *outcome)
{
    outcome->model_us = (uint32_t)KZ_MIN(kz_mono_us() - r->sent_us, (int64_t)UINT32_MAX);
    kz_buf_clear(&r->request);
    rest(r);
    r->events->done(r->arg, r, outcome);
}

/* A status other than 200: the rows' fault, unless a gateway says that there is nobody to ask. */
static void on_refusal(struct kz_replica *r)
{
    int status = r->exchange.head.status;
    struct kz_batch_outcome outcome = {.code = KZ_MODEL, .fail_code = "exception"};
    struct kz_buf message = {0};

    describe_status(r, "the server", &message);
    outcome.message = kz_buf_view(&message);
    if (status >= 502 && status <= 504)
        lose(r, "crash", outcome.message);
    else if (status < 400)
        lose(r, "protocol", outcome.message);
    else
        finish_batch(r, &outcome);
    kz_buf_done(&message);
}

static void on_inference(struct kz_replica *r)
{
    struct kz_batch_outcome outcome = {.code = KZ_OK};
    struct kz_err err;

    if (r->exchange.head.status != 200) {
        on_refusal(r);
        return;
    }
    if (kz_oip_get_answer(kz_buf_view(&r->exchange.body), r->model, r->row_count, &r->answer,
                &outcome.fail_code, &err) != KZ_OK) {
        outcome.code = KZ_MODEL;
        outcome.message = kz_str(err.message);
        if (strcmp(outcome.fail_code, "protocol") == 0) {
            lose(r, "protocol", outcome.message);
            return;
        }
    } else {
        outcome.fail_code = NULL;
        outcome.rows = r->answer.rows;
        outcome.row_count = r->answer.row_count;
    }
    finish_batch(r, &outcome);
}

static void on_answer(struct kz_replica *r)
{
    /* A server that answers before it has read all is not asked again on that connection. */
    if (r->exchange.keep && !kz_link_is_sending(r->link))
        r->reused = true;
    else
        disconnect(r);
    if (r->step == INFER)
        on_inference(r);
    else
        on_readiness(r);
}

static void on_opened(void *arg)
{
    struct kz_replica *r = arg;

    KZ_CHECK_MAGIC(r, REPLICA_MAGIC);
    r->connected = true;
    if (r->step != NOTHING)
        send_step(r);
}

static void on_came(void *arg, struct kz_str bytes)
{
    struct kz_replica *r = arg;
    struct kz_err err;

    KZ_CHECK_MAGIC(r, REPLICA_MAGIC);
    if (r->step == NOTHING)
        disconnect(r); /* it speaks unasked; the next request opens another */
    else if (kz_exchange_take(&r->exchange, bytes, &err) != KZ_OK)
        lose(r, "protocol", kz_str(err.message));
    else if (r->exchange.complete)
        on_answer(r);
}

static void on_ended(void *arg, int uv_code)
{
    struct kz_replica *r = arg;
    bool again = r->reused && !r->exchange.any, opened = r->connected;
    char text[300];
    struct kz_err err;

    KZ_CHECK_MAGIC(r, REPLICA_MAGIC);
    disconnect(r);
    if (r->step == NOTHING)
        return; /* servers close idle connections; the next request opens another */
    if (again) {
        begin_step(r, r->step); /* H4 */
    } else if (!opened) {
        snprintf(text, sizeof(text), "could not connect to %.200s: %s", r->authority,
                uv_strerror(uv_code));
        lose(r, "crash", kz_str(text));
    } else if (uv_code == UV_EOF && kz_exchange_end(&r->exchange, &err) == KZ_OK) {
        on_answer(r); /* a body without a length: `keep` is false */
    } else if (uv_code == UV_EOF) {
        lose(r, "crash", kz_str(err.message));
    } else {
        snprintf(text, sizeof(text), "the connection to %.200s broke: %s", r->authority,
                uv_strerror(uv_code));
        lose(r, "crash", kz_str(text));
    }
}

static const struct link_events link_events = {on_opened, on_came, on_ended};

/* ---- kz_runtime_ops ------------------------------------------------------------------------------- */

/* http://HOST[:PORT][/PREFIX]; HOST may be [IPv6]. */
static enum kz_code read_url(struct kz_replica *r, const char *url, struct kz_err *err)
{
    const char *host = url + strlen("http://"), *end, *colon, *bracket;
    size_t prefix_size;

    if (strncasecmp(url, "http://", strlen("http://")) != 0)
        return kz_fail(err, KZ_CONFIG, "url \"%s\" does not begin with http://", url);
    for (const char *at = url; *at; at++)
        if ((unsigned char)*at <= ' ' || *at == 127 || *at == '?' || *at == '#' || *at == '@')
            return kz_fail(err, KZ_CONFIG, "url \"%s\" is not http://HOST[:PORT][/PREFIX]", url);
    end = host + strcspn(host, "/");
    prefix_size = strlen(end);
    while (prefix_size && end[prefix_size - 1] == '/')
        prefix_size--;
    r->prefix = kz_strndup(end, prefix_size);
    r->authority = kz_strndup(host, (size_t)(end - host));
    bracket = host[0] == '[' ? memchr(host, ']', (size_t)(end - host)) : NULL;
    colon = memchr(bracket ? bracket : host, ':', (size_t)(end - (bracket ? bracket : host)));
    r->host = bracket ? kz_strndup(host + 1, (size_t)(bracket - host - 1))
                      : kz_strndup(host, (size_t)((colon ? colon : end) - host));
    r->port = colon ? kz_strndup(colon + 1, (size_t)(end - colon - 1)) : kz_strdup("80");
    if (!r->host[0] || !r->port[0] || strlen(r->port) > 5 ||
            strspn(r->port, "0123456789") != strlen(r->port))
        return kz_fail(err, KZ_CONFIG, "url \"%s\" is not http://HOST[:PORT][/PREFIX]", url);
    return KZ_OK;
}

static enum kz_code http_start(
        const struct kz_replica_start *start, struct kz_replica **ret_replica, struct kz_err *err)
{
    struct kz_replica *r = kz_calloc(1, sizeof(*r));
    enum kz_code rc;

    r->magic = REPLICA_MAGIC;
    r->model = start->model;
    r->events = start->events;
    r->arg = start->arg;
    r->loop = start->loop;
    snprintf(r->version, sizeof(r->version), "%s", start->version ? start->version : "");
    kz_oip_answer_init(&r->answer);
    KZ_BUG_ON(uv_timer_init(r->loop, &r->timer) != 0);
    r->timer.data = r;
    rc = read_url(r, r->model->url ? r->model->url : "", err);
    if (rc != KZ_OK) {
        go(r);
        return rc;
    }
    set_timer(r, READY_TIMEOUT_MS);
    begin_step(r, HEALTH);
    *ret_replica = r;
    return KZ_OK;
}

static enum kz_code http_predict(
        struct kz_replica *r, const struct kz_batch *batch, int64_t timeout_ms, struct kz_err *err)
{
    KZ_CHECK_MAGIC(r, REPLICA_MAGIC);
    KZ_BUG_ON(r->state != IDLE);
    kz_buf_clear(&r->request);
    KZ_TRY(kz_oip_put_request(&r->request, r->version, r->model->config_json, batch, err));
    if (r->step != NOTHING) /* a probe is under way: its answer would be in the way */
        disconnect(r);
    r->state = BUSY;
    r->row_count = batch->row_count;
    r->timeout_ms = timeout_ms;
    r->sent_us = kz_mono_us();
    set_timer(r, timeout_ms);
    begin_step(r, INFER);
    return KZ_OK;
}

static void http_stop(struct kz_replica *r)
{
    KZ_CHECK_MAGIC(r, REPLICA_MAGIC);
    go(r);
}

static int http_pid(const struct kz_replica *r)
{
    (void)r;
    return 0;
}

const struct kz_runtime_ops kz_runtime_http = {
        .name = "http",
        .start = http_start,
        .predict = http_predict,
        .stop = http_stop,
        .pid = http_pid,
};
