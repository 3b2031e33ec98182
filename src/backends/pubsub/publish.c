/* Publishing: messages of one key are a lane, and go out in batches.
 *
 *                 publish()        batch is due             answer
 *     publication ---------> lane ---------------> call ----------------> done
 *                              ^                     | may pass: later
 *                              +---------------------+
 *
 * P1  A lane with a key has at most one call under way, so that its messages keep their order; a
 *     batch that is tried again goes before what came after it.
 * P2  A lane is in `armed`, in order of the time its first batch is due, exactly when it has a
 *     batch waiting and may have another call.
 * P3  A publication is done, once, when the last of its messages is settled. `done` is called
 *     under no lock.
 * P4  Messages are counted in `count` and `bytes` from publish() until they are settled.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "backends/pubsub/pubsub_int.h"
#include "base/arena.h"
#include "base/hash.h"
#include "sys/clock.h"

enum {
    BATCH_WAIT_MS = 5,
    BATCH_SEND_BYTES = 256 << 10, /* no use in waiting for more */
    BATCH_SEND_COUNT = 100,
    BATCH_MAX_BYTES = 9500000, /* 10 MB and 1,000 messages are the service's limits of a request */
    BATCH_MAX_COUNT = 1000,
    OVERHEAD_BYTES = 32, /* of a message besides its strings, at most */
    PUBLISHING_MAX_BYTES = 64 << 20,
    ATTEMPT_MS = 10000,
    CALLS_WITHOUT_KEY = 8,
    CLOSE_MS = 5000,
    BUCKETS = 1024,
};

struct publication {
    void (*done)(void *arg, enum kz_code code, const struct kz_err *err);
    void *arg;
    size_t left;        /* messages not settled */
    struct kz_err *err; /* NULL: none has failed */
    STAILQ_ENTRY(publication) place;
};
STAILQ_HEAD(publications, publication);

struct part { /* of a batch: consecutive messages of one publication */
    struct publication *publication;
    size_t count;
};

struct batch {
    struct lane *lane;
    struct kz_arena arena; /* all that messages are made of */
    KZ_PUBSUB(PubsubMessage) * *messages;
    size_t count, capacity;
    struct part *parts;
    size_t part_count, part_capacity;
    size_t bytes;        /* of the request, at most */
    uint64_t data_bytes; /* of the messages' data */
    int64_t due_ms, give_up_ms;
    unsigned tries;
    TAILQ_ENTRY(batch) place;
};

struct lane {
    struct kz_ps_publisher *publisher;
    enum kz_topic topic;
    uint64_t hash;
    char *key;
    unsigned calls, calls_max;
    bool is_armed;
    TAILQ_HEAD(batches, batch) waiting;
    TAILQ_ENTRY(lane) place; /* in armed */
    struct lane *next;       /* in its bucket */
};
TAILQ_HEAD(lanes, lane);

struct kz_ps_publisher {
    struct kz_ps *ps;
    int64_t batch_wait_ms;
    size_t batch_send_bytes, bytes_max;
    struct kz_thread thread;

    pthread_mutex_t lock;
    pthread_cond_t work; /* for the thread */
    pthread_cond_t idle; /* nothing is being published */
    int64_t asleep_until_ms;
    struct lane *buckets[BUCKETS];
    struct lanes armed;
    struct publications empty; /* without messages: done as soon as the thread comes by */
    size_t count, bytes, calls;
    int64_t hold_until_ms; /* the service asked for less */
    unsigned throttled;    /* so many times in a row */
    bool closing;          /* nothing is tried again */
    bool stop;
};

/* ---- lanes ----------------------------------------------------------------------------------- */

static void disarm(struct lane *lane)
{
    if (!lane->is_armed)
        return;
    TAILQ_REMOVE(&lane->publisher->armed, lane, place);
    lane->is_armed = false;
}

