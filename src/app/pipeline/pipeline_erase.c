/* app/pipeline/pipeline_erase.c -- erasure: the word, what goes with the user, and that it outlives the log.
 *
 *   asked     ERASE with the owners that go, and a tombstone for each of their ids; readers see
 *             nothing from here on, and what is kept of them in memory goes. The file beside the
 *             log notes the tombstones (app/pipeline/erasures.h).
 *   round     a segment ends, two checkpoints follow; for all that were asked for until then
 *   carried   sealing leaves out the owners' records from before their word
 *   out       ERASE with DONE
 *   again     at a start, for what the file names and the log does not: it came out of a backup
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/pipeline/erasures.h"
#include "app/pipeline/pipeline_int.h"
#include "base/diag.h"
#include "codec/crypto.h"
#include "sys/clock.h"

/* ---- carrying it out ------------------------------------------------------------------------------ */

int kz_pl_by_owner(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

struct going { /* an owner whose records before an address go */
    uint64_t owner;
    kz_lsn below;
};

static int by_going(const void *a, const void *b)
{
    const struct going *x = a, *y = b;

    if (x->owner != y->owner)
        return x->owner < y->owner ? -1 : 1;
    return x->below < y->below ? -1 : x->below > y->below;
}

static void add_going(
        struct kz_buf *list, const struct kz_erase_body *body, const struct kz_tombstone *stone)
{
    for (uint32_t i = 0; i < body->owner_count; i++) {
        struct going going = {
                kz_load_u64((const char *)(body + 1) + i * sizeof(uint64_t)), stone->lsn};

        kz_buf_put(list, &going, sizeof(going));
    }
}

/* Adds whom the asking ERASE names. False: it cannot be read now, so nobody knows whom. Where retention
 * has taken it, what lay before it is gone as well. */
static bool add_named(struct kz_pipeline *p, const struct kz_tombstone *stone, struct kz_buf *list)
{
    enum kz_code rc;

    kz_buf_clear(&p->record);
    rc = p->reader->ops->get(p->reader, stone->lsn, 0, &p->record, NULL);
    if (rc == KZ_OK)
        add_going(list, (const void *)(p->record.data + sizeof(struct kz_record)), stone);
    return rc == KZ_OK || rc == KZ_NOT_FOUND;
}

/* Into upkeep: sorted, of each owner the newest word. */
static void set_going(struct upkeep *u, struct kz_buf *list)
{
    struct going *going = (void *)list->data;
    size_t count = list->size / sizeof(*going);

    kz_buf_clear(&u->erased);
    kz_buf_clear(&u->erased_below);
    if (count)
        qsort(going, count, sizeof(*going), by_going);
    for (size_t i = 0; i < count; i++) {
        if (i + 1 < count && going[i + 1].owner == going[i].owner)
            continue;
        kz_buf_u64(&u->erased, going[i].owner);
        kz_buf_u64(&u->erased_below, going[i].below);
    }
}

/* What the next sealing leaves out: of the erasures whose word lies in a segment that is complete and
 * that both checkpoints lie behind, the owners' records before the word. What they did since stays.
 * Gives how many erasures are open, without those whose word cannot be read: no round helps them, so
 * none is begun, and they are tried again at each step. */
size_t kz_pl_collect_erased(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    struct kz_views_stats stats = kz_views_stats(p->views);
    struct kz_buf list = {0};
    size_t open = 0;

    kz_buf_clear(&u->erasures);
    u->seal_below = u->checkpoint_before;
    for (size_t i = 0; i < stats.tombstones; i++) {
        const struct kz_tombstone *stone = kz_views_tombstone_at(p->views, i);

        if (stone->done_at_ms)
            continue;
        if (KZ_LSN_SEGMENT(stone->lsn) >= KZ_LSN_SEGMENT(u->checkpoint_before)) {
            open++;
        } else if (add_named(p, stone, &list)) {
            open++;
            kz_buf_u64(&u->erasures, stone->seq);
        }
    }
    set_going(u, &list);
    kz_buf_done(&list);
    return open;
}

/* What was asked for until now is carried out together: a segment ends here (the word of ours begins
 * the next), and two checkpoints follow. */
enum kz_code kz_pl_erase_round(struct kz_pipeline *p, struct kz_err *err)
{
    struct upkeep *u = &p->upkeep;

    p->now_ms = kz_pl_now(p);
    KZ_TRY(kz_pl_commit(p, err));
    kz_log_roll(p->log);
    KZ_TRY(kz_pl_control(p, KZ_STR("upkeep"), KZ_STR("*"), "local", err));
    KZ_TRY(kz_pl_commit(p, err));
    u->erasing = true;
    u->erase_lsn = kz_log_end(p->log);
    u->erase_ms = kz_mono_ms();
    return KZ_OK;
}

/* Those that were carried out by the sealing that has ended. */
void kz_pl_erasures_done(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    struct kz_err err;

    for (size_t at = 0; at < u->erasures.size; at += sizeof(uint64_t)) {
        uint64_t seq = kz_load_u64(u->erasures.data + at);
        const struct kz_tombstone *stone = kz_views_erasure(p->views, seq);
        struct kz_erase_body body = {.what = KZ_ERASE_DONE, .erasure = seq};
        struct kz_log_entry entry = {.type = KZ_RECORD_ERASE,
                .at_ms = p->now_ms,
                .reserved = true,
                .body = kz_str_n(&body, sizeof(body))};

        if (!stone || stone->done_at_ms)
            continue;
        body.id_hash = stone->id_hash;
        if (kz_pl_put(p, &entry, NULL, NULL, &err) != KZ_OK)
            return;
        p->counters.erasures_total++;
        kz_diag_info("a user was erased", "erasure=%llu", (unsigned long long)seq);
    }
}

uint64_t kz_pl_tombstone_hash(const struct kz_pipeline *p, struct kz_user_key key)
{
    return kz_tombstone_hash(p->project, key);
}

uint64_t kz_tombstone_hash(const struct kz_project *project, struct kz_user_key key)
{
    struct kz_buf salted = {0};
    uint8_t digest[32];

    kz_buf_printf(&salted, "%s\n%c", project->name, key.kind);
    kz_buf_str(&salted, key.id);
    kz_sha256(kz_buf_view(&salted), digest);
    kz_buf_done(&salted);
    return kz_load_u64(digest);
}

/* ---- the word ------------------------------------------------------------------------------------- */

/* The state of those who stay after an erasure: a device that others have, too, and ids that led to
 * the user and lead elsewhere now. It was in records that go, or came from them. */
static enum kz_code carry_those_who_stay(
        struct kz_pipeline *p, const struct kz_buf *owners, struct kz_err *err)
{
    struct kz_buf body = {0};
    enum kz_code rc = KZ_OK;

    for (size_t at = 0; at < owners->size && rc == KZ_OK; at += sizeof(uint64_t)) {
        uint64_t owner = kz_load_u64(owners->data + at);
        uint32_t user = kz_views_find_owner(p->views, owner);
        struct kz_log_entry entry = {
                .type = KZ_RECORD_CARRY, .owner = owner, .at_ms = p->now_ms, .reserved = true};

        if (!user)
            continue;
        kz_buf_clear(&body);
        kz_views_carry(p->views, user, NULL, &body);
        entry.prev = kz_pl_head(p, user, KZ_CHAIN_NOTES);
        entry.body = kz_buf_view(&body);
        rc = kz_pl_put(p, &entry, NULL, NULL, err);
    }
    kz_buf_done(&body);
    return rc;
}

/* The tombstones of ids that go with the user: what they did before must not come back either. */
struct going_ids {
    struct kz_buf owners; /* uint64_t */
    struct kz_buf hashes; /* uint64_t, one for each */
};

static void find_ids(struct kz_pipeline *p, const char *owners, size_t count, struct going_ids *out)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t owner = kz_load_u64(owners + i * sizeof(owner));
        uint32_t user = kz_views_find_owner(p->views, owner);

        if (!user)
            continue;
        kz_buf_u64(&out->owners, owner);
        kz_buf_u64(&out->hashes, kz_pl_tombstone_hash(p, kz_views_key(p->views, user)));
    }
}

