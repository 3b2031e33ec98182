/* collect/collect.h -- events in, over HTTP.
 *
 *     POST /v1/events                         our own format; ?wait=model,...&timeout_ms=
 *     POST /v1/batch /v1/track /v1/page ...   the Segment and RudderStack clients' calls
 *     POST /v1/pubsub/push                    a Pub/Sub push envelope around our own format
 *
 * A request is authorised, unpacked, shaped, submitted to the intake, and answered when the intake
 * is done with it.
 *
 * Owner    whoever made it; it borrows project, intake, query and auth, and must outlive every
 *          request it has taken.
 * Threads  the server's.
 * Fails    never itself: everything is answered and counted here.
 */
#pragma once

#include "contract/auth.h"
#include "contract/intake.h"
#include "contract/project.h"
#include "contract/push.h"
#include "contract/query.h"
#include "contract/shape.h"

struct kz_collect;

struct kz_collect_options {
    const struct kz_project *project;
    struct kz_intake *intake;
    struct kz_query *query; /* NULL: ?wait= is not offered */
    struct kz_auth *auth;
    struct kz_push_auth *push_auth; /* tokens are asked of pushes, and no key; NULL: a key */
    int64_t (*clock_ms)(void *arg); /* NULL: kz_clock_ms() */
    void *arg;
    size_t body_max_bytes;           /* 0: 8 MiB, as sent; over it 413 */
    size_t inflated_max_bytes;       /* 0: 32 MiB, of one body once decompressed; over it 413 */
    size_t inflated_total_max_bytes; /* 0: 256 MiB, of all requests being served; over it 503 */
};

struct kz_collect *kz_collect_new(const struct kz_collect_options *options);
/* Only when every request taken has been answered (asserted). */
void kz_collect_free(struct kz_collect *collect);
KZ_DEFINE_FREEP(struct kz_collect, kz_collect_free)

/* For the server's `admit`: refuses early what need not be read. KZ_OK for the paths of others. */
enum kz_code kz_collect_admit(struct kz_collect *collect, const struct kz_http_request *req,
        size_t *body_max_bytes, struct kz_err *err);
/* For the server's `handle`: false where the path is not one of these, and nothing was done. Else
 * the request has been or will be answered. What was submitted wants a turn of the pipeline: call
 * it in on_batch_end. */
bool kz_collect_handle(struct kz_collect *collect, struct kz_http_request *req);

/* X(name, is a gauge, help); in /metrics as kizashi_collect_<name>. */
#define KZ_COLLECT_COUNTERS(X)                                                                     \
    X(requests_total, false, "intake requests")                                                    \
    X(requests_open, true, "intake requests waiting for their answer")                             \
    X(requests_refused_total, false, "intake requests refused before their body was read")         \
    X(requests_invalid_total, false, "intake requests that could not be read as a whole")          \
    X(requests_denied_total, false, "intake requests without a key that permits them")             \
    X(requests_limited_total, false, "intake requests over their key's rate")                      \
    X(events_total, false, "events that came in")                                                  \
    X(events_rejected_total, false, "events that were wrong, or not their key's to send")          \
    X(waits_total, false, "requests with ?wait=")                                                  \
    X(body_bytes_total, false, "bytes of bodies, as sent")                                         \
    X(inflated_bytes_total, false, "bytes of bodies that were decompressed")                       \
    X(inflated_bytes, true, "bytes of decompressed bodies in memory")

struct kz_collect_counters {
#define X(name, gauge, help) uint64_t name;
    KZ_COLLECT_COUNTERS(X)
#undef X
};
const struct kz_collect_counters *kz_collect_counters(const struct kz_collect *collect);
/* Appends them, for /metrics. */
void kz_collect_metrics(const struct kz_collect *collect, struct kz_buf *out);
