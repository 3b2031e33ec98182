/* app/commands/cmd_bench.c -- `kizashi bench`: the targets of DESIGN.md section 11, measured under its
 * conditions by a server and a load generator in processes of their own.
 *
 *     project, empty data -> [idle memory] -> [cost of an event] -> history stored -> [memory]
 *       -> [cost of an event] -> [intake] -> [single] -> [latency] -> [together] -> [get] -> [nginx]
 *       -> SIGTERM, start -> kill -9, start -> [features over the stored data]
 *
 * A rate counts as sustained where, in an open loop at that rate, 99 % of what was offered was
 * answered in time, the p99 of the answers is within the limit, and the backlog of requests does
 * not grow. Every figure that is printed was measured in this run.
 */

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "app/bench/bench_features.h"
#include "app/bench/bench_load.h"
#include "app/bench/bench_pause.h"
#include "app/bench/bench_report.h"
#include "app/bench/bench_server.h"
#include "app/commands/command.h"
#include "codec/json.h"
#include "sys/clock.h"

enum { BATCH = 100, SETTLE_MS = 300000, MINUTE_S = 60, SEED = 20261124 };

struct bench {
    const struct kz_args *args;
    bool quick;
    double seconds; /* of each measurement */
    struct kz_bench_users users;
    struct kz_bench_server server;
    struct kz_bench_report report;
    const struct kz_bench_child *beside; /* a load that runs beside what is measured; NULL none */
    unsigned run;
    double cost_start_us;  /* CPU of an event on little data */
    double empty_start_ms; /* start on no data: the model's worker, mostly */
};

/* What a load did, and what it cost the server over the counted time. */
struct measured {
    struct kz_bench_outcome load;
    struct kz_bench_usage used; /* differences for CPU */
    struct kz_bench_pauses pauses;
    double pending; /* requests without a result, at the end */
};

static bool wanted(const struct bench *b, const char *what)
{
    if (!b->args->argument_count)
        return true;
    for (unsigned i = 0; i < b->args->argument_count; i++)
        if (strcmp(b->args->arguments[i], what) == 0)
            return true;
    return false;
}

static void nap(double seconds)
{
    struct timespec span = {(time_t)seconds, (long)(fmod(seconds, 1) * 1e9)};

    while (nanosleep(&span, &span) != 0 && errno == EINTR)
        ;
}

static double ms_of(uint64_t ns)
{
    return (double)ns / 1e6;
}

#define SAY(field, ...) snprintf(field, sizeof(field), __VA_ARGS__)

/* ---- measuring ------------------------------------------------------------------------------------ */

/* What a load that goes on has done since the last call, for long runs to be followed. */
static void tell_part(
        const char *what, const struct kz_bench_child *child, struct kz_hist *seen, char *end)
{
    struct kz_hist now = child->outcome->latency, part = {.max_ns = now.max_ns};

    for (size_t i = 0; i < KZ_HIST_BUCKETS; i++)
        part.buckets[i] = now.buckets[i] - seen->buckets[i];
    part.count = now.count - seen->count;
    *seen = now;
    fprintf(stderr, "%s p50 %.2f, p90 %.2f, p99 %.2f ms%s", what, ms_of(kz_hist_at(&part, 0.5)),
            ms_of(kz_hist_at(&part, 0.9)), ms_of(kz_hist_at(&part, 0.99)), end);
}

/* Waits, and says each minute how it goes. `beside` may be NULL. */
static void watch(
        const struct kz_bench_child *child, const struct kz_bench_child *beside, double seconds)
{
    struct kz_hist *seen = kz_calloc(2, sizeof(*seen));

    for (unsigned minute = 1; seconds > MINUTE_S; minute++, seconds -= MINUTE_S) {
        nap(MINUTE_S);
        fprintf(stderr, "    minute %u: ", minute);
        tell_part("", child, &seen[0], beside ? "; " : "\n");
        if (beside)
            tell_part("batches beside it", beside, &seen[1], "\n");
    }
    nap(seconds);
    free(seen);
}

static enum kz_code measure(
        struct bench *b, struct kz_bench_load load, struct measured *ret, struct kz_err *err)
{
    struct kz_bench_usage before, after;
    struct kz_bench_pause_watch *pauses;
    struct kz_bench_child child;
    struct kz_buf text = {0};

