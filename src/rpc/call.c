/* One request, one answer, with further attempts.
 *
 *            start            completion thread
 *     new ---------> under way ---------------> over --> freed by its owner (the caller that waits
 *                      ^    |  may pass                  for it, or the completion thread after
 *                      |    v                            its callback)
 *                      waiting (of the completion thread)
 */
#include <stdlib.h>

#include "rpc/rpc_int.h"
#include "sys/clock.h"

enum { DEFAULT_TIMEOUT_MS = 30000 };

struct kz_rpc_call {
    struct kz_rpc_op op;
    struct kz_rpc_channel *channel;
    const char *method;
    const ProtobufCMessageDescriptor *answer_type;
    struct kz_rpc_head head;
    grpc_slice request;
    int64_t deadline_ms;
    bool idempotent, once, wait_for_ready;

    struct kz_rpc_call *next, **link; /* in channel->calls */

    /* The attempt under way, or the last one. */
    unsigned attempt;
    grpc_channel *connection;
    grpc_call *call;
    grpc_byte_buffer *sent, *answer;
    grpc_metadata_array initial;
    struct kz_rpc_end end;

    int64_t retry_at_ms; /* while it waits */
    struct kz_rpc_call *next_waiting;

    kz_rpc_done *done; /* NULL: somebody waits for `over` */
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool over;
};

static void on_done(struct kz_rpc_op *op, bool success);

/* ---- life ------------------------------------------------------------------------------------ */

static struct kz_rpc_call *new_call(struct kz_rpc_channel *channel,
        const struct kz_rpc_options *options, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *answer_type)
{
    const struct kz_grpc *grpc = channel->rpc->grpc;
    struct kz_rpc_call *call = kz_calloc(1, sizeof(*call));

    KZ_BUG_ON(options->method[0] != '/');
    call->channel = channel;
    call->method = options->method;
    call->answer_type = answer_type;
    call->deadline_ms = kz_mono_ms() +
                        (options->timeout_ms ? options->timeout_ms : DEFAULT_TIMEOUT_MS);
    call->idempotent = options->idempotent;
    call->once = options->once;
    call->wait_for_ready = options->wait_for_ready;
    kz_rpc_head_init(&call->head, grpc, options);
    call->request = kz_rpc_encode(grpc, request);
    KZ_BUG_ON(pthread_mutex_init(&call->lock, NULL) != 0);
    KZ_BUG_ON(pthread_cond_init(&call->changed, NULL) != 0);
    pthread_mutex_lock(&channel->lock);
    call->next = channel->calls;
    call->link = &channel->calls;
    if (call->next)
        call->next->link = &call->next;
    channel->calls = call;
    pthread_mutex_unlock(&channel->lock);
    atomic_fetch_add_explicit(&channel->rpc->calls, 1, memory_order_relaxed);
    return call;
}

static void end_attempt(struct kz_rpc_call *call)
{
    const struct kz_grpc *grpc = call->channel->rpc->grpc;
    grpc_call *ended;

    pthread_mutex_lock(&call->channel->lock);
    ended = kz_take(&call->call);
    kz_rpc_awaited(call->channel, call->end.status);
    pthread_mutex_unlock(&call->channel->lock);
    kz_rpc_end_done(&call->end, grpc);
    grpc->grpc_metadata_array_destroy(&call->initial);
    grpc->grpc_byte_buffer_destroy(kz_take(&call->sent));
    if (call->answer)
        grpc->grpc_byte_buffer_destroy(kz_take(&call->answer));
    grpc->grpc_call_unref(ended);
}

/* The channel may be gone when this returns. */
static void free_call(struct kz_rpc_call *call)
{
    struct kz_rpc_channel *channel = call->channel;

    end_attempt(call);
    channel->rpc->grpc->grpc_slice_unref(call->request);
    kz_rpc_head_done(&call->head, channel->rpc->grpc);
    pthread_cond_destroy(&call->changed);
    pthread_mutex_destroy(&call->lock);
    pthread_mutex_lock(&channel->lock);
    *call->link = call->next;
    if (call->next)
        call->next->link = call->link;
    if (!channel->calls)
        pthread_cond_broadcast(&channel->empty);
    pthread_mutex_unlock(&channel->lock);
    free(call);
}

/* ---- attempts -------------------------------------------------------------------------------- */

static void start_attempt(struct kz_rpc_call *call)
{
    struct kz_rpc_channel *channel = call->channel;
    const struct kz_grpc *grpc = channel->rpc->grpc;
    grpc_op ops[6];
    grpc_call *started;

    kz_rpc_end_init(&call->end, grpc);
    grpc->grpc_metadata_array_init(&call->initial);
    call->sent = grpc->grpc_raw_byte_buffer_create(&call->request, 1);
    call->answer = NULL;
    call->connection = kz_rpc_channel_pick(channel);
    ops[0] = kz_rpc_send_head(&call->head);
    ops[1] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = call->sent};
    ops[2] = (grpc_op){.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
    ops[3] = (grpc_op){.op = GRPC_OP_RECV_INITIAL_METADATA,
            .data.recv_initial_metadata.recv_initial_metadata = &call->initial};
    ops[4] = (grpc_op){.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->answer};
    ops[5] = kz_rpc_receive_end(&call->end);
    started = kz_rpc_new_call(channel->rpc, &call->head, call->connection, call->deadline_ms);
    atomic_fetch_add_explicit(
            &channel->rpc->bytes_sent, GRPC_SLICE_LENGTH(call->request), memory_order_relaxed);
    /* Once started, the call may be over and freed at any time; the lock keeps the channel. */
    pthread_mutex_lock(&channel->lock);
    call->call = started;
    kz_rpc_await(channel);
    if (atomic_load(&channel->closing))
        grpc->grpc_call_cancel(started, NULL);
    kz_rpc_op_start(grpc, started, ops, KZ_ARRAY_COUNT(ops), &call->op, on_done);
    pthread_mutex_unlock(&channel->lock);
}

