/* app/commands/cmd_operate.c -- looking after a running Kizashi: status, top, and an operator's words over
 * the admin API (serve/routes.c has its table). */

#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "app/commands/online.h"
#include "codec/timefmt.h"
#include "codec/url.h"
#include "sys/clock.h"

enum { ASK_MS = 10000, COPY_MS = 24 * 3600 * 1000, PATH_BYTES = 1024 };

/* ---- numbers for people --------------------------------------------------------------------------- */

/* 1.2 k, 3.4 M; whole below 10,000. */
static const char *short_count(double n, char out[24])
{
    if (n < 9999.5)
        snprintf(out, 24, n < 9.95 && n > 0 && n != (double)(long)n ? "%.1f" : "%.0f", n);
    else if (n < 999.5e3)
        snprintf(out, 24, "%.1f k", n / 1e3);
    else if (n < 999.5e6)
        snprintf(out, 24, "%.1f M", n / 1e6);
    else
        snprintf(out, 24, "%.1f G", n / 1e9);
    return out;
}

static const char *short_bytes(double n, char out[24])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;

    while (n >= 1000 && unit + 1 < KZ_ARRAY_COUNT(units)) {
        n /= 1024;
        unit++;
    }
    snprintf(out, 24, n < 10 && unit ? "%.1f %s" : "%.0f %s", n, units[unit]);
    return out;
}

static const char *short_ms(double ms, char out[24])
{
    if (ms <= 0)
        snprintf(out, 24, "-");
    else if (ms < 1)
        snprintf(out, 24, "%.0f us", ms * 1e3);
    else if (ms < 1000)
        snprintf(out, 24, "%.1f ms", ms);
    else
        snprintf(out, 24, "%.1f s", ms / 1e3);
    return out;
}

static const char *short_span(double seconds, char out[24])
{
    if (seconds < 120)
        snprintf(out, 24, "%.0f s", seconds);
    else if (seconds < 7200)
        snprintf(out, 24, "%.0f min", seconds / 60);
    else if (seconds < 2 * 86400)
        snprintf(out, 24, "%.1f h", seconds / 3600);
    else
        snprintf(out, 24, "%.1f d", seconds / 86400);
    return out;
}

/* ---- one call and its end ------------------------------------------------------------------------- */

typedef void answer_printer(struct kz_json_value root, const struct kz_args *args);

/* Calls, prints the answer as it is with --json, else through `print`. */
static int ask(const struct kz_args *args, const char *method, const char *path,
        uint32_t timeout_ms, answer_printer *print)
{
    struct kz_online online;
    struct kz_json_value root;
    struct kz_err err = {0};
    enum kz_code rc;

    if (kz_online_open(args, &online, &err) != KZ_OK)
        return kz_command_fail(&err);
    rc = kz_online_json(&online, method, path, timeout_ms, &root, &err);
    if (rc == KZ_OK && kz_args_flag(args, "json"))
        printf("%.*s\n", KZ_STR_ARG(root.raw));
    else if (rc == KZ_OK)
        print(root, args);
    kz_online_close(&online);
    return rc == KZ_OK ? KZ_EXIT_DONE : kz_command_fail(&err);
}

/* "%s" in `pattern` stands for `part`, percent-encoded. */
static const char *make_path(char out[PATH_BYTES], const char *pattern, const char *part)
{
    const char *at = strstr(pattern, "%s");
    struct kz_buf text = {0};

    kz_url_encode(kz_str(part), &text);
    snprintf(out, PATH_BYTES, "%.*s%.*s%s", (int)(at - pattern), pattern, (int)text.size,
            text.data ? text.data : "", at + 2);
    kz_buf_done(&text);
    return out;
}

static const char *words(const struct kz_args *args)
{
    return strchr(args->command->name, ' ') + 1;
}

/* ---- status --------------------------------------------------------------------------------------- */

static void print_problems(struct kz_json_value root)
{
    struct kz_json_walk walk = kz_json_walk(kz_json_get(root, "problems"));
    struct kz_buf what = {0}, why = {0}, remedy = {0}, severity = {0};
    struct kz_json_value item;
    bool any = false;

    while (kz_json_walk_element(&walk, &item)) {
        any = true;
        printf("%s: %s\n", kz_online_text(item, "severity", &severity),
                kz_online_text(item, "what", &what));
        if (*kz_online_text(item, "why", &why))
            printf("    %s\n", why.data);
        if (*kz_online_text(item, "remedy", &remedy))
            printf("    -> %s\n", remedy.data);
    }
    if (!any)
        printf("nothing is wrong\n");
    kz_buf_done(&what);
    kz_buf_done(&why);
    kz_buf_done(&remedy);
    kz_buf_done(&severity);
}

