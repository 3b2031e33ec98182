/* app/roles/role_collect.c -- the collect role: events over HTTP onto the bus.
 *
 * What comes while a publishing is under way goes with the next one, as a log's commits do: so messages
 * carry more events the more there are, and nobody waits for a clock.
 *
 *     requests of loop turns -> [waiting] -> flight: a message a lane -> done -> answers
 *                                 at most FLIGHTS_MAX under way
 *
 * A request is answered 200 when the bus has kept all of its events. Whether they were there before is
 * known in process only: here all are accepted. What is refused (for its form) goes the same way, to
 * become a dead letter.
 *
 * Threads  the loop's; the bus calls back on its own.
 */

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "app/roles/role.h"
#include "app/roles/role_wait.h"
#include "base/diag.h"
#include "codec/ulid.h"
#include "collect/collect.h"
#include "contract/message.h"
#include "sys/clock.h"
#include "sys/random.h"

enum {
    ROLE_COLLECT_MAGIC = 0x6b7a726c,
    FLIGHTS_MAX = 4,
    MESSAGE_EVENTS_MAX = 500,
    MESSAGE_BYTES_MAX = 1 << 20, /* one event may be larger */
    UNANSWERED_BYTES_MAX = 64 << 20,
    REFUSE_MS = 500, /* after the bus has refused, so long are bodies not read */
    CLOSE_WAIT_MS = 3000,
};

struct open_message { /* of a lane, being filled */
    char key[KZ_LANE_BYTES];
    struct kz_buf data;
    size_t events;
};

struct flight {
    struct role_collect *role;
    struct kz_submission *first;       /* answered together, by `next` */
    struct kz_http_request *watermark; /* or who asked for one */
    size_t bytes;
    enum kz_code code;
    struct kz_err err;
    struct flight *next;
};

struct role_collect {
    struct kz_role role;
    uint32_t magic;
    struct kz_role_env *env;
    struct kz_intake intake;
    struct kz_collect *collect;
    struct kz_push_auth *push_auth; /* NULL: pushes need a key */
    struct kz_prng ids;             /* of events that came without; seeded by the kernel */

    struct kz_submission *waiting, **waiting_last;
    struct kz_waits *waits;
    struct kz_submission *holding, **holding_last; /* ?wait=, until news are heard */
    size_t flights, unanswered_bytes;
    int64_t refuse_until_ms; /* kz_mono_ms() */
    struct kz_err refusal;
    bool stopping;

    struct open_message lanes[KZ_LANE_COUNT];
    struct kz_buf text;     /* complete messages of a flight, one after the other */
    struct kz_buf messages; /* struct kz_bus_message; data by offset until all are there */
    struct {
        uint64_t messages, events, flights, failed;
    } counts;

    pthread_mutex_t lock;
    struct flight *landed, **landed_last; /* the bus has answered */
};

static struct role_collect *role_of(struct kz_role *role)
{
    struct role_collect *r = KZ_CONTAINER_OF(role, struct role_collect, role);

    KZ_CHECK_MAGIC(r, ROLE_COLLECT_MAGIC);
    return r;
}

static const struct kz_attribute format_attribute = {
        {KZ_ATTRIBUTE_FORMAT, sizeof(KZ_ATTRIBUTE_FORMAT) - 1}, {"1", 1}};

/* ---- events to messages -------------------------------------------------------------------------------- */

static void close_message(struct role_collect *r, unsigned lane)
{
    struct open_message *m = &r->lanes[lane];
    struct kz_bus_message message;

    if (!m->events)
        return;
    kz_lane_name(lane, m->key);
    message = (struct kz_bus_message){
            .data = kz_str_n(NULL, m->data.size),
            .key = kz_str(m->key),
            .attributes = &format_attribute,
            .attribute_count = 1,
    };
    kz_buf_str(&r->text, kz_buf_view(&m->data));
    kz_buf_put(&r->messages, &message, sizeof(message));
    r->counts.messages++;
    r->counts.events += m->events;
    kz_buf_clear(&m->data);
    m->events = 0;
}

static void put_item(struct role_collect *r, struct kz_intake_item *item)
{
    struct kz_user_key key = kz_event_key(&item->event);
    unsigned lane = key.id.size ? (unsigned)(kz_owner_hash(key, 0) % KZ_LANE_COUNT) : 0;
    struct open_message *m = &r->lanes[lane];

    if (m->events == MESSAGE_EVENTS_MAX || m->data.size > MESSAGE_BYTES_MAX)
        close_message(r, lane);
    kz_message_put_item(item, &m->data);
    m->events++;
}

