/* app/roles/role_serve_deliver.c -- webhooks: decisions that wait in users' rows are posted, at least once,
 * under one idempotency key.
 *
 *     message of "deliver" --> QUEUE --> LOOK --> POST --> END --> gone (acknowledged)
 *     found by the sweep   -->   ^      worker   libcurl  worker
 *                                +-------- WAIT ----------+ failed: the row says when again
 *
 * Invariants
 *   D1  the row is what counts: an attempt is made only while the delivery waits there, and its end
 *       is put there by check-and-set, attempts and the time of the next one included.
 *   D2  a message is acknowledged once the delivery has ended. One that waits long lets its message
 *       go when many are held: then the row, and the sweep, are what is left of it.
 *   D3  whoever is looked at or posted has one of its action's places (act/places.h); in QUEUE are those
 *       who have none yet, so that a receiver that hangs holds up its own deliveries only.
 *   D4  the sweep goes through all rows, part by part, and finds what was due and nobody has tried.
 *
 * Two processes may post the same at once (a message that came again, a sweep): the receiver drops
 * what it has seen under the key.
 */

#include "app/roles/role_serve_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "act/delivery.h"
#include "act/places.h"
#include "app/pipeline/receiver.h"
#include "app/roles/news.h"
#include "base/diag.h"
#include "sys/clock.h"
#include "sys/random.h"

enum {
    HELD_MAX = 1000,        /* messages of the subscription */
    HELD_WAITING_MAX = 500, /* of these by deliveries in QUEUE and WAIT */
    PULL_MAX = 100,
    PULL_WAIT_MS = 200,
    SWEEP_PARTS = 64,
    SWEEP_EVERY_MS = 60000,  /* a part: once around in about an hour */
    SWEEP_GRACE_MS = 120000, /* so long after it was due it is taken for forgotten */
    AGAIN_MS = 1000,
};

enum parcel_state { PARCEL_LOOK, PARCEL_POST, PARCEL_END, PARCEL_WAIT, PARCEL_QUEUE };

struct parcel {
    struct job job; /* first */
    enum parcel_state state;
    struct kz_bus_delivery *delivery; /* NULL: none is held */
    struct kz_buf record;             /* the DECISION */
    size_t place;                     /* D3: the action's index and 1; 0: it has none */
    bool waits;                       /* LOOK: it still does */
    uint32_t attempt_count;
    int64_t due_ms; /* our clock */
    enum kz_delivery_state end;
    char detail[200];
    struct parcel *next;
};

struct deliveries {
    struct kz_webhooks *webhooks;
    struct kz_thread puller;
    struct kz_bus_source *source; /* the puller's until it has ended; ack and nack from any */
    struct parcel *parcels;       /* the loop's; who came first is first */
    size_t count, waiting_held;
    struct kz_places places;
    unsigned part;    /* of the next sweep */
    int64_t sweep_ms; /* monotonic */
    bool sweeping;
    struct kz_prng dice;
    struct kz_receiver *receivers; /* one an action */
};

static const struct kz_record *decision_of(const struct parcel *parcel)
{
    return (const void *)parcel->record.data;
}

static const struct kz_action_def *action_of(
        const struct role_serve *role, const struct parcel *parcel)
{
    const struct kz_decision_body *body = (const void *)(decision_of(parcel) + 1);
    const struct kz_action_def *def = kz_project_action(role->env->project,
            kz_span_str(kz_record_body(decision_of(parcel)), body->action_name));

    return def && def->deliver.kind == KZ_DELIVER_WEBHOOK ? def : NULL;
}

/* ---- life of a parcel: the loop's ----------------------------------------------------------------- */

static bool is_waiting(const struct parcel *parcel)
{
    return parcel->state == PARCEL_QUEUE || parcel->state == PARCEL_WAIT;
}

static void let_go(struct role_serve *role, struct parcel *parcel, bool done)
{
    struct kz_bus *bus = role->env->bus;

    if (!parcel->delivery)
        return;
    (done ? bus->ops->ack : bus->ops->nack)(role->deliveries->source, &parcel->delivery, 1);
    role->deliveries->waiting_held -= is_waiting(parcel);
    parcel->delivery = NULL;
}

