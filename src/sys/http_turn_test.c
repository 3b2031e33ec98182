/* A loop turn: who goes first, and that bulk which waits is neither lost nor overtaken by its own. */
#include "sys/http_rig.h"
#include "sys/random.h"

#include <signal.h>

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

/* One client, that is accepted. */
static int rig_up_one(struct rig *rig, const struct kz_http_options *options)
{
    int fd;

    rig_up(rig, options);
    fd = dial(rig);
    TURN_UNTIL(rig, kz_http_server_counters(rig->server)->connections_open == 1);
    return fd;
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
    fd = rig_up_one(&rig, &options);
    for (const char *name = "AB"; *name; name++)
        post(fd, *name, BULK_BYTES);
    kz_http_server_stop(rig.server, 0, on_drained, &rig);
    TURN_UNTIL(&rig, rig.drained);
    close(fd);
    rig_down(&rig);
}

static void tell(int fd, const struct kz_buf *text)
{
    assert_int_equal(send(fd, text->data, text->size, MSG_NOSIGNAL), text->size);
}

static void put_bytes(struct kz_buf *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        kz_buf_char(text, 'b');
}

static void cut(int fd)
{
    struct linger reset = {.l_onoff = 1};

    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
    close(fd);
}

/* A connection that says nothing more at all has still said these. */
static void requests_behind_bulk_count_although_their_client_has_left(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        struct rig rig;
        int fds[CLIENTS];

        rig_up_slow(&rig, fds);
        post(fds[0], 'A', BULK_BYTES);
        post(fds[0], 'x', 10);
        if (how == 0) {
            post(fds[0], 'B', BULK_BYTES);
            post(fds[0], 'y', 10);
            shutdown(fds[0], SHUT_WR);
        } else if (how == 1) {
            close(fds[0]);
        } else {
            cut(fds[0]);
        }
        TURN_UNTIL(&rig, rig.handled >= (how ? 2 : 4));
        assert_string_equal(rig.order, how ? "Ax" : "AxBy");
        if (how == 0) {
            hear_close(&rig, fds[0]);
            assert_int_equal(times(&rig, "HTTP/1.1 200"), 4);
        }
        TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->connections_open == CLIENTS - 1);
        a_loop_without_bulk_sleeps(&rig);
        for (int i = 1; i < CLIENTS; i++)
            close(fds[i]);
        rig_down(&rig);
    }
}

/* An answer that was written made room for the next of its connection, after the turn's bulk. */
static void bulk_that_is_parked_late_in_a_turn_does_not_sleep(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    struct rig rig;
    int fd;

    (void)state;
    options.output_pause_bytes = 1000;
    fd = rig_up_one(&rig, &options);
    post(fd, 'A', 5000);
    post(fd, 'B', 5000); /* with the other in one block */
    TURN_UNTIL(&rig, rig.handled == 1);
    assert_int_equal(uv_backend_timeout(&rig.loop), 0);
    turn(&rig);
    assert_int_equal(rig.handled, 2);
    hear_times(&rig, fd, "HTTP/1.1 200", 2);
    a_loop_without_bulk_sleeps(&rig);
    close(fd);
    rig_down(&rig);
}

static void a_client_that_has_sent_its_bulk_is_not_told_to_go_on(void **state)
{
    struct kz_buf text = {0};
    struct rig rig;
    int fds[CLIENTS];

    (void)state;
    rig_up_slow(&rig, fds);
    kz_buf_printf(&text, "POST /defer HTTP/1.1\r\nHost: x\r\n\r\nPOST /A HTTP/1.1\r\nHost: x\r\n"
                         "Expect: 100-continue\r\nContent-Length: 8000\r\n\r\n");
    put_bytes(&text, 8000);
    for (int i = 0; i < CLIENTS; i++)
        tell(fds[i], &text);
    turn(&rig);
    assert_int_equal(rig.deferred_count, CLIENTS);
    assert_int_equal(rig.handled, CLIENTS + 1);
    for (int i = 0; i < CLIENTS; i++)
        kz_http_respond(rig.deferred[i], 200, NULL, KZ_STR("done"), NULL, 0);
    for (int i = 0; i < CLIENTS; i++) {
        hear_times(&rig, fds[i], "HTTP/1.1 200", 2);
        assert_not_heard(&rig, "100 Continue");
        close(fds[i]);
    }
    kz_buf_done(&text);
    rig_down(&rig);
}

