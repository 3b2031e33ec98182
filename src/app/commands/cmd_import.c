/* app/commands/cmd_import.c -- `kizashi import`: events from before as history, without consequences, from files
 * as people have them or from `kizashi export`.
 */

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/config/check.h"
#include "app/commands/eventfile.h"
#include "app/commands/import.h"
#include "base/diag.h"
#include "codec/json.h"
#include "sys/clock.h"

/* ---- into a log ------------------------------------------------------------------------------------ */

struct into_log {
    struct kz_import import;
    struct kz_offline *offline;
};

static enum kz_code log_add(
        struct kz_import *import, struct kz_str json, uint64_t line, struct kz_err *err)
{
    return kz_offline_add(((struct into_log *)import)->offline, json, line, err);
}

/* A log makes links and users of the events themselves; what its retention has taken before it was
 * exported is gone. */
static enum kz_code log_note(
        struct kz_import *import, const struct kz_export_line *line, struct kz_err *err)
{
    (void)import, (void)line, (void)err;
    return KZ_OK;
}

static enum kz_code log_finish(struct kz_import *import, struct kz_err *err)
{
    return kz_offline_finish(((struct into_log *)import)->offline, err);
}

static const struct kz_offline_tally *log_tally(const struct kz_import *import)
{
    return kz_offline_tally(((const struct into_log *)import)->offline);
}

static void log_free(struct kz_import *import)
{
    struct into_log *into = (struct into_log *)import;

    kz_offline_free(into->offline);
    free(into);
}

enum kz_code kz_import_log(
        const struct kz_import_options *options, struct kz_import **ret_import, struct kz_err *err)
{
    static const struct kz_import_ops ops = {
            .add = log_add,
            .note = log_note,
            .finish = log_finish,
            .tally = log_tally,
            .free = log_free,
    };
    struct kz_offline_options offline = {
            .project = options->project,
            .data_dir = options->data_dir,
            .exported = options->exported,
            .event_flags = options->exported ? 0 : KZ_EVENT_IMPORTED,
            .rejected = options->rejected,
            .arg = options->arg,
    };
    struct into_log *into = kz_calloc(1, sizeof(*into));
    enum kz_code rc;

    into->import.ops = &ops;
    rc = kz_offline_open(&offline, &into->offline, err);
    if (rc != KZ_OK) {
        free(into);
        return rc;
    }
    *ret_import = &into->import;
    return KZ_OK;
}

/* ---- from a file ----------------------------------------------------------------------------------- */

struct importing {
    struct kz_import *into;
    struct kz_row_problems problems;
    int64_t until_ms;
    uint64_t read, late;
    struct kz_progress progress;
};

static enum kz_code add(struct importing *i, struct kz_str json, uint64_t line, struct kz_err *err)
{
    KZ_TRY(i->into->ops->add(i->into, json, line, err));
    if (++i->read % KZ_OFFLINE_BATCH == 0)
        kz_progress_show(&i->progress, i->read, NULL);
    return KZ_OK;
}

static enum kz_code add_file(struct importing *i, struct kz_event_file *file, struct kz_err *err)
{
    struct kz_event_line line;
    enum kz_code rc;

    i->progress.total = kz_event_file_count(file);
    while ((rc = kz_event_file_next(file, &line, err)) == KZ_OK) {
        if (line.ts_ms > i->until_ms)
            i->late++;
        else
            KZ_TRY(add(i, line.json, line.line, err));
    }
    return rc == KZ_END ? KZ_OK : rc;
}

/* ---- from an export -------------------------------------------------------------------------------- */

static enum kz_code add_line(struct importing *i, const struct kz_project *project,
        struct kz_export_line *line, struct kz_str text, uint64_t number, struct kz_err *err)
{
    switch (line->kind) {
    case KZ_EXPORT_HEAD:
        if (!kz_str_is(line->project, project->name))
            return kz_fail(err, KZ_INVALID,
                    "the export is of project \"" KZ_STR_FMT "\", not of \"%s\"",
                    KZ_STR_ARG(line->project), project->name);
        return KZ_OK;
    case KZ_EXPORT_ERASED:
    case KZ_EXPORT_USER:
        return i->into->ops->note(i->into, line, err);
    case KZ_EXPORT_EVENT:
        return add(i, text, number, err);
    case KZ_EXPORT_END:
        if (line->event_count != i->read)
            return kz_fail(err, KZ_INVALID,
                    "the export had %" PRIu64 " events, %" PRIu64 " are here", line->event_count,
                    i->read);
        return KZ_OK;
    }
    return KZ_OK;
}

/* In its own order, not by ts: that is what makes it come out the same. */
static enum kz_code add_export(struct importing *i, const struct kz_project *project,
        struct kz_str text, struct kz_err *err)
{
    struct kz_lines lines = kz_lines(text);
    struct kz_export_line line = {.kind = KZ_EXPORT_HEAD};
    struct kz_arena arena;
    struct kz_str one;
    enum kz_code rc = KZ_OK;

