/* app/pipeline/pipeline_ingest.c -- events in: identity, duplicates, time, session, rules. */

#include <stdlib.h>

#include "app/pipeline/pipeline_int.h"
#include "base/hash.h"
#include "codec/ulid.h"
#include "sys/clock.h"

enum { NO_ROOM_RETRY_MS = 1000 };

static void reject(struct kz_intake_item *item, const char *code, struct kz_str message)
{
    item->state = KZ_INTAKE_REJECTED;
    item->code = code;
    item->message = message;
}

/* ---- duplicates -------------------------------------------------------------------------------- */

/* Whether the event was taken before. In sealed segments records are found by owner, and an id's
 * events lie with whoever it pointed to when they came: the user it points to now, itself, or one
 * of those it was linked to in between, whom the views remember (KZ_SLOT_TARGET). */
static enum kz_code seen_before(struct kz_pipeline *p, struct kz_user_key key,
        struct kz_views_place own, struct kz_views_place place, const struct kz_event *event,
        uint64_t dedupe_key, bool *ret_seen, struct kz_err *err)
{
    struct kz_journal_id id = {dedupe_key, key, event->event_id};
    struct kz_journal *journal = p->journal;
    /* An import can be run again whenever, so its events are looked for however old they are. */
    int64_t since_ms = event->flags & (KZ_EVENT_IMPORTED | KZ_EVENT_TIMED)
                               ? INT64_MIN
                               : p->now_ms - p->project->events.dedupe_ms;
    const struct kz_slot *slot = NULL;

    if (own.index && kz_views_user(p->views, own.index)->flags & KZ_USER_TARGETS)
        slot = kz_views_slot(p->views, own.index, KZ_SLOT_TARGET, 0);
    KZ_TRY(journal->ops->find(journal, &id, place.owner, since_ms, ret_seen, err));
    if (!*ret_seen && own.owner != place.owner)
        KZ_TRY(journal->ops->find(journal, &id, own.owner, since_ms, ret_seen, err));
    for (; slot && !*ret_seen; slot = kz_views_slot_next(p->views, slot, KZ_SLOT_TARGET, 0))
        if (slot->target.owner != place.owner)
            KZ_TRY(journal->ops->find(journal, &id, slot->target.owner, since_ms, ret_seen, err));
    return KZ_OK;
}

/* ---- time and session -------------------------------------------------------------------------- */

/* An event of an export keeps the times it comes with; but nothing was received before what its user's
 * history has already: readers stop at what is too old. */
static void keep_times(const struct kz_pipeline *p, struct kz_event *event, uint32_t user)
{
    int64_t last_ms = user ? kz_views_user(p->views, user)->last_event_at_ms : 0;

    event->received_at_ms = KZ_MAX(event->received_at_ms, last_ms);
}

static void set_time(struct kz_pipeline *p, struct kz_event *event)
{
    int64_t least = p->now_ms - p->project->events.max_behind_ms;
    int64_t most = p->now_ms + p->project->events.max_ahead_ms;

    event->received_at_ms = p->now_ms;
    event->ts_ms = event->client_ts_ms ? event->client_ts_ms : p->now_ms;
    if (event->flags & KZ_EVENT_IMPORTED)
        return;
    if (event->ts_ms < least || event->ts_ms > most) {
        event->ts_ms = event->ts_ms < least ? least : most;
        event->flags |= KZ_EVENT_CLAMPED;
        p->counters.events_clamped_total++;
    }
}

static uint64_t session_of(struct kz_pipeline *p, uint32_t user, int64_t ts_ms)
{
    const struct kz_user *known = user ? kz_views_user(p->views, user) : NULL;

    if (known && known->session &&
            ts_ms - known->session_ts_ms <= p->project->events.session_gap_ms)
        return known->session;
    return p->journal->seq_next;
}

/* An id that repeats when the same log is made again: time and seq, no randomness. */
static void make_event_id(struct kz_pipeline *p, struct kz_intake_item *item)
{
    char text[KZ_ULID_BYTES];
    uint8_t entropy[10] = {0};
    uint64_t seq = __builtin_bswap64(p->journal->seq_next);

    memcpy(entropy + 2, &seq, sizeof(seq));
    kz_ulid(p->now_ms, entropy, text);
    _Static_assert(KZ_ULID_BYTES - 1 == KZ_EVENT_ID_MADE_SIZE, "ulid");
    memcpy(item->made_id, text, KZ_EVENT_ID_MADE_SIZE);
    item->event.event_id = kz_str_n(item->made_id, KZ_EVENT_ID_MADE_SIZE);
    item->event.flags |= KZ_EVENT_ID_MADE;
}

