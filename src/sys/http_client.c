#include "sys/http_client.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "sys/http_parse.h"

enum { MAGIC = 0x48434c49, READ_BYTES = 64 * 1024 };

struct kz_http_client {
    uint32_t magic;
    char *host; /* NULL: unix */
    char *port;
    char *unix_path;
    char *prefix;
    char *authority; /* as in the Host header */
    size_t answer_max_bytes;
    int fd;
    bool reused; /* the connection has served a request before */

    struct kz_buf out;
    struct kz_buf in;   /* the head, then raw bytes of the body behind it */
    struct kz_buf body; /* decoded */
    size_t in_at;       /* first byte of `in` not decoded */
    size_t line_at;     /* first byte of `body` not given as a line */
    struct kz_http_head head;
    struct kz_http_chunks chunks;
    bool head_valid, bodyless, body_complete;
};

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- the URL ---- */

static enum kz_code read_authority(struct kz_http_client *client, const char *url,
        const char *authority, size_t size, struct kz_err *err)
{
    const char *host = authority, *end = authority + size, *colon;

    client->authority = kz_strndup(authority, size);
    if (size > 0 && host[0] == '[') {
        const char *bracket = memchr(host, ']', size);

        if (!bracket || (bracket + 1 < end && bracket[1] != ':'))
            return kz_fail(err, KZ_INVALID, "url \"%s\" has an open bracket", url);
        colon = bracket + 1 < end ? bracket + 1 : NULL;
        client->host = kz_strndup(host + 1, (size_t)(bracket - host - 1));
    } else {
        colon = memchr(host, ':', size);
        client->host = kz_strndup(host, (size_t)((colon ? colon : end) - host));
    }
    client->port = colon ? kz_strndup(colon + 1, (size_t)(end - colon - 1)) : kz_strdup("80");
    if (!client->host[0] || !client->port[0] ||
            strspn(client->port, "0123456789") != strlen(client->port) || strlen(client->port) > 5)
        return kz_fail(err, KZ_INVALID, "url \"%s\" is not http://HOST:PORT", url);
    return KZ_OK;
}

static enum kz_code read_url(struct kz_http_client *client, const char *url, struct kz_err *err)
{
    const char *authority, *slash;
    size_t prefix_size;

    for (const char *at = url; *at; at++) {
        if ((unsigned char)*at <= 32 || *at == 127)
            return kz_fail(err, KZ_INVALID, "url \"%s\" has a blank or control character", url);
    }
    if (strncmp(url, "unix:", 5) == 0) {
        if (strlen(url + 5) >= sizeof(((struct sockaddr_un *)0)->sun_path))
            return kz_fail(err, KZ_INVALID, "url \"%s\" has too long a path", url);
        client->unix_path = kz_strdup(url + 5);
        client->authority = kz_strdup("localhost");
        client->prefix = kz_strdup("");
        return KZ_OK;
    }
    if (strncasecmp(url, "http://", 7) != 0) {
        (void)kz_fail(err, KZ_INVALID, "url \"%s\" does not begin with http://", url);
        return err ? kz_hint(err, "TLS ends at the proxy; use the address behind it") : KZ_INVALID;
    }
    authority = url + 7;
    slash = strchr(authority, '/');
    if (!slash)
        slash = authority + strlen(authority);
    prefix_size = strlen(slash);
    while (prefix_size > 0 && slash[prefix_size - 1] == '/')
        prefix_size--;
    client->prefix = kz_strndup(slash, prefix_size);
    return read_authority(client, url, authority, (size_t)(slash - authority), err);
}

enum kz_code kz_http_client_new(
        const char *url, struct kz_http_client **ret_client, struct kz_err *err)
{
    KZ_AUTO(kz_http_client_freep) struct kz_http_client *client = kz_calloc(1, sizeof(*client));

    client->magic = MAGIC;
    client->fd = -1;
    client->answer_max_bytes = 64 * 1024 * 1024;
    KZ_TRY(read_url(client, url, err));
    *ret_client = kz_take(&client);
    return KZ_OK;
}