/* Our clock and our id, as the pipeline of one machine gives them. */
static void complete(struct role_collect *r, struct kz_intake_item *item, int64_t now_ms)
{
    struct kz_event *event = &item->event;
    char text[KZ_ULID_BYTES];
    uint8_t entropy[10];

    event->received_at_ms = r->env->event_clock && event->client_ts_ms ? event->client_ts_ms
                                                                       : now_ms;
    if (item->state == KZ_INTAKE_REJECTED || event->event_id.size)
        return;
    kz_prng_bytes(&r->ids, entropy, sizeof(entropy));
    kz_ulid(now_ms, entropy, text);
    memcpy(item->made_id, text, KZ_EVENT_ID_MADE_SIZE);
    event->event_id = kz_str_n(item->made_id, KZ_EVENT_ID_MADE_SIZE);
    event->flags |= KZ_EVENT_ID_MADE;
}

/* ---- flights --------------------------------------------------------------------------------------------- */

static void landed(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct flight *f = arg;
    struct role_collect *r = f->role;
    struct kz_role_env *env = r->env; /* outlives the role, which may go with its last flight */

    f->code = code;
    if (err)
        f->err = *err;
    pthread_mutex_lock(&r->lock);
    f->next = NULL;
    *r->landed_last = f;
    r->landed_last = &f->next;
    pthread_mutex_unlock(&r->lock);
    env->wake(env->wake_arg);
}

/* What is wrong between us and the bus is no fault of the client's: no 404 for a topic, no 408 for its
 * silence, and it is to come again. */
static void blame_the_bus(struct flight *f)
{
    if (f->code != KZ_OVERLOADED && f->code != KZ_TOO_LARGE && f->code != KZ_INVALID)
        f->code = f->err.code = KZ_UNAVAILABLE;
}

static void answer(struct role_collect *r, struct flight *f)
{
    if (f->code != KZ_OK) {
        blame_the_bus(f);
        r->counts.failed++;
        r->refusal = f->err;
        r->refuse_until_ms = kz_mono_ms() + REFUSE_MS;
    }
    if (f->watermark && f->code == KZ_OK)
        kz_http_respond(f->watermark, 204, NULL, KZ_STR_NULL, NULL, 0);
    else if (f->watermark)
        kz_http_respond_error(f->watermark, &f->err);
    for (struct kz_submission *s = f->first, *next; s; s = next) {
        next = s->next;
        if (s->wait_models && f->code == KZ_OK) {
            kz_waits_landed(r->waits, s);
            continue;
        }
        if (s->wait_models)
            kz_waits_forget(r->waits, s);
        s->done(s, f->code, &f->err);
    }
    r->unanswered_bytes -= f->bytes;
    free(f);
}

static void publish(struct role_collect *r, struct flight *f, const struct kz_bus_message *messages,
        size_t count)
{
    struct kz_bus *bus = r->env->bus;
    enum kz_code rc;

    rc = bus->ops->publish(bus, KZ_TOPIC_EVENTS, messages, count, landed, f, &f->err);
    if (rc != KZ_OK) { /* nothing was taken: each is told so */
        f->code = rc;
        answer(r, f);
        return;
    }
    r->flights++;
    r->counts.flights++;
    bus->ops->flush(bus);
}

/* Everything that waits, in one call. */
static void take_off(struct role_collect *r)
{
    struct flight *f = kz_calloc(1, sizeof(*f));
    struct kz_bus_message *messages;
    size_t count, at = 0;

    f->role = r;
    f->first = r->waiting;
    r->waiting = NULL;
    r->waiting_last = &r->waiting;
    kz_buf_clear(&r->text);
    kz_buf_clear(&r->messages);
    for (struct kz_submission *s = f->first; s; s = s->next)
        for (size_t i = 0; i < s->item_count; i++)
            put_item(r, s->items[i]);
    for (unsigned lane = 0; lane < KZ_LANE_COUNT; lane++)
        close_message(r, lane);
    messages = (struct kz_bus_message *)(void *)r->messages.data;
    count = r->messages.size / sizeof(*messages);
    for (size_t i = 0; i < count; at += messages[i++].data.size)
        messages[i].data.ptr = r->text.data + at;
    f->bytes = r->text.size;
    r->unanswered_bytes += f->bytes;
    publish(r, f, messages, count);
}

