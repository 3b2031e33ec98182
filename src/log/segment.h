/* log/segment.h -- one file of the log, raw or sealed, and the immutable list of them.
 *
 * A raw segment ("%08x.kzl") is what the writer appends frames to; when it is complete the sealer
 * may replace it by a sealed one ("%08x.kzs") of the same number, in which every record keeps its
 * address. A view is a snapshot of the list: whoever holds one can read every segment in it, even
 * if it has been sealed or dropped since.
 *
 * Owner    segments and views are counted; the last one to let go closes file and mapping.
 * Threads  ref, unref and reading: any. `keys` and the counters of the segment being written: the
 *          writer. Everything else is fixed before the segment is published in a view.
 * Fails    KZ_IO, KZ_CORRUPT, KZ_UNSUPPORTED (a newer format). Never logs.
 */
#pragma once

#include <stdatomic.h>

#include "log/keytab.h"
#include "log/log.h"

struct kz_sealed;
struct kz_sealed_pool;

enum {
    KZ_LOG_FORMAT = 1,
    KZ_SEGMENT_HEADER_SIZE = 4096,
    KZ_SEGMENT_SIZE_MIN = 64 << 10,
    KZ_SEGMENT_SIZE_MAX = 1 << 30,
};
/* 0xff and 0xfe do not occur in UTF-8, so text is never taken for either. */
#define KZ_SEGMENT_FILE_MAGIC 0xff4c5a4bu /* "KZL\xff" */
#define KZ_FRAME_MAGIC 0xfe465a4bu        /* "KZF\xfe" */

/* First bytes of a raw segment's file; the rest of the 4,096 is zero. */
struct kz_segment_header {
    uint32_t magic;
    uint32_t crc; /* CRC-32C of what follows in this struct */
    uint32_t format;
    uint32_t number;
    uint8_t log_id[16];  /* random, the same in all segments of a log */
    uint64_t size_bytes; /* the file's full size */
    uint64_t seq_first;  /* of the first record that will be written here */
    int64_t created_ms;
    uint32_t prev_crc; /* of the previous segment's last frame */
    uint32_t prev_end; /* where the previous segment's frames end */
    uint64_t durable;  /* what was durable when this was written, as in a frame */
};
_Static_assert(sizeof(struct kz_segment_header) == 72, "on disk");

/* One commit. Records follow, each at a multiple of 8. */
struct kz_frame {
    uint32_t magic;
    uint32_t crc; /* CRC-32C of log id, this frame's address, and what follows `crc` in the frame */
    uint32_t size; /* header and records, a multiple of 8 */
    uint32_t record_count;
    uint64_t first_seq;
    uint32_t prev_crc; /* `crc` of the frame before it: the chain that recovery follows */
    uint32_t flags;    /* 0 */
    int64_t at_ms;
    uint64_t durable; /* every address below was durable when this was written */
};
_Static_assert(sizeof(struct kz_frame) == 48, "on disk");

struct kz_segment {
    uint32_t magic; /* in memory */
    atomic_uint refs;
    uint32_t number;
    bool is_sealed;
    struct kz_segment *leaving_next; /* space.c */
    struct kz_fs *fs;
    struct kz_file *file; /* owned; of a sealed one only for backup */
    uint64_t file_size;
    struct kz_sealed *sealed; /* owned; NULL where raw */

    const char *map; /* raw only: the whole file, read-only */
    struct kz_segment_header header;
    /* Raw only. Bytes below `end` are whole frames and never change; the writer moves it. */
    _Atomic uint32_t end;
    uint64_t seq_first; /* of the first record, or the next one where there is none yet */
    _Atomic uint64_t record_count;
    _Atomic uint64_t event_count;
    _Atomic int64_t at_first_ms, at_last_ms; /* over records; 0 where there is none */
    uint32_t last_crc;                       /* of the last frame; the writer's */
    struct kz_keytab keys;                   /* the writer's; empty in a read-only log */
};

/* Ascending numbers without a gap. */
struct kz_log_view {
    uint32_t magic;
    atomic_uint refs;
    uint32_t first; /* number of segments[0] */
    size_t count;
    struct kz_segment *segments[];
};

