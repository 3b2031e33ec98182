/* What an event costs the process role: CPU of this process by component, and how fast it went.
 *
 *     bench_process [events] [users] [memory|gcp]
 *
 * Events of about 300 bytes, 100 a message, users by a skewed law, four rules of which a seventh of the
 * events match one; all of them lie on the bus before the role begins. With gcp the backends are those that
 * the emulators' variables name (tools/with-emulators). Not a test.
 */
#pragma GCC diagnostic ignored "-Wunused-function"
#include "process_rig.h"

#include <sys/resource.h>
#include <unistd.h>

#include "app/roles/role.h"
#include "base/diag.h"
#include "sys/clock.h"

/* ---- a store whose CPU is counted ----------------------------------------------------------- */

struct meter {
    struct kz_store store; /* first */
    struct kz_store *inner;
    struct kz_store_ops ops;
    uint64_t ns;
};
static struct meter meter;

static uint64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#define METERED(call)                                                                              \
    uint64_t since = cpu_ns();                                                                     \
    enum kz_code rc = meter.inner->ops->call;                                                      \
    __atomic_add_fetch(&meter.ns, cpu_ns() - since, __ATOMIC_RELAXED);                             \
    return rc

static enum kz_code m_begin(struct kz_store *s, struct kz_store_txn **txn, struct kz_err *err)
{
    (void)s;
    METERED(begin(meter.inner, txn, err));
}
static enum kz_code m_read_users(
        struct kz_store_txn *txn, struct kz_store_user *users, size_t count, struct kz_err *err)
{
    METERED(read_users(txn, users, count, err));
}
static enum kz_code m_read_ids(struct kz_store_txn *txn, const struct kz_store_id *ids,
        size_t count, bool *there, struct kz_err *err)
{
    METERED(read_ids(txn, ids, count, there, err));
}
static enum kz_code m_commit(
        struct kz_store_txn *txn, const struct kz_store_commit *commit, struct kz_err *err)
{
    METERED(commit(txn, commit, err));
}
static enum kz_code m_stones(struct kz_store *s, const uint64_t *hashes, size_t count,
        struct kz_str *bodies, struct kz_buf *out, struct kz_err *err)
{
    (void)s;
    METERED(stones(meter.inner, hashes, count, bodies, out, err));
}
static enum kz_code m_due(struct kz_store *s, int64_t now_ms, unsigned part, unsigned parts,
        size_t max, struct kz_store_timer *timers, size_t *count, int64_t *next_ms,
        struct kz_err *err)
{
    (void)s;
    METERED(due(meter.inner, now_ms, part, parts, max, timers, count, next_ms, err));
}
static enum kz_code m_outbox(struct kz_store *s, int64_t before_ms, size_t max,
        struct kz_store_request *requests, size_t *count, struct kz_buf *out, struct kz_err *err)
{
    (void)s;
    METERED(outbox(meter.inner, before_ms, max, requests, count, out, err));
}
static enum kz_code m_published(struct kz_store *s, const struct kz_store_request *requests,
        size_t count, struct kz_err *err)
{
    (void)s;
    METERED(published(meter.inner, requests, count, err));
}
static int64_t m_retry(struct kz_store *s)
{
    (void)s;
    return meter.inner->ops->retry_ms(meter.inner);
}
static struct kz_history_reader *m_reader(struct kz_store *s)
{
    (void)s;
    return meter.inner->ops->reader(meter.inner);
}

static struct kz_store *metered(struct kz_store *inner)
{
    meter.inner = inner;
    meter.ops = *inner->ops;
    meter.ops.begin = m_begin;
    meter.ops.read_users = m_read_users;
    meter.ops.read_ids = m_read_ids;
    meter.ops.commit = m_commit;
    meter.ops.stones = m_stones;
    meter.ops.due = m_due;
    meter.ops.outbox = m_outbox;
    meter.ops.published = m_published;
    meter.ops.retry_ms = m_retry;
    meter.ops.reader = m_reader;
    meter.store.ops = &meter.ops;
    return &meter.store;
}

/* ---- events --------------------------------------------------------------------------------- */

static void make_event(struct kz_prng *dice, size_t i, size_t users, int64_t now_ms,
        struct kz_buf *out, uint64_t *ret_hash)
{
    static const char *const names[] = {"view", "view", "view", "view", "cart", "purchase"};
    double skew = kz_prng_unit(dice);
    size_t user = (size_t)((double)users * skew * skew * skew);
    uint64_t roll = kz_prng_below(dice, 36);
    char user_id[24], event_id[40], props[256];
    struct kz_intake_item item = {0};

    snprintf(user_id, sizeof(user_id), "user-%08zu", user);
    snprintf(event_id, sizeof(event_id), "0190a2b4-7c1e-7000-8000-%012zu", i);
    snprintf(props, sizeof(props),
            "{\"price\": %llu.5, \"item\": \"sku-%06llu\", \"category\": \"electronics.phone\", "
            "\"url\": \"https://shop.example/p/%06llu?ref=home\", \"brand\": \"acme\"}",
            (unsigned long long)kz_prng_below(dice, 90),
            (unsigned long long)kz_prng_below(dice, 5000),
            (unsigned long long)kz_prng_below(dice, 5000));
    item.event = (struct kz_event){
            .event_id = kz_str(event_id),
            .user_id = kz_str(user_id),
            .name = kz_str(roll < KZ_ARRAY_COUNT(names) ? names[roll] : "scroll"),
            .props = kz_str(props),
            .client_ts_ms = now_ms - 40,
            .received_at_ms = now_ms,
    };
    *ret_hash = kz_owner_hash(kz_event_key(&item.event), 0);
    kz_message_put_item(&item, out);
}

