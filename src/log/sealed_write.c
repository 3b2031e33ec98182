/* How a sealed segment comes to be.
 *
 * W1  Until finish has returned, only the temporary file has been touched: a crash leaves nothing
 *     but that, and open removes it.
 * W2  The order is: all bytes, header last; sync; every byte read back and verified; rename; sync
 * of the directory. So the name never leads to a file that is not whole, and what it replaces is
 *     never given up for one that cannot be read.
 * W3  Records come sorted by (owner, lsn) and leave in blocks in that order; a block is cut before
 *     another owner's record once it has KZ_SEALED_BLOCK_FULL_BYTES, so that what a user did here is
 *     one small block as a rule, and before the record that would take it past
 *     KZ_SEALED_BLOCK_BYTES.
 * W4  The first blocks are held back until they are enough of a sample to make the dictionary of.
 *     Owners are hashes, so those that come first are a fair sample of all. An erasure writes the
 *     segment anew without the user, dictionary included.
 */
#include "log/sealed.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/crc32c.h"
#include "codec/zstd.h"
#include "log/dictionary.h"
#include "log/filter.h"

enum {
    WRITE_BYTES = 1 << 20, /* gathered before a pwrite */
    FILTER_ALIGN = KZ_FILTER_BLOCK_BYTES,
    RADIX = 256,
    SAMPLE_BYTES = 1 << 20,        /* that the dictionary is made of, */
    SAMPLE_OWNER_BYTES = 4 << 10,  /* no more of each owner, */
    HELD_BYTES_MAX = 16 << 20,     /* among so many held back */
    BLOCK_BYTES_TYPICAL = 2 << 10, /* 1 KiB, and on to the end of the user */
};

struct kz_sealed_writer {
    struct kz_sealed_params params;
    struct kz_file *file;
    struct kz_trickle trickle;
    struct kz_zstd *zstd;
    struct kz_sealed_header header;
    struct kz_sealed_block block; /* being filled */
    struct kz_buf raw;            /* its records, behind those of the blocks held back */
    size_t raw_at;                /* where they begin */
    struct kz_buf held;           /* struct kz_sealed_block each, until there is a dictionary */
    struct kz_buf sample;         /* struct kz_dictionary_record each: stretches of raw */
    size_t sample_bytes, sample_owner_bytes;
    struct kz_buf out;          /* not written yet */
    uint64_t written_bytes;     /* of the file; `out` goes there */
    struct kz_buf index;        /* struct kz_sealed_block each */
    struct kz_buf keys, owners; /* uint64_t each; keys as tags, but in version 1 */
    uint64_t owner_last;
    kz_lsn lsn_last;
    size_t erased_at; /* erased owners before it are below owner_last */
    bool any, named;
    char *temporary; /* path */
};

void kz_sealed_name(uint32_t segment, bool temporary, char ret_name[KZ_SEALED_NAME_BYTES])
{
    (void)snprintf(ret_name, KZ_SEALED_NAME_BYTES, "%08" PRIx32 ".kzs%s", segment,
            temporary ? ".tmp" : "");
}

bool kz_sealed_name_parse(const char *name, uint32_t *ret_segment, bool *ret_temporary)
{
    char again[KZ_SEALED_NAME_BYTES];
    uint32_t segment;

    if (strlen(name) < 12 || sscanf(name, "%8" SCNx32, &segment) != 1)
        return false;
    for (int temporary = 0; temporary < 2; temporary++) {
        kz_sealed_name(segment, temporary, again);
        if (strcmp(name, again) == 0) {
            *ret_segment = segment;
            *ret_temporary = temporary;
            return true;
        }
    }
    return false;
}

/* Counts every byte value of every position in one pass, then moves only where a position tells
 * entries apart. */
void kz_sealed_sort(struct kz_sealed_entry *entries, size_t count)
{
    KZ_AUTO(kz_freep) struct kz_sealed_entry *spare = kz_malloc(count * sizeof(*entries) + 1);
    KZ_AUTO(kz_freep) size_t(*counts)[RADIX] = kz_calloc(8, sizeof(*counts));
    struct kz_sealed_entry *from = entries, *to = spare;

    for (size_t i = 0; i < count; i++)
        for (int digit = 0; digit < 8; digit++)
            counts[digit][(uint8_t)(entries[i].order >> (8 * digit))]++;
    for (int digit = 0; digit < 8 && count; digit++) {
        size_t *starts = counts[digit], sum = 0;
        struct kz_sealed_entry *moved = to;

        if (starts[(uint8_t)(from[0].order >> (8 * digit))] == count)
            continue;
        for (int value = 0; value < RADIX; value++) {
            size_t n = starts[value];

            starts[value] = sum;
            sum += n;
        }
        for (size_t i = 0; i < count; i++)
            to[starts[(uint8_t)(from[i].order >> (8 * digit))]++] = from[i];
        to = from;
        from = moved;
    }
    if (from != entries)
        memcpy(entries, from, count * sizeof(*entries));
}

