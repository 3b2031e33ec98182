/* Typed columns, taken from the members of props as they pass by. */
#include <stdlib.h>

#include "shape/shape_int.h"

static struct kz_str simple_name(const char *path)
{
    size_t size = strcspn(path, ".[\"'");

    /* "$" comes before the dot. */
    if (size != 1 || path[0] != '$' || path[1] != '.')
        return KZ_STR_NULL;
    path += 2;
    size = strlen(path);
    return strcspn(path, ".[]\"'\\") == size ? kz_str_n(path, size) : KZ_STR_NULL;
}

struct kz_shaper *kz_shaper_new(const struct kz_project *project)
{
    struct kz_shaper *shaper = kz_calloc(1, sizeof(*shaper));

    KZ_BUG_ON(project->events.column_count > KZ_COLUMNS_MAX);
    shaper->project = project;
    shaper->column_count = project->events.column_count;
    for (size_t i = 0; i < shaper->column_count; i++) {
        shaper->columns[i].def = &project->events.columns[i];
        shaper->columns[i].first = simple_name(project->events.columns[i].path);
        shaper->deep_count += shaper->columns[i].first.size == 0;
    }
    return shaper;
}

void kz_shaper_free(struct kz_shaper *shaper)
{
    free(shaper);
}

/* -- one value -------------------------------------------------------------------------------- */

static const char *type_name(enum kz_type type)
{
    static const char *const names[] = {
            [KZ_TYPE_NULL] = "null",
            [KZ_TYPE_INT] = "an integer",
            [KZ_TYPE_FLOAT] = "a number",
            [KZ_TYPE_BOOL] = "true or false",
            [KZ_TYPE_TEXT] = "a text",
    };

    return names[type];
}

/* A string that holds a number or a truth value, as that; anything else as it is. */
static struct kz_json_value unquote(struct kz_json_value value)
{
    struct kz_json_value inner;

    if (value.kind == KZ_JSON_STRING && !value.escaped &&
            kz_json_parse(kz_str_n(value.raw.ptr + 1, value.raw.size - 2), 1, &inner, NULL) ==
                    KZ_OK)
        return inner;
    return value;
}

static bool to_bool(struct kz_json_value value, struct kz_value *ret)
{
    int64_t integer;

    if (value.kind == KZ_JSON_TRUE || value.kind == KZ_JSON_FALSE)
        integer = value.kind == KZ_JSON_TRUE;
    else if (kz_json_i64(value, &integer, NULL) != KZ_OK || (integer != 0 && integer != 1))
        return false;
    *ret = (struct kz_value){.type = KZ_TYPE_BOOL, .integer = integer};
    return true;
}

/* Whether `value` can be a `type`; sets it then. */
static bool convert(struct kz_json_value value, enum kz_type type, struct kz_value *ret)
{
    double real;
    int64_t integer;

    value = unquote(value);
    switch (type) {
    case KZ_TYPE_INT:
        if (kz_json_i64(value, &integer, NULL) != KZ_OK)
            return false;
        *ret = (struct kz_value){.type = KZ_TYPE_INT, .integer = integer};
        return true;
    case KZ_TYPE_FLOAT:
        if (kz_json_f64(value, &real, NULL) != KZ_OK)
            return false;
        *ret = (struct kz_value){.type = KZ_TYPE_FLOAT, .real = real};
        return true;
    case KZ_TYPE_BOOL:
        return to_bool(value, ret);
    case KZ_TYPE_TEXT:
    case KZ_TYPE_NULL:
        break;
    }
    return false;
}

static enum kz_code set_column(struct shaping *s, struct kz_intake_item *item, size_t index,
        struct kz_json_value value, struct kz_err *err)
{
    const struct kz_column_def *def = s->shaper->columns[index].def;
    struct kz_value *column = &item->columns[index];

    if (value.kind == KZ_JSON_NONE || value.kind == KZ_JSON_NULL)
        return KZ_OK;
    if (def->type == KZ_TYPE_TEXT) {
        if (value.kind == KZ_JSON_STRING) {
            struct kz_str text;

            KZ_TRY(kz_json_str(value, s->arena, &text, err));
            *column = (struct kz_value){.type = KZ_TYPE_TEXT, .text = text};
            return KZ_OK;
        }
        if (value.kind == KZ_JSON_INT || value.kind == KZ_JSON_FLOAT) {
            *column = (struct kz_value){.type = KZ_TYPE_TEXT, .text = value.raw};
            return KZ_OK;
        }
    } else if ((value.kind == KZ_JSON_STRING && value.raw.size == 2) ||
               convert(value, def->type, column)) {
        /* An empty string is how forms and CSV say that there is no number. */
        return KZ_OK;
    }
    shape_reject(s, item, "bad_column", "column \"%s\" (props %s) must be %s, not %s " KZ_STR_FMT,
            def->name, def->path, type_name(def->type), kz_json_kind_name(value.kind),
            KZ_STR_ARG(shape_clip(value.raw)));
    return KZ_OK;
}

/* -- all of them ------------------------------------------------------------------------------ */

enum kz_code shape_column_member(struct shaping *s, struct kz_intake_item *item,
        struct kz_json_value key, struct kz_json_value value, uint64_t *seen, struct kz_err *err)
{
    const struct kz_shaper *shaper = s->shaper;
    struct kz_str name = kz_str_n(key.raw.ptr + 1, key.raw.size - 2);

    for (size_t i = 0; i < shaper->column_count; i++) {
        struct kz_str first = shaper->columns[i].first;

        if (KZ_LIKELY(!key.escaped) ? first.size != name.size || !first.size ||
                                              memcmp(first.ptr, name.ptr, first.size) != 0
                                    : !first.size || !kz_json_is_str(key, first))
            continue;
        /* The first of several members of a name counts, as for SQLite's ->>. */
        if (*seen & (1ull << i))
            continue;
        *seen |= 1ull << i;
        KZ_TRY(set_column(s, item, i, value, err));
    }
    return KZ_OK;
}

enum kz_code shape_columns_deep(struct shaping *s, struct kz_intake_item *item,
        struct kz_json_value props, struct kz_err *err)
{
    const struct kz_shaper *shaper = s->shaper;

    for (size_t i = 0; shaper->deep_count && i < shaper->column_count; i++) {
        if (!shaper->columns[i].first.size)
            KZ_TRY(set_column(s, item, i,
                    kz_json_get_path(props, kz_str(shaper->columns[i].def->path)), err));
    }
    return KZ_OK;
}

enum kz_code shape_columns(struct shaping *s, struct kz_intake_item *item,
        struct kz_json_value props, struct kz_err *err)
{
    struct kz_json_walk walk = kz_json_walk(props);
    struct kz_json_value key, value;
    uint64_t seen = 0;

    if (s->shaper->column_count > s->shaper->deep_count) {
        while (kz_json_walk_member(&walk, &key, &value))
            KZ_TRY(shape_column_member(s, item, key, value, &seen, err));
    }
    return shape_columns_deep(s, item, props, err);
}
