/* tests/infer/rig.h -- infer with real Python workers, over a history and a SQL made for tests.
 *
 * The history of user u is what rig_event() gave it. The "SQL" of a model is a list of names: each
 * column is that member of the newest event's props, "count" the number of events; a member "steps"
 * is how much work the row is, and `"fail": true` makes it fail.
 */
#pragma once

#include <stdarg.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "infer/infer.h"
#include "runtimes/python/python.h"

enum { RIG_WAIT_MS = 120000 }; /* for what has to happen: a busy machine takes its time */
enum { RIG_MODELS_MAX = 2, RIG_USERS_MAX = 4096, RIG_RESULTS_MAX = 1 << 16 };

struct rig_user {
    struct kz_buf bytes;
    size_t *starts;
    size_t count, capacity;
};

struct rig {
    struct kz_history_reader reader;
    struct kz_project project;
    struct kz_model_def models[RIG_MODELS_MAX];
    struct rig_user users[RIG_USERS_MAX];
    struct kz_infer *infer;
    struct kz_infer_options options;
    int bell; /* eventfd */
    uint64_t request;
    struct kz_infer_result *results[RIG_RESULTS_MAX]; /* by request - 1 */
    size_t done;
    char dir[64];
    struct kz_event_parts cache_parts; /* asked for, with so many bytes */
    uint64_t cache_bytes;
    unsigned caches; /* there now */
    atomic_uint scans_cached, scans_plain;
    atomic_bool hold_scans; /* a scan waits in there as long as this is set */
    atomic_uint forgets;    /* of what is kept; the last one's owner */
    _Atomic uint64_t forgotten;
};

void rig_init(struct rig *rig);
/* A model whose model.py is `source`, with columns `sql` (NULL: raw history). */
struct kz_model_def *rig_model(struct rig *rig, const char *source, const char *sql);
void rig_open(struct rig *rig);
void rig_ready(struct rig *rig); /* and waits until every replica of `min` is */
void rig_close(struct rig *rig);

void rig_event(struct rig *rig, unsigned user, const char *props);
struct kz_infer_job *rig_job(struct rig *rig, unsigned model, unsigned user);
/* An event with these props, and a request about it; its number from 0. */
size_t rig_ask(struct rig *rig, unsigned user, const char *props);
void rig_wait(struct rig *rig, size_t count); /* until that many have ended, at most 30 s */
void rig_take(struct rig *rig);

void rig_assert_done(struct rig *rig, size_t request, double score);
void rig_assert_dead(struct rig *rig, size_t request, const char *code, const char *in_message);
struct kz_infer_status rig_status(struct rig *rig, unsigned model);
/* Until `holds` of the status, at most 30 s. */
void rig_until(
        struct rig *rig, unsigned model, bool (*holds)(const struct kz_infer_status *status));
/* Processes whose parent we are. */
unsigned rig_children(void);
