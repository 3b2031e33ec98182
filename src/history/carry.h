/* history/carry.h -- the body of a CARRY record: a user's whole state at one place of the log.
 *
 * Logged before old segments are dropped, so that the rest of the log still gives the state. It
 * replaces what is there of the user. With owner 0 the body is what belongs to nobody instead
 * (kz_views_globals_encode(): clock, dead letters, tombstones, total caps, an operator's words).
 */
#pragma once

#include "contract/state.h"

enum { KZ_CARRY_VERSION = 2 };

enum kz_carry_flags {
    KZ_CARRY_GONE = 1, /* nothing is left of the user: forget them */
};

struct kz_carry_body { /* followed by keys and slots */
    uint16_t version;
    uint8_t flags; /* enum kz_carry_flags */
    char key_kind;
    uint32_t slot_count;
    kz_lsn events_head, notes_head;
    int64_t first_seen_ms;
    int64_t last_ts_ms;
    int64_t last_event_at_ms;
    uint64_t session;
    int64_t session_ts_ms;
    uint32_t event_count;
    char to_kind;
    uint8_t zero[3];
    uint64_t to_owner; /* where the user's events go; 0 not linked */
    uint64_t merged;   /* owner who has its state; 0 never merged */
    struct kz_span key_id;
    struct kz_span to_id;
    struct kz_span slots; /* struct kz_slot each, `next` 0, in the order of the user's list */
};
_Static_assert(sizeof(struct kz_carry_body) == 112, "on disk");
