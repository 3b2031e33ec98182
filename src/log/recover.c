/* Opening: where does the log end, and may what lies behind be thrown away?
 *
 *     list -> sealed ones opened -> raw ones walked along the chain -> first frame that does not
 *     follow: the end -> does anything behind it claim that more was durable?  no: cut  yes: refuse
 *
 *  R1  A frame (or a segment's header) says what was durable when it was written. Where one that is
 *      intact says so of an address behind the end, a durable frame is missing: corruption, and
 *      nothing is changed. Otherwise all that is lost was never acknowledged.
 *  R2  What is cut is zeroed, durably, before anything is written: no bytes of a former tail are
 *      ever behind the end of the log.
 *  R3  What no intact frame says was durable is written once more before it is synced: the process
 *      may have ended after a sync that failed, and then the kernel takes the pages for clean
 *      although they are not on the disk, and a second sync succeeds and does nothing.
 *  R4  Later segments go from the last to the first, each durably, so that a crash in recovery
 *      leaves a log that recovers the same way.
 *  R5  A checkpoint is believed beside the log that it was made of and no other: where its mark is,
 *      the log has the same chain. Inside a sealed segment that cannot be seen, and is a no.
 */
#include <stdio.h>
#include <stdlib.h>

#include "log/log_int.h"
#include "sys/random.h"

enum { READ_ONLY_ATTEMPTS = 10, KEY_RECORD_BYTES = 256 };

struct found {
    uint32_t number;
    bool raw, sealed;
};

struct recovery {
    struct kz_log *log;
    struct found *found; /* ascending */
    size_t count;
    char **temporary; /* leftovers of unfinished writers */
    size_t temporary_count;
    struct kz_segment **segments; /* opened, one for each of found; raw ones without a header too */
    struct kz_buf tags;           /* uint64_t each, of the raw segment being walked */
    size_t raw_at;                /* index of the first raw one; count where there is none */
    bool has_id;
    /* The end so far. */
    size_t last;     /* index of the segment that holds it; count: none */
    uint32_t offset; /* in it */
    uint32_t last_crc;
    uint64_t seq_next;
    kz_lsn durable; /* the highest address that the chain says was durable */
    /* What the log has where the checkpoint's mark is. */
    bool has_mark;
    uint32_t mark_crc;
};

static void see_mark(struct recovery *r, kz_lsn position, uint32_t crc)
{
    if (position != r->log->options.covered.position)
        return;
    r->has_mark = true;
    r->mark_crc = crc;
}

/* ---- what is in the directory -----------------------------------------------------------------
 */

static void on_name(void *arg, const char *name)
{
    struct recovery *r = arg;
    size_t size = strlen(name);
    uint32_t number;
    bool sealed;

    if (size > 4 && strcmp(name + size - 4, ".tmp") == 0) {
        r->temporary = kz_realloc(r->temporary, (r->temporary_count + 1) * sizeof(char *));
        r->temporary[r->temporary_count++] = kz_strdup(name);
    }
    if (!kz_segment_parse_name(name, &number, &sealed))
        return;
    /* Names come sorted, so both kinds of one number are neighbours. */
    if (r->count == 0 || r->found[r->count - 1].number != number) {
        r->found = kz_realloc(r->found, (r->count + 1) * sizeof(*r->found));
        r->found[r->count++] = (struct found){.number = number};
    }
    if (sealed)
        r->found[r->count - 1].sealed = true;
    else
        r->found[r->count - 1].raw = true;
}

static void recovery_done(struct recovery *r)
{
    for (size_t i = 0; i < r->temporary_count; i++)
        free(r->temporary[i]);
    for (size_t i = 0; r->segments && i < r->count; i++)
        kz_segment_unref(r->segments[i]);
    free(r->temporary);
    free(r->segments);
    free(r->found);
    kz_buf_done(&r->tags);
}

static enum kz_code remove_name(struct kz_log *log, const char *name, struct kz_err *err)
{
    KZ_AUTO(kz_freep) char *path = kz_malloc(strlen(log->dir) + strlen(name) + 2);

