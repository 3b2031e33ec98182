/* serve/status.c -- what is wrong, worst first, each with its cause and its remedy; then numbers.
 */

#include <inttypes.h>
#include <stdio.h>

#include "serve/serve_int.h"
#include "sys/clock.h"

struct problem {
    enum kz_severity severity;
    char what[160];
    char why[360];
    char remedy[320];
};

enum { PROBLEMS_MAX = 64, CLOCK_BEHIND_SECONDS = 10 };

struct report {
    struct kz_serve *serve;
    struct kz_pipeline_counters counters;
    struct kz_serve_rates rates;
    uint64_t disk_free, disk_total;
    bool disk_known;
    struct problem problems[PROBLEMS_MAX];
    size_t problem_count;
};

/* The next problem to be filled in; beyond PROBLEMS_MAX the last one is overwritten, by when the
 * reader has enough to do. */
static struct problem *add(struct report *r, enum kz_severity severity)
{
    struct problem *problem = &r->problems[KZ_MIN(r->problem_count, (size_t)PROBLEMS_MAX - 1)];

    if (r->problem_count < PROBLEMS_MAX)
        r->problem_count++;
    *problem = (struct problem){.severity = severity};
    return problem;
}
#define SAY(field, ...) snprintf(field, sizeof(field), __VA_ARGS__)

static void check_intake(struct report *r)
{
    struct kz_query *query = r->serve->query;
    struct kz_err err = {0};
    enum kz_code rc = query->ops->health(query, &err);
    struct problem *p;

    if (rc == KZ_OK)
        return;
    p = add(r, KZ_SEVERE_CRITICAL);
    /* One that is stopping, or a role whose backends are away: it may be one that takes no events. */
    SAY(p->what, "%s", rc == KZ_UNAVAILABLE ? "this process is not ready" : "intake is refused");
    SAY(p->why, "%.350s", err.message);
    if (*err.hint)
        SAY(p->remedy, "%s", err.hint);
    else if (rc == KZ_NO_SPACE)
        SAY(p->remedy, "free space on the data's disk or lower events.retention; intake comes back "
                       "by itself");
    else if (rc == KZ_OVERLOADED)
        SAY(p->remedy, "send more slowly, give the models more replicas, or drop pending requests: "
                       "kizashi requests drop");
    else if (rc == KZ_UNAVAILABLE)
        SAY(p->remedy, "it is ready again by itself when that has been mended");
    else
        SAY(p->remedy,
                "look at the disk (dmesg, SMART), then restart: nothing acknowledged is lost");
}

static void check_disk(struct report *r)
{
    const struct kz_project *project = r->serve->query->project;
    uint64_t reserve = project->limits.reserve_bytes;
    /* Intake stops when the next segment cannot be made: somebody should know two before. */
    uint64_t low = 3 * project->limits.segment_size_bytes + reserve;
    struct problem *p;

    if (!r->disk_known || r->disk_free >= low)
        return;
    p = add(r, r->disk_free < reserve ? KZ_SEVERE_ERROR : KZ_SEVERE_WARNING);
    SAY(p->what, "the data's disk is nearly full");
    SAY(p->why,
            "%" PRIu64 " MiB of %" PRIu64
            " are free where \"%.180s\" is; intake is refused when a segment of up to %" PRIu64
            " MiB does not fit",
            r->disk_free >> 20, r->disk_total >> 20, r->serve->options.data_dir,
            project->limits.segment_size_bytes >> 20);
    SAY(p->remedy, "free space, or lower events.retention in kizashi.yaml and restart");
}

static void check_model(
        struct report *r, const struct kz_model_def *def, const struct kz_model_status *m)
{
    struct problem *p;

