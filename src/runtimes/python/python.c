/* A replica: one worker process, its channel, and what is awaited of it.
 *
 *              HELLO            READY          predict()
 *   STARTING ---------> LOADING ------> IDLE ------------> BUSY
 *       |                  |             ^ |                 | RESULT, ERROR: done
 *       |                  |             | |                 |
 *       |                  |             +-|-----------------+
 *       +------ EOF -------+------ EOF ----+------ EOF ------+---> ENDING --status known--> GONE
 *       +------ a wrong frame, FAILED, a deadline passed, stop() ---------------------------> GONE
 *
 * A forked replica begins in STARTING too, and goes through LOADING without a LOAD of its own.
 *
 * Invariants
 *   R1  infer hears exactly one of lost, done with replica_lost, or has called stop(): on the way
 *       into GONE. In GONE nothing of infer's is touched but `printed`.
 *   R2  the process is killed with its group unless it ended by itself, and is reaped before the
 *       struct is freed. No signal is sent to a pid after it was reaped.
 *   R3  `await_id` is the id of the one frame an answer to which is due in LOADING and BUSY.
 *   R4  no callback is made from within start(), predict() or stop(): trouble there is left to the
 *       timer.
 */
#include "runtimes/python/python_int.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codec/utf8.h"
#include "sys/clock.h"

enum {
    REPLICA_MAGIC = 0x6b7a7072,
    LOAD_TIMEOUT_MS = 60000,
    ENDING_MS = 250, /* an ended channel's process has this long to end by itself */
    GRACE_MS = 500,  /* after SHUTDOWN */
    REAP_EVERY_MS = 2,
    TIDY_TRIES = 500, /* for what it left behind */
    READ_BYTES = 64 << 10,
    READS_A_TURN = 64,
};

enum state { STARTING, LOADING, IDLE, BUSY, ENDING, GONE, STATE_COUNT };
static const uint8_t allowed[STATE_COUNT] = {
        [STARTING] = 1 << LOADING | 1 << ENDING | 1 << GONE,
        [LOADING] = 1 << IDLE | 1 << ENDING | 1 << GONE,
        [IDLE] = 1 << BUSY | 1 << ENDING | 1 << GONE,
        [BUSY] = 1 << IDLE | 1 << ENDING | 1 << GONE,
        [ENDING] = 1 << GONE,
};

struct kz_replica {
    uint32_t magic;
    enum state state;
    const struct kz_model_def *model;
    const struct kz_replica_events *events;
    void *arg;
    uv_loop_t *loop;

    pid_t pid;   /* 0: reaped, or a fork that has not said HELLO */
    pid_t group; /* its process group, 0 for none of its own */
    bool forked, can_fork;
    bool was_busy; /* ENDING: a batch was inside */
    int fd;        /* -1: closed */
    uv_poll_t poll;
    uv_timer_t timer;
    unsigned handles; /* still to be closed before the struct is freed */
    struct outlet *outlet;
    struct cgroup cgroup;
    unsigned tidy_tries;

    struct kz_buf load; /* the LOAD frame, until HELLO */
    struct kz_buf in, out;
    size_t out_sent;
    uint32_t last_id, await_id, fork_id; /* fork_id 0: none is due */
    size_t row_count;                    /* of the batch inside */
    int64_t deadline_ms;                 /* monotonic; ENDING and GONE: when to kill */
    bool killed;
    struct wire_result result;
};

static void set_state(struct kz_replica *r, enum state state)
{
    KZ_BUG_ON(!(allowed[r->state] & 1 << state));
    r->state = state;
}

static void on_timer(uv_timer_t *timer);
static void on_poll(uv_poll_t *poll, int status, int events);

static void set_timer(struct kz_replica *r, int64_t ms)
{
    uv_update_time(r->loop);
    KZ_BUG_ON(uv_timer_start(&r->timer, on_timer, ms > 0 ? (uint64_t)ms : 0, 0) != 0);
}

