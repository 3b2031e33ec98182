#include "app/bench/bench_features.h"

#include <stdio.h>

#include "app/config/check.h"
#include "app/commands/offline.h"
#include "sys/clock.h"
#include "sys/random.h"

enum { USERS = 2000, ROUNDS = 3 };

static enum kz_code one_user(const struct kz_offline_reader *reader, struct kz_sql_expr *expr,
        const struct kz_model_def *model, uint32_t number, struct kz_bench_features *result,
        struct kz_err *err)
{
    char id[16];
    struct kz_offline_moment moment = {.as_of = reader->end};
    struct kz_row row;
    int64_t began_ns;

    snprintf(id, sizeof(id), "u%08u", number);
    moment.user = kz_offline_find(reader->views, kz_str(id));
    moment.params = (struct kz_sql_params){.now_ms = kz_clock_ms(),
            .user_id = kz_str(id),
            .event_id = KZ_STR("bench"),
            .trigger_ts_ms = kz_clock_ms()};
    if (!moment.user)
        return KZ_OK;
    began_ns = kz_mono_ns();
    KZ_TRY(kz_offline_features(reader, expr, model, &moment, &row, err));
    kz_hist_add(&result->whole, (uint64_t)(kz_mono_ns() - began_ns));
    if (row.count)
        result->rows_mean += (double)row.values[0].integer;
    return KZ_OK;
}

/* The same users in every round; the last one counts, so pages and caches are warm. */
static enum kz_code rounds(const struct kz_offline_reader *reader, struct kz_sql_expr *expr,
        const struct kz_model_def *model, uint32_t active_count, struct kz_bench_features *ret,
        struct kz_err *err)
{
    for (int round = 0; round < ROUNDS; round++) {
        struct kz_prng prng;

        kz_prng_init(&prng, 42);
        memset(ret, 0, sizeof(*ret));
        for (int i = 0; i < USERS; i++)
            KZ_TRY(one_user(
                    reader, expr, model, (uint32_t)kz_prng_below(&prng, active_count), ret, err));
    }
    ret->rows_mean /= (double)KZ_MAX(ret->whole.count, (uint64_t)1);
    return KZ_OK;
}

enum kz_code kz_bench_features(const char *dir, const char *data, uint32_t active_count,
        struct kz_bench_features *ret, struct kz_err *err)
{
    KZ_AUTO(kz_config_freep) struct kz_config *config = kz_check_load(dir, NULL, err);
    KZ_AUTO(kz_sql_closep) struct kz_sql *sql = NULL;
    struct kz_offline_reader reader;
    const struct kz_project *project;
    struct kz_sql_expr *expr;
    enum kz_code rc;

    if (!config)
        return err->code;
    project = kz_config_project(config);
    KZ_TRY(kz_sql_open(project, &sql, err));
    KZ_TRY(kz_sql_compile(sql, KZ_SQL_FEATURES, project->models[0].features_sql,
            project->models[0].features_place, &expr, err));
    KZ_TRY(kz_offline_open_reader(project, data, &reader, err));
    rc = rounds(&reader, expr, &project->models[0], active_count, ret, err);
    kz_offline_close_reader(&reader);
    return rc;
}
