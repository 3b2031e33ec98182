/* app/pipeline/receiver.h -- what the process' log says of an action's receiver: a line when it begins
 * to fail, one a minute while it does, one when it is well again. Between two attempts there may be ten
 * minutes, and nothing else says why.
 *
 * Threads  the loop's.
 */
#pragma once

#include "act/webhook.h"
#include "contract/project.h"

struct kz_receiver {
    bool failing; /* at the last attempt */
    int64_t said_ms;
};

/* To be called with every outcome of the action's webhooks. */
void kz_receiver_say(struct kz_receiver *receiver, const struct kz_action_def *def,
        const struct kz_webhook_attempt *attempt);
