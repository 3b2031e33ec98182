/* The log over a disk that fails, is full, loses its power, or lies. */
#include "log/log_rig.h"

/* ---- power cuts -------------------------------------------------------------------------------
 */

static bool sealing(struct fixture *f, struct kz_prng *prng)
{
    struct kz_log_seal seal = {.below = kz_log_durable(f->log), .segments_max = 1};
    struct kz_err err;

    return kz_prng_below(prng, 20) == 0 && kz_log_seal(f->log, &seal, &err) != KZ_OK;
}

/* Writes frames without waiting until the power goes; gives the last seq that was durable. */
static uint64_t write_until_cut(struct fixture *f, struct kz_prng *prng, uint64_t seed)
{
    uint64_t frames = 1 + kz_prng_below(prng, 150);
    KZ_AUTO(kz_freep) kz_lsn *ends = kz_calloc(frames + 1, sizeof(*ends));
    KZ_AUTO(kz_freep) uint64_t *seqs = kz_calloc(frames + 1, sizeof(*seqs));
    uint64_t count = 1, acknowledged = 0;
    struct kz_err err;
    kz_lsn durable;

    ends[0] = kz_log_end(f->log);
    seqs[0] = kz_log_seq_last(f->log);
    for (uint64_t i = 0; i < frames; i++) {
        size_t size = kz_prng_below(prng, 4) ? kz_prng_below(prng, 700) : kz_prng_below(prng, 9000);

        f->now_ms++;
        if (append(f, 1 + kz_prng_below(prng, OWNERS), size, false, NULL, &err) != KZ_OK ||
                kz_log_commit(f->log, &err) != KZ_OK || sealing(f, prng))
            break;
        ends[count] = kz_log_end(f->log);
        seqs[count++] = kz_log_seq_last(f->log);
        if (kz_prng_below(prng, 10) == 0 && kz_log_wait(f->log, &err) != KZ_OK)
            break;
    }
    durable = kz_log_durable(f->log);
    if (seed % 4 == 0) {
        /* First the process alone dies: what a new one finds, it may answer for. */
        kz_fs_sim_crash(f->fs);
        close_log(f);
        f->threaded = false;
        open_log(f);
        assert_true(f->recovery.seq_last >= seqs[count - 1]);
        count = 1;
        ends[0] = kz_log_durable(f->log);
        durable = ends[0];
        seqs[0] = f->recovery.seq_last;
    }
    kz_fs_sim_power_cut(f->fs, seed * 31 + 7);
    for (uint64_t i = 0; i < count; i++) {
        if (ends[i] <= durable)
            acknowledged = seqs[i];
    }
    return acknowledged;
}

/* Recovers after 0 to 2 further power cuts in the middle of recovery. */
static enum kz_code recover_with_cuts(struct fixture *f, struct kz_prng *prng, struct kz_err *err)
{
    f->threaded = false;
    for (uint64_t again = kz_prng_below(prng, 3); again > 0; again--) {
        kz_fs_sim_fail_from(f->fs, 1 + kz_prng_below(prng, 40), KZ_IO);
        if (try_open(f, err) == KZ_OK)
            close_log(f);
        kz_fs_sim_power_cut(f->fs, kz_prng_u64(prng));
    }
    return try_open(f, err);
}

/* How many of `seeds` power cuts lost something that was durable, or left a log that is not clean.
 */
static unsigned power_cuts(uint64_t seeds, bool lie)
{
    unsigned bad = 0;

    for (uint64_t seed = 1; seed <= seeds; seed++) {
        struct fixture f = {.fs = new_sim(seed), .threaded = true};
        struct kz_prng prng;
        struct kz_err err = {0};
        uint64_t acknowledged = 0, told;
        bool lost = false;

        kz_prng_init(&prng, seed);
        for (int round = 0; round < 2 && !lost; round++) {
            f.threaded = true;
            kz_fs_sim_lie(f.fs, lie);
            if (try_open(&f, &err) != KZ_OK) {
                lost = true;
                break;
            }
            rebuild_heads(&f);
            told = write_until_cut(&f, &prng, seed + (uint64_t)round);
            acknowledged = KZ_MAX(acknowledged, told);
            close_log(&f);
            kz_fs_sim_lie(f.fs, false);
            if (recover_with_cuts(&f, &prng, &err) != KZ_OK) {
                lost = true;
                break;
            }
            lost = f.recovery.seq_last < acknowledged ||
                   count_records(f.log) != f.recovery.seq_last;
            close_log(&f);
            lost |= fsck(&f) != KZ_OK;
        }
        if (lost && !lie)
            print_message("seed %llu: %llu acknowledged, %llu found: %s\n",
                    (unsigned long long)seed, (unsigned long long)acknowledged,
                    (unsigned long long)f.recovery.seq_last, err.message);
        bad += lost;
        kz_fs_sim_free(f.fs);
    }
    return bad;
}

static void test_power_cuts_lose_nothing_durable(void **state)
{
    const char *seeds = getenv("KZ_SEEDS");

    (void)state;
    assert_int_equal(power_cuts(seeds ? strtoull(seeds, NULL, 10) : 1000, false), 0);
}

static void test_power_cuts_on_a_disk_that_lies_are_noticed(void **state)
{
    (void)state;
    assert_true(power_cuts(20, true) > 10);
}

/* ---- failures ---------------------------------------------------------------------------------
 */

