/* log/sealed_rig.h -- a random log kept twice: as a plain array, which answers every question by
 * looking at all of it, and as a sealed segment. Both must say the same. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/hash.h"
#include "codec/crc32c.h"
#include "codec/zstd.h"
#include "log/sealed.h"
#include "sys/file_sim.h"
#include "sys/random.h"
#include "sys/thread.h"

enum { SEGMENT = 7, FIRST_OFFSET = 4096, OWNERS_MAX = 4096 };

struct item {
    kz_lsn lsn;
    struct kz_record *record; /* owned */
};

struct sample {
    struct item *items; /* by lsn */
    size_t count;
    kz_lsn end;
    uint64_t seq_first;
    int64_t at_first_ms;
};

static const char common[] =
        "{\"name\":\"view\",\"product_id\":\"0\",\"category_code\":\"electronics.smartphone\",\"brand\":"
        "\"samsung\",\"price\":9.99,\"currency\":\"JPY\",\"url\":\"https://shop.example/products/\","
        "\"referrer\":\"https://search.example/find?q=\",\"campaign\":\"autumn-sale\",\"device\":{\"kind\":"
        "\"phone\",\"width\":390,\"height\":844},\"consent\":[\"analytics\",\"personalisation\"]}";

static inline uint64_t owner_number(unsigned i)
{
    return i ? kz_hash_mix(i, 99) | 1 : 0;
}

static inline void sample_add(struct sample *sample, struct kz_prng *prng, uint64_t owner,
        enum kz_record_type type, size_t body_size)
{
    struct kz_record *record = kz_calloc(1, sizeof(*record) + body_size);
    enum kz_chain chain = kz_record_chain(type);
    char *body = (char *)(record + 1);

    record->size = (uint32_t)(sizeof(*record) + body_size);
    record->type = (uint8_t)type;
    record->seq = sample->seq_first + sample->count;
    record->at_ms = sample->at_first_ms + (int64_t)sample->count;
    record->owner = owner;
    record->key = type == KZ_RECORD_EVENT ? kz_prng_u64(prng) | 1 : 0;
    record->prev = KZ_LSN(SEGMENT - 3, 8 * (owner % 100000) + 8);
    for (size_t i = sample->count; i-- > 0;) {
        const struct kz_record *before = sample->items[i].record;

        if (before->owner == owner && kz_record_chain(before->type) == chain) {
            record->prev = sample->items[i].lsn;
            break;
        }
    }
    /* Half of it is what many have. */
    for (size_t i = 0; i < body_size; i++)
        body[i] = i < body_size / 2 ? common[(i + 31 * sample->count) % (sizeof(common) - 1)]
                                    : (char)kz_prng_u64(prng);
    sample->items = kz_realloc(sample->items, (sample->count + 1) * sizeof(*sample->items));
    sample->items[sample->count++] = (struct item){sample->end, record};
    sample->end += KZ_ALIGN8((size_t)record->size) + 48 * (kz_prng_below(prng, 9) == 0);
}

static inline void sample_start(struct sample *sample)
{
    *sample = (struct sample){
            .end = KZ_LSN(SEGMENT, FIRST_OFFSET), .seq_first = 1000, .at_first_ms = 1700000000000};
}

static inline void sample_done(struct sample *sample)
{
    for (size_t i = 0; i < sample->count; i++)
        free(sample->items[i].record);
    free(sample->items);
}

static inline void sample_random(
        struct sample *sample, struct kz_prng *prng, size_t count, unsigned owner_count)
{
    sample_start(sample);
    for (size_t i = 0; i < count; i++) {
        unsigned pick = (unsigned)kz_prng_below(prng, owner_count);
        uint64_t type = kz_prng_below(prng, 10);

        /* One owner has a tenth of all, so that their run spans blocks. */
        if (kz_prng_below(prng, 10) == 0)
            pick = 1;
        sample_add(sample, prng, owner_number(pick),
                pick == 0   ? KZ_RECORD_DEADLETTER
                : type < 7  ? KZ_RECORD_EVENT
                : type == 7 ? KZ_RECORD_TRIGGER
                            : KZ_RECORD_REQUEST,
                kz_prng_below(prng, 500));
    }
}

static inline struct kz_sealed_params sample_params(const struct sample *sample, struct kz_fs *fs)
{
    return (struct kz_sealed_params){
            .fs = fs,
            .dir = ".",
            .segment = SEGMENT,
            .log_id = "fifteen letters",
            .seq_first = sample->seq_first,
            .seq_last = sample->seq_first + sample->count - 1,
            .at_first_ms = sample->at_first_ms,
            .at_last_ms = sample->at_first_ms + (int64_t)sample->count - 1,
            .end = sample->end,
            .last_crc = 0x11223344,
    };
}

static inline enum kz_code seal(
        const struct sample *sample, const struct kz_sealed_params *params, struct kz_err *err)
{
    KZ_AUTO(kz_sealed_writer_freep) struct kz_sealed_writer *writer = NULL;
    KZ_AUTO(kz_freep)
    struct kz_sealed_entry *entries = kz_calloc(sample->count + 1, sizeof(*entries));

    for (size_t i = 0; i < sample->count; i++)
        entries[i] = (struct kz_sealed_entry){sample->items[i].record->owner, (uint32_t)i, 0};
    kz_sealed_sort(entries, sample->count);
    KZ_TRY(kz_sealed_writer_new(params, &writer, err));
    for (size_t i = 0; i < sample->count; i++) {
        const struct item *item = &sample->items[entries[i].offset];

        KZ_TRY(kz_sealed_writer_add(writer, item->lsn, item->record, err));
    }
    return kz_sealed_writer_finish(writer, err);
}

