/* app/role_backends.c -- the backends of a deployment, opened as a project names them. */

#include "app/news.h"
#include "app/role.h"

#include <stdio.h>
#include <stdlib.h>

#include "backends/memory/bus.h"
#include "backends/memory/predictions.h"
#include "backends/memory/store.h"
#include "contract/message.h"

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

/* Until their backends are in this build. */
static enum kz_code not_yet(const char *what, struct kz_err *err)
{
    return kz_fail(err, KZ_UNSUPPORTED, "%s is not in this build yet", what);
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
    struct kz_memory_bus_options options = {0};
    struct kz_bus_subscription *subscriptions;
    enum kz_code rc;

    if (def->bus == KZ_BACKEND_MEMORY) {
        options.subscriptions = subscriptions =
                kz_role_subscriptions(project, &options.subscription_count);
        rc = kz_memory_bus_open(&options, &backends->bus, err);
        free(subscriptions);
        return rc;
    }
    return not_yet("Pub/Sub", err);
}

static enum kz_code open_store(const struct kz_project *project, const struct kz_backends_def *def,
        struct kz_backends *backends, struct kz_err *err)
{
    (void)project;
    if (def->history == KZ_BACKEND_MEMORY) {
        backends->store = kz_memory_store_new();
        return KZ_OK;
    }
    return not_yet("Spanner", err);
}

static enum kz_code open_predictions(const struct kz_project *project,
        const struct kz_backends_def *def, struct kz_backends *backends, struct kz_err *err)
{
    (void)project;
    if (def->predictions == KZ_BACKEND_MEMORY) {
        backends->predictions = kz_memory_predictions_new();
        return KZ_OK;
    }
    return not_yet("Bigtable", err);
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
    *backends = (struct kz_backends){0};
}
