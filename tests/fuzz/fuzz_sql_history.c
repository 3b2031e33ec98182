/* SQL of a project, and time zone files: whatever the bytes, an error or an answer.
 *
 * The first byte says what the rest is: a kind of SQL text, or a TZif file. */
#include <stdlib.h>

#include "contract/record.h"
#include "contract/sql.h"
#include "contract/tz.h"

enum { STEPS_MAX = 20000, TEXT_SIZE_MAX = 4000 };

static struct kz_column_def columns[] = {
        {.name = "item", .path = "$.item", .type = KZ_TYPE_TEXT},
        {.name = "price", .path = "$.price", .type = KZ_TYPE_FLOAT},
};
static struct kz_model_def models[] = {{.name = "purchase"}};
static const struct kz_project project = {
        .name = "shop",
        .file = "kizashi.yaml",
        .events = {.columns = columns, .column_count = 2, .columns_id = 7},
        .models = models,
        .model_count = 1,
};

static const char props[] = "{\"item\":\"a\\u0062\",\"price\":2.5}";

static const struct kz_event event = {
        .event_id = {"e1", 2},
        .user_id = {"u1", 2},
        .name = {"view", 4},
        .props = {props, sizeof(props) - 1},
        .ts_ms = 1573603500000,
        .received_at_ms = 1573603500005,
        .seq = 1,
        .session = 1,
};

static void evaluate(struct kz_sql_expr *expr, enum kz_sql_kind kind)
{
    static const struct kz_sql_params params = {.now_ms = 1573603500000, .seq = 1, .session = 1};
    struct kz_buf body = {0};
    struct kz_record *record;
    const struct kz_record *records[2];
    kz_lsn lsns[2] = {64, 128};
    struct kz_history_rows rows = {.records = records, .lsns = lsns, .count = 2};
    struct kz_row row;
    bool holds;

    kz_event_encode(&event, &body);
    record = kz_malloc(sizeof(*record) + body.size);
    *record = (struct kz_record){.size = (uint32_t)(sizeof(*record) + body.size),
            .type = KZ_RECORD_EVENT,
            .seq = 1,
            .at_ms = event.received_at_ms};
    memcpy(record + 1, body.data, body.size);
    kz_buf_done(&body);
    records[0] = records[1] = record;
    if (kind == KZ_SQL_EVENT)
        (void)!kz_sql_event_true(expr, &event, &holds, NULL);
    else if (kind == KZ_SQL_PREDICTION)
        (void)!kz_sql_prediction_true(expr, NULL, 0, &holds, NULL);
    else if (kind == KZ_SQL_HAVING)
        (void)!kz_sql_having_true(expr, &rows, &params, STEPS_MAX, &holds, NULL);
    else
        (void)!kz_sql_features(expr, &rows, &params, STEPS_MAX, &row, NULL);
    free(record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    KZ_AUTO(kz_sql_closep) struct kz_sql *sql = NULL;
    KZ_AUTO(kz_freep) char *text = NULL;
    struct kz_sql_expr *expr;
    struct kz_zone *zone;
    struct kz_err err;

    if (!size || size > TEXT_SIZE_MAX)
        return 0;
    if (data[0] % 5 == 4) {
        if (kz_zone_parse(kz_str_n(data + 1, size - 1), &zone, &err) == KZ_OK) {
            for (int64_t t = -5000000000; t < 9000000000; t += 777777777)
                (void)kz_zone_offset_s(zone, t);
            free(zone);
        }
        return 0;
    }
    text = kz_strndup((const char *)data + 1, size - 1);
    if (kz_sql_open(&project, &sql, &err) != KZ_OK)
        return 0;
    if (kz_sql_compile(sql, data[0] % 5, text, (struct kz_place){"f", 1, 1}, &expr, &err) == KZ_OK)
        evaluate(expr, data[0] % 5);
    return 0;
}
