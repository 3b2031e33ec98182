/* Micro-batches: which rows go to a replica together, and what becomes of them.
 *
 *   ready --(a replica is idle: all there are, up to batch.max)--> inside --ok--> done
 *                                                                   | row refused by itself: dead
 *     retry groups <---- the batch failed: two halves --------------+
 *                  <---- one row, its replica lost: once more       | one row: dead
 *
 * Nothing waits for a fuller batch, whatever batch.wait says: while every replica is busy the next
 * batch forms by itself, and with one idle a wait would only cost time.
 * Retry groups are first in, first out, so that after a crash the other half is tried before the
 * quarter: a good half between two bad ones tells the model from the row (I5).
 */
#include "infer/infer_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/json_out.h"
#include "sys/clock.h"

/* ---- those that wait ------------------------------------------------------------------------------ */

void kz_batch_ready(struct model *model, struct row *row)
{
    kz_columns_learn(model, row);
    row->ready_at_us = kz_mono_us();
    kz_rows_push(&model->ready, row);
    model->wanted = true;
    model->dirty = true;
}

bool kz_batch_waiting(const struct model *model)
{
    return model->ready.first || model->retry_first;
}

int64_t kz_batch_wait_us(const struct model *model)
{
    const struct row *row = model->retry_first ? model->retry_first : model->ready.first;

    return row ? kz_mono_us() - row->ready_at_us : 0;
}

static bool is_expired(const struct row *row, int64_t now_ms)
{
    return row->job.deadline_ms && now_ms > row->job.deadline_ms;
}

/* ---- groups to be tried again ---------------------------------------------------------------------- */

static void push_group(struct model *model, struct rows *rows)
{
    struct row *first = rows->first;

    if (!first)
        return;
    first->group_count = rows->count;
    first->group_next = NULL;
    *(model->retry_last ? &model->retry_last->group_next : &model->retry_first) = first;
    model->retry_last = first;
    *rows = (struct rows){0};
}

static struct rows pop_group(struct model *model)
{
    struct row *first = model->retry_first, *last = first;

    model->retry_first = first->group_next;
    if (!model->retry_first)
        model->retry_last = NULL;
    while (last->next)
        last = last->next;
    return (struct rows){first, last, first->group_count};
}

/* ---- those that are too old ------------------------------------------------------------------------ */

static void expire(struct model *model, struct rows *rows, int64_t now_ms)
{
    for (struct row *row = rows->first, *next; row; row = next) {
        next = row->next;
        if (is_expired(row, now_ms)) {
            kz_rows_remove(rows, row);
            kz_infer_finish(model->infer, row, KZ_END_EXPIRED);
        }
    }
}

void kz_batch_expire(struct model *model)
{
    int64_t now_ms = kz_clock_ms();
    size_t groups = 0;

    expire(model, &model->ready, now_ms);
    for (const struct row *group = model->retry_first; group; group = group->group_next)
        groups++;
    while (groups-- > 0) { /* each from the front to the end: their order stays */
        struct rows rows = pop_group(model);

        expire(model, &rows, now_ms);
        push_group(model, &rows);
    }
}

/* ---- a batch that failed --------------------------------------------------------------------------- */

/* The batch failed as a whole: halves, down to the row at fault. */
static void push_halves(struct model *model, struct rows *rows)
{
    struct rows head = {0};
    size_t half = rows->count / 2;

    while (head.count < half)
        kz_rows_push(&head, kz_rows_pop(rows));
    push_group(model, &head);
    push_group(model, rows);
    model->now.retried_batches++;
}

/* ---- a batch ------------------------------------------------------------------------------------- */

static size_t row_bytes(const struct row *row)
{
    return row->history.size + row->result.features.size + row->job.params.user_id.size +
           row->job.params.event_id.size;
}

static struct rows take_rows(struct model *model)
{
    struct rows rows = {0};
    size_t bytes = 0, most = KZ_MAX(model->def->batch.size_max, 1u);
    int64_t now_ms = kz_clock_ms();

