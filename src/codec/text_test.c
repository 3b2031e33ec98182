#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <time.h>

#include "codec/csv.h"
#include "codec/duration.h"
#include "codec/quantity.h"
#include "codec/timefmt.h"
#include "codec/url.h"
#include "codec/utf8.h"

static void times_are_read(void **state)
{
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {{"1970-01-01T00:00:00Z", 0}, {"2019-10-01 00:00:00 UTC", 1569888000000},
            {"2019-10-01T00:00:00.5Z", 1569888000500},
            {"2019-10-01t00:00:00.123456789z", 1569888000123},
            {"2019-10-01T09:00:00+09:00", 1569888000000},
            {"2019-10-01T09:00:00+0900", 1569888000000},
            {"2019-09-30T18:30:00.250-05:30", 1569888000250}, {"2019-10-01", 1569888000000},
            {"2019-10-01T00:00:00", 1569888000000}, {"1969-12-31T23:59:59.999Z", -1},
            {"2000-02-29T12:00:00Z", 951825600000}, {"2016-12-31T23:59:60Z", 1483228800000},
            {"0000-01-01T00:00:00Z", -62167219200000},
            {"9999-12-31T23:59:59.999Z", 253402300799999}};
    static const char *const bad[] = {"", "2019", "2019-10-01T", "2019-10-01T00:00Z", "2019-13-01",
            "2019-00-01", "2019-10-00", "2019-02-29", "1900-02-29", "2019-04-31",
            "2019-10-01T24:00:00Z", "2019-10-01T00:60:00Z", "2019-10-01T00:00:61Z",
            "2019-10-01T00:00:00.Z", "2019-10-01T00:00:00ZZ", "2019-10-01T00:00:00+9",
            "2019-10-01T00:00:00 +0900", "19-10-01", "2019-10-01T00:00:00 UT", "2019/10/01",
            " 2019-10-01", "1569888000"};
    int64_t ms = 7;
    struct kz_err err;

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(good); i++) {
        if (kz_time_parse(kz_str(good[i].text), &ms, &err) != KZ_OK)
            fail_msg("%s", err.message);
        assert_true(ms == good[i].ms);
    }
    ms = 7;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(bad); i++)
        if (kz_time_parse(kz_str(bad[i]), &ms, &err) != KZ_INVALID)
            fail_msg("accepted \"%s\"", bad[i]);
    assert_int_equal(ms, 7);
    assert_string_equal(
            err.message, "\"1569888000\" is no time; write it like 2026-01-31T09:30:00.000Z");
}

static void times_are_written(void **state)
{
    char out[KZ_TIME_BYTES];

    (void)state;
    assert_string_equal(kz_time_format(0, out), "1970-01-01T00:00:00.000Z");
    assert_string_equal(kz_time_format(-1, out), "1969-12-31T23:59:59.999Z");
    assert_string_equal(kz_time_format(1569888000123, out), "2019-10-01T00:00:00.123Z");
    assert_string_equal(kz_time_format(INT64_MAX, out), "9999-12-31T23:59:59.999Z");
    assert_string_equal(kz_time_format(INT64_MIN, out), "0000-01-01T00:00:00.000Z");
    /* The C library's calendar agrees, a day and some hours at a time over 800 years. */
    for (int64_t s = -12000000000; s < 12000000000; s += 98765) {
        time_t t = s;
        struct tm tm;
        char theirs[40];
        int64_t back = 0;

        gmtime_r(&t, &tm);
        strftime(theirs, sizeof(theirs), "%Y-%m-%dT%H:%M:%S.000Z", &tm);
        assert_string_equal(kz_time_format(s * 1000, out), theirs);
        assert_int_equal(kz_time_parse(kz_str(out), &back, NULL), KZ_OK);
        assert_true(back == s * 1000);
    }
}