    sprintf(path, "%s/%s", log->dir, name);
    return log->fs->ops->unlink(log->fs, path, err);
}

/* Leftovers of what was not finished when the process ended. */
static enum kz_code tidy(struct recovery *r, struct kz_err *err)
{
    struct kz_log *log = r->log;
    char name[16];

    /* A sealed segment replaces its raw one only under a durable name. */
    KZ_TRY(log->fs->ops->sync_dir(log->fs, log->dir, err));
    for (size_t i = 0; i < r->temporary_count; i++)
        KZ_TRY(remove_name(log, r->temporary[i], err));
    for (size_t i = 0; i < r->count; i++) {
        if (!r->found[i].raw || !r->found[i].sealed)
            continue;
        snprintf(name, sizeof(name), "%08x.kzl", r->found[i].number);
        KZ_TRY(remove_name(log, name, err));
        r->found[i].raw = false;
    }
    return KZ_OK;
}

static enum kz_code check_run(const struct recovery *r, struct kz_err *err)
{
    for (size_t i = 1; i < r->count; i++) {
        const struct found *a = &r->found[i - 1], *b = &r->found[i];

        if (b->number != a->number + 1) {
            (void)kz_fail(err, KZ_CORRUPT, "segment %08x is missing from \"%s\"", a->number + 1,
                    r->log->dir);
            return kz_hint(err, "restore from a backup");
        }
        if (!a->sealed && b->sealed)
            return kz_fail(err, KZ_CORRUPT, "\"%s\" has a sealed segment %08x behind a raw one",
                    r->log->dir, b->number);
    }
    return KZ_OK;
}

static enum kz_code open_all(struct recovery *r, struct kz_err *err)
{
    struct kz_log *log = r->log;

    r->segments = kz_calloc(r->count ? r->count : 1, sizeof(*r->segments));
    r->raw_at = r->count;
    for (size_t i = 0; i < r->count; i++) {
        uint32_t number = r->found[i].number;

        if (!r->found[i].sealed) {
            if (r->raw_at == r->count)
                r->raw_at = i;
            KZ_TRY(kz_segment_open_raw(
                    log->fs, log->dir, number, !log->options.read_only, &r->segments[i], err));
            continue;
        }
        KZ_TRY(kz_segment_open_sealed(log->fs, log->dir, number, log->pool, &r->segments[i], err));
        const struct kz_sealed_header *header = kz_sealed_get_header(r->segments[i]->sealed);

        if (r->has_id && memcmp(log->id, header->log_id, sizeof(log->id)) != 0)
            return kz_fail(err, KZ_CORRUPT, "segment %08x in \"%s\" belongs to another log", number,
                    log->dir);
        memcpy(log->id, header->log_id, sizeof(log->id));
        see_mark(r, header->end, header->last_crc);
        r->has_id = true;
        r->seq_next = header->seq_last + 1;
        r->last = i;
    }
    return KZ_OK;
}

/* ---- the chain --------------------------------------------------------------------------------
 */

static enum kz_code fail_corrupt(
        struct recovery *r, size_t index, uint32_t offset, const char *what, struct kz_err *err)
{
    (void)kz_fail(err, KZ_CORRUPT, "\"%s\" is damaged at byte %u: %s",
            r->segments[index]->file->path, offset, what);
    return kz_hint(err, "run kizashi fsck, and restore from a backup");
}

/* Takes the records of a frame that is intact. false: they make no sense. */
static bool take_frame(
        struct recovery *r, struct kz_segment *seg, uint32_t offset, const struct kz_frame *frame)
{
    bool keys = !r->log->options.read_only;
    uint32_t at = sizeof(*frame);
    uint32_t count = 0;

