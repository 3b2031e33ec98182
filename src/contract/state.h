/* contract/state.h -- what is kept of one user between events, besides the history itself.
 *
 * Everything is plain data of fixed size, so that a checkpoint is a copy and Spanner or Bigtable can
 * hold it as cells. It changes only by applying records (history/apply.c): live and in recovery the
 * same code runs on the same bytes.
 */
#pragma once

#include "contract/record.h"

enum kz_slot_kind {
    KZ_SLOT_FREE,
    KZ_SLOT_TRIGGER, /* struct kz_trigger_state */
    KZ_SLOT_TIMES, /* struct kz_times_ring, kz_times: hits of a count rule, deliveries under a per-user cap */
    KZ_SLOT_PREDICTION, /* struct kz_prediction_state */
    KZ_SLOT_REQUEST,    /* struct kz_request_state: pending */
    KZ_SLOT_ACTION,     /* struct kz_action_state: holdout assignment */
    KZ_SLOT_DELIVERY,   /* struct kz_delivery_wait: decided, not finished */
    KZ_SLOT_SOURCE,     /* struct kz_source_state: a linked id's chain */
    KZ_SLOT_TARGET,     /* struct kz_target_state: whose the id's events were once */
    KZ_SLOT_KIND_END
};

struct kz_trigger_state {
    int64_t window_due_ms; /* debounce: open until then; 0 closed. On the event clock (ts) */
    kz_lsn pending;        /* the event to ask about at due; 0 none */
    int64_t pending_ts_ms;
    int64_t delay_due_ms; /* delay: 0 not armed */
    int64_t rearm_due_ms; /* count: not again before */
};

/* As bytes (a CARRY, a user's row): newest times first over the user's slots of the same name; 0 is
 * unused. */
enum { KZ_TIMES_PER_SLOT = 5 };
struct kz_times {
    int64_t at_ms[KZ_TIMES_PER_SLOT];
};

/* In views all times of a name are in one slot: a ring, oldest first (history/times.c). */
enum { KZ_TIMES_FEW = 4 };
struct kz_times_ring {
    uint16_t first, count;
    uint32_t capacity; /* KZ_TIMES_FEW: they are in `few`; else in the store of runs at `run` */
    union {
        int64_t few[KZ_TIMES_FEW];
        uint32_t run;
    };
};

struct kz_prediction_state {
    kz_lsn result;    /* the RESULT record; readable to others once durable */
    uint64_t request; /* seq: an older request's late result does not replace a newer one's */
    double score;     /* NaN where there is none */
    int64_t computed_at_ms;
    int64_t expires_at_ms;
};

struct kz_request_state {
    kz_lsn request_lsn;
    uint64_t request;
    int64_t expires_ms; /* our clock; 0 never */
    kz_lsn copy_lsn; /* the COPY to read it from; 0: it is where it was. As-of stays request_lsn */
    uint64_t zero;
};

struct kz_action_state {
    uint8_t holdout_assigned; /* 0 not yet, 1 treated, 2 held out */
    uint8_t zero[7];
    int64_t assigned_at_ms;
    uint64_t zero2[3];
};

struct kz_delivery_wait {
    kz_lsn decision_lsn;
    uint64_t decision;
    int64_t expires_at_ms;
    int64_t retry_at_ms; /* webhook: next attempt; 0 at once */
    uint32_t attempt_count;
    uint8_t kind; /* enum kz_deliver_kind */
    uint8_t zero[3];
};

struct kz_source_state {
    uint64_t owner;                 /* whose chain */
    kz_lsn events_head, notes_head; /* up to here it is this user's too */
    kz_lsn link;                    /* the LINK record: as-of before it does not see the chain */
    uint64_t zero;
};

/* On the slots of an id itself, for each user that it was linked to and is not now: events that it
 * sent meanwhile are records of that owner. */
struct kz_target_state {
    uint64_t owner; /* 0: anybody's, there were more than KZ_TARGETS_MAX */
    uint64_t zero[4];
};
enum { KZ_TARGETS_MAX = 32 };

struct kz_slot {
    uint64_t
            name; /* hash of the rule's, model's, action's name (kz_name_hash); 0 where not by name */
    uint32_t next; /* index of the user's next slot; 0 ends */
    uint8_t kind;  /* enum kz_slot_kind */
    uint8_t zero[3];
    union {
        struct kz_trigger_state trigger;
        struct kz_times times;
        struct kz_times_ring ring;
        struct kz_prediction_state prediction;
        struct kz_request_state request;
        struct kz_action_state action;
        struct kz_delivery_wait delivery;
        struct kz_source_state source;
        struct kz_target_state target;
    };
};
_Static_assert(sizeof(struct kz_slot) == 56, "in checkpoints");

/* The address of the record that the slot's meaning leans on (a prediction's RESULT, a waiting
 * DECISION, a pending REQUEST, the event that a timer is about); 0 none. */
static inline kz_lsn kz_slot_address(const struct kz_slot *slot)
{
    switch ((enum kz_slot_kind)slot->kind) {
    case KZ_SLOT_TRIGGER:
        return slot->trigger.pending;
    case KZ_SLOT_PREDICTION:
        return slot->prediction.result;
    case KZ_SLOT_REQUEST:
        return slot->request.copy_lsn ? slot->request.copy_lsn : slot->request.request_lsn;
    case KZ_SLOT_DELIVERY:
        return slot->delivery.decision_lsn;
    case KZ_SLOT_FREE:
    case KZ_SLOT_TIMES:
    case KZ_SLOT_ACTION:
    case KZ_SLOT_SOURCE:
    case KZ_SLOT_TARGET:
    case KZ_SLOT_KIND_END:
        break;
    }
    return 0;
}

/* Of a rule's, model's or action's name, as slots have it; never 0. */
uint64_t kz_name_hash(struct kz_str name);

/* What is known of a user beside their slots. */
struct kz_user {
    uint64_t owner;
    kz_lsn events_head, notes_head;
    int64_t first_seen_ms;    /* received_at of the first event */
    int64_t last_ts_ms;       /* latest ts of what the user did: @now is never earlier */
    int64_t last_event_at_ms; /* received_at of the last event */
    uint64_t session;         /* current session: seq of its first event */
    int64_t session_ts_ms;    /* latest ts in it */
    uint32_t event_count;
    uint32_t slots;      /* first slot; 0 none */
    uint32_t key_offset; /* kind and id in the key store */
    uint16_t key_size;
    uint8_t flags; /* enum kz_user_flags */
    uint8_t zero;
};
_Static_assert(sizeof(struct kz_user) == 80, "in checkpoints");

enum kz_user_flags {
    KZ_USER_LINKED = 1, /* an id that was linked: its events go to another user */
    KZ_USER_ERASED = 2,
    KZ_USER_TARGETS = 4, /* has slots of KZ_SLOT_TARGET: nobody else's are to be looked through */
};
