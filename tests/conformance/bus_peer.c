/* The C bus as a program, for tests with a client of another language at the other end.
 *
 *     bus_peer create GCP_PROJECT PROJECT
 *     bus_peer publish GCP_PROJECT PROJECT TOPIC          messages on stdin, a JSON object a line
 *     bus_peer pull GCP_PROJECT PROJECT TOPIC NAME COUNT  the same on stdout, acknowledged
 *     bus_peer bench GCP_PROJECT PROJECT COUNT            what COUNT messages cost this process
 *
 * A message is {"data","key"?,"attributes"?}; what was pulled has "id", "attempt" and
 * "published_ms", too. Data is text here. PUBSUB_EMULATOR_HOST says where Pub/Sub is. The last line
 * on stderr of publish and pull is what the bus has counted.
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "backends/pubsub/pubsub.h"
#include "codec/json.h"
#include "codec/json_out.h"
#include "sys/clock.h"

enum { WAIT_MS = 30000, LINE_ATTRIBUTES_MAX = KZ_ATTRIBUTES_MAX };

static int complain(const struct kz_err *err)
{
    fprintf(stderr, "%s: %s\n%s\n", kz_code_name(err->code), err->message, err->hint);
    return 1;
}

static bool find_topic(const char *name, enum kz_topic *ret_topic)
{
    for (unsigned t = 0; t < KZ_TOPIC_COUNT; t++) {
        if (strcmp(kz_topic_suffix((enum kz_topic)t), name) == 0) {
            *ret_topic = (enum kz_topic)t;
            return true;
        }
    }
    fprintf(stderr, "no topic is called \"%s\"\n", name);
    return false;
}

/* ---- numbers --------------------------------------------------------------------------------- */

static void print_stats(struct kz_bus *bus)
{
    struct kz_bus_stats stats;

    bus->ops->stats(bus, &stats);
    fprintf(stderr,
            "{\"published\":%" PRIu64 ",\"publish_retries\":%" PRIu64 ",\"received\":%" PRIu64
            ",\"reconnects\":%" PRIu64 ",\"throttled\":%s}\n",
            stats.published, stats.publish_retries, stats.received, stats.reconnects,
            stats.throttled ? "true" : "false");
}

/* ---- publish --------------------------------------------------------------------------------- */

struct outcome {
    atomic_uint done;
    struct kz_err err;
};

static void on_done(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct outcome *outcome = arg;

    if (code != KZ_OK)
        outcome->err = *err;
    atomic_store(&outcome->done, 1);
}

static enum kz_code publish_line(
        struct kz_bus *bus, enum kz_topic topic, struct kz_str line, struct kz_err *err)
{
    struct kz_json_value root, name, value;
    struct kz_attribute attributes[LINE_ATTRIBUTES_MAX];
    struct kz_bus_message message = {.attributes = attributes};
    struct outcome outcome = {0};
    struct kz_json_walk walk;
    struct kz_arena arena;
    enum kz_code rc;

    kz_arena_init(&arena, 0);
    rc = kz_json_parse(line, 0, &root, err);
    if (rc == KZ_OK && kz_json_get(root, "data").kind != KZ_JSON_NONE)
        rc = kz_json_str(kz_json_get(root, "data"), &arena, &message.data, err);
    if (rc == KZ_OK && kz_json_get(root, "key").kind != KZ_JSON_NONE)
        rc = kz_json_str(kz_json_get(root, "key"), &arena, &message.key, err);
    if (rc == KZ_OK) {
        walk = kz_json_walk(kz_json_get(root, "attributes"));
        while (rc == KZ_OK && message.attribute_count < LINE_ATTRIBUTES_MAX &&
                kz_json_walk_member(&walk, &name, &value)) {
            struct kz_attribute *attribute = &attributes[message.attribute_count++];

            rc = kz_json_str(name, &arena, &attribute->name, err);
            if (rc == KZ_OK)
                rc = kz_json_str(value, &arena, &attribute->value, err);
        }
    }
    if (rc == KZ_OK)
        rc = bus->ops->publish(bus, topic, &message, 1, on_done, &outcome, err);
    if (rc == KZ_OK) {
        bus->ops->flush(bus);
        while (!atomic_load(&outcome.done))
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        rc = outcome.err.code;
        if (rc != KZ_OK)
            *err = outcome.err;
    }
    kz_arena_done(&arena);
    return rc;
}

static int publish(struct kz_bus *bus, enum kz_topic topic)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t size;
    struct kz_err err;
    enum kz_code rc = KZ_OK;

    while (rc == KZ_OK && (size = getline(&line, &capacity, stdin)) > 0)
        rc = publish_line(bus, topic, kz_str_n(line, (size_t)size), &err);
    free(line);
    print_stats(bus);
    return rc == KZ_OK ? 0 : complain(&err);
}

/* ---- pull ------------------------------------------------------------------------------------ */

static void print(const struct kz_bus_delivery *d)
{
    struct kz_buf text = {0};
    struct kz_json_out out = kz_json_out(&text);

    kz_json_out_object(&out);
    kz_json_out_kv_str(&out, "id", d->id);
    kz_json_out_kv_str(&out, "data", d->data);
    kz_json_out_kv_str(&out, "key", d->key);
    kz_json_out_kv_u64(&out, "attempt", d->attempt);
    kz_json_out_kv_i64(&out, "published_ms", d->published_ms);
    kz_json_out_key(&out, "attributes");
    kz_json_out_object(&out);
    for (size_t i = 0; i < d->attribute_count; i++) {
        kz_json_out_key_str(&out, d->attributes[i].name);
        kz_json_out_str(&out, d->attributes[i].value);
    }
    kz_json_out_object_end(&out);
    kz_json_out_object_end(&out);
    kz_buf_char(&text, '\n');
    fwrite(text.data, 1, text.size, stdout);
    kz_buf_done(&text);
}

