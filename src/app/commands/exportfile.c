#include "app/commands/exportfile.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/json.h"
#include "codec/json_out.h"
#include "contract/message.h"

enum { EXPORT_VERSION = 1 };

#define HEAD "{\"kizashi_export\":"

/* ---- writing --------------------------------------------------------------------------------------- */

static void put_key(struct kz_json_out *out, struct kz_user_key key)
{
    kz_json_out_kv_str(out, key.kind == 'u' ? "user_id" : "anonymous_id", key.id);
}

static void put_user(struct kz_json_out *out, const struct kz_export_line *line)
{
    kz_json_out_key(out, "kizashi_user");
    kz_json_out_object(out);
    put_key(out, line->user);
    if (line->first_seen_ms)
        kz_json_out_kv_i64(out, "first_seen", line->first_seen_ms);
    if (line->to.id.size) {
        kz_json_out_key(out, "to");
        kz_json_out_object(out);
        put_key(out, line->to);
        kz_json_out_object_end(out);
        kz_json_out_kv_bool(out, "merged", line->merged);
    }
    kz_json_out_object_end(out);
}

void kz_export_put(const struct kz_export_line *line, struct kz_buf *buf)
{
    struct kz_json_out out = kz_json_out(buf);
    char hash[17];

    kz_json_out_object(&out);
    switch (line->kind) {
    case KZ_EXPORT_HEAD:
        kz_json_out_kv_i64(&out, "kizashi_export", EXPORT_VERSION);
        kz_json_out_kv_str(&out, "project", line->project);
        kz_json_out_kv_u64(&out, "after", line->seq);
        break;
    case KZ_EXPORT_ERASED:
        snprintf(hash, sizeof(hash), "%016" PRIx64, line->stone);
        kz_json_out_kv_cstr(&out, "kizashi_erased", hash);
        kz_json_out_kv_i64(&out, "at", line->at_ms);
        break;
    case KZ_EXPORT_USER:
        put_user(&out, line);
        break;
    case KZ_EXPORT_END:
        kz_json_out_kv_u64(&out, "kizashi_export_end", line->event_count);
        kz_json_out_kv_u64(&out, "seq", line->seq);
        break;
    case KZ_EXPORT_EVENT:
        KZ_BUG_ON(true);
    }
    kz_json_out_object_end(&out);
    kz_buf_char(buf, '\n');
}

/* The line that collect would have sent, with what is known besides before its closing brace. */
enum kz_code kz_export_put_event(
        const struct kz_record *record, struct kz_buf *buf, struct kz_err *err)
{
    size_t start = buf->size;
    struct kz_intake_item item = {0};
    struct kz_event *event = &item.event;
    int64_t client_ts_ms;

    KZ_TRY(kz_event_decode(record, event, err));
    client_ts_ms = event->client_ts_ms;
    event->client_ts_ms = event->ts_ms;
    event->received_at_ms = record->at_ms;
    event->flags = record->flags;
    kz_message_put_item(&item, buf);
    buf->size -= 2; /* "}\n" */
    if (!client_ts_ms)
        kz_buf_cstr(buf, ",\"client_ts\":null");
    else if (client_ts_ms != event->ts_ms)
        kz_buf_printf(buf, ",\"client_ts\":%" PRId64, client_ts_ms);
    if (record->flags & KZ_EVENT_IMPORTED)
        kz_buf_cstr(buf, ",\"imported\":true");
    kz_buf_cstr(buf, "}");
    /* Strings hold none: these stand between members of props. */
    for (size_t i = start; i < buf->size; i++)
        if (buf->data[i] == '\n' || buf->data[i] == '\r')
            buf->data[i] = ' ';
    kz_buf_char(buf, '\n');
    return KZ_OK;
}

/* ---- reading --------------------------------------------------------------------------------------- */

bool kz_export_is(struct kz_str text)
{
    return text.size >= strlen(HEAD) && memcmp(text.ptr, HEAD, strlen(HEAD)) == 0;
}

