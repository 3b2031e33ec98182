#include "app/config/check.h"

#include <stdio.h>
#include <unistd.h>

#include "act/localtime.h"
#include "app/config/yaml.h"
#include "infer/infer.h"
#include "runtimes/http/http.h"
#include "runtimes/python/python.h"
#include "trigger/trigger.h"

const struct kz_runtime_ops *const *kz_runtimes(void)
{
    static const struct kz_runtime_ops *const table[] = {
            &kz_runtime_python, &kz_runtime_http, NULL};

    return table;
}

struct checking {
    struct kz_sql *sql;
    kz_config_report *report;
    void *arg;
    size_t problems;
};

static void problem(struct checking *c, const struct kz_err *err)
{
    c->problems++;
    if (c->report)
        c->report(c->arg, err);
}

static void rule_problem(void *arg, const struct kz_err *err)
{
    problem(arg, err);
}

static void compile(
        struct checking *c, enum kz_sql_kind kind, const char *text, struct kz_place place)
{
    struct kz_sql_expr *expr;
    struct kz_err err;

    if (text && kz_sql_compile(c->sql, kind, text, place, &expr, &err) != KZ_OK)
        problem(c, &err);
}

static void check_zone(struct checking *c, const char *tz, struct kz_place place)
{
    struct kz_err err, placed;

    if (kz_local_check(tz, &err) == KZ_OK)
        return;
    (void)kz_place_fail(&placed, place, "%s", err.message);
    (void)kz_hint(&placed, "%s", err.hint);
    problem(c, &placed);
}

static void check_model(struct checking *c, const struct kz_model_def *model)
{
    struct kz_err err;
    bool known = false;

    for (const struct kz_runtime_ops *const *r = kz_runtimes(); *r; r++)
        known |= model->runtime && strcmp((*r)->name, model->runtime) == 0;
    if (!known && model->runtime) {
        (void)kz_place_fail(&err, model->place,
                "runtime \"%s\" is not in this build; it has \"python\" and \"http\"",
                model->runtime);
        problem(c, &err);
    }
    compile(c, KZ_SQL_FEATURES, model->features_sql, model->features_place);
    compile(c, KZ_SQL_PREDICTION, model->after_when, model->place);
}

bool kz_check_can_sql(const struct kz_project *project)
{
    for (size_t i = 0; i < project->events.column_count; i++)
        if (!project->events.columns[i].name || !project->events.columns[i].path)
            return false;
    /* A table that is missing would make every query that names it an error, too. */
    for (size_t i = 0; i < project->table_count; i++) {
        const struct kz_table_def *table = &project->tables[i];

        if (!table->sql && (!table->file || access(table->file, R_OK) != 0))
            return false;
    }
    for (size_t m = 0; m < project->model_count; m++)
        for (size_t t = 0; t < project->models[m].trigger_count; t++)
            if (!project->models[m].triggers[t])
                return false;
    return true;
}

size_t kz_check_sql(const struct kz_project *project, kz_config_report *report, void *arg)
{
    struct checking c = {.report = report, .arg = arg};
    KZ_AUTO(kz_sql_closep) struct kz_sql *sql = NULL;
    struct kz_triggers *triggers = NULL;
    struct kz_err err;

    if (kz_sql_open(project, &sql, &err) != KZ_OK) {
        problem(&c, &err);
        return c.problems;
    }
    c.sql = sql;
    if (kz_triggers_open(project, sql, rule_problem, &c, &triggers, &err) == KZ_OK)
        kz_triggers_close(triggers);
    for (size_t i = 0; i < project->model_count; i++)
        check_model(&c, &project->models[i]);
    for (size_t i = 0; i < project->action_count; i++) {
        const struct kz_action_def *action = &project->actions[i];

        compile(&c, KZ_SQL_PREDICTION, action->when, action->when_place);
        compile(&c, KZ_SQL_HAVING, action->having, action->having_place);
        if (action->schedule.tz)
            check_zone(&c, action->schedule.tz, action->schedule.tz_place);
        for (size_t k = 0; k < action->cap_count; k++)
            if (action->caps[k].tz)
                check_zone(&c, action->caps[k].tz, action->caps[k].tz_place);
    }
    return c.problems;
}

