/* The serve role over the backends in memory: what process and infer have put there is found, shown,
 * acknowledged, posted, and forgotten.
 */
#include "rig.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>

#include "act/webhook.h"
#include "app/roles/news.h"
#include "app/roles/process.h"
#include "app/roles/role_serve_int.h"
#include "app/roles/userstate.h"

enum { WAIT_MS = 60000 };

/* ---- events in ------------------------------------------------------------------------------------ */

struct deployment {
    struct rig *rig;
    struct kz_process *process;
    struct kz_role *infer, *serve;
    struct kz_query *query;
    unsigned events;
    int64_t under_way_ms; /* from receipt to process */
    uint64_t last_event;  /* its seq */
};

static void send_event(struct deployment *d, const char *user, const char *anonymous,
        const char *name, enum kz_identity_op identity)
{
    struct kz_intake_item *item = kz_calloc(1, sizeof(*item));
    struct kz_process_outcome outcome = {0};
    char id[24];
    struct kz_err err;

    snprintf(id, sizeof(id), "e%u", d->events++);
    item->event.user_id = kz_str(user);
    item->event.anonymous_id = kz_str(anonymous);
    item->event.event_id = kz_str(id);
    item->event.name = kz_str(name);
    item->event.props = KZ_STR("{\"price\":3}");
    item->event.received_at_ms = kz_clock_ms() - d->under_way_ms;
    item->event.identity = identity;
    item->event.columns_id = 77;
    item->event.columns = item->columns;
    item->event.column_count = 1;
    item->columns[0] = (struct kz_value){.type = KZ_TYPE_FLOAT, .real = 3};
    if (kz_process_events(d->process, &item, 1, &outcome, &err) != KZ_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < outcome.request_count; i++) {
        struct kz_request_message message;
        struct kz_buf hold = {0};
        struct rig_request request = {.owner = outcome.requests[i].owner};
        struct kz_str model;

        assert_int_equal(
                kz_request_message_decode(outcome.requests[i].message, &hold, &message, &err),
                KZ_OK);
        model = kz_request_message_model(&message);
        snprintf(request.model, sizeof(request.model), KZ_STR_FMT, KZ_STR_ARG(model));
        kz_buf_str(&request.message, outcome.requests[i].message);
        rig_publish_request(d->rig, &request);
        kz_buf_done(&request.message);
        kz_buf_done(&hold);
    }
    d->last_event = item->seq;
    free(item);
}

static struct deployment *deploy(void)
{
    struct deployment *d = kz_calloc(1, sizeof(*d));
    struct kz_process_options options = {.project = &rig_project};
    struct kz_err err;

    d->rig = rig_new();
    options.store = d->rig->store;
    assert_int_equal(kz_process_open(&options, &d->process, &err), KZ_OK);
    d->infer = rig_open(d->rig, &kz_role_infer, false);
    d->serve = rig_open(d->rig, &kz_role_serve, false);
    d->query = d->serve->ops->query(d->serve);
    return d;
}

static void undeploy(struct deployment *d)
{
    kz_process_close(d->process);
    rig_free(d->rig);
    free(d);
}

/* ---- asking ------------------------------------------------------------------------------------------ */

struct asked {
    struct deployment *d;
    void (*look)(struct asked *asked);
    bool answered;
    enum kz_code code;
    uint32_t user;
    bool known;
    const char *id;
    const char *timed_event; /* NULL: none */
    uint32_t intake_us;
    size_t predictions, waiting;
    uint64_t decision, count;
    double score;
    char model[32];
    struct kz_history_rows rows;
};

static void pump(struct deployment *d, const bool *until)
{
    int64_t until_ms = kz_mono_ms() + WAIT_MS;

    while (!*until && kz_mono_ms() < until_ms) {
        d->serve->ops->turn(d->serve);
        usleep(1000);
    }
    assert_true(*until);
}

