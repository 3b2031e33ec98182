/* contract/record.h -- the records of the one log.
 *
 * Everything that happens is a record: an event, a request, a timer, a result, a decision. The log
 * orders and keeps them and knows only the header; the bodies are defined here because several
 * stages read them. docs/log-format.md is this file in prose.
 *
 * Layout   little-endian; a record starts at a multiple of 8; `size` counts header and body, the
 *          next record follows at the next multiple of 8. Bodies hold fixed structs followed by
 *          strings that the fixed part addresses as (offset from body start, size).
 * Trust    bytes from disk have passed a CRC, but the accessors still check every offset, so that
 *          fsck can look at anything.
 */
#pragma once

#include "contract/event.h"

/* The address of a record: segment number in the upper, byte offset in the lower 32 bits. Addresses
 * grow with seq. 0 is "none": no record starts at offset 0 of any segment. */
typedef uint64_t kz_lsn;
#define KZ_LSN(segment, offset) (((uint64_t)(segment) << 32) | (uint32_t)(offset))
#define KZ_LSN_SEGMENT(lsn) ((uint32_t)((lsn) >> 32))
#define KZ_LSN_OFFSET(lsn) ((uint32_t)(lsn))

/* X(NAME, number, chain, what) -- chain: EVENTS and NOTES are the two per-user chains that `prev`
 * links (history reads only the first); NONE belongs to nobody. Numbers are on disk. */
#define KZ_RECORD_TYPES(X)                                                                         \
    X(EVENT, 1, EVENTS, "an event of a user")                                                      \
    X(LINK, 2, NOTES, "an anonymous or previous id became a user's")                               \
    X(TRIGGER, 3, NOTES, "a rule's state of a user changed: window, timer, count")                 \
    X(REQUEST, 4, NOTES, "a model is asked")                                                       \
    X(RESULT, 5, NOTES, "a request ended: done, superseded, expired, dropped or dead")             \
    X(DECISION, 6, NOTES, "an action decided on a prediction")                                     \
    X(DELIVERY, 7, NOTES, "what became of a delivery: shown, sent, failed, gave up")               \
    X(DEADLETTER, 8, NONE, "what could not be processed, with its reason")                         \
    X(ERASE, 9, NONE, "a user is to be forgotten; holds only hashes")                              \
    X(CARRY, 10, NOTES, "a user's live state copied forward before old segments go")               \
    X(CONTROL, 11, NONE, "an operator's word: paused, resumed, dropped, promoted")                 \
    X(CLOCK, 12, NONE, "virtual time advanced (replay --clock event)")                             \
    X(COPY, 13, NONE, "a record that is still needed, copied forward before its segment goes")

/* Numbers are on disk: none is used again. */
enum kz_record_type {
#define X(name, number, chain, what) KZ_RECORD_##name = number,
    KZ_RECORD_TYPES(X)
#undef X
            KZ_RECORD_TYPE_END
};

/* Which of its owner's two chains of `prev` a record hangs on: what SQL sees, or all else. */
enum kz_chain { KZ_CHAIN_EVENTS, KZ_CHAIN_NOTES, KZ_CHAIN_COUNT, KZ_CHAIN_NONE = KZ_CHAIN_COUNT };

/* What every record begins with; a body of its type follows. */
struct kz_record {
    uint32_t size;    /* header and body, without padding */
    uint8_t type;     /* enum kz_record_type */
    uint8_t flags;    /* of the type; for EVENT enum kz_event_flags */
    uint16_t project; /* 0 today; room for several projects in one log */
    uint64_t seq;     /* the place in the one order of arrival; dense, from 1 */
    int64_t at_ms;    /* our clock when it was written */
    uint64_t owner;   /* hash of the user's key (kz_owner_hash), 0 for none */
    kz_lsn prev;      /* the owner's record before it on the same chain, 0 for none */
    uint64_t key; /* what a sealed segment's filter answers for; for EVENT the dedupe key; or 0 */
};
_Static_assert(sizeof(struct kz_record) == 48, "on disk");

/* Borrowed from the record, whose size was checked. */
static inline struct kz_str kz_record_body(const struct kz_record *record)
{
    return kz_str_n(record + 1, record->size - sizeof(*record));
}

/* KZ_CHAIN_NONE also for a type that is not known. */
enum kz_chain kz_record_chain(enum kz_record_type type);
const char *kz_record_name(enum kz_record_type type); /* "event", ...; "unknown" */

