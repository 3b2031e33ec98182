/* Reads by key, and the keys. */
#include <stdlib.h>

#include "backends/spanner/spanner_int.h"
#include "sys/clock.h"

/* ---- keys -------------------------------------------------------------------------------- */

struct kz_sp_range {
    size_t from, until; /* of the lists */
};

void kz_sp_keys_done(struct kz_sp_keys *keys)
{
    kz_sp_lists_done(&keys->lists);
    kz_buf_done(&keys->ranges);
    free(keys->items);
    free(keys->list);
}

static void add_range(struct kz_sp_keys *keys, size_t lists)
{
    size_t count = kz_sp_count(&keys->lists);
    struct kz_sp_range range = {count - lists, count - 1};

    KZ_BUG_ON(count < lists);
    kz_buf_put(&keys->ranges, &range, sizeof(range));
}

void kz_sp_keys_range(struct kz_sp_keys *keys)
{
    add_range(keys, 2);
}

void kz_sp_keys_prefix(struct kz_sp_keys *keys)
{
    add_range(keys, 1); /* a bound that is a part of a key stands for all that begin with it */
}

KZ_SP(KeySet) * kz_sp_keys_set(struct kz_sp_keys *keys)
{
    const struct kz_sp_range *ranges = (const void *)keys->ranges.data;
    size_t count = keys->ranges.size / sizeof(*ranges);
    ProtobufCBinaryData *data = kz_sp_data(&keys->lists);

    google__spanner__v1__key_set__init(&keys->set);
    if (!count) {
        keys->set.keys = data;
        keys->set.n_keys = kz_sp_count(&keys->lists);
        return &keys->set;
    }
    keys->items = kz_realloc(keys->items, count * sizeof(*keys->items));
    keys->list = kz_realloc(keys->list, count * sizeof(*keys->list));
    for (size_t i = 0; i < count; i++) {
        KZ_SP(KeyRange) *item = &keys->items[i];

        google__spanner__v1__key_range__init(item);
        item->start_key_type_case = GOOGLE__SPANNER__V1__KEY_RANGE__START_KEY_TYPE_START_CLOSED;
        item->start_closed = data[ranges[i].from];
        item->end_key_type_case = GOOGLE__SPANNER__V1__KEY_RANGE__END_KEY_TYPE_END_CLOSED;
        item->end_closed = data[ranges[i].until];
        keys->list[i] = item;
    }
    keys->set.ranges = keys->list;
    keys->set.n_ranges = count;
    return &keys->set;
}

/* ---- one streaming read ------------------------------------------------------------------ */

struct reading {
    struct kz_sp *sp;
    struct kz_store_txn *txn;      /* NULL: by itself */
    struct kz_sp_session *session; /* of the transaction, or taken for this */
    const struct kz_sp_read *read;
    struct kz_sp_rows *rows;
    uint64_t messages;
    bool streams;
    bool stopped; /* by `each` */
};

static enum kz_code take_row(void *arg, const struct kz_sp_cell *cells, struct kz_err *err)
{
    struct reading *reading = arg;
    enum kz_code rc = reading->read->each(reading->read->arg, cells, err);

    reading->stopped = rc != KZ_OK;
    return rc;
}

static void take_transaction(struct reading *reading, const KZ_SP(ResultSetMetadata) * metadata)
{
    struct kz_store_txn *txn = reading->txn;

    if (txn && !txn->id.size && metadata && metadata->transaction)
        kz_buf_put(&txn->id, metadata->transaction->id.data, metadata->transaction->id.len);
}

static enum kz_code take_all(
        struct reading *reading, struct kz_rpc_stream *stream, int64_t wait_ms, struct kz_err *err)
{
    for (;;) {
        ProtobufCMessage *answer = NULL;
        const KZ_SP(PartialResultSet) * message;
        enum kz_code rc = kz_rpc_stream_next(stream, wait_ms, &answer, err);

        if (rc == KZ_END)
            return kz_sp_rows_end(reading->rows, err);
        KZ_TRY(rc);
        message = (const void *)answer;
        reading->messages++;
        take_transaction(reading, message->metadata);
        rc = kz_sp_rows_push(reading->rows, message, take_row, reading, err);
        protobuf_c_message_free_unpacked(answer, NULL);
        KZ_TRY(rc);
    }
}

