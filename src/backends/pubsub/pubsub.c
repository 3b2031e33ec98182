#include "backends/pubsub/pubsub.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "backends/pubsub/pubsub_int.h"
#include "sys/clock.h"

#define ENDPOINT "pubsub.googleapis.com:443"

enum { TIMEOUT_MS = 30000, CONNECTIONS = 2, ATTEMPTS_LEAST = 5, ATTEMPTS_MOST = 100 };

/* ---- small helpers --------------------------------------------------------------------------- */

char *kz_ps_text(const char *fmt, ...)
{
    struct kz_buf buf = {0};
    va_list args;

    va_start(args, fmt);
    kz_buf_vprintf(&buf, fmt, args);
    va_end(args);
    kz_buf_char(&buf, '\0');
    return buf.data;
}

void kz_ps_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;

    KZ_BUG_ON(pthread_condattr_init(&attributes) != 0);
    KZ_BUG_ON(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) != 0);
    KZ_BUG_ON(pthread_cond_init(cond, &attributes) != 0);
    pthread_condattr_destroy(&attributes);
}

bool kz_ps_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t until_ms)
{
    const struct timespec until = {until_ms / 1000, until_ms % 1000 * 1000000};

    if (until_ms == INT64_MAX)
        return pthread_cond_wait(cond, lock) == 0;
    return pthread_cond_timedwait(cond, lock, &until) != ETIMEDOUT;
}

enum kz_code kz_ps_failed(const struct kz_ps *ps, enum kz_code code, const char *kind,
        const char *id, const char *role, struct kz_err *err)
{
    if (!err)
        return code;
    if (code == KZ_NOT_FOUND) {
        (void)kz_fail(
                err, code, "%s \"%s\" does not exist in project \"%s\"", kind, id, ps->gcp_project);
        return kz_hint(err, "`kizashi gcp init DIR` creates topics and subscriptions");
    }
    err->code = code;
    kz_wrap(err, "%s \"%s\" in project \"%s\"", kind, id, ps->gcp_project);
    if (code == KZ_FORBIDDEN)
        kz_hint(err, "grant %s on project %s to the service account", role, ps->gcp_project);
    return code;
}

void kz_ps_unwell(struct kz_rpc_health *health, const struct kz_err *err)
{
    char text[sizeof(err->message) + sizeof(err->hint) + 4];

    snprintf(text, sizeof(text), "%s%s%s", err->message, err->hint[0] ? ": " : "", err->hint);
    kz_rpc_health_failed(health, err->code, text);
}

/* ---- names ----------------------------------------------------------------------------------- */

static void set_topics(struct kz_ps *ps)
{
    kz_rpc_health_init(&ps->there);
    for (unsigned t = 0; t < KZ_TOPIC_COUNT; t++) {
        struct kz_ps_topic *topic = &ps->topics[t];

        topic->id = kz_ps_text("%s%s", ps->id_prefix, kz_topic_suffix((enum kz_topic)t));
        topic->name = kz_ps_text("projects/%s/topics/%s", ps->gcp_project, topic->id);
        topic->routing = kz_ps_text("topic=%s", topic->name);
        kz_rpc_health_init(&topic->health);
    }
}

static void set_subscription(
        struct kz_ps *ps, struct kz_ps_subscription *s, const struct kz_bus_subscription *from)
{
    s->topic = from->topic;
    s->short_name = kz_strdup(from->name);
    s->id = kz_ps_text("%s-%s", ps->topics[from->topic].id, from->name);
    s->name = kz_ps_text("projects/%s/subscriptions/%s", ps->gcp_project, s->id);
    s->ordered = from->ordered;
    s->attribute = from->attribute ? kz_strdup(from->attribute) : NULL;
    s->value = from->attribute ? kz_strdup(from->value) : NULL;
    s->filter = s->attribute ? kz_ps_text("attributes.%s = \"%s\"", s->attribute, s->value)
                             : kz_strdup("");
}

