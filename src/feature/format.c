#include "feature/format.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/csv.h"
#include "codec/json_out.h"
#include "codec/utf8.h"

struct cell {
    size_t offset, size; /* in `cells` */
    bool right;
};

struct kz_format {
    enum kz_format_kind kind;
    enum kz_code (*write)(void *arg, struct kz_str bytes, struct kz_err *err);
    void *arg;
    size_t column_count;
    char **names;
    size_t *widths;
    uint64_t row_count;
    bool measured;       /* widths are settled, the header is out */
    struct kz_buf held;  /* of struct cell: rows not printed yet */
    struct kz_buf cells; /* their text */
    struct kz_buf out;
    struct kz_buf scratch;
};

bool kz_format_parse(const char *name, enum kz_format_kind *ret_kind)
{
    static const char *const names[] = {"table", "csv", "json"};

    for (size_t i = 0; i < KZ_ARRAY_COUNT(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret_kind = (enum kz_format_kind)i;
            return true;
        }
    }
    return false;
}

struct kz_format *kz_format_new(enum kz_format_kind kind,
        enum kz_code (*write)(void *arg, struct kz_str bytes, struct kz_err *err), void *arg)
{
    struct kz_format *format = kz_calloc(1, sizeof(*format));

    format->kind = kind;
    format->write = write;
    format->arg = arg;
    return format;
}

void kz_format_free(struct kz_format *format)
{
    if (!format)
        return;
    for (size_t i = 0; i < format->column_count; i++)
        free(format->names[i]);
    free(format->names);
    free(format->widths);
    kz_buf_done(&format->held);
    kz_buf_done(&format->cells);
    kz_buf_done(&format->out);
    kz_buf_done(&format->scratch);
    free(format);
}

/* ---- width
 * ------------------------------------------------------------------------------------------ */

struct interval {
    uint32_t first, last;
};

/* Unicode 15, general categories Mn and Me, shortened to what a terminal meets. */
static const struct interval zero_width[] = {{0x0300, 0x036f}, {0x0483, 0x0489}, {0x0591, 0x05bd},
        {0x0610, 0x061a}, {0x064b, 0x065f}, {0x06d6, 0x06dc}, {0x0900, 0x0902}, {0x093c, 0x093c},
        {0x0941, 0x0948}, {0x0e31, 0x0e31}, {0x0e34, 0x0e3a}, {0x0e47, 0x0e4e}, {0x1ab0, 0x1aff},
        {0x1dc0, 0x1dff}, {0x200b, 0x200f}, {0x202a, 0x202e}, {0x2060, 0x2064}, {0x20d0, 0x20f0},
        {0x302a, 0x302d}, {0x3099, 0x309a}, {0xfe00, 0xfe0f}, {0xfe20, 0xfe2f}, {0xfeff, 0xfeff},
        {0x1f3fb, 0x1f3ff}, {0xe0100, 0xe01ef}};

