/* docs/worker-protocol.md, the host's side. What a worker sends is as foreign as a client's bytes:
 * no count is believed that the payload's size does not bear out. */
#include "runtimes/python/python_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/json.h"
#include "codec/json_out.h"
#include "codec/utf8.h"

enum { MATRIX_WIDTH_MAX = 16384, DICT_DEPTH_MAX = 64 };
enum result_kind { RESULT_SCALAR = 1, RESULT_MATRIX = 2, RESULT_DICTS = 3 };
enum { RESULT_ROW_ERRORS = 1, READY_CAN_FORK = 1, PREDICT_HISTORY = 1, ROW_TRUNCATED = 1 };

enum kz_code kz_py_header(
        const char bytes[WIRE_HEADER_BYTES], struct wire_header *ret, struct kz_err *err)
{
    struct wire_header h = {
            .size = kz_load_u32(bytes), .type = (uint8_t)bytes[4], .id = kz_load_u32(bytes + 8)};

    if (bytes[5] != WIRE_VERSION || bytes[6] || bytes[7])
        return kz_fail(err, KZ_INVALID, "the worker sent a frame of version %u, expected %d",
                (unsigned)(uint8_t)bytes[5], WIRE_VERSION);
    if (h.size > WIRE_FRAME_BYTES_MAX - WIRE_HEADER_BYTES)
        return kz_fail(
                err, KZ_INVALID, "the worker sent a frame of %u bytes, over the limit", h.size);
    *ret = h;
    return KZ_OK;
}

/* ---- host to worker ------------------------------------------------------------------------------ */

static size_t begin_frame(struct kz_buf *out, enum wire_type type, uint32_t id)
{
    size_t at = out->size;

    kz_buf_u32(out, 0);
    kz_buf_u8(out, (uint8_t)type);
    kz_buf_u8(out, WIRE_VERSION);
    kz_buf_u16(out, 0);
    kz_buf_u32(out, id);
    return at;
}

static void end_frame(struct kz_buf *out, size_t at)
{
    kz_store_u32(out->data + at, (uint32_t)(out->size - at - WIRE_HEADER_BYTES));
}

void kz_py_put_empty(struct kz_buf *out, enum wire_type type, uint32_t id)
{
    end_frame(out, begin_frame(out, type, id));
}

static void put_output(struct kz_json_out *json, const struct kz_model_def *model)
{
    kz_json_out_key(json, "output");
    kz_json_out_object(json);
    switch (model->output.kind) {
    case KZ_OUTPUT_PLAIN:
        kz_json_out_kv_cstr(json, "kind", "none");
        break;
    case KZ_OUTPUT_SELECT:
        kz_json_out_kv_cstr(json, "kind", "select");
        kz_json_out_kv_i64(json, "index", model->output.select);
        break;
    case KZ_OUTPUT_CLASSES:
        kz_json_out_kv_cstr(json, "kind", "classes");
        kz_json_out_kv_u64(json, "count", model->output.class_count);
        break;
    case KZ_OUTPUT_EMBEDDING:
        kz_json_out_kv_cstr(json, "kind", "embedding");
        kz_json_out_kv_u64(json, "shape", model->output.embedding_size);
        break;
    }
    kz_json_out_object_end(json);
}

void kz_py_put_load(struct kz_buf *out, uint32_t id, const struct kz_replica_start *start)
{
    const struct kz_model_def *model = start->model;
    size_t at = begin_frame(out, WIRE_LOAD, id);
    struct kz_json_out json = kz_json_out(out);

    kz_json_out_object(&json);
    kz_json_out_kv_cstr(&json, "path", model->path);
    kz_json_out_kv_cstr(&json, "version", start->version);
    kz_json_out_kv_raw(&json, "config", kz_str(model->config_json));
    kz_json_out_kv_bool(&json, "allow_nan", model->output.allow_nan);
    kz_json_out_kv_bool(&json, "history", model->features_sql == NULL);
    kz_json_out_key(&json, "columns");
    kz_json_out_array(&json);
    for (size_t i = 0; i < start->column_count; i++) {
        kz_json_out_object(&json);
        kz_json_out_kv_cstr(&json, "name", start->columns[i].name);
        kz_json_out_kv_cstr(&json, "type", start->columns[i].is_text ? "text" : "number");
        kz_json_out_object_end(&json);
    }
    kz_json_out_array_end(&json);
    put_output(&json, model);
    kz_json_out_object_end(&json);
    end_frame(out, at);
}

