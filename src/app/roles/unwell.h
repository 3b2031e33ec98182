/* app/roles/unwell.h -- when a backend that has something to say of itself cannot be used any more.
 *
 *     well --something to say--> noticed --KZ_UNWELL_MS, still--> gone
 *       ^                          |                                |
 *       '------- nothing more to say at a look ---------------------'
 *
 * It begins with the look that saw it, not with what was seen: a process that itself got no CPU for a
 * while finds silence behind it and answers that it has not read yet.
 *
 *
 * Threads  pure.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* Behind what a backend waits before it speaks (rpc/silence.h), and a turn: within 5 s. */
enum { KZ_UNWELL_MS = 2000 };

struct kz_unwell {
    bool noticed;
    int64_t since_ms;
    char problem[KZ_PROBLEM_BYTES];
    bool throttled;
};

/* What it says now (monotonic); "": nothing. */
void kz_unwell_look(struct kz_unwell *unwell, const char *problem, bool throttled, int64_t now_ms);
/* Whether it has said so for too long. */
bool kz_unwell_is_gone(const struct kz_unwell *unwell, int64_t now_ms);

/* When a backend is asked how it is: at once and then time and again while it has something to say, and
 * more seldom, where at all, though it has nothing to say: no call may have looked. */
struct kz_probe {
    int64_t unwell_every_ms, well_every_ms; /* from an answer on; the latter 0: never */
    bool begun;
    int64_t asked_ms;
};

/* Whether to ask now (monotonic). */
bool kz_probe_is_due(struct kz_probe *probe, bool unwell, int64_t now_ms);
/* It has answered, or not, which may have taken its time. */
void kz_probe_asked(struct kz_probe *probe, int64_t now_ms);
