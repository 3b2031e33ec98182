#include "app/bench/bench_load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "sys/clock.h"
#include "sys/random.h"
#include "sys/thread.h"

/* ---- who acts ------------------------------------------------------------------------------------- */

enum { DRAWS = 1 << 20, MEDIAN_EVENTS = 50 };

/* A rank of a Zipf distribution with exponent 0.9 over n ranks, by inversion of its integral. */
static uint32_t zipf(struct kz_prng *prng, uint32_t n)
{
    double power = 0.1, top = pow((double)n + 1, power);
    double rank = pow(1 + kz_prng_unit(prng) * (top - 1), 1 / power);

    return KZ_MIN((uint32_t)rank - 1, n - 1);
}

/* Ranks are spread over all ids, so that the busiest are not neighbours. */
static uint32_t draw_user(struct kz_prng *prng, uint32_t n)
{
    return (uint32_t)((uint64_t)zipf(prng, n) * 2654435761u % n);
}

static double normal(struct kz_prng *prng)
{
    double u = 1 - kz_prng_unit(prng);

    return sqrt(-2 * log(u)) * cos(2 * M_PI * kz_prng_unit(prng));
}

static void shuffle(uint32_t *list, size_t count, struct kz_prng *prng)
{
    for (size_t i = count; i > 1; i--) {
        size_t j = (size_t)kz_prng_below(prng, i);
        uint32_t kept = list[i - 1];

        list[i - 1] = list[j];
        list[j] = kept;
    }
}

void kz_bench_users_init(
        struct kz_bench_users *users, uint32_t user_count, size_t history_count, uint64_t seed)
{
    struct kz_prng prng;
    size_t at = 0;

    kz_prng_init(&prng, seed);
    *users = (struct kz_bench_users){
            .user_count = user_count,
            .active_count = KZ_MAX(user_count / 25, 1u),
            .draws = kz_malloc(DRAWS * sizeof(uint32_t)),
            .draw_count = DRAWS,
            .history = kz_malloc(KZ_MAX(history_count, (size_t)1) * sizeof(uint32_t)),
            .history_count = history_count,
    };
    for (size_t i = 0; i < DRAWS; i++)
        users->draws[i] = draw_user(&prng, user_count);
    /* Active users: log-normal around the median. All others: one event each, the rest by Zipf. */
    for (uint32_t u = 0; u < users->active_count && at < history_count; u++) {
        size_t events = (size_t)(MEDIAN_EVENTS * exp(0.8 * normal(&prng)) + 0.5);

        for (; events && at < history_count; events--)
            users->history[at++] = u;
    }
    for (uint32_t u = users->active_count; u < user_count && at < history_count; u++)
        users->history[at++] = u;
    while (at < history_count)
        users->history[at++] = users->active_count +
                               draw_user(&prng, KZ_MAX(user_count - users->active_count, 1u));
    shuffle(users->history, history_count, &prng);
}

void kz_bench_users_done(struct kz_bench_users *users)
{
    free(users->draws);
    free(users->history);
    *users = (struct kz_bench_users){0};
}

/* ---- a connection --------------------------------------------------------------------------------- */

enum { IN_BYTES = 64 * 1024, EVENTS_AT_ONCE = 128, EVENT_BYTES = 300, BATCH_LIMIT = 10000 };

struct spot { /* where an event's changing digits are */
    uint32_t id, user, ts;
    bool triggers;
};

struct conn {
    int fd;
    bool is_idle, open_epollout;
    struct kz_buf out;
    struct spot *spots;
    size_t sent;
    char *in;
    size_t in_size, body_at, answer_size;
    int64_t due_ns;
    int64_t again_ns; /* HISTORY: refused; sent again then */
};

struct generator {
    struct kz_bench_load load;
    struct kz_bench_outcome *outcome;
    int epoll;
    struct conn *conns;
    unsigned *idle;
    unsigned idle_count;
    struct kz_prng prng;
    int64_t start_ns, warm_ns, end_ns;
    int64_t now_ns, wall_ms;
    bool counting;
    uint64_t begun, done; /* requests since the start, warm-up included */
    size_t draw_at, history_at;
    double cpu_before;
};