/* True as well where the project has no such action any more: what needs no post needs no place. */
static bool take_place(struct role_serve *role, struct parcel *parcel)
{
    const struct kz_action_def *def = action_of(role, parcel);
    struct kz_places *places = &role->deliveries->places;
    size_t action = def ? (size_t)(def - role->env->project->actions) : 0;

    if (!def)
        return true;
    if (!kz_places_any(places, action))
        return false;
    kz_places_take(places, action);
    parcel->place = action + 1;
    return true;
}

static void give_place(struct role_serve *role, struct parcel *parcel)
{
    if (parcel->place)
        kz_places_give(&role->deliveries->places, parcel->place - 1);
    parcel->place = 0;
}

static void parcel_free(struct parcel *parcel)
{
    kz_buf_done(&parcel->record);
    free(parcel);
}

static void gone(struct role_serve *role, struct parcel *parcel, bool done)
{
    struct parcel **at = &role->deliveries->parcels;

    while (*at != parcel)
        at = &(*at)->next;
    *at = parcel->next;
    role->deliveries->count--;
    give_place(role, parcel);
    let_go(role, parcel, done);
    parcel_free(parcel);
}

static void wait_in(struct role_serve *role, struct parcel *parcel, enum parcel_state state)
{
    struct deliveries *d = role->deliveries;

    give_place(role, parcel);
    parcel->state = state;
    if (!parcel->delivery)
        return;
    d->waiting_held++;
    if (d->waiting_held > HELD_WAITING_MAX)
        let_go(role, parcel, true); /* D2 */
}

static void wait_until(struct role_serve *role, struct parcel *parcel, int64_t due_ms)
{
    parcel->due_ms = due_ms;
    wait_in(role, parcel, PARCEL_WAIT);
}

/* ---- END ---------------------------------------------------------------------------------------------- */

static enum kz_code put_gave_up(
        struct role_serve *role, const struct parcel *parcel, struct kz_err *err)
{
    const struct kz_record *decision = decision_of(parcel);
    struct kz_str bytes = kz_record_body(decision);
    const struct kz_decision_body *body = (const void *)bytes.ptr;
    struct kz_deadletter_body fixed = {.stage = KZ_STAGE_DELIVER, .ref = decision->seq};
    struct kz_record head = {.type = KZ_RECORD_DEADLETTER,
            .seq = decision->seq + 1,
            .at_ms = kz_clock_ms(),
            .owner = decision->owner};
    struct kz_buf record = {0}, payload = {0};
    struct kz_body_writer w;
    enum kz_code rc;

    kz_delivery_json(decision, &payload);
    kz_buf_put(&record, &head, sizeof(head));
    w = kz_body_begin(&record, &fixed, sizeof(fixed));
    kz_body_span(&w, offsetof(struct kz_deadletter_body, code), KZ_STR("webhook"));
    kz_body_span(&w, offsetof(struct kz_deadletter_body, reason), kz_str(parcel->detail));
    kz_body_span(
            &w, offsetof(struct kz_deadletter_body, model), kz_span_str(bytes, body->action_name));
    kz_body_span(&w, offsetof(struct kz_deadletter_body, payload), kz_buf_view(&payload));
    ((struct kz_record *)(void *)record.data)->size = (uint32_t)record.size;
    rc = kz_serve_put_letter(role, (const void *)record.data, err);
    kz_buf_done(&record);
    kz_buf_done(&payload);
    return rc;
}

static void run_end(struct job *job)
{
    struct parcel *parcel = KZ_CONTAINER_OF(job, struct parcel, job);
    struct delivery_end end = {
            .owner = decision_of(parcel)->owner,
            .decision = decision_of(parcel),
            .state = parcel->end,
            .attempt_count = parcel->attempt_count,
            .retry_at_ms = parcel->end == KZ_DELIVERY_FAILED ? parcel->due_ms : 0,
            .detail = kz_str(parcel->detail),
    };

    job->code = parcel->end == KZ_DELIVERY_GAVE_UP ? put_gave_up(job->role, parcel, &job->err)
                                                   : KZ_OK;
    if (job->code == KZ_OK)
        job->code = kz_serve_end_delivery(job->role, &end, &job->err);
}

