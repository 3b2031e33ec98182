/* What is answered, in which order, to whom; streams; stopping. */
#include "sys/http_rig.h"

/* ---- what is answered ---- */

static void a_body_comes_back_and_the_connection_stays(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    for (int i = 0; i < 3; i++) {
        say(&rig, fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
        hear_times(&rig, fd, "\r\n\r\nhello", 1);
        assert_heard(&rig, "HTTP/1.1 200 OK\r\n");
        assert_heard(&rig, "Content-Length: 5\r\n");
        assert_heard(&rig, "\r\nDate: ");
        assert_not_heard(&rig, "Connection:");
    }
    assert_int_equal(kz_http_server_counters(rig.server)->connections_total, 1);
    assert_int_equal(kz_http_server_counters(rig.server)->requests_total, 3);
    assert_int_equal(kz_http_server_counters(rig.server)->responses_2xx, 3);
    assert_int_equal(rig.batches, 3);
    close(fd);
    rig_down(&rig);
}

static void chunked_bodies_are_decoded_however_they_are_split(void **state)
{
    static const char text[] =
            "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
            "5\r\nhello\r\n00006;ext=\"v\"\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
            "GET /query?q=n%2ext+1 HTTP/1.1\r\nhost: x\r\n\r\n";
    struct rig rig;

    (void)state;
    rig_up(&rig, NULL);
    for (size_t split = 1; split < sizeof(text) - 1; split++) {
        int fd = dial(&rig);

        say_n(&rig, fd, text, split);
        say_n(&rig, fd, text + split, sizeof(text) - 1 - split);
        hear_times(&rig, fd, "n.xt 1", 1);
        assert_heard(&rig, "\r\n\r\nhello worldHTTP/1.1 200");
        close(fd);
    }
    rig_down(&rig);
}

static void head_has_a_length_and_no_body(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd,
            "HEAD /query?q=abc HTTP/1.1\r\nHost: x\r\n\r\nGET /query?q=z HTTP/1.1\r\nHost: "
            "x\r\n\r\n");
    hear_times(&rig, fd, "\r\n\r\nz", 1);
    assert_heard(&rig, "Content-Length: 3\r\n\r\nHTTP/1.1 200");
    close(fd);
    rig_down(&rig);
}

static void http_1_0_closes_unless_asked_to_stay(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /query?q=a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
    hear_times(&rig, fd, "\r\n\r\na", 1);
    assert_heard(&rig, "Connection: keep-alive\r\n");
    say(&rig, fd, "GET /query?q=b HTTP/1.0\r\n\r\n");
    hear_close(&rig, fd);
    assert_heard(&rig, "Connection: close\r\n");
    assert_heard(&rig, "\r\n\r\nb");
    rig_down(&rig);
}

static void a_client_that_expects_100_gets_it(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd,
            "GET /defer HTTP/1.1\r\nHost: x\r\n\r\n"
            "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    TURN_UNTIL(&rig, rig.deferred_count == 1);
    /* Its turn comes behind the first request's answer. */
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("first"), NULL, 0);
    hear_times(&rig, fd, "firstHTTP/1.1 100 Continue\r\n\r\n", 1);
    say(&rig, fd, "ok");
    hear_times(&rig, fd, "\r\n\r\nok", 1);
    say(&rig, fd, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 42\r\nContent-Length: 2\r\n\r\nok");
    hear_close(&rig, fd);
    assert_heard(&rig, "HTTP/1.1 417 ");
    rig_down(&rig);
}

static void answers_leave_in_the_order_of_the_requests(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd,
            "GET /defer HTTP/1.1\r\nHost: x\r\n\r\nGET /defer HTTP/1.1\r\nHost: x\r\n\r\n"
            "GET /query?q=three HTTP/1.1\r\nHost: x\r\n\r\nGET /defer HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.deferred_count == 3);
    kz_http_respond(rig.deferred[2], 200, NULL, KZ_STR("four"), NULL, 0);
    kz_http_respond(rig.deferred[1], 200, NULL, KZ_STR("two"), NULL, 0);
    for (int i = 0; i < 20; i++)
        turn(&rig);
    kz_buf_clear(&rig.heard);
    assert_int_equal(hear(&rig, fd), 0);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("one"), NULL, 0);
    hear_times(&rig, fd, "HTTP/1.1 200", 4);
    assert_true(strstr(rig.heard.data, "one") < strstr(rig.heard.data, "two"));
    assert_true(strstr(rig.heard.data, "two") < strstr(rig.heard.data, "three"));
    assert_true(strstr(rig.heard.data, "three") < strstr(rig.heard.data, "four"));
    close(fd);
    rig_down(&rig);
}

