/* history/apply_link.c -- LINK and ERASE: two users become one, or one goes. */
#include "history/views_int.h"

/* ---- merging two slots of one name ----------------------------------------------------------- */

static void merge_trigger(struct kz_trigger_state *into, const struct kz_trigger_state *from)
{
    into->window_due_ms = KZ_MAX(into->window_due_ms, from->window_due_ms);
    into->delay_due_ms = KZ_MAX(into->delay_due_ms, from->delay_due_ms);
    into->rearm_due_ms = KZ_MAX(into->rearm_due_ms, from->rearm_due_ms);
    if (from->pending > into->pending) {
        into->pending = from->pending;
        into->pending_ts_ms = from->pending_ts_ms;
    }
}

static void merge_action(struct kz_action_state *into, const struct kz_action_state *from)
{
    if (from->holdout_assigned &&
            (!into->holdout_assigned || from->assigned_at_ms < into->assigned_at_ms))
        *into = *from;
}

/* Whether `slot` of `from` went into one that `to` has already; else it is to be moved. */
static bool merge_slot(struct kz_views *views, uint32_t to, const struct kz_slot *slot)
{
    struct kz_slot *there;

    switch ((enum kz_slot_kind)slot->kind) {
    case KZ_SLOT_TIMES:
        if (!kz_views_slot_find(views, to, KZ_SLOT_TIMES, slot->name))
            return false;
        kz_views_times_merge(views, to, slot);
        return true;
    case KZ_SLOT_TRIGGER:
    case KZ_SLOT_PREDICTION:
    case KZ_SLOT_ACTION:
        there = kz_views_slot_find(views, to, (enum kz_slot_kind)slot->kind, slot->name);
        if (!there)
            return false;
        if (slot->kind == KZ_SLOT_TRIGGER)
            merge_trigger(&there->trigger, &slot->trigger);
        else if (slot->kind == KZ_SLOT_ACTION)
            merge_action(&there->action, &slot->action);
        else if (slot->prediction.request > there->prediction.request)
            there->prediction = slot->prediction;
        return true;
    case KZ_SLOT_FREE:
    case KZ_SLOT_REQUEST:
    case KZ_SLOT_DELIVERY:
    case KZ_SLOT_SOURCE:
    case KZ_SLOT_TARGET:
    case KZ_SLOT_KIND_END:
        break;
    }
    return false;
}

/* `from` keeps its sources, and `to` gets copies of them: as of before the link, `from` is still
 * who it was. It keeps its targets, which are about the id. Everything else is `to`'s. */
static void merge_slots(struct kz_views *views, uint32_t from, uint32_t to, kz_lsn link)
{
    uint32_t at = kz_views_at(views, from)->slots;

    while (at) {
        struct kz_slot *slot = kz_views_slot_at(views, at);

        at = slot->next;
        if (slot->kind == KZ_SLOT_TARGET)
            continue;
        if (slot->kind == KZ_SLOT_SOURCE) {
            struct kz_slot *copy = kz_views_slot_add(views, to, KZ_SLOT_SOURCE, 0);

            copy->source = slot->source;
            copy->source.link = link;
        } else if (merge_slot(views, to, slot)) {
            kz_views_slot_remove(views, from, slot);
        } else {
            kz_views_slot_move(views, from, to, slot);
        }
    }
}

static int64_t earlier(int64_t a, int64_t b) /* 0 is never */
{
    return !a || (b && b < a) ? b : a;
}

static void merge(struct kz_views *views, uint32_t from, uint32_t to, kz_lsn link)
{
    struct kz_user *f = kz_views_at(views, from);
    struct kz_user *t = kz_views_at(views, to);

    merge_slots(views, from, to, link);
    if (f->events_head || f->notes_head) {
        struct kz_slot *slot = kz_views_slot_add(views, to, KZ_SLOT_SOURCE, 0);

        slot->source = (struct kz_source_state){
                .owner = f->owner,
                .events_head = f->events_head,
                .notes_head = f->notes_head,
                .link = link,
        };
    }
    if (f->session) /* there is an event of their own */
        t->last_ts_ms = t->session ? KZ_MAX(t->last_ts_ms, f->last_ts_ms) : f->last_ts_ms;
    t->first_seen_ms = earlier(t->first_seen_ms, f->first_seen_ms);
    t->last_event_at_ms = KZ_MAX(t->last_event_at_ms, f->last_event_at_ms);
    t->event_count += f->event_count;
    /* Who logs in is still in the session they began as a stranger. */
    if (f->session && (!t->session || f->session_ts_ms > t->session_ts_ms)) {
        t->session = f->session;
        t->session_ts_ms = f->session_ts_ms;
    }
    kz_views_link_set_merged(views, from, t->owner);
}

enum kz_code kz_views_apply_link(
        struct kz_views *views, kz_lsn lsn, const struct kz_record *record, struct kz_err *err)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_link_body *body = (const void *)bytes.ptr;
    struct kz_user_key from_key = {body->from_kind, kz_span_str(bytes, body->from_id)};
    struct kz_user_key to_key = {body->to_kind, kz_span_str(bytes, body->to_id)};
    uint32_t from = 0, to = 0;
    bool linked;

    KZ_TRY(kz_views_ensure_owner(views, body->from_owner, from_key, &from, err));
    KZ_TRY(kz_views_ensure_owner(views, record->owner, to_key, &to, err));
    linked = kz_views_at(views, from)->flags & KZ_USER_LINKED;
    to = kz_views_target(views, to);
    if (to == from)
        return kz_fail(err, KZ_CORRUPT, "link record seq %llu makes a circle",
                (unsigned long long)record->seq);
    if (!linked && body->kind == KZ_LINK_MERGE &&
            kz_views_source_count(views, to) + kz_views_chain_count(views, from) < KZ_SOURCES_MAX)
        merge(views, from, to, lsn);
    else if (!linked)
        views->odd.links_without_sources++;
    KZ_TRY(kz_views_link_set(views, from, to, err));
    kz_views_at(views, kz_views_find_owner(views, record->owner))->notes_head = lsn;
    return KZ_OK;
}

