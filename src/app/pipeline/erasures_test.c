#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "app/pipeline/erasures.h"
#include "sys/file_sim.h"

#define PATH "/data/erasures"

static const struct kz_erasure ann = {0x0123456789abcdefull, 1795491019534},
                               bob = {0xffull, 1795491019999};

static int set_up(void **state)
{
    struct kz_fs *fs = kz_fs_sim_new(1);

    assert_int_equal(fs->ops->mkdir(fs, "/data", NULL), KZ_OK);
    *state = fs;
    return 0;
}

static int tear_down(void **state)
{
    kz_fs_sim_free(*state);
    return 0;
}

static void put_text(struct kz_fs *fs, const char *text)
{
    assert_int_equal(kz_fs_replace(fs, PATH, text, strlen(text), NULL), KZ_OK);
}

static size_t read_all(struct kz_fs *fs, struct kz_erasure out[4])
{
    struct kz_buf buf = {0};
    size_t count;

    assert_int_equal(kz_erasures_read(fs, PATH, "shop", &buf, NULL), KZ_OK);
    count = buf.size / sizeof(*out);
    assert_true(count <= 4);
    if (count)
        memcpy(out, buf.data, buf.size);
    kz_buf_done(&buf);
    return count;
}

static void what_was_added_is_read_and_survives_a_power_cut(void **state)
{
    struct kz_fs *fs = *state;
    struct kz_erasure found[4];
    char project[64];

    assert_int_equal(kz_erasures_add(fs, PATH, "shop", &ann, 1, NULL), KZ_OK);
    assert_int_equal(kz_erasures_add(fs, PATH, "shop", &bob, 1, NULL), KZ_OK);
    kz_fs_sim_power_cut(fs, 3);
    assert_int_equal(read_all(fs, found), 2);
    assert_memory_equal(&found[0], &ann, sizeof(ann));
    assert_memory_equal(&found[1], &bob, sizeof(bob));
    assert_int_equal(kz_erasures_project(fs, PATH, project, NULL), KZ_OK);
    assert_string_equal(project, "shop");
}

static void a_line_cut_off_by_a_crash_hides_no_other(void **state)
{
    struct kz_fs *fs = *state;
    struct kz_erasure found[4];

    put_text(fs, "kizashi-erasures 1 shop\n0123456789abcdef 17954910");
    assert_int_equal(read_all(fs, found), 0);
    assert_int_equal(kz_erasures_add(fs, PATH, "shop", &bob, 1, NULL), KZ_OK);
    assert_int_equal(read_all(fs, found), 1);
    assert_memory_equal(&found[0], &bob, sizeof(bob));
}

static void a_damaged_line_is_passed_over(void **state)
{
    struct kz_fs *fs = *state;
    struct kz_erasure found[4];
    char *data;
    size_t size;

    assert_int_equal(kz_erasures_add(fs, PATH, "shop", &ann, 1, NULL), KZ_OK);
    assert_int_equal(kz_erasures_add(fs, PATH, "shop", &bob, 1, NULL), KZ_OK);
    assert_int_equal(kz_fs_read_all(fs, PATH, 1000, &data, &size, NULL), KZ_OK);
    data[strlen("kizashi-erasures 1 shop\n") + 3] ^= 1;
    put_text(fs, data);
    free(data);
    assert_int_equal(read_all(fs, found), 1);
    assert_memory_equal(&found[0], &bob, sizeof(bob));
}

static void another_projects_file_is_refused(void **state)
{
    struct kz_fs *fs = *state;
    struct kz_buf buf = {0};
    struct kz_err err;

    assert_int_equal(kz_erasures_read(fs, PATH, "shop", &buf, &err), KZ_NOT_FOUND);
    assert_int_equal(kz_erasures_add(fs, PATH, "shop", &ann, 1, NULL), KZ_OK);
    assert_int_equal(kz_erasures_read(fs, PATH, "sho", &buf, &err), KZ_CONFLICT);
    assert_string_equal(err.message, "\"/data/erasures\" is of project \"shop\", not \"sho\"");
    put_text(fs, "shopping list\n");
    assert_int_equal(kz_erasures_read(fs, PATH, "shop", &buf, &err), KZ_CORRUPT);
    assert_int_equal(buf.size, 0);
}

static void a_full_disk_leaves_what_was_there(void **state)
{
    struct kz_fs *fs = *state;
    struct kz_erasure found[4];

    assert_int_equal(kz_erasures_add(fs, PATH, "shop", &ann, 1, NULL), KZ_OK);
    kz_fs_sim_set_capacity(fs, kz_fs_sim_used_bytes(fs));
    assert_int_equal(kz_erasures_add(fs, PATH, "shop", &bob, 1, NULL), KZ_NO_SPACE);
    kz_fs_sim_set_capacity(fs, 1 << 20);
    assert_int_equal(kz_erasures_add(fs, PATH, "shop", &bob, 1, NULL), KZ_OK);
    assert_int_equal(read_all(fs, found), 2);
    assert_memory_equal(&found[0], &ann, sizeof(ann));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(
                    what_was_added_is_read_and_survives_a_power_cut, set_up, tear_down),
            cmocka_unit_test_setup_teardown(
                    a_line_cut_off_by_a_crash_hides_no_other, set_up, tear_down),
            cmocka_unit_test_setup_teardown(a_damaged_line_is_passed_over, set_up, tear_down),
            cmocka_unit_test_setup_teardown(another_projects_file_is_refused, set_up, tear_down),
            cmocka_unit_test_setup_teardown(a_full_disk_leaves_what_was_there, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
