#include "app/config/config_int.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/hash.h"
#include "codec/json.h"
#include "contract/store.h"
#include "sys/file.h"

struct kz_config {
    struct kz_arena arena;
    struct kz_project project;
    const char **notices; /* or NULL */
};

/* ---- sections ---------------------------------------------------------------------------------
 */

static const char *const type_words[] = {
        "int", "integer", "float", "number", "bool", "boolean", "string", "text", NULL};
static const enum kz_type type_values[] = {KZ_TYPE_INT, KZ_TYPE_INT, KZ_TYPE_FLOAT, KZ_TYPE_FLOAT,
        KZ_TYPE_BOOL, KZ_TYPE_BOOL, KZ_TYPE_TEXT, KZ_TYPE_TEXT};

static const char *const builtin_columns[] = {
        "seq", "event_id", "user_id", "name", "ts", "client_ts", "received_at", "session", "props"};

static bool is_builtin(const char *name)
{
    for (size_t i = 0; i < KZ_ARRAY_COUNT(builtin_columns); i++)
        if (strcasecmp(builtin_columns[i], name) == 0)
            return true;
    return false;
}

static void read_columns(
        struct kz_config_reader *reader, const struct kz_yaml *map, struct kz_project *project)
{
    struct kz_buf print = {0};

    if (!map)
        return;
    if (map->kind != KZ_YAML_MAP || map->count > KZ_COLUMNS_MAX) {
        kz_config_problem(reader, map->place, "\"columns\" has to be a map of at most %d columns",
                KZ_COLUMNS_MAX);
        return;
    }
    project->events.columns = kz_arena_zero(
            reader->arena, (map->count + 1) * sizeof(*project->events.columns));
    for (size_t i = 0; i < map->count; i++) {
        struct kz_column_def *column = &project->events.columns[project->events.column_count++];
        struct kz_fields f = kz_fields(reader, map->items[i], "a column");
        struct kz_place from_place = map->keys[i]->place;
        struct kz_err err;
        bool builtin;
        int type;

        column->name = map->keys[i]->text;
        column->place = map->keys[i]->place;
        kz_config_check_name(reader, map->keys[i], "column");
        builtin = is_builtin(column->name);
        if (builtin)
            kz_config_problem(
                    reader, column->place, "every event has a column \"%s\" already", column->name);
        column->path = kz_fields_text(&f, "from", &from_place);
        if (!column->path)
            column->path = kz_arena_printf(reader->arena, "$.%s", column->name);
        else if (kz_json_path_check(kz_str(column->path), &err) != KZ_OK)
            kz_config_problem(reader, from_place, "%s", err.message);
        type = kz_fields_one_of(&f, "type", type_words, 6);
        column->type = type_values[type];
        kz_fields_finish(&f);
        if (builtin)
            project->events.column_count--; /* the SQL is checked with the one that was there */
        kz_buf_printf(&print, "%s|%s|%d;", column->name, column->path, (int)column->type);
    }
    project->events.columns_id = (uint32_t)kz_hash_str(kz_buf_view(&print));
    kz_buf_done(&print);
}

static void read_events(
        struct kz_config_reader *reader, const struct kz_yaml *map, struct kz_project *project)
{
    struct kz_fields f = kz_fields(reader, map, "\"events\""), clock, retention;

    read_columns(reader, kz_fields_take(&f, "columns"), project);
    clock = kz_fields(reader, kz_fields_take(&f, "clock"), "\"clock\"");
    project->events.max_ahead_ms = kz_fields_duration(&clock, "max_ahead", 5000);
    if (project->events.max_ahead_ms > KZ_STORE_AHEAD_MS)
        kz_config_problem(reader, clock.map->place,
                "\"max_ahead\" may be at most 24h: a shared store finds events by their time");
    project->events.max_behind_ms = kz_fields_duration(&clock, "max_behind", 24 * 3600 * 1000);
    kz_fields_finish(&clock);
    project->events.dedupe_ms = kz_fields_duration(&f, "dedupe", 7 * 86400000ll);
    project->events.session_gap_ms = kz_fields_duration(&f, "session_gap", 30 * 60000);
    retention = kz_fields(reader, kz_fields_take(&f, "retention"), "\"retention\"");
    project->events.retention_age_ms = kz_fields_duration(&retention, "age", 90 * 86400000ll);
    project->events.retention_size_bytes = kz_fields_bytes(&retention, "size", 0);
    kz_fields_finish(&retention);
    kz_fields_finish(&f);
}

