#include "rig.inc.h"

static struct rig rig;

static const char good[] = "class M(kizashi.Model):\n"
                           "    def predict(self, batch):\n"
                           "        return [row[0] / 100 for row in batch.features]\n";

static void ask_numbers(size_t count)
{
    char props[64];

    for (size_t i = 0; i < count; i++) {
        snprintf(props, sizeof(props), "{\"x\": %zu}", i);
        rig_ask(&rig, (unsigned)i, props);
    }
}

static bool is_200_done(const struct kz_infer_status *status)
{
    return status->done == 200 && status->dead == 0;
}

static void test_good_model(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_model(&rig, good, "x,count");
    rig_ready(&rig);
    ask_numbers(200);
    rig_wait(&rig, 200);
    for (size_t i = 0; i < 200; i++) {
        const struct kz_infer_result *r = rig.results[i];

        rig_assert_done(&rig, i, (double)i / 100);
        assert_int_equal(r->attempt_count, 1);
        assert_int_equal(strlen(r->version), 12);
        assert_true(r->features_hash && r->version_hash && r->features.size);
    }
    assert_true(kz_str_eq(kz_buf_view(&rig.results[125]->output), KZ_STR("1.25")));
    rig_until(&rig, 0, is_200_done);
    assert_int_equal(rig_status(&rig, 0).inside, 0);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_good_model),
    };
    char path[4096];

    setenv("KIZASHI_PYTHONPATH", realpath("python", path), 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
