/* Check-and-set of one cell, and of what goes with it.
 *
 * The cell's value is SHA-256 of what it holds, cut to 16 bytes, and then that. The predicate is a
 * range of values: all that begin with the hash of what is expected; so it is small however large a
 * state is, and hash and state are one cell, of which garbage collection takes both or neither.
 *
 * C1  The cell has one version: each change removes all there are and puts one, in one step. So
 * what is read is what was written last, also when a clock went back. C2  CheckAndMutateRow is not
 * idempotent, and an answer may be lost. It is sent again all the same: where the first came
 * through, the second finds another value than it expects, and the cell says whose value that is.
 * Where it is a third one's, nobody knows what the first came to: that is no KZ_CONFLICT, which
 * promises that nothing was changed. What comes through late, after somebody else has moved on, changes nothing, since states do not
 * come back (they hold addresses of records that only grow).
 */
#include "backends/bigtable/bigtable_int.h"
#include "codec/crypto.h"

static void hash_of(struct kz_str value, char hash[KZ_BT_HASH_SIZE])
{
    uint8_t digest[KZ_SHA256_BYTES];

    kz_sha256(value, digest);
    memcpy(hash, digest, KZ_BT_HASH_SIZE);
}

/* The least value that is above all that begin with `hash`; empty: there is none. */
static struct kz_str above(const char hash[KZ_BT_HASH_SIZE], char out[KZ_BT_HASH_SIZE])
{
    size_t size = KZ_BT_HASH_SIZE;

    memcpy(out, hash, size);
    while (size && (uint8_t)out[size - 1] == 0xff)
        size--;
    if (size)
        out[size - 1] = (char)((uint8_t)out[size - 1] + 1);
    return kz_str_n(out, size);
}

struct prefix {
    char from[KZ_BT_HASH_SIZE], until[KZ_BT_HASH_SIZE];
    struct kz_bt_filters filters;
};

/* Gives a cell if the place holds `value`; where that is empty, if it holds anything. */
static KZ_BT_FILTER *holds(
        struct prefix *prefix, const struct kz_bt_place *place, struct kz_str value)
{
    struct kz_bt_filters *f = &prefix->filters;
    struct kz_str name = kz_str(place->qualifier), until;
    KZ_BT_FILTER *column;

    memset(f, 0, sizeof(*f));
    column = kz_bt_columns(f, place->family, name, name);
    if (!value.size)
        return kz_bt_chain(f, column, kz_bt_newest(f), kz_bt_strip(f), NULL);
    hash_of(value, prefix->from);
    until = above(prefix->from, prefix->until);
    return kz_bt_chain(f, column, kz_bt_newest(f),
            kz_bt_values(f, kz_str_n(prefix->from, KZ_BT_HASH_SIZE), until), kz_bt_strip(f), NULL);
}

static enum kz_code there(void *arg, const struct kz_bt_row *row, struct kz_err *err)
{
    (void)row, (void)err;
    *(bool *)arg = true;
    return KZ_OK;
}

/* The value is not what was expected. It may be ours, put by an attempt whose answer was lost. */
static enum kz_code find_own(struct kz_bt *bt, const struct kz_bt_place *place, struct kz_str value,
        bool lost, struct kz_err *err)
{
    struct prefix prefix;
    const struct kz_bt_scan scan = {.key = place->key, .filter = holds(&prefix, place, value)};
    bool found = false;

    KZ_TRY(kz_bt_read_rows(bt, &scan, there, &found, err));
    if (found == (value.size > 0))
        return KZ_OK;
    if (lost)
        return kz_fail(err, KZ_UNAVAILABLE,
                "row \"" KZ_STR_FMT "\" of table \"%s\" was changed behind an attempt whose answer "
                "was lost: it may have come through",
                KZ_STR_ARG(place->key), bt->table);
    atomic_fetch_add(&bt->conflicts, 1);
    return kz_fail(err, KZ_CONFLICT, "row \"" KZ_STR_FMT "\" of table \"%s\" was changed meanwhile",
            KZ_STR_ARG(place->key), bt->table);
}

static enum kz_code swap(struct kz_bt *bt, const struct kz_bt_place *place, struct kz_str expected,
        struct kz_str value, const struct kz_bt_changes *changes, struct kz_err *err)
{
    struct kz_rpc_patience patience = kz_rpc_patience(bt->timeout_ms);
    struct prefix prefix;
    KZ_BT_FILTER *filter = holds(&prefix, place, expected);
    struct kz_err local;
    enum kz_code rc;
    bool done = false, lost = false;

    err = err ? err : &local;
    for (;;) {
        /* An attempt has a part of the time, so that there is some left to find out what came of
         * it. */
        rc = kz_bt_check_and_mutate(bt, place->key, filter, expected.size > 0, changes,
                KZ_MIN(kz_rpc_left_ms(&patience), KZ_MAX(bt->timeout_ms / 3, (int64_t)1)), &done,
                err);
        if (rc == KZ_OK || !kz_rpc_may_pass(rc) || !kz_rpc_wait(&patience, 0))
            break;
        lost = true;
        atomic_fetch_add(&bt->retries, 1);
    }
    if (rc != KZ_OK)
        return kz_bt_failed(bt, rc, err);
    kz_rpc_health_worked(&bt->health);
    return done ? KZ_OK : find_own(bt, place, value, lost, err);
}

enum kz_code kz_bt_swap(struct kz_bt *bt, const struct kz_bt_place *place, struct kz_str expected,
        struct kz_str value, struct kz_bt_changes *more, struct kz_err *err)
{
    struct kz_bt_changes own = {0}, *changes = more;
    struct kz_buf cell = {0};
    enum kz_code rc;

    if (!more) {
        own = kz_bt_changes(2);
        changes = &own;
    }
    if (value.size) {
        hash_of(value, kz_buf_extend(&cell, KZ_BT_HASH_SIZE));
        kz_buf_str(&cell, value);
        kz_bt_replace(
                changes, place->family, kz_str(place->qualifier), kz_buf_view(&cell)); /* C1 */
    } else {
        kz_bt_remove(changes, place->family, kz_str(place->qualifier));
    }
    rc = swap(bt, place, expected, value, changes, err);
    atomic_fetch_add(&bt->writes, 1);
    kz_buf_done(&cell);
    kz_bt_changes_done(&own);
    return rc;
}

enum kz_code kz_bt_cell_value(
        const struct kz_bt_cell *cell, struct kz_str *ret_value, struct kz_err *err)
{
    if (cell->value.size <= KZ_BT_HASH_SIZE)
        return kz_fail(err, KZ_CORRUPT, "cell \"" KZ_STR_FMT ":" KZ_STR_FMT "\" has only %zu bytes",
                KZ_STR_ARG(cell->family), KZ_STR_ARG(cell->qualifier), cell->value.size);
    *ret_value = kz_str_n(cell->value.ptr + KZ_BT_HASH_SIZE, cell->value.size - KZ_BT_HASH_SIZE);
    return KZ_OK;
}
