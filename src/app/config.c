#include "app/config.h"

#include <errno.h>
#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "app/yaml.h"
#include "base/buf.h"
#include "base/hash.h"
#include "codec/duration.h"
#include "codec/json.h"
#include "codec/quantity.h"
#include "sys/file.h"

struct kz_config {
    struct kz_arena arena;
    struct kz_project project;
};

static const int64_t WINDOW_MS = 7 * 86400000ll; /* of a history, where nothing is said */

enum { CAP_PER_USER_MAX = 320 }; /* times kept of a user (KZ_VIEWS_TIMES_MAX) */

/* ---- reading fields of a map ------------------------------------------------------------------ */

struct reader {
    struct kz_arena *arena;
    const char *dir;
    const char *given; /* the same as it was given, for messages */
    kz_config_report *report;
    void *arg;
    size_t problems;
};

/* A map whose keys are ticked off as they are read; what is left is unknown. */
struct fields {
    struct reader *reader;
    const struct kz_yaml *map;
    const char *what;     /* "trigger \"browsing\"" */
    uint64_t seen;
    const char *known[48]; /* for "did you mean" */
    size_t known_count;
};

static void problem(struct reader *reader, struct kz_place place, const char *fmt, ...)
        KZ_PRINTF(3, 4);
static void problem(struct reader *reader, struct kz_place place, const char *fmt, ...)
{
    char text[700];
    struct kz_err err;
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    (void)kz_place_fail(&err, place, "%s", text);
    reader->problems++;
    if (reader->report)
        reader->report(reader->arg, &err);
}

static struct fields fields(struct reader *reader, const struct kz_yaml *map, const char *what)
{
    struct fields f = {.reader = reader, .map = map, .what = what};

    if (map && map->kind != KZ_YAML_MAP) {
        if (!kz_yaml_is_null(map))
            problem(reader, map->place, "%s has to be a map of keys and values", what);
        f.map = NULL;
    } else if (map && map->count > 64) {
        problem(reader, map->place, "%s has more than 64 keys", what);
        f.map = NULL;
    }
    return f;
}

static const struct kz_yaml *take(struct fields *f, const char *key)
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

static void finish(struct fields *f)
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
            problem(f->reader, f->map->keys[i]->place,
                    "unknown key \"%s\" in %s; did you mean \"%s\"?", key, f->what, near);
        else
            problem(f->reader, f->map->keys[i]->place, "unknown key \"%s\" in %s", key, f->what);
    }
}

static const char *scalar(struct reader *reader, const struct kz_yaml *node, const char *key)
{
    if (node && node->kind != KZ_YAML_SCALAR) {
        problem(reader, node->place, "\"%s\" has to be a single value", key);
        return NULL;
    }
    return node ? node->text : NULL;
}

static const char *text(struct fields *f, const char *key, struct kz_place *ret_place)
{
    const struct kz_yaml *node = take(f, key);

    if (node && ret_place)
        *ret_place = node->place;
    return scalar(f->reader, node, key);
}

static int64_t duration(struct fields *f, const char *key, int64_t standard_ms)
{
    const struct kz_yaml *node = take(f, key);
    const char *value = scalar(f->reader, node, key);
    int64_t ms = standard_ms;
    struct kz_err err;

    if (value && kz_duration_parse(kz_str(value), &ms, &err) != KZ_OK)
        problem(f->reader, node->place, "\"%s\": %s", key, err.message);
    return ms;
}

static uint64_t bytes(struct fields *f, const char *key, uint64_t standard)
{
    const struct kz_yaml *node = take(f, key);
    const char *value = scalar(f->reader, node, key);
    uint64_t size = standard;
    struct kz_err err;

    if (value && kz_quantity_bytes(kz_str(value), &size, &err) != KZ_OK)
        problem(f->reader, node->place, "\"%s\": %s", key, err.message);
    return size;
}

static int64_t integer(struct fields *f, const char *key, int64_t standard, int64_t min, int64_t max)
{
    const struct kz_yaml *node = take(f, key);
    const char *value = scalar(f->reader, node, key);
    char *end;
    long long number;

    if (!value)
        return standard;
    errno = 0;
    number = strtoll(value, &end, 10);
    if (errno || *end || end == value || number < min || number > max) {
        problem(f->reader, node->place, "\"%s\" is \"%s\", it has to be a whole number from %lld to %lld",
                key, value, (long long)min, (long long)max);
        return standard;
    }
    return number;
}

static bool boolean(struct fields *f, const char *key, bool standard)
{
    const struct kz_yaml *node = take(f, key);
    const char *value = scalar(f->reader, node, key);

    if (!value)
        return standard;
    if (strcmp(value, "true") == 0 || strcmp(value, "yes") == 0)
        return true;
    if (strcmp(value, "false") != 0 && strcmp(value, "no") != 0)
        problem(f->reader, node->place, "\"%s\" is \"%s\", it has to be true or false", key, value);
    return false;
}

/* The index of a word among `words` (NULL ends them). */
static int one_of(struct fields *f, const char *key, const char *const *words, int standard)
{
    const struct kz_yaml *node = take(f, key);
    const char *value = scalar(f->reader, node, key);
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
    problem(f->reader, node->place, "\"%s\" is \"%s\", it has to be one of " KZ_STR_FMT, key, value,
            KZ_STR_ARG(kz_buf_view(&list)));
    kz_buf_done(&list);
    return standard;
}

