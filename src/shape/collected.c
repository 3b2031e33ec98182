/* What `collect` made of events, on its way over a bus (contract/message.h): read as strictly as
 * anything that comes in, but a fault is the whole message's: nobody but collect writes these. */
#include "shape/shape_int.h"

enum {
    F_EVENT_ID,
    F_USER_ID,
    F_ANONYMOUS_ID,
    F_NAME,
    F_TS,
    F_PROPS,
    F_RECEIVED_AT,
    F_IDENTITY,
    F_MADE,
    F_ACTION,
    F_AWAITED,
    F_REJECTED,
    F_MESSAGE,
    F_PAYLOAD,
    F_COUNT
};

static const struct field fields[F_COUNT] = {
        [F_EVENT_ID] = FIELD("event_id"),
        [F_USER_ID] = FIELD("user_id"),
        [F_ANONYMOUS_ID] = FIELD("anonymous_id"),
        [F_NAME] = FIELD("name"),
        [F_TS] = FIELD("ts"),
        [F_PROPS] = FIELD("props"),
        [F_RECEIVED_AT] = FIELD("received_at"),
        [F_IDENTITY] = FIELD("identity"),
        [F_MADE] = FIELD("made"),
        [F_ACTION] = FIELD("action"),
        [F_AWAITED] = FIELD("awaited"),
        [F_REJECTED] = FIELD("rejected"),
        [F_MESSAGE] = FIELD("message"),
        [F_PAYLOAD] = FIELD("payload"),
};

static enum kz_code wrong(int field, struct kz_json_value value, struct kz_err *err)
{
    return kz_fail(err, KZ_INVALID, "%s of a collected event cannot be " KZ_STR_FMT,
            fields[field].name,
            KZ_STR_ARG(value.kind == KZ_JSON_NONE ? KZ_STR("missing") : shape_clip(value.raw)));
}

/* Leaves the output alone where the field is absent. */
static enum kz_code take_text(struct shaping *s, const struct kz_json_value values[F_COUNT],
        int field, size_t size_max, struct kz_str *ret, struct kz_err *err)
{
    struct kz_str text;

    if (values[field].kind == KZ_JSON_NONE)
        return KZ_OK;
    if (values[field].kind != KZ_JSON_STRING)
        return wrong(field, values[field], err);
    KZ_TRY(kz_json_str(values[field], s->arena, &text, err));
    if (text.size > size_max)
        return wrong(field, values[field], err);
    *ret = text;
    return KZ_OK;
}

static enum kz_code take_ms(
        const struct kz_json_value values[F_COUNT], int field, int64_t *ret_ms, struct kz_err *err)
{
    int64_t ms;

    if (values[field].kind == KZ_JSON_NONE)
        return KZ_OK;
    if (values[field].kind != KZ_JSON_INT || kz_json_i64(values[field], &ms, NULL) != KZ_OK ||
            ms < 1)
        return wrong(field, values[field], err);
    *ret_ms = ms;
    return KZ_OK;
}

static enum kz_code take_flag(const struct kz_json_value values[F_COUNT], int field, uint32_t flag,
        uint32_t *flags, struct kz_err *err)
{
    if (values[field].kind == KZ_JSON_TRUE)
        *flags |= flag;
    else if (values[field].kind != KZ_JSON_NONE && values[field].kind != KZ_JSON_FALSE)
        return wrong(field, values[field], err);
    return KZ_OK;
}

static enum kz_code take_identity(
        const struct kz_json_value values[F_COUNT], struct kz_event *event, struct kz_err *err)
{
    struct kz_json_value value = values[F_IDENTITY];

    if (value.kind == KZ_JSON_NONE)
        return KZ_OK;
    if (value.kind == KZ_JSON_STRING && kz_json_is(value, "identify"))
        event->identity = KZ_IDENTITY_IDENTIFY;
    else if (value.kind == KZ_JSON_STRING && kz_json_is(value, "alias"))
        event->identity = KZ_IDENTITY_ALIAS;
    if (event->identity == KZ_IDENTITY_NONE || !event->user_id.size || !event->anonymous_id.size)
        return wrong(F_IDENTITY, value, err);
    return KZ_OK;
}

static enum kz_code take_props(struct shaping *s, struct kz_intake_item *item,
        struct kz_json_value props, struct kz_err *err)
{
    if (props.kind == KZ_JSON_NONE)
        return KZ_OK;
    if (props.kind != KZ_JSON_OBJECT || props.raw.size > KZ_PROPS_SIZE_MAX)
        return wrong(F_PROPS, props, err);
    item->event.props = props.raw;
    /* Columns that were changed since may not fit: then it is the event that is rejected. */
    return shape_columns(s, item, props, err);
}

