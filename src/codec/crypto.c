#include "codec/crypto.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

/* libcrypto fails here only for want of memory, or where an administrator has forbidden SHA-256:
 * nothing sensible follows either. */

void kz_sha256(struct kz_str data, uint8_t ret_digest[KZ_SHA256_BYTES])
{
    unsigned size = 0;

    KZ_BUG_ON(EVP_Digest(data.size ? data.ptr : "", data.size, ret_digest, &size, EVP_sha256(),
                      NULL) != 1);
    KZ_BUG_ON(size != KZ_SHA256_BYTES);
}

void kz_hmac_sha256(struct kz_str key, struct kz_str data, uint8_t ret_mac[KZ_SHA256_BYTES])
{
    unsigned size = 0;

    KZ_BUG_ON(key.size > INT_MAX);
    KZ_BUG_ON(!HMAC(EVP_sha256(), key.size ? key.ptr : "", (int)key.size,
            (const unsigned char *)(data.size ? data.ptr : ""), data.size, ret_mac, &size));
    KZ_BUG_ON(size != KZ_SHA256_BYTES);
}

bool kz_equal_secret(struct kz_str a, struct kz_str b)
{
    return a.size == b.size && (a.size == 0 || CRYPTO_memcmp(a.ptr, b.ptr, a.size) == 0);
}

/* An EVP_MD_CTX by our own name. */
struct kz_sha256 *kz_sha256_new(void)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();

    KZ_BUG_ON(!context || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1);
    return (struct kz_sha256 *)context;
}

void kz_sha256_add(struct kz_sha256 *sha, const void *data, size_t size)
{
    KZ_BUG_ON(EVP_DigestUpdate((EVP_MD_CTX *)sha, data, size) != 1);
}

void kz_sha256_finish(struct kz_sha256 *sha, uint8_t ret_digest[KZ_SHA256_BYTES])
{
    KZ_BUG_ON(EVP_DigestFinal_ex((EVP_MD_CTX *)sha, ret_digest, NULL) != 1);
    EVP_MD_CTX_free((EVP_MD_CTX *)sha);
}
