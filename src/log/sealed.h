/* log/sealed.h -- a sealed segment: a complete one, sorted by user, compressed, never changed.
 *
 * It holds the same records as the raw segment of its number, less those of erased users, and each
 * keeps its address (kz_lsn) and seq. Its blocks are sorted by (owner, lsn), so that one user's
 * records are one block read. docs/sealed-format.md is the layout in prose.
 *
 *     raw segment -> kz_sealed_sort -> kz_sealed_writer_add* -> finish -> NNNNNNNN.kzs
 *     kz_sealed_open -> seek, prev* | get | find_key | scan | scan_sorted | fsck
 *
 * The step along a chain in a sealed segment: `prev` of its records is not followed one by one, for
 * they lie side by side. Seek (owner, head), take records newest to oldest, skip those of the other
 * chain, and where the run ends go on at `prev` of the oldest one taken: it leads to an earlier
 * segment, or is 0.
 *
 * Owner    its kz_segment, which counts the readers.
 * Threads  a kz_sealed and a pool from any; a cursor, a writer from one at a time.
 * Fails    KZ_CORRUPT for any byte that is not as written, KZ_UNSUPPORTED for a newer version; a
 *          writer also with what the file system says. Never logs.
 */
#pragma once

#include "contract/record.h"
#include "log/tags.h"
#include "sys/file.h"

struct kz_sealed;
struct kz_sealed_pool;
struct kz_sealed_scratch;
struct kz_sealed_writer;

enum {
    KZ_SEALED_VERSION = 3,                /* 1 and 2 are read, too */
    KZ_SEALED_BLOCK_FULL_BYTES = 1 << 10, /* decompressed: the next owner begins another block */
    KZ_SEALED_BLOCK_BYTES = 8 << 10,      /* the most; a larger record has its own block */
    KZ_SEALED_BLOCK_BYTES_V1 = 32 << 10,
    KZ_SEALED_RECORD_MAX_BYTES = 16 << 20,  /* twice the frame limit: more is corruption */
    KZ_SEALED_SCAN_WINDOW_BYTES = 64 << 20, /* addresses gathered at a time by kz_sealed_scan() */
    KZ_SEALED_LEVEL = 1,                    /* of zstd */
};

/* "00000012.kzs"; with `temporary` the name it has while it is written. */
enum { KZ_SEALED_NAME_BYTES = 24 };
void kz_sealed_name(uint32_t segment, bool temporary, char ret_name[KZ_SEALED_NAME_BYTES]);
/* Whether a file of the log's directory is a sealed segment, and which. */
bool kz_sealed_name_parse(const char *name, uint32_t *ret_segment, bool *ret_temporary);

/* ---- the file ------------------------------------------------------------------------------- */

#define KZ_SEALED_MAGIC UINT64_C(0x44454c4145535a4b) /* "KZSEALED" */

/* At offset 0; then the dictionary, the blocks, the index, the keys, the filter of owners and the
 * footer. */
struct kz_sealed_header {
    uint64_t magic;
    uint32_t version;
    uint32_t segment;
    uint8_t log_id[16];
    uint64_t seq_first, seq_last; /* of the raw segment, whatever has been left out since */
    int64_t at_first_ms, at_last_ms;
    uint64_t record_count;
    uint64_t left_out_count; /* erased; record_count + left_out_count = seq_last - seq_first + 1 */
    uint64_t event_count;
    uint64_t raw_bytes; /* of the blocks, decompressed */
    kz_lsn end;         /* all records of the raw segment are below */
    uint64_t index_offset;
    uint32_t block_count;
    uint32_t index_crc;
    uint64_t keys_offset, keys_size, key_count;
    uint64_t owners_offset, owners_size, owner_count;
    uint32_t keys_crc, owners_crc;
    uint64_t file_size;
    uint32_t last_crc; /* of the raw segment's last frame, which its successor names */
    uint32_t crc;      /* of all before it */
};
_Static_assert(sizeof(struct kz_sealed_header) == 192, "on disk");

/* Behind the header; `size` bytes follow, then zeros up to the next multiple of 8. */
struct kz_sealed_dictionary {
    uint32_t size; /* 0: the blocks are compressed without one */
    uint32_t crc;  /* of the bytes */
};
_Static_assert(sizeof(struct kz_sealed_dictionary) == 8, "on disk");

