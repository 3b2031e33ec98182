/* app/roles/role_serve.c -- the serve role: workers that fetch, news that come in, and the loop's turn between
 * them. role_serve_int.h has the picture.
 */

#include "app/roles/role_serve_int.h"

#include <stdlib.h>

#include "app/roles/news.h"
#include "base/diag.h"
#include "base/hash.h"
#include "contract/message.h"
#include "sys/clock.h"

enum {
    NEWS_PULL_MAX = 500,
    NEWS_PULL_WAIT_MS = 200,
    NEWS_HELD_MAX = 5000,
    SECOND_PASS_MS = 60000,
    LOOK_EVERY_MS = 10000,
    TAKE_OVER_MS = 15000,
};

/* ---- jobs ------------------------------------------------------------------------------------------ */

static void push(struct job_list *list, struct job *job)
{
    job->next = NULL;
    *list->last = job;
    list->last = &job->next;
    list->count++;
}

static struct job *pop(struct job_list *list)
{
    struct job *job = list->first;

    if (!job)
        return NULL;
    list->first = job->next;
    if (!list->first)
        list->last = &list->first;
    list->count--;
    return job;
}

void kz_serve_job(struct role_serve *role, struct job *job)
{
    job->code = KZ_OK;
    job->err = (struct kz_err){0};
    pthread_mutex_lock(&role->lock);
    role->job_count++;
    push(&role->jobs, job);
    pthread_cond_signal(&role->work_there);
    pthread_mutex_unlock(&role->lock);
}

void kz_serve_done(struct role_serve *role, struct job *job)
{
    pthread_mutex_lock(&role->lock);
    role->job_count++;
    push(&role->done, job);
    pthread_mutex_unlock(&role->lock);
    role->env->wake(role->env->wake_arg);
}

static void run_worker(void *arg)
{
    struct role_serve *role = arg;

    pthread_mutex_lock(&role->lock);
    while (!role->stop) {
        struct job *job = pop(&role->jobs);

        if (!job) {
            pthread_cond_wait(&role->work_there, &role->lock);
            continue;
        }
        pthread_mutex_unlock(&role->lock);
        job->run(job);
        pthread_mutex_lock(&role->lock);
        push(&role->done, job);
        pthread_mutex_unlock(&role->lock);
        role->env->wake(role->env->wake_arg);
        pthread_mutex_lock(&role->lock);
    }
    pthread_mutex_unlock(&role->lock);
}

static void finish_jobs(struct role_serve *role)
{
    struct job *jobs;

    pthread_mutex_lock(&role->lock);
    jobs = role->done.first;
    role->job_count -= role->done.count;
    role->done = (struct job_list){.last = &role->done.first};
    pthread_mutex_unlock(&role->lock);
    while (jobs) {
        struct job *next = jobs->next;

        jobs->done(jobs);
        jobs = next;
    }
}

/* ---- news -------------------------------------------------------------------------------------------- */

struct piece {      /* of news, on its way to the loop */
    struct job job; /* first */
    struct kz_buf record;
};

/* News come at least once; of what was told lately nobody is told again. */
static bool was_told(struct role_serve *role, const struct kz_record *record)
{
    uint64_t name = kz_hash_mix(record->owner, record->seq);
    uint64_t *told = &role->told[name % TOLD_MAX];

    if (*told == name)
        return true;
    *told = name;
    return false;
}

static void piece_arrived(struct job *job)
{
    struct piece *piece = KZ_CONTAINER_OF(job, struct piece, job);
    struct role_serve *role = job->role;
    const struct kz_record *record = (const void *)piece->record.data;

    role->counts.news_total++;
    if (!piece->record.size)
        role->counts.news_bad_total++;
    else if (was_told(role, record))
        role->counts.news_again_total++;
    else
        kz_serve_publish(role, record);
    kz_buf_done(&piece->record);
    free(piece);
}

/* Streams show predictions and what is shown on pages; ends and webhooks are for others. */
static bool is_shown(const struct kz_record *record)
{
    const char *kind = kz_news_kind_of(record);

    return kind && (strcmp(kind, "prediction") == 0 || strcmp(kind, "action") == 0);
}

