#include "log/sealed_pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    KEPT_BYTES_MAX = 2 * KZ_SEALED_BLOCK_BYTES_V1
}; /* of a scratch that waits for its next use */

struct kz_sealed_pool {
    atomic_uint_fast64_t serial;
    pthread_mutex_t lock;
    atomic_uint_fast64_t damages;  /* met by readers */
    char damage[KZ_PROBLEM_BYTES]; /* the last of them; under the lock */
    unsigned idle_max;
    unsigned idle_count, lent_count;
    struct kz_sealed_scratch *idle[]; /* the one given back longest ago first */
};

struct kz_sealed_pool *kz_sealed_pool_new(unsigned idle_max)
{
    struct kz_sealed_pool *pool;

    KZ_BUG_ON(!idle_max);
    pool = kz_calloc(1, sizeof(*pool) + idle_max * sizeof(pool->idle[0]));
    pool->idle_max = idle_max;
    pthread_mutex_init(&pool->lock, NULL);
    return pool;
}

uint64_t kz_sealed_pool_damages(struct kz_sealed_pool *pool, char ret_last[KZ_PROBLEM_BYTES])
{
    uint64_t damages = atomic_load(&pool->damages);

    if (!damages || !ret_last)
        return damages;
    pthread_mutex_lock(&pool->lock);
    memcpy(ret_last, pool->damage, sizeof(pool->damage));
    pthread_mutex_unlock(&pool->lock);
    return damages;
}

uint64_t kz_sealed_pool_serial(struct kz_sealed_pool *pool)
{
    return atomic_fetch_add(&pool->serial, 1) + 1;
}

void kz_sealed_pool_damaged(struct kz_sealed_pool *pool, const char *message)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->damages, 1);
    snprintf(pool->damage, sizeof(pool->damage), "%s", message);
    pthread_mutex_unlock(&pool->lock);
}

static void free_scratch(struct kz_sealed_scratch *scratch)
{
    if (!scratch)
        return;
    kz_zstd_free(scratch->zstd);
    kz_buf_done(&scratch->raw);
    free(scratch);
}

void kz_sealed_pool_free(struct kz_sealed_pool *pool)
{
    if (!pool)
        return;
    KZ_BUG_ON(pool->lent_count);
    for (unsigned i = 0; i < pool->idle_count; i++)
        free_scratch(pool->idle[i]);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

/* The idle one that holds the block, else the one that has waited longest; NULL where a new one is
 * to be made, which is so as long as there are fewer than may wait. Under the lock. */
static struct kz_sealed_scratch *take_idle(
        struct kz_sealed_pool *pool, uint64_t serial, uint32_t block)
{
    struct kz_sealed_scratch *scratch;
    unsigned found = 0;

    while (found < pool->idle_count &&
            (pool->idle[found]->serial != serial || pool->idle[found]->block != block))
        found++;
    if (found == pool->idle_count) {
        if (!found || pool->idle_count + pool->lent_count < pool->idle_max)
            return NULL;
        found = 0;
    }
    scratch = pool->idle[found];
    pool->idle_count--;
    memmove(&pool->idle[found], &pool->idle[found + 1],
            (pool->idle_count - found) * sizeof(pool->idle[0]));
    return scratch;
}

struct kz_sealed_scratch *kz_sealed_pool_take(
        struct kz_sealed_pool *pool, uint64_t serial, uint32_t block)
{
    struct kz_sealed_scratch *scratch;

    pthread_mutex_lock(&pool->lock);
    scratch = take_idle(pool, serial, block);
    pool->lent_count++;
    pthread_mutex_unlock(&pool->lock);
    if (scratch)
        return scratch;
    scratch = kz_calloc(1, sizeof(*scratch));
    scratch->zstd = kz_zstd_new(KZ_STR_NULL, KZ_SEALED_LEVEL, 0);
    KZ_BUG_ON(!scratch->zstd);
    scratch->block = KZ_SEALED_NO_BLOCK;
    return scratch;
}

void kz_sealed_scratch_forget(struct kz_sealed_scratch *scratch)
{
    scratch->block = KZ_SEALED_NO_BLOCK;
    kz_buf_clear(&scratch->raw);
}

void kz_sealed_pool_put(struct kz_sealed_pool *pool, struct kz_sealed_scratch *scratch)
{
    struct kz_sealed_scratch *extra = NULL;

    if (scratch->raw.capacity > KEPT_BYTES_MAX) {
        kz_buf_done(&scratch->raw);
        scratch->raw = (struct kz_buf){0};
        kz_sealed_scratch_forget(scratch);
    }
    pthread_mutex_lock(&pool->lock);
    pool->lent_count--;
    if (pool->idle_count < pool->idle_max)
        pool->idle[pool->idle_count++] = scratch;
    else
        extra = scratch;
    pthread_mutex_unlock(&pool->lock);
    free_scratch(extra);
}
