/* app/roles/role_up.c -- `kizashi up --role`: some roles in one process (app/host/host.h). */

#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "app/config/check.h"
#include "app/commands/command.h"
#include "app/host/host.h"
#include "app/roles/role.h"
#include "app/commands/version.h"
#include "base/diag.h"
#include "contract/auth.h"
#include "sys/clock.h"

enum {
    TURN_MS = 1000,
    /* For messages that were taken: whoever pushed one that is given up then is still answered. */
    DRAIN_MS = KZ_HOST_DRAIN_MS - 500,
    STOP_MAX_MS = 7000,
    EXIT_MS = 9000, /* for all of it; then calls that hang are left to hang */
};

struct up {
    struct kz_host host;
    struct kz_config *config;
    struct kz_role_env *env;
    struct kz_auth *auth;
    struct kz_query *query, *own_query; /* the one served; where it is ours to free */
    struct kz_serve *serve;
    int64_t looked_ms;
    bool takes_callers; /* collect or serve is here: keys say who may */
    bool drained;
    char data[PATH_MAX];
};

static struct kz_role *role_at(struct up *up, unsigned kind)
{
    return up->env ? up->env->roles[kind] : NULL;
}

/* ---- turns ---------------------------------------------------------------------------------- */

static bool all_stopped(struct up *up)
{
    bool stopped = true;

    for (unsigned kind = 0; kind < KZ_ROLE_COUNT; kind++) {
        struct kz_role *role = role_at(up, kind);

        if (role && role->ops->stopped && !role->ops->stopped(role))
            stopped = false;
    }
    return stopped;
}

static void turn(void *arg)
{
    struct up *up = arg;
    int64_t wait_ms = up->host.stopping ? 20 : TURN_MS;

    if (kz_mono_ms() - up->looked_ms > TURN_MS / 2) {
        up->looked_ms = kz_mono_ms();
        kz_role_env_tick(up->env);
    }
    for (unsigned kind = 0; kind < KZ_ROLE_COUNT; kind++) {
        struct kz_role *role = role_at(up, kind);

        if (role && role->ops->turn)
            role->ops->turn(role);
        if (role && role->ops->next_ms)
            wait_ms = KZ_MIN(wait_ms, (int64_t)role->ops->next_ms(role));
    }
    if (up->host.stopping && ((all_stopped(up) && up->drained) ||
                                     kz_mono_ms() - up->host.stopping_ms > STOP_MAX_MS)) {
        kz_host_end(&up->host);
        return;
    }
    kz_host_turn_in(&up->host, wait_ms);
}

/* ---- HTTP ----------------------------------------------------------------------------------- */

/* A process of infer or process has no callers: whoever keeps it asks how it is. */
static bool is_for_keepers(struct kz_str path)
{
    static const char *const paths[] = {
            "/healthz", "/readyz", "/metrics", "/v1", "/v1/admin/status", "/v1/admin/top"};

    for (size_t i = 0; i < KZ_ARRAY_COUNT(paths); i++)
        if (kz_str_is(path, paths[i]))
            return true;
    return kz_str_is(path, "/v2") || kz_str_starts(path, "/v2/");
}

static void handle(void *arg, struct kz_http_request *req)
{
    struct up *up = arg;

    for (unsigned kind = 0; kind < KZ_ROLE_COUNT; kind++) {
        struct kz_role *role = role_at(up, kind);

        if (role && role->ops->handle && role->ops->handle(role, req))
            return;
    }
    if ((!up->own_query || is_for_keepers(req->path)) && kz_serve_handle(up->serve, req))
        return;
    kz_serve_unknown(up->serve, req);
}

static enum kz_code admit(
        void *arg, const struct kz_http_request *req, size_t *body_max_bytes, struct kz_err *err)
{
    struct up *up = arg;

    for (unsigned kind = 0; kind < KZ_ROLE_COUNT; kind++) {
        struct kz_role *role = role_at(up, kind);

        if (role && role->ops->admit)
            KZ_TRY(role->ops->admit(role, req, body_max_bytes, err));
    }
    return KZ_OK;
}

static void more_status(void *arg, struct kz_json_out *out)
{
    kz_role_env_status(((struct up *)arg)->env, out);
}

static void metrics(void *arg, struct kz_buf *out)
{
    kz_role_env_metrics(((struct up *)arg)->env, out);
}

static void problems(void *arg, kz_serve_say *say, void *to)
{
    struct up *up = arg;

    for (unsigned kind = 0; kind < KZ_ROLE_COUNT; kind++) {
        struct kz_role *role = role_at(up, kind);

        if (role && role->ops->problems)
            role->ops->problems(role, say, to);
    }
    kz_role_env_problems(up->env, say, to);
}

/* ---- stopping ------------------------------------------------------------------------------- */

static void drained(void *arg)
{
    struct up *up = arg;

    up->drained = true;
    turn(up);
}

/* A thread that waits for a backend that does not answer cannot be joined in time. What it holds was not
 * acknowledged, so it comes again, as after kill -9. */
static void *watch_the_end(void *arg)
{
    (void)arg;
    usleep(EXIT_MS * 1000);
    kz_diag_warn("stopped while backends did not answer: what was held comes again", "after_ms=%d",
            EXIT_MS);
    _exit(KZ_EXIT_DONE);
}

static void begin_watch(void)
{
    pthread_t watch;

    if (pthread_create(&watch, NULL, watch_the_end, NULL) == 0)
        pthread_detach(watch);
}

static void stop(void *arg)
{
    struct up *up = arg;

    begin_watch();
    for (unsigned kind = 0; kind < KZ_ROLE_COUNT; kind++) {
        struct kz_role *role = role_at(up, kind);

        if (role && role->ops->stop)
            role->ops->stop(role, up->host.stopping_ms + DRAIN_MS);
    }
}

