/* app/cmd_data.c -- `kizashi fsck`, `dump` and `restore`: the data itself. */

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/config.h"
#include "app/offline.h"
#include "base/diag.h"
#include "codec/json_out.h"
#include "history/checkpoint.h"

enum { COPY_BYTES = 1 << 20 };

/* DIR/.kizashi or --data; false: neither was given. */
static bool place_of(const struct kz_args *args, char out[PATH_MAX])
{
    if (!args->argument_count && !kz_args_get(args, "data"))
        return false;
    kz_command_data(args, args->argument_count ? args->arguments[0] : "", out, PATH_MAX);
    return true;
}

/* Keeps `up` out for as long as the file is open. A backup has no lock, and needs none. */
static enum kz_code keep_out(const char *data, bool make, struct kz_file **ret_lock,
        struct kz_err *err)
{
    struct kz_fs *fs = kz_fs_posix();
    KZ_AUTO(kz_file_closep) struct kz_file *lock = NULL;
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/lock", data);
    if (!make && !kz_fs_exists(fs, path))
        return KZ_OK;
    KZ_TRY(fs->ops->open(fs, path,
            KZ_OPEN_READ | KZ_OPEN_WRITE | (make ? KZ_OPEN_CREATE : 0), &lock, err));
    if (lock->ops->lock(lock, NULL) != KZ_OK) {
        (void)kz_fail(err, KZ_LOCKED, "the data in \"%s\" is in use by another process", data);
        return kz_hint(err, "stop it first; or `kizashi backup` while it runs, and look at that");
    }
    *ret_lock = kz_take(&lock);
    return KZ_OK;
}

/* ---- fsck --------------------------------------------------------------------------------------------- */

struct fsck {
    bool json;
    struct kz_json_out out;
    uint64_t records, problems;
};

static void problem(void *arg, const char *line)
{
    struct fsck *f = arg;

    f->problems++;
    if (f->json)
        kz_json_out_cstr(&f->out, line);
    else
        printf("%s\n", line);
}

static enum kz_code apply_one(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    return kz_views_apply(arg, lsn, record, NULL);
}

static enum kz_code views_of_log(struct kz_history_reader *reader, uint32_t dead_letters_max,
        struct kz_views **ret_views, struct kz_err *err)
{
    KZ_AUTO(kz_views_freep) struct kz_views *views = kz_views_new(dead_letters_max);
    enum kz_code rc = reader->ops->scan_all(reader, 0, UINT64_MAX, apply_one, views, err);

    if (rc != KZ_OK)
        return kz_wrap(err, "making the views from the log");
    *ret_views = kz_take(&views);
    return KZ_OK;
}

static void check_views(struct fsck *f, const struct kz_views *views, const char *which)
{
    struct kz_err err;
    char line[1100];

    if (kz_views_check(views, &err) == KZ_OK)
        return;
    snprintf(line, sizeof(line), "views %s: %s", which, err.message);
    problem(f, line);
}

/* The checkpoint and what came after has to be what the whole log gives. */
static enum kz_code compare_views(struct fsck *f, const struct kz_project *project, const char *data,
        struct kz_err *err)
{
    KZ_AUTO(kz_views_freep) struct kz_views *made = NULL;
    KZ_AUTO(kz_views_freep) struct kz_views *newest = NULL;
    struct kz_checkpoint_info info = {0};
    struct kz_offline_reader reader = {0};
    char dir[PATH_MAX], line[500];
    enum kz_code rc;

    snprintf(dir, sizeof(dir), "%s/views", data);
    rc = kz_checkpoint_load(kz_fs_posix(), dir, project->name, project->limits.dead_letters_max,
            &newest, &info, err);
    if (rc == KZ_NOT_FOUND)
        return KZ_OK; /* none was written yet: a start reads the whole log */
    if (rc != KZ_OK || info.fell_back) {
        problem(f, rc != KZ_OK ? err->message : info.warning);
        return KZ_OK;
    }
    KZ_TRY(kz_offline_open_log(data, &reader, err));
    rc = views_of_log(reader.reader, project->limits.dead_letters_max, &made, err);
    if (rc == KZ_OK)
        rc = reader.reader->ops->scan_all(
                reader.reader, info.position, UINT64_MAX, apply_one, newest, err);
    kz_offline_close_reader(&reader);
    KZ_TRY(rc);
    check_views(f, made, "made from the log");
    check_views(f, newest, "of the checkpoint");
    if (kz_views_hash(made) != kz_views_hash(newest)) {
        snprintf(line, sizeof(line),
                "views: the checkpoint at seq %" PRIu64 " and the records after it do not give what "
                "the whole log gives; removing \"%s\" makes the next start read the log",
                info.seq, dir);
        problem(f, line);
    }
    return KZ_OK;
}