/* ---- history as of now ---------------------------------------------------------------------------- */

enum kz_code kz_pl_history(struct kz_pipeline *p, uint32_t user, const struct kz_history_def *def,
        int64_t now_ms, struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct kz_source sources[KZ_SOURCES_MAX];
    struct kz_history_query query = {
            .sources = sources,
            .source_count = kz_views_sources(p->views, user, KZ_CHAIN_EVENTS, UINT64_MAX, sources),
            .chain = KZ_CHAIN_EVENTS,
            .as_of = UINT64_MAX,
            .since_ms = def->window_ms ? now_ms - def->window_ms : INT64_MIN,
            .events_max = def->events_max,
            .include_actions = def->include_actions,
    };

    return p->reader->ops->scan(p->reader, &query, ret_rows, err);
}

/* ---- rules ------------------------------------------------------------------------------------- */

static void rule_failed(void *arg, const struct kz_rule *rule, const struct kz_err *err)
{
    struct kz_pipeline *p = arg;
    struct kz_err ignored;

    p->counters.rules_failed_total++;
    /* Counted either way; a failed log shows at the commit. */
    KZ_IGNORE(kz_pl_dead_letter(p, KZ_STAGE_TRIGGER, 0, 0, "sql", kz_str(err->message),
            rule->def->name, KZ_STR_NULL, &ignored));
}

static enum kz_code put_ops(struct kz_pipeline *p, const struct kz_rule *rule, uint64_t owner,
        uint32_t user, const struct kz_trigger_step *step, struct kz_err *err)
{
    for (size_t i = 0; i < step->op_count; i++) {
        struct kz_trigger_body body = {
                .rule = rule->name,
                .op = (uint8_t)step->ops[i].op,
                .due_ms = step->ops[i].due_ms,
                .event_ts_ms = step->ops[i].event_ts_ms,
                .event = step->ops[i].event,
        };
        struct kz_log_entry entry = {
                .type = KZ_RECORD_TRIGGER,
                .owner = owner,
                .prev = kz_pl_head(p, user, KZ_CHAIN_NOTES),
                .at_ms = p->now_ms,
                .body = kz_str_n(&body, sizeof(body)),
                .reserved = true,
        };

        KZ_TRY(kz_pl_put(p, &entry, NULL, NULL, err));
    }
    return KZ_OK;
}

static enum kz_code try_rules(struct kz_pipeline *p, const struct kz_event *event, kz_lsn lsn,
        uint64_t owner, uint32_t user, struct kz_err *err)
{
    struct kz_match matches[KZ_MATCHES_MAX];
    size_t count = kz_triggers_match(p->triggers, event, matches, rule_failed, p);

    for (size_t i = 0; i < count; i++) {
        const struct kz_rule *rule = matches[i].rule;
        const struct kz_slot *slot = kz_views_slot(p->views, user, KZ_SLOT_TRIGGER, rule->name);
        struct kz_trigger_step step;
        size_t hits = 0;

        p->counters.rules_matched_total++;
        if (rule->def->count.of)
            hits = kz_views_hits(
                    p->views, user, rule->name, event->ts_ms - rule->def->count.within_ms + 1);
        kz_trigger_on_event(rule->def, slot ? &slot->trigger : NULL, hits, &matches[i],
                event->ts_ms, lsn, &step);
        KZ_TRY(put_ops(p, rule, owner, user, &step, err));
        if (step.timer_ms)
            kz_pl_set_timer(p, TIMER_TRIGGER, step.timer_ms, owner, rule->name);
        if (p->current && matches[i].when && !step.ask)
            kz_pl_asked_later(p, rule);
        if (step.ask) {
            struct asking asking = {
                    .user = user,
                    .event = lsn,
                    .event_seq = event->seq,
                    .event_id = event->event_id,
                    .session = event->session,
                    .trigger_ts_ms = step.ask_ts_ms,
                    .now_ms = step.ask_now_ms,
                    .trigger = rule->def->name,
                    .max_age_ms = rule->def->max_age_ms,
            };

            KZ_TRY(kz_pl_ask(p, rule, &asking, err));
        }
    }
    return KZ_OK;
}

/* A due timer: the rule's step, and the question if it still stands. What has been put off since the
 * timer was set is waited for again, so that a time that is begun anew with each event is one timer. */
