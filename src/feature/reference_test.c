#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "contract/sql.h"

static char dir[] = "/tmp/kz_reference_XXXXXX";

static const char *file_with(const char *contents)
{
    static char path[64];
    FILE *file;

    snprintf(path, sizeof(path), "%s/t.csv", dir);
    file = fopen(path, "wb");
    assert_non_null(file);
    fwrite(contents, 1, strlen(contents), file);
    fclose(file);
    return path;
}

static struct kz_column_def columns[] = {
        {.name = "price", .type = KZ_TYPE_FLOAT, .place = {"kizashi.yaml", 9, 30}},
        {.name = "stock", .type = KZ_TYPE_INT, .place = {"kizashi.yaml", 10, 30}},
        {.name = "fresh", .type = KZ_TYPE_BOOL, .place = {"kizashi.yaml", 11, 30}},
};

static struct kz_table_def products = {
        .name = "products",
        .key = "item",
        .columns = columns,
        .column_count = 3,
        .place = {"kizashi.yaml", 8, 13},
};

static enum kz_code open_with(
        struct kz_table_def *tables, size_t count, struct kz_sql **ret_sql, struct kz_err *err)
{
    static struct kz_project project;

    project = (struct kz_project){
            .name = "shop", .file = "kizashi.yaml", .tables = tables, .table_count = count};
    *err = (struct kz_err){0};
    return kz_sql_open(&project, ret_sql, err);
}

static void check_value(struct kz_sql *sql, const char *expression, const char *expected)
{
    static const struct kz_sql_params params;
    static const struct kz_history_rows rows;
    struct kz_sql_expr *expr;
    struct kz_err err;
    struct kz_row row;
    char text[500];

    snprintf(text, sizeof(text), "SELECT CAST(%s AS TEXT) AS v", expression);
    if (kz_sql_compile(sql, KZ_SQL_FEATURES, text, (struct kz_place){0}, &expr, &err) != KZ_OK ||
            kz_sql_features(expr, &rows, &params, 0, &row, &err) != KZ_OK)
        fail_msg("%s: %s", expression, err.message);
    if (!kz_str_is(row.values[0].text, expected))
        fail_msg("%s: " KZ_STR_FMT, expression, KZ_STR_ARG(row.values[0].text));
}

static void test_types_and_keys(void **state)
{
    struct kz_table_def table = products;
    struct kz_sql *sql;
    struct kz_err err;

    (void)state;
    table.file = file_with("\xEF\xBB\xBFitem,price,stock,fresh,note\r\n"
                           "a,10,3,true,\"says \"\"hi\"\"\"\r\n"
                           "b,2.5,-7,0,\n"
                           "007,,,,x\n");
    assert_int_equal(open_with(&table, 1, &sql, &err), KZ_OK);
    check_value(sql,
            "(SELECT group_concat(typeof(item) || typeof(price) || typeof(stock) || typeof(fresh) "
            "|| "
            "typeof(note)) FROM products)",
            "textrealintegerintegertext,textrealintegerintegernull,textnullnullnulltext");
    check_value(sql, "(SELECT price FROM products WHERE item = 'a')", "10.0");
    check_value(sql, "(SELECT note FROM products WHERE item = 'a')", "says \"hi\"");
    check_value(sql, "(SELECT item FROM products WHERE price IS NULL)", "007");
    check_value(sql, "(SELECT fresh FROM products WHERE item = 'b')", "0");
    kz_sql_close(sql);
}

static void test_bad_files_have_places(void **state)
{
    static const struct {
        const char *contents, *error; /* behind the file's name */
    } cases[] = {
            {"item,price,stock,fresh\na,10,3,true\nb,cheap,3,true\n",
                    ":3:3: not a finite number: \"cheap\""},
            {"item,price,stock,fresh\na,1e999,3,true\n", ":2:3: not a finite number: \"1e999\""},
            {"item,price,stock,fresh\na,nan,3,true\n", ":2:3: not a finite number: \"nan\""},
            {"item,price,stock,fresh\na,0x10,3,true\n", ":2:3: not a finite number: \"0x10\""},
            {"item,price,stock,fresh\n日本,1,3.5,true\n", ":2:6: not an integer: \"3.5\""},
            {"item,price,stock,fresh\na,1,99999999999999999999,true\n",
                    ":2:5: not an integer: \"99999999999999999999\""},
            {"item,price,stock,fresh\na,1,2,maybe\n", ":2:7: neither true nor false: \"maybe\""},
            {"item,price,stock\na,1,2\n",
                    ":1:1: column \"fresh\", declared in kizashi.yaml:11:30, is not in the header"},
            {"sku,price,stock,fresh\n", ":1:1: the key \"item\" is not in the header"},
            {"item,price,stock,fresh,ITEM\n", ":1:24: a second column \"ITEM\""},
            {"item,price,stock,fresh,\n", ":1:24: column 5 has no name"},
            {"item,price,stock,fresh\na,1,2\n", ":2:1: 3 cells, but the header names 4 columns"},
            {"", ":1:1: the file is empty; its first row has to name the columns"},
            {"item,price,stock,fresh\n\xff,1,2,1\n", ":2:1: not UTF-8"},
    };
    struct kz_table_def table = products;
    struct kz_sql *sql;
    struct kz_err err;

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++) {
        table.file = file_with(cases[i].contents);
        assert_int_equal(open_with(&table, 1, &sql, &err), KZ_CONFIG);
        assert_int_equal(err.code, KZ_CONFIG);
        assert_true(strncmp(err.message, table.file, strlen(table.file)) == 0);
        assert_string_equal(err.message + strlen(table.file), cases[i].error);
    }
    table.file = file_with("item,price,stock,fresh\n\"a,1,2,1\n");
    assert_int_equal(open_with(&table, 1, &sql, &err), KZ_CONFIG);
    assert_true(strncmp(err.message, table.file, strlen(table.file)) == 0);
    table.file = "/nonexistent/t.csv";
    assert_int_equal(open_with(&table, 1, &sql, &err), KZ_CONFIG);
    assert_non_null(strstr(err.message, "kizashi.yaml:8:13: table products"));
}

