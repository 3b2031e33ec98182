/* Verifies a log's files from the first byte to the last, without trusting what recovery thinks.
 *
 * Bytes behind the end that no intact frame claims to have been durable are what a crash leaves;
 * they are no problem (recover.c, R1). So a bad place waits for such a claim before it is reported.
 *
 * One damage is one problem: what it takes with it is remembered (lost), and a record that names
 * something in there as its predecessor, a segment that follows one which is missing, are no others.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/hash.h"
#include "log/log_int.h"

struct head { /* newest record of an owner on a chain */
    uint64_t owner;
    kz_lsn lsns[KZ_CHAIN_COUNT];
};

struct range {
    kz_lsn from, until;
};

struct fsck {
    struct kz_fs *fs;
    const char *dir;
    void (*report)(void *arg, const char *line);
    void *arg;
    uint64_t problem_count, record_count;
    uint32_t *numbers; /* count of them, ascending */
    bool *sealed;
    size_t count;
    struct kz_sealed_pool *pool;
    uint8_t id[16];
    bool has_id;
    bool left_out;     /* some segment has lost records to erasure, so chains may end early */
    uint64_t seq_next; /* 0: not known */
    uint32_t last_crc;
    uint32_t end; /* in the segment before */
    bool has_chain;
    const char *path;                /* of the file at hand */
    kz_lsn bad;                      /* where the chain broke; 0: it holds */
    bool bad_is_told, bad_has_bytes; /* behind it in its segment */
    char bad_path[512];
    struct range *lost; /* addresses whose records cannot be read */
    size_t lost_count;
    struct head *heads; /* open addressing */
    size_t head_mask, head_count;
};

static void problem(struct fsck *f, const char *fmt, ...) KZ_PRINTF(2, 3);
static void problem(struct fsck *f, const char *fmt, ...)
{
    char line[1200];
    va_list args;

    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    f->problem_count++;
    if (f->report)
        f->report(f->arg, line);
}

static void problem_line(void *arg, const char *line)
{
    struct fsck *f = arg;

    problem(f, "%s", line);
}

/* ---- what is lost -----------------------------------------------------------------------------
 */

static void lose(struct fsck *f, kz_lsn from, kz_lsn until)
{
    f->lost = kz_realloc(f->lost, (f->lost_count + 1) * sizeof(*f->lost));
    f->lost[f->lost_count++] = (struct range){from, until};
}

/* A whole segment: nothing of it is known, nor what should follow. */
static void lose_segment(struct fsck *f, uint32_t number)
{
    lose(f, KZ_LSN(number, 0), KZ_LSN((uint64_t)number + 1, 0));
    f->seq_next = 0;
    f->has_chain = false;
}

static bool is_lost(const struct fsck *f, kz_lsn lsn)
{
    for (size_t i = 0; i < f->lost_count; i++)
        if (lsn >= f->lost[i].from && lsn < f->lost[i].until)
            return true;
    return false;
}

/* ---- heads ------------------------------------------------------------------------------------
 */

static struct head *head_slot(struct fsck *f, uint64_t owner)
{
    size_t at = (size_t)owner & f->head_mask;

    while (f->heads[at].owner && f->heads[at].owner != owner)
        at = (at + 1) & f->head_mask;
    return &f->heads[at];
}

static struct head *head_of(struct fsck *f, uint64_t owner)
{
    struct head *slot;

    if (!f->heads || f->head_count > f->head_mask / 2) {
        struct head *old = f->heads;
        size_t old_count = old ? f->head_mask + 1 : 0;

        f->head_mask = old ? f->head_mask * 2 + 1 : 4095;
        f->heads = kz_calloc(f->head_mask + 1, sizeof(*f->heads));
        for (size_t i = 0; i < old_count; i++) {
            if (old[i].owner)
                *head_slot(f, old[i].owner) = old[i];
        }
        free(old);
    }
    slot = head_slot(f, owner);
    if (!slot->owner) {
        slot->owner = owner;
        f->head_count++;
    }
    return slot;
}

/* ---- records ----------------------------------------------------------------------------------
 */