    if (m->fenced) {
        p = add(r, KZ_SEVERE_ERROR);
        SAY(p->what, "model %s is fenced", m->name);
        SAY(p->why, "%s", *m->reason ? m->reason : "it kept failing");
        SAY(p->remedy,
                "mend it, then kizashi models unfence %s; %" PRIu64
                " requests wait meanwhile (kizashi deadletters list shows what failed)",
                m->name, m->pending);
    } else if (m->paused) {
        p = add(r, KZ_SEVERE_NOTICE);
        SAY(p->what, "model %s is paused", m->name);
        SAY(p->why, "an operator said so; %" PRIu64 " requests wait", m->pending);
        SAY(p->remedy, "kizashi models resume %s", m->name);
    } else if (!m->replicas_ready && m->pending) {
        p = add(r, m->replicas_starting ? KZ_SEVERE_NOTICE : KZ_SEVERE_WARNING);
        SAY(p->what, "model %s has no replica ready", m->name);
        SAY(p->why, "%u are starting, %" PRIu64 " requests wait%s%s", m->replicas_starting,
                m->pending, *m->reason ? ": " : "", m->reason);
        SAY(p->remedy, "wait for it to load; its output is in the log of this process");
    } else if (m->pending > 1000 && m->replicas_ready >= m->replicas_max) {
        p = add(r, KZ_SEVERE_WARNING);
        SAY(p->what, "model %s cannot keep up", m->name);
        SAY(p->why, "%" PRIu64 " requests wait and all %u replicas are busy", m->pending,
                m->replicas_max);
        SAY(p->remedy, "raise models.%s.replicas.max or batch.max, or give its trigger a debounce",
                m->name);
    }
    if (m->timeouts && m->timeouts * 100 > m->batches) {
        p = add(r, KZ_SEVERE_WARNING);
        SAY(p->what, "model %s runs into its time-out", m->name);
        SAY(p->why, "%" PRIu64 " of %" PRIu64 " batches took more than %lld ms", m->timeouts,
                m->batches, (long long)def->timeout_ms);
        SAY(p->remedy, "raise models.%s.timeout, lower batch.max, or make predict() faster",
                m->name);
    }
}

static void check_models(struct report *r)
{
    struct kz_query *query = r->serve->query;

    for (unsigned m = 0; m < query->project->model_count; m++) {
        struct kz_model_status status;

        query->ops->model(query, m, &status);
        check_model(r, &query->project->models[m], &status);
    }
}

static void check_actions(struct report *r)
{
    struct kz_query *query = r->serve->query;
    const struct kz_project *project = query->project;
    unsigned paused = 0, last = 0;
    struct problem *p;

    for (unsigned i = 0; i < project->action_count; i++)
        if (query->ops->action_paused(query, i)) {
            paused++;
            last = i;
        }
    if (!paused)
        return;
    p = add(r, KZ_SEVERE_NOTICE);
    if (paused == 1 && project->action_count > 1)
        SAY(p->what, "action %s is paused", project->actions[last].name);
    else
        SAY(p->what, "%u of %zu actions are paused", paused, project->action_count);
    SAY(p->why, "an operator said so, or the data was restored: nothing is delivered meanwhile");
    if (paused == 1)
        SAY(p->remedy, "kizashi actions resume %s", project->actions[last].name);
    else
        SAY(p->remedy, "kizashi actions resume --all, or NAME");
}

static void check_latency(struct report *r)
{
    double p99 = kz_serve_quantile(&r->rates.histograms.commit, 0.99);
    struct problem *p;

    if (r->rates.histograms.commit.count < 20 || p99 < 0.05)
        return;
    p = add(r, KZ_SEVERE_WARNING);
    SAY(p->what, "events take long to become durable");
    SAY(p->why, "the slowest hundredth of the last ten seconds took %.0f ms and more", p99 * 1e3);
    SAY(p->remedy, "the disk's fsync is slow or the machine is busy: kizashi bench prints the "
                   "disk's latency");
}

