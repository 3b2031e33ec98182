/* Mutations, and committing them. */
#include "backends/spanner/spanner_int.h"
#include "sys/clock.h"

enum { COMMIT_SIZE_MAX = 95 << 20 }; /* the service takes 100 MB */

void kz_sp_changes_done(struct kz_sp_changes *changes)
{
    for (size_t i = 0; i < changes->count; i++) {
        kz_sp_lists_done(&changes->items[i].rows);
        kz_sp_keys_done(&changes->items[i].keys);
    }
    changes->count = 0;
}

static struct kz_sp_change *next(struct kz_sp_changes *changes)
{
    struct kz_sp_change *change = &changes->items[changes->count++];

    KZ_BUG_ON(changes->count > KZ_SP_CHANGES_MAX);
    memset(change, 0, sizeof(*change));
    google__spanner__v1__mutation__init(&change->mutation);
    google__spanner__v1__mutation__write__init(&change->write);
    google__spanner__v1__mutation__delete__init(&change->remove);
    return change;
}

struct kz_sp_lists *kz_sp_changes_write(struct kz_sp_changes *changes, bool insert,
        const char *table, const char *const *columns, size_t column_count)
{
    struct kz_sp_change *change = next(changes);

    change->mutation.operation_case =
            insert ? GOOGLE__SPANNER__V1__MUTATION__OPERATION_INSERT
                   : GOOGLE__SPANNER__V1__MUTATION__OPERATION_INSERT_OR_UPDATE;
    change->mutation.insert = &change->write; /* the same place as `insert_or_update` */
    change->write.table = (char *)(uintptr_t)table;
    change->write.columns = (char **)(uintptr_t)columns;
    change->write.n_columns = column_count;
    return &change->rows;
}

struct kz_sp_keys *kz_sp_changes_delete(struct kz_sp_changes *changes, const char *table)
{
    struct kz_sp_change *change = next(changes);

    change->mutation.operation_case = GOOGLE__SPANNER__V1__MUTATION__OPERATION_DELETE;
    change->mutation.delete_ = &change->remove;
    change->remove.table = (char *)(uintptr_t)table;
    return &change->keys;
}

/* Tables without rows are left out. */
static void add_up(struct kz_sp_changes *changes, size_t *ret_rows, size_t *ret_bytes)
{
    *ret_rows = *ret_bytes = changes->list_count = 0;
    for (size_t i = 0; i < changes->count; i++) {
        struct kz_sp_change *change = &changes->items[i];
        bool removes = change->mutation.operation_case ==
                       GOOGLE__SPANNER__V1__MUTATION__OPERATION_DELETE;
        struct kz_sp_lists *lists = removes ? &change->keys.lists : &change->rows;
        size_t count = kz_sp_count(lists);

        if (!count)
            continue;
        if (removes) {
            change->remove.key_set = kz_sp_keys_set(&change->keys);
        } else {
            change->write.values = kz_sp_data(lists);
            change->write.n_values = count;
        }
        changes->list[changes->list_count++] = &change->mutation;
        *ret_rows += count;
        *ret_bytes += lists->bytes.size;
    }
}

/* Once; the session is the transaction's, or taken for this. */
static enum kz_code commit_once(struct kz_sp *sp, struct kz_sp_session *session, struct kz_str id,
        struct kz_sp_changes *changes, int64_t timeout_ms, struct kz_err *err)
{
    KZ_SP(CommitRequest) request;
    KZ_SP(TransactionOptions) mode = GOOGLE__SPANNER__V1__TRANSACTION_OPTIONS__INIT;
    KZ_SP(TransactionOptions__ReadWrite)
    read_write = GOOGLE__SPANNER__V1__TRANSACTION_OPTIONS__READ_WRITE__INIT;
    const struct kz_rpc_options options = {
            .method = "/google.spanner.v1.Spanner/Commit",
            .timeout_ms = timeout_ms,
            .idempotent = true,
            .routing = sp->routing,
            .resource = sp->database_name,
    };
    ProtobufCMessage *answer = NULL;