static void print_overview(struct kz_json_value root)
{
    struct kz_json_value log = kz_json_get(root, "log");
    struct kz_buf name = {0}, version = {0};
    char a[24], b[24], c[24], d[24];

    printf("\n%s, kizashi %s, up %s\n", kz_online_text(root, "project", &name),
            kz_online_text(root, "version", &version),
            short_span(kz_online_number(root, "uptime_seconds"), a));
    printf("  events       %s a second, %s since the start, durable in %s (p99 %s)\n",
            short_count(kz_online_number(root, "events_per_second"), a),
            short_count(kz_online_number(root, "events"), b),
            short_ms(kz_online_number(log, "commit_p50_us") / 1e3, c),
            short_ms(kz_online_number(log, "commit_p99_us") / 1e3, d));
    printf("  predictions  %s a second, %s pending, %s timers waiting\n",
            short_count(kz_online_number(root, "predictions_per_second"), a),
            short_count(kz_online_number(root, "pending"), b),
            short_count(kz_online_number(root, "timers"), c));
    printf("  users        %s, memory %s, dead letters %s\n",
            short_count(kz_online_number(root, "users"), a),
            short_bytes(kz_online_number(root, "rss_bytes"), b),
            short_count(kz_online_number(root, "dead_letters"), c));
    if (log.raw.size) /* roles have none of their own */
        printf("  log          %s in %" PRIu64 " segments, %" PRIu64
               " of them sealed; %s free on its disk\n",
                short_bytes(kz_online_number(log, "disk_bytes"), a),
                kz_online_count(log, "segments"), kz_online_count(log, "segments_sealed"),
                short_bytes(kz_online_number(root, "disk_free_bytes"), b));
    kz_buf_done(&name);
    kz_buf_done(&version);
}

static void print_status_models(struct kz_json_value root)
{
    struct kz_json_walk walk = kz_json_walk(kz_json_get(root, "models"));
    struct kz_buf name = {0}, state = {0};
    struct kz_json_value item;
    char a[24], b[24], c[24];

    while (kz_json_walk_element(&walk, &item))
        printf("  model        %s: %s, %" PRIu64 " of %" PRIu64
               " replicas, %s pending, %s done, %s dead\n",
                kz_online_text(item, "name", &name), kz_online_text(item, "state", &state),
                kz_online_count(item, "replicas_ready"), kz_online_count(item, "replicas_max"),
                short_count(kz_online_number(item, "pending"), a),
                short_count(kz_online_number(item, "done"), b),
                short_count(kz_online_number(item, "dead"), c));
    kz_buf_done(&name);
    kz_buf_done(&state);
}

static bool is_failing(struct kz_json_value root)
{
    struct kz_json_walk walk = kz_json_walk(kz_json_get(root, "problems"));
    struct kz_json_value item;

    while (kz_json_walk_element(&walk, &item))
        if (kz_json_is(kz_json_get(item, "severity"), "critical"))
            return true;
    return false;
}

static int run_status(const struct kz_args *args)
{
    struct kz_online online;
    struct kz_json_value root;
    struct kz_err err = {0};
    int exit_code = KZ_EXIT_DONE;

    if (kz_online_open(args, &online, &err) != KZ_OK)
        return kz_command_fail(&err);
    if (kz_online_json(&online, "GET", "/v1/admin/status", ASK_MS, &root, &err) != KZ_OK) {
        exit_code = kz_command_fail(&err);
    } else {
        if (kz_args_flag(args, "json")) {
            printf("%.*s\n", KZ_STR_ARG(root.raw));
        } else {
            print_problems(root);
            print_overview(root);
            print_status_models(root);
        }
        exit_code = is_failing(root) ? KZ_EXIT_FAILED : KZ_EXIT_DONE;
    }
    kz_online_close(&online);
    return exit_code;
}

const struct kz_command kz_command_status = {
        .name = "status",
        .arguments = "",
        .summary = "Says what is wrong, worst first, each with its remedy; then an overview.",
        .details =
                "Exit code 0 when healthy or degraded (a fenced model), 1 when intake or serving\n"
                "fails or nobody answers.",
        .example = "kizashi status --url http://127.0.0.1:8080",
        .options = {KZ_ONLINE_OPTIONS, {"json", NULL, NULL, "the answer of the server as JSON"}},
        .run = run_status,
};

/* ---- top ------------------------------------------------------------------------------------------ */

struct since;
struct screen {
    struct kz_buf buf;
    const char *end; /* of a line: clears what the frame before left there */
    struct since *since;
};

