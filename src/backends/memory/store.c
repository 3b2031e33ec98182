#include "backends/memory/store.h"

#include "backends/memory/store_rows.h"
#include "base/arena.h"
#include "base/hash.h"

#include <pthread.h>
#include <stdlib.h>

enum { MEMORY_MAGIC = 0x6d656d73, TXN_MAGIC = 0x6d656d74 };

struct memory {
    struct kz_store store;
    struct kz_history_reader reader;
    uint32_t magic;
    pthread_mutex_t lock;
    uint64_t version;                       /* of the newest commit or erasure */
    struct kz_rows users;                   /* owner: state. An erased user leaves an empty row, so
                                            * that who read them before has a conflict */
    struct kz_rows ids;                     /* owner, id */
    struct kz_rows records[KZ_CHAIN_COUNT]; /* owner, ~lsn: newest first */
    struct kz_rows timers;                  /* due, owner, rule */
    struct kz_rows outbox;                  /* lsn, owner: put_at, message */
    struct kz_rows letters;                 /* ~lsn, owner, hash of the record */
    struct kz_rows stones;                  /* id hash */
    struct kz_store_stats stats;
};

struct read { /* what a transaction saw */
    struct kz_row_key key;
    uint64_t version; /* of the user; of an id 1: there, 0: not */
    bool is_id;
};

struct kz_store_txn {
    uint32_t magic;
    struct memory *memory;
    struct kz_arena arena;
    struct read *reads;
    size_t read_count, read_capacity;
};

static struct memory *memory_of(struct kz_store *store)
{
    struct memory *memory = KZ_CONTAINER_OF(store, struct memory, store);

    KZ_CHECK_MAGIC(memory, MEMORY_MAGIC);
    return memory;
}

static struct kz_row_key key3(uint64_t a, uint64_t b, uint64_t c)
{
    return (struct kz_row_key){.a = a, .b = b, .c = c};
}

static struct kz_row_key id_key(const struct kz_store_id *id)
{
    return (struct kz_row_key){.a = id->owner, .tail = id->id};
}

/* Due times may be before 1970. */
static uint64_t due_order(int64_t ms)
{
    return (uint64_t)ms ^ (1ull << 63);
}

static struct kz_row_key timer_key(const struct kz_store_timer *timer)
{
    return key3(due_order(timer->due_ms), timer->owner, timer->rule);
}

static struct kz_str record_bytes(const struct kz_record *record)
{
    return kz_str_n(record, record->size);
}

static struct kz_row_key letter_key(const struct kz_store_record *letter)
{
    const struct kz_record *record = letter->record;

    return key3(~letter->lsn, record->owner, kz_hash_str(record_bytes(record)));
}

static enum kz_chain chain_of(const struct kz_record *record)
{
    enum kz_chain chain = kz_record_chain(record->type);

    return chain == KZ_CHAIN_NONE ? KZ_CHAIN_NOTES : chain;
}

/* ---- transactions -----------------------------------------------------------------------------
 */

static enum kz_code begin(struct kz_store *store, struct kz_store_txn **ret_txn, struct kz_err *err)
{
    struct kz_store_txn *txn = kz_calloc(1, sizeof(*txn));

    (void)err;
    txn->magic = TXN_MAGIC;
    txn->memory = memory_of(store);
    kz_arena_init(&txn->arena, 0);
    *ret_txn = txn;
    return KZ_OK;
}

static void rollback(struct kz_store_txn *txn)
{
    if (!txn)
        return;
    KZ_CHECK_MAGIC(txn, TXN_MAGIC);
    kz_arena_done(&txn->arena);
    free(txn->reads);
    free(txn);
}

static void note_read(struct kz_store_txn *txn, struct read read)
{
    if (txn->read_count == txn->read_capacity) {
        txn->read_capacity = txn->read_capacity ? txn->read_capacity * 2 : 64;
        txn->reads = kz_realloc(txn->reads, txn->read_capacity * sizeof(*txn->reads));
    }
    read.key.tail = kz_arena_str(&txn->arena, read.key.tail);
    txn->reads[txn->read_count++] = read;
}

