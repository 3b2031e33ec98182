/* app/roles/process_users.c -- the users that a transaction is about: read, put into views, and whom
 * they lead to with them. */

#include <stdlib.h>

#include "app/roles/process_int.h"
#include "app/roles/userstate.h"

enum {
    LINKED_MAX = 4096
}; /* ids a user's state names; those past that stay where they were linked to */

/* ---- the set of them ------------------------------------------------------------------------ */

static size_t slot_of(const struct users *users, uint64_t owner)
{
    size_t at = (size_t)(owner * 0x9e3779b97f4a7c15ull >> 20) & (users->slot_count - 1);

    while (users->slots[at] && users->items[users->slots[at] - 1].owner != owner)
        at = (at + 1) & (users->slot_count - 1);
    return at;
}

static void grow(struct users *users)
{
    size_t before = users->capacity;

    users->capacity = before ? before * 2 : 256;
    users->items = kz_realloc(users->items, users->capacity * sizeof(*users->items));
    memset(users->items + before, 0, (users->capacity - before) * sizeof(*users->items));
    users->wanted = kz_realloc(users->wanted, users->capacity * sizeof(*users->wanted));
    users->slot_count = users->capacity * 2;
    free(users->slots);
    users->slots = kz_calloc(users->slot_count, sizeof(*users->slots));
    for (size_t i = 0; i < users->count; i++)
        users->slots[slot_of(users, users->items[i].owner)] = (uint32_t)(i + 1);
}

struct loaded *kz_users_find(const struct users *users, uint64_t owner)
{
    uint32_t index = users->slot_count ? users->slots[slot_of(users, owner)] : 0;

    return index ? &users->items[index - 1] : NULL;
}

struct loaded *kz_users_add(struct users *users, uint64_t owner)
{
    struct loaded *there = kz_users_find(users, owner);
    struct kz_buf linked;

    if (there)
        return there;
    if (users->count == users->capacity)
        grow(users);
    there = &users->items[users->count++];
    linked = there->linked; /* its memory is used again */
    kz_buf_clear(&linked);
    *there = (struct loaded){.owner = owner, .linked = linked};
    users->slots[slot_of(users, owner)] = (uint32_t)users->count;
    return there;
}

void kz_users_reset(struct users *users)
{
    users->count = 0;
    if (users->slot_count)
        memset(users->slots, 0, users->slot_count * sizeof(*users->slots));
}

void kz_users_done(struct users *users)
{
    for (size_t i = 0; i < users->capacity; i++)
        kz_buf_done(&users->items[i].linked);
    free(users->items);
    free(users->slots);
    free(users->wanted);
    free(users->stone_hashes);
    free(users->stone_bodies);
    kz_buf_done(&users->stones);
    *users = (struct users){0};
}

void kz_users_want_key(struct users *users, struct kz_user_key key, bool to_link)
{
    struct loaded *loaded;

    if (!key.id.size)
        return;
    loaded = kz_users_add(users, kz_owner_hash(key, 0));
    loaded->to_link |= to_link;
    if (!loaded->want.id.size)
        loaded->want = key;
}

/* ---- reading -------------------------------------------------------------------------------- */

static bool same_key(struct kz_user_key a, struct kz_user_key b)
{
    return a.kind == b.kind && kz_str_eq(a.id, b.id);
}

/* What was read of one, and who has to be read because of it. */
static enum kz_code take(struct users *users, size_t index, struct kz_str bytes, struct kz_err *err)
{
    struct loaded *loaded = &users->items[index];
    struct kz_user_key want = loaded->want;
    bool to_link = loaded->to_link;
    struct kz_user_state state;

    loaded->bytes = bytes;
    if (!bytes.size)
        return KZ_OK;
    KZ_TRY(kz_user_state_decode(bytes, &state, err));
    if (state.owner != loaded->owner)
        return kz_fail(err, KZ_CORRUPT, "the state of owner %016llx is kept under %016llx",
                (unsigned long long)state.owner, (unsigned long long)loaded->owner);
    loaded->key = state.key;
    loaded->request = state.request;
    loaded->erased_at_ms = state.erased_at_ms;
    kz_buf_str(&loaded->linked, state.linked);
    loaded->to_owner = state.to_owner;
    loaded->merged = state.merged;
    if (state.to_owner)
        (void)kz_users_add(users, state.to_owner); /* its place is looked up when it is needed */
    if (state.merged)
        (void)kz_users_add(users, state.merged); /* the same */
    for (size_t at = 0; to_link && at < state.linked.size; at += sizeof(uint64_t))
        (void)kz_users_add(users, kz_load_u64(state.linked.ptr + at)); /* the same */
    /* Somebody else's id has this hash. */
    if (want.id.size && !same_key(want, state.key)) {
        struct loaded *next = kz_users_add(users, kz_owner_hash(want, 1));

        if (!next->want.id.size)
            next->want = want;
    }
    return KZ_OK;
}

/* Once the user they were linked to was erased, they are themselves again. */
static enum kz_code restore_unlinked(
        struct kz_views *views, struct kz_user_state *state, struct kz_err *err)
{
    struct kz_carry_body body;
    struct kz_buf carry = {0};
    enum kz_code rc;

