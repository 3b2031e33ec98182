/* app/config/config_int.h -- reading kizashi.yaml from the inside: fields of a map, and the parts of a
 * project.
 *
 * A reader goes on after a problem, so that all of them are reported in one go; what it gives then
 * is the standard value. Strings live in the reader's arena.
 */
#pragma once

#include "app/config/config.h"
#include "app/config/yaml.h"

struct kz_config_found {
    struct kz_place place;
    const char *message;
};

struct kz_config_reader {
    struct kz_arena *arena;
    const char *dir;
    const char *given; /* the same as it was given, for messages */
    kz_config_report *report;
    void *arg;
    struct kz_config_found *found; /* [problems]; kept until all are there */
    size_t problems;
    const char **notices; /* what is accepted and has no effect; NULL-terminated, in the arena */
    size_t notice_count;
};

/* A map whose keys are ticked off as they are read; what is left is unknown. */
struct kz_fields {
    struct kz_config_reader *reader;
    const struct kz_yaml *map;
    const char *what; /* "trigger \"browsing\"" */
    uint64_t seen;
    const char *known[48]; /* for "did you mean" */
    size_t known_count;
};

void kz_config_problem(struct kz_config_reader *reader, struct kz_place place, const char *fmt, ...)
        KZ_PRINTF(3, 4);
/* Tells the caller of all problems, those of one file in its order; once, at the end. */
void kz_config_report_all(struct kz_config_reader *reader);
/* Accepted, but without an effect: `check` says so. */
void kz_config_notice(struct kz_config_reader *reader, struct kz_place place, const char *fmt, ...)
        KZ_PRINTF(3, 4);

/* Begins to read a map; NULL and null are an empty one. */
struct kz_fields kz_fields(
        struct kz_config_reader *reader, const struct kz_yaml *map, const char *what);
/* The value under `key`, NULL where there is none; the key is known from then on. */
const struct kz_yaml *kz_fields_take(struct kz_fields *f, const char *key);
/* Every key that was not taken is a problem. */
void kz_fields_finish(struct kz_fields *f);

/* Each takes `key`; `standard` (or NULL) where it is not given or wrong. */
const char *kz_fields_text(struct kz_fields *f, const char *key, struct kz_place *ret_place);
int64_t kz_fields_duration(struct kz_fields *f, const char *key, int64_t standard_ms);
uint64_t kz_fields_bytes(struct kz_fields *f, const char *key, uint64_t standard);
int64_t kz_fields_integer(
        struct kz_fields *f, const char *key, int64_t standard, int64_t min, int64_t max);
bool kz_fields_boolean(struct kz_fields *f, const char *key, bool standard);
/* The index of the value among `words` (NULL ends them). */
int kz_fields_one_of(struct kz_fields *f, const char *key, const char *const *words, int standard);
/* A word or a list of words. */
const char **kz_fields_words(struct kz_fields *f, const char *key, size_t *ret_count);
/* A path that has to be there; relative ones are the project's. */
const char *kz_fields_existing(struct kz_fields *f, const char *key, struct kz_place *ret_place);

/* The text of a node that has to be a single value. */
const char *kz_config_scalar(
        struct kz_config_reader *reader, const struct kz_yaml *node, const char *key);
bool kz_config_is_name(const char *s);
void kz_config_check_name(
        struct kz_config_reader *reader, const struct kz_yaml *key, const char *what);

/* config_model.c: one trigger, one model */
void kz_config_trigger(struct kz_config_reader *reader, const struct kz_yaml *key,
        const struct kz_yaml *node, struct kz_trigger_def *trigger,
        const struct kz_project *project);
void kz_config_model(struct kz_config_reader *reader, const struct kz_yaml *key,
        const struct kz_yaml *node, struct kz_model_def *model, const struct kz_project *project);
/* config_action.c */
void kz_config_action(struct kz_config_reader *reader, const struct kz_yaml *key,
        const struct kz_yaml *node, struct kz_action_def *action, const struct kz_project *project);
