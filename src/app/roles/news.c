#include "app/roles/news.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/crc32c.h"
#include "codec/json.h"
#include "codec/json_out.h"
#include "contract/message.h"

enum { NEWS_MAGIC = 0x77707a6b /* "kzpw" */, NEWS_VERSION = 1 };

/* Followed by the record. */
struct head {
    uint32_t magic;
    uint16_t version;
    uint16_t zero;
    uint32_t size; /* of everything */
    uint32_t crc;  /* CRC-32C of everything, itself 0 */
};
_Static_assert(sizeof(struct head) == 16, "on the wire");

static const struct kz_decision_body *decision_of(const struct kz_record *record)
{
    return (const void *)kz_record_body(record).ptr;
}

const char *kz_news_kind_of(const struct kz_record *record)
{
    if (record->type == KZ_RECORD_RESULT) {
        const struct kz_result_body *body = (const void *)kz_record_body(record).ptr;

        return body->end == KZ_END_DONE ? "prediction" : "end";
    }
    if (record->type != KZ_RECORD_DECISION || decision_of(record)->decision != KZ_DECISION_DELIVER)
        return NULL;
    if (decision_of(record)->kind == KZ_DELIVER_WEBHOOK)
        return "webhook";
    return decision_of(record)->kind == KZ_DELIVER_WEB ? "action" : NULL;
}

void kz_news_encode(const struct kz_record *record, struct kz_buf *out)
{
    size_t start = out->size;
    struct head head = {.magic = NEWS_MAGIC,
            .version = NEWS_VERSION,
            .size = (uint32_t)(sizeof(head) + record->size)};

    kz_buf_put(out, &head, sizeof(head));
    kz_buf_put(out, record, record->size);
    head.crc = kz_crc32c(0, out->data + start, head.size);
    memcpy(out->data + start, &head, sizeof(head));
}

enum kz_code kz_news_decode(struct kz_str bytes, struct kz_buf *hold,
        const struct kz_record **ret_record, struct kz_err *err)
{
    const struct kz_record *record;
    struct head head;
    uint32_t crc;

    if (bytes.size < sizeof(head) + sizeof(struct kz_record))
        return kz_fail(err, KZ_CORRUPT, "a piece of news has only %zu bytes", bytes.size);
    memcpy(&head, bytes.ptr, sizeof(head));
    if (head.magic != NEWS_MAGIC)
        return kz_fail(err, KZ_CORRUPT, "a message of %zu bytes is no news", bytes.size);
    if (head.version != NEWS_VERSION)
        return kz_fail(err, KZ_UNSUPPORTED, "a piece of news has version %u, this build reads %d",
                head.version, NEWS_VERSION);
    crc = head.crc;
    head.crc = 0;
    if (head.zero || head.size != bytes.size ||
            kz_crc32c(kz_crc32c(0, &head, sizeof(head)), bytes.ptr + sizeof(head),
                    bytes.size - sizeof(head)) != crc)
        return kz_fail(err, KZ_CORRUPT, "a piece of news fails its checksum");
    kz_buf_clear(hold);
    kz_buf_put(hold, bytes.ptr + sizeof(head), bytes.size - sizeof(head)); /* aligned there */
    record = (const void *)hold->data;
    if (record->size != hold->size ||
            (record->type != KZ_RECORD_RESULT && record->type != KZ_RECORD_DECISION))
        return kz_fail(err, KZ_CORRUPT, "a piece of news holds a %s", kz_record_name(record->type));
    KZ_TRY(kz_record_check(record, err));
    *ret_record = record;
    return KZ_OK;
}

/* ---- what was not asked ------------------------------------------------------------------------- */

bool kz_unasked_put(
        const struct kz_project *project, const char *const *reasons, struct kz_buf *buf)
{
    struct kz_json_out out = kz_json_out(buf);
    bool some = false;

    for (size_t m = 0; m < project->model_count; m++)
        some = some || reasons[m];
    if (!some)
        return false;
    kz_json_out_object(&out);
    for (size_t m = 0; m < project->model_count; m++)
        if (reasons[m])
            kz_json_out_kv_cstr(&out, project->models[m].name, reasons[m]);
    kz_json_out_object_end(&out);
    return true;
}