/* ---- ERASE ----------------------------------------------------------------------------------- */

struct going {
    const char *owners; /* uint64_t each, unaligned */
    uint32_t count;
};

static bool is_going(const void *arg, uint64_t owner)
{
    const struct going *going = arg;

    for (uint32_t i = 0; i < going->count; i++) {
        if (kz_load_u64(going->owners + sizeof(owner) * i) == owner)
            return true;
    }
    return false;
}

/* Takes an owner's chain out of those who got it in a merge, for a list that names the one and not
 * the others. */
static void remove_source(struct kz_views *views, uint64_t owner)
{
    uint32_t user = kz_views_find_owner(views, owner);

    for (unsigned hops = 0; user && hops < 64; hops++) {
        const struct kz_link_node *node = kz_views_link_of(views, user);
        struct kz_slot *slot;

        user = node ? kz_views_find_owner(views, node->merged) : 0;
        slot = kz_views_slot_find(views, user, KZ_SLOT_SOURCE, 0);
        while (slot && slot->source.owner != owner)
            slot = (struct kz_slot *)kz_views_slot_next(views, slot, KZ_SLOT_SOURCE, 0);
        if (slot)
            kz_views_slot_remove(views, user, slot);
    }
}

/* Of an id that stays, only where others keep events of it is left. */
static void free_slots_but_targets(struct kz_views *views, uint32_t user)
{
    uint32_t at = kz_views_at(views, user)->slots;

    while (at) {
        struct kz_slot *slot = kz_views_slot_at(views, at);

        at = slot->next;
        if (slot->kind != KZ_SLOT_TARGET)
            kz_views_slot_remove(views, user, slot);
    }
}

/* Nobody's memory names one who is erased. */
static void remove_targets(struct kz_views *views, const struct going *going)
{
    for (uint32_t user = views->target_count ? kz_views_next_user(views, 0) : 0; user;
            user = kz_views_next_user(views, user)) {
        uint32_t at = kz_views_at(views, user)->slots;

        while (at) {
            struct kz_slot *slot = kz_views_slot_at(views, at);

            at = slot->next;
            if (slot->kind == KZ_SLOT_TARGET && is_going(going, slot->target.owner))
                kz_views_slot_remove(views, user, slot);
        }
    }
}

static void erase_owner(struct kz_views *views, uint64_t owner, const struct going *going)
{
    uint32_t user = kz_views_find_owner(views, owner);
    uint32_t target;

    if (!user)
        return;
    target = kz_views_target(views, user);
    if (target != user && !is_going(going, kz_views_at(views, target)->owner)) {
        /* A shared device: its past was this user's, but it leads to somebody who stays. */
        struct kz_user *u = kz_views_at(views, user);

        free_slots_but_targets(views, user);
        *u = (struct kz_user){.owner = u->owner,
                .slots = u->slots,
                .key_offset = u->key_offset,
                .key_size = u->key_size,
                .flags = u->flags};
        kz_views_link_set_merged(views, user, 0);
        return;
    }
    kz_views_slots_free(views, user);
    kz_views_link_clear(views, user, is_going, going);
    kz_views_remove_user(views, user);
}

static void erase_dead_letters(struct kz_views *views, const struct going *going)
{
    struct kz_dead_letters *letters = &views->dead_letters;
    size_t kept = 0;

    for (size_t i = 0; i < letters->count; i++) {
        struct kz_dead_letter letter = letters->items[letters->first + i];

        if (!letter.owner || !is_going(going, letter.owner))
            letters->items[letters->first + kept++] = letter;
    }
    letters->count = kept;
}

enum kz_code kz_views_apply_erase(
        struct kz_views *views, kz_lsn lsn, const struct kz_record *record, struct kz_err *err)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_erase_body *body = (const void *)bytes.ptr;
    struct going going = {bytes.ptr + sizeof(*body), body->owner_count};
    struct kz_tombstone tombstone = {
            .id_hash = body->id_hash,
            .seq = record->seq,
            .lsn = lsn,
            .at_ms = body->what == KZ_ERASE_ASKED ? record->at_ms : body->asked_ms,
            .done_at_ms = body->what == KZ_ERASE_ID ? record->at_ms : 0,
    };

    if ((bytes.size - sizeof(*body)) / sizeof(uint64_t) < body->owner_count)
        return kz_fail(err, KZ_CORRUPT, "erase record seq %llu has %u owners in %zu bytes",
                (unsigned long long)record->seq, body->owner_count, bytes.size);
    if (body->what == KZ_ERASE_DONE) {
        kz_views_tombstone_done(views, body->erasure, record->at_ms);
        return KZ_OK;
    }
    kz_views_tombstone_add(views, &tombstone);
    for (uint32_t i = 0; i < going.count; i++)
        remove_source(views, kz_load_u64(going.owners + sizeof(uint64_t) * i));
    for (uint32_t i = 0; i < going.count; i++)
        erase_owner(views, kz_load_u64(going.owners + sizeof(uint64_t) * i), &going);
    remove_targets(views, &going);
    erase_dead_letters(views, &going);
    return KZ_OK;
}
