/* serve/numbers.c -- counters and histograms as rates, quantiles and Prometheus text. */

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "serve/serve_int.h"
#include "sys/clock.h"

/* ---- rates
 * ---------------------------------------------------------------------------------------- */

void kz_serve_sample(struct kz_serve *serve)
{
    struct kz_serve_sample *sample = &serve->samples[serve->sample_next];
    struct kz_query *query = serve->query;

    serve->sample_next = (serve->sample_next + 1) % KZ_SERVE_SAMPLES;
    sample->at_us = kz_mono_us();
    query->ops->counters(query, &sample->counters);
    sample->histograms = *query->ops->histograms(query);
    if (serve->http) {
        const struct kz_http_counters *http = kz_http_server_counters(serve->http);

        sample->http_requests = http->requests_total;
        sample->http_refused = http->requests_refused + http->connections_refused;
    }
}

static void histogram_minus(struct kz_histogram *a, const struct kz_histogram *b)
{
    for (size_t i = 0; i < KZ_HISTOGRAM_BUCKETS; i++)
        a->buckets[i] -= b->buckets[i];
    a->count -= b->count;
    a->sum_seconds -= b->sum_seconds;
}

void kz_serve_rates(struct kz_serve *serve, struct kz_serve_rates *ret)
{
    size_t newest = (serve->sample_next + KZ_SERVE_SAMPLES - 1) % KZ_SERVE_SAMPLES;
    const struct kz_serve_sample *to = &serve->samples[newest];
    const struct kz_serve_sample *from = &serve->samples[serve->sample_next];

    if (!from->at_us)
        from = &serve->samples[0]; /* not once round yet: since the start */
    *ret = (struct kz_serve_rates){
            .seconds = (double)(to->at_us - from->at_us) / 1e6,
            .counters = to->counters,
            .histograms = to->histograms,
            .http_requests = to->http_requests - from->http_requests,
            .http_refused = to->http_refused - from->http_refused,
    };
#define X(name, gauge, help)                                                                       \
    if (!(gauge))                                                                                  \
        ret->counters.name -= from->counters.name;
    KZ_PIPELINE_COUNTERS(X)
#undef X
#define X(name, help) histogram_minus(&ret->histograms.name, &from->histograms.name);
    KZ_PIPELINE_STAGES(X)
#undef X
}

double kz_serve_quantile(const struct kz_histogram *histogram, double q)
{
    double rank = q * (double)histogram->count, seen = 0;

    if (!histogram->count)
        return 0;
    for (size_t i = 0; i < KZ_HISTOGRAM_BUCKETS; i++) {
        double in = (double)histogram->buckets[i];
        double high = ldexp(1e-6, (int)i), low = i ? high / 2 : 0;

        if (in > 0 && seen + in >= rank)
            return low + (high - low) * ((rank - seen) / in);
        seen += in;
    }
    return ldexp(1e-6, KZ_HISTOGRAM_BUCKETS - 1);
}

/* ---- the process and its disk
 * --------------------------------------------------------------------- */

static uint64_t count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    uint64_t count = 0;

    if (!dir)
        return 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count > 3 ? count - 3 : 0; /* ".", ".." and the directory itself */
}

