#include "feature/hints.h"

#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "feature/columns.h"
#include "feature/lex.h"

enum { NAME_BYTES = 64 };

#define HISTORY_LAST "(SELECT x FROM events ORDER BY seq DESC LIMIT 1)"
#define MILLISECONDS                                                                               \
    "times are milliseconds: a - b is a span, duration('10m') one of ten minutes, ts / 1000 "      \
    "seconds"
#define PARTS                                                                                      \
    "local_hour(ts, 'Asia/Tokyo') and local_day(ts, 'Asia/Tokyo') give hour and date; "            \
    "strftime('%w', ts / 1000, 'unixepoch') a weekday of UTC"

/* What is written here for a function of BigQuery, Snowflake, PostgreSQL, DuckDB or pandas. */
static const struct {
    const char *names; /* by spaces */
    const char *hint;
} functions[] = {
        {"countif count_if", "write count(*) FILTER (WHERE condition)"},
        {"sumif sum_if", "write sum(x) FILTER (WHERE condition)"},
        {"avgif avg_if", "write avg(x) FILTER (WHERE condition)"},
        {"if ifelse decode",
                "write iif(condition, a, b), or CASE WHEN condition THEN a ELSE b END"},
        {"nvl isnull zeroifnull", "write coalesce(x, 0)"},
        {"greatest", "write max(a, b); NULL where one of them is"},
        {"least", "write min(a, b); NULL where one of them is"},
        {"safe_divide div0 try_divide", "write a * 1.0 / nullif(b, 0): NULL where b is 0"},
        {"safe_cast try_cast", "write CAST(x AS REAL); a text that is no number gives 0"},
        {"any_value", "write max(x)"},
        {"approx_count_distinct nunique uniq", "write count(DISTINCT x)"},
        {"mean", "write avg(x)"},
        {"std stddev_samp", "write stddev(x)"},
        {"stddev_pop var var_samp var_pop variance", "write stddev(x), or stddev(x) * stddev(x)"},
        {"quantile approx_quantiles percentile percentile_cont percentile_disc",
                "median(x) is there; others by ORDER BY x LIMIT 1 OFFSET n"},
        {"arg_max max_by argmax first last last_event", "write " HISTORY_LAST},
        {"array_agg collect_list list", "write json_group_array(x)"},
        {"json_extract_scalar get_json_object json_extract_path_text json_query",
                "write props ->> '$.x', or JSON_VALUE(props, '$.x')"},
        {"regexp regexp_contains regexp_like regexp_extract",
                "there are no regular expressions; write x LIKE 'a%' or x GLOB 'a*'"},
        {"len char_length", "write length(x)"},
        {"now getdate current_datetime", "write @now, in milliseconds"},
        {"date_diff datediff timestamp_diff datetime_diff date_add date_sub dateadd timestamp_add "
         "timestamp_sub",
                MILLISECONDS},
        {"timestamp timestamp_millis to_timestamp to_timestamp_ntz unix_millis epoch_ms",
                MILLISECONDS},
        {"extract date_part datepart date_trunc timestamp_trunc hour day dayofweek weekday month "
         "year to_char format_timestamp format_date",
                PARTS},
};

/* True if `name` is one of the words of `names`. */
static bool among(const char *names, const char *name)
{
    size_t size = strlen(name);

    for (const char *at = names; *at; at += strcspn(at, " "), at += strspn(at, " "))
        if (strcspn(at, " ") == size && strncasecmp(at, name, size) == 0)
            return true;
    return false;
}

static void hint_function(const char *name, struct kz_err *err)
{
    for (size_t i = 0; i < KZ_ARRAY_COUNT(functions); i++)
        if (among(functions[i].names, name)) {
            (void)kz_hint(err, "%s", functions[i].hint);
            return;
        }
}

static bool is_keyword(const char *name)
{
    return sqlite3_keyword_check(name, (int)strlen(name));
}

/* True where the project has something of this name that SQL can mention. */
static bool is_ours(const struct kz_project *project, const char *name)
{
    bool ours = false;

    for (size_t i = 0; i < project->model_count; i++)
        ours |= strcasecmp(project->models[i].name, name) == 0;
    for (size_t i = 0; i < project->events.column_count; i++)
        ours |= strcasecmp(project->events.columns[i].name, name) == 0;
    for (size_t i = 0; i < project->table_count; i++)
        ours |= strcasecmp(project->tables[i].name, name) == 0;
    return ours;
}

