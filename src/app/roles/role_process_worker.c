/* app/roles/role_process_worker.c -- messages of some lanes, in transactions. */

#include "app/roles/role_process_int.h"
#include "base/diag.h"
#include "contract/message.h"
#include "sys/clock.h"

enum { RETRY_LEAST_MS = 20 };

void kz_process_worker_count(struct worker *w)
{
    struct kz_pipeline_counters counters;
    uint64_t retries;

    kz_process_counters(w->engine, &counters, &retries);
    pthread_mutex_lock(&w->role->lock);
    w->counters = counters;
    w->retries = retries;
    w->role->counts.batches++;
    w->role->problem[0] = '\0';
    pthread_mutex_unlock(&w->role->lock);
}

/* ---- items ---------------------------------------------------------------------------------- */

/* Waits as the store asks; pulling waits too where it asks for less. false: the role gives up. */
static bool wait_again(struct role_process *r, enum kz_code rc, const struct kz_err *err)
{
    int64_t ms = r->env->store->ops->retry_ms(r->env->store) + RETRY_LEAST_MS;

    kz_role_process_problem(r, "events could not be stored yet", err);
    if (rc == KZ_LIMIT) {
        pthread_mutex_lock(&r->lock);
        r->slow_until_ms = kz_mono_ms() + ms;
        r->counts.slowed++;
        pthread_mutex_unlock(&r->lock);
    }
    kz_role_process_sleep(r, ms);
    return !kz_role_process_giving_up(r);
}

static bool bury_item(
        struct role_process *r, const struct kz_intake_item *item, const struct kz_err *why)
{
    struct kz_buf line = {0};
    bool done;

    kz_diag_error("an event cannot be processed: it goes to the dead topic",
            "event_id=\"" KZ_STR_FMT "\" error=\"%s\"", KZ_STR_ARG(item->event.event_id),
            why->message);
    kz_message_put_item(item, &line);
    done = kz_process_bury(r, kz_buf_view(&line), why);
    kz_buf_done(&line);
    return done;
}

/* In one transaction; where it fails for good, in two, until it is known which event it is. false:
 * the role gives up, and `messages` are the caller's still. */
static bool take_items(
        struct worker *w, struct kz_intake_item **items, size_t count, struct held *messages)
{
    struct role_process *r = w->role;
    struct kz_process_outcome outcome = {0};
    struct kz_err err;
    enum kz_code rc;

    while ((rc = kz_process_events(w->engine, items, count, &outcome, &err)) != KZ_OK &&
            !kz_process_is_poison(rc)) {
        for (size_t i = 0; i < count; i++)
            items[i]->again = true; /* perhaps it was committed, and only the answer lost */
        if (!wait_again(r, rc, &err))
            return false;
    }
    if (rc == KZ_OK) {
        kz_process_worker_count(w);
        kz_process_publish(r, &outcome, messages);
        return true;
    }
    if (count > 1)
        return take_items(w, items, count / 2, NULL) &&
               take_items(w, items + count / 2, count - count / 2, messages);
    if (!bury_item(r, items[0], &err))
        return false;
    kz_role_process_release(r, messages, true);
    return true;
}

/* ---- messages ------------------------------------------------------------------------------- */

static struct held *next_message(struct worker *w, bool wait)
{
    struct role_process *r = w->role;
    struct held *held;

    pthread_mutex_lock(&r->lock);
    while (wait && !w->queue.first && !r->giving_up)
        pthread_cond_wait(&w->wake, &r->lock);
    held = r->giving_up ? NULL : w->queue.first;
    if (held) {
        w->queue.first = held->next;
        if (!held->next)
            w->queue.last = &w->queue.first;
        w->queue.count--;
        held->next = NULL;
    }
    pthread_mutex_unlock(&r->lock);
    return held;
}

/* false: it was no message of events and is gone. */
static bool read_message(struct worker *w, struct held *held)
{
    struct role_process *r = w->role;
    struct kz_err err;

    if (kz_process_read_message(w, held->delivery, &err) == KZ_OK)
        return true;
    kz_diag_warn("a message is no message of events: it goes to the dead topic",
            "id=" KZ_STR_FMT " error=\"%s\"", KZ_STR_ARG(held->delivery->id), err.message);
    kz_role_process_release(r, held, kz_process_bury(r, held->delivery->data, &err));
    return false;
}

/* Reads messages until there are events for a transaction; NULL: the role gives up. */
static struct held *gather(struct worker *w)
{
    struct held *first = NULL, **last = &first;
    size_t bytes = 0;

    kz_arena_reset(&w->arena);
    w->item_count = 0;
    while (w->item_count < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX) {
        struct held *held = next_message(w, !first);

        if (!held)
            break;
        bytes += held->delivery->data.size;
        if (!read_message(w, held))
            continue;
        *last = held;
        last = &held->next;
    }
    return first;
}

static void date(struct worker *w)
{
    pthread_mutex_lock(&w->role->lock);
    w->oldest_ms = w->queue.first ? w->queue.first->delivery->published_ms : 0;
    pthread_mutex_unlock(&w->role->lock);
}

void kz_process_worker_loop(void *worker)
{
    struct worker *w = worker;
    struct held *messages;

    while ((messages = gather(w))) {
        bool done = true;

        for (size_t at = 0; at < w->item_count && done; at += BATCH_EVENTS_MAX) {
            size_t count = KZ_MIN(w->item_count - at, (size_t)BATCH_EVENTS_MAX);
            bool last = at + count == w->item_count;

            done = take_items(w, w->items + at, count, last ? messages : NULL);
        }
        if (!w->item_count)
            kz_role_process_release(w->role, messages, true); /* there was no event in them */
        if (!done)
            kz_role_process_release(w->role, messages, false);
        date(w);
    }
    kz_role_process_ended(w->role);
}
