/* serve/stream.c -- Server-Sent Events (HTML standard, section 9.2): predictions and actions as
 * they become durable.
 *
 * Bounded: streams_max of them, and what a slow reader has not taken by http.h's
 * stream_queue_max_bytes: then the stream is cut and the reader comes back with Last-Event-ID. A
 * user's stream begins with the actions that wait; predictions of the meantime are read by GET.
 */

#include <stdlib.h>

#include "serve/serve_int.h"
#include "sys/clock.h"

struct kz_serve_stream {
    struct kz_subscription subscription;
    struct kz_serve *serve;
    struct kz_http_request *req;
    struct kz_serve_stream *next, *prev;
    char kind; /* whose: key of the user, or 0 for everybody's */
    char *id;
    size_t id_size;
    bool actions_only;
    bool broken; /* a write failed; on_close follows */
    int64_t written_ms;
};

static void stream_free(struct kz_serve_stream *stream)
{
    struct kz_serve *serve = stream->serve;

    serve->query->ops->unsubscribe(serve->query, &stream->subscription);
    if (stream->prev)
        stream->prev->next = stream->next;
    else
        serve->streams = stream->next;
    if (stream->next)
        stream->next->prev = stream->prev;
    serve->stream_count--;
    free(stream->id);
    free(stream);
}

static void closed(void *arg, struct kz_http_request *req)
{
    (void)req;
    stream_free(arg);
}

static void put(struct kz_serve_stream *stream, struct kz_str text)
{
    if (stream->broken)
        return;
    if (kz_http_stream_write(stream->req, text) != KZ_OK) {
        stream->broken = true;
        stream->serve->streams_cut_total++;
    }
    stream->written_ms = kz_mono_ms();
}

/* One event of the stream into `buf`; nothing where the record is not what it should be. */
static void frame(struct kz_buf *buf, enum kz_news_kind kind, const struct kz_record *record)
{
    struct kz_json_out out = kz_json_out(buf);
    struct kz_prediction prediction;

    if (kind == KZ_NEWS_PREDICTION && kz_prediction_decode(record, &prediction, NULL) != KZ_OK)
        return;
    kz_buf_printf(buf,
            "event: %s\nid: %llu\ndata: ", kind == KZ_NEWS_PREDICTION ? "prediction" : "action",
            (unsigned long long)record->seq);
    if (kind == KZ_NEWS_PREDICTION)
        kz_prediction_json(&prediction, &out);
    else
        kz_serve_action_json(&out, record);
    kz_buf_cstr(buf, "\n\n");
}

static void on_news(struct kz_subscription *subscription, const struct kz_news *news)
{
    struct kz_serve_stream *stream = KZ_CONTAINER_OF(
            subscription, struct kz_serve_stream, subscription);
    struct kz_serve *serve = stream->serve;

    if (stream->actions_only && news->kind != KZ_NEWS_ACTION)
        return;
    if (serve->frame_seq != news->record->seq || serve->frame_owner != news->owner) {
        kz_buf_clear(&serve->frame);
        frame(&serve->frame, news->kind, news->record);
        serve->frame_seq = news->record->seq;
        serve->frame_owner = news->owner;
    }
    if (serve->frame.size) {
        put(stream, kz_buf_view(&serve->frame));
        serve->streamed_total++;
    }
}

/* ---- life
 * ----------------------------------------------------------------------------------------- */

static enum kz_code may_begin(struct kz_serve *serve, struct kz_err *err)
{
    if (serve->draining)
        return kz_fail(err, KZ_UNAVAILABLE, "shutting down");
    if (serve->stream_count >= serve->options.streams_max) {
        kz_fail(err, KZ_LIMIT, "%zu streams are open, the limit is %u", serve->stream_count,
                serve->options.streams_max);
        return kz_hint(err, "one GET /v1/stream with a read key can serve many readers");
    }
    return KZ_OK;
}

static uint64_t owner_now(struct kz_serve_stream *stream)
{
    struct kz_query *query = stream->serve->query;
    struct kz_user_key key = {stream->kind, kz_str_n(stream->id, stream->id_size)};
    uint32_t user;

    if (query->ops->find(query, key, &user))
        return query->ops->user(query, user)->owner;
    return kz_owner_hash(key, 0);
}

/* Now, not at the next tick: what is decided about whom they logged in as is news within moments. */
static void on_linked(struct kz_subscription *subscription)
{
    struct kz_serve_stream *stream = KZ_CONTAINER_OF(
            subscription, struct kz_serve_stream, subscription);

    stream->subscription.owner = owner_now(stream);
}

