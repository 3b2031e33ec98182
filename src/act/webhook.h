/* act/webhook.h -- posting decided actions to somebody's server.
 *
 * A thread of its own (libcurl) posts; the pipeline submits attempts and takes outcomes, logs them
 * as DELIVERY records and decides about the next attempt (kz_webhook_retry_ms). At least once, under
 * a stable idempotency key; the receiver drops what it has seen.
 *
 * Headers  Content-Type: application/json
 *          Idempotency-Key: kz-<project>-<decision seq>
 *          Kizashi-Timestamp: <unix seconds>
 *          Kizashi-Signature: v1=<hex HMAC-SHA256 of "<timestamp>.<body>" under the secret>
 *
 * Threads  all calls from the pipeline's thread; `wake` from the posting one.
 */
#pragma once

#include "base/err.h"
#include "base/buf.h"

/* Posts at a time; attempts submitted beyond it wait. */
enum { KZ_WEBHOOKS_ACTIVE_MAX = 64 };

struct kz_webhooks;

struct kz_webhook_attempt {
    uint64_t decision;
    uint64_t decision_lsn;
    uint64_t owner;
    unsigned action;        /* index in the project */
    uint32_t attempt_count; /* this one, from 1 */
    char *url, *secret;     /* owned; secret may be NULL */
    char *project;          /* owned */
    struct kz_buf body;     /* owned */
    int64_t timeout_ms;

    /* Set when it comes back. */
    bool ok;          /* answered 2xx */
    bool final;       /* refused for good: 4xx other than 408, 425, 429 */
    char detail[200]; /* "200", "503 Service Unavailable", "could not connect ..." */
    struct kz_webhook_attempt *next;
};

KZ_MUST_USE enum kz_code kz_webhooks_open(
        void (*wake)(void *arg), void *arg, struct kz_webhooks **ret_webhooks, struct kz_err *err);
/* Attempts under way are cut off; they are made again after a restart. */
void kz_webhooks_close(struct kz_webhooks *webhooks);
KZ_DEFINE_FREEP(struct kz_webhooks, kz_webhooks_close)
/* Takes the attempt; false where too many are under way (try later). */
KZ_MUST_USE bool kz_webhooks_submit(
        struct kz_webhooks *webhooks, struct kz_webhook_attempt *attempt);
/* Outcomes, oldest first, by `next`; each is freed with kz_webhook_attempt_free(). */
struct kz_webhook_attempt *kz_webhooks_take(struct kz_webhooks *webhooks);
void kz_webhook_attempt_free(struct kz_webhook_attempt *attempt);

/* Back-off before attempt number `attempt_count` + 1: 1 s doubling to 10 min, +-20 % by `dice` in
 * [0, 1), so that receivers are not hit in step. */
int64_t kz_webhook_retry_ms(uint32_t attempt_count, double dice);
