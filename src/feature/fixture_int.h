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