    load.users = &b->users;
    load.run = ++b->run;
    if (!load.port)
        load.port = b->server.port;
    KZ_TRY(kz_bench_load_start(&load, &child, err));
    nap(load.warm_s);
    pauses = kz_bench_pauses_start();
    kz_bench_usage(b->server.pid, &before);
    watch(&child, b->beside, load.seconds);
    kz_bench_usage(b->server.pid, &after);
    ret->pauses = kz_bench_pauses_stop(pauses);
    ret->pending = kz_bench_metrics(&b->server, &text, err) == KZ_OK
                           ? kz_bench_metric(&text, "kizashi_requests_pending")
                           : INFINITY;
    kz_buf_done(&text);
    KZ_TRY(kz_bench_load_wait(&child, &ret->load, err));
    ret->used = after;
    ret->used.server_cpu_s -= before.server_cpu_s;
    ret->used.workers_cpu_s -= before.workers_cpu_s;
    ret->used.machine_cpu_s -= before.machine_cpu_s;
    return KZ_OK;
}

/* CPU in cores: what the server, the model's workers and the generator took, and all others on this
 * machine; much of the last, and the figure is of a busy machine. */
static void say_cpu(char *out, size_t size, const struct measured *m, double seconds)
{
    size_t used = strlen(out);

    double server = m->used.server_cpu_s / seconds, model = m->used.workers_cpu_s / seconds,
           generator = m->load.cpu_s / m->load.seconds,
           others = m->used.machine_cpu_s / seconds - server - model - generator;

    snprintf(out + used, size - used,
            "%scores: server %.2f, model %.2f, generator %.2f, others %.2f", used ? "; " : "",
            server, model, generator, KZ_MAX(others, 0.0));
    used = strlen(out);
    if (m->pauses.count)
        snprintf(out + used, size - used,
                "; the machine itself stood still %u times for 5 ms or more, the longest %.1f, all "
                "%.0f ms",
                m->pauses.count, m->pauses.longest_ms, m->pauses.total_ms);
    else if (m->pauses.known)
        snprintf(out + used, size - used, "; the machine itself never stood still for 5 ms");
}

static void say_latency(char *out, size_t size, const struct kz_hist *h)
{
    size_t used = strlen(out);

    snprintf(out + used, size - used, "%sp50 %.2f, p90 %.2f, p99 %.2f, p99.9 %.2f, max %.1f ms",
            used ? "; " : "", ms_of(kz_hist_at(h, 0.5)), ms_of(kz_hist_at(h, 0.9)),
            ms_of(kz_hist_at(h, 0.99)), ms_of(kz_hist_at(h, 0.999)), ms_of(h->max_ns));
}

struct sustain {
    struct kz_bench_load load;
    double p99_max_ms;
    double capacity; /* requests a second in a closed loop */
    double rate;     /* requests a second sustained; 0: none was */
    struct measured at;
};

static bool holds(const struct sustain *s, const struct measured *m, double rate)
{
    double offered = rate * m->load.seconds, requests_s = rate * s->load.batch * 0.015;

    if ((double)m->load.ok < 0.99 * offered || m->load.failed || m->load.broken)
        return false;
    if (ms_of(kz_hist_at(&m->load.latency, 0.99)) > s->p99_max_ms)
        return false;
    return s->load.kind != KZ_BENCH_INTAKE || m->pending <= requests_s + 200;
}

static void say_rung(const struct kz_bench_load *load, const struct measured *m, bool held)
{
    char cpu[160] = "";

    say_cpu(cpu, sizeof(cpu), m, m->load.seconds);
    fprintf(stderr,
            "    %.0f a second: %.0f answered, p99 %.2f ms, %.0f pending, %" PRIu64
            " unanswered, %" PRIu64 " refused, %" PRIu64 " failed; %s: %s\n",
            load->rate * load->batch, (double)m->load.ok / m->load.seconds * load->batch,
            ms_of(kz_hist_at(&m->load.latency, 0.99)), m->pending, m->load.unanswered,
            m->load.refused, m->load.failed + m->load.broken, cpu, held ? "holds" : "no");
}

