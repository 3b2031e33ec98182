/* tests/retention/rig.h -- a pipeline over a simulated disk and virtual time, fed one event at a
 * time.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "app/pipeline/pipeline_int.h"
#include "base/diag.h"
#include "sys/file_sim.h"
#include "sys/random.h"
#include "../support.h"

#define DAY ((int64_t)86400000)
#define T0 ((int64_t)1760000000000)

struct rig {
    struct kz_fs *fs;
    struct kz_project project;
    struct kz_pipeline *p;
    int64_t now_ms;
    bool ask;
    bool real_clock; /* then upkeep goes on by itself, on its thread */
};

static void rig_nobody(void *arg)
{
    (void)arg;
}

static void rig_open(struct rig *rig)
{
    struct kz_pipeline_options options = {
            .project = &rig->project,
            .fs = rig->fs,
            .data_dir = "/data",
            .runtimes = support_runtimes,
            .wake = rig_nobody,
            .virtual_clock = !rig->real_clock,
            .sync_inline = true,
            .ask = rig->ask,
    };
    struct kz_err err = {0};

    if (kz_pipeline_open(&options, &rig->p, &err) != KZ_OK)
        fail_msg("could not open: %s", err.message);
    if (!rig->real_clock)
        assert_int_equal(kz_pipeline_set_clock(rig->p, rig->now_ms, &err), KZ_OK);
    assert_int_equal(kz_views_check(rig->p->views, &err), KZ_OK);
}

struct rig_names {
    char names[16][64];
    size_t count;
};

static void rig_name(void *arg, const char *name)
{
    struct rig_names *names = arg;

    assert_true(names->count < KZ_ARRAY_COUNT(names->names));
    snprintf(names->names[names->count++], sizeof(names->names[0]), "%s", name);
}

static void rig_drop_checkpoints(struct rig *rig)
{
    struct rig_names names = {0};
    char path[128];

    assert_int_equal(rig->fs->ops->list(rig->fs, "/data/views", rig_name, &names, NULL), KZ_OK);
    assert_true(names.count > 0);
    for (size_t i = 0; i < names.count; i++) {
        snprintf(path, sizeof(path), "/data/views/%s", names.names[i]);
        assert_int_equal(rig->fs->ops->unlink(rig->fs, path, NULL), KZ_OK);
    }
}

static void rig_close(struct rig *rig)
{
    kz_pipeline_close(rig->p);
    rig->p = NULL;
}

/* Closed and opened again, from the log alone where `bare`: the state is what it was. */
static void rig_again(struct rig *rig, bool bare)
{
    uint64_t hash = kz_views_hash(rig->p->views);

    rig_close(rig);
    if (bare)
        rig_drop_checkpoints(rig);
    rig_open(rig);
    if (kz_views_hash(rig->p->views) != hash)
        fail_msg("the state is another after a start%s", bare ? " from the log alone" : "");
}

static void rig_done(struct kz_submission *submission, enum kz_code code, const struct kz_err *err)
{
    (void)err;
    assert_int_equal(code, KZ_OK);
    *(bool *)submission->user = true;
}

struct sent {
    const char *anonymous_id, *user_id, *name, *event_id;
    enum kz_identity_op identity;
    const char *props;
    int64_t imported_ms; /* an import's time; 0: live */
};

static enum kz_intake_state rig_send(struct rig *rig, struct sent sent)
{
    struct kz_intake_item *item = kz_calloc(1, sizeof(*item));
    bool done = false;
    struct kz_submission submission = {
            .items = &item, .item_count = 1, .done = rig_done, .user = &done};
    struct kz_intake *intake = kz_pipeline_intake(rig->p);
    enum kz_intake_state state;
    struct kz_err err = {0};

    item->event.anonymous_id = kz_str(sent.anonymous_id);
    item->event.user_id = kz_str(sent.user_id);
    item->event.name = kz_str(sent.name ? sent.name : "noise");
    item->event.event_id = kz_str(sent.event_id);
    item->event.identity = sent.identity;
    item->event.props = kz_str(sent.props);
    if (sent.imported_ms) {
        item->event.flags = KZ_EVENT_IMPORTED;
        item->event.client_ts_ms = sent.imported_ms;
    }
    intake->ops->submit(intake, &submission);
    if (kz_pipeline_settle(rig->p, 60000, &err) != KZ_OK)
        fail_msg("could not settle: %s", err.message);
    assert_true(done);
    state = item->state;
    free(item);
    return state;
}

static void rig_upkeep(struct rig *rig)
{
    struct kz_err err = {0};

    if (kz_pipeline_upkeep(rig->p, &err) != KZ_OK)
        fail_msg("upkeep: %s", err.message);
    assert_int_equal(kz_views_check(rig->p->views, &err), KZ_OK);
}

static void rig_wait(struct rig *rig, int64_t ms)
{
    struct kz_err err = {0};

    rig->now_ms += ms;
    assert_int_equal(kz_pipeline_set_clock(rig->p, rig->now_ms, &err), KZ_OK);
}

static struct kz_pipeline_counters rig_counters(struct rig *rig)
{
    struct kz_pipeline_counters counters;

    kz_pipeline_query(rig->p)->ops->counters(kz_pipeline_query(rig->p), &counters);
    return counters;
}
