#include "sys/thread.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

struct start {
    void (*run)(void *arg);
    void *arg;
    char name[16];
};

static void *enter(void *arg)
{
    struct start start = *(struct start *)arg;

    free(arg);
    /* The name is a courtesy to whoever looks from outside. */
    (void)pthread_setname_np(pthread_self(), start.name);
    start.run(start.arg);
    return NULL;
}

enum kz_code kz_thread_start(struct kz_thread *thread, const char *name, void (*run)(void *arg),
        void *arg, struct kz_err *err)
{
    struct start *start = kz_malloc(sizeof(*start));
    sigset_t all, before;
    int rc;

    *start = (struct start){.run = run, .arg = arg};
    snprintf(start->name, sizeof(start->name), "%.15s", name);
    sigfillset(&all);
    /* A new thread inherits its maker's mask. */
    KZ_BUG_ON(pthread_sigmask(SIG_SETMASK, &all, &before) != 0);
    rc = pthread_create(&thread->id, NULL, enter, start);
    KZ_BUG_ON(pthread_sigmask(SIG_SETMASK, &before, NULL) != 0);
    if (rc != 0) {
        free(start);
        return kz_fail(err, KZ_NO_MEMORY, "could not start thread \"%s\": %s", name, strerror(rc));
    }
    thread->started = true;
    return KZ_OK;
}

void kz_thread_join(struct kz_thread *thread)
{
    if (!thread->started)
        return;
    KZ_BUG_ON(pthread_join(thread->id, NULL) != 0);
    thread->started = false;
}

/* <linux/sched/types.h>, which old headers have not; version 0. */
struct attributes {
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t slice_ns; /* sched_runtime */
    uint64_t deadline_ns, period_ns;
};
_Static_assert(sizeof(struct attributes) == 48, "SCHED_ATTR_SIZE_VER0");

void kz_thread_prompt(void)
{
    enum { SLICE_NS = 200000, RESET_ON_FORK = 1 };
    long policy = syscall(SYS_sched_getscheduler, 0);
    struct attributes attributes = {.size = sizeof(attributes),
            .policy = SCHED_OTHER,
            .flags = RESET_ON_FORK,
            .nice = getpriority(PRIO_PROCESS, (id_t)gettid()),
            .slice_ns = SLICE_NS};

    /* An operator who chose another one (chrt, CPUSchedulingPolicy=) knows better. */
    if (policy == SCHED_OTHER)
        (void)syscall(SYS_sched_setattr, 0, &attributes, 0U);
}

static _Thread_local bool is_background;

void kz_thread_background(void)
{
    enum { NICE = 10 };

    is_background = true;

    /* On Linux niceness is a thread's own. Where it may not be had the work goes on as it is. */
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
}

bool kz_thread_is_background(void)
{
    return is_background;
}

unsigned kz_cpu_count(void)
{
    cpu_set_t set;
    int count = 0;

    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        count = CPU_COUNT(&set);
    return count > 0 ? (unsigned)count : 1;
}
