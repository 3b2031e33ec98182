/* Our own format: objects, arrays, NDJSON. */
#include "shape/shape_int.h"

enum { F_EVENT_ID, F_USER_ID, F_ANONYMOUS_ID, F_NAME, F_TS, F_PROPS, F_COUNT };

static const struct field fields[F_COUNT] = {
        [F_EVENT_ID] = FIELD("event_id"),
        [F_USER_ID] = FIELD("user_id"),
        [F_ANONYMOUS_ID] = FIELD("anonymous_id"),
        [F_NAME] = FIELD("name"),
        [F_TS] = FIELD("ts"),
        [F_PROPS] = FIELD("props"),
};

static void note_ignored(struct shaping *s, struct kz_str raw_name)
{
    struct kz_shaped *out = s->out;

    if (out->ignored_count == KZ_ARRAY_COUNT(out->ignored))
        return;
    for (size_t i = 0; i < out->ignored_count; i++)
        if (kz_str_eq(out->ignored[i], raw_name))
            return;
    out->ignored[out->ignored_count++] = raw_name;
}

static enum kz_code take_props(struct shaping *s, struct kz_intake_item *item,
        struct kz_json_value props, struct kz_err *err)
{
    if (props.kind == KZ_JSON_NONE || props.kind == KZ_JSON_NULL)
        return KZ_OK;
    if (props.kind != KZ_JSON_OBJECT) {
        shape_reject(s, item, "bad_props", "props must be an object, not %s " KZ_STR_FMT,
                kz_json_kind_name(props.kind), KZ_STR_ARG(shape_clip(props.raw)));
        return KZ_OK;
    }
    if (props.raw.size > KZ_PROPS_SIZE_MAX) {
        shape_reject(s, item, "props_too_large", "props has %zu bytes, at most %d are allowed",
                props.raw.size, KZ_PROPS_SIZE_MAX);
        return KZ_OK;
    }
    item->event.props = props.raw;
    /* Scanned whole, then walked: reading member by member with the parser gains less than 10%. */
    return shape_columns(s, item, props, err);
}

static bool was_ignored(const struct shaping *s, const char *raw_name)
{
    for (size_t i = 0; i < s->out->ignored_count; i++)
        if (kz_str_is(s->out->ignored[i], raw_name))
            return true;
    return false;
}

static enum kz_code take_fields(struct shaping *s, struct kz_intake_item *item,
        const struct kz_json_value values[F_COUNT], struct kz_err *err)
{
    struct kz_event *event = &item->event;

    KZ_TRY(shape_id(s, item, values[F_USER_ID], "user_id", "bad_user_id", &event->user_id, err));
    KZ_TRY(shape_id(s, item, values[F_ANONYMOUS_ID], "anonymous_id", "bad_anonymous_id",
            &event->anonymous_id, err));
    if (!event->user_id.size && !event->anonymous_id.size)
        shape_reject(s, item, "missing_user", "user_id and anonymous_id are both missing%s",
                was_ignored(s, "\"userId\"") || was_ignored(s, "\"anonymousId\"")
                        ? "; userId and anonymousId are of Segment's calls, as POST /v1/track"
                        : "");
    KZ_TRY(shape_id(
            s, item, values[F_EVENT_ID], "event_id", "bad_event_id", &event->event_id, err));
    KZ_TRY(shape_name(s, item, values[F_NAME], "name", &event->name, err));
    KZ_TRY(shape_time(s, item, values[F_TS], "ts", &event->client_ts_ms, err));
    KZ_TRY(take_props(s, item, values[F_PROPS], err));
    if (event->user_id.size && event->anonymous_id.size) {
        if (kz_str_is(event->name, "identify"))
            event->identity = KZ_IDENTITY_IDENTIFY;
        else if (kz_str_is(event->name, "alias"))
            event->identity = KZ_IDENTITY_ALIAS;
    }
    return KZ_OK;
}

/* The next value of `json` as one event. KZ_INVALID where it is broken; `item` is unfinished then.
 */
static enum kz_code read_event(
        struct shaping *s, struct kz_json *json, struct kz_intake_item *item, struct kz_err *err)
{
    struct kz_json_value values[F_COUNT] = {0}, key, value;
    bool more;

    KZ_TRY(kz_json_open(json, KZ_JSON_OBJECT, err));
    for (;;) {
        size_t field;

        KZ_TRY(kz_json_key(json, &more, &key, err));
        if (!more)
            break;
        field = shape_field(key, fields, F_COUNT);
        if (KZ_UNLIKELY(field == F_COUNT)) {
            KZ_TRY(kz_json_value(json, &value, err));
            note_ignored(s, key.raw);
        } else if (KZ_UNLIKELY(values[field].kind != KZ_JSON_NONE)) {
            KZ_TRY(kz_json_value(json, &value, err));
            shape_reject(s, item, "duplicate_field", "%s is there twice", fields[field].name);
        } else {
            KZ_TRY(kz_json_value(json, &values[field], err));
        }
    }
    return take_fields(s, item, values, err);
}

