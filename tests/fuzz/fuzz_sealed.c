/* Any bytes as a sealed segment: opened, read in every way, checked; never a crash, and what fsck
 * finds sound must be readable. The first byte says which checksums are made right beforehand, so
 * that the fuzzer gets past them: 1 header and footer, 2 index, 4 keys and owners, 8 blocks, 16 the
 * dictionary. The rest is the file of segment 7. */
#include <stdlib.h>

#include "codec/crc32c.h"
#include "log/sealed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct bytes {
    struct kz_fs fs;
    struct kz_file file;
    char *data;
    size_t size;
};

static struct bytes *bytes_of(struct kz_file *file)
{
    return KZ_CONTAINER_OF(file, struct bytes, file);
}

static enum kz_code bytes_open(struct kz_fs *fs, const char *path, int flags,
        struct kz_file **ret_file, struct kz_err *err)
{
    struct bytes *bytes = KZ_CONTAINER_OF(fs, struct bytes, fs);

    (void)flags, (void)err;
    bytes->file.path = (char *)(uintptr_t)path;
    *ret_file = &bytes->file;
    return KZ_OK;
}

static void bytes_close(struct kz_file *file)
{
    (void)file;
}

static enum kz_code bytes_size(struct kz_file *file, uint64_t *ret_size, struct kz_err *err)
{
    (void)err;
    *ret_size = bytes_of(file)->size;
    return KZ_OK;
}

static enum kz_code bytes_map(
        struct kz_file *file, uint64_t size, const void **ret_data, struct kz_err *err)
{
    (void)size, (void)err;
    *ret_data = bytes_of(file)->data;
    return KZ_OK;
}

static void bytes_unmap(struct kz_file *file, const void *data, uint64_t size)
{
    (void)file, (void)data, (void)size;
}

static const struct kz_fs_ops fs_ops = {.open = bytes_open};
static const struct kz_file_ops file_ops = {
        .close = bytes_close, .size = bytes_size, .map = bytes_map, .unmap = bytes_unmap};

static bool lies_within(const struct bytes *bytes, uint64_t offset, uint64_t size)
{
    return offset <= bytes->size && size <= bytes->size - offset;
}

static void repair_blocks(const struct bytes *bytes, const struct kz_sealed_header *header)
{
    for (uint32_t i = 0; i < header->block_count; i++) {
        uint64_t at = header->index_offset + i * sizeof(struct kz_sealed_block);
        struct kz_sealed_block block;

        if (!lies_within(bytes, at, sizeof(block)))
            return;
        memcpy(&block, bytes->data + at, sizeof(block));
        if (lies_within(bytes, block.at, block.stored_size))
            block.crc = kz_crc32c(0, bytes->data + block.at, block.stored_size);
        memcpy(bytes->data + at, &block, sizeof(block));
    }
}

static void repair_dictionary(const struct bytes *bytes)
{
    struct kz_sealed_dictionary head;
    uint64_t at = sizeof(struct kz_sealed_header);

    if (!lies_within(bytes, at, sizeof(head)))
        return;
    memcpy(&head, bytes->data + at, sizeof(head));
    if (lies_within(bytes, at + sizeof(head), head.size))
        head.crc = kz_crc32c(0, bytes->data + at + sizeof(head), head.size);
    memcpy(bytes->data + at, &head, sizeof(head));
}

