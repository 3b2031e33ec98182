/* A random log is kept twice: as a plain array, which answers every question by looking at all of
 * it, and as a sealed segment. Both must say the same. */
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

static uint64_t owner_number(unsigned i)
{
    return i ? kz_hash_mix(i, 99) | 1 : 0;
}

static void sample_add(struct sample *sample, struct kz_prng *prng, uint64_t owner,
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

static void sample_start(struct sample *sample)
{
    *sample = (struct sample){
            .end = KZ_LSN(SEGMENT, FIRST_OFFSET), .seq_first = 1000, .at_first_ms = 1700000000000};
}

static void sample_done(struct sample *sample)
{
    for (size_t i = 0; i < sample->count; i++)
        free(sample->items[i].record);
    free(sample->items);
}

static void sample_random(
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

static struct kz_sealed_params sample_params(const struct sample *sample, struct kz_fs *fs)
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

static enum kz_code seal(
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

static void must(enum kz_code rc, const struct kz_err *err)
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

static struct bytes *bytes_of(struct kz_file *file)
{
    return KZ_CONTAINER_OF(file, struct bytes, file);
}

static enum kz_code bytes_open(struct kz_fs *fs, const char *path, int flags,
        struct kz_file **ret_file, struct kz_err *err)
{
    struct bytes *bytes = KZ_CONTAINER_OF(fs, struct bytes, fs);

    (void)path, (void)flags, (void)err;
    bytes->file.path = kz_strdup(path);
    bytes->open_count++;
    *ret_file = &bytes->file;
    return KZ_OK;
}

static void bytes_close(struct kz_file *file)
{
    bytes_of(file)->open_count--;
    free(file->path);
}

static enum kz_code bytes_size(struct kz_file *file, uint64_t *ret_size, struct kz_err *err)
{
    (void)err;
    *ret_size = bytes_of(file)->size;
    return KZ_OK;
}

static enum kz_code bytes_map(
        struct kz_file *file, uint64_t size, const void **ret_data, struct kz_err *err)
{
    (void)err;
    assert_int_equal(size, bytes_of(file)->size);
    *ret_data = bytes_of(file)->data;
    return KZ_OK;
}

static void bytes_unmap(struct kz_file *file, const void *data, uint64_t size)
{
    assert_ptr_equal(data, bytes_of(file)->data);
    assert_int_equal(size, bytes_of(file)->size);
}

static const struct kz_fs_ops bytes_fs_ops = {.open = bytes_open};
static const struct kz_file_ops bytes_file_ops = {
        .close = bytes_close, .size = bytes_size, .map = bytes_map, .unmap = bytes_unmap};

/* Copies `size` bytes of `data`. */
static void bytes_init(struct bytes *bytes, const char *data, size_t size)
{
    *bytes = (struct bytes){.fs.ops = &bytes_fs_ops, .file.ops = &bytes_file_ops, .size = size};
    bytes->data = kz_malloc(size + !size);
    memcpy(bytes->data, data, size);
}

static void bytes_done(struct bytes *bytes)
{
    assert_int_equal(bytes->open_count, 0);
    free(bytes->data);
}

struct opened {
    struct bytes bytes;
    struct kz_sealed_pool *pool;
    struct kz_sealed *sealed;
};

static void opened_done(struct opened *opened)
{
    kz_sealed_close(opened->sealed);
    kz_sealed_pool_free(opened->pool);
    bytes_done(&opened->bytes);
}

static enum kz_code open_bytes(const char *data, size_t size, const char *name,
        struct opened *ret_opened, struct kz_err *err)
{
    *ret_opened = (struct opened){.pool = kz_sealed_pool_new(2)};
    bytes_init(&ret_opened->bytes, data, size);
    return kz_sealed_open(&ret_opened->bytes.fs, name, ret_opened->pool, &ret_opened->sealed, err);
}

static void open_sample(struct kz_fs *fs, struct opened *ret_opened)
{
    KZ_AUTO(kz_freep) char *data = NULL;
    size_t size = 0;
    struct kz_err err;

    must(kz_fs_read_all(fs, "./00000007.kzs", 1 << 30, &data, &size, &err), &err);
    must(open_bytes(data, size, "00000007.kzs", ret_opened, &err), &err);
}

static void seal_and_open_version(
        const struct sample *sample, uint32_t version, struct opened *ret_opened)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct kz_sealed_params params = sample_params(sample, fs);
    struct kz_err err;

    params.version = version;
    must(seal(sample, &params, &err), &err);
    open_sample(fs, ret_opened);
}

static void seal_and_open(const struct sample *sample, struct opened *ret_opened)
{
    seal_and_open_version(sample, 2, ret_opened);
}

/* Empty where the segment has none. */
static struct kz_str dictionary_of(const struct opened *opened)
{
    struct kz_sealed_dictionary head;

    if (kz_sealed_get_header(opened->sealed)->version == 1)
        return KZ_STR_NULL;
    memcpy(&head, opened->bytes.data + 192, sizeof(head));
    return kz_str_n(opened->bytes.data + 200, head.size);
}

static void assert_clean(const struct kz_sealed *sealed)
{
    struct kz_err err;

    must(kz_sealed_fsck(sealed, NULL, NULL, &err), &err);
}

static bool same_record(const struct kz_record *a, const struct kz_record *b)
{
    return a->size == b->size && memcmp(a, b, a->size) == 0;
}

/* ---- what it answers ------------------------------------------------------------------------ */

/* The owner's records on the chain, newest first, by looking at all; their number. */
static size_t expect_owner(const struct sample *sample, uint64_t owner, enum kz_chain chain,
        kz_lsn newest, size_t count_max, const struct item **items)
{
    size_t count = 0;

    for (size_t i = sample->count; i-- > 0 && count < count_max;) {
        const struct item *item = &sample->items[i];

        if (item->record->owner == owner && kz_record_chain(item->record->type) == chain &&
                item->lsn <= newest)
            items[count++] = item;
    }
    return count;
}

static void check_owner(const struct sample *sample, const struct kz_sealed *sealed, uint64_t owner,
        enum kz_chain chain, kz_lsn newest, size_t count_max)
{
    KZ_AUTO(kz_freep) const struct item **items = kz_calloc(sample->count + 1, sizeof(*items));
    size_t expected = expect_owner(sample, owner, chain, newest, count_max, items), count = 0;
    const struct kz_record *record;
    struct kz_sealed_cursor cursor;
    struct kz_err err;
    kz_lsn lsn;

    kz_sealed_seek(&cursor, sealed, owner, newest);
    while (count < count_max) {
        enum kz_code rc = kz_sealed_prev(&cursor, &lsn, &record, &err);

        if (rc == KZ_END)
            break;
        must(rc, &err);
        if (kz_record_chain(record->type) != chain)
            continue;
        assert_true(count < expected);
        assert_int_equal(lsn, items[count]->lsn);
        assert_int_equal((uintptr_t)record % 8, 0);
        assert_true(same_record(record, items[count]->record));
        count++;
    }
    kz_sealed_cursor_done(&cursor);
    assert_int_equal(count, expected);
}

static void answers_as_the_plain_one(
        uint32_t version, unsigned blocks_min, unsigned blocks_max, size_t dictionary_min)
{
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;

    kz_prng_init(&prng, 11);
    sample_random(&sample, &prng, 6000, 300);
    seal_and_open_version(&sample, version, &opened);
    assert_clean(opened.sealed);
    assert_int_equal(kz_sealed_get_header(opened.sealed)->version, version);
    assert_in_range(
            kz_sealed_get_header(opened.sealed)->block_count, blocks_min, blocks_max);
    assert_in_range(dictionary_of(&opened).size, dictionary_min, 2 * dictionary_min);
    for (unsigned i = 0; i <= 301; i++) {
        kz_lsn any = sample.items[kz_prng_below(&prng, sample.count)].lsn;

        for (int chain = KZ_CHAIN_EVENTS; chain <= KZ_CHAIN_NONE; chain++) {
            check_owner(&sample, opened.sealed, owner_number(i), chain, UINT64_MAX, SIZE_MAX);
            check_owner(&sample, opened.sealed, owner_number(i), chain, any, SIZE_MAX);
            check_owner(&sample, opened.sealed, owner_number(i), chain, any, 3);
            check_owner(&sample, opened.sealed, owner_number(i), chain, KZ_LSN(SEGMENT, 0), 3);
            check_owner(&sample, opened.sealed, owner_number(i), chain, 5, 3);
        }
    }
    opened_done(&opened);
    sample_done(&sample);
}

static void a_sealed_segment_answers_as_the_plain_one(void **state)
{
    (void)state;
    answers_as_the_plain_one(2, 270, 400, 500);
}

static void one_of_version_1_does_too(void **state)
{
    (void)state;
    answers_as_the_plain_one(1, 30, 90, 0);
}

/* What a look-up costs is the bytes it has to decompress. */
static void what_a_user_did_is_one_small_block(void **state)
{
    const struct kz_sealed_block *blocks;
    const struct kz_sealed_header *header;
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;

    (void)state;
    kz_prng_init(&prng, 18);
    sample_start(&sample);
    for (int i = 0; i < 4000; i++)
        sample_add(&sample, &prng, owner_number(1 + i % 1000), KZ_RECORD_EVENT, 300);
    seal_and_open(&sample, &opened);
    header = kz_sealed_get_header(opened.sealed);
    blocks = (const void *)(opened.bytes.data + header->index_offset);
    /* 4 records of 360 bytes each: past the 1,024 that make a block full. */
    assert_int_equal(header->block_count, 1000);
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(blocks[i].record_count, 4);
        assert_int_equal(blocks[i].raw_size, 1440);
        assert_int_equal(blocks[i].flags, 0);
    }
    opened_done(&opened);
    sample_done(&sample);
}

static void a_long_run_is_cut_and_continues(void **state)
{
    const struct kz_sealed_block *blocks;
    const struct kz_sealed_header *header;
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;

    (void)state;
    kz_prng_init(&prng, 20);
    sample_start(&sample);
    for (int i = 0; i < 50; i++)
        sample_add(&sample, &prng, owner_number(1), KZ_RECORD_EVENT, 300);
    seal_and_open(&sample, &opened);
    header = kz_sealed_get_header(opened.sealed);
    blocks = (const void *)(opened.bytes.data + header->index_offset);
    assert_int_equal(header->block_count, 3); /* of 22 records, 7,920 bytes */
    assert_int_equal(blocks[0].flags, 0);
    assert_int_equal(blocks[1].flags, KZ_SEALED_CONTINUES);
    assert_int_equal(blocks[2].record_count, 6);
    assert_int_equal(dictionary_of(&opened).size, 0); /* of one user it would be theirs */
    check_owner(&sample, opened.sealed, owner_number(1), KZ_CHAIN_EVENTS, UINT64_MAX, 50);
    opened_done(&opened);
    sample_done(&sample);
}

static void one_record_is_found_with_its_owner_or_without(void **state)
{
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;
    struct kz_buf out = {0};
    struct kz_err err;

    (void)state;
    kz_prng_init(&prng, 12);
    sample_random(&sample, &prng, 800, 50);
    seal_and_open(&sample, &opened);
    for (size_t i = 0; i < sample.count; i++) {
        const struct item *item = &sample.items[i];

        for (int known = 0; known < 2; known++) {
            kz_buf_clear(&out);
            must(kz_sealed_get(
                         opened.sealed, item->lsn, known ? item->record->owner : 0, &out, &err),
                    &err);
            assert_int_equal(out.size, item->record->size);
            assert_memory_equal(out.data, item->record, out.size);
        }
        assert_int_equal(
                kz_sealed_get(opened.sealed, item->lsn + 8, item->record->owner, &out, &err),
                KZ_NOT_FOUND);
        if (item->record->owner)
            assert_int_equal(kz_sealed_get(opened.sealed, item->lsn, owner_number(77), &out, &err),
                    KZ_NOT_FOUND);
    }
    assert_int_equal(
            kz_sealed_get(opened.sealed, KZ_LSN(SEGMENT + 1, 4096), 0, &out, &err), KZ_NOT_FOUND);
    kz_buf_done(&out);
    opened_done(&opened);
    sample_done(&sample);
}

static bool refuse(void *arg, const struct kz_record *record)
{
    (void)record;
    ++*(int *)arg;
    return false;
}

static void a_key_is_found_and_a_foreign_one_is_not(void **state)
{
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;
    struct kz_err err;
    bool found;
    int asked = 0;

    (void)state;
    kz_prng_init(&prng, 13);
    sample_random(&sample, &prng, 2000, 100);
    seal_and_open(&sample, &opened);
    for (size_t i = 0; i < sample.count; i++) {
        const struct kz_record *record = sample.items[i].record;
        uint64_t key = record->key, owner = record->owner;
        struct kz_sealed *sealed = opened.sealed;

        found = true;
        must(kz_sealed_find_key(sealed, key ^ 2, owner, NULL, NULL, &found, &err), &err);
        assert_false(found);
        if (!key)
            continue;
        must(kz_sealed_find_key(sealed, key, owner, NULL, NULL, &found, &err), &err);
        assert_true(found);
        must(kz_sealed_find_key(sealed, key, owner, refuse, &asked, &found, &err), &err);
        assert_false(found);
        must(kz_sealed_find_key(sealed, key, owner_number(2345), NULL, NULL, &found, &err), &err);
        assert_false(found);
        if (i % 50 == 0) {
            must(kz_sealed_find_key(sealed, key, 0, NULL, NULL, &found, &err), &err);
            assert_true(found);
        }
    }
    assert_int_equal(asked, kz_sealed_get_header(opened.sealed)->key_count);
    opened_done(&opened);
    sample_done(&sample);
}

struct follow {
    const struct sample *sample;
    size_t next, left;
};

static enum kz_code must_be_next(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct follow *follow = arg;
    const struct item *item = &follow->sample->items[follow->next++];

    assert_int_equal(lsn, item->lsn);
    assert_true(same_record(record, item->record));
    return --follow->left ? KZ_OK : KZ_END;
}

static enum kz_code must_not_be_called(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    (void)arg, (void)lsn, (void)record;
    return KZ_INTERNAL;
}

static void a_scan_is_in_the_order_of_arrival(void **state)
{
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;
    struct follow follow;
    struct kz_err err;

    (void)state;
    kz_prng_init(&prng, 14);
    sample_random(&sample, &prng, 3000, 100);
    seal_and_open(&sample, &opened);
    follow = (struct follow){&sample, 0, sample.count + 1};
    must(kz_sealed_scan(opened.sealed, 0, UINT64_MAX, must_be_next, &follow, &err), &err);
    assert_int_equal(follow.next, 3000);
    follow = (struct follow){&sample, 700, 1000};
    must(kz_sealed_scan(opened.sealed, sample.items[700].lsn, sample.items[1200].lsn, must_be_next,
                 &follow, &err),
            &err);
    assert_int_equal(follow.next, 1200);
    follow = (struct follow){&sample, 10, 5};
    assert_int_equal(kz_sealed_scan(opened.sealed, sample.items[9].lsn + 1, UINT64_MAX,
                             must_be_next, &follow, &err),
            KZ_END);
    assert_int_equal(follow.next, 15);
    must(kz_sealed_scan(
                 opened.sealed, KZ_LSN(SEGMENT + 1, 0), UINT64_MAX, must_not_be_called, NULL, &err),
            &err);
    must(kz_sealed_scan(opened.sealed, 0, KZ_LSN(SEGMENT, 0), must_not_be_called, NULL, &err),
            &err);
    opened_done(&opened);
    sample_done(&sample);
}

/* More addresses than a window holds, without so many bytes. */
static void a_scan_goes_on_over_its_windows(void **state)
{
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;
    struct follow follow;
    struct kz_err err;

    (void)state;
    kz_prng_init(&prng, 15);
    sample_start(&sample);
    for (int i = 0; i < 1000; i++) {
        sample_add(&sample, &prng, owner_number(i % 17 + 1), KZ_RECORD_EVENT, 100);
        sample.end += 200 << 10;
    }
    seal_and_open(&sample, &opened);
    follow = (struct follow){&sample, 0, sample.count + 1};
    must(kz_sealed_scan(opened.sealed, 0, UINT64_MAX, must_be_next, &follow, &err), &err);
    assert_int_equal(follow.next, 1000);
    opened_done(&opened);
    sample_done(&sample);
}

static void the_oldest_of_a_chain_leads_to_an_earlier_segment(void **state)
{
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;
    struct kz_sealed_cursor cursor;
    const struct kz_record *record;
    struct kz_err err;
    kz_lsn lsn, prev = 0;
    unsigned count = 0;

    (void)state;
    kz_prng_init(&prng, 16);
    sample_start(&sample);
    for (int i = 0; i < 12; i++)
        sample_add(&sample, &prng, owner_number(i % 3 + 1), KZ_RECORD_EVENT, 40);
    seal_and_open(&sample, &opened);
    kz_sealed_seek(&cursor, opened.sealed, owner_number(1), KZ_LSN(SEGMENT + 5, 8));
    while (kz_sealed_prev(&cursor, &lsn, &record, &err) == KZ_OK) {
        assert_true(!prev || lsn == prev);
        prev = record->prev;
        count++;
    }
    assert_int_equal(count, 4);
    assert_int_equal(KZ_LSN_SEGMENT(prev), SEGMENT - 3);
    assert_int_equal(kz_sealed_prev(&cursor, &lsn, &record, &err), KZ_END);
    kz_sealed_cursor_done(&cursor);
    kz_sealed_cursor_done(&cursor);
    opened_done(&opened);
    sample_done(&sample);
}

static void a_giant_record_has_its_own_block(void **state)
{
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;

    (void)state;
    kz_prng_init(&prng, 17);
    sample_start(&sample);
    for (int i = 0; i < 40; i++)
        sample_add(
                &sample, &prng, owner_number(i % 5 + 1), KZ_RECORD_EVENT, i == 20 ? 3 << 20 : 60);
    seal_and_open(&sample, &opened);
    assert_clean(opened.sealed);
    assert_int_equal(kz_sealed_get_header(opened.sealed)->block_count, 4);
    for (unsigned i = 1; i <= 5; i++) {
        check_owner(&sample, opened.sealed, owner_number(i), KZ_CHAIN_EVENTS, UINT64_MAX, 40);
        check_owner(&sample, opened.sealed, owner_number(i), KZ_CHAIN_EVENTS,
                sample.items[20].lsn - 1, 40);
    }
    opened_done(&opened);
    sample_done(&sample);
}

static void a_sort_is_by_owner_and_then_by_arrival(void **state)
{
    enum { COUNT = 5000 };
    KZ_AUTO(kz_freep) struct kz_sealed_entry *entries = kz_calloc(COUNT, sizeof(*entries));
    struct kz_prng prng;

    (void)state;
    kz_prng_init(&prng, 19);
    for (uint32_t i = 0; i < COUNT; i++)
        entries[i] =
                (struct kz_sealed_entry){owner_number((unsigned)kz_prng_below(&prng, 700)), i, 0};
    kz_sealed_sort(entries, COUNT);
    for (uint32_t i = 1; i < COUNT; i++)
        assert_true(entries[i - 1].order < entries[i].order ||
                    (entries[i - 1].order == entries[i].order &&
                            entries[i - 1].offset < entries[i].offset));
    kz_sealed_sort(NULL, 0);
}

/* ---- erasure -------------------------------------------------------------------------------- */

static bool contains(const char *data, size_t size, const void *what, size_t what_size)
{
    return memmem(data, size, what, what_size) != NULL;
}

static enum kz_code append_record(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    kz_buf_u64(arg, lsn);
    kz_buf_put(arg, record, record->size);
    return KZ_OK;
}

/* Everything a reader of the file could make out: the bytes, dictionary included, and all blocks
 * decompressed. */
static void everything_in(const struct opened *opened, struct kz_buf *out)
{
    KZ_AUTO(kz_zstd_freep) struct kz_zstd *zstd = kz_zstd_new(dictionary_of(opened), 1);
    const struct kz_sealed_header *header = kz_sealed_get_header(opened->sealed);
    const struct kz_sealed_block *blocks =
            (const void *)(opened->bytes.data + header->index_offset);
    struct kz_err err;

    kz_buf_put(out, opened->bytes.data, opened->bytes.size);
    for (uint32_t i = 0; i < header->block_count; i++)
        must(kz_zstd_decompress(zstd,
                     kz_str_n(opened->bytes.data + blocks[i].at, blocks[i].stored_size),
                     blocks[i].raw_size, out, &err),
                &err);
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = kz_load_u64(a), y = kz_load_u64(b);

    return (x > y) - (x < y);
}

static void an_erased_owner_is_gone_from_every_byte(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    uint64_t erased[] = {owner_number(1), owner_number(20), owner_number(999), owner_number(33)};
    struct kz_prng prng;
    struct sample sample;
    struct kz_sealed_params params;
    struct opened opened, before;
    struct kz_buf bytes = {0}, bytes_before = {0};
    struct kz_err err;
    size_t gone = 0, keys_said = 0;
    bool has;

    (void)state;
    kz_prng_init(&prng, 21);
    sample_random(&sample, &prng, 3000, 60);
    seal_and_open(&sample, &before);
    everything_in(&before, &bytes_before);
    qsort(erased, KZ_ARRAY_COUNT(erased), sizeof(erased[0]), compare_u64);
    params = sample_params(&sample, fs);
    params.erased = erased;
    params.erased_count = KZ_ARRAY_COUNT(erased);
    must(seal(&sample, &params, &err), &err);
    open_sample(fs, &opened);
    assert_clean(opened.sealed);
    everything_in(&opened, &bytes);
    assert_in_range(dictionary_of(&opened).size, 400, 2000);

    for (size_t i = 0; i < sample.count; i++) {
        const struct kz_record *record = sample.items[i].record;
        bool is_erased = bsearch(
                &record->owner, erased, KZ_ARRAY_COUNT(erased), sizeof(erased[0]), compare_u64);
        const char *body = (const char *)(record + 1);
        size_t size = record->size - sizeof(*record);

        gone += is_erased;
        if (size < 40) /* its random half could be anywhere by chance */
            continue;
        assert_true(contains(bytes_before.data, bytes_before.size, body + size / 2 + 1, 12));
        assert_int_equal(contains(bytes.data, bytes.size, body + size / 2 + 1, 12), !is_erased);
        if (is_erased && record->key) {
            must(kz_sealed_find_key(
                         opened.sealed, record->key, record->owner, NULL, NULL, &has, &err),
                    &err);
            keys_said += has;
        }
    }
    assert_int_equal(keys_said, 0);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(erased); i++) {
        assert_false(contains(bytes.data, bytes.size, &erased[i], sizeof(erased[i])));
        must(kz_sealed_has_owner(opened.sealed, erased[i], &has, &err), &err);
        assert_false(has);
    }
    must(kz_sealed_has_owner(opened.sealed, owner_number(2), &has, &err), &err);
    assert_true(has);
    assert_in_range(gone, 300, 600);
    assert_int_equal(kz_sealed_get_header(opened.sealed)->left_out_count, gone);
    kz_buf_done(&bytes);
    kz_buf_done(&bytes_before);
    opened_done(&opened);
    opened_done(&before);
    sample_done(&sample);
}

