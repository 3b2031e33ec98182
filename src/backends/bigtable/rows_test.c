#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>

#include "backends/bigtable/rows.h"

/* What a chunk leaves out is left out in the table below, too. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

enum { CHUNKS_MAX = 8, RESET = 1, COMMIT = 2, NEXT = 4 /* in another response */ };

struct piece {
    const char *key, *family, *qualifier; /* NULL: left out */
    int64_t timestamp;
    const char *value;
    int32_t size;
    int what;
    const char *label;
};

/* What comes of it: a line a row, cells as family:qualifier@timestamp=value; then the error,
 * without its first words. */
struct example {
    const char *name;
    struct piece pieces[CHUNKS_MAX];
    const char *expected;
};

#define BROKEN "! bigtable's answer to ReadRows cannot be read: "

static const struct example examples[] = {
        {"nothing", {{0}}, ""},
        {"one cell", {{"r", "f", "q", 7, "v", 0, COMMIT}}, "r f:q@7=v\n"},
        {"a cell without a value", {{"r", "f", "q", 7, NULL, 0, COMMIT}}, "r f:q@7=\n"},
        {"an empty qualifier", {{"r", "f", "", 7, "v", 0, COMMIT}}, "r f:@7=v\n"},
        {"an empty family", {{"r", "", "q", 7, "v", 0, COMMIT}}, "r :q@7=v\n"},
        {"labels are let by", {{"r", "f", "q", 7, "v", 0, COMMIT, "label"}}, "r f:q@7=v\n"},
        {"versions of a column",
                {{"r", "f", "q", 9, "new"}, {NULL, NULL, NULL, 8, "old", 0, COMMIT}},
                "r f:q@9=new f:q@8=old\n"},
        {"a commit alone is a cell of the same column", {{"r", "f", "q", 9, "v"}, {.what = COMMIT}},
                "r f:q@9=v f:q@0=\n"},
        {"a column after another", {{"r", "f", "q", 9, "a"}, {NULL, NULL, "p", 8, "b", 0, COMMIT}},
                "r f:q@9=a f:p@8=b\n"},
        {"a family after another",
                {{"r", "f", "q", 9, "a"}, {NULL, "g", "q", 8, "b"},
                        {NULL, NULL, NULL, 7, "c", 0, COMMIT}},
                "r f:q@9=a g:q@8=b g:q@7=c\n"},
        {"the row's key again", {{"r", "f", "q", 9, "a"}, {"r", "f", "p", 8, "b", 0, COMMIT}},
                "r f:q@9=a f:p@8=b\n"},
        {"two rows", {{"r", "f", "q", 9, "a", 0, COMMIT}, {"s", "f", "q", 9, "b", 0, COMMIT}},
                "r f:q@9=a\ns f:q@9=b\n"},
        {"a row over two responses",
                {{"r", "f", "q", 9, "a"}, {NULL, NULL, NULL, 8, "b", 0, COMMIT | NEXT}},
                "r f:q@9=a f:q@8=b\n"},
        {"a split value",
                {{"r", "f", "q", 9, "ab", 6}, {.value = "cd", .size = 6},
                        {.value = "ef", .what = COMMIT}},
                "r f:q@9=abcdef\n"},
        {"a split value over three responses",
                {{"r", "f", "q", 9, "ab", 6}, {.value = "cd", .size = 6, .what = NEXT},
                        {.value = "ef", .what = COMMIT | NEXT}},
                "r f:q@9=abcdef\n"},
        {"split values, one after the other",
                {{"r", "f", "q", 9, "a", 2}, {.value = "b"}, {NULL, NULL, "p", 8, "c", 2},
                        {.value = "d"}, {NULL, "g", "q", 7, "e", 2}, {.value = "f"},
                        {NULL, NULL, NULL, 6, "g", 0, COMMIT}},
                "r f:q@9=ab f:p@8=cd g:q@7=ef g:q@6=g\n"},
        {"a split value whose last part is empty", {{"r", "f", "q", 9, "ab", 2}, {.what = COMMIT}},
                "r f:q@9=ab\n"},
        {"a reset drops what came of the row",
                {{"r", "f", "q", 9, "a"}, {NULL, NULL, "p", 8, "b"}, {.what = RESET},
                        {"r", "f", "q", 9, "c", 0, COMMIT}},
                "r f:q@9=c\n"},
        {"a reset within a split value",
                {{"r", "f", "q", 9, "ab", 6}, {.what = RESET | NEXT},
                        {"r", "f", "q", 9, "x", 0, COMMIT}},
                "r f:q@9=x\n"},
        {"another row after a reset",
                {{"r", "f", "q", 9, "a"}, {.what = RESET}, {"s", "f", "q", 9, "b", 0, COMMIT}},
                "s f:q@9=b\n"},
        {"an earlier row after a reset",
                {{"r", "f", "q", 9, "a"}, {.what = RESET}, {"q", "f", "q", 9, "b", 0, COMMIT}},
                "q f:q@9=b\n"},
        {"a reset, and no more", {{"r", "f", "q", 9, "a"}, {.what = RESET}}, ""},

        {"no key", {{NULL, "f", "q", 7, "v", 0, COMMIT}}, BROKEN "a row begins without its key"},
        {"an empty key", {{"", "f", "q", 7, "v", 0, COMMIT}},
                BROKEN "a row begins without its key"},
        {"a commit before anything", {{.what = COMMIT}}, BROKEN "a row begins without its key"},
        {"no family", {{"r", NULL, "q", 7, "v", 0, COMMIT}},
                BROKEN "a row begins without family and qualifier"},
        {"no qualifier", {{"r", "f", NULL, 7, "v", 0, COMMIT}},
                BROKEN "a row begins without family and qualifier"},
        {"a new family without a qualifier",
                {{"r", "f", "q", 9, "a"}, {NULL, "g", NULL, 8, "b", 0, COMMIT}},
                BROKEN "a family begins without a qualifier"},
        {"no commit", {{"r", "f", "q", 9, "a"}}, BROKEN "it ends within a row"},
        {"no commit of the last row", {{"r", "f", "q", 9, "a", 0, COMMIT}, {"s", "f", "q", 9, "b"}},
                "r f:q@9=a\n" BROKEN "it ends within a row"},
        {"the end within a split value", {{"r", "f", "q", 9, "a", 2}},
                BROKEN "it ends within a row"},
        {"no commit between rows", {{"r", "f", "q", 9, "a"}, {"s", "f", "q", 9, "b", 0, COMMIT}},
                BROKEN "a row begins before the one before it is committed"},
        {"a row twice", {{"r", "f", "q", 9, "a", 0, COMMIT}, {"r", "f", "q", 9, "b", 0, COMMIT}},
                "r f:q@9=a\n" BROKEN "rows are not in order of their keys"},
        {"rows backwards",
                {{"rr", "f", "q", 9, "a", 0, COMMIT}, {"r", "f", "q", 9, "b", 0, COMMIT}},
                "rr f:q@9=a\n" BROKEN "rows are not in order of their keys"},
        {"a reset of nothing", {{.what = RESET}}, BROKEN "a row is reset that was not begun"},
        {"a reset after a commit", {{"r", "f", "q", 9, "a", 0, COMMIT}, {.what = RESET}},
                "r f:q@9=a\n" BROKEN "a row is reset that was not begun"},
        {"a reset with a value", {{"r", "f", "q", 9, "a"}, {.value = "b", .what = RESET}},
                BROKEN "a chunk that resets a row brings a cell"},
        {"a reset with a key", {{"r", "f", "q", 9, "a"}, {.key = "r", .what = RESET}},
                BROKEN "a chunk that resets a row brings a cell"},
        {"a commit within a split value", {{"r", "f", "q", 9, "a", 2, COMMIT}},
                BROKEN "a row is committed within a split value"},
        {"a key within a split value",
                {{"r", "f", "q", 9, "a", 2}, {.key = "r", .value = "b", .what = COMMIT}},
                BROKEN "a part of a split value brings more than its value"},
        {"a qualifier within a split value",
                {{"r", "f", "q", 9, "a", 2}, {.qualifier = "q", .value = "b", .what = COMMIT}},
                BROKEN "a part of a split value brings more than its value"},
        {"a timestamp within a split value",
                {{"r", "f", "q", 9, "a", 2}, {.timestamp = 9, .value = "b", .what = COMMIT}},
                BROKEN "a part of a split value brings more than its value"},
        {"a split value too short", {{"r", "f", "q", 9, "a", 3}, {.value = "b", .what = COMMIT}},
                BROKEN "a split value has not the size it announced"},
        {"a split value too long", {{"r", "f", "q", 9, "a", 2}, {.value = "bc", .what = COMMIT}},
                BROKEN "a split value has not the size it announced"},
        {"a part that is too long already", {{"r", "f", "q", 9, "abc", 2}},
                BROKEN "a split value is longer than it announced"},
        {"parts that announce different sizes",
                {{"r", "f", "q", 9, "a", 3}, {.value = "b", .size = 4}},
                BROKEN "parts of a split value announce different sizes"},
        {"a negative size", {{"r", "f", "q", 9, "a", -1}},
                BROKEN "the size of a value is negative"},
};