static void ended(struct job *job)
{
    struct parcel *parcel = KZ_CONTAINER_OF(job, struct parcel, job);
    struct role_serve *role = job->role;

    if (job->code == KZ_NOT_FOUND) { /* somebody else has ended it, or the user is erased */
        gone(role, parcel, true);
    } else if (job->code != KZ_OK) {
        kz_diag_warn("what became of a webhook could not be kept: it is posted again",
                "error=\"%s\"", job->err.message);
        wait_until(role, parcel, kz_clock_ms() + AGAIN_MS);
    } else if (parcel->end == KZ_DELIVERY_FAILED) {
        wait_until(role, parcel, parcel->due_ms);
    } else {
        role->counters.deliveries_sent_total += parcel->end == KZ_DELIVERY_SENT;
        role->counters.deliveries_given_up_total += parcel->end == KZ_DELIVERY_GAVE_UP;
        gone(role, parcel, true);
    }
}

static void end_with(struct role_serve *role, struct parcel *parcel, enum kz_delivery_state state)
{
    parcel->state = PARCEL_END;
    parcel->end = state;
    parcel->job = (struct job){.role = role, .run = run_end, .done = ended};
    kz_serve_job(role, &parcel->job);
}

/* ---- POST --------------------------------------------------------------------------------------------- */

static void post(struct role_serve *role, struct parcel *parcel)
{
    const struct kz_action_def *def = action_of(role, parcel);
    const struct kz_record *decision = decision_of(parcel);
    struct kz_webhook_attempt *a;
    char project[KZ_DELIVERY_KEY_BYTES];

    if (!def) {
        snprintf(
                parcel->detail, sizeof(parcel->detail), "the project has no such webhook any more");
        end_with(role, parcel, KZ_DELIVERY_GAVE_UP);
        return;
    }
    snprintf(project, sizeof(project), "%.100s-%016" PRIx64, role->env->project->name,
            decision->owner); /* kz_delivery_key() */
    parcel->state = PARCEL_POST;
    parcel->attempt_count++;
    a = kz_calloc(1, sizeof(*a));
    a->decision = decision->seq;
    a->owner = decision->owner;
    a->attempt_count = parcel->attempt_count;
    a->url = kz_strdup(def->deliver.url);
    a->secret = def->deliver.secret ? kz_strdup(def->deliver.secret) : NULL;
    a->project = kz_strdup(project);
    a->timeout_ms = def->deliver.timeout_ms;
    kz_delivery_json(decision, &a->body);
    role->counts.webhooks_begun_total++;
    if (kz_webhooks_submit(role->deliveries->webhooks, a))
        return;
    kz_webhook_attempt_free(a);
    parcel->attempt_count--;
    wait_until(role, parcel, kz_clock_ms() + AGAIN_MS);
}

/* Where it is linked, or where it would be. */
static struct parcel **find_parcel(const struct role_serve *role, uint64_t owner, uint64_t decision)
{
    struct parcel **at = &role->deliveries->parcels;

    while (*at && (decision_of(*at)->owner != owner || decision_of(*at)->seq != decision))
        at = &(*at)->next;
    return at;
}

static void take_outcome(struct role_serve *role, const struct kz_webhook_attempt *a)
{
    struct parcel *parcel = *find_parcel(role, a->owner, a->decision);
    const struct kz_action_def *def = parcel ? action_of(role, parcel) : NULL;

    if (!parcel || parcel->state != PARCEL_POST)
        return;
    give_place(role, parcel);
    memcpy(parcel->detail, a->detail, sizeof(parcel->detail));
    if (def)
        kz_receiver_say(&role->deliveries->receivers[def - role->env->project->actions], def, a);
    if (a->ok) {
        end_with(role, parcel, KZ_DELIVERY_SENT);
        return;
    }
    role->counters.deliveries_failed_total++;
    if (!def || a->final || a->attempt_count >= def->deliver.attempts_max) {
        end_with(role, parcel, KZ_DELIVERY_GAVE_UP);
        return;
    }
    parcel->due_ms = kz_clock_ms() +
                     kz_webhook_retry_ms(a->attempt_count, kz_prng_unit(&role->deliveries->dice));
    end_with(role, parcel, KZ_DELIVERY_FAILED);
}

