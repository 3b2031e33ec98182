/* rpc/rpc_int.h -- what the files of this folder share: the loaded library, the completion thread,
 * and what comes out of one attempt of a call.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>

#include "rpc/rpc.h"
#include "rpc/silence.h"
#include "sys/thread.h"

/* ---- the library (library.c) ----------------------------------------------------------------- */

/* X(function): all that is called of it. */
#define KZ_GRPC_FUNCTIONS(X)                                                                       \
    X(gpr_free)                                                                                    \
    X(gpr_set_log_function)                                                                        \
    X(grpc_byte_buffer_destroy)                                                                    \
    X(grpc_byte_buffer_length)                                                                     \
    X(grpc_byte_buffer_reader_destroy)                                                             \
    X(grpc_byte_buffer_reader_init)                                                                \
    X(grpc_byte_buffer_reader_next)                                                                \
    X(grpc_byte_buffer_reader_readall)                                                             \
    X(grpc_call_cancel)                                                                            \
    X(grpc_call_cancel_with_status)                                                                \
    X(grpc_call_start_batch)                                                                       \
    X(grpc_call_unref)                                                                             \
    X(grpc_channel_check_connectivity_state)                                                       \
    X(grpc_channel_create)                                                                         \
    X(grpc_channel_create_call)                                                                    \
    X(grpc_channel_credentials_release)                                                            \
    X(grpc_channel_destroy)                                                                        \
    X(grpc_completion_queue_create_for_next)                                                       \
    X(grpc_completion_queue_destroy)                                                               \
    X(grpc_completion_queue_next)                                                                  \
    X(grpc_completion_queue_shutdown)                                                              \
    X(grpc_google_default_credentials_create)                                                      \
    X(grpc_header_nonbin_value_is_legal)                                                           \
    X(grpc_init)                                                                                   \
    X(grpc_insecure_credentials_create)                                                            \
    X(grpc_metadata_array_destroy)                                                                 \
    X(grpc_metadata_array_init)                                                                    \
    X(grpc_raw_byte_buffer_create)                                                                 \
    X(grpc_shutdown_blocking)                                                                      \
    X(grpc_slice_from_copied_buffer)                                                               \
    X(grpc_slice_malloc)                                                                           \
    X(grpc_slice_ref)                                                                              \
    X(grpc_slice_unref)                                                                            \
    X(grpc_version_string)

struct kz_grpc {
#define X(function) __typeof__(function) *function;
    KZ_GRPC_FUNCTIONS(X)
#undef X
};

/* Loads it once for the life of the process. KZ_UNSUPPORTED: it is not there. */
KZ_MUST_USE enum kz_code kz_grpc_load(const struct kz_grpc **ret_grpc, struct kz_err *err);

/* ---- the completion thread (rpc.c) ----------------------------------------------------------- */

struct kz_rpc_op;
/* A batch of operations under way; its address is gRPC's tag. What kz_rpc_op_start() is given runs
 * on the completion thread, under no lock of ours, and sees all that was written before. */
typedef void kz_rpc_op_done(struct kz_rpc_op *op, bool success);
struct kz_rpc_op {
    _Atomic(kz_rpc_op_done *) done;
};
void kz_rpc_op_start(const struct kz_grpc *grpc, grpc_call *call, const grpc_op *ops, size_t count,
        struct kz_rpc_op *op, kz_rpc_op_done *done);

struct kz_rpc_call; /* call.c */

struct kz_rpc {
    const struct kz_grpc *grpc;
    grpc_completion_queue *queue;
    struct kz_thread thread;
    /* Calls that wait for their next attempt. Of the completion thread only. */
    struct kz_rpc_call *waiting;

    pthread_mutex_t lock; /* of what follows */
    grpc_channel_credentials *google;

    atomic_uint channel_count;
    _Atomic uint64_t calls, failures, retries, bytes_sent, bytes_received, streams_open;
};

/* Starts those whose time has come; when the next one's does (monotonic), INT64_MAX: none. */
int64_t kz_rpc_start_waiting(struct kz_rpc *rpc);

/* ---- channels (channel.c) -------------------------------------------------------------------- */

/* C1  A call is in `calls` from its start until it is freed, so the channel is there as long as any
 *     call is. C2  Once `closing`, no call waits for another attempt and each is cancelled. */
