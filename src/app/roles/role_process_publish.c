/* app/roles/role_process_publish.c -- requests onto the bus, out of the outbox; acknowledgements behind
 * them. */

#include <stdlib.h>

#include "app/roles/news.h"
#include "app/roles/role_process_int.h"
#include "base/diag.h"
#include "contract/message.h"
#include "sys/clock.h"

enum {
    PUBLISH_MAX = 500,
    SWEEP_AFTER_MS = 5000, /* whoever committed a request publishes it at once; then others may */
    SWEEP_MAX = 500,
};

struct outgoing {
    struct kz_bus_message *messages;
    struct kz_attribute *attributes;
    char (*keys)[KZ_LANE_BYTES];
    size_t count;
    struct kz_arena arena;
};

/* Key and attribute follow from the bytes. What is no request is left out: it would stay in the
 * outbox and be seen there. */
static void make_messages(
        struct outgoing *out, const struct kz_store_request *requests, size_t count)
{
    struct kz_request_message message;
    struct kz_buf hold = {0};
    struct kz_err err;

    kz_arena_init(&out->arena, 0);
    out->messages = kz_arena_zero(&out->arena, (count + 1) * sizeof(*out->messages));
    out->attributes = kz_arena_zero(&out->arena, (count + 1) * sizeof(*out->attributes));
    out->keys = kz_arena_zero(&out->arena, (count + 1) * sizeof(*out->keys));
    out->count = 0;
    for (size_t i = 0; i < count; i++) {
        size_t at = out->count;

        if (kz_request_message_decode(requests[i].message, &hold, &message, &err) != KZ_OK) {
            kz_diag_error("a request in the outbox is no request", "error=\"%s\"", err.message);
            continue;
        }
        kz_lane_name(message.owner, out->keys[at]);
        out->attributes[at] = (struct kz_attribute){KZ_STR(KZ_ATTRIBUTE_MODEL),
                kz_arena_str(&out->arena, kz_request_message_model(&message))};
        out->messages[at] = (struct kz_bus_message){
                .data = requests[i].message,
                .key = kz_str(out->keys[at]),
                .attributes = &out->attributes[at],
                .attribute_count = 1,
        };
        out->count++;
    }
    kz_buf_done(&hold);
}

/* ---- finishing ------------------------------------------------------------------------------ */

static void on_published(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct finish *f = arg;
    struct role_process *r = f->role;

    (void)err;
    pthread_mutex_lock(&r->lock);
    f->code = code;
    f->next = NULL;
    *r->finished_last = f;
    r->finished_last = &f->next;
    pthread_cond_signal(&r->finish_wake);
    pthread_mutex_unlock(&r->lock);
}

static struct finish *new_finish(struct role_process *r, const struct kz_store_request *requests,
        size_t count, struct held *messages)
{
    struct finish *f = kz_calloc(1, sizeof(*f) + count * sizeof(*requests));

    f->role = r;
    f->messages = messages;
    f->requests = (struct kz_store_request *)(f + 1);
    f->request_count = count;
    for (size_t i = 0; i < count; i++)
        f->requests[i] = (struct kz_store_request){requests[i].owner, requests[i].lsn, KZ_STR_NULL};
    pthread_mutex_lock(&r->lock);
    r->finishing++;
    pthread_mutex_unlock(&r->lock);
    return f;
}

/* One call's worth; `done` comes in any case. */
static void publish_some(struct role_process *r, const struct kz_store_request *requests,
        size_t count, struct held *messages)
{
    struct finish *f = new_finish(r, requests, count, messages);
    struct kz_bus *bus = r->env->bus;
    struct outgoing out;
    struct kz_err err;
    enum kz_code rc;

    make_messages(&out, requests, count);
    while ((rc = bus->ops->publish(bus, KZ_TOPIC_REQUESTS, out.messages, out.count, on_published, f,
                    &err)) == KZ_OVERLOADED &&
            !kz_role_process_giving_up(r))
        kz_role_process_sleep(r, 20);
    if (rc != KZ_OK)
        on_published(f, rc, &err); /* they stay in the outbox */
    kz_arena_done(&out.arena);
}

