/* What a request costs in the infer role: CPU of this process over the backends in memory, whose share is small
 * beside a network's. KZ_COST_REQUESTS says how many (default 2,000, which only shows that it runs).
 */
#include "rig.h"

#include <sys/resource.h>

#include "app/roles/process.h"

enum { USERS = 500, EVENTS_EACH = 50 };

static double cpu_us(void)
{
    struct rusage usage;

    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    return (double)usage.ru_utime.tv_sec * 1e6 + (double)usage.ru_utime.tv_usec +
           (double)usage.ru_stime.tv_sec * 1e6 + (double)usage.ru_stime.tv_usec;
}

struct requests {
    struct rig_request *items;
    size_t count;
};

static void keep(struct requests *requests, const struct kz_process_outcome *outcome, size_t most)
{
    for (size_t i = 0; i < outcome->request_count && requests->count < most; i++) {
        struct rig_request *request = &requests->items[requests->count++];
        struct kz_request_message message;
        struct kz_buf hold = {0};
        struct kz_str model;
        struct kz_err err;

        assert_int_equal(
                kz_request_message_decode(outcome->requests[i].message, &hold, &message, &err),
                KZ_OK);
        model = kz_request_message_model(&message);
        request->owner = message.owner;
        snprintf(request->model, sizeof(request->model), KZ_STR_FMT, KZ_STR_ARG(model));
        kz_buf_str(&request->message, outcome->requests[i].message);
        kz_buf_done(&hold);
    }
}

/* EVENTS_EACH events of each user, the last ones views that ask the model. */
static struct requests make_requests(struct rig *rig, size_t most)
{
    struct kz_process_options options = {.project = &rig_project, .store = rig->store};
    struct requests requests = {.items = kz_calloc(most, sizeof(struct rig_request))};
    struct kz_process *process = NULL;
    size_t views = most / USERS;
    int64_t now_ms = kz_clock_ms();
    struct kz_err err;

    assert_int_equal(kz_process_open(&options, &process, &err), KZ_OK);
    for (size_t e = 0; e < EVENTS_EACH + views; e++) {
        for (unsigned u = 0; u < USERS; u++) {
            struct kz_intake_item *item = kz_calloc(1, sizeof(*item));
            struct kz_process_outcome outcome = {0};
            char id[24], user[24];

            snprintf(id, sizeof(id), "e%zu", e);
            snprintf(user, sizeof(user), "user-%u", u);
            item->event = (struct kz_event){.user_id = kz_str(user),
                    .event_id = kz_str(id),
                    .name = e < EVENTS_EACH ? KZ_STR("seen") : KZ_STR("view"),
                    .props = KZ_STR("{\"price\":3}"),
                    .received_at_ms = now_ms,
                    .columns_id = 77,
                    .columns = item->columns,
                    .column_count = 1};
            item->columns[0] = (struct kz_value){.type = KZ_TYPE_FLOAT, .real = 3};
            assert_int_equal(kz_process_events(process, &item, 1, &outcome, &err), KZ_OK);
            keep(&requests, &outcome, most);
            free(item);
        }
    }
    kz_process_close(process);
    return requests;
}

static void a_request_costs_so_much(void **state)
{
    const char *text = getenv("KZ_COST_REQUESTS");
    size_t most = text ? (size_t)atoi(text) : 2000;
    struct rig *rig = rig_new();
    struct requests requests;
    struct kz_pipeline_counters counters;
    struct kz_role *role;
    double before_us, cpu;
    int64_t start_ms, until_ms;

    (void)state;
    rig_project.action_count = 1;
    rig_actions[0].holdout = 0;
    rig_models[1].after_when = "counter.score >= 1000000"; /* none comes after */
    requests = make_requests(rig, most);
    for (size_t i = 0; i < requests.count; i++)
        rig_publish_request(rig, &requests.items[i]);
    before_us = cpu_us(); /* what was before is process's */
    start_ms = kz_mono_ms();
    until_ms = start_ms + 100000;
    role = rig_open(rig, &kz_role_infer, false);
    do {
        usleep(20000);
        counters = (struct kz_pipeline_counters){0};
        role->ops->counters(role, &counters);
    } while (counters.requests_done_total < requests.count && kz_mono_ms() < until_ms);
    cpu = cpu_us() - before_us;
    print_message("%zu requests, %zu events of history: %.1f us CPU each, %.0f a second\n",
            requests.count, (size_t)EVENTS_EACH, cpu / (double)requests.count,
            (double)requests.count * 1e3 / (double)KZ_MAX(kz_mono_ms() - start_ms, (int64_t)1));
    assert_int_equal(counters.requests_done_total, requests.count);
    rig_free(rig);
    for (size_t i = 0; i < requests.count; i++)
        kz_buf_done(&requests.items[i].message);
    free(requests.items);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_request_costs_so_much),
    };

    kz_diag_set(KZ_DIAG_ERROR, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
