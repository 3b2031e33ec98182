/* app/commands/cmd_demo.c -- `kizashi demo`: the example shop with real sessions flowing into it, as a
 * newcomer sees it first: `make run`, and what the container image runs.
 *
 *     up SHOP  ->  wait until it answers  ->  print what to try  ->  replay --loop  ->  until a signal
 *
 * Both are processes of this same binary; they end with us. As the first process of a container we
 * also reap what is left behind.
 */

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "app/commands/command.h"
#include "contract/auth.h"
#include "sys/clock.h"
#include "sys/http_client.h"

#ifndef KZ_EXAMPLES_DIR
#define KZ_EXAMPLES_DIR ""
#endif

enum { START_MS = 60000, ASK_MS = 2000, STOP_MS = 12000 };

struct demo {
    char binary[PATH_MAX], shop[PATH_MAX], visits[PATH_MAX], data[PATH_MAX];
    const char *address;
    char url[300];             /* where we reach it ourselves */
    char key[KZ_SECRET_BYTES]; /* empty: open to callers on this machine */
    pid_t up, replay;
};

/* ---- where things are ------------------------------------------------------------------------------ */

static bool is_shop(const char *dir)
{
    char file[PATH_MAX + 16];

    snprintf(file, sizeof(file), "%s/kizashi.yaml", dir);
    return access(file, R_OK) == 0;
}

/* The source tree's where we were built, else the installed one beside the binary. */
static enum kz_code find_shop(struct demo *d, struct kz_err *err)
{
    ssize_t size = readlink("/proc/self/exe", d->binary, sizeof(d->binary) - 1);
    char *slash;

    if (size < 0)
        return kz_fail_errno(err, "could not read /proc/self/exe");
    d->binary[size] = '\0';
    snprintf(d->shop, sizeof(d->shop), "%s/shop", KZ_EXAMPLES_DIR);
    if (is_shop(d->shop))
        return KZ_OK;
    snprintf(d->shop, sizeof(d->shop), "%.*s", (int)(sizeof(d->shop) - 64), d->binary);
    slash = strrchr(d->shop, '/');
    strcpy(slash, "/../share/kizashi/examples/shop");
    if (is_shop(d->shop))
        return KZ_OK;
    (void)kz_fail(err, KZ_NOT_FOUND, "the example shop is neither in \"%s\" nor beside the binary",
            KZ_EXAMPLES_DIR);
    return kz_hint(err, "run it from the source tree, or after `make install`");
}

/* ---- keys -------------------------------------------------------------------------------------------- */

/* Whoever listens to other machines asks for keys; ours is made anew at each start and shown. */
static enum kz_code make_key(struct demo *d, struct kz_err *err)
{
    KZ_AUTO(kz_auth_closep) struct kz_auth *auth = NULL;
    char name[32];
    struct kz_key_spec spec = {.name = name, .kind = KZ_KEY_ADMIN};
    const struct kz_key *key;

    if (kz_http_address_is_loopback(d->address))
        return KZ_OK;
    snprintf(name, sizeof(name), "demo-%lld", (long long)kz_clock_ms());
    if (mkdir(d->data, 0777) != 0 && errno != EEXIST) {
        (void)kz_fail_errno(err, "could not make \"%s\"", d->data);
        return kz_hint(err, "name a place that can be written with --data, or mount one there");
    }
    KZ_TRY(kz_auth_open(kz_fs_posix(), d->data, &auth, err));
    return kz_auth_create(auth, &spec, kz_clock_ms(), d->key, &key, err);
}

/* ---- processes --------------------------------------------------------------------------------------- */

static pid_t spawn(const struct demo *d, char *const *command)
{
    pid_t parent = getpid(), pid = fork();
    sigset_t none;

    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(127);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (d->key[0])
        setenv("KIZASHI_KEY", d->key, 1);
    execv(command[0], command);
    _exit(127);
}

static enum kz_code start_up(struct demo *d, struct kz_err *err)
{
    char *command[] = {
            d->binary, "up", d->shop, "--listen", (char *)d->address, "--data", d->data, NULL};

    d->up = spawn(d, command);
    return d->up > 0 ? KZ_OK : kz_fail_errno(err, "could not start a process");
}

