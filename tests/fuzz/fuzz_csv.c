/* CSV, whole and fed in pieces: both ways must find the same rows. The first byte chooses the
 * separator and seeds the pieces' sizes. */
#include <stdlib.h>

#include "base/hash.h"
#include "codec/csv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
    enum kz_code code;
    uint64_t rows, sum;
};

static void take_row(struct outcome *outcome, const struct kz_csv_row *row)
{
    outcome->rows++;
    outcome->sum = outcome->sum * 31 + row->line + row->count;
    for (size_t i = 0; i < row->count; i++)
        outcome->sum = outcome->sum * 31 + kz_hash_str(row->fields[i]) + row->fields[i].size;
}

static struct outcome read_whole(struct kz_str text, char separator)
{
    struct outcome outcome = {0};
    struct kz_csv csv;
    struct kz_csv_row row;

    kz_csv_init(&csv, text, separator, true);
    while ((outcome.code = kz_csv_next(&csv, &row, NULL)) == KZ_OK)
        take_row(&outcome, &row);
    kz_csv_done(&csv);
    return outcome;
}

static struct outcome read_pieces(struct kz_str text, char separator, uint32_t seed)
{
    struct outcome outcome = {0};
    struct kz_csv csv;
    struct kz_csv_row row;
    size_t at = 0;
    char *piece = NULL;

    kz_csv_init(&csv, KZ_STR(""), separator, false);
    for (;;) {
        struct kz_str rest;
        size_t n;
        char *next;

        while ((outcome.code = kz_csv_next(&csv, &row, NULL)) == KZ_OK)
            take_row(&outcome, &row);
        if (outcome.code != KZ_END || at == text.size)
            break;
        rest = kz_csv_rest(&csv);
        seed = seed * 1664525u + 1013904223u;
        n = KZ_MIN((size_t)(seed >> 26) + 1, text.size - at);
        next = malloc(rest.size + n); /* a fresh one, so that old addresses are caught */
        if (rest.size)
            memcpy(next, rest.ptr, rest.size);
        memcpy(next + rest.size, text.ptr + at, n);
        at += n;
        free(piece);
        piece = next;
        kz_csv_feed(&csv, kz_str_n(piece, rest.size + n), at == text.size);
    }
    kz_csv_done(&csv);
    free(piece);
    return outcome;
}

static void write_back(struct kz_str text, char separator)
{
    struct kz_buf buf = {0};
    struct kz_csv csv;
    struct kz_csv_row row;

    kz_csv_put(&buf, text, separator);
    kz_buf_str(&buf, KZ_STR("\n"));
    kz_csv_init(&csv, kz_buf_view(&buf), separator, true);
    if (text.size) {
        KZ_BUG_ON(kz_csv_next(&csv, &row, NULL) != KZ_OK || row.count != 1);
        KZ_BUG_ON(!kz_str_eq(row.fields[0], text));
    }
    kz_csv_done(&csv);
    kz_buf_done(&buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome whole, pieces;
    struct kz_str text;
    char separator;
    char *copy;

    if (size < 2)
        return 0;
    copy = malloc(size - 1);
    memcpy(copy, data + 1, size - 1);
    text = kz_str_n(copy, size - 1);
    separator = data[0] & 1 ? ';' : ',';
    whole = read_whole(text, separator);
    pieces = read_pieces(text, separator, data[0] * 2654435761u);
    KZ_BUG_ON(whole.code != pieces.code || whole.rows != pieces.rows || whole.sum != pieces.sum);
    write_back(text, separator);
    free(copy);
    return 0;
}