static void pipelining_is_bounded_and_goes_on(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    struct rig rig;
    int fd;

    (void)state;
    options.pipeline_max = 3;
    rig_up(&rig, &options);
    fd = dial(&rig);
    for (int i = 0; i < 10; i++)
        say(&rig, fd, "GET /defer HTTP/1.1\r\nHost: x\r\n\r\n");
    for (size_t i = 0; i < 10; i++) {
        TURN_UNTIL(&rig, rig.deferred_count == KZ_MIN(i + 3, 10));
        for (int j = 0; j < 5; j++)
            turn(&rig);
        assert_int_equal(rig.deferred_count, KZ_MIN(i + 3, 10));
        kz_http_respond(rig.deferred[i], 204, NULL, KZ_STR_NULL, NULL, 0);
    }
    hear_times(&rig, fd, "HTTP/1.1 204 No Content", 10);
    assert_not_heard(&rig, "Content-Length");
    /* A burst in one piece, answered at once. */
    for (int i = 0; i < 40; i++)
        assert_int_equal(send(fd, "GET /query?q=ab HTTP/1.1\r\nHost: x\r\n\r\n", 37, 0), 37);
    hear_times(&rig, fd, "\r\n\r\nab", 40);
    close(fd);
    rig_down(&rig);
}

static void an_error_has_the_shape_of_errors(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /error HTTP/1.1\r\nHost: x\r\n\r\n");
    hear_times(&rig, fd, "}}\n", 1);
    assert_heard(&rig, "HTTP/1.1 503 Service Unavailable\r\n");
    assert_heard(&rig, "Retry-After: 1\r\n");
    assert_heard(&rig,
            "{\"error\":{\"code\":\"overloaded\",\"message\":\"busy with \\\"x\\\"\\u0001?\","
            "\"hint\":\"wait\",\"request_id\":\"");
    say(&rig, fd, "GET /header?v=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    hear_times(&rig, fd, "\r\n\r\n127.0.0.1:", 1);
    assert_heard(&rig, "X-Echo: a  Set-Cookie: stolen\r\n");
    say(&rig, fd, "GET http://x/header HTTP/1.1\r\nHost: x\r\nX-IN: \t some thing \t\r\n\r\n");
    hear_times(&rig, fd, "\r\n\r\n127.0.0.1:", 1);
    assert_heard(&rig, "X-Echo: some thing\r\n");
    close(fd);
    rig_down(&rig);
}

/* ---- clients that leave ---- */

static void a_deferred_answer_to_a_client_that_left_is_dropped(void **state)
{
    struct rig rig;
    struct linger reset = {1, 0};
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd,
            "POST /defer HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbodyGET /defer "
            "HTTP/1.1\r\n"
            "Host: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.deferred_count == 2);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(fd);
    TURN_UNTIL(&rig, rig.gone == 2);
    TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->connections_open == 0);
    assert_true(kz_http_request_gone(rig.deferred[0]));
    assert_true(kz_str_is(rig.deferred[0]->body, "body"));
    assert_true(kz_str_is(kz_http_request_header(rig.deferred[0], "HOST"), "x"));
    assert_int_equal(kz_http_server_counters(rig.server)->requests_open, 2);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("late"), NULL, 0);
    /* A stream that begins too late ends at once. */
    rig.stream = rig.deferred[1];
    kz_http_stream_begin(rig.deferred[1], 200, "text/event-stream", NULL, 0, on_stream_close, &rig);
    assert_int_equal(kz_http_stream_write(rig.deferred[1], KZ_STR("x")), KZ_UNAVAILABLE);
    assert_int_equal(rig.stream_closed, 0);
    TURN_UNTIL(&rig, rig.stream_closed == 1);
    rig_down(&rig);
}

