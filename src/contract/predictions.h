/* contract/predictions.h -- predictions and action state of users, for `infer` and `serve` roles
 * that share them. (One machine keeps both in its log and views.)
 *
 * A user is one row. It holds `state` (opaque; latest predictions, caps, holdout, waiting
 * deliveries: what decides about an action), changed only by check-and-set, and entries: RESULT and
 * DECISION records by the id of the request they belong to, put in the same step as the state that
 * knows of them. So a request's outcome is there whole or not at all, and whoever repeats a request
 * finds it.
 *
 * Threads  any. Blocking.
 * Fails    as contract/store.h; KZ_INVALID where an argument breaks a rule stated here.
 */
#pragma once

#include "contract/record.h"

enum {
    KZ_TOTALS_MAX = 100000,
    KZ_STATE_SIZE_MAX = 8 << 20, /* of a state, a word, or a record of an entry */
    KZ_ENTRIES_PUT_MAX = 10000,  /* in one write() */
};

struct kz_entry {
    uint64_t request; /* seq of the request; not 0 */
    uint64_t seq;     /* of the record; greater than `request` */
    uint8_t type;     /* enum kz_record_type */
    int64_t at_ms;
    struct kz_str record; /* the whole record; empty in a removal (by request and seq) */

    /* In write(), of a RESULT that is from now on its user's latest of `model`: the prediction as
     * kz_prediction_json() writes it, for programs that read the store themselves
     * (docs/bigtable-format.md). Empty otherwise, and in what is read. */
    struct kz_str model, json;
};

/* A user's row as read: zero it before its first use; reading into it again reuses its memory;
 * kz_buf_done(&row->bytes) frees. */
struct kz_user_row {
    bool there;
    struct kz_str state;
    struct kz_entry *entries; /* newest first, by seq; in `bytes` too, records at multiples of 8 */
    size_t entry_count;
    struct kz_buf bytes;
};
/* For backends: fills `row` with copies; puts `entries` into order. */
void kz_user_row_fill(
        struct kz_user_row *row, struct kz_str state, struct kz_entry *entries, size_t entry_count);
/* For backends: whether write() may put these (KZ_INVALID, KZ_TOO_LARGE). */
KZ_MUST_USE enum kz_code kz_user_row_check(struct kz_str state, const struct kz_entry *entries,
        size_t entry_count, struct kz_err *err);

struct kz_predictions_read {
    uint64_t request;     /* entries of this request only; 0: of any */
    uint32_t entries_max; /* newest that many; 0: none, the state only */
};

struct kz_predictions_stats {
    uint64_t reads, writes, conflicts, retries, rows_read, bytes_written;
    uint64_t read_us_total, write_us_total;
    bool throttled;
    char problem[KZ_PROBLEM_BYTES];
};

struct kz_predictions {
    const struct kz_predictions_ops *ops;
};

struct kz_predictions_ops {
    const char *name; /* "memory", "bigtable" */

    enum kz_code (*read)(struct kz_predictions *p, uint64_t owner,
            const struct kz_predictions_read *what, struct kz_user_row *ret_row,
            struct kz_err *err);
    /* Sets state (not empty) and puts entries, all or nothing, if the state is still `expected`
     * (empty: no row). The same entry may be put again. KZ_CONFLICT: it is not, nothing was
     * changed. A retry after a lost answer that finds its own write (state equal to `state`) is
     * KZ_OK, so two writers must not come to the same state in different ways: it holds an address
     * or a time of its change. After any failure but KZ_CONFLICT the write may still come about:
     * read again. */
    enum kz_code (*write)(struct kz_predictions *p, uint64_t owner, struct kz_str expected,
            struct kz_str state, const struct kz_entry *entries, size_t entry_count,
            struct kz_err *err);
    enum kz_code (*erase)(struct kz_predictions *p, uint64_t owner, struct kz_err *err);

    /* Deliveries under one cap in total (`action`: a hash of the action's name and of which of its
     * caps it is). reserve() adds `id` at `at_ms` unless `max` others lie at or after `since_ms`;
     * ret_held: it is there now (also when it was before). release() takes it back. Ids older than
     * `since_ms` may be forgotten. `max` is at most KZ_TOTALS_MAX. */
    enum kz_code (*reserve)(struct kz_predictions *p, uint64_t action, uint64_t id, int64_t at_ms,
            int64_t since_ms, uint32_t max, bool *ret_held, struct kz_err *err);
    enum kz_code (*release)(
            struct kz_predictions *p, uint64_t action, uint64_t id, struct kz_err *err);

    /* An operator's words (pause-model ...), small, read by every role every second: one bytes
     * value by name (empty: none was set; setting it removes), check-and-set as write(). `out` is
     * cleared first. */
    enum kz_code (*word)(
            struct kz_predictions *p, const char *name, struct kz_buf *out, struct kz_err *err);
    enum kz_code (*set_word)(struct kz_predictions *p, const char *name, struct kz_str expected,
            struct kz_str value, struct kz_err *err);

    /* Calls `each` with every row whose owner is in [from, until) in order of owner, with all its
     * entries, for `sql` and export; until 0: to the end. The row is borrowed for the call. A code
     * other than KZ_OK from `each` ends the scan and is returned (KZ_END: stop, no error). */
    enum kz_code (*scan)(struct kz_predictions *p, uint64_t from, uint64_t until,
            enum kz_code (*each)(void *arg, uint64_t owner, const struct kz_user_row *row),
            void *arg, struct kz_err *err);

    enum kz_code (*check)(struct kz_predictions *p, struct kz_err *err);
    enum kz_code (*create)(struct kz_predictions *p, void (*say)(void *arg, const char *line),
            void *arg, struct kz_err *err);
    void (*stats)(struct kz_predictions *p, struct kz_predictions_stats *ret_stats);
    void (*close)(struct kz_predictions *p);
};