static int pull(struct kz_bus *bus, enum kz_topic topic, const char *name, size_t count)
{
    const struct kz_bus_pull_options options = {.topic = topic, .name = name};
    int64_t until_ms = kz_mono_ms() + WAIT_MS;
    struct kz_bus_source *source;
    struct kz_err err;

    if (bus->ops->open_source(bus, &options, &source, &err) != KZ_OK)
        return complain(&err);
    while (count && kz_mono_ms() < until_ms) {
        struct kz_bus_delivery *delivery;
        size_t have = 0;

        if (source->ops->pull(source, &delivery, 1, 1000, &have, &err) != KZ_OK) {
            (void)complain(&err);
            break;
        }
        if (have) {
            print(delivery);
            source->ops->ack(source, &delivery, 1);
            count--;
        }
    }
    print_stats(bus);
    source->ops->close_source(source);
    fflush(stdout);
    return count ? 1 : 0;
}

/* ---- bench ----------------------------------------------------------------------------------- */

enum { BENCH_BYTES = 100 * 300, BENCH_LANES = 1024, BENCH_HELD = 1000 };

struct cost {
    int64_t wall_us, cpu_us;
};

static struct cost now(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (struct cost){
            kz_mono_us(), (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * INT64_C(1000000) +
                                  usage.ru_utime.tv_usec + usage.ru_stime.tv_usec};
}

static void report(const char *what, struct cost from, size_t count)
{
    struct cost to = now();

    printf("%s: %zu messages of %d bytes, %.1f us of CPU and %.1f us of time a message\n", what,
            count, BENCH_BYTES, (double)(to.cpu_us - from.cpu_us) / (double)count,
            (double)(to.wall_us - from.wall_us) / (double)count);
}

static void on_bench(void *arg, enum kz_code code, const struct kz_err *err)
{
    if (code != KZ_OK) {
        fprintf(stderr, "%s\n", err->message);
        exit(1);
    }
    atomic_fetch_add((atomic_uint *)arg, 1);
}

/* First the one, then the other, so that each has its own figures. */
static int bench(struct kz_bus *bus, size_t count)
{
    const struct kz_bus_pull_options options = {
            .topic = KZ_TOPIC_EVENTS, .name = "process", .messages_max = BENCH_HELD};
    struct kz_bus_delivery *deliveries[BENCH_HELD];
    struct kz_bus_source *source;
    atomic_uint done = 0;
    char *data = kz_calloc(1, BENCH_BYTES);
    struct cost from;
    struct kz_err err;
    size_t have, pulled = 0;

    memset(data, 'x', BENCH_BYTES);
    from = now();
    for (size_t i = 0; i < count;) {
        char key[16];
        struct kz_bus_message message = {.data = {data, BENCH_BYTES}};
        enum kz_code rc;

        snprintf(key, sizeof(key), "lane-%04zu", i % BENCH_LANES);
        message.key = kz_str(key);
        rc = bus->ops->publish(bus, KZ_TOPIC_EVENTS, &message, 1, on_bench, &done, &err);
        if (rc == KZ_OK)
            i++;
        else if (rc == KZ_OVERLOADED)
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        else
            return complain(&err);
    }
    while (atomic_load(&done) < count)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    report("publish", from, count);
    from = now();
    if (bus->ops->open_source(bus, &options, &source, &err) != KZ_OK)
        return complain(&err);
    while (pulled < count) {
        have = 0;
        if (source->ops->pull(source, deliveries, BENCH_HELD, 10000, &have, &err) != KZ_OK)
            return complain(&err);
        if (!have) {
            fprintf(stderr, "nothing came for 10 s\n");
            return 1;
        }
        source->ops->ack(source, deliveries, have);
        pulled += have;
    }
    report("pull and acknowledge", from, count);
    source->ops->close_source(source);
    free(data);
    return 0;
}

/* ---------------------------------------------------------------------------------------------- */

static int run(struct kz_bus *bus, int argc, char **argv)
{
    enum kz_topic topic;
    struct kz_err err;

    if (strcmp(argv[1], "create") == 0)
        return bus->ops->create(bus, NULL, NULL, &err) == KZ_OK ? 0 : complain(&err);
    if (argc == 5 && strcmp(argv[1], "bench") == 0)
        return bench(bus, (size_t)atoi(argv[4]));
    if (argc >= 5 && !find_topic(argv[4], &topic))
        return 2;
    if (argc == 5 && strcmp(argv[1], "publish") == 0)
        return publish(bus, topic);
    if (argc == 7 && strcmp(argv[1], "pull") == 0)
        return pull(bus, topic, argv[5], (size_t)atoi(argv[6]));
    fprintf(stderr,
            "usage: bus_peer create|publish|pull|bench GCP_PROJECT PROJECT [TOPIC [NAME] COUNT]\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct kz_pubsub_options options = {0};
    struct kz_rpc *rpc = NULL;
    struct kz_bus *bus = NULL;
    struct kz_err err;
    int code;

    if (argc < 4)
        return run(NULL, 0, (char *[]){"", ""});
    if (kz_rpc_open(&rpc, &err) != KZ_OK)
        return complain(&err);
    options.rpc = rpc;
    options.gcp_project = argv[2];
    options.project = argv[3];
    if (kz_pubsub_open(&options, &bus, &err) != KZ_OK) {
        kz_rpc_close(rpc);
        return complain(&err);
    }
    code = run(bus, argc, argv);
    bus->ops->close(bus);
    kz_rpc_close(rpc);
    return code;
}