static enum kz_code show(void *arg, const struct kz_bt_row *row, struct kz_err *err)
{
    struct kz_buf *out = arg;

    (void)err;
    kz_buf_str(out, row->key);
    for (size_t i = 0; i < row->cell_count; i++) {
        const struct kz_bt_cell *cell = &row->cells[i];

        kz_buf_printf(out, " " KZ_STR_FMT ":" KZ_STR_FMT "@%" PRId64 "=" KZ_STR_FMT,
                KZ_STR_ARG(cell->family), KZ_STR_ARG(cell->qualifier), cell->timestamp_micros,
                KZ_STR_ARG(cell->value));
    }
    kz_buf_char(out, '\n');
    return KZ_OK;
}

static ProtobufCBinaryData binary(const char *s)
{
    return (ProtobufCBinaryData){s ? strlen(s) : 0, (uint8_t *)(uintptr_t)s};
}

struct message {
    Google__Bigtable__V2__ReadRowsResponse__CellChunk chunk;
    Google__Bigtable__V2__ReadRowsResponse__Name family;
    Google__Bigtable__V2__ReadRowsResponse__Bytes qualifier;
    char *labels[1];
};

static void fill(struct message *m, const struct piece *piece)
{
    google__bigtable__v2__read_rows_response__cell_chunk__init(&m->chunk);
    google__bigtable__v2__read_rows_response__name__init(&m->family);
    google__bigtable__v2__read_rows_response__bytes__init(&m->qualifier);
    m->chunk.row_key = binary(piece->key);
    m->family.value = (char *)(uintptr_t)piece->family;
    m->chunk.family_name = piece->family ? &m->family : NULL;
    m->qualifier.value = binary(piece->qualifier);
    m->chunk.qualifier = piece->qualifier ? &m->qualifier : NULL;
    m->chunk.timestamp_micros = piece->timestamp;
    m->chunk.value = binary(piece->value);
    m->chunk.value_size = piece->size;
    m->labels[0] = (char *)(uintptr_t)piece->label;
    m->chunk.labels = m->labels;
    m->chunk.n_labels = piece->label != NULL;
    if (piece->what & RESET) {
        m->chunk.row_status_case =
                GOOGLE__BIGTABLE__V2__READ_ROWS_RESPONSE__CELL_CHUNK__ROW_STATUS_RESET_ROW;
        m->chunk.reset_row = true;
    } else if (piece->what & COMMIT) {
        m->chunk.row_status_case =
                GOOGLE__BIGTABLE__V2__READ_ROWS_RESPONSE__CELL_CHUNK__ROW_STATUS_COMMIT_ROW;
        m->chunk.commit_row = true;
    }
}