    if (model->retry_first) {
        rows = pop_group(model);
        expire(model, &rows, now_ms);
        return rows;
    }
    while (model->ready.first && rows.count < most) {
        struct row *row = model->ready.first;

        if (rows.count && bytes + row_bytes(row) > BATCH_BYTES_MAX)
            break;
        kz_rows_remove(&model->ready, row);
        if (is_expired(row, now_ms)) {
            kz_infer_finish(model->infer, row, KZ_END_EXPIRED);
            continue;
        }
        bytes += row_bytes(row);
        kz_rows_push(&rows, row);
    }
    return rows;
}

static void *more(void *old, size_t count, size_t size)
{
    return kz_realloc(old, KZ_MAX(count * size, 1u));
}

static void reserve(struct replica *r, size_t count)
{
    const struct model *m = r->model;

    if (r->capacity < count) {
        r->user_ids = more(r->user_ids, count, sizeof(*r->user_ids));
        r->event_ids = more(r->event_ids, count, sizeof(*r->event_ids));
        r->histories = more(r->histories, count, sizeof(*r->histories));
        r->now_ms = more(r->now_ms, count, sizeof(*r->now_ms));
        r->truncated = more(r->truncated, count, sizeof(*r->truncated));
        r->numeric = more(r->numeric, count * m->column_count, sizeof(double));
        r->text = more(r->text, count * m->column_count, sizeof(struct kz_value));
        r->capacity = count;
    }
    kz_arena_reset(&r->arena);
}

static double as_number(struct kz_value v)
{
    switch (v.type) {
    case KZ_TYPE_INT:
    case KZ_TYPE_BOOL:
        return (double)v.integer;
    case KZ_TYPE_FLOAT:
        return v.real;
    case KZ_TYPE_NULL:
    case KZ_TYPE_TEXT:
        break;
    }
    return NAN;
}

/* Numbers in a text column are written out, as SQLite's CAST would. */
static struct kz_value as_text(struct kz_value v, struct kz_arena *arena)
{
    struct kz_buf text = {0};

    if (v.type == KZ_TYPE_NULL || v.type == KZ_TYPE_TEXT)
        return v;
    if (v.type == KZ_TYPE_FLOAT)
        kz_json_double(&text, v.real);
    else
        kz_buf_printf(&text, "%lld", (long long)v.integer);
    v = (struct kz_value){.type = KZ_TYPE_TEXT, .text = kz_arena_str(arena, kz_buf_view(&text))};
    kz_buf_done(&text);
    return v;
}

/* The i-th row's columns, to where their kinds belong. */
static void place(struct replica *r, size_t i, const struct row *row)
{
    const struct model *m = r->model;
    double *numeric = r->numeric + i * m->numeric_count;
    struct kz_value *text = r->text + i * m->text_count;
    size_t count = 0;

    if (m->column_count)
        KZ_BUG_ON(kz_row_decode(kz_buf_view(&row->result.features), m->values, m->column_count,
                          &count, NULL) != KZ_OK ||
                  count != m->column_count); /* we encoded it */
    for (size_t c = 0; c < count; c++) {
        if (m->columns[c].is_text)
            *text++ = as_text(m->values[c], &r->arena);
        else
            *numeric++ = as_number(m->values[c]);
    }
    r->user_ids[i] = row->job.params.user_id;
    r->event_ids[i] = row->job.params.event_id;
    r->histories[i] = kz_buf_view(&row->history);
    r->now_ms[i] = row->job.params.now_ms;
    r->truncated[i] = row->truncated;
}

static struct kz_batch make_batch(struct replica *r)
{
    const struct model *m = r->model;
    size_t i = 0;

    reserve(r, r->rows.count);
    for (struct row *row = r->rows.first; row; row = row->next)
        place(r, i++, row);
    return (struct kz_batch){
            .row_count = i,
            .numeric_count = m->numeric_count,
            .numeric_names = m->numeric_names,
            .numeric = r->numeric,
            .text_count = m->text_count,
            .text_names = m->text_names,
            .text = r->text,
            .user_ids = r->user_ids,
            .event_ids = r->event_ids,
            .now_ms = r->now_ms,
            .histories = m->def->features_sql ? NULL : r->histories,
            .truncated = r->truncated,
    };
}

