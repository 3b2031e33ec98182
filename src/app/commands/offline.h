/* app/commands/offline.h -- a project's data as commands use it, with no server of their own.
 *
 * Two ways in: a whole pipeline that events are given to (test, replay, import), or the log and its
 * views read beside whoever writes them (sql, features, fsck, dump).
 *
 * Threads  one.
 * Fails    KZ_LOCKED where another process has the data, KZ_NOT_FOUND where there is none.
 */
#pragma once

#include "app/commands/command.h"
#include "app/pipeline/pipeline.h"
#include "contract/sql.h"
#include "history/views.h"
#include "log/log.h"

/* ---- events into a pipeline ------------------------------------------------------------------ */

enum { KZ_OFFLINE_BATCH = 1000 };

struct kz_offline_options {
    const struct kz_project *project;
    const char *data_dir;
    bool virtual_clock; /* kz_pipeline_set_clock(); what is written is synced as a whole, at close */
    bool ask;
    bool exported; /* lines are events of an export (app/commands/exportfile.h), and keep their times */
    uint32_t event_flags; /* enum kz_event_flags, set on every event */
    /* An event that was not taken, with the line of kz_offline_add(). May be NULL. */
    void (*rejected)(void *arg, uint64_t line, const char *code, struct kz_str message);
    void *arg;
};

struct kz_offline;

struct kz_offline_tally {
    uint64_t accepted, duplicates, rejected;
};

KZ_MUST_USE enum kz_code kz_offline_open(const struct kz_offline_options *options,
        struct kz_offline **ret_offline, struct kz_err *err);
/* Everything is durable, and a checkpoint written, when this returns. */
KZ_MUST_USE enum kz_code kz_offline_finish(struct kz_offline *offline, struct kz_err *err);
void kz_offline_free(struct kz_offline *offline);
KZ_DEFINE_FREEP(struct kz_offline, kz_offline_free)

struct kz_pipeline *kz_offline_pipeline(struct kz_offline *offline);
const struct kz_offline_tally *kz_offline_tally(const struct kz_offline *offline);

/* Waits until every model has loaded; KZ_MODEL with the first that does not. */
KZ_MUST_USE enum kz_code kz_offline_wait_models(struct kz_offline *offline, struct kz_err *err);
/* Adds an event as POST /v1/events takes it, one line of JSON (copied); every KZ_OFFLINE_BATCH of
 * them go in together. `line` is for messages. */
KZ_MUST_USE enum kz_code kz_offline_add(
        struct kz_offline *offline, struct kz_str json, uint64_t line, struct kz_err *err);
/* What was added goes in; on virtual time, with all its consequences. */
KZ_MUST_USE enum kz_code kz_offline_flush(struct kz_offline *offline, struct kz_err *err);
/* Virtual time: lets every timer there is come due, each with its consequences. */
KZ_MUST_USE enum kz_code kz_offline_run_out(struct kz_offline *offline, struct kz_err *err);

/* ---- reading --------------------------------------------------------------------------------- */

/* The log up to its end at that moment, and what is known of users then. */
struct kz_offline_reader {
    struct kz_log *log;
    struct kz_history_reader *reader;
    struct kz_views *views;
    kz_lsn end;
    struct kz_log_recovery found;
};
KZ_MUST_USE enum kz_code kz_offline_open_reader(const struct kz_project *project,
        const char *data_dir, struct kz_offline_reader *ret_reader, struct kz_err *err);
/* The log alone; `views` stays NULL. KZ_CONFLICT: it is not the one with that mark (NULL: any). */
KZ_MUST_USE enum kz_code kz_offline_open_log(const char *data_dir,
        const struct kz_log_mark *covered, struct kz_offline_reader *ret_reader,
        struct kz_err *err);
void kz_offline_close_reader(struct kz_offline_reader *reader);

/* Keeps `up` out for as long as the file is open; `make`: also where there is no data yet. A backup has
 * no lock and needs none: `ret_lock` stays as it is then. */
KZ_MUST_USE enum kz_code kz_offline_lock(
        const char *data, bool make, struct kz_file **ret_lock, struct kz_err *err);

/* Who is known by this id now: a user id, else an anonymous one. 0: nobody. */
uint32_t kz_offline_find(const struct kz_views *views, struct kz_str id);

/* A model's features as of a moment, recomputed. */
struct kz_offline_moment {
    uint32_t user; /* whose chains, as they were then: the one asked about, not who they became */
    kz_lsn as_of;
    struct kz_sql_params params; /* `truncated` is filled in */
};
KZ_MUST_USE enum kz_code kz_offline_features(const struct kz_offline_reader *reader,
        struct kz_sql_expr *features, const struct kz_model_def *model,
        struct kz_offline_moment *moment, struct kz_row *ret_row, struct kz_err *err);
/* The moment of a REQUEST record (strings borrowed from it). KZ_NOT_FOUND: that user was erased. */
KZ_MUST_USE enum kz_code kz_offline_moment_of(const struct kz_offline_reader *reader, kz_lsn lsn,
        const struct kz_record *request, struct kz_offline_moment *ret_moment, struct kz_err *err);

/* ---- for messages ---------------------------------------------------------------------------- */

/* A value as JSON; a float always reads back as the same bits. */
void kz_offline_value(struct kz_value value, struct kz_buf *out);
/* Whether two values are the same bits. */
bool kz_offline_same(struct kz_value a, struct kz_value b);
/* RFC 3339, or epoch milliseconds; wrong usage ends the process. 0 where the option is absent. */
int64_t kz_offline_time(const struct kz_args *args, const char *option);
