/* backends/bigtable/bigtable.h -- contract/predictions.h on Google Cloud Bigtable.
 *
 * Everything of a project is in one table, made by create(); what is in it, and how another program
 * reads predictions out of it, is in docs/bigtable-format.md. The instance is not made here: it
 * costs money, and where it stands is for its owner to say.
 *
 * Threads  any. No thread of its own; what is called blocks, at most `timeout_ms`, but scan() only
 * for as long without progress. Life     the kz_rpc outlives it. Fails    KZ_NOT_FOUND names the
 * table and the command that makes it; KZ_FORBIDDEN the role that is missing; KZ_UNAVAILABLE,
 * KZ_TIMEOUT, KZ_LIMIT: try later.
 */
#pragma once

#include "contract/predictions.h"
#include "rpc/rpc.h"

struct kz_bigtable_options {
    struct kz_rpc *rpc;
    const char *project; /* of Google Cloud */
    const char *instance;
    const char *table;       /* "kizashi_<project>", at most 50 characters */
    const char *app_profile; /* must route to a single cluster and permit single-row transactions;
                              * NULL or "": the instance's default */
    const char *emulator;    /* "localhost:8086"; NULL: BIGTABLE_EMULATOR_HOST where it is set */
    int64_t retention_ms;    /* of entries and predictions; 0: for ever. Rules of create() */
    int64_t state_retention_ms; /* of a user's state since it changed last, at least the longest
                                 * window of a cap; 0: for ever. Rules of create() */
    unsigned connection_count;  /* 0: 1 */
    int64_t timeout_ms;         /* 0: 10 s */
};

/* Strings are copied. Connects with the first call; freed by close(). */
KZ_MUST_USE enum kz_code kz_bigtable_open(const struct kz_bigtable_options *options,
        struct kz_predictions **ret_predictions, struct kz_err *err);
