/* Reading sealed segments.
 *
 * R1  Dictionary and index are verified at open, a block whenever it is decompressed (checksum,
 *     sizes, order, and that it begins where the index says and ends before the next one), keys and
 *     filter before their first answer. So nothing below trusts a byte that has not been looked at.
 * R2  A run (the records of one owner) begins in the last block whose first record is not behind it
 *     and goes back as long as blocks say KZ_SEALED_CONTINUES.
 */
#include "log/sealed.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/crc32c.h"
#include "codec/zstd.h"
#include "log/dictionary.h"
#include "log/filter.h"
#include "log/sealed_pool.h"

enum {
    SEALED_MAGIC = 0x7a736c64, /* in memory */
};

enum filter_state { FILTER_UNKNOWN, FILTER_GOOD };

struct kz_sealed {
    uint32_t magic;
    struct kz_sealed_pool *pool;
    struct kz_file *file;
    uint64_t serial; /* never given twice, unlike an address */
    uint64_t size;
    const char *data;
    const struct kz_sealed_header *header;
    struct kz_zstd_dictionary *dictionary; /* owned; NULL: the blocks are without */
    uint64_t blocks_at;                    /* where the first one is */
    const struct kz_sealed_block *blocks;
    struct filters {
        atomic_int keys, owners; /* enum filter_state */
    } * filters;                 /* apart, because all else never changes */
};

typedef enum kz_code (*each_fn)(void *arg, kz_lsn lsn, const struct kz_record *record);

/* Whoever asked is told, and so is the pool: an operator has to know, too. */
static enum kz_code fail_corrupt(
        const struct kz_sealed *sealed, struct kz_err *err, const char *what)
{
    struct kz_err why;

    (void)kz_fail(
            &why, KZ_CORRUPT, "sealed segment \"%s\" is damaged: %s", sealed->file->path, what);
    kz_sealed_pool_damaged(sealed->pool, why.message);
    if (err)
        *err = why;
    return KZ_CORRUPT;
}

/* ---- opening -------------------------------------------------------------------------------- */

static bool is_zero(const char *data, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        if (data[i])
            return false;
    return true;
}

static enum kz_code check_ends(const struct kz_sealed *sealed, uint32_t number, struct kz_err *err)
{
    const struct kz_sealed_header *header = sealed->header;
    uint64_t size = sealed->size;
    struct kz_sealed_footer footer;

    if (header->magic != KZ_SEALED_MAGIC)
        return fail_corrupt(sealed, err, "it does not begin as one");
    if (header->crc != kz_crc32c(0, header, offsetof(struct kz_sealed_header, crc)))
        return fail_corrupt(sealed, err, "its header fails its checksum");
    if (header->version < 1 || header->version > KZ_SEALED_VERSION)
        return kz_fail(err, KZ_UNSUPPORTED,
                "sealed segment \"%s\" has format %" PRIu32 ", this build reads up to %d",
                sealed->file->path, header->version, KZ_SEALED_VERSION);
    if (header->segment != number)
        return fail_corrupt(sealed, err, "it is of another number");
    if (header->file_size != size)
        return fail_corrupt(sealed, err, "it is not as long as it says");
    if (KZ_LSN_SEGMENT(header->end) != number)
        return fail_corrupt(sealed, err, "it ends in another segment");
    memcpy(&footer, sealed->data + size - sizeof(footer), sizeof(footer));
    if (footer.crc != kz_crc32c(0, &footer, offsetof(struct kz_sealed_footer, crc)) ||
            footer.magic != KZ_SEALED_MAGIC || footer.file_size != size ||
            footer.header_crc != header->crc)
        return fail_corrupt(sealed, err, "its footer does not belong to its header");
    return KZ_OK;
}

static uint64_t aligned(uint64_t offset)
{
    return (offset + KZ_FILTER_BLOCK_BYTES - 1) / KZ_FILTER_BLOCK_BYTES * KZ_FILTER_BLOCK_BYTES;
}

static uint64_t keys_size(const struct kz_sealed_header *header)
{
    if (header->version == 1)
        return kz_filter_size(header->key_count);
    return aligned(header->version == 2 ? header->key_count * sizeof(uint32_t)
                                        : kz_tags_size(header->key_count));
}

/* The sections follow one another and fill the file; only alignment is between them. */
static enum kz_code check_sections(const struct kz_sealed *sealed, struct kz_err *err)
{
    const struct kz_sealed_header *header = sealed->header;
    uint64_t size = header->file_size, index_end;

