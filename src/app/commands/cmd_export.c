/* app/commands/cmd_export.c -- `kizashi export`: the whole history as NDJSON (app/commands/exportfile.h), to move it to a
 * deployment of roles, or from there to one machine.
 *
 * Events go out in the order in which they came, which is what makes the copy the same: who is linked to
 * whom, sessions and histories follow from it. What retention has taken cannot; of users who were there
 * before, a line says since when, and to whom they are linked.
 */

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/config/check.h"
#include "app/commands/exportfile.h"
#include "app/commands/offline.h"
#include "app/roles/role.h"
#include "base/diag.h"

enum { FLUSH_BYTES = 1 << 20 };

struct export
{
    const struct kz_views *views; /* NULL: the reader has no events of anybody erased */
    uint64_t after, first_seq, last_seq, event_count;
    uint64_t *
            linked; /* owners whose LINK records are in the log, sorted by the end of the first pass */
    size_t linked_count, linked_capacity;
    struct kz_buf out;
    struct kz_progress progress;
    struct kz_err *err;
};

static enum kz_code flush(struct export *e)
{
    size_t size = e->out.size;

    kz_buf_clear(&e->out);
    if (fwrite(e->out.data, 1, size, stdout) != size)
        return kz_fail_errno(e->err, "could not write");
    return KZ_OK;
}

/* ---- users from before the log's beginning --------------------------------------------------------- */

