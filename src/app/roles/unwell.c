#include "app/roles/unwell.h"

#include <stdio.h>

void kz_unwell_look(struct kz_unwell *unwell, const char *problem, bool throttled, int64_t now_ms)
{
    if (*problem && !unwell->noticed)
        unwell->since_ms = now_ms;
    unwell->noticed = *problem;
    unwell->throttled = throttled;
    snprintf(unwell->problem, sizeof(unwell->problem), "%s", problem);
}

bool kz_unwell_is_gone(const struct kz_unwell *unwell, int64_t now_ms)
{
    return unwell->noticed && now_ms - unwell->since_ms >= KZ_UNWELL_MS;
}

bool kz_probe_is_due(struct kz_probe *probe, bool unwell, int64_t now_ms)
{
    int64_t every_ms = unwell ? probe->unwell_every_ms : probe->well_every_ms;

    if (!probe->begun) {
        probe->begun = true;
        probe->asked_ms = unwell ? now_ms - every_ms : now_ms;
    }
    return (unwell || every_ms) && now_ms - probe->asked_ms >= every_ms;
}

void kz_probe_asked(struct kz_probe *probe, int64_t now_ms)
{
    probe->asked_ms = now_ms;
}
