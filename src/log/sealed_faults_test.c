/* Sealed segments that are damaged, half written, or read by many at once. */
#include "log/sealed_rig.h"

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
    header->version = 4;
    header->crc = kz_crc32c(0, header, offsetof(struct kz_sealed_header, crc));
    assert_int_equal(open_bytes(opened.bytes.data, opened.bytes.size, "00000007.kzs", &other, &err),
            KZ_UNSUPPORTED);
    assert_string_equal(
            err.message, "sealed segment \"00000007.kzs\" has format 4, this build reads up to 3");
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
