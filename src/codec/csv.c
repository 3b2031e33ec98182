#include "codec/csv.h"

void kz_csv_init(struct kz_csv *csv, struct kz_str text, char separator, bool last)
{
    *csv = (struct kz_csv){.rest = text, .separator = separator, .last = last, .line = 1};
}

void kz_csv_done(struct kz_csv *csv)
{
    kz_buf_done(&csv->fields);
    kz_buf_done(&csv->scratch);
}

struct kz_str kz_csv_rest(const struct kz_csv *csv)
{
    return csv->rest;
}

void kz_csv_feed(struct kz_csv *csv, struct kz_str text, bool last)
{
    csv->rest = text;
    csv->last = last;
}

/* One row being read; the reader itself changes only when the row is complete. */
struct row {
    const char *at;
    const char *end;
    uint64_t line;
};

enum outcome { FIELD_MORE, FIELD_LAST, FIELD_CUT, FIELD_BAD, FIELD_OPEN };

/* What stands behind a field: a separator, a line's end, or the text's. */
static enum outcome finish_field(const struct kz_csv *csv, struct row *row)
{
    if (row->at == row->end)
        return csv->last ? FIELD_LAST : FIELD_CUT;
    if (*row->at == csv->separator) {
        row->at++;
        return FIELD_MORE;
    }
    if (*row->at == '\r') {
        if (row->end - row->at < 2)
            row->at++;
        else if (row->at[1] == '\n')
            row->at += 2;
        else
            return FIELD_BAD;
        if (row->at == row->end && row->at[-1] == '\r' && !csv->last)
            return FIELD_CUT;
    } else if (*row->at == '\n') {
        row->at++;
    } else {
        return FIELD_BAD;
    }
    row->line++;
    return FIELD_LAST;
}

static void add_field(struct kz_csv *csv, struct kz_str field)
{
    kz_buf_put(&csv->fields, &field, sizeof(field));
}

/* `at` is behind the opening quote. Text with doubled quotes goes to the scratch buffer, which may
 * move: its fields hold an offset in place of a pointer until the row is complete. */
static enum outcome quoted_field(struct kz_csv *csv, struct row *row)
{
    const char *from = row->at;
    size_t scratch = csv->scratch.size;
    bool doubled = false;

    for (;;) {
        const char *quote = memchr(row->at, '"', (size_t)(row->end - row->at));
        const char *stop = quote ? quote : row->end;

        for (const char *at = row->at; (at = memchr(at, '\n', (size_t)(stop - at))); at++)
            row->line++;
        if (!quote)
            return csv->last ? FIELD_OPEN : FIELD_CUT;
        row->at = quote + 1;
        if (row->at == row->end && !csv->last)
            return FIELD_CUT; /* the next piece may begin with the second of two quotes */
        if (row->at == row->end || *row->at != '"')
            break;
        kz_buf_put(&csv->scratch, from, (size_t)(quote + 1 - from));
        doubled = true;
        from = ++row->at;
    }
    if (!doubled) {
        add_field(csv, kz_str_n(from, (size_t)(row->at - 1 - from)));
        return finish_field(csv, row);
    }
    kz_buf_put(&csv->scratch, from, (size_t)(row->at - 1 - from));
    add_field(csv, (struct kz_str){NULL, csv->scratch.size - scratch});
    return finish_field(csv, row);
}

static enum outcome plain_field(struct kz_csv *csv, struct row *row)
{
    const char *from = row->at;

    while (row->at < row->end && *row->at != csv->separator && *row->at != '\n' &&
            *row->at != '\r' && *row->at != '"')
        row->at++;
    add_field(csv, kz_str_n(from, (size_t)(row->at - from)));
    return finish_field(csv, row);
}

/* Line ends before a row, and the byte order mark before the first. */
static void skip_empty_lines(struct kz_csv *csv)
{
    static const char mark[] = "\xef\xbb\xbf";
    struct kz_str *rest = &csv->rest;

    if (!csv->begun) {
        if (!csv->last && rest->size < 3 &&
                memcmp(rest->size ? rest->ptr : "", mark, rest->size) == 0)
            return; /* it may be one */
        if (rest->size >= 3 && memcmp(rest->ptr, mark, 3) == 0)
            *rest = kz_str_n(rest->ptr + 3, rest->size - 3);
        csv->begun = true;
    }
    for (;;) {
        size_t used = rest->size && *rest->ptr == '\n'                                 ? 1
                      : rest->size > 1 && rest->ptr[0] == '\r' && rest->ptr[1] == '\n' ? 2
                                                                                       : 0;
        if (used == 0)
            return;
        rest->ptr += used;
        rest->size -= used;
        csv->line++;
    }
}

/* Gives the fields that wait in the scratch buffer their pointers: they lie there in order. */
static void place_fields(struct kz_csv *csv)
{
    struct kz_str *fields = (struct kz_str *)csv->fields.data;
    const char *at = csv->scratch.data;

    for (size_t i = 0; i < csv->fields.size / sizeof(*fields); i++) {
        if (fields[i].ptr || !at)
            continue;
        fields[i].ptr = at;
        at += fields[i].size;
    }
}

enum kz_code kz_csv_next(struct kz_csv *csv, struct kz_csv_row *ret_row, struct kz_err *err)
{
    enum outcome outcome = FIELD_MORE;
    struct row row;

    skip_empty_lines(csv);
    if (csv->rest.size == 0)
        return kz_fail(err, KZ_END, "no more rows");
    row = (struct row){csv->rest.ptr, csv->rest.ptr + csv->rest.size, csv->line};
    kz_buf_clear(&csv->fields);
    kz_buf_clear(&csv->scratch);
    while (outcome == FIELD_MORE) {
        if (row.at < row.end && *row.at == '"') {
            row.at++;
            outcome = quoted_field(csv, &row);
        } else {
            outcome = plain_field(csv, &row);
        }
    }
    if (outcome == FIELD_CUT)
        return kz_fail(err, KZ_END, "no complete row left");
    if (outcome == FIELD_OPEN)
        return kz_fail(err, KZ_INVALID, "line %llu: a quote opened in this row is never closed",
                (unsigned long long)csv->line);
    if (outcome == FIELD_BAD)
        return kz_fail(err, KZ_INVALID, "line %llu: unexpected %s in field %zu",
                (unsigned long long)row.line,
                *row.at == '"'    ? "quote"
                : *row.at == '\r' ? "carriage return"
                                  : "text behind a closing quote",
                csv->fields.size / sizeof(struct kz_str));
    place_fields(csv);
    *ret_row = (struct kz_csv_row){.fields = (const struct kz_str *)csv->fields.data,
            .count = csv->fields.size / sizeof(struct kz_str),
            .line = csv->line};
    csv->rest = kz_str_n(row.at, (size_t)(row.end - row.at));
    csv->line = row.line;
    return KZ_OK;
}

void kz_csv_put(struct kz_buf *buf, struct kz_str field, char separator)
{
    /* What begins like a byte order mark would be skipped at the beginning of a file. */
    bool quote = kz_str_starts(field, "\xef\xbb\xbf");

    for (size_t i = 0; i < field.size && !quote; i++)
        quote = field.ptr[i] == separator || field.ptr[i] == '"' || field.ptr[i] == '\n' ||
                field.ptr[i] == '\r';
    if (!quote) {
        kz_buf_str(buf, field);
        return;
    }
    kz_buf_char(buf, '"');
    for (size_t i = 0; i < field.size; i++) {
        if (field.ptr[i] == '"')
            kz_buf_char(buf, '"');
        kz_buf_char(buf, field.ptr[i]);
    }
    kz_buf_char(buf, '"');
}