/* UAX #11, W and F. */
static const struct interval wide[] = {{0x1100, 0x115f}, {0x231a, 0x231b}, {0x2329, 0x232a},
        {0x23e9, 0x23ec}, {0x25fd, 0x25fe}, {0x2614, 0x2615}, {0x2648, 0x2653}, {0x26a1, 0x26a1},
        {0x26bd, 0x26be}, {0x26d4, 0x26d4}, {0x2705, 0x2705}, {0x270a, 0x270b}, {0x2728, 0x2728},
        {0x274c, 0x274c}, {0x2753, 0x2755}, {0x2795, 0x2797}, {0x2b1b, 0x2b1c}, {0x2b50, 0x2b50},
        {0x2e80, 0x303e}, {0x3041, 0x33ff}, {0x3400, 0x4dbf}, {0x4e00, 0x9fff}, {0xa000, 0xa4cf},
        {0xa960, 0xa97f}, {0xac00, 0xd7a3}, {0xf900, 0xfaff}, {0xfe10, 0xfe19}, {0xfe30, 0xfe6f},
        {0xff00, 0xff60}, {0xffe0, 0xffe6}, {0x1b000, 0x1b2ff}, {0x1f004, 0x1f004},
        {0x1f0cf, 0x1f0cf}, {0x1f18e, 0x1f18e}, {0x1f191, 0x1f19a}, {0x1f200, 0x1f320},
        {0x1f32d, 0x1f335}, {0x1f337, 0x1f37c}, {0x1f37e, 0x1f393}, {0x1f3a0, 0x1f3ca},
        {0x1f3cf, 0x1f3d3}, {0x1f3e0, 0x1f3f0}, {0x1f3f4, 0x1f3f4}, {0x1f3f8, 0x1f43e},
        {0x1f440, 0x1f440}, {0x1f442, 0x1f4fc}, {0x1f4ff, 0x1f53d}, {0x1f54b, 0x1f54e},
        {0x1f550, 0x1f567}, {0x1f57a, 0x1f57a}, {0x1f595, 0x1f596}, {0x1f5a4, 0x1f5a4},
        {0x1f5fb, 0x1f64f}, {0x1f680, 0x1f6c5}, {0x1f6cc, 0x1f6cc}, {0x1f6d0, 0x1f6d2},
        {0x1f6d5, 0x1f6d7}, {0x1f6dc, 0x1f6df}, {0x1f6eb, 0x1f6ec}, {0x1f6f4, 0x1f6fc},
        {0x1f7e0, 0x1f7eb}, {0x1f90c, 0x1f93a}, {0x1f93c, 0x1f945}, {0x1f947, 0x1f9ff},
        {0x1fa70, 0x1faff}, {0x20000, 0x2fffd}, {0x30000, 0x3fffd}};

static bool within(uint32_t c, const struct interval *intervals, size_t count)
{
    size_t low = 0, high = count;

    while (low < high) {
        size_t mid = (low + high) / 2;

        if (c > intervals[mid].last)
            low = mid + 1;
        else if (c < intervals[mid].first)
            high = mid;
        else
            return true;
    }
    return false;
}

