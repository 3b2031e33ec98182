#include "app/roles/process.h"

#include <stdlib.h>
#include <unistd.h>

#include "app/roles/process_int.h"
#include "base/hash.h"

enum { CONFLICTS_MAX = 10 }; /* then the caller may have something else to look at first */

/* What a call is about; one of both. */
struct work {
    struct kz_intake_item *const *items;
    const struct kz_store_timer *timers;
    size_t count;
};

/* ---- ids ------------------------------------------------------------------------------------ */

/* Kind and id of the user as sent, NUL, event_id: no owner collides in it. */
static struct kz_str id_text(struct kz_arena *arena, struct kz_user_key key, struct kz_str event_id)
{
    size_t size = 1 + key.id.size + 1 + event_id.size;
    char *text = kz_arena_must(arena, size);

    text[0] = key.kind;
    memcpy(text + 1, key.id.ptr, key.id.size);
    text[1 + key.id.size] = '\0';
    memcpy(text + 2 + key.id.size, event_id.ptr, event_id.size);
    return kz_str_n(text, size);
}

static uint32_t id_index(struct kz_process *p, const struct kz_event *event)
{
    struct kz_user_key key = kz_event_key(event);
    struct kz_str text = id_text(&p->arena, key, event->event_id);
    uint64_t hash = kz_hash_str(text);
    size_t at = (size_t)hash & (p->id_slot_count - 1);

    for (; p->id_slots[at]; at = (at + 1) & (p->id_slot_count - 1)) {
        const struct id *there = &p->ids[p->id_slots[at] - 1];

        if (there->hash == hash && kz_str_eq(there->store.id, text))
            return p->id_slots[at] - 1;
    }
    p->ids[p->id_count] = (struct id){.store = {kz_owner_hash(key, 0), text}, .hash = hash};
    p->id_slots[at] = (uint32_t)++p->id_count;
    return p->id_slots[at] - 1;
}

static void index_items(struct kz_process *p, const struct work *w)
{
    kz_buf_clear(&p->inputs);
    kz_arena_reset(&p->arena);
    p->id_count = 0;
    if (!w->items)
        return;
    for (p->id_slot_count = 16; p->id_slot_count < w->count * 2;)
        p->id_slot_count *= 2;
    p->id_slots = kz_arena_zero(&p->arena, p->id_slot_count * sizeof(*p->id_slots));
    p->ids = kz_arena_must(&p->arena, (w->count + 1) * sizeof(*p->ids));
    p->asked = kz_arena_must(&p->arena, (w->count + 1) * sizeof(*p->asked));
    p->there = kz_arena_must(&p->arena, (w->count + 1) * sizeof(*p->there));
    for (size_t i = 0; i < w->count; i++) {
        struct input input = {.item = w->items[i], .flags = w->items[i]->event.flags};

        KZ_BUG_ON(w->items[i]->event.received_at_ms < 1);
        if (input.item->state != KZ_INTAKE_REJECTED)
            input.id = id_index(p, &input.item->event);
        else
            input.rejected = true;
        kz_buf_put(&p->inputs, &input, sizeof(input));
    }
    for (size_t i = 0; i < p->id_count; i++)
        p->asked[i] = p->ids[i].store;
}

static enum kz_code read_ids(struct kz_process *p, struct kz_store_txn *txn, struct kz_err *err)
{
    if (!p->id_count)
        return KZ_OK;
    KZ_TRY(p->store->ops->read_ids(txn, p->asked, p->id_count, p->there, err));
    for (size_t i = 0; i < p->id_count; i++)
        p->ids[i].there = p->ids[i].seen = p->there[i];
    return KZ_OK;
}

/* ---- timers --------------------------------------------------------------------------------- */

static bool is_after(const struct kz_store_timer *timer, int64_t due_ms, uint64_t rule)
{
    return timer->due_ms > due_ms || (timer->due_ms == due_ms && timer->rule > rule);
}

/* The earliest of the user's timers due by `until_ms` behind (due_ms, rule), as struct timers
 * orders them. */