static enum kz_code read_users(
        struct kz_store_txn *txn, struct kz_store_user *users, size_t count, struct kz_err *err)
{
    struct memory *memory = txn->memory;

    (void)err;
    pthread_mutex_lock(&memory->lock);
    for (size_t i = 0; i < count; i++) {
        struct kz_row_key key = key3(users[i].owner, 0, 0);
        const struct kz_row *row = kz_rows_get(&memory->users, key);

        users[i].state = KZ_STR_NULL;
        if (row && row->size)
            users[i].state = kz_arena_str(&txn->arena, kz_str_n(row->bytes, row->size));
        note_read(txn, (struct read){.key = key, .version = row ? row->version : 0});
    }
    memory->stats.reads++;
    memory->stats.rows_read += count;
    pthread_mutex_unlock(&memory->lock);
    return KZ_OK;
}

static enum kz_code read_ids(struct kz_store_txn *txn, const struct kz_store_id *ids, size_t count,
        bool *ret_there, struct kz_err *err)
{
    struct memory *memory = txn->memory;

    (void)err;
    pthread_mutex_lock(&memory->lock);
    for (size_t i = 0; i < count; i++) {
        struct kz_row_key key = id_key(&ids[i]);

        ret_there[i] = kz_rows_get(&memory->ids, key) != NULL;
        note_read(txn, (struct read){.key = key, .version = ret_there[i], .is_id = true});
    }
    memory->stats.reads++;
    memory->stats.rows_read += count;
    pthread_mutex_unlock(&memory->lock);
    return KZ_OK;
}

static enum kz_code check_reads(const struct kz_store_txn *txn, struct kz_err *err)
{
    const struct memory *memory = txn->memory;

    for (size_t i = 0; i < txn->read_count; i++) {
        const struct read *read = &txn->reads[i];
        const struct kz_row *row = kz_rows_get(
                read->is_id ? &memory->ids : &memory->users, read->key);
        uint64_t version = !row ? 0 : read->is_id ? 1 : row->version;

        if (version != read->version)
            return kz_fail(err, KZ_CONFLICT, "%s of owner %016llx changed since it was read",
                    read->is_id ? "an event's id" : "the state", (unsigned long long)read->key.a);
    }
    return KZ_OK;
}

/* Ids and records must not be there yet: all of them go in, or none. */
static enum kz_code insert(
        struct memory *memory, const struct kz_store_commit *commit, struct kz_err *err)
{
    size_t ids = 0, records = 0;

    for (; ids < commit->id_count; ids++) {
        struct kz_row_key key = id_key(&commit->ids[ids]);

        if (kz_rows_get(&memory->ids, key))
            break;
        kz_rows_put(&memory->ids, key, KZ_STR_NULL, 0);
    }
    for (; ids == commit->id_count && records < commit->record_count; records++) {
        const struct kz_record *record = commit->records[records].record;
        struct kz_rows *rows = &memory->records[chain_of(record)];
        struct kz_row_key key = key3(record->owner, ~commit->records[records].lsn, 0);

        if (kz_rows_get(rows, key))
            break;
        kz_rows_put(rows, key, record_bytes(record), (uint64_t)commit->now_ms);
    }
    if (ids == commit->id_count && records == commit->record_count)
        return KZ_OK;
    (void)kz_fail(err, KZ_CONFLICT, "an event's %s is there already",
            ids < commit->id_count ? "id" : "address");
    while (ids-- > 0)
        kz_rows_remove(&memory->ids, id_key(&commit->ids[ids]));
    while (records-- > 0) {
        const struct kz_record *record = commit->records[records].record;

        kz_rows_remove(&memory->records[chain_of(record)],
                key3(record->owner, ~commit->records[records].lsn, 0));
    }
    return KZ_CONFLICT;
}

static void put_request(struct memory *memory, const struct kz_store_request *request, int64_t at)
{
    struct kz_buf value = {0};

    kz_buf_i64(&value, at);
    kz_buf_str(&value, request->message);
    kz_rows_put(&memory->outbox, key3(request->lsn, request->owner, 0), kz_buf_view(&value), 0);
    kz_buf_done(&value);
}