/* P2. Most are due behind all others; what is due at once, before them. */
static void arm(struct lane *lane)
{
    struct lanes *armed = &lane->publisher->armed;
    struct batch *batch = TAILQ_FIRST(&lane->waiting);
    struct lane *before, *first;

    disarm(lane);
    if (!batch || lane->calls >= lane->calls_max)
        return;
    lane->is_armed = true;
    first = TAILQ_FIRST(armed);
    if (!first || batch->due_ms <= TAILQ_FIRST(&first->waiting)->due_ms) {
        TAILQ_INSERT_HEAD(armed, lane, place);
        if (batch->due_ms < lane->publisher->asleep_until_ms)
            pthread_cond_signal(&lane->publisher->work);
        return;
    }
    before = TAILQ_LAST(armed, lanes);
    while (TAILQ_FIRST(&before->waiting)->due_ms > batch->due_ms)
        before = TAILQ_PREV(before, lanes, place);
    TAILQ_INSERT_AFTER(armed, before, lane, place);
}

static struct lane *get_lane(struct kz_ps_publisher *p, enum kz_topic topic, struct kz_str key)
{
    uint64_t hash = kz_hash_seed(key.ptr, key.size, topic);
    struct lane *lane = p->buckets[hash % BUCKETS];

    while (lane && (lane->hash != hash || lane->topic != topic || !kz_str_is(key, lane->key)))
        lane = lane->next;
    if (lane)
        return lane;
    lane = kz_calloc(1, sizeof(*lane));
    lane->publisher = p;
    lane->topic = topic;
    lane->hash = hash;
    lane->key = kz_strndup(key.ptr ? key.ptr : "", key.size);
    lane->calls_max = key.size ? 1 : CALLS_WITHOUT_KEY;
    TAILQ_INIT(&lane->waiting);
    lane->next = p->buckets[hash % BUCKETS];
    p->buckets[hash % BUCKETS] = lane;
    return lane;
}

static void drop_lane_if_empty(struct lane *lane)
{
    struct lane **at = &lane->publisher->buckets[lane->hash % BUCKETS];

    if (lane->calls || !TAILQ_EMPTY(&lane->waiting))
        return;
    while (*at != lane)
        at = &(*at)->next;
    *at = lane->next;
    free(lane->key);
    free(lane);
}

/* ---- batches --------------------------------------------------------------------------------- */

static size_t wire_bytes(const struct kz_bus_message *m)
{
    size_t bytes = OVERHEAD_BYTES + m->data.size + m->key.size;

    for (size_t i = 0; i < m->attribute_count; i++)
        bytes += OVERHEAD_BYTES / 2 + m->attributes[i].name.size + m->attributes[i].value.size;
    return bytes;
}

static KZ_PUBSUB(PubsubMessage) *
        encode(struct kz_arena *arena, const struct kz_bus_message *from, char *key)
{
    KZ_PUBSUB(PubsubMessage) *m = kz_arena_must(arena, sizeof(*m));

    google__pubsub__v1__pubsub_message__init(m);
    m->data.len = from->data.size;
    m->data.data = kz_arena_must(arena, from->data.size + 1);
    if (from->data.size)
        memcpy(m->data.data, from->data.ptr, from->data.size);
    m->ordering_key = key;
    m->attributes = kz_arena_must(arena, (from->attribute_count + 1) * sizeof(m->attributes[0]));
    m->n_attributes = from->attribute_count;
    for (size_t i = 0; i < from->attribute_count; i++) {
        KZ_PUBSUB(PubsubMessage__Attribute) *attribute = kz_arena_must(arena, sizeof(*attribute));

        google__pubsub__v1__pubsub_message__attribute__init(attribute);
        attribute->key = kz_arena_cstr(arena, from->attributes[i].name);
        attribute->value = kz_arena_cstr(arena, from->attributes[i].value);
        m->attributes[i] = attribute;
    }
    return m;
}

static struct batch *open_batch(struct lane *lane, size_t bytes)
{
    struct batch *batch = TAILQ_LAST(&lane->waiting, batches);

    if (batch && !batch->tries && batch->count < BATCH_MAX_COUNT &&
            batch->bytes + bytes <= BATCH_MAX_BYTES)
        return batch;
    batch = kz_calloc(1, sizeof(*batch));
    batch->lane = lane;
    kz_arena_init(&batch->arena, 0);
    batch->due_ms = kz_mono_ms() + lane->publisher->batch_wait_ms;
    batch->give_up_ms = kz_mono_ms() + lane->publisher->ps->timeout_ms;
    TAILQ_INSERT_TAIL(&lane->waiting, batch, place);
    return batch;
}

