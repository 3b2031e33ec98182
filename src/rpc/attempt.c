/* What one call of gRPC is made of: its head, its end, and messages as bytes. */
#include "rpc/rpc_int.h"

static void put_metadata(
        struct kz_rpc_head *head, const struct kz_grpc *grpc, const char *key, const char *value)
{
    grpc_metadata *metadata = &head->metadata[head->metadata_count];
    grpc_slice slice;

    if (!value || !value[0])
        return;
    slice = grpc->grpc_slice_from_copied_buffer(value, strlen(value));
    if (!grpc->grpc_header_nonbin_value_is_legal(slice)) {
        grpc->grpc_slice_unref(slice);
        head->has_bad_metadata = true;
        return;
    }
    metadata->key = grpc->grpc_slice_from_copied_buffer(key, strlen(key));
    metadata->value = slice;
    head->metadata_count++;
}

void kz_rpc_head_init(
        struct kz_rpc_head *head, const struct kz_grpc *grpc, const struct kz_rpc_options *options)
{
    *head = (struct kz_rpc_head){
            .method = grpc->grpc_slice_from_copied_buffer(options->method, strlen(options->method)),
            .flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET |
                     (options->wait_for_ready ? GRPC_INITIAL_METADATA_WAIT_FOR_READY : 0),
    };
    put_metadata(head, grpc, "x-goog-request-params", options->routing);
    put_metadata(head, grpc, "google-cloud-resource-prefix", options->resource);
}

void kz_rpc_head_done(struct kz_rpc_head *head, const struct kz_grpc *grpc)
{
    grpc->grpc_slice_unref(head->method);
    for (size_t i = 0; i < head->metadata_count; i++) {
        grpc->grpc_slice_unref(head->metadata[i].key);
        grpc->grpc_slice_unref(head->metadata[i].value);
    }
}

grpc_call *kz_rpc_new_call(const struct kz_rpc *rpc, const struct kz_rpc_head *head,
        grpc_channel *connection, int64_t deadline_ms)
{
    const gpr_timespec deadline = {
            .tv_sec = deadline_ms == INT64_MAX ? INT64_MAX : deadline_ms / 1000,
            .tv_nsec = deadline_ms == INT64_MAX ? 0 : (int32_t)(deadline_ms % 1000) * 1000000,
            .clock_type = GPR_CLOCK_MONOTONIC,
    };
    grpc_call *call = rpc->grpc->grpc_channel_create_call(
            connection, NULL, 0, rpc->queue, head->method, NULL, deadline, NULL);

    if (head->has_bad_metadata)
        rpc->grpc->grpc_call_cancel_with_status(call, GRPC_STATUS_INVALID_ARGUMENT,
                "the name of the resource has characters that cannot be sent", NULL);
    return call;
}

grpc_op kz_rpc_send_head(const struct kz_rpc_head *head)
{
    return (grpc_op){
            .op = GRPC_OP_SEND_INITIAL_METADATA,
            .flags = head->flags,
            .data.send_initial_metadata = {.count = head->metadata_count,
                    .metadata = (grpc_metadata *)head->metadata},
    };
}

void kz_rpc_end_init(struct kz_rpc_end *end, const struct kz_grpc *grpc)
{
    *end = (struct kz_rpc_end){.status = GRPC_STATUS_UNKNOWN};
    grpc->grpc_metadata_array_init(&end->trailing);
}

void kz_rpc_end_done(struct kz_rpc_end *end, const struct kz_grpc *grpc)
{
    grpc->grpc_metadata_array_destroy(&end->trailing);
    grpc->grpc_slice_unref(end->details);
}

grpc_op kz_rpc_receive_end(struct kz_rpc_end *end)
{
    return (grpc_op){
            .op = GRPC_OP_RECV_STATUS_ON_CLIENT,
            .data.recv_status_on_client = {.trailing_metadata = &end->trailing,
                    .status = &end->status,
                    .status_details = &end->details},
    };
}

grpc_slice kz_rpc_encode(const struct kz_grpc *grpc, const ProtobufCMessage *message)
{
    grpc_slice slice = grpc->grpc_slice_malloc(protobuf_c_message_get_packed_size(message));

    protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    return slice;
}

/* All of it as one slice; that of most answers is one already. */
static grpc_slice join(const struct kz_grpc *grpc, grpc_byte_buffer *bytes, size_t size)
{
    grpc_byte_buffer_reader reader;
    grpc_slice slice;

    KZ_BUG_ON(!grpc->grpc_byte_buffer_reader_init(&reader, bytes));
    if (bytes->data.raw.slice_buffer.count == 1 &&
            grpc->grpc_byte_buffer_reader_next(&reader, &slice)) {
        KZ_BUG_ON(GRPC_SLICE_LENGTH(slice) != size);
    } else {
        slice = grpc->grpc_byte_buffer_reader_readall(&reader);
    }
    grpc->grpc_byte_buffer_reader_destroy(&reader);
    return slice;
}

enum kz_code kz_rpc_decode(struct kz_rpc *rpc, grpc_byte_buffer *bytes,
        const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret_message, struct kz_err *err)
{
    const size_t size = rpc->grpc->grpc_byte_buffer_length(bytes);
    grpc_slice slice = join(rpc->grpc, bytes, size);
    ProtobufCMessage *message = protobuf_c_message_unpack(
            type, NULL, size, GRPC_SLICE_START_PTR(slice));

    rpc->grpc->grpc_slice_unref(slice);
    atomic_fetch_add_explicit(&rpc->bytes_received, size, memory_order_relaxed);
    if (!message)
        return kz_fail(err, KZ_CORRUPT, "an answer of %zu bytes is no valid %s", size, type->name);
    *ret_message = message;
    return KZ_OK;
}
