/* contract/history.h -- reading one user's events, whoever keeps them.
 *
 * The embedded log and Spanner implement it; features, having and the SQL tables read through it.
 *
 * Threads  a reader from any thread, each call on its own; rows are used by the caller's thread.
 */
#pragma once

#include "contract/record.h"

enum { KZ_SOURCES_MAX = 64 };

/* A run of records that belongs to a user: their own, or that of an id linked to them. Records of
 * `owner` at or before `head` are theirs. */
struct kz_source {
    uint64_t owner;
    kz_lsn head; /* newest record on the chain; 0 where there is none */
};

/* A place between two commits of a log, and what it is known by again: the log's id, and the CRC of
 * the frame that ends there, in which those of all frames before it are chained. Whoever keeps what
 * follows from a log keeps its mark, so that it is not believed beside another log. */
struct kz_log_mark {
    kz_lsn position; /* 0: none */
    uint32_t crc;    /* 0 where no frame is before it */
    uint8_t log_id[16];
};

/* What a caller looks at of an event; what is left out here may read as empty or NULL. seq, times,
 * session, flags and identity are always there. */
struct kz_event_parts {
    bool event_id, name, props;
    uint32_t columns_id; /* of the definitions that `columns` counts in; an event that was written
                          * under others has its props instead */
    uint64_t columns;    /* bit i: typed column i */
};

struct kz_history_cache;

struct kz_history_query {
    const struct kz_source *sources;
    size_t source_count;
    enum kz_chain chain;
    kz_lsn as_of;        /* records at or before this address; UINT64_MAX for all */
    uint32_t events_max; /* newest that many; 0 for all */
    int64_t since_ms;    /* EVENTS with ts before this are left out; INT64_MIN for none */
    bool include_actions;
    kz_lsn after; /* records at or before this address are known to the caller: an implementation
                   * may leave them out, none has to; 0: none is */
    struct kz_history_cache
            *cache; /* of this reader; its parts are enough for the caller. Or NULL */
};

struct kz_history_rows {
    const struct kz_record **records; /* count of them, oldest first (by address) */
    const kz_lsn *lsns;               /* their addresses */
    size_t count;
    bool truncated; /* events_max cut something off that since_ms would have let in */
    void *priv;     /* the implementation's hold on the bytes */
};

struct kz_history_reader {
    const struct kz_history_reader_ops *ops;
};

struct kz_history_reader_ops {
    /* Fills `ret_rows`; the records stay readable until release. */
    enum kz_code (*scan)(struct kz_history_reader *reader, const struct kz_history_query *query,
            struct kz_history_rows *ret_rows, struct kz_err *err);
    void (*release)(struct kz_history_reader *reader, struct kz_history_rows *rows);
    /* Calls `each` with every record with from <= lsn < until in address order; a code other than
     * KZ_OK from it ends the scan and is returned (KZ_END: stop, no error). */
    enum kz_code (*scan_all)(struct kz_history_reader *reader, kz_lsn from, kz_lsn until,
            enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
            struct kz_err *err);
    /* One record by address, copied into `out` (cleared first); of a COPY the record it holds.
     * KZ_NOT_FOUND where retention or erasure has taken it. */
    enum kz_code (*get)(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
            struct kz_buf *out, struct kz_err *err);
    /* Memory for events that are slow to read, kept from one scan with it to the next, `bytes_max` at
     * most. A scan gives the same rows with it as without, but for what `parts` leaves out. It
     * belongs to one thread. NULL: this reader has no use for one; so has one without the function. */
    struct kz_history_cache *(*cache_new)(struct kz_history_reader *reader,
            const struct kz_event_parts *parts, uint64_t bytes_max);
    void (*cache_free)(struct kz_history_reader *reader, struct kz_history_cache *cache);
    /* Drops and overwrites what it has of an owner (erased). */
    void (*cache_forget)(
            struct kz_history_reader *reader, struct kz_history_cache *cache, uint64_t owner);
};

/* A user's record by address, whichever of their runs it lies on: in a sealed segment a record is
 * found by its owner, and without one the whole segment has to be searched. */
static inline enum kz_code kz_history_get_of(struct kz_history_reader *reader, kz_lsn lsn,
        const struct kz_source *sources, size_t source_count, struct kz_buf *out,
        struct kz_err *err)
{
    enum kz_code rc = KZ_NOT_FOUND;

    for (size_t i = 0; i < source_count && rc == KZ_NOT_FOUND; i++)
        rc = reader->ops->get(reader, lsn, sources[i].owner, out, err);
    return source_count ? rc : kz_fail(err, KZ_NOT_FOUND, "nobody has records");
}

/* Rows gathered newest first, as scan() gives them. */
static inline void kz_history_reverse(
        const struct kz_record **records, kz_lsn *lsns, size_t row_count)
{
    for (size_t i = 0, j = row_count; i + 1 < j; i++) {
        const struct kz_record *record = records[i];
        kz_lsn lsn = lsns[i];

        j--;
        records[i] = records[j];
        lsns[i] = lsns[j];
        records[j] = record;
        lsns[j] = lsn;
    }
}
