/* Typed columns, taken from the members of props as they pass by. */
#include <stdlib.h>

#include "contract/column.h"
#include "shape/shape_int.h"

struct kz_shaper *kz_shaper_new(const struct kz_project *project)
{
    struct kz_shaper *shaper = kz_calloc(1, sizeof(*shaper));

    KZ_BUG_ON(project->events.column_count > KZ_COLUMNS_MAX);
    shaper->project = project;
    shaper->column_count = project->events.column_count;
    for (size_t i = 0; i < shaper->column_count; i++) {
        shaper->columns[i].def = &project->events.columns[i];
        shaper->columns[i].first = kz_column_simple_name(project->events.columns[i].path);
        shaper->deep_count += shaper->columns[i].first.size == 0;
    }
    return shaper;
}

void kz_shaper_free(struct kz_shaper *shaper)
{
    free(shaper);
}

/* -- one value -------------------------------------------------------------------------------- */

static enum kz_code set_column(struct shaping *s, struct kz_intake_item *item, size_t index,
        struct kz_json_value value, struct kz_err *err)
{
    const struct kz_column_def *def = s->shaper->columns[index].def;
    enum kz_code rc = kz_column_convert(value, def->type, s->arena, &item->columns[index], err);

    if (rc != KZ_INVALID)
        return rc;
    shape_reject(s, item, "bad_column", "column \"%s\" (props %s) must be %s, not %s " KZ_STR_FMT,
            def->name, def->path, kz_type_name(def->type), kz_json_kind_name(value.kind),
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
