/* app/pipeline/pipeline_wait.c -- answers that wait for predictions: ?wait= of a submission.
 *
 * A waiter is one request that a submission waits for. It is found by the request, when a result is
 * durable, and by its submission, when that waits no longer, so that neither depends on how many others
 * wait.
 */

#include <stdlib.h>

#include "app/pipeline/pipeline_int.h"
#include "sys/clock.h"

enum { TIMEOUTS_TURN_MAX = 1000 }; /* answered in one turn; the next follows at once */

/* One request that a submission waits for. */
struct kz_waiter {
    uint64_t request;
    unsigned model;
    struct kz_submission *submission;
    LIST_ENTRY(kz_waiter) of_bucket, of_submission;
};

/* ---- waiters ---------------------------------------------------------------------------------------- */

void kz_pl_wait_for(
        struct kz_pipeline *p, uint64_t request, unsigned model, struct kz_submission *submission)
{
    struct kz_waiter *w = kz_calloc(1, sizeof(*w));

    w->request = request;
    w->model = model;
    w->submission = submission;
    LIST_INSERT_HEAD(&p->waiters[request % WAITER_BUCKETS], w, of_bucket);
    LIST_INSERT_HEAD(&submission->waiters, w, of_submission);
    submission->wait_open++;
}

static void waiter_free(struct kz_waiter *w)
{
    LIST_REMOVE(w, of_bucket);
    LIST_REMOVE(w, of_submission);
    w->submission->wait_open--;
    free(w);
}

void kz_pl_forget_waiters(struct kz_submission *submission)
{
    while (!LIST_EMPTY(&submission->waiters))
        waiter_free(LIST_FIRST(&submission->waiters));
}

static bool has_result(const struct kz_submission *s, unsigned model)
{
    for (size_t i = 0; i < s->result_count; i++)
        if (s->result_models[i] == model)
            return true;
    return false;
}

static bool has_pending(const struct kz_submission *s, unsigned model)
{
    for (size_t i = 0; i < s->pending_count; i++)
        if (s->pending[i].model == model)
            return true;
    return false;
}

/* One word a model, the first. */
static void add_pending(struct kz_submission *s, unsigned model, const char *reason)
{
    if (has_pending(s, model))
        return;
    s->pending = kz_realloc(s->pending, (s->pending_count + 1) * sizeof(*s->pending));
    s->pending[s->pending_count++] = (struct kz_wait_pending){model, reason};
}

void kz_pl_asked_later(struct kz_pipeline *p, const struct kz_rule *rule)
{
    const char *reason = rule->def->debounce_ms ? "debounced"
                         : rule->def->delay_ms  ? "delayed"
                                                : NULL; /* count: not reached; settle_pending() */

    for (size_t i = 0; reason && i < rule->model_count; i++)
        if (p->current->wait_models[rule->models[i]])
            add_pending(p->current, rule->models[i], reason);
}

/* What became of a request that was waited for counts more than why another rule asks later. */
static void end_without_result(struct kz_submission *s, unsigned model, const char *reason)
{
    size_t kept = 0;

    for (size_t i = 0; i < s->pending_count; i++) {
        const char *word = s->pending[i].reason;
        bool later = strcmp(word, "debounced") == 0 || strcmp(word, "delayed") == 0;

        if (s->pending[i].model != model || !later)
            s->pending[kept++] = s->pending[i];
    }
    s->pending_count = kept;
    add_pending(s, model, reason);
}

/* One word about each model that was waited for and has no prediction here: what became of its
 * request, or why no event of the submission led to one. */
static void settle_pending(struct kz_pipeline *p, struct kz_submission *s)
{
    size_t kept = 0;

    for (size_t i = 0; i < s->pending_count; i++)
        if (!has_result(s, s->pending[i].model))
            s->pending[kept++] = s->pending[i];
    s->pending_count = kept;
    for (unsigned m = 0; m < p->project->model_count; m++)
        if (s->wait_models[m] && !has_result(s, m))
            add_pending(s, m, "not_triggered");
}

void kz_pl_submission_done(
        struct kz_submission *submission, enum kz_code code, const struct kz_err *err)
{
    kz_lsn *results = submission->results;
    unsigned *models = submission->result_models;
    struct kz_wait_pending *pending = submission->pending;

    submission->done(submission, code, err);
    free(results);
    free(models);
    free(pending);
}

void kz_pl_finish_waiting(struct kz_pipeline *p, struct kz_submission *submission)
{
    if (!submission->durable_at || submission->wait_open)
        return;
    kz_waiting_remove(&p->waiting, submission);
    settle_pending(p, submission);
    kz_pl_submission_done(submission, KZ_OK, NULL);
}

