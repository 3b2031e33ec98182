/* app/config/config_model.c -- triggers and models of a project. */
#include "app/config/config_int.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/quantity.h"
#include "sys/file.h"

static const int64_t WINDOW_MS = 7 * 86400000ll; /* of a history, where nothing is said */

static void read_history(struct kz_config_reader *reader, const struct kz_yaml *map,
        struct kz_history_def *history, const struct kz_project *project)
{
    struct kz_fields f = kz_fields(reader, map, "\"history\"");

    int64_t age_ms = project->events.retention_age_ms;

    history->window_ms = kz_fields_duration(
            &f, "window", age_ms ? KZ_MIN(age_ms, WINDOW_MS) : WINDOW_MS);
    history->events_max = (uint32_t)kz_fields_integer(&f, "max_events", 500, 1, 10000000);
    if (age_ms && history->window_ms > age_ms)
        kz_config_problem(reader, map ? map->place : (struct kz_place){project->file, 0, 0},
                "the history window is longer than the retention's age");
    kz_fields_finish(&f);
}

static bool read_include(struct kz_fields *f)
{
    size_t count;
    const char **list = kz_fields_words(f, "include", &count);

    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i], "actions") != 0)
            kz_config_problem(f->reader, f->map->place,
                    "\"include\" knows only \"actions\", not \"%s\"", list[i]);
    return count > 0;
}

void kz_config_trigger(struct kz_config_reader *reader, const struct kz_yaml *key,
        const struct kz_yaml *node, struct kz_trigger_def *trigger,
        const struct kz_project *project)
{
    struct kz_fields f = kz_fields(
            reader, node, kz_arena_printf(reader->arena, "trigger \"%s\"", key->text));
    const struct kz_yaml *count_map;

    kz_config_check_name(reader, key, "trigger");
    trigger->name = key->text;
    trigger->place = key->place;
    trigger->when = kz_fields_text(&f, "when", &trigger->when_place);
    trigger->debounce_ms = kz_fields_duration(&f, "debounce", 0);
    trigger->delay_ms = kz_fields_duration(&f, "delay", 0);
    trigger->unless = kz_fields_text(&f, "unless", &trigger->unless_place);
    trigger->having = kz_fields_text(&f, "having", &trigger->having_place);
    trigger->max_age_ms = kz_fields_duration(&f, "max_age", 10 * 60000);
    trigger->include_actions = read_include(&f);
    read_history(reader, kz_fields_take(&f, "history"), &trigger->history, project);
    trigger->history.include_actions = trigger->include_actions;
    count_map = kz_fields_take(&f, "count");
    if (count_map) {
        struct kz_fields c = kz_fields(reader, count_map, "\"count\"");
        size_t before = reader->problems;

        trigger->count.of = kz_fields_text(&c, "of", &trigger->count_place);
        trigger->count.within_ms = kz_fields_duration(&c, "within", 0);
        trigger->count.reaches = (uint32_t)kz_fields_integer(&c, "reaches", 0, 1, 300);
        trigger->count.rearm_ms = kz_fields_duration(&c, "rearm", trigger->count.within_ms);
        if (!kz_yaml_get(count_map, "of") || !kz_yaml_get(count_map, "within") ||
                !kz_yaml_get(count_map, "reaches") ||
                (reader->problems == before && (!trigger->count.of || !trigger->count.within_ms)))
            kz_config_problem(
                    reader, count_map->place, "\"count\" needs \"of\", \"within\" and \"reaches\"");
        kz_fields_finish(&c);
    }
    if (!trigger->when == !count_map)
        kz_config_problem(
                reader, key->place, "trigger \"%s\" needs either \"when\" or \"count\"", key->text);
    if (trigger->debounce_ms && trigger->delay_ms)
        kz_config_problem(reader, key->place,
                "trigger \"%s\" has \"debounce\" and \"delay\"; a rule has one of them", key->text);
    if (trigger->unless && !trigger->delay_ms)
        kz_config_problem(
                reader, trigger->unless_place, "\"unless\" is for a trigger with \"delay\"");
    kz_fields_finish(&f);
}

static void read_output(
        struct kz_config_reader *reader, const struct kz_yaml *map, struct kz_model_def *model)
{
    struct kz_fields f = kz_fields(reader, map, "\"output\"");
    const struct kz_yaml *embedding;

