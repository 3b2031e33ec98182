#include "history/views_int.h"

/* ---- the list of a user ---------------------------------------------------------------------- */

static bool is(const struct kz_slot *slot, enum kz_slot_kind kind, uint64_t name)
{
    return slot->kind == kind && (!name || slot->name == name);
}

/* A user who is counted often has dozens of slots of times: whoever looks for something else stops
 * before them (V4). */
static struct kz_slot *find_from(
        const struct kz_views *views, uint32_t at, enum kz_slot_kind kind, uint64_t name)
{
    while (at) {
        struct kz_slot *slot = kz_views_slot_at(views, at);

        if (is(slot, kind, name))
            return slot;
        if (slot->kind == KZ_SLOT_TIMES && kind != KZ_SLOT_TIMES)
            return NULL;
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

/* Puts a slot first into the user's list; times come first among times only (V4). */
static void link_in(struct kz_views *views, uint32_t user, uint32_t at)
{
    struct kz_slot *slot = kz_views_slot_at(views, at);
    uint32_t *link = &kz_views_at(views, user)->slots;

    while (slot->kind == KZ_SLOT_TIMES && *link &&
            kz_views_slot_at(views, *link)->kind != KZ_SLOT_TIMES)
        link = &kz_views_slot_at(views, *link)->next;
    slot->next = *link;
    *link = at;
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
    link_in(views, user, at);
    count_kind(views, kind, 1);
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

    *link = slot->next;
    count_kind(views, slot->kind, -1);
    *slot = (struct kz_slot){.next = views->slot_free};
    views->slot_free = at;
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

/* ---- times ----------------------------------------------------------------------------------- */

/* The slots of a name in list order, and their times; in one walk, since each step may miss the
 * cache. */
struct times {
    struct kz_slot *slots[KZ_VIEWS_TIMES_MAX / KZ_TIMES_PER_SLOT];
    size_t slot_count;
    int64_t at_ms[KZ_VIEWS_TIMES_MAX + 1]; /* newest first; room for one more */
    size_t count;
};

static void times_load(
        const struct kz_views *views, uint32_t user, uint64_t name, struct times *ret)
{
    struct kz_slot *slot = kz_views_slot_find(views, user, KZ_SLOT_TIMES, name);

    ret->slot_count = ret->count = 0;
    for (; slot && ret->slot_count < KZ_ARRAY_COUNT(ret->slots);
            slot = find_from(views, slot->next, KZ_SLOT_TIMES, name)) {
        ret->slots[ret->slot_count++] = slot;
        for (unsigned i = 0; i < KZ_TIMES_PER_SLOT; i++) {
            if (slot->times.at_ms[i])
                ret->at_ms[ret->count++] = slot->times.at_ms[i];
        }
    }
}

size_t kz_views_times_get(
        const struct kz_views *views, uint32_t user, uint64_t name, int64_t out[KZ_VIEWS_TIMES_MAX])
{
    struct times times;

    times_load(views, user, name, &times);
    memcpy(out, times.at_ms, times.count * sizeof(*out));
    return times.count;
}

/* Writes the times back into the user's slots of the name, as many as that takes, in list order:
 * new slots come first among times (V4). */
static void times_store(struct kz_views *views, uint32_t user, uint64_t name, struct times *times)
{
    size_t slot_count = (times->count + KZ_TIMES_PER_SLOT - 1) / KZ_TIMES_PER_SLOT;

    for (; times->slot_count < slot_count; times->slot_count++) {
        memmove(times->slots + 1, times->slots, times->slot_count * sizeof(*times->slots));
        times->slots[0] = kz_views_slot_add(views, user, KZ_SLOT_TIMES, name);
    }
    for (size_t i = 0; i < slot_count; i++) {
        const int64_t *from = times->at_ms + i * KZ_TIMES_PER_SLOT;
        size_t n = KZ_MIN(times->count - i * KZ_TIMES_PER_SLOT, (size_t)KZ_TIMES_PER_SLOT);

        memset(&times->slots[i]->times, 0, sizeof(times->slots[i]->times));
        memcpy(times->slots[i]->times.at_ms, from, n * sizeof(*from));
    }
    for (size_t i = slot_count; i < times->slot_count; i++)
        kz_views_slot_remove(views, user, times->slots[i]);
}

void kz_views_times_add(struct kz_views *views, uint32_t user, uint64_t name, const int64_t *at_ms,
        size_t count, int64_t horizon_ms)
{
    struct times times;

    times_load(views, user, name, &times);
    for (size_t i = 0; i < count; i++) {
        size_t at = times.count;

        if (!at_ms[i]) /* 0 is "unused"; 1970 is nobody's event */
            continue;
        for (; at > 0 && times.at_ms[at - 1] < at_ms[i]; at--)
            times.at_ms[at] = times.at_ms[at - 1];
        times.at_ms[at] = at_ms[i];
        times.count = KZ_MIN(times.count + 1, (size_t)KZ_VIEWS_TIMES_MAX);
    }
    while (times.count && times.at_ms[times.count - 1] < horizon_ms)
        times.count--;
    times_store(views, user, name, &times);
}

static size_t count_since(
        const struct kz_views *views, uint32_t user, uint64_t name, int64_t since_ms)
{
    int64_t times[KZ_VIEWS_TIMES_MAX];
    size_t n = kz_views_times_get(views, user, name, times);

    while (n && times[n - 1] < since_ms)
        n--;
    return n;
}

size_t kz_views_hits(const struct kz_views *views, uint32_t user, uint64_t rule, int64_t since_ms)
{
    return count_since(views, user, rule, since_ms);
}

size_t kz_views_deliveries(
        const struct kz_views *views, uint32_t user, uint64_t action, int64_t since_ms)
{
    return count_since(views, user, kz_views_cap_name(action), since_ms);
}
