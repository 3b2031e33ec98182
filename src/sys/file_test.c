/* The real file system and the simulated one, by the same expectations; then what only the
 * simulated one can do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buf.h"
#include "sys/file_sim.h"
#include "sys/random.h"

enum { RW = KZ_OPEN_READ | KZ_OPEN_WRITE, NEW = KZ_OPEN_READ | KZ_OPEN_WRITE | KZ_OPEN_CREATE };

static struct kz_file *must_open(struct kz_fs *fs, const char *path, int flags)
{
    struct kz_file *file = NULL;
    struct kz_err err;

    if (fs->ops->open(fs, path, flags, &file, &err) != KZ_OK)
        fail_msg("%s", err.message);
    return file;
}

static void must_write(struct kz_file *file, const char *text, uint64_t offset)
{
    assert_int_equal(file->ops->pwrite(file, text, strlen(text), offset, NULL), KZ_OK);
}

static void append_name(void *arg, const char *name)
{
    kz_buf_printf(arg, "%s ", name);
}

static void assert_list(struct kz_fs *fs, const char *dir, const char *expected)
{
    struct kz_buf names = {0};

    assert_int_equal(fs->ops->list(fs, dir, append_name, &names, NULL), KZ_OK);
    kz_buf_char(&names, '\0');
    assert_string_equal(names.data, expected);
    kz_buf_done(&names);
}

static void assert_contents(struct kz_fs *fs, const char *path, const char *expected)
{
    KZ_AUTO(kz_freep) char *data = NULL;
    size_t size = 0;

    assert_int_equal(kz_fs_read_all(fs, path, 1 << 20, &data, &size, NULL), KZ_OK);
    assert_int_equal(size, strlen(expected));
    assert_string_equal(data, expected);
}

static void exercise_files(struct kz_fs *fs, const char *root)
{
    struct kz_buf path = {0};
    struct kz_file *file, *other = NULL;
    struct kz_err err;
    char data[8] = "";
    uint64_t size = 0;
    const void *map;

    kz_buf_printf(&path, "%s/a", root);
    assert_false(kz_fs_exists(fs, path.data));
    assert_int_equal(fs->ops->open(fs, path.data, RW, &other, &err), KZ_NOT_FOUND);
    file = must_open(fs, path.data, NEW | KZ_OPEN_EXCLUSIVE);
    assert_int_equal(
            fs->ops->open(fs, path.data, NEW | KZ_OPEN_EXCLUSIVE, &other, &err), KZ_CONFLICT);
    assert_int_equal(fs->ops->open(fs, root, KZ_OPEN_READ, &other, &err), KZ_INVALID);

    must_write(file, "hello", 3);
    assert_int_equal(file->ops->pread(file, data, 8, 0, &err), KZ_OK);
    assert_memory_equal(data, "\0\0\0hello", 8);
    assert_int_equal(file->ops->pread(file, data, 8, 1, &err), KZ_END);
    assert_int_equal(file->ops->size(file, &size, &err), KZ_OK);
    assert_int_equal(size, 8);

    assert_int_equal(file->ops->allocate(file, 10000, &err), KZ_OK);
    assert_int_equal(file->ops->allocate(file, 100, &err), KZ_OK);
    assert_int_equal(file->ops->size(file, &size, &err), KZ_OK);
    assert_int_equal(size, 10000);
    assert_int_equal(file->ops->map(file, 10000, &map, &err), KZ_OK);
    assert_memory_equal((const char *)map + 3, "hello", 6);
    must_write(file, "later", 9990);
    assert_memory_equal((const char *)map + 9990, "later", 5);
    file->ops->unmap(file, map, 10000);

    assert_int_equal(file->ops->truncate(file, 5, &err), KZ_OK);
    assert_int_equal(file->ops->truncate(file, 7, &err), KZ_OK);
    assert_int_equal(file->ops->pread(file, data, 7, 0, &err), KZ_OK);
    assert_memory_equal(data, "\0\0\0he\0\0", 7);
    assert_int_equal(file->ops->sync(file, &err), KZ_OK);

    other = must_open(fs, path.data, RW);
    assert_int_equal(file->ops->lock(file, &err), KZ_OK);
    assert_int_equal(other->ops->lock(other, &err), KZ_LOCKED);
    assert_non_null(strstr(err.message, "another process holds it"));
    kz_file_close(file);
    assert_int_equal(other->ops->lock(other, &err), KZ_OK);
    file = must_open(fs, path.data, KZ_OPEN_READ);
    assert_int_equal(file->ops->lock_shared(file, &err), KZ_LOCKED);
    kz_file_close(other);
    other = must_open(fs, path.data, RW);
    assert_int_equal(file->ops->lock_shared(file, &err), KZ_OK);
    assert_int_equal(other->ops->lock(other, &err), KZ_LOCKED);
    assert_int_equal(other->ops->lock_shared(other, &err), KZ_OK);
    kz_file_close(file);
    kz_file_close(other);
    other = must_open(fs, path.data, RW);
    assert_int_equal(other->ops->lock(other, &err), KZ_OK);
    kz_file_close(other);
    assert_true(kz_fs_exists(fs, path.data));
    kz_buf_done(&path);
}

static void exercise_names(struct kz_fs *fs, const char *root)
{
    KZ_AUTO(kz_freep) char *dir = kz_malloc(strlen(root) + 10);
    KZ_AUTO(kz_freep) char *x = kz_malloc(strlen(root) + 10);
    KZ_AUTO(kz_freep) char *y = kz_malloc(strlen(root) + 10);
    KZ_AUTO(kz_freep) char *data = NULL;
    struct kz_err err;
    uint64_t bytes = 0;
    size_t size;

    sprintf(dir, "%s/dir", root);
    sprintf(x, "%s/dir/x", root);
    sprintf(y, "%s/dir/y", root);
    assert_int_equal(fs->ops->list(fs, dir, append_name, NULL, &err), KZ_NOT_FOUND);
    assert_int_equal(fs->ops->mkdir(fs, dir, &err), KZ_OK);
    assert_int_equal(fs->ops->mkdir(fs, dir, &err), KZ_OK);
    assert_list(fs, dir, "");
    assert_int_equal(kz_fs_replace(fs, x, "first", 5, &err), KZ_OK);
    assert_int_equal(kz_fs_replace(fs, x, "second", 6, &err), KZ_OK);
    assert_contents(fs, x, "second");
    assert_list(fs, dir, "x ");
    assert_int_equal(kz_fs_replace(fs, y, "y", 1, &err), KZ_OK);
    assert_list(fs, dir, "x y ");
    assert_int_equal(fs->ops->rename(fs, x, y, &err), KZ_OK);
    assert_contents(fs, y, "second");
    assert_int_equal(fs->ops->rename(fs, x, y, &err), KZ_NOT_FOUND);
    assert_int_equal(kz_fs_read_all(fs, y, 5, &data, &size, &err), KZ_TOO_LARGE);
    assert_int_equal(fs->ops->unlink(fs, y, &err), KZ_OK);
    assert_int_equal(fs->ops->unlink(fs, y, &err), KZ_NOT_FOUND);
    assert_non_null(strstr(err.message, "/dir/y"));
    assert_int_equal(fs->ops->mkdir(fs, y, &err), KZ_OK);
    assert_int_equal(fs->ops->sync_dir(fs, dir, &err), KZ_OK);
    assert_int_equal(fs->ops->free_bytes(fs, dir, &bytes, &err), KZ_OK);
    assert_true(bytes > 0);
}

static void the_posix_file_system(void **state)
{
    char root[] = "/tmp/kz-file-test-XXXXXX";
    KZ_AUTO(kz_freep) char *command = kz_malloc(64);

    (void)state;
    assert_non_null(mkdtemp(root));
    exercise_files(kz_fs_posix(), root);
    exercise_names(kz_fs_posix(), root);
    sprintf(command, "rm -r %s", root);
    assert_int_equal(system(command), 0);
}

static void the_simulated_file_system(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);

    (void)state;
    assert_int_equal(fs->ops->mkdir(fs, "./root", NULL), KZ_OK);
    exercise_files(fs, "root");
    exercise_names(fs, "root//");
}

static void the_nth_call_fails_and_all_after_it(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct kz_file *file = must_open(fs, "f", NEW);
    struct kz_err err;
    char byte;

    (void)state;
    assert_int_equal(kz_fs_sim_calls(fs), 1);
    kz_fs_sim_fail_from(fs, 2, KZ_IO);
    must_write(file, "x", 0);
    assert_int_equal(file->ops->pread(file, &byte, 1, 0, &err), KZ_IO);
    assert_string_equal(err.message, "could not read \"f\": simulated failure of call 3");
    assert_int_equal(file->ops->sync(file, &err), KZ_IO);
    kz_fs_sim_fail_from(fs, 0, KZ_OK);
    assert_int_equal(file->ops->pread(file, &byte, 1, 0, &err), KZ_OK);
    kz_fs_sim_fail_once(fs, 1, KZ_NO_SPACE);
    assert_int_equal(file->ops->truncate(file, 0, &err), KZ_NO_SPACE);
    assert_int_equal(file->ops->truncate(file, 0, &err), KZ_OK);
    kz_file_close(file);
}

static void a_full_disk_takes_what_fits_and_recovers(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct kz_file *file = must_open(fs, "f", NEW);
    struct kz_file *other = must_open(fs, "g", NEW);
    uint64_t size = 0;
    struct kz_err err;

    (void)state;
    kz_fs_sim_set_capacity(fs, 1000);
    assert_int_equal(other->ops->allocate(other, 600, &err), KZ_OK);
    assert_int_equal(file->ops->allocate(file, 401, &err), KZ_NO_SPACE);
    assert_int_equal(file->ops->size(file, &size, &err), KZ_OK);
    assert_int_equal(size, 400);
    assert_int_equal(fs->ops->free_bytes(fs, ".", &size, &err), KZ_OK);
    assert_int_equal(size, 0);
    must_write(file, "inside", 0); /* no growth, no need of room */
    assert_int_equal(file->ops->pwrite(file, "x", 1, 400, &err), KZ_NO_SPACE);
    kz_file_close(other);
    assert_int_equal(fs->ops->unlink(fs, "g", &err), KZ_OK);
    must_write(file, "x", 400);
    assert_int_equal(kz_fs_sim_used_bytes(fs), 401);
    kz_file_close(file);
}