static void test_sql_tables_in_any_order(void **state)
{
    struct kz_table_def tables[] = {
            {.name = "best",
                    .sql = "SELECT max(avg_price) AS p FROM averages;",
                    .place = {"k.yaml", 3, 1}},
            {.name = "averages",
                    .key = "fresh",
                    .sql = "SELECT fresh, avg(price) AS avg_price FROM products GROUP BY 1 -- each",
                    .place = {"k.yaml", 4, 1}},
            products,
    };
    struct kz_sql *sql;
    struct kz_err err;
    uint64_t hash;

    (void)state;
    tables[2].file = file_with("item,price,stock,fresh\na,1,1,1\nb,3,1,1\nc,7,1,0\n");
    assert_int_equal(open_with(tables, 3, &sql, &err), KZ_OK);
    check_value(sql, "(SELECT p FROM best)", "7.0");
    check_value(sql, "(SELECT avg_price FROM averages WHERE fresh = 1)", "2.0");
    hash = kz_sql_tables_hash(sql);
    kz_sql_close(sql);

    /* The order of declaration is nothing to the hash; the contents are. */
    assert_int_equal(
            open_with((struct kz_table_def[]){tables[2], tables[0], tables[1]}, 3, &sql, &err),
            KZ_OK);
    assert_true(kz_sql_tables_hash(sql) == hash);
    kz_sql_close(sql);
    tables[2].file = file_with("item,price,stock,fresh\na,1,1,1\nb,3,1,1\nc,7,2,0\n");
    assert_int_equal(open_with(tables, 3, &sql, &err), KZ_OK);
    assert_true(kz_sql_tables_hash(sql) != hash);
    kz_sql_close(sql);
}

static void test_bad_sql_tables(void **state)
{
    static const struct {
        const char *sql, *key, *error;
    } cases[] = {
            {"SELECT 1 AS a FROM averages", NULL,
                    "k.yaml:3:7: table averages needs itself, directly or through other tables"},
            {"SELECT 1 AS a,\n x FROM json_each('[]')", NULL, "k.yaml:4:2: no such column: x"},
            {"SELECT 1 AS a FROM nowhere", NULL, "k.yaml:3:26: no such table: nowhere"},
            {"SELECT random() AS a", NULL,
                    "k.yaml:3:14: random() is random; the same history must give the same result"},
            {"SELECT count(*) AS a FROM events", NULL,
                    "k.yaml:3:7: events is not to be seen here, only in features and having"},
            {"SELECT 1 AS a; SELECT 2", NULL, "k.yaml:3:22: only one statement is expected"},
            {"SELECT 1 AS a", "b",
                    "k.yaml:3:7: table averages: its SQL gives no column \"b\", which is to be its "
                    "key"},
            {"DELETE FROM averages", NULL,
                    "k.yaml:3:7: table averages needs itself, directly or through other tables"},
    };
    struct kz_sql *sql;
    struct kz_err err;

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++) {
        struct kz_table_def table = {.name = "averages",
                .sql = cases[i].sql,
                .key = cases[i].key,
                .place = {"k.yaml", 3, 7}};

        assert_int_equal(open_with(&table, 1, &sql, &err), KZ_CONFIG);
        assert_string_equal(err.message, cases[i].error);
    }
    assert_int_equal(open_with(&(struct kz_table_def){.name = "Events",
                                       .sql = "SELECT 1 AS a",
                                       .place = {"k.yaml", 3, 7}},
                             1, &sql, &err),
            KZ_CONFIG);
    assert_string_equal(err.message, "k.yaml:3:7: table \"Events\": the name is taken");
}

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    (void)unlink(file_with(""));
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_types_and_keys),
            cmocka_unit_test(test_bad_files_have_places),
            cmocka_unit_test(test_sql_tables_in_any_order),
            cmocka_unit_test(test_bad_sql_tables),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
