#include "base/hash.h"
#include "history/views_int.h"

/* ---- nodes ----------------------------------------------------------------------------------- */

static struct kz_link_node *node_at(const struct kz_views *views, uint32_t node)
{
    return kz_pool_at(&views->links, node);
}

static bool is_of_user(const void *arg, uint32_t node, uint64_t user)
{
    return node_at(arg, node)->user == user;
}

static uint64_t user_hash(uint32_t user)
{
    return kz_hash_mix(0x6b7a6c696e6b73ull, user);
}

static uint32_t node_of(const struct kz_views *views, uint32_t user)
{
    return kz_table_find(&views->link_by_user, user_hash(user), is_of_user, views, user);
}

struct kz_link_node *kz_views_link_of(const struct kz_views *views, uint32_t user)
{
    uint32_t node = node_of(views, user);

    return node ? node_at(views, node) : NULL;
}

static uint32_t node_get(struct kz_views *views, uint32_t user)
{
    uint32_t node = node_of(views, user);

    if (node)
        return node;
    node = views->link_free;
    if (node)
        views->link_free = node_at(views, node)->next;
    else
        node = kz_pool_take(&views->links, 1, NULL);
    *node_at(views, node) = (struct kz_link_node){.user = user};
    kz_table_insert(&views->link_by_user, user_hash(user), node);
    return node;
}

void kz_views_link_insert(struct kz_views *views, uint32_t node)
{
    kz_table_insert(&views->link_by_user, user_hash(node_at(views, node)->user), node);
}

/* A node lives while it says something. */
static void node_trim(struct kz_views *views, uint32_t node)
{
    struct kz_link_node *n = node_at(views, node);

    if (n->to || n->first || n->merged)
        return;
    kz_table_remove(&views->link_by_user, user_hash(n->user), node);
    *n = (struct kz_link_node){.next = views->link_free};
    views->link_free = node;
}

static void detach(struct kz_views *views, uint32_t node)
{
    struct kz_link_node *n = node_at(views, node);
    uint32_t parent;

    if (!n->to)
        return;
    parent = node_of(views, n->to);
    if (n->prev)
        node_at(views, n->prev)->next = n->next;
    else
        node_at(views, parent)->first = n->next;
    if (n->next)
        node_at(views, n->next)->prev = n->prev;
    n->to = n->next = n->prev = 0;
    kz_views_at(views, n->user)->flags &= (uint8_t)~KZ_USER_LINKED;
    views->linked_count--;
    node_trim(views, parent);
}

static void attach(struct kz_views *views, uint32_t node, uint32_t parent)
{
    struct kz_link_node *n = node_at(views, node);
    struct kz_link_node *p = node_at(views, parent);

    n->to = p->user;
    n->next = p->first;
    n->prev = 0;
    if (p->first)
        node_at(views, p->first)->prev = node;
    p->first = node;
    kz_views_at(views, n->user)->flags |= KZ_USER_LINKED;
    views->linked_count++;
}

/* The user's events are `owner`'s no longer, but those that were stay there. */
static void remember_target(struct kz_views *views, uint32_t user, uint64_t owner)
{
    const struct kz_slot *slot = kz_views_slot(views, user, KZ_SLOT_TARGET, 0);
    unsigned count = 0;

    for (; slot; slot = kz_views_slot_next(views, slot, KZ_SLOT_TARGET, 0), count++) {
        if (slot->target.owner == owner || !slot->target.owner)
            return;
    }
    if (count == KZ_TARGETS_MAX) {
        views->odd.targets_full++;
        owner = 0;
    }
    kz_views_slot_add(views, user, KZ_SLOT_TARGET, 0)->target.owner = owner;
}

enum kz_code kz_views_link_set(
        struct kz_views *views, uint32_t from, uint32_t to, struct kz_err *err)
{
    uint32_t target = kz_views_target(views, to);
    uint32_t node, parent, before;

    if (target == from)
        return kz_fail(err, KZ_CORRUPT, "owner %016llx is linked in a circle",
                (unsigned long long)kz_views_at(views, from)->owner);
    node = node_get(views, from);
    parent = node_get(views, target);
    before = node_at(views, node)->to;
    if (before && before != target)
        remember_target(views, from, kz_views_at(views, before)->owner);
    detach(views, node);
    parent = node_get(views, target);     /* detaching may have trimmed it */
    while (node_at(views, node)->first) { /* one hop, always (V5) */
        uint32_t child = node_at(views, node)->first;

        /* `from` keeps its node: it is about to say something. */
        node_at(views, node)->first = node_at(views, child)->next;
        if (node_at(views, child)->next)
            node_at(views, node_at(views, child)->next)->prev = 0;
        views->linked_count--;
        attach(views, child, parent);
        remember_target(views, node_at(views, child)->user, kz_views_at(views, from)->owner);
    }
    attach(views, node, parent);
    return KZ_OK;
}

