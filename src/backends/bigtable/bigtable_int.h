/* backends/bigtable/bigtable_int.h -- what the files of this folder share: the names of what is in
 * the table, requests, and check-and-set of one cell.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "backends/bigtable/bigtable.h"
#include "backends/bigtable/rows.h"
#include "rpc/patience.h"
#include "rpc/proto/bigtable_admin.pb-c.h"

/* ---- what is in the table (docs/bigtable-format.md) ------------------------------------------ */

/* X(letter, what): families. */
#define KZ_BT_FAMILIES(X)                                                                          \
    X(s, "the state of a user")                                                                    \
    X(e, "entries: results and decisions of a user")                                               \
    X(p, "the latest prediction of each model, for other programs")                                \
    X(t, "deliveries under a cap in total")                                                        \
    X(w, "an operator's words")

enum { KZ_BT_KEY_SIZE = 16, KZ_BT_HASH_SIZE = 16, KZ_BT_QUALIFIER_SIZE = 32, KZ_BT_HEAD_SIZE = 16 };
#define KZ_BT_STATE "state"
#define KZ_BT_WORD "word"
#define KZ_BT_VERSION "version"

/* 16 lower-case hexadecimal digits, so that the order of texts is that of numbers. No NUL. */
void kz_bt_put_hex(uint64_t number, char out[16]);
/* false: not 16 lower-case hexadecimal digits. */
bool kz_bt_get_hex(struct kz_str text, uint64_t *ret_number);

/* ---- the table ------------------------------------------------------------------------------- */

struct kz_bt_totals; /* totals.c: one action's row as this process knows it */

struct kz_bt {
    struct kz_predictions base;
    uint32_t magic;
    char *project, *instance, *table;
    char *instance_name; /* projects/P/instances/I */
    char *table_name;    /* .../tables/T */
    char *app_profile;   /* "": the default */
    char *data_routing, *table_routing, *instance_routing;
    struct kz_rpc_channel *data, *admin;
    int64_t retention_ms, state_retention_ms, timeout_ms;

    pthread_mutex_t totals_lock; /* of the list, not of what is in it */
    struct kz_bt_totals *totals;

    _Atomic uint64_t reads, writes, conflicts, retries, rows_read, bytes_written;
    _Atomic uint64_t read_us_total, write_us_total;
    struct kz_rpc_health health;
};
enum { KZ_BT_MAGIC = 0x62746230 };

static inline struct kz_bt *kz_bt_of(struct kz_predictions *p)
{
    struct kz_bt *bt = KZ_CONTAINER_OF(p, struct kz_bt, base);

    KZ_CHECK_MAGIC(bt, KZ_BT_MAGIC);
    return bt;
}

/* ---- calls (call.c) -------------------------------------------------------------------------- */

/* Adds table and remedy to `err`, and notes what is wrong for stats. */
enum kz_code kz_bt_failed(struct kz_bt *bt, enum kz_code code, struct kz_err *err);

/* ---- filters and mutations (message.c) ------------------------------------------------------- */

#define KZ_BT_FILTER Google__Bigtable__V2__RowFilter

/* Room for the messages a filter is made of; they borrow every string. */
enum { KZ_BT_FILTERS_MAX = 16, KZ_BT_FILTER_PARTS_MAX = 6 };
struct kz_bt_filters {
    size_t count, list_count, column_count, value_count;
    KZ_BT_FILTER items[KZ_BT_FILTERS_MAX];
    struct {
        union {
            Google__Bigtable__V2__RowFilter__Chain chain;
            Google__Bigtable__V2__RowFilter__Interleave interleave;
        };
        KZ_BT_FILTER *parts[KZ_BT_FILTER_PARTS_MAX];
    } lists[4];
    Google__Bigtable__V2__ColumnRange columns[2];
    Google__Bigtable__V2__ValueRange values[2];
};
/* Each is good as long as `f`. Chains and interleaves end with NULL. */
KZ_BT_FILTER *kz_bt_family(struct kz_bt_filters *f, const char *regex);
KZ_BT_FILTER *kz_bt_qualifier(struct kz_bt_filters *f, struct kz_str regex);
/* Columns in [from, until]. */
KZ_BT_FILTER *kz_bt_columns(
        struct kz_bt_filters *f, const char *family, struct kz_str from, struct kz_str until);
/* Values in [from, until); an empty bound is none. */
KZ_BT_FILTER *kz_bt_values(struct kz_bt_filters *f, struct kz_str from, struct kz_str until);
KZ_BT_FILTER *kz_bt_newest(struct kz_bt_filters *f); /* of each column */
KZ_BT_FILTER *kz_bt_limit(struct kz_bt_filters *f, uint32_t cells_max);
KZ_BT_FILTER *kz_bt_strip(struct kz_bt_filters *f);
KZ_BT_FILTER *kz_bt_chain(struct kz_bt_filters *f, KZ_BT_FILTER *first, ...)
        __attribute__((sentinel));
