#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>

#include "feature/fixture_int.h"

static struct kz_column_def columns[] = {
        {.name = "item", .path = "$.product_id", .type = KZ_TYPE_TEXT},
        {.name = "price", .path = "$.price", .type = KZ_TYPE_FLOAT},
        {.name = "qty", .path = "$.cart.qty", .type = KZ_TYPE_INT},
        {.name = "gift", .path = "$.gift", .type = KZ_TYPE_BOOL},
};
static struct kz_model_def models[] = {{.name = "purchase"}, {.name = "leaving"}};
static struct kz_project project = {
        .name = "shop",
        .file = "kizashi.yaml",
        .events = {.columns = columns, .column_count = 4, .columns_id = 77},
        .models = models,
        .model_count = 2,
};

static const struct kz_place place = {"f.sql", 1, 1};
static const struct kz_sql_params params = {
        .now_ms = 1573603500000, /* 2019-11-13T00:05:00Z */
        .user_id = {"u1", 2},
        .event_id = {"e5", 2},
        .trigger_ts_ms = 1573603499000,
        .session = 3,
        .seq = 50,
        .first_seen_ms = 1573600000000,
        .truncated = true,
};

static const int64_t now = 1573603500000;

/* Five events: e1 and e2 without typed columns (written under older definitions), the rest with. */
static void add_events(struct fixture *f, uint32_t columns_id)
{
    static const struct {
        const char *id, *name, *props;
        int64_t before_s;
        uint64_t session;
        const char *item;
        double price;
        int64_t qty;
        bool gift;
    } rows[] = {
            {"e1", "view", "{\"product_id\":\"a\",\"price\":10,\"cart\":{\"qty\":1},\"gift\":true}",
                    4000, 10, "a", 10, 1, true},
            {"e2", "view",
                    "{\"product_id\":\"b\\u0041\",\"price\":2.5,\"cart\":{\"qty\":7},\"gift\":"
                    "false}",
                    300, 20, "bA", 2.5, 7, false},
            {"e3", "cart", "{\"price\":null,\"product_id\":\"a\",\"cart\":{}}", 200, 20, "a", NAN,
                    -1, false},
            {"e4", "view", "", 100, 20, NULL, NAN, -1, false},
            {"e5", "purchase",
                    "{\"price\":40.0,\"product_id\":\"c\",\"cart\":{\"qty\":2},\"gift\":true}", 0,
                    20, "c", 40, 2, true},
    };

    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        struct kz_value null = {.type = KZ_TYPE_NULL};
        struct kz_value values[4] = {
                value_text(rows[i].item),
                isnan(rows[i].price) ? null : value_real(rows[i].price),
                rows[i].qty < 0 ? null : value_int(rows[i].qty),
                rows[i].qty < 0 ? null : value_bool(rows[i].gift),
        };
        struct kz_event event = {
                .event_id = kz_str(rows[i].id),
                .user_id = kz_str("u1-as-sent"),
                .name = kz_str(rows[i].name),
                .props = kz_str(rows[i].props),
                .ts_ms = now - rows[i].before_s * 1000,
                .client_ts_ms = i == 0 ? 0 : now - rows[i].before_s * 1000 - 1,
                .received_at_ms = now - rows[i].before_s * 1000 + 5,
                .session = rows[i].session,
                .seq = 10 * (i + 1),
                .columns_id = columns_id,
                .column_count = columns_id ? 4 : 0,
                .columns = values,
        };

        fixture_add(f, &event);
    }
}

struct state {
    struct kz_sql *sql;
    struct fixture f;
};

static int setup(void **state)
{
    struct state *s = kz_calloc(1, sizeof(*s));

    assert_int_equal(kz_sql_open(&project, &s->sql, NULL), KZ_OK);
    add_events(&s->f, 77);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct state *s = *state;

    kz_sql_close(s->sql);
    fixture_done(&s->f);
    free(s);
    return 0;
}

static const char *show(struct kz_value v, char out[256])
{
    switch (v.type) {
    case KZ_TYPE_NULL:
        return "NULL";
    case KZ_TYPE_INT:
    case KZ_TYPE_BOOL:
        snprintf(out, 256, "%lld", (long long)v.integer);
        break;
    case KZ_TYPE_FLOAT:
        snprintf(out, 256, "%.17g%s", v.real,
                v.real == floor(v.real) && isfinite(v.real) ? ".0" : "");
        break;
    case KZ_TYPE_TEXT:
        snprintf(out, 256, "'%.*s'", KZ_STR_ARG(v.text));
        break;
    }
    return out;
}

/* A history that has only what kz_sql_reads() names gives the same. */
static void check_parts(struct kz_sql_expr *expr, const struct fixture *f, const char *expected)
{
    static struct fixture stripped;
    struct kz_event_parts parts;
    struct kz_row row;
    struct kz_err err;
    char out[1200];

    kz_sql_reads(expr, &parts);
    fixture_strip(f, &parts, &stripped);
    if (kz_sql_features(expr, &stripped.rows, &params, 0, &row, &err) != KZ_OK)
        fail_msg("%s", err.message);
    assert_string_equal(show(row.values[0], out), expected);
    fixture_done(&stripped);
}

