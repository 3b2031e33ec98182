/* The log over the simulated disk (failures, power cuts) and over a real directory (speed,
 * threads). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "log/log_int.h"
#include "sys/clock.h"
#include "sys/file_sim.h"
#include "sys/random.h"

enum { OWNERS = 7, SEGMENT = 64 << 10 };

/* ---- a log under test, and what it was told ---------------------------------------------------
 */

struct fixture {
    struct kz_fs *fs;
    struct kz_log *log;
    struct kz_log_recovery recovery;
    kz_lsn heads[OWNERS + 1];
    uint64_t commits; /* frames committed since the beginning */
    int64_t now_ms;
    uint64_t segment_size, reserve;
    bool threaded;
    unsigned seal_failures;
};

static enum kz_code try_open(struct fixture *f, struct kz_err *err)
{
    struct kz_log_options options = {
            .fs = f->fs,
            .dir = "log",
            .segment_size_bytes = f->segment_size ? f->segment_size : SEGMENT,
            .reserve_bytes = f->reserve,
            .sync_inline = !f->threaded,
    };

    return kz_log_open(&options, &f->log, &f->recovery, err);
}

static void must(enum kz_code rc, const struct kz_err *err)
{
    if (rc != KZ_OK)
        fail_msg("%s: %s", kz_code_name(rc), err->message);
}

static void open_log(struct fixture *f)
{
    struct kz_err err = {0};

    must(try_open(f, &err), &err);
}

static void close_log(struct fixture *f)
{
    kz_log_close(f->log);
    f->log = NULL;
}

/* An event whose contents follow from its seq, so that a reader can check every byte. */
static void event_body(struct kz_buf *out, uint64_t seq, int64_t ts_ms, size_t props_size)
{
    char id[32];
    KZ_AUTO(kz_freep) char *props = kz_malloc(props_size + 1);
    struct kz_event event = {
            .name = KZ_STR("view"),
            .user_id = KZ_STR("user"),
            .ts_ms = ts_ms,
            .client_ts_ms = ts_ms,
    };

    snprintf(id, sizeof(id), "e%llu", (unsigned long long)seq);
    memset(props, 'a' + (int)(seq % 26), props_size);
    event.event_id = kz_str(id);
    event.props = kz_str_n(props, props_size);
    kz_buf_clear(out);
    kz_event_encode(&event, out);
}

static uint64_t key_of(uint64_t seq)
{
    return kz_dedupe_key((struct kz_user_key){'u', KZ_STR("user")}, kz_str_n(&seq, sizeof(seq)));
}

static enum kz_code append(struct fixture *f, uint64_t owner, size_t props_size, bool reserved,
        kz_lsn *ret_lsn, struct kz_err *err)
{
    struct kz_buf body = {0};
    uint64_t seq;
    struct kz_log_entry entry = {
            .type = KZ_RECORD_EVENT,
            .reserved = reserved,
            .owner = owner,
            .prev = f->heads[owner],
            .at_ms = f->now_ms,
    };
    kz_lsn lsn = 0;
    enum kz_code rc;

    seq = kz_log_seq_last(f->log) + 1; /* one record a frame is what most tests use */
    entry.key = key_of(seq);
    event_body(&body, seq, f->now_ms, props_size);
    entry.body = kz_buf_view(&body);
    rc = kz_log_append(f->log, &entry, &lsn, &seq, err);
    if (rc == KZ_OK) {
        f->heads[owner] = lsn;
        if (ret_lsn)
            *ret_lsn = lsn;
    }
    kz_buf_done(&body);
    return rc;
}

static void put(struct fixture *f, uint64_t owner, size_t props_size)
{
    struct kz_err err = {0};

    f->now_ms += 10;
    must(append(f, owner, props_size, false, NULL, &err), &err);
    must(kz_log_commit(f->log, &err), &err);
    f->commits++;
}

/* ---- checks -----------------------------------------------------------------------------------
 */

