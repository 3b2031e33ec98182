/* Items, and the fields that both formats have: ids, names, times. */
#include <inttypes.h>
#include <stdio.h>

#include "codec/timefmt.h"
#include "codec/utf8.h"
#include "shape/shape_int.h"

enum { CLIP_BYTES = 60, MESSAGE_BYTES = 400 };

/* What a client's integer can mean as milliseconds: up to the end of year 9999. As seconds the
 * years from 1973 on lie below it, as microseconds those from 1978 on above. */
static const int64_t TS_MAX_MS = 253402300799999;
static const int64_t TS_SECONDS_FROM = 100000000, TS_SECONDS_UNTIL = 100000000000;

static struct kz_intake_item *new_item(struct kz_arena *arena, size_t column_count)
{
    size_t size = offsetof(struct kz_intake_item, columns) + column_count * sizeof(struct kz_value);
    struct kz_intake_item *item = kz_arena_alloc(arena, size);

    if (item) {
        memset(item, 0, size);
        item->event.columns = item->columns;
        item->event.column_count = (uint16_t)column_count;
    }
    return item;
}

static enum kz_code no_room(struct kz_err *err)
{
    (void)kz_fail(err, KZ_TOO_LARGE, "the request takes more memory than one may have");
    return kz_hint(err, "send it in several requests");
}

enum kz_code shape_item(struct shaping *s, struct kz_intake_item **ret_item, struct kz_err *err)
{
    struct kz_intake_item *item;

    if (s->out->item_count == KZ_SHAPE_ITEMS_MAX) {
        (void)kz_fail(err, KZ_TOO_LARGE, "more than %d events in one request", KZ_SHAPE_ITEMS_MAX);
        return kz_hint(err, "send them in several requests");
    }
    if (s->out->item_count == s->capacity) {
        size_t capacity = s->capacity ? s->capacity * 4 : 16;
        struct kz_intake_item **items = kz_arena_alloc(
                s->arena, capacity * sizeof(struct kz_intake_item *));

        if (!items)
            return no_room(err);
        if (s->capacity)
            memcpy(items, s->out->items, s->capacity * sizeof(struct kz_intake_item *));
        s->out->items = items;
        s->capacity = capacity;
    }
    item = new_item(s->arena, s->shaper->column_count);
    if (!item)
        return no_room(err);
    item->event.columns_id = s->shaper->project->events.columns_id;
    s->out->items[s->out->item_count++] = item;
    *ret_item = item;
    return KZ_OK;
}

static void reject(struct kz_arena *arena, struct kz_intake_item *item, const char *code,
        const char *fmt, va_list args) KZ_PRINTF(4, 0);

static void reject(struct kz_arena *arena, struct kz_intake_item *item, const char *code,
        const char *fmt, va_list args)
{
    char text[MESSAGE_BYTES];
    int size = vsnprintf(text, sizeof(text), fmt, args);
    struct kz_str message = kz_utf8_cut(kz_str_n(text, KZ_MAX(size, 0)), sizeof(text) - 1);
    char *copy = kz_arena_alloc(arena, message.size);

    item->state = KZ_INTAKE_REJECTED;
    item->code = code;
    /* An arena that is full costs the message, not the rejection. */
    item->message = copy ? kz_str_n(memcpy(copy, message.ptr, message.size), message.size)
                         : KZ_STR("rejected");
}

void shape_reject(
        struct shaping *s, struct kz_intake_item *item, const char *code, const char *fmt, ...)
{
    va_list args;

    if (item->state == KZ_INTAKE_REJECTED)
        return;
    va_start(args, fmt);
    reject(s->arena, item, code, fmt, args);
    va_end(args);
    s->out->rejected_count++;
}

void kz_shape_reject(struct kz_arena *arena, struct kz_intake_item *item, const char *code,
        struct kz_str payload, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    reject(arena, item, code, fmt, args);
    va_end(args);
    item->payload = payload;
}

enum kz_code kz_shape_rejected(struct kz_arena *arena, const char *code, struct kz_str message,
        struct kz_str payload, struct kz_intake_item **ret_item, struct kz_err *err)
{
    struct kz_intake_item *item = new_item(arena, 0);

    if (!item)
        return no_room(err);
    kz_shape_reject(arena, item, code, payload, KZ_STR_FMT, KZ_STR_ARG(message));
    *ret_item = item;
    return KZ_OK;
}

struct kz_str shape_clip(struct kz_str raw)
{
    return kz_utf8_cut(raw, CLIP_BYTES);
}

size_t shape_field(struct kz_json_value key, const struct field *fields, size_t count)
{
    size_t i = 0;

    if (KZ_LIKELY(!key.escaped)) {
        const char *name = key.raw.ptr + 1;
        size_t size = key.raw.size - 2;

        while (i < count && (fields[i].size != size || memcmp(fields[i].name, name, size) != 0))
            i++;
    } else {
        while (i < count && !kz_json_is(key, fields[i].name))
            i++;
    }
    return i;
}

static bool has_control(struct kz_str text, bool escaped)
{
    /* The scanner lets control characters through only as escapes, but for DEL. */
    if (memchr(text.ptr, 0x7f, text.size))
        return true;
    for (size_t i = 0; escaped && i < text.size; i++)
        if ((unsigned char)text.ptr[i] < 0x20)
            return true;
    return false;
}