static bool next_due(struct kz_process *p, uint32_t user, int64_t until_ms, int64_t due_ms,
        uint64_t rule, struct kz_store_timer *ret)
{
    const struct kz_store_timer *timers;
    struct kz_store_timer best = {.due_ms = INT64_MAX};

    kz_buf_clear(&p->after);
    kz_process_armed(p->parts->views, user, &p->after);
    timers = (const void *)p->after.data;
    for (size_t i = 0; i < p->after.size / sizeof(*timers); i++)
        if (timers[i].due_ms <= until_ms && is_after(&timers[i], due_ms, rule) &&
                !is_after(&timers[i], best.due_ms, best.rule))
            best = timers[i];
    *ret = best;
    return best.due_ms != INT64_MAX;
}

static enum kz_code what_failed(struct kz_process *p, enum kz_code rc, struct kz_err *err)
{
    const struct kz_err *why = NULL;

    if (p->staging.read_code != KZ_OK) {
        rc = p->staging.read_code;
        why = &p->staging.read_err;
    } else if (p->parts->failed) {
        rc = p->parts->failure.code;
        why = &p->parts->failure;
    }
    if (why && err)
        *err = *why;
    return rc;
}

static void set_now(struct kz_process *p, int64_t now_ms, uint32_t user)
{
    p->parts->now_ms = now_ms;
    p->staging.now_ms = now_ms;
    p->staging.user = user;
}

/* Everything that waits for a time by `until_ms` (S4), each as of its own. */
static enum kz_code fire_due(
        struct kz_process *p, uint32_t user, int64_t until_ms, struct kz_err *err)
{
    struct kz_store_timer next = {.due_ms = INT64_MIN};

    while (user && !p->silent && next_due(p, user, until_ms, next.due_ms, next.rule, &next)) {
        struct timer timer = {next.due_ms, next.owner, next.rule, TIMER_TRIGGER};

        set_now(p, next.due_ms, user);
        kz_pl_fire(p->parts, &timer);
        KZ_TRY(what_failed(p, KZ_OK, err));
    }
    return KZ_OK;
}

/* ---- deciding ------------------------------------------------------------------------------- */

static enum kz_code reject_item(
        struct kz_process *p, struct kz_intake_item *item, struct kz_err *err)
{
    struct kz_user_key key = kz_event_key(&item->event);
    uint64_t owner = key.id.size ? kz_views_resolve(p->parts->views, key).owner : 0;

    set_now(p, item->event.received_at_ms, 0);
    p->parts->counters.events_rejected_total++;
    return kz_pl_dead_letter(p->parts, KZ_STAGE_SHAPE, 0, owner, item->code, item->message, NULL,
            item->payload, err);
}

/* Of everybody whose state the event is about: its user, and whom it links to them. */
static enum kz_code fire_due_of(
        struct kz_process *p, const struct kz_event *event, struct kz_err *err)
{
    const struct kz_user_key keys[] = {
            kz_event_key(event), {'a', event->anonymous_id}, {'u', event->anonymous_id}};
    size_t count = event->identity == KZ_IDENTITY_NONE       ? 1
                   : event->identity == KZ_IDENTITY_IDENTIFY ? 2
                                                             : 3;

    for (size_t i = 0; i < count; i++)
        KZ_TRY(fire_due(
                p, kz_views_resolve(p->parts->views, keys[i]).index, event->received_at_ms, err));
    return KZ_OK;
}

/* As kz_pl_event(), with word of what was not asked where somebody waits for it. An event that was
 * taken before, and comes again only because that was not known on the bus, may have asked then: nothing
 * is said of it. */
static enum kz_code put_event(struct kz_process *p, struct kz_intake_item *item, struct kz_err *err)
{
    size_t count = p->parts->project->model_count;
    struct kz_submission waiting = {.wait_models = p->all_models};
    struct kz_process_unasked unasked = {.awaited = item->awaited};
    enum kz_code rc;

