/* backends/spanner/spanner_int.h -- what the files of this folder share: tables, sessions, reads,
 * mutations.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "backends/spanner/spanner.h"
#include "backends/spanner/wire.h"
#include "base/arena.h"
#include "rpc/patience.h"

#define KZ_SP(name) Google__Spanner__V1__##name

/* Rows that belong to no user in the first place are spread over that many parts of a table's keys:
 * timers and requests by owner, letters by address. A part of the schema. */
enum { KZ_SP_SHARDS = 16 };
static inline int64_t kz_sp_shard_of_owner(uint64_t owner)
{
    return (int64_t)(owner % KZ_SP_SHARDS);
}
int64_t kz_sp_shard_of_lsn(kz_lsn lsn);

enum { KZ_SP_SCHEMA_VERSION = 1 };

struct kz_sp_session {
    char *name;
    int64_t used_ms; /* monotonic */
    struct kz_sp_session *next;
};

struct kz_sp {
    struct kz_store base;
    struct kz_history_reader reader;
    uint32_t magic;
    char *project, *instance, *database;
    char *project_name;  /* projects/P */
    char *instance_name; /* .../instances/I */
    char *database_name; /* .../databases/D */
    char *routing;       /* database=... */
    bool emulator;
    struct kz_rpc_channel *data, *admin;
    int64_t retention_ms, dedupe_ms, state_retention_ms, timeout_ms;

    pthread_mutex_t sessions_lock;
    pthread_cond_t sessions_there;
    struct kz_sp_session *sessions; /* free ones, used last first */
    unsigned session_count, session_making, session_max;

    _Atomic uint64_t commits, conflicts, retries, reads, rows_read, rows_written, bytes_written;
    _Atomic uint64_t commit_us_total, read_us_total;
    struct kz_rpc_health health;
};
enum { KZ_SP_MAGIC = 0x73706e30 };

static inline struct kz_sp *kz_sp_of(struct kz_store *store)
{
    struct kz_sp *sp = KZ_CONTAINER_OF(store, struct kz_sp, base);

    KZ_CHECK_MAGIC(sp, KZ_SP_MAGIC);
    return sp;
}

static inline ProtobufCBinaryData kz_sp_binary(struct kz_str s)
{
    return (ProtobufCBinaryData){s.size, (uint8_t *)(uintptr_t)s.ptr};
}

/* ---- failures (call.c) ------------------------------------------------------------------- */

/* Says what a failed call means to whoever called us: the code, where it was, the remedy; notes it
 * for stats. */
enum kz_code kz_sp_failed(struct kz_sp *sp, enum kz_code code, struct kz_err *err);
/* Conflicts pass soon, whoever was first is done within some commits: the waits after one grow no
 * further than behind that many tries. */
enum { KZ_SP_CONFLICT_TRIES = 4 };
/* Of a transaction or a commit, for retry_ms() of this thread. */
void kz_sp_note_failure(struct kz_sp *sp, enum kz_code code);
void kz_sp_note_commit(struct kz_sp *sp);
int64_t kz_sp_retry_ms(struct kz_store *store);
/* Whether the last failed call failed because the service has forgotten its session. */
bool kz_sp_session_lost(enum kz_code code, const struct kz_err *err);

/* ---- sessions (session.c) ---------------------------------------------------------------- */

/* One that nobody else uses. Makes some where none is free; waits where there are `session_max`:
 * KZ_OVERLOADED after `timeout_ms`. */
KZ_MUST_USE enum kz_code kz_sp_session_take(
        struct kz_sp *sp, struct kz_sp_session **ret_session, struct kz_err *err);
/* `lost`: the service does not know it any more. Takes NULL. */
void kz_sp_session_give(struct kz_sp *sp, struct kz_sp_session *session, bool lost);
void kz_sp_sessions_done(struct kz_sp *sp); /* and tells the service, if it is there */

/* ---- reading (read.c) -------------------------------------------------------------------- */

/* The rows of one read or deletion: keys, or ranges of them. */
struct kz_sp_keys {
    struct kz_sp_lists lists; /* keys, or the bounds of ranges */
    struct kz_buf ranges;     /* struct kz_sp_range */
    KZ_SP(KeySet) set;
    KZ_SP(KeyRange) * items, **list;
};
void kz_sp_keys_done(struct kz_sp_keys *keys);
/* A key is written into `lists` and ended there. As a range: the last two keys are its bounds, both
 * within it; or all rows whose keys begin with the last one. */
void kz_sp_keys_range(struct kz_sp_keys *keys);
void kz_sp_keys_prefix(struct kz_sp_keys *keys);
/* Good until the next change of `keys`. */
KZ_SP(KeySet) * kz_sp_keys_set(struct kz_sp_keys *keys);

struct kz_sp_read {
    const char *table, *index;
    const char *const *columns;
    size_t column_count;
    KZ_SP(KeySet) * keys;
    int64_t limit; /* 0: none */
    bool small;    /* mostly below 10 MiB: one call and no stream, which costs half as much */
    kz_sp_row_fn *each;
    void (*again)(void *arg); /* what was shown is forgotten: it comes once more. NULL: fails */
    void *arg;
};
/* Rows in the order of their keys; a lost stream goes on where it was. In a transaction, or newest.
 */
KZ_MUST_USE enum kz_code kz_sp_read(struct kz_sp *sp, struct kz_store_txn *txn,
        const struct kz_sp_read *read, struct kz_err *err);

/* ---- writing (write.c) ------------------------------------------------------------------- */

enum { KZ_SP_CHANGES_MAX = 12 };