/* The first column of "SELECT <expression> AS v ...", or the error. */
static const char *value_over(
        struct state *s, const struct fixture *f, const char *expression, char out[1200])
{
    const char *shown;
    struct kz_sql_expr *expr;
    struct kz_err err = {0};
    struct kz_row row;
    char text[1000];

    snprintf(text, sizeof(text), "SELECT %s", expression);
    if (!strstr(expression, " AS v"))
        strcat(text, " AS v");
    if (kz_sql_compile(s->sql, KZ_SQL_FEATURES, text, place, &expr, &err) != KZ_OK ||
            kz_sql_features(expr, &f->rows, &params, 0, &row, &err) != KZ_OK) {
        snprintf(out, 1200, "error: %s", err.message);
        return out;
    }
    assert_true(row.count >= 1);
    shown = show(row.values[0], out);
    check_parts(expr, f, shown);
    return shown;
}

static const char *value(struct state *s, const char *expression, char out[1200])
{
    return value_over(s, &s->f, expression, out);
}

#define CHECK(expression, expected)                                                                \
    do {                                                                                           \
        char out_[1200];                                                                           \
        assert_string_equal(value(s, expression, out_), expected);                                 \
    } while (0)

static void test_parameters(void **state)
{
    struct state *s = *state;

    CHECK("@now", "1573603500000");
    CHECK("@user_id", "'u1'");
    CHECK("@event_id", "'e5'");
    CHECK("@trigger_ts", "1573603499000");
    CHECK("@session", "3");
    CHECK("@seq", "50");
    CHECK("@first_seen", "1573600000000");
    CHECK("@truncated", "1");
    CHECK("@now - @trigger_ts + @now", "1573603501000");
    CHECK("@later",
            "error: f.sql:1:8: no parameter @later; there are @now @user_id @event_id @trigger_ts "
            "@session @seq @first_seen @truncated");
    CHECK(":now",
            "error: f.sql:1:8: no parameter :now; there are @now @user_id @event_id @trigger_ts "
            "@session @seq @first_seen @truncated");
    CHECK("'@later'", "'@later'");
}

static void test_functions(void **state)
{
    struct state *s = *state;

    CHECK("duration('5m')", "300000");
    CHECK("duration('1h30m')", "5400000");
    CHECK("duration(NULL)", "NULL");
    CHECK("local_hour(@now, 'Asia/Tokyo')", "9");
    CHECK("local_hour(@now, 'UTC')", "0");
    CHECK("local_hour(@now, 'America/New_York')", "19");
    CHECK("local_hour(-1, 'UTC')", "23");
    CHECK("local_hour(NULL, 'UTC')", "NULL");
    CHECK("local_day(@now, 'America/New_York')", "'2019-11-12'");
    CHECK("local_day(@now, 'Asia/Tokyo')", "'2019-11-13'");
    CHECK("local_day(-1, 'UTC')", "'1969-12-31'");
    CHECK("local_day(@now, 'No/' || 'Where')", "NULL");
    CHECK("JSON_VALUE('{\"x\":{\"y\":[1,2.5]}}', '$.x.y[1]')", "2.5");
    CHECK("JSON_VALUE('{\"x\":\"a\\u0042\"}', '$.x')", "'aB'");
    CHECK("JSON_VALUE('{\"x\":true}', '$.x')", "1");
    CHECK("JSON_VALUE('{\"x\":{}}', '$.x')", "NULL");
    CHECK("JSON_VALUE('{\"x\":null}', '$.x')", "NULL");
    CHECK("JSON_VALUE('{\"x\":', '$.x')", "NULL");
    CHECK("'{\"x\":12}' ->> '$.x'", "12");
    CHECK("stddev(price) AS v FROM events", "19.843134832984429");
    CHECK("stddev(price) AS v FROM events WHERE name = 'view' AND price < 5", "NULL");
    CHECK("stddev(1) AS v FROM events", "0.0");
    CHECK("median(price) AS v FROM events", "10.0");
    CHECK("median(qty) AS v FROM events WHERE qty < 5", "1.5");
    CHECK("median(price) AS v FROM events WHERE name = 'none'", "NULL");
    CHECK("median(x) AS v FROM (SELECT 1.7e308 AS x UNION ALL SELECT 1.5e308)", "1.6e+308.0");
    CHECK("max(m) AS v FROM (SELECT median(qty) OVER (ORDER BY seq ROWS 1 PRECEDING) AS m FROM "
          "events)",
            "7.0");
    CHECK("date(@now / 1000, 'unixepoch')", "'2019-11-13'");
    CHECK("strftime('%H', @now / 1000, 'unixepoch')", "'00'");
    CHECK("sqrt(16)", "4.0");
}

static void test_null_nan_and_infinity(void **state)
{
    struct state *s = *state;

    CHECK("NULL", "NULL");
    CHECK("1e999", "inf");
    CHECK("-1e999", "-inf");
    CHECK("1e999 - 1e999", "NULL");
    CHECK("1 / 0", "NULL");
    CHECK("1.0 / 0", "NULL");
    CHECK("sqrt(-1)", "NULL");
    CHECK("avg(price) AS v FROM events WHERE 0", "NULL");
    CHECK("x'00ff'", "error: f.sql: column \"v\" is a blob; features are numbers and texts");
}

