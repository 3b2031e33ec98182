/* app/commands/cmd_gcp.c -- `kizashi gcp init` and `migrate`: what a project needs on Google Cloud. */

#include <stdio.h>

#include "app/config/check.h"
#include "app/commands/command.h"
#include "app/roles/role.h"

static void say(void *arg, const char *line)
{
    (*(unsigned *)arg)++;
    printf("%s\n", line);
    fflush(stdout); /* each may take long */
}

/* Only what is there or not; the first thing that is missing ends it. */
static enum kz_code check(const struct kz_backends *backends, struct kz_err *err)
{
    if (backends->bus)
        KZ_TRY(backends->bus->ops->check(backends->bus, err));
    if (backends->store)
        KZ_TRY(backends->store->ops->check(backends->store, err));
    if (backends->predictions)
        KZ_TRY(backends->predictions->ops->check(backends->predictions, err));
    return KZ_OK;
}

static enum kz_code create(const struct kz_backends *backends, unsigned *count, struct kz_err *err)
{
    if (backends->bus)
        KZ_TRY(backends->bus->ops->create(backends->bus, say, count, err));
    if (backends->store)
        KZ_TRY(backends->store->ops->create(backends->store, say, count, err));
    if (backends->predictions)
        KZ_TRY(backends->predictions->ops->create(backends->predictions, say, count, err));
    return KZ_OK;
}

static int run_on(const struct kz_args *args, unsigned needs)
{
    struct kz_config *config;
    struct kz_backends backends = {0};
    unsigned count = 0;
    struct kz_err err;
    enum kz_code rc;

    config = kz_check_load(args->arguments[0], kz_args_get(args, "env"), &err);
    if (!config)
        return kz_command_fail(&err);
    rc = kz_backends_open(kz_config_project(config), "gcp", needs, &backends, &err);
    if (rc == KZ_OK && kz_args_flag(args, "check"))
        rc = check(&backends, &err);
    else if (rc == KZ_OK)
        rc = create(&backends, &count, &err);
    kz_backends_close(&backends);
    kz_config_free(config);
    if (rc != KZ_OK)
        return kz_command_fail(&err);
    if (!count)
        printf("everything is there\n");
    return KZ_EXIT_DONE;
}

static int init(const struct kz_args *args)
{
    return run_on(args, KZ_NEEDS_BUS | KZ_NEEDS_STORE | KZ_NEEDS_PREDICTIONS);
}

static int migrate(const struct kz_args *args)
{
    return run_on(args, KZ_NEEDS_STORE | KZ_NEEDS_PREDICTIONS);
}

#define OPTIONS                                                                                    \
    {                                                                                              \
        {"env", "NAME", NULL, "lays kizashi.NAME.yaml on kizashi.yaml"},                           \
                {"check", NULL, NULL, "changes nothing: says what is missing first, or nothing"},  \
    }

const struct kz_command kz_command_gcp_init = {
        .name = "gcp init",
        .arguments = "DIR",
        .argument_min = 1,
        .argument_max = 1,
        .summary = "Makes what a project needs on Google Cloud: topics, subscriptions, database, "
                   "table.",
        .details =
                "Says each thing it makes; what is there stays, so it can be run again. Instances "
                "of\n"
                "Spanner and Bigtable cost money from the moment they are there: they are not "
                "made\n"
                "here. Emulators are used where PUBSUB_EMULATOR_HOST, SPANNER_EMULATOR_HOST and\n"
                "BIGTABLE_EMULATOR_HOST say so.",
        .example = "kizashi gcp init shop --env production",
        .options = OPTIONS,
        .run = init,
};

const struct kz_command kz_command_gcp_migrate = {
        .name = "gcp migrate",
        .arguments = "DIR",
        .argument_min = 1,
        .argument_max = 1,
        .summary =
                "Brings database and table to this version's schema and the project's retention.",
        .details = "To be run before the first process of a new version starts: one that finds an "
                   "older\n"
                   "schema says so and ends. Can be run again, and beside running processes.",
        .example = "kizashi gcp migrate shop --env production",
        .options = OPTIONS,
        .run = migrate,
};