static void line(struct screen *screen, const char *fmt, ...) KZ_PRINTF(2, 3);
static void line(struct screen *screen, const char *fmt, ...)
{
    va_list list;

    va_start(list, fmt);
    kz_buf_vprintf(&screen->buf, fmt, list);
    va_end(list);
    kz_buf_cstr(&screen->buf, screen->end);
}

static void draw_flow(struct screen *screen, struct kz_json_value top)
{
    struct kz_json_value rates = kz_json_get(top, "per_second"), now = kz_json_get(top, "now"),
                         stages = kz_json_get(top, "stages"),
                         commit = kz_json_get(stages, "commit"),
                         total = kz_json_get(stages, "total");
    char a[24], b[24], c[24], d[24], e[24];

    line(screen, "events       %8s/s   durable p50 %8s  p99 %8s   rejected %s/s  duplicates %s/s",
            short_count(kz_online_number(rates, "events_accepted_total"), a),
            short_ms(kz_online_number(commit, "p50_ms"), b),
            short_ms(kz_online_number(commit, "p99_ms"), c),
            short_count(kz_online_number(rates, "events_rejected_total"), d),
            short_count(kz_online_number(rates, "events_duplicate_total"), e));
    line(screen, "predictions  %8s/s   event to prediction p50 %8s  p99 %8s   pending %s",
            short_count(kz_online_number(rates, "requests_done_total"), a),
            short_ms(kz_online_number(total, "p50_ms"), b),
            short_ms(kz_online_number(total, "p99_ms"), c),
            short_count(kz_online_number(now, "requests_pending"), d));
    line(screen, "requests     %8s/s   HTTP %s/s   superseded %s/s   dead letters %s",
            short_count(kz_online_number(rates, "requests_total"), a),
            short_count(kz_online_number(rates, "http_requests_total"), b),
            short_count(kz_online_number(rates, "requests_superseded_total"), c),
            short_count(kz_online_number(now, "dead_letters"), d));
    line(screen, "actions      %8s/s   held out %s/s   capped %s/s   shown %s/s   webhooks %s/s",
            short_count(kz_online_number(rates, "decisions_deliver_total"), a),
            short_count(kz_online_number(rates, "decisions_holdout_total"), b),
            short_count(kz_online_number(rates, "decisions_capped_total"), c),
            short_count(kz_online_number(rates, "deliveries_shown_total"), d),
            short_count(kz_online_number(rates, "deliveries_sent_total"), e));
}

static void draw_stages(struct screen *screen, struct kz_json_value stages)
{
    struct kz_json_walk walk = kz_json_walk(stages);
    struct kz_json_value key, stage;
    char a[24], b[24], c[24];

    line(screen, "%s", "");
    line(screen, "%-14s %10s %10s %10s", "STAGE", "COUNT/10s", "P50", "P99");
    while (kz_json_walk_member(&walk, &key, &stage))
        line(screen, "%-14.*s %10s %10s %10s", (int)key.raw.size - 2, key.raw.ptr + 1,
                short_count(kz_online_number(stage, "count"), a),
                short_ms(kz_online_number(stage, "p50_ms"), b),
                short_ms(kz_online_number(stage, "p99_ms"), c));
}

static void draw_models(struct screen *screen, struct kz_json_value status)
{
    struct kz_json_walk walk = kz_json_walk(kz_json_get(status, "models"));
    struct kz_buf name = {0}, state = {0}, reason = {0};
    struct kz_json_value item;
    char a[24], b[24], c[24], replicas[24];

    line(screen, "%s", "");
    line(screen, "%-20s %-9s %9s %9s %9s %7s %9s  %s", "MODEL", "STATE", "REPLICAS", "PENDING",
            "DONE", "DEAD", "MEMORY", "WHY");
    while (kz_json_walk_element(&walk, &item)) {
        snprintf(replicas, sizeof(replicas), "%" PRIu64 "/%" PRIu64,
                kz_online_count(item, "replicas_ready"), kz_online_count(item, "replicas_max"));
        line(screen, "%-20s %-9s %9s %9s %9s %7" PRIu64 " %9s  %.40s",
                kz_online_text(item, "name", &name), kz_online_text(item, "state", &state),
                replicas, short_count(kz_online_number(item, "pending"), a),
                short_count(kz_online_number(item, "done"), b), kz_online_count(item, "dead"),
                short_bytes(kz_online_number(item, "rss_bytes"), c),
                kz_online_text(item, "reason", &reason));
    }
    kz_buf_done(&name);
    kz_buf_done(&state);
    kz_buf_done(&reason);
}

