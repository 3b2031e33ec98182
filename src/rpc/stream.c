/* A call with many messages: server streaming, and both ways.
 *
 * S1  Each batch under way is counted in `under_way`; the stream is freed when there is none.
 * S2  At most one read and one write are under way. A read outlives a next() that timed out, so a
 *     message is never lost to a time-out; the next next() takes it.
 * S3  `ended` is set by the last completion of the call, its status. Reads that found no message
 *     come before it; next() waits for it and then always says the same.
 */
#include <errno.h>
#include <stdlib.h>

#include "rpc/rpc_int.h"
#include "sys/clock.h"

/* A peer that was not told of the end of our writes has that long to end the stream in order. */
enum { CLOSE_GRACE_MS = 1000 };

struct kz_rpc_stream {
    struct kz_rpc_channel *channel;
    const char *method;
    const ProtobufCMessageDescriptor *answer_type;
    struct kz_rpc_head head;
    grpc_call *call;
    struct kz_rpc_op begin_op, read_op, write_op, half_close_op, end_op;
    grpc_metadata_array initial;
    grpc_byte_buffer *request; /* sent with the beginning; NULL: none */
    bool has_deadline;         /* whoever waits for a message waits for an answer */

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    unsigned under_way;
    bool reading, has_read; /* `incoming` is what the read gave: NULL is the end */
    grpc_byte_buffer *incoming;
    bool writing, write_ok;
    grpc_byte_buffer *outgoing;
    bool half_closed, cancelled, ended, closing;
    struct kz_rpc_end end;
    bool failed; /* of the thread that calls next(): its failure has been counted */
};

/* ---- completions ----------------------------------------------------------------------------- */

#define STREAM_OF(op, member) KZ_CONTAINER_OF(op, struct kz_rpc_stream, member)

/* Wakes whoever waits for something that has become so, and nobody else: a wake-up costs more than
 * all the rest of it. */
static void unlock_completed(struct kz_rpc_stream *stream, bool wake)
{
    stream->under_way--;
    if (wake || stream->closing)
        pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

static void on_begin(struct kz_rpc_op *op, bool success)
{
    struct kz_rpc_stream *stream = STREAM_OF(op, begin_op);

    (void)success; /* the status says it */
    pthread_mutex_lock(&stream->lock);
    unlock_completed(stream, false);
}

static void on_half_close(struct kz_rpc_op *op, bool success)
{
    struct kz_rpc_stream *stream = STREAM_OF(op, half_close_op);

    (void)success; /* as above */
    pthread_mutex_lock(&stream->lock);
    unlock_completed(stream, false);
}

static void on_read(struct kz_rpc_op *op, bool success)
{
    struct kz_rpc_stream *stream = STREAM_OF(op, read_op);

    pthread_mutex_lock(&stream->lock);
    KZ_BUG_ON(!stream->reading);
    if (!success && stream->incoming)
        stream->channel->rpc->grpc->grpc_byte_buffer_destroy(kz_take(&stream->incoming));
    stream->reading = false;
    stream->has_read = true;
    unlock_completed(stream, stream->incoming || stream->ended);
}

static void on_write(struct kz_rpc_op *op, bool success)
{
    struct kz_rpc_stream *stream = STREAM_OF(op, write_op);

    pthread_mutex_lock(&stream->lock);
    KZ_BUG_ON(!stream->writing);
    stream->channel->rpc->grpc->grpc_byte_buffer_destroy(kz_take(&stream->outgoing));
    stream->writing = false;
    stream->write_ok = success;
    unlock_completed(stream, true);
}

static void on_end(struct kz_rpc_op *op, bool success)
{
    struct kz_rpc_stream *stream = STREAM_OF(op, end_op);

    (void)success; /* always */
    pthread_mutex_lock(&stream->lock);
    stream->ended = true;
    unlock_completed(stream, stream->has_read);
}

/* ---- life ------------------------------------------------------------------------------------ */

/* Under the lock. */
static void start(struct kz_rpc_stream *stream, const grpc_op *ops, size_t count,
        struct kz_rpc_op *op, kz_rpc_op_done *done)
{
    stream->under_way++;
    kz_rpc_op_start(stream->channel->rpc->grpc, stream->call, ops, count, op, done);
}

static void init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;

    KZ_BUG_ON(pthread_condattr_init(&attributes) != 0);
    KZ_BUG_ON(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) != 0);
    KZ_BUG_ON(pthread_cond_init(condition, &attributes) != 0);
    pthread_condattr_destroy(&attributes);
}

