/* A subscription being pulled: what is held, and giving it out.
 *
 * S1  A message is in `ready` or in `given`, or it is gone; counts and bytes are those of the
 *     lists.
 * S2  No more than messages_max and bytes_max are given. The reader stops while as much is held,
 *     so what is held is bounded by one answer of the service more.
 * S3  What leaves by kz_ps_settle() has its id in `acks` or `nacks`; the keeper sends it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "backends/pubsub/pubsub_int.h"
#include "sys/clock.h"
#include "sys/random.h"

enum { FINISH_MS = 3000 }; /* for the last acknowledgements */

static struct kz_ps_source *source_of(struct kz_bus_source *base)
{
    struct kz_ps_source *source = KZ_CONTAINER_OF(base, struct kz_ps_source, base);

    KZ_CHECK_MAGIC(source, KZ_PS_SOURCE_MAGIC);
    return source;
}

static struct kz_ps_held *held_of(struct kz_bus_delivery *delivery)
{
    struct kz_ps_held *held = KZ_CONTAINER_OF(delivery, struct kz_ps_held, delivery);

    KZ_CHECK_MAGIC(held, KZ_PS_HELD_MAGIC);
    return held;
}

/* ---- giving ---------------------------------------------------------------------------------- */

static bool may_give(const struct kz_ps_source *source)
{
    const struct kz_ps_held *next = TAILQ_FIRST(&source->ready);

    return next && source->given_count < source->options.messages_max &&
           (!source->given_count ||
                   source->given_bytes + next->delivery.data.size <= source->options.bytes_max);
}

enum kz_code kz_ps_pull(struct kz_bus_source *base, struct kz_bus_delivery **deliveries, size_t max,
        int64_t wait_ms, size_t *ret_count, struct kz_err *err)
{
    struct kz_ps_source *source = source_of(base);
    int64_t until_ms = kz_mono_ms() + KZ_MAX(wait_ms, (int64_t)0);
    enum kz_code rc = KZ_OK;
    size_t count = 0;

    pthread_mutex_lock(&source->lock);
    while (!may_give(source) && kz_ps_cond_wait(&source->arrived, &source->lock, until_ms))
        ;
    while (count < max && may_give(source)) {
        struct kz_ps_held *held = TAILQ_FIRST(&source->ready);

        TAILQ_REMOVE(&source->ready, held, place);
        TAILQ_INSERT_TAIL(&source->given, held, place);
        source->ready_count--;
        source->given_count++;
        source->ready_bytes -= held->delivery.data.size;
        source->given_bytes += held->delivery.data.size;
        deliveries[count++] = &held->delivery;
    }
    if (!count && source->broken != KZ_OK) {
        rc = source->broken;
        if (err)
            *err = source->broken_err;
    }
    pthread_mutex_unlock(&source->lock);
    if (rc == KZ_OK)
        *ret_count = count;
    return rc;
}

static void settle(struct kz_ps_source *source, struct kz_bus_delivery **deliveries, size_t count,
        bool acknowledge)
{
    pthread_mutex_lock(&source->lock);
    for (size_t i = 0; i < count; i++) {
        struct kz_ps_held *held = held_of(deliveries[i]);

        TAILQ_REMOVE(&source->given, held, place);
        source->given_count--;
        source->given_bytes -= held->delivery.data.size;
        kz_ps_settle(source, held, acknowledge);
    }
    pthread_cond_signal(&source->room);
    pthread_cond_signal(&source->arrived);
    pthread_mutex_unlock(&source->lock);
}

void kz_ps_ack(struct kz_bus_source *base, struct kz_bus_delivery **deliveries, size_t count)
{
    struct kz_ps_source *source = source_of(base);

    settle(source, deliveries, count, true);
    source->ps->acknowledged += count;
}

void kz_ps_nack(struct kz_bus_source *base, struct kz_bus_delivery **deliveries, size_t count)
{
    struct kz_ps_source *source = source_of(base);

    settle(source, deliveries, count, false);
    source->ps->rejected += count;
}

void kz_ps_source_held(struct kz_ps_source *source, uint64_t *ret_count, int64_t *ret_oldest_ms)
{
    const struct kz_ps_held_list *lists[] = {&source->ready, &source->given};
    int64_t oldest_ms = 0;

    pthread_mutex_lock(&source->lock);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(lists); i++) {
        const struct kz_ps_held *held;

        TAILQ_FOREACH(held, lists[i], place)
        if (!oldest_ms || held->delivery.published_ms < oldest_ms)
            oldest_ms = held->delivery.published_ms;
    }
    *ret_count = source->ready_count + source->given_count;
    pthread_mutex_unlock(&source->lock);
    *ret_oldest_ms = oldest_ms;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void random_hex(char out[17])
{
    uint64_t number;

    kz_random_bytes(&number, sizeof(number));
    snprintf(out, 17, "%016" PRIx64, number);
}

