/* app/roles/role.h -- the roles of a deployment, and what those in one process share.
 *
 *     collect   HTTP in, and onto the bus           role_collect.c
 *     process   from the bus: store, decide, ask    role_process.c
 *     infer     requests to predictions             role_infer.c
 *     serve     HTTP out, deliveries                role_serve.c
 *
 * `up --role A,B` opens the backends that those roles need (kz_role_env_open), the roles, and runs
 * them under one HTTP server (role_up.c). Roles do not know each other: they meet in the backends.
 *
 * Threads  the functions of a role are called on the loop's thread; what blocks (every backend) a
 *          role does on threads of its own, which call env->wake to have turn() called.
 */
#pragma once

#include <uv.h>

#include "contract/bus.h"
#include "contract/infer.h"
#include "contract/intake.h"
#include "contract/predictions.h"
#include "contract/query.h"
#include "contract/store.h"
#include "serve/serve.h"
#include "sys/http.h"

/* X(NAME, "name") */
#define KZ_ROLES(X)                                                                                \
    X(COLLECT, "collect")                                                                          \
    X(PROCESS, "process")                                                                          \
    X(INFER, "infer")                                                                              \
    X(SERVE, "serve")

enum kz_role_kind {
#define X(name, text) KZ_ROLE_##name,
    KZ_ROLES(X)
#undef X
            KZ_ROLE_COUNT
};
const char *kz_role_name(enum kz_role_kind kind);
/* "collect,process" as bits 1 << kind. KZ_CONFIG names what is no role. */
KZ_MUST_USE enum kz_code kz_roles_parse(const char *list, unsigned *ret_kinds, struct kz_err *err);

struct kz_role;
struct kz_words;
struct kz_role_health;
struct kz_auth;

struct kz_role_env_options {
    const struct kz_project *project; /* borrowed */
    unsigned kinds;
    const char *backend; /* --backend: "memory", "gcp"; NULL: as the project says */
    const char *models;  /* --model A,B: those that infer asks; NULL: all */
    bool push_only;      /* --push: infer's requests come by HTTP, nothing is pulled for it */
    bool event_clock;    /* --clock event: tests */
};

/* What the roles of this process share. Read-only once open, but for what `words` holds. */
struct kz_role_env {
    const struct kz_project *project;
    unsigned kinds;
    const char *models; /* of --model; NULL: all */
    bool push_only;     /* --push */
    const struct kz_runtime_ops *const
            *runtimes; /* NULL: those of this build (tests have others) */
    bool event_clock; /* our clock for an event is the event's time, and timers wait for a watermark */
    struct kz_rpc *rpc; /* NULL: nothing is in the cloud */
    struct kz_bus *bus; /* these three: NULL where no role here needs it */
    struct kz_store *store;
    struct kz_predictions *predictions;
    struct kz_words *words; /* an operator's; NULL where no role here heeds them */
    struct kz_role_health *health;

    /* Set by role_up.c before roles are opened. */
    uv_loop_t *loop;
    const char *data_dir;
    struct kz_auth *auth;
    void (*wake)(void *arg); /* any thread: turn() of all roles is wanted */
    void *wake_arg;
    int64_t started_ms; /* kz_mono_ms() */
    bool abandoned; /* set by a role's close() that left threads behind, in calls that did not return:
                     * the process ends without closing what they use */
    struct kz_role *roles[KZ_ROLE_COUNT]; /* by kind; NULL: not in this process */
};

/* Opens the backends and checks (their check()) that what the roles need is there: an error names
 * the thing and the command that makes it. */
KZ_MUST_USE enum kz_code kz_role_env_open(const struct kz_role_env_options *options,
        struct kz_role_env **ret_env, struct kz_err *err);
/* After the roles are closed. */
void kz_role_env_close(struct kz_role_env *env);
KZ_DEFINE_FREEP(struct kz_role_env, kz_role_env_close)

/* The three backends of a project, for commands: all of them, nothing checked. */
struct kz_backends {
    struct kz_rpc *rpc;
    struct kz_bus *bus;
    struct kz_store *store;
    struct kz_predictions *predictions;
};
enum { KZ_NEEDS_BUS = 1, KZ_NEEDS_STORE = 2, KZ_NEEDS_PREDICTIONS = 4 };
KZ_MUST_USE enum kz_code kz_backends_open(const struct kz_project *project, const char *backend,
        unsigned needs, struct kz_backends *ret_backends, struct kz_err *err);
void kz_backends_close(struct kz_backends *backends);
/* The subscriptions of a project besides KZ_SUBSCRIPTIONS: requests of each model ("infer-<model>", so
 * that a model may have a Deployment of its own, and one that rests holds up no other), and news of
 * webhooks to be posted. One allocation: free(). */
struct kz_bus_subscription *kz_role_subscriptions(
        const struct kz_project *project, size_t *ret_count);

/* role_health.c: how the backends are. One that has something to say of its service (stats.problem) is
 * asked by a thread of its own until it is well: a process that is not ready has no callers, whose calls
 * would tell. */
KZ_MUST_USE enum kz_code kz_role_health_open(
        struct kz_role_env *env, struct kz_role_health **ret_health, struct kz_err *err);
