#include "app/config/yaml.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#include "codec/json_out.h"
#include "sys/file.h"

enum { SIZE_MAX_BYTES = 1 << 20, DEPTH_MAX = 64, NODES_MAX = 100000 };

enum kz_code kz_place_fail(struct kz_err *err, struct kz_place place, const char *fmt, ...)
{
    char text[800];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (!place.line)
        return kz_fail(err, KZ_CONFIG, "%s: %s", place.file ? place.file : "project", text);
    return kz_fail(err, KZ_CONFIG, "%s:%u:%u: %s", place.file ? place.file : "project", place.line,
            place.column, text);
}

struct building {
    struct kz_arena *arena;
    yaml_document_t *document;
    const char *shown;
    const char *dir; /* ${file:} is relative to it */
    size_t nodes;
};

static struct kz_place place_at(const char *shown, yaml_mark_t mark)
{
    return (struct kz_place){shown, (unsigned)mark.line + 1, (unsigned)mark.column + 1};
}

/* The value of one ${...}, `spec` being what stands between the braces. */
static enum kz_code substitute_one(
        struct building *b, const char *spec, struct kz_buf *out, struct kz_err *err)
{
    if (strncmp(spec, "env:", 4) == 0) {
        const char *value = getenv(spec + 4);

        if (!value)
            return kz_fail(err, KZ_CONFIG, "the environment has no %s", spec + 4);
        kz_buf_cstr(out, value);
        return KZ_OK;
    }
    if (strncmp(spec, "file:", 5) == 0) {
        const char *name = spec + 5;
        const char *path = name[0] == '/' ? name : kz_arena_printf(b->arena, "%s/%s", b->dir, name);
        KZ_AUTO(kz_freep) char *data = NULL;
        size_t size = 0;

        KZ_TRY(kz_fs_read_all(kz_fs_posix(), path, 65536, &data, &size, err));
        while (size && (data[size - 1] == '\n' || data[size - 1] == '\r'))
            size--;
        kz_buf_put(out, data, size);
        return KZ_OK;
    }
    return kz_fail(err, KZ_CONFIG, "\"${%s}\" is neither ${env:NAME} nor ${file:PATH}", spec);
}

static enum kz_code substitute(
        struct building *b, const char *text, const char **ret_text, struct kz_err *err)
{
    struct kz_buf out = {0};
    const char *at = text, *open;
    enum kz_code rc = KZ_OK;

    if (!strstr(text, "${env:") && !strstr(text, "${file:")) {
        *ret_text = text;
        return KZ_OK;
    }
    while (rc == KZ_OK && (open = strstr(at, "${"))) {
        const char *close = strchr(open, '}');

        if (!close) {
            rc = kz_fail(err, KZ_CONFIG, "\"${\" without \"}\"");
            break;
        }
        kz_buf_put(&out, at, (size_t)(open - at));
        rc = substitute_one(b,
                kz_arena_cstr(b->arena, kz_str_n(open + 2, (size_t)(close - open - 2))), &out, err);
        at = close + 1;
    }
    if (rc == KZ_OK) {
        kz_buf_cstr(&out, at);
        *ret_text = kz_arena_cstr(b->arena, kz_buf_view(&out));
    }
    kz_buf_done(&out);
    return rc;
}

static void set_problem(
        struct building *b, struct kz_yaml *node, struct kz_place place, const char *text)
{
    if (node->problem)
        return; /* the first is enough */
    node->problem = kz_arena_cstr(b->arena, kz_str(text));
    node->problem_place = place;
}

static enum kz_code build(struct building *b, int index, unsigned depth,
        const struct kz_yaml **ret_node, struct kz_err *err);

/* Adds one pair to a map that has room for it; a key that is there already keeps its first value. */
static enum kz_code build_pair(struct building *b, const yaml_node_pair_t *pair, unsigned depth,
        struct kz_yaml *map, struct kz_err *err)
{
    const struct kz_yaml *key, *item;

    KZ_TRY(build(b, pair->key, depth + 1, &key, err));
    if (key->kind != KZ_YAML_SCALAR)
        return kz_place_fail(err, key->place, "a key has to be a name");
    KZ_TRY(build(b, pair->value, depth + 1, &item, err));
    for (size_t k = 0; k < map->count; k++) {
        if (strcmp(map->keys[k]->text, key->text) != 0)
            continue;
        set_problem(b, map, key->place,
                kz_arena_printf(b->arena, "\"%s\" is given twice, first in line %u", key->text,
                        map->keys[k]->place.line));
        return KZ_OK;
    }
    map->keys[map->count] = key;
    map->items[map->count++] = item;
    return KZ_OK;
}

