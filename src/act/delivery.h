/* act/delivery.h -- what a receiver is given of a decision.
 *
 * Threads  any; pure.
 */
#pragma once

#include "base/buf.h"
#include "contract/record.h"

/* Appends the body of a webhook, the data of an ACTIONS message. `decision` is a DECISION record. */
void kz_delivery_json(const struct kz_record *decision, struct kz_buf *out);