/* When to try again (monotonic); -1: not. */
static int64_t retry_at(const struct kz_rpc_call *call)
{
    const struct kz_rpc_channel *channel = call->channel;
    int64_t wait_ms = kz_rpc_try_again_ms(call->end.status, call->idempotent, call->attempt,
            kz_rpc_retry_info_ms(&call->end.trailing));
    int64_t at_ms = kz_mono_ms() + wait_ms;

    if (call->once || wait_ms < 0 || at_ms >= call->deadline_ms || atomic_load(&channel->closing) ||
            kz_rpc_is_too_large(&call->end))
        return -1;
    if (!call->wait_for_ready && call->end.status == GRPC_STATUS_UNAVAILABLE &&
            kz_rpc_state(channel->rpc, call->connection) == GRPC_CHANNEL_TRANSIENT_FAILURE)
        return -1;
    return at_ms;
}

static enum kz_code result(
        struct kz_rpc_call *call, ProtobufCMessage **ret_answer, struct kz_err *err)
{
    struct kz_rpc *rpc = call->channel->rpc;
    enum kz_code rc;

    if (call->end.status != GRPC_STATUS_OK) {
        rc = kz_rpc_failed(call->channel, call->method, &call->end, err);
    } else if (!call->answer) {
        kz_rpc_remember(GRPC_STATUS_UNKNOWN, 0);
        rc = kz_fail(err, KZ_CORRUPT, "%s at %s: no answer came with the status OK",
                call->method + 1, call->channel->endpoint);
    } else {
        rc = kz_rpc_decode(rpc, call->answer, call->answer_type, ret_answer, err);
        if (rc != KZ_OK) {
            kz_rpc_remember(GRPC_STATUS_UNKNOWN, 0);
            if (err)
                kz_wrap(err, "%s at %s", call->method + 1, call->channel->endpoint);
        }
    }
    if (rc != KZ_OK)
        atomic_fetch_add_explicit(&rpc->failures, 1, memory_order_relaxed);
    return rc;
}

static void call_back(struct kz_rpc_call *call)
{
    ProtobufCMessage *answer = NULL;
    struct kz_err err = {0};
    enum kz_code rc = result(call, &answer, &err);

    call->done(call->arg, rc, answer, rc == KZ_OK ? NULL : &err);
    protobuf_c_message_free_unpacked(answer, NULL);
    free_call(call);
}

static void on_done(struct kz_rpc_op *op, bool success)
{
    struct kz_rpc_call *call = KZ_CONTAINER_OF(op, struct kz_rpc_call, op);
    struct kz_rpc *rpc = call->channel->rpc;
    int64_t at_ms;

    (void)success; /* the batch includes the status, which says it */
    at_ms = retry_at(call);
    if (at_ms >= 0) {
        end_attempt(call);
        call->attempt++;
        call->retry_at_ms = at_ms;
        call->next_waiting = rpc->waiting;
        rpc->waiting = call;
        atomic_fetch_add_explicit(&rpc->retries, 1, memory_order_relaxed);
    } else if (call->done) {
        call_back(call);
    } else {
        pthread_mutex_lock(&call->lock);
        call->over = true;
        pthread_cond_signal(&call->changed);
        pthread_mutex_unlock(&call->lock);
    }
}

int64_t kz_rpc_start_waiting(struct kz_rpc *rpc)
{
    struct kz_rpc_call **link = &rpc->waiting;
    int64_t next_ms = INT64_MAX;

    while (*link) {
        struct kz_rpc_call *call = *link;

        if (call->retry_at_ms <= kz_mono_ms() || atomic_load(&call->channel->closing)) {
            *link = call->next_waiting;
            start_attempt(call);
        } else {
            next_ms = KZ_MIN(next_ms, call->retry_at_ms);
            link = &call->next_waiting;
        }
    }
    return next_ms;
}

/* ---- for others ------------------------------------------------------------------------------ */

enum kz_code kz_rpc_call(struct kz_rpc_channel *channel, const struct kz_rpc_options *options,
        const ProtobufCMessage *request, const ProtobufCMessageDescriptor *answer_type,
        ProtobufCMessage **ret_answer, struct kz_err *err)
{
    struct kz_rpc_call *call = new_call(channel, options, request, answer_type);
    enum kz_code rc;

    start_attempt(call);
    pthread_mutex_lock(&call->lock);
    while (!call->over)
        pthread_cond_wait(&call->changed, &call->lock);
    pthread_mutex_unlock(&call->lock);
    rc = result(call, ret_answer, err);
    free_call(call);
    return rc;
}

void kz_rpc_start(struct kz_rpc_channel *channel, const struct kz_rpc_options *options,
        const ProtobufCMessage *request, const ProtobufCMessageDescriptor *answer_type,
        kz_rpc_done *done, void *arg)
{
    struct kz_rpc_call *call = new_call(channel, options, request, answer_type);

    call->done = done;
    call->arg = arg;
    start_attempt(call);
}

void kz_rpc_calls_close(struct kz_rpc_channel *channel)
{
    atomic_store(&channel->closing, true);
    pthread_mutex_lock(&channel->lock);
    for (struct kz_rpc_call *call = channel->calls; call; call = call->next)
        if (call->call)
            channel->rpc->grpc->grpc_call_cancel(call->call, NULL);
    while (channel->calls)
        pthread_cond_wait(&channel->empty, &channel->lock);
    pthread_mutex_unlock(&channel->lock);
}