KZ_BT_FILTER *kz_bt_interleave(struct kz_bt_filters *f, KZ_BT_FILTER *first, ...)
        __attribute__((sentinel));

struct kz_bt_change {
    Google__Bigtable__V2__Mutation mutation;
    union {
        Google__Bigtable__V2__Mutation__SetCell set;
        Google__Bigtable__V2__Mutation__DeleteFromColumn remove;
        Google__Bigtable__V2__Mutation__DeleteFromRow remove_row;
    };
};
/* Mutations of one row, applied in their order. Families, qualifiers and values are borrowed. */
struct kz_bt_changes {
    size_t count, max;
    struct kz_bt_change *items;
    Google__Bigtable__V2__Mutation **list;
};
struct kz_bt_changes kz_bt_changes(size_t max);
void kz_bt_changes_done(struct kz_bt_changes *changes);
/* The cell's time is now: retention counts from when something was written, whatever the time it is
 * about (a replay of the past is not collected as it is written). */
void kz_bt_set(struct kz_bt_changes *changes, const char *family, struct kz_str qualifier,
        struct kz_str value);
/* As the only version: also where a clock went back. */
void kz_bt_replace(struct kz_bt_changes *changes, const char *family, struct kz_str qualifier,
        struct kz_str value);
void kz_bt_remove(struct kz_bt_changes *changes, const char *family, struct kz_str qualifier);
void kz_bt_remove_row(struct kz_bt_changes *changes);

/* ---- requests (request.c) -------------------------------------------------------------------- */

struct kz_bt_scan {
    struct kz_str key;         /* one row; or, where empty, */
    struct kz_str from, until; /* rows in [from, until) */
    KZ_BT_FILTER *filter;
};
/* Rows in order of their keys. A stream that is lost is asked for again behind the last row. A code
 * other than KZ_OK from `each` ends it and is returned. */
enum kz_code kz_bt_read_rows(struct kz_bt *bt, const struct kz_bt_scan *scan,
        enum kz_code (*each)(void *arg, const struct kz_bt_row *row, struct kz_err *err), void *arg,
        struct kz_err *err);

/* One attempt, never sent again by itself. `matched`: make the changes if the filter gives a cell,
 * else if it gives none. `ret_done`: they were made. */
enum kz_code kz_bt_check_and_mutate(struct kz_bt *bt, struct kz_str key, KZ_BT_FILTER *filter,
        bool matched, const struct kz_bt_changes *changes, int64_t timeout_ms, bool *ret_done,
        struct kz_err *err);

/* Without a condition; sent again until it is done, so it must stand that. */
enum kz_code kz_bt_mutate(struct kz_bt *bt, struct kz_str key, const struct kz_bt_changes *changes,
        struct kz_err *err);

/* ---- one cell, check-and-set (cell.c) -------------------------------------------------------- */

/* A cell whose value is led by the hash of what follows, so that a predicate of 16 bytes can tell
 * it. */
struct kz_bt_place {
    struct kz_str key;
    const char *family, *qualifier; /* of letters only */
};
/* Sets the cell to `value` (empty: removes it) if it is `expected` (empty: not there), in one step
 * with `more` (may be NULL), which has room for two changes. KZ_CONFLICT: it is not, nor is it
 * `value`. */
enum kz_code kz_bt_swap(struct kz_bt *bt, const struct kz_bt_place *place, struct kz_str expected,
        struct kz_str value, struct kz_bt_changes *more, struct kz_err *err);
/* What such a cell holds. */
enum kz_code kz_bt_cell_value(
        const struct kz_bt_cell *cell, struct kz_str *ret_value, struct kz_err *err);

/* ---- the rest -------------------------------------------------------------------------------- */

/* totals.c */
enum kz_code kz_bt_reserve(struct kz_predictions *p, uint64_t action, uint64_t id, int64_t at_ms,
        int64_t since_ms, uint32_t max, bool *ret_held, struct kz_err *err);
enum kz_code kz_bt_release(
        struct kz_predictions *p, uint64_t action, uint64_t id, struct kz_err *err);
void kz_bt_totals_done(struct kz_bt *bt);

/* schema.c */
enum kz_code kz_bt_check(struct kz_predictions *p, struct kz_err *err);
enum kz_code kz_bt_create(struct kz_predictions *p, void (*say)(void *arg, const char *line),
        void *arg, struct kz_err *err);
