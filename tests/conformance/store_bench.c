/* What the shared raw log costs our side: CPU of this process (all its threads) an event.
 *
 *     tools/with-emulators --only spanner build/bench_store [events a commit] [commits]
 *
 * A commit as `process` makes it: the states of the users of a batch and the ids of its events are
 * read in a transaction; states, ids, events, a request for every tenth event and a timer for every
 * fifth are put; then the requests are taken out of the outbox. Then histories of 50 events are
 * read. Wall-clock time is the emulator's. Not a test.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backends/spanner/spanner.h"
#include "sys/clock.h"
#include "sys/random.h"

enum { STATE_SIZE = 400, MESSAGE_SIZE = 400, HISTORY = 50, READS = 2000, READERS = 40 };
#define NOW INT64_C(1795500000000)

static const char props[] =
        "{\"product_id\":\"1005115\",\"category\":\"electronics.smartphone\",\"brand\":\"apple\","
        "\"price\":975.57,\"currency\":\"EUR\",\"url\":\"https://shop.example/p/1005115?ref=list\","
        "\"position\":7,\"list\":\"search\",\"query\":\"phone\",\"referrer\":\"https://"
        "shop.example/\"}";

static void must(enum kz_code rc, const struct kz_err *err)
{
    if (rc == KZ_OK)
        return;
    fprintf(stderr, "store_bench: %s: %s\n", kz_code_name(rc), err->message);
    exit(1);
}

static double cpu_us(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static struct kz_record *event(uint64_t owner, kz_lsn lsn, unsigned number)
{
    struct kz_record head = {.type = KZ_RECORD_EVENT, .owner = owner, .seq = lsn, .at_ms = NOW};
    const struct kz_value columns[] = {
            {.type = KZ_TYPE_FLOAT, .real = 975.57},
            {.type = KZ_TYPE_TEXT, .text = kz_str_n(props + 15, 7)},
    };
    struct kz_buf buf = {0};
    char event_id[40];
    struct kz_event full = {
            .user_id = KZ_STR("user-0123456789"),
            .name = KZ_STR("product_viewed"),
            .props = kz_str(props),
            .ts_ms = NOW,
            .columns = columns,
            .column_count = 2,
    };

    snprintf(event_id, sizeof(event_id), "3f2a9c7e-%08x-4b1d", number);
    full.event_id = kz_str(event_id);
    kz_buf_put(&buf, &head, sizeof(head));
    kz_event_encode(&full, &buf);
    ((struct kz_record *)(void *)buf.data)->size = (uint32_t)buf.size;
    return (struct kz_record *)(void *)buf.data;
}

/* All that goes into one commit, made before the clock runs. */
struct batch {
    unsigned count, users;
    struct kz_store_user *read, *put;
    struct kz_store_id *ids;
    bool *there;
    struct kz_store_record *records;
    struct kz_store_timer *timers;
    struct kz_store_request *requests;
    char state[STATE_SIZE], message[MESSAGE_SIZE];
};

static struct batch *batch_new(unsigned count, struct kz_prng *prng)
{
    static unsigned number;
    struct batch *b = kz_calloc(1, sizeof(*b));

    b->count = count;
    b->users = KZ_MAX(count * 2 / 3, 1u);
    b->read = kz_calloc(b->users, sizeof(*b->read));
    b->put = kz_calloc(b->users, sizeof(*b->put));
    b->ids = kz_calloc(count, sizeof(*b->ids));
    b->there = kz_calloc(count, sizeof(*b->there));
    b->records = kz_calloc(count, sizeof(*b->records));
    b->timers = kz_calloc(count, sizeof(*b->timers));
    b->requests = kz_calloc(count, sizeof(*b->requests));
    kz_prng_bytes(prng, b->state, sizeof(b->state));
    kz_prng_bytes(prng, b->message, sizeof(b->message));
    for (unsigned i = 0; i < b->users; i++) {
        b->read[i].owner = b->put[i].owner = kz_prng_u64(prng);
        b->put[i].state = kz_str_n(b->state, sizeof(b->state));
    }
    for (unsigned i = 0; i < count; i++) {
        uint64_t owner = b->put[i % b->users].owner;
        kz_lsn lsn = kz_store_lsn(NOW) + ++number;
        char *id = kz_malloc(64);

        b->records[i] = (struct kz_store_record){lsn, event(owner, lsn, number)};
        b->ids[i].owner = owner;
        b->ids[i].id = kz_str_n(
                id, (size_t)snprintf(id, 64, "uuser-0123456789%c3f2a9c7e-%08x", 0, number));
        b->timers[i] = (struct kz_store_timer){owner, 7, NOW + (int64_t)number};
        b->requests[i] = (struct kz_store_request){
                owner, lsn, kz_str_n(b->message, sizeof(b->message))};
    }
    return b;
}

static void batch_free(struct batch *b)
{
    for (unsigned i = 0; i < b->count; i++) {
        free((void *)(uintptr_t)b->records[i].record);
        free((void *)(uintptr_t)b->ids[i].id.ptr);
    }
    free(b->read);
    free(b->put);
    free(b->ids);
    free(b->there);
    free(b->records);
    free(b->timers);
    free(b->requests);
    free(b);
}

