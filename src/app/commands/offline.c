#include "app/commands/offline.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "app/config/check.h"
#include "app/commands/exportfile.h"
#include "base/arena.h"
#include "codec/json_out.h"
#include "codec/timefmt.h"
#include "contract/shape.h"
#include "history/checkpoint.h"
#include "infer/infer.h"
#include "sys/clock.h"

/* ---- files that are synced as a whole, at the end ------------------------------------------------- */

/* On virtual time nobody is answered, and a run that was cut off is run again: an fsync a commit
 * would only cost. kz_offline_finish() makes all of it durable at once. */
struct lazy_file {
    struct kz_file file;
    struct kz_file *real;
};

static struct kz_file *real_of(struct kz_file *file)
{
    return KZ_CONTAINER_OF(file, struct lazy_file, file)->real;
}

static void lazy_close(struct kz_file *file)
{
    struct lazy_file *lazy = KZ_CONTAINER_OF(file, struct lazy_file, file);

    kz_file_close(lazy->real);
    free(lazy);
}

static enum kz_code lazy_pread(
        struct kz_file *file, void *data, size_t size, uint64_t offset, struct kz_err *err)
{
    return real_of(file)->ops->pread(real_of(file), data, size, offset, err);
}

static enum kz_code lazy_pwrite(
        struct kz_file *file, const void *data, size_t size, uint64_t offset, struct kz_err *err)
{
    return real_of(file)->ops->pwrite(real_of(file), data, size, offset, err);
}

static enum kz_code lazy_sync(struct kz_file *file, struct kz_err *err)
{
    (void)file, (void)err;
    return KZ_OK;
}

static enum kz_code lazy_size(struct kz_file *file, uint64_t *ret_size, struct kz_err *err)
{
    return real_of(file)->ops->size(real_of(file), ret_size, err);
}

static enum kz_code lazy_truncate(struct kz_file *file, uint64_t size, struct kz_err *err)
{
    return real_of(file)->ops->truncate(real_of(file), size, err);
}

static enum kz_code lazy_allocate(struct kz_file *file, uint64_t size, struct kz_err *err)
{
    return real_of(file)->ops->allocate(real_of(file), size, err);
}

static enum kz_code lazy_map(
        struct kz_file *file, uint64_t size, const void **ret_data, struct kz_err *err)
{
    return real_of(file)->ops->map(real_of(file), size, ret_data, err);
}

static void lazy_unmap(struct kz_file *file, const void *data, uint64_t size)
{
    real_of(file)->ops->unmap(real_of(file), data, size);
}

static enum kz_code lazy_lock(struct kz_file *file, struct kz_err *err)
{
    return real_of(file)->ops->lock(real_of(file), err);
}

static enum kz_code lazy_lock_shared(struct kz_file *file, struct kz_err *err)
{
    return real_of(file)->ops->lock_shared(real_of(file), err);
}

static const struct kz_file_ops lazy_file_ops = {
        .close = lazy_close,
        .pread = lazy_pread,
        .pwrite = lazy_pwrite,
        .sync = lazy_sync,
        .size = lazy_size,
        .truncate = lazy_truncate,
        .allocate = lazy_allocate,
        .map = lazy_map,
        .unmap = lazy_unmap,
        .lock = lazy_lock,
        .lock_shared = lazy_lock_shared,
};

static enum kz_code lazy_open(struct kz_fs *fs, const char *path, int flags,
        struct kz_file **ret_file, struct kz_err *err)
{
    struct kz_fs *posix = kz_fs_posix();
    struct kz_file *real;
    struct lazy_file *lazy;

    (void)fs;
    KZ_TRY(posix->ops->open(posix, path, flags, &real, err));
    lazy = kz_calloc(1, sizeof(*lazy));
    lazy->file = (struct kz_file){&lazy_file_ops, real->path};
    lazy->real = real;
    *ret_file = &lazy->file;
    return KZ_OK;
}

