/* The Open Inference Protocol's JSON (KServe, "V2 REST": infer request and response), as docs/models.md
 * says how a batch maps to it. No count or shape is believed that the data does not bear out. */
#include "runtimes/http/http_int.h"

#include <math.h>
#include <stdlib.h>

#include "codec/json.h"
#include "codec/json_out.h"
#include "codec/utf8.h"

enum { BODY_DEPTH_MAX = 64, DICT_DEPTH_MAX = 64, REASON_BYTES_MAX = 500 };

/* ---- the request ---------------------------------------------------------------------------------- */

static void begin_input(struct kz_json_out *json, struct kz_str name, const char *datatype,
        size_t rows, size_t columns)
{
    kz_json_out_object(json);
    kz_json_out_kv_str(json, "name", name);
    kz_json_out_kv_cstr(json, "datatype", datatype);
    kz_json_out_key(json, "shape");
    kz_json_out_array(json);
    kz_json_out_u64(json, rows);
    if (columns)
        kz_json_out_u64(json, columns);
    kz_json_out_array_end(json);
}

static void begin_data(struct kz_json_out *json)
{
    kz_json_out_key(json, "data");
    kz_json_out_array(json);
}

static void end_input(struct kz_json_out *json)
{
    kz_json_out_array_end(json);
    kz_json_out_object_end(json);
}

/* Parameters may only be strings, numbers and booleans: the names are JSON within a string. */
static void put_features(struct kz_json_out *json, const struct kz_batch *batch)
{
    struct kz_buf names = {0};
    struct kz_json_out list = kz_json_out(&names);

    kz_json_out_array(&list);
    for (size_t i = 0; i < batch->numeric_count; i++)
        kz_json_out_cstr(&list, batch->numeric_names[i]);
    kz_json_out_array_end(&list);
    begin_input(json, KZ_STR("features"), "FP64", batch->row_count, batch->numeric_count);
    kz_json_out_key(json, "parameters");
    kz_json_out_object(json);
    kz_json_out_kv_str(json, "columns", kz_buf_view(&names));
    kz_json_out_object_end(json);
    kz_buf_done(&names);
    begin_data(json);
    for (size_t i = 0; i < batch->row_count * batch->numeric_count; i++)
        kz_json_out_f64(json, batch->numeric[i]);
    end_input(json);
}

static void put_strings(
        struct kz_json_out *json, const char *name, const struct kz_str *strings, size_t count)
{
    begin_input(json, kz_str(name), "BYTES", count, 0);
    begin_data(json);
    for (size_t i = 0; i < count; i++)
        kz_json_out_str(json, strings[i]);
    end_input(json);
}