static enum kz_code try_rate(
        struct bench *b, struct sustain *s, double rate, bool *ret_held, struct kz_err *err)
{
    struct kz_bench_load load = s->load;
    struct measured m;

    kz_bench_settle(&b->server, SETTLE_MS);
    load.rate = rate;
    load.warm_s = 2;
    load.seconds = b->seconds;
    KZ_TRY(measure(b, load, &m, err));
    *ret_held = holds(s, &m, rate);
    say_rung(&load, &m, *ret_held);
    if (*ret_held || s->rate == 0)
        s->at = m;
    if (*ret_held)
        s->rate = rate;
    return KZ_OK;
}

/* The capacity in a closed loop, then open loops: from the target (or what the capacity permits)
 * up as long as it holds, else down until it does. `target` is in requests a second. */
static enum kz_code sustain(struct bench *b, struct sustain *s, double target, struct kz_err *err)
{
    enum { TRIES = 9 };
    const double up = 1.15, down = 0.8;
    struct kz_bench_load load = s->load;
    struct measured m;
    bool held;
    double rate;

    kz_bench_settle(&b->server, SETTLE_MS);
    load.warm_s = 1;
    load.seconds = b->quick ? 3 : 6;
    KZ_TRY(measure(b, load, &m, err));
    s->capacity = (double)m.load.ok / m.load.seconds;
    rate = KZ_MIN(target * 1.02, s->capacity * 0.95);
    KZ_TRY(try_rate(b, s, rate, &held, err));
    if (held)
        for (int i = 0; i < TRIES && held && rate * up <= s->capacity; i++)
            KZ_TRY(try_rate(b, s, rate *= up, &held, err));
    else
        for (int i = 0; i < TRIES && !held; i++)
            KZ_TRY(try_rate(b, s, rate *= down, &held, err));
    kz_bench_settle(&b->server, SETTLE_MS);
    return KZ_OK;
}

/* ---- memory and cost ------------------------------------------------------------------------------ */

static void told_memory(struct bench *b, const char *id, const char *what, const char *target,
        double target_mb, struct kz_bench_usage *used)
{
    double mb = (double)used->anonymous_bytes / 1e6;
    struct kz_bench_row *row = kz_bench_row(&b->report, id, what, target, "MB", mb);
    struct kz_buf text = {0};
    struct kz_err err;

    SAY(row->measured, "%.0f MB", mb);
    if (kz_bench_metrics(&b->server, &text, &err) == KZ_OK)
        SAY(row->details, "of it views %.0f MB; ",
                kz_bench_metric(&text, "kizashi_views_bytes") / 1e6);
    kz_buf_done(&text);
    snprintf(row->details + strlen(row->details), sizeof(row->details) - strlen(row->details),
            "besides %.0f MB of files mapped, and %.0f MB of model workers",
            (double)used->mapped_bytes / 1e6, (double)used->workers_bytes / 1e6);
    kz_bench_at_most(row, target_mb);
    kz_bench_say(row);
}

static void idle_memory(struct bench *b)
{
    struct kz_bench_usage used;

    if (!wanted(b, "memory"))
        return;
    nap(1);
    kz_bench_usage(b->server.pid, &used);
    told_memory(b, "memory_idle", "memory, idle", "30 MB", 30, &used);
}

static void users_memory(struct bench *b)
{
    static char what[64], target[32];
    double target_mb = KZ_MAX(300.0 * b->users.user_count / 1e6, 30.0);
    struct kz_bench_usage used;

    if (!wanted(b, "memory"))
        return;
    kz_bench_usage(b->server.pid, &used);
    SAY(what, "memory, %u users", b->users.user_count);
    SAY(target, "%.0f MB", target_mb);
    told_memory(b, "memory_users", what, target, target_mb, &used);
}

/* The server's CPU for an event at a steady 20,000 a second. */
static enum kz_code cost(struct bench *b, double *ret_us, struct kz_err *err)
{
    struct kz_bench_load load = {.kind = KZ_BENCH_INTAKE,
            .path = "/v1/events",
            .connections = 8,
            .rate = 20000.0 / BATCH,
            .warm_s = 3,
            .seconds = b->seconds,
            .batch = BATCH};
    struct measured m;

