/* base/diag.c
 *
 * The format is walked here and not given to vsnprintf() as a whole: where a value begins and ends
 * must be seen before somebody's text is put between, or a quote in it would end the value and an
 * equals sign begin another.
 */
#include "base/diag.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    VALUE_MAX_BYTES = 1200,
    ESCAPE_MAX_BYTES = 6, /* "\u001f" */
    TAIL_BYTES = 3,       /* left for what ends a line */
};

static _Atomic int diag_level = KZ_DIAG_INFO;
static _Atomic bool diag_json;

void kz_diag_set(enum kz_diag_level level, bool json)
{
    diag_level = (int)level;
    diag_json = json;
}

/* ---- one value -------------------------------------------------------------------------------- */

struct value {
    char bytes[VALUE_MAX_BYTES];
    size_t size;
    bool is_number; /* one conversion of a number and nothing else */
    bool is_lost; /* a conversion that is not known: where the next argument lies is not, either */
};

static void add(struct value *value, const char *text, size_t size)
{
    size = KZ_MIN(size, sizeof(value->bytes) - value->size);
    memcpy(value->bytes + value->size, text, size);
    value->size += size;
}

/* A conversion as far as log lines have them. */
struct conversion {
    int precision; /* -1: none */
    unsigned longs;
    char type;
};

/* From behind the percent sign; what follows the conversion. */
static const char *parse(const char *at, struct conversion *ret, va_list *args)
{
    *ret = (struct conversion){.precision = -1};
    if (*at == '.' && at[1] == '*') {
        ret->precision = va_arg(*args, int);
        at += 2;
    } else if (*at == '.') {
        ret->precision = 0;
        for (at++; *at >= '0' && *at <= '9'; at++)
            ret->precision = ret->precision * 10 + (*at - '0');
    }
    for (; *at && strchr("hlzj", *at); at++)
        ret->longs += *at == 'l' || *at == 'z' || *at == 'j' ? 1 : 0;
    ret->type = *at;
    return *at ? at + 1 : at;
}

_Static_assert(sizeof(long) == 8 && sizeof(size_t) == 8 && sizeof(intmax_t) == 8,
        "the long ones are all of one size");

static void convert(struct value *value, const struct conversion *c, va_list *args)
{
    char text[400];
    const char *string;
    int size = 0;

    switch (c->type) {
    case 'd':
    case 'i':
        size = snprintf(text, sizeof(text), "%" PRId64,
                c->longs ? va_arg(*args, int64_t) : (int64_t)va_arg(*args, int));
        break;
    case 'u':
        size = snprintf(text, sizeof(text), "%" PRIu64,
                c->longs ? va_arg(*args, uint64_t) : (uint64_t)va_arg(*args, unsigned));
        break;
    case 'x':
        size = snprintf(text, sizeof(text), "%" PRIx64,
                c->longs ? va_arg(*args, uint64_t) : (uint64_t)va_arg(*args, unsigned));
        break;
    case 'f':
        size = snprintf(text, sizeof(text), "%.*f", c->precision < 0 ? 6 : c->precision,
                va_arg(*args, double));
        break;
    case 's':
        string = va_arg(*args, const char *);
        string = string ? string : "(null)";
        add(value, string,
                c->precision < 0 ? strlen(string) : strnlen(string, (size_t)c->precision));
        return;
    default:
        size = snprintf(text, sizeof(text), "?");
        value->is_lost = true;
    }
    add(value, text, (size_t)KZ_MIN(size, (int)sizeof(text) - 1));
}

/* The value that begins at `at` in the format; what follows it there. */
static const char *take_value(const char *at, struct value *value, va_list *args)
{
    bool quoted = *at == '"';
    struct conversion c;

    value->size = 0;
    value->is_number = value->is_lost = false;
    at += quoted;
    while (*at && !value->is_lost && *at != (quoted ? '"' : ' ')) {
        if (*at != '%' || at[1] == '%') {
            add(value, at, 1);
            at += *at == '%' ? 2 : 1;
            value->is_number = false;
            continue;
        }
        value->is_number = value->size == 0;
        at = parse(at + 1, &c, args);
        value->is_number = value->is_number && strchr("diuf", c.type) && c.type;
        convert(value, &c, args);
    }
    return at + (quoted && *at == '"');
}

/* ---- a line ----------------------------------------------------------------------------------- */

struct line {
    char *bytes;
    size_t size;
    size_t owed; /* room that is spoken for: a closing quote */
};

/* True where there was room. */
static bool put(struct line *line, const char *text, size_t size)
{
    if (line->size + size + line->owed > (size_t)KZ_DIAG_LINE_MAX_BYTES - TAIL_BYTES)
        return false;
    memcpy(line->bytes + line->size, text, size);
    line->size += size;
    return true;
}