static void add(struct kz_ps_publisher *p, struct lane *lane, const struct kz_bus_message *message,
        struct publication *publication)
{
    size_t bytes = wire_bytes(message);
    struct batch *batch = open_batch(lane, bytes);

    if (batch->count == batch->capacity) {
        batch->capacity = batch->capacity ? batch->capacity * 2 : 4;
        batch->messages = kz_realloc(batch->messages, batch->capacity * sizeof(batch->messages[0]));
    }
    batch->messages[batch->count++] = encode(&batch->arena, message, lane->key);
    if (!batch->part_count || batch->parts[batch->part_count - 1].publication != publication) {
        if (batch->part_count == batch->part_capacity) {
            batch->part_capacity = batch->part_capacity ? batch->part_capacity * 2 : 4;
            batch->parts = kz_realloc(batch->parts, batch->part_capacity * sizeof(batch->parts[0]));
        }
        batch->parts[batch->part_count++] = (struct part){publication, 0};
    }
    batch->parts[batch->part_count - 1].count++;
    publication->left++;
    batch->bytes += bytes;
    batch->data_bytes += message->data.size;
    p->count++;
    p->bytes += bytes;
    if (batch->bytes >= p->batch_send_bytes || batch->count >= BATCH_SEND_COUNT)
        batch->due_ms = 0;
    if (!lane->is_armed || batch == TAILQ_FIRST(&lane->waiting))
        arm(lane);
}

/* Settles all messages of a batch and frees it; publications that are done by it go to `ended`.
 * `err` NULL: they are kept. */
static void settle(struct kz_ps_publisher *p, struct batch *batch, const struct kz_err *err,
        struct publications *ended)
{
    for (size_t i = 0; i < batch->part_count; i++) {
        struct publication *publication = batch->parts[i].publication;

        if (err && !publication->err) {
            publication->err = kz_malloc(sizeof(*err));
            *publication->err = *err;
        }
        publication->left -= batch->parts[i].count;
        if (!publication->left)
            STAILQ_INSERT_TAIL(ended, publication, place);
    }
    p->count -= batch->count;
    p->bytes -= batch->bytes;
    if (err) {
        p->ps->publish_failures += batch->count;
    } else {
        p->ps->published += batch->count;
        p->ps->bytes_published += batch->data_bytes;
    }
    free(batch->parts);
    free(batch->messages);
    kz_arena_done(&batch->arena);
    free(batch);
}