    while (at < frame->size) {
        const struct kz_record *record = (const void *)((const char *)frame + at);

        if (frame->size - at < sizeof(*record) || record->size < sizeof(*record) ||
                record->size > frame->size - at || record->seq != frame->first_seq + count)
            return false;
        if (record->key && keys) {
            kz_keytab_put(&seg->keys, record->key, offset + at);
            kz_buf_u64(&r->tags, kz_tag(record->key));
        }
        kz_segment_count(seg, record);
        at += (uint32_t)KZ_ALIGN8(record->size);
        count++;
    }
    return count == frame->record_count;
}

/* Sorted they go in much faster. */
static void cover_walked(struct recovery *r)
{
    uint64_t *sorted = (void *)r->tags.data;
    size_t count = r->tags.size / sizeof(*sorted);
    KZ_AUTO(kz_freep) uint32_t *packed = kz_malloc(kz_tags_size(count) + 1);
    struct kz_tags tags = kz_tags_at(packed, count);

    if (!count)
        return;
    kz_tags_sort(sorted, count);
    kz_tags_pack(sorted, count, packed);
    kz_keyfilter_add_tags(&r->log->keys, &tags, 1);
    kz_buf_clear(&r->tags);
}

/* Follows the chain through one segment; r->offset is where it ends there. */
static enum kz_code walk(struct recovery *r, size_t index, struct kz_err *err)
{
    struct kz_log *log = r->log;
    struct kz_segment *seg = r->segments[index];
    /* What a checkpoint covers was verified when it was made; fsck reads it again. */
    bool trusted = KZ_LSN_SEGMENT(log->options.covered.position) > seg->number;
    uint32_t at = KZ_SEGMENT_HEADER_SIZE;

    r->durable = KZ_MAX(r->durable, seg->header.durable);
    if (!log->options.read_only)
        kz_keytab_init(&seg->keys, (uint32_t)(seg->file_size / KEY_RECORD_BYTES));
    for (;;) {
        const struct kz_frame *frame = kz_frame_at(seg, at);

        see_mark(r, KZ_LSN(seg->number, at), seg->last_crc);
        if (!frame || frame->prev_crc != seg->last_crc || frame->first_seq != r->seq_next)
            break;
        if (!trusted && kz_frame_crc(log->id, KZ_LSN(seg->number, at), frame) != frame->crc)
            break;
        if (!take_frame(r, seg, at, frame))
            return fail_corrupt(r, index, at, "records that do not fit their frame", err);
        r->seq_next += frame->record_count;
        r->durable = KZ_MAX(r->durable, frame->durable);
        seg->last_crc = frame->crc;
        at += frame->size;
    }
    cover_walked(r);
    atomic_store_explicit(&seg->end, at, memory_order_release);
    r->last = index;
    r->offset = at;
    r->last_crc = seg->last_crc;
    return KZ_OK;
}

/* Whether segment `index` has a header that continues the chain. */
static enum kz_code follows(struct recovery *r, size_t index, bool *ret_follows, struct kz_err *err)
{
    struct kz_log *log = r->log;
    struct kz_segment *seg = r->segments[index];
    bool is_first = index == r->raw_at;
    bool valid = false;

    *ret_follows = false;
    KZ_TRY(kz_segment_read_header(seg, &valid, err));
    if (!valid)
        return KZ_OK;
    if (r->has_id && memcmp(log->id, seg->header.log_id, sizeof(log->id)) != 0)
        return kz_fail(err, KZ_CORRUPT, "\"%s\" belongs to another log", seg->file->path);
    if (is_first) {
        if (r->raw_at > 0 && seg->header.seq_first != r->seq_next)
            return fail_corrupt(
                    r, index, 0, "it does not follow the sealed segment before it", err);
        memcpy(log->id, seg->header.log_id, sizeof(log->id));
        r->has_id = true;
        r->seq_next = seg->header.seq_first;
        *ret_follows = true;
        return KZ_OK;
    }
    *ret_follows = seg->header.prev_crc == r->last_crc && seg->header.prev_end == r->offset &&
                   seg->header.seq_first == r->seq_next;
    return KZ_OK;
}

