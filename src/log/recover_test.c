/* The end of the log after a crash: what is cut, and what is refused. */
#include "log/log_rig.h"

static char *load(struct kz_fs *fs, const char *path, size_t *ret_size)
{
    struct kz_err err = {0};
    char *data;

    must(kz_fs_read_all(fs, path, 1 << 30, &data, ret_size, &err), &err);
    return data;
}

static void store(struct kz_fs *fs, const char *path, const void *data, size_t size, uint64_t at)
{
    KZ_AUTO(kz_file_closep) struct kz_file *file = NULL;
    struct kz_err err = {0};

    must(fs->ops->open(fs, path, KZ_OPEN_READ | KZ_OPEN_WRITE, &file, &err), &err);
    must(file->ops->pwrite(file, data, size, at, &err), &err);
    must(file->ops->sync(file, &err), &err);
}

static void test_torn_tail_is_cut_at_every_byte(void **state)
{
    struct fixture f = {.fs = new_sim(6)};
    static const char zeros[1000];
    KZ_AUTO(kz_freep) char *good = NULL;
    uint32_t from, until;
    size_t size;

    (void)state;
    open_log(&f);
    for (int i = 0; i < 9; i++)
        put(&f, 1, 100);
    from = KZ_LSN_OFFSET(kz_log_end(f.log));
    put(&f, 1, 300);
    until = KZ_LSN_OFFSET(kz_log_end(f.log));
    close_log(&f);
    good = load(f.fs, "log/00000001.kzl", &size);
    while (good[until - 1] == 0)
        until--; /* padding cannot be told from a hole */
    for (uint32_t at = from; at < until; at++) {
        store(f.fs, "log/00000001.kzl", good, size, 0);
        store(f.fs, "log/00000001.kzl", zeros, until - at, at);
        assert_int_equal(fsck(&f), KZ_OK);
        open_log(&f);
        assert_int_equal(f.recovery.seq_last, 9);
        assert_int_equal(KZ_LSN_OFFSET(f.recovery.end), from);
        assert_true(f.recovery.torn_bytes <= at - from + 8);
        assert_int_equal(count_records(f.log), 9);
        close_log(&f);
    }
    /* A flipped bit in the last frame is the same. */
    for (uint32_t at = from; at < until; at += 7) {
        char flipped = (char)(good[at] ^ 0x10);

        store(f.fs, "log/00000001.kzl", good, size, 0);
        store(f.fs, "log/00000001.kzl", &flipped, 1, at);
        open_log(&f);
        assert_int_equal(f.recovery.seq_last, 9);
        put(&f, 2, 50);
        assert_int_equal(count_records(f.log), 10);
        close_log(&f);
    }
    kz_fs_sim_free(f.fs);
}

static void test_stale_frame_behind_the_tail_is_no_frame(void **state)
{
    struct fixture f = {.fs = new_sim(7)};
    KZ_AUTO(kz_freep) char *before = NULL, *with_a = NULL;
    uint32_t a6;
    size_t size;

    (void)state;
    open_log(&f);
    for (int i = 0; i < 4; i++)
        put(&f, 1, 100);
    close_log(&f);
    before = load(f.fs, "log/00000001.kzl", &size);
    open_log(&f);
    put(&f, 1, 100);
    a6 = KZ_LSN_OFFSET(kz_log_end(f.log));
    put(&f, 1, 100);
    close_log(&f);
    with_a = load(f.fs, "log/00000001.kzl", &size);

    /* Another fifth frame of the same size, with the sixth of before behind it. */
    store(f.fs, "log/00000001.kzl", before, size, 0);
    open_log(&f);
    f.now_ms += 1000;
    put(&f, 2, 100);
    assert_int_equal(KZ_LSN_OFFSET(kz_log_end(f.log)), a6);
    close_log(&f);
    store(f.fs, "log/00000001.kzl", with_a + a6, size - a6, a6);
    open_log(&f);
    assert_int_equal(f.recovery.seq_last, 5);
    assert_true(f.recovery.torn_bytes > 0);
    close_log(&f);
    kz_fs_sim_free(f.fs);
}