/* What happened in the last ten seconds and should not. */
static void check_recent(struct report *r)
{
    const struct kz_pipeline_counters *recent = &r->rates.counters;
    struct problem *p;

    if (r->rates.http_refused) {
        p = add(r, KZ_SEVERE_WARNING);
        SAY(p->what, "callers are turned away");
        SAY(p->why, "%" PRIu64 " connections or requests were answered 503 in the last ten seconds",
                r->rates.http_refused);
        SAY(p->remedy, "use fewer connections with keep-alive, or send larger batches");
    }
    if (recent->requests_dead_total) {
        p = add(r, KZ_SEVERE_WARNING);
        SAY(p->what, "requests become dead letters");
        SAY(p->why, "%" PRIu64 " in the last ten seconds", recent->requests_dead_total);
        SAY(p->remedy, "kizashi deadletters list shows the reasons");
    }
    if (recent->rules_failed_total) {
        p = add(r, KZ_SEVERE_WARNING);
        SAY(p->what, "the SQL of a rule fails on events");
        SAY(p->why, "%" PRIu64 " times in the last ten seconds", recent->rules_failed_total);
        SAY(p->remedy, "kizashi deadletters list, then mend when, having or unless");
    }
    if (recent->events_rejected_total * 20 > recent->events_accepted_total + 20) {
        p = add(r, KZ_SEVERE_WARNING);
        SAY(p->what, "many events are rejected");
        SAY(p->why, "%" PRIu64 " beside %" PRIu64 " accepted in the last ten seconds",
                recent->events_rejected_total, recent->events_accepted_total);
        SAY(p->remedy, "kizashi deadletters list --stage shape shows what was wrong with them");
    }
    if (recent->events_clamped_total * 10 > recent->events_accepted_total + 10) {
        p = add(r, KZ_SEVERE_NOTICE);
        SAY(p->what, "clients' clocks are wrong");
        SAY(p->why,
                "%" PRIu64 " of %" PRIu64
                " events of the last ten seconds were outside events.clock",
                recent->events_clamped_total, recent->events_accepted_total);
        SAY(p->remedy, "for history from before use kizashi import; else raise "
                       "events.clock.max_behind");
    }
}

static void check_damage(struct report *r)
{
    struct problem *p;

    if (!r->counters.damaged_reads_total)
        return;
    p = add(r, KZ_SEVERE_ERROR);
    SAY(p->what, "stored data is damaged");
    SAY(p->why,
            "%" PRIu64 " reads since the start met a sealed segment that fails its checksums (the "
            "log of the process names it): what is in there is missing, all else goes on",
            r->counters.damaged_reads_total);
    SAY(p->remedy, "kizashi fsck shows all of it; look at the disk (dmesg, SMART), then restore a "
                   "backup");
}

static void check_clock(struct report *r)
{
    uint64_t behind_s = r->counters.clock_behind_seconds;
    struct problem *p;

    if (behind_s < CLOCK_BEHIND_SECONDS)
        return;
    p = add(r, KZ_SEVERE_ERROR);
    SAY(p->what, "this machine's clock is behind the log");
    SAY(p->why,
            "the newest record is %" PRIu64
            " s ahead of it; records never go back in time, so it is "
            "taken to be as late, and goes on more slowly until the clock has caught up",
            behind_s);
    SAY(p->remedy, "set the clock; if it was far ahead when records were written, restore a backup "
                   "from before");
}

static void check_upkeep(struct report *r)
{
    const struct kz_pipeline_counters *all = &r->counters;
    uint32_t pending_max = r->serve->query->project->limits.pending_max;
    struct problem *p;

    if (r->rates.counters.checkpoints_failed_total ||
            (all->checkpoints_failed_total && !all->checkpoints_total)) {
        p = add(r, KZ_SEVERE_WARNING);
        SAY(p->what, "checkpoints cannot be written");
        SAY(p->why, "%" PRIu64 " failed; the next start has to read more of the log",
                all->checkpoints_failed_total);
        SAY(p->remedy, "look at free space and at this process' log");
    }
    if (pending_max && all->requests_pending > pending_max / 2) {
        p = add(r, KZ_SEVERE_WARNING);
        SAY(p->what, "the backlog of requests is long");
        SAY(p->why, "%" PRIu64 " are pending; at %u intake is refused", all->requests_pending,
                pending_max);
        SAY(p->remedy, "more replicas, a max_age for the triggers, or kizashi requests drop");
    }
    if (r->rates.counters.deliveries_given_up_total) {
        p = add(r, KZ_SEVERE_WARNING);
        SAY(p->what, "webhooks are given up");
        SAY(p->why, "%" PRIu64 " in the last ten seconds",
                r->rates.counters.deliveries_given_up_total);
        SAY(p->remedy, "kizashi deadletters list --stage deliver shows what the receiver said");
    } else if (r->rates.counters.deliveries_failed_total) {
        p = add(r, KZ_SEVERE_NOTICE);
        SAY(p->what, "webhook attempts fail");
        SAY(p->why, "%" PRIu64 " in the last ten seconds; they are made again",
                r->rates.counters.deliveries_failed_total);
        SAY(p->remedy, "look at the receiver (the log of this process has the reason); nothing is "
                       "lost yet");
    }
    if (all->dead_letters) {
        p = add(r, KZ_SEVERE_NOTICE);
        SAY(p->what, "%" PRIu64 " dead letter%s kept", all->dead_letters,
                all->dead_letters == 1 ? " is" : "s are");
        SAY(p->why, "events or requests that could not be processed");
        SAY(p->remedy, "kizashi deadletters list, then retry or drop");
    }
}

