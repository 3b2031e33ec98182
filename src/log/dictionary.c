/* Two passes over the sample's windows. The first counts users in cells that windows share, so that
 * the many that are nobody else's need no place of their own; the second counts exactly, and only
 * what may be common. The third pass takes what is, each window once. */
#include "log/dictionary.h"

#include <stdlib.h>

#include "base/hash.h"
#include "codec/zstd.h"

enum {
    WINDOW = sizeof(uint64_t),
    CELLS = 1 << 20,      /* about as many as a sample has windows */
    COMMON_MAX = 1 << 15, /* windows counted exactly; past three quarters no more are taken */
    CONTENT_BYTES_MIN = 256,
};

struct cell {
    uint16_t users, user_last;
};

struct common {
    uint64_t window;
    uint32_t users; /* 0: free */
    uint32_t user_last : 31;
    uint32_t taken : 1;
};

struct finder {
    const char *samples;
    const struct kz_dictionary_record *records;
    size_t count;
    struct cell *cells;     /* CELLS */
    struct common *commons; /* COMMON_MAX, open addressing */
    size_t common_count;
};

typedef void (*window_fn)(struct finder *finder, uint64_t window, uint32_t user);

/* Calls `each` with every window of every record, and the number of its owner, from 1. */
static void each_window(struct finder *finder, window_fn each)
{
    uint32_t user = 0;

    for (size_t i = 0; i < finder->count; i++) {
        const struct kz_dictionary_record *record = &finder->records[i];
        const char *at = finder->samples + record->offset;

        user += i == 0 || record->owner != record[-1].owner;
        for (size_t k = 0; k + WINDOW <= record->size; k++)
            each(finder, kz_load_u64(at + k), user);
    }
}

static void count_in_cell(struct finder *finder, uint64_t window, uint32_t user)
{
    struct cell *cell = &finder->cells[kz_hash_mix(window, 0) % CELLS];

    if (cell->user_last == (uint16_t)user || cell->users == UINT16_MAX)
        return;
    cell->user_last = (uint16_t)user;
    cell->users++;
}

/* The window's entry, or the free one where it belongs. */
static struct common *find(struct finder *finder, uint64_t window)
{
    size_t at = kz_hash_mix(window, 1) % COMMON_MAX;

    while (finder->commons[at].users && finder->commons[at].window != window)
        at = (at + 1) % COMMON_MAX;
    return &finder->commons[at];
}

static void count_exactly(struct finder *finder, uint64_t window, uint32_t user)
{
    struct common *common;

    if (finder->cells[kz_hash_mix(window, 0) % CELLS].users < KZ_DICTIONARY_USERS_MIN)
        return;
    common = find(finder, window);
    if (!common->users) {
        if (finder->common_count >= COMMON_MAX / 4 * 3)
            return;
        finder->common_count++;
        common->window = window;
    } else if (common->user_last == user) {
        return;
    }
    common->user_last = user & 0x7fffffff;
    common->users++;
}

static struct common *common_at(struct finder *finder, const char *at)
{
    struct common *common = find(finder, kz_load_u64(at));

    return common->users >= KZ_DICTIONARY_USERS_MIN ? common : NULL;
}

/* Puts what is new of a stretch of common windows, from the first that is not in yet to the last:
 * what is in between may be in twice then, but long matches are worth more than that. */
static void take(struct finder *finder, const char *from, const char *last, struct kz_buf *out)
{
    while (from <= last && common_at(finder, from)->taken)
        from++;
    while (last > from && common_at(finder, last)->taken)
        last--;
    if (from > last)
        return;
    for (const char *at = from; at <= last; at++)
        common_at(finder, at)->taken = 1;
    kz_buf_put(out, from, (size_t)(last - from) + WINDOW);
}

static void take_commons(struct finder *finder, struct kz_buf *out)
{
    for (size_t i = 0; i < finder->count && out->size < KZ_DICTIONARY_CONTENT_BYTES_MAX; i++) {
        const char *at = finder->samples + finder->records[i].offset;
        const char *end = at + finder->records[i].size;

        for (; end - at >= WINDOW; at++) {
            const char *from = at;

            while (end - at >= WINDOW && common_at(finder, at))
                at++;
            if (at > from)
                take(finder, from, at - 1, out);
        }
    }
    out->size = KZ_MIN(out->size, (size_t)KZ_DICTIONARY_CONTENT_BYTES_MAX);
}

void kz_dictionary_content(const char *samples, const struct kz_dictionary_record *records,
        size_t count, struct kz_buf *out)
{
    struct finder finder = {.samples = samples, .records = records, .count = count};
    struct kz_buf content = {0};

    finder.cells = kz_calloc(CELLS, sizeof(*finder.cells));
    finder.commons = kz_calloc(COMMON_MAX, sizeof(*finder.commons));
    each_window(&finder, count_in_cell);
    each_window(&finder, count_exactly);
    take_commons(&finder, &content);
    kz_buf_str(out, kz_buf_view(&content));
    kz_buf_done(&content);
    free(finder.cells);
    free(finder.commons);
}

enum kz_code kz_dictionary_make(struct kz_str samples, const struct kz_dictionary_record *records,
        size_t record_count, const size_t *sizes, unsigned frame_count, int level,
        struct kz_buf *out, struct kz_err *err)
{
    struct kz_buf content = {0};
    enum kz_code rc;

    kz_dictionary_content(samples.ptr, records, record_count, &content);
    if (content.size < CONTENT_BYTES_MIN)
        rc = kz_fail(err, KZ_INVALID, "%zu records have only %zu bytes in common", record_count,
                content.size);
    else
        rc = kz_zstd_make_dictionary(kz_buf_view(&content), samples, sizes, frame_count, level,
                KZ_DICTIONARY_BYTES_MAX, out, err);
    kz_buf_done(&content);
    return rc;
}
