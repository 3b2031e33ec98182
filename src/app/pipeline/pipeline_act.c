/* app/pipeline/pipeline_act.c -- from a prediction to a decision, and from a decision to its delivery. */

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "act/act.h"
#include "act/delivery.h"
#include "act/localtime.h"
#include "app/pipeline/pipeline_int.h"
#include "base/diag.h"
#include "codec/json_out.h"
#include "sys/clock.h"

enum { CAPS_MAX = 64 };

/* ---- compiling ------------------------------------------------------------------------------------ */

static bool mentions(const char *sql, const char *model)
{
    size_t size = strlen(model);

    for (const char *at = strstr(sql, model); at; at = strstr(at + 1, model)) {
        bool start = at == sql || (at[-1] != '_' && !isalnum((unsigned char)at[-1]));

        if (start && (at[size] == '.' || at[size] == '"'))
            return true;
    }
    return false;
}

enum kz_code kz_pl_actions_open(struct kz_pipeline *p, struct kz_err *err)
{
    const struct kz_project *project = p->project;

    p->actions = kz_calloc(project->action_count + 1, sizeof(*p->actions));
    kz_places_init(&p->places, project);
    for (size_t i = 0; i < project->action_count; i++) {
        struct action *action = &p->actions[i];
        const struct kz_action_def *def = &project->actions[i];

        action->def = def;
        action->name = kz_name_hash(kz_str(def->name));
        action->models = kz_calloc(project->model_count + 1, sizeof(*action->models));
        for (size_t m = 0; m < project->model_count; m++)
            action->models[m] = mentions(def->when, project->models[m].name);
        KZ_TRY(kz_sql_compile(
                p->sql, KZ_SQL_PREDICTION, def->when, def->when_place, &action->when, err));
        if (def->having)
            KZ_TRY(kz_sql_compile(
                    p->sql, KZ_SQL_HAVING, def->having, def->having_place, &action->having, err));
        KZ_TRY(kz_local_check(def->schedule.tz, err));
        for (size_t c = 0; c < def->cap_count; c++)
            KZ_TRY(kz_local_check(def->caps[c].tz, err));
    }
    return KZ_OK;
}

/* ---- predictions as SQL sees them ----------------------------------------------------------------- */

/* The user's latest valid predictions, the new one among them; the others' outputs are read only
 * where they are still there. Strings live in `outputs`, one buffer a model. */
static size_t latest(struct kz_pipeline *p, uint32_t user, unsigned fresh,
        const struct kz_record *result, struct kz_sql_prediction *predictions,
        struct kz_buf *outputs)
{
    size_t count = p->project->model_count;

    for (unsigned m = 0; m < count; m++) {
        struct kz_sql_prediction *prediction = &predictions[m];
        const struct kz_record *record = result;
        const struct kz_slot *slot;
        struct kz_prediction decoded;

        *prediction = (struct kz_sql_prediction){.model = p->project->models[m].name};
        if (m != fresh) {
            slot = kz_views_slot(p->views, user, KZ_SLOT_PREDICTION, p->models[m].name);
            if (!slot || slot->prediction.expires_at_ms <= p->now_ms)
                continue;
            record = p->journal->ops->staged(p->journal, slot->prediction.result);
            kz_buf_clear(&outputs[m]);
            if (record) {
                record = kz_record_original(record);
                kz_buf_put(&outputs[m], record, record->size);
            }
            if (!outputs[m].size && kz_pl_get(p, user, KZ_CHAIN_NOTES, slot->prediction.result,
                                            &outputs[m], NULL) != KZ_OK)
                continue;
            record = (const struct kz_record *)(void *)outputs[m].data;
        }
        if (kz_prediction_decode(record, &decoded, NULL) != KZ_OK)
            continue;
        prediction->present = true;
        prediction->has_score = decoded.has_score;
        prediction->score = decoded.score;
        prediction->output = decoded.output;
    }
    return count;
}

struct predictions {
    struct kz_sql_prediction *list;
    struct kz_buf *outputs;
    size_t count;
};

