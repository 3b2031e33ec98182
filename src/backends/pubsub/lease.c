/* The keeper of a source: sends acknowledgements and rejections together, and extends the leases of
 * what is held.
 *
 * K1  An id is in one list until a call with it has succeeded, has failed for good, or the
 *     source is closed: what is lost comes again.
 *     Ids of an earlier life of the subscription are not sent.
 * K2  A lease is extended when less than half of it is left; they are looked at four times a
 *     lease.
 */
#include <stdlib.h>

#include "backends/pubsub/pubsub_int.h"
#include "sys/clock.h"

enum {
    ACK_WAIT_MS = 10, /* for others to go with it */
    NACK_WAIT_MS = 2,
    CALL_IDS_MAX = 1000,
    CALL_MAX_BYTES = 400 << 10, /* 512 KiB are the service's limit of a request */
    CALLS_MAX = 8,
    IDS_MAX = 100000, /* that wait while calls fail; beyond it they are forgotten */
    CALL_MS = 5000,
    LAST_CALL_MS = 2000, /* when closing */
    RETRY_MS = 100,      /* one of several connections may be away for a moment */
};

enum call_kind { CALL_ACK, CALL_NACK, CALL_EXTEND };

struct call {
    struct kz_ps_source *source;
    enum call_kind kind;
    unsigned life;
    size_t count;
    char *ids[]; /* owned but for CALL_EXTEND */
};

/* ---- ids ------------------------------------------------------------------------------------- */

static void put_id(struct kz_ps_ids *ids, char *id, int64_t due_ms)
{
    if (ids->count == IDS_MAX) {
        free(id);
        return;
    }
    if (ids->count == ids->capacity) {
        ids->capacity = ids->capacity ? ids->capacity * 2 : 256;
        ids->items = kz_realloc(ids->items, ids->capacity * sizeof(ids->items[0]));
    }
    ids->items[ids->count++] = id;
    ids->due_ms = KZ_MIN(ids->due_ms, ids->count >= CALL_IDS_MAX ? 0 : due_ms);
}

void kz_ps_settle(struct kz_ps_source *source, struct kz_ps_held *held, bool acknowledge)
{
    struct kz_ps_ids *ids = acknowledge ? &source->acks : &source->nacks;
    bool was_idle = !ids->count;
    int64_t due_ms = kz_mono_ms() + (acknowledge ? ACK_WAIT_MS : NACK_WAIT_MS);

    if (held->life == source->life)
        put_id(ids, kz_take(&held->message->ack_id), due_ms);
    if (was_idle || ids->due_ms == 0)
        pthread_cond_signal(&source->work);
    google__pubsub__v1__received_message__free_unpacked(held->message, NULL);
    held->magic = 0;
    free(held);
}

static void drop_ids(struct kz_ps_ids *ids)
{
    while (ids->count)
        free(ids->items[--ids->count]);
    ids->due_ms = INT64_MAX;
}

