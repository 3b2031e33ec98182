/* app/commands/online.h -- a running Kizashi as the commands ask it, over HTTP.
 *
 * Owner    the command; answers are borrowed until the next call.
 * Threads  one.
 * Fails    as the server says, by its own code, message and hint; KZ_UNAVAILABLE with what to do
 *          where nobody listens.
 */
#pragma once

#include "app/commands/command.h"
#include "codec/json.h"
#include "sys/http_client.h"

#define KZ_ONLINE_URL "http://127.0.0.1:8080"
/* Every online command has these two; rows of its option table. Without --url it is the
 * environment's KIZASHI_URL, else KZ_ONLINE_URL. */
#define KZ_ONLINE_OPTIONS                                                                          \
    {"url", "URL", NULL,                                                                           \
            "where it runs, also unix:PATH; else the environment's KIZASHI_URL, "                  \
            "else " KZ_ONLINE_URL},                                                                \
    {                                                                                              \
        "key", "KEY", NULL, "its API key, else the environment's KIZASHI_KEY"                      \
    }

struct kz_online {
    struct kz_http_client *client;
    const char *url;
    char authorization[128];
    struct kz_http_client_header headers[2];
    size_t header_count;
    int status;       /* of the last answer; 0: there was none */
    uint32_t retry_s; /* its Retry-After; 0: none */
};

KZ_MUST_USE enum kz_code kz_online_open(
        const struct kz_args *args, struct kz_online *ret_online, struct kz_err *err);
void kz_online_close(struct kz_online *online);

/* Any status outside 200..299 is a failure. `ret_body` may be NULL. */
KZ_MUST_USE enum kz_code kz_online_call(struct kz_online *online, const char *method,
        const char *path, struct kz_str body, uint32_t timeout_ms, struct kz_str *ret_body,
        struct kz_err *err);
/* The same for an answer in JSON. */
KZ_MUST_USE enum kz_code kz_online_json(struct kz_online *online, const char *method,
        const char *path, uint32_t timeout_ms, struct kz_json_value *ret_root, struct kz_err *err);

/* Members of an answer; absent or of another kind: 0, "". */
double kz_online_number(struct kz_json_value object, const char *name);
uint64_t kz_online_count(struct kz_json_value object, const char *name);
/* By its "code"; KZ_INVALID where that is none of base/errors.def. */
enum kz_code kz_online_code(struct kz_json_value object);
/* In `buf` (cleared first), with a NUL behind it. */
const char *kz_online_text(struct kz_json_value object, const char *name, struct kz_buf *buf);