static inline void must(enum kz_code rc, const struct kz_err *err)
{
    if (rc != KZ_OK)
        fail_msg("%s", err->message);
}

/* A file system of one file, whose map is a heap block of just its size: ASan sees a step past it.
 */
struct bytes {
    struct kz_fs fs;
    struct kz_file file;
    char *data; /* owned */
    size_t size;
    unsigned open_count;
};

static inline struct bytes *bytes_of(struct kz_file *file)
{
    return KZ_CONTAINER_OF(file, struct bytes, file);
}

static inline enum kz_code bytes_open(struct kz_fs *fs, const char *path, int flags,
        struct kz_file **ret_file, struct kz_err *err)
{
    struct bytes *bytes = KZ_CONTAINER_OF(fs, struct bytes, fs);

    (void)path, (void)flags, (void)err;
    bytes->file.path = kz_strdup(path);
    bytes->open_count++;
    *ret_file = &bytes->file;
    return KZ_OK;
}

static inline void bytes_close(struct kz_file *file)
{
    bytes_of(file)->open_count--;
    free(file->path);
}

static inline enum kz_code bytes_size(struct kz_file *file, uint64_t *ret_size, struct kz_err *err)
{
    (void)err;
    *ret_size = bytes_of(file)->size;
    return KZ_OK;
}

static inline enum kz_code bytes_map(
        struct kz_file *file, uint64_t size, const void **ret_data, struct kz_err *err)
{
    (void)err;
    assert_int_equal(size, bytes_of(file)->size);
    *ret_data = bytes_of(file)->data;
    return KZ_OK;
}

static inline void bytes_unmap(struct kz_file *file, const void *data, uint64_t size)
{
    assert_ptr_equal(data, bytes_of(file)->data);
    assert_int_equal(size, bytes_of(file)->size);
}

static const struct kz_fs_ops bytes_fs_ops = {.open = bytes_open};
static const struct kz_file_ops bytes_file_ops = {
        .close = bytes_close, .size = bytes_size, .map = bytes_map, .unmap = bytes_unmap};

/* Copies `size` bytes of `data`. */
static inline void bytes_init(struct bytes *bytes, const char *data, size_t size)
{
    *bytes = (struct bytes){.fs.ops = &bytes_fs_ops, .file.ops = &bytes_file_ops, .size = size};
    bytes->data = kz_malloc(size + !size);
    memcpy(bytes->data, data, size);
}

static inline void bytes_done(struct bytes *bytes)
{
    assert_int_equal(bytes->open_count, 0);
    free(bytes->data);
}

struct opened {
    struct bytes bytes;
    struct kz_sealed_pool *pool;
    struct kz_sealed *sealed;
};

static inline void opened_done(struct opened *opened)
{
    kz_sealed_close(opened->sealed);
    kz_sealed_pool_free(opened->pool);
    bytes_done(&opened->bytes);
}

static inline enum kz_code open_bytes(const char *data, size_t size, const char *name,
        struct opened *ret_opened, struct kz_err *err)
{
    *ret_opened = (struct opened){.pool = kz_sealed_pool_new(2)};
    bytes_init(&ret_opened->bytes, data, size);
    return kz_sealed_open(&ret_opened->bytes.fs, name, ret_opened->pool, &ret_opened->sealed, err);
}

static inline void open_sample(struct kz_fs *fs, struct opened *ret_opened)
{
    KZ_AUTO(kz_freep) char *data = NULL;
    size_t size = 0;
    struct kz_err err;

    must(kz_fs_read_all(fs, "./00000007.kzs", 1 << 30, &data, &size, &err), &err);
    must(open_bytes(data, size, "00000007.kzs", ret_opened, &err), &err);
}

static inline void seal_and_open_version(
        const struct sample *sample, uint32_t version, struct opened *ret_opened)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct kz_sealed_params params = sample_params(sample, fs);
    struct kz_err err;

    params.version = version;
    must(seal(sample, &params, &err), &err);
    open_sample(fs, ret_opened);
}

static inline void seal_and_open(const struct sample *sample, struct opened *ret_opened)
{
    seal_and_open_version(sample, 0, ret_opened);
}

/* Empty where the segment has none. */
static inline struct kz_str dictionary_of(const struct opened *opened)
{
    struct kz_sealed_dictionary head;

    if (kz_sealed_get_header(opened->sealed)->version == 1)
        return KZ_STR_NULL;
    memcpy(&head, opened->bytes.data + 192, sizeof(head));
    return kz_str_n(opened->bytes.data + 200, head.size);
}

static inline void assert_clean(const struct kz_sealed *sealed)
{
    struct kz_err err;

    must(kz_sealed_fsck(sealed, NULL, NULL, &err), &err);
}

static inline bool same_record(const struct kz_record *a, const struct kz_record *b)
{
    return a->size == b->size && memcmp(a, b, a->size) == 0;
}

static inline enum kz_code append_record(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    kz_buf_u64(arg, lsn);
    kz_buf_put(arg, record, record->size);
    return KZ_OK;
}