static void read_table(struct kz_config_reader *reader, const struct kz_yaml *key,
        const struct kz_yaml *node, struct kz_table_def *table)
{
    struct kz_fields f = kz_fields(
            reader, node, kz_arena_printf(reader->arena, "table \"%s\"", key->text));
    const struct kz_yaml *columns;

    kz_config_check_name(reader, key, "table");
    table->name = key->text;
    table->place = key->place;
    table->file = kz_fields_existing(&f, "file", NULL);
    table->sql = kz_fields_text(&f, "sql", &table->place);
    table->key = kz_fields_text(&f, "key", NULL);
    columns = kz_fields_take(&f, "columns");
    if (columns && columns->kind == KZ_YAML_MAP) {
        table->columns = kz_arena_zero(reader->arena, columns->count * sizeof(*table->columns));
        for (size_t i = 0; i < columns->count; i++) {
            struct kz_column_def *column = &table->columns[table->column_count++];
            const char *type = kz_config_scalar(reader, columns->items[i], columns->keys[i]->text);

            column->name = columns->keys[i]->text;
            column->place = columns->keys[i]->place;
            column->type = KZ_TYPE_TEXT;
            for (size_t t = 0;; t++) {
                if (!type_words[t]) {
                    kz_config_problem(reader, columns->items[i]->place,
                            "\"%s\" is no type; they are int, float, bool, string",
                            type ? type : "");
                    break;
                }
                if (type && strcmp(type_words[t], type) == 0) {
                    column->type = type_values[t];
                    break;
                }
            }
        }
    } else if (columns) {
        kz_config_problem(reader, columns->place, "\"columns\" has to be a map of names and types");
    }
    if (!kz_yaml_get(node, "file") == !kz_yaml_get(node, "sql"))
        kz_config_problem(
                reader, key->place, "table \"%s\" needs either \"file\" or \"sql\"", key->text);
    kz_fields_finish(&f);
}

static void read_limits(
        struct kz_config_reader *reader, const struct kz_yaml *map, struct kz_project *project)
{
    struct kz_fields f = kz_fields(reader, map, "\"limits\"");

    project->limits.segment_size_bytes = kz_fields_bytes(&f, "segment_size", 256ull << 20);
    project->limits.checkpoint_bytes = kz_fields_bytes(&f, "checkpoint", 1ull << 30);
    project->limits.dedupe_memory_bytes = kz_fields_bytes(&f, "dedupe_memory", 256ull << 20);
    project->limits.history_memory_bytes = kz_fields_bytes(&f, "history_memory", 64ull << 20);
    project->limits.reserve_bytes = kz_fields_bytes(&f, "reserve", 64ull << 20);
    project->limits.pending_max = (uint32_t)kz_fields_integer(&f, "pending", 1000000, 1, 100000000);
    project->limits.python = kz_fields_text(&f, "python", NULL);
    project->limits.dead_letters_max = (uint32_t)kz_fields_integer(
            &f, "dead_letters", 100000, 1, 10000000);
    if (project->limits.segment_size_bytes < (16ull << 20) ||
            project->limits.segment_size_bytes > (3ull << 30))
        kz_config_problem(reader, map ? map->place : (struct kz_place){project->file, 0, 0},
                "\"segment_size\" has to lie between 16Mi and 3Gi");
    kz_fields_finish(&f);
}

/* ---- backends ----------------------------------------------------------------------------------
 */

/* A name of Google Cloud: what each service permits beyond that it says itself. */
static const char *cloud_name(struct kz_fields *f, const char *key, const char *standard)
{
    const struct kz_yaml *node = kz_fields_take(f, key);
    const char *value = kz_config_scalar(f->reader, node, key);
    size_t n;

    if (!value || !*value)
        return standard;
    n = strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:");
    if (value[n] || n > 63)
        kz_config_problem(f->reader, node->place,
                "\"%s\" is \"%s\", it has to be 1 to 63 of letters, digits, - and _", key, value);
    return value;
}

/* Spanner takes lower case only. */
static const char *database_name(struct kz_config_reader *reader, const char *project)
{
    char *name = kz_arena_cstr(reader->arena, kz_str(project ? project : "kizashi"));

    for (char *c = name; *c; c++)
        *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
    if (strlen(name) > 30)
        name[30] = '\0';
    return name;
}

