/* codec/csv.h -- a reader of comma-separated values (RFC 4180), row by row over a buffer.
 *
 * Fields may be quoted, with "" for a quote and line breaks inside; rows end by LF or CRLF; a UTF-8
 * byte order mark at the very beginning is skipped; empty lines are skipped. A file larger than
 * memory is fed in pieces: init with `last` false, and when next says KZ_END move the unread rest
 * (kz_csv_rest) to the front of the buffer, fill up, and kz_csv_feed().
 *
 * Owner    fields borrow the buffer, or the reader where quotes were undoubled: until the next
 * call. Threads  one at a time. Fails    KZ_END behind the last row; KZ_INVALID: "line 7: ..." for
 * a quote in the wrong place or one that never closes.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

struct kz_csv_row {
    const struct kz_str *fields;
    size_t count;
    uint64_t line; /* of the row's beginning, from 1 */
};

struct kz_csv {
    struct kz_str rest;
    char separator;
    bool last;
    bool begun;
    uint64_t line;
    struct kz_buf fields;  /* of struct kz_str */
    struct kz_buf scratch; /* undoubled text */
};

void kz_csv_init(struct kz_csv *csv, struct kz_str text, char separator, bool last);
void kz_csv_done(struct kz_csv *csv);
KZ_MUST_USE enum kz_code kz_csv_next(
        struct kz_csv *csv, struct kz_csv_row *ret_row, struct kz_err *err);
struct kz_str kz_csv_rest(const struct kz_csv *csv);
void kz_csv_feed(struct kz_csv *csv, struct kz_str text, bool last);

/* Appends one field, quoted where it has to be. */
void kz_csv_put(struct kz_buf *buf, struct kz_str field, char separator);
