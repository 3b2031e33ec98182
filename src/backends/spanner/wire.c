#include "backends/spanner/wire.h"

#include <stdio.h>
#include <stdlib.h>

#include "codec/base64.h"
#include "codec/timefmt.h"

/* Keys of fields on the wire: number << 3 | type (protobuf.dev, "Encoding"). */
enum {
    LIST_VALUES = 1 << 3 | 2,  /* ListValue.values */
    VALUE_NULL = 1 << 3 | 0,   /* Value.null_value */
    VALUE_STRING = 3 << 3 | 2, /* Value.string_value */
    VARINT_MAX = 10,
};

/* ---- writing ----------------------------------------------------------------------------- */

void kz_sp_lists_done(struct kz_sp_lists *lists)
{
    kz_buf_done(&lists->bytes);
    kz_buf_done(&lists->ends);
    free(lists->data);
    *lists = (struct kz_sp_lists){0};
}

static size_t varint_size(size_t number)
{
    size_t size = 1;

    while (number >>= 7)
        size++;
    return size;
}

static char *put_varint(char *at, size_t number)
{
    for (; number > 0x7f; number >>= 7)
        *at++ = (char)(number | 0x80);
    *at++ = (char)number;
    return at;
}

/* Room for a string of `size` bytes, its value and its place in the list around it. */
static char *put_string(struct kz_sp_lists *lists, size_t size)
{
    size_t value_size = 1 + varint_size(size) + size;
    char *at = kz_buf_extend(&lists->bytes, 1 + varint_size(value_size) + value_size);

    *at++ = LIST_VALUES;
    at = put_varint(at, value_size);
    *at++ = VALUE_STRING;
    return put_varint(at, size);
}

void kz_sp_null(struct kz_sp_lists *lists)
{
    static const char null[] = {LIST_VALUES, 2, VALUE_NULL, 0};

    kz_buf_put(&lists->bytes, null, sizeof(null));
}

void kz_sp_text(struct kz_sp_lists *lists, struct kz_str text)
{
    char *at = put_string(lists, text.size);

    if (text.size)
        memcpy(at, text.ptr, text.size);
}

void kz_sp_bytes(struct kz_sp_lists *lists, struct kz_str bytes)
{
    kz_sp_bytes2(lists, bytes, KZ_STR_NULL);
}

void kz_sp_bytes2(struct kz_sp_lists *lists, struct kz_str first, struct kz_str second)
{
    size_t size = (first.size + second.size + 2) / 3 * 4;
    size_t whole = second.size ? first.size / 3 * 3 : first.size; /* the seam is put together */
    char seam[3];

    (void)put_string(lists, size);
    lists->bytes.size -= size; /* the room stays */
    kz_base64_encode(kz_str_n(first.ptr, whole), KZ_BASE64_STD, &lists->bytes);
    if (whole < first.size) {
        size_t left = first.size - whole, taken = KZ_MIN(3 - left, second.size);

        memcpy(seam, first.ptr + whole, left);
        memcpy(seam + left, second.ptr, taken);
        kz_base64_encode(kz_str_n(seam, left + taken), KZ_BASE64_STD, &lists->bytes);
        second = kz_str_n(second.ptr + taken, second.size - taken);
    }
    kz_base64_encode(second, KZ_BASE64_STD, &lists->bytes);
}

void kz_sp_int(struct kz_sp_lists *lists, int64_t number)
{
    uint64_t left = number < 0 ? -(uint64_t)number : (uint64_t)number;
    char digits[20], *at = digits + sizeof(digits);

    do
        *--at = (char)('0' + left % 10);
    while (left /= 10);
    if (number < 0)
        *--at = '-';
    kz_sp_text(lists, kz_str_n(at, (size_t)(digits + sizeof(digits) - at)));
}

void kz_sp_time(struct kz_sp_lists *lists, int64_t ms)
{
    const int64_t min = -INT64_C(62135596800000), max = INT64_C(253402300799999);
    char text[KZ_TIME_BYTES];

    if (ms < min || ms > max)
        kz_sp_null(lists);
    else
        kz_sp_text(lists, kz_str(kz_time_format(ms, text)));
}