enum kz_code kz_unasked_read(struct kz_str text, const struct kz_project *project,
        const char **ret_reasons, struct kz_err *err)
{
    static const char *const reasons[] = {"not_triggered", "debounced", "delayed"};
    struct kz_json_value root, name, reason;
    struct kz_json_walk walk;

    KZ_TRY(kz_json_parse(text, 1, &root, err));
    if (root.kind != KZ_JSON_OBJECT)
        return kz_fail(err, KZ_INVALID, "what was not asked is %s", kz_json_kind_name(root.kind));
    memset(ret_reasons, 0, project->model_count * sizeof(*ret_reasons));
    walk = kz_json_walk(root);
    while (kz_json_walk_member(&walk, &name, &reason))
        for (size_t m = 0; m < project->model_count; m++)
            for (size_t i = 0;
                    kz_json_is(name, project->models[m].name) && i < KZ_ARRAY_COUNT(reasons); i++)
                if (kz_json_is(reason, reasons[i]))
                    ret_reasons[m] = reasons[i];
    return KZ_OK;
}

/* ---- deliveries --------------------------------------------------------------------------------- */

void kz_delivery_key(const struct kz_project *project, uint64_t owner, uint64_t decision,
        char out[KZ_DELIVERY_KEY_BYTES])
{
    snprintf(out, KZ_DELIVERY_KEY_BYTES, "kz-%.100s-%016" PRIx64 "-%" PRIu64, project->name, owner,
            decision);
}

/* ---- what an action did -------------------------------------------------------------------------- */

const char *kz_action_event_what(const struct kz_record *decision)
{
    switch ((enum kz_decision)decision_of(decision)->decision) {
    case KZ_DECISION_DELIVER:
        return "delivered";
    case KZ_DECISION_SHADOW:
        return "shadowed";
    case KZ_DECISION_HOLDOUT:
        return "held_out";
    case KZ_DECISION_CAPPED:
    case KZ_DECISION_SCHEDULE:
    case KZ_DECISION_PAUSED:
        break;
    }
    return NULL;
}

void kz_action_event_put(const struct kz_project *project, const struct kz_record *decision,
        const char *what, int64_t at_ms, struct kz_buf *out)
{
    struct kz_str bytes = kz_record_body(decision);
    const struct kz_decision_body *body = decision_of(decision);
    struct kz_intake_item *item = kz_calloc(1, sizeof(*item));
    char name[64], id[64], event_id[80];
    struct kz_buf props = {0};
    struct kz_json_out json = kz_json_out(&props);

    snprintf(name, sizeof(name), "kizashi.action_%s", what);
    snprintf(id, sizeof(id), "%" PRIu64, decision->seq);
    snprintf(event_id, sizeof(event_id), "action-%" PRIu64 "-%s", decision->seq, what);
    kz_json_out_object(&json);
    kz_json_out_kv_str(&json, "action", kz_span_str(bytes, body->action_name));
    kz_json_out_kv_cstr(&json, "action_id", id);
    kz_json_out_object_end(&json);
    item->event.event_id = kz_str(event_id);
    item->event.name = kz_str(name);
    item->event.props = kz_buf_view(&props);
    if (body->user_kind == 'u')
        item->event.user_id = kz_span_str(bytes, body->user_id);
    else
        item->event.anonymous_id = kz_span_str(bytes, body->user_id);
    item->event.received_at_ms = at_ms;
    item->event.flags = KZ_EVENT_ACTION;
    item->event.columns_id = project->events.columns_id;
    kz_message_put_item(item, out);
    kz_buf_done(&props);
    free(item);
}

bool kz_asked_has(struct kz_str asked, const char *model)
{
    size_t size = strlen(model);

    for (size_t i = 0; i + size + 2 <= asked.size; i++)
        if (asked.ptr[i] == ',' && memcmp(asked.ptr + i + 1, model, size) == 0 &&
                asked.ptr[i + 1 + size] == ',')
            return true;
    return false;
}