static enum kz_code wrong(const char *what, struct kz_json_value value, struct kz_err *err)
{
    return kz_fail(err, KZ_INVALID, "\"%s\" cannot be %.*s", what,
            (int)(value.kind == KZ_JSON_NONE ? 7 : KZ_MIN(value.raw.size, (size_t)80)),
            value.kind == KZ_JSON_NONE ? "missing" : value.raw.ptr);
}

/* A whole number from 0 on. */
static enum kz_code get_number(
        struct kz_json_value object, const char *name, int64_t *ret, struct kz_err *err)
{
    struct kz_json_value value = kz_json_get(object, name);
    int64_t number;

    if (value.kind != KZ_JSON_INT || kz_json_i64(value, &number, NULL) != KZ_OK || number < 0)
        return wrong(name, value, err);
    *ret = number;
    return KZ_OK;
}

static enum kz_code get_key(struct kz_json_value object, struct kz_arena *arena,
        struct kz_user_key *ret, struct kz_err *err)
{
    struct kz_json_value user = kz_json_get(object, "user_id");
    struct kz_json_value value = user;
    struct kz_user_key key = {.kind = 'u'};

    if (user.kind == KZ_JSON_NONE) {
        value = kz_json_get(object, "anonymous_id");
        key.kind = 'a';
    }
    if (value.kind != KZ_JSON_STRING)
        return wrong("user_id", value, err);
    KZ_TRY(kz_json_str(value, arena, &key.id, err));
    if (!key.id.size || key.id.size > KZ_ID_SIZE_MAX)
        return wrong("user_id", value, err);
    *ret = key;
    return KZ_OK;
}

static enum kz_code read_head(struct kz_json_value root, struct kz_arena *arena,
        struct kz_export_line *line, struct kz_err *err)
{
    struct kz_json_value project = kz_json_get(root, "project");
    int64_t version, after;

    KZ_TRY(get_number(root, "kizashi_export", &version, err));
    if (version != EXPORT_VERSION)
        return kz_fail(err, KZ_UNSUPPORTED,
                "the export is of format %" PRId64 ", this program reads %d", version,
                EXPORT_VERSION);
    if (project.kind != KZ_JSON_STRING)
        return wrong("project", project, err);
    KZ_TRY(kz_json_str(project, arena, &line->project, err));
    KZ_TRY(get_number(root, "after", &after, err));
    line->seq = (uint64_t)after;
    return KZ_OK;
}

static enum kz_code read_erased(
        struct kz_json_value root, struct kz_export_line *line, struct kz_err *err)
{
    struct kz_json_value value = kz_json_get(root, "kizashi_erased");
    char hex[17] = "", *end;

    if (value.kind != KZ_JSON_STRING || value.escaped || value.raw.size != 18)
        return wrong("kizashi_erased", value, err);
    memcpy(hex, value.raw.ptr + 1, 16);
    line->stone = strtoull(hex, &end, 16);
    if (*end || hex[0] == '-' || hex[0] == '+' || hex[0] == ' ')
        return wrong("kizashi_erased", value, err);
    return get_number(root, "at", &line->at_ms, err);
}

static enum kz_code read_user(struct kz_json_value user, struct kz_arena *arena,
        struct kz_export_line *line, struct kz_err *err)
{
    struct kz_json_value to = kz_json_get(user, "to");

    if (user.kind != KZ_JSON_OBJECT)
        return wrong("kizashi_user", user, err);
    KZ_TRY(get_key(user, arena, &line->user, err));
    if (kz_json_get(user, "first_seen").kind != KZ_JSON_NONE)
        KZ_TRY(get_number(user, "first_seen", &line->first_seen_ms, err));
    if (to.kind == KZ_JSON_NONE)
        return KZ_OK;
    KZ_TRY(get_key(to, arena, &line->to, err));
    line->merged = kz_json_get(user, "merged").kind == KZ_JSON_TRUE;
    return KZ_OK;
}