static void watch(struct kz_replica *r)
{
    int events = UV_READABLE | (r->out_sent < r->out.size ? UV_WRITABLE : 0);

    KZ_BUG_ON(uv_poll_start(&r->poll, events, on_poll) != 0);
}

/* ---- the end ------------------------------------------------------------------------------------ */

static void on_closed(uv_handle_t *handle)
{
    struct kz_replica *r = handle->data;

    KZ_CHECK_MAGIC(r, REPLICA_MAGIC);
    if (--r->handles)
        return;
    kz_buf_done(&r->load);
    kz_buf_done(&r->in);
    kz_buf_done(&r->out);
    kz_py_result_done(&r->result);
    r->magic = 0;
    free(r);
}

static void release(struct kz_replica *r)
{
    if (r->outlet)
        kz_py_outlet_unref(r->outlet);
    r->outlet = NULL;
    uv_close((uv_handle_t *)&r->poll, on_closed);
    uv_close((uv_handle_t *)&r->timer, on_closed);
    close(r->fd);
    r->fd = -1;
}

static void kill_it(struct kz_replica *r)
{
    if (!r->killed)
        kz_py_kill(r->pid);
    r->killed = true;
}

/* From here on nobody knows it; the timer reaps it and then frees. */
static void go(struct kz_replica *r, int64_t grace_ms)
{
    set_state(r, GONE);
    (void)uv_poll_stop(&r->poll);
    r->deadline_ms = kz_mono_ms() + grace_ms;
    if (grace_ms <= 0)
        kill_it(r);
    set_timer(r, REAP_EVERY_MS);
}

/* Tells infer that it is lost, and why; the last thing that is told (R1). */
static void tell_lost(struct kz_replica *r, bool was_busy, const char *code, struct kz_str message)
{
    struct kz_batch_outcome outcome = {
            .code = strcmp(code, "timeout") == 0 ? KZ_TIMEOUT : KZ_MODEL,
            .fail_code = code,
            .message = message,
            .replica_lost = true,
    };

    if (was_busy)
        r->events->done(r->arg, r, &outcome);
    else
        r->events->lost(r->arg, r, code, message);
}

static void lose(struct kz_replica *r, const char *code, const char *message)
{
    bool was_busy = r->state == BUSY;

    go(r, 0);
    tell_lost(r, was_busy, code, kz_str(message));
}

static void lose_for_frame(struct kz_replica *r, const struct kz_err *err)
{
    lose(r, "protocol", err->message);
}

/* The channel has ended, so the process is ending: how is worth a moment. */
static void begin_ending(struct kz_replica *r)
{
    r->was_busy = r->state == BUSY;
    set_state(r, ENDING);
    (void)uv_poll_stop(&r->poll);
    r->deadline_ms = kz_mono_ms() + ENDING_MS;
    set_timer(r, 0);
}

static void describe_end(struct kz_replica *r, bool known, int status, struct kz_buf *out)
{
    if (r->forked && !known && !r->pid)
        kz_buf_cstr(out, "the replica was not forked");
    else if (r->killed || !known)
        kz_buf_cstr(out, "the worker closed its channel");
    else if (WIFSIGNALED(status))
        kz_buf_printf(out, "the worker was killed by signal %d (%s)", WTERMSIG(status),
                strsignal(WTERMSIG(status)));
    else
        kz_buf_printf(out, "the worker exited with status %d", WEXITSTATUS(status));
    if (r->outlet->tail_size) {
        kz_buf_cstr(out, "\nits last output:\n");
        kz_utf8_clean(kz_str_n(r->outlet->tail, r->outlet->tail_size), out);
    }
}

static void end(struct kz_replica *r, bool known, int status)
{
    bool oom = kz_py_cgroup_was_oom(&r->cgroup), was_busy = r->was_busy;
    const char *code = oom ? "oom" : r->forked && !r->pid && !known ? "refused" : "crash";
    struct kz_buf message = {0};

    kz_py_outlet_drain(r->outlet);
    if (oom)
        kz_buf_printf(&message, "out of memory: over the model's limit of %llu MiB; ",
                (unsigned long long)(r->model->resources.memory_bytes >> 20));
    describe_end(r, known, status, &message);
    if (known)
        r->pid = 0; /* reaped */
    go(r, 0);
    tell_lost(r, was_busy, code, kz_buf_view(&message));
    kz_buf_done(&message);
}

