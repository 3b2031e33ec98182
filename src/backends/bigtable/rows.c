#include "backends/bigtable/rows.h"

#include <stdlib.h>

#define RESET GOOGLE__BIGTABLE__V2__READ_ROWS_RESPONSE__CELL_CHUNK__ROW_STATUS_RESET_ROW
#define COMMIT GOOGLE__BIGTABLE__V2__READ_ROWS_RESPONSE__CELL_CHUNK__ROW_STATUS_COMMIT_ROW

#define chunk_t Google__Bigtable__V2__ReadRowsResponse__CellChunk

struct span {
    size_t offset, size;
};

struct cell { /* while the row grows its bytes may move */
    struct span family, qualifier, value;
    int64_t timestamp_micros;
};

struct kz_bt_rows {
    bool in_row, in_cell;
    size_t value_size; /* of the cell begun, as announced */
    struct span key;
    struct kz_buf bytes; /* of the row begun */
    struct kz_buf cells; /* of the row begun: struct cell */
    struct kz_buf shown; /* struct kz_bt_cell */
    struct kz_buf last;
};

struct kz_bt_rows *kz_bt_rows_new(void)
{
    return kz_calloc(1, sizeof(struct kz_bt_rows));
}

void kz_bt_rows_free(struct kz_bt_rows *rows)
{
    if (!rows)
        return;
    kz_buf_done(&rows->bytes);
    kz_buf_done(&rows->cells);
    kz_buf_done(&rows->shown);
    kz_buf_done(&rows->last);
    free(rows);
}

static enum kz_code broken(struct kz_err *err, const char *what)
{
    return kz_fail(err, KZ_CORRUPT, "bigtable's answer to ReadRows cannot be read: %s", what);
}

static struct kz_str bytes_of(ProtobufCBinaryData data)
{
    return kz_str_n(data.data, data.len);
}

static int compare(struct kz_str a, struct kz_str b)
{
    size_t size = KZ_MIN(a.size, b.size);
    int order = size ? memcmp(a.ptr, b.ptr, size) : 0;

    return order ? order : a.size < b.size ? -1 : a.size > b.size;
}

static struct kz_str str_of(const struct kz_bt_rows *rows, struct span span)
{
    return kz_str_n(rows->bytes.data + span.offset, span.size);
}

static struct span keep(struct kz_bt_rows *rows, struct kz_str s)
{
    struct span span = {rows->bytes.size, s.size};

    kz_buf_str(&rows->bytes, s);
    return span;
}

static void drop_row(struct kz_bt_rows *rows)
{
    rows->in_row = rows->in_cell = false;
    kz_buf_clear(&rows->bytes);
    kz_buf_clear(&rows->cells);
}

static struct cell *last_cell(struct kz_bt_rows *rows)
{
    KZ_BUG_ON(!rows->cells.size);
    return (struct cell *)(void *)(rows->cells.data + rows->cells.size) - 1;
}

static enum kz_code reset(struct kz_bt_rows *rows, const chunk_t *chunk, struct kz_err *err)
{
    if (!rows->in_row)
        return broken(err, "a row is reset that was not begun");
    if (chunk->row_key.len || chunk->family_name || chunk->qualifier || chunk->value.len ||
            chunk->value_size || chunk->timestamp_micros || chunk->n_labels)
        return broken(err, "a chunk that resets a row brings a cell");
    drop_row(rows);
    return KZ_OK;
}

static enum kz_code begin_row(struct kz_bt_rows *rows, const chunk_t *chunk, struct kz_err *err)
{
    if (!chunk->row_key.len)
        return broken(err, "a row begins without its key");
    if (!chunk->family_name || !chunk->qualifier)
        return broken(err, "a row begins without family and qualifier");
    if (rows->last.size && compare(bytes_of(chunk->row_key), kz_buf_view(&rows->last)) <= 0)
        return broken(err, "rows are not in order of their keys");
    rows->in_row = true;
    rows->key = keep(rows, bytes_of(chunk->row_key));
    return KZ_OK;
}

static enum kz_code begin_cell(struct kz_bt_rows *rows, const chunk_t *chunk, struct kz_err *err)
{
    struct cell cell = {.timestamp_micros = chunk->timestamp_micros};

    if (chunk->row_key.len && !kz_str_eq(bytes_of(chunk->row_key), str_of(rows, rows->key)))
        return broken(err, "a row begins before the one before it is committed");
    if (chunk->family_name && !chunk->qualifier)
        return broken(err, "a family begins without a qualifier");
    if (rows->cells.size) {
        cell.family = last_cell(rows)->family;
        cell.qualifier = last_cell(rows)->qualifier;
    }
    if (chunk->family_name)
        cell.family = keep(rows, kz_str(chunk->family_name->value));
    if (chunk->qualifier)
        cell.qualifier = keep(rows, bytes_of(chunk->qualifier->value));
    cell.value.offset = rows->bytes.size;
    kz_buf_put(&rows->cells, &cell, sizeof(cell));
    return KZ_OK;
}