void kz_views_link_set_merged(struct kz_views *views, uint32_t from, uint64_t owner)
{
    uint32_t node = node_get(views, from);

    node_at(views, node)->merged = owner;
    node_trim(views, node);
}

void kz_views_link_clear(struct kz_views *views, uint32_t user,
        bool (*going)(const void *arg, uint64_t owner), const void *arg)
{
    uint32_t node = node_of(views, user);

    if (!node)
        return;
    node_at(views, node)->merged = user; /* holds the node while its list empties */
    detach(views, node);
    while (node_at(views, node)->first) {
        uint32_t child = node_at(views, node)->first;
        uint64_t merged = node_at(views, child)->merged;
        uint32_t back = 0;

        detach(views, child);
        if (merged && !going(arg, merged))
            back = kz_views_state_user(views, merged);
        if (back)
            back = kz_views_target(views, back);
        if (back && back != user && back != node_at(views, child)->user) {
            attach(views, child, node_get(views, back));
        } else {
            node_at(views, child)->merged = 0;
            node_trim(views, child);
        }
    }
    node_at(views, node)->merged = 0;
    node_trim(views, node);
}

/* ---- who is who ------------------------------------------------------------------------------ */

uint32_t kz_views_target(const struct kz_views *views, uint32_t user)
{
    if (!(kz_views_at(views, user)->flags & KZ_USER_LINKED))
        return user;
    return kz_views_link_of(views, user)->to;
}

struct kz_views_place kz_views_place_of_target(
        const struct kz_views *views, struct kz_views_place own)
{
    if (own.index) {
        own.index = kz_views_target(views, own.index);
        own.owner = kz_views_at(views, own.index)->owner;
    }
    return own;
}

struct kz_views_place kz_views_resolve(const struct kz_views *views, struct kz_user_key as_sent)
{
    return kz_views_place_of_target(views, kz_views_lookup(views, as_sent));
}

uint32_t kz_views_merged_into(const struct kz_views *views, uint32_t user)
{
    const struct kz_link_node *node = kz_views_link_of(views, user);

    return node && node->merged ? kz_views_find_owner(views, node->merged) : 0;
}

uint32_t kz_views_state_user(const struct kz_views *views, uint64_t owner)
{
    uint32_t user = kz_views_find_owner(views, owner);

    /* A user merges only once and only into one who has not merged yet, so this ends (V6); the
     * bound is for a log that lies. */
    for (unsigned hops = 0; user && hops < 64; hops++) {
        const struct kz_link_node *node = kz_views_at(views, user)->flags & KZ_USER_LINKED
                                                  ? kz_views_link_of(views, user)
                                                  : NULL;
        uint32_t into = node ? kz_views_find_owner(views, node->merged) : 0;

        if (!into)
            break;
        user = into;
    }
    return user;
}

/* ---- plans ----------------------------------------------------------------------------------- */

size_t kz_views_source_count(const struct kz_views *views, uint32_t user)
{
    const struct kz_slot *slot = kz_views_slot(views, user, KZ_SLOT_SOURCE, 0);
    size_t count = 0;

    for (; slot; slot = kz_views_slot_next(views, slot, KZ_SLOT_SOURCE, 0))
        count++;
    return count;
}

size_t kz_views_chain_count(const struct kz_views *views, uint32_t from)
{
    const struct kz_user *user = kz_views_at(views, from);

    return kz_views_source_count(views, from) + (user->events_head || user->notes_head ? 1 : 0);
}

static bool key_eq(struct kz_user_key a, struct kz_user_key b)
{
    return a.kind == b.kind && kz_str_eq(a.id, b.id);
}

struct kz_link_plan kz_views_link_plan(const struct kz_views *views, struct kz_user_key from,
        struct kz_user_key to, enum kz_identity_op op)
{
    struct kz_link_plan plan = {
            .outcome = KZ_LINK_NOTHING,
            .from = kz_views_lookup(views, from),
            .to = kz_views_resolve(views, to),
            .from_key = from,
            .to_key = to,
    };
    uint32_t target;

