/* rpc/rpc.h -- calls to services in the cloud: gRPC and protobuf behind one call type.
 *
 * The gRPC library is loaded by the first kz_rpc_open() and not linked: a process that needs no
 * cloud pays nothing for it. No gRPC type leaves this folder.
 *
 *     kz_rpc_open -> kz_rpc_connect -> kz_rpc_call                 one request, one answer
 *                                   -> kz_rpc_start                the same, answered by a callback
 *                                   -> kz_rpc_stream -> write*, next* -> kz_rpc_stream_close
 *
 * Threads  any, each stream's next() one at a time and its write() one at a time. Callbacks come on
 *          the completion thread of the kz_rpc and must not block, nor close anything of this file.
 * Life     streams, then channels, then the kz_rpc. A fork() behind kz_rpc_open() must exec.
 * Fails    with the code that stands for the server's status (the table in rpc/status.c): ABORTED,
 *          ALREADY_EXISTS and FAILED_PRECONDITION are all KZ_CONFLICT, told apart by
 *          kz_rpc_status(); CANCELLED is KZ_UNAVAILABLE, INTERNAL and UNKNOWN are KZ_IO. The
 * message names the method and the endpoint. KZ_TOO_LARGE: a message is over a limit. KZ_CORRUPT:
 *          what came is not of the expected type.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "base/buf.h"
#include "base/err.h"

struct kz_rpc;
struct kz_rpc_channel;
struct kz_rpc_stream;

/* gRPC's status codes (grpc.io, "status codes"), where a caller must tell more than kz_code does.
 */
enum kz_rpc_status {
    KZ_RPC_OK = 0,
    KZ_RPC_CANCELLED = 1,
    KZ_RPC_UNKNOWN = 2,
    KZ_RPC_INVALID_ARGUMENT = 3,
    KZ_RPC_DEADLINE_EXCEEDED = 4,
    KZ_RPC_NOT_FOUND = 5,
    KZ_RPC_ALREADY_EXISTS = 6,
    KZ_RPC_PERMISSION_DENIED = 7,
    KZ_RPC_RESOURCE_EXHAUSTED = 8,
    KZ_RPC_FAILED_PRECONDITION = 9,
    KZ_RPC_ABORTED = 10,
    KZ_RPC_OUT_OF_RANGE = 11,
    KZ_RPC_UNIMPLEMENTED = 12,
    KZ_RPC_INTERNAL = 13,
    KZ_RPC_UNAVAILABLE = 14,
    KZ_RPC_DATA_LOSS = 15,
    KZ_RPC_UNAUTHENTICATED = 16,
};

/* KZ_UNSUPPORTED with the package to install where the library is not there. */
KZ_MUST_USE enum kz_code kz_rpc_open(struct kz_rpc **ret_rpc, struct kz_err *err);
void kz_rpc_close(struct kz_rpc *rpc);
KZ_DEFINE_FREEP(struct kz_rpc, kz_rpc_close)

struct kz_rpc_target {
    const char *endpoint;      /* "pubsub.googleapis.com:443": TLS, application default credentials
                                * (GOOGLE_APPLICATION_CREDENTIALS, gcloud's, the metadata server) */
    const char *emulator;      /* "localhost:8085": plain text, no credentials; NULL or "": none */
    unsigned connection_count; /* calls are spread over that many connections; 0: 1 */
    size_t receive_max_bytes;  /* of a message; 0: 64 MiB */
};
/* Does not wait for the connection: it is made by the first call, and again whenever it is lost.
 * Without an emulator it may ask the metadata server for credentials (KZ_UNAUTHENTICATED: there are
 * none to be had). The strings are copied. */
KZ_MUST_USE enum kz_code kz_rpc_connect(struct kz_rpc *rpc, const struct kz_rpc_target *target,
        struct kz_rpc_channel **ret_channel, struct kz_err *err);
/* Cancels calls that are under way (their callers get KZ_UNAVAILABLE) and waits for their
 * callbacks. There must be no stream left. */
void kz_rpc_channel_close(struct kz_rpc_channel *channel);
KZ_DEFINE_FREEP(struct kz_rpc_channel, kz_rpc_channel_close)

struct kz_rpc_options {
    const char *method;   /* "/google.pubsub.v1.Publisher/Publish"; static */
    int64_t timeout_ms;   /* of the whole call, retries included; 0: 30 s; streams: 0 none */
    bool idempotent;      /* may be sent again after an error that leaves open whether it ran:
                           * UNAVAILABLE, the server's DEADLINE_EXCEEDED, INTERNAL (3 times) */
    bool once;            /* nothing is tried again: the caller does, who is to know of it */
    bool wait_for_ready;  /* background work: waits for a connection until the deadline; else
                           * fails at once where none can be made */
    const char *routing;  /* x-goog-request-params, "database=projects/p/..."; NULL none */
    const char *resource; /* google-cloud-resource-prefix; NULL none */
};