static void durations(void **state)
{
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {{"500ms", 500}, {"2s", 2000}, {"10m", 600000}, {"24h", 86400000}, {"7d", 604800000},
            {"1w", 604800000}, {"1h30m", 5400000}, {"1.5s", 1500}, {"0.25d", 21600000}, {"0", 0},
            {"0s", 0}, {"1d2h3m4s5ms", 93784005}};
    static const char *const bad[] = {"", "5", "s", "-1s", "1.5ms", "1..5s", "1.s", ".5s", "1 s",
            "5x", "30m1h", "1s1s", "1h 30m", "99999999999999999999s", "9223372036854775807d", "1S"};
    char out[KZ_DURATION_BYTES];
    int64_t ms = 7;
    struct kz_err err;

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(good); i++) {
        assert_int_equal(kz_duration_parse(kz_str(good[i].text), &ms, &err), KZ_OK);
        assert_true(ms == good[i].ms);
    }
    ms = 7;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(bad); i++)
        if (kz_duration_parse(kz_str(bad[i]), &ms, &err) != KZ_INVALID)
            fail_msg("accepted \"%s\"", bad[i]);
    assert_int_equal(ms, 7);
    assert_string_equal(kz_duration_format(0, out), "0s");
    assert_string_equal(kz_duration_format(90000, out), "1m30s");
    assert_string_equal(kz_duration_format(93784005, out), "1d2h3m4s5ms");
    assert_string_equal(kz_duration_format(-500, out), "-500ms");
    assert_string_equal(kz_duration_format(INT64_MIN, out), "-106751991167d7h12m55s808ms");
}

static void quantities(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes, milli;
    } good[] = {{"500m", 1, 500}, {"512Mi", 536870912, 536870912000},
            {"200Gi", 214748364800, 214748364800000}, {"1.5", 2, 1500}, {"1e3", 1000, 1000000},
            {"1E3", 1000, 1000000}, {"2", 2, 2000}, {"0.1", 1, 100}, {"1.5Ki", 1536, 1536000},
            {"100k", 100000, 100000000}, {"0", 0, 0}, {"12e-1", 2, 1200}, {"1u", 1, 1},
            {".5", 1, 500}, {"5.", 5, 5000}, {"+1M", 1000000, 1000000000}};
    static const char *const bad[] = {"", "m", "-1", "1 Gi", "1GiB", "1K", "1e", "1e3k", "1.2.3",
            "abc", "16Ei", "99999999999999999999", "1e99", "e3", "."};
    uint64_t v = 7;
    struct kz_err err;

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(good); i++) {
        assert_int_equal(kz_quantity_bytes(kz_str(good[i].text), &v, &err), KZ_OK);
        assert_true(v == good[i].bytes);
        assert_int_equal(kz_quantity_milli(kz_str(good[i].text), &v, &err), KZ_OK);
        assert_true(v == good[i].milli);
    }
    assert_int_equal(kz_quantity_bytes(KZ_STR("15Ei"), &v, &err), KZ_OK);
    assert_true(v == 15ull << 60);
    assert_int_equal(kz_quantity_bytes(KZ_STR("1E"), &v, &err), KZ_OK);
    assert_true(v == 1000000000000000000ull);
    v = 7;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(bad); i++)
        if (kz_quantity_bytes(kz_str(bad[i]), &v, &err) != KZ_INVALID)
            fail_msg("accepted \"%s\"", bad[i]);
    assert_int_equal(v, 7);
}

/* All rows as "line:a|b;". */
static enum kz_code read_csv(struct kz_csv *csv, struct kz_buf *out, struct kz_err *err)
{
    struct kz_csv_row row;
    enum kz_code rc;

    while ((rc = kz_csv_next(csv, &row, err)) == KZ_OK) {
        kz_buf_printf(out, "%llu:", (unsigned long long)row.line);
        for (size_t i = 0; i < row.count; i++)
            kz_buf_printf(out, "%s" KZ_STR_FMT, i ? "|" : "", KZ_STR_ARG(row.fields[i]));
        kz_buf_char(out, ';');
    }
    return rc;
}

static const char csv_text[] = "\xef\xbb\xbf"
                               "id,name\r\n\n1,\"a, \"\"b\"\"\"\n\"2\nx\",\"\"\"\",\"\"\n,\n"
                               "last,\"q\"";
static const char csv_rows[] = "1:id|name;3:1|a, \"b\";4:2\nx|\"|;6:|;7:last|q;";

static void csv_rows_are_read(void **state)
{
    struct kz_buf out = {0};
    struct kz_csv csv;

    (void)state;
    kz_csv_init(&csv, kz_str(csv_text), ',', true);
    assert_int_equal(read_csv(&csv, &out, NULL), KZ_END);
    kz_buf_char(&out, '\0');
    assert_string_equal(out.data, csv_rows);
    kz_csv_done(&csv);
    kz_buf_done(&out);
}

