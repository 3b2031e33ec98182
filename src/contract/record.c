#include "contract/record.h"

#include "contract/state.h"

#include <math.h>
#include <stdio.h>

#include "base/hash.h"
#include "codec/json_out.h"

/* ---- names ------------------------------------------------------------------------------------
 */

static const struct {
    const char *name;
    enum kz_chain chain;
} types[KZ_RECORD_TYPE_END] = {
#define X(upper, number, which, what) [number] = {#upper, KZ_CHAIN_##which},
        KZ_RECORD_TYPES(X)
#undef X
};

static bool is_type(unsigned type)
{
    return type < KZ_RECORD_TYPE_END && types[type].name;
}

enum kz_chain kz_record_chain(enum kz_record_type type)
{
    return is_type(type) ? types[type].chain : KZ_CHAIN_NONE;
}

const char *kz_record_name(enum kz_record_type type)
{
    switch (type) {
    case KZ_RECORD_EVENT:
        return "event";
    case KZ_RECORD_LINK:
        return "link";
    case KZ_RECORD_TRIGGER:
        return "trigger";
    case KZ_RECORD_REQUEST:
        return "request";
    case KZ_RECORD_RESULT:
        return "result";
    case KZ_RECORD_DECISION:
        return "decision";
    case KZ_RECORD_DELIVERY:
        return "delivery";
    case KZ_RECORD_DEADLETTER:
        return "deadletter";
    case KZ_RECORD_ERASE:
        return "erase";
    case KZ_RECORD_CARRY:
        return "carry";
    case KZ_RECORD_CONTROL:
        return "control";
    case KZ_RECORD_CLOCK:
        return "clock";
    case KZ_RECORD_COPY:
        return "copy";
    case KZ_RECORD_TYPE_END:
        break;
    }
    return "unknown";
}

static const char *name_of(const char *const *names, size_t count, size_t index)
{
    return index < count && names[index] ? names[index] : "unknown";
}

const char *kz_stage_name(enum kz_stage stage)
{
    static const char *const names[] = {
#define X(name, text) text,
            KZ_STAGES(X)
#undef X
    };
    return name_of(names, KZ_ARRAY_COUNT(names), stage);
}

const char *kz_request_end_name(enum kz_request_end end)
{
    static const char *const names[] = {
            [KZ_END_DONE] = "done",
            [KZ_END_SUPERSEDED] = "superseded",
            [KZ_END_EXPIRED] = "expired",
            [KZ_END_DROPPED] = "dropped",
            [KZ_END_DEAD] = "dead",
    };
    return name_of(names, KZ_ARRAY_COUNT(names), end);
}

const char *kz_decision_name(enum kz_decision decision)
{
    static const char *const names[] = {
            [KZ_DECISION_DELIVER] = "deliver",
            [KZ_DECISION_SHADOW] = "shadow",
            [KZ_DECISION_HOLDOUT] = "holdout",
            [KZ_DECISION_CAPPED] = "capped",
            [KZ_DECISION_SCHEDULE] = "schedule",
            [KZ_DECISION_PAUSED] = "paused",
    };
    return name_of(names, KZ_ARRAY_COUNT(names), decision);
}

static const char *link_kind_name(unsigned kind)
{
    static const char *const names[] = {
            [KZ_LINK_MERGE] = "merge",
            [KZ_LINK_REDIRECT] = "redirect",
    };
    return name_of(names, KZ_ARRAY_COUNT(names), kind);
}

static const char *trigger_op_name(unsigned op)
{
    static const char *const names[] = {
            [KZ_TRIGGER_WINDOW] = "window",
            [KZ_TRIGGER_PENDING] = "pending",
            [KZ_TRIGGER_DELAY] = "delay",
            [KZ_TRIGGER_CANCEL] = "cancel",
            [KZ_TRIGGER_FIRE] = "fire",
            [KZ_TRIGGER_COUNT] = "count",
            [KZ_TRIGGER_REACHED] = "reached",
    };
    return name_of(names, KZ_ARRAY_COUNT(names), op);
}

