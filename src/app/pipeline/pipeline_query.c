/* app/pipeline/pipeline_query.c -- what is known, for serve and for operators (contract/query.h). */

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/pipeline/pipeline_int.h"
#include "sys/clock.h"
#include "base/diag.h"

static bool find(struct kz_query *query, struct kz_user_key as_sent, uint32_t *ret_user)
{
    struct kz_views_place place = kz_views_resolve(kz_pl_of_query(query)->views, as_sent);

    if (!place.index)
        return false;
    *ret_user = place.index;
    return true;
}

static const struct kz_user *user_of(struct kz_query *query, uint32_t user)
{
    return kz_views_user(kz_pl_of_query(query)->views, user);
}

static struct kz_user_key key_of(struct kz_query *query, uint32_t user)
{
    return kz_views_key(kz_pl_of_query(query)->views, user);
}

static size_t sources_of(struct kz_query *query, uint32_t user, enum kz_chain chain,
        struct kz_source out[KZ_SOURCES_MAX])
{
    return kz_views_sources(kz_pl_of_query(query)->views, user, chain, UINT64_MAX, out);
}

static const struct kz_slot *slot_of(
        struct kz_query *query, uint32_t user, enum kz_slot_kind kind, const struct kz_slot *after)
{
    const struct kz_views *views = kz_pl_of_query(query)->views;

    return after ? kz_views_slot_next(views, after, kind, 0) : kz_views_slot(views, user, kind, 0);
}

static void when_durable(struct kz_query *query, kz_lsn lsn,
        void (*then)(void *arg, enum kz_code code, const struct kz_err *err), void *arg)
{
    struct kz_pipeline *p = kz_pl_of_query(query);
    struct due *due;

    if (p->failed) {
        then(arg, KZ_IO, &p->failure);
        return;
    }
    if (lsn < kz_log_durable(p->log)) {
        then(arg, KZ_OK, NULL);
        return;
    }
    due = kz_pl_due(p, DUE_CALL);
    due->call.then = then;
    due->call.arg = arg;
}

static kz_lsn end_of(struct kz_query *query)
{
    return kz_log_end(kz_pl_of_query(query)->log);
}

/* ---- subscriptions ------------------------------------------------------------------------------------ */

static void subscribe(struct kz_query *query, struct kz_subscription *subscription)
{
    struct kz_pipeline *p = kz_pl_of_query(query);

    subscription->prev = NULL;
    subscription->next = p->subscriptions;
    if (p->subscriptions)
        p->subscriptions->prev = subscription;
    p->subscriptions = subscription;
}

static void unsubscribe(struct kz_query *query, struct kz_subscription *subscription)
{
    struct kz_pipeline *p = kz_pl_of_query(query);

    if (subscription->prev)
        subscription->prev->next = subscription->next;
    else
        p->subscriptions = subscription->next;
    if (subscription->next)
        subscription->next->prev = subscription->prev;
}

void kz_pl_publish(struct kz_pipeline *p, enum kz_news_kind kind, const struct kz_record *record)
{
    struct kz_news news = {.kind = kind, .owner = record->owner, .record = record};
    uint32_t user = p->subscriptions ? kz_views_state_user(p->views, record->owner) : 0;
    /* Who listened to an id that was merged into another's since listens to that one by now. */
    uint64_t owner = user ? kz_views_user(p->views, user)->owner : record->owner;

    for (struct kz_subscription *s = p->subscriptions, *next; s; s = next) {
        next = s->next; /* a subscriber may leave within the call */
        if (!s->owner || s->owner == record->owner || s->owner == owner)
            s->news(s, &news);
    }
}

void kz_pl_tell_linked(struct kz_pipeline *p, uint64_t owner)
{
    for (struct kz_subscription *s = p->subscriptions; s; s = s->next)
        if (s->owner == owner && s->linked)
            s->linked(s);
}

/* ---- operators ---------------------------------------------------------------------------------------- */

static unsigned model_named(const struct kz_pipeline *p, struct kz_str name)
{
    for (unsigned m = 0; m < p->project->model_count; m++)
        if (kz_str_is(name, p->project->models[m].name))
            return m;
    return UINT_MAX;
}