/* A word or a list of words. */
static const char **words(struct fields *f, const char *key, size_t *ret_count)
{
    const struct kz_yaml *node = take(f, key);
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
        problem(f->reader, node->place, "\"%s\" has to be a name or a list of names", key);
        return NULL;
    }
    list = kz_arena_zero(f->reader->arena, (node->count + 1) * sizeof(*list));
    for (size_t i = 0; i < node->count; i++) {
        const char *word = scalar(f->reader, node->items[i], key);

        if (word)
            list[(*ret_count)++] = word;
    }
    return list;
}

static bool is_name(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");

    return n > 0 && n <= 63 && !s[n] && !(s[0] >= '0' && s[0] <= '9');
}

static void check_name(struct reader *reader, const struct kz_yaml *key, const char *what)
{
    if (!is_name(key->text))
        problem(reader, key->place,
                "\"%s\" is no name for a %s: letters, digits and _ only, not a digit first", key->text,
                what);
}

static const char *absolute(struct reader *reader, const char *path)
{
    if (path[0] == '/')
        return path;
    return kz_arena_printf(reader->arena, "%s/%s", reader->dir, path);
}

/* A path that has to be there; relative ones are the project's. */
static const char *existing(struct fields *f, const char *key, struct kz_place *ret_place)
{
    const struct kz_yaml *node = take(f, key);
    const char *path = scalar(f->reader, node, key);
    struct stat st;

    if (!path)
        return NULL;
    if (ret_place)
        *ret_place = node->place;
    path = absolute(f->reader, path);
    if (stat(path, &st) != 0) {
        problem(f->reader, node->place, "there is no file \"%s\"", node->text);
        return NULL;
    }
    return path;
}

/* ---- sections --------------------------------------------------------------------------------- */

static const char *const type_words[] = {"int", "integer", "float", "number", "bool", "boolean",
        "string", "text", NULL};
static const enum kz_type type_values[] = {KZ_TYPE_INT, KZ_TYPE_INT, KZ_TYPE_FLOAT, KZ_TYPE_FLOAT,
        KZ_TYPE_BOOL, KZ_TYPE_BOOL, KZ_TYPE_TEXT, KZ_TYPE_TEXT};

static const char *const builtin_columns[] = {"seq", "event_id", "user_id", "name", "ts",
        "client_ts", "received_at", "session", "props"};

static void read_columns(struct reader *reader, const struct kz_yaml *map, struct kz_project *project)
{
    struct kz_buf print = {0};

    if (!map)
        return;
    if (map->kind != KZ_YAML_MAP || map->count > KZ_COLUMNS_MAX) {
        problem(reader, map->place, "\"columns\" has to be a map of at most %d columns",
                KZ_COLUMNS_MAX);
        return;
    }
    project->events.columns =
            kz_arena_zero(reader->arena, (map->count + 1) * sizeof(*project->events.columns));
    for (size_t i = 0; i < map->count; i++) {
        struct kz_column_def *column = &project->events.columns[project->events.column_count++];
        struct fields f = fields(reader, map->items[i], "a column");
        struct kz_place from_place = map->keys[i]->place;
        struct kz_err err;
        int type;

        column->name = map->keys[i]->text;
        column->place = map->keys[i]->place;
        check_name(reader, map->keys[i], "column");
        for (size_t k = 0; k < KZ_ARRAY_COUNT(builtin_columns); k++)
            if (strcasecmp(builtin_columns[k], column->name) == 0)
                problem(reader, column->place, "every event has a column \"%s\" already",
                        column->name);
        column->path = text(&f, "from", &from_place);
        if (!column->path)
            column->path = kz_arena_printf(reader->arena, "$.%s", column->name);
        else if (kz_json_path_check(kz_str(column->path), &err) != KZ_OK)
            problem(reader, from_place, "%s", err.message);
        type = one_of(&f, "type", type_words, 6);
        column->type = type_values[type];
        finish(&f);
        kz_buf_printf(&print, "%s|%s|%d;", column->name, column->path, (int)column->type);
    }
    project->events.columns_id = (uint32_t)kz_hash_str(kz_buf_view(&print));
    kz_buf_done(&print);
}

static void read_events(struct reader *reader, const struct kz_yaml *map, struct kz_project *project)
{
    struct fields f = fields(reader, map, "\"events\""), clock, retention;

    read_columns(reader, take(&f, "columns"), project);
    clock = fields(reader, take(&f, "clock"), "\"clock\"");
    project->events.max_ahead_ms = duration(&clock, "max_ahead", 5000);
    project->events.max_behind_ms = duration(&clock, "max_behind", 24 * 3600 * 1000);
    finish(&clock);
    project->events.dedupe_ms = duration(&f, "dedupe", 7 * 86400000ll);
    project->events.session_gap_ms = duration(&f, "session_gap", 30 * 60000);
    retention = fields(reader, take(&f, "retention"), "\"retention\"");
    project->events.retention_age_ms = duration(&retention, "age", 90 * 86400000ll);
    project->events.retention_size_bytes = bytes(&retention, "size", 0);
    finish(&retention);
    finish(&f);
}