static void take_news(struct role_serve *role, const struct kz_bus_delivery *delivery)
{
    struct piece *piece;
    const struct kz_record *record;
    struct kz_err err;

    if (kz_str_is(kz_attribute_get(
                          delivery->attributes, delivery->attribute_count, KZ_ATTRIBUTE_KIND),
                KZ_NEWS_UNASKED))
        return; /* for collect */
    piece = kz_calloc(1, sizeof(*piece));
    piece->job = (struct job){.role = role, .done = piece_arrived};
    if (kz_news_decode(delivery->data, &piece->record, &record, &err) != KZ_OK) {
        kz_buf_clear(&piece->record);
    } else if (!is_shown(record)) {
        kz_buf_done(&piece->record);
        free(piece);
        return;
    }
    kz_serve_done(role, &piece->job);
}

static bool is_over(struct role_serve *role)
{
    bool over;

    pthread_mutex_lock(&role->lock);
    over = role->stop_pulling;
    pthread_mutex_unlock(&role->lock);
    return over;
}

/* News nobody has to have: they are acknowledged as they come. */
static void run_puller(void *arg)
{
    struct role_serve *role = arg;
    struct kz_bus *bus = role->env->bus;
    struct kz_bus_delivery *deliveries[NEWS_PULL_MAX];
    bool warned = false;

    while (!is_over(role)) {
        size_t count = 0;
        struct kz_err err;
        enum kz_code rc = bus->ops->pull(
                role->news, deliveries, NEWS_PULL_MAX, NEWS_PULL_WAIT_MS, &count, &err);

        if (rc != KZ_OK && !warned)
            kz_diag_warn("news cannot be pulled: streams are silent", "error=\"%s\"", err.message);
        warned = rc != KZ_OK;
        if (rc != KZ_OK)
            continue;
        for (size_t i = 0; i < count; i++)
            take_news(role, deliveries[i]);
        if (count)
            bus->ops->ack(role->news, deliveries, count);
    }
}

/* ---- the role ----------------------------------------------------------------------------------------- */

static struct role_serve *of(struct kz_role *role)
{
    struct role_serve *serve = KZ_CONTAINER_OF(role, struct role_serve, base);

    KZ_CHECK_MAGIC(serve, SERVE_MAGIC_ROLE);
    return serve;
}

static struct kz_query *query_of(struct kz_role *role)
{
    return &of(role)->query;
}

static void turn(struct kz_role *role)
{
    struct role_serve *serve = of(role);

    finish_jobs(serve);
    kz_deliveries_turn(serve);
    if (!serve->stopping)
        kz_serve_erase_again(serve);
    if (serve->stopping && kz_mono_ms() >= serve->deadline_ms) {
        kz_serve_give_up(serve);
        kz_serve_changes_give_up(serve);
    }
}

static int next_ms(struct kz_role *role)
{
    return (int)KZ_MIN(kz_deliveries_next_ms(of(role)), (int64_t)1000);
}

static void counters(struct kz_role *role, struct kz_pipeline_counters *sum)
{
    const struct role_serve *serve = of(role);

#define X(name, gauge, help) sum->name += serve->counters.name;
    KZ_PIPELINE_COUNTERS(X)
#undef X
}

static void backlog(struct kz_role *role, struct kz_role_backlog *ret)
{
    *ret = (struct kz_role_backlog){0};
    kz_deliveries_backlog(of(role), ret);
}

static void metrics(struct kz_role *role, struct kz_buf *out)
{
    const struct role_serve *serve = of(role);

#define X(name, help)                                                                              \
    kz_buf_printf(out,                                                                             \
            "# HELP kizashi_role_serve_" #name " " help "\n# TYPE kizashi_role_serve_" #name       \
            " counter\nkizashi_role_serve_" #name " %llu\n",                                       \
            (unsigned long long)serve->counts.name);
    ROLE_SERVE_COUNTERS(X)
#undef X
}

static enum kz_code start(struct role_serve *serve, struct kz_err *err)
{
    struct kz_bus_pull_options options = {.topic = KZ_TOPIC_NEWS, .messages_max = NEWS_HELD_MAX};