static const char *delivery_state_name(unsigned state)
{
    static const char *const names[] = {
            [KZ_DELIVERY_SHOWN] = "shown",
            [KZ_DELIVERY_SENT] = "sent",
            [KZ_DELIVERY_FAILED] = "failed",
            [KZ_DELIVERY_GAVE_UP] = "gave_up",
            [KZ_DELIVERY_EXPIRED] = "expired",
    };
    return name_of(names, KZ_ARRAY_COUNT(names), state);
}

static const char *request_end_name(unsigned end)
{
    return kz_request_end_name((enum kz_request_end)end);
}

static const char *decision_name(unsigned decision)
{
    return kz_decision_name((enum kz_decision)decision);
}

static const char *stage_name(unsigned stage)
{
    return kz_stage_name((enum kz_stage)stage);
}

static const char *identity_name(unsigned op)
{
    static const char *const names[] = {
            [KZ_IDENTITY_NONE] = "none",
            [KZ_IDENTITY_IDENTIFY] = "identify",
            [KZ_IDENTITY_ALIAS] = "alias",
    };
    return name_of(names, KZ_ARRAY_COUNT(names), op);
}

/* ---- identity ---------------------------------------------------------------------------------
 */

static uint64_t not_zero(uint64_t hash)
{
    return hash ? hash : 1; /* 0 means none */
}

uint64_t kz_owner_hash(struct kz_user_key key, unsigned attempt)
{
    return not_zero(kz_hash_seed(
            key.id.ptr, key.id.size, (uint64_t)(unsigned char)key.kind | (uint64_t)attempt << 8));
}

uint64_t kz_dedupe_key(struct kz_user_key as_sent, struct kz_str event_id)
{
    return not_zero(kz_hash_mix(kz_owner_hash(as_sent, 0), kz_hash_str(event_id)));
}

uint64_t kz_name_hash(struct kz_str name)
{
    return not_zero(kz_hash_str(name));
}

/* ---- events -----------------------------------------------------------------------------------
 */

/* Appends a string at *at and gives its place within the body. */
static struct kz_span put_str(char *body, size_t *at, struct kz_str s)
{
    struct kz_span span = {(uint32_t)*at, (uint32_t)s.size};

    if (s.size)
        memcpy(body + *at, s.ptr, s.size);
    *at += s.size;
    return span;
}

/* Whether a column's text is a part of props as it lies in memory, and need not be stored twice. */
static bool is_within(struct kz_str part, struct kz_str whole)
{
    uintptr_t from = (uintptr_t)whole.ptr;
    uintptr_t at = (uintptr_t)part.ptr;

    return part.size && whole.size && at >= from && at - from <= whole.size &&
           part.size <= whole.size - (at - from);
}

static size_t event_size(const struct kz_event *event)
{
    size_t size = sizeof(struct kz_event_body) + 9 * (size_t)event->column_count +
                  event->event_id.size + event->user_id.size + event->anonymous_id.size +
                  event->name.size + event->props.size;

    for (unsigned i = 0; i < event->column_count; i++) {
        const struct kz_value *value = &event->columns[i];

        if (value->type == KZ_TYPE_TEXT && !is_within(value->text, event->props))
            size += value->text.size;
    }
    return size;
}