static void a_segment_may_lose_all_its_records(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    uint64_t erased = owner_number(1);
    struct kz_prng prng;
    struct sample sample;
    struct kz_sealed_params params;
    const struct kz_sealed_header *header;
    struct opened opened;
    struct kz_err err;
    bool has = true;

    (void)state;
    kz_prng_init(&prng, 22);
    sample_start(&sample);
    for (int i = 0; i < 10; i++)
        sample_add(&sample, &prng, erased, KZ_RECORD_EVENT, 10);
    params = sample_params(&sample, fs);
    params.erased = &erased;
    params.erased_count = 1;
    must(seal(&sample, &params, &err), &err);
    open_sample(fs, &opened);
    assert_clean(opened.sealed);
    header = kz_sealed_get_header(opened.sealed);
    assert_int_equal(header->segment, 7);
    assert_int_equal(header->seq_first, 1000);
    assert_int_equal(header->seq_last, 1009);
    assert_int_equal(header->last_crc, 0x11223344);
    assert_memory_equal(header->log_id, "fifteen letters", 16);
    assert_int_equal(header->event_count, 0);
    assert_int_equal(header->left_out_count, 10);
    must(kz_sealed_scan(opened.sealed, 0, UINT64_MAX, must_not_be_called, NULL, &err), &err);
    must(kz_sealed_has_owner(opened.sealed, erased, &has, &err), &err);
    assert_false(has);
    check_owner(&(struct sample){0}, opened.sealed, erased, KZ_CHAIN_EVENTS, UINT64_MAX, 5);
    opened_done(&opened);
    sample_done(&sample);
}

