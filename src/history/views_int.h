/* history/views_int.h -- the views from the inside; for this folder only. See README.md for the
 * invariants (V1 ...) that the code cites.
 */
#pragma once

#include "history/pool.h"
#include "history/table.h"
#include "history/views.h"

enum {
    KZ_RUN_UNIT = 8, /* the store of runs is addressed in units of 8 bytes */
    KZ_RUN_UNITS_MAX = (1 + UINT16_MAX + KZ_RUN_UNIT - 1) / KZ_RUN_UNIT,
    KZ_RUN_CLASSES = KZ_VIEWS_TIMES_MAX + 1, /* free ones by size; larger ones are not reused */
};

/* Who is who. A user that is linked, or that others are linked to, has one.
 *
 *   from --to--> target      `first` of the target's node heads the list of those linked to it
 *                            (next, prev: numbers of nodes)
 */
struct kz_link_node {
    uint64_t merged; /* owner whose history and state this user's became; 0 never */
    uint32_t user;
    uint32_t to; /* where its events go; 0: not linked */
    uint32_t first;
    uint32_t next, prev;
    uint32_t zero;
};
_Static_assert(sizeof(struct kz_link_node) == 32, "in checkpoints");

struct kz_dead_letters { /* oldest first, at items[first ..] */
    struct kz_dead_letter *items;
    size_t first, count, capacity, max;
};

struct kz_control {
    char *family; /* one allocation: family, object, verb */
    struct kz_str object, verb;
    uint64_t seq;
};

struct kz_controls {
    struct kz_control *items; /* oldest word first */
    size_t count, capacity;
};

struct kz_cap_total { /* an action's deliveries, a ring in order of time */
    uint64_t action;
    int64_t *at_ms;
    uint32_t first, count, capacity;
};

struct kz_cap_totals {
    struct kz_cap_total *items;
    size_t count;
};

struct kz_views {
    uint32_t magic;
    bool part; /* kz_views_set_part() */
    uint64_t seq;
    kz_lsn lsn;
    int64_t clock_ms;

    struct kz_pool users; /* struct kz_user; owner 0: gone, `session` the next in the list */
    struct kz_table by_owner;
    uint32_t gone_first, gone_last, gone_count; /* first in, first out */
    uint32_t user_count;

    struct kz_pool runs;               /* of units: users' keys, and times that a slot can't hold */
    uint32_t run_free[KZ_RUN_CLASSES]; /* by units; a free run's first 4 bytes are the next */

    struct kz_pool slots; /* struct kz_slot; kind FREE: `next` is the next free */
    uint32_t slot_free;
    uint32_t slot_count;
    uint32_t pending_count, waiting_count, target_count;

    struct kz_pool links; /* struct kz_link_node; user 0: free, `next` the next free */
    struct kz_table link_by_user;
    uint32_t link_free;
    uint32_t linked_count;

    struct kz_pool tombstones; /* struct kz_tombstone */
    struct kz_table tombstone_by_hash;

    struct kz_dead_letters dead_letters;
    struct kz_controls controls;
    struct kz_cap_totals caps;

    struct kz_views_stats odd; /* only the oddities are counted here */
    /* kz_owner_hash; tests put one here that collides. */
    uint64_t (*owner_hash)(struct kz_user_key key, unsigned attempt);
};

/* views.c: users and keys */
static inline struct kz_user *kz_views_at(const struct kz_views *views, uint32_t user)
{
    return kz_pool_at(&views->users, user);
}
static inline bool kz_views_is_live(const struct kz_views *views, uint32_t user)
{
    return user && user < views->users.end && kz_views_at(views, user)->owner;
}
/* A user under this owner, new if need be; KZ_CORRUPT where another key has the owner. */
enum kz_code kz_views_ensure_owner(struct kz_views *views, uint64_t owner, struct kz_user_key key,
        uint32_t *ret_user, struct kz_err *err);
/* Takes the user out of everything; slots and links must be gone. */
void kz_views_remove_user(struct kz_views *views, uint32_t user);
void kz_views_put_gone(struct kz_views *views, uint32_t user);
uint32_t kz_views_key_units(size_t id_size);
/* `units` fresh units in a row, zeroed, and back again. They lie within one chunk (V3). */
uint32_t kz_views_run_take(struct kz_views *views, uint32_t units);
void kz_views_run_free(struct kz_views *views, uint32_t run, uint32_t units);
static inline void *kz_views_run_at(const struct kz_views *views, uint32_t run)
{
    return kz_pool_at(&views->runs, run);
}
/* Whether these units are within the store and one chunk of it. */
bool kz_views_run_exists(const struct kz_views *views, uint32_t run, uint32_t units);

/* slots.c */
static inline struct kz_slot *kz_views_slot_at(const struct kz_views *views, uint32_t slot)
{
    return kz_pool_at(&views->slots, slot);
}
struct kz_slot *kz_views_slot_find(
        const struct kz_views *views, uint32_t user, enum kz_slot_kind kind, uint64_t name);
