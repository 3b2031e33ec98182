/* app/commands/eventfile.h -- files of events as people have them: NDJSON in our own form, or CSV with a map.
 *
 * `--map ts=event_time,name=event_type,user_id=user_id` says which CSV column is which field;
 * columns that are not mapped become props, by their own name. Cells become numbers where they are
 * written as JSON numbers, an empty cell is left out. Every event comes out as one line of JSON as
 * POST /v1/events takes it. An event_id that is absent is made of file contents and line, so that
 * the same file sent twice is the same events.
 *
 * Owner    lines are borrowed until the next call.
 * Fails    KZ_INVALID with "file:line: ..." for a row that cannot be read; the caller may go on.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

struct kz_event_file;

/* `path` "-": standard input (read whole). `map` NULL: the fields by their own names. The format is
 * by content: a line that begins with '{' is NDJSON. */
KZ_MUST_USE enum kz_code kz_event_file_open(
        const char *path, const char *map, struct kz_event_file **ret_file, struct kz_err *err);
void kz_event_file_close(struct kz_event_file *file);
KZ_DEFINE_FREEP(struct kz_event_file, kz_event_file_close)

/* All of it, as it is in the file. */
struct kz_str kz_event_file_text(const struct kz_event_file *file);

struct kz_event_line {
    struct kz_str json;
    int64_t ts_ms;      /* 0: it has none */
    struct kz_str user; /* user_id or anonymous_id, unescaped where it is simple text */
    uint64_t line;      /* in the file, from 1 */
};

/* KZ_END behind the last. */
KZ_MUST_USE enum kz_code kz_event_file_next(
        struct kz_event_file *file, struct kz_event_line *ret_line, struct kz_err *err);
/* From the start again; with `sorted` the events come by ts (equal ones as in the file), which
 * reads the whole file once. Broken rows go to `broken` (may be NULL) while sorting. */
KZ_MUST_USE enum kz_code kz_event_file_rewind(struct kz_event_file *file, bool sorted,
        void (*broken)(void *arg, const struct kz_err *err), void *arg, struct kz_err *err);
/* Bytes of the file, and how far reading has come: for progress. */
uint64_t kz_event_file_size(const struct kz_event_file *file);
uint64_t kz_event_file_position(const struct kz_event_file *file);
/* Events, known after a sorted rewind; 0 before. */
uint64_t kz_event_file_count(const struct kz_event_file *file);

/* ---- rows that cannot be taken ----------------------------------------------------------------- */

/* What a command says of them: the first few on stderr, then only how many. */
struct kz_row_problems {
    const char *file;
    uint64_t count;
};
/* A kz_offline_options.rejected, `arg` being them. */
void kz_row_rejected(void *arg, uint64_t line, const char *code, struct kz_str message);
/* kz_event_file_rewind() by ts, broken rows being problems. */
KZ_MUST_USE enum kz_code kz_event_file_sort(
        struct kz_event_file *file, struct kz_row_problems *problems, struct kz_err *err);
