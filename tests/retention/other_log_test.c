/* Checkpoints beside a log that they were not made of: a restore gone wrong, files copied by hand. The
 * log is what happened; what the checkpoints say of another is not believed.
 */
#include "rig.h"

static void views(struct rig *rig, const char *user, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        rig_send(rig, (struct sent){.user_id = user, .name = "view"});
        rig_wait(rig, 1000);
    }
}

static void live(struct rig *rig, uint64_t seed)
{
    *rig = (struct rig){.project = support_project, .now_ms = T0, .fs = kz_fs_sim_new(seed)};
    rig_open(rig);
}

static void remove_all(struct kz_fs *fs, const char *dir)
{
    struct rig_names names = {0};
    char path[128];

    assert_int_equal(fs->ops->list(fs, dir, rig_name, &names, NULL), KZ_OK);
    for (size_t i = 0; i < names.count; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names.names[i]);
        assert_int_equal(fs->ops->unlink(fs, path, NULL), KZ_OK);
    }
}

/* What an operator's cp does: the files of one log into the place of another. */
static void put_log(struct kz_fs *from, struct kz_fs *to)
{
    struct rig_names names = {0};
    char path[128], *data;
    struct kz_err err = {0};
    size_t size;

    if (kz_fs_exists(to, "/data/log"))
        remove_all(to, "/data/log");
    assert_int_equal(to->ops->mkdir(to, "/data", NULL), KZ_OK);
    assert_int_equal(to->ops->mkdir(to, "/data/log", NULL), KZ_OK);
    assert_int_equal(from->ops->list(from, "/data/log", rig_name, &names, NULL), KZ_OK);
    for (size_t i = 0; i < names.count; i++) {
        snprintf(path, sizeof(path), "/data/log/%s", names.names[i]);
        assert_int_equal(kz_fs_read_all(from, path, 1 << 30, &data, &size, &err), KZ_OK);
        assert_int_equal(kz_fs_replace(to, path, data, size, &err), KZ_OK);
        free(data);
    }
}

static bool knows(struct rig *rig, const char *user)
{
    return kz_views_resolve(rig->p->views, (struct kz_user_key){'u', kz_str(user)}).index != 0;
}

/* `rig` is closed and gets the log of `other`, which is closed, too: its state is that of the other
 * from the first start on, and after a start from the checkpoint that this one makes. */
static void is_the_others(struct rig *rig, const struct rig *other, uint64_t hash)
{
    put_log(other->fs, rig->fs);
    rig->now_ms = other->now_ms;
    rig_open(rig);
    assert_true(kz_views_hash(rig->p->views) == hash);
    rig_again(rig, false);
    views(rig, "later", 1);
    rig_again(rig, false);
    rig_again(rig, true);
    assert_true(knows(rig, "later"));
}

static void another_log_was_believed_to_be_the_checkpoints(void **state)
{
    struct rig rig, other;
    uint64_t hash;

    (void)state;
    live(&rig, 1);
    views(&rig, "ann", 5);
    rig_close(&rig);
    live(&other, 2);
    views(&other, "bob", 20); /* longer, so that the position is there, too */
    hash = kz_views_hash(other.p->views);
    rig_close(&other);
    is_the_others(&rig, &other, hash);
    assert_true(knows(&rig, "bob"));
    assert_false(knows(&rig, "ann"));
    rig_close(&rig);
    kz_fs_sim_free(rig.fs);
    kz_fs_sim_free(other.fs);
}

/* With fewer records: its own checkpoints have lower numbers than what is there. */
static void another_log_that_is_shorter_keeps_its_own_checkpoints(void **state)
{
    struct rig rig, other;
    uint64_t hash;

    (void)state;
    live(&rig, 3);
    views(&rig, "ann", 20);
    rig_again(&rig, false);
    views(&rig, "ann", 20);
    rig_close(&rig);
    live(&other, 4);
    views(&other, "bob", 3);
    hash = kz_views_hash(other.p->views);
    rig_close(&other);
    is_the_others(&rig, &other, hash);
    rig_close(&rig);
    kz_fs_sim_free(rig.fs);
    kz_fs_sim_free(other.fs);
}

static void the_same_log_of_before_with_another_future_was_believed(void **state)
{
    struct rig rig, other = {.project = support_project};
    uint64_t hash;

    (void)state;
    live(&rig, 5);
    views(&rig, "ann", 5);
    rig_close(&rig);
    other.fs = kz_fs_sim_new(6); /* a backup, as it were */
    other.now_ms = rig.now_ms;
    put_log(rig.fs, other.fs);
    rig_open(&rig);
    views(&rig, "eve", 5);
    rig_close(&rig);
    rig_open(&other);
    assert_true(knows(&other, "ann"));
    views(&other, "bob", 20);
    rig_upkeep(&other); /* a segment that is sealed has no commits to look at */
    views(&other, "bob", 20);
    assert_true(rig_counters(&other).log_segments_sealed > 0);
    hash = kz_views_hash(other.p->views);
    rig_close(&other);
    is_the_others(&rig, &other, hash);
    assert_true(knows(&rig, "bob"));
    assert_false(knows(&rig, "eve"));
    rig_close(&rig);
    kz_fs_sim_free(rig.fs);
    kz_fs_sim_free(other.fs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(another_log_was_believed_to_be_the_checkpoints),
            cmocka_unit_test(another_log_that_is_shorter_keeps_its_own_checkpoints),
            cmocka_unit_test(the_same_log_of_before_with_another_future_was_believed),
    };

    kz_diag_set(KZ_DIAG_ERROR, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