    if (header->index_offset > size || header->keys_offset > size || header->keys_size > size ||
            header->owners_offset > size || header->owners_size > size ||
            header->key_count > size || header->owner_count > size)
        return fail_corrupt(sealed, err, "its sections lie outside");
    index_end = header->index_offset + header->block_count * sizeof(struct kz_sealed_block);
    if (header->index_offset % KZ_FILTER_BLOCK_BYTES || header->index_offset < sizeof(*header) ||
            header->keys_offset != aligned(index_end) ||
            header->owners_offset != header->keys_offset + header->keys_size ||
            header->owners_offset + header->owners_size + sizeof(struct kz_sealed_footer) != size ||
            header->keys_size != keys_size(header) ||
            header->owners_size != kz_filter_size(header->owner_count))
        return fail_corrupt(sealed, err, "its sections do not fit together");
    if (!is_zero(sealed->data + index_end, header->keys_offset - index_end))
        return fail_corrupt(sealed, err, "there are bytes between its sections");
    return KZ_OK;
}

/* Blocks begin behind it. Of an older version there is none. */
static enum kz_code open_dictionary(struct kz_sealed *sealed, struct kz_err *err)
{
    uint64_t at = sizeof(*sealed->header);
    struct kz_sealed_dictionary head;
    const char *bytes;

    sealed->blocks_at = at;
    if (sealed->header->version == 1)
        return KZ_OK;
    if (sealed->header->index_offset - at < sizeof(head))
        return fail_corrupt(sealed, err, "its dictionary lies outside");
    memcpy(&head, sealed->data + at, sizeof(head));
    at += sizeof(head);
    bytes = sealed->data + at;
    if (head.size > KZ_DICTIONARY_BYTES_MAX ||
            KZ_ALIGN8((uint64_t)head.size) > sealed->header->index_offset - at)
        return fail_corrupt(sealed, err, "its dictionary lies outside");
    sealed->blocks_at = at + KZ_ALIGN8((uint64_t)head.size);
    if (head.crc != kz_crc32c(0, bytes, head.size) ||
            !is_zero(bytes + head.size, sealed->blocks_at - at - head.size))
        return fail_corrupt(sealed, err, "its dictionary fails its checksum");
    if (!head.size)
        return KZ_OK;
    sealed->dictionary = kz_zstd_dictionary_new(kz_str_n(bytes, head.size));
    return sealed->dictionary ? KZ_OK
                              : fail_corrupt(sealed, err, "its dictionary is none of zstd's");
}

static bool is_before(uint64_t owner_a, uint32_t offset_a, uint64_t owner_b, uint32_t offset_b)
{
    return owner_a != owner_b ? owner_a < owner_b : offset_a < offset_b;
}

static bool is_sound(const struct kz_sealed_block *block, const struct kz_sealed_block *before)
{
    if (block->raw_size < KZ_SEALED_RECORD_BYTES_MIN || block->raw_size % 8 ||
            !block->stored_size || !block->record_count ||
            block->flags & ~(uint32_t)KZ_SEALED_CONTINUES)
        return false;
    if (block->record_count > 1 ? block->raw_size > KZ_SEALED_BLOCK_BYTES_V1
                                : block->raw_size > KZ_SEALED_PREFIX_BYTES +
                                                            (uint32_t)KZ_SEALED_RECORD_MAX_BYTES)
        return false;
    if (!before)
        return !block->flags;
    return is_before(before->owner, before->offset, block->owner, block->offset);
}

static enum kz_code check_index(const struct kz_sealed *sealed, struct kz_err *err)
{
    const struct kz_sealed_header *header = sealed->header;
    uint64_t at = sealed->blocks_at, record_count = 0, raw_bytes = 0;

    if (header->index_crc !=
            kz_crc32c(0, sealed->blocks, header->block_count * sizeof(struct kz_sealed_block)))
        return fail_corrupt(sealed, err, "its index fails its checksum");
    for (uint32_t i = 0; i < header->block_count; i++) {
        const struct kz_sealed_block *block = &sealed->blocks[i];

        if (!is_sound(block, i ? block - 1 : NULL) || block->at != at ||
                block->stored_size > header->index_offset - at)
            return fail_corrupt(sealed, err, "its index makes no sense");
        at += block->stored_size;
        record_count += block->record_count;
        raw_bytes += block->raw_size;
    }
    if (header->index_offset - at >= KZ_FILTER_BLOCK_BYTES ||
            !is_zero(sealed->data + at, header->index_offset - at))
        return fail_corrupt(sealed, err, "there are bytes behind its blocks");
    if (record_count != header->record_count || raw_bytes != header->raw_bytes ||
            record_count + header->left_out_count != header->seq_last - header->seq_first + 1)
        return fail_corrupt(sealed, err, "its counts do not add up");
    return KZ_OK;
}

