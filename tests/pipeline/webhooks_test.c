/* Webhooks: a receiver that does not answer beside one that does; a decision that is not there. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../retention/rig.h"
#include "sys/clock.h"

enum { USERS = 300, DEADLINE_MS = 120000 };

#define WEBHOOK(n)                                                                                 \
    {                                                                                              \
        .name = n, .mode = KZ_MODE_ON, .when = "counter.score >= 1",                               \
        .schedule = {.weekdays = 0x7f, .end_minute = 1440, .tz = "UTC"},                           \
        .deliver = {.kind = KZ_DELIVER_WEBHOOK,                                                    \
                .payload_json = "{}",                                                              \
                .timeout_ms = 600000,                                                              \
                .attempts_max = 8,                                                                 \
                .valid_for_ms = DAY},                                                              \
    }
static struct kz_action_def actions[] = {WEBHOOK("silent"), WEBHOOK("well")};

struct receiver {
    int fd;
    char url[64];
    pthread_t thread;
    atomic_int posts;
};

/* Connections are taken by the kernel; nobody ever reads from them. */
static void listen_at(struct receiver *r)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(at);

    r->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(r->fd >= 0);
    assert_int_equal(bind(r->fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(r->fd, 1024), 0);
    assert_int_equal(getsockname(r->fd, (struct sockaddr *)&at, &size), 0);
    snprintf(r->url, sizeof(r->url), "http://127.0.0.1:%u/", ntohs(at.sin_port));
}

/* A whole request, whose body ends the JSON object. */
static bool read_post(int fd)
{
    char text[8192];
    size_t size = 0;

    while (size < sizeof(text) - 1) {
        ssize_t n = read(fd, text + size, sizeof(text) - 1 - size);

        if (n <= 0)
            return false;
        size += (size_t)n;
        text[size] = '\0';
        if (strstr(text, "\r\n\r\n") && strstr(text, "\"payload\":{}}"))
            return true;
    }
    return false;
}

static void *answer(void *arg)
{
    static const char text[] = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
    struct receiver *r = arg;
    int fd;

    while ((fd = accept(r->fd, NULL, NULL)) >= 0) {
        if (read_post(fd) && write(fd, text, sizeof(text) - 1) > 0)
            atomic_fetch_add(&r->posts, 1);
        close(fd);
    }
    return NULL;
}

static void begin(struct rig *rig, const char *first_url, const char *second_url)
{
    *rig = (struct rig){.project = support_project, .ask = true, .real_clock = true};
    actions[0].deliver.url = first_url;
    actions[1].deliver.url = second_url;
    rig->project.actions = actions;
    rig->project.action_count = KZ_ARRAY_COUNT(actions);
    rig->fs = kz_fs_sim_new(1);
    rig_open(rig);
}

static void end(struct rig *rig)
{
    rig_close(rig);
    kz_fs_sim_free(rig->fs);
}

static void a_receiver_that_hangs_does_not_hold_up_another(void **state)
{
    int64_t until_ms = kz_mono_ms() + DEADLINE_MS;
    struct receiver silent = {0}, well = {0};
    struct rig rig;
    char user[16];

    (void)state;
    listen_at(&silent);
    listen_at(&well);
    begin(&rig, silent.url, well.url);
    assert_int_equal(pthread_create(&well.thread, NULL, answer, &well), 0);
    for (int i = 0; i < USERS; i++) {
        snprintf(user, sizeof(user), "u%d", i);
        rig_send(&rig, (struct sent){.user_id = user, .name = "view"});
    }
    while (rig_counters(&rig).deliveries_sent_total < USERS && kz_mono_ms() < until_ms) {
        kz_pipeline_turn(rig.p);
        usleep(1000); /* until a condition, with a deadline */
    }
    assert_int_equal(rig_counters(&rig).deliveries_sent_total, USERS);
    assert_true(atomic_load(&well.posts) >= USERS);
    assert_int_equal(rig_counters(&rig).deliveries_failed_total, 0);
    /* Those that wait for a place of the silent one are no timers that come due again and again. */
    assert_int_equal(rig_counters(&rig).timers_set, 2 * USERS); /* each one's expiry */
    end(&rig);
    shutdown(well.fd, SHUT_RDWR);
    pthread_join(well.thread, NULL);
    close(well.fd);
    close(silent.fd);
}

