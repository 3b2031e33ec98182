#include "backends/memory/bus.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/hash.h"
#include "sys/clock.h"
#include "sys/thread.h"

enum { BUS_MAGIC = 0x6d656d62, SOURCE_MAGIC = 0x6d656d73, LETTER_MAGIC = 0x6d656d6c };

/* What was published: once in memory, whoever it goes to. */
struct message {
    unsigned refs;
    size_t size;
    struct kz_bus_delivery head; /* all but `attempt` */
};

/* A message in one subscription: in its queue, or held by one of its sources. */
struct letter {
    uint32_t magic;
    struct kz_bus_delivery delivery;
    struct message *message;
    struct letter *prev, *next;
};

struct letters { /* a list; `first` is the oldest */
    struct letter *first, *last;
    size_t count;
};

/* Messages of some keys, while a source holds any of them: the rest of them is for it. */
struct lane {
    const struct memory_source *source;
    size_t held;
};
enum { LANES = 1024 };

struct subscription {
    enum kz_topic topic;
    char *name; /* NULL: of one source, and goes with it */
    char *attribute, *value;
    struct lane *lanes; /* [LANES] by a hash of the key; NULL: not ordered */
    struct letters queue;
    pthread_cond_t arrived;
    struct subscription *next;
};

struct memory_source {
    struct kz_bus_source base;
    uint32_t magic;
    struct memory_bus *bus;
    struct subscription *subscription;
    struct kz_bus_pull_options options;
    struct letters held;
    uint64_t held_bytes;
    struct memory_source *prev, *next;
};

struct ending { /* a publish() whose `done` is to be called */
    void (*done)(void *arg, enum kz_code code, const struct kz_err *err);
    void *arg;
    struct ending *next;
};

struct memory_bus {
    struct kz_bus base;
    uint32_t magic;
    pthread_mutex_t lock;
    struct subscription *subscriptions;
    struct memory_source *sources;
    size_t waiting_max_bytes, waiting_bytes;
    unsigned attempts_max;
    uint64_t last_id;
    struct kz_bus_stats stats;

    struct kz_thread thread;
    pthread_cond_t ended;
    struct ending *endings, **endings_end;
    bool stop;
};

static const struct kz_bus_ops ops;

static struct memory_bus *bus_of(struct kz_bus *base)
{
    struct memory_bus *bus = KZ_CONTAINER_OF(base, struct memory_bus, base);

    KZ_CHECK_MAGIC(bus, BUS_MAGIC);
    return bus;
}

static struct memory_source *source_of(struct kz_bus_source *base)
{
    struct memory_source *source = KZ_CONTAINER_OF(base, struct memory_source, base);

    KZ_CHECK_MAGIC(source, SOURCE_MAGIC);
    return source;
}

static void init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

/* ---- messages and letters ----------------------------------------------------------------------
 */

static void put_last(struct letters *list, struct letter *letter)
{
    letter->next = NULL;
    letter->prev = list->last;
    *(list->last ? &list->last->next : &list->first) = letter;
    list->last = letter;
    list->count++;
}

static void put_first(struct letters *list, struct letter *letter)
{
    letter->prev = NULL;
    letter->next = list->first;
    *(list->first ? &list->first->prev : &list->last) = letter;
    list->first = letter;
    list->count++;
}

static void take_out(struct letters *list, struct letter *letter)
{
    *(letter->prev ? &letter->prev->next : &list->first) = letter->next;
    *(letter->next ? &letter->next->prev : &list->last) = letter->prev;
    list->count--;
}

static struct kz_str keep(char **at, struct kz_str text)
{
    char *copy = *at;

    if (text.size)
        memcpy(copy, text.ptr, text.size);
    *at += text.size;
    return kz_str_n(copy, text.size);
}

/* One block holds it all. */
static struct message *new_message(struct memory_bus *bus, const struct kz_bus_message *from)
{
    size_t size = sizeof(struct message) + 24 + from->data.size + from->key.size;
    struct message *m;
    char *at;

