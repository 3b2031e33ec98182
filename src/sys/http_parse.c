#include "sys/http_parse.h"

#include <http_parser.h>
#include <strings.h>

_Static_assert(sizeof(http_parser) <= sizeof(((struct kz_http_parse *)0)->library),
        "the library's parser must fit");

enum { CHUNK_EXTRA_MAX_BYTES = 4096 };

static http_parser *library_of(struct kz_http_parse *parse)
{
    return (http_parser *)parse->library;
}

static struct kz_http_span span_of(const struct kz_http_parse *parse, const char *at, size_t size)
{
    return (struct kz_http_span){(uint32_t)(at - parse->data), (uint32_t)size};
}

const char *kz_http_parse_status_text(int status)
{
    switch (status) {
#define XX(number, name, text)                                                                     \
    case number:                                                                                   \
        return #text;
        HTTP_STATUS_MAP(XX)
#undef XX
    }
    return "Unknown";
}

/* ---- what the library reports; a part may come in pieces that lie side by side ---- */

static int on_target(http_parser *library, const char *at, size_t size)
{
    struct kz_http_parse *parse = library->data;
    struct kz_http_span *target = &parse->head->target;

    if (target->size == 0)
        *target = span_of(parse, at, size);
    else
        target->size += (uint32_t)size;
    return 0;
}

static int on_field_name(http_parser *library, const char *at, size_t size)
{
    struct kz_http_parse *parse = library->data;
    struct kz_http_head *head = parse->head;

    if (head->field_count > 0 && !parse->in_value) {
        head->fields[head->field_count - 1].name.size += (uint32_t)size;
        return 0;
    }
    if (head->field_count == KZ_HTTP_FIELDS_MAX) {
        parse->status = 431;
        return 1;
    }
    head->fields[head->field_count++] = (struct kz_http_field){.name = span_of(parse, at, size)};
    parse->in_value = false;
    return 0;
}

static int on_field_value(http_parser *library, const char *at, size_t size)
{
    struct kz_http_parse *parse = library->data;
    struct kz_http_head *head = parse->head;
    struct kz_http_span *value;

    if (head->field_count == 0)
        return 1;
    value = &head->fields[head->field_count - 1].value;
    if (!parse->in_value)
        *value = span_of(parse, at, size);
    else
        value->size = (uint32_t)(at + size - parse->data) - value->at;
    parse->in_value = true;
    return 0;
}

static int on_head_complete(http_parser *library)
{
    struct kz_http_parse *parse = library->data;

    parse->complete = true;
    http_parser_pause(library, 1);
    return 0;
}

static const http_parser_settings settings = {
        .on_url = on_target,
        .on_header_field = on_field_name,
        .on_header_value = on_field_value,
        .on_headers_complete = on_head_complete,
};

/* ---- what is judged here ---- */

static enum kz_code refuse(
        struct kz_http_parse *parse, uint16_t status, struct kz_err *err, const char *what)
{
    enum kz_code code = status == 431 || status == 413   ? KZ_TOO_LARGE
                        : status == 501 || status == 505 ? KZ_UNSUPPORTED
                                                         : KZ_INVALID;

    parse->status = status;
    return kz_fail(err, code, "%s", what);
}

/* token of RFC 9110 section 5.6.2: the library also lets blanks through in names. */
static bool is_token(struct kz_str s)
{
    static const bool other[128] = {['!'] = true,
            ['#'] = true,
            ['$'] = true,
            ['%'] = true,
            ['&'] = true,
            ['\''] = true,
            ['*'] = true,
            ['+'] = true,
            ['-'] = true,
            ['.'] = true,
            ['^'] = true,
            ['_'] = true,
            ['`'] = true,
            ['|'] = true,
            ['~'] = true};

    for (size_t i = 0; i < s.size; i++) {
        unsigned char c = (unsigned char)s.ptr[i];

        if ((c | 32) >= 'a' && (c | 32) <= 'z')
            continue;
        if (c >= '0' && c <= '9')
            continue;
        if (c >= 128 || !other[c])
            return false;
    }
    return s.size > 0;
}

static bool is_name(struct kz_str s, const char *name, size_t size)
{
    return s.size == size && strncasecmp(s.ptr, name, size) == 0;
}
#define IS_NAME(s, literal) is_name(s, literal, sizeof(literal) - 1)

static struct kz_str trim(struct kz_str s)
{
    while (s.size > 0 && (s.ptr[0] == ' ' || s.ptr[0] == '\t')) {
        s.ptr++;
        s.size--;
    }
    while (s.size > 0 && (s.ptr[s.size - 1] == ' ' || s.ptr[s.size - 1] == '\t'))
        s.size--;
    return s;
}