/* ---- damage --------------------------------------------------------------------------------- */

static void must_answer_or_be_corrupt(enum kz_code rc)
{
    if (rc != KZ_OK && rc != KZ_CORRUPT)
        fail_msg("%s", kz_code_name(rc));
}

/* Asks everything of a damaged one. */
static void ask_everything(const struct kz_sealed *sealed, const struct sample *sample)
{
    struct kz_buf out = {0};
    struct kz_err err;
    bool has;

    for (size_t i = 0; i < sample->count; i += sample->count / 7) {
        const struct item *item = &sample->items[i];
        uint64_t owner = item->record->owner;
        struct kz_sealed_cursor cursor;
        const struct kz_record *record;
        enum kz_code rc;
        kz_lsn lsn;

        kz_sealed_seek(&cursor, sealed, owner, UINT64_MAX);
        while ((rc = kz_sealed_prev(&cursor, &lsn, &record, &err)) == KZ_OK)
            assert_int_equal(record->owner, owner);
        must_answer_or_be_corrupt(rc == KZ_END ? KZ_OK : rc);
        kz_sealed_cursor_done(&cursor);
        must_answer_or_be_corrupt(kz_sealed_get(sealed, item->lsn, owner, &out, &err));
        must_answer_or_be_corrupt(
                kz_sealed_find_key(sealed, item->record->key, owner, NULL, NULL, &has, &err));
        must_answer_or_be_corrupt(kz_sealed_has_owner(sealed, owner, &has, &err));
    }
    kz_buf_clear(&out);
    must_answer_or_be_corrupt(kz_sealed_scan(sealed, 0, UINT64_MAX, append_record, &out, &err));
    kz_buf_done(&out);
}

