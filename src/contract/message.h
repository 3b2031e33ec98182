/* contract/message.h -- what roles say to each other over a bus (contract/bus.h).
 *
 * EVENTS, from collect to process. Attribute kizashi-format=1: JSON objects one after the other,
 * each an event as POST /v1/events takes it and what collect knows besides:
 *
 *     {"event_id":"e1","user_id":"ada","name":"view","ts":1767225600000,"props":{"price":3},
 *      "received_at":1767225600123}
 *
 * `ts` is the client's clock, corrected; "anonymous_id" where it was sent; "identity" ("identify"
 * or "alias") where the event asks for a link; "made":true where the event_id is ours;
 * "action":true of what an action did; "awaited":"..." where a client of collect waits (?wait=): with
 * these words process says which models it did not ask (app/roles/news.h). A payload that was refused goes the same way, to become a
 * dead letter: {"rejected":"bad_name","message":"...","payload":"...","received_at":...} with the
 * ids it had. kz_shape_collected() (contract/shape.h) reads it. Without the attribute a message is
 * a foreign publisher's: what POST /v1/events takes.
 *
 * REQUESTS, from process (and infer, for models that come after others) to infer: one request a
 * message, binary, below. Attribute model=NAME, so that a model may have a subscription of its own.
 *
 * A message's ordering key is its user's lane.
 *
 * Threads  pure.
 * Fails    KZ_CORRUPT, KZ_UNSUPPORTED (a newer version): what came in is checked like any foreign
 *          bytes.
 */
#pragma once

#include "contract/bus.h"
#include "contract/history.h"
#include "contract/intake.h"

#define KZ_ATTRIBUTE_FORMAT "kizashi-format"       /* of EVENTS: "1" */
#define KZ_ATTRIBUTE_WATERMARK "kizashi-watermark" /* of EVENTS, tests: no event before these ms */
#define KZ_ATTRIBUTE_MODEL "model"                 /* of REQUESTS */
#define KZ_ATTRIBUTE_REASON "reason"               /* of DEAD: why, in words */
#define KZ_ATTRIBUTE_CODE "code"                   /* of DEAD: why, short and stable */
#define KZ_ATTRIBUTE_TOPIC "topic"                 /* of DEAD: where it came from, "events" */

/* ---- lanes ---------------------------------------------------------------------------------- */

/* One publish call carries one key, and a key takes about 1 MB a second: with many more lanes
 * nearly every event would be a call of its own, with many fewer they would not carry a project. */
enum { KZ_LANE_COUNT = 128, KZ_LANE_BYTES = sizeof("lane-127") };
/* "lane-042". Of EVENTS by the hash of who sent it (kz_owner_hash(as sent, 0)), of REQUESTS by
 * the owner. */
void kz_lane_name(uint64_t hash, char out[KZ_LANE_BYTES]);

/* The value of a message's attribute; empty where it has none. */
struct kz_str kz_attribute_get(
        const struct kz_attribute *attributes, size_t count, const char *name);

/* ---- EVENTS --------------------------------------------------------------------------------- */

/* Appends an item as a line. `received_at_ms` of its event must be set. */
void kz_message_put_item(const struct kz_intake_item *item, struct kz_buf *out);

/* ---- REQUESTS ------------------------------------------------------------------------------- */

/* All that is needed to read the history of a request: the runs of records that are its user's, as
 * of it. */
struct kz_request_message {
    uint64_t owner;  /* whose request it is: the record's owner */
    kz_lsn lsn;      /* the record's address; what the model may see ends there */
    kz_lsn previous; /* the owner's REQUEST before it; 0: none, or not known. On virtual time a
                      * user's
                      * requests are decided in this order, whoever takes them */
    const struct kz_record *record;           /* REQUEST */
    struct kz_source sources[KZ_SOURCES_MAX]; /* of events; the owner's own run first */
    size_t source_count;
};

/* Appends the message's bytes. */
void kz_request_message_encode(const struct kz_request_message *message, struct kz_buf *out);
/* `record` lies in `hold` (cleared first), whatever becomes of `bytes`. The record was checked; it
 * is a REQUEST whose ids are of a size that ids may have. */
KZ_MUST_USE enum kz_code kz_request_message_decode(struct kz_str bytes, struct kz_buf *hold,
        struct kz_request_message *ret_message, struct kz_err *err);
/* The name of the model that is asked. Borrowed from the record. */
struct kz_str kz_request_message_model(const struct kz_request_message *message);