static double own_cpu(void)
{
    struct rusage usage = {0};

    (void)getrusage(RUSAGE_SELF, &usage); /* cannot fail */
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void put_digits(char *at, uint64_t value, unsigned digits)
{
    while (digits) {
        at[--digits] = (char)('0' + value % 10);
        value /= 10;
    }
}

/* Names by share, spread evenly: 10 % match a rule, 1.5 % ask a model at once. */
static const char *name_for(const struct generator *g, double place)
{
    if (g->load.kind == KZ_BENCH_WAIT)
        return "checkout";
    if (g->load.kind == KZ_BENCH_INTAKE) {
        if (place < 0.015)
            return "checkout";
        if (place < 0.065)
            return "cart";
        if (place < 0.085)
            return "wishlist";
        if (place < 0.1)
            return "coupon_open";
    }
    return place < 0.6 ? "view" : place < 0.82 ? "search" : "click";
}

static void put_event(struct generator *g, struct kz_buf *body, struct spot *spot, uint64_t number)
{
    static const char *const brands[] = {"samsung", "apple", "xiaomi", "sony", "philips", "bosch"};
    double place = fmod((double)number * 0.6180339887498949, 1);
    const char *name = name_for(g, place);
    size_t begin = body->size;

    spot->triggers = strcmp(name, "checkout") == 0;
    kz_buf_cstr(body, "{\"event_id\":\"e");
    spot->id = (uint32_t)body->size;
    kz_buf_printf(body, "%03u%012u\",\"user_id\":\"u", g->load.run % 1000, 0);
    spot->user = (uint32_t)body->size;
    kz_buf_printf(body, "%08u\",\"name\":\"%s\",\"ts\":", 0, name);
    spot->ts = (uint32_t)body->size;
    kz_buf_printf(body,
            "%013d,\"props\":{\"product_id\":\"%07" PRIu64
            "\",\"category_code\":\"electronics.%s\","
            "\"brand\":\"%s\",\"price\":%.2f,\"url\":\"https://shop.example/p/",
            1, kz_prng_below(&g->prng, 10000000), number % 3 ? "smartphone" : "video.tv",
            brands[number % KZ_ARRAY_COUNT(brands)], 1 + 999 * kz_prng_unit(&g->prng));
    while (body->size - begin < EVENT_BYTES - 3)
        kz_buf_char(body, (char)('a' + kz_prng_below(&g->prng, 26)));
    kz_buf_cstr(body, "\"}}");
}

static void build_post(struct generator *g, struct conn *conn, unsigned index)
{
    struct kz_buf body = {0};
    size_t head;

    conn->spots = kz_calloc(g->load.batch, sizeof(*conn->spots));
    for (unsigned i = 0; i < g->load.batch; i++) {
        put_event(g, &body, &conn->spots[i], (uint64_t)index * g->load.batch + i);
        kz_buf_char(&body, '\n');
    }
    kz_buf_printf(&conn->out,
            "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/x-ndjson\r\n"
            "Content-Length: %zu\r\n\r\n",
            g->load.path, g->load.port, body.size);
    head = conn->out.size;
    kz_buf_put(&conn->out, body.data, body.size);
    for (unsigned i = 0; i < g->load.batch; i++) {
        conn->spots[i].id += (uint32_t)head + 3;
        conn->spots[i].user += (uint32_t)head;
        conn->spots[i].ts += (uint32_t)head;
    }
    kz_buf_done(&body);
}

static void build_get(struct generator *g, struct conn *conn)
{
    const char *at = strstr(g->load.path, "%s");

    conn->spots = kz_calloc(1, sizeof(*conn->spots));
    kz_buf_printf(&conn->out, "GET %.*s", (int)(at - g->load.path), g->load.path);
    conn->spots[0].user = (uint32_t)conn->out.size + 1;
    kz_buf_printf(
            &conn->out, "u%08u%s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n\r\n", 0, at + 2, g->load.port);
}

static bool connect_one(struct generator *g, struct conn *conn)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)g->load.port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    int one = 1;

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (conn->fd < 0 || connect(conn->fd, (struct sockaddr *)&to, sizeof(to)) != 0)
        return false;
    (void)setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* slower without */
    return epoll_ctl(g->epoll, EPOLL_CTL_ADD, conn->fd, &event) == 0;
}

/* ---- a request ------------------------------------------------------------------------------------ */

