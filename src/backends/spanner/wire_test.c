/* Values written and read, rows out of the messages of a stream. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "backends/spanner/spanner_int.h"

/* ---- a server's side ------------------------------------------------------------------------- */

/* The values of lists, each a string or null (NULL), as the server would send them. */
static ProtobufCBinaryData value_of(const char *text)
{
    struct kz_buf buf = {0};

    if (text) {
        kz_buf_u8(&buf, 0x1a);
        kz_buf_u8(&buf, (uint8_t)strlen(text));
        kz_buf_cstr(&buf, text);
    } else {
        kz_buf_put(&buf, "\x08\0", 2);
    }
    return (ProtobufCBinaryData){buf.size, (uint8_t *)buf.data};
}

struct seen {
    struct kz_buf text;
    size_t column_count;
};

static enum kz_code see(void *arg, const struct kz_sp_cell *cells, struct kz_err *err)
{
    struct seen *seen = arg;

    (void)err;
    for (size_t i = 0; i < seen->column_count; i++) {
        kz_buf_str(&seen->text, cells[i].null ? KZ_STR("-") : cells[i].text);
        kz_buf_char(&seen->text, i + 1 < seen->column_count ? ',' : ' ');
    }
    return KZ_OK;
}

/* Pushes one message; `values` ends with "end". */
static enum kz_code push(struct kz_sp_rows *rows, struct seen *seen, const char *const *values,
        bool chunked, const char *token, struct kz_err *err)
{
    KZ_SP(PartialResultSet) message = GOOGLE__SPANNER__V1__PARTIAL_RESULT_SET__INIT;
    ProtobufCBinaryData data[16];
    enum kz_code rc;
    size_t count = 0;

    for (; !values[count] || strcmp(values[count], "end") != 0; count++)
        data[count] = value_of(values[count]);
    message.values = data;
    message.n_values = count;
    message.chunked_value = chunked;
    message.resume_token = kz_sp_binary(kz_str(token));
    rc = kz_sp_rows_push(rows, &message, see, seen, err);
    for (size_t i = 0; i < count; i++)
        free(data[i].data);
    return rc;
}
#define PUSH(chunked, token, ...)                                                                  \
    push(rows, &seen, (const char *const[]){__VA_ARGS__, "end"}, chunked, token, &err)

static void assert_seen(struct seen *seen, const char *expected)
{
    kz_buf_char(&seen->text, '\0');
    assert_string_equal(seen->text.data, expected);
    kz_buf_clear(&seen->text);
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void rows_across_messages(void **state)
{
    struct kz_sp_rows *rows = kz_sp_rows_new(3);
    struct seen seen = {.column_count = 3};
    struct kz_err err = {0};

    (void)state;
    assert_int_equal(PUSH(false, "", "1", "a", NULL, "2"), KZ_OK);
    assert_seen(&seen, "1,a,- ");
    assert_int_equal(kz_sp_rows_end(rows, &err), KZ_CORRUPT);
    assert_int_equal(PUSH(true, "", NULL, "c"), KZ_OK); /* the last value goes on */
    assert_int_equal(PUSH(true, "", "d"), KZ_OK);
    assert_seen(&seen, "");
    assert_int_equal(PUSH(true, "", "e", "3", "x"), KZ_OK);
    assert_seen(&seen, "2,-,cde ");
    assert_int_equal(PUSH(false, "", "y", ""), KZ_OK);
    assert_seen(&seen, "3,xy, ");
    assert_int_equal(kz_sp_rows_end(rows, &err), KZ_OK);
    assert_int_equal(kz_sp_rows_count(rows), 3);
    assert_int_equal(PUSH(true, "", NULL), KZ_OK); /* a null has no parts */
    assert_int_equal(PUSH(false, "", "z"), KZ_CORRUPT);
    kz_sp_rows_free(rows);
    kz_buf_done(&seen.text);
}

/* Behind the token "B" come 3 and 4 again; they are cut in another way, and shown once. */
static void a_lost_stream_goes_on_behind_its_token(void **state)
{
    struct kz_sp_rows *rows = kz_sp_rows_new(2);
    struct seen seen = {.column_count = 2};
    struct kz_err err = {0};
    bool again;

    (void)state;
    assert_int_equal(PUSH(false, "A", "1", "a"), KZ_OK);
    assert_int_equal(PUSH(true, "B", "2", "b", "3", "c"), KZ_OK);
    assert_int_equal(PUSH(false, "", "c", "4", "d", "5"), KZ_OK);
    assert_seen(&seen, "1,a 2,b 3,cc 4,d ");
    for (int i = 0; i < 2; i++) { /* and lost again before it got further */
        kz_sp_rows_resume(rows, &again);
        assert_false(again);
        assert_int_equal(kz_sp_rows_token(rows).ptr[0], 'B');
        assert_int_equal(PUSH(false, "", "c", "4"), KZ_OK);
        assert_seen(&seen, "");
    }
    assert_int_equal(PUSH(false, "C", "d", "5", "e"), KZ_OK);
    assert_seen(&seen, "5,e ");
    kz_sp_rows_resume(rows, &again);
    assert_false(again);
    assert_int_equal(PUSH(false, "", "6", "f"), KZ_OK);
    assert_seen(&seen, "6,f ");
    assert_int_equal(kz_sp_rows_end(rows, &err), KZ_OK);
    kz_sp_rows_free(rows);
    kz_buf_done(&seen.text);
}

static void without_a_token_all_comes_again(void **state)
{
    struct kz_sp_rows *rows = kz_sp_rows_new(1);
    struct seen seen = {.column_count = 1};
    struct kz_err err = {0};
    bool again;

    (void)state;
    kz_sp_rows_resume(rows, &again);
    assert_false(again); /* nothing was shown */
    assert_int_equal(PUSH(false, "", "1"), KZ_OK);
    kz_sp_rows_resume(rows, &again);
    assert_true(again);
    assert_int_equal(PUSH(false, "", "1"), KZ_OK);
    assert_seen(&seen, "1 1 ");
    kz_sp_rows_free(rows);
    kz_buf_done(&seen.text);
}

static void numbers_are_checked(void **state)
{
    static const struct {
        const char *text;
        enum kz_code rc;
        int64_t number;
    } cases[] = {
            {"0", KZ_OK, 0},
            {"-1", KZ_OK, -1},
            {"9223372036854775807", KZ_OK, INT64_MAX},
            {"-9223372036854775808", KZ_OK, INT64_MIN},
            {"9223372036854775808", KZ_CORRUPT, 0},
            {"-9223372036854775809", KZ_CORRUPT, 0},
            {"99999999999999999999", KZ_CORRUPT, 0},
            {"", KZ_CORRUPT, 0},
            {"-", KZ_CORRUPT, 0},
            {"1.5", KZ_CORRUPT, 0},
            {" 1", KZ_CORRUPT, 0},
    };

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++) {
        const struct kz_sp_cell cell = {kz_str(cases[i].text), false};
        int64_t number = 0;

        assert_int_equal(kz_sp_get_int(&cell, &number, NULL), cases[i].rc);
        assert_true(number == cases[i].number);
    }
}

