/* app/pipeline/pipeline_upkeep.c -- checkpoints, sealing, retention, erasure, backup: what goes on beside.
 *
 * The pipeline's thread looks twice a second (tick) and gives one piece of work at a time to the
 * upkeep thread; results are taken up at a later tick. A checkpoint is the last one and the log
 * behind it, so the thread makes it alone and the pipeline goes on.
 *
 *   log grown enough     -> checkpoint (thread)
 *   two checkpoints past -> seal the segments before the older one (thread)
 *   too old or too large -> carry forward what is live in the oldest segment, then drop it
 *   erasures asked for   -> a segment ends, two checkpoints, then seal and rewrite without the users
 *
 * What fails is tried again less and less often. An erasure that fails, since a sealed segment that it has
 * to rewrite is damaged, stays open and holds up nothing else.
 */

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/pipeline/erasures.h"
#include "app/pipeline/pipeline_int.h"
#include "base/diag.h"
#include "base/hash.h"
#include "sys/clock.h"
#include "sys/thread.h"

enum {
    CHECKPOINT_EVERY_MS = 300000, /* where there was anything at all */
    CARRY_SLICE = 2000,           /* users a tick */
    COPY_SLICE = 50000,           /* the same, only looked at */
    DAMAGE_EVERY_MS = 60000,
    ERASE_EVERY_MS = 5000, /* a round ends a segment */
    RETRY_FIRST_MS = 1000,
    RETRY_MAX_MS = 60000,
    DAY_MS = 86400000,
};

/* ---- the thread ------------------------------------------------------------------------------------- */