/* A little life: rolls, seals, drops, reopens. Gives the seq up to which it was told "durable". */
static uint64_t live(struct fixture *f)
{
    uint64_t durable = 0;
    struct kz_log_seal seal = {.below = UINT64_MAX, .segments_max = 1};
    struct kz_err err;

    for (int round = 0; round < 2; round++) {
        if (try_open(f, &err) != KZ_OK)
            return durable;
        memset(f->heads, 0, sizeof(f->heads));
        if (kz_log_reader(f->log)->ops->scan_all(
                    kz_log_reader(f->log), 0, UINT64_MAX, take_head, f, &err) != KZ_OK) {
            close_log(f);
            return durable;
        }
        for (int i = 0; i < 12; i++) {
            f->now_ms++;
            if (append(f, 1, 9000, false, NULL, &err) != KZ_OK ||
                    kz_log_commit(f->log, &err) != KZ_OK)
                break;
            durable = kz_log_seq_last(f->log); /* sync_inline */
        }
        if (kz_log_seal(f->log, &seal, &err) != KZ_OK)
            f->seal_failures++; /* what it leaves is looked at below */
        close_log(f);
    }
    return durable;
}

static void fail_each_call(enum kz_code code, bool once, bool power_cut)
{
    for (uint64_t nth = 1;; nth++) {
        struct fixture f = {.fs = new_sim(nth)};
        uint64_t calls, durable;

        if (once)
            kz_fs_sim_fail_once(f.fs, nth, code);
        else
            kz_fs_sim_fail_from(f.fs, nth, code);
        durable = live(&f);
        calls = kz_fs_sim_calls(f.fs);
        kz_fs_sim_fail_from(f.fs, 0, KZ_OK);
        if (power_cut)
            kz_fs_sim_power_cut(f.fs, nth);
        open_log(&f);
        assert_true(f.recovery.seq_last >= durable);
        assert_int_equal(count_records(f.log), f.recovery.seq_last);
        close_log(&f);
        assert_int_equal(fsck(&f), KZ_OK);
        kz_fs_sim_free(f.fs);
        if (nth > calls)
            break;
        assert_true(nth < 5000);
    }
}

static void test_every_call_fails_in_turn(void **state)
{
    (void)state;
    fail_each_call(KZ_IO, false, false);
    fail_each_call(KZ_IO, false, true);
    fail_each_call(KZ_IO, true, true);
    fail_each_call(KZ_NO_SPACE, true, true);
}

static void test_failed_sync_stops_the_log_for_good(void **state)
{
    struct fixture f = {.fs = new_sim(11), .threaded = true};
    struct kz_err err = {0};
    kz_lsn durable;

    (void)state;
    open_log(&f);
    put(&f, 1, 100);
    must(kz_log_wait(f.log, &err), &err);
    durable = kz_log_durable(f.log);
    kz_fs_sim_fail_syncs(f.fs, true);
    put(&f, 1, 100);
    assert_int_equal(kz_log_wait(f.log, &err), KZ_IO);
    kz_fs_sim_fail_syncs(f.fs, false);
    assert_int_equal(kz_log_health(f.log, &err), KZ_IO);
    assert_int_equal(append(&f, 1, 100, false, NULL, &err), KZ_IO);
    assert_int_equal(kz_log_commit(f.log, &err), KZ_IO);
    assert_int_equal(kz_log_durable(f.log), durable);
    close_log(&f);
    kz_fs_sim_power_cut(f.fs, 1);
    f.threaded = false;
    open_log(&f);
    assert_in_range(f.recovery.seq_last, 1, 2);
    close_log(&f);
    kz_fs_sim_free(f.fs);
}

static void full_disk(bool threaded)
{
    struct fixture f = {.fs = new_sim(12), .threaded = threaded, .reserve = 512 << 10};
    struct kz_err err = {0};
    int64_t deadline_ms;
    uint64_t last;
    enum kz_code rc;

    kz_fs_sim_set_capacity(f.fs, 2 << 20);
    open_log(&f);
    for (;;) {
        f.now_ms++;
        rc = append(&f, 1, 5000, false, NULL, &err);
        if (rc != KZ_OK)
            break;
        must(kz_log_commit(f.log, &err), &err);
        assert_true(kz_log_seq_last(f.log) < 1000);
    }
    assert_int_equal(rc, KZ_NO_SPACE);
    assert_true(kz_log_no_space(f.log));
    assert_int_equal(kz_log_health(f.log, &err), KZ_OK);
    last = kz_log_seq_last(f.log);
    assert_true(last > 50);
    /* Results and decisions go on for most of what the reserve is worth. */
    for (int i = 0; i < 40; i++) {
        must(append(&f, 1, 5000, true, NULL, &err), &err);
        must(kz_log_commit(f.log, &err), &err);
        assert_int_equal(append(&f, 1, 5000, false, NULL, &err), KZ_NO_SPACE);
    }
    kz_fs_sim_set_capacity(f.fs, 16 << 20);
    deadline_ms = kz_mono_ms() + 60000;
    while (kz_log_no_space(f.log) && kz_mono_ms() < deadline_ms)
        usleep(1000);
    assert_false(kz_log_no_space(f.log));
    for (int i = 0; i < 40; i++)
        put(&f, 1, 5000);
    close_log(&f);
    open_log(&f);
    assert_int_equal(f.recovery.seq_last, last + 80);
    assert_int_equal(count_records(f.log), last + 80);
    close_log(&f);
    assert_int_equal(fsck(&f), KZ_OK);
    kz_fs_sim_free(f.fs);
}

static void test_full_disk_refuses_intake_and_recovers(void **state)
{
    (void)state;
    full_disk(false);
    full_disk(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_failed_sync_stops_the_log_for_good),
            cmocka_unit_test(test_full_disk_refuses_intake_and_recovers),
            cmocka_unit_test(test_every_call_fails_in_turn),
            cmocka_unit_test(test_power_cuts_on_a_disk_that_lies_are_noticed),
            cmocka_unit_test(test_power_cuts_lose_nothing_durable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