static enum kz_code lazy_rename(
        struct kz_fs *fs, const char *from, const char *to, struct kz_err *err)
{
    (void)fs;
    return kz_fs_posix()->ops->rename(kz_fs_posix(), from, to, err);
}

static enum kz_code lazy_unlink(struct kz_fs *fs, const char *path, struct kz_err *err)
{
    (void)fs;
    return kz_fs_posix()->ops->unlink(kz_fs_posix(), path, err);
}

static enum kz_code lazy_mkdir(struct kz_fs *fs, const char *path, struct kz_err *err)
{
    (void)fs;
    return kz_fs_posix()->ops->mkdir(kz_fs_posix(), path, err);
}

static enum kz_code lazy_sync_dir(struct kz_fs *fs, const char *path, struct kz_err *err)
{
    (void)fs, (void)path, (void)err;
    return KZ_OK;
}

static enum kz_code lazy_list(struct kz_fs *fs, const char *path,
        void (*each)(void *arg, const char *name), void *arg, struct kz_err *err)
{
    (void)fs;
    return kz_fs_posix()->ops->list(kz_fs_posix(), path, each, arg, err);
}

static enum kz_code lazy_free_bytes(
        struct kz_fs *fs, const char *path, uint64_t *ret_bytes, struct kz_err *err)
{
    (void)fs;
    return kz_fs_posix()->ops->free_bytes(kz_fs_posix(), path, ret_bytes, err);
}

static struct kz_fs *lazy_fs(void)
{
    static const struct kz_fs_ops ops = {
            .open = lazy_open,
            .rename = lazy_rename,
            .unlink = lazy_unlink,
            .mkdir = lazy_mkdir,
            .sync_dir = lazy_sync_dir,
            .list = lazy_list,
            .free_bytes = lazy_free_bytes,
    };
    static struct kz_fs fs = {&ops};

    return &fs;
}

static enum kz_code sync_all(const char *dir, struct kz_err *err)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? -1 : syncfs(fd);
    enum kz_code code = rc ? kz_fail_errno(err, "could not sync \"%s\"", dir) : KZ_OK;

    if (fd >= 0)
        close(fd);
    return code;
}

/* ---- submissions ---------------------------------------------------------------------------------- */

enum { BATCHES = 4 }; /* so that one can be filled while others wait for the disk */

struct batch {
    struct kz_submission submission;
    struct kz_offline *offline;
    struct kz_arena arena;
    struct kz_buf text;
    uint64_t lines[KZ_OFFLINE_BATCH];
    size_t count;
    bool busy;
};

struct kz_offline {
    struct kz_offline_options options;
    struct kz_pipeline *pipeline;
    struct kz_shaper *shaper;
    struct kz_offline_tally tally;
    struct batch *batches;
    unsigned filling;
    sem_t woken;
    bool failed;
    struct kz_err failure;
};

static void on_wake(void *arg)
{
    sem_post(&((struct kz_offline *)arg)->woken);
}

enum kz_code kz_offline_open(const struct kz_offline_options *options,
        struct kz_offline **ret_offline, struct kz_err *err)
{
    KZ_AUTO(kz_offline_freep) struct kz_offline *offline = kz_calloc(1, sizeof(*offline));
    struct kz_pipeline_options pipeline = {
            .project = options->project,
            .fs = options->virtual_clock ? lazy_fs() : kz_fs_posix(),
            .data_dir = options->data_dir,
            .runtimes = kz_runtimes(),
            .wake = on_wake,
            .arg = offline,
            .virtual_clock = options->virtual_clock,
            .sync_inline = options->virtual_clock,
            .ask = options->ask,
    };