static bool is_reserved(const char *name)
{
    static const char *const names[] = {
            "features", "user_id", "event_id", "now_ms", "truncated", "history"};

    for (size_t i = 0; i < KZ_ARRAY_COUNT(names); i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

/* A column with the name of an input of ours is sent as "column.NAME". */
static void put_text(struct kz_json_out *json, const struct kz_batch *batch, size_t column)
{
    struct kz_buf name = {0};

    if (is_reserved(batch->text_names[column]))
        kz_buf_cstr(&name, "column.");
    kz_buf_cstr(&name, batch->text_names[column]);
    begin_input(json, kz_buf_view(&name), "BYTES", batch->row_count, 0);
    kz_buf_done(&name);
    begin_data(json);
    for (size_t i = 0; i < batch->row_count; i++) {
        const struct kz_value *v = &batch->text[i * batch->text_count + column];

        if (v->type == KZ_TYPE_TEXT)
            kz_json_out_str(json, v->text);
        else
            kz_json_out_null(json);
    }
    end_input(json);
}

static void put_rows(struct kz_json_out *json, const struct kz_batch *batch)
{
    size_t n = batch->row_count;

    put_strings(json, "user_id", batch->user_ids, n);
    put_strings(json, "event_id", batch->event_ids, n);
    begin_input(json, KZ_STR("now_ms"), "INT64", n, 0);
    begin_data(json);
    for (size_t i = 0; i < n; i++)
        kz_json_out_i64(json, batch->now_ms[i]);
    end_input(json);
    begin_input(json, KZ_STR("truncated"), "BOOL", n, 0);
    begin_data(json);
    for (size_t i = 0; i < n; i++)
        kz_json_out_bool(json, batch->truncated[i]);
    end_input(json);
}

/* Before anything is written: what it will be at least, so that memory is not taken in vain. */
static size_t least_bytes(const struct kz_batch *batch)
{
    size_t sum = batch->row_count * batch->numeric_count * 4;

    for (size_t i = 0; batch->histories && i < batch->row_count; i++)
        sum += batch->histories[i].size;
    for (size_t i = 0; i < batch->row_count * batch->text_count; i++)
        sum += batch->text[i].type == KZ_TYPE_TEXT ? batch->text[i].text.size : 4;
    return sum;
}

enum kz_code kz_oip_put_request(struct kz_buf *out, const char *version, const char *config_json,
        const struct kz_batch *batch, struct kz_err *err)
{
    struct kz_json_out json = kz_json_out(out);
    size_t before = out->size;

    if (least_bytes(batch) > HTTP_REQUEST_BYTES_MAX)
        return kz_fail(err, KZ_TOO_LARGE, "a batch of %zu rows is over %d MiB as JSON",
                batch->row_count, HTTP_REQUEST_BYTES_MAX >> 20);
    kz_json_out_object(&json);
    kz_json_out_key(&json, "parameters");
    kz_json_out_object(&json);
    kz_json_out_kv_cstr(&json, "version", version);
    kz_json_out_kv_cstr(&json, "config", config_json);
    kz_json_out_object_end(&json);
    kz_json_out_key(&json, "inputs");
    kz_json_out_array(&json);
    if (batch->numeric_count)
        put_features(&json, batch);
    for (size_t i = 0; i < batch->text_count; i++)
        put_text(&json, batch, i);
    put_rows(&json, batch);
    if (batch->histories)
        put_strings(&json, "history", batch->histories, batch->row_count);
    kz_json_out_array_end(&json);
    kz_json_out_object_end(&json);
    if (out->size - before > HTTP_REQUEST_BYTES_MAX)
        return kz_fail(err, KZ_TOO_LARGE, "a batch of %zu rows is over %d MiB as JSON",
                batch->row_count, HTTP_REQUEST_BYTES_MAX >> 20);
    return KZ_OK;
}

/* ---- the answer ----------------------------------------------------------------------------------- */

void kz_oip_answer_init(struct oip_answer *answer)
{
    *answer = (struct oip_answer){0};
    kz_arena_init(&answer->arena, 0);
}

void kz_oip_answer_done(struct oip_answer *answer)
{
    free(answer->rows);
    free(answer->values);
    kz_arena_done(&answer->arena);
    kz_buf_done(&answer->mended);
}

/* Python's json writes NaN, Infinity and -Infinity, which no JSON has: outside of strings they become
 * null and numbers over the range, which mean the same below. */
static void mend(struct kz_str body, struct kz_buf *out)
{
    bool in_string = false;

    kz_buf_clear(out);
    kz_buf_reserve(out, body.size);
    for (size_t i = 0; i < body.size; i++) {
        struct kz_str rest = kz_str_n(body.ptr + i, body.size - i);

        if (in_string && body.ptr[i] == '\\' && rest.size > 1) {
            kz_buf_put(out, rest.ptr, 2);
            i++;
        } else if (!in_string && kz_str_starts(rest, "NaN")) {
            kz_buf_cstr(out, "null");
            i += strlen("NaN") - 1;
        } else if (!in_string && kz_str_starts(rest, "Infinity")) {
            kz_buf_cstr(out, "1e999");
            i += strlen("Infinity") - 1;
        } else {
            in_string ^= body.ptr[i] == '"';
            kz_buf_char(out, body.ptr[i]);
        }
    }
}

static enum kz_code parse_body(struct kz_str body, struct oip_answer *answer,
        struct kz_json_value *ret_root, struct kz_err *err)
{
    if (kz_json_parse(body, BODY_DEPTH_MAX, ret_root, err) == KZ_OK)
        return KZ_OK;
    mend(body, &answer->mended);
    if (kz_json_parse(kz_buf_view(&answer->mended), BODY_DEPTH_MAX, ret_root, NULL) == KZ_OK)
        return KZ_OK;
    return kz_wrap(err, "the answer is not JSON"); /* as it was sent, which `err` says */
}

/* The output named "output", else the first. */
static enum kz_code find_output(
        struct kz_json_value root, struct kz_json_value *ret_output, struct kz_err *err)
{
    struct kz_json_value outputs = kz_json_get(root, "outputs"), element, chosen = {0};
    struct kz_json_walk walk = kz_json_walk(outputs);

    if (root.kind != KZ_JSON_OBJECT || outputs.kind != KZ_JSON_ARRAY)
        return kz_fail(err, KZ_INVALID, "the answer has no array \"outputs\"");
    while (kz_json_walk_element(&walk, &element)) {
        if (element.kind != KZ_JSON_OBJECT)
            return kz_fail(err, KZ_INVALID, "an output of the answer is %s, not an object",
                    kz_json_kind_name(element.kind));
        if (kz_json_is(kz_json_get(element, "name"), "output"))
            chosen = element;
        if (chosen.kind == KZ_JSON_NONE)
            chosen = element;
        else if (kz_json_is(kz_json_get(chosen, "name"), "output"))
            break;
    }
    if (chosen.kind == KZ_JSON_NONE)
        return kz_fail(err, KZ_INVALID, "the answer has no output");
    *ret_output = chosen;
    return KZ_OK;
}

/* [n] is [n, 1]. */
static enum kz_code get_shape(struct kz_json_value output, int64_t shape[2], struct kz_err *err)
{
    struct kz_json_value list = kz_json_get(output, "shape"), element;
    struct kz_json_walk walk = kz_json_walk(list);
    size_t rank = 0;

    shape[1] = 1;
    while (list.kind == KZ_JSON_ARRAY && kz_json_walk_element(&walk, &element)) {
        if (rank == 2 || element.kind != KZ_JSON_INT ||
                kz_json_i64(element, &shape[rank], NULL) != KZ_OK || shape[rank] < 0)
            return kz_fail(err, KZ_INVALID, "the output's shape is not [n] or [n, m]: " KZ_STR_FMT,
                    KZ_STR_ARG(kz_utf8_cut(list.raw, 80)));
        rank++;
    }
    if (!rank)
        return kz_fail(err, KZ_INVALID, "the output has no shape");
    return KZ_OK;
}

static bool fits(const struct kz_model_def *model, bool dicts, int64_t width)
{
    switch (model->output.kind) {
    case KZ_OUTPUT_PLAIN:
        return !dicts || width == 1;
    case KZ_OUTPUT_SELECT:
        return !dicts && width > model->output.select;
    case KZ_OUTPUT_CLASSES:
        return !dicts && width == (int64_t)model->output.class_count;
    case KZ_OUTPUT_EMBEDDING:
        return !dicts && width == (int64_t)model->output.embedding_size;
    }
    return false;
}

static void reserve(struct oip_answer *answer, size_t rows, size_t values)
{
    if (answer->rows_capacity < rows) {
        free(answer->rows);
        answer->rows = kz_malloc(rows * sizeof(*answer->rows));
        answer->rows_capacity = rows;
    }
    if (answer->values_capacity < values) {
        free(answer->values);
        answer->values = kz_malloc(values * sizeof(double));
        answer->values_capacity = values;
    }
    if (rows) /* of none there may be no memory either */
        memset(answer->rows, 0, rows * sizeof(*answer->rows));
    kz_arena_reset(&answer->arena);
    answer->row_count = rows;
}

static bool get_number(struct kz_json_value value, bool is_bool, double *ret)
{
    switch (value.kind) {
    case KZ_JSON_INT:
    case KZ_JSON_FLOAT:
        if (kz_json_f64(value, ret, NULL) != KZ_OK)
            *ret = (double)INFINITY; /* over the range of double */
        return true;
    case KZ_JSON_NULL:
        *ret = (double)NAN;
        return true;
    case KZ_JSON_TRUE:
    case KZ_JSON_FALSE:
        *ret = value.kind == KZ_JSON_TRUE;
        return is_bool;
    default:
        return false;
    }
}

/* What the data is read into: one call an element, row-major. */
struct sink {
    struct oip_answer *answer;
    size_t count, most, width;
    bool dicts, is_bool;
};

/* A row's own fault costs that row only. */
static void fail_row(struct kz_batch_row *row, const char *code, const char *message)
{
    row->state = KZ_ROW_FAILED;
    row->fail_code = code;
    row->message = kz_str(message);
}

static enum kz_code put_dict(struct sink *sink, struct kz_json_value value, struct kz_err *err)
{
    struct kz_batch_row *row = &sink->answer->rows[sink->count++];
    struct kz_json_value root;
    struct kz_str text;

    if (value.kind == KZ_JSON_NULL) {
        fail_row(row, "shape", "the model gave null for this row");
        return KZ_OK;
    }
    if (value.kind != KZ_JSON_STRING)
        return kz_fail(err, KZ_INVALID, "an element of the BYTES output is %s, not a string",
                kz_json_kind_name(value.kind));
    KZ_TRY(kz_json_str(value, &sink->answer->arena, &text, err));
    if (kz_json_parse(text, DICT_DEPTH_MAX, &root, NULL) != KZ_OK || root.kind != KZ_JSON_OBJECT)
        fail_row(row, "shape", "the model gave a string that is not a JSON object for this row");
    else
        row->json = root.raw;
    return KZ_OK;
}

static enum kz_code put_element(struct sink *sink, struct kz_json_value value, struct kz_err *err)
{
    if (sink->count == sink->most)
        return kz_fail(err, KZ_INVALID, "the output has more data than its shape says");
    if (sink->dicts)
        return put_dict(sink, value, err);
    if (!get_number(value, sink->is_bool, &sink->answer->values[sink->count]))
        return kz_fail(err, KZ_INVALID, "element %zu of the output is %s, not a number",
                sink->count, kz_json_kind_name(value.kind));
    sink->count++;
    return KZ_OK;
}

/* Flat, or an array a row. */
static enum kz_code get_data(struct kz_json_value data, struct sink *sink, struct kz_err *err)
{
    struct kz_json_walk walk = kz_json_walk(data);
    struct kz_json_value element, inner;
    enum { UNKNOWN, FLAT, NESTED } how = UNKNOWN;

    if (data.kind != KZ_JSON_ARRAY)
        return kz_fail(err, KZ_INVALID, "the output has no array \"data\"");
    while (kz_json_walk_element(&walk, &element)) {
        bool nested = element.kind == KZ_JSON_ARRAY;
        size_t before = sink->count;
        struct kz_json_walk row = kz_json_walk(element);

        if (how != UNKNOWN && nested != (how == NESTED))
            return kz_fail(err, KZ_INVALID, "the output's data is neither flat nor an array a row");
        how = nested ? NESTED : FLAT;
        if (!nested)
            KZ_TRY(put_element(sink, element, err));
        while (nested && kz_json_walk_element(&row, &inner))
            KZ_TRY(put_element(sink, inner, err));
        if (nested && sink->count - before != sink->width)
            return kz_fail(err, KZ_INVALID,
                    "a row of the output has %zu numbers, its shape says %zu", sink->count - before,
                    sink->width);
    }
    if (sink->count != sink->most)
        return kz_fail(err, KZ_INVALID, "the output has %zu elements, its shape says %zu",
                sink->count, sink->most);
    return KZ_OK;
}

static void judge(struct oip_answer *answer, size_t width, bool allow_nan)
{
    for (size_t i = 0; i < answer->row_count; i++) {
        struct kz_batch_row *row = &answer->rows[i];

        row->values = answer->values + i * width;
        row->value_count = width;
        for (size_t k = 0; k < width; k++)
            if (!isfinite(row->values[k]) && !(allow_nan && isnan(row->values[k])))
                fail_row(row, "nan", "the model gave NaN or infinity for this row");
    }
}

static bool is_numeric(struct kz_json_value datatype)
{
    static const char *const names[] = {"FP64", "FP32", "FP16", "BF16", "INT64", "INT32", "INT16",
            "INT8", "UINT64", "UINT32", "UINT16", "UINT8", "BOOL"};

    for (size_t i = 0; i < KZ_ARRAY_COUNT(names); i++)
        if (kz_json_is(datatype, names[i]))
            return true;
    return false;
}

enum kz_code kz_oip_get_answer(struct kz_str body, const struct kz_model_def *model,
        size_t row_count, struct oip_answer *answer, const char **ret_fail_code, struct kz_err *err)
{
    struct kz_json_value root, output = {0}, datatype;
    struct sink sink = {.answer = answer};
    int64_t shape[2];

    *ret_fail_code = "protocol";
    KZ_TRY(parse_body(body, answer, &root, err));
    KZ_TRY(find_output(root, &output, err));
    datatype = kz_json_get(output, "datatype");
    sink.dicts = kz_json_is(datatype, "BYTES");
    sink.is_bool = kz_json_is(datatype, "BOOL");
    if (!sink.dicts && !is_numeric(datatype))
        return kz_fail(err, KZ_INVALID,
                "the output's datatype is " KZ_STR_FMT ", not one of numbers "
                "or BYTES",
                KZ_STR_ARG(kz_utf8_cut(datatype.raw, 80)));
    *ret_fail_code = "shape";
    KZ_TRY(get_shape(output, shape, err));
    if ((uint64_t)shape[0] != row_count || shape[1] < 1 || shape[1] > HTTP_WIDTH_MAX ||
            !fits(model, sink.dicts, shape[1]))
        return kz_fail(err, KZ_INVALID, "the model gave %s of shape [%lld, %lld] for %zu rows",
                sink.dicts ? "strings" : "numbers", (long long)shape[0], (long long)shape[1],
                row_count);
    sink.width = (size_t)shape[1];
    sink.most = row_count * sink.width;
    /* A number takes two bytes of text at least: no memory for what cannot be there. */
    if (sink.most > body.size)
        return kz_fail(err, KZ_INVALID, "the output has less data than its shape says");
    reserve(answer, row_count, sink.dicts ? 0 : sink.most);
    KZ_TRY(get_data(kz_json_get(output, "data"), &sink, err));
    if (!sink.dicts)
        judge(answer, sink.width, model->output.allow_nan);
    return KZ_OK;
}

void kz_oip_put_error(struct kz_str body, struct kz_buf *out)
{
    static const char *const names[] = {"error", "detail", "message"};
    struct kz_json_value root, said = {0};
    struct kz_buf text = {0};

    if (kz_json_parse(body, BODY_DEPTH_MAX, &root, NULL) == KZ_OK)
        for (size_t i = 0; i < KZ_ARRAY_COUNT(names) && said.kind != KZ_JSON_STRING; i++)
            said = kz_json_get(root, names[i]);
    if (said.kind == KZ_JSON_STRING)
        kz_json_unescape(said, &text);
    else
        kz_buf_str(&text, body);
    kz_utf8_clean(kz_str_n(text.data, KZ_MIN(text.size, (size_t)REASON_BYTES_MAX)), out);
    kz_buf_done(&text);
}
