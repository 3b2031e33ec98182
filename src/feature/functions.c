#include "feature/functions.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <stdio.h>
#include <strings.h>

#include "codec/duration.h"
#include "codec/json.h"
#include "codec/timefmt.h"

/* A text or blob argument's bytes. sqlite3_value_text() would copy a text that has no NUL behind
 * it, as ours in the log have none; sqlite3_value_blob() does not. */
static struct kz_str arg_str(sqlite3_value *value)
{
    const void *ptr = sqlite3_value_blob(value);

    return kz_str_n(ptr, (size_t)sqlite3_value_bytes(value));
}

static void sql_duration(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    struct kz_err err;
    int64_t ms;

    (void)argc;
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    if (sqlite3_value_type(argv[0]) != SQLITE_TEXT) {
        sqlite3_result_error(ctx, "duration() takes a text such as '5m'", -1);
    } else if (kz_duration_parse(arg_str(argv[0]), &ms, &err) != KZ_OK) {
        sqlite3_result_error(ctx, err.message, -1);
    } else {
        sqlite3_result_int64(ctx, ms);
    }
}

/* ---- local time ---------------------------------------------------------------------------------
 *
 * A zone written in the query is checked when the query is compiled. One that comes from data and
 * is unknown gives NULL: a visitor's bad time zone must not fail everything about the visitor. */

static bool local_seconds(sqlite3_context *ctx, sqlite3_value **argv, int64_t *ret_s)
{
    struct kz_functions *functions = sqlite3_user_data(ctx);
    const struct kz_zone *zone;
    int64_t ms, s;

    if (sqlite3_value_numeric_type(argv[0]) != SQLITE_INTEGER &&
            sqlite3_value_numeric_type(argv[0]) != SQLITE_FLOAT)
        return false;
    if (sqlite3_value_type(argv[1]) != SQLITE_TEXT ||
            kz_zones_get(&functions->zones, arg_str(argv[1]), &zone, NULL) != KZ_OK)
        return false;
    ms = sqlite3_value_int64(argv[0]);
    s = ms / 1000 - (ms % 1000 < 0);
    *ret_s = s + kz_zone_offset_s(zone, s);
    return true;
}

static void sql_local_hour(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    int64_t s;

    (void)argc;
    if (local_seconds(ctx, argv, &s))
        sqlite3_result_int64(ctx, ((s % 86400 + 86400) % 86400) / 3600);
}

static void sql_local_day(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    unsigned month, day;
    int64_t s, year;
    char text[40];

    (void)argc;
    if (!local_seconds(ctx, argv, &s))
        return;
    kz_civil_from_days(s / 86400 - (s % 86400 < 0), &year, &month, &day);
    snprintf(text, sizeof(text), "%04lld-%02u-%02u", (long long)year, month, day);
    sqlite3_result_text(ctx, text, -1, SQLITE_TRANSIENT);
}

/* ---- JSON_VALUE ---------------------------------------------------------------------------------
 */

static void result_json(sqlite3_context *ctx, struct kz_json_value value)
{
    struct kz_json_number number;
    struct kz_buf buf = {0};

    switch (value.kind) {
    case KZ_JSON_TRUE:
    case KZ_JSON_FALSE:
        sqlite3_result_int(ctx, value.kind == KZ_JSON_TRUE);
        break;
    case KZ_JSON_INT:
    case KZ_JSON_FLOAT:
        if (kz_json_number(value, &number, NULL) != KZ_OK)
            break;
        if (number.is_int)
            sqlite3_result_int64(ctx, number.i64);
        else
            sqlite3_result_double(ctx, number.f64);
        break;
    case KZ_JSON_STRING:
        kz_json_unescape(value, &buf);
        sqlite3_result_text64(
                ctx, buf.data ? buf.data : "", buf.size, SQLITE_TRANSIENT, SQLITE_UTF8);
        kz_buf_done(&buf);
        break;
    default: /* null, nothing there, or an object or array, which is no value */
        break;
    }
}

/* As in the SQL standard and BigQuery: a scalar at a path, NULL where there is none or it is an
 * object or array. Numbers stay numbers, as with ->>. */
static void sql_json_value(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    struct kz_json_value root;
    struct kz_str path;

    (void)argc;
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL || sqlite3_value_type(argv[1]) == SQLITE_NULL)
        return;
    path = arg_str(argv[1]);
    /* The path is most often a literal: it is checked once for a statement. */
    if (!sqlite3_get_auxdata(ctx, 1)) {
        static const char checked = 1;
        struct kz_err err;

        if (kz_json_path_check(path, &err) != KZ_OK) {
            sqlite3_result_error(ctx, err.message, -1);
            return;
        }
        sqlite3_set_auxdata(ctx, 1, (void *)&checked, NULL);
    }
    if (sqlite3_value_type(argv[0]) != SQLITE_TEXT)
        return;
    if (kz_json_parse(arg_str(argv[0]), 0, &root, NULL) != KZ_OK)
        return;
    result_json(ctx, kz_json_get_path(root, path));
}

