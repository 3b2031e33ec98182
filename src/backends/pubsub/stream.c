/* The reader of a source: a StreamingPull that is opened again whenever it ends.
 *
 *     open -> read while there is room -> ended: may pass  -> wait (back-off) -> open
 *                                              otherwise  -> `broken`, wait longer -> open
 *     closing: half-close, read to the end, close
 *
 * A stream that is cancelled lives on in the emulator and takes messages that nobody gets, so it is
 * half-closed and read to its end wherever there is time.
 */
#include <stdlib.h>

#include "backends/pubsub/pubsub_int.h"
#include "sys/clock.h"

enum {
    LOOK_MS = 100,          /* how soon `closing` is seen while nothing comes */
    CALM_MS = 1000,         /* a stream that has not failed by then is there */
    PATIENT_WAIT_MS = 1000, /* for somebody to mend it, or for less load */
    END_MS = 2000,          /* for the end of a stream that was half-closed */
    OWN_MS = 3000,          /* to make a subscription again: the source may be closing */
};

/* ---- what came in ---------------------------------------------------------------------------- */

static void fill(struct kz_ps_held *held)
{
    const KZ_PUBSUB(PubsubMessage) *m = held->message->message;
    struct kz_bus_delivery *d = &held->delivery;

    d->id = kz_str(m->message_id);
    d->data = kz_str_n(m->data.data, m->data.len);
    d->key = kz_str(m->ordering_key);
    d->attribute_count = KZ_MIN(m->n_attributes, (size_t)KZ_ATTRIBUTES_MAX);
    for (size_t i = 0; i < d->attribute_count; i++)
        d->attributes[i] = (struct kz_attribute){
                kz_str(m->attributes[i]->key), kz_str(m->attributes[i]->value)};
    d->attempt = held->message->delivery_attempt > 0 ? (unsigned)held->message->delivery_attempt
                                                     : 0;
    if (m->publish_time)
        d->published_ms = m->publish_time->seconds * 1000 + m->publish_time->nanos / 1000000;
}

/* The service filters; the emulator only remembers that it was asked to. */
static bool is_for(const struct kz_ps_source *source, const struct kz_bus_delivery *d)
{
    const struct kz_ps_subscription *s = source->subscription;

    if (!s || !s->attribute)
        return true;
    for (size_t i = 0; i < d->attribute_count; i++)
        if (kz_str_is(d->attributes[i].name, s->attribute))
            return kz_str_is(d->attributes[i].value, s->value);
    return false;
}

/* Takes the messages out of the answer. */
static void take(struct kz_ps_source *source, KZ_PUBSUB(StreamingPullResponse) * answer)
{
    int64_t lease_until_ms = kz_mono_ms() + source->options.lease_ms;
    uint64_t redelivered = 0, received = 0;

    pthread_mutex_lock(&source->lock);
    for (size_t i = 0; i < answer->n_received_messages; i++) {
        KZ_PUBSUB(ReceivedMessage) *message = answer->received_messages[i];
        struct kz_ps_held *held;

        if (!message->message || !message->ack_id[0]) {
            google__pubsub__v1__received_message__free_unpacked(message, NULL);
            continue; /* nothing that could be acknowledged */
        }
        held = kz_calloc(1, sizeof(*held));
        held->magic = KZ_PS_HELD_MAGIC;
        held->message = message;
        held->life = source->life;
        held->lease_until_ms = lease_until_ms;
        fill(held);
        if (!is_for(source, &held->delivery)) {
            kz_ps_settle(source, held, true);
            continue;
        }
        TAILQ_INSERT_TAIL(&source->ready, held, place);
        source->ready_count++;
        source->ready_bytes += held->delivery.data.size;
        redelivered += held->delivery.attempt > 1;
        received++;
    }
    answer->n_received_messages = 0;
    source->ps->received += received;
    source->ps->redelivered += redelivered;
    if (received && source->lease_scan_ms == INT64_MAX) {
        source->lease_scan_ms = kz_mono_ms() + source->options.lease_ms / 4;
        pthread_cond_signal(&source->work);
    }
    if (received)
        pthread_cond_signal(&source->arrived);
    pthread_mutex_unlock(&source->lock);
}