static void read_table(struct reader *reader, const struct kz_yaml *key, const struct kz_yaml *node,
        struct kz_table_def *table)
{
    struct fields f =
            fields(reader, node, kz_arena_printf(reader->arena, "table \"%s\"", key->text));
    const struct kz_yaml *columns;

    check_name(reader, key, "table");
    table->name = key->text;
    table->place = key->place;
    table->file = existing(&f, "file", NULL);
    table->sql = text(&f, "sql", &table->place);
    table->key = text(&f, "key", NULL);
    columns = take(&f, "columns");
    if (columns && columns->kind == KZ_YAML_MAP) {
        table->columns = kz_arena_zero(reader->arena, columns->count * sizeof(*table->columns));
        for (size_t i = 0; i < columns->count; i++) {
            struct kz_column_def *column = &table->columns[table->column_count++];
            const char *type = scalar(reader, columns->items[i], columns->keys[i]->text);

            column->name = columns->keys[i]->text;
            column->place = columns->keys[i]->place;
            column->type = KZ_TYPE_TEXT;
            for (size_t t = 0;; t++) {
                if (!type_words[t]) {
                    problem(reader, columns->items[i]->place,
                            "\"%s\" is no type; they are int, float, bool, string", type ? type : "");
                    break;
                }
                if (type && strcmp(type_words[t], type) == 0) {
                    column->type = type_values[t];
                    break;
                }
            }
        }
    } else if (columns) {
        problem(reader, columns->place, "\"columns\" has to be a map of names and types");
    }
    if (!kz_yaml_get(node, "file") == !kz_yaml_get(node, "sql"))
        problem(reader, key->place, "table \"%s\" needs either \"file\" or \"sql\"", key->text);
    finish(&f);
}

static void read_history(struct reader *reader, const struct kz_yaml *map,
        struct kz_history_def *history, const struct kz_project *project)
{
    struct fields f = fields(reader, map, "\"history\"");

    int64_t age_ms = project->events.retention_age_ms;

    history->window_ms = duration(&f, "window", age_ms ? KZ_MIN(age_ms, WINDOW_MS) : WINDOW_MS);
    history->events_max = (uint32_t)integer(&f, "max_events", 500, 1, 10000000);
    if (age_ms && history->window_ms > age_ms)
        problem(reader, map ? map->place : (struct kz_place){project->file, 0, 0},
                "the history window is longer than the retention's age");
    finish(&f);
}

static bool read_include(struct fields *f)
{
    size_t count;
    const char **list = words(f, "include", &count);

    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i], "actions") != 0)
            problem(f->reader, f->map->place, "\"include\" knows only \"actions\", not \"%s\"",
                    list[i]);
    return count > 0;
}

static void read_trigger(struct reader *reader, const struct kz_yaml *key, const struct kz_yaml *node,
        struct kz_trigger_def *trigger, const struct kz_project *project)
{
    struct fields f =
            fields(reader, node, kz_arena_printf(reader->arena, "trigger \"%s\"", key->text));
    const struct kz_yaml *count_map;

    check_name(reader, key, "trigger");
    trigger->name = key->text;
    trigger->place = key->place;
    trigger->when = text(&f, "when", &trigger->when_place);
    trigger->debounce_ms = duration(&f, "debounce", 0);
    trigger->delay_ms = duration(&f, "delay", 0);
    trigger->unless = text(&f, "unless", &trigger->unless_place);
    trigger->having = text(&f, "having", &trigger->having_place);
    trigger->max_age_ms = duration(&f, "max_age", 10 * 60000);
    trigger->include_actions = read_include(&f);
    read_history(reader, take(&f, "history"), &trigger->history, project);
    trigger->history.include_actions = trigger->include_actions;
    count_map = take(&f, "count");
    if (count_map) {
        struct fields c = fields(reader, count_map, "\"count\"");

        trigger->count.of = text(&c, "of", &trigger->count_place);
        trigger->count.within_ms = duration(&c, "within", 0);
        trigger->count.reaches = (uint32_t)integer(&c, "reaches", 0, 1, 300);
        trigger->count.rearm_ms = duration(&c, "rearm", trigger->count.within_ms);
        if (!trigger->count.of || !trigger->count.within_ms || !trigger->count.reaches)
            problem(reader, count_map->place, "\"count\" needs \"of\", \"within\" and \"reaches\"");
        finish(&c);
    }
    if (!trigger->when == !count_map)
        problem(reader, key->place, "trigger \"%s\" needs either \"when\" or \"count\"", key->text);
    if (trigger->debounce_ms && trigger->delay_ms)
        problem(reader, key->place,
                "trigger \"%s\" has \"debounce\" and \"delay\"; a rule has one of them", key->text);
    if (trigger->unless && !trigger->delay_ms)
        problem(reader, trigger->unless_place, "\"unless\" is for a trigger with \"delay\"");
    finish(&f);
}