enum kz_code kz_pl_control(struct kz_pipeline *p, struct kz_str verb, struct kz_str object,
        const char *who, struct kz_err *err)
{
    struct kz_control_body fixed = {0};
    struct kz_log_entry entry = {.type = KZ_RECORD_CONTROL, .at_ms = p->now_ms, .reserved = true};
    struct kz_buf body = {0};
    struct kz_body_writer w = kz_body_begin(&body, &fixed, sizeof(fixed));
    enum kz_code rc;

    kz_body_span(&w, offsetof(struct kz_control_body, verb), verb);
    kz_body_span(&w, offsetof(struct kz_control_body, object), object);
    kz_body_span(&w, offsetof(struct kz_control_body, who), kz_str(who));
    entry.body = kz_buf_view(&body);
    rc = kz_pl_put(p, &entry, NULL, NULL, err);
    kz_buf_done(&body);
    return rc;
}

/* Puts what a dead letter was about back to work, where that can be done. */
static enum kz_code retry_dead_letter(
        struct kz_pipeline *p, const struct kz_dead_letter *letter, struct kz_err *err)
{
    const struct kz_deadletter_body *body;
    struct kz_str bytes;

    kz_buf_clear(&p->record);
    KZ_TRY(p->reader->ops->get(p->reader, letter->lsn, letter->owner, &p->record, err));
    bytes = kz_record_body((const struct kz_record *)(void *)p->record.data);
    body = (const void *)bytes.ptr;
    if (body->stage != KZ_STAGE_FEATURES && body->stage != KZ_STAGE_INFER)
        return kz_fail(err, KZ_UNSUPPORTED,
                "dead letter %llu is of stage %s; only requests can be tried again, an event is to "
                "be sent again",
                (unsigned long long)letter->seq, kz_stage_name((enum kz_stage)body->stage));
    return kz_pl_ask_again(p, letter->owner, body->ref, err);
}

static enum kz_code dead_letter_verb(struct kz_pipeline *p, const char *verb, struct kz_str object,
        const char *who, uint64_t *ret_count, struct kz_err *err)
{
    bool retry = strncmp(verb, "retry", 5) == 0, all = kz_str_is(object, "*");
    struct kz_str wanted = object;

    for (size_t i = kz_views_dead_letter_count(p->views); i-- > 0;) {
        struct kz_dead_letter letter = *kz_views_dead_letter_at(p->views, i);
        char seq[24];
        enum kz_code rc = KZ_OK;

        snprintf(seq, sizeof(seq), "%llu", (unsigned long long)letter.seq);
        if (!all && !kz_str_is(wanted, seq))
            continue;
        KZ_TRY(kz_pl_group(p, 0, err));
        if (retry)
            rc = retry_dead_letter(p, &letter, err);
        if (rc != KZ_OK && !all)
            return rc;
        if (rc == KZ_OK) {
            KZ_TRY(kz_pl_control(p, kz_str(verb), kz_str(seq), who, err));
            (*ret_count)++;
        }
    }
    if (!*ret_count && !all)
        return kz_fail(
                err, KZ_NOT_FOUND, "there is no dead letter " KZ_STR_FMT, KZ_STR_ARG(object));
    return KZ_OK;
}

static enum kz_code model_verb(struct kz_pipeline *p, const char *verb, struct kz_str object,
        uint64_t *ret_count, struct kz_err *err)
{
    unsigned model = model_named(p, object);

    if (model == UINT_MAX && !(kz_str_is(object, "*") && strcmp(verb, "drop-requests") == 0))
        return kz_project_no_model(p->project, object, err);
    *ret_count = 1;
    if (strcmp(verb, "pause-model") == 0)
        kz_infer_pause(p->infer, model, true);
    else if (strcmp(verb, "resume-model") == 0)
        kz_infer_pause(p->infer, model, false);
    else if (strcmp(verb, "unfence-model") == 0)
        kz_infer_unfence(p->infer, model);
    else
        *ret_count = kz_pl_drop_requests(p, model);
    return KZ_OK;
}

