/* The calls of the Segment and RudderStack clients (segment.com/docs/connections/spec,
 * rudderstack.com/docs/event-spec/standard-events).
 *
 * What becomes of one: `event` or the call's own name is the name; properties (traits for identify
 * and group) are the props, with `name` and `category` of a page or screen, `groupId` of a group
 * and `context` added where props has no member of that name. An identify with both ids links them,
 * an alias links previousId (or anonymousId) to userId. The time is ours less the age the client
 * gives: received - (sentAt - originalTimestamp or timestamp), which takes its clock's error out.
 */
#include "shape/shape_int.h"

enum {
    F_TYPE,
    F_USER_ID,
    F_ANONYMOUS_ID,
    F_PREVIOUS_ID,
    F_MESSAGE_ID,
    F_EVENT,
    F_NAME,
    F_CATEGORY,
    F_GROUP_ID,
    F_PROPERTIES,
    F_TRAITS,
    F_CONTEXT,
    F_TIMESTAMP,
    F_ORIGINAL_TIMESTAMP,
    F_SENT_AT,
    F_WRITE_KEY,
    F_BATCH,
    F_COUNT
};

static const struct field fields[F_COUNT] = {
        [F_TYPE] = FIELD("type"),
        [F_USER_ID] = FIELD("userId"),
        [F_ANONYMOUS_ID] = FIELD("anonymousId"),
        [F_PREVIOUS_ID] = FIELD("previousId"),
        [F_MESSAGE_ID] = FIELD("messageId"),
        [F_EVENT] = FIELD("event"),
        [F_NAME] = FIELD("name"),
        [F_CATEGORY] = FIELD("category"),
        [F_GROUP_ID] = FIELD("groupId"),
        [F_PROPERTIES] = FIELD("properties"),
        [F_TRAITS] = FIELD("traits"),
        [F_CONTEXT] = FIELD("context"),
        [F_TIMESTAMP] = FIELD("timestamp"),
        [F_ORIGINAL_TIMESTAMP] = FIELD("originalTimestamp"),
        [F_SENT_AT] = FIELD("sentAt"),
        [F_WRITE_KEY] = FIELD("writeKey"),
        [F_BATCH] = FIELD("batch"),
};

static const struct {
    const char *type;
    struct kz_str name; /* the event's; empty: `event` says it */
    bool has_traits;    /* props are traits, not properties */
} kinds[] = {
        [KZ_CALL_TRACK] = {"track", {NULL, 0}, false},
        [KZ_CALL_PAGE] = {"page", {"page", 4}, false},
        [KZ_CALL_SCREEN] = {"screen", {"screen", 6}, false},
        [KZ_CALL_IDENTIFY] = {"identify", {"identify", 8}, true},
        [KZ_CALL_GROUP] = {"group", {"group", 5}, true},
        [KZ_CALL_ALIAS] = {"alias", {"alias", 5}, false},
};

/* -- props ------------------------------------------------------------------------------------ */

struct extra {
    const char *name;
    struct kz_json_value value;
};

static bool is_object_or_absent(struct shaping *s, struct kz_intake_item *item, const char *field,
        struct kz_json_value value)
{
    if (value.kind == KZ_JSON_NONE || value.kind == KZ_JSON_NULL || value.kind == KZ_JSON_OBJECT)
        return true;
    shape_reject(s, item, "bad_props", "%s must be an object, not %s " KZ_STR_FMT, field,
            kz_json_kind_name(value.kind), KZ_STR_ARG(shape_clip(value.raw)));
    return false;
}

static char *put(char *at, struct kz_str s)
{
    memcpy(at, s.ptr, s.size);
    return at + s.size;
}

/* `base` with those extras that it has no member of: as it came where there are none, else made in
 * the arena. */
