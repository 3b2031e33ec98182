/* How long to try, and what a failure means. */
#include <stdio.h>
#include <time.h>

#include "backends/bigtable/bigtable_int.h"
#include "sys/clock.h"
#include "sys/random.h"

enum { WAIT_FIRST_MS = 8, WAIT_MAX_MS = 1000, THROTTLED_MS = 10000 };

struct kz_bt_patience kz_bt_patience(const struct kz_bt *bt)
{
    return (struct kz_bt_patience){.deadline_ms = kz_mono_ms() + bt->timeout_ms};
}

int64_t kz_bt_left_ms(const struct kz_bt_patience *patience)
{
    return KZ_MAX(patience->deadline_ms - kz_mono_ms(), (int64_t)1);
}

static void sleep_ms(int64_t ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};

    while (nanosleep(&left, &left) != 0)
        ; /* a signal: sleep what is left */
}

bool kz_bt_wait(struct kz_bt_patience *patience)
{
    int64_t most =
            KZ_MIN((int64_t)WAIT_FIRST_MS << KZ_MIN(patience->tries, 10u), (int64_t)WAIT_MAX_MS);
    uint32_t random;
    int64_t wait_ms;

    kz_random_bytes(&random, sizeof(random));
    wait_ms = 1 + most / 2 + random % (most / 2);
    if (kz_mono_ms() + wait_ms >= patience->deadline_ms)
        return false;
    patience->tries++;
    sleep_ms(wait_ms);
    return true;
}

bool kz_bt_may_pass(enum kz_code code)
{
    switch (code) {
    case KZ_TIMEOUT:
    case KZ_UNAVAILABLE:
    case KZ_OVERLOADED:
    case KZ_LIMIT:
    case KZ_IO: /* INTERNAL: a stream that was reset */
        return true;
    case KZ_CONFLICT:
        return kz_rpc_status() == KZ_RPC_ABORTED;
    default:
        return false;
    }
}

/* By the server's status where the code alone does not tell what is to be done. */
static void add_remedy(const struct kz_bt *bt, enum kz_code code, struct kz_err *err)
{
    if (code == KZ_NOT_FOUND)
        kz_hint(err,
                "`kizashi gcp init DIR` creates the table; the instance is created with gcloud "
                "bigtable instances create");
    else if (code == KZ_FORBIDDEN)
        kz_hint(err,
                "grant roles/bigtable.user on instance %s to the service account; "
                "roles/bigtable.admin "
                "to whoever runs kizashi gcp init",
                bt->instance);
    else if (code == KZ_CONFIG)
        kz_hint(err,
                "the app profile must route to a single cluster and permit single-row "
                "transactions: "
                "gcloud bigtable app-profiles update %s --instance=%s --route-to=CLUSTER "
                "--transactional-writes",
                bt->app_profile[0] ? bt->app_profile : "default", bt->instance);
}

enum kz_code kz_bt_failed(struct kz_bt *bt, enum kz_code code, struct kz_err *err)
{
    /* To whoever calls us a conflict is somebody else's change of what they have read. */
    if (code == KZ_CONFLICT)
        code = kz_rpc_status() == KZ_RPC_FAILED_PRECONDITION ? KZ_CONFIG : KZ_UNAVAILABLE;
    if (code == KZ_LIMIT)
        atomic_store(&bt->throttled_until_ms, kz_mono_ms() + THROTTLED_MS);
    if (!err)
        return code;
    err->code = code;
    kz_wrap(err, "table \"%s\" of Bigtable instance \"%s\" in project \"%s\"", bt->table,
            bt->instance, bt->project);
    add_remedy(bt, code, err);
    pthread_mutex_lock(&bt->problem_lock);
    snprintf(bt->problem, sizeof(bt->problem), "%s", err->message);
    atomic_store(&bt->has_problem, true);
    pthread_mutex_unlock(&bt->problem_lock);
    return code;
}

void kz_bt_worked(struct kz_bt *bt)
{
    if (KZ_LIKELY(!atomic_load_explicit(&bt->has_problem, memory_order_relaxed)))
        return;
    pthread_mutex_lock(&bt->problem_lock);
    bt->problem[0] = '\0';
    atomic_store(&bt->has_problem, false);
    pthread_mutex_unlock(&bt->problem_lock);
}