static void push(struct kz_submission ***last, struct kz_submission *submission)
{
    submission->next = NULL;
    **last = submission;
    *last = &submission->next;
}

/* Those who wait for predictions, once news of them would be heard, or their time is over. */
static void release_held(struct role_collect *r)
{
    while (r->holding && (kz_waits_hears(r->waits) || kz_mono_us() >= r->holding->wait_until_us)) {
        struct kz_submission *submission = r->holding;

        r->holding = submission->next;
        if (!r->holding)
            r->holding_last = &r->holding;
        push(&r->waiting_last, submission);
    }
}

static void turn(struct kz_role *role)
{
    struct role_collect *r = role_of(role);
    struct flight *list;

    pthread_mutex_lock(&r->lock);
    list = r->landed;
    r->landed = NULL;
    r->landed_last = &r->landed;
    pthread_mutex_unlock(&r->lock);
    while (list) {
        struct flight *f = list;

        list = f->next;
        r->flights--;
        answer(r, f);
    }
    release_held(r);
    if (r->waiting && r->flights < FLIGHTS_MAX)
        take_off(r);
    if (r->stopping)
        kz_waits_stop(r->waits);
    kz_waits_turn(r->waits);
}

static int next_ms(struct kz_role *role)
{
    return kz_waits_next_ms(role_of(role)->waits);
}

/* ---- intake ------------------------------------------------------------------------------------------------ */

static void submit(struct kz_intake *intake, struct kz_submission *submission)
{
    struct role_collect *r = KZ_CONTAINER_OF(intake, struct role_collect, intake);
    int64_t now_ms = kz_clock_ms();

    for (size_t i = 0; i < submission->item_count; i++)
        complete(r, submission->items[i], now_ms);
    if (!submission->wait_models) {
        push(&r->waiting_last, submission);
        return;
    }
    submission->wait_until_us = kz_mono_us() + (int64_t)submission->wait_timeout_ms * 1000;
    kz_waits_watch(r->waits, submission);
    push(kz_waits_hears(r->waits) ? &r->waiting_last : &r->holding_last, submission);
}

static enum kz_code ready_for(struct kz_intake *intake, struct kz_err *err)
{
    struct role_collect *r = KZ_CONTAINER_OF(intake, struct role_collect, intake);

    if (r->stopping)
        return kz_fail(err, KZ_UNAVAILABLE, "stopping");
    if (r->unanswered_bytes > UNANSWERED_BYTES_MAX)
        return kz_fail(err, KZ_OVERLOADED, "the bus does not keep up");
    if (kz_mono_ms() < r->refuse_until_ms)
        return kz_fail(err, KZ_OVERLOADED, "the bus refuses: %s", r->refusal.message);
    return KZ_OK;
}

/* ---- HTTP ---------------------------------------------------------------------------------------------------- */

static enum kz_code admit(struct kz_role *role, const struct kz_http_request *req,
        size_t *body_max_bytes, struct kz_err *err)
{
    return kz_collect_admit(role_of(role)->collect, req, body_max_bytes, err);
}

/* POST /v1/watermark?ms= on virtual time: everything was sent, so what waits for a time by then is due. */
static bool handle_watermark(struct role_collect *r, struct kz_http_request *req)
{
    struct kz_attribute attributes[2] = {
            format_attribute, {KZ_STR(KZ_ATTRIBUTE_WATERMARK), KZ_STR_NULL}};
    struct kz_bus_message message = {.data = KZ_STR("\n"),
            .key = KZ_STR("lane-000"),
            .attributes = attributes,
            .attribute_count = 2};
    struct flight *f;

    if (!r->env->event_clock || !kz_str_is(req->path, "/v1/watermark") ||
            req->method != KZ_HTTP_POST || !kz_http_query_get(req, "ms", &attributes[1].value) ||
            !attributes[1].value.size)
        return false;
    f = kz_calloc(1, sizeof(*f));
    f->role = r;
    f->watermark = req;
    publish(r, f, &message, 1);
    return true;
}

