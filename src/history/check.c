/* history/check.c -- the invariants as code, and a hash of the state. */
#include <stdlib.h>

#include "base/buf.h"
#include "base/hash.h"
#include "history/views_int.h"

#define BAD(...) return kz_fail(err, KZ_CORRUPT, "views: " __VA_ARGS__)

/* V2, V3: each live user is found under its owner, and its key lies in the store. */
static enum kz_code check_user(const struct kz_views *views, uint32_t user, struct kz_err *err)
{
    const struct kz_user *u = kz_views_at(views, user);
    uint32_t units = kz_views_key_units(u->key_size ? u->key_size - 1u : 0);
    const char *key;

    if (kz_views_find_owner(views, u->owner) != user)
        BAD("user %u is not found under its owner", user);
    if (!u->key_size || !kz_views_run_exists(views, u->key_offset, units))
        BAD("the key of user %u lies outside the store", user);
    key = kz_views_run_at(views, u->key_offset);
    if (key[0] != 'u' && key[0] != 'a')
        BAD("the key of user %u has unknown kind %d", user, key[0]);
    return KZ_OK;
}

struct slot_counts {
    uint32_t all, pending, waiting, targets;
};

static enum kz_code check_times(
        const struct kz_views *views, uint32_t user, const struct kz_slot *slot, struct kz_err *err)
{
    if (!kz_views_times_valid(views, slot))
        BAD("times of user %u are no ring that can be", user);
    for (uint32_t i = 1; i < slot->ring.count; i++) {
        if (kz_views_times_at(views, slot, i) > kz_views_times_at(views, slot, i - 1))
            BAD("times of user %u are not in order", user);
    }
    for (const struct kz_slot *other = slot;
            (other = kz_views_slot_next(views, other, KZ_SLOT_TIMES, slot->name));)
        BAD("times of user %u are in two slots", user);
    return KZ_OK;
}

/* V4: every slot is in one list; the times of a name are in one slot and in order. */
static enum kz_code check_slots(const struct kz_views *views, uint32_t user, uint8_t *seen,
        struct slot_counts *counts, struct kz_err *err)
{
    uint32_t source_count = 0, target_count = 0;

    for (uint32_t at = kz_views_at(views, user)->slots; at;) {
        const struct kz_slot *slot;

        if (at >= views->slots.end || seen[at])
            BAD("slot %u of user %u does not exist or is in two lists", at, user);
        seen[at] = 1;
        slot = kz_views_slot_at(views, at);
        if (slot->kind == KZ_SLOT_FREE || slot->kind >= KZ_SLOT_KIND_END)
            BAD("slot %u of user %u has kind %u", at, user, slot->kind);
        counts->all++;
        counts->pending += slot->kind == KZ_SLOT_REQUEST;
        counts->waiting += slot->kind == KZ_SLOT_DELIVERY;
        source_count += slot->kind == KZ_SLOT_SOURCE;
        target_count += slot->kind == KZ_SLOT_TARGET;
        at = slot->next;
        if (slot->kind == KZ_SLOT_TIMES)
            KZ_TRY(check_times(views, user, slot, err));
    }
    if (source_count > KZ_SOURCES_MAX - 1)
        BAD("user %u has %u linked chains", user, source_count);
    if ((target_count > 0) != ((kz_views_at(views, user)->flags & KZ_USER_TARGETS) != 0))
        BAD("user %u has %u former targets, and says otherwise", user, target_count);
    if (target_count > KZ_TARGETS_MAX + 1)
        BAD("user %u has %u former targets", user, target_count);
    counts->targets += target_count;
    return KZ_OK;
}

static enum kz_code check_free_slots(const struct kz_views *views, uint8_t *seen,
        const struct slot_counts *counts, struct kz_err *err)
{
    uint32_t free_count = 0;

    for (uint32_t at = views->slot_free; at; at = kz_views_slot_at(views, at)->next) {
        if (at >= views->slots.end || seen[at])
            BAD("free slot %u does not exist or is in use", at);
        if (kz_views_slot_at(views, at)->kind != KZ_SLOT_FREE)
            BAD("free slot %u has a kind", at);
        seen[at] = 1;
        free_count++;
    }
    if (counts->all + free_count + 1 != views->slots.end)
        BAD("%u slots are neither used nor free", views->slots.end - 1 - counts->all - free_count);
    if (counts->all != views->slot_count || counts->pending != views->pending_count ||
            counts->waiting != views->waiting_count || counts->targets != views->target_count)
        BAD("slots are miscounted: %u used, %u pending, %u waiting", counts->all, counts->pending,
                counts->waiting);
    return KZ_OK;
}

/* V5: links are flat and in their target's list. V6: merges end. */
static enum kz_code check_link(
        const struct kz_views *views, uint32_t user, uint32_t *linked, struct kz_err *err)
{
    const struct kz_link_node *node = kz_views_link_of(views, user);
    bool is_linked = kz_views_at(views, user)->flags & KZ_USER_LINKED;
    uint32_t merged, hops = 0;

    if (is_linked != (node && node->to))
        BAD("user %u and its link disagree", user);
    if (!node)
        return KZ_OK;
    if (!node->to && !node->first && !node->merged)
        BAD("the link of user %u says nothing", user);
    if (node->to && node->first)
        BAD("user %u is linked and linked to: not flat", user);
    if (node->to && (!kz_views_is_live(views, node->to) || node->to == user))
        BAD("user %u is linked to %u, who is not there", user, node->to);
    if (!node->to && node->merged)
        BAD("user %u was merged but is not linked", user);
    *linked += is_linked;
    for (uint32_t at = node->first, prev = 0; at; hops++) {
        const struct kz_link_node *child = kz_pool_at(&views->links, at);

        if (child->to != user || child->prev != prev || hops > views->linked_count)
            BAD("the list of those linked to user %u is broken", user);
        prev = at;
        at = child->next;
    }
    merged = user;
    for (hops = 0; merged && hops <= 64; hops++) {
        node = kz_views_link_of(views, merged);
        merged = node && node->merged ? kz_views_find_owner(views, node->merged) : 0;
    }
    if (merged)
        BAD("user %u was merged in a circle", user);
    return KZ_OK;
}

