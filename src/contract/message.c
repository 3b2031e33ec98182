#include "contract/message.h"

#include <stdio.h>

#include "codec/crc32c.h"
#include "codec/json_out.h"

/* ---- lanes ---------------------------------------------------------------------------------- */

void kz_lane_name(uint64_t hash, char out[KZ_LANE_BYTES])
{
    snprintf(out, KZ_LANE_BYTES, "lane-%03u", (unsigned)(hash % KZ_LANE_COUNT));
}

struct kz_str kz_attribute_get(
        const struct kz_attribute *attributes, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (kz_str_is(attributes[i].name, name))
            return attributes[i].value;
    return KZ_STR_NULL;
}

/* ---- EVENTS --------------------------------------------------------------------------------- */

static void put_text(struct kz_json_out *out, const char *name, struct kz_str text)
{
    if (text.size)
        kz_json_out_kv_str(out, name, text);
}

static void put_rejected(const struct kz_intake_item *item, struct kz_json_out *out)
{
    kz_json_out_kv_cstr(out, "rejected", item->code);
    kz_json_out_kv_str(out, "message", item->message);
    kz_json_out_kv_str(out, "payload", item->payload);
    put_text(out, "user_id", item->event.user_id);
    put_text(out, "anonymous_id", item->event.anonymous_id);
}

static void put_event(const struct kz_event *event, struct kz_json_out *out)
{
    put_text(out, "event_id", event->event_id);
    put_text(out, "user_id", event->user_id);
    put_text(out, "anonymous_id", event->anonymous_id);
    kz_json_out_kv_str(out, "name", event->name);
    if (event->client_ts_ms)
        kz_json_out_kv_i64(out, "ts", event->client_ts_ms);
    if (event->props.size)
        kz_json_out_kv_raw(out, "props", event->props);
    if (event->identity != KZ_IDENTITY_NONE)
        kz_json_out_kv_cstr(
                out, "identity", event->identity == KZ_IDENTITY_ALIAS ? "alias" : "identify");
    if (event->flags & KZ_EVENT_ID_MADE)
        kz_json_out_kv_bool(out, "made", true);
    if (event->flags & KZ_EVENT_ACTION)
        kz_json_out_kv_bool(out, "action", true);
}

void kz_message_put_item(const struct kz_intake_item *item, struct kz_buf *buf)
{
    struct kz_json_out out = kz_json_out(buf);

    kz_json_out_object(&out);
    if (item->state == KZ_INTAKE_REJECTED)
        put_rejected(item, &out);
    else
        put_event(&item->event, &out);
    put_text(&out, "awaited", item->awaited);
    kz_json_out_kv_i64(&out, "received_at", item->event.received_at_ms);
    kz_json_out_object_end(&out);
    kz_buf_char(buf, '\n');
}

/* ---- REQUESTS ------------------------------------------------------------------------------- */

enum { REQUEST_MAGIC = 0x71727a6b /* "kzrq" */, REQUEST_VERSION = 1 };

/* Followed by the sources, then the record. */
struct request_head {
    uint32_t magic;
    uint16_t version;
    uint16_t source_count;
    uint32_t size; /* of everything */
    uint32_t crc;  /* CRC-32C of everything, itself 0 */
    uint64_t owner;
    kz_lsn lsn;
    kz_lsn previous;
};
_Static_assert(sizeof(struct request_head) == 40, "on the wire");
_Static_assert(sizeof(struct kz_source) == 16, "on the wire");

void kz_request_message_encode(const struct kz_request_message *message, struct kz_buf *out)
{
    size_t start = out->size, sources = message->source_count * sizeof(message->sources[0]);
    struct request_head head = {
            .magic = REQUEST_MAGIC,
            .version = REQUEST_VERSION,
            .source_count = (uint16_t)message->source_count,
            .size = (uint32_t)(sizeof(head) + sources + message->record->size),
            .owner = message->owner,
            .lsn = message->lsn,
            .previous = message->previous,
    };

    kz_buf_put(out, &head, sizeof(head));
    kz_buf_put(out, message->sources, sources);
    kz_buf_put(out, message->record, message->record->size);
    head.crc = kz_crc32c(0, out->data + start, head.size);
    memcpy(out->data + start, &head, sizeof(head));
}

