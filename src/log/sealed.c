/* Reading sealed segments.
 *
 * R1  The index is verified at open, a block whenever it is decompressed (checksum, sizes, order, and
 *     that it begins where the index says and ends before the next one), a filter before its first
 *     answer. So nothing below trusts a byte that has not been looked at.
 * R2  A run (the records of one owner) begins in the last block whose first record is not behind it
 *     and goes back as long as blocks say KZ_SEALED_CONTINUES.
 */
#include "log/sealed.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "codec/crc32c.h"
#include "codec/zstd.h"
#include "log/filter.h"

enum {
    SEALED_MAGIC = 0x7a736c64, /* in memory */
    RECORD_BYTES_MIN = KZ_SEALED_PREFIX_BYTES + sizeof(struct kz_record),
    BLOCK_RECORDS_MAX = KZ_SEALED_BLOCK_BYTES / RECORD_BYTES_MIN,
    KEPT_BYTES_MAX = 2 * KZ_SEALED_BLOCK_BYTES, /* of a scratch that waits for its next use */
    ANY_CHAIN = -1,
};
#define NO_BLOCK UINT32_MAX

/* A decompressor and the block it has decompressed last. */
struct scratch {
    struct kz_zstd *zstd;
    struct kz_buf raw;
    uint32_t block; /* in raw, NO_BLOCK: none */
    uint32_t count; /* of its records */
    uint32_t at[BLOCK_RECORDS_MAX]; /* their prefixes' places in raw */
};

enum filter_state { FILTER_UNKNOWN, FILTER_GOOD };

struct kz_sealed {
    uint32_t magic;
    char *path;
    const char *data;
    const struct kz_sealed_header *header;
    const struct kz_sealed_block *blocks;
    atomic_int keys_state, owners_state; /* enum filter_state */
    /* One scratch waits here for the next call, its block still in it; a second caller at the same
     * time makes its own. New ones cost 8 us against some 30 for a block. */
    _Atomic(struct scratch *) idle;
};

typedef enum kz_code (*each_fn)(void *arg, kz_lsn lsn, const struct kz_record *record);

static enum kz_code fail_corrupt(const struct kz_sealed *sealed, struct kz_err *err,
        const char *what)
{
    return kz_fail(err, KZ_CORRUPT, "sealed segment \"%s\" is damaged: %s", sealed->path, what);
}

/* ---- opening -------------------------------------------------------------------------------- */

static bool is_zero(const char *data, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        if (data[i])
            return false;
    return true;
}

static enum kz_code check_ends(const struct kz_sealed *sealed, uint64_t size, uint32_t number,
        struct kz_err *err)
{
    const struct kz_sealed_header *header = sealed->header;
    struct kz_sealed_footer footer;

    if (size < sizeof(*header) + sizeof(footer) || header->magic != KZ_SEALED_MAGIC)
        return fail_corrupt(sealed, err, "it does not begin as one");
    if (header->crc != kz_crc32c(0, header, offsetof(struct kz_sealed_header, crc)))
        return fail_corrupt(sealed, err, "its header fails its checksum");
    if (header->version != KZ_SEALED_VERSION)
        return kz_fail(err, KZ_UNSUPPORTED,
                "sealed segment \"%s\" has format %" PRIu32 ", this build reads %d", sealed->path,
                header->version, KZ_SEALED_VERSION);
    if (header->segment != number)
        return fail_corrupt(sealed, err, "it is of another number");
    if (header->file_size != size)
        return fail_corrupt(sealed, err, "it is not as long as it says");
    memcpy(&footer, sealed->data + size - sizeof(footer), sizeof(footer));
    if (footer.crc != kz_crc32c(0, &footer, offsetof(struct kz_sealed_footer, crc)) ||
            footer.magic != KZ_SEALED_MAGIC || footer.file_size != size ||
            footer.header_crc != header->crc)
        return fail_corrupt(sealed, err, "its footer does not belong to its header");
    return KZ_OK;
}

/* The sections follow one another and fill the file; only alignment is between them. */
static enum kz_code check_sections(const struct kz_sealed *sealed, struct kz_err *err)
{
    const struct kz_sealed_header *header = sealed->header;
    uint64_t size = header->file_size, align = KZ_FILTER_BLOCK_BYTES;
    uint64_t index_end;