/* After the word: a device that somebody else has, too, is still there, and gets none. */
static enum kz_code bury_ids(struct kz_pipeline *p, const struct going_ids *ids,
        const struct kz_erase_body *word, struct kz_err *err)
{
    struct kz_erase_body body = {.what = KZ_ERASE_ID,
            .asked_ms = word->what == KZ_ERASE_AGAIN ? word->asked_ms : p->now_ms};
    struct kz_log_entry entry = {.type = KZ_RECORD_ERASE,
            .at_ms = p->now_ms,
            .reserved = true,
            .body = kz_str_n(&body, sizeof(body))};

    for (size_t at = 0; at < ids->owners.size; at += sizeof(uint64_t)) {
        body.id_hash = kz_load_u64(ids->hashes.data + at);
        if (body.id_hash != word->id_hash &&
                !kz_views_find_owner(p->views, kz_load_u64(ids->owners.data + at)))
            KZ_TRY(kz_pl_put(p, &entry, NULL, NULL, err));
    }
    return KZ_OK;
}

/* Stages the word about a user (0: nobody has the id) and what goes with it. `body` has the hash. */
static enum kz_code say(struct kz_pipeline *p, struct kz_erase_body fixed, uint32_t user,
        uint64_t *ret_seq, struct kz_err *err)
{
    struct kz_buf body = {0}, concerned = {0};
    struct going_ids ids = {0};
    struct kz_log_entry entry = {.type = KZ_RECORD_ERASE, .at_ms = p->now_ms, .reserved = true};
    enum kz_code rc;

    kz_buf_put(&body, &fixed, sizeof(fixed));
    if (user)
        kz_views_erase_owners(p->views, user, &body);
    fixed.owner_count = (uint32_t)((body.size - sizeof(fixed)) / sizeof(uint64_t));
    memcpy(body.data, &fixed, sizeof(fixed));
    entry.body = kz_buf_view(&body);
    kz_buf_put(&concerned, body.data + sizeof(fixed), body.size - sizeof(fixed));
    if (user)
        kz_views_linked_owners(p->views, user, &concerned);
    find_ids(p, body.data + sizeof(fixed), fixed.owner_count, &ids);
    rc = kz_pl_put(p, &entry, NULL, ret_seq, err);
    if (rc == KZ_OK)
        kz_buf_put(&p->forgotten, body.data + sizeof(fixed), body.size - sizeof(fixed));
    if (rc == KZ_OK)
        rc = bury_ids(p, &ids, &fixed, err);
    if (rc == KZ_OK)
        rc = carry_those_who_stay(p, &concerned, err);
    kz_buf_done(&body);
    kz_buf_done(&concerned);
    kz_buf_done(&ids.owners);
    kz_buf_done(&ids.hashes);
    return rc;
}