    offline->options = *options;
    offline->options.data_dir = kz_strdup(options->data_dir);
    sem_init(&offline->woken, 0, 0);
    offline->batches = kz_calloc(BATCHES, sizeof(*offline->batches));
    for (unsigned i = 0; i < BATCHES; i++) {
        offline->batches[i].offline = offline;
        kz_arena_init(&offline->batches[i].arena, 0);
    }
    offline->shaper = kz_shaper_new(options->project);
    KZ_TRY(kz_pipeline_open(&pipeline, &offline->pipeline, err));
    *ret_offline = kz_take(&offline);
    return KZ_OK;
}

void kz_offline_free(struct kz_offline *offline)
{
    if (!offline)
        return;
    kz_pipeline_close(offline->pipeline);
    kz_shaper_free(offline->shaper);
    for (unsigned i = 0; i < BATCHES; i++) {
        kz_arena_done(&offline->batches[i].arena);
        kz_buf_done(&offline->batches[i].text);
    }
    free(offline->batches);
    sem_destroy(&offline->woken);
    free((char *)offline->options.data_dir);
    free(offline);
}

struct kz_pipeline *kz_offline_pipeline(struct kz_offline *offline)
{
    return offline->pipeline;
}

const struct kz_offline_tally *kz_offline_tally(const struct kz_offline *offline)
{
    return &offline->tally;
}

static void model_problem(void *arg, unsigned model, const char *problem)
{
    struct kz_offline *offline = arg;

    if (!offline->failed)
        (void)kz_fail(&offline->failure, KZ_MODEL, "model \"%s\" does not load: %s",
                offline->options.project->models[model].name, problem);
    offline->failed = true;
}

enum kz_code kz_offline_wait_models(struct kz_offline *offline, struct kz_err *err)
{
    struct kz_infer *infer = kz_pipeline_infer(offline->pipeline);

    if (!infer)
        return KZ_OK;
    enum kz_code rc = kz_infer_wait_ready(infer, 60000, model_problem, offline, err);

    if (offline->failed) {
        *err = offline->failure;
        return err->code;
    }
    return rc;
}

static void tell(struct kz_offline *offline, uint64_t line, const char *code, struct kz_str message)
{
    offline->tally.rejected++;
    if (offline->options.rejected)
        offline->options.rejected(offline->options.arg, line, code, message);
}

static void on_done(struct kz_submission *submission, enum kz_code code, const struct kz_err *err)
{
    struct batch *batch = KZ_CONTAINER_OF(submission, struct batch, submission);
    struct kz_offline *offline = batch->offline;

    batch->busy = false;
    if (code != KZ_OK) {
        if (!offline->failed)
            offline->failure = *err;
        offline->failed = true;
        return;
    }
    for (size_t i = 0; i < submission->item_count; i++) {
        const struct kz_intake_item *item = submission->items[i];

        if (item->state == KZ_INTAKE_ACCEPTED)
            offline->tally.accepted++;
        else if (item->state == KZ_INTAKE_DUPLICATE)
            offline->tally.duplicates++;
        else
            tell(offline, batch->lines[KZ_MIN(i, batch->count - 1)], item->code, item->message);
    }
}

static enum kz_code failure_of(const struct kz_offline *offline, struct kz_err *err)
{
    *err = offline->failure;
    return err->code;
}

/* Turns until the batch is back. */
static enum kz_code wait_for(struct kz_offline *offline, struct batch *batch, struct kz_err *err)
{
    struct timespec until;

    for (;;) {
        kz_pipeline_turn(offline->pipeline);
        if (offline->failed)
            return failure_of(offline, err);
        if (!batch->busy)
            return KZ_OK;
        until = kz_mono_after(1000);
        if (sem_clockwait(&offline->woken, CLOCK_MONOTONIC, &until) == 0)
            while (sem_trywait(&offline->woken) == 0)
                ;
    }
}

/* Where intake is full, until what is under way is on disk. */
static enum kz_code wait_for_room(struct kz_offline *offline, struct kz_err *err)
{
    struct kz_intake *intake = kz_pipeline_intake(offline->pipeline);
    enum kz_code rc = intake->ops->ready(intake, err);