struct kz_rpc_channel {
    struct kz_rpc *rpc;
    char *endpoint;
    bool is_emulator;
    unsigned connection_count;
    grpc_channel **connections;
    atomic_uint turn;
    atomic_uint streams;

    atomic_bool closing;
    pthread_mutex_t lock; /* of what follows, and of each call's grpc_call */
    pthread_cond_t empty;
    struct kz_rpc_call *calls;
    struct kz_rpc_silence silence;
};
/* An answer is waited for; it is no more, `status` being what has come of it. Under the lock. */
void kz_rpc_await(struct kz_rpc_channel *channel);
void kz_rpc_awaited(struct kz_rpc_channel *channel, grpc_status_code status);
/* Cancels the calls under way and waits until they are over (call.c). */
void kz_rpc_calls_close(struct kz_rpc_channel *channel);

/* The connection whose turn it is. */
grpc_channel *kz_rpc_channel_pick(struct kz_rpc_channel *channel);
grpc_connectivity_state kz_rpc_state(const struct kz_rpc *rpc, grpc_channel *connection);

/* ---- one attempt of a call (attempt.c) ------------------------------------------------------- */

enum { KZ_RPC_METADATA_MAX = 2 };

/* What does not change from attempt to attempt. Slices are owned. */
struct kz_rpc_head {
    grpc_slice method;
    grpc_metadata metadata[KZ_RPC_METADATA_MAX];
    size_t metadata_count;
    bool has_bad_metadata; /* it cannot be sent: the call is to fail with INVALID_ARGUMENT */
    uint32_t flags;        /* of GRPC_OP_SEND_INITIAL_METADATA */
};
void kz_rpc_head_init(
        struct kz_rpc_head *head, const struct kz_grpc *grpc, const struct kz_rpc_options *options);
void kz_rpc_head_done(struct kz_rpc_head *head, const struct kz_grpc *grpc);
/* A call of gRPC on `connection`; `deadline_ms` is monotonic, INT64_MAX: none. */
grpc_call *kz_rpc_new_call(const struct kz_rpc *rpc, const struct kz_rpc_head *head,
        grpc_channel *connection, int64_t deadline_ms);
grpc_op kz_rpc_send_head(const struct kz_rpc_head *head);

/* What a call of gRPC ended with. */
struct kz_rpc_end {
    grpc_metadata_array trailing;
    grpc_status_code status;
    grpc_slice details;
};
void kz_rpc_end_init(struct kz_rpc_end *end, const struct kz_grpc *grpc);
void kz_rpc_end_done(struct kz_rpc_end *end, const struct kz_grpc *grpc);
grpc_op kz_rpc_receive_end(struct kz_rpc_end *end);

/* The message as one slice, to be unref'd. */
grpc_slice kz_rpc_encode(const struct kz_grpc *grpc, const ProtobufCMessage *message);
/* `bytes` is borrowed. */
KZ_MUST_USE enum kz_code kz_rpc_decode(struct kz_rpc *rpc, grpc_byte_buffer *bytes,
        const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret_message, struct kz_err *err);

/* ---- how a call failed (status.c) ------------------------------------------------------------ */

/* RetryInfo in the trailing metadata, in ms; 0 none. */
int64_t kz_rpc_retry_info_ms(const grpc_metadata_array *trailing);
/* The same in a serialized google.rpc.Status, which comes from the server: any bytes. */
int64_t kz_rpc_parse_retry_info_ms(struct kz_str status_details);
/* Whether a message was over a limit, ours or the server's: gRPC has no status of its own for it,
 * and RESOURCE_EXHAUSTED would be tried again. */
bool kz_rpc_is_too_large(const struct kz_rpc_end *end);
/* What kz_rpc_status() and kz_rpc_retry_ms() say on this thread. */
void kz_rpc_remember(grpc_status_code status, int64_t retry_ms);
/* Remembers, describes; never KZ_OK. */
enum kz_code kz_rpc_failed(const struct kz_rpc_channel *channel, const char *method,
        const struct kz_rpc_end *end, struct kz_err *err);

/* How long to wait before attempt number `attempt` + 1, jittered; -1: this is not tried again. */
int64_t kz_rpc_try_again_ms(
        grpc_status_code status, bool idempotent, unsigned attempt, int64_t retry_info_ms);
