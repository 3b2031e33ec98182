#include "sys/http_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024, TICK_MAX_MS = 250, OWN_HANDLES = 4 };

struct kz_http_options kz_http_options_default(void)
{
    return (struct kz_http_options){
            .head_max_bytes = 16 * 1024,
            .body_max_bytes = 8 * 1024 * 1024,
            .connections_max = 10000,
            .refused_max = 256,
            .pipeline_max = 64,
            .buffered_max_bytes = 512 * 1024 * 1024,
            .output_pause_bytes = 1024 * 1024,
            .stream_queue_max_bytes = 1024 * 1024,
            .arena_max_bytes = 16 * 1024 * 1024,
            .request_timeout_ms = 30000,
            .idle_timeout_ms = 75000,
            .write_timeout_ms = 30000,
            .linger_timeout_ms = 1000,
            .retry_after_s = 1,
            .bulk_min_bytes = 4 * 1024,
            .bulk_turn_us = 1000,
    };
}

static struct kz_http_server *server_of(void *data)
{
    struct kz_http_server *server = data;

    KZ_CHECK_MAGIC(server, KZ_HTTP_SERVER_MAGIC);
    return server;
}

void kz_http_assert_owner(struct kz_http_server *server)
{
    if (!server->has_owner) {
        server->owner = pthread_self();
        server->has_owner = true;
    }
    KZ_BUG_ON(!pthread_equal(server->owner, pthread_self()));
}

struct kz_http_server *kz_http_server_new(uv_loop_t *loop, const struct kz_http_options *options,
        const struct kz_http_handler *handler)
{
    struct kz_http_server *server = kz_calloc(1, sizeof(*server));

    KZ_BUG_ON(!handler->handle);
    server->magic = KZ_HTTP_SERVER_MAGIC;
    server->loop = loop;
    server->options = options ? *options : kz_http_options_default();
    KZ_BUG_ON(server->options.head_max_bytes > KZ_HTTP_HEAD_LIMIT_BYTES ||
              server->options.pipeline_max == 0);
    server->handler = *handler;
    kz_http_link_init(&server->conns);
    kz_http_link_init(&server->dirty);
    kz_http_link_init(&server->bulk);
    kz_http_link_init(&server->orphans);
    for (size_t i = 0; i < KZ_HTTP_DEADLINES; i++)
        kz_http_link_init(&server->deadlines[i]);
    /* Where there is no randomness ids start at 0, which harms nothing. */
    (void)uv_random(NULL, NULL, &server->next_id, sizeof(server->next_id), 0, NULL);
    return server;
}

void kz_http_server_free(struct kz_http_server *server)
{
    KZ_CHECK_MAGIC(server, KZ_HTTP_SERVER_MAGIC);
    KZ_BUG_ON(server->handles_open > 0 || !kz_http_link_empty(&server->conns));
    KZ_BUG_ON(server->requests_with_handler > 0 || server->counters.requests_open > 0);
    kz_http_pools_done(server);
    server->magic = 0;
    free(server);
}

const struct kz_http_counters *kz_http_server_counters(const struct kz_http_server *server)
{
    return &server->counters;
}

unsigned kz_http_server_port(const struct kz_http_server *server)
{
    return server->port;
}

/* ---- the loop turn ---- */

/* Commit what was read, write what was answered; writing may make room for requests that were
 * already received, hence the loop, which such requests bound. */
static void commit_and_write(struct kz_http_server *server)
{
    while (server->handled || !kz_http_link_empty(&server->dirty)) {
        if (server->handled) {
            server->handled = false;
            if (server->handler.on_batch_end)
                server->handler.on_batch_end(server->handler.arg);
        }
        while (!kz_http_link_empty(&server->dirty)) {
            struct kz_http_link *link = server->dirty.next;

            kz_http_link_remove(link);
            kz_http_conn_flush(KZ_CONTAINER_OF(link, struct kz_http_conn, dirty_link));
        }
    }
}

static void on_busy(uv_idle_t *idle)
{
    (void)idle; /* that it is active is all */
}