static uint64_t file_end(const struct kz_sealed_writer *writer)
{
    return writer->written_bytes + writer->out.size;
}

static enum kz_code write_out(struct kz_sealed_writer *writer, struct kz_err *err)
{
    KZ_TRY(writer->file->ops->pwrite(
            writer->file, writer->out.data, writer->out.size, writer->written_bytes, err));
    KZ_TRY(kz_trickle(&writer->trickle, writer->out.size, err));
    writer->written_bytes += writer->out.size;
    kz_buf_clear(&writer->out);
    return KZ_OK;
}

/* ---- blocks --------------------------------------------------------------------------------- */

static enum kz_code compress_block(struct kz_sealed_writer *writer, struct kz_sealed_block *block,
        const char *records, struct kz_err *err)
{
    size_t start = writer->out.size;

    block->at = file_end(writer);
    KZ_TRY(kz_zstd_compress(writer->zstd, kz_str_n(records, block->raw_size), &writer->out, err));
    block->stored_size = (uint32_t)(writer->out.size - start);
    block->crc = kz_crc32c(0, writer->out.data + start, block->stored_size);
    kz_buf_put(&writer->index, block, sizeof(*block));
    return writer->out.size >= WRITE_BYTES ? write_out(writer, err) : KZ_OK;
}

static int level_of(const struct kz_sealed_writer *writer)
{
    return writer->params.level ? writer->params.level : KZ_SEALED_LEVEL;
}

static enum kz_code start_compressing(
        struct kz_sealed_writer *writer, struct kz_str dictionary, struct kz_err *err)
{
    writer->zstd = kz_zstd_new(dictionary, level_of(writer), BLOCK_BYTES_TYPICAL);
    if (!writer->zstd)
        return kz_fail(err, KZ_NO_MEMORY, "could not start compressing \"%s\"", writer->temporary);
    return KZ_OK;
}

/* Makes the dictionary of the blocks held back. Where they have too little in common there is
 * none, which is no failure. */
static void make_dictionary(struct kz_sealed_writer *writer, struct kz_buf *ret_dictionary)
{
    const struct kz_sealed_block *blocks = (const void *)writer->held.data;
    size_t count = writer->held.size / sizeof(*blocks), frames = 0, bytes = 0;
    KZ_AUTO(kz_freep) size_t *sizes = kz_malloc(count * sizeof(*sizes) + 1);

    while (frames < count && bytes + blocks[frames].raw_size <= SAMPLE_BYTES) {
        bytes += blocks[frames].raw_size;
        sizes[frames] = blocks[frames].raw_size;
        frames++;
    }
    if (kz_dictionary_make(kz_buf_view(&writer->raw), (const void *)writer->sample.data,
                writer->sample.size / sizeof(struct kz_dictionary_record), sizes, (unsigned)frames,
                level_of(writer), ret_dictionary, NULL) != KZ_OK)
        kz_buf_clear(ret_dictionary);
}

static void put_dictionary(struct kz_sealed_writer *writer, struct kz_str bytes)
{
    struct kz_sealed_dictionary head = {(uint32_t)bytes.size, kz_crc32c(0, bytes.ptr, bytes.size)};
    size_t padding = KZ_ALIGN8(bytes.size) - bytes.size;

    kz_buf_put(&writer->out, &head, sizeof(head));
    kz_buf_str(&writer->out, bytes);
    memset(kz_buf_extend(&writer->out, padding), 0, padding);
}

/* W4: there is enough of a sample, or no more will come. */
static enum kz_code release_held(struct kz_sealed_writer *writer, struct kz_err *err)
{
    struct kz_sealed_block *blocks = (void *)writer->held.data;
    size_t count = writer->held.size / sizeof(*blocks), at = 0;
    struct kz_buf dictionary = {0};
    enum kz_code rc;

