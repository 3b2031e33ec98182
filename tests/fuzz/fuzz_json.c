/* The strict scanner and the walk behind it, on any bytes. Besides "no crash": what one way of
 * reading accepts, the others accept too, and compacting does not change what a text says. */
#include "codec/json.h"
#include "codec/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads everything by the parser's one-pass functions. */
static enum kz_code pull(struct kz_json *json, char first)
{
    struct kz_json_value key, value;
    bool more = true;

    if (first != '{' && first != '[') {
        KZ_TRY(kz_json_value(json, &value, NULL));
        return kz_json_end(json, NULL);
    }
    KZ_TRY(kz_json_open(json, first == '{' ? KZ_JSON_OBJECT : KZ_JSON_ARRAY, NULL));
    while (more) {
        if (first == '{')
            KZ_TRY(kz_json_member(json, &more, &key, &value, NULL));
        else
            KZ_TRY(kz_json_element(json, &more, &value, NULL));
    }
    return kz_json_end(json, NULL);
}

/* Visits every value, and understands each. */
static size_t visit(struct kz_json_value value, struct kz_buf *text)
{
    struct kz_json_walk walk = kz_json_walk(value);
    struct kz_json_number number;
    struct kz_json_value key, child;
    size_t count = 1;

    kz_buf_clear(text);
    if (value.kind == KZ_JSON_STRING) {
        kz_json_unescape(value, text);
        KZ_BUG_ON(!kz_utf8_check(kz_buf_view(text), NULL));
        KZ_BUG_ON(!kz_json_is_str(value, kz_buf_view(text)));
    } else if (kz_json_number(value, &number, NULL) == KZ_OK) {
        KZ_BUG_ON(value.kind != KZ_JSON_INT && value.kind != KZ_JSON_FLOAT);
    }
    if (value.kind == KZ_JSON_OBJECT)
        while (kz_json_walk_member(&walk, &key, &child))
            count += visit(key, text) + visit(child, text);
    else
        while (kz_json_walk_element(&walk, &child))
            count += visit(child, text);
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kz_str text = kz_str_n(data, size), line;
    struct kz_lines lines = kz_lines(text);
    struct kz_json_value root, compact_root;
    struct kz_buf buf = {0}, compact = {0};
    struct kz_json json;
    struct kz_err err;
    enum kz_code rc = kz_json_parse(text, 0, &root, &err);

    kz_json_init(&json, text, 0);
    KZ_BUG_ON(pull(&json, rc == KZ_OK ? *root.raw.ptr
                          : size      ? (char)data[0]
                                      : '\0') != KZ_OK &&
              rc == KZ_OK);
    if (rc == KZ_OK) {
        size_t count = visit(root, &buf);

        kz_json_compact(text, &compact);
        KZ_BUG_ON(kz_json_parse(kz_buf_view(&compact), 0, &compact_root, NULL) != KZ_OK);
        KZ_BUG_ON(visit(compact_root, &buf) != count);
    } else {
        KZ_BUG_ON(err.code != KZ_INVALID || !err.message[0]);
        /* Walking what was refused means nothing, but must stay inside. */
        root = kz_json_trusted(text);
        if (root.kind == KZ_JSON_OBJECT || root.kind == KZ_JSON_ARRAY) {
            struct kz_json_walk walk = kz_json_walk(root);
            struct kz_json_value key, value;

            while (kz_json_walk_member(&walk, &key, &value))
                (void)kz_json_is(key, "user_id");
        }
        (void)kz_json_get_path(root, KZ_STR("$.a[0].b"));
    }
    while (kz_lines_next(&lines, &line))
        KZ_BUG_ON(line.size == 0 || memchr(line.ptr, '\n', line.size));
    kz_buf_done(&buf);
    kz_buf_done(&compact);
    return 0;
}