/* ---- LOOK --------------------------------------------------------------------------------------------- */

/* D1 */
static void run_look(struct job *job)
{
    struct parcel *parcel = KZ_CONTAINER_OF(job, struct parcel, job);
    struct kz_user_row raw = {0};
    struct kz_rowstate row = {0};
    uint64_t owner;

    parcel->waits = false;
    job->code = kz_serve_row(job->role, decision_of(parcel)->owner, &owner, &raw, &row, &job->err);
    for (size_t i = 0; job->code == KZ_OK && i < row.slot_count; i++) {
        const struct kz_slot *slot = &row.slots[i];

        if (slot->kind != KZ_SLOT_DELIVERY || slot->delivery.decision != decision_of(parcel)->seq)
            continue;
        parcel->waits = true;
        parcel->attempt_count = slot->delivery.attempt_count;
        parcel->due_ms = slot->delivery.retry_at_ms;
    }
    kz_buf_done(&raw.bytes);
    kz_rowstate_done(&row);
}

static void looked(struct job *job)
{
    struct parcel *parcel = KZ_CONTAINER_OF(job, struct parcel, job);
    struct role_serve *role = job->role;

    if (job->code != KZ_OK)
        wait_until(role, parcel, kz_clock_ms() + AGAIN_MS);
    else if (!parcel->waits)
        gone(role, parcel, true);
    else if (parcel->due_ms > kz_clock_ms())
        wait_until(role, parcel, parcel->due_ms);
    else if (role->stopping)
        gone(role, parcel, false);
    else
        post(role, parcel);
}

/* Or waits for a place. */
static void look(struct role_serve *role, struct parcel *parcel)
{
    if (is_waiting(parcel) && parcel->delivery)
        role->deliveries->waiting_held--;
    if (!take_place(role, parcel)) {
        wait_in(role, parcel, PARCEL_QUEUE);
        return;
    }
    parcel->state = PARCEL_LOOK;
    parcel->job = (struct job){.role = role, .run = run_look, .done = looked};
    kz_serve_job(role, &parcel->job);
}

/* A message came, or the sweep found one. */
static void arrived(struct job *job)
{
    struct parcel *parcel = KZ_CONTAINER_OF(job, struct parcel, job);
    struct role_serve *role = job->role;
    struct parcel **at = find_parcel(role, decision_of(parcel)->owner, decision_of(parcel)->seq);

    if (*at || role->stopping) {
        let_go(role, parcel, *at != NULL);
        parcel_free(parcel);
        return;
    }
    *at = parcel;
    role->deliveries->count++;
    look(role, parcel);
}

static struct parcel *new_parcel(struct role_serve *role, const struct kz_record *decision)
{
    struct parcel *parcel = kz_calloc(1, sizeof(*parcel));

    parcel->job = (struct job){.role = role, .done = arrived};
    kz_buf_put(&parcel->record, decision, decision->size);
    return parcel;
}

/* ---- the puller ---------------------------------------------------------------------------------------- */

static bool is_over(struct role_serve *role)
{
    bool over;

    pthread_mutex_lock(&role->lock);
    over = role->stop_pulling;
    pthread_mutex_unlock(&role->lock);
    return over;
}

static void take_message(struct role_serve *role, struct kz_bus_delivery *delivery)
{
    const struct kz_record *record;
    struct kz_buf hold = {0};
    struct kz_err err;

    if (kz_news_decode(delivery->data, &hold, &record, &err) == KZ_OK &&
            record->type == KZ_RECORD_DECISION) {
        struct parcel *parcel = new_parcel(role, record);

        parcel->delivery = delivery;
        kz_serve_done(role, &parcel->job);
    } else {
        kz_diag_warn("a message on news is none", "subscription=" KZ_SUBSCRIPTION_DELIVER);
        role->env->bus->ops->ack(role->deliveries->source, &delivery, 1);
    }
    kz_buf_done(&hold);
}