static struct predictions predictions_of(
        struct kz_pipeline *p, uint32_t user, unsigned fresh, const struct kz_record *result)
{
    struct predictions all;

    all.list = kz_calloc(p->project->model_count + 1, sizeof(*all.list));
    all.outputs = kz_calloc(p->project->model_count + 1, sizeof(*all.outputs));
    all.count = latest(p, user, fresh, result, all.list, all.outputs);
    return all;
}

static void predictions_done(struct predictions *all)
{
    for (size_t i = 0; i < all->count; i++)
        kz_buf_done(&all->outputs[i]);
    free(all->outputs);
    free(all->list);
}

bool kz_pl_after_holds(struct kz_pipeline *p, struct model *model, uint32_t user,
        const struct kz_record *result, struct kz_err *err)
{
    struct predictions all;
    bool holds = true;

    if (!model->after_when)
        return true;
    all = predictions_of(p, user, model->after, result);
    if (kz_sql_prediction_true(model->after_when, all.list, all.count, &holds, err) != KZ_OK) {
        p->counters.rules_failed_total++;
        holds = false;
    }
    predictions_done(&all);
    return holds;
}

/* ---- deciding -------------------------------------------------------------------------------------- */

static enum kz_code having_holds(struct kz_pipeline *p, const struct action *action, uint32_t user,
        const struct kz_prediction *prediction, bool *ret_true, struct kz_err *err)
{
    static const struct kz_history_def seen = {.window_ms = 7 * 86400000ll, .events_max = 500};
    const struct kz_user *known = kz_views_user(p->views, user);
    struct kz_history_rows rows;
    struct kz_sql_params params = {
            .now_ms = prediction->as_of_ms,
            .user_id = kz_views_key(p->views, user).id,
            .event_id = prediction->event_id,
            .trigger_ts_ms = prediction->as_of_ms,
            .session = known->session,
            .first_seen_ms = known->first_seen_ms,
    };
    enum kz_code rc;

    KZ_TRY(kz_pl_history(p, user, &seen, params.now_ms, &rows, err));
    params.truncated = rows.truncated;
    rc = kz_sql_having_true(action->having, &rows, &params, 0, ret_true, err);
    p->reader->ops->release(p->reader, &rows);
    return rc;
}

/* Caps in total that others count as well: a place under each is taken, once all else is for it. */
static enum kz_code reserve(struct kz_pipeline *p, const struct action *action,
        const int64_t since_ms[], const struct kz_act_input *input, size_t used[],
        enum kz_decision *decision, struct kz_err *err)
{
    const struct kz_action_def *def = action->def;

    for (size_t i = 0; i < def->cap_count && i < CAPS_MAX; i++) {
        bool held = false;

        if (*decision != KZ_DECISION_DELIVER && *decision != KZ_DECISION_SHADOW)
            return KZ_OK;
        if (def->caps[i].per_user)
            continue;
        KZ_TRY(p->remote->reserve(p->remote->arg, action, i, since_ms[i], &held, err));
        if (!held)
            used[i] = def->caps[i].max;
        *decision = kz_act_decide(def, input);
    }
    return KZ_OK;
}

static enum kz_code decide(struct kz_pipeline *p, const struct action *action, uint32_t user,
        enum kz_decision *ret_decision, struct kz_err *err)
{
    const struct kz_action_def *def = action->def;
    const struct kz_slot *slot = kz_views_slot(p->views, user, KZ_SLOT_ACTION, action->name);
    size_t used[CAPS_MAX] = {0};
    int64_t since_ms[CAPS_MAX] = {0};
    struct kz_act_input input = {
            .now_ms = p->now_ms,
            .paused = p->options.actions_paused ||
                      kz_views_paused(p->views, "action", kz_str(def->name)) ||
                      (p->remote && p->remote->is_paused(p->remote->arg, action)),
            .key = kz_views_key(p->views, user),
            .state = slot ? &slot->action : NULL,
            .cap_used = used,
    };