static struct kz_rpc_stream *new_stream(struct kz_rpc_channel *channel,
        const struct kz_rpc_options *options, const ProtobufCMessageDescriptor *answer_type)
{
    struct kz_rpc *rpc = channel->rpc;
    struct kz_rpc_stream *stream = kz_calloc(1, sizeof(*stream));

    KZ_BUG_ON(options->method[0] != '/');
    stream->channel = channel;
    stream->method = options->method;
    stream->answer_type = answer_type;
    KZ_BUG_ON(pthread_mutex_init(&stream->lock, NULL) != 0);
    init_condition(&stream->changed);
    kz_rpc_head_init(&stream->head, rpc->grpc, options);
    kz_rpc_end_init(&stream->end, rpc->grpc);
    rpc->grpc->grpc_metadata_array_init(&stream->initial);
    stream->call = kz_rpc_new_call(rpc, &stream->head, kz_rpc_channel_pick(channel),
            options->timeout_ms ? kz_mono_ms() + options->timeout_ms : INT64_MAX);
    stream->has_deadline = options->timeout_ms != 0;
    atomic_fetch_add(&channel->streams, 1);
    atomic_fetch_add(&rpc->streams_open, 1);
    atomic_fetch_add_explicit(&rpc->calls, 1, memory_order_relaxed);
    return stream;
}

/* With the request, if there is one, and then nothing more to write. */
static void begin(struct kz_rpc_stream *stream)
{
    grpc_op ops[4] = {kz_rpc_send_head(&stream->head),
            {.op = GRPC_OP_RECV_INITIAL_METADATA,
                    .data.recv_initial_metadata.recv_initial_metadata = &stream->initial}};
    const grpc_op end = kz_rpc_receive_end(&stream->end);
    size_t count = 2;

    if (stream->request) {
        ops[count++] = (grpc_op){
                .op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = stream->request};
        ops[count++] = (grpc_op){.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
    }
    pthread_mutex_lock(&stream->lock);
    stream->half_closed = stream->request != NULL;
    start(stream, ops, count, &stream->begin_op, on_begin);
    start(stream, &end, 1, &stream->end_op, on_end);
    pthread_mutex_unlock(&stream->lock);
}

static enum kz_code check_open(
        const struct kz_rpc_channel *channel, const char *method, struct kz_err *err)
{
    if (!atomic_load(&channel->closing))
        return KZ_OK;
    return kz_fail(err, KZ_UNAVAILABLE, "%s at %s: the channel is being closed", method + 1,
            channel->endpoint);
}

enum kz_code kz_rpc_stream(struct kz_rpc_channel *channel, const struct kz_rpc_options *options,
        const ProtobufCMessageDescriptor *answer_type, struct kz_rpc_stream **ret_stream,
        struct kz_err *err)
{
    KZ_TRY(check_open(channel, options->method, err));
    *ret_stream = new_stream(channel, options, answer_type);
    begin(*ret_stream);
    return KZ_OK;
}

enum kz_code kz_rpc_stream_request(struct kz_rpc_channel *channel,
        const struct kz_rpc_options *options, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *answer_type, struct kz_rpc_stream **ret_stream,
        struct kz_err *err)
{
    struct kz_rpc *rpc = channel->rpc;
    struct kz_rpc_stream *stream;
    grpc_slice slice;

    KZ_TRY(check_open(channel, options->method, err));
    stream = new_stream(channel, options, answer_type);
    slice = kz_rpc_encode(rpc->grpc, request);
    stream->request = rpc->grpc->grpc_raw_byte_buffer_create(&slice, 1);
    atomic_fetch_add_explicit(&rpc->bytes_sent, GRPC_SLICE_LENGTH(slice), memory_order_relaxed);
    rpc->grpc->grpc_slice_unref(slice);
    begin(stream);
    *ret_stream = stream;
    return KZ_OK;
}

void kz_rpc_stream_cancel(struct kz_rpc_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    stream->cancelled = true;
    pthread_mutex_unlock(&stream->lock);
    stream->channel->rpc->grpc->grpc_call_cancel(stream->call, NULL);
}

void kz_rpc_stream_half_close(struct kz_rpc_stream *stream)
{
    const grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};

    pthread_mutex_lock(&stream->lock);
    if (!stream->half_closed) {
        stream->half_closed = true;
        start(stream, &op, 1, &stream->half_close_op, on_half_close);
    }
    pthread_mutex_unlock(&stream->lock);
}