static enum kz_code compose(struct shaping *s, struct kz_json_value base,
        const struct extra *extras, size_t count, struct kz_str *ret, struct kz_err *err)
{
    struct kz_json_walk walk = kz_json_walk(base);
    struct kz_json_value key, value;
    struct kz_str inner = KZ_STR_NULL;
    size_t size = 2, used = 0;
    const struct extra *use[4];
    char *text, *at;

    KZ_BUG_ON(count > KZ_ARRAY_COUNT(use));
    for (size_t i = 0; i < count; i++) {
        if (extras[i].value.kind <= KZ_JSON_NULL || kz_str_is(extras[i].value.raw, "{}") ||
                kz_json_get(base, extras[i].name).kind != KZ_JSON_NONE)
            continue;
        use[used++] = &extras[i];
        size += strlen(extras[i].name) + extras[i].value.raw.size + 4;
    }
    if (!used) {
        *ret = base.kind == KZ_JSON_OBJECT ? base.raw : KZ_STR_NULL;
        return KZ_OK;
    }
    if (kz_json_walk_member(&walk, &key, &value))
        inner = kz_str_n(base.raw.ptr + 1, base.raw.size - 2);
    text = at = kz_arena_alloc(s->arena, size + inner.size);
    if (!text)
        return kz_fail(err, KZ_TOO_LARGE, "the request takes more memory than one may have");
    *at++ = '{';
    if (inner.size)
        at = put(at, inner);
    for (size_t i = 0; i < used; i++) {
        if (inner.size || i)
            *at++ = ',';
        *at++ = '"';
        at = put(at, kz_str(use[i]->name));
        at = put(at, KZ_STR("\":"));
        at = put(at, use[i]->value.raw);
    }
    *at++ = '}';
    *ret = kz_str_n(text, (size_t)(at - text));
    return KZ_OK;
}

static enum kz_code take_props(struct shaping *s, struct kz_intake_item *item, enum kz_call call,
        const struct kz_json_value values[F_COUNT], struct kz_err *err)
{
    struct kz_json_value base = values[kinds[call].has_traits ? F_TRAITS : F_PROPERTIES];
    struct kz_json_value none = {0};
    bool is_view = call == KZ_CALL_PAGE || call == KZ_CALL_SCREEN;
    struct extra extras[] = {
            {"name", is_view ? values[F_NAME] : none},
            {"category", is_view ? values[F_CATEGORY] : none},
            {"groupId", call == KZ_CALL_GROUP ? values[F_GROUP_ID] : none},
            {"context", values[F_CONTEXT]},
    };
    struct kz_str props;

    if (!is_object_or_absent(s, item, kinds[call].has_traits ? "traits" : "properties", base) ||
            !is_object_or_absent(s, item, "context", values[F_CONTEXT]))
        return KZ_OK;
    /* RudderStack's browser client sends an identify's traits only within its context. */
    if (call == KZ_CALL_IDENTIFY && base.kind != KZ_JSON_OBJECT) {
        base = kz_json_get(values[F_CONTEXT], "traits");
        base = base.kind == KZ_JSON_OBJECT ? base : none;
    }
    KZ_TRY(compose(s, base, extras, KZ_ARRAY_COUNT(extras), &props, err));
    if (props.size > KZ_PROPS_SIZE_MAX) {
        shape_reject(s, item, "props_too_large",
                "%s and context have %zu bytes, at most %d are allowed",
                kinds[call].has_traits ? "traits" : "properties", props.size, KZ_PROPS_SIZE_MAX);
        return KZ_OK;
    }
    item->event.props = props;
    return shape_columns(s, item, props.size ? kz_json_trusted(props) : none, err);
}

/* -- one call --------------------------------------------------------------------------------- */

static bool find_kind(struct shaping *s, struct kz_intake_item *item, struct kz_json_value type,
        enum kz_call *ret)
{
    for (size_t i = KZ_CALL_TRACK; i < KZ_ARRAY_COUNT(kinds); i++) {
        if (type.kind == KZ_JSON_STRING && kz_json_is(type, kinds[i].type)) {
            *ret = (enum kz_call)i;
            return true;
        }
    }
    shape_reject(s, item, "bad_type",
            "type must be track, page, screen, identify, group or alias, not " KZ_STR_FMT,
            KZ_STR_ARG(type.kind == KZ_JSON_NONE ? KZ_STR("missing") : shape_clip(type.raw)));
    return false;
}

