/* ReadRows answers of any bytes: whatever a server sends is rows or an error. The input is
 * responses, each led by its size in two bytes. */
#include <stdlib.h>

#include "backends/bigtable/rows.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum kz_code touch(void *arg, const struct kz_bt_row *row, struct kz_err *err)
{
    struct kz_buf *last = arg;

    (void)err;
    if (!row->key.size || !row->cell_count)
        abort();
    if (last->size) {
        size_t least = KZ_MIN(last->size, row->key.size);
        int order = memcmp(last->data, row->key.ptr, least);

        if (order > 0 || (order == 0 && last->size >= row->key.size))
            abort(); /* rows come in order, each once */
    }
    kz_buf_clear(last);
    kz_buf_str(last, row->key);
    for (size_t i = 0; i < row->cell_count; i++) { /* every byte is ours to read */
        const struct kz_bt_cell *cell = &row->cells[i];
        volatile char sum = 0;

        for (size_t k = 0; k < cell->family.size; k++)
            sum = (char)(sum ^ cell->family.ptr[k]);
        for (size_t k = 0; k < cell->qualifier.size; k++)
            sum = (char)(sum ^ cell->qualifier.ptr[k]);
        for (size_t k = 0; k < cell->value.size; k++)
            sum = (char)(sum ^ cell->value.ptr[k]);
    }
    return KZ_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kz_bt_rows *rows = kz_bt_rows_new();
    struct kz_buf last = {0};
    struct kz_err err = {0};
    enum kz_code rc = KZ_OK;

    while (size >= 2 && rc == KZ_OK) {
        size_t length = KZ_MIN((size_t)(data[0] | data[1] << 8), size - 2);
        Google__Bigtable__V2__ReadRowsResponse *response =
                google__bigtable__v2__read_rows_response__unpack(NULL, length, data + 2);

        data += 2 + length;
        size -= 2 + length;
        if (!response)
            break;
        rc = kz_bt_rows_push(rows, response, touch, &last, &err);
        google__bigtable__v2__read_rows_response__free_unpacked(response, NULL);
    }
    if (rc == KZ_OK)
        rc = kz_bt_rows_end(rows, &err);
    if (rc != KZ_OK && !err.message[0])
        abort();
    kz_buf_done(&last);
    kz_bt_rows_free(rows);
    return 0;
}