void kz_event_encode(const struct kz_event *event, struct kz_buf *out)
{
    size_t count = event->column_count;
    char *body = kz_buf_extend(out, event_size(event));
    size_t at = sizeof(struct kz_event_body) + 9 * count;
    char *cells = body + sizeof(struct kz_event_body);
    char *kinds = cells + 8 * count;
    struct kz_event_body fixed = {
            .ts_ms = event->ts_ms,
            .client_ts_ms = event->client_ts_ms,
            .session = event->session,
            .columns_id = event->columns_id,
            .column_count = event->column_count,
            .sent_kind = event->user_id.size ? 'u' : 'a',
            .identity = (uint8_t)event->identity,
    };

    fixed.event_id = put_str(body, &at, event->event_id);
    fixed.user_id = put_str(body, &at, event->user_id);
    fixed.anonymous_id = put_str(body, &at, event->anonymous_id);
    fixed.name = put_str(body, &at, event->name);
    fixed.props = put_str(body, &at, event->props);
    memcpy(body, &fixed, sizeof(fixed));
    for (size_t i = 0; i < count; i++) {
        const struct kz_value *value = &event->columns[i];
        struct kz_span span;

        kinds[i] = (char)value->type;
        switch (value->type) {
        case KZ_TYPE_NULL:
            memset(cells + 8 * i, 0, 8);
            break;
        case KZ_TYPE_INT:
        case KZ_TYPE_BOOL:
            memcpy(cells + 8 * i, &value->integer, 8);
            break;
        case KZ_TYPE_FLOAT:
            memcpy(cells + 8 * i, &value->real, 8);
            break;
        case KZ_TYPE_TEXT:
            if (is_within(value->text, event->props))
                span = (struct kz_span){
                        fixed.props.offset + (uint32_t)(value->text.ptr - event->props.ptr),
                        (uint32_t)value->text.size};
            else
                span = put_str(body, &at, value->text);
            memcpy(cells + 8 * i, &span, 8);
            break;
        }
    }
}

static bool has_columns(struct kz_str body)
{
    const struct kz_event_body *fixed = (const void *)body.ptr;

    return body.size >= sizeof(*fixed) && (body.size - sizeof(*fixed)) / 9 >= fixed->column_count;
}

enum kz_code kz_event_decode(
        const struct kz_record *record, struct kz_event *ret_event, struct kz_err *err)
{
    const struct kz_event_body *fixed = kz_event_body(record);
    struct kz_str body;

    KZ_TRY(kz_record_check(record, err));
    if (record->type != KZ_RECORD_EVENT)
        return kz_fail(err, KZ_INVALID, "record %llu is no event but a %s",
                (unsigned long long)record->seq, kz_record_name(record->type));
    body = kz_record_body(record);
    *ret_event = (struct kz_event){
            .event_id = kz_span_str(body, fixed->event_id),
            .user_id = kz_span_str(body, fixed->user_id),
            .anonymous_id = kz_span_str(body, fixed->anonymous_id),
            .name = kz_span_str(body, fixed->name),
            .props = kz_span_str(body, fixed->props),
            .client_ts_ms = fixed->client_ts_ms,
            .received_at_ms = record->at_ms,
            .ts_ms = fixed->ts_ms,
            .seq = record->seq,
            .session = fixed->session,
            .flags = record->flags,
            .identity = (enum kz_identity_op)fixed->identity,
            .columns_id = fixed->columns_id,
    };
    return KZ_OK;
}

struct kz_value kz_event_column(const struct kz_record *record, unsigned index)
{
    const struct kz_event_body *fixed = kz_event_body(record);
    struct kz_value value = {.type = KZ_TYPE_NULL};
    struct kz_str body = kz_record_body(record);
    const char *cell;
    struct kz_span span;

    if (!has_columns(body) || index >= fixed->column_count)
        return value;
    cell = body.ptr + sizeof(*fixed) + 8 * (size_t)index;
    switch ((enum kz_type)(
            uint8_t)body.ptr[sizeof(*fixed) + 8 * (size_t)fixed->column_count + index]) {
    case KZ_TYPE_NULL:
        break;
    case KZ_TYPE_INT:
    case KZ_TYPE_BOOL:
        value.type = (enum kz_type)(
                uint8_t)body.ptr[sizeof(*fixed) + 8 * (size_t)fixed->column_count + index];
        memcpy(&value.integer, cell, 8);
        break;
    case KZ_TYPE_FLOAT:
        value.type = KZ_TYPE_FLOAT;
        memcpy(&value.real, cell, 8);
        break;
    case KZ_TYPE_TEXT:
        memcpy(&span, cell, 8);
        if ((uint64_t)span.offset + span.size > body.size)
            break;
        value.type = KZ_TYPE_TEXT;
        value.text = kz_str_n(body.ptr + span.offset, span.size);
        break;
    }
    return value;
}

