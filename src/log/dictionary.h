/* log/dictionary.h -- what the records of many users have in common, for zstd to refer to.
 *
 * Small blocks compress badly alone: each would have to spell out the same keys of the same JSON. A
 * dictionary of them makes a block of 2 KiB compress nearly as well as one of 32 KiB, and quicker
 * to decompress, since its tables are made once.
 *
 * D1  A stretch of bytes is in the dictionary only where each of its windows of 8 bytes occurs in
 *     records of at least KZ_DICTIONARY_USERS_MIN users of the sample: what they have in common,
 *     keys and names and brands, and nothing that is one user's. The rest of it are statistics.
 * D2  It is a function of the sample.
 *
 * Owner    the caller owns all bytes.
 * Threads  pure.
 * Fails    KZ_INVALID: the sample has too little in common. Not an error, as a rule.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

enum {
    KZ_DICTIONARY_USERS_MIN = 32,
    KZ_DICTIONARY_CONTENT_BYTES_MAX = 4096,
    KZ_DICTIONARY_BYTES_MAX = 16 << 10, /* with the statistics; in practice 300 bytes more */
};

/* A record of the sample: a stretch of `samples`. Those of one owner lie side by side. */
struct kz_dictionary_record {
    uint64_t owner;
    size_t offset, size;
};

/* Appends what the records have in common, at most KZ_DICTIONARY_CONTENT_BYTES_MAX. */
void kz_dictionary_content(const char *samples, const struct kz_dictionary_record *records,
        size_t count, struct kz_buf *out);

/* Appends a dictionary for frames that are like the first `frame_count` stretches of `samples`, of
 * `sizes` bytes each. */
KZ_MUST_USE enum kz_code kz_dictionary_make(struct kz_str samples,
        const struct kz_dictionary_record *records, size_t record_count, const size_t *sizes,
        unsigned frame_count, int level, struct kz_buf *out, struct kz_err *err);
