/* app/roles/rowstate.h -- the state in a user's row of predictions: what decides about actions, and the
 * records that readers ask for most, so that one read of the state answers them.
 *
 * It holds the user's key, slots of the kinds below as the views have them, the RESULT of each latest
 * prediction and the DECISION of each waiting delivery. Latest predictions, caps and holdout of an id
 * that was merged into a user are moved into the user's row in two steps, each check-and-set:
 *
 *     the id's row names the user (frozen: nobody decides on it any more)
 *         -> the user's row takes its slots and names it (absorbed)
 *
 * so whoever comes in between, or comes again, does the rest and nothing twice.
 *
 * Threads  pure.
 * Fails    KZ_CORRUPT, KZ_UNSUPPORTED (a newer version): it is checked like any foreign bytes.
 */
#pragma once

#include "contract/message.h"
#include "contract/predictions.h"
#include "contract/project.h"
#include "history/views.h"

enum { KZ_ROWSTATE_VERSION = 1 };

struct kz_rowstate {
    struct kz_buf hold;     /* what all below points into, at multiples of 8 */
    bool there;             /* else: nobody has written it */
    struct kz_user_key key; /* of whom it was merged into, where it was */
    uint64_t merged_into;   /* owner; 0: the row is its own */
    const struct kz_slot *slots;
    size_t slot_count;
    const uint64_t *absorbed; /* owners whose rows' slots are here */
    size_t absorbed_count;
    struct kz_str records; /* RESULT and DECISION, one after the other at multiples of 8 */
};

/* Zero it before its first use; decoding into it again reuses its memory. Empty bytes: no row. */
KZ_MUST_USE enum kz_code kz_rowstate_decode(
        struct kz_str bytes, struct kz_rowstate *ret_row, struct kz_err *err);
void kz_rowstate_done(struct kz_rowstate *row);
/* The record of that seq; NULL where the row has it not. */
const struct kz_record *kz_rowstate_record(const struct kz_rowstate *row, uint64_t seq);
bool kz_rowstate_has_absorbed(const struct kz_rowstate *row, uint64_t owner);

/* Appends the state of a row that is another's from now on: `key` is that user's. The row need not be
 * there. */
void kz_rowstate_encode_frozen(const struct kz_rowstate *row, uint64_t merged_into,
        struct kz_user_key key, struct kz_buf *out);

/* A user of views whose state is about to be written. */
struct kz_rowstate_encode {
    const struct kz_views *views;
    uint32_t user;
    const struct kz_rowstate *before; /* its absorbed owners and records are kept */
    const uint64_t *absorbed;         /* and these */
    size_t absorbed_count;
    /* A record that came since; NULL: none of that seq. Asked first. */
    const struct kz_record *(*record)(void *arg, uint64_t seq);
    void *arg;
    int64_t now_ms; /* web deliveries that have expired by then are left out */
};
void kz_rowstate_encode(const struct kz_rowstate_encode *what, struct kz_buf *out);

/* Makes the user known to `views`: with the slots of the row, and of `also` rows, which are merged as
 * by a link. `request` (may be NULL) says what a row does not: runs of events, session, first seen.
 * Views have to be new. `ret_user` is the index. */
KZ_MUST_USE enum kz_code kz_rowstate_apply(struct kz_views *views, uint64_t owner,
        struct kz_user_key key, const struct kz_rowstate *row,
        const struct kz_rowstate *const *also, const uint64_t *also_owners, size_t also_count,
        const struct kz_request_message *request, uint32_t *ret_user, struct kz_err *err);
/* Appends the slots of a user that a row keeps, `next` 0. */
void kz_rowstate_slots(const struct kz_views *views, uint32_t user, struct kz_buf *out);