static bool is_end(const struct piece *piece)
{
    static const struct piece none;

    return memcmp(piece, &none, sizeof(none)) == 0;
}

static enum kz_code push(struct kz_bt_rows *rows, const struct piece *pieces, size_t count,
        const char *scanned, struct kz_buf *out, struct kz_err *err)
{
    Google__Bigtable__V2__ReadRowsResponse response =
            GOOGLE__BIGTABLE__V2__READ_ROWS_RESPONSE__INIT;
    Google__Bigtable__V2__ReadRowsResponse__CellChunk *chunks[CHUNKS_MAX];
    struct message messages[CHUNKS_MAX];

    for (size_t i = 0; i < count; i++) {
        fill(&messages[i], &pieces[i]);
        chunks[i] = &messages[i].chunk;
    }
    response.chunks = chunks;
    response.n_chunks = count;
    response.last_scanned_row_key = binary(scanned);
    return kz_bt_rows_push(rows, &response, show, out, err);
}

static enum kz_code run(struct kz_bt_rows *rows, const struct example *example, struct kz_buf *out,
        struct kz_err *err)
{
    size_t from = 0, at = 0;

    while (at < CHUNKS_MAX && !is_end(&example->pieces[at])) {
        at++;
        if (at == CHUNKS_MAX || is_end(&example->pieces[at]) || example->pieces[at].what & NEXT) {
            KZ_TRY(push(rows, &example->pieces[from], at - from, NULL, out, err));
            from = at;
        }
    }
    return kz_bt_rows_end(rows, err);
}

