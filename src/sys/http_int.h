/* sys/http_int.h -- inside the HTTP server: http.c (server), http_conn.c (one connection),
 * http_request.c (requests and buffers), http_reply.c (answers).
 *
 * Invariants, checked by conn_check() and cited by number:
 *  I1  A connection's queue holds its requests in the order they came. Only the last may be
 *      RECEIVING, and then it is conn->receiving. What was read behind a STREAMING one is never
 *      answered.
 *  I2  Only the queue's first request writes to conn->out; the others keep theirs in req->out.
 *  I3  Once conn->no_more is set no further request begins. What arrives is thrown away.
 *  I4  A PENDING request is freed by its handler's answer alone, whatever became of its connection
 *      (req->conn is NULL when that is closed).
 *  I5  Nothing closes a connection within a handler's call on a request: the call marks it (doomed,
 *      dirty) and the end of the loop turn does it. So no callback runs inside such a call.
 *  I6  A receive block is freed when neither its connection nor a request refers to it; only the
 *      connection appends, and only behind what requests may see.
 *  I7  A connection in server->bulk is parked: its `receiving` is whole and goes to the handler when
 *      its turn comes. Until then nothing more of it is parsed or read, nor is its end.
 */
#pragma once

#include <pthread.h>

#include "base/buf.h"
#include "sys/http.h"
#include "sys/http_parse.h"

enum {
    KZ_HTTP_SERVER_MAGIC = 0x48535256,
    KZ_HTTP_CONN_MAGIC = 0x48434f4e,
    KZ_HTTP_REQUEST_MAGIC = 0x48524551,
    KZ_HTTP_LISTENERS_MAX = 4,
    KZ_HTTP_BLOCK_CLASSES = 4,
    KZ_HTTP_DISCARD_BYTES = 16 * 1024,
};

/* ---- lists ---- */

struct kz_http_link {
    struct kz_http_link *prev, *next;
};

static inline void kz_http_link_init(struct kz_http_link *link)
{
    link->prev = link->next = link;
}
static inline bool kz_http_link_empty(const struct kz_http_link *link)
{
    return link->next == link;
}
static inline void kz_http_link_remove(struct kz_http_link *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    kz_http_link_init(link);
}
static inline void kz_http_link_append(struct kz_http_link *list, struct kz_http_link *link)
{
    link->prev = list->prev;
    link->next = list;
    list->prev->next = link;
    list->prev = link;
}

/* ---- receive blocks ---- */

struct kz_http_block {
    struct kz_http_block *next; /* in the pool */
    uint32_t refs;
    uint32_t class; /* KZ_HTTP_BLOCK_CLASSES: not pooled */
    size_t capacity;
    size_t size;
    char data[];
};

/* ---- requests ---- */

enum kz_http_request_state {
    KZ_HTTP_FREE,
    KZ_HTTP_RECEIVING, /* its bytes are coming in */
    KZ_HTTP_PENDING,   /* with the handler */
    KZ_HTTP_STREAMING, /* with the handler, which has sent the head of a stream */
    KZ_HTTP_ANSWERED,  /* complete, waiting for its turn */
    KZ_HTTP_REQUEST_STATES,
};

struct kz_http_conn;

struct kz_http_req {
    struct kz_http_request pub; /* first, so that the one's address is the other's */
    enum kz_http_request_state state;
    struct kz_http_server *server;
    struct kz_http_conn *conn;  /* NULL once that is closed */
    struct kz_http_link orphan; /* a stream begun after its client had left */
    struct kz_http_req *next;   /* in the connection's queue or in the pool */
    struct kz_http_block *block;
    size_t at; /* of the message in the block */
    struct kz_http_parse parse;
    struct kz_http_chunks chunks;
    bool head_complete;
    bool want_continue; /* 100 Continue is due when its turn comes */
    bool close;         /* the connection ends with its answer */
    bool gone;
    bool gone_told;
    bool no_body; /* HEAD */
    bool stream_chunked;
    size_t body_max_bytes;
    size_t body_size;
    struct kz_buf out; /* the answer, while others are before it */
    void (*on_gone)(void *arg, struct kz_http_request *req);
    void (*on_close)(void *arg, struct kz_http_request *req);
    void *callback_arg;
    char peer[64];
    struct kz_http_head head;
};

/* ---- connections ---- */

enum kz_http_deadline {
    KZ_HTTP_IDLE,
    KZ_HTTP_REQUEST,
    KZ_HTTP_LINGER,
    KZ_HTTP_WRITE,
    KZ_HTTP_DEADLINES,
    KZ_HTTP_NO_DEADLINE
};

enum kz_http_conn_state {
    KZ_HTTP_OPEN,
    KZ_HTTP_LINGERING, /* all is sent and the writing side shut; waits for the client to close */
    KZ_HTTP_CLOSED,    /* uv_close() is under way */
};

struct kz_http_conn {
    uint32_t magic;
    enum kz_http_conn_state state;
    struct kz_http_server *server;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    struct kz_http_link all, dirty_link, bulk_link;
    /* Receiving: at most one of idle, request and linger; beside it, writing. */
    struct kz_http_link read_link, write_link;
    enum kz_http_deadline read_deadline;
    uint64_t read_due_ms, write_due_ms;
    uint64_t read_due_request; /* whose time runs */
    size_t write_left;         /* when write_due_ms was set, to see progress */

