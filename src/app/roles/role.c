#include "app/roles/role.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/json_out.h"
#include "sys/clock.h"

static const struct {
    const char *name;
    unsigned needs;
    const struct kz_role_ops *ops;
} roles[KZ_ROLE_COUNT] = {
        [KZ_ROLE_COLLECT] = {"collect", KZ_NEEDS_BUS, &kz_role_collect},
        [KZ_ROLE_PROCESS] = {"process", KZ_NEEDS_BUS | KZ_NEEDS_STORE, &kz_role_process},
        [KZ_ROLE_INFER] = {"infer", KZ_NEEDS_BUS | KZ_NEEDS_STORE | KZ_NEEDS_PREDICTIONS,
                &kz_role_infer},
        [KZ_ROLE_SERVE] = {"serve", KZ_NEEDS_BUS | KZ_NEEDS_STORE | KZ_NEEDS_PREDICTIONS,
                &kz_role_serve},
};

const char *kz_role_name(enum kz_role_kind kind)
{
    KZ_BUG_ON((size_t)kind >= KZ_ROLE_COUNT);
    return roles[kind].name;
}

const struct kz_role_ops *kz_role_ops_of(enum kz_role_kind kind)
{
    KZ_BUG_ON((size_t)kind >= KZ_ROLE_COUNT);
    return roles[kind].ops;
}

enum kz_code kz_roles_parse(const char *list, unsigned *ret_kinds, struct kz_err *err)
{
    unsigned kinds = 0;

    for (const char *at = list; *at;) {
        struct kz_str name = kz_str_n(at, strcspn(at, ","));
        unsigned kind = 0;

        while (kind < KZ_ROLE_COUNT && !kz_str_is(name, roles[kind].name))
            kind++;
        if (kind == KZ_ROLE_COUNT)
            return kz_fail(err, KZ_CONFIG,
                    "\"" KZ_STR_FMT "\" is no role: there are collect, process, infer and serve",
                    KZ_STR_ARG(name));
        kinds |= 1u << kind;
        at += name.size + (at[name.size] == ',');
    }
    if (!kinds)
        return kz_fail(err, KZ_CONFIG, "no role was named: collect, process, infer or serve");
    *ret_kinds = kinds;
    return KZ_OK;
}

/* ---- the environment --------------------------------------------------------------------------------- */

struct env {
    struct kz_role_env env;
    struct kz_backends backends;
};

static enum kz_code check(const struct kz_role_env *env, struct kz_err *err)
{
    if (env->bus)
        KZ_TRY(env->bus->ops->check(env->bus, err));
    if (env->store)
        KZ_TRY(env->store->ops->check(env->store, err));
    if (env->predictions)
        KZ_TRY(env->predictions->ops->check(env->predictions, err));
    return KZ_OK;
}

static unsigned needs_of(unsigned kinds)
{
    unsigned needs = 0;

    for (unsigned kind = 0; kind < KZ_ROLE_COUNT; kind++)
        if (kinds & 1u << kind)
            needs |= roles[kind].needs;
    return needs;
}

/* What is in memory nobody else sees: a collect on its own would acknowledge events that no process
 * ever gets. */
static enum kz_code shared_by_all(const struct kz_role_env *env, struct kz_err *err)
{
    bool memory = (env->bus && strcmp(env->bus->ops->name, "memory") == 0) ||
                  (env->store && strcmp(env->store->ops->name, "memory") == 0) ||
                  (env->predictions && strcmp(env->predictions->ops->name, "memory") == 0);

    if (!memory || env->kinds == (1u << KZ_ROLE_COUNT) - 1)
        return KZ_OK;
    (void)kz_fail(err, KZ_CONFIG,
            "a backend in memory is this process's own, and some roles are not in it");
    return kz_hint(err,
            "--role collect,process,infer,serve, or a backend that processes share: --backend gcp");
}

enum kz_code kz_role_env_open(
        const struct kz_role_env_options *options, struct kz_role_env **ret_env, struct kz_err *err)
{
    struct env *e = kz_calloc(1, sizeof(*e));
    struct kz_role_env *env = &e->env;
    enum kz_code rc;

    env->project = options->project;
    env->kinds = options->kinds;
    env->models = options->models;
    env->push_only = options->push_only;
    env->event_clock = options->event_clock;
    env->started_ms = kz_mono_ms();
    rc = kz_backends_open(
            options->project, options->backend, needs_of(options->kinds), &e->backends, err);
    if (rc == KZ_OK) {
        env->rpc = e->backends.rpc;
        env->bus = e->backends.bus;
        env->store = e->backends.store;
        env->predictions = e->backends.predictions;
        rc = shared_by_all(env, err);
    }
    if (rc == KZ_OK)
        rc = check(env, err);
    if (rc == KZ_OK && env->predictions)
        rc = kz_words_open(env->predictions, &env->words, err);
    if (rc == KZ_OK)
        rc = kz_role_health_open(env, &env->health, err);
    if (rc != KZ_OK) {
        kz_role_env_close(env);
        return rc;
    }
    *ret_env = env;
    return KZ_OK;
}

