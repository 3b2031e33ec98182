/* The log as it is used: reopened, read, dropped, backed up, beside readers and upkeep. */
#include "codec/crc32c.h"
#include "log/log_rig.h"

/* ---- the ordinary -----------------------------------------------------------------------------
 */

static void test_reopened_log_has_everything(void **state)
{
    struct fixture f = {.fs = new_sim(1)};

    (void)state;
    open_log(&f);
    assert_int_equal(f.recovery.seq_last, 0);
    for (int i = 0; i < 1000; i++)
        put(&f, 1 + (uint64_t)i % OWNERS, 100 + (size_t)i % 700);
    assert_int_equal(count_records(f.log), 1000);
    assert_int_equal(kz_log_durable(f.log), kz_log_end(f.log));
    close_log(&f);

    open_log(&f);
    assert_int_equal(f.recovery.seq_last, 1000);
    assert_int_equal(f.recovery.torn_bytes, 0);
    assert_true(f.recovery.segment_count > 3);
    assert_int_equal(count_records(f.log), 1000);
    for (int i = 0; i < 100; i++)
        put(&f, 1, 100);
    assert_int_equal(count_records(f.log), 1100);
    rebuild_heads(&f);
    assert_int_equal(history_count(&f, 1, 0), 143 + 100);
    assert_int_equal(history_count(&f, 1, 50), 50);
    assert_int_equal(history_count(&f, 2, 0), 143);
    close_log(&f);
    kz_fs_sim_free(f.fs);
}

static void test_find_key_sees_staged_written_and_sealed(void **state)
{
    struct fixture f = {.fs = new_sim(2)};
    struct kz_log_seal seal = {.below = UINT64_MAX, .segments_max = 2};
    struct kz_err err = {0};
    kz_lsn lsn;
    bool found;

    (void)state;
    open_log(&f);
    for (int i = 0; i < 500; i++)
        put(&f, 1, 400);
    must(kz_log_seal(f.log, &seal, &err), &err);
    assert_int_equal(seal.ret_sealed, 2);
    for (uint64_t seq = 1; seq <= 502; seq++) {
        must(kz_log_find_key(f.log, key_of(seq), 1, INT64_MIN, NULL, NULL, &found, &err), &err);
        assert_int_equal(found, seq <= 500);
    }
    must(append(&f, 1, 10, false, &lsn, &err), &err);
    must(kz_log_find_key(f.log, key_of(501), 1, INT64_MIN, NULL, NULL, &found, &err), &err);
    assert_true(found);
    assert_int_equal(kz_log_get_staged(f.log, lsn)->seq, 501);
    kz_fs_sim_crash(f.fs); /* it was staged and no more */
    close_log(&f);

    open_log(&f);
    assert_int_equal(f.recovery.sealed_count, 2);
    assert_int_equal(f.recovery.seq_last, 500);
    for (uint64_t seq = 1; seq <= 501; seq++) {
        must(kz_log_find_key(f.log, key_of(seq), 1, INT64_MIN, NULL, NULL, &found, &err), &err);
        assert_int_equal(found, seq <= 500);
    }
    rebuild_heads(&f);
    assert_int_equal(history_count(&f, 1, 0), 500);
    close_log(&f);
    assert_int_equal(fsck(&f), KZ_OK);
    kz_fs_sim_free(f.fs);
}

static void test_dropped_segments_end_the_chains(void **state)
{
    struct fixture f = {.fs = new_sim(14)};
    struct kz_log_seal seal = {.below = UINT64_MAX, .segments_max = 1};
    struct kz_err err = {0};
    kz_lsn heads[OWNERS + 1];
    size_t count, left;

    (void)state;
    open_log(&f);
    for (int i = 0; i < 800; i++)
        put(&f, 1 + (uint64_t)i % OWNERS, 300);
    memcpy(heads, f.heads, sizeof(heads));
    must(kz_log_seal(f.log, &seal, &err), &err);
    must(kz_log_drop(f.log, KZ_LSN(4, 0), &err), &err);
    free(kz_log_segments(f.log, &count));
    left = history_count(&f, 1, 0);
    assert_in_range(left, 10, 100);
    close_log(&f);
    kz_fs_sim_power_cut(f.fs, 1);
    assert_int_equal(fsck(&f), KZ_OK);
    open_log(&f);
    assert_int_equal(f.recovery.seq_last, 800);
    assert_int_equal(f.recovery.segment_count, count);
    memcpy(f.heads, heads, sizeof(heads));
    assert_int_equal(history_count(&f, 1, 0), left);
    close_log(&f);
    kz_fs_sim_free(f.fs);
}