/* ---- models --------------------------------------------------------------------------------------- */

struct model_check {
    struct checking checking;
    const struct kz_project *project;
};

/* A package is there for the interpreter it was installed for. */
static void hint_interpreter(const struct kz_project *project, struct kz_err *err)
{
    struct kz_python python;

    kz_python_probe(project, &python);
    if (python.found)
        (void)kz_hint(err,
                "models run on %s (by %s); install it there, or make a virtual environment in "
                "%s/.venv and install it in that",
                python.interpreter, python.chosen_by, project->dir);
}

static void model_problem(void *arg, unsigned model, const char *text)
{
    static const char said_already[] = "load: the model did not load: ";
    struct model_check *m = arg;
    struct kz_err err;

    if (strncmp(text, said_already, sizeof(said_already) - 1) == 0)
        text += sizeof(said_already) - 1;
    (void)kz_place_fail(&err, m->project->models[model].place, "model \"%s\" does not load: %s",
            m->project->models[model].name, text);
    if (strncmp(text, "ModuleNotFoundError", strlen("ModuleNotFoundError")) == 0)
        hint_interpreter(m->project, &err);
    problem(&m->checking, &err);
}

static void nobody(void *arg)
{
    (void)arg;
}

/* A history of nobody: models are only loaded. */
static enum kz_code no_scan(struct kz_history_reader *reader, const struct kz_history_query *query,
        struct kz_history_rows *ret_rows, struct kz_err *err)
{
    (void)reader, (void)query, (void)err;
    *ret_rows = (struct kz_history_rows){0};
    return KZ_OK;
}

static void no_release(struct kz_history_reader *reader, struct kz_history_rows *rows)
{
    (void)reader, (void)rows;
}

size_t kz_check_models(const struct kz_project *project,
        const struct kz_runtime_ops *const *runtimes, int64_t timeout_ms, kz_config_report *report,
        void *arg)
{
    static const struct kz_history_reader_ops ops = {.scan = no_scan, .release = no_release};
    struct kz_history_reader reader = {&ops};
    struct model_check m = {.checking = {.report = report, .arg = arg}, .project = project};
    struct kz_infer_options options = {
            .project = project,
            .reader = &reader,
            .runtimes = runtimes,
            .wake = nobody,
            .fence_after = 1,
            .start_replicas = true,
    };
    KZ_AUTO(kz_infer_closep) struct kz_infer *infer = NULL;
    struct kz_err err;

    if (!project->model_count)
        return 0;
    if (kz_infer_open(&options, &infer, &err) != KZ_OK)
        problem(&m.checking, &err);
    else if (kz_infer_wait_ready(infer, timeout_ms, model_problem, &m, &err) != KZ_OK &&
             !m.checking.problems)
        problem(&m.checking, &err);
    return m.checking.problems;
}

/* ---- for commands ----------------------------------------------------------------------------------- */

void kz_check_print(void *arg, const struct kz_err *err)
{
    (void)arg;
    fprintf(stderr, "%s\n", err->message);
    if (err->hint[0])
        fprintf(stderr, "  %s\n", err->hint);
}

struct kz_config *kz_check_load(const char *dir, const char *env, struct kz_err *err)
{
    KZ_AUTO(kz_config_freep) struct kz_config *config = NULL;
    size_t problems;

    if (kz_config_read(dir, env, kz_check_print, NULL, &config, &problems, err) != KZ_OK)
        return NULL;
    if (!problems || kz_check_can_sql(kz_config_project(config)))
        problems += kz_check_sql(kz_config_project(config), kz_check_print, NULL);
    if (!problems)
        return kz_take(&config);
    (void)kz_fail(err, KZ_CONFIG, "%zu error%s in the project \"%s\"", problems,
            problems == 1 ? "" : "s", dir);
    return NULL;
}
