/* codec/url.h -- percent-encoding (RFC 3986) and query strings (also of HTML forms).
 *
 * Threads  pure functions.
 * Fails    KZ_INVALID for '%' without two hexadecimal digits; KZ_TOO_LARGE where the arena is full.
 */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

/* Borrowed where nothing is encoded, else in `arena`. `plus` says whether '+' is a space (query
 * strings and forms) or itself (paths). The result may hold any byte, \0 too. */
KZ_MUST_USE enum kz_code kz_url_decode(struct kz_str text, bool plus, struct kz_arena *arena,
        struct kz_str *ret_str, struct kz_err *err);
/* Everything but A-Z a-z 0-9 - . _ ~ becomes %XX. */
void kz_url_encode(struct kz_str text, struct kz_buf *buf);

/* Takes "name=value" from the front of `*rest`, still encoded; `a` alone has an empty value; empty
 * pieces are skipped. The '?' must be gone. False at the end. */
bool kz_query_next(struct kz_str *rest, struct kz_str *ret_name, struct kz_str *ret_value);
/* The first parameter of that name, decoded. KZ_NOT_FOUND where there is none. */
KZ_MUST_USE enum kz_code kz_query_get(struct kz_str query, const char *name, struct kz_arena *arena,
        struct kz_str *ret_value, struct kz_err *err);
