/* app/config/config.h -- reading a project directory: kizashi.yaml, its overlay, and the files it names.
 *
 * Reads everything and reports every error, each with its place, before it fails. SQL is compiled
 * by the stages; app/config/check.c puts both together.
 *
 * Owner    the project and all its strings live in the config.
 */
#pragma once

#include "base/arena.h"
#include "contract/project.h"

struct kz_config;

/* Called once for each problem; message is "file:line:column: ...". */
typedef void kz_config_report(void *arg, const struct kz_err *err);

/* `env` NULL: no overlay. Fails with KZ_CONFIG after all problems were reported ("3 errors in
 * shop/kizashi.yaml"), or KZ_NOT_FOUND where there is no project at `dir`. */
KZ_MUST_USE enum kz_code kz_config_load(const char *dir, const char *env, kz_config_report *report,
        void *arg, struct kz_config **ret_config, struct kz_err *err);
/* The same, but what could be read is given in spite of problems, so that SQL can be checked as well
 * and all errors come in one go. It is a project only where `ret_problems` is 0. Fails only where
 * nothing could be read. */
KZ_MUST_USE enum kz_code kz_config_read(const char *dir, const char *env, kz_config_report *report,
        void *arg, struct kz_config **ret_config, size_t *ret_problems, struct kz_err *err);
void kz_config_free(struct kz_config *config);
KZ_DEFINE_FREEP(struct kz_config, kz_config_free)
const struct kz_project *kz_config_project(const struct kz_config *config);
/* What is accepted and has no effect, each as "file:line:column: ..."; ends with NULL. */
const char *const *kz_config_notices(const struct kz_config *config);
