#include "codec/jwt.h"

#include <stdlib.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>

#include "codec/base64.h"
#include "codec/json.h"

enum { MODULUS_MIN_BITS = 2048, MODULUS_MAX_BITS = 4096, EXPONENT_MAX_BYTES = 4, KID_MAX = 256 };

struct jwk {
    char *kid;
    EVP_PKEY *key;
};

struct kz_jwks {
    struct jwk *items;
    size_t count;
};

/* ---- keys ------------------------------------------------------------------------------------ */

/* A key of these numbers (big-endian), or NULL where they make none. */
static EVP_PKEY *make_key(struct kz_str modulus, struct kz_str exponent)
{
    BIGNUM *n = BN_bin2bn((const unsigned char *)modulus.ptr, (int)modulus.size, NULL);
    BIGNUM *e = BN_bin2bn((const unsigned char *)exponent.ptr, (int)exponent.size, NULL);
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    OSSL_PARAM *params = NULL;
    EVP_PKEY *key = NULL;

    KZ_BUG_ON(!n || !e || !build || !context); /* for want of memory only */
    if (BN_num_bits(n) >= MODULUS_MIN_BITS && BN_num_bits(n) <= MODULUS_MAX_BITS && BN_is_odd(n) &&
            BN_is_odd(e) && !BN_is_one(e) &&
            OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, n) &&
            OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, e))
        params = OSSL_PARAM_BLD_to_param(build);
    if (params && EVP_PKEY_fromdata_init(context) == 1 &&
            EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
        key = NULL;
    OSSL_PARAM_free(params);
    EVP_PKEY_CTX_free(context);
    OSSL_PARAM_BLD_free(build);
    BN_free(n);
    BN_free(e);
    return key;
}

static bool decode_member(struct kz_json_value object, const char *name, struct kz_buf *buf)
{
    struct kz_json_value value = kz_json_get(object, name);

    /* Base64 has no characters that JSON must escape. */
    return value.kind == KZ_JSON_STRING && !value.escaped &&
           kz_base64_decode(kz_str_n(value.raw.ptr + 1, value.raw.size - 2), KZ_BASE64_URL, buf,
                   NULL) == KZ_OK;
}

static bool is_absent_or(struct kz_json_value object, const char *name, const char *text)
{
    struct kz_json_value value = kz_json_get(object, name);

    return value.kind == KZ_JSON_NONE || kz_json_is(value, text);
}

/* false: a key that is not for us. */
static bool read_key(struct kz_json_value item, struct jwk *ret_key)
{
    struct kz_json_value kid = kz_json_get(item, "kid");
    struct kz_buf modulus = {0}, exponent = {0}, name = {0};
    EVP_PKEY *key = NULL;

    if (!kz_json_is(kz_json_get(item, "kty"), "RSA") || !is_absent_or(item, "use", "sig") ||
            !is_absent_or(item, "alg", "RS256") || kid.kind != KZ_JSON_STRING ||
            kid.raw.size > KID_MAX)
        return false;
    if (decode_member(item, "n", &modulus) && modulus.size <= MODULUS_MAX_BITS / 8 &&
            decode_member(item, "e", &exponent) && exponent.size <= EXPONENT_MAX_BYTES)
        key = make_key(kz_buf_view(&modulus), kz_buf_view(&exponent));
    kz_buf_done(&modulus);
    kz_buf_done(&exponent);
    if (!key)
        return false;
    kz_json_unescape(kid, &name);
    kz_buf_char(&name, '\0'); /* one with a NUL inside ends there: it then fits no token's */
    *ret_key = (struct jwk){name.data, key};
    return true;
}

enum kz_code kz_jwks_parse(struct kz_str text, struct kz_jwks **ret_keys, struct kz_err *err)
{
    KZ_AUTO(kz_jwks_freep) struct kz_jwks *keys = NULL;
    struct kz_json_value root, list, item;
    struct kz_json_walk walk;

    if (text.size > KZ_JWKS_SIZE_MAX)
        return kz_fail(err, KZ_INVALID, "a key set of %zu bytes, at most %d are read", text.size,
                KZ_JWKS_SIZE_MAX);
    KZ_TRY(kz_json_parse(text, 0, &root, err));
    list = kz_json_get(root, "keys");
    if (list.kind != KZ_JSON_ARRAY)
        return kz_fail(err, KZ_INVALID, "no key set: \"keys\" is missing");
    keys = kz_calloc(1, sizeof(*keys));
    keys->items = kz_calloc(KZ_JWKS_KEYS_MAX, sizeof(keys->items[0]));
    walk = kz_json_walk(list);
    while (keys->count < KZ_JWKS_KEYS_MAX && kz_json_walk_element(&walk, &item))
        if (item.kind == KZ_JSON_OBJECT && read_key(item, &keys->items[keys->count]))
            keys->count++;
    if (!keys->count)
        return kz_fail(err, KZ_INVALID, "the key set has no RSA key for RS256");
    *ret_keys = kz_take(&keys);
    return KZ_OK;
}

void kz_jwks_free(struct kz_jwks *keys)
{
    if (!keys)
        return;
    for (size_t i = 0; i < keys->count; i++) {
        free(keys->items[i].kid);
        EVP_PKEY_free(keys->items[i].key);
    }
    free(keys->items);
    free(keys);
}