void kz_http_server_park(struct kz_http_server *server, struct kz_http_link *link)
{
    kz_http_link_append(&server->bulk, link);
    (void)uv_idle_start(&server->busy, on_busy); /* cannot fail, and may be repeated */
}

/* Bulk, a turn's worth: nobody with a short request waits for more than that. */
static void serve_bulk(struct kz_http_server *server)
{
    uint64_t until_ns = uv_hrtime() + server->options.bulk_turn_us * 1000ull;

    while (!kz_http_link_empty(&server->bulk)) {
        struct kz_http_link *link = server->bulk.next;

        kz_http_link_remove(link);
        kz_http_conn_unpark(KZ_CONTAINER_OF(link, struct kz_http_conn, bulk_link));
        if (uv_hrtime() >= until_ns)
            break;
    }
    if (kz_http_link_empty(&server->bulk))
        (void)uv_idle_stop(&server->busy);
}

static void close_orphans(struct kz_http_server *server)
{
    while (!kz_http_link_empty(&server->orphans)) {
        struct kz_http_req *req = KZ_CONTAINER_OF(server->orphans.next, struct kz_http_req, orphan);

        kz_http_link_remove(&req->orphan);
        server->counters.streams_open--;
        server->requests_with_handler--;
        req->on_close(req->callback_arg, &req->pub);
        kz_http_req_set_state(req, KZ_HTTP_ANSWERED);
        kz_http_req_put(req);
    }
}

static void on_check(uv_check_t *check)
{
    struct kz_http_server *server = server_of(check->data);

    kz_http_assert_owner(server);
    commit_and_write(server);
    serve_bulk(server);
    commit_and_write(server);
    close_orphans(server);
}

/* Answers that timers and other threads' messages brought about since on_check. */
static void on_prepare(uv_prepare_t *prepare)
{
    struct kz_http_server *server = server_of(prepare->data);

    commit_and_write(server);
    close_orphans(server);
}

static void on_tick(uv_timer_t *timer)
{
    struct kz_http_server *server = server_of(timer->data);
    uint64_t now_ms = uv_now(server->loop);

    for (int i = 0; i < KZ_HTTP_DEADLINES; i++) {
        struct kz_http_link *list = &server->deadlines[i];

        /* One duration a list, so the first is due first. */
        while (!kz_http_link_empty(list)) {
            struct kz_http_conn *conn =
                    i == KZ_HTTP_WRITE
                            ? KZ_CONTAINER_OF(list->next, struct kz_http_conn, write_link)
                            : KZ_CONTAINER_OF(list->next, struct kz_http_conn, read_link);

            if ((i == KZ_HTTP_WRITE ? conn->write_due_ms : conn->read_due_ms) > now_ms)
                break;
            kz_http_conn_due(conn, (enum kz_http_deadline)i);
        }
    }
    if (server->stopping && now_ms >= server->stop_due_ms) {
        for (struct kz_http_link *link = server->conns.next; link != &server->conns;
                link = link->next)
            kz_http_conn_lost(KZ_CONTAINER_OF(link, struct kz_http_conn, all));
    }
    if (kz_http_link_empty(&server->conns)) {
        uv_timer_stop(timer);
        server->ticking = false;
    }
}

void kz_http_server_ticks(struct kz_http_server *server)
{
    const struct kz_http_options *o = &server->options;
    uint32_t shortest = KZ_MIN(KZ_MIN(o->request_timeout_ms, o->idle_timeout_ms),
            KZ_MIN(o->write_timeout_ms, o->linger_timeout_ms));
    uint32_t every_ms = KZ_MAX(KZ_MIN(shortest / 4, (uint32_t)TICK_MAX_MS), 1u);

    if (server->ticking)
        return;
    server->ticking = true;
    (void)uv_timer_start(&server->tick, on_tick, every_ms, every_ms); /* fails only if closing */
}

