/* app/roles/role_wait.h -- ?wait= where collect is a role of its own: what the events of a submission led to is
 * heard of as news (app/roles/news.h), by a subscription of this process's own, opened with the first who waits.
 *
 *     submit --> watch() --> ready? --> published --> landed() --> heard of all, or time is over --> done
 *
 * What a model answered is heard of as a user and an event id; what an event did not ask (not triggered,
 * debounced, delayed), under the words its line was marked with. Of several events one prediction of
 * each model is waited for, and a model is given up when none of them has asked it.
 *
 * Threads  the loop's, but for the puller's.
 */
#pragma once

#include "app/roles/role.h"

struct kz_waits;

struct kz_waits *kz_waits_new(struct kz_role_env *env);
/* Nobody waits any more. */
void kz_waits_free(struct kz_waits *waits);
/* The reader gives what a submission's `results` name, within its done(). */
struct kz_query *kz_waits_query(struct kz_waits *waits);

/* From when on news would be heard: a submission that waits is published only then. False: not yet, turn() is
 * called when it is. */
bool kz_waits_hears(struct kz_waits *waits);
/* Before the submission is published; ids of its items are set. Marks them as awaited. */
void kz_waits_watch(struct kz_waits *waits, struct kz_submission *submission);
/* Its events are on the bus: it is done now, or when what it waits for is there. */
void kz_waits_landed(struct kz_waits *waits, struct kz_submission *submission);
/* They are not: the caller tells it. */
void kz_waits_forget(struct kz_waits *waits, struct kz_submission *submission);
void kz_waits_turn(struct kz_waits *waits);
int kz_waits_next_ms(struct kz_waits *waits); /* 1000 where nobody waits */
/* All who wait are answered without. */
void kz_waits_stop(struct kz_waits *waits);
size_t kz_waits_count(const struct kz_waits *waits);
