#include "act/delivery.h"

#include <inttypes.h>
#include <stdio.h>

#include "codec/json_out.h"

void kz_delivery_json(const struct kz_record *decision, struct kz_buf *out)
{
    struct kz_str bytes = kz_record_body(decision);
    const struct kz_decision_body *body = (const void *)bytes.ptr;
    struct kz_json_out json = kz_json_out(out);
    char id[24];

    snprintf(id, sizeof(id), "%" PRIu64, decision->seq);
    kz_json_out_object(&json);
    kz_json_out_kv_str(&json, "action", kz_span_str(bytes, body->action_name));
    kz_json_out_kv_cstr(&json, "action_id", id);
    kz_json_out_kv_str(&json, body->user_kind == 'a' ? "anonymous_id" : "user_id",
            kz_span_str(bytes, body->user_id));
    kz_json_out_kv_str(&json, "model", kz_span_str(bytes, body->model));
    kz_json_out_kv_str(&json, "event_id", kz_span_str(bytes, body->event_id));
    kz_json_out_kv_i64(&json, "decided_at", decision->at_ms);
    kz_json_out_kv_i64(&json, "expires_at", body->expires_at_ms);
    kz_json_out_kv_raw(&json, "payload", kz_span_str(bytes, body->payload));
    kz_json_out_object_end(&json);
}
