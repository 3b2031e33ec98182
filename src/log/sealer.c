/* Upkeep of segments: sealing, rewriting without the erased, dropping.
 *
 *     raw ---- seal ----> sealed --- rewrite ---> sealed without the erased ---> dropped
 *
 * U1  Segments are sealed oldest first and dropped oldest first, so that a log is always a run of
 *     sealed ones followed by a run of raw ones.
 * U2  The new file is whole, verified and durable under its name before the list knows of it, and
 * the list knows of it before the raw file goes (kz_log_replace_segment). Whatever step a crash
 * comes after, the directory holds: the old file and perhaps a temporary one (removed at open), or
 * both files (the sealed one wins, the raw one is removed at open), or the new file. U3  Readers
 * hold a view, so what is replaced or dropped under them stays mapped until they let go. U4  A raw
 * segment is sealed only if every frame still has its checksum and every seq is there: the new
 * checksums must never vouch for bytes that had gone bad.
 */
#include <inttypes.h>

#include "log/log_int.h"

static kz_lsn end_of_segment(const struct kz_segment *seg)
{
    if (seg->is_sealed)
        return kz_sealed_get_header(seg->sealed)->end;
    return KZ_LSN(seg->number, atomic_load_explicit(&seg->end, memory_order_acquire));
}

/* ---- a raw segment -------------------------------------------------------------------------- */

/* What a pass over a raw segment gathers. */
struct gather {
    struct kz_buf entries; /* struct kz_sealed_entry */
    uint64_t seq_next;
    bool gap;
};

static enum kz_code each_raw(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct gather *gather = arg;
    struct kz_sealed_entry entry = {record->owner, KZ_LSN_OFFSET(lsn), 0};

    kz_buf_put(&gather->entries, &entry, sizeof(entry));
    gather->gap |= record->seq != gather->seq_next;
    gather->seq_next++;
    return KZ_OK;
}

/* Verifies every frame (U4) and gives the last one's checksum. */
static enum kz_code check_frames(struct kz_log *log, const struct kz_segment *seg,
        uint32_t *ret_last_crc, struct kz_err *err)
{
    uint32_t end = KZ_LSN_OFFSET(end_of_segment(seg));
    uint32_t last_crc = seg->header.prev_crc;

    for (uint32_t at = KZ_SEGMENT_HEADER_SIZE; at < end;) {
        const struct kz_frame *frame = kz_frame_at(seg, at);

        if (!frame || frame->size > end - at || frame->prev_crc != last_crc ||
                frame->crc != kz_frame_crc(kz_log_id(log), KZ_LSN(seg->number, at), frame)) {
            (void)kz_fail(err, KZ_CORRUPT, "cannot seal \"%s\": it is damaged at byte %" PRIu32,
                    seg->file->path, at);
            return kz_hint(err, "run kizashi fsck, and restore from a backup");
        }
        last_crc = frame->crc;
        at += frame->size;
    }
    *ret_last_crc = last_crc;
    return KZ_OK;
}

static enum kz_code gather_raw(
        const struct kz_segment *seg, struct gather *gather, struct kz_err *err)
{
    gather->seq_next = seg->seq_first;
    KZ_TRY(kz_segment_each(seg, 0, UINT64_MAX, each_raw, gather, err));
    if (gather->gap)
        return kz_fail(
                err, KZ_CORRUPT, "cannot seal \"%s\": its seqs are not in order", seg->file->path);
    kz_sealed_sort(
            (void *)gather->entries.data, gather->entries.size / sizeof(struct kz_sealed_entry));
    return KZ_OK;
}

static enum kz_code write_entries(const struct kz_sealed_params *params,
        const struct kz_segment *seg, const struct kz_buf *gathered, struct kz_err *err)
{
    KZ_AUTO(kz_sealed_writer_freep) struct kz_sealed_writer *writer = NULL;
    const struct kz_sealed_entry *entries = (const void *)gathered->data;
    size_t count = gathered->size / sizeof(*entries);
    enum { AHEAD = 8 };

    KZ_TRY(kz_sealed_writer_new(params, &writer, err));
    for (size_t i = 0; i < count; i++) {
        uint32_t offset = entries[i].offset;

        /* Sorted, they lie all over the file, so that each would be a cache miss. */
        if (i + AHEAD < count)
            for (unsigned line = 0; line < 4; line++)
                __builtin_prefetch(seg->map + entries[i + AHEAD].offset + 64 * line);
        KZ_TRY(kz_sealed_writer_add(
                writer, KZ_LSN(seg->number, offset), kz_segment_record(seg, offset), err));
    }
    return kz_sealed_writer_finish(writer, err);
}

static enum kz_code seal_raw(struct kz_log *log, const struct kz_segment *seg,
        const struct kz_log_seal *seal, struct kz_err *err)
{
    struct gather gather = {0};
    struct kz_sealed_params params = {
            .fs = kz_log_fs(log),
            .dir = kz_log_dir(log),
            .segment = seg->number,
            .seq_first = seg->seq_first,
            .at_first_ms = atomic_load_explicit(&seg->at_first_ms, memory_order_relaxed),
            .at_last_ms = atomic_load_explicit(&seg->at_last_ms, memory_order_relaxed),
            .end = end_of_segment(seg),
            .erased = seal->erased,
            .erased_below = seal->erased_below,
            .erased_count = seal->erased_count,
    };
    enum kz_code rc;

    memcpy(params.log_id, kz_log_id(log), sizeof(params.log_id));
    KZ_TRY(check_frames(log, seg, &params.last_crc, err));
    rc = gather_raw(seg, &gather, err);
    params.seq_last = gather.seq_next - 1;
    if (rc == KZ_OK)
        rc = write_entries(&params, seg, &gather.entries, err);
    kz_buf_done(&gather.entries);
    return rc;
}

