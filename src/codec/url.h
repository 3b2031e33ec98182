/* codec/url.h -- percent-encoding (RFC 3986). What a request's path and query hold is decoded by
 * sys/http.h.
 *
 * Threads  pure functions.
 */
#pragma once

#include "base/buf.h"

/* Everything but A-Z a-z 0-9 - . _ ~ becomes %XX. */
void kz_url_encode(struct kz_str text, struct kz_buf *buf);