/* ---- what each body holds: one table for check and dump ---------------------------------------
 */

enum field_kind {
    FIELD_U8,
    FIELD_CHAR,
    FIELD_U16,
    FIELD_U32,
    FIELD_U64,
    FIELD_HASH,
    FIELD_LSN,
    FIELD_I64,
    FIELD_F64,
    FIELD_NAME,  /* u8 with a name for each value */
    FIELD_TEXT,  /* span of text */
    FIELD_JSON,  /* span of JSON */
    FIELD_BYTES, /* span of bytes */
    FIELD_ROW,   /* span of an encoded row */
};

struct field {
    const char *name;
    uint16_t offset;
    uint8_t kind; /* enum field_kind */
    const char *(*value_name)(unsigned value);
};

struct body_shape {
    uint32_t fixed_size;
    const struct field *fields;
    size_t field_count;
};

#define FIELD(type, member, kind)                                                                  \
    {                                                                                              \
#member, offsetof(struct type, member), FIELD_##kind, NULL                                 \
    }
#define FIELD_NAMED(type, member, fn)                                                              \
    {                                                                                              \
#member, offsetof(struct type, member), FIELD_NAME, fn                                     \
    }
#define SHAPE(type, fields)                                                                        \
    {                                                                                              \
        sizeof(struct type), fields, KZ_ARRAY_COUNT(fields)                                        \
    }