    for (size_t i = 0; i < from->attribute_count; i++)
        size += from->attributes[i].name.size + from->attributes[i].value.size;
    m = kz_malloc(size);
    *m = (struct message){.size = size};
    at = (char *)(m + 1);
    m->head.id = kz_str_n(at, (size_t)snprintf(at, 24, "%" PRIu64, ++bus->last_id));
    at += 24;
    m->head.data = keep(&at, from->data);
    m->head.key = keep(&at, from->key);
    for (size_t i = 0; i < from->attribute_count; i++)
        m->head.attributes[i] = (struct kz_attribute){
                keep(&at, from->attributes[i].name), keep(&at, from->attributes[i].value)};
    m->head.attribute_count = from->attribute_count;
    m->head.published_ms = kz_clock_ms();
    return m;
}

static void free_letter(struct letter *letter)
{
    letter->magic = 0;
    if (--letter->message->refs == 0)
        free(letter->message);
    free(letter);
}

static bool is_for(const struct subscription *s, enum kz_topic topic, const struct message *m)
{
    if (s->topic != topic)
        return false;
    if (!s->attribute)
        return true;
    for (size_t i = 0; i < m->head.attribute_count; i++)
        if (kz_str_is(m->head.attributes[i].name, s->attribute))
            return kz_str_is(m->head.attributes[i].value, s->value);
    return false;
}

static void enqueue(struct memory_bus *bus, struct subscription *s, struct letter *letter)
{
    put_last(&s->queue, letter);
    bus->waiting_bytes += letter->message->size;
    pthread_cond_broadcast(&s->arrived);
}

static void distribute(
        struct memory_bus *bus, enum kz_topic topic, const struct kz_bus_message *from)
{
    struct message *m = new_message(bus, from);

    m->refs = 1;
    for (struct subscription *s = bus->subscriptions; s; s = s->next) {
        struct letter *letter;

        if (!is_for(s, topic, m))
            continue;
        letter = kz_calloc(1, sizeof(*letter));
        letter->magic = LETTER_MAGIC;
        letter->message = m;
        letter->delivery = m->head;
        m->refs++;
        enqueue(bus, s, letter);
    }
    if (--m->refs == 0)
        free(m);
}

/* ---- publishing --------------------------------------------------------------------------------
 */

static void run_endings(void *arg)
{
    struct memory_bus *bus = arg;

    pthread_mutex_lock(&bus->lock);
    for (;;) {
        struct ending *ending = bus->endings;

        if (ending) {
            bus->endings = NULL;
            bus->endings_end = &bus->endings;
            pthread_mutex_unlock(&bus->lock);
            while (ending) {
                struct ending *next = ending->next;

                ending->done(ending->arg, KZ_OK, NULL);
                free(ending);
                ending = next;
            }
            pthread_mutex_lock(&bus->lock);
        } else if (bus->stop) {
            break;
        } else {
            pthread_cond_wait(&bus->ended, &bus->lock);
        }
    }
    pthread_mutex_unlock(&bus->lock);
}

static void add_ending(struct memory_bus *bus,
        void (*done)(void *arg, enum kz_code code, const struct kz_err *err), void *arg)
{
    struct ending *ending = kz_malloc(sizeof(*ending));

    *ending = (struct ending){.done = done, .arg = arg};
    *bus->endings_end = ending;
    bus->endings_end = &ending->next;
    pthread_cond_signal(&bus->ended);
}

static enum kz_code publish(struct kz_bus *base, enum kz_topic topic,
        const struct kz_bus_message *messages, size_t count,
        void (*done)(void *arg, enum kz_code code, const struct kz_err *err), void *arg,
        struct kz_err *err)
{
    struct memory_bus *bus = bus_of(base);
    enum kz_code rc = KZ_OK;

    KZ_TRY(kz_bus_messages_check(messages, count, err));
    pthread_mutex_lock(&bus->lock);
    if (bus->waiting_bytes > bus->waiting_max_bytes) {
        rc = kz_fail(err, KZ_OVERLOADED, "%zu bytes of messages wait for whoever takes them",
                bus->waiting_bytes);
    } else {
        for (size_t i = 0; i < count; i++) {
            distribute(bus, topic, &messages[i]);
            bus->stats.bytes_published += messages[i].data.size;
        }
        bus->stats.published += count;
        if (done)
            add_ending(bus, done, arg);
    }
    pthread_mutex_unlock(&bus->lock);
    return rc;
}