static enum kz_code get_fails(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    (void)reader, (void)lsn, (void)owner, (void)out;
    return kz_fail(err, KZ_IO, "a bad sector");
}

static void a_decision_that_cannot_be_read_ends_as_a_dead_letter(void **state)
{
    int64_t until_ms = kz_mono_ms() + DEADLINE_MS;
    struct kz_history_reader_ops ops;
    const struct kz_history_reader_ops *whole;
    struct rig rig;

    (void)state;
    begin(&rig, "http://127.0.0.1:9/", "http://127.0.0.1:9/");
    whole = rig.p->reader->ops;
    ops = *whole;
    ops.get = get_fails;
    rig.p->reader->ops = &ops;
    rig_send(&rig, (struct sent){.user_id = "ada", .name = "view"});
    while (rig_counters(&rig).deliveries_given_up_total < 2 && kz_mono_ms() < until_ms)
        kz_pipeline_turn(rig.p);
    rig.p->reader->ops = whole;
    assert_int_equal(rig_counters(&rig).deliveries_given_up_total, 2);
    assert_int_equal(kz_views_stats(rig.p->views).waiting_deliveries, 0);
    assert_int_equal(kz_views_dead_letter_count(rig.p->views), 2);
    rig_again(&rig, true);
    assert_int_equal(kz_views_stats(rig.p->views).waiting_deliveries, 0);
    end(&rig);
}

static bool has(struct kz_str text, const char *part)
{
    return memmem(text.ptr, text.size, part, strlen(part)) != NULL;
}

/* The project was changed while a receiver was down. */
static void a_webhook_that_the_project_has_no_more_ends_as_a_dead_letter(void **state)
{
    int64_t until_ms = kz_mono_ms() + DEADLINE_MS;
    struct kz_buf letter = {0};
    struct kz_dead_letter place;
    struct kz_str text;
    int well = 0, silent = 0;
    struct rig rig;

    (void)state;
    begin(&rig, "http://127.0.0.1:9/", "http://127.0.0.1:9/");
    rig_send(&rig, (struct sent){.user_id = "ada", .name = "view"});
    while (rig_counters(&rig).deliveries_failed_total < 2 && kz_mono_ms() < until_ms)
        kz_pipeline_turn(rig.p);
    rig_close(&rig);
    rig.project.action_count = 1;
    actions[0].deliver.kind = KZ_DELIVER_WEB;
    rig_open(&rig);
    while (rig_counters(&rig).deliveries_given_up_total < 2 && kz_mono_ms() < until_ms)
        kz_pipeline_turn(rig.p);
    actions[0].deliver.kind = KZ_DELIVER_WEBHOOK;
    assert_int_equal(rig_counters(&rig).deliveries_given_up_total, 2);
    kz_pipeline_turn(rig.p);
    assert_int_equal(kz_views_stats(rig.p->views).waiting_deliveries, 0);
    assert_int_equal(kz_views_dead_letter_count(rig.p->views), 2);
    for (size_t i = 0; i < 2; i++) {
        place = *kz_views_dead_letter_at(rig.p->views, i);
        assert_int_equal(
                rig.p->reader->ops->get(rig.p->reader, place.lsn, place.owner, &letter, NULL),
                KZ_OK);
        text = kz_record_body((const void *)letter.data);
        assert_true(has(text, "the project has no such webhook any more"));
        well += has(text, "{\"action\":\"well\"");
        silent += has(text, "{\"action\":\"silent\"");
    }
    assert_int_equal(well, 1);
    assert_int_equal(silent, 1);
    kz_buf_done(&letter);
    rig_again(&rig, true);
    assert_int_equal(kz_views_stats(rig.p->views).waiting_deliveries, 0);
    end(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_receiver_that_hangs_does_not_hold_up_another),
            cmocka_unit_test(a_decision_that_cannot_be_read_ends_as_a_dead_letter),
            cmocka_unit_test(a_webhook_that_the_project_has_no_more_ends_as_a_dead_letter),
    };

    (void)rig_upkeep, (void)rig_wait; /* of other tests */
    kz_diag_set(KZ_DIAG_ERROR - 1, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
