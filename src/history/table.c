#include "history/table.h"

#include <stdlib.h>

enum {
    CAPACITY_MIN = 64,
    MOVES_PER_INSERT = 16, /* the new side has room for half as many inserts at least as the old has
                              entries, so the move is over long before */
};

static uint32_t limit(uint32_t capacity)
{
    return capacity / 4 * 3;
}

static void side_put(struct kz_table_side *side, uint32_t tag, uint32_t value)
{
    uint32_t mask = side->capacity - 1;
    uint32_t i = tag & mask;

    while (side->entries[i].value)
        i = (i + 1) & mask;
    side->entries[i] = (struct kz_table_entry){tag, value};
    side->filled++;
}

static void move_some(struct kz_table *table, uint32_t entries)
{
    if (!table->old.capacity)
        return;
    for (; entries && table->moved < table->old.capacity; entries--, table->moved++) {
        struct kz_table_entry entry = table->old.entries[table->moved];

        if (entry.value && entry.value != (uint32_t)KZ_TABLE_REMOVED)
            side_put(&table->now, entry.tag, entry.value);
    }
    if (table->moved == table->old.capacity) {
        free(table->old.entries);
        table->old = (struct kz_table_side){0};
        table->moved = 0;
    }
}

static void grow(struct kz_table *table, uint32_t capacity)
{
    move_some(table, UINT32_MAX);
    table->old = table->now;
    table->moved = 0;
    table->now = (struct kz_table_side){
            .entries = kz_calloc(capacity, sizeof(struct kz_table_entry)), .capacity = capacity};
    if (!table->old.capacity)
        table->old = (struct kz_table_side){0};
}

void kz_table_done(struct kz_table *table)
{
    free(table->now.entries);
    free(table->old.entries);
    *table = (struct kz_table){0};
}

void kz_table_reserve(struct kz_table *table, uint32_t count)
{
    uint32_t capacity = CAPACITY_MIN;

    while (limit(capacity) <= count)
        capacity *= 2;
    if (capacity > table->now.capacity) {
        grow(table, capacity);
        move_some(table, UINT32_MAX);
    }
}

void kz_table_insert(struct kz_table *table, uint64_t hash, uint32_t value)
{
    KZ_BUG_ON(value == 0 || value == (uint32_t)KZ_TABLE_REMOVED);
    move_some(table, MOVES_PER_INSERT);
    /* Entries still to be moved take room here too. */
    if (KZ_UNLIKELY(table->now.filled >= limit(table->now.capacity))) {
        uint32_t capacity = KZ_MAX(table->now.capacity, (uint32_t)CAPACITY_MIN);

        /* Mostly removed entries: the same size again is enough. */
        grow(table, table->count > capacity / 4 ? capacity * 2 : capacity);
    }
    side_put(&table->now, kz_table_tag(hash), value);
    table->count++;
}

static bool side_remove(struct kz_table_side *side, uint32_t tag, uint32_t value)
{
    uint32_t mask = side->capacity - 1;

    if (!side->capacity)
        return false;
    for (uint32_t i = tag & mask; side->entries[i].value; i = (i + 1) & mask) {
        if (side->entries[i].tag == tag && side->entries[i].value == value) {
            side->entries[i].value = (uint32_t)KZ_TABLE_REMOVED;
            return true;
        }
    }
    return false;
}

void kz_table_remove(struct kz_table *table, uint64_t hash, uint32_t value)
{
    bool in_now = side_remove(&table->now, kz_table_tag(hash), value);
    bool in_old = side_remove(&table->old, kz_table_tag(hash), value);

    if (in_now || in_old)
        table->count--;
}

size_t kz_table_bytes(const struct kz_table *table)
{
    return ((size_t)table->now.capacity + table->old.capacity) * sizeof(struct kz_table_entry);
}
