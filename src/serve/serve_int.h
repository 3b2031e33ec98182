/* serve/serve_int.h -- what the files of serve share. */
#pragma once

#include "codec/json_out.h"
#include "serve/serve.h"

enum {
    KZ_SERVE_MAGIC = 0x6b7a7376,
    KZ_SERVE_SAMPLES = 11, /* one a second: rates are over the last ten */
    KZ_SERVE_ARGS_MAX = 2,
};

/* Who may ask. USER: a read key, or a write key with a proof that the user is theirs. */
enum kz_serve_permission {
    KZ_SERVE_OPEN,
    KZ_SERVE_USER,
    KZ_SERVE_READ,
    KZ_SERVE_ADMIN,
};

struct kz_serve_call;

struct kz_serve_route {
    const char *path; /* "{user}" takes a user's id, any other "{...}" an argument */
    enum kz_http_method method;
    enum kz_serve_permission permission;
    void (*run)(struct kz_serve_call *call);
    const char *help; /* one line */
    /* What run() will ask for, where that is far away; NULL: of the user nothing but who they are, or
     * nothing at all. Refuses what run() would refuse. */
    enum kz_code (*want)(
            struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err);
};

/* One request under way; in the request's arena. */
struct kz_serve_call {
    struct kz_serve *serve;
    struct kz_http_request *req;
    const struct kz_serve_route *route;
    struct kz_str user_text; /* as in the path, unescaped */
    struct kz_user_key key;  /* of it */
    struct kz_str args[KZ_SERVE_ARGS_MAX];
    size_t arg_count;
    char who[80];      /* the key's name, for the audit */
    bool is_write_key; /* let in by a proof: sees actions only */
    uint32_t user;     /* set by kz_serve_find() */
    void (*then)(struct kz_serve_call *call);
    kz_lsn *lsns; /* the handler's */
    size_t lsn_count;
    uint64_t number;
    struct kz_source *sources[KZ_CHAIN_COUNT]; /* set by kz_serve_head() */
    size_t source_counts[KZ_CHAIN_COUNT];
};

struct kz_serve_sample {
    int64_t at_us; /* monotonic; 0: not taken yet */
    struct kz_pipeline_counters counters;
    struct kz_pipeline_histograms histograms;
    uint64_t http_requests, http_refused;
};

struct kz_serve_stream;
struct kz_serve_export;

struct kz_serve {
    uint32_t magic;
    struct kz_query *query;
    struct kz_auth *auth;
    struct kz_serve_options options;
    const struct kz_http_server *http;
    int64_t started_ms;
    int64_t started_us; /* monotonic */
    size_t open;
    bool draining;

    /* Scratch, good within one call of a handler. */
    struct kz_buf body;
    struct kz_buf record;

    uv_timer_t *second; /* samples, and what streams and exports need */
    struct kz_serve_sample samples[KZ_SERVE_SAMPLES];
    size_t sample_next;

    struct kz_serve_stream *streams;
    size_t stream_count;
    uint64_t frame_seq, frame_owner; /* of the frame rendered last: many streams take the same */
    struct kz_buf frame;
    uint64_t streamed_total, streams_cut_total;

    uv_timer_t *pump; /* runs while there are exports */
    struct kz_serve_export *exports;
    size_t export_count;
};

extern const struct kz_serve_route kz_serve_routes[];
extern const size_t kz_serve_route_count;

/* ---- serve.c ---- */

/* Begins the answer in serve->body. */
struct kz_json_out kz_serve_json(struct kz_serve_call *call);
/* Sends serve->body as JSON; ends the call. */
void kz_serve_reply(struct kz_serve_call *call, int status);
void kz_serve_reply_as(struct kz_serve_call *call, int status, const char *type);
/* Sends the error; ends the call. */
void kz_serve_fail(struct kz_serve_call *call, const struct kz_err *err);
/* Calls `then` once `lsn` is durable, or answers with the error. */
void kz_serve_when_durable(
        struct kz_serve_call *call, kz_lsn lsn, void (*then)(struct kz_serve_call *call));
/* Counts a request as under way; kz_serve_reply() and kz_serve_fail() end it. */
void kz_serve_answered(struct kz_serve_call *call);

/* Sets call->user; false: nothing is known of them. */
bool kz_serve_find(struct kz_serve_call *call);
/* A query parameter that is a number; `preset` where it is absent. KZ_INVALID names it. */
enum kz_code kz_serve_number(struct kz_serve_call *call, const char *name, uint64_t preset,
        uint64_t max, uint64_t *ret, struct kz_err *err);
bool kz_serve_flag(struct kz_serve_call *call, const char *name);
/* A whole text that is a number. */
bool kz_serve_parse_u64(struct kz_str s, uint64_t *ret);
/* The record at `lsn`, in serve->record until the next read; NULL where it is gone. */
const struct kz_record *kz_serve_read(struct kz_serve *serve, kz_lsn lsn, uint64_t owner);
/* The same of a note of call->user; after kz_serve_head() of the notes. */
const struct kz_record *kz_serve_read_own(struct kz_serve_call *call, kz_lsn lsn);
/* The newest address on any of the user's runs of `chain`, which are kept in the call: once it is
 * durable, kz_serve_scan() reads them as they were, whatever has been staged behind them since. */