static void on_prepared(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct asked *asked = arg;
    struct kz_query *q = asked->d->query;

    if (code != KZ_OK)
        print_error("%s\n", err->message);
    asked->code = code;
    asked->known = code == KZ_OK &&
                   q->ops->find(q, (struct kz_user_key){'u', kz_str(asked->id)}, &asked->user);
    if (asked->look)
        asked->look(asked);
    asked->answered = true;
}

static void prepare(struct deployment *d, const char *user, unsigned what,
        void (*look)(struct asked *asked), struct asked *asked)
{
    struct kz_query_want want = {.what = KZ_WANT_USER | what,
            .key = {'u', kz_str(user)},
            .events_as_of = UINT64_MAX,
            .events_max = 100,
            .letters_max = 100,
            .erasure = asked->count,
            .timed_event = kz_str(asked->timed_event ? asked->timed_event : "")};

    asked->d = d;
    asked->look = look;
    asked->id = user;
    asked->answered = false;
    d->query->ops->prepare(d->query, &want, on_prepared, asked);
    pump(d, &asked->answered);
    assert_int_equal(asked->code, KZ_OK);
}

static void look_at_all(struct asked *asked)
{
    struct kz_query *q = asked->d->query;
    const struct kz_slot *slot = NULL;
    struct kz_source sources[KZ_SOURCES_MAX];
    struct kz_buf out = {0};
    struct kz_prediction prediction;
    struct kz_err err;

    asked->predictions = asked->waiting = 0;
    if (!asked->known)
        return;
    while ((slot = q->ops->slot(q, asked->user, KZ_SLOT_PREDICTION, slot))) {
        size_t count = q->ops->sources(q, asked->user, KZ_CHAIN_NOTES, sources);

        assert_int_equal(
                kz_history_get_of(q->reader, slot->prediction.result, sources, count, &out, &err),
                KZ_OK);
        assert_int_equal(kz_prediction_decode((const void *)out.data, &prediction, &err), KZ_OK);
        if (kz_str_is(prediction.model, "counter"))
            asked->score = prediction.score;
        asked->predictions++;
    }
    while ((slot = q->ops->slot(q, asked->user, KZ_SLOT_DELIVERY, slot))) {
        asked->waiting++;
        asked->decision = slot->delivery.decision;
    }
    kz_buf_done(&out);
}

/* Asks until `waiting` deliveries wait. */
static void await_waiting(
        struct deployment *d, const char *user, size_t waiting, struct asked *asked)
{
    int64_t until_ms = kz_mono_ms() + WAIT_MS;

    do {
        prepare(d, user, 0, look_at_all, asked);
    } while (asked->waiting != waiting && kz_mono_ms() < until_ms);
    assert_int_equal(asked->waiting, waiting);
}

static void on_durable(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct asked *asked = arg;

    (void)err;
    asked->code = code;
    asked->answered = true;
}

static void await_change(struct deployment *d, struct asked *asked, enum kz_code want)
{
    asked->answered = false;
    d->query->ops->when_durable(d->query, d->query->ops->end(d->query), on_durable, asked);
    pump(d, &asked->answered);
    assert_int_equal(asked->code, want);
}

static void acknowledge(struct asked *asked)
{
    struct kz_query *q = asked->d->query;
    struct kz_err err;

    asked->code = q->ops->acknowledge(q, asked->user, asked->decision, &err);
    if (asked->code != KZ_OK)
        asked->count = 99;
    asked->code = KZ_OK;
}

