/* history/table.h -- hash index from 64-bit hashes to small numbers, growing without a stall.
 *
 * Open addressing with linear probing over 8-byte entries. When it fills up, a table of another
 * size is put beside it and every insert moves a few entries; look-ups ask both until all have
 * moved. An entry left in the old table stays right (it names the same value), so only removal
 * needs care.
 *
 * Values   1 .. UINT32_MAX - 1; the caller compares what a value stands for.
 * Threads  one.
 */
#pragma once

#include "base/base.h"

struct kz_table_entry {
    uint32_t tag;   /* upper half of the hash: place and first comparison */
    uint32_t value; /* 0 empty, UINT32_MAX removed */
};

struct kz_table_side {
    struct kz_table_entry *entries;
    uint32_t capacity; /* a power of two, or 0 */
    uint32_t filled;   /* used and removed */
};

struct kz_table {
    struct kz_table_side now;
    struct kz_table_side old; /* being moved from `moved` on */
    uint32_t moved;
    uint32_t count;
};

enum { KZ_TABLE_REMOVED = -1, KZ_TABLE_GUESSES = 8 };

static inline uint32_t kz_table_tag(uint64_t hash)
{
    return (uint32_t)(hash >> 32);
}

/* Walks the entries of one side that may be the one looked for. */
static inline struct kz_table_entry *kz_table_side_find(const struct kz_table_side *side,
        uint32_t tag, bool (*same)(const void *arg, uint32_t value, uint64_t key), const void *arg,
        uint64_t key)
{
    uint32_t mask = side->capacity - 1;

    if (!side->capacity)
        return NULL;
    for (uint32_t i = tag & mask; side->entries[i].value; i = (i + 1) & mask) {
        struct kz_table_entry *entry = &side->entries[i];

        if (entry->tag == tag && entry->value != (uint32_t)KZ_TABLE_REMOVED &&
                same(arg, entry->value, key))
            return entry;
    }
    return NULL;
}

/* The value under `hash` for which same(arg, value, key) holds; 0 where there is none. */
static inline uint32_t kz_table_find(const struct kz_table *table, uint64_t hash,
        bool (*same)(const void *arg, uint32_t value, uint64_t key), const void *arg, uint64_t key)
{
    uint32_t tag = kz_table_tag(hash);
    struct kz_table_entry *entry = kz_table_side_find(&table->now, tag, same, arg, key);

    if (!entry && KZ_UNLIKELY(table->old.capacity))
        entry = kz_table_side_find(&table->old, tag, same, arg, key);
    return entry ? entry->value : 0;
}

/* Begins to fetch where a value under `hash` would be. */
static inline void kz_table_prefetch(const struct kz_table *table, uint64_t hash)
{
    if (table->now.capacity)
        __builtin_prefetch(&table->now.entries[kz_table_tag(hash) & (table->now.capacity - 1)]);
}

/* The value that is probably meant, for prefetching what it stands for; 0 where none is at hand. It may
 * lie behind others, but most lie in the first line of the cache. */
static inline uint32_t kz_table_guess(const struct kz_table *table, uint64_t hash)
{
    const struct kz_table_side *side = &table->now;
    uint32_t tag = kz_table_tag(hash), mask = side->capacity - 1;

    for (uint32_t i = 0; side->capacity && i < KZ_TABLE_GUESSES; i++) {
        const struct kz_table_entry *entry = &side->entries[(tag + i) & mask];

        if (!entry->value)
            break;
        if (entry->tag == tag && entry->value != (uint32_t)KZ_TABLE_REMOVED)
            return entry->value;
    }
    return 0;
}

void kz_table_done(struct kz_table *table);
/* Room for `count` values at once (loading). */
void kz_table_reserve(struct kz_table *table, uint32_t count);
/* The value must not be there yet. */
void kz_table_insert(struct kz_table *table, uint64_t hash, uint32_t value);
/* Does nothing where it is absent. */
void kz_table_remove(struct kz_table *table, uint64_t hash, uint32_t value);
size_t kz_table_bytes(const struct kz_table *table);