static void apply(struct memory *memory, const struct kz_store_commit *commit)
{
    uint64_t version = ++memory->version;

    for (size_t i = 0; i < commit->user_count; i++)
        kz_rows_put(&memory->users, key3(commit->users[i].owner, 0, 0), commit->users[i].state,
                version);
    for (size_t i = 0; i < commit->fired_count; i++)
        kz_rows_remove(&memory->timers, timer_key(&commit->fired[i]));
    for (size_t i = 0; i < commit->timer_count; i++)
        kz_rows_put(&memory->timers, timer_key(&commit->timers[i]), KZ_STR_NULL, 0);
    for (size_t i = 0; i < commit->request_count; i++)
        put_request(memory, &commit->requests[i], commit->now_ms);
    for (size_t i = 0; i < commit->letter_count; i++)
        kz_rows_put(&memory->letters, letter_key(&commit->letters[i]),
                record_bytes(commit->letters[i].record), 0);
    memory->stats.commits++;
    memory->stats.rows_written += commit->user_count + commit->id_count + commit->record_count +
                                  commit->fired_count + commit->timer_count +
                                  commit->request_count + commit->letter_count;
    for (size_t i = 0; i < commit->record_count; i++)
        memory->stats.bytes_written += commit->records[i].record->size;
    for (size_t i = 0; i < commit->user_count; i++)
        memory->stats.bytes_written += commit->users[i].state.size;
}

static enum kz_code commit_txn(
        struct kz_store_txn *txn, const struct kz_store_commit *commit, struct kz_err *err)
{
    struct memory *memory = txn->memory;
    enum kz_code rc;

    KZ_CHECK_MAGIC(txn, TXN_MAGIC);
    if (kz_store_rows(commit) > KZ_STORE_ROWS_MAX) {
        rollback(txn);
        return kz_fail(err, KZ_TOO_LARGE, "a commit of %zu rows is over the limit of %d",
                kz_store_rows(commit), KZ_STORE_ROWS_MAX);
    }
    pthread_mutex_lock(&memory->lock);
    rc = check_reads(txn, err);
    if (rc == KZ_OK)
        rc = insert(memory, commit, err);
    if (rc == KZ_OK)
        apply(memory, commit);
    else
        memory->stats.conflicts++;
    pthread_mutex_unlock(&memory->lock);
    rollback(txn);
    return rc;
}