/* ---- stddev and median --------------------------------------------------------------------------
 */

/* Welford's running mean and sum of squares; the inverse for window frames. */
struct deviation {
    int64_t count;
    double mean, squares;
};

static void stddev_step(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    struct deviation *d;
    double x, delta;

    (void)argc;
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    d = sqlite3_aggregate_context(ctx, sizeof(*d));
    if (!d)
        return;
    x = sqlite3_value_double(argv[0]);
    d->count++;
    delta = x - d->mean;
    d->mean += delta / (double)d->count;
    d->squares += delta * (x - d->mean);
}

static void stddev_inverse(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    struct deviation *d;
    double x, delta;

    (void)argc;
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    d = sqlite3_aggregate_context(ctx, sizeof(*d));
    if (!d)
        return;
    x = sqlite3_value_double(argv[0]);
    if (--d->count == 0) {
        *d = (struct deviation){0};
        return;
    }
    delta = x - d->mean;
    d->mean -= delta / (double)d->count;
    d->squares -= delta * (x - d->mean);
}

static void stddev_value(sqlite3_context *ctx)
{
    struct deviation *d = sqlite3_aggregate_context(ctx, 0);

    if (d && d->count >= 2)
        sqlite3_result_double(ctx, sqrt(KZ_MAX(d->squares, 0.0) / (double)(d->count - 1)));
}

/* Values in the order they came, [head, count); a window frame drops them from the front. */
struct samples {
    double *values;
    size_t head, count, capacity;
};

static void median_step(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    struct samples *s;

    (void)argc;
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    s = sqlite3_aggregate_context(ctx, sizeof(*s));
    if (!s)
        return;
    if (s->count == s->capacity) {
        size_t capacity = s->capacity ? 2 * s->capacity : 64;
        double *values = sqlite3_realloc64(s->values, capacity * sizeof(*values));

        if (!values) {
            sqlite3_result_error_nomem(ctx);
            return;
        }
        s->values = values;
        s->capacity = capacity;
    }
    s->values[s->count++] = sqlite3_value_double(argv[0]);
}

