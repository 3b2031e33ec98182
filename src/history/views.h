/* history/views.h -- everything that is derived from the log and kept in memory: users, what is
 * known of each, who is who, pending work, caps, dead letters, an operator's last words.
 *
 * The views are a function of the log: kz_views_apply() is the only thing that changes them, live
 * and in recovery, so a checkpoint and the records after it give the same state (kz_views_hash()).
 *
 * Owner    the pipeline of a shard.
 * Threads  one.
 * Life     new or kz_checkpoint_load(), apply*, free.
 * Pointers to users and slots stay valid while the user or slot exists: memory is in chunks that
 *          never move. The index of a user who is gone (erased, forgotten) is given to somebody
 * else only after KZ_VIEWS_INDEX_REST others have gone. Fails    apply: KZ_CORRUPT for a body that
 * is not what its type says. Never logs.
 */
#pragma once

#include "contract/history.h"
#include "contract/state.h"

struct kz_views;

enum {
    KZ_VIEWS_TIMES_MAX = 320,        /* hits or deliveries kept of a (user, name) */
    KZ_VIEWS_CAP_TIMES_MAX = 100000, /* deliveries kept of an action in total */
    KZ_VIEWS_CONTROLS_MAX = 4096,    /* operator's words; past that the oldest goes */
    KZ_VIEWS_INDEX_REST = 65536,
};

/* `dead_letters_max` 0: 10,000. */
struct kz_views *kz_views_new(uint32_t dead_letters_max);
/* For a few users and a short life: memory in small chunks. */
struct kz_views *kz_views_new_small(void);
void kz_views_free(struct kz_views *views);
KZ_DEFINE_FREEP(struct kz_views, kz_views_free)

/* ---- the one way in -------------------------------------------------------------------------- */

/* Applies a record of any type; `lsn` is its address. Records with a seq that was applied already
 * are skipped (replay may start a little early). Call it for each record right after it was staged
 * and before the next one is made, since heads, sessions and timers of the next depend on it. */
KZ_MUST_USE enum kz_code kz_views_apply(
        struct kz_views *views, kz_lsn lsn, const struct kz_record *record, struct kz_err *err);

/* These views hold some users of many, whose records are in order user by user only: none is taken for
 * one that was applied already. */
void kz_views_set_part(struct kz_views *views);

/* seq and address of the last record applied; 0 none. */
uint64_t kz_views_seq(const struct kz_views *views);
kz_lsn kz_views_lsn(const struct kz_views *views);
/* Our clock as the newest CLOCK record has it (replay --clock event); 0 none. */
int64_t kz_views_clock_ms(const struct kz_views *views);

/* ---- users and identity ---------------------------------------------------------------------- */

/* A user's place: `index` is 0 where they are not known yet, `owner` is set in any case: what to
 * write into the first record about them. A pure look-up. */
struct kz_views_place {
    uint32_t index;
    uint64_t owner;
};
struct kz_views_place kz_views_lookup(const struct kz_views *views, struct kz_user_key key);
/* Begins to fetch what a look-up of `owner` will look at first, and, each called a little later,
 * second and third. */
void kz_views_prefetch(const struct kz_views *views, uint64_t owner);
void kz_views_prefetch_user(const struct kz_views *views, uint64_t owner);
void kz_views_prefetch_key(const struct kz_views *views, uint64_t owner);
/* The user that events sent under this key belong to now: the key's own, or that of the user it is
 * linked to. The same meaning of `index` and `owner`. */
struct kz_views_place kz_views_resolve(const struct kz_views *views, struct kz_user_key as_sent);
/* The same of what kz_views_lookup() has given. */
struct kz_views_place kz_views_place_of_target(
        const struct kz_views *views, struct kz_views_place own);

/* Exactly this key, links not followed; 0 where unknown. */
uint32_t kz_views_find(const struct kz_views *views, struct kz_user_key key);
uint32_t kz_views_find_owner(const struct kz_views *views, uint64_t owner);
/* The same, and made if absent. An ensured user without a record is nobody to kz_views_hash(); the
 * pipeline does not need this (EVENT and LINK make users), tests and imports may. */
uint32_t kz_views_ensure(struct kz_views *views, struct kz_user_key key);
/* Who holds the state (pending requests, timers, predictions) that was kept of `owner`: itself, or
 * the user it was merged into. Notes about old requests are to be written under this user's owner.
 * 0 where unknown. */
uint32_t kz_views_state_user(const struct kz_views *views, uint64_t owner);
/* The user whom this one was merged into, or 0: what is known of that one leans on this one's
 * records as well. */
uint32_t kz_views_merged_into(const struct kz_views *views, uint32_t user);
/* Where events of this user go: itself, or the user it is linked to. */
uint32_t kz_views_target(const struct kz_views *views, uint32_t user);

/* `user` must be a live index. */
const struct kz_user *kz_views_user(const struct kz_views *views, uint32_t user);
struct kz_user_key kz_views_key(const struct kz_views *views, uint32_t user); /* borrowed */
/* The next live user with index > `after`, 0 at the end; `after` 0 starts. Users made or erased in
 * between do no harm, so a long walk may be cut into slices. */