static bool handle(struct kz_role *role, struct kz_http_request *req)
{
    struct role_collect *r = role_of(role);

    return kz_collect_handle(r->collect, req) || handle_watermark(r, req);
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

static enum kz_code open_role(
        struct kz_role_env *env, struct kz_role **ret_role, struct kz_err *err)
{
    static const struct kz_intake_ops intake_ops = {.submit = submit, .ready = ready_for};
    struct kz_push_auth *push_auth;
    struct role_collect *r;
    struct kz_collect_options options = {.project = env->project, .auth = env->auth};
    uint64_t seed;

    KZ_TRY(kz_push_auth_open_project(env->project, &push_auth, err));
    r = kz_calloc(1, sizeof(*r));
    options.intake = &r->intake;
    options.push_auth = r->push_auth = push_auth;
    r->role.ops = &kz_role_collect;
    r->magic = ROLE_COLLECT_MAGIC;
    r->env = env;
    r->intake.ops = &intake_ops;
    r->waiting_last = &r->waiting;
    r->landed_last = &r->landed;
    r->holding_last = &r->holding;
    r->waits = kz_waits_new(env);
    options.query = kz_waits_query(r->waits);
    pthread_mutex_init(&r->lock, NULL);
    kz_random_bytes(&seed, sizeof(seed));
    kz_prng_init(&r->ids, seed);
    r->collect = kz_collect_new(&options);
    *ret_role = &r->role;
    return KZ_OK;
}

static void stop_role(struct kz_role *role, int64_t deadline_ms)
{
    (void)deadline_ms; /* requests have the server's */
    role_of(role)->stopping = true;
}

static bool stopped(struct kz_role *role)
{
    const struct role_collect *r = role_of(role);

    return !r->waiting && !r->holding && !r->flights && !kz_waits_count(r->waits);
}

static void close_role(struct kz_role *role)
{
    struct role_collect *r = role_of(role);
    int64_t until_ms = kz_mono_ms() + CLOSE_WAIT_MS;

    r->stopping = true;
    while ((r->flights || r->waiting || r->holding) && kz_mono_ms() < until_ms) {
        turn(role);
        usleep(2000);
    }
    if (r->flights || r->waiting || r->holding) {
        kz_diag_warn("the bus has not answered in time: its answers are not waited for",
                "flights=%zu", r->flights);
        r->env->abandoned = true;
        return; /* they come to what is left in memory: the process ends */
    }
    kz_waits_stop(r->waits);
    kz_waits_free(r->waits);
    kz_collect_free(r->collect);
    kz_push_auth_close(r->push_auth);
    for (unsigned lane = 0; lane < KZ_LANE_COUNT; lane++)
        kz_buf_done(&r->lanes[lane].data);
    kz_buf_done(&r->text);
    kz_buf_done(&r->messages);
    pthread_mutex_destroy(&r->lock);
    r->magic = 0;
    free(r);
}

/* ---- what is known ----------------------------------------------------------------------------------------------- */

static void counters(struct kz_role *role, struct kz_pipeline_counters *to)
{
    const struct role_collect *r = role_of(role);

    /* Where process is elsewhere, what came in is counted here. */
    if (!(r->env->kinds & 1u << KZ_ROLE_PROCESS))
        to->events_accepted_total += r->counts.events;
}

static void backlog(struct kz_role *role, struct kz_role_backlog *ret)
{
    ret->messages = role_of(role)->flights;
    ret->oldest_ms = 0;
}

static void metrics(struct kz_role *role, struct kz_buf *out)
{
    const struct role_collect *r = role_of(role);

#define COUNTER(name, help, value)                                                                 \
    kz_buf_printf(out,                                                                             \
            "# HELP kizashi_collect_" name " " help "\n# TYPE kizashi_collect_" name               \
            " counter\nkizashi_collect_" name " %" PRIu64 "\n",                                    \
            (uint64_t)(value))
    COUNTER("messages_total", "messages of events given to the bus", r->counts.messages);
    COUNTER("publishes_total", "publishings, each of all that waited", r->counts.flights);
    COUNTER("publishes_failed_total", "publishings that failed: their requests were answered so",
            r->counts.failed);
#undef COUNTER
    kz_collect_metrics(r->collect, out);
}

static void problems(struct kz_role *role, kz_serve_say *say, void *to)
{
    struct role_collect *r = role_of(role);
    struct kz_err err;

    if (!r->stopping && ready_for(&r->intake, &err) != KZ_OK)
        say(to, KZ_SEVERE_CRITICAL, "events are refused", err.message,
                "clients are told 503 with Retry-After; look at the bus below");
}

const struct kz_role_ops kz_role_collect = {
        .open = open_role,
        .admit = admit,
        .handle = handle,
        .turn = turn,
        .next_ms = next_ms,
        .counters = counters,
        .backlog = backlog,
        .metrics = metrics,
        .problems = problems,
        .stop = stop_role,
        .stopped = stopped,
        .close = close_role,
};