static void read_output(struct reader *reader, const struct kz_yaml *map, struct kz_model_def *model)
{
    struct fields f = fields(reader, map, "\"output\"");
    const struct kz_yaml *embedding;

    model->output.select = (int)integer(&f, "select", -1, 0, 100000);
    if (model->output.select >= 0)
        model->output.kind = KZ_OUTPUT_SELECT;
    model->output.classes = words(&f, "classes", &model->output.class_count);
    if (model->output.class_count)
        model->output.kind = KZ_OUTPUT_CLASSES;
    embedding = take(&f, "embedding");
    if (embedding) {
        struct fields e = fields(reader, embedding, "\"embedding\"");

        model->output.kind = KZ_OUTPUT_EMBEDDING;
        model->output.embedding_size = (uint32_t)integer(&e, "shape", 0, 1, 1 << 20);
        model->output.expose = boolean(&e, "expose", true);
        finish(&e);
    }
    model->output.allow_nan = boolean(&f, "allow_nan", false);
    finish(&f);
}

static void read_features(struct reader *reader, struct fields *f, struct kz_model_def *model)
{
    size_t size;
    struct kz_err err;

    model->features_path = existing(f, "features", &model->features_place);
    if (!model->features_path)
        return;
    if (kz_fs_read_all(kz_fs_posix(), model->features_path, 1 << 20, &model->features_sql, &size,
                &err) != KZ_OK) {
        problem(reader, model->features_place, "%s", err.message);
        return;
    }
    char *copy = kz_arena_cstr(reader->arena, kz_str_n(model->features_sql, size));
    free(model->features_sql);
    model->features_sql = copy;
    /* Messages about the SQL name its own file. */
    const char *shown = model->features_path;
    if (strncmp(shown, reader->dir, strlen(reader->dir)) == 0 && shown[strlen(reader->dir)] == '/')
        shown = kz_arena_printf(
                reader->arena, "%s%s", reader->given, shown + strlen(reader->dir));
    model->features_place = (struct kz_place){shown, 1, 1};
}

/* Where a model is: a path, or for `http` a URL; with an image of its own that of the Service which
 * `kizashi manifests` makes for it. */
static void read_place(struct reader *reader, struct fields *f, struct kz_model_def *model,
        const struct kz_project *project)
{
    bool http = strcmp(model->runtime, "http") == 0;
    const struct kz_yaml *path = kz_yaml_get(f->map, "path"), *image;

    if (!http && !path)
        problem(reader, model->place, "model \"%s\" needs \"path\"", model->name);
    if (http && path)
        problem(reader, path->place, "runtime http calls a \"url\": \"path\" does not go with it");
    model->path = existing(f, "path", NULL);
    image = kz_yaml_get(f->map, "image");
    model->image = text(f, "image", NULL);
    model->url = text(f, "url", NULL);
    if (image && !http)
        problem(reader, image->place, "\"image\" goes with runtime: http, which asks it over HTTP");
    if (http && !model->url && model->image) {
        char *name = kz_arena_printf(
                reader->arena, "http://kizashi-%s-model-%s", project->name, model->name);

        for (char *at = name; *at; at++)
            *at = *at == '_' ? '-' : (char)tolower((unsigned char)*at);
        model->url = name;
    }
    if (http && !model->url)
        problem(reader, model->place, "model \"%s\" needs \"url\" (or \"image\")", model->name);
}

static void read_model(struct reader *reader, const struct kz_yaml *key, const struct kz_yaml *node,
        struct kz_model_def *model, const struct kz_project *project)
{
    static const char *const runtimes[] = {
            "python", "mlflow", "lightgbm", "xgboost", "onnx", "process", "http", NULL};
    struct fields f = fields(reader, node, kz_arena_printf(reader->arena, "model \"%s\"", key->text));
    const struct kz_yaml *trigger = kz_yaml_get(node, "trigger"), *config;
    struct fields batch, replicas, resources;

    check_name(reader, key, "model");
    model->name = key->text;
    model->place = key->place;
    if (trigger && trigger->kind == KZ_YAML_MAP) {
        struct fields after = fields(reader, take(&f, "trigger"), "\"trigger\"");

        model->after = text(&after, "after", NULL);
        model->after_when = text(&after, "when", NULL);
        if (!model->after)
            problem(reader, trigger->place, "\"trigger\" is a name, a list, or {after: model}");
        finish(&after);
    } else {
        model->triggers = words(&f, "trigger", &model->trigger_count);
    }
    for (size_t i = 0; i < model->trigger_count; i++)
        if (!kz_project_trigger(project, kz_str(model->triggers[i])))
            problem(reader, trigger->place, "there is no trigger \"%s\"", model->triggers[i]);
    model->runtime = runtimes[one_of(&f, "runtime", runtimes, 0)];
    read_place(reader, &f, model, project);
    read_features(reader, &f, model);
    read_history(reader, take(&f, "history"), &model->history, project);
    model->history.include_actions = read_include(&f);
    model->label_path = existing(&f, "label", NULL);
    model->horizon_ms = duration(&f, "horizon", 10 * 60000);
    model->valid_for_ms = duration(&f, "valid_for", model->horizon_ms);
    read_output(reader, take(&f, "output"), model);
    batch = fields(reader, take(&f, "batch"), "\"batch\"");
    model->batch.size_max = (uint32_t)integer(&batch, "max", 64, 1, 4096);
    model->batch.wait_us = duration(&batch, "wait", 1) * 1000;
    finish(&batch);
    replicas = fields(reader, take(&f, "replicas"), "\"replicas\"");
    model->replicas.min = (uint32_t)integer(&replicas, "min", 1, 0, 256);
    model->replicas.max = (uint32_t)integer(
            &replicas, "max", KZ_MAX(model->replicas.min, 1u), 1, 256);
    if (model->replicas.max < model->replicas.min)
        problem(reader, key->place, "\"replicas\": max is less than min");
    finish(&replicas);
    resources = fields(reader, take(&f, "resources"), "\"resources\"");
    {
        const struct kz_yaml *cpu = take(&resources, "cpu");
        const char *value = scalar(reader, cpu, "cpu");
        uint64_t milli = 0;
        struct kz_err err;

        if (value && kz_quantity_milli(kz_str(value), &milli, &err) != KZ_OK)
            problem(reader, cpu->place, "\"cpu\": %s", err.message);
        model->resources.cpu_milli = (uint32_t)milli;
    }
    model->resources.memory_bytes = bytes(&resources, "memory", 0);
    finish(&resources);
    model->timeout_ms = duration(&f, "timeout", 500);
    model->queue_max = (uint32_t)integer(&f, "queue", 10000, 1, 1000000);
    config = take(&f, "config");
    model->config_json = config ? kz_yaml_json(reader->arena, config) : "{}";
    finish(&f);
}