static void call_done(struct publications *ended)
{
    struct publication *publication;

    while ((publication = STAILQ_FIRST(ended))) {
        STAILQ_REMOVE_HEAD(ended, place);
        if (publication->done)
            publication->done(publication->arg, publication->err ? publication->err->code : KZ_OK,
                    publication->err);
        free(publication->err);
        free(publication);
    }
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* Whether the batch goes back to wait for another try. */
static bool try_again(struct kz_ps_publisher *p, struct batch *batch, enum kz_code code)
{
    int64_t now_ms = kz_mono_ms();
    int64_t wait_ms = KZ_MAX(kz_rpc_backoff_ms(batch->tries), kz_rpc_retry_ms());

    if (code == KZ_LIMIT) {
        p->hold_until_ms = now_ms + kz_rpc_backoff_ms(p->throttled);
        p->throttled++;
    }
    if (p->closing || !kz_rpc_may_pass(code) || now_ms + wait_ms >= batch->give_up_ms)
        return false;
    batch->tries++;
    batch->due_ms = now_ms + wait_ms;
    p->ps->publish_retries += batch->count;
    return true;
}

/* On the completion thread. */
static void on_published(
        void *arg, enum kz_code code, const ProtobufCMessage *answer, const struct kz_err *err)
{
    struct batch *batch = arg;
    struct lane *lane = batch->lane;
    struct kz_ps_publisher *p = lane->publisher;
    struct kz_ps_topic *topic = &p->ps->topics[lane->topic];
    struct publications ended = STAILQ_HEAD_INITIALIZER(ended);
    struct kz_err why;

    (void)answer; /* ids, of no use to us */
    if (code != KZ_OK) {
        why = *err;
        (void)kz_ps_failed(p->ps, code, "topic", topic->id, "roles/pubsub.publisher", &why);
    }
    pthread_mutex_lock(&p->lock);
    lane->calls--;
    p->calls--;
    if (code != KZ_OK && try_again(p, batch, code)) {
        TAILQ_INSERT_HEAD(&lane->waiting, batch, place); /* P1 */
    } else {
        if (code == KZ_OK)
            p->throttled = 0;
        else if (p->closing && kz_rpc_may_pass(code))
            why.code = KZ_UNAVAILABLE;
        settle(p, batch, code == KZ_OK ? NULL : &why, &ended);
    }
    arm(lane);
    drop_lane_if_empty(lane);
    pthread_mutex_unlock(&p->lock);
    if (code == KZ_OK)
        kz_rpc_health_worked(&topic->health);
    else
        kz_ps_unwell(&topic->health, &why);
    call_done(&ended);
    pthread_mutex_lock(&p->lock);
    if (!p->count)
        pthread_cond_broadcast(&p->idle);
    pthread_mutex_unlock(&p->lock);
}

/* Gives up the lock meanwhile: the batch is nobody else's. */
static void send_first(struct kz_ps_publisher *p, struct lane *lane)
{
    const struct kz_ps_topic *topic = &p->ps->topics[lane->topic];
    struct batch *batch = TAILQ_FIRST(&lane->waiting);
    KZ_PUBSUB(PublishRequest) request = GOOGLE__PUBSUB__V1__PUBLISH_REQUEST__INIT;
    struct kz_rpc_options options = {
            .method = "/google.pubsub.v1.Publisher/Publish",
            .routing = topic->routing,
            .once = true, /* try_again() must know of RESOURCE_EXHAUSTED */
    };

    TAILQ_REMOVE(&lane->waiting, batch, place);
    lane->calls++;
    p->calls++;
    arm(lane);
    pthread_mutex_unlock(&p->lock);
    options.timeout_ms = KZ_MAX(
            KZ_MIN(batch->give_up_ms - kz_mono_ms(), (int64_t)ATTEMPT_MS), (int64_t)1);
    request.topic = topic->name;
    request.messages = batch->messages;
    request.n_messages = batch->count;
    kz_rpc_start(p->ps->channel, &options, &request.base,
            &google__pubsub__v1__publish_response__descriptor, on_published, batch);
    pthread_mutex_lock(&p->lock);
}

static void run(void *arg)
{
    struct kz_ps_publisher *p = arg;

    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        struct lane *lane = TAILQ_FIRST(&p->armed);
        int64_t due_ms = lane ? KZ_MAX(TAILQ_FIRST(&lane->waiting)->due_ms, p->hold_until_ms)
                              : INT64_MAX;

        if (!STAILQ_EMPTY(&p->empty)) {
            struct publications ended = STAILQ_HEAD_INITIALIZER(ended);

            STAILQ_CONCAT(&ended, &p->empty);
            pthread_mutex_unlock(&p->lock);
            call_done(&ended);
            pthread_mutex_lock(&p->lock);
        } else if (due_ms <= kz_mono_ms()) {
            send_first(p, lane);
        } else {
            p->asleep_until_ms = due_ms;
            (void)kz_ps_cond_wait(&p->work, &p->lock, due_ms); /* either way, look again */
            p->asleep_until_ms = 0;
        }
    }
    pthread_mutex_unlock(&p->lock);
}

/* ---- for the bus ----------------------------------------------------------------------------- */

enum kz_code kz_ps_publish(struct kz_bus *bus, enum kz_topic topic,
        const struct kz_bus_message *messages, size_t count,
        void (*done)(void *arg, enum kz_code code, const struct kz_err *err), void *arg,
        struct kz_err *err)
{
    struct kz_ps_publisher *p = kz_ps_of(bus)->publisher;
    struct publication *publication;
    size_t bytes = 0;

