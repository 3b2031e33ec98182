/* app/pipeline/pipeline_ask.c -- requests and their results: who is asked, when, and what comes of it. */

#include <limits.h>
#include <stdlib.h>

#include "app/pipeline/pipeline_int.h"
#include "base/diag.h"
#include "base/hash.h"
#include "sys/clock.h"

/* ---- backlog: what is due and waits for a place -------------------------------------------------- */

void kz_pl_backlog_push(struct backlog *b, struct backlog_entry entry)
{
    if (b->count == b->capacity) {
        size_t capacity = b->capacity ? b->capacity * 2 : 64;
        struct backlog_entry *items = kz_malloc(capacity * sizeof(*items));

        for (size_t i = 0; i < b->count; i++)
            items[i] = b->items[(b->head + i) & (b->capacity - 1)];
        free(b->items);
        b->items = items;
        b->head = 0;
        b->capacity = capacity;
    }
    b->items[(b->head + b->count++) & (b->capacity - 1)] = entry;
}

struct backlog_entry kz_pl_backlog_pop(struct backlog *b)
{
    struct backlog_entry entry = b->items[b->head];

    b->head = (b->head + 1) & (b->capacity - 1);
    b->count--;
    return entry;
}

static unsigned model_index(const struct kz_pipeline *p, struct kz_str name)
{
    for (unsigned i = 0; i < p->project->model_count; i++)
        if (kz_str_is(name, p->project->models[i].name))
            return i;
    return UINT_MAX;
}

/* ---- making a request ---------------------------------------------------------------------------- */

static void queue_job(struct kz_pipeline *p, struct kz_infer_job *job)
{
    job->next = NULL;
    *p->jobs_tail = job;
    p->jobs_tail = &job->next;
}

/* Fills a job from its REQUEST record. The chains are those of whom it was made about, who may have
 * been merged into `user` since, cut at the request by its address: what was linked later is not
 * seen. */
static struct kz_infer_job *make_job(struct kz_pipeline *p, unsigned model, uint32_t user,
        kz_lsn lsn, const struct kz_record *record)
{
    struct kz_infer_job *job = kz_infer_job_new(p->infer);
    uint32_t asked = kz_views_find_owner(p->views, record->owner);
    struct kz_str bytes = kz_record_body(record);
    const struct kz_request_body *body = (const void *)bytes.ptr;
    struct kz_str user_id = kz_span_str(bytes, body->user_id);
    struct kz_str event_id = kz_span_str(bytes, body->event_id);

    job->request = record->seq;
    job->request_lsn = lsn;
    job->copy_lsn = 0;
    job->model = model;
    job->owner = record->owner;
    job->user_kind = body->user_kind;
    memcpy(job->text, user_id.ptr, user_id.size);
    memcpy(job->text + user_id.size, event_id.ptr, event_id.size);
    job->params = (struct kz_sql_params){
            .now_ms = body->now_ms,
            .user_id = kz_str_n(job->text, user_id.size),
            .event_id = kz_str_n(job->text + user_id.size, event_id.size),
            .trigger_ts_ms = body->trigger_ts_ms,
            .session = body->session,
            .seq = body->event_seq,
            .first_seen_ms = body->first_seen_ms,
    };
    job->source_count = kz_views_sources(
            p->views, asked ? asked : user, KZ_CHAIN_EVENTS, lsn, job->sources);
    job->queued_us = kz_mono_us();
    job->deadline_ms = p->options.virtual_clock ? 0 : body->expires_ms;
    job->user = NULL;
    return job;
}

static enum kz_code put_request(
        struct kz_pipeline *p, unsigned model, const struct asking *asking, struct kz_err *err)
{
    const struct kz_user *user = kz_views_user(p->views, asking->user);
    struct kz_user_key key = kz_views_key(p->views, asking->user);
    const char *name = p->project->models[model].name;
    struct kz_request_body fixed = {
            .now_ms = KZ_MAX(asking->now_ms, user->last_ts_ms),
            .trigger_ts_ms = asking->trigger_ts_ms,
            .expires_ms = asking->max_age_ms ? asking->now_ms + asking->max_age_ms : 0,
            .event = asking->event,
            .event_seq = asking->event_seq,
            .session = asking->session,
            .first_seen_ms = user->first_seen_ms,
            .user_kind = key.kind,
    };
    struct kz_log_entry entry = {
            .type = KZ_RECORD_REQUEST,
            .owner = user->owner,
            .prev = user->notes_head,
            .at_ms = p->now_ms,
            .reserved = true,
    };
    struct kz_body_writer w;
    kz_lsn lsn;
    uint64_t seq;

