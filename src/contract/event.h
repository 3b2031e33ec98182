/* contract/event.h -- the canonical event, and the values in its typed columns.
 *
 * An event is borrowed bytes: its strings point into a request's body, an arena or a log record,
 * whoever hands it over says for how long.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

enum {
    KZ_ID_SIZE_MAX = 256,   /* user, anonymous and event ids, bytes */
    KZ_NAME_SIZE_MAX = 128, /* event names */
    KZ_PROPS_SIZE_MAX = 1 << 20,
    KZ_COLUMNS_MAX = 64,
};

enum kz_type { KZ_TYPE_NULL, KZ_TYPE_INT, KZ_TYPE_FLOAT, KZ_TYPE_BOOL, KZ_TYPE_TEXT };

/* A SQL value. TEXT is UTF-8 and borrowed. BOOL is kept in `integer` as 0 or 1. */
struct kz_value {
    enum kz_type type;
    union {
        int64_t integer;
        double real;
        struct kz_str text;
    };
};

enum kz_event_flags {
    KZ_EVENT_ACTION = 1, /* written by Kizashi about an action; hidden unless include: [actions] */
    KZ_EVENT_IMPORTED = 2, /* history from before; caused no trigger */
    KZ_EVENT_CLAMPED = 4,  /* its client clock was outside the permitted range */
    KZ_EVENT_ID_MADE = 8,  /* the event_id is ours; the client sent none */
    KZ_EVENT_TIMED = 256,  /* of an export: it keeps the times it comes with; not in records */
};

/* What an event asks of the identity view besides being stored (DESIGN.md section 2). */
enum kz_identity_op {
    KZ_IDENTITY_NONE,
    KZ_IDENTITY_IDENTIFY, /* anonymous_id belongs to user_id from here on */
    KZ_IDENTITY_ALIAS,    /* previous id (in anonymous_id) becomes user_id */
};

struct kz_event {
    struct kz_str event_id;     /* empty: one is made up */
    struct kz_str user_id;      /* as sent; empty for an anonymous visitor */
    struct kz_str anonymous_id; /* as sent; may come with user_id */
    struct kz_str name;
    struct kz_str props;    /* one JSON object, as text; empty means {} */
    int64_t client_ts_ms;   /* what the client claims, corrected by sentAt; 0: none */
    int64_t received_at_ms; /* ours */
    int64_t ts_ms;          /* client_ts held to the permitted range; set by the pipeline */
    uint64_t seq;           /* set by the log */
    uint64_t session;       /* the seq of the session's first event; set by the pipeline */
    uint32_t flags;         /* enum kz_event_flags */
    enum kz_identity_op identity;
    uint32_t columns_id; /* fingerprint of the column definitions `columns` follows */
    uint16_t column_count;
    const struct kz_value *columns;
};