/* ---- what lies behind the end -----------------------------------------------------------------
 */

/* The rest of a segment from `offset`: the highest durable address that an intact frame states, and
 * where the last byte that is not zero was. A run of zeros as long as can be unsynced ends it. */
static void look_behind(struct recovery *r, const struct kz_segment *seg, uint32_t offset,
        kz_lsn *ret_claim, uint32_t *ret_used)
{
    kz_lsn claim = 0;
    uint64_t used = offset;

    for (uint64_t at = offset; at + 8 <= seg->file_size; at += 8) {
        const struct kz_frame *frame;

        if (kz_load_u64(seg->map + at) == 0) {
            if (at - used >= KZ_LOG_UNSYNCED_MAX_BYTES)
                break;
            continue;
        }
        used = at + 8;
        frame = kz_frame_at(seg, (uint32_t)at);
        if (frame && frame->durable > claim &&
                kz_frame_crc(r->log->id, KZ_LSN(seg->number, at), frame) == frame->crc)
            claim = frame->durable;
    }
    /* A file that was cut anywhere may end in bytes that are too few for a frame. */
    for (uint64_t at = KZ_MAX(seg->file_size & ~7ull, (uint64_t)offset); at < seg->file_size;
            at++) {
        if (seg->map[at] && at - used < KZ_LOG_UNSYNCED_MAX_BYTES)
            used = at + 1;
    }
    *ret_claim = claim;
    *ret_used = (uint32_t)used;
}

static enum kz_code fail_lost(struct recovery *r, kz_lsn claim, struct kz_err *err)
{
    const struct kz_segment *seg = r->segments[r->last];

    if (claim == r->log->options.covered.position) {
        (void)kz_fail(err, KZ_CORRUPT,
                "\"%s\" ends at byte %u: a checkpoint knows the log up to %08x:%08x",
                seg->file->path, r->offset, KZ_LSN_SEGMENT(claim), KZ_LSN_OFFSET(claim));
        return kz_hint(err,
                "nothing was changed; run kizashi fsck, and restore from a backup. If this is an "
                "older log put here on purpose, remove \"views\" beside it");
    }
    (void)kz_fail(err, KZ_CORRUPT,
            "\"%s\" is damaged at byte %u: what follows was durable up to %08x:%08x",
            seg->file->path, r->offset, KZ_LSN_SEGMENT(claim), KZ_LSN_OFFSET(claim));
    return kz_hint(err, "nothing was changed; run kizashi fsck, and restore from a backup");
}

/* R1. Gives the number of bytes behind the end that are to go. */
static enum kz_code check_behind(
        struct recovery *r, uint32_t *ret_used, uint64_t *ret_torn, struct kz_err *err)
{
    kz_lsn end = KZ_LSN(r->segments[r->last]->number, r->offset);
    kz_lsn highest = r->log->options.covered.position;
    kz_lsn claim;
    uint32_t used;

    look_behind(r, r->segments[r->last], r->offset, &claim, ret_used);
    highest = KZ_MAX(highest, claim);
    *ret_torn = *ret_used - r->offset;
    for (size_t i = r->last + 1; i < r->count; i++) {
        const struct kz_segment *seg = r->segments[i];

        if (seg->file_size <= KZ_SEGMENT_HEADER_SIZE)
            continue;
        look_behind(r, seg, KZ_SEGMENT_HEADER_SIZE, &claim, &used);
        highest = KZ_MAX(highest, claim);
        if (seg->header.magic) /* valid, but not what follows here */
            highest = KZ_MAX(highest, seg->header.durable);
        *ret_torn += used - KZ_SEGMENT_HEADER_SIZE;
    }
    return highest > end ? fail_lost(r, highest, err) : KZ_OK;
}

static enum kz_code remove_segment(struct recovery *r, size_t index, struct kz_err *err)
{
    struct kz_log *log = r->log;

