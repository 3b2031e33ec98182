/* shape/shape_int.h -- what the files of this folder share. */
#pragma once

#include "codec/json.h"
#include "contract/shape.h"

/* One typed column, made ready for the members of props that pass by. */
struct column {
    const struct kz_column_def *def;
    struct kz_str first; /* the member's name, where the path is $.name and no more; else empty */
};

struct kz_shaper {
    const struct kz_project *project;
    size_t column_count;
    size_t deep_count; /* columns with any other path */
    struct column columns[KZ_COLUMNS_MAX];
};

/* The shaping of one text. */
struct shaping {
    const struct kz_shaper *shaper;
    struct kz_arena *arena;
    int64_t received_at_ms;
    struct kz_shaped *out;
    size_t capacity;    /* of out->items */
    const char *origin; /* bytes in errors count from here */
};

static inline struct shaping shaping_begin(
        const struct kz_shaper *shaper, const struct kz_shape_input *input, struct kz_shaped *out)
{
    return (struct shaping){
            .shaper = shaper,
            .arena = input->arena,
            .received_at_ms = input->received_at_ms,
            .out = out,
            .origin = input->text.ptr,
    };
}

/* Without a byte order mark and white space around it. */
struct kz_str shape_trim(struct kz_str text);

/* A field that is read by name from an object. */
struct field {
    const char *name;
    uint8_t size;
};
#define FIELD(text)                                                                                \
    {                                                                                              \
        text, sizeof(text) - 1                                                                     \
    }

/* -- item.c -- */

/* A new item behind the others. */
enum kz_code shape_item(struct shaping *s, struct kz_intake_item **ret_item, struct kz_err *err);
/* Notes the first thing that is wrong with an item; the payload is set when its end is known. */
void shape_reject(struct shaping *s, struct kz_intake_item *item, const char *code, const char *fmt,
        ...) KZ_PRINTF(4, 5);
/* Raw JSON for a message: whole characters, at most some 60 bytes. */
struct kz_str shape_clip(struct kz_str raw);
/* The field's index, or `count`. */
size_t shape_field(struct kz_json_value key, const struct field *fields, size_t count);

/* Each leaves the output alone where the value is absent, null or "", and rejects the item where it
 * is wrong. A code other than KZ_OK is the arena's limit. */
enum kz_code shape_id(struct shaping *s, struct kz_intake_item *item, struct kz_json_value value,
        const char *field, const char *code, struct kz_str *ret, struct kz_err *err);
enum kz_code shape_name(struct shaping *s, struct kz_intake_item *item, struct kz_json_value value,
        const char *field, struct kz_str *ret, struct kz_err *err);
/* `what` names the field in messages. Milliseconds; 0 is never given. */
enum kz_code shape_time(struct shaping *s, struct kz_intake_item *item, struct kz_json_value value,
        const char *field, int64_t *ret_ms, struct kz_err *err);

/* -- columns.c -- */

/* One member of props; `seen` has a bit for each column that has had its (first) member. */
enum kz_code shape_column_member(struct shaping *s, struct kz_intake_item *item,
        struct kz_json_value key, struct kz_json_value value, uint64_t *seen, struct kz_err *err);
/* The columns whose path is more than a name. `props` has been validated. */
enum kz_code shape_columns_deep(struct shaping *s, struct kz_intake_item *item,
        struct kz_json_value props, struct kz_err *err);
/* All columns of props that are text already. */
enum kz_code shape_columns(struct shaping *s, struct kz_intake_item *item,
        struct kz_json_value props, struct kz_err *err);