/* What is written is a ListValue: a ResultSet of it gives the values back. */
static void what_is_written_is_read(void **state)
{
    static const char bytes[] = "\0\x01\xfe\xff 0123456789";
    KZ_SP(ResultSet) answer = GOOGLE__SPANNER__V1__RESULT_SET__INIT;
    struct seen seen = {.column_count = 6};
    struct kz_sp_lists lists = {0};
    struct kz_err err = {0};
    struct kz_buf out = {0}, expected = {0};
    char *text = kz_malloc(70000);

    (void)state;
    for (size_t seam = 0; seam <= 14; seam++) { /* BYTES of two pieces, wherever they meet */
        struct kz_sp_rows *rows = kz_sp_rows_new(6);

        kz_sp_lists_done(&lists);
        memset(text, 'x', 70000);
        kz_sp_int(&lists, INT64_MIN);
        kz_sp_bytes2(&lists, kz_str_n(bytes, seam), kz_str_n(bytes + seam, 14 - seam));
        kz_sp_null(&lists);
        kz_sp_time(&lists, 1795500000007);
        kz_sp_u64(&lists, UINT64_MAX);
        kz_sp_text(&lists, kz_str_n(text, seam * 5000));
        kz_sp_end(&lists);
        answer.rows = kz_sp_data(&lists);
        answer.n_rows = kz_sp_count(&lists);
        assert_int_equal(kz_sp_rows_take(rows, &answer, see, &seen, &err), KZ_OK);
        kz_buf_clear(&expected);
        kz_buf_cstr(&expected, "-9223372036854775808,AAH+/yAwMTIzNDU2Nzg=,-,"
                               "2026-11-24T06:00:00.007Z,-1,");
        kz_buf_put(&expected, text, seam * 5000);
        kz_buf_put(&expected, " ", 2);
        assert_seen(&seen, expected.data);
        kz_sp_rows_free(rows);
    }
    kz_sp_time(&lists, INT64_MAX); /* no TIMESTAMP */
    assert_memory_equal(lists.bytes.data + lists.bytes.size - 2, "\x08\0", 2);
    kz_sp_lists_done(&lists);
    kz_buf_done(&seen.text);
    kz_buf_done(&out);
    kz_buf_done(&expected);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(rows_across_messages),
            cmocka_unit_test(a_lost_stream_goes_on_behind_its_token),
            cmocka_unit_test(without_a_token_all_comes_again),
            cmocka_unit_test(numbers_are_checked),
            cmocka_unit_test(what_is_written_is_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