static void read_clock_range(struct reader *reader, const struct kz_yaml *node, const char *hours,
        struct kz_action_def *action)
{
    unsigned h1, m1, h2, m2;
    char rest;

    if (sscanf(hours, "%2u:%2u-%2u:%2u%c", &h1, &m1, &h2, &m2, &rest) != 4 || h1 > 23 || m1 > 59 ||
            h2 > 24 || m2 > 59 || (h2 == 24 && m2)) {
        problem(reader, node->place, "\"hours\" is \"%s\", it has to be like \"10:00-18:00\"", hours);
        return;
    }
    action->schedule.start_minute = (int)(h1 * 60 + m1);
    action->schedule.end_minute = (int)(h2 * 60 + m2);
}

static int weekday(struct kz_str name)
{
    static const char *const days[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};

    for (int i = 0; i < 7; i++)
        if (kz_str_is(name, days[i]))
            return i;
    return -1;
}

/* "mon-fri", "sat,sun", "mon,wed-fri" */
static void read_days(struct reader *reader, const struct kz_yaml *node, const char *days,
        struct kz_action_def *action)
{
    action->schedule.weekdays = 0;
    while (*days) {
        size_t n = strcspn(days, ",");
        struct kz_str part = kz_str_n(days, n), from = part, to = part;
        const char *dash = memchr(days, '-', n);
        int a, b;

        if (dash) {
            from = kz_str_n(days, (size_t)(dash - days));
            to = kz_str_n(dash + 1, n - from.size - 1);
        }
        while (from.size && from.ptr[0] == ' ') {
            from.ptr++;
            from.size--;
            if (!dash)
                to = from;
        }
        a = weekday(from);
        b = weekday(to);
        if (a < 0 || b < 0) {
            problem(reader, node->place,
                    "\"days\": \"" KZ_STR_FMT "\" is not a day or a range of days (mon ... sun)",
                    KZ_STR_ARG(part));
            return;
        }
        for (int d = a;; d = (d + 1) % 7) {
            action->schedule.weekdays |= (uint8_t)(1 << d);
            if (d == b)
                break;
        }
        days += n + (days[n] == ',');
    }
}

static void read_schedule(struct reader *reader, const struct kz_yaml *map,
        struct kz_action_def *action)
{
    struct fields f = fields(reader, map, "\"schedule\"");
    const char *days, *hours;

    action->schedule.weekdays = 0x7f;
    action->schedule.end_minute = 24 * 60;
    action->schedule.tz = "UTC";
    if (!map)
        return;
    action->schedule.set = true;
    if ((days = text(&f, "days", NULL)))
        read_days(reader, kz_yaml_get(map, "days"), days, action);
    if ((hours = text(&f, "hours", NULL)))
        read_clock_range(reader, kz_yaml_get(map, "hours"), hours, action);
    if (kz_yaml_get(map, "tz"))
        action->schedule.tz = text(&f, "tz", NULL);
    finish(&f);
}

static void read_cap(struct reader *reader, const struct kz_yaml *node, struct kz_cap_def *cap)
{
    static const char *const per[] = {"total", "user", NULL};
    struct fields f = fields(reader, node, "a cap");
    const struct kz_yaml *every;
    const char *value;
    struct kz_err err;

    cap->max = (uint32_t)integer(&f, "max", 1, 0, 100000);
    cap->per_user = one_of(&f, "per", per, 1) == 1;
    cap->tz = text(&f, "tz", NULL);
    if (!cap->tz)
        cap->tz = "UTC";
    every = take(&f, "every");
    value = scalar(reader, every, "every");
    cap->every_ms = 86400000;
    if (value && strcmp(value, "day") == 0)
        cap->every_ms = 0;
    else if (value && kz_duration_parse(kz_str(value), &cap->every_ms, &err) != KZ_OK)
        problem(reader, every->place, "\"every\": %s, or \"day\"", err.message);
    if (cap->per_user && cap->max > CAP_PER_USER_MAX)
        problem(reader, node->place, "a cap per user can be at most %d", CAP_PER_USER_MAX);
    finish(&f);
}