static void on_ending(struct kz_replica *r)
{
    bool known = false;
    int status = 0;

    if (kz_py_reap(r->pid, &known, &status)) {
        end(r, known, status);
    } else if (!r->killed && kz_mono_ms() >= r->deadline_ms) {
        kill_it(r);
        set_timer(r, REAP_EVERY_MS);
    } else {
        set_timer(r, REAP_EVERY_MS);
    }
}

static void on_gone(struct kz_replica *r)
{
    bool known;
    int status;

    if (!kz_py_reap(r->pid, &known, &status)) {
        if (kz_mono_ms() >= r->deadline_ms)
            kill_it(r);
        set_timer(r, REAP_EVERY_MS);
        return;
    }
    r->pid = 0;
    if ((!kz_py_reap_group(r->group) || !kz_py_cgroup_remove(&r->cgroup)) &&
            ++r->tidy_tries < TIDY_TRIES)
        set_timer(r, REAP_EVERY_MS);
    else
        release(r);
}

static void on_timer(uv_timer_t *timer)
{
    struct kz_replica *r = timer->data;
    char text[120];

    KZ_CHECK_MAGIC(r, REPLICA_MAGIC);
    switch (r->state) {
    case STARTING:
    case LOADING:
        lose(r, "timeout", "the model did not load within 60 s");
        break;
    case BUSY:
        snprintf(text, sizeof(text), "predict() did not return within %lld ms",
                (long long)r->deadline_ms);
        lose(r, "timeout", text);
        break;
    case ENDING:
        on_ending(r);
        break;
    case GONE:
        on_gone(r);
        break;
    case IDLE:
    case STATE_COUNT:
        break;
    }
}

/* ---- frames out --------------------------------------------------------------------------------- */

/* Sends what it can at once. A broken channel is left to the timer (R4). */
static void flush(struct kz_replica *r)
{
    while (r->out_sent < r->out.size) {
        ssize_t n = send(r->fd, r->out.data + r->out_sent, r->out.size - r->out_sent,
                MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
            begin_ending(r);
            return;
        }
        if (n < 0) {
            watch(r);
            return;
        }
        r->out_sent += (size_t)n;
    }
    kz_buf_clear(&r->out);
    r->out_sent = 0;
}

/* ---- frames in ---------------------------------------------------------------------------------- */

/* Its pid is what the kernel says, not what the frame does: we send signals there. */
static bool adopt(struct kz_replica *r, struct kz_err *err)
{
    if (r->pid <= 0 || !kz_py_is_child(r->pid)) {
        r->pid = 0;
        kz_fail(err, KZ_INVALID, "a forked replica's process is not a child of ours");
        return false;
    }
    if (setpgid(r->pid, r->pid) == 0) /* else it is killed alone */
        r->group = r->pid;
    (void)kz_py_cgroup_enter(&r->cgroup, r->model, r->pid);
    return true;
}

static void on_hello(struct kz_replica *r, struct kz_str payload)
{
    struct kz_err err;

    if (kz_py_get_hello(payload, &err) != KZ_OK || (r->forked && !adopt(r, &err))) {
        lose_for_frame(r, &err);
        return;
    }
    set_state(r, LOADING);
    kz_buf_put(&r->out, r->load.data, r->load.size);
    kz_buf_done(&r->load);
    flush(r);
}

static void on_ready(struct kz_replica *r, struct kz_str payload)
{
    struct kz_err err;

    if (kz_py_get_ready(payload, &r->can_fork, &err) != KZ_OK) {
        lose_for_frame(r, &err);
        return;
    }
    set_state(r, IDLE);
    (void)uv_timer_stop(&r->timer);
    r->events->ready(r->arg, r);
}

