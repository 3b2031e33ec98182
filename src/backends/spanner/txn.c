/* Read-write transactions: users and ids are read under locks, then everything is put at once.
 *
 * The first read begins the transaction. Whoever loses a race is told so (ABORTED) by the read or
 * the commit; whatever was locked is given back by commit or rollback.
 */
#include <stdlib.h>

#include "backends/spanner/spanner_int.h"

enum { TXN_MAGIC = 0x73706e74, ROLLBACK_TIMEOUT_MS = 1000 };

/* ---- finding what rows are about --------------------------------------------------------- */

struct wanted { /* one of the caller's, by its key */
    uint64_t owner;
    struct kz_str id;
    size_t index;
};

static int compare_wanted(const void *a, const void *b)
{
    const struct wanted *x = a, *y = b;
    size_t shorter = KZ_MIN(x->id.size, y->id.size);
    int order;

    if (x->owner != y->owner)
        return x->owner < y->owner ? -1 : 1;
    order = shorter ? memcmp(x->id.ptr, y->id.ptr, shorter) : 0;
    if (order)
        return order;
    return x->id.size < y->id.size ? -1 : x->id.size > y->id.size;
}

/* The first one of that key, of `count` sorted; NULL none. Those with the same key follow it. */
static const struct wanted *find(
        const struct wanted *wanted, size_t count, uint64_t owner, struct kz_str id)
{
    struct wanted key = {.owner = owner, .id = id};
    size_t from = 0, until = count;

    while (from < until) {
        size_t middle = from + (until - from) / 2;

        if (compare_wanted(&wanted[middle], &key) < 0)
            from = middle + 1;
        else
            until = middle;
    }
    return from < count && compare_wanted(&wanted[from], &key) == 0 ? &wanted[from] : NULL;
}

static bool same(const struct wanted *end, const struct wanted *x, const struct wanted *y)
{
    return y < end && compare_wanted(x, y) == 0;
}

/* ---- users ------------------------------------------------------------------------------- */

struct user_read {
    struct kz_store_user *users;
    struct wanted *wanted;
    size_t count;
    struct kz_arena *arena; /* where states go; */
    struct kz_buf *out;     /* or here: `state` is an offset until all is read */
    struct kz_buf scratch;
};

static enum kz_code take_user(void *arg, const struct kz_sp_cell *cells, struct kz_err *err)
{
    struct user_read *read = arg;
    const struct wanted *end = read->wanted + read->count, *first, *at;
    struct kz_str state;
    uint64_t owner;

    KZ_TRY(kz_sp_get_u64(&cells[0], &owner, err));
    first = find(read->wanted, read->count, owner, KZ_STR_NULL);
    if (!first)
        return kz_fail(err, KZ_CORRUPT, "Spanner sent a user that was not asked for");
    kz_buf_clear(&read->scratch);
    KZ_TRY(kz_sp_get_bytes(&cells[1], &read->scratch, err));
    state = kz_buf_view(&read->scratch);
    if (!state.size)
        return KZ_OK;
    if (read->arena)
        state = kz_arena_str(read->arena, state);
    for (at = first; same(end, first, at); at++) {
        read->users[at->index].state = state;
        if (read->out) { /* it may still move: remember where */
            read->users[at->index].state.ptr = (const char *)read->out->size;
            kz_buf_str(read->out, state);
        }
    }
    return KZ_OK;
}

static void forget_users(void *arg)
{
    struct user_read *read = arg;

    for (size_t i = 0; i < read->count; i++)
        read->users[i].state = KZ_STR_NULL;
    if (read->out)
        kz_buf_clear(read->out);
}

static enum kz_code read_states(
        struct kz_sp *sp, struct kz_store_txn *txn, struct user_read *states, struct kz_err *err)
{
    static const char *const columns[] = {"owner", "state"};
    struct kz_sp_keys keys = {0};
    struct kz_sp_read read = {
            .table = "users",
            .columns = columns,
            .column_count = KZ_ARRAY_COUNT(columns),
            .small = true,
            .each = take_user,
            .again = forget_users,
            .arg = states,
    };
    enum kz_code rc;

