/* app/roles/role_infer_push.c -- requests by POST /v1/pubsub/push, as Cloud Run has it: Pub/Sub pushes a
 * message, and its answer is the acknowledgement. 204 comes when all that follows is on the bus;
 * 429 and 503 slow Pub/Sub down, and the message comes again.
 */

#include "app/roles/role_infer_int.h"

#include "codec/base64.h"
#include "codec/json.h"
#include "sys/clock.h"

enum { PUSHED_MAX = 1000 };

/* Google's token where the project asks for one; else whoever is on this machine (an emulator). */
static enum kz_code may_push(
        struct role_infer *r, const struct kz_http_request *req, struct kz_err *err)
{
    if (r->push_auth)
        return kz_push_auth_check(
                r->push_auth, kz_http_request_header(req, "authorization"), kz_clock_ms(), err);
    if (req->is_loopback)
        return KZ_OK;
    (void)kz_fail(err, KZ_FORBIDDEN, "requests are pushed from another machine without a token");
    return kz_hint(err,
            "set backends.gcp.push.audience and email, and the subscription's service account");
}

static enum kz_code take_envelope(
        struct kz_http_request *req, struct kz_buf *out, struct kz_err *err)
{
    struct kz_json_value root, message, data;
    struct kz_str text;

    KZ_TRY(kz_json_parse(req->body, 0, &root, err));
    message = kz_json_get(root, "message");
    data = kz_json_get(message, "data");
    if (message.kind != KZ_JSON_OBJECT || data.kind != KZ_JSON_STRING)
        return kz_fail(
                err, KZ_INVALID, "not a push envelope: \"message\" with \"data\" is missing");
    KZ_TRY(kz_json_str(data, &req->arena, &text, err));
    return kz_base64_decode(text, KZ_BASE64_STD, out, err);
}

static enum kz_code has_room(struct role_infer *r, struct kz_err *err)
{
    enum kz_code rc = KZ_OK;

    pthread_mutex_lock(&r->lock);
    if (r->stopping)
        rc = kz_fail(err, KZ_UNAVAILABLE, "stopping");
    else if (r->task_count >= PUSHED_MAX)
        rc = kz_fail(
                err, KZ_LIMIT, "%zu requests are under way, the most there may be", r->task_count);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

/* What is no envelope is the caller's fault; what is one and holds no request goes to the dead topic. */
static void take(struct role_infer *r, struct kz_http_request *req, struct kz_buf *data)
{
    struct task *task = kz_calloc(1, sizeof(*task));
    const struct kz_model_def *def = NULL;
    struct kz_err err;
    enum kz_code rc;

    task->magic = TASK_MAGIC;
    task->role = r;
    task->push = req;
    task->begun_us = kz_mono_us();
    task->pushed = *data;
    *data = (struct kz_buf){0};
    rc = kz_request_message_decode(kz_buf_view(&task->pushed), &task->hold, &task->message, &err);
    if (rc == KZ_OK) {
        def = kz_project_model(&r->project, kz_request_message_model(&task->message));
        if (!def)
            rc = kz_fail(&err, KZ_NOT_FOUND, "there is no model \"" KZ_STR_FMT "\"",
                    KZ_STR_ARG(kz_request_message_model(&task->message)));
    }
    if (def)
        task->model = (unsigned)(def - r->project.models);
    kz_task_take_in(task, rc == KZ_OK);
    if (rc != KZ_OK)
        kz_task_poison(task, "bad_request", &err);
}

bool kz_infer_handle(struct kz_role *role, struct kz_http_request *req)
{
    struct role_infer *r = KZ_CONTAINER_OF(role, struct role_infer, base);
    struct kz_buf data = {0};
    struct kz_err err = {0};

    if (!kz_str_is(req->path, "/v1/pubsub/push") || req->method != KZ_HTTP_POST)
        return false;
    if (may_push(r, req, &err) != KZ_OK || has_room(r, &err) != KZ_OK ||
            take_envelope(req, &data, &err) != KZ_OK)
        kz_http_respond_error(req, &err);
    else
        take(r, req, &data);
    kz_buf_done(&data);
    return true;
}

static void refuse(struct kz_http_request *req)
{
    struct kz_err err;

    (void)kz_fail(&err, KZ_UNAVAILABLE, "the request could not be handled now: send it again");
    kz_http_respond_error(req, &err);
}

/* When stopping, at the deadline: those that are not done are told while there is a connection. What is
 * done of them nevertheless is found in the user's row when they come again. */
static void give_up(struct role_infer *r)
{
    struct kz_http_request *req;

    do {
        req = NULL;
        pthread_mutex_lock(&r->lock);
        if (r->stopping && kz_mono_ms() >= r->deadline_ms)
            for (struct task *t = r->all; t && !req; t = t->all_next)
                req = kz_take(&t->push);
        pthread_mutex_unlock(&r->lock);
        if (req)
            refuse(req);
    } while (req);
}

void kz_infer_answer(struct kz_role *role)
{
    struct role_infer *r = KZ_CONTAINER_OF(role, struct role_infer, base);
    struct task *task;

    for (;;) {
        pthread_mutex_lock(&r->lock);
        task = kz_tasks_pop(&r->pushed);
        pthread_mutex_unlock(&r->lock);
        if (!task)
            break;
        if (task->push_done)
            kz_http_respond(task->push, 204, NULL, KZ_STR_NULL, NULL, 0);
        else
            refuse(task->push);
        kz_task_free(task);
    }
    give_up(r);
}