    KZ_TRY(log->fs->ops->unlink(log->fs, r->segments[index]->file->path, err));
    KZ_TRY(log->fs->ops->sync_dir(log->fs, log->dir, err));
    kz_segment_unref(r->segments[index]);
    r->segments[index] = NULL;
    r->count = index;
    return KZ_OK;
}

/* R3. What was written and not known to be durable is the log's from here on. */
static enum kz_code write_again(struct recovery *r, struct kz_segment *seg, struct kz_err *err)
{
    uint32_t end = atomic_load_explicit(&seg->end, memory_order_relaxed);
    kz_lsn durable = KZ_MAX(r->durable, r->log->options.covered.position);
    uint32_t from = 0;

    if (KZ_LSN_SEGMENT(durable) > seg->number)
        return KZ_OK;
    if (KZ_LSN_SEGMENT(durable) == seg->number)
        from = KZ_LSN_OFFSET(durable);
    if (from < end)
        KZ_TRY(seg->file->ops->pwrite(seg->file, seg->map + from, end - from, from, err));
    return seg->file->ops->sync(seg->file, err);
}

/* R2, R4: makes the end of the chain the end of the files. */
static enum kz_code cut(struct recovery *r, uint32_t used, struct kz_err *err)
{
    static const char zeros[64 << 10];
    struct kz_segment *seg = r->segments[r->last];

    while (r->count > r->last + 1)
        KZ_TRY(remove_segment(r, r->count - 1, err));
    if (seg->is_sealed)
        return KZ_OK;
    for (uint32_t at = r->offset; at < used;) {
        size_t n = KZ_MIN((size_t)(used - at), sizeof(zeros));

        KZ_TRY(seg->file->ops->pwrite(seg->file, zeros, n, at, err));
        at += (uint32_t)n;
    }
    if (seg->file_size < seg->header.size_bytes) {
        /* A backup copies no further than the end. */
        uint64_t size = seg->header.size_bytes;

        KZ_TRY(seg->file->ops->allocate(seg->file, size, err));
        seg->file->ops->unmap(seg->file, seg->map, seg->file_size);
        seg->map = NULL;
        KZ_TRY(kz_segment_map(seg, err));
    }
    for (size_t i = r->raw_at; i <= r->last; i++)
        KZ_TRY(write_again(r, r->segments[i], err));
    return KZ_OK;
}

/* ---- all of it --------------------------------------------------------------------------------
 */

/* No raw segment: a new log, or one of which everything is sealed. */
static enum kz_code create_first(struct recovery *r, struct kz_err *err)
{
    struct kz_log *log = r->log;
    uint32_t number = r->count ? r->segments[r->count - 1]->number + 1 : 1;
    struct kz_segment *seg = NULL;

    if (!r->has_id)
        kz_random_bytes(log->id, sizeof(log->id));
    log->seq_next = r->seq_next ? r->seq_next : 1;
    KZ_TRY(kz_segment_create(log->fs, log->dir, number, kz_space_segment_size(log, number),
            KZ_SEGMENT_SIZE_MAX, NULL, NULL, &seg, err));
    if (kz_log_begin_segment(log, seg, NULL, err) != KZ_OK) {
        kz_segment_unref(seg);
        return err->code;
    }
    return seg->file->ops->sync(seg->file, err);
}

static void publish_found(struct recovery *r)
{
    struct kz_log *log = r->log;
    size_t count = r->last + 1;
    struct kz_log_view *view = kz_log_view_new(count);

    for (size_t i = 0; i < count; i++)
        view->segments[i] = kz_segment_ref(r->segments[i]);
    kz_log_publish(log, view);
    log->current = kz_segment_ref(r->segments[r->last]);
    log->seq_next = r->seq_next;
}

/* A first raw segment without a header is one that was being made when the power went, and then has
 * no frames: it is durable before the first is written. */
static enum kz_code check_headless(struct recovery *r, struct kz_err *err)
{
    const struct kz_segment *seg = r->segments[r->raw_at];
    kz_lsn claim;
    uint32_t used = KZ_SEGMENT_HEADER_SIZE;