static enum kz_code check_globals(const struct kz_views *views, struct kz_err *err)
{
    for (size_t i = 1; i < views->dead_letters.count; i++) {
        if (kz_views_dead_letter_at(views, i)->seq <= kz_views_dead_letter_at(views, i - 1)->seq)
            BAD("dead letters are not in order");
    }
    if (views->dead_letters.count > views->dead_letters.max)
        BAD("%zu dead letters are over the limit", views->dead_letters.count);
    for (size_t i = 0; i < kz_views_stats(views).tombstones; i++) {
        const struct kz_tombstone *tombstone = kz_views_tombstone_at(views, i);
        const struct kz_tombstone *newest = kz_views_tombstone(views, tombstone->id_hash);

        if (i && kz_views_tombstone_at(views, i - 1)->seq >= tombstone->seq)
            BAD("tombstones are not in order");
        if (!newest || newest->seq < tombstone->seq)
            BAD("tombstone %zu is not found", i);
    }
    return KZ_OK;
}

static enum kz_code check_all(const struct kz_views *views, uint8_t *seen, struct kz_err *err)
{
    struct slot_counts counts = {0};
    uint32_t user_count = 0, linked = 0, gone = 0;

    for (uint32_t user = kz_views_next_user(views, 0); user;
            user = kz_views_next_user(views, user)) {
        user_count++;
        KZ_TRY(check_user(views, user, err));
        KZ_TRY(check_slots(views, user, seen, &counts, err));
        KZ_TRY(check_link(views, user, &linked, err));
    }
    KZ_TRY(check_free_slots(views, seen, &counts, err));
    for (uint32_t at = views->gone_first; at && gone <= views->gone_count; gone++)
        at = (uint32_t)kz_views_at(views, at)->session;
    if (user_count != views->user_count || user_count != views->by_owner.count ||
            linked != views->linked_count || gone != views->gone_count ||
            user_count + gone + 1 != views->users.end)
        BAD("users are miscounted: %u live, %u linked, %u gone", user_count, linked, gone);
    return check_globals(views, err);
}

enum kz_code kz_views_check(const struct kz_views *views, struct kz_err *err)
{
    uint8_t *seen = kz_calloc(views->slots.end, 1);
    enum kz_code code = check_all(views, seen, err);

    free(seen);
    return code;
}

/* ---- hash ------------------------------------------------------------------------------------ */

bool kz_views_is_nobody(const struct kz_views *views, uint32_t user)
{
    const struct kz_user *u = kz_views_at(views, user);

    return !u->event_count && !u->events_head && !u->notes_head && !u->slots && !u->flags &&
           !kz_views_link_of(views, user);
}

/* Of a slot's meaning: not of its place in the list, nor of how times are kept. */
static uint64_t hash_slot(const struct kz_views *views, const struct kz_slot *slot)
{
    struct kz_slot copy = *slot;
    uint64_t hash;

    copy.next = 0;
    if (slot->kind != KZ_SLOT_TIMES)
        return kz_hash(&copy, sizeof(copy));
    hash = kz_hash_mix(slot->name, slot->kind);
    for (uint32_t i = 0; i < slot->ring.count; i++)
        hash = kz_hash_mix(hash, (uint64_t)kz_views_times_at(views, slot, i));
    return hash;
}

static uint64_t hash_user(const struct kz_views *views, uint32_t user)
{
    struct kz_user u = *kz_views_at(views, user);
    struct kz_user_key key = kz_views_key(views, user);
    const struct kz_link_node *node = kz_views_link_of(views, user);
    uint64_t hash = kz_hash_mix(kz_hash_str(key.id), (uint64_t)key.kind);
    uint64_t slots = 0;

    for (uint32_t at = u.slots; at;) { /* a sum: the order in the list means nothing */
        const struct kz_slot *slot = kz_views_slot_at(views, at);

        at = slot->next;
        slots += hash_slot(views, slot);
    }
    u.slots = u.key_offset = 0;
    hash = kz_hash_mix(hash, kz_hash(&u, sizeof(u)));
    hash = kz_hash_mix(hash, slots);
    if (node) {
        hash = kz_hash_mix(hash, node->to ? kz_views_at(views, node->to)->owner : 0);
        hash = kz_hash_mix(hash, node->merged);
    }
    return hash;
}

uint64_t kz_views_hash(const struct kz_views *views)
{
    struct kz_buf globals = {0};
    uint64_t users = 0, hash;

    for (uint32_t user = kz_views_next_user(views, 0); user;
            user = kz_views_next_user(views, user)) {
        if (!kz_views_is_nobody(views, user))
            users += hash_user(views, user);
    }
    kz_views_globals_encode(views, &globals);
    hash = kz_hash_str(kz_buf_view(&globals));
    kz_buf_done(&globals);
    hash = kz_hash_mix(hash, users);
    return kz_hash_mix(kz_hash_mix(hash, views->seq), views->lsn);
}