static struct kz_serve_stream *begin(struct kz_serve_call *call)
{
    struct kz_http_header headers[KZ_SERVE_HEADERS_MAX];
    size_t header_count = kz_serve_headers(call, headers);
    struct kz_serve *serve = call->serve;
    struct kz_serve_stream *stream = kz_calloc(1, sizeof(*stream));

    stream->serve = serve;
    stream->req = call->req;
    stream->actions_only = call->is_write_key;
    stream->subscription.news = on_news;
    stream->subscription.linked = on_linked;
    stream->subscription.user = stream;
    stream->next = serve->streams;
    if (serve->streams)
        serve->streams->prev = stream;
    serve->streams = stream;
    serve->stream_count++;
    kz_serve_answered(call);
    /* nginx would hold events back. */
    headers[header_count++] = (struct kz_http_header){KZ_STR("X-Accel-Buffering"), KZ_STR("no")};
    kz_http_stream_begin(
            call->req, 200, "text/event-stream", headers, header_count, closed, stream);
    put(stream, KZ_STR("retry: 2000\n\n"));
    return stream;
}

/* The actions that wait, so that nothing decided while nobody listened is missed. */
static void begin_user(struct kz_serve_call *call)
{
    struct kz_serve *serve = call->serve;
    struct kz_str last = kz_http_request_header(call->req, "Last-Event-ID");
    struct kz_serve_stream *stream;
    uint64_t after = 0;

    (void)kz_serve_parse_u64(last, &after); /* not a number of ours: from the start */
    stream = begin(call);
    stream->kind = call->key.kind;
    stream->id = kz_strndup(call->key.id.ptr, call->key.id.size);
    stream->id_size = call->key.id.size;
    stream->subscription.owner = owner_now(stream);
    serve->query->ops->subscribe(serve->query, &stream->subscription);
    for (size_t i = 0; i < call->lsn_count; i++) {
        const struct kz_record *record = kz_serve_read_own(call, call->lsns[i]);

        kz_buf_clear(&serve->body);
        if (record && record->seq > after)
            frame(&serve->body, KZ_NEWS_ACTION, record);
        if (serve->body.size)
            put(stream, kz_buf_view(&serve->body));
    }
}

void kz_serve_stream(struct kz_serve_call *call)
{
    enum { WAITING_MAX = 64 };
    struct kz_query *query = call->serve->query;
    const struct kz_slot *slot = NULL;
    int64_t now_ms = kz_clock_ms();
    struct kz_err err = {0};
    kz_lsn newest = 0;

    if (may_begin(call->serve, &err) != KZ_OK) {
        kz_serve_fail(call, &err);
        return;
    }
    call->lsns = kz_arena_must(&call->req->arena, WAITING_MAX * sizeof(*call->lsns));
    if (kz_serve_find(call)) {
        (void)kz_serve_head(call, KZ_CHAIN_NOTES); /* whose records they are, for reading them */
        while (call->lsn_count < WAITING_MAX &&
                (slot = query->ops->slot(query, call->user, KZ_SLOT_DELIVERY, slot))) {
            if (slot->delivery.kind != KZ_DELIVER_WEB || slot->delivery.expires_at_ms <= now_ms)
                continue;
            call->lsns[call->lsn_count++] = slot->delivery.decision_lsn;
            newest = KZ_MAX(newest, slot->delivery.decision_lsn);
        }
    }
    kz_serve_when_durable(call, newest, begin_user);
}

void kz_serve_stream_all(struct kz_serve_call *call)
{
    struct kz_query *query = call->serve->query;
    struct kz_err err = {0};

    if (may_begin(call->serve, &err) != KZ_OK) {
        kz_serve_fail(call, &err);
        return;
    }
    query->ops->subscribe(query, &begin(call)->subscription);
}

void kz_serve_streams_tick(struct kz_serve *serve)
{
    int64_t now_ms = kz_mono_ms();

    for (struct kz_serve_stream *stream = serve->streams; stream; stream = stream->next) {
        if (stream->kind)
            stream->subscription.owner = owner_now(stream);
        if (now_ms - stream->written_ms >= serve->options.heartbeat_ms)
            put(stream, KZ_STR(": heartbeat\n\n"));
    }
}

void kz_serve_streams_end(struct kz_serve *serve)
{
    struct kz_serve_stream *next;

    for (struct kz_serve_stream *stream = serve->streams; stream; stream = next) {
        next = stream->next;
        kz_http_stream_end(stream->req);
        stream_free(stream);
    }
}