static void count_deliveries(struct asked *asked)
{
    struct kz_query *q = asked->d->query;
    struct kz_source sources[KZ_SOURCES_MAX];
    struct kz_history_query wanted = {.sources = sources,
            .source_count = q->ops->sources(q, asked->user, KZ_CHAIN_NOTES, sources),
            .chain = KZ_CHAIN_NOTES,
            .as_of = UINT64_MAX};
    struct kz_history_rows rows;
    struct kz_err err;

    asked->count = 0;
    assert_int_equal(q->reader->ops->scan(q->reader, &wanted, &rows, &err), KZ_OK);
    for (size_t i = 0; i < rows.count; i++) {
        const struct kz_delivery_body *body = (const void *)(rows.records[i] + 1);

        if (i)
            assert_true(rows.lsns[i] >= rows.lsns[i - 1]);
        asked->count += rows.records[i]->type == KZ_RECORD_DELIVERY &&
                        body->state == KZ_DELIVERY_SHOWN;
    }
    q->reader->ops->release(q->reader, &rows);
}

static void on_news(struct kz_subscription *subscription, const struct kz_news *news)
{
    (void)news;
    ++*(size_t *)subscription->user;
}

/* ---- tests --------------------------------------------------------------------------------------------- */

/* The coupon alone, for all: three events, and again, but twice an hour at most. */
static void coupon_for_all(void)
{
    rig_actions[0].holdout = 0;
    rig_project.action_count = 1;
}

static void a_user_s_predictions_and_deliveries_are_found_and_acknowledged(void **state)
{
    struct deployment *d;
    struct asked asked = {0};
    struct kz_bus_pull_options options = {.topic = KZ_TOPIC_EVENTS, .name = "process"};
    struct kz_bus_source *told;
    struct kz_bus_delivery *deliveries[16];
    size_t heard = 0, count = 0, shown = 0;
    struct kz_subscription subscription = {.news = on_news, .user = &heard};
    struct kz_err err;

    (void)state;
    coupon_for_all();
    d = deploy();
    d->query->ops->subscribe(d->query, &subscription);
    prepare(d, "ada", 0, look_at_all, &asked);
    assert_false(asked.known);
    for (int i = 0; i < 3; i++)
        send_event(d, "ada", "", "view", KZ_IDENTITY_NONE);
    await_waiting(d, "ada", 1, &asked);
    assert_true(asked.score == 3);
    assert_int_equal(asked.predictions, 1);

    /* Acknowledged once; it waits no more, and the history is told. */
    asked.count = 0;
    prepare(d, "ada", 0, acknowledge, &asked);
    assert_int_equal(asked.count, 0);
    await_change(d, &asked, KZ_OK);
    await_waiting(d, "ada", 0, &asked);
    prepare(d, "ada", 0, acknowledge, &asked);
    assert_int_equal(asked.count, 99);
    prepare(d, "ada", KZ_WANT_NOTES, count_deliveries, &asked);
    assert_int_equal(asked.count, 1);
    assert_int_equal(d->rig->bus->ops->open_source(d->rig->bus, &options, &told, &err), KZ_OK);
    for (int64_t until_ms = kz_mono_ms() + WAIT_MS; count < 2 && kz_mono_ms() < until_ms;) {
        size_t more = 0;

        assert_int_equal(
                d->rig->bus->ops->pull(told, deliveries + count, 16 - count, 1000, &more, &err),
                KZ_OK);
        count += more;
    }
    for (size_t i = 0; i < count; i++)
        shown += memmem(deliveries[i]->data.ptr, deliveries[i]->data.size, "kizashi.action_shown",
                         20) != NULL;
    assert_int_equal(shown, 1);
    assert_int_equal(count, 2); /* delivered, shown */
    d->rig->bus->ops->close_source(told);

    /* Three predictions and one action are heard of. */
    for (int64_t until_ms = kz_mono_ms() + WAIT_MS; heard < 4 && kz_mono_ms() < until_ms;) {
        d->serve->ops->turn(d->serve);
        usleep(1000);
    }
    assert_int_equal(heard, 4);
    d->query->ops->unsubscribe(d->query, &subscription);
    undeploy(d);
}