    kz_arena_init(&arena, 0);
    while (rc == KZ_OK && kz_lines_next(&lines, &one)) {
        kz_arena_reset(&arena);
        rc = kz_export_read(one, &arena, &line, err);
        if (rc == KZ_OK)
            rc = add_line(i, project, &line, one, lines.line, err);
        if (rc != KZ_OK)
            (void)kz_wrap(err, "%s:%" PRIu64, i->problems.file, lines.line);
    }
    kz_arena_done(&arena);
    if (rc == KZ_OK && line.kind != KZ_EXPORT_END) {
        (void)kz_fail(err, KZ_INVALID,
                "\"%s\" is cut: an export ends with a line that says how many "
                "events there are",
                i->problems.file);
        return kz_hint(
                err, "what is there was taken; export again, and import that: nothing comes twice");
    }
    return rc;
}

/* ---- the command ----------------------------------------------------------------------------------- */

static void tell(const struct kz_args *args, const struct importing *i)
{
    const struct kz_offline_tally *tally = i->into->ops->tally(i->into);

    if (kz_args_flag(args, "json"))
        printf("{\"imported\":%" PRIu64 ",\"duplicates\":%" PRIu64 ",\"rejected\":%" PRIu64
               ",\"later\":%" PRIu64 "}\n",
                tally->accepted, tally->duplicates, i->problems.count, i->late);
    else
        printf("%" PRIu64 " imported, %" PRIu64 " were there already, %" PRIu64
               " could not be taken, %" PRIu64 " left out as later than %s\n",
                tally->accepted, tally->duplicates, i->problems.count, i->late,
                kz_args_get(args, "until") ? kz_args_get(args, "until") : "now");
}

static enum kz_code run_through(struct importing *i, const struct kz_args *args,
        const struct kz_project *project, struct kz_err *err)
{
    const char *path = args->arguments[1], *map = kz_args_get(args, "map");
    KZ_AUTO(kz_event_file_closep) struct kz_event_file *file = NULL;
    const struct kz_offline_tally *tally;
    struct kz_import_options options = {.project = project,
            .backend = kz_args_get(args, "backend"),
            .rejected = kz_row_rejected,
            .arg = &i->problems};
    char data[PATH_MAX];

    kz_command_data(args, args->arguments[0], data, sizeof(data));
    options.data_dir = data;
    KZ_TRY(kz_event_file_open(path, map, &file, err));
    options.exported = !map && kz_export_is(kz_event_file_text(file));
    /* Before the long reading: what is wrong with the place is said at once. */
    if (options.backend || project->backends.history != KZ_BACKEND_EMBEDDED)
        KZ_TRY(kz_import_store(&options, &i->into, err));
    else
        KZ_TRY(kz_import_log(&options, &i->into, err));
    kz_progress_begin(&i->progress, "importing", 0, kz_args_flag(args, "quiet"));
    if (options.exported) {
        KZ_TRY(add_export(i, project, kz_event_file_text(file), err));
    } else {
        KZ_TRY(kz_event_file_sort(file, &i->problems, err));
        KZ_TRY(add_file(i, file, err));
    }
    KZ_TRY(i->into->ops->finish(i->into, err));
    kz_progress_end(&i->progress, i->read, NULL);
    tell(args, i);
    tally = i->into->ops->tally(i->into);
    if (i->problems.count && !tally->accepted && !tally->duplicates)
        return kz_fail(err, KZ_INVALID, "nothing in \"%s\" could be taken", path);
    return KZ_OK;
}

static int run(const struct kz_args *args)
{
    int64_t until_ms = kz_offline_time(args, "until");
    KZ_AUTO(kz_config_freep) struct kz_config *config = NULL;
    struct importing importing = {.problems = {.file = args->arguments[1]},
            .until_ms = until_ms ? until_ms : kz_clock_ms()};
    struct kz_err err;
    enum kz_code rc;

    kz_diag_set(KZ_DIAG_WARN, false);
    config = kz_check_load(args->arguments[0], kz_args_get(args, "env"), &err);
    if (!config)
        return kz_command_fail(&err);
    rc = run_through(&importing, args, kz_config_project(config), &err);
    if (importing.into)
        importing.into->ops->free(importing.into);
    return rc == KZ_OK ? KZ_EXIT_DONE : kz_command_fail(&err);
}

const struct kz_command kz_command_import = {
        .name = "import",
        .arguments = "DIR FILE",
        .argument_min = 2,
        .argument_max = 2,
        .summary = "Takes events from before as history: no triggers, no actions.",
        .details =
                "FILE is NDJSON as POST /v1/events takes it, CSV with --map, or what `export` wrote. Events\n"
                "come in by ts, which is kept as it is; those of an export in their own order, with all\n"
                "their times. Retention counts from now. Run it again after a failure: what is there\n"
                "already is skipped. While `up` has the data, it waits for nobody: stop `up` first.",
        .example = "kizashi import examples/shop past.csv --map "
                   "ts=event_time,name=event_type,user_id=user_id",
        .options =
                {
                        {"data", "PATH", NULL, "where the data is, instead of DIR/.kizashi"},
                        {"env", "NAME", NULL, "lays kizashi.NAME.yaml on kizashi.yaml"},
                        {"until", "TIME", NULL, "leaves out later events (default: now)"},
                        {"map", "FIELD=COLUMN,...", NULL,
                                "CSV: which column is ts, name, user_id, "
                                "anonymous_id, event_id"},
                        {"backend", "NAME", NULL,
                                "gcp: into the store of a deployment of roles (default: as the project says)"},
                        {"quiet", NULL, NULL, "no progress"},
                        {"json", NULL, NULL, "prints the counts as JSON"},
                },
        .run = run,
};
