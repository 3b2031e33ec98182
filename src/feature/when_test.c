/* kz_when against SQLite: random expressions over random events must agree, and so must the event
 * names read out of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "feature/fixture_int.h"
#include "feature/sql_int.h"

enum { EXPRESSIONS = 20000, EVENTS = 24 };

static struct kz_column_def columns[] = {
        {.name = "item", .path = "$.item", .type = KZ_TYPE_TEXT},
        {.name = "price", .path = "$.price", .type = KZ_TYPE_FLOAT},
        {.name = "qty", .path = "$.qty", .type = KZ_TYPE_INT},
        {.name = "gift", .path = "$.gift", .type = KZ_TYPE_BOOL},
};
static const struct kz_project project = {
        .name = "shop",
        .file = "kizashi.yaml",
        .events = {.columns = columns, .column_count = 4, .columns_id = 7},
};

static uint64_t seed = 0x6b697a61736869;

static unsigned below(unsigned n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)((seed >> 11) % n);
}

#define PICK(array) ((array)[below(KZ_ARRAY_COUNT(array))])

static const char *const numbers[] = {"0", "1", "-1", "2", "7", "2.5", "-0.0", "1e3", "0.1",
        "9007199254740993", "9223372036854775807", "-9223372036854775808", "9223372036854775808",
        "1e308", "1e999", ".5", "5.", "3", "12.5", "NULL", "TRUE", "FALSE"};
static const char *const texts[] = {
        "'view'", "'cart'", "''", "'a'", "'B'", "'it''s'", "'7'", "NULL", "'日本'"};
static const char *const number_columns[] = {
        "price", "qty", "gift", "ts", "client_ts", "session", "PRICE", "\"qty\"", "received_at"};
static const char *const text_columns[] = {"name", "item", "user_id", "Name", "[name]"};

static void number(struct kz_buf *out, unsigned depth);

static void boolean(struct kz_buf *out, unsigned depth)
{
    static const char *const orders[] = {"=", "==", "<>", "!=", "<", "<=", ">", ">="};
    static const char *const ins[] = {" IN (", " NOT IN ("};
    static const char *const ises[] = {" IS ", " IS NOT "};
    bool text = below(2);
    unsigned form = depth ? below(12) : 4 + below(5);

    switch (form) {
    case 0:
    case 1:
        boolean(out, depth - 1);
        kz_buf_cstr(out, below(2) ? " AND " : " or ");
        boolean(out, depth - 1);
        return;
    case 2:
        kz_buf_cstr(out, "NOT ");
        boolean(out, depth - 1);
        return;
    case 3:
        kz_buf_cstr(out, "(");
        boolean(out, depth - 1);
        kz_buf_cstr(out, ")");
        return;
    case 9: /* any operand, so that precedences meet */
        number(out, depth - 1);
        kz_buf_printf(out, " %s ", PICK(orders));
        boolean(out, depth - 1);
        return;
    case 10:
        number(out, depth - 1);
        return;
    }
    if (text)
        kz_buf_cstr(out, below(8) ? PICK(text_columns) : PICK(texts));
    else
        number(out, depth ? depth - 1 : 0);
    switch (form) {
    case 4:
    case 5:
        kz_buf_printf(out, " %s ", PICK(orders));
        break;
    case 6:
        kz_buf_cstr(out, PICK(ises));
        break;
    case 7:
        kz_buf_cstr(out, PICK(ins));
        for (unsigned i = below(4);; i--) {
            kz_buf_cstr(out, text ? PICK(texts) : PICK(numbers));
            if (!i)
                break;
            kz_buf_cstr(out, ", ");
        }
        kz_buf_cstr(out, ")");
        return;
    default:
        kz_buf_cstr(out, below(3) ? " BETWEEN " : " NOT BETWEEN ");
        if (text)
            kz_buf_printf(out, "%s AND ", PICK(texts));
        else {
            number(out, depth ? depth - 1 : 0);
            kz_buf_cstr(out, " AND ");
        }
    }
    /* Now and then of the other class: then SQLite's affinities decide, and we must leave it to it.
     */
    if (text != (below(20) == 0))
        kz_buf_cstr(out, below(4) ? PICK(texts) : PICK(text_columns));
    else
        number(out, depth ? depth - 1 : 0);
}

