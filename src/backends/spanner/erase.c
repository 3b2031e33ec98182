/* Erasure, and the tombstones it leaves.
 *
 * The stone is there before anything goes, and with it, in one commit, the state of the users:
 * whoever has read one of them in a transaction that is still open gets a conflict and begins
 * again, and then sees the stone. Then rows go in batches, so that no commit is too large; the row
 * in `users` goes last and takes with it whatever came in between.
 */
#include <stdlib.h>

#include "backends/spanner/spanner_int.h"
#include "sys/clock.h"

enum { BATCH = 2000 };

static enum kz_code put_stone(struct kz_sp *sp, uint64_t stone, struct kz_str body,
        const uint64_t *owners, size_t owner_count, struct kz_err *err)
{
    static const char *const stone_columns[] = {"user_hash", "body", "stored_at"};
    static const char *const user_columns[] = {"owner", "state", "stored_at"};
    const int64_t now_ms = kz_clock_ms();
    struct kz_sp_changes changes = {.count = 0};
    struct kz_sp_lists *stones = kz_sp_changes_write(&changes, false, "stones", stone_columns, 3);
    struct kz_sp_lists *users = kz_sp_changes_write(&changes, false, "users", user_columns, 3);
    enum kz_code rc;

    kz_sp_u64(stones, stone);
    kz_sp_bytes(stones, body);
    kz_sp_time(stones, now_ms);
    kz_sp_end(stones);
    for (size_t i = 0; i < owner_count; i++) {
        kz_sp_u64(users, owners[i]);
        kz_sp_null(users);
        kz_sp_time(users, now_ms);
        kz_sp_end(users);
    }
    rc = kz_sp_commit(sp, NULL, &changes, err);
    kz_sp_changes_done(&changes);
    return rc;
}

/* ---- finding rows and deleting them ------------------------------------------------------ */

/* Columns of a key, of which one is to be the owner's; the keys that are found, to be deleted. */
struct hunt {
    const char *table;
    unsigned column_count;
    bool bytes_last;  /* the last column is BYTES, the others INT64 */
    int owner_column; /* compared with `owner`; -1: all that is read is the owner's */
    uint64_t owner;
    struct kz_sp_keys *found;
    uint64_t raw;
};

static enum kz_code take_key(void *arg, const struct kz_sp_cell *cells, struct kz_err *err)
{
    struct hunt *hunt = arg;
    int64_t number;

    hunt->raw++;
    if (hunt->owner_column >= 0) {
        KZ_TRY(kz_sp_get_int(&cells[hunt->owner_column], &number, err));
        if ((uint64_t)number != hunt->owner)
            return KZ_OK;
    }
    for (unsigned i = 0; i < hunt->column_count; i++)
        kz_sp_text(&hunt->found->lists, cells[i].text); /* a key as it was read is a key to write */
    kz_sp_end(&hunt->found->lists);
    return kz_sp_count(&hunt->found->lists) < BATCH || hunt->owner_column < 0 ? KZ_OK : KZ_END;
}

static void forget_keys(void *arg)
{
    struct hunt *hunt = arg;

    hunt->raw = 0;
    hunt->found->lists.bytes.size = 0;
    hunt->found->lists.ends.size = 0;
}

/* Reads up to BATCH keys of `read` and deletes them. */
static enum kz_code delete_batch(struct kz_sp *sp, const struct kz_sp_read *what, struct hunt *hunt,
        bool *ret_more, struct kz_err *err)
{
    struct kz_sp_changes changes = {.count = 0};
    struct kz_sp_read read = *what;
    enum kz_code rc;

    hunt->found = kz_sp_changes_delete(&changes, hunt->table);
    forget_keys(hunt);
    read.each = take_key;
    read.again = forget_keys;
    read.arg = hunt;
    rc = kz_sp_read(sp, NULL, &read, err);
    if (rc == KZ_OK || rc == KZ_END) {
        *ret_more = kz_sp_count(&hunt->found->lists) >= BATCH;
        rc = kz_sp_commit(sp, NULL, &changes, err);
    }
    kz_sp_changes_done(&changes);
    return rc;
}

static enum kz_code delete_all(
        struct kz_sp *sp, const struct kz_sp_read *read, struct hunt *hunt, struct kz_err *err)
{
    bool more = true;

    while (more)
        KZ_TRY(delete_batch(sp, read, hunt, &more, err));
    return KZ_OK;
}

/* Rows of a table that is led by the owner. */
static enum kz_code delete_of(
        struct kz_sp *sp, const char *table, const char *second, uint64_t owner, struct kz_err *err)
{
    const char *const columns[] = {"owner", second};
    struct hunt hunt = {.table = table, .column_count = 2, .owner_column = -1};
    struct kz_sp_read read = {
            .table = table, .columns = columns, .column_count = 2, .limit = BATCH};
    struct kz_sp_keys keys = {0};
    enum kz_code rc;

    kz_sp_u64(&keys.lists, owner);
    kz_sp_end(&keys.lists);
    kz_sp_keys_prefix(&keys);
    read.keys = kz_sp_keys_set(&keys);
    rc = delete_all(sp, &read, &hunt, err);
    kz_sp_keys_done(&keys);
    return rc;
}