static enum kz_code action_verb(struct kz_pipeline *p, const char *verb, struct kz_str object,
        uint64_t *ret_count, struct kz_err *err)
{
    bool all = kz_str_is(object, "*");

    if (!all && !kz_project_action(p->project, object))
        return kz_project_no_action(p->project, object, err);
    if (strcmp(verb, "resume-action") == 0 && all)
        p->options.actions_paused = false;
    *ret_count = all ? p->project->action_count : 1;
    return KZ_OK;
}

/* The marker that `kizashi restore` left: while it is there every start begins with actions paused. */
static void forget_restore(struct kz_pipeline *p)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/restored", p->options.data_dir);
    if (kz_fs_exists(p->options.fs, path))
        KZ_IGNORE(p->options.fs->ops->unlink(p->options.fs, path, NULL)); /* else paused again */
}

static enum kz_code control(struct kz_query *query, const char *verb, struct kz_str object,
        const char *who, uint64_t *ret_count, struct kz_err *err)
{
    struct kz_pipeline *p = kz_pl_of_query(query);

    *ret_count = 0;
    p->now_ms = kz_pl_now(p);
    KZ_TRY(kz_pl_group(p, 0, err));
    if (strstr(verb, "deadletter"))
        KZ_TRY(dead_letter_verb(p, verb, object, who, ret_count, err));
    else if (strstr(verb, "-action"))
        KZ_TRY(action_verb(p, verb, object, ret_count, err));
    else if (p->infer && (strstr(verb, "-model") || strcmp(verb, "drop-requests") == 0))
        KZ_TRY(model_verb(p, verb, object, ret_count, err));
    else
        return kz_fail(err, KZ_INVALID, "unknown verb \"%s\"", verb);
    if (!strstr(verb, "deadletter"))
        KZ_TRY(kz_pl_control(p, kz_str(verb), object, who, err));
    KZ_TRY(kz_pl_commit(p, err));
    if (strcmp(verb, "resume-action") == 0 && kz_str_is(object, "*"))
        forget_restore(p);
    kz_diag_info("operator", "verb=%s object=\"" KZ_STR_FMT "\" by=%s count=%llu", verb,
            KZ_STR_ARG(object), who, (unsigned long long)*ret_count);
    return KZ_OK;
}

static enum kz_code erasure(struct kz_query *query, uint64_t id, bool *ret_done,
        int64_t *ret_asked_ms, int64_t *ret_done_ms, struct kz_err *err)
{
    const struct kz_tombstone *stone = kz_views_erasure(kz_pl_of_query(query)->views, id);

    if (!stone)
        return kz_fail(err, KZ_NOT_FOUND, "there is no erasure %llu", (unsigned long long)id);
    *ret_done = stone->done_at_ms != 0;
    *ret_asked_ms = stone->at_ms;
    *ret_done_ms = stone->done_at_ms;
    return KZ_OK;
}

static size_t dead_letters(
        struct kz_query *query, uint64_t before, size_t count, struct kz_letter_place *places)
{
    struct kz_pipeline *p = kz_pl_of_query(query);
    size_t found = 0;

    for (size_t i = kz_views_dead_letter_count(p->views); i-- > 0 && found < count;) {
        const struct kz_dead_letter *letter = kz_views_dead_letter_at(p->views, i);

        if (before && letter->seq >= before)
            continue;
        places[found++] = (struct kz_letter_place){letter->seq, letter->lsn, letter->owner};
    }
    return found;
}

/* ---- numbers ------------------------------------------------------------------------------------------ */

static bool timing(struct kz_query *query, uint64_t seq, struct kz_event_timing *ret)
{
    struct kz_pipeline *p = kz_pl_of_query(query);

    if (p->timings[seq & (TIMINGS_MAX - 1)].seq != seq)
        return false;
    *ret = p->timings[seq & (TIMINGS_MAX - 1)].timing;
    return true;
}