    fixed.id_hash = kz_hash_mix(kz_hash_mix(user->owner, kz_hash_str(asking->event_id)),
            kz_hash_mix(
                    kz_hash_mix(kz_name_hash(kz_str(asking->trigger)), kz_name_hash(kz_str(name))),
                    (uint64_t)fixed.now_ms));
    kz_buf_clear(&p->body);
    w = kz_body_begin(&p->body, &fixed, sizeof(fixed));
    kz_body_span(&w, offsetof(struct kz_request_body, model), kz_str(name));
    kz_body_span(&w, offsetof(struct kz_request_body, trigger), kz_str(asking->trigger));
    kz_body_span(&w, offsetof(struct kz_request_body, user_id), key.id);
    kz_body_span(&w, offsetof(struct kz_request_body, event_id), asking->event_id);
    entry.body = kz_buf_view(&p->body);
    KZ_TRY(kz_pl_put(p, &entry, &lsn, &seq, err));
    p->counters.requests_total++;
    if (p->current && p->current->wait_models[model])
        kz_pl_wait_for(p, seq, model, p->current);
    if (!p->infer) /* somebody else's work */
        return KZ_OK;
    /* One that is too old already (a clock held to max_behind) ends in kz_pl_refill(). */
    if (kz_infer_room(p->infer, model) > 0 && !p->models[model].backlog.count &&
            !(fixed.expires_ms && p->now_ms > fixed.expires_ms))
        queue_job(
                p, make_job(p, model, asking->user, lsn, p->journal->ops->staged(p->journal, lsn)));
    else
        kz_pl_backlog_push(
                &p->models[model].backlog, (struct backlog_entry){user->owner, seq, lsn});
    return KZ_OK;
}

static enum kz_code having_holds(struct kz_pipeline *p, const struct kz_rule *rule,
        const struct asking *asking, bool *ret_true, struct kz_err *err)
{
    const struct kz_user *user = kz_views_user(p->views, asking->user);
    struct kz_history_rows rows;
    struct kz_sql_params params = {
            .now_ms = KZ_MAX(asking->now_ms, user->last_ts_ms),
            .user_id = kz_views_key(p->views, asking->user).id,
            .event_id = asking->event_id,
            .trigger_ts_ms = asking->trigger_ts_ms,
            .session = asking->session,
            .seq = asking->event_seq,
            .first_seen_ms = user->first_seen_ms,
    };
    enum kz_code rc;

    KZ_TRY(kz_pl_history(p, asking->user, &rule->def->history, params.now_ms, &rows, err));
    params.truncated = rows.truncated;
    rc = kz_sql_having_true(rule->having, &rows, &params, 0, ret_true, err);
    p->reader->ops->release(p->reader, &rows);
    return rc;
}

enum kz_code kz_pl_ask(struct kz_pipeline *p, const struct kz_rule *rule,
        const struct asking *asking, struct kz_err *err)
{
    bool holds = true;
    enum kz_code rc = KZ_OK;

    if (!p->options.ask || !rule->model_count)
        return KZ_OK;
    if (rule->having)
        rc = having_holds(p, rule, asking, &holds, err);
    if (rc != KZ_OK) {
        p->counters.rules_failed_total++;
        return kz_pl_dead_letter(p, KZ_STAGE_TRIGGER, asking->event_seq,
                kz_views_user(p->views, asking->user)->owner, "having", kz_str(err->message),
                rule->def->name, KZ_STR_NULL, err);
    }
    for (size_t i = 0; holds && i < rule->model_count; i++)
        KZ_TRY(put_request(p, rule->models[i], asking, err));
    return KZ_OK;
}