kz_lsn kz_serve_head(struct kz_serve_call *call, enum kz_chain chain);
/* The user's newest `max` records on `chain` at or before `as_of`, oldest first; to be released.
 * After kz_serve_head() of that chain. */
enum kz_code kz_serve_scan(struct kz_serve_call *call, enum kz_chain chain, kz_lsn as_of,
        uint32_t max, struct kz_history_rows *ret_rows, struct kz_err *err);
void kz_serve_release(struct kz_serve_call *call, struct kz_history_rows *rows);
void kz_serve_timer_free(uv_timer_t **timer);

/* ---- permit.c ---- */

/* Whether the request may do that; fills in who and is_write_key. */
enum kz_code kz_serve_permit(
        struct kz_serve_call *call, enum kz_serve_permission permission, struct kz_err *err);
/* The headers every answer has: no caching, and CORS where it is for a page of another origin. */
enum { KZ_SERVE_HEADERS_MAX = 6 };
size_t kz_serve_headers(struct kz_serve_call *call, struct kz_http_header headers[]);
void kz_serve_refuse(struct kz_serve *serve, struct kz_http_request *req, const struct kz_err *err);
/* Answers OPTIONS of a path that is ours; false without auth. */
bool kz_serve_preflight(struct kz_serve *serve, struct kz_http_request *req);

/* ---- user.c ---- */

enum kz_code kz_serve_want_events(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err);
enum kz_code kz_serve_want_actions(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err);
enum kz_code kz_serve_want_erasure(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err);

void kz_serve_predictions(struct kz_serve_call *call);
void kz_serve_events(struct kz_serve_call *call);
void kz_serve_actions(struct kz_serve_call *call);
void kz_serve_acknowledge(struct kz_serve_call *call);
void kz_serve_erase(struct kz_serve_call *call);
void kz_serve_erasure(struct kz_serve_call *call);
/* As in GET .../actions. */
void kz_serve_action_json(struct kz_json_out *out, const struct kz_record *record);
void kz_serve_event_json(
        struct kz_serve *serve, struct kz_json_out *out, const struct kz_record *record);

/* ---- trace.c, export.c, stream.c ---- */

enum kz_code kz_serve_want_history(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err);
enum kz_code kz_serve_want_trace(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err);
void kz_serve_trace(struct kz_serve_call *call);
void kz_serve_export(struct kz_serve_call *call);
void kz_serve_exports_end(struct kz_serve *serve);
void kz_serve_stream(struct kz_serve_call *call);
void kz_serve_stream_all(struct kz_serve_call *call);
/* Heartbeats, and users that became others by a link. */
void kz_serve_streams_tick(struct kz_serve *serve);
void kz_serve_streams_end(struct kz_serve *serve);

/* ---- numbers.c ---- */

void kz_serve_sample(struct kz_serve *serve);
struct kz_serve_rates {
    double seconds;                       /* what they are over; 0: nothing yet */
    struct kz_pipeline_counters counters; /* differences */
    struct kz_pipeline_histograms histograms;
    uint64_t http_requests, http_refused;
};
void kz_serve_rates(struct kz_serve *serve, struct kz_serve_rates *ret);
/* Seconds at a quantile, interpolated within its bucket; 0 where nothing was counted. */
double kz_serve_quantile(const struct kz_histogram *histogram, double q);
struct kz_serve_process {
    uint64_t rss_bytes, fds_open, fds_max;
    double cpu_seconds;
    double start_seconds; /* since 1970 */
};
void kz_serve_process(struct kz_serve_process *ret);
/* Bytes free for us on the data's disk; false where that is not known. */
bool kz_serve_disk(const struct kz_serve *serve, uint64_t *ret_free, uint64_t *ret_total);

void kz_serve_metrics(struct kz_serve_call *call);
void kz_serve_top(struct kz_serve_call *call);

/* ---- health.c ---- */

void kz_serve_healthz(struct kz_serve_call *call);
void kz_serve_readyz(struct kz_serve_call *call);
void kz_serve_v2(struct kz_serve_call *call);
void kz_serve_v2_live(struct kz_serve_call *call);
void kz_serve_v2_ready(struct kz_serve_call *call);
void kz_serve_v2_model(struct kz_serve_call *call);
void kz_serve_v2_model_ready(struct kz_serve_call *call);
void kz_serve_v2_infer(struct kz_serve_call *call);

/* ---- status.c, admin.c ---- */

enum kz_code kz_serve_want_letters(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err);
enum kz_code kz_serve_want_letter(
        struct kz_serve_call *call, struct kz_query_want *want, struct kz_err *err);
void kz_serve_status(struct kz_serve_call *call);
void kz_serve_model_verb(struct kz_serve_call *call);
void kz_serve_action_verb(struct kz_serve_call *call);
void kz_serve_drop_requests(struct kz_serve_call *call);
void kz_serve_dead_letters(struct kz_serve_call *call);
void kz_serve_dead_letter(struct kz_serve_call *call);
void kz_serve_dead_letter_verb(struct kz_serve_call *call);
void kz_serve_backup(struct kz_serve_call *call);
void kz_serve_checkpoint(struct kz_serve_call *call);

/* ---- routes.c, page.c ---- */

void kz_serve_index(struct kz_serve_call *call);
void kz_serve_page(struct kz_serve_call *call);
