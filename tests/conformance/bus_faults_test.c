/* The Pub/Sub bus while its service is stopped, gone, or back without what it kept: on an emulator
 * of the test's own, so that nobody else's is touched.
 *
 * The emulator keeps everything in memory. What was acknowledged to a publisher and not pulled yet
 * is lost with it, as it never is with the service; so where it is killed the tests look at what
 * the bus says and whether it goes on by itself, and only where it is stopped at whether all
 * arrives.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bus_rig.h"
#include "codec/json.h"
#include "free_port.h"

extern char **environ;

/* ---- an emulator ----------------------------------------------------------------------------- */

static struct {
    char program[512];
    unsigned port;
    char host[32]; /* 127.0.0.1:port */
    pid_t pid;     /* leader of its group; 0: not running */
} emulator;

/* The program, as tools/with-emulators found it; false: there is none. */
static bool find_emulator(void)
{
    const char *commands = getenv("KZ_EMULATOR_COMMANDS"), *ci = getenv("CI");
    struct kz_json_value root, command, program;
    struct kz_json_walk walk;
    struct kz_buf text = {0};

    if (commands && kz_json_parse(kz_str(commands), 0, &root, NULL) == KZ_OK) {
        command = kz_json_get(root, "pubsub");
        walk = kz_json_walk(command);
        if (kz_json_walk_element(&walk, &program) && program.kind == KZ_JSON_STRING)
            kz_json_unescape(program, &text);
    }
    snprintf(
            emulator.program, sizeof(emulator.program), KZ_STR_FMT, KZ_STR_ARG(kz_buf_view(&text)));
    kz_buf_done(&text);
    if (!emulator.program[0] && ci && strcmp(ci, "true") == 0)
        fail_msg("no Pub/Sub emulator: run this below tools/with-emulators");
    return emulator.program[0];
}

