#include "app/bench/bench_server.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sys/clock.h"
#include "sys/http_client.h"

/* ---- the project ---------------------------------------------------------------------------------- */

static const char project_yaml[] =
        "project: bench\n"
        "events:\n"
        "  columns:\n"
        "    price:    {from: $.price, type: float}\n"
        "    item:     {from: $.product_id, type: string}\n"
        "    category: {from: $.category_code, type: string}\n"
        "    brand:    {from: $.brand, type: string}\n"
        "  dedupe: 7d\n"
        "  retention: {age: 90d}\n"
        "# Ten rules. Of the live events 10 % match one: checkout 1.5 %, cart 5 %, wishlist 2 %,\n"
        "# coupon_open 1.5 %. Only checkout asks the model at once; the others set timers and count.\n"
        "triggers:\n"
        "  buying:     {when: \"name = 'checkout'\"}\n"
        "  abandoning: {when: \"name = 'cart' AND price > 50\", delay: 30m, unless: \"name = "
        "'checkout'\"}\n"
        "  carts:      {count: {of: \"name = 'cart'\", within: 1h, reaches: 300, rearm: 1h}}\n"
        "  wishes:     {count: {of: \"name = 'wishlist'\", within: 1h, reaches: 300, rearm: 1h}}\n"
        "  coupons:    {when: \"name = 'coupon_open' AND price < 900\", delay: 1h}\n"
        "  precious:   {when: \"name = 'cart' AND price > 999\", debounce: 2s}\n"
        "  support:    {when: \"name = 'support'\"}\n"
        "  brochure:   {when: \"name IN ('brochure', 'catalogue')\"}\n"
        "  refund:     {when: \"name = 'refund' AND price > 10\"}\n"
        "  premium:    {when: \"name = 'subscribe' AND category LIKE 'premium%'\"}\n"
        "models:\n"
        "  trivial:\n"
        "    trigger: [buying, abandoning, carts, wishes, coupons, precious, support, brochure, "
        "refund, premium]\n"
        "    runtime: python\n"
        "    path: models/trivial\n"
        "    features: features/trivial.sql\n"
        "    history: {window: 7d, max_events: 50}\n"
        "    valid_for: 24h\n"
        "    output: {select: 0}\n"
        "    batch: {max: 64}\n"
        "    replicas: {min: 1, max: 1}\n"
        "    timeout: 2s\n";

static const char features_sql[] = "SELECT count(*) AS events,\n"
                                   "       count(*) FILTER (WHERE name = 'view') AS views,\n"
                                   "       count(*) FILTER (WHERE name = 'cart') AS carts,\n"
                                   "       coalesce(sum(price), 0.0) AS spent,\n"
                                   "       coalesce(max(price), 0.0) AS dearest,\n"
                                   "       coalesce(avg(price), 0.0) AS mean,\n"
                                   "       coalesce(max(ts) - min(ts), 0) AS span\n"
                                   "FROM events\n";

/* Its second output is the time it took, in microseconds, for the whole batch. */
static const char model_py[] =
        "import math\n"
        "import time\n"
        "\n"
        "import kizashi\n"
        "\n"
        "\n"
        "class Trivial(kizashi.Model):\n"
        "    def predict(self, batch):\n"
        "        began = time.perf_counter_ns()\n"
        "        views, spent = batch.column(\"views\"), batch.column(\"spent\")\n"
        "        scores = [1 / (1 + math.exp(-(0.02 * v + 1e-5 * s - 2))) for v, s in zip(views, "
        "spent)]\n"
        "        took = (time.perf_counter_ns() - began) / 1e3\n"
        "        return [[score, took] for score in scores]\n";

static enum kz_code write_file(
        const char *dir, const char *name, const char *text, struct kz_err *err)
{
    char path[PATH_MAX];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    file = fopen(path, "we");
    if (!file)
        return kz_fail_errno(err, "could not write \"%s\"", path);
    fputs(text, file);
    return fclose(file) == 0 ? KZ_OK : kz_fail_errno(err, "could not write \"%s\"", path);
}

