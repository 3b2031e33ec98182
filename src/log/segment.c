#include "log/segment.h"

#include <stdio.h>
#include <stdlib.h>

#include "codec/crc32c.h"
#include "log/sealed.h"

enum { SEGMENT_MAGIC = 0x6765536b, VIEW_MAGIC = 0x7765566b };

char *kz_segment_path(const char *dir, uint32_t number, bool sealed)
{
    size_t size = strlen(dir) + sizeof("/00000000.kzl");
    char *path = kz_malloc(size);

    snprintf(path, size, "%s/%08x.%s", dir, number, sealed ? "kzs" : "kzl");
    return path;
}

bool kz_segment_parse_name(const char *name, uint32_t *ret_number, bool *ret_sealed)
{
    char *end;
    unsigned long number;

    if (strlen(name) != 12 || strspn(name, "0123456789abcdef") < 8)
        return false;
    number = strtoul(name, &end, 16);
    if (strcmp(end, ".kzl") != 0 && strcmp(end, ".kzs") != 0)
        return false;
    *ret_number = (uint32_t)number;
    *ret_sealed = end[3] == 's';
    return true;
}

static struct kz_segment *segment_new(struct kz_fs *fs, uint32_t number, bool sealed)
{
    struct kz_segment *seg = kz_calloc(1, sizeof(*seg));

    seg->magic = SEGMENT_MAGIC;
    atomic_init(&seg->refs, 1);
    seg->number = number;
    seg->is_sealed = sealed;
    seg->fs = fs;
    atomic_init(&seg->end, KZ_SEGMENT_HEADER_SIZE);
    return seg;
}

enum kz_code kz_segment_map(struct kz_segment *seg, struct kz_err *err)
{
    const void *data;

    KZ_TRY(seg->file->ops->size(seg->file, &seg->file_size, err));
    if (seg->file_size > KZ_SEGMENT_SIZE_MAX)
        return kz_fail(err, KZ_CORRUPT, "\"%s\" has %llu bytes, more than a segment can have",
                seg->file->path, (unsigned long long)seg->file_size);
    KZ_TRY(seg->file->ops->map(seg->file, seg->file_size, &data, err));
    seg->map = data;
    return KZ_OK;
}

enum kz_code kz_segment_open_raw(struct kz_fs *fs, const char *dir, uint32_t number, bool writable,
        struct kz_segment **ret_seg, struct kz_err *err)
{
    KZ_AUTO(kz_freep) char *path = kz_segment_path(dir, number, false);
    KZ_AUTO(kz_segment_unrefp) struct kz_segment *seg = segment_new(fs, number, false);

    KZ_TRY(fs->ops->open(
            fs, path, writable ? KZ_OPEN_READ | KZ_OPEN_WRITE : KZ_OPEN_READ, &seg->file, err));
    if (!writable) {
        enum kz_code rc = seg->file->ops->lock_shared(seg->file, err);

        if (rc == KZ_LOCKED)
            return kz_fail(err, KZ_NOT_FOUND, "\"%s\" is gone: it has just been sealed", path);
        KZ_TRY(rc);
    }
    KZ_TRY(kz_segment_map(seg, err));
    *ret_seg = kz_take(&seg);
    return KZ_OK;
}

enum kz_code kz_segment_create(struct kz_fs *fs, const char *dir, uint32_t number, uint64_t size,
        uint64_t step_bytes, void (*after_step)(void *arg, uint64_t done_bytes), void *arg,
        struct kz_segment **ret_seg, struct kz_err *err)
{
    KZ_AUTO(kz_freep) char *path = kz_segment_path(dir, number, false);
    KZ_AUTO(kz_segment_unrefp) struct kz_segment *seg = segment_new(fs, number, false);
    int flags = KZ_OPEN_READ | KZ_OPEN_WRITE | KZ_OPEN_CREATE | KZ_OPEN_TRUNCATE;

    KZ_TRY(fs->ops->open(fs, path, flags, &seg->file, err));
    for (uint64_t at = 0; at < size;) {
        at = KZ_MIN(size, at + step_bytes);
        KZ_TRY(seg->file->ops->allocate(seg->file, at, err));
        KZ_TRY(seg->file->ops->sync(seg->file, err));
        if (after_step)
            after_step(arg, at);
    }
    KZ_TRY(kz_segment_map(seg, err));
    KZ_TRY(fs->ops->sync_dir(fs, dir, err));
    *ret_seg = kz_take(&seg);
    return KZ_OK;
}

enum kz_code kz_segment_open_sealed(struct kz_fs *fs, const char *dir, uint32_t number,
        struct kz_sealed_pool *pool, struct kz_segment **ret_seg, struct kz_err *err)
{
    KZ_AUTO(kz_freep) char *path = kz_segment_path(dir, number, true);
    KZ_AUTO(kz_segment_unrefp) struct kz_segment *seg = segment_new(fs, number, true);