    make_dictionary(writer, &dictionary);
    put_dictionary(writer, kz_buf_view(&dictionary));
    rc = start_compressing(writer, kz_buf_view(&dictionary), err);
    kz_buf_done(&dictionary);
    KZ_TRY(rc);
    for (size_t i = 0; i < count; i++) {
        KZ_TRY(compress_block(writer, &blocks[i], writer->raw.data + at, err));
        at += blocks[i].raw_size;
    }
    kz_buf_clear(&writer->held);
    kz_buf_clear(&writer->sample);
    return KZ_OK;
}

static enum kz_code end_block(struct kz_sealed_writer *writer, struct kz_err *err)
{
    struct kz_sealed_block *block = &writer->block;

    if (!block->record_count)
        return KZ_OK;
    block->raw_size = (uint32_t)(writer->raw.size - writer->raw_at);
    writer->header.raw_bytes += block->raw_size;
    writer->header.block_count++;
    if (writer->zstd) {
        KZ_TRY(compress_block(writer, block, writer->raw.data, err));
    } else {
        kz_buf_put(&writer->held, block, sizeof(*block));
        if (writer->sample_bytes < SAMPLE_BYTES && writer->raw.size < HELD_BYTES_MAX) {
            writer->raw_at = writer->raw.size;
            block->record_count = 0;
            return KZ_OK;
        }
        KZ_TRY(release_held(writer, err));
    }
    block->record_count = 0;
    writer->raw_at = 0;
    kz_buf_clear(&writer->raw);
    return KZ_OK;
}

/* The record at the end of `raw`, where it is to be learnt from. */
static void add_to_sample(struct kz_sealed_writer *writer, const struct kz_record *record,
        bool same_owner, size_t size)
{
    struct kz_dictionary_record part = {record->owner, writer->raw.size - size, size};

    if (!same_owner)
        writer->sample_owner_bytes = 0;
    if (writer->zstd || !record->owner || writer->sample_owner_bytes + size > SAMPLE_OWNER_BYTES)
        return;
    writer->sample_owner_bytes += size;
    writer->sample_bytes += size;
    kz_buf_put(&writer->sample, &part, sizeof(part));
}

/* W3. */
static bool is_full(const struct kz_sealed_writer *writer, bool same_owner, size_t more)
{
    size_t size = writer->raw.size - writer->raw_at;

    if (writer->header.version == 1)
        return size + more > KZ_SEALED_BLOCK_BYTES_V1;
    return size + more > KZ_SEALED_BLOCK_BYTES ||
           (!same_owner && size >= KZ_SEALED_BLOCK_FULL_BYTES);
}

/* ---- from begin to end ---------------------------------------------------------------------- */

enum kz_code kz_sealed_writer_new(const struct kz_sealed_params *params,
        struct kz_sealed_writer **ret_writer, struct kz_err *err)
{
    KZ_AUTO(kz_sealed_writer_freep) struct kz_sealed_writer *writer = kz_calloc(1, sizeof(*writer));
    char name[KZ_SEALED_NAME_BYTES];
    struct kz_buf path = {0};

    writer->params = *params;
    kz_sealed_name(params->segment, true, name);
    kz_buf_printf(&path, "%s/%s", params->dir, name);
    kz_buf_char(&path, 0);
    writer->temporary = path.data;
    KZ_TRY(params->fs->ops->open(params->fs, writer->temporary,
            KZ_OPEN_READ | KZ_OPEN_WRITE | KZ_OPEN_CREATE | KZ_OPEN_TRUNCATE, &writer->file, err));
    writer->trickle.file = writer->file;
    writer->header = (struct kz_sealed_header){
            .magic = KZ_SEALED_MAGIC,
            .version = params->version ? params->version : KZ_SEALED_VERSION,
            .segment = params->segment,
            .seq_first = params->seq_first,
            .seq_last = params->seq_last,
            .at_first_ms = params->at_first_ms,
            .at_last_ms = params->at_last_ms,
            .left_out_count = params->left_out_count,
            .end = params->end,
            .last_crc = params->last_crc,
    };
    memcpy(writer->header.log_id, params->log_id, sizeof(writer->header.log_id));
    /* The header's place; its contents are known last. */
    memset(kz_buf_extend(&writer->out, sizeof(writer->header)), 0, sizeof(writer->header));
    if (writer->header.version == 1)
        KZ_TRY(start_compressing(writer, KZ_STR_NULL, err));
    *ret_writer = kz_take(&writer);
    return KZ_OK;
}

