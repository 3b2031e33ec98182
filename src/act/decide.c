#include "act/act.h"

#include "base/hash.h"

double kz_act_holdout_place(const char *action, struct kz_user_key key)
{
    uint64_t hash = kz_hash_mix(kz_name_hash(kz_str(action)), kz_owner_hash(key, 0));

    return (double)(hash >> 11) * 0x1p-53;
}

static bool schedule_open(const struct kz_action_def *def, const struct kz_act_local *local)
{
    int start = def->schedule.start_minute, end = def->schedule.end_minute, day = local->weekday;
    bool inside;

    if (!def->schedule.set)
        return true;
    if (start <= end) {
        inside = local->minute >= start && local->minute < end;
    } else {
        /* Over midnight: the small hours belong to the day before. */
        inside = local->minute >= start || local->minute < end;
        if (local->minute < end)
            day = (day + 6) % 7;
    }
    return inside && (def->schedule.weekdays >> day & 1);
}

static bool held_out(const struct kz_action_def *def, const struct kz_act_input *input)
{
    if (input->state && input->state->holdout_assigned)
        return input->state->holdout_assigned == 2;
    return def->holdout > 0 && kz_act_holdout_place(def->name, input->key) < def->holdout;
}

int64_t kz_act_cap_since(const struct kz_cap_def *cap, int64_t now_ms, int64_t day_start_ms)
{
    return cap->every_ms ? now_ms - cap->every_ms + 1 : day_start_ms;
}

enum kz_decision kz_act_decide(const struct kz_action_def *def, const struct kz_act_input *input)
{
    if (input->paused)
        return KZ_DECISION_PAUSED;
    if (!schedule_open(def, &input->schedule_local))
        return KZ_DECISION_SCHEDULE;
    if (held_out(def, input))
        return KZ_DECISION_HOLDOUT;
    for (size_t i = 0; i < def->cap_count; i++)
        if (input->cap_used[i] >= def->caps[i].max)
            return KZ_DECISION_CAPPED;
    return def->mode == KZ_MODE_SHADOW ? KZ_DECISION_SHADOW : KZ_DECISION_DELIVER;
}
