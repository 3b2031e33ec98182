/* serve/export.c -- everything known of one user, as NDJSON: a line about the user, then every
 * record of theirs in the order it was written, then their dead letters.
 *
 * Paced by what the client takes: a timer writes on while little is queued, so that a long history
 * is never in memory twice. exports_max at a time.
 */

#include <stdlib.h>

#include "serve/serve_int.h"

enum {
    QUEUED_LOW_BYTES = 256 << 10, /* write on below this */
    PUMP_MS = 5,
};

struct kz_serve_export {
    struct kz_serve *serve;
    struct kz_http_request *req;
    struct kz_serve_export *next, *prev;
    struct kz_history_rows rows[KZ_CHAIN_COUNT];
    size_t at[KZ_CHAIN_COUNT];
    uint64_t owners[KZ_SOURCES_MAX];
    size_t owner_count;
    uint64_t before; /* dead letters older than this are still to be looked at */
    bool broken;
};

static void export_free(struct kz_serve_export *export)
{
    struct kz_serve *serve = export->serve;
    struct kz_history_reader *reader = serve->query->reader;

    for (int chain = 0; chain < KZ_CHAIN_COUNT; chain++)
        reader->ops->release(reader, &export->rows[chain]);
    if (export->prev)
        export->prev->next = export->next;
    else
        serve->exports = export->next;
    if (export->next)
        export->next->prev = export->prev;
    serve->export_count--;
    if (!serve->exports && serve->pump)
        KZ_BUG_ON(uv_timer_stop(serve->pump));
    free(export);
}

static void closed(void *arg, struct kz_http_request *req)
{
    (void)req;
    export_free(arg);
}

/* The next record of either chain by address; NULL at the end. */
static const struct kz_record *next_record(struct kz_serve_export *export, kz_lsn *ret_lsn)
{
    int best = -1;

    for (int chain = 0; chain < KZ_CHAIN_COUNT; chain++) {
        size_t at = export->at[chain];

        if (at < export->rows[chain].count &&
                (best < 0 ||
                        export->rows[chain].lsns[at] < export->rows[best].lsns[export->at[best]]))
            best = chain;
    }
    if (best < 0)
        return NULL;
    *ret_lsn = export->rows[best].lsns[export->at[best]];
    return export->rows[best].records[export->at[best]++];
}

static bool owns(const struct kz_serve_export *export, uint64_t owner)
{
    for (size_t i = 0; i < export->owner_count; i++)
        if (export->owners[i] == owner)
            return true;
    return false;
}

/* Some more dead letters; false when all have been looked at. */
static bool put_letters(struct kz_serve_export *export, struct kz_buf *out)
{
    struct kz_serve *serve = export->serve;
    struct kz_letter_place places[64];
    size_t found = serve->query->ops->dead_letters(
            serve->query, export->before, KZ_ARRAY_COUNT(places), places);

    for (size_t i = 0; i < found; i++) {
        const struct kz_record *record = kz_serve_read(serve, places[i].lsn, places[i].owner);

        export->before = places[i].seq;
        if (!record || !owns(export, record->owner))
            continue;
        kz_record_dump(record, places[i].lsn, out);
        if (!out->size || out->data[out->size - 1] != '\n')
            kz_buf_char(out, '\n');
    }
    return found > 0;
}

/* Writes on; true: the export has ended and is gone. */
static bool step(struct kz_serve_export *export)
{
    struct kz_buf *out = &export->serve->body;
    const struct kz_record *record;
    bool more = true;
    kz_lsn lsn;

    if (export->broken)
        return false;
    kz_buf_clear(out);
    while (more && out->size + kz_http_stream_queued(export->req) < QUEUED_LOW_BYTES) {
        record = next_record(export, &lsn);
        if (record) {
            kz_record_dump(record, lsn, out);
            if (out->data[out->size - 1] != '\n')
                kz_buf_char(out, '\n');
        } else {
            more = put_letters(export, out);
        }
    }
    if (out->size && kz_http_stream_write(export->req, kz_buf_view(out)) != KZ_OK) {
        export->broken = true; /* closed() follows */
        return false;
    }
    if (more)
        return false;
    kz_http_stream_end(export->req);
    export_free(export);
    return true;
}