static enum kz_code check_head(struct kz_str bytes, struct request_head *ret, struct kz_err *err)
{
    struct request_head head;
    uint32_t crc;

    if (bytes.size < sizeof(head))
        return kz_fail(err, KZ_CORRUPT, "a request's message has only %zu bytes", bytes.size);
    memcpy(&head, bytes.ptr, sizeof(head));
    if (head.magic != REQUEST_MAGIC)
        return kz_fail(err, KZ_CORRUPT, "a message of %zu bytes is no request", bytes.size);
    if (head.version != REQUEST_VERSION)
        return kz_fail(err, KZ_UNSUPPORTED,
                "a request's message has version %u, this build reads %d", head.version,
                REQUEST_VERSION);
    if (head.size != bytes.size)
        return kz_fail(err, KZ_CORRUPT, "a request's message has %zu bytes and says %u", bytes.size,
                head.size);
    crc = head.crc;
    head.crc = 0;
    if (kz_crc32c(kz_crc32c(0, &head, sizeof(head)), bytes.ptr + sizeof(head),
                bytes.size - sizeof(head)) != crc)
        return kz_fail(err, KZ_CORRUPT, "a request's message fails its checksum");
    if (!head.owner || !head.lsn || !head.source_count || head.source_count > KZ_SOURCES_MAX ||
            bytes.size < sizeof(head) + head.source_count * sizeof(struct kz_source) +
                                 sizeof(struct kz_record))
        return kz_fail(err, KZ_CORRUPT, "a request's message of %zu bytes has %u sources",
                bytes.size, head.source_count);
    *ret = head;
    return KZ_OK;
}

static enum kz_code check_record(
        const struct kz_record *record, size_t size, uint64_t owner, struct kz_err *err)
{
    struct kz_str bytes;
    const struct kz_request_body *body;

    if (record->size != size)
        return kz_fail(err, KZ_CORRUPT, "a request's record has %zu bytes and says %u", size,
                record->size);
    KZ_TRY(kz_record_check(record, err));
    bytes = kz_record_body(record);
    body = (const void *)bytes.ptr;
    if (record->type != KZ_RECORD_REQUEST || record->owner != owner || !record->seq)
        return kz_fail(err, KZ_CORRUPT, "a request's message holds a %s of owner %016llx",
                kz_record_name(record->type), (unsigned long long)record->owner);
    if (body->user_id.size > KZ_ID_SIZE_MAX || body->event_id.size > KZ_ID_SIZE_MAX ||
            (body->user_kind != 'u' && body->user_kind != 'a'))
        return kz_fail(err, KZ_CORRUPT, "a request's message has ids that cannot be");
    return KZ_OK;
}

enum kz_code kz_request_message_decode(struct kz_str bytes, struct kz_buf *hold,
        struct kz_request_message *ret_message, struct kz_err *err)
{
    struct request_head head = {0};
    struct kz_request_message message;
    size_t sources;

    KZ_TRY(check_head(bytes, &head, err));
    sources = head.source_count * sizeof(struct kz_source);
    message = (struct kz_request_message){.owner = head.owner,
            .lsn = head.lsn,
            .previous = head.previous,
            .source_count = head.source_count};
    memcpy(message.sources, bytes.ptr + sizeof(head), sources);
    bytes.ptr += sizeof(head) + sources;
    bytes.size -= sizeof(head) + sources;
    kz_buf_clear(hold);
    kz_buf_str(hold, bytes); /* aligned there */
    message.record = (const struct kz_record *)(void *)hold->data;
    KZ_TRY(check_record(message.record, bytes.size, head.owner, err));
    if (message.sources[0].owner != head.owner)
        return kz_fail(err, KZ_CORRUPT, "a request's own run is not its first source");
    *ret_message = message;
    return KZ_OK;
}

struct kz_str kz_request_message_model(const struct kz_request_message *message)
{
    struct kz_str bytes = kz_record_body(message->record);

    return kz_span_str(bytes, ((const struct kz_request_body *)(const void *)bytes.ptr)->model);
}