void kz_sealed_writer_free(struct kz_sealed_writer *writer)
{
    struct kz_fs *fs;

    if (!writer)
        return;
    fs = writer->params.fs;
    if (writer->file) {
        kz_file_close(writer->file);
        if (!writer->named)
            (void)fs->ops->unlink(fs, writer->temporary, NULL); /* else the next open does it */
    }
    kz_zstd_free(writer->zstd);
    kz_buf_done(&writer->raw);
    kz_buf_done(&writer->held);
    kz_buf_done(&writer->sample);
    kz_buf_done(&writer->out);
    kz_buf_done(&writer->index);
    kz_buf_done(&writer->keys);
    kz_buf_done(&writer->owners);
    free(writer->temporary);
    free(writer);
}

/* Owners come in rising order, so one step through the erased ones answers for all. */
static bool is_erased(struct kz_sealed_writer *writer, uint64_t owner, kz_lsn lsn)
{
    const struct kz_sealed_params *params = &writer->params;

    while (writer->erased_at < params->erased_count && params->erased[writer->erased_at] < owner)
        writer->erased_at++;
    return writer->erased_at < params->erased_count && params->erased[writer->erased_at] == owner &&
           (!params->erased_below || lsn < params->erased_below[writer->erased_at]);
}

static enum kz_code check_next(const struct kz_sealed_writer *writer, kz_lsn lsn,
        const struct kz_record *record, struct kz_err *err)
{
    if (KZ_LSN_SEGMENT(lsn) != writer->params.segment || lsn >= writer->params.end)
        return kz_fail(err, KZ_CORRUPT, "cannot seal record %" PRIx64 " into segment %" PRIu32, lsn,
                writer->params.segment);
    if (record->size < sizeof(*record) || record->size > KZ_SEALED_RECORD_MAX_BYTES)
        return kz_fail(err, KZ_CORRUPT, "cannot seal record %" PRIx64 " of %" PRIu32 " bytes", lsn,
                record->size);
    if (writer->any && (record->owner < writer->owner_last ||
                               (record->owner == writer->owner_last && lsn <= writer->lsn_last)))
        return kz_fail(err, KZ_CORRUPT, "cannot seal record %" PRIx64 " after %" PRIx64, lsn,
                writer->lsn_last);
    return KZ_OK;
}

enum kz_code kz_sealed_writer_add(struct kz_sealed_writer *writer, kz_lsn lsn,
        const struct kz_record *record, struct kz_err *err)
{
    struct kz_sealed_block *block = &writer->block;
    size_t padded = KZ_ALIGN8((size_t)record->size);
    bool same_owner = writer->any && record->owner == writer->owner_last;
    char *at;

    KZ_TRY(check_next(writer, lsn, record, err));
    if (is_erased(writer, record->owner, lsn)) {
        writer->header.left_out_count++;
        return KZ_OK;
    }
    if (is_full(writer, same_owner, KZ_SEALED_PREFIX_BYTES + padded))
        KZ_TRY(end_block(writer, err));
    if (!block->record_count)
        *block = (struct kz_sealed_block){
                .owner = record->owner,
                .offset = KZ_LSN_OFFSET(lsn),
                .flags = same_owner ? KZ_SEALED_CONTINUES : 0,
        };
    block->record_count++;
    at = kz_buf_extend(&writer->raw, KZ_SEALED_PREFIX_BYTES + padded);
    kz_store_u64(at, lsn);
    memcpy(at + KZ_SEALED_PREFIX_BYTES, record, record->size);
    memset(at + KZ_SEALED_PREFIX_BYTES + record->size, 0, padded - record->size);
    add_to_sample(writer, record, same_owner, KZ_SEALED_PREFIX_BYTES + padded);

    if (record->key && writer->header.version == 1)
        kz_buf_u64(&writer->keys, record->key);
    else if (record->key)
        kz_buf_u64(&writer->keys, kz_tag(record->key));
    if (!same_owner)
        kz_buf_u64(&writer->owners, record->owner);
    writer->header.record_count++;
    writer->header.event_count += record->type == KZ_RECORD_EVENT;
    writer->owner_last = record->owner;
    writer->lsn_last = lsn;
    writer->any = true;
    return KZ_OK;
}

static void align_out(struct kz_sealed_writer *writer)
{
    size_t extra = (size_t)(-file_end(writer) % FILTER_ALIGN);

    memset(kz_buf_extend(&writer->out, extra), 0, extra);
}

