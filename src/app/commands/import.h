/* app/commands/import.h -- where `kizashi import` puts a history: a log of this machine, or the store of a
 * deployment of roles. Nothing is asked and nothing decided from it.
 *
 * Threads  one.
 */
#pragma once

#include "app/commands/exportfile.h"
#include "app/commands/offline.h"

struct kz_import_options {
    const struct kz_project *project;
    const char *data_dir; /* of the log */
    const char *backend;  /* --backend: "memory", "gcp"; NULL: as the project says */
    bool exported;        /* lines are those of an export */
    void (*rejected)(void *arg, uint64_t line, const char *code, struct kz_str message);
    void *arg;
};

struct kz_import {
    const struct kz_import_ops *ops;
};

struct kz_import_ops {
    /* An event, one line of JSON (copied); `line` is for messages. Whatever was there already is only
     * counted. */
    enum kz_code (*add)(
            struct kz_import *import, struct kz_str json, uint64_t line, struct kz_err *err);
    /* A line of an export that is no event; before all events. */
    enum kz_code (*note)(
            struct kz_import *import, const struct kz_export_line *line, struct kz_err *err);
    /* What was added is in. */
    enum kz_code (*finish)(struct kz_import *import, struct kz_err *err);
    const struct kz_offline_tally *(*tally)(const struct kz_import *import);
    void (*free)(struct kz_import *import);
};

/* Into the log in data_dir, which nobody else may have. */
KZ_MUST_USE enum kz_code kz_import_log(
        const struct kz_import_options *options, struct kz_import **ret_import, struct kz_err *err);
/* Into the store that the project, or `backend`, names. */
KZ_MUST_USE enum kz_code kz_import_store(
        const struct kz_import_options *options, struct kz_import **ret_import, struct kz_err *err);