/* News that are lost leave somebody waiting until a time-out, no more: nobody answers for them. */
static void publish_unasked(struct role_process *r, const struct kz_process_outcome *outcome)
{
    struct kz_bus *bus = r->env->bus;
    struct kz_attribute attributes[] = {
            {KZ_STR(KZ_ATTRIBUTE_KIND), KZ_STR(KZ_NEWS_UNASKED)},
            {KZ_STR(KZ_ATTRIBUTE_AWAITED), KZ_STR_NULL},
    };
    struct kz_buf text = {0};
    struct kz_err err;

    for (size_t i = 0; i < outcome->unasked_count; i++) {
        struct kz_bus_message message = {
                .attributes = attributes, .attribute_count = KZ_ARRAY_COUNT(attributes)};

        kz_buf_clear(&text);
        if (!kz_unasked_put(r->env->project, outcome->unasked[i].reasons, &text))
            continue;
        attributes[1].value = outcome->unasked[i].awaited;
        message.data = kz_buf_view(&text);
        if (bus->ops->publish(bus, KZ_TOPIC_NEWS, &message, 1, NULL, NULL, &err) != KZ_OK)
            break; /* it has too much to do */
    }
    kz_buf_done(&text);
}

void kz_process_publish(
        struct role_process *r, const struct kz_process_outcome *outcome, struct held *messages)
{
    publish_unasked(r, outcome);
    if (outcome->unasked_count && !outcome->request_count)
        r->env->bus->ops->flush(r->env->bus);
    if (!outcome->request_count) {
        kz_role_process_release(r, messages, true);
        return;
    }
    for (size_t at = 0; at < outcome->request_count; at += PUBLISH_MAX) {
        size_t count = KZ_MIN((size_t)PUBLISH_MAX, outcome->request_count - at);
        bool last = at + count == outcome->request_count;

        /* Messages go with the last; what is published before it comes before it, or lies in the
         * outbox. */
        publish_some(r, outcome->requests + at, count, last ? messages : NULL);
    }
    r->env->bus->ops->flush(r->env->bus);
}

static void finish_list(struct role_process *r, struct finish *list)
{
    struct kz_store *store = r->env->store;
    struct kz_buf requests = {0};
    struct kz_err err;

    for (struct finish *f = list; f; f = f->next)
        if (f->code == KZ_OK)
            kz_buf_put(&requests, f->requests, f->request_count * sizeof(*f->requests));
    /* Where that fails they are published again, by the sweep: infer knows them. */
    for (size_t at = 0, count = requests.size / sizeof(struct kz_store_request); at < count;
            at += PUBLISH_MAX)
        if (store->ops->published(store,
                    (const struct kz_store_request *)(void *)requests.data + at,
                    KZ_MIN(count - at, (size_t)PUBLISH_MAX), &err) != KZ_OK)
            kz_role_process_problem(r, "requests could not be taken out of the outbox", &err);
    kz_buf_done(&requests);
    while (list) {
        struct finish *f = list;

        list = f->next;
        if (f->code != KZ_OK) {
            pthread_mutex_lock(&r->lock);
            r->counts.wrong_published++;
            pthread_mutex_unlock(&r->lock);
        }
        /* What was not published is committed, and lies in the outbox: nothing is lost with the
         * message. */
        kz_role_process_release(r, f->messages, true);
        pthread_mutex_lock(&r->lock);
        r->finishing--;
        pthread_mutex_unlock(&r->lock);
        free(f);
    }
}

void kz_process_finisher(void *role)
{
    struct role_process *r = role;

    pthread_mutex_lock(&r->lock);
    for (;;) {
        struct finish *list = r->finished;

        if (!list && r->giving_up && !r->finishing && r->running == 1)
            break; /* nobody else is there to publish more */
        if (!list) {
            pthread_cond_wait(&r->finish_wake, &r->lock);
            continue;
        }
        r->finished = NULL;
        r->finished_last = &r->finished;
        pthread_mutex_unlock(&r->lock);
        finish_list(r, list);
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    kz_role_process_ended(r);
}

/* ---- the outbox ----------------------------------------------------------------------------- */

void kz_process_sweep_outbox(struct role_process *r)
{
    struct kz_store_request *requests = kz_malloc(SWEEP_MAX * sizeof(*requests));
    struct kz_store *store = r->env->store;
    struct kz_buf bytes = {0};
    size_t count = 0;
    struct kz_err err;

    if (store->ops->outbox(store, kz_clock_ms() - SWEEP_AFTER_MS, SWEEP_MAX, requests, &count,
                &bytes, &err) != KZ_OK) {
        kz_role_process_problem(r, "the outbox could not be read", &err);
    } else if (count) {
        publish_some(r, requests, count, NULL);
        r->env->bus->ops->flush(r->env->bus);
        pthread_mutex_lock(&r->lock);
        r->counts.outbox += count;
        pthread_mutex_unlock(&r->lock);
    }
    kz_buf_done(&bytes);
    free(requests);
}