    states->wanted = kz_malloc(states->count * sizeof(*states->wanted));
    for (size_t i = 0; i < states->count; i++) {
        states->wanted[i] = (struct wanted){.owner = states->users[i].owner, .index = i};
        kz_sp_u64(&keys.lists, states->users[i].owner);
        kz_sp_end(&keys.lists);
    }
    qsort(states->wanted, states->count, sizeof(*states->wanted), compare_wanted);
    forget_users(states);
    read.keys = kz_sp_keys_set(&keys);
    rc = kz_sp_read(sp, txn, &read, err);
    kz_sp_keys_done(&keys);
    kz_buf_done(&states->scratch);
    free(states->wanted);
    return rc;
}

enum kz_code kz_sp_users(struct kz_store *store, struct kz_store_user *users, size_t count,
        struct kz_buf *out, struct kz_err *err)
{
    struct user_read read = {.users = users, .count = count, .out = out};

    kz_buf_clear(out);
    if (!count)
        return KZ_OK;
    KZ_TRY(read_states(kz_sp_of(store), NULL, &read, err));
    for (size_t i = 0; i < count; i++)
        if (users[i].state.size)
            users[i].state.ptr = out->data + (size_t)users[i].state.ptr;
    return KZ_OK;
}

/* ---- the transaction --------------------------------------------------------------------- */

enum kz_code kz_sp_begin(struct kz_store *store, struct kz_store_txn **ret_txn, struct kz_err *err)
{
    struct kz_sp *sp = kz_sp_of(store);
    struct kz_sp_session *session;
    struct kz_err local = {0};
    struct kz_store_txn *txn;
    enum kz_code rc;

    if (!err)
        err = &local;
    rc = kz_sp_session_take(sp, &session, err);
    if (rc != KZ_OK) {
        rc = kz_sp_failed(sp, rc, err);
        kz_sp_note_failure(sp, rc);
        return rc;
    }
    txn = kz_calloc(1, sizeof(*txn));
    txn->magic = TXN_MAGIC;
    txn->sp = sp;
    txn->session = session;
    kz_arena_init(&txn->arena, 0);
    *ret_txn = txn;
    return KZ_OK;
}

/* Of a read within it or its commit. */
static enum kz_code ended(struct kz_store_txn *txn, enum kz_code rc)
{
    if (rc == KZ_OK)
        return rc;
    kz_sp_note_failure(txn->sp, rc);
    if (rc == KZ_CONFLICT && kz_rpc_status() == KZ_RPC_ABORTED)
        txn->over = true; /* nothing is held any more */
    return rc;
}

enum kz_code kz_sp_read_users(
        struct kz_store_txn *txn, struct kz_store_user *users, size_t count, struct kz_err *err)
{
    struct user_read read = {.users = users, .count = count, .arena = &txn->arena};

    KZ_CHECK_MAGIC(txn, TXN_MAGIC);
    return count ? ended(txn, read_states(txn->sp, txn, &read, err)) : KZ_OK;
}

struct id_read {
    struct wanted *wanted;
    size_t count;
    bool *there;
    struct kz_buf scratch;
};

static enum kz_code take_id(void *arg, const struct kz_sp_cell *cells, struct kz_err *err)
{
    struct id_read *read = arg;
    const struct wanted *end = read->wanted + read->count, *first, *at;
    uint64_t owner;

    KZ_TRY(kz_sp_get_u64(&cells[0], &owner, err));
    kz_buf_clear(&read->scratch);
    KZ_TRY(kz_sp_get_bytes(&cells[1], &read->scratch, err));
    first = find(read->wanted, read->count, owner, kz_buf_view(&read->scratch));
    if (!first)
        return kz_fail(err, KZ_CORRUPT, "Spanner sent an id that was not asked for");
    for (at = first; same(end, first, at); at++)
        read->there[at->index] = true;
    return KZ_OK;
}

static void forget_ids(void *arg)
{
    struct id_read *read = arg;

    memset(read->there, 0, read->count * sizeof(*read->there));
}