static void a_client_that_waits_for_100_with_its_bulk_gets_it_once(void **state)
{
    struct kz_buf body = {0};
    struct rig rig;
    int fds[CLIENTS];

    (void)state;
    rig_up_slow(&rig, fds);
    put_bytes(&body, 8000);
    say(&rig, fds[0],
            "POST /A HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            "Content-Length: 8000\r\n\r\n");
    hear_times(&rig, fds[0], "HTTP/1.1 100 Continue\r\n\r\n", 1);
    tell(fds[0], &body);
    hear_times(&rig, fds[0], "HTTP/1.1 200", 1);
    assert_not_heard(&rig, "100 Continue");
    assert_heard(&rig, "Content-Length: 8000\r\n");
    for (int i = 0; i < CLIENTS; i++)
        close(fds[i]);
    kz_buf_done(&body);
    rig_down(&rig);
}

static void chunked_bulk_is_whole_and_what_follows_it_too(void **state)
{
    struct kz_buf text = {0};
    struct rig rig;
    int fds[CLIENTS];

    (void)state;
    kz_buf_printf(&text, "POST /A HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 5; i++) {
        kz_buf_printf(&text, "3e8;ext=1\r\n");
        put_bytes(&text, 1000);
        kz_buf_printf(&text, "\r\n");
    }
    kz_buf_printf(&text,
            "0\r\nTrailer: t\r\n\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n"
            "POST /B HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1194\r\n");
    put_bytes(&text, 4500);
    kz_buf_printf(&text, "\r\n0\r\n\r\nGET /y HTTP/1.1\r\nHost: x\r\n\r\n");
    for (size_t step = 1; step < text.size; step = step * 3 + 1) {
        rig_up_slow(&rig, fds);
        post(fds[1], 'C', BULK_BYTES);
        for (size_t at = 0; at < text.size; at += step)
            say_n(&rig, fds[0], text.data + at, KZ_MIN(step, text.size - at));
        hear_times(&rig, fds[0], "HTTP/1.1 200", 4);
        assert_heard(&rig, "Content-Length: 5000\r\n");
        assert_heard(&rig, "Content-Length: 4500\r\n");
        for (const char *name = "AxBy", *at = rig.order; *name; name++, at++)
            assert_non_null(at = strchr(at, *name));
        for (int i = 0; i < CLIENTS; i++)
            close(fds[i]);
        rig_down(&rig);
    }
    kz_buf_done(&text);
}

static void a_client_that_goes_on_sending_takes_no_more_memory(void **state)
{
    enum { POSTS = 300 };
    struct kz_buf text = {0};
    struct rig rig;
    int fds[CLIENTS];
    uint64_t most = 0;

    (void)state;
    rig_up_slow(&rig, fds);
    for (int i = 0; i < POSTS; i++) {
        kz_buf_printf(&text, "POST /query?q=a HTTP/1.1\r\nHost: x\r\nContent-Length: 8192\r\n\r\n");
        put_bytes(&text, BULK_BYTES);
    }
    for (size_t at = 0; at < text.size; at += 60000) {
        for (int i = 0; i < CLIENTS; i++) {
            say_n(&rig, fds[i], text.data + at, KZ_MIN((size_t)60000, text.size - at));
            most = KZ_MAX(most, kz_http_server_counters(rig.server)->buffered_bytes);
        }
    }
    for (int i = 0; i < CLIENTS; i++)
        hear_times(&rig, fds[i], "HTTP/1.1 200", POSTS);
    assert_in_range(most, BULK_BYTES, CLIENTS * 5 * BULK_BYTES);
    for (int i = 0; i < CLIENTS; i++)
        close(fds[i]);
    kz_buf_done(&text);
    rig_down(&rig);
}

static void bulk_over_the_memory_limit_is_refused_and_room_returns(void **state)
{
    enum { MANY = 8 };
    struct kz_http_options options = kz_http_options_default();
    struct rig rig;
    int fds[MANY];
    size_t taken = 0, refused = 0;

    (void)state;
    options.bulk_turn_us = 0;
    options.buffered_max_bytes = 64 * 1024;
    rig_up(&rig, &options);
    for (int i = 0; i < MANY; i++)
        fds[i] = dial(&rig);
    TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->connections_open == MANY);
    for (int i = 0; i < MANY; i++)
        post(fds[i], (char)('A' + i), BULK_BYTES);
    for (int i = 0; i < MANY; i++) {
        hear_times(&rig, fds[i], "HTTP/1.1 ", 1);
        taken += times(&rig, "HTTP/1.1 200");
        refused += times(&rig, "HTTP/1.1 503");
    }
    assert_int_equal(taken + refused, MANY);
    assert_in_range(refused, 1, MANY - 2);
    assert_int_equal(rig.handled, taken);
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
    fds[0] = dial(&rig);
    post(fds[0], 'A', BULK_BYTES);
    hear_times(&rig, fds[0], "HTTP/1.1 200", 1);
    close(fds[0]);
    rig_down(&rig);
}

