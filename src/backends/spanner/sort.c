#include "backends/spanner/sort.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "sys/file.h"
#include "sys/random.h"

enum { WINDOW = 256 << 10 };

struct entry { /* in memory and in the file; the record follows, padded to 8 */
    kz_lsn lsn;
    uint64_t size; /* of it all */
};

struct run {          /* sorted entries in the file */
    uint64_t at, end; /* what is not in the window yet */
    struct kz_buf window;
    size_t next; /* the first entry in the window that was not given yet */
};

struct kz_sp_sort {
    size_t memory_max_bytes;
    struct kz_buf entries;
    struct kz_buf places; /* size_t, of each entry in `entries` */
    struct kz_file *file;
    uint64_t file_size;
    struct run *runs;
    size_t run_count;
    struct run **heap; /* the smallest first */
};

struct kz_sp_sort *kz_sp_sort_new(size_t memory_max_bytes)
{
    struct kz_sp_sort *sort = kz_calloc(1, sizeof(*sort));

    sort->memory_max_bytes = memory_max_bytes;
    return sort;
}

void kz_sp_sort_free(struct kz_sp_sort *sort)
{
    if (!sort)
        return;
    for (size_t i = 0; i < sort->run_count; i++)
        kz_buf_done(&sort->runs[i].window);
    if (sort->file)
        kz_file_close(sort->file);
    kz_buf_done(&sort->entries);
    kz_buf_done(&sort->places);
    free(sort->runs);
    free(sort->heap);
    free(sort);
}

static const struct kz_record *record_of(const struct entry *entry)
{
    return (const struct kz_record *)(const void *)(entry + 1);
}

static int compare(const struct entry *x, const struct entry *y)
{
    if (x->lsn != y->lsn)
        return x->lsn < y->lsn ? -1 : 1;
    return record_of(x)->owner < record_of(y)->owner ? -1
                                                     : record_of(x)->owner > record_of(y)->owner;
}

static const struct entry *entry_at(const struct kz_buf *buf, size_t place)
{
    return (const struct entry *)(const void *)(buf->data + place);
}

static int compare_places(const void *a, const void *b, void *arg)
{
    return compare(entry_at(arg, *(const size_t *)a), entry_at(arg, *(const size_t *)b));
}

static void sort_entries(struct kz_sp_sort *sort)
{
    if (sort->places.size)
        qsort_r(sort->places.data, sort->places.size / sizeof(size_t), sizeof(size_t),
                compare_places, &sort->entries);
}

/* ---- runs in a file -------------------------------------------------------------------------- */

/* It has no name from here on, and goes when it is closed. */
static enum kz_code open_file(struct kz_sp_sort *sort, struct kz_err *err)
{
    const char *directory = getenv("TMPDIR");
    struct kz_fs *fs = kz_fs_posix();
    char path[512];
    uint64_t random;

    kz_random_bytes(&random, sizeof(random));
    snprintf(path, sizeof(path), "%s/kizashi-sort-%d-%016llx",
            directory && directory[0] ? directory : "/tmp", (int)getpid(),
            (unsigned long long)random);
    KZ_TRY(fs->ops->open(fs, path,
            KZ_OPEN_READ | KZ_OPEN_WRITE | KZ_OPEN_CREATE | KZ_OPEN_EXCLUSIVE, &sort->file, err));
    return fs->ops->unlink(fs, path, err);
}

static enum kz_code write_out(struct kz_sp_sort *sort, struct kz_buf *chunk, struct kz_err *err)
{
    KZ_TRY(sort->file->ops->pwrite(sort->file, chunk->data, chunk->size, sort->file_size, err));
    sort->file_size += chunk->size;
    kz_buf_clear(chunk);
    return KZ_OK;
}

static enum kz_code spill(struct kz_sp_sort *sort, struct kz_err *err)
{
    const size_t *places = (const size_t *)(const void *)sort->places.data;
    size_t count = sort->places.size / sizeof(*places);
    struct kz_buf chunk = {0};
    struct run run = {.at = sort->file_size};
    enum kz_code rc = sort->file ? KZ_OK : open_file(sort, err);