void kz_http_client_free(struct kz_http_client *client)
{
    if (!client)
        return;
    KZ_CHECK_MAGIC(client, MAGIC);
    kz_http_client_close(client);
    kz_buf_done(&client->out);
    kz_buf_done(&client->in);
    kz_buf_done(&client->body);
    free(client->host);
    free(client->port);
    free(client->unix_path);
    free(client->prefix);
    free(client->authority);
    client->magic = 0;
    free(client);
}

void kz_http_client_set_answer_max(struct kz_http_client *client, size_t answer_max_bytes)
{
    client->answer_max_bytes = answer_max_bytes;
}

void kz_http_client_close(struct kz_http_client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
    client->reused = false;
}

/* ---- the connection ---- */

static enum kz_code wait_for(
        struct kz_http_client *client, short events, uint64_t due_ms, struct kz_err *err)
{
    for (;;) {
        uint64_t now = now_ms();
        struct pollfd fd = {.fd = client->fd, .events = events};
        int rc = poll(&fd, 1, now >= due_ms ? 0 : (int)KZ_MIN(due_ms - now, (uint64_t)INT32_MAX));

        if (rc > 0)
            return KZ_OK;
        if (rc == 0 && now_ms() >= due_ms)
            return kz_fail(err, KZ_TIMEOUT, "%s did not answer in time", client->authority);
        if (rc < 0 && errno != EINTR)
            return kz_fail(
                    err, KZ_IO, "could not wait for %s: %s", client->authority, strerror(errno));
    }
}

static enum kz_code connect_to(struct kz_http_client *client, const struct sockaddr *address,
        socklen_t size, uint64_t due_ms, struct kz_err *err)
{
    int one = 1, failure = 0;
    socklen_t failure_size = sizeof(failure);

    client->fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (client->fd < 0)
        return kz_fail(err, KZ_IO, "could not make a socket: %s", strerror(errno));
    if (address->sa_family != AF_UNIX)
        (void)setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(client->fd, address, size) != 0) {
        failure = errno;
        if (failure == EINPROGRESS) {
            enum kz_code rc = wait_for(client, POLLOUT, due_ms, err);

            if (rc != KZ_OK) {
                kz_http_client_close(client);
                return rc;
            }
            if (getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &failure, &failure_size) != 0)
                failure = errno;
        }
    }
    if (failure == 0)
        return KZ_OK;
    kz_http_client_close(client);
    return kz_fail(err, KZ_UNAVAILABLE, "could not connect to %s: %s",
            client->unix_path ? client->unix_path : client->authority, strerror(failure));
}

static enum kz_code ensure_connected(
        struct kz_http_client *client, uint64_t due_ms, struct kz_err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    enum kz_code rc = KZ_UNAVAILABLE;
    int failure;

    if (client->fd >= 0)
        return KZ_OK;
    if (client->unix_path) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        strcpy(address.sun_path, client->unix_path); /* read_url() has measured it */
        return connect_to(client, (struct sockaddr *)&address, sizeof(address), due_ms, err);
    }
    failure = getaddrinfo(client->host, client->port, &hints, &found);
    if (failure != 0)
        return kz_fail(err, KZ_UNAVAILABLE, "could not resolve \"%s\": %s", client->host,
                gai_strerror(failure));
    for (struct addrinfo *at = found; at && rc != KZ_OK; at = at->ai_next)
        rc = connect_to(client, at->ai_addr, at->ai_addrlen, due_ms, err);
    freeaddrinfo(found);
    return rc;
}

static enum kz_code send_all(
        struct kz_http_client *client, uint64_t due_ms, size_t *ret_sent, struct kz_err *err)
{
    size_t sent = 0;

    while (sent < client->out.size) {
        ssize_t n = send(
                client->fd, client->out.data + sent, client->out.size - sent, MSG_NOSIGNAL);

        if (n >= 0) {
            sent += (size_t)n;
            *ret_sent = sent;
        } else if (errno == EAGAIN) {
            struct pollfd answer = {.fd = client->fd, .events = POLLIN};

            /* A server that refuses a body answers before it has read it. */
            if (sent > 0 && poll(&answer, 1, 0) == 1)
                return KZ_OK;
            KZ_TRY(wait_for(client, POLLOUT | POLLIN, due_ms, err));
        } else if ((errno == EPIPE || errno == ECONNRESET) && sent > 0) {
            return KZ_OK; /* its answer may lie there already */
        } else if (errno != EINTR) {
            return kz_fail(
                    err, KZ_IO, "could not send to %s: %s", client->authority, strerror(errno));
        }
    }
    return KZ_OK;
}