static void *upkeep_main(void *arg)
{
    struct kz_pipeline *p = arg;
    struct upkeep *u = &p->upkeep;

    /* The name is a courtesy to whoever looks from outside. */
    (void)pthread_setname_np(pthread_self(), "kz-upkeep");
    kz_thread_background();
    pthread_mutex_lock(&u->lock);
    while (!u->stop) {
        if (u->state != UPKEEP_RUNNING) {
            pthread_cond_wait(&u->wake, &u->lock);
            continue;
        }
        pthread_mutex_unlock(&u->lock);
        u->work(p);
        pthread_mutex_lock(&u->lock);
        u->state = UPKEEP_DONE;
        pthread_cond_broadcast(&u->wake);
    }
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

static enum upkeep_state state_of(struct upkeep *u)
{
    enum upkeep_state state;

    pthread_mutex_lock(&u->lock);
    state = u->state;
    pthread_mutex_unlock(&u->lock);
    return state;
}

static void start_work(struct kz_pipeline *p, void (*work)(struct kz_pipeline *p))
{
    struct upkeep *u = &p->upkeep;

    pthread_mutex_lock(&u->lock);
    KZ_BUG_ON(u->state != UPKEEP_IDLE);
    u->work = work;
    u->code = KZ_OK;
    u->state = UPKEEP_RUNNING;
    pthread_cond_signal(&u->wake);
    pthread_mutex_unlock(&u->lock);
}

static void set_idle(struct upkeep *u)
{
    pthread_mutex_lock(&u->lock);
    u->state = UPKEEP_IDLE;
    pthread_mutex_unlock(&u->lock);
}

enum kz_code kz_pl_upkeep_open(struct kz_pipeline *p, struct kz_err *err)
{
    struct upkeep *u = &p->upkeep;

    pthread_mutex_init(&u->lock, NULL);
    pthread_cond_init(&u->wake, NULL);
    if (pthread_create(&u->thread, NULL, upkeep_main, p) != 0)
        return kz_fail(err, KZ_NO_MEMORY, "could not start the upkeep thread");
    u->started = true;
    return KZ_OK;
}

static void checkpoint_work(struct kz_pipeline *p);
static void checkpoint_written(struct kz_pipeline *p, kz_lsn position);
static void backup_work(struct kz_pipeline *p);

void kz_pl_upkeep_close(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;

    if (!u->started)
        return;
    pthread_mutex_lock(&u->lock);
    atomic_store(&u->stop, true);
    pthread_cond_signal(&u->wake);
    pthread_mutex_unlock(&u->lock);
    pthread_join(u->thread, NULL);
    if (u->backup_done) {
        if (u->state != UPKEEP_DONE || u->work != backup_work)
            u->code = kz_fail(&u->err, KZ_UNAVAILABLE, "the process ended before the backup began");
        u->backup_done(u->backup_arg, u->code, &u->err);
        u->backup_done = NULL;
    }
    /* One that was cut short is no failure: the one at the end takes its place. */
    if (u->state == UPKEEP_DONE && u->work == checkpoint_work && u->code == KZ_OK)
        checkpoint_written(p, u->checkpoint_until.position);
    pthread_mutex_destroy(&u->lock);
    pthread_cond_destroy(&u->wake);
    kz_buf_done(&u->erased);
    kz_buf_done(&u->erased_below);
    kz_buf_done(&u->erasures);
    kz_buf_done(&u->owners);
}

/* ---- checkpoints ------------------------------------------------------------------------------------- */

static void checkpoint_written(struct kz_pipeline *p, kz_lsn position)
{
    struct upkeep *u = &p->upkeep;

    u->checkpoint_before = u->checkpoint_at;
    u->checkpoint_at = position;
    p->counters.checkpoints_total++;
}

static void checkpoint_begun(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    struct kz_log_stats stats;

    kz_log_stats(p->log, &stats);
    u->checkpoint_log_bytes = stats.bytes;
    u->checkpoint_tried_ms = kz_mono_ms();
}

enum kz_code kz_pl_checkpoint(struct kz_pipeline *p, struct kz_err *err)
{
    struct kz_log_mark mark;

    /* Everything staged is committed and durable first, so that the position is a boundary that
     * the log keeps whatever happens. */
    KZ_TRY(kz_pl_commit(p, err));
    KZ_TRY(kz_log_wait(p->log, err));
    mark = kz_log_mark(p->log);
    checkpoint_begun(p);
    KZ_TRY(kz_checkpoint_save(
            p->options.fs, p->views_dir, p->views, &mark, p->project->name, NULL, NULL, err));
    checkpoint_written(p, mark.position);
    return KZ_OK;
}

/* One that is not of the last one's seq, in whose place it would come: then an older one, from before
 * an erasure, would stay. */
static enum kz_code new_checkpoint(struct kz_pipeline *p, struct kz_err *err)
{
    KZ_TRY(kz_pl_control(p, KZ_STR("upkeep"), KZ_STR("*"), "local", err));
    return kz_pl_checkpoint(p, err);
}

static enum kz_code advance(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct upkeep *u = arg;

    if (atomic_load_explicit(&u->stop, memory_order_relaxed))
        return kz_fail(&u->err, KZ_UNAVAILABLE, "the process ends");
    return kz_views_apply(u->checkpoint_views, lsn, record, &u->err);
}

/* The views as of u->checkpoint_until, from the last checkpoint and the log behind it. */
static enum kz_code make_views(struct kz_pipeline *p, struct kz_err *err)
{
    struct upkeep *u = &p->upkeep;
    struct kz_checkpoint_info info = {0};
    enum kz_code rc = kz_checkpoint_load(p->options.fs, p->views_dir, p->project->name,
            p->project->limits.dead_letters_max, &u->checkpoint_views, &info, err);

    if (rc == KZ_NOT_FOUND || rc == KZ_CORRUPT)
        u->checkpoint_views = kz_views_new(p->project->limits.dead_letters_max);
    else if (rc != KZ_OK)
        return rc;
    else if (memcmp(info.mark.log_id, u->checkpoint_until.log_id, sizeof(info.mark.log_id)) != 0)
        return kz_fail(err, KZ_CONFLICT,
                "a checkpoint of another log was put into \"%s\" while this one was written: "
                "remove it",
                p->views_dir);
    return p->reader->ops->scan_all(
            p->reader, info.mark.position, u->checkpoint_until.position, advance, u, err);
}

/* The views are a function of the log, so nobody has to be asked for them: neither a fork, after
 * which the pipeline would have to copy each page that it touches, nor a lock. It costs their
 * memory once more while it lasts. */
static void checkpoint_work(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;

    u->code = make_views(p, &u->err);
    if (u->code == KZ_OK)
        u->code = kz_checkpoint_save(p->options.fs, p->views_dir, u->checkpoint_views,
                &u->checkpoint_until, p->project->name, &u->stop, NULL, &u->err);
    kz_views_free(u->checkpoint_views);
    u->checkpoint_views = NULL;
}

enum kz_code kz_pl_ask_checkpoint(struct kz_pipeline *p, struct kz_err *err)
{
    struct upkeep *u = &p->upkeep;

    KZ_TRY(kz_pl_commit(p, err));
    checkpoint_begun(p);
    u->checkpoint_asked = true;
    u->checkpoint_from = kz_log_mark(p->log);
    u->next_ms = 0;
    return KZ_OK;
}

static bool checkpoint_due(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    struct kz_log_stats stats;
    uint64_t grown;

    kz_log_stats(p->log, &stats);
    grown = stats.bytes - u->checkpoint_log_bytes;
    return grown > KZ_MAX(p->project->limits.checkpoint_bytes,
                           2 * kz_views_stats(p->views).bytes) ||
           (grown && kz_mono_ms() - u->checkpoint_tried_ms > CHECKPOINT_EVERY_MS);
}

/* True where the thread has one to make now. */
static bool maybe_checkpoint(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    bool erasing = u->erasing && u->checkpoint_before <= u->erase_lsn;
    struct kz_err err;
    enum kz_code rc = KZ_OK;

    if (!u->checkpoint_asked && erasing)
        rc = kz_pl_control(
                p, KZ_STR("upkeep"), KZ_STR("*"), "local", &err); /* see new_checkpoint */
    if (rc == KZ_OK && !u->checkpoint_asked && (erasing || checkpoint_due(p)))
        rc = kz_pl_ask_checkpoint(p, &err);
    if (rc != KZ_OK) {
        p->counters.checkpoints_failed_total++;
        kz_diag_warn("a checkpoint could not be begun", "error=\"%s\"", err.message);
    }
    if (!u->checkpoint_asked || kz_log_durable(p->log) < u->checkpoint_from.position)
        return false;
    u->checkpoint_asked = false;
    u->checkpoint_until = u->checkpoint_from;
    start_work(p, checkpoint_work);
    return true;
}

static void take_checkpoint(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;

    if (u->code == KZ_OK)
        checkpoint_written(p, u->checkpoint_until.position);
    else
        p->counters.checkpoints_failed_total++;
}

/* ---- sealing ------------------------------------------------------------------------------------------ */

static void seal_work(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    struct kz_log_seal seal = {
            .below = u->seal_below,
            .segments_max = u->seal_erases ? UINT_MAX : 1,
            .erased = (const uint64_t *)(void *)u->erased.data,
            .erased_below = (const kz_lsn *)(void *)u->erased_below.data,
            .erased_count = u->erased.size / sizeof(uint64_t),
    };

    u->code = kz_log_seal(p->log, &seal, &u->err);
    u->sealed = seal.ret_sealed;
    u->rewritten = seal.ret_rewritten;
}

/* Whether some complete raw segment lies wholly before `below`. */
static bool can_seal(struct kz_pipeline *p, kz_lsn below)
{
    size_t count;
    struct kz_log_segment_info *segments = kz_log_segments(p->log, &count);
    bool found = false;

    for (size_t i = 0; i < count && !found; i++)
        found = !segments[i].sealed && !segments[i].current &&
                segments[i].number < KZ_LSN_SEGMENT(below);
    free(segments);
    return found;
}

/* ---- retention ---------------------------------------------------------------------------------------- */

static enum kz_code collect_owner(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct upkeep *u = arg;

    (void)lsn;
    /* Whoever has their first record or their last CARRY here. The others' state begins in a segment
     * that is still there, or was carried since, with all that came until then. */
    if (record->owner && record->type != KZ_RECORD_COPY &&
            (record->type == KZ_RECORD_CARRY || !record->prev))
        kz_buf_u64(&u->owners, record->owner);
    /* An id's link may be all there is of it. */
    if (record->type == KZ_RECORD_LINK)
        kz_buf_u64(&u->owners, ((const struct kz_link_body *)(record + 1))->from_owner);
    return KZ_OK;
}

/* The distinct owners whose state would go with the segments to be dropped. */
static void owners_work(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    uint64_t *owners;
    size_t count, kept = 0;

    kz_buf_clear(&u->owners);
    u->code = p->reader->ops->scan_all(p->reader, 0, u->drop_below, collect_owner, u, &u->err);
    if (u->code != KZ_OK || !u->owners.size)
        return;
    owners = (uint64_t *)(void *)u->owners.data;
    count = u->owners.size / sizeof(uint64_t);
    qsort(owners, count, sizeof(*owners), kz_pl_by_owner);
    for (size_t i = 0; i < count; i++)
        if (i == 0 || owners[i] != owners[i - 1])
            owners[kept++] = owners[i];
    u->owners.size = kept * sizeof(*owners);
}

static void drop_work(struct kz_pipeline *p)
{
    p->upkeep.code = kz_log_drop(p->log, p->upkeep.drop_below, &p->upkeep.err);
}

/* How far the log may be dropped: whole sealed segments, oldest first. 0: nothing. */
static kz_lsn retention_limit(struct kz_pipeline *p)
{
    size_t count;
    struct kz_log_segment_info *segments = kz_log_segments(p->log, &count);
    uint64_t total = 0, size_max = p->project->events.retention_size_bytes;
    int64_t age_ms = p->project->events.retention_age_ms;
    kz_lsn below = 0;

    for (size_t i = 0; i < count; i++)
        total += segments[i].disk_bytes;
    for (size_t i = 0; i < count && segments[i].sealed; i++) {
        bool old = age_ms && segments[i].at_last_ms < p->now_ms - age_ms;

        if (!old && !(size_max && total > size_max))
            break;
        total -= segments[i].disk_bytes;
        below = KZ_LSN((uint64_t)segments[i].number + 1, 0);
        break; /* one at a time */
    }
    free(segments);
    return below;
}

static struct kz_keep what_to_keep(struct kz_pipeline *p)
{
    const struct kz_project *project = p->project;
    int64_t longest_ms = 2 * DAY_MS; /* a cap by calendar day, whatever the zone */

    for (unsigned i = 0; i < project->trigger_count; i++) {
        longest_ms = KZ_MAX(longest_ms, project->triggers[i].count.within_ms);
        longest_ms = KZ_MAX(longest_ms, project->triggers[i].count.rearm_ms);
    }
    for (unsigned i = 0; i < project->action_count; i++)
        for (size_t k = 0; k < project->actions[i].cap_count; k++)
            longest_ms = KZ_MAX(longest_ms, project->actions[i].caps[k].every_ms);
    return (struct kz_keep){
            .below = p->upkeep.drop_below,
            .now_ms = p->now_ms,
            /* Hits have the times of events, which may be that late. */
            .since_ms = p->now_ms - longest_ms - project->events.max_behind_ms,
    };
}

static void carry_start(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;

    p->now_ms = kz_pl_now(p);
    u->keep = what_to_keep(p);
    u->carrying = CARRY_COPYING;
    u->copy_user = 0;
    u->carry_index = 0;
    u->owners_sorted = u->owners.size / sizeof(uint64_t);
}

static enum kz_code copy_record(
        struct kz_pipeline *p, uint32_t user, enum kz_chain chain, kz_lsn lsn, struct kz_err *err)
{
    struct kz_copy_body fixed = {.from = lsn};
    struct kz_log_entry entry = {
            .type = KZ_RECORD_COPY,
            .owner = kz_views_user(p->views, user)->owner,
            .at_ms = p->now_ms,
            .reserved = true,
    };
    struct kz_buf found = {0}, body = {0};
    enum kz_code rc = kz_pl_get(p, user, chain, lsn, &found, err);

    if (rc == KZ_NOT_FOUND) { /* erased, or gone with an earlier version of this program */
        kz_buf_done(&found);
        return KZ_OK;
    }
    if (rc == KZ_OK) {
        kz_buf_put(&body, &fixed, sizeof(fixed));
        kz_buf_str(&body, kz_buf_view(&found));
        entry.body = kz_buf_view(&body);
        rc = kz_pl_put(p, &entry, NULL, NULL, err);
    }
    if (rc == KZ_OK)
        p->counters.records_copied_total++;
    kz_buf_done(&found);
    kz_buf_done(&body);
    return rc;
}

/* Copies what the user's slots still lean on in the segments that go. */
static enum kz_code copy_forward(struct kz_pipeline *p, uint32_t user, struct kz_err *err)
{
    const struct kz_keep *keep = &p->upkeep.keep;
    const struct kz_slot *slot = kz_views_slot_any(p->views, user);

    for (; slot; slot = kz_views_slot_any_next(p->views, slot)) { /* a COPY moves no slot */
        kz_lsn lsn = kz_slot_address(slot);

        if (!lsn || lsn >= keep->below ||
                (slot->kind == KZ_SLOT_PREDICTION &&
                        slot->prediction.expires_at_ms <= keep->now_ms))
            continue;
        KZ_TRY(copy_record(p, user,
                slot->kind == KZ_SLOT_TRIGGER ? KZ_CHAIN_EVENTS : KZ_CHAIN_NOTES, lsn, err));
    }
    return KZ_OK;
}

enum kz_code kz_pl_linked(struct kz_pipeline *p, uint32_t user, struct kz_err *err)
{
    return p->upkeep.carrying && user ? copy_forward(p, kz_views_target(p->views, user), err)
                                      : KZ_OK;
}

/* True when all users were looked at. */
static bool copy_slice(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    struct kz_err err;

    for (size_t n = 0; n < COPY_SLICE; n++) {
        uint32_t user = kz_views_next_user(p->views, u->copy_user);

        if (!user)
            return true;
        if (kz_pl_group(p, 0, &err) != KZ_OK || copy_forward(p, user, &err) != KZ_OK)
            return false;
        u->copy_user = user;
    }
    return false;
}

/* What a carried user had before a merge is part of another's state: that one is carried as well. */
static void add_merged_into(struct kz_pipeline *p, uint32_t user)
{
    struct upkeep *u = &p->upkeep;
    uint32_t into = kz_views_merged_into(p->views, user);
    uint64_t owner = into ? kz_views_user(p->views, into)->owner : 0;

    if (owner &&
            !bsearch(&owner, u->owners.data, u->owners_sorted, sizeof(uint64_t), kz_pl_by_owner))
        kz_buf_u64(&u->owners, owner);
}

/* Carries the state of a slice of users forward; true when all are done. */
static bool carry_users(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    struct kz_buf body = {0};
    struct kz_err err;
    bool done = false;

    for (size_t n = 0; !done && n < CARRY_SLICE; n++) {
        struct kz_log_entry entry = {.type = KZ_RECORD_CARRY, .at_ms = p->now_ms, .reserved = true};
        bool last = u->carry_index == u->owners.size / sizeof(uint64_t);

        kz_buf_clear(&body);
        if (last) {
            kz_views_carry_globals(p->views, u->keep.below, &body);
        } else {
            uint64_t owner = kz_load_u64(u->owners.data + u->carry_index * sizeof(uint64_t));
            uint32_t user = kz_views_find_owner(p->views, owner);

            if (!user) {
                u->carry_index++;
                continue;
            }
            add_merged_into(p, user);
            if (kz_views_can_forget(p->views, user, &u->keep)) {
                kz_views_forget(p->views, user, &body);
                p->counters.users_forgotten_total++;
            } else {
                kz_views_carry(p->views, user, &u->keep, &body);
            }
            entry.owner = owner;
            entry.prev = kz_pl_head(p, user, KZ_CHAIN_NOTES);
        }
        entry.body = kz_buf_view(&body);
        if (kz_pl_group(p, body.size, &err) != KZ_OK ||
                kz_pl_put(p, &entry, NULL, NULL, &err) != KZ_OK)
            break;
        u->carry_index++;
        done = last;
    }
    kz_buf_done(&body);
    return done;
}

/* One step on the way from "these segments go" to "they may be dropped": true at its end, when all
 * that was carried is durable. A failed log ends in no drop. */
static bool carry_slice(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    struct kz_err err;

    if (u->carrying == CARRY_COPYING && copy_slice(p))
        u->carrying = CARRY_USERS;
    else if (u->carrying == CARRY_USERS && carry_users(p) && kz_pl_commit(p, &err) == KZ_OK) {
        u->carry_end = kz_log_end(p->log);
        u->carrying = CARRY_SYNCING;
    }
    if (u->carrying != CARRY_SYNCING || kz_log_durable(p->log) < u->carry_end)
        return false;
    u->carrying = CARRY_NOT;
    return true;
}

/* ---- backup ------------------------------------------------------------------------------------------- */

static void backup_work(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    char path[PATH_MAX];
    struct kz_fs *fs = p->options.fs;
    kz_lsn end;

    u->code = fs->ops->mkdir(fs, u->backup_dest, &u->err);
    snprintf(path, sizeof(path), "%s/log", u->backup_dest);
    if (u->code == KZ_OK)
        u->code = kz_log_backup(p->log, path, &end, NULL, NULL, &u->err);
    if (u->code == KZ_OK)
        u->code = kz_erasures_copy(fs, p->options.data_dir, u->backup_dest, &u->err);
}

enum kz_code kz_pl_backup(struct kz_query *query, const char *dest,
        void (*done)(void *arg, enum kz_code code, const struct kz_err *err), void *arg,
        struct kz_err *err)
{
    struct kz_pipeline *p = kz_pl_of_query(query);
    struct upkeep *u = &p->upkeep;

    if (strlen(dest) >= sizeof(u->backup_dest))
        return kz_fail(err, KZ_INVALID, "the path is too long");
    if (kz_fs_exists(p->options.fs, dest))
        return kz_fail(err, KZ_CONFLICT, "\"%s\" is there already; name a new directory", dest);
    if (p->failed)
        return kz_fail(err, KZ_IO, "%s", p->failure.message);
    if (u->backup_done)
        return kz_fail(err, KZ_CONFLICT, "another backup is being made, to \"%s\"", u->backup_dest);
    snprintf(u->backup_dest, sizeof(u->backup_dest), "%s", dest);
    u->backup_done = done;
    u->backup_arg = arg;
    u->next_ms = 0; /* the next tick begins it, or the first at which the thread is free */
    return KZ_OK;
}

/* ---- the tick ------------------------------------------------------------------------------------------ */

static void note_end(struct retry *retry, enum kz_code code)
{
    int64_t wait_ms = RETRY_FIRST_MS;

    if (code == KZ_OK) {
        *retry = (struct retry){0};
        return;
    }
    for (unsigned i = 0; i < retry->failures && wait_ms < RETRY_MAX_MS; i++)
        wait_ms *= 2;
    retry->failures++;
    retry->at_ms = kz_mono_ms() + KZ_MIN(wait_ms, (int64_t)RETRY_MAX_MS);
}

/* Takes up what the thread has done. */
static void take_work(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;

    if (u->work == checkpoint_work)
        take_checkpoint(p);
    else if (u->work != backup_work)
        note_end(u->seal_erases ? &u->erase_retry : &u->retry, u->code);
    if (u->code != KZ_OK && u->work != backup_work)
        kz_diag_warn("upkeep failed, will be tried again", "error=\"%s\"", u->err.message);
    if (u->work == backup_work) {
        u->backup_done(u->backup_arg, u->code, &u->err);
        u->backup_done = NULL;
    } else if (u->work == seal_work && u->code == KZ_OK) {
        if (u->sealed || u->rewritten)
            kz_diag_info("segments sealed", "sealed=%u rewritten=%u", u->sealed, u->rewritten);
        if (u->seal_erases) {
            kz_pl_erasures_done(p);
            u->erasing = false;
        }
    } else if (u->work == owners_work && u->code == KZ_OK) {
        carry_start(p);
    } else if (u->work == drop_work && u->code == KZ_OK) {
        kz_diag_info("old segments dropped", "below=%u", KZ_LSN_SEGMENT(u->drop_below));
    }
    u->seal_erases = false;
    set_idle(u);
}

/* At once, then each minute while readers meet more of it. */
static void say_damage(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    char last[KZ_PROBLEM_BYTES];
    int64_t now_ms = kz_mono_ms();

    if (kz_log_damages(p->log, NULL) == u->damages ||
            (u->damages && now_ms - u->damage_said_ms < DAMAGE_EVERY_MS))
        return;
    u->damages = kz_log_damages(p->log, last);
    u->damage_said_ms = now_ms;
    kz_diag_error("stored data is damaged",
            "reads=%llu last=\"%s\" remedy=\"kizashi fsck shows all of it; look at the disk (dmesg, "
            "SMART), then restore a backup\"",
            (unsigned long long)u->damages, last);
}

/* Said once where there is no room for the segment that a round begins, and once when there is. */
static void begin_erasing(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    struct kz_err err;

    if (kz_pl_erase_round(p, &err) == KZ_OK) {
        if (u->erase_waits_ms)
            kz_diag_info("erasures go on", "waited_ms=%lld",
                    (long long)(kz_mono_ms() - u->erase_waits_ms));
        u->erase_waits_ms = 0;
    } else if (!u->erase_waits_ms && !p->failed) {
        kz_diag_warn("erasures have to wait", "error=\"%s\" remedy=\"make room\"", err.message);
        u->erase_waits_ms = kz_mono_ms();
    }
}

/* Erasures that are open, after a start too; true while they have the thread or wait for checkpoints. */
static bool erase_step(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;

    if (u->erasing && u->checkpoint_before <= u->erase_lsn)
        return true;
    if (!kz_pl_collect_erased(p))
        u->erasing = false;
    else if (!u->erasing && (!u->erase_ms || kz_mono_ms() - u->erase_ms >= ERASE_EVERY_MS))
        begin_erasing(p);
    else if (u->erasing) {
        u->seal_erases = true;
        start_work(p, seal_work);
    }
    return u->erasing;
}

void kz_pl_upkeep_tick(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;
    int64_t now_ms = kz_mono_ms();

    if (now_ms < u->next_ms || p->failed)
        return;
    u->next_ms = now_ms + (u->carrying ? 20 : 500);
    say_damage(p);
    if (state_of(u) == UPKEEP_RUNNING)
        return;
    if (state_of(u) == UPKEEP_DONE)
        take_work(p);
    kz_pl_erasures_note(p);
    if (u->backup_done) {
        start_work(p, backup_work);
        return;
    }
    if (maybe_checkpoint(p))
        return;
    if (u->carrying) {
        if (carry_slice(p))
            start_work(p, drop_work);
        return;
    }
    if (now_ms >= u->erase_retry.at_ms && erase_step(p))
        return;
    if (now_ms < u->retry.at_ms)
        return;
    if (can_seal(p, u->checkpoint_before)) {
        kz_buf_clear(&u->erased);
        kz_buf_clear(&u->erased_below);
        kz_buf_clear(&u->erasures);
        u->seal_below = u->checkpoint_before;
        start_work(p, seal_work);
    } else if ((u->drop_below = retention_limit(p))) {
        start_work(p, owners_work);
    }
}

/* Nothing is under way on the thread when it returns: sealing and dropping go one at a time. */
static void finish_work(struct kz_pipeline *p)
{
    struct upkeep *u = &p->upkeep;

    pthread_mutex_lock(&u->lock);
    while (u->state == UPKEEP_RUNNING)
        pthread_cond_wait(&u->wake, &u->lock);
    pthread_mutex_unlock(&u->lock);
    if (u->state == UPKEEP_DONE)
        take_work(p);
    u->carrying = CARRY_NOT; /* begun again by whoever finds the segment too old again */
}

/* Erases what is asked for, in this thread. */
static enum kz_code erase_now(struct kz_pipeline *p, struct kz_err *err)
{
    struct upkeep *u = &p->upkeep;

    finish_work(p);
    KZ_TRY(kz_pl_erase_round(p, err));
    KZ_TRY(new_checkpoint(p, err));
    KZ_TRY(new_checkpoint(p, err));
    kz_pl_erasures_note(p);
    kz_pl_collect_erased(p);
    u->seal_erases = true;
    seal_work(p);
    u->seal_erases = u->erasing = false;
    if (u->code != KZ_OK) {
        *err = u->err;
        return u->code;
    }
    kz_pl_erasures_done(p);
    return KZ_OK;
}

enum kz_code kz_pipeline_erase(struct kz_pipeline *p, struct kz_err *err)
{
    KZ_TRY(erase_now(p, err));
    return kz_pl_checkpoint(p, err);
}

enum kz_code kz_pipeline_upkeep(struct kz_pipeline *p, struct kz_err *err)
{
    struct upkeep *u = &p->upkeep;

    KZ_TRY(erase_now(p, err));
    while ((u->drop_below = retention_limit(p))) {
        owners_work(p);
        if (u->code == KZ_OK) {
            carry_start(p);
            while (!carry_slice(p))
                KZ_TRY(p->failed ? kz_fail(err, KZ_IO, "%s", p->failure.message)
                                 : kz_pl_checkpoint(p, err));
            drop_work(p);
        }
        if (u->code != KZ_OK) {
            *err = u->err;
            return u->code;
        }
    }
    return kz_pl_checkpoint(p, err);
}