    for (unsigned i = 0; i < BATCHES && rc == KZ_OVERLOADED; i++) {
        KZ_TRY(wait_for(offline, &offline->batches[i], err));
        rc = intake->ops->ready(intake, err);
    }
    return rc;
}

static enum kz_code send(struct kz_offline *offline, struct batch *batch, struct kz_err *err)
{
    struct kz_intake *intake = kz_pipeline_intake(offline->pipeline);
    struct kz_shape_input input = {
            .text = kz_buf_view(&batch->text),
            .arena = &batch->arena,
            .received_at_ms = kz_clock_ms(),
    };
    struct kz_shaped shaped;

    KZ_TRY(wait_for_room(offline, err));
    KZ_TRY(offline->options.exported ? kz_export_shape(offline->shaper, &input, &shaped, err)
                                     : kz_shape_events(offline->shaper, &input, &shaped, err));
    for (size_t i = 0; i < shaped.item_count; i++)
        shaped.items[i]->event.flags |= offline->options.event_flags;
    batch->submission = (struct kz_submission){
            .items = shaped.items, .item_count = shaped.item_count, .done = on_done};
    batch->busy = true;
    intake->ops->submit(intake, &batch->submission);
    kz_pipeline_turn(offline->pipeline);
    return offline->failed ? failure_of(offline, err) : KZ_OK;
}

enum kz_code kz_offline_add(
        struct kz_offline *offline, struct kz_str json, uint64_t line, struct kz_err *err)
{
    struct batch *batch = &offline->batches[offline->filling];

    if (batch->busy)
        KZ_TRY(wait_for(offline, batch, err));
    if (!batch->count) {
        kz_arena_reset(&batch->arena);
        kz_buf_clear(&batch->text);
    }
    kz_buf_str(&batch->text, json);
    kz_buf_char(&batch->text, '\n');
    batch->lines[batch->count++] = line;
    if (batch->count < KZ_OFFLINE_BATCH)
        return KZ_OK;
    KZ_TRY(send(offline, batch, err));
    offline->filling = (offline->filling + 1) % BATCHES;
    if (offline->batches[offline->filling].busy)
        KZ_TRY(wait_for(offline, &offline->batches[offline->filling], err));
    offline->batches[offline->filling].count = 0;
    return KZ_OK;
}

enum kz_code kz_offline_flush(struct kz_offline *offline, struct kz_err *err)
{
    struct batch *batch = &offline->batches[offline->filling];

    if (batch->count)
        KZ_TRY(send(offline, batch, err));
    if (offline->options.virtual_clock)
        KZ_TRY(kz_pipeline_settle(offline->pipeline, 600000, err));
    for (unsigned i = 0; i < BATCHES; i++)
        KZ_TRY(wait_for(offline, &offline->batches[i], err));
    batch->count = 0;
    return KZ_OK;
}

enum kz_code kz_offline_run_out(struct kz_offline *offline, struct kz_err *err)
{
    int64_t due_ms;

    while ((due_ms = kz_pipeline_timer_ms(offline->pipeline)) != INT64_MAX)
        KZ_TRY(kz_pipeline_set_clock(offline->pipeline, due_ms, err));
    return kz_pipeline_settle(offline->pipeline, 600000, err);
}

enum kz_code kz_offline_finish(struct kz_offline *offline, struct kz_err *err)
{
    KZ_TRY(kz_offline_flush(offline, err));
    kz_pipeline_close(kz_take(&offline->pipeline));
    return offline->options.virtual_clock ? sync_all(offline->options.data_dir, err) : KZ_OK;
}

/* ---- reading -------------------------------------------------------------------------------------- */

enum kz_code kz_offline_open_log(const char *data_dir, const struct kz_log_mark *covered,
        struct kz_offline_reader *ret_reader, struct kz_err *err)
{
    struct kz_offline_reader reader = {0};
    char dir[PATH_MAX];
    struct kz_log_options options = {.fs = kz_fs_posix(), .dir = dir, .read_only = true};