static void any_damaged_byte_is_noticed(void **state)
{
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;
    size_t at_open = 0, at_check = 0;

    (void)state;
    kz_prng_init(&prng, 31);
    sample_random(&sample, &prng, 400, 60);
    seal_and_open(&sample, &opened);
    assert_in_range(dictionary_of(&opened).size, 400, 2000);
    for (size_t at = 0; at < opened.bytes.size; at += 97) {
        struct opened damaged;
        struct kz_err err;
        enum kz_code rc;

        opened.bytes.data[at] ^= 0x41;
        rc = open_bytes(opened.bytes.data, opened.bytes.size, "./00000007.kzs", &damaged, &err);
        opened.bytes.data[at] ^= 0x41;
        at_open += rc != KZ_OK;
        if (rc == KZ_OK) {
            ask_everything(damaged.sealed, &sample);
            rc = kz_sealed_fsck(damaged.sealed, NULL, NULL, &err);
            at_check += rc != KZ_OK;
        }
        if (rc != KZ_CORRUPT)
            fail_msg("byte %zu: %s", at, kz_code_name(rc));
        opened_done(&damaged);
    }
    assert_in_range(at_open, 2, 60); /* header, dictionary, index, footer */
    assert_in_range(at_check, 200, 2000);
    opened_done(&opened);
    sample_done(&sample);
}