enum kz_code kz_sealed_open(struct kz_fs *fs, const char *path, struct kz_sealed_pool *pool,
        struct kz_sealed **ret_sealed, struct kz_err *err)
{
    KZ_AUTO(kz_sealed_closep) struct kz_sealed *sealed = kz_calloc(1, sizeof(*sealed));
    const char *slash = strrchr(path, '/');
    const void *data;
    uint32_t number;
    bool temporary;

    sealed->magic = SEALED_MAGIC;
    sealed->pool = pool;
    sealed->serial = kz_sealed_pool_serial(pool);
    sealed->filters = kz_calloc(1, sizeof(*sealed->filters));
    if (!kz_sealed_name_parse(slash ? slash + 1 : path, &number, &temporary))
        return kz_fail(err, KZ_INVALID, "\"%s\" is not the name of a sealed segment", path);
    KZ_TRY(fs->ops->open(fs, path, KZ_OPEN_READ, &sealed->file, err));
    KZ_TRY(sealed->file->ops->size(sealed->file, &sealed->size, err));
    if (sealed->size < sizeof(struct kz_sealed_header) + sizeof(struct kz_sealed_footer))
        return fail_corrupt(sealed, err, "it is too short");
    KZ_TRY(sealed->file->ops->map(sealed->file, sealed->size, &data, err));
    sealed->data = data;
    sealed->header = data;
    KZ_TRY(check_ends(sealed, number, err));
    KZ_TRY(check_sections(sealed, err));
    KZ_TRY(open_dictionary(sealed, err));
    sealed->blocks = (const void *)(sealed->data + sealed->header->index_offset);
    KZ_TRY(check_index(sealed, err));
    *ret_sealed = kz_take(&sealed);
    return KZ_OK;
}

void kz_sealed_close(struct kz_sealed *sealed)
{
    if (!sealed)
        return;
    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    if (sealed->data)
        sealed->file->ops->unmap(sealed->file, sealed->data, sealed->size);
    kz_file_close(sealed->file);
    kz_zstd_dictionary_free(sealed->dictionary);
    free(sealed->filters);
    sealed->magic = 0;
    free(sealed);
}

const struct kz_sealed_header *kz_sealed_get_header(const struct kz_sealed *sealed)
{
    return sealed->header;
}

/* ---- blocks --------------------------------------------------------------------------------- */

static kz_lsn lsn_at(const struct kz_sealed_scratch *scratch, uint32_t k)
{
    return kz_load_u64(scratch->raw.data + scratch->at[k]);
}

static const struct kz_record *record_at(const struct kz_sealed_scratch *scratch, uint32_t k)
{
    return (const void *)(scratch->raw.data + scratch->at[k] + KZ_SEALED_PREFIX_BYTES);
}

/* Finds the records of a decompressed block. */
static bool find_records(
        const struct kz_sealed *sealed, uint32_t number, struct kz_sealed_scratch *scratch)
{
    const struct kz_sealed_block *block = &sealed->blocks[number];
    const struct kz_buf *raw = &scratch->raw;
    const struct kz_record *record = NULL;
    kz_lsn lsn = 0;
    uint32_t count = 0;

    for (size_t at = 0; at < raw->size; count++) {
        const struct kz_record *before = record;
        kz_lsn lsn_before = lsn;

        if (count == block->record_count || raw->size - at < KZ_SEALED_RECORD_BYTES_MIN)
            return false;
        scratch->at[count] = (uint32_t)at;
        record = record_at(scratch, count);
        lsn = lsn_at(scratch, count);
        if (record->size < sizeof(*record) ||
                KZ_ALIGN8((size_t)record->size) > raw->size - at - KZ_SEALED_PREFIX_BYTES)
            return false;
        if (KZ_LSN_SEGMENT(lsn) != sealed->header->segment || lsn >= sealed->header->end)
            return false;
        if (before ? !is_before(before->owner, KZ_LSN_OFFSET(lsn_before), record->owner,
                             KZ_LSN_OFFSET(lsn))
                   : record->owner != block->owner || KZ_LSN_OFFSET(lsn) != block->offset)
            return false;
        at += KZ_SEALED_PREFIX_BYTES + KZ_ALIGN8((size_t)record->size);
    }
    if (number + 1 < sealed->header->block_count) {
        const struct kz_sealed_block *next = block + 1;

        if (!is_before(record->owner, KZ_LSN_OFFSET(lsn), next->owner, next->offset) ||
                (record->owner == next->owner) != (next->flags & KZ_SEALED_CONTINUES))
            return false;
    }
    scratch->count = count;
    return count == block->record_count;
}