    model->output.select = (int)kz_fields_integer(&f, "select", -1, 0, 100000);
    if (model->output.select >= 0)
        model->output.kind = KZ_OUTPUT_SELECT;
    model->output.classes = kz_fields_words(&f, "classes", &model->output.class_count);
    if (model->output.class_count)
        model->output.kind = KZ_OUTPUT_CLASSES;
    embedding = kz_fields_take(&f, "embedding");
    if (embedding) {
        struct kz_fields e = kz_fields(reader, embedding, "\"embedding\"");

        model->output.kind = KZ_OUTPUT_EMBEDDING;
        model->output.embedding_size = (uint32_t)kz_fields_integer(&e, "shape", 0, 1, 1 << 20);
        model->output.expose = kz_fields_boolean(&e, "expose", true);
        kz_fields_finish(&e);
    }
    model->output.allow_nan = kz_fields_boolean(&f, "allow_nan", false);
    kz_fields_finish(&f);
}

static void read_features(
        struct kz_config_reader *reader, struct kz_fields *f, struct kz_model_def *model)
{
    size_t size;
    struct kz_err err;

    model->features_path = kz_fields_existing(f, "features", &model->features_place);
    if (!model->features_path)
        return;
    if (kz_fs_read_all(kz_fs_posix(), model->features_path, 1 << 20, &model->features_sql, &size,
                &err) != KZ_OK) {
        kz_config_problem(reader, model->features_place, "%s", err.message);
        return;
    }
    char *copy = kz_arena_cstr(reader->arena, kz_str_n(model->features_sql, size));
    free(model->features_sql);
    model->features_sql = copy;
    /* Messages about the SQL name its own file. */
    const char *shown = model->features_path;
    if (strncmp(shown, reader->dir, strlen(reader->dir)) == 0 && shown[strlen(reader->dir)] == '/')
        shown = kz_arena_printf(reader->arena, "%s%s", reader->given, shown + strlen(reader->dir));
    model->features_place = (struct kz_place){shown, 1, 1};
}

/* Where a model is: a path, or for `http` a URL; with an image of its own that of the Service which
 * `kizashi manifests` makes for it. */
static void read_place(struct kz_config_reader *reader, struct kz_fields *f,
        struct kz_model_def *model, const struct kz_project *project)
{
    bool http = strcmp(model->runtime, "http") == 0;
    const struct kz_yaml *path = kz_yaml_get(f->map, "path"), *image;

    if (!http && !path)
        kz_config_problem(reader, model->place, "model \"%s\" needs \"path\"", model->name);
    if (http && path)
        kz_config_problem(
                reader, path->place, "runtime http calls a \"url\": \"path\" does not go with it");
    model->path = kz_fields_existing(f, "path", NULL);
    image = kz_yaml_get(f->map, "image");
    model->image = kz_fields_text(f, "image", NULL);
    model->url = kz_fields_text(f, "url", NULL);
    if (image && !http)
        kz_config_problem(
                reader, image->place, "\"image\" goes with runtime: http, which asks it over HTTP");
    if (http && !model->url && model->image) {
        char *name = kz_arena_printf(
                reader->arena, "http://kizashi-%s-model-%s", project->name, model->name);

        for (char *at = name; *at; at++)
            *at = *at == '_' ? '-' : (char)tolower((unsigned char)*at);
        model->url = name;
    }
    if (http && !model->url)
        kz_config_problem(
                reader, model->place, "model \"%s\" needs \"url\" (or \"image\")", model->name);
}

static void no_trigger(struct kz_config_reader *reader, struct kz_place place, const char *name,
        const struct kz_project *project)
{
    struct kz_buf names = {0};

    for (size_t i = 0; i < project->trigger_count; i++)
        kz_buf_printf(&names, "%s%s", i ? ", " : "; there are ", project->triggers[i].name);
    kz_config_problem(reader, place, "there is no trigger \"%s\"" KZ_STR_FMT, name,
            KZ_STR_ARG(kz_buf_view(&names)));
    kz_buf_done(&names);
}

static void read_asked_by(struct kz_config_reader *reader, struct kz_fields *f,
        struct kz_model_def *model, const struct kz_project *project)
{
    const struct kz_yaml *trigger = f->map ? kz_yaml_get(f->map, "trigger") : NULL;

    if (trigger && trigger->kind == KZ_YAML_MAP) {
        struct kz_fields after = kz_fields(reader, kz_fields_take(f, "trigger"), "\"trigger\"");

        model->after = kz_fields_text(&after, "after", NULL);
        model->after_when = kz_fields_text(&after, "when", NULL);
        if (!model->after)
            kz_config_problem(
                    reader, trigger->place, "\"trigger\" is a name, a list, or {after: model}");
        kz_fields_finish(&after);
    } else {
        model->triggers = kz_fields_words(f, "trigger", &model->trigger_count);
    }
    for (size_t i = 0; i < model->trigger_count; i++)
        if (!kz_project_trigger(project, kz_str(model->triggers[i])))
            no_trigger(reader, trigger->place, model->triggers[i], project);
}

