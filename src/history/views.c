#include "history/views_int.h"

#include <stdlib.h>

enum {
    VIEWS_MAGIC = 0x5645574b, /* "KWEV" */
    USERS_SHIFT = 12,
    SLOTS_SHIFT = 13,
    LINKS_SHIFT = 11,
    RUNS_SHIFT = 17,
    TOMBSTONES_SHIFT = 10,
    SMALL_SHIFT = 4,
    SMALL_RUNS_SHIFT = 13,
    DEAD_LETTERS_DEFAULT = 10000,
    ATTEMPTS_MAX = 64,
};
_Static_assert(KZ_RUN_UNITS_MAX <= 1 << SMALL_RUNS_SHIFT, "a key fits in a chunk");

static struct kz_views *new_views(uint32_t dead_letters_max, bool small)
{
    struct kz_views *views = kz_calloc(1, sizeof(*views));

    views->magic = VIEWS_MAGIC;
    kz_pool_init(&views->users, sizeof(struct kz_user), small ? SMALL_SHIFT : USERS_SHIFT);
    kz_pool_init(&views->slots, sizeof(struct kz_slot), small ? SMALL_SHIFT : SLOTS_SHIFT);
    kz_pool_init(&views->links, sizeof(struct kz_link_node), small ? SMALL_SHIFT : LINKS_SHIFT);
    kz_pool_init(&views->runs, KZ_RUN_UNIT, small ? SMALL_RUNS_SHIFT : RUNS_SHIFT);
    kz_pool_init(&views->tombstones, sizeof(struct kz_tombstone), TOMBSTONES_SHIFT);
    views->dead_letters.max = dead_letters_max;
    views->owner_hash = kz_owner_hash;
    return views;
}

struct kz_views *kz_views_new(uint32_t dead_letters_max)
{
    return new_views(dead_letters_max ? dead_letters_max : DEAD_LETTERS_DEFAULT, false);
}

struct kz_views *kz_views_new_small(void)
{
    return new_views(64, true);
}

void kz_views_free(struct kz_views *views)
{
    if (!views)
        return;
    KZ_CHECK_MAGIC(views, VIEWS_MAGIC);
    kz_pool_done(&views->users);
    kz_pool_done(&views->slots);
    kz_pool_done(&views->links);
    kz_pool_done(&views->runs);
    kz_pool_done(&views->tombstones);
    kz_table_done(&views->by_owner);
    kz_table_done(&views->link_by_user);
    kz_table_done(&views->tombstone_by_hash);
    kz_views_globals_done(views);
    views->magic = 0;
    free(views);
}

void kz_views_set_part(struct kz_views *views)
{
    views->part = true;
}

uint64_t kz_views_seq(const struct kz_views *views)
{
    return views->seq;
}

kz_lsn kz_views_lsn(const struct kz_views *views)
{
    return views->lsn;
}

int64_t kz_views_clock_ms(const struct kz_views *views)
{
    return views->clock_ms;
}

/* ---- finding --------------------------------------------------------------------------------- */

static bool has_owner(const void *arg, uint32_t user, uint64_t owner)
{
    return kz_views_at(arg, user)->owner == owner;
}

uint32_t kz_views_find_owner(const struct kz_views *views, uint64_t owner)
{
    return owner ? kz_table_find(&views->by_owner, owner, has_owner, views, owner) : 0;
}

void kz_views_prefetch(const struct kz_views *views, uint64_t owner)
{
    kz_table_prefetch(&views->by_owner, owner);
}

void kz_views_prefetch_user(const struct kz_views *views, uint64_t owner)
{
    uint32_t user = kz_table_guess(&views->by_owner, owner);
    const char *at;

    if (!user)
        return;
    at = (const char *)kz_views_at(views, user);
    __builtin_prefetch(at);
    __builtin_prefetch(at + sizeof(struct kz_user) - 1);
}