static void test_damage_before_durable_frames_is_never_cut(void **state)
{
    struct fixture f = {.fs = new_sim(8)};
    KZ_AUTO(kz_freep) char *good = NULL, *after = NULL;
    struct kz_err err = {0};
    kz_lsn ends[400];
    size_t size, size_after;
    int count = 0;

    (void)state;
    open_log(&f);
    for (count = 0; count < 400; count++) {
        put(&f, 1, 200);
        ends[count] = kz_log_end(f.log);
    }
    close_log(&f);
    good = load(f.fs, "log/00000001.kzl", &size);
    for (int i = 0; i < 60; i++) {
        uint32_t at = KZ_LSN_OFFSET(ends[i]) + (uint32_t)(i * 3 % 200);
        char flipped = (char)(good[at] ^ 1);

        if (flipped == 1)
            continue; /* padding may be anything? it is under the crc as well, but 0 -> 1 is, too */
        store(f.fs, "log/00000001.kzl", &flipped, 1, at);
        assert_int_equal(try_open(&f, &err), KZ_CORRUPT);
        assert_non_null(strstr(err.message, "00000001.kzl"));
        assert_non_null(strstr(err.hint, "fsck"));
        after = load(f.fs, "log/00000001.kzl", &size_after);
        assert_memory_equal(after + at + 1, good + at + 1, size - at - 1);
        free(kz_take(&after));
        assert_int_equal(kz_log_fsck(f.fs, "log", NULL, NULL, &(uint64_t){0}, &err), KZ_CORRUPT);
        store(f.fs, "log/00000001.kzl", good, size, 0);
    }
    /* A whole segment gone, a header gone, and a checkpoint that knows more than the log. */
    must(f.fs->ops->rename(f.fs, "log/00000002.kzl", "log/away", &err), &err);
    assert_int_equal(try_open(&f, &err), KZ_CORRUPT);
    must(f.fs->ops->rename(f.fs, "log/away", "log/00000002.kzl", &err), &err);
    store(f.fs, "log/00000001.kzl", "\0\0\0\0", 4, 0);
    assert_int_equal(try_open(&f, &err), KZ_CORRUPT);
    store(f.fs, "log/00000001.kzl", good, size, 0);
    open_log(&f);
    assert_int_equal(count_records(f.log), 400);
    close_log(&f);
    kz_fs_sim_free(f.fs);
}

static void test_log_that_ends_before_its_checkpoint_is_refused(void **state)
{
    struct fixture f = {.fs = new_sim(9)};
    struct kz_log_options options = {
            .fs = f.fs, .dir = "log", .segment_size_bytes = SEGMENT, .sync_inline = true};
    struct kz_err err = {0};

    (void)state;
    open_log(&f);
    put(&f, 1, 200);
    options.covered = kz_log_mark(f.log);
    close_log(&f);
    must(kz_log_open(&options, &f.log, &f.recovery, &err), &err);
    close_log(&f);
    options.covered.position += 8;
    assert_int_equal(kz_log_open(&options, &f.log, &f.recovery, &err), KZ_CORRUPT);
    kz_fs_sim_free(f.fs);
}

static void test_log_whose_files_are_gone_is_not_begun_anew_under_its_checkpoint(void **state)
{
    struct fixture f = {.fs = new_sim(11)};
    struct kz_log_options options = {
            .fs = f.fs, .dir = "log", .segment_size_bytes = SEGMENT, .sync_inline = true};
    struct kz_err err = {0};
    bool exists;

    (void)state;
    open_log(&f);
    for (uint64_t i = 0; i < 20; i++)
        put(&f, 1 + i % OWNERS, 100);
    options.covered = kz_log_mark(f.log);
    close_log(&f);
    must(f.fs->ops->rename(f.fs, "log/00000001.kzl", "log/away", &err), &err);
    assert_int_equal(kz_log_open(&options, &f.log, &f.recovery, &err), KZ_CORRUPT);
    assert_non_null(strstr(err.message, "segment 00000001 is missing from \"log\""));
    exists = kz_fs_exists(f.fs, "log/00000001.kzl");
    assert_false(exists);
    must(f.fs->ops->rename(f.fs, "log/away", "log/00000001.kzl", &err), &err);
    must(kz_log_open(&options, &f.log, &f.recovery, &err), &err);
    assert_int_equal(count_records(f.log), 20);
    close_log(&f);
    kz_fs_sim_free(f.fs);
}

static enum kz_code open_covered(struct fixture *f, struct kz_log_mark mark, struct kz_err *err)
{
    struct kz_log_options options = {.fs = f->fs,
            .dir = "log",
            .segment_size_bytes = SEGMENT,
            .sync_inline = true,
            .covered = mark};

    return kz_log_open(&options, &f->log, &f->recovery, err);
}