static void on_nothing(void *arg, struct kz_http_request *req)
{
    (void)arg;
    (void)req;
}

static void bulk_behind_a_stream_is_not_answered(void **state)
{
    struct rig rig;
    int fds[CLIENTS];

    (void)state;
    rig_up_slow(&rig, fds);
    for (int i = 0; i < CLIENTS; i++) {
        struct kz_buf text = {0};

        kz_buf_printf(&text, "GET /defer HTTP/1.1\r\nHost: x\r\n\r\n");
        tell(fds[i], &text);
        kz_buf_done(&text);
        post(fds[i], (char)('A' + i), BULK_BYTES);
    }
    turn(&rig);
    assert_int_equal(rig.deferred_count, CLIENTS);
    for (int i = 0; i < CLIENTS; i++) {
        kz_http_stream_begin(rig.deferred[i], 200, "text/plain", NULL, 0, on_nothing, NULL);
        assert_int_equal(kz_http_stream_write(rig.deferred[i], KZ_STR("flows")), KZ_OK);
        kz_http_stream_end(rig.deferred[i]);
    }
    for (int i = 0; i < CLIENTS; i++) {
        hear_close(&rig, fds[i]);
        assert_int_equal(times(&rig, "HTTP/1.1 200"), 1);
        assert_heard(&rig, "flows\r\n0\r\n\r\n");
    }
    TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->connections_open == 0);
    rig_down(&rig);
}

static void bulk_that_closes_is_the_last(void **state)
{
    struct kz_buf text = {0};
    struct rig rig;
    int fds[CLIENTS];

    (void)state;
    rig_up_slow(&rig, fds);
    kz_buf_printf(&text,
            "POST /A HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9000\r\n\r\n");
    put_bytes(&text, 9000);
    tell(fds[0], &text);
    post(fds[0], 'x', 10);
    post(fds[0], 'B', BULK_BYTES);
    hear_close(&rig, fds[0]);
    assert_string_equal(rig.order, "A");
    assert_int_equal(times(&rig, "HTTP/1.1 "), 1);
    assert_heard(&rig, "Connection: close\r\n");
    for (int i = 1; i < CLIENTS; i++)
        close(fds[i]);
    kz_buf_done(&text);
    rig_down(&rig);
}

/* false: the machine was elsewhere before the loop was, while clients had yet to say what they want. */
static bool bulk_waits_while_the_loop_is_elsewhere(void)
{
    enum { TIMEOUT_MS = 100 };
    struct kz_http_options options = kz_http_options_default();
    uint64_t from = now_ms();
    struct rig rig;
    int fds[CLIENTS];
    bool in_time;

    options.bulk_turn_us = 0;
    options.request_timeout_ms = options.idle_timeout_ms = TIMEOUT_MS;
    rig_up(&rig, &options);
    for (int i = 0; i < CLIENTS; i++) {
        fds[i] = dial(&rig);
        post(fds[i], (char)('A' + i), BULK_BYTES);
    }
    while (kz_http_server_counters(rig.server)->requests_open != CLIENTS - 1 &&
            now_ms() - from < TIMEOUT_MS)
        turn(&rig);
    in_time = now_ms() - from < TIMEOUT_MS;
    usleep((TIMEOUT_MS + 20) * 1000); /* the loop is elsewhere for longer than a request may take */
    for (int i = 0; i < CLIENTS; i++) {
        hear_close(&rig, fds[i]);
        assert_true(!in_time || times(&rig, "HTTP/1.1 200") == 1);
    }
    assert_true(!in_time || kz_http_server_counters(rig.server)->request_timeouts == 0);
    rig_down(&rig);
    return in_time;
}