    KZ_TRY(measure(b, load, &m, err));
    *ret_us = m.used.server_cpu_s * 1e6 / KZ_MAX((double)m.load.events, 1.0);
    kz_bench_settle(&b->server, SETTLE_MS);
    return KZ_OK;
}

static enum kz_code cost_start(struct bench *b, struct kz_err *err)
{
    return wanted(b, "cost") ? cost(b, &b->cost_start_us, err) : KZ_OK;
}

static enum kz_code cost_end(struct bench *b, struct kz_err *err)
{
    struct kz_bench_row *row;
    double us;

    if (!wanted(b, "cost"))
        return KZ_OK;
    KZ_TRY(cost(b, &us, err));
    row = kz_bench_row(&b->report, "cost", "cost of an event, stored / at the start", "1.5x", "x",
            us / b->cost_start_us);
    SAY(row->measured, "%.2fx", row->value);
    SAY(row->details,
            "%.1f us of the server's CPU at the start, %.1f us with %zu events stored; at 20,000 a "
            "second, requests and fsync included",
            b->cost_start_us, us, b->users.history_count);
    kz_bench_at_most(row, 1.5);
    kz_bench_say(row);
    return KZ_OK;
}

/* ---- history -------------------------------------------------------------------------------------- */

static enum kz_code store_history(struct bench *b, struct kz_err *err)
{
    enum { HISTORY_BATCH = 500 };
    struct kz_bench_load load = {.kind = KZ_BENCH_HISTORY,
            .port = b->server.port,
            .path = "/v1/events",
            .connections = 4,
            .seconds = 36000,
            .request_max = (b->users.history_count + HISTORY_BATCH - 1) / HISTORY_BATCH,
            .batch = HISTORY_BATCH,
            .users = &b->users,
            .run = ++b->run};
    struct kz_bench_outcome outcome;
    int64_t began_ms = kz_mono_ms();

    fprintf(stderr, "storing %zu events of %u users ...\n", b->users.history_count,
            b->users.user_count);
    KZ_TRY(kz_bench_load_run(&load, &outcome, err));
    fprintf(stderr, "  stored %" PRIu64 " in %.1f s\n", outcome.events,
            (double)(kz_mono_ms() - began_ms) / 1e3);
    if (outcome.failed || outcome.broken)
        return kz_fail(err, KZ_UNAVAILABLE,
                "history could not be stored: %" PRIu64 " requests failed, see %s/server.log",
                outcome.failed + outcome.broken, b->server.dir);
    began_ms = kz_mono_ms();
    kz_bench_settle(&b->server, SETTLE_MS); /* ten million at once are nobody's day */
    fprintf(stderr, "  sealed, and at rest after %.1f s\n",
            (double)(kz_mono_ms() - began_ms) / 1e3);
    return KZ_OK;
}

/* ---- intake --------------------------------------------------------------------------------------- */

static void told_sustained(struct bench *b, const char *id, const char *what, const char *target,
        double target_rate, const struct sustain *s)
{
    double rate = s->rate > 0 ? (double)s->at.load.ok / s->at.load.seconds * s->load.batch : 0;
    struct kz_bench_row *row = kz_bench_row(&b->report, id, what, target, "1/s", rate);

    if (s->rate > 0)
        SAY(row->measured, "%.0f a second", rate);
    else
        SAY(row->measured, "nothing sustained");
    if (s->capacity > 0)
        SAY(row->details, "capacity in a closed loop %.0f a second", s->capacity * s->load.batch);
    say_latency(row->details, sizeof(row->details), &s->at.load.latency);
    if (b->server.pid)
        say_cpu(row->details, sizeof(row->details), &s->at, s->at.load.seconds);
    kz_bench_at_least(row, target_rate);
    kz_bench_say(row);
}

static enum kz_code intake(struct bench *b, struct kz_err *err)
{
    struct sustain s = {.load = {.kind = KZ_BENCH_INTAKE,
                                .path = "/v1/events",
                                .connections = 32,
                                .batch = BATCH},
            .p99_max_ms = 1000};