static void on_result(struct kz_replica *r, struct kz_str payload)
{
    struct kz_batch_outcome outcome = {.code = KZ_OK};
    struct kz_err err;

    if (kz_py_get_result(payload, r->model, r->row_count, &r->result, &err) != KZ_OK) {
        lose_for_frame(r, &err);
        return;
    }
    outcome.rows = r->result.rows;
    outcome.row_count = r->result.row_count;
    outcome.model_us = r->result.predict_us;
    set_state(r, IDLE);
    (void)uv_timer_stop(&r->timer);
    r->events->done(r->arg, r, &outcome);
}

static void join(const struct wire_failure *failure, struct kz_buf *out)
{
    kz_buf_str(out, failure->message);
    if (failure->traceback.size) {
        kz_buf_char(out, '\n');
        kz_buf_str(out, failure->traceback);
    }
}

static void on_error(struct kz_replica *r, struct kz_str payload)
{
    struct kz_batch_outcome outcome = {.code = KZ_MODEL};
    struct wire_failure failure;
    struct kz_buf message = {0};
    struct kz_err err;
    const char *code;

    if (kz_py_get_failure(payload, &failure, &err) != KZ_OK) {
        lose_for_frame(r, &err);
        return;
    }
    join(&failure, &message);
    kz_buf_char(&message, '\0');
    code = kz_py_code_name(&failure);
    /* What took the memory may still hold it (without a cgroup nobody kills such a worker), and
     * then every later row would fail for the fault of one. */
    if (failure.code == WIRE_PROTOCOL || strcmp(code, "oom") == 0) {
        lose(r, code, message.data);
    } else {
        outcome.fail_code = code;
        outcome.message = kz_str_n(message.data, message.size - 1);
        outcome.model_us = failure.predict_us;
        set_state(r, IDLE);
        (void)uv_timer_stop(&r->timer);
        r->events->done(r->arg, r, &outcome);
    }
    kz_buf_done(&message);
}

static void on_failed(struct kz_replica *r, struct kz_str payload)
{
    struct wire_failure failure;
    struct kz_buf message = {0};
    struct kz_err err;

    if (kz_py_get_failure(payload, &failure, &err) != KZ_OK) {
        lose_for_frame(r, &err);
        return;
    }
    kz_buf_cstr(&message, "the model did not load: ");
    join(&failure, &message);
    kz_buf_char(&message, '\0');
    lose(r, failure.code == WIRE_EXCEPTION ? "load" : kz_py_code_name(&failure), message.data);
    kz_buf_done(&message);
}

/* The one place that says which frame is welcome when; everything else costs the replica. */
static void on_frame(struct kz_replica *r, const struct wire_header *h, struct kz_str payload)
{
    bool is_answer = h->id == r->await_id;
    char text[100];

    if (h->type == WIRE_HELLO && r->state == STARTING && h->id == 0) {
        on_hello(r, payload);
    } else if (h->type == WIRE_READY && r->state == LOADING && is_answer) {
        on_ready(r, payload);
    } else if (h->type == WIRE_FAILED && r->state == LOADING && is_answer) {
        on_failed(r, payload);
    } else if (h->type == WIRE_RESULT && r->state == BUSY && is_answer) {
        on_result(r, payload);
    } else if (h->type == WIRE_ERROR && r->state == BUSY && is_answer) {
        on_error(r, payload);
    } else if ((h->type == WIRE_FORKED || h->type == WIRE_ERROR) && r->fork_id &&
               h->id == r->fork_id) {
        r->fork_id = 0; /* the new channel says how it went */
    } else {
        snprintf(text, sizeof(text),
                "the worker sent a frame of type 0x%02x that was not asked for", h->type);
        lose(r, "protocol", text);
    }
}

/* Takes whole frames off `in`; false once the replica is gone. */
static bool take_frames(struct kz_replica *r)
{
    size_t at = 0;
    struct kz_err err;

    while (r->in.size - at >= WIRE_HEADER_BYTES) {
        struct wire_header h;

        if (kz_py_header(r->in.data + at, &h, &err) != KZ_OK) {
            lose_for_frame(r, &err);
            return false;
        }
        if (r->in.size - at < WIRE_HEADER_BYTES + (size_t)h.size)
            break;
        on_frame(r, &h, kz_str_n(r->in.data + at + WIRE_HEADER_BYTES, h.size));
        if (r->state >= ENDING)
            return false;
        at += WIRE_HEADER_BYTES + h.size;
    }
    memmove(r->in.data, r->in.data + at, r->in.size - at);
    r->in.size -= at;
    return true;
}