static uint32_t code_point(const unsigned char *p, size_t size)
{
    switch (size) {
    case 2:
        return (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
    case 3:
        return (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    case 4:
        return (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
    }
    return p[0];
}

static bool is_control(unsigned char c)
{
    return c < 0x20 || c == 0x7f;
}

size_t kz_text_width(struct kz_str text)
{
    const char *p = text.ptr, *end = text.ptr + text.size;
    size_t width = 0;

    while (p < end) {
        size_t size = kz_utf8_char(p, end);
        uint32_t c;

        if (!size) { /* printed as U+FFFD */
            width++;
            p++;
            continue;
        }
        c = code_point((const unsigned char *)p, size);
        if (size == 1 && is_control((unsigned char)*p))
            width += strchr("\n\t\r", *p) && *p ? 2 : 4;
        else if (!within(c, zero_width, KZ_ARRAY_COUNT(zero_width)))
            width += within(c, wide, KZ_ARRAY_COUNT(wide)) ? 2 : 1;
        p += size;
    }
    return width;
}

/* ---- values
 * ------------------------------------------------------------------------------------------ */

static void put_real(struct kz_buf *out, double v)
{
    if (isfinite(v))
        kz_json_double(out, v);
    else
        kz_buf_cstr(out, isnan(v) ? "NaN" : v > 0 ? "Infinity" : "-Infinity");
}

/* Text that cannot steer a terminal: control characters and broken UTF-8 are spelt out. */
static void put_printable(struct kz_format *format, struct kz_str text, struct kz_buf *out)
{
    kz_buf_clear(&format->scratch);
    kz_utf8_clean(text, &format->scratch);
    for (size_t i = 0; i < format->scratch.size; i++) {
        unsigned char c = (unsigned char)format->scratch.data[i];

        if (!is_control(c))
            kz_buf_char(out, (char)c);
        else if (c == '\n' || c == '\t' || c == '\r')
            kz_buf_printf(out, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
        else
            kz_buf_printf(out, "\\x%02x", c);
    }
}

static void put_plain(struct kz_format *format, struct kz_value value, struct kz_buf *out)
{
    switch (value.type) {
    case KZ_TYPE_INT:
    case KZ_TYPE_BOOL:
        kz_buf_printf(out, "%lld", (long long)value.integer);
        break;
    case KZ_TYPE_FLOAT:
        put_real(out, value.real);
        break;
    case KZ_TYPE_TEXT:
        put_printable(format, value.text, out);
        break;
    case KZ_TYPE_NULL:
        kz_buf_cstr(out, "NULL");
        break;
    }
}

static enum kz_code flush(struct kz_format *format, struct kz_err *err)
{
    enum kz_code code = KZ_OK;

    if (format->out.size)
        code = format->write(format->arg, kz_buf_view(&format->out), err);
    kz_buf_clear(&format->out);
    return code;
}

/* ---- table
 * ------------------------------------------------------------------------------------------- */

static void put_blanks(struct kz_buf *out, size_t count)
{
    memset(kz_buf_extend(out, count), ' ', count);
}

static void put_cell(struct kz_format *format, size_t column, struct kz_str text, bool right)
{
    size_t width = kz_text_width(text), blanks = 0;
    bool last = column + 1 == format->column_count;

    if (width < format->widths[column])
        blanks = format->widths[column] - width;
    if (column)
        kz_buf_cstr(&format->out, "  ");
    if (right)
        put_blanks(&format->out, blanks);
    kz_buf_str(&format->out, text);
    if (!right && !last)
        put_blanks(&format->out, blanks);
    if (last)
        kz_buf_char(&format->out, '\n');
}

static void hold_row(struct kz_format *format, const struct kz_value *values)
{
    for (size_t i = 0; i < format->column_count; i++) {
        struct cell *cell = kz_buf_extend(&format->held, sizeof(*cell));

        cell->offset = format->cells.size;
        cell->right = values[i].type == KZ_TYPE_INT || values[i].type == KZ_TYPE_FLOAT;
        put_plain(format, values[i], &format->cells);
        cell->size = format->cells.size - cell->offset;
    }
}

static void print_held(struct kz_format *format)
{
    const struct cell *cells = (const struct cell *)format->held.data;
    size_t count = format->held.size / sizeof(*cells);

    for (size_t i = 0; i < count; i++)
        put_cell(format, i % format->column_count,
                kz_str_n(format->cells.data + cells[i].offset, cells[i].size), cells[i].right);
    kz_buf_clear(&format->held);
    kz_buf_clear(&format->cells);
}

static void print_header(struct kz_format *format)
{
    const struct cell *cells = (const struct cell *)format->held.data;
    size_t count = format->held.size / sizeof(*cells);

    for (size_t i = 0; i < format->column_count; i++)
        format->widths[i] = kz_text_width(kz_str(format->names[i]));
    for (size_t i = 0; i < count; i++) {
        size_t *width = &format->widths[i % format->column_count];
        size_t want = kz_text_width(kz_str_n(format->cells.data + cells[i].offset, cells[i].size));

        *width = KZ_MAX(*width, KZ_MIN(want, (size_t)KZ_FORMAT_WIDTH_MAX));
    }
    for (size_t i = 0; i < format->column_count; i++)
        put_cell(format, i, kz_str(format->names[i]), count && cells[i].right);
    for (size_t i = 0; i < format->column_count; i++) {
        if (i)
            kz_buf_cstr(&format->out, "  ");
        memset(kz_buf_extend(&format->out, format->widths[i]), '-', format->widths[i]);
    }
    kz_buf_char(&format->out, '\n');
    format->measured = true;
}

/* ---- all
 * ---------------------------------------------------------------------------------------------- */

enum kz_code kz_format_columns(
        void *arg, const char *const *names, size_t count, struct kz_err *err)
{
    struct kz_format *format = arg;

    format->column_count = count;
    format->names = kz_calloc(count, sizeof(*format->names));
    format->widths = kz_calloc(count, sizeof(*format->widths));
    for (size_t i = 0; i < count; i++) {
        kz_buf_clear(&format->cells);
        put_printable(format, kz_str(names[i]), &format->cells);
        format->names[i] = kz_strndup(
                format->cells.data ? format->cells.data : "", format->cells.size);
        if (format->kind == KZ_FORMAT_CSV) {
            if (i)
                kz_buf_char(&format->out, ',');
            kz_csv_put(&format->out, kz_str(names[i]), ',');
        }
    }
    kz_buf_clear(&format->cells);
    if (format->kind == KZ_FORMAT_CSV)
        kz_buf_char(&format->out, '\n');
    if (format->kind == KZ_FORMAT_JSON)
        kz_buf_char(&format->out, '[');
    return flush(format, err);
}

static void csv_row(struct kz_format *format, const struct kz_value *values)
{
    for (size_t i = 0; i < format->column_count; i++) {
        if (i)
            kz_buf_char(&format->out, ',');
        if (values[i].type == KZ_TYPE_TEXT)
            kz_csv_put(&format->out, values[i].text, ',');
        else if (values[i].type != KZ_TYPE_NULL)
            put_plain(format, values[i], &format->out);
    }
    kz_buf_char(&format->out, '\n');
}

static void json_row(struct kz_format *format, const struct kz_value *values)
{
    struct kz_json_out json;

    kz_buf_cstr(&format->out, format->row_count ? ",\n" : "\n");
    json = kz_json_out(&format->out);
    kz_json_out_object(&json);
    for (size_t i = 0; i < format->column_count; i++) {
        kz_json_out_key(&json, format->names[i]);
        switch (values[i].type) {
        case KZ_TYPE_INT:
        case KZ_TYPE_BOOL:
            kz_json_out_i64(&json, values[i].integer);
            break;
        case KZ_TYPE_FLOAT:
            kz_json_out_f64(&json, values[i].real);
            break;
        case KZ_TYPE_TEXT:
            kz_json_out_str(&json, values[i].text);
            break;
        case KZ_TYPE_NULL:
            kz_json_out_null(&json);
            break;
        }
    }
    kz_json_out_object_end(&json);
}

enum kz_code kz_format_row(
        void *arg, const struct kz_value *values, size_t count, struct kz_err *err)
{
    struct kz_format *format = arg;

    KZ_BUG_ON(count != format->column_count);
    switch (format->kind) {
    case KZ_FORMAT_CSV:
        csv_row(format, values);
        break;
    case KZ_FORMAT_JSON:
        json_row(format, values);
        break;
    case KZ_FORMAT_TABLE:
        hold_row(format, values);
        if (!format->measured && format->row_count + 1 == KZ_FORMAT_MEASURED)
            print_header(format);
        if (format->measured)
            print_held(format);
        break;
    }
    format->row_count++;
    return format->out.size > (1 << 16) || format->measured ? flush(format, err) : KZ_OK;
}

enum kz_code kz_format_end(struct kz_format *format, struct kz_err *err)
{
    if (format->kind == KZ_FORMAT_JSON)
        kz_buf_cstr(&format->out, format->row_count ? "\n]\n" : "]\n");
    if (format->kind == KZ_FORMAT_TABLE) {
        if (!format->measured)
            print_header(format);
        print_held(format);
        kz_buf_printf(&format->out, "(%llu row%s)\n", (unsigned long long)format->row_count,
                format->row_count == 1 ? "" : "s");
    }
    return flush(format, err);
}
