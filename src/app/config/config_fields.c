#include "app/config/config_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "codec/duration.h"
#include "codec/quantity.h"

void kz_config_problem(struct kz_config_reader *reader, struct kz_place place, const char *fmt, ...)
{
    char text[700];
    struct kz_err err;
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    (void)kz_place_fail(&err, place, "%s", text);
    reader->found = kz_realloc(reader->found, (reader->problems + 1) * sizeof(*reader->found));
    reader->found[reader->problems].place = place;
    reader->found[reader->problems++].message = kz_arena_cstr(reader->arena, kz_str(err.message));
}

static bool is_before(struct kz_place a, struct kz_place b)
{
    int files = strcmp(a.file ? a.file : "", b.file ? b.file : "");

    if (files != 0)
        return files < 0;
    return a.line != b.line ? a.line < b.line : a.column < b.column;
}

void kz_config_report_all(struct kz_config_reader *reader)
{
    for (size_t i = 1; i < reader->problems; i++) {
        struct kz_config_found one = reader->found[i];
        size_t at = i;

        for (; at && is_before(one.place, reader->found[at - 1].place); at--)
            reader->found[at] = reader->found[at - 1];
        reader->found[at] = one;
    }
    for (size_t i = 0; reader->report && i < reader->problems; i++) {
        struct kz_err err;

        (void)kz_fail(&err, KZ_CONFIG, "%s", reader->found[i].message);
        reader->report(reader->arg, &err);
    }
    free(reader->found);
    reader->found = NULL;
}

void kz_config_notice(struct kz_config_reader *reader, struct kz_place place, const char *fmt, ...)
{
    char text[700];
    struct kz_err err;
    va_list args;
    const char **list = kz_arena_zero(reader->arena, (reader->notice_count + 2) * sizeof(*list));

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    (void)kz_place_fail(&err, place, "%s", text);
    if (reader->notice_count)
        memcpy(list, reader->notices, reader->notice_count * sizeof(*list));
    list[reader->notice_count++] = kz_arena_cstr(reader->arena, kz_str(err.message));
    reader->notices = list;
}

struct kz_fields kz_fields(
        struct kz_config_reader *reader, const struct kz_yaml *map, const char *what)
{
    struct kz_fields f = {.reader = reader, .map = map, .what = what};

    if (map && map->kind != KZ_YAML_MAP) {
        if (!kz_yaml_is_null(map))
            kz_config_problem(reader, map->place, "%s has to be a map of keys and values", what);
        f.map = NULL;
    } else if (map && map->count > 64) {
        kz_config_problem(reader, map->place, "%s has more than 64 keys", what);
        f.map = NULL;
    }
    return f;
}

const struct kz_yaml *kz_fields_take(struct kz_fields *f, const char *key)
{
    if (f->known_count < KZ_ARRAY_COUNT(f->known))
        f->known[f->known_count++] = key;
    for (size_t i = 0; f->map && i < f->map->count; i++)
        if (strcmp(f->map->keys[i]->text, key) == 0) {
            f->seen |= 1ull << i;
            return kz_yaml_is_null(f->map->items[i]) ? NULL : f->map->items[i];
        }
    return NULL;
}