static void flush(struct kz_bus *base)
{
    KZ_IGNORE(bus_of(base)); /* nothing is ever batched */
}

/* ---- pulling -----------------------------------------------------------------------------------
 */

static struct subscription *add_subscription(
        struct memory_bus *bus, const struct kz_bus_subscription *from)
{
    struct subscription *s = kz_calloc(1, sizeof(*s));

    s->topic = from->topic;
    s->name = from->name ? kz_strdup(from->name) : NULL;
    s->attribute = from->attribute ? kz_strdup(from->attribute) : NULL;
    s->value = kz_strdup(from->value ? from->value : "");
    s->lanes = from->ordered ? kz_calloc(LANES, sizeof(*s->lanes)) : NULL;
    init_cond(&s->arrived);
    s->next = bus->subscriptions;
    bus->subscriptions = s;
    return s;
}

static void remove_subscription(struct memory_bus *bus, struct subscription *s)
{
    struct subscription **at = &bus->subscriptions;

    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    while (s->queue.first) {
        struct letter *letter = s->queue.first;

        take_out(&s->queue, letter);
        bus->waiting_bytes -= letter->message->size;
        free_letter(letter);
    }
    pthread_cond_destroy(&s->arrived);
    free(s->name);
    free(s->attribute);
    free(s->value);
    free(s->lanes);
    free(s);
}

static struct subscription *find_subscription(
        struct memory_bus *bus, enum kz_topic topic, const char *name)
{
    struct subscription *s = bus->subscriptions;

    while (s && (s->topic != topic || !s->name || strcmp(s->name, name) != 0))
        s = s->next;
    return s;
}

static enum kz_code open_source(struct kz_bus *base, const struct kz_bus_pull_options *options,
        struct kz_bus_source **ret_source, struct kz_err *err)
{
    struct memory_bus *bus = bus_of(base);
    struct memory_source *source;
    struct subscription *s;

    pthread_mutex_lock(&bus->lock);
    s = options->name
                ? find_subscription(bus, options->topic, options->name)
                : add_subscription(bus, &(struct kz_bus_subscription){.topic = options->topic});
    if (!s) {
        pthread_mutex_unlock(&bus->lock);
        return kz_fail(err, KZ_NOT_FOUND, "subscription \"%s\" of topic \"%s\" does not exist",
                options->name, kz_topic_suffix(options->topic));
    }
    source = kz_calloc(1, sizeof(*source));
    source->base.ops = &ops;
    source->magic = SOURCE_MAGIC;
    source->bus = bus;
    source->subscription = s;
    source->options = kz_bus_pull_options(options);
    source->options.name = NULL; /* borrowed only for the call */
    source->next = bus->sources;
    if (source->next)
        source->next->prev = source;
    bus->sources = source;
    pthread_mutex_unlock(&bus->lock);
    *ret_source = &source->base;
    return KZ_OK;
}

static struct lane *lane_of(const struct subscription *s, const struct letter *letter)
{
    return s->lanes && letter->delivery.key.size
                   ? &s->lanes[kz_hash_str(letter->delivery.key) % LANES]
                   : NULL;
}

/* The first one from `letter` on that the source may have now. */
static struct letter *find_letter(const struct memory_source *source, struct letter *letter)
{
    if (source->held.count >= source->options.messages_max)
        return NULL;
    for (; letter; letter = letter->next) {
        const struct lane *lane = lane_of(source->subscription, letter);

        if (lane && lane->held && lane->source != source)
            continue;
        if (source->held.count &&
                source->held_bytes + letter->message->size > source->options.bytes_max)
            return NULL;
        return letter;
    }
    return NULL;
}

static void take_letter(struct memory_source *source, struct letter *letter)
{
    struct lane *lane = lane_of(source->subscription, letter);

    take_out(&source->subscription->queue, letter);
    put_last(&source->held, letter);
    source->bus->waiting_bytes -= letter->message->size;
    source->held_bytes += letter->message->size;
    source->bus->stats.redelivered += ++letter->delivery.attempt > 1;
    if (lane) {
        lane->source = source;
        lane->held++;
    }
}