static void test_full_frame_is_committed_and_tried_again(void **state)
{
    struct fixture f = {.fs = new_sim(3)};
    struct kz_err err = {0};
    uint64_t room;
    int count = 0;

    (void)state;
    open_log(&f);
    room = kz_log_room(f.log);
    assert_int_equal(room, SEGMENT / 2 - sizeof(struct kz_frame));
    /* One that fits only a segment of its own, and one that fits none. */
    must(append(&f, 1, SEGMENT / 4 * 3, false, NULL, &err), &err);
    assert_int_equal(append(&f, 2, SEGMENT / 4, false, NULL, &err), KZ_FULL);
    must(kz_log_commit(f.log, &err), &err);
    assert_int_equal(append(&f, 2, SEGMENT, false, NULL, &err), KZ_TOO_LARGE);
    assert_int_equal(append(&f, 2, KZ_LOG_FRAME_SIZE_MAX, false, NULL, &err), KZ_TOO_LARGE);
    for (enum kz_code rc = KZ_OK; rc == KZ_OK; count++) {
        if (count && kz_log_room(f.log) < 1000 + 200)
            break;
        rc = append(&f, 2, 1000, false, NULL, &err);
    }
    assert_in_range(count, 20, 70);
    must(kz_log_commit(f.log, &err), &err);
    close_log(&f);
    assert_int_equal(fsck(&f), KZ_OK);
    kz_fs_sim_free(f.fs);
}

/* ---- histories --------------------------------------------------------------------------------
 */

static kz_lsn put_event(struct fixture *f, uint64_t owner, int64_t ts_ms, uint8_t flags)
{
    struct kz_buf body = {0};
    struct kz_err err = {0};
    uint64_t seq = kz_log_seq_last(f->log) + 1;
    struct kz_log_entry entry = {
            .type = KZ_RECORD_EVENT,
            .flags = flags,
            .owner = owner,
            .prev = f->heads[owner],
            .at_ms = f->now_ms,
    };

    event_body(&body, seq, ts_ms, 20);
    entry.body = kz_buf_view(&body);
    must(kz_log_append(f->log, &entry, &f->heads[owner], &seq, &err), &err);
    must(kz_log_commit(f->log, &err), &err);
    kz_buf_done(&body);
    return f->heads[owner];
}

static void test_history_is_merged_limited_and_as_of(void **state)
{
    struct fixture f = {.fs = new_sim(4), .now_ms = 100 * 3600 * 1000};
    struct kz_history_reader *reader;
    struct kz_source sources[2];
    struct kz_history_query query = {
            .sources = sources, .source_count = 2, .as_of = UINT64_MAX, .since_ms = INT64_MIN};
    struct kz_history_rows rows;
    struct kz_err err = {0};
    kz_lsn lsns[10];

    (void)state;
    open_log(&f);
    reader = kz_log_reader(f.log);
    for (int i = 0; i < 10; i++)
        lsns[i] = put_event(&f, 1 + (uint64_t)i % 2, f.now_ms + (i == 7 ? -5000 : i),
                i == 4 ? KZ_EVENT_ACTION : 0);
    sources[0] = (struct kz_source){1, f.heads[1]};
    sources[1] = (struct kz_source){2, f.heads[2]};

    must(reader->ops->scan(reader, &query, &rows, &err), &err);
    assert_int_equal(rows.count, 9); /* the action is hidden */
    assert_false(rows.truncated);
    assert_int_equal(rows.lsns[0], lsns[0]);
    assert_int_equal(rows.lsns[4], lsns[5]);
    assert_int_equal(rows.lsns[8], lsns[9]);
    reader->ops->release(reader, &rows);

    query.include_actions = true;
    query.as_of = lsns[8];
    query.events_max = 3;
    query.since_ms = f.now_ms;
    must(reader->ops->scan(reader, &query, &rows, &err), &err);
    assert_int_equal(rows.count, 3); /* 8, 6, 5: 9 is later, 7 happened before since_ms */
    assert_true(rows.truncated);
    assert_int_equal(rows.lsns[0], lsns[5]);
    assert_int_equal(rows.lsns[2], lsns[8]);
    reader->ops->release(reader, &rows);

    query.since_ms = f.now_ms + 6;
    must(reader->ops->scan(reader, &query, &rows, &err), &err);
    assert_int_equal(rows.count, 2); /* 6 and 8 */
    assert_false(rows.truncated);
    reader->ops->release(reader, &rows);

    sources[0].head = lsns[3]; /* of owner 2: not its chain */
    assert_int_equal(reader->ops->scan(reader, &query, &rows, &err), KZ_CORRUPT);
    close_log(&f);
    kz_fs_sim_free(f.fs);
}