static void test_the_columns_of_events(void **state)
{
    struct state *s = *state;

    CHECK("group_concat(seq) AS v FROM events", "'10,20,30,40,50'");
    CHECK("group_concat(seq) AS v FROM (SELECT seq FROM events ORDER BY seq DESC)",
            "'50,40,30,20,10'");
    CHECK("group_concat(seq) AS v FROM (SELECT seq FROM events ORDER BY rowid DESC LIMIT 2)",
            "'50,40'");
    CHECK("group_concat(event_id) AS v FROM events", "'e1,e2,e3,e4,e5'");
    CHECK("group_concat(DISTINCT user_id) AS v FROM events", "'u1'");
    CHECK("group_concat(name) AS v FROM events WHERE name IN ('cart', 'purchase')",
            "'cart,purchase'");
    CHECK("min(ts) AS v FROM events", "1573599500000");
    CHECK("count(client_ts) AS v FROM events", "4");
    CHECK("max(received_at) AS v FROM events", "1573603500005");
    CHECK("count(*) AS v FROM events WHERE session = 20", "4");
    CHECK("props AS v FROM events WHERE event_id = 'e4'", "'{}'");
    CHECK("group_concat(item) AS v FROM events", "'a,bA,a,c'");
    CHECK("sum(price) AS v FROM events", "52.5");
    CHECK("sum(qty) AS v FROM events", "10");
    CHECK("sum(gift) AS v FROM events", "2");
    CHECK("typeof(price) AS v FROM events WHERE seq = 10", "'real'");
    CHECK("count(*) AS v FROM events WHERE ts > @now - duration('5m')", "3");
    CHECK("count(*) AS v FROM events WHERE ts >= @now - duration('5m')", "4");
    CHECK("sum(props ->> '$.price') AS v FROM events", "52.5");
    CHECK("sum(JSON_VALUE(props, '$.price')) AS v FROM events", "52.5");
    CHECK("seq AS v FROM events WHERE event_id = @event_id ORDER BY seq DESC LIMIT 1", "50");
    CHECK("group_concat(rowid) AS v FROM events WHERE seq BETWEEN 20 AND 40", "'20,30,40'");
    CHECK("lag AS v FROM (SELECT seq - lag(seq) OVER (ORDER BY seq) AS lag FROM events) WHERE lag "
          "LIMIT 1",
            "10");
}

/* A record of other column definitions gives the same values, by its props. */
static void test_typed_columns_equal_props(void **state)
{
    static const char *const expressions[] = {
            "group_concat(item) AS v FROM events",
            "sum(price) AS v FROM events",
            "group_concat(quote(price)) AS v FROM events",
            "group_concat(quote(qty)) AS v FROM events",
            "group_concat(quote(gift)) AS v FROM events",
            "group_concat(typeof(item) || typeof(price) || typeof(qty)) AS v FROM events",
            "max(item) AS v FROM events WHERE item < 'bB' AND price IS NOT NULL",
    };
    struct state *s = *state;
    struct fixture old = {0};

    add_events(&old, 0);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(expressions); i++) {
        char typed[1200], by_props[1200];

        assert_string_equal(
                value(s, expressions[i], typed), value_over(s, &old, expressions[i], by_props));
    }
    fixture_done(&old);
}

static void test_as_of_is_the_rows_bound(void **state)
{
    struct state *s = *state;
    struct fixture part = s->f;
    char out[1200];

    part.rows.count = 2;
    assert_string_equal(value_over(s, &part, "count(*) AS v FROM events", out), "2");
    assert_string_equal(value_over(s, &part, "max(seq) AS v FROM events", out), "20");
    part.rows.count = 0;
    assert_string_equal(value_over(s, &part, "count(*) AS v FROM events", out), "0");
    CHECK("count(*) AS v FROM events", "5");
}

static void test_one_row(void **state)
{
    struct state *s = *state;

    CHECK("seq AS v FROM events", "error: f.sql: more than one row; features are exactly one");
    CHECK("seq AS v FROM events WHERE 0", "error: f.sql: no row; features are exactly one");
    CHECK("1 AS v, 2 AS w, 3 AS v", "error: f.sql:1:1: columns 1 and 3 are both named \"v\"");
    CHECK("1 AS v, count(*) FROM events",
            "error: f.sql:1:1: column 2 (count(*)) has no name; add AS name");
    CHECK("1 AS v, @now", "error: f.sql:1:1: column 2 (@now) has no name; add AS name");
}

