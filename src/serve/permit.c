/* serve/permit.c -- who may ask what: keys, and the proof that a user is the caller's. */

#include <stdio.h>

#include "contract/auth.h"
#include "serve/serve_int.h"
#include "sys/clock.h"

/* A user's token as a page sends it: EventSource sets no headers, so ?token= counts as well. */
static struct kz_str token_of(struct kz_http_request *req)
{
    struct kz_str token = kz_http_request_header(req, "Kizashi-Token");

    if (!token.ptr && req->query.size)
        (void)kz_http_query_get(req, "token", &token); /* absent: none */
    return token;
}

enum kz_code kz_serve_permit(
        struct kz_serve_call *call, enum kz_serve_permission permission, struct kz_err *err)
{
    static const enum kz_auth_need needs[] = {
            [KZ_SERVE_USER] = KZ_NEED_TAG,
            [KZ_SERVE_READ] = KZ_NEED_READ,
            [KZ_SERVE_ADMIN] = KZ_NEED_ADMIN,
    };
    struct kz_auth *auth = call->serve->auth;
    struct kz_identity identity;

    memcpy(call->who, "local", sizeof("local"));
    if (permission == KZ_SERVE_OPEN || !auth)
        return KZ_OK;
    KZ_TRY(kz_auth_check(
            auth, call->req, needs[permission], KZ_AUTH_QUERY_KEY, KZ_STR_NULL, &identity, err));
    snprintf(call->who, sizeof(call->who), "%s", identity.who);
    call->is_write_key = identity.key && identity.key->kind == KZ_KEY_WRITE;
    if (permission == KZ_SERVE_USER)
        KZ_TRY(kz_auth_user(auth, &identity, call->key, token_of(call->req), kz_clock_ms(), err));
    return KZ_OK;
}

size_t kz_serve_headers(struct kz_serve_call *call, struct kz_http_header headers[])
{
    size_t count = 0;

    headers[count++] = (struct kz_http_header){KZ_STR("Cache-Control"), KZ_STR("no-store")};
    if (call->serve->auth)
        count += kz_auth_cors(call->serve->auth, call->req, headers + count);
    return count;
}

void kz_serve_refuse(struct kz_serve *serve, struct kz_http_request *req, const struct kz_err *err)
{
    if (serve->auth)
        kz_auth_refuse(serve->auth, req, err);
    else
        kz_http_respond_error(req, err);
}

bool kz_serve_preflight(struct kz_serve *serve, struct kz_http_request *req)
{
    if (!serve->auth)
        return false;
    kz_auth_preflight(serve->auth, req);
    return true;
}