    KZ_TRY(kz_bus_messages_check(messages, count, err));
    for (size_t i = 0; i < count; i++)
        bytes += wire_bytes(&messages[i]);
    pthread_mutex_lock(&p->lock);
    if (p->bytes && p->bytes + bytes > p->bytes_max) {
        size_t under_way = p->bytes;

        pthread_mutex_unlock(&p->lock);
        return kz_fail(err, KZ_OVERLOADED, "%zu bytes are being published, at most %zu may be",
                under_way, p->bytes_max);
    }
    publication = kz_calloc(1, sizeof(*publication));
    publication->done = done;
    publication->arg = arg;
    for (size_t i = 0; i < count; i++)
        add(p, get_lane(p, topic, messages[i].key), &messages[i], publication);
    if (!count) {
        STAILQ_INSERT_TAIL(&p->empty, publication, place);
        pthread_cond_signal(&p->work);
    }
    pthread_mutex_unlock(&p->lock);
    return KZ_OK;
}

void kz_ps_flush(struct kz_bus *bus)
{
    struct kz_ps_publisher *p = kz_ps_of(bus)->publisher;

    pthread_mutex_lock(&p->lock);
    for (struct lane *lane = TAILQ_FIRST(&p->armed), *next; lane; lane = next) {
        struct batch *batch = TAILQ_FIRST(&lane->waiting);

        next = TAILQ_NEXT(lane, place);
        if (!batch->tries) {
            batch->due_ms = 0;
            arm(lane);
        }
    }
    pthread_mutex_unlock(&p->lock);
}

uint64_t kz_ps_publishing(struct kz_ps_publisher *publisher)
{
    uint64_t count;

    pthread_mutex_lock(&publisher->lock);
    count = publisher->count;
    pthread_mutex_unlock(&publisher->lock);
    return count;
}

enum kz_code kz_ps_publisher_open(struct kz_ps *ps, const struct kz_pubsub_options *options,
        struct kz_ps_publisher **ret_publisher, struct kz_err *err)
{
    struct kz_ps_publisher *p = kz_calloc(1, sizeof(*p));
    enum kz_code rc;

    p->ps = ps;
    p->batch_wait_ms = options->batch_wait_ms ? KZ_MAX(options->batch_wait_ms, (int64_t)0)
                                              : BATCH_WAIT_MS;
    p->batch_send_bytes = options->batch_max_bytes ? options->batch_max_bytes : BATCH_SEND_BYTES;
    p->bytes_max = options->publishing_max_bytes ? options->publishing_max_bytes
                                                 : PUBLISHING_MAX_BYTES;
    pthread_mutex_init(&p->lock, NULL);
    kz_ps_cond_init(&p->work);
    kz_ps_cond_init(&p->idle);
    TAILQ_INIT(&p->armed);
    STAILQ_INIT(&p->empty);
    rc = kz_thread_start(&p->thread, "kz-ps-publish", run, p, err);
    if (rc != KZ_OK) {
        kz_ps_publisher_free(p);
        return rc;
    }
    *ret_publisher = p;
    return KZ_OK;
}

static void give_up(struct kz_ps_publisher *p, struct publications *ended)
{
    struct kz_err err;

    (void)kz_fail(&err, KZ_UNAVAILABLE, "the bus was closed before it was published");
    for (size_t b = 0; b < BUCKETS; b++) {
        for (struct lane *lane = p->buckets[b], *next; lane; lane = next) {
            struct batch *batch;

            next = lane->next;
            while ((batch = TAILQ_FIRST(&lane->waiting))) {
                TAILQ_REMOVE(&lane->waiting, batch, place);
                settle(p, batch, &err, ended);
            }
            disarm(lane);
            drop_lane_if_empty(lane);
        }
    }
}

void kz_ps_publisher_stop(struct kz_ps_publisher *p)
{
    struct publications ended = STAILQ_HEAD_INITIALIZER(ended);
    int64_t until_ms = kz_mono_ms() + CLOSE_MS;

    kz_ps_flush(&p->ps->base);
    pthread_mutex_lock(&p->lock);
    while (p->count && kz_ps_cond_wait(&p->idle, &p->lock, until_ms))
        ;
    p->closing = true;
    p->stop = true;
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
    kz_thread_join(&p->thread);
    pthread_mutex_lock(&p->lock);
    give_up(p, &ended);
    STAILQ_CONCAT(&ended, &p->empty);
    pthread_mutex_unlock(&p->lock);
    call_done(&ended);
}

void kz_ps_publisher_free(struct kz_ps_publisher *p)
{
    KZ_BUG_ON(p->count || p->calls);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->idle);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