/* Tells the peer that no more is written and drops what it still sends until it ends the stream. */
static void end_in_order(struct kz_rpc_stream *stream)
{
    const int64_t until_ms = kz_mono_ms() + CLOSE_GRACE_MS;
    enum kz_code rc = KZ_OK;

    kz_rpc_stream_half_close(stream);
    while (rc == KZ_OK) {
        ProtobufCMessage *message = NULL;

        rc = kz_rpc_stream_next(
                stream, KZ_MAX(until_ms - kz_mono_ms(), (int64_t)0), &message, NULL);
        protobuf_c_message_free_unpacked(message, NULL);
    }
}

void kz_rpc_stream_close(struct kz_rpc_stream *stream)
{
    struct kz_rpc *rpc;
    bool in_order;

    if (!stream)
        return;
    rpc = stream->channel->rpc;
    pthread_mutex_lock(&stream->lock);
    in_order = !stream->ended && !stream->half_closed && !stream->cancelled;
    pthread_mutex_unlock(&stream->lock);
    if (in_order)
        end_in_order(stream);
    rpc->grpc->grpc_call_cancel(stream->call, NULL); /* nothing where it has ended */
    pthread_mutex_lock(&stream->lock);
    stream->closing = true;
    while (stream->under_way)
        pthread_cond_wait(&stream->changed, &stream->lock);
    pthread_mutex_unlock(&stream->lock);

    if (stream->incoming)
        rpc->grpc->grpc_byte_buffer_destroy(stream->incoming);
    if (stream->request)
        rpc->grpc->grpc_byte_buffer_destroy(stream->request);
    kz_rpc_end_done(&stream->end, rpc->grpc);
    rpc->grpc->grpc_metadata_array_destroy(&stream->initial);
    kz_rpc_head_done(&stream->head, rpc->grpc);
    rpc->grpc->grpc_call_unref(stream->call);
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    atomic_fetch_sub(&rpc->streams_open, 1);
    atomic_fetch_sub(&stream->channel->streams, 1);
    free(stream);
}

/* ---- messages -------------------------------------------------------------------------------- */

enum kz_code kz_rpc_stream_write(
        struct kz_rpc_stream *stream, const ProtobufCMessage *message, struct kz_err *err)
{
    struct kz_rpc *rpc = stream->channel->rpc;
    grpc_slice slice = kz_rpc_encode(rpc->grpc, message);
    const size_t size = GRPC_SLICE_LENGTH(slice);
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    bool ok = false;

    pthread_mutex_lock(&stream->lock);
    KZ_BUG_ON(stream->writing);
    if (!stream->half_closed && !stream->ended) {
        stream->outgoing = rpc->grpc->grpc_raw_byte_buffer_create(&slice, 1);
        op.data.send_message.send_message = stream->outgoing;
        stream->writing = true;
        start(stream, &op, 1, &stream->write_op, on_write);
        while (stream->writing)
            pthread_cond_wait(&stream->changed, &stream->lock);
        ok = stream->write_ok;
    }
    pthread_mutex_unlock(&stream->lock);
    rpc->grpc->grpc_slice_unref(slice);
    if (!ok)
        return kz_fail(err, KZ_END, "%s at %s: the stream has ended", stream->method + 1,
                stream->channel->endpoint);
    atomic_fetch_add_explicit(&rpc->bytes_sent, size, memory_order_relaxed);
    return KZ_OK;
}

