/* base/diag.h -- structured log lines on stderr: one line an event worth reading.
 *
 * `kz_diag_info("log opened", "segments=%zu seq=%" PRIu64, n, seq)` prints
 * `2026-11-24T01:02:03.456Z info log opened segments=3 seq=17`; as JSON when asked for. Only edges
 * log (a request handler, a command, a supervisor); whoever returns an error does not.
 *
 * Threads  any; a line is written with one write().
 */
#pragma once

#include "base/base.h"

/* SILENT is for kz_diag_set() alone: a command that says all of it in its own words. */
enum kz_diag_level {
    KZ_DIAG_SILENT = -1,
    KZ_DIAG_ERROR,
    KZ_DIAG_WARN,
    KZ_DIAG_INFO,
    KZ_DIAG_DEBUG
};

void kz_diag_set(enum kz_diag_level level, bool json);
/* `fields` is printf for `key=value` pairs; values with blanks are quoted by the caller. */
void kz_diag_line(enum kz_diag_level level, const char *what, const char *fields, ...)
        KZ_PRINTF(3, 4);

#define kz_diag_error(what, ...) kz_diag_line(KZ_DIAG_ERROR, what, __VA_ARGS__)
#define kz_diag_warn(what, ...) kz_diag_line(KZ_DIAG_WARN, what, __VA_ARGS__)
#define kz_diag_info(what, ...) kz_diag_line(KZ_DIAG_INFO, what, __VA_ARGS__)
#define kz_diag_debug(what, ...) kz_diag_line(KZ_DIAG_DEBUG, what, __VA_ARGS__)
