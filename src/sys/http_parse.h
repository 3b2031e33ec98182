/* sys/http_parse.h -- HTTP/1.1 heads and chunked bodies, a step at a time (RFC 9112).
 *
 * The only file that knows which library reads heads (http_parser; llhttp stops at the same place).
 * The library finds the parts; what decides where a message ends (Content-Length,
 * Transfer-Encoding, line ends, field names) is judged here, strictly, because the libraries are
 * lenient and two readers that differ on it are how requests are smuggled. The chunked coding is
 * read here for the same reason.
 *
 * Owner    the caller owns parser, head and bytes. Positions are offsets from the message's first
 *          byte, so the bytes may move between two steps.
 * Threads  pure.
 * Fails    KZ_INVALID, KZ_TOO_LARGE, KZ_UNSUPPORTED; kz_http_parse.status says how HTTP puts it.
 */
#pragma once

#include "base/err.h"

enum { KZ_HTTP_FIELDS_MAX = 96, KZ_HTTP_HEAD_LIMIT_BYTES = 64 * 1024 };

struct kz_http_span {
    uint32_t at;
    uint32_t size;
};

struct kz_http_field {
    struct kz_http_span name;
    struct kz_http_span value; /* without the blanks around it */
};

struct kz_http_head {
    bool response;
    bool chunked;
    bool keep_alive;            /* what the peer's version and Connection ask for */
    bool expect_continue;       /* Expect: 100-continue, HTTP/1.1 only */
    uint8_t version_minor;      /* of HTTP/1 */
    uint16_t status;            /* responses */
    uint32_t size;              /* of the head, its empty line included */
    int64_t content_length;     /* -1: none was sent */
    struct kz_http_span method; /* requests */
    struct kz_http_span target; /* requests */
    uint32_t field_count;
    struct kz_http_field fields[KZ_HTTP_FIELDS_MAX];
};

struct kz_http_parse {
    uint64_t library[16]; /* the library's parser */
    struct kz_http_head *head;
    const char *data; /* during a step only */
    uint32_t parsed;
    bool in_value;
    bool complete;
    uint16_t status; /* after a failure: 400, 413, 417, 431, 501 or 505 */
};

/* Starts a message; `head` is filled by the steps and borrowed until the head is complete. */
void kz_http_parse_begin(struct kz_http_parse *parse, bool response, struct kz_http_head *head);
/* `data` is the message from its first byte, `size` what there is of it by now. Sets *ret_complete
 * once the whole head was there and is sound. */
KZ_MUST_USE enum kz_code kz_http_parse_head(struct kz_http_parse *parse, const char *data,
        size_t size, size_t head_max_bytes, bool *ret_complete, struct kz_err *err);

/* The chunked coding. */
struct kz_http_chunks {
    uint8_t state;
    uint8_t digits;
    uint16_t extra_bytes; /* extensions and trailers, which are bounded and dropped */
    uint64_t left;        /* of the chunk */
    uint64_t body_bytes;  /* decoded so far */
    uint16_t status;      /* after a failure: 400 or 413 */
};

void kz_http_chunks_begin(struct kz_http_chunks *chunks);
/* Decodes `raw` to `out`, which may be the same memory or lie before it. Takes as much as it can:
 * *ret_used of raw, giving *ret_size bytes; *ret_complete when the last chunk and its trailers
 * are through. Fails before the body grows over body_max_bytes. */
KZ_MUST_USE enum kz_code kz_http_chunks_step(struct kz_http_chunks *chunks, const char *raw,
        size_t raw_size, char *out, uint64_t body_max_bytes, size_t *ret_used, size_t *ret_size,
        bool *ret_complete, struct kz_err *err);

const char *kz_http_parse_status_text(int status);

static inline struct kz_str kz_http_span_str(const char *message, struct kz_http_span span)
{
    return kz_str_n(message + span.at, span.size);
}