static void commit(struct kz_store *store, struct batch *b)
{
    const struct kz_store_commit what = {.users = b->put,
            .user_count = b->users,
            .ids = b->ids,
            .id_count = b->count,
            .records = b->records,
            .record_count = b->count,
            .timers = b->timers,
            .timer_count = b->count / 5,
            .requests = b->requests,
            .request_count = b->count / 10,
            .now_ms = NOW};
    struct kz_store_txn *txn;
    struct kz_err err = {0};

    must(store->ops->begin(store, &txn, &err), &err);
    must(store->ops->read_users(txn, b->read, b->users, &err), &err);
    must(store->ops->read_ids(txn, b->ids, b->count, b->there, &err), &err);
    must(store->ops->commit(txn, &what, &err), &err);
    must(store->ops->published(store, b->requests, b->count / 10, &err), &err);
}

static void bench_commits(struct kz_store *store, unsigned count, unsigned commits)
{
    struct kz_prng prng;
    struct kz_store_stats before, now;
    double cpu = 0;
    int64_t wall = 0;

    kz_prng_init(&prng, count);
    store->ops->stats(store, &before);
    for (unsigned i = 0; i < commits; i++) {
        struct batch *b = batch_new(count, &prng);
        double cpu_from = cpu_us();
        int64_t from = kz_mono_us();

        commit(store, b);
        cpu += cpu_us() - cpu_from;
        wall += kz_mono_us() - from;
        batch_free(b);
    }
    store->ops->stats(store, &now);
    printf("commits of %4u events: %6.1f us of CPU an event, %5.0f bytes sent an event, "
           "%6.0f us of wall clock\n",
            count, cpu / commits / count,
            (double)(now.bytes_written - before.bytes_written) / commits / count,
            (double)wall / commits / count);
}

static void bench_reads(struct kz_store *store)
{
    struct kz_history_reader *reader = store->ops->reader(store);
    struct kz_store_record records[HISTORY * 10];
    struct kz_err err = {0};
    double cpu;
    int64_t wall;

    for (uint64_t owner = 1; owner <= READERS; owner++) {
        struct kz_store_txn *txn;

        for (unsigned i = 0; i < HISTORY * 10; i++) {
            kz_lsn lsn = kz_store_lsn(NOW) + i + 1;

            records[i] = (struct kz_store_record){lsn, event(owner, lsn, i)};
        }
        must(store->ops->begin(store, &txn, &err), &err);
        must(store->ops->commit(txn,
                     &(struct kz_store_commit){
                             .records = records, .record_count = HISTORY * 10, .now_ms = NOW},
                     &err),
                &err);
        for (unsigned i = 0; i < HISTORY * 10; i++)
            free((void *)(uintptr_t)records[i].record);
    }
    cpu = cpu_us();
    wall = kz_mono_us();
    for (unsigned i = 0; i < READS; i++) {
        const struct kz_source source = {i % READERS + 1, UINT64_MAX};
        const struct kz_history_query query = {.sources = &source,
                .source_count = 1,
                .chain = KZ_CHAIN_EVENTS,
                .as_of = UINT64_MAX,
                .events_max = HISTORY,
                .since_ms = INT64_MIN};
        struct kz_history_rows rows;

        must(reader->ops->scan(reader, &query, &rows, &err), &err);
        if (rows.count != HISTORY)
            must(kz_fail(&err, KZ_CORRUPT, "%zu records", rows.count), &err);
        reader->ops->release(reader, &rows);
    }
    printf("last %u of %u events of a user: %6.1f us of CPU a read, %6.0f us of wall clock\n",
            HISTORY, HISTORY * 10, (cpu_us() - cpu) / READS, (double)(kz_mono_us() - wall) / READS);
}

/* What a call costs that brings next to nothing. */
static void bench_call(struct kz_store *store)
{
    struct kz_store_user user = {.owner = 1};
    struct kz_buf out = {0};
    struct kz_err err = {0};
    double cpu = cpu_us();

    for (unsigned i = 0; i < READS; i++)
        must(store->ops->users(store, &user, 1, &out, &err), &err);
    printf("the state of one user: %6.1f us of CPU a read\n", (cpu_us() - cpu) / READS);
    kz_buf_done(&out);
}

int main(int argc, char **argv)
{
    struct kz_spanner_options options = {
            .project = "kizashi-bench", .instance = "bench", .timeout_ms = 60000};
    struct kz_store *store = NULL;
    struct kz_err err = {0};
    char database[24];

    if (!getenv("SPANNER_EMULATOR_HOST"))
        must(kz_fail(&err, KZ_CONFIG, "SPANNER_EMULATOR_HOST is not set"), &err);
    snprintf(database, sizeof(database), "bench-%d", (int)getpid());
    options.database = database;
    must(kz_rpc_open(&options.rpc, &err), &err);
    must(kz_spanner_open(&options, &store, &err), &err);
    must(store->ops->create(store, NULL, NULL, &err), &err);
    if (argc > 1) {
        bench_commits(store, (unsigned)atoi(argv[1]), argc > 2 ? (unsigned)atoi(argv[2]) : 50);
    } else {
        bench_commits(store, 100, 60);
        bench_commits(store, 200, 30);
        bench_commits(store, 500, 12);
    }
    bench_reads(store);
    bench_call(store);
    store->ops->close(store);
    kz_rpc_close(options.rpc);
    return 0;
}