static void a_cut_file_is_noticed(void **state)
{
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;

    (void)state;
    kz_prng_init(&prng, 32);
    sample_random(&sample, &prng, 200, 30);
    seal_and_open(&sample, &opened);
    for (size_t size = 0; size < opened.bytes.size; size += 61) {
        struct opened cut;
        struct kz_err err;

        assert_int_equal(
                open_bytes(opened.bytes.data, size, "00000007.kzs", &cut, &err), KZ_CORRUPT);
        assert_null(cut.sealed);
        opened_done(&cut);
    }
    opened_done(&opened);
    sample_done(&sample);
}

static void a_newer_format_and_another_number_are_told_apart_from_damage(void **state)
{
    struct kz_prng prng;
    struct sample sample;
    struct opened opened, other;
    struct kz_sealed_header *header;
    struct kz_err err;

    (void)state;
    kz_prng_init(&prng, 33);
    sample_random(&sample, &prng, 50, 5);
    seal_and_open(&sample, &opened);
    assert_int_equal(
            open_bytes(opened.bytes.data, opened.bytes.size, "d/00000008.kzs", &other, &err),
            KZ_CORRUPT);
    assert_string_equal(
            err.message, "sealed segment \"d/00000008.kzs\" is damaged: it is of another number");
    opened_done(&other);
    header = (void *)opened.bytes.data;
    header->version = 3;
    header->crc = kz_crc32c(0, header, offsetof(struct kz_sealed_header, crc));
    assert_int_equal(open_bytes(opened.bytes.data, opened.bytes.size, "00000007.kzs", &other, &err),
            KZ_UNSUPPORTED);
    assert_string_equal(
            err.message, "sealed segment \"00000007.kzs\" has format 3, this build reads up to 2");
    opened_done(&other);
    opened_done(&opened);
    sample_done(&sample);
}