void kz_ps_forget(struct kz_ps_source *source)
{
    pthread_mutex_lock(&source->lock);
    source->life++;
    drop_ids(&source->acks);
    drop_ids(&source->nacks);
    pthread_mutex_unlock(&source->lock);
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* On the completion thread. */
static void on_called(
        void *arg, enum kz_code code, const ProtobufCMessage *answer, const struct kz_err *err)
{
    struct call *call = arg;
    struct kz_ps_source *source = call->source;
    bool again = code != KZ_OK && kz_rpc_may_pass(code);
    struct kz_ps_ids *ids = call->kind == CALL_ACK ? &source->acks : &source->nacks;
    struct kz_err why;

    (void)answer; /* empty */
    if (code != KZ_OK) {
        why = *err;
        (void)kz_ps_failed(
                source->ps, code, "subscription", source->id, "roles/pubsub.subscriber", &why);
        kz_ps_unwell(&source->health, &why);
    } else if (call->kind == CALL_EXTEND) {
        source->ps->leases_extended += call->count;
    }
    pthread_mutex_lock(&source->lock);
    again = again && !(source->finish && kz_mono_ms() >= source->finish_by_ms);
    if (call->kind == CALL_EXTEND && again) {
        source->extend_all = true;
        source->lease_scan_ms = KZ_MIN(source->lease_scan_ms, kz_mono_ms() + RETRY_MS);
    }
    for (size_t i = 0; i < call->count && call->kind != CALL_EXTEND; i++) {
        if (again && call->life == source->life)
            put_id(ids, call->ids[i], kz_mono_ms() + RETRY_MS);
        else
            free(call->ids[i]);
    }
    source->calls--;
    pthread_cond_signal(&source->work);
    pthread_mutex_unlock(&source->lock);
    free(call);
}

/* Under the lock: the request is encoded within the call. */
static void start(struct kz_ps_source *source, struct call *call)
{
    KZ_PUBSUB(AcknowledgeRequest) ack = GOOGLE__PUBSUB__V1__ACKNOWLEDGE_REQUEST__INIT;
    KZ_PUBSUB(ModifyAckDeadlineRequest)
    modify = GOOGLE__PUBSUB__V1__MODIFY_ACK_DEADLINE_REQUEST__INIT;
    const struct kz_rpc_options options = {
            .method = call->kind == CALL_ACK ? "/google.pubsub.v1.Subscriber/Acknowledge"
                                             : "/google.pubsub.v1.Subscriber/ModifyAckDeadline",
            .timeout_ms = source->finish ? LAST_CALL_MS : CALL_MS,
            .once = true, /* K1: what fails goes back into the list */
            .routing = source->routing,
    };

    ack.subscription = modify.subscription = source->name;
    ack.ack_ids = modify.ack_ids = call->ids;
    ack.n_ack_ids = modify.n_ack_ids = call->count;
    if (call->kind == CALL_EXTEND)
        modify.ack_deadline_seconds = (int32_t)(source->options.lease_ms / 1000);
    source->calls++;
    kz_rpc_start(source->ps->channel, &options, call->kind == CALL_ACK ? &ack.base : &modify.base,
            &google__pubsub__v1__empty__descriptor, on_called, call);
}

static struct call *new_call(struct kz_ps_source *source, enum call_kind kind, size_t most)
{
    struct call *call = kz_malloc(sizeof(*call) + most * sizeof(call->ids[0]));

    *call = (struct call){.source = source, .kind = kind, .life = source->life};
    return call;
}

/* The newest ids: their leases have the longest to go, and the list need not be moved. */
static void send_ids(struct kz_ps_source *source, struct kz_ps_ids *ids, enum call_kind kind)
{
    struct call *call = new_call(source, kind, KZ_MIN(ids->count, (size_t)CALL_IDS_MAX));
    size_t bytes = 0;

    while (ids->count && call->count < CALL_IDS_MAX && bytes < CALL_MAX_BYTES) {
        char *id = ids->items[--ids->count];

        bytes += strlen(id);
        call->ids[call->count++] = id;
    }
    if (!ids->count)
        ids->due_ms = INT64_MAX;
    start(source, call);
}

/* K2. Under the lock, so nothing that is extended goes meanwhile. */
static void extend_leases(struct kz_ps_source *source)
{
    struct kz_ps_held_list *lists[] = {&source->ready, &source->given};
    int64_t now_ms = kz_mono_ms(), lease_ms = source->options.lease_ms;
    size_t left = source->ready_count + source->given_count, bytes = 0;
    struct call *call = NULL;

    source->lease_scan_ms = left ? now_ms + lease_ms / 4 : INT64_MAX;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(lists); i++) {
        struct kz_ps_held *held;

        TAILQ_FOREACH(held, lists[i], place)
        {
            if (held->life != source->life ||
                    (!source->extend_all && held->lease_until_ms - now_ms >= lease_ms / 2))
                continue;
            if (!call)
                call = new_call(source, CALL_EXTEND, KZ_MIN(left, (size_t)CALL_IDS_MAX));
            call->ids[call->count++] = held->message->ack_id;
            bytes += strlen(held->message->ack_id);
            held->lease_until_ms = now_ms + lease_ms;
            if (call->count == CALL_IDS_MAX || bytes >= CALL_MAX_BYTES) {
                start(source, kz_take(&call));
                bytes = 0;
            }
        }
    }
    if (call)
        start(source, call);
    source->extend_all = false;
}

void kz_ps_keep(void *arg)
{
    struct kz_ps_source *source = arg;

    pthread_mutex_lock(&source->lock);
    while (!source->finish || source->acks.count || source->nacks.count || source->calls) {
        int64_t now_ms = kz_mono_ms();
        int64_t scan_ms = source->finish ? INT64_MAX : source->lease_scan_ms;
        int64_t ids_ms = source->calls < CALLS_MAX
                                 ? KZ_MIN(source->acks.due_ms, source->nacks.due_ms)
                                 : INT64_MAX;

        if (scan_ms <= now_ms)
            extend_leases(source);
        else if (ids_ms > now_ms)
            (void)kz_ps_cond_wait(
                    &source->work, &source->lock, KZ_MIN(ids_ms, scan_ms)); /* then look again */
        else if (source->acks.due_ms <= now_ms)
            send_ids(source, &source->acks, CALL_ACK);
        else
            send_ids(source, &source->nacks, CALL_NACK);
    }
    pthread_mutex_unlock(&source->lock);
}