enum { KZ_SEALED_CONTINUES = 1 }; /* the block's first owner has records in the block before */

/* What the index says of one block; sorted by (owner, offset). */
struct kz_sealed_block {
    uint64_t owner;  /* of its first record */
    uint32_t offset; /* lower half of that record's address */
    uint32_t raw_size;
    uint64_t at; /* file offset of its zstd frame */
    uint32_t stored_size;
    uint32_t record_count;
    uint32_t crc; /* of the frame as stored */
    uint32_t flags;
};
_Static_assert(sizeof(struct kz_sealed_block) == 40, "on disk");

/* In a block: a kz_lsn, then the record, then zeros up to the next multiple of 8. */
enum { KZ_SEALED_PREFIX_BYTES = sizeof(kz_lsn) };

struct kz_sealed_footer {
    uint64_t magic;
    uint64_t file_size;
    uint32_t header_crc;
    uint32_t crc; /* of all before it */
};
_Static_assert(sizeof(struct kz_sealed_footer) == 24, "on disk");

/* ---- writing -------------------------------------------------------------------------------- */

struct kz_sealed_params {
    struct kz_fs *fs; /* borrowed, with `dir` and `erased`, until the writer is freed */
    const char *dir;
    uint32_t segment;
    uint8_t log_id[16];
    uint64_t seq_first, seq_last;
    int64_t at_first_ms, at_last_ms;
    kz_lsn end;
    uint32_t last_crc;
    const uint64_t *erased;     /* sorted owners whose records are left out, or NULL */
    const kz_lsn *erased_below; /* of each: records at or behind this stay; NULL: none does */
    size_t erased_count;
    uint64_t left_out_count; /* by an earlier sealing: what the old header says */
    int level;               /* 0: KZ_SEALED_LEVEL */
    uint32_t version;        /* 0: KZ_SEALED_VERSION; others as they used to be, for tests */
};

/* Creates the temporary file. */
KZ_MUST_USE enum kz_code kz_sealed_writer_new(const struct kz_sealed_params *params,
        struct kz_sealed_writer **ret_writer, struct kz_err *err);
/* Takes the next record (copied), or leaves it out where its owner is erased. KZ_CORRUPT where it
 * is not behind the last one by (owner, lsn), or of another segment. */
KZ_MUST_USE enum kz_code kz_sealed_writer_add(struct kz_sealed_writer *writer, kz_lsn lsn,
        const struct kz_record *record, struct kz_err *err);
/* Writes the rest, syncs, renames and syncs the directory. After KZ_OK the segment is durable under
 * its name; after a failure free the writer. */
KZ_MUST_USE enum kz_code kz_sealed_writer_finish(
        struct kz_sealed_writer *writer, struct kz_err *err);
/* Removes the temporary file unless finished. */
void kz_sealed_writer_free(struct kz_sealed_writer *writer);
KZ_DEFINE_FREEP(struct kz_sealed_writer, kz_sealed_writer_free)

/* One record that is to be sorted: 16 bytes each, and as much again while sorting, is what sealing
 * needs besides its buffers. */
struct kz_sealed_entry {
    uint64_t order;  /* its owner */
    uint32_t offset; /* lower half of its address */
    uint32_t zero;
};
/* By `order`, equal ones as they were (a radix sort). */
void kz_sealed_sort(struct kz_sealed_entry *entries, size_t count);

/* ---- reading -------------------------------------------------------------------------------- */

/* Decompressors, each with the block it has decompressed last, lent to one reader at a time. Up to
 * `idle_max` (at least 1; some 130 KiB each) wait for their next use, and a reader that asks for
 * the block that one of them holds gets it as it is. */
struct kz_sealed_pool *kz_sealed_pool_new(unsigned idle_max);
/* How often readers met damage, and where they did last, unless never; NULL: that is not asked. */
uint64_t kz_sealed_pool_damages(struct kz_sealed_pool *pool, char ret_last[KZ_PROBLEM_BYTES]);
/* After all segments and cursors that use it. */
void kz_sealed_pool_free(struct kz_sealed_pool *pool);
KZ_DEFINE_FREEP(struct kz_sealed_pool, kz_sealed_pool_free)