    if (covered)
        options.covered = *covered;
    snprintf(dir, sizeof(dir), "%s/log", data_dir);
    if (!kz_fs_exists(options.fs, dir)) {
        (void)kz_fail(err, KZ_NOT_FOUND, "there is no data in \"%s\"", data_dir);
        return kz_hint(
                err, "`kizashi up`, `import` or `replay` make some; --data names another place");
    }
    KZ_TRY(kz_log_open(&options, &reader.log, &reader.found, err));
    reader.reader = kz_log_reader(reader.log);
    reader.end = reader.found.end;
    *ret_reader = reader;
    return KZ_OK;
}

static enum kz_code apply_one(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    return kz_views_apply(arg, lsn, record, NULL);
}

enum kz_code kz_offline_open_reader(const struct kz_project *project, const char *data_dir,
        struct kz_offline_reader *ret_reader, struct kz_err *err)
{
    KZ_AUTO(kz_views_freep) struct kz_views *views = NULL;
    struct kz_checkpoint_info info = {0};
    struct kz_offline_reader reader;
    char dir[PATH_MAX];
    enum kz_code rc;

    /* The checkpoint before the log: the log then reaches at least as far. */
    snprintf(dir, sizeof(dir), "%s/views", data_dir);
    rc = kz_checkpoint_load(kz_fs_posix(), dir, project->name, project->limits.dead_letters_max,
            &views, &info, err);
    if (rc != KZ_OK && rc != KZ_NOT_FOUND && rc != KZ_CORRUPT)
        return rc;
    if (rc != KZ_OK)
        views = kz_views_new(project->limits.dead_letters_max);
    rc = kz_offline_open_log(data_dir, &info.mark, &reader, err);
    if (rc == KZ_CONFLICT) { /* the checkpoint is of another log */
        kz_views_free(views);
        views = kz_views_new(project->limits.dead_letters_max);
        info.mark.position = 0;
        rc = kz_offline_open_log(data_dir, NULL, &reader, err);
    }
    KZ_TRY(rc);
    rc = reader.reader->ops->scan_all(
            reader.reader, info.mark.position, UINT64_MAX, apply_one, views, err);
    if (rc != KZ_OK) {
        kz_offline_close_reader(&reader);
        return kz_wrap(err, "reading the log after the checkpoint");
    }
    reader.views = kz_take(&views);
    *ret_reader = reader;
    return KZ_OK;
}

void kz_offline_close_reader(struct kz_offline_reader *reader)
{
    kz_views_free(reader->views);
    kz_log_close(reader->log);
    *reader = (struct kz_offline_reader){0};
}

enum kz_code kz_offline_lock(
        const char *data, bool make, struct kz_file **ret_lock, struct kz_err *err)
{
    struct kz_fs *fs = kz_fs_posix();
    KZ_AUTO(kz_file_closep) struct kz_file *lock = NULL;
    char path[PATH_MAX], holder[40];

    snprintf(path, sizeof(path), "%s/lock", data);
    if (!make && !kz_fs_exists(fs, path))
        return KZ_OK;
    KZ_TRY(fs->ops->open(
            fs, path, KZ_OPEN_READ | KZ_OPEN_WRITE | (make ? KZ_OPEN_CREATE : 0), &lock, err));
    if (kz_file_lock(lock, NULL) != KZ_OK) {
        kz_file_lock_holder(lock, holder);
        (void)kz_fail(err, KZ_LOCKED, "the data in \"%s\" is in use by %s", data, holder);
        return kz_hint(err, "stop it first; or `kizashi backup` while it runs, and look at that");
    }
    kz_file_lock_sign(lock);
    *ret_lock = kz_take(&lock);
    return KZ_OK;
}

uint32_t kz_offline_find(const struct kz_views *views, struct kz_str id)
{
    uint32_t user = kz_views_resolve(views, (struct kz_user_key){'u', id}).index;

    return user ? user : kz_views_resolve(views, (struct kz_user_key){'a', id}).index;
}

