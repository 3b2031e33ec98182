/* app/commands/cmd_restore.c -- `kizashi restore`: a backup becomes a project's data.
 *
 * Who was erased after the backup was made must not come back with it. The file of erasures
 * (app/pipeline/erasures.h) of the data that is replaced, of the backup, and of what was moved away beside it
 * is put together in the new place, and what it says is carried out before anybody reads.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/config/config.h"
#include "app/pipeline/erasures.h"
#include "app/commands/offline.h"
#include "base/diag.h"

enum { COPY_BYTES = 1 << 20 };

struct restore {
    const char *from, *to;
    const char *project_dir;
    const char *erased_from; /* NULL: not given */
    char project[64];        /* empty: not known */
    struct kz_buf names;     /* NUL-terminated, one behind the other */
    uint64_t all, done;
    struct kz_progress progress;
    uint64_t problems;
    uint64_t erased;  /* users that came with the backup and went again */
    size_t erasures;  /* noted in the new place */
    bool carried_out; /* no start has to */
};

/* ---- the log -------------------------------------------------------------------------------------- */

static void see_name(void *arg, const char *name)
{
    struct restore *r = arg;

    if (strcmp(name, "lock") != 0 && strcmp(name, "reserve") != 0)
        kz_buf_put(&r->names, name, strlen(name) + 1);
}

static void see_problem(void *arg, const char *line)
{
    ((struct restore *)arg)->problems++;
    fprintf(stderr, "%s\n", line);
}

static enum kz_code verify(
        struct restore *r, const char *dir, uint64_t *ret_records, struct kz_err *err)
{
    enum kz_code rc = kz_log_fsck(kz_fs_posix(), dir, see_problem, r, ret_records, err);

    if (rc == KZ_CORRUPT || r->problems)
        return kz_fail(err, KZ_CORRUPT, "\"%s\" is not whole: %" PRIu64 " problem%s", dir,
                r->problems, r->problems == 1 ? "" : "s");
    return rc;
}

static enum kz_code copy_file(
        struct restore *r, const char *from, const char *to, struct kz_err *err)
{
    struct kz_fs *fs = kz_fs_posix();
    KZ_AUTO(kz_file_closep) struct kz_file *in = NULL, *out = NULL;
    KZ_AUTO(kz_freep) char *buffer = kz_malloc(COPY_BYTES);
    uint64_t size;

    KZ_TRY(fs->ops->open(fs, from, KZ_OPEN_READ, &in, err));
    KZ_TRY(fs->ops->open(fs, to, KZ_OPEN_WRITE | KZ_OPEN_CREATE | KZ_OPEN_TRUNCATE, &out, err));
    KZ_TRY(in->ops->size(in, &size, err));
    for (uint64_t at = 0; at < size;) {
        size_t n = (size_t)KZ_MIN(size - at, (uint64_t)COPY_BYTES);

        KZ_TRY(in->ops->pread(in, buffer, n, at, err));
        KZ_TRY(out->ops->pwrite(out, buffer, n, at, err));
        at += n;
        r->done += n;
        kz_progress_show(&r->progress, r->done, NULL);
    }
    return out->ops->sync(out, err);
}

static enum kz_code copy_log(
        struct restore *r, const char *from, const char *to, struct kz_err *err)
{
    struct kz_fs *fs = kz_fs_posix();
    char source[PATH_MAX], target[PATH_MAX];
    struct stat st;

    KZ_TRY(fs->ops->mkdir(fs, to, err));
    KZ_TRY(fs->ops->list(fs, from, see_name, r, err));
    for (const char *name = r->names.data; name && name < r->names.data + r->names.size;
            name += strlen(name) + 1) {
        snprintf(source, sizeof(source), "%s/%s", from, name);
        r->all += stat(source, &st) == 0 ? (uint64_t)st.st_size : 0;
    }
    kz_progress_begin(&r->progress, "restoring bytes", r->all, false);
    for (const char *name = r->names.data; name && name < r->names.data + r->names.size;
            name += strlen(name) + 1) {
        snprintf(source, sizeof(source), "%s/%s", from, name);
        snprintf(target, sizeof(target), "%s/%s", to, name);
        KZ_TRY(copy_file(r, source, target, err));
    }
    return fs->ops->sync_dir(fs, to, err);
}

static enum kz_code must_be_fresh(const char *data, struct kz_err *err)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/log", data);
    if (!kz_fs_exists(kz_fs_posix(), path))
        return KZ_OK;
    (void)kz_fail(
            err, KZ_CONFLICT, "\"%s\" has data already; a backup is restored into none", data);
    return kz_hint(
            err, "move it away (mv %s %s.old), or name another place with --data PATH", data, data);
}

static void see_any(void *arg, const char *name)
{
    kz_buf_put(arg, name, strlen(name) + 1);
}

/* Of a directory that need not be there. */
static enum kz_code remove_files(const char *dir, struct kz_err *err)
{
    struct kz_fs *fs = kz_fs_posix();
    struct kz_buf names = {0};
    char path[PATH_MAX];
    enum kz_code rc;