void kz_pl_unasked(
        struct kz_pipeline *p, struct kz_submission *submission, const char **ret_reasons)
{
    size_t count = p->project->model_count;
    const struct kz_waiter *w;

    for (size_t m = 0; m < count; m++)
        ret_reasons[m] = "not_triggered";
    for (size_t i = 0; i < submission->pending_count; i++)
        ret_reasons[submission->pending[i].model] = submission->pending[i].reason;
    LIST_FOREACH(w, &submission->waiters, of_submission)
    ret_reasons[w->model] = NULL;
    /* A model behind one that was asked may be asked yet, and so on. */
    for (size_t i = 0; i < count; i++)
        for (size_t m = 0; m < count; m++)
            if (p->models[m].after < count && !ret_reasons[p->models[m].after])
                ret_reasons[m] = NULL;
    kz_pl_forget_waiters(submission);
    free(kz_take(&submission->pending));
    submission->pending_count = 0;
}

/* Waits no longer for what a submission has not got. Where it is not durable yet, its own release
 * finishes it. */
static void give_up_waiting(struct kz_pipeline *p, struct kz_submission *s, const char *reason)
{
    const struct kz_waiter *w;

    kz_waiting_remove(&p->waiting, s);
    if (LIST_EMPTY(&s->waiters))
        return;
    LIST_FOREACH(w, &s->waiters, of_submission)
    end_without_result(s, w->model, reason);
    kz_pl_forget_waiters(s);
    kz_pl_finish_waiting(p, s);
}

void kz_pl_waiters_timeout(struct kz_pipeline *p)
{
    struct kz_submission *s = kz_waiting_first(&p->waiting);
    int64_t now_us = s ? kz_mono_us() : 0;

    for (unsigned i = 0; i < TIMEOUTS_TURN_MAX && s && s->wait_until_us <= now_us; i++) {
        give_up_waiting(p, s, "timeout");
        s = kz_waiting_first(&p->waiting);
    }
}

void kz_pipeline_end_waiting(struct kz_pipeline *p)
{
    struct kz_submission *s;

    while ((s = kz_waiting_first(&p->waiting)))
        give_up_waiting(p, s, "stopping");
}

void kz_pl_waiting_done(struct kz_pipeline *p)
{
    for (size_t b = 0; b < WAITER_BUCKETS; b++)
        while (!LIST_EMPTY(&p->waiters[b])) { /* whose submission may be gone */
            struct kz_waiter *w = LIST_FIRST(&p->waiters[b]);

            LIST_REMOVE(w, of_bucket);
            free(w);
        }
    kz_waiting_done(&p->waiting);
}

/* ---- results that became durable ------------------------------------------------------------------- */

static const char *end_reason(enum kz_request_end end)
{
    return end == KZ_END_DEAD ? "dead_letter" : kz_request_end_name(end);
}

void kz_pl_result_durable(struct kz_pipeline *p, const struct due *due)
{
    struct kz_waiter *w = LIST_FIRST(&p->waiters[due->news.request % WAITER_BUCKETS]);
    const struct kz_record *record;
    const struct kz_result_body *body;

    if (due->news.started_us)
        kz_pl_observe(&p->histograms.total, kz_mono_us() - due->news.started_us);
    while (w && w->request != due->news.request)
        w = LIST_NEXT(w, of_bucket);
    if (!w && !p->subscriptions)
        return;
    kz_buf_clear(&p->record);
    if (p->reader->ops->get(p->reader, due->news.record, due->news.owner, &p->record, NULL) !=
            KZ_OK)
        return;
    record = (const struct kz_record *)(void *)p->record.data;
    body = (const void *)kz_record_body(record).ptr;
    if (w) {
        struct kz_submission *s = w->submission;

        if (body->end == KZ_END_DONE) {
            s->results = kz_realloc(s->results, (s->result_count + 1) * sizeof(*s->results));
            s->result_models = kz_realloc(
                    s->result_models, (s->result_count + 1) * sizeof(*s->result_models));
            s->result_models[s->result_count] = w->model;
            s->results[s->result_count++] = due->news.record;
        } else {
            end_without_result(s, w->model, end_reason((enum kz_request_end)body->end));
        }
        waiter_free(w);
        if (body->end == KZ_END_DONE)
            kz_pl_publish(p, KZ_NEWS_PREDICTION, record);
        kz_pl_finish_waiting(p, s);
        return;
    }
    if (body->end == KZ_END_DONE)
        kz_pl_publish(p, KZ_NEWS_PREDICTION, record);
}