static void start_emulator(void)
{
    char host[] = "--host=127.0.0.1", port[32];
    char *argv[] = {emulator.program, host, port, NULL};
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;

    snprintf(port, sizeof(port), "--port=%u", emulator.port);
    setenv("JAVA_OPTS", "-Xms32m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1", 1);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    assert_int_equal(
            posix_spawn(&emulator.pid, emulator.program, &actions, &attributes, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
}

static bool listens(void)
{
    const struct sockaddr_in address = {.sin_family = AF_INET,
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
            .sin_port = htons((uint16_t)emulator.port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool there = connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0;

    close(fd);
    return there;
}

/* On a port of its own: another process may have taken the one that was free. */
static void start_emulator_anew(void)
{
    int64_t until_ms = kz_mono_ms() + 2 * DEADLINE_MS;

    do {
        if (!emulator.pid || waitpid(emulator.pid, NULL, WNOHANG) == emulator.pid) {
            emulator.port = (unsigned)free_port();
            start_emulator();
        }
        nanosleep(&(struct timespec){0, 50000000}, NULL);
    } while (!listens() && kz_mono_ms() < until_ms);
    assert_true(listens());
    snprintf(emulator.host, sizeof(emulator.host), "127.0.0.1:%u", emulator.port);
}

static void signal_emulator(int number)
{
    assert_true(emulator.pid > 0);
    assert_int_equal(kill(-emulator.pid, number), 0);
}

/* Returns once it stands still: its threads stop one after the other. */
static void stop_emulator(void)
{
    int status = 0;

    signal_emulator(SIGSTOP);
    assert_int_equal(waitpid(emulator.pid, &status, WUNTRACED), emulator.pid);
    assert_true(WIFSTOPPED(status));
}

static void kill_emulator(void)
{
    if (!emulator.pid)
        return;
    kill(-emulator.pid, SIGKILL);
    while (waitpid(emulator.pid, NULL, 0) < 0 && errno == EINTR)
        ;
    emulator.pid = 0;
}

/* A connection that found nobody tries again within a second, and until then a call fails at once. */
static void create(struct kz_bus *bus)
{
    int64_t until_ms = kz_mono_ms() + DEADLINE_MS;
    struct kz_err err;
    enum kz_code rc;

    while ((rc = bus->ops->create(bus, NULL, NULL, &err)) != KZ_OK && kz_mono_ms() < until_ms)
        nanosleep(&(struct timespec){0, 100000000}, NULL);
    rig_must(rc, &err);
}

/* ---- a rig on it ----------------------------------------------------------------------------- */

static int open_rig(void **state)
{
    struct rig *rig = rig_new(true);
    struct kz_pubsub_options options;
    struct kz_err err;

    *state = rig;
    if (!find_emulator())
        return 0;
    start_emulator_anew();
    rig_must(kz_rpc_open(&rig->rpc, &err), &err);
    options = rig_options(rig);
    options.emulator = emulator.host;
    options.publishing_max_bytes = 4 << 20;
    rig_must(kz_pubsub_open(&options, &rig->bus, &err), &err);
    create(rig->bus);
    return 0;
}

static int close_rig(void **state)
{
    if (emulator.pid)
        kill(-emulator.pid, SIGCONT);
    rig_close(state);
    kill_emulator();
    return 0;
}

/* Waits until `text` is in what stats call the problem ("": there is none). */
static void await_problem(struct kz_bus *bus, const char *text)
{
    int64_t until_ms = kz_mono_ms() + DEADLINE_MS;
    struct kz_bus_stats stats;

    for (;;) {
        bus->ops->stats(bus, &stats);
        if (text[0] ? strstr(stats.problem, text) != NULL : !stats.problem[0])
            return;
        if (kz_mono_ms() > until_ms)
            fail_msg("the problem is \"%s\", not \"%s\"", stats.problem, text);
        nanosleep(&(struct timespec){0, 20000000}, NULL);
    }
}

/* ---- stopped under load ---------------------------------------------------------------------- */

enum { LOAD_COUNT = 4000 };

struct load {
    struct kz_bus *bus;
    struct kz_bus_source *source;
    atomic_uint published, failed, seen_count;
    atomic_bool stop;
    bool kept[LOAD_COUNT];
    atomic_bool seen[LOAD_COUNT];
};

struct sent {
    struct load *load;
    unsigned number;
};

static void on_sent(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct sent *sent = arg;

    (void)err;
    sent->load->kept[sent->number] = code == KZ_OK;
    atomic_fetch_add(code == KZ_OK ? &sent->load->published : &sent->load->failed, 1);
    free(sent);
}

static void publish_load(void *arg)
{
    struct load *load = arg;

    for (unsigned i = 0; i < LOAD_COUNT && !load->stop; i++) {
        struct sent *sent = kz_malloc(sizeof(*sent));
        char text[400] = {0}, key[16];
        struct kz_bus_message message = {.data = {text, sizeof(text)}};

        *sent = (struct sent){load, i};
        memset(text, 'x', sizeof(text));
        text[snprintf(text, sizeof(text), "%u", i)] = ' ';
        snprintf(key, sizeof(key), "lane-%u", i % 16);
        message.key = kz_str(key);
        while (load->bus->ops->publish(load->bus, KZ_TOPIC_EVENTS, &message, 1, on_sent, sent,
                       NULL) == KZ_OVERLOADED)
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        nanosleep(&(struct timespec){0, 500000}, NULL);
    }
}

static void pull_load(void *arg)
{
    struct load *load = arg;

    while (!load->stop) {
        struct kz_bus_delivery *deliveries[64];
        size_t count = 0;

        if (load->source->ops->pull(load->source, deliveries, 64, 50, &count, NULL) != KZ_OK)
            continue;
        for (size_t i = 0; i < count; i++) {
            size_t at = 0;
            unsigned number = rig_number(deliveries[i], &at);

            if (number < LOAD_COUNT && !atomic_exchange(&load->seen[number], true))
                load->seen_count++;
        }
        load->source->ops->ack(load->source, deliveries, count);
    }
}

static void await_count(const atomic_uint *count, unsigned least)
{
    int64_t until_ms = kz_mono_ms() + 2 * DEADLINE_MS;

    while (*count < least) {
        if (kz_mono_ms() > until_ms)
            fail_msg("%u of %u", *count, least);
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    }
}

static void test_stopped_for_some_seconds_under_load_nothing_is_lost(void **state)
{
    struct rig *rig = RIG(state);
    struct load *load = kz_calloc(1, sizeof(*load));
    struct kz_thread publisher = {0}, puller = {0};
    struct kz_bus_stats stats;
    struct kz_err err;
    unsigned lost = 0;

    load->bus = rig->bus;
    load->source = rig_source(rig->bus, KZ_TOPIC_EVENTS, "process");
    rig_must(kz_thread_start(&puller, "pull", pull_load, load, &err), &err);
    rig_must(kz_thread_start(&publisher, "publish", publish_load, load, &err), &err);
    await_count(&load->seen_count, 300);
    stop_emulator();
    nanosleep(&(struct timespec){5, 0}, NULL); /* that long it is stopped */
    signal_emulator(SIGCONT);
    kz_thread_join(&publisher);
    await_count(&load->published, LOAD_COUNT - load->failed);
    assert_int_equal(load->failed, 0);
    await_count(&load->seen_count, load->published);
    load->stop = true;
    kz_thread_join(&puller);
    for (unsigned i = 0; i < LOAD_COUNT; i++)
        lost += load->kept[i] && !load->seen[i];
    assert_int_equal(lost, 0);
    rig->bus->ops->stats(rig->bus, &stats);
    assert_int_equal(stats.published, LOAD_COUNT);
    assert_int_equal(stats.publishing, 0);
    assert_int_equal(stats.held, 0);
    assert_string_equal(stats.problem, "");
    rig_end(load->source);
    free(load);
}

static void test_while_it_is_stopped_no_more_is_taken_than_may_be_under_way(void **state)
{
    enum { SIZE = 100000 };
    struct rig *rig = RIG(state);
    struct kz_bus *bus = rig->bus;
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_REQUESTS, "infer");
    struct load *load = kz_calloc(1, sizeof(*load));
    struct kz_buf text = {0};
    struct kz_bus_message message;
    struct kz_bus_stats stats;
    unsigned taken = 0;
    struct kz_err err;
    enum kz_code rc;

    load->bus = bus;
    memset(kz_buf_extend(&text, SIZE), 'x', SIZE);
    message = (struct kz_bus_message){.data = kz_buf_view(&text), .key = KZ_STR("lane-1")};
    stop_emulator();
    do {
        struct sent *sent = kz_malloc(sizeof(*sent));

        *sent = (struct sent){load, taken};
        rc = bus->ops->publish(bus, KZ_TOPIC_REQUESTS, &message, 1, on_sent, sent, &err);
        if (rc == KZ_OK)
            taken++;
        else
            free(sent);
    } while (rc == KZ_OK && taken < 1000);
    assert_int_equal(rc, KZ_OVERLOADED);
    assert_int_equal(taken, (4 << 20) / (SIZE + 38)); /* with what a message takes besides */
    bus->ops->stats(bus, &stats);
    assert_int_equal(stats.publishing, taken);
    assert_int_equal(load->published + load->failed, 0);
    signal_emulator(SIGCONT);
    await_count(&load->published, taken);
    assert_int_equal(load->failed, 0);
    rig_publish(bus, KZ_TOPIC_REQUESTS, &message, 1);
    for (unsigned i = 0; i <= taken; i++)
        rig_ack(source, rig_pull_one(source));
    rig_end(source);
    free(load);
    kz_buf_done(&text);
}

static void test_it_can_be_closed_while_it_is_stopped(void **state)
{
    struct rig *rig = RIG(state);
    struct kz_bus *bus = rig->bus;
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_REQUESTS, "infer");
    struct outcome outcome;
    int64_t before_ms;
    struct kz_err err;

    outcome_init(&outcome);
    rig_publish_text(bus, KZ_TOPIC_REQUESTS, "held");
    assert_true(rig_pull_one(source)->data.size == 4);
    stop_emulator();
    rig_must(bus->ops->publish(bus, KZ_TOPIC_REQUESTS,
                     &(struct kz_bus_message){.data = KZ_STR("late")}, 1, outcome_done, &outcome,
                     &err),
            &err);
    before_ms = kz_mono_ms();
    rig_end(source);
    bus->ops->close(bus);
    rig->bus = NULL;
    assert_true(kz_mono_ms() - before_ms < 25000); /* publishing gives up after 30 s */
    assert_int_equal(outcome.calls, 1);
    assert_int_equal(outcome.code, KZ_UNAVAILABLE);
    outcome_free(&outcome);
}

/* Where the connection itself hangs, nothing that is waited for ever comes. */
static void test_it_can_be_closed_where_nobody_answers(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct rig *rig = rig_new(true);
    struct kz_pubsub_options options;
    struct kz_bus_source *source;
    struct kz_bus_delivery *d;
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char host[32];
    int64_t before_ms;
    struct kz_err err;
    size_t count = 0;

    (void)state;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(fd, 16), 0); /* and never accept() */
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    snprintf(host, sizeof(host), "127.0.0.1:%u", ntohs(address.sin_port));
    rig_must(kz_rpc_open(&rig->rpc, &err), &err);
    options = rig_options(rig);
    options.emulator = host;
    rig_must(kz_pubsub_open(&options, &rig->bus, &err), &err);
    source = rig_source(rig->bus, KZ_TOPIC_REQUESTS, "infer");
    rig_must(source->ops->pull(source, &d, 1, 300, &count, &err), &err);
    assert_int_equal(count, 0);
    before_ms = kz_mono_ms();
    rig_end(source);
    rig->bus->ops->close(rig->bus);
    assert_true(kz_mono_ms() - before_ms < 25000);
    kz_rpc_close(rig->rpc);
    close(fd);
    free(rig);
}

/* ---- killed, and back without its topics ----------------------------------------------------- */

static enum kz_code publish_once(struct kz_bus *bus, enum kz_topic topic, struct kz_err *ret_err)
{
    struct outcome outcome;
    struct kz_err err;
    enum kz_code rc;

    outcome_init(&outcome);
    rig_must(bus->ops->publish(bus, topic, &(struct kz_bus_message){.data = KZ_STR("x")}, 1,
                     outcome_done, &outcome, &err),
            &err);
    rc = outcome_wait(&outcome);
    *ret_err = outcome.err;
    outcome_free(&outcome);
    return rc;
}

static enum kz_code await_pull_error(struct kz_bus_source *source, struct kz_err *err)
{
    int64_t until_ms = kz_mono_ms() + DEADLINE_MS;
    struct kz_bus_delivery *d;
    size_t count = 0;
    enum kz_code rc = KZ_OK;

    while (rc == KZ_OK && kz_mono_ms() < until_ms) {
        rc = source->ops->pull(source, &d, 1, 100, &count, err);
        assert_int_equal(count, 0);
    }
    return rc;
}

static void test_killed_and_back_it_says_what_is_missing_and_goes_on_once_it_is_there(void **state)
{
    struct rig *rig = RIG(state);
    struct kz_bus *bus = rig->bus;
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_REQUESTS, "infer");
    struct kz_bus_source *own = rig_source(bus, KZ_TOPIC_NEWS, NULL);
    struct kz_bus_delivery *d;
    int64_t until_ms;
    struct kz_err err;
    size_t count = 0;

    rig_publish_text(bus, KZ_TOPIC_REQUESTS, "before");
    d = rig_pull_one(source); /* held while its service goes: acknowledging it must do no harm */
    kill_emulator();
    await_problem(bus, emulator.host);
    assert_int_equal(source->ops->pull(source, &d, 0, 0, &count, &err), KZ_OK); /* that may pass */
    start_emulator();
    assert_int_equal(await_pull_error(source, &err), KZ_NOT_FOUND);
    assert_string_equal(err.message, ({
        static char text[200];

        snprintf(text, sizeof(text),
                "subscription \"kizashi-shop-requests-infer\" does not exist in project \"%s\"",
                rig->gcp_project);
        text;
    }));
    assert_non_null(strstr(err.hint, "kizashi gcp init DIR"));
    assert_int_equal(publish_once(bus, KZ_TOPIC_REQUESTS, &err), KZ_NOT_FOUND);
    assert_non_null(strstr(err.message, "topic \"kizashi-shop-requests\" does not exist"));
    assert_non_null(strstr(err.hint, "kizashi gcp init DIR"));
    await_problem(bus, "kizashi gcp init DIR");
    rig_ack(source, d);

    create(bus);
    rig_publish_text(bus, KZ_TOPIC_REQUESTS, "after");
    until_ms = kz_mono_ms() + DEADLINE_MS;
    count = 0;
    while (!count && kz_mono_ms() < until_ms)
        KZ_IGNORE(source->ops->pull(source, &d, 1, 100, &count, NULL)); /* until it has seen it */
    assert_int_equal(count, 1);
    assert_true(kz_str_is(d->data, "after"));
    rig_ack(source, d);
    /* It makes its own subscription again, which sees what is new from then on. */
    count = 0;
    while (!count && kz_mono_ms() < until_ms) {
        rig_publish_text(bus, KZ_TOPIC_NEWS, "news");
        KZ_IGNORE(own->ops->pull(own, &d, 1, 100, &count, NULL));
    }
    assert_int_equal(count, 1);
    rig_ack(own, d);
    await_problem(bus, "");
    rig_end(source);
    rig_end(own);
}