/* A share written "10%" or 0.1. */
static double share(struct fields *f, const char *key)
{
    const struct kz_yaml *node = take(f, key);
    const char *value = scalar(f->reader, node, key);
    char *end;
    double part;

    if (!value)
        return 0;
    part = strtod(value, &end);
    if (*end == '%' && !end[1]) {
        part /= 100;
        end++;
    }
    if (end == value || *end || !(part >= 0 && part <= 1)) {
        problem(f->reader, node->place, "\"%s\" is \"%s\", it has to be a share like 10%%", key, value);
        return 0;
    }
    return part;
}

static void read_deliver(struct reader *reader, const struct kz_yaml *map,
        struct kz_action_def *action, const struct kz_project *project)
{
    static const char *const kinds[] = {"web", "webhook", "pubsub"};
    struct fields f = fields(reader, map, "\"deliver\"");
    size_t given = 0;

    action->deliver.payload_json = "{}";
    for (size_t i = 0; i < KZ_ARRAY_COUNT(kinds); i++) {
        const struct kz_yaml *how = take(&f, kinds[i]);

        if (!how)
            continue;
        given++;
        action->deliver.kind = (enum kz_deliver_kind)(i + 1);
        if (action->deliver.kind == KZ_DELIVER_WEB) {
            action->deliver.payload_json = kz_yaml_json(reader->arena, how);
        } else if (action->deliver.kind == KZ_DELIVER_WEBHOOK) {
            struct fields w = fields(reader, how, "\"webhook\"");
            const struct kz_yaml *body;

            action->deliver.url = text(&w, "url", NULL);
            action->deliver.secret = text(&w, "secret", NULL);
            action->deliver.timeout_ms = duration(&w, "timeout", 5000);
            action->deliver.attempts_max = (uint32_t)integer(&w, "attempts", 8, 1, 100);
            if ((body = take(&w, "body")))
                action->deliver.payload_json = kz_yaml_json(reader->arena, body);
            if (!action->deliver.url || (strncmp(action->deliver.url, "http://", 7) != 0 &&
                                                strncmp(action->deliver.url, "https://", 8) != 0))
                problem(reader, how->place, "\"webhook\" needs a \"url\" that starts with http(s)://");
            finish(&w);
        } else {
            action->deliver.payload_json = kz_yaml_json(reader->arena, how);
            if (project->backends.bus == KZ_BACKEND_EMBEDDED)
                problem(reader, how->place,
                        "\"pubsub\" delivery needs a bus: \"backends: {bus: pubsub}\"; use \"web\" "
                        "or \"webhook\" without one");
        }
    }
    action->deliver.valid_for_ms = duration(&f, "valid_for", 10 * 60000);
    if (given != 1)
        problem(reader, map ? map->place : action->place,
                "action \"%s\" needs \"deliver\" with one of web, webhook and pubsub", action->name);
    finish(&f);
}

static void read_action(struct reader *reader, const struct kz_yaml *key, const struct kz_yaml *node,
        struct kz_action_def *action, const struct kz_project *project)
{
    static const char *const modes[] = {"off", "shadow", "on", NULL};
    struct fields f =
            fields(reader, node, kz_arena_printf(reader->arena, "action \"%s\"", key->text));
    const struct kz_yaml *caps, *goal;

    check_name(reader, key, "action");
    action->name = key->text;
    action->place = key->place;
    action->mode = (enum kz_action_mode)one_of(&f, "mode", modes, KZ_MODE_OFF);
    action->when = text(&f, "when", &action->when_place);
    if (!action->when)
        problem(reader, key->place, "action \"%s\" needs \"when\"", key->text);
    action->having = text(&f, "having", &action->having_place);
    read_schedule(reader, take(&f, "schedule"), action);
    action->holdout = share(&f, "holdout");
    caps = take(&f, "caps");
    if (caps && caps->kind == KZ_YAML_LIST) {
        action->caps = kz_arena_zero(reader->arena, (caps->count + 1) * sizeof(*action->caps));
        for (size_t i = 0; i < caps->count; i++)
            read_cap(reader, caps->items[i], &action->caps[action->cap_count++]);
    } else if (caps) {
        problem(reader, caps->place, "\"caps\" has to be a list");
    }
    goal = take(&f, "goal");
    if (goal) {
        struct fields g = fields(reader, goal, "\"goal\"");

        action->goal.event = text(&g, "event", NULL);
        action->goal.within_ms = duration(&g, "within", 86400000);
        action->goal.value = text(&g, "value", NULL);
        finish(&g);
    }
    read_deliver(reader, take(&f, "deliver"), action, project);
    finish(&f);
}

