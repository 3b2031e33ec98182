/* app/roles/role_backends.c -- the backends of a deployment, opened as a project names them. */

#include "app/roles/news.h"
#include "app/roles/role.h"

#include <stdio.h>
#include <stdlib.h>

#include "backends/bigtable/bigtable.h"
#include "backends/memory/bus.h"
#include "backends/memory/predictions.h"
#include "backends/memory/store.h"
#include "backends/pubsub/pubsub.h"
#include "backends/spanner/spanner.h"
#include "contract/message.h"
#include "rpc/rpc.h"

/* What a project (or --backend, over it) chooses. */
static enum kz_code choose(const struct kz_project *project, const char *backend,
        struct kz_backends_def *ret, struct kz_err *err)
{
    enum kz_backend all;

    *ret = project->backends;
    if (!backend) {
        if (ret->bus != KZ_BACKEND_EMBEDDED)
            return KZ_OK;
        (void)kz_fail(err, KZ_CONFIG, "roles need backends, and %s names none", project->file);
        return kz_hint(err, "--backend memory or gcp, or \"backends:\" in the project");
    }
    if (strcmp(backend, "memory") == 0)
        all = KZ_BACKEND_MEMORY;
    else if (strcmp(backend, "gcp") == 0)
        all = KZ_BACKEND_GCP;
    else
        return kz_fail(err, KZ_CONFIG, "--backend has to be memory or gcp, not \"%s\"", backend);
    ret->bus = ret->history = ret->predictions = all;
    return KZ_OK;
}

static enum kz_code need_rpc(
        const struct kz_backends_def *def, struct kz_backends *backends, struct kz_err *err)
{
    if (!def->gcp.project || !*def->gcp.project) {
        (void)kz_fail(err, KZ_CONFIG, "it is not said which Google Cloud project to use");
        return kz_hint(err, "backends: {gcp: {project: NAME}}, or GOOGLE_CLOUD_PROJECT");
    }
    return backends->rpc ? KZ_OK : kz_rpc_open(&backends->rpc, err);
}

struct kz_bus_subscription *kz_role_subscriptions(
        const struct kz_project *project, size_t *ret_count)
{
    enum { NAME_BYTES = 256 };
    size_t count = project->model_count + 1;
    struct kz_bus_subscription *list = kz_calloc(count, sizeof(*list) + NAME_BYTES);
    char *name = (char *)(list + count);

    for (size_t m = 0; m < project->model_count; m++, name += NAME_BYTES) {
        snprintf(name, NAME_BYTES, "infer-%.200s", project->models[m].name);
        list[m] = (struct kz_bus_subscription){.topic = KZ_TOPIC_REQUESTS,
                .name = name,
                .ordered = true,
                .attribute = KZ_ATTRIBUTE_MODEL,
                .value = project->models[m].name};
    }
    list[count - 1] = (struct kz_bus_subscription){.topic = KZ_TOPIC_NEWS,
            .name = KZ_SUBSCRIPTION_DELIVER,
            .attribute = KZ_ATTRIBUTE_KIND,
            .value = "webhook"};
    *ret_count = count;
    return list;
}

static enum kz_code open_bus(const struct kz_project *project, const struct kz_backends_def *def,
        struct kz_backends *backends, struct kz_err *err)
{
    size_t count;
    struct kz_bus_subscription *subscriptions = kz_role_subscriptions(project, &count);
    struct kz_memory_bus_options memory = {
            .subscriptions = subscriptions, .subscription_count = count};
    struct kz_pubsub_options pubsub = {
            .gcp_project = def->gcp.project,
            .prefix = def->gcp.prefix,
            .project = project->name,
            .subscriptions = subscriptions,
            .subscription_count = count,
    };
    enum kz_code rc;