struct kz_sp_change { /* of one table */
    KZ_SP(Mutation) mutation;
    KZ_SP(Mutation__Write) write;
    KZ_SP(Mutation__Delete) remove;
    struct kz_sp_lists rows;
    struct kz_sp_keys keys;
};
/* Mutations of one commit, applied in their order. */
struct kz_sp_changes {
    struct kz_sp_change items[KZ_SP_CHANGES_MAX];
    size_t count;
    KZ_SP(Mutation) * list[KZ_SP_CHANGES_MAX]; /* of those with rows, when it is committed */
    size_t list_count;
};
void kz_sp_changes_done(struct kz_sp_changes *changes);
/* Where to put rows of `table`, a value a column. `insert`: they must not be there. */
struct kz_sp_lists *kz_sp_changes_write(struct kz_sp_changes *changes, bool insert,
        const char *table, const char *const *columns, size_t column_count);
/* Where to put what goes. */
struct kz_sp_keys *kz_sp_changes_delete(struct kz_sp_changes *changes, const char *table);

/* In the transaction of `txn`; NULL, or one that has not begun: by itself. Sent again after an
 * answer that was lost: a transaction is committed once, and the rest must stand it. KZ_CONFLICT is
 * tried again only without `txn`. */
KZ_MUST_USE enum kz_code kz_sp_commit(struct kz_sp *sp, struct kz_store_txn *txn,
        struct kz_sp_changes *changes, struct kz_err *err);

/* ---- transactions (txn.c) ---------------------------------------------------------------- */

struct kz_store_txn {
    uint32_t magic;
    struct kz_sp *sp;
    struct kz_sp_session *session;
    struct kz_buf id; /* empty until the first read has begun it */
    struct kz_arena arena;
    bool over; /* nothing is left to be rolled back */
    bool lost; /* the service has forgotten the session */
};
enum kz_code kz_sp_begin(struct kz_store *store, struct kz_store_txn **ret_txn, struct kz_err *err);
enum kz_code kz_sp_read_users(
        struct kz_store_txn *txn, struct kz_store_user *users, size_t count, struct kz_err *err);
enum kz_code kz_sp_read_ids(struct kz_store_txn *txn, const struct kz_store_id *ids, size_t count,
        bool *ret_there, struct kz_err *err);
enum kz_code kz_sp_commit_txn(
        struct kz_store_txn *txn, const struct kz_store_commit *commit, struct kz_err *err);
void kz_sp_rollback(struct kz_store_txn *txn);
enum kz_code kz_sp_users(struct kz_store *store, struct kz_store_user *users, size_t count,
        struct kz_buf *out, struct kz_err *err);

/* ---- records (record.c) ------------------------------------------------------------------ */

/* Columns of `events`; a read asks for those behind the owner, without ts. */
#define KZ_SP_EVENT_COLUMNS "lsn", "record", "event_id", "user_id", "anonymous_id", "name", "props"
enum { KZ_SP_EVENT_COLUMN_COUNT = 7 };
/* Puts the owner, these, and ts. A record's strings are in columns of their own and cut out of its
 * bytes, so that each is stored once and SQL sees it. */
void kz_sp_put_event(struct kz_sp_lists *lists, kz_lsn lsn, const struct kz_record *record);
/* The record as it was put, bit for bit, at a multiple of 8 in `arena`. */
KZ_MUST_USE enum kz_code kz_sp_get_event(const struct kz_sp_cell *cells, struct kz_buf *scratch,
        struct kz_arena *arena, kz_lsn *ret_lsn, const struct kz_record **ret_record,
        struct kz_err *err);
/* Of `notes` and `letters`: whole. `cells`: lsn, record. */
KZ_MUST_USE enum kz_code kz_sp_get_record(const struct kz_sp_cell *cells, struct kz_buf *scratch,
        struct kz_arena *arena, kz_lsn *ret_lsn, const struct kz_record **ret_record,
        struct kz_err *err);

/* ---- the rest ---------------------------------------------------------------------------- */

/* history.c */
extern const struct kz_history_reader_ops kz_sp_reader_ops;
enum kz_code kz_sp_stored_ms(
        struct kz_store *store, kz_lsn lsn, uint64_t owner, int64_t *ret_ms, struct kz_err *err);

/* queue.c */
void kz_sp_put_queues(struct kz_sp_changes *changes, const struct kz_store_commit *commit);
enum kz_code kz_sp_due(struct kz_store *store, int64_t now_ms, unsigned part, unsigned part_count,
        size_t max, struct kz_store_timer *ret_timers, size_t *ret_count, int64_t *ret_next_ms,
        struct kz_err *err);
enum kz_code kz_sp_outbox(struct kz_store *store, int64_t before_ms, size_t max,
        struct kz_store_request *ret_requests, size_t *ret_count, struct kz_buf *out,
        struct kz_err *err);
enum kz_code kz_sp_published(struct kz_store *store, const struct kz_store_request *requests,
        size_t count, struct kz_err *err);
enum kz_code kz_sp_letters(struct kz_store *store, kz_lsn before, size_t max, struct kz_buf *out,
        size_t *ret_count, struct kz_err *err);
enum kz_code kz_sp_drop_letters(
        struct kz_store *store, const kz_lsn *lsns, size_t count, struct kz_err *err);

/* erase.c */
enum kz_code kz_sp_erase(struct kz_store *store, uint64_t stone, struct kz_str body,
        const uint64_t *owners, size_t owner_count, struct kz_err *err);
enum kz_code kz_sp_stones(struct kz_store *store, const uint64_t *hashes, size_t count,
        struct kz_str *ret_bodies, struct kz_buf *out, struct kz_err *err);

/* schema.c */
enum kz_code kz_sp_check(struct kz_store *store, struct kz_err *err);
enum kz_code kz_sp_create(struct kz_store *store, void (*say)(void *arg, const char *line),
        void *arg, struct kz_err *err);
