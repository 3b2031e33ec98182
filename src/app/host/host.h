/* app/host/host.h -- the process around what `kizashi up` runs, be it the pipeline or roles: one loop
 * that others wake, one HTTP server, keys that are read again, and a clean end.
 *
 *     init -> listen -> announce -> run: requests, turns --signal--> stop(), turns --> end() -> done
 *
 * Owner    the command, which opens and closes what runs in it. Serve is freed before done(): its
 *          timers close there.
 * Threads  the loop's, but kz_host_wake() from any.
 * Fails    listen, as kz_http_server_listen().
 */
#pragma once

#include <uv.h>

#include "serve/serve.h"
#include "sys/http.h"

struct kz_auth;

enum { KZ_HOST_DRAIN_MS = 5000 /* for requests that were taken, before connections are cut */ };

/* On the loop's thread. */
struct kz_host_ops {
    void (*handle)(void *arg, struct kz_http_request *req);
    enum kz_code (*admit)(void *arg, const struct kz_http_request *req, size_t *body_max_bytes,
            struct kz_err *err);
    /* After a batch of requests, when woken, and when the time of kz_host_turn_in() has come. */
    void (*turn)(void *arg);
    /* The first SIGTERM or SIGINT; streams and connections are ended behind it, then a turn follows. */
    void (*stop)(void *arg);
    /* Every connection is closed. */
    void (*drained)(void *arg);
};

struct kz_host {
    const struct kz_host_ops *ops;
    void *arg;
    uv_loop_t loop;
    int64_t started_ms, stopping_ms; /* kz_mono_ms() */
    bool stopping;
    struct kz_auth *keys; /* whose file is read again each second; NULL: there are no callers */

    struct kz_http_server *server;
    struct kz_serve *serve;
    uv_async_t woken;
    uv_timer_t timer;
    uv_signal_t term, interrupt;
    int64_t keys_read_ms;
};

/* Also raises the limit of descriptors: each connection is one. */
void kz_host_init(struct kz_host *host, const struct kz_host_ops *ops, void *arg);
/* `serve` (borrowed) is drained by a signal, and shows the server's counters. */
KZ_MUST_USE enum kz_code kz_host_listen(
        struct kz_host *host, struct kz_serve *serve, const char *address, struct kz_err *err);
/* "shop is up: http://127.0.0.1:8080" on standard output, with what is behind it in parentheses
 * (`roles`, or NULL): whoever started us reads the port there. */
void kz_host_announce(
        struct kz_host *host, const char *project, const char *address, const char *roles);
/* Heeds signals, and runs the loop until kz_host_end(). */
void kz_host_run(struct kz_host *host);
/* `host` is a struct kz_host, as a callback's argument: a turn is wanted. */
void kz_host_wake(void *host);
/* A turn in `ms`, instead of when it was wanted before. */
void kz_host_turn_in(struct kz_host *host, int64_t ms);
void kz_host_end(struct kz_host *host);
/* Whatever could wake the host is gone, and every request was answered. */
void kz_host_done(struct kz_host *host);
