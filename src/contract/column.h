/* contract/column.h -- what a JSON value is in a typed column: one rule for events as they come in
 * (shape) and for those stored under other definitions (feature).
 *
 * Numbers and truth values also come from strings that spell them (forms and CSV send strings),
 * text also from numbers; null, nothing and, but for text, the empty string are NULL.
 *
 * Threads  pure.
 */
#pragma once

#include "base/arena.h"
#include "codec/json.h"
#include "contract/event.h"

/* Text is borrowed from the value, or unescaped into `arena`. KZ_INVALID: the value cannot be a
 * `type`; KZ_TOO_LARGE: the arena is full. */
KZ_MUST_USE enum kz_code kz_column_convert(struct kz_json_value value, enum kz_type type,
        struct kz_arena *arena, struct kz_value *ret, struct kz_err *err);
/* "an integer", "a text": for messages. */
const char *kz_type_name(enum kz_type type);
/* The member that a path names where it is $.name and nothing more; else empty. */
struct kz_str kz_column_simple_name(const char *path);
