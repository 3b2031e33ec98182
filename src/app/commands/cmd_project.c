/* app/commands/cmd_project.c -- `kizashi init` and `kizashi check`. */

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "app/config/check.h"
#include "app/commands/command.h"
#include "app/commands/template.h"
#include "base/diag.h"
#include "codec/duration.h"
#include "codec/json_out.h"

/* ---- init ------------------------------------------------------------------------------------------- */

/* The directory's last name as a project's name: letters, digits and _, not a digit first. */
static void name_of(const char *dir, char out[64])
{
    KZ_AUTO(kz_freep) char *real = realpath(dir, NULL);
    const char *path = real ? real : dir, *slash = strrchr(path, '/');
    size_t size = 0;

    for (const char *at = slash ? slash + 1 : path; *at && size < 60; at++) {
        bool fits = isalnum((unsigned char)*at) || *at == '_';

        if (!size && isdigit((unsigned char)*at))
            out[size++] = '_';
        out[size++] = fits ? *at : '_';
    }
    out[size] = '\0';
    if (!size)
        strcpy(out, "project");
}

/* Makes the directories above `path` that are missing. */
static enum kz_code make_parents(const char *path, struct kz_err *err)
{
    char part[PATH_MAX];

    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return kz_fail_errno(err, "could not make \"%s\"", part);
    }
    return KZ_OK;
}

static enum kz_code must_be_empty(const char *dir, struct kz_err *err)
{
    DIR *open = opendir(dir);
    const struct dirent *entry;
    enum kz_code rc = KZ_OK;

    if (!open)
        return errno == ENOENT ? KZ_OK : kz_fail_errno(err, "could not open \"%s\"", dir);
    while (rc == KZ_OK && (entry = readdir(open))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        (void)kz_fail(err, KZ_CONFLICT, "\"%s\" is not empty: it has \"%s\"", dir, entry->d_name);
        rc = kz_hint(err, "name a new directory; nothing was changed");
    }
    closedir(open);
    return rc;
}

static enum kz_code write_file(const char *dir, const struct kz_template_file *file,
        const char *project, struct kz_err *err)
{
    const char *mark = strstr(file->text, "@PROJECT@");
    char path[PATH_MAX];
    FILE *out;
    bool failed;

    snprintf(path, sizeof(path), "%s/%s", dir, file->path);
    KZ_TRY(make_parents(path, err));
    out = fopen(path, "wxe");
    if (!out)
        return kz_fail_errno(err, "could not write \"%s\"", path);
    if (mark)
        fprintf(out, "%.*s%s%s", (int)(mark - file->text), file->text, project,
                mark + strlen("@PROJECT@"));
    else
        fputs(file->text, out);
    failed = ferror(out);
    if (fclose(out) != 0 || failed)
        return kz_fail_errno(err, "could not write \"%s\"", path);
    return KZ_OK;
}

static enum kz_code init(const char *dir, struct kz_err *err)
{
    char project[64];

    KZ_TRY(must_be_empty(dir, err));
    KZ_TRY(make_parents(dir, err));
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return kz_fail_errno(err, "could not make \"%s\"", dir);
    name_of(dir, project);
    for (size_t i = 0; i < kz_template_count; i++)
        KZ_TRY(write_file(dir, &kz_template[i], project, err));
    return KZ_OK;
}

static int run_init(const struct kz_args *args)
{
    const char *dir = args->arguments[0];
    struct kz_err err;

    if (init(dir, &err) != KZ_OK)
        return kz_command_fail(&err);
    printf("A project is in %s: a trigger, a model, an action and a test of them.\n\n"
           "  kizashi check %s      finds mistakes in it\n"
           "  kizashi test %s       runs its test\n"
           "  kizashi up %s         starts it, then in another terminal:\n\n"
           "  curl 'http://127.0.0.1:8080/v1/events?wait=interest&timeout_ms=1000' \\\n"
           "    -d '{\"user_id\":\"ada\",\"name\":\"cart\",\"props\":{\"item\":\"lamp\",\"price\":40}}'\n",
            dir, dir, dir, dir);
    return KZ_EXIT_DONE;
}

const struct kz_command kz_command_init = {
        .name = "init",
        .arguments = "DIR",
        .argument_min = 1,
        .argument_max = 1,
        .summary = "Makes a small project that works, to begin with.",
        .example = "kizashi init shop",
        .run = run_init,
};

/* ---- check ------------------------------------------------------------------------------------------ */

struct findings {
    bool json;
    struct kz_json_out out;
    size_t count;
};

static void found(void *arg, const struct kz_err *err)
{
    struct findings *f = arg;

    f->count++;
    if (f->json)
        kz_json_out_cstr(&f->out, err->message);
    else
        kz_check_print(NULL, err);
}

/* SQL of several lines, as `key: |` gives it, in one. */
static void print_sql(const char *before, const char *sql)
{
    const char *gap = "";

    for (size_t size; *(sql += strspn(sql, " \t\r\n")); sql += size, gap = " ") {
        size = strcspn(sql, "\r\n");
        printf("%s%.*s", *gap ? gap : before, (int)size, sql);
    }
}

static void print_trigger(const struct kz_trigger_def *trigger)
{
    char text[KZ_DURATION_BYTES];

    printf("trigger %s: ", trigger->name);
    if (trigger->count.of) {
        printf("%u of ", trigger->count.reaches);
        print_sql("", trigger->count.of);
        printf(" within %s", kz_duration_format(trigger->count.within_ms, text));
    } else {
        print_sql("", trigger->when);
    }
    if (trigger->debounce_ms)
        printf(", debounce %s", kz_duration_format(trigger->debounce_ms, text));
    if (trigger->delay_ms)
        printf(", after %s", kz_duration_format(trigger->delay_ms, text));
    if (trigger->unless)
        print_sql(", unless ", trigger->unless);
    if (trigger->having)
        print_sql(", having ", trigger->having);
    printf("\n");
}

