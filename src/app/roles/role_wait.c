#include "app/roles/role_wait.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <unistd.h>

#include "app/pipeline/waiting.h"
#include "app/roles/news.h"
#include "base/diag.h"
#include "base/hash.h"
#include "contract/message.h"
#include "contract/query.h"
#include "sys/clock.h"
#include "sys/random.h"
#include "sys/thread.h"

enum {
    BUCKETS = 4096,
    PULL_MAX = 500,
    PULL_WAIT_MS = 200,
    HELD_MAX = 5000,
    TIMEOUTS_TURN_MAX = 1000, /* answered in one turn; the next follows at once */
    OPEN_AGAIN_US = 100000
};

struct piece {            /* of news that somebody waits for */
    struct kz_buf record; /* RESULT */
    struct kz_buf asked;  /* its attribute; empty: it does not say */
    struct kz_buf unasked;
    uint64_t number; /* of what was not asked: whose event, and which */
    size_t item;
    struct piece *next;
};

enum { AWAITED_BYTES = 16 + 1 + 20 + 1 + 20 + 1 };

struct awaited {               /* an item */
    char words[AWAITED_BYTES]; /* <this process>-<waiter's number>-<item>; empty: rejected */
    bool heard;                /* what it has not asked */
    bool *told;                /* [model_count] whether it asks a model: the first word counts */
    struct waiter *waiter;
    LIST_ENTRY(awaited) of_bucket;
};
LIST_HEAD(awaited_list, awaited);

struct unasked { /* a model, by items of a submission */
    size_t count;
    const char *reason;
};

struct waiter {
    struct kz_submission *submission;
    uint64_t number;
    bool landed;
    bool *ended;             /* [model_count] */
    struct unasked *unasked; /* [model_count] */
    struct awaited *items;   /* one for each of the submission */
    size_t item_slots;       /* of the array */
    size_t item_count;       /* that are not rejected */
    struct kz_buf *results;
    bool is_told; /* among those that were told something since the last turn */
    TAILQ_ENTRY(waiter) of_told;
    LIST_ENTRY(waiter) of_bucket;
};
LIST_HEAD(waiter_list, waiter);
TAILQ_HEAD(waiter_queue, waiter);

struct kz_waits {
    struct kz_role_env *env;
    struct kz_query query;
    struct kz_history_reader reader;
    struct waiter_queue told;             /* those that may have all by now */
    struct kz_waiting waiting;            /* the submissions that have landed */
    struct waiter_list numbers[BUCKETS];  /* waiters by their number */
    struct awaited_list awaited[BUCKETS]; /* items by their event id */
    size_t count;
    uint64_t process, last_number; /* of the words of items: random, unlike another's */
    const char **reasons;          /* [model_count], scratch */
    const struct waiter *answering;

    pthread_mutex_t lock;
    uint32_t watched[BUCKETS]; /* how many wait for an event id of that hash */
    struct piece *heard, **heard_last;
    bool stop, hears;
    struct kz_thread puller;
};

/* ---- the puller --------------------------------------------------------------------------------------- */

static size_t bucket_of(struct kz_str event_id)
{
    return kz_hash_str(event_id) % BUCKETS;
}

static uint32_t *watched_of(struct kz_waits *waits, struct kz_str event_id)
{
    return &waits->watched[bucket_of(event_id)];
}

static void piece_free(struct piece *piece)
{
    kz_buf_done(&piece->record);
    kz_buf_done(&piece->asked);
    kz_buf_done(&piece->unasked);
    free(piece);
}

/* Whether an item of this process is meant; which one is seen on the loop. */
static bool take_unasked(const struct kz_waits *waits, const struct kz_bus_delivery *delivery,
        struct kz_str awaited, struct piece *piece)
{
    char words[KZ_AWAITED_MAX + 1];
    uint64_t process;
    int end = 0;

