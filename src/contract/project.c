#include "contract/project.h"

const struct kz_model_def *kz_project_model(const struct kz_project *project, struct kz_str name)
{
    for (size_t i = 0; i < project->model_count; i++)
        if (project->models[i].name && kz_str_is(name, project->models[i].name))
            return &project->models[i];
    return NULL;
}

const struct kz_trigger_def *kz_project_trigger(
        const struct kz_project *project, struct kz_str name)
{
    for (size_t i = 0; i < project->trigger_count; i++)
        if (project->triggers[i].name && kz_str_is(name, project->triggers[i].name))
            return &project->triggers[i];
    return NULL;
}

const struct kz_action_def *kz_project_action(const struct kz_project *project, struct kz_str name)
{
    for (size_t i = 0; i < project->action_count; i++)
        if (project->actions[i].name && kz_str_is(name, project->actions[i].name))
            return &project->actions[i];
    return NULL;
}

static enum kz_code none(
        const char *kind, struct kz_str name, struct kz_buf *names, struct kz_err *err)
{
    (void)kz_fail(err, KZ_NOT_FOUND, "there is no %s \"" KZ_STR_FMT "\"", kind, KZ_STR_ARG(name));
    if (names->size)
        (void)kz_hint(err, "there are: " KZ_STR_FMT, KZ_STR_ARG(kz_buf_view(names)));
    else
        (void)kz_hint(err, "the project has no %s", kind);
    kz_buf_done(names);
    return KZ_NOT_FOUND;
}

enum kz_code kz_project_no_model(
        const struct kz_project *project, struct kz_str name, struct kz_err *err)
{
    struct kz_buf names = {0};

    for (size_t i = 0; i < project->model_count; i++)
        kz_buf_printf(&names, "%s%s", i ? ", " : "", project->models[i].name);
    return none("model", name, &names, err);
}

enum kz_code kz_project_no_action(
        const struct kz_project *project, struct kz_str name, struct kz_err *err)
{
    struct kz_buf names = {0};

    for (size_t i = 0; i < project->action_count; i++)
        kz_buf_printf(&names, "%s%s", i ? ", " : "", project->actions[i].name);
    return none("action", name, &names, err);
}