static void read_limits(struct reader *reader, const struct kz_yaml *map, struct kz_project *project)
{
    struct fields f = fields(reader, map, "\"limits\"");

    project->limits.segment_size_bytes = bytes(&f, "segment_size", 256ull << 20);
    project->limits.checkpoint_bytes = bytes(&f, "checkpoint", 256ull << 20);
    project->limits.dedupe_memory_bytes = bytes(&f, "dedupe_memory", 256ull << 20);
    project->limits.reserve_bytes = bytes(&f, "reserve", 64ull << 20);
    project->limits.pending_max = (uint32_t)integer(&f, "pending", 1000000, 1, 100000000);
    project->limits.python = text(&f, "python", NULL);
    project->limits.dead_letters_max = (uint32_t)integer(&f, "dead_letters", 100000, 1, 10000000);
    if (project->limits.segment_size_bytes < (16ull << 20) ||
            project->limits.segment_size_bytes > (3ull << 30))
        problem(reader, map ? map->place : (struct kz_place){project->file, 0, 0},
                "\"segment_size\" has to lie between 16Mi and 3Gi");
    finish(&f);
}

/* ---- backends ---------------------------------------------------------------------------------- */

/* A name of Google Cloud: what each service permits beyond that it says itself. */
static const char *cloud_name(struct fields *f, const char *key, const char *standard)
{
    const struct kz_yaml *node = take(f, key);
    const char *value = scalar(f->reader, node, key);
    size_t n;

    if (!value || !*value)
        return standard;
    n = strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:");
    if (value[n] || n > 63)
        problem(f->reader, node->place,
                "\"%s\" is \"%s\", it has to be 1 to 63 of letters, digits, - and _", key, value);
    return value;
}

/* Spanner takes lower case only. */
static const char *database_name(struct reader *reader, const char *project)
{
    char *name = kz_arena_cstr(reader->arena, kz_str(project ? project : "kizashi"));

    for (char *c = name; *c; c++)
        *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
    if (strlen(name) > 30)
        name[30] = '\0';
    return name;
}

static void read_push(struct reader *reader, const struct kz_yaml *map, struct kz_backends_def *def)
{
    struct fields f = fields(reader, map, "\"push\"");

    def->gcp.push.audience = text(&f, "audience", NULL);
    def->gcp.push.email = text(&f, "email", NULL);
    def->gcp.push.jwks = text(&f, "jwks", NULL);
    if (map && !def->gcp.push.audience)
        problem(reader, map->place, "\"push\" needs an \"audience\": the one of the subscription's "
                                    "push endpoint");
    finish(&f);
}

static void read_gcp(struct reader *reader, const struct kz_yaml *map, struct kz_project *project)
{
    struct fields f = fields(reader, map, "\"gcp\""), part;
    struct kz_backends_def *def = &project->backends;

    def->gcp.project = cloud_name(&f, "project", NULL);
    if (!def->gcp.project && getenv("GOOGLE_CLOUD_PROJECT"))
        def->gcp.project = kz_arena_cstr(reader->arena, kz_str(getenv("GOOGLE_CLOUD_PROJECT")));
    def->gcp.prefix = cloud_name(&f, "prefix", "");
    part = fields(reader, take(&f, "spanner"), "\"spanner\"");
    def->gcp.spanner_instance = cloud_name(&part, "instance", "kizashi");
    def->gcp.spanner_database =
            cloud_name(&part, "database", database_name(reader, project->name));
    finish(&part);
    part = fields(reader, take(&f, "bigtable"), "\"bigtable\"");
    def->gcp.bigtable_instance = cloud_name(&part, "instance", "kizashi");
    def->gcp.bigtable_app_profile = cloud_name(&part, "app_profile", NULL);
    finish(&part);
    read_push(reader, take(&f, "push"), def);
    finish(&f);
}

/* Names of Google Cloud are filled in without the section too: `--backend gcp` may ask for it. */
static void read_backends(struct reader *reader, const struct kz_yaml *map,
        struct kz_project *project)
{
    static const char *const bus[] = {"memory", "pubsub", NULL};
    static const char *const history[] = {"memory", "spanner", NULL};
    static const char *const predictions[] = {"memory", "bigtable", NULL};
    struct fields f = fields(reader, map, "\"backends\"");
    struct kz_backends_def *def = &project->backends;

    if (map) {
        def->place = map->place;
        def->bus = (enum kz_backend)(KZ_BACKEND_MEMORY + one_of(&f, "bus", bus, 1));
        def->history = (enum kz_backend)(KZ_BACKEND_MEMORY + one_of(&f, "history", history, 1));
        def->predictions =
                (enum kz_backend)(KZ_BACKEND_MEMORY + one_of(&f, "predictions", predictions, 1));
    }
    read_gcp(reader, take(&f, "gcp"), project);
    finish(&f);
}

/* A map of named things; gives how many, so that the caller can make room for them. */
static const struct kz_yaml *named(struct fields *f, const char *key, size_t *ret_count)
{
    const struct kz_yaml *map = take(f, key);

    *ret_count = 0;
    if (map && map->kind != KZ_YAML_MAP) {
        problem(f->reader, map->place, "\"%s\" has to be a map of names", key);
        return NULL;
    }
    if (map && map->count > 200) {
        problem(f->reader, map->place, "more than 200 %s", key);
        return NULL;
    }
    if (map)
        *ret_count = map->count;
    return map;
}