static void set_subscriptions(struct kz_ps *ps, const struct kz_pubsub_options *options)
{
    static const struct kz_bus_subscription standard[] = {
#define X(topic, name, ordered, what) {KZ_TOPIC_##topic, name, ordered, NULL, NULL},
            KZ_SUBSCRIPTIONS(X)
#undef X
    };
    size_t count = KZ_ARRAY_COUNT(standard);

    ps->subscription_count = count + options->subscription_count;
    ps->subscriptions = kz_calloc(ps->subscription_count, sizeof(ps->subscriptions[0]));
    for (size_t i = 0; i < count; i++)
        set_subscription(ps, &ps->subscriptions[i], &standard[i]);
    for (size_t i = 0; i < options->subscription_count; i++)
        set_subscription(ps, &ps->subscriptions[count + i], &options->subscriptions[i]);
}

/* What may stand in a name, of the characters Pub/Sub takes, without being escaped anywhere. */
static bool is_name(const char *name, size_t most)
{
    size_t size = name ? strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                      "0123456789-_.")
                       : 0;

    return size > 0 && size <= most && !name[size];
}

static bool is_identifier(const char *name)
{
    size_t size = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");

    return size > 0 && size <= 64 && !name[size] && (name[0] < '0' || name[0] > '9');
}

static enum kz_code check_options(const struct kz_pubsub_options *o, struct kz_err *err)
{
    if (!o->gcp_project || !o->gcp_project[0])
        return kz_fail(err, KZ_CONFIG, "Pub/Sub needs the Google Cloud project");
    if (!is_name(o->project, 100) || (o->prefix && o->prefix[0] && !is_name(o->prefix, 63)))
        return kz_fail(err, KZ_CONFIG,
                "\"%s%s\" cannot be part of a Pub/Sub name: letters, digits, \"-\", \"_\" and "
                "\".\" can",
                o->prefix ? o->prefix : "", o->project ? o->project : "");
    if (o->prefix && o->prefix[0] && !((o->prefix[0] | 32) >= 'a' && (o->prefix[0] | 32) <= 'z'))
        return kz_fail(
                err, KZ_CONFIG, "prefix \"%s\": names of Pub/Sub begin with a letter", o->prefix);
    if (o->prefix && strncasecmp(o->prefix, "goog", 4) == 0)
        return kz_fail(err, KZ_CONFIG,
                "prefix \"%s\": names of Pub/Sub may not begin with \"goog\"", o->prefix);
    if (o->attempts_max && (o->attempts_max < ATTEMPTS_LEAST || o->attempts_max > ATTEMPTS_MOST))
        return kz_fail(err, KZ_CONFIG, "attempts_max has to be %d to %d, not %u", ATTEMPTS_LEAST,
                ATTEMPTS_MOST, o->attempts_max);
    for (size_t i = 0; i < o->subscription_count; i++) {
        const struct kz_bus_subscription *s = &o->subscriptions[i];

        if (!is_name(s->name, 63))
            return kz_fail(err, KZ_CONFIG, "\"%s\" cannot be part of a Pub/Sub name",
                    s->name ? s->name : "");
        if (s->attribute && (!is_identifier(s->attribute) || strpbrk(s->value, "\"\\")))
            return kz_fail(
                    err, KZ_CONFIG, "a filter cannot ask for %s = \"%s\"", s->attribute, s->value);
    }
    return KZ_OK;
}

/* ---- the rest -------------------------------------------------------------------------------- */

/* The first problem is told. */
static void add_health(struct kz_rpc_health *health, struct kz_bus_stats *stats)
{
    char problem[sizeof(stats->problem)];
    bool throttled;

    kz_rpc_health_get(health, &throttled, problem);
    stats->throttled |= throttled;
    if (!stats->problem[0])
        memcpy(stats->problem, problem, sizeof(problem));
}

static void get_stats(struct kz_bus *bus, struct kz_bus_stats *ret_stats)
{
    struct kz_ps *ps = kz_ps_of(bus);
    struct kz_bus_stats stats = {
            .published = ps->published,
            .publish_failures = ps->publish_failures,
            .publish_retries = ps->publish_retries,
            .bytes_published = ps->bytes_published,
            .received = ps->received,
            .acknowledged = ps->acknowledged,
            .rejected = ps->rejected,
            .redelivered = ps->redelivered,
            .leases_extended = ps->leases_extended,
            .reconnects = ps->reconnects,
            .publishing = kz_ps_publishing(ps->publisher),
    };
    struct kz_ps_source *source;

    add_health(&ps->there, &stats);
    for (unsigned t = 0; t < KZ_TOPIC_COUNT; t++)
        add_health(&ps->topics[t].health, &stats);
    pthread_mutex_lock(&ps->lock);
    TAILQ_FOREACH(source, &ps->sources, place)
    {
        int64_t oldest_ms;
        uint64_t held;

        kz_ps_source_held(source, &held, &oldest_ms);
        stats.held += held;
        if (oldest_ms && (!stats.oldest_ms || oldest_ms < stats.oldest_ms))
            stats.oldest_ms = oldest_ms;
        add_health(&source->health, &stats);
    }
    pthread_mutex_unlock(&ps->lock);
    kz_rpc_health_add_silence(ps->channel, stats.problem);
    *ret_stats = stats;
}