static const struct field event_fields[] = {
        FIELD(kz_event_body, ts_ms, I64),
        FIELD(kz_event_body, client_ts_ms, I64),
        FIELD(kz_event_body, session, U64),
        FIELD(kz_event_body, sent_kind, CHAR),
        FIELD_NAMED(kz_event_body, identity, identity_name),
        FIELD(kz_event_body, event_id, TEXT),
        FIELD(kz_event_body, user_id, TEXT),
        FIELD(kz_event_body, anonymous_id, TEXT),
        FIELD(kz_event_body, name, TEXT),
        FIELD(kz_event_body, props, JSON),
};
static const struct field link_fields[] = {
        FIELD(kz_link_body, from_owner, HASH),
        FIELD_NAMED(kz_link_body, kind, link_kind_name),
        FIELD(kz_link_body, from_kind, CHAR),
        FIELD(kz_link_body, from_id, TEXT),
        FIELD(kz_link_body, to_kind, CHAR),
        FIELD(kz_link_body, to_id, TEXT),
};
static const struct field trigger_fields[] = {
        FIELD(kz_trigger_body, rule, HASH),
        FIELD_NAMED(kz_trigger_body, op, trigger_op_name),
        FIELD(kz_trigger_body, due_ms, I64),
        FIELD(kz_trigger_body, event_ts_ms, I64),
        FIELD(kz_trigger_body, event, LSN),
};
static const struct field request_fields[] = {
        FIELD(kz_request_body, id_hash, HASH),
        FIELD(kz_request_body, now_ms, I64),
        FIELD(kz_request_body, trigger_ts_ms, I64),
        FIELD(kz_request_body, expires_ms, I64),
        FIELD(kz_request_body, event, LSN),
        FIELD(kz_request_body, event_seq, U64),
        FIELD(kz_request_body, session, U64),
        FIELD(kz_request_body, first_seen_ms, I64),
        FIELD(kz_request_body, model, TEXT),
        FIELD(kz_request_body, trigger, TEXT),
        FIELD(kz_request_body, user_kind, CHAR),
        FIELD(kz_request_body, user_id, TEXT),
        FIELD(kz_request_body, event_id, TEXT),
};
static const struct field result_fields[] = {
        FIELD(kz_result_body, request, U64),
        FIELD(kz_result_body, request_lsn, LSN),
        FIELD_NAMED(kz_result_body, end, request_end_name),
        FIELD(kz_result_body, has_score, U8),
        FIELD(kz_result_body, feature_count, U16),
        FIELD(kz_result_body, attempt_count, U32),
        FIELD(kz_result_body, score, F64),
        FIELD(kz_result_body, as_of_ms, I64),
        FIELD(kz_result_body, computed_at_ms, I64),
        FIELD(kz_result_body, expires_at_ms, I64),
        FIELD(kz_result_body, features_hash, HASH),
        FIELD(kz_result_body, version_hash, HASH),
        FIELD(kz_result_body, queue_us, U32),
        FIELD(kz_result_body, features_us, U32),
        FIELD(kz_result_body, wait_us, U32),
        FIELD(kz_result_body, model_us, U32),
        FIELD(kz_result_body, model, TEXT),
        FIELD(kz_result_body, version, TEXT),
        FIELD(kz_result_body, user_kind, CHAR),
        FIELD(kz_result_body, user_id, TEXT),
        FIELD(kz_result_body, event_id, TEXT),
        FIELD(kz_result_body, output, JSON),
        FIELD(kz_result_body, features, ROW),
        FIELD(kz_result_body, error, TEXT),
};
static const struct field decision_fields[] = {
        FIELD(kz_decision_body, request, U64),
        FIELD(kz_decision_body, action, HASH),
        FIELD_NAMED(kz_decision_body, decision, decision_name),
        FIELD(kz_decision_body, kind, U8),
        FIELD(kz_decision_body, expires_at_ms, I64),
        FIELD(kz_decision_body, action_name, TEXT),
        FIELD(kz_decision_body, model, TEXT),
        FIELD(kz_decision_body, user_kind, CHAR),
        FIELD(kz_decision_body, user_id, TEXT),
        FIELD(kz_decision_body, event_id, TEXT),
        FIELD(kz_decision_body, payload, JSON),
};
static const struct field delivery_fields[] = {
        FIELD(kz_delivery_body, decision, U64),
        FIELD(kz_delivery_body, decision_lsn, LSN),
        FIELD_NAMED(kz_delivery_body, state, delivery_state_name),
        FIELD(kz_delivery_body, attempt_count, U32),
        FIELD(kz_delivery_body, retry_at_ms, I64),
        FIELD(kz_delivery_body, detail, TEXT),
};
static const struct field deadletter_fields[] = {
        FIELD_NAMED(kz_deadletter_body, stage, stage_name),
        FIELD(kz_deadletter_body, ref, U64),
        FIELD(kz_deadletter_body, code, TEXT),
        FIELD(kz_deadletter_body, reason, TEXT),
        FIELD(kz_deadletter_body, model, TEXT),
        FIELD(kz_deadletter_body, payload, TEXT),
};
static const struct field erase_fields[] = {
        FIELD(kz_erase_body, id_hash, HASH),
        FIELD(kz_erase_body, what, U8),
        FIELD(kz_erase_body, erasure, U64),
        FIELD(kz_erase_body, owner_count, U32),
};
static const struct field control_fields[] = {
        FIELD(kz_control_body, verb, TEXT),
        FIELD(kz_control_body, object, TEXT),
        FIELD(kz_control_body, who, TEXT),
};

static const struct field copy_fields[] = {
        FIELD(kz_copy_body, from, LSN),
};

/* CARRY and CLOCK are the history's own; here they are bytes. */
static const struct body_shape shapes[KZ_RECORD_TYPE_END] = {
        [KZ_RECORD_EVENT] = SHAPE(kz_event_body, event_fields),
        [KZ_RECORD_LINK] = SHAPE(kz_link_body, link_fields),
        [KZ_RECORD_TRIGGER] = SHAPE(kz_trigger_body, trigger_fields),
        [KZ_RECORD_REQUEST] = SHAPE(kz_request_body, request_fields),
        [KZ_RECORD_RESULT] = SHAPE(kz_result_body, result_fields),
        [KZ_RECORD_DECISION] = SHAPE(kz_decision_body, decision_fields),
        [KZ_RECORD_DELIVERY] = SHAPE(kz_delivery_body, delivery_fields),
        [KZ_RECORD_DEADLETTER] = SHAPE(kz_deadletter_body, deadletter_fields),
        [KZ_RECORD_ERASE] = SHAPE(kz_erase_body, erase_fields),
        [KZ_RECORD_CONTROL] = SHAPE(kz_control_body, control_fields),
        [KZ_RECORD_COPY] = SHAPE(kz_copy_body, copy_fields),
};

