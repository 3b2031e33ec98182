#include "sys/ring.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "sys/clock.h"

/* Vyukov's bounded queue, with one consumer.
 *
 * Invariants, for the cell at index i = position & mask:
 *  R1  turn == position: free for the producer that claims this position.
 *  R2  turn == position + 1: holds the message of this position, for the consumer.
 *  R3  the consumer sets turn = position + capacity, which is R1 for the next lap.
 * A producer claims a position by compare-and-swap on `tail` and publishes by storing the turn with
 * release order; the consumer's acquire load of the turn makes the message's contents visible. */
struct cell {
    atomic_size_t turn;
    void *message;
};

enum { LINE_BYTES = 64 };

struct kz_ring {
    size_t mask;
    struct cell *cells;
    _Alignas(LINE_BYTES) atomic_size_t tail; /* producers */
    _Alignas(LINE_BYTES) atomic_size_t head; /* the consumer; atomic for kz_ring_count() only */
};

struct kz_ring *kz_ring_new(size_t capacity)
{
    struct kz_ring *ring = aligned_alloc(LINE_BYTES, sizeof(*ring));
    size_t size = 2;

    KZ_BUG_ON(!ring);
    while (size < capacity)
        size *= 2;
    ring->mask = size - 1;
    ring->cells = kz_calloc(size, sizeof(*ring->cells));
    for (size_t i = 0; i < size; i++)
        atomic_init(&ring->cells[i].turn, i);
    atomic_init(&ring->tail, 0);
    atomic_init(&ring->head, 0);
    return ring;
}

void kz_ring_free(struct kz_ring *ring)
{
    if (!ring)
        return;
    free(ring->cells);
    free(ring);
}

bool kz_ring_push(struct kz_ring *ring, void *message)
{
    size_t position = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    struct cell *cell;

    KZ_BUG_ON(!message);
    for (;;) {
        size_t turn;

        cell = &ring->cells[position & ring->mask];
        turn = atomic_load_explicit(&cell->turn, memory_order_acquire);
        if (turn == position) {
            if (atomic_compare_exchange_weak_explicit(&ring->tail, &position, position + 1,
                        memory_order_relaxed, memory_order_relaxed))
                break;
        } else if ((ptrdiff_t)(turn - position) < 0) {
            return false; /* still holds the message of the lap before */
        } else {
            position = atomic_load_explicit(&ring->tail, memory_order_relaxed);
        }
    }
    cell->message = message;
    atomic_store_explicit(&cell->turn, position + 1, memory_order_release);
    return true;
}

void *kz_ring_pop(struct kz_ring *ring)
{
    size_t position = atomic_load_explicit(&ring->head, memory_order_relaxed);
    struct cell *cell = &ring->cells[position & ring->mask];
    void *message;

    if (atomic_load_explicit(&cell->turn, memory_order_acquire) != position + 1)
        return NULL;
    message = cell->message;
    atomic_store_explicit(&cell->turn, position + ring->mask + 1, memory_order_release);
    atomic_store_explicit(&ring->head, position + 1, memory_order_relaxed);
    return message;
}

size_t kz_ring_count(const struct kz_ring *ring)
{
    size_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    size_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

    /* Read one after the other, they may be apart by more than was ever in the ring, or crossed. */
    return tail < head ? 0 : KZ_MIN(tail - head, ring->mask + 1);
}

size_t kz_ring_capacity(const struct kz_ring *ring)
{
    return ring->mask + 1;
}

enum kz_code kz_waker_init(struct kz_waker *waker, struct kz_err *err)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0)
        return kz_fail_errno(err, "could not create an eventfd");
    waker->fd = fd;
    atomic_init(&waker->pending, false);
    return KZ_OK;
}

void kz_waker_done(struct kz_waker *waker)
{
    if (waker->fd >= 0)
        close(waker->fd);
    waker->fd = -1;
}

int kz_waker_fd(const struct kz_waker *waker)
{
    return waker->fd;
}

void kz_waker_wake(struct kz_waker *waker)
{
    uint64_t one = 1;

    /* A read-modify-write, not a load: it orders the caller's push before the consumer's look even
     * when the flag was set already. */
    if (atomic_exchange_explicit(&waker->pending, true, memory_order_acq_rel))
        return;
    /* EAGAIN would mean 2^64 - 1 wake-ups unread: awake enough. */
    while (write(waker->fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

void kz_waker_drain(struct kz_waker *waker)
{
    uint64_t count;

    /* The descriptor before the flag: the other way round, a wake-up in between would leave the
     * flag set over an empty descriptor, and every later wake-up would be lost. */
    while (read(waker->fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
    (void)atomic_exchange_explicit(&waker->pending, false, memory_order_acq_rel);
}

bool kz_waker_wait(struct kz_waker *waker, int timeout_ms)
{
    struct pollfd poll_fd = {.fd = waker->fd, .events = POLLIN};
    int64_t deadline_ms = kz_mono_ms() + timeout_ms;
    int left_ms = timeout_ms;
    int n;

    while ((n = poll(&poll_fd, 1, left_ms)) < 0 && errno == EINTR) {
        if (timeout_ms >= 0)
            left_ms = (int)KZ_MAX(deadline_ms - kz_mono_ms(), (int64_t)0);
    }
    if (n <= 0)
        return false;
    kz_waker_drain(waker);
    return true;
}