    if (!wanted(b, "intake"))
        return KZ_OK;
    KZ_TRY(sustain(b, &s, 134000.0 / BATCH, err));
    told_sustained(b, "intake", "durable intake, NDJSON of 100", "134,000/s", 134000, &s);
    return KZ_OK;
}

static enum kz_code single(struct bench *b, struct kz_err *err)
{
    struct sustain s = {
            .load = {.kind = KZ_BENCH_INTAKE, .path = "/v1/events", .connections = 128, .batch = 1},
            .p99_max_ms = 100};

    if (!wanted(b, "single"))
        return KZ_OK;
    KZ_TRY(sustain(b, &s, 50000, err));
    told_sustained(
            b, "single", "durable intake, single POST, 128 connections", "50,000/s", 50000, &s);
    return KZ_OK;
}

/* The same requests to nginx, which answers at once and keeps nothing. */
static enum kz_code peer(struct bench *b, struct kz_err *err)
{
    struct kz_bench_server nginx;
    struct kz_bench_load load = {.kind = KZ_BENCH_INTAKE,
            .path = "/",
            .connections = 128,
            .warm_s = 1,
            .seconds = b->seconds,
            .batch = 1};
    struct kz_bench_row *row;
    struct measured m;
    enum kz_code rc;

    if (!wanted(b, "nginx"))
        return KZ_OK;
    if (kz_bench_nginx_start(b->server.dir, &nginx, err) != KZ_OK) {
        fprintf(stderr, "  nginx is left out: %s\n", err->message);
        return KZ_OK;
    }
    load.port = nginx.port;
    rc = measure(b, load, &m, err);
    kz_bench_server_stop(&nginx, SIGTERM, NULL);
    KZ_TRY(rc);
    row = kz_bench_row(&b->report, "nginx", "nginx `return 200`, same POST, closed loop", "peer",
            "1/s", (double)m.load.ok / m.load.seconds);
    SAY(row->measured, "%.0f a second", row->value);
    SAY(row->details, "1 worker; generator %.2f cores", m.load.cpu_s / m.load.seconds);
    kz_bench_say(row);
    return KZ_OK;
}

/* ---- event to prediction -------------------------------------------------------------------------- */

/* p50 and p99 of the server's stages over the last ten seconds, in us. */
static void say_stages(const struct bench *b, char *out, size_t size)
{
    struct kz_buf text = {0};
    struct kz_json_value root, key, stage;
    struct kz_json_walk walk;
    struct kz_err err;
    size_t used = strlen(out);

    if (kz_bench_get(&b->server, "/v1/admin/top", &text, &err) == KZ_OK &&
            kz_json_parse(kz_str(text.data), 0, &root, NULL) == KZ_OK) {
        used += (size_t)snprintf(out + used, size - used, "; stages p50/p99 us:");
        walk = kz_json_walk(kz_json_get(root, "stages"));
        while (kz_json_walk_member(&walk, &key, &stage) && used < size) {
            double p50 = 0, p99 = 0;

            KZ_IGNORE(kz_json_f64(kz_json_get(stage, "p50_ms"), &p50, NULL)); /* stays 0 */
            KZ_IGNORE(kz_json_f64(kz_json_get(stage, "p99_ms"), &p99, NULL));
            if (p99 > 0)
                used += (size_t)snprintf(out + used, size - used, " %.*s %.0f/%.0f",
                        (int)key.raw.size - 2, key.raw.ptr + 1, p50 * 1e3, p99 * 1e3);
        }
    }
    kz_buf_done(&text);
}

static void told_latency(
        struct bench *b, const char *id, const char *what, const struct measured *m)
{
    const struct kz_hist *h = &m->load.less_model;
    double p50 = ms_of(kz_hist_at(h, 0.5)), p99 = ms_of(kz_hist_at(h, 0.99));
    struct kz_bench_row *row = kz_bench_row(&b->report, id, what, "p50 1, p99 10 ms", "ms", p99);

