/* Unary calls against a peer that fails as told, and against none at all; streams: stream_test.c. */
#include "rpc/rpc_rig.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

/* ---- before anything is opened --------------------------------------------------------------- */

static bool is_mapped(const char *name)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[1000];
    bool found = false;

    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps))
        found |= strstr(line, name) != NULL;
    fclose(maps);
    return found;
}

static int thread_count(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[1000];
    int count = 0;

    assert_non_null(status);
    while (fgets(line, sizeof(line), status))
        sscanf(line, "Threads: %d", &count);
    fclose(status);
    return count;
}

/* The first test of all: the others load it. A sanitizer has threads of its own. */
static void test_nothing_is_loaded_before_the_first_open(void **state)
{
    const int before = thread_count();
    struct kz_rpc *rpc = NULL;

    (void)state;
    assert_false(is_mapped("libgrpc"));
    assert_false(is_mapped("libabsl"));
    assert_true(before <= 2);
    assert_int_equal(kz_rpc_open(&rpc, NULL), KZ_OK);
    assert_true(is_mapped(KZ_GRPC_LIBRARY));
    assert_true(thread_count() > before);
    kz_rpc_close(rpc);
}

/* ---- unary ----------------------------------------------------------------------------------- */

static void test_echo(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options options = {.method = "/peer/Echo"};

    expect(f->channel, &options, "there and back", "", "there and back");
    expect(f->channel, &options, "", "", "");
    assert_int_equal(stats_of(f).calls, 2);
    assert_int_equal(stats_of(f).failures, 0);
    assert_int_equal(stats_of(f).bytes_sent, 16);
    assert_int_equal(stats_of(f).bytes_received, 16);
}

static void test_metadata(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options options = {.method = "/peer/Metadata",
            .routing = "database=projects%2Fp",
            .resource = "projects/p/databases/d"};
    const struct kz_rpc_options bad = {.method = "/peer/Metadata", .routing = "a\nb"};
    Kizashi__Rpc__Any *answer = NULL;
    struct kz_err err;

    assert_int_equal(call(f->channel, &options, "", "", &answer, &err), KZ_OK);
    assert_string_equal(answer->type_url, "database=projects%2Fp");
    assert_int_equal(answer->value.len, 22);
    assert_memory_equal(answer->value.data, "projects/p/databases/d", 22);
    kizashi__rpc__any__free_unpacked(answer, NULL);
    assert_int_equal(call(f->channel, &bad, "", "", &answer, &err), KZ_INVALID);
    assert_non_null(strstr(err.message, "characters that cannot be sent"));
}

static void test_statuses(void **state)
{
    static const struct {
        const char *script;
        enum kz_code code;
    } rows[] = {
            {"1", KZ_UNAVAILABLE},
            {"2", KZ_IO},
            {"3", KZ_INVALID},
            {"4", KZ_TIMEOUT},
            {"5", KZ_NOT_FOUND},
            {"6", KZ_CONFLICT},
            {"7", KZ_FORBIDDEN},
            {"9", KZ_CONFLICT},
            {"10", KZ_CONFLICT},
            {"11", KZ_INVALID},
            {"12", KZ_UNSUPPORTED},
            {"13", KZ_IO},
            {"14", KZ_UNAVAILABLE},
            {"15", KZ_CORRUPT},
            {"16", KZ_UNAUTHENTICATED},
    };
    struct fixture *f = *state;
    const struct kz_rpc_options options = {.method = "/peer/Script"};
    Kizashi__Rpc__Any *answer = NULL;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        char expected[100];
        struct kz_err err;

        assert_int_equal(call(f->channel, &options, rows[i].script, rows[i].script, &answer, &err),
                rows[i].code);
        assert_int_equal(kz_rpc_status(), atoi(rows[i].script));
        assert_int_equal(err.code, rows[i].code);
        snprintf(expected, sizeof(expected), "peer/Script at %s: ", f->peer.address);
        assert_memory_equal(err.message, expected, strlen(expected));
        assert_non_null(strstr(err.message, ": as told to")); /* in one line */
    }
    assert_int_equal(stats_of(f).failures, KZ_ARRAY_COUNT(rows));
    assert_int_equal(stats_of(f).retries, 0);
}