static enum kz_code start_replay(
        struct demo *d, const char *speed, const char *users, struct kz_err *err)
{
    char *command[] = {d->binary, "replay", d->visits, "--url", d->url, "--speed", (char *)speed,
            "--users", (char *)users, "--ts", "shift", "--loop", "--quiet", NULL};

    d->replay = spawn(d, command);
    return d->replay > 0 ? KZ_OK : kz_fail_errno(err, "could not start a process");
}

/* Takes who has ended; true where it was `up`. */
static bool reap(struct demo *d, int *ret_status)
{
    pid_t pid;
    int status;
    bool ended = false;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == d->replay)
            d->replay = 0;
        if (pid != d->up)
            continue;
        d->up = 0;
        *ret_status = status;
        ended = true;
    }
    return ended;
}

static bool answers(struct demo *d, const char *path)
{
    KZ_AUTO(kz_http_client_freep) struct kz_http_client *client = NULL;
    char bearer[KZ_SECRET_BYTES + 8];
    struct kz_http_client_header key = {.name = kz_str("Authorization")};
    struct kz_http_answer answer;
    struct kz_err err;

    snprintf(bearer, sizeof(bearer), "Bearer %s", d->key);
    key.value = kz_str(bearer);
    return kz_http_client_new(d->url, &client, &err) == KZ_OK &&
           kz_http_client_request(client, "GET", path, &key, d->key[0] != '\0', KZ_STR_NULL, ASK_MS,
                   &answer, &err) == KZ_OK &&
           answer.status == 200;
}

/* Whether `up` is there, and the model that is told of can be asked; false: it ended, or a signal came. */
static bool wait_up(struct demo *d, const sigset_t *signals, int *ret_status)
{
    int64_t until_ms = kz_mono_ms() + START_MS;
    struct timespec step = {0, 100 * 1000000};
    siginfo_t info;

    while (kz_mono_ms() < until_ms) {
        if (answers(d, "/readyz") && answers(d, "/v2/models/purchase/ready"))
            return true;
        if (sigtimedwait(signals, &info, &step) > 0 && info.si_signo != SIGCHLD)
            return false;
        if (reap(d, ret_status))
            return false;
    }
    fprintf(stderr, "kizashi: the shop did not come up within %d s\n", START_MS / 1000);
    return false;
}

static void stop(struct demo *d, int *ret_status)
{
    int64_t until_ms = kz_mono_ms() + STOP_MS;
    struct timespec step = {0, 20 * 1000000};

    if (d->replay > 0)
        kill(d->replay, SIGTERM);
    if (d->up > 0)
        kill(d->up, SIGTERM);
    while (d->up > 0 && kz_mono_ms() < until_ms) {
        nanosleep(&step, NULL);
        (void)reap(d, ret_status);
    }
    if (d->up > 0)
        kill(d->up, SIGKILL);
}

/* ---- telling ----------------------------------------------------------------------------------------- */

static void tell(const struct demo *d)
{
    char header[KZ_SECRET_BYTES + 40] = "";

    if (d->key[0])
        snprintf(header, sizeof(header), "-H 'Authorization: Bearer %s' ", d->key);
    printf("\n"
           "  The shop is up:  %s\n",
            d->url);
    if (d->key[0])
        printf("  Its admin key:   %s   (the page asks for it)\n", d->key);
    printf("  Real sessions of a web shop (OTTO, CC BY 4.0) are flowing into it. Look at the page, "
           "or try:\n\n"
           "  # an event, and its prediction in the same answer\n"
           "  curl -s %s'%s/v1/events?wait=purchase&timeout_ms=1000' -d "
           "'{\"user_id\":\"you\",\"name\":\"cart\",\"props\":{\"product_id\":\"1004856\",\"price\":131.5}}'\n\n"
           "  # what is known of a visitor, what became of it, and everything as it happens\n"
           "  curl -s %s%s/v1/users/you/predictions\n"
           "  curl -sN %s%s/v1/stream\n",
            header, d->url, header, d->url, header, d->url);
    if (!d->key[0])
        printf("  %s top --url %s\n"
               "  %s sql %s --data %s \"SELECT name, count(*) FROM events GROUP BY 1 ORDER BY 2 "
               "DESC\"\n",
                d->binary, d->url, d->binary, d->shop, d->data);
    printf("\n  Ctrl-C stops it.\n\n");
    fflush(stdout);
}