/* Finds the REQUEST record of that seq among the user's notes, newest first. */
static kz_lsn find_request(struct kz_pipeline *p, uint32_t user, uint64_t request)
{
    struct kz_source sources[KZ_SOURCES_MAX];
    struct kz_history_query query = {
            .sources = sources,
            .source_count = kz_views_sources(p->views, user, KZ_CHAIN_NOTES, UINT64_MAX, sources),
            .chain = KZ_CHAIN_NOTES,
            .as_of = UINT64_MAX,
            .events_max = 100000,
            .since_ms = INT64_MIN,
            .include_actions = true,
    };
    struct kz_history_rows rows;
    kz_lsn found = 0;

    if (p->reader->ops->scan(p->reader, &query, &rows, NULL) != KZ_OK)
        return 0;
    for (size_t i = rows.count; i-- > 0 && !found;)
        if (rows.records[i]->type == KZ_RECORD_REQUEST && rows.records[i]->seq == request)
            found = rows.lsns[i];
    p->reader->ops->release(p->reader, &rows);
    return found;
}

enum kz_code kz_pl_ask_again(
        struct kz_pipeline *p, uint64_t owner, uint64_t request, struct kz_err *err)
{
    uint32_t user = kz_views_state_user(p->views, owner);
    kz_lsn lsn = user ? find_request(p, user, request) : 0;
    struct kz_buf found = {0};
    const struct kz_request_body *body;
    struct kz_str bytes;
    enum kz_code rc;

    if (!lsn || kz_pl_get(p, user, KZ_CHAIN_NOTES, lsn, &found, err) != KZ_OK) {
        kz_buf_done(&found);
        return kz_fail(err, KZ_NOT_FOUND, "the request %llu is not kept any more",
                (unsigned long long)request);
    }
    bytes = kz_record_body((const struct kz_record *)(void *)found.data);
    body = (const void *)bytes.ptr;
    char *trigger = kz_strndup(kz_span_str(bytes, body->trigger).ptr, body->trigger.size);
    struct asking asking = {
            .user = user,
            .event = body->event,
            .event_seq = body->event_seq,
            .event_id = kz_span_str(bytes, body->event_id),
            .session = body->session,
            .trigger_ts_ms = body->trigger_ts_ms,
            .now_ms = body->now_ms,
            .trigger = trigger,
    };
    unsigned model = model_index(p, kz_span_str(bytes, body->model));

    rc = model == UINT_MAX || !p->options.ask
                 ? kz_fail(err, KZ_NOT_FOUND, "its model is not part of the project any more")
                 : put_request(p, model, &asking, err);
    free(trigger);
    kz_buf_done(&found);
    return rc;
}

/* ---- ending a request ----------------------------------------------------------------------------- */

static void count_end(struct kz_pipeline *p, unsigned model, enum kz_request_end end)
{
    struct model ignored, *m = model == UINT_MAX ? &ignored : &p->models[model];

    switch (end) {
    case KZ_END_DONE:
        p->counters.requests_done_total++;
        m->done++;
        break;
    case KZ_END_SUPERSEDED:
        p->counters.requests_superseded_total++;
        m->superseded++;
        break;
    case KZ_END_EXPIRED:
        p->counters.requests_expired_total++;
        m->expired++;
        break;
    case KZ_END_DROPPED:
        p->counters.requests_dropped_total++;
        m->dropped++;
        break;
    case KZ_END_DEAD:
        p->counters.requests_dead_total++;
        m->dead++;
        break;
    }
}

struct ending {
    uint32_t user;
    uint64_t request;
    kz_lsn request_lsn;
    struct kz_str model, user_id, event_id, output, features, version, error;
    char user_kind;
    int64_t started_us;
    uint8_t flags;               /* enum kz_result_flags */
    struct kz_result_body fixed; /* what else is known; filled in by put_result() */
};

/* Stages the RESULT; its news and waiters follow when it is durable. */
static enum kz_code put_result(
        struct kz_pipeline *p, struct ending *e, kz_lsn *ret_lsn, struct kz_err *err)
{
    const struct kz_user *user = kz_views_user(p->views, e->user);
    struct kz_log_entry entry = {
            .type = KZ_RECORD_RESULT,
            .owner = user->owner,
            .prev = user->notes_head,
            .at_ms = p->now_ms,
            .reserved = true,
            .flags = e->flags,
    };
    struct kz_body_writer w;
    struct due *due;

