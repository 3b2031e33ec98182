#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <sched.h>
#include <stdlib.h>

#include "sys/ring.h"
#include "sys/thread.h"

static void a_full_ring_refuses_and_keeps_order(void **state)
{
    KZ_AUTO(kz_ring_freep) struct kz_ring *ring = kz_ring_new(3);
    int items[5];

    (void)state;
    assert_int_equal(kz_ring_capacity(ring), 4);
    assert_null(kz_ring_pop(ring));
    for (int lap = 0; lap < 10; lap++) {
        for (int i = 0; i < 4; i++)
            assert_true(kz_ring_push(ring, &items[i]));
        assert_false(kz_ring_push(ring, &items[4]));
        assert_int_equal(kz_ring_count(ring), 4);
        for (int i = 0; i < 4; i++)
            assert_ptr_equal(kz_ring_pop(ring), &items[i]);
        assert_null(kz_ring_pop(ring));
        assert_int_equal(kz_ring_count(ring), 0);
    }
}

static void wakes_coalesce_until_drained(void **state)
{
    struct kz_waker waker;
    struct pollfd fd;

    (void)state;
    assert_int_equal(kz_waker_init(&waker, NULL), KZ_OK);
    fd = (struct pollfd){.fd = kz_waker_fd(&waker), .events = POLLIN};
    assert_int_equal(poll(&fd, 1, 0), 0);
    kz_waker_wake(&waker);
    kz_waker_wake(&waker);
    assert_int_equal(poll(&fd, 1, 0), 1);
    kz_waker_drain(&waker);
    assert_int_equal(poll(&fd, 1, 0), 0);
    assert_false(kz_waker_wait(&waker, 0));
    kz_waker_wake(&waker);
    assert_true(kz_waker_wait(&waker, 0));
    kz_waker_done(&waker);
}

enum { PRODUCERS = 4, EACH = 50000 };

struct message {
    unsigned producer;
    unsigned number;
};

struct producer {
    struct kz_thread thread;
    struct kz_ring *ring;
    struct kz_waker *waker;
    unsigned id;
};

static void produce(void *arg)
{
    struct producer *self = arg;

    for (unsigned i = 0; i < EACH; i++) {
        struct message *message = kz_malloc(sizeof(*message));

        *message = (struct message){self->id, i};
        while (!kz_ring_push(self->ring, message))
            sched_yield();
        kz_waker_wake(self->waker);
    }
}

/* The consumer sleeps whenever the ring is empty: were one wake-up lost, this would time out. */
static void nothing_is_lost_between_four_producers_and_a_sleeper(void **state)
{
    KZ_AUTO(kz_ring_freep) struct kz_ring *ring = kz_ring_new(64);
    struct producer producers[PRODUCERS];
    unsigned next[PRODUCERS] = {0};
    struct kz_waker waker;
    size_t got = 0;

    (void)state;
    assert_int_equal(kz_waker_init(&waker, NULL), KZ_OK);
    for (unsigned i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.ring = ring, .waker = &waker, .id = i};
        assert_int_equal(
                kz_thread_start(&producers[i].thread, "producer", produce, &producers[i], NULL),
                KZ_OK);
    }
    while (got < (size_t)PRODUCERS * EACH) {
        struct message *message;

        assert_true(kz_waker_wait(&waker, 60000));
        while ((message = kz_ring_pop(ring))) {
            assert_int_equal(message->number, next[message->producer]++);
            free(message);
            got++;
        }
    }
    for (unsigned i = 0; i < PRODUCERS; i++)
        kz_thread_join(&producers[i].thread);
    kz_thread_join(&producers[0].thread); /* a second time: nothing */
    assert_null(kz_ring_pop(ring));
    kz_waker_done(&waker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_full_ring_refuses_and_keeps_order),
            cmocka_unit_test(wakes_coalesce_until_drained),
            cmocka_unit_test(nothing_is_lost_between_four_producers_and_a_sleeper),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