static void number(struct kz_buf *out, unsigned depth)
{
    static const char *const operators[] = {" + ", " - ", " * ", " / ", "-", "+"};

    switch (depth ? below(6) : below(2)) {
    case 0:
    case 4:
        kz_buf_cstr(out, PICK(numbers));
        break;
    case 1:
    case 5:
        kz_buf_cstr(out, PICK(number_columns));
        break;
    case 2:
        number(out, depth - 1);
        kz_buf_cstr(out, PICK(operators));
        kz_buf_cstr(out, below(6) ? "" : " - ");
        number(out, depth - 1);
        break;
    default:
        kz_buf_cstr(out, below(3) ? "(" : "-(");
        if (below(3))
            number(out, depth - 1);
        else
            boolean(out, depth - 1);
        kz_buf_cstr(out, ")");
    }
}

static void random_event(struct kz_event *event, struct kz_value values[4])
{
    static const char *const names[] = {"view", "cart", "purchase", "", "a", "7", "日本"};
    static const double reals[] = {0, -0.0, 1, 2.5, -1, 7, 12.5, 1e308, INFINITY, -INFINITY, NAN,
            0.1, 1000, 9007199254740992.0, 9223372036854775808.0};
    static const int64_t ints[] = {0, 1, -1, 2, 7, 1000, INT64_MAX, INT64_MIN, 9007199254740993, 3};

    values[0] = below(5) ? value_text(PICK(names)) : value_text(NULL);
    values[1] = below(5) ? value_real(PICK(reals)) : value_text(NULL);
    values[2] = below(5) ? value_int(PICK(ints)) : value_text(NULL);
    values[3] = below(5) ? value_bool(below(2)) : value_text(NULL);
    *event = (struct kz_event){
            .event_id = kz_str("e"),
            .user_id = kz_str(PICK(names)),
            .anonymous_id = kz_str("a"),
            .name = kz_str(PICK(names)),
            .ts_ms = PICK(ints),
            .client_ts_ms = PICK(ints),
            .received_at_ms = PICK(ints),
            .session = below(4),
            .column_count = (uint16_t)(below(10) ? 4 : below(4)),
            .columns = values,
    };
}

static bool by_sqlite(struct kz_sql_expr *expr, const struct kz_event *event)
{
    struct kz_when *when = expr->when;
    struct kz_err err;
    bool holds;

    expr->when = NULL;
    if (kz_sql_event_true(expr, event, &holds, &err) != KZ_OK)
        fail_msg("%s: %s", expr->text, err.message);
    expr->when = when;
    return holds;
}

static void check_names(const struct kz_sql_expr *expr, const struct kz_event *event)
{
    bool named = expr->name_count == 0;

    for (size_t i = 0; i < expr->name_count; i++)
        named |= kz_str_is(event->name, expr->names[i]);
    if (!named)
        fail_msg("holds for an event \"" KZ_STR_FMT "\" that its names leave out: %s",
                KZ_STR_ARG(event->name), expr->text);
}

