/* Topics and subscriptions: whether they are there, and making them. */
#include <stdio.h>

#include "backends/pubsub/pubsub_int.h"

#define EDITOR "roles/pubsub.editor"
#define VIEWER "roles/pubsub.viewer"

enum {
    ACK_DEADLINE_S = 60,
    RETENTION_S = 7 * 86400, /* of what nobody has acknowledged */
    OWN_RETENTION_S = 600,   /* the least there can be */
    OWN_UNUSED_S = 86400,    /* the least, too: what a dead process left behind goes then */
    RETRY_FIRST_MS = 100,    /* a nack brings a message again so soon, at first */
    RETRY_LAST_S = 60,
};

/* The service's answer to a topic that was deleted under its subscription. */
#define DELETED_TOPIC "_deleted-topic_"

static enum kz_code call(struct kz_ps *ps, const char *method, const char *routing,
        int64_t timeout_ms, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type,
        ProtobufCMessage **ret_answer, struct kz_err *err)
{
    const struct kz_rpc_options options = {
            .method = method,
            .timeout_ms = timeout_ms,
            .idempotent = true, /* a creation that happened is found out as ALREADY_EXISTS */
            .routing = routing,
    };
    ProtobufCMessage *answer = NULL;

    KZ_TRY(kz_rpc_call(ps->channel, &options, request, type, &answer, err));
    if (ret_answer)
        *ret_answer = answer;
    else
        protobuf_c_message_free_unpacked(answer, NULL);
    return KZ_OK;
}

/* ---- topics ---------------------------------------------------------------------------------- */

static enum kz_code get_topic(struct kz_ps *ps, const struct kz_ps_topic *topic, struct kz_err *err)
{
    KZ_PUBSUB(GetTopicRequest) request = GOOGLE__PUBSUB__V1__GET_TOPIC_REQUEST__INIT;

    request.topic = topic->name;
    return call(ps, "/google.pubsub.v1.Publisher/GetTopic", topic->routing, ps->timeout_ms,
            &request.base, &google__pubsub__v1__topic__descriptor, NULL, err);
}

static enum kz_code create_topic(
        struct kz_ps *ps, const struct kz_ps_topic *topic, bool *ret_made, struct kz_err *err)
{
    KZ_PUBSUB(Topic) request = GOOGLE__PUBSUB__V1__TOPIC__INIT;
    enum kz_code rc;

    request.name = topic->name;
    rc = call(ps, "/google.pubsub.v1.Publisher/CreateTopic", topic->routing, ps->timeout_ms,
            &request.base, &google__pubsub__v1__topic__descriptor, NULL, err);
    *ret_made = rc == KZ_OK;
    return rc == KZ_CONFLICT && kz_rpc_status() == KZ_RPC_ALREADY_EXISTS ? KZ_OK : rc;
}

/* ---- subscriptions --------------------------------------------------------------------------- */

static char *borrow(const char *text)
{
    return (char *)(uintptr_t)text; /* protobuf-c's strings are not const; packing reads only */
}

static enum kz_code get_subscription(
        struct kz_ps *ps, const char *name, KZ_PUBSUB(Subscription) * *ret, struct kz_err *err)
{
    KZ_PUBSUB(GetSubscriptionRequest)
    request = GOOGLE__PUBSUB__V1__GET_SUBSCRIPTION_REQUEST__INIT;
    char *routing = kz_ps_text("subscription=%s", name);
    ProtobufCMessage *answer = NULL;
    enum kz_code rc;

    request.subscription = borrow(name);
    rc = call(ps, "/google.pubsub.v1.Subscriber/GetSubscription", routing, ps->timeout_ms,
            &request.base, &google__pubsub__v1__subscription__descriptor, &answer, err);
    kz_freep(&routing);
    if (rc == KZ_OK)
        *ret = (KZ_PUBSUB(Subscription) *)answer;
    return rc;
}

static enum kz_code send_subscription(struct kz_ps *ps, const KZ_PUBSUB(Subscription) * request,
        int64_t timeout_ms, bool *ret_made, struct kz_err *err)
{
    char *routing = kz_ps_text("name=%s", request->name);
    enum kz_code rc = call(ps, "/google.pubsub.v1.Subscriber/CreateSubscription", routing,
            timeout_ms, &request->base, &google__pubsub__v1__subscription__descriptor, NULL, err);

    kz_freep(&routing);
    *ret_made = rc == KZ_OK;
    return rc == KZ_CONFLICT && kz_rpc_status() == KZ_RPC_ALREADY_EXISTS ? KZ_OK : rc;
}