enum kz_code kz_offline_moment_of(const struct kz_offline_reader *reader, kz_lsn lsn,
        const struct kz_record *request, struct kz_offline_moment *ret_moment, struct kz_err *err)
{
    struct kz_str bytes = kz_record_body(request);
    const struct kz_request_body *body = (const void *)bytes.ptr;
    uint32_t user = kz_views_find_owner(reader->views, request->owner);

    if (!user)
        return kz_fail(
                err, KZ_NOT_FOUND, "the user of request %" PRIu64 " was erased", request->seq);
    *ret_moment = (struct kz_offline_moment){.user = user,
            .as_of = lsn,
            .params = {
                    .now_ms = body->now_ms,
                    .user_id = kz_span_str(bytes, body->user_id),
                    .event_id = kz_span_str(bytes, body->event_id),
                    .trigger_ts_ms = body->trigger_ts_ms,
                    .session = body->session,
                    .seq = body->event_seq,
                    .first_seen_ms = body->first_seen_ms,
            }};
    return KZ_OK;
}

enum kz_code kz_offline_features(const struct kz_offline_reader *reader,
        struct kz_sql_expr *features, const struct kz_model_def *model,
        struct kz_offline_moment *moment, struct kz_row *ret_row, struct kz_err *err)
{
    struct kz_source sources[KZ_SOURCES_MAX];
    const struct kz_history_def *def = &model->history;
    struct kz_history_query query = {
            .sources = sources,
            .source_count = kz_views_sources(
                    reader->views, moment->user, KZ_CHAIN_EVENTS, moment->as_of, sources),
            .chain = KZ_CHAIN_EVENTS,
            .as_of = moment->as_of,
            .events_max = def->events_max,
            .since_ms = def->window_ms ? moment->params.now_ms - def->window_ms : INT64_MIN,
            .include_actions = def->include_actions,
    };
    struct kz_history_rows rows;
    enum kz_code rc;

    KZ_TRY(reader->reader->ops->scan(reader->reader, &query, &rows, err));
    moment->params.truncated = rows.truncated;
    /* Nobody waits here: what was served within the platform's bound is within this one. */
    rc = kz_sql_features(features, &rows, &moment->params, UINT64_C(1) << 40, ret_row, err);
    reader->reader->ops->release(reader->reader, &rows);
    return rc;
}

/* ---- for messages --------------------------------------------------------------------------------- */

void kz_offline_value(struct kz_value value, struct kz_buf *out)
{
    switch (value.type) {
    case KZ_TYPE_NULL:
        kz_buf_cstr(out, "null");
        break;
    case KZ_TYPE_INT:
    case KZ_TYPE_BOOL:
        kz_buf_printf(out, "%" PRId64, value.integer);
        break;
    case KZ_TYPE_FLOAT:
        kz_json_double(out, value.real);
        break;
    case KZ_TYPE_TEXT:
        kz_json_quote(out, value.text);
        break;
    }
}

bool kz_offline_same(struct kz_value a, struct kz_value b)
{
    if (a.type != b.type)
        return false;
    if (a.type == KZ_TYPE_TEXT)
        return kz_str_eq(a.text, b.text);
    return a.type == KZ_TYPE_NULL || memcmp(&a.integer, &b.integer, sizeof(a.integer)) == 0;
}

int64_t kz_offline_time(const struct kz_args *args, const char *option)
{
    const char *text = kz_args_get(args, option);
    struct kz_err err;
    int64_t ms = 0;
    char *end;

    if (!text || kz_time_parse(kz_str(text), &ms, &err) == KZ_OK)
        return ms;
    errno = 0;
    ms = strtoll(text, &end, 10);
    if (end == text || *end || errno)
        exit(kz_command_usage(args,
                "--%s is \"%s\", it has to be a time: 2026-11-24T09:30:00Z, or epoch milliseconds",
                option, text));
    return ms;
}