/* What an anonymous visitor was owed is the user's once they log in, and caps go along. */
static void a_login_brings_deliveries_and_caps_along(void **state)
{
    struct deployment *d;
    struct asked asked = {0};

    (void)state;
    coupon_for_all();
    d = deploy();
    for (int i = 0; i < 3; i++)
        send_event(d, "", "device", "view", KZ_IDENTITY_NONE);
    rig_await_acknowledged(d->rig, 3 + 3 + 1); /* requests and their news, one action's news */
    send_event(d, "bob", "device", "login", KZ_IDENTITY_IDENTIFY);
    await_waiting(d, "bob", 1, &asked);
    assert_true(asked.score == 3);
    /* The cap is two an hour: one came along. */
    send_event(d, "bob", "", "view", KZ_IDENTITY_NONE);
    await_waiting(d, "bob", 2, &asked);
    assert_true(asked.score == 5);
    for (int i = 0; i < 3; i++)
        send_event(d, "bob", "", "view", KZ_IDENTITY_NONE);
    for (int64_t until_ms = kz_mono_ms() + WAIT_MS; asked.score < 8 && kz_mono_ms() < until_ms;) {
        prepare(d, "bob", 0, look_at_all, &asked);
        usleep(5000);
    }
    assert_true(asked.score == 8);
    assert_int_equal(rig_caps_used(d->rig, "coupon"), 2);
    undeploy(d);
}

static void erase(struct asked *asked)
{
    struct kz_query *q = asked->d->query;
    struct kz_err err;

    assert_int_equal(q->ops->erase(q, (struct kz_user_key){'u', kz_str(asked->id)}, "test",
                             &asked->count, &err),
            KZ_OK);
}

static void look_at_erasure(struct asked *asked)
{
    struct kz_query *q = asked->d->query;
    int64_t asked_ms = 0, done_ms = 0;
    struct kz_err err;

    assert_int_equal(
            q->ops->erasure(q, asked->count, &asked->known, &asked_ms, &done_ms, &err), KZ_OK);
    assert_true(asked_ms > 0);
}

static void await_erased(struct deployment *d, const char *user, struct asked *asked)
{
    int64_t until_ms = kz_mono_ms() + WAIT_MS;

    do {
        usleep(5000);
        prepare(d, user, KZ_WANT_ERASURE, look_at_erasure, asked);
    } while (!asked->known && kz_mono_ms() < until_ms);
    assert_true(asked->known); /* done */
}

static void an_erased_user_is_gone_from_store_and_rows(void **state)
{
    struct deployment *d;
    struct asked asked = {0};
    struct rig_lines lines;

    (void)state;
    coupon_for_all();
    d = deploy();
    KZ_CONTAINER_OF(d->serve, struct role_serve, base)->second_pass_ms = 50;
    for (int i = 0; i < 3; i++)
        send_event(d, "", "device", "view", KZ_IDENTITY_NONE);
    rig_await_acknowledged(d->rig, 3 + 3 + 1);
    send_event(d, "bob", "device", "login", KZ_IDENTITY_IDENTIFY);
    send_event(d, "bob", "", "view", KZ_IDENTITY_NONE);
    await_waiting(d, "bob", 2, &asked);
    prepare(d, "bob", 0, erase, &asked);
    await_change(d, &asked, KZ_OK);
    lines = rig_outcomes(d->rig);
    assert_int_equal(lines.count, 0);
    rig_lines_done(&lines);
    await_erased(d, "bob", &asked);
    prepare(d, "bob", 0, look_at_all, &asked);
    assert_false(asked.known);
    undeploy(d);
}