    e->fixed.request = e->request;
    e->fixed.request_lsn = e->request_lsn;
    e->fixed.user_kind = e->user_kind;
    kz_buf_clear(&p->body);
    w = kz_body_begin(&p->body, &e->fixed, sizeof(e->fixed));
    kz_body_span(&w, offsetof(struct kz_result_body, model), e->model);
    kz_body_span(&w, offsetof(struct kz_result_body, version), e->version);
    kz_body_span(&w, offsetof(struct kz_result_body, user_id), e->user_id);
    kz_body_span(&w, offsetof(struct kz_result_body, event_id), e->event_id);
    kz_body_span(&w, offsetof(struct kz_result_body, output), e->output);
    kz_body_span(&w, offsetof(struct kz_result_body, features), e->features);
    kz_body_span(&w, offsetof(struct kz_result_body, error), e->error);
    entry.body = kz_buf_view(&p->body);
    KZ_TRY(kz_pl_put(p, &entry, ret_lsn, NULL, err));
    count_end(p, model_index(p, e->model), (enum kz_request_end)e->fixed.end);
    due = kz_pl_due(p, DUE_RESULT);
    due->news.record = *ret_lsn;
    due->news.owner = user->owner;
    due->news.request = e->request;
    due->news.started_us = e->started_us;
    return KZ_OK;
}

enum kz_code kz_pl_end_request(struct kz_pipeline *p, uint32_t user, kz_lsn lsn,
        const struct kz_record *record, enum kz_request_end end, struct kz_err *err)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_request_body *body = (const void *)bytes.ptr;
    struct ending e = {
            .user = user,
            .request = record->seq,
            .request_lsn = lsn,
            .model = kz_span_str(bytes, body->model),
            .user_id = kz_span_str(bytes, body->user_id),
            .event_id = kz_span_str(bytes, body->event_id),
            .user_kind = body->user_kind,
            .fixed = {.end = (uint8_t)end, .as_of_ms = body->now_ms, .computed_at_ms = p->now_ms},
    };
    kz_lsn result;

    KZ_TRY(kz_pl_group(p, 0, err));
    return put_result(p, &e, &result, err);
}

static void end_pending(struct kz_pipeline *p, uint32_t user, kz_lsn lsn,
        const struct kz_record *record, enum kz_request_end end)
{
    struct kz_err err;

    KZ_IGNORE(kz_pl_end_request(
            p, user, lsn, record, end, &err)); /* a failed log shows at the commit */
}

/* A request made for the model that comes after another. */
static enum kz_code ask_after(struct kz_pipeline *p, uint32_t user, const struct kz_infer_job *job,
        struct model *model, struct kz_err *err)
{
    struct kz_buf found = {0};
    enum kz_code rc = kz_pl_get(
            p, user, KZ_CHAIN_NOTES, job->copy_lsn ? job->copy_lsn : job->request_lsn, &found, err);

    if (rc == KZ_OK) {
        const struct kz_record *record = (const void *)found.data;
        const struct kz_request_body *body = (const void *)kz_record_body(record).ptr;
        struct asking asking = {
                .user = user,
                .event = body->event,
                .event_seq = body->event_seq,
                .event_id = job->params.event_id,
                .session = body->session,
                .trigger_ts_ms = body->trigger_ts_ms,
                .now_ms = body->now_ms,
                .trigger = p->models[model->after].def->name,
                .max_age_ms = body->expires_ms ? body->expires_ms - body->now_ms : 0,
        };

        rc = put_request(p, (unsigned)(model - p->models), &asking, err);
    }
    kz_buf_done(&found);
    return rc;
}