/* Roles first: whoever waits for an answer gets it. */
static void close_all(struct up *up)
{
    for (unsigned kind = 0; kind < KZ_ROLE_COUNT && up->env; kind++) {
        struct kz_role *role = up->env->roles[kind];

        if (kind == KZ_ROLE_SERVE) {
            kz_serve_free(kz_take(&up->serve));
            free(kz_take(&up->own_query));
        }
        up->env->roles[kind] = NULL;
        if (role)
            role->ops->close(role);
    }
    if (up->env && up->env->abandoned) {
        kz_diag_warn("stopped with calls under way: what was held comes again elsewhere",
                "ms=%" PRId64, kz_mono_ms() - up->host.stopping_ms);
        _exit(KZ_EXIT_DONE);
    }
    kz_role_env_close(up->env);
    kz_host_done(&up->host);
    kz_auth_close(up->auth);
    kz_config_free(up->config);
}

/* ---- starting ------------------------------------------------------------------------------- */

static enum kz_code open_env(struct up *up, const struct kz_args *args, struct kz_err *err)
{
    const char *clock = kz_args_get(args, "clock");
    struct kz_role_env_options options = {
            .project = kz_config_project(up->config),
            .backend = kz_args_get(args, "backend"),
            .models = kz_args_get(args, "model"),
            .push_only = kz_args_flag(args, "push"),
            .event_clock = strcmp(clock, "event") == 0,
    };

    if (!options.event_clock && strcmp(clock, "wall") != 0)
        return kz_fail(err, KZ_CONFIG, "--clock has to be wall or event, not \"%s\"", clock);
    KZ_TRY(kz_roles_parse(kz_args_get(args, "role"), &options.kinds, err));
    KZ_TRY(kz_role_env_open(&options, &up->env, err));
    up->env->loop = &up->host.loop;
    up->env->data_dir = up->data;
    up->env->wake = kz_host_wake;
    up->env->wake_arg = &up->host;
    up->takes_callers = options.kinds & (1u << KZ_ROLE_COLLECT | 1u << KZ_ROLE_SERVE);
    return KZ_OK;
}

/* Without callers no keys are needed, wherever it listens. */
static enum kz_code open_auth(struct up *up, const char *address, struct kz_err *err)
{
    KZ_TRY(kz_auth_open(kz_fs_posix(), up->data, &up->auth, err));
    up->env->auth = up->auth;
    if (!up->takes_callers)
        return KZ_OK;
    up->host.keys = up->auth;
    return kz_auth_listen(up->auth, address, err);
}

static enum kz_code open_roles(struct up *up, struct kz_err *err)
{
    /* Who takes what others make is there before them. */
    static const enum kz_role_kind order[] = {
            KZ_ROLE_SERVE, KZ_ROLE_INFER, KZ_ROLE_PROCESS, KZ_ROLE_COLLECT};

    for (size_t i = 0; i < KZ_ARRAY_COUNT(order); i++) {
        const struct kz_role_ops *ops = kz_role_ops_of(order[i]);

        if (!(up->env->kinds & 1u << order[i]))
            continue;
        if (!ops)
            return kz_fail(err, KZ_UNSUPPORTED, "the role %s is not in this build",
                    kz_role_name(order[i]));
        KZ_TRY(ops->open(up->env, &up->env->roles[order[i]], err));
    }
    return KZ_OK;
}

static enum kz_code listen_on(struct up *up, const char *address, struct kz_err *err)
{
    struct kz_serve_options options = kz_serve_options_default();
    struct kz_role *serve = role_at(up, KZ_ROLE_SERVE);

    if (serve && serve->ops->query)
        up->query = serve->ops->query(serve);
    else
        up->query = up->own_query = kz_role_query_new(up->env);
    options.loop = &up->host.loop;
    options.version = KZ_VERSION;
    options.build = KZ_BUILD;
    options.more_metrics = metrics;
    options.more_problems = problems;
    options.more_status = more_status;
    options.is_role = true;
    options.arg = up;
    up->serve = kz_serve_new(up->query, up->takes_callers ? up->auth : NULL, &options);
    return kz_host_listen(&up->host, up->serve, address, err);
}

static enum kz_code start(struct up *up, const struct kz_args *args, struct kz_err *err)
{
    const char *dir = args->arguments[0], *address = kz_args_get(args, "listen");

    up->config = kz_check_load(dir, kz_args_get(args, "env"), err);
    if (!up->config)
        return err->code;
    kz_command_data(args, dir, up->data, sizeof(up->data));
    KZ_TRY(open_env(up, args, err));
    KZ_TRY(open_auth(up, address, err));
    KZ_TRY(open_roles(up, err));
    return listen_on(up, address, err);
}

int kz_role_up(const struct kz_args *args)
{
    static const struct kz_host_ops ops = {
            .handle = handle, .admit = admit, .turn = turn, .stop = stop, .drained = drained};
    struct up up = {0};
    struct kz_err err;
    enum kz_code rc;

    kz_host_init(&up.host, &ops, &up);
    rc = start(&up, args, &err);
    if (rc == KZ_OK) {
        kz_host_announce(&up.host, up.env->project->name, kz_args_get(args, "listen"),
                kz_args_get(args, "role"));
        kz_host_run(&up.host);
    }
    close_all(&up);
    if (rc != KZ_OK)
        return kz_command_fail(&err);
    kz_diag_info("stopped", "ms=%" PRId64, kz_mono_ms() - up.host.stopping_ms);
    return KZ_EXIT_DONE;
}
