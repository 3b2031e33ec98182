/* app/pipeline/waiting.h -- submissions that wait for predictions, by the end of their time.
 *
 * A binary heap: whoever waits longest is found at once, and it does not matter how many do when one is
 * answered. A submission knows its place (`wait_place`), which is 0 before it is added first.
 *
 * Owner    whoever answers the submissions, which are borrowed.
 * Threads  one.
 */
#pragma once

#include "contract/intake.h"

struct kz_waiting {
    struct kz_submission **items;
    size_t count, capacity;
};

/* By its wait_until_us, which does not change while it is in there. */
void kz_waiting_add(struct kz_waiting *waiting, struct kz_submission *submission);
/* Also one that is not there. */
void kz_waiting_remove(struct kz_waiting *waiting, struct kz_submission *submission);
/* Whose time is over first; NULL: nobody waits. */
struct kz_submission *kz_waiting_first(const struct kz_waiting *waiting);
void kz_waiting_done(struct kz_waiting *waiting);