struct seen {
    uint64_t count, seq_last;
    kz_lsn lsn_last;
};

static enum kz_code see(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct seen *seen = arg;
    struct kz_event event;
    struct kz_err err = {0};
    char id[32];

    must(kz_event_decode(record, &event, &err), &err);
    snprintf(id, sizeof(id), "e%llu", (unsigned long long)record->seq);
    assert_true(kz_str_is(event.event_id, id));
    for (size_t i = 0; i < event.props.size; i++)
        assert_int_equal(event.props.ptr[i], 'a' + (int)(record->seq % 26));
    assert_true(lsn > seen->lsn_last);
    assert_int_equal(record->seq, seen->seq_last + 1);
    seen->seq_last = record->seq;
    seen->lsn_last = lsn;
    seen->count++;
    return KZ_OK;
}

static uint64_t count_records(struct kz_log *log)
{
    struct kz_history_reader *reader = kz_log_reader(log);
    struct seen seen = {0};
    struct kz_err err = {0};

    must(reader->ops->scan_all(reader, 0, UINT64_MAX, see, &seen, &err), &err);
    return seen.count;
}

static enum kz_code take_head(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct fixture *f = arg;

    f->heads[record->owner] = lsn;
    return KZ_OK;
}

static void rebuild_heads(struct fixture *f)
{
    struct kz_history_reader *reader = kz_log_reader(f->log);
    struct kz_err err = {0};

    memset(f->heads, 0, sizeof(f->heads));
    must(reader->ops->scan_all(reader, 0, UINT64_MAX, take_head, f, &err), &err);
}

static size_t history_count(struct fixture *f, uint64_t owner, uint32_t events_max)
{
    struct kz_history_reader *reader = kz_log_reader(f->log);
    struct kz_source source = {owner, f->heads[owner]};
    struct kz_history_query query = {
            .sources = &source,
            .source_count = 1,
            .as_of = UINT64_MAX,
            .events_max = events_max,
            .since_ms = INT64_MIN,
    };
    struct kz_history_rows rows;
    struct kz_err err = {0};
    size_t count;

    must(reader->ops->scan(reader, &query, &rows, &err), &err);
    for (size_t i = 0; i < rows.count; i++) {
        assert_int_equal(rows.records[i]->owner, owner);
        if (i)
            assert_true(rows.lsns[i] > rows.lsns[i - 1]);
    }
    count = rows.count;
    reader->ops->release(reader, &rows);
    return count;
}

static void print_problem(void *arg, const char *line)
{
    (void)arg;
    print_message("fsck: %s\n", line);
}

static struct kz_fs *new_sim(uint64_t seed)
{
    return kz_fs_sim_new(seed);
}

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

static enum kz_code fsck(struct fixture *f)
{
    struct kz_err err = {0};
    uint64_t records;

