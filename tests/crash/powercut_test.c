/* Power cuts over the whole pipeline, on a disk that drops, tears and reorders what was not synced.
 *
 * A life: open, submit batches (some of them twice), be cut off at a random call to the disk or at a
 * random moment, open again, and so on. At every opening: whatever was acknowledged is there once,
 * nothing is there twice, every request ends at most once, its prediction is right. At the end every
 * request has ended, one coupon a user was decided, fsck is clean.
 *
 * KZ_POWER_CUTS says how many cuts (default 1,000); KZ_SEED where to begin.
 * A build with KZ_FAULT_NO_FSYNC fails this test: see `make crash`.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/diag.h"
#include "log/log.h"
#include "sys/clock.h"
#include "sys/file_sim.h"
#include "sys/random.h"
#include "../support.h"

enum { USERS = 12, EVENTS_MAX = 200000, BATCH = 8 };

struct life {
    struct kz_fs *fs;
    struct kz_prng dice;
    uint8_t acknowledged[EVENTS_MAX]; /* by event number */
    uint8_t seen[EVENTS_MAX];         /* in the log, by this look */
    unsigned made;
    uint64_t acknowledged_count, cuts, requests;
};

struct sending {
    struct kz_submission submission;
    struct kz_intake_item *items[BATCH];
    unsigned first;
    struct life *life;
    char text[BATCH][2][32];
};

static void on_done(struct kz_submission *submission, enum kz_code code, const struct kz_err *err)
{
    struct sending *s = submission->user;

    (void)err;
    for (size_t i = 0; i < BATCH; i++) {
        if (code == KZ_OK && s->items[i]->state != KZ_INTAKE_REJECTED &&
                !s->life->acknowledged[s->first + i]) {
            s->life->acknowledged[s->first + i] = 1;
            s->life->acknowledged_count++;
        }
        free(s->items[i]);
    }
    free(s);
}

static void submit(struct life *life, struct kz_pipeline *p, unsigned first)
{
    struct sending *s = kz_calloc(1, sizeof(*s));

    s->life = life;
    s->first = first;
    for (unsigned i = 0; i < BATCH; i++) {
        struct kz_event *event;

        s->items[i] = kz_calloc(1, sizeof(*s->items[i]));
        event = &s->items[i]->event;
        snprintf(s->text[i][0], sizeof(s->text[i][0]), "u%u", (first + i) % USERS);
        snprintf(s->text[i][1], sizeof(s->text[i][1]), "e%u", first + i);
        event->user_id = kz_str(s->text[i][0]);
        event->event_id = kz_str(s->text[i][1]);
        event->name = KZ_STR("view");
        event->props = KZ_STR(
                "{\"price\":1.5,\"pad\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}");
    }
    s->submission.items = s->items;
    s->submission.item_count = BATCH;
    s->submission.done = on_done;
    s->submission.user = s;
    kz_pipeline_intake(p)->ops->submit(kz_pipeline_intake(p), &s->submission);
}

/* ---- looking at the log ------------------------------------------------------------------------------ */

struct look {
    struct life *life;
    unsigned views[USERS];
    struct {
        uint64_t seq;
        unsigned views;
        unsigned results;
    } requests[EVENTS_MAX];
    size_t request_count;
    unsigned coupons[USERS];
    uint64_t seq_last;
};

static unsigned number_of(struct kz_str id)
{
    char text[16] = "";

    assert_true(id.size > 1 && id.size < sizeof(text));
    memcpy(text, id.ptr + 1, id.size - 1);
    return (unsigned)strtoul(text, NULL, 10);
}

static enum kz_code look_at(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct look *look = arg;
    struct kz_str body = kz_record_body(record);
    struct kz_event event;

    (void)lsn;
    assert_true(record->seq == look->seq_last + 1);
    look->seq_last = record->seq;
    if (record->type == KZ_RECORD_EVENT && !(record->flags & KZ_EVENT_ACTION)) {
        unsigned number;

        assert_int_equal(kz_event_decode(record, &event, NULL), KZ_OK);
        number = number_of(event.event_id);
        assert_true(number < look->life->made);
        assert_false(look->life->seen[number]); /* twice */
        look->life->seen[number] = 1;
        look->views[number % USERS]++;
    } else if (record->type == KZ_RECORD_REQUEST) {
        const struct kz_request_body *request = (const void *)body.ptr;
        unsigned user = number_of(kz_span_str(body, request->user_id));

        look->requests[look->request_count].seq = record->seq;
        look->requests[look->request_count].results = 0;
        look->requests[look->request_count++].views = look->views[user];
    } else if (record->type == KZ_RECORD_RESULT) {
        const struct kz_result_body *result = (const void *)body.ptr;
        size_t i = look->request_count;

        while (i && look->requests[i - 1].seq != result->request)
            i--;
        assert_true(i > 0); /* of a request that is there */
        assert_int_equal(++look->requests[i - 1].results, 1);
        if (result->end == KZ_END_DONE)
            assert_true(result->score == KZ_MIN(look->requests[i - 1].views, 500u));
    } else if (record->type == KZ_RECORD_DECISION) {
        const struct kz_decision_body *decision = (const void *)body.ptr;

        if (decision->decision == KZ_DECISION_DELIVER)
            look->coupons[number_of(kz_span_str(body, decision->user_id))]++;
    }
    return KZ_OK;
}

