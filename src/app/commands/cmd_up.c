/* app/commands/cmd_up.c -- `kizashi up`: one process: HTTP, the pipeline and a clean end. */

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "app/config/check.h"
#include "app/commands/command.h"
#include "app/host/host.h"
#include "app/pipeline/pipeline.h"
#include "app/roles/role.h"
#include "app/commands/version.h"
#include "base/diag.h"
#include "collect/collect.h"
#include "contract/auth.h"
#include "infer/infer.h"
#include "serve/serve.h"
#include "sys/clock.h"

enum { GRACE_MS = 1000, LAST_ANSWERS_MS = 2000 };

struct up {
    struct kz_host host;
    struct kz_config *config;
    struct kz_pipeline *pipeline;
    struct kz_auth *auth;
    struct kz_collect *collect;
    struct kz_push_auth *push_auth; /* NULL: pushes need a key */
    struct kz_serve *serve;
    bool models_ready, waiting_ended;
    char data[PATH_MAX]; /* serve borrows it */
};

/* ---- what the host calls ----------------------------------------------------------------------------- */

/* Events are taken from the start; requests wait in the log until their model is loaded. */
static void watch_models(struct up *up)
{
    const struct kz_project *project = kz_config_project(up->config);
    struct kz_infer *infer = kz_pipeline_infer(up->pipeline);
    unsigned ready = 0;

    for (unsigned m = 0; infer && m < project->model_count; m++) {
        struct kz_infer_status status;

        kz_infer_status(infer, m, &status);
        ready += status.replicas_ready > 0 || project->models[m].replicas.min == 0;
    }
    if (infer && ready < project->model_count)
        return;
    up->models_ready = true;
    kz_diag_info(
            "models ready", "models=%u ms=%" PRId64, ready, kz_mono_ms() - up->host.started_ms);
}

/* Predictions that are nearly there have their time; whoever waits longer is told that we stop. */
static void end_waiting(struct up *up)
{
    int64_t left_ms = up->host.stopping_ms + GRACE_MS - kz_mono_ms();

    if (left_ms > 0) {
        kz_host_turn_in(&up->host, left_ms);
        return;
    }
    up->waiting_ended = true;
    kz_pipeline_end_waiting(up->pipeline);
    kz_pipeline_turn(up->pipeline);
}

static void turn(void *arg)
{
    struct up *up = arg;
    int64_t wait_ms;

    kz_pipeline_turn(up->pipeline);
    if (up->host.stopping) {
        if (!up->waiting_ended)
            end_waiting(up);
        return;
    }
    if (!up->models_ready)
        watch_models(up);
    wait_ms = kz_pipeline_next_ms(up->pipeline);
    kz_host_turn_in(&up->host, up->models_ready ? wait_ms : KZ_MIN(wait_ms, (int64_t)50));
}

static void handle(void *arg, struct kz_http_request *req)
{
    struct up *up = arg;

    if (!kz_collect_handle(up->collect, req) && !kz_serve_handle(up->serve, req))
        kz_serve_unknown(up->serve, req);
}

static enum kz_code admit(
        void *arg, const struct kz_http_request *req, size_t *body_max_bytes, struct kz_err *err)
{
    struct up *up = arg;

    return kz_collect_admit(up->collect, req, body_max_bytes, err);
}

static void stop(void *arg)
{
    (void)arg; /* the turn that follows begins to end the waiting */
}

static void drained(void *arg)
{
    kz_host_end(&((struct up *)arg)->host);
}

/* ---- starting ---------------------------------------------------------------------------------------- */

static enum kz_code open_pipeline(struct up *up, const char *data, struct kz_err *err)
{
    struct kz_pipeline_options options = {
            .project = kz_config_project(up->config),
            .data_dir = data,
            .runtimes = kz_runtimes(),
            .wake = kz_host_wake,
            .arg = &up->host,
            .ask = true,
    };
    char marker[PATH_MAX];

    snprintf(marker, sizeof(marker), "%s/restored", data);
    options.actions_paused = access(marker, F_OK) == 0;
    if (options.actions_paused)
        kz_diag_warn("this data was restored from a backup: actions are paused",
                "remedy=\"kizashi actions resume --all\"");
    return kz_pipeline_open(&options, &up->pipeline, err);
}

static size_t feature_names(void *arg, unsigned model, const char *const **ret_names)
{
    return kz_pipeline_feature_names(((struct up *)arg)->pipeline, model, ret_names);
}

static void collect_metrics(void *arg, struct kz_buf *out)
{
    kz_collect_metrics(((struct up *)arg)->collect, out);
}

static enum kz_code listen_on(
        struct up *up, const char *address, const char *data, struct kz_err *err)
{
    struct kz_query *query = kz_pipeline_query(up->pipeline);
    struct kz_collect_options collect = {
            .project = kz_config_project(up->config),
            .intake = kz_pipeline_intake(up->pipeline),
            .query = query,
    };
    struct kz_serve_options serve = kz_serve_options_default();

