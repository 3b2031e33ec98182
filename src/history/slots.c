#include "history/views_int.h"

/* ---- the list of a user ---------------------------------------------------------------------- */

static bool is(const struct kz_slot *slot, enum kz_slot_kind kind, uint64_t name)
{
    return slot->kind == kind && (!name || slot->name == name);
}

static struct kz_slot *find_from(
        const struct kz_views *views, uint32_t at, enum kz_slot_kind kind, uint64_t name)
{
    while (at) {
        struct kz_slot *slot = kz_views_slot_at(views, at);

        if (is(slot, kind, name))
            return slot;
        at = slot->next;
    }
    return NULL;
}

struct kz_slot *kz_views_slot_find(
        const struct kz_views *views, uint32_t user, enum kz_slot_kind kind, uint64_t name)
{
    return user ? find_from(views, kz_views_at(views, user)->slots, kind, name) : NULL;
}

const struct kz_slot *kz_views_slot(
        const struct kz_views *views, uint32_t user, enum kz_slot_kind kind, uint64_t name)
{
    return kz_views_slot_find(views, user, kind, name);
}

const struct kz_slot *kz_views_slot_next(const struct kz_views *views, const struct kz_slot *slot,
        enum kz_slot_kind kind, uint64_t name)
{
    return find_from(views, slot->next, kind, name);
}

const struct kz_slot *kz_views_slot_any(const struct kz_views *views, uint32_t user)
{
    uint32_t at = kz_views_at(views, user)->slots;

    return at ? kz_views_slot_at(views, at) : NULL;
}

const struct kz_slot *kz_views_slot_any_next(
        const struct kz_views *views, const struct kz_slot *slot)
{
    return slot->next ? kz_views_slot_at(views, slot->next) : NULL;
}

const struct kz_slot *kz_views_request(
        const struct kz_views *views, uint32_t user, uint64_t request_seq)
{
    const struct kz_slot *slot = kz_views_slot(views, user, KZ_SLOT_REQUEST, 0);

    while (slot && slot->request.request != request_seq)
        slot = kz_views_slot_next(views, slot, KZ_SLOT_REQUEST, 0);
    return slot;
}

const struct kz_slot *kz_views_delivery(
        const struct kz_views *views, uint32_t user, uint64_t decision_seq)
{
    const struct kz_slot *slot = kz_views_slot(views, user, KZ_SLOT_DELIVERY, 0);

    while (slot && slot->delivery.decision != decision_seq)
        slot = kz_views_slot_next(views, slot, KZ_SLOT_DELIVERY, 0);
    return slot;
}

static const struct kz_slot *give(struct kz_slot_cursor *cursor, const struct kz_views *views,
        uint32_t user, uint32_t at, enum kz_slot_kind kind)
{
    while (at) {
        const struct kz_slot *slot = kz_views_slot_at(views, at);

        if (slot->kind == kind) {
            *cursor = (struct kz_slot_cursor){user, at};
            return slot;
        }
        at = slot->next;
    }
    return NULL;
}

const struct kz_slot *kz_views_next_slot(
        const struct kz_views *views, enum kz_slot_kind kind, struct kz_slot_cursor *cursor)
{
    uint32_t user = cursor->user;

    if (cursor->slot) {
        const struct kz_slot *slot = give(
                cursor, views, user, kz_views_slot_at(views, cursor->slot)->next, kind);

        if (slot)
            return slot;
    }
    while ((user = kz_views_next_user(views, user))) {
        const struct kz_slot *slot = give(
                cursor, views, user, kz_views_at(views, user)->slots, kind);

        if (slot)
            return slot;
    }
    *cursor = (struct kz_slot_cursor){UINT32_MAX - 1, 0};
    return NULL;
}

/* ---- coming and going ------------------------------------------------------------------------ */

static void count_kind(struct kz_views *views, unsigned kind, int by)
{
    views->slot_count += (uint32_t)by;
    if (kind == KZ_SLOT_REQUEST)
        views->pending_count += (uint32_t)by;
    if (kind == KZ_SLOT_DELIVERY)
        views->waiting_count += (uint32_t)by;
    if (kind == KZ_SLOT_TARGET)
        views->target_count += (uint32_t)by;
}

/* The place that holds the number of the slot. */
static uint32_t *link_to(struct kz_views *views, uint32_t user, const struct kz_slot *slot)
{
    uint32_t *link = &kz_views_at(views, user)->slots;

    while (*link && kz_views_slot_at(views, *link) != slot)
        link = &kz_views_slot_at(views, *link)->next;
    KZ_BUG_ON(!*link);
    return link;
}

static void link_in(struct kz_views *views, uint32_t user, uint32_t at)
{
    struct kz_user *u = kz_views_at(views, user);

    kz_views_slot_at(views, at)->next = u->slots;
    u->slots = at;
}

struct kz_slot *kz_views_slot_add(
        struct kz_views *views, uint32_t user, enum kz_slot_kind kind, uint64_t name)
{
    uint32_t at = views->slot_free;
    struct kz_slot *slot;

    if (at)
        views->slot_free = kz_views_slot_at(views, at)->next;
    else
        at = kz_pool_take(&views->slots, 1, NULL);
    slot = kz_views_slot_at(views, at);
    *slot = (struct kz_slot){.name = name, .kind = (uint8_t)kind};
    if (kind == KZ_SLOT_TIMES)
        slot->ring.capacity = KZ_TIMES_FEW;
    link_in(views, user, at);
    count_kind(views, kind, 1);
    if (kind == KZ_SLOT_TARGET)
        kz_views_at(views, user)->flags |= KZ_USER_TARGETS;
    return slot;
}

struct kz_slot *kz_views_slot_get(
        struct kz_views *views, uint32_t user, enum kz_slot_kind kind, uint64_t name)
{
    struct kz_slot *slot = kz_views_slot_find(views, user, kind, name);

    return slot ? slot : kz_views_slot_add(views, user, kind, name);
}

void kz_views_slot_remove(struct kz_views *views, uint32_t user, struct kz_slot *slot)
{
    uint32_t *link = link_to(views, user, slot);
    uint32_t at = *link;
    bool was_target = slot->kind == KZ_SLOT_TARGET;

    if (slot->kind == KZ_SLOT_TIMES)
        kz_views_times_free(views, slot);
    *link = slot->next;
    count_kind(views, slot->kind, -1);
    *slot = (struct kz_slot){.next = views->slot_free};
    views->slot_free = at;
    if (was_target && !kz_views_slot_find(views, user, KZ_SLOT_TARGET, 0))
        kz_views_at(views, user)->flags &= (uint8_t)~KZ_USER_TARGETS;
}

void kz_views_slots_free(struct kz_views *views, uint32_t user)
{
    struct kz_user *u = kz_views_at(views, user);

    while (u->slots)
        kz_views_slot_remove(views, user, kz_views_slot_at(views, u->slots));
}

void kz_views_slot_move(struct kz_views *views, uint32_t from, uint32_t to, struct kz_slot *slot)
{
    uint32_t *link = link_to(views, from, slot);
    uint32_t at = *link;

    *link = slot->next;
    link_in(views, to, at);
}