/* Killed between the passes: another serve finds the note and does the second. */
static void an_erasure_that_one_serve_began_another_finishes(void **state)
{
    struct deployment *d;
    struct asked asked = {0};
    struct role_serve *other;
    struct kz_buf word = {0};
    struct kz_err err;

    (void)state;
    coupon_for_all();
    d = deploy();
    KZ_CONTAINER_OF(d->serve, struct role_serve, base)->second_pass_ms = 300;
    send_event(d, "bob", "", "view", KZ_IDENTITY_NONE);
    prepare(d, "bob", 0, erase, &asked); /* infer may write the row behind this pass */
    await_change(d, &asked, KZ_OK);
    assert_int_equal(
            d->rig->predictions->ops->word(d->rig->predictions, "erasures", &word, &err), KZ_OK);
    assert_true(word.size > 0);
    assert_null(memmem(word.data, word.size, "bob", 3));
    /* The first has no turn any more, as if it were dead. */
    d->serve = rig_open(d->rig, &kz_role_serve, false);
    d->query = d->serve->ops->query(d->serve);
    other = KZ_CONTAINER_OF(d->serve, struct role_serve, base);
    other->take_over_ms = 0;
    other->look_every_ms = 20;
    await_erased(d, "bob", &asked);
    for (int64_t until_ms = kz_mono_ms() + WAIT_MS; word.size && kz_mono_ms() < until_ms;) {
        usleep(5000);
        d->serve->ops->turn(d->serve);
        assert_int_equal(
                d->rig->predictions->ops->word(d->rig->predictions, "erasures", &word, &err),
                KZ_OK);
    }
    assert_int_equal(word.size, 0);
    kz_buf_done(&word);
    undeploy(d);
}

/* ---- webhooks ------------------------------------------------------------------------------------------- */

struct receiver { /* answers 503 first, then 200 */
    int listener;
    unsigned port, hits;
    char keys[8][200];
    pthread_t thread;
};

static void *receive(void *arg)
{
    struct receiver *r = arg;

    for (;;) {
        int client = accept(r->listener, NULL, NULL);
        char text[4096] = "";
        const char *key, *answer = r->hits ? "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
                                             "Connection: close\r\n\r\n"
                                           : "HTTP/1.1 503 No\r\nContent-Length: 0\r\n"
                                             "Connection: close\r\n\r\n";
        size_t size = 0;
        ssize_t got;

        if (client < 0)
            return NULL;
        while (!strstr(text, "\r\n\r\n{") &&
                (got = read(client, text + size, sizeof(text) - 1 - size)) > 0)
            size += (size_t)got;
        key = strstr(text, "Idempotency-Key: ");
        if (key && r->hits < KZ_ARRAY_COUNT(r->keys))
            snprintf(r->keys[r->hits], sizeof(r->keys[0]), "%.*s", (int)strcspn(key + 17, "\r"),
                    key + 17);
        r->hits++;
        if (write(client, answer, strlen(answer)) < 0)
            print_error("the receiver could not answer\n");
        close(client);
    }
}

static void receiver_open(struct receiver *r)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(at);

    r->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(r->listener, (void *)&at, size), 0);
    assert_int_equal(listen(r->listener, 16), 0);
    assert_int_equal(getsockname(r->listener, (void *)&at, &size), 0);
    r->port = ntohs(at.sin_port);
    assert_int_equal(pthread_create(&r->thread, NULL, receive, r), 0);
}

static void receiver_close(struct receiver *r)
{
    shutdown(r->listener, SHUT_RDWR);
    pthread_join(r->thread, NULL);
    close(r->listener);
}

static void a_webhook_is_posted_again_under_the_same_key(void **state)
{
    struct receiver receiver = {0};
    struct kz_action_def *action = &rig_actions[0];
    struct deployment *d;
    struct asked asked = {0};
    char url[64];

    (void)state;
    coupon_for_all();
    receiver_open(&receiver);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u/", receiver.port);
    action->deliver.kind = KZ_DELIVER_WEBHOOK;
    action->deliver.url = url;
    d = deploy();
    for (int i = 0; i < 3; i++)
        send_event(d, "ada", "", "view", KZ_IDENTITY_NONE);
    await_waiting(d, "ada", 1, &asked);
    await_waiting(d, "ada", 0, &asked);
    assert_int_equal(receiver.hits, 2);
    assert_true(strlen(receiver.keys[0]) > 10);
    assert_string_equal(receiver.keys[0], receiver.keys[1]);
    undeploy(d);
    receiver_close(&receiver);
    action->deliver.kind = KZ_DELIVER_WEB;
    action->deliver.url = "http://127.0.0.1:1/";
}

