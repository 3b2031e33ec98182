#include "feature/columns.h"

#include "contract/column.h"

const char *const kz_events_column_names[KZ_EVENTS_FIXED] = {
        "seq", "event_id", "user_id", "name", "ts", "client_ts", "received_at", "session", "props"};
const enum kz_type kz_events_column_types[KZ_EVENTS_FIXED] = {KZ_TYPE_INT, KZ_TYPE_TEXT,
        KZ_TYPE_TEXT, KZ_TYPE_TEXT, KZ_TYPE_INT, KZ_TYPE_INT, KZ_TYPE_INT, KZ_TYPE_INT,
        KZ_TYPE_TEXT};

const char *kz_column_sql_type(enum kz_type type)
{
    switch (type) {
    case KZ_TYPE_INT:
    case KZ_TYPE_BOOL:
        return "INTEGER";
    case KZ_TYPE_FLOAT:
        return "REAL";
    case KZ_TYPE_TEXT:
        return "TEXT";
    case KZ_TYPE_NULL:
        break;
    }
    return "";
}

void kz_events_declare(const struct kz_project *project, struct kz_buf *out)
{
    for (int i = 0; i < KZ_EVENTS_FIXED; i++)
        kz_buf_printf(out, "%s\"%s\" %s", i ? ", " : "", kz_events_column_names[i],
                kz_column_sql_type(kz_events_column_types[i]));
    for (size_t i = 0; i < project->events.column_count; i++)
        kz_buf_printf(out, ", \"%s\" %s", project->events.columns[i].name,
                kz_column_sql_type(project->events.columns[i].type));
}

/* Props were validated as one object before they were stored. */
static struct kz_json_value props_root(struct kz_str props)
{
    if (props.size && props.ptr[0] == '{' && props.ptr[props.size - 1] == '}')
        return (struct kz_json_value){.raw = props, .kind = KZ_JSON_OBJECT};
    return kz_json_trusted(props);
}

/* A member of the object itself ($.price) is the first of its name, as for shape and for ->>. */
static struct kz_json_value find(struct kz_str props, const char *path)
{
    struct kz_json_value root = props_root(props), key, value;
    struct kz_json_walk walk = kz_json_walk(root);
    struct kz_str name = kz_column_simple_name(path);

    if (!name.size)
        return kz_json_get_path(root, kz_str(path));
    while (kz_json_walk_member(&walk, &key, &value)) {
        if (key.escaped ? kz_json_is_str(key, name)
                        : key.raw.size == name.size + 2 &&
                                  memcmp(key.raw.ptr + 1, name.ptr, name.size) == 0)
            return value;
    }
    return (struct kz_json_value){.kind = KZ_JSON_NONE};
}

struct kz_value kz_column_from_json(
        const char *path, enum kz_type type, struct kz_str props, struct kz_arena *arena)
{
    struct kz_value value = {.type = KZ_TYPE_NULL};

    /* What does not fit stays NULL: the event was accepted under the definitions of its time. */
    KZ_IGNORE(kz_column_convert(find(props, path), type, arena, &value, NULL));
    return value;
}

static void result_str(sqlite3_context *ctx, struct kz_str s, bool in_place)
{
    sqlite3_result_text64(ctx, s.ptr ? s.ptr : "", s.size,
            in_place ? SQLITE_STATIC : SQLITE_TRANSIENT, SQLITE_UTF8);
}

static void result_value(sqlite3_context *ctx, struct kz_value value, bool in_place)
{
    switch (value.type) {
    case KZ_TYPE_INT:
    case KZ_TYPE_BOOL:
        sqlite3_result_int64(ctx, value.integer);
        break;
    case KZ_TYPE_FLOAT:
        sqlite3_result_double(ctx, value.real);
        break;
    case KZ_TYPE_TEXT:
        result_str(ctx, value.text, in_place);
        break;
    case KZ_TYPE_NULL:
        break;
    }
}

/* A typed column of a record that was written under other definitions. */
static struct kz_value from_props(const struct kz_project *project, struct kz_events_row *row,
        unsigned index, struct kz_str props, struct kz_arena *arena)
{
    const struct kz_column_def *def = &project->events.columns[index];

    if (!(row->have & (UINT64_C(1) << index))) {
        row->have |= UINT64_C(1) << index;
        row->values[index] = kz_column_from_json(def->path, def->type, props, arena);
    }
    return row->values[index];
}

int kz_events_result(sqlite3_context *ctx, const struct kz_project *project,
        struct kz_events_row *row, int column, struct kz_str user_id, bool in_place,
        struct kz_arena *arena)
{
    const struct kz_record *record = row->record;
    const struct kz_event_body *body = kz_event_body(record);
    struct kz_str bytes = kz_record_body(record), text;

    switch (column) {
    case KZ_EVENTS_SEQ:
        sqlite3_result_int64(ctx, (int64_t)record->seq);
        break;
    case KZ_EVENTS_EVENT_ID:
        result_str(ctx, kz_span_str(bytes, body->event_id), in_place);
        break;
    case KZ_EVENTS_USER_ID:
        result_str(ctx, user_id, in_place);
        break;
    case KZ_EVENTS_NAME:
        result_str(ctx, kz_span_str(bytes, body->name), in_place);
        break;
    case KZ_EVENTS_TS:
        sqlite3_result_int64(ctx, body->ts_ms);
        break;
    case KZ_EVENTS_CLIENT_TS:
        if (body->client_ts_ms)
            sqlite3_result_int64(ctx, body->client_ts_ms);
        break;
    case KZ_EVENTS_RECEIVED_AT:
        sqlite3_result_int64(ctx, record->at_ms);
        break;
    case KZ_EVENTS_SESSION:
        sqlite3_result_int64(ctx, (int64_t)body->session);
        break;
    case KZ_EVENTS_PROPS:
        text = kz_span_str(bytes, body->props);
        result_str(ctx, text.size ? text : KZ_STR("{}"), in_place);
        break;
    default:
        column -= KZ_EVENTS_FIXED;
        if (body->columns_id == project->events.columns_id)
            result_value(ctx, kz_event_column(record, (unsigned)column), in_place);
        else
            result_value(ctx,
                    from_props(
                            project, row, (unsigned)column, kz_span_str(bytes, body->props), arena),
                    in_place);
    }
    return SQLITE_OK;
}