    if (def->bus == KZ_BACKEND_MEMORY) {
        rc = kz_memory_bus_open(&memory, &backends->bus, err);
    } else {
        rc = need_rpc(def, backends, err);
        pubsub.rpc = backends->rpc;
        if (rc == KZ_OK)
            rc = kz_pubsub_open(&pubsub, &backends->bus, err);
    }
    free(subscriptions);
    return rc;
}

/* How long what decides about actions must outlive its last change: the longest window of a cap, and
 * as long as events are kept. 0: for ever. */
static int64_t state_retention_ms(const struct kz_project *project)
{
    enum { DAY_MS = 86400000 };
    int64_t longest_ms = project->events.retention_age_ms;

    if (!longest_ms)
        return 0;
    for (size_t i = 0; i < project->action_count; i++)
        for (size_t k = 0; k < project->actions[i].cap_count; k++)
            longest_ms = KZ_MAX(longest_ms, project->actions[i].caps[k].every_ms + DAY_MS);
    return longest_ms;
}

static enum kz_code open_store(const struct kz_project *project, const struct kz_backends_def *def,
        struct kz_backends *backends, struct kz_err *err)
{
    struct kz_spanner_options options = {
            .project = def->gcp.project,
            .instance = def->gcp.spanner_instance,
            .database = def->gcp.spanner_database,
            .retention_ms = project->events.retention_age_ms,
            .dedupe_ms = project->events.dedupe_ms,
            .state_retention_ms = 0, /* links and when somebody was first seen outlive events */
    };

    if (def->history == KZ_BACKEND_MEMORY) {
        backends->store = kz_memory_store_new();
        return KZ_OK;
    }
    KZ_TRY(need_rpc(def, backends, err));
    options.rpc = backends->rpc;
    return kz_spanner_open(&options, &backends->store, err);
}

static enum kz_code open_predictions(const struct kz_project *project,
        const struct kz_backends_def *def, struct kz_backends *backends, struct kz_err *err)
{
    char table[51];
    struct kz_bigtable_options options = {
            .project = def->gcp.project,
            .instance = def->gcp.bigtable_instance,
            .table = table,
            .app_profile = def->gcp.bigtable_app_profile,
            .retention_ms = project->events.retention_age_ms,
            .state_retention_ms = state_retention_ms(project),
    };

    if (def->predictions == KZ_BACKEND_MEMORY) {
        backends->predictions = kz_memory_predictions_new();
        return KZ_OK;
    }
    KZ_TRY(need_rpc(def, backends, err));
    options.rpc = backends->rpc;
    if ((size_t)snprintf(table, sizeof(table), "%skizashi_%s", def->gcp.prefix, project->name) >=
            sizeof(table))
        return kz_fail(err, KZ_CONFIG, "the name of the table of project \"%s\" is too long",
                project->name);
    return kz_bigtable_open(&options, &backends->predictions, err);
}

enum kz_code kz_backends_open(const struct kz_project *project, const char *backend, unsigned needs,
        struct kz_backends *ret_backends, struct kz_err *err)
{
    struct kz_backends backends = {0};
    struct kz_backends_def def;
    enum kz_code rc;

    KZ_TRY(choose(project, backend, &def, err));
    rc = needs & KZ_NEEDS_BUS ? open_bus(project, &def, &backends, err) : KZ_OK;
    if (rc == KZ_OK && needs & KZ_NEEDS_STORE)
        rc = open_store(project, &def, &backends, err);
    if (rc == KZ_OK && needs & KZ_NEEDS_PREDICTIONS)
        rc = open_predictions(project, &def, &backends, err);
    if (rc != KZ_OK) {
        kz_backends_close(&backends);
        return rc;
    }
    *ret_backends = backends;
    return KZ_OK;
}

void kz_backends_close(struct kz_backends *backends)
{
    if (backends->bus)
        backends->bus->ops->close(backends->bus);
    if (backends->store)
        backends->store->ops->close(backends->store);
    if (backends->predictions)
        backends->predictions->ops->close(backends->predictions);
    kz_rpc_close(backends->rpc);
    *backends = (struct kz_backends){0};
}
