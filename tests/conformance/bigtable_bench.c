/* What an operation on Bigtable costs this process: CPU of all its threads, user and system, and
 * the time it takes, against the emulator at BIGTABLE_EMULATOR_HOST (whose own CPU is not counted).
 *
 *     tools/with-emulators --only bigtable build/bench_bigtable [threads] [operations]
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backends/bigtable/bigtable.h"
#include "sys/clock.h"

enum { STATE_SIZE = 1000, RECORD_SIZE = 300 };

struct bench {
    struct kz_predictions *p;
    uint64_t first_owner;
    unsigned count;
    void (*one)(struct bench *bench, uint64_t owner);
    struct kz_user_row row;
};

static void must(enum kz_code rc, const struct kz_err *err)
{
    if (rc == KZ_OK)
        return;
    fprintf(stderr, "bench_bigtable: %s\n", err->message);
    exit(1);
}

static void read_state(struct bench *b, uint64_t owner)
{
    struct kz_err err;

    must(b->p->ops->read(
                 b->p, owner, &(struct kz_predictions_read){.entries_max = 0}, &b->row, &err),
            &err);
}

static void read_request(struct bench *b, uint64_t owner)
{
    struct kz_err err;

    must(b->p->ops->read(b->p, owner,
                 &(struct kz_predictions_read){.entries_max = 10, .request = 1}, &b->row, &err),
            &err);
}

/* What `infer` does with a result: the next state, a RESULT with its prediction, a DECISION. */
static void write_result(struct bench *b, uint64_t owner)
{
    static const char record[RECORD_SIZE];
    const struct kz_entry entries[] = {
            {.request = 1,
                    .seq = 2,
                    .type = KZ_RECORD_RESULT,
                    .record = kz_str_n(record, RECORD_SIZE),
                    .model = KZ_STR("purchase"),
                    .json = kz_str_n(record, RECORD_SIZE)},
            {.request = 1,
                    .seq = 3,
                    .type = KZ_RECORD_DECISION,
                    .record = kz_str_n(record, RECORD_SIZE)},
    };
    char state[STATE_SIZE];
    struct kz_err err;

    read_state(b, owner);
    memset(state, 'x', sizeof(state));
    if (b->row.there)
        memcpy(state, b->row.state.ptr, KZ_MIN(b->row.state.size, sizeof(state)));
    kz_store_u64(state, kz_load_u64(state) + 1);
    must(b->p->ops->write(
                 b->p, owner, b->row.state, kz_str_n(state, sizeof(state)), entries, 2, &err),
            &err);
}

static void reserve(struct bench *b, uint64_t owner)
{
    struct kz_err err;
    bool held;

    must(b->p->ops->reserve(b->p, 1, owner, 1000, 0, KZ_TOTALS_MAX, &held, &err), &err);
}

static void *run(void *arg)
{
    struct bench *b = arg;

    for (unsigned i = 0; i < b->count; i++)
        b->one(b, b->first_owner + i);
    kz_buf_done(&b->row.bytes);
    return NULL;
}

static int64_t cpu_us(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * INT64_C(1000000) +
           usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

static void measure(struct kz_predictions *p, const char *what, unsigned threads, unsigned count,
        void (*one)(struct bench *bench, uint64_t owner))
{
    struct bench *benches = kz_calloc(threads, sizeof(*benches));
    pthread_t *ids = kz_calloc(threads, sizeof(*ids));
    const int64_t cpu_before_us = cpu_us(), before_us = kz_mono_us();

    for (unsigned i = 0; i < threads; i++) {
        benches[i] = (struct bench){
                .p = p, .first_owner = 1000000 * (i + 1), .count = count / threads, .one = one};
        KZ_BUG_ON(pthread_create(&ids[i], NULL, run, &benches[i]) != 0);
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    count = count / threads * threads;
    printf("%-34s %7.1f us CPU  %8.1f us each  %8.0f/s\n", what,
            (double)(cpu_us() - cpu_before_us) / count,
            (double)(kz_mono_us() - before_us) * threads / count,
            count * 1e6 / (double)(kz_mono_us() - before_us));
    free(benches);
    free(ids);
}

int main(int argc, char **argv)
{
    const unsigned threads = argc > 1 ? (unsigned)atoi(argv[1]) : 8;
    const unsigned count = argc > 2 ? (unsigned)atoi(argv[2]) : 8000;
    struct kz_bigtable_options options = {
            .project = "kizashi-test", .instance = "bench", .table = "kizashi_bench"};
    struct kz_rpc *rpc;
    struct kz_predictions *p;
    struct kz_err err;

    if (!getenv("BIGTABLE_EMULATOR_HOST") || threads < 1 || count < threads) {
        fprintf(stderr, "usage: with-emulators --only bigtable bench_bigtable [threads] [count]\n");
        return 2;
    }
    must(kz_rpc_open(&rpc, &err), &err);
    options.rpc = rpc;
    must(kz_bigtable_open(&options, &p, &err), &err);
    must(p->ops->create(p, NULL, NULL, &err), &err);
    measure(p, "(connecting, first touch)", threads, threads * 50, read_state);
    measure(p, "read, state, no row", threads, count, read_state);
    measure(p, "read and write a result, new row", threads, count, write_result);
    measure(p, "read and write a result, again", threads, count, write_result);
    measure(p, "read, state of 1 kB", threads, count, read_state);
    measure(p, "read, state and a request", threads, count, read_request);
    measure(p, "reserve under one cap in total", threads, count / 8, reserve);
    p->ops->close(p);
    kz_rpc_close(rpc);
    return 0;
}