static void counters(struct kz_query *query, struct kz_pipeline_counters *ret)
{
    struct kz_pipeline *p = kz_pl_of_query(query);
    struct kz_views_stats views = kz_views_stats(p->views);
    struct kz_log_stats log;
    size_t count;
    struct kz_log_segment_info *segments = kz_log_segments(p->log, &count);

    kz_log_stats(p->log, &log);
    *ret = p->counters;
    ret->seq = p->seq;
    ret->timers_set = p->timers.count;
    ret->requests_pending = views.pending_requests;
    ret->dead_letters = views.dead_letters;
    ret->users = views.users;
    ret->views_bytes = views.bytes;
    ret->log_commits_total = log.commits;
    ret->log_bytes_total = log.bytes;
    ret->log_syncs_total = log.syncs;
    ret->log_keys_bytes = log.keys_bytes;
    ret->log_keys_forgotten_total = log.keys_forgotten_total;
    ret->history_memory_bytes = log.cached_bytes;
    ret->history_memory_dropped_total = log.cache_dropped_total;
    ret->history_events_unsealed_total = log.events_unsealed_total;
    ret->history_events_kept_total = log.events_cached_total;
    ret->damaged_reads_total = kz_log_damages(p->log, NULL);
    ret->log_segments = count;
    for (size_t i = 0; i < count; i++) {
        ret->log_segments_sealed += segments[i].sealed;
        ret->log_disk_bytes += segments[i].disk_bytes;
    }
    free(segments);
    if (!p->options.virtual_clock)
        ret->clock_behind_seconds = (uint64_t)KZ_MAX(p->now_ms - kz_clock_ms(), (int64_t)0) / 1000;
}

static const struct kz_pipeline_histograms *histograms(struct kz_query *query)
{
    return &kz_pl_of_query(query)->histograms;
}

static void model_status(struct kz_query *query, unsigned index, struct kz_model_status *ret)
{
    struct kz_pipeline *p = kz_pl_of_query(query);
    const struct model *model = &p->models[index];
    struct kz_infer_status status = {0};

    if (p->infer)
        kz_infer_status(p->infer, index, &status);
    *ret = (struct kz_model_status){
            .name = model->def->name,
            .version = status.version ? status.version : "",
            .runtime = model->def->runtime,
            .replicas_ready = status.replicas_ready,
            .replicas_starting = status.replicas_starting,
            .replicas_max = model->def->replicas.max,
            .inside = status.inside,
            .waiting = status.waiting,
            .pending = status.inside + model->backlog.count,
            .paused = status.paused,
            .fenced = status.fenced,
            .done = model->done,
            .dead = model->dead,
            .expired = model->expired,
            .superseded = model->superseded,
            .dropped = model->dropped,
            .batches = status.batches,
            .batch_rows = status.batch_rows,
            .restarts = status.restarts,
            .timeouts = status.timeouts,
            .rss_bytes = status.rss_bytes,
    };
    memcpy(ret->reason, status.reason, sizeof(ret->reason));
}

static bool action_paused(struct kz_query *query, unsigned action)
{
    struct kz_pipeline *p = kz_pl_of_query(query);

    return p->options.actions_paused ||
           kz_views_paused(p->views, "action", kz_str(p->project->actions[action].name));
}

static enum kz_code health(struct kz_query *query, struct kz_err *err)
{
    struct kz_pipeline *p = kz_pl_of_query(query);

    return kz_pl_ready(&p->intake, err);
}

static enum kz_code checkpoint(struct kz_query *query, struct kz_err *err)
{
    struct kz_pipeline *p = kz_pl_of_query(query);

    kz_log_roll(p->log);
    return kz_pl_ask_checkpoint(p, err);
}

const struct kz_query_ops kz_pl_query_ops = {
        .find = find,
        .user = user_of,
        .key = key_of,
        .sources = sources_of,
        .slot = slot_of,
        .when_durable = when_durable,
        .end = end_of,
        .subscribe = subscribe,
        .unsubscribe = unsubscribe,
        .acknowledge = kz_pl_acknowledge,
        .timing = timing,
        .control = control,
        .erase = kz_pl_erase,
        .erasure = erasure,
        .dead_letters = dead_letters,
        .counters = counters,
        .histograms = histograms,
        .model = model_status,
        .action_paused = action_paused,
        .health = health,
        .backup = kz_pl_backup,
        .checkpoint = checkpoint,
};