    if (!item->awaited.size || p->silent)
        return kz_pl_event(p->parts, item, !p->silent, err);
    unasked.reasons = kz_arena_must(&p->staging.arena, (count + 1) * sizeof(*unasked.reasons));
    p->parts->current = &waiting;
    rc = kz_pl_event(p->parts, item, true, err);
    p->parts->current = NULL;
    kz_pl_unasked(p->parts, &waiting, unasked.reasons);
    if (rc == KZ_OK && !(item->again && item->state == KZ_INTAKE_DUPLICATE))
        kz_buf_put(&p->unasked, &unasked, sizeof(unasked));
    return rc;
}

static enum kz_code take_event(struct kz_process *p, const struct input *input, struct kz_err *err)
{
    struct kz_intake_item *item = input->item;
    struct kz_event *event = &item->event;
    struct kz_user_key key = kz_event_key(event);
    int64_t now_ms = event->received_at_ms;
    struct kz_views_place place;

    /* As if it had just come: an attempt before may have written here. */
    event->flags = input->flags;
    item->state = KZ_INTAKE_ACCEPTED;
    KZ_TRY(fire_due_of(p, event, err));
    place = kz_views_resolve(p->parts->views, key);
    set_now(p, now_ms, place.index);
    p->staging.seen = &p->ids[input->id].seen;
    p->staging.journal.seq_next = kz_staging_next(&p->staging, place.owner);
    KZ_TRY(what_failed(p, put_event(p, item, err), err));
    /* A client's clock that is behind may have armed what is due already. */
    return fire_due(p, kz_views_resolve(p->parts->views, key).index, now_ms, err);
}

static enum kz_code take_timer(
        struct kz_process *p, const struct kz_store_timer *timer, struct kz_err *err)
{
    return fire_due(p, kz_views_state_user(p->parts->views, timer->owner), timer->due_ms, err);
}

static enum kz_code decide(struct kz_process *p, const struct work *w, struct kz_err *err)
{
    const struct input *inputs = (const void *)p->inputs.data;

    for (size_t i = 0; i < w->count; i++) {
        if (w->timers)
            KZ_TRY(take_timer(p, &w->timers[i], err));
        else if (inputs[i].rejected)
            KZ_TRY(reject_item(p, inputs[i].item, err));
        else
            KZ_TRY(take_event(p, &inputs[i], err));
    }
    return KZ_OK;
}

/* ---- a transaction -------------------------------------------------------------------------- */

static void want_users(struct kz_process *p, const struct work *w)
{
    kz_users_reset(&p->users);
    for (size_t at = 0; at < p->extra.size; at += sizeof(uint64_t))
        (void)kz_users_add(&p->users, kz_load_u64(p->extra.data + at)); /* to be read */
    for (size_t i = 0; i < w->count; i++) {
        const struct kz_event *event;

        if (w->timers) {
            (void)kz_users_add(&p->users, w->timers[i].owner); /* to be read */
            continue;
        }
        event = &w->items[i]->event;
        kz_users_want_key(&p->users, kz_event_key(event), false);
        if (event->identity == KZ_IDENTITY_NONE)
            continue;
        kz_users_want_key(&p->users, (struct kz_user_key){'a', event->anonymous_id}, true);
        if (event->identity == KZ_IDENTITY_ALIAS)
            kz_users_want_key(&p->users, (struct kz_user_key){'u', event->anonymous_id}, true);
    }
}

static enum kz_code read_all(
        struct kz_process *p, const struct work *w, struct kz_store_txn *txn, struct kz_err *err)
{
    struct kz_views *views = kz_views_new_small();

    kz_views_set_part(views);
    kz_pl_parts_reset(p->parts, views, 0);
    kz_staging_reset(&p->staging);
    kz_buf_clear(&p->unasked);
    want_users(p, w);
    KZ_TRY(kz_users_load(&p->users, p->store, txn, views, err));
    KZ_TRY(kz_users_stones(&p->users, p->parts, p->store, err));
    kz_process_note_armed(p);
    return read_ids(p, txn, err);
}

