/* The virtual table `events` against a real table of the same rows: random WHERE and ORDER BY must
 * give the same, whatever the virtual table takes over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "feature/fixture_int.h"
#include "feature/sql_int.h"

enum { ROWS = 40, QUERIES = 6000 };

static struct kz_column_def columns[] = {
        {.name = "item", .path = "$.item", .type = KZ_TYPE_TEXT},
        {.name = "price", .path = "$.price", .type = KZ_TYPE_FLOAT},
};
static const struct kz_project project = {
        .name = "shop",
        .file = "kizashi.yaml",
        .events = {.columns = columns, .column_count = 2, .columns_id = 7},
};

static uint64_t seed = 0x65766e7473;

static unsigned below(unsigned n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)((seed >> 11) % n);
}

#define PICK(array) ((array)[below(KZ_ARRAY_COUNT(array))])

static void fill(struct fixture *f, sqlite3 *db)
{
    static const char *const names[] = {"view", "cart", "purchase", "5", "", "abc"};
    char ids[ROWS][16];

    assert_int_equal(
            sqlite3_exec(db,
                    "CREATE TABLE events(seq INTEGER, event_id TEXT, name TEXT, ts INTEGER, "
                    "session INTEGER, item TEXT, price REAL); CREATE TABLE other(i INTEGER, t "
                    "TEXT, "
                    "n); INSERT INTO other VALUES(5, '5', 5), (12, 'view', 'view'), (NULL, 'cart', "
                    "2.5), (3, 'e7', NULL)",
                    NULL, NULL, NULL),
            SQLITE_OK);
    for (int i = 0; i < ROWS; i++) {
        struct kz_value values[2] = {value_text(PICK(names)), value_real(below(4) / 2.0)};
        struct kz_event event = {
                .event_id = kz_str(ids[i]),
                .user_id = kz_str("u"),
                .name = kz_str(PICK(names)),
                .ts_ms = below(20) ? below(30) : INT64_MAX,
                .session = below(5),
                .seq = (uint64_t)(3 * i + 1),
                .columns_id = 7,
                .column_count = 2,
                .columns = values,
        };
        char *insert;

        snprintf(ids[i], sizeof(ids[i]), "e%d", i % 33);
        event.event_id = kz_str(ids[i]);
        insert = sqlite3_mprintf("INSERT INTO events VALUES(%lld, %Q, %Q, %lld, %lld, %Q, %f)",
                (long long)event.seq, ids[i], event.name.ptr, (long long)event.ts_ms,
                (long long)event.session, values[0].text.ptr, values[1].real);
        assert_int_equal(sqlite3_exec(db, insert, NULL, NULL, NULL), SQLITE_OK);
        sqlite3_free(insert);
        fixture_add(f, &event);
    }
}

static void term(struct kz_buf *out)
{
    static const char *const ints[] = {"seq", "ts", "session", "e.seq", "e.ts"};
    static const char *const texts[] = {"name", "event_id", "e.name"};
    static const char *const ops[] = {"=", "<", "<=", ">", ">=", "IS", "<>"};
    static const char *const values[] = {"0", "5", "12", "12.5", "-1", "1e30", "-1e30", "NULL",
            "'7'", "'7.5'", "' 7 '", "'abc'", "x'00'", "9223372036854775807",
            "-9223372036854775808", "9223372036854775807.0", "(SELECT i FROM other LIMIT 1)",
            "(SELECT t FROM other LIMIT 1)", "(SELECT n FROM other LIMIT 1)", "'view'", "'cart'",
            "'e7'", "'e' || 8", "''", "40", "61.0"};
    static const char *const sets[] = {"('view', 'cart')", "('view')", "(5, 'cart')",
            "(NULL, 'view')", "(SELECT t FROM other)", "(SELECT i FROM other)",
            "(SELECT n FROM other)", "(1, 4, 13, 20)", "('1', 4.0, 'x')", "()"};

    switch (below(8)) {
    case 0:
        kz_buf_printf(out, "%s BETWEEN %s AND %s", PICK(ints), PICK(values), PICK(values));
        break;
    case 1:
    case 2:
        kz_buf_printf(out, "%s %sIN %s", below(2) ? PICK(ints) : PICK(texts),
                below(4) ? "" : "NOT ", PICK(sets));
        break;
    case 3:
    case 4:
        kz_buf_printf(out, "%s %s %s", PICK(texts), below(3) ? "=" : PICK(ops), PICK(values));
        break;
    default:
        kz_buf_printf(out, "%s %s %s", PICK(ints), PICK(ops), PICK(values));
    }
}

static void query(struct kz_buf *out)
{
    static const char *const froms[] = {"events AS e", "events AS e", "events AS e",
            "events AS e JOIN other AS o ON e.name = o.t",
            "events AS e JOIN other AS o ON e.ts >= o.i",
            "events AS e JOIN other AS o ON e.name = o.i",
            "events AS e JOIN other AS o ON e.seq = o.n"};
    static const char *const orders[] = {
            "seq", "seq DESC", "seq DESC, name", "name, seq", "ts DESC, seq"};
    unsigned terms = below(4);

    kz_buf_printf(out,
            "SELECT group_concat(s || ':' || quote(i) || ':' || quote(p), ' ') AS v FROM (SELECT "
            "seq AS s, item AS i, price AS p FROM %s",
            PICK(froms));
    for (unsigned i = 0; i < terms; i++) {
        kz_buf_cstr(out, i ? (below(5) ? " AND " : " OR ") : " WHERE ");
        term(out);
    }
    kz_buf_printf(out, " ORDER BY %s%s)", PICK(orders), below(3) ? "" : " LIMIT 5 OFFSET 1");
}

/* A history that has only the columns SQLite said it would use gives the same. */
static void check_parts(struct kz_sql_expr *expr, const struct fixture *f,
        const struct kz_sql_params *params, const char *text, const char *want)
{
    static struct fixture stripped;
    struct kz_event_parts parts;
    struct kz_row row;
    struct kz_err err;

    kz_sql_reads(expr, &parts);
    fixture_strip(f, &parts, &stripped);
    if (kz_sql_features(expr, &stripped.rows, params, 0, &row, &err) != KZ_OK)
        fail_msg("%s: %s", text, err.message);
    if ((want != NULL) != (row.values[0].type == KZ_TYPE_TEXT) ||
            (want && !kz_str_is(row.values[0].text, want)))
        fail_msg("%s: another result on the parts it reads", text);
    fixture_done(&stripped);
}