void kz_sp_end(struct kz_sp_lists *lists)
{
    kz_buf_put(&lists->ends, &lists->bytes.size, sizeof(lists->bytes.size));
}

ProtobufCBinaryData *kz_sp_data(struct kz_sp_lists *lists)
{
    size_t count = kz_sp_count(lists), from = 0;
    const size_t *ends = (const size_t *)lists->ends.data;

    lists->data = kz_realloc(lists->data, KZ_MAX(count, (size_t)1) * sizeof(*lists->data));
    for (size_t i = 0; i < count; i++) {
        lists->data[i] = (ProtobufCBinaryData){
                .len = ends[i] - from, .data = (uint8_t *)lists->bytes.data + from};
        from = ends[i];
    }
    return lists->data;
}

/* ---- values ------------------------------------------------------------------------------ */

enum kz_code kz_sp_get_int(const struct kz_sp_cell *cell, int64_t *ret_number, struct kz_err *err)
{
    struct kz_str text = cell->text;
    const bool negative = text.size && text.ptr[0] == '-';
    const uint64_t limit = (uint64_t)INT64_MAX + negative;
    uint64_t number = 0;

    if (cell->null || text.size <= negative)
        return kz_fail(err, KZ_CORRUPT, "Spanner sent no number where one has to be");
    for (size_t i = negative; i < text.size; i++) {
        unsigned digit = (unsigned)(unsigned char)text.ptr[i] - '0';

        if (digit > 9 || number > (limit - digit) / 10)
            return kz_fail(err, KZ_CORRUPT, "\"" KZ_STR_FMT "\" from Spanner is no INT64",
                    (int)KZ_MIN(text.size, (size_t)40), text.ptr);
        number = number * 10 + digit;
    }
    *ret_number = (int64_t)(negative ? -number : number);
    return KZ_OK;
}

enum kz_code kz_sp_get_u64(const struct kz_sp_cell *cell, uint64_t *ret_number, struct kz_err *err)
{
    int64_t number;

    KZ_TRY(kz_sp_get_int(cell, &number, err));
    *ret_number = (uint64_t)number;
    return KZ_OK;
}

enum kz_code kz_sp_get_bytes(const struct kz_sp_cell *cell, struct kz_buf *out, struct kz_err *err)
{
    struct kz_err local;

    if (cell->null)
        return KZ_OK;
    if (kz_base64_decode(cell->text, KZ_BASE64_STD, out, &local) != KZ_OK)
        return kz_fail(err, KZ_CORRUPT, "BYTES from Spanner: %s", local.message);
    return KZ_OK;
}

/* false: no whole number, or one of more than 64 bits. */
static bool get_varint(struct kz_cursor *c, uint64_t *ret_number)
{
    uint64_t number = 0;

    for (unsigned i = 0; i < VARINT_MAX; i++) {
        uint8_t byte = kz_cursor_u8(c);

        if (c->failed || (i == VARINT_MAX - 1 && byte > 1))
            return false;
        number |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            *ret_number = number;
            return true;
        }
    }
    return false;
}

/* A Value is null or a string: of the types we have columns of, nothing else comes. */
static enum kz_code get_value(
        ProtobufCBinaryData data, struct kz_sp_cell *ret_cell, struct kz_err *err)
{
    struct kz_cursor c = kz_cursor(kz_str_n(data.data, data.len));
    uint8_t key = kz_cursor_u8(&c);
    uint64_t number;
    struct kz_sp_cell cell = {.null = key == VALUE_NULL};

    if ((key != VALUE_NULL && key != VALUE_STRING) || !get_varint(&c, &number) ||
            (key == VALUE_STRING ? number != c.left : c.left != 0))
        return kz_fail(err, KZ_CORRUPT, "Spanner sent a value that is neither null nor a string");
    if (key == VALUE_STRING)
        cell.text = kz_str_n(c.ptr, c.left);
    *ret_cell = cell;
    return KZ_OK;
}