static enum kz_code read_stream(struct reading *reading, const KZ_SP(ReadRequest) * request,
        int64_t wait_ms, struct kz_err *err)
{
    struct kz_sp *sp = reading->sp;
    KZ_AUTO(kz_rpc_stream_closep) struct kz_rpc_stream *stream = NULL;
    const struct kz_rpc_options options = {
            .method = "/google.spanner.v1.Spanner/StreamingRead",
            .idempotent = true,
            .routing = sp->routing,
            .resource = sp->database_name,
    };

    KZ_TRY(kz_rpc_stream_request(sp->data, &options, &request->base,
            &google__spanner__v1__partial_result_set__descriptor, &stream, err));
    return take_all(reading, stream, wait_ms, err);
}

static enum kz_code read_whole(struct reading *reading, const KZ_SP(ReadRequest) * request,
        int64_t wait_ms, struct kz_err *err)
{
    struct kz_sp *sp = reading->sp;
    const struct kz_rpc_options options = {
            .method = "/google.spanner.v1.Spanner/Read",
            .timeout_ms = wait_ms,
            .idempotent = true,
            .routing = sp->routing,
            .resource = sp->database_name,
    };
    const KZ_SP(ResultSet) * result;
    ProtobufCMessage *answer = NULL;
    enum kz_code rc;

    rc = kz_rpc_call(sp->data, &options, &request->base,
            &google__spanner__v1__result_set__descriptor, &answer, err);
    /* The service says so of more than 10 MiB. */
    if (rc == KZ_CONFLICT && kz_rpc_status() == KZ_RPC_FAILED_PRECONDITION) {
        reading->streams = true;
        return read_stream(reading, request, wait_ms, err);
    }
    KZ_TRY(rc);
    result = (const void *)answer;
    take_transaction(reading, result->metadata);
    rc = kz_sp_rows_take(reading->rows, result, take_row, reading, err);
    protobuf_c_message_free_unpacked(answer, NULL);
    return rc;
}

static enum kz_code read_once(struct reading *reading, int64_t wait_ms, struct kz_err *err)
{
    const struct kz_sp_read *read = reading->read;
    KZ_SP(ReadRequest) request = GOOGLE__SPANNER__V1__READ_REQUEST__INIT;
    KZ_SP(TransactionSelector) selector = GOOGLE__SPANNER__V1__TRANSACTION_SELECTOR__INIT;
    KZ_SP(TransactionOptions) mode = GOOGLE__SPANNER__V1__TRANSACTION_OPTIONS__INIT;
    KZ_SP(TransactionOptions__ReadWrite)
    read_write = GOOGLE__SPANNER__V1__TRANSACTION_OPTIONS__READ_WRITE__INIT;

    if (reading->txn) { /* without a selector: a strong read by itself */
        request.transaction = &selector;
        selector.selector_case = GOOGLE__SPANNER__V1__TRANSACTION_SELECTOR__SELECTOR_ID;
        selector.id = kz_sp_binary(kz_buf_view(&reading->txn->id));
        if (!selector.id.len) {
            mode.mode_case = GOOGLE__SPANNER__V1__TRANSACTION_OPTIONS__MODE_READ_WRITE;
            mode.read_write = &read_write;
            selector.selector_case = GOOGLE__SPANNER__V1__TRANSACTION_SELECTOR__SELECTOR_BEGIN;
            selector.begin = &mode;
        }
    }
    request.session = reading->session->name;
    request.table = (char *)(uintptr_t)read->table;
    request.index = (char *)(uintptr_t)(read->index ? read->index : "");
    request.columns = (char **)(uintptr_t)read->columns;
    request.n_columns = read->column_count;
    request.key_set = read->keys;
    request.limit = read->limit;
    if (!reading->streams)
        return read_whole(reading, &request, wait_ms, err);
    request.resume_token = kz_sp_binary(kz_sp_rows_token(reading->rows));
    return read_stream(reading, &request, wait_ms, err);
}

