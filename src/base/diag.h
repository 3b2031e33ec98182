/* base/diag.h -- structured log lines on stderr: one line an event worth reading.
 *
 * `kz_diag_info("log opened", "segments=%zu by=%s", n, who)` prints
 * `2026-11-24T01:02:03.456Z info  log opened segments=3 by="A B"`, or as JSON when asked for
 * `{"time":...,"level":"info","message":"log opened","fields":{"segments":3,"by":"A B"}}`. Only edges
 * log (a request handler, a command, a supervisor); whoever returns an error does not.
 *
 * Threads  any; a line is written with one write().
 */
#pragma once

#include <stdarg.h>

#include "base/base.h"

/* SILENT is for kz_diag_set() alone: a command that says all of it in its own words. */
enum kz_diag_level {
    KZ_DIAG_SILENT = -1,
    KZ_DIAG_ERROR,
    KZ_DIAG_WARN,
    KZ_DIAG_INFO,
    KZ_DIAG_DEBUG
};

enum { KZ_DIAG_LINE_MAX_BYTES = 4096 };

void kz_diag_set(enum kz_diag_level level, bool json);
/* `fields` is printf for `key=value` pairs, as logfmt has them; a value with blanks in the format
 * stands in quotes there. What the arguments bring is quoted and escaped here, whatever it is.
 * Conversions: %d %i %u %x with hh h l ll z j, %f, %s with a precision; behind another the line ends.
 * Values are cut at 1,200 bytes, and what does not fit into the line any more is left out: it stays
 * one that can be read. */
void kz_diag_line(enum kz_diag_level level, const char *what, const char *fields, ...)
        KZ_PRINTF(3, 4);
/* The same into `out`, with its line feed; the size. For tests. */
size_t kz_diag_format(char out[KZ_DIAG_LINE_MAX_BYTES], enum kz_diag_level level, bool json,
        int64_t at_ms, const char *what, const char *fields, va_list args);

#define kz_diag_error(what, ...) kz_diag_line(KZ_DIAG_ERROR, what, __VA_ARGS__)
#define kz_diag_warn(what, ...) kz_diag_line(KZ_DIAG_WARN, what, __VA_ARGS__)
#define kz_diag_info(what, ...) kz_diag_line(KZ_DIAG_INFO, what, __VA_ARGS__)
#define kz_diag_debug(what, ...) kz_diag_line(KZ_DIAG_DEBUG, what, __VA_ARGS__)
