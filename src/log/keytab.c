#include "log/keytab.h"

#include <stdlib.h>

enum { CAPACITY_MIN = 1024, CAPACITY_MAX = 1 << 30 };

static uint32_t home(const struct kz_keytab *tab, uint32_t tag)
{
    return (uint32_t)(tag * 0x9e3779b1u) &
           tab->mask; /* only the tag is kept, so only it can place */
}

static void put_slot(struct kz_keytab *tab, struct kz_keytab_slot slot)
{
    uint32_t at = home(tab, slot.tag);

    while (tab->slots[at].offset)
        at = (at + 1) & tab->mask;
    tab->slots[at] = slot;
}

static void resize(struct kz_keytab *tab, uint32_t capacity)
{
    struct kz_keytab old = *tab;

    tab->slots = kz_calloc(capacity, sizeof(*tab->slots));
    tab->mask = capacity - 1;
    for (uint32_t i = 0; old.slots && i <= old.mask; i++) {
        if (old.slots[i].offset)
            put_slot(tab, old.slots[i]);
    }
    free(old.slots);
}

void kz_keytab_init(struct kz_keytab *tab, uint32_t count)
{
    uint32_t capacity = CAPACITY_MIN;

    while (capacity < CAPACITY_MAX && capacity / 4 * 3 < count)
        capacity *= 2;
    *tab = (struct kz_keytab){0};
    resize(tab, capacity);
}

void kz_keytab_touch(struct kz_keytab *tab)
{
    memset(tab->slots, 0, ((size_t)tab->mask + 1) * sizeof(*tab->slots));
}

void kz_keytab_done(struct kz_keytab *tab)
{
    free(tab->slots);
    *tab = (struct kz_keytab){0};
}

void kz_keytab_put(struct kz_keytab *tab, uint64_t key, uint32_t offset)
{
    KZ_BUG_ON(offset == 0);
    if (!tab->slots)
        resize(tab, CAPACITY_MIN);
    else if (tab->count >= (tab->mask + 1) / 4 * 3)
        resize(tab, (tab->mask + 1) * 2);
    put_slot(tab, (struct kz_keytab_slot){(uint32_t)key, offset});
    tab->count++;
}

void kz_keytab_prefetch(const struct kz_keytab *tab, uint64_t key)
{
    if (tab->slots)
        __builtin_prefetch(&tab->slots[home(tab, (uint32_t)key)]);
}

uint32_t kz_keytab_next(const struct kz_keytab *tab, uint64_t key, uint32_t *cursor)
{
    uint32_t tag = (uint32_t)key;

    if (!tab->slots)
        return 0;
    for (;;) {
        const struct kz_keytab_slot *slot = &tab->slots[(home(tab, tag) + *cursor) & tab->mask];

        if (!slot->offset)
            return 0;
        ++*cursor;
        if (slot->tag == tag)
            return slot->offset;
    }
}