/* ---- how it is ------------------------------------------------------------------------------- */

static void set_well(struct kz_ps_source *source)
{
    pthread_mutex_lock(&source->lock);
    source->broken = KZ_OK;
    pthread_mutex_unlock(&source->lock);
    kz_rpc_health_worked(&source->health);
}

static void set_unwell(
        struct kz_ps_source *source, enum kz_code code, bool passes, struct kz_err *err)
{
    (void)kz_ps_failed(
            source->ps, code, "subscription", source->id, "roles/pubsub.subscriber", err);
    kz_ps_unwell(&source->health, err);
    pthread_mutex_lock(&source->lock);
    source->broken = passes ? KZ_OK : code;
    source->broken_err = *err;
    pthread_mutex_unlock(&source->lock);
}

/* false: the source is closing. */
static bool pause_reading(struct kz_ps_source *source, int64_t wait_ms)
{
    int64_t until_ms = kz_mono_ms() + wait_ms;
    bool closing;

    pthread_mutex_lock(&source->lock);
    while (!source->closing && kz_ps_cond_wait(&source->room, &source->lock, until_ms))
        ;
    closing = source->closing;
    pthread_mutex_unlock(&source->lock);
    return !closing;
}

/* Waits while as much is held as may be; false: the source is closing. */
static bool wait_for_room(struct kz_ps_source *source)
{
    bool closing;

    pthread_mutex_lock(&source->lock);
    while (!source->closing &&
            (source->ready_count + source->given_count >= source->options.messages_max ||
                    source->ready_bytes + source->given_bytes >= source->options.bytes_max))
        pthread_cond_wait(&source->room, &source->lock);
    closing = source->closing;
    pthread_mutex_unlock(&source->lock);
    return !closing;
}

/* ---- one stream ------------------------------------------------------------------------------ */

/* false: the source is closing. */
static bool set_opening(struct kz_ps_source *source, struct kz_rpc_stream *stream)
{
    bool closing;

    pthread_mutex_lock(&source->lock);
    source->opening = stream;
    closing = source->closing;
    pthread_mutex_unlock(&source->lock);
    return !closing;
}

static enum kz_code send_request(
        struct kz_ps_source *source, struct kz_rpc_stream *stream, struct kz_err *err)
{
    KZ_PUBSUB(StreamingPullRequest)
    request = GOOGLE__PUBSUB__V1__STREAMING_PULL_REQUEST__INIT;
    ProtobufCMessage *none = NULL;
    enum kz_code rc;

    request.subscription = source->name;
    request.stream_ack_deadline_seconds = (int32_t)(source->options.lease_ms / 1000);
    request.client_id = source->client_id;
    request.max_outstanding_messages = source->options.messages_max;
    request.max_outstanding_bytes = (int64_t)source->options.bytes_max;
    rc = kz_rpc_stream_write(stream, &request.base, err);
    if (rc != KZ_END)
        return rc;
    rc = kz_rpc_stream_next(stream, -1, &none, err);
    protobuf_c_message_free_unpacked(none, NULL);
    return rc == KZ_OK || rc == KZ_END
                   ? kz_fail(err, KZ_UNAVAILABLE, "the stream ended before it began")
                   : rc;
}

static enum kz_code open_stream(
        struct kz_ps_source *source, struct kz_rpc_stream **ret_stream, struct kz_err *err)
{
    const struct kz_rpc_options options = {
            .method = "/google.pubsub.v1.Subscriber/StreamingPull",
            .routing = source->routing,
    };
    KZ_AUTO(kz_rpc_stream_closep) struct kz_rpc_stream *stream = NULL;
    enum kz_code rc;

