/* tests/conformance/emulator.h -- an emulator of one test's own, to be killed, started again and
 * suspended: the shared one has other guests. Started as tools/with-emulators started its own
 * (KZ_EMULATOR_COMMANDS), on another port.
 *
 * Fails    emulator_is_there() is false where that variable does not name it; everything else ends
 * the test.
 */
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <jansson.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "sys/clock.h"
#include "free_port.h"

enum { EMULATOR_ARGS_MAX = 16, EMULATOR_START_MS = 60000 };

struct emulator {
    pid_t pid; /* 0: not running */
    int port;
    char address[32];
    char *args[EMULATOR_ARGS_MAX + 1];
};

/* To be released; NULL: there is none of that name. */
static json_t *emulator_command(const char *name)
{
    const char *text = getenv("KZ_EMULATOR_COMMANDS");
    json_t *commands = text ? json_loads(text, 0, NULL) : NULL;
    json_t *command = json_incref(json_object_get(commands, name));

    json_decref(commands);
    return command;
}

static KZ_UNUSED bool emulator_is_there(const char *name)
{
    json_t *command = emulator_command(name);

    json_decref(command);
    return command != NULL;
}

static struct sockaddr_in emulator_loopback(int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
            .sin_port = htons((uint16_t)port),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static bool emulator_listens(const struct emulator *e)
{
    struct sockaddr_in at = emulator_loopback(e->port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool listens = connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0;

    close(fd);
    return listens;
}

/* On the port it had before; waits until it listens. Of the main thread: the emulator ends with the
 * thread that started it. */
static void emulator_start(struct emulator *e)
{
    const int64_t until_ms = kz_mono_ms() + EMULATOR_START_MS;

    e->pid = fork();
    KZ_BUG_ON(e->pid < 0);
    if (e->pid == 0) {
        int null = open("/dev/null", O_RDWR);

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* if the test is killed */
        setpgid(0, 0);
        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        execv(e->args[0], e->args);
        _exit(127);
    }
    setpgid(e->pid, e->pid);
    while (!emulator_listens(e)) {
        KZ_BUG_ON(kz_mono_ms() > until_ms || waitpid(e->pid, NULL, WNOHANG) != 0);
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
}

/* `text` with `from` in it, if it is, replaced; to be freed. */
static char *emulator_replaced(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    char *out;

    if (!at)
        return kz_strdup(text);
    KZ_BUG_ON(asprintf(&out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) < 0);
    return out;
}

/* `variable`: BIGTABLE_EMULATOR_HOST or such, which says on which port the shared one is. */
static KZ_UNUSED struct emulator emulator_open(const char *name, const char *variable)
{
    struct emulator e = {.port = free_port()};
    json_t *command = emulator_command(name);
    const char *shared = strrchr(getenv(variable), ':') + 1;
    char port[16];

    KZ_BUG_ON(!command || json_array_size(command) > EMULATOR_ARGS_MAX);
    snprintf(port, sizeof(port), "%d", e.port);
    snprintf(e.address, sizeof(e.address), "127.0.0.1:%d", e.port);
    for (size_t i = 0; i < json_array_size(command); i++)
        e.args[i] = emulator_replaced(json_string_value(json_array_get(command, i)), shared, port);
    json_decref(command);
    emulator_start(&e);
    return e;
}

static KZ_UNUSED void emulator_kill(struct emulator *e)
{
    if (!e->pid)
        return;
    kill(-e->pid, SIGKILL);
    waitpid(e->pid, NULL, 0);
    e->pid = 0;
}

static KZ_UNUSED void emulator_suspend(struct emulator *e)
{
    kill(-e->pid, SIGSTOP);
}

static KZ_UNUSED void emulator_resume(struct emulator *e)
{
    kill(-e->pid, SIGCONT);
}

static KZ_UNUSED void emulator_close(struct emulator *e)
{
    emulator_kill(e);
    for (size_t i = 0; e->args[i]; i++)
        free(e->args[i]);
}
