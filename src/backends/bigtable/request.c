/* The three requests of the data service. */
#include "backends/bigtable/bigtable_int.h"
#include "sys/clock.h"

static ProtobufCBinaryData binary(struct kz_str s)
{
    return (ProtobufCBinaryData){s.size, (uint8_t *)(uintptr_t)s.ptr};
}

/* ---- ReadRows -------------------------------------------------------------------------------- */

struct reading {
    struct kz_bt *bt;
    const struct kz_bt_scan *scan;
    struct kz_bt_rows *rows;
    enum kz_code (*each)(void *arg, const struct kz_bt_row *row, struct kz_err *err);
    void *arg;
    uint64_t count;
    bool stopped; /* by `each` */
};

static enum kz_code take_row(void *arg, const struct kz_bt_row *row, struct kz_err *err)
{
    struct reading *reading = arg;
    enum kz_code rc;

    reading->count++;
    rc = reading->each(reading->arg, row, err);
    reading->stopped = rc != KZ_OK;
    return rc;
}

static enum kz_code take_all(
        struct reading *reading, struct kz_rpc_stream *stream, int64_t wait_ms, struct kz_err *err)
{
    for (;;) {
        ProtobufCMessage *message = NULL;
        enum kz_code rc = kz_rpc_stream_next(stream, wait_ms, &message, err);

        if (rc == KZ_END)
            return kz_bt_rows_end(reading->rows, err);
        KZ_TRY(rc);
        rc = kz_bt_rows_push(reading->rows, (const Google__Bigtable__V2__ReadRowsResponse *)message,
                take_row, reading, err);
        protobuf_c_message_free_unpacked(message, NULL);
        KZ_TRY(rc);
    }
}

/* What is left of the rows that were asked for. false: nothing. */
static bool ask_for(const struct reading *reading, Google__Bigtable__V2__RowSet *set,
        Google__Bigtable__V2__RowRange *range, ProtobufCBinaryData *key)
{
    const struct kz_bt_scan *scan = reading->scan;
    struct kz_str last = kz_bt_rows_last(reading->rows);

    if (scan->key.size) {
        *key = binary(scan->key);
        set->row_keys = key;
        set->n_row_keys = 1;
        return reading->count == 0;
    }
    range->start_key_case = GOOGLE__BIGTABLE__V2__ROW_RANGE__START_KEY_START_KEY_CLOSED;
    range->start_key_closed = binary(scan->from);
    if (last.size) {
        range->start_key_case = GOOGLE__BIGTABLE__V2__ROW_RANGE__START_KEY_START_KEY_OPEN;
        range->start_key_open = binary(last);
    }
    range->end_key_case = GOOGLE__BIGTABLE__V2__ROW_RANGE__END_KEY_END_KEY_OPEN;
    range->end_key_open = binary(scan->until);
    return !last.size || last.size < scan->until.size ||
           memcmp(last.ptr, scan->until.ptr, scan->until.size) < 0;
}

static enum kz_code read_once(struct reading *reading, int64_t wait_ms, struct kz_err *err)
{
    struct kz_bt *bt = reading->bt;
    const bool single = reading->scan->key.size > 0;
    Google__Bigtable__V2__ReadRowsRequest request = GOOGLE__BIGTABLE__V2__READ_ROWS_REQUEST__INIT;
    Google__Bigtable__V2__RowSet set = GOOGLE__BIGTABLE__V2__ROW_SET__INIT;
    Google__Bigtable__V2__RowRange range, *ranges = &range;
    KZ_AUTO(kz_rpc_stream_closep) struct kz_rpc_stream *stream = NULL;
    struct kz_rpc_options options = {
            .method = "/google.bigtable.v2.Bigtable/ReadRows",
            .timeout_ms = single ? wait_ms : 0,
            .idempotent = true,
            .routing = bt->data_routing,
            .resource = bt->table_name,
    };
    ProtobufCBinaryData key;

    google__bigtable__v2__row_range__init(&range);
    if (!ask_for(reading, &set, &range, &key))
        return KZ_OK;
    request.table_name = bt->table_name;
    request.app_profile_id = bt->app_profile;
    request.rows = &set;
    request.filter = reading->scan->filter;
    request.rows_limit = single;
    if (!single) {
        set.row_ranges = &ranges;
        set.n_row_ranges = 1;
    }
    KZ_TRY(kz_rpc_stream_request(bt->data, &options, &request.base,
            &google__bigtable__v2__read_rows_response__descriptor, &stream, err));
    return take_all(reading, stream, wait_ms, err);
}