    if (awaited.size > KZ_AWAITED_MAX)
        return false;
    memcpy(words, awaited.ptr, awaited.size);
    words[awaited.size] = '\0';
    if (sscanf(words, "%16" SCNx64 "-%19" SCNu64 "-%9zu%n", &process, &piece->number, &piece->item,
                &end) != 3 ||
            (size_t)end != awaited.size || process != waits->process)
        return false;
    kz_buf_str(&piece->unasked, delivery->data);
    return true;
}

static bool take_result(
        struct kz_waits *waits, const struct kz_bus_delivery *delivery, struct piece *piece)
{
    const struct kz_record *record;
    const struct kz_result_body *body;
    bool wanted;

    if (kz_news_decode(delivery->data, &piece->record, &record, NULL) != KZ_OK ||
            record->type != KZ_RECORD_RESULT)
        return false;
    body = (const void *)(record + 1);
    kz_buf_str(&piece->asked,
            kz_attribute_get(delivery->attributes, delivery->attribute_count, KZ_ATTRIBUTE_ASKED));
    pthread_mutex_lock(&waits->lock);
    wanted = *watched_of(waits, kz_span_str(kz_record_body(record), body->event_id)) > 0;
    pthread_mutex_unlock(&waits->lock);
    return wanted;
}

static void take(struct kz_waits *waits, const struct kz_bus_delivery *delivery)
{
    struct kz_str awaited = kz_attribute_get(
            delivery->attributes, delivery->attribute_count, KZ_ATTRIBUTE_AWAITED);
    struct piece *piece = kz_calloc(1, sizeof(*piece));

    if (awaited.size ? !take_unasked(waits, delivery, awaited, piece)
                     : !take_result(waits, delivery, piece)) {
        piece_free(piece);
        return;
    }
    pthread_mutex_lock(&waits->lock);
    *waits->heard_last = piece;
    waits->heard_last = &piece->next;
    pthread_mutex_unlock(&waits->lock);
    waits->env->wake(waits->env->wake_arg);
}

static bool is_over(struct kz_waits *waits, bool hears)
{
    bool over, new_hears;

    pthread_mutex_lock(&waits->lock);
    over = waits->stop;
    new_hears = hears && !waits->hears;
    waits->hears = hears;
    pthread_mutex_unlock(&waits->lock);
    if (new_hears)
        waits->env->wake(waits->env->wake_arg);
    return over;
}

static void run_puller(void *arg)
{
    struct kz_waits *waits = arg;
    struct kz_bus *bus = waits->env->bus;
    struct kz_bus_pull_options options = {.topic = KZ_TOPIC_NEWS, .messages_max = HELD_MAX};
    struct kz_bus_delivery *deliveries[PULL_MAX];
    struct kz_bus_source *source = NULL;
    bool warned = false;

    while (!is_over(waits, source != NULL)) {
        size_t count = 0;
        struct kz_err err;
        enum kz_code rc = KZ_OK;

        if (!source)
            rc = bus->ops->open_source(bus, &options, &source, &err);
        else
            rc = bus->ops->pull(source, deliveries, PULL_MAX, PULL_WAIT_MS, &count, &err);
        for (size_t i = 0; rc == KZ_OK && i < count; i++)
            take(waits, deliveries[i]);
        if (rc == KZ_OK && count)
            bus->ops->ack(source, deliveries, count);
        if (rc != KZ_OK && !warned)
            kz_diag_warn(
                    "news cannot be pulled: ?wait= waits in vain", "error=\"%s\"", err.message);
        warned = rc != KZ_OK;
        if (rc != KZ_OK && !source)
            usleep(OPEN_AGAIN_US);
    }
    if (source)
        bus->ops->close_source(source);
}

/* ---- waiters -------------------------------------------------------------------------------------------- */

