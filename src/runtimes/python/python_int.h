/* runtimes/python/python_int.h -- what the files of the Python runtime share. */
#pragma once

#include <sys/types.h>
#include <uv.h>

#include "runtimes/python/python.h"

enum { /* docs/worker-protocol.md */
    WIRE_VERSION = 1,
    WIRE_HEADER_BYTES = 12,
    WIRE_FRAME_BYTES_MAX = 64 << 20,
    WIRE_ROWS_MAX = 65536,
    WIRE_COLUMNS_MAX = 16384,
};
#define WIRE_NULL UINT32_C(0xffffffff)

enum wire_type {
    WIRE_LOAD = 0x01,
    WIRE_PREDICT = 0x02,
    WIRE_FORK = 0x03,
    WIRE_SHUTDOWN = 0x05,
    WIRE_HELLO = 0x81,
    WIRE_READY = 0x82,
    WIRE_FAILED = 0x83,
    WIRE_RESULT = 0x84,
    WIRE_ERROR = 0x85,
    WIRE_FORKED = 0x86,
};

enum wire_code { /* of FAILED, ERROR and a row's status */
    WIRE_EXCEPTION = 1,
    WIRE_SHAPE = 2,
    WIRE_NAN = 3,
    WIRE_PROTOCOL = 4,
    WIRE_REFUSED = 5,
    WIRE_MODEL = 6,
};

struct wire_header {
    uint32_t size; /* of the payload */
    uint8_t type;
    uint32_t id;
};

/* ---- wire.c: pure, over untrusted bytes; failures are KZ_INVALID ------------------------------- */

enum kz_code kz_py_header(
        const char bytes[WIRE_HEADER_BYTES], struct wire_header *ret, struct kz_err *err);
/* Appends whole frames. */
void kz_py_put_load(struct kz_buf *out, uint32_t id, const struct kz_replica_start *start);
enum kz_code kz_py_put_predict(
        struct kz_buf *out, uint32_t id, const struct kz_batch *batch, struct kz_err *err);
void kz_py_put_empty(struct kz_buf *out, enum wire_type type, uint32_t id);

enum kz_code kz_py_get_hello(struct kz_str payload, struct kz_err *err);
enum kz_code kz_py_get_ready(struct kz_str payload, bool *ret_can_fork, struct kz_err *err);
struct wire_failure {
    uint32_t code; /* enum wire_code, or one we do not know */
    uint32_t predict_us;
    struct kz_str message, traceback;
};
enum kz_code kz_py_get_failure(struct kz_str payload, struct wire_failure *ret, struct kz_err *err);
const char *kz_py_code_name(const struct wire_failure *failure);

/* A RESULT read and checked. Memory is kept from one to the next. */
struct wire_result {
    struct kz_batch_row *rows; /* strings borrowed from the payload */
    double *values;
    size_t rows_capacity, values_capacity;
    size_t row_count;
    uint32_t predict_us;
};
void kz_py_result_done(struct wire_result *result);
/* `row_count` is what was asked; the output's shape is checked against the model's. */
enum kz_code kz_py_get_result(struct kz_str payload, const struct kz_model_def *model,
        size_t row_count, struct wire_result *result, struct kz_err *err);

/* ---- outlet.c: what a family of forked replicas prints --------------------------------------- */

enum { OUTLET_LINE_BYTES_MAX = 2048, OUTLET_LINES_A_SECOND = 100, OUTLET_TAIL_BYTES = 2000 };

struct outlet {
    uint32_t magic;
    unsigned refs;
    uv_poll_t poll;
    int fd;
    bool closing;
    const struct kz_replica_events *events;
    void *arg;
    size_t line_size;
    bool line_cut;     /* the rest of the line is left out */
    int64_t window_ms; /* when the current second began */
    unsigned line_count, left_out;
    size_t tail_size;
    char line[OUTLET_LINE_BYTES_MAX];
    char tail[OUTLET_TAIL_BYTES]; /* the last that was printed, for the reason of a death */
};

/* `fd` is the pipe's reading end, taken. */
enum kz_code kz_py_outlet_new(uv_loop_t *loop, int fd, const struct kz_replica_events *events,
        void *arg, struct outlet **ret_outlet, struct kz_err *err);
struct outlet *kz_py_outlet_ref(struct outlet *outlet);
void kz_py_outlet_unref(struct outlet *outlet);
/* Reads what is there now. */
void kz_py_outlet_drain(struct outlet *outlet);

/* ---- cgroup.c ----------------------------------------------------------------------------------- */

/* A control group of one replica; empty paths where none could be made. */
struct cgroup {
    char memory[256];
    char cpu[256]; /* the same directory in v2 */
    bool v2;
};
/* Makes groups with the model's limits and moves the process there. True where its memory is
 * limited so; false: the caller sets an rlimit. */
bool kz_py_cgroup_enter(struct cgroup *group, const struct kz_model_def *model, pid_t pid);
bool kz_py_cgroup_was_oom(const struct cgroup *group);
/* Removes what is empty; false: a process is still leaving, try again. */
bool kz_py_cgroup_remove(struct cgroup *group);

/* ---- spawn.c --------------------------------------------------------------------------------------- */

struct spawned {
    pid_t pid;
    int channel; /* ours, non-blocking */
    int output;  /* reading end of stdout and stderr, non-blocking */
};
/* A worker with the package on its path, in its own process group. */
enum kz_code kz_py_spawn(const struct kz_python *python, const struct kz_project *project,
        struct spawned *ret, struct kz_err *err);
/* Runs a short program and gives what it wrote to stdout, for the probe. */
enum kz_code kz_py_run(const char *interpreter, const char *package, const char *program,
        int64_t timeout_ms, struct kz_buf *out, struct kz_err *err);
/* Memory without a cgroup, no core dumps, a little nicer than we are. */
void kz_py_limit(pid_t pid, const struct kz_model_def *model, bool memory);
/* Children of models become ours when their parent ends, so that they can be reaped. */
void kz_py_be_subreaper(void);
void kz_py_kill(pid_t pid);
/* False while it has not ended; else whether the status is known. */
bool kz_py_reap(pid_t pid, bool *ret_known, int *ret_status);
/* What its process had started, after the kill; false while some of it has not ended. */
bool kz_py_reap_group(pid_t group);
bool kz_py_is_child(pid_t pid);
