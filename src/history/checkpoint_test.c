#include "codec/crc32c.h"
#include "history/checkpoint.h"
#include "history/fake_log.h"
#include "sys/clock.h"
#include "sys/file_sim.h"

#include <unistd.h>

static void fill(struct fake_log *log, int users)
{
    fake_open(log);
    for (int i = 0; i < users; i++) {
        char id[32];

        (void)snprintf(id, sizeof(id), "user-%d", i);
        fake_event(log, user_key(id), 1000 + i, 0, 0);
        fake_request(log, user_key(id), "buy");
        if (i % 3 == 0)
            fake_link(log, anon_key(id), user_key(id), KZ_IDENTITY_IDENTIFY, NULL);
    }
    fake_dead_letter(log, 0, KZ_STAGE_COLLECT);
    fake_control(log, "pause-model", "buy");
}

static void more(struct fake_log *log)
{
    fake_event(log, user_key("more"), 5, 0, 0);
}

static enum kz_code save(struct kz_fs *fs, const struct fake_log *log)
{
    struct kz_log_mark mark = {.position = kz_views_lsn(log->views) + 8};

    return kz_checkpoint_save(fs, "/", log->views, &mark, "shop", NULL, NULL, NULL);
}

struct listing {
    char names[16][64];
    size_t count;
};

static void each(void *arg, const char *entry)
{
    struct listing *listing = arg;

    assert_true(listing->count < 16);
    (void)snprintf(listing->names[listing->count++], 64, "%s", entry);
}

static struct listing list(struct kz_fs *fs)
{
    struct listing listing = {0};

    assert_int_equal(fs->ops->list(fs, "/", each, &listing, NULL), KZ_OK);
    return listing;
}

static void what_was_saved_is_loaded(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct fake_log log;
    struct kz_views *views = NULL;
    struct kz_checkpoint_info saved, loaded;
    struct kz_log_mark mark = {
            .position = KZ_LSN(3, 4096), .crc = 0xcafe1234, .log_id = "sixteen bytes..."};
    struct kz_err err = {0};

    (void)state;
    fill(&log, 1000);
    must(kz_checkpoint_save(fs, "/", log.views, &mark, "shop", NULL, &saved, &err), &err);
    must(kz_checkpoint_load(fs, "/", "shop", 8, &views, &loaded, &err), &err);
    assert_true(loaded.mark.position == KZ_LSN(3, 4096));
    assert_true(loaded.mark.crc == 0xcafe1234);
    assert_memory_equal(loaded.mark.log_id, "sixteen bytes...", 16);
    assert_int_equal(loaded.seq, log.seq);
    assert_int_equal(loaded.size_bytes, saved.size_bytes);
    assert_true(kz_views_hash(views) == kz_views_hash(log.views));
    must(kz_views_check(views, &err), &err);
    kz_views_free(views);
    fake_close(&log);
}

static void empty_views_are_saved_and_loaded(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct fake_log log;
    struct kz_views *views = NULL;
    struct kz_checkpoint_info info;
    struct kz_err err = {0};

    (void)state;
    fake_open(&log);
    assert_int_equal(kz_checkpoint_load(fs, "/", "shop", 8, &views, &info, &err), KZ_NOT_FOUND);
    assert_int_equal(save(fs, &log), KZ_OK);
    must(kz_checkpoint_load(fs, "/", "shop", 8, &views, &info, &err), &err);
    fake_replay(&log, 0, views);
    more(&log);
    fake_replay(&log, 0, views);
    assert_true(kz_views_hash(views) == kz_views_hash(log.views));
    kz_views_free(views);
    fake_close(&log);
}

static void the_newest_two_are_kept(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct kz_file *file = NULL;
    struct fake_log log;
    struct listing listing;

    (void)state;
    fake_open(&log);
    assert_int_equal(fs->ops->open(fs, "/ckpt-0000000000000001.kzc.tmp",
                             KZ_OPEN_WRITE | KZ_OPEN_CREATE, &file, NULL),
            KZ_OK);
    kz_file_close(file);
    for (int i = 0; i < 4; i++) {
        more(&log);
        assert_int_equal(save(fs, &log), KZ_OK);
    }
    listing = list(fs);
    assert_int_equal(listing.count, 2);
    assert_string_equal(listing.names[0], "ckpt-0000000000000003.kzc");
    assert_string_equal(listing.names[1], "ckpt-0000000000000004.kzc");
    fake_close(&log);
}

static void flip(struct kz_fs *fs, const char *path, uint64_t at)
{
    struct kz_file *file = NULL;
    unsigned char byte;

    assert_int_equal(fs->ops->open(fs, path, KZ_OPEN_READ | KZ_OPEN_WRITE, &file, NULL), KZ_OK);
    assert_int_equal(file->ops->pread(file, &byte, 1, at, NULL), KZ_OK);
    byte ^= 0x41;
    assert_int_equal(file->ops->pwrite(file, &byte, 1, at, NULL), KZ_OK);
    kz_file_close(file);
}