/* Its message was lost with the process that held it: the row still says that it waits. */
static void a_forgotten_webhook_is_found_by_the_sweep(void **state)
{
    struct receiver receiver = {.hits = 1};
    struct kz_action_def *action = &rig_actions[0];
    struct kz_bus_pull_options options = {.topic = KZ_TOPIC_NEWS, .name = KZ_SUBSCRIPTION_DELIVER};
    struct kz_bus_source *thief;
    struct kz_bus_delivery *deliveries[4];
    struct deployment *d;
    struct asked asked = {0};
    struct role_serve *serve;
    size_t count = 0;
    char url[64];
    struct kz_err err;

    (void)state;
    coupon_for_all();
    receiver_open(&receiver);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u/", receiver.port);
    d = deploy(); /* its serve knows no webhooks yet: it leaves the message to the thief */
    action->deliver.kind = KZ_DELIVER_WEBHOOK;
    action->deliver.url = url;
    for (int i = 0; i < 3; i++)
        send_event(d, "ada", "", "view", KZ_IDENTITY_NONE);
    await_waiting(d, "ada", 1, &asked);
    assert_int_equal(d->rig->bus->ops->open_source(d->rig->bus, &options, &thief, &err), KZ_OK);
    assert_int_equal(d->rig->bus->ops->pull(thief, deliveries, 4, 5000, &count, &err), KZ_OK);
    assert_int_equal(count, 1);
    d->rig->bus->ops->ack(thief, deliveries, count);
    d->rig->bus->ops->close_source(thief);

    d->serve = rig_open(d->rig, &kz_role_serve, false);
    d->query = d->serve->ops->query(d->serve);
    serve = KZ_CONTAINER_OF(d->serve, struct role_serve, base);
    serve->sweep_every_ms = 1;
    serve->sweep_grace_ms = 1;
    kz_deliveries_sweep_now(serve);
    await_waiting(d, "ada", 0, &asked);
    assert_int_equal(receiver.hits, 2);
    undeploy(d);
    receiver_close(&receiver);
    action->deliver.kind = KZ_DELIVER_WEB;
    action->deliver.url = "http://127.0.0.1:1/";
}

/* The one that hangs would take every place there is; the other's are posted all the same. */
static void a_receiver_that_hangs_holds_up_no_other(void **state)
{
    enum { USERS = 2 * KZ_WEBHOOKS_ACTIVE_MAX };
    struct receiver receiver = {.hits = 1};
    struct kz_action_def before[2] = {rig_actions[0], rig_actions[1]};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(at);
    int silent = socket(AF_INET, SOCK_STREAM, 0); /* listens, and accepts nobody */
    struct role_serve *serve;
    struct deployment *d;
    char urls[2][64];

    (void)state;
    coupon_for_all();
    assert_int_equal(bind(silent, (void *)&at, size), 0);
    assert_int_equal(listen(silent, USERS), 0);
    assert_int_equal(getsockname(silent, (void *)&at, &size), 0);
    receiver_open(&receiver);
    snprintf(urls[0], sizeof(urls[0]), "http://127.0.0.1:%u/", ntohs(at.sin_port));
    snprintf(urls[1], sizeof(urls[1]), "http://127.0.0.1:%u/", receiver.port);
    rig_actions[1].when = rig_actions[0].when;
    rig_actions[1].having = NULL;
    for (int i = 0; i < 2; i++) {
        rig_actions[i].deliver.kind = KZ_DELIVER_WEBHOOK;
        rig_actions[i].deliver.url = urls[i];
        rig_actions[i].deliver.timeout_ms = 10 * WAIT_MS;
    }
    rig_project.action_count = 2;
    d = deploy();
    serve = KZ_CONTAINER_OF(d->serve, struct role_serve, base);
    for (int i = 0; i < 3 * USERS; i++) {
        char user[16];

        snprintf(user, sizeof(user), "u%d", i / 3);
        send_event(d, user, "", "view", KZ_IDENTITY_NONE);
    }
    for (int64_t until_ms = kz_mono_ms() + WAIT_MS;
            serve->counters.deliveries_sent_total < USERS && kz_mono_ms() < until_ms;) {
        d->serve->ops->turn(d->serve);
        usleep(1000);
    }
    assert_int_equal(serve->counters.deliveries_sent_total, USERS);
    undeploy(d);
    receiver_close(&receiver);
    close(silent);
    rig_actions[0] = before[0];
    rig_actions[1] = before[1];
}

