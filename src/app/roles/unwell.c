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
