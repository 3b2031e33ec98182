/* Models that do well and models that do not: what becomes of their rows and of their processes. */
#include "rig.inc.h"

#include <signal.h>
#include <uv.h>

static struct rig rig;

/* Scores x / 100; x = 7 is where the others misbehave. */
#define MODEL(body)                                                                                \
    "class M(kizashi.Model):\n"                                                                    \
    "    def predict(self, batch):\n"                                                              \
    "        xs = [float(row[0]) for row in batch.features]\n" body                                \
    "        return [x / 100 for x in xs]\n"

static void open_model(const char *source)
{
    rig_init(&rig);
    rig_model(&rig, source, "x");
    rig_ready(&rig);
}

/* Requests 0 to count - 1 of as many users, handed over at once so that they share batches. */
static void ask_numbers(size_t count)
{
    struct kz_infer_job *first = NULL, **last = &first;
    char props[64];

    for (size_t i = 0; i < count; i++) {
        snprintf(props, sizeof(props), "{\"x\": %zu}", i);
        rig_event(&rig, (unsigned)i, props);
    }
    for (size_t i = 0; i < count; i++) {
        *last = rig_job(&rig, 0, (unsigned)i);
        last = &(*last)->next;
    }
    kz_infer_submit(rig.infer, first);
}

/* Row 7 is dead, every other one of 64 done. */
static void assert_only_7_dead(const char *code, const char *message)
{
    ask_numbers(64);
    rig_wait(&rig, 64);
    for (size_t i = 0; i < 64; i++)
        if (i != 7)
            rig_assert_done(&rig, i, (double)i / 100);
    rig_assert_dead(&rig, 7, code, message);
    assert_int_equal(rig.results[7]->stage, KZ_STAGE_INFER);
    assert_true(rig.results[7]->features.size > 0);
}

static bool is_200_done(const struct kz_infer_status *status)
{
    return status->done == 200 && status->dead == 0;
}

/* Counters are told at the end of a turn, so a result may be there before them. */
static bool has_retried(const struct kz_infer_status *status)
{
    return status->retried_batches > 0;
}

static bool has_restarted_twice(const struct kz_infer_status *status)
{
    return status->restarts >= 2;
}

static bool has_restarted_thrice(const struct kz_infer_status *status)
{
    return status->restarts >= 3;
}