void kz_role_env_close(struct kz_role_env *env)
{
    struct env *e;

    if (!env)
        return;
    e = KZ_CONTAINER_OF(env, struct env, env);
    kz_role_health_close(env->health);
    kz_words_close(env->words);
    kz_backends_close(&e->backends);
    free(e);
}

/* ---- metrics ------------------------------------------------------------------------------------------- */

static void put(
        struct kz_buf *out, const char *name, const char *type, const char *help, double value)
{
    kz_buf_printf(out, "# HELP kizashi_%s %s\n# TYPE kizashi_%s %s\nkizashi_%s %.17g\n", name, help,
            name, type, name, value);
}
#define COUNTER(prefix, stats, member, help)                                                       \
    put(out, prefix #member "_total", "counter", help, (double)(stats).member)
#define GAUGE(prefix, stats, member, help)                                                         \
    put(out, prefix #member, "gauge", help, (double)(stats).member)

static void bus_metrics(struct kz_bus *bus, struct kz_buf *out)
{
    struct kz_bus_stats s;

    bus->ops->stats(bus, &s);
    COUNTER("bus_", s, published, "messages published");
    COUNTER("bus_", s, publish_failures, "messages that could not be published");
    COUNTER("bus_", s, publish_retries, "publish calls tried again");
    COUNTER("bus_", s, bytes_published, "bytes published");
    COUNTER("bus_", s, received, "messages received");
    COUNTER("bus_", s, acknowledged, "messages acknowledged");
    COUNTER("bus_", s, rejected, "messages given back, to come again");
    COUNTER("bus_", s, redelivered, "messages that came again");
    COUNTER("bus_", s, leases_extended, "leases of messages extended");
    COUNTER("bus_", s, reconnects, "streams opened again");
    GAUGE("bus_", s, publishing, "messages being published");
    GAUGE("bus_", s, held, "messages received and not acknowledged");
    GAUGE("bus_", s, throttled, "1: the bus asks for less");
}

static void store_metrics(struct kz_store *store, struct kz_buf *out)
{
    struct kz_store_stats s;

    store->ops->stats(store, &s);
    COUNTER("store_", s, commits, "transactions committed");
    COUNTER("store_", s, conflicts, "transactions that somebody else's change undid");
    COUNTER("store_", s, retries, "calls tried again");
    COUNTER("store_", s, reads, "reads");
    COUNTER("store_", s, rows_read, "rows read");
    COUNTER("store_", s, rows_written, "rows written");
    COUNTER("store_", s, bytes_written, "bytes written");
    put(out, "store_commit_seconds_total", "counter", "time spent waiting for commits",
            (double)s.commit_us_total * 1e-6);
    put(out, "store_read_seconds_total", "counter", "time spent waiting for reads",
            (double)s.read_us_total * 1e-6);
    GAUGE("store_", s, sessions, "sessions open");
    GAUGE("store_", s, throttled, "1: the store asks for less");
}

static void predictions_metrics(struct kz_predictions *predictions, struct kz_buf *out)
{
    struct kz_predictions_stats s;

    predictions->ops->stats(predictions, &s);
    COUNTER("predictions_", s, reads, "rows of users read");
    COUNTER("predictions_", s, writes, "rows of users written");
    COUNTER("predictions_", s, conflicts, "writes that somebody else's change undid");
    COUNTER("predictions_", s, retries, "calls tried again");
    COUNTER("predictions_", s, bytes_written, "bytes written");
    put(out, "predictions_read_seconds_total", "counter", "time spent waiting for reads",
            (double)s.read_us_total * 1e-6);
    put(out, "predictions_write_seconds_total", "counter", "time spent waiting for writes",
            (double)s.write_us_total * 1e-6);
    GAUGE("predictions_", s, throttled, "1: the predictions' backend asks for less");
}

/* One series a role, so that an autoscaler can pick its own. */
static void backlog_metrics(struct kz_role_env *env, struct kz_buf *out)
{
    struct kz_role_backlog backlogs[KZ_ROLE_COUNT] = {0};
    int64_t now_ms = kz_clock_ms();

    kz_buf_cstr(out, "# HELP kizashi_backlog_messages messages taken and not done\n"
                     "# TYPE kizashi_backlog_messages gauge\n");
    for (unsigned kind = 0; kind < KZ_ROLE_COUNT; kind++) {
        struct kz_role *role = env->roles[kind];

        if (!role || !role->ops->backlog)
            continue;
        role->ops->backlog(role, &backlogs[kind]);
        kz_buf_printf(out, "kizashi_backlog_messages{role=\"%s\"} %" PRIu64 "\n", roles[kind].name,
                backlogs[kind].messages);
    }
    kz_buf_cstr(out, "# HELP kizashi_lag_seconds age of the oldest message taken and not done\n"
                     "# TYPE kizashi_lag_seconds gauge\n");
    for (unsigned kind = 0; kind < KZ_ROLE_COUNT; kind++) {
        int64_t oldest_ms = backlogs[kind].oldest_ms;

        if (env->roles[kind] && env->roles[kind]->ops->backlog)
            kz_buf_printf(out, "kizashi_lag_seconds{role=\"%s\"} %.3f\n", roles[kind].name,
                    oldest_ms ? (double)KZ_MAX(now_ms - oldest_ms, (int64_t)0) * 1e-3 : 0.0);
    }
}

void kz_role_env_metrics(struct kz_role_env *env, struct kz_buf *out)
{
    if (env->bus)
        bus_metrics(env->bus, out);
    if (env->store)
        store_metrics(env->store, out);
    if (env->predictions)
        predictions_metrics(env->predictions, out);
    backlog_metrics(env, out);
    for (unsigned kind = 0; kind < KZ_ROLE_COUNT; kind++) {
        struct kz_role *role = env->roles[kind];

        if (role && role->ops->metrics)
            role->ops->metrics(role, out);
    }
}

/* ---- status ------------------------------------------------------------------------------------------- */

static void backend_begin(
        struct kz_json_out *out, const char *key, const char *name, const char *problem)
{
    kz_json_out_key(out, key);
    kz_json_out_object(out);
    kz_json_out_kv_cstr(out, "name", name);
    if (*problem)
        kz_json_out_kv_cstr(out, "problem", problem);
}

static void bus_status(struct kz_bus *bus, struct kz_json_out *out)
{
    struct kz_bus_stats s;

    bus->ops->stats(bus, &s);
    backend_begin(out, "bus", bus->ops->name, s.problem);
    kz_json_out_kv_u64(out, "publishing", s.publishing);
    kz_json_out_kv_u64(out, "held", s.held);
    kz_json_out_kv_f64(out, "oldest_seconds",
            s.oldest_ms ? (double)KZ_MAX(kz_clock_ms() - s.oldest_ms, (int64_t)0) * 1e-3 : 0);
    kz_json_out_kv_u64(out, "published_total", s.published);
    kz_json_out_kv_u64(out, "received_total", s.received);
    kz_json_out_kv_u64(out, "acknowledged_total", s.acknowledged);
    kz_json_out_kv_u64(out, "redelivered_total", s.redelivered);
    kz_json_out_object_end(out);
}

static void store_status(struct kz_store *store, struct kz_json_out *out)
{
    struct kz_store_stats s;

    store->ops->stats(store, &s);
    backend_begin(out, "store", store->ops->name, s.problem);
    kz_json_out_kv_u64(out, "commits_total", s.commits);
    kz_json_out_kv_u64(out, "conflicts_total", s.conflicts);
    kz_json_out_kv_u64(out, "reads_total", s.reads);
    kz_json_out_kv_u64(out, "rows_written_total", s.rows_written);
    kz_json_out_kv_f64(out, "commit_seconds_total", (double)s.commit_us_total * 1e-6);
    kz_json_out_kv_f64(out, "read_seconds_total", (double)s.read_us_total * 1e-6);
    kz_json_out_object_end(out);
}

static void predictions_status(struct kz_predictions *predictions, struct kz_json_out *out)
{
    struct kz_predictions_stats s;

    predictions->ops->stats(predictions, &s);
    backend_begin(out, "predictions", predictions->ops->name, s.problem);
    kz_json_out_kv_u64(out, "reads_total", s.reads);
    kz_json_out_kv_u64(out, "writes_total", s.writes);
    kz_json_out_kv_u64(out, "conflicts_total", s.conflicts);
    kz_json_out_kv_f64(out, "read_seconds_total", (double)s.read_us_total * 1e-6);
    kz_json_out_kv_f64(out, "write_seconds_total", (double)s.write_us_total * 1e-6);
    kz_json_out_object_end(out);
}

void kz_role_env_status(struct kz_role_env *env, struct kz_json_out *out)
{
    int64_t now_ms = kz_clock_ms();

    kz_json_out_key(out, "roles");
    kz_json_out_array(out);
    for (unsigned kind = 0; kind < KZ_ROLE_COUNT; kind++) {
        struct kz_role *role = env->roles[kind];
        struct kz_role_backlog backlog = {0};

        if (!role)
            continue;
        kz_json_out_object(out);
        kz_json_out_kv_cstr(out, "name", roles[kind].name);
        if (role->ops->backlog) {
            role->ops->backlog(role, &backlog);
            kz_json_out_kv_u64(out, "backlog", backlog.messages);
            kz_json_out_kv_f64(out, "lag_seconds",
                    backlog.oldest_ms
                            ? (double)KZ_MAX(now_ms - backlog.oldest_ms, (int64_t)0) * 1e-3
                            : 0);
        }
        kz_json_out_object_end(out);
    }
    kz_json_out_array_end(out);
    kz_json_out_key(out, "backends");
    kz_json_out_object(out);
    if (env->bus)
        bus_status(env->bus, out);
    if (env->store)
        store_status(env->store, out);
    if (env->predictions)
        predictions_status(env->predictions, out);
    kz_json_out_object_end(out);
}
