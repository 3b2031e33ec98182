/* feature/format.h -- rows of SQL as people and programs read them: a table, CSV, JSON.
 *
 * A table is aligned by the widths of its first KZ_FORMAT_MEASURED rows (East Asian wide characters
 * take two cells, UAX #11); what is wider later only pushes its row out. So memory is bounded and
 * a long answer streams.
 *
 * Owner    the caller; nothing is borrowed beyond a call.
 * Threads  one at a time.
 * Fails    with what `write` fails with.
 */
#pragma once

#include "base/buf.h"
#include "contract/event.h"

enum { KZ_FORMAT_MEASURED = 200, KZ_FORMAT_WIDTH_MAX = 60 };

enum kz_format_kind { KZ_FORMAT_TABLE, KZ_FORMAT_CSV, KZ_FORMAT_JSON };

/* "table", "csv", "json"; false for anything else. */
bool kz_format_parse(const char *name, enum kz_format_kind *ret_kind);

struct kz_format;

struct kz_format *kz_format_new(enum kz_format_kind kind,
        enum kz_code (*write)(void *arg, struct kz_str bytes, struct kz_err *err), void *arg);
void kz_format_free(struct kz_format *format);
KZ_DEFINE_FREEP(struct kz_format, kz_format_free)

/* Columns, then rows, then end. The first two have the shape of a struct kz_tables_sink. */
KZ_MUST_USE enum kz_code kz_format_columns(
        void *format, const char *const *names, size_t count, struct kz_err *err);
KZ_MUST_USE enum kz_code kz_format_row(
        void *format, const struct kz_value *values, size_t count, struct kz_err *err);
KZ_MUST_USE enum kz_code kz_format_end(struct kz_format *format, struct kz_err *err);

/* Terminal cells that a text takes; control characters count as shown, two or four. */
size_t kz_text_width(struct kz_str text);
