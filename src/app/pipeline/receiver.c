#include "app/pipeline/receiver.h"

#include "base/diag.h"
#include "sys/clock.h"

enum { SAY_EVERY_MS = 60000 };

void kz_receiver_say(struct kz_receiver *receiver, const struct kz_action_def *def,
        const struct kz_webhook_attempt *attempt)
{
    int64_t now_ms = kz_mono_ms();

    if (attempt->ok && receiver->failing) {
        kz_diag_info("webhooks are taken again", "action=%s", def->name);
        receiver->failing = false;
    } else if (!attempt->ok && (!receiver->failing || now_ms - receiver->said_ms >= SAY_EVERY_MS)) {
        kz_diag_warn("a webhook failed", "action=%s attempt=%u of=%u reason=\"%s\"", def->name,
                (unsigned)attempt->attempt_count,
                attempt->final ? (unsigned)attempt->attempt_count
                               : (unsigned)def->deliver.attempts_max,
                attempt->detail);
        receiver->failing = true;
        receiver->said_ms = now_ms;
    }
}