static enum kz_code take_ids(struct shaping *s, struct kz_intake_item *item, enum kz_call call,
        const struct kz_json_value values[F_COUNT], struct kz_err *err)
{
    struct kz_event *event = &item->event;

    KZ_TRY(shape_id(s, item, values[F_USER_ID], "userId", "bad_user_id", &event->user_id, err));
    KZ_TRY(shape_id(s, item, values[F_ANONYMOUS_ID], "anonymousId", "bad_anonymous_id",
            &event->anonymous_id, err));
    KZ_TRY(shape_id(
            s, item, values[F_MESSAGE_ID], "messageId", "bad_event_id", &event->event_id, err));
    if (call == KZ_CALL_ALIAS) {
        KZ_TRY(shape_id(s, item, values[F_PREVIOUS_ID], "previousId", "bad_previous_id",
                &event->anonymous_id, err));
        if (!event->user_id.size)
            shape_reject(s, item, "missing_user", "userId is missing: an alias needs the new id");
        else if (!event->anonymous_id.size)
            shape_reject(s, item, "missing_previous_id",
                    "previousId is missing: an alias needs the id that becomes userId's");
        event->identity = KZ_IDENTITY_ALIAS;
    } else if (!event->user_id.size && !event->anonymous_id.size) {
        shape_reject(s, item, "missing_user", "userId and anonymousId are both missing");
    } else if (call == KZ_CALL_IDENTIFY && event->user_id.size && event->anonymous_id.size) {
        event->identity = KZ_IDENTITY_IDENTIFY;
    }
    return KZ_OK;
}

/* Until the batch's own sentAt is known, which may come last, event->ts_ms holds this call's. */
static enum kz_code take_times(struct shaping *s, struct kz_intake_item *item,
        const struct kz_json_value values[F_COUNT], struct kz_err *err)
{
    struct kz_event *event = &item->event;
    bool original = values[F_ORIGINAL_TIMESTAMP].kind > KZ_JSON_NULL;

    KZ_TRY(shape_time(s, item, values[original ? F_ORIGINAL_TIMESTAMP : F_TIMESTAMP],
            original ? "originalTimestamp" : "timestamp", &event->client_ts_ms, err));
    return shape_time(s, item, values[F_SENT_AT], "sentAt", &event->ts_ms, err);
}

static void correct_times(struct shaping *s, int64_t batch_sent_ms)
{
    for (size_t i = 0; i < s->out->item_count; i++) {
        struct kz_event *event = &s->out->items[i]->event;
        int64_t sent_ms = event->ts_ms ? event->ts_ms : batch_sent_ms;

        event->ts_ms = 0;
        if (sent_ms && event->client_ts_ms)
            event->client_ts_ms = KZ_MAX(s->received_at_ms - (sent_ms - event->client_ts_ms), 1);
    }
}

static enum kz_code take_call(struct shaping *s, struct kz_intake_item *item, enum kz_call call,
        const struct kz_json_value values[F_COUNT], struct kz_err *err)
{
    if (call == KZ_CALL_BATCH && !find_kind(s, item, values[F_TYPE], &call)) {
        /* The ids all the same, so that its dead letter has an owner. */
        KZ_TRY(shape_id(
                s, item, values[F_USER_ID], "userId", "bad_user_id", &item->event.user_id, err));
        return shape_id(s, item, values[F_ANONYMOUS_ID], "anonymousId", "bad_anonymous_id",
                &item->event.anonymous_id, err);
    }
    KZ_TRY(take_ids(s, item, call, values, err));
    if (kinds[call].name.size)
        item->event.name = kinds[call].name;
    else
        KZ_TRY(shape_name(s, item, values[F_EVENT], "event", &item->event.name, err));
    KZ_TRY(take_times(s, item, values, err));
    return take_props(s, item, call, values, err);
}

/* -- reading ---------------------------------------------------------------------------------- */

static enum kz_code read_batch(struct shaping *s, struct kz_json *json, struct kz_err *err);

/* The next object's fields; an envelope's `batch` is read into items at once. `*ret_twice` is a
 * field that is there twice: two readers could take it for two things. */
static enum kz_code read_fields(struct shaping *s, struct kz_json *json, bool in_envelope,
        struct kz_json_value values[F_COUNT], const char **ret_twice, struct kz_err *err)
{
    struct kz_json_value key, value;
    bool more;

    KZ_TRY(kz_json_open(json, KZ_JSON_OBJECT, err));
    for (;;) {
        size_t field;

        KZ_TRY(kz_json_key(json, &more, &key, err));
        if (!more)
            return KZ_OK;
        field = shape_field(key, fields, F_COUNT);
        if (field == F_COUNT) {
            KZ_TRY(kz_json_value(json, &value, err));
        } else if (values[field].kind != KZ_JSON_NONE) {
            KZ_TRY(kz_json_value(json, &value, err));
            *ret_twice = fields[field].name;
        } else if (field == F_BATCH && in_envelope) {
            KZ_TRY(read_batch(s, json, err));
            values[field].kind = KZ_JSON_ARRAY;
        } else {
            KZ_TRY(kz_json_value(json, &values[field], err));
        }
    }
}