static void check_prev(struct fsck *f, kz_lsn lsn, const struct kz_record *record)
{
    enum kz_chain chain = kz_record_chain(record->type);
    struct head *head;
    kz_lsn expected;

    if (chain == KZ_CHAIN_NONE || !record->owner) {
        if (record->prev)
            problem(f, "%s: record seq %llu belongs to no chain and has a predecessor", f->path,
                    (unsigned long long)record->seq);
        return;
    }
    head = head_of(f, record->owner);
    expected = head->lsns[chain];
    head->lsns[chain] = lsn;
    if (record->prev == expected || KZ_LSN_SEGMENT(record->prev) < f->numbers[0])
        return;
    if ((!expected && f->left_out) || is_lost(f, record->prev))
        return;
    problem(f, "%s: record seq %llu names %08x:%08x as its predecessor, but it is %08x:%08x",
            f->path, (unsigned long long)record->seq, KZ_LSN_SEGMENT(record->prev),
            KZ_LSN_OFFSET(record->prev), KZ_LSN_SEGMENT(expected), KZ_LSN_OFFSET(expected));
}

static enum kz_code check_record(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct fsck *f = arg;
    struct kz_err err;

    f->record_count++;
    if (kz_record_check(record, &err) != KZ_OK) {
        problem(f, "%s: %s", f->path, err.message);
        lose(f, lsn, lsn + 1);
    } else {
        check_prev(f, lsn, record);
    }
    return KZ_OK;
}

/* ---- raw segments -----------------------------------------------------------------------------
 */

static bool is_intact(const struct fsck *f, const struct kz_segment *seg, uint32_t at)
{
    const struct kz_frame *frame = kz_frame_at(seg, at);

    return frame && kz_frame_crc(f->id, KZ_LSN(seg->number, at), frame) == frame->crc;
}

static void check_frame(struct fsck *f, const struct kz_segment *seg, uint32_t at)
{
    const struct kz_frame *frame = kz_frame_at(seg, at);
    uint32_t end = at + frame->size;
    uint64_t seq = frame->first_seq;

    for (uint32_t offset = at + sizeof(*frame); offset < end;) {
        const struct kz_record *record = (const void *)(seg->map + offset);

        if (end - offset < sizeof(*record) || record->size < sizeof(*record) ||
                record->size > end - offset) {
            problem(f, "%s: the record at byte %u does not fit its frame", f->path, offset);
            lose(f, KZ_LSN(seg->number, offset), KZ_LSN(seg->number, end));
            seq = frame->first_seq + frame->record_count;
            break;
        }
        if (record->seq != seq)
            problem(f, "%s: record at byte %u has seq %llu, expected %llu", f->path, offset,
                    (unsigned long long)record->seq, (unsigned long long)seq);
        (void)check_record(f, KZ_LSN(seg->number, offset), record); /* always KZ_OK */
        offset += (uint32_t)KZ_ALIGN8(record->size);
        seq++;
    }
    if (seq != frame->first_seq + frame->record_count)
        problem(f, "%s: the frame at byte %u says %u records and has %llu", f->path, at,
                frame->record_count, (unsigned long long)(seq - frame->first_seq));
    f->seq_next = frame->first_seq + frame->record_count;
    f->last_crc = frame->crc;
}

static void break_chain(struct fsck *f, kz_lsn bad)
{
    f->bad = bad;
    f->bad_is_told = f->bad_has_bytes = false;
    snprintf(f->bad_path, sizeof(f->bad_path), "%s", f->path);
}

/* Behind a bad place: an intact frame at `at` that says that place was durable makes it a problem, and
 * the chain goes on from there. */
static bool is_claim(struct fsck *f, kz_lsn at, kz_lsn durable)
{
    if (durable <= f->bad)
        return false;
    if (!f->bad_is_told)
        problem(f, "%s: damaged at byte %u; what follows says that it was durable", f->bad_path,
                KZ_LSN_OFFSET(f->bad));
    lose(f, f->bad, at);
    f->bad = 0;
    f->seq_next = 0;
    return true;
}

/* Where the segment behind the end at hand cannot say whether it is one: nothing was written there. */
static void forget_end(struct fsck *f)
{
    if (!f->bad_has_bytes)
        f->bad = 0;
}

