#include "log/keyfilter.h"

#include <stdatomic.h>
#include <sys/mman.h>

enum {
    LINE_BYTES = sizeof(struct kz_keyfilter_line),
    LINE_BITS = LINE_BYTES * 8,
    BITS = 6,             /* of a key in its line */
    BIT_BITS = 9,         /* log2 of LINE_BITS */
    HUGE_BYTES = 2 << 20, /* pages, so that a look does not miss the TLB as well */
};

void kz_keyfilter_init(struct kz_keyfilter *filter, uint64_t bytes_max)
{
    memset(filter, 0, sizeof(*filter));
    filter->bytes_max = bytes_max;
}

static size_t bytes_of(const struct kz_keyfilter_group *group)
{
    return group->line_count * LINE_BYTES;
}

static size_t mapped_bytes(const struct kz_keyfilter_group *group)
{
    return (bytes_of(group) + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
}

/* Zeros that the kernel gives page by page as they are first written: clearing all at once would
 * hold up the writer for ten milliseconds. */
static void *map_zeros(size_t bytes)
{
    char *all = mmap(
            NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    size_t before;

    KZ_BUG_ON(all == MAP_FAILED);
    before = (size_t)(-(uintptr_t)all % HUGE_BYTES);
    if (before)
        KZ_BUG_ON(munmap(all, before) != 0);
    KZ_BUG_ON(munmap(all + before + bytes, HUGE_BYTES - before) != 0);
    /* Advice; without it looks take a little longer. */
    (void)madvise(all + before, bytes, MADV_HUGEPAGE);
    return all + before;
}

static void forget_oldest(struct kz_keyfilter *filter)
{
    filter->bytes -= bytes_of(&filter->groups[0]);
    KZ_BUG_ON(munmap(filter->groups[0].lines, mapped_bytes(&filter->groups[0])) != 0);
    filter->group_count--;
    memmove(filter->groups, filter->groups + 1, filter->group_count * sizeof(filter->groups[0]));
}

static void unmap(void *memory, size_t bytes)
{
    if (memory)
        KZ_BUG_ON(munmap(memory, bytes) != 0);
}

void kz_keyfilter_done(struct kz_keyfilter *filter)
{
    while (filter->group_count)
        forget_oldest(filter);
    unmap(filter->spare, filter->spare_bytes);
}

/* How many keys and lines a group for about `count` keys has. */
static struct kz_keyfilter_group plan(const struct kz_keyfilter *filter, kz_lsn from, size_t count)
{
    /* A quarter of the memory at most, so that at the limit a quarter is forgotten at a time. */
    uint64_t keys_max = filter->bytes_max / 4 * 8 / KZ_KEYFILTER_KEY_BITS;

    count = KZ_MIN(KZ_MAX(count, (size_t)KZ_KEYFILTER_KEYS_MIN), (size_t)KZ_KEYFILTER_KEYS_MAX);
    count = (size_t)KZ_MAX(KZ_MIN(count, keys_max), (uint64_t)1);
    return (struct kz_keyfilter_group){
            .from = from,
            .max = count,
            .line_count = KZ_MAX(count * KZ_KEYFILTER_KEY_BITS / 8, (size_t)LINE_BYTES) /
                          LINE_BYTES,
    };
}

/* Four times as large as all before it, which is full or about to be. */
static size_t next_count(const struct kz_keyfilter *filter)
{
    size_t sum = filter->groups[filter->group_count - 1].max;

    for (unsigned i = 0; i + 1 < filter->group_count; i++)
        sum += filter->groups[i].count;
    return 3 * sum;
}

static void *take_spare(struct kz_keyfilter *filter, size_t bytes)
{
    void *spare = filter->spare;

    if (atomic_load_explicit(&filter->spare_wanted, memory_order_acquire) || !spare)
        return NULL;
    filter->spare = NULL;
    if (filter->spare_bytes == bytes)
        return spare;
    unmap(spare, filter->spare_bytes);
    return NULL;
}

static void want_spare(struct kz_keyfilter *filter)
{
    struct kz_keyfilter_group next = plan(filter, 0, next_count(filter));

    if (!atomic_load_explicit(&filter->spare_wanted, memory_order_acquire) && !filter->spare)
        atomic_store_explicit(&filter->spare_wanted, mapped_bytes(&next), memory_order_release);
}

void kz_keyfilter_make_spare(struct kz_keyfilter *filter)
{
    size_t bytes = atomic_load_explicit(&filter->spare_wanted, memory_order_acquire);

    if (!bytes)
        return;
    filter->spare = map_zeros(bytes);
    filter->spare_bytes = bytes;
    memset(filter->spare, 0, bytes); /* the kernel has to give each page now */
    atomic_store_explicit(&filter->spare_wanted, 0, memory_order_release);
}

void kz_keyfilter_begin(struct kz_keyfilter *filter, kz_lsn from, size_t count)
{
    struct kz_keyfilter_group group = plan(filter, from, count);

    while (filter->group_count && (filter->bytes + bytes_of(&group) > filter->bytes_max ||
                                          filter->group_count == KZ_KEYFILTER_GROUPS_MAX)) {
        forget_oldest(filter);
        filter->forgotten_total++;
    }
    group.lines = take_spare(filter, mapped_bytes(&group));
    if (!group.lines)
        group.lines = map_zeros(mapped_bytes(&group));
    filter->groups[filter->group_count++] = group;
    filter->bytes += bytes_of(&group);
}

/* The line by the tag's upper bits, so that sorted tags go through memory once. */
static size_t line_of(const struct kz_keyfilter_group *group, uint64_t tag)
{
    return (size_t)(((tag >> 8) * group->line_count) >> 32);
}

/* BIT_BITS of it for each bit in the line. */
static uint64_t bits_of(uint64_t tag)
{
    return kz_hash_mix(tag, 1);
}

static void add(struct kz_keyfilter_group *group, uint64_t tag)
{
    struct kz_keyfilter_line *line = &group->lines[line_of(group, tag)];
    uint64_t bits = bits_of(group->is_narrow ? tag & KZ_TAG_NARROW : tag);

    for (int i = 0; i < BITS; i++, bits >>= BIT_BITS)
        line->words[bits % LINE_BITS / 64] |= UINT64_C(1) << bits % 64;
    group->count++;
}

static struct kz_keyfilter_group *last_group(struct kz_keyfilter *filter)
{
    KZ_BUG_ON(!filter->group_count);
    return &filter->groups[filter->group_count - 1];
}

/* A run of each after the other, so that its stretch of lines stays in the cache for all. */
void kz_keyfilter_add_tags(
        struct kz_keyfilter *filter, const struct kz_tags *segments, size_t segment_count)
{
    struct kz_keyfilter_group *group = last_group(filter);
    bool is_narrow = group->is_narrow;

    for (size_t i = 0; i < segment_count; i++)
        is_narrow |= kz_tags_are_narrow(&segments[i]);
    KZ_BUG_ON(is_narrow && !group->is_narrow && group->count);
    group->is_narrow = is_narrow;
    for (unsigned run = 0; run < KZ_TAGS_RUNS; run++) {
        for (size_t i = 0; i < segment_count; i++) {
            size_t at, end;

            for (kz_tags_run(&segments[i], run, &at, &end); at < end; at++)
                add(group, kz_tags_get(&segments[i], run, at));
        }
    }
}

void kz_keyfilter_add(struct kz_keyfilter *filter, uint64_t tag, kz_lsn lsn)
{
    struct kz_keyfilter_group *group = last_group(filter);

    if (KZ_UNLIKELY(group->count >= group->max)) {
        kz_keyfilter_begin(filter, lsn, next_count(filter));
        group = last_group(filter);
    }
    add(group, tag);
    if (KZ_UNLIKELY(group->count == group->max / 4 * 3))
        want_spare(filter);
}

void kz_keyfilter_drop(struct kz_keyfilter *filter, kz_lsn below)
{
    while (filter->group_count > 1 && filter->groups[1].from <= below)
        forget_oldest(filter);
}

kz_lsn kz_keyfilter_covered_from(const struct kz_keyfilter *filter)
{
    return filter->group_count ? filter->groups[0].from : UINT64_MAX;
}

void kz_keyfilter_prefetch(const struct kz_keyfilter *filter, uint64_t tag)
{
    for (unsigned i = 0; i < filter->group_count; i++)
        __builtin_prefetch(&filter->groups[i].lines[line_of(&filter->groups[i], tag)]);
}

static bool has(const struct kz_keyfilter_group *group, uint64_t tag, uint64_t bits)
{
    const struct kz_keyfilter_line *line = &group->lines[line_of(group, tag)];
    uint64_t all = 1;

    for (int i = 0; i < BITS; i++, bits >>= BIT_BITS)
        all &= line->words[bits % LINE_BITS / 64] >> bits % 64;
    return all;
}

uint64_t kz_keyfilter_find(const struct kz_keyfilter *filter, uint64_t tag)
{
    uint64_t wide = bits_of(tag), narrow = bits_of(tag & KZ_TAG_NARROW), found = 0;

    for (unsigned i = 0; i < filter->group_count; i++) {
        const struct kz_keyfilter_group *group = &filter->groups[i];

        found |= (uint64_t)has(group, tag, group->is_narrow ? narrow : wide) << i;
    }
    return found;
}

bool kz_keyfilter_allows(
        const struct kz_keyfilter *filter, uint64_t found, kz_lsn from, kz_lsn until)
{
    for (unsigned i = 0; i < filter->group_count; i++) {
        kz_lsn end = i + 1 < filter->group_count ? filter->groups[i + 1].from : UINT64_MAX;

        if (found >> i & 1 && filter->groups[i].from < until && from < end)
            return true;
    }
    return false;
}