static void test_writer_sees_what_it_has_staged(void **state)
{
    struct fixture f = {.fs = new_sim(5)};
    struct kz_err err = {0};

    (void)state;
    open_log(&f);
    put(&f, 1, 100);
    must(append(&f, 1, 100, false, NULL, &err), &err);
    assert_int_equal(history_count(&f, 1, 0), 2);
    must(kz_log_commit(f.log, &err), &err);
    assert_int_equal(history_count(&f, 1, 0), 2);
    close_log(&f);
    kz_fs_sim_free(f.fs);
}

/* ---- beside a writer --------------------------------------------------------------------------
 */

static void test_backup_and_read_only_beside_a_writer(void **state)
{
    struct fixture f = {.fs = new_sim(13), .threaded = true};
    struct kz_log_options options = {.fs = f.fs, .dir = "log", .read_only = true};
    struct kz_log_seal seal = {.below = UINT64_MAX, .segments_max = 2};
    struct kz_log *other;
    struct kz_log_recovery recovery;
    struct kz_err err = {0};
    uint64_t records;
    kz_lsn end;

    (void)state;
    assert_int_equal(kz_log_open(&options, &other, &recovery, &err), KZ_NOT_FOUND);
    open_log(&f);
    for (int i = 0; i < 700; i++) {
        put(&f, 1 + (uint64_t)i % OWNERS, 300);
        if (i % 50 == 0) {
            must(kz_log_open(&options, &other, &recovery, &err), &err);
            assert_int_equal(recovery.seq_last, i + 1);
            assert_int_equal(count_records(other), i + 1);
            kz_log_close(other);
        }
    }
    must(kz_log_wait(f.log, &err), &err);
    must(kz_log_seal(f.log, &seal, &err), &err);
    must(kz_log_backup(f.log, "copy", &end, NULL, NULL, &err), &err);
    assert_int_equal(end, kz_log_end(f.log));
    assert_int_equal(kz_log_backup(f.log, "copy", &end, NULL, NULL, &err), KZ_CONFLICT);
    put(&f, 1, 300);
    close_log(&f);

    must(kz_log_fsck(f.fs, "copy", print_problem, NULL, &records, &err), &err);
    assert_int_equal(records, 700);
    options = (struct kz_log_options){
            .fs = f.fs, .dir = "copy", .segment_size_bytes = SEGMENT, .sync_inline = true};
    must(kz_log_open(&options, &f.log, &f.recovery, &err), &err);
    assert_int_equal(f.recovery.seq_last, 700);
    assert_int_equal(f.recovery.sealed_count, 2);
    rebuild_heads(&f);
    for (int i = 0; i < 100; i++)
        put(&f, 1, 300);
    assert_int_equal(count_records(f.log), 800);
    close_log(&f);
    kz_fs_sim_free(f.fs);
}

static enum kz_code count_read(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    (void)lsn;
    *(uint64_t *)arg += kz_crc32c(0, record, record->size) != 0;
    return KZ_OK;
}

static bool is_leaving(struct kz_log *log)
{
    bool leaving;

    pthread_mutex_lock(&log->space_lock);
    leaving = log->leaving != NULL;
    pthread_mutex_unlock(&log->space_lock);
    return leaving;
}

/* `sql`, `dump` and `export` are processes of their own: what the sealer gives back to the disk piece
 * by piece was cut off under their mapping, and they died of SIGBUS. */
static void test_what_another_process_reads_is_not_cut_off_when_it_is_sealed(void **state)
{
    char dir[] = "/tmp/kz-log-XXXXXX";
    char path[64];
    struct fixture f = {.fs = kz_fs_posix(), .threaded = true};
    struct kz_log_options options = {.fs = f.fs, .dir = path, .segment_size_bytes = 16 << 20};
    struct kz_log_seal seal = {.below = UINT64_MAX, .segments_max = 1};
    int64_t until_ms = kz_mono_ms() + 60000;
    struct kz_history_reader *reader;
    struct kz_log_recovery recovery;
    struct kz_err err = {0};
    struct kz_log *other;
    uint64_t count = 0, size = 0;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/log", dir);
    must(kz_log_open(&options, &f.log, &f.recovery, &err), &err);
    for (int i = 0; i < 20; i++)
        put(&f, 1, 1 << 20);
    must(kz_log_wait(f.log, &err), &err);
    options.read_only = true;
    must(kz_log_open(&options, &other, &recovery, &err), &err);
    must(kz_log_seal(f.log, &seal, &err), &err);
    assert_int_equal(seal.ret_sealed, 1);
    while (is_leaving(f.log) && kz_mono_ms() < until_ms)
        (void)usleep(1000);
    assert_false(is_leaving(f.log));
    must(other->view->segments[0]->file->ops->size(other->view->segments[0]->file, &size, &err),
            &err);
    assert_int_equal(size, 16 << 20);
    reader = kz_log_reader(other);
    must(reader->ops->scan_all(reader, 0, UINT64_MAX, count_read, &count, &err), &err);
    assert_int_equal(count, 20);
    kz_log_close(other);
    close_log(&f);
    snprintf(path, sizeof(path), "rm -r %s", dir);
    assert_int_equal(system(path), 0);
}

