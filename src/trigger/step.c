#include "trigger/trigger.h"

static void emit(struct kz_trigger_step *step, enum kz_trigger_op op, int64_t due_ms, int64_t ts_ms,
        kz_lsn event)
{
    KZ_BUG_ON(step->op_count == KZ_STEP_OPS_MAX);
    step->ops[step->op_count].op = op;
    step->ops[step->op_count].due_ms = due_ms;
    step->ops[step->op_count].event_ts_ms = ts_ms;
    step->ops[step->op_count].event = event;
    step->op_count++;
}

static void ask(struct kz_trigger_step *step, kz_lsn event, int64_t ts_ms, int64_t now_ms)
{
    step->ask = true;
    step->ask_event = event;
    step->ask_ts_ms = ts_ms;
    step->ask_now_ms = now_ms;
}

int64_t kz_trigger_due(const struct kz_trigger_state *state)
{
    if (state->delay_due_ms)
        return state->delay_due_ms;
    return state->pending ? state->window_due_ms : 0;
}

/* Whether a count rule is reached by a hit at `ts_ms`; records the hit either way. */
static bool count_reached(const struct kz_trigger_def *def, const struct kz_trigger_state *state,
        size_t hits, int64_t ts_ms, kz_lsn event, struct kz_trigger_step *step)
{
    emit(step, KZ_TRIGGER_COUNT, ts_ms - def->count.within_ms, ts_ms, event);
    if (hits + 1 < def->count.reaches || ts_ms < state->rearm_due_ms)
        return false;
    emit(step, KZ_TRIGGER_REACHED, ts_ms + def->count.rearm_ms, ts_ms, event);
    return true;
}

/* Another match begins the time anew; one that came late, with an older ts, does not shorten it. */
static void put_off(const struct kz_trigger_def *def, int64_t due_before_ms, int64_t ts_ms,
        kz_lsn event, struct kz_trigger_step *step)
{
    int64_t due_ms = ts_ms + def->delay_ms;

    if (due_ms < due_before_ms)
        return;
    emit(step, KZ_TRIGGER_DELAY, due_ms, ts_ms, event);
    if (!due_before_ms)
        step->timer_ms = due_ms;
}

void kz_trigger_on_event(const struct kz_trigger_def *def, const struct kz_trigger_state *state,
        size_t hits, const struct kz_match *match, int64_t ts_ms, kz_lsn event,
        struct kz_trigger_step *ret_step)
{
    static const struct kz_trigger_state nothing;
    struct kz_trigger_step *step = ret_step;
    bool cancelled;

    *step = (struct kz_trigger_step){0};
    if (!state)
        state = &nothing;
    cancelled = match->unless && kz_trigger_due(state);
    if (cancelled)
        emit(step, KZ_TRIGGER_CANCEL, 0, ts_ms, event);
    if (!match->when)
        return;
    if (def->count.of && !count_reached(def, state, hits, ts_ms, event, step))
        return;
    if (def->delay_ms) {
        put_off(def, cancelled ? 0 : state->delay_due_ms, ts_ms, event, step);
    } else if (!def->debounce_ms) {
        ask(step, event, ts_ms, ts_ms);
    } else if (ts_ms < state->window_due_ms) {
        emit(step, KZ_TRIGGER_PENDING, state->window_due_ms, ts_ms, event);
        if (!state->pending)
            step->timer_ms = state->window_due_ms;
    } else {
        emit(step, KZ_TRIGGER_WINDOW, ts_ms + def->debounce_ms, ts_ms, event);
        ask(step, event, ts_ms, ts_ms);
    }
}

void kz_trigger_on_timer(
        const struct kz_trigger_state *state, int64_t due_ms, struct kz_trigger_step *ret_step)
{
    struct kz_trigger_step *step = ret_step;

    *step = (struct kz_trigger_step){0};
    if (!state || kz_trigger_due(state) != due_ms)
        return;
    emit(step, KZ_TRIGGER_FIRE, due_ms, state->pending_ts_ms, state->pending);
    ask(step, state->pending, state->pending_ts_ms, due_ms);
}