/* `strings(n)`: total, sizes, texts. */
static void put_strings(struct kz_buf *out, const struct kz_str *strings, size_t count)
{
    uint32_t total = 0;

    for (size_t i = 0; i < count; i++)
        total += (uint32_t)strings[i].size;
    kz_buf_u32(out, total);
    for (size_t i = 0; i < count; i++)
        kz_buf_u32(out, (uint32_t)strings[i].size);
    for (size_t i = 0; i < count; i++)
        kz_buf_str(out, strings[i]);
}

static void put_texts(struct kz_buf *out, const struct kz_batch *batch, size_t column)
{
    size_t at = out->size;

    kz_buf_u32(out, 0);
    for (size_t i = 0; i < batch->row_count; i++) {
        const struct kz_value *v = &batch->text[i * batch->text_count + column];

        kz_buf_u32(out, v->type == KZ_TYPE_TEXT ? (uint32_t)v->text.size : WIRE_NULL);
    }
    for (size_t i = 0; i < batch->row_count; i++) {
        const struct kz_value *v = &batch->text[i * batch->text_count + column];

        if (v->type == KZ_TYPE_TEXT)
            kz_buf_str(out, v->text);
    }
    kz_store_u32(out->data + at, (uint32_t)(out->size - at - 4 - 4 * batch->row_count));
}

/* The largest a PREDICT can get; kept below 4 GiB by the frame's limit checked against it. */
static uint64_t predict_bytes(const struct kz_batch *batch)
{
    uint64_t n = batch->row_count, total = 64 + n * (8 * batch->numeric_count + 8 + 4);

    total += (4 + 4 * n) * (3 + batch->text_count);
    for (size_t i = 0; i < n; i++) {
        total += batch->user_ids[i].size + batch->event_ids[i].size;
        total += batch->histories ? batch->histories[i].size : 0;
    }
    for (size_t i = 0; i < n * batch->text_count; i++)
        total += batch->text[i].type == KZ_TYPE_TEXT ? batch->text[i].text.size : 0;
    return total;
}

enum kz_code kz_py_put_predict(
        struct kz_buf *out, uint32_t id, const struct kz_batch *batch, struct kz_err *err)
{
    size_t n = batch->row_count, at;
    uint64_t bytes = predict_bytes(batch);

    KZ_BUG_ON(n < 1 || n > WIRE_ROWS_MAX);
    if (bytes > WIRE_FRAME_BYTES_MAX)
        return kz_fail(err, KZ_TOO_LARGE, "a batch of %zu rows has %llu bytes, at most %d", n,
                (unsigned long long)bytes, WIRE_FRAME_BYTES_MAX);
    kz_buf_reserve(out, bytes);
    at = begin_frame(out, WIRE_PREDICT, id);
    kz_buf_u32(out, (uint32_t)n);
    kz_buf_u32(out, (uint32_t)batch->numeric_count);
    kz_buf_u32(out, (uint32_t)batch->text_count);
    kz_buf_u32(out, batch->histories ? PREDICT_HISTORY : 0);
    kz_buf_put(out, batch->numeric, 8 * n * batch->numeric_count);
    kz_buf_put(out, batch->now_ms, 8 * n);
    for (size_t i = 0; i < n; i++)
        kz_buf_u32(out, batch->truncated && batch->truncated[i] ? ROW_TRUNCATED : 0);
    put_strings(out, batch->user_ids, n);
    put_strings(out, batch->event_ids, n);
    for (size_t t = 0; t < batch->text_count; t++)
        put_texts(out, batch, t);
    if (batch->histories)
        put_strings(out, batch->histories, n);
    end_frame(out, at);
    return KZ_OK;
}

/* ---- worker to host ------------------------------------------------------------------------------ */

static struct kz_str get_str(struct kz_cursor *c)
{
    struct kz_str s = kz_cursor_str(c, kz_cursor_u32(c));

    if (!kz_utf8_check(s, NULL))
        c->failed = true;
    return s;
}

static enum kz_code ended(const struct kz_cursor *c, const char *what, struct kz_err *err)
{
    if (c->failed || c->left)
        return kz_fail(err, KZ_INVALID, "the worker sent a broken %s", what);
    return KZ_OK;
}

enum kz_code kz_py_get_hello(struct kz_str payload, struct kz_err *err)
{
    struct kz_cursor c = kz_cursor(payload);
    unsigned oldest = kz_cursor_u16(&c), newest = kz_cursor_u16(&c);
    struct kz_str package;