static void test_what_is_tried_again(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options once = {.method = "/peer/Script"};
    const struct kz_rpc_options idempotent = {.method = "/peer/Script", .idempotent = true};
    const struct kz_rpc_options never = {
            .method = "/peer/Script", .idempotent = true, .once = true};
    Kizashi__Rpc__Any *answer = NULL;

    /* The caller does it. */
    assert_int_equal(call(f->channel, &never, "8 0", "never", &answer, NULL), KZ_LIMIT);
    assert_int_equal(call(f->channel, &never, "14 0", "never too", &answer, NULL), KZ_UNAVAILABLE);
    /* Refused before it ran. */
    expect(f->channel, &once, "8 8 0", "refused", "3");
    /* May have run. */
    assert_int_equal(call(f->channel, &once, "14 0", "once", &answer, NULL), KZ_UNAVAILABLE);
    expect(f->channel, &idempotent, "14 4 14 0", "idempotent", "4");
    expect(f->channel, &idempotent, "13 13 0", "internal", "3");
    assert_int_equal(call(f->channel, &idempotent, "13 13 13 0", "thrice", &answer, NULL), KZ_IO);
    /* Would fail again. */
    assert_int_equal(call(f->channel, &idempotent, "3 0", "invalid", &answer, NULL), KZ_INVALID);
    assert_int_equal(call(f->channel, &idempotent, "10 0", "aborted", &answer, NULL), KZ_CONFLICT);
    assert_int_equal(stats_of(f).retries, 2 + 3 + 2 + 2);
}

static void test_retry_info(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options options = {.method = "/peer/Script", .timeout_ms = WAIT_MS};
    const int64_t before_ms = kz_mono_ms();
    Kizashi__Rpc__Any *answer = NULL;

    expect(f->channel, &options, "8+300 0", "obeyed", "2");
    assert_true(kz_mono_ms() - before_ms >= 300);
    /* Longer than there is time: at once, and told. */
    assert_int_equal(call(f->channel, &options, "8+600000 0", "long", &answer, NULL), KZ_LIMIT);
    assert_true(kz_mono_ms() - before_ms < WAIT_MS);
    assert_int_equal(kz_rpc_retry_ms(), 600000);
    assert_int_equal(call(f->channel, &options, "10+25", "aborted", &answer, NULL), KZ_CONFLICT);
    assert_int_equal(kz_rpc_retry_ms(), 25);
    assert_int_equal(call(f->channel, &options, "5", "without", &answer, NULL), KZ_NOT_FOUND);
    assert_int_equal(kz_rpc_retry_ms(), 0);
}

static void test_retry_info_is_foreign(void **state)
{
    (void)state;
    assert_int_equal(kz_rpc_parse_retry_info_ms(KZ_STR("")), 0);
    assert_int_equal(kz_rpc_parse_retry_info_ms(KZ_STR("\xff\xff\xff\xff")), 0);
    assert_int_equal(kz_rpc_parse_retry_info_ms(KZ_STR("\x1a\x7f")), 0);
}

static void test_deadline(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options options = {.method = "/peer/Hold", .timeout_ms = 200};
    const int64_t before_ms = kz_mono_ms();
    Kizashi__Rpc__Any *answer = NULL;
    struct kz_err err;

    assert_int_equal(call(f->channel, &options, "", "", &answer, &err), KZ_TIMEOUT);
    assert_int_equal(kz_rpc_status(), KZ_RPC_DEADLINE_EXCEEDED);
    assert_true(kz_mono_ms() - before_ms >= 190);
    assert_true(kz_mono_ms() - before_ms < WAIT_MS);
    assert_null(strstr(err.message, "without a connection"));
}

