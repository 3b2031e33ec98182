/* The library's life, and the thread on which what was started comes to its end. */
#include "rpc/rpc.h"

#include <stdlib.h>

#include "rpc/rpc_int.h"
#include "sys/clock.h"

/* How long the thread sleeps at most while calls wait for another attempt: a channel that is being
 * closed has no other way to tell it. */
enum { WAITING_SLEEP_MS = 50 };

/* The release pairs with run()'s acquire: gRPC hands the tag from thread to thread in its own ways,
 * on which we need not rely. */
void kz_rpc_op_start(const struct kz_grpc *grpc, grpc_call *call, const grpc_op *ops, size_t count,
        struct kz_rpc_op *op, kz_rpc_op_done *done)
{
    atomic_store_explicit(&op->done, done, memory_order_release);
    KZ_BUG_ON(grpc->grpc_call_start_batch(call, ops, count, op, NULL) != GRPC_CALL_OK);
}

static gpr_timespec wake_at(int64_t next_ms)
{
    int64_t at_ms = KZ_MIN(next_ms, kz_mono_ms() + WAITING_SLEEP_MS);

    if (next_ms == INT64_MAX)
        return (gpr_timespec){.tv_sec = INT64_MAX, .clock_type = GPR_CLOCK_MONOTONIC};
    return (gpr_timespec){.tv_sec = at_ms / 1000,
            .tv_nsec = (int32_t)(at_ms % 1000) * 1000000,
            .clock_type = GPR_CLOCK_MONOTONIC};
}

static void run(void *arg)
{
    struct kz_rpc *rpc = arg;

    for (;;) {
        int64_t next_ms = kz_rpc_start_waiting(rpc);
        grpc_event event = rpc->grpc->grpc_completion_queue_next(
                rpc->queue, wake_at(next_ms), NULL);

        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return;
        if (event.type == GRPC_OP_COMPLETE) {
            struct kz_rpc_op *op = event.tag;

            atomic_load_explicit(&op->done, memory_order_acquire)(op, event.success);
        }
    }
}

enum kz_code kz_rpc_open(struct kz_rpc **ret_rpc, struct kz_err *err)
{
    const struct kz_grpc *grpc;
    struct kz_rpc *rpc;
    enum kz_code rc;

    KZ_TRY(kz_grpc_load(&grpc, err));
    grpc->grpc_init();
    rpc = kz_calloc(1, sizeof(*rpc));
    rpc->grpc = grpc;
    rpc->queue = grpc->grpc_completion_queue_create_for_next(NULL);
    KZ_BUG_ON(pthread_mutex_init(&rpc->lock, NULL) != 0);
    rc = kz_thread_start(&rpc->thread, "kz-rpc", run, rpc, err);
    if (rc != KZ_OK) {
        kz_rpc_close(rpc);
        return rc;
    }
    *ret_rpc = rpc;
    return KZ_OK;
}

void kz_rpc_close(struct kz_rpc *rpc)
{
    const struct kz_grpc *grpc;

    if (!rpc)
        return;
    KZ_BUG_ON(atomic_load(&rpc->channel_count) != 0);
    grpc = rpc->grpc;
    grpc->grpc_completion_queue_shutdown(rpc->queue);
    if (!rpc->thread.started) /* nobody else takes the end off the queue */
        run(rpc);
    kz_thread_join(&rpc->thread);
    grpc->grpc_completion_queue_destroy(rpc->queue);
    if (rpc->google)
        grpc->grpc_channel_credentials_release(rpc->google);
    pthread_mutex_destroy(&rpc->lock);
    free(rpc);
    grpc->grpc_shutdown_blocking();
}

void kz_rpc_stats(struct kz_rpc *rpc, struct kz_rpc_stats *ret_stats)
{
    *ret_stats = (struct kz_rpc_stats){
            .calls = atomic_load(&rpc->calls),
            .failures = atomic_load(&rpc->failures),
            .retries = atomic_load(&rpc->retries),
            .bytes_sent = atomic_load(&rpc->bytes_sent),
            .bytes_received = atomic_load(&rpc->bytes_received),
            .streams_open = atomic_load(&rpc->streams_open),
    };
}