/* The key of a user: 'u' or 'a' before the id, so that the two name spaces cannot meet. */
struct kz_user_key {
    char kind; /* 'u' user_id, 'a' anonymous_id */
    struct kz_str id;
};
/* The user as an event's sender gave it. */
static inline struct kz_user_key kz_event_key(const struct kz_event *event)
{
    if (event->user_id.size)
        return (struct kz_user_key){'u', event->user_id};
    return (struct kz_user_key){'a', event->anonymous_id};
}
/* XXH3 of kind and id; `attempt` > 0 is the next candidate after a collision in the user table. */
uint64_t kz_owner_hash(struct kz_user_key key, unsigned attempt);
/* What makes two events the same: the user as sent and the event_id. */
uint64_t kz_dedupe_key(struct kz_user_key as_sent, struct kz_str event_id);

/* A string inside a body. */
struct kz_span {
    uint32_t offset;
    uint32_t size;
};

/* The string, borrowed from `body`; KZ_STR_NULL where the span reaches beyond it. */
static inline struct kz_str kz_span_str(struct kz_str body, struct kz_span span)
{
    if ((uint64_t)span.offset + span.size > body.size)
        return KZ_STR_NULL;
    return kz_str_n(body.ptr + span.offset, span.size);
}

/* ---- EVENT ---------------------------------------------------------------------------------- */

/* Followed by column_count 8-byte cells, column_count type bytes (enum kz_type), then the strings.
 * A TEXT cell is a struct kz_span, which may point into props. */
struct kz_event_body {
    int64_t ts_ms;
    int64_t client_ts_ms;
    uint64_t session;
    uint32_t columns_id;
    uint16_t column_count;
    char sent_kind; /* 'u' or 'a': which id the client gave */
    uint8_t identity;
    struct kz_span event_id;
    struct kz_span user_id; /* as sent; empty when anonymous */
    struct kz_span anonymous_id;
    struct kz_span name;
    struct kz_span props; /* raw JSON object; empty means {} */
};
_Static_assert(sizeof(struct kz_event_body) == 72, "on disk");

/* received_at is the record's at_ms. Appends the encoded body to `out`. */
void kz_event_encode(const struct kz_event *event, struct kz_buf *out);
/* Fills all of `ret_event` but the columns from a record; the strings are borrowed from it. */
enum kz_code kz_event_decode(
        const struct kz_record *record, struct kz_event *ret_event, struct kz_err *err);
/* Column `index`, read in place; NULL value where the record has none. Text is borrowed. */
struct kz_value kz_event_column(const struct kz_record *record, unsigned index);

static inline const struct kz_event_body *kz_event_body(const struct kz_record *record)
{
    return (const struct kz_event_body *)(record + 1);
}

/* ---- LINK ----------------------------------------------------------------------------------- */

enum kz_link_kind {
    KZ_LINK_MERGE,    /* `from`'s history becomes `owner`'s from this seq on */
    KZ_LINK_REDIRECT, /* later events of `from` go to `owner`; its past stays where it was */
};

struct kz_link_body { /* the record's owner is the user linked to */
    uint64_t from_owner;
    uint8_t kind; /* enum kz_link_kind */
    char from_kind;
    char to_kind;
    uint8_t zero[5];
    struct kz_span from_id;
    struct kz_span to_id;
};
_Static_assert(sizeof(struct kz_link_body) == 32, "on disk");

/* ---- TRIGGER -------------------------------------------------------------------------------- */

/* What happened to one rule's state of one user. Both the live path and recovery change the state
 * only by applying these, so that recovery evaluates no SQL. */
enum kz_trigger_op {
    KZ_TRIGGER_WINDOW = 1, /* debounce: asked at once; a window is open until due */
    KZ_TRIGGER_PENDING,    /* debounce: within the window; ask at due about `event` */
    KZ_TRIGGER_DELAY,      /* delay: ask at due, restarted by each match */
    KZ_TRIGGER_CANCEL,     /* unless came first */
    KZ_TRIGGER_FIRE,       /* the timer was due; a REQUEST follows unless having did not hold */
    KZ_TRIGGER_COUNT,      /* count: one more hit at event_ts */
    KZ_TRIGGER_REACHED,    /* count: reached; not again before due */
};

struct kz_trigger_body {
    uint64_t rule; /* hash of the rule's name */
    uint8_t op;    /* enum kz_trigger_op */
    uint8_t zero[7];
    int64_t due_ms; /* on the event clock (ts) */
    int64_t event_ts_ms;
    kz_lsn event; /* the event it is about */
};
_Static_assert(sizeof(struct kz_trigger_body) == 40, "on disk");

/* ---- REQUEST and RESULT --------------------------------------------------------------------- */

