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