static void csv_in_pieces_of_any_size_is_the_same(void **state)
{
    (void)state;
    for (size_t piece = 1; piece < sizeof(csv_text); piece++) {
        struct kz_buf out = {0}, window = {0};
        size_t fed = 0;
        struct kz_csv csv;

        kz_csv_init(&csv, KZ_STR_NULL, ',', false);
        do {
            size_t n = KZ_MIN(piece, sizeof(csv_text) - 1 - fed);
            struct kz_str rest = kz_csv_rest(&csv);

            if (rest.size)
                memmove(window.data, rest.ptr, rest.size);
            window.size = rest.size;
            kz_buf_put(&window, csv_text + fed, n);
            fed += n;
            kz_csv_feed(&csv, kz_buf_view(&window), fed == sizeof(csv_text) - 1);
            assert_int_equal(read_csv(&csv, &out, NULL), KZ_END);
        } while (fed < sizeof(csv_text) - 1);
        assert_int_equal(kz_csv_rest(&csv).size, 0);
        kz_buf_char(&out, '\0');
        assert_string_equal(out.data, csv_rows);
        kz_csv_done(&csv);
        kz_buf_done(&out);
        kz_buf_done(&window);
    }
}

static void csv_mistakes_name_their_line(void **state)
{
    static const char *const cases[][2] = {
            {"a\n\"b\nc", "line 2: a quote opened in this row is never closed"},
            {"a\nb\"c\n", "line 2: unexpected quote in field 1"},
            {"a,\"b\"c\n", "line 1: unexpected text behind a closing quote in field 2"},
            {"a\rb\n", "line 1: unexpected carriage return in field 1"},
            {"\"", "line 1: a quote opened in this row is never closed"}};
    struct kz_buf out = {0};
    struct kz_err err;

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++) {
        struct kz_csv csv;

        kz_csv_init(&csv, kz_str(cases[i][0]), ',', true);
        assert_int_equal(read_csv(&csv, &out, &err), KZ_INVALID);
        assert_string_equal(err.message, cases[i][1]);
        kz_csv_done(&csv);
    }
    kz_buf_clear(&out);
    kz_csv_put(&out, KZ_STR("a \"b\", c"), ',');
    kz_buf_char(&out, ',');
    kz_csv_put(&out, KZ_STR("plain"), ',');
    kz_buf_char(&out, '\0');
    assert_string_equal(out.data, "\"a \"\"b\"\", c\",plain");
    kz_buf_done(&out);
}

static void urls(void **state)
{
    struct kz_buf buf = {0};

    (void)state;
    kz_url_encode(KZ_STR("a/b c~\xe5"), &buf);
    kz_buf_char(&buf, '\0');
    assert_string_equal(buf.data, "a%2Fb%20c~%E5");
    kz_buf_done(&buf);
}

static void utf8(void **state)
{
    struct kz_buf buf = {0};
    size_t offset = 99;
    char out[4];

    (void)state;
    assert_true(kz_utf8_check(
            KZ_STR("plain ascii, longer than eight, \xe5\x85\x86 \xf0\x9f\x98\x80"), NULL));
    assert_false(kz_utf8_check(KZ_STR("0123456789\xe5\x85"), &offset));
    assert_int_equal(offset, 10);
    kz_utf8_clean(KZ_STR("a\xff\xfe z\xe5\x85\x86\xc0"), &buf);
    kz_buf_char(&buf, '\0');
    assert_string_equal(buf.data, "a\xef\xbf\xbd z\xe5\x85\x86\xef\xbf\xbd");
    assert_true(kz_str_is(kz_utf8_cut(KZ_STR("a\xe5\x85\x86"), 3), "a"));
    assert_true(kz_str_is(kz_utf8_cut(KZ_STR("a\xe5\x85\x86"), 4), "a\xe5\x85\x86"));
    assert_int_equal(kz_utf8_put(out, 0x10ffff), 4);
    assert_memory_equal(out, "\xf4\x8f\xbf\xbf", 4);
    kz_buf_done(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(times_are_read),
            cmocka_unit_test(times_are_written),
            cmocka_unit_test(durations),
            cmocka_unit_test(quantities),
            cmocka_unit_test(csv_rows_are_read),
            cmocka_unit_test(csv_in_pieces_of_any_size_is_the_same),
            cmocka_unit_test(csv_mistakes_name_their_line),
            cmocka_unit_test(urls),
            cmocka_unit_test(utf8),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