/* ---- until it is through ----------------------------------------------------------------- */

/* A session that is forgotten before anything was done in it is replaced by another. */
static enum kz_code replace_session(struct reading *reading, struct kz_err *err)
{
    struct kz_sp *sp = reading->sp;

    kz_sp_session_give(sp, kz_take(&reading->session), true);
    if (reading->txn)
        reading->txn->session = NULL;
    KZ_TRY(kz_sp_session_take(sp, &reading->session, err));
    if (reading->txn)
        reading->txn->session = reading->session;
    return KZ_OK;
}

/* Prepares the next try; a failure is that of the whole read. */
static enum kz_code try_again(struct reading *reading, enum kz_code rc, struct kz_err *err)
{
    bool lost = kz_sp_session_lost(rc, err), again;

    if (lost && reading->txn && reading->txn->id.size) {
        reading->txn->lost = reading->txn->over = true;
        return kz_fail(err, KZ_CONFLICT, "the service forgot the session of the transaction");
    }
    kz_sp_rows_resume(reading->rows, &again);
    if (again && !reading->read->again)
        return kz_fail(err, KZ_UNAVAILABLE, "a read was lost and cannot go on where it was");
    if (again)
        reading->read->again(reading->read->arg);
    return lost ? replace_session(reading, err) : KZ_OK;
}

static enum kz_code read_until(struct reading *reading, struct kz_err *err)
{
    struct kz_sp *sp = reading->sp;
    struct kz_rpc_patience patience = kz_rpc_patience(sp->timeout_ms);

    for (;;) {
        const uint64_t before = reading->messages;
        enum kz_code rc = read_once(reading, kz_rpc_left_ms(&patience), err);
        bool may_pass = kz_sp_session_lost(rc, err) || (rc != KZ_CONFLICT && kz_rpc_may_pass(rc));

        if (rc == KZ_OK || reading->stopped || !may_pass)
            return rc;
        if (reading->messages > before) /* it may take long as long as it gets on */
            patience = kz_rpc_patience(sp->timeout_ms);
        if (!kz_rpc_wait(&patience, kz_rpc_retry_ms()))
            return rc;
        KZ_TRY(try_again(reading, rc, err));
        atomic_fetch_add(&sp->retries, 1);
    }
}

enum kz_code kz_sp_read(struct kz_sp *sp, struct kz_store_txn *txn, const struct kz_sp_read *read,
        struct kz_err *err)
{
    const int64_t started_us = kz_mono_us();
    struct reading reading = {.sp = sp, .txn = txn, .read = read, .streams = !read->small};
    struct kz_err local = {0};
    enum kz_code rc;

    if (!err)
        err = &local;
    if (txn)
        reading.session = txn->session;
    if (!reading.session) {
        rc = kz_sp_session_take(sp, &reading.session, err);
        if (rc != KZ_OK)
            return kz_sp_failed(sp, rc, err);
    }
    if (txn)
        txn->session = reading.session;
    reading.rows = kz_sp_rows_new(read->column_count);
    rc = read_until(&reading, err);
    atomic_fetch_add(&sp->reads, 1);
    atomic_fetch_add(&sp->rows_read, kz_sp_rows_count(reading.rows));
    atomic_fetch_add(&sp->read_us_total, (uint64_t)(kz_mono_us() - started_us));
    if (!txn)
        kz_sp_session_give(sp, reading.session, rc != KZ_OK && kz_sp_session_lost(rc, err));
    kz_sp_rows_free(reading.rows);
    if (rc != KZ_OK && !reading.stopped)
        return kz_sp_failed(sp, rc, err);
    kz_rpc_health_worked(&sp->health);
    return rc;
}
