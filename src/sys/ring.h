/* sys/ring.h -- a bounded ring of pointers from many threads to one, and the bell beside it.
 *
 * The usual pair: producers push and wake, the consumer's event loop polls the waker's descriptor,
 * and when it is readable drains the waker FIRST and then pops until the ring is empty. In that
 * order no message is left behind without a wake-up.
 *
 * Owner    the consumer; messages belong to whoever pops them.
 * Threads  push and wake from any thread, lock-free; pop and drain from one.
 * Fails    push when full: the caller counts it and refuses or waits.
 */
#pragma once

#include <stdatomic.h>

#include "base/err.h"

struct kz_ring;

/* `capacity` is rounded up to a power of two, at least 2. */
struct kz_ring *kz_ring_new(size_t capacity);
/* What is still in the ring is not freed: pop it first. */
void kz_ring_free(struct kz_ring *ring);
KZ_DEFINE_FREEP(struct kz_ring, kz_ring_free)

/* False where the ring is full. `message` is not NULL. Messages of one thread keep their order. */
KZ_MUST_USE bool kz_ring_push(struct kz_ring *ring, void *message);
/* The oldest message, or NULL where there is none (or its producer has not finished its push, in
 * which case that producer's wake-up is still to come). */
void *kz_ring_pop(struct kz_ring *ring);
/* About how many messages wait; exact only when nobody pushes. */
size_t kz_ring_count(const struct kz_ring *ring);
size_t kz_ring_capacity(const struct kz_ring *ring);

/* An eventfd that is written only when the consumer may be asleep: a thousand pushes between two
 * turns of the consumer's loop cost one system call. */
struct kz_waker {
    int fd;
    atomic_bool pending;
};

KZ_MUST_USE enum kz_code kz_waker_init(struct kz_waker *waker, struct kz_err *err);
void kz_waker_done(struct kz_waker *waker);
/* To poll for reading; non-blocking, closed on exec. */
int kz_waker_fd(const struct kz_waker *waker);
void kz_waker_wake(struct kz_waker *waker);
/* Consumer only, before it pops. */
void kz_waker_drain(struct kz_waker *waker);
/* Consumer only: sleeps until woken, and drains. False after `timeout_ms` (-1: for ever). */
bool kz_waker_wait(struct kz_waker *waker, int timeout_ms);