/* ---- words ------------------------------------------------------------------------------------------------ */

static void say(struct deployment *d, const char *verb, const char *object)
{
    struct asked asked = {0};
    uint64_t count = 0;
    struct kz_err err;

    assert_int_equal(
            d->query->ops->control(d->query, verb, kz_str(object), "test", &count, &err), KZ_OK);
    await_change(d, &asked, KZ_OK);
}

static void a_paused_model_leaves_its_requests_on_the_bus(void **state)
{
    struct deployment *d;
    struct asked asked = {0};
    struct kz_model_status status = {0};
    int64_t until_ms = kz_mono_ms() + WAIT_MS;
    struct kz_bus_stats stats;

    (void)state;
    coupon_for_all();
    d = deploy();
    say(d, "pause-model", "counter");
    do {
        usleep(10000);
        d->infer->ops->model(d->infer, 0, &status);
    } while (!status.paused && kz_mono_ms() < until_ms);
    assert_true(status.paused);
    usleep(1000000); /* a pull that was under way when the word came has ended */
    for (int i = 0; i < 3; i++)
        send_event(d, "ada", "", "view", KZ_IDENTITY_NONE);
    usleep(300000);
    d->rig->bus->ops->stats(d->rig->bus, &stats);
    assert_int_equal(stats.acknowledged, 0);
    say(d, "resume-model", "counter");
    await_waiting(d, "ada", 1, &asked);
    undeploy(d);
}

static void look_at_timing(struct asked *asked)
{
    struct kz_query *q = asked->d->query;
    struct kz_event_timing timing = {0};

    asked->known = q->ops->timing(q, asked->d->last_event, &timing);
    asked->intake_us = timing.log_us;
}

static void a_trace_knows_how_long_an_event_was_on_its_way_into_the_store(void **state)
{
    struct deployment *d = deploy();
    struct asked asked = {.timed_event = "e0"};

    (void)state;
    d->under_way_ms = 250;
    send_event(d, "ada", "", "view", KZ_IDENTITY_NONE);
    prepare(d, "ada", KZ_WANT_EVENTS, look_at_timing, &asked);
    assert_true(asked.known);
    assert_in_range(asked.intake_us, 250000, 250000 + WAIT_MS * 1000);
    asked.timed_event = "e1"; /* there is none */
    prepare(d, "ada", KZ_WANT_EVENTS, look_at_timing, &asked);
    assert_false(asked.known);
    undeploy(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_user_s_predictions_and_deliveries_are_found_and_acknowledged),
            cmocka_unit_test(a_login_brings_deliveries_and_caps_along),
            cmocka_unit_test(an_erased_user_is_gone_from_store_and_rows),
            cmocka_unit_test(an_erasure_that_one_serve_began_another_finishes),
            cmocka_unit_test(a_webhook_is_posted_again_under_the_same_key),
            cmocka_unit_test(a_forgotten_webhook_is_found_by_the_sweep),
            cmocka_unit_test(a_receiver_that_hangs_holds_up_no_other),
            cmocka_unit_test(a_paused_model_leaves_its_requests_on_the_bus),
            cmocka_unit_test(a_trace_knows_how_long_an_event_was_on_its_way_into_the_store),
    };

    kz_diag_set(KZ_DIAG_ERROR, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