static void walk_frames(struct fsck *f, const struct kz_segment *seg)
{
    uint32_t at = KZ_SEGMENT_HEADER_SIZE;

    while (at + sizeof(struct kz_frame) <= seg->file_size) {
        const struct kz_frame *frame = kz_frame_at(seg, at);

        if (!is_intact(f, seg, at)) {
            if (!f->bad)
                break_chain(f, KZ_LSN(seg->number, at));
            f->bad_has_bytes |= kz_load_u64(seg->map + at) != 0;
            at += 8;
            continue;
        }
        if (f->bad) {
            if (!is_claim(f, KZ_LSN(seg->number, at), frame->durable)) {
                at += 8;
                continue;
            }
        } else if (frame->prev_crc != f->last_crc || frame->first_seq != f->seq_next) {
            break_chain(f, KZ_LSN(seg->number, at)); /* a stale frame, unless something claims it */
            continue;
        }
        check_frame(f, seg, at);
        at += frame->size;
        f->end = at;
    }
}

static void check_header(struct fsck *f, const struct kz_segment *seg)
{
    const struct kz_segment_header *header = &seg->header;

    if (f->has_id && memcmp(f->id, header->log_id, sizeof(f->id)) != 0)
        problem(f, "%s: it belongs to another log", f->path);
    memcpy(f->id, header->log_id, sizeof(f->id));
    f->has_id = true;
    if (f->bad && KZ_LSN_OFFSET(f->bad) == header->prev_end &&
            KZ_LSN_SEGMENT(f->bad) + 1 == seg->number && header->prev_crc == f->last_crc)
        f->bad = 0; /* the segment before ended there */
    else if (f->bad)
        (void)is_claim(f, KZ_LSN(seg->number, 0), header->durable);
    else if (f->has_chain && (header->prev_crc != f->last_crc || header->prev_end != f->end))
        problem(f, "%s: it does not follow the segment before it", f->path);
    if (f->bad)
        return;
    if (f->seq_next && header->seq_first != f->seq_next)
        problem(f, "%s: it begins with seq %llu, expected %llu", f->path,
                (unsigned long long)header->seq_first, (unsigned long long)f->seq_next);
    f->seq_next = header->seq_first;
    f->last_crc = header->prev_crc;
}

/* Whether anything was written behind where the header is. */
static bool has_frames(const struct kz_segment *seg)
{
    for (uint64_t at = KZ_SEGMENT_HEADER_SIZE; at + 8 <= seg->file_size; at += 8)
        if (kz_load_u64(seg->map + at))
            return true;
    return false;
}

static void check_raw(struct fsck *f, uint32_t number, bool is_last)
{
    KZ_AUTO(kz_segment_unrefp) struct kz_segment *seg = NULL;
    struct kz_err err = {0};
    bool valid = false;

    if (kz_segment_open_raw(f->fs, f->dir, number, false, &seg, &err) != KZ_OK ||
            kz_segment_read_header(seg, &valid, &err) != KZ_OK) {
        problem(f, "%s", err.message);
        lose_segment(f, number);
        return;
    }
    if (valid) {
        check_header(f, seg);
        f->end = KZ_SEGMENT_HEADER_SIZE;
    } else {
        forget_end(f);
    }
    if (!valid && !f->bad) {
        /* The last may be one that was being made ready. Without a segment before it nothing says
         * whose frames these are, so that none would be found intact. */
        bool is_told = !is_last || (!f->has_id && has_frames(seg));

        if (is_told)
            problem(f, "%s: its header cannot be read", f->path);
        break_chain(f, KZ_LSN(number, 0));
        f->bad_is_told = is_told;
    }
    walk_frames(f, seg);
    f->has_chain = true;
}

/* ---- sealed segments --------------------------------------------------------------------------
 */