static void bulk_that_waits_is_not_taken_for_a_slow_sender(void **state)
{
    (void)state;
    for (int tries = 0; tries < 50; tries++)
        if (bulk_waits_while_the_loop_is_elsewhere())
            return;
    skip(); /* too busy a machine: the clients were never there in time */
}

static void short_requests_without_end_do_not_starve_bulk(void **state)
{
    struct rig rig;
    int fds[CLIENTS];
    int turns = 0;

    (void)state;
    rig_up_slow(&rig, fds);
    for (int i = 0; i < 3; i++)
        post(fds[i], (char)('A' + i), BULK_BYTES);
    while (kz_http_server_counters(rig.server)->requests_total < (uint64_t)turns + 3) {
        assert_in_range(turns, 0, 4);
        post(fds[3], 'x', 10);
        turn(&rig);
        turns++;
    }
    hear_times(&rig, fds[3], "HTTP/1.1 200", (size_t)turns);
    for (int i = 0; i < CLIENTS; i++)
        close(fds[i]);
    rig_down(&rig);
}

/* ---- all of it at random ---- */

struct client {
    int fd;
    struct kz_buf script;
    size_t said, requests, answers;
    bool left;
};

static void write_script(struct client *client, struct kz_prng *dice)
{
    struct kz_buf *text = &client->script;

    client->requests = 1 + kz_prng_below(dice, 10);
    for (size_t i = 0; i < client->requests; i++) {
        size_t size = kz_prng_below(dice, 3) ? kz_prng_below(dice, 60) : kz_prng_below(dice, 9000);
        bool chunked = kz_prng_below(dice, 3) == 0;

        kz_buf_printf(text, "POST /%s HTTP/1.1\r\nHost: x\r\n",
                kz_prng_below(dice, 3) ? "query?q=a" : "defer");
        if (kz_prng_below(dice, 5) == 0)
            kz_buf_printf(text, "Expect: 100-continue\r\n");
        if (!chunked) {
            kz_buf_printf(text, "Content-Length: %zu\r\n\r\n", size);
            put_bytes(text, size);
            continue;
        }
        kz_buf_printf(text, "Transfer-Encoding: chunked\r\n\r\n");
        while (size > 0) {
            size_t piece = 1 + kz_prng_below(dice, size);

            kz_buf_printf(text, "%zx\r\n", piece);
            put_bytes(text, piece);
            kz_buf_printf(text, "\r\n");
            size -= piece;
        }
        kz_buf_printf(text, "0\r\n\r\n");
    }
}

static void listen_to(struct rig *rig, struct client *client)
{
    int n;

    if (client->left)
        return;
    kz_buf_clear(&rig->heard);
    while ((n = hear(rig, client->fd)) > 0)
        ;
    client->answers += times(rig, "HTTP/1.1 200"); /* loopback does not tear what is so short */
    if (n < 0 && client->answers < client->requests)
        fail_msg("closed after %zu of %zu answers", client->answers, client->requests);
}

static void step(struct rig *rig, struct client *client, struct kz_prng *dice)
{
    size_t left = client->script.size - client->said;

    switch (client->left ? 5 : kz_prng_below(dice, 60)) {
    case 0:
        cut(client->fd);
        client->left = true;
        break;
    case 1:
        close(client->fd);
        client->left = true;
        break;
    default:
        if (left) {
            size_t most = 1 + kz_prng_below(dice, 12000), size = KZ_MIN(left, most);
            ssize_t n = client->left ? 0
                                     : send(client->fd, client->script.data + client->said, size,
                                               MSG_NOSIGNAL);

            client->said += n > 0 ? (size_t)n : 0;
            if (client->said == client->script.size && kz_prng_below(dice, 2))
                shutdown(client->fd, SHUT_WR);
        }
        break;
    }
    if (kz_prng_below(dice, 3) == 0)
        listen_to(rig, client);
    if (rig->deferred_count && kz_prng_below(dice, 3) == 0)
        kz_http_respond(rig->deferred[--rig->deferred_count], 200, NULL, KZ_STR("late"), NULL, 0);
}