void kz_pl_fire(struct kz_pipeline *p, const struct timer *timer)
{
    const struct kz_rule *rule = kz_triggers_by_name(p->triggers, timer->name);
    uint32_t user = kz_views_state_user(p->views, timer->owner);
    const struct kz_slot *slot = user ? kz_views_slot(p->views, user, KZ_SLOT_TRIGGER, timer->name)
                                      : NULL;
    struct kz_trigger_step step;
    struct kz_event event;
    struct kz_buf found = {0};
    struct kz_err err;
    uint64_t owner;
    int64_t due_ms;

    if (!rule || !slot || p->failed)
        return;
    due_ms = kz_trigger_due(&slot->trigger);
    if (due_ms > timer->at_ms)
        kz_pl_set_timer(p, TIMER_TRIGGER, due_ms, timer->owner, timer->name);
    if (!due_ms || due_ms > timer->at_ms)
        return;
    kz_trigger_on_timer(&slot->trigger, due_ms, &step);
    owner = kz_views_user(p->views, user)->owner;
    if (kz_pl_group(p, 0, &err) != KZ_OK || put_ops(p, rule, owner, user, &step, &err) != KZ_OK) {
        /* The log has stopped, or has no room even for this: then it is tried again. */
        kz_pl_set_timer(p, TIMER_TRIGGER, p->now_ms + NO_ROOM_RETRY_MS, timer->owner, timer->name);
        return;
    }
    p->counters.timers_fired_total++;
    const struct kz_record *staged = p->journal->ops->staged(p->journal, step.ask_event);
    if (staged) {
        staged = kz_record_original(staged);
        kz_buf_put(&found, staged, staged->size);
    } else if (kz_pl_get(p, user, KZ_CHAIN_EVENTS, step.ask_event, &found, &err) != KZ_OK) {
        kz_buf_done(&found);
        return; /* erased or past retention: nothing to ask about */
    }
    if (kz_event_decode((const struct kz_record *)(void *)found.data, &event, &err) == KZ_OK) {
        struct asking asking = {
                .user = user,
                .event = step.ask_event,
                .event_seq = event.seq,
                .event_id = event.event_id,
                .session = event.session,
                .trigger_ts_ms = step.ask_ts_ms,
                .now_ms = step.ask_now_ms,
                .trigger = rule->def->name,
                .max_age_ms = rule->def->max_age_ms,
        };

        KZ_IGNORE(kz_pl_ask(p, rule, &asking, &err)); /* a failed log shows at the commit */
    }
    kz_buf_done(&found);
}

/* ---- identity ---------------------------------------------------------------------------------- */

/* What two users' rules waited for has become one user's: a window that had nobody to ask may have taken
 * over the other's question, and the other's window end. A timer too many does nothing. */
static void set_timers_of(struct kz_pipeline *p, uint32_t user)
{
    const struct kz_slot *slot = kz_views_slot(p->views, user, KZ_SLOT_TRIGGER, 0);

    for (; slot; slot = kz_views_slot_next(p->views, slot, KZ_SLOT_TRIGGER, 0)) {
        int64_t due_ms = kz_trigger_due(&slot->trigger);

        if (due_ms)
            kz_pl_set_timer(
                    p, TIMER_TRIGGER, due_ms, kz_views_user(p->views, user)->owner, slot->name);
    }
}

static enum kz_code link_ids(
        struct kz_pipeline *p, const struct kz_event *event, struct kz_err *err)
{
    struct kz_user_key from = {'a', event->anonymous_id}, to = {'u', event->user_id};
    struct kz_link_plan plan;
    uint32_t to_user;
    uint64_t before;
    struct kz_log_entry entry = {.type = KZ_RECORD_LINK, .at_ms = p->now_ms, .reserved = true};

    if (!from.id.size || !to.id.size)
        return KZ_OK;
    /* An alias's previous id is a user's where we know one of that name. */
    if (event->identity == KZ_IDENTITY_ALIAS) {
        struct kz_user_key user = {'u', event->anonymous_id};

        if (kz_views_find(p->views, user))
            from = user;
    }
    plan = kz_views_link_plan(p->views, from, to, event->identity);
    if (plan.outcome == KZ_LINK_REFUSED || plan.sources_full)
        p->counters.links_refused_total++;
    if (plan.outcome != KZ_LINK_DO)
        return KZ_OK;
    kz_buf_clear(&p->body);
    kz_link_plan_encode(&plan, &p->body);
    entry.owner = plan.to.owner;
    entry.prev = kz_pl_head(p, plan.to.index, KZ_CHAIN_NOTES);
    entry.body = kz_buf_view(&p->body);
    before = kz_views_resolve(p->views, from).owner;
    KZ_TRY(kz_pl_put(p, &entry, NULL, NULL, err));
    p->counters.links_total++;
    kz_pl_tell_linked(p, before);
    to_user = kz_views_find_owner(p->views, plan.to.owner);
    if (plan.kind == KZ_LINK_MERGE)
        set_timers_of(p, to_user);
    return kz_pl_linked(p, to_user, err);
}