static void watch_ids(struct kz_waits *waits, const struct kz_submission *s, int by)
{
    pthread_mutex_lock(&waits->lock);
    for (size_t i = 0; i < s->item_count; i++)
        if (s->items[i]->state != KZ_INTAKE_REJECTED)
            *watched_of(waits, s->items[i]->event.event_id) += (uint32_t)by;
    pthread_mutex_unlock(&waits->lock);
}

static void add_pending(struct kz_submission *s, unsigned model, const char *reason)
{
    s->pending = kz_realloc(s->pending, (s->pending_count + 1) * sizeof(*s->pending));
    s->pending[s->pending_count++] = (struct kz_wait_pending){model, reason};
}

/* It is looked at in this turn or the next. */
static void mark_told(struct kz_waits *waits, struct waiter *waiter)
{
    if (waiter->is_told)
        return;
    waiter->is_told = true;
    TAILQ_INSERT_TAIL(&waits->told, waiter, of_told);
}

static void unmark_told(struct kz_waits *waits, struct waiter *waiter)
{
    if (waiter->is_told)
        TAILQ_REMOVE(&waits->told, waiter, of_told);
    waiter->is_told = false;
}

static void remove_waiter(struct kz_waits *waits, struct waiter *waiter)
{
    LIST_REMOVE(waiter, of_bucket);
    unmark_told(waits, waiter);
    for (size_t i = 0; i < waiter->item_slots; i++)
        if (waiter->items[i].waiter)
            LIST_REMOVE(&waiter->items[i], of_bucket);
    kz_waiting_remove(&waits->waiting, waiter->submission);
    waiter->submission->waiter = NULL;
    waits->count--;
    watch_ids(waits, waiter->submission, -1);
}

static void waiter_free(struct kz_waits *waits, struct waiter *waiter)
{
    for (size_t m = 0; m < waits->env->project->model_count; m++)
        kz_buf_done(&waiter->results[m]);
    for (size_t i = 0; i < waiter->item_slots; i++) /* the submission has gone */
        free(waiter->items[i].told);
    free(waiter->items);
    free(waiter->unasked);
    free(waiter->results);
    free(waiter->ended);
    free(waiter);
}

/* Answers; `reason` is what is said of the models nothing was heard of. */
static void finish(struct kz_waits *waits, struct waiter *waiter, const char *reason)
{
    struct kz_submission *s = waiter->submission;
    size_t models = waits->env->project->model_count;
    kz_lsn *results = s->results = kz_calloc(models + 1, sizeof(*s->results));
    unsigned *of = s->result_models = kz_calloc(models + 1, sizeof(*s->result_models));
    struct kz_wait_pending *pending;

    remove_waiter(waits, waiter);
    for (unsigned m = 0; m < models; m++) {
        if (waiter->results[m].size) {
            s->result_models[s->result_count] = m;
            s->results[s->result_count++] = m + 1;
        } else if (s->wait_models[m] && !waiter->ended[m]) {
            add_pending(s, m, reason);
        }
    }
    pending = s->pending;
    waits->answering = waiter;
    s->done(s, KZ_OK, NULL);
    waits->answering = NULL;
    free(results);
    free(of);
    free(pending);
    waiter_free(waits, waiter);
}

static bool has_all(const struct kz_waits *waits, const struct waiter *waiter)
{
    for (size_t m = 0; m < waits->env->project->model_count; m++)
        if (waiter->submission->wait_models[m] && !waiter->ended[m])
            return false;
    return waiter->landed;
}

/* The item that a result is about; item_count: none. */
static size_t item_about(
        const struct kz_submission *s, struct kz_str event_id, struct kz_str user_id)
{
    for (size_t i = 0; i < s->item_count; i++) {
        const struct kz_event *event = &s->items[i]->event;

        if (s->items[i]->state != KZ_INTAKE_REJECTED && kz_str_eq(event->event_id, event_id) &&
                (kz_str_eq(event->user_id, user_id) || kz_str_eq(event->anonymous_id, user_id)))
            return i;
    }
    return s->item_count;
}

