/* act/act.h -- what is done about a new prediction?
 *
 * `when` and `having` have held; this decides the rest, in the order of DESIGN.md section 3:
 * schedule, holdout, caps. A step function: the action, what is known of the user and our clock in,
 * a decision out. The pipeline logs the decision in the commit of the prediction, then delivers.
 *
 * Threads  any; pure.
 */
#pragma once

#include "contract/project.h"
#include "contract/state.h"

struct kz_act_local { /* a moment in a time zone */
    int weekday;      /* 0 Monday ... 6 Sunday */
    int minute;       /* of the day */
};

struct kz_act_input {
    int64_t now_ms; /* our clock */
    bool paused;
    struct kz_user_key key;
    const struct kz_action_state *state; /* NULL: nothing assigned yet */
    struct kz_act_local schedule_local;  /* in schedule.tz */
    const size_t *cap_used;              /* [cap_count]: deliveries since kz_act_cap_since() */
};

enum kz_decision kz_act_decide(const struct kz_action_def *def, const struct kz_act_input *input);

/* From when deliveries count against a cap; `day_start_ms` is UTC of the local day's midnight. */
int64_t kz_act_cap_since(const struct kz_cap_def *cap, int64_t now_ms, int64_t day_start_ms);

/* A user's place in [0, 1) for an action: held out below `holdout`. Stable for the key, independent
 * between actions. */
double kz_act_holdout_place(const char *action, struct kz_user_key key);