/* What follows from a prediction: models that come after, and actions. */
static enum kz_code follow_up(struct kz_pipeline *p, uint32_t user, kz_lsn lsn,
        const struct kz_infer_job *job, struct kz_err *err)
{
    struct kz_buf copy = {0};
    const struct kz_record *staged = p->journal->ops->staged(p->journal, lsn), *result;
    enum kz_code rc = KZ_OK;

    kz_buf_put(&copy, staged, staged->size); /* further records may move the staged ones */
    result = (const struct kz_record *)(void *)copy.data;
    for (unsigned i = 0; i < p->project->model_count && rc == KZ_OK; i++) {
        struct model *next = &p->models[i];

        if (next->after == job->model && kz_pl_after_holds(p, next, user, result, err))
            rc = ask_after(p, user, job, next, err);
    }
    if (rc == KZ_OK)
        rc = kz_pl_act(p, user, job->model, result, err);
    kz_buf_done(&copy);
    return rc;
}

static void describe_features(struct kz_str row, struct kz_buf *out)
{
    struct kz_value values[512];
    size_t count;

    if (kz_row_decode(row, values, KZ_ARRAY_COUNT(values), &count, NULL) != KZ_OK)
        return;
    kz_buf_cstr(out, "[");
    for (size_t i = 0; i < count; i++) {
        if (i)
            kz_buf_cstr(out, ", ");
        switch (values[i].type) {
        case KZ_TYPE_NULL:
            kz_buf_cstr(out, "null");
            break;
        case KZ_TYPE_INT:
        case KZ_TYPE_BOOL:
            kz_buf_printf(out, "%lld", (long long)values[i].integer);
            break;
        case KZ_TYPE_FLOAT:
            kz_buf_printf(out, "%.17g", values[i].real);
            break;
        case KZ_TYPE_TEXT:
            kz_buf_printf(out, "\"" KZ_STR_FMT "\"", KZ_STR_ARG(values[i].text));
            break;
        }
    }
    kz_buf_cstr(out, "]");
}

/* How many values an encoded row holds (its first two bytes, see kz_row_encode()). */
static uint16_t row_count(const struct kz_buf *row)
{
    uint16_t count = 0;

    if (row->size >= sizeof(count))
        memcpy(&count, row->data, sizeof(count));
    return count;
}

static void observe(struct kz_pipeline *p, const struct kz_infer_result *r)
{
    kz_pl_observe(&p->histograms.queue, r->queue_us);
    kz_pl_observe(&p->histograms.features, r->features_us);
    kz_pl_observe(&p->histograms.wait, r->wait_us);
    kz_pl_observe(&p->histograms.model, r->model_us);
}

enum kz_code kz_pl_result(
        struct kz_pipeline *p, uint32_t user, const struct kz_infer_result *r, struct kz_err *err)
{
    const struct kz_infer_job *job = r->job;
    const struct kz_model_def *def = p->models[job->model].def;
    struct ending e = {.user = user,
            .request = job->request,
            .request_lsn = job->request_lsn,
            .model = kz_str(def->name),
            .user_id = job->params.user_id,
            .event_id = job->params.event_id,
            .user_kind = job->user_kind,
            .started_us = r->end == KZ_END_DONE ? job->queued_us : 0,
            .flags = def->output.kind == KZ_OUTPUT_EMBEDDING && !def->output.expose
                             ? KZ_RESULT_HIDDEN
                             : 0,
            .output = kz_buf_view(&r->output),
            .features = kz_buf_view(&r->features),
            .version = kz_str(r->version),
            .error = kz_buf_view(&r->error),
            .fixed = {
                    .end = (uint8_t)r->end,
                    .has_score = r->has_score,
                    .score = r->score,
                    .as_of_ms = job->params.now_ms,
                    .computed_at_ms = p->now_ms,
                    .expires_at_ms = p->now_ms + def->valid_for_ms,
                    .feature_count = row_count(&r->features),
                    .features_hash = r->features_hash,
                    .version_hash = r->version_hash,
                    .attempt_count = r->attempt_count,
                    .queue_us = r->queue_us,
                    .features_us = r->features_us,
                    .wait_us = r->wait_us,
                    .model_us = r->model_us,
            }};
    const char *line = memchr(e.error.ptr ? e.error.ptr : "", '\n', e.error.size);
    kz_lsn lsn;