/* How many bytes the character at `at` has (RFC 3629); 0 where there is none. */
static size_t character(const unsigned char *at, size_t left)
{
    unsigned char first = at[0];
    size_t size = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;

    if (!size || size > left || first > 0xf4)
        return 0;
    for (size_t i = 1; i < size; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    if ((first == 0xe0 && at[1] < 0xa0) || (first == 0xed && at[1] > 0x9f) ||
            (first == 0xf0 && at[1] < 0x90) || (first == 0xf4 && at[1] > 0x8f))
        return 0;
    return size;
}

/* In quotes, escaped as JSON does, which is what readers of logfmt take back as well. */
static bool put_quoted(struct line *line, const char *text, size_t size)
{
    bool room;

    line->owed++;
    room = put(line, "\"", 1);
    if (!room) {
        line->owed--;
        return false;
    }

    for (size_t i = 0; room && i < size;) {
        const unsigned char *at = (const unsigned char *)text + i;
        size_t n = character(at, size - i);
        char escape[ESCAPE_MAX_BYTES + 1] = {'\\', (char)*at, '\0'};

        if (n == 0)
            memcpy(escape, "\xef\xbf\xbd", 4); /* U+FFFD */
        else if (*at == '\n' || *at == '\r' || *at == '\t')
            escape[1] = *at == '\n' ? 'n' : *at == '\r' ? 'r' : 't';
        else if (*at < 0x20 || *at == 0x7f)
            snprintf(escape, sizeof(escape), "\\u%04x", *at);
        else if (*at != '"' && *at != '\\')
            escape[0] = '\0';
        room = escape[0] ? put(line, escape, strlen(escape)) : put(line, (const char *)at, n);
        i += n ? n : 1;
    }
    line->owed--;
    return put(line, "\"", 1);
}

static bool is_plain(const struct value *value)
{
    for (size_t i = 0; i < value->size; i++) {
        unsigned char c = (unsigned char)value->bytes[i];

        if (c <= ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '=')
            return false;
    }
    return value->size > 0;
}

/* One field; false where the line is full. */
static bool put_field(struct line *line, bool json, bool first, const char *key, size_t key_size,
        const struct value *value)
{
    size_t begin = line->size;
    bool plain = json ? value->is_number : is_plain(value);
    bool room = (json && first) || put(line, json ? "," : " ", 1);

    room = room && (json ? put_quoted(line, key, key_size) : put(line, key, key_size));
    room = room && put(line, json ? ":" : "=", 1);
    room = room && (plain ? put(line, value->bytes, value->size)
                          : put_quoted(line, value->bytes, value->size));
    if (!room)
        line->size = begin;
    return room;
}

static void put_fields(struct line *line, bool json, const char *fields, va_list *args)
{
    struct value value = {.size = 0};
    bool first = true;

    for (const char *at = fields; *at && !value.is_lost;) {
        const char *key = at;
        size_t size;

        if (*at == ' ') {
            at++;
            continue;
        }
        size = strcspn(at, "= ");
        at += size;
        if (*at == '=')
            at = take_value(at + 1, &value, args);
        else
            value.size = 0;
        if (!put_field(line, json, first, key, size, &value))
            return;
        first = false;
    }
}

size_t kz_diag_format(char out[KZ_DIAG_LINE_MAX_BYTES], enum kz_diag_level level, bool json,
        int64_t at_ms, const char *what, const char *fields, va_list args)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    struct line line = {.bytes = out};
    time_t seconds = (time_t)(at_ms / 1000);
    char text[64];
    struct tm tm;
    va_list copy;
    int size;

    gmtime_r(&seconds, &tm);
    size = snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900,
            tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(at_ms % 1000));
    if (json)
        line.size = (size_t)snprintf(out, 128,
                "{\"time\":\"%.*s\",\"level\":\"%s\",\"message\":", size, text, names[level]);
    else
        line.size = (size_t)snprintf(out, 128, "%.*s %-5s ", size, text, names[level]);
    if (json) {
        (void)put_quoted(
                &line, what, strnlen(what, VALUE_MAX_BYTES)); /* begins the line: it fits */
        (void)put(&line, ",\"fields\":{", 11);
    } else {
        (void)put(&line, what, strnlen(what, VALUE_MAX_BYTES));
    }
    va_copy(copy, args); /* a parameter of this type has no address of its own */
    put_fields(&line, json, fields, &copy);
    va_end(copy);
    size = json ? 3 : 1;
    memcpy(out + line.size, json ? "}}\n" : "\n", (size_t)size);
    return line.size + (size_t)size;
}

void kz_diag_line(enum kz_diag_level level, const char *what, const char *fields, ...)
{
    char line[KZ_DIAG_LINE_MAX_BYTES];
    struct timespec now;
    va_list args;
    size_t size;

    if ((int)level > diag_level)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    va_start(args, fields);
    size = kz_diag_format(line, level, diag_json,
            (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000, what, fields, args);
    va_end(args);
    if (write(STDERR_FILENO, line, size) < 0)
        return; /* nowhere left to complain to */
}
