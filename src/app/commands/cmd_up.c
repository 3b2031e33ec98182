/* app/commands/cmd_up.c -- `kizashi up`: one process, one loop: HTTP, the pipeline, and a clean end. */

#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#include "app/config/check.h"
#include "app/commands/command.h"
#include "app/pipeline/pipeline.h"
#include "app/roles/role.h"
#include "app/commands/version.h"
#include "base/diag.h"
#include "collect/collect.h"
#include "contract/auth.h"
#include "infer/infer.h"
#include "serve/serve.h"
#include "sys/clock.h"
#include "sys/http.h"

enum {
    GRACE_MS = 1000,
    DRAIN_MS = 5000,
    LAST_ANSWERS_MS = 2000,
    KEYS_EVERY_MS = 900,
    ONE_WORD_MS = 1000
};

struct up {
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t timer;
    uv_signal_t term, interrupt;
    struct kz_config *config;
    struct kz_pipeline *pipeline;
    struct kz_auth *auth;
    struct kz_collect *collect;
    struct kz_push_auth *push_auth; /* NULL: pushes need a key */
    struct kz_serve *serve;
    struct kz_http_server *server;
    int64_t keys_read_ms, started_ms, stopping_ms;
    bool stopping, models_ready;
    char data[PATH_MAX]; /* serve borrows it */
};

static void wake_up(void *arg)
{
    uv_async_send(&((struct up *)arg)->wake);
}

static void set_timer(struct up *up);

static void turn(struct up *up)
{
    kz_pipeline_turn(up->pipeline);
    if (!up->stopping)
        set_timer(up);
}

static void on_wake(uv_async_t *async)
{
    turn(async->data);
}

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
    kz_diag_info("models ready", "models=%u ms=%" PRId64, ready, kz_mono_ms() - up->started_ms);
}

static void on_timer(uv_timer_t *timer)
{
    struct up *up = timer->data;
    struct kz_err err;

    turn(up);
    if (!up->models_ready)
        watch_models(up);
    /* Keys made or revoked by a command meanwhile. */
    if (kz_mono_ms() - up->keys_read_ms < KEYS_EVERY_MS)
        return;
    up->keys_read_ms = kz_mono_ms();
    if (kz_auth_reload(up->auth, &err) != KZ_OK)
        kz_diag_warn("could not read the keys again", "error=\"%s\"", err.message);
}

static void set_timer(struct up *up)
{
    uint64_t wait_ms = (uint64_t)kz_pipeline_next_ms(up->pipeline);

    uv_timer_start(&up->timer, on_timer, up->models_ready ? wait_ms : KZ_MIN(wait_ms, 50ull), 0);
}

/* ---- HTTP -------------------------------------------------------------------------------------------- */

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

static void on_batch_end(void *arg)
{
    turn(arg);
}

/* ---- stopping ---------------------------------------------------------------------------------------- */

static void close_handles(struct up *up)
{
    uv_close((uv_handle_t *)&up->wake, NULL);
    uv_close((uv_handle_t *)&up->timer, NULL);
    uv_close((uv_handle_t *)&up->term, NULL);
    uv_close((uv_handle_t *)&up->interrupt, NULL);
}

static void on_drained(void *arg, size_t unanswered)
{
    struct up *up = arg;

    if (unanswered)
        kz_diag_warn("stopped before all was answered", "requests=%zu", unanswered);
    uv_stop(&up->loop);
}

/* Predictions that are nearly there had their time; whoever waits longer is told that we stop. */
static void on_grace(uv_timer_t *timer)
{
    struct up *up = timer->data;

    kz_pipeline_end_waiting(up->pipeline);
    turn(up);
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct up *up = signal->data;

    /* Ctrl-C reaches the whole process group, and whoever started us may pass it on: one word. */
    if (up->stopping && kz_mono_ms() - up->stopping_ms < ONE_WORD_MS)
        return;
    if (up->stopping) {
        kz_diag_warn("stopping at once", "signal=%d", number);
        _exit(KZ_EXIT_FAILED);
    }
    up->stopping = true;
    up->stopping_ms = kz_mono_ms();
    kz_diag_info(
            "stopping: no new connections, finishing what is acknowledged", "signal=%d", number);
    uv_timer_start(&up->timer, on_grace, GRACE_MS, 0);
    kz_serve_drain(up->serve);
    kz_http_server_stop(up->server, DRAIN_MS, on_drained, up);
}

/* ---- starting ---------------------------------------------------------------------------------------- */

