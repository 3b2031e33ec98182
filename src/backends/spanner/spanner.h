/* backends/spanner/spanner.h -- contract/store.h on Google Cloud Spanner.
 *
 * Everything of a project is in one database, made and migrated by create(); what is in it, and how
 * another program reads events out of it by SQL, is in docs/spanner-schema.md. The instance is not
 * made here (but on the emulator): it costs money, and where it stands is for its owner to say.
 *
 * Threads  any. No thread of its own; what is called blocks, at most `timeout_ms`, but scans only
 * for as long without progress. Life     the kz_rpc outlives it. Fails    KZ_NOT_FOUND names the
 * database or table and the command that makes it; KZ_UNSUPPORTED: of a newer version; KZ_FORBIDDEN
 * the role that is missing; KZ_UNAVAILABLE, KZ_TIMEOUT, KZ_LIMIT, KZ_OVERLOADED: try later.
 */
#pragma once

#include "contract/store.h"
#include "rpc/rpc.h"

struct kz_spanner_options {
    struct kz_rpc *rpc;
    const char *project; /* of Google Cloud */
    const char *instance;
    const char *database; /* 2 to 30 lower-case letters, digits, "-", "_" */
    const char *emulator; /* "localhost:9010"; NULL: SPANNER_EMULATOR_HOST where it is set */
    int64_t retention_ms; /* of events, notes and dead letters; 0: for ever. Policies of create() */
    int64_t dedupe_ms;    /* ids are known for at least that long; 0: for ever. The same */
    int64_t state_retention_ms; /* of a user since it changed last, with all that is theirs; 0: for
                                 * ever. The same */
    unsigned session_max;       /* transactions and reads at a time; 0: 100 */
    unsigned connection_count;  /* 0: 1 */
    int64_t timeout_ms;         /* 0: 10 s */
};

/* Strings are copied. Connects with the first call; freed by close(). */
KZ_MUST_USE enum kz_code kz_spanner_open(
        const struct kz_spanner_options *options, struct kz_store **ret_store, struct kz_err *err);