static enum kz_code take_rejected(struct shaping *s, struct kz_intake_item *item,
        const struct kz_json_value values[F_COUNT], struct kz_err *err)
{
    struct kz_str code = KZ_STR_NULL;

    KZ_TRY(take_text(s, values, F_REJECTED, 64, &code, err));
    KZ_TRY(take_text(s, values, F_MESSAGE, SIZE_MAX, &item->message, err));
    KZ_TRY(take_text(s, values, F_PAYLOAD, SIZE_MAX, &item->payload, err));
    if (!code.size)
        return wrong(F_REJECTED, values[F_REJECTED], err);
    item->code = kz_arena_cstr(s->arena, code);
    item->state = KZ_INTAKE_REJECTED;
    s->out->rejected_count++;
    return KZ_OK;
}

static enum kz_code take_item(struct shaping *s, struct kz_intake_item *item,
        const struct kz_json_value values[F_COUNT], struct kz_str raw, struct kz_err *err)
{
    struct kz_event *event = &item->event;

    KZ_TRY(take_text(s, values, F_USER_ID, KZ_ID_SIZE_MAX, &event->user_id, err));
    KZ_TRY(take_text(s, values, F_ANONYMOUS_ID, KZ_ID_SIZE_MAX, &event->anonymous_id, err));
    KZ_TRY(take_ms(values, F_RECEIVED_AT, &event->received_at_ms, err));
    KZ_TRY(take_text(s, values, F_AWAITED, KZ_AWAITED_MAX, &item->awaited, err));
    if (!event->received_at_ms)
        return wrong(F_RECEIVED_AT, values[F_RECEIVED_AT], err);
    if (values[F_REJECTED].kind != KZ_JSON_NONE)
        return take_rejected(s, item, values, err);
    KZ_TRY(take_text(s, values, F_EVENT_ID, KZ_ID_SIZE_MAX, &event->event_id, err));
    KZ_TRY(take_text(s, values, F_NAME, KZ_NAME_SIZE_MAX, &event->name, err));
    KZ_TRY(take_ms(values, F_TS, &event->client_ts_ms, err));
    KZ_TRY(take_flag(values, F_MADE, KZ_EVENT_ID_MADE, &event->flags, err));
    KZ_TRY(take_flag(values, F_ACTION, KZ_EVENT_ACTION, &event->flags, err));
    KZ_TRY(take_identity(values, event, err));
    if (!event->user_id.size && !event->anonymous_id.size)
        return wrong(F_USER_ID, values[F_USER_ID], err);
    if (!event->event_id.size)
        return wrong(F_EVENT_ID, values[F_EVENT_ID], err);
    if (!event->name.size)
        return wrong(F_NAME, values[F_NAME], err);
    KZ_TRY(take_props(s, item, values[F_PROPS], err));
    if (item->state == KZ_INTAKE_REJECTED)
        item->payload = raw;
    return KZ_OK;
}

static enum kz_code read_item(struct shaping *s, struct kz_json *json, struct kz_err *err)
{
    struct kz_json_value values[F_COUNT] = {0}, key, value;
    const char *from = json->at;
    struct kz_intake_item *item;
    bool more;

    KZ_TRY(shape_item(s, &item, err));
    KZ_TRY(kz_json_open(json, KZ_JSON_OBJECT, err));
    for (;;) {
        size_t field;

        KZ_TRY(kz_json_member(json, &more, &key, &value, err));
        if (!more)
            break;
        field = shape_field(key, fields, F_COUNT);
        if (field == F_COUNT)
            continue; /* a newer collect knows more */
        if (values[field].kind != KZ_JSON_NONE)
            return kz_fail(err, KZ_INVALID, "%s is there twice", fields[field].name);
        values[field] = value;
    }
    return take_item(s, item, values, shape_trim(kz_str_n(from, (size_t)(json->at - from))), err);
}

/* Not by lines: props may come with line ends between their members. */
enum kz_code kz_shape_collected(const struct kz_shaper *shaper, const struct kz_shape_input *input,
        struct kz_shaped *ret, struct kz_err *err)
{
    struct kz_shaped out = {0};
    struct shaping s = shaping_begin(shaper, input, &out);
    struct kz_str text = shape_trim(input->text);
    struct kz_json json;

    if (!text.size)
        return kz_fail(err, KZ_INVALID, "a message of events is empty");
    while (text.size) {
        kz_json_init(&json, text, KZ_SHAPE_DEPTH_MAX + 1);
        json.start = s.origin;
        KZ_TRY(read_item(&s, &json, err));
        text = shape_trim(kz_str_n(json.at, (size_t)(text.ptr + text.size - json.at)));
    }
    *ret = out;
    return KZ_OK;
}
