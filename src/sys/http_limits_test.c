/* What is refused or cut: hostile heads, slow senders and readers, too much of anything. */
#include "sys/http_rig.h"

/* ---- what is refused ---- */

static const struct {
    const char *input, *status;
} hostile[] = {
        {"\x16\x03\x01\x02\x01garbage and more of it", "400"},
        {"GET / HTTP/1.1\r\n\r\n", "400"}, /* no Host */
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"},
        {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "505"},
        {"GET /\r\nHost: a\r\n\r\n", "505"},
        {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"GET relative HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhello", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
                "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\nhello",
                "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n", "413"},
        {"POST /tiny HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", "413"},
        {"POST /tiny HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n", "413"},
        {"POST /tiny HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
         "8\r\n12345678\r\n8\r\n12345678\r\n0\r\n\r\n",
                "413"},
        {"POST /locked HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", "403"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: "
         "chunked\r\n\r\n0\r\n\r\n",
                "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: "
         "5\r\n\r\n0\r\n\r\n",
                "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: "
         "chunked\r\n\r\n0\r\n\r\n",
                "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "501"},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\n Folded: b\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\n X: b\r\nHost: a\r\n\r\n", "400"},
        {"GET / HTTP/1.1\nHost: a\n\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: b\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\nX\x01: b\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", "400"},
        {"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
};

static void hostile_heads_are_refused_and_the_connection_closed(void **state)
{
    struct rig rig;

    (void)state;
    rig_up(&rig, NULL);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(hostile); i++) {
        for (int bytewise = 0; bytewise < 2; bytewise++) {
            const char *input = hostile[i].input;
            int fd = dial(&rig);
            char want[32];

            if (bytewise) {
                for (size_t at = 0; input[at]; at++)
                    say_n(&rig, fd, input + at, 1);
            } else {
                say(&rig, fd, input);
            }
            hear_close(&rig, fd);
            snprintf(want, sizeof(want), "HTTP/1.1 %s ", hostile[i].status);
            if (strncmp(rig.heard.data, want, strlen(want)) != 0)
                fail_msg("%s: wanted %s, got %s", input, want, rig.heard.data);
            assert_heard(&rig, "\r\nConnection: close\r\n");
            assert_heard(&rig, "{\"error\":{\"code\":\"");
            assert_int_equal(times(&rig, "\r\nDate: "), 1);
        }
    }
    assert_int_equal(rig.handled, 0);
    rig_down(&rig);
}

static void broken_chunks_are_refused(void **state)
{
    static const char *const bodies[] = {"x\r\n", "-1\r\n", "0x5\r\nhello\r\n", "\r\n",
            " 5\r\nhello", "5 \r\nhello\r\n", "5\nhello\r\n", "5\rXhello\r\n",
            "5\r\nhelloXX0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "fffffffffffffffff\r\n",
            "7fffffffffffffff\r\n", ";\r\n", "0\r\n\x01: x\r\n\r\n", "0\r\n\rX", "0\r\nA: b\rX",
            "1;\x01\r\n"};
    struct rig rig;

    (void)state;
    rig_up(&rig, NULL);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(bodies); i++) {
        int fd = dial(&rig);

        say(&rig, fd, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        say(&rig, fd, bodies[i]);
        hear_close(&rig, fd);
        if (strncmp(rig.heard.data, "HTTP/1.1 400 ", 13) != 0 &&
                strncmp(rig.heard.data, "HTTP/1.1 413 ", 13) != 0)
            fail_msg("%s: %s", bodies[i], rig.heard.data);
    }
    assert_int_equal(rig.handled, 0);
    rig_down(&rig);
}