/* The library does not look at a value's first byte. No early exit, so that it is vectorised. */
static bool has_control(struct kz_str s)
{
    bool found = false;

    for (size_t i = 0; i < s.size; i++) {
        unsigned char c = (unsigned char)s.ptr[i];

        found |= (c < 32 && c != '\t') || c == 127;
    }
    return found;
}

/* Every line ends in CR LF, none goes on in the next (obs-fold), and nothing is left open. */
static bool lines_are_sound(const char *data, size_t size)
{
    const char *at = data, *end = data + size;

    if (size < 4 || memcmp(end - 4, "\r\n\r\n", 4) != 0)
        return false;
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));

        if (!newline || newline == data || newline[-1] != '\r')
            return false;
        if (newline + 1 < end && (newline[1] == ' ' || newline[1] == '\t'))
            return false;
        at = newline + 1;
    }
    return true;
}

static bool read_content_length(struct kz_str value, int64_t *ret_length)
{
    int64_t length = 0;

    /* 18 digits are beyond any limit and within int64. */
    if (value.size == 0 || value.size > 18)
        return false;
    for (size_t i = 0; i < value.size; i++) {
        if (value.ptr[i] < '0' || value.ptr[i] > '9')
            return false;
        length = length * 10 + (value.ptr[i] - '0');
    }
    *ret_length = length;
    return true;
}

static void read_connection(struct kz_str value, bool *close, bool *keep_alive)
{
    while (value.size > 0) {
        const char *comma = memchr(value.ptr, ',', value.size);
        size_t size = comma ? (size_t)(comma - value.ptr) : value.size;
        struct kz_str token = trim(kz_str_n(value.ptr, size));

        if (IS_NAME(token, "close"))
            *close = true;
        else if (IS_NAME(token, "keep-alive"))
            *keep_alive = true;
        size += comma != NULL;
        value = kz_str_n(value.ptr + size, value.size - size);
    }
}

struct seen {
    unsigned host, content_length, transfer_encoding;
    bool close, keep_alive;
};

static enum kz_code judge_field(struct kz_http_parse *parse, struct kz_str name,
        struct kz_str value, struct seen *seen, struct kz_err *err)
{
    struct kz_http_head *head = parse->head;

    if (IS_NAME(name, "host")) {
        seen->host++;
    } else if (IS_NAME(name, "content-length")) {
        if (seen->content_length++)
            return refuse(parse, 400, err, "more than one Content-Length");
        if (!read_content_length(value, &head->content_length))
            return refuse(parse, 400, err, "Content-Length is not a number");
    } else if (IS_NAME(name, "transfer-encoding")) {
        if (seen->transfer_encoding++)
            return refuse(parse, 400, err, "more than one Transfer-Encoding");
        if (!IS_NAME(value, "chunked"))
            return refuse(parse, 501, err, "only Transfer-Encoding: chunked is supported");
        head->chunked = true;
    } else if (IS_NAME(name, "connection")) {
        read_connection(value, &seen->close, &seen->keep_alive);
    } else if (IS_NAME(name, "expect") && !head->response && head->version_minor > 0) {
        if (!IS_NAME(value, "100-continue"))
            return refuse(parse, 417, err, "only Expect: 100-continue is supported");
        head->expect_continue = true;
    }
    return KZ_OK;
}

static enum kz_code judge_fields(struct kz_http_parse *parse, struct seen *seen, struct kz_err *err)
{
    struct kz_http_head *head = parse->head;

    for (uint32_t i = 0; i < head->field_count; i++) {
        struct kz_http_field *field = &head->fields[i];
        struct kz_str name = kz_http_span_str(parse->data, field->name);
        struct kz_str value = trim(kz_http_span_str(parse->data, field->value));

        if (!is_token(name))
            return refuse(parse, 400, err, "a header name has a character that names cannot have");
        /* A blank between name and colon is caught as part of the name or here. */
        if (parse->data[field->name.at + field->name.size] != ':')
            return refuse(parse, 400, err, "a header name is not followed by a colon");
        if (has_control(value))
            return refuse(parse, 400, err, "a header value has a control character in it");
        field->value.at = value.size ? (uint32_t)(value.ptr - parse->data) : field->value.at;
        field->value.size = (uint32_t)value.size;
        KZ_TRY(judge_field(parse, name, value, seen, err));
    }
    return KZ_OK;
}