enum kz_code kz_sp_read_ids(struct kz_store_txn *txn, const struct kz_store_id *ids, size_t count,
        bool *ret_there, struct kz_err *err)
{
    static const char *const columns[] = {"owner", "id"};
    struct id_read id_read = {.count = count, .there = ret_there};
    struct kz_sp_keys keys = {0};
    struct kz_sp_read read = {
            .table = "ids",
            .columns = columns,
            .column_count = KZ_ARRAY_COUNT(columns),
            .small = true,
            .each = take_id,
            .again = forget_ids,
            .arg = &id_read,
    };
    enum kz_code rc;

    KZ_CHECK_MAGIC(txn, TXN_MAGIC);
    if (!count)
        return KZ_OK;
    id_read.wanted = kz_malloc(count * sizeof(*id_read.wanted));
    for (size_t i = 0; i < count; i++) {
        id_read.wanted[i] = (struct wanted){ids[i].owner, ids[i].id, i};
        kz_sp_u64(&keys.lists, ids[i].owner);
        kz_sp_bytes(&keys.lists, ids[i].id);
        kz_sp_end(&keys.lists);
    }
    qsort(id_read.wanted, count, sizeof(*id_read.wanted), compare_wanted);
    forget_ids(&id_read);
    read.keys = kz_sp_keys_set(&keys);
    rc = kz_sp_read(txn->sp, txn, &read, err);
    kz_sp_keys_done(&keys);
    kz_buf_done(&id_read.scratch);
    free(id_read.wanted);
    return ended(txn, rc);
}

/* What it has locked would be kept from others until the service finds it abandoned. */
static void roll_back(struct kz_store_txn *txn)
{
    KZ_SP(RollbackRequest) request = GOOGLE__SPANNER__V1__ROLLBACK_REQUEST__INIT;
    const struct kz_rpc_options options = {
            .method = "/google.spanner.v1.Spanner/Rollback",
            .timeout_ms = ROLLBACK_TIMEOUT_MS,
            .routing = txn->sp->routing,
            .resource = txn->sp->database_name,
    };
    ProtobufCMessage *answer = NULL;

    request.session = txn->session->name;
    request.transaction_id = kz_sp_binary(kz_buf_view(&txn->id));
    if (kz_rpc_call(txn->sp->data, &options, &request.base, &google__spanner__v1__empty__descriptor,
                &answer, NULL) == KZ_OK)
        protobuf_c_message_free_unpacked(answer, NULL);
}

void kz_sp_rollback(struct kz_store_txn *txn)
{
    if (!txn)
        return;
    KZ_CHECK_MAGIC(txn, TXN_MAGIC);
    if (txn->session && txn->id.size && !txn->over)
        roll_back(txn);
    kz_sp_session_give(txn->sp, txn->session, txn->lost);
    kz_buf_done(&txn->id);
    kz_arena_done(&txn->arena);
    txn->magic = 0;
    free(txn);
}

/* ---- what a commit puts ------------------------------------------------------------------ */