static enum kz_code see_link(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct export *e = arg;

    (void)lsn;
    if (!e->first_seq)
        e->first_seq = record->seq;
    if (e->first_seq == 1)
        return KZ_END; /* nothing was dropped: no more needs to be known */
    if (record->type != KZ_RECORD_LINK)
        return KZ_OK;
    if (e->linked_count == e->linked_capacity) {
        e->linked_capacity = KZ_MAX(e->linked_capacity * 2, (size_t)1024);
        e->linked = kz_realloc(e->linked, e->linked_capacity * sizeof(*e->linked));
    }
    e->linked[e->linked_count++] =
            ((const struct kz_link_body *)kz_record_body(record).ptr)->from_owner;
    return KZ_OK;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static enum kz_code put_users(struct export *e)
{
    for (uint32_t user = 0; (user = kz_views_next_user(e->views, user)) != 0;) {
        const struct kz_user *u = kz_views_user(e->views, user);
        struct kz_export_line line = {.kind = KZ_EXPORT_USER,
                .user = kz_views_key(e->views, user),
                .first_seen_ms = u->first_seen_ms};
        uint32_t target = kz_views_target(e->views, user);

        if (target != user &&
                !bsearch(&u->owner, e->linked, e->linked_count, sizeof(*e->linked), by_number)) {
            line.to = kz_views_key(e->views, target);
            line.merged = kz_views_merged_into(e->views, user) != 0;
        }
        kz_export_put(&line, &e->out);
        if (e->out.size > FLUSH_BYTES)
            KZ_TRY(flush(e));
    }
    return KZ_OK;
}

static enum kz_code put_known(struct export *e, struct kz_history_reader *reader)
{
    size_t stones = kz_views_stats(e->views).tombstones;
    enum kz_code rc = reader->ops->scan_all(reader, 0, UINT64_MAX, see_link, e, e->err);

    if (rc != KZ_OK && rc != KZ_END)
        return rc;
    for (size_t i = 0; i < stones; i++) {
        const struct kz_tombstone *stone = kz_views_tombstone_at(e->views, i);

        kz_export_put(
                &(struct kz_export_line){
                        .kind = KZ_EXPORT_ERASED, .stone = stone->id_hash, .at_ms = stone->at_ms},
                &e->out);
    }
    if (e->first_seq <= 1)
        return KZ_OK;
    if (e->linked_count)
        qsort(e->linked, e->linked_count, sizeof(*e->linked), by_number);
    return put_users(e);
}

/* ---- events ---------------------------------------------------------------------------------------- */

static enum kz_code put_event(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct export *e = arg;

    (void)lsn;
    if (record->type != KZ_RECORD_EVENT || record->seq <= e->after)
        return KZ_OK;
    if (e->views && !kz_views_find_owner(e->views, record->owner))
        return KZ_OK; /* erased: it is in the log until its segment is rewritten */
    KZ_TRY(kz_export_put_event(record, &e->out, e->err));
    e->event_count++;
    e->last_seq = record->seq;
    if (e->out.size < FLUSH_BYTES)
        return KZ_OK;
    kz_progress_show(&e->progress, e->event_count, NULL);
    return flush(e);
}

static enum kz_code put_all(
        struct export *e, const struct kz_project *project, struct kz_history_reader *reader)
{
    struct kz_export_line head = {
            .kind = KZ_EXPORT_HEAD, .project = kz_str(project->name), .seq = e->after};

    kz_export_put(&head, &e->out);
    if (e->views)
        KZ_TRY(put_known(e, reader));
    KZ_TRY(reader->ops->scan_all(reader, 0, UINT64_MAX, put_event, e, e->err));
    kz_export_put(&(struct kz_export_line){.kind = KZ_EXPORT_END,
                          .event_count = e->event_count,
                          .seq = KZ_MAX(e->last_seq, e->after)},
            &e->out);
    KZ_TRY(flush(e));
    return fflush(stdout) == 0 ? KZ_OK : kz_fail_errno(e->err, "could not write");
}

static enum kz_code export(
        struct export *e, const struct kz_project *project, const char *data, const char *backend) {
    struct kz_offline_reader offline; struct kz_backends backends; enum kz_code rc;

    if (!backend && project->backends.history == KZ_BACKEND_EMBEDDED){
            KZ_TRY(kz_offline_open_reader(project, data, &offline, e->err));
            e->views = offline.views; rc = put_all(e, project, offline.reader);
            kz_offline_close_reader(&offline); return rc;}
KZ_TRY(kz_backends_open(project, backend, KZ_NEEDS_STORE, &backends, e->err));
rc = put_all(e, project, backends.store->ops->reader(backends.store));
kz_backends_close(&backends);
return rc;
}

static int run(const struct kz_args *args)
{
    KZ_AUTO(kz_config_freep) struct kz_config *config = NULL;
    char data[PATH_MAX];
    struct kz_err err;
    struct export e = {.after = (uint64_t)kz_args_int(args, "after", 0, INT64_MAX), .err = &err};
    enum kz_code rc;

    kz_diag_set(KZ_DIAG_ERROR, false);
    config = kz_check_load(args->arguments[0], kz_args_get(args, "env"), &err);
    if (!config)
        return kz_command_fail(&err);
    kz_command_data(args, args->arguments[0], data, sizeof(data));
    kz_progress_begin(&e.progress, "exporting", 0, kz_args_flag(args, "quiet"));
    rc = export(&e, kz_config_project(config), data, kz_args_get(args, "backend"));
    if (rc == KZ_OK)
        kz_progress_end(&e.progress, e.event_count, NULL);
    kz_buf_done(&e.out);
    free(e.linked);
    return rc == KZ_OK ? KZ_EXIT_DONE : kz_command_fail(&err);
}

const struct kz_command kz_command_export = {
        .name = "export",
        .arguments = "DIR",
        .argument_min = 1,
        .argument_max = 1,
        .summary =
                "Prints the whole history as NDJSON, for `import` elsewhere; `up` may run meanwhile.",
        .details =
                "Events in the order in which they came, with their times as they were held, and what is\n"
                "needed so that histories, sessions and links come out the same. The last line tells the seq\n"
                "to go on from: `--after SEQ` exports what came later.",
        .example =
                "kizashi export shop >shop.ndjson && kizashi import shop shop.ndjson --backend gcp",
        .options =
                {
                        {"data", "PATH", NULL, "where the data is, instead of DIR/.kizashi"},
                        {"env", "NAME", NULL, "lays kizashi.NAME.yaml on kizashi.yaml"},
                        {"backend", "NAME", NULL,
                                "gcp: from a deployment of roles (default: as the project says)"},
                        {"after", "SEQ", "0", "leaves out what an earlier export had"},
                        {"quiet", NULL, NULL, "no progress"},
                },
        .run = run,
};