    SAY(row->measured, "p50 %.2f, p99 %.2f ms", p50, p99);
    SAY(row->details,
            "%.0f a second; p99.9 %.2f, max %.1f ms; the model's own p50 %.2f ms; %" PRIu64
            " without a prediction, %" PRIu64 " unanswered",
            (double)m->load.ok / m->load.seconds, ms_of(kz_hist_at(h, 0.999)), ms_of(h->max_ns),
            ms_of(kz_hist_at(&m->load.model, 0.5)), m->load.without_prediction,
            m->load.unanswered + m->load.failed + m->load.refused);
    say_cpu(row->details, sizeof(row->details), m, m->load.seconds);
    say_stages(b, row->details, sizeof(row->details));
    row->verdict = p50 <= 1 && p99 <= 10 && !m->load.without_prediction && !m->load.unanswered
                           ? KZ_BENCH_MET
                           : KZ_BENCH_MISSED;
    kz_bench_say(row);
}

static enum kz_code latency(struct bench *b, struct kz_err *err)
{
    struct kz_bench_load load = {.kind = KZ_BENCH_WAIT,
            .path = "/v1/events?wait=trivial&timeout_ms=2000",
            .connections = 64,
            .rate = 2000,
            .warm_s = 3,
            .seconds = b->seconds,
            .batch = 1};
    struct kz_bench_load beside = {.kind = KZ_BENCH_INTAKE,
            .port = b->server.port,
            .path = "/v1/events",
            .connections = 8,
            .rate = 20000.0 / BATCH,
            .warm_s = 1,
            .seconds = b->seconds + 5,
            .batch = BATCH,
            .users = &b->users};
    struct kz_bench_outcome background;
    struct kz_bench_child child;
    struct measured m;

    if (!wanted(b, "latency"))
        return KZ_OK;
    KZ_TRY(measure(b, load, &m, err));
    told_latency(b, "latency", "event -> prediction, less the model, 2,000/s", &m);
    beside.run = ++b->run;
    KZ_TRY(kz_bench_load_start(&beside, &child, err));
    KZ_TRY(measure(b, load, &m, err));
    told_latency(b, "latency_mixed", "the same beside 20,000 events/s of intake", &m);
    KZ_TRY(kz_bench_load_wait(&child, &background, err));
    fprintf(stderr, "    beside it: %.0f events a second accepted, generator %.2f cores\n",
            (double)background.events / background.seconds, background.cpu_s / background.seconds);
    kz_bench_settle(&b->server, SETTLE_MS);
    return KZ_OK;
}

/* All at once: intake at its target, of which 2,000 requests a second come, and beside it single
 * events that wait for their prediction: what a page sees while everybody is there. */
static enum kz_code together(struct bench *b, struct kz_err *err)
{
    struct kz_bench_load probe = {.kind = KZ_BENCH_WAIT,
            .path = "/v1/events?wait=trivial&timeout_ms=2000",
            .connections = 16,
            .rate = 200,
            .warm_s = 3,
            .seconds = b->seconds,
            .batch = 1};
    struct kz_bench_load flood = {.kind = KZ_BENCH_INTAKE,
            .port = b->server.port,
            .path = "/v1/events",
            .connections = 32,
            .rate = 134000.0 / BATCH,
            .warm_s = 1,
            .seconds = b->seconds + 3,
            .batch = BATCH,
            .users = &b->users};
    struct sustain s = {.load = flood, .p99_max_ms = 1000, .rate = 134000.0 / BATCH};
    struct kz_bench_child child;
    struct measured m;
    enum kz_code rc;

    if (!wanted(b, "together"))
        return KZ_OK;
    kz_bench_settle(&b->server, SETTLE_MS);
    flood.run = ++b->run;
    KZ_TRY(kz_bench_load_start(&flood, &child, err));
    b->beside = &child;
    rc = measure(b, probe, &m, err);
    b->beside = NULL;
    KZ_TRY(rc);
    told_latency(b, "together_latency", "event -> prediction beside 134,000 events/s", &m);
    s.at = m;
    KZ_TRY(kz_bench_load_wait(&child, &s.at.load, err));
    if (!holds(&s, &s.at, flood.rate))
        s.rate = 0;
    told_sustained(b, "together_intake", "intake of all at once, 134,000/s offered", "134,000/s",
            133000, &s);
    kz_bench_settle(&b->server, SETTLE_MS);
    return KZ_OK;
}

static enum kz_code get(struct bench *b, struct kz_err *err)
{
    struct sustain s = {.load = {.kind = KZ_BENCH_GET,
                                .path = "/v1/users/%s/predictions?model=trivial",
                                .connections = 128,
                                .batch = 1},
            .p99_max_ms = 1};
    struct kz_bench_row *row;