    if (seg->file_size > KZ_SEGMENT_HEADER_SIZE)
        look_behind(r, seg, KZ_SEGMENT_HEADER_SIZE, &claim, &used);
    if (used > KZ_SEGMENT_HEADER_SIZE || r->raw_at + 1 < r->count ||
            KZ_LSN_SEGMENT(r->log->options.covered.position) >= seg->number)
        return fail_corrupt(r, r->raw_at, 0, "its header cannot be read", err);
    return r->log->options.read_only ? KZ_OK : remove_segment(r, r->raw_at, err);
}

/* R1 where no raw segment is left: the log ends with its last sealed one, or there is none. A
 * checkpoint that knows of records behind that has outlived them: a directory that was emptied, a
 * disk that is not mounted. A new log in their place would hide it. */
static enum kz_code check_none_lost(const struct recovery *r, struct kz_err *err)
{
    uint32_t next = r->count ? r->found[r->count - 1].number + 1 : 1;
    kz_lsn known = r->log->options.covered.position;

    if (known <= KZ_LSN(next, KZ_SEGMENT_HEADER_SIZE))
        return KZ_OK;
    (void)kz_fail(err, KZ_CORRUPT,
            "segment %08x is missing from \"%s\": a checkpoint knows the log up to %08x:%08x", next,
            r->log->dir, KZ_LSN_SEGMENT(known), KZ_LSN_OFFSET(known));
    return kz_hint(err, "nothing was changed; see that its disk is mounted, or restore a backup");
}

static enum kz_code follow_chain(struct recovery *r, struct kz_err *err)
{
    bool goes_on = true;

    for (size_t i = r->raw_at; i < r->count && goes_on; i++) {
        KZ_TRY(follows(r, i, &goes_on, err));
        if (goes_on)
            KZ_TRY(walk(r, i, err));
        else if (i == r->raw_at)
            return check_headless(r, err);
    }
    return KZ_OK;
}

/* R5. A log that ends before the mark is another case: it has lost what the checkpoint knows. */
static enum kz_code check_mark(const struct recovery *r, struct kz_err *err)
{
    const struct kz_log_mark *mark = &r->log->options.covered;
    const struct kz_segment *last = r->last < r->count ? r->segments[r->last] : NULL;
    const char *why = NULL;
    kz_lsn end;

    if (!mark->position || !last)
        return KZ_OK;
    end = last->is_sealed ? kz_sealed_get_header(last->sealed)->end
                          : KZ_LSN(last->number, r->offset);
    if (memcmp(mark->log_id, r->log->id, sizeof(mark->log_id)) != 0)
        why = "it is another log";
    else if (r->has_mark ? r->mark_crc != mark->crc : mark->position < end)
        why = "what it holds before that is not what it held";
    if (!why)
        return KZ_OK;
    return kz_fail(err, KZ_CONFLICT, "the log in \"%s\" is not the one known up to %08x:%08x: %s",
            r->log->dir, KZ_LSN_SEGMENT(mark->position), KZ_LSN_OFFSET(mark->position), why);
}

/* Where the filter over all keys begins: behind the last sealed segment that cannot say which it has. */
static size_t first_with_tags(const struct recovery *r, struct kz_tags *tags)
{
    size_t first = 0;

    for (size_t i = 0; i < r->raw_at; i++)
        if (!kz_sealed_tags(r->segments[i]->sealed, &tags[i]))
            first = i + 1;
    return first;
}

/* Fills the filter with the keys of the sealed segments; the raw ones add theirs as they are walked,
 * for which there is room, and for what comes next. */
