/* codec/utf8.h -- UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, up to U+10FFFF.
 *
 * Threads  pure functions.
 */
#pragma once

#include "base/buf.h"

/* Whether all of it is UTF-8; where not, *ret_bad_offset (may be NULL) is the first bad byte's. */
bool kz_utf8_check(struct kz_str s, size_t *ret_bad_offset);
/* Bytes of the well-formed character at `at`, or 0. */
size_t kz_utf8_char(const char *at, const char *end);
/* Appends `s` with each run that is no character replaced by U+FFFD. */
void kz_utf8_clean(struct kz_str s, struct kz_buf *buf);
/* The longest beginning of at most `size_max` bytes that does not cut a character. */
struct kz_str kz_utf8_cut(struct kz_str s, size_t size_max);
/* Writes one code point (1 to 4 bytes) and returns how many. */
size_t kz_utf8_put(char out[4], uint32_t code_point);