    if (line)
        e.error.size = (size_t)(line - e.error.ptr);
    KZ_TRY(kz_pl_group(p, r->output.size + r->features.size + r->error.size, err));
    if (r->end == KZ_END_DEAD) {
        kz_buf_clear(&p->text);
        describe_features(e.features, &p->text);
        KZ_TRY(kz_pl_dead_letter(p, r->stage, job->request, kz_views_user(p->views, user)->owner,
                r->code, kz_buf_view(&r->error), def->name, kz_buf_view(&p->text), err));
    }
    KZ_TRY(put_result(p, &e, &lsn, err));
    if (r->end != KZ_END_DONE)
        return KZ_OK;
    observe(p, r);
    return follow_up(p, user, lsn, job, err);
}

static void take_result(struct kz_pipeline *p, struct kz_infer_result *r)
{
    uint32_t user = kz_views_state_user(p->views, r->job->owner);
    struct kz_err err;

    /* Erased, or ended meanwhile by an operator: a request ends once (P4). */
    if (!user || !kz_views_request(p->views, user, r->job->request) || p->failed)
        return;
    if (kz_pl_result(p, user, r, &err) != KZ_OK && !p->failed)
        kz_diag_warn("what follows a result failed", "model=%s error=\"%s\"",
                p->models[r->job->model].def->name, err.message);
}

static int by_request(const void *a, const void *b)
{
    const struct kz_infer_result *x = *(struct kz_infer_result *const *)a;
    const struct kz_infer_result *y = *(struct kz_infer_result *const *)b;

    return x->job->request < y->job->request ? -1 : x->job->request > y->job->request;
}

/* On virtual time results are taken up when all are back, in the order of their requests: which
 * model was faster must not decide what an action sees. */
static struct kz_infer_result *take_in_order(struct kz_pipeline *p)
{
    struct kz_infer_result **tail = &p->held, **list, *first = NULL;
    size_t count = 0, at = 0;

    while (*tail)
        tail = &(*tail)->next;
    *tail = kz_infer_take(p->infer);
    for (unsigned m = 0; m < p->project->model_count && !p->closing; m++) {
        struct kz_infer_status status;

        kz_infer_status(p->infer, m, &status);
        if (status.inside)
            return NULL;
    }
    for (struct kz_infer_result *r = p->held; r; r = r->next)
        count++;
    if (!count)
        return NULL;
    list = kz_malloc(count * sizeof(struct kz_infer_result *));
    for (struct kz_infer_result *r = kz_take(&p->held); r; r = r->next)
        list[at++] = r;
    qsort(list, count, sizeof(struct kz_infer_result *), by_request);
    while (at-- > 0) {
        list[at]->next = first;
        first = list[at];
    }
    free(list);
    return first;
}

void kz_pl_results(struct kz_pipeline *p)
{
    struct kz_infer_result *r = NULL;

    if (p->infer)
        r = p->options.virtual_clock ? take_in_order(p) : kz_infer_take(p->infer);
    while (r) {
        struct kz_infer_result *next = r->next;

        take_result(p, r);
        kz_infer_result_free(p->infer, r);
        r = next;
    }
}

/* ---- pending requests into infer ------------------------------------------------------------------ */

/* A newer pending request of the same user and model: the older one is overtaken. */
static bool overtaken(struct kz_pipeline *p, uint32_t user, uint64_t model, uint64_t request)
{
    const struct kz_slot *slot = kz_views_slot(p->views, user, KZ_SLOT_REQUEST, model);

    for (; slot; slot = kz_views_slot_next(p->views, slot, KZ_SLOT_REQUEST, model))
        if (slot->request.request > request)
            return true;
    return false;
}

/* A pending request whose record cannot be read (a sector of the disk is bad): a dead letter says so,
 * and it ends (P4). */
static void end_unreadable(struct kz_pipeline *p, unsigned model, uint32_t user,
        struct backlog_entry entry, const struct kz_err *why)
{
    struct kz_user_key key = kz_views_key(p->views, user);
    struct ending e = {
            .user = user,
            .request = entry.request,
            .request_lsn = entry.lsn,
            .model = kz_str(p->models[model].def->name),
            .user_id = key.id,
            .user_kind = key.kind,
            .error = kz_str(why->message),
            .fixed = {.end = KZ_END_DEAD, .computed_at_ms = p->now_ms},
    };
    struct kz_err err;
    kz_lsn result;