#ifndef KZ_FAULT_NO_FSYNC
static void what_was_synced_survives_and_the_rest_may_not(void **state)
{
    unsigned kept = 0, lost = 0, torn = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(seed);
        struct kz_file *file = must_open(fs, "f", NEW);
        char before[2048], after[2048];
        size_t news = 0;

        assert_int_equal(fs->ops->sync_dir(fs, ".", NULL), KZ_OK);
        memset(before, 'a', sizeof(before));
        assert_int_equal(file->ops->pwrite(file, before, sizeof(before), 0, NULL), KZ_OK);
        assert_int_equal(file->ops->sync(file, NULL), KZ_OK);
        memset(after, 'b', sizeof(after));
        assert_int_equal(file->ops->pwrite(file, after, 1536, 512, NULL), KZ_OK);
        kz_fs_sim_power_cut(fs, seed);
        assert_int_equal(file->ops->pread(file, after, 1, 0, NULL), KZ_IO);
        assert_int_equal(file->ops->sync(file, NULL), KZ_IO);
        kz_file_close(file);

        file = must_open(fs, "f", KZ_OPEN_READ);
        assert_int_equal(file->ops->pread(file, after, sizeof(after), 0, NULL), KZ_OK);
        kz_file_close(file);
        assert_memory_equal(after, before, 512);
        for (size_t sector = 1; sector < 4; sector++) {
            const char *at = after + sector * 512;

            assert_true(at[0] == 'a' || at[0] == 'b');
            assert_memory_equal(at, at + 256, 256); /* a sector is whole */
            news += at[0] == 'b';
        }
        kept += news == 3;
        lost += news == 0;
        torn += news == 1 || news == 2;
    }
    assert_true(kept > 40 && lost > 40 && torn > 20);
}

