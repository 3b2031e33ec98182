/* contract/intake.h -- how events enter the pipeline, whoever collects them.
 *
 * collect makes submissions; the embedded pipeline or the Pub/Sub bus takes them.
 *
 * Threads  the pipeline's.
 */
#pragma once

#include <sys/queue.h>

#include "contract/record.h"

enum kz_intake_state { KZ_INTAKE_ACCEPTED, KZ_INTAKE_DUPLICATE, KZ_INTAKE_REJECTED };

enum { KZ_EVENT_ID_MADE_SIZE = 26, KZ_AWAITED_MAX = 64 };

/* One event of a submission. REJECTED before submitting (shape found it wrong): code, message and
 * payload are kept as a dead letter. The pipeline may reject as well. */
struct kz_intake_item {
    struct kz_event event;
    enum kz_intake_state state;
    const char *code;      /* rejected: short and stable */
    struct kz_str message; /* rejected: for the sender */
    struct kz_str payload; /* rejected: what came in */
    struct kz_str awaited; /* over a bus: as whose word somebody waits to hear what the
                                          * event asked (KZ_AWAITED_MAX); empty: nobody does */
    bool again;            /* over a bus: it came before, and may have been taken then */
    uint64_t seq;          /* accepted: its place */
    char made_id[KZ_EVENT_ID_MADE_SIZE]; /* where the client sent no event_id */
    struct kz_value columns[KZ_COLUMNS_MAX];
};

/* What a caller of ?wait= is told. */
struct kz_wait_pending {
    unsigned model;
    const char *reason; /* "timeout", "dead_letter", "superseded", "expired", "dropped",
                        * "not_triggered", "debounced", "delayed", "stopping" */
};

LIST_HEAD(kz_waiter_list, kz_waiter);

struct kz_submission {
    struct kz_intake_item **items; /* borrowed until done */
    size_t item_count;
    const bool *wait_models; /* [model_count] which to wait for, or NULL */
    uint32_t wait_timeout_ms;
    int64_t received_us; /* monotonic, when its last byte was there; times run from it. 0: now */

    /* Called once: KZ_OK when everything accepted is durable (and what was waited for is there or
     * timed out); else nothing of it was accepted, and `err` says why. */
    void (*done)(struct kz_submission *submission, enum kz_code code, const struct kz_err *err);
    void *user;

    /* Set when done, where models were waited for; gone when done has returned. */
    kz_lsn *results;         /* RESULT records, to be read as predictions */
    unsigned *result_models; /* [result_count] index in the project */
    size_t result_count;
    struct kz_wait_pending *pending;
    size_t pending_count;

    /* The own of whoever takes it. */
    struct kz_submission *next;
    kz_lsn durable_at;
    int64_t wait_until_us;
    size_t wait_open;
    size_t wait_place; /* among those that wait, from 1; 0: it is not there */
    struct kz_waiter_list waiters;
    void *waiter; /* where collect is a role of its own */
};

struct kz_intake {
    const struct kz_intake_ops *ops;
};

struct kz_intake_ops {
    /* Takes a submission; `done` follows later, or within the call on refusal (KZ_OVERLOADED,
     * KZ_NO_SPACE, KZ_UNAVAILABLE). */
    void (*submit)(struct kz_intake *intake, struct kz_submission *submission);
    /* Whether a request should be refused before its body is read: KZ_OK or the reason. */
    enum kz_code (*ready)(struct kz_intake *intake, struct kz_err *err);
};
