/* app/roles/role_process_message.c -- a message of EVENTS as items; what cannot be one, and where that
 * goes. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/roles/role_process_int.h"
#include "base/hash.h"
#include "codec/gzip.h"
#include "contract/message.h"
#include "sys/clock.h"

enum { INFLATED_MAX_BYTES = 32 << 20, MADE_ID_BYTES = 160, BURY_WAIT_MS = 5000 };

/* ---- reading -------------------------------------------------------------------------------- */

static bool is_printable(struct kz_str text)
{
    for (size_t i = 0; i < text.size; i++)
        if (text.ptr[i] <= ' ' || text.ptr[i] >= 0x7f)
            return false;
    return true;
}

/* A foreign publisher's events have what a push of the same message would give them: an id of the
 * message, so that it is a duplicate when it comes again, and its time. */
static void complete(struct worker *w, const struct kz_bus_delivery *delivery,
        struct kz_intake_item *item, size_t index)
{
    struct kz_event *event = &item->event;
    char *made;

    event->received_at_ms = KZ_MAX(delivery->published_ms, (int64_t)1);
    if (w->role->env->event_clock && event->client_ts_ms)
        event->received_at_ms = event->client_ts_ms;
    if (!event->client_ts_ms)
        event->client_ts_ms = event->received_at_ms;
    if (event->event_id.size)
        return;
    made = kz_arena_must(&w->arena, MADE_ID_BYTES);
    if (delivery->id.size <= MADE_ID_BYTES / 2 && is_printable(delivery->id))
        snprintf(made, MADE_ID_BYTES, "pubsub-" KZ_STR_FMT "-%zu", KZ_STR_ARG(delivery->id), index);
    else
        snprintf(
                made, MADE_ID_BYTES, "pubsub-%016" PRIx64 "-%zu", kz_hash_str(delivery->id), index);
    event->event_id = kz_str(made);
}

static enum kz_code shape(struct worker *w, const struct kz_bus_delivery *delivery,
        struct kz_shaped *ret, bool *ret_collected, struct kz_err *err)
{
    struct kz_str format = kz_attribute_get(
            delivery->attributes, delivery->attribute_count, KZ_ATTRIBUTE_FORMAT);
    struct kz_shape_input input = {.text = delivery->data, .arena = &w->arena};
    struct kz_buf plain = {0};
    enum kz_code rc;

    *ret_collected = format.size > 0;
    if (kz_str_is(format, "1"))
        return kz_shape_collected(w->role->shaper, &input, ret, err);
    if (format.size)
        return kz_fail(err, KZ_INVALID, "a message of format " KZ_STR_FMT " is not known here",
                KZ_STR_ARG(kz_str_n(format.ptr, KZ_MIN(format.size, (size_t)20))));
    if (!kz_gzip_is(delivery->data))
        return kz_shape_events(w->role->shaper, &input, ret, err);
    rc = kz_gzip_inflate(delivery->data, INFLATED_MAX_BYTES, &plain, err);
    input.text = kz_arena_str(&w->arena, kz_buf_view(&plain));
    kz_buf_done(&plain);
    return rc == KZ_OK ? kz_shape_events(w->role->shaper, &input, ret, err) : rc;
}

static void add_item(struct worker *w, struct kz_intake_item *item)
{
    if (w->item_count == w->item_capacity) {
        w->item_capacity = w->item_capacity ? w->item_capacity * 2 : 1024;
        w->items = kz_realloc(w->items, w->item_capacity * sizeof(struct kz_intake_item *));
    }
    w->items[w->item_count++] = item;
}

enum kz_code kz_process_read_message(
        struct worker *w, const struct kz_bus_delivery *delivery, struct kz_err *err)
{
    struct kz_shaped shaped = {0};
    bool collected;

    KZ_TRY(shape(w, delivery, &shaped, &collected, err));
    for (size_t i = 0; i < shaped.item_count; i++) {
        if (!collected)
            complete(w, delivery, shaped.items[i], i);
        shaped.items[i]->again = delivery->attempt > 1;
        add_item(w, shaped.items[i]);
    }
    return KZ_OK;
}

/* ---- burying -------------------------------------------------------------------------------- */

struct burial { /* somebody waits for it; whoever is last frees */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool done, left;
    enum kz_code code;
    struct kz_err err;
};

static void burial_free(struct burial *b)
{
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->wake);
    free(b);
}

static void buried(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct burial *b = arg;
    bool left;

    pthread_mutex_lock(&b->lock);
    b->done = true;
    b->code = code;
    if (err)
        b->err = *err;
    left = b->left;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
    if (left)
        burial_free(b);
}

/* KZ_TIMEOUT: it is not known yet; it may be there twice then. */
static enum kz_code wait_for(struct burial *b, struct kz_err *err)
{
    struct timespec until = kz_mono_after(BURY_WAIT_MS);
    enum kz_code rc;
    bool done;

    pthread_mutex_lock(&b->lock);
    while (!b->done && pthread_cond_clockwait(&b->wake, &b->lock, CLOCK_MONOTONIC, &until) == 0)
        ;
    done = b->done;
    b->left = !done;
    rc = done ? b->code
              : kz_fail(err, KZ_TIMEOUT, "the bus has not said that it has a dead message");
    if (done && rc != KZ_OK)
        *err = b->err;
    pthread_mutex_unlock(&b->lock);
    if (done)
        burial_free(b);
    return rc;
}

static enum kz_code bury_once(
        struct role_process *r, const struct kz_bus_message *message, struct kz_err *err)
{
    struct kz_bus *bus = r->env->bus;
    struct burial *b = kz_calloc(1, sizeof(*b));
    enum kz_code rc;

    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->wake, NULL);
    rc = bus->ops->publish(bus, KZ_TOPIC_DEAD, message, 1, buried, b, err);
    if (rc != KZ_OK) {
        burial_free(b);
        return rc;
    }
    bus->ops->flush(bus);
    return wait_for(b, err);
}

bool kz_process_bury(struct role_process *r, struct kz_str data, const struct kz_err *why)
{
    char reason[900]; /* Pub/Sub takes attributes of up to 1,024 bytes */
    struct kz_attribute attributes[] = {
            {KZ_STR(KZ_ATTRIBUTE_REASON), KZ_STR_NULL},
            {KZ_STR(KZ_ATTRIBUTE_CODE), kz_str(kz_code_name(why->code))},
            {KZ_STR(KZ_ATTRIBUTE_TOPIC), kz_str(kz_topic_suffix(KZ_TOPIC_EVENTS))},
    };
    struct kz_bus_message message = {
            .data = data, .attributes = attributes, .attribute_count = KZ_ARRAY_COUNT(attributes)};
    struct kz_err err;

    snprintf(reason, sizeof(reason), "%s", *why->message ? why->message : kz_code_name(why->code));
    attributes[0].value = kz_str(reason);
    while (bury_once(r, &message, &err) != KZ_OK) {
        kz_role_process_problem(r, "a dead message could not be published", &err);
        if (kz_role_process_giving_up(r))
            return false;
        kz_role_process_sleep(r, 1000);
    }
    pthread_mutex_lock(&r->lock);
    r->counts.dead++;
    pthread_mutex_unlock(&r->lock);
    return true;
}