/* Its scan went on for ever, window after window. */
static void an_end_in_another_segment_is_damage(void **state)
{
    struct kz_prng prng;
    struct sample sample;
    struct opened opened, other;
    struct kz_sealed_header *header;
    struct kz_sealed_footer *footer;
    struct kz_err err;

    (void)state;
    kz_prng_init(&prng, 35);
    sample_random(&sample, &prng, 50, 5);
    seal_and_open(&sample, &opened);
    header = (void *)opened.bytes.data;
    footer = (void *)(opened.bytes.data + opened.bytes.size - sizeof(*footer));
    header->end = UINT64_MAX;
    header->crc = kz_crc32c(0, header, offsetof(struct kz_sealed_header, crc));
    footer->header_crc = header->crc;
    footer->crc = kz_crc32c(0, footer, offsetof(struct kz_sealed_footer, crc));
    assert_int_equal(open_bytes(opened.bytes.data, opened.bytes.size, "00000007.kzs", &other, &err),
            KZ_CORRUPT);
    assert_string_equal(
            err.message, "sealed segment \"00000007.kzs\" is damaged: it ends in another segment");
    opened_done(&other);
    opened_done(&opened);
    sample_done(&sample);
}

static void add_line(void *arg, const char *line)
{
    kz_buf_printf(arg, "%s\n", line);
}

