/* backends/spanner/wire.h -- rows as Spanner wants and gives them, without an object a value.
 *
 * A row or key is a google.protobuf.ListValue, a value in it a google.protobuf.Value: null, or a
 * string whatever the column's type: INT64 in digits, BYTES in base64, TIMESTAMP in RFC 3339
 * (google.spanner.v1, TypeCode). Numbers of 64 bits without sign are kept as INT64 of the same
 * bits.
 *
 * Trust    what a server sends is checked: whatever does not follow these rules is KZ_CORRUPT.
 * Threads  one at a time.
 */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "rpc/proto/spanner.pb-c.h"

/* ---- writing: lists of values ------------------------------------------------------------ */

/* Rows or keys, one after the other. */
struct kz_sp_lists {
    struct kz_buf bytes;
    struct kz_buf ends; /* size_t, where each ends */
    ProtobufCBinaryData *data;
};
void kz_sp_lists_done(struct kz_sp_lists *lists);
/* A list is its values, then kz_sp_end(). Texts must be UTF-8. */
void kz_sp_null(struct kz_sp_lists *lists);
void kz_sp_text(struct kz_sp_lists *lists, struct kz_str text);
void kz_sp_bytes(struct kz_sp_lists *lists, struct kz_str bytes);
/* BYTES of two pieces, one behind the other. */
void kz_sp_bytes2(struct kz_sp_lists *lists, struct kz_str first, struct kz_str second);
void kz_sp_int(struct kz_sp_lists *lists, int64_t number);
void kz_sp_time(struct kz_sp_lists *lists, int64_t ms); /* beyond the years 1 to 9999: null */
void kz_sp_end(struct kz_sp_lists *lists);
static inline void kz_sp_u64(struct kz_sp_lists *lists, uint64_t number)
{
    kz_sp_int(lists, (int64_t)number);
}
static inline size_t kz_sp_count(const struct kz_sp_lists *lists)
{
    return lists->ends.size / sizeof(size_t);
}
/* One entry a list; good until the next list or done(). */
ProtobufCBinaryData *kz_sp_data(struct kz_sp_lists *lists);

/* ---- reading: a result set --------------------------------------------------------------- */

/* A value of a row as it was sent. */
struct kz_sp_cell {
    struct kz_str text;
    bool null;
};
KZ_MUST_USE enum kz_code kz_sp_get_int(
        const struct kz_sp_cell *cell, int64_t *ret_number, struct kz_err *err);
KZ_MUST_USE enum kz_code kz_sp_get_u64(
        const struct kz_sp_cell *cell, uint64_t *ret_number, struct kz_err *err);
/* Appends the bytes; null appends nothing. */
KZ_MUST_USE enum kz_code kz_sp_get_bytes(
        const struct kz_sp_cell *cell, struct kz_buf *out, struct kz_err *err);

/* Rows out of the messages of a streaming read (PartialResultSet): values come in a row, whatever
 * message they are in; the last value of a message may be a part, which goes on in the first of the
 * next one. */
struct kz_sp_rows;

enum { KZ_SP_COLUMNS_MAX = 16, KZ_SP_VALUE_SIZE_MAX = 64 << 20 };

typedef enum kz_code kz_sp_row_fn(void *arg, const struct kz_sp_cell *cells, struct kz_err *err);

struct kz_sp_rows *kz_sp_rows_new(size_t column_count);
void kz_sp_rows_free(struct kz_sp_rows *rows);
KZ_DEFINE_FREEP(struct kz_sp_rows, kz_sp_rows_free)
/* Calls `each` with every row that `message` completes; borrowed for the call. Any other code than
 * KZ_OK from it ends the call and is returned. */
KZ_MUST_USE enum kz_code kz_sp_rows_push(struct kz_sp_rows *rows,
        const Google__Spanner__V1__PartialResultSet *message, kz_sp_row_fn *each, void *arg,
        struct kz_err *err);
/* The same of a whole answer (Read, without a stream). */
KZ_MUST_USE enum kz_code kz_sp_rows_take(struct kz_sp_rows *rows,
        const Google__Spanner__V1__ResultSet *answer, kz_sp_row_fn *each, void *arg,
        struct kz_err *err);
/* The stream has ended well: KZ_CORRUPT where a row is not complete. */
KZ_MUST_USE enum kz_code kz_sp_rows_end(const struct kz_sp_rows *rows, struct kz_err *err);
/* The token to go on behind; empty: none was sent. Borrowed. */
struct kz_str kz_sp_rows_token(const struct kz_sp_rows *rows);
/* The stream was lost. It is asked for again behind the token, and gives again what came behind it:
 * the rows among that are not shown a second time. Without a token everything comes again;
 * `ret_again`: rows of it were shown, and will be once more. */
void kz_sp_rows_resume(struct kz_sp_rows *rows, bool *ret_again);
uint64_t kz_sp_rows_count(const struct kz_sp_rows *rows); /* shown */