static struct kz_span load_span(const char *p)
{
    struct kz_span span;

    memcpy(&span, p, sizeof(span));
    return span;
}

static enum kz_code fail_record(
        struct kz_err *err, const struct kz_record *record, const char *what)
{
    return kz_fail(err, KZ_CORRUPT, "record seq %llu (%s, %u bytes): %s",
            (unsigned long long)record->seq, kz_record_name(record->type), record->size, what);
}

static enum kz_code check_columns(const struct kz_record *record, struct kz_err *err)
{
    struct kz_str body = kz_record_body(record);
    const struct kz_event_body *fixed = kz_event_body(record);
    const char *cells = body.ptr + sizeof(*fixed);

    if (!has_columns(body))
        return fail_record(err, record, "its columns reach beyond its end");
    for (unsigned i = 0; i < fixed->column_count; i++) {
        unsigned kind = (uint8_t)cells[8 * (size_t)fixed->column_count + i];
        struct kz_span span = load_span(cells + 8 * (size_t)i);

        if (kind > KZ_TYPE_TEXT)
            return fail_record(err, record, "a column has an unknown type");
        if (kind == KZ_TYPE_TEXT && (uint64_t)span.offset + span.size > body.size)
            return fail_record(err, record, "a column's text reaches beyond its end");
    }
    return KZ_OK;
}

static enum kz_code check_copy(const struct kz_record *record, struct kz_err *err)
{
    const struct kz_record *original = kz_record_original(record);
    size_t size = kz_record_body(record).size - sizeof(struct kz_copy_body);

    if (size < sizeof(*original) || original->size != size)
        return fail_record(err, record, "the record it holds has another size");
    if (original->type == KZ_RECORD_COPY)
        return fail_record(err, record, "it holds a copy");
    return kz_record_check(original, err);
}

enum kz_code kz_record_check(const struct kz_record *record, struct kz_err *err)
{
    const struct body_shape *shape;
    struct kz_str body;

    if (record->size < sizeof(*record))
        return fail_record(err, record, "it is smaller than its header");
    if (!is_type(record->type))
        return fail_record(err, record, "its type is unknown");
    body = kz_record_body(record);
    shape = &shapes[record->type];
    if (body.size < shape->fixed_size)
        return fail_record(err, record, "its body is too small for its type");
    for (size_t i = 0; i < shape->field_count; i++) {
        struct kz_span span;

        if (shape->fields[i].kind < FIELD_TEXT)
            continue;
        span = load_span(body.ptr + shape->fields[i].offset);
        if ((uint64_t)span.offset + span.size > body.size)
            return fail_record(err, record, "a string reaches beyond its end");
    }
    if (record->type == KZ_RECORD_EVENT)
        return check_columns(record, err);
    if (record->type == KZ_RECORD_COPY)
        return check_copy(record, err);
    if (record->type == KZ_RECORD_ERASE &&
            (body.size - sizeof(struct kz_erase_body)) / 8 <
                    ((const struct kz_erase_body *)(record + 1))->owner_count)
        return fail_record(err, record, "its owners reach beyond its end");
    return KZ_OK;
}

/* ---- dump -------------------------------------------------------------------------------------
 */

static void dump_hash(struct kz_json_out *json, const char *name, uint64_t hash)
{
    char text[20];

    snprintf(text, sizeof(text), "%016llx", (unsigned long long)hash);
    kz_json_out_kv_cstr(json, name, text);
}

static void dump_lsn(struct kz_json_out *json, const char *name, kz_lsn lsn)
{
    char text[20];

    snprintf(text, sizeof(text), "%08x:%08x", KZ_LSN_SEGMENT(lsn), KZ_LSN_OFFSET(lsn));
    kz_json_out_kv_cstr(json, name, text);
}