/* Blocks. RESOURCE_EXHAUSTED, which was refused before it ran, and what `idempotent` permits are
 * tried again with back-off and jitter, not before the server's RetryInfo, as long as the deadline
 * leaves time for the wait; what then remains is the last attempt's failure. The answer is freed
 * with protobuf_c_message_free_unpacked(). */
KZ_MUST_USE enum kz_code kz_rpc_call(struct kz_rpc_channel *channel,
        const struct kz_rpc_options *options, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *answer_type, ProtobufCMessage **ret_answer,
        struct kz_err *err);

/* As kz_rpc_call(), but returns at once (the request is encoded within the call). `done` comes
 * once, on the completion thread; `answer` is borrowed for the call and NULL on failure. */
typedef void kz_rpc_done(
        void *arg, enum kz_code code, const ProtobufCMessage *answer, const struct kz_err *err);
void kz_rpc_start(struct kz_rpc_channel *channel, const struct kz_rpc_options *options,
        const ProtobufCMessage *request, const ProtobufCMessageDescriptor *answer_type,
        kz_rpc_done *done, void *arg);

/* The server's status of the last failed call or next() of this thread; KZ_RPC_UNKNOWN where none
 * was had. */
enum kz_rpc_status kz_rpc_status(void);
/* The server's RetryInfo (google.rpc) of the same in ms; 0 none. */
int64_t kz_rpc_retry_ms(void);

/* ---- streams: server streaming and bidirectional --------------------------------------------- */

/* Starts one; it is never started again by itself. Fails only while the channel is being closed: a
 * failure to connect is next()'s. */
KZ_MUST_USE enum kz_code kz_rpc_stream(struct kz_rpc_channel *channel,
        const struct kz_rpc_options *options, const ProtobufCMessageDescriptor *answer_type,
        struct kz_rpc_stream **ret_stream, struct kz_err *err);
/* The same for many answers to one request: it is written, and the stream half-closed, without
 * waiting, which is much cheaper than one after the other. */
KZ_MUST_USE enum kz_code kz_rpc_stream_request(struct kz_rpc_channel *channel,
        const struct kz_rpc_options *options, const ProtobufCMessage *request,
        const ProtobufCMessageDescriptor *answer_type, struct kz_rpc_stream **ret_stream,
        struct kz_err *err);
/* Blocks until the transport has taken it (connecting, flow control); cancel() ends the wait.
 * KZ_END: the call has ended, next() says why. */
KZ_MUST_USE enum kz_code kz_rpc_stream_write(
        struct kz_rpc_stream *stream, const ProtobufCMessage *message, struct kz_err *err);
/* No more writes. */
void kz_rpc_stream_half_close(struct kz_rpc_stream *stream);
/* Blocks for the next message, at most `wait_ms` (-1: without end): KZ_TIMEOUT with kz_rpc_status()
 * KZ_RPC_UNKNOWN, and the stream goes on. KZ_END: the server ended it well. From then on it says
 * the same each time. A message is read from the network only when asked for. */
KZ_MUST_USE enum kz_code kz_rpc_stream_next(struct kz_rpc_stream *stream, int64_t wait_ms,
        ProtobufCMessage **ret_message, struct kz_err *err);
/* From any thread: next() and write() of others return soon. */
void kz_rpc_stream_cancel(struct kz_rpc_stream *stream);
/* Frees it when it has ended. One that is not half-closed yet is, and gets a second to end in order
 * (what still comes is dropped): a peer may take a cancellation for no end at all. One that is
 * half-closed or cancelled is cancelled. */
void kz_rpc_stream_close(struct kz_rpc_stream *stream);
KZ_DEFINE_FREEP(struct kz_rpc_stream, kz_rpc_stream_close)

/* How long an answer has been waited for, or was waited for in vain, since the server last gave one on
 * this channel: any status that is its own counts, UNAVAILABLE, UNKNOWN, INTERNAL and deadlines do not.
 * 0: nothing is waited for, and the last call was answered. Streams without a deadline do not count:
 * they may be silent. */
int64_t kz_rpc_silent_ms(struct kz_rpc_channel *channel);

struct kz_rpc_stats {
    uint64_t calls, failures, retries, bytes_sent, bytes_received, streams_open;
};
void kz_rpc_stats(struct kz_rpc *rpc, struct kz_rpc_stats *ret_stats);