static enum kz_code make_dir(const char *dir, const char *name, struct kz_err *err)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return kz_fail_errno(err, "could not make \"%s\"", path);
    return KZ_OK;
}

enum kz_code kz_bench_project(const char *dir, struct kz_err *err)
{
    KZ_TRY(make_dir(dir, "features", err));
    KZ_TRY(make_dir(dir, "models", err));
    KZ_TRY(make_dir(dir, "models/trivial", err));
    KZ_TRY(write_file(dir, "kizashi.yaml", project_yaml, err));
    KZ_TRY(write_file(dir, "features/trivial.sql", features_sql, err));
    return write_file(dir, "models/trivial/model.py", model_py, err);
}

/* ---- asking it ------------------------------------------------------------------------------------ */

enum { ASK_MS = 10000, START_MS = 300000 };

enum kz_code kz_bench_get(const struct kz_bench_server *server, const char *path,
        struct kz_buf *ret_text, struct kz_err *err)
{
    KZ_AUTO(kz_http_client_freep) struct kz_http_client *client = NULL;
    struct kz_http_answer answer;
    char url[64];

    snprintf(url, sizeof(url), "http://127.0.0.1:%u", server->port);
    KZ_TRY(kz_http_client_new(url, &client, err));
    KZ_TRY(kz_http_client_request(client, "GET", path, NULL, 0, KZ_STR_NULL, ASK_MS, &answer, err));
    if (answer.status != 200)
        return kz_fail(err, KZ_UNAVAILABLE, "%s answered %d", path, answer.status);
    kz_buf_clear(ret_text);
    kz_buf_str(ret_text, answer.body);
    kz_buf_char(ret_text, '\0');
    return KZ_OK;
}

enum kz_code kz_bench_metrics(
        const struct kz_bench_server *server, struct kz_buf *ret_text, struct kz_err *err)
{
    return kz_bench_get(server, "/metrics", ret_text, err);
}

double kz_bench_metric(const struct kz_buf *text, const char *name)
{
    size_t size = strlen(name);

    for (const char *at = text->data; at && (at = strstr(at, name)); at += size)
        if ((at == text->data || at[-1] == '\n') && at[size] == ' ')
            return strtod(at + size, NULL);
    return 0;
}

static void nap(int64_t us)
{
    struct timespec span = {us / 1000000, us % 1000000 * 1000};

    nanosleep(&span, NULL); /* cut short is fine: the caller looks again */
}

void kz_bench_settle(const struct kz_bench_server *server, int64_t timeout_ms)
{
    enum {
        QUIET = 4
    }; /* looks in a row: between two segments the sealer waits for a tick of 0.5 s */
    int64_t until_ms = kz_mono_ms() + timeout_ms;
    struct kz_buf text = {0};
    struct kz_err err;

    for (int quiet = 0; quiet < QUIET && kz_mono_ms() < until_ms;) {
        struct kz_bench_usage before, after;

        kz_bench_usage(server->pid, &before);
        nap(500000);
        kz_bench_usage(server->pid, &after);
        quiet = after.server_cpu_s - before.server_cpu_s < 0.1 &&
                                kz_bench_metrics(server, &text, &err) == KZ_OK &&
                                kz_bench_metric(&text, "kizashi_requests_pending") == 0
                        ? quiet + 1
                        : 0;
    }
    kz_buf_done(&text);
}

/* ---- starting and stopping ------------------------------------------------------------------------ */

/* Waits for "... is up: http://127.0.0.1:PORT" on the child's standard output. */
static enum kz_code read_port(struct kz_bench_server *server, int fd, struct kz_err *err)
{
    char text[512], *at;
    size_t size = 0;
    ssize_t n;

