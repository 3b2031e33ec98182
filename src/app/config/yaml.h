/* app/config/yaml.h -- a YAML file as a tree that knows its places (libyaml underneath).
 *
 * Owner    nodes live in the arena they were read into.
 * Fails    KZ_CONFIG with "file:line:column: ..."; KZ_NOT_FOUND, KZ_IO.
 * Limits   1 MiB of text, 64 levels, no aliases that expand (an alias is refused).
 */
#pragma once

#include "base/arena.h"
#include "contract/project.h"

enum kz_yaml_kind { KZ_YAML_SCALAR, KZ_YAML_MAP, KZ_YAML_LIST };

struct kz_yaml {
    enum kz_yaml_kind kind;
    struct kz_place place;
    bool quoted;                 /* a scalar in quotes or a block: never null, number or boolean */
    const char *text;            /* scalar, NUL-terminated, ${env:} and ${file:} put in */
    size_t count;                /* map pairs or list items */
    const struct kz_yaml **keys; /* [count] scalars, maps only */
    const struct kz_yaml **items;
    /* What is wrong with it, or NULL: a ${env:} that is not there (`text` is as it was written then),
     * a key given twice (the first one counts). */
    const char *problem;
    struct kz_place problem_place;
};

/* `shown` is how messages name the file. */
KZ_MUST_USE enum kz_code kz_yaml_read(struct kz_arena *arena, const char *path, const char *shown,
        const struct kz_yaml **ret_root, struct kz_err *err);
/* `over` laid on `base`: maps merge key by key, everything else is replaced. */
const struct kz_yaml *kz_yaml_overlay(
        struct kz_arena *arena, const struct kz_yaml *base, const struct kz_yaml *over);
/* Calls for every problem in the tree, in the order of the text. Whoever reads a tree has to ask. */
void kz_yaml_problems(const struct kz_yaml *node,
        void (*report)(void *arg, struct kz_place place, const char *text), void *arg);
const struct kz_yaml *kz_yaml_get(const struct kz_yaml *map, const char *key);
bool kz_yaml_is_null(const struct kz_yaml *node);
/* The node as JSON text in the arena; plain scalars become numbers, booleans and null by YAML 1.2's
 * core schema. */
const char *kz_yaml_json(struct kz_arena *arena, const struct kz_yaml *node);

enum kz_code kz_place_fail(struct kz_err *err, struct kz_place place, const char *fmt, ...)
        KZ_PRINTF(3, 4);