static void test_texts_of_a_row_stay(void **state)
{
    struct state *s = *state;
    struct kz_sql_expr *expr;
    struct kz_row row;
    const char *const *names;
    size_t count;

    assert_int_equal(
            kz_sql_compile(s->sql, KZ_SQL_FEATURES,
                    "SELECT min(name) AS a, 'x' || max(name) AS b, '' AS c FROM events; -- end",
                    place, &expr, NULL),
            KZ_OK);
    kz_sql_columns(expr, &names, &count);
    assert_int_equal(count, 3);
    assert_string_equal(names[1], "b");
    assert_int_equal(kz_sql_features(expr, &s->f.rows, &params, 0, &row, NULL), KZ_OK);
    assert_true(kz_str_is(row.values[0].text, "cart"));
    assert_true(kz_str_is(row.values[1].text, "xview"));
    assert_int_equal(row.values[2].type, KZ_TYPE_TEXT);
    assert_int_equal(row.values[2].text.size, 0);
}

static void test_errors_have_places(void **state)
{
    struct state *s = *state;

    CHECK("prise AS v\n  FROM events", "error: f.sql:1:8: no such column: prise");
    CHECK("1 AS v\n FROM evnts", "error: f.sql:2:7: no such table: evnts");
    CHECK("1 AS v\n FRM events", "error: f.sql:2:2: near \"FRM\": syntax error");
    CHECK("count(*) AS v FROM events\nWHERE\n  nam = 'x'", "error: f.sql:3:3: no such column: nam");
    CHECK("'日本', nam AS v FROM events", "error: f.sql:1:14: no such column: nam");
    CHECK("name = \"view\" AS v FROM events", "error: f.sql:1:15: no such column: view");
    CHECK("duration('5x') AS v", "error: f.sql:1:17: \"5x\" is no duration; write it like 500ms, "
                                 "2s, 10m, 24h, 7d or 1h30m");
    CHECK("1 AS v,\n local_hour(@now, 'Asia/Tokio') AS h",
            "error: f.sql:2:19: no time zone \"Asia/Tokio\"");
    CHECK("1 AS v; SELECT 2", "error: f.sql:1:16: only one statement is expected");
    CHECK("frobnicate(1) AS v", "error: f.sql:1:8: no such function: frobnicate");
}

static void check_refused(struct state *s, enum kz_sql_kind kind, const char *text, const char *why)
{
    struct kz_sql_expr *expr;
    struct kz_err err = {0};

    assert_int_equal(kz_sql_compile(s->sql, kind, text, place, &expr, &err), KZ_CONFIG);
    if (!strstr(err.message, why))
        fail_msg("%s\n  gave: %s\n  want: %s", text, err.message, why);
}

static void test_clock_and_chance_are_refused(void **state)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
            {"SELECT random() AS v", "random() is random"},
            {"SELECT abs(RANDOM()) AS v", "is random"},
            {"SELECT hex(randomblob(4)) AS v", "randomblob() is random"},
            {"SELECT count(*) AS v FROM events ORDER BY random()", "random() is random"},
            {"SELECT CURRENT_TIMESTAMP AS v", "reads the clock"},
            {"SELECT current_date AS v", "reads the clock"},
            {"SELECT datetime('now') AS v", "f.sql:1:17: 'now' reads the clock"},
            {"SELECT date('NOW', '-1 day') AS v", "reads the clock"},
            {"SELECT date() AS v", "reads the clock"},
            {"SELECT strftime('%s', 'now') AS v", "reads the clock"},
            {"SELECT datetime(0, 'unixepoch', 'localtime') AS v", "time zone"},
            {"SELECT changes() AS v", "changes()"},
            {"SELECT last_insert_rowid() AS v", "last_insert_rowid()"},
            {"SELECT total_changes() AS v", "total_changes()"},
            {"SELECT load_extension('x') AS v", "load_extension()"},
            {"SELECT sqlite_version() AS v", "sqlite_version()"},
            {"ATTACH ':memory:' AS x", "ATTACH is not permitted"},
            {"PRAGMA user_version", "PRAGMA user_version is not permitted"},
            {"CREATE TABLE x(a)", "only SELECT is permitted"},
            {"DELETE FROM events", ""},
            {"EXPLAIN SELECT 1 AS v", "only SELECT is permitted"},
            {"BEGIN", "only SELECT is permitted"},
            {"VACUUM", ""},
            {"SELECT count(*) AS v FROM sqlite_schema", "not to be seen"},
            {"SELECT name AS v FROM sqlite_master", "not to be seen"},
            {"SELECT name AS v FROM pragma_table_info('events')", ""},
            {"SELECT count(*) AS v FROM dbstat", ""},
            {"", "no SQL"},
            {"-- nothing", "no SQL"},
    };
    struct state *s = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++)
        check_refused(s, KZ_SQL_FEATURES, cases[i].text, cases[i].why);
    /* Where only the data says so, evaluation fails. */
    CHECK("date('n' || 'ow')",
            "error: f.sql:1: date() may not read the clock or the machine's time zone; "
            "use @now, local_day() or local_hour()");
    CHECK("datetime(0, 'unixepoch', 'local' || 'time')",
            "error: f.sql:1: datetime() may not read the clock or the machine's time zone; use "
            "@now, "
            "local_day() or local_hour()");
}