/* "<dir>/%08x.kzl" or ".kzs"; free() it. */
char *kz_segment_path(const char *dir, uint32_t number, bool sealed);
/* Whether a file of the log's directory is a segment, and which. */
bool kz_segment_parse_name(const char *name, uint32_t *ret_number, bool *ret_sealed);
/* Opens and maps an existing raw file of any contents: recover.c reads header and frames. Not
 * `writable`: as somebody beside the writer, who then cuts nothing off it (P5); KZ_NOT_FOUND where
 * that has begun. */
KZ_MUST_USE enum kz_code kz_segment_open_raw(struct kz_fs *fs, const char *dir, uint32_t number,
        bool writable, struct kz_segment **ret_seg, struct kz_err *err);
/* Makes a file of zeros, durable with its name, `step_bytes` between syncs so that the disk stays
 * free for the writer's. After a failure a part of the file may be there. */
KZ_MUST_USE enum kz_code kz_segment_create(struct kz_fs *fs, const char *dir, uint32_t number,
        uint64_t size, uint64_t step_bytes, void (*after_step)(void *arg, uint64_t done_bytes),
        void *arg, struct kz_segment **ret_seg, struct kz_err *err);
/* Maps the file in its size of now; done by open and create. */
KZ_MUST_USE enum kz_code kz_segment_map(struct kz_segment *seg, struct kz_err *err);
KZ_MUST_USE enum kz_code kz_segment_open_sealed(struct kz_fs *fs, const char *dir, uint32_t number,
        struct kz_sealed_pool *pool, struct kz_segment **ret_seg, struct kz_err *err);
struct kz_segment *kz_segment_ref(struct kz_segment *seg);
/* Only where nobody else refers to it. */
void kz_segment_unmap(struct kz_segment *seg);
void kz_segment_unref(struct kz_segment *seg);
KZ_DEFINE_FREEP(struct kz_segment, kz_segment_unref)

/* Reads and checks the file's header. Not valid (torn, zero, of another number) is no error here;
 * KZ_UNSUPPORTED for a newer format. */
KZ_MUST_USE enum kz_code kz_segment_read_header(
        struct kz_segment *seg, bool *ret_valid, struct kz_err *err);
/* Sets magic, format and crc; the rest is the caller's. */
void kz_segment_header_finish(struct kz_segment_header *header);
/* The checksum of a frame at an address. It begins with the log's id, which is random, so bytes
 * that a client sends cannot pass for a frame; and with the address, so that a frame in the wrong
 * place does not either. */
uint32_t kz_frame_crc(const uint8_t *log_id, kz_lsn lsn, const struct kz_frame *frame);
/* What may be a frame at `offset`, magic and size checked, and nothing else; or NULL. */
const struct kz_frame *kz_frame_at(const struct kz_segment *seg, uint32_t offset);

/* The record at `offset` of a raw segment, bounds checked; NULL where there is none. */
const struct kz_record *kz_segment_record(const struct kz_segment *seg, uint32_t offset);
/* Calls `each` with every record of a raw segment with from <= lsn < until, in order, as
 * kz_history_reader_ops.scan_all() does. KZ_CORRUPT where a size makes no sense. */
KZ_MUST_USE enum kz_code kz_segment_each(const struct kz_segment *seg, kz_lsn from, kz_lsn until,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err);
/* Fills `ret_info` for either kind, but `current`. */
void kz_segment_info(const struct kz_segment *seg, struct kz_log_segment_info *ret_info);
/* Counts one more record of a raw segment: what info and find_key's time limit show. Writer only.
 */
void kz_segment_count(struct kz_segment *seg, const struct kz_record *record);

/* Room for `count` segments, to be filled with references that the view then owns. */
struct kz_log_view *kz_log_view_new(size_t count);
struct kz_log_view *kz_log_view_ref(struct kz_log_view *view);
void kz_log_view_unref(struct kz_log_view *view);
KZ_DEFINE_FREEP(struct kz_log_view, kz_log_view_unref)
/* NULL where it was dropped or is not there yet. Borrowed from the view. */
static inline struct kz_segment *kz_log_view_segment(
        const struct kz_log_view *view, uint32_t number)
{
    uint32_t index = number - view->first;

    return index < view->count ? view->segments[index] : NULL;
}