static void test_log_with_another_past_was_believed_beside_a_checkpoint(void **state)
{
    struct fixture f = {.fs = new_sim(13)};
    KZ_AUTO(kz_freep) char *copy = NULL, *now = NULL;
    struct kz_log_mark mark, another;
    struct kz_err err = {0};
    size_t size, size_now;

    (void)state;
    open_log(&f);
    for (int i = 0; i < 4; i++)
        put(&f, 1, 100);
    close_log(&f);
    copy = load(f.fs, "log/00000001.kzl", &size);
    open_log(&f);
    put(&f, 1, 100);
    put(&f, 1, 100);
    mark = kz_log_mark(f.log);
    put(&f, 1, 100);
    close_log(&f);
    must(open_covered(&f, mark, &err), &err); /* the same log, longer */
    close_log(&f);

    /* A copy from before, with other events since, of the same sizes and of others. */
    store(f.fs, "log/00000001.kzl", copy, size, 0);
    open_log(&f);
    f.now_ms += 1000;
    for (int i = 0; i < 5; i++)
        put(&f, 2, 100);
    close_log(&f);
    free(kz_take(&copy));
    copy = load(f.fs, "log/00000001.kzl", &size);
    assert_int_equal(open_covered(&f, mark, &err), KZ_CONFLICT);
    assert_non_null(strstr(err.message, "is not the one known up to 00000001:"));
    another = mark;
    another.position += 8; /* no commit ends there */
    assert_int_equal(open_covered(&f, another, &err), KZ_CONFLICT);
    another = mark;
    another.log_id[3] ^= 1;
    another.position = KZ_LSN(7, 4096); /* however far it went */
    assert_int_equal(open_covered(&f, another, &err), KZ_CONFLICT);
    assert_non_null(strstr(err.message, "another log"));
    now = load(f.fs, "log/00000001.kzl", &size_now);
    assert_int_equal(size_now, size);
    assert_memory_equal(now, copy, size);
    kz_fs_sim_free(f.fs);
}

static void test_mark_in_a_sealed_segment_holds_at_its_end_only(void **state)
{
    struct fixture f = {.fs = new_sim(14)};
    struct kz_log_mark end, middle;
    struct kz_log_seal seal = {.segments_max = 9};
    struct kz_err err = {0};

    (void)state;
    open_log(&f);
    put(&f, 1, 100);
    middle = kz_log_mark(f.log);
    put(&f, 1, 100);
    end = kz_log_mark(f.log);
    kz_log_roll(f.log);
    put(&f, 1, 100);
    seal.below = kz_log_end(f.log);
    must(kz_log_seal(f.log, &seal, &err), &err);
    assert_int_equal(seal.ret_sealed, 1);
    close_log(&f);
    must(open_covered(&f, end, &err), &err);
    close_log(&f);
    assert_int_equal(open_covered(&f, middle, &err), KZ_CONFLICT);
    end.crc++;
    assert_int_equal(open_covered(&f, end, &err), KZ_CONFLICT);
    kz_fs_sim_free(f.fs);
}

static void test_fsck_sees_that_the_only_header_is_damaged(void **state)
{
    struct fixture f = {.fs = new_sim(12)};
    struct kz_err err = {0};
    uint64_t records = 0;

    (void)state;
    open_log(&f);
    for (uint64_t i = 0; i < 20; i++)
        put(&f, 1 + i % OWNERS, 100);
    close_log(&f);
    must(kz_log_fsck(f.fs, "log", NULL, NULL, &records, &err), &err);
    assert_int_equal(records, 20);
    store(f.fs, "log/00000001.kzl", "\1\2\3\4", 4, 0);
    assert_int_equal(kz_log_fsck(f.fs, "log", NULL, NULL, &records, &err), KZ_CORRUPT);
    kz_fs_sim_free(f.fs);
}

struct told {
    char lines[8][300];
    size_t count;
};

static void tell(void *arg, const char *line)
{
    struct told *told = arg;

    if (told->count < KZ_ARRAY_COUNT(told->lines))
        snprintf(told->lines[told->count], sizeof(told->lines[0]), "%s", line);
    told->count++;
}

static void one_problem(struct fixture *f, const char *text)
{
    struct told told = {0};
    struct kz_err err = {0};
    uint64_t records;

    if (kz_log_fsck(f->fs, "log", tell, &told, &records, &err) != KZ_CORRUPT)
        fail_msg("nobody says \"%s\"", text);
    for (size_t i = 1; i < KZ_MIN(told.count, KZ_ARRAY_COUNT(told.lines)); i++)
        print_message("and: %s\n", told.lines[i]);
    assert_non_null(strstr(told.lines[0], text));
    assert_int_equal(told.count, 1);
}

