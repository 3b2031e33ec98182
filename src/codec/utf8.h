/* codec/utf8.h -- UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, up to U+10FFFF.
 *
 * Threads  pure functions.
 */
#pragma once

#include "base/buf.h"

/* Whether all of it is UTF-8; where not, *ret_bad_offset (may be NULL) is the first bad byte's. */
bool kz_utf8_check(struct kz_str s, size_t *ret_bad_offset);
/* Bytes of the well-formed character at `at` (before `end`), or 0. The ranges are those of RFC
 * 3629, section 4. Here because the JSON scanner lives on it. */
static inline size_t kz_utf8_char(const char *at, const char *end)
{
    const unsigned char *s = (const unsigned char *)at;
    size_t left = (size_t)(end - at);

    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || left < 2)
        return 0;
    if (s[0] < 0xe0)
        return (s[1] & 0xc0) == 0x80 ? 2 : 0;
    if (left < 3 || (s[1] & 0xc0) != 0x80 || (s[2] & 0xc0) != 0x80)
        return 0;
    if (s[0] < 0xf0)
        return (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ? 0 : 3;
    if (left < 4 || (s[3] & 0xc0) != 0x80 || s[0] > 0xf4)
        return 0;
    return (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f) ? 0 : 4;
}

/* Appends `s` with each run that is no character replaced by U+FFFD. */
void kz_utf8_clean(struct kz_str s, struct kz_buf *buf);
/* The longest beginning of at most `size_max` bytes that does not cut a character. */
struct kz_str kz_utf8_cut(struct kz_str s, size_t size_max);
/* Writes one code point (1 to 4 bytes) and returns how many. */
size_t kz_utf8_put(char out[4], uint32_t code_point);