/* ---- one event --------------------------------------------------------------------------------- */

static bool is_erased(struct kz_pipeline *p, struct kz_user_key key, const struct kz_event *event)
{
    const struct kz_tombstone *stone;

    if (!kz_views_stats(p->views).tombstones)
        return false;
    stone = kz_views_tombstone(p->views, kz_pl_tombstone_hash(p, key));
    return stone && event->client_ts_ms && event->client_ts_ms <= stone->at_ms;
}

enum kz_code kz_pl_event(
        struct kz_pipeline *p, struct kz_intake_item *item, bool ask, struct kz_err *err)
{
    struct kz_event *event = &item->event;
    struct kz_user_key key = kz_event_key(event);
    struct kz_views_place own = kz_views_lookup(p->views, key);
    struct kz_views_place place = kz_views_place_of_target(p->views, own);
    /* What an action did goes with its decision, which the disk has room for when intake has none. */
    struct kz_log_entry entry = {.type = KZ_RECORD_EVENT,
            .at_ms = p->now_ms,
            .reserved = (event->flags & KZ_EVENT_ACTION) != 0};
    kz_lsn lsn;
    uint64_t seq;

    if (is_erased(p, key, event)) {
        reject(item, "erased", KZ_STR("this user was erased after the event's time"));
        p->counters.events_rejected_total++;
        return KZ_OK;
    }
    KZ_TRY(kz_pl_group(p, event->props.size + sizeof(item->columns), err));
    if (event->event_id.size) {
        bool seen;

        entry.key = kz_dedupe_key(key, event->event_id);
        KZ_TRY(seen_before(p, key, own, place, event, entry.key, &seen, err));
        if (seen) {
            item->state = KZ_INTAKE_DUPLICATE;
            p->counters.events_duplicate_total++;
            return KZ_OK;
        }
    } else {
        make_event_id(p, item);
    }
    if (event->flags & KZ_EVENT_TIMED)
        keep_times(p, event, place.index);
    else
        set_time(p, event);
    entry.at_ms = event->received_at_ms;
    event->session = session_of(p, place.index, event->ts_ms);
    kz_buf_clear(&p->body);
    kz_event_encode(event, &p->body);
    entry.flags = (uint8_t)event->flags;
    entry.owner = place.owner;
    entry.prev = kz_pl_head(p, place.index, KZ_CHAIN_EVENTS);
    entry.body = kz_buf_view(&p->body);
    KZ_TRY(kz_pl_put(p, &entry, &lsn, &seq, err));
    event->seq = seq;
    item->seq = seq;
    item->state = KZ_INTAKE_ACCEPTED;
    p->counters.events_accepted_total++;
    if (event->identity != KZ_IDENTITY_NONE)
        KZ_TRY(link_ids(p, event, err));
    if (ask && !(event->flags & KZ_EVENT_IMPORTED)) {
        /* After the link: the rules see whose event it has become. */
        uint32_t user = kz_views_find_owner(p->views, place.owner);

        KZ_TRY(try_rules(p, event, lsn, place.owner, user, err));
    } else {
        p->counters.events_imported_total += (event->flags & KZ_EVENT_IMPORTED) != 0;
    }
    return KZ_OK;
}

/* ---- submissions ------------------------------------------------------------------------------- */

enum kz_code kz_pl_ready(struct kz_intake *intake, struct kz_err *err)
{
    struct kz_pipeline *p = KZ_CONTAINER_OF(intake, struct kz_pipeline, intake);

    KZ_CHECK_MAGIC(p, PIPELINE_MAGIC);
    if (p->closing)
        return kz_fail(err, KZ_UNAVAILABLE, "stopping");
    if (p->failed) {
        (void)kz_fail(err, KZ_IO, "the log has stopped: %s", p->failure.message);
        return kz_hint(
                err, "restart once the disk is well; nothing that was not on disk was answered");
    }
    if (kz_log_no_space(p->log)) {
        (void)kz_fail(err, KZ_NO_SPACE, "the disk is full: events are refused, reads go on");
        return kz_hint(err,
                "make room, or lower events.retention (on a small disk also limits.segment_size "
                "and limits.reserve) and restart; intake resumes by itself");
    }
    if (kz_views_stats(p->views).pending_requests >= p->project->limits.pending_max)
        return kz_fail(err, KZ_OVERLOADED, "%u requests are pending, the most there may be",
                p->project->limits.pending_max);
    if (p->staged_bytes - p->released_bytes > UNSYNCED_MAX_BYTES)
        return kz_fail(err, KZ_OVERLOADED, "the disk does not keep up");
    return KZ_OK;
}