    return kz_log_fsck(f->fs, "log", print_problem, NULL, &records, &err);
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
    kz_log_unstage(f.log, lsn);
    assert_false(kz_log_has_staged(f.log));
    must(kz_log_find_key(f.log, key_of(501), 1, INT64_MIN, NULL, NULL, &found, &err), &err);
    assert_false(found);
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

/* ---- the tail ---------------------------------------------------------------------------------
 */

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
    options.verify_from = kz_log_end(f.log);
    close_log(&f);
    must(kz_log_open(&options, &f.log, &f.recovery, &err), &err);
    close_log(&f);
    options.verify_from += 8;
    assert_int_equal(kz_log_open(&options, &f.log, &f.recovery, &err), KZ_CORRUPT);
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
    deadline_ms = kz_mono_ms() + 10000;
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

/* ---- speed, where asked for: KZ_BENCH=directory -----------------------------------------------
 */

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

static void bench_latency(struct fixture *f)
{
    enum { N = 2000 };
    static int64_t ns[N];
    struct kz_err err = {0};

    for (int i = 0; i < N; i++) {
        int64_t began = kz_mono_ns();

        put(f, 1, 150);
        must(kz_log_wait(f->log, &err), &err);
        ns[i] = kz_mono_ns() - began;
    }
    qsort(ns, N, sizeof(ns[0]), by_value);
    print_message("commit -> durable: p50 %lld us, p99 %lld us\n", (long long)ns[N / 2] / 1000,
            (long long)ns[N / 100 * 99] / 1000);
}

/* At most `rate` records a second (0: as fast as it goes). */
static void bench_throughput(struct fixture *f, int frame_records, int count, int rate)
{
    enum { USERS = 100000 };
    const int N = count;
    KZ_AUTO(kz_freep) kz_lsn *heads = kz_calloc(USERS, sizeof(*heads));
    struct kz_buf body = {0};
    struct kz_err err = {0};
    struct kz_log_entry entry = {.type = KZ_RECORD_EVENT, .at_ms = 1};
    struct kz_prng prng;
    int64_t began = kz_mono_us(), us;
    int64_t longest = 0, last = began;

    kz_prng_init(&prng, 1);
    event_body(&body, 1, 1, 165);
    entry.body = kz_buf_view(&body);
    for (int i = 0; i < N; i++) {
        uint64_t user = kz_prng_below(&prng, USERS);
        uint64_t seq;
        kz_lsn lsn;
        enum kz_code rc;

        entry.owner = user + 1;
        entry.prev = heads[user];
        entry.key = kz_prng_u64(&prng);
        rc = kz_log_append(f->log, &entry, &lsn, &seq, &err);
        if (rc == KZ_FULL) {
            must(kz_log_commit(f->log, &err), &err);
            rc = kz_log_append(f->log, &entry, &lsn, &seq, &err);
        }
        must(rc, &err);
        heads[user] = lsn;
        if (i % frame_records == frame_records - 1) {
            must(kz_log_commit(f->log, &err), &err);
            us = kz_mono_us();
            longest = KZ_MAX(longest, us - last);
            while (rate && (us - began) < (int64_t)((double)i * 1e6 / rate))
                us = kz_mono_us();
            last = us;
        }
    }
    must(kz_log_commit(f->log, &err), &err);
    must(kz_log_wait(f->log, &err), &err);
    us = kz_mono_us() - began;
    print_message("%d records of %zu bytes, frames of %d: %.0f records/s, longest frame %lld us\n",
            N, sizeof(struct kz_record) + body.size, frame_records, N * 1e6 / (double)us,
            (long long)longest);
    kz_buf_done(&body);
}

static void bench_scans(struct fixture *f, const kz_lsn *heads, int users)
{
    enum { N = 100000 };
    struct kz_history_reader *reader = kz_log_reader(f->log);
    struct kz_prng prng;
    struct kz_err err = {0};
    int64_t began = kz_mono_ns();

    kz_prng_init(&prng, 3);
    for (int i = 0; i < N; i++) {
        uint64_t owner = 1 + kz_prng_below(&prng, (uint64_t)users);
        struct kz_source source = {owner, heads[owner]};
        struct kz_history_query query = {.sources = &source,
                .source_count = 1,
                .as_of = UINT64_MAX,
                .events_max = 50,
                .since_ms = INT64_MIN};
        struct kz_history_rows rows;

        must(reader->ops->scan(reader, &query, &rows, &err), &err);
        assert_int_equal(rows.count, 50);
        reader->ops->release(reader, &rows);
    }
    print_message("scan of 50 events, among %d users of 100: %lld ns\n", users,
            (long long)(kz_mono_ns() - began) / N);
}

static void bench_reads(struct fixture *f)
{
    enum { N = 100000, USERS = 1000 };
    static kz_lsn heads[USERS + 1];
    struct kz_prng prng;
    struct kz_err err = {0};
    struct kz_buf body = {0};
    struct kz_log_entry entry = {.type = KZ_RECORD_EVENT};
    uint64_t seq;
    int64_t began;
    bool found;

    event_body(&body, 1, 1, 165);
    entry.body = kz_buf_view(&body);
    kz_prng_init(&prng, 2);
    for (int i = 0; i < 100 * USERS; i++) {
        uint64_t owner = 1 + kz_prng_below(&prng, USERS);

        entry.owner = owner;
        entry.prev = heads[owner];
        entry.key = kz_prng_u64(&prng);
        must(kz_log_append(f->log, &entry, &heads[owner], &seq, &err), &err);
        if (i % 100 == 99)
            must(kz_log_commit(f->log, &err), &err);
    }
    must(kz_log_wait(f->log, &err), &err);
    for (int users = 10; users <= USERS; users *= 10)
        bench_scans(f, heads, users);
    began = kz_mono_ns();
    for (int i = 0; i < N; i++)
        must(kz_log_find_key(f->log, kz_prng_u64(&prng), 1, INT64_MIN, NULL, NULL, &found, &err),
                &err);
    print_message("find_key, a miss: %lld ns in %zu segments\n",
            (long long)(kz_mono_ns() - began) / N, (size_t)f->log->view->count);
    kz_buf_done(&body);
}

static void test_speed(void **state)
{
    const char *base = getenv("KZ_BENCH");
    struct fixture f = {.fs = kz_fs_posix(), .threaded = true};
    struct kz_log_stats stats;
    struct kz_err err = {0};
    char dir[256], path[300];
    int64_t began;

    (void)state;
    if (!base)
        skip();
    snprintf(dir, sizeof(dir), "%s/kz-log-XXXXXX", base);
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/log", dir);
    began = kz_mono_us();
    must(kz_log_open(&(struct kz_log_options){.fs = f.fs, .dir = path}, &f.log, &f.recovery, &err),
            &err);
    print_message("open, new: %lld us\n", (long long)(kz_mono_us() - began));
    bench_latency(&f);
    bench_reads(&f);
    bench_throughput(&f, 100, 1000000, 134000);
    bench_throughput(&f, 100, 2000000, 400000);
    bench_throughput(&f, 100, 4000000, 0);
    bench_throughput(&f, 1000, 4000000, 0);
    kz_log_stats(f.log, &stats);
    print_message("%llu commits, %llu syncs of %llu us on average\n",
            (unsigned long long)stats.commits, (unsigned long long)stats.syncs,
            (unsigned long long)(stats.sync_us_total / stats.syncs));
    close_log(&f);
    began = kz_mono_us();
    must(kz_log_open(&(struct kz_log_options){.fs = f.fs, .dir = path}, &f.log, &f.recovery, &err),
            &err);
    print_message("open, %llu records in %zu raw segments: %lld us\n",
            (unsigned long long)f.recovery.seq_last, f.recovery.segment_count,
            (long long)(kz_mono_us() - began));
    close_log(&f);
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
            cmocka_unit_test(test_torn_tail_is_cut_at_every_byte),
            cmocka_unit_test(test_stale_frame_behind_the_tail_is_no_frame),
            cmocka_unit_test(test_damage_before_durable_frames_is_never_cut),
            cmocka_unit_test(test_log_that_ends_before_its_checkpoint_is_refused),
            cmocka_unit_test(test_locked_and_newer_logs_are_refused),
            cmocka_unit_test(test_failed_sync_stops_the_log_for_good),
            cmocka_unit_test(test_full_disk_refuses_intake_and_recovers),
            cmocka_unit_test(test_backup_and_read_only_beside_a_writer),
            cmocka_unit_test(test_readers_see_whole_histories_while_written_and_sealed),
            cmocka_unit_test(test_every_call_fails_in_turn),
            cmocka_unit_test(test_power_cuts_on_a_disk_that_lies_are_noticed),
            cmocka_unit_test(test_power_cuts_lose_nothing_durable),
            cmocka_unit_test(test_speed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
