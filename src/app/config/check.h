/* app/config/check.h -- every check of a project that can be made before it runs: SQL compiles, tables load,
 * time zones exist, models load.
 */
#pragma once

#include "app/config/config.h"
#include "contract/infer.h"

/* Compiles all SQL of a loaded project. Reports each problem; gives how many there were. */
size_t kz_check_sql(const struct kz_project *project, kz_config_report *report, void *arg);
/* Whether enough of a project with problems was read to compile its SQL. */
bool kz_check_can_sql(const struct kz_project *project);
/* Loads every model once with its runtime and lets it go again. */
size_t kz_check_models(const struct kz_project *project,
        const struct kz_runtime_ops *const *runtimes, int64_t timeout_ms, kz_config_report *report,
        void *arg);

/* A kz_config_report that prints to stderr, the way out in a second line; `arg` is not used. */
void kz_check_print(void *arg, const struct kz_err *err);

/* Loads and checks a project, printing every problem to stderr; NULL (and `err`) where it is wrong.
 * The caller frees the config. */
struct kz_config *kz_check_load(const char *dir, const char *env, struct kz_err *err);

/* The runtimes of this build, ended by NULL. */
const struct kz_runtime_ops *const *kz_runtimes(void);