static void read_push(
        struct kz_config_reader *reader, const struct kz_yaml *map, struct kz_backends_def *def)
{
    struct kz_fields f = kz_fields(reader, map, "\"push\"");

    def->gcp.push.audience = kz_fields_text(&f, "audience", NULL);
    def->gcp.push.email = kz_fields_text(&f, "email", NULL);
    def->gcp.push.jwks = kz_fields_text(&f, "jwks", NULL);
    if (map && (!def->gcp.push.audience || !def->gcp.push.email))
        kz_config_problem(reader, map->place,
                "\"push\" needs the \"audience\" of the subscription's push authentication and the "
                "\"email\" of its service account: anybody can have a token for any audience");
    kz_fields_finish(&f);
}

static void read_gcp(
        struct kz_config_reader *reader, const struct kz_yaml *map, struct kz_project *project)
{
    struct kz_fields f = kz_fields(reader, map, "\"gcp\""), part;
    struct kz_backends_def *def = &project->backends;

    def->gcp.project = cloud_name(&f, "project", NULL);
    if (!def->gcp.project && getenv("GOOGLE_CLOUD_PROJECT"))
        def->gcp.project = kz_arena_cstr(reader->arena, kz_str(getenv("GOOGLE_CLOUD_PROJECT")));
    def->gcp.prefix = cloud_name(&f, "prefix", "");
    part = kz_fields(reader, kz_fields_take(&f, "spanner"), "\"spanner\"");
    def->gcp.spanner_instance = cloud_name(&part, "instance", "kizashi");
    def->gcp.spanner_database = cloud_name(&part, "database", database_name(reader, project->name));
    kz_fields_finish(&part);
    part = kz_fields(reader, kz_fields_take(&f, "bigtable"), "\"bigtable\"");
    def->gcp.bigtable_instance = cloud_name(&part, "instance", "kizashi");
    def->gcp.bigtable_app_profile = cloud_name(&part, "app_profile", NULL);
    kz_fields_finish(&part);
    read_push(reader, kz_fields_take(&f, "push"), def);
    kz_fields_finish(&f);
}

/* Names of Google Cloud are filled in without the section too: `--backend gcp` may ask for it. */
static void read_backends(
        struct kz_config_reader *reader, const struct kz_yaml *map, struct kz_project *project)
{
    static const char *const bus[] = {"memory", "pubsub", NULL};
    static const char *const history[] = {"memory", "spanner", NULL};
    static const char *const predictions[] = {"memory", "bigtable", NULL};
    struct kz_fields f = kz_fields(reader, map, "\"backends\"");
    struct kz_backends_def *def = &project->backends;

    if (map) {
        def->place = map->place;
        def->bus = (enum kz_backend)(KZ_BACKEND_MEMORY + kz_fields_one_of(&f, "bus", bus, 1));
        def->history = (enum kz_backend)(
                KZ_BACKEND_MEMORY + kz_fields_one_of(&f, "history", history, 1));
        def->predictions = (enum kz_backend)(
                KZ_BACKEND_MEMORY + kz_fields_one_of(&f, "predictions", predictions, 1));
    }
    read_gcp(reader, kz_fields_take(&f, "gcp"), project);
    kz_fields_finish(&f);
}

/* A map of named things; gives how many, so that the caller can make room for them. */
static const struct kz_yaml *named(struct kz_fields *f, const char *key, size_t *ret_count)
{
    const struct kz_yaml *map = kz_fields_take(f, key);

    *ret_count = 0;
    if (map && map->kind != KZ_YAML_MAP) {
        kz_config_problem(f->reader, map->place, "\"%s\" has to be a map of names", key);
        return NULL;
    }
    if (map && map->count > 200) {
        kz_config_problem(f->reader, map->place, "more than 200 %s", key);
        return NULL;
    }
    if (map)
        *ret_count = map->count;
    return map;
}

static void check_after(struct kz_config_reader *reader, const struct kz_project *project)
{
    for (size_t i = 0; i < project->model_count; i++) {
        const struct kz_model_def *model = &project->models[i], *at = model;
        size_t steps = 0;

        while (at && at->after && steps++ <= project->model_count) {
            const struct kz_model_def *next = kz_project_model(project, kz_str(at->after));

            if (!next)
                kz_config_problem(reader, at->place,
                        "model \"%s\" comes after \"%s\", which is not there", at->name, at->after);
            at = next;
        }
        if (at && steps > project->model_count)
            kz_config_problem(reader, model->place, "model \"%s\" comes after itself", model->name);
    }
}

