/* What a sealed segment answers, and what is left of it without some owners. */
#include "log/sealed_rig.h"

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
    assert_in_range(kz_sealed_get_header(opened.sealed)->block_count, blocks_min, blocks_max);
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
    answers_as_the_plain_one(3, 270, 400, 500);
}

static void one_of_an_older_version_does_too(void **state)
{
    (void)state;
    answers_as_the_plain_one(1, 30, 90, 0);
    answers_as_the_plain_one(2, 270, 400, 500);
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

static void keys_are_told_apart(uint32_t version)
{
    struct kz_prng prng;
    struct sample sample;
    struct opened opened;
    struct kz_err err;
    bool found;
    int asked = 0;

    kz_prng_init(&prng, 13);
    sample_random(&sample, &prng, 2000, 100);
    seal_and_open_version(&sample, version, &opened);
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

static void a_key_is_found_and_a_foreign_one_is_not(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= KZ_SEALED_VERSION; version++)
        keys_are_told_apart(version);
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
        entries[i] = (struct kz_sealed_entry){
                owner_number((unsigned)kz_prng_below(&prng, 700)), i, 0};
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

/* Everything a reader of the file could make out: the bytes, dictionary included, and all blocks
 * decompressed. */
static void everything_in(const struct opened *opened, struct kz_buf *out)
{
    KZ_AUTO(kz_zstd_freep) struct kz_zstd *zstd = kz_zstd_new(dictionary_of(opened), 1, 0);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_sealed_segment_answers_as_the_plain_one),
            cmocka_unit_test(one_of_an_older_version_does_too),
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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
