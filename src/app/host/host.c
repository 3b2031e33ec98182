#include "app/host/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/diag.h"
#include "contract/auth.h"
#include "sys/clock.h"
#include "sys/thread.h"

enum { KEYS_EVERY_MS = 900, ONE_WORD_MS = 1000 };

/* Descriptors that are not for callers: the log, workers, webhooks, and those who are told 503. */
enum { DESCRIPTORS_KEPT = 640, DESCRIPTORS_FEW = 1280 };

/* Keys made or revoked by a command meanwhile. With every turn: where requests come without a pause, the
 * timer does not. */
static void read_keys(struct kz_host *host)
{
    struct kz_err err;

    if (host->stopping || !host->keys || kz_mono_ms() - host->keys_read_ms < KEYS_EVERY_MS)
        return;
    host->keys_read_ms = kz_mono_ms();
    if (kz_auth_reload(host->keys, &err) != KZ_OK)
        kz_diag_warn("could not read the keys again", "error=\"%s\"", err.message);
}

static void turn(struct kz_host *host)
{
    host->ops->turn(host->arg);
    read_keys(host);
}

static void on_timer(uv_timer_t *timer)
{
    turn(timer->data);
}

static void on_woken(uv_async_t *async)
{
    turn(async->data);
}

void kz_host_wake(void *host)
{
    uv_async_send(&((struct kz_host *)host)->woken);
}

void kz_host_turn_in(struct kz_host *host, int64_t ms)
{
    uv_timer_start(&host->timer, on_timer, (uint64_t)KZ_MAX(ms, (int64_t)0), 0);
}

/* ---- HTTP ----------------------------------------------------------------------------------- */

static void handle(void *arg, struct kz_http_request *req)
{
    struct kz_host *host = arg;

    host->ops->handle(host->arg, req);
}

static enum kz_code admit(
        void *arg, const struct kz_http_request *req, size_t *body_max_bytes, struct kz_err *err)
{
    struct kz_host *host = arg;

    return host->ops->admit(host->arg, req, body_max_bytes, err);
}

static void on_batch_end(void *arg)
{
    turn(arg);
}

/* Callers must not take the descriptors that the next segment of the log needs. */
static void limit_connections(struct kz_http_options *limits)
{
    struct rlimit have;
    size_t room;

    if (getrlimit(RLIMIT_NOFILE, &have) != 0 || have.rlim_cur == RLIM_INFINITY)
        return;
    room = have.rlim_cur < DESCRIPTORS_FEW ? (size_t)have.rlim_cur / 4
                                           : (size_t)have.rlim_cur - DESCRIPTORS_KEPT;
    if (room >= limits->connections_max)
        return;
    kz_diag_warn("few file descriptors: fewer connections are taken",
            "connections=%zu instead_of=%zu descriptors=%llu remedy=\"ulimit -n, LimitNOFILE= of "
            "systemd\"",
            room, limits->connections_max, (unsigned long long)have.rlim_cur);
    limits->connections_max = KZ_MAX(room, (size_t)1);
    limits->refused_max = KZ_MIN(limits->refused_max, room);
}

enum kz_code kz_host_listen(
        struct kz_host *host, struct kz_serve *serve, const char *address, struct kz_err *err)
{
    struct kz_http_options limits = kz_http_options_default();
    struct kz_http_handler handler = {
            .handle = handle, .admit = admit, .on_batch_end = on_batch_end, .arg = host};

    limit_connections(&limits);
    host->serve = serve;
    host->server = kz_http_server_new(&host->loop, &limits, &handler);
    kz_serve_watch(serve, host->server);
    return kz_http_server_listen(host->server, address, err);
}

void kz_host_announce(
        struct kz_host *host, const char *project, const char *address, const char *roles)
{
    const char *colon = strrchr(address, ':');
    char shown[300];

    if (strncmp(address, "unix:", 5) == 0)
        snprintf(shown, sizeof(shown), "%s", address);
    else
        snprintf(shown, sizeof(shown), "http://%.*s:%u", (int)(colon ? colon - address : 0),
                address, kz_http_server_port(host->server));
    if (roles)
        printf("%s is up: %s (%s)\n", project, shown, roles);
    else
        printf("%s is up: %s\n", project, shown);
    fflush(stdout);
}

/* ---- stopping ------------------------------------------------------------------------------- */

static void on_drained(void *arg, size_t unanswered)
{
    struct kz_host *host = arg;

    if (unanswered)
        kz_diag_warn("stopped before all was answered", "requests=%zu", unanswered);
    host->ops->drained(host->arg);
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct kz_host *host = signal->data;

    /* Ctrl-C reaches the whole process group, and whoever started us may pass it on: one word. */
    if (host->stopping && kz_mono_ms() - host->stopping_ms < ONE_WORD_MS)
        return;
    if (host->stopping) {
        kz_diag_warn("stopping at once", "signal=%d", number);
        _exit(EXIT_FAILURE);
    }
    host->stopping = true;
    host->stopping_ms = kz_mono_ms();
    kz_diag_info("stopping: nothing new is taken, what was taken is finished", "signal=%d", number);
    host->ops->stop(host->arg);
    kz_serve_drain(host->serve);
    kz_http_server_stop(host->server, KZ_HOST_DRAIN_MS, on_drained, host);
    turn(host);
}

/* ---- life ----------------------------------------------------------------------------------- */

static void raise_limits(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

void kz_host_init(struct kz_host *host, const struct kz_host_ops *ops, void *arg)
{
    *host = (struct kz_host){.ops = ops, .arg = arg, .started_ms = kz_mono_ms()};
    raise_limits();
    uv_loop_init(&host->loop);
    uv_async_init(&host->loop, &host->woken, on_woken);
    uv_timer_init(&host->loop, &host->timer);
    uv_signal_init(&host->loop, &host->term);
    uv_signal_init(&host->loop, &host->interrupt);
    host->woken.data = host->timer.data = host->term.data = host->interrupt.data = host;
}

void kz_host_run(struct kz_host *host)
{
    uv_signal_start(&host->term, on_signal, SIGTERM);
    uv_signal_start(&host->interrupt, on_signal, SIGINT);
    turn(host);
    kz_thread_prompt();
    uv_run(&host->loop, UV_RUN_DEFAULT);
}

void kz_host_end(struct kz_host *host)
{
    uv_stop(&host->loop);
}

void kz_host_done(struct kz_host *host)
{
    if (host->server)
        kz_http_server_free(host->server);
    uv_close((uv_handle_t *)&host->woken, NULL);
    uv_close((uv_handle_t *)&host->timer, NULL);
    uv_close((uv_handle_t *)&host->term, NULL);
    uv_close((uv_handle_t *)&host->interrupt, NULL);
    uv_run(&host->loop, UV_RUN_DEFAULT);
    uv_loop_close(&host->loop);
}