enum kz_code kz_pl_erase(struct kz_query *query, struct kz_user_key key, const char *who,
        uint64_t *ret_erasure, struct kz_err *err)
{
    struct kz_pipeline *p = kz_pl_of_query(query);
    struct kz_views_place place = kz_views_resolve(p->views, key);
    struct kz_erase_body body = {.id_hash = kz_pl_tombstone_hash(p, key)};
    uint64_t seq;

    p->now_ms = kz_pl_now(p);
    if (!place.index)
        return kz_fail(err, KZ_NOT_FOUND, "nothing is known of this user");
    KZ_TRY(kz_pl_group(p, 0, err));
    KZ_TRY(say(p, body, place.index, &seq, err));
    KZ_TRY(kz_pl_commit(p, err));
    kz_pl_erasures_note(p);
    kz_diag_info("erasure asked for", "erasure=%llu by=%s", (unsigned long long)seq, who);
    *ret_erasure = seq;
    return KZ_OK;
}

/* ---- the file beside the log ---------------------------------------------------------------------- */

static void file_of(const struct kz_pipeline *p, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/" KZ_ERASURES_NAME, p->options.data_dir);
}

/* The tombstones from the one at `first` on that are not in `known` (sorted; NULL: none is). */
static void list_new(
        const struct kz_pipeline *p, size_t first, const struct kz_buf *known, struct kz_buf *out)
{
    size_t count = kz_views_stats(p->views).tombstones;

    for (size_t i = first; i < count; i++) {
        const struct kz_tombstone *stone = kz_views_tombstone_at(p->views, i);
        struct kz_erasure erasure = {stone->id_hash, stone->at_ms};

        if (!known || !known->size ||
                !bsearch(&erasure, known->data, known->size / sizeof(erasure), sizeof(erasure),
                        kz_erasures_order))
            kz_buf_put(out, &erasure, sizeof(erasure));
    }
}