static enum kz_code build(struct building *b, int index, unsigned depth,
        const struct kz_yaml **ret_node, struct kz_err *err)
{
    yaml_node_t *from = yaml_document_get_node(b->document, index);
    struct kz_yaml *node = kz_arena_zero(b->arena, sizeof(*node));
    struct kz_err put_in;

    node->place = place_at(b->shown, from->start_mark);
    if (depth > DEPTH_MAX)
        return kz_place_fail(err, node->place, "nested more than %d levels deep", DEPTH_MAX);
    if (++b->nodes > NODES_MAX)
        return kz_place_fail(err, node->place, "more than %d values", NODES_MAX);
    if (from->type == YAML_SCALAR_NODE) {
        const char *text = (const char *)from->data.scalar.value;

        if (strlen(text) != from->data.scalar.length)
            return kz_place_fail(err, node->place, "a NUL byte within a value");
        node->kind = KZ_YAML_SCALAR;
        node->quoted = from->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        node->text = kz_arena_cstr(b->arena, kz_str(text));
        if (substitute(b, node->text, &node->text, &put_in) != KZ_OK)
            set_problem(b, node, node->place, put_in.message);
    } else if (from->type == YAML_MAPPING_NODE) {
        yaml_node_pair_t *start = from->data.mapping.pairs.start;
        size_t count = (size_t)(from->data.mapping.pairs.top - start);

        node->kind = KZ_YAML_MAP;
        node->keys = kz_arena_zero(b->arena, count * sizeof(*node->keys));
        node->items = kz_arena_zero(b->arena, count * sizeof(*node->items));
        for (size_t i = 0; i < count; i++)
            KZ_TRY(build_pair(b, &start[i], depth, node, err));
    } else {
        yaml_node_item_t *start = from->data.sequence.items.start;
        size_t count = (size_t)(from->data.sequence.items.top - start);

        node->kind = KZ_YAML_LIST;
        node->items = kz_arena_zero(b->arena, count * sizeof(*node->items));
        for (; node->count < count; node->count++)
            KZ_TRY(build(b, start[node->count], depth + 1, &node->items[node->count], err));
    }
    *ret_node = node;
    return KZ_OK;
}

/* Anchors and aliases: the document has them resolved, so the places of what goes wrong in them would be
 * those of another key, and a small file can be made of a million values. The first is told; text
 * that is no YAML is left to the parser. */