/* A syntax error near `near`, which is the token at byte `at` of `text`. */
static void hint_syntax(const struct kz_project *project, const char *near, struct kz_str text,
        size_t at, struct kz_err *err)
{
    struct kz_arena arena;
    struct kz_lex_tokens tokens;
    size_t i = 0;

    if (is_keyword(near) && is_ours(project, near)) {
        (void)kz_hint(err, "%s is a word of SQL; as a name it stands in double quotes: \"%s\"",
                near, near);
        return;
    }
    kz_arena_init(&arena, 0);
    tokens = kz_lex(text, &arena);
    while (i < tokens.count && tokens.at[i].offset < at)
        i++;
    if (i >= 1 && kz_lex_word(&tokens.at[i - 1], "interval"))
        (void)kz_hint(err, "%s", MILLISECONDS);
    else if (i >= 3 && kz_lex_word(&tokens.at[i], "from") &&
             kz_lex_word(&tokens.at[i - 3], "extract"))
        (void)kz_hint(err, "%s", PARTS);
    else if (strcmp(near, "&") == 0)
        (void)kz_hint(err, "write AND");
    kz_arena_done(&arena);
}

/* The word behind `before` in `message`, up to one of `ends`. */
static bool word_behind(
        const char *message, const char *before, const char *ends, char word[NAME_BYTES])
{
    size_t skip = strlen(before), size;

    if (strncmp(message, before, skip) != 0)
        return false;
    size = strcspn(message + skip, ends);
    snprintf(word, NAME_BYTES, "%.*s", (int)KZ_MIN(size, (size_t)NAME_BYTES - 1), message + skip);
    return true;
}

void kz_hint_dialect(const struct kz_project *project, const char *tables, const char *message,
        struct kz_str text, size_t at, struct kz_err *err)
{
    char word[NAME_BYTES];

    if (!err)
        return;
    if (word_behind(message, "no such function: ", "", word)) {
        hint_function(word, err);
    } else if (word_behind(message, "near \"", "\"", word)) {
        hint_syntax(project, word, text, at, err);
    } else if (strcmp(message, "unrecognized token: \":\"") == 0) {
        (void)kz_hint(err, "write CAST(x AS REAL), not x::float");
    } else if (word_behind(message, "no such table: ", "", word)) {
        struct kz_buf names = {0};

        kz_buf_cstr(&names, tables);
        for (size_t i = 0; i < project->table_count; i++)
            kz_buf_printf(&names, ", %s", project->tables[i].name);
        (void)kz_hint(err, "there are " KZ_STR_FMT, KZ_STR_ARG(kz_buf_view(&names)));
        kz_buf_done(&names);
    }
}

static void put_model(struct kz_buf *names, const char *name)
{
    const char *quote = is_keyword(name) ? "\"" : "";

    for (int output = 0; output < 2; output++)
        kz_buf_printf(names, "%s%s%s%s.%s", names->size ? ", " : "", quote, name, quote,
                output ? "output" : "score");
}

/* `aggregate`: it is no column that is not there, but count() and the like. */
static void hint_aggregate(enum kz_sql_kind kind, struct kz_err *err)
{
    if (kind == KZ_SQL_HAVING)
        (void)kz_hint(err, "write a query: (SELECT count(*) FROM events WHERE ...) >= 3");
    else if (kind == KZ_SQL_EVENT)
        (void)kz_hint(err, "here is one event; `having` and `count` see the user's history");
}

void kz_hint_names(const struct kz_project *project, enum kz_sql_kind kind, struct kz_err *err)
{
    struct kz_buf names = {0};

    if (err && strstr(err->message, "misuse of aggregate"))
        hint_aggregate(kind, err);
    if (!err || !strstr(err->message, "no such column"))
        return;
    if (kind == KZ_SQL_PREDICTION) {
        for (size_t i = 0; i < project->model_count; i++)
            put_model(&names, project->models[i].name);
        (void)kz_hint(err, "there are " KZ_STR_FMT "%s", KZ_STR_ARG(kz_buf_view(&names)),
                strstr(err->message, ".output.") ? "; a member is MODEL.output ->> '$.x'" : "");
    } else {
        for (int i = kind == KZ_SQL_EVENT; i < KZ_EVENTS_FIXED; i++)
            kz_buf_printf(&names, "%s%s", names.size ? ", " : "", kz_events_column_names[i]);
        for (size_t i = 0; i < project->events.column_count; i++)
            kz_buf_printf(&names, ", %s", project->events.columns[i].name);
        (void)kz_hint(err, "an event has " KZ_STR_FMT "; a text is written 'x'",
                KZ_STR_ARG(kz_buf_view(&names)));
    }
    kz_buf_done(&names);
}