static enum kz_code pull(struct kz_bus_source *base, struct kz_bus_delivery **deliveries,
        size_t max, int64_t wait_ms, size_t *ret_count, struct kz_err *err)
{
    struct memory_source *source = source_of(base);
    struct memory_bus *bus = source->bus;
    int64_t until_ms = kz_mono_ms() + KZ_MAX(wait_ms, (int64_t)0);
    struct timespec until = {until_ms / 1000, until_ms % 1000 * 1000000};
    struct letter *letter, *next;
    size_t count = 0;

    (void)err;
    pthread_mutex_lock(&bus->lock);
    while (!find_letter(source, source->subscription->queue.first) && wait_ms > 0)
        if (pthread_cond_timedwait(&source->subscription->arrived, &bus->lock, &until) == ETIMEDOUT)
            break;
    for (letter = source->subscription->queue.first;
            count < max && (letter = find_letter(source, letter)); letter = next) {
        next = letter->next;
        take_letter(source, letter);
        deliveries[count++] = &letter->delivery;
    }
    bus->stats.received += count;
    pthread_mutex_unlock(&bus->lock);
    *ret_count = count;
    return KZ_OK;
}

static struct letter *let_go(struct memory_source *source, struct kz_bus_delivery *delivery)
{
    struct letter *letter = KZ_CONTAINER_OF(delivery, struct letter, delivery);
    struct lane *lane = lane_of(source->subscription, letter);

    KZ_CHECK_MAGIC(letter, LETTER_MAGIC);
    take_out(&source->held, letter);
    source->held_bytes -= letter->message->size;
    if (lane)
        lane->held--;
    return letter;
}

static void ack(struct kz_bus_source *base, struct kz_bus_delivery **deliveries, size_t count)
{
    struct memory_source *source = source_of(base);

    pthread_mutex_lock(&source->bus->lock);
    for (size_t i = 0; i < count; i++)
        free_letter(let_go(source, deliveries[i]));
    source->bus->stats.acknowledged += count;
    pthread_cond_broadcast(&source->subscription->arrived); /* there may be room again */
    pthread_mutex_unlock(&source->bus->lock);
}

/* Pub/Sub adds attributes of its own to a dead message; ours says where it came from. */
static void bury(struct memory_bus *bus, const struct subscription *s, struct letter *letter)
{
    struct kz_attribute attributes[KZ_ATTRIBUTES_MAX];
    size_t count = KZ_MIN(letter->delivery.attribute_count, (size_t)KZ_ATTRIBUTES_MAX - 1);

    memcpy(attributes, letter->delivery.attributes, count * sizeof(attributes[0]));
    attributes[count++] = (struct kz_attribute){
            KZ_STR("CloudPubSubDeadLetterSourceSubscription"), kz_str(s->name)};
    distribute(bus, KZ_TOPIC_DEAD,
            &(struct kz_bus_message){.data = letter->delivery.data,
                    .key = letter->delivery.key,
                    .attributes = attributes,
                    .attribute_count = count});
    free_letter(letter);
}

/* Back to where it came from: ahead of what is newer. */
static void give_back(struct memory_source *source, struct letter *letter)
{
    struct subscription *s = source->subscription;

    if (s->name && s->topic != KZ_TOPIC_DEAD &&
            letter->delivery.attempt >= source->bus->attempts_max) {
        bury(source->bus, s, letter);
        return;
    }
    put_first(&s->queue, letter);
    source->bus->waiting_bytes += letter->message->size;
}

static void nack(struct kz_bus_source *base, struct kz_bus_delivery **deliveries, size_t count)
{
    struct memory_source *source = source_of(base);

    pthread_mutex_lock(&source->bus->lock);
    for (size_t i = count; i-- > 0;)
        give_back(source, let_go(source, deliveries[i]));
    source->bus->stats.rejected += count;
    pthread_cond_broadcast(&source->subscription->arrived);
    pthread_mutex_unlock(&source->bus->lock);
}