/* ---- rows -------------------------------------------------------------------------------- */

/* The beginning of a row whose rest is in messages to come. */
struct part {
    struct kz_buf bytes; /* of its cells, one after the other */
    size_t sizes[KZ_SP_COLUMNS_MAX];
    bool null[KZ_SP_COLUMNS_MAX];
    size_t count;
    bool open; /* the last cell goes on */
};

struct kz_sp_rows {
    size_t column_count;
    struct part part;
    struct part saved;   /* as of the token */
    struct kz_buf token; /* the last one that was sent */
    bool has_token;
    uint64_t count;       /* rows shown */
    uint64_t since_token; /* rows completed since the token */
    uint64_t skip;        /* rows to come that have been shown */
};

struct kz_sp_rows *kz_sp_rows_new(size_t column_count)
{
    struct kz_sp_rows *rows = kz_calloc(1, sizeof(*rows));

    KZ_BUG_ON(column_count == 0 || column_count > KZ_SP_COLUMNS_MAX);
    rows->column_count = column_count;
    return rows;
}

void kz_sp_rows_free(struct kz_sp_rows *rows)
{
    if (!rows)
        return;
    kz_buf_done(&rows->part.bytes);
    kz_buf_done(&rows->saved.bytes);
    kz_buf_done(&rows->token);
    free(rows);
}

static void part_copy(struct part *to, const struct part *from)
{
    struct kz_buf bytes = to->bytes;

    *to = *from;
    to->bytes = bytes;
    kz_buf_clear(&to->bytes);
    kz_buf_str(&to->bytes, kz_buf_view(&from->bytes));
}

static void part_add(struct part *part, const struct kz_sp_cell *cell)
{
    part->sizes[part->count] = cell->text.size;
    part->null[part->count++] = cell->null;
    kz_buf_str(&part->bytes, cell->text);
}

/* The open cell goes on with `cell`. */
static enum kz_code part_extend(
        struct part *part, const struct kz_sp_cell *cell, struct kz_err *err)
{
    if (cell->null || part->null[part->count - 1])
        return kz_fail(err, KZ_CORRUPT, "Spanner sent a null in parts");
    if (cell->text.size > KZ_SP_VALUE_SIZE_MAX - part->sizes[part->count - 1])
        return kz_fail(err, KZ_CORRUPT, "Spanner sent a value of more than %d bytes",
                KZ_SP_VALUE_SIZE_MAX);
    part->sizes[part->count - 1] += cell->text.size;
    kz_buf_str(&part->bytes, cell->text);
    return KZ_OK;
}

static void part_cells(const struct part *part, struct kz_sp_cell *cells)
{
    size_t at = 0;

    for (size_t i = 0; i < part->count; i++) {
        const char *text = part->sizes[i] ? part->bytes.data + at : NULL;

        cells[i] = (struct kz_sp_cell){kz_str_n(text, part->sizes[i]), part->null[i]};
        at += part->sizes[i];
    }
}

static void part_clear(struct part *part)
{
    part->count = 0;
    part->open = false;
    kz_buf_clear(&part->bytes);
}

static enum kz_code show(struct kz_sp_rows *rows, const struct kz_sp_cell *cells,
        kz_sp_row_fn *each, void *arg, struct kz_err *err)
{
    rows->since_token++;
    if (rows->skip) {
        rows->skip--;
        return KZ_OK;
    }
    rows->count++;
    return each(arg, cells, err);
}

static void take_token(
        struct kz_sp_rows *rows, const Google__Spanner__V1__PartialResultSet *message)
{
    if (!message->resume_token.len)
        return;
    kz_buf_clear(&rows->token);
    kz_buf_put(&rows->token, message->resume_token.data, message->resume_token.len);
    rows->has_token = true;
    rows->since_token = 0;
    part_copy(&rows->saved, &rows->part);
}