static void a_name_not_synced_may_be_lost_but_a_rename_is_whole(void **state)
{
    unsigned old = 0, new = 0, vanished = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 100; seed++) {
        KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(seed);
        KZ_AUTO(kz_freep) char *data = NULL;
        struct kz_file *file;
        size_t size;

        assert_int_equal(kz_fs_replace(fs, "f", "old", 3, NULL), KZ_OK);
        file = must_open(fs, "f.tmp", NEW);
        must_write(file, "new", 0);
        assert_int_equal(file->ops->sync(file, NULL), KZ_OK);
        kz_file_close(file);
        assert_int_equal(fs->ops->rename(fs, "f.tmp", "f", NULL), KZ_OK);
        kz_file_close(must_open(fs, "g", NEW));
        kz_fs_sim_power_cut(fs, seed);

        assert_int_equal(kz_fs_read_all(fs, "f", 10, &data, &size, NULL), KZ_OK);
        assert_true(strcmp(data, "old") == 0 || strcmp(data, "new") == 0);
        old += strcmp(data, "old") == 0;
        new += strcmp(data, "new") == 0;
        vanished += !kz_fs_exists(fs, "g");
    }
    assert_true(old > 20 && new > 20 && vanished > 20 && vanished < 80);
}

static void a_replaced_file_survives_every_power_cut(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 100; seed++) {
        KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(seed);

        assert_int_equal(kz_fs_replace(fs, "f", "old", 3, NULL), KZ_OK);
        kz_fs_sim_power_cut(fs, seed);
        assert_contents(fs, "f", "old");
        assert_int_equal(kz_fs_replace(fs, "f", "newer", 5, NULL), KZ_OK);
        kz_fs_sim_power_cut(fs, seed + 1);
        assert_contents(fs, "f", "newer");
    }
}