    if (!wanted(b, "get"))
        return KZ_OK;
    KZ_TRY(sustain(b, &s, 50000, err));
    told_sustained(b, "get", "GET a prediction, 128 connections, p99 1 ms", "50,000/s", 50000, &s);
    row = &b->report.rows[b->report.row_count - 1];
    if (s.at.load.without_prediction) {
        size_t used = strlen(row->details);

        snprintf(row->details + used, sizeof(row->details) - used,
                "; %.0f %% of the users asked for had none",
                100.0 * (double)s.at.load.without_prediction / (double)s.at.load.ok);
    }
    return KZ_OK;
}

/* ---- starting, features --------------------------------------------------------------------------- */

static enum kz_code restart(
        struct bench *b, int signal, const char *id, const char *what, struct kz_err *err)
{
    double stop_ms = 0, ready_ms,
           target_s = KZ_MAX(2.0 * (double)b->users.history_count / 1e7, 1.0);
    struct kz_bench_row *row;
    static char target[16];

    kz_bench_server_stop(&b->server, signal, &stop_ms);
    KZ_TRY(kz_bench_server_start(&b->server, &ready_ms, err));
    SAY(target, "%.1f s", target_s);
    row = kz_bench_row(&b->report, id, what, target, "s", ready_ms / 1e3);
    SAY(row->measured, "%.2f s", ready_ms / 1e3);
    SAY(row->details,
            "until /readyz answers, with %zu events stored and more; %.2f s with none, which is the "
            "model's worker; the end took %.2f s",
            b->users.history_count, b->empty_start_ms / 1e3, stop_ms / 1e3);
    kz_bench_at_most(row, target_s);
    kz_bench_say(row);
    return KZ_OK;
}

static enum kz_code starts(struct bench *b, struct kz_err *err)
{
    if (!wanted(b, "start"))
        return KZ_OK;
    KZ_TRY(restart(b, SIGTERM, "start", "start after SIGTERM", err));
    return restart(b, SIGKILL, "start_killed", "start after kill -9", err);
}

static enum kz_code features(struct bench *b, struct kz_err *err)
{
    static struct kz_bench_features f;
    struct kz_bench_row *row;
    double us;

    if (!wanted(b, "features"))
        return KZ_OK;
    kz_bench_server_stop(&b->server, SIGTERM, NULL);
    KZ_TRY(kz_bench_features(b->server.dir, b->server.data, b->users.active_count, &f, err));
    us = (double)kz_hist_at(&f.whole, 0.5) / 1e3;
    row = kz_bench_row(
            &b->report, "features", "features over a user's last 50 events", "100 us", "us", us);
    SAY(row->measured, "p50 %.0f, p99 %.0f us", us, (double)kz_hist_at(&f.whole, 0.99) / 1e3);
    SAY(row->details,
            "history and SQL of seven columns, one thread, %" PRIu64
            " users with %.0f events in it on average",
            f.whole.count, f.rows_mean);
    kz_bench_at_most(row, 100);
    kz_bench_say(row);
    return KZ_OK;
}

/* ---- all of it ------------------------------------------------------------------------------------ */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static enum kz_code make_place(struct bench *b, struct kz_err *err)
{
    const char *given = kz_args_get(b->args, "data");
    struct kz_bench_server *server = &b->server;
    char below[PATH_MAX - 64];

    if (mkdir(given, 0777) != 0 && errno != EEXIST)
        return kz_fail_errno(err, "could not make \"%s\"", given);
    if (!realpath(given, server->dir) || strlen(server->dir) >= sizeof(below))
        return kz_fail_errno(err, "could not find \"%s\"", given);
    SAY(below, "%s", server->dir);
    SAY(server->dir, "%s/run-%d", below, (int)getpid());
    if (mkdir(server->dir, 0777) != 0)
        return kz_fail_errno(err, "could not make \"%s\"", server->dir);
    snprintf(server->data, sizeof(server->data), "%.*s/data", PATH_MAX - 8, server->dir);
    if (!realpath("/proc/self/exe", server->binary))
        return kz_fail_errno(err, "could not find this program");
    return KZ_OK;
}