static void test_answers_that_are_none(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options nothing = {.method = "/peer/Nothing"};
    const struct kz_rpc_options garbage = {.method = "/peer/Garbage"};
    Kizashi__Rpc__Any *answer = NULL;
    struct kz_err err;

    /* gRPC itself makes INTERNAL or UNIMPLEMENTED of it, by version. */
    assert_int_not_equal(call(f->channel, &nothing, "", "", &answer, &err), KZ_OK);
    assert_int_equal(call(f->channel, &garbage, "", "", &answer, &err), KZ_CORRUPT);
    assert_non_null(strstr(err.message, "an answer of 3 bytes is no valid kizashi.rpc.Any"));
    assert_int_equal(kz_rpc_status(), KZ_RPC_UNKNOWN);
}

static void test_receive_limit(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options options = {.method = "/peer/Big"};
    const struct kz_rpc_target small = {.emulator = f->peer.address, .receive_max_bytes = 1000};
    KZ_AUTO(kz_rpc_channel_closep) struct kz_rpc_channel *channel = NULL;
    Kizashi__Rpc__Any *answer = NULL;
    struct kz_err err;

    assert_int_equal(kz_rpc_connect(f->rpc, &small, &channel, NULL), KZ_OK);
    expect(channel, &options, "900", "", "");
    assert_int_equal(call(channel, &options, "1100", "", &answer, &err), KZ_TOO_LARGE);
    assert_int_equal(call(f->channel, &options, "20000000", "", &answer, &err), KZ_OK);
    assert_int_equal(answer->value.len, 20000000);
    kizashi__rpc__any__free_unpacked(answer, NULL);
}

static void test_connections(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options options = {.method = "/peer/Where"};
    const struct kz_rpc_target target = {.emulator = f->peer.address, .connection_count = 3};
    KZ_AUTO(kz_rpc_channel_closep) struct kz_rpc_channel *channel = NULL;
    char seen[3][64] = {{0}};
    int count = 0;

    assert_int_equal(kz_rpc_connect(f->rpc, &target, &channel, NULL), KZ_OK);
    for (int i = 0; i < 9; i++) {
        Kizashi__Rpc__Any *answer = NULL;
        int k = 0;

        assert_int_equal(call(channel, &options, "", "", &answer, NULL), KZ_OK);
        while (k < count && strcmp(seen[k], answer->type_url) != 0)
            k++;
        assert_true(k < 3);
        if (k == count)
            snprintf(seen[count++], sizeof(seen[0]), "%s", answer->type_url);
        kizashi__rpc__any__free_unpacked(answer, NULL);
    }
    assert_int_equal(count, 3);
}

/* ---- callbacks ------------------------------------------------------------------------------- */

struct waiting {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int ok, failed;
    enum kz_code code;
    enum kz_rpc_status status;
};
#define WAITING                                                                                    \
    {                                                                                              \
        .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER                     \
    }

