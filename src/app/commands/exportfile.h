/* app/commands/exportfile.h -- what `kizashi export` writes and `kizashi import` reads back: a history as NDJSON,
 * so that a deployment of roles has it bit for bit as one machine had it, or the other way round.
 *
 *     {"kizashi_export":1,"project":"shop","after":0}
 *     {"kizashi_erased":"8f14e45fceea167a","at":1767225600000}          who must not come back
 *     {"kizashi_user":{"user_id":"ada","first_seen":1767225600000}}     known from before the first event here
 *     {"kizashi_user":{"anonymous_id":"x","first_seen":...,"to":{"user_id":"ada"},"merged":true}}
 *     {"event_id":"e1","user_id":"ada","name":"view","ts":1767225600000,"props":{...},"received_at":1767225600123}
 *     {"kizashi_export_end":7,"seq":42}                                 events in it; without it, it is cut
 *
 * An event is what POST /v1/events takes and what contract/message.h adds to it, in order of arrival. `ts`
 * is the time as it was held; "client_ts" is there where the client said another (null: said nothing),
 * "imported":true where the event was history already.
 *
 * Threads  pure.
 * Fails    KZ_INVALID: a line that is none of these. What comes in is checked like any foreign bytes.
 */
#pragma once

#include "contract/record.h"
#include "contract/shape.h"

enum kz_export_kind {
    KZ_EXPORT_HEAD,
    KZ_EXPORT_ERASED,
    KZ_EXPORT_USER,
    KZ_EXPORT_EVENT,
    KZ_EXPORT_END,
};

struct kz_export_line {
    enum kz_export_kind kind;
    struct kz_str project;   /* HEAD */
    uint64_t stone;          /* ERASED: the id's hash */
    int64_t at_ms;           /* ERASED: when it was asked for */
    struct kz_user_key user; /* USER */
    int64_t first_seen_ms;   /* USER */
    struct kz_user_key to;   /* USER: whom their events go to; empty: themselves */
    bool merged;             /* USER: `to` has their history */
    uint64_t event_count;    /* END */
    uint64_t seq;            /* HEAD: exported is what came after it; END: of the last event */
};

/* Each appends a line. */
void kz_export_put(const struct kz_export_line *line, struct kz_buf *out); /* any kind but EVENT */
KZ_MUST_USE enum kz_code kz_export_put_event(
        const struct kz_record *record, struct kz_buf *out, struct kz_err *err);

/* Whether a file begins like an export. */
bool kz_export_is(struct kz_str text);
/* A line without its end. Strings are borrowed from it or in the arena. */
KZ_MUST_USE enum kz_code kz_export_read(struct kz_str line, struct kz_arena *arena,
        struct kz_export_line *ret_line, struct kz_err *err);
/* Lines of events, one after the other, as items: times and flags as they were. `text` has to outlive
 * them. */
KZ_MUST_USE enum kz_code kz_export_shape(const struct kz_shaper *shaper,
        const struct kz_shape_input *input, struct kz_shaped *ret, struct kz_err *err);