static void fsck_says_where_the_damage_is(void **state)
{
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;
    const struct kz_sealed_header *header;
    struct kz_buf lines = {0};
    struct kz_err err;
    bool found;

    (void)state;
    kz_prng_init(&prng, 34);
    sample_start(&sample);
    for (int i = 0; i < 10; i++)
        sample_add(&sample, &prng, owner_number(1), KZ_RECORD_EVENT, 20);
    seal_and_open(&sample, &opened);
    header = kz_sealed_get_header(opened.sealed);
    must(kz_sealed_find_key(opened.sealed, sample.items[0].record->key, owner_number(1), NULL, NULL,
                 &found, &err),
            &err);
    opened.bytes.data[210] ^= 1;
    assert_int_equal(kz_sealed_fsck(opened.sealed, add_line, &lines, &err), KZ_CORRUPT);
    assert_string_equal(err.message,
            "sealed segment \"00000007.kzs\" is damaged: block 0 at byte 200 fails its checksum");
    opened.bytes.data[header->keys_offset + 3] ^= 1;
    assert_int_equal(kz_sealed_fsck(opened.sealed, add_line, &lines, &err), KZ_CORRUPT);
    assert_string_equal(err.message,
            "sealed segment \"00000007.kzs\" is damaged: a filter fails its checksum, and 1 more "
            "problems");
    kz_buf_char(&lines, 0);
    assert_string_equal(lines.data,
            "sealed segment \"00000007.kzs\" is damaged: block 0 at byte 200 fails its checksum\n"
            "sealed segment \"00000007.kzs\" is damaged: a filter fails its checksum\n"
            "sealed segment \"00000007.kzs\" is damaged: block 0 at byte 200 fails its checksum\n");
    kz_buf_done(&lines);
    opened_done(&opened);
    sample_done(&sample);
}

/* ---- writing -------------------------------------------------------------------------------- */

static void a_writer_takes_records_only_in_order(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    KZ_AUTO(kz_sealed_writer_freep) struct kz_sealed_writer *writer = NULL;
    struct kz_prng prng;
    struct sample sample;
    struct kz_sealed_params params;
    struct kz_err err;

    (void)state;
    kz_prng_init(&prng, 41);
    sample_start(&sample);
    sample_add(&sample, &prng, 5, KZ_RECORD_EVENT, 20);
    sample_add(&sample, &prng, 5, KZ_RECORD_EVENT, 20);
    sample_add(&sample, &prng, 4, KZ_RECORD_EVENT, 20);
    params = sample_params(&sample, fs);
    must(kz_sealed_writer_new(&params, &writer, &err), &err);
    must(kz_sealed_writer_add(writer, sample.items[1].lsn, sample.items[1].record, &err), &err);
    for (int i = 0; i < 3; i++)
        assert_int_equal(
                kz_sealed_writer_add(writer, sample.items[i].lsn, sample.items[i].record, &err),
                KZ_CORRUPT);
    assert_int_equal(
            kz_sealed_writer_add(writer, sample.end, sample.items[1].record, &err), KZ_CORRUPT);
    assert_true(kz_fs_exists(fs, "./00000007.kzs.tmp"));
    kz_sealed_writer_freep(&writer);
    assert_false(kz_fs_exists(fs, "./00000007.kzs.tmp"));
    assert_false(kz_fs_exists(fs, "./00000007.kzs"));
    sample_done(&sample);
}

/* Every call fails once, every call and all after it fail, and after each the power goes. Then the
 * name leads to a whole segment or to nothing, and to a whole one if the writer said so. */
static void the_name_never_leads_to_half_a_segment(void **state)
{
    struct kz_prng prng;
    struct sample sample;
    unsigned whole = 0, failed = 0;
    bool all_done = false;

    (void)state;
    kz_prng_init(&prng, 42);
    sample_random(&sample, &prng, 400, 20);
    for (unsigned nth = 1; !all_done; nth++) {
        for (unsigned round = 0; round < 8; round++) {
            KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(nth * 8 + round);
            struct kz_sealed_params params = sample_params(&sample, fs);
            struct kz_err err;
            enum kz_code rc;

            if (round % 2)
                kz_fs_sim_fail_once(fs, nth, KZ_IO);
            else
                kz_fs_sim_fail_from(fs, nth, KZ_IO);
            rc = seal(&sample, &params, &err);
            failed += rc != KZ_OK;
            all_done = rc == KZ_OK;
            kz_fs_sim_power_cut(fs, nth + round);
            if (kz_fs_exists(fs, "./00000007.kzs")) {
                struct opened opened;

                open_sample(fs, &opened);
                assert_clean(opened.sealed);
                assert_int_equal(kz_sealed_get_header(opened.sealed)->record_count, 400);
                opened_done(&opened);
                whole++;
            } else {
                assert_int_not_equal(rc, KZ_OK);
            }
        }
        assert_true(nth < 100);
    }
    assert_in_range(failed, 6 * 8, 99 * 8);
    assert_true(whole >= 8);
    sample_done(&sample);
}

