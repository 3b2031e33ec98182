#include "log/cache.h"

#include <stdlib.h>

#include "log/log_int.h"

enum { CACHE_MAGIC = 0x6b7a6863, RUN_BYTES_TYPICAL = 2048, BUCKETS_MIN = 16 };

struct kz_kept {
    struct kz_kept_run run; /* its bytes lie behind */
    uint32_t depth;
    struct kz_kept *next; /* of its bucket */
    struct kz_kept *newer, *older;
};

struct kz_history_cache {
    uint32_t magic;
    struct kz_log *log;
    struct kz_event_parts parts;
    uint64_t bytes, bytes_max;       /* the table's are of them */
    uint64_t rewrites;               /* of the log, when the first run was put */
    struct kz_kept *newest, *oldest; /* asked about */
    size_t bucket_count;             /* a power of two */
    struct kz_kept *buckets[];
};

static uint64_t size_of(const struct kz_kept_run *run)
{
    return sizeof(struct kz_kept) + run->size;
}

/* Owners are hashes already. */
static struct kz_kept **bucket_of(struct kz_history_cache *cache, uint64_t owner)
{
    return &cache->buckets[owner & (cache->bucket_count - 1)];
}

static void count_bytes(struct kz_history_cache *cache, uint64_t before)
{
    /* Several caches add to one figure, and take away. */
    atomic_fetch_add_explicit(
            &cache->log->cached_bytes, cache->bytes - before, memory_order_relaxed);
}

/* ---- the order in which they go ------------------------------------------------------------- */

static void unlist(struct kz_history_cache *cache, struct kz_kept *kept)
{
    *(kept->newer ? &kept->newer->older : &cache->newest) = kept->older;
    *(kept->older ? &kept->older->newer : &cache->oldest) = kept->newer;
}

static void list(struct kz_history_cache *cache, struct kz_kept *kept)
{
    kept->newer = NULL;
    kept->older = cache->newest;
    *(cache->newest ? &cache->newest->newer : &cache->oldest) = kept;
    cache->newest = kept;
}

static void drop(struct kz_history_cache *cache, struct kz_kept *kept)
{
    struct kz_kept **at = bucket_of(cache, kept->run.owner);

    while (*at != kept)
        at = &(*at)->next;
    *at = kept->next;
    unlist(cache, kept);
    cache->bytes -= size_of(&kept->run);
    explicit_bzero(kept, size_of(&kept->run)); /* C3 */
    free(kept);
}

static void drop_all(struct kz_history_cache *cache)
{
    uint64_t before = cache->bytes;

    while (cache->oldest)
        drop(cache, cache->oldest);
    count_bytes(cache, before);
}

/* ---- for the reader ------------------------------------------------------------------------- */

struct kz_history_cache *kz_cache_new(
        struct kz_log *log, const struct kz_event_parts *parts, uint64_t bytes_max)
{
    size_t bucket_count = BUCKETS_MIN, size;
    struct kz_history_cache *cache;

    while (bucket_count < bytes_max / RUN_BYTES_TYPICAL)
        bucket_count *= 2;
    size = sizeof(*cache) + bucket_count * sizeof(cache->buckets[0]);
    cache = kz_calloc(1, size);
    cache->magic = CACHE_MAGIC;
    cache->log = log;
    cache->parts = *parts;
    cache->bytes = size;
    cache->bytes_max = bytes_max;
    cache->bucket_count = bucket_count;
    cache->rewrites = atomic_load_explicit(&log->rewrites, memory_order_acquire);
    count_bytes(cache, 0);
    return cache;
}

void kz_cache_free(struct kz_history_cache *cache)
{
    uint64_t before;

    if (!cache)
        return;
    KZ_CHECK_MAGIC(cache, CACHE_MAGIC);
    drop_all(cache);
    before = cache->bytes;
    cache->bytes = 0;
    count_bytes(cache, before);
    cache->magic = 0;
    free(cache);
}

const struct kz_event_parts *kz_cache_parts(const struct kz_history_cache *cache)
{
    return &cache->parts;
}

void kz_cache_begin(struct kz_history_cache *cache)
{
    uint64_t rewrites = atomic_load_explicit(&cache->log->rewrites, memory_order_acquire);

    KZ_CHECK_MAGIC(cache, CACHE_MAGIC);
    if (rewrites == cache->rewrites)
        return;
    drop_all(cache);
    cache->rewrites = rewrites;
}

static struct kz_kept *look_up(struct kz_history_cache *cache, uint64_t owner)
{
    struct kz_kept *kept = *bucket_of(cache, owner);

    while (kept && kept->run.owner != owner)
        kept = kept->next;
    return kept;
}

struct kz_kept *kz_cache_find(struct kz_history_cache *cache, uint64_t owner)
{
    struct kz_kept *kept = look_up(cache, owner);

    if (kept && kept != cache->newest) {
        unlist(cache, kept);
        list(cache, kept);
    }
    return kept;
}

const struct kz_kept_run *kz_cache_run(const struct kz_kept *kept)
{
    return &kept->run;
}

uint32_t kz_cache_depth(const struct kz_kept *kept)
{
    return kept->depth;
}

void kz_cache_used(struct kz_kept *kept, uint32_t depth)
{
    kept->depth = KZ_MAX(kept->depth, depth);
}

void kz_cache_put(struct kz_history_cache *cache, const struct kz_kept_run *run)
{
    uint64_t before = cache->bytes;
    struct kz_kept *old = kz_cache_find(cache, run->owner);
    struct kz_kept *kept = kz_malloc(size_of(run));
    struct kz_kept **bucket = bucket_of(cache, run->owner);
    char *bytes = (char *)(kept + 1);

    if (old)
        drop(cache, old);
    memcpy(bytes, run->bytes, run->size);
    *kept = (struct kz_kept){.run = *run, .depth = run->count, .next = *bucket};
    kept->run.bytes = bytes;
    *bucket = kept;
    list(cache, kept);
    cache->bytes += size_of(run);
    while (cache->bytes > cache->bytes_max && cache->oldest) {
        drop(cache, cache->oldest); /* itself, where it alone is too much */
        atomic_fetch_add_explicit(&cache->log->cache_dropped, 1, memory_order_relaxed);
    }
    count_bytes(cache, before);
}

void kz_cache_forget(struct kz_history_cache *cache, uint64_t owner)
{
    struct kz_kept *kept = look_up(cache, owner);
    uint64_t before = cache->bytes;

    KZ_CHECK_MAGIC(cache, CACHE_MAGIC);
    if (kept)
        drop(cache, kept);
    count_bytes(cache, before);
}