/* What the roles' backends have done since the picture before, where there is one and the server was not
 * started again, else nothing. */
struct since {
    double at_s, uptime_s; /* of the picture before; 0: there is none */
    double now_s;
    double before[24], now[24];
    size_t count;
};

/* Of a total; negative: it is not known. */
static double grown(struct since *since, struct kz_json_value of, const char *name)
{
    double now = kz_online_number(of, name), before = since->before[since->count];

    since->now[since->count++] = now;
    return since->at_s ? now - before : -1;
}

static const char *rate(
        struct since *since, struct kz_json_value of, const char *name, char out[24])
{
    double more = grown(since, of, name), seconds = since->now_s - since->at_s;

    if (more < 0 || seconds <= 0)
        snprintf(out, 24, "-");
    else
        short_count(more / seconds, out);
    return out;
}

static const char *mean_ms(struct since *since, struct kz_json_value of, const char *seconds,
        const char *count, char out[24])
{
    double s = grown(since, of, seconds), n = grown(since, of, count);

    return short_ms(n > 0 ? s * 1e3 / n : 0, out);
}

/* Totals are told apart by the order in which they are asked for: one statement each. */
static void draw_bus(struct screen *screen, struct since *since, struct kz_json_value bus)
{
    char a[24], b[24], c[24], d[24], e[24];
    struct kz_buf name = {0};
    const char *in, *out, *again;

    if (bus.kind != KZ_JSON_OBJECT)
        return;
    in = rate(since, bus, "received_total", a);
    out = rate(since, bus, "published_total", b);
    again = rate(since, bus, "redelivered_total", c);
    line(screen,
            "bus          %s: in %s/s  out %s/s  redelivered %s/s   publishing %s  held %s  "
            "oldest %.1f s",
            kz_online_text(bus, "name", &name), in, out, again,
            short_count(kz_online_number(bus, "publishing"), d),
            short_count(kz_online_number(bus, "held"), e), kz_online_number(bus, "oldest_seconds"));
    kz_buf_done(&name);
}

/* A backend of rows; `total` and `seconds` are of its `writes`. */
static void draw_rows(struct screen *screen, struct since *since, const char *label,
        struct kz_json_value of, const char *writes, const char *total, const char *seconds)
{
    char a[24], b[24], c[24], d[24], e[24];
    struct kz_buf name = {0};
    const char *written, *write_ms, *conflicts, *read, *read_ms;

    if (of.kind != KZ_JSON_OBJECT)
        return;
    written = rate(since, of, total, a);
    write_ms = mean_ms(since, of, seconds, total, b);
    conflicts = rate(since, of, "conflicts_total", c);
    read = rate(since, of, "reads_total", d);
    read_ms = mean_ms(since, of, "read_seconds_total", "reads_total", e);
    line(screen, "%-12s %s: %s %s/s mean %s  conflicts %s/s   reads %s/s mean %s", label,
            kz_online_text(of, "name", &name), writes, written, write_ms, conflicts, read, read_ms);
    kz_buf_done(&name);
}

/* Of roles: what they have in hand, and what carries it. There is no log. */
static void draw_backends(struct screen *screen, struct since *since, struct kz_json_value status)
{
    struct kz_json_value backends = kz_json_get(status, "backends"), item;
    struct kz_json_walk walk = kz_json_walk(kz_json_get(status, "roles"));
    struct kz_buf name = {0};
    char a[24], b[24];

    since->now_s = (double)kz_mono_ms() * 1e-3;
    since->count = 0;
    if (since->uptime_s > kz_online_number(status, "uptime_seconds"))
        since->at_s = 0;
    while (kz_json_walk_element(&walk, &item))
        line(screen, "%-12s backlog %s   lag %.1f s", kz_online_text(item, "name", &name),
                short_count(kz_online_number(item, "backlog"), a),
                kz_online_number(item, "lag_seconds"));
    draw_bus(screen, since, kz_json_get(backends, "bus"));
    draw_rows(screen, since, "store", kz_json_get(backends, "store"), "commits", "commits_total",
            "commit_seconds_total");
    draw_rows(screen, since, "predictions", kz_json_get(backends, "predictions"), "writes",
            "writes_total", "write_seconds_total");
    line(screen, "streams      %s   memory %s", short_count(kz_online_number(status, "streams"), a),
            short_bytes(kz_online_number(status, "rss_bytes"), b));
    memcpy(since->before, since->now, sizeof(since->before));
    since->at_s = since->now_s;
    since->uptime_s = kz_online_number(status, "uptime_seconds");
    kz_buf_done(&name);
}