static void dump_value(struct kz_json_out *json, struct kz_value value)
{
    switch (value.type) {
    case KZ_TYPE_NULL:
        kz_json_out_null(json);
        break;
    case KZ_TYPE_INT:
        kz_json_out_i64(json, value.integer);
        break;
    case KZ_TYPE_FLOAT:
        kz_json_out_f64(json, value.real);
        break;
    case KZ_TYPE_BOOL:
        kz_json_out_bool(json, value.integer != 0);
        break;
    case KZ_TYPE_TEXT:
        kz_json_out_str(json, value.text);
        break;
    }
}

static void dump_row(struct kz_json_out *json, struct kz_str bytes)
{
    struct kz_value values[256];
    size_t count;

    if (bytes.size == 0 ||
            kz_row_decode(bytes, values, KZ_ARRAY_COUNT(values), &count, NULL) != KZ_OK) {
        kz_json_out_null(json);
        return;
    }
    kz_json_out_array(json);
    for (size_t i = 0; i < count; i++)
        dump_value(json, values[i]);
    kz_json_out_array_end(json);
}

static void dump_field(struct kz_json_out *json, const struct field *field, struct kz_str body)
{
    const char *at = body.ptr + field->offset;
    struct kz_str text = KZ_STR_NULL;
    uint16_t u16;
    double f64;

    if (field->kind >= FIELD_TEXT)
        text = kz_span_str(body, load_span(at));
    switch ((enum field_kind)field->kind) {
    case FIELD_U8:
        kz_json_out_kv_u64(json, field->name, (uint8_t)*at);
        break;
    case FIELD_CHAR:
        if (*at)
            kz_json_out_kv_str(json, field->name, kz_str_n(at, 1));
        break;
    case FIELD_U16:
        memcpy(&u16, at, sizeof(u16));
        kz_json_out_kv_u64(json, field->name, u16);
        break;
    case FIELD_U32:
        kz_json_out_kv_u64(json, field->name, kz_load_u32(at));
        break;
    case FIELD_U64:
        kz_json_out_kv_u64(json, field->name, kz_load_u64(at));
        break;
    case FIELD_HASH:
        dump_hash(json, field->name, kz_load_u64(at));
        break;
    case FIELD_LSN:
        dump_lsn(json, field->name, kz_load_u64(at));
        break;
    case FIELD_I64:
        kz_json_out_kv_i64(json, field->name, (int64_t)kz_load_u64(at));
        break;
    case FIELD_F64:
        memcpy(&f64, at, sizeof(f64));
        kz_json_out_kv_f64(json, field->name, f64);
        break;
    case FIELD_NAME:
        kz_json_out_kv_cstr(json, field->name, field->value_name((uint8_t)*at));
        break;
    case FIELD_TEXT:
    case FIELD_JSON: /* as text: the bytes are shown as they are, valid JSON or not */
    case FIELD_BYTES:
        if (text.size)
            kz_json_out_kv_str(json, field->name, text);
        break;
    case FIELD_ROW:
        if (text.size) {
            kz_json_out_key(json, field->name);
            dump_row(json, text);
        }
        break;
    }
}

void kz_record_dump(const struct kz_record *record, kz_lsn lsn, struct kz_buf *out)
{
    struct kz_json_out json = kz_json_out(out);
    struct kz_err err;

    kz_json_out_object(&json);
    dump_lsn(&json, "lsn", lsn);
    kz_json_out_kv_u64(&json, "seq", record->seq);
    kz_json_out_kv_cstr(&json, "type", kz_record_name(record->type));
    kz_json_out_kv_i64(&json, "at_ms", record->at_ms);
    kz_json_out_kv_u64(&json, "flags", record->flags);
    dump_hash(&json, "owner", record->owner);
    dump_lsn(&json, "prev", record->prev);
    dump_hash(&json, "key", record->key);
    kz_json_out_kv_u64(&json, "size", record->size);
    if (kz_record_check(record, &err) != KZ_OK) {
        kz_json_out_kv_cstr(&json, "problem", err.message);
    } else {
        const struct body_shape *shape = &shapes[record->type];
        struct kz_str body = kz_record_body(record);

        for (size_t i = 0; i < shape->field_count; i++)
            dump_field(&json, &shape->fields[i], body);
        if (record->type == KZ_RECORD_EVENT && kz_event_body(record)->column_count) {
            kz_json_out_key(&json, "columns");
            kz_json_out_array(&json);
            for (unsigned i = 0; i < kz_event_body(record)->column_count; i++)
                dump_value(&json, kz_event_column(record, i));
            kz_json_out_array_end(&json);
        }
    }
    kz_json_out_object_end(&json);
    kz_buf_char(out, '\n');
}