static void close_source(struct kz_bus_source *base)
{
    struct memory_source *source = source_of(base);
    struct memory_bus *bus = source->bus;

    pthread_mutex_lock(&bus->lock);
    while (source->held.last)
        give_back(source, let_go(source, &source->held.last->delivery));
    pthread_cond_broadcast(&source->subscription->arrived);
    if (!source->subscription->name)
        remove_subscription(bus, source->subscription);
    *(source->prev ? &source->prev->next : &bus->sources) = source->next;
    if (source->next)
        source->next->prev = source->prev;
    pthread_mutex_unlock(&bus->lock);
    source->magic = 0;
    free(source);
}

/* ---- the rest ----------------------------------------------------------------------------------
 */

static enum kz_code check(struct kz_bus *base, struct kz_err *err)
{
    (void)err;
    KZ_IGNORE(bus_of(base)); /* what there can be is there since it was opened */
    return KZ_OK;
}

static enum kz_code create(struct kz_bus *base, void (*say)(void *arg, const char *line), void *arg,
        struct kz_err *err)
{
    (void)say;
    (void)arg;
    return check(base, err);
}

static void stats(struct kz_bus *base, struct kz_bus_stats *ret_stats)
{
    struct memory_bus *bus = bus_of(base);

    pthread_mutex_lock(&bus->lock);
    *ret_stats = bus->stats;
    for (struct memory_source *s = bus->sources; s; s = s->next) {
        ret_stats->held += s->held.count;
        for (struct letter *l = s->held.first; l; l = l->next)
            if (!ret_stats->oldest_ms || l->delivery.published_ms < ret_stats->oldest_ms)
                ret_stats->oldest_ms = l->delivery.published_ms;
    }
    pthread_mutex_unlock(&bus->lock);
}

static void close_bus(struct kz_bus *base)
{
    struct memory_bus *bus = bus_of(base);

    KZ_BUG_ON(bus->sources);
    pthread_mutex_lock(&bus->lock);
    bus->stop = true;
    pthread_cond_signal(&bus->ended);
    pthread_mutex_unlock(&bus->lock);
    kz_thread_join(&bus->thread);
    while (bus->subscriptions)
        remove_subscription(bus, bus->subscriptions);
    pthread_cond_destroy(&bus->ended);
    pthread_mutex_destroy(&bus->lock);
    bus->magic = 0;
    free(bus);
}

static const struct kz_bus_ops ops = {
        .name = "memory",
        .publish = publish,
        .flush = flush,
        .open_source = open_source,
        .pull = pull,
        .ack = ack,
        .nack = nack,
        .close_source = close_source,
        .check = check,
        .create = create,
        .stats = stats,
        .close = close_bus,
};

enum kz_code kz_memory_bus_open(
        const struct kz_memory_bus_options *options, struct kz_bus **ret_bus, struct kz_err *err)
{
    static const struct kz_memory_bus_options defaults;
    static const struct kz_bus_subscription standard[] = {
#define X(topic, name, ordered, what) {KZ_TOPIC_##topic, name, ordered, NULL, NULL},
            KZ_SUBSCRIPTIONS(X)
#undef X
    };
    const struct kz_memory_bus_options *o = options ? options : &defaults;
    struct memory_bus *bus = kz_calloc(1, sizeof(*bus));
    enum kz_code rc;

    bus->base.ops = &ops;
    bus->magic = BUS_MAGIC;
    bus->waiting_max_bytes = o->waiting_max_bytes ? o->waiting_max_bytes : (size_t)256 << 20;
    bus->attempts_max = o->attempts_max ? o->attempts_max : KZ_BUS_ATTEMPTS_MAX;
    bus->endings_end = &bus->endings;
    pthread_mutex_init(&bus->lock, NULL);
    init_cond(&bus->ended);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(standard); i++)
        add_subscription(bus, &standard[i]);
    for (size_t i = 0; i < o->subscription_count; i++)
        add_subscription(bus, &o->subscriptions[i]);
    rc = kz_thread_start(&bus->thread, "kz-bus-done", run_endings, bus, err);
    if (rc != KZ_OK) {
        close_bus(&bus->base);
        return rc;
    }
    *ret_bus = &bus->base;
    return KZ_OK;
}