static void read_project(
        struct kz_config_reader *reader, const struct kz_yaml *root, struct kz_project *project)
{
    struct kz_fields f = kz_fields(reader, root, "the project");
    const struct kz_yaml *map;

    project->name = kz_fields_text(&f, "project", NULL);
    if (!project->name)
        kz_config_problem(reader, root->place, "the project needs a name: \"project: shop\"");
    else if (!kz_config_is_name(project->name))
        kz_config_problem(reader, kz_yaml_get(root, "project")->place,
                "\"%s\" is no name for a project: letters, digits and _ only", project->name);
    read_backends(reader, kz_fields_take(&f, "backends"), project);
    read_events(reader, kz_fields_take(&f, "events"), project);
    map = named(&f, "tables", &project->table_count);
    project->tables = kz_arena_zero(
            reader->arena, (project->table_count + 1) * sizeof(*project->tables));
    for (size_t i = 0; i < project->table_count; i++)
        read_table(reader, map->keys[i], map->items[i], &project->tables[i]);
    map = named(&f, "triggers", &project->trigger_count);
    project->triggers = kz_arena_zero(
            reader->arena, (project->trigger_count + 1) * sizeof(*project->triggers));
    for (size_t i = 0; i < project->trigger_count; i++)
        kz_config_trigger(reader, map->keys[i], map->items[i], &project->triggers[i], project);
    map = named(&f, "models", &project->model_count);
    project->models = kz_arena_zero(
            reader->arena, (project->model_count + 1) * sizeof(*project->models));
    for (size_t i = 0; i < project->model_count; i++)
        kz_config_model(reader, map->keys[i], map->items[i], &project->models[i], project);
    check_after(reader, project);
    map = named(&f, "actions", &project->action_count);
    project->actions = kz_arena_zero(
            reader->arena, (project->action_count + 1) * sizeof(*project->actions));
    for (size_t i = 0; i < project->action_count; i++)
        kz_config_action(reader, map->keys[i], map->items[i], &project->actions[i], project);
    read_limits(reader, kz_fields_take(&f, "limits"), project);
    kz_fields_finish(&f);
}

/* ---- the directory -----------------------------------------------------------------------------
 */

static enum kz_code read_tree(struct kz_config *config, const char *dir, const char *env,
        const struct kz_yaml **ret_root, struct kz_err *err)
{
    struct kz_arena *arena = &config->arena;
    const struct kz_yaml *over;
    enum kz_code rc;

    config->project.file = kz_arena_printf(arena, "%s/kizashi.yaml", dir);
    KZ_TRY(kz_yaml_read(arena, config->project.file, config->project.file, ret_root, err));
    if (!env)
        return KZ_OK;
    const char *path = kz_arena_printf(arena, "%s/kizashi.%s.yaml", dir, env);
    rc = kz_yaml_read(arena, path, path, &over, err);
    if (rc == KZ_NOT_FOUND)
        return kz_fail(err, KZ_INVALID, "there is no \"%s\" for --env %s", path, env);
    KZ_TRY(rc);
    *ret_root = kz_yaml_overlay(arena, *ret_root, over);
    return KZ_OK;
}

static void tree_problem(void *arg, struct kz_place place, const char *text)
{
    kz_config_problem(arg, place, "%s", text);
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
    struct kz_config_reader reader = {.report = report, .arg = arg};
    const struct kz_yaml *root = NULL;
    char *real;
    enum kz_code rc;

    kz_arena_init(&config->arena, 0);
    reader.arena = &config->arena;
    real = realpath(dir, NULL);
    if (!real) {
        (void)kz_fail_errno(err, "could not open the project \"%s\"", dir);
        return kz_hint(err, "`kizashi init DIR` makes a project");
    }
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
    kz_yaml_problems(root, tree_problem, &reader);
    read_project(&reader, root, &config->project);
    kz_config_report_all(&reader);
    config->notices = reader.notices;
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

const char *const *kz_config_notices(const struct kz_config *config)
{
    static const char *const none[] = {NULL};

    return config->notices ? config->notices : none;
}