    KZ_TRY(kz_rpc_stream(source->ps->channel, &options,
            &google__pubsub__v1__streaming_pull_response__descriptor, &stream, err));
    rc = set_opening(source, stream) ? send_request(source, stream, err)
                                     : kz_fail(err, KZ_UNAVAILABLE, "the source is being closed");
    (void)set_opening(source, NULL); /* whoever waits for closing looks himself */
    if (rc == KZ_OK)
        *ret_stream = kz_take(&stream);
    return rc;
}

/* Half-closes and reads to the end, so that the service gives this stream nothing more. */
static void end_stream(struct kz_ps_source *source, struct kz_rpc_stream *stream)
{
    int64_t until_ms = kz_mono_ms() + END_MS;
    enum kz_code rc = KZ_OK;

    kz_rpc_stream_half_close(stream);
    while (rc == KZ_OK) {
        ProtobufCMessage *message = NULL;

        rc = kz_rpc_stream_next(
                stream, KZ_MAX(until_ms - kz_mono_ms(), (int64_t)0), &message, NULL);
        if (rc == KZ_OK) {
            take(source, (KZ_PUBSUB(StreamingPullResponse) *)message);
            protobuf_c_message_free_unpacked(message, NULL);
        }
    }
    kz_rpc_stream_close(stream);
}

/* Reads until the stream ends or the source closes (KZ_OK). `ret_lived`: it had worked. */
static enum kz_code read_stream(struct kz_ps_source *source, struct kz_rpc_stream *stream,
        bool *ret_lived, struct kz_err *err)
{
    int64_t opened_ms = kz_mono_ms();

    *ret_lived = false;
    while (wait_for_room(source)) {
        ProtobufCMessage *message = NULL;
        enum kz_code rc = kz_rpc_stream_next(stream, LOOK_MS, &message, err);

        if (rc == KZ_OK) {
            take(source, (KZ_PUBSUB(StreamingPullResponse) *)message);
            protobuf_c_message_free_unpacked(message, NULL);
        }
        if (rc == KZ_OK || (rc == KZ_TIMEOUT && kz_mono_ms() - opened_ms >= CALM_MS)) {
            *ret_lived = true;
            set_well(source);
        } else if (rc == KZ_END) {
            return kz_fail(err, KZ_UNAVAILABLE, "the service ended the stream");
        } else if (rc != KZ_TIMEOUT) {
            return rc;
        }
    }
    return KZ_OK;
}

void kz_ps_read(void *arg)
{
    struct kz_ps_source *source = arg;
    unsigned tries = 0;

    for (;;) {
        struct kz_rpc_stream *stream = NULL;
        bool lived = false, passes;
        int64_t wait_ms;
        struct kz_err err;
        enum kz_code rc = open_stream(source, &stream, &err);

        if (rc == KZ_OK)
            rc = read_stream(source, stream, &lived, &err);
        if (rc == KZ_OK) {
            end_stream(source, stream);
            return;
        }
        passes = kz_rpc_may_pass(rc);
        if (stream)
            kz_rpc_stream_close(stream);
        /* The service ends streams now and then: that alone is nothing to speak of. */
        tries = lived ? 0 : tries + 1;
        wait_ms = passes && rc != KZ_LIMIT ? kz_rpc_backoff_ms(tries) : PATIENT_WAIT_MS;
        if (!lived || !passes)
            set_unwell(source, rc, passes, &err);
        /* An emulator that cannot be reached has died, and forgets. */
        if (rc == KZ_NOT_FOUND || (rc == KZ_UNAVAILABLE && !lived && source->ps->is_emulator))
            kz_ps_forget(source);
        if (rc == KZ_NOT_FOUND && source->is_own)
            KZ_IGNORE(kz_ps_create_own(source->ps, source->options.topic, source->name, OWN_MS,
                    NULL)); /* the next stream tells */
        if (!pause_reading(source, wait_ms))
            return;
        source->ps->reconnects++;
    }
}