/* ---- writing bodies ---------------------------------------------------------------------------
 */

struct kz_body_writer kz_body_begin(struct kz_buf *out, const void *fixed, size_t fixed_size)
{
    struct kz_body_writer w = {out, out->size};

    kz_buf_put(out, fixed, fixed_size);
    return w;
}

void kz_body_span(struct kz_body_writer *w, size_t member_offset, struct kz_str s)
{
    struct kz_span span = {(uint32_t)(w->out->size - w->start), (uint32_t)s.size};

    KZ_BUG_ON(w->start + member_offset + sizeof(span) > w->out->size);
    kz_buf_str(w->out, s);
    memcpy(w->out->data + w->start + member_offset, &span, sizeof(span));
}

/* ---- rows -------------------------------------------------------------------------------------
 */

void kz_row_encode(const struct kz_value *values, size_t count, struct kz_buf *out)
{
    KZ_BUG_ON(count > UINT16_MAX);
    kz_buf_u16(out, (uint16_t)count);
    for (size_t i = 0; i < count; i++) {
        kz_buf_u8(out, (uint8_t)values[i].type);
        switch (values[i].type) {
        case KZ_TYPE_NULL:
            kz_buf_u64(out, 0);
            break;
        case KZ_TYPE_INT:
            kz_buf_i64(out, values[i].integer);
            break;
        case KZ_TYPE_BOOL:
            kz_buf_i64(out, values[i].integer != 0);
            break;
        case KZ_TYPE_FLOAT:
            /* One NaN, whatever its payload was. */
            kz_buf_f64(out, isnan(values[i].real) ? (double)NAN : values[i].real);
            break;
        case KZ_TYPE_TEXT:
            kz_buf_u32(out, (uint32_t)values[i].text.size);
            kz_buf_str(out, values[i].text);
            break;
        }
    }
}

enum kz_code kz_row_decode(struct kz_str bytes, struct kz_value *values, size_t count_max,
        size_t *ret_count, struct kz_err *err)
{
    struct kz_cursor c = kz_cursor(bytes);
    size_t count = kz_cursor_u16(&c);

    if (count > count_max)
        return kz_fail(err, KZ_TOO_LARGE, "a row of %zu values, room for %zu", count, count_max);
    for (size_t i = 0; i < count && !c.failed; i++) {
        unsigned type = kz_cursor_u8(&c);

        values[i] = (struct kz_value){.type = (enum kz_type)type};
        switch ((enum kz_type)type) {
        case KZ_TYPE_NULL:
            (void)kz_cursor_u64(&c); /* zero; a cell has a fixed size */
            break;
        case KZ_TYPE_INT:
        case KZ_TYPE_BOOL:
            values[i].integer = kz_cursor_i64(&c);
            break;
        case KZ_TYPE_FLOAT:
            values[i].real = kz_cursor_f64(&c);
            break;
        case KZ_TYPE_TEXT:
            values[i].text = kz_cursor_str(&c, kz_cursor_u32(&c));
            break;
        default:
            return kz_fail(err, KZ_CORRUPT, "value %zu of a row has the unknown type %u", i, type);
        }
    }
    if (c.failed || c.left)
        return kz_fail(err, KZ_CORRUPT, "a row of %zu values does not fit its %zu bytes", count,
                bytes.size);
    *ret_count = count;
    return KZ_OK;
}
