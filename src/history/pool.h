/* history/pool.h -- an array in chunks: items never move, growth costs one chunk.
 *
 * Items are numbered from 1; 0 is "none". Fresh items are zeroed. The pool knows nothing of free
 * items: whoever uses it keeps its own list.
 *
 * Threads  one.
 */
#pragma once

#include "base/base.h"

struct kz_pool {
    char **chunks;
    uint32_t chunk_count;
    uint32_t chunk_capacity; /* of `chunks` */
    uint32_t item_size;
    uint32_t shift; /* a chunk has 1 << shift items */
    uint32_t end;   /* first number never given out; 1 at first */
};

static inline void *kz_pool_at(const struct kz_pool *pool, uint32_t index)
{
    return pool->chunks[index >> pool->shift] +
           (size_t)(index & ((1u << pool->shift) - 1)) * pool->item_size;
}

void kz_pool_init(struct kz_pool *pool, uint32_t item_size, uint32_t shift);
void kz_pool_done(struct kz_pool *pool);
/* The number of `count` (<= 1 << shift) fresh items in a row within one chunk. Items left over at
 * the end of the chunk before are skipped; `ret_skipped` says how many and they lie right before.
 */
uint32_t kz_pool_take(struct kz_pool *pool, uint32_t count, uint32_t *ret_skipped);
/* Makes items 1 .. end - 1 exist, zeroed (loading). */
void kz_pool_set_end(struct kz_pool *pool, uint32_t end);
size_t kz_pool_bytes(const struct kz_pool *pool);