static void say(
        void *to, enum kz_severity severity, const char *what, const char *why, const char *remedy)
{
    struct problem *p = add(to, severity);

    SAY(p->what, "%s", what);
    SAY(p->why, "%s", why);
    SAY(p->remedy, "%s", remedy);
}

/* ---- as JSON
 * -------------------------------------------------------------------------------------- */

static void put_problems(struct kz_json_out *out, const struct report *r)
{
    static const char *const names[] = {"critical", "error", "warning", "notice"};

    kz_json_out_key(out, "problems");
    kz_json_out_array(out);
    for (unsigned severity = 0; severity <= KZ_SEVERE_NOTICE; severity++) {
        for (size_t i = 0; i < r->problem_count; i++) {
            const struct problem *p = &r->problems[i];

            if (p->severity != severity)
                continue;
            kz_json_out_object(out);
            kz_json_out_kv_cstr(out, "severity", names[severity]);
            kz_json_out_kv_cstr(out, "what", p->what);
            kz_json_out_kv_cstr(out, "why", p->why);
            kz_json_out_kv_cstr(out, "remedy", p->remedy);
            kz_json_out_object_end(out);
        }
    }
    kz_json_out_array_end(out);
}

static void put_models(struct kz_json_out *out, struct kz_query *query)
{
    kz_json_out_key(out, "models");
    kz_json_out_array(out);
    for (unsigned m = 0; m < query->project->model_count; m++) {
        struct kz_model_status s;

        query->ops->model(query, m, &s);
        kz_json_out_object(out);
        kz_json_out_kv_cstr(out, "name", s.name);
        kz_json_out_kv_cstr(out, "version", s.version);
        kz_json_out_kv_cstr(out, "runtime", s.runtime);
        kz_json_out_kv_cstr(out, "state",
                s.fenced           ? "fenced"
                : s.paused         ? "paused"
                : s.elsewhere      ? "elsewhere"
                : s.replicas_ready ? "ready"
                                   : "starting");
        if (*s.reason)
            kz_json_out_kv_cstr(out, "reason", s.reason);
        kz_json_out_kv_u64(out, "replicas_ready", s.replicas_ready);
        kz_json_out_kv_u64(out, "replicas_starting", s.replicas_starting);
        kz_json_out_kv_u64(out, "replicas_max", s.replicas_max);
        kz_json_out_kv_u64(out, "pending", s.pending);
        kz_json_out_kv_u64(out, "done", s.done);
        kz_json_out_kv_u64(out, "dead", s.dead);
        kz_json_out_kv_u64(out, "expired", s.expired);
        kz_json_out_kv_u64(out, "superseded", s.superseded);
        kz_json_out_kv_u64(out, "restarts", s.restarts);
        kz_json_out_kv_u64(out, "timeouts", s.timeouts);
        kz_json_out_kv_u64(out, "rss_bytes", s.rss_bytes);
        kz_json_out_object_end(out);
    }
    kz_json_out_array_end(out);
}

static double per_second(const struct report *r, uint64_t count)
{
    return r->rates.seconds > 0 ? (double)count / r->rates.seconds : 0;
}