static void a_nul_in_a_head_is_refused(void **state)
{
    static const struct kz_str texts[] = {
            KZ_STR("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
            KZ_STR("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"),
            KZ_STR("GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n"),
            KZ_STR("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    };
    struct rig rig;

    (void)state;
    rig_up(&rig, NULL);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(texts); i++) {
        int fd = dial(&rig);

        say_n(&rig, fd, texts[i].ptr, texts[i].size);
        hear_close(&rig, fd);
        assert_heard(&rig, "HTTP/1.1 400 ");
    }
    rig_down(&rig);
}

static void floods_of_headers_are_431(void **state)
{
    struct rig rig;
    struct kz_buf text = {0};
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    kz_buf_cstr(&text, "GET / HTTP/1.1\r\nHost: a\r\nX: ");
    for (int i = 0; i < 20000; i++)
        kz_buf_char(&text, 'x');
    say_n(&rig, fd, text.data, text.size);
    hear_close(&rig, fd);
    assert_heard(&rig, "HTTP/1.1 431 ");

    kz_buf_clear(&text);
    kz_buf_cstr(&text, "GET / HTTP/1.1\r\nHost: a\r\n");
    for (int i = 0; i < 200; i++)
        kz_buf_printf(&text, "X%d: y\r\n", i);
    kz_buf_cstr(&text, "\r\n");
    fd = dial(&rig);
    say_n(&rig, fd, text.data, text.size);
    hear_close(&rig, fd);
    assert_heard(&rig, "HTTP/1.1 431 ");
    assert_int_equal(kz_http_server_counters(rig.server)->requests_too_large, 2);
    kz_buf_done(&text);
    rig_down(&rig);
}

static void a_refused_body_that_keeps_coming_does_not_eat_the_answer(void **state)
{
    struct rig rig;
    char junk[4096];
    int fd;

    (void)state;
    memset(junk, 'j', sizeof(junk));
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000000\r\n\r\n");
    for (int i = 0; i < 100; i++)
        say_n(&rig, fd, junk, sizeof(junk));
    hear_close(&rig, fd);
    assert_heard(&rig, "HTTP/1.1 413 ");
    rig_down(&rig);
}

static void a_request_refused_early_without_a_body_is_closed_in_order(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd,
            "GET /defer HTTP/1.1\r\nHost: x\r\n\r\nGET /locked HTTP/1.1\r\nHost: x\r\n\r\n"
            "GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
    TURN_UNTIL(&rig, rig.deferred_count == 1);
    kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("one"), NULL, 0);
    hear_close(&rig, fd);
    assert_heard(&rig, "oneHTTP/1.1 403 ");
    assert_int_equal(times(&rig, "HTTP/1.1 "), 2);
    assert_int_equal(rig.handled, 1);
    rig_down(&rig);
}

/* ---- limits ---- */

static void a_slow_sender_is_408_however_steadily_it_drips(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    uint64_t due = now_ms() + WAIT_MS;
    struct rig rig;
    int fd;

    (void)state;
    options.request_timeout_ms = 100;
    rig_up(&rig, &options);
    fd = dial(&rig);
    say(&rig, fd,
            "GET /query?q=ok HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\n"
            "Content-Length: 100000\r\n\r\n");
    while (kz_http_server_counters(rig.server)->request_timeouts == 0) {
        say(&rig, fd, "x");
        usleep(5000);
        assert_true(now_ms() < due);
    }
    hear_close(&rig, fd);
    assert_heard(&rig, "\r\n\r\nokHTTP/1.1 408 ");
    assert_int_equal(rig.handled, 1);
    rig_down(&rig);
}

/* false: the machine was busy with something else in between, for as long as a request may take. */
static bool pipelines_steadily(void)
{
    enum { TIMEOUT_MS = 200 };
    struct kz_http_options options = kz_http_options_default();
    uint64_t from, last, gap = 0, now;
    struct rig rig;
    size_t count = 0;
    int fd;

    options.request_timeout_ms = TIMEOUT_MS;
    rig_up(&rig, &options);
    fd = dial(&rig);
    last = from = now_ms();
    /* Whenever the server looks, the next request is there in part. */
    say(&rig, fd, "GET /echo HTTP/1.1\r\nHost: x\r\n");
    do {
        say(&rig, fd, "\r\nGET /echo HTTP/1.1\r\nHost: x\r\n");
        count++;
        usleep(5000);
        now = now_ms();
        gap = KZ_MAX(gap, now - last);
        last = now;
    } while (gap < TIMEOUT_MS && now - from < 700);
    say(&rig, fd, "\r\n");
    gap = KZ_MAX(gap, now_ms() - last);
    if (gap < TIMEOUT_MS) {
        hear_times(&rig, fd, "HTTP/1.1 200", count + 1);
        assert_int_equal(kz_http_server_counters(rig.server)->request_timeouts, 0);
    }
    close(fd);
    rig_down(&rig);
    return gap < TIMEOUT_MS;
}

static void steady_pipelining_is_not_taken_for_a_slow_sender(void **state)
{
    (void)state;
    for (int tries = 0; tries < 50; tries++)
        if (pipelines_steadily())
            return;
    skip(); /* too busy a machine: it never went on for so long without a gap */
}

static void idle_connections_are_closed(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    struct rig rig;
    int fds[2];

    (void)state;
    options.idle_timeout_ms = 100;
    rig_up(&rig, &options);
    fds[0] = dial(&rig);
    fds[1] = dial(&rig);
    say(&rig, fds[1], "GET /query?q=a HTTP/1.1\r\nHost: x\r\n\r\n");
    hear_close(&rig, fds[0]);
    assert_int_equal(rig.heard.size, 0);
    hear_close(&rig, fds[1]);
    assert_int_equal(kz_http_server_counters(rig.server)->idle_timeouts, 2);
    rig_down(&rig);
}

static void connections_over_the_limit_are_told_to_come_back(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    struct rig rig;
    int fds[3];

    (void)state;
    options.connections_max = 2;
    rig_up(&rig, &options);
    for (int i = 0; i < 3; i++) {
        fds[i] = dial(&rig);
        TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->connections_total == (uint64_t)i + 1);
    }
    say(&rig, fds[2], "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    hear_close(&rig, fds[2]);
    assert_heard(&rig, "HTTP/1.1 503 ");
    assert_heard(&rig, "Retry-After: 1\r\n");
    say(&rig, fds[0], "GET /query?q=fine HTTP/1.1\r\nHost: x\r\n\r\n");
    hear_times(&rig, fds[0], "fine", 1);
    close(fds[1]);
    TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->connections_open == 1);
    fds[1] = dial(&rig);
    say(&rig, fds[1], "GET /query?q=again HTTP/1.1\r\nHost: x\r\n\r\n");
    hear_times(&rig, fds[1], "again", 1);
    assert_int_equal(kz_http_server_counters(rig.server)->connections_refused, 1);
    close(fds[0]);
    close(fds[1]);
    rig_down(&rig);
}

