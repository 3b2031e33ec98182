/* backends/bigtable/rows.h -- rows out of the chunks in which ReadRows answers (google.bigtable.v2,
 * ReadRowsResponse.CellChunk).
 *
 * A chunk is a cell or a part of one. What it leaves out (row key, family, qualifier) is as in the
 * chunk before; a value that is split says its whole size in every part but the last; a row may be
 * taken back (reset_row) until it is committed. The state is one of
 *
 *     between rows --chunk with a key--> in a row --part of a value--> in a cell
 *          ^                               |  ^                           |
 *          +----------- commit_row --------+  +------- last part ---------+
 *          +----------- reset_row, from any of the two
 *
 * Trust    what a server sends is checked: anything that does not follow these rules is KZ_CORRUPT,
 *          and no part of a row that was not committed is ever shown.
 * Threads  one at a time.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"
#include "rpc/proto/bigtable.pb-c.h"

enum { KZ_BT_ROW_SIZE_MAX = 256 << 20 }; /* the service's own limit of a row that can be read */

struct kz_bt_cell {
    struct kz_str family, qualifier, value;
    int64_t timestamp_micros;
};

struct kz_bt_row {
    struct kz_str key;
    const struct kz_bt_cell *cells; /* as they came: by family and qualifier, newest first */
    size_t cell_count;
};

struct kz_bt_rows;

struct kz_bt_rows *kz_bt_rows_new(void);
void kz_bt_rows_free(struct kz_bt_rows *rows);
KZ_DEFINE_FREEP(struct kz_bt_rows, kz_bt_rows_free)

/* Calls `each` with every row that `response` completes; borrowed for the call. Any other code than
 * KZ_OK from it ends the call and is returned. */
KZ_MUST_USE enum kz_code kz_bt_rows_push(struct kz_bt_rows *rows,
        const Google__Bigtable__V2__ReadRowsResponse *response,
        enum kz_code (*each)(void *arg, const struct kz_bt_row *row, struct kz_err *err), void *arg,
        struct kz_err *err);
/* The stream has ended well: KZ_CORRUPT where a row is not complete. */
KZ_MUST_USE enum kz_code kz_bt_rows_end(const struct kz_bt_rows *rows, struct kz_err *err);
/* The stream was lost and is asked for again behind kz_bt_rows_last(): forgets the row begun. */
void kz_bt_rows_restart(struct kz_bt_rows *rows);
/* The key at or below which everything has been seen; empty: nothing yet. Borrowed. */
struct kz_str kz_bt_rows_last(const struct kz_bt_rows *rows);
