/* log/log_rig.h -- a log under test, with what it was told beside it, for the log's tests. */
#pragma once

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

static inline enum kz_code try_open(struct fixture *f, struct kz_err *err)
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

static inline void must(enum kz_code rc, const struct kz_err *err)
{
    if (rc != KZ_OK)
        fail_msg("%s: %s", kz_code_name(rc), err->message);
}

static inline void open_log(struct fixture *f)
{
    struct kz_err err = {0};

    must(try_open(f, &err), &err);
}

static inline void close_log(struct fixture *f)
{
    kz_log_close(f->log);
    f->log = NULL;
}

/* An event whose contents follow from its seq, so that a reader can check every byte. */
static inline void event_body(struct kz_buf *out, uint64_t seq, int64_t ts_ms, size_t props_size)
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

static inline uint64_t key_of(uint64_t seq)
{
    return kz_dedupe_key((struct kz_user_key){'u', KZ_STR("user")}, kz_str_n(&seq, sizeof(seq)));
}

static inline enum kz_code append(struct fixture *f, uint64_t owner, size_t props_size,
        bool reserved, kz_lsn *ret_lsn, struct kz_err *err)
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

static inline void put(struct fixture *f, uint64_t owner, size_t props_size)
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

static inline enum kz_code see(void *arg, kz_lsn lsn, const struct kz_record *record)
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

static inline uint64_t count_records(struct kz_log *log)
{
    struct kz_history_reader *reader = kz_log_reader(log);
    struct seen seen = {0};
    struct kz_err err = {0};

    must(reader->ops->scan_all(reader, 0, UINT64_MAX, see, &seen, &err), &err);
    return seen.count;
}

static inline enum kz_code take_head(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct fixture *f = arg;

    f->heads[record->owner] = lsn;
    return KZ_OK;
}

static inline void rebuild_heads(struct fixture *f)
{
    struct kz_history_reader *reader = kz_log_reader(f->log);
    struct kz_err err = {0};

    memset(f->heads, 0, sizeof(f->heads));
    must(reader->ops->scan_all(reader, 0, UINT64_MAX, take_head, f, &err), &err);
}

static inline size_t history_count(struct fixture *f, uint64_t owner, uint32_t events_max)
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

static inline void print_problem(void *arg, const char *line)
{
    (void)arg;
    print_message("fsck: %s\n", line);
}

static inline struct kz_fs *new_sim(uint64_t seed)
{
    return kz_fs_sim_new(seed);
}

static inline enum kz_code fsck(struct fixture *f)
{
    struct kz_err err = {0};
    uint64_t records;

    return kz_log_fsck(f->fs, "log", print_problem, NULL, &records, &err);
}
