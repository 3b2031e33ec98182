#include "contract/column.h"

const char *kz_type_name(enum kz_type type)
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

struct kz_str kz_column_simple_name(const char *path)
{
    struct kz_str name;

    if (strncmp(path, "$.", 2) != 0)
        return KZ_STR_NULL;
    name = kz_str(path + 2);
    return strpbrk(name.ptr, ".[]\"'\\") ? KZ_STR_NULL : name;
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

static enum kz_code unfit(enum kz_type type, struct kz_err *err)
{
    return kz_fail(err, KZ_INVALID, "not %s", kz_type_name(type));
}

static enum kz_code to_text(struct kz_json_value value, struct kz_arena *arena,
        struct kz_value *ret, struct kz_err *err)
{
    struct kz_str text = value.raw;

    if (value.kind == KZ_JSON_STRING)
        KZ_TRY(kz_json_str(value, arena, &text, err));
    else if (value.kind != KZ_JSON_INT && value.kind != KZ_JSON_FLOAT)
        return unfit(KZ_TYPE_TEXT, err);
    *ret = (struct kz_value){.type = KZ_TYPE_TEXT, .text = text};
    return KZ_OK;
}

enum kz_code kz_column_convert(struct kz_json_value value, enum kz_type type,
        struct kz_arena *arena, struct kz_value *ret, struct kz_err *err)
{
    struct kz_value number = {.type = type};

    if (value.kind == KZ_JSON_NONE || value.kind == KZ_JSON_NULL ||
            (type != KZ_TYPE_TEXT && value.kind == KZ_JSON_STRING && value.raw.size == 2)) {
        *ret = (struct kz_value){.type = KZ_TYPE_NULL};
        return KZ_OK;
    }
    if (type == KZ_TYPE_TEXT)
        return to_text(value, arena, ret, err);
    value = unquote(value);
    if (type == KZ_TYPE_FLOAT) {
        if (kz_json_f64(value, &number.real, NULL) != KZ_OK)
            return unfit(type, err);
    } else if (type == KZ_TYPE_BOOL &&
               (value.kind == KZ_JSON_TRUE || value.kind == KZ_JSON_FALSE)) {
        number.integer = value.kind == KZ_JSON_TRUE;
    } else if (kz_json_i64(value, &number.integer, NULL) != KZ_OK ||
               (type == KZ_TYPE_BOOL && number.integer != 0 && number.integer != 1)) {
        return unfit(type, err);
    }
    *ret = number;
    return KZ_OK;
}