struct kz_request_body {   /* the request's id is this record's seq; as-of is this record's lsn */
    uint64_t id_hash;      /* hash(project, user as sent, event_id, trigger, model, @now) */
    int64_t now_ms;        /* @now */
    int64_t trigger_ts_ms; /* the trigger event's ts */
    int64_t expires_ms;    /* our clock: when max_age is over; 0 never */
    kz_lsn event;          /* the trigger event */
    uint64_t event_seq;
    uint64_t session;
    int64_t first_seen_ms;
    struct kz_span model;
    struct kz_span trigger;
    struct kz_span user_id; /* of the user at that time, with its kind */
    struct kz_span event_id;
    char user_kind;
    uint8_t zero[7];
};
_Static_assert(sizeof(struct kz_request_body) == 104, "on disk");

/* How a request ended; each ends once. */
enum kz_request_end {
    KZ_END_DONE = 1,
    KZ_END_SUPERSEDED, /* a newer request for the same user and model overtook it in the queue */
    KZ_END_EXPIRED,    /* older than max_age */
    KZ_END_DROPPED,    /* by `requests drop` or because the model is gone */
    KZ_END_DEAD,       /* a dead letter holds the reason */
};
const char *kz_request_end_name(enum kz_request_end end); /* "done", ...; "unknown" */

/* Record flags of a RESULT. */
enum kz_result_flags {
    KZ_RESULT_HIDDEN = 1, /* the output is for other models, not for readers (embedding) */
};

struct kz_result_body {
    uint64_t request; /* seq of the REQUEST */
    kz_lsn request_lsn;
    uint8_t end; /* enum kz_request_end */
    uint8_t has_score;
    uint16_t feature_count;
    uint32_t attempt_count;
    double score;
    int64_t as_of_ms; /* @now of the request */
    int64_t computed_at_ms;
    int64_t expires_at_ms;  /* valid_for after computed_at */
    uint64_t features_hash; /* of the encoded row below; equal hashes, equal bits */
    uint64_t version_hash;  /* model, SQL, tables and engine it ran with */
    uint32_t queue_us;      /* waited for features */
    uint32_t features_us;
    uint32_t wait_us; /* waited for a replica */
    uint32_t model_us;
    struct kz_span model;
    struct kz_span version;
    struct kz_span user_id;
    struct kz_span event_id;
    struct kz_span output;   /* JSON */
    struct kz_span features; /* kz_row_encode()d values, names are the model's */
    struct kz_span error;    /* where end is DEAD: the reason's first line */
    char user_kind;
    uint8_t zero[7];
};
_Static_assert(sizeof(struct kz_result_body) == 152, "on disk");

/* ---- DECISION and DELIVERY ------------------------------------------------------------------ */

enum kz_decision {
    KZ_DECISION_DELIVER = 1,
    KZ_DECISION_SHADOW,   /* would have been delivered; mode: shadow */
    KZ_DECISION_HOLDOUT,  /* the user is in the control group */
    KZ_DECISION_CAPPED,   /* a cap was full */
    KZ_DECISION_SCHEDULE, /* outside the schedule */
    KZ_DECISION_PAUSED,
};
const char *kz_decision_name(enum kz_decision decision); /* "deliver", ...; "unknown" */

struct kz_decision_body { /* the delivery's idempotency key is made of this record's seq */
    uint64_t request;     /* seq of the REQUEST whose result led here */
    uint64_t action;      /* hash of the action's name */
    uint8_t decision;     /* enum kz_decision */
    uint8_t kind;         /* enum kz_deliver_kind of contract/project.h */
    uint8_t zero[6];
    int64_t expires_at_ms; /* our clock; a web delivery is not shown after it */
    struct kz_span action_name;
    struct kz_span model;
    struct kz_span user_id;
    struct kz_span event_id;
    struct kz_span payload; /* JSON as it is delivered; empty unless DELIVER or SHADOW */
    char user_kind;
    uint8_t zero2[7];
};
_Static_assert(sizeof(struct kz_decision_body) == 80, "on disk");

enum kz_delivery_state {
    KZ_DELIVERY_SHOWN = 1, /* web: acknowledged by the page */
    KZ_DELIVERY_SENT,      /* webhook: answered 2xx */
    KZ_DELIVERY_FAILED,    /* an attempt failed; another follows at retry_at */
    KZ_DELIVERY_GAVE_UP,   /* a dead letter holds it */
    KZ_DELIVERY_EXPIRED,
};

struct kz_delivery_body {
    uint64_t decision; /* seq of the DECISION */
    kz_lsn decision_lsn;
    uint8_t state; /* enum kz_delivery_state */
    uint8_t zero[3];
    uint32_t attempt_count;
    int64_t retry_at_ms;
    struct kz_span detail; /* HTTP status or error text */
};
_Static_assert(sizeof(struct kz_delivery_body) == 40, "on disk");

/* ---- DEADLETTER, ERASE, CONTROL ------------------------------------------------------------- */