    for (unsigned i = 0; i < SERVE_WORKERS; i++)
        KZ_TRY(kz_thread_start(&serve->workers[i], "kz-serve", run_worker, serve, err));
    KZ_TRY(kz_deliveries_open(serve, err));
    KZ_TRY(serve->env->bus->ops->open_source(serve->env->bus, &options, &serve->news, err));
    return kz_thread_start(&serve->puller, "kz-news", run_puller, serve, err);
}

static void close_role(struct kz_role *role);

static enum kz_code open_role(
        struct kz_role_env *env, struct kz_role **ret_role, struct kz_err *err)
{
    struct role_serve *serve = kz_calloc(1, sizeof(*serve));
    enum kz_code rc;

    serve->base.ops = &kz_role_serve;
    serve->magic = SERVE_MAGIC_ROLE;
    serve->env = env;
    serve->reader.ops = &kz_serve_reader_ops;
    serve->query = (struct kz_query){
            .ops = &kz_serve_query_ops, .project = env->project, .reader = &serve->reader};
    serve->jobs.last = &serve->jobs.first;
    serve->done.last = &serve->done.first;
    serve->second_pass_ms = SECOND_PASS_MS;
    serve->look_every_ms = LOOK_EVERY_MS;
    serve->take_over_ms = TAKE_OVER_MS;
    pthread_mutex_init(&serve->lock, NULL);
    pthread_cond_init(&serve->work_there, NULL);
    rc = start(serve, err);
    if (rc != KZ_OK) {
        close_role(&serve->base);
        return rc;
    }
    *ret_role = &serve->base;
    return KZ_OK;
}

static void end_pulling(struct role_serve *serve)
{
    pthread_mutex_lock(&serve->lock);
    serve->stop_pulling = true;
    pthread_mutex_unlock(&serve->lock);
}

static void stop_role(struct kz_role *role, int64_t deadline_ms)
{
    struct role_serve *serve = of(role);

    serve->stopping = true;
    serve->deadline_ms = deadline_ms;
    end_pulling(serve);
    kz_deliveries_stop(serve);
}

static bool stopped(struct kz_role *role)
{
    struct role_serve *serve = of(role);
    bool idle;

    pthread_mutex_lock(&serve->lock);
    idle = !serve->job_count;
    pthread_mutex_unlock(&serve->lock);
    if (kz_mono_ms() >= serve->deadline_ms && serve->stopping)
        return true;
    return idle && !serve->changes && kz_deliveries_idle(serve);
}

/* Jobs that were not carried out: their callers are answered that we stop. */
static void give_up_jobs(struct role_serve *serve)
{
    struct job *job;

    serve->stopping = true;
    while (serve->jobs.first || serve->done.first) {
        while ((job = pop(&serve->jobs))) {
            job->code = kz_fail(&job->err, KZ_UNAVAILABLE, "stopping");
            push(&serve->done, job);
        }
        finish_jobs(serve); /* may make others */
    }
}

static void close_role(struct kz_role *role)
{
    struct role_serve *serve = of(role);

    end_pulling(serve);
    kz_thread_join(&serve->puller);
    pthread_mutex_lock(&serve->lock);
    serve->stop = true;
    pthread_cond_broadcast(&serve->work_there);
    pthread_mutex_unlock(&serve->lock);
    for (unsigned i = 0; i < SERVE_WORKERS; i++)
        kz_thread_join(&serve->workers[i]);
    if (serve->deliveries)
        kz_deliveries_stop(serve);
    give_up_jobs(serve);
    kz_deliveries_close(serve);
    if (serve->news)
        serve->env->bus->ops->close_source(serve->news);
    kz_serve_changes_free(serve);
    pthread_cond_destroy(&serve->work_there);
    pthread_mutex_destroy(&serve->lock);
    serve->magic = 0;
    free(serve);
}

const struct kz_role_ops kz_role_serve = {
        .open = open_role,
        .turn = turn,
        .next_ms = next_ms,
        .query = query_of,
        .counters = counters,
        .backlog = backlog,
        .metrics = metrics,
        .stop = stop_role,
        .stopped = stopped,
        .close = close_role,
};
