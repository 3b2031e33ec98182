/* app/config/config_action.c -- actions of a project: schedule, holdout, caps, delivery. */
#include "app/config/config_int.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/duration.h"

enum { CAP_PER_USER_MAX = 320 }; /* times kept of a user (KZ_VIEWS_TIMES_MAX) */

static void read_clock_range(struct kz_config_reader *reader, const struct kz_yaml *node,
        const char *hours, struct kz_action_def *action)
{
    unsigned h1, m1, h2, m2;
    char rest;

    if (sscanf(hours, "%2u:%2u-%2u:%2u%c", &h1, &m1, &h2, &m2, &rest) != 4 || h1 > 23 || m1 > 59 ||
            h2 > 24 || m2 > 59 || (h2 == 24 && m2)) {
        kz_config_problem(reader, node->place,
                "\"hours\" is \"%s\", it has to be like \"10:00-18:00\"", hours);
        return;
    }
    action->schedule.start_minute = (int)(h1 * 60 + m1);
    action->schedule.end_minute = (int)(h2 * 60 + m2);
}

static int weekday(struct kz_str name)
{
    static const char *const days[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};

    for (int i = 0; i < 7; i++)
        if (kz_str_is(name, days[i]))
            return i;
    return -1;
}

/* "mon-fri", "sat,sun", "mon,wed-fri" */
static void read_days(struct kz_config_reader *reader, const struct kz_yaml *node, const char *days,
        struct kz_action_def *action)
{
    action->schedule.weekdays = 0;
    while (*days) {
        size_t n = strcspn(days, ",");
        struct kz_str part = kz_str_n(days, n), from = part, to = part;
        const char *dash = memchr(days, '-', n);
        int a, b;

        if (dash) {
            from = kz_str_n(days, (size_t)(dash - days));
            to = kz_str_n(dash + 1, n - from.size - 1);
        }
        while (from.size && from.ptr[0] == ' ') {
            from.ptr++;
            from.size--;
            if (!dash)
                to = from;
        }
        a = weekday(from);
        b = weekday(to);
        if (a < 0 || b < 0) {
            kz_config_problem(reader, node->place,
                    "\"days\": \"" KZ_STR_FMT "\" is not a day or a range of days (mon ... sun)",
                    KZ_STR_ARG(part));
            return;
        }
        for (int d = a;; d = (d + 1) % 7) {
            action->schedule.weekdays |= (uint8_t)(1 << d);
            if (d == b)
                break;
        }
        days += n + (days[n] == ',');
    }
}

static void read_schedule(
        struct kz_config_reader *reader, const struct kz_yaml *map, struct kz_action_def *action)
{
    struct kz_fields f = kz_fields(reader, map, "\"schedule\"");
    const char *days, *hours;

    action->schedule.weekdays = 0x7f;
    action->schedule.end_minute = 24 * 60;
    action->schedule.tz = "UTC";
    if (!map)
        return;
    action->schedule.set = true;
    if ((days = kz_fields_text(&f, "days", NULL)))
        read_days(reader, kz_yaml_get(map, "days"), days, action);
    if ((hours = kz_fields_text(&f, "hours", NULL)))
        read_clock_range(reader, kz_yaml_get(map, "hours"), hours, action);
    if (kz_yaml_get(map, "tz"))
        action->schedule.tz = kz_fields_text(&f, "tz", &action->schedule.tz_place);
    kz_fields_finish(&f);
}

static void read_cap(
        struct kz_config_reader *reader, const struct kz_yaml *node, struct kz_cap_def *cap)
{
    static const char *const per[] = {"total", "user", NULL};
    struct kz_fields f = kz_fields(reader, node, "a cap");
    const struct kz_yaml *every;
    const char *value;
    struct kz_err err;

    cap->max = (uint32_t)kz_fields_integer(&f, "max", 1, 0, 100000);
    cap->per_user = kz_fields_one_of(&f, "per", per, 1) == 1;
    cap->tz = kz_fields_text(&f, "tz", &cap->tz_place);
    if (!cap->tz)
        cap->tz = "UTC";
    every = kz_fields_take(&f, "every");
    value = kz_config_scalar(reader, every, "every");
    cap->every_ms = 86400000;
    if (value && strcmp(value, "day") == 0)
        cap->every_ms = 0;
    else if (value && kz_duration_parse(kz_str(value), &cap->every_ms, &err) != KZ_OK)
        kz_config_problem(reader, every->place, "\"every\": %s, or \"day\"", err.message);
    if (cap->per_user && cap->max > CAP_PER_USER_MAX)
        kz_config_problem(
                reader, node->place, "a cap per user can be at most %d", CAP_PER_USER_MAX);
    kz_fields_finish(&f);
}