void kz_views_prefetch_key(const struct kz_views *views, uint64_t owner)
{
    uint32_t user = kz_table_guess(&views->by_owner, owner);
    const struct kz_user *u = user ? kz_views_at(views, user) : NULL;

    if (!u || u->owner != owner)
        return;
    __builtin_prefetch(kz_views_run_at(views, u->key_offset));
    if (u->slots)
        __builtin_prefetch(kz_views_slot_at(views, u->slots));
}

struct kz_user_key kz_views_key(const struct kz_views *views, uint32_t user)
{
    const struct kz_user *u = kz_views_user(views, user);
    const char *bytes = kz_views_run_at(views, u->key_offset);

    return (struct kz_user_key){bytes[0], kz_str_n(bytes + 1, u->key_size - 1u)};
}

static bool has_key(const struct kz_views *views, uint32_t user, struct kz_user_key key)
{
    struct kz_user_key there = kz_views_key(views, user);

    return there.kind == key.kind && kz_str_eq(there.id, key.id);
}

/* The owner hash of a user is that of the first attempt nobody else had when they came. After such
 * a one left, a key may be found behind a gap, so all attempts up to the first unused one would not
 * do: the few there can be are all tried. */
struct kz_views_place kz_views_lookup(const struct kz_views *views, struct kz_user_key key)
{
    uint64_t unused = 0;

    for (unsigned attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
        uint64_t owner = views->owner_hash(key, attempt);
        uint32_t user = kz_views_find_owner(views, owner);

        if (user && has_key(views, user, key))
            return (struct kz_views_place){user, owner};
        if (!user && !unused)
            unused = owner;
        /* Two collisions in 64 bits for one key do not happen: a second look settles the gap. */
        if (unused && attempt >= 1)
            break;
    }
    KZ_BUG_ON(!unused);
    return (struct kz_views_place){0, unused};
}

uint32_t kz_views_find(const struct kz_views *views, struct kz_user_key key)
{
    return kz_views_lookup(views, key).index;
}

const struct kz_user *kz_views_user(const struct kz_views *views, uint32_t user)
{
    KZ_BUG_ON(!kz_views_is_live(views, user));
    return kz_views_at(views, user);
}

uint32_t kz_views_next_user(const struct kz_views *views, uint32_t after)
{
    for (uint32_t user = after + 1; user < views->users.end; user++) {
        if (kz_views_at(views, user)->owner)
            return user;
    }
    return 0;
}

/* ---- runs ------------------------------------------------------------------------------------ */

void kz_views_run_free(struct kz_views *views, uint32_t run, uint32_t units)
{
    char *bytes = kz_views_run_at(views, run);

    memset(bytes, 0, (size_t)units * KZ_RUN_UNIT); /* an erased id must not stay in memory */
    if (units >= KZ_RUN_CLASSES)
        return;
    kz_store_u32(bytes, views->run_free[units]);
    views->run_free[units] = run;
}

uint32_t kz_views_run_take(struct kz_views *views, uint32_t units)
{
    uint32_t run = units < KZ_RUN_CLASSES ? views->run_free[units] : 0;
    uint32_t skipped = 0;

    if (run) {
        uint32_t next = kz_load_u32(kz_views_run_at(views, run));

        /* A list that was loaded may lead anywhere. */
        views->run_free[units] = kz_views_run_exists(views, next, units) ? next : 0;
        memset(kz_views_run_at(views, run), 0, KZ_RUN_UNIT);
        return run;
    }
    run = kz_pool_take(&views->runs, units, &skipped);
    if (skipped)
        kz_views_run_free(views, run - skipped, skipped);
    return run;
}

bool kz_views_run_exists(const struct kz_views *views, uint32_t run, uint32_t units)
{
    return run && units && (uint64_t)run + units <= views->runs.end &&
           run >> views->runs.shift == (run + units - 1) >> views->runs.shift;
}

/* ---- keys ------------------------------------------------------------------------------------ */

uint32_t kz_views_key_units(size_t id_size)
{
    return (uint32_t)((1 + id_size + KZ_RUN_UNIT - 1) / KZ_RUN_UNIT);
}