uint32_t kz_views_next_user(const struct kz_views *views, uint32_t after);

enum kz_link_outcome {
    KZ_LINK_DO,      /* write the LINK record that `kind` says */
    KZ_LINK_NOTHING, /* it is so already */
    KZ_LINK_REFUSED, /* it would make a cycle */
};

struct kz_link_plan {
    enum kz_link_outcome outcome;
    enum kz_link_kind kind;
    bool sources_full; /* a REDIRECT only because the user has KZ_SOURCES_MAX chains already */
    struct kz_views_place from, to;
    struct kz_user_key from_key, to_key; /* to: resolved, may differ from what was asked for */
};

/* What linking `from` (anonymous_id; for ALIAS the previous id of either kind) to `to` comes to
 * (DESIGN.md section 2). Changes nothing. Keys are borrowed from the arguments or the views. */
struct kz_link_plan kz_views_link_plan(const struct kz_views *views, struct kz_user_key from,
        struct kz_user_key to, enum kz_identity_op op);
/* Appends the LINK body for a plan with KZ_LINK_DO; the record's owner is plan->to.owner. */
void kz_link_plan_encode(const struct kz_link_plan *plan, struct kz_buf *out);

/* The chains that make up a user's history (or notes), their own first, for a kz_history_query.
 * Chains linked after `as_of` are left out; UINT64_MAX for all. Gives the count. */
size_t kz_views_sources(const struct kz_views *views, uint32_t user, enum kz_chain chain,
        kz_lsn as_of, struct kz_source out[KZ_SOURCES_MAX]);

/* ---- slots ----------------------------------------------------------------------------------- */

/* A user's slots of a kind and name (kz_name_hash of the rule's, model's or action's name); name 0
 * is any. NULL at the end. Several requests, deliveries and sources may share a name. */
const struct kz_slot *kz_views_slot(
        const struct kz_views *views, uint32_t user, enum kz_slot_kind kind, uint64_t name);
const struct kz_slot *kz_views_slot_next(const struct kz_views *views, const struct kz_slot *slot,
        enum kz_slot_kind kind, uint64_t name);
/* The first of a user's slots of any kind, and the one after; NULL at the end. */
const struct kz_slot *kz_views_slot_any(const struct kz_views *views, uint32_t user);
const struct kz_slot *kz_views_slot_any_next(
        const struct kz_views *views, const struct kz_slot *slot);
/* Appends the user's slots as bytes, `next` 0 and times as struct kz_times, those that are wanted.
 * Gives the count. */
size_t kz_views_put_slots(const struct kz_views *views, uint32_t user,
        bool (*want)(const void *arg, const struct kz_slot *slot), const void *arg,
        struct kz_buf *out);
/* The pending request, the waiting delivery with this seq; NULL where there is none. */
const struct kz_slot *kz_views_request(
        const struct kz_views *views, uint32_t user, uint64_t request_seq);
const struct kz_slot *kz_views_delivery(
        const struct kz_views *views, uint32_t user, uint64_t decision_seq);

/* All slots of a kind over all users, in the order of users: timers, pending requests and waiting
 * deliveries after a start, exports. Zero-initialise the cursor; NULL at the end. Slots must not be
 * removed between calls. */
struct kz_slot_cursor {
    uint32_t user; /* whose slot was given last */
    uint32_t slot;
};
const struct kz_slot *kz_views_next_slot(
        const struct kz_views *views, enum kz_slot_kind kind, struct kz_slot_cursor *cursor);

/* Hits of a count rule (event ts) and deliveries of an action to the user (our clock) at or after
 * `since_ms`. Read these rather than KZ_SLOT_TIMES: a rule and an action may have one name. */
size_t kz_views_hits(const struct kz_views *views, uint32_t user, uint64_t rule, int64_t since_ms);
size_t kz_views_deliveries(
        const struct kz_views *views, uint32_t user, uint64_t action, int64_t since_ms);
/* Deliveries of the action to anybody at or after `since_ms`; at most KZ_VIEWS_CAP_TIMES_MAX. */
size_t kz_views_deliveries_total(const struct kz_views *views, uint64_t action, int64_t since_ms);

/* ---- what belongs to nobody ------------------------------------------------------------------ */

struct kz_dead_letter {
    kz_lsn lsn;
    uint64_t seq;   /* its id */
    uint64_t ref;   /* request or decision it is about, or 0 */
    uint64_t owner; /* or 0 */
    int64_t at_ms;
    uint32_t stage; /* enum kz_stage */
    uint32_t zero;
};
_Static_assert(sizeof(struct kz_dead_letter) == 48, "in checkpoints");
size_t kz_views_dead_letter_count(const struct kz_views *views);
/* Oldest first; `index` < count. Valid until the next apply. */
const struct kz_dead_letter *kz_views_dead_letter_at(const struct kz_views *views, size_t index);
const struct kz_dead_letter *kz_views_dead_letter(const struct kz_views *views, uint64_t seq);