    struct kz_http_block *in;
    size_t in_at; /* the first byte not taken by a complete message */
    size_t message_hint_bytes;
    size_t discarded_bytes;
    size_t parked_bytes; /* of the message that is parked; 0: none is (I7) */
    struct kz_http_req *receiving;
    struct kz_http_req *first, *last;
    unsigned queued;

    struct kz_buf out;
    struct kz_buf sending;
    uv_write_t write;
    uv_shutdown_t shutdown;

    bool reading; /* from the socket */
    bool paused;  /* whole requests may lie unread in `in` (pipeline_max, output_pause_bytes) */
    bool no_more; /* I3 */
    bool ended;   /* the last answer is in `out` */
    bool eof, writing, doomed, is_loopback;
    bool linger; /* the client may still be sending when all is written */
    char peer[64];
};

/* ---- the server ---- */

struct kz_http_listener {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    bool is_unix;
};

struct kz_http_server {
    uint32_t magic;
    uv_loop_t *loop;
    struct kz_http_options options;
    struct kz_http_handler handler;
    struct kz_http_counters counters;
    struct kz_http_listener *listeners[KZ_HTTP_LISTENERS_MAX];
    size_t listener_count;
    unsigned port;
    uv_check_t check;
    uv_prepare_t prepare;
    uv_idle_t busy; /* keeps the poll from waiting while bulk does */
    uv_timer_t tick;
    bool started, ticking, stopping, ending;
    bool has_owner;
    pthread_t owner;
    unsigned handles_open; /* ours and the listeners', not the connections' */
    bool handled;          /* `handle` was called since on_batch_end */

    struct kz_http_link conns, dirty, bulk, orphans, deadlines[KZ_HTTP_DEADLINES];
    uint64_t stop_due_ms;
    void (*drained)(void *arg, size_t unanswered);
    void *drained_arg;

    uint64_t next_id;
    uint64_t read_us; /* when the bytes now being parsed were read */
    size_t requests_with_handler;

    struct kz_http_block *blocks[KZ_HTTP_BLOCK_CLASSES];
    size_t blocks_pooled_bytes;
    struct kz_http_req *requests;
    size_t requests_pooled;
    struct kz_buf *buffers;
    size_t buffers_pooled;

    uint64_t date_s;
    char date[40];
    char discard[KZ_HTTP_DISCARD_BYTES];
};

static inline struct kz_http_req *kz_http_req_of(const struct kz_http_request *pub)
{
    KZ_CHECK_MAGIC(pub, KZ_HTTP_REQUEST_MAGIC);
    return (struct kz_http_req *)(uintptr_t)pub;
}

/* http.c */
void kz_http_server_conn_closed(struct kz_http_server *server);
void kz_http_server_ticks(struct kz_http_server *server);
void kz_http_assert_owner(struct kz_http_server *server);
/* Queues a connection's bulk_link. From any phase of the loop: the next turn does not sleep. */
void kz_http_server_park(struct kz_http_server *server, struct kz_http_link *link);

/* http_conn.c */
void kz_http_conn_accept(struct kz_http_server *server, struct kz_http_listener *listener);
void kz_http_conn_mark_dirty(struct kz_http_conn *conn);
void kz_http_conn_flush(struct kz_http_conn *conn);
/* Hands over the request that is parked, and goes on behind it. */
void kz_http_conn_unpark(struct kz_http_conn *conn);
void kz_http_conn_due(struct kz_http_conn *conn, enum kz_http_deadline deadline);
/* Closes it now, whatever is under way. Not within a handler's call (I5). */
void kz_http_conn_lost(struct kz_http_conn *conn);
/* The server stops: ends it as soon as what is in flight is answered. */
void kz_http_conn_drain(struct kz_http_conn *conn);
/* Lets answers whose turn has come go out. */
void kz_http_conn_advance(struct kz_http_conn *conn);
size_t kz_http_conn_unsent(const struct kz_http_conn *conn);

/* http_request.c */
struct kz_http_req *kz_http_req_get(struct kz_http_server *server);
void kz_http_req_put(struct kz_http_req *req);
void kz_http_req_set_state(struct kz_http_req *req, enum kz_http_request_state state);
/* Points the public strings into the block; KZ_INVALID for a target that is no path. */
enum kz_code kz_http_req_resolve(struct kz_http_req *req, const char *message, struct kz_err *err);
/* NULL: over buffered_max_bytes. */
struct kz_http_block *kz_http_block_get(struct kz_http_server *server, size_t size);
void kz_http_block_unref(struct kz_http_server *server, struct kz_http_block *block);
void kz_http_out_get(struct kz_http_server *server, struct kz_buf *buf);
void kz_http_out_put(struct kz_http_server *server, struct kz_buf *buf);
void kz_http_pools_done(struct kz_http_server *server);

/* http_reply.c */
/* Where req's bytes go now (I2). Whoever appends accounts for it. */
struct kz_buf *kz_http_reply_begin(struct kz_http_req *req);
void kz_http_reply_interim(struct kz_http_conn *conn);
void kz_http_reply_refused(struct kz_http_conn *conn);
/* Our own answer to a request that never reaches the handler; the connection ends with it. */
void kz_http_reply_refuse(struct kz_http_req *req, int status, const struct kz_err *err);