static uint64_t publish_all(struct kz_bus *bus, size_t events, size_t users, size_t *ret_bytes)
{
    static struct {
        struct kz_buf data;
        size_t events;
    } lanes[KZ_LANE_COUNT];
    static const struct kz_attribute collected = {
            {KZ_ATTRIBUTE_FORMAT, sizeof(KZ_ATTRIBUTE_FORMAT) - 1}, {"1", 1}};
    int64_t now_ms = kz_clock_ms() - 60000;
    struct kz_prng dice;
    uint64_t messages = 0;

    kz_prng_init(&dice, 1);
    for (size_t i = 0; i < events + KZ_LANE_COUNT; i++) {
        size_t lane = i - events;
        char key[KZ_LANE_BYTES];
        struct kz_bus_message message;
        struct kz_buf line = {0};

        if (i < events) {
            uint64_t hash;

            make_event(&dice, i, users, now_ms + (int64_t)(i / 20), &line, &hash);
            lane = hash % KZ_LANE_COUNT;
            kz_buf_str(&lanes[lane].data, kz_buf_view(&line));
            *ret_bytes += line.size;
            kz_buf_done(&line);
            if (++lanes[lane].events < 100)
                continue;
        }
        if (!lanes[lane].events)
            continue;
        kz_lane_name(lane, key);
        message = (struct kz_bus_message){.data = kz_buf_view(&lanes[lane].data),
                .key = kz_str(key),
                .attributes = &collected,
                .attribute_count = 1};
        while (bus->ops->publish(bus, KZ_TOPIC_EVENTS, &message, 1, NULL, NULL, NULL) != KZ_OK)
            usleep(1000);
        messages++;
        kz_buf_clear(&lanes[lane].data);
        lanes[lane].events = 0;
    }
    bus->ops->flush(bus);
    return messages;
}

static double cpu_s(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void wake(void *arg)
{
    (void)arg;
}

static void nothing(void *arg, const char *line)
{
    (void)arg, (void)line;
}

int main(int argc, char **argv)
{
    size_t events = argc > 1 ? strtoull(argv[1], NULL, 10) : 200000, bytes = 0;
    size_t users = argc > 2 ? strtoull(argv[2], NULL, 10) : 50000;
    struct kz_project project = rig_project;
    struct kz_backends backends = {0};
    struct kz_role_env env = {.project = &project, .kinds = 1u << KZ_ROLE_PROCESS, .wake = wake};
    struct kz_pipeline_counters counters = {0};
    struct kz_bus_stats before, stats;
    struct kz_role *role;
    struct kz_err err;
    double cpu, wall, publishing;
    uint64_t messages;
    char name[40];

    kz_diag_set(KZ_DIAG_WARN, false);
    snprintf(name, sizeof(name), "bench%d", (int)getpid());
    project.name = name;
    project.backends.gcp.project = "bench";
    project.backends.gcp.prefix = "";
    project.backends.gcp.spanner_instance = "kizashi";
    project.backends.gcp.spanner_database = name;
    if (kz_backends_open(&project, argc > 3 ? argv[3] : "memory", KZ_NEEDS_BUS | KZ_NEEDS_STORE,
                &backends, &err) != KZ_OK ||
            backends.bus->ops->create(backends.bus, nothing, NULL, &err) != KZ_OK ||
            backends.store->ops->create(backends.store, nothing, NULL, &err) != KZ_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    env.bus = backends.bus;
    env.store = metered(backends.store);
    publishing = cpu_s();
    messages = publish_all(env.bus, events, users, &bytes);
    publishing = cpu_s() - publishing;
    env.bus->ops->stats(env.bus, &before);
    cpu = cpu_s();
    wall = (double)kz_mono_us();
    if (kz_role_process.open(&env, &role, &err) != KZ_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    do {
        usleep(5000);
        env.bus->ops->stats(env.bus, &stats);
    } while (stats.acknowledged < messages);
    wall = ((double)kz_mono_us() - wall) * 1e-6;
    cpu = cpu_s() - cpu;
    kz_role_process.counters(role, &counters);
    printf("%zu events of %zu bytes in %llu messages, %zu users, %s\n", events, bytes / events,
            (unsigned long long)messages, users, backends.store->ops->name);
    printf("%.2f s, %.0f events/s; %llu requests, %llu timers fired\n", wall, (double)events / wall,
            (unsigned long long)counters.requests_total,
            (unsigned long long)counters.timers_fired_total);
    printf("CPU an event: %.1f us, of it in calls of the store %.1f us, the rest %.1f us "
           "(publishing "
           "beforehand %.1f us)\n",
            cpu * 1e6 / (double)events, (double)meter.ns * 1e-3 / (double)events,
            (cpu * 1e6 - (double)meter.ns * 1e-3) / (double)events,
            publishing * 1e6 / (double)events);
    kz_role_process.close(role);
    kz_backends_close(&backends);
    return 0;
}
