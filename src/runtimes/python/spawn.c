#include "runtimes/python/python_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "sys/clock.h"

enum { CHANNEL_FD = 3, ENVIRONMENT_MAX = 64 };

/* What a model may know of our environment; secrets of the project's file are not among it. */
static const char *const passed[] = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ",
        "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES", "SSL_CERT_FILE",
        "SSL_CERT_DIR", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY",
        "NO_PROXY"};
static const char *const passed_prefixes[] = {"LC_", "NVIDIA_", "KIZASHI_MODEL_"};
static const char *const fixed[] = {"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1",
        "MKL_NUM_THREADS=1", "BLIS_NUM_THREADS=1", "NUMEXPR_NUM_THREADS=1",
        "VECLIB_MAXIMUM_THREADS=1", "PYTHONDONTWRITEBYTECODE=1", "PYTHONFAULTHANDLER=1",
        "PYTHONNOUSERSITE=1", "KZ_WORKER_FD=3"};

extern char **environ;

static bool is_passed(const char *variable)
{
    size_t size = strcspn(variable, "=");

    for (size_t i = 0; i < KZ_ARRAY_COUNT(passed); i++)
        if (strlen(passed[i]) == size && memcmp(variable, passed[i], size) == 0)
            return true;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(passed_prefixes); i++)
        if (strncmp(variable, passed_prefixes[i], strlen(passed_prefixes[i])) == 0)
            return true;
    return false;
}

struct environment {
    char *list[ENVIRONMENT_MAX + KZ_ARRAY_COUNT(fixed) + 3];
    char path[600], seed[32];
};

static void make_environment(struct environment *e, const char *package, uint64_t seed)
{
    size_t count = 0;

    for (char **v = environ; *v && count < ENVIRONMENT_MAX; v++)
        if (is_passed(*v))
            e->list[count++] = *v;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(fixed); i++)
        e->list[count++] = (char *)fixed[i];
    snprintf(e->path, sizeof(e->path), "PYTHONPATH=%s", package);
    /* One number a project: a set's order is the same in every replica and after every restart. */
    snprintf(e->seed, sizeof(e->seed), "PYTHONHASHSEED=%u", (unsigned)(seed % 4294967295u));
    e->list[count++] = e->path;
    e->list[count++] = e->seed;
    e->list[count] = NULL;
}

/* posix_spawn, not fork: our process may be large and has many threads. */
static enum kz_code start(const char *const argv[], char *const environment[], int output,
        int channel, pid_t *ret_pid, struct kz_err *err)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int rc;

    sigemptyset(&none);
    sigfillset(&all);
    KZ_BUG_ON(posix_spawn_file_actions_init(&actions) != 0 || posix_spawnattr_init(&attr) != 0);
    KZ_BUG_ON(posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                                      POSIX_SPAWN_SETSIGDEF) != 0 ||
              posix_spawnattr_setpgroup(&attr, 0) != 0 ||
              posix_spawnattr_setsigmask(&attr, &none) != 0 ||
              posix_spawnattr_setsigdefault(&attr, &all) != 0);
    KZ_BUG_ON(posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) != 0 ||
              posix_spawn_file_actions_adddup2(&actions, output, 1) != 0 ||
              posix_spawn_file_actions_adddup2(&actions, output, 2) != 0);
    if (channel >= 0)
        KZ_BUG_ON(posix_spawn_file_actions_adddup2(&actions, channel, CHANNEL_FD) != 0);
    rc = posix_spawnp(ret_pid, argv[0], &actions, &attr, (char *const *)argv, environment);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    if (rc != 0)
        return kz_fail(err, KZ_IO, "could not start \"%s\": %s", argv[0], strerror(rc));
    return KZ_OK;
}

/* A descriptor that a dup2 onto 0..3 does not overwrite, and whose close-on-exec dup2 clears. */
static int lift(int fd)
{
    int lifted;

    if (fd < 0 || fd > CHANNEL_FD)
        return fd;
    lifted = fcntl(fd, F_DUPFD_CLOEXEC, CHANNEL_FD + 1);
    close(fd);
    return lifted;
}