/* When the process began, seconds since 1970: proc(5), stat field 22 and btime. */
static double start_seconds(void)
{
    static const char after_name[] = ") ";
    char text[4096];
    unsigned long long ticks = 0, boot = 0;
    FILE *file = fopen("/proc/self/stat", "re");
    const char *at;
    size_t size;

    if (!file)
        return 0;
    size = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[size] = '\0';
    at = strstr(text, after_name);
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (at)
        ticks = strtoull(at, NULL, 10);
    file = fopen("/proc/stat", "re");
    if (!file)
        return 0;
    while (fgets(text, sizeof(text), file))
        if (sscanf(text, "btime %llu", &boot) == 1)
            break;
    fclose(file);
    return (double)boot + (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

void kz_serve_process(struct kz_serve_process *ret)
{
    struct rusage usage = {0};
    struct rlimit limit = {0};
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");

    if (file) {
        if (fscanf(file, "%*u %llu", &pages) != 1)
            pages = 0;
        fclose(file);
    }
    /* Neither can fail with these arguments. */
    (void)getrusage(RUSAGE_SELF, &usage);
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    *ret = (struct kz_serve_process){
            .rss_bytes = pages * (uint64_t)sysconf(_SC_PAGESIZE),
            .fds_open = count_fds(),
            .fds_max = limit.rlim_cur,
            .cpu_seconds = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6,
            .start_seconds = start_seconds(),
    };
}

bool kz_serve_disk(const struct kz_serve *serve, uint64_t *ret_free, uint64_t *ret_total)
{
    struct statvfs fs;

    if (!serve->options.data_dir || statvfs(serve->options.data_dir, &fs) != 0)
        return false;
    *ret_free = (uint64_t)fs.f_bavail * fs.f_frsize;
    *ret_total = (uint64_t)fs.f_blocks * fs.f_frsize;
    return true;
}

/* ---- Prometheus
 * ----------------------------------------------------------------------------------- */

static void head(struct kz_buf *out, const char *name, const char *type, const char *help)
{
    kz_buf_printf(out, "# HELP kizashi_%s %s\n# TYPE kizashi_%s %s\n", name, help, name, type);
}

static void number(
        struct kz_buf *out, const char *name, bool gauge, const char *help, uint64_t value)
{
    head(out, name, gauge ? "gauge" : "counter", help);
    kz_buf_printf(out, "kizashi_%s %" PRIu64 "\n", name, value);
}

static void real(struct kz_buf *out, const char *name, bool gauge, const char *help, double value)
{
    head(out, name, gauge ? "gauge" : "counter", help);
    kz_buf_printf(out, "kizashi_%s %.17g\n", name, value);
}

/* A label's value, escaped as the text format demands. */
static void label(struct kz_buf *out, const char *name, const char *value)
{
    kz_buf_printf(out, "%s=\"", name);
    for (; *value; value++) {
        if (*value == '\\' || *value == '"')
            kz_buf_char(out, '\\');
        if (*value == '\n')
            kz_buf_cstr(out, "\\n");
        else
            kz_buf_char(out, *value);
    }
    kz_buf_char(out, '"');
}

static void put_histogram(struct kz_buf *out, const char *stage, const struct kz_histogram *h)
{
    uint64_t count = 0;

    for (int i = 0; i + 1 < KZ_HISTOGRAM_BUCKETS; i++) {
        count += h->buckets[i];
        kz_buf_printf(out, "kizashi_stage_seconds_bucket{stage=\"%s\",le=\"%.9g\"} %" PRIu64 "\n",
                stage, ldexp(1e-6, i), count);
    }
    kz_buf_printf(out,
            "kizashi_stage_seconds_bucket{stage=\"%s\",le=\"+Inf\"} %" PRIu64 "\n"
            "kizashi_stage_seconds_sum{stage=\"%s\"} %.17g\n"
            "kizashi_stage_seconds_count{stage=\"%s\"} %" PRIu64 "\n",
            stage, h->count, stage, h->sum_seconds, stage, h->count);
}

static void put_http(struct kz_buf *out, const struct kz_http_counters *http)
{
    char name[80];

#define X(field, gauge, help)                                                                      \
    snprintf(name, sizeof(name), "http_%s%s", #field,                                              \
            (gauge) || strstr(#field, "_total") ? "" : "_total");                                  \
    number(out, name, gauge, help, http->field);
    KZ_HTTP_COUNTERS(X)
#undef X
}

/* X(metric, is a gauge, help, member of struct kz_model_status) */
#define MODEL_SERIES(X)                                                                            \
    X(replicas_ready, true, "replicas that take batches", replicas_ready)                          \
    X(replicas_starting, true, "replicas being loaded", replicas_starting)                         \
    X(replicas_max, true, "replicas there may be", replicas_max)                                   \
    X(requests_inside, true, "requests handed to infer", inside)                                   \
    X(requests_waiting, true, "requests with features that wait for a replica", waiting)           \
    X(requests_pending, true, "requests without a result", pending)                                \
    X(paused, true, "1: paused by an operator", paused)                                            \
    X(fenced, true, "1: fenced because it keeps failing", fenced)                                  \
    X(done_total, false, "requests that ended done", done)                                         \
    X(dead_total, false, "requests that became dead letters", dead)                                \
    X(expired_total, false, "requests older than max_age", expired)                                \
    X(superseded_total, false, "requests overtaken by a newer one", superseded)                    \
    X(dropped_total, false, "requests dropped", dropped)                                           \
    X(batches_total, false, "micro-batches", batches)                                              \
    X(batch_rows_total, false, "rows in them", batch_rows)                                         \
    X(restarts_total, false, "replicas that had to be replaced", restarts)                         \
    X(timeouts_total, false, "batches that ran into their time-out", timeouts)                     \
    X(rss_bytes, true, "resident memory of its replicas", rss_bytes)

static void put_models(struct kz_buf *out, struct kz_query *query)
{
    size_t count = query->project->model_count;
    struct kz_model_status *models = kz_calloc(count + 1, sizeof(*models));

    for (unsigned m = 0; m < count; m++)
        query->ops->model(query, m, &models[m]);
        /* All series of a metric stand together: the format demands it. */
#define X(metric, gauge, help, member)                                                             \
    head(out, "model_" #metric, (gauge) ? "gauge" : "counter", help);                              \
    for (size_t m = 0; m < count; m++) {                                                           \
        kz_buf_cstr(out, "kizashi_model_" #metric "{");                                            \
        label(out, "model", models[m].name);                                                       \
        kz_buf_printf(out, "} %" PRIu64 "\n", (uint64_t)models[m].member);                         \
    }
    MODEL_SERIES(X)
#undef X
    head(out, "model_info", "gauge", "the version that is asked");
    for (size_t m = 0; m < count; m++) {
        kz_buf_cstr(out, "kizashi_model_info{");
        label(out, "model", models[m].name);
        kz_buf_char(out, ',');
        label(out, "version", models[m].version ? models[m].version : "");
        kz_buf_char(out, ',');
        label(out, "runtime", models[m].runtime ? models[m].runtime : "");
        kz_buf_cstr(out, "} 1\n");
    }
    free(models);
}

static void put_process(struct kz_buf *out, struct kz_serve *serve)
{
    struct kz_serve_process process;
    uint64_t disk_free, disk_total;

    kz_serve_process(&process);
    number(out, "process_resident_memory_bytes", true, "resident memory", process.rss_bytes);
    real(out, "process_cpu_seconds_total", false, "CPU time, user and system", process.cpu_seconds);
    number(out, "process_open_fds", true, "open file descriptors", process.fds_open);
    number(out, "process_max_fds", true, "file descriptors there may be", process.fds_max);
    real(out, "process_start_time_seconds", true, "start, seconds since 1970",
            process.start_seconds);
    if (kz_serve_disk(serve, &disk_free, &disk_total)) {
        number(out, "disk_free_bytes", true, "free on the disk of the data", disk_free);
        number(out, "disk_bytes", true, "size of the disk of the data", disk_total);
    }
    head(out, "build_info", "gauge", "what runs here");
    kz_buf_cstr(out, "kizashi_build_info{");
    label(out, "version", serve->options.version);
    kz_buf_char(out, ',');
    label(out, "build", serve->options.build);
    kz_buf_cstr(out, "} 1\n");
}

/* Counters of a log of one's own. */
static bool of_log(const char *name)
{
    static const char *const ones[] = {"seq", "users", "views_bytes", "users_forgotten_total",
            "records_copied_total", "checkpoints_total", "checkpoints_failed_total"};

    for (size_t i = 0; i < KZ_ARRAY_COUNT(ones); i++)
        if (strcmp(name, ones[i]) == 0)
            return true;
    return strncmp(name, "log_", 4) == 0;
}

void kz_serve_metrics(struct kz_serve_call *call)
{
    struct kz_serve *serve = call->serve;
    struct kz_query *query = serve->query;
    const struct kz_pipeline_histograms *histograms = query->ops->histograms(query);
    struct kz_pipeline_counters counters;
    struct kz_buf *out = &serve->body;
    struct kz_err err;

    kz_buf_clear(out);
    query->ops->counters(query, &counters);
#define X(name, gauge, help)                                                                       \
    if (!serve->options.is_role || !of_log(#name))                                                 \
        number(out, #name, gauge, help, counters.name);
    KZ_PIPELINE_COUNTERS(X)
#undef X
    head(out, "stage_seconds", "histogram", "time in each stage of the way of an event");
#define X(name, help) put_histogram(out, #name, &histograms->name);
    KZ_PIPELINE_STAGES(X)
#undef X
    put_models(out, query);
    if (serve->http)
        put_http(out, kz_http_server_counters(serve->http));
    if (serve->options.more_metrics)
        serve->options.more_metrics(serve->options.arg, out);
    number(out, "ready", true, "1: intake and serving work",
            query->ops->health(query, &err) == KZ_OK);
    number(out, "streams_open", true, "Server-Sent Event streams open now", serve->stream_count);
    number(out, "stream_messages_total", false, "messages sent on streams", serve->streamed_total);
    put_process(out, serve);
    kz_serve_reply_as(call, 200, "text/plain; version=0.0.4; charset=utf-8");
}

/* ---- for `top` and the dashboard
 * ------------------------------------------------------------------ */

static void stage_json(struct kz_json_out *out, const char *name, const struct kz_histogram *now,
        const struct kz_histogram *ever)
{
    kz_json_out_key(out, name);
    kz_json_out_object(out);
    kz_json_out_kv_u64(out, "count", now->count);
    kz_json_out_kv_f64(out, "p50_ms", kz_serve_quantile(now, 0.5) * 1e3);
    kz_json_out_kv_f64(out, "p99_ms", kz_serve_quantile(now, 0.99) * 1e3);
    kz_json_out_kv_u64(out, "count_ever", ever->count);
    kz_json_out_kv_f64(out, "p50_ms_ever", kz_serve_quantile(ever, 0.5) * 1e3);
    kz_json_out_kv_f64(out, "p99_ms_ever", kz_serve_quantile(ever, 0.99) * 1e3);
    kz_json_out_object_end(out);
}

void kz_serve_top(struct kz_serve_call *call)
{
    struct kz_serve *serve = call->serve;
    const struct kz_pipeline_histograms *ever = serve->query->ops->histograms(serve->query);
    struct kz_serve_rates rates;
    struct kz_json_out out = kz_serve_json(call);

    kz_serve_rates(serve, &rates);
    kz_json_out_object(&out);
    kz_json_out_kv_f64(&out, "over_seconds", rates.seconds);
    kz_json_out_key(&out, "per_second");
    kz_json_out_object(&out);
#define X(name, gauge, help)                                                                       \
    if (!(gauge))                                                                                  \
        kz_json_out_kv_f64(                                                                        \
                &out, #name, rates.seconds > 0 ? (double)rates.counters.name / rates.seconds : 0);
    KZ_PIPELINE_COUNTERS(X)
#undef X
    kz_json_out_kv_f64(&out, "http_requests_total",
            rates.seconds > 0 ? (double)rates.http_requests / rates.seconds : 0);
    kz_json_out_object_end(&out);
    kz_json_out_key(&out, "now");
    kz_json_out_object(&out);
#define X(name, gauge, help)                                                                       \
    if (gauge)                                                                                     \
        kz_json_out_kv_u64(&out, #name, rates.counters.name);
    KZ_PIPELINE_COUNTERS(X)
#undef X
    kz_json_out_object_end(&out);
    kz_json_out_key(&out, "stages");
    kz_json_out_object(&out);
#define X(name, help) stage_json(&out, #name, &rates.histograms.name, &ever->name);
    KZ_PIPELINE_STAGES(X)
#undef X
    kz_json_out_object_end(&out);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, 200);
}
