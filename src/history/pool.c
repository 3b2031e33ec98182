#include "history/pool.h"

#include <stdlib.h>

void kz_pool_init(struct kz_pool *pool, uint32_t item_size, uint32_t shift)
{
    *pool = (struct kz_pool){.item_size = item_size, .shift = shift, .end = 1};
}

void kz_pool_done(struct kz_pool *pool)
{
    for (uint32_t i = 0; i < pool->chunk_count; i++)
        free(pool->chunks[i]);
    free(pool->chunks);
    *pool = (struct kz_pool){0};
}

static void add_chunk(struct kz_pool *pool)
{
    if (pool->chunk_count == pool->chunk_capacity) {
        pool->chunk_capacity = KZ_MAX(16u, pool->chunk_capacity * 2);
        pool->chunks = kz_realloc(pool->chunks, pool->chunk_capacity * sizeof(*pool->chunks));
    }
    pool->chunks[pool->chunk_count++] = kz_calloc((size_t)1 << pool->shift, pool->item_size);
}

uint32_t kz_pool_take(struct kz_pool *pool, uint32_t count, uint32_t *ret_skipped)
{
    uint32_t chunk_items = 1u << pool->shift;
    uint32_t left = chunk_items - (pool->end & (chunk_items - 1));
    uint32_t skipped = count > left ? left : 0;
    uint32_t index = pool->end + skipped;

    KZ_BUG_ON(count > chunk_items || index > UINT32_MAX - chunk_items);
    if (((index + count - 1) >> pool->shift) >= pool->chunk_count)
        add_chunk(pool);
    pool->end = index + count;
    if (ret_skipped)
        *ret_skipped = skipped;
    return index;
}

void kz_pool_set_end(struct kz_pool *pool, uint32_t end)
{
    while (end > 1 && ((uint64_t)pool->chunk_count << pool->shift) < end)
        add_chunk(pool);
    pool->end = end;
}

size_t kz_pool_bytes(const struct kz_pool *pool)
{
    return ((size_t)pool->chunk_count << pool->shift) * pool->item_size +
           pool->chunk_capacity * sizeof(*pool->chunks);
}