/* read(2), and for a fork that has not said who it is the kernel's word on it along with it. */
static ssize_t receive(struct kz_replica *r, void *data, size_t size)
{
    union {
        struct cmsghdr align;
        char bytes[256];
    } control;
    struct iovec part = {data, size};
    struct msghdr message = {.msg_iov = &part,
            .msg_iovlen = 1,
            .msg_control = control.bytes,
            .msg_controllen = sizeof(control.bytes)};
    ssize_t n;

    if (!r->forked || r->pid)
        return recv(r->fd, data, size, MSG_DONTWAIT);
    n = recvmsg(r->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    for (struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&message) : NULL; c;
            c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
            struct ucred who;

            memcpy(&who, CMSG_DATA(c), sizeof(who));
            r->pid = who.pid;
        } else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            /* Descriptors are not wanted. */
            for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
                int fd;

                memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
                close(fd);
            }
        }
    }
    return n;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct kz_replica *r = poll->data;

    KZ_CHECK_MAGIC(r, REPLICA_MAGIC);
    if (status == 0 && events & UV_WRITABLE) {
        flush(r);
        if (r->state >= ENDING)
            return;
        if (r->out_sent == r->out.size)
            watch(r);
    }
    for (int i = 0; i < READS_A_TURN; i++) {
        ssize_t n;

        kz_buf_reserve(&r->in, READ_BYTES);
        n = receive(r, r->in.data + r->in.size, READ_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n <= 0) {
            begin_ending(r);
            return;
        }
        r->in.size += (size_t)n;
        if (!take_frames(r) || n < READ_BYTES)
            return;
    }
}

/* ---- kz_runtime_ops --------------------------------------------------------------------------- */

static enum kz_code watch_channel(struct kz_replica *r, struct kz_err *err)
{
    int rc = uv_poll_init(r->loop, &r->poll, r->fd);

    if (rc != 0)
        return kz_fail(err, KZ_IO, "could not watch a worker's channel: %s", uv_strerror(rc));
    KZ_BUG_ON(uv_timer_init(r->loop, &r->timer) != 0);
    r->handles = 2;
    r->poll.data = r->timer.data = r;
    watch(r);
    set_timer(r, LOAD_TIMEOUT_MS);
    return KZ_OK;
}

static enum kz_code start_process(
        struct kz_replica *r, const struct kz_replica_start *start, struct kz_err *err)
{
    struct kz_python python;
    struct spawned s;
    enum kz_code rc;

    kz_python_probe(start->project, &python);
    if (!python.found)
        return kz_fail(err, KZ_CONFIG, "no Python for models: %s", python.problem);
    KZ_TRY(kz_py_spawn(&python, start->project, &s, err));
    kz_py_limit(s.pid, r->model, !kz_py_cgroup_enter(&r->cgroup, r->model, s.pid));
    r->pid = r->group = s.pid;
    r->fd = s.channel;
    rc = kz_py_outlet_new(r->loop, s.output, r->events, r->arg, &r->outlet, err);
    if (rc != KZ_OK)
        close(s.output);
    r->await_id = r->last_id = 1;
    kz_py_put_load(&r->load, r->await_id, start);
    return rc;
}

