/* What a server may answer to our HTTP client: the first byte chooses request or stream, the rest is
 * what the server sends before it closes. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sys/http_client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ANSWER_MAX = 32 << 10 };

static int listener = -1;

struct answer {
    const uint8_t *data;
    size_t size;
};

static void listen_on(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char url[64];

    (void)snprintf(url, sizeof(url), "/tmp/kz-fuzz-client-%d", (int)getpid());
    (void)unlink(url);
    memcpy(address.sun_path, url, strlen(url) + 1);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    KZ_BUG_ON(bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0);
    KZ_BUG_ON(listen(listener, 8) != 0);
}

static void remove_socket(void)
{
    char path[64];

    (void)snprintf(path, sizeof(path), "/tmp/kz-fuzz-client-%d", (int)getpid());
    (void)unlink(path);
}

/* Serves one connection. */
static void *serve(void *arg)
{
    const struct answer *answer = arg;
    int fd = accept(listener, NULL, NULL);
    char request[4096];
    size_t at = 0;

    KZ_BUG_ON(fd < 0);
    (void)!read(fd, request, sizeof(request));
    while (at < answer->size) {
        ssize_t n = send(fd, answer->data + at, answer->size - at, MSG_NOSIGNAL);

        if (n <= 0)
            break;
        at += (size_t)n;
    }
    close(fd);
    return NULL;
}

static void check_answer(struct kz_http_client *client, uint8_t mode)
{
    struct kz_http_answer answer;
    struct kz_err err;
    enum kz_code rc = kz_http_client_request(client, mode & 2 ? "HEAD" : "POST", "/x", NULL, 0,
            KZ_STR("hello"), 2000, &answer, &err);

    if (rc != KZ_OK) {
        /* The server never hangs, so neither may the client. */
        KZ_BUG_ON(rc == KZ_TIMEOUT || !err.message[0]);
        return;
    }
    KZ_BUG_ON(answer.status < 200 || answer.status > 999 || answer.body.size > ANSWER_MAX);
    (void)kz_http_client_header(client, "content-type");
}

static void check_stream(struct kz_http_client *client)
{
    struct kz_str line;
    struct kz_err err;
    enum kz_code rc;
    int status;

    if (kz_http_client_stream(client, "/x", NULL, 0, 2000, &status, &err) != KZ_OK)
        return;
    while ((rc = kz_http_client_read_line(client, 2000, &line, &err)) == KZ_OK)
        KZ_BUG_ON(memchr(line.ptr, '\n', line.size));
    KZ_BUG_ON(rc == KZ_TIMEOUT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    KZ_AUTO(kz_http_client_freep) struct kz_http_client *client = NULL;
    struct answer answer = {data + 1, size - 1};
    char url[64];
    pthread_t thread;

    if (!size || size > 1 << 17)
        return 0;
    if (listener < 0) {
        listen_on();
        (void)atexit(remove_socket);
    }
    (void)snprintf(url, sizeof(url), "unix:/tmp/kz-fuzz-client-%d", (int)getpid());
    KZ_BUG_ON(kz_http_client_new(url, &client, NULL) != KZ_OK);
    kz_http_client_set_answer_max(client, ANSWER_MAX);
    KZ_BUG_ON(pthread_create(&thread, NULL, serve, &answer) != 0);
    if (data[0] & 1)
        check_stream(client);
    else
        check_answer(client, data[0]);
    kz_http_client_close(client);
    pthread_join(thread, NULL);
    return 0;
}
