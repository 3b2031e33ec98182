/* app/roles/role_infer_publish.c -- what follows from a request onto the bus: news, deliveries to topics,
 * what actions did, and requests of models that come after.
 */

#include <stdio.h>

#include "act/delivery.h"
#include "app/roles/news.h"
#include "app/roles/role_infer_int.h"
#include "base/diag.h"
#include "sys/clock.h"

enum { ASKED_MAX_BYTES = 1000 }; /* Pub/Sub: 1,024 of an attribute's value */

static void published(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct task *task = arg;

    (void)err; /* the bus's stats have it */
    if (code != KZ_OK)
        atomic_store(&task->publish_failed, true);
    if (atomic_fetch_sub(&task->publishing, 1) != 1)
        return;
    if (atomic_load(&task->publish_failed))
        kz_task_later(task, TASK_PUBLISH);
    else
        kz_task_done(task);
}

static void put_on_bus(struct task *task, enum kz_topic topic, uint64_t lane, struct kz_str data,
        const struct kz_attribute *attributes, size_t attribute_count)
{
    struct kz_bus *bus = task->role->env->bus;
    char key[KZ_LANE_BYTES];
    struct kz_bus_message message = {
            .data = data, .attributes = attributes, .attribute_count = attribute_count};
    struct kz_err err;
    enum kz_code rc;

    kz_lane_name(lane, key);
    message.key = kz_str(key);
    atomic_fetch_add(&task->publishing, 1);
    rc = bus->ops->publish(bus, topic, &message, 1, published, task, &err);
    if (rc == KZ_OK)
        return;
    atomic_fetch_sub(&task->publishing, 1); /* not the last: whoever sends holds one */
    if (rc == KZ_TOO_LARGE || rc == KZ_INVALID)
        kz_diag_warn("what follows from a request cannot be published", "topic=%s error=\"%s\"",
                kz_topic_suffix(topic), err.message);
    else
        atomic_store(&task->publish_failed, true);
}

static bool is_before_others(const struct kz_project *project, unsigned model)
{
    for (size_t i = 0; i < project->model_count; i++)
        if (project->models[i].after &&
                strcmp(project->models[i].after, project->models[model].name) == 0)
            return true;
    return false;
}

/* The models that come after the task's and are asked now. Where there are more of them than an
 * attribute holds, nothing is said, and whoever waits waits. */
static struct kz_str asked_by(const struct task *task, char *text, size_t text_size)
{
    size_t used = (size_t)snprintf(text, text_size, ",");

    for (size_t at = 0; at < task->published.size;) {
        const struct kz_record *record = (const void *)(task->published.data + at);
        const struct kz_request_body *body = (const void *)(record + 1);

        at += KZ_ALIGN8((size_t)record->size);
        if (record->type != KZ_RECORD_REQUEST)
            continue;
        used += (size_t)snprintf(text + used, text_size - used, KZ_STR_FMT ",",
                KZ_STR_ARG(kz_span_str(kz_record_body(record), body->model)));
        if (used >= text_size)
            return KZ_STR_NULL;
    }
    return kz_str_n(text, used);
}

static void send_news(struct worker *w, struct task *task, const struct kz_record *record)
{
    const char *kind = kz_news_kind_of(record);
    struct kz_attribute attributes[2] = {
            {KZ_STR(KZ_ATTRIBUTE_KIND), kind ? kz_str(kind) : KZ_STR_NULL}};
    char asked[ASKED_MAX_BYTES];
    size_t count = 1;

    if (!kind)
        return;
    if (record->type == KZ_RECORD_RESULT && is_before_others(w->role->env->project, task->model)) {
        attributes[1].name = KZ_STR(KZ_ATTRIBUTE_ASKED);
        attributes[1].value = asked_by(task, asked, sizeof(asked));
        count += attributes[1].value.size > 0;
    }
    kz_buf_clear(&w->message);
    kz_news_encode(record, &w->message);
    put_on_bus(task, KZ_TOPIC_NEWS, record->owner, kz_buf_view(&w->message), attributes, count);
}

static void send_delivery(struct worker *w, struct task *task, const struct kz_record *record)
{
    const struct kz_project *project = w->role->env->project;
    struct kz_str bytes = kz_record_body(record);
    const struct kz_decision_body *body = (const void *)bytes.ptr;
    char key[KZ_DELIVERY_KEY_BYTES];
    struct kz_attribute attributes[] = {
            {KZ_STR(KZ_ATTRIBUTE_ACTION), kz_span_str(bytes, body->action_name)},
            {KZ_STR(KZ_ATTRIBUTE_IDEMPOTENCY_KEY), KZ_STR_NULL},
            {KZ_STR(KZ_ATTRIBUTE_PROJECT), kz_str(project->name)},
    };

    if (body->decision != KZ_DECISION_DELIVER || body->kind != KZ_DELIVER_PUBSUB)
        return;
    kz_delivery_key(project, record->owner, record->seq, key);
    attributes[1].value = kz_str(key);
    kz_buf_clear(&w->message);
    kz_delivery_json(record, &w->message);
    put_on_bus(task, KZ_TOPIC_ACTIONS, record->owner, kz_buf_view(&w->message), attributes,
            KZ_ARRAY_COUNT(attributes));
}

static void send_action_event(struct worker *w, struct task *task, const struct kz_record *record)
{
    const struct kz_attribute format = {KZ_STR(KZ_ATTRIBUTE_FORMAT), KZ_STR("1")};
    const struct kz_decision_body *body = (const void *)kz_record_body(record).ptr;
    const char *what = kz_action_event_what(record);
    struct kz_user_key key = {body->user_kind, kz_span_str(kz_record_body(record), body->user_id)};

    if (!(record->flags & KZ_DECISION_TOLD) || !what)
        return;
    kz_buf_clear(&w->message);
    kz_action_event_put(w->role->env->project, record, what, record->at_ms, &w->message);
    put_on_bus(task, KZ_TOPIC_EVENTS, kz_owner_hash(key, 0), kz_buf_view(&w->message), &format, 1);
}

/* As of the first request, and under its owner: a message says whose runs it names. */
static void send_request(struct worker *w, struct task *task, const struct kz_record *record)
{
    struct kz_request_message message = task->message;
    struct kz_attribute attribute = {KZ_STR(KZ_ATTRIBUTE_MODEL), KZ_STR_NULL};
    struct kz_buf copy = {0};

    kz_buf_put(&copy, record, record->size);
    ((struct kz_record *)(void *)copy.data)->owner = message.owner;
    message.record = (const void *)copy.data;
    attribute.value = kz_request_message_model(&message);
    kz_buf_clear(&w->message);
    kz_request_message_encode(&message, &w->message);
    put_on_bus(task, KZ_TOPIC_REQUESTS, message.owner, kz_buf_view(&w->message), &attribute, 1);
    kz_buf_done(&copy);
}

void kz_task_publish(struct worker *w, struct task *task)
{
    atomic_store(&task->publishing, 1);
    atomic_store(&task->publish_failed, false);
    for (size_t at = 0; at < task->published.size;) {
        const struct kz_record *record = (const void *)(task->published.data + at);

        at += KZ_ALIGN8((size_t)record->size);
        if (record->type == KZ_RECORD_REQUEST) {
            send_request(w, task, record);
            continue;
        }
        send_news(w, task, record);
        if (record->type != KZ_RECORD_DECISION)
            continue;
        send_delivery(w, task, record);
        send_action_event(w, task, record);
    }
    published(task, KZ_OK, NULL); /* ours */
}
