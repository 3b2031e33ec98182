/* Which columns of a model's features are numbers and which are text.
 *
 * SQL types belong to values, and NULL has none; yet a model is loaded for fixed columns. So the
 * query is tried on made-up events before the first replica starts: an event for each string literal
 * in the SQL, as its name and in every text column, so that `name = 'cart'` and the like find
 * something. What gives text there is a text column. Where a real row teaches us better, the column
 * becomes text from then on (never back) and the replicas are renewed: that costs one load.
 */
#include "infer/infer_int.h"

#include <stdio.h>
#include <stdlib.h>

enum { PROBES_MAX = 32 };
#define PROBE_NOW_MS INT64_C(1700000000000)

struct probe {
    const struct kz_project *project;
    struct kz_buf bytes;
    size_t starts[PROBES_MAX + 1];
    size_t count;
};

static void add_event(struct probe *probe, struct kz_str literal)
{
    struct kz_value values[KZ_COLUMNS_MAX];
    size_t columns = KZ_MIN(probe->project->events.column_count, (size_t)KZ_COLUMNS_MAX);
    struct kz_event event = {
            .event_id = KZ_STR("probe"),
            .user_id = KZ_STR("probe"),
            .name = literal,
            .props = KZ_STR("{}"),
            .client_ts_ms = PROBE_NOW_MS,
            .received_at_ms = PROBE_NOW_MS,
            .ts_ms = PROBE_NOW_MS,
            .seq = probe->count + 1,
            .session = 1,
            .columns_id = probe->project->events.columns_id,
            .column_count = (uint16_t)columns,
            .columns = values,
    };
    struct kz_record header = {.type = KZ_RECORD_EVENT, .seq = event.seq, .at_ms = PROBE_NOW_MS};
    size_t start = probe->bytes.size;

    for (size_t i = 0; i < columns; i++) {
        values[i].type = probe->project->events.columns[i].type;
        if (values[i].type == KZ_TYPE_TEXT)
            values[i].text = literal;
        else if (values[i].type == KZ_TYPE_FLOAT)
            values[i].real = 1.5;
        else
            values[i].integer = 1;
    }
    kz_buf_put(&probe->bytes, &header, sizeof(header));
    kz_event_encode(&event, &probe->bytes);
    header.size = (uint32_t)(probe->bytes.size - start);
    memcpy(probe->bytes.data + start, &header, sizeof(header));
    while (probe->bytes.size % 8)
        kz_buf_char(&probe->bytes, '\0');
    probe->starts[probe->count++] = start;
}

/* 'literals' of the SQL, as they stand; an escaped quote inside merely gives two odd names. */
static void add_literals(struct probe *probe, const char *sql)
{
    add_event(probe, KZ_STR("probe"));
    for (const char *at = strchr(sql, '\''); at && probe->count < PROBES_MAX;
            at = strchr(at, '\'')) {
        const char *end = strchr(at + 1, '\'');

        if (!end)
            break;
        if (end > at + 1 && end - at <= KZ_NAME_SIZE_MAX)
            add_event(probe, kz_str_n(at + 1, (size_t)(end - at - 1)));
        at = end + 1;
    }
}

static void learn_from(
        struct model *model, struct lane *lane, const struct kz_record **records, size_t count)
{
    kz_lsn lsns[PROBES_MAX];
    struct kz_history_rows rows = {.records = records, .lsns = lsns, .count = count};
    struct kz_sql_params params = {
            .now_ms = PROBE_NOW_MS,
            .user_id = KZ_STR("probe"),
            .event_id = KZ_STR("probe"),
            .trigger_ts_ms = PROBE_NOW_MS,
            .session = 1,
            .seq = count,
            .first_seen_ms = PROBE_NOW_MS,
    };
    struct kz_row row;

    for (size_t i = 0; i < count; i++)
        lsns[i] = KZ_LSN(1, 8 * (i + 1));
    /* SQL that fails on made-up events says nothing about real ones. */
    if (kz_sql_features(lane->exprs[model->index], &rows, &params, FAST_STEPS, &row, NULL) != KZ_OK)
        return;
    for (size_t i = 0; i < row.count && i < model->column_count; i++)
        if (row.values[i].type == KZ_TYPE_TEXT)
            model->columns[i].is_text = true;
}

static void split(struct model *model)
{
    model->numeric_count = model->text_count = 0;
    for (size_t i = 0; i < model->column_count; i++) {
        if (model->columns[i].is_text)
            model->text_names[model->text_count++] = model->columns[i].name;
        else
            model->numeric_names[model->numeric_count++] = model->columns[i].name;
    }
}

void kz_columns_open(struct model *model, struct lane *lane)
{
    struct probe probe = {.project = lane->infer->project};
    const struct kz_record *records[PROBES_MAX];
    const char *const *names;

    if (!lane->exprs[model->index])
        return;
    kz_sql_columns(lane->exprs[model->index], &names, &model->column_count);
    model->columns = kz_calloc(model->column_count + 1, sizeof(*model->columns));
    model->values = kz_calloc(model->column_count + 1, sizeof(*model->values));
    model->numeric_names = kz_calloc(model->column_count + 1, sizeof(char *));
    model->text_names = kz_calloc(model->column_count + 1, sizeof(char *));
    for (size_t i = 0; i < model->column_count; i++)
        model->columns[i].name = names[i];
    learn_from(model, lane, NULL, 0);
    add_literals(&probe, model->def->features_sql);
    for (size_t i = 0; i < probe.count; i++)
        records[i] = (const struct kz_record *)(const void *)(probe.bytes.data + probe.starts[i]);
    learn_from(model, lane, records, probe.count);
    kz_buf_done(&probe.bytes);
    split(model);
}

void kz_columns_close(struct model *model)
{
    free(model->columns);
    free(model->values);
    free(model->numeric_names);
    free(model->text_names);
}

void kz_columns_learn(struct model *model, const struct row *row)
{
    size_t count;
    bool changed = false;

    if (!model->column_count || kz_row_decode(kz_buf_view(&row->result.features), model->values,
                                        model->column_count, &count, NULL) != KZ_OK)
        return;
    for (size_t i = 0; i < count; i++)
        if (model->values[i].type == KZ_TYPE_TEXT && !model->columns[i].is_text)
            changed = model->columns[i].is_text = true;
    if (!changed)
        return;
    split(model);
    model->generation++;
}