static void draw_keep(struct screen *screen, struct kz_json_value top, struct kz_json_value status)
{
    struct kz_json_value rates = kz_json_get(top, "per_second"), log = kz_json_get(status, "log");
    double syncs = kz_online_number(rates, "log_syncs_total");
    char a[24], b[24], c[24], d[24];

    line(screen, "%s", "");
    if (kz_json_get(status, "backends").kind == KZ_JSON_OBJECT) {
        draw_backends(screen, screen->since, status);
        return;
    }
    line(screen,
            "log      %s/s in %s commits/s, %s fsyncs/s; %s in %" PRIu64 " segments, %" PRIu64
            " sealed",
            short_bytes(kz_online_number(rates, "log_bytes_total"), a),
            short_count(kz_online_number(rates, "log_commits_total"), b), short_count(syncs, c),
            short_bytes(kz_online_number(log, "disk_bytes"), d), kz_online_count(log, "segments"),
            kz_online_count(log, "segments_sealed"));
    line(screen, "users    %s   timers %s   streams %s   memory %s",
            short_count(kz_online_number(status, "users"), a),
            short_count(kz_online_number(status, "timers"), b),
            short_count(kz_online_number(status, "streams"), c),
            short_bytes(kz_online_number(status, "rss_bytes"), d));
}

static void draw_problems(struct screen *screen, struct kz_json_value status)
{
    struct kz_json_walk walk = kz_json_walk(kz_json_get(status, "problems"));
    struct kz_buf severity = {0}, what = {0}, remedy = {0};
    struct kz_json_value item;
    int count = 0;

    line(screen, "%s", "");
    while (kz_json_walk_element(&walk, &item) && count++ < 5)
        line(screen, "%s: %s -> %.90s", kz_online_text(item, "severity", &severity),
                kz_online_text(item, "what", &what), kz_online_text(item, "remedy", &remedy));
    kz_buf_done(&severity);
    kz_buf_done(&what);
    kz_buf_done(&remedy);
}

static enum kz_code draw(struct kz_online *online, struct screen *screen, struct kz_err *err)
{
    struct kz_buf kept = {0}, name = {0};
    struct kz_json_value top, status;
    enum kz_code rc;

    rc = kz_online_json(online, "GET", "/v1/admin/top", ASK_MS, &top, err);
    if (rc == KZ_OK) {
        kz_buf_str(&kept, top.raw); /* the next call takes the first answer away */
        top = kz_json_trusted(kz_buf_view(&kept));
        rc = kz_online_json(online, "GET", "/v1/admin/status", ASK_MS, &status, err);
    }
    if (rc == KZ_OK) {
        char a[24];

        line(screen, "%s  %s  up %s  (over the last %.0f s)",
                kz_online_text(status, "project", &name), online->url,
                short_span(kz_online_number(status, "uptime_seconds"), a),
                kz_online_number(top, "over_seconds"));
        line(screen, "%s", "");
        draw_flow(screen, top);
        draw_stages(screen, kz_json_get(top, "stages"));
        draw_models(screen, status);
        draw_keep(screen, top, status);
        draw_problems(screen, status);
    }
    kz_buf_done(&kept);
    kz_buf_done(&name);
    return rc;
}

static volatile sig_atomic_t top_interrupted;

static void on_top_signal(int number)
{
    (void)number;
    top_interrupted = 1;
}