static void run_puller(void *arg)
{
    struct role_serve *role = arg;
    struct kz_bus *bus = role->env->bus;
    struct kz_bus_delivery *deliveries[PULL_MAX];
    bool warned = false;

    while (!is_over(role)) {
        size_t count = 0;
        struct kz_err err;
        enum kz_code rc = bus->ops->pull(
                role->deliveries->source, deliveries, PULL_MAX, PULL_WAIT_MS, &count, &err);

        if (rc != KZ_OK && !warned)
            kz_diag_warn("webhooks cannot be pulled", "error=\"%s\"", err.message);
        warned = rc != KZ_OK;
        for (size_t i = 0; rc == KZ_OK && i < count; i++)
            take_message(role, deliveries[i]);
    }
}

/* ---- the sweep ------------------------------------------------------------------------------------------- */

struct sweep {
    struct job job; /* first */
    uint64_t from, until;
    int64_t before_ms;
    struct kz_rowstate row;
    struct kz_buf found; /* DECISION records at multiples of 8 */
};

static enum kz_code sweep_row(void *arg, uint64_t owner, const struct kz_user_row *raw)
{
    struct sweep *sweep = arg;
    static const char zeros[8];

    (void)owner;
    if (kz_rowstate_decode(raw->state, &sweep->row, NULL) != KZ_OK || sweep->row.merged_into)
        return KZ_OK; /* whoever reads it says so */
    for (size_t i = 0; i < sweep->row.slot_count; i++) {
        const struct kz_slot *slot = &sweep->row.slots[i];
        const struct kz_record *record;

        if (slot->kind != KZ_SLOT_DELIVERY || slot->delivery.kind != KZ_DELIVER_WEBHOOK)
            continue;
        record = kz_rowstate_record(&sweep->row, slot->delivery.decision_lsn);
        if (!record || KZ_MAX(record->at_ms, slot->delivery.retry_at_ms) > sweep->before_ms)
            continue;
        kz_buf_put(&sweep->found, record, record->size);
        kz_buf_put(&sweep->found, zeros, -sweep->found.size % 8);
    }
    return KZ_OK;
}

static void run_sweep(struct job *job)
{
    struct sweep *sweep = KZ_CONTAINER_OF(job, struct sweep, job);
    struct kz_predictions *predictions = job->role->env->predictions;

    job->code = predictions->ops->scan(
            predictions, sweep->from, sweep->until, sweep_row, sweep, &job->err);
}

static void swept(struct job *job)
{
    struct sweep *sweep = KZ_CONTAINER_OF(job, struct sweep, job);
    struct role_serve *role = job->role;

    for (size_t at = 0; at < sweep->found.size;) {
        const struct kz_record *record = (const void *)(sweep->found.data + at);

        at += KZ_ALIGN8((size_t)record->size);
        if (*find_parcel(role, record->owner, record->seq))
            continue;
        role->counts.webhooks_swept_total++;
        arrived(&new_parcel(role, record)->job);
    }
    if (job->code != KZ_OK)
        kz_diag_warn("webhooks that were forgotten could not be looked for", "error=\"%s\"",
                job->err.message);
    role->deliveries->sweeping = false;
    kz_rowstate_done(&sweep->row);
    kz_buf_done(&sweep->found);
    free(sweep);
}

static void begin_sweep(struct role_serve *role)
{
    struct deliveries *d = role->deliveries;
    uint64_t width = UINT64_MAX / SWEEP_PARTS + 1;
    struct sweep *sweep = kz_calloc(1, sizeof(*sweep));

    sweep->job = (struct job){.role = role, .run = run_sweep, .done = swept};
    sweep->from = d->part * width;
    sweep->until = (d->part + 1) * width; /* of the last part 0: to the end */
    sweep->before_ms = kz_clock_ms() - role->sweep_grace_ms;
    d->part = (d->part + 1) % SWEEP_PARTS;
    d->sweep_ms = kz_mono_ms() + role->sweep_every_ms;
    d->sweeping = true;
    kz_serve_job(role, &sweep->job);
}

/* ---- the role's side ------------------------------------------------------------------------------------- */

static bool has_webhooks(const struct kz_project *project)
{
    for (size_t a = 0; a < project->action_count; a++)
        if (project->actions[a].deliver.kind == KZ_DELIVER_WEBHOOK)
            return true;
    return false;
}

enum kz_code kz_deliveries_open(struct role_serve *role, struct kz_err *err)
{
    struct kz_bus_pull_options options = {
            .topic = KZ_TOPIC_NEWS, .name = KZ_SUBSCRIPTION_DELIVER, .messages_max = HELD_MAX};
    struct deliveries *d = role->deliveries = kz_calloc(1, sizeof(*d));