static void test_agrees_with_sqlite(void **state)
{
    struct kz_buf text = {0};
    struct kz_sql *sql = NULL;
    size_t own = 0, named = 0, held = 0, compiled = 0;

    (void)state;
    for (unsigned i = 0; i < EXPRESSIONS; i++) {
        struct kz_sql_expr *expr;

        if (i % 1000 == 0) { /* expressions live as long as the engine */
            kz_sql_close(sql);
            assert_int_equal(kz_sql_open(&project, &sql, NULL), KZ_OK);
        }
        kz_buf_clear(&text);
        boolean(&text, below(4));
        kz_buf_char(&text, '\0');
        /* Sometimes what we made is no SQL (NOT behind an operator): nothing to compare then. */
        if (kz_sql_compile(sql, KZ_SQL_EVENT, text.data, (struct kz_place){0}, &expr, NULL) !=
                KZ_OK)
            continue;
        compiled++;
        own += expr->when != NULL;
        named += expr->name_count > 0;
        for (unsigned k = 0; k < EVENTS; k++) {
            struct kz_value values[4];
            struct kz_event event;
            bool ours, theirs;

            random_event(&event, values);
            theirs = by_sqlite(expr, &event);
            held += theirs;
            if (theirs)
                check_names(expr, &event);
            if (!expr->when)
                continue;
            assert_true(kz_when_true(expr->when, &project, &event, &ours));
            if (ours != theirs)
                fail_msg("%s: we say %d, event %u of expression %u", text.data, ours, k, i);
        }
    }
    kz_sql_close(sql);
    kz_buf_done(&text);
    /* The test must not have passed by comparing nothing. */
    assert_true(compiled > EXPRESSIONS * 9 / 10);
    assert_true(own > compiled / 2);
    assert_true(named > 300);
    assert_true(held > EXPRESSIONS);
}

static void test_what_is_understood(void **state)
{
    static const struct {
        const char *text;
        bool own;
    } cases[] = {
            {"name IN ('view', 'cart') AND (price IS NULL OR price > 0)", true},
            {"name = 'cart'", true},
            {"price * qty - 1 >= 3 AND NOT gift", true},
            {"price BETWEEN 1 AND 2 AND item IS NOT NULL", true},
            {"item > 5", false},
            {"price > '5'", false},
            {"item + 1 > 2", false},
            {"lower(name) = 'view'", false},
            {"name LIKE 'v%'", false},
            {"gift IS TRUE", false},
            {"price IS NOT DISTINCT FROM 1", false},
            {"qty % 2 = 0", false},
            {"name = 'a' || 'b'", false},
            {"name = 'view' COLLATE NOCASE", false},
            {"item", false},
    };
    struct kz_sql *sql;

    (void)state;
    assert_int_equal(kz_sql_open(&project, &sql, NULL), KZ_OK);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++) {
        struct kz_sql_expr *expr;

        if (kz_sql_compile(sql, KZ_SQL_EVENT, cases[i].text, (struct kz_place){0}, &expr, NULL) !=
                KZ_OK)
            continue; /* newer than this SQLite */
        if ((expr->when != NULL) != cases[i].own)
            fail_msg("%s: understood %d", cases[i].text, expr->when != NULL);
    }
    kz_sql_close(sql);
}

/* A column whose value is of another type than declared goes to SQLite, which casts it. */
static void test_values_of_another_type(void **state)
{
    struct kz_value values[4] = {value_int(5), value_int(3), value_real(2), value_text("1")};
    struct kz_event event = {.name = {"view", 4}, .column_count = 4, .columns = values};
    struct kz_sql_expr *expr;
    struct kz_sql *sql;
    bool holds = false;

    (void)state;
    assert_int_equal(kz_sql_open(&project, &sql, NULL), KZ_OK);
    assert_int_equal(
            kz_sql_compile(sql, KZ_SQL_EVENT, "item = '5' AND price = 3 AND qty = 2 AND gift",
                    (struct kz_place){0}, &expr, NULL),
            KZ_OK);
    assert_non_null(expr->when);
    assert_int_equal(kz_sql_event_true(expr, &event, &holds, NULL), KZ_OK);
    assert_true(holds);
    kz_sql_close(sql);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_agrees_with_sqlite),
            cmocka_unit_test(test_what_is_understood),
            cmocka_unit_test(test_values_of_another_type),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