static uint32_t next_user(struct generator *g, const struct spot *spot)
{
    const struct kz_bench_users *users = g->load.users;

    if (g->load.kind == KZ_BENCH_HISTORY)
        return users->history[g->history_at++ % users->history_count];
    if (spot->triggers || g->load.kind == KZ_BENCH_GET)
        return (uint32_t)kz_prng_below(&g->prng, users->active_count);
    return users->draws[g->draw_at++ % users->draw_count];
}

/* Stored events lie in the 20 hours before now, in order; live ones are now. */
static uint64_t event_ms(const struct generator *g, uint64_t number)
{
    enum { BACK_MS = 20 * 3600 * 1000 };

    if (g->load.kind != KZ_BENCH_HISTORY)
        return (uint64_t)g->wall_ms;
    return (uint64_t)g->wall_ms - BACK_MS +
           (uint64_t)((double)BACK_MS * ((double)number / (double)g->load.users->history_count));
}

static void fill(struct generator *g, struct conn *conn)
{
    char *out = conn->out.data;

    if (g->load.kind == KZ_BENCH_GET) {
        put_digits(out + conn->spots[0].user, next_user(g, &conn->spots[0]), 8);
        return;
    }
    for (unsigned i = 0; i < g->load.batch; i++) {
        const struct spot *spot = &conn->spots[i];
        uint64_t number = g->begun * g->load.batch + i;

        put_digits(out + spot->id, number, 12);
        put_digits(out + spot->user, next_user(g, spot), 8);
        put_digits(out + spot->ts, event_ms(g, number), 13);
    }
}

static void watch_out(struct generator *g, struct conn *conn, bool out)
{
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = conn};

    if (conn->open_epollout == out)
        return;
    conn->open_epollout = out;
    (void)epoll_ctl(g->epoll, EPOLL_CTL_MOD, conn->fd, &event); /* the descriptor is there */
}

static void make_idle(struct generator *g, struct conn *conn)
{
    g->done++;
    conn->is_idle = true;
    g->idle[g->idle_count++] = (unsigned)(conn - g->conns);
}

/* The connection is lost: another takes its place, and the request that was under way counts as
 * broken. Without one the server has closed it for its long rest. */
static void lost(struct generator *g, struct conn *conn)
{
    g->outcome->broken += !conn->is_idle;
    close(conn->fd);
    conn->open_epollout = false;
    if (!connect_one(g, conn)) {
        fprintf(stderr, "kizashi bench: the server is gone: %s\n", strerror(errno));
        _exit(1);
    }
    if (!conn->is_idle)
        make_idle(g, conn);
}

static void write_some(struct generator *g, struct conn *conn)
{
    while (conn->sent < conn->out.size) {
        ssize_t n = send(conn->fd, conn->out.data + conn->sent, conn->out.size - conn->sent,
                MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EAGAIN) {
            watch_out(g, conn, true);
            return;
        }
        if (n <= 0) {
            lost(g, conn);
            return;
        }
        conn->sent += (size_t)n;
    }
    watch_out(g, conn, false);
}

static void transmit(struct generator *g, struct conn *conn)
{
    conn->sent = conn->in_size = conn->body_at = conn->answer_size = 0;
    conn->again_ns = 0;
    conn->is_idle = false;
    write_some(g, conn);
}

/* ---- an answer ------------------------------------------------------------------------------------ */

/* Sets answer_size once the head is whole. False: it is no HTTP. */
static bool read_head(struct conn *conn)
{
    const char *end, *length;

    conn->in[conn->in_size] = '\0';
    end = strstr(conn->in, "\r\n\r\n");
    if (!end)
        return conn->in_size < IN_BYTES / 2;
    length = strcasestr(conn->in, "\r\nContent-Length:");
    if (!length || length > end)
        return false;
    conn->body_at = (size_t)(end - conn->in) + 4;
    conn->answer_size = conn->body_at + strtoul(length + 17, NULL, 10);
    return conn->answer_size < IN_BYTES;
}

/* What the model says it took, in ns: the second number of its output. */
static bool model_time(const char *body, uint64_t *ret_ns)
{
    const char *at = strstr(body, "\"output\":[");

    at = at ? strchr(at, ',') : NULL;
    if (!at)
        return false;
    *ret_ns = (uint64_t)(strtod(at + 1, NULL) * 1e3);
    return true;
}

