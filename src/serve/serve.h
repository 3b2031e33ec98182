/* serve/serve.h -- what is known, over HTTP: predictions, histories, traces, streams, erasure,
 * probes, metrics, an operator's calls, the dashboard.
 *
 * It asks struct kz_query and formats; it keeps nothing but counters' samples and open streams.
 *
 * Owner    app: made after the pipeline, freed before it.
 * Threads  one, the loop's and the pipeline's.
 * Life     new, watch, handle*, drain, (the loop runs until kz_serve_open() is 0), free, and one
 *          more turn of the loop, in which its timers close.
 * Fails    a request is always answered: errors as
 * {"error":{"code","message","hint"?,"request_id"}}.
 */
#pragma once

#include "contract/query.h"
#include "sys/http.h"

struct kz_serve;
struct kz_auth;

enum kz_severity { KZ_SEVERE_CRITICAL, KZ_SEVERE_ERROR, KZ_SEVERE_WARNING, KZ_SEVERE_NOTICE };
/* Adds a problem to the status being written; strings are copied. */
typedef void kz_serve_say(
        void *to, enum kz_severity severity, const char *what, const char *why, const char *remedy);

struct kz_serve_options {
    uv_loop_t *loop;
    const char *data_dir;  /* borrowed; whose disk's free space is told. NULL: not told */
    const char *version;   /* borrowed; "0.1.0" */
    const char *build;     /* borrowed; commit and compiler, "" where not known */
    uint32_t streams_max;  /* 1,000; over it 429 */
    uint32_t exports_max;  /* 4 at a time; over it 429 */
    uint32_t heartbeat_ms; /* 15,000 between comments on a silent stream */
    uint32_t scan_max;     /* 10,000 newest records a trace or a list of decisions looks at */
    /* The names of the columns of a model's features, or 0; optional. */
    size_t (*feature_names)(void *arg, unsigned model, const char *const **ret_names);
    /* Appends series of others to /metrics, in the same text form; optional. */
    void (*more_metrics)(void *arg, struct kz_buf *out);
    /* What is wrong besides what the query tells, for status; optional. */
    void (*more_problems)(void *arg, kz_serve_say *say, void *to);
    /* Appends strings to the "degraded" of /readyz; optional. */
    void (*more_degraded)(void *arg, struct kz_json_out *out);
    bool is_role; /* there is no log here: numbers of it are left out of /metrics and status */
    /* Appends members to status, in the place of "log"; optional. */
    void (*more_status)(void *arg, struct kz_json_out *out);
    void *arg;
};

struct kz_serve_options kz_serve_options_default(void);

/* `auth` NULL: everything is open to whoever reaches the listener (tests). */
struct kz_serve *kz_serve_new(
        struct kz_query *query, struct kz_auth *auth, const struct kz_serve_options *options);
void kz_serve_free(struct kz_serve *serve);
KZ_DEFINE_FREEP(struct kz_serve, kz_serve_free)

/* Whose counters /metrics shows; the server is made after the handler that it calls. */
void kz_serve_watch(struct kz_serve *serve, const struct kz_http_server *server);

/* Answers `req`, now or later, and returns true; false, `req` untouched: the path is not of serve's
 * (another stage may know it, else call kz_serve_unknown()). Where it waits for durability, the
 * answer comes from the pipeline's next turn: run one after every batch of requests. */
bool kz_serve_handle(struct kz_serve *serve, struct kz_http_request *req);
/* 404 for a path that nobody knows, naming near ones. */
void kz_serve_unknown(struct kz_serve *serve, struct kz_http_request *req);

/* Ends the streams and refuses new ones; other requests go on. */
void kz_serve_drain(struct kz_serve *serve);
/* Requests taken and not answered yet; 0 before it may be freed. */
size_t kz_serve_open(const struct kz_serve *serve);
