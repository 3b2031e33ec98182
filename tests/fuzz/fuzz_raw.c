/* Any bytes as a log of one raw segment: fsck, a reader beside a writer, recovery with its cutting.
 * What recovery leaves must open again the same. The first byte says which checksums are made right
 * beforehand, so that the fuzzer gets past them: 1 the header, 2 the frames and their chain. */
#include <stdlib.h>

#include "log/segment.h"
#include "sys/file_sim.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SIZE_MAX_BYTES = 256 << 10 };

static void repair_frames(char *bytes, size_t size, const struct kz_segment_header *header)
{
    uint32_t crc = header->prev_crc;
    uint64_t seq = header->seq_first;

    for (size_t at = KZ_SEGMENT_HEADER_SIZE; size - at >= sizeof(struct kz_frame);) {
        struct kz_frame *frame = (void *)(bytes + at);
        kz_lsn lsn = KZ_LSN(header->number, at);

        frame->size &= ~7u;
        if (frame->size < sizeof(*frame) || frame->size > size - at)
            return;
        frame->magic = KZ_FRAME_MAGIC;
        frame->prev_crc = crc;
        frame->first_seq = seq;
        frame->durable = KZ_MIN(frame->durable, lsn);
        seq += frame->record_count;
        crc = frame->crc = kz_frame_crc(header->log_id, lsn, frame);
        at += frame->size;
    }
}

static void repair(char *bytes, size_t size, uint8_t what)
{
    struct kz_segment_header *header = (void *)bytes;

    if (size < KZ_SEGMENT_HEADER_SIZE)
        return;
    if (what & 1) {
        header->number = 1;
        header->size_bytes = KZ_MAX((uint64_t)size, (uint64_t)KZ_SEGMENT_SIZE_MIN);
        kz_segment_header_finish(header);
    }
    if (what & 2)
        repair_frames(bytes, size, header);
}

static enum kz_code each(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    uint64_t *sum = arg;
    const uint8_t *bytes = (const void *)record;

    *sum += lsn;
    for (uint32_t i = 0; i < record->size; i++)
        *sum += bytes[i];
    return KZ_OK;
}

static uint64_t read_all(struct kz_log *log)
{
    struct kz_history_reader *reader = kz_log_reader(log);
    uint64_t sum = 0;

    if (reader->ops->scan_all(reader, 0, UINT64_MAX, each, &sum, NULL) != KZ_OK)
        return 0;
    return sum;
}

static void open_and_read(struct kz_fs *fs)
{
    struct kz_log_options options = {
            .fs = fs, .dir = "/", .segment_size_bytes = KZ_SEGMENT_SIZE_MIN, .read_only = true};
    struct kz_log_recovery recovery, again;
    struct kz_log *log = NULL;
    uint64_t sum;
    kz_lsn lsn;
    struct kz_err err;

    if (kz_log_open(&options, &log, &recovery, &err) == KZ_OK)
        (void)read_all(log);
    else
        KZ_BUG_ON(!err.message[0]);
    kz_log_close(log);
    log = NULL;
    options.read_only = false;
    options.sync_inline = true;
    if (kz_log_open(&options, &log, &recovery, &err) != KZ_OK)
        return;
    sum = read_all(log);
    kz_log_close(log);
    log = NULL;
    KZ_BUG_ON(kz_log_open(&options, &log, &again, &err) != KZ_OK);
    KZ_BUG_ON(again.seq_last != recovery.seq_last || again.end != recovery.end);
    KZ_BUG_ON(again.torn_bytes);
    KZ_BUG_ON(read_all(log) != sum);
    if (kz_log_append(log,
                &(struct kz_log_entry){.type = KZ_RECORD_CLOCK, .at_ms = 1, .body = KZ_STR("")},
                &lsn, &(uint64_t){0}, &err) == KZ_OK)
        KZ_BUG_ON(kz_log_commit(log, &err) != KZ_OK);
    kz_log_close(log);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = NULL;
    char *bytes;

    if (size < 2 || size > SIZE_MAX_BYTES)
        return 0;
    fs = kz_fs_sim_new(1);
    bytes = malloc(size - 1);
    memcpy(bytes, data + 1, size - 1);
    repair(bytes, size - 1, data[0]);
    KZ_BUG_ON(kz_fs_replace(fs, "/00000001.kzl", bytes, size - 1, NULL) != KZ_OK);
    free(bytes);
    (void)!kz_log_fsck(fs, "/", NULL, NULL, &(uint64_t){0}, NULL);
    open_and_read(fs);
    return 0;
}