static void close_bus(struct kz_bus *bus)
{
    struct kz_ps *ps = kz_ps_of(bus);

    KZ_BUG_ON(!TAILQ_EMPTY(&ps->sources));
    if (ps->publisher)
        kz_ps_publisher_stop(ps->publisher);
    if (ps->channel)
        kz_rpc_channel_close(ps->channel);
    if (ps->publisher)
        kz_ps_publisher_free(ps->publisher);
    for (unsigned t = 0; t < KZ_TOPIC_COUNT; t++) {
        free(ps->topics[t].id);
        free(ps->topics[t].name);
        free(ps->topics[t].routing);
        kz_rpc_health_done(&ps->topics[t].health);
    }
    kz_rpc_health_done(&ps->there);
    for (size_t i = 0; i < ps->subscription_count; i++) {
        free(ps->subscriptions[i].short_name);
        free(ps->subscriptions[i].id);
        free(ps->subscriptions[i].name);
        free(ps->subscriptions[i].attribute);
        free(ps->subscriptions[i].value);
        free(ps->subscriptions[i].filter);
    }
    free(ps->subscriptions);
    free(ps->gcp_project);
    free(ps->id_prefix);
    pthread_mutex_destroy(&ps->lock);
    ps->magic = 0;
    free(ps);
}

static const struct kz_bus_ops ops = {
        .name = "pubsub",
        .publish = kz_ps_publish,
        .flush = kz_ps_flush,
        .open_source = kz_ps_open_source,
        .pull = kz_ps_pull,
        .ack = kz_ps_ack,
        .nack = kz_ps_nack,
        .close_source = kz_ps_close_source,
        .check = kz_ps_check,
        .create = kz_ps_create,
        .stats = get_stats,
        .close = close_bus,
};

static enum kz_code start(
        struct kz_ps *ps, const struct kz_pubsub_options *options, struct kz_err *err)
{
    const struct kz_rpc_target target = {
            .endpoint = options->endpoint ? options->endpoint : ENDPOINT,
            .emulator = options->emulator ? options->emulator : getenv("PUBSUB_EMULATOR_HOST"),
            .connection_count = options->connection_count ? options->connection_count : CONNECTIONS,
    };

    ps->is_emulator = target.emulator && target.emulator[0];
    KZ_TRY(kz_rpc_connect(options->rpc, &target, &ps->channel, err));
    return kz_ps_publisher_open(ps, options, &ps->publisher, err);
}

enum kz_code kz_pubsub_open(
        const struct kz_pubsub_options *options, struct kz_bus **ret_bus, struct kz_err *err)
{
    struct kz_ps *ps;
    enum kz_code rc;

    KZ_TRY(check_options(options, err));
    ps = kz_calloc(1, sizeof(*ps));
    ps->base.ops = &ops;
    ps->magic = KZ_PS_MAGIC;
    ps->gcp_project = kz_strdup(options->gcp_project);
    ps->id_prefix = kz_ps_text(
            "%skizashi-%s-", options->prefix ? options->prefix : "", options->project);
    ps->attempts_max = options->attempts_max ? options->attempts_max : KZ_BUS_ATTEMPTS_MAX;
    ps->timeout_ms = options->timeout_ms ? options->timeout_ms : TIMEOUT_MS;
    set_topics(ps);
    set_subscriptions(ps, options);
    pthread_mutex_init(&ps->lock, NULL);
    TAILQ_INIT(&ps->sources);
    rc = start(ps, options, err);
    if (rc != KZ_OK) {
        close_bus(&ps->base);
        return rc;
    }
    *ret_bus = &ps->base;
    return KZ_OK;
}