/* Ends the transaction in any case. */
static enum kz_code attempt(struct kz_process *p, const struct work *w, struct kz_err *err)
{
    struct kz_pipeline_counters before = p->parts->counters;
    struct kz_store_txn *txn;
    enum kz_code rc;

    KZ_TRY(p->store->ops->begin(p->store, &txn, err));
    rc = read_all(p, w, txn, err);
    if (rc == KZ_OK)
        rc = decide(p, w, err);
    if (rc == KZ_OK)
        rc = kz_process_commit(p, w->timers, w->timers ? w->count : 0, txn, err);
    else
        p->store->ops->rollback(txn);
    if (rc != KZ_OK)
        p->parts->counters = before;
    return rc;
}

static enum kz_code run(struct kz_process *p, const struct work *w,
        struct kz_process_outcome *ret_outcome, struct kz_err *err)
{
    enum kz_code rc;

    KZ_CHECK_MAGIC(p, PROCESS_MAGIC);
    kz_buf_clear(&p->extra);
    index_items(p, w);
    for (unsigned i = 0; (rc = attempt(p, w, err)) == KZ_CONFLICT && i < CONFLICTS_MAX; i++) {
        p->retries++;
        usleep((useconds_t)(p->store->ops->retry_ms(p->store) * 1000));
    }
    if (rc == KZ_OK)
        *ret_outcome = (struct kz_process_outcome){
                .requests = (const void *)p->put.requests.data,
                .request_count = p->put.requests.size / sizeof(struct kz_store_request),
                .unasked = (const void *)p->unasked.data,
                .unasked_count = p->unasked.size / sizeof(struct kz_process_unasked),
        };
    return rc;
}

enum kz_code kz_process_events(struct kz_process *process, struct kz_intake_item *const *items,
        size_t count, struct kz_process_outcome *ret_outcome, struct kz_err *err)
{
    struct work w = {.items = items, .count = count};

    return run(process, &w, ret_outcome, err);
}

enum kz_code kz_process_timers(struct kz_process *process, const struct kz_store_timer *timers,
        size_t count, struct kz_process_outcome *ret_outcome, struct kz_err *err)
{
    struct work w = {.timers = timers, .count = count};

    return run(process, &w, ret_outcome, err);
}

/* ---- life ----------------------------------------------------------------------------------- */

void kz_process_counters(const struct kz_process *process,
        struct kz_pipeline_counters *ret_counters, uint64_t *ret_retries)
{
    *ret_counters = process->parts->counters;
    *ret_retries = process->retries;
}

enum kz_code kz_process_open(const struct kz_process_options *options,
        struct kz_process **ret_process, struct kz_err *err)
{
    KZ_AUTO(kz_process_closep) struct kz_process *p = kz_calloc(1, sizeof(*p));
    struct kz_pipeline_options parts = {.project = options->project, .ask = true};

    p->magic = PROCESS_MAGIC;
    p->store = options->store;
    p->silent = options->silent;
    kz_arena_init(&p->arena, 0);
    kz_staging_init(&p->staging, p->store, &p->users);
    if (options->project->events.max_ahead_ms > KZ_STORE_AHEAD_MS)
        return kz_fail(err, KZ_CONFIG,
                "events.clock.max_ahead is more than a day: histories in a shared store cannot "
                "hold it");
    KZ_TRY(kz_pl_parts_open(&parts, &p->staging.journal, &p->staging.reader, &p->parts, err));
    p->staging.parts = p->parts;
    p->all_models = kz_malloc(options->project->model_count + 1);
    memset(p->all_models, true, options->project->model_count + 1);
    *ret_process = kz_take(&p);
    return KZ_OK;
}

void kz_process_close(struct kz_process *process)
{
    if (!process)
        return;
    KZ_CHECK_MAGIC(process, PROCESS_MAGIC);
    kz_pipeline_close(process->parts);
    kz_staging_done(&process->staging);
    kz_users_done(&process->users);
    kz_arena_done(&process->arena);
    kz_buf_done(&process->inputs);
    kz_buf_done(&process->unasked);
    free(process->all_models);
    kz_process_put_done(process);
    process->magic = 0;
    free(process);
}