static void test_agrees_with_a_table(void **state)
{
    struct fixture f = {0};
    struct kz_buf text = {0};
    struct kz_sql *sql = NULL;
    size_t found = 0, joined = 0;
    sqlite3 *db;

    (void)state;
    assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
    fill(&f, db);
    for (unsigned i = 0; i < QUERIES; i++) {
        static const struct kz_sql_params params = {.user_id = {"u", 1}};
        sqlite3_stmt *stmt = NULL;
        struct kz_sql_expr *expr;
        const char *want;
        struct kz_err err;
        struct kz_row row;

        if (i % 500 == 0) {
            kz_sql_close(sql);
            assert_int_equal(kz_sql_open(&project, &sql, NULL), KZ_OK);
            sql->scope = KZ_SCOPE_SETUP;
            assert_int_equal(
                    sqlite3_exec(sql->db,
                            "CREATE TABLE other(i INTEGER, t TEXT, n); INSERT INTO other VALUES(5, "
                            "'5', 5), (12, 'view', 'view'), (NULL, 'cart', 2.5), (3, 'e7', NULL)",
                            NULL, NULL, NULL),
                    SQLITE_OK);
            sqlite3_set_authorizer(sql->db, NULL, NULL); /* `other` is not a reference table */
        }
        kz_buf_clear(&text);
        query(&text);
        kz_buf_char(&text, '\0');
        if (kz_sql_compile(sql, KZ_SQL_FEATURES, text.data, (struct kz_place){0}, &expr, &err) !=
                KZ_OK)
            fail_msg("%s: %s", text.data, err.message);
        if (kz_sql_features(expr, &f.rows, &params, 0, &row, &err) != KZ_OK)
            fail_msg("%s: %s", text.data, err.message);
        assert_int_equal(sqlite3_prepare_v2(db, text.data, -1, &stmt, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
        want = (const char *)sqlite3_column_text(stmt, 0);
        joined += strstr(text.data, "JOIN") && want;
        found += want != NULL;
        if ((want != NULL) != (row.values[0].type == KZ_TYPE_TEXT) ||
                (want && !kz_str_is(row.values[0].text, want)))
            fail_msg("%s\n  table: %s\n  ours:  " KZ_STR_FMT, text.data, want ? want : "NULL",
                    want && row.values[0].type == KZ_TYPE_TEXT ? (int)row.values[0].text.size : 0,
                    want && row.values[0].type == KZ_TYPE_TEXT ? row.values[0].text.ptr : "");
        check_parts(expr, &f, &params, text.data, want);
        sqlite3_finalize(stmt);
    }
    assert_true(found > QUERIES / 4);
    assert_true(joined > QUERIES / 20);
    kz_sql_close(sql);
    sqlite3_close(db);
    kz_buf_done(&text);
    fixture_done(&f);
}

static const char *plan_of(struct kz_sql *sql, const char *text, char out[512])
{
    char *explain = sqlite3_mprintf("EXPLAIN QUERY PLAN %s", text);
    sqlite3_stmt *stmt = NULL;

    out[0] = '\0';
    sql->scope = KZ_SCOPE_SETUP;
    assert_int_equal(sqlite3_prepare_v2(sql->db, explain, -1, &stmt, NULL), SQLITE_OK);
    while (sqlite3_step(stmt) == SQLITE_ROW) {
        strcat(out, *out ? "; " : "");
        strcat(out, (const char *)sqlite3_column_text(stmt, 3));
    }
    sqlite3_finalize(stmt);
    sqlite3_free(explain);
    return out;
}

/* Sorting by seq costs nothing, and what is asked of seq, ts and name is asked of the table. */
static void test_plans(void **state)
{
    struct kz_sql *sql;
    char out[512];

    (void)state;
    assert_int_equal(kz_sql_open(&project, &sql, NULL), KZ_OK);
    assert_string_equal(plan_of(sql, "SELECT seq FROM events ORDER BY seq", out),
            "SCAN events VIRTUAL TABLE INDEX 0:");
    assert_string_equal(plan_of(sql, "SELECT seq FROM events ORDER BY seq DESC LIMIT 1", out),
            "SCAN events VIRTUAL TABLE INDEX 1:");
    assert_string_equal(
            plan_of(sql, "SELECT 1 FROM events WHERE ts > 5 AND name = 'x' AND seq <= 7", out),
            "SCAN events VIRTUAL TABLE INDEX 0:t>n=sL");
    assert_string_equal(
            plan_of(sql, "SELECT 1 FROM events WHERE name IN ('x', 'y') ORDER BY seq DESC", out),
            "SCAN events VIRTUAL TABLE INDEX 1:N=");
    assert_string_equal(plan_of(sql, "SELECT seq FROM events ORDER BY ts", out),
            "SCAN events VIRTUAL TABLE INDEX 0:; USE TEMP B-TREE FOR ORDER BY");
    kz_sql_close(sql);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_agrees_with_a_table),
            cmocka_unit_test(test_plans),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