static void start(struct kz_http_server *server)
{
    if (server->started)
        return;
    server->started = true;
    (void)uv_check_init(server->loop, &server->check); /* these cannot fail */
    (void)uv_prepare_init(server->loop, &server->prepare);
    (void)uv_idle_init(server->loop, &server->busy);
    (void)uv_timer_init(server->loop, &server->tick);
    server->check.data = server->prepare.data = server->busy.data = server->tick.data = server;
    (void)uv_check_start(&server->check, on_check);
    (void)uv_prepare_start(&server->prepare, on_prepare);
    server->handles_open += OWN_HANDLES;
}

/* ---- listening ---- */

struct address {
    bool is_unix;
    struct sockaddr_storage socket;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static enum kz_code parse_address(const char *text, struct address *ret, struct kz_err *err)
{
    struct address address = {0};
    const char *colon = strrchr(text, ':');
    char host[64];
    char *end;
    unsigned long port;
    int rc;

    if (strncmp(text, "unix:", 5) == 0) {
        if (text[5] == '\0' || strlen(text + 5) >= sizeof(address.path))
            return kz_fail(err, KZ_INVALID, "address \"%s\" has no path of 1 to %zu bytes", text,
                    sizeof(address.path) - 1);
        address.is_unix = true;
        strcpy(address.path, text + 5);
        *ret = address;
        return KZ_OK;
    }
    if (!colon || (size_t)(colon - text) >= sizeof(host)) {
        (void)kz_fail(err, KZ_INVALID, "address \"%s\" has no port", text);
        return err ? kz_hint(err, "write it as 127.0.0.1:8080, [::1]:8080 or unix:PATH")
                   : KZ_INVALID;
    }
    port = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end || port > 65535)
        return kz_fail(err, KZ_INVALID, "address \"%s\" has no port between 0 and 65535", text);
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    if (host[0] == '[' && colon[-1] == ']') {
        host[colon - text - 1] = '\0';
        rc = uv_ip6_addr(host + 1, (int)port, (struct sockaddr_in6 *)&address.socket);
    } else {
        const char *name = strcmp(host, "localhost") == 0 ? "127.0.0.1"
                           : host[0] == '\0'              ? "0.0.0.0"
                                                          : host;

        rc = uv_ip4_addr(name, (int)port, (struct sockaddr_in *)&address.socket);
    }
    if (rc != 0)
        return kz_fail(err, KZ_INVALID, "address \"%s\" is not an IP address with a port", text);
    *ret = address;
    return KZ_OK;
}

bool kz_http_address_is_loopback(const char *text)
{
    struct address address;

    if (parse_address(text, &address, NULL) != KZ_OK)
        return false;
    if (address.is_unix)
        return true;
    if (address.socket.ss_family == AF_INET) {
        const struct sockaddr_in *in4 = (const struct sockaddr_in *)&address.socket;

        return ntohl(in4->sin_addr.s_addr) >> 24 == 127;
    }
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)&address.socket)->sin6_addr);
}

/* A socket file that nobody listens on any more is in the way of the next start. */
static void remove_stale_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    int fd;

    if (stat(path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    strcpy(address.sun_path, path);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0 && errno == ECONNREFUSED)
        (void)unlink(path); /* if it stays, bind says so */
    close(fd);
}

static void on_connection(uv_stream_t *stream, int status)
{
    struct kz_http_server *server = server_of(stream->data);

    kz_http_assert_owner(server);
    /* Out of descriptors, or a client that left already: libuv has dropped it. */
    if (status != 0)
        return;
    for (size_t i = 0; i < server->listener_count; i++) {
        if (&server->listeners[i]->uv.stream == stream)
            kz_http_conn_accept(server, server->listeners[i]);
    }
}

static void on_failed_listener_closed(uv_handle_t *handle)
{
    free(KZ_CONTAINER_OF(handle, struct kz_http_listener, uv.handle));
}

static int bind_and_listen(struct kz_http_server *server, struct kz_http_listener *listener,
        const struct address *address)
{
    int rc;

    if (address->is_unix) {
        remove_stale_socket(address->path);
        rc = uv_pipe_init(server->loop, &listener->uv.pipe, 0);
        rc = rc ? rc : uv_pipe_bind(&listener->uv.pipe, address->path);
    } else {
        rc = uv_tcp_init(server->loop, &listener->uv.tcp);
        rc = rc ? rc : uv_tcp_bind(&listener->uv.tcp, (const struct sockaddr *)&address->socket, 0);
    }
    listener->uv.handle.data = server;
    return rc ? rc : uv_listen(&listener->uv.stream, BACKLOG, on_connection);
}