/* Each connection is a descriptor; so are segments and replicas. */
static void raise_limits(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static enum kz_code open_pipeline(struct up *up, const char *data, struct kz_err *err)
{
    struct kz_pipeline_options options = {
            .project = kz_config_project(up->config),
            .data_dir = data,
            .runtimes = kz_runtimes(),
            .wake = wake_up,
            .arg = up,
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
    const struct kz_collect_counters *counters = kz_collect_counters(((struct up *)arg)->collect);

#define X(name, gauge, help)                                                                       \
    kz_buf_printf(out,                                                                             \
            "# HELP kizashi_collect_" #name " " help "\n# TYPE kizashi_collect_" #name             \
            " %s\nkizashi_collect_" #name " %" PRIu64 "\n",                                        \
            (gauge) ? "gauge" : "counter", counters->name);
    KZ_COLLECT_COUNTERS(X)
#undef X
}

static enum kz_code listen_on(
        struct up *up, const char *address, const char *data, struct kz_err *err)
{
    struct kz_http_options limits = kz_http_options_default();
    struct kz_http_handler handler = {
            .handle = handle, .admit = admit, .on_batch_end = on_batch_end, .arg = up};
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
    collect.auth = up->auth;
    serve.loop = &up->loop;
    serve.data_dir = data;
    serve.version = KZ_VERSION;
    serve.build = KZ_BUILD;
    serve.feature_names = feature_names;
    serve.more_metrics = collect_metrics;
    serve.arg = up;
    up->collect = kz_collect_new(&collect);
    up->serve = kz_serve_new(query, up->auth, &serve);
    up->server = kz_http_server_new(&up->loop, &limits, &handler);
    kz_serve_watch(up->serve, up->server);
    return kz_http_server_listen(up->server, address, err);
}

static void start_loop(struct up *up)
{
    uv_loop_init(&up->loop);
    uv_async_init(&up->loop, &up->wake, on_wake);
    uv_timer_init(&up->loop, &up->timer);
    uv_signal_init(&up->loop, &up->term);
    uv_signal_init(&up->loop, &up->interrupt);
    up->wake.data = up->timer.data = up->term.data = up->interrupt.data = up;
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

static void announce(struct up *up, const char *address)
{
    const struct kz_project *project = kz_config_project(up->config);
    const char *colon = strrchr(address, ':');
    char shown[300];

    if (strncmp(address, "unix:", 5) == 0)
        snprintf(shown, sizeof(shown), "%s", address);
    else
        snprintf(shown, sizeof(shown), "http://%.*s:%u", (int)(colon ? colon - address : 0),
                address, kz_http_server_port(up->server));
    printf("%s is up: %s\n", project->name, shown);
    fflush(stdout);
}

/* Answers first, then the log: whoever was answered is on disk (P3). */
static void stop(struct up *up)
{
    int64_t until_ms = kz_mono_ms() + LAST_ANSWERS_MS;

    while (up->serve && kz_serve_open(up->serve) && kz_mono_ms() < until_ms) {
        kz_pipeline_turn(up->pipeline);
        usleep(1000);
    }
    kz_serve_free(up->serve);
    kz_pipeline_close(up->pipeline);
    if (up->server)
        kz_http_server_free(up->server);
    kz_collect_free(up->collect);
    kz_push_auth_close(up->push_auth);
    kz_auth_close(up->auth);
    close_handles(up);
    uv_run(&up->loop, UV_RUN_DEFAULT);
    uv_loop_close(&up->loop);
    kz_config_free(up->config);
}

static int run(const struct kz_args *args)
{
    static const char *const of_roles[] = {"backend", "model"};
    struct up up = {0};
    struct kz_err err;
    enum kz_code rc;
    int64_t stopping_ms;

    if (kz_args_get(args, "role"))
        return kz_role_up(args);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(of_roles); i++)
        if (kz_args_get(args, of_roles[i]))
            return kz_command_usage(args, "--%s is for --role", of_roles[i]);
    kz_diag_set(kz_args_flag(args, "verbose") ? KZ_DIAG_DEBUG : KZ_DIAG_INFO,
            strcmp(kz_args_get(args, "log"), "json") == 0);
    up.started_ms = kz_mono_ms();
    raise_limits();
    start_loop(&up);
    rc = start(&up, args, &err);
    if (rc == KZ_OK) {
        uv_signal_start(&up.term, on_signal, SIGTERM);
        uv_signal_start(&up.interrupt, on_signal, SIGINT);
        announce(&up, kz_args_get(args, "listen"));
        set_timer(&up);
        uv_run(&up.loop, UV_RUN_DEFAULT);
    }
    stopping_ms = kz_mono_ms();
    stop(&up);
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
                "Everything is in this one process and its model workers; data is in "
                "DIR/.kizashi.\n"
                "SIGTERM stops it within 10 seconds and loses nothing; neither does kill -9.\n"
                "With --role it is a part of a deployment that shares its data in the backends of\n"
                "kizashi.yaml: collect takes events, process stores them and decides who is "
                "asked,\n"
                "infer asks the models, serve answers readers and delivers.",
        .example = "kizashi up examples/shop --listen 127.0.0.1:8080",
        .options =
                {
                        {"listen", "ADDR", "127.0.0.1:8080",
                                "address and port, [::1]:8080, or unix:PATH; port 0 takes a free "
                                "one"},
                        {"data", "PATH", NULL, "where the data is, instead of DIR/.kizashi"},
                        {"env", "NAME", NULL, "lays kizashi.NAME.yaml on kizashi.yaml"},
                        {"role", "LIST", NULL,
                                "collect, process, infer, serve: some of them, by commas"},
                        {"backend", "NAME", NULL,
                                "with --role: memory or gcp, instead of the project's"},
                        {"model", "LIST", NULL,
                                "with --role infer: only these models; default all"},
                        {"push", NULL, NULL,
                                "with --role infer: requests come by POST /v1/pubsub/push (Cloud "
                                "Run)"},
                        {"clock", "CLOCK", "wall", "with --role: event, for tests on virtual time"},
                        {"log", "FORMAT", "text", "log lines as text or json"},
                        {"verbose", NULL, NULL, "debug lines, too"},
                },
        .run = run,
};