static void chunks_become_rows_or_an_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(examples); i++) {
        KZ_AUTO(kz_bt_rows_freep) struct kz_bt_rows *rows = kz_bt_rows_new();
        struct kz_buf out = {0};
        struct kz_err err = {0};
        enum kz_code rc = run(rows, &examples[i], &out, &err);

        if (rc != KZ_OK)
            kz_buf_printf(&out, "! %s", err.message);
        kz_buf_char(&out, '\0');
        if (strcmp(out.data, examples[i].expected) != 0)
            print_error("%s:\n", examples[i].name);
        assert_string_equal(out.data, examples[i].expected);
        assert_int_equal(rc, strchr(examples[i].expected, '!') ? KZ_CORRUPT : KZ_OK);
        kz_buf_done(&out);
    }
}

static void a_lost_stream_goes_on_behind_what_was_seen(void **state)
{
    static const struct piece first[] = {
            {"r", "f", "q", 9, "a", 0, COMMIT}, {"s", "f", "q", 9, "lost"}};
    static const struct piece again[] = {{"s", "f", "q", 9, "b", 0, COMMIT}};
    KZ_AUTO(kz_bt_rows_freep) struct kz_bt_rows *rows = kz_bt_rows_new();
    struct kz_buf out = {0};
    struct kz_err err;

    (void)state;
    assert_int_equal(kz_bt_rows_last(rows).size, 0);
    assert_int_equal(push(rows, first, 2, NULL, &out, &err), KZ_OK);
    assert_true(kz_str_is(kz_bt_rows_last(rows), "r"));
    kz_bt_rows_restart(rows);
    assert_int_equal(push(rows, again, 1, NULL, &out, &err), KZ_OK);
    assert_int_equal(kz_bt_rows_end(rows, &err), KZ_OK);
    assert_true(kz_str_is(kz_buf_view(&out), "r f:q@9=a\ns f:q@9=b\n"));
    kz_buf_done(&out);
}

static void the_key_scanned_last_is_remembered_and_checked(void **state)
{
    static const struct piece m[] = {{"m", "f", "q", 9, "a", 0, COMMIT}};
    static const struct piece p[] = {{"p", "f", "q", 9, "a"}};
    KZ_AUTO(kz_bt_rows_freep) struct kz_bt_rows *rows = kz_bt_rows_new();
    struct kz_buf out = {0};
    struct kz_err err;

    (void)state;
    assert_int_equal(push(rows, NULL, 0, "k", &out, &err), KZ_OK);
    assert_true(kz_str_is(kz_bt_rows_last(rows), "k"));
    assert_int_equal(push(rows, m, 1, "n", &out, &err), KZ_OK);
    assert_true(kz_str_is(kz_bt_rows_last(rows), "n"));
    assert_int_equal(push(rows, m, 1, NULL, &out, &err), KZ_CORRUPT); /* behind it already */
    assert_int_equal(push(rows, NULL, 0, "l", &out, &err), KZ_CORRUPT);
    assert_int_equal(push(rows, p, 1, "p", &out, &err), KZ_CORRUPT); /* within a row */
    kz_buf_done(&out);
}

static enum kz_code refuse(void *arg, const struct kz_bt_row *row, struct kz_err *err)
{
    (void)arg, (void)row, (void)err;
    return KZ_END;
}

static void the_callback_can_end_it(void **state)
{
    static const struct piece piece = {"m", "f", "q", 9, "a", 0, COMMIT};
    KZ_AUTO(kz_bt_rows_freep) struct kz_bt_rows *rows = kz_bt_rows_new();
    Google__Bigtable__V2__ReadRowsResponse response =
            GOOGLE__BIGTABLE__V2__READ_ROWS_RESPONSE__INIT;
    Google__Bigtable__V2__ReadRowsResponse__CellChunk *chunk;
    struct message message;
    struct kz_err err;

    (void)state;
    fill(&message, &piece);
    chunk = &message.chunk;
    response.chunks = &chunk;
    response.n_chunks = 1;
    assert_int_equal(kz_bt_rows_push(rows, &response, refuse, NULL, &err), KZ_END);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(chunks_become_rows_or_an_error),
            cmocka_unit_test(a_lost_stream_goes_on_behind_what_was_seen),
            cmocka_unit_test(the_key_scanned_last_is_remembered_and_checked),
            cmocka_unit_test(the_callback_can_end_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
