/* A loop turn: who goes first, and that bulk which waits is neither lost nor overtaken by its own. */
#include "sys/http_rig.h"

enum { BULK_BYTES = 8192, CLIENTS = 4 };

/* One bulk request a turn, and clients that are accepted. */
static void rig_up_slow(struct rig *rig, int fds[CLIENTS])
{
    struct kz_http_options options = kz_http_options_default();

    options.bulk_turn_us = 0;
    rig_up(rig, &options);
    for (int i = 0; i < CLIENTS; i++)
        fds[i] = dial(rig);
    TURN_UNTIL(rig, kz_http_server_counters(rig->server)->connections_open == CLIENTS);
}

/* Into the kernel's buffers, without a turn of the loop. `name` is what rig->order will show. */
static void post(int fd, char name, size_t size)
{
    struct kz_buf text = {0};

    kz_buf_printf(&text, "POST /%c HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", name, size);
    for (size_t i = 0; i < size; i++)
        kz_buf_printf(&text, "%c", name);
    assert_int_equal(send(fd, text.data, text.size, MSG_NOSIGNAL), text.size);
    kz_buf_done(&text);
}

static void short_requests_go_first_and_bulk_takes_turns(void **state)
{
    struct rig rig;
    int fds[CLIENTS];

    (void)state;
    rig_up_slow(&rig, fds);
    for (int i = 0; i < 3; i++)
        post(fds[i], (char)('A' + i), BULK_BYTES);
    post(fds[3], 'x', 10);
    turn(&rig);
    assert_int_equal(rig.order[0], 'x');
    assert_int_equal(rig.handled, 2);
    post(fds[3], 'y', 10);
    TURN_UNTIL(&rig, rig.handled >= 3);
    assert_int_equal(rig.order[2], 'y');
    TURN_UNTIL(&rig, rig.handled == 5);
    /* Each was committed by itself, and the short one before the bulk of its turn. */
    assert_int_equal(rig.batches, 5);
    for (int i = 0; i < 3; i++)
        hear_times(&rig, fds[i], "HTTP/1.1 200", 1);
    hear_times(&rig, fds[3], "HTTP/1.1 200", 2);
    for (int i = 0; i < CLIENTS; i++)
        close(fds[i]);
    rig_down(&rig);
}

static void a_connection_s_own_requests_stay_in_order(void **state)
{
    struct rig rig;
    int fds[CLIENTS];

    (void)state;
    rig_up_slow(&rig, fds);
    for (const char *name = "AxByzC"; *name; name++)
        post(fds[0], *name, *name >= 'x' ? 10 : BULK_BYTES);
    post(fds[1], 'D', BULK_BYTES);
    hear_times(&rig, fds[0], "HTTP/1.1 200", 6);
    hear_times(&rig, fds[1], "HTTP/1.1 200", 1);
    for (const char *name = "AxByzC", *at = rig.order; *name; name++, at++)
        assert_non_null(at = strchr(at, *name));
    for (int i = 0; i < CLIENTS; i++)
        close(fds[i]);
    rig_down(&rig);
}

/* The loop that turns for ever would not be seen by turns that do not wait. */
static void a_loop_without_bulk_sleeps(struct rig *rig)
{
    assert_true(uv_backend_timeout(&rig->loop) != 0);
}

static void bulk_whose_client_has_left_holds_nothing_up(void **state)
{
    struct linger reset = {.l_onoff = 1};
    struct rig rig;
    int fds[CLIENTS];

    (void)state;
    rig_up_slow(&rig, fds);
    for (int i = 0; i < CLIENTS; i++)
        post(fds[i], (char)('A' + i), BULK_BYTES);
    turn(&rig);
    assert_int_equal(rig.handled, 1);
    /* All but whose turn has come: one has said all and waits, one leaves, one cuts. */
    for (int i = 0, n = 0; i < CLIENTS; i++) {
        if (rig.order[0] == 'A' + i)
            continue;
        if (n == 0)
            shutdown(fds[i], SHUT_WR);
        else if (n == 1)
            shutdown(fds[i], SHUT_RDWR);
        else if (setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0)
            close(fds[i]);
        if (n++ == 0)
            hear_close(&rig, fds[i]);
        else if (n == 2)
            close(fds[i]);
    }
    assert_heard(&rig, "HTTP/1.1 200");
    TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->connections_open == 1);
    assert_in_range(rig.handled, 2, 4);
    turn(&rig);
    a_loop_without_bulk_sleeps(&rig);
    close(fds[rig.order[0] - 'A']);
    rig_down(&rig);
}

static void bulk_that_waits_at_a_stop_is_answered(void **state)
{
    struct rig rig;
    int fds[CLIENTS];

    (void)state;
    rig_up_slow(&rig, fds);
    for (int i = 0; i < CLIENTS; i++)
        post(fds[i], (char)('A' + i), BULK_BYTES);
    turn(&rig);
    assert_int_equal(rig.handled, 1);
    kz_http_server_stop(rig.server, WAIT_MS, on_drained, &rig);
    for (int i = 0; i < CLIENTS; i++) {
        hear_close(&rig, fds[i]);
        assert_heard(&rig, "HTTP/1.1 200");
    }
    TURN_UNTIL(&rig, rig.drained);
    assert_int_equal(rig.handled, CLIENTS);
    assert_int_equal(rig.unanswered, 0);
    rig_down(&rig);
}

static void bulk_that_is_cut_at_a_stop_s_deadline_frees_the_loop(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    struct rig rig;
    int fd;

    (void)state;
    options.bulk_turn_us = 0;
    rig_up(&rig, &options);
    fd = dial(&rig);
    TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->connections_open == 1);
    for (const char *name = "AB"; *name; name++)
        post(fd, *name, BULK_BYTES);
    kz_http_server_stop(rig.server, 0, on_drained, &rig);
    TURN_UNTIL(&rig, rig.drained);
    close(fd);
    rig_down(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(short_requests_go_first_and_bulk_takes_turns),
            cmocka_unit_test(a_connection_s_own_requests_stay_in_order),
            cmocka_unit_test(bulk_whose_client_has_left_holds_nothing_up),
            cmocka_unit_test(bulk_that_waits_at_a_stop_is_answered),
            cmocka_unit_test(bulk_that_is_cut_at_a_stop_s_deadline_frees_the_loop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