/* Under the lock; false: `until_ms` has come (monotonic; INT64_MAX: never). */
static bool wait_until(struct kz_rpc_stream *stream, int64_t until_ms)
{
    const struct timespec until = {until_ms / 1000, until_ms % 1000 * 1000000};

    if (until_ms == INT64_MAX)
        return pthread_cond_wait(&stream->changed, &stream->lock) == 0;
    return pthread_cond_timedwait(&stream->changed, &stream->lock, &until) != ETIMEDOUT;
}

/* KZ_OK with a message; KZ_END: the call is over, `stream->end` says how; KZ_TIMEOUT. */
static enum kz_code take(
        struct kz_rpc_stream *stream, int64_t until_ms, grpc_byte_buffer **ret_bytes)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &stream->incoming};
    enum kz_code rc = KZ_TIMEOUT;

    pthread_mutex_lock(&stream->lock);
    /* After the end there may still be messages: only a read without one says that it is over. */
    if (!stream->reading && !stream->has_read) {
        stream->reading = true;
        start(stream, &op, 1, &stream->read_op, on_read);
    }
    for (;;) {
        if (stream->has_read && stream->incoming) {
            *ret_bytes = kz_take(&stream->incoming);
            stream->has_read = false;
            rc = KZ_OK;
            break;
        }
        if (stream->has_read && stream->ended) {
            rc = KZ_END;
            break;
        }
        if (!wait_until(stream, until_ms))
            break;
    }
    pthread_mutex_unlock(&stream->lock);
    return rc;
}

static enum kz_code take_answer(
        struct kz_rpc_stream *stream, int64_t until_ms, grpc_byte_buffer **ret_bytes)
{
    struct kz_rpc_channel *channel = stream->channel;
    enum kz_code rc;

    if (!stream->has_deadline)
        return take(stream, until_ms, ret_bytes);
    pthread_mutex_lock(&channel->lock);
    kz_rpc_await(channel);
    pthread_mutex_unlock(&channel->lock);
    rc = take(stream, until_ms, ret_bytes);
    pthread_mutex_lock(&channel->lock);
    kz_rpc_awaited(channel, rc == KZ_OK    ? GRPC_STATUS_OK
                            : rc == KZ_END ? stream->end.status
                                           : GRPC_STATUS_DEADLINE_EXCEEDED);
    pthread_mutex_unlock(&channel->lock);
    return rc;
}

enum kz_code kz_rpc_stream_next(struct kz_rpc_stream *stream, int64_t wait_ms,
        ProtobufCMessage **ret_message, struct kz_err *err)
{
    struct kz_rpc *rpc = stream->channel->rpc;
    grpc_byte_buffer *bytes;
    enum kz_code rc = take_answer(stream, wait_ms < 0 ? INT64_MAX : kz_mono_ms() + wait_ms, &bytes);

    if (rc == KZ_TIMEOUT) {
        kz_rpc_remember(GRPC_STATUS_UNKNOWN, 0);
        return kz_fail(err, rc, "%s at %s: no message within %lld ms", stream->method + 1,
                stream->channel->endpoint, (long long)wait_ms);
    }
    if (rc == KZ_END) {
        if (stream->end.status == GRPC_STATUS_OK)
            return kz_fail(err, KZ_END, "%s at %s: the server has ended the stream",
                    stream->method + 1, stream->channel->endpoint);
        if (!stream->failed) {
            stream->failed = true;
            atomic_fetch_add_explicit(&rpc->failures, 1, memory_order_relaxed);
        }
        return kz_rpc_failed(stream->channel, stream->method, &stream->end, err);
    }
    rc = kz_rpc_decode(rpc, bytes, stream->answer_type, ret_message, err);
    rpc->grpc->grpc_byte_buffer_destroy(bytes);
    if (rc != KZ_OK) {
        kz_rpc_remember(GRPC_STATUS_UNKNOWN, 0);
        if (err)
            kz_wrap(err, "%s at %s", stream->method + 1, stream->channel->endpoint);
    }
    return rc;
}