/* Levenshtein distance, for names of at most 31 bytes. */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[32], n = (unsigned)strlen(b);

    if (n > 31 || strlen(a) > 31)
        return 99;
    for (unsigned j = 0; j <= n; j++)
        row[j] = j;
    for (unsigned i = 1; a[i - 1]; i++) {
        unsigned diagonal = row[0];

        row[0] = i;
        for (unsigned j = 1; j <= n; j++) {
            unsigned change = diagonal + (a[i - 1] != b[j - 1]);

            diagonal = row[j];
            row[j] = KZ_MIN(change, KZ_MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[n];
}

void kz_fields_finish(struct kz_fields *f)
{
    for (size_t i = 0; f->map && i < f->map->count; i++) {
        const char *key = f->map->keys[i]->text, *near = NULL;
        unsigned best = 3;

        if (f->seen >> i & 1)
            continue;
        for (size_t k = 0; k < f->known_count; k++) {
            unsigned d = distance(key, f->known[k]);

            if (d < best) {
                best = d;
                near = f->known[k];
            }
        }
        if (near)
            kz_config_problem(f->reader, f->map->keys[i]->place,
                    "unknown key \"%s\" in %s; did you mean \"%s\"?", key, f->what, near);
        else
            kz_config_problem(
                    f->reader, f->map->keys[i]->place, "unknown key \"%s\" in %s", key, f->what);
    }
}

const char *kz_config_scalar(
        struct kz_config_reader *reader, const struct kz_yaml *node, const char *key)
{
    if (node && node->kind != KZ_YAML_SCALAR) {
        kz_config_problem(reader, node->place, "\"%s\" has to be a single value", key);
        return NULL;
    }
    return node ? node->text : NULL;
}

const char *kz_fields_text(struct kz_fields *f, const char *key, struct kz_place *ret_place)
{
    const struct kz_yaml *node = kz_fields_take(f, key);

    if (node && ret_place)
        *ret_place = node->place;
    return kz_config_scalar(f->reader, node, key);
}

int64_t kz_fields_duration(struct kz_fields *f, const char *key, int64_t standard_ms)
{
    const struct kz_yaml *node = kz_fields_take(f, key);
    const char *value = kz_config_scalar(f->reader, node, key);
    int64_t ms = standard_ms;
    struct kz_err err;

    if (value && kz_duration_parse(kz_str(value), &ms, &err) != KZ_OK)
        kz_config_problem(f->reader, node->place, "\"%s\": %s", key, err.message);
    return ms;
}

uint64_t kz_fields_bytes(struct kz_fields *f, const char *key, uint64_t standard)
{
    const struct kz_yaml *node = kz_fields_take(f, key);
    const char *value = kz_config_scalar(f->reader, node, key);
    uint64_t size = standard;
    struct kz_err err;

    if (value && kz_quantity_bytes(kz_str(value), &size, &err) != KZ_OK)
        kz_config_problem(f->reader, node->place, "\"%s\": %s", key, err.message);
    return size;
}

int64_t kz_fields_integer(
        struct kz_fields *f, const char *key, int64_t standard, int64_t min, int64_t max)
{
    const struct kz_yaml *node = kz_fields_take(f, key);
    const char *value = kz_config_scalar(f->reader, node, key);
    char *end;
    long long number;

    if (!value)
        return standard;
    errno = 0;
    number = strtoll(value, &end, 10);
    if (errno || *end || end == value || number < min || number > max) {
        kz_config_problem(f->reader, node->place,
                "\"%s\" is \"%s\", it has to be a whole number from %lld to %lld", key, value,
                (long long)min, (long long)max);
        return standard;
    }
    return number;
}

bool kz_fields_boolean(struct kz_fields *f, const char *key, bool standard)
{
    const struct kz_yaml *node = kz_fields_take(f, key);
    const char *value = kz_config_scalar(f->reader, node, key);

    if (!value)
        return standard;
    if (strcmp(value, "true") == 0 || strcmp(value, "yes") == 0)
        return true;
    if (strcmp(value, "false") != 0 && strcmp(value, "no") != 0)
        kz_config_problem(
                f->reader, node->place, "\"%s\" is \"%s\", it has to be true or false", key, value);
    return false;
}

/* The index of a word among `words` (NULL ends them). */
int kz_fields_one_of(struct kz_fields *f, const char *key, const char *const *words, int standard)
{
    const struct kz_yaml *node = kz_fields_take(f, key);
    const char *value = kz_config_scalar(f->reader, node, key);
    struct kz_buf list = {0};

    if (!value)
        return standard;
    for (int i = 0; words[i]; i++) {
        if (strcmp(words[i], value) == 0) {
            kz_buf_done(&list);
            return i;
        }
        kz_buf_printf(&list, "%s%s", i ? ", " : "", words[i]);
    }
    kz_config_problem(f->reader, node->place, "\"%s\" is \"%s\", it has to be one of " KZ_STR_FMT,
            key, value, KZ_STR_ARG(kz_buf_view(&list)));
    kz_buf_done(&list);
    return standard;
}

/* A word or a list of words. */
const char **kz_fields_words(struct kz_fields *f, const char *key, size_t *ret_count)
{
    const struct kz_yaml *node = kz_fields_take(f, key);
    const char **list;

    *ret_count = 0;
    if (!node)
        return NULL;
    if (node->kind == KZ_YAML_SCALAR) {
        list = kz_arena_must(f->reader->arena, sizeof(*list));
        list[(*ret_count)++] = node->text;
        return list;
    }
    if (node->kind != KZ_YAML_LIST) {
        kz_config_problem(
                f->reader, node->place, "\"%s\" has to be a name or a list of names", key);
        return NULL;
    }
    list = kz_arena_zero(f->reader->arena, (node->count + 1) * sizeof(*list));
    for (size_t i = 0; i < node->count; i++) {
        const char *word = kz_config_scalar(f->reader, node->items[i], key);

        if (word)
            list[(*ret_count)++] = word;
    }
    return list;
}

bool kz_config_is_name(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");

    return n > 0 && n <= 63 && !s[n] && !(s[0] >= '0' && s[0] <= '9');
}

void kz_config_check_name(
        struct kz_config_reader *reader, const struct kz_yaml *key, const char *what)
{
    if (!kz_config_is_name(key->text))
        kz_config_problem(reader, key->place,
                "\"%s\" is no name for a %s: letters, digits and _ only, not a digit first",
                key->text, what);
}

static const char *kz_config_absolute(struct kz_config_reader *reader, const char *path)
{
    if (path[0] == '/')
        return path;
    return kz_arena_printf(reader->arena, "%s/%s", reader->dir, path);
}

/* A path that has to be there; relative ones are the project's. */
const char *kz_fields_existing(struct kz_fields *f, const char *key, struct kz_place *ret_place)
{
    const struct kz_yaml *node = kz_fields_take(f, key);
    const char *path = kz_config_scalar(f->reader, node, key);
    struct stat st;

    if (!path)
        return NULL;
    if (ret_place)
        *ret_place = node->place;
    path = kz_config_absolute(f->reader, path);
    if (stat(path, &st) != 0) {
        kz_config_problem(f->reader, node->place, "there is no file \"%s\"", node->text);
        return NULL;
    }
    return path;
}