static uint32_t key_put(struct kz_views *views, struct kz_user_key key)
{
    uint32_t at = kz_views_run_take(views, kz_views_key_units(key.id.size));
    char *bytes = kz_views_run_at(views, at);

    bytes[0] = key.kind;
    if (key.id.size)
        memcpy(bytes + 1, key.id.ptr, key.id.size);
    return at;
}

/* ---- coming and going ------------------------------------------------------------------------ */

static uint32_t take_index(struct kz_views *views)
{
    uint32_t user = views->gone_first;

    if (views->gone_count <= KZ_VIEWS_INDEX_REST)
        return kz_pool_take(&views->users, 1, NULL);
    views->gone_first = (uint32_t)kz_views_at(views, user)->session;
    views->gone_count--;
    return user;
}

static uint32_t add_user(struct kz_views *views, uint64_t owner, struct kz_user_key key)
{
    uint32_t user = take_index(views);

    *kz_views_at(views, user) = (struct kz_user){
            .owner = owner,
            .key_offset = key_put(views, key),
            .key_size = (uint16_t)(1 + key.id.size),
    };
    kz_table_insert(&views->by_owner, owner, user);
    views->user_count++;
    return user;
}

uint32_t kz_views_ensure(struct kz_views *views, struct kz_user_key key)
{
    struct kz_views_place place = kz_views_lookup(views, key);

    KZ_BUG_ON(key.id.size >= UINT16_MAX);
    return place.index ? place.index : add_user(views, place.owner, key);
}

enum kz_code kz_views_ensure_owner(struct kz_views *views, uint64_t owner, struct kz_user_key key,
        uint32_t *ret_user, struct kz_err *err)
{
    uint32_t user = kz_views_find_owner(views, owner);

    if (!owner || key.id.size >= UINT16_MAX || (key.kind != 'u' && key.kind != 'a'))
        return kz_fail(err, KZ_CORRUPT, "user key of kind %d and %zu bytes cannot be", key.kind,
                key.id.size);
    if (user && !has_key(views, user, key))
        return kz_fail(
                err, KZ_CORRUPT, "owner %016llx is said of two users", (unsigned long long)owner);
    *ret_user = user ? user : add_user(views, owner, key);
    return KZ_OK;
}

void kz_views_put_gone(struct kz_views *views, uint32_t user)
{
    *kz_views_at(views, user) = (struct kz_user){.flags = KZ_USER_ERASED};
    if (views->gone_count)
        kz_views_at(views, views->gone_last)->session = user;
    else
        views->gone_first = user;
    views->gone_last = user;
    views->gone_count++;
}

void kz_views_remove_user(struct kz_views *views, uint32_t user)
{
    struct kz_user *u = kz_views_at(views, user);

    KZ_BUG_ON(u->slots || kz_views_link_of(views, user));
    kz_table_remove(&views->by_owner, u->owner, user);
    kz_views_run_free(views, u->key_offset, kz_views_key_units(u->key_size - 1u));
    views->user_count--;
    kz_views_put_gone(views, user);
}

struct kz_views_stats kz_views_stats(const struct kz_views *views)
{
    struct kz_views_stats stats = views->odd;

    stats.users = views->user_count;
    stats.linked = views->linked_count;
    stats.slots = views->slot_count;
    stats.pending_requests = views->pending_count;
    stats.waiting_deliveries = views->waiting_count;
    stats.dead_letters = views->dead_letters.count;
    stats.tombstones = views->tombstones.end - 1;
    stats.bytes = sizeof(*views) + kz_pool_bytes(&views->users) + kz_pool_bytes(&views->slots) +
                  kz_pool_bytes(&views->links) + kz_pool_bytes(&views->runs) +
                  kz_pool_bytes(&views->tombstones) + kz_table_bytes(&views->by_owner) +
                  kz_table_bytes(&views->link_by_user) + kz_table_bytes(&views->tombstone_by_hash) +
                  views->dead_letters.capacity * sizeof(struct kz_dead_letter);
    for (size_t i = 0; i < views->caps.count; i++)
        stats.bytes += views->caps.items[i].capacity * sizeof(int64_t);
    return stats;
}
