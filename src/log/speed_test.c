/* How fast the log is, where asked for: KZ_BENCH=directory, on a real disk. With KZ_BENCH_KEYS=millions
 * only how long looking for a new key takes among so many that are stored and sealed (50: 3 GB). */
#include "log/log_rig.h"

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

/* What the look at one new key comes to: groups of the filter that do not deny it, segments asked
 * then, those whose tags have it, each of which reads a block. */
static void count_looks(const struct kz_log *log, struct kz_prng *prng)
{
    enum { N = 1000000 };
    uint64_t groups = 0, segments = 0, blocks = 0;

    for (int i = 0; i < N; i++) {
        uint64_t key = kz_prng_u64(prng), found = kz_keyfilter_find(&log->keys, kz_tag(key));

        groups += (unsigned)__builtin_popcountll(found);
        for (size_t k = 0; found && k < log->view->count; k++) {
            const struct kz_segment *seg = log->view->segments[k];
            struct kz_tags tags;

            if (!seg->is_sealed || !kz_keyfilter_allows(&log->keys, found, KZ_LSN(seg->number, 0),
                                           KZ_LSN(seg->number + 1, 0)))
                continue;
            segments++;
            blocks += kz_sealed_tags(seg->sealed, &tags) && kz_tags_have(&tags, kz_tag(key));
        }
    }
    print_message("of %d new keys: %llu not denied by one of %u groups, %llu looks into segments, "
                  "%llu blocks\n",
            N, (unsigned long long)groups, log->keys.group_count, (unsigned long long)segments,
            (unsigned long long)blocks);
}

/* As intake does: fetched six ahead, then looked for. */
static void bench_new_keys(struct fixture *f, struct kz_prng *prng)
{
    enum { N = 3000000, AHEAD = 6, USERS = 1000000 };
    static uint64_t keys[AHEAD];
    struct kz_err err = {0};
    int64_t began = kz_mono_ns();
    bool found;

    for (int i = 0; i < N; i++) {
        uint64_t key = keys[i % AHEAD], owner = 1 + kz_prng_below(prng, USERS);

        if (i >= AHEAD)
            must(kz_log_find_key(
                         f->log, key, kz_hash_mix(owner, 0), INT64_MIN, NULL, NULL, &found, &err),
                    &err);
        keys[i % AHEAD] = kz_prng_u64(prng);
        kz_log_prefetch_key(f->log, keys[i % AHEAD]);
    }
    print_message("a new key among %llu in %zu segments: %lld ns\n",
            (unsigned long long)kz_log_seq_last(f->log), f->log->view->count,
            (long long)(kz_mono_ns() - began) / N);
}

static void bench_keys(struct fixture *f, const char *dir, uint64_t count)
{
    enum { USERS = 1000000 };
    struct kz_buf body = {0};
    struct kz_err err = {0};
    struct kz_log_entry entry = {.type = KZ_RECORD_EVENT, .at_ms = 1};
    struct kz_prng prng;

    must(kz_log_open(
                 &(struct kz_log_options){.fs = f->fs, .dir = dir}, &f->log, &f->recovery, &err),
            &err);
    kz_prng_init(&prng, (uint64_t)kz_mono_ns());
    event_body(&body, 1, 1, 100);
    entry.body = kz_buf_view(&body);
    for (uint64_t seq = kz_log_seq_last(f->log); seq < count;) {
        struct kz_log_seal seal = {.below = kz_log_durable(f->log), .segments_max = 4};
        kz_lsn lsn;

        for (int i = 0; i < 1000; i++) {
            entry.owner = kz_hash_mix(1 + kz_prng_below(&prng, USERS), 0);
            entry.key = kz_prng_u64(&prng);
            must(kz_log_append(f->log, &entry, &lsn, &seq, &err), &err);
        }
        must(kz_log_commit(f->log, &err), &err);
        if (seq % 1000000 == 0)
            must(kz_log_seal(f->log, &seal, &err), &err);
    }
    must(kz_log_wait(f->log, &err), &err);
    count_looks(f->log, &prng);
    bench_new_keys(f, &prng);
    close_log(f);
    kz_buf_done(&body);
}

static void test_speed(void **state)
{
    const char *base = getenv("KZ_BENCH"), *keys = getenv("KZ_BENCH_KEYS");
    struct fixture f = {.fs = kz_fs_posix(), .threaded = true};
    struct kz_log_stats stats;
    struct kz_err err = {0};
    char dir[256], path[300];
    int64_t began;

    (void)state;
    if (!base)
        skip();
    if (keys) {
        bench_keys(&f, base, strtoull(keys, NULL, 10) * 1000000);
        return;
    }
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
            cmocka_unit_test(test_speed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