static void test_steps_are_limited(void **state)
{
    struct state *s = *state;
    struct kz_sql_expr *expr, *after;
    struct kz_err err;
    struct kz_row row;
    bool holds;

    assert_int_equal(kz_sql_compile(s->sql, KZ_SQL_FEATURES,
                             "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
                             "SELECT count(*) AS v FROM c",
                             place, &expr, &err),
            KZ_OK);
    assert_int_equal(kz_sql_features(expr, &s->f.rows, &params, 100000, &row, &err), KZ_TIMEOUT);
    assert_string_equal(err.message, "f.sql:1: stopped after 100000 steps of work");
    assert_int_equal(kz_sql_features(expr, &s->f.rows, &params, 100000, &row, &err), KZ_TIMEOUT);
    assert_int_equal(kz_sql_compile(s->sql, KZ_SQL_HAVING, "(SELECT count(*) FROM events) = 5",
                             place, &after, &err),
            KZ_OK);
    assert_int_equal(kz_sql_having_true(after, &s->f.rows, &params, 100000, &holds, &err), KZ_OK);
    assert_true(holds);
}

/* Rows that the table itself leaves out are work too. */
static void test_skipped_rows_are_steps(void **state)
{
    struct state *s = *state;
    struct kz_sql_expr *expr;
    struct fixture f = s->f;
    struct kz_row row;
    struct kz_err err;

    while (f.rows.count < 4000) {
        f.records[f.rows.count] = s->f.records[0];
        f.rows.records = f.records;
        f.rows.count++;
    }
    assert_int_equal(
            kz_sql_compile(s->sql, KZ_SQL_FEATURES,
                    "SELECT count(*) AS v FROM events WHERE name = 'none'", place, &expr, &err),
            KZ_OK);
    assert_int_equal(kz_sql_features(expr, &f.rows, &params, 3000, &row, &err), KZ_TIMEOUT);
    assert_int_equal(kz_sql_features(expr, &f.rows, &params, 5000, &row, &err), KZ_OK);
}

static void test_having(void **state)
{
    static const struct {
        const char *text;
        bool holds;
    } cases[] = {
            {"(SELECT count(*) FROM events WHERE name = 'view') >= 3", true},
            {"(SELECT count(*) FROM events WHERE name = 'view') >= 4", false},
            {"@first_seen > @now - duration('24h')", true},
            {"@truncated", true},
            {"NULL", false},
            {"EXISTS (SELECT 1 FROM events WHERE price > 30) -- dear", true},
            {"(SELECT price FROM events WHERE seq = 30)", false},
            {"0.5", true},
            {"'abc'", false},
    };
    struct state *s = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++) {
        struct kz_sql_expr *expr;
        bool holds = !cases[i].holds;

        assert_int_equal(
                kz_sql_compile(s->sql, KZ_SQL_HAVING, cases[i].text, place, &expr, NULL), KZ_OK);
        assert_int_equal(kz_sql_having_true(expr, &s->f.rows, &params, 0, &holds, NULL), KZ_OK);
        assert_int_equal(holds, cases[i].holds);
    }
    check_refused(s, KZ_SQL_HAVING, "count(*) > 1", "misuse of aggregate");
    check_refused(s, KZ_SQL_HAVING, "1) OR (1", "f.sql:1:2: unexpected \")\"");
    check_refused(s, KZ_SQL_HAVING, "(SELECT 1", "f.sql:1:10: a parenthesis is not closed");
    check_refused(s, KZ_SQL_HAVING, "1; DELETE FROM events", "f.sql:1:2: unexpected \";\"");
    check_refused(s, KZ_SQL_HAVING, "1 +", "f.sql:1:4: near \")\": syntax error");
    check_refused(s, KZ_SQL_HAVING, "", "the expression is empty");
}