    (void)kz_cursor_u32(&c); /* its pid as it sees it: the kernel tells us the true one */
    (void)kz_cursor_u32(&c); /* flags */
    package = get_str(&c);
    (void)get_str(&c); /* Python's version */
    (void)get_str(&c); /* NumPy's */
    KZ_TRY(ended(&c, "HELLO", err));
    if (oldest > WIRE_VERSION || newest < WIRE_VERSION)
        return kz_fail(err, KZ_INVALID,
                "package kizashi " KZ_STR_FMT " speaks protocol %u to %u, this build speaks %d: "
                "install the package that comes with it",
                KZ_STR_ARG(kz_utf8_cut(package, 40)), oldest, newest, WIRE_VERSION);
    return KZ_OK;
}

enum kz_code kz_py_get_ready(struct kz_str payload, bool *ret_can_fork, struct kz_err *err)
{
    struct kz_cursor c = kz_cursor(payload);
    uint32_t flags = kz_cursor_u32(&c);

    (void)kz_cursor_u32(&c); /* threads */
    (void)kz_cursor_u64(&c); /* load_us */
    (void)get_str(&c);       /* the class */
    KZ_TRY(ended(&c, "READY", err));
    *ret_can_fork = flags & READY_CAN_FORK;
    return KZ_OK;
}

enum kz_code kz_py_get_failure(struct kz_str payload, struct wire_failure *ret, struct kz_err *err)
{
    struct kz_cursor c = kz_cursor(payload);
    struct wire_failure f;

    f.code = kz_cursor_u32(&c);
    f.predict_us = kz_cursor_u32(&c);
    f.message = get_str(&c);
    f.traceback = get_str(&c);
    KZ_TRY(ended(&c, "ERROR", err));
    *ret = f;
    return KZ_OK;
}

const char *kz_py_code_name(const struct wire_failure *failure)
{
    switch (failure->code) {
    case WIRE_EXCEPTION:
        return kz_str_starts(failure->message, "MemoryError") ? "oom" : "exception";
    case WIRE_SHAPE:
        return "shape";
    case WIRE_NAN:
        return "nan";
    case WIRE_REFUSED:
        return "refused";
    case WIRE_MODEL:
        return "load";
    default:
        return "protocol";
    }
}

/* A `strings(n)` block being read in step: sizes here, texts there. */
struct strings {
    const char *sizes;
    struct kz_cursor texts;
    bool ok;
};

static struct strings get_strings(struct kz_cursor *c, size_t count)
{
    uint32_t total = kz_cursor_u32(c);
    const char *sizes = kz_cursor_take(c, 4 * count);
    const char *texts = kz_cursor_take(c, total);

    return (struct strings){sizes, kz_cursor(kz_str_n(texts, texts ? total : 0)), !c->failed};
}

/* False for NULL, or where the block is broken, which `ok` says. */
static bool next_string(struct strings *s, size_t index, struct kz_str *ret)
{
    uint32_t size = kz_load_u32(s->sizes + 4 * index);

    if (size == WIRE_NULL)
        return false;
    *ret = kz_cursor_str(&s->texts, size);
    s->ok &= !s->texts.failed && kz_utf8_check(*ret, NULL);
    return s->ok;
}

void kz_py_result_done(struct wire_result *result)
{
    free(result->rows);
    free(result->values);
    *result = (struct wire_result){0};
}

static struct kz_batch_row *reserve_rows(struct wire_result *result, size_t rows, size_t values)
{
    if (result->rows_capacity < rows) {
        free(result->rows);
        result->rows = kz_malloc(rows * sizeof(*result->rows));
        result->rows_capacity = rows;
    }
    if (result->values_capacity < values) {
        free(result->values);
        result->values = kz_malloc(values * sizeof(double));
        result->values_capacity = values;
    }
    if (rows)
        memset(result->rows, 0, rows * sizeof(*result->rows));
    return result->rows;
}

/* What LOAD's output demanded of the width; the worker has checked it too. */
static bool fits(const struct kz_model_def *model, enum result_kind kind, size_t width)
{
    switch (model->output.kind) {
    case KZ_OUTPUT_PLAIN:
        return true;
    case KZ_OUTPUT_SELECT:
        return kind != RESULT_DICTS && (int64_t)width > model->output.select;
    case KZ_OUTPUT_CLASSES:
        return kind != RESULT_DICTS && width == model->output.class_count;
    case KZ_OUTPUT_EMBEDDING:
        return kind != RESULT_DICTS && width == model->output.embedding_size;
    }
    return false;
}