static void a_directory_that_was_lost_takes_its_files_along(void **state)
{
    unsigned lost = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(seed);

        assert_int_equal(fs->ops->mkdir(fs, "d", NULL), KZ_OK);
        assert_int_equal(kz_fs_replace(fs, "d/f", "x", 1, NULL), KZ_OK);
        kz_fs_sim_power_cut(fs, seed);
        if (kz_fs_exists(fs, "d/f")) {
            assert_contents(fs, "d/f", "x");
        } else {
            assert_list(fs, ".", "");
            lost++;
        }
    }
    assert_true(lost > 10 && lost < 40);
}

static void writes_under_a_failed_sync_can_be_read_but_may_never_be_durable(void **state)
{
    unsigned lost = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(seed);
        struct kz_file *file = must_open(fs, "f", NEW);
        uint64_t size = 0;

        assert_int_equal(fs->ops->sync_dir(fs, ".", NULL), KZ_OK);
        must_write(file, "x", 0);
        kz_fs_sim_fail_syncs(fs, true);
        assert_int_equal(file->ops->sync(file, NULL), KZ_IO);
        kz_fs_sim_fail_syncs(fs, false);
        assert_int_equal(file->ops->sync(file, NULL), KZ_OK);
        assert_int_equal(file->ops->size(file, &size, NULL), KZ_OK);
        assert_int_equal(size, 1);
        kz_file_close(file);
        kz_fs_sim_power_cut(fs, seed);
        file = must_open(fs, "f", KZ_OPEN_READ);
        assert_int_equal(file->ops->size(file, &size, NULL), KZ_OK);
        lost += size == 0;
        kz_file_close(file);
    }
    assert_true(lost > 10 && lost < 40);
}
#endif

static void a_disk_that_lies_about_syncs_loses_data(void **state)
{
    unsigned lost = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(seed);

        kz_fs_sim_lie(fs, true);
        assert_int_equal(kz_fs_replace(fs, "f", "x", 1, NULL), KZ_OK);
        kz_fs_sim_power_cut(fs, seed);
        lost += !kz_fs_exists(fs, "f");
    }
    assert_true(lost > 10);
}

static void a_crash_of_the_process_loses_nothing_written(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct kz_file *file = must_open(fs, "f", NEW);
    struct kz_file *after;

    (void)state;
    must_write(file, "written", 0);
    assert_int_equal(file->ops->lock(file, NULL), KZ_OK);
    kz_fs_sim_crash(fs);
    assert_int_equal(file->ops->sync(file, NULL), KZ_IO);
    assert_contents(fs, "f", "written");
    after = must_open(fs, "f", RW);
    assert_int_equal(after->ops->lock(after, NULL), KZ_OK);
    kz_file_close(file); /* the dead handle does not take the new one's lock along */
    file = must_open(fs, "f", RW);
    assert_int_equal(file->ops->lock(file, NULL), KZ_LOCKED);
    kz_file_close(file);
    kz_file_close(after);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(the_posix_file_system),
            cmocka_unit_test(the_simulated_file_system),
            cmocka_unit_test(the_nth_call_fails_and_all_after_it),
            cmocka_unit_test(a_full_disk_takes_what_fits_and_recovers),
#ifndef KZ_FAULT_NO_FSYNC
            cmocka_unit_test(what_was_synced_survives_and_the_rest_may_not),
            cmocka_unit_test(a_name_not_synced_may_be_lost_but_a_rename_is_whole),
            cmocka_unit_test(a_replaced_file_survives_every_power_cut),
            cmocka_unit_test(a_directory_that_was_lost_takes_its_files_along),
            cmocka_unit_test(writes_under_a_failed_sync_can_be_read_but_may_never_be_durable),
#endif
            cmocka_unit_test(a_disk_that_lies_about_syncs_loses_data),
            cmocka_unit_test(a_crash_of_the_process_loses_nothing_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