static int64_t retry_ms(struct kz_store *store)
{
    (void)store;
    return 0; /* whoever was first is through already */
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static enum kz_code users(struct kz_store *store, struct kz_store_user *users, size_t count,
        struct kz_buf *out, struct kz_err *err)
{
    struct memory *memory = memory_of(store);
    size_t at = 0;

    (void)err;
    kz_buf_clear(out);
    pthread_mutex_lock(&memory->lock);
    for (size_t i = 0; i < count; i++) {
        const struct kz_row *row = kz_rows_get(&memory->users, key3(users[i].owner, 0, 0));

        users[i].state = kz_str_n(NULL, row ? row->size : 0);
        if (row)
            kz_buf_put(out, row->bytes, row->size);
    }
    pthread_mutex_unlock(&memory->lock);
    for (size_t i = 0; i < count; i++) { /* the buffer does not move any more */
        if (!users[i].state.size)
            continue;
        users[i].state.ptr = out->data + at;
        at += users[i].state.size;
    }
    return KZ_OK;
}

struct scan {
    struct kz_arena arena;
    const struct kz_record **records;
    kz_lsn *lsns;
    size_t count, capacity;
};

struct walk {
    uint64_t owner;
    const struct kz_row *row; /* NULL: at its end */
};

static void scan_free(struct scan *scan)
{
    kz_arena_done(&scan->arena);
    free(scan->records);
    free(scan->lsns);
    free(scan);
}

static void emit(struct scan *scan, kz_lsn lsn, const struct kz_row *row)
{
    struct kz_record *copy = kz_arena_must(&scan->arena, KZ_ALIGN8(row->size));

    memcpy(copy, row->bytes, row->size);
    if (scan->count == scan->capacity) {
        scan->capacity = scan->capacity ? scan->capacity * 2 : 256;
        scan->records = kz_realloc(scan->records, scan->capacity * sizeof(*scan->records));
        scan->lsns = kz_realloc(scan->lsns, scan->capacity * sizeof(*scan->lsns));
    }
    scan->records[scan->count] = copy;
    scan->lsns[scan->count++] = lsn;
}

static struct walk *newest(struct walk *walks, size_t count)
{
    struct walk *best = NULL;

    for (size_t i = 0; i < count; i++) {
        const struct kz_row *row = walks[i].row;

        if (!row)
            continue;
        if (!best || row->key.b < best->row->key.b ||
                (row->key.b == best->row->key.b && row->key.a > best->row->key.a))
            best = &walks[i];
    }
    return best;
}

static bool wanted(const struct kz_history_query *query, const struct kz_record *record)
{
    if (record->type != KZ_RECORD_EVENT)
        return true;
    if ((record->flags & KZ_EVENT_ACTION) && !query->include_actions)
        return false;
    return record->size < sizeof(*record) + sizeof(struct kz_event_body) ||
           kz_event_body(record)->ts_ms >= query->since_ms;
}

/* Newest first. Gives whether events_max cut something off. */
static bool collect(struct memory *memory, const struct kz_history_query *query, struct scan *scan)
{
    const struct kz_rows *rows = &memory->records[query->chain];
    struct walk walks[KZ_SOURCES_MAX], *walk;
    const struct kz_row *last = NULL;

    for (size_t i = 0; i < query->source_count; i++) {
        const struct kz_source *source = &query->sources[i];
        kz_lsn top = KZ_MIN(source->head, query->as_of);
        struct kz_row *row = kz_rows_seek(rows, key3(source->owner, ~top, 0));

        walks[i].owner = source->owner;
        walks[i].row = row && row->key.a == source->owner ? row : NULL;
    }
    while ((walk = newest(walks, query->source_count))) {
        const struct kz_row *row = walk->row, *next = row->next[0];

        /* Two sources may share a chain; a record counts once. */
        if (row != last && wanted(query, (const void *)row->bytes)) {
            if (query->events_max && scan->count == query->events_max)
                return true;
            emit(scan, ~row->key.b, row);
        }
        last = row;
        walk->row = next && next->key.a == walk->owner ? next : NULL;
    }
    return false;
}

static struct memory *reader_of(struct kz_history_reader *reader)
{
    struct memory *memory = KZ_CONTAINER_OF(reader, struct memory, reader);

    KZ_CHECK_MAGIC(memory, MEMORY_MAGIC);
    return memory;
}

static enum kz_code scan_history(struct kz_history_reader *reader,
        const struct kz_history_query *query, struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct memory *memory = reader_of(reader);
    struct scan *scan;
    bool truncated;

    if (query->source_count > KZ_SOURCES_MAX)
        return kz_fail(err, KZ_LIMIT, "a history of %zu linked ids, the limit is %d",
                query->source_count, KZ_SOURCES_MAX);
    scan = kz_calloc(1, sizeof(*scan));
    kz_arena_init(&scan->arena, 0);
    pthread_mutex_lock(&memory->lock);
    truncated = collect(memory, query, scan);
    memory->stats.reads++;
    memory->stats.rows_read += scan->count;
    pthread_mutex_unlock(&memory->lock);
    kz_history_reverse(scan->records, scan->lsns, scan->count);
    *ret_rows = (struct kz_history_rows){
            .records = scan->records,
            .lsns = scan->lsns,
            .count = scan->count,
            .truncated = truncated,
            .priv = scan,
    };
    return KZ_OK;
}

static void release(struct kz_history_reader *reader, struct kz_history_rows *rows)
{
    struct scan *scan = rows->priv;

    (void)reader;
    *rows = (struct kz_history_rows){0};
    if (scan)
        scan_free(scan);
}

struct found {
    kz_lsn lsn;
    const struct kz_record *record;
};

static int by_address(const void *a, const void *b)
{
    const struct found *x = a, *y = b;

    if (x->lsn != y->lsn)
        return x->lsn < y->lsn ? -1 : 1;
    return x->record->owner < y->record->owner ? -1 : x->record->owner > y->record->owner;
}

/* Copies first: `each` may use the store. */
static enum kz_code scan_all(struct kz_history_reader *reader, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err)
{
    struct memory *memory = reader_of(reader);
    struct scan *scan = kz_calloc(1, sizeof(*scan));
    enum kz_code rc = KZ_OK;
    struct found *found;

    (void)err;
    kz_arena_init(&scan->arena, 0);
    pthread_mutex_lock(&memory->lock);
    for (int chain = 0; chain < KZ_CHAIN_COUNT; chain++) {
        for (struct kz_row *row = memory->records[chain].head[0]; row; row = row->next[0]) {
            if (~row->key.b >= from && ~row->key.b < until)
                emit(scan, ~row->key.b, row);
        }
    }
    pthread_mutex_unlock(&memory->lock);
    found = kz_malloc(KZ_MAX(scan->count, (size_t)1) * sizeof(*found));
    for (size_t i = 0; i < scan->count; i++)
        found[i] = (struct found){scan->lsns[i], scan->records[i]};
    qsort(found, scan->count, sizeof(*found), by_address);
    for (size_t i = 0; i < scan->count && rc == KZ_OK; i++)
        rc = each(arg, found[i].lsn, found[i].record);
    free(found);
    scan_free(scan);
    return rc;
}

static enum kz_code get(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    struct memory *memory = reader_of(reader);
    bool found = false;

    kz_buf_clear(out);
    pthread_mutex_lock(&memory->lock);
    for (int chain = 0; chain < KZ_CHAIN_COUNT && !found; chain++) {
        const struct kz_row *row = kz_rows_get(&memory->records[chain], key3(owner, ~lsn, 0));

        if ((found = row != NULL))
            kz_buf_put(out, row->bytes, row->size);
    }
    memory->stats.reads++;
    pthread_mutex_unlock(&memory->lock);
    if (!found)
        return kz_fail(err, KZ_NOT_FOUND, "there is no record %016llx of owner %016llx",
                (unsigned long long)lsn, (unsigned long long)owner);
    return KZ_OK;
}

static const struct kz_history_reader_ops reader_ops = {
        .scan = scan_history,
        .release = release,
        .scan_all = scan_all,
        .get = get,
};

/* Of a record the version is when it was put: it never changes. */
static enum kz_code stored_ms(
        struct kz_store *store, kz_lsn lsn, uint64_t owner, int64_t *ret_ms, struct kz_err *err)
{
    struct memory *memory = memory_of(store);
    const struct kz_row *row;
    int64_t ms = 0;

    pthread_mutex_lock(&memory->lock);
    row = kz_rows_get(&memory->records[KZ_CHAIN_EVENTS], key3(owner, ~lsn, 0));
    if (row)
        ms = (int64_t)row->version;
    memory->stats.reads++;
    pthread_mutex_unlock(&memory->lock);
    if (!row)
        return kz_fail(err, KZ_NOT_FOUND, "there is no event %016llx of owner %016llx",
                (unsigned long long)lsn, (unsigned long long)owner);
    *ret_ms = ms;
    return KZ_OK;
}

static struct kz_history_reader *reader_get(struct kz_store *store)
{
    return &memory_of(store)->reader;
}

/* ---- timers, outbox, letters ------------------------------------------------------------------
 */

static enum kz_code due(struct kz_store *store, int64_t now_ms, unsigned part, unsigned part_count,
        size_t max, struct kz_store_timer *ret_timers, size_t *ret_count, int64_t *ret_next_ms,
        struct kz_err *err)
{
    struct memory *memory = memory_of(store);
    size_t count = 0;

    (void)err;
    *ret_next_ms = INT64_MAX;
    pthread_mutex_lock(&memory->lock);
    for (struct kz_row *row = memory->timers.head[0]; row; row = row->next[0]) {
        struct kz_store_timer timer = {
                .owner = row->key.b,
                .rule = row->key.c,
                .due_ms = (int64_t)(row->key.a ^ (1ull << 63)),
        };

        if (timer.owner % part_count != part)
            continue;
        if (count == max || timer.due_ms > now_ms) {
            *ret_next_ms = timer.due_ms;
            break;
        }
        ret_timers[count++] = timer;
    }
    pthread_mutex_unlock(&memory->lock);
    *ret_count = count;
    return KZ_OK;
}

static enum kz_code outbox(struct kz_store *store, int64_t before_ms, size_t max,
        struct kz_store_request *ret_requests, size_t *ret_count, struct kz_buf *out,
        struct kz_err *err)
{
    struct memory *memory = memory_of(store);
    size_t count = 0, at = 0;

    (void)err;
    kz_buf_clear(out);
    pthread_mutex_lock(&memory->lock);
    for (struct kz_row *row = memory->outbox.head[0]; row && count < max; row = row->next[0]) {
        int64_t put_at = (int64_t)kz_load_u64(row->bytes);

        if (put_at >= before_ms)
            continue;
        ret_requests[count++] = (struct kz_store_request){
                .lsn = row->key.a,
                .owner = row->key.b,
                .message = kz_str_n(NULL, row->size - sizeof(put_at)),
        };
        kz_buf_put(out, row->bytes + sizeof(put_at), row->size - sizeof(put_at));
    }
    pthread_mutex_unlock(&memory->lock);
    for (size_t i = 0; i < count; i++) {
        ret_requests[i].message.ptr = out->data + at;
        at += ret_requests[i].message.size;
    }
    *ret_count = count;
    return KZ_OK;
}

static enum kz_code published(struct kz_store *store, const struct kz_store_request *requests,
        size_t count, struct kz_err *err)
{
    struct memory *memory = memory_of(store);

    (void)err;
    pthread_mutex_lock(&memory->lock);
    for (size_t i = 0; i < count; i++)
        kz_rows_remove(&memory->outbox, key3(requests[i].lsn, requests[i].owner, 0));
    pthread_mutex_unlock(&memory->lock);
    return KZ_OK;
}

static enum kz_code letters(struct kz_store *store, kz_lsn before, size_t max, struct kz_buf *out,
        size_t *ret_count, struct kz_err *err)
{
    struct memory *memory = memory_of(store);
    size_t count = 0;
    uint64_t last = 0;

    (void)err;
    kz_buf_clear(out);
    pthread_mutex_lock(&memory->lock);
    for (struct kz_row *row = kz_rows_seek(&memory->letters, key3(before ? ~before + 1 : 0, 0, 0));
            row && (count < max || (count && row->key.a == last)); row = row->next[0]) {
        memcpy(kz_buf_extend(out, KZ_ALIGN8(row->size)), row->bytes, row->size);
        last = row->key.a;
        count++;
    }
    pthread_mutex_unlock(&memory->lock);
    *ret_count = count;
    return KZ_OK;
}

static enum kz_code drop_letters(
        struct kz_store *store, const kz_lsn *lsns, size_t count, struct kz_err *err)
{
    struct memory *memory = memory_of(store);

    (void)err;
    pthread_mutex_lock(&memory->lock);
    for (size_t i = 0; i < count; i++) {
        struct kz_row *row;

        while ((row = kz_rows_seek(&memory->letters, key3(~lsns[i], 0, 0))) &&
                row->key.a == ~lsns[i])
            kz_rows_remove(&memory->letters, row->key);
    }
    pthread_mutex_unlock(&memory->lock);
    return KZ_OK;
}

/* ---- erasure ----------------------------------------------------------------------------------
 */

/* Removes the rows whose key's `member`th number is `owner`; where that is the first, by range. */
static void remove_of(struct kz_rows *rows, unsigned member, uint64_t owner)
{
    struct kz_row *row = kz_rows_seek(rows, key3(member ? 0 : owner, 0, 0));

    while (row && (member || row->key.a == owner)) {
        struct kz_row *next = row->next[0];

        if (member == 0 || row->key.b == owner)
            kz_rows_remove(rows, row->key);
        row = next;
    }
}

static enum kz_code erase(struct kz_store *store, uint64_t stone, struct kz_str body,
        const uint64_t *owners, size_t owner_count, struct kz_err *err)
{
    struct memory *memory = memory_of(store);

    (void)err;
    pthread_mutex_lock(&memory->lock);
    kz_rows_put(&memory->stones, key3(stone, 0, 0), body, 0);
    memory->version++;
    for (size_t i = 0; i < owner_count; i++) {
        kz_rows_put(&memory->users, key3(owners[i], 0, 0), KZ_STR_NULL, memory->version);
        remove_of(&memory->ids, 0, owners[i]);
        for (int chain = 0; chain < KZ_CHAIN_COUNT; chain++)
            remove_of(&memory->records[chain], 0, owners[i]);
        remove_of(&memory->timers, 1, owners[i]);
        remove_of(&memory->outbox, 1, owners[i]);
        remove_of(&memory->letters, 1, owners[i]);
    }
    pthread_mutex_unlock(&memory->lock);
    return KZ_OK;
}

static enum kz_code stones(struct kz_store *store, const uint64_t *hashes, size_t count,
        struct kz_str *ret_bodies, struct kz_buf *out, struct kz_err *err)
{
    struct memory *memory = memory_of(store);
    size_t at = 0;

    (void)err;
    kz_buf_clear(out);
    pthread_mutex_lock(&memory->lock);
    for (size_t i = 0; i < count; i++) {
        const struct kz_row *row = kz_rows_get(&memory->stones, key3(hashes[i], 0, 0));

        ret_bodies[i] = kz_str_n(NULL, row ? row->size : 0);
        if (row)
            kz_buf_put(out, row->bytes, row->size);
    }
    pthread_mutex_unlock(&memory->lock);
    for (size_t i = 0; i < count; i++) {
        if (!ret_bodies[i].size)
            continue;
        ret_bodies[i].ptr = out->data + at;
        at += ret_bodies[i].size;
    }
    return KZ_OK;
}

/* ---- the store --------------------------------------------------------------------------------
 */

static enum kz_code check(struct kz_store *store, struct kz_err *err)
{
    (void)store;
    (void)err;
    return KZ_OK; /* memory is always there */
}

static enum kz_code create(struct kz_store *store, void (*say)(void *arg, const char *line),
        void *arg, struct kz_err *err)
{
    (void)store;
    (void)say;
    (void)arg;
    (void)err;
    return KZ_OK;
}

static void stats(struct kz_store *store, struct kz_store_stats *ret_stats)
{
    struct memory *memory = memory_of(store);

    pthread_mutex_lock(&memory->lock);
    *ret_stats = memory->stats;
    pthread_mutex_unlock(&memory->lock);
}

static void close_store(struct kz_store *store)
{
    struct memory *memory = memory_of(store);

    kz_rows_done(&memory->users);
    kz_rows_done(&memory->ids);
    for (int chain = 0; chain < KZ_CHAIN_COUNT; chain++)
        kz_rows_done(&memory->records[chain]);
    kz_rows_done(&memory->timers);
    kz_rows_done(&memory->outbox);
    kz_rows_done(&memory->letters);
    kz_rows_done(&memory->stones);
    pthread_mutex_destroy(&memory->lock);
    memory->magic = 0;
    free(memory);
}

static const struct kz_store_ops store_ops = {
        .name = "memory",
        .begin = begin,
        .read_users = read_users,
        .read_ids = read_ids,
        .commit = commit_txn,
        .rollback = rollback,
        .retry_ms = retry_ms,
        .users = users,
        .reader = reader_get,
        .stored_ms = stored_ms,
        .due = due,
        .outbox = outbox,
        .published = published,
        .letters = letters,
        .drop_letters = drop_letters,
        .erase = erase,
        .stones = stones,
        .check = check,
        .create = create,
        .stats = stats,
        .close = close_store,
};

struct kz_store *kz_memory_store_new(void)
{
    struct memory *memory = kz_calloc(1, sizeof(*memory));

    memory->store.ops = &store_ops;
    memory->reader.ops = &reader_ops;
    memory->magic = MEMORY_MAGIC;
    pthread_mutex_init(&memory->lock, NULL);
    return &memory->store;
}