void kz_role_health_close(struct kz_role_health *health); /* takes NULL */
/* To be called once a second: looks how the backends are. */
void kz_role_env_tick(struct kz_role_env *env);
/* What is wrong with the backends, as kz_serve_say; their series in /metrics; KZ_OK or what keeps
 * this process from doing its work (a backend has not worked for some five seconds). */
void kz_role_env_problems(struct kz_role_env *env, kz_serve_say *say, void *to);
void kz_role_env_metrics(struct kz_role_env *env, struct kz_buf *out);
/* Members of /v1/admin/status: "roles" with what each has in hand, and "backends". */
void kz_role_env_status(struct kz_role_env *env, struct kz_json_out *out);
KZ_MUST_USE enum kz_code kz_role_env_ready(struct kz_role_env *env, struct kz_err *err);
/* What the roles of this process have counted, and the state of a model where infer is one of them. */
void kz_role_env_counters(struct kz_role_env *env, struct kz_pipeline_counters *ret_counters);
void kz_role_env_histograms(struct kz_role_env *env, struct kz_pipeline_histograms *ret_histograms);
void kz_role_env_model(struct kz_role_env *env, unsigned model, struct kz_model_status *ret_status);
bool kz_role_env_action_paused(const struct kz_role_env *env, unsigned action);
/* The query of a process that keeps nothing to be asked for: probes, metrics and status. free() it. */
struct kz_query *kz_role_query_new(struct kz_role_env *env);

/* ---- a role ---------------------------------------------------------------------------------- */

/* How far behind a role is, in /metrics as kizashi_backlog_messages and kizashi_lag_seconds. */
struct kz_role_backlog {
    uint64_t messages; /* taken and not done */
    int64_t oldest_ms; /* when the oldest of them was published; 0: there is none */
};

struct kz_role {
    const struct kz_role_ops *ops;
};

struct kz_role_ops {
    enum kz_code (*open)(struct kz_role_env *env, struct kz_role **ret_role, struct kz_err *err);
    /* HTTP: whether to read the body; whether the request is this role's. NULL: takes none. */
    enum kz_code (*admit)(struct kz_role *role, const struct kz_http_request *req,
            size_t *body_max_bytes, struct kz_err *err);
    bool (*handle)(struct kz_role *role, struct kz_http_request *req);
    /* After a batch of requests, when woken, and at least once a second. NULL: nothing to do. */
    void (*turn)(struct kz_role *role);
    /* Milliseconds until turn() is wanted in any case. NULL: 1000. */
    int (*next_ms)(struct kz_role *role);
    /* What /v1 answers from: of `serve`; NULL elsewhere. */
    struct kz_query *(*query)(struct kz_role *role);

    /* Adds its counts to those of the process; NULL: none. */
    void (*counters)(struct kz_role *role, struct kz_pipeline_counters *counters);
    void (*histograms)(struct kz_role *role, struct kz_pipeline_histograms *histograms);
    /* Leaves `ret_status` where another process asks the model. */
    void (*model)(struct kz_role *role, unsigned model, struct kz_model_status *ret_status);
    void (*backlog)(struct kz_role *role, struct kz_role_backlog *ret_backlog);
    void (*metrics)(struct kz_role *role, struct kz_buf *out);
    void (*problems)(struct kz_role *role, kz_serve_say *say, void *to);
    /* KZ_OK, or why this role cannot do its work; NULL: always can. */
    enum kz_code (*ready)(struct kz_role *role, struct kz_err *err);

    /* Takes nothing new; what it holds is finished, or given back to the bus when `deadline_ms`
     * (kz_mono_ms()) has come. Returns at once; turn() goes on being called. */
    void (*stop)(struct kz_role *role, int64_t deadline_ms);
    bool (*stopped)(struct kz_role *role); /* nothing is held any more; NULL: at once */
    void (*close)(struct kz_role *role);   /* joins its threads, frees */
};

/* NULL: not in this build. */
const struct kz_role_ops *kz_role_ops_of(enum kz_role_kind kind);
extern const struct kz_role_ops kz_role_collect, kz_role_process, kz_role_infer, kz_role_serve;

/* `up --role`: everything from the opened environment to the end. Returns the exit code. */
struct kz_args;
int kz_role_up(const struct kz_args *args);

/* ---- an operator's words ----------------------------------------------------------------------- */

/* Paused models and actions, as every role knows them: one word in the predictions backend, read again
 * each second by a thread. Its value is what kz_views_carry_globals() writes, so that a role's views take
 * it by a CARRY record of owner 0, and kz_views_paused() answers.
 *
 * Threads  any.
 */
KZ_MUST_USE enum kz_code kz_words_open(
        struct kz_predictions *predictions, struct kz_words **ret_words, struct kz_err *err);
void kz_words_close(struct kz_words *words);
/* "model" or "action" of this name is paused. */
bool kz_words_paused(struct kz_words *words, const char *what, struct kz_str name);
/* The argument of the last word of a family about an object, where it is a time: words that ask for
 * something to be done once ("unfence-model:<ms>", family "fence-model") are heeded by whoever has not
 * seen that time. 0: nothing was said. */
int64_t kz_words_said_ms(struct kz_words *words, const char *family, struct kz_str object);
/* Says a word (verbs as of CONTROL records: "pause-model", ...): blocks, check-and-set. */
KZ_MUST_USE enum kz_code kz_words_say(struct kz_words *words, const char *verb,
        struct kz_str object, const char *who, int64_t now_ms, struct kz_err *err);