    while (size + 1 < sizeof(text) && (n = read(fd, text + size, sizeof(text) - 1 - size)) > 0) {
        size += (size_t)n;
        text[size] = '\0';
        at = strstr(text, "http://127.0.0.1:");
        if (at && strchr(at, '\n')) {
            server->port = (unsigned)strtoul(at + 17, NULL, 10);
            return KZ_OK;
        }
    }
    (void)kz_fail(err, KZ_UNAVAILABLE, "the server did not start");
    return kz_hint(err, "see %s/server.log", server->dir);
}

static pid_t spawn(const char *log, int out, char *const *command)
{
    pid_t pid = fork();
    int fd;

    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd >= 0)
        dup2(fd, STDERR_FILENO);
    if (out >= 0)
        dup2(out, STDOUT_FILENO);
    execv(command[0], command);
    _exit(127);
}

static enum kz_code wait_ready(const struct kz_bench_server *server, struct kz_err *err)
{
    int64_t until_ms = kz_mono_ms() + START_MS;
    struct kz_buf text = {0};
    enum kz_code rc;

    do {
        rc = kz_bench_get(server, "/readyz", &text, err);
        if (rc != KZ_OK)
            nap(500);
    } while (rc != KZ_OK && kz_mono_ms() < until_ms);
    kz_buf_done(&text);
    return rc;
}

enum kz_code kz_bench_server_start(
        struct kz_bench_server *server, double *ret_ready_ms, struct kz_err *err)
{
    char log[PATH_MAX + 16];
    char *command[] = {server->binary, "up", server->dir, "--data", server->data, "--listen",
            "127.0.0.1:0", NULL};
    int64_t began_us = kz_mono_us();
    enum kz_code rc;
    int out[2];

    snprintf(log, sizeof(log), "%s/server.log", server->dir);
    if (pipe2(out, O_CLOEXEC) != 0)
        return kz_fail_errno(err, "could not make a pipe");
    server->pid = spawn(log, out[1], command);
    close(out[1]);
    rc = server->pid < 0 ? kz_fail_errno(err, "could not fork") : read_port(server, out[0], err);
    close(out[0]);
    if (rc == KZ_OK)
        rc = wait_ready(server, err);
    if (rc != KZ_OK) {
        if (server->pid > 0)
            kz_bench_server_stop(server, SIGKILL, NULL);
        return rc;
    }
    *ret_ready_ms = (double)(kz_mono_us() - began_us) / 1e3;
    return KZ_OK;
}

void kz_bench_server_stop(struct kz_bench_server *server, int signal, double *ret_ms)
{
    int64_t began_us = kz_mono_us();

    if (server->pid <= 0)
        return;
    kill(server->pid, signal);
    while (waitpid(server->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    server->pid = 0;
    if (ret_ms)
        *ret_ms = (double)(kz_mono_us() - began_us) / 1e3;
}

static unsigned free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unsigned port = 0;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
            getsockname(fd, (struct sockaddr *)&address, &size) == 0)
        port = ntohs(address.sin_port);
    close(fd);
    return port;
}

enum kz_code kz_bench_nginx_start(
        const char *dir, struct kz_bench_server *ret_server, struct kz_err *err)
{
    struct kz_bench_server server = {.port = free_port()};
    char conf[4096], path[PATH_MAX + 32], log[PATH_MAX + 32];
    char *command[] = {"/usr/sbin/nginx", "-p", (char *)dir, "-c", path, NULL};
    struct kz_buf text = {0};
    struct kz_err last;

    if (access(command[0], X_OK) != 0)
        return kz_fail(err, KZ_NOT_FOUND, "nginx is not installed (apt-get install nginx-light)");
    snprintf(conf, sizeof(conf),
            "daemon off; worker_processes 1; pid nginx.pid; error_log nginx.log;\n"
            "events { worker_connections 1024; }\n"
            "http { access_log off; keepalive_requests 1000000000; client_body_temp_path .;\n"
            "  proxy_temp_path .; fastcgi_temp_path .; uwsgi_temp_path .; scgi_temp_path .;\n"
            "  server { listen 127.0.0.1:%u; location / { return 200 '{\"accepted\":1}'; } } }\n",
            server.port);
    KZ_TRY(write_file(dir, "nginx.conf", conf, err));
    snprintf(path, sizeof(path), "%s/nginx.conf", dir);
    snprintf(log, sizeof(log), "%s/nginx.log", dir);
    server.pid = spawn(log, -1, command);
    for (int i = 0; i < 200; i++) {
        if (kz_bench_get(&server, "/", &text, &last) == KZ_OK)
            break;
        nap(10000);
    }
    if (!text.size) {
        kz_bench_server_stop(&server, SIGKILL, NULL);
        return kz_fail(err, KZ_UNAVAILABLE, "nginx did not start, see %s", log);
    }
    kz_buf_done(&text);
    *ret_server = server;
    return KZ_OK;
}

