/* A connection: looked up, connected, written to and read from, without blocking.
 *
 * It outlives its replica until libuv has given back every request that points into it: a lookup
 * that is under way cannot be called off.
 */
#include "runtimes/http/http_int.h"

#include <stdlib.h>

enum { LINK_MAGIC = 0x6b7a6c6b, READ_BYTES = 64 << 10 };

struct link {
    uint32_t magic;
    uv_tcp_t tcp;
    uv_timer_t soon; /* tells of failures at the start from the loop, not from within the call */
    uv_getaddrinfo_t lookup;
    uv_connect_t connect;
    uv_write_t write;
    struct kz_buf out;
    struct addrinfo *addresses, *next; /* to be tried */
    int trouble;
    unsigned pending; /* handles and a lookup, each of which comes back once */
    bool closed;
    const struct link_events *events;
    void *arg;
    char buffer[READ_BYTES];
};

static void let_go(struct link *link)
{
    KZ_CHECK_MAGIC(link, LINK_MAGIC);
    if (--link->pending)
        return;
    uv_freeaddrinfo(link->addresses);
    kz_buf_done(&link->out);
    link->magic = 0;
    free(link);
}

static void on_closed(uv_handle_t *handle)
{
    let_go(handle->data);
}

static void on_soon(uv_timer_t *timer)
{
    struct link *link = timer->data;

    if (!link->closed)
        link->events->ended(link->arg, link->trouble);
}

static void fail_soon(struct link *link, int trouble)
{
    link->trouble = trouble;
    KZ_BUG_ON(uv_timer_start(&link->soon, on_soon, 0, 0) != 0);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
    struct link *link = handle->data;

    (void)size;
    *buf = uv_buf_init(link->buffer, READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct link *link = stream->data;

    if (link->closed || n == 0)
        return;
    if (n < 0)
        link->events->ended(link->arg, (int)n);
    else
        link->events->came(link->arg, kz_str_n(buf->base, (size_t)n));
}

static void try_next(struct link *link, int trouble);

static void on_connect(uv_connect_t *connect, int status)
{
    struct link *link = connect->data;

    if (link->closed)
        return;
    if (status == 0) {
        (void)uv_tcp_nodelay(&link->tcp, 1); /* slower without it, no less right */
        status = uv_read_start((uv_stream_t *)&link->tcp, on_alloc, on_read);
    }
    if (status != 0)
        try_next(link, status);
    else
        link->events->opened(link->arg);
}

/* A socket that failed to connect is of no further use. */
static void on_renewed(uv_handle_t *handle)
{
    struct link *link = handle->data;

    if (link->closed) {
        let_go(link);
        return;
    }
    KZ_BUG_ON(uv_tcp_init(handle->loop, &link->tcp) != 0);
    link->tcp.data = link;
    try_next(link, 0);
}

/* After a failure, the socket is renewed first and this comes again with 0. */
static void try_next(struct link *link, int trouble)
{
    const struct addrinfo *at = link->next;
    int rc;

    if (trouble != 0) {
        link->trouble = trouble;
        if (at)
            uv_close((uv_handle_t *)&link->tcp, on_renewed);
        else
            fail_soon(link, trouble);
        return;
    }
    link->next = at->ai_next;
    rc = uv_tcp_connect(&link->connect, &link->tcp, at->ai_addr, on_connect);
    if (rc != 0)
        try_next(link, rc);
}

static void on_lookup(uv_getaddrinfo_t *lookup, int status, struct addrinfo *addresses)
{
    struct link *link = lookup->data;

    link->addresses = link->next = status == 0 ? addresses : NULL;
    if (!link->closed) {
        if (link->next)
            try_next(link, 0);
        else
            fail_soon(link, status ? status : UV_EAI_NONAME);
    }
    let_go(link);
}

struct link *kz_link_open(uv_loop_t *loop, const char *host, const char *port,
        const struct link_events *events, void *arg)
{
    struct link *link = kz_calloc(1, sizeof(*link));
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    int rc;

    link->magic = LINK_MAGIC;
    link->events = events;
    link->arg = arg;
    KZ_BUG_ON(uv_tcp_init(loop, &link->tcp) != 0 || uv_timer_init(loop, &link->soon) != 0);
    link->pending = 2;
    link->tcp.data = link->soon.data = link->lookup.data = link->connect.data = link->write.data =
            link;
    rc = uv_getaddrinfo(loop, &link->lookup, on_lookup, host, port, &hints);
    if (rc != 0)
        fail_soon(link, rc);
    else
        link->pending++;
    return link;
}

static void on_written(uv_write_t *write, int status)
{
    struct link *link = write->data;

    kz_buf_clear(&link->out);
    /* A server may answer and close before it has read all: what it said counts, so the end is left
     * to the reading side. Only where nothing can be read any more does this tell. */
    if (!link->closed && status != 0 && !uv_is_readable((uv_stream_t *)&link->tcp))
        fail_soon(link, status);
}

void kz_link_send(struct link *link, struct kz_buf *out)
{
    uv_buf_t part;
    int rc;

    KZ_CHECK_MAGIC(link, LINK_MAGIC);
    KZ_BUG_ON(link->closed || link->out.size);
    kz_buf_done(&link->out);
    link->out = *out;
    *out = (struct kz_buf){0};
    part = uv_buf_init(link->out.data, (unsigned)link->out.size);
    rc = uv_write(&link->write, (uv_stream_t *)&link->tcp, &part, 1, on_written);
    if (rc != 0)
        fail_soon(link, rc);
}

bool kz_link_is_sending(const struct link *link)
{
    return link->out.size > 0;
}

void kz_link_close(struct link *link)
{
    if (!link)
        return;
    KZ_CHECK_MAGIC(link, LINK_MAGIC);
    KZ_BUG_ON(link->closed);
    link->closed = true;
    (void)uv_cancel((uv_req_t *)&link->lookup);    /* works only while no thread has taken it up */
    if (!uv_is_closing((uv_handle_t *)&link->tcp)) /* else on_renewed() lets go */
        uv_close((uv_handle_t *)&link->tcp, on_closed);
    uv_close((uv_handle_t *)&link->soon, on_closed);
}