/* ---- a sealed segment ----------------------------------------------------------------------- */

static enum kz_code has_erased(const struct kz_segment *seg, const struct kz_log_seal *seal,
        bool *ret_has, struct kz_err *err)
{
    bool has = false;

    for (size_t i = 0; i < seal->erased_count && !has; i++)
        if (!seal->erased_below || seal->erased_below[i] > KZ_LSN(seg->number, 0))
            KZ_TRY(kz_sealed_has_owner(seg->sealed, seal->erased[i], &has, err));
    *ret_has = has;
    return KZ_OK;
}

struct copy {
    struct kz_sealed_writer *writer;
    struct kz_err *err;
};

static enum kz_code each_copied(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct copy *copy = arg;

    return kz_sealed_writer_add(copy->writer, lsn, record, copy->err);
}

static enum kz_code rewrite_sealed(struct kz_log *log, const struct kz_segment *seg,
        const struct kz_log_seal *seal, struct kz_err *err)
{
    KZ_AUTO(kz_sealed_writer_freep) struct kz_sealed_writer *writer = NULL;
    const struct kz_sealed_header *header = kz_sealed_get_header(seg->sealed);
    struct kz_sealed_params params = {
            .fs = kz_log_fs(log),
            .dir = kz_log_dir(log),
            .segment = seg->number,
            .seq_first = header->seq_first,
            .seq_last = header->seq_last,
            .at_first_ms = header->at_first_ms,
            .at_last_ms = header->at_last_ms,
            .end = header->end,
            .last_crc = header->last_crc,
            .left_out_count = header->left_out_count,
            .erased = seal->erased,
            .erased_below = seal->erased_below,
            .erased_count = seal->erased_count,
    };
    struct copy copy;

    memcpy(params.log_id, header->log_id, sizeof(params.log_id));
    KZ_TRY(kz_sealed_writer_new(&params, &writer, err));
    copy = (struct copy){writer, err};
    KZ_TRY(kz_sealed_scan_sorted(seg->sealed, each_copied, &copy, err));
    return kz_sealed_writer_finish(writer, err);
}

/* ---- upkeep --------------------------------------------------------------------------------- */

/* Does what is to be done with the segment, if anything; *ret_more: go on with the next one. */
static enum kz_code keep_up(struct kz_log *log, const struct kz_segment *seg,
        struct kz_log_seal *seal, bool *ret_more, struct kz_err *err)
{
    bool has = false;

    *ret_more = true;
    if (!kz_log_is_complete(log, seg->number) || end_of_segment(seg) > seal->below) {
        *ret_more = false; /* U1: nothing behind it either */
        return KZ_OK;
    }
    if (seg->is_sealed) {
        KZ_TRY(has_erased(seg, seal, &has, err));
        if (!has)
            return KZ_OK;
        KZ_TRY(rewrite_sealed(log, seg, seal, err));
        KZ_TRY(kz_log_replace_segment(log, seg->number, err));
        seal->ret_rewritten++;
        return KZ_OK;
    }
    KZ_TRY(seal_raw(log, seg, seal, err));
    KZ_TRY(kz_log_replace_segment(log, seg->number, err));
    seal->ret_sealed++;
    return KZ_OK;
}

static enum kz_code seal_locked(struct kz_log *log, struct kz_log_seal *seal, struct kz_err *err)
{
    KZ_AUTO(kz_log_view_unrefp) struct kz_log_view *first = kz_log_get_view(log);
    uint32_t number = first->first;
    bool more = true;

    kz_log_view_unrefp(&first);
    while (more && seal->ret_sealed + seal->ret_rewritten < seal->segments_max) {
        /* A view for each segment, so that the disk space of the last one is not held. */
        KZ_AUTO(kz_log_view_unrefp) struct kz_log_view *view = kz_log_get_view(log);
        const struct kz_segment *seg = kz_log_view_segment(view, number++);

        if (!seg)
            break;
        if (keep_up(log, seg, seal, &more, err) != KZ_OK)
            return kz_wrap(err, "sealing segment %08" PRIx32, seg->number);
    }
    return KZ_OK;
}

enum kz_code kz_log_seal(struct kz_log *log, struct kz_log_seal *seal, struct kz_err *err)
{
    struct kz_err local;
    enum kz_code rc;

    for (size_t i = 1; i < seal->erased_count; i++)
        KZ_BUG_ON(seal->erased[i - 1] >= seal->erased[i]);
    seal->ret_sealed = 0;
    seal->ret_rewritten = 0;
    kz_log_lock_upkeep(log);
    rc = seal_locked(log, seal, err ? err : &local);
    kz_log_unlock_upkeep(log);
    return rc;
}

static enum kz_code drop_locked(struct kz_log *log, kz_lsn below, struct kz_err *err)
{
    for (;;) {
        KZ_AUTO(kz_log_view_unrefp) struct kz_log_view *view = kz_log_get_view(log);
        const struct kz_segment *oldest = view->segments[0];

        if (!kz_log_is_complete(log, oldest->number) || end_of_segment(oldest) > below)
            return KZ_OK;
        if (kz_log_drop_oldest(log, err) != KZ_OK)
            return kz_wrap(err, "dropping segment %08" PRIx32, oldest->number);
    }
}

enum kz_code kz_log_drop(struct kz_log *log, kz_lsn below, struct kz_err *err)
{
    struct kz_err local;
    enum kz_code rc;

    kz_log_lock_upkeep(log);
    rc = drop_locked(log, below, err ? err : &local);
    kz_log_unlock_upkeep(log);
    return rc;
}
