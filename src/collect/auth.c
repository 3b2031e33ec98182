/* Who may do what: see contract/auth.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/base64.h"
#include "codec/hex.h"
#include "collect/auth_int.h"

enum { PRESENTED_SIZE_MAX = 512 };

bool auth_pattern(const char *pattern, struct kz_str text)
{
    const char *star = NULL;
    size_t at = 0, retry = 0;

    /* Only the last star is ever gone back to, so that no pattern is slow. */
    while (at < text.size) {
        if (*pattern == '*') {
            star = pattern++;
            retry = at;
        } else if (*pattern && *pattern == text.ptr[at]) {
            pattern++;
            at++;
        } else if (star) {
            pattern = star + 1;
            at = ++retry;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

static bool in_list(char *const *list, size_t count, struct kz_str text)
{
    for (size_t i = 0; i < count; i++)
        if (auth_pattern(list[i], text))
            return true;
    return false;
}

/* -- this machine ----------------------------------------------------------------------------- */

/* "host:port", "[::1]:port" or without a port: the host. */
static struct kz_str host_of(struct kz_str authority)
{
    const char *colon;

    if (kz_str_starts(authority, "[")) {
        const char *close = memchr(authority.ptr, ']', authority.size);

        return close ? kz_str_n(authority.ptr, (size_t)(close - authority.ptr) + 1) : authority;
    }
    colon = authority.size ? memchr(authority.ptr, ':', authority.size) : NULL;
    return colon ? kz_str_n(authority.ptr, (size_t)(colon - authority.ptr)) : authority;
}

static bool is_local_host(const struct kz_auth *auth, struct kz_str authority)
{
    struct kz_str host = host_of(authority);

    if (kz_http_name_eq(host, "localhost") || kz_str_is(host, "127.0.0.1") ||
            kz_str_is(host, "[::1]"))
        return true;
    for (size_t i = 0; i < auth->host_count; i++)
        if (kz_http_name_eq(host, auth->hosts[i]))
            return true;
    return false;
}

/* What stands behind http:// or https://. */
static struct kz_str origin_authority(struct kz_str origin)
{
    if (kz_str_starts(origin, "http://"))
        return kz_str_n(origin.ptr + 7, origin.size - 7);
    if (kz_str_starts(origin, "https://"))
        return kz_str_n(origin.ptr + 8, origin.size - 8);
    return KZ_STR_NULL;
}

bool kz_auth_is_open(const struct kz_auth *auth)
{
    return !auth->ever_closed;
}

enum kz_code kz_auth_listen(struct kz_auth *auth, const char *address, struct kz_err *err)
{
    struct kz_str host = host_of(kz_str(address));

    if (kz_auth_is_open(auth) && !kz_http_address_is_loopback(address)) {
        (void)kz_fail(err, KZ_CONFIG, "\"%s\" can be reached from elsewhere, and there are no keys",
                address);
        return kz_hint(err, "create one first (kizashi keys create), or listen on 127.0.0.1");
    }
    if (host.size && auth->host_count < HOSTS_MAX && !kz_str_starts(kz_str(address), "unix:"))
        auth->hosts[auth->host_count++] = kz_strndup(host.ptr, host.size);
    return KZ_OK;
}

static bool is_forwarded(const struct kz_http_request *req)
{
    return kz_http_request_header(req, "forwarded").ptr || kz_http_request_header(req, "via").ptr ||
           kz_http_request_header(req, "x-forwarded-for").ptr ||
           kz_http_request_header(req, "x-real-ip").ptr;
}

static enum kz_code check_local(
        const struct kz_auth *auth, const struct kz_http_request *req, struct kz_err *err)
{
    struct kz_str host = kz_http_request_header(req, "host");
    struct kz_str origin = kz_http_request_header(req, "origin");

    if (!req->is_loopback || is_forwarded(req)) {
        (void)kz_fail(
                err, KZ_UNAUTHENTICATED, "without keys only callers on this machine are served");
        return kz_hint(err, "create a key: kizashi keys create");
    }
    if (strcmp(req->peer, "unix") != 0 && !is_local_host(auth, host)) {
        (void)kz_fail(err, KZ_FORBIDDEN, "the host \"" KZ_STR_FMT "\" is not this machine",
                KZ_STR_ARG(kz_str_n(host.ptr, KZ_MIN(host.size, 100u))));
        return kz_hint(err, "without keys, address it as localhost or 127.0.0.1");
    }
    if (origin.ptr && !is_local_host(auth, origin_authority(origin))) {
        (void)kz_fail(err, KZ_FORBIDDEN, "the origin \"" KZ_STR_FMT "\" is not this machine",
                KZ_STR_ARG(kz_str_n(origin.ptr, KZ_MIN(origin.size, 100u))));
        return kz_hint(err, "for pages of other sites create a write key with --origins");
    }
    return KZ_OK;
}

/* -- keys ------------------------------------------------------------------------------------- */

/* The valid key of this secret. All are compared, whichever it is. */
static struct kz_key *find_key(struct kz_auth *auth, struct kz_str secret)
{
    struct kz_key *found = NULL;
    uint8_t digest[KZ_SHA256_BYTES];

    if (secret.size != KZ_SECRET_BYTES - 1 || !kz_str_starts(secret, "kz_"))
        return NULL;
    kz_sha256(secret, digest);
    for (size_t i = 0; i < auth->key_count; i++) {
        struct kz_key *key = &auth->keys[i];

        if (kz_equal_secret(
                    kz_str_n(digest, sizeof(digest)), kz_str_n(key->digest, sizeof(key->digest))) &&
                !key->revoked_at_ms && key->kind != KZ_KEY_SIGNING)
            found = key;
    }
    return found;
}

/* The user name of "Basic base64(user:password)", into `out`. */
static bool basic_user(struct kz_str encoded, char out[PRESENTED_SIZE_MAX], struct kz_str *ret)
{
    struct kz_buf buf = {0};
    const char *colon;
    bool ok = encoded.size < PRESENTED_SIZE_MAX &&
              kz_base64_decode(encoded, KZ_BASE64_STD, &buf, NULL) == KZ_OK;

    if (ok) {
        colon = buf.size ? memchr(buf.data, ':', buf.size) : NULL;
        *ret = kz_str_n(out, colon ? (size_t)(colon - buf.data) : buf.size);
        memcpy(out, buf.data ? buf.data : "", ret->size);
    }
    kz_buf_done(&buf);
    return ok;
}

static struct kz_str trim_left(struct kz_str s)
{
    while (s.size && *s.ptr == ' ')
        s = kz_str_n(s.ptr + 1, s.size - 1);
    return s;
}

/* What Authorization presents; a NULL pointer where there is none. */
static enum kz_code header_key(const struct kz_http_request *req, char out[PRESENTED_SIZE_MAX],
        struct kz_str *ret, struct kz_err *err)
{
    struct kz_str header = kz_http_request_header(req, "authorization");
    struct kz_str scheme, rest;
    const char *blank;

    *ret = KZ_STR_NULL;
    if (!header.ptr)
        return KZ_OK;
    blank = header.size ? memchr(header.ptr, ' ', header.size) : NULL;
    scheme = kz_str_n(header.ptr, blank ? (size_t)(blank - header.ptr) : header.size);
    rest = trim_left(kz_str_n(header.ptr + scheme.size, header.size - scheme.size));
    if (kz_http_name_eq(scheme, "bearer")) {
        *ret = rest;
        return KZ_OK;
    }
    if (kz_http_name_eq(scheme, "basic") && basic_user(rest, out, ret))
        return KZ_OK;
    (void)kz_fail(err, KZ_UNAUTHENTICATED, "the Authorization header cannot be read");
    return kz_hint(
            err, "send \"Authorization: Bearer kz_...\", or Basic with the key as user name");
}

static enum kz_code unknown_key(struct kz_err *err)
{
    (void)kz_fail(err, KZ_UNAUTHENTICATED, "the key is unknown or revoked");
    return kz_hint(err,
            "one made just now is taken within two seconds; list the valid ones: kizashi keys list DIR");
}

/* Whether the key may be used from the page, if any, that sends the request. */
static enum kz_code check_origin(
        const struct kz_key *key, const struct kz_http_request *req, struct kz_err *err)
{
    struct kz_str origin = kz_http_request_header(req, "origin");
    bool own = origin.ptr &&
               kz_str_eq(origin_authority(origin), kz_http_request_header(req, "host"));

    if (!origin.ptr) {
        /* Browsers send no Origin with a GET of their own site. */
        if (key->kind != KZ_KEY_WRITE || !key->origin_count || req->method == KZ_HTTP_GET)
            return KZ_OK;
        (void)kz_fail(err, KZ_FORBIDDEN, "key \"%s\" is for pages, and the request has no Origin",
                key->name);
        return kz_hint(err, "for servers create a key without --origins");
    }
    if (own || in_list(key->origins, key->origin_count, origin) ||
            (key->kind == KZ_KEY_WRITE && !key->origin_count))
        return KZ_OK;
    (void)kz_fail(err, KZ_FORBIDDEN,
            "key \"%s\" may not be used from the origin \"" KZ_STR_FMT "\"", key->name,
            KZ_STR_ARG(kz_str_n(origin.ptr, KZ_MIN(origin.size, 100u))));
    return kz_hint(err, "create a key with --origins for it");
}

static enum kz_code check_kind(const struct kz_key *key, enum kz_auth_need need, struct kz_err *err)
{
    static const enum kz_key_kind least[] = {
            [KZ_NEED_WRITE] = KZ_KEY_WRITE,
            [KZ_NEED_TAG] = KZ_KEY_WRITE,
            [KZ_NEED_READ] = KZ_KEY_READ,
            [KZ_NEED_ADMIN] = KZ_KEY_ADMIN,
    };

    if (key->kind >= least[need])
        return KZ_OK;
    (void)kz_fail(err, KZ_FORBIDDEN, "key \"%s\" is a %s key, this takes %s %s key", key->name,
            kz_key_kind_name(key->kind), need == KZ_NEED_ADMIN ? "an" : "a",
            kz_key_kind_name(least[need]));
    return kz_hint(err, "create one: kizashi keys create --kind %s", kz_key_kind_name(least[need]));
}

enum kz_code kz_auth_admit(
        struct kz_auth *auth, const struct kz_http_request *req, struct kz_err *err)
{
    char text[PRESENTED_SIZE_MAX];
    struct kz_str secret;

    KZ_CHECK_MAGIC(auth, AUTH_MAGIC);
    if (kz_auth_is_open(auth))
        return check_local(auth, req, err);
    KZ_TRY(header_key(req, text, &secret, err));
    return !secret.ptr || find_key(auth, secret) ? KZ_OK : unknown_key(err);
}

enum kz_code kz_auth_check(struct kz_auth *auth, struct kz_http_request *req,
        enum kz_auth_need need, unsigned flags, struct kz_str body_key,
        struct kz_identity *ret_identity, struct kz_err *err)
{
    char text[PRESENTED_SIZE_MAX];
    struct kz_str secret;
    struct kz_key *key;
    bool is_public; /* it came where others can read it */

    KZ_CHECK_MAGIC(auth, AUTH_MAGIC);
    if (kz_auth_is_open(auth)) {
        KZ_TRY(check_local(auth, req, err));
        *ret_identity = (struct kz_identity){.who = "local"};
        return KZ_OK;
    }
    KZ_TRY(header_key(req, text, &secret, err));
    is_public = !secret.ptr;
    if (is_public)
        secret = body_key;
    if (!secret.size && (flags & KZ_AUTH_QUERY_KEY) && !kz_http_query_get(req, "key", &secret))
        secret = KZ_STR_NULL;
    if (!secret.size) {
        (void)kz_fail(err, KZ_UNAUTHENTICATED, "no key was presented");
        return kz_hint(err, "send \"Authorization: Bearer kz_...\"; keys: kizashi keys create");
    }
    key = find_key(auth, secret);
    if (!key)
        return unknown_key(err);
    if (is_public && key->kind != KZ_KEY_WRITE) {
        (void)kz_fail(err, KZ_FORBIDDEN, "the %s key \"%s\" came in the URL or the body",
                kz_key_kind_name(key->kind), key->name);
        return kz_hint(err, "it may be in logs now: revoke it; send it as Authorization: Bearer");
    }
    KZ_TRY(check_kind(key, need, err));
    KZ_TRY(check_origin(key, req, err));
    *ret_identity = (struct kz_identity){.key = key};
    snprintf(ret_identity->who, sizeof(ret_identity->who), "%s", key->name);
    return KZ_OK;
}

bool kz_auth_may_send(const struct kz_identity *identity, struct kz_str event_name)
{
    const struct kz_key *key = identity->key;

    return !key || !key->event_count || in_list(key->events, key->event_count, event_name);
}

enum kz_code kz_auth_spend(struct kz_auth *auth, const struct kz_identity *identity, uint64_t count,
        int64_t mono_us, struct kz_err *err)
{
    struct kz_key *key = identity->key ? &auth->keys[identity->key - auth->keys] : NULL;
    double rate;

    KZ_CHECK_MAGIC(auth, AUTH_MAGIC);
    if (!key || !key->rate || !count)
        return KZ_OK;
    rate = key->rate;
    if (mono_us > key->filled_us)
        key->tokens = fmin(rate, key->tokens + (double)(mono_us - key->filled_us) * rate / 1e6);
    key->filled_us = KZ_MAX(key->filled_us, mono_us);
    /* A batch larger than the rate must be able to pass: it goes into debt, and the next one waits.
     */
    if (key->tokens < 1) {
        (void)kz_fail(
                err, KZ_LIMIT, "key \"%s\" may send %u events a second", key->name, key->rate);
        return kz_hint(err, "come back in %.0f s, or create a key with a higher --rate",
                ceil((1 - key->tokens) / rate));
    }
    key->tokens -= (double)count;
    return KZ_OK;
}

/* -- users ------------------------------------------------------------------------------------ */

static enum kz_code bad_token(const char *what, struct kz_err *err)
{
    (void)kz_fail(err, KZ_FORBIDDEN, "the user token %s", what);
    return kz_hint(err, "have your server sign one: base64url(user_id).expiry.hex(HMAC-SHA256)");
}

static bool is_signed(
        const struct kz_auth *auth, struct kz_str text, const uint8_t mac[KZ_SHA256_BYTES])
{
    bool found = false;

    for (size_t i = 0; i < auth->key_count; i++) {
        const struct kz_key *key = &auth->keys[i];
        uint8_t wanted[KZ_SHA256_BYTES];

        if (key->kind != KZ_KEY_SIGNING || key->revoked_at_ms)
            continue;
        kz_hmac_sha256(kz_str(key->secret), text, wanted);
        found |= kz_equal_secret(kz_str_n(wanted, sizeof(wanted)), kz_str_n(mac, sizeof(wanted)));
    }
    return found;
}

static bool parse_expiry(struct kz_str text, int64_t *ret_s)
{
    int64_t value = 0;

    if (!text.size || text.size > 12)
        return false;
    for (size_t i = 0; i < text.size; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return false;
        value = value * 10 + (text.ptr[i] - '0');
    }
    *ret_s = value;
    return true;
}

static enum kz_code check_token(const struct kz_auth *auth, struct kz_str user_id,
        struct kz_str token, int64_t now_ms, struct kz_err *err)
{
    const char *end = token.ptr + token.size;
    const char *first = token.size ? memchr(token.ptr, '.', token.size) : NULL;
    const char *second = first ? memchr(first + 1, '.', (size_t)(end - first - 1)) : NULL;
    uint8_t mac[KZ_SHA256_BYTES];
    struct kz_buf id = {0};
    int64_t expiry_s;
    bool same;

    if (!second || token.size > 1024 ||
            kz_hex_decode(kz_str_n(second + 1, (size_t)(end - second - 1)), mac, sizeof(mac),
                    NULL) != KZ_OK ||
            !parse_expiry(kz_str_n(first + 1, (size_t)(second - first - 1)), &expiry_s))
        return bad_token("is malformed", err);
    if (!is_signed(auth, kz_str_n(token.ptr, (size_t)(second - token.ptr)), mac))
        return bad_token("is not signed by a signing key of this project", err);
    if (expiry_s * 1000 <= now_ms)
        return bad_token("has expired", err);
    same = kz_base64_decode(kz_str_n(token.ptr, (size_t)(first - token.ptr)), KZ_BASE64_URL, &id,
                   NULL) == KZ_OK &&
           kz_str_eq(kz_buf_view(&id), user_id);
    kz_buf_done(&id);
    return same ? KZ_OK : bad_token("is another user's", err);
}

enum kz_code kz_auth_user(const struct kz_auth *auth, const struct kz_identity *identity,
        struct kz_user_key user, struct kz_str token, int64_t now_ms, struct kz_err *err)
{
    if (!identity->key || identity->key->kind != KZ_KEY_WRITE)
        return KZ_OK;
    if (user.kind == 'u') {
        if (!token.size) {
            (void)kz_fail(err, KZ_FORBIDDEN, "a write key reads of a user only with a user token");
            return kz_hint(err, "have your server sign one with a key of kind signing");
        }
        return check_token(auth, user.id, token, now_ms, err);
    }
    if (user.id.size >= KZ_ANONYMOUS_PROOF_SIZE)
        return KZ_OK;
    (void)kz_fail(err, KZ_FORBIDDEN,
            "an anonymous_id of %zu characters can be guessed, at least %d are needed",
            user.id.size, KZ_ANONYMOUS_PROOF_SIZE);
    return kz_hint(err, "make it of 128 random bits, as tag.js does");
}

/* -- CORS ------------------------------------------------------------------------------------- */

static bool origin_known(const struct kz_auth *auth, struct kz_str origin)
{
    if (kz_auth_is_open(auth))
        return is_local_host(auth, origin_authority(origin));
    for (size_t i = 0; i < auth->key_count; i++) {
        const struct kz_key *key = &auth->keys[i];

        if (key->revoked_at_ms || key->kind == KZ_KEY_SIGNING)
            continue;
        if (in_list(key->origins, key->origin_count, origin) ||
                (key->kind == KZ_KEY_WRITE && !key->origin_count))
            return true;
    }
    return false;
}

size_t kz_auth_cors(const struct kz_auth *auth, const struct kz_http_request *req,
        struct kz_http_header ret_headers[KZ_CORS_HEADERS_MAX])
{
    struct kz_str origin = kz_http_request_header(req, "origin");

    if (!origin.size || !origin_known(auth, origin))
        return 0;
    ret_headers[0] = (struct kz_http_header){KZ_STR("Access-Control-Allow-Origin"), origin};
    ret_headers[1] = (struct kz_http_header){KZ_STR("Vary"), KZ_STR("Origin")};
    ret_headers[2] = (struct kz_http_header){
            KZ_STR("Access-Control-Expose-Headers"), KZ_STR("Retry-After")};
    return 3;
}

void kz_auth_preflight(const struct kz_auth *auth, struct kz_http_request *req)
{
    struct kz_http_header headers[KZ_CORS_HEADERS_MAX + 4];
    size_t count = kz_auth_cors(auth, req, headers);
    struct kz_err err;

    if (!count) {
        (void)kz_fail(&err, KZ_FORBIDDEN, "no key may be used from this origin");
        (void)kz_hint(&err, "create a key with --origins for it");
        kz_http_respond_error(req, &err);
        return;
    }
    headers[count++] = (struct kz_http_header){
            KZ_STR("Access-Control-Allow-Methods"), KZ_STR("GET, POST, DELETE, OPTIONS")};
    headers[count++] = (struct kz_http_header){KZ_STR("Access-Control-Allow-Headers"),
            KZ_STR("Authorization, Content-Type, Content-Encoding, AnonymousId, X-Kizashi-User")};
    headers[count++] = (struct kz_http_header){KZ_STR("Access-Control-Max-Age"), KZ_STR("600")};
    kz_http_respond(req, 204, NULL, KZ_STR_NULL, headers, count);
}

void kz_auth_refuse(
        const struct kz_auth *auth, struct kz_http_request *req, const struct kz_err *err)
{
    struct kz_http_header headers[KZ_CORS_HEADERS_MAX + 1];
    size_t count = kz_auth_cors(auth, req, headers);

    if (err->code == KZ_UNAUTHENTICATED)
        headers[count++] = (struct kz_http_header){
                KZ_STR("WWW-Authenticate"), KZ_STR("Bearer realm=\"kizashi\"")};
    kz_http_respond_error_with(req, kz_code_http(err->code), err, headers, count);
}