/* Reads once, at least one byte. KZ_END: the peer has closed. */
static enum kz_code receive(struct kz_http_client *client, uint64_t due_ms, struct kz_err *err)
{
    if (client->fd < 0)
        return kz_fail(err, KZ_END, "the connection to %s is closed", client->authority);
    for (;;) {
        ssize_t n;

        kz_buf_reserve(&client->in, READ_BYTES);
        n = recv(client->fd, client->in.data + client->in.size, READ_BYTES, 0);
        if (n > 0) {
            client->in.size += (size_t)n;
            return KZ_OK;
        }
        if (n == 0)
            return kz_fail(err, KZ_END, "%s closed the connection", client->authority);
        if (errno == EAGAIN)
            KZ_TRY(wait_for(client, POLLIN, due_ms, err));
        else if (errno != EINTR)
            return kz_fail(
                    err, KZ_IO, "could not read from %s: %s", client->authority, strerror(errno));
    }
}

/* ---- the answer ---- */

static enum kz_code read_head(struct kz_http_client *client, uint64_t due_ms, struct kz_err *err)
{
    struct kz_http_parse parse;
    bool complete = false;

    kz_http_parse_begin(&parse, true, &client->head);
    for (;;) {
        if (client->in.size > 0) {
            if (kz_http_parse_head(&parse, client->in.data, client->in.size,
                        KZ_HTTP_HEAD_LIMIT_BYTES, &complete, err) != KZ_OK) {
                if (err)
                    err->code = KZ_CORRUPT;
                (void)kz_wrap(err, "reading the answer of %s", client->authority);
                return KZ_CORRUPT;
            }
        }
        if (complete && client->head.status >= 200)
            break;
        if (complete) {
            /* 100 Continue and its like: the real one follows. */
            client->in.size -= client->head.size;
            memmove(client->in.data, client->in.data + client->head.size, client->in.size);
            kz_http_parse_begin(&parse, true, &client->head);
            complete = false;
            continue;
        }
        KZ_TRY(receive(client, due_ms, err));
    }
    client->in_at = client->head.size;
    client->head_valid = true;
    return KZ_OK;
}

static enum kz_code begin_body(struct kz_http_client *client, bool is_head, struct kz_err *err)
{
    int64_t length = client->head.content_length;

    client->bodyless = is_head || client->head.status == 204 || client->head.status == 304 ||
                       (!client->head.chunked && length == 0);
    client->body_complete = client->bodyless;
    kz_http_chunks_begin(&client->chunks);
    if (!client->bodyless && length > 0 && (uint64_t)length > client->answer_max_bytes)
        return kz_fail(err, KZ_TOO_LARGE, "the answer of %lld bytes is over the limit of %zu",
                (long long)length, client->answer_max_bytes);
    return KZ_OK;
}

/* Moves what has been received from `in` to `body`, and forgets it there. */
static enum kz_code decode(struct kz_http_client *client, struct kz_err *err)
{
    size_t have = client->in.size - client->in_at, used = have, size = have;

    if (client->body_complete)
        return KZ_OK;
    if (client->head.chunked) {
        kz_buf_reserve(&client->body, have + 1); /* room, so that there is an address */
        if (kz_http_chunks_step(&client->chunks, client->in.data + client->in_at, have,
                    client->body.data + client->body.size, INT64_MAX, &used, &size,
                    &client->body_complete, err) != KZ_OK) {
            if (err)
                err->code = KZ_CORRUPT;
            return KZ_CORRUPT;
        }
        client->body.size += size;
    } else {
        if (client->head.content_length >= 0)
            used = KZ_MIN(have, (size_t)client->head.content_length - client->chunks.body_bytes);
        kz_buf_put(&client->body, client->in.data + client->in_at, used);
        client->chunks.body_bytes += used;
        client->body_complete = client->head.content_length >= 0 &&
                                client->chunks.body_bytes == (uint64_t)client->head.content_length;
    }
    client->in.size = client->head.size + have - used;
    memmove(client->in.data + client->head.size, client->in.data + client->in_at + used,
            have - used);
    client->in_at = client->head.size;
    if (client->body.size > client->answer_max_bytes)
        return kz_fail(err, KZ_TOO_LARGE, "the answer is over the limit of %zu bytes",
                client->answer_max_bytes);
    return KZ_OK;
}

