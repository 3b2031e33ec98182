#include "app/commands/online.h"

#include <stdio.h>
#include <stdlib.h>

enum { ANSWER_MAX_BYTES = 256 << 20 };

enum kz_code kz_online_open(
        const struct kz_args *args, struct kz_online *ret_online, struct kz_err *err)
{
    const char *url = kz_args_get(args, "url"), *key = kz_args_get(args, "key");
    struct kz_online online = {0};

    if (!url)
        url = getenv("KIZASHI_URL");
    online.url = url && *url ? url : KZ_ONLINE_URL;
    if (!key)
        key = getenv("KIZASHI_KEY");
    KZ_TRY(kz_http_client_new(online.url, &online.client, err));
    kz_http_client_set_answer_max(online.client, ANSWER_MAX_BYTES);
    *ret_online = online;
    if (key && *key) {
        int size = snprintf(
                ret_online->authorization, sizeof(ret_online->authorization), "Bearer %s", key);

        if (size >= (int)sizeof(ret_online->authorization) || strpbrk(key, "\r\n")) {
            kz_online_close(ret_online);
            return kz_fail(err, KZ_INVALID, "this key is none: it has %zu bytes", strlen(key));
        }
        ret_online->headers[0] = (struct kz_http_client_header){
                KZ_STR("Authorization"), kz_str(ret_online->authorization)};
        ret_online->header_count = 1;
    }
    return KZ_OK;
}

void kz_online_close(struct kz_online *online)
{
    kz_http_client_free(online->client);
    online->client = NULL;
}

/* ---- what the server says is wrong ---------------------------------------------------------------- */

enum kz_code kz_online_code(struct kz_json_value object)
{
    struct kz_json_value name = kz_json_get(object, "code");

    for (int c = 1; c < KZ_CODE_COUNT; c++)
        if (kz_json_is(name, kz_code_name((enum kz_code)c)))
            return (enum kz_code)c;
    return KZ_INVALID;
}

/* Of an answer that names none (a proxy's, another server's): by its status. */
static enum kz_code code_of(struct kz_json_value error, int status)
{
    enum kz_code code = kz_online_code(error);

    if (code != KZ_INVALID || kz_json_is(kz_json_get(error, "code"), kz_code_name(code)))
        return code;
    if (status >= 500 && status != kz_code_http(KZ_UNSUPPORTED))
        return KZ_UNAVAILABLE;
    for (int c = 1; c < KZ_CODE_COUNT; c++)
        if (kz_code_http((enum kz_code)c) == status)
            return (enum kz_code)c;
    return KZ_INVALID;
}

/* A hint of the command line beats the server's, which speaks of HTTP; where a key was given the server
 * knows more. */
static enum kz_code refused(const struct kz_online *online, struct kz_str body, struct kz_err *err)
{
    struct kz_json_value root = {0}, error;
    struct kz_buf text = {0};
    enum kz_code code;

    if (kz_json_parse(body, 0, &root, NULL) != KZ_OK)
        root = (struct kz_json_value){0};
    error = kz_json_get(root, "error");
    code = code_of(error, online->status);
    if (error.kind == KZ_JSON_OBJECT)
        (void)kz_fail(err, code, "%s", kz_online_text(error, "message", &text));
    else
        (void)kz_fail(err, code, "%s answered %d; is it Kizashi that listens there?", online->url,
                online->status);
    if (code == KZ_UNAUTHENTICATED && !online->header_count)
        (void)kz_hint(err, "give a key: --key KEY, or KIZASHI_KEY in the environment; "
                           "`kizashi keys create DIR --kind admin` makes one");
    else if (*kz_online_text(error, "hint", &text))
        (void)kz_hint(err, "%s", text.data);
    kz_buf_done(&text);
    return code;
}

enum kz_code kz_online_call(struct kz_online *online, const char *method, const char *path,
        struct kz_str body, uint32_t timeout_ms, struct kz_str *ret_body, struct kz_err *err)
{
    struct kz_http_answer answer;
    struct kz_str retry;
    enum kz_code rc;

    online->status = 0;
    online->retry_s = 0;
    rc = kz_http_client_request(online->client, method, path, online->headers, online->header_count,
            body, timeout_ms, &answer, err);
    if (rc == KZ_UNAVAILABLE)
        return kz_hint(err, "is it running? start it with `kizashi up DIR`, or say where it is: "
                            "--url URL, or KIZASHI_URL in the environment");
    if (rc != KZ_OK)
        return kz_wrap(err, "%s", online->url);
    online->status = answer.status;
    retry = kz_http_client_header(online->client, "retry-after");
    if (retry.size && retry.size < 8)
        online->retry_s = (uint32_t)strtoul(retry.ptr, NULL, 10); /* stops at the line's end */
    if (answer.status < 200 || answer.status > 299)
        return refused(online, answer.body, err);
    if (ret_body)
        *ret_body = answer.body;
    return KZ_OK;
}

enum kz_code kz_online_json(struct kz_online *online, const char *method, const char *path,
        uint32_t timeout_ms, struct kz_json_value *ret_root, struct kz_err *err)
{
    struct kz_str body;

    KZ_TRY(kz_online_call(online, method, path, KZ_STR_NULL, timeout_ms, &body, err));
    if (kz_json_parse(body, 0, ret_root, err) != KZ_OK)
        return kz_wrap(err, "%s did not answer as Kizashi does", online->url);
    return KZ_OK;
}

/* ---- members -------------------------------------------------------------------------------------- */

double kz_online_number(struct kz_json_value object, const char *name)
{
    double number;

    return kz_json_f64(kz_json_get(object, name), &number, NULL) == KZ_OK ? number : 0;
}

uint64_t kz_online_count(struct kz_json_value object, const char *name)
{
    int64_t count;

    return kz_json_i64(kz_json_get(object, name), &count, NULL) == KZ_OK && count > 0
                   ? (uint64_t)count
                   : 0;
}

const char *kz_online_text(struct kz_json_value object, const char *name, struct kz_buf *buf)
{
    struct kz_json_value value = kz_json_get(object, name);

    kz_buf_clear(buf);
    if (value.kind == KZ_JSON_STRING)
        kz_json_unescape(value, buf);
    else if (value.kind != KZ_JSON_NONE && value.kind != KZ_JSON_NULL)
        kz_buf_str(buf, value.raw);
    kz_buf_char(buf, '\0');
    return buf->data;
}
