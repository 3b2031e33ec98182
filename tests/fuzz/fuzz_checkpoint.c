/* Any bytes as a checkpoint: loaded, and where it loads, used as the pipeline uses it. The first
 * byte says which checksums are made right beforehand: 1 the header, 2 the blocks, 4 the footer. */
#include <stdlib.h>

#include "base/hash.h"
#include "codec/crc32c.h"
#include "history/checkpoint.h"
#include "sys/file_sim.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEADER_SIZE = 1536, BLOCK_SIZE = 32, FOOTER_SIZE = 32, SIZE_MAX_BYTES = 256 << 10 };

static void set_crc(uint8_t *part, size_t size, size_t offset)
{
    kz_store_u32(part + offset, 0);
    kz_store_u32(part + offset, kz_crc32c(0, part, size));
}

/* docs/log-format.md has the offsets. */
static void repair(uint8_t *bytes, size_t size, uint8_t what)
{
    size_t at = HEADER_SIZE;
    uint32_t blocks_crc = 0, count = 0;

    if (size < HEADER_SIZE + FOOTER_SIZE)
        return;
    if (what & 1) {
        kz_store_u64(bytes + 48, kz_hash_str(KZ_STR("shop")));
        set_crc(bytes, HEADER_SIZE, 16);
    }
    for (; what & 2 && size - at >= BLOCK_SIZE + FOOTER_SIZE; count++) {
        uint64_t data_size = kz_load_u64(bytes + at + 16);

        if (data_size > size - at - BLOCK_SIZE - FOOTER_SIZE)
            break;
        kz_store_u32(bytes + at + 24, kz_crc32c(0, bytes + at + BLOCK_SIZE, data_size));
        set_crc(bytes + at, BLOCK_SIZE, 28);
        blocks_crc = kz_crc32c(blocks_crc, bytes + at + 28, 4);
        at += BLOCK_SIZE + data_size;
    }
    if (what & 4) {
        uint8_t *footer = bytes + size - FOOTER_SIZE;

        kz_store_u64(footer + 8, size);
        kz_store_u32(footer + 16, count);
        kz_store_u32(footer + 20, blocks_crc);
        set_crc(footer, FOOTER_SIZE, 28);
    }
}

static void use(const struct kz_views *views)
{
    struct kz_buf out = {0};

    (void)kz_views_hash(views);
    (void)kz_views_stats(views);
    for (uint32_t user = 0; (user = kz_views_next_user(views, user));) {
        struct kz_source sources[KZ_SOURCES_MAX];

        kz_views_carry(views, user, NULL, &out);
        kz_views_erase_owners(views, user, &out);
        (void)kz_views_sources(views, user, KZ_CHAIN_NOTES, UINT64_MAX, sources);
        kz_buf_clear(&out);
    }
    for (size_t i = 0; i < kz_views_dead_letter_count(views); i++)
        (void)kz_views_dead_letter(views, kz_views_dead_letter_at(views, i)->seq);
    kz_views_carry_globals(views, 0, &out);
    kz_buf_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = NULL;
    KZ_AUTO(kz_views_freep) struct kz_views *views = NULL;
    struct kz_checkpoint_info info = {0};
    struct kz_err err = {0};
    uint8_t *bytes;

    if (size < 2 || size > SIZE_MAX_BYTES)
        return 0;
    fs = kz_fs_sim_new(1);
    bytes = malloc(size - 1);
    memcpy(bytes, data + 1, size - 1);
    repair(bytes, size - 1, data[0]);
    KZ_BUG_ON(kz_fs_replace(fs, "/ckpt-0000000000000005.kzc", bytes, size - 1, NULL) != KZ_OK);
    free(bytes);
    if (kz_checkpoint_load(fs, "/", "shop", 8, &views, &info, &err) != KZ_OK) {
        KZ_BUG_ON(!err.message[0] || views);
        return 0;
    }
    /* Whoever can make all checksums right can say anything, but nothing that reaches outside. */
    if (kz_views_check(views, &err) == KZ_OK)
        use(views);
    return 0;
}