    kz_diag_warn("a request cannot be read", "request=%llu error=\"%s\"",
            (unsigned long long)entry.request, why->message);
    if (kz_pl_group(p, strlen(why->message), &err) == KZ_OK &&
            kz_pl_dead_letter(p, KZ_STAGE_FEATURES, entry.request,
                    kz_views_user(p->views, user)->owner, "unreadable", kz_str(why->message),
                    p->models[model].def->name, KZ_STR_NULL, &err) == KZ_OK)
        KZ_IGNORE(put_result(p, &e, &result, &err)); /* a failed log shows at the commit */
}

static void refill_one(struct kz_pipeline *p, unsigned model, struct backlog_entry entry)
{
    uint32_t user = kz_views_state_user(p->views, entry.owner);
    const struct kz_slot *slot = user ? kz_views_request(p->views, user, entry.request) : NULL;
    const struct kz_record *record;
    kz_lsn at;
    struct kz_infer_job *job;
    struct kz_err err = {0};

    if (!slot)
        return; /* ended or erased meanwhile */
    at = kz_slot_address(slot);
    record = p->journal->ops->staged(p->journal, at);
    if (!record) {
        kz_buf_clear(&p->record);
        if (kz_pl_get(p, user, KZ_CHAIN_NOTES, at, &p->record, &err) != KZ_OK) {
            end_unreadable(p, model, user, entry, &err);
            return;
        }
        record = (const struct kz_record *)(void *)p->record.data;
    } else {
        record = kz_record_original(record);
        kz_buf_clear(&p->record);
        kz_buf_put(&p->record, record, record->size);
        record = (const struct kz_record *)(void *)p->record.data;
    }
    if (slot->request.expires_ms && p->now_ms > slot->request.expires_ms)
        end_pending(p, user, entry.lsn, record, KZ_END_EXPIRED);
    else if (overtaken(p, user, p->models[model].name, entry.request))
        end_pending(p, user, entry.lsn, record, KZ_END_SUPERSEDED);
    else {
        job = make_job(p, model, user, entry.lsn, record);
        job->copy_lsn = slot->request.copy_lsn;
        queue_job(p, job);
    }
}

void kz_pl_refill(struct kz_pipeline *p)
{
    if (!p->infer || p->failed)
        return;
    for (unsigned m = 0; m < p->project->model_count; m++) {
        struct backlog *b = &p->models[m].backlog;
        uint32_t room = b->count ? kz_infer_room(p->infer, m) : 0;

        /* Bounded by what a turn may do; the rest comes with the next results. */
        for (uint32_t i = 0; i < room && b->count && i < 4096; i++)
            refill_one(p, m, kz_pl_backlog_pop(b));
    }
}

uint64_t kz_pl_drop_requests(struct kz_pipeline *p, unsigned model)
{
    struct kz_slot_cursor cursor = {0};
    const struct kz_slot *slot;
    struct backlog_entry *list = NULL;
    size_t count = 0, capacity = 0;
    uint64_t dropped = 0;

    while ((slot = kz_views_next_slot(p->views, KZ_SLOT_REQUEST, &cursor))) {
        if (model != UINT_MAX && slot->name != p->models[model].name)
            continue;
        if (count == capacity) {
            capacity = capacity ? capacity * 2 : 256;
            list = kz_realloc(list, capacity * sizeof(*list));
        }
        list[count++] = (struct backlog_entry){kz_views_user(p->views, cursor.user)->owner,
                slot->request.request, slot->request.request_lsn};
    }
    for (size_t i = 0; i < count && !p->failed; i++) {
        uint32_t user = kz_views_state_user(p->views, list[i].owner);

        slot = user ? kz_views_request(p->views, user, list[i].request) : NULL;
        kz_buf_clear(&p->record);
        if (!slot || kz_pl_get(p, user, KZ_CHAIN_NOTES, kz_slot_address(slot), &p->record, NULL) !=
                             KZ_OK)
            continue;
        end_pending(p, user, list[i].lsn, (const struct kz_record *)(void *)p->record.data,
                KZ_END_DROPPED);
        dropped++;
    }
    free(list);
    return dropped;
}