static void end_unasked(struct waiter *waiter, unsigned model, const char *reason)
{
    struct unasked *unasked = &waiter->unasked[model];

    if (!waiter->submission->wait_models[model] || waiter->ended[model])
        return;
    /* An event that asks later says more than one that does not. */
    if (!unasked->reason || strcmp(unasked->reason, "not_triggered") == 0)
        unasked->reason = reason;
    if (++unasked->count < waiter->item_count)
        return;
    waiter->ended[model] = true;
    add_pending(waiter->submission, model, unasked->reason);
}

/* True for the first word about a model that an item asks or not. Others come where the same news come
 * again, or where an item asks the model before it now and once more by a timer. */
static bool is_first_word(const struct kz_waits *waits, struct awaited *item, unsigned model)
{
    bool first;

    if (!item->told)
        item->told = kz_calloc(waits->env->project->model_count, sizeof(bool));
    first = !item->told[model];
    item->told[model] = true;
    return first;
}

/* `model` has a result for an item, or will have none: models after it that it does not ask will not be
 * asked of that item by anybody, nor will those after them. `asked` empty: it is not known. */
static void tell_after(struct kz_waits *waits, struct waiter *waiter, size_t item, unsigned model,
        bool done, struct kz_str asked)
{
    const struct kz_project *project = waits->env->project;

    for (unsigned m = 0; m < project->model_count && (!done || asked.size); m++) {
        const struct kz_model_def *def = &project->models[m];

        if (!def->after || strcmp(def->after, project->models[model].name) != 0 ||
                !is_first_word(waits, &waiter->items[item], m) ||
                (done && kz_asked_has(asked, def->name)))
            continue;
        end_unasked(waiter, m, "not_triggered");
        tell_after(waits, waiter, item, m, false, asked);
    }
}

static void tell(
        struct kz_waits *waits, struct waiter *waiter, size_t item, const struct piece *piece)
{
    const struct kz_record *record = (const void *)piece->record.data;
    struct kz_str bytes = kz_record_body(record);
    const struct kz_result_body *body = (const void *)bytes.ptr;
    const struct kz_project *project = waits->env->project;
    const struct kz_model_def *def = kz_project_model(project, kz_span_str(bytes, body->model));
    unsigned model = def ? (unsigned)(def - project->models) : 0;

    if (!def)
        return;
    mark_told(waits, waiter);
    tell_after(waits, waiter, item, model, body->end == KZ_END_DONE, kz_buf_view(&piece->asked));
    if (!waiter->submission->wait_models[model] || waiter->ended[model])
        return;
    waiter->ended[model] = true;
    if (body->end == KZ_END_DONE)
        kz_buf_put(&waiter->results[model], record, record->size);
    else
        add_pending(waiter->submission, model,
                body->end == KZ_END_DEAD ? "dead_letter"
                                         : kz_request_end_name((enum kz_request_end)body->end));
}

/* Of a submission's items that are about the same event, the first is told. */
static void tell_result(struct kz_waits *waits, const struct piece *piece)
{
    const struct kz_record *record = (const void *)piece->record.data;
    struct kz_str bytes = kz_record_body(record);
    const struct kz_result_body *body = (const void *)bytes.ptr;
    struct kz_str event_id = kz_span_str(bytes, body->event_id);
    struct kz_str user_id = kz_span_str(bytes, body->user_id);
    struct awaited *item;

    LIST_FOREACH(item, &waits->awaited[bucket_of(event_id)], of_bucket)
    {
        struct waiter *waiter = item->waiter;
        size_t at = (size_t)(item - waiter->items);

        if (kz_str_eq(waiter->submission->items[at]->event.event_id, event_id) &&
                item_about(waiter->submission, event_id, user_id) == at)
            tell(waits, waiter, at, piece);
    }
}

