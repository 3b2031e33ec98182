/* Feeds bytes as requests to the HTTP parse layer, whole and in pieces whose sizes the input's
 * first byte seeds: both ways must come to the same end. */
#include <stdlib.h>

#include "base/buf.h"
#include "sys/http_parse.h"

struct outcome {
    enum kz_code code;
    bool complete;
    size_t head_bytes;
    size_t body_bytes;
    uint64_t sum; /* of what was understood */
};

static uint64_t mix(uint64_t sum, struct kz_str s)
{
    for (size_t i = 0; i < s.size; i++)
        sum = (sum ^ (unsigned char)s.ptr[i]) * 1099511628211u;
    return sum + s.size;
}

/* A piece's size, 1 to 16 bytes, or all that is left where `seed` is 0. */
static size_t piece(uint32_t *seed, size_t left)
{
    if (*seed == 0)
        return left;
    *seed = *seed * 1664525u + 1013904223u;
    return KZ_MIN(left, (size_t)(*seed >> 28) + 1);
}

static enum kz_code parse_chunks(
        const char *raw, size_t size, uint32_t seed, struct outcome *outcome)
{
    struct kz_http_chunks chunks;
    struct kz_buf body = {0};
    enum kz_code rc = KZ_OK;
    bool complete = false;

    kz_http_chunks_begin(&chunks);
    for (size_t at = 0; at < size && rc == KZ_OK && !complete;) {
        size_t n = piece(&seed, size - at), used = 0, got = 0;
        char *copy = malloc(n); /* so that reading past a piece is seen */

        memcpy(copy, raw + at, n);
        rc = kz_http_chunks_step(&chunks, copy, n, copy, 1 << 16, &used, &got, &complete, NULL);
        KZ_BUG_ON(rc == KZ_OK && (used > n || got > used || (used < n && !complete)));
        if (rc == KZ_OK)
            kz_buf_put(&body, copy, got);
        at += n;
        free(copy);
    }
    KZ_BUG_ON(body.size > 1 << 16);
    outcome->complete = complete;
    outcome->body_bytes = rc == KZ_OK ? body.size : 0;
    outcome->sum = rc == KZ_OK ? mix(outcome->sum, kz_buf_view(&body)) : 0;
    kz_buf_done(&body);
    return rc;
}

static struct outcome parse(const char *data, size_t size, bool response, uint32_t seed)
{
    static struct kz_http_head head;
    struct outcome outcome = {0};
    struct kz_http_parse p;
    bool complete = false;
    size_t have = 0;

    kz_http_parse_begin(&p, response, &head);
    while (have < size && !complete && outcome.code == KZ_OK) {
        char *copy;

        have += piece(&seed, size - have);
        copy = malloc(have); /* the bytes may move between steps */
        memcpy(copy, data, have);
        outcome.code = kz_http_parse_head(&p, copy, have, 4096, &complete, NULL);
        free(copy);
    }
    KZ_BUG_ON((outcome.code != KZ_OK) != (p.status != 0));
    if (outcome.code != KZ_OK || !complete)
        return outcome;
    KZ_BUG_ON(
            head.size > have || head.size < 4 || memcmp(data + head.size - 4, "\r\n\r\n", 4) != 0);
    KZ_BUG_ON(!response && head.chunked && head.content_length >= 0);
    outcome.head_bytes = head.size;
    outcome.sum = mix(head.status, kz_http_span_str(data, head.target));
    for (uint32_t i = 0; i < head.field_count; i++) {
        const struct kz_http_field *field = &head.fields[i];

        KZ_BUG_ON(field->value.at + field->value.size > head.size);
        for (uint32_t j = 0; j < field->value.size; j++) {
            unsigned char c = (unsigned char)data[field->value.at + j];

            KZ_BUG_ON((c < 32 && c != '\t') || c == 127);
        }
        outcome.sum = mix(outcome.sum, kz_http_span_str(data, field->name));
        outcome.sum = mix(outcome.sum, kz_http_span_str(data, field->value));
    }
    if (head.chunked)
        outcome.code = parse_chunks(data + head.size, size - head.size, seed, &outcome);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome whole, pieces;
    bool response;

    if (size < 2)
        return 0;
    response = data[0] & 1;
    whole = parse((const char *)data + 1, size - 1, response, 0);
    pieces = parse((const char *)data + 1, size - 1, response, data[0] * 2654435761u + 1);
    /* In pieces a limit may be met before an error that lies further on, so only success must
     * agree in full. */
    KZ_BUG_ON((whole.code == KZ_OK) != (pieces.code == KZ_OK));
    if (whole.code == KZ_OK)
        KZ_BUG_ON(whole.complete != pieces.complete || whole.head_bytes != pieces.head_bytes ||
                  whole.body_bytes != pieces.body_bytes || whole.sum != pieces.sum);
    return 0;
}