static void print_model(const struct kz_model_def *model)
{
    printf("model %s: %s, asked by ", model->name, model->runtime);
    for (size_t i = 0; i < model->trigger_count; i++)
        printf("%s%s", i ? ", " : "", model->triggers[i]);
    if (model->after)
        printf("%s%s", model->trigger_count ? ", " : "", model->after);
    printf(", on %s\n", model->features_path ? "features" : "the raw history");
}

static void print_project(const struct kz_project *project, bool models_loaded)
{
    for (size_t i = 0; i < project->trigger_count; i++)
        print_trigger(&project->triggers[i]);
    for (size_t i = 0; i < project->model_count; i++)
        print_model(&project->models[i]);
    for (size_t i = 0; i < project->action_count; i++) {
        static const char *const modes[] = {"off", "shadow", "on"};
        const struct kz_action_def *action = &project->actions[i];

        printf("action %s: %s", action->name, modes[action->mode]);
        print_sql(", when ", action->when);
        printf("\n");
    }
    printf("%s is well: %zu trigger%s, %zu model%s%s, %zu action%s\n", project->name,
            project->trigger_count, project->trigger_count == 1 ? "" : "s", project->model_count,
            project->model_count == 1 ? "" : "s",
            models_loaded || !project->model_count ? "" : " (not loaded)", project->action_count,
            project->action_count == 1 ? "" : "s");
}

static void put_names(struct kz_json_out *out, const struct kz_project *project)
{
    kz_json_out_kv_cstr(out, "project", project->name);
    kz_json_out_key(out, "triggers");
    kz_json_out_array(out);
    for (size_t i = 0; i < project->trigger_count; i++)
        kz_json_out_cstr(out, project->triggers[i].name);
    kz_json_out_array_end(out);
    kz_json_out_key(out, "models");
    kz_json_out_array(out);
    for (size_t i = 0; i < project->model_count; i++)
        kz_json_out_cstr(out, project->models[i].name);
    kz_json_out_array_end(out);
    kz_json_out_key(out, "actions");
    kz_json_out_array(out);
    for (size_t i = 0; i < project->action_count; i++)
        kz_json_out_cstr(out, project->actions[i].name);
    kz_json_out_array_end(out);
}

/* What is accepted and has no effect. */
static void put_notices(struct findings *f, const struct kz_config *config)
{
    kz_json_out_key(&f->out, "notices");
    kz_json_out_array(&f->out);
    for (const char *const *notice = kz_config_notices(config); *notice; notice++) {
        if (f->json)
            kz_json_out_cstr(&f->out, *notice);
        else
            printf("warning: %s\n", *notice);
    }
    kz_json_out_array_end(&f->out);
}

static int run_check(const struct kz_args *args)
{
    struct kz_buf buf = {0};
    struct findings f = {.json = kz_args_flag(args, "json"), .out = kz_json_out(&buf)};
    KZ_AUTO(kz_config_freep) struct kz_config *config = NULL;
    const struct kz_project *project = NULL;
    size_t problems = 0;
    bool load = !kz_args_flag(args, "no-models");
    int64_t timeout_ms = kz_args_duration_ms(args, "timeout");
    struct kz_err err;
    enum kz_code rc;

    kz_diag_set(KZ_DIAG_SILENT, false);
    kz_json_out_object(&f.out);
    kz_json_out_key(&f.out, "errors");
    kz_json_out_array(&f.out);
    rc = kz_config_read(
            args->arguments[0], kz_args_get(args, "env"), found, &f, &config, &problems, &err);
    if (rc == KZ_OK) {
        project = kz_config_project(config);
        if (!problems || kz_check_can_sql(project))
            (void)kz_check_sql(project, found, &f); /* counted in `f` */
        if (load && !f.count)
            (void)kz_check_models(project, kz_runtimes(), timeout_ms, found, &f);
    } else if (!f.count) {
        found(&f, &err); /* no project at all */
    }
    kz_json_out_array_end(&f.out);
    if (config)
        put_notices(&f, config);
    if (project && !f.count)
        put_names(&f.out, project);
    kz_json_out_kv_bool(&f.out, "ok", !f.count);
    kz_json_out_object_end(&f.out);
    if (f.json)
        printf(KZ_STR_FMT "\n", KZ_STR_ARG(kz_buf_view(&buf)));
    else if (!f.count)
        print_project(project, load);
    else
        fprintf(stderr, "kizashi: %zu error%s in \"%s\"\n", f.count, f.count == 1 ? "" : "s",
                args->arguments[0]);
    kz_buf_done(&buf);
    return f.count ? KZ_EXIT_FAILED : KZ_EXIT_DONE;
}

const struct kz_command kz_command_check = {
        .name = "check",
        .arguments = "DIR",
        .argument_min = 1,
        .argument_max = 1,
        .summary = "Checks a project: every mistake at once, each as file:line:column.",
        .details = "Reads kizashi.yaml and what it names, compiles all SQL, loads the reference "
                   "tables, and\nloads every model once.",
        .example = "kizashi check examples/shop",
        .options =
                {
                        {"env", "NAME", NULL, "lays kizashi.NAME.yaml on kizashi.yaml"},
                        {"no-models", NULL, NULL, "does not load the models"},
                        {"timeout", "DURATION", "60s", "how long a model may take to load"},
                        {"json", NULL, NULL, "prints the outcome as JSON"},
                },
        .run = run_check,
};