static void on_answer(
        void *arg, enum kz_code code, const ProtobufCMessage *answer, const struct kz_err *err)
{
    struct waiting *w = arg;

    pthread_mutex_lock(&w->lock);
    assert_true((code == KZ_OK) == (answer != NULL));
    assert_true((code == KZ_OK) == (err == NULL));
    if (code == KZ_OK) {
        w->ok++;
    } else {
        w->failed++;
        w->code = code;
        w->status = kz_rpc_status();
    }
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static void wait_for(struct waiting *w, int count)
{
    pthread_mutex_lock(&w->lock);
    while (w->ok + w->failed < count)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

static void test_callbacks(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options echo = {.method = "/peer/Echo"};
    const struct kz_rpc_options script = {.method = "/peer/Script"};
    struct waiting w = WAITING;

    for (int i = 0; i < 200; i++) {
        /* Nothing of the request is needed once the call has been started. */
        Kizashi__Rpc__Any request = any("x", "y");

        kz_rpc_start(f->channel, &echo, &request.base, ANY, on_answer, &w);
    }
    wait_for(&w, 200);
    assert_int_equal(w.ok, 200);
    for (int i = 0; i < 20; i++) {
        char name[16];
        Kizashi__Rpc__Any request = any("8 8 0", name);

        snprintf(name, sizeof(name), "callback%d", i);
        request.value.len = strlen(name);
        kz_rpc_start(f->channel, &script, &request.base, ANY, on_answer, &w);
    }
    wait_for(&w, 220);
    assert_int_equal(w.ok, 220);
    assert_int_equal(stats_of(f).retries, 40);
    {
        Kizashi__Rpc__Any request = any("7", "forbidden");

        kz_rpc_start(f->channel, &script, &request.base, ANY, on_answer, &w);
    }
    wait_for(&w, 221);
    assert_int_equal(w.code, KZ_FORBIDDEN);
    assert_int_equal(w.status, KZ_RPC_PERMISSION_DENIED);
}

/* One that is under way, and one that waits for its next attempt. */
static void test_closing_a_channel_ends_its_calls(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options hold = {.method = "/peer/Hold", .timeout_ms = 10 * WAIT_MS};
    const struct kz_rpc_options script = {.method = "/peer/Script", .timeout_ms = 10 * WAIT_MS};
    const struct kz_rpc_target target = {.emulator = f->peer.address};
    const int64_t before_ms = kz_mono_ms();
    struct kz_rpc_channel *channel = NULL;
    /* It is tried again after up to a quarter more than it says: before the deadline. */
    Kizashi__Rpc__Any held = any("", ""), refused = any("8+300000", "closing");
    struct waiting w = WAITING;

    assert_int_equal(kz_rpc_connect(f->rpc, &target, &channel, NULL), KZ_OK);
    kz_rpc_start(channel, &hold, &held.base, ANY, on_answer, &w);
    kz_rpc_start(channel, &script, &refused.base, ANY, on_answer, &w);
    while (stats_of(f).retries < 1) {
        assert_true(kz_mono_ms() - before_ms < WAIT_MS);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    kz_rpc_channel_close(channel);
    assert_int_equal(w.failed, 2);
    assert_int_equal(w.code, KZ_UNAVAILABLE);
    assert_true(kz_mono_ms() - before_ms < WAIT_MS);
}

struct worker {
    struct fixture *f;
    int done;
};

static void *many_calls(void *arg)
{
    struct worker *worker = arg;
    const struct kz_rpc_options options = {.method = "/peer/Echo"};

    for (int i = 0; i < 100; i++) {
        Kizashi__Rpc__Any *answer = NULL;
        char text[32];

        snprintf(text, sizeof(text), "%p %d", arg, i);
        if (call(worker->f->channel, &options, text, "", &answer, NULL) == KZ_OK)
            worker->done += strcmp(answer->type_url, text) == 0;
        kizashi__rpc__any__free_unpacked(answer, NULL);
    }
    return NULL;
}

static void test_many_threads(void **state)
{
    enum { THREADS = 8 };
    struct worker workers[THREADS];
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.f = *state};
        assert_int_equal(pthread_create(&threads[i], NULL, many_calls, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].done, 100);
    }
}

/* ---- nobody there ---------------------------------------------------------------------------- */

/* A port that nobody listens on, or, with `listen`, one that never says a word. */
static int silent_port(bool listening, char address[32])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    if (listening)
        assert_int_equal(listen(fd, 5), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &size), 0);
    snprintf(address, 32, "127.0.0.1:%d", ntohs(at.sin_port));
    return fd;
}

