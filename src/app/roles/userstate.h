/* app/roles/userstate.h -- a user's state as bytes, for roles that keep it in a shared store.
 *
 * What the views know of one user: heads, clock, session, links, rules' windows and counts (and, in
 * infer, predictions, caps, holdout, deliveries), as a CARRY body (history/carry.h), with a
 * checksum and what views do not hold by themselves.
 *
 *     state of the store -> kz_user_state_decode() -> kz_user_state_restore() -> views that decide
 *                                     kz_user_state_encode() <-
 *
 * Threads  pure.
 * Fails    KZ_CORRUPT, KZ_UNSUPPORTED: every field is checked.
 */
#pragma once

#include "history/carry.h"
#include "history/views.h"

struct kz_user_state {
    uint64_t owner;
    kz_lsn request;       /* the REQUEST made last; 0 none */
    int64_t erased_at_ms; /* an erasure of this id: what was sent before it stays away; 0 none */
    /* Owners (uint64_t each) of ids that were linked to the user, some of them elsewhere since: they
     * move when the user is linked, and go with it. */
    struct kz_str linked;
    struct kz_str carry;
    struct kz_user_key key;
    uint64_t to_owner; /* whom events sent under the key belong to; 0: the user itself */
    uint64_t merged;   /* who has its state; 0: it was never merged */
};

/* Borrows from `bytes`. */
KZ_MUST_USE enum kz_code kz_user_state_decode(
        struct kz_str bytes, struct kz_user_state *ret_state, struct kz_err *err);
/* Into views that do not have them, after whom they are linked to. */
KZ_MUST_USE enum kz_code kz_user_state_restore(
        struct kz_views *views, const struct kz_user_state *state, struct kz_err *err);
/* Appends the state of views' `user`, without slots of the kinds in `without` (bits 1 << kind). Of
 * `extra` what views do not know: request, erased_at_ms, linked. A function of these. */
void kz_user_state_encode(const struct kz_views *views, uint32_t user,
        const struct kz_user_state *extra, uint32_t without, struct kz_buf *out);

/* The body of a tombstone in the store (contract/store.h). */
struct kz_stone {
    uint64_t erasure;   /* its id */
    int64_t at_ms;      /* asked for; what was sent before it stays away */
    int64_t done_at_ms; /* 0: not carried out yet */
};
void kz_stone_encode(const struct kz_stone *stone, struct kz_buf *out);
KZ_MUST_USE enum kz_code kz_stone_decode(
        struct kz_str bytes, struct kz_stone *ret_stone, struct kz_err *err);
