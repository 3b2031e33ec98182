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