static void close_two(int fds[2])
{
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

static void be_nonblocking(int fd)
{
    KZ_BUG_ON(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0);
}

enum kz_code kz_py_spawn(const struct kz_python *python, const struct kz_project *project,
        struct spawned *ret, struct kz_err *err)
{
    const char *const argv[] = {python->interpreter, "-m", "kizashi.worker", NULL};
    int channel[2] = {-1, -1}, output[2] = {-1, -1};
    struct environment environment;
    enum kz_code rc;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) != 0 ||
            pipe2(output, O_CLOEXEC) != 0) {
        rc = kz_fail_errno(err, "could not make a worker's channel");
        goto fail;
    }
    for (int i = 0; i < 2; i++) {
        channel[i] = lift(channel[i]);
        output[i] = lift(output[i]);
    }
    make_environment(&environment, python->package, kz_hash_str(kz_str(project->name)));
    rc = start(argv, environment.list, output[1], channel[1], &pid, err);
    if (rc != KZ_OK)
        goto fail;
    close(channel[1]);
    close(output[1]);
    be_nonblocking(channel[0]);
    be_nonblocking(output[0]);
    *ret = (struct spawned){pid, channel[0], output[0]};
    return KZ_OK;
fail:
    close_two(channel);
    close_two(output);
    return rc;
}

/* Waits for a child that is about to end, or is made to. */
static int wait_end(pid_t pid)
{
    int status = -1;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

enum kz_code kz_py_run(const char *interpreter, const char *package, const char *program,
        int64_t timeout_ms, struct kz_buf *out, struct kz_err *err)
{
    const char *const argv[] = {interpreter, "-W", "ignore", "-c", program, NULL};
    int64_t deadline_ms = kz_mono_ms() + timeout_ms;
    struct environment environment;
    int output[2], status;
    bool open = true;
    pid_t pid;

    if (pipe2(output, O_CLOEXEC) != 0)
        return kz_fail_errno(err, "could not make a pipe");
    output[0] = lift(output[0]);
    output[1] = lift(output[1]);
    make_environment(&environment, package, 0);
    if (start(argv, environment.list, output[1], -1, &pid, err) != KZ_OK) {
        close_two(output);
        return err ? err->code : KZ_IO;
    }
    close(output[1]);
    while (open && out->size < 64 << 10) {
        int64_t left = deadline_ms - kz_mono_ms();
        struct pollfd p = {.fd = output[0], .events = POLLIN};
        char data[1024];
        ssize_t n;

        if (left <= 0 || poll(&p, 1, (int)left) == 0)
            break;
        n = read(output[0], data, sizeof(data));
        if (n > 0)
            kz_buf_put(out, data, (size_t)n);
        open = n > 0 || (n < 0 && errno == EINTR);
    }
    close(output[0]);
    if (open)
        kill(-pid, SIGKILL);
    status = wait_end(pid);
    if (open)
        return kz_fail(err, KZ_TIMEOUT, "\"%s\" did not answer within %d s", interpreter,
                (int)(timeout_ms / 1000));
    if (status != 0)
        return kz_fail(err, KZ_IO, "\"%s\" does not work: " KZ_STR_FMT, interpreter,
                (int)KZ_MIN(out->size, 300u), out->data ? out->data : "");
    return KZ_OK;
}

void kz_py_limit(pid_t pid, const struct kz_model_def *model, bool memory)
{
    struct rlimit none = {0, 0};

    /* Best effort: a process that is gone already needs no limits. RLIMIT_DATA counts private
     * memory only, so that large mapped files and libraries do not weigh against the model. */
    (void)prlimit(pid, RLIMIT_CORE, &none, NULL);
    if (memory && model->resources.memory_bytes) {
        struct rlimit data = {model->resources.memory_bytes, model->resources.memory_bytes};

        (void)prlimit(pid, RLIMIT_DATA, &data, NULL);
    }
    (void)setpriority(PRIO_PROCESS, (id_t)pid, 2);
}

void kz_py_be_subreaper(void)
{
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); /* since Linux 3.4 */
}

void kz_py_kill(pid_t pid)
{
    if (pid <= 0)
        return;
    (void)kill(-pid, SIGKILL);
    (void)kill(pid, SIGKILL); /* a replica that could not be given a group of its own */
}

bool kz_py_is_child(pid_t pid)
{
    siginfo_t info;

    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

bool kz_py_reap(pid_t pid, bool *ret_known, int *ret_status)
{
    siginfo_t info = {0};

    *ret_known = false;
    if (pid <= 0)
        return true;
    if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0)
        return errno == ECHILD;
    if (info.si_pid == 0)
        return false;
    /* It has ended but keeps its number until it is waited for, so its group is still the right
     * one. What it started and left behind has become ours. */
    (void)kill(-pid, SIGKILL);
    *ret_known = waitpid(pid, ret_status, 0) == pid;
    return true;
}

bool kz_py_reap_group(pid_t group)
{
    pid_t got = 0;

    while (group > 0 && (got = waitpid(-group, NULL, WNOHANG)) > 0)
        ;
    return got < 0 || group <= 0;
}