static void test_when(void **state)
{
    static const struct {
        const char *text;
        bool holds;
    } cases[] = {
            {"name IN ('view', 'cart') AND price > 0", true},
            {"name = 'cart'", false},
            {"price BETWEEN 12 AND 12.5 AND qty = 3", true},
            {"gift", true},
            {"gift = TRUE AND gift IS TRUE", true},
            {"lower(item) = 'abc'", true},
            {"item LIKE 'ab%'", true},
            {"props ->> '$.color' = 'red'", true},
            {"JSON_VALUE(props, '$.size') > 40", true},
            {"user_id = 'anon-1'", true}, /* nobody is logged in */
            {"ts - client_ts > 500", true},
            {"received_at >= ts", true},
            {"session = 4", true},
            {"local_hour(ts, 'Asia/Tokyo') BETWEEN 9 AND 17", true},
            {"price > '12'", true}, /* by the column's affinity */
            {"item > 5", true},
            {"price IS NULL", false},
            {"name = 'view' -- only views", true},
            {"CASE WHEN qty > 1 THEN 0 ELSE 1 END", false},
    };
    struct kz_value values[4] = {
            value_text("Abc"), value_real(12.5), value_int(3), value_bool(true)};
    struct kz_event event = {
            .event_id = kz_str("e9"),
            .anonymous_id = kz_str("anon-1"),
            .name = kz_str("view"),
            .props = kz_str("{\"color\":\"red\",\"size\":42}"),
            .ts_ms = now,
            .client_ts_ms = now - 1000,
            .received_at_ms = now + 3,
            .session = 4,
            .columns_id = 77,
            .column_count = 4,
            .columns = values,
    };
    struct state *s = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++) {
        struct kz_sql_expr *expr;
        struct kz_err err = {0};
        bool holds = !cases[i].holds;

        if (kz_sql_compile(s->sql, KZ_SQL_EVENT, cases[i].text, place, &expr, &err) != KZ_OK)
            fail_msg("%s: %s", cases[i].text, err.message);
        assert_int_equal(kz_sql_event_true(expr, &event, &holds, NULL), KZ_OK);
        if (holds != cases[i].holds)
            fail_msg("%s gave %d", cases[i].text, holds);
    }
    check_refused(s, KZ_SQL_EVENT, "prise > 0", "f.sql:1:1: no such column: prise");
    check_refused(s, KZ_SQL_EVENT, "name = \"view\"", "no such column: view");
    check_refused(s, KZ_SQL_EVENT, "ts > @now", "f.sql:1:6: parameter @now is not known here");
    check_refused(
            s, KZ_SQL_EVENT, "(SELECT count(*) FROM events) > 1", "events is not to be seen here");
    check_refused(s, KZ_SQL_EVENT, "count(*) > 1", "misuse of aggregate");
    check_refused(s, KZ_SQL_EVENT, "seq > 1", "no such column: seq");
    check_refused(s, KZ_SQL_EVENT, "price > random()", "is random");
}

static void test_unknown_columns_come_with_a_hint(void **state)
{
    struct state *s = *state;
    struct kz_sql_expr *expr;
    struct kz_err err = {0};

    assert_int_equal(
            kz_sql_compile(s->sql, KZ_SQL_EVENT, "prise > 0", place, &expr, &err), KZ_CONFIG);
    assert_string_equal(err.hint,
            "an event has event_id, user_id, name, ts, client_ts, received_at, "
            "session, props, item, price, qty, gift; a text is written 'x'");
    assert_int_equal(
            kz_sql_compile(s->sql, KZ_SQL_PREDICTION, "purchases.score > 0", place, &expr, &err),
            KZ_CONFIG);
    assert_string_equal(
            err.hint, "there are purchase.score, purchase.output, leaving.score, leaving.output");
}

static void check_hint(struct state *s, enum kz_sql_kind kind, const char *text,
        const char *message, const char *hint)
{
    struct kz_sql_expr *expr;
    struct kz_err err = {0};

    assert_int_equal(kz_sql_compile(s->sql, kind, text, place, &expr, &err), KZ_CONFIG);
    if (!strstr(err.message, message) || !strstr(err.hint, hint))
        fail_msg(
                "%s\n  gave: %s (%s)\n  want: %s (%s)", text, err.message, err.hint, message, hint);
}

static void test_what_other_engines_call_it_comes_with_a_hint(void **state)
{
    static const struct {
        const char *text, *message, *hint;
    } cases[] = {
            {"COUNTIF(name = 'x')", "no such function: COUNTIF", "count(*) FILTER (WHERE"},
            {"safe_divide(1, 2)", "no such function", "nullif(b, 0)"},
            {"max_by(item, ts)", "no such function", "ORDER BY seq DESC LIMIT 1"},
            {"TIMESTAMP_DIFF(@now, ts, 'SECOND')", "no such function", "times are milliseconds"},
            {"approx_count_distinct(item)", "no such function", "count(DISTINCT x)"},
            {"item REGEXP 'a.*'", "no such function: REGEXP", "GLOB"},
            {"EXTRACT(HOUR FROM ts)", "near \"FROM\"", "local_hour(ts, 'Asia/Tokyo')"},
            {"ts > @now - INTERVAL 10 MINUTE", "near \"10\"", "duration('10m')"},
            {"ts > 1 && ts < 2", "near \"&\"", "write AND"},
            {"price::int", "unrecognized token: \":\"", "CAST(x AS REAL)"},
            {"(SELECT max(price) FROM evnts)", "f.sql:1:32: no such table: evnts",
                    "there are events"},
    };
    /* What the hints say to write is understood. */
    static const char *const told[] = {"count(*) FILTER (WHERE name = 'x')",
            "sum(price) FILTER (WHERE name = 'x')", "iif(price > 1, 1, 2)",
            "CASE WHEN price > 1 THEN 1 ELSE 2 END", "coalesce(price, 0)", "max(price, qty)",
            "min(price, qty)", "price * 1.0 / nullif(qty, 0)", "CAST(item AS REAL)",
            "count(DISTINCT item)", "stddev(price) * stddev(price)", "median(price)",
            "(SELECT item FROM events ORDER BY seq DESC LIMIT 1)", "json_group_array(item)",
            "props ->> '$.x'", "JSON_VALUE(props, '$.x')", "item LIKE 'a%'", "item GLOB 'a*'",
            "length(item)", "ts > @now - duration('10m')", "local_hour(ts, 'Asia/Tokyo')",
            "local_day(ts, 'Asia/Tokyo')", "strftime('%w', ts / 1000, 'unixepoch')"};
    struct state *s = *state;
    char text[200];

    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++) {
        snprintf(text, sizeof(text), "SELECT %s AS v FROM events", cases[i].text);
        check_hint(s, KZ_SQL_FEATURES, text, cases[i].message, cases[i].hint);
    }
    for (size_t i = 0; i < KZ_ARRAY_COUNT(told); i++) {
        struct kz_sql_expr *expr;
        struct kz_err err = {0};

        snprintf(text, sizeof(text), "SELECT %s AS v FROM events", told[i]);
        if (kz_sql_compile(s->sql, KZ_SQL_FEATURES, text, place, &expr, &err) != KZ_OK)
            fail_msg("%s: %s", text, err.message);
    }
    check_hint(s, KZ_SQL_HAVING, "count(*) > 2", "misuse of aggregate",
            "(SELECT count(*) FROM events");
    check_hint(s, KZ_SQL_EVENT, "count(*) > 2", "misuse of aggregate", "one event");
    check_hint(s, KZ_SQL_PREDICTION, "purchase.output.class = 'buy'", "no such column",
            "a member is MODEL.output ->> '$.x'");
}

