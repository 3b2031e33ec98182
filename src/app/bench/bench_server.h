/* app/bench/bench_server.h -- what is measured: a project of its own and `kizashi up` as a child process,
 * seen from outside by /proc and /metrics.
 */
#pragma once

#include <limits.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"

struct kz_bench_server {
    char binary[PATH_MAX], dir[PATH_MAX], data[PATH_MAX];
    pid_t pid; /* 0: not running */
    unsigned port;
};

/* Writes the project below `dir`: ten rules, typed columns, a Python model that tells its own time. */
KZ_MUST_USE enum kz_code kz_bench_project(const char *dir, struct kz_err *err);

/* Starts it on a free port; *ret_ready_ms: from fork() until /readyz answers 200. */
KZ_MUST_USE enum kz_code kz_bench_server_start(
        struct kz_bench_server *server, double *ret_ready_ms, struct kz_err *err);
/* Sends the signal and waits for the end; *ret_ms (may be NULL): how long that took. */
void kz_bench_server_stop(struct kz_bench_server *server, int signal, double *ret_ms);

/* A process and what it has started, in seconds of CPU and bytes of memory. */
struct kz_bench_usage {
    double server_cpu_s, workers_cpu_s;
    double machine_cpu_s;     /* of everybody, since it was switched on */
    uint64_t anonymous_bytes; /* the server's own memory */
    uint64_t mapped_bytes;    /* its view of files, which the kernel may take back */
    uint64_t workers_bytes;
};
void kz_bench_usage(pid_t pid, struct kz_bench_usage *ret);

/* A number of /metrics, by its whole name with labels; 0 where there is none. */
KZ_MUST_USE enum kz_code kz_bench_metrics(
        const struct kz_bench_server *server, struct kz_buf *ret_text, struct kz_err *err);
double kz_bench_metric(const struct kz_buf *text, const char *name);
/* GET; the body in `ret_text`. */
KZ_MUST_USE enum kz_code kz_bench_get(const struct kz_bench_server *server, const char *path,
        struct kz_buf *ret_text, struct kz_err *err);
/* Until no request is pending and the server rests (nothing is being sealed); at most that long. */
void kz_bench_settle(const struct kz_bench_server *server, int64_t timeout_ms);

/* nginx with `return 200`, where it is installed (KZ_NOT_FOUND). Stopped like a server. */
KZ_MUST_USE enum kz_code kz_bench_nginx_start(
        const char *dir, struct kz_bench_server *ret_server, struct kz_err *err);
