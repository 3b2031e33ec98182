/* sys/http_client.h -- a small blocking HTTP/1.1 client for commands and tests.
 *
 * One keep-alive connection to one http:// origin, opened at the first request and again when it
 * was lost. A request is sent again only where the kept connection turned out to be closed before
 * a byte of an answer came and the method is GET or HEAD, or nothing of the request was taken.
 *
 * Owner    the caller; an answer's strings last until the client's next call.
 * Threads  one at a time.
 * Fails    KZ_INVALID (a URL that is none), KZ_UNAVAILABLE (cannot connect), KZ_TIMEOUT, KZ_IO (the
 *          connection broke), KZ_CORRUPT (not HTTP), KZ_TOO_LARGE (over answer_max_bytes).
 */
#pragma once

#include "base/err.h"

struct kz_http_client;

struct kz_http_client_header {
    struct kz_str name;
    struct kz_str value;
};

struct kz_http_answer {
    int status;
    struct kz_str body; /* transfer coding removed; empty for a stream */
};

/* `url`: http://HOST[:PORT][/PREFIX] or unix:PATH. The prefix goes before every path. */
KZ_MUST_USE enum kz_code kz_http_client_new(
        const char *url, struct kz_http_client **ret_client, struct kz_err *err);
void kz_http_client_free(struct kz_http_client *client);
KZ_DEFINE_FREEP(struct kz_http_client, kz_http_client_free)
/* 64 MiB at first. */
void kz_http_client_set_answer_max(struct kz_http_client *client, size_t answer_max_bytes);

/* Sends and waits for the whole answer, at most `timeout_ms` for all of it. Any status is KZ_OK. */
KZ_MUST_USE enum kz_code kz_http_client_request(struct kz_http_client *client, const char *method,
        const char *path, const struct kz_http_client_header *headers, size_t header_count,
        struct kz_str body, uint32_t timeout_ms, struct kz_http_answer *ret_answer,
        struct kz_err *err);
/* A header of the last answer (any case); a NULL pointer where there is none. */
struct kz_str kz_http_client_header(const struct kz_http_client *client, const char *name);

/* Sends a GET and returns when the answer's head is there; its body is read by
 * kz_http_client_read_line(), so a stream without end is fine. */
KZ_MUST_USE enum kz_code kz_http_client_stream(struct kz_http_client *client, const char *path,
        const struct kz_http_client_header *headers, size_t header_count, uint32_t timeout_ms,
        int *ret_status, struct kz_err *err);
/* The next line of the stream, without LF or CR LF; borrowed until the next call. KZ_END: the
 * stream is over. KZ_TIMEOUT: no whole line yet; call again. */
KZ_MUST_USE enum kz_code kz_http_client_read_line(struct kz_http_client *client,
        uint32_t timeout_ms, struct kz_str *ret_line, struct kz_err *err);
/* Gives up the connection, and with it a stream. The next request opens another. */
void kz_http_client_close(struct kz_http_client *client);