static void test_names_that_are_words_of_sql_come_with_a_hint(void **state)
{
    static struct kz_column_def named[] = {{.name = "group", .path = "$.group"}};
    static struct kz_model_def asked[] = {{.name = "order"}};
    struct kz_project words = {.name = "words",
            .events = {.columns = named, .column_count = 1},
            .models = asked,
            .model_count = 1};
    struct state s = {0};
    struct kz_sql_expr *expr;
    struct kz_err err;

    (void)state;
    assert_int_equal(kz_sql_open(&words, &s.sql, &err), KZ_OK);
    check_hint(&s, KZ_SQL_PREDICTION, "order.score > 0", "near \"order\"",
            "as a name it stands in double quotes: \"order\"");
    check_hint(&s, KZ_SQL_PREDICTION, "score > 0", "no such column", "there are \"order\".score");
    check_hint(&s, KZ_SQL_EVENT, "group = 'a'", "near \"group\"", "double quotes: \"group\"");
    assert_int_equal(
            kz_sql_compile(s.sql, KZ_SQL_PREDICTION, "\"order\".score > 0", place, &expr, &err),
            KZ_OK);
    assert_int_equal(
            kz_sql_compile(s.sql, KZ_SQL_EVENT, "\"group\" = 'a'", place, &expr, &err), KZ_OK);
    kz_sql_close(s.sql);
}

static void test_predictions(void **state)
{
    static const struct {
        const char *text;
        bool holds;
    } cases[] = {
            {"purchase.score BETWEEN 0.2 AND 0.6", true},
            {"purchase.score BETWEEN 0.2 AND 0.6 AND leaving.score > 0.5", false},
            {"purchase.score > 0.2 AND leaving.score IS NULL", true},
            {"purchase.output ->> '$.class' = 'buy'", true},
            {"leaving.output IS NULL", true},
            {"purchase.score > '0.1'", true},
            {"1", true},
    };
    struct kz_sql_prediction predictions[] = {
            {.model = "leaving", .present = false, .has_score = true, .score = 0.9},
            {.model = "purchase",
                    .present = true,
                    .has_score = true,
                    .score = 0.25,
                    .output = {"{\"class\":\"buy\"}", 15}},
    };
    struct state *s = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++) {
        struct kz_sql_expr *expr;
        bool holds = !cases[i].holds;

        assert_int_equal(
                kz_sql_compile(s->sql, KZ_SQL_PREDICTION, cases[i].text, place, &expr, NULL),
                KZ_OK);
        assert_int_equal(kz_sql_prediction_true(expr, predictions, 2, &holds, NULL), KZ_OK);
        assert_int_equal(holds, cases[i].holds);
        assert_int_equal(kz_sql_prediction_true(expr, NULL, 0, &holds, NULL), KZ_OK);
    }
    check_refused(
            s, KZ_SQL_PREDICTION, "other.score > 1", "f.sql:1:1: no such column: other.score");
    check_refused(s, KZ_SQL_PREDICTION, "purchase.prob > 1", "no such column: purchase.prob");
}

static void check_names(struct state *s, const char *text, const char *expected)
{
    struct kz_sql_expr *expr;
    const char *const *names;
    struct kz_buf got = {0};
    size_t count;

    assert_int_equal(kz_sql_compile(s->sql, KZ_SQL_EVENT, text, place, &expr, NULL), KZ_OK);
    kz_sql_event_names(expr, &names, &count);
    for (size_t i = 0; i < count; i++)
        kz_buf_printf(&got, "%s%s", i ? "," : "", names[i]);
    kz_buf_char(&got, '\0');
    if (strcmp(got.data, expected) != 0)
        fail_msg("%s gave names %s", text, got.data);
    kz_buf_done(&got);
}

