/* codec/jwt_fixture.h -- for tests: keys made on the spot, their set, and tokens signed with them.
 */
#pragma once

#include <stdlib.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include "base/buf.h"
#include "codec/base64.h"

static inline EVP_PKEY *jwt_make_key(unsigned bits)
{
    EVP_PKEY *key = EVP_RSA_gen(bits);

    KZ_BUG_ON(!key);
    return key;
}

static inline void jwt_put_number(EVP_PKEY *key, const char *name, struct kz_buf *buf)
{
    unsigned char bytes[1024];
    BIGNUM *number = NULL;

    KZ_BUG_ON(EVP_PKEY_get_bn_param(key, name, &number) != 1);
    kz_base64_encode(kz_str_n(bytes, (size_t)BN_bn2bin(number, bytes)), KZ_BASE64_URL, buf);
    BN_free(number);
}

/* {"kty":"RSA",...} as Google has it. */
static inline void jwt_put_jwk(EVP_PKEY *key, const char *kid, struct kz_buf *buf)
{
    kz_buf_printf(
            buf, "{\"kid\":\"%s\",\"kty\":\"RSA\",\"use\":\"sig\",\"alg\":\"RS256\",\"n\":\"", kid);
    jwt_put_number(key, OSSL_PKEY_PARAM_RSA_N, buf);
    kz_buf_cstr(buf, "\",\"e\":\"");
    jwt_put_number(key, OSSL_PKEY_PARAM_RSA_E, buf);
    kz_buf_cstr(buf, "\"}");
}

/* base64url(header) "." base64url(claims) "." base64url(signature), and a NUL; to be freed. */
static inline char *jwt_sign(EVP_PKEY *key, const char *header, const char *claims)
{
    struct kz_buf buf = {0};
    unsigned char signature[1024];
    size_t size = sizeof(signature);
    EVP_MD_CTX *context = EVP_MD_CTX_new();

    kz_base64_encode(kz_str(header), KZ_BASE64_URL, &buf);
    kz_buf_char(&buf, '.');
    kz_base64_encode(kz_str(claims), KZ_BASE64_URL, &buf);
    KZ_BUG_ON(EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, key) != 1);
    KZ_BUG_ON(EVP_DigestSign(
                      context, signature, &size, (const unsigned char *)buf.data, buf.size) != 1);
    EVP_MD_CTX_free(context);
    kz_buf_char(&buf, '.');
    kz_base64_encode(kz_str_n(signature, size), KZ_BASE64_URL, &buf);
    kz_buf_char(&buf, '\0');
    return buf.data;
}
