/* contract/infer.h -- asking a model: what the pipeline gives to infer and gets back, and what a
 * runtime (Python, trees, ONNX, a process, HTTP) has to offer.
 */
#pragma once

#include "contract/history.h"
#include "contract/project.h"
#include "contract/sql.h"

/* ---- pipeline <-> infer ---------------------------------------------------------------------- */

/* One request, made by the pipeline, owned by infer until it comes back in a result. Strings and
 * sources live in the job's own allocation. */
struct kz_infer_job {
    uint64_t request;            /* seq of the REQUEST record */
    kz_lsn request_lsn;          /* its address: what the model may see ends there */
    kz_lsn copy_lsn;             /* where retention has copied it; 0 nowhere */
    unsigned model;              /* index in the project */
    struct kz_sql_params params; /* strings borrowed from `text` below */
    char user_kind;
    uint64_t owner;
    struct kz_source sources[KZ_SOURCES_MAX];
    size_t source_count;
    int64_t queued_us;   /* monotonic, when it was handed over */
    int64_t deadline_ms; /* our clock (real): expired after it; 0 none */
    void *user;          /* the pipeline's own */
    struct kz_infer_job *next;
    char text[2 * KZ_ID_SIZE_MAX + 2];
};

struct kz_infer_result {
    struct kz_infer_job *job; /* given back */
    enum kz_request_end end;
    bool has_score;
    double score;
    struct kz_buf output;   /* JSON */
    struct kz_buf features; /* kz_row_encode()d; empty for raw-history models */
    uint64_t features_hash;
    uint64_t version_hash;
    const char *version;
    uint32_t queue_us, features_us, wait_us, model_us;
    uint32_t attempt_count;
    enum kz_stage stage; /* where it failed, if it did */
    char code[32];
    struct kz_buf error; /* reason and traceback */
    struct kz_infer_result *next;
};

/* ---- infer <-> runtime ------------------------------------------------------------------------ */

/* Rows of one micro-batch for one model; owned by infer until `done`. */
struct kz_batch {
    size_t row_count;
    size_t numeric_count;             /* k */
    const char *const *numeric_names; /* [k] */
    const double *numeric;            /* row-major (row_count, k); NULL is NaN */
    size_t text_count;
    const char *const *text_names;
    const struct kz_value *text;    /* row-major (row_count, text_count); TEXT or NULL */
    const struct kz_str *user_ids;  /* [row_count] */
    const struct kz_str *event_ids; /* [row_count] */
    const int64_t *now_ms;          /* [row_count] */
    const struct kz_str *histories; /* [row_count] JSON arrays of raw events, or NULL */
    const bool *truncated;          /* [row_count] the row's history was cut (@truncated) */
};

enum kz_row_state { KZ_ROW_OK, KZ_ROW_FAILED };
struct kz_batch_row {
    enum kz_row_state state;
    const double *values; /* numeric outputs, value_count of them; NULL where JSON */
    size_t value_count;
    struct kz_str json;    /* dict outputs: one JSON object, validated */
    const char *fail_code; /* FAILED: "nan" or "shape"; this row only, the others stand */
    struct kz_str message;
};
struct kz_batch_outcome {
    enum kz_code code;     /* KZ_OK: rows are set; else the whole batch failed */
    const char *fail_code; /* "exception", "shape", "timeout", "crash", "oom", "protocol" */
    struct kz_str message; /* with the traceback */
    const struct kz_batch_row *rows;
    size_t row_count;
    uint32_t model_us; /* inside the model */
    bool replica_lost; /* the process died or was killed */
};

struct kz_replica; /* a runtime's: one process or one in-process evaluator */

struct kz_replica_events { /* called on the loop's thread, never from within start or stop */
    void (*ready)(void *arg, struct kz_replica *replica);
    /* Failed to load, or died while idle; the replica is gone after this returns. `code` as in
     * kz_batch_outcome, or "load" (the model's load() raised), "refused" (could not be forked). */
    void (*lost)(void *arg, struct kz_replica *replica, const char *code, struct kz_str message);
    /* A batch ended; `outcome` is borrowed for the call. With replica_lost the replica is gone. */
    void (*done)(void *arg, struct kz_replica *replica, const struct kz_batch_outcome *outcome);
    /* A line the model printed; replicas forked from each other share their output. */
    void (*printed)(void *arg, struct kz_str line);
};

/* A column of the features query as the model gets it. A model is loaded for its columns, so kinds
 * are known before the first batch; infer starts new replicas where it learns better. */
struct kz_batch_column {
    const char *name;
    bool is_text;
};

struct kz_replica_start { /* borrowed for the call, but for model and project */
    const struct kz_model_def *model;
    const struct kz_project *project;
    void *loop;                            /* a uv_loop_t of the calling thread */
    const struct kz_batch_column *columns; /* in the query's order; none for raw-history models */
    size_t column_count;
    const char *version;
    struct kz_replica *like; /* a ready replica of the same columns to fork from, or NULL */
    const struct kz_replica_events *events;
    void *arg;
};

struct kz_runtime_ops {
    const char *name;
    bool native; /* in-process: no replica processes, deterministic bit for bit */
    /* Starts a replica; `ready` or `lost` follows. */
    enum kz_code (*start)(const struct kz_replica_start *start, struct kz_replica **ret_replica,
            struct kz_err *err);
    /* One batch at a time per replica; `done` follows, or `done` with code KZ_TIMEOUT after
     * timeout_ms, the replica then being killed. */
    enum kz_code (*predict)(struct kz_replica *replica, const struct kz_batch *batch,
            int64_t timeout_ms, struct kz_err *err);
    /* Ends it without further callbacks. */
    void (*stop)(struct kz_replica *replica);
    int (*pid)(const struct kz_replica *replica); /* 0: in-process, or not known yet */
};

/* A table of runtimes, given to infer by app: runtimes are found by kz_model_def.runtime. */
const struct kz_runtime_ops *kz_runtime_find(
        const struct kz_runtime_ops *const *table, const char *name);