static void test_event_names(void **state)
{
    static const char *const cases[][2] = {
            {"name = 'view'", "view"},
            {"'view' = name", "view"},
            {"NAME == 'it''s'", "it's"},
            {"\"name\" IN ('view', 'cart') AND price > 0", "view,cart"},
            {"price > 0 AND name = 'view'", "view"},
            {"(price > 0 AND (name = 'view'))", "view"},
            {"price BETWEEN 1 AND 2 AND name = 'view'", "view"},
            {"name = 'view' OR name = 'cart' AND price > 0", "view,cart"},
            {"lower(item) = 'x' AND name = 'view'", "view"},
            {"name = 'view' OR price > 0", ""},
            {"NOT name = 'view'", ""},
            {"name <> 'view'", ""},
            {"name = 'view' = 0", ""},
            {"price BETWEEN 1 AND name = 'view'", ""},
            {"name = 'view' COLLATE NOCASE", ""},
            {"name = item", ""},
            {"name NOT IN ('view')", ""},
            {"name IN ('view', item)", ""},
            {"name = 'view' || 'x'", ""},
            {"(name = 'view') + 1", ""},
            {"CASE WHEN price > 0 AND name = 'view' THEN 0 ELSE 1 END", ""},
            {"name = 'view' IS NULL", ""},
            {"(name = 'view' OR price > 0) AND (name = 'cart' OR name = 'x')", "cart,x"},
            {"price > 0 -- AND name = 'view'", ""},
            {"item = ' AND name = ''view'' AND '", ""},
    };
    struct state *s = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++)
        check_names(s, cases[i][0], cases[i][1]);
}

/* What a query reads, as "event_id name props" and the numbers of typed columns. */
static void check_reads(struct state *s, const char *text, const char *expected)
{
    struct kz_sql_expr *expr;
    struct kz_event_parts parts;
    struct kz_buf out = {0};
    struct kz_err err;

    if (kz_sql_compile(s->sql, KZ_SQL_FEATURES, text, place, &expr, &err) != KZ_OK)
        fail_msg("%s: %s", text, err.message);
    kz_sql_reads(expr, &parts);
    assert_int_equal(parts.columns_id, 77);
    kz_buf_printf(&out, "%s%s%s", parts.event_id ? "id " : "", parts.name ? "name " : "",
            parts.props ? "props " : "");
    for (int i = 0; i < 64; i++)
        if (parts.columns >> i & 1)
            kz_buf_printf(&out, "%d ", i);
    kz_buf_char(&out, '\0');
    if (strcmp(out.data, expected) != 0)
        fail_msg("%s: reads \"%s\", not \"%s\"", text, out.data, expected);
    kz_buf_done(&out);
}

static void test_what_a_query_reads_is_known(void **state)
{
    struct state *s = *state;

    check_reads(s, "SELECT 1 AS v", "");
    check_reads(s, "SELECT count(*) AS v FROM events", "");
    check_reads(s, "SELECT max(ts) - min(seq) + max(received_at) AS v FROM events", "");
    check_reads(s, "SELECT count(user_id) AS v FROM events WHERE client_ts > session", "");
    check_reads(s, "SELECT sum(price) FILTER (WHERE name = 'view') AS v FROM events", "name 1 ");
    check_reads(s, "SELECT (SELECT E.Qty FROM events AS E ORDER BY gift LIMIT 1) AS v", "2 3 ");
    check_reads(s, "SELECT count(*) AS v FROM events WHERE event_id = @event_id", "id ");
    check_reads(s, "SELECT max(props ->> '$.x') AS v FROM events", "props ");
    check_reads(s, "WITH e AS (SELECT * FROM events) SELECT count(*) AS v FROM e",
            "id name props 0 1 2 3 ");
    check_reads(s, "SELECT count(*) AS v FROM events JOIN (SELECT 'a' AS item) USING (item)", "0 ");
    check_reads(s, "SELECT count(*) AS v FROM events NATURAL JOIN (SELECT 'x' AS name)", "name ");
    check_reads(s, "SELECT count(*) AS v FROM events a, events b WHERE a.name = b.item", "name 0 ");
    check_reads(s,
            "SELECT count(DISTINCT item) AS v FROM events GROUP BY qty HAVING max(price) > 1",
            "0 1 2 ");
}

static void test_the_engine_has_a_name(void **state)
{
    (void)state;
    assert_true(strncmp(kz_sql_engine(), "sqlite 3.", 9) == 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
            T(test_parameters),
            T(test_functions),
            T(test_null_nan_and_infinity),
            T(test_the_columns_of_events),
            T(test_typed_columns_equal_props),
            T(test_as_of_is_the_rows_bound),
            T(test_one_row),
            T(test_texts_of_a_row_stay),
            T(test_errors_have_places),
            T(test_clock_and_chance_are_refused),
            T(test_steps_are_limited),
            T(test_skipped_rows_are_steps),
            T(test_having),
            T(test_when),
            T(test_unknown_columns_come_with_a_hint),
            T(test_what_other_engines_call_it_comes_with_a_hint),
            T(test_names_that_are_words_of_sql_come_with_a_hint),
            T(test_predictions),
            T(test_event_names),
            T(test_what_a_query_reads_is_known),
            T(test_the_engine_has_a_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
