/* Streams against a peer that fails as told, and against none at all. */
#include "rpc/rpc_rig.h"

static struct kz_rpc_stream *open_stream(struct fixture *f, const char *method, int64_t timeout_ms)
{
    const struct kz_rpc_options options = {.method = method, .timeout_ms = timeout_ms};
    struct kz_rpc_stream *stream = NULL;

    assert_int_equal(kz_rpc_stream(f->channel, &options, ANY, &stream, NULL), KZ_OK);
    return stream;
}

static void write_any(struct kz_rpc_stream *stream, const char *type_url, const char *value)
{
    Kizashi__Rpc__Any message = any(type_url, value);

    assert_int_equal(kz_rpc_stream_write(stream, &message.base, NULL), KZ_OK);
}

static void expect_next(struct kz_rpc_stream *stream, const char *expected)
{
    ProtobufCMessage *message = NULL;
    struct kz_err err = {0};

    if (kz_rpc_stream_next(stream, WAIT_MS, &message, &err) != KZ_OK)
        fail_msg("%s", err.message);
    assert_string_equal(((Kizashi__Rpc__Any *)message)->type_url, expected);
    protobuf_c_message_free_unpacked(message, NULL);
}

static enum kz_code next_code(struct kz_rpc_stream *stream, int64_t wait_ms)
{
    ProtobufCMessage *message = NULL;
    enum kz_code rc = kz_rpc_stream_next(stream, wait_ms, &message, NULL);

    protobuf_c_message_free_unpacked(message, NULL);
    return rc;
}

static void test_both_ways(void **state)
{
    struct fixture *f = *state;
    struct kz_rpc_stream *stream = open_stream(f, "/peer/Chat", 0);
    Kizashi__Rpc__Any late = any("late", "");

    assert_int_equal(stats_of(f).streams_open, 1);
    write_any(stream, "one", "");
    expect_next(stream, "one");
    assert_int_equal(next_code(stream, 20), KZ_TIMEOUT);
    assert_int_equal(kz_rpc_status(), KZ_RPC_UNKNOWN);
    write_any(stream, "two", "");
    write_any(stream, "three", "");
    expect_next(stream, "two");
    expect_next(stream, "three");
    kz_rpc_stream_half_close(stream);
    assert_int_equal(kz_rpc_stream_write(stream, &late.base, NULL), KZ_END);
    expect_next(stream, "bye");
    assert_int_equal(next_code(stream, -1), KZ_END);
    assert_int_equal(next_code(stream, 0), KZ_END);
    kz_rpc_stream_close(stream);
    assert_int_equal(stats_of(f).streams_open, 0);
    assert_int_equal(stats_of(f).failures, 0);
}

static void test_server_stream(void **state)
{
    struct fixture *f = *state;
    struct kz_rpc_stream *stream = open_stream(f, "/peer/Flood", 0);

    write_any(stream, "1000", "");
    kz_rpc_stream_half_close(stream);
    for (int i = 0; i < 1000; i++) {
        char number[16];

        snprintf(number, sizeof(number), "%d", i);
        expect_next(stream, number);
    }
    assert_int_equal(next_code(stream, -1), KZ_END);
    kz_rpc_stream_close(stream);

    /* With a status at the end: all messages first. */
    stream = open_stream(f, "/peer/Flood", 0);
    write_any(stream, "3", "\x0a");
    kz_rpc_stream_half_close(stream);
    expect_next(stream, "0");
    expect_next(stream, "1");
    expect_next(stream, "2");
    assert_int_equal(next_code(stream, -1), KZ_CONFLICT);
    assert_int_equal(kz_rpc_status(), KZ_RPC_ABORTED);
    assert_int_equal(next_code(stream, -1), KZ_CONFLICT);
    kz_rpc_stream_close(stream);
    assert_int_equal(stats_of(f).failures, 1);
}

static void test_many_answers_to_one_request(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options options = {.method = "/peer/Flood"};
    Kizashi__Rpc__Any request = any("2", "\x05"), late = any("late", "");
    struct kz_rpc_stream *stream = NULL;

    assert_int_equal(
            kz_rpc_stream_request(f->channel, &options, &request.base, ANY, &stream, NULL), KZ_OK);
    assert_int_equal(stats_of(f).bytes_sent, 3 + 3);
    assert_int_equal(kz_rpc_stream_write(stream, &late.base, NULL), KZ_END);
    kz_rpc_stream_half_close(stream); /* it is */
    expect_next(stream, "0");
    expect_next(stream, "1");
    assert_int_equal(next_code(stream, -1), KZ_NOT_FOUND);
    kz_rpc_stream_close(stream);

    /* To nobody; and given up before anything came. */
    peer_kill(&f->peer);
    assert_int_equal(
            kz_rpc_stream_request(f->channel, &options, &request.base, ANY, &stream, NULL), KZ_OK);
    assert_int_equal(next_code(stream, WAIT_MS), KZ_UNAVAILABLE);
    kz_rpc_stream_close(stream);
    assert_int_equal(
            kz_rpc_stream_request(f->channel, &options, &request.base, ANY, &stream, NULL), KZ_OK);
    kz_rpc_stream_close(stream);
    assert_int_equal(stats_of(f).streams_open, 0);
}