static void any_flipped_byte_is_noticed(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct fake_log log;
    struct kz_views *views = NULL;
    struct kz_checkpoint_info info = {0};
    struct kz_err err = {0};
    char path[80];
    uint64_t size;

    (void)state;
    fill(&log, 500);
    assert_int_equal(save(fs, &log), KZ_OK);
    (void)snprintf(path, sizeof(path), "/%s", list(fs).names[0]);
    must(kz_checkpoint_load(fs, "/", "shop", 8, &views, &info, &err), &err);
    kz_views_free(views);
    views = NULL;
    size = info.size_bytes;
    assert_true(size > 50000);
    for (uint64_t at = 0; at < size; at += at < 500 || at > size - 100 ? 1 : 101) {
        flip(fs, path, at);
        assert_int_equal(kz_checkpoint_load(fs, "/", "shop", 8, &views, &info, &err), KZ_CORRUPT);
        assert_null(views);
        flip(fs, path, at);
    }
    fake_close(&log);
}

static void a_file_of_any_shorter_length_is_refused(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct fake_log log;
    struct kz_views *views = NULL;
    struct kz_checkpoint_info info = {0};
    struct kz_file *file = NULL;
    char path[80];
    uint64_t size;

    (void)state;
    fill(&log, 50);
    assert_int_equal(save(fs, &log), KZ_OK);
    (void)snprintf(path, sizeof(path), "/%s", list(fs).names[0]);
    assert_int_equal(fs->ops->open(fs, path, KZ_OPEN_READ | KZ_OPEN_WRITE, &file, NULL), KZ_OK);
    assert_int_equal(file->ops->size(file, &size, NULL), KZ_OK);
    while (size > 0) {
        size -= KZ_MIN(size, (uint64_t)37);
        assert_int_equal(file->ops->truncate(file, size, NULL), KZ_OK);
        assert_int_equal(kz_checkpoint_load(fs, "/", "shop", 8, &views, &info, NULL), KZ_CORRUPT);
    }
    kz_file_close(file);
    fake_close(&log);
}

static void the_older_one_is_taken_where_the_newer_is_damaged(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct fake_log log;
    struct kz_views *views = NULL;
    struct kz_checkpoint_info info = {0};
    struct kz_err err = {0};
    char path[80];
    uint64_t older;
    kz_lsn position;

    (void)state;
    fill(&log, 50);
    older = log.seq;
    assert_int_equal(save(fs, &log), KZ_OK);
    must(kz_checkpoint_load(fs, "/", "shop", 8, &views, &info, &err), &err);
    position = info.mark.position;
    assert_true(info.position_before == position); /* there is no other to fall back to */
    kz_views_free(views);
    more(&log);
    assert_int_equal(save(fs, &log), KZ_OK);
    must(kz_checkpoint_load(fs, "/", "shop", 8, &views, &info, &err), &err);
    assert_true(info.mark.position > position);
    assert_true(info.position_before == position); /* so the log is to stay as it is from there */
    kz_views_free(views);
    (void)snprintf(path, sizeof(path), "/%s", list(fs).names[1]);
    flip(fs, path, 3000);
    must(kz_checkpoint_load(fs, "/", "shop", 8, &views, &info, &err), &err);
    assert_int_equal(info.seq, older);
    assert_true(info.fell_back);
    assert_non_null(strstr(info.warning, path + 1));
    fake_replay(&log, 0, views);
    assert_true(kz_views_hash(views) == kz_views_hash(log.views));
    kz_views_free(views);
    fake_close(&log);
}

static void another_projects_checkpoint_is_refused(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct fake_log log;
    struct kz_views *views = NULL;
    struct kz_checkpoint_info info = {0};
    struct kz_err err = {0};

    (void)state;
    fill(&log, 5);
    assert_int_equal(save(fs, &log), KZ_OK);
    assert_int_equal(kz_checkpoint_load(fs, "/", "bank", 8, &views, &info, &err), KZ_CONFLICT);
    assert_non_null(strstr(err.message, "of project \"shop\", not \"bank\""));
    fake_close(&log);
}

static void a_newer_format_is_refused_as_such(void **state)
{
    /* A header of version 9 and 24 bytes, with its CRC made here. */
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);

    unsigned char bytes[24] = "KZCKPT\r\n";
    struct kz_views *views = NULL;
    struct kz_checkpoint_info info = {0};
    struct kz_err err = {0};

    (void)state;
    kz_store_u32(bytes + 8, 9);
    kz_store_u32(bytes + 12, 24);
    kz_store_u32(bytes + 16, kz_crc32c(0, bytes, sizeof(bytes)));
    must(kz_fs_replace(fs, "/ckpt-0000000000000005.kzc", bytes, sizeof(bytes), &err), &err);
    assert_int_equal(kz_checkpoint_load(fs, "/", "shop", 8, &views, &info, &err), KZ_UNSUPPORTED);
    assert_non_null(strstr(err.message, "format 9"));
}