/* True when it is time to leave. */
static bool wait_for_key(int64_t ms)
{
    int64_t until_ms = kz_mono_ms() + ms;
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    char key;

    while (!top_interrupted && kz_mono_ms() < until_ms) {
        if (poll(&in, 1, (int)(until_ms - kz_mono_ms())) <= 0)
            continue;
        if (read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q')
            return true;
    }
    return top_interrupted;
}

static enum kz_code live(struct kz_online *online, int64_t every_ms, struct kz_err *err)
{
    static const char enter[] = "\033[?1049h\033[?25l", leave[] = "\033[?25h\033[?1049l";
    struct sigaction action = {.sa_handler = on_top_signal};
    struct since since = {0};
    struct screen screen = {.end = "\033[K\n", .since = &since};
    struct termios before, raw;
    enum kz_code rc;

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    tcgetattr(STDIN_FILENO, &before);
    raw = before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    fputs(enter, stdout);
    do {
        kz_buf_clear(&screen.buf);
        kz_buf_cstr(&screen.buf, "\033[H");
        rc = draw(online, &screen, err);
        if (rc == KZ_OK)
            line(&screen, "\nq leaves");
        kz_buf_cstr(&screen.buf, "\033[J");
        if (rc == KZ_OK)
            fwrite(screen.buf.data, 1, screen.buf.size, stdout);
        fflush(stdout);
    } while (rc == KZ_OK && !wait_for_key(every_ms));
    fputs(leave, stdout);
    fflush(stdout);
    tcsetattr(STDIN_FILENO, TCSANOW, &before);
    kz_buf_done(&screen.buf);
    return top_interrupted ? KZ_OK : rc;
}

static int run_top(const struct kz_args *args)
{
    int64_t every_ms = kz_args_duration_ms(args, "every");
    struct since since = {0};
    struct screen screen = {.end = "\n", .since = &since};
    struct kz_online online;
    struct kz_err err = {0};
    enum kz_code rc;

    if (every_ms < 100)
        return kz_command_usage(args, "--every is less than 100ms");
    if (kz_args_flag(args, "json"))
        return ask(args, "GET", "/v1/admin/top", ASK_MS, NULL);
    if (kz_online_open(args, &online, &err) != KZ_OK)
        return kz_command_fail(&err);
    if (isatty(STDOUT_FILENO) && isatty(STDIN_FILENO) && !kz_args_flag(args, "once")) {
        rc = live(&online, every_ms, &err);
    } else {
        rc = draw(&online, &screen, &err);
        if (rc == KZ_OK)
            fwrite(screen.buf.data, 1, screen.buf.size, stdout);
        kz_buf_done(&screen.buf);
    }
    kz_online_close(&online);
    return rc == KZ_OK ? KZ_EXIT_DONE : kz_command_fail(&err);
}

const struct kz_command kz_command_top = {
        .name = "top",
        .arguments = "",
        .summary = "Shows live what flows through a running Kizashi.",
        .details =
                "Rates and latencies are over the last ten seconds; of the backends of roles, since\n"
                "the picture before. q or Ctrl-C leaves. Where there is no terminal it prints once.",
        .example = "kizashi top",
        .options = {KZ_ONLINE_OPTIONS, {"every", "DURATION", "1s", "time between two pictures"},
                {"once", NULL, NULL, "prints once, on a terminal, too"},
                {"json", NULL, NULL, "the answer of the server as JSON, once"}},
        .run = run_top,
};

/* ---- models, actions, requests -------------------------------------------------------------------- */

static void print_done(struct kz_json_value root, const struct kz_args *args)
{
    (void)root;
    printf("%s: done\n", args->command->name);
}

static int run_model(const struct kz_args *args)
{
    char pattern[64], path[PATH_BYTES];

    snprintf(pattern, sizeof(pattern), "/v1/admin/models/%%s/%s", words(args));
    return ask(args, "POST", make_path(path, pattern, args->arguments[0]), ASK_MS, print_done);
}

/* The one the argument names, or "*" with --all; NULL after a usage error. */
static const char *one_or_all(const struct kz_args *args)
{
    bool all = kz_args_flag(args, "all");

    if (all == (args->argument_count == 1)) {
        (void)kz_command_usage(args, all ? "--all and a name" : "say which one, or --all");
        return NULL;
    }
    return all ? "*" : args->arguments[0];
}

static int run_action(const struct kz_args *args)
{
    const char *name = one_or_all(args);
    char pattern[64], path[PATH_BYTES];

    if (!name)
        return KZ_EXIT_USAGE;
    snprintf(pattern, sizeof(pattern), "/v1/admin/actions/%%s/%s", words(args));
    return ask(args, "POST", make_path(path, pattern, name), ASK_MS, print_done);
}

static void print_dropped(struct kz_json_value root, const struct kz_args *args)
{
    (void)args;
    printf("%" PRIu64 " requests dropped\n", kz_online_count(root, "count"));
}

static int run_drop_requests(const struct kz_args *args)
{
    const char *model = kz_args_get(args, "model");
    char path[PATH_BYTES];

    if (kz_args_flag(args, "all") == (model != NULL))
        return kz_command_usage(args, model ? "--model and --all" : "say --model NAME, or --all");
    return ask(args, "POST",
            make_path(path, "/v1/admin/requests/drop?model=%s", model ? model : "*"), ASK_MS,
            print_dropped);
}

#define JSON_OPTION                                                                                \
    {                                                                                              \
        "json", NULL, NULL, "the answer of the server as JSON"                                     \
    }
#define MODEL_COMMAND(verb, text)                                                                  \
    const struct kz_command kz_command_models_##verb = {                                           \
            .name = "models " #verb,                                                               \
            .arguments = "MODEL",                                                                  \
            .argument_min = 1,                                                                     \
            .argument_max = 1,                                                                     \
            .summary = text,                                                                       \
            .example = "kizashi models " #verb " purchase",                                        \
            .options = {KZ_ONLINE_OPTIONS, JSON_OPTION},                                           \
            .run = run_model,                                                                      \
    }