static void tell_unasked(struct kz_waits *waits, const struct piece *piece)
{
    struct waiter *waiter = LIST_FIRST(&waits->numbers[piece->number % BUCKETS]);
    struct kz_err err;

    while (waiter && waiter->number != piece->number)
        waiter = LIST_NEXT(waiter, of_bucket);
    if (!waiter || piece->item >= waiter->submission->item_count ||
            waiter->items[piece->item].heard)
        return;
    waiter->items[piece->item].heard = true;
    mark_told(waits, waiter);
    if (kz_unasked_read(kz_buf_view(&piece->unasked), waits->env->project, waits->reasons, &err) !=
            KZ_OK) {
        kz_diag_warn("a message on news is none", "error=\"%s\"", err.message);
        return;
    }
    for (unsigned m = 0; m < waits->env->project->model_count; m++)
        if (waits->reasons[m] && is_first_word(waits, &waiter->items[piece->item], m))
            end_unasked(waiter, m, waits->reasons[m]);
}

/* ---- the loop's side --------------------------------------------------------------------------------------- */

bool kz_waits_hears(struct kz_waits *waits)
{
    struct kz_err err;
    bool hears;

    pthread_mutex_lock(&waits->lock);
    hears = waits->hears;
    pthread_mutex_unlock(&waits->lock);
    if (!hears && !waits->puller.started &&
            kz_thread_start(&waits->puller, "kz-wait", run_puller, waits, &err) != KZ_OK)
        kz_diag_warn("?wait= waits in vain", "error=\"%s\"", err.message);
    return hears;
}

static void mark_items(struct kz_waits *waits, struct waiter *waiter)
{
    struct kz_submission *s = waiter->submission;

    waiter->items = kz_calloc(s->item_count + 1, sizeof(*waiter->items));
    waiter->item_slots = s->item_count;
    for (size_t i = 0; i < s->item_count; i++) {
        struct awaited *item = &waiter->items[i];

        if (s->items[i]->state == KZ_INTAKE_REJECTED)
            continue;
        waiter->item_count++;
        item->waiter = waiter;
        LIST_INSERT_HEAD(&waits->awaited[bucket_of(s->items[i]->event.event_id)], item, of_bucket);
        snprintf(item->words, sizeof(item->words), "%016" PRIx64 "-%" PRIu64 "-%zu", waits->process,
                waiter->number, i);
        s->items[i]->awaited = kz_str(item->words);
    }
}

void kz_waits_watch(struct kz_waits *waits, struct kz_submission *submission)
{
    size_t models = waits->env->project->model_count;
    struct waiter *waiter = kz_calloc(1, sizeof(*waiter));

    waiter->submission = submission;
    waiter->number = ++waits->last_number;
    waiter->ended = kz_calloc(models + 1, sizeof(*waiter->ended));
    waiter->unasked = kz_calloc(models + 1, sizeof(*waiter->unasked));
    waiter->results = kz_calloc(models + 1, sizeof(*waiter->results));
    LIST_INSERT_HEAD(&waits->numbers[waiter->number % BUCKETS], waiter, of_bucket);
    submission->waiter = waiter;
    submission->wait_place = 0;
    waits->count++;
    mark_items(waits, waiter);
    watch_ids(waits, submission, 1);
}

void kz_waits_landed(struct kz_waits *waits, struct kz_submission *submission)
{
    struct waiter *waiter = submission->waiter;

    waiter->landed = true;
    if (has_all(waits, waiter))
        finish(waits, waiter, "");
    else
        kz_waiting_add(&waits->waiting, submission);
}

void kz_waits_forget(struct kz_waits *waits, struct kz_submission *submission)
{
    struct waiter *waiter = submission->waiter;

    if (!waiter)
        return;
    remove_waiter(waits, waiter);
    free(kz_take(&submission->pending)); /* news may have been faster than the failure */
    submission->pending_count = 0;
    waiter_free(waits, waiter);
}

