/* contract/predictions.h -- predictions and action state of users, for `infer` and `serve` roles that
 * share them. (One machine keeps both in its log and views.)
 *
 * A user is one row. It holds `state` (opaque; latest predictions, caps, holdout, waiting deliveries:
 * what decides about an action), changed only by check-and-set, and entries: RESULT and DECISION
 * records by the id of the request they belong to, put in the same step as the state that knows of
 * them. So a request's outcome is there whole or not at all, and whoever repeats a request finds it.
 *
 * Threads  any. Blocking.
 * Fails    as contract/store.h.
 */
#pragma once

#include "contract/record.h"

enum { KZ_TOTALS_MAX = 100000 };

struct kz_entry {
    uint64_t request;  /* seq of the request */
    uint64_t seq;      /* of the record */
    uint8_t type;      /* enum kz_record_type */
    int64_t at_ms;
    struct kz_str record; /* the whole record; empty in a removal */
};

/* A user's row as read: owned by the caller, kz_buf_done(&row->bytes) frees. */
struct kz_user_row {
    bool there;
    struct kz_str state;
    struct kz_entry *entries; /* newest first, by seq; in `bytes` too */
    size_t entry_count;
    struct kz_buf bytes;
};

struct kz_predictions_read {
    uint64_t request;      /* entries of this request only; 0: of any */
    uint32_t entries_max;  /* newest that many; 0: none, the state only */
};

struct kz_predictions_stats {
    uint64_t reads, writes, conflicts, retries, rows_read, bytes_written;
    uint64_t read_us_total, write_us_total;
    bool throttled;
    char problem[200];
};

struct kz_predictions {
    const struct kz_predictions_ops *ops;
};

struct kz_predictions_ops {
    const char *name; /* "memory", "bigtable" */

    enum kz_code (*read)(struct kz_predictions *p, uint64_t owner,
            const struct kz_predictions_read *what, struct kz_user_row *ret_row, struct kz_err *err);
    /* Sets state and puts entries, all or nothing, if the state is still `expected` (empty: no row).
     * KZ_CONFLICT: it is not, nothing was changed. A retry after a lost answer that finds its own write
     * (state equal to `state`) is KZ_OK. */
    enum kz_code (*write)(struct kz_predictions *p, uint64_t owner, struct kz_str expected,
            struct kz_str state, const struct kz_entry *entries, size_t entry_count,
            struct kz_err *err);
    enum kz_code (*erase)(struct kz_predictions *p, uint64_t owner, struct kz_err *err);

    /* Deliveries under a cap in total. reserve() adds `id` at `at_ms` unless `max` others lie at or after
     * `since_ms`; ret_held: it is there now (also when it was before). release() takes it back. Ids
     * older than `since_ms` may be forgotten. */
    enum kz_code (*reserve)(struct kz_predictions *p, uint64_t action, uint64_t id, int64_t at_ms,
            int64_t since_ms, uint32_t max, bool *ret_held, struct kz_err *err);
    enum kz_code (*release)(struct kz_predictions *p, uint64_t action, uint64_t id,
            struct kz_err *err);

    /* An operator's words (pause-model ...), small, read by every role every second: one bytes value by
     * name, check-and-set as write(). */
    enum kz_code (*word)(struct kz_predictions *p, const char *name, struct kz_buf *out,
            struct kz_err *err);
    enum kz_code (*set_word)(struct kz_predictions *p, const char *name, struct kz_str expected,
            struct kz_str value, struct kz_err *err);

    /* Calls `each` with every row whose owner is in [from, until) in order of owner, for `sql` and
     * export; until 0: to the end. */
    enum kz_code (*scan)(struct kz_predictions *p, uint64_t from, uint64_t until,
            enum kz_code (*each)(void *arg, uint64_t owner, const struct kz_user_row *row), void *arg,
            struct kz_err *err);

    enum kz_code (*check)(struct kz_predictions *p, struct kz_err *err);
    enum kz_code (*create)(struct kz_predictions *p, void (*say)(void *arg, const char *line),
            void *arg, struct kz_err *err);
    void (*stats)(struct kz_predictions *p, struct kz_predictions_stats *ret_stats);
    void (*close)(struct kz_predictions *p);
};
