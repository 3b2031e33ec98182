/* log/keytab.h -- which records of one raw segment have a given key.
 *
 * Open addressing, linear probing, 8 bytes a slot: the key's low half and the record's offset. Two
 * keys may share a tag, so the record itself has the last word.
 *
 * Owner    the segment.
 * Threads  the writer.
 * Fails    never; it grows with the segment, which is bounded.
 */
#pragma once

#include "base/base.h"

struct kz_keytab_slot {
    uint32_t tag;
    uint32_t offset; /* 0: free; no record starts there */
};

struct kz_keytab {
    struct kz_keytab_slot *slots; /* capacity of them; NULL while empty */
    uint32_t mask;                /* capacity - 1 */
    uint32_t count;
};

/* `count` keys will fit without growing. */
void kz_keytab_init(struct kz_keytab *tab, uint32_t count);
/* Has the kernel give all of an empty table's memory now. */
void kz_keytab_touch(struct kz_keytab *tab);
void kz_keytab_done(struct kz_keytab *tab);
void kz_keytab_put(struct kz_keytab *tab, uint64_t key, uint32_t offset);
/* Begins to fetch what kz_keytab_next() will look at first. */
void kz_keytab_prefetch(const struct kz_keytab *tab, uint64_t key);
/* Iterates over candidates in no order: `*cursor` starts at 0; 0 ends. */
uint32_t kz_keytab_next(const struct kz_keytab *tab, uint64_t key, uint32_t *cursor);
