/* app/roles/openerasures.h -- erasures that have a pass to come, as a word of the predictions' backend: whoever
 * carries out the first pass may be killed before the second, and another `serve` takes it over.
 *
 * No id of anybody is in it: only hashes, as in tombstones.
 *
 * Threads  pure.
 * Fails    KZ_CORRUPT: checked like any foreign bytes. KZ_OVERLOADED: there are too many.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

#define KZ_OPEN_ERASURES_WORD "erasures"
enum { KZ_OPEN_ERASURES_MAX = 20000 /* owners, of all that are open */ };

/* An owner that goes; those of one erasure follow each other. */
struct kz_open_erasure {
    uint64_t erasure; /* its id */
    int64_t at_ms;    /* asked for: with the id, which one it is */
    int64_t due_ms;   /* its second pass, by our clock */
    uint64_t stone;   /* hash */
    uint64_t owner;
};

/* Appends what is in the word's bytes (empty: nothing) to `out`, as structs. */
KZ_MUST_USE enum kz_code kz_open_erasures_read(
        struct kz_str bytes, struct kz_buf *out, struct kz_err *err);
/* The word's bytes into `out` (cleared first): what is in `before`, without the erasure of `erasure` and
 * `at_ms`, and with `more`. Nothing is left: no bytes. */
KZ_MUST_USE enum kz_code kz_open_erasures_change(struct kz_str before, uint64_t erasure,
        int64_t at_ms, const struct kz_open_erasure *more, size_t count, struct kz_buf *out,
        struct kz_err *err);