static int compare_owners(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Whose rows ids and records are: each has to have one in `users`. */
static void put_owners(struct kz_sp_lists *lists, const struct kz_store_commit *commit)
{
    size_t count = 0, put = commit->user_count;
    uint64_t *owners = kz_malloc((put + commit->id_count + commit->record_count + 1) * 8);

    for (size_t i = 0; i < put; i++)
        owners[i] = commit->users[i].owner;
    qsort(owners, put, sizeof(*owners), compare_owners);
    for (size_t i = 0; i < commit->id_count + commit->record_count; i++) {
        uint64_t owner = i < commit->id_count ? commit->ids[i].owner
                                              : commit->records[i - commit->id_count].record->owner;

        if (!bsearch(&owner, owners, put, sizeof(*owners), compare_owners))
            owners[put + count++] = owner;
    }
    qsort(owners + put, count, sizeof(*owners), compare_owners);
    for (size_t i = 0; i < count; i++) {
        if (i && owners[put + i] == owners[put + i - 1])
            continue;
        kz_sp_u64(lists, owners[put + i]);
        kz_sp_time(lists, commit->now_ms);
        kz_sp_end(lists);
    }
    free(owners);
}

static void put_users(struct kz_sp_changes *changes, const struct kz_store_commit *commit)
{
    static const char *const columns[] = {"owner", "stored_at", "state"};
    struct kz_sp_lists *lists = kz_sp_changes_write(changes, false, "users", columns, 3);

    for (size_t i = 0; i < commit->user_count; i++) {
        kz_sp_u64(lists, commit->users[i].owner);
        kz_sp_time(lists, commit->now_ms);
        if (commit->users[i].state.size)
            kz_sp_bytes(lists, commit->users[i].state);
        else
            kz_sp_null(lists);
        kz_sp_end(lists);
    }
    put_owners(kz_sp_changes_write(changes, false, "users", columns, 2), commit);
}

static void put_records(struct kz_sp_changes *changes, const struct kz_store_commit *commit)
{
    static const char *const event_columns[] = {"owner", KZ_SP_EVENT_COLUMNS, "ts", "stored_at"};
    static const char *const note_columns[] = {"owner", "lsn", "record", "stored_at"};
    static const char *const id_columns[] = {"owner", "id", "stored_at"};
    struct kz_sp_lists *ids = kz_sp_changes_write(changes, true, "ids", id_columns, 3);
    struct kz_sp_lists *events = kz_sp_changes_write(
            changes, true, "events", event_columns, KZ_ARRAY_COUNT(event_columns));
    struct kz_sp_lists *notes = kz_sp_changes_write(changes, true, "notes", note_columns, 4);

    for (size_t i = 0; i < commit->id_count; i++) {
        kz_sp_u64(ids, commit->ids[i].owner);
        kz_sp_bytes(ids, commit->ids[i].id);
        kz_sp_time(ids, commit->now_ms);
        kz_sp_end(ids);
    }
    for (size_t i = 0; i < commit->record_count; i++) {
        const struct kz_store_record *put = &commit->records[i];
        struct kz_sp_lists *lists = put->record->type == KZ_RECORD_EVENT ? events : notes;

        if (lists == events) {
            kz_sp_put_event(lists, put->lsn, put->record);
        } else {
            kz_sp_u64(lists, put->record->owner);
            kz_sp_u64(lists, put->lsn);
            kz_sp_bytes(lists, kz_str_n(put->record, put->record->size));
        }
        kz_sp_time(lists, commit->now_ms);
        kz_sp_end(lists);
    }
}

static enum kz_code check_commit(const struct kz_store_commit *commit, struct kz_err *err)
{
    size_t rows = kz_store_rows(commit);

    if (rows > KZ_STORE_ROWS_MAX)
        return kz_fail(err, KZ_TOO_LARGE, "a commit of %zu rows is over the limit of %d", rows,
                KZ_STORE_ROWS_MAX);
    for (size_t i = 0; i < commit->record_count; i++)
        if (commit->records[i].lsn > INT64_MAX)
            return kz_fail(err, KZ_INVALID, "address %016llx is over 2^63",
                    (unsigned long long)commit->records[i].lsn);
    return KZ_OK;
}

enum kz_code kz_sp_commit_txn(
        struct kz_store_txn *txn, const struct kz_store_commit *commit, struct kz_err *err)
{
    struct kz_sp_changes changes = {.count = 0};
    enum kz_code rc;

    KZ_CHECK_MAGIC(txn, TXN_MAGIC);
    rc = check_commit(commit, err);
    if (rc == KZ_OK) {
        put_users(&changes, commit);
        put_records(&changes, commit);
        kz_sp_put_queues(&changes, commit);
        rc = kz_sp_commit(txn->sp, txn, &changes, err);
        kz_sp_changes_done(&changes);
    }
    if (rc == KZ_OK) {
        kz_sp_note_commit(txn->sp);
        txn->over = true;
    }
    rc = ended(txn, rc);
    kz_sp_rollback(txn);
    return rc;
}