static enum kz_code refuse_aliases(
        const char *shown, const char *data, size_t size, struct kz_err *err)
{
    yaml_parser_t parser;
    yaml_event_t event;
    enum kz_code rc = KZ_OK;
    bool more = true;

    if (!yaml_parser_initialize(&parser))
        return kz_fail(err, KZ_NO_MEMORY, "could not start the YAML parser");
    yaml_parser_set_input_string(&parser, (const unsigned char *)data, size);
    while (more && rc == KZ_OK && yaml_parser_parse(&parser, &event)) {
        const yaml_char_t *anchor = event.type == YAML_SCALAR_EVENT ? event.data.scalar.anchor
                                    : event.type == YAML_SEQUENCE_START_EVENT
                                            ? event.data.sequence_start.anchor
                                    : event.type == YAML_MAPPING_START_EVENT
                                            ? event.data.mapping_start.anchor
                                            : NULL;

        if (event.type == YAML_ALIAS_EVENT)
            rc = kz_place_fail(err, place_at(shown, event.start_mark),
                    "aliases (*%s) are not supported: write the value out",
                    (const char *)event.data.alias.anchor);
        else if (anchor)
            rc = kz_place_fail(err, place_at(shown, event.start_mark),
                    "anchors (&%s) are not supported: write the value out where it is wanted",
                    (const char *)anchor);
        more = event.type != YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return rc;
}

/* SQL is full of what YAML takes for its own. */
static void hint_quotes(const yaml_parser_t *parser, struct kz_err *err)
{
    if (parser->context && strstr(parser->context, "flow"))
        (void)kz_hint(err, "a text with a comma, a colon or a bracket within {} or [] has to be "
                           "quoted, as in {of: \"name IN ('a', 'b')\"}");
    else if (parser->problem && strstr(parser->problem, "mapping values"))
        (void)kz_hint(err, "a text with a colon in it has to be quoted, or stand in lines of its "
                           "own below `key: |`");
}

static enum kz_code parse(struct kz_arena *arena, const char *shown, const char *dir,
        const char *data, size_t size, const struct kz_yaml **ret_root, struct kz_err *err)
{
    yaml_parser_t parser;
    yaml_document_t document;
    struct building b = {arena, &document, shown, dir, 0};
    enum kz_code rc;

    KZ_TRY(refuse_aliases(shown, data, size, err));
    if (!yaml_parser_initialize(&parser))
        return kz_fail(err, KZ_NO_MEMORY, "could not start the YAML parser");
    yaml_parser_set_input_string(&parser, (const unsigned char *)data, size);
    if (!yaml_parser_load(&parser, &document)) {
        rc = kz_place_fail(err, place_at(shown, parser.problem_mark), "%s%s%s",
                parser.problem ? parser.problem : "not YAML", parser.context ? ", " : "",
                parser.context ? parser.context : "");
        hint_quotes(&parser, err);
        yaml_parser_delete(&parser);
        return rc;
    }
    if (!yaml_document_get_root_node(&document))
        rc = kz_fail(err, KZ_CONFIG, "%s: the file is empty", shown);
    else
        rc = build(&b, 1, 0, ret_root, err);
    yaml_document_delete(&document);
    yaml_parser_delete(&parser);
    return rc;
}

enum kz_code kz_yaml_read(struct kz_arena *arena, const char *path, const char *shown,
        const struct kz_yaml **ret_root, struct kz_err *err)
{
    KZ_AUTO(kz_freep) char *data = NULL;
    char *dir = kz_arena_cstr(arena, kz_str(path)), *slash = strrchr(dir, '/');
    size_t size = 0;

    if (slash)
        *slash = '\0';
    KZ_TRY(kz_fs_read_all(kz_fs_posix(), path, SIZE_MAX_BYTES, &data, &size, err));
    return parse(arena, kz_arena_cstr(arena, kz_str(shown)), slash ? dir : ".", data, size,
            ret_root, err);
}

void kz_yaml_problems(const struct kz_yaml *node,
        void (*report)(void *arg, struct kz_place place, const char *text), void *arg)
{
    if (node->problem)
        report(arg, node->problem_place, node->problem);
    for (size_t i = 0; i < node->count; i++) {
        if (node->kind == KZ_YAML_MAP)
            kz_yaml_problems(node->keys[i], report, arg);
        kz_yaml_problems(node->items[i], report, arg);
    }
}

const struct kz_yaml *kz_yaml_get(const struct kz_yaml *map, const char *key)
{
    if (map && map->kind == KZ_YAML_MAP)
        for (size_t i = 0; i < map->count; i++)
            if (strcmp(map->keys[i]->text, key) == 0)
                return map->items[i];
    return NULL;
}

const struct kz_yaml *kz_yaml_overlay(
        struct kz_arena *arena, const struct kz_yaml *base, const struct kz_yaml *over)
{
    struct kz_yaml *both;

    if (base->kind != KZ_YAML_MAP || over->kind != KZ_YAML_MAP)
        return over;
    both = kz_arena_zero(arena, sizeof(*both));
    *both = *base;
    if (over->problem) {
        both->problem = over->problem;
        both->problem_place = over->problem_place;
    }
    both->keys = kz_arena_zero(arena, (base->count + over->count) * sizeof(*both->keys));
    both->items = kz_arena_zero(arena, (base->count + over->count) * sizeof(*both->items));
    both->count = 0;
    for (size_t i = 0; i < base->count; i++) {
        const struct kz_yaml *new = kz_yaml_get(over, base->keys[i]->text);

        both->keys[both->count] = base->keys[i];
        both->items[both->count++] = new ? kz_yaml_overlay(arena, base->items[i], new)
                                         : base->items[i];
    }
    for (size_t i = 0; i < over->count; i++)
        if (!kz_yaml_get(base, over->keys[i]->text)) {
            both->keys[both->count] = over->keys[i];
            both->items[both->count++] = over->items[i];
        }
    return both;
}

bool kz_yaml_is_null(const struct kz_yaml *node)
{
    return node->kind == KZ_YAML_SCALAR && !node->quoted &&
           (!node->text[0] || strcmp(node->text, "~") == 0 || strcmp(node->text, "null") == 0);
}

static void scalar_json(struct kz_json_out *out, const struct kz_yaml *node)
{
    const char *text = node->text;
    char *end;

    if (kz_yaml_is_null(node)) {
        kz_json_out_null(out);
        return;
    }
    if (!node->quoted && (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)) {
        kz_json_out_bool(out, text[0] == 't');
        return;
    }
    if (!node->quoted && strspn(text, "+-0123456789.eE") == strlen(text)) {
        long long integer = strtoll(text, &end, 10);

        if (!*end) {
            kz_json_out_i64(out, integer);
            return;
        }
        double real = strtod(text, &end);
        if (!*end) {
            kz_json_out_f64(out, real);
            return;
        }
    }
    kz_json_out_str(out, kz_str(text));
}

static void node_json(struct kz_json_out *out, const struct kz_yaml *node)
{
    switch (node->kind) {
    case KZ_YAML_SCALAR:
        scalar_json(out, node);
        break;
    case KZ_YAML_MAP:
        kz_json_out_object(out);
        for (size_t i = 0; i < node->count; i++) {
            kz_json_out_key(out, node->keys[i]->text);
            node_json(out, node->items[i]);
        }
        kz_json_out_object_end(out);
        break;
    case KZ_YAML_LIST:
        kz_json_out_array(out);
        for (size_t i = 0; i < node->count; i++)
            node_json(out, node->items[i]);
        kz_json_out_array_end(out);
        break;
    }
}

const char *kz_yaml_json(struct kz_arena *arena, const struct kz_yaml *node)
{
    struct kz_buf buf = {0};
    struct kz_json_out out = kz_json_out(&buf);
    const char *text;

    node_json(&out, node);
    text = kz_arena_cstr(arena, kz_buf_view(&buf));
    kz_buf_done(&buf);
    return text;
}