static void test_connection_refused(void **state)
{
    struct fixture *f = *state;
    char address[32];
    int fd = silent_port(false, address);
    const struct kz_rpc_target target = {.emulator = address};
    struct kz_rpc_options options = {
            .method = "/peer/Echo", .idempotent = true, .timeout_ms = 10 * WAIT_MS};
    KZ_AUTO(kz_rpc_channel_closep) struct kz_rpc_channel *channel = NULL;
    Kizashi__Rpc__Any *answer = NULL;
    int64_t before_ms = kz_mono_ms();
    struct kz_err err;

    assert_int_equal(kz_rpc_connect(f->rpc, &target, &channel, NULL), KZ_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(call(channel, &options, "", "", &answer, &err), KZ_UNAVAILABLE);
    assert_true(kz_mono_ms() - before_ms < WAIT_MS); /* the deadline is far */
    assert_non_null(strstr(err.message, "Connection refused"));
    assert_non_null(strstr(err.hint, address));

    options.wait_for_ready = true;
    options.timeout_ms = 500;
    before_ms = kz_mono_ms();
    assert_int_equal(call(channel, &options, "", "", &answer, &err), KZ_TIMEOUT);
    assert_true(kz_mono_ms() - before_ms >= 490);
    assert_true(kz_mono_ms() - before_ms < WAIT_MS);
    assert_non_null(strstr(err.message, "without a connection"));
    close(fd);
}

static void test_wait_for_ready_until_the_peer_is_there(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_target target = {.emulator = f->peer.address};
    const struct kz_rpc_options options = {.method = "/peer/Echo", .wait_for_ready = true};
    KZ_AUTO(kz_rpc_channel_closep) struct kz_rpc_channel *channel = NULL;
    Kizashi__Rpc__Any request = any("late", "");
    struct waiting w = WAITING;

    assert_int_equal(kz_rpc_connect(f->rpc, &target, &channel, NULL), KZ_OK);
    peer_kill(&f->peer);
    kz_rpc_start(channel, &options, &request.base, ANY, on_answer, &w);
    f->peer = peer_start(f->peer.port);
    wait_for(&w, 1);
    assert_int_equal(w.ok, 1);
}

static void test_peer_killed_under_a_call(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options echo = {.method = "/peer/Echo", .idempotent = true};
    const struct kz_rpc_options hold = {.method = "/peer/Hold", .idempotent = true};
    Kizashi__Rpc__Any request = any("", "");
    struct waiting w = WAITING;

    expect(f->channel, &echo, "before", "", "before");
    kz_rpc_start(f->channel, &hold, &request.base, ANY, on_answer, &w);
    peer_kill(&f->peer);
    wait_for(&w, 1);
    assert_int_equal(w.code, KZ_UNAVAILABLE);
    f->peer = peer_start(f->peer.port);
    {
        const struct kz_rpc_options again = {.method = "/peer/Echo", .wait_for_ready = true};

        expect(f->channel, &again, "after", "", "after");
    }
}

/* Without waiting for a connection: soon after the peer is back, calls come through again. */
static void test_peer_killed_and_back(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options options = {.method = "/peer/Echo"};
    Kizashi__Rpc__Any *answer = NULL;
    int64_t back_ms, until_ms = kz_mono_ms() + 500;

    expect(f->channel, &options, "before", "", "before");
    peer_kill(&f->peer);
    while (kz_mono_ms() < until_ms) {
        assert_int_equal(call(f->channel, &options, "", "", &answer, NULL), KZ_UNAVAILABLE);
        nanosleep(&(struct timespec){0, 20000000}, NULL);
    }
    f->peer = peer_start(f->peer.port);
    back_ms = kz_mono_ms();
    while (call(f->channel, &options, "", "", &answer, NULL) != KZ_OK) {
        assert_true(kz_mono_ms() - back_ms < WAIT_MS);
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    }
    kizashi__rpc__any__free_unpacked(answer, NULL);
}

static void test_peer_suspended(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options options = {.method = "/peer/Echo", .timeout_ms = 300};
    Kizashi__Rpc__Any *answer = NULL;

    expect(f->channel, &(struct kz_rpc_options){.method = "/peer/Echo"}, "before", "", "before");
    kill(f->peer.pid, SIGSTOP);
    assert_int_equal(call(f->channel, &options, "", "", &answer, NULL), KZ_TIMEOUT);
    kill(f->peer.pid, SIGCONT);
    expect(f->channel, &(struct kz_rpc_options){.method = "/peer/Echo"}, "after", "", "after");
}

static void pause_ms(int ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* How it is counted is silence_test.c's; here it is what counts as an answer, in bounds that were measured.
 * All is looked at before anything is asserted: a failed assertion leaves the function, and with it `w`,
 * which a call under way still writes to. */
static void test_silence_is_counted_from_the_last_answer(void **state)
{
    enum { HELD_MS = 2000 };
    struct fixture *f = *state;
    const struct kz_rpc_options echo = {.method = "/peer/Echo"};
    const struct kz_rpc_options hold = {.method = "/peer/Hold", .timeout_ms = HELD_MS};
    int64_t begun_ms, asked_ms, answered_ms, held_ms, ended_ms;
    int64_t while_held_ms, after_another_ms, after_the_end_ms;
    Kizashi__Rpc__Any held = any("", "");
    struct waiting w = WAITING;

    expect(f->channel, &echo, "a", "", "a");
    assert_int_equal(kz_rpc_silent_ms(f->channel), 0);
    begun_ms = kz_mono_ms();
    kz_rpc_start(f->channel, &hold, &held.base, ANY, on_answer, &w);
    pause_ms(200);
    while_held_ms = kz_rpc_silent_ms(f->channel);
    held_ms = kz_mono_ms();
    /* Another that is answered: one call alone is slow. */
    asked_ms = kz_mono_ms();
    expect(f->channel, &echo, "b", "", "b");
    after_another_ms = kz_rpc_silent_ms(f->channel);
    answered_ms = kz_mono_ms();
    wait_for(&w, 1);
    /* Nothing is waited for, and what was waited for last came to nothing. */
    after_the_end_ms = kz_rpc_silent_ms(f->channel);
    ended_ms = kz_mono_ms();
    assert_in_range(while_held_ms, 200, held_ms - begun_ms);
    assert_in_range(after_another_ms, 1, KZ_MAX(answered_ms - asked_ms, (int64_t)1));
    assert_int_equal(w.code, KZ_TIMEOUT);
    if (answered_ms - begun_ms < HELD_MS - 100) /* else both may have ended in the other order */
        assert_in_range(
                after_the_end_ms, HELD_MS - 50 - (answered_ms - begun_ms), ended_ms - asked_ms);
    expect(f->channel, &echo, "c", "", "c");
    assert_int_equal(kz_rpc_silent_ms(f->channel), 0);
}

/* RESOURCE_EXHAUSTED is one, though the call waits to be sent again. */
static void test_a_refusal_ends_the_silence(void **state)
{
    enum { SLOWED_MS = 2000 };
    struct fixture *f = *state;
    const struct kz_rpc_options script = {.method = "/peer/Script", .timeout_ms = WAIT_MS};
    Kizashi__Rpc__Any slowed = any("8+2000 0", "silence");
    struct waiting w = WAITING;
    const int64_t asked_ms = kz_mono_ms();
    int64_t silent_ms;

    kz_rpc_start(f->channel, &script, &slowed.base, ANY, on_answer, &w);
    while (!stats_of(f).retries) {
        assert_true(kz_mono_ms() - asked_ms < WAIT_MS);
        pause_ms(5);
    }
    silent_ms = kz_rpc_silent_ms(f->channel);
    if (kz_mono_ms() - asked_ms < SLOWED_MS) /* else it may have been sent again */
        assert_int_equal(silent_ms, 0);
    wait_for(&w, 1);
    assert_int_equal(w.ok, 1);
}

static void test_what_was_asked_of_a_suspended_peer_is_silence(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options echo = {.method = "/peer/Echo", .timeout_ms = 300};
    Kizashi__Rpc__Any *answer = NULL;
    int64_t asked_ms, silent_ms;

    expect(f->channel, &(struct kz_rpc_options){.method = "/peer/Echo"}, "a", "", "a");
    kill(f->peer.pid, SIGSTOP);
    asked_ms = kz_mono_ms();
    assert_int_equal(call(f->channel, &echo, "", "", &answer, NULL), KZ_TIMEOUT);
    kill(f->peer.pid, SIGCONT);
    silent_ms = kz_rpc_silent_ms(f->channel);
    assert_in_range(silent_ms, 250, kz_mono_ms() - asked_ms);
}

/* Credentials that gRPC takes without asking anybody: the handshake fails before they are used. */
static void use_made_up_credentials(char path[64])
{
    static const char text[] = "{\"type\": \"authorized_user\", \"client_id\": \"a\", "
                               "\"client_secret\": \"b\", \"refresh_token\": \"c\"}";
    int fd;

    snprintf(path, 64, "/tmp/kz-rpc-test-XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
    close(fd);
    setenv("GOOGLE_APPLICATION_CREDENTIALS", path, 1);
}

static void test_tls_to_what_is_no_tls(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_target target = {.endpoint = f->peer.address, .emulator = ""};
    const struct kz_rpc_options options = {.method = "/peer/Echo", .timeout_ms = 10 * WAIT_MS};
    KZ_AUTO(kz_rpc_channel_closep) struct kz_rpc_channel *channel = NULL;
    const int64_t before_ms = kz_mono_ms();
    Kizashi__Rpc__Any *answer = NULL;
    char path[64];

    use_made_up_credentials(path);
    assert_int_equal(kz_rpc_connect(f->rpc, &target, &channel, NULL), KZ_OK);
    assert_int_equal(call(channel, &options, "", "", &answer, NULL), KZ_UNAVAILABLE);
    assert_true(kz_mono_ms() - before_ms < WAIT_MS);
    unsetenv("GOOGLE_APPLICATION_CREDENTIALS");
    unlink(path);
}

static void test_no_credentials(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_target target = {.endpoint = f->peer.address};
    struct kz_rpc_channel *channel = NULL;
    struct kz_err err;

    setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json", 1);
    setenv("NO_GCE_CHECK", "true", 1); /* of gRPC: there is no metadata server to wait for */
    setenv("HOME", "/nowhere", 1);
    assert_int_equal(kz_rpc_connect(f->rpc, &target, &channel, &err), KZ_UNAUTHENTICATED);
    assert_string_equal(err.message,
            "no credentials for Google Cloud: GOOGLE_APPLICATION_CREDENTIALS names "
            "\"/nowhere/key.json\": No such file or directory");
    assert_non_null(strstr(err.hint, "gcloud auth application-default login"));
    assert_non_null(strstr(err.hint, "BIGTABLE_EMULATOR_HOST")); /* its end: nothing is cut off */
    unsetenv("GOOGLE_APPLICATION_CREDENTIALS");
    assert_int_equal(kz_rpc_connect(f->rpc, &target, &channel, &err), KZ_UNAUTHENTICATED);
    assert_string_equal(err.message,
            "no credentials for Google Cloud: GOOGLE_APPLICATION_CREDENTIALS is not set, gcloud has "
            "left none in \"/nowhere/.config/gcloud/application_default_credentials.json\", and no "
            "service account is attached to this machine");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_nothing_is_loaded_before_the_first_open),
            WITH_PEER(test_echo),
            WITH_PEER(test_metadata),
            WITH_PEER(test_statuses),
            WITH_PEER(test_what_is_tried_again),
            WITH_PEER(test_retry_info),
            cmocka_unit_test(test_retry_info_is_foreign),
            WITH_PEER(test_deadline),
            WITH_PEER(test_answers_that_are_none),
            WITH_PEER(test_receive_limit),
            WITH_PEER(test_connections),
            WITH_PEER(test_callbacks),
            WITH_PEER(test_closing_a_channel_ends_its_calls),
            WITH_PEER(test_many_threads),
            WITH_PEER(test_connection_refused),
            WITH_PEER(test_wait_for_ready_until_the_peer_is_there),
            WITH_PEER(test_peer_killed_under_a_call),
            WITH_PEER(test_peer_killed_and_back),
            WITH_PEER(test_peer_suspended),
            WITH_PEER(test_silence_is_counted_from_the_last_answer),
            WITH_PEER(test_a_refusal_ends_the_silence),
            WITH_PEER(test_what_was_asked_of_a_suspended_peer_is_silence),
            WITH_PEER(test_tls_to_what_is_no_tls),
            WITH_PEER(test_no_credentials),
    };

    if (argc == 3 && strcmp(argv[1], "--peer") == 0)
        peer_main(atoi(argv[2]));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