static bool all_said(const struct client *clients)
{
    for (int i = 0; i < CLIENTS; i++) {
        if (!clients[i].left && clients[i].answers < clients[i].requests)
            return false;
    }
    return true;
}

static void whoever_stays_is_answered_in_full(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 150; seed++) {
        struct kz_http_options options = kz_http_options_default();
        struct client clients[CLIENTS] = {0};
        struct kz_prng dice;
        struct rig rig;
        uint64_t due = now_ms() + WAIT_MS;

        kz_prng_init(&dice, seed);
        options.bulk_turn_us = kz_prng_below(&dice, 2) ? 0 : 1000;
        options.bulk_min_bytes = 1 + kz_prng_below(&dice, 4096);
        options.pipeline_max = 1 + (unsigned)kz_prng_below(&dice, 4);
        options.output_pause_bytes = 1 + kz_prng_below(&dice, 1000);
        rig_up(&rig, &options);
        for (int i = 0; i < CLIENTS; i++) {
            write_script(&clients[i], &dice);
            clients[i].fd = dial(&rig);
        }
        while (!all_said(clients)) {
            step(&rig, &clients[kz_prng_below(&dice, CLIENTS)], &dice);
            if (kz_prng_below(&dice, 2))
                turn(&rig);
            if (now_ms() > due)
                fail_msg("seed %llu: not all was answered", (unsigned long long)seed);
        }
        for (int i = 0; i < CLIENTS; i++) {
            assert_true(clients[i].left || clients[i].answers == clients[i].requests);
            if (!clients[i].left)
                close(clients[i].fd);
            kz_buf_done(&clients[i].script);
        }
        /* What came of those that left is handled, or gone with them; nothing is waited for. */
        while (rig.deferred_count || kz_http_server_counters(rig.server)->connections_open) {
            if (rig.deferred_count)
                kz_http_respond(
                        rig.deferred[--rig.deferred_count], 200, NULL, KZ_STR_NULL, NULL, 0);
            turn(&rig);
            if (now_ms() > due)
                fail_msg("seed %llu: a connection stays", (unsigned long long)seed);
        }
        a_loop_without_bulk_sleeps(&rig);
        rig_down(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(short_requests_go_first_and_bulk_takes_turns),
            cmocka_unit_test(a_connection_s_own_requests_stay_in_order),
            cmocka_unit_test(bulk_whose_client_has_left_holds_nothing_up),
            cmocka_unit_test(bulk_that_waits_at_a_stop_is_answered),
            cmocka_unit_test(bulk_that_is_cut_at_a_stop_s_deadline_frees_the_loop),
            cmocka_unit_test(requests_behind_bulk_count_although_their_client_has_left),
            cmocka_unit_test(bulk_that_is_parked_late_in_a_turn_does_not_sleep),
            cmocka_unit_test(a_client_that_has_sent_its_bulk_is_not_told_to_go_on),
            cmocka_unit_test(a_client_that_waits_for_100_with_its_bulk_gets_it_once),
            cmocka_unit_test(chunked_bulk_is_whole_and_what_follows_it_too),
            cmocka_unit_test(a_client_that_goes_on_sending_takes_no_more_memory),
            cmocka_unit_test(bulk_over_the_memory_limit_is_refused_and_room_returns),
            cmocka_unit_test(bulk_behind_a_stream_is_not_answered),
            cmocka_unit_test(bulk_that_closes_is_the_last),
            cmocka_unit_test(bulk_that_waits_is_not_taken_for_a_slow_sender),
            cmocka_unit_test(short_requests_without_end_do_not_starve_bulk),
            cmocka_unit_test(whoever_stays_is_answered_in_full),
    };

    signal(SIGPIPE, SIG_IGN); /* as main() does: the server writes to clients that have cut */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