/* A share written "10%" or 0.1. */
static double share(struct kz_fields *f, const char *key)
{
    const struct kz_yaml *node = kz_fields_take(f, key);
    const char *value = kz_config_scalar(f->reader, node, key);
    char *end;
    double part;

    if (!value)
        return 0;
    part = strtod(value, &end);
    if (*end == '%' && !end[1]) {
        part /= 100;
        end++;
    }
    if (end == value || *end || !(part >= 0 && part <= 1)) {
        kz_config_problem(f->reader, node->place,
                "\"%s\" is \"%s\", it has to be a share like 10%%", key, value);
        return 0;
    }
    return part;
}

static void read_deliver(struct kz_config_reader *reader, const struct kz_yaml *map,
        struct kz_action_def *action, const struct kz_project *project)
{
    static const char *const kinds[] = {"web", "webhook", "pubsub"};
    struct kz_fields f = kz_fields(reader, map, "\"deliver\"");
    size_t given = 0;

    action->deliver.payload_json = "{}";
    for (size_t i = 0; i < KZ_ARRAY_COUNT(kinds); i++) {
        const struct kz_yaml *how = kz_fields_take(&f, kinds[i]);

        if (!how)
            continue;
        given++;
        action->deliver.kind = (enum kz_deliver_kind)(i + 1);
        if (action->deliver.kind == KZ_DELIVER_WEB) {
            action->deliver.payload_json = kz_yaml_json(reader->arena, how);
        } else if (action->deliver.kind == KZ_DELIVER_WEBHOOK) {
            struct kz_fields w = kz_fields(reader, how, "\"webhook\"");
            const struct kz_yaml *body;

            action->deliver.url = kz_fields_text(&w, "url", NULL);
            action->deliver.secret = kz_fields_text(&w, "secret", NULL);
            action->deliver.timeout_ms = kz_fields_duration(&w, "timeout", 5000);
            action->deliver.attempts_max = (uint32_t)kz_fields_integer(&w, "attempts", 8, 1, 100);
            if ((body = kz_fields_take(&w, "body")))
                action->deliver.payload_json = kz_yaml_json(reader->arena, body);
            if (!action->deliver.url || (strncmp(action->deliver.url, "http://", 7) != 0 &&
                                                strncmp(action->deliver.url, "https://", 8) != 0))
                kz_config_problem(reader, how->place,
                        "\"webhook\" needs a \"url\" that starts with http(s)://");
            kz_fields_finish(&w);
        } else {
            action->deliver.payload_json = kz_yaml_json(reader->arena, how);
            if (project->backends.bus == KZ_BACKEND_EMBEDDED)
                kz_config_problem(reader, how->place,
                        "\"pubsub\" delivery needs a bus: \"backends: {bus: pubsub}\"; use \"web\" "
                        "or \"webhook\" without one");
        }
    }
    action->deliver.valid_for_ms = kz_fields_duration(&f, "valid_for", 10 * 60000);
    if (given != 1)
        kz_config_problem(reader, map ? map->place : action->place,
                "action \"%s\" needs \"deliver\" with one of web, webhook and pubsub",
                action->name);
    kz_fields_finish(&f);
}

void kz_config_action(struct kz_config_reader *reader, const struct kz_yaml *key,
        const struct kz_yaml *node, struct kz_action_def *action, const struct kz_project *project)
{
    static const char *const modes[] = {"off", "shadow", "on", NULL};
    struct kz_fields f = kz_fields(
            reader, node, kz_arena_printf(reader->arena, "action \"%s\"", key->text));
    const struct kz_yaml *caps, *goal;

    kz_config_check_name(reader, key, "action");
    action->name = key->text;
    action->place = key->place;
    action->mode = (enum kz_action_mode)kz_fields_one_of(&f, "mode", modes, KZ_MODE_OFF);
    action->when = kz_fields_text(&f, "when", &action->when_place);
    if (!action->when)
        kz_config_problem(reader, key->place, "action \"%s\" needs \"when\"", key->text);
    action->having = kz_fields_text(&f, "having", &action->having_place);
    read_schedule(reader, kz_fields_take(&f, "schedule"), action);
    action->holdout = share(&f, "holdout");
    caps = kz_fields_take(&f, "caps");
    if (caps && caps->kind == KZ_YAML_LIST) {
        action->caps = kz_arena_zero(reader->arena, (caps->count + 1) * sizeof(*action->caps));
        for (size_t i = 0; i < caps->count; i++)
            read_cap(reader, caps->items[i], &action->caps[action->cap_count++]);
    } else if (caps) {
        kz_config_problem(reader, caps->place, "\"caps\" has to be a list");
    }
    goal = kz_fields_take(&f, "goal");
    if (goal) {
        struct kz_fields g = kz_fields(reader, goal, "\"goal\"");

        action->goal.event = kz_fields_text(&g, "event", NULL);
        action->goal.within_ms = kz_fields_duration(&g, "within", 86400000);
        action->goal.value = kz_fields_text(&g, "value", NULL);
        kz_fields_finish(&g);
        kz_config_notice(reader, goal->place,
                "\"goal\" has no effect yet: what an action brings is not worked out");
    }
    read_deliver(reader, kz_fields_take(&f, "deliver"), action, project);
    kz_fields_finish(&f);
}