static void on_pump(uv_timer_t *timer)
{
    struct kz_serve *serve = timer->data;
    struct kz_serve_export *next;

    KZ_CHECK_MAGIC(serve, KZ_SERVE_MAGIC);
    for (struct kz_serve_export *export = serve->exports; export; export = next) {
        next = export->next;
        (void)step(export); /* whether it ended makes no difference here */
    }
}

static void start_pump(struct kz_serve *serve)
{
    if (!serve->pump) {
        serve->pump = kz_calloc(1, sizeof(*serve->pump));
        KZ_BUG_ON(uv_timer_init(serve->options.loop, serve->pump));
        serve->pump->data = serve;
    }
    KZ_BUG_ON(uv_timer_start(serve->pump, on_pump, 0, PUMP_MS));
}

static void put_user(struct kz_serve_call *call, struct kz_buf *out)
{
    struct kz_query *query = call->serve->query;
    const struct kz_user *user = query->ops->user(query, call->user);
    struct kz_user_key key = query->ops->key(query, call->user);
    struct kz_json_out json = kz_json_out(out);

    kz_json_out_object(&json);
    kz_json_out_kv_cstr(&json, "type", "user");
    kz_json_out_kv_str(&json, key.kind == 'a' ? "anonymous_id" : "user_id", key.id);
    kz_json_out_kv_i64(&json, "first_seen", user->first_seen_ms);
    kz_json_out_kv_i64(&json, "last_event_at", user->last_event_at_ms);
    kz_json_out_kv_u64(&json, "events", user->event_count);
    kz_json_out_object_end(&json);
    kz_buf_char(out, '\n');
}

static enum kz_code gather(
        struct kz_serve_call *call, struct kz_serve_export *export, struct kz_err *err)
{
    export->owner_count = call->source_counts[KZ_CHAIN_EVENTS];
    for (size_t i = 0; i < export->owner_count; i++)
        export->owners[i] = call->sources[KZ_CHAIN_EVENTS][i].owner;
    KZ_TRY(kz_serve_scan(
            call, KZ_CHAIN_EVENTS, UINT64_MAX, 0, &export->rows[KZ_CHAIN_EVENTS], err));
    return kz_serve_scan(call, KZ_CHAIN_NOTES, UINT64_MAX, 0, &export->rows[KZ_CHAIN_NOTES], err);
}

static void export_durable(struct kz_serve_call *call)
{
    struct kz_http_header headers[KZ_SERVE_HEADERS_MAX];
    size_t header_count = kz_serve_headers(call, headers);
    struct kz_serve *serve = call->serve;
    struct kz_serve_export *export = kz_calloc(1, sizeof(*export));
    struct kz_err err = {0};

    export->serve = serve;
    export->req = call->req;
    export->next = serve->exports;
    if (serve->exports)
        serve->exports->prev = export;
    serve->exports = export;
    serve->export_count++;
    if (gather(call, export, &err) != KZ_OK) {
        export_free(export);
        kz_serve_fail(call, &err);
        return;
    }
    kz_serve_answered(call);
    kz_http_stream_begin(
            call->req, 200, "application/x-ndjson", headers, header_count, closed, export);
    kz_buf_clear(&serve->body);
    put_user(call, &serve->body);
    if (kz_http_stream_write(call->req, kz_buf_view(&serve->body)) != KZ_OK)
        export->broken = true;
    start_pump(serve);
}

void kz_serve_export(struct kz_serve_call *call)
{
    struct kz_serve *serve = call->serve;
    struct kz_err err = {0};
    kz_lsn head;

    if (serve->export_count >= serve->options.exports_max) {
        kz_fail(&err, KZ_LIMIT, "%zu exports are under way, the limit is %u", serve->export_count,
                serve->options.exports_max);
        kz_serve_fail(call, &err);
        return;
    }
    if (!kz_serve_find(call)) {
        kz_fail(&err, KZ_NOT_FOUND, "nothing is known of user \"" KZ_STR_FMT "\"",
                KZ_STR_ARG(call->user_text));
        kz_hint(&err, "an anonymous id is asked for as anonymous:ID");
        kz_serve_fail(call, &err);
        return;
    }
    head = kz_serve_head(call, KZ_CHAIN_EVENTS);
    kz_serve_when_durable(call, KZ_MAX(head, kz_serve_head(call, KZ_CHAIN_NOTES)), export_durable);
}

void kz_serve_exports_end(struct kz_serve *serve)
{
    while (serve->exports) {
        kz_http_stream_end(serve->exports->req);
        export_free(serve->exports);
    }
}