static void test_fsck_told_the_consequences_of_a_damage_as_problems(void **state)
{
    struct fixture f = {.fs = new_sim(15)};
    struct kz_log_seal seal = {.segments_max = 1};
    KZ_AUTO(kz_freep) char *second = NULL;
    struct kz_err err = {0};
    size_t size;

    (void)state;
    open_log(&f);
    for (uint64_t i = 0; i < 800; i++)
        put(&f, 1 + i % OWNERS, 200);
    seal.below = KZ_LSN(2, 0);
    must(kz_log_seal(f.log, &seal, &err), &err);
    assert_true(KZ_LSN_SEGMENT(kz_log_end(f.log)) >= 4);
    close_log(&f);
    second = load(f.fs, "log/00000002.kzl", &size);

    /* Twenty frames of all users: their next records name those that are lost. */
    store(f.fs, "log/00000002.kzl", "\0\0\0\0\0\0\0\0", 8, 20000);
    one_problem(&f, "00000002.kzl: damaged at byte ");
    for (uint64_t at = 20000; at < 28000; at += 8)
        store(f.fs, "log/00000002.kzl", "damaged!", 8, at);
    one_problem(&f, "00000002.kzl: damaged at byte ");
    store(f.fs, "log/00000002.kzl", second, size, 0);
    /* Up to its end, so that the next segment follows nothing. */
    for (uint64_t at = 30000; at < size; at += 8)
        store(f.fs, "log/00000002.kzl", "damaged!", 8, at);
    one_problem(&f, "00000002.kzl: damaged at byte ");
    store(f.fs, "log/00000002.kzl", second, size, 0);
    /* A header. */
    store(f.fs, "log/00000002.kzl", "\1\2\3\4", 4, 0);
    one_problem(&f, "00000002.kzl: its header cannot be read");
    store(f.fs, "log/00000002.kzl", second, size, 0);
    store(f.fs, "log/00000003.kzl", "\1\2\3\4", 4, 0);
    one_problem(&f, "00000003.kzl: its header cannot be read");
    must(f.fs->ops->unlink(f.fs, "log/00000003.kzl", &err), &err);
    one_problem(&f, "segment 00000003 is missing");
    must(f.fs->ops->unlink(f.fs, "log/00000002.kzl", &err), &err);
    one_problem(&f, "segments 00000002 to 00000003 are missing");
    kz_fs_sim_free(f.fs);
}

static void test_fsck_tells_of_one_damaged_block_of_a_sealed_segment(void **state)
{
    struct fixture f = {.fs = new_sim(16)};
    struct kz_log_seal seal = {.segments_max = 1};
    struct kz_err err = {0};

    (void)state;
    open_log(&f);
    for (uint64_t i = 0; i < 800; i++)
        put(&f, 1 + i % OWNERS, 200);
    seal.below = KZ_LSN(2, 0);
    must(kz_log_seal(f.log, &seal, &err), &err);
    close_log(&f);
    store(f.fs, "log/00000001.kzs", "damaged!", 8, 3000);
    one_problem(&f, "00000001.kzs");
    kz_fs_sim_free(f.fs);
}

static void test_locked_and_newer_logs_are_refused(void **state)
{
    struct fixture f = {.fs = new_sim(10)};
    struct fixture other = {.fs = f.fs};
    struct kz_segment_header header;
    struct kz_err err = {0};
    KZ_AUTO(kz_freep) char *data = NULL;
    char pid[32];
    size_t size;

    (void)state;
    open_log(&f);
    put(&f, 1, 200);
    assert_int_equal(try_open(&other, &err), KZ_LOCKED);
    snprintf(pid, sizeof(pid), "process %d", (int)getpid());
    assert_non_null(strstr(err.message, pid));
    close_log(&f);

    data = load(f.fs, "log/00000001.kzl", &size);
    memcpy(&header, data, sizeof(header));
    header.format = KZ_LOG_FORMAT + 1;
    store(f.fs, "log/00000001.kzl", &header, sizeof(header), 0);
    assert_int_equal(try_open(&f, &err), KZ_UNSUPPORTED);
    kz_fs_sim_free(f.fs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_torn_tail_is_cut_at_every_byte),
            cmocka_unit_test(test_stale_frame_behind_the_tail_is_no_frame),
            cmocka_unit_test(test_damage_before_durable_frames_is_never_cut),
            cmocka_unit_test(test_log_that_ends_before_its_checkpoint_is_refused),
            cmocka_unit_test(test_log_whose_files_are_gone_is_not_begun_anew_under_its_checkpoint),
            cmocka_unit_test(test_log_with_another_past_was_believed_beside_a_checkpoint),
            cmocka_unit_test(test_mark_in_a_sealed_segment_holds_at_its_end_only),
            cmocka_unit_test(test_fsck_sees_that_the_only_header_is_damaged),
            cmocka_unit_test(test_fsck_told_the_consequences_of_a_damage_as_problems),
            cmocka_unit_test(test_fsck_tells_of_one_damaged_block_of_a_sealed_segment),
            cmocka_unit_test(test_locked_and_newer_logs_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