/* One more read into the body. At the end of an answer that ends with the connection the body is
 * complete. */
static enum kz_code read_more(struct kz_http_client *client, uint64_t due_ms, struct kz_err *err)
{
    enum kz_code rc = receive(client, due_ms, err);

    if (rc == KZ_END) {
        kz_http_client_close(client);
        if (client->head.chunked || client->head.content_length >= 0)
            return kz_fail(
                    err, KZ_IO, "%s closed the connection within its answer", client->authority);
        client->body_complete = true;
        return KZ_OK;
    }
    KZ_TRY(rc);
    return decode(client, err);
}

/* ---- requests ---- */

static bool has_line_break(struct kz_str s)
{
    return s.size > 0 && (memchr(s.ptr, '\n', s.size) || memchr(s.ptr, '\r', s.size));
}

static enum kz_code write_request(struct kz_http_client *client, const char *method,
        const char *path, const struct kz_http_client_header *headers, size_t header_count,
        struct kz_str body, struct kz_err *err)
{
    struct kz_buf *out = &client->out;
    bool takes_body = strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0;

    for (const char *at = path; *at; at++) {
        if ((unsigned char)*at <= 32 || *at == 127)
            return kz_fail(err, KZ_INVALID, "path \"%s\" has a blank or control character", path);
    }
    kz_buf_clear(out);
    kz_buf_printf(out, "%s %s%s HTTP/1.1\r\nHost: %s\r\n", method, client->prefix, path,
            client->authority);
    for (size_t i = 0; i < header_count; i++) {
        if (has_line_break(headers[i].name) || has_line_break(headers[i].value))
            return kz_fail(err, KZ_INVALID, "header \"" KZ_STR_FMT "\" has a line break in it",
                    KZ_STR_ARG(headers[i].name));
        kz_buf_str(out, headers[i].name);
        kz_buf_str(out, KZ_STR(": "));
        kz_buf_str(out, headers[i].value);
        kz_buf_str(out, KZ_STR("\r\n"));
    }
    if (takes_body || body.size > 0)
        kz_buf_printf(out, "Content-Length: %zu\r\n", body.size);
    kz_buf_str(out, KZ_STR("\r\n"));
    kz_buf_str(out, body);
    return KZ_OK;
}

static enum kz_code exchange_once(
        struct kz_http_client *client, uint64_t due_ms, size_t *ret_sent, struct kz_err *err)
{
    kz_buf_clear(&client->in);
    kz_buf_clear(&client->body);
    client->line_at = 0;
    client->head_valid = false;
    KZ_TRY(ensure_connected(client, due_ms, err));
    KZ_TRY(send_all(client, due_ms, ret_sent, err));
    return read_head(client, due_ms, err);
}

/* Sends client->out and reads the answer's head; once more on a fresh connection where the kept one
 * had been closed meanwhile and nothing can have come of the first attempt. */
static enum kz_code exchange(
        struct kz_http_client *client, const char *method, uint64_t due_ms, struct kz_err *err)
{
    bool safe = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    bool reused = client->fd >= 0 && client->reused;
    size_t sent = 0;
    enum kz_code rc;

    if (reused) {
        /* Closed while it lay idle: seen before anything is sent, so any method may go anew. */
        struct pollfd fd = {.fd = client->fd, .events = POLLIN};

        if (poll(&fd, 1, 0) != 0) {
            kz_http_client_close(client);
            reused = false;
        }
    }
    rc = exchange_once(client, due_ms, &sent, err);
    if ((rc == KZ_END || rc == KZ_IO) && reused && client->in.size == 0 && (safe || sent == 0)) {
        kz_http_client_close(client);
        rc = exchange_once(client, due_ms, &sent, err);
    }
    if (rc == KZ_END) {
        if (err)
            err->code = KZ_IO;
        rc = KZ_IO;
    }
    if (rc != KZ_OK)
        kz_http_client_close(client);
    else
        client->reused = true;
    return rc;
}