static unsigned bound_port(const struct kz_http_listener *listener)
{
    struct sockaddr_storage bound = {0};
    int size = sizeof(bound);

    if (uv_tcp_getsockname(&listener->uv.tcp, (struct sockaddr *)&bound, &size) != 0)
        return 0;
    return ntohs(bound.ss_family == AF_INET ? ((struct sockaddr_in *)&bound)->sin_port
                                            : ((struct sockaddr_in6 *)&bound)->sin6_port);
}

enum kz_code kz_http_server_listen(
        struct kz_http_server *server, const char *text, struct kz_err *err)
{
    struct kz_http_listener *listener;
    struct address address;
    int rc;

    KZ_BUG_ON(server->stopping);
    if (server->listener_count == KZ_HTTP_LISTENERS_MAX)
        return kz_fail(err, KZ_INVALID, "cannot listen on \"%s\": at most %d addresses", text,
                KZ_HTTP_LISTENERS_MAX);
    KZ_TRY(parse_address(text, &address, err));
    listener = kz_calloc(1, sizeof(*listener));
    listener->is_unix = address.is_unix;
    rc = bind_and_listen(server, listener, &address);
    if (rc != 0) {
        uv_close(&listener->uv.handle, on_failed_listener_closed);
        (void)kz_fail(err, rc == UV_EADDRINUSE ? KZ_CONFLICT : KZ_IO,
                "could not listen on \"%s\": %s", text, uv_strerror(rc));
        if (err && rc == UV_EADDRINUSE)
            (void)kz_hint(err, "another process listens there: stop it, or choose another address "
                               "with --listen");
        return rc == UV_EADDRINUSE ? KZ_CONFLICT : KZ_IO;
    }
    start(server);
    server->handles_open++;
    server->listeners[server->listener_count++] = listener;
    if (!address.is_unix && server->port == 0)
        server->port = bound_port(listener);
    return KZ_OK;
}

/* ---- stopping ---- */

static void on_handle_closed(uv_handle_t *handle)
{
    struct kz_http_server *server = server_of(handle->data);

    if (--server->handles_open == 0 && server->drained)
        server->drained(server->drained_arg, server->requests_with_handler);
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct kz_http_server *server = server_of(handle->data);

    free(KZ_CONTAINER_OF(handle, struct kz_http_listener, uv.handle));
    server->handles_open--;
    kz_http_server_conn_closed(server);
}

/* The last of listeners and connections is closed: our own handles follow, then `drained`. */
void kz_http_server_conn_closed(struct kz_http_server *server)
{
    if (!server->stopping || server->ending || !kz_http_link_empty(&server->conns) ||
            server->handles_open > OWN_HANDLES)
        return;
    server->ending = true;
    uv_close((uv_handle_t *)&server->check, on_handle_closed);
    uv_close((uv_handle_t *)&server->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&server->busy, on_handle_closed);
    uv_close((uv_handle_t *)&server->tick, on_handle_closed);
}

void kz_http_server_stop(struct kz_http_server *server, uint32_t deadline_ms,
        void (*drained)(void *arg, size_t unanswered), void *arg)
{
    kz_http_assert_owner(server);
    if (server->stopping)
        return;
    start(server);
    server->stopping = true;
    server->stop_due_ms = uv_now(server->loop) + deadline_ms;
    server->drained = drained;
    server->drained_arg = arg;
    for (size_t i = 0; i < server->listener_count; i++)
        uv_close(&server->listeners[i]->uv.handle, on_listener_closed);
    for (struct kz_http_link *link = server->conns.next; link != &server->conns; link = link->next)
        kz_http_conn_drain(KZ_CONTAINER_OF(link, struct kz_http_conn, all));
    if (server->listener_count == 0)
        kz_http_server_conn_closed(server);
    server->listener_count = 0;
}