static void put_log(struct kz_json_out *out, const struct report *r)
{
    const struct kz_pipeline_counters *all = &r->counters;

    kz_json_out_key(out, "log");
    kz_json_out_object(out);
    kz_json_out_kv_u64(out, "segments", all->log_segments);
    kz_json_out_kv_u64(out, "segments_sealed", all->log_segments_sealed);
    kz_json_out_kv_u64(out, "disk_bytes", all->log_disk_bytes);
    kz_json_out_kv_u64(out, "commits", all->log_commits_total);
    kz_json_out_kv_u64(out, "syncs", all->log_syncs_total);
    kz_json_out_kv_f64(
            out, "commit_p50_us", kz_serve_quantile(&r->rates.histograms.commit, 0.5) * 1e6);
    kz_json_out_kv_f64(
            out, "commit_p99_us", kz_serve_quantile(&r->rates.histograms.commit, 0.99) * 1e6);
    kz_json_out_object_end(out);
    kz_json_out_key(out, "checkpoints");
    kz_json_out_object(out);
    kz_json_out_kv_u64(out, "written", all->checkpoints_total);
    kz_json_out_kv_u64(out, "failed", all->checkpoints_failed_total);
    kz_json_out_object_end(out);
}

static void put_overview(struct kz_json_out *out, const struct report *r)
{
    const struct kz_serve *serve = r->serve;
    const struct kz_pipeline_counters *all = &r->counters;
    struct kz_serve_process process;

    kz_serve_process(&process);
    kz_json_out_kv_cstr(out, "version", serve->options.version);
    kz_json_out_kv_cstr(out, "build", serve->options.build);
    kz_json_out_kv_cstr(out, "project", serve->query->project->name);
    kz_json_out_kv_i64(out, "started_at", serve->started_ms);
    kz_json_out_kv_f64(out, "uptime_seconds", (double)(kz_mono_us() - serve->started_us) / 1e6);
    kz_json_out_kv_f64(
            out, "events_per_second", per_second(r, r->rates.counters.events_accepted_total));
    kz_json_out_kv_f64(
            out, "predictions_per_second", per_second(r, r->rates.counters.requests_done_total));
    kz_json_out_kv_u64(out, "events", all->events_accepted_total);
    kz_json_out_kv_u64(out, "users", all->users);
    kz_json_out_kv_u64(out, "pending", all->requests_pending);
    kz_json_out_kv_u64(out, "timers", all->timers_set);
    kz_json_out_kv_u64(out, "dead_letters", all->dead_letters);
    kz_json_out_kv_u64(out, "streams", serve->stream_count);
    kz_json_out_kv_u64(out, "rss_bytes", process.rss_bytes);
    kz_json_out_kv_f64(out, "cpu_seconds", process.cpu_seconds);
    if (r->disk_known) {
        kz_json_out_kv_u64(out, "disk_free_bytes", r->disk_free);
        kz_json_out_kv_u64(out, "disk_bytes", r->disk_total);
    }
}

void kz_serve_status(struct kz_serve_call *call)
{
    struct kz_serve *serve = call->serve;
    struct report *r = kz_arena_zero(&call->req->arena, sizeof(*r));
    struct kz_json_out out;
    bool bad = false;

    r->serve = serve;
    serve->query->ops->counters(serve->query, &r->counters);
    kz_serve_rates(serve, &r->rates);
    r->disk_known = kz_serve_disk(serve, &r->disk_free, &r->disk_total);
    check_intake(r);
    check_disk(r);
    check_models(r);
    check_actions(r);
    check_latency(r);
    check_recent(r);
    check_damage(r);
    check_clock(r);
    check_upkeep(r);
    if (serve->options.more_problems)
        serve->options.more_problems(serve->options.arg, say, r);
    for (size_t i = 0; i < r->problem_count; i++)
        bad = bad || r->problems[i].severity <= KZ_SEVERE_ERROR;
    out = kz_serve_json(call);
    kz_json_out_object(&out);
    kz_json_out_kv_bool(&out, "ok", !bad);
    put_problems(&out, r);
    put_overview(&out, r);
    put_models(&out, serve->query);
    if (!serve->options.is_role)
        put_log(&out, r);
    if (serve->options.more_status)
        serve->options.more_status(serve->options.arg, &out);
    kz_json_out_object_end(&out);
    kz_serve_reply(call, 200);
}
