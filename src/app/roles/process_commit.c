/* app/roles/process_commit.c -- what a transaction has come to, as one commit of the store. */

#include "app/roles/process_int.h"
#include "app/roles/userstate.h"
#include "sys/clock.h"

enum { UNKNOWN_RULE_MS = 60 * 60000 }; /* a newer version may know it; then its timers go */

/* ---- timers --------------------------------------------------------------------------------- */

void kz_process_armed(const struct kz_views *views, uint32_t user, struct kz_buf *out)
{
    const struct kz_slot *slot = kz_views_slot(views, user, KZ_SLOT_TRIGGER, 0);

    for (; slot; slot = kz_views_slot_next(views, slot, KZ_SLOT_TRIGGER, 0)) {
        struct kz_store_timer timer = {
                .owner = kz_views_user(views, user)->owner,
                .rule = slot->name,
                .due_ms = kz_trigger_due(&slot->trigger),
        };

        if (timer.due_ms)
            kz_buf_put(out, &timer, sizeof(timer));
    }
}

void kz_process_note_armed(struct kz_process *p)
{
    kz_buf_clear(&p->before);
    kz_buf_reserve(&p->before, sizeof(struct kz_store_timer)); /* never NULL */
    for (size_t i = 0; i < p->users.count; i++) {
        struct loaded *loaded = &p->users.items[i];

        loaded->timer_first = p->before.size / sizeof(struct kz_store_timer);
        if (loaded->restored)
            kz_process_armed(p->parts->views, kz_views_find_owner(p->parts->views, loaded->owner),
                    &p->before);
        loaded->timer_count = p->before.size / sizeof(struct kz_store_timer) - loaded->timer_first;
    }
}

static bool holds(
        const struct kz_store_timer *list, size_t count, const struct kz_store_timer *timer)
{
    for (size_t i = 0; i < count; i++)
        if (list[i].owner == timer->owner && list[i].rule == timer->rule &&
                list[i].due_ms == timer->due_ms)
            return true;
    return false;
}

/* Rows of timers are those that states are armed with, no more and no less. */
static void put_timers(struct kz_process *p, const struct loaded *loaded, uint32_t user)
{
    const struct kz_store_timer *before = (const struct kz_store_timer *)(void *)p->before.data +
                                          loaded->timer_first;
    const struct kz_store_timer *after;
    size_t count;

    kz_buf_clear(&p->after);
    kz_process_armed(p->parts->views, user, &p->after);
    after = (const void *)p->after.data;
    count = p->after.size / sizeof(*after);
    for (size_t i = 0; i < loaded->timer_count; i++)
        if (!holds(after, count, &before[i]))
            kz_buf_put(&p->put.fired, &before[i], sizeof(before[i]));
    for (size_t i = 0; i < count; i++)
        if (!holds(before, loaded->timer_count, &after[i]))
            kz_buf_put(&p->put.timers, &after[i], sizeof(after[i]));
}

/* A row that no state is armed with (it should not be), or whose rule has been gone for long,
 * goes. */
static void put_leftover(struct kz_process *p, const struct kz_store_timer *timer)
{
    uint32_t user = kz_views_find_owner(p->parts->views, timer->owner);
    const struct kz_store_timer *fired = (const void *)p->put.fired.data;
    bool is_armed = false;

    kz_buf_clear(&p->after);
    if (user) {
        kz_process_armed(p->parts->views, user, &p->after);
        is_armed = holds(
                (const void *)p->after.data, p->after.size / sizeof(struct kz_store_timer), timer);
    }
    if (is_armed && (kz_triggers_by_name(p->parts->triggers, timer->rule) ||
                            timer->due_ms + UNKNOWN_RULE_MS > kz_clock_ms()))
        return;
    if (!holds(fired, p->put.fired.size / sizeof(*fired), timer))
        kz_buf_put(&p->put.fired, timer, sizeof(*timer));
}

/* ---- users ---------------------------------------------------------------------------------- */

/* Requests end in infer: none is pending here. Where an id's events once went is of no use: what
 * was taken is known by who sent it. */
static void put_user(struct kz_process *p, const struct loaded *loaded, uint32_t user)
{
    struct kz_store_user put = {.owner = loaded->owner};
    struct kz_user_state extra = {
            .request = loaded->request,
            .erased_at_ms = loaded->erased_at_ms,
            .linked = kz_buf_view(&loaded->linked),
    };

    kz_buf_clear(&p->state);
    kz_user_state_encode(
            p->parts->views, user, &extra, 1u << KZ_SLOT_REQUEST | 1u << KZ_SLOT_TARGET, &p->state);
    if (kz_str_eq(kz_buf_view(&p->state), loaded->bytes))
        return;
    put.state = kz_arena_str(&p->staging.arena, kz_buf_view(&p->state));
    kz_buf_put(&p->put.users, &put, sizeof(put));
    put_timers(p, loaded, user);
}

