#include "trigger/trigger.h"

#include <stdlib.h>

#include "base/hash.h"

/* A rule is tried on an event when its name may match `when` or `unless`. Rules that demand certain
 * names are found through a small hash of names; the others are tried on every event. */
struct name_entry {
    uint64_t hash;
    char *name;
    struct kz_rule **rules;
    size_t rule_count;
};

struct kz_triggers {
    struct kz_rule *rules;
    size_t count;
    struct name_entry *names; /* open addressing, size a power of two */
    size_t names_mask;
    struct kz_rule **any; /* rules for which no name can be ruled out */
    size_t any_count;
};

static struct name_entry *find_name(struct kz_triggers *triggers, struct kz_str name)
{
    uint64_t hash = kz_hash_str(name);

    for (size_t i = hash & triggers->names_mask;; i = (i + 1) & triggers->names_mask) {
        struct name_entry *entry = &triggers->names[i];

        if (!entry->name || (entry->hash == hash && kz_str_eq(kz_str(entry->name), name)))
            return entry;
    }
}

static void list_rule(struct kz_rule ***list, size_t *count, struct kz_rule *rule)
{
    for (size_t i = 0; i < *count; i++)
        if ((*list)[i] == rule)
            return;
    *list = kz_realloc(*list, (*count + 1) * sizeof(**list));
    (*list)[(*count)++] = rule;
}

/* The number of distinct names an expression demands; SIZE_MAX when it takes any. */
static size_t demanded(const struct kz_sql_expr *expr, const char *const **ret_names)
{
    size_t count = 0;

    if (!expr)
        return 0;
    kz_sql_event_names(expr, ret_names, &count);
    return count ? count : SIZE_MAX;
}

static void index_names(struct kz_triggers *triggers)
{
    size_t total = 0, size = 16;

    for (size_t i = 0; i < triggers->count; i++) {
        const char *const *names;
        size_t a = demanded(triggers->rules[i].when, &names);
        size_t b = demanded(triggers->rules[i].unless, &names);

        total += (a == SIZE_MAX ? 0 : a) + (b == SIZE_MAX ? 0 : b);
    }
    while (size < total * 2)
        size *= 2;
    triggers->names = kz_calloc(size, sizeof(*triggers->names));
    triggers->names_mask = size - 1;
    for (size_t i = 0; i < triggers->count; i++) {
        struct kz_rule *rule = &triggers->rules[i];
        struct kz_sql_expr *both[] = {rule->when, rule->unless};

        for (size_t k = 0; k < KZ_ARRAY_COUNT(both); k++) {
            const char *const *names = NULL;
            size_t count = demanded(both[k], &names);

            if (count == SIZE_MAX) {
                list_rule(&triggers->any, &triggers->any_count, rule);
                continue;
            }
            for (size_t n = 0; n < count; n++) {
                struct name_entry *entry = find_name(triggers, kz_str(names[n]));

                if (!entry->name) {
                    entry->name = kz_strdup(names[n]);
                    entry->hash = kz_hash_str(kz_str(names[n]));
                }
                list_rule(&entry->rules, &entry->rule_count, rule);
            }
        }
    }
}

static void ask_models(struct kz_rule *rule, const struct kz_project *project)
{
    rule->models = kz_calloc(project->model_count, sizeof(*rule->models));
    for (size_t m = 0; m < project->model_count; m++)
        for (size_t t = 0; t < project->models[m].trigger_count; t++)
            if (strcmp(project->models[m].triggers[t], rule->def->name) == 0) {
                rule->models[rule->model_count++] = (unsigned)m;
                break;
            }
}

struct kz_report {
    void (*call)(void *arg, const struct kz_err *err);
    void *arg;
    size_t count;
};

static void compile(struct kz_sql *sql, enum kz_sql_kind kind, const char *text,
        struct kz_place place, struct kz_sql_expr **ret_expr, struct kz_report *report)
{
    struct kz_err err;

    if (!text || kz_sql_compile(sql, kind, text, place, ret_expr, &err) == KZ_OK)
        return;
    report->count++;
    if (report->call)
        report->call(report->arg, &err);
}