    if (!kz_fs_exists(fs, dir))
        return KZ_OK;
    rc = fs->ops->list(fs, dir, see_any, &names, err);
    for (const char *name = names.data; rc == KZ_OK && name && name < names.data + names.size;
            name += strlen(name) + 1) {
        snprintf(path, sizeof(path), "%s/%s", dir, name);
        rc = fs->ops->unlink(fs, path, err);
    }
    kz_buf_done(&names);
    return rc;
}

/* ---- erasures ------------------------------------------------------------------------------------- */

/* Adds a file's erasures; one that is not there has none. Without a known project the first file
 * found says which it is. */
static enum kz_code add_erasures(
        struct restore *r, const char *path, struct kz_buf *list, struct kz_err *err)
{
    struct kz_fs *fs = kz_fs_posix();

    if (!kz_fs_exists(fs, path))
        return KZ_OK;
    if (!*r->project)
        KZ_TRY(kz_erasures_project(fs, path, r->project, err));
    return kz_erasures_read(fs, path, r->project, list, err);
}

/* `where` is a data directory, a backup, a project, or the file itself. */
static enum kz_code add_named(
        struct restore *r, const char *where, struct kz_buf *list, struct kz_err *err)
{
    char path[PATH_MAX];
    struct stat st;

    if (stat(where, &st) != 0)
        return kz_fail_errno(err, "could not open \"%s\"", where);
    if (!S_ISDIR(st.st_mode))
        return add_erasures(r, where, list, err);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), i ? "%s/.kizashi/" KZ_ERASURES_NAME : "%s/" KZ_ERASURES_NAME,
                where);
        if (kz_fs_exists(kz_fs_posix(), path))
            return add_erasures(r, path, list, err);
    }
    (void)kz_fail(err, KZ_NOT_FOUND, "\"%s\" has no file \"" KZ_ERASURES_NAME "\"", where);
    return kz_hint(err, "nobody was erased there, or the data is from before there was one");
}

struct beside {
    struct restore *r;
    const char *dir, *stem; /* where, and how the names begin */
    struct kz_buf *list;
};

/* Data that was moved away: .kizashi.old beside .kizashi. What is not ours is passed over. */
static void see_beside(void *arg, const char *name)
{
    struct beside *b = arg;
    char path[PATH_MAX];
    struct kz_err err;

    if (strncmp(name, b->stem, strlen(b->stem)) != 0)
        return;
    snprintf(path, sizeof(path), "%s/%s/" KZ_ERASURES_NAME, b->dir, name);
    if (add_erasures(b->r, path, b->list, &err) != KZ_OK)
        fprintf(stderr, "passed over: %s\n", err.message);
}

static enum kz_code add_beside(struct restore *r, struct kz_buf *list, struct kz_err *err)
{
    char real[PATH_MAX], *slash;
    struct beside b = {.r = r, .list = list};

    if (!realpath(r->to, real))
        return kz_fail_errno(err, "could not find \"%s\"", r->to);
    slash = strrchr(real, '/');
    *slash = '\0';
    b.dir = slash == real ? "/" : real;
    b.stem = slash + 1;
    return kz_fs_posix()->ops->list(kz_fs_posix(), b.dir, see_beside, &b, err);
}

/* All that is known of erasures, into the new place. */
static enum kz_code bring_erasures(struct restore *r, struct kz_err *err)
{
    struct kz_fs *fs = kz_fs_posix();
    struct kz_buf list = {0};
    char path[PATH_MAX];
    enum kz_code rc;

    snprintf(path, sizeof(path), "%s/" KZ_ERASURES_NAME, r->from);
    rc = add_erasures(r, path, &list, err);
    if (rc == KZ_OK && r->erased_from)
        rc = add_named(r, r->erased_from, &list, err);
    if (rc == KZ_OK)
        rc = add_beside(r, &list, err); /* its own place begins with its own name, too */
    snprintf(path, sizeof(path), "%s/" KZ_ERASURES_NAME, r->to);
    r->erasures = list.size / sizeof(struct kz_erasure);
    if (rc == KZ_OK && r->erasures && kz_fs_exists(fs, path))
        rc = fs->ops->unlink(fs, path, err);
    if (rc == KZ_OK && r->erasures)
        rc = kz_erasures_add(fs, path, r->project, (const void *)list.data, r->erasures, err);
    kz_buf_done(&list);
    return rc;
}

/* A pipeline that opens says them again; then the log is rewritten without those users. */
static enum kz_code carry_out(
        struct restore *r, const struct kz_project *project, struct kz_err *err)
{
    KZ_AUTO(kz_offline_freep) struct kz_offline *offline = NULL;
    struct kz_offline_options options = {.project = project, .data_dir = r->to};
    struct kz_pipeline *pipeline;
    struct kz_pipeline_counters counters;

    enum kz_code rc = kz_offline_open(&options, &offline, err);

