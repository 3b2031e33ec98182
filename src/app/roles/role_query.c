/* app/roles/role_query.c -- what a process without the role serve answers: how it is, and nothing about
 * users. */

#include <stdlib.h>

#include "app/roles/role.h"
#include "sys/clock.h"

struct role_query {
    struct kz_query query;
    struct kz_role_env *env;
    struct kz_pipeline_histograms histograms;
};

static struct kz_role_env *env_of(struct kz_query *query)
{
    return KZ_CONTAINER_OF(query, struct role_query, query)->env;
}

static enum kz_code not_here(struct kz_err *err)
{
    (void)kz_fail(err, KZ_UNSUPPORTED, "this process has no role \"serve\"");
    return kz_hint(err, "ask one that has: kizashi up DIR --role serve");
}

/* ---- users: nobody is known ----------------------------------------------------------------- */

static bool find(struct kz_query *q, struct kz_user_key as_sent, uint32_t *ret_user)
{
    (void)q, (void)as_sent, (void)ret_user;
    return false;
}

static void when_durable(struct kz_query *q, kz_lsn lsn,
        void (*then)(void *arg, enum kz_code code, const struct kz_err *err), void *arg)
{
    (void)q, (void)lsn;
    then(arg, KZ_OK, NULL);
}

static kz_lsn end(struct kz_query *q)
{
    (void)q;
    return 0;
}

static void subscribe(struct kz_query *q, struct kz_subscription *subscription)
{
    (void)q, (void)subscription; /* there is no news here */
}

static enum kz_code acknowledge(
        struct kz_query *q, uint32_t user, uint64_t decision, struct kz_err *err)
{
    (void)q, (void)user, (void)decision;
    return not_here(err);
}

static bool timing(struct kz_query *q, uint64_t event_seq, struct kz_event_timing *ret)
{
    (void)q, (void)event_seq, (void)ret;
    return false;
}

/* ---- an operator's verbs -------------------------------------------------------------------- */

static enum kz_code control(struct kz_query *q, const char *verb, struct kz_str object,
        const char *who, uint64_t *ret_count, struct kz_err *err)
{
    (void)q, (void)verb, (void)object, (void)who, (void)ret_count;
    return not_here(err);
}

static enum kz_code erase(struct kz_query *q, struct kz_user_key key, const char *who,
        uint64_t *ret_erasure, struct kz_err *err)
{
    (void)q, (void)key, (void)who, (void)ret_erasure;
    return not_here(err);
}

static enum kz_code erasure(struct kz_query *q, uint64_t id, bool *ret_done, int64_t *ret_asked_ms,
        int64_t *ret_done_ms, struct kz_err *err)
{
    (void)q, (void)id, (void)ret_done, (void)ret_asked_ms, (void)ret_done_ms;
    return not_here(err);
}

static size_t dead_letters(
        struct kz_query *q, uint64_t before, size_t count, struct kz_letter_place *places)
{
    (void)q, (void)before, (void)count, (void)places;
    return 0;
}

static enum kz_code backup(struct kz_query *q, const char *dest,
        void (*done)(void *arg, enum kz_code code, const struct kz_err *err), void *arg,
        struct kz_err *err)
{
    (void)q, (void)dest, (void)done, (void)arg;
    (void)kz_fail(err, KZ_UNSUPPORTED, "a role keeps no data of its own");
    return kz_hint(err, "back up its backends");
}

static enum kz_code checkpoint(struct kz_query *q, struct kz_err *err)
{
    return backup(q, NULL, NULL, NULL, err);
}

/* ---- how it is ------------------------------------------------------------------------------ */

void kz_role_env_counters(struct kz_role_env *env, struct kz_pipeline_counters *ret_counters)
{
    *ret_counters = (struct kz_pipeline_counters){0};
    for (unsigned kind = 0; kind < KZ_ROLE_COUNT; kind++) {
        struct kz_role *role = env->roles[kind];

        if (role && role->ops->counters)
            role->ops->counters(role, ret_counters);
    }
}

void kz_role_env_histograms(struct kz_role_env *env, struct kz_pipeline_histograms *ret_histograms)
{
    struct kz_role *infer = env->roles[KZ_ROLE_INFER];

    *ret_histograms = (struct kz_pipeline_histograms){0};
    if (infer && infer->ops->histograms)
        infer->ops->histograms(infer, ret_histograms);
}

void kz_role_env_model(struct kz_role_env *env, unsigned model, struct kz_model_status *ret_status)
{
    struct kz_role *infer = env->roles[KZ_ROLE_INFER];
    struct kz_str name = kz_str(env->project->models[model].name);

    *ret_status = (struct kz_model_status){
            .name = env->project->models[model].name,
            .version = "",
            .runtime = env->project->models[model].runtime,
            .paused = env->words && kz_words_paused(env->words, "model", name),
            .elsewhere = true,
    };
    if (infer && infer->ops->model)
        infer->ops->model(infer, model, ret_status);
}

bool kz_role_env_action_paused(const struct kz_role_env *env, unsigned action)
{
    return env->words &&
           kz_words_paused(env->words, "action", kz_str(env->project->actions[action].name));
}

static void counters(struct kz_query *q, struct kz_pipeline_counters *ret)
{
    kz_role_env_counters(env_of(q), ret);
}

static const struct kz_pipeline_histograms *histograms(struct kz_query *q)
{
    struct role_query *query = KZ_CONTAINER_OF(q, struct role_query, query);

    kz_role_env_histograms(query->env, &query->histograms);
    return &query->histograms;
}

static bool action_paused(struct kz_query *q, unsigned action)
{
    return kz_role_env_action_paused(env_of(q), action);
}

static void model(struct kz_query *q, unsigned index, struct kz_model_status *ret)
{
    kz_role_env_model(env_of(q), index, ret);
}

static enum kz_code health(struct kz_query *q, struct kz_err *err)
{
    return kz_role_env_ready(env_of(q), err);
}

struct kz_query *kz_role_query_new(struct kz_role_env *env)
{
    /* `user`, `key`, `sources` and `slot` are about users that were found: there are none. */
    static const struct kz_query_ops ops = {
            .find = find,
            .when_durable = when_durable,
            .end = end,
            .subscribe = subscribe,
            .unsubscribe = subscribe,
            .acknowledge = acknowledge,
            .timing = timing,
            .control = control,
            .erase = erase,
            .erasure = erasure,
            .dead_letters = dead_letters,
            .counters = counters,
            .histograms = histograms,
            .model = model,
            .action_paused = action_paused,
            .health = health,
            .backup = backup,
            .checkpoint = checkpoint,
    };
    struct role_query *q = kz_calloc(1, sizeof(*q));

    q->query = (struct kz_query){.ops = &ops, .project = env->project};
    q->env = env;
    return &q->query;
}