/* A fresh slot, first in the user's list. */
struct kz_slot *kz_views_slot_add(
        struct kz_views *views, uint32_t user, enum kz_slot_kind kind, uint64_t name);
struct kz_slot *kz_views_slot_get(
        struct kz_views *views, uint32_t user, enum kz_slot_kind kind, uint64_t name);
void kz_views_slot_remove(struct kz_views *views, uint32_t user, struct kz_slot *slot);
void kz_views_slots_free(struct kz_views *views, uint32_t user);
/* Moves the slot to another user's list. */
void kz_views_slot_move(struct kz_views *views, uint32_t from, uint32_t to, struct kz_slot *slot);

/* times.c */
/* Adds a time (0 is none), forgets those before `horizon_ms`, keeps the newest KZ_VIEWS_TIMES_MAX. */
void kz_views_times_add(
        struct kz_views *views, uint32_t user, uint64_t name, int64_t at_ms, int64_t horizon_ms);
/* Adds what another user's slot has. */
void kz_views_times_merge(struct kz_views *views, uint32_t user, const struct kz_slot *from);
/* Adds what a slot has as bytes. */
void kz_views_times_decode(struct kz_views *views, uint32_t user, const struct kz_slot *from);
/* The `index`th newest of the slot's; index < slot->ring.count. */
int64_t kz_views_times_at(const struct kz_views *views, const struct kz_slot *slot, size_t index);
/* As bytes: those from the `index`th newest on. */
struct kz_times kz_views_times_encode(
        const struct kz_views *views, const struct kz_slot *slot, size_t index);
/* Gives back what the slot has outside of itself. */
void kz_views_times_free(struct kz_views *views, struct kz_slot *slot);
/* Whether the ring is one that can be: of a slot that was loaded. */
bool kz_views_times_valid(const struct kz_views *views, const struct kz_slot *slot);
/* The name of an action's KZ_SLOT_TIMES: other than a count rule's of the same name. */
static inline uint64_t kz_views_cap_name(uint64_t action)
{
    return action ^ 0x5bd1e995c0ffee11ull;
}

/* identity.c */
struct kz_link_node *kz_views_link_of(const struct kz_views *views, uint32_t user);
/* Events of `from` go to `to`'s target from now on. KZ_CORRUPT for a cycle. */
enum kz_code kz_views_link_set(
        struct kz_views *views, uint32_t from, uint32_t to, struct kz_err *err);
void kz_views_link_set_merged(struct kz_views *views, uint32_t from, uint64_t owner);
/* Undoes every link of the user; ids linked to it go back to whom they were merged into (unless
 * that user is `going`), or become themselves again. */
void kz_views_link_clear(struct kz_views *views, uint32_t user,
        bool (*going)(const void *arg, uint64_t owner), const void *arg);
size_t kz_views_source_count(const struct kz_views *views, uint32_t user);
/* How many chains `from` would bring along in a merge. */
size_t kz_views_chain_count(const struct kz_views *views, uint32_t from);

/* apply_user.c, apply_global.c: one function a type; the body was checked. */
enum kz_code kz_views_apply_link(
        struct kz_views *views, kz_lsn lsn, const struct kz_record *record, struct kz_err *err);
enum kz_code kz_views_apply_erase(
        struct kz_views *views, kz_lsn lsn, const struct kz_record *record, struct kz_err *err);
void kz_views_apply_dead_letter(struct kz_views *views, kz_lsn lsn, const struct kz_record *record);
void kz_views_apply_control(struct kz_views *views, const struct kz_record *record);
void kz_views_cap_total_add(struct kz_views *views, uint64_t action, int64_t at_ms);

/* globals.c: what belongs to nobody, as bytes */
void kz_views_globals_encode(const struct kz_views *views, struct kz_buf *out);
/* Replaces what is there. Nothing has changed on failure. */
enum kz_code kz_views_globals_decode(
        struct kz_views *views, struct kz_str bytes, struct kz_err *err);
void kz_views_globals_done(struct kz_views *views);
/* Of a seq above all others. */
void kz_views_tombstone_add(struct kz_views *views, const struct kz_tombstone *tombstone);
/* The erasure was carried out; nothing happens where it is not known. */
void kz_views_tombstone_done(struct kz_views *views, uint64_t seq, int64_t at_ms);
void kz_views_control_put(struct kz_views *views, struct kz_str family, struct kz_str object,
        struct kz_str verb, uint64_t seq);

/* carry.c */
enum kz_code kz_views_apply_carry(
        struct kz_views *views, kz_lsn lsn, const struct kz_record *record, struct kz_err *err);

/* rebuild.c: after the pools were loaded. False where a number points outside of its pool. */
bool kz_views_rebuild(struct kz_views *views);
/* identity.c: a loaded node becomes findable. */
void kz_views_link_insert(struct kz_views *views, uint32_t node);

/* check.c */
bool kz_views_is_nobody(const struct kz_views *views, uint32_t user);
