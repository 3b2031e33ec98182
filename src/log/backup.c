/* An online copy of the log, up to what is durable when it begins. */
#include <stdio.h>
#include <stdlib.h>

#include "log/log_int.h"

enum { COPY_BYTES = 1 << 20 };

struct copy {
    struct kz_log *log;
    const char *dest;
    char *buffer;
    uint64_t done, all;
    void (*progress)(void *arg, uint64_t done, uint64_t all);
    void *arg;
};

/* How much of a segment belongs to the copy. */
static uint64_t size_of(const struct kz_segment *seg, kz_lsn end)
{
    if (seg->is_sealed)
        return seg->file_size;
    if (seg->number == KZ_LSN_SEGMENT(end))
        return KZ_LSN_OFFSET(end);
    return atomic_load_explicit(&seg->end, memory_order_acquire);
}

static enum kz_code copy_segment(
        struct copy *copy, struct kz_segment *seg, uint64_t size, struct kz_err *err)
{
    KZ_AUTO(kz_file_closep) struct kz_file *to = NULL;
    KZ_AUTO(kz_freep) char *path = kz_segment_path(copy->dest, seg->number, seg->is_sealed);
    struct kz_fs *fs = copy->log->fs;

    KZ_TRY(fs->ops->open(fs, path, KZ_OPEN_WRITE | KZ_OPEN_CREATE | KZ_OPEN_EXCLUSIVE, &to, err));
    for (uint64_t at = 0; at < size;) {
        size_t n = (size_t)KZ_MIN(size - at, (uint64_t)COPY_BYTES);

        /* Read, not through the mapping: a bad sector must be an error here, not a SIGBUS. */
        KZ_TRY(seg->file->ops->pread(seg->file, copy->buffer, n, at, err));
        KZ_TRY(to->ops->pwrite(to, copy->buffer, n, at, err));
        at += n;
        copy->done += n;
        if (copy->progress)
            copy->progress(copy->arg, copy->done, copy->all);
    }
    return to->ops->sync(to, err);
}

static void see_name(void *arg, const char *name)
{
    size_t size = strlen(name);

    if (size > 4 && (strcmp(name + size - 4, ".kzl") == 0 || strcmp(name + size - 4, ".kzs") == 0))
        *(bool *)arg = true;
}

enum kz_code kz_log_backup(struct kz_log *log, const char *dest, kz_lsn *ret_end,
        void (*progress)(void *arg, uint64_t done, uint64_t all), void *arg, struct kz_err *err)
{
    kz_lsn end = kz_log_durable(log);
    /* Taken after `end`, so it has every segment up to there; what is sealed or dropped meanwhile
     * stays readable through it. */
    KZ_AUTO(kz_log_view_unrefp) struct kz_log_view *view = kz_log_get_view(log);
    KZ_AUTO(kz_freep) char *buffer = kz_malloc(COPY_BYTES);
    struct copy copy = {log, dest, buffer, 0, 0, progress, arg};
    bool taken = false;

    KZ_TRY(log->fs->ops->mkdir(log->fs, dest, err));
    KZ_TRY(log->fs->ops->list(log->fs, dest, see_name, &taken, err));
    if (taken)
        return kz_fail(err, KZ_CONFLICT, "cannot back up to \"%s\": there is a log already", dest);
    for (size_t i = 0; i < view->count; i++) {
        if (view->segments[i]->number <= KZ_LSN_SEGMENT(end))
            copy.all += size_of(view->segments[i], end);
    }
    for (size_t i = 0; i < view->count; i++) {
        struct kz_segment *seg = view->segments[i];

        if (seg->number > KZ_LSN_SEGMENT(end))
            break;
        KZ_TRY(copy_segment(&copy, seg, size_of(seg, end), err));
    }
    KZ_TRY(log->fs->ops->sync_dir(log->fs, dest, err));
    *ret_end = end;
    return KZ_OK;
}