static enum kz_code load_block(const struct kz_sealed *sealed, uint32_t number,
        struct kz_sealed_scratch *scratch, struct kz_err *err)
{
    const struct kz_sealed_block *block = &sealed->blocks[number];
    const char *frame = sealed->data + block->at;
    const char *what = "fails its checksum";
    char where[100];
    enum kz_code rc;

    if (scratch->block == number && scratch->serial == sealed->serial)
        return KZ_OK;
    kz_sealed_scratch_forget(scratch);
    if (kz_crc32c(0, frame, block->stored_size) == block->crc) {
        rc = kz_zstd_decompress_with(scratch->zstd, sealed->dictionary,
                kz_str_n(frame, block->stored_size), block->raw_size, &scratch->raw, NULL);
        if (rc != KZ_OK || scratch->raw.size != block->raw_size)
            what = "does not decompress to its size";
        else if (!find_records(sealed, number, scratch))
            what = "holds records that make no sense";
        else
            what = NULL;
    }
    if (what) {
        snprintf(where, sizeof(where), "block %" PRIu32 " at byte %" PRIu64 " %s", number,
                block->at, what);
        return fail_corrupt(sealed, err, where);
    }
    scratch->serial = sealed->serial;
    scratch->block = number;
    return KZ_OK;
}

/* ---- one owner ------------------------------------------------------------------------------ */

static bool begins_behind(
        const struct kz_sealed *sealed, uint32_t number, uint64_t owner, uint32_t offset)
{
    const struct kz_sealed_block *block = &sealed->blocks[number];

    return is_before(owner, offset, block->owner, block->offset);
}

/* Where an owner would be if owners, which are hashes, were spread evenly; and again from what is
 * found there, which leaves a few blocks of error. `block_count` is not 0. */
static uint32_t guess_block(const struct kz_sealed *sealed, uint64_t owner)
{
    uint32_t count = sealed->header->block_count;
    uint32_t guess = (uint32_t)(((owner >> 32) * count) >> 32);
    uint64_t there = sealed->blocks[guess].owner;
    uint64_t off = owner > there ? owner - there : there - owner;
    uint32_t blocks = (uint32_t)(((off >> 32) * count) >> 32);

    if (owner > there)
        return blocks < count - guess ? guess + blocks : count - 1;
    return blocks < guess ? guess - blocks : 0;
}

/* The last block whose first record is not behind (owner, offset); KZ_SEALED_NO_BLOCK where all are. From the
 * guess in growing steps, then by halves: a handful of cache misses, where halving all of the index
 * would take one a step. */
static uint32_t find_block(const struct kz_sealed *sealed, uint64_t owner, uint32_t offset)
{
    uint32_t low = 0, high = sealed->header->block_count, step = 2, guess;

    if (!high)
        return KZ_SEALED_NO_BLOCK;
    guess = guess_block(sealed, owner);
    if (begins_behind(sealed, guess, owner, offset)) {
        high = guess;
        while (high >= step && begins_behind(sealed, high - step, owner, offset)) {
            high -= step;
            step *= 2;
        }
        low = high >= step ? high - step + 1 : 0;
    } else {
        low = guess + 1;
        while (step <= high - low && !begins_behind(sealed, low + step - 1, owner, offset)) {
            low += step;
            step *= 2;
        }
        high = step <= high - low ? low + step - 1 : high;
    }
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;

        if (begins_behind(sealed, mid, owner, offset))
            high = mid;
        else
            low = mid + 1;
    }
    return low - 1;
}