static void a_save_that_fails_anywhere_leaves_the_old_one_usable(void **state)
{
    bool saved = false;

    (void)state;
    for (uint64_t nth = 1; !saved; nth++) {
        for (int cut = 0; cut < 2; cut++) {
            KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(nth);
            struct fake_log log;
            struct kz_views *views = NULL;
            struct kz_checkpoint_info info = {0};
            struct kz_err err = {0};

            fill(&log, 20);
            assert_int_equal(save(fs, &log), KZ_OK);
            more(&log);
            kz_fs_sim_fail_from(fs, nth, nth % 2 ? KZ_IO : KZ_NO_SPACE);
            saved = save(fs, &log) == KZ_OK;
            kz_fs_sim_fail_from(fs, 0, KZ_OK);
            if (cut)
                kz_fs_sim_power_cut(fs, nth * 31);
            must(kz_checkpoint_load(fs, "/", "shop", 8, &views, &info, &err), &err);
            if (saved)
                assert_int_equal(info.seq, log.seq);
            fake_replay(&log, 0, views);
            assert_true(kz_views_hash(views) == kz_views_hash(log.views));
            kz_views_free(views);
            fake_close(&log);
        }
        assert_true(nth < 200);
    }
}

static double seconds_since(int64_t from_us)
{
    return (double)(kz_clock_us() - from_us) / 1e6;
}

static void a_million_users_fit_and_start_fast(void **state)
{
    struct kz_views *views = kz_views_new(0), *loaded = NULL;
    struct kz_checkpoint_info info = {0};
    struct kz_log_mark mark = {.position = 64};
    struct kz_err err = {0};
    char dir[] = "/tmp/kz-checkpoint-XXXXXX", command[64];
    enum { USERS = 1000000 };
    struct kz_buf bytes = {0};
    struct kz_record record = {.type = KZ_RECORD_EVENT};
    double save_s, load_s, apply_s;
    int64_t from;

    (void)state;
    assert_non_null(mkdtemp(dir));
    from = kz_clock_us();
    for (uint64_t i = 1; i <= 2 * USERS; i++) { /* an event and a timer for each */
        struct kz_trigger_body trigger = {
                .rule = 5, .op = KZ_TRIGGER_DELAY, .due_ms = 99, .event = i};
        char id[40];
        struct kz_event event = {.user_id = kz_str_n(id, 16), .name = KZ_STR("view"), .ts_ms = 1};

        (void)snprintf(id, sizeof(id), "user-%011llu", (unsigned long long)(i + 1) / 2);
        kz_buf_clear(&bytes);
        record.type = i % 2 ? KZ_RECORD_EVENT : KZ_RECORD_TRIGGER;
        kz_buf_put(&bytes, &record, sizeof(record));
        if (i % 2)
            kz_event_encode(&event, &bytes);
        else
            kz_buf_put(&bytes, &trigger, sizeof(trigger));
        ((struct kz_record *)bytes.data)->size = (uint32_t)bytes.size;
        ((struct kz_record *)bytes.data)->seq = i;
        ((struct kz_record *)bytes.data)->owner =
                kz_views_resolve(views, (struct kz_user_key){'u', event.user_id}).owner;
        must(kz_views_apply(views, 64 * i, (struct kz_record *)bytes.data, &err), &err);
    }
    apply_s = seconds_since(from);
    assert_int_equal(kz_views_stats(views).users, USERS);
    assert_true(kz_views_stats(views).bytes / USERS <= 220);
    from = kz_clock_us();
    must(kz_checkpoint_save(kz_fs_posix(), dir, views, &mark, "shop", NULL, &info, &err), &err);
    save_s = seconds_since(from);
    from = kz_clock_us();
    must(kz_checkpoint_load(kz_fs_posix(), dir, "shop", 0, &loaded, &info, &err), &err);
    load_s = seconds_since(from);
    assert_true(kz_views_hash(loaded) == kz_views_hash(views));
    print_message("1M users: %.0f B each, apply %.2f us a record, checkpoint %.0f MB, save %.2f s, "
                  "load %.3f s (%.1f GB/s)\n",
            (double)kz_views_stats(views).bytes / USERS, apply_s / (2.0 * USERS) * 1e6,
            (double)info.size_bytes / 1e6, save_s, load_s, (double)info.size_bytes / load_s / 1e9);
    (void)snprintf(command, sizeof(command), "rm -r %s", dir);
    assert_int_equal(system(command), 0);
    kz_buf_done(&bytes);
    kz_views_free(loaded);
    kz_views_free(views);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(what_was_saved_is_loaded),
            cmocka_unit_test(empty_views_are_saved_and_loaded),
            cmocka_unit_test(the_newest_two_are_kept),
            cmocka_unit_test(any_flipped_byte_is_noticed),
            cmocka_unit_test(a_file_of_any_shorter_length_is_refused),
            cmocka_unit_test(the_older_one_is_taken_where_the_newer_is_damaged),
            cmocka_unit_test(another_projects_checkpoint_is_refused),
            cmocka_unit_test(a_newer_format_is_refused_as_such),
            cmocka_unit_test(a_save_that_fails_anywhere_leaves_the_old_one_usable),
            cmocka_unit_test(a_million_users_fit_and_start_fast),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
