/* Answers of Spanner's reads of any bytes: whatever a server sends is rows, and records out of
 * them, or an error. The input: a byte that says how many columns (the lower 4 bits; 7 are an
 * event's) and whether it is one ResultSet (the 5th); then PartialResultSets, each led by its size
 * in two bytes, where 65535 stands for a stream that is lost and goes on. */
#include <stdlib.h>

#include "backends/spanner/spanner_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    size_t column_count;
    struct kz_buf scratch;
    struct kz_arena arena;
};

static void touch_record(const struct kz_record *record)
{
    struct kz_event event;
    volatile char sum = 0;

    if (kz_record_check(record, NULL) != KZ_OK)
        abort(); /* what is not one is not given out */
    for (size_t i = 0; i < record->size; i++)
        sum = (char)(sum ^ ((const char *)record)[i]);
    if (record->type == KZ_RECORD_EVENT && kz_event_decode(record, &event, NULL) != KZ_OK)
        abort();
}

static enum kz_code touch(void *arg, const struct kz_sp_cell *cells, struct kz_err *err)
{
    struct seen *seen = arg;
    const struct kz_record *record;
    kz_lsn lsn;

    for (size_t i = 0; i < seen->column_count; i++) { /* every byte is ours to read */
        volatile char sum = 0;
        int64_t number;

        if (cells[i].null && cells[i].text.size)
            abort();
        for (size_t k = 0; k < cells[i].text.size; k++)
            sum = (char)(sum ^ cells[i].text.ptr[k]);
        (void)kz_sp_get_int(&cells[i], &number, err);
        kz_buf_clear(&seen->scratch);
        (void)kz_sp_get_bytes(&cells[i], &seen->scratch, err);
    }
    if (seen->column_count == KZ_SP_EVENT_COLUMN_COUNT &&
            kz_sp_get_event(cells, &seen->scratch, &seen->arena, &lsn, &record, err) == KZ_OK)
        touch_record(record);
    if (seen->column_count == 2 &&
            kz_sp_get_record(cells, &seen->scratch, &seen->arena, &lsn, &record, err) == KZ_OK)
        touch_record(record);
    return KZ_OK;
}

static enum kz_code take_whole(struct kz_sp_rows *rows, const uint8_t *data, size_t size,
        struct seen *seen, struct kz_err *err)
{
    KZ_SP(ResultSet) *answer = google__spanner__v1__result_set__unpack(NULL, size, data);
    enum kz_code rc;

    if (!answer)
        return KZ_OK;
    rc = kz_sp_rows_take(rows, answer, touch, seen, err);
    google__spanner__v1__result_set__free_unpacked(answer, NULL);
    return rc;
}

static enum kz_code take_stream(struct kz_sp_rows *rows, const uint8_t *data, size_t size,
        struct seen *seen, struct kz_err *err)
{
    enum kz_code rc = KZ_OK;

    while (size >= 2 && rc == KZ_OK) {
        size_t length = (size_t)(data[0] | data[1] << 8);
        KZ_SP(PartialResultSet) * message;
        bool again;

        data += 2;
        size -= 2;
        if (length == 65535) {
            kz_sp_rows_resume(rows, &again);
            continue;
        }
        length = KZ_MIN(length, size);
        message = google__spanner__v1__partial_result_set__unpack(NULL, length, data);
        data += length;
        size -= length;
        if (!message)
            break;
        rc = kz_sp_rows_push(rows, message, touch, seen, err);
        google__spanner__v1__partial_result_set__free_unpacked(message, NULL);
    }
    return rc == KZ_OK ? kz_sp_rows_end(rows, err) : rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seen seen = {0};
    struct kz_sp_rows *rows;
    struct kz_err err = {0};
    enum kz_code rc;

    if (!size)
        return 0;
    seen.column_count = KZ_MAX(data[0] & 15u, 1u);
    kz_arena_init(&seen.arena, 0);
    rows = kz_sp_rows_new(seen.column_count);
    rc = data[0] & 16 ? take_whole(rows, data + 1, size - 1, &seen, &err)
                      : take_stream(rows, data + 1, size - 1, &seen, &err);
    if (rc != KZ_OK && !err.message[0])
        abort();
    kz_sp_rows_free(rows);
    kz_arena_done(&seen.arena);
    kz_buf_done(&seen.scratch);
    return 0;
}