static void check_log(struct life *life, struct kz_pipeline *p, bool final)
{
    struct look *look = kz_calloc(1, sizeof(*look));
    struct kz_history_reader *reader = kz_pipeline_query(p)->reader;
    struct kz_err err = {0};
    uint64_t lost = 0;

    look->life = life;
    memset(life->seen, 0, sizeof(life->seen));
    assert_int_equal(reader->ops->scan_all(reader, 0, UINT64_MAX, look_at, look, &err), KZ_OK);
    for (unsigned i = 0; i < life->made; i++)
        lost += life->acknowledged[i] && !life->seen[i];
    if (lost)
        print_error("%llu of %llu acknowledged events are lost after cut %llu\n",
                (unsigned long long)lost, (unsigned long long)life->acknowledged_count,
                (unsigned long long)life->cuts);
    assert_int_equal(lost, 0);
    for (unsigned u = 0; u < USERS; u++)
        assert_true(look->coupons[u] <= 1);
    for (size_t i = 0; final && i < look->request_count; i++)
        assert_int_equal(look->requests[i].results, 1);
    for (unsigned u = 0; final && u < USERS; u++)
        assert_int_equal(look->coupons[u], look->views[u] >= 3);
    life->requests = look->request_count;
    free(look);
}

/* ---- living ------------------------------------------------------------------------------------------- */

static void nobody(void *arg)
{
    (void)arg;
}

static enum kz_code open_life(struct life *life, struct kz_pipeline **ret, struct kz_err *err)
{
    struct kz_pipeline_options options = {
            .project = &support_project,
            .fs = life->fs,
            .data_dir = "/data",
            .runtimes = support_runtimes,
            .wake = nobody,
            .ask = true,
    };

    return kz_pipeline_open(&options, ret, err);
}

/* Sends for a while; ends where the disk has failed. */
static void live(struct life *life, struct kz_pipeline *p, unsigned batches)
{
    struct kz_err err;

    for (unsigned i = 0; i < batches; i++) {
        bool again = life->made && kz_prng_below(&life->dice, 5) == 0;
        unsigned first = again ? (unsigned)kz_prng_below(&life->dice, life->made / BATCH) * BATCH
                               : life->made;

        if (!again && life->made + BATCH <= EVENTS_MAX)
            life->made += BATCH;
        else if (!again)
            return;
        submit(life, p, first);
        if (kz_prng_below(&life->dice, 3))
            kz_pipeline_turn(p);
        if (kz_prng_below(&life->dice, 40) == 0)
            KZ_IGNORE(kz_pipeline_upkeep(p, &err)); /* a disk that fails shows at the next turn */
        if (kz_pipeline_query(p)->ops->health(kz_pipeline_query(p), &err) != KZ_OK)
            return;
    }
}

static unsigned wanted_cuts(void)
{
    const char *text = getenv("KZ_POWER_CUTS");

    return text ? (unsigned)atoi(text) : 1000;
}

static void nothing_acknowledged_is_lost_in_a_power_cut(void **state)
{
    const char *seed_text = getenv("KZ_SEED");
    uint64_t seed = seed_text ? strtoull(seed_text, NULL, 10) : 20261124;
    unsigned cuts = wanted_cuts();
    struct life *life = NULL;
    struct kz_pipeline *p;
    struct kz_err err = {0};

    (void)state;
    for (unsigned cut = 0; cut < cuts; cut++) {
        if (cut % 25 == 0) { /* a new disk now and then */
            life = kz_calloc(1, sizeof(*life));
            life->fs = kz_fs_sim_new(seed + cut);
            kz_prng_init(&life->dice, seed + cut);
        }
        /* A start may be cut off as well. */
        if (kz_prng_below(&life->dice, 4) == 0)
            kz_fs_sim_fail_from(life->fs, 1 + kz_prng_below(&life->dice, 60), KZ_IO);
        p = NULL;
        if (open_life(life, &p, &err) == KZ_OK) {
            check_log(life, p, false);
            if (kz_prng_below(&life->dice, 2))
                kz_fs_sim_fail_from(life->fs, 1 + kz_prng_below(&life->dice, 400), KZ_IO);
            live(life, p, 1 + (unsigned)kz_prng_below(&life->dice, 60));
        }
        /* The power goes before the process can tidy up. */
        kz_fs_sim_power_cut(life->fs, seed ^ kz_prng_u64(&life->dice));
        life->cuts++;
        kz_pipeline_close(p);
        if (cut % 25 == 24 || cut + 1 == cuts) {
            kz_fs_sim_fail_from(life->fs, 0, KZ_OK);
            if (open_life(life, &p, &err) != KZ_OK)
                fail_msg("could not open after cut %u: %s", cut, err.message);
            assert_int_equal(kz_pipeline_settle(p, 60000, &err), KZ_OK);
            check_log(life, p, true);
            kz_pipeline_close(p);
            uint64_t records = 0;
            assert_int_equal(kz_log_fsck(life->fs, "/data/log", NULL, NULL, &records, &err), KZ_OK);
            print_message("%llu cuts: %llu acknowledged, %llu requests, %llu records\n",
                    (unsigned long long)life->cuts, (unsigned long long)life->acknowledged_count,
                    (unsigned long long)life->requests, (unsigned long long)records);
            kz_fs_sim_free(life->fs);
            free(life);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(nothing_acknowledged_is_lost_in_a_power_cut),
    };

    kz_diag_set(KZ_DIAG_ERROR - 1, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