/* How many records of the loaded block are not behind (owner, offset). */
static uint32_t count_upto(const struct kz_sealed_scratch *scratch, uint64_t owner, uint32_t offset)
{
    uint32_t low = 0, high = scratch->count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;

        if (is_before(owner, offset, record_at(scratch, mid)->owner,
                    KZ_LSN_OFFSET(lsn_at(scratch, mid))))
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

void kz_sealed_seek(struct kz_sealed_cursor *cursor, const struct kz_sealed *sealed, uint64_t owner,
        kz_lsn head)
{
    uint32_t segment = sealed->header->segment;
    uint32_t offset = KZ_LSN_SEGMENT(head) > segment ? UINT32_MAX : KZ_LSN_OFFSET(head);

    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    *cursor = (struct kz_sealed_cursor){
            .sealed = sealed,
            .owner = owner,
            .offset = offset,
            .block = find_block(sealed, owner, offset),
    };
    cursor->ended = KZ_LSN_SEGMENT(head) < segment || cursor->block == KZ_SEALED_NO_BLOCK;
}

void kz_sealed_cursor_done(struct kz_sealed_cursor *cursor)
{
    if (cursor->scratch)
        kz_sealed_pool_put(cursor->sealed->pool, cursor->scratch);
    cursor->scratch = NULL;
    cursor->ended = true;
}

static enum kz_code load_cursor(struct kz_sealed_cursor *cursor, struct kz_err *err)
{
    enum kz_code rc;

    if (!cursor->scratch)
        cursor->scratch = kz_sealed_pool_take(
                cursor->sealed->pool, cursor->sealed->serial, cursor->block);
    rc = load_block(cursor->sealed, cursor->block, cursor->scratch, err);
    if (rc != KZ_OK) {
        cursor->ended = true;
        return rc;
    }
    cursor->left = count_upto(cursor->scratch, cursor->owner, cursor->offset);
    return KZ_OK;
}

enum kz_code kz_sealed_prev(struct kz_sealed_cursor *cursor, kz_lsn *ret_lsn,
        const struct kz_record **ret_record, struct kz_err *err)
{
    const struct kz_record *record;

    if (cursor->ended)
        return KZ_END;
    if (!cursor->scratch)
        KZ_TRY(load_cursor(cursor, err));
    while (!cursor->left) {
        const struct kz_sealed_block *block = &cursor->sealed->blocks[cursor->block];

        if (block->owner != cursor->owner || !(block->flags & KZ_SEALED_CONTINUES)) {
            cursor->ended = true;
            return KZ_END;
        }
        cursor->block--;
        KZ_TRY(load_cursor(cursor, err));
    }
    record = record_at(cursor->scratch, cursor->left - 1);
    if (record->owner != cursor->owner) {
        cursor->ended = true;
        return KZ_END;
    }
    *ret_lsn = lsn_at(cursor->scratch, --cursor->left);
    *ret_record = record;
    return KZ_OK;
}

/* Of version 1 there are none. */
static struct kz_tags tags_of(const struct kz_sealed *sealed)
{
    const struct kz_sealed_header *header = sealed->header;
    const uint32_t *stored = (const void *)(sealed->data + header->keys_offset);

    if (header->version == 2)
        return (struct kz_tags){.low = stored, .count = header->key_count};
    return header->version == 1 ? (struct kz_tags){0} : kz_tags_at(stored, header->key_count);
}

/* Keys and owners are verified before their first answer; two threads may do so at once. */
static enum kz_code check_keys(const struct kz_sealed *sealed, struct kz_err *err)
{
    const struct kz_sealed_header *header = sealed->header;
    struct kz_tags tags = tags_of(sealed);

    if (atomic_load_explicit(&sealed->filters->keys, memory_order_acquire) == FILTER_GOOD)
        return KZ_OK;
    if (kz_crc32c(0, sealed->data + header->keys_offset, header->keys_size) != header->keys_crc)
        return fail_corrupt(sealed, err, "a filter fails its checksum");
    if (!kz_tags_are_sound(&tags))
        return fail_corrupt(sealed, err, "its keys make no sense");
    atomic_store_explicit(&sealed->filters->keys, FILTER_GOOD, memory_order_release);
    return KZ_OK;
}

static enum kz_code check_owners(const struct kz_sealed *sealed, struct kz_err *err)
{
    const struct kz_sealed_header *header = sealed->header;

    if (atomic_load_explicit(&sealed->filters->owners, memory_order_acquire) == FILTER_GOOD)
        return KZ_OK;
    if (kz_crc32c(0, sealed->data + header->owners_offset, header->owners_size) !=
            header->owners_crc)
        return fail_corrupt(sealed, err, "a filter fails its checksum");
    atomic_store_explicit(&sealed->filters->owners, FILTER_GOOD, memory_order_release);
    return KZ_OK;
}

static bool may_have_key(const struct kz_sealed *sealed, uint64_t key)
{
    const struct kz_sealed_header *header = sealed->header;
    struct kz_tags tags = tags_of(sealed);

    return header->version == 1
                   ? kz_filter_has(sealed->data + header->keys_offset, header->keys_size, key)
                   : kz_tags_have(&tags, kz_tag(key));
}

static bool filter_has_owner(const struct kz_sealed *sealed, uint64_t owner)
{
    return kz_filter_has(
            sealed->data + sealed->header->owners_offset, sealed->header->owners_size, owner);
}

enum kz_code kz_sealed_has_owner(
        const struct kz_sealed *sealed, uint64_t owner, bool *ret_has, struct kz_err *err)
{
    enum kz_code rc = KZ_END;

    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    KZ_TRY(check_owners(sealed, err));
    if (filter_has_owner(sealed, owner)) {
        struct kz_sealed_cursor cursor;
        const struct kz_record *record;
        kz_lsn lsn;

        kz_sealed_seek(&cursor, sealed, owner, UINT64_MAX);
        rc = kz_sealed_prev(&cursor, &lsn, &record, err);
        kz_sealed_cursor_done(&cursor);
        if (rc != KZ_OK && rc != KZ_END)
            return rc;
    }
    *ret_has = rc == KZ_OK;
    return KZ_OK;
}

/* ---- one record ----------------------------------------------------------------------------- */

struct search {
    kz_lsn lsn;   /* 0: any */
    uint64_t key; /* 0: any */
    bool (*match)(void *arg, const struct kz_record *record);
    void *arg;
    struct kz_buf *out; /* NULL: not wanted */
    bool found;
};

static enum kz_code each_of_search(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct search *search = arg;

    if ((search->lsn && lsn != search->lsn) || (search->key && record->key != search->key) ||
            (search->match && !search->match(search->arg, record)))
        return KZ_OK;
    if (search->out)
        kz_buf_put(search->out, record, record->size);
    search->found = true;
    return KZ_END;
}

/* Where the owner is known: their records, the newest first. */
static enum kz_code search_owner(
        const struct kz_sealed *sealed, uint64_t owner, struct search *search, struct kz_err *err)
{
    struct kz_sealed_cursor cursor;
    const struct kz_record *record;
    enum kz_code rc;
    kz_lsn lsn;

    kz_sealed_seek(&cursor, sealed, owner, search->lsn ? search->lsn : UINT64_MAX);
    while ((rc = kz_sealed_prev(&cursor, &lsn, &record, err)) == KZ_OK)
        if (each_of_search(search, lsn, record) == KZ_END || search->lsn)
            break;
    kz_sealed_cursor_done(&cursor);
    return rc == KZ_END ? KZ_OK : rc;
}

static enum kz_code search_all(
        const struct kz_sealed *sealed, struct search *search, struct kz_err *err)
{
    enum kz_code rc = kz_sealed_scan_sorted(sealed, each_of_search, search, err);

    return rc == KZ_END ? KZ_OK : rc;
}

enum kz_code kz_sealed_get(const struct kz_sealed *sealed, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    struct search search = {.lsn = lsn, .out = out};

    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    kz_buf_clear(out);
    if (KZ_LSN_SEGMENT(lsn) == sealed->header->segment && KZ_LSN_OFFSET(lsn)) {
        KZ_TRY(search_owner(sealed, owner, &search, err));
        if (!search.found && !owner)
            KZ_TRY(search_all(sealed, &search, err));
    }
    if (!search.found)
        return kz_fail(err, KZ_NOT_FOUND, "there is no record %" PRIx64 " in segment %" PRIu32, lsn,
                sealed->header->segment);
    return KZ_OK;
}

bool kz_sealed_tags(const struct kz_sealed *sealed, struct kz_tags *ret_tags)
{
    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    if (sealed->header->version == 1 || check_keys(sealed, NULL) != KZ_OK)
        return false;
    *ret_tags = tags_of(sealed);
    return true;
}

void kz_sealed_prefetch_key(const struct kz_sealed *sealed, uint64_t key)
{
    const struct kz_sealed_header *header = sealed->header;
    struct kz_tags tags = tags_of(sealed);

    if (atomic_load_explicit(&sealed->filters->keys, memory_order_acquire) != FILTER_GOOD)
        return; /* where to look is not known yet */
    if (header->version == 1)
        kz_filter_prefetch(sealed->data + header->keys_offset, header->keys_size, key);
    else
        kz_tags_prefetch(&tags, kz_tag(key));
}

enum kz_code kz_sealed_find_key(const struct kz_sealed *sealed, uint64_t key, uint64_t owner,
        bool (*match)(void *arg, const struct kz_record *record), void *arg, bool *ret_found,
        struct kz_err *err)
{
    struct search search = {.key = key, .match = match, .arg = arg};

    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    KZ_TRY(check_keys(sealed, err));
    if (key && may_have_key(sealed, key)) {
        if (owner)
            KZ_TRY(search_owner(sealed, owner, &search, err));
        else
            KZ_TRY(search_all(sealed, &search, err));
    }
    *ret_found = search.found;
    return KZ_OK;
}

/* ---- everything ----------------------------------------------------------------------------- */

static enum kz_code each_block(const struct kz_sealed *sealed, struct kz_sealed_scratch *scratch,
        each_fn each, void *arg, struct kz_err *err)
{
    for (uint32_t number = 0; number < sealed->header->block_count; number++) {
        KZ_TRY(load_block(sealed, number, scratch, err));
        for (uint32_t k = 0; k < scratch->count; k++)
            KZ_TRY(each(arg, lsn_at(scratch, k), record_at(scratch, k)));
    }
    return KZ_OK;
}

enum kz_code kz_sealed_scan_sorted(
        const struct kz_sealed *sealed, each_fn each, void *arg, struct kz_err *err)
{
    struct kz_sealed_scratch *scratch;
    enum kz_code rc;

    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    scratch = kz_sealed_pool_take(sealed->pool, sealed->serial, KZ_SEALED_NO_BLOCK);
    rc = each_block(sealed, scratch, each, arg, err);
    kz_sealed_pool_put(sealed->pool, scratch);
    return rc;
}

/* The records of one stretch of addresses. */
struct window {
    kz_lsn from, until;
    struct kz_buf records;
    struct kz_buf entries; /* struct kz_sealed_entry: lower half of the address, place in records */
};

static enum kz_code each_into_window(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct window *window = arg;
    struct kz_sealed_entry entry = {KZ_LSN_OFFSET(lsn), (uint32_t)window->records.size, 0};

    if (lsn < window->from || lsn >= window->until)
        return KZ_OK;
    kz_buf_put(&window->entries, &entry, sizeof(entry));
    memcpy(kz_buf_extend(&window->records, KZ_ALIGN8((size_t)record->size)), record, record->size);
    return KZ_OK;
}

static enum kz_code each_of_window(
        const struct kz_sealed *sealed, const struct window *window, each_fn each, void *arg)
{
    struct kz_sealed_entry *entries = (void *)window->entries.data;
    size_t count = window->entries.size / sizeof(*entries);

    kz_sealed_sort(entries, count);
    for (size_t i = 0; i < count; i++)
        KZ_TRY(each(arg, KZ_LSN(sealed->header->segment, entries[i].order),
                (const void *)(window->records.data + entries[i].offset)));
    return KZ_OK;
}

enum kz_code kz_sealed_scan(const struct kz_sealed *sealed, kz_lsn from, kz_lsn until, each_fn each,
        void *arg, struct kz_err *err)
{
    struct window window = {0};
    enum kz_code rc = KZ_OK;

    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    from = KZ_MAX(from, KZ_LSN(sealed->header->segment, 0));
    until = KZ_MIN(until, sealed->header->end);
    while (rc == KZ_OK && from < until) {
        window.from = from;
        window.until = KZ_MIN(until, from + KZ_SEALED_SCAN_WINDOW_BYTES);
        kz_buf_clear(&window.records);
        kz_buf_clear(&window.entries);
        kz_buf_reserve(&window.records, (size_t)(window.until - from));
        rc = kz_sealed_scan_sorted(sealed, each_into_window, &window, err);
        if (rc == KZ_OK)
            rc = each_of_window(sealed, &window, each, arg);
        from = window.until;
    }
    kz_buf_done(&window.records);
    kz_buf_done(&window.entries);
    return rc;
}

/* ---- fsck ----------------------------------------------------------------------------------- */

struct check {
    const struct kz_sealed *sealed;
    void (*report)(void *arg, const char *line);
    void *arg;
    struct kz_err first; /* problem */
    uint64_t problem_count, denied_count;
    uint64_t event_count, key_count, owner_count, owner_last;
    struct kz_buf tags; /* uint64_t each, of the records' keys */
};

static void note(struct check *check, const struct kz_err *problem)
{
    if (!check->problem_count++)
        check->first = *problem;
    if (check->report)
        check->report(check->arg, problem->message);
}

static void check_record(struct check *check, const struct kz_record *record)
{
    const struct kz_sealed_header *header = check->sealed->header;

    check->event_count += record->type == KZ_RECORD_EVENT;
    check->key_count += record->key != 0;
    if (record->key && header->version == 1 && !may_have_key(check->sealed, record->key))
        check->denied_count++;
    if (record->key && header->version != 1)
        kz_buf_u64(&check->tags, kz_tag(record->key));
    if (!check->owner_count || record->owner != check->owner_last) {
        check->owner_last = record->owner;
        check->owner_count++;
        if (!filter_has_owner(check->sealed, record->owner))
            check->denied_count++;
    }
    if (record->seq < header->seq_first || record->seq > header->seq_last)
        check->denied_count++;
}

static void check_blocks(struct check *check, struct kz_sealed_scratch *scratch)
{
    struct kz_err problem;

    kz_sealed_scratch_forget(scratch); /* what is remembered proves nothing about the file */
    for (uint32_t number = 0; number < check->sealed->header->block_count; number++) {
        if (load_block(check->sealed, number, scratch, &problem) != KZ_OK) {
            note(check, &problem);
            continue;
        }
        for (uint32_t k = 0; k < scratch->count; k++)
            check_record(check, record_at(scratch, k));
    }
}

/* The tags are those of the records, no more and no fewer. */
static bool tags_are_right(struct check *check)
{
    const struct kz_sealed_header *header = check->sealed->header;
    uint64_t *tags = (void *)check->tags.data;
    size_t count = check->tags.size / sizeof(*tags);
    KZ_AUTO(kz_freep) char *expected = kz_calloc(1, header->keys_size + 1);

    if (header->version == 1)
        return true;
    if (count != header->key_count)
        return false;
    kz_tags_sort(tags, count);
    if (header->version == 2)
        kz_tags_pack_narrow(tags, count, (void *)expected);
    else
        kz_tags_pack(tags, count, (void *)expected);
    return memcmp(check->sealed->data + header->keys_offset, expected, header->keys_size) == 0;
}

enum kz_code kz_sealed_fsck(const struct kz_sealed *sealed,
        void (*report)(void *arg, const char *line), void *arg, struct kz_err *err)
{
    const struct kz_sealed_header *header = sealed->header;
    struct check check = {.sealed = sealed, .report = report, .arg = arg};
    struct kz_sealed_scratch *scratch;
    struct kz_err problem;

    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    atomic_store(&sealed->filters->keys, FILTER_UNKNOWN);
    atomic_store(&sealed->filters->owners, FILTER_UNKNOWN);
    if (check_keys(sealed, &problem) != KZ_OK)
        note(&check, &problem);
    if (check_owners(sealed, &problem) != KZ_OK)
        note(&check, &problem);
    scratch = kz_sealed_pool_take(sealed->pool, sealed->serial, KZ_SEALED_NO_BLOCK);
    check_blocks(&check, scratch);
    kz_sealed_pool_put(sealed->pool, scratch);
    if (check.denied_count) {
        (void)fail_corrupt(sealed, &problem, "a record is denied by a filter or the header");
        note(&check, &problem);
    }
    if (!check.problem_count && !tags_are_right(&check)) {
        (void)fail_corrupt(sealed, &problem, "its keys are not those of its records");
        note(&check, &problem);
    }
    kz_buf_done(&check.tags);
    if (!check.problem_count &&
            (check.event_count != header->event_count || check.key_count != header->key_count ||
                    check.owner_count != header->owner_count)) {
        (void)fail_corrupt(sealed, &problem, "its header counts other records than it holds");
        note(&check, &problem);
    }
    if (check.problem_count > 1)
        return kz_fail(err, KZ_CORRUPT, "%s, and %" PRIu64 " more problems", check.first.message,
                check.problem_count - 1);
    if (check.problem_count)
        return kz_fail(err, KZ_CORRUPT, "%s", check.first.message);
    return KZ_OK;
}
