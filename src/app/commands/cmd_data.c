/* app/commands/cmd_data.c -- `kizashi fsck` and `dump`: the data itself. */

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "app/config/config.h"
#include "app/commands/offline.h"
#include "base/diag.h"
#include "codec/json_out.h"
#include "history/checkpoint.h"

/* DIR/.kizashi or --data; false: neither was given. */
static bool place_of(const struct kz_args *args, char out[PATH_MAX])
{
    if (!args->argument_count && !kz_args_get(args, "data"))
        return false;
    kz_command_data(args, args->argument_count ? args->arguments[0] : "", out, PATH_MAX);
    return true;
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
static enum kz_code compare_views(
        struct fsck *f, const struct kz_project *project, const char *data, struct kz_err *err)
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
    rc = kz_offline_open_log(data, &info.mark, &reader, err);
    if (rc == KZ_CONFLICT) {
        problem(f, err->message);
        return KZ_OK;
    }
    KZ_TRY(rc);
    rc = views_of_log(reader.reader, project->limits.dead_letters_max, &made, err);
    if (rc == KZ_OK)
        rc = reader.reader->ops->scan_all(
                reader.reader, info.mark.position, UINT64_MAX, apply_one, newest, err);
    kz_offline_close_reader(&reader);
    KZ_TRY(rc);
    check_views(f, made, "made from the log");
    check_views(f, newest, "of the checkpoint");
    if (kz_views_hash(made) != kz_views_hash(newest)) {
        snprintf(line, sizeof(line),
                "views: the checkpoint at seq %" PRIu64
                " and the records after it do not give what "
                "the whole log gives; removing \"%s\" makes the next start read the log",
                info.seq, dir);
        problem(f, line);
    }
    return KZ_OK;
}

static enum kz_code fsck(
        struct fsck *f, const struct kz_project *project, const char *data, struct kz_err *err)
{
    KZ_AUTO(kz_file_closep) struct kz_file *lock = NULL;
    char dir[PATH_MAX];
    enum kz_code rc;

    snprintf(dir, sizeof(dir), "%s/log", data);
    if (!kz_fs_exists(kz_fs_posix(), dir))
        return kz_fail(err, KZ_NOT_FOUND, "there is no data in \"%s\"", data);
    KZ_TRY(kz_offline_lock(data, false, &lock, err));
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
    if (args->argument_count &&
            kz_config_load(args->arguments[0], NULL, NULL, NULL, &config, &err) != KZ_OK && !f.json)
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

static enum kz_code find_owners(
        struct dump *d, struct kz_history_reader *reader, const char *id, struct kz_err *err)
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

    KZ_TRY(kz_offline_open_log(data, NULL, &reader, err));
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
        .details =
                "Everything is in it, values of users included. docs/log-format.md says what each "
                "record means.",
        .example = "kizashi dump examples/shop --type decision --from 2026-11-24T00:00:00Z",
        .options =
                {
                        {"from", "TIME", NULL, "records written at or after this, by our clock"},
                        {"until", "TIME", NULL, "records written before this"},
                        {"type", "TYPE", NULL,
                                "event, link, trigger, request, result, decision, ..."},
                        {"user", "U", NULL, "records of this user, and of ids merged into it"},
                        {"data", "PATH", NULL, "where the data is, instead of DIR/.kizashi"},
                },
        .run = run_dump,
};