static enum kz_code put_users(struct kz_process *p, struct kz_err *err)
{
    struct kz_views *views = p->parts->views;

    for (uint32_t user = kz_views_next_user(views, 0); user;
            user = kz_views_next_user(views, user)) {
        uint64_t owner = kz_views_user(views, user)->owner;
        const struct loaded *loaded = kz_users_find(&p->users, owner);

        if (loaded)
            put_user(p, loaded, user);
        else
            kz_buf_u64(&p->extra, owner);
    }
    return p->extra.size &&
                           !kz_users_find(&p->users, kz_load_u64(p->extra.data + p->extra.size - 8))
                   ? kz_fail(err, KZ_CONFLICT, "a user came up who was not read")
                   : KZ_OK;
}

/* ---- records -------------------------------------------------------------------------------- */

/* What a rule noted of a user is in their state; nobody reads it record by record. */
static void put_records(struct kz_process *p)
{
    for (size_t i = 0; i < p->staging.count; i++) {
        const struct staged *staged = &p->staging.records[i];
        struct kz_store_record record = {.lsn = staged->lsn, .record = staged->record};

        switch ((enum kz_record_type)staged->record->type) {
        case KZ_RECORD_TRIGGER:
            break;
        case KZ_RECORD_DEADLETTER:
            kz_buf_put(&p->put.letters, &record, sizeof(record));
            break;
        case KZ_RECORD_REQUEST: {
            struct kz_store_request request = {
                    .owner = staged->record->owner,
                    .lsn = staged->lsn,
                    .message = staged->message,
            };

            kz_buf_put(&p->put.requests, &request, sizeof(request));
        } /* fallthrough */
        default:
            kz_buf_put(&p->put.records, &record, sizeof(record));
            break;
        }
    }
    for (size_t i = 0; i < p->id_count; i++)
        if (p->ids[i].seen && !p->ids[i].there)
            kz_buf_put(&p->put.ids, &p->ids[i].store, sizeof(p->ids[i].store));
}

enum kz_code kz_process_commit(struct kz_process *p, const struct kz_store_timer *timers,
        size_t timer_count, struct kz_store_txn *txn, struct kz_err *err)
{
    struct kz_store_commit commit = {.now_ms = kz_clock_ms()};
    enum kz_code rc;

    kz_buf_clear(&p->put.users);
    kz_buf_clear(&p->put.ids);
    kz_buf_clear(&p->put.records);
    kz_buf_clear(&p->put.letters);
    kz_buf_clear(&p->put.timers);
    kz_buf_clear(&p->put.fired);
    kz_buf_clear(&p->put.requests);
    rc = put_users(p, err);
    if (rc != KZ_OK) {
        p->store->ops->rollback(txn);
        return rc;
    }
    for (size_t i = 0; i < timer_count; i++)
        put_leftover(p, &timers[i]);
    put_records(p);
#define GIVE(member, list, type)                                                                   \
    commit.member##s = (const struct type *)(void *)p->put.list.data;                              \
    commit.member##_count = p->put.list.size / sizeof(struct type)
    GIVE(user, users, kz_store_user);
    GIVE(id, ids, kz_store_id);
    GIVE(record, records, kz_store_record);
    GIVE(letter, letters, kz_store_record);
    GIVE(timer, timers, kz_store_timer);
    GIVE(request, requests, kz_store_request);
#undef GIVE
    commit.fired = (const struct kz_store_timer *)(void *)p->put.fired.data;
    commit.fired_count = p->put.fired.size / sizeof(struct kz_store_timer);
    if (!commit.user_count && !commit.id_count && !commit.record_count && !commit.letter_count &&
            !commit.fired_count) {
        p->store->ops->rollback(txn); /* all of it was there */
        return KZ_OK;
    }
    return p->store->ops->commit(txn, &commit, err);
}

void kz_process_put_done(struct kz_process *p)
{
    kz_buf_done(&p->put.users);
    kz_buf_done(&p->put.ids);
    kz_buf_done(&p->put.records);
    kz_buf_done(&p->put.letters);
    kz_buf_done(&p->put.timers);
    kz_buf_done(&p->put.fired);
    kz_buf_done(&p->put.requests);
    kz_buf_done(&p->before);
    kz_buf_done(&p->after);
    kz_buf_done(&p->extra);
    kz_buf_done(&p->state);
}
