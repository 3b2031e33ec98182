/* sys/thread.h -- named threads. Locks are pthread's own.
 *
 * Owner    whoever started it joins it, once.
 * Fails    KZ_NO_MEMORY where the system has no more threads to give.
 */
#pragma once

#include <pthread.h>

#include "base/err.h"

struct kz_thread {
    pthread_t id;
    bool started;
};

/* `name` is shown by top and gdb, cut at 15 bytes. Signals are blocked in the new thread: they are
 * the main thread's business. `run` and `arg` must outlive the thread. */
KZ_MUST_USE enum kz_code kz_thread_start(struct kz_thread *thread, const char *name,
        void (*run)(void *arg), void *arg, struct kz_err *err);
/* Waits for `run` to return; nothing where the thread was never started or is already joined. */
void kz_thread_join(struct kz_thread *thread);
/* Asks for short turns on the core, for a thread that somebody waits for: when it wakes, it goes before
 * those with long ones, and is given no more than they in sum. (EEVDF's slices, sched(7), Linux 6.12
 * and later; nothing happens elsewhere, nor where the thread has another policy than SCHED_OTHER.)
 * Threads and processes that it starts have the usual ones. */
void kz_thread_prompt(void);
/* Takes the calling thread back behind the others, for work that can wait. */
void kz_thread_background(void);
/* Whether the calling thread has been. */
bool kz_thread_is_background(void);
/* Cores this process may run on, at least 1. */
unsigned kz_cpu_count(void);