enum kz_code kz_bt_read_rows(struct kz_bt *bt, const struct kz_bt_scan *scan,
        enum kz_code (*each)(void *arg, const struct kz_bt_row *row, struct kz_err *err), void *arg,
        struct kz_err *err)
{
    KZ_AUTO(kz_bt_rows_freep) struct kz_bt_rows *rows = kz_bt_rows_new();
    struct reading reading = {bt, scan, rows, each, arg, 0, false};
    struct kz_rpc_patience patience = kz_rpc_patience(bt->timeout_ms);
    const int64_t started_us = kz_mono_us();
    enum kz_code rc;

    for (;;) {
        const uint64_t before = reading.count;
        struct kz_err local;

        rc = read_once(&reading, kz_rpc_left_ms(&patience), err ? err : &local);
        if (rc == KZ_OK || reading.stopped || !kz_rpc_may_pass(rc))
            break;
        if (reading.count > before) /* a scan may take long as long as it gets on */
            patience = kz_rpc_patience(bt->timeout_ms);
        if (!kz_rpc_wait(&patience, 0))
            break;
        kz_bt_rows_restart(rows);
        atomic_fetch_add(&bt->retries, 1);
    }
    atomic_fetch_add(&bt->reads, 1);
    atomic_fetch_add(&bt->rows_read, reading.count);
    atomic_fetch_add(&bt->read_us_total, (uint64_t)(kz_mono_us() - started_us));
    if (rc != KZ_OK && !reading.stopped)
        return kz_bt_failed(bt, rc, err);
    kz_rpc_health_worked(&bt->health);
    return rc;
}

/* ---- CheckAndMutateRow and MutateRow --------------------------------------------------------- */

static uint64_t value_bytes(const struct kz_bt_changes *changes)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < changes->count; i++)
        if (changes->list[i]->mutation_case == GOOGLE__BIGTABLE__V2__MUTATION__MUTATION_SET_CELL)
            bytes += changes->list[i]->set_cell->value.len;
    return bytes;
}

enum kz_code kz_bt_check_and_mutate(struct kz_bt *bt, struct kz_str key, KZ_BT_FILTER *filter,
        bool matched, const struct kz_bt_changes *changes, int64_t timeout_ms, bool *ret_done,
        struct kz_err *err)
{
    Google__Bigtable__V2__CheckAndMutateRowRequest request =
            GOOGLE__BIGTABLE__V2__CHECK_AND_MUTATE_ROW_REQUEST__INIT;
    const struct kz_rpc_options options = {
            .method = "/google.bigtable.v2.Bigtable/CheckAndMutateRow",
            .timeout_ms = timeout_ms,
            .routing = bt->data_routing,
            .resource = bt->table_name,
    };
    const int64_t started_us = kz_mono_us();
    ProtobufCMessage *answer = NULL;
    enum kz_code rc;

    request.table_name = bt->table_name;
    request.app_profile_id = bt->app_profile;
    request.row_key = binary(key);
    request.predicate_filter = filter;
    if (matched) {
        request.true_mutations = changes->list;
        request.n_true_mutations = changes->count;
    } else {
        request.false_mutations = changes->list;
        request.n_false_mutations = changes->count;
    }
    rc = kz_rpc_call(bt->data, &options, &request.base,
            &google__bigtable__v2__check_and_mutate_row_response__descriptor, &answer, err);
    atomic_fetch_add(&bt->write_us_total, (uint64_t)(kz_mono_us() - started_us));
    if (rc != KZ_OK)
        return rc;
    *ret_done = matched == (bool)((const Google__Bigtable__V2__CheckAndMutateRowResponse *)answer)
                                   ->predicate_matched;
    protobuf_c_message_free_unpacked(answer, NULL);
    if (*ret_done)
        atomic_fetch_add(&bt->bytes_written, value_bytes(changes));
    return KZ_OK;
}

enum kz_code kz_bt_mutate(struct kz_bt *bt, struct kz_str key, const struct kz_bt_changes *changes,
        struct kz_err *err)
{
    Google__Bigtable__V2__MutateRowRequest request = GOOGLE__BIGTABLE__V2__MUTATE_ROW_REQUEST__INIT;
    const struct kz_rpc_options options = {
            .method = "/google.bigtable.v2.Bigtable/MutateRow",
            .timeout_ms = bt->timeout_ms,
            .idempotent = true,
            .routing = bt->data_routing,
            .resource = bt->table_name,
    };
    ProtobufCMessage *answer = NULL;
    enum kz_code rc;

    request.table_name = bt->table_name;
    request.app_profile_id = bt->app_profile;
    request.row_key = binary(key);
    request.mutations = changes->list;
    request.n_mutations = changes->count;
    rc = kz_rpc_call(bt->data, &options, &request.base,
            &google__bigtable__v2__mutate_row_response__descriptor, &answer, err);
    if (rc != KZ_OK)
        return kz_bt_failed(bt, rc, err);
    protobuf_c_message_free_unpacked(answer, NULL);
    kz_rpc_health_worked(&bt->health);
    return KZ_OK;
}