    KZ_TRY(fs->ops->open(fs, path, KZ_OPEN_READ, &seg->file, err));
    KZ_TRY(seg->file->ops->size(seg->file, &seg->file_size, err));
    KZ_TRY(kz_sealed_open(fs, path, pool, &seg->sealed, err));
    *ret_seg = kz_take(&seg);
    return KZ_OK;
}

struct kz_segment *kz_segment_ref(struct kz_segment *seg)
{
    KZ_CHECK_MAGIC(seg, SEGMENT_MAGIC);
    atomic_fetch_add_explicit(&seg->refs, 1, memory_order_relaxed);
    return seg;
}

void kz_segment_unmap(struct kz_segment *seg)
{
    if (seg->map)
        seg->file->ops->unmap(seg->file, seg->map, seg->file_size);
    seg->map = NULL;
}

void kz_segment_unref(struct kz_segment *seg)
{
    if (!seg)
        return;
    KZ_CHECK_MAGIC(seg, SEGMENT_MAGIC);
    if (atomic_fetch_sub_explicit(&seg->refs, 1, memory_order_acq_rel) != 1)
        return;
    kz_sealed_close(seg->sealed);
    kz_segment_unmap(seg);
    kz_file_close(seg->file);
    kz_keytab_done(&seg->keys);
    seg->magic = 0;
    free(seg);
}

/* ---- header and frames ------------------------------------------------------------------------
 */

static uint32_t header_crc(const struct kz_segment_header *header)
{
    return kz_crc32c(
            0, &header->format, sizeof(*header) - offsetof(struct kz_segment_header, format));
}

void kz_segment_header_finish(struct kz_segment_header *header)
{
    header->magic = KZ_SEGMENT_FILE_MAGIC;
    header->format = KZ_LOG_FORMAT;
    header->crc = header_crc(header);
}

enum kz_code kz_segment_read_header(struct kz_segment *seg, bool *ret_valid, struct kz_err *err)
{
    struct kz_segment_header header;

    *ret_valid = false;
    if (seg->file_size < KZ_SEGMENT_HEADER_SIZE)
        return KZ_OK;
    KZ_TRY(seg->file->ops->pread(seg->file, &header, sizeof(header), 0, err));
    if (header.magic != KZ_SEGMENT_FILE_MAGIC)
        return KZ_OK;
    if (header.format > KZ_LOG_FORMAT && header.format < 1000) {
        (void)kz_fail(err, KZ_UNSUPPORTED,
                "cannot open \"%s\": its format is %u, this program knows up to %d",
                seg->file->path, header.format, KZ_LOG_FORMAT);
        (void)kz_hint(err, "start it with the newer kizashi that wrote it");
        return KZ_UNSUPPORTED;
    }
    if (header.crc != header_crc(&header) || header.number != seg->number ||
            header.size_bytes > KZ_SEGMENT_SIZE_MAX || header.size_bytes < seg->file_size)
        return KZ_OK;
    seg->header = header;
    seg->seq_first = header.seq_first;
    seg->last_crc = header.prev_crc;
    *ret_valid = true;
    return KZ_OK;
}

uint32_t kz_frame_crc(const uint8_t *log_id, kz_lsn lsn, const struct kz_frame *frame)
{
    uint32_t crc = kz_crc32c(kz_crc32c(0, log_id, 16), &lsn, sizeof(lsn));

    return kz_crc32c(crc, &frame->size, frame->size - offsetof(struct kz_frame, size));
}

const struct kz_frame *kz_frame_at(const struct kz_segment *seg, uint32_t offset)
{
    const struct kz_frame *frame = (const void *)(seg->map + offset);

    if (offset % 8 || (uint64_t)offset + sizeof(*frame) > seg->file_size)
        return NULL;
    if (frame->magic != KZ_FRAME_MAGIC || frame->size < sizeof(*frame) || frame->size % 8 ||
            frame->size > KZ_LOG_FRAME_SIZE_MAX || offset + frame->size > seg->file_size)
        return NULL;
    return frame;
}

/* ---- records ----------------------------------------------------------------------------------
 */

const struct kz_record *kz_segment_record(const struct kz_segment *seg, uint32_t offset)
{
    uint32_t end = atomic_load_explicit(&seg->end, memory_order_acquire);
    const struct kz_record *record = (const void *)(seg->map + offset);

    if (offset % 8 || offset < KZ_SEGMENT_HEADER_SIZE || end < sizeof(*record) ||
            offset > end - sizeof(*record))
        return NULL;
    if (record->size < sizeof(*record) || record->size > end - offset)
        return NULL;
    return record;
}