    sort_entries(sort);
    for (size_t i = 0; i < count && rc == KZ_OK; i++) {
        const struct entry *entry = entry_at(&sort->entries, places[i]);

        kz_buf_put(&chunk, entry, entry->size);
        if (chunk.size >= WINDOW || i + 1 == count)
            rc = write_out(sort, &chunk, err);
    }
    kz_buf_done(&chunk);
    KZ_TRY(rc);
    run.end = sort->file_size;
    sort->runs = kz_realloc(sort->runs, (sort->run_count + 1) * sizeof(*sort->runs));
    sort->runs[sort->run_count++] = run;
    kz_buf_clear(&sort->entries);
    kz_buf_clear(&sort->places);
    return KZ_OK;
}

enum kz_code kz_sp_sort_add(
        struct kz_sp_sort *sort, kz_lsn lsn, const struct kz_record *record, struct kz_err *err)
{
    const struct entry head = {lsn, sizeof(head) + KZ_ALIGN8((size_t)record->size)};
    size_t place = sort->entries.size;
    char *at;

    if (place && place + head.size > sort->memory_max_bytes) {
        KZ_TRY(spill(sort, err));
        place = 0;
    }
    at = kz_buf_extend(&sort->entries, head.size);
    memcpy(at, &head, sizeof(head));
    memset(at + head.size - 8, 0, 8); /* the padding */
    memcpy(at + sizeof(head), record, record->size);
    kz_buf_put(&sort->places, &place, sizeof(place));
    return KZ_OK;
}

/* ---- merging ----------------------------------------------------------------------------------
 */

static const struct entry *first_of(const struct run *run)
{
    return entry_at(&run->window, run->next);
}

/* Makes `size` bytes be in the window behind `next`, as far as the run has them. */
static enum kz_code fill(struct kz_sp_sort *sort, struct run *run, size_t size, struct kz_err *err)
{
    size_t left = run->window.size - run->next, more;

    if (left >= size)
        return KZ_OK;
    if (left)
        memmove(run->window.data, run->window.data + run->next, left);
    run->window.size = left;
    run->next = 0;
    more = (size_t)KZ_MIN(run->end - run->at, (uint64_t)KZ_MAX(size - left, (size_t)WINDOW));
    if (!more)
        return KZ_OK;
    KZ_TRY(sort->file->ops->pread(
            sort->file, kz_buf_extend(&run->window, more), more, run->at, err));
    run->at += more;
    return KZ_OK;
}

/* The next entry whole in the window; none is left where `next` is at its end. */
static enum kz_code load(struct kz_sp_sort *sort, struct run *run, struct kz_err *err)
{
    KZ_TRY(fill(sort, run, sizeof(struct entry), err));
    if (run->next == run->window.size)
        return KZ_OK;
    return fill(sort, run, (size_t)first_of(run)->size, err);
}

static void sift_down(struct run **heap, size_t count, size_t i)
{
    for (;;) {
        size_t least = i;

        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < count; child++)
            if (compare(first_of(heap[child]), first_of(heap[least])) < 0)
                least = child;
        if (least == i)
            return;
        struct run *moved = heap[i];
        heap[i] = heap[least];
        heap[least] = moved;
        i = least;
    }
}

static enum kz_code merge(struct kz_sp_sort *sort,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err)
{
    size_t count = sort->run_count;

    sort->heap = kz_malloc(count * sizeof(*sort->heap));
    for (size_t i = 0; i < count; i++) {
        sort->heap[i] = &sort->runs[i];
        KZ_TRY(load(sort, sort->heap[i], err)); /* no run is empty */
    }
    for (size_t i = count; i-- > 0;)
        sift_down(sort->heap, count, i);
    while (count) {
        struct run *run = sort->heap[0];
        const struct entry *entry = first_of(run);

        KZ_TRY(each(arg, entry->lsn, record_of(entry)));
        run->next += (size_t)entry->size;
        KZ_TRY(load(sort, run, err));
        if (run->next == run->window.size)
            sort->heap[0] = sort->heap[--count];
        sift_down(sort->heap, count, 0);
    }
    return KZ_OK;
}

enum kz_code kz_sp_sort_each(struct kz_sp_sort *sort,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err)
{
    const size_t *places;

    if (sort->run_count) {
        KZ_TRY(spill(sort, err)); /* add() leaves at least one entry */
        return merge(sort, each, arg, err);
    }
    sort_entries(sort);
    places = (const size_t *)(const void *)sort->places.data;
    for (size_t i = 0; i < sort->places.size / sizeof(*places); i++) {
        const struct entry *entry = entry_at(&sort->entries, places[i]);

        KZ_TRY(each(arg, entry->lsn, record_of(entry)));
    }
    return KZ_OK;
}
