/* backends/memory/store_rows.h -- a sorted table of rows: a skip list (W. Pugh, 1990).
 *
 * Threads  one at a time.
 */
#pragma once

#include "base/buf.h"

/* Ordered by a, b, c, then the tail's bytes. */
struct kz_row_key {
    uint64_t a, b, c;
    struct kz_str tail;
};

struct kz_row {
    struct kz_row_key key; /* the tail lies behind the row's levels */
    uint64_t version;      /* of the put that last wrote it */
    char *bytes;           /* malloc'd; 8-aligned */
    size_t size;
    unsigned level;
    struct kz_row *next[];
};

enum { KZ_ROWS_LEVELS = 24 };

struct kz_rows {
    struct kz_row *head[KZ_ROWS_LEVELS];
    unsigned level;
    size_t count;
    uint64_t random;
};

void kz_rows_done(struct kz_rows *rows);
/* The first row at or behind `key`, NULL none; the following ones by next[0]. */
struct kz_row *kz_rows_seek(const struct kz_rows *rows, struct kz_row_key key);
struct kz_row *kz_rows_get(const struct kz_rows *rows, struct kz_row_key key);
/* Copies key and value; a row that is there gets the new value. */
void kz_rows_put(
        struct kz_rows *rows, struct kz_row_key key, struct kz_str value, uint64_t version);
/* Whether it was there. */
bool kz_rows_remove(struct kz_rows *rows, struct kz_row_key key);