static void cover_keys(struct recovery *r)
{
    struct kz_keyfilter *keys = &r->log->keys;
    KZ_AUTO(kz_freep) struct kz_tags *tags = kz_calloc(r->raw_at + 1, sizeof(*tags));
    uint32_t number = r->count ? r->segments[r->count - 1]->number + 1 : 1;
    size_t room = 0, at = first_with_tags(r, tags);
    bool is_narrow;

    for (size_t i = r->raw_at; i < r->count; i++)
        room += r->segments[i]->file_size / KEY_RECORD_BYTES;
    if (at < r->count)
        number = r->segments[at]->number;
    do {
        size_t count = 0, end = at;

        is_narrow = false;
        for (; end < r->raw_at && (end == at || count + tags[end].count <= KZ_KEYFILTER_KEYS_MAX);
                end++) {
            count += tags[end].count;
            is_narrow |= kz_tags_are_narrow(&tags[end]);
        }
        if (end == r->raw_at && !is_narrow)
            count = count * 5 / 4 + room; /* what comes goes into this one */
        kz_keyfilter_begin(keys, KZ_LSN(number, 0), count);
        kz_keyfilter_add_tags(keys, tags + at, end - at);
        number += (uint32_t)(end - at);
        at = end;
    } while (at < r->raw_at);
    /* What comes is not to be as narrow as what older segments have. */
    if (is_narrow)
        kz_keyfilter_begin(keys, KZ_LSN(number, 0), room);
}

static enum kz_code recover_once(
        struct recovery *r, struct kz_log_recovery *ret, struct kz_err *err)
{
    struct kz_log *log = r->log;
    uint64_t torn = 0;
    uint32_t used = 0;

    KZ_TRY(log->fs->ops->list(log->fs, log->dir, on_name, r, err));
    if (!log->options.read_only)
        KZ_TRY(tidy(r, err));
    KZ_TRY(check_run(r, err));
    r->last = r->count;
    KZ_TRY(open_all(r, err));
    if (!log->options.read_only)
        cover_keys(r);
    KZ_TRY(follow_chain(r, err));
    KZ_TRY(check_mark(r, err));
    if (r->last < r->count && !r->segments[r->last]->is_sealed) {
        KZ_TRY(check_behind(r, &used, &torn, err));
        if (!log->options.read_only)
            KZ_TRY(cut(r, used, err));
        publish_found(r);
    } else if (log->options.read_only) {
        if (r->last >= r->count)
            return kz_fail(err, KZ_NOT_FOUND, "there is no log in \"%s\"", log->dir);
        publish_found(r);
    } else {
        KZ_TRY(check_none_lost(r, err));
        if (r->last < r->count) { /* all sealed: they come before the new one */
            publish_found(r);
            kz_segment_unref(log->current);
            log->current = NULL;
        }
        KZ_TRY(create_first(r, err));
    }
    ret->torn_bytes = torn;
    return KZ_OK;
}

enum kz_code kz_log_recover(
        struct kz_log *log, struct kz_log_recovery *ret_recovery, struct kz_err *err)
{
    struct kz_log_recovery recovery = {0};
    enum kz_code rc = KZ_CORRUPT;
    struct kz_err local;
    kz_lsn end;

    err = err ? err : &local;
    /* Beside a writer, files come and go and frames appear while we look: look again. */
    for (int i = 0; i < (log->options.read_only ? READ_ONLY_ATTEMPTS : 1) && rc != KZ_OK; i++) {
        struct recovery r = {.log = log};

        rc = recover_once(&r, &recovery, err);
        recovery_done(&r);
        if (rc != KZ_OK && rc != KZ_CORRUPT && rc != KZ_NOT_FOUND)
            break;
    }
    KZ_TRY(rc);
    end = KZ_LSN(
            log->current->number, atomic_load_explicit(&log->current->end, memory_order_relaxed));
    atomic_store(&log->end, end);
    atomic_store(&log->durable, end);
    atomic_store(&log->seq_last, log->seq_next - 1);
    recovery.end = end;
    recovery.seq_last = log->seq_next - 1;
    recovery.segment_count = log->view->count;
    for (size_t i = 0; i < log->view->count; i++)
        recovery.sealed_count += log->view->segments[i]->is_sealed;
    *ret_recovery = recovery;
    return KZ_OK;
}