static void count_ok(struct generator *g, const struct conn *conn, uint64_t took_ns)
{
    struct kz_bench_outcome *o = g->outcome;
    const char *body = conn->in + conn->body_at, *accepted = strstr(body, "\"accepted\":");
    uint64_t model_ns;

    o->ok++;
    kz_hist_add(&o->latency, took_ns);
    if (accepted && g->now_ns <= g->end_ns)
        o->events += strtoul(accepted + 11, NULL, 10);
    if (g->load.kind == KZ_BENCH_GET && strstr(body, "\"predictions\":[]"))
        o->without_prediction++;
    if (g->load.kind != KZ_BENCH_WAIT)
        return;
    if (!model_time(body, &model_ns)) {
        o->without_prediction++;
        return;
    }
    kz_hist_add(&o->model, model_ns);
    kz_hist_add(&o->less_model, took_ns > model_ns ? took_ns - model_ns : 0);
}

static void answered(struct generator *g, struct conn *conn)
{
    int status = (int)strtol(conn->in + 9, NULL, 10);

    g->now_ns = kz_mono_ns();
    if (g->counting) {
        g->outcome->requests++;
        if (status == 200)
            count_ok(g, conn, (uint64_t)KZ_MAX(g->now_ns - conn->due_ns, (int64_t)0));
        else if (status == 429 || status == 503 || status == 507)
            g->outcome->refused++;
        else
            g->outcome->failed++;
    }
    if (g->load.kind == KZ_BENCH_HISTORY && status != 200) {
        conn->again_ns = g->now_ns + 20 * 1000000;
        return;
    }
    make_idle(g, conn);
}

static void readable(struct generator *g, struct conn *conn)
{
    ssize_t n = recv(
            conn->fd, conn->in + conn->in_size, IN_BYTES - 1 - conn->in_size, MSG_DONTWAIT);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 || conn->is_idle) {
        lost(g, conn);
        return;
    }
    conn->in_size += (size_t)n;
    if (!conn->answer_size && !read_head(conn)) {
        lost(g, conn);
        return;
    }
    if (conn->answer_size && conn->in_size >= conn->answer_size) {
        conn->in[conn->in_size] = '\0';
        answered(g, conn);
    }
}

/* ---- the loop ------------------------------------------------------------------------------------- */

static int64_t due_of(const struct generator *g, uint64_t n)
{
    return g->load.rate > 0 ? g->start_ns + (int64_t)((double)n * 1e9 / g->load.rate) : g->now_ns;
}

static bool may_begin(const struct generator *g)
{
    return g->now_ns < g->end_ns && (!g->load.request_max || g->begun < g->load.request_max);
}

static void begin_due(struct generator *g)
{
    while (g->idle_count && may_begin(g)) {
        int64_t due_ns = due_of(g, g->begun);
        struct conn *conn;

        if (due_ns > g->now_ns)
            break;
        conn = &g->conns[g->idle[--g->idle_count]];
        conn->due_ns = due_ns;
        fill(g, conn);
        g->begun++;
        transmit(g, conn);
    }
}

static void send_again(struct generator *g)
{
    for (unsigned i = 0; i < g->load.connections; i++)
        if (g->conns[i].again_ns && g->conns[i].again_ns <= g->now_ns)
            transmit(g, &g->conns[i]);
}

/* Up to the next scheduled time. At high rates a little longer: one wake-up then serves several. */
static struct timespec pause_of(const struct generator *g)
{
    int64_t ns = 20 * 1000000;

    if (g->idle_count && may_begin(g))
        ns = KZ_MIN(ns, due_of(g, g->begun) - g->now_ns);
    ns = KZ_MAX(ns, g->load.rate > 10000 ? (int64_t)50000 : (int64_t)0);
    return (struct timespec){0, ns};
}

static void start_counting(struct generator *g)
{
    memset(g->outcome, 0, sizeof(*g->outcome));
    g->counting = true;
    g->cpu_before = own_cpu();
    g->warm_ns = g->now_ns;
}

static void finish(struct generator *g)
{
    struct kz_bench_outcome *o = g->outcome;

    o->seconds = (double)(KZ_MIN(g->now_ns, g->end_ns) - g->warm_ns) / 1e9;
    o->cpu_s = own_cpu() - g->cpu_before;
    /* Those that were never sent, every connection being busy, are unanswered, too. */
    o->unanswered = g->begun - g->done;
    if (g->load.rate > 0) {
        double due = g->load.rate * (g->load.warm_s + o->seconds);

        o->unanswered += due > (double)g->begun ? (uint64_t)(due - (double)g->begun) : 0;
    }
}