static void too_many_bytes_in_flight_are_refused_and_room_returns(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    char body[3000];
    struct rig rig;
    int fds[4];

    (void)state;
    memset(body, 'b', sizeof(body));
    options.buffered_max_bytes = 3 * 4096;
    rig_up(&rig, &options);
    for (int i = 0; i < 4; i++) {
        fds[i] = dial(&rig);
        say(&rig, fds[i], "POST /defer HTTP/1.1\r\nHost: x\r\nContent-Length: 3000\r\n\r\n");
        say_n(&rig, fds[i], body, sizeof(body));
    }
    hear_close(&rig, fds[3]);
    assert_heard(&rig, "HTTP/1.1 503 ");
    assert_int_equal(rig.deferred_count, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(rig.deferred[i]->body.size, 3000);
        kz_http_respond(rig.deferred[i], 200, NULL, KZ_STR("done"), NULL, 0);
        hear_times(&rig, fds[i], "done", 1);
        close(fds[i]);
    }
    assert_int_equal(kz_http_server_counters(rig.server)->requests_refused, 1);
    rig_down(&rig);
}

static void large_bodies_arrive_whole(void **state)
{
    struct rig rig;
    size_t size = 5 << 20;
    char *body = kz_malloc(size), head[128];
    int fd;

    (void)state;
    for (size_t i = 0; i < size; i++)
        body[i] = (char)('a' + i * 7 % 26);
    rig_up(&rig, NULL);
    fd = dial(&rig);
    snprintf(head, sizeof(head), "POST /defer HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
            size);
    for (int round = 0; round < 2; round++) {
        say(&rig, fd, head);
        say_n(&rig, fd, body, size);
        TURN_UNTIL(&rig, rig.deferred_count == 1);
        assert_int_equal(rig.deferred[0]->body.size, size);
        assert_memory_equal(rig.deferred[0]->body.ptr, body, size);
        rig.deferred_count = 0;
        kz_http_respond(rig.deferred[0], 200, NULL, KZ_STR("whole"), NULL, 0);
        hear_times(&rig, fd, "whole", 1);
    }
    close(fd);
    free(body);
    rig_down(&rig);
}

static void a_reader_that_stops_is_cut(void **state)
{
    struct kz_http_options options = kz_http_options_default();
    struct rig rig;
    int fd;

    (void)state;
    options.write_timeout_ms = 100;
    rig_up(&rig, &options);
    fd = dial(&rig);
    say(&rig, fd, "GET /big HTTP/1.1\r\nHost: x\r\n\r\nGET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    /* Only the first is begun: the second waits for its output to leave. */
    TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->write_timeouts == 1);
    assert_int_equal(rig.handled, 1);
    TURN_UNTIL(&rig, kz_http_server_counters(rig.server)->connections_open == 0);
    close(fd);
    rig_down(&rig);
}

static void a_large_answer_reaches_a_patient_reader(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_up(&rig, NULL);
    fd = dial(&rig);
    say(&rig, fd,
            "GET /big HTTP/1.1\r\nHost: x\r\n\r\nGET /query?q=END HTTP/1.1\r\nHost: x\r\n"
            "Connection: close\r\n\r\n");
    hear_close(&rig, fd);
    assert_heard(&rig, "Content-Length: 8388608\r\n");
    assert_true(rig.heard.size > 8388608);
    assert_string_equal(rig.heard.data + rig.heard.size - 3, "END");
    rig_down(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(hostile_heads_are_refused_and_the_connection_closed),
            cmocka_unit_test(broken_chunks_are_refused),
            cmocka_unit_test(a_nul_in_a_head_is_refused),
            cmocka_unit_test(floods_of_headers_are_431),
            cmocka_unit_test(a_refused_body_that_keeps_coming_does_not_eat_the_answer),
            cmocka_unit_test(a_request_refused_early_without_a_body_is_closed_in_order),
            cmocka_unit_test(a_slow_sender_is_408_however_steadily_it_drips),
            cmocka_unit_test(steady_pipelining_is_not_taken_for_a_slow_sender),
            cmocka_unit_test(idle_connections_are_closed),
            cmocka_unit_test(connections_over_the_limit_are_told_to_come_back),
            cmocka_unit_test(too_many_bytes_in_flight_are_refused_and_room_returns),
            cmocka_unit_test(large_bodies_arrive_whole),
            cmocka_unit_test(a_reader_that_stops_is_cut),
            cmocka_unit_test(a_large_answer_reaches_a_patient_reader),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