static void clear_place(struct bench *b)
{
    kz_bench_server_stop(&b->server, SIGTERM, NULL);
    if (!*b->server.data || kz_args_flag(b->args, "keep"))
        return;
    (void)nftw(b->server.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS); /* what is left is seen */
    (void)rmdir(kz_args_get(b->args, "data")); /* stays where others are in it */
}

static enum kz_code bench(struct bench *b, struct kz_err *err)
{
    KZ_TRY(make_place(b, err));
    KZ_TRY(kz_bench_machine(&b->report, b->server.dir, err));
    fprintf(stderr, "%s\n", b->report.machine);
    KZ_TRY(kz_bench_project(b->server.dir, err));
    KZ_TRY(kz_bench_server_start(&b->server, &b->empty_start_ms, err));
    idle_memory(b);
    KZ_TRY(cost_start(b, err));
    KZ_TRY(store_history(b, err));
    users_memory(b);
    KZ_TRY(cost_end(b, err));
    KZ_TRY(intake(b, err));
    KZ_TRY(single(b, err));
    KZ_TRY(latency(b, err));
    KZ_TRY(together(b, err));
    KZ_TRY(get(b, err));
    KZ_TRY(peer(b, err));
    KZ_TRY(starts(b, err));
    return features(b, err);
}

static const char *const names[] = {"intake", "single", "latency", "together", "get", "nginx",
        "start", "memory", "cost", "features"};

static bool is_name(const char *text)
{
    for (size_t i = 0; i < KZ_ARRAY_COUNT(names); i++)
        if (strcmp(text, names[i]) == 0)
            return true;
    return false;
}

static int run(const struct kz_args *args)
{
    static struct bench b;
    int64_t seconds = kz_args_int(args, "seconds", 1, 36000);
    int64_t users = kz_args_int(args, "users", 1000, 50000000);
    int64_t events = kz_args_int(args, "events", 1000, 2000000000);
    struct kz_err err = {0};
    enum kz_code rc;

    for (unsigned i = 0; i < args->argument_count; i++)
        if (!is_name(args->arguments[i]))
            return kz_command_usage(args, "there is no measurement \"%s\"", args->arguments[i]);
    b.args = args;
    b.quick = kz_args_flag(args, "quick");
    b.seconds = seconds ? (double)seconds : b.quick ? 8 : 60;
    if (!users)
        users = b.quick ? 100000 : 1000000;
    if (!events)
        events = users * 10;
    kz_bench_users_init(&b.users, (uint32_t)users, (size_t)events, SEED);
    rc = bench(&b, &err);
    if (rc == KZ_OK && kz_args_flag(args, "json"))
        kz_bench_print_json(&b.report);
    else if (b.report.row_count)
        kz_bench_print(&b.report);
    clear_place(&b);
    kz_bench_users_done(&b.users);
    return rc == KZ_OK ? KZ_EXIT_DONE : kz_command_fail(&err);
}

const struct kz_command kz_command_bench = {
        .name = "bench",
        .arguments = "[WHAT...]",
        .argument_max = KZ_ARGUMENTS_MAX,
        .summary = "Measures this machine against the targets: intake, latency, memory, start.",
        .details =
                "WHAT: intake, single, latency, together, get, nginx, start, memory, cost, features;\n"
                "all of them where none is named. It makes a project of its own on the disk of --data,\n"
                "stores a history (1M users, 10M events), and loads it in an open loop. fsync is\n"
                "on. The load generator's share of the cores is stated beside each figure.",
        .example = "kizashi bench --quick intake latency",
        .options =
                {
                        {"quick", NULL, NULL, "100,000 users, a million events, 8 s a measurement"},
                        {"seconds", "N", NULL, "of each measurement (default: 60)"},
                        {"users", "N", NULL, "users stored (default: 1000000)"},
                        {"events", "N", NULL, "events stored (default: ten a user)"},
                        {"data", "PATH", ".bench", "where, on a real disk; removed afterwards"},
                        {"keep", NULL, NULL, "leaves the data and the server's log there"},
                        {"json", NULL, NULL, "the table as JSON"},
                },
        .run = run,
};