static enum kz_code keep_rejected(
        struct kz_pipeline *p, struct kz_intake_item *item, struct kz_err *err)
{
    struct kz_user_key key = kz_event_key(&item->event);
    uint64_t owner = key.id.size ? kz_views_resolve(p->views, key).owner : 0;

    p->counters.events_rejected_total++;
    KZ_TRY(kz_pl_group(p, item->payload.size, err));
    return kz_pl_dead_letter(
            p, KZ_STAGE_SHAPE, 0, owner, item->code, item->message, NULL, item->payload, err);
}

/* Users and keys lie all over memory, so that each look-up would be a cache miss; a batch's next
 * ones are fetched while the one at hand is worked on: first the tables' entries, then what they
 * lead to. */
static void fetch_tables(struct kz_pipeline *p, const struct kz_event *event)
{
    struct kz_user_key key = kz_event_key(event);

    kz_views_prefetch(p->views, kz_owner_hash(key, 0));
    if (event->event_id.size)
        p->journal->ops->prefetch(p->journal, kz_dedupe_key(key, event->event_id));
}

static void fetch_ahead(struct kz_pipeline *p, const struct kz_submission *s, size_t at)
{
    enum { TABLES_AHEAD = 8, USERS_AHEAD = 5, KEYS_AHEAD = 2 };

    for (size_t i = 0; at == 0 && i < KZ_MIN(s->item_count, (size_t)TABLES_AHEAD); i++)
        fetch_tables(p, &s->items[i]->event);
    if (at + TABLES_AHEAD < s->item_count)
        fetch_tables(p, &s->items[at + TABLES_AHEAD]->event);
    if (at + USERS_AHEAD < s->item_count)
        kz_views_prefetch_user(
                p->views, kz_owner_hash(kz_event_key(&s->items[at + USERS_AHEAD]->event), 0));
    if (at + KEYS_AHEAD < s->item_count)
        kz_views_prefetch_key(
                p->views, kz_owner_hash(kz_event_key(&s->items[at + KEYS_AHEAD]->event), 0));
}

void kz_pl_submit(struct kz_intake *intake, struct kz_submission *submission)
{
    struct kz_pipeline *p = KZ_CONTAINER_OF(intake, struct kz_pipeline, intake);
    struct kz_err err;
    enum kz_code rc = kz_pl_ready(intake, &err);
    bool wait = submission->wait_models != NULL;

    if (rc != KZ_OK) {
        submission->done(submission, rc, &err);
        return;
    }
    p->now_ms = kz_pl_now(p);
    if (!submission->received_us)
        submission->received_us = kz_mono_us();
    submission->durable_at = 0;
    submission->wait_open = submission->wait_place = 0;
    LIST_INIT(&submission->waiters);
    p->current = wait ? submission : NULL;
    for (size_t i = 0; i < submission->item_count; i++) {
        struct kz_intake_item *item = submission->items[i];

        fetch_ahead(p, submission, i);
        rc = item->state == KZ_INTAKE_REJECTED ? keep_rejected(p, item, &err)
                                               : kz_pl_event(p, item, p->options.ask, &err);
        /* What was staged before stands; the sender is told item by item what did not go in. */
        if (rc == KZ_OK || p->failed)
            continue;
        reject(item, kz_code_name(rc),
                rc == KZ_NO_SPACE   ? KZ_STR("the disk is full, send it again later")
                : kz_code_retry(rc) ? KZ_STR("could not be stored, send it again later")
                                    : KZ_STR("cannot be stored; status and log say why"));
    }
    p->current = NULL;
    if (p->failed) {
        kz_pl_forget_waiters(submission);
        kz_pl_submission_done(submission, KZ_IO, &p->failure);
        return;
    }
    kz_pl_due(p, DUE_SUBMISSION)->submission = submission;
    if (wait) {
        submission->wait_until_us = submission->received_us +
                                    (int64_t)submission->wait_timeout_ms * 1000;
        kz_waiting_add(&p->waiting, submission);
    }
}
