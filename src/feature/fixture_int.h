/* feature/fixture_int.h -- histories in memory, for this folder's tests and measurements. */
#pragma once

#include <stdlib.h>

#include "base/buf.h"
#include "contract/record.h"
#include "contract/sql.h"

struct fixture {
    const struct kz_record *records[4096];
    kz_lsn lsns[4096];
    struct kz_history_rows rows;
};

/* Appends a record; the columns are encoded if `columns_id` is not 0. */
static inline void fixture_add(struct fixture *f, const struct kz_event *event)
{
    struct kz_buf body = {0};
    struct kz_record *record;

    kz_event_encode(event, &body);
    record = kz_malloc(sizeof(*record) + body.size);
    *record = (struct kz_record){.size = (uint32_t)(sizeof(*record) + body.size),
            .type = KZ_RECORD_EVENT,
            .seq = event->seq,
            .at_ms = event->received_at_ms};
    memcpy(record + 1, body.data, body.size);
    kz_buf_done(&body);
    f->records[f->rows.count] = record;
    f->lsns[f->rows.count] = KZ_LSN(1, 64 * (f->rows.count + 1));
    f->rows.records = f->records;
    f->rows.lsns = f->lsns;
    f->rows.count++;
}

/* The same history, as somebody keeps it who was told which parts are read (contract/history.h). */
static inline void fixture_strip(
        const struct fixture *f, const struct kz_event_parts *parts, struct fixture *ret)
{
    for (size_t i = 0; i < f->rows.count; i++) {
        struct kz_value columns[KZ_COLUMNS_MAX];
        struct kz_event event;
        bool typed;

        KZ_BUG_ON(kz_event_decode(f->records[i], &event, NULL) != KZ_OK);
        typed = event.columns_id == parts->columns_id;
        event.user_id = event.anonymous_id = KZ_STR_NULL;
        if (!parts->event_id)
            event.event_id = KZ_STR_NULL;
        if (!parts->name)
            event.name = KZ_STR_NULL;
        if (!parts->props && (typed || !parts->columns))
            event.props = KZ_STR_NULL;
        for (unsigned k = 0; k < KZ_COLUMNS_MAX; k++)
            columns[k] = typed && parts->columns >> k & 1 ? kz_event_column(f->records[i], k)
                                                          : (struct kz_value){.type = KZ_TYPE_NULL};
        event.columns = columns;
        event.column_count = typed ? kz_event_body(f->records[i])->column_count : 0;
        fixture_add(ret, &event);
    }
    ret->rows.truncated = f->rows.truncated;
}

static inline void fixture_done(struct fixture *f)
{
    for (size_t i = 0; i < f->rows.count; i++)
        free((void *)f->records[i]);
    f->rows.count = 0;
}

static inline struct kz_value value_text(const char *s)
{
    return s ? (struct kz_value){.type = KZ_TYPE_TEXT, .text = kz_str(s)}
             : (struct kz_value){.type = KZ_TYPE_NULL};
}

static inline struct kz_value value_real(double v)
{
    return (struct kz_value){.type = KZ_TYPE_FLOAT, .real = v};
}

static inline struct kz_value value_int(int64_t v)
{
    return (struct kz_value){.type = KZ_TYPE_INT, .integer = v};
}

static inline struct kz_value value_bool(bool v)
{
    return (struct kz_value){.type = KZ_TYPE_BOOL, .integer = v};
}