static void a_client_that_has_sent_all_and_shut_its_side_is_answered(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /defer HTTP/1.1\r\nHost: x\r\n\r\nGET /half HTTP/1.1\r\n");
    shutdown(fd, SHUT_WR);
    TURN_UNTIL(&rig, rig.gone == 1);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("still here"), NULL, 0);
    hear_close(&rig, fd);
    assert_heard(&rig, "still here");
    assert_int_equal(times(&rig, "HTTP/1.1"), 1);
    rig_down(&rig);
}

/* ---- streams ---- */

static void a_stream_flows_and_ends(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\nGET /never HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.stream);
    assert_int_equal(kz_http_stream_write(rig.stream, KZ_STR("data: 1\n\n")), KZ_OK);
    hear_times(&rig, fd, "data: 1\n\n", 1);
    assert_heard(&rig, "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n");
    assert_int_equal(kz_http_stream_write(rig.stream, KZ_STR("data: 2\n\n")), KZ_OK);
    kz_http_stream_end(rig.stream);
    hear_close(&rig, fd);
    assert_string_equal(rig.heard.data, "9\r\ndata: 2\n\n\r\n0\r\n\r\n");
    assert_int_equal(rig.stream_closed, 0);
    rig_down(&rig);
}

static void a_stream_waits_for_the_answers_before_it(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /defer HTTP/1.1\r\nHost: x\r\n\r\nGET /stream HTTP/1.0\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.stream);
    assert_int_equal(kz_http_stream_write(rig.stream, KZ_STR("data: 1\n\n")), KZ_OK);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("one"), NULL, 0);
    kz_http_stream_end(rig.stream);
    hear_close(&rig, fd);
    assert_heard(&rig, "oneHTTP/1.1 200 OK\r\n");
    assert_not_heard(&rig, "chunked"); /* HTTP/1.0 does not know it */
    assert_heard(&rig, "\r\n\r\ndata: 1\n\n");
    rig_down(&rig);
}

static void a_stream_hears_of_its_clients_end(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.stream);
    close(fd);
    TURN_UNTIL(&rig, rig.stream_closed == 1);
    assert_int_equal(kz_http_server_counters(rig.server)->streams_open, 0);
    rig_down(&rig);
}

static void a_stream_whose_reader_is_slow_is_cut(void **state)
{
    static char block[65536];
    struct rig rig;
    enum kz_code rc = KZ_OK;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.stream);
    for (int i = 0; i < 1000 && rc == KZ_OK; i++) {
        rc = kz_http_stream_write(rig.stream, kz_str_n(block, sizeof(block)));
        assert_true(kz_http_stream_queued(rig.stream) <= (1 << 20) + 4096);
        if (rc == KZ_OK)
            turn(&rig);
    }
    assert_int_equal(rc, KZ_LIMIT);
    assert_int_equal(kz_http_stream_write(rig.stream, KZ_STR("x")), KZ_UNAVAILABLE);
    assert_int_equal(rig.stream_closed, 0);
    TURN_UNTIL(&rig, rig.stream_closed == 1);
    assert_int_equal(kz_http_server_counters(rig.server)->streams_cut, 1);
    close(fd);
    rig_down(&rig);
}

/* ---- stopping ---- */

static void a_stop_finishes_what_is_in_flight(void **state)
{
    struct rig rig;
    int idle, busy, half, streaming;

    (void)state;
    rig_up(&rig, NULL);
    idle = dial(&rig);
    busy = dial(&rig);
    half = dial(&rig);
    streaming = dial(&rig);
    say(&rig, streaming, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    say(&rig, busy, "GET /defer HTTP/1.1\r\nHost: x\r\n\r\n");
    say(&rig, half, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n12");
    TURN_UNTIL(&rig, rig.stream && rig.deferred_count == 1);
    kz_http_server_stop(rig.server, 10000, on_drained, &rig);
    hear_close(&rig, idle);
    assert_int_equal(rig.heard.size, 0);
    hear_close(&rig, streaming);
    assert_int_equal(rig.stream_closed, 1);
    say(&rig, half, "34");
    hear_close(&rig, half);
    assert_heard(&rig, "Connection: close\r\n");
    assert_heard(&rig, "\r\n\r\n1234");
    assert_int_equal(rig.drained, 0);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("bye"), NULL, 0);
    hear_close(&rig, busy);
    assert_heard(&rig, "\r\n\r\nbye");
    TURN_UNTIL(&rig, rig.drained == 1);
    assert_int_equal(rig.unanswered, 0);
    rig_down(&rig);
}

static void a_stop_has_a_deadline(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "GET /defer HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.deferred_count == 1);
    kz_http_server_stop(rig.server, 50, on_drained, &rig);
    TURN_UNTIL(&rig, rig.drained == 1);
    assert_int_equal(rig.unanswered, 1);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("late"), NULL, 0);
    close(fd);
    rig_down(&rig);
}