/* ---- /proc ---------------------------------------------------------------------------------------- */

static size_t read_proc(pid_t pid, const char *name, char *out, size_t size)
{
    char path[64];
    size_t got = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    file = fopen(path, "re");
    if (file) {
        got = fread(out, 1, size - 1, file);
        fclose(file);
    }
    out[got] = '\0';
    return got;
}

/* proc(5): field 4 is the parent, 14 and 15 are ticks of user and system time. */
static bool read_stat(pid_t pid, pid_t *ret_parent, double *ret_cpu_s)
{
    char text[1024];
    const char *at;
    unsigned long user, kernel;
    int parent;

    if (!read_proc(pid, "stat", text, sizeof(text)) || !(at = strrchr(text, ')')) ||
            sscanf(at, ") %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &parent, &user,
                    &kernel) != 3)
        return false;
    *ret_parent = parent;
    *ret_cpu_s = (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
    return true;
}

static uint64_t status_bytes(pid_t pid, const char *name)
{
    char text[4096];
    const char *at;

    read_proc(pid, "status", text, sizeof(text));
    at = strstr(text, name);
    return at ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

static bool descends(pid_t pid, pid_t from)
{
    double cpu_s;

    for (int depth = 0; depth < 8 && pid > 1; depth++)
        if (!read_stat(pid, &pid, &cpu_s))
            return false;
        else if (pid == from)
            return true;
    return false;
}

/* proc(5): user, nice, system, idle, iowait, irq, softirq, steal of all cores, in ticks. */
static double machine_cpu(void)
{
    unsigned long long user, nice, kernel, irq, softirq, steal;
    FILE *file = fopen("/proc/stat", "re");
    int got = file ? fscanf(file, "cpu %llu %llu %llu %*u %*u %llu %llu %llu", &user, &nice,
                             &kernel, &irq, &softirq, &steal)
                   : 0;

    if (file)
        fclose(file);
    return got == 6 ? (double)(user + nice + kernel + irq + softirq + steal) /
                              (double)sysconf(_SC_CLK_TCK)
                    : 0;
}

void kz_bench_usage(pid_t pid, struct kz_bench_usage *ret)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    pid_t parent;
    double cpu_s;

    *ret = (struct kz_bench_usage){
            .machine_cpu_s = machine_cpu(),
            .anonymous_bytes = status_bytes(pid, "RssAnon:"),
            .mapped_bytes = status_bytes(pid, "RssFile:") + status_bytes(pid, "RssShmem:"),
    };
    if (read_stat(pid, &parent, &cpu_s))
        ret->server_cpu_s = cpu_s;
    while (proc && (entry = readdir(proc))) {
        pid_t other = (pid_t)strtol(entry->d_name, NULL, 10);

        if (other <= 1 || other == pid || !descends(other, pid) ||
                !read_stat(other, &parent, &cpu_s))
            continue;
        ret->workers_cpu_s += cpu_s;
        ret->workers_bytes += status_bytes(other, "RssAnon:");
    }
    if (proc)
        closedir(proc);
}