static void loop(struct generator *g)
{
    const int64_t drain_ns = INT64_C(5000000000);
    struct epoll_event events[EVENTS_AT_ONCE];

    for (;;) {
        struct timespec pause;
        int count;

        g->now_ns = kz_mono_ns();
        g->wall_ms = kz_clock_ms();
        if (!g->counting && g->now_ns >= g->warm_ns)
            start_counting(g);
        begin_due(g);
        send_again(g);
        if (!may_begin(g) && (g->begun == g->done || g->now_ns > g->end_ns + drain_ns))
            break;
        pause = pause_of(g);
        count = epoll_pwait2(g->epoll, events, EVENTS_AT_ONCE, &pause, NULL);
        for (int i = 0; i < count; i++) {
            struct conn *conn = events[i].data.ptr;

            if (events[i].events & EPOLLOUT)
                write_some(g, conn);
            if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
                readable(g, conn);
        }
    }
    finish(g);
}

static int generate(const struct kz_bench_load *load, struct kz_bench_outcome *outcome)
{
    struct generator g = {.load = *load, .outcome = outcome};

    g.epoll = epoll_create1(EPOLL_CLOEXEC);
    g.conns = kz_calloc(load->connections, sizeof(*g.conns));
    g.idle = kz_calloc(load->connections, sizeof(*g.idle));
    kz_prng_init(&g.prng, load->run * 7919u + 1);
    g.draw_at = (size_t)kz_prng_below(&g.prng, 1 << 20);
    for (unsigned i = 0; i < load->connections; i++) {
        struct conn *conn = &g.conns[i];

        conn->in = kz_malloc(IN_BYTES);
        if (load->kind == KZ_BENCH_GET)
            build_get(&g, conn);
        else
            build_post(&g, conn, i);
        if (!connect_one(&g, conn)) {
            fprintf(stderr, "kizashi bench: could not connect to port %u: %s\n", load->port,
                    strerror(errno));
            return 1;
        }
        conn->is_idle = true;
        g.idle[g.idle_count++] = i;
    }
    g.start_ns = kz_mono_ns();
    g.warm_ns = g.start_ns + (int64_t)(load->warm_s * 1e9);
    g.end_ns = g.warm_ns + (int64_t)(load->seconds * 1e9);
    loop(&g);
    return 0;
}

enum kz_code kz_bench_load_start(
        const struct kz_bench_load *load, struct kz_bench_child *ret_child, struct kz_err *err)
{
    struct kz_bench_child child;

    KZ_BUG_ON(!load->connections || (load->kind != KZ_BENCH_GET && !load->batch));
    KZ_BUG_ON(load->batch > BATCH_LIMIT);
    child.outcome = mmap(NULL, sizeof(*child.outcome), PROT_READ | PROT_WRITE,
            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (child.outcome == MAP_FAILED)
        return kz_fail_errno(err, "could not share memory with the load generator");
    fflush(NULL);
    child.pid = fork();
    if (child.pid < 0) {
        munmap(child.outcome, sizeof(*child.outcome));
        return kz_fail_errno(err, "could not start the load generator");
    }
    if (child.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        /* Where it shares a core with the server it gives way after 0.2 ms; in life it is elsewhere. */
        kz_thread_prompt();
        prctl(PR_SET_TIMERSLACK, 1000); /* 50 us otherwise, which would count as latency */
        _exit(generate(load, child.outcome));
    }
    *ret_child = child;
    return KZ_OK;
}

enum kz_code kz_bench_load_wait(
        struct kz_bench_child *child, struct kz_bench_outcome *ret_outcome, struct kz_err *err)
{
    int status = 0;
    pid_t rc;

    do
        rc = waitpid(child->pid, &status, 0);
    while (rc < 0 && errno == EINTR);
    *ret_outcome = *child->outcome;
    munmap(child->outcome, sizeof(*child->outcome));
    if (rc < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return kz_fail(err, KZ_IO, "the load generator failed");
    return KZ_OK;
}

enum kz_code kz_bench_load_run(
        const struct kz_bench_load *load, struct kz_bench_outcome *ret_outcome, struct kz_err *err)
{
    struct kz_bench_child child;

    KZ_TRY(kz_bench_load_start(load, &child, err));
    return kz_bench_load_wait(&child, ret_outcome, err);
}