static enum kz_code judge_request_line(struct kz_http_parse *parse, struct kz_err *err)
{
    struct kz_http_head *head = parse->head;
    const char *blank = memchr(parse->data, ' ', head->size);

    if (!blank || head->target.size == 0)
        return refuse(parse, 400, err, "the request line is not \"METHOD TARGET HTTP/1.1\"");
    /* The library skips blanks; a proxy that does not would see another target. */
    if (head->target.at != (uint32_t)(blank - parse->data) + 1)
        return refuse(parse, 400, err, "there is more than one blank before the target");
    head->method = (struct kz_http_span){0, (uint32_t)(blank - parse->data)};
    if (!is_token(kz_http_span_str(parse->data, head->method)))
        return refuse(parse, 400, err, "the method has a character that methods cannot have");
    return KZ_OK;
}

static enum kz_code judge(struct kz_http_parse *parse, struct kz_err *err)
{
    struct kz_http_head *head = parse->head;
    const http_parser *library = library_of(parse);
    struct seen seen = {0};

    if (library->http_major != 1)
        return refuse(parse, 505, err, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    head->version_minor = library->http_minor > 0;
    head->status = head->response ? (uint16_t)library->status_code : 0;
    if (!lines_are_sound(parse->data, head->size))
        return refuse(parse, 400, err, "a header line does not end in CR LF or is folded");
    if (!head->response)
        KZ_TRY(judge_request_line(parse, err));
    KZ_TRY(judge_fields(parse, &seen, err));
    if (seen.transfer_encoding && seen.content_length)
        return refuse(parse, 400, err, "both Content-Length and Transfer-Encoding");
    if (seen.transfer_encoding && head->version_minor == 0)
        return refuse(parse, 400, err, "Transfer-Encoding in HTTP/1.0");
    if (!head->response && (seen.host > 1 || (seen.host == 0 && head->version_minor > 0)))
        return refuse(parse, 400, err, "there must be one Host header");
    head->keep_alive = !seen.close && (head->version_minor > 0 || seen.keep_alive);
    return KZ_OK;
}

void kz_http_parse_begin(struct kz_http_parse *parse, bool response, struct kz_http_head *head)
{
    /* The fields are not cleared: field_count says which count. */
    memset(head, 0, offsetof(struct kz_http_head, fields));
    head->response = response;
    head->content_length = -1;
    *parse = (struct kz_http_parse){.head = head};
    http_parser_init(library_of(parse), response ? HTTP_RESPONSE : HTTP_REQUEST);
}

enum kz_code kz_http_parse_head(struct kz_http_parse *parse, const char *data, size_t size,
        size_t head_max_bytes, bool *ret_complete, struct kz_err *err)
{
    http_parser *library = library_of(parse);
    size_t limit = KZ_MIN(head_max_bytes, (size_t)KZ_HTTP_HEAD_LIMIT_BYTES);
    size_t stop = KZ_MIN(size, limit);
    enum http_errno failure;
    size_t used;

    KZ_BUG_ON(parse->complete || parse->parsed > stop);
    parse->data = data;
    library->data = parse;
    used = http_parser_execute(library, &settings, data + parse->parsed, stop - parse->parsed);
    failure = HTTP_PARSER_ERRNO(library);
    if (parse->complete) {
        /* It stops at the last LF without taking it. */
        parse->head->size = parse->parsed + (uint32_t)used + 1;
        if (parse->head->size > stop)
            return refuse(parse, 400, err, "the head does not end in an empty line");
        KZ_TRY(judge(parse, err));
        parse->parsed = parse->head->size;
        *ret_complete = true;
        return KZ_OK;
    }
    if (parse->status == 431)
        return refuse(parse, 431, err, "too many header fields");
    if (failure == HPE_INVALID_VERSION)
        return refuse(parse, 505, err, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    if (failure != HPE_OK || used != stop - parse->parsed)
        return refuse(parse, failure == HPE_HEADER_OVERFLOW ? 431 : 400, err,
                failure == HPE_OK ? "not HTTP" : http_errno_description(failure));
    parse->parsed += (uint32_t)used;
    if (parse->parsed >= limit)
        return refuse(parse, 431, err, "the request's head is over the size limit");
    *ret_complete = false;
    return KZ_OK;
}

/* ---- the chunked coding, RFC 9112 section 7.1 ----
 *
 *   SIZE --CR--> SIZE_LF --LF--> DATA --(left == 0)--> DATA_CR -> DATA_LF -> SIZE
 *     \--;--> EXTENSION --CR--^      \--(size was 0)--> LINE --CR--> END_LF --LF--> complete
 *                                                        \--> TRAILER --CR--> TRAILER_LF -> LINE
 */
enum chunk_state {
    CHUNK_SIZE,
    CHUNK_EXTENSION,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    CHUNK_LINE,
    CHUNK_TRAILER,
    CHUNK_TRAILER_LF,
    CHUNK_END_LF,
    CHUNK_COMPLETE,
};

void kz_http_chunks_begin(struct kz_http_chunks *chunks)
{
    *chunks = (struct kz_http_chunks){.state = CHUNK_SIZE};
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if ((c | 32) >= 'a' && (c | 32) <= 'f')
        return (c | 32) - 'a' + 10;
    return -1;
}

static bool step_size(struct kz_http_chunks *chunks, char c)
{
    int digit = hex_value(c);

    if (digit >= 0) {
        /* 15 digits keep within 60 bits. */
        if (++chunks->digits > 15)
            return false;
        chunks->left = chunks->left * 16 + (uint64_t)digit;
        return true;
    }
    if (chunks->digits == 0 || (c != '\r' && c != ';'))
        return false;
    chunks->state = c == '\r' ? CHUNK_SIZE_LF : CHUNK_EXTENSION;
    return true;
}

/* A byte of an extension or a trailer: dropped, but not without end, and no controls. */
static bool step_extra(struct kz_http_chunks *chunks, char c)
{
    return ++chunks->extra_bytes <= CHUNK_EXTRA_MAX_BYTES &&
           ((unsigned char)c >= 32 || c == '\t') && c != 127;
}

/* One byte that is not data; false where it cannot be there. */
static bool step_byte(struct kz_http_chunks *chunks, char c)
{
    switch ((enum chunk_state)chunks->state) {
    case CHUNK_SIZE:
        return step_size(chunks, c);
    case CHUNK_EXTENSION:
        if (c != '\r')
            return step_extra(chunks, c);
        chunks->state = CHUNK_SIZE_LF;
        return true;
    case CHUNK_SIZE_LF:
        chunks->state = chunks->left ? CHUNK_DATA : CHUNK_LINE;
        return c == '\n';
    case CHUNK_DATA_CR:
        chunks->state = CHUNK_DATA_LF;
        return c == '\r';
    case CHUNK_DATA_LF:
        chunks->state = CHUNK_SIZE;
        chunks->digits = 0;
        return c == '\n';
    case CHUNK_LINE:
        chunks->state = c == '\r' ? CHUNK_END_LF : CHUNK_TRAILER;
        return c == '\r' || step_extra(chunks, c);
    case CHUNK_TRAILER:
        if (c != '\r')
            return step_extra(chunks, c);
        chunks->state = CHUNK_TRAILER_LF;
        return true;
    case CHUNK_TRAILER_LF:
        chunks->state = CHUNK_LINE;
        return c == '\n';
    case CHUNK_END_LF:
        chunks->state = CHUNK_COMPLETE;
        return c == '\n';
    case CHUNK_DATA:
    case CHUNK_COMPLETE:
        break;
    }
    return false;
}

enum kz_code kz_http_chunks_step(struct kz_http_chunks *chunks, const char *raw, size_t raw_size,
        char *out, uint64_t body_max_bytes, size_t *ret_used, size_t *ret_size, bool *ret_complete,
        struct kz_err *err)
{
    size_t used = 0, size = 0;

    while (used < raw_size && chunks->state != CHUNK_COMPLETE) {
        size_t take;

        if (chunks->state != CHUNK_DATA) {
            if (!step_byte(chunks, raw[used++])) {
                chunks->status = 400;
                return kz_fail(err, KZ_INVALID, "the chunked body is malformed");
            }
            if (chunks->left > body_max_bytes - chunks->body_bytes) {
                chunks->status = 413;
                return kz_fail(err, KZ_TOO_LARGE, "the body is over %llu bytes",
                        (unsigned long long)body_max_bytes);
            }
            continue;
        }
        take = KZ_MIN((size_t)chunks->left, raw_size - used);
        memmove(out + size, raw + used, take);
        used += take;
        size += take;
        chunks->left -= take;
        chunks->body_bytes += take;
        if (chunks->left == 0)
            chunks->state = CHUNK_DATA_CR;
    }
    *ret_used = used;
    *ret_size = size;
    *ret_complete = chunks->state == CHUNK_COMPLETE;
    return KZ_OK;
}