static enum kz_code fsck(struct fsck *f, const struct kz_project *project, const char *data,
        struct kz_err *err)
{
    KZ_AUTO(kz_file_closep) struct kz_file *lock = NULL;
    char dir[PATH_MAX];
    enum kz_code rc;

    snprintf(dir, sizeof(dir), "%s/log", data);
    if (!kz_fs_exists(kz_fs_posix(), dir))
        return kz_fail(err, KZ_NOT_FOUND, "there is no data in \"%s\"", data);
    KZ_TRY(keep_out(data, false, &lock, err));
    rc = kz_log_fsck(kz_fs_posix(), dir, problem, f, &f->records, err);
    if (rc != KZ_OK && rc != KZ_CORRUPT)
        return rc;
    if (rc == KZ_CORRUPT && !f->problems)
        problem(f, err->message);
    return project && !f->problems ? compare_views(f, project, data, err) : KZ_OK;
}

static int run_fsck(const struct kz_args *args)
{
    struct kz_buf buf = {0};
    struct fsck f = {.json = kz_args_flag(args, "json"), .out = kz_json_out(&buf)};
    KZ_AUTO(kz_config_freep) struct kz_config *config = NULL;
    char data[PATH_MAX];
    struct kz_err err;

    if (!place_of(args, data))
        return kz_command_usage(args, "it needs DIR or --data PATH");
    kz_diag_set(KZ_DIAG_ERROR, false);
    /* Only the project's name is wanted of it, and one that is broken must not hide broken data. */
    if (args->argument_count && kz_config_load(args->arguments[0], NULL, NULL, NULL, &config, &err) !=
                    KZ_OK && !f.json)
        fprintf(stderr, "views are not compared: %s\n", err.message);
    kz_json_out_object(&f.out);
    kz_json_out_key(&f.out, "problems");
    kz_json_out_array(&f.out);
    if (fsck(&f, config ? kz_config_project(config) : NULL, data, &err) != KZ_OK) {
        kz_buf_done(&buf);
        return kz_command_fail(&err);
    }
    kz_json_out_array_end(&f.out);
    kz_json_out_kv_u64(&f.out, "records", f.records);
    kz_json_out_kv_bool(&f.out, "views_compared", config != NULL);
    kz_json_out_kv_bool(&f.out, "ok", !f.problems);
    kz_json_out_object_end(&f.out);
    if (f.json)
        printf(KZ_STR_FMT "\n", KZ_STR_ARG(kz_buf_view(&buf)));
    else if (f.problems)
        fprintf(stderr, "kizashi: %" PRIu64 " problem%s in \"%s\", %" PRIu64 " records\n",
                f.problems, f.problems == 1 ? "" : "s", data, f.records);
    else
        printf("%" PRIu64 " records, no problem%s\n", f.records,
                config ? "" : " (views are not compared without DIR)");
    kz_buf_done(&buf);
    return f.problems ? KZ_EXIT_FAILED : KZ_EXIT_DONE;
}

const struct kz_command kz_command_fsck = {
        .name = "fsck",
        .arguments = "[DIR]",
        .argument_max = 1,
        .summary = "Verifies stored data: every checksum, every invariant, the checkpoint.",
        .details = "With DIR the views are made anew from the log and compared with the checkpoint "
                   "as well.\nStop `up` first, or look at a backup: `kizashi fsck --data BACKUP`.",
        .example = "kizashi fsck examples/shop",
        .options =
                {
                        {"data", "PATH", NULL, "where the data is, instead of DIR/.kizashi"},
                        {"json", NULL, NULL, "prints the outcome as JSON"},
                },
        .run = run_fsck,
};

/* ---- dump --------------------------------------------------------------------------------------------- */

struct dump {
    int64_t from_ms, until_ms;
    uint8_t type; /* 0: all */
    bool by_user;
    struct kz_buf owners; /* uint64_t each */
    struct kz_buf line;
    struct kz_err *err;
};