/* Where a thing was given up; also the stages of traces and metrics. */
#define KZ_STAGES(X)                                                                               \
    X(COLLECT, "collect")                                                                          \
    X(SHAPE, "shape")                                                                              \
    X(LOG, "log")                                                                                  \
    X(TRIGGER, "trigger")                                                                          \
    X(FEATURES, "features")                                                                        \
    X(INFER, "infer")                                                                              \
    X(PREDICT, "predict")                                                                          \
    X(ACT, "act")                                                                                  \
    X(DELIVER, "deliver")
enum kz_stage {
#define X(name, text) KZ_STAGE_##name,
    KZ_STAGES(X)
#undef X
            KZ_STAGE_COUNT
};
const char *kz_stage_name(enum kz_stage stage); /* "collect", ...; "unknown" */

struct kz_deadletter_body { /* its id is the record's seq; owner may be set for erasure */
    uint8_t stage;          /* enum kz_stage */
    uint8_t zero[7];
    uint64_t ref;          /* seq of the request or decision it is about, or 0 */
    struct kz_span code;   /* short, stable: "bad_json", "exception", "timeout" */
    struct kz_span reason; /* may hold a traceback */
    struct kz_span model;
    struct kz_span payload; /* what came in, or the features */
};
_Static_assert(sizeof(struct kz_deadletter_body) == 48, "on disk");

enum kz_erase_what {
    KZ_ERASE_ASKED = 0,
    KZ_ERASE_DONE = 1, /* carried out */
    KZ_ERASE_AGAIN =
            2, /* asked for at `asked_ms`, which this log, from an older backup, does not know */
    KZ_ERASE_ID = 3, /* an id that goes with the user of the word before it: its tombstone only */
};

struct kz_erase_body {
    uint64_t id_hash; /* SHA-256's first 8 bytes over the salted user key: the tombstone */
    uint8_t what;     /* enum kz_erase_what */
    uint8_t zero[7];
    union {
        uint64_t erasure; /* DONE: seq of the asking ERASE */
        int64_t asked_ms; /* AGAIN, ID */
    };
    uint32_t owner_count; /* owners that go, as uint64_t behind this struct */
    uint32_t zero2;
};
_Static_assert(sizeof(struct kz_erase_body) == 32, "on disk");

struct kz_control_body {
    struct kz_span
            verb; /* "pause-model", "resume-action", "drop-requests", "drop-deadletter" ... */
    struct kz_span object; /* the name it is about */
    struct kz_span who;    /* the key's name, or "local" */
};
_Static_assert(sizeof(struct kz_control_body) == 24, "on disk");

/* ---- COPY ------------------------------------------------------------------------------------ */

/* Followed by the whole record that was at `from`. Its owner is whose state points to it (the record
 * itself may be that of an id merged into them). A reader's get() gives the record itself. */
struct kz_copy_body {
    kz_lsn from; /* the record's address before: the first one or that of an older copy */
};
_Static_assert(sizeof(struct kz_copy_body) == 8, "on disk");

/* The record that a checked COPY holds; any other is itself. Borrowed. */
static inline const struct kz_record *kz_record_original(const struct kz_record *record)
{
    if (record->type != KZ_RECORD_COPY)
        return record;
    return (const struct kz_record *)((const char *)(record + 1) + sizeof(struct kz_copy_body));
}

/* ---- writing bodies ------------------------------------------------------------------------- */

/* Builds a body: the fixed struct first, then strings. kz_body_span() appends the string and sets
 * the span; `fixed` must be the address returned by kz_body_begin() at that time, so set spans by
 * member offset: kz_body_span(&w, offsetof(struct kz_link_body, from_id), id). */
struct kz_body_writer {
    struct kz_buf *out;
    size_t start;
};
struct kz_body_writer kz_body_begin(struct kz_buf *out, const void *fixed, size_t fixed_size);
void kz_body_span(struct kz_body_writer *w, size_t member_offset, struct kz_str s);

/* Checks type, sizes and every span of a record's body; what fsck and dump rely on. */
enum kz_code kz_record_check(const struct kz_record *record, struct kz_err *err);
/* One line of JSON about the record, for `dump` (values of users included). */
void kz_record_dump(const struct kz_record *record, kz_lsn lsn, struct kz_buf *out);

/* A row of values as bytes: u16 count, then type byte and 8 bytes or u32 size and text each. The
 * bytes are a function of the values alone, so hashes of rows can be compared. */
void kz_row_encode(const struct kz_value *values, size_t count, struct kz_buf *out);
/* Back again; texts are borrowed from `bytes`. KZ_CORRUPT where they are no row, KZ_TOO_LARGE where it has
 * more than `count_max` values. */
enum kz_code kz_row_decode(struct kz_str bytes, struct kz_value *values, size_t count_max,
        size_t *ret_count, struct kz_err *err);
