#include "contract/query.h"

#include <inttypes.h>

enum kz_code kz_prediction_decode(
        const struct kz_record *record, struct kz_prediction *ret, struct kz_err *err)
{
    const struct kz_result_body *fixed = (const struct kz_result_body *)(const void *)(record + 1);
    struct kz_str body;

    KZ_TRY(kz_record_check(record, err));
    if (record->type != KZ_RECORD_RESULT)
        return kz_fail(err, KZ_CORRUPT, "record %" PRIu64 " is no result but a %s", record->seq,
                kz_record_name(record->type));
    if (fixed->end != KZ_END_DONE)
        return kz_fail(err, KZ_CORRUPT, "result %" PRIu64 " is no prediction: it ended %s",
                record->seq, kz_request_end_name((enum kz_request_end)fixed->end));
    body = kz_record_body(record);
    *ret = (struct kz_prediction){
            .user_id = kz_span_str(body, fixed->user_id),
            .user_kind = fixed->user_kind,
            .model = kz_span_str(body, fixed->model),
            .version = kz_span_str(body, fixed->version),
            .has_score = fixed->has_score != 0,
            .score = fixed->score,
            .output = kz_span_str(body, fixed->output),
            .output_hidden = record->flags & KZ_RESULT_HIDDEN,
            .event_id = kz_span_str(body, fixed->event_id),
            .as_of_ms = fixed->as_of_ms,
            .computed_at_ms = fixed->computed_at_ms,
            .expires_at_ms = fixed->expires_at_ms,
            .request = fixed->request,
            .seq = record->seq,
    };
    return KZ_OK;
}

void kz_prediction_json(const struct kz_prediction *prediction, struct kz_json_out *out)
{
    kz_json_out_object(out);
    kz_json_out_kv_str(out, "user_id", prediction->user_id);
    kz_json_out_kv_str(out, "model", prediction->model);
    kz_json_out_kv_str(out, "version", prediction->version);
    if (prediction->has_score)
        kz_json_out_kv_f64(out, "score", prediction->score);
    if (prediction->output.size && !prediction->output_hidden) {
        kz_json_out_kv_raw(out, "output", prediction->output);
    } else {
        kz_json_out_key(out, "output");
        kz_json_out_null(out);
    }
    kz_json_out_kv_str(out, "event_id", prediction->event_id);
    kz_json_out_kv_i64(out, "as_of", prediction->as_of_ms);
    kz_json_out_kv_i64(out, "computed_at", prediction->computed_at_ms);
    kz_json_out_kv_i64(out, "expires_at", prediction->expires_at_ms);
    kz_json_out_object_end(out);
}
