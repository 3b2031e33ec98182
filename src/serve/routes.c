/* serve/routes.c -- the table of what can be asked; GET /v1 prints it. */

#include "serve/serve_int.h"

/* The most asked first: the table is searched in order. */
const struct kz_serve_route kz_serve_routes[] = {
#define GET(path_, permission_, run_, ...)                                                         \
    {                                                                                              \
        .path = path_, .method = KZ_HTTP_GET, .permission = KZ_SERVE_##permission_, .run = run_,   \
        .help = __VA_ARGS__                                                                        \
    }
#define POST(path_, permission_, run_, ...)                                                        \
    {                                                                                              \
        .path = path_, .method = KZ_HTTP_POST, .permission = KZ_SERVE_##permission_, .run = run_,  \
        .help = __VA_ARGS__                                                                        \
    }
#define DELETE(path_, permission_, run_, ...)                                                      \
    {                                                                                              \
        .path = path_, .method = KZ_HTTP_DELETE, .permission = KZ_SERVE_##permission_,             \
        .run = run_, .help = __VA_ARGS__                                                           \
    }
        GET("/v1/users/{user}/predictions", READ, kz_serve_predictions,
                "latest valid prediction of each model; ?model="),
        GET("/v1/users/{user}/actions", USER, kz_serve_actions,
                "deliveries that wait for this user; ?all=1 every decision (read key)",
                .want = kz_serve_want_actions),
        POST("/v1/users/{user}/actions/{action_id}/ack", USER, kz_serve_acknowledge,
                "the page has shown it"),
        GET("/v1/users/{user}/stream", USER, kz_serve_stream,
                "Server-Sent Events of this user: prediction, action"),
        GET("/v1/users/{user}/events", READ, kz_serve_events,
                "history, newest first; ?limit=50&before=CURSOR", .want = kz_serve_want_events),
        GET("/v1/users/{user}/events/{event_id}/trace", READ, kz_serve_trace,
                "what became of an event, stage by stage", .want = kz_serve_want_trace),
        GET("/v1/users/{user}/export", READ, kz_serve_export,
                "everything known of this user, as NDJSON", .want = kz_serve_want_history),
        DELETE("/v1/users/{user}", ADMIN, kz_serve_erase, "erase this user: 202 and an erasure_id"),
        GET("/v1/erasures/{erasure_id}", READ, kz_serve_erasure, "how far an erasure is",
                .want = kz_serve_want_erasure),
        GET("/v1/stream", READ, kz_serve_stream_all, "Server-Sent Events of all users"),
        GET("/v1/admin/status", READ, kz_serve_status, "what is wrong, worst first, and numbers"),
        GET("/v1/admin/top", READ, kz_serve_top, "rates and latencies of the last ten seconds"),
        POST("/v1/admin/models/{model}/pause", ADMIN, kz_serve_model_verb,
                "requests stay pending in the log"),
        POST("/v1/admin/models/{model}/resume", ADMIN, kz_serve_model_verb, "asks it again"),
        POST("/v1/admin/models/{model}/unfence", ADMIN, kz_serve_model_verb,
                "tries a fenced model again"),
        POST("/v1/admin/actions/{action}/pause", ADMIN, kz_serve_action_verb,
                "decides nothing for it; * all"),
        POST("/v1/admin/actions/{action}/resume", ADMIN, kz_serve_action_verb,
                "decides for it again; * all"),
        POST("/v1/admin/requests/drop", ADMIN, kz_serve_drop_requests,
                "ends pending requests; ?model=, or model=* for all"),
        GET("/v1/admin/deadletters", ADMIN, kz_serve_dead_letters,
                "newest first; ?limit=50&before=ID&stage=", .want = kz_serve_want_letters),
        GET("/v1/admin/deadletters/{id}", ADMIN, kz_serve_dead_letter,
                "one, with reason and payload", .want = kz_serve_want_letter),
        POST("/v1/admin/deadletters/{id}/retry", ADMIN, kz_serve_dead_letter_verb,
                "asks the model again; * all"),
        POST("/v1/admin/deadletters/{id}/drop", ADMIN, kz_serve_dead_letter_verb,
                "forgets it; * all"),
        POST("/v1/admin/backup", ADMIN, kz_serve_backup,
                "a consistent copy to ?dest=DIRECTORY; answers when it is done"),
        POST("/v1/admin/checkpoint", ADMIN, kz_serve_checkpoint,
                "writes a checkpoint and starts a new segment"),
        GET("/healthz", OPEN, kz_serve_healthz, "the process answers"),
        GET("/readyz", OPEN, kz_serve_readyz, "503 where intake or serving fails"),
        GET("/metrics", READ, kz_serve_metrics, "Prometheus text"),
        GET("/v1", OPEN, kz_serve_index, "this list"),
        GET("/v2", OPEN, kz_serve_v2, "Open Inference Protocol: the server"),
        GET("/v2/health/live", OPEN, kz_serve_v2_live, "Open Inference Protocol: alive"),
        GET("/v2/health/ready", OPEN, kz_serve_v2_ready, "Open Inference Protocol: ready"),
        GET("/v2/models/{model}", READ, kz_serve_v2_model, "Open Inference Protocol: a model"),
        GET("/v2/models/{model}/ready", READ, kz_serve_v2_model_ready,
                "Open Inference Protocol: a model is ready"),
        GET("/v2/models/{model}/versions/{version}", READ, kz_serve_v2_model,
                "Open Inference Protocol: a version"),
        GET("/v2/models/{model}/versions/{version}/ready", READ, kz_serve_v2_model_ready,
                "Open Inference Protocol: a version is ready"),
        POST("/v2/models/{model}/infer", READ, kz_serve_v2_infer,
                "Open Inference Protocol: not offered, 501"),
        POST("/v2/models/{model}/versions/{version}/infer", READ, kz_serve_v2_infer,
                "Open Inference Protocol: not offered, 501"),
        GET("/", OPEN, kz_serve_page, "the dashboard"),
#undef GET
#undef POST
#undef DELETE
};
const size_t kz_serve_route_count = KZ_ARRAY_COUNT(kz_serve_routes);

static const char *const permission_names[] = {
        [KZ_SERVE_OPEN] = "none",
        [KZ_SERVE_USER] = "read key, or write key with a proof",
        [KZ_SERVE_READ] = "read key",
        [KZ_SERVE_ADMIN] = "admin key",
};

void kz_serve_index(struct kz_serve_call *call)
{
    struct kz_json_out out = kz_serve_json(call);

    kz_json_out_object(&out);
    kz_json_out_kv_cstr(&out, "name", "kizashi");
    kz_json_out_kv_cstr(&out, "version", call->serve->options.version);
    kz_json_out_kv_cstr(&out, "project", call->serve->query->project->name);
    kz_json_out_key(&out, "endpoints");
    kz_json_out_array(&out);
    for (size_t i = 0; i < kz_serve_route_count; i++) {
        const struct kz_serve_route *route = &kz_serve_routes[i];

        kz_json_out_object(&out);
        kz_json_out_kv_cstr(&out, "method",
                route->method == KZ_HTTP_GET    ? "GET"
                : route->method == KZ_HTTP_POST ? "POST"
                                                : "DELETE");
        kz_json_out_kv_cstr(&out, "path", route->path);
        kz_json_out_kv_cstr(&out, "needs", permission_names[route->permission]);
        kz_json_out_kv_cstr(&out, "what", route->help);
        kz_json_out_object_end(&out);
    }
    kz_json_out_array_end(&out);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, 200);
}