/* Far more than fits into the windows of HTTP/2: what nobody reads is not sent. */
static void test_stream_given_up(void **state)
{
    struct fixture *f = *state;
    struct kz_rpc_stream *stream = open_stream(f, "/peer/Flood", 0);
    const int64_t before_ms = kz_mono_ms();

    write_any(stream, "1000000", "");
    kz_rpc_stream_half_close(stream);
    expect_next(stream, "0");
    kz_rpc_stream_close(stream);
    assert_true(kz_mono_ms() - before_ms < WAIT_MS);
    assert_true(stats_of(f).bytes_received < 10000);
}

static void test_closing_ends_a_chat_in_order(void **state)
{
    struct fixture *f = *state;
    struct kz_rpc_stream *stream = open_stream(f, "/peer/Chat", 0);
    const uint64_t before = stats_of(f).bytes_received;

    write_any(stream, "unread", "");
    kz_rpc_stream_close(stream);
    /* The peer's last word came, so it has seen the half-close. */
    assert_int_equal(stats_of(f).bytes_received - before, 2 + 6 + 2 + 3);
}

static void *cancel_soon(void *arg)
{
    nanosleep(&(struct timespec){0, 50000000}, NULL);
    kz_rpc_stream_cancel(arg);
    return NULL;
}

static void test_cancel_from_another_thread(void **state)
{
    struct fixture *f = *state;
    struct kz_rpc_stream *stream = open_stream(f, "/peer/Chat", 0);
    Kizashi__Rpc__Any message = any("after", "");
    pthread_t thread;

    write_any(stream, "one", "");
    expect_next(stream, "one");
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, stream), 0);
    assert_int_equal(next_code(stream, -1), KZ_UNAVAILABLE);
    assert_int_equal(kz_rpc_status(), KZ_RPC_CANCELLED);
    pthread_join(thread, NULL);
    assert_int_equal(kz_rpc_stream_write(stream, &message.base, NULL), KZ_END);
    kz_rpc_stream_close(stream);
}

static void test_stream_deadline(void **state)
{
    struct fixture *f = *state;
    struct kz_rpc_stream *stream = open_stream(f, "/peer/Chat", 200);

    assert_int_equal(next_code(stream, -1), KZ_TIMEOUT);
    assert_int_equal(kz_rpc_status(), KZ_RPC_DEADLINE_EXCEEDED);
    kz_rpc_stream_close(stream);
}

static void test_peer_killed_in_mid_stream(void **state)
{
    struct fixture *f = *state;
    struct kz_rpc_stream *stream = open_stream(f, "/peer/Chat", 0);
    Kizashi__Rpc__Any message = any("two", "");

    write_any(stream, "one", "");
    expect_next(stream, "one");
    peer_kill(&f->peer);
    assert_int_equal(next_code(stream, WAIT_MS), KZ_UNAVAILABLE);
    assert_int_equal(kz_rpc_stream_write(stream, &message.base, NULL), KZ_END);
    kz_rpc_stream_close(stream);
}

static void test_stream_to_nobody(void **state)
{
    struct fixture *f = *state;
    struct kz_rpc_stream *stream;
    Kizashi__Rpc__Any message = any("one", "");

    peer_kill(&f->peer);
    stream = open_stream(f, "/peer/Chat", 0);
    assert_int_equal(kz_rpc_stream_write(stream, &message.base, NULL), KZ_END);
    assert_int_equal(next_code(stream, WAIT_MS), KZ_UNAVAILABLE);
    kz_rpc_stream_close(stream);
}

static void *write_many(void *arg)
{
    for (int i = 0; i < 300; i++)
        write_any(arg, "message", "");
    kz_rpc_stream_half_close(arg);
    return NULL;
}

static void test_one_thread_writes_another_reads(void **state)
{
    struct fixture *f = *state;
    struct kz_rpc_stream *stream = open_stream(f, "/peer/Chat", 0);
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, write_many, stream), 0);
    for (int i = 0; i < 300; i++)
        expect_next(stream, "message");
    expect_next(stream, "bye");
    assert_int_equal(next_code(stream, -1), KZ_END);
    pthread_join(thread, NULL);
    kz_rpc_stream_close(stream);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
            WITH_PEER(test_both_ways),
            WITH_PEER(test_server_stream),
            WITH_PEER(test_many_answers_to_one_request),
            WITH_PEER(test_stream_given_up),
            WITH_PEER(test_closing_ends_a_chat_in_order),
            WITH_PEER(test_cancel_from_another_thread),
            WITH_PEER(test_stream_deadline),
            WITH_PEER(test_peer_killed_in_mid_stream),
            WITH_PEER(test_stream_to_nobody),
            WITH_PEER(test_one_thread_writes_another_reads),
    };

    if (argc == 3 && strcmp(argv[1], "--peer") == 0)
        peer_main(atoi(argv[2]));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