/* Where the next value begins. */
static const char *next_value(const struct kz_json *json)
{
    const char *at = json->at;

    while (at < json->end && (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n'))
        at++;
    return at;
}

/* The next value of `json`, whatever it is, as an item. */
static enum kz_code read_item(
        struct shaping *s, struct kz_json *json, struct kz_intake_item **ret, struct kz_err *err)
{
    const char *from = next_value(json);
    struct kz_intake_item *item;
    struct kz_json_value value;

    KZ_TRY(shape_item(s, &item, err));
    *ret = item;
    if (from < json->end && *from == '{') {
        KZ_TRY(read_event(s, json, item, err));
    } else {
        KZ_TRY(kz_json_value(json, &value, err));
        shape_reject(s, item, "not_object", "an event must be an object, not %s " KZ_STR_FMT,
                kz_json_kind_name(value.kind), KZ_STR_ARG(shape_clip(value.raw)));
    }
    if (item->state == KZ_INTAKE_REJECTED)
        item->payload = kz_str_n(from, (size_t)(json->at - from));
    return KZ_OK;
}

static enum kz_code read_array(struct shaping *s, struct kz_str text, struct kz_err *err)
{
    struct kz_intake_item *item;
    struct kz_json json;
    bool more;

    kz_json_init(&json, text, KZ_SHAPE_DEPTH_MAX + 1);
    json.start = s->origin;
    KZ_TRY(kz_json_open(&json, KZ_JSON_ARRAY, err));
    for (;;) {
        KZ_TRY(kz_json_more(&json, &more, err));
        if (!more)
            break;
        KZ_TRY(read_item(s, &json, &item, err));
    }
    return kz_json_end(&json, err);
}

/* `origin` is where the bytes that an error names are counted from. */
static enum kz_code read_whole(
        struct shaping *s, struct kz_str text, const char *origin, struct kz_err *err)
{
    struct kz_intake_item *item;
    struct kz_json json;

    kz_json_init(&json, text, KZ_SHAPE_DEPTH_MAX);
    json.start = origin;
    KZ_TRY(read_item(s, &json, &item, err));
    return kz_json_end(&json, err);
}

/* One line of NDJSON: what is broken is its own rejection. */
static enum kz_code read_line(struct shaping *s, struct kz_str line, struct kz_err *err)
{
    size_t before = s->out->item_count;
    struct kz_intake_item *item;
    struct kz_err why;
    enum kz_code rc = read_whole(s, line, line.ptr, &why);

    if (KZ_LIKELY(rc == KZ_OK))
        return KZ_OK;
    if (rc != KZ_INVALID || s->out->item_count == before) {
        if (err)
            *err = why;
        return rc;
    }
    item = s->out->items[before];
    shape_reject(s, item, "bad_json", "%s", why.message);
    item->payload = line;
    return KZ_OK;
}

static bool is_object(struct kz_str line)
{
    struct kz_json_value value;

    return kz_json_parse(line, KZ_SHAPE_DEPTH_MAX, &value, NULL) == KZ_OK &&
           value.kind == KZ_JSON_OBJECT;
}

/* Whether text that is neither one value nor begins with a good line is lines all the same: one of
 * the next few is an object in itself. */
static bool is_lines(struct kz_str text)
{
    struct kz_lines lines = kz_lines(text);
    struct kz_str line;

    if (!kz_lines_next(&lines, &line))
        return false;
    for (int i = 0; i < 8 && kz_lines_next(&lines, &line); i++)
        if (is_object(line))
            return true;
    return false;
}

static enum kz_code read_lines(struct shaping *s, struct kz_str text, struct kz_err *err)
{
    struct kz_lines lines = kz_lines(text);
    struct kz_str line;

    while (kz_lines_next(&lines, &line))
        KZ_TRY(read_line(s, line, err));
    return KZ_OK;
}

struct kz_str shape_trim(struct kz_str text)
{
    if (kz_str_starts(text, "\xef\xbb\xbf")) /* a byte order mark, which RFC 8259 lets us skip */
        text = kz_str_n(text.ptr + 3, text.size - 3);
    while (text.size && strchr(" \t\r\n", text.ptr[0]) && text.ptr[0])
        text = kz_str_n(text.ptr + 1, text.size - 1);
    while (text.size && strchr(" \t\r\n", text.ptr[text.size - 1]) && text.ptr[text.size - 1])
        text.size--;
    return text;
}

enum kz_code kz_shape_events(const struct kz_shaper *shaper, const struct kz_shape_input *input,
        struct kz_shaped *ret, struct kz_err *err)
{
    struct kz_shaped out = {0};
    struct shaping s = shaping_begin(shaper, input, &out);
    struct kz_str text = shape_trim(input->text);
    const char *line_end;
    struct kz_err why;
    enum kz_code rc;

    if (!text.size) {
        (void)kz_fail(err, KZ_INVALID, "there is no event: the body is empty");
        return kz_hint(
                err, "send {\"user_id\":\"u1\",\"name\":\"view\"}, an array of such, or NDJSON");
    }
    line_end = memchr(text.ptr, '\n', text.size);
    if (text.ptr[0] == '[') {
        KZ_TRY(read_array(&s, text, err));
    } else if (line_end && is_object(kz_str_n(text.ptr, (size_t)(line_end - text.ptr)))) {
        KZ_TRY(read_lines(&s, text, err));
    } else {
        rc = read_whole(&s, text, s.origin, &why);
        if (rc == KZ_INVALID && line_end && is_lines(text)) {
            out = (struct kz_shaped){0};
            s.capacity = 0;
            KZ_TRY(read_lines(&s, text, err));
        } else if (rc != KZ_OK) {
            if (err)
                *err = why;
            return rc;
        } else {
            out.single = true;
        }
    }
    *ret = out;
    return KZ_OK;
}