static void finish_late(struct kz_waits *waits)
{
    struct kz_submission *s = kz_waiting_first(&waits->waiting);
    int64_t now_us = s ? kz_mono_us() : 0;

    for (unsigned i = 0; i < TIMEOUTS_TURN_MAX && s && s->wait_until_us <= now_us; i++) {
        finish(waits, s->waiter, "timeout");
        s = kz_waiting_first(&waits->waiting);
    }
}

void kz_waits_turn(struct kz_waits *waits)
{
    struct piece *heard;
    struct waiter *waiter;

    pthread_mutex_lock(&waits->lock);
    heard = waits->heard;
    waits->heard = NULL;
    waits->heard_last = &waits->heard;
    pthread_mutex_unlock(&waits->lock);
    while (heard) {
        struct piece *next = heard->next;

        if (heard->unasked.size)
            tell_unasked(waits, heard);
        else
            tell_result(waits, heard);
        piece_free(heard);
        heard = next;
    }
    while ((waiter = TAILQ_FIRST(&waits->told))) {
        unmark_told(waits, waiter);
        if (has_all(waits, waiter))
            finish(waits, waiter, "");
    }
    finish_late(waits);
}

int kz_waits_next_ms(struct kz_waits *waits)
{
    const struct kz_submission *first = kz_waiting_first(&waits->waiting);
    int64_t next_us = 1000000;

    if (first)
        next_us = KZ_MIN(next_us, first->wait_until_us - kz_mono_us());
    return (int)(KZ_MAX(next_us, (int64_t)0) / 1000 + (next_us > 0 && next_us < 1000000));
}

void kz_waits_stop(struct kz_waits *waits)
{
    struct kz_submission *s;

    while ((s = kz_waiting_first(&waits->waiting)))
        finish(waits, s->waiter, "stopping");
}

size_t kz_waits_count(const struct kz_waits *waits)
{
    return waits->count;
}

/* ---- life ------------------------------------------------------------------------------------------------ */

static enum kz_code reader_get(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    struct kz_waits *waits = KZ_CONTAINER_OF(reader, struct kz_waits, reader);

    (void)owner;
    if (!waits->answering || !lsn || lsn > waits->env->project->model_count)
        return kz_fail(err, KZ_NOT_FOUND, "nobody is being answered");
    kz_buf_clear(out);
    kz_buf_str(out, kz_buf_view(&waits->answering->results[lsn - 1]));
    return KZ_OK;
}

struct kz_query *kz_waits_query(struct kz_waits *waits)
{
    return &waits->query;
}

struct kz_waits *kz_waits_new(struct kz_role_env *env)
{
    static const struct kz_history_reader_ops reader_ops = {.get = reader_get};
    struct kz_waits *waits = kz_calloc(1, sizeof(*waits));

    waits->env = env;
    kz_random_bytes(&waits->process, sizeof(waits->process));
    waits->reasons = kz_calloc(env->project->model_count + 1, sizeof(*waits->reasons));
    waits->reader.ops = &reader_ops;
    waits->query = (struct kz_query){.project = env->project, .reader = &waits->reader};
    TAILQ_INIT(&waits->told);
    waits->heard_last = &waits->heard;
    pthread_mutex_init(&waits->lock, NULL);
    return waits;
}

void kz_waits_free(struct kz_waits *waits)
{
    if (!waits)
        return;
    pthread_mutex_lock(&waits->lock);
    waits->stop = true;
    pthread_mutex_unlock(&waits->lock);
    kz_thread_join(&waits->puller);
    KZ_BUG_ON(waits->count);
    kz_waiting_done(&waits->waiting);
    while (waits->heard) {
        struct piece *piece = waits->heard;

        waits->heard = piece->next;
        piece_free(piece);
    }
    free(waits->reasons);
    pthread_mutex_destroy(&waits->lock);
    free(waits);
}