    kz_local_time(def->schedule.tz, p->now_ms, &input.schedule_local.weekday,
            &input.schedule_local.minute, NULL);
    for (size_t i = 0; i < def->cap_count && i < CAPS_MAX; i++) {
        const struct kz_cap_def *cap = &def->caps[i];
        int64_t day_start_ms;

        kz_local_time(cap->tz, p->now_ms, NULL, NULL, &day_start_ms);
        since_ms[i] = kz_act_cap_since(cap, p->now_ms, day_start_ms);
        used[i] = cap->per_user ? kz_views_deliveries(p->views, user, action->name, since_ms[i])
                                : kz_views_deliveries_total(p->views, action->name, since_ms[i]);
        if (p->remote && !cap->per_user)
            used[i] = 0; /* reserve() tells */
    }
    *ret_decision = kz_act_decide(def, &input);
    return p->remote ? reserve(p, action, since_ms, &input, used, ret_decision, err) : KZ_OK;
}

/* What the action did, as an event of the user's history: hidden unless asked for. */
static enum kz_code put_action_event(struct kz_pipeline *p, const struct action *action,
        uint32_t user, const char *what, uint64_t decision, struct kz_err *err)
{
    struct kz_user_key key = kz_views_key(p->views, user);
    struct kz_intake_item *item = kz_calloc(1, sizeof(*item));
    struct kz_buf props = {0}, id = {0}, name = {0};
    struct kz_json_out out = kz_json_out(&props);
    char id_text[24];
    enum kz_code rc;

    snprintf(id_text, sizeof(id_text), "%llu", (unsigned long long)decision);
    kz_buf_put(&id, key.id.ptr, key.id.size);
    kz_buf_printf(&name, "kizashi.action_%s", what);
    kz_json_out_object(&out);
    kz_json_out_kv_cstr(&out, "action", action->def->name);
    kz_json_out_kv_cstr(&out, "action_id", id_text);
    kz_json_out_object_end(&out);
    item->event.name = kz_buf_view(&name);
    item->event.props = kz_buf_view(&props);
    if (key.kind == 'u')
        item->event.user_id = kz_buf_view(&id);
    else
        item->event.anonymous_id = kz_buf_view(&id);
    item->event.flags = KZ_EVENT_ACTION;
    item->event.columns_id = p->project->events.columns_id;
    rc = kz_pl_event(p, item, true, err);
    p->counters.events_accepted_total -= item->seq != 0; /* ours, not a client's */
    kz_buf_done(&props);
    kz_buf_done(&id);
    kz_buf_done(&name);
    free(item);
    return rc;
}

static void count_decision(struct kz_pipeline *p, enum kz_decision decision)
{
    uint64_t *counters[] = {
            [KZ_DECISION_DELIVER] = &p->counters.decisions_deliver_total,
            [KZ_DECISION_SHADOW] = &p->counters.decisions_shadow_total,
            [KZ_DECISION_HOLDOUT] = &p->counters.decisions_holdout_total,
            [KZ_DECISION_CAPPED] = &p->counters.decisions_capped_total,
            [KZ_DECISION_SCHEDULE] = &p->counters.decisions_schedule_total,
            [KZ_DECISION_PAUSED] = &p->counters.decisions_schedule_total,
    };

    (*counters[decision])++;
}