static enum kz_code create_subscription(
        struct kz_ps *ps, const struct kz_ps_subscription *s, bool *ret_made, struct kz_err *err)
{
    KZ_PUBSUB(Subscription) request = GOOGLE__PUBSUB__V1__SUBSCRIPTION__INIT;
    KZ_PUBSUB(Duration)
    retention = GOOGLE__PUBSUB__V1__DURATION__INIT, first = retention, last = retention;
    KZ_PUBSUB(RetryPolicy) retry = GOOGLE__PUBSUB__V1__RETRY_POLICY__INIT;
    KZ_PUBSUB(DeadLetterPolicy) dead = GOOGLE__PUBSUB__V1__DEAD_LETTER_POLICY__INIT;
    KZ_PUBSUB(ExpirationPolicy) never = GOOGLE__PUBSUB__V1__EXPIRATION_POLICY__INIT;

    retention.seconds = RETENTION_S;
    first.nanos = RETRY_FIRST_MS * 1000000;
    last.seconds = RETRY_LAST_S;
    retry.minimum_backoff = &first;
    retry.maximum_backoff = &last;
    dead.dead_letter_topic = ps->topics[KZ_TOPIC_DEAD].name;
    dead.max_delivery_attempts = (int32_t)ps->attempts_max;
    request.name = s->name;
    request.topic = ps->topics[s->topic].name;
    request.ack_deadline_seconds = ACK_DEADLINE_S;
    request.message_retention_duration = &retention;
    request.enable_message_ordering = s->ordered;
    request.filter = s->filter;
    request.expiration_policy = &never;
    request.retry_policy = &retry;
    if (s->topic != KZ_TOPIC_DEAD)
        request.dead_letter_policy = &dead;
    return send_subscription(ps, &request, ps->timeout_ms, ret_made, err);
}

enum kz_code kz_ps_create_own(struct kz_ps *ps, enum kz_topic topic, const char *name,
        int64_t timeout_ms, struct kz_err *err)
{
    KZ_PUBSUB(Subscription) request = GOOGLE__PUBSUB__V1__SUBSCRIPTION__INIT;
    KZ_PUBSUB(Duration) retention = GOOGLE__PUBSUB__V1__DURATION__INIT, unused = retention;
    KZ_PUBSUB(ExpirationPolicy) expiration = GOOGLE__PUBSUB__V1__EXPIRATION_POLICY__INIT;
    enum kz_code rc;
    bool made;

    retention.seconds = OWN_RETENTION_S;
    unused.seconds = OWN_UNUSED_S;
    expiration.ttl = &unused;
    request.name = borrow(name);
    request.topic = ps->topics[topic].name;
    request.ack_deadline_seconds = ACK_DEADLINE_S;
    request.message_retention_duration = &retention;
    request.expiration_policy = &expiration;
    rc = send_subscription(ps, &request, timeout_ms, &made, err);
    return rc == KZ_OK ? KZ_OK : kz_ps_failed(ps, rc, "topic", ps->topics[topic].id, EDITOR, err);
}

enum kz_code kz_ps_delete_own(struct kz_ps *ps, const char *name, struct kz_err *err)
{
    enum { TIMEOUT_MS = 3000 }; /* it goes by itself, later */
    KZ_PUBSUB(DeleteSubscriptionRequest)
    request = GOOGLE__PUBSUB__V1__DELETE_SUBSCRIPTION_REQUEST__INIT;
    char *routing = kz_ps_text("subscription=%s", name);
    const struct kz_rpc_options options = {
            .method = "/google.pubsub.v1.Subscriber/DeleteSubscription",
            .timeout_ms = TIMEOUT_MS,
            .routing = routing,
    };
    ProtobufCMessage *answer = NULL;
    enum kz_code rc;

    request.subscription = borrow(name);
    rc = kz_rpc_call(ps->channel, &options, &request.base, &google__pubsub__v1__empty__descriptor,
            &answer, err);
    protobuf_c_message_free_unpacked(answer, NULL);
    kz_freep(&routing);
    return rc;
}

/* ---- all of a project ------------------------------------------------------------------------ */