static bool is_absent(struct kz_json_value value)
{
    return value.kind == KZ_JSON_NONE || value.kind == KZ_JSON_NULL;
}

enum kz_code shape_id(struct shaping *s, struct kz_intake_item *item, struct kz_json_value value,
        const char *field, const char *code, struct kz_str *ret, struct kz_err *err)
{
    struct kz_str id = value.raw, shown = shape_clip(value.raw);

    if (is_absent(value))
        return KZ_OK;
    if (value.kind == KZ_JSON_STRING) {
        KZ_TRY(kz_json_str(value, s->arena, &id, err));
    } else if (value.kind != KZ_JSON_INT) {
        shape_reject(s, item, code, "%s must be a string or an integer, not %s " KZ_STR_FMT, field,
                kz_json_kind_name(value.kind), KZ_STR_ARG(shown));
        return KZ_OK;
    }
    if (id.size > KZ_ID_SIZE_MAX)
        shape_reject(s, item, code, "%s has %zu bytes, at most %d are allowed: " KZ_STR_FMT "...",
                field, id.size, KZ_ID_SIZE_MAX, KZ_STR_ARG(shown));
    else if (id.size && has_control(id, value.escaped))
        shape_reject(s, item, code, "%s has a control character in it: " KZ_STR_FMT, field,
                KZ_STR_ARG(shown));
    else if (id.size)
        *ret = id;
    return KZ_OK;
}

enum kz_code shape_name(struct shaping *s, struct kz_intake_item *item, struct kz_json_value value,
        const char *field, struct kz_str *ret, struct kz_err *err)
{
    struct kz_str name, shown = shape_clip(value.raw);

    if (is_absent(value)) {
        shape_reject(s, item, "missing_name", "%s is missing: it says what the user did", field);
        return KZ_OK;
    }
    if (value.kind != KZ_JSON_STRING) {
        shape_reject(s, item, "bad_name", "%s must be a string, not %s " KZ_STR_FMT, field,
                kz_json_kind_name(value.kind), KZ_STR_ARG(shown));
        return KZ_OK;
    }
    KZ_TRY(kz_json_str(value, s->arena, &name, err));
    if (!name.size)
        shape_reject(s, item, "missing_name", "%s is empty: it says what the user did", field);
    else if (name.size > KZ_NAME_SIZE_MAX)
        shape_reject(s, item, "bad_name",
                "%s has %zu bytes, at most %d are allowed: " KZ_STR_FMT "...", field, name.size,
                KZ_NAME_SIZE_MAX, KZ_STR_ARG(shown));
    else if (has_control(name, value.escaped))
        shape_reject(s, item, "bad_name", "%s has a control character in it: " KZ_STR_FMT, field,
                KZ_STR_ARG(shown));
    else if (kz_str_starts(name, "kizashi."))
        shape_reject(s, item, "reserved_name",
                "%s " KZ_STR_FMT " begins with \"kizashi.\", which is reserved", field,
                KZ_STR_ARG(shown));
    else
        *ret = name;
    return KZ_OK;
}

static void take_epoch(struct shaping *s, struct kz_intake_item *item, int64_t ms,
        const char *field, int64_t *ret_ms)
{
    if (ms >= TS_SECONDS_FROM && ms < TS_SECONDS_UNTIL)
        shape_reject(s, item, "bad_ts",
                "%s %" PRId64 " looks like seconds, send milliseconds: %" PRId64, field, ms,
                ms * 1000);
    else if (ms > TS_MAX_MS)
        shape_reject(s, item, "bad_ts",
                "%s %" PRId64 " looks like micro- or nanoseconds, send milliseconds", field, ms);
    else if (ms < 0)
        shape_reject(s, item, "bad_ts", "%s %" PRId64 " is before 1970", field, ms);
    else
        *ret_ms = KZ_MAX(ms, 1);
}

enum kz_code shape_time(struct shaping *s, struct kz_intake_item *item, struct kz_json_value value,
        const char *field, int64_t *ret_ms, struct kz_err *err)
{
    struct kz_str text, shown = shape_clip(value.raw);
    int64_t ms;

    if (is_absent(value))
        return KZ_OK;
    if ((value.kind == KZ_JSON_INT || value.kind == KZ_JSON_FLOAT) &&
            kz_json_i64(value, &ms, NULL) == KZ_OK) {
        take_epoch(s, item, ms, field, ret_ms);
        return KZ_OK;
    }
    if (value.kind == KZ_JSON_STRING) {
        KZ_TRY(kz_json_str(value, s->arena, &text, err));
        if (kz_time_parse(text, &ms, NULL) == KZ_OK) {
            /* 0 would mean "none": a clock that starts at 1970 is a wrong clock, and held as one.
             */
            *ret_ms = KZ_MAX(ms, 1);
            return KZ_OK;
        }
    }
    shape_reject(s, item, "bad_ts",
            "%s " KZ_STR_FMT " is no time: send RFC 3339 (\"2026-01-31T09:30:00Z\") or epoch "
            "milliseconds as an integer",
            field, KZ_STR_ARG(shown));
    return KZ_OK;
}