static void only_sealed_names_are_taken_for_sealed(void **state)
{
    char name[KZ_SEALED_NAME_BYTES];
    uint32_t segment = 0;
    bool temporary = true;

    (void)state;
    kz_sealed_name(0xab, false, name);
    assert_string_equal(name, "000000ab.kzs");
    assert_true(kz_sealed_name_parse(name, &segment, &temporary));
    assert_int_equal(segment, 0xab);
    assert_false(temporary);
    kz_sealed_name(UINT32_MAX, true, name);
    assert_string_equal(name, "ffffffff.kzs.tmp");
    assert_true(kz_sealed_name_parse(name, &segment, &temporary));
    assert_int_equal(segment, UINT32_MAX);
    assert_true(temporary);
    assert_false(kz_sealed_name_parse("000000ab.kzl", &segment, &temporary));
    assert_false(kz_sealed_name_parse("000000AB.kzs", &segment, &temporary));
    assert_false(kz_sealed_name_parse("00000ab.kzs", &segment, &temporary));
    assert_false(kz_sealed_name_parse(" 00000ab.kzs", &segment, &temporary));
    assert_false(kz_sealed_name_parse("000000ab.kzs.bak", &segment, &temporary));
    assert_false(kz_sealed_name_parse("", &segment, &temporary));
}

/* ---- threads -------------------------------------------------------------------------------- */

struct reader {
    struct kz_thread thread;
    const struct sample *sample;
    const struct kz_sealed *sealed;
    uint64_t seed;
    size_t wrong;
};

static void read_much(void *arg)
{
    struct reader *reader = arg;
    struct kz_buf out = {0};
    struct kz_prng prng;
    struct kz_err err;

    kz_prng_init(&prng, reader->seed);
    for (int i = 0; i < 500; i++) {
        const struct item *item =
                &reader->sample->items[kz_prng_below(&prng, reader->sample->count)];
        struct kz_sealed_cursor cursor;
        const struct kz_record *record;
        bool found = false;
        kz_lsn lsn;

        kz_buf_clear(&out);
        if (kz_sealed_get(reader->sealed, item->lsn, item->record->owner, &out, &err) != KZ_OK ||
                !same_record((const void *)out.data, item->record))
            reader->wrong++;
        kz_sealed_seek(&cursor, reader->sealed, item->record->owner, item->lsn);
        if (kz_sealed_prev(&cursor, &lsn, &record, &err) != KZ_OK || lsn != item->lsn ||
                !same_record(record, item->record))
            reader->wrong++;
        kz_sealed_cursor_done(&cursor);
        if (item->record->key && (kz_sealed_find_key(reader->sealed, item->record->key,
                                          item->record->owner, NULL, NULL, &found, &err) != KZ_OK ||
                                         !found))
            reader->wrong++;
    }
    kz_buf_done(&out);
}

static void many_threads_read_one_segment(void **state)
{
    struct reader readers[4];
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;
    struct kz_err err;

    (void)state;
    kz_prng_init(&prng, 51);
    sample_random(&sample, &prng, 2000, 100);
    seal_and_open(&sample, &opened);
    for (unsigned i = 0; i < KZ_ARRAY_COUNT(readers); i++) {
        readers[i] = (struct reader){.sample = &sample, .sealed = opened.sealed, .seed = i};
        must(kz_thread_start(&readers[i].thread, "reader", read_much, &readers[i], &err), &err);
    }
    for (unsigned i = 0; i < KZ_ARRAY_COUNT(readers); i++) {
        kz_thread_join(&readers[i].thread);
        assert_int_equal(readers[i].wrong, 0);
    }
    opened_done(&opened);
    sample_done(&sample);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_sealed_segment_answers_as_the_plain_one),
            cmocka_unit_test(one_of_version_1_does_too),
            cmocka_unit_test(what_a_user_did_is_one_small_block),
            cmocka_unit_test(a_long_run_is_cut_and_continues),
            cmocka_unit_test(one_record_is_found_with_its_owner_or_without),
            cmocka_unit_test(a_key_is_found_and_a_foreign_one_is_not),
            cmocka_unit_test(a_scan_is_in_the_order_of_arrival),
            cmocka_unit_test(a_scan_goes_on_over_its_windows),
            cmocka_unit_test(the_oldest_of_a_chain_leads_to_an_earlier_segment),
            cmocka_unit_test(a_giant_record_has_its_own_block),
            cmocka_unit_test(a_sort_is_by_owner_and_then_by_arrival),
            cmocka_unit_test(an_erased_owner_is_gone_from_every_byte),
            cmocka_unit_test(a_segment_may_lose_all_its_records),
            cmocka_unit_test(any_damaged_byte_is_noticed),
            cmocka_unit_test(a_cut_file_is_noticed),
            cmocka_unit_test(a_newer_format_and_another_number_are_told_apart_from_damage),
            cmocka_unit_test(an_end_in_another_segment_is_damage),
            cmocka_unit_test(fsck_says_where_the_damage_is),
            cmocka_unit_test(a_writer_takes_records_only_in_order),
            cmocka_unit_test(the_name_never_leads_to_half_a_segment),
            cmocka_unit_test(only_sealed_names_are_taken_for_sealed),
            cmocka_unit_test(many_threads_read_one_segment),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