enum kz_code kz_http_client_request(struct kz_http_client *client, const char *method,
        const char *path, const struct kz_http_client_header *headers, size_t header_count,
        struct kz_str body, uint32_t timeout_ms, struct kz_http_answer *ret_answer,
        struct kz_err *err)
{
    uint64_t due_ms = now_ms() + timeout_ms;
    enum kz_code rc;

    KZ_CHECK_MAGIC(client, MAGIC);
    /* An answer that was not read to its end is in the way. */
    if (client->head_valid && !client->body_complete)
        kz_http_client_close(client);
    KZ_TRY(write_request(client, method, path, headers, header_count, body, err));
    KZ_TRY(exchange(client, method, due_ms, err));
    rc = begin_body(client, strcmp(method, "HEAD") == 0, err);
    if (rc == KZ_OK)
        rc = decode(client, err);
    while (rc == KZ_OK && !client->body_complete)
        rc = read_more(client, due_ms, err);
    if (rc != KZ_OK) {
        kz_http_client_close(client);
        return rc;
    }
    if (!client->head.keep_alive)
        kz_http_client_close(client);
    ret_answer->status = client->head.status;
    ret_answer->body = kz_buf_view(&client->body);
    return KZ_OK;
}

struct kz_str kz_http_client_header(const struct kz_http_client *client, const char *name)
{
    size_t size = strlen(name);

    if (!client->head_valid)
        return KZ_STR_NULL;
    for (uint32_t i = 0; i < client->head.field_count; i++) {
        const struct kz_http_field *field = &client->head.fields[i];

        if (field->name.size == size &&
                strncasecmp(client->in.data + field->name.at, name, size) == 0)
            return kz_http_span_str(client->in.data, field->value);
    }
    return KZ_STR_NULL;
}

enum kz_code kz_http_client_stream(struct kz_http_client *client, const char *path,
        const struct kz_http_client_header *headers, size_t header_count, uint32_t timeout_ms,
        int *ret_status, struct kz_err *err)
{
    uint64_t due_ms = now_ms() + timeout_ms;
    enum kz_code rc;

    KZ_CHECK_MAGIC(client, MAGIC);
    if (client->head_valid && !client->body_complete)
        kz_http_client_close(client);
    KZ_TRY(write_request(client, "GET", path, headers, header_count, KZ_STR_NULL, err));
    KZ_TRY(exchange(client, "GET", due_ms, err));
    rc = begin_body(client, false, err);
    if (rc == KZ_OK)
        rc = decode(client, err);
    if (rc != KZ_OK) {
        kz_http_client_close(client);
        return rc;
    }
    *ret_status = client->head.status;
    return KZ_OK;
}

enum kz_code kz_http_client_read_line(struct kz_http_client *client, uint32_t timeout_ms,
        struct kz_str *ret_line, struct kz_err *err)
{
    uint64_t due_ms = now_ms() + timeout_ms;
    size_t looked_at = 0;

    KZ_CHECK_MAGIC(client, MAGIC);
    if (!client->head_valid)
        return kz_fail(err, KZ_END, "no stream is open");
    /* The line given before is forgotten, so that a stream without end takes no memory. */
    if (client->line_at > 0) {
        client->body.size -= client->line_at;
        memmove(client->body.data, client->body.data + client->line_at, client->body.size);
        client->line_at = 0;
    }
    for (;;) {
        size_t size = client->body.size - looked_at;
        const char *newline = size > 0 ? memchr(client->body.data + looked_at, '\n', size) : NULL;

        if (newline || (client->body_complete && client->body.size > 0)) {
            size_t line = newline ? (size_t)(newline - client->body.data) : client->body.size;

            client->line_at = newline ? line + 1 : line;
            if (line > 0 && client->body.data[line - 1] == '\r')
                line--;
            *ret_line = kz_str_n(client->body.data, line);
            return KZ_OK;
        }
        if (client->body_complete)
            return kz_fail(err, KZ_END, "the stream is over");
        looked_at = client->body.size;
        KZ_TRY(read_more(client, due_ms, err));
    }
}
