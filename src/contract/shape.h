/* contract/shape.h -- turning what comes in into events, as collect, the commands and a bus ask.
 *
 * The shape stage implements it. It reads text once, strictly, and fills intake items; what is
 * wrong with one event becomes that item's rejection (code, message, payload), what is wrong with
 * the whole text is the call's failure.
 *
 * Owner    items and whatever had to be unescaped or composed live in the caller's arena, the rest
 *          is borrowed from the text: both must outlive the items.
 * Threads  a shaper is read-only after kz_shaper_new(): any thread, each with its own arena.
 * Fails    KZ_INVALID (the text as a whole, with the byte offset), KZ_TOO_LARGE (more events than a
 *          request may hold, or an arena that is full).
 *
 * An item's `columns` are allocated up to event.column_count only: never copy an item by value.
 */
#pragma once

#include "base/arena.h"
#include "contract/intake.h"
#include "contract/project.h"

enum {
    KZ_SHAPE_ITEMS_MAX = 10000, /* events in one text */
    KZ_SHAPE_DEPTH_MAX = 32,    /* brackets open within one event */
};

struct kz_shaper;

/* `project` is borrowed. Columns whose path is $.name are the fast ones. */
struct kz_shaper *kz_shaper_new(const struct kz_project *project);
void kz_shaper_free(struct kz_shaper *shaper);
KZ_DEFINE_FREEP(struct kz_shaper, kz_shaper_free)

struct kz_shape_input {
    struct kz_str text;
    struct kz_arena *arena;
    int64_t received_at_ms; /* our clock, for the correction by sentAt */
};

struct kz_shaped {
    struct kz_intake_item **items;
    size_t item_count;
    size_t rejected_count;
    bool single;             /* the text was one event, not a list of them */
    struct kz_str write_key; /* calls: the body's writeKey, or empty */
    struct kz_str
            ignored[8]; /* our own format: unknown fields that were met, raw names in quotes */
    size_t ignored_count;
};

/* Our own format: one object, an array of them, or NDJSON; which of them, the text says:
 * {"event_id"?, "user_id" or "anonymous_id", "name", "ts"?, "props"?}. A line of NDJSON that is no
 * JSON is rejected alone; in an array or object that fails the call. */
KZ_MUST_USE enum kz_code kz_shape_events(const struct kz_shaper *shaper,
        const struct kz_shape_input *input, struct kz_shaped *ret, struct kz_err *err);

/* What collect made of events, one after the other (contract/message.h): items as they were there, received_at
 * and identity included; what it had rejected is rejected. KZ_INVALID where anything of it is not what collect
 * writes. */
KZ_MUST_USE enum kz_code kz_shape_collected(const struct kz_shaper *shaper,
        const struct kz_shape_input *input, struct kz_shaped *ret, struct kz_err *err);

enum kz_call {
    KZ_CALL_BATCH, /* {"batch": [calls with a "type"], "sentAt"?} */
    KZ_CALL_TRACK,
    KZ_CALL_PAGE,
    KZ_CALL_SCREEN,
    KZ_CALL_IDENTIFY,
    KZ_CALL_GROUP,
    KZ_CALL_ALIAS,
};

/* The Segment and RudderStack clients' calls. */
KZ_MUST_USE enum kz_code kz_shape_calls(const struct kz_shaper *shaper, enum kz_call call,
        const struct kz_shape_input *input, struct kz_shaped *ret, struct kz_err *err);

/* One rejected item that keeps `payload`: for text that could not be read as a whole. */
KZ_MUST_USE enum kz_code kz_shape_rejected(struct kz_arena *arena, const char *code,
        struct kz_str message, struct kz_str payload, struct kz_intake_item **ret_item,
        struct kz_err *err);
/* Rejects an item after shaping, e.g. for a name its key may not send. The message is clipped. */
void kz_shape_reject(struct kz_arena *arena, struct kz_intake_item *item, const char *code,
        struct kz_str payload, const char *fmt, ...) KZ_PRINTF(5, 6);