/* Where this machine reaches `address`, whatever it listens on. */
static void set_url(struct demo *d)
{
    const char *colon = strrchr(d->address, ':');
    bool any = !kz_http_address_is_loopback(d->address);

    snprintf(d->url, sizeof(d->url), "http://%.*s:%s",
            any ? 9 : (int)(colon ? colon - d->address : 0), any ? "127.0.0.1" : d->address,
            colon ? colon + 1 : "8080");
}

static int play(struct demo *d, const struct kz_args *args, const sigset_t *signals)
{
    int status = 0, number = 0;
    struct kz_err err;

    if (start_up(d, &err) != KZ_OK)
        return kz_command_fail(&err);
    if (wait_up(d, signals, &status)) {
        tell(d);
        if (start_replay(d, kz_args_get(args, "speed"), kz_args_get(args, "users"), &err) != KZ_OK)
            fprintf(stderr, "kizashi: %s\n", err.message);
        while (sigwait(signals, &number) == 0 && number == SIGCHLD && !reap(d, &status))
            ;
    }
    stop(d, &status);
    if (WIFSIGNALED(status)) /* by itself it says why */
        fprintf(stderr,
                "kizashi: the shop was killed by signal %d; what it had acknowledged is in \"%s\", start "
                "it again\n",
                WTERMSIG(status), d->data);
    return WIFEXITED(status) ? WEXITSTATUS(status) : KZ_EXIT_FAILED;
}

static int run(const struct kz_args *args)
{
    const char *address = kz_args_get(args, "listen"), *data = kz_args_get(args, "data");
    struct demo d = {0};
    sigset_t signals;
    struct kz_err err;

    d.address = address ? address : getenv("KIZASHI_LISTEN");
    if (!d.address || !d.address[0])
        d.address = "127.0.0.1:8080";
    if (!strrchr(d.address, ':'))
        return kz_command_usage(args, "\"%s\" has no port: --listen ADDRESS:PORT", d.address);
    if (find_shop(&d, &err) != KZ_OK)
        return kz_command_fail(&err);
    if (!data)
        data = getenv("KIZASHI_DATA");
    if (data && data[0])
        snprintf(d.data, sizeof(d.data), "%s", data);
    else
        snprintf(d.data, sizeof(d.data), "%.*s/.kizashi", (int)(sizeof(d.data) - 16), d.shop);
    snprintf(d.visits, sizeof(d.visits), "%.*s/data/otto-visits.ndjson",
            (int)(sizeof(d.visits) - 32), d.shop);
    set_url(&d);
    if (answers(&d, "/readyz")) {
        (void)kz_fail(&err, KZ_CONFLICT, "a Kizashi is at %s already", d.url);
        (void)kz_hint(&err, "stop it, or take another address: --listen 127.0.0.1:8081");
        return kz_command_fail(&err);
    }
    if (make_key(&d, &err) != KZ_OK)
        return kz_command_fail(&err);
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    return play(&d, args, &signals);
}

const struct kz_command kz_command_demo = {
        .name = "demo",
        .arguments = "",
        .summary = "Runs the example shop, with a real shop's sessions flowing into it.",
        .details =
                "What `make run` and the container image show: `up` on examples/shop, and OTTO's "
                "sessions again\nand again, each time as new visitors. Where it listens to other "
                "machines, too, it makes an\nadmin key and prints it.",
        .example = "kizashi demo --listen 127.0.0.1:8081",
        .options =
                {
                        {"listen", "ADDR", NULL,
                                "address and port (default: the environment's KIZASHI_LISTEN, else "
                                "127.0.0.1:8080)"},
                        {"data", "PATH", NULL,
                                "where the data goes (default: KIZASHI_DATA, else .kizashi in the shop)"},
                        {"speed", "FACTOR", "4x", "how much faster than it was"},
                        {"users", "xN", "x8", "that many times as many visitors"},
                },
        .run = run,
};