static enum kz_code read_end(
        struct kz_json_value root, struct kz_export_line *line, struct kz_err *err)
{
    int64_t count, seq;

    KZ_TRY(get_number(root, "kizashi_export_end", &count, err));
    KZ_TRY(get_number(root, "seq", &seq, err));
    line->event_count = (uint64_t)count;
    line->seq = (uint64_t)seq;
    return KZ_OK;
}

enum kz_code kz_export_read(struct kz_str text, struct kz_arena *arena,
        struct kz_export_line *ret_line, struct kz_err *err)
{
    struct kz_export_line line = {.kind = KZ_EXPORT_EVENT};
    struct kz_json_value root, key, value;
    struct kz_json_walk walk;

    KZ_TRY(kz_json_parse(text, KZ_SHAPE_DEPTH_MAX + 1, &root, err));
    if (root.kind != KZ_JSON_OBJECT)
        return kz_fail(err, KZ_INVALID, "not a JSON object");
    walk = kz_json_walk(root);
    if (!kz_json_walk_member(&walk, &key, &value))
        return kz_fail(err, KZ_INVALID, "an empty object");
    if (kz_json_is(key, "kizashi_export")) {
        line.kind = KZ_EXPORT_HEAD;
        KZ_TRY(read_head(root, arena, &line, err));
    } else if (kz_json_is(key, "kizashi_erased")) {
        line.kind = KZ_EXPORT_ERASED;
        KZ_TRY(read_erased(root, &line, err));
    } else if (kz_json_is(key, "kizashi_user")) {
        line.kind = KZ_EXPORT_USER;
        KZ_TRY(read_user(value, arena, &line, err));
    } else if (kz_json_is(key, "kizashi_export_end")) {
        line.kind = KZ_EXPORT_END;
        KZ_TRY(read_end(root, &line, err));
    }
    *ret_line = line;
    return KZ_OK;
}

/* kz_shape_collected() has taken `ts` for the client's. */
static enum kz_code set_times(
        struct kz_intake_item *item, struct kz_json_value root, struct kz_err *err)
{
    struct kz_json_value client_ts = kz_json_get(root, "client_ts");
    struct kz_event *event = &item->event;

    if (item->state == KZ_INTAKE_REJECTED)
        return KZ_OK;
    if (!event->client_ts_ms)
        return wrong("ts", kz_json_get(root, "ts"), err);
    event->ts_ms = event->client_ts_ms;
    event->flags |= KZ_EVENT_TIMED;
    if (client_ts.kind == KZ_JSON_NULL)
        event->client_ts_ms = 0;
    else if (client_ts.kind != KZ_JSON_NONE &&
             kz_json_i64(client_ts, &event->client_ts_ms, NULL) != KZ_OK)
        return wrong("client_ts", client_ts, err);
    if (kz_json_get(root, "imported").kind == KZ_JSON_TRUE)
        event->flags |= KZ_EVENT_IMPORTED;
    else if (event->client_ts_ms && event->client_ts_ms != event->ts_ms)
        event->flags |= KZ_EVENT_CLAMPED;
    return KZ_OK;
}

enum kz_code kz_export_shape(const struct kz_shaper *shaper, const struct kz_shape_input *input,
        struct kz_shaped *ret, struct kz_err *err)
{
    struct kz_lines lines = kz_lines(input->text);
    struct kz_shaped out = {0};
    struct kz_json_value root;
    struct kz_str line;

    KZ_TRY(kz_shape_collected(shaper, input, &out, err));
    for (size_t i = 0; i < out.item_count; i++) {
        if (!kz_lines_next(&lines, &line))
            return kz_fail(err, KZ_INVALID, "two events in a line");
        KZ_TRY(kz_json_parse(line, KZ_SHAPE_DEPTH_MAX + 1, &root, err));
        KZ_TRY(set_times(out.items[i], root, err));
    }
    *ret = out;
    return KZ_OK;
}