/* Maps the file and verifies header, footer and index, and that it is of the number its name says;
 * blocks, keys and filter are verified when they are read. `fs` and `pool` are borrowed until close. */
KZ_MUST_USE enum kz_code kz_sealed_open(struct kz_fs *fs, const char *path,
        struct kz_sealed_pool *pool, struct kz_sealed **ret_sealed, struct kz_err *err);
void kz_sealed_close(struct kz_sealed *sealed); /* NULL is nothing */
KZ_DEFINE_FREEP(struct kz_sealed, kz_sealed_close)
/* Borrowed. */
const struct kz_sealed_header *kz_sealed_get_header(const struct kz_sealed *sealed);

/* Walks the records of one owner from new to old; members are the implementation's. */
struct kz_sealed_cursor {
    const struct kz_sealed *sealed;
    struct kz_sealed_scratch *scratch; /* NULL before the first record */
    uint64_t owner;
    uint32_t offset; /* records behind it are left out */
    uint32_t block;
    uint32_t left; /* of its records, not given yet */
    bool ended;
};

/* Stands behind the newest record of `owner` at or before `head`. Reads nothing yet. */
void kz_sealed_seek(struct kz_sealed_cursor *cursor, const struct kz_sealed *sealed, uint64_t owner,
        kz_lsn head);
/* The next older record, 8-byte aligned; borrowed until the next call on the cursor. KZ_END (with
 * no message) after the oldest, at once where there is none (erased). */
KZ_MUST_USE enum kz_code kz_sealed_prev(struct kz_sealed_cursor *cursor, kz_lsn *ret_lsn,
        const struct kz_record **ret_record, struct kz_err *err);
/* Gives the buffers back; always, also after a failure. */
void kz_sealed_cursor_done(struct kz_sealed_cursor *cursor);

/* Whether there is any record of `owner`. The filter answers nearly every time it is no. */
KZ_MUST_USE enum kz_code kz_sealed_has_owner(
        const struct kz_sealed *sealed, uint64_t owner, bool *ret_has, struct kz_err *err);
/* The record at `lsn`, copied into `out` (cleared first). `owner` 0: nobody's or not known; where
 * it turns out to be somebody's the whole segment is searched. KZ_NOT_FOUND: not in here. */
KZ_MUST_USE enum kz_code kz_sealed_get(const struct kz_sealed *sealed, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err);
/* The tags of its keys, borrowed; narrow where it is of version 2. False: it is of version 1 and has
 * none, or they are damaged, which kz_sealed_find_key() will say. */
bool kz_sealed_tags(const struct kz_sealed *sealed, struct kz_tags *ret_tags);
/* Begins to fetch what kz_sealed_find_key() will look at first. */
void kz_sealed_prefetch_key(const struct kz_sealed *sealed, uint64_t key);
/* The keys' tags first, then the records: is there one with `key` (not 0) and `owner` that `match`es (NULL:
 * any), the newest first? `owner` 0: anybody's, in no order, and the whole segment is searched
 * where the tags do not rule it out. */
KZ_MUST_USE enum kz_code kz_sealed_find_key(const struct kz_sealed *sealed, uint64_t key,
        uint64_t owner, bool (*match)(void *arg, const struct kz_record *record), void *arg,
        bool *ret_found, struct kz_err *err);

/* Calls `each` with every record with from <= lsn < until in address order; a code of it other than
 * KZ_OK ends the scan and is returned. Decompresses the file once for each
 * KZ_SEALED_SCAN_WINDOW_BYTES of addresses and holds that much: for rebuilds, dumps, full scans. */
KZ_MUST_USE enum kz_code kz_sealed_scan(const struct kz_sealed *sealed, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err);
/* Every record in the order of the file: by (owner, lsn), with one block in memory. */
KZ_MUST_USE enum kz_code kz_sealed_scan_sorted(const struct kz_sealed *sealed,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err);
/* Verifies every byte of the file, its order, counts, keys and filter; problems go to `report` (may be
 * NULL), one line each. The insides of records are the caller's to check. KZ_CORRUPT with the first
 * problem, and how many more there are. */
KZ_MUST_USE enum kz_code kz_sealed_fsck(const struct kz_sealed *sealed,
        void (*report)(void *arg, const char *line), void *arg, struct kz_err *err);