static void put_filter(struct kz_sealed_writer *writer, const struct kz_buf *values,
        uint64_t *ret_offset, uint64_t *ret_size, uint64_t *ret_count, uint32_t *ret_crc)
{
    size_t count = values->size / sizeof(uint64_t), size = kz_filter_size(count);
    char *filter;

    align_out(writer);
    *ret_offset = file_end(writer);
    *ret_size = size;
    *ret_count = count;
    filter = kz_buf_extend(&writer->out, size);
    memset(filter, 0, size);
    for (size_t i = 0; i < count; i++)
        kz_filter_add(filter, size, kz_load_u64(values->data + i * sizeof(uint64_t)));
    *ret_crc = kz_crc32c(0, filter, size);
}

static void put_tags(struct kz_sealed_writer *writer)
{
    struct kz_sealed_header *header = &writer->header;
    uint64_t *tags = (void *)writer->keys.data;
    size_t count = writer->keys.size / sizeof(*tags);
    size_t size = header->version == 2 ? count * sizeof(uint32_t) : kz_tags_size(count);
    KZ_AUTO(kz_freep) uint32_t *packed = kz_malloc(size + 1);

    kz_tags_sort(tags, count);
    if (header->version == 2)
        kz_tags_pack_narrow(tags, count, packed);
    else
        kz_tags_pack(tags, count, packed);
    header->key_count = count;
    align_out(writer);
    header->keys_offset = file_end(writer);
    kz_buf_put(&writer->out, packed, size);
    align_out(writer);
    header->keys_size = file_end(writer) - header->keys_offset;
    header->keys_crc = kz_crc32c(
            0, writer->out.data + writer->out.size - header->keys_size, header->keys_size);
}

static enum kz_code write_end(struct kz_sealed_writer *writer, struct kz_err *err)
{
    struct kz_sealed_header *header = &writer->header;
    struct kz_sealed_footer footer = {.magic = KZ_SEALED_MAGIC};

    KZ_TRY(end_block(writer, err));
    if (!writer->zstd)
        KZ_TRY(release_held(writer, err));
    align_out(writer);
    header->index_offset = file_end(writer);
    header->index_crc = kz_crc32c(0, writer->index.data, writer->index.size);
    kz_buf_str(&writer->out, kz_buf_view(&writer->index));
    if (header->version == 1)
        put_filter(writer, &writer->keys, &header->keys_offset, &header->keys_size,
                &header->key_count, &header->keys_crc);
    else
        put_tags(writer);
    put_filter(writer, &writer->owners, &header->owners_offset, &header->owners_size,
            &header->owner_count, &header->owners_crc);
    header->file_size = file_end(writer) + sizeof(footer);
    header->crc = kz_crc32c(0, header, offsetof(struct kz_sealed_header, crc));
    footer.file_size = header->file_size;
    footer.header_crc = header->crc;
    footer.crc = kz_crc32c(0, &footer, offsetof(struct kz_sealed_footer, crc));
    kz_buf_put(&writer->out, &footer, sizeof(footer));
    KZ_TRY(write_out(writer, err));
    return writer->file->ops->pwrite(writer->file, header, sizeof(*header), 0, err);
}

/* Against our own mistakes and bad memory; the disk has its turn when fsck reads it again. */
static enum kz_code verify(const struct kz_sealed_writer *writer, struct kz_err *err)
{
    KZ_AUTO(kz_sealed_pool_freep) struct kz_sealed_pool *pool = kz_sealed_pool_new(1);
    KZ_AUTO(kz_sealed_closep) struct kz_sealed *sealed = NULL;

    KZ_TRY(kz_sealed_open(writer->params.fs, writer->temporary, pool, &sealed, err));
    return kz_sealed_fsck(sealed, NULL, NULL, err);
}

enum kz_code kz_sealed_writer_finish(struct kz_sealed_writer *writer, struct kz_err *err)
{
    struct kz_fs *fs = writer->params.fs;
    KZ_AUTO(kz_freep) char *path = kz_strdup(writer->temporary);

    path[strlen(path) - strlen(".tmp")] = 0;
    KZ_TRY(write_end(writer, err));
    KZ_TRY(writer->file->ops->sync(writer->file, err));
    KZ_TRY(verify(writer, err));
    /* The name it has now is durable first: a rename that outlived the making of this file could
     * give the new name to what an earlier attempt had left under the old one. */
    KZ_TRY(fs->ops->sync_dir(fs, writer->params.dir, err));
    KZ_TRY(fs->ops->rename(fs, writer->temporary, path, err));
    writer->named = true;
    return fs->ops->sync_dir(fs, writer->params.dir, err);
}