static enum kz_code put_decision(struct kz_pipeline *p, const struct action *action, uint32_t user,
        const struct kz_prediction *prediction, enum kz_decision decision, struct kz_err *err)
{
    const struct kz_user *known = kz_views_user(p->views, user);
    const struct kz_slot *slot = kz_views_slot(p->views, user, KZ_SLOT_ACTION, action->name);
    bool first = !slot || !slot->action.holdout_assigned;
    bool delivered = decision == KZ_DECISION_DELIVER || decision == KZ_DECISION_SHADOW;
    struct kz_decision_body fixed = {
            .request = prediction->request,
            .action = action->name,
            .decision = (uint8_t)decision,
            .kind = (uint8_t)action->def->deliver.kind,
            .expires_at_ms = p->now_ms + action->def->deliver.valid_for_ms,
            .user_kind = kz_views_key(p->views, user).kind,
    };
    struct kz_log_entry entry = {
            .type = KZ_RECORD_DECISION,
            .owner = known->owner,
            .prev = known->notes_head,
            .at_ms = p->now_ms,
            .reserved = true,
    };
    bool told = delivered || (decision == KZ_DECISION_HOLDOUT && first);
    struct kz_body_writer w;
    kz_lsn lsn;
    uint64_t seq;

    if (p->remote && told)
        entry.flags = KZ_DECISION_TOLD;
    kz_buf_clear(&p->body);
    w = kz_body_begin(&p->body, &fixed, sizeof(fixed));
    kz_body_span(&w, offsetof(struct kz_decision_body, action_name), kz_str(action->def->name));
    kz_body_span(&w, offsetof(struct kz_decision_body, model), prediction->model);
    kz_body_span(&w, offsetof(struct kz_decision_body, user_id), kz_views_key(p->views, user).id);
    kz_body_span(&w, offsetof(struct kz_decision_body, event_id), prediction->event_id);
    if (delivered)
        kz_body_span(&w, offsetof(struct kz_decision_body, payload),
                kz_str(action->def->deliver.payload_json));
    entry.body = kz_buf_view(&p->body);
    KZ_TRY(kz_pl_put(p, &entry, &lsn, &seq, err));
    count_decision(p, decision);
    if (decision == KZ_DECISION_DELIVER) {
        struct due *due = kz_pl_due(p, DUE_DECISION);

        due->news.record = lsn;
        due->news.owner = known->owner;
        due->news.request = seq;
        kz_pl_set_timer(p, TIMER_EXPIRY, fixed.expires_at_ms, known->owner, seq);
    }
    if (told && !p->remote)
        KZ_TRY(put_action_event(p, action, user,
                decision == KZ_DECISION_DELIVER  ? "delivered"
                : decision == KZ_DECISION_SHADOW ? "shadowed"
                                                 : "held_out",
                seq, err));
    return KZ_OK;
}

static enum kz_code try_action(struct kz_pipeline *p, const struct action *action, uint32_t user,
        unsigned model, const struct kz_record *result, struct kz_err *err)
{
    struct predictions all = predictions_of(p, user, model, result);
    struct kz_prediction prediction;
    enum kz_decision decision;
    bool holds = false;
    enum kz_code rc = kz_sql_prediction_true(action->when, all.list, all.count, &holds, err);

    predictions_done(&all);
    if (rc == KZ_OK && holds)
        rc = kz_prediction_decode(result, &prediction, err);
    if (rc == KZ_OK && holds && action->having)
        rc = having_holds(p, action, user, &prediction, &holds, err);
    if (rc != KZ_OK) {
        p->counters.rules_failed_total++;
        return kz_pl_dead_letter(p, KZ_STAGE_ACT, 0, kz_views_user(p->views, user)->owner, "sql",
                kz_str(err->message), action->def->name, KZ_STR_NULL, err);
    }
    if (!holds)
        return KZ_OK;
    KZ_TRY(decide(p, action, user, &decision, err));
    return put_decision(p, action, user, &prediction, decision, err);
}

enum kz_code kz_pl_act(struct kz_pipeline *p, uint32_t user, unsigned model,
        const struct kz_record *result, struct kz_err *err)
{
    for (size_t i = 0; i < p->project->action_count; i++) {
        const struct action *action = &p->actions[i];

        if (action->def->mode == KZ_MODE_OFF || !action->models[model])
            continue;
        KZ_TRY(try_action(p, action, user, model, result, err));
    }
    return KZ_OK;
}

/* ---- delivering ------------------------------------------------------------------------------------- */

static struct action *action_by_name(const struct kz_pipeline *p, uint64_t name)
{
    for (size_t i = 0; i < p->project->action_count; i++)
        if (p->actions[i].name == name)
            return &p->actions[i];
    return NULL;
}