static void read_label(struct kz_fields *f, struct kz_model_def *model)
{
    struct kz_place place;

    model->label_path = kz_fields_existing(f, "label", &place);
    if (model->label_path)
        kz_config_notice(f->reader, place,
                "\"label\" has no effect yet: no command trains from the history");
}

static void read_batch(
        struct kz_config_reader *reader, const struct kz_yaml *map, struct kz_model_def *model)
{
    struct kz_fields f = kz_fields(reader, map, "\"batch\"");

    model->batch.size_max = (uint32_t)kz_fields_integer(&f, "max", 64, 1, 4096);
    model->batch.wait_us = kz_fields_duration(&f, "wait", 1) * 1000;
    if (f.map && kz_yaml_get(f.map, "wait"))
        kz_config_notice(reader, kz_yaml_get(f.map, "wait")->place,
                "\"wait\" has no effect: a batch is what has come while every replica was busy");
    kz_fields_finish(&f);
}

static void read_replicas(
        struct kz_config_reader *reader, const struct kz_yaml *map, struct kz_model_def *model)
{
    struct kz_fields f = kz_fields(reader, map, "\"replicas\"");

    model->replicas.min = (uint32_t)kz_fields_integer(&f, "min", 1, 0, 256);
    model->replicas.max = (uint32_t)kz_fields_integer(
            &f, "max", KZ_MAX(model->replicas.min, 1u), 1, 256);
    if (model->replicas.max < model->replicas.min)
        kz_config_problem(reader, model->place, "\"replicas\": max is less than min");
    kz_fields_finish(&f);
}

static void read_resources(
        struct kz_config_reader *reader, const struct kz_yaml *map, struct kz_model_def *model)
{
    struct kz_fields f = kz_fields(reader, map, "\"resources\"");
    const struct kz_yaml *cpu = kz_fields_take(&f, "cpu");
    const char *value = kz_config_scalar(reader, cpu, "cpu");
    uint64_t milli = 0;
    struct kz_err err;

    if (value && kz_quantity_milli(kz_str(value), &milli, &err) != KZ_OK)
        kz_config_problem(reader, cpu->place, "\"cpu\": %s", err.message);
    model->resources.cpu_milli = (uint32_t)milli;
    model->resources.memory_bytes = kz_fields_bytes(&f, "memory", 0);
    kz_fields_finish(&f);
}

static const char *read_runtime(struct kz_fields *f)
{
    static const char *const runtimes[] = {"python", "http", NULL};
    /* Known, and refused by the check of the build. */
    static const char *const later[] = {"mlflow", "lightgbm", "xgboost", "onnx", "process"};
    const struct kz_yaml *given = f->map ? kz_yaml_get(f->map, "runtime") : NULL;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(later); i++)
        if (given && given->kind == KZ_YAML_SCALAR && strcmp(given->text, later[i]) == 0) {
            (void)kz_fields_take(f, "runtime");
            return later[i];
        }
    return runtimes[kz_fields_one_of(f, "runtime", runtimes, 0)];
}

void kz_config_model(struct kz_config_reader *reader, const struct kz_yaml *key,
        const struct kz_yaml *node, struct kz_model_def *model, const struct kz_project *project)
{
    struct kz_fields f = kz_fields(
            reader, node, kz_arena_printf(reader->arena, "model \"%s\"", key->text));
    const struct kz_yaml *config;

    kz_config_check_name(reader, key, "model");
    model->name = key->text;
    model->place = key->place;
    read_asked_by(reader, &f, model, project);
    model->runtime = read_runtime(&f);
    read_place(reader, &f, model, project);
    read_features(reader, &f, model);
    read_history(reader, kz_fields_take(&f, "history"), &model->history, project);
    model->history.include_actions = read_include(&f);
    read_label(&f, model);
    model->horizon_ms = kz_fields_duration(&f, "horizon", 10 * 60000);
    model->valid_for_ms = kz_fields_duration(&f, "valid_for", model->horizon_ms);
    read_output(reader, kz_fields_take(&f, "output"), model);
    read_batch(reader, kz_fields_take(&f, "batch"), model);
    read_replicas(reader, kz_fields_take(&f, "replicas"), model);
    read_resources(reader, kz_fields_take(&f, "resources"), model);
    model->timeout_ms = kz_fields_duration(&f, "timeout", 500);
    model->queue_max = (uint32_t)kz_fields_integer(&f, "queue", 10000, 1, 1000000);
    config = kz_fields_take(&f, "config");
    model->config_json = config ? kz_yaml_json(reader->arena, config) : "{}";
    kz_fields_finish(&f);
}