static enum kz_code continue_cell(const chunk_t *chunk, struct kz_err *err)
{
    if (chunk->row_key.len || chunk->family_name || chunk->qualifier || chunk->timestamp_micros ||
            chunk->n_labels)
        return broken(err, "a part of a split value brings more than its value");
    return KZ_OK;
}

/* Nothing else is kept between the parts of a value, so that they lie one behind the other. */
static enum kz_code add_value(struct kz_bt_rows *rows, const chunk_t *chunk, struct kz_err *err)
{
    struct cell *cell = last_cell(rows);

    if (rows->bytes.size + chunk->value.len > KZ_BT_ROW_SIZE_MAX ||
            rows->cells.size > KZ_BT_ROW_SIZE_MAX)
        return kz_fail(err, KZ_TOO_LARGE, "row \"" KZ_STR_FMT "\" is over %d bytes",
                KZ_STR_ARG(str_of(rows, rows->key)), KZ_BT_ROW_SIZE_MAX);
    kz_buf_str(&rows->bytes, bytes_of(chunk->value));
    cell->value.size += chunk->value.len;
    if (chunk->value_size < 0)
        return broken(err, "the size of a value is negative");
    if (!chunk->value_size) {
        if (rows->in_cell && cell->value.size != rows->value_size)
            return broken(err, "a split value has not the size it announced");
        rows->in_cell = false;
        return KZ_OK;
    }
    if (rows->in_cell && (size_t)chunk->value_size != rows->value_size)
        return broken(err, "parts of a split value announce different sizes");
    rows->in_cell = true;
    rows->value_size = (size_t)chunk->value_size;
    return cell->value.size > rows->value_size
                   ? broken(err, "a split value is longer than it announced")
                   : KZ_OK;
}

static enum kz_code commit(struct kz_bt_rows *rows,
        enum kz_code (*each)(void *arg, const struct kz_bt_row *row, struct kz_err *err), void *arg,
        struct kz_err *err)
{
    size_t count = rows->cells.size / sizeof(struct cell);
    const struct cell *cells = (const struct cell *)(void *)rows->cells.data;
    struct kz_bt_cell *shown;
    struct kz_bt_row row;
    enum kz_code rc;

    if (rows->in_cell)
        return broken(err, "a row is committed within a split value");
    kz_buf_clear(&rows->shown);
    shown = kz_buf_extend(&rows->shown, count * sizeof(*shown));
    for (size_t i = 0; i < count; i++)
        shown[i] = (struct kz_bt_cell){str_of(rows, cells[i].family),
                str_of(rows, cells[i].qualifier), str_of(rows, cells[i].value),
                cells[i].timestamp_micros};
    row = (struct kz_bt_row){str_of(rows, rows->key), shown, count};
    rc = each(arg, &row, err);
    kz_buf_clear(&rows->last);
    kz_buf_str(&rows->last, row.key);
    drop_row(rows);
    return rc;
}

static enum kz_code take_chunk(struct kz_bt_rows *rows, const chunk_t *chunk,
        enum kz_code (*each)(void *arg, const struct kz_bt_row *row, struct kz_err *err), void *arg,
        struct kz_err *err)
{
    if (chunk->row_status_case == RESET && chunk->reset_row)
        return reset(rows, chunk, err);
    if (rows->in_cell) {
        KZ_TRY(continue_cell(chunk, err));
    } else {
        if (!rows->in_row)
            KZ_TRY(begin_row(rows, chunk, err));
        KZ_TRY(begin_cell(rows, chunk, err));
    }
    KZ_TRY(add_value(rows, chunk, err));
    if (chunk->row_status_case == COMMIT && chunk->commit_row)
        return commit(rows, each, arg, err);
    return KZ_OK;
}

enum kz_code kz_bt_rows_push(struct kz_bt_rows *rows,
        const Google__Bigtable__V2__ReadRowsResponse *response,
        enum kz_code (*each)(void *arg, const struct kz_bt_row *row, struct kz_err *err), void *arg,
        struct kz_err *err)
{
    struct kz_str scanned = bytes_of(response->last_scanned_row_key);

    for (size_t i = 0; i < response->n_chunks; i++)
        KZ_TRY(take_chunk(rows, response->chunks[i], each, arg, err));
    if (!scanned.size)
        return KZ_OK;
    if (rows->in_row)
        return broken(err, "the key scanned last comes within a row");
    if (rows->last.size && compare(scanned, kz_buf_view(&rows->last)) < 0)
        return broken(err, "the key scanned last is before a row that came");
    kz_buf_clear(&rows->last);
    kz_buf_str(&rows->last, scanned);
    return KZ_OK;
}

enum kz_code kz_bt_rows_end(const struct kz_bt_rows *rows, struct kz_err *err)
{
    return rows->in_row ? broken(err, "it ends within a row") : KZ_OK;
}

void kz_bt_rows_restart(struct kz_bt_rows *rows)
{
    drop_row(rows);
}

struct kz_str kz_bt_rows_last(const struct kz_bt_rows *rows)
{
    return kz_buf_view(&rows->last);
}