static enum kz_code put_delivery(struct kz_pipeline *p, uint32_t user, const struct kz_slot *slot,
        enum kz_delivery_state state, uint32_t attempt_count, int64_t retry_at_ms,
        struct kz_str detail, struct kz_err *err)
{
    const struct kz_user *known = kz_views_user(p->views, user);
    struct kz_delivery_body fixed = {
            .decision = slot->delivery.decision,
            .decision_lsn = slot->delivery.decision_lsn,
            .state = (uint8_t)state,
            .attempt_count = attempt_count,
            .retry_at_ms = retry_at_ms,
    };
    struct kz_log_entry entry = {
            .type = KZ_RECORD_DELIVERY,
            .owner = known->owner,
            .prev = known->notes_head,
            .at_ms = p->now_ms,
            .reserved = true,
    };
    struct kz_body_writer w;

    kz_buf_clear(&p->body);
    w = kz_body_begin(&p->body, &fixed, sizeof(fixed));
    kz_body_span(&w, offsetof(struct kz_delivery_body, detail), detail);
    entry.body = kz_buf_view(&p->body);
    return kz_pl_put(p, &entry, NULL, NULL, err);
}

/* Starts an attempt at a webhook delivery. */
static void attempt(struct kz_pipeline *p, struct action *action, uint32_t user,
        const struct kz_slot *slot, const struct kz_record *record)
{
    struct kz_webhook_attempt *a = kz_calloc(1, sizeof(*a));

    a->decision = slot->delivery.decision;
    a->decision_lsn = slot->delivery.decision_lsn;
    a->owner = kz_views_user(p->views, user)->owner;
    a->action = (unsigned)(action - p->actions);
    a->attempt_count = slot->delivery.attempt_count + 1;
    a->url = kz_strdup(action->def->deliver.url);
    a->secret = action->def->deliver.secret ? kz_strdup(action->def->deliver.secret) : NULL;
    a->project = kz_strdup(p->project->name);
    a->timeout_ms = action->def->deliver.timeout_ms;
    kz_delivery_json(record, &a->body);
    KZ_BUG_ON(!kz_webhooks_submit(p->webhooks, a)); /* there was a place */
    kz_places_take(&p->places, (size_t)(action - p->actions));
}

static bool read_decision(struct kz_pipeline *p, uint32_t user, kz_lsn lsn)
{
    kz_buf_clear(&p->record);
    return kz_pl_get(p, user, KZ_CHAIN_NOTES, lsn, &p->record, NULL) == KZ_OK;
}

/* Posts what is due as far as there are places. One whose decision cannot be read (a sector of the
 * disk is bad) comes back by its timer, which gives it up. */
static void post_due(struct kz_pipeline *p, struct action *action)
{
    while (action->posts.count && kz_places_any(&p->places, (size_t)(action - p->actions))) {
        struct backlog_entry entry = kz_pl_backlog_pop(&action->posts);
        uint32_t user = kz_views_state_user(p->views, entry.owner);
        const struct kz_slot *slot = user ? kz_views_delivery(p->views, user, entry.request) : NULL;

        if (!slot)
            continue; /* ended or erased meanwhile */
        if (read_decision(p, user, slot->delivery.decision_lsn))
            attempt(p, action, user, slot, (const struct kz_record *)(void *)p->record.data);
        else
            kz_pl_set_timer(p, TIMER_GIVE_UP, p->now_ms, entry.owner, entry.request);
    }
}

/* The action that posts it; NULL: the project has none any more. */
static struct action *poster(const struct kz_pipeline *p, const struct kz_slot *slot)
{
    struct action *action = action_by_name(p, slot->name);

    return action && action->def->deliver.kind == KZ_DELIVER_WEBHOOK ? action : NULL;
}