enum kz_code kz_sp_rows_push(struct kz_sp_rows *rows,
        const Google__Spanner__V1__PartialResultSet *message, kz_sp_row_fn *each, void *arg,
        struct kz_err *err)
{
    struct part *part = &rows->part;
    struct kz_sp_cell cells[KZ_SP_COLUMNS_MAX], cell;
    size_t count, i = 0, kept;

    if (message->chunked_value && !message->n_values)
        return kz_fail(err, KZ_CORRUPT, "Spanner sent a part of no value");
    if (part->open && message->n_values) {
        KZ_TRY(get_value(message->values[i++], &cell, err));
        KZ_TRY(part_extend(part, &cell, err));
        part->open = message->chunked_value && i == message->n_values;
    }
    part_cells(part, cells);
    count = kept = part->count;
    for (;; i++) {
        /* A row ends where the next one begins, or at the end of the message: its last cell may be
         * open. */
        if (count == rows->column_count && !part->open &&
                !(i == message->n_values && message->chunked_value)) {
            KZ_TRY(show(rows, cells, each, arg, err));
            part_clear(part);
            count = kept = 0;
        }
        if (i == message->n_values)
            break;
        KZ_TRY(get_value(message->values[i], &cells[count++], err));
    }
    for (; kept < count; kept++)
        part_add(part, &cells[kept]);
    if (message->n_values)
        part->open = message->chunked_value;
    take_token(rows, message);
    return KZ_OK;
}

/* A ListValue of as many values as there are columns. */
static enum kz_code get_row(struct kz_sp_rows *rows, ProtobufCBinaryData data,
        struct kz_sp_cell *cells, struct kz_err *err)
{
    struct kz_cursor c = kz_cursor(kz_str_n(data.data, data.len));
    size_t count = 0;

    while (c.left) {
        uint8_t key = kz_cursor_u8(&c);
        ProtobufCBinaryData value;
        uint64_t size;

        if (key != LIST_VALUES || !get_varint(&c, &size) || size > c.left ||
                count == rows->column_count)
            return kz_fail(err, KZ_CORRUPT, "Spanner sent a row that is none");
        value = (ProtobufCBinaryData){(size_t)size, (uint8_t *)(uintptr_t)c.ptr};
        KZ_TRY(get_value(value, &cells[count++], err));
        (void)kz_cursor_take(&c, (size_t)size);
    }
    if (count != rows->column_count)
        return kz_fail(err, KZ_CORRUPT, "Spanner sent a row of %zu values, %zu were asked for",
                count, rows->column_count);
    return KZ_OK;
}

enum kz_code kz_sp_rows_take(struct kz_sp_rows *rows, const Google__Spanner__V1__ResultSet *answer,
        kz_sp_row_fn *each, void *arg, struct kz_err *err)
{
    struct kz_sp_cell cells[KZ_SP_COLUMNS_MAX];

    for (size_t i = 0; i < answer->n_rows; i++) {
        KZ_TRY(get_row(rows, answer->rows[i], cells, err));
        KZ_TRY(show(rows, cells, each, arg, err));
    }
    return KZ_OK;
}

enum kz_code kz_sp_rows_end(const struct kz_sp_rows *rows, struct kz_err *err)
{
    if (rows->part.count || rows->skip)
        return kz_fail(err, KZ_CORRUPT, "Spanner ended its answer within a row");
    return KZ_OK;
}

struct kz_str kz_sp_rows_token(const struct kz_sp_rows *rows)
{
    return kz_buf_view(&rows->token);
}

void kz_sp_rows_resume(struct kz_sp_rows *rows, bool *ret_again)
{
    *ret_again = false;
    if (rows->has_token) {
        rows->skip += rows->since_token;
        rows->since_token = 0;
        part_copy(&rows->part, &rows->saved);
        return;
    }
    *ret_again = rows->count > 0;
    rows->skip = rows->since_token = rows->count = 0;
    part_clear(&rows->part);
}

uint64_t kz_sp_rows_count(const struct kz_sp_rows *rows)
{
    return rows->count;
}