size_t kz_jwks_count(const struct kz_jwks *keys)
{
    return keys->count;
}

/* ---- a token --------------------------------------------------------------------------------- */

/* header "." claims "." signature; `signed_text` is the first two. */
struct parts {
    struct kz_str header, claims, signature, signed_text;
};

static enum kz_code malformed(const char *what, struct kz_err *err)
{
    return kz_fail(err, KZ_UNAUTHENTICATED, "the token cannot be read: %s", what);
}

static bool split(struct kz_str token, struct parts *parts)
{
    const char *end = token.ptr + token.size;
    const char *first = token.size ? memchr(token.ptr, '.', token.size) : NULL;
    const char *second = first ? memchr(first + 1, '.', (size_t)(end - first - 1)) : NULL;

    if (!second || memchr(second + 1, '.', (size_t)(end - second - 1)))
        return false;
    parts->header = kz_str_n(token.ptr, (size_t)(first - token.ptr));
    parts->claims = kz_str_n(first + 1, (size_t)(second - first - 1));
    parts->signature = kz_str_n(second + 1, (size_t)(end - second - 1));
    parts->signed_text = kz_str_n(token.ptr, (size_t)(second - token.ptr));
    return true;
}

/* A part's bytes, in the arena. RFC 7515 has no padding, and so does not this. */
static bool decode(struct kz_str part, struct kz_arena *arena, struct kz_str *ret)
{
    struct kz_buf buf = {0};
    bool good = part.size && !memchr(part.ptr, '=', part.size) &&
                kz_base64_decode(part, KZ_BASE64_URL, &buf, NULL) == KZ_OK;

    if (good)
        *ret = kz_arena_str(arena, kz_buf_view(&buf));
    kz_buf_done(&buf);
    return good;
}

static bool decode_object(struct kz_str part, struct kz_arena *arena, struct kz_json_value *ret)
{
    struct kz_str text;

    return decode(part, arena, &text) && kz_json_parse(text, 0, ret, NULL) == KZ_OK &&
           ret->kind == KZ_JSON_OBJECT;
}

static EVP_PKEY *find_key(const struct kz_jwks *keys, struct kz_str kid)
{
    for (size_t i = 0; i < keys->count; i++)
        if (kz_str_is(kid, keys->items[i].kid))
            return keys->items[i].key;
    return NULL;
}

static bool has_signed(EVP_PKEY *key, struct kz_str text, struct kz_str signature)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool good;

    KZ_BUG_ON(!context);
    good = EVP_DigestVerifyInit(context, NULL, EVP_sha256(), NULL, key) == 1 &&
           EVP_DigestVerify(context, (const unsigned char *)signature.ptr, signature.size,
                   (const unsigned char *)text.ptr, text.size) == 1;
    EVP_MD_CTX_free(context);
    return good;
}

static struct kz_str claim(struct kz_json_value claims, const char *name, struct kz_arena *arena)
{
    struct kz_str text;

    return kz_json_str(kz_json_get(claims, name), arena, &text, NULL) == KZ_OK ? text : KZ_STR_NULL;
}

static int64_t claim_time(struct kz_json_value claims, const char *name)
{
    int64_t seconds;

    return kz_json_i64(kz_json_get(claims, name), &seconds, NULL) == KZ_OK ? seconds : 0;
}

enum kz_code kz_jwt_verify(const struct kz_jwks *keys, struct kz_str token, struct kz_arena *arena,
        struct kz_jwt *ret_jwt, struct kz_err *err)
{
    struct kz_json_value header, claims;
    struct kz_str kid, signature;
    struct parts parts;
    EVP_PKEY *key;

    if (token.size > KZ_JWT_SIZE_MAX || !split(token, &parts))
        return malformed("it is no signed JSON Web Token", err);
    if (!decode_object(parts.header, arena, &header))
        return malformed("its header is no JSON object", err);
    if (!kz_json_is(kz_json_get(header, "alg"), "RS256"))
        return malformed("it is not signed with RS256", err);
    if (kz_json_get(header, "crit").kind != KZ_JSON_NONE)
        return malformed("it has extensions that must be understood", err);
    if (kz_json_str(kz_json_get(header, "kid"), arena, &kid, NULL) != KZ_OK)
        return malformed("it does not name its key", err);
    if (!decode(parts.signature, arena, &signature))
        return malformed("its signature is not base64url", err);
    key = find_key(keys, kid);
    if (!key)
        return kz_fail(err, KZ_NOT_FOUND, "the token is signed with an unknown key");
    if (!has_signed(key, parts.signed_text, signature))
        return kz_fail(err, KZ_UNAUTHENTICATED, "the token's signature is wrong");
    if (!decode_object(parts.claims, arena, &claims))
        return malformed("its claims are no JSON object", err);
    *ret_jwt = (struct kz_jwt){
            .issuer = claim(claims, "iss", arena),
            .audience = claim(claims, "aud", arena),
            .subject = claim(claims, "sub", arena),
            .email = claim(claims, "email", arena),
            .email_verified = kz_json_get(claims, "email_verified").kind == KZ_JSON_TRUE,
            .issued_s = claim_time(claims, "iat"),
            .not_before_s = claim_time(claims, "nbf"),
            .expires_s = claim_time(claims, "exp"),
    };
    return KZ_OK;
}