/* An operator's last word. CONTROL verbs "resume-x" and "unfence-x" answer "pause-x" and "fence-x"
 * and are kept in their place; what follows a ':' in the verb is its argument. So after
 * "promote-model:v7" about "purchase", kz_views_control(v, "promote-model", "purchase") gives
 * "promote-model:v7". Dead letters leave by "drop-deadletter:<seq>" or "retry-deadletter:<seq>" (or
 * with <seq> as the object), which is not kept as a word. Empty where nothing was said. */
struct kz_str kz_views_control(
        const struct kz_views *views, const char *family, struct kz_str object);
/* Whether `what` ("model", "action") of this name is paused: by "pause-<what>" about it or about
 * "*" (all); the newer of the two words counts, and "resume-<what>" about "*" resumes all. */
bool kz_views_paused(const struct kz_views *views, const char *what, struct kz_str name);

struct kz_tombstone { /* an id whose user was erased, as a salted hash; one for each erasure */
    uint64_t id_hash;
    uint64_t seq; /* of the asking ERASE: the erasure's id; things before it stay away */
    kz_lsn lsn;   /* of the same, to read its owners from */
    int64_t at_ms;
    int64_t done_at_ms; /* 0: not carried out yet */
};
_Static_assert(sizeof(struct kz_tombstone) == 40, "in checkpoints");
/* The id's newest. */
const struct kz_tombstone *kz_views_tombstone(const struct kz_views *views, uint64_t id_hash);
/* By the erasure's id. */
const struct kz_tombstone *kz_views_erasure(const struct kz_views *views, uint64_t seq);
/* In order of seq; `index` < stats.tombstones. */
const struct kz_tombstone *kz_views_tombstone_at(const struct kz_views *views, size_t index);
/* Appends the owners (uint64_t each) that go with a user: their own and those merged into it, for
 * an ERASE body. Ids that only redirect to it keep their own past. */
void kz_views_erase_owners(const struct kz_views *views, uint32_t user, struct kz_buf *out);

/* Appends the owners of the ids linked to the user, each that is not there yet. */
void kz_views_linked_owners(const struct kz_views *views, uint32_t user, struct kz_buf *out);

/* ---- upkeep ---------------------------------------------------------------------------------- */

/* What is worth keeping when the log below `below` goes. */
struct kz_keep {
    kz_lsn below;
    int64_t now_ms;   /* predictions that are not valid then and whose RESULT goes are left out */
    int64_t since_ms; /* hits, deliveries, windows before that matter to no rule and no cap */
    uint32_t without; /* slots left out: bits 1 << enum kz_slot_kind */
};
/* Appends a CARRY body (history/carry.h): the user's whole state, to be logged under their owner
 * before old segments are dropped. `keep` NULL: all of it. Bring views up to date first. */
void kz_views_carry(const struct kz_views *views, uint32_t user, const struct kz_keep *keep,
        struct kz_buf *out);
/* Puts a user as kz_views_carry() wrote them, heads included, into views that do not have them: for
 * users whose state is kept elsewhere (kz_views_set_part()). The user they are linked to, if any, has
 * to be there. KZ_CORRUPT, KZ_UNSUPPORTED: nothing was changed. */
KZ_MUST_USE enum kz_code kz_views_restore(
        struct kz_views *views, uint64_t owner, struct kz_str carry, struct kz_err *err);
/* Whether nothing is left to keep of a user: no event at or after `below`, no slots worth keeping
 * but holdout assignments (which come out the same again), no links. Then a CARRY of
 * kz_views_forget()'s body makes the views forget them; without it memory would grow with every
 * visitor there ever was. */
bool kz_views_can_forget(const struct kz_views *views, uint32_t user, const struct kz_keep *keep);
void kz_views_forget(const struct kz_views *views, uint32_t user, struct kz_buf *out);
/* A CARRY body of what belongs to nobody (this section's neighbour above); logged with owner 0.
 * Dead letters that go with the log below `below` are left out. */
void kz_views_carry_globals(const struct kz_views *views, kz_lsn below, struct kz_buf *out);

struct kz_views_stats {
    uint64_t users;  /* live, linked ids included */
    uint64_t linked; /* ids whose events go to another user */
    uint64_t slots;  /* in use */
    uint64_t pending_requests;
    uint64_t waiting_deliveries;
    uint64_t dead_letters;
    uint64_t tombstones;
    uint64_t bytes; /* held, chunks and tables */
    /* Oddities since new or load, counted and passed over. */
    uint64_t links_without_sources; /* merges that the bound on sources made redirects */
    uint64_t targets_full;          /* ids linked to more than KZ_TARGETS_MAX users, one by one */
    uint64_t unknown_owners;        /* notes about a user that is not there */
    uint64_t unknown_requests;      /* RESULT of no pending request */
    uint64_t unknown_decisions;
    uint64_t dead_letters_lost; /* pushed out by dead_letters_max */
};
struct kz_views_stats kz_views_stats(const struct kz_views *views);

/* A value that is equal for equal states, whatever order users got their indexes in. O(users). */
uint64_t kz_views_hash(const struct kz_views *views);
/* The invariants of history/README.md: KZ_CORRUPT with the first one that does not hold. */
KZ_MUST_USE enum kz_code kz_views_check(const struct kz_views *views, struct kz_err *err);
