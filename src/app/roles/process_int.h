/* app/roles/process_int.h -- what the files of process share. */
#pragma once

#include "app/pipeline/pipeline_int.h"
#include "app/roles/process.h"
#include "base/arena.h"

enum { PROCESS_MAGIC = 0x6b7a7063, HOPS_MAX = 64 };

/* ---- process_journal.c: a transaction's records, and history with them on top --------------- */

struct users;

struct staged {
    kz_lsn lsn;
    struct kz_record *record; /* in the arena */
    struct kz_str message;    /* of a REQUEST: what is to be published */
};

struct staging {
    struct kz_journal journal;       /* what the pipeline's code writes to */
    struct kz_history_reader reader; /* what it reads from: the store, staged records on top */
    struct kz_pipeline *parts;
    struct users *users;
    struct kz_store *store;
    struct kz_arena arena;
    struct staged *records;
    size_t count, capacity;

    /* Of what is at hand. */
    int64_t now_ms;
    uint32_t user; /* whose records staged() may give; an index of the views */
    bool *seen;    /* whether the event's id is known; set when it is staged */

    /* A read of the store that failed: what was decided does not count. */
    enum kz_code read_code;
    struct kz_err read_err;
};

void kz_staging_init(struct staging *staging, struct kz_store *store, struct users *users);
void kz_staging_done(struct staging *staging);
void kz_staging_reset(struct staging *staging);
/* What the next record of an owner gets; `owner` need not be known yet. */
kz_lsn kz_staging_next(struct staging *staging, uint64_t owner);

/* ---- process_users.c: the users of a transaction -------------------------------------------- */

struct loaded {
    uint64_t owner;
    struct kz_str bytes; /* as read; the transaction's */
    bool restored, to_link;
    kz_lsn request; /* made last */
    int64_t erased_at_ms;
    struct kz_buf linked; /* owners; grows by links made here */
    uint64_t to_owner, merged;
    struct kz_user_key key;          /* of the state; empty: nobody */
    struct kz_user_key want;         /* who was looked for, borrowed; empty: just this owner */
    size_t timer_first, timer_count; /* in `before` of struct kz_process */
};

struct users {
    struct loaded *items;
    size_t count, capacity;
    uint32_t *slots; /* open addressing, by owner: index + 1 */
    size_t slot_count;
    struct kz_store_user *wanted; /* scratch of reads */
    uint64_t *stone_hashes;
    struct kz_str *stone_bodies;
    struct kz_buf stones;
};

void kz_users_done(struct users *users);
void kz_users_reset(struct users *users);
struct loaded *kz_users_find(const struct users *users, uint64_t owner);
struct loaded *kz_users_add(struct users *users, uint64_t owner);
/* Whose state events under this key are about: added, to be read. `to_link`: it may be linked to
 * somebody, and those linked to it with it. */
void kz_users_want_key(struct users *users, struct kz_user_key key, bool to_link);
/* Reads all that were added and those they are linked to, and puts them into `views`. */
KZ_MUST_USE enum kz_code kz_users_load(struct users *users, struct kz_store *store,
        struct kz_store_txn *txn, struct kz_views *views, struct kz_err *err);
/* The tombstones of those that were wanted by key, into the views of `parts`. */
KZ_MUST_USE enum kz_code kz_users_stones(
        struct users *users, struct kz_pipeline *parts, struct kz_store *store, struct kz_err *err);
/* A LINK of `from`, and of whoever was linked to it, to `to`. */
void kz_users_linked(struct users *users, uint64_t from_owner, uint64_t to_owner);

/* ---- process.c ------------------------------------------------------------------------------ */

struct input { /* an item of a call */
    struct kz_intake_item *item;
    uint32_t flags; /* of its event, before anything was decided */
    uint32_t id;    /* its place in `ids` */
    bool rejected;  /* it came so */
};

struct id {
    struct kz_store_id store;
    uint64_t hash;
    bool there; /* in the store */
    bool seen;  /* there, or taken in this transaction */
};

struct kz_process {
    uint32_t magic;
    struct kz_store *store;
    struct kz_pipeline *parts;
    struct staging staging;
    struct users users;
    uint64_t retries;
    bool silent;

    struct kz_buf inputs;  /* struct input */
    struct kz_arena arena; /* of a call: ids */
    struct id *ids;
    size_t id_count, id_slot_count;
    uint32_t *id_slots;
    bool *there;
    struct kz_store_id *asked;

    struct kz_buf before;  /* struct kz_store_timer, armed when read: `timers` of struct loaded */
    struct kz_buf after;   /* the same of one user, now */
    struct kz_buf unasked; /* struct kz_process_unasked, of this attempt */
    bool *all_models;      /* [model_count], all true: what is said of an event that is awaited */
    struct kz_buf extra;   /* owners that an attempt turned out to need */
    struct kz_buf state;
    struct { /* what is to be committed: arrays of what struct kz_store_commit points to */
        struct kz_buf users, ids, records, letters, timers, fired, requests;
    } put;
};

/* ---- process_commit.c: what has changed, into the store ------------------------------------- */

/* Appends the user's armed timers (struct kz_store_timer). */
void kz_process_armed(const struct kz_views *views, uint32_t user, struct kz_buf *out);
/* After the users were read: their timers as the store has them. */
void kz_process_note_armed(struct kz_process *p);
/* Commits what differs from what was read and what was staged; `timers` were to be fired. Ends the
 * transaction. KZ_CONFLICT also where it turned out that somebody else had to be read (p->extra).
 * */
KZ_MUST_USE enum kz_code kz_process_commit(struct kz_process *p,
        const struct kz_store_timer *timers, size_t timer_count, struct kz_store_txn *txn,
        struct kz_err *err);
void kz_process_put_done(struct kz_process *p);