static bool is_wanted(const struct dump *d, const struct kz_record *record)
{
    const uint64_t *owners = (const uint64_t *)(const void *)d->owners.data;
    size_t count = d->owners.size / sizeof(uint64_t), i = 0;

    if (record->at_ms < d->from_ms || (d->until_ms && record->at_ms >= d->until_ms) ||
            (d->type && record->type != d->type))
        return false;
    while (d->by_user && i < count && owners[i] != record->owner)
        i++;
    return !d->by_user || i < count;
}

static enum kz_code dump_one(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct dump *d = arg;

    if (!is_wanted(d, record))
        return KZ_OK;
    kz_buf_clear(&d->line);
    kz_record_dump(record, lsn, &d->line);
    if (!d->line.size || d->line.data[d->line.size - 1] != '\n')
        kz_buf_char(&d->line, '\n');
    if (fwrite(d->line.data, 1, d->line.size, stdout) == d->line.size)
        return KZ_OK;
    return errno == EPIPE ? KZ_END : kz_fail_errno(d->err, "could not write");
}

static enum kz_code find_owners(struct dump *d, struct kz_history_reader *reader, const char *id,
        struct kz_err *err)
{
    KZ_AUTO(kz_views_freep) struct kz_views *views = NULL;
    uint32_t user;

    KZ_TRY(views_of_log(reader, 0, &views, err));
    user = kz_offline_find(views, kz_str(id));
    if (!user)
        return kz_fail(err, KZ_NOT_FOUND, "nothing is known of a user \"%s\"", id);
    kz_views_erase_owners(views, user, &d->owners);
    return KZ_OK;
}

static enum kz_code dump(struct dump *d, const char *data, const char *user, struct kz_err *err)
{
    struct kz_offline_reader reader;
    enum kz_code rc = KZ_OK;

    KZ_TRY(kz_offline_open_log(data, &reader, err));
    if (user)
        rc = find_owners(d, reader.reader, user, err);
    if (rc == KZ_OK)
        rc = reader.reader->ops->scan_all(reader.reader, 0, UINT64_MAX, dump_one, d, err);
    kz_offline_close_reader(&reader);
    return rc == KZ_END ? KZ_OK : rc;
}

static bool type_of(const char *name, uint8_t *ret_type)
{
    for (int type = 1; type < KZ_RECORD_TYPE_END; type++)
        if (strcmp(name, kz_record_name((enum kz_record_type)type)) == 0) {
            *ret_type = (uint8_t)type;
            return true;
        }
    return false;
}

static int run_dump(const struct kz_args *args)
{
    const char *user = kz_args_get(args, "user"), *type = kz_args_get(args, "type");
    struct kz_err err;
    struct dump d = {.from_ms = kz_offline_time(args, "from"),
            .until_ms = kz_offline_time(args, "until"),
            .by_user = user != NULL,
            .err = &err};
    char data[PATH_MAX];
    enum kz_code rc;

    if (!place_of(args, data))
        return kz_command_usage(args, "it needs DIR or --data PATH");
    if (type && !type_of(type, &d.type))
        return kz_command_usage(args,
                "there is no record type \"%s\"; there are event, link, trigger, request, result, "
                "decision, delivery, deadletter, erase, carry, control, clock",
                type);
    kz_diag_set(KZ_DIAG_ERROR, false);
    rc = dump(&d, data, user, &err);
    if (rc == KZ_OK && fflush(stdout) != 0 && errno != EPIPE)
        rc = kz_fail_errno(&err, "could not write");
    kz_buf_done(&d.owners);
    kz_buf_done(&d.line);
    return rc == KZ_OK ? KZ_EXIT_DONE : kz_command_fail(&err);
}

const struct kz_command kz_command_dump = {
        .name = "dump",
        .arguments = "[DIR]",
        .argument_max = 1,
        .summary = "Prints the log's records as JSON, one a line; `up` may run meanwhile.",
        .details = "Everything is in it, values of users included. docs/log-format.md says what each "
                   "record means.",
        .example = "kizashi dump examples/shop --type decision --from 2026-11-24T00:00:00Z",
        .options =
                {
                        {"from", "TIME", NULL, "records written at or after this, by our clock"},
                        {"until", "TIME", NULL, "records written before this"},
                        {"type", "TYPE", NULL, "event, link, trigger, request, result, decision, ..."},
                        {"user", "U", NULL, "records of this user, and of ids merged into it"},
                        {"data", "PATH", NULL, "where the data is, instead of DIR/.kizashi"},
                },
        .run = run_dump,
};