static void note(struct kz_pipeline *p, const struct kz_buf *known)
{
    struct upkeep *u = &p->upkeep;
    struct kz_buf list = {0};
    char path[PATH_MAX];
    struct kz_err err;

    file_of(p, path);
    list_new(p, u->noted, known, &list);
    if (kz_erasures_add(p->options.fs, path, p->project->name, (const void *)list.data,
                list.size / sizeof(struct kz_erasure), &err) == KZ_OK) {
        u->noted = kz_views_stats(p->views).tombstones;
        u->not_noted = false;
    } else if (!u->not_noted) {
        u->not_noted = true;
        kz_diag_warn("an erasure could not be noted beside the log, will be tried again",
                "error=\"%s\"", err.message);
    }
    kz_buf_done(&list);
}

void kz_pl_erasures_note(struct kz_pipeline *p)
{
    if (p->upkeep.noted < kz_views_stats(p->views).tombstones)
        note(p, NULL);
}

/* Of the file, what the log does not know; in its place. */
static void keep_unknown(struct kz_pipeline *p, struct kz_buf *list)
{
    struct kz_erasure *erasures = (void *)list->data;
    size_t count = list->size / sizeof(*erasures), kept = 0;

    for (size_t i = 0; i < count; i++) {
        const struct kz_tombstone *stone = kz_views_tombstone(p->views, erasures[i].id_hash);

        /* The newest of an id is enough. */
        if ((stone && stone->at_ms >= erasures[i].asked_ms) ||
                (i + 1 < count && erasures[i + 1].id_hash == erasures[i].id_hash))
            continue;
        erasures[kept++] = erasures[i];
    }
    list->size = kept * sizeof(*erasures);
}

static int by_hash(const void *key, const void *erasure)
{
    uint64_t hash = *(const uint64_t *)key, other = ((const struct kz_erasure *)erasure)->id_hash;

    return hash < other ? -1 : hash > other;
}

/* Says the erasures again that are about nobody the log knows, or about users that are found. */
static enum kz_code say_again(
        struct kz_pipeline *p, const struct kz_buf *unknown, struct kz_err *err)
{
    const struct kz_erasure *erasures = (const void *)unknown->data;
    size_t count = unknown->size / sizeof(*erasures);
    KZ_AUTO(kz_freep) uint64_t *owners = kz_calloc(count, sizeof(*owners));

    for (uint32_t user = kz_views_next_user(p->views, 0); user;
            user = kz_views_next_user(p->views, user)) {
        uint64_t hash = kz_pl_tombstone_hash(p, kz_views_key(p->views, user));
        const struct kz_erasure *one = bsearch(&hash, erasures, count, sizeof(*erasures), by_hash);

        /* An id that leads to somebody else goes with them, or is theirs. */
        if (one && kz_views_target(p->views, user) == user)
            owners[one - erasures] = kz_views_user(p->views, user)->owner;
    }
    for (size_t i = 0; i < count; i++) {
        struct kz_erase_body body = {.id_hash = erasures[i].id_hash,
                .what = KZ_ERASE_AGAIN,
                .asked_ms = erasures[i].asked_ms};
        uint32_t user = owners[i] ? kz_views_find_owner(p->views, owners[i]) : 0;

        KZ_TRY(kz_pl_group(p, 0, err));
        KZ_TRY(say(p, body, user, NULL, err));
        p->counters.erasures_again_total += user != 0;
    }
    return KZ_OK;
}

enum kz_code kz_pl_erasures_open(struct kz_pipeline *p, struct kz_err *err)
{
    struct kz_buf list = {0}, unknown = {0};
    char path[PATH_MAX];
    enum kz_code rc;

    file_of(p, path);
    rc = kz_erasures_read(p->options.fs, path, p->project->name, &list, err);
    if (rc == KZ_NOT_FOUND)
        rc = KZ_OK;
    if (list.size)
        qsort(list.data, list.size / sizeof(struct kz_erasure), sizeof(struct kz_erasure),
                kz_erasures_order);
    kz_buf_str(&unknown, kz_buf_view(&list));
    keep_unknown(p, &unknown);
    if (rc == KZ_OK && unknown.size) {
        p->now_ms = kz_pl_now(p);
        rc = say_again(p, &unknown, err);
        if (rc == KZ_OK)
            rc = kz_pl_commit(p, err);
        kz_diag_warn("the log is older than erasures: they are carried out again",
                "erasures=%zu users=%llu", unknown.size / sizeof(struct kz_erasure),
                (unsigned long long)p->counters.erasures_again_total);
    }
    if (rc == KZ_OK)
        note(p, &list);
    kz_buf_done(&list);
    kz_buf_done(&unknown);
    return rc;
}