    google__spanner__v1__commit_request__init(&request);
    request.session = session->name;
    if (id.size) {
        request.transaction_case = GOOGLE__SPANNER__V1__COMMIT_REQUEST__TRANSACTION_TRANSACTION_ID;
        request.transaction_id = kz_sp_binary(id);
    } else {
        request.transaction_case =
                GOOGLE__SPANNER__V1__COMMIT_REQUEST__TRANSACTION_SINGLE_USE_TRANSACTION;
        request.single_use_transaction = &mode;
        mode.mode_case = GOOGLE__SPANNER__V1__TRANSACTION_OPTIONS__MODE_READ_WRITE;
        mode.read_write = &read_write;
    }
    request.mutations = changes->list;
    request.n_mutations = changes->list_count;
    KZ_TRY(kz_rpc_call(sp->data, &options, &request.base,
            &google__spanner__v1__commit_response__descriptor, &answer, err));
    protobuf_c_message_free_unpacked(answer, NULL);
    return KZ_OK;
}

static enum kz_code commit_begun(struct kz_sp *sp, struct kz_store_txn *txn,
        struct kz_sp_changes *changes, struct kz_err *err)
{
    struct kz_str id = kz_buf_view(&txn->id);
    enum kz_code rc = commit_once(sp, txn->session, id, changes, sp->timeout_ms, err);

    if (rc != KZ_OK && kz_sp_session_lost(rc, err))
        txn->lost = txn->over = true;
    return rc;
}

/* Tried again while a conflict with others, or a session that is gone, is all that is in the way.
 */
static enum kz_code commit_alone(struct kz_sp *sp, struct kz_sp_changes *changes,
        bool whatever_others_do, struct kz_err *err)
{
    struct kz_rpc_patience patience = kz_rpc_patience(sp->timeout_ms);

    for (;;) {
        struct kz_sp_session *session;
        enum kz_code rc;
        bool lost, again;

        KZ_TRY(kz_sp_session_take(sp, &session, err));
        rc = commit_once(sp, session, KZ_STR_NULL, changes, kz_rpc_left_ms(&patience), err);
        lost = rc != KZ_OK && kz_sp_session_lost(rc, err);
        again = lost || (rc == KZ_CONFLICT && whatever_others_do && kz_rpc_may_pass(rc));
        kz_sp_session_give(sp, session, lost);
        if (rc == KZ_CONFLICT)
            patience.tries = KZ_MIN(patience.tries, (unsigned)KZ_SP_CONFLICT_TRIES);
        if (!again || !kz_rpc_wait(&patience, kz_rpc_retry_ms()))
            return rc;
        atomic_fetch_add(&sp->retries, 1);
    }
}

enum kz_code kz_sp_commit(struct kz_sp *sp, struct kz_store_txn *txn, struct kz_sp_changes *changes,
        struct kz_err *err)
{
    const int64_t started_us = kz_mono_us();
    struct kz_err local = {0};
    size_t rows, bytes;
    enum kz_code rc;

    if (!err)
        err = &local;
    add_up(changes, &rows, &bytes);
    if (bytes > COMMIT_SIZE_MAX)
        return kz_fail(err, KZ_TOO_LARGE, "a commit of %zu bytes is over the limit of %d", bytes,
                COMMIT_SIZE_MAX);
    if (!rows && !(txn && txn->id.size))
        rc = KZ_OK; /* nothing was read, nothing is put */
    else if (txn && txn->id.size)
        rc = commit_begun(sp, txn, changes, err);
    else
        rc = commit_alone(sp, changes, !txn, err);
    atomic_fetch_add(&sp->commit_us_total, (uint64_t)(kz_mono_us() - started_us));
    if (rc != KZ_OK)
        return kz_sp_failed(sp, rc, err);
    atomic_fetch_add(&sp->commits, 1);
    atomic_fetch_add(&sp->rows_written, rows);
    atomic_fetch_add(&sp->bytes_written, bytes);
    kz_rpc_health_worked(&sp->health);
    return KZ_OK;
}