static void test_good_model(void **state)
{
    (void)state;
    open_model(MODEL(""));
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

static void test_same_rows_same_hashes_and_version(void **state)
{
    uint64_t features[3], version[3];

    (void)state;
    for (int i = 0; i < 3; i++) {
        open_model(i < 2 ? MODEL("") : MODEL("        pass\n"));
        rig_ask(&rig, 0, i < 2 ? "{\"x\": 1}" : "{\"x\": 1.0}");
        rig_wait(&rig, 1);
        features[i] = rig.results[0]->features_hash;
        version[i] = rig.results[0]->version_hash;
        rig_close(&rig);
    }
    assert_true(features[0] == features[1] && version[0] == version[1]);
    assert_true(features[2] != features[0] && version[2] != version[0]);
}

static void test_raise_on_one_row_of_64(void **state)
{
    (void)state;
    open_model(MODEL("        if 7 in xs:\n            raise KeyError('seven')\n"));
    assert_only_7_dead("exception", "KeyError: 'seven'");
    rig_assert_dead(&rig, 7, "exception", "model.py");
    /* At most 2 log2(64) batches for the row at fault, and the first. */
    rig_until(&rig, 0, has_retried);
    assert_in_range(rig_status(&rig, 0).retried_batches, 1, 7);
    assert_int_equal(rig_status(&rig, 0).restarts, 0);
    rig_close(&rig);
}

static void test_sys_exit_is_an_exception(void **state)
{
    (void)state;
    open_model(MODEL("        if 7 in xs:\n            raise SystemExit(3)\n"));
    assert_only_7_dead("exception", "SystemExit");
    assert_int_equal(rig_status(&rig, 0).restarts, 0);
    rig_close(&rig);
}

static void test_wrong_shape(void **state)
{
    (void)state;
    open_model(MODEL("        if 7 in xs:\n            return xs + [1]\n"));
    assert_only_7_dead("shape", "expected");
    rig_close(&rig);
}

static void test_nan_costs_its_row_and_no_retry(void **state)
{
    (void)state;
    open_model(MODEL("        xs = [float('nan') if x == 7 else x for x in xs]\n"));
    assert_only_7_dead("nan", "nan");
    assert_int_equal(rig_status(&rig, 0).retried_batches, 0);
    rig_close(&rig);
}

static void test_nan_where_allowed(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_model(&rig, MODEL("        xs = [float('nan')] * len(xs)\n"), "x")->output.allow_nan = true;
    rig_ready(&rig);
    rig_ask(&rig, 0, "{\"x\": 1}");
    rig_wait(&rig, 1);
    assert_int_equal(rig.results[0]->end, KZ_END_DONE);
    assert_false(rig.results[0]->has_score);
    assert_true(kz_str_eq(kz_buf_view(&rig.results[0]->output), KZ_STR("null")));
    rig_close(&rig);
}

static void test_hang(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_model(&rig, MODEL("        if 7 in xs:\n            time.sleep(60)\n"), "x")->timeout_ms =
            1000;
    rig_ready(&rig);
    assert_only_7_dead("timeout", "did not return within 1000 ms");
    assert_false(rig_status(&rig, 0).fenced);
    rig_close(&rig);
}

static void test_os_exit(void **state)
{
    (void)state;
    open_model(MODEL("        if 7 in xs:\n            os._exit(42)\n"));
    assert_only_7_dead("crash", "exited with status 42");
    assert_false(rig_status(&rig, 0).fenced);
    rig_close(&rig);
}

static void test_segmentation_fault(void **state)
{
    (void)state;
    open_model(MODEL("        if 7 in xs:\n            os.kill(os.getpid(), 11)\n"));
    assert_only_7_dead("crash", "killed by signal 11");
    /* The interpreter's fault handler has said where. */
    rig_assert_dead(&rig, 7, "crash", "in predict");
    rig_close(&rig);
}

static void test_memory_hog(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_model(&rig,
            MODEL("        if 7 in xs:\n"
                  "            hog = [bytearray(b'x' * (8 << 20)) for _ in range(200)]\n"),
            "x")
            ->resources.memory_bytes = 192 << 20;
    rig_ready(&rig);
    assert_only_7_dead("oom", "emory");
    rig_close(&rig);
}

static void test_prints_a_lot(void **state)
{
    (void)state;
    open_model(MODEL("        for i in range(2000):\n"
                     "            print('line', i, 'x' * 5000)\n"));
    ask_numbers(3);
    rig_wait(&rig, 3);
    rig_assert_done(&rig, 2, 0.02);
    rig_close(&rig);
}

static void test_slow_load(void **state)
{
    struct kz_err err;

    (void)state;
    rig_init(&rig);
    rig_model(&rig,
            "class M(kizashi.Model):\n"
            "    def load(self, ctx):\n"
            "        time.sleep(2)\n"
            "        self.greeting = ctx.config['greeting']\n"
            "    def predict(self, batch):\n"
            "        return [{'score': 2, 'says': self.greeting}] * len(batch)\n",
            "x");
    rig_open(&rig);
    rig_ask(&rig, 0, "{\"x\": 1}");
    assert_int_equal(kz_infer_wait_ready(rig.infer, 50, NULL, NULL, &err), KZ_TIMEOUT);
    rig_wait(&rig, 1);
    rig_assert_done(&rig, 0, 2);
    assert_true(kz_str_eq(
            kz_buf_view(&rig.results[0]->output), KZ_STR("{\"score\":2,\"says\":\"hello\"}")));
    assert_true(rig.results[0]->wait_us > 1000000);
    rig_close(&rig);
}

static bool is_fenced(const struct kz_infer_status *status)
{
    return status->fenced;
}

static bool is_ready(const struct kz_infer_status *status)
{
    return status->replicas_ready > 0 && !status->fenced;
}

static unsigned reported;

static void on_report(void *arg, unsigned model, const char *problem)
{
    assert_ptr_equal(arg, &reported);
    assert_int_equal(model, 0);
    assert_non_null(strstr(problem, "no artefact"));
    reported++;
}

static void test_load_exception_fences_and_unfence_tries_again(void **state)
{
    struct kz_err err;
    char flag[100];
    FILE *file;

    (void)state;
    rig_init(&rig);
    rig.options.fence_after = 3;
    rig_model(&rig,
            "class M(kizashi.Model):\n"
            "    def load(self, ctx):\n"
            "        if not os.path.exists(os.path.join(ctx.path, 'ok')):\n"
            "            raise ValueError('no artefact')\n"
            "    def predict(self, batch):\n"
            "        return [1.0] * len(batch)\n",
            "x");
    rig_open(&rig);
    rig_ask(&rig, 0, "{\"x\": 1}");
    assert_int_equal(
            kz_infer_wait_ready(rig.infer, RIG_WAIT_MS, on_report, &reported, &err), KZ_MODEL);
    assert_int_equal(reported, 1);
    rig_until(&rig, 0, is_fenced);
    assert_int_equal(kz_infer_room(rig.infer, 0), 0);
    rig_take(&rig);
    assert_int_equal(rig.done, 0); /* its job waits */
    rig_until(&rig, 0, has_restarted_thrice);
    snprintf(flag, sizeof(flag), "%s/ok", rig.models[0].path);
    file = fopen(flag, "w");
    assert_non_null(file);
    fclose(file);
    kz_infer_unfence(rig.infer, 0);
    rig_wait(&rig, 1);
    rig_assert_done(&rig, 0, 1);
    rig_until(&rig, 0, is_ready);
    assert_true(kz_infer_room(rig.infer, 0) > 0);
    rig_close(&rig);
}

static void test_a_model_that_always_crashes_is_fenced(void **state)
{
    (void)state;
    open_model(MODEL("        os._exit(1)\n"));
    ask_numbers(64);
    rig_until(&rig, 0, is_fenced);
    assert_int_equal(kz_infer_room(rig.infer, 0), 0);
    rig_close(&rig);
}

static bool is_busy(const struct kz_infer_status *status)
{
    return status->batches > 0;
}

static void test_deadlines_hold_while_a_model_is_away(void **state)
{
    struct kz_infer_job *job;

    (void)state;
    rig_init(&rig);
    rig_model(&rig, MODEL("        time.sleep(3)\n"), "x");
    rig_ready(&rig);
    rig_ask(&rig, 0, "{\"x\": 1}");
    rig_until(&rig, 0, is_busy);
    rig_event(&rig, 1, "{\"x\": 2}");
    job = rig_job(&rig, 0, 1);
    job->deadline_ms = kz_clock_ms() - 1; /* before its features */
    kz_infer_submit(rig.infer, job);
    rig_event(&rig, 2, "{\"x\": 3}");
    job = rig_job(&rig, 0, 2);
    job->deadline_ms = kz_clock_ms() + 100; /* before its replica */
    kz_infer_submit(rig.infer, job);
    rig_wait(&rig, 3);
    rig_assert_done(&rig, 0, 0.01);
    assert_int_equal(rig.results[1]->end, KZ_END_EXPIRED);
    assert_int_equal(rig.results[2]->end, KZ_END_EXPIRED);
    assert_int_equal(rig.results[2]->attempt_count, 0);
    rig_close(&rig);
}

/* Its replica died with it, and there is no other: it waits to be tried again, but not past its time. */
static void test_deadlines_hold_for_what_is_to_be_tried_again(void **state)
{
    struct kz_infer_job *job;

    (void)state;
    rig_init(&rig);
    rig.options.fence_after = 2;
    rig_model(&rig,
            "class M(kizashi.Model):\n"
            "    def load(self, ctx):\n"
            "        self.gone = os.path.join(ctx.path, 'gone')\n"
            "        if os.path.exists(self.gone):\n"
            "            raise ValueError('gone')\n"
            "    def predict(self, batch):\n"
            "        open(self.gone, 'w').close()\n"
            "        os._exit(1)\n",
            "x");
    rig_ready(&rig);
    rig_event(&rig, 0, "{\"x\": 1}");
    job = rig_job(&rig, 0, 0);
    job->deadline_ms = kz_clock_ms() + 1500;
    kz_infer_submit(rig.infer, job);
    rig_wait(&rig, 1);
    assert_int_equal(rig.results[0]->end, KZ_END_EXPIRED);
    assert_int_equal(rig.results[0]->attempt_count, 1);
    rig_close(&rig);
}

static void test_raw_history(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_model(&rig,
            "class M(kizashi.Model):\n"
            "    def predict(self, batch):\n"
            "        return [{'names': [e['name'] for e in batch.history(i)],\n"
            "                 'xs': [e['props']['x'] for e in batch.history(i)],\n"
            "                 'ts': batch.history(i)[-1]['ts'], 'cut': batch.truncated[i],\n"
            "                 'user': batch.user_ids[i], 'now': batch.now[i]} for i in range(len(batch))]\n",
            NULL)
            ->history.events_max = 2;
    rig_ready(&rig);
    rig_event(&rig, 3, "{\"x\": 1}");
    rig_event(&rig, 3, "{\"x\": 2}");
    rig_ask(&rig, 3, "{\"x\": \"\xc3\xa9\"}");
    rig_wait(&rig, 1);
    assert_int_equal(rig.results[0]->end, KZ_END_DONE);
    assert_false(rig.results[0]->has_score);
    assert_int_equal(rig.results[0]->features.size, 0);
    if (!kz_str_eq(kz_buf_view(&rig.results[0]->output),
                KZ_STR("{\"names\":[\"view\",\"view\"],\"xs\":[2,\"\xc3\xa9\"],\"ts\":1002,\"cut\":true,"
                       "\"user\":\"u3\",\"now\":5003}")))
        fail_msg(KZ_STR_FMT, KZ_STR_ARG(kz_buf_view(&rig.results[0]->output)));
    rig_close(&rig);
}

static void assert_output(size_t request, const char *expected)
{
    struct kz_str output = kz_buf_view(&rig.results[request]->output);

    if (!kz_str_is(output, expected))
        fail_msg("expected %s, is " KZ_STR_FMT, expected, KZ_STR_ARG(output));
}

static void test_classes(void **state)
{
    static const char *three[] = {"stay", "browse", "buy"}, *two[] = {"no", "yes"};
    struct kz_model_def *def;

    (void)state;
    rig_init(&rig);
    def = rig_model(&rig, MODEL("        return [[0.25, 0.5, 0.25] for x in xs]\n"), "x");
    def->output.kind = KZ_OUTPUT_CLASSES;
    def->output.classes = three;
    def->output.class_count = 3;
    rig_ready(&rig);
    rig_ask(&rig, 0, "{\"x\": 1}");
    rig_wait(&rig, 1);
    assert_output(
            0, "{\"classes\":{\"stay\":0.25,\"browse\":0.5,\"buy\":0.25},\"class\":\"browse\"}");
    assert_false(rig.results[0]->has_score);
    rig_close(&rig);

    rig_init(&rig);
    def = rig_model(&rig, MODEL("        return [[0.25, 0.75] for x in xs]\n"), "x");
    def->output.kind = KZ_OUTPUT_CLASSES;
    def->output.classes = two;
    def->output.class_count = 2;
    rig_ready(&rig);
    rig_ask(&rig, 0, "{\"x\": 1}");
    rig_wait(&rig, 1);
    rig_assert_done(&rig, 0, 0.75);
    assert_output(0, "{\"classes\":{\"no\":0.25,\"yes\":0.75},\"class\":\"yes\"}");
    rig_close(&rig);
}

static void test_select_and_embedding(void **state)
{
    struct kz_model_def *def;

    (void)state;
    rig_init(&rig);
    def = rig_model(&rig, MODEL("        return [[0.25, x, 0.5] for x in xs]\n"), "x");
    def->output.kind = KZ_OUTPUT_SELECT;
    def->output.select = 1;
    rig_ready(&rig);
    rig_ask(&rig, 0, "{\"x\": 4}");
    rig_wait(&rig, 1);
    rig_assert_done(&rig, 0, 4);
    assert_output(0, "[0.25,4.0,0.5]");
    rig_close(&rig);

    rig_init(&rig);
    def = rig_model(&rig, MODEL("        return [[x, x] if x == 1 else [x] for x in xs]\n"), "x");
    def->output.kind = KZ_OUTPUT_EMBEDDING;
    def->output.embedding_size = 2;
    rig_ready(&rig);
    rig_ask(&rig, 0, "{\"x\": 1}");
    rig_wait(&rig, 1);
    rig_ask(&rig, 1, "{\"x\": 2}");
    rig_wait(&rig, 2);
    assert_output(0, "[1.0,1.0]");
    assert_false(rig.results[0]->has_score);
    rig_assert_dead(&rig, 1, "shape", "expected");
    rig_close(&rig);
}

/* The column `city` is NULL in the first rows and text in a later one: the model is loaded anew, and
 * no row is lost. */
static void test_a_column_that_turns_out_to_be_text(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_model(&rig,
            "class M(kizashi.Model):\n"
            "    def predict(self, batch):\n"
            "        return [{'names': list(batch.names), 'text': list(batch.text_names),\n"
            "                 'city': batch.column('city')[i]\n"
            "                     if 'city' in batch.text_names else '-'} for i in range(len(batch))]\n",
            "x,city,count");
    rig_ready(&rig);
    rig_ask(&rig, 0, "{\"x\": 1}");
    rig_wait(&rig, 1);
    rig_ask(&rig, 1, "{\"x\": 2, \"city\": \"Oita\"}");
    rig_ask(&rig, 2, "{\"x\": 2}");
    rig_ask(&rig, 3, "{\"x\": 2, \"city\": 12}");
    rig_wait(&rig, 4);
    assert_output(0, "{\"names\":[\"x\",\"city\",\"count\"],\"text\":[],\"city\":\"-\"}");
    assert_output(1, "{\"names\":[\"x\",\"count\"],\"text\":[\"city\"],\"city\":\"Oita\"}");
    assert_output(2, "{\"names\":[\"x\",\"count\"],\"text\":[\"city\"],\"city\":null}");
    assert_output(3, "{\"names\":[\"x\",\"count\"],\"text\":[\"city\"],\"city\":\"12\"}");
    assert_int_equal(rig_status(&rig, 0).restarts, 0);
    rig_close(&rig);
}

static void test_failing_features_are_dead_letters(void **state)
{
    (void)state;
    open_model(MODEL(""));
    rig_ask(&rig, 0, "{\"x\": 1, \"fail\": true}");
    rig_ask(&rig, 1, "{\"x\": 1, \"steps\": 1000000000}"); /* too much for the slow lane, too */
    rig_ask(&rig, 2, "{\"x\": 1, \"steps\": 10000000}");   /* too much for the fast lane only */
    rig_ask(&rig, 3, "{\"x\": 3}");
    rig_wait(&rig, 4);
    rig_assert_dead(&rig, 0, "features", "asked to fail");
    assert_int_equal(rig.results[0]->stage, KZ_STAGE_FEATURES);
    rig_assert_dead(&rig, 1, "features_timeout", "steps");
    rig_assert_done(&rig, 2, 0.01);
    rig_assert_done(&rig, 3, 0.03);
    rig_close(&rig);
}

static void test_a_long_history_goes_to_the_slow_lane(void **state)
{
    (void)state;
    rig_init(&rig);
    rig.options.slow_events = 10;
    rig_model(&rig, MODEL(""), "count")->history.events_max = 0;
    rig_ready(&rig);
    for (int i = 0; i < 5000; i++)
        rig_event(&rig, 0, "{}");
    rig_ask(&rig, 0, "{}");
    rig_ask(&rig, 1, "{}");
    rig_wait(&rig, 2);
    rig_assert_done(&rig, 0, 50.01);
    rig_assert_done(&rig, 1, 0.01);
    rig_close(&rig);
}

static void set_columns(void)
{
    static struct kz_column_def columns[] = {
            {.name = "a", .type = KZ_TYPE_FLOAT},
            {.name = "b", .type = KZ_TYPE_INT},
            {.name = "c", .type = KZ_TYPE_TEXT},
    };

    rig.project.events.columns = columns;
    rig.project.events.column_count = KZ_ARRAY_COUNT(columns);
    rig.project.events.columns_id = 7;
}

static void test_what_models_read_is_kept_for_the_fast_lane(void **state)
{
    (void)state;
    rig_init(&rig);
    rig.options.history_bytes = 1 << 20;
    rig.options.slow_events = 10;
    set_columns();
    rig_model(&rig, MODEL(""), "count")->history.events_max = 0;
    rig_ready(&rig);
    assert_int_equal(rig.caches, 1);
    assert_int_equal(rig.cache_bytes, 1 << 20);
    assert_true(rig.cache_parts.name && !rig.cache_parts.props && !rig.cache_parts.event_id);
    assert_int_equal(rig.cache_parts.columns, 5);
    assert_int_equal(rig.cache_parts.columns_id, 7);
    rig_ask(&rig, 1, "{}");
    rig_wait(&rig, 1);
    assert_int_equal(rig.scans_cached, 1);
    for (int i = 0; i < 50; i++)
        rig_event(&rig, 0, "{}");
    rig_ask(&rig, 0, "{}"); /* the fast lane sees that it is long */
    rig_wait(&rig, 2);
    assert_int_equal(rig.scans_cached, 2);
    assert_int_equal(rig.scans_plain, 1);
    rig_close(&rig);
    assert_int_equal(rig.caches, 0);
}

static void test_a_raw_history_is_kept_whole(void **state)
{
    (void)state;
    rig_init(&rig);
    rig.options.history_bytes = 1 << 20;
    set_columns();
    rig_model(&rig, MODEL(""), "count");
    rig_model(&rig, MODEL(""), NULL);
    rig_open(&rig);
    assert_true(rig.cache_parts.name && rig.cache_parts.props && rig.cache_parts.event_id);
    assert_int_equal(rig.cache_parts.columns, 7); /* the project's columns, and no more */
    rig_close(&rig);
}

/* What is computed on events of somebody erased meanwhile does not come to be kept again. */
static void test_nobody_forgotten_is_kept_for_a_job_from_before(void **state)
{
    const uint64_t owner = 2;

    (void)state;
    rig_init(&rig);
    rig.options.history_bytes = 1 << 20;
    rig_model(&rig, MODEL(""), "count");
    rig_ready(&rig);
    atomic_store(&rig.hold_scans, true);
    rig_ask(&rig, 1, "{}");
    while (!atomic_load(&rig.scans_cached)) /* the thread is in there, or never comes there */
        usleep(1000);
    rig_ask(&rig, 2, "{}");
    kz_infer_forget(rig.infer, &owner, 1);
    atomic_store(&rig.hold_scans, false);
    rig_wait(&rig, 2);
    assert_int_equal(rig.forgets, 1);
    assert_int_equal(rig.forgotten, 2);
    assert_int_equal(rig.scans_cached, 1);
    assert_int_equal(rig.scans_plain, 1);
    rig_ask(&rig, 2, "{}"); /* they are there again */
    rig_wait(&rig, 3);
    assert_int_equal(rig.scans_cached, 2);
    assert_int_equal(rig.scans_plain, 1);
    rig_close(&rig);
}

static bool has_three(const struct kz_infer_status *status)
{
    return status->replicas_ready == 3;
}

static size_t file_size(const char *path, const char *name)
{
    char full[200];
    struct stat st;

    snprintf(full, sizeof(full), "%s/%s", path, name);
    return stat(full, &st) == 0 ? (size_t)st.st_size : 0;
}

/* Something always waits, however long the new ones take to start. */
static unsigned ask_until_three(void)
{
    int64_t until_ms = kz_mono_ms() + RIG_WAIT_MS;
    struct kz_infer_status status = {0};
    unsigned asked = 0;

    while (!has_three(&status)) {
        assert_true(kz_mono_ms() < until_ms && asked < RIG_USERS_MAX - 30);
        while (asked < rig.done + 10)
            rig_ask(&rig, asked++, "{\"x\": 3}");
        usleep(2000);
        rig_take(&rig);
        status = rig_status(&rig, 0);
    }
    return asked;
}

/* More replicas are forked from the first, which has one thread: load() ran once. They began in its
 * process group, so this also shows that the end of one leaves the others. */
static void test_scales_up_by_forks_and_replaces_one(void **state)
{
    unsigned asked, bad;

    (void)state;
    rig_init(&rig);
    rig_model(&rig,
            "class M(kizashi.Model):\n"
            "    def load(self, ctx):\n"
            "        open(os.path.join(ctx.path, '.loads'), 'a').write('x')\n"
            "    def predict(self, batch):\n"
            "        xs = [float(row[0]) for row in batch.features]\n"
            "        time.sleep(0.05)\n"
            "        if 47 in xs:\n"
            "            os._exit(1)\n"
            "        return [x / 100 for x in xs]\n",
            "x");
    rig.models[0].replicas.max = 3;
    rig.models[0].batch.size_max = 1;
    rig_ready(&rig);
    asked = ask_until_three();
    assert_int_equal(file_size(rig.models[0].path, ".loads"), 1);
    assert_int_equal(rig_children(), 3);
    bad = (unsigned)rig_ask(&rig, asked, "{\"x\": 47}");
    for (unsigned i = 0; i < 20; i++)
        rig_ask(&rig, asked + 1 + i, "{\"x\": 3}");
    rig_wait(&rig, asked + 21);
    for (unsigned i = 0; i < asked + 21; i++)
        if (i != bad)
            rig_assert_done(&rig, i, 0.03);
    rig_assert_dead(&rig, bad, "crash", "");
    rig_until(&rig, 0, has_restarted_twice);
    assert_int_equal(rig_status(&rig, 0).restarts, 2); /* the row once more on a fresh replica */
    rig_close(&rig);
}

/* ---- a replica that answers from a timer ---- */

struct kz_replica {
    const struct kz_replica_events *events;
    void *arg;
    uv_timer_t timer;
    bool ready;
    double score;
};

static void on_replica_closed(uv_handle_t *handle)
{
    free(KZ_CONTAINER_OF(handle, struct kz_replica, timer));
}

static void on_replica_due(uv_timer_t *timer)
{
    struct kz_replica *replica = timer->data;
    struct kz_batch_row row = {.state = KZ_ROW_OK, .values = &replica->score, .value_count = 1};
    struct kz_batch_outcome outcome = {.code = KZ_OK, .model_us = 1, .rows = &row, .row_count = 1};

    if (replica->ready) {
        replica->events->done(replica->arg, replica, &outcome);
        return;
    }
    replica->ready = true;
    replica->events->ready(replica->arg, replica);
}

static enum kz_code start_replica(
        const struct kz_replica_start *start, struct kz_replica **ret_replica, struct kz_err *err)
{
    struct kz_replica *replica = kz_calloc(1, sizeof(*replica));

    (void)err;
    *replica = (struct kz_replica){.events = start->events, .arg = start->arg, .score = 0.5};
    uv_timer_init(start->loop, &replica->timer);
    replica->timer.data = replica;
    uv_timer_start(&replica->timer, on_replica_due, 0, 0);
    *ret_replica = replica;
    return KZ_OK;
}

static enum kz_code predict_at_once(struct kz_replica *replica, const struct kz_batch *batch,
        int64_t timeout_ms, struct kz_err *err)
{
    (void)batch, (void)timeout_ms, (void)err;
    uv_timer_start(&replica->timer, on_replica_due, 0, 0);
    return KZ_OK;
}

static void stop_replica(struct kz_replica *replica)
{
    uv_close((uv_handle_t *)&replica->timer, on_replica_closed);
}

static int no_pid(const struct kz_replica *replica)
{
    (void)replica;
    return 0;
}

/* It did, up to a second, where the timer was due before the loop went to sleep. */
static void test_what_a_timer_brings_does_not_wait_for_the_next_tick(void **state)
{
    static const struct kz_runtime_ops timed = {.name = "timed",
            .native = true,
            .start = start_replica,
            .predict = predict_at_once,
            .stop = stop_replica,
            .pid = no_pid};
    static const struct kz_runtime_ops *const runtimes[] = {&timed, NULL};
    unsigned late = 0;

    (void)state;
    rig_init(&rig);
    rig_model(&rig, "", "x")->runtime = "timed";
    rig.options.runtimes = runtimes;
    rig_ready(&rig);
    for (unsigned i = 0; i < 30; i++) {
        struct pollfd bell = {.fd = rig.bell, .events = POLLIN};
        int64_t asked_ms = kz_mono_ms();
        uint64_t drained;

        rig_ask(&rig, i, "{}");
        for (; rig.done == i; rig_take(&rig)) { /* as up does: only when it is told to */
            assert_int_equal(poll(&bell, 1, RIG_WAIT_MS), 1);
            assert_int_equal(read(rig.bell, &drained, sizeof(drained)), sizeof(drained));
        }
        rig_assert_done(&rig, i, 0.5);
        late += kz_mono_ms() - asked_ms >= 400;
    }
    assert_true(late < 10); /* a busy machine may be late now and then, a tick most times */
    rig_close(&rig);
}

static void test_min_0_starts_with_the_first_job(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_model(&rig, MODEL(""), "x")->replicas.min = 0;
    rig_ready(&rig);
    assert_int_equal(rig_status(&rig, 0).replicas_ready + rig_status(&rig, 0).replicas_starting, 0);
    rig_ask(&rig, 0, "{\"x\": 5}");
    rig_wait(&rig, 1);
    rig_assert_done(&rig, 0, 0.05);
    rig_close(&rig);
}

static void test_closing_while_busy_leaves_no_process(void **state)
{
    (void)state;
    open_model(MODEL("        os.system('sleep 100 & sleep 100')\n"));
    ask_numbers(64);
    rig_until(&rig, 0, is_busy);
    rig_close(&rig); /* asserts that there are no children */

    rig_init(&rig); /* and while loading */
    rig_model(&rig, "time.sleep(100)\n", "x");
    rig_open(&rig);
    rig_ask(&rig, 0, "{\"x\": 5}");
    usleep(100000);
    rig_close(&rig);
}

static void test_pause_ends_room_only(void **state)
{
    (void)state;
    open_model(MODEL(""));
    assert_int_equal(kz_infer_room(rig.infer, 0), 8192);
    rig_ask(&rig, 0, "{\"x\": 5}");
    kz_infer_pause(rig.infer, 0, true);
    assert_int_equal(kz_infer_room(rig.infer, 0), 0);
    rig_wait(&rig, 1);
    assert_true(rig_status(&rig, 0).paused);
    kz_infer_pause(rig.infer, 0, false);
    assert_int_equal(kz_infer_room(rig.infer, 0), 8192);
    rig_close(&rig);
}

static void test_bad_sql_and_runtime_are_refused(void **state)
{
    struct kz_err err;

    (void)state;
    rig_init(&rig);
    rig_model(&rig, MODEL(""), "bad")->features_place = (struct kz_place){"f.sql", 2, 5};
    assert_int_equal(kz_infer_open(&rig.options, &rig.infer, &err), KZ_CONFIG);
    assert_string_equal(err.message, "f.sql:2:5: near \"bad\"");
    rig.models[0].features_sql = (char *)(uintptr_t) "x";
    rig.models[0].runtime = "fortran";
    assert_int_equal(kz_infer_open(&rig.options, &rig.infer, &err), KZ_CONFIG);
    assert_non_null(strstr(err.message, "fortran"));
    rig_close(&rig);
}

static void test_probe_tells_what_models_run_with(void **state)
{
    struct kz_python python;
    struct kz_project project = {.name = "p", .dir = "/nowhere"};

    (void)state;
    kz_python_probe(&project, &python);
    assert_true(python.found);
    assert_true(python.interpreter[0] == '/' && python.version[0] == '3' && python.kizashi[0]);
    project.limits.python = "/bin/false";
    kz_python_probe(&project, &python);
    assert_false(python.found);
    assert_non_null(strstr(python.problem, "/bin/false"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_good_model),
            cmocka_unit_test(test_same_rows_same_hashes_and_version),
            cmocka_unit_test(test_raise_on_one_row_of_64),
            cmocka_unit_test(test_sys_exit_is_an_exception),
            cmocka_unit_test(test_wrong_shape),
            cmocka_unit_test(test_nan_costs_its_row_and_no_retry),
            cmocka_unit_test(test_nan_where_allowed),
            cmocka_unit_test(test_hang),
            cmocka_unit_test(test_os_exit),
            cmocka_unit_test(test_segmentation_fault),
            cmocka_unit_test(test_memory_hog),
            cmocka_unit_test(test_prints_a_lot),
            cmocka_unit_test(test_slow_load),
            cmocka_unit_test(test_load_exception_fences_and_unfence_tries_again),
            cmocka_unit_test(test_a_model_that_always_crashes_is_fenced),
            cmocka_unit_test(test_deadlines_hold_while_a_model_is_away),
            cmocka_unit_test(test_deadlines_hold_for_what_is_to_be_tried_again),
            cmocka_unit_test(test_raw_history),
            cmocka_unit_test(test_classes),
            cmocka_unit_test(test_select_and_embedding),
            cmocka_unit_test(test_a_column_that_turns_out_to_be_text),
            cmocka_unit_test(test_failing_features_are_dead_letters),
            cmocka_unit_test(test_a_long_history_goes_to_the_slow_lane),
            cmocka_unit_test(test_what_models_read_is_kept_for_the_fast_lane),
            cmocka_unit_test(test_a_raw_history_is_kept_whole),
            cmocka_unit_test(test_nobody_forgotten_is_kept_for_a_job_from_before),
            cmocka_unit_test(test_scales_up_by_forks_and_replaces_one),
            cmocka_unit_test(test_what_a_timer_brings_does_not_wait_for_the_next_tick),
            cmocka_unit_test(test_min_0_starts_with_the_first_job),
            cmocka_unit_test(test_closing_while_busy_leaves_no_process),
            cmocka_unit_test(test_pause_ends_room_only),
            cmocka_unit_test(test_bad_sql_and_runtime_are_refused),
            cmocka_unit_test(test_probe_tells_what_models_run_with),
    };
    char path[4096];

    setenv("KIZASHI_PYTHONPATH", realpath("python", path), 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