static enum kz_code fail_frame(struct kz_err *err, const struct kz_segment *seg, uint32_t offset)
{
    (void)kz_fail(err, KZ_CORRUPT, "\"%s\" is damaged at byte %u", seg->file->path, offset);
    return kz_hint(err, "run kizashi fsck, and restore from a backup");
}

/* Records of one frame; its size has been checked. */
static enum kz_code each_in_frame(const struct kz_segment *seg, uint32_t offset,
        const struct kz_frame *frame, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err)
{
    uint32_t end = offset + frame->size;

    for (uint32_t at = offset + sizeof(*frame); at < end;) {
        const struct kz_record *record = (const void *)(seg->map + at);
        kz_lsn lsn = KZ_LSN(seg->number, at);

        if (end - at < sizeof(*record) || record->size < sizeof(*record) || record->size > end - at)
            return fail_frame(err, seg, at);
        if (lsn >= until)
            return KZ_OK;
        if (lsn >= from)
            KZ_TRY(each(arg, lsn, record));
        at += (uint32_t)KZ_ALIGN8(record->size);
    }
    return KZ_OK;
}

enum kz_code kz_segment_each(const struct kz_segment *seg, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err)
{
    uint32_t end = atomic_load_explicit(&seg->end, memory_order_acquire);

    for (uint32_t at = KZ_SEGMENT_HEADER_SIZE; at < end && KZ_LSN(seg->number, at) < until;) {
        const struct kz_frame *frame = kz_frame_at(seg, at);

        if (!frame || frame->size > end - at)
            return fail_frame(err, seg, at);
        if (KZ_LSN(seg->number, at + frame->size) > from)
            KZ_TRY(each_in_frame(seg, at, frame, from, until, each, arg, err));
        at += frame->size;
    }
    return KZ_OK;
}

void kz_segment_count(struct kz_segment *seg, const struct kz_record *record)
{
    uint64_t count = atomic_load_explicit(&seg->record_count, memory_order_relaxed);

    /* One thread writes these; readers of statistics may see them a step apart. */
    if (count == 0)
        atomic_store_explicit(&seg->at_first_ms, record->at_ms, memory_order_relaxed);
    if (count == 0 || record->at_ms > atomic_load_explicit(&seg->at_last_ms, memory_order_relaxed))
        atomic_store_explicit(&seg->at_last_ms, record->at_ms, memory_order_relaxed);
    atomic_store_explicit(&seg->record_count, count + 1, memory_order_relaxed);
    if (record->type == KZ_RECORD_EVENT)
        atomic_store_explicit(&seg->event_count,
                atomic_load_explicit(&seg->event_count, memory_order_relaxed) + 1,
                memory_order_relaxed);
}

void kz_segment_info(const struct kz_segment *seg, struct kz_log_segment_info *ret_info)
{
    struct kz_log_segment_info info = {
            .number = seg->number,
            .sealed = seg->is_sealed,
            .disk_bytes = seg->file_size,
    };

    if (seg->is_sealed) {
        const struct kz_sealed_header *header = kz_sealed_get_header(seg->sealed);

        info.raw_bytes = header->raw_bytes;
        info.seq_first = header->seq_first;
        info.seq_last = header->seq_last;
        info.at_first_ms = header->at_first_ms;
        info.at_last_ms = header->at_last_ms;
        info.event_count = header->event_count;
    } else {
        uint64_t count = atomic_load_explicit(&seg->record_count, memory_order_relaxed);

        info.raw_bytes = atomic_load_explicit(&seg->end, memory_order_relaxed);
        info.seq_first = seg->seq_first;
        info.seq_last = seg->seq_first + count - 1;
        info.at_first_ms = atomic_load_explicit(&seg->at_first_ms, memory_order_relaxed);
        info.at_last_ms = atomic_load_explicit(&seg->at_last_ms, memory_order_relaxed);
        info.event_count = atomic_load_explicit(&seg->event_count, memory_order_relaxed);
    }
    *ret_info = info;
}

/* ---- views ------------------------------------------------------------------------------------
 */

struct kz_log_view *kz_log_view_new(size_t count)
{
    struct kz_log_view *view = kz_calloc(1, sizeof(*view) + count * sizeof(view->segments[0]));

    view->magic = VIEW_MAGIC;
    atomic_init(&view->refs, 1);
    view->count = count;
    return view;
}

struct kz_log_view *kz_log_view_ref(struct kz_log_view *view)
{
    KZ_CHECK_MAGIC(view, VIEW_MAGIC);
    atomic_fetch_add_explicit(&view->refs, 1, memory_order_relaxed);
    return view;
}

void kz_log_view_unref(struct kz_log_view *view)
{
    if (!view)
        return;
    KZ_CHECK_MAGIC(view, VIEW_MAGIC);
    if (atomic_fetch_sub_explicit(&view->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < view->count; i++)
        kz_segment_unref(view->segments[i]);
    view->magic = 0;
    free(view);
}