/* The emulator numbers acknowledgement ids from 1 again, so an old one would be another message's.
 */
static void test_what_was_held_before_cannot_acknowledge_what_came_after(void **state)
{
    enum { COUNT = 3 };
    struct rig *rig = RIG(state);
    struct kz_bus *bus = rig->bus;
    struct kz_bus_source *source = rig_source(bus, KZ_TOPIC_REQUESTS, "infer");
    struct kz_bus_delivery *old[COUNT], *new[COUNT];
    int64_t until_ms;
    struct kz_err err;
    size_t have = 0, more;

    for (unsigned i = 0; i < COUNT; i++)
        rig_publish_text(bus, KZ_TOPIC_REQUESTS, "old");
    assert_int_equal(rig_pull(source, old, COUNT, DEADLINE_MS), COUNT);
    kill_emulator();
    start_emulator();
    assert_int_equal(await_pull_error(source, &err), KZ_NOT_FOUND);
    create(bus);
    for (unsigned i = 0; i < COUNT; i++)
        rig_publish_text(bus, KZ_TOPIC_REQUESTS, "new");
    for (until_ms = kz_mono_ms() + DEADLINE_MS; have < COUNT && kz_mono_ms() < until_ms;
            have += more) {
        more = 0;
        KZ_IGNORE(source->ops->pull(source, new + have, COUNT - have, 100, &more, NULL));
    }
    assert_int_equal(have, COUNT);
    source->ops->ack(source, old, COUNT);
    rig_end(source); /* which sends the last acknowledgements */
    source = rig_source(bus, KZ_TOPIC_REQUESTS, "infer");
    assert_int_equal(rig_pull(source, new, COUNT, DEADLINE_MS), COUNT);
    for (unsigned i = 0; i < COUNT; i++)
        assert_true(kz_str_is(new[i]->data, "new"));
    source->ops->ack(source, new, COUNT);
    rig_end(source);
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, open_rig, close_rig)
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_it_can_be_closed_where_nobody_answers),
            T(test_stopped_for_some_seconds_under_load_nothing_is_lost),
            T(test_while_it_is_stopped_no_more_is_taken_than_may_be_under_way),
            T(test_it_can_be_closed_while_it_is_stopped),
            T(test_what_was_held_before_cannot_acknowledge_what_came_after),
            T(test_killed_and_back_it_says_what_is_missing_and_goes_on_once_it_is_there),
    };

    return cmocka_run_group_tests_name("bus on Pub/Sub, its service failing", tests, NULL, NULL);
}