static void check_sealed(struct fsck *f, uint32_t number)
{
    KZ_AUTO(kz_segment_unrefp) struct kz_segment *seg = NULL;
    const struct kz_sealed_header *header;
    struct kz_err err = {0};

    if (kz_segment_open_sealed(f->fs, f->dir, number, f->pool, &seg, &err) != KZ_OK) {
        problem(f, "%s", err.message);
        lose_segment(f, number);
        return;
    }
    header = kz_sealed_get_header(seg->sealed);
    if (f->has_id && memcmp(f->id, header->log_id, sizeof(f->id)) != 0)
        problem(f, "%s: it belongs to another log", f->path);
    memcpy(f->id, header->log_id, sizeof(f->id));
    f->has_id = true;
    if (f->seq_next && header->seq_first != f->seq_next)
        problem(f, "%s: it begins with seq %llu, expected %llu", f->path,
                (unsigned long long)header->seq_first, (unsigned long long)f->seq_next);
    f->left_out |= header->left_out_count > 0;
    /* Its problems are reported there, and records of a damaged block cannot be read. */
    if (kz_sealed_fsck(seg->sealed, problem_line, f, &err) != KZ_OK) {
        lose_segment(f, number);
    } else if (kz_sealed_scan(seg->sealed, 0, UINT64_MAX, check_record, f, &err) != KZ_OK) {
        problem(f, "%s", err.message);
        lose_segment(f, number);
    }
    f->seq_next = header->seq_last + 1;
}

/* ---- the directory ----------------------------------------------------------------------------
 */

static void on_name(void *arg, const char *name)
{
    struct fsck *f = arg;
    bool sealed;
    uint32_t number;

    if (!kz_segment_parse_name(name, &number, &sealed))
        return;
    /* Both kinds of one number: the raw one (listed first) is a leftover of sealing. */
    if (f->count && f->numbers[f->count - 1] == number) {
        f->sealed[f->count - 1] = true;
        return;
    }
    f->numbers = kz_realloc(f->numbers, (f->count + 1) * sizeof(*f->numbers));
    f->sealed = kz_realloc(f->sealed, (f->count + 1) * sizeof(*f->sealed));
    f->numbers[f->count] = number;
    f->sealed[f->count++] = sealed;
}

static void check_missing(struct fsck *f, uint32_t first, uint32_t last)
{
    if (first == last)
        problem(f, "%s: segment %08x is missing", f->dir, first);
    else
        problem(f, "%s: segments %08x to %08x are missing", f->dir, first, last);
    lose(f, KZ_LSN(first, 0), KZ_LSN((uint64_t)last + 1, 0));
    f->seq_next = 0;
    f->has_chain = false;
    forget_end(f);
}

static void check_all(struct fsck *f)
{
    for (size_t i = 0; i < f->count; i++) {
        KZ_AUTO(kz_freep) char *path = kz_segment_path(f->dir, f->numbers[i], f->sealed[i]);

        if (i && f->numbers[i] != f->numbers[i - 1] + 1)
            check_missing(f, f->numbers[i - 1] + 1, f->numbers[i] - 1);
        f->path = path;
        if (f->sealed[i])
            check_sealed(f, f->numbers[i]);
        else
            check_raw(f, f->numbers[i], i + 1 == f->count);
    }
}

enum kz_code kz_log_fsck(struct kz_fs *fs, const char *dir,
        void (*report)(void *arg, const char *line), void *arg, uint64_t *ret_records,
        struct kz_err *err)
{
    struct fsck f = {.fs = fs, .dir = dir, .report = report, .arg = arg};
    enum kz_code rc = fs->ops->list(fs, dir, on_name, &f, err);

    if (rc == KZ_OK && f.count == 0) {
        rc = kz_fail(err, KZ_NOT_FOUND, "there is no log in \"%s\"", dir);
    } else if (rc == KZ_OK) {
        f.pool = kz_sealed_pool_new(1);
        check_all(&f);
        kz_sealed_pool_free(f.pool);
        if (f.problem_count)
            rc = kz_fail(err, KZ_CORRUPT, "\"%s\" has %llu problems", dir,
                    (unsigned long long)f.problem_count);
    }
    if (rc == KZ_OK || rc == KZ_CORRUPT)
        *ret_records = f.record_count;
    free(f.heads);
    free(f.lost);
    free(f.numbers);
    free(f.sealed);
    return rc;
}