static void a_second_stop_changes_nothing(void **state)
{
    struct rig rig;

    (void)state;
    rig_up(&rig, NULL);
    kz_http_server_stop(rig.server, 50, on_drained, &rig);
    kz_http_server_stop(rig.server, 50, on_drained, &rig);
    TURN_UNTIL(&rig, rig.drained == 1);
    rig_down(&rig);
}

/* ---- addresses ---- */

static void addresses_are_read_strictly(void **state)
{
    static const char *const bad[] = {"", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x",
            "127.0.0.1:65536", "example.org:80", "[::1:80", "::1:80", "127.0.0.1:-1", "unix:"};
    struct rig rig;
    struct kz_err err;
    char text[64];

    (void)state;
    rig_up(&rig, NULL);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(bad); i++)
        assert_int_equal(kz_http_server_listen(rig.server, bad[i], &err), KZ_INVALID);
    snprintf(text, sizeof(text), "localhost:%u", kz_http_server_port(rig.server));
    assert_int_equal(kz_http_server_listen(rig.server, text, &err), KZ_CONFLICT);
    assert_non_null(strstr(err.message, "address already in use"));
    assert_true(kz_http_address_is_loopback("localhost:1"));
    assert_true(kz_http_address_is_loopback("127.9.9.9:1"));
    assert_true(kz_http_address_is_loopback("[::1]:1"));
    assert_true(kz_http_address_is_loopback("unix:/x"));
    assert_false(kz_http_address_is_loopback(":80"));
    assert_false(kz_http_address_is_loopback("0.0.0.0:80"));
    assert_false(kz_http_address_is_loopback("[::]:80"));
    assert_string_equal(kz_http_status_text(507), "Insufficient Storage");
    rig_down(&rig);
}

static void escapes_are_decoded_strictly(void **state)
{
    struct kz_arena arena;
    struct kz_str out;

    (void)state;
    kz_arena_init(&arena, 4096);
    assert_true(kz_http_unescape(&arena, KZ_STR("a%2Fb%c3%a9+"), false, &out));
    assert_true(kz_str_is(out, "a/b\xc3\xa9+"));
    assert_false(kz_http_unescape(&arena, KZ_STR("a%2"), false, &out));
    assert_false(kz_http_unescape(&arena, KZ_STR("a%zz"), false, &out));
    assert_false(kz_http_unescape(&arena, KZ_STR("a%00"), false, &out));
    kz_arena_done(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_body_comes_back_and_the_connection_stays),
            cmocka_unit_test(chunked_bodies_are_decoded_however_they_are_split),
            cmocka_unit_test(head_has_a_length_and_no_body),
            cmocka_unit_test(http_1_0_closes_unless_asked_to_stay),
            cmocka_unit_test(a_client_that_expects_100_gets_it),
            cmocka_unit_test(answers_leave_in_the_order_of_the_requests),
            cmocka_unit_test(pipelining_is_bounded_and_goes_on),
            cmocka_unit_test(an_error_has_the_shape_of_errors),
            cmocka_unit_test(a_deferred_answer_to_a_client_that_left_is_dropped),
            cmocka_unit_test(a_client_that_has_sent_all_and_shut_its_side_is_answered),
            cmocka_unit_test(a_stream_flows_and_ends),
            cmocka_unit_test(a_stream_waits_for_the_answers_before_it),
            cmocka_unit_test(a_stream_hears_of_its_clients_end),
            cmocka_unit_test(a_stream_whose_reader_is_slow_is_cut),
            cmocka_unit_test(a_stop_finishes_what_is_in_flight),
            cmocka_unit_test(a_stop_has_a_deadline),
            cmocka_unit_test(a_second_stop_changes_nothing),
            cmocka_unit_test(addresses_are_read_strictly),
            cmocka_unit_test(escapes_are_decoded_strictly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