    if (rc != KZ_OK)
        return kz_wrap(err, "the backup is restored; erasing again whom it brought back");
    pipeline = kz_offline_pipeline(offline);
    kz_pipeline_query(pipeline)->ops->counters(kz_pipeline_query(pipeline), &counters);
    r->erased = counters.erasures_again_total;
    if (r->erased)
        KZ_TRY(kz_pipeline_erase(pipeline, err));
    r->carried_out = true;
    return kz_offline_finish(offline, err);
}

/* ---- all of it ------------------------------------------------------------------------------------ */

/* The copy gets its name when it is whole; what keeps users erased and actions paused is there
 * before it. */
static enum kz_code restore(struct restore *r, uint64_t *ret_records, struct kz_err *err)
{
    static const char marker[] =
            "restored from a backup: actions are paused until `kizashi actions "
            "resume --all`\n";
    struct kz_fs *fs = kz_fs_posix();
    KZ_AUTO(kz_file_closep) struct kz_file *lock = NULL;
    char from[PATH_MAX], partial[PATH_MAX], path[PATH_MAX];

    snprintf(from, sizeof(from), "%s/log", r->from);
    if (!kz_fs_exists(fs, from))
        return kz_fail(
                err, KZ_NOT_FOUND, "\"%s\" is no backup: it has no directory \"log\"", r->from);
    KZ_TRY(must_be_fresh(r->to, err));
    KZ_TRY(verify(r, from, ret_records, err));
    KZ_TRY(fs->ops->mkdir(fs, r->to, err));
    KZ_TRY(kz_offline_lock(r->to, true, &lock, err));
    /* Checkpoints of a log that is not there any more would speak of another. */
    snprintf(path, sizeof(path), "%s/views", r->to);
    KZ_TRY(remove_files(path, err));
    KZ_TRY(bring_erasures(r, err));
    snprintf(path, sizeof(path), "%s/restored", r->to);
    KZ_TRY(kz_fs_replace(fs, path, marker, strlen(marker), err));
    snprintf(partial, sizeof(partial), "%s/log.restoring", r->to);
    KZ_TRY(remove_files(partial, err)); /* what an interrupted restore has left */
    KZ_TRY(copy_log(r, from, partial, err));
    KZ_TRY(verify(r, partial, ret_records, err));
    snprintf(path, sizeof(path), "%s/log", r->to);
    KZ_TRY(fs->ops->rename(fs, partial, path, err));
    KZ_TRY(fs->ops->sync_dir(fs, r->to, err));
    kz_progress_end(&r->progress, r->done, NULL);
    return KZ_OK;
}

static void tell(const struct restore *r, uint64_t records)
{
    printf("%" PRIu64 " records are in %s, verified.\n", records, r->to);
    if (r->carried_out && r->erased)
        printf("%" PRIu64 " user%s erased since the backup was made: erased again.\n", r->erased,
                r->erased == 1 ? "" : "s");
    else if (!r->carried_out && r->erasures)
        printf("Erasures since the backup are carried out when `up` starts: %zu are noted.\n",
                r->erasures);
    printf("Actions start paused, so that nobody gets twice what they got since the backup:\n"
           "  kizashi up %s\n  kizashi actions resume --all\n",
            r->project_dir);
}

static int run_restore(const struct kz_args *args)
{
    KZ_AUTO(kz_config_freep) struct kz_config *config = NULL;
    char data[PATH_MAX];
    struct restore r = {.from = args->arguments[0],
            .to = data,
            .project_dir = args->arguments[1],
            .erased_from = kz_args_get(args, "erased-from")};
    uint64_t records = 0;
    struct kz_err err;
    enum kz_code rc;

    kz_command_data(args, args->arguments[1], data, sizeof(data));
    kz_diag_set(KZ_DIAG_ERROR, false);
    if (kz_config_load(args->arguments[1], kz_args_get(args, "env"), NULL, NULL, &config, &err) ==
            KZ_OK)
        snprintf(r.project, sizeof(r.project), "%s", kz_config_project(config)->name);
    rc = restore(&r, &records, &err);
    if (rc == KZ_OK && r.erasures && config)
        rc = carry_out(&r, kz_config_project(config), &err);
    kz_buf_done(&r.names);
    if (rc != KZ_OK)
        return kz_command_fail(&err);
    tell(&r, records);
    return KZ_EXIT_DONE;
}

const struct kz_command kz_command_restore = {
        .name = "restore",
        .arguments = "BACKUP DIR",
        .argument_min = 2,
        .argument_max = 2,
        .summary = "Puts a backup back into a project without data; actions start paused.",
        .details =
                "The backup and its copy are verified as by `kizashi fsck`. Keys are not part of "
                "a backup.\nUsers who were erased after it was made are erased again: the file "
                "\"erasures\" says who, in the\ndata that is replaced, in data moved away beside it "
                "(.kizashi.old), or where --erased-from says.",
        .example = "kizashi restore /backups/monday examples/shop",
        .options =
                {
                        {"data", "PATH", NULL, "where the data goes, instead of DIR/.kizashi"},
                        {"env", "NAME", NULL, "overlays kizashi.NAME.yaml"},
                        {"erased-from", "PATH", NULL,
                                "a newer backup, other data of the project, or its file of erasures"},
                },
        .run = run_restore,
};
