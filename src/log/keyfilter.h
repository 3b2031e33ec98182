/* log/keyfilter.h -- whether a key may be anywhere in the log, in one look instead of one a segment.
 *
 * A filter over the keys of all segments, raw and sealed, by their tags (log/tags.h). It consists
 * of groups, each for a run of addresses and four times as large as all before it, so there are a
 * handful; in a group a key has six bits of one cache line. What it does not deny has to be looked
 * for in the segments that the group's addresses lie in, each with its own keys.
 *
 *     groups:    [ covered_from .... )[ .................... )[ ................ now )
 *     segments:  1   2   3   4   5   6   7   8   9   10   11   12   13   14   15
 *
 * F1  Each key added at or after covered_from is never denied by the group that its address lies in.
 *     Keys that are gone since (erased, dropped) may be in it still: a look-up too many.
 *     Where a segment's tags are narrow, so are all of its group: a foreign key is not denied as often
 *     as tags of 32 bits agree by chance, which is once in 250 times for 16 million.
 * F2  Groups are contiguous: where one ends the next begins. With the memory at its limit the oldest
 *     go, and covered_from moves on.
 *
 * Owner    the log.
 * Threads  the writer; `bytes` and `forgotten_total` are read by any; one other makes the spare.
 * Fails    never.
 */
#pragma once

#include "contract/history.h"
#include "log/tags.h"

enum {
    KZ_KEYFILTER_KEY_BITS = 16, /* about one foreign key in 800 is not denied */
    KZ_KEYFILTER_KEYS_MIN = 256 << 10,
    KZ_KEYFILTER_KEYS_MAX = 16 << 20, /* of a group */
    KZ_KEYFILTER_GROUPS_MAX = 64,
};

struct kz_keyfilter_line {
    uint64_t words[8];
};

struct kz_keyfilter_group {
    kz_lsn from;       /* of its first key, up to the next group's */
    size_t count, max; /* keys */
    size_t line_count;
    bool is_narrow;                  /* only KZ_TAG_NARROW of each tag is in it */
    struct kz_keyfilter_line *lines; /* owned, a mapping of its own */
};

struct kz_keyfilter {
    uint64_t bytes_max;
    _Atomic uint64_t bytes;
    _Atomic uint64_t forgotten_total; /* groups given up for want of memory */
    /* Memory of the next group, filled in ahead of need: to get and clear 32 MiB takes the kernel
     * tens of milliseconds. `spare_wanted` bytes are asked for by the writer (0: none); the other
     * thread gives them and then clears the wish; until then `spare` is its own. */
    _Atomic size_t spare_wanted;
    void *spare;
    size_t spare_bytes;
    unsigned group_count;
    struct kz_keyfilter_group groups[KZ_KEYFILTER_GROUPS_MAX]; /* by address */
};

/* `bytes_max` bounds the memory; a group may be less than it asks for, but never nothing. */
void kz_keyfilter_init(struct kz_keyfilter *filter, uint64_t bytes_max);
void kz_keyfilter_done(struct kz_keyfilter *filter);
/* Begins a group at `from`, with room for about `count` keys. Before the first nothing is covered. */
void kz_keyfilter_begin(struct kz_keyfilter *filter, kz_lsn from, size_t count);
/* Adds the tags of several segments to the last group, which begins at or before them. Narrow ones
 * only while it is empty. */
void kz_keyfilter_add_tags(
        struct kz_keyfilter *filter, const struct kz_tags *segments, size_t segment_count);
/* Adds one to the last group, or begins the next with it where that is full. Addresses do not
 * fall. */
void kz_keyfilter_add(struct kz_keyfilter *filter, uint64_t tag, kz_lsn lsn);
/* Makes the spare where it is wanted. Any thread, one at a time. */
void kz_keyfilter_make_spare(struct kz_keyfilter *filter);
/* Lets groups go that end at or before `below`. */
void kz_keyfilter_drop(struct kz_keyfilter *filter, kz_lsn below);

/* Everything at or behind this is covered; UINT64_MAX: nothing is. */
kz_lsn kz_keyfilter_covered_from(const struct kz_keyfilter *filter);
void kz_keyfilter_prefetch(const struct kz_keyfilter *filter, uint64_t tag);
/* Which groups do not deny the key: bit i for groups[i]. */
uint64_t kz_keyfilter_find(const struct kz_keyfilter *filter, uint64_t tag);
/* Whether a key with such a find() may have an address in [from, until), which is covered. */
bool kz_keyfilter_allows(
        const struct kz_keyfilter *filter, uint64_t found, kz_lsn from, kz_lsn until);
