/* codec/crypto.h -- SHA-256 and HMAC-SHA256 (FIPS 180-4, RFC 2104), by libcrypto.
 *
 * Threads  pure functions.
 */
#pragma once

#include "base/base.h"

enum { KZ_SHA256_BYTES = 32 };

void kz_sha256(struct kz_str data, uint8_t ret_digest[KZ_SHA256_BYTES]);
void kz_hmac_sha256(struct kz_str key, struct kz_str data, uint8_t ret_mac[KZ_SHA256_BYTES]);
/* In a time that does not depend on where they differ (it does on the sizes). */
bool kz_equal_secret(struct kz_str a, struct kz_str b);