    if (header->index_offset > size || header->keys_offset > size || header->keys_size > size ||
            header->owners_offset > size || header->owners_size > size ||
            header->key_count > size || header->owner_count > size)
        return fail_corrupt(sealed, err, "its sections lie outside");
    index_end = header->index_offset + header->block_count * sizeof(struct kz_sealed_block);
    if (header->index_offset % align || header->index_offset < sizeof(*header) ||
            header->keys_offset != (index_end + align - 1) / align * align ||
            header->owners_offset != header->keys_offset + header->keys_size ||
            header->owners_offset + header->owners_size + sizeof(struct kz_sealed_footer) != size ||
            header->keys_size != kz_filter_size(header->key_count) ||
            header->owners_size != kz_filter_size(header->owner_count))
        return fail_corrupt(sealed, err, "its sections do not fit together");
    if (!is_zero(sealed->data + index_end, header->keys_offset - index_end))
        return fail_corrupt(sealed, err, "there are bytes between its sections");
    return KZ_OK;
}

static bool is_before(uint64_t owner_a, uint32_t offset_a, uint64_t owner_b, uint32_t offset_b)
{
    return owner_a != owner_b ? owner_a < owner_b : offset_a < offset_b;
}

static bool is_sound(const struct kz_sealed_block *block, const struct kz_sealed_block *before)
{
    if (block->raw_size < RECORD_BYTES_MIN || block->raw_size % 8 || !block->stored_size ||
            !block->record_count || block->flags & ~(uint32_t)KZ_SEALED_CONTINUES)
        return false;
    if (block->record_count > 1 ? block->raw_size > KZ_SEALED_BLOCK_BYTES
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
    uint64_t at = sizeof(*header), record_count = 0, raw_bytes = 0;

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

enum kz_code kz_sealed_open(const char *path, const void *data, uint64_t size, uint32_t number,
        struct kz_sealed **ret_sealed, struct kz_err *err)
{
    KZ_AUTO(kz_sealed_closep) struct kz_sealed *sealed = kz_calloc(1, sizeof(*sealed));

    KZ_BUG_ON((uintptr_t)data % 8);
    sealed->magic = SEALED_MAGIC;
    sealed->path = kz_strdup(path);
    sealed->data = data;
    sealed->header = data;
    KZ_TRY(check_ends(sealed, size, number, err));
    KZ_TRY(check_sections(sealed, err));
    sealed->blocks = (const void *)(sealed->data + sealed->header->index_offset);
    KZ_TRY(check_index(sealed, err));
    *ret_sealed = kz_take(&sealed);
    return KZ_OK;
}

static void free_scratch(struct scratch *scratch)
{
    if (!scratch)
        return;
    kz_zstd_free(scratch->zstd);
    kz_buf_done(&scratch->raw);
    free(scratch);
}

void kz_sealed_close(struct kz_sealed *sealed)
{
    if (!sealed)
        return;
    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    free_scratch(atomic_load(&sealed->idle));
    free(sealed->path);
    sealed->magic = 0;
    free(sealed);
}

const struct kz_sealed_header *kz_sealed_get_header(const struct kz_sealed *sealed)
{
    return sealed->header;
}

const uint8_t *kz_sealed_log_id(const struct kz_sealed *sealed)
{
    return sealed->header->log_id;
}

void kz_sealed_info(const struct kz_sealed *sealed, struct kz_log_segment_info *ret_info)
{
    const struct kz_sealed_header *header = sealed->header;

    ret_info->number = header->segment;
    ret_info->sealed = true;
    ret_info->disk_bytes = header->file_size;
    ret_info->raw_bytes = header->raw_bytes;
    ret_info->seq_first = header->seq_first;
    ret_info->seq_last = header->seq_last;
    ret_info->at_first_ms = header->at_first_ms;
    ret_info->at_last_ms = header->at_last_ms;
    ret_info->event_count = header->event_count;
}

/* ---- blocks --------------------------------------------------------------------------------- */

/* The slot is a cache, not a part of the value, so a const segment has it too. */
static _Atomic(struct scratch *) *idle_slot(const struct kz_sealed *sealed)
{
    return &((struct kz_sealed *)(uintptr_t)sealed)->idle;
}

static struct scratch *take_scratch(const struct kz_sealed *sealed)
{
    struct scratch *scratch = atomic_exchange(idle_slot(sealed), NULL);

    if (scratch)
        return scratch;
    scratch = kz_calloc(1, sizeof(*scratch));
    scratch->zstd = kz_zstd_new(KZ_STR_NULL, KZ_SEALED_LEVEL);
    KZ_BUG_ON(!scratch->zstd);
    scratch->block = NO_BLOCK;
    return scratch;
}

static void put_scratch(const struct kz_sealed *sealed, struct scratch *scratch)
{
    if (scratch->raw.capacity > KEPT_BYTES_MAX) {
        kz_buf_done(&scratch->raw);
        scratch->raw = (struct kz_buf){0};
        scratch->block = NO_BLOCK;
    }
    free_scratch(atomic_exchange(idle_slot(sealed), scratch));
}

static kz_lsn lsn_at(const struct scratch *scratch, uint32_t k)
{
    return kz_load_u64(scratch->raw.data + scratch->at[k]);
}

static const struct kz_record *record_at(const struct scratch *scratch, uint32_t k)
{
    return (const void *)(scratch->raw.data + scratch->at[k] + KZ_SEALED_PREFIX_BYTES);
}

/* Finds the records of a decompressed block. */
static bool find_records(const struct kz_sealed *sealed, uint32_t number, struct scratch *scratch)
{
    const struct kz_sealed_block *block = &sealed->blocks[number];
    const struct kz_buf *raw = &scratch->raw;
    const struct kz_record *record = NULL;
    kz_lsn lsn = 0;
    uint32_t count = 0;

    for (size_t at = 0; at < raw->size; count++) {
        const struct kz_record *before = record;
        kz_lsn lsn_before = lsn;

        if (count == block->record_count || raw->size - at < RECORD_BYTES_MIN)
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
        struct scratch *scratch, struct kz_err *err)
{
    const struct kz_sealed_block *block = &sealed->blocks[number];
    const char *frame = sealed->data + block->at;
    const char *what = "fails its checksum";
    enum kz_code rc;

    if (scratch->block == number)
        return KZ_OK;
    scratch->block = NO_BLOCK;
    kz_buf_clear(&scratch->raw);
    if (kz_crc32c(0, frame, block->stored_size) == block->crc) {
        rc = kz_zstd_decompress(scratch->zstd, kz_str_n(frame, block->stored_size),
                block->raw_size, &scratch->raw, NULL);
        if (rc != KZ_OK || scratch->raw.size != block->raw_size)
            what = "does not decompress to its size";
        else if (!find_records(sealed, number, scratch))
            what = "holds records that make no sense";
        else
            what = NULL;
    }
    if (what)
        return kz_fail(err, KZ_CORRUPT,
                "sealed segment \"%s\" is damaged: block %" PRIu32 " at byte %" PRIu64 " %s",
                sealed->path, number, block->at, what);
    scratch->block = number;
    return KZ_OK;
}

/* ---- one owner ------------------------------------------------------------------------------ */

/* The last block whose first record is not behind (owner, offset); NO_BLOCK where all are. */
static uint32_t find_block(const struct kz_sealed *sealed, uint64_t owner, uint32_t offset)
{
    uint32_t low = 0, high = sealed->header->block_count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        const struct kz_sealed_block *block = &sealed->blocks[mid];

        if (is_before(owner, offset, block->owner, block->offset))
            high = mid;
        else
            low = mid + 1;
    }
    return low - 1;
}

/* How many records of the loaded block are not behind (owner, offset). */
static uint32_t count_upto(const struct scratch *scratch, uint64_t owner, uint32_t offset)
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

/* Calls `each` with the owner's records at or before `newest`, from new to old. */
static enum kz_code walk(const struct kz_sealed *sealed, uint64_t owner, kz_lsn newest,
        struct scratch *scratch, each_fn each, void *arg, struct kz_err *err)
{
    uint32_t segment = sealed->header->segment;
    uint32_t offset = KZ_LSN_SEGMENT(newest) > segment ? UINT32_MAX : KZ_LSN_OFFSET(newest);
    uint32_t number = find_block(sealed, owner, offset);

    if (KZ_LSN_SEGMENT(newest) < segment || number == NO_BLOCK)
        return KZ_OK;
    for (;; number--) {
        const struct kz_sealed_block *block = &sealed->blocks[number];

        KZ_TRY(load_block(sealed, number, scratch, err));
        for (uint32_t k = count_upto(scratch, owner, offset); k-- > 0;) {
            const struct kz_record *record = record_at(scratch, k);

            if (record->owner != owner)
                return KZ_OK;
            KZ_TRY(each(arg, lsn_at(scratch, k), record));
        }
        if (block->owner != owner || !(block->flags & KZ_SEALED_CONTINUES))
            return KZ_OK;
    }
}

struct owner_step {
    int chain; /* enum kz_chain */
    size_t count, count_max;
    struct kz_arena *arena;
    const struct kz_record **records;
    kz_lsn *lsns;
    struct kz_err *err;
};

static enum kz_code each_of_owner(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct owner_step *step = arg;
    void *copy;

    if ((int)kz_record_chain(record->type) != step->chain)
        return KZ_OK;
    copy = kz_arena_alloc(step->arena, record->size);
    if (!copy)
        return kz_fail(step->err, KZ_TOO_LARGE,
                "could not read a history: it needs more than the %zu bytes it may have",
                step->arena->size_max_bytes);
    memcpy(copy, record, record->size);
    step->records[step->count] = copy;
    step->lsns[step->count] = lsn;
    step->count++;
    return step->count == step->count_max ? KZ_END : KZ_OK;
}

enum kz_code kz_sealed_owner(const struct kz_sealed *sealed, uint64_t owner, enum kz_chain chain,
        kz_lsn newest, size_t count_max, struct kz_arena *arena, const struct kz_record **records,
        kz_lsn *lsns, size_t *ret_count, struct kz_err *err)
{
    struct owner_step step = {(int)chain, 0, count_max, arena, records, lsns, err};
    struct scratch *scratch;
    enum kz_code rc = KZ_OK;

    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    if (count_max) {
        scratch = take_scratch(sealed);
        rc = walk(sealed, owner, newest, scratch, each_of_owner, &step, err);
        put_scratch(sealed, scratch);
    }
    if (rc != KZ_OK && rc != KZ_END)
        return rc;
    *ret_count = step.count;
    return KZ_OK;
}

static enum kz_code stop_at_first(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    (void)lsn, (void)record;
    *(bool *)arg = true;
    return KZ_END;
}

/* Verifies a filter before its first answer; two threads may do so at once. */
static enum kz_code check_filter(const struct kz_sealed *sealed, atomic_int *state, uint64_t offset,
        uint64_t size, uint32_t crc, struct kz_err *err)
{
    if (atomic_load_explicit(state, memory_order_acquire) == FILTER_GOOD)
        return KZ_OK;
    if (kz_crc32c(0, sealed->data + offset, size) != crc)
        return fail_corrupt(sealed, err, "a filter fails its checksum");
    atomic_store_explicit(state, FILTER_GOOD, memory_order_release);
    return KZ_OK;
}

static enum kz_code check_keys(const struct kz_sealed *sealed, struct kz_err *err)
{
    const struct kz_sealed_header *header = sealed->header;

    return check_filter(sealed, &((struct kz_sealed *)(uintptr_t)sealed)->keys_state,
            header->keys_offset, header->keys_size, header->keys_crc, err);
}

static enum kz_code check_owners(const struct kz_sealed *sealed, struct kz_err *err)
{
    const struct kz_sealed_header *header = sealed->header;

    return check_filter(sealed, &((struct kz_sealed *)(uintptr_t)sealed)->owners_state,
            header->owners_offset, header->owners_size, header->owners_crc, err);
}

static bool filter_has_key(const struct kz_sealed *sealed, uint64_t key)
{
    return kz_filter_has(
            sealed->data + sealed->header->keys_offset, sealed->header->keys_size, key);
}

static bool filter_has_owner(const struct kz_sealed *sealed, uint64_t owner)
{
    return kz_filter_has(
            sealed->data + sealed->header->owners_offset, sealed->header->owners_size, owner);
}

enum kz_code kz_sealed_has_owner(const struct kz_sealed *sealed, uint64_t owner, bool *ret_has,
        struct kz_err *err)
{
    struct scratch *scratch;
    enum kz_code rc;
    bool has = false;

    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    KZ_TRY(check_owners(sealed, err));
    if (filter_has_owner(sealed, owner)) {
        scratch = take_scratch(sealed);
        rc = walk(sealed, owner, UINT64_MAX, scratch, stop_at_first, &has, err);
        put_scratch(sealed, scratch);
        if (rc != KZ_OK && rc != KZ_END)
            return rc;
    }
    *ret_has = has;
    return KZ_OK;
}

/* ---- one record ----------------------------------------------------------------------------- */

static enum kz_code each_block(const struct kz_sealed *sealed, struct scratch *scratch,
        each_fn each, void *arg, struct kz_err *err)
{
    for (uint32_t number = 0; number < sealed->header->block_count; number++) {
        KZ_TRY(load_block(sealed, number, scratch, err));
        for (uint32_t k = 0; k < scratch->count; k++)
            KZ_TRY(each(arg, lsn_at(scratch, k), record_at(scratch, k)));
    }
    return KZ_OK;
}

struct get_step {
    kz_lsn lsn;
    bool sorted; /* what comes first is the record or there is none */
    bool found;
    struct kz_buf *out;
};

static enum kz_code each_of_get(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct get_step *step = arg;

    if (lsn == step->lsn) {
        kz_buf_put(step->out, record, record->size);
        step->found = true;
    }
    return step->found || step->sorted ? KZ_END : KZ_OK;
}

enum kz_code kz_sealed_get(const struct kz_sealed *sealed, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    struct get_step step = {lsn, true, false, out};
    struct scratch *scratch;
    enum kz_code rc = KZ_OK;

    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    scratch = take_scratch(sealed);
    if (KZ_LSN_SEGMENT(lsn) == sealed->header->segment)
        rc = walk(sealed, owner, lsn, scratch, each_of_get, &step, err);
    if ((rc == KZ_OK || rc == KZ_END) && !step.found && !owner &&
            KZ_LSN_SEGMENT(lsn) == sealed->header->segment) {
        step.sorted = false;
        rc = each_block(sealed, scratch, each_of_get, &step, err);
    }
    put_scratch(sealed, scratch);
    if (rc != KZ_OK && rc != KZ_END)
        return rc;
    if (!step.found)
        return kz_fail(err, KZ_NOT_FOUND, "there is no record %" PRIx64 " in segment %" PRIu32, lsn,
                sealed->header->segment);
    return KZ_OK;
}

struct key_step {
    uint64_t key;
    bool (*match)(void *arg, const struct kz_record *record);
    void *arg;
    bool found;
};

static enum kz_code each_of_key(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct key_step *step = arg;

    (void)lsn;
    if (record->key != step->key || (step->match && !step->match(step->arg, record)))
        return KZ_OK;
    step->found = true;
    return KZ_END;
}

enum kz_code kz_sealed_find_key(const struct kz_sealed *sealed, uint64_t key, uint64_t owner,
        bool (*match)(void *arg, const struct kz_record *record), void *arg, bool *ret_found,
        struct kz_err *err)
{
    struct key_step step = {key, match, arg, false};
    struct scratch *scratch;
    enum kz_code rc;

    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    KZ_TRY(check_keys(sealed, err));
    if (key && filter_has_key(sealed, key)) {
        scratch = take_scratch(sealed);
        if (owner)
            rc = walk(sealed, owner, UINT64_MAX, scratch, each_of_key, &step, err);
        else
            rc = each_block(sealed, scratch, each_of_key, &step, err);
        put_scratch(sealed, scratch);
        if (rc != KZ_OK && rc != KZ_END)
            return rc;
    }
    *ret_found = step.found;
    return KZ_OK;
}

/* ---- everything ----------------------------------------------------------------------------- */

enum kz_code kz_sealed_each_sorted(const struct kz_sealed *sealed, each_fn each, void *arg,
        struct kz_err *err)
{
    struct scratch *scratch;
    enum kz_code rc;

    KZ_CHECK_MAGIC(sealed, SEALED_MAGIC);
    scratch = take_scratch(sealed);
    rc = each_block(sealed, scratch, each, arg, err);
    put_scratch(sealed, scratch);
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

static enum kz_code each_of_window(const struct kz_sealed *sealed, const struct window *window,
        each_fn each, void *arg)
{
    struct kz_sealed_entry *entries = (void *)window->entries.data;
    size_t count = window->entries.size / sizeof(*entries);

    kz_sealed_sort(entries, count);
    for (size_t i = 0; i < count; i++)
        KZ_TRY(each(arg, KZ_LSN(sealed->header->segment, entries[i].order),
                (const void *)(window->records.data + entries[i].offset)));
    return KZ_OK;
}

enum kz_code kz_sealed_each(const struct kz_sealed *sealed, kz_lsn from, kz_lsn until, each_fn each,
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
        rc = kz_sealed_each_sorted(sealed, each_into_window, &window, err);
        if (rc == KZ_OK)
            rc = each_of_window(sealed, &window, each, arg);
        from = window.until;
    }
    kz_buf_done(&window.records);
    kz_buf_done(&window.entries);
    return rc;
}

/* ---- fsck ----------------------------------------------------------------------------------- */

struct fsck {
    const struct kz_sealed *sealed;
    void (*report)(void *arg, const char *line);
    void *arg;
    uint64_t problem_count, denied_count;
    uint64_t event_count, key_count, owner_count, owner_last;
};

static void note(struct fsck *fsck, const struct kz_err *err)
{
    fsck->problem_count++;
    if (fsck->report)
        fsck->report(fsck->arg, err->message);
}

static void fsck_record(struct fsck *fsck, const struct kz_record *record)
{
    const struct kz_sealed_header *header = fsck->sealed->header;

    fsck->event_count += record->type == KZ_RECORD_EVENT;
    fsck->key_count += record->key != 0;
    if (record->key && !filter_has_key(fsck->sealed, record->key))
        fsck->denied_count++;
    if (!fsck->owner_count || record->owner != fsck->owner_last) {
        fsck->owner_last = record->owner;
        fsck->owner_count++;
        if (!filter_has_owner(fsck->sealed, record->owner))
            fsck->denied_count++;
    }
    if (record->seq < header->seq_first || record->seq > header->seq_last)
        fsck->denied_count++;
}

enum kz_code kz_sealed_fsck(const struct kz_sealed *sealed,
        void (*report)(void *arg, const char *line), void *arg, struct kz_err *err)
{
    const struct kz_sealed_header *header = sealed->header;
    struct fsck fsck = {.sealed = sealed, .report = report, .arg = arg};
    struct scratch *scratch = take_scratch(sealed);
    struct kz_err problem;

    scratch->block = NO_BLOCK; /* what is remembered proves nothing about the file */
    if (check_keys(sealed, &problem) != KZ_OK)
        note(&fsck, &problem);
    if (check_owners(sealed, &problem) != KZ_OK)
        note(&fsck, &problem);
    for (uint32_t number = 0; number < header->block_count; number++) {
        if (load_block(sealed, number, scratch, &problem) != KZ_OK) {
            note(&fsck, &problem);
            continue;
        }
        for (uint32_t k = 0; k < scratch->count; k++)
            fsck_record(&fsck, record_at(scratch, k));
    }
    put_scratch(sealed, scratch);
    if (fsck.denied_count) {
        (void)fail_corrupt(sealed, &problem, "a record is denied by a filter or the header");
        note(&fsck, &problem);
    }
    if (!fsck.problem_count && (fsck.event_count != header->event_count ||
                                       fsck.key_count != header->key_count ||
                                       fsck.owner_count != header->owner_count)) {
        (void)fail_corrupt(sealed, &problem, "its header counts other records than it holds");
        note(&fsck, &problem);
    }
    if (fsck.problem_count)
        return kz_fail(err, KZ_CORRUPT, "sealed segment \"%s\" has %" PRIu64 " problems",
                sealed->path, fsck.problem_count);
    return KZ_OK;
}
