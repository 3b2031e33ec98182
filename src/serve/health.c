/* serve/health.c -- probes, and the Open Inference Protocol's view of the models
 * (github.com/kserve/open-inference-protocol, inference_rest.yaml). */

#include "serve/serve_int.h"

static void status_only(struct kz_serve_call *call, const char *name, bool value, int status)
{
    struct kz_json_out out = kz_serve_json(call);

    kz_json_out_object(&out);
    kz_json_out_kv_bool(&out, name, value);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, status);
}

void kz_serve_healthz(struct kz_serve_call *call)
{
    struct kz_json_out out = kz_serve_json(call);

    kz_json_out_object(&out);
    kz_json_out_kv_cstr(&out, "status", "ok");
    kz_json_out_object_end(&out);
    kz_serve_reply(call, 200);
}

static enum kz_code ready(struct kz_serve *serve, struct kz_err *err)
{
    if (serve->draining)
        return kz_fail(err, KZ_UNAVAILABLE, "shutting down");
    return serve->query->ops->health(serve->query, err);
}

void kz_serve_readyz(struct kz_serve_call *call)
{
    struct kz_serve *serve = call->serve;
    struct kz_query *query = serve->query;
    struct kz_err err = {0};
    bool is_ready = ready(serve, &err) == KZ_OK;
    struct kz_json_out out = kz_serve_json(call);

    kz_json_out_object(&out);
    kz_json_out_kv_bool(&out, "ready", is_ready);
    kz_json_out_key(&out, "reasons");
    kz_json_out_array(&out);
    if (!is_ready)
        kz_json_out_cstr(&out, err.message);
    kz_json_out_array_end(&out);
    kz_json_out_key(&out, "degraded");
    kz_json_out_array(&out);
    for (unsigned m = 0; m < query->project->model_count; m++) {
        struct kz_model_status model;

        query->ops->model(query, m, &model);
        if (model.fenced)
            kz_json_out_cstr(&out, model.name);
    }
    if (serve->options.more_degraded)
        serve->options.more_degraded(serve->options.arg, &out);
    kz_json_out_array_end(&out);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, is_ready ? 200 : 503);
}

/* ---- Open Inference Protocol
 * ---------------------------------------------------------------------- */

void kz_serve_v2(struct kz_serve_call *call)
{
    struct kz_json_out out = kz_serve_json(call);

    kz_json_out_object(&out);
    kz_json_out_kv_cstr(&out, "name", "kizashi");
    kz_json_out_kv_cstr(&out, "version", call->serve->options.version);
    kz_json_out_key(&out, "extensions");
    kz_json_out_array(&out);
    kz_json_out_array_end(&out);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, 200);
}

void kz_serve_v2_live(struct kz_serve_call *call)
{
    status_only(call, "live", true, 200);
}

void kz_serve_v2_ready(struct kz_serve_call *call)
{
    struct kz_err err = {0};
    bool is_ready = ready(call->serve, &err) == KZ_OK;

    status_only(call, "ready", is_ready, is_ready ? 200 : 503);
}

/* The model of the path, and the version where one is named; else answers 404. */
static bool find_model(struct kz_serve_call *call, struct kz_model_status *ret)
{
    struct kz_query *query = call->serve->query;
    const struct kz_model_def *def = kz_project_model(query->project, call->args[0]);
    struct kz_err err = {0};

    if (!def) {
        (void)kz_project_no_model(query->project, call->args[0], &err);
        kz_serve_fail(call, &err);
        return false;
    }
    query->ops->model(query, (unsigned)(def - query->project->models), ret);
    if (call->arg_count > 1 && !kz_str_is(call->args[1], ret->version)) {
        kz_fail(&err, KZ_NOT_FOUND,
                "model \"%s\" has no version \"" KZ_STR_FMT "\" here, it runs \"%s\"", ret->name,
                KZ_STR_ARG(call->args[1]), ret->version);
        kz_serve_fail(call, &err);
        return false;
    }
    return true;
}

void kz_serve_v2_model(struct kz_serve_call *call)
{
    struct kz_model_status model;
    struct kz_json_out out;

    if (!find_model(call, &model))
        return;
    out = kz_serve_json(call);
    kz_json_out_object(&out);
    kz_json_out_kv_cstr(&out, "name", model.name);
    kz_json_out_key(&out, "versions");
    kz_json_out_array(&out);
    if (*model.version)
        kz_json_out_cstr(&out, model.version);
    kz_json_out_array_end(&out);
    kz_json_out_kv_cstr(&out, "platform", model.runtime);
    /* Features are computed here from the user's history, not sent by the caller. */
    kz_json_out_key(&out, "inputs");
    kz_json_out_array(&out);
    kz_json_out_array_end(&out);
    kz_json_out_key(&out, "outputs");
    kz_json_out_array(&out);
    kz_json_out_array_end(&out);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, 200);
}

void kz_serve_v2_model_ready(struct kz_serve_call *call)
{
    struct kz_model_status model;
    struct kz_json_out out;
    bool is_ready;

    if (!find_model(call, &model))
        return;
    is_ready = !model.fenced && !model.paused && model.replicas_ready;
    out = kz_serve_json(call);
    kz_json_out_object(&out);
    kz_json_out_kv_cstr(&out, "name", model.name);
    kz_json_out_kv_bool(&out, "ready", is_ready);
    if (!is_ready && *model.reason)
        kz_json_out_kv_cstr(&out, "reason", model.reason);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, is_ready ? 200 : 503);
}

void kz_serve_v2_infer(struct kz_serve_call *call)
{
    struct kz_err err = {0};

    kz_fail(&err, KZ_UNSUPPORTED,
            "infer is not offered: a prediction is made of a user's history, not of tensors sent");
    kz_hint(&err,
            "send an event to POST /v1/events?wait=" KZ_STR_FMT
            ", or read GET /v1/users/{user}/predictions",
            KZ_STR_ARG(call->args[0]));
    kz_serve_fail(call, &err);
}