/* FORK, with one end of a new socketpair; `like` answers when it has done what came before. */
static enum kz_code start_fork(struct kz_replica *r, struct kz_replica *like, struct kz_err *err)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct kz_buf frame = {0};
    struct iovec part;
    struct msghdr message = {.msg_iov = &part,
            .msg_iovlen = 1,
            .msg_control = control.bytes,
            .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    int pair[2], on = 1;
    ssize_t n;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return kz_fail_errno(err, "could not make a replica's channel");
    KZ_BUG_ON(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0);
    KZ_BUG_ON(fcntl(pair[0], F_SETFL, fcntl(pair[0], F_GETFL) | O_NONBLOCK) != 0);
    like->fork_id = ++like->last_id;
    kz_py_put_empty(&frame, WIRE_FORK, like->fork_id);
    part = (struct iovec){frame.data, frame.size};
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &pair[1], sizeof(int));
    n = sendmsg(like->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(pair[1]);
    kz_buf_done(&frame);
    if (n != WIRE_HEADER_BYTES) { /* all that went before is with it, so it is ending, or full */
        close(pair[0]);
        return kz_fail(err, KZ_UNAVAILABLE, "could not ask a replica to fork");
    }
    r->forked = true;
    r->fd = pair[0];
    r->outlet = kz_py_outlet_ref(like->outlet);
    return KZ_OK;
}

static void give_up(struct kz_replica *r)
{
    bool known;
    int status;

    kz_py_kill(r->pid);
    while (r->pid && !kz_py_reap(r->pid, &known, &status))
        usleep(1000); /* at start-up only, out of descriptors or epoll's memory */
    (void)kz_py_cgroup_remove(&r->cgroup);
    if (r->outlet)
        kz_py_outlet_unref(r->outlet);
    if (r->fd >= 0)
        close(r->fd);
    kz_buf_done(&r->load);
    free(r);
}

static enum kz_code python_start(
        const struct kz_replica_start *start, struct kz_replica **ret_replica, struct kz_err *err)
{
    struct kz_replica *r = kz_calloc(1, sizeof(*r)), *like = start->like;
    enum kz_code rc;

    *r = (struct kz_replica){.magic = REPLICA_MAGIC,
            .state = STARTING,
            .model = start->model,
            .events = start->events,
            .arg = start->arg,
            .loop = start->loop,
            .fd = -1};
    kz_py_be_subreaper();
    if (like && (like->state == IDLE || like->state == BUSY) && !like->out.size && like->can_fork &&
            !like->fork_id)
        rc = start_fork(r, like, err);
    else
        rc = start_process(r, start, err);
    if (rc == KZ_OK)
        rc = watch_channel(r, err);
    if (rc != KZ_OK) {
        give_up(r);
        return rc;
    }
    *ret_replica = r;
    return KZ_OK;
}

static enum kz_code python_predict(
        struct kz_replica *r, const struct kz_batch *batch, int64_t timeout_ms, struct kz_err *err)
{
    KZ_CHECK_MAGIC(r, REPLICA_MAGIC);
    if (r->state == ENDING)
        return kz_fail(err, KZ_UNAVAILABLE, "the replica is ending");
    KZ_BUG_ON(r->state != IDLE || r->out.size);
    KZ_TRY(kz_py_put_predict(&r->out, r->last_id + 1, batch, err));
    r->await_id = ++r->last_id;
    r->row_count = batch->row_count;
    r->deadline_ms = timeout_ms;
    set_state(r, BUSY);
    set_timer(r, timeout_ms);
    flush(r);
    return KZ_OK;
}

static void python_stop(struct kz_replica *r)
{
    KZ_CHECK_MAGIC(r, REPLICA_MAGIC);
    if (r->state == IDLE && !r->out.size) {
        struct kz_buf frame = {0};
        ssize_t n;

        kz_py_put_empty(&frame, WIRE_SHUTDOWN, ++r->last_id);
        n = send(r->fd, frame.data, frame.size, MSG_NOSIGNAL | MSG_DONTWAIT);
        kz_buf_done(&frame);
        go(r, n == WIRE_HEADER_BYTES ? GRACE_MS : 0);
    } else {
        go(r, 0);
    }
}

static int python_pid(const struct kz_replica *r)
{
    return (int)r->pid;
}

const struct kz_runtime_ops kz_runtime_python = {
        .name = "python",
        .start = python_start,
        .predict = python_predict,
        .stop = python_stop,
        .pid = python_pid,
};
