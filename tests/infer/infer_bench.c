/* How long a job takes from submit to its result: one at a time, then open loop at a rate.
 *
 *     infer_bench [rate] [seconds] [busy-us of the pipeline's thread between two looks]
 *
 * SQL and history are the tests' own (a few microseconds), so this is queues, wake-ups, framing and
 * the worker. Not a test; prints percentiles in microseconds.
 */
#include "rig.inc.h"

static struct rig rig;
static int64_t took[RIG_RESULTS_MAX];
static size_t taken;

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static void print(const char *what)
{
    struct kz_infer_status s = rig_status(&rig, 0);

    qsort(took, taken, sizeof(*took), by_value);
    printf("%-22s n %zu  p50 %lld  p90 %lld  p99 %lld  max %lld us   rows a batch %.2f\n", what,
            taken, (long long)took[taken / 2], (long long)took[taken * 9 / 10],
            (long long)took[taken * 99 / 100], (long long)took[taken - 1],
            (double)s.batch_rows / (double)KZ_MAX(s.batches, 1u));
    taken = 0;
}

static int64_t queue_us, features_us, wait_us, model_us;

static void take(void)
{
    struct kz_infer_result *r = kz_infer_take(rig.infer), *next;

    for (; r; r = next) {
        next = r->next;
        took[taken++] = kz_mono_us() - r->job->queued_us;
        queue_us += r->queue_us;
        features_us += r->features_us;
        wait_us += r->wait_us;
        model_us += r->model_us;
        kz_infer_result_free(rig.infer, r);
        rig.done++;
    }
}

static void wait_bell(int timeout_us)
{
    struct pollfd p = {.fd = rig.bell, .events = POLLIN};
    struct timespec t = {.tv_nsec = timeout_us * 1000L};
    uint64_t drained;

    if (ppoll(&p, 1, &t, NULL) > 0)
        (void)!read(rig.bell, &drained, sizeof(drained));
}

static void one_at_a_time(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        kz_infer_submit(rig.infer, rig_job(&rig, 0, (unsigned)(i % 1000)));
        while (taken <= i) {
            wait_bell(100000);
            take();
        }
    }
    print("one at a time");
}

static void open_loop(double rate, double seconds)
{
    int64_t start_us = kz_mono_us();
    size_t count = (size_t)(rate * seconds), sent = 0;
    char what[40];

    queue_us = features_us = wait_us = model_us = 0;
    while (taken < count) {
        size_t due = (size_t)((double)(kz_mono_us() - start_us) * rate / 1e6);

        for (; sent < due && sent < count; sent++)
            kz_infer_submit(rig.infer, rig_job(&rig, 0, (unsigned)(sent % 1000)));
        wait_bell((int)(1e6 / rate));
        take();
    }
    snprintf(what, sizeof(what), "%.0f a second", rate);
    printf("  means: queue %lld  features %lld  wait %lld  model %lld us\n",
            (long long)(queue_us / (int64_t)count), (long long)(features_us / (int64_t)count),
            (long long)(wait_us / (int64_t)count), (long long)(model_us / (int64_t)count));
    print(what);
}

int main(int argc, char **argv)
{
    char path[4096];

    setenv("KIZASHI_PYTHONPATH", realpath("python", path), 0);
    rig_init(&rig);
    rig_model(&rig,
            "class M(kizashi.Model):\n"
            "    def predict(self, batch):\n"
            "        return batch.features[:, 0]\n",
            "x,a,b,c,d,e,f,g,h,count");
    rig_ready(&rig);
    for (unsigned u = 0; u < 1000; u++)
        rig_event(&rig, u, "{\"x\":1,\"a\":2,\"b\":3.5,\"c\":1,\"d\":2,\"e\":7}");
    one_at_a_time(5000);
    open_loop(argc > 1 ? atof(argv[1]) : 2000, argc > 2 ? atof(argv[2]) : 5);
    rig_close(&rig);
    return 0;
}
