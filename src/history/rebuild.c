/* history/rebuild.c -- the tables and counts that a checkpoint leaves out, made from its chunks. */
#include "history/views_int.h"

static bool rebuild_users(struct kz_views *views)
{
    kz_table_reserve(&views->by_owner, views->users.end);
    for (uint32_t user = 1; user < views->users.end; user++) {
        const struct kz_user *u = kz_views_at(views, user);

        if (!u->owner) {
            if (u->session >= views->users.end)
                return false;
            continue;
        }
        if (u->slots >= views->slots.end || !u->key_size ||
                !kz_views_run_exists(views, u->key_offset, kz_views_key_units(u->key_size - 1u)))
            return false;
        kz_table_insert(&views->by_owner, u->owner, user);
        views->user_count++;
        views->linked_count += (u->flags & KZ_USER_LINKED) != 0;
    }
    return true;
}

static bool rebuild_slots(struct kz_views *views)
{
    for (uint32_t at = 1; at < views->slots.end; at++) {
        const struct kz_slot *slot = kz_views_slot_at(views, at);

        if (slot->next >= views->slots.end || slot->kind >= KZ_SLOT_KIND_END)
            return false;
        if (slot->kind == KZ_SLOT_TIMES && !kz_views_times_valid(views, slot))
            return false;
        views->slot_count += slot->kind != KZ_SLOT_FREE;
        views->pending_count += slot->kind == KZ_SLOT_REQUEST;
        views->waiting_count += slot->kind == KZ_SLOT_DELIVERY;
        views->target_count += slot->kind == KZ_SLOT_TARGET;
    }
    return true;
}

static bool rebuild_links(struct kz_views *views)
{
    uint32_t linked = 0;

    kz_table_reserve(&views->link_by_user, views->links.end);
    for (uint32_t at = 1; at < views->links.end; at++) {
        const struct kz_link_node *node = kz_pool_at(&views->links, at);

        if (node->next >= views->links.end || node->prev >= views->links.end ||
                node->first >= views->links.end)
            return false;
        if (!node->user)
            continue;
        if (!kz_views_is_live(views, node->user) ||
                (node->to && !kz_views_is_live(views, node->to)))
            return false;
        linked += node->to != 0;
        kz_views_link_insert(views, at);
    }
    return linked == views->linked_count;
}

static bool rebuild_runs(const struct kz_views *views)
{
    for (unsigned units = 0; units < KZ_RUN_CLASSES; units++) {
        uint32_t run = views->run_free[units];

        if (run && !kz_views_run_exists(views, run, units))
            return false;
    }
    return true;
}

bool kz_views_rebuild(struct kz_views *views)
{
    if (views->gone_first >= views->users.end || views->gone_last >= views->users.end ||
            views->slot_free >= views->slots.end || views->link_free >= views->links.end)
        return false;
    return rebuild_users(views) && rebuild_slots(views) && rebuild_links(views) &&
           rebuild_runs(views);
}