    kz_prng_init(&d->dice, (uint64_t)kz_mono_ns());
    d->receivers = kz_calloc(role->env->project->action_count + 1, sizeof(*d->receivers));
    d->part = (unsigned)kz_prng_below(&d->dice, SWEEP_PARTS); /* replicas begin apart */
    if (!role->sweep_every_ms)
        role->sweep_every_ms = SWEEP_EVERY_MS;
    if (!role->sweep_grace_ms)
        role->sweep_grace_ms = SWEEP_GRACE_MS;
    d->sweep_ms = kz_mono_ms() + role->sweep_every_ms;
    kz_places_init(&d->places, role->env->project);
    if (!has_webhooks(role->env->project))
        return KZ_OK;
    KZ_TRY(kz_webhooks_open(role->env->wake, role->env->wake_arg, &d->webhooks, err));
    KZ_TRY(role->env->bus->ops->open_source(role->env->bus, &options, &d->source, err));
    return kz_thread_start(&d->puller, "kz-deliver", run_puller, role, err);
}

void kz_deliveries_turn(struct role_serve *role)
{
    struct deliveries *d = role->deliveries;
    struct kz_webhook_attempt *a = d->webhooks ? kz_webhooks_take(d->webhooks) : NULL;
    int64_t now_ms = kz_clock_ms();

    while (a) {
        struct kz_webhook_attempt *next = a->next;

        take_outcome(role, a);
        kz_webhook_attempt_free(a);
        a = next;
    }
    for (struct parcel *parcel = d->parcels, *next; parcel && !role->stopping; parcel = next) {
        next = parcel->next;
        if (parcel->state == PARCEL_QUEUE ||
                (parcel->state == PARCEL_WAIT && parcel->due_ms <= now_ms))
            look(role, parcel);
    }
    if (d->webhooks && !d->sweeping && !role->stopping && kz_mono_ms() >= d->sweep_ms)
        begin_sweep(role);
}

void kz_deliveries_sweep_now(struct role_serve *role)
{
    role->deliveries->sweep_ms = 0;
}

void kz_deliveries_stop(struct role_serve *role)
{
    for (struct parcel *parcel = role->deliveries->parcels, *next; parcel; parcel = next) {
        next = parcel->next;
        if (is_waiting(parcel))
            gone(role, parcel, false);
    }
}

bool kz_deliveries_idle(const struct role_serve *role)
{
    return !role->deliveries || !role->deliveries->count;
}

void kz_deliveries_close(struct role_serve *role)
{
    struct deliveries *d = role->deliveries;

    if (!d)
        return;
    kz_thread_join(&d->puller); /* `stop_pulling` was set */
    kz_webhooks_close(d->webhooks);
    while (d->parcels) {
        struct parcel *parcel = d->parcels;

        d->parcels = parcel->next;
        parcel_free(parcel); /* its message is given back with the source */
    }
    if (d->source)
        role->env->bus->ops->close_source(d->source);
    kz_places_done(&d->places);
    free(d->receivers);
    free(d);
    role->deliveries = NULL;
}

void kz_deliveries_backlog(const struct role_serve *role, struct kz_role_backlog *ret)
{
    const struct parcel *parcel = role->deliveries ? role->deliveries->parcels : NULL;

    for (; parcel; parcel = parcel->next) {
        int64_t at_ms = parcel->delivery ? parcel->delivery->published_ms : 0;

        ret->messages++;
        if (at_ms && parcel->state != PARCEL_WAIT && (!ret->oldest_ms || at_ms < ret->oldest_ms))
            ret->oldest_ms = at_ms;
    }
}

int64_t kz_deliveries_next_ms(const struct role_serve *role)
{
    int64_t next_ms = INT64_MAX, now_ms = kz_clock_ms();

    for (const struct parcel *parcel = role->deliveries->parcels; parcel; parcel = parcel->next)
        if (parcel->state == PARCEL_WAIT)
            next_ms = KZ_MIN(next_ms, KZ_MAX(parcel->due_ms - now_ms, (int64_t)0));
    return next_ms;
}
