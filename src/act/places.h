/* act/places.h -- who may post: places for webhooks, shared out among the actions that post.
 *
 * Half of the KZ_WEBHOOKS_ACTIVE_MAX places are each action's own share, the other half is for whoever
 * needs it: a receiver that does not answer leaves the others theirs.
 *
 * Owner    whoever submits attempts (act/webhook.h).
 * Threads  one.
 */
#pragma once

#include "contract/project.h"

struct kz_places {
    unsigned *taken; /* of each action of the project */
    unsigned share;
    unsigned common, common_taken; /* for everybody, beyond the shares */
};

void kz_places_init(struct kz_places *places, const struct kz_project *project);
void kz_places_done(struct kz_places *places);
/* `action`: its index in the project. */
bool kz_places_any(const struct kz_places *places, size_t action);
/* One that kz_places_any() has told of. */
void kz_places_take(struct kz_places *places, size_t action);
void kz_places_give(struct kz_places *places, size_t action);