/* Rows of a queue, in the shard of the owner, or found by the index over owners. */
static enum kz_code delete_queued(struct kz_sp *sp, const char *table, const char *index,
        const char *const *columns, unsigned column_count, int owner_column, uint64_t owner,
        struct kz_err *err)
{
    struct hunt hunt = {.table = table,
            .column_count = column_count,
            .owner_column = owner_column,
            .owner = owner};
    struct kz_sp_read read = {.table = table,
            .index = index,
            .columns = columns,
            .column_count = column_count,
            .limit = index ? BATCH : 0};
    struct kz_sp_keys keys = {0};
    enum kz_code rc;

    if (index)
        kz_sp_u64(&keys.lists, owner);
    else
        kz_sp_int(&keys.lists, kz_sp_shard_of_owner(owner));
    kz_sp_end(&keys.lists);
    kz_sp_keys_prefix(&keys);
    read.keys = kz_sp_keys_set(&keys);
    rc = delete_all(sp, &read, &hunt, err);
    kz_sp_keys_done(&keys);
    return rc;
}

static enum kz_code delete_user(struct kz_sp *sp, uint64_t owner, struct kz_err *err)
{
    struct kz_sp_changes changes = {.count = 0};
    struct kz_sp_keys *keys = kz_sp_changes_delete(&changes, "users");
    enum kz_code rc;

    kz_sp_u64(&keys->lists, owner);
    kz_sp_end(&keys->lists);
    rc = kz_sp_commit(sp, NULL, &changes, err);
    kz_sp_changes_done(&changes);
    return rc;
}

static enum kz_code erase_owner(struct kz_sp *sp, uint64_t owner, struct kz_err *err)
{
    static const char *const timer[] = {"shard", "due_ms", "owner", "rule"};
    static const char *const request[] = {"shard", "lsn", "owner"};
    static const char *const letter[] = {"shard", "lsn", "digest"};

    KZ_TRY(delete_of(sp, "ids", "id", owner, err));
    KZ_TRY(delete_of(sp, "events", "lsn", owner, err));
    KZ_TRY(delete_of(sp, "notes", "lsn", owner, err));
    KZ_TRY(delete_queued(sp, "timers", NULL, timer, 4, 2, owner, err));
    KZ_TRY(delete_queued(sp, "outbox", NULL, request, 3, 2, owner, err));
    KZ_TRY(delete_queued(sp, "letters", "letters_by_owner", letter, 3, -1, owner, err));
    return delete_user(sp, owner, err);
}

enum kz_code kz_sp_erase(struct kz_store *store, uint64_t stone, struct kz_str body,
        const uint64_t *owners, size_t owner_count, struct kz_err *err)
{
    struct kz_sp *sp = kz_sp_of(store);

    KZ_TRY(put_stone(sp, stone, body, owners, owner_count, err));
    for (size_t i = 0; i < owner_count; i++)
        KZ_TRY(erase_owner(sp, owners[i], err));
    return KZ_OK;
}

/* ---- tombstones -------------------------------------------------------------------------- */

struct stone_read {
    const uint64_t *hashes;
    struct kz_str *bodies; /* `ptr` is an offset until all is read */
    size_t count;
    struct kz_buf *out;
};

static enum kz_code take_stone(void *arg, const struct kz_sp_cell *cells, struct kz_err *err)
{
    struct stone_read *read = arg;
    size_t at = read->out->size;
    uint64_t hash;

    KZ_TRY(kz_sp_get_u64(&cells[0], &hash, err));
    KZ_TRY(kz_sp_get_bytes(&cells[1], read->out, err));
    for (size_t i = 0; i < read->count; i++)
        if (read->hashes[i] == hash)
            read->bodies[i] = (struct kz_str){(const char *)at, read->out->size - at};
    return KZ_OK;
}

static void forget_stones(void *arg)
{
    struct stone_read *read = arg;

    kz_buf_clear(read->out);
    for (size_t i = 0; i < read->count; i++)
        read->bodies[i] = KZ_STR_NULL;
}

enum kz_code kz_sp_stones(struct kz_store *store, const uint64_t *hashes, size_t count,
        struct kz_str *ret_bodies, struct kz_buf *out, struct kz_err *err)
{
    static const char *const columns[] = {"user_hash", "body"};
    struct stone_read stones = {hashes, ret_bodies, count, out};
    struct kz_sp_keys keys = {0};
    struct kz_sp_read read = {
            .table = "stones",
            .columns = columns,
            .column_count = KZ_ARRAY_COUNT(columns),
            .small = true,
            .each = take_stone,
            .again = forget_stones,
            .arg = &stones,
    };
    enum kz_code rc;

    forget_stones(&stones);
    if (!count)
        return KZ_OK;
    for (size_t i = 0; i < count; i++) {
        kz_sp_u64(&keys.lists, hashes[i]);
        kz_sp_end(&keys.lists);
    }
    read.keys = kz_sp_keys_set(&keys);
    rc = kz_sp_read(kz_sp_of(store), NULL, &read, err);
    kz_sp_keys_done(&keys);
    for (size_t i = 0; i < count && rc == KZ_OK; i++)
        ret_bodies[i].ptr = ret_bodies[i].size ? out->data + (size_t)ret_bodies[i].ptr : NULL;
    return rc;
}
