/* app/roles/news.h -- what infer and serve put on the bus about a user: that something happened, what is
 * to be delivered, and what an action did.
 *
 * NEWS, to every `serve` (and whoever waits for predictions): a RESULT or DECISION record, binary.
 * Attribute kind=prediction | end | action | webhook: so the shared subscription "deliver" has only
 * what is to be posted. A RESULT of a model that others come after has attribute asked: those that are
 * asked now, each between commas (",churn,buy,"; "," for none). From process, where a client of collect waits for predictions (?wait=):
 * kind=unasked, attribute awaited as it came with the event, and of each model that the event did not
 * ask, why: {"counter":"not_triggered","churn":"debounced"}.
 *
 * ACTIONS, to others, of `deliver: pubsub`: the JSON object that a webhook gets in its body; attributes
 * action, project and the decision's key (`idempotency-key`). At least once under that key.
 *
 * Threads  pure.
 * Fails    KZ_CORRUPT, KZ_UNSUPPORTED: checked like any foreign bytes.
 */
#pragma once

#include "contract/bus.h"
#include "contract/intake.h"
#include "contract/project.h"

#define KZ_ATTRIBUTE_KIND "kind"                       /* of NEWS */
#define KZ_ATTRIBUTE_AWAITED "awaited"                 /* of NEWS: kind=unasked */
#define KZ_ATTRIBUTE_ASKED "asked"                     /* of NEWS: a RESULT */
#define KZ_ATTRIBUTE_ACTION "action"                   /* of ACTIONS */
#define KZ_ATTRIBUTE_IDEMPOTENCY_KEY "idempotency-key" /* of ACTIONS */
#define KZ_ATTRIBUTE_PROJECT "project"                 /* of ACTIONS */

#define KZ_SUBSCRIPTION_DELIVER "deliver" /* of NEWS: kind=webhook */

/* NULL: a record that is no news (an undelivered decision). */
const char *kz_news_kind_of(const struct kz_record *record);
void kz_news_encode(const struct kz_record *record, struct kz_buf *out);
/* The record lies in `hold` (cleared first). RESULT or DECISION, checked. */
KZ_MUST_USE enum kz_code kz_news_decode(struct kz_str bytes, struct kz_buf *hold,
        const struct kz_record **ret_record, struct kz_err *err);

#define KZ_NEWS_UNASKED "unasked"
/* `reasons`: of each model of the project; NULL: it was asked. false, and nothing put: all were. */
bool kz_unasked_put(
        const struct kz_project *project, const char *const *reasons, struct kz_buf *out);
/* Fills `ret_reasons` [model_count] with reasons as of struct kz_wait_pending, NULL where none is given;
 * models that are not known here are passed over. */
KZ_MUST_USE enum kz_code kz_unasked_read(struct kz_str text, const struct kz_project *project,
        const char **ret_reasons, struct kz_err *err);

/* Attribute asked: `model` is among those that a RESULT names as asked. */
bool kz_asked_has(struct kz_str asked, const char *model);

/* Unique for the project: kz-<project>-<owner>-<seq>. */
enum { KZ_DELIVERY_KEY_BYTES = 160 };
void kz_delivery_key(const struct kz_project *project, uint64_t owner, uint64_t decision,
        char out[KZ_DELIVERY_KEY_BYTES]);

/* What an action did, as an event of the user's history: its line in an EVENTS message. `what`:
 * "delivered", "shadowed", "held_out", "shown". The same id each time it is told. */
void kz_action_event_put(const struct kz_project *project, const struct kz_record *decision,
        const char *what, int64_t at_ms, struct kz_buf *out);
/* What a new decision is told as. */
const char *kz_action_event_what(const struct kz_record *decision);
