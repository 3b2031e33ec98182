#include "app/bench/bench_pause.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "sys/clock.h"
#include "sys/thread.h"

enum { CORES_MAX = 64, LATE_MAX = 65536, STEP_NS = 1000000, SEEN_NS = 3000000, TOLD_NS = 5000000 };

struct late { /* this core did nothing for us from .. to */
    int64_t from_ns, to_ns;
};

struct core {
    struct kz_bench_pause_watch *watch;
    struct kz_thread thread;
    int number;
    bool realtime;
    struct late *late; /* in order of time, at most LATE_MAX */
    size_t count;
};

struct kz_bench_pause_watch {
    _Atomic bool stop;
    struct core cores[CORES_MAX];
    size_t core_count;
};

static void watch_core(void *arg)
{
    struct core *core = arg;
    struct sched_param priority = {.sched_priority = 50};
    const struct timespec step = {.tv_nsec = STEP_NS};
    cpu_set_t only;

    CPU_ZERO(&only);
    CPU_SET(core->number, &only);
    core->realtime = sched_setaffinity(0, sizeof(only), &only) == 0 &&
                     sched_setscheduler(0, SCHED_FIFO, &priority) == 0;
    while (core->realtime && !atomic_load_explicit(&core->watch->stop, memory_order_relaxed)) {
        int64_t due_ns = kz_mono_ns() + STEP_NS, now_ns;

        (void)nanosleep(&step, NULL);
        now_ns = kz_mono_ns();
        if (now_ns - due_ns >= SEEN_NS && core->count < LATE_MAX)
            core->late[core->count++] = (struct late){due_ns, now_ns};
    }
}

struct kz_bench_pause_watch *kz_bench_pauses_start(void)
{
    struct kz_bench_pause_watch *watch = kz_calloc(1, sizeof(*watch));
    cpu_set_t ours;

    CPU_ZERO(&ours);
    if (sched_getaffinity(0, sizeof(ours), &ours) != 0)
        return watch;
    for (int cpu = 0; cpu < CPU_SETSIZE && watch->core_count < CORES_MAX; cpu++) {
        struct core *core = &watch->cores[watch->core_count];

        if (!CPU_ISSET(cpu, &ours))
            continue;
        *core = (struct core){
                .watch = watch, .number = cpu, .late = kz_calloc(LATE_MAX, sizeof(*core->late))};
        watch->core_count++;
        if (kz_thread_start(&core->thread, "kz-pause", watch_core, core, NULL) != KZ_OK)
            break; /* not known then: it is not in real time */
    }
    return watch;
}

/* What of the gap lies in gaps of the core as well: the longest. */
static struct late overlap(const struct core *core, struct late gap)
{
    struct late best = {0};

    for (size_t i = 0; i < core->count; i++) {
        struct late both = {
                KZ_MAX(gap.from_ns, core->late[i].from_ns), KZ_MIN(gap.to_ns, core->late[i].to_ns)};

        if (both.to_ns - both.from_ns > best.to_ns - best.from_ns)
            best = both;
    }
    return best;
}

struct kz_bench_pauses kz_bench_pauses_stop(struct kz_bench_pause_watch *watch)
{
    struct kz_bench_pauses pauses = {.known = watch->core_count > 0};

    atomic_store(&watch->stop, true);
    for (size_t i = 0; i < watch->core_count; i++) {
        kz_thread_join(&watch->cores[i].thread);
        pauses.known = pauses.known && watch->cores[i].realtime;
    }
    for (size_t i = 0; pauses.known && i < watch->cores[0].count; i++) {
        struct late gap = watch->cores[0].late[i];
        double ms;

        for (size_t other = 1; other < watch->core_count; other++)
            gap = overlap(&watch->cores[other], gap);
        if (gap.to_ns - gap.from_ns < TOLD_NS)
            continue;
        ms = (double)(gap.to_ns - gap.from_ns) / 1e6;
        pauses.count++;
        pauses.total_ms += ms;
        pauses.longest_ms = KZ_MAX(pauses.longest_ms, ms);
    }
    for (size_t i = 0; i < watch->core_count; i++)
        free(watch->cores[i].late);
    free(watch);
    return pauses;
}