    KZ_TRY(kz_push_auth_open_project(collect.project, &up->push_auth, err));
    collect.push_auth = up->push_auth;
    KZ_TRY(kz_auth_open(kz_fs_posix(), data, &up->auth, err));
    KZ_TRY(kz_auth_listen(up->auth, address, err));
    collect.auth = up->host.keys = up->auth;
    serve.loop = &up->host.loop;
    serve.data_dir = data;
    serve.version = KZ_VERSION;
    serve.build = KZ_BUILD;
    serve.feature_names = feature_names;
    serve.more_metrics = collect_metrics;
    serve.arg = up;
    up->collect = kz_collect_new(&collect);
    up->serve = kz_serve_new(query, up->auth, &serve);
    return kz_host_listen(&up->host, up->serve, address, err);
}

static enum kz_code start(struct up *up, const struct kz_args *args, struct kz_err *err)
{
    const char *dir = args->arguments[0], *address = kz_args_get(args, "listen");

    up->config = kz_check_load(dir, kz_args_get(args, "env"), err);
    if (!up->config)
        return err->code;
    kz_command_data(args, dir, up->data, sizeof(up->data));
    KZ_TRY(open_pipeline(up, up->data, err));
    KZ_TRY(listen_on(up, address, up->data, err));
    return KZ_OK;
}

/* ---- the end ----------------------------------------------------------------------------------------- */

/* Answers first, then the log: whoever was answered is on disk (P3). */
static void close_all(struct up *up)
{
    int64_t until_ms = kz_mono_ms() + LAST_ANSWERS_MS;

    while (up->serve && kz_serve_open(up->serve) && kz_mono_ms() < until_ms) {
        kz_pipeline_turn(up->pipeline);
        usleep(1000);
    }
    kz_serve_free(up->serve);
    kz_pipeline_close(up->pipeline);
    kz_host_done(&up->host);
    kz_collect_free(up->collect);
    kz_push_auth_close(up->push_auth);
    kz_auth_close(up->auth);
    kz_config_free(up->config);
}

static int run(const struct kz_args *args)
{
    static const char *const of_roles[] = {"backend", "model"};
    static const struct kz_host_ops ops = {
            .handle = handle, .admit = admit, .turn = turn, .stop = stop, .drained = drained};
    struct up up = {0};
    struct kz_err err;
    enum kz_code rc;
    int64_t stopping_ms;

    kz_diag_set(kz_args_flag(args, "verbose") ? KZ_DIAG_DEBUG : KZ_DIAG_INFO,
            strcmp(kz_args_get(args, "log"), "json") == 0);
    if (kz_args_get(args, "role"))
        return kz_role_up(args);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(of_roles); i++)
        if (kz_args_get(args, of_roles[i]))
            return kz_command_usage(args, "--%s is for --role", of_roles[i]);
    if (kz_args_flag(args, "push"))
        return kz_command_usage(args, "--push is for --role infer");
    if (strcmp(kz_args_get(args, "clock"), "wall") != 0)
        return kz_command_usage(args, "--clock is for --role");
    kz_host_init(&up.host, &ops, &up);
    rc = start(&up, args, &err);
    if (rc == KZ_OK) {
        kz_host_announce(
                &up.host, kz_config_project(up.config)->name, kz_args_get(args, "listen"), NULL);
        kz_host_run(&up.host);
    }
    stopping_ms = kz_mono_ms();
    close_all(&up);
    if (rc != KZ_OK)
        return kz_command_fail(&err);
    kz_diag_info("stopped", "ms=%" PRId64, kz_mono_ms() - stopping_ms);
    return KZ_EXIT_DONE;
}

const struct kz_command kz_command_up = {
        .name = "up",
        .arguments = "DIR",
        .argument_min = 1,
        .argument_max = 1,
        .summary =
                "Runs a project: takes events, asks models, keeps predictions, delivers actions.",
        .details =
                "Everything is in this one process and its model workers; data is in DIR/.kizashi.\n"
                "SIGTERM stops it within 10 seconds and loses nothing; neither does kill -9.\n"
                "With --role it is a part of a deployment that shares its data in the backends of\n"
                "kizashi.yaml: collect takes events, process stores them and decides who is asked,\n"
                "infer asks the models, serve answers readers and delivers.",
        .example = "kizashi up examples/shop --listen 127.0.0.1:8080",
        .options =
                {
                        {"listen", "ADDR", "127.0.0.1:8080",
                                "address and port, [::1]:8080, or unix:PATH; port 0 takes a free one"},
                        {"data", "PATH", NULL, "where the data is, instead of DIR/.kizashi"},
                        {"env", "NAME", NULL, "lays kizashi.NAME.yaml on kizashi.yaml"},
                        {"role", "LIST", NULL,
                                "collect, process, infer, serve: some of them, by commas"},
                        {"backend", "NAME", NULL,
                                "with --role: memory or gcp, instead of the project's"},
                        {"model", "LIST", NULL,
                                "with --role infer: only these models; default all"},
                        {"push", NULL, NULL,
                                "with --role infer: requests come by POST /v1/pubsub/push (Cloud Run)"},
                        {"clock", "CLOCK", "wall", "with --role: event, for tests on virtual time"},
                        {"log", "FORMAT", "text", "log lines as text or json"},
                        {"verbose", NULL, NULL, "debug lines, too"},
                },
        .run = run,
};