    kz_buf_str(&carry, state->carry);
    memcpy(&body, carry.data, sizeof(body));
    body.to_owner = body.merged = 0;
    body.to_kind = 0;
    body.to_id = (struct kz_span){0};
    memcpy(carry.data, &body, sizeof(body));
    state->carry = kz_buf_view(&carry);
    rc = kz_user_state_restore(views, state, err);
    kz_buf_done(&carry);
    return rc;
}

/* Whom they lead to first. */
static enum kz_code restore(struct users *users, struct loaded *loaded, struct kz_views *views,
        unsigned hops, struct kz_err *err)
{
    struct loaded *to = loaded->to_owner ? kz_users_find(users, loaded->to_owner) : NULL;
    struct kz_user_state state;

    if (loaded->restored || !loaded->bytes.size)
        return KZ_OK;
    if (hops == HOPS_MAX)
        return kz_fail(err, KZ_CORRUPT, "owner %016llx is linked in a circle",
                (unsigned long long)loaded->owner);
    if (to)
        KZ_TRY(restore(users, to, views, hops + 1, err));
    KZ_TRY(kz_user_state_decode(loaded->bytes, &state, err));
    if (to && !to->restored)
        KZ_TRY(restore_unlinked(views, &state, err));
    else
        KZ_TRY(kz_user_state_restore(views, &state, err));
    loaded->restored = true;
    return KZ_OK;
}

enum kz_code kz_users_load(struct users *users, struct kz_store *store, struct kz_store_txn *txn,
        struct kz_views *views, struct kz_err *err)
{
    for (size_t done = 0; done < users->count;) {
        size_t until = users->count;

        for (size_t i = done; i < until; i++)
            users->wanted[i - done] = (struct kz_store_user){.owner = users->items[i].owner};
        KZ_TRY(store->ops->read_users(txn, users->wanted, until - done, err));
        for (size_t i = done; i < until; i++) {
            struct kz_str bytes = users->wanted[i - done].state;

            KZ_TRY(take(users, i, bytes, err));
        }
        done = until;
    }
    for (size_t i = 0; i < users->count; i++)
        KZ_TRY(restore(users, &users->items[i], views, 0, err));
    return KZ_OK;
}

/* ---- tombstones ----------------------------------------------------------------------------- */

static enum kz_code put_stone(
        struct kz_views *views, uint64_t hash, int64_t at_ms, struct kz_err *err)
{
    struct {
        struct kz_record head;
        struct kz_erase_body body;
    } erase = {
            .head = {.size = sizeof(erase), .type = KZ_RECORD_ERASE, .seq = 1, .at_ms = at_ms},
            .body = {.id_hash = hash},
    };

    return kz_views_apply(views, 1, &erase.head, err);
}

static enum kz_code read_stones(
        struct users *users, struct kz_store *store, size_t count, struct kz_err *err)
{
    return store->ops->stones(
            store, users->stone_hashes, count, users->stone_bodies, &users->stones, err);
}

/* Of whom something is known it stands in their state. */
enum kz_code kz_users_stones(
        struct users *users, struct kz_pipeline *parts, struct kz_store *store, struct kz_err *err)
{
    struct kz_stone stone;
    size_t count = 0;

    users->stone_hashes = kz_realloc(
            users->stone_hashes, (users->count + 1) * sizeof(*users->stone_hashes));
    users->stone_bodies = kz_realloc(
            users->stone_bodies, (users->count + 1) * sizeof(*users->stone_bodies));
    for (size_t i = 0; i < users->count; i++) {
        struct loaded *loaded = &users->items[i];

        if (!loaded->bytes.size && loaded->want.id.size)
            users->stone_hashes[count++] = kz_pl_tombstone_hash(parts, loaded->want);
        else if (loaded->erased_at_ms)
            KZ_TRY(put_stone(parts->views, kz_pl_tombstone_hash(parts, loaded->key),
                    loaded->erased_at_ms, err));
    }
    if (!count)
        return KZ_OK;
    KZ_TRY(read_stones(users, store, count, err));
    count = 0;
    for (size_t i = 0; i < users->count; i++) {
        struct loaded *loaded = &users->items[i];
        size_t at = count;

        if (loaded->bytes.size || !loaded->want.id.size)
            continue;
        count++;
        if (!users->stone_bodies[at].size)
            continue;
        KZ_TRY(kz_stone_decode(users->stone_bodies[at], &stone, err));
        loaded->erased_at_ms = stone.at_ms;
        KZ_TRY(put_stone(parts->views, users->stone_hashes[at], stone.at_ms, err));
    }
    return KZ_OK;
}

/* ---- links made here ------------------------------------------------------------------------ */

static void add_linked(struct loaded *to, uint64_t owner)
{
    for (size_t at = 0; at < to->linked.size; at += sizeof(owner))
        if (kz_load_u64(to->linked.data + at) == owner)
            return;
    if (to->linked.size < LINKED_MAX * sizeof(owner))
        kz_buf_u64(&to->linked, owner);
}

void kz_users_linked(struct users *users, uint64_t from_owner, uint64_t to_owner)
{
    struct loaded *from = kz_users_find(users, from_owner), *to = kz_users_find(users, to_owner);

    if (!to || from == to)
        return;
    add_linked(to, from_owner);
    for (size_t at = 0; from && at < from->linked.size; at += sizeof(uint64_t))
        add_linked(to, kz_load_u64(from->linked.data + at));
}