struct racer {
    struct fixture *f;
    _Atomic kz_lsn heads[OWNERS + 1]; /* published after commit */
    _Atomic bool stop;
    _Atomic uint64_t scans;
};

static void *race(void *arg)
{
    struct racer *r = arg;
    struct kz_history_reader *reader = kz_log_reader(r->f->log);

    for (uint64_t i = 0; !atomic_load(&r->stop); i++) {
        uint64_t owner = 1 + i % OWNERS;
        struct kz_source source = {
                owner, atomic_load_explicit(&r->heads[owner], memory_order_acquire)};
        struct kz_history_query query = {.sources = &source,
                .source_count = 1,
                .as_of = UINT64_MAX,
                .events_max = 50,
                .since_ms = INT64_MIN};
        struct kz_history_rows rows;
        struct kz_err err = {0};

        must(reader->ops->scan(reader, &query, &rows, &err), &err);
        if (rows.count)
            assert_int_equal(rows.lsns[rows.count - 1], source.head);
        reader->ops->release(reader, &rows);
        if (i % 500 == 0)
            (void)count_records(r->f->log);
        atomic_fetch_add(&r->scans, 1);
    }
    return NULL;
}

static void *upkeep(void *arg)
{
    struct racer *r = arg;

    while (!atomic_load(&r->stop)) {
        struct kz_log_seal seal = {.below = kz_log_durable(r->f->log), .segments_max = 1};
        struct kz_err err = {0};

        must(kz_log_seal(r->f->log, &seal, &err), &err);
    }
    return NULL;
}

static void test_readers_see_whole_histories_while_written_and_sealed(void **state)
{
    char dir[] = "/tmp/kz-log-XXXXXX";
    char path[64];
    struct fixture f = {.fs = kz_fs_posix(), .threaded = true};
    struct racer racer = {.f = &f};
    pthread_t threads[3];
    struct kz_err err = {0};

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/log", dir);
    must(kz_log_open(
                 &(struct kz_log_options){.fs = f.fs, .dir = path, .segment_size_bytes = 1 << 20},
                 &f.log, &f.recovery, &err),
            &err);
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, i < 2 ? race : upkeep, &racer);
    for (int i = 0; i < 20000; i++) {
        uint64_t owner = 1 + (uint64_t)i % OWNERS;

        put(&f, owner, 200);
        atomic_store_explicit(&racer.heads[owner], f.heads[owner], memory_order_release);
    }
    atomic_store(&racer.stop, true);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_true(atomic_load(&racer.scans) > 100);
    must(kz_log_wait(f.log, &err), &err);
    assert_int_equal(count_records(f.log), 20000);
    assert_int_equal(history_count(&f, 1, 0), 20000 / OWNERS + 1);
    close_log(&f);
    must(kz_log_fsck(f.fs, path, print_problem, NULL, &(uint64_t){0}, &err), &err);
    snprintf(path, sizeof(path), "rm -r %s", dir);
    assert_int_equal(system(path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_reopened_log_has_everything),
            cmocka_unit_test(test_find_key_sees_staged_written_and_sealed),
            cmocka_unit_test(test_dropped_segments_end_the_chains),
            cmocka_unit_test(test_full_frame_is_committed_and_tried_again),
            cmocka_unit_test(test_history_is_merged_limited_and_as_of),
            cmocka_unit_test(test_writer_sees_what_it_has_staged),
            cmocka_unit_test(test_backup_and_read_only_beside_a_writer),
            cmocka_unit_test(test_what_another_process_reads_is_not_cut_off_when_it_is_sealed),
            cmocka_unit_test(test_readers_see_whole_histories_while_written_and_sealed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