static enum kz_code read_call(
        struct shaping *s, struct kz_json *json, enum kz_call call, struct kz_err *err)
{
    struct kz_json_value values[F_COUNT] = {0};
    const char *twice = NULL, *from = json->at;
    struct kz_intake_item *item;

    KZ_TRY(shape_item(s, &item, err));
    KZ_TRY(read_fields(s, json, false, values, &twice, err));
    if (twice)
        shape_reject(s, item, "duplicate_field", "%s is there twice", twice);
    KZ_TRY(take_call(s, item, call, values, err));
    if (call != KZ_CALL_BATCH && values[F_WRITE_KEY].kind == KZ_JSON_STRING)
        KZ_TRY(kz_json_str(values[F_WRITE_KEY], s->arena, &s->out->write_key, err));
    if (item->state == KZ_INTAKE_REJECTED)
        item->payload = shape_trim(kz_str_n(from, (size_t)(json->at - from)));
    return KZ_OK;
}

static enum kz_code read_batch(struct shaping *s, struct kz_json *json, struct kz_err *err)
{
    struct kz_intake_item *item;
    struct kz_json_value value;
    struct kz_json ahead;
    bool more;

    KZ_TRY(kz_json_open(json, KZ_JSON_ARRAY, err));
    for (;;) {
        KZ_TRY(kz_json_more(json, &more, err));
        if (!more)
            return KZ_OK;
        ahead = *json;
        if (kz_json_open(&ahead, KZ_JSON_OBJECT, NULL) == KZ_OK) {
            KZ_TRY(read_call(s, json, KZ_CALL_BATCH, err));
            continue;
        }
        KZ_TRY(kz_json_value(json, &value, err));
        KZ_TRY(shape_item(s, &item, err));
        shape_reject(s, item, "not_object", "a call must be an object, not %s " KZ_STR_FMT,
                kz_json_kind_name(value.kind), KZ_STR_ARG(shape_clip(value.raw)));
        item->payload = value.raw;
    }
}

/* The object around a batch. */
static enum kz_code read_envelope(
        struct shaping *s, struct kz_json *json, int64_t *ret_sent_ms, struct kz_err *err)
{
    struct kz_json_value values[F_COUNT] = {0};
    struct kz_intake_item unused = {0};
    const char *twice = NULL;
    size_t rejected;

    KZ_TRY(read_fields(s, json, true, values, &twice, err));
    if (twice)
        return kz_fail(err, KZ_INVALID, "\"%s\" is there twice", twice);
    if (values[F_BATCH].kind == KZ_JSON_NONE) {
        (void)kz_fail(err, KZ_INVALID, "\"batch\" is missing");
        return kz_hint(err, "send {\"batch\":[{\"type\":\"track\",...}],\"sentAt\":...}");
    }
    if (values[F_WRITE_KEY].kind == KZ_JSON_STRING)
        KZ_TRY(kz_json_str(values[F_WRITE_KEY], s->arena, &s->out->write_key, err));
    rejected = s->out->rejected_count;
    KZ_TRY(shape_time(s, &unused, values[F_SENT_AT], "sentAt", ret_sent_ms, err));
    s->out->rejected_count = rejected;
    if (unused.state == KZ_INTAKE_REJECTED)
        return kz_fail(err, KZ_INVALID, KZ_STR_FMT, KZ_STR_ARG(unused.message));
    return KZ_OK;
}

enum kz_code kz_shape_calls(const struct kz_shaper *shaper, enum kz_call call,
        const struct kz_shape_input *input, struct kz_shaped *ret, struct kz_err *err)
{
    struct kz_shaped out = {0};
    struct shaping s = shaping_begin(shaper, input, &out);
    struct kz_str text = shape_trim(input->text);
    bool is_batch = call == KZ_CALL_BATCH;
    int64_t sent_ms = 0;
    struct kz_json json;

    if (!text.size)
        return kz_fail(err, KZ_INVALID, "there is no call: the body is empty");
    kz_json_init(&json, text, KZ_SHAPE_DEPTH_MAX + (is_batch ? 2 : 0));
    json.start = s.origin;
    if (is_batch)
        KZ_TRY(read_envelope(&s, &json, &sent_ms, err));
    else
        KZ_TRY(read_call(&s, &json, call, err));
    KZ_TRY(kz_json_end(&json, err));
    correct_times(&s, sent_ms);
    out.single = !is_batch;
    *ret = out;
    return KZ_OK;
}