static void post(struct kz_pipeline *p, uint32_t user, const struct kz_slot *slot)
{
    struct action *action = poster(p, slot);
    uint64_t owner = kz_views_user(p->views, user)->owner, decision = slot->delivery.decision;

    if (!p->webhooks)
        return;
    if (!action) {
        kz_pl_set_timer(p, TIMER_GIVE_UP, p->now_ms, owner, decision);
        return;
    }
    kz_pl_backlog_push(&action->posts, (struct backlog_entry){.owner = owner, .request = decision});
    post_due(p, action);
}

void kz_pl_decision_durable(struct kz_pipeline *p, const struct due *due)
{
    uint32_t user = kz_views_state_user(p->views, due->news.owner);
    const struct kz_slot *slot = user ? kz_views_delivery(p->views, user, due->news.request) : NULL;

    if (!slot)
        return;
    if (slot->delivery.kind == KZ_DELIVER_WEBHOOK)
        post(p, user, slot);
    else if (read_decision(p, user, due->news.record))
        kz_pl_publish(p, KZ_NEWS_ACTION, (const struct kz_record *)(void *)p->record.data);
}

/* Ends a webhook that is not tried any more. `action` NULL: it is not known; `body`: what would be posted. */
static void give_up(struct kz_pipeline *p, uint32_t user, const struct kz_slot *slot,
        uint32_t attempt_count, const char *action, struct kz_str detail, struct kz_str body)
{
    struct kz_err err;

    if (kz_pl_dead_letter(p, KZ_STAGE_DELIVER, slot->delivery.decision,
                kz_views_user(p->views, user)->owner, "webhook", detail, action, body,
                &err) == KZ_OK)
        KZ_IGNORE(put_delivery(p, user, slot, KZ_DELIVERY_GAVE_UP, attempt_count, 0, detail,
                &err)); /* a failed log shows at the commit */
    p->counters.deliveries_given_up_total++;
}

/* One that cannot be posted: its decision cannot be read, or the project has no such webhook. */
static void give_up_untried(struct kz_pipeline *p, uint32_t user, const struct kz_slot *slot)
{
    const struct action *action = poster(p, slot);
    bool readable = read_decision(p, user, slot->delivery.decision_lsn);
    struct kz_str detail = action ? KZ_STR("the decision cannot be read")
                                  : KZ_STR("the project has no such webhook any more");
    char *name = action ? kz_strdup(action->def->name) : NULL;
    struct kz_buf body = {0};
    struct kz_err err;

    if (readable) {
        const struct kz_record *decision = (const void *)p->record.data;
        struct kz_str bytes = kz_record_body(decision);
        const struct kz_decision_body *fixed = (const void *)bytes.ptr;
        struct kz_str said = kz_span_str(bytes, fixed->action_name);

        kz_delivery_json(decision, &body);
        if (!name)
            name = kz_strndup(said.ptr, said.size);
    }
    kz_diag_warn("a webhook is given up", "action=%s decision=%llu why=\"" KZ_STR_FMT "\"",
            name ? name : "?", (unsigned long long)slot->delivery.decision, KZ_STR_ARG(detail));
    if (kz_pl_group(p, body.size, &err) == KZ_OK)
        give_up(p, user, slot, slot->delivery.attempt_count, name, detail, kz_buf_view(&body));
    kz_buf_done(&body);
    free(name);
}

/* A retry is due, a delivery has expired, or one cannot be posted. */
void kz_pl_delivery_timer(struct kz_pipeline *p, const struct timer *timer)
{
    uint32_t user = kz_views_state_user(p->views, timer->owner);
    const struct kz_slot *slot = user ? kz_views_delivery(p->views, user, timer->name) : NULL;
    struct kz_err err;

    if (!slot || p->failed)
        return;
    if (timer->kind == TIMER_GIVE_UP) {
        give_up_untried(p, user, slot);
        return;
    }
    if (p->now_ms >= slot->delivery.expires_at_ms && slot->delivery.kind == KZ_DELIVER_WEB) {
        if (kz_pl_group(p, 0, &err) == KZ_OK)
            KZ_IGNORE(put_delivery(p, user, slot, KZ_DELIVERY_EXPIRED, slot->delivery.attempt_count,
                    0, KZ_STR_NULL, &err)); /* a failed log shows at the commit */
        return;
    }
    if (timer->kind == TIMER_RETRY && slot->delivery.kind == KZ_DELIVER_WEBHOOK &&
            p->now_ms >= slot->delivery.retry_at_ms)
        post(p, user, slot);
}