static void repair(const struct bytes *bytes, uint8_t what)
{
    struct kz_sealed_header header;
    struct kz_sealed_footer footer;
    uint64_t index_size;

    if (bytes->size < sizeof(header) + sizeof(footer))
        return;
    memcpy(&header, bytes->data, sizeof(header));
    if (what & 16 && header.version != 1)
        repair_dictionary(bytes);
    index_size = header.block_count * sizeof(struct kz_sealed_block);
    if (what & 8)
        repair_blocks(bytes, &header);
    if (what & 4 && lies_within(bytes, header.keys_offset, header.keys_size))
        header.keys_crc = kz_crc32c(0, bytes->data + header.keys_offset, header.keys_size);
    if (what & 4 && lies_within(bytes, header.owners_offset, header.owners_size))
        header.owners_crc = kz_crc32c(0, bytes->data + header.owners_offset, header.owners_size);
    if (what & 2 && lies_within(bytes, header.index_offset, index_size))
        header.index_crc = kz_crc32c(0, bytes->data + header.index_offset, index_size);
    if (what & 1) {
        header.magic = KZ_SEALED_MAGIC;
        header.file_size = bytes->size;
        header.crc = kz_crc32c(0, &header, offsetof(struct kz_sealed_header, crc));
        footer = (struct kz_sealed_footer){KZ_SEALED_MAGIC, bytes->size, header.crc, 0};
        footer.crc = kz_crc32c(0, &footer, offsetof(struct kz_sealed_footer, crc));
        memcpy(bytes->data + bytes->size - sizeof(footer), &footer, sizeof(footer));
    }
    memcpy(bytes->data, &header, sizeof(header));
}

struct seen {
    const struct kz_sealed *sealed;
    uint64_t count;
    uint64_t sum;
};

static enum kz_code each(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct seen *seen = arg;
    const uint8_t *bytes = (const void *)record;

    for (uint32_t i = 0; i < record->size; i++)
        seen->sum += bytes[i];
    seen->count++;
    seen->sum += lsn;
    return KZ_OK;
}

/* One in a few records is asked for again, by its owner, its address and its key. */
static enum kz_code each_again(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct seen *seen = arg;
    struct kz_sealed_cursor cursor;
    const struct kz_record *found;
    struct kz_buf out = {0};
    uint64_t owner = record->owner, key = record->key;
    bool has;

    if (seen->count++ % 5)
        return KZ_OK;
    kz_sealed_seek(&cursor, seen->sealed, owner, lsn);
    if (kz_sealed_prev(&cursor, &lsn, &found, NULL) == KZ_OK)
        (void)each(&(struct seen){0}, lsn, found);
    kz_sealed_cursor_done(&cursor);
    if (kz_sealed_get(seen->sealed, lsn, owner, &out, NULL) == KZ_OK &&
            out.size < sizeof(struct kz_record))
        abort();
    if (owner && kz_sealed_find_key(seen->sealed, key, owner, NULL, NULL, &has, NULL) == KZ_OK)
        seen->sum += has;
    kz_buf_done(&out);
    return KZ_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes bytes = {.fs.ops = &fs_ops, .file.ops = &file_ops};
    struct kz_sealed_pool *pool;
    struct kz_sealed *sealed = NULL;

    if (size < 2)
        return 0;
    bytes.size = size - 1;
    bytes.data = kz_malloc(bytes.size);
    memcpy(bytes.data, data + 1, bytes.size);
    repair(&bytes, data[0]);
    pool = kz_sealed_pool_new(2);
    if (kz_sealed_open(&bytes.fs, "00000007.kzs", pool, &sealed, NULL) == KZ_OK) {
        struct seen sorted = {.sealed = sealed}, scanned = {.sealed = sealed};
        struct seen again = {.sealed = sealed};
        bool sound = kz_sealed_fsck(sealed, NULL, NULL, NULL) == KZ_OK;
        enum kz_code rc = kz_sealed_scan_sorted(sealed, each, &sorted, NULL);

        if (sound && (rc != KZ_OK || sorted.count != kz_sealed_get_header(sealed)->record_count))
            abort();
        /* A scan reserves what the header's `end` claims, at most a window; too slow to fuzz with.
         */
        if (KZ_LSN_OFFSET(kz_sealed_get_header(sealed)->end) < 1 << 20) {
            rc = kz_sealed_scan(sealed, 0, UINT64_MAX, each, &scanned, NULL);
            if (sound && (rc != KZ_OK || scanned.sum != sorted.sum))
                abort();
        }
        (void)!kz_sealed_scan_sorted(sealed, each_again, &again, NULL);
    }
    kz_sealed_close(sealed);
    kz_sealed_pool_free(pool);
    free(bytes.data);
    return 0;
}