/* ---- restore ------------------------------------------------------------------------------------------ */

struct restore {
    const char *from, *to;
    struct kz_buf names; /* NUL-terminated, one behind the other */
    uint64_t all, done;
    struct kz_progress progress;
    uint64_t problems;
};

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

static enum kz_code verify(struct restore *r, const char *dir, uint64_t *ret_records,
        struct kz_err *err)
{
    enum kz_code rc = kz_log_fsck(kz_fs_posix(), dir, see_problem, r, ret_records, err);

    if (rc == KZ_CORRUPT || r->problems)
        return kz_fail(err, KZ_CORRUPT, "\"%s\" is not whole: %" PRIu64 " problem%s", dir,
                r->problems, r->problems == 1 ? "" : "s");
    return rc;
}

static enum kz_code copy_file(struct restore *r, const char *from, const char *to, struct kz_err *err)
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

static enum kz_code copy_log(struct restore *r, const char *from, const char *to, struct kz_err *err)
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
    (void)kz_fail(err, KZ_CONFLICT, "\"%s\" has data already; a backup is restored into none", data);
    return kz_hint(err, "move it away, or name another place with --data PATH");
}

/* The copy gets its name when it is whole; the marker that pauses actions is there before it. */
static enum kz_code restore(struct restore *r, uint64_t *ret_records, struct kz_err *err)
{
    static const char marker[] = "restored from a backup: actions are paused until `kizashi actions "
                                 "resume --all`\n";
    struct kz_fs *fs = kz_fs_posix();
    KZ_AUTO(kz_file_closep) struct kz_file *lock = NULL;
    char from[PATH_MAX], partial[PATH_MAX], path[PATH_MAX];

    snprintf(from, sizeof(from), "%s/log", r->from);
    if (!kz_fs_exists(fs, from))
        return kz_fail(err, KZ_NOT_FOUND, "\"%s\" is no backup: it has no directory \"log\"", r->from);
    KZ_TRY(must_be_fresh(r->to, err));
    KZ_TRY(verify(r, from, ret_records, err));
    KZ_TRY(fs->ops->mkdir(fs, r->to, err));
    KZ_TRY(keep_out(r->to, true, &lock, err));
    snprintf(path, sizeof(path), "%s/restored", r->to);
    KZ_TRY(kz_fs_replace(fs, path, marker, strlen(marker), err));
    snprintf(partial, sizeof(partial), "%s/log.restoring", r->to);
    KZ_TRY(copy_log(r, from, partial, err));
    KZ_TRY(verify(r, partial, ret_records, err));
    snprintf(path, sizeof(path), "%s/log", r->to);
    KZ_TRY(fs->ops->rename(fs, partial, path, err));
    KZ_TRY(fs->ops->sync_dir(fs, r->to, err));
    kz_progress_end(&r->progress, r->done, NULL);
    return KZ_OK;
}

static int run_restore(const struct kz_args *args)
{
    char data[PATH_MAX];
    struct restore r = {.from = args->arguments[0], .to = data};
    uint64_t records = 0;
    struct kz_err err;
    enum kz_code rc;

    kz_command_data(args, args->arguments[1], data, sizeof(data));
    kz_diag_set(KZ_DIAG_ERROR, false);
    rc = restore(&r, &records, &err);
    kz_buf_done(&r.names);
    if (rc != KZ_OK)
        return kz_command_fail(&err);
    printf("%" PRIu64 " records are in %s, verified.\n"
           "Actions start paused, so that nobody gets twice what they got since the backup:\n"
           "  kizashi up %s\n  kizashi actions resume --all\n",
            records, data, args->arguments[1]);
    return KZ_EXIT_DONE;
}

const struct kz_command kz_command_restore = {
        .name = "restore",
        .arguments = "BACKUP DIR",
        .argument_min = 2,
        .argument_max = 2,
        .summary = "Puts a backup back into a project without data; actions start paused.",
        .details = "The backup and its copy are verified as by `kizashi fsck`. Keys are not part of "
                   "a backup.",
        .example = "kizashi restore /backups/monday examples/shop",
        .options = {{"data", "PATH", NULL, "where the data goes, instead of DIR/.kizashi"}},
        .run = run_restore,
};