static bool are_usable(const double *values, size_t count, bool allow_nan)
{
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i]) && !(allow_nan && isnan(values[i])))
            return false;
    return true;
}

static enum kz_code get_dicts(struct kz_cursor *c, struct wire_result *result, struct kz_err *err)
{
    struct strings s = get_strings(c, result->row_count);

    for (size_t i = 0; s.ok && i < result->row_count; i++) {
        struct kz_json_value root;
        struct kz_str text;

        if (!next_string(&s, i, &text))
            continue;
        if (kz_json_parse(text, DICT_DEPTH_MAX, &root, err) != KZ_OK)
            return kz_wrap(err, "the worker sent a dict that is not JSON");
        if (root.kind != KZ_JSON_OBJECT)
            return kz_fail(
                    err, KZ_INVALID, "the worker sent %s for a dict", kz_json_kind_name(root.kind));
        result->rows[i].json = root.raw;
    }
    if (!s.ok || s.texts.left)
        return kz_fail(err, KZ_INVALID, "the worker sent broken strings");
    return KZ_OK;
}

/* Status and messages of the rows, behind the values. */
static enum kz_code get_statuses(struct kz_cursor *c, bool messages,
        const struct kz_model_def *model, enum result_kind kind, struct wire_result *result,
        struct kz_err *err)
{
    const uint8_t *status = kz_cursor_take(c, result->row_count);
    struct strings s = {.ok = true};

    if (messages)
        s = get_strings(c, result->row_count);
    if (!status || !s.ok || c->left)
        return kz_fail(err, KZ_INVALID, "the worker sent a RESULT of the wrong size");
    for (size_t i = 0; i < result->row_count; i++) {
        struct kz_batch_row *row = &result->rows[i];

        if (messages)
            (void)next_string(&s, i, &row->message); /* none is empty; `s.ok` is looked at below */
        if (status[i]) {
            row->state = KZ_ROW_FAILED;
            row->fail_code = status[i] == WIRE_NAN ? "nan" : "shape";
        } else if (kind == RESULT_DICTS
                           ? !row->json.size
                           : !are_usable(row->values, row->value_count, model->output.allow_nan)) {
            return kz_fail(err, KZ_INVALID, "the worker sent a row without a usable value");
        }
    }
    if (!s.ok || (messages && s.texts.left))
        return kz_fail(err, KZ_INVALID, "the worker sent broken strings");
    return KZ_OK;
}

enum kz_code kz_py_get_result(struct kz_str payload, const struct kz_model_def *model,
        size_t row_count, struct wire_result *result, struct kz_err *err)
{
    struct kz_cursor c = kz_cursor(payload);
    size_t n = kz_cursor_u32(&c);
    enum result_kind kind = (enum result_kind)kz_cursor_u8(&c);
    unsigned flags = kz_cursor_u8(&c), reserved = kz_cursor_u16(&c);
    size_t m = kz_cursor_u32(&c);
    uint32_t predict_us = kz_cursor_u32(&c);
    const char *values;

    if (c.failed || n != row_count || reserved || flags & ~(unsigned)RESULT_ROW_ERRORS)
        return kz_fail(err, KZ_INVALID, "the worker sent a RESULT of %zu rows, asked were %zu", n,
                row_count);
    if (kind < RESULT_SCALAR || kind > RESULT_DICTS || (kind == RESULT_SCALAR && m != 1) ||
            (kind == RESULT_MATRIX && (m < 1 || m > MATRIX_WIDTH_MAX)) ||
            (kind == RESULT_DICTS && m) || !fits(model, kind, m))
        return kz_fail(err, KZ_INVALID, "the worker sent a RESULT of kind %u and width %zu",
                (unsigned)kind, m);
    values = kz_cursor_take(&c, 8 * n * m);
    if (c.failed)
        return kz_fail(err, KZ_INVALID, "the worker sent a RESULT that is cut short");
    reserve_rows(result, n, n * m);
    result->row_count = n;
    result->predict_us = predict_us;
    if (kind == RESULT_DICTS) {
        KZ_TRY(get_dicts(&c, result, err));
    } else {
        if (n > 0 && m > 0)
            memcpy(result->values, values, 8 * n * m);
        for (size_t i = 0; i < n; i++) {
            result->rows[i].values = result->values + i * m;
            result->rows[i].value_count = m;
        }
    }
    return get_statuses(&c, flags & RESULT_ROW_ERRORS, model, kind, result, err);
}