/* The runtime did not take the batch: it is too large, or the replica is about to be lost. */
static void refused(struct replica *r, const struct kz_err *err)
{
    struct model *model = r->model;
    struct rows rows = r->rows;

    r->rows = (struct rows){0};
    if (err->code != KZ_TOO_LARGE) {
        kz_fleet_set(r, REPLICA_ENDING);
        push_group(model, &rows);
    } else if (rows.count > 1) {
        push_halves(model, &rows);
    } else {
        kz_infer_dead(model->infer, rows.first, KZ_STAGE_INFER, "too_large", kz_str(err->message));
    }
}

static void send_rows(struct replica *r, struct rows rows)
{
    struct model *model = r->model;
    int64_t now_us = kz_mono_us();
    struct kz_batch batch;
    struct kz_err err;

    r->rows = rows;
    batch = make_batch(r);
    for (struct row *row = rows.first; row; row = row->next)
        row->sent_at_us = now_us;
    if (model->runtime->predict(r->runtime, &batch, model->def->timeout_ms, &err) != KZ_OK) {
        refused(r, &err);
        return;
    }
    for (struct row *row = rows.first; row; row = row->next) {
        row->result.attempt_count++;
        row->result.wait_us = (uint32_t)KZ_MIN(now_us - row->ready_at_us, (int64_t)UINT32_MAX);
    }
    kz_fleet_set(r, REPLICA_BUSY);
    model->now.batches++;
    model->now.batch_rows += rows.count;
    model->dirty = true;
}

void kz_batch_dispatch(struct model *model)
{
    while (kz_batch_waiting(model)) {
        struct replica *r = kz_fleet_idle(model);
        struct rows rows;

        if (!r)
            return;
        rows = take_rows(model);
        if (rows.first)
            send_rows(r, rows);
    }
}

/* ---- its end ------------------------------------------------------------------------------------- */

static void finish_row(
        struct model *model, struct row *row, const struct kz_batch_row *answer, uint32_t model_us)
{
    row->result.model_us = model_us;
    if (answer->state == KZ_ROW_OK) {
        kz_output_set(model->def, answer, &row->result);
        kz_infer_finish(model->infer, row, KZ_END_DONE);
    } else {
        kz_infer_dead(model->infer, row, KZ_STAGE_INFER, answer->fail_code, answer->message);
    }
}

static void batch_failed(
        struct model *model, struct rows *rows, const struct kz_batch_outcome *outcome)
{
    struct row *row = rows->first;

    if (outcome->code == KZ_TIMEOUT)
        model->now.timeouts++;
    if (rows->count > 1) {
        push_halves(model, rows);
        return;
    }
    row->result.model_us = outcome->model_us;
    if (outcome->replica_lost && !row->tried_alone) {
        row->tried_alone = true;
        push_group(model, rows);
    } else {
        kz_infer_dead(model->infer, row, KZ_STAGE_INFER, outcome->fail_code, outcome->message);
    }
}

void kz_batch_done(struct replica *r, const struct kz_batch_outcome *outcome)
{
    struct model *model = r->model;
    struct rows rows = r->rows;

    KZ_BUG_ON(r->state != REPLICA_BUSY || !rows.first);
    r->rows = (struct rows){0};
    if (outcome->replica_lost)
        kz_fleet_remove(r);
    else
        kz_fleet_set(r, REPLICA_IDLE);
    model->dirty = true;
    if (outcome->code == KZ_OK) {
        KZ_BUG_ON(outcome->row_count != rows.count);
        kz_fleet_succeeded(model);
        for (size_t i = 0; rows.first; i++)
            finish_row(model, kz_rows_pop(&rows), &outcome->rows[i], outcome->model_us);
        return;
    }
    if (outcome->replica_lost)
        kz_fleet_failed(model, outcome->fail_code, outcome->message);
    else
        kz_fleet_note(model, outcome->fail_code, outcome->message);
    batch_failed(model, &rows, outcome);
}
