/* codec/json_int.h -- finding the next byte that matters, for the scanner, the walk and the writer.
 *
 * SSE2 (every x86-64 has it) looks at 16 bytes at a time; elsewhere, and near the end, eight bytes
 * in a register. Nothing is read behind `end`.
 */
#pragma once

#include "base/base.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define KZ_EACH_BYTE(x) (0x0101010101010101ull * (x))

/* The high bit of each byte that equals `c`; right up to the first one, which is all that is used.
 */
static inline uint64_t kz_json_bytes_are(uint64_t word, uint8_t c)
{
    uint64_t x = word ^ KZ_EACH_BYTE(c);

    return (x - KZ_EACH_BYTE(1)) & ~x & KZ_EACH_BYTE(0x80);
}

/* The first byte that is '"', '\\', a control character or not ASCII; or `end`. */
static inline const char *kz_json_find_special(const char *at, const char *end)
{
#ifdef __SSE2__
    while (end - at >= 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)at);
        __m128i quote = _mm_cmpeq_epi8(v, _mm_set1_epi8('"'));
        __m128i slash = _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'));
        /* Signed: control characters and everything from 0x80 on are below ' '. */
        __m128i other = _mm_cmplt_epi8(v, _mm_set1_epi8(' '));
        int mask = _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, slash), other));

        if (mask)
            return at + __builtin_ctz((unsigned)mask);
        at += 16;
    }
#endif
    while (end - at >= 8) {
        uint64_t word = kz_load_u64(at);
        uint64_t control = (word - KZ_EACH_BYTE(' ')) & ~word;
        uint64_t mask = (kz_json_bytes_are(word, '"') | kz_json_bytes_are(word, '\\') | control |
                                word) &
                        KZ_EACH_BYTE(0x80);

        if (mask)
            return at + __builtin_ctzll(mask) / 8;
        at += 8;
    }
    while (at < end && (signed char)*at >= ' ' && *at != '"' && *at != '\\')
        at++;
    return at;
}

/* The first '"' or '\\'; or `end`. */
static inline const char *kz_json_find_quote(const char *at, const char *end)
{
#ifdef __SSE2__
    while (end - at >= 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)at);
        __m128i quote = _mm_cmpeq_epi8(v, _mm_set1_epi8('"'));
        __m128i slash = _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'));
        int mask = _mm_movemask_epi8(_mm_or_si128(quote, slash));

        if (mask)
            return at + __builtin_ctz((unsigned)mask);
        at += 16;
    }
#endif
    while (at < end && *at != '"' && *at != '\\')
        at++;
    return at;
}

/* The first '"' or bracket of either shape; or `end`. */
static inline const char *kz_json_find_structure(const char *at, const char *end)
{
#ifdef __SSE2__
    while (end - at >= 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)at);
        __m128i folded = _mm_or_si128(v, _mm_set1_epi8(0x20)); /* [ ] become { } */
        __m128i open = _mm_cmpeq_epi8(folded, _mm_set1_epi8('{'));
        __m128i close = _mm_cmpeq_epi8(folded, _mm_set1_epi8('}'));
        __m128i quote = _mm_cmpeq_epi8(v, _mm_set1_epi8('"'));
        int mask = _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(open, close), quote));

        if (mask)
            return at + __builtin_ctz((unsigned)mask);
        at += 16;
    }
#endif
    while (at < end && *at != '"' && (*at | 0x20) != '{' && (*at | 0x20) != '}')
        at++;
    return at;
}

static inline bool kz_json_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static inline const char *kz_json_skip_space(const char *at, const char *end)
{
    while (at < end && (unsigned char)*at <= ' ' && kz_json_is_space(*at))
        at++;
    return at;
}

/* -1 where it is no hexadecimal digit. */
static inline int kz_json_hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}
