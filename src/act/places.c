#include "act/places.h"

#include <stdlib.h>

#include "act/webhook.h"

void kz_places_init(struct kz_places *places, const struct kz_project *project)
{
    unsigned count = 0;

    for (size_t i = 0; i < project->action_count; i++)
        count += project->actions[i].deliver.kind == KZ_DELIVER_WEBHOOK;
    *places = (struct kz_places){
            .taken = kz_calloc(project->action_count + 1, sizeof(*places->taken)),
            .share = KZ_WEBHOOKS_ACTIVE_MAX / 2 / KZ_MAX(count, 1u),
    };
    places->common = KZ_WEBHOOKS_ACTIVE_MAX - places->share * count;
}

void kz_places_done(struct kz_places *places)
{
    free(places->taken);
    *places = (struct kz_places){0};
}

bool kz_places_any(const struct kz_places *places, size_t action)
{
    return places->taken[action] < places->share || places->common_taken < places->common;
}

void kz_places_take(struct kz_places *places, size_t action)
{
    KZ_BUG_ON(!kz_places_any(places, action));
    places->common_taken += places->taken[action] >= places->share;
    places->taken[action]++;
}

void kz_places_give(struct kz_places *places, size_t action)
{
    KZ_BUG_ON(!places->taken[action]);
    places->taken[action]--;
    places->common_taken -= places->taken[action] >= places->share;
}