MODEL_COMMAND(pause, "Stops asking a model; its requests wait in the log.");
MODEL_COMMAND(resume, "Asks a paused model again, the waiting requests first.");
MODEL_COMMAND(unfence, "Loads a fenced model anew and asks it again.");

#define ACTION_COMMAND(verb, text)                                                                 \
    const struct kz_command kz_command_actions_##verb = {                                          \
            .name = "actions " #verb,                                                              \
            .arguments = "[ACTION]",                                                               \
            .argument_max = 1,                                                                     \
            .summary = text,                                                                       \
            .example = "kizashi actions " #verb " --all",                                          \
            .options = {KZ_ONLINE_OPTIONS, {"all", NULL, NULL, "every action"}, JSON_OPTION},      \
            .run = run_action,                                                                     \
    }
ACTION_COMMAND(pause, "Stops an action: nothing is decided or delivered for it.");
ACTION_COMMAND(resume, "Lets an action go on.");

const struct kz_command kz_command_requests_drop = {
        .name = "requests drop",
        .arguments = "",
        .summary = "Ends requests that wait for a model, without a result.",
        .details =
                "For a backlog whose predictions nobody needs any more. Each is counted as dropped.",
        .example = "kizashi requests drop --model purchase",
        .options = {KZ_ONLINE_OPTIONS, {"model", "NAME", NULL, "whose requests"},
                {"all", NULL, NULL, "of every model"}, JSON_OPTION},
        .run = run_drop_requests,
};

/* ---- dead letters --------------------------------------------------------------------------------- */

static void print_letters(struct kz_json_value root, const struct kz_args *args)
{
    struct kz_json_walk walk = kz_json_walk(kz_json_get(root, "dead_letters"));
    struct kz_buf id = {0}, stage = {0}, code = {0}, reason = {0}, model = {0};
    struct kz_json_value item;
    uint64_t shown = 0;
    char when[KZ_TIME_BYTES];

    (void)args;
    while (kz_json_walk_element(&walk, &item)) {
        if (!shown++)
            printf("%-10s %-24s %-9s %-12s %-14s %s\n", "ID", "AT", "STAGE", "MODEL", "CODE",
                    "REASON");
        printf("%-10s %-24s %-9s %-12s %-14s %s\n", kz_online_text(item, "id", &id),
                kz_time_format((int64_t)kz_online_count(item, "at"), when),
                kz_online_text(item, "stage", &stage), kz_online_text(item, "model", &model),
                kz_online_text(item, "code", &code), kz_online_text(item, "reason", &reason));
    }
    if (!shown)
        printf("there are no dead letters here\n");
    else if (*kz_online_text(root, "next", &id))
        printf("older ones: --before %s (%" PRIu64 " are kept in all)\n", id.data,
                kz_online_count(root, "total"));
    kz_buf_done(&id);
    kz_buf_done(&stage);
    kz_buf_done(&code);
    kz_buf_done(&reason);
    kz_buf_done(&model);
}

static int run_letters(const struct kz_args *args)
{
    const char *stage = kz_args_get(args, "stage");
    int64_t before = kz_args_int(args, "before", 0, INT64_MAX);
    struct kz_buf path = {0};
    int exit_code;

    kz_buf_printf(
            &path, "/v1/admin/deadletters?limit=%" PRId64, kz_args_int(args, "limit", 1, 1000));
    if (before)
        kz_buf_printf(&path, "&before=%" PRId64, before);
    if (stage) {
        kz_buf_cstr(&path, "&stage=");
        kz_url_encode(kz_str(stage), &path);
    }
    kz_buf_char(&path, '\0');
    exit_code = ask(args, "GET", path.data, ASK_MS, print_letters);
    kz_buf_done(&path);
    return exit_code;
}

static void print_letter(struct kz_json_value root, const struct kz_args *args)
{
    static const char *const fields[] = {"id", "stage", "model", "code", "about"};
    struct kz_buf text = {0};
    char when[KZ_TIME_BYTES];

    (void)args;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(fields); i++)
        if (*kz_online_text(root, fields[i], &text))
            printf("%-8s %s\n", fields[i], text.data);
    printf("%-8s %s\n", "at", kz_time_format((int64_t)kz_online_count(root, "at"), when));
    printf("\n%s\n", kz_online_text(root, "reason", &text));
    if (*kz_online_text(root, "payload", &text))
        printf("\n%s\n", text.data);
    kz_buf_done(&text);
}