static void free_source(struct kz_ps_source *source)
{
    KZ_BUG_ON(source->calls || source->ready_count || source->given_count);
    free(source->acks.items);
    free(source->nacks.items);
    free(source->id);
    free(source->name);
    free(source->routing);
    pthread_cond_destroy(&source->arrived);
    pthread_cond_destroy(&source->room);
    pthread_cond_destroy(&source->work);
    pthread_mutex_destroy(&source->lock);
    kz_rpc_health_done(&source->health);
    source->magic = 0;
    free(source);
}

static struct kz_ps_source *new_source(struct kz_ps *ps, const struct kz_bus_pull_options *options)
{
    struct kz_ps_source *source = kz_calloc(1, sizeof(*source));
    char own[17];

    random_hex(own);
    random_hex(source->client_id);
    source->magic = KZ_PS_SOURCE_MAGIC;
    source->base.ops = ps->base.ops;
    source->ps = ps;
    source->options = kz_bus_pull_options(options);
    source->options.name = NULL; /* borrowed only for the call */
    source->options.lease_ms = KZ_MIN(source->options.lease_ms, (int64_t)600000);
    source->is_own = !options->name;
    source->id = kz_ps_text(
            "%s-%s", ps->topics[options->topic].id, options->name ? options->name : own);
    source->name = kz_ps_text("projects/%s/subscriptions/%s", ps->gcp_project, source->id);
    source->routing = kz_ps_text("subscription=%s", source->name);
    for (size_t i = 0; i < ps->subscription_count; i++)
        if (strcmp(ps->subscriptions[i].id, source->id) == 0)
            source->subscription = &ps->subscriptions[i];
    kz_rpc_health_init(&source->health);
    pthread_mutex_init(&source->lock, NULL);
    kz_ps_cond_init(&source->arrived);
    kz_ps_cond_init(&source->room);
    kz_ps_cond_init(&source->work);
    TAILQ_INIT(&source->ready);
    TAILQ_INIT(&source->given);
    source->acks.due_ms = source->nacks.due_ms = INT64_MAX;
    source->lease_scan_ms = INT64_MAX;
    return source;
}

static void stop_threads(struct kz_ps_source *source)
{
    pthread_mutex_lock(&source->lock);
    source->closing = true;
    if (source->opening)
        kz_rpc_stream_cancel(source->opening);
    pthread_cond_signal(&source->room);
    pthread_mutex_unlock(&source->lock);
    kz_thread_join(&source->reader);
    pthread_mutex_lock(&source->lock);
    while (!TAILQ_EMPTY(&source->ready)) {
        struct kz_ps_held *held = TAILQ_FIRST(&source->ready);

        TAILQ_REMOVE(&source->ready, held, place);
        source->ready_count--;
        kz_ps_settle(source, held, false);
    }
    while (!TAILQ_EMPTY(&source->given)) {
        struct kz_ps_held *held = TAILQ_FIRST(&source->given);

        TAILQ_REMOVE(&source->given, held, place);
        source->given_count--;
        kz_ps_settle(source, held, false);
    }
    source->finish = true;
    source->finish_by_ms = kz_mono_ms() + FINISH_MS;
    source->acks.due_ms = source->acks.count ? 0 : INT64_MAX;
    source->nacks.due_ms = source->nacks.count ? 0 : INT64_MAX;
    pthread_cond_signal(&source->work);
    pthread_mutex_unlock(&source->lock);
    kz_thread_join(&source->keeper);
}

enum kz_code kz_ps_open_source(struct kz_bus *bus, const struct kz_bus_pull_options *options,
        struct kz_bus_source **ret_source, struct kz_err *err)
{
    struct kz_ps *ps = kz_ps_of(bus);
    struct kz_ps_source *source = new_source(ps, options);
    enum kz_code rc = KZ_OK;

    if (source->is_own)
        rc = kz_ps_create_own(ps, options->topic, source->name, ps->timeout_ms, err);
    if (rc == KZ_OK)
        rc = kz_thread_start(&source->keeper, "kz-ps-keep", kz_ps_keep, source, err);
    if (rc == KZ_OK)
        rc = kz_thread_start(&source->reader, "kz-ps-read", kz_ps_read, source, err);
    if (rc != KZ_OK) {
        stop_threads(source);
        free_source(source);
        return rc;
    }
    pthread_mutex_lock(&ps->lock);
    TAILQ_INSERT_TAIL(&ps->sources, source, place);
    pthread_mutex_unlock(&ps->lock);
    *ret_source = &source->base;
    return KZ_OK;
}

void kz_ps_close_source(struct kz_bus_source *base)
{
    struct kz_ps_source *source = source_of(base);
    struct kz_ps *ps = source->ps;

    pthread_mutex_lock(&ps->lock);
    TAILQ_REMOVE(&ps->sources, source, place);
    pthread_mutex_unlock(&ps->lock);
    stop_threads(source);
    if (source->is_own)
        KZ_IGNORE(kz_ps_delete_own(ps, source->name, NULL)); /* it expires unused */
    free_source(source);
}
