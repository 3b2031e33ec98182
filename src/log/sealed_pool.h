/* log/sealed_pool.h -- what readers of sealed segments borrow: kz_sealed_pool of sealed.h from within.
 *
 * Threads  any; a scratch is its borrower's alone until it is put back.
 */
#pragma once

#include "codec/zstd.h"
#include "log/sealed.h"

enum {
    KZ_SEALED_RECORD_BYTES_MIN = KZ_SEALED_PREFIX_BYTES + sizeof(struct kz_record),
    KZ_SEALED_BLOCK_RECORDS_MAX = KZ_SEALED_BLOCK_BYTES_V1 / KZ_SEALED_RECORD_BYTES_MIN,
};
#define KZ_SEALED_NO_BLOCK UINT32_MAX

/* A decompressor and the block it has decompressed last. */
struct kz_sealed_scratch {
    struct kz_zstd *zstd;
    struct kz_buf raw;
    uint64_t serial;                          /* of the segment whose block is in raw */
    uint32_t block;                           /* KZ_SEALED_NO_BLOCK: none */
    uint32_t count;                           /* of its records */
    uint32_t at[KZ_SEALED_BLOCK_RECORDS_MAX]; /* their prefixes' places in raw */
};

/* Of a segment that is opened: never given twice, unlike an address. */
uint64_t kz_sealed_pool_serial(struct kz_sealed_pool *pool);
/* A reader met damage; what it says of it. */
void kz_sealed_pool_damaged(struct kz_sealed_pool *pool, const char *message);

/* `block` is the first that will be asked for; KZ_SEALED_NO_BLOCK: none in particular. To be put
 * back. */
struct kz_sealed_scratch *kz_sealed_pool_take(
        struct kz_sealed_pool *pool, uint64_t serial, uint32_t block);
void kz_sealed_pool_put(struct kz_sealed_pool *pool, struct kz_sealed_scratch *scratch);
void kz_sealed_scratch_forget(struct kz_sealed_scratch *scratch); /* its block */