/* One of that name may be another than ours: neither its topic nor its filter can be changed. */
static enum kz_code check_subscription(
        struct kz_ps *ps, const struct kz_ps_subscription *s, struct kz_err *err)
{
    KZ_PUBSUB(Subscription) *there = NULL;
    enum kz_code rc = get_subscription(ps, s->name, &there, err);

    if (rc != KZ_OK)
        return kz_ps_failed(ps, rc, "subscription", s->id, VIEWER, err);
    if (strcmp(there->topic, ps->topics[s->topic].name) != 0) {
        rc = kz_fail(err, KZ_CONFIG, "subscription \"%s\" is of topic \"%s\", not of \"%s\"", s->id,
                strcmp(there->topic, DELETED_TOPIC) == 0 ? "deleted" : there->topic,
                ps->topics[s->topic].id);
    } else if (strcmp(there->filter, s->filter) != 0) {
        rc = kz_fail(err, KZ_CONFIG, "subscription \"%s\" has the filter \"%s\", not \"%s\"", s->id,
                there->filter, s->filter);
    }
    if (rc != KZ_OK)
        kz_hint(err,
                "delete it (gcloud pubsub subscriptions delete %s), then `kizashi gcp init DIR`",
                s->id);
    google__pubsub__v1__subscription__free_unpacked(there, NULL);
    return rc;
}

static enum kz_code check_all(struct kz_ps *ps, struct kz_err *err)
{
    for (unsigned t = 0; t < KZ_TOPIC_COUNT; t++) {
        enum kz_code rc = get_topic(ps, &ps->topics[t], err);

        if (rc != KZ_OK)
            return kz_ps_failed(ps, rc, "topic", ps->topics[t].id, VIEWER, err);
    }
    for (size_t i = 0; i < ps->subscription_count; i++)
        KZ_TRY(check_subscription(ps, &ps->subscriptions[i], err));
    return KZ_OK;
}

/* Who may not look (any more) may publish all the same, and who looks too often knows nothing new. */
static bool tells_of_the_bus(enum kz_code code)
{
    return code != KZ_FORBIDDEN && code != KZ_LIMIT;
}

enum kz_code kz_ps_check(struct kz_bus *bus, struct kz_err *err)
{
    struct kz_ps *ps = kz_ps_of(bus);
    struct kz_err why = {0};
    enum kz_code rc = check_all(ps, &why);

    if (rc != KZ_OK) {
        if (tells_of_the_bus(rc))
            kz_ps_unwell(&ps->there, &why);
        if (err)
            *err = why;
        return rc;
    }
    kz_rpc_health_worked(&ps->there);
    for (unsigned t = 0; t < KZ_TOPIC_COUNT; t++)
        kz_rpc_health_worked(&ps->topics[t].health);
    return KZ_OK;
}

static void tell(void (*say)(void *arg, const char *line), void *arg, const char *what,
        const char *id, const char *more)
{
    char line[400];

    snprintf(line, sizeof(line), "Pub/Sub %s %s created%s%s", what, id, more[0] ? ": " : "", more);
    if (say)
        say(arg, line);
}

enum kz_code kz_ps_create(
        struct kz_bus *bus, void (*say)(void *arg, const char *line), void *arg, struct kz_err *err)
{
    struct kz_ps *ps = kz_ps_of(bus);

    for (unsigned t = 0; t < KZ_TOPIC_COUNT; t++) {
        bool made = false;
        enum kz_code rc = get_topic(ps, &ps->topics[t], err);

        if (rc == KZ_NOT_FOUND)
            rc = create_topic(ps, &ps->topics[t], &made, err);
        if (rc != KZ_OK)
            return kz_ps_failed(ps, rc, "topic", ps->topics[t].id, EDITOR, err);
        if (made)
            tell(say, arg, "topic", ps->topics[t].id, kz_topic_what((enum kz_topic)t));
    }
    for (size_t i = 0; i < ps->subscription_count; i++) {
        const struct kz_ps_subscription *s = &ps->subscriptions[i];
        enum kz_code rc = check_subscription(ps, s, err);
        bool made = false;

        if (rc == KZ_NOT_FOUND) {
            rc = create_subscription(ps, s, &made, err);
            if (rc != KZ_OK)
                return kz_ps_failed(ps, rc, "subscription", s->id, EDITOR, err);
        }
        if (rc != KZ_OK)
            return rc;
        if (made)
            tell(say, arg, "subscription", s->id, s->filter);
    }
    return KZ_OK;
}