static int run_letter(const struct kz_args *args)
{
    char path[PATH_BYTES];

    return ask(args, "GET", make_path(path, "/v1/admin/deadletters/%s", args->arguments[0]), ASK_MS,
            print_letter);
}

static void print_letter_count(struct kz_json_value root, const struct kz_args *args)
{
    printf("%" PRIu64 " dead letters %s\n", kz_online_count(root, "count"),
            strcmp(words(args), "drop") == 0 ? "dropped" : "tried again");
}

static int run_letter_verb(const struct kz_args *args)
{
    const char *id = one_or_all(args);
    char pattern[64], path[PATH_BYTES];

    if (!id)
        return KZ_EXIT_USAGE;
    snprintf(pattern, sizeof(pattern), "/v1/admin/deadletters/%%s/%s", words(args));
    return ask(args, "POST", make_path(path, pattern, id), ASK_MS, print_letter_count);
}

const struct kz_command kz_command_deadletters_list = {
        .name = "deadletters list",
        .arguments = "",
        .summary = "Lists what could not be processed, newest first, with the reason.",
        .example = "kizashi deadletters list --stage infer",
        .options = {KZ_ONLINE_OPTIONS, {"limit", "COUNT", "50", "how many"},
                {"before", "ID", NULL, "older than this one"},
                {"stage", "STAGE", NULL,
                        "only of collect, shape, log, trigger, features, infer, predict, act, deliver"},
                JSON_OPTION},
        .run = run_letters,
};

const struct kz_command kz_command_deadletters_show = {
        .name = "deadletters show",
        .arguments = "ID",
        .argument_min = 1,
        .argument_max = 1,
        .summary = "Shows one dead letter whole: the reason, a traceback, the payload.",
        .options = {KZ_ONLINE_OPTIONS, JSON_OPTION},
        .run = run_letter,
};

#define LETTER_COMMAND(verb, text)                                                                 \
    const struct kz_command kz_command_deadletters_##verb = {                                      \
            .name = "deadletters " #verb,                                                          \
            .arguments = "[ID]",                                                                   \
            .argument_max = 1,                                                                     \
            .summary = text,                                                                       \
            .options = {KZ_ONLINE_OPTIONS, {"all", NULL, NULL, "every one that is kept"},          \
                    JSON_OPTION},                                                                  \
            .run = run_letter_verb,                                                                \
    }
LETTER_COMMAND(retry, "Tries a dead letter again, once its cause is mended.");
LETTER_COMMAND(drop, "Forgets a dead letter.");

/* ---- backup --------------------------------------------------------------------------------------- */

static void print_backup(struct kz_json_value root, const struct kz_args *args)
{
    struct kz_buf dest = {0};
    const char *to = kz_online_text(root, "dest", &dest);

    (void)args;
    printf("backed up to %s\nrestore it with: kizashi restore %s DIR\n", to, to);
    kz_buf_done(&dest);
}

static int run_backup(const struct kz_args *args)
{
    const char *dest = args->arguments[0];
    char whole[PATH_MAX] = "", path[PATH_BYTES];
    struct kz_buf encoded = {0};
    struct kz_err err = {0};
    int exit_code;

    /* The server has a working directory of its own. */
    if (dest[0] != '/' && !getcwd(whole, sizeof(whole) - 1)) {
        (void)kz_fail_errno(&err, "could not find the current directory");
        return kz_command_fail(&err);
    }
    kz_buf_printf(&encoded, "%s%s%s", whole, *whole ? "/" : "", dest);
    if (encoded.size * 3 + 32 > sizeof(path)) {
        kz_buf_done(&encoded);
        return kz_command_usage(args, "the path is too long");
    }
    kz_buf_char(&encoded, '\0');
    if (!kz_args_flag(args, "json"))
        fprintf(stderr, "backing up to %s ...\n", encoded.data);
    exit_code = ask(args, "POST", make_path(path, "/v1/admin/backup?dest=%s", encoded.data),
            COPY_MS, print_backup);
    kz_buf_done(&encoded);
    return exit_code;
}

const struct kz_command kz_command_backup = {
        .name = "backup",
        .arguments = "DEST",
        .argument_min = 1,
        .argument_max = 1,
        .summary = "Copies the data of a running Kizashi, consistently, without stopping it.",
        .details = "DEST is a new directory on the machine where it runs. Everything acknowledged\n"
                   "before is in it.",
        .example = "kizashi backup /backup/shop-monday",
        .options = {KZ_ONLINE_OPTIONS, JSON_OPTION},
        .run = run_backup,
};