    if (plan.to.index)
        plan.to_key = kz_views_key(views, plan.to.index);
    if (op == KZ_IDENTITY_NONE || !from.id.size || !to.id.size || key_eq(from, to) ||
            (op == KZ_IDENTITY_IDENTIFY && from.kind != 'a'))
        return plan;
    for (unsigned attempt = 1; !plan.to.index && plan.to.owner == plan.from.owner; attempt++)
        plan.to.owner = views->owner_hash(to, attempt); /* two new ids that collide */
    target = plan.from.index ? kz_views_target(views, plan.from.index) : 0;
    if (plan.to.index && plan.to.index == plan.from.index) {
        plan.outcome = KZ_LINK_REFUSED;
        return plan;
    }
    if (plan.to.index && target == plan.to.index)
        return plan;
    plan.outcome = KZ_LINK_DO;
    plan.kind = KZ_LINK_MERGE;
    if (target && target != plan.from.index) {
        plan.kind = KZ_LINK_REDIRECT;
    } else if (plan.from.index && kz_views_source_count(views, plan.to.index) +
                                                  kz_views_chain_count(views, plan.from.index) >
                                          KZ_SOURCES_MAX - 1) {
        plan.kind = KZ_LINK_REDIRECT;
        plan.sources_full = true;
    }
    return plan;
}

void kz_link_plan_encode(const struct kz_link_plan *plan, struct kz_buf *out)
{
    struct kz_link_body body = {
            .from_owner = plan->from.owner,
            .kind = (uint8_t)plan->kind,
            .from_kind = plan->from_key.kind,
            .to_kind = plan->to_key.kind,
    };
    struct kz_body_writer w = kz_body_begin(out, &body, sizeof(body));

    kz_body_span(&w, offsetof(struct kz_link_body, from_id), plan->from_key.id);
    kz_body_span(&w, offsetof(struct kz_link_body, to_id), plan->to_key.id);
}

/* ---- histories ------------------------------------------------------------------------------- */

size_t kz_views_sources(const struct kz_views *views, uint32_t user, enum kz_chain chain,
        kz_lsn as_of, struct kz_source out[KZ_SOURCES_MAX])
{
    const struct kz_user *u = kz_views_user(views, user);
    const struct kz_slot *slot = kz_views_slot(views, user, KZ_SLOT_SOURCE, 0);
    size_t count = 0;

    out[count++] = (struct kz_source){
            u->owner, chain == KZ_CHAIN_EVENTS ? u->events_head : u->notes_head};
    for (; slot && count < KZ_SOURCES_MAX;
            slot = kz_views_slot_next(views, slot, KZ_SLOT_SOURCE, 0)) {
        kz_lsn head = chain == KZ_CHAIN_EVENTS ? slot->source.events_head : slot->source.notes_head;

        if (slot->source.link <= as_of && head)
            out[count++] = (struct kz_source){slot->source.owner, head};
    }
    return count;
}

static void add_owner(struct kz_buf *out, size_t start, uint64_t owner)
{
    for (size_t at = start; at < out->size; at += sizeof(owner)) {
        if (kz_load_u64(out->data + at) == owner)
            return;
    }
    kz_buf_u64(out, owner);
}

void kz_views_linked_owners(const struct kz_views *views, uint32_t user, struct kz_buf *out)
{
    const struct kz_link_node *node = kz_views_link_of(views, user);

    for (uint32_t child = node ? node->first : 0; child; child = node_at(views, child)->next)
        add_owner(out, 0, kz_views_at(views, node_at(views, child)->user)->owner);
}

void kz_views_erase_owners(const struct kz_views *views, uint32_t user, struct kz_buf *out)
{
    const struct kz_slot *slot = kz_views_slot(views, user, KZ_SLOT_SOURCE, 0);
    const struct kz_link_node *node = kz_views_link_of(views, user);
    size_t start = out->size;

    add_owner(out, start, kz_views_user(views, user)->owner);
    for (; slot; slot = kz_views_slot_next(views, slot, KZ_SLOT_SOURCE, 0))
        add_owner(out, start, slot->source.owner);
    /* Ids that were linked before they had a history are no sources, but theirs all the same. */
    for (uint32_t child = node ? node->first : 0; child; child = node_at(views, child)->next) {
        uint64_t owner = kz_views_at(views, node_at(views, child)->user)->owner;

        if (kz_views_state_user(views, owner) == user)
            add_owner(out, start, owner);
    }
}