static double roll(struct kz_pipeline *p)
{
    p->dice = p->dice * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(p->dice >> 11) * 0x1p-53;
}

static void take_outcome(struct kz_pipeline *p, const struct kz_webhook_attempt *a)
{
    uint32_t user = kz_views_state_user(p->views, a->owner);
    const struct kz_slot *slot = user ? kz_views_delivery(p->views, user, a->decision) : NULL;
    const struct kz_action_def *def = p->actions[a->action].def;
    struct kz_err err;
    int64_t retry_at_ms;

    if (!slot || p->failed || kz_pl_group(p, a->body.size, &err) != KZ_OK)
        return;
    if (a->ok) {
        p->counters.deliveries_sent_total++;
        KZ_IGNORE(put_delivery(p, user, slot, KZ_DELIVERY_SENT, a->attempt_count, 0,
                kz_str(a->detail), &err)); /* a failed log shows at the commit */
        return;
    }
    p->counters.deliveries_failed_total++;
    retry_at_ms = p->now_ms + kz_webhook_retry_ms(a->attempt_count, roll(p));
    if (a->final || a->attempt_count >= def->deliver.attempts_max) {
        give_up(p, user, slot, a->attempt_count, def->name, kz_str(a->detail),
                kz_buf_view(&a->body));
        return;
    }
    if (put_delivery(p, user, slot, KZ_DELIVERY_FAILED, a->attempt_count, retry_at_ms,
                kz_str(a->detail), &err) == KZ_OK)
        kz_pl_set_timer(p, TIMER_RETRY, retry_at_ms, a->owner, a->decision);
}

void kz_pl_webhook_outcomes(struct kz_pipeline *p)
{
    struct kz_webhook_attempt *a = p->webhooks ? kz_webhooks_take(p->webhooks) : NULL;
    size_t count = p->project->action_count;
    bool any = false;

    while (a) {
        struct kz_webhook_attempt *next = a->next;

        kz_receiver_say(&p->actions[a->action].receiver, p->actions[a->action].def, a);
        kz_places_give(&p->places, a->action);
        take_outcome(p, a);
        kz_webhook_attempt_free(a);
        a = next;
        any = true;
    }
    if (!any || p->failed || p->closing)
        return;
    /* Who is first changes, so that all get their part of the places that are for everybody. */
    for (size_t i = 0; i < count; i++)
        post_due(p, &p->actions[(p->post_first + i) % count]);
    p->post_first = (p->post_first + 1) % count;
}

enum kz_code kz_pl_acknowledge(
        struct kz_query *query, uint32_t user, uint64_t decision, struct kz_err *err)
{
    struct kz_pipeline *p = kz_pl_of_query(query);
    const struct kz_slot *slot = kz_views_delivery(p->views, user, decision);
    const struct action *action = NULL;

    p->now_ms = kz_pl_now(p);
    if (!slot || slot->delivery.kind != KZ_DELIVER_WEB)
        return kz_fail(err, KZ_NOT_FOUND, "no delivery %llu waits for this user",
                (unsigned long long)decision);
    if (read_decision(p, user, slot->delivery.decision_lsn))
        action = action_by_name(
                p, ((const struct kz_decision_body *)(void *)(p->record.data +
                                                              sizeof(struct kz_record)))
                           ->action);
    KZ_TRY(kz_pl_group(p, 0, err));
    KZ_TRY(put_delivery(
            p, user, slot, KZ_DELIVERY_SHOWN, slot->delivery.attempt_count, 0, KZ_STR_NULL, err));
    p->counters.deliveries_shown_total++;
    if (action)
        return put_action_event(p, action, user, "shown", decision, err);
    return KZ_OK;
}
