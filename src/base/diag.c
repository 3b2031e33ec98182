#include "base/diag.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static _Atomic int diag_level = KZ_DIAG_INFO;
static _Atomic bool diag_json;

void kz_diag_set(enum kz_diag_level level, bool json)
{
    diag_level = (int)level;
    diag_json = json;
}

/* Copies with quotes, backslashes and control bytes escaped as JSON wants them. */
static size_t escape(char *out, size_t out_size, const char *text)
{
    size_t used = 0;

    for (; *text && used + 7 < out_size; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '"' || c == '\\') {
            out[used++] = '\\';
            out[used++] = (char)c;
        } else if (c < 0x20) {
            used += (size_t)snprintf(out + used, 7, "\\u%04x", c);
        } else {
            out[used++] = (char)c;
        }
    }
    out[used] = '\0';
    return used;
}

void kz_diag_line(enum kz_diag_level level, const char *what, const char *fields, ...)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    char text[1600], line[3600], quoted[3300];
    struct timespec now;
    struct tm tm;
    va_list args;
    int size, ms;

    if ((int)level > diag_level)
        return;
    va_start(args, fields);
    vsnprintf(text, sizeof(text), fields, args);
    va_end(args);
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    ms = (int)(now.tv_nsec / 1000000);
    if (diag_json) {
        escape(quoted, sizeof(quoted), text);
        size = snprintf(line, sizeof(line),
                "{\"time\":\"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ\",\"level\":\"%s\",\"message\":\"%s\","
                "\"fields\":\"%s\"}\n",
                tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, ms,
                names[level], what, quoted);
    } else {
        for (char *p = text; *p; p++)
            if (*p == '\n' || *p == '\r')
                *p = ' ';
        size = snprintf(line, sizeof(line), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %-5s %s%s%s\n",
                tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, ms,
                names[level], what, text[0] ? " " : "", text);
    }
    if (size > 0 && write(STDERR_FILENO, line, KZ_MIN((size_t)size, sizeof(line) - 1)) < 0)
        return; /* nowhere left to complain to */
}