enum kz_code kz_triggers_open(const struct kz_project *project, struct kz_sql *sql,
        void (*report)(void *arg, const struct kz_err *err), void *arg,
        struct kz_triggers **ret_triggers, struct kz_err *err)
{
    KZ_AUTO(kz_triggers_closep) struct kz_triggers *triggers = kz_calloc(1, sizeof(*triggers));
    struct kz_report errors = {report, arg, 0};

    triggers->rules = kz_calloc(project->trigger_count, sizeof(*triggers->rules));
    triggers->count = project->trigger_count;
    for (size_t i = 0; i < triggers->count; i++) {
        struct kz_rule *rule = &triggers->rules[i];
        const struct kz_trigger_def *def = &project->triggers[i];

        rule->def = def;
        rule->index = (unsigned)i;
        rule->name = kz_name_hash(kz_str(def->name));
        compile(sql, KZ_SQL_EVENT, def->count.of ? def->count.of : def->when,
                def->count.of ? def->count_place : def->when_place, &rule->when, &errors);
        compile(sql, KZ_SQL_EVENT, def->unless, def->unless_place, &rule->unless, &errors);
        compile(sql, KZ_SQL_HAVING, def->having, def->having_place, &rule->having, &errors);
        ask_models(rule, project);
    }
    if (errors.count)
        return kz_fail(err, KZ_CONFIG, "%zu trigger expression%s could not be compiled",
                errors.count, errors.count == 1 ? "" : "s");
    index_names(triggers);
    *ret_triggers = kz_take(&triggers);
    return KZ_OK;
}

void kz_triggers_close(struct kz_triggers *triggers)
{
    if (!triggers)
        return;
    for (size_t i = 0; i < triggers->count; i++)
        free(triggers->rules[i].models);
    for (size_t i = 0; triggers->names && i <= triggers->names_mask; i++) {
        free(triggers->names[i].name);
        free(triggers->names[i].rules);
    }
    free(triggers->names);
    free(triggers->any);
    free(triggers->rules);
    free(triggers);
}

const struct kz_rule *kz_triggers_by_name(const struct kz_triggers *triggers, uint64_t name)
{
    for (size_t i = 0; i < triggers->count; i++)
        if (triggers->rules[i].name == name)
            return &triggers->rules[i];
    return NULL;
}

static bool holds(struct kz_sql_expr *expr, const struct kz_rule *rule,
        const struct kz_event *event,
        void (*failed)(void *arg, const struct kz_rule *rule, const struct kz_err *err), void *arg)
{
    struct kz_err err;
    bool truth = false;

    if (!expr)
        return false;
    if (kz_sql_event_true(expr, event, &truth, &err) == KZ_OK)
        return truth;
    if (failed)
        failed(arg, rule, &err);
    return false;
}

size_t kz_triggers_match(struct kz_triggers *triggers, const struct kz_event *event,
        struct kz_match matches[KZ_MATCHES_MAX],
        void (*failed)(void *arg, const struct kz_rule *rule, const struct kz_err *err), void *arg)
{
    struct name_entry *entry = find_name(triggers, event->name);
    struct kz_rule **lists[] = {entry->rules, triggers->any};
    size_t counts[] = {entry->rule_count, triggers->any_count}, found = 0;
    bool hidden = event->flags & KZ_EVENT_ACTION;

    for (size_t l = 0; l < KZ_ARRAY_COUNT(lists); l++)
        for (size_t i = 0; i < counts[l] && found < KZ_MATCHES_MAX; i++) {
            struct kz_rule *rule = lists[l][i];
            struct kz_match match = {.rule = rule};

            if (hidden && !rule->def->include_actions)
                continue;
            /* A rule on both lists has been tried by name already. */
            if (l == 1 && entry->rule_count) {
                bool seen = false;

                for (size_t k = 0; k < entry->rule_count; k++)
                    seen |= entry->rules[k] == rule;
                if (seen)
                    continue;
            }
            match.when = holds(rule->when, rule, event, failed, arg);
            match.unless = holds(rule->unless, rule, event, failed, arg);
            if (match.when || match.unless)
                matches[found++] = match;
        }
    return found;
}