static void check_after(struct reader *reader, const struct kz_project *project)
{
    for (size_t i = 0; i < project->model_count; i++) {
        const struct kz_model_def *model = &project->models[i], *at = model;
        size_t steps = 0;

        while (at && at->after && steps++ <= project->model_count) {
            const struct kz_model_def *next = kz_project_model(project, kz_str(at->after));

            if (!next)
                problem(reader, at->place, "model \"%s\" comes after \"%s\", which is not there",
                        at->name, at->after);
            at = next;
        }
        if (at && steps > project->model_count)
            problem(reader, model->place, "model \"%s\" comes after itself", model->name);
    }
}

static void read_project(struct reader *reader, const struct kz_yaml *root, struct kz_project *project)
{
    struct fields f = fields(reader, root, "the project");
    const struct kz_yaml *map;

    project->name = text(&f, "project", NULL);
    if (!project->name)
        problem(reader, root->place, "the project needs a name: \"project: shop\"");
    else if (!is_name(project->name))
        problem(reader, kz_yaml_get(root, "project")->place,
                "\"%s\" is no name for a project: letters, digits and _ only", project->name);
    read_backends(reader, take(&f, "backends"), project);
    read_events(reader, take(&f, "events"), project);
    map = named(&f, "tables", &project->table_count);
    project->tables = kz_arena_zero(reader->arena, (project->table_count + 1) * sizeof(*project->tables));
    for (size_t i = 0; i < project->table_count; i++)
        read_table(reader, map->keys[i], map->items[i], &project->tables[i]);
    map = named(&f, "triggers", &project->trigger_count);
    project->triggers =
            kz_arena_zero(reader->arena, (project->trigger_count + 1) * sizeof(*project->triggers));
    for (size_t i = 0; i < project->trigger_count; i++)
        read_trigger(reader, map->keys[i], map->items[i], &project->triggers[i], project);
    map = named(&f, "models", &project->model_count);
    project->models = kz_arena_zero(reader->arena, (project->model_count + 1) * sizeof(*project->models));
    for (size_t i = 0; i < project->model_count; i++)
        read_model(reader, map->keys[i], map->items[i], &project->models[i], project);
    check_after(reader, project);
    map = named(&f, "actions", &project->action_count);
    project->actions =
            kz_arena_zero(reader->arena, (project->action_count + 1) * sizeof(*project->actions));
    for (size_t i = 0; i < project->action_count; i++)
        read_action(reader, map->keys[i], map->items[i], &project->actions[i], project);
    read_limits(reader, take(&f, "limits"), project);
    finish(&f);
}

/* ---- the directory ----------------------------------------------------------------------------- */

static enum kz_code read_tree(struct kz_config *config, const char *dir, const char *env,
        const struct kz_yaml **ret_root, struct kz_err *err)
{
    struct kz_arena *arena = &config->arena;
    const struct kz_yaml *over;

    config->project.file = kz_arena_printf(arena, "%s/kizashi.yaml", dir);
    KZ_TRY(kz_yaml_read(arena, config->project.file, config->project.file, ret_root, err));
    if (!env)
        return KZ_OK;
    const char *path = kz_arena_printf(arena, "%s/kizashi.%s.yaml", dir, env);
    KZ_TRY(kz_yaml_read(arena, path, path, &over, err));
    *ret_root = kz_yaml_overlay(arena, *ret_root, over);
    return KZ_OK;
}

enum kz_code kz_config_load(const char *dir, const char *env, kz_config_report *report, void *arg,
        struct kz_config **ret_config, struct kz_err *err)
{
    KZ_AUTO(kz_config_freep) struct kz_config *config = NULL;
    size_t problems;

    KZ_TRY(kz_config_read(dir, env, report, arg, &config, &problems, err));
    if (problems)
        return kz_fail(err, KZ_CONFIG, "%zu error%s in the project \"%s\"", problems,
                problems == 1 ? "" : "s", dir);
    *ret_config = kz_take(&config);
    return KZ_OK;
}

enum kz_code kz_config_read(const char *dir, const char *env, kz_config_report *report, void *arg,
        struct kz_config **ret_config, size_t *ret_problems, struct kz_err *err)
{
    KZ_AUTO(kz_config_freep) struct kz_config *config = kz_calloc(1, sizeof(*config));
    struct reader reader = {.report = report, .arg = arg};
    const struct kz_yaml *root = NULL;
    char *real;
    enum kz_code rc;

    kz_arena_init(&config->arena, 0);
    reader.arena = &config->arena;
    real = realpath(dir, NULL);
    if (!real)
        return kz_fail_errno(err, "could not open the project \"%s\"", dir);
    config->project.dir = kz_arena_cstr(&config->arena, kz_str(real));
    free(real);
    reader.dir = config->project.dir;
    reader.given = kz_arena_cstr(&config->arena, kz_str(dir));
    rc = read_tree(config, dir, env, &root, err);
    if (rc == KZ_NOT_FOUND)
        return kz_hint(err, "`kizashi init DIR` makes a project");
    if (rc == KZ_CONFIG && report)
        report(arg, err);
    KZ_TRY(rc);
    read_project(&reader, root, &config->project);
    *ret_problems = reader.problems;
    *ret_config = kz_take(&config);
    return KZ_OK;
}

void kz_config_free(struct kz_config *config)
{
    if (!config)
        return;
    kz_arena_done(&config->arena);
    free(config);
}

const struct kz_project *kz_config_project(const struct kz_config *config)
{
    return &config->project;
}