static void median_inverse(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    struct samples *s;

    (void)argc;
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    s = sqlite3_aggregate_context(ctx, sizeof(*s));
    if (s && s->head < s->count)
        s->head++;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median_of(double *values, size_t count)
{
    double low, high;

    qsort(values, count, sizeof(*values), by_value);
    low = values[(count - 1) / 2];
    high = values[count / 2];
    /* Halved first, so that two large values do not add up to infinity. */
    return low == high ? low : low / 2 + high / 2;
}

/* Of a frame that goes on: the order must be kept, so a copy is sorted. */
static void median_value(sqlite3_context *ctx)
{
    struct samples *s = sqlite3_aggregate_context(ctx, 0);
    size_t count = s ? s->count - s->head : 0;
    double *copy;

    if (!count)
        return;
    copy = sqlite3_malloc64(count * sizeof(*copy));
    if (!copy) {
        sqlite3_result_error_nomem(ctx);
        return;
    }
    memcpy(copy, s->values + s->head, count * sizeof(*copy));
    sqlite3_result_double(ctx, median_of(copy, count));
    sqlite3_free(copy);
}

static void median_final(sqlite3_context *ctx)
{
    struct samples *s = sqlite3_aggregate_context(ctx, 0);

    if (!s)
        return;
    if (s->count > s->head)
        sqlite3_result_double(ctx, median_of(s->values + s->head, s->count - s->head));
    sqlite3_free(s->values);
}

/* ---- SQLite's date functions without the clock
 * ---------------------------------------------------- */

static const char *const date_functions[KZ_DATE_FUNCTIONS] = {
        "date", "time", "datetime", "julianday", "unixepoch", "strftime"};

struct date_function {
    struct kz_functions *functions;
    unsigned index;
};

static bool reads_clock(sqlite3_value *value, bool first)
{
    static const char *const words[] = {"now", "localtime", "utc", "subsec", "subsecond"};
    struct kz_str text;

    if (sqlite3_value_type(value) != SQLITE_TEXT && sqlite3_value_type(value) != SQLITE_BLOB)
        return false;
    text = arg_str(value);
    for (size_t i = 0; i < (first ? KZ_ARRAY_COUNT(words) : 3); i++)
        if (text.size == strlen(words[i]) && strncasecmp(text.ptr, words[i], text.size) == 0)
            return true;
    return false;
}

static sqlite3_stmt *date_stmt(struct kz_functions *functions, unsigned index, int argc)
{
    sqlite3_stmt **stmt = &functions->date_stmts[index][argc];
    char sql[96];
    int n;

    if (*stmt)
        return *stmt;
    if (!functions->dates &&
            sqlite3_open_v2(":memory:", &functions->dates,
                    SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        return NULL;
    n = snprintf(sql, sizeof(sql), "SELECT %s(", date_functions[index]);
    for (int i = 0; i < argc; i++)
        n += snprintf(sql + n, sizeof(sql) - (size_t)n, "%s?", i ? "," : "");
    snprintf(sql + n, sizeof(sql) - (size_t)n, ")");
    sqlite3_prepare_v3(functions->dates, sql, -1, SQLITE_PREPARE_PERSISTENT, stmt, NULL);
    return *stmt;
}

static void sql_date(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    struct date_function *self = sqlite3_user_data(ctx);
    bool is_strftime = self->index == KZ_DATE_FUNCTIONS - 1;
    int first = is_strftime; /* the argument that is a moment */
    sqlite3_stmt *stmt;
    bool clock = argc <= first;

    for (int i = first; i < argc; i++)
        clock |= reads_clock(argv[i], i == first);
    clock &= !self->functions->clock;
    if (clock || argc > KZ_DATE_ARGS_MAX) {
        char *message = sqlite3_mprintf(clock ? "%s() may not read the clock or the machine's time "
                                                "zone; use @now, local_day() or local_hour()"
                                              : "%s() has too many arguments",
                date_functions[self->index]);

        sqlite3_result_error(ctx, message ? message : "the clock may not be read", -1);
        sqlite3_free(message);
        return;
    }
    stmt = date_stmt(self->functions, self->index, argc);
    if (!stmt) {
        sqlite3_result_error_nomem(ctx);
        return;
    }
    for (int i = 0; i < argc; i++)
        sqlite3_bind_value(stmt, i + 1, argv[i]);
    if (sqlite3_step(stmt) == SQLITE_ROW)
        sqlite3_result_value(ctx, sqlite3_column_value(stmt, 0));
    else
        sqlite3_result_error(ctx, sqlite3_errmsg(self->functions->dates), -1);
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
}

/* ---- registration
 * -------------------------------------------------------------------------------- */

static int register_dates(sqlite3 *db, struct kz_functions *functions, int flags)
{
    int rc = SQLITE_OK;

    for (unsigned i = 0; rc == SQLITE_OK && i < KZ_DATE_FUNCTIONS; i++) {
        struct date_function *self = sqlite3_malloc(sizeof(*self));

        if (!self)
            return SQLITE_NOMEM;
        *self = (struct date_function){functions, i};
        rc = sqlite3_create_function_v2(
                db, date_functions[i], -1, flags, self, sql_date, NULL, NULL, sqlite3_free);
    }
    return rc;
}

enum kz_code kz_functions_register(sqlite3 *db, struct kz_functions *functions, struct kz_err *err)
{
    static const struct {
        const char *name;
        int argc;
        void (*call)(sqlite3_context *, int, sqlite3_value **);
    } scalars[] = {
            {"duration", 1, sql_duration},
            {"local_hour", 2, sql_local_hour},
            {"local_day", 2, sql_local_day},
            {"json_value", 2, sql_json_value},
    };
    int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS;
    int rc = SQLITE_OK;

    for (size_t i = 0; rc == SQLITE_OK && i < KZ_ARRAY_COUNT(scalars); i++)
        rc = sqlite3_create_function_v2(db, scalars[i].name, scalars[i].argc, flags, functions,
                scalars[i].call, NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_create_window_function(db, "stddev", 1, flags, NULL, stddev_step, stddev_value,
                stddev_value, stddev_inverse, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_create_window_function(db, "median", 1, flags, NULL, median_step, median_final,
                median_value, median_inverse, NULL);
    if (rc == SQLITE_OK)
        rc = register_dates(db, functions, flags);
    if (rc != SQLITE_OK)
        return kz_fail(
                err, KZ_INTERNAL, "could not register SQL functions: %s", sqlite3_errmsg(db));
    return KZ_OK;
}

void kz_functions_done(struct kz_functions *functions)
{
    for (size_t i = 0; i < KZ_DATE_FUNCTIONS; i++)
        for (size_t k = 0; k <= KZ_DATE_ARGS_MAX; k++)
            sqlite3_finalize(functions->date_stmts[i][k]);
    sqlite3_close(functions->dates);
    kz_zones_done(&functions->zones);
    *functions = (struct kz_functions){0};
}

static void setup_once(void)
{
    /* Refused once the library is initialised, which costs speed, not correctness. */
    (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

void kz_sqlite_setup(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, setup_once);
}
