/* codec/jwt.h -- signed tokens as Google makes them: JSON Web Signature in its compact form (RFC
 * 7515, section 3.1) with RS256 (RFC 7518, section 3.3), keys as a JSON Web Key Set (RFC 7517,
 * section 5).
 *
 * One algorithm and one kind of key: what a token says of itself never chooses how it is checked.
 * All of it is public, so nothing is compared in constant time; a signature is checked by
 * libcrypto.
 *
 * Owner    whoever parsed a key set frees it. A token's strings lie in the caller's arena.
 * Threads  pure functions; a key set may be read by many at a time.
 * Fails    KZ_UNAUTHENTICATED for a token that proves nothing; KZ_INVALID for a text that is no key
 *          set.
 */
#pragma once

#include "base/arena.h"
#include "base/err.h"

enum {
    KZ_JWT_SIZE_MAX = 16 << 10,
    KZ_JWKS_SIZE_MAX = 256 << 10,
    KZ_JWKS_KEYS_MAX = 64, /* those beyond it are not looked at */
};

struct kz_jwks;

/* Keys of other kinds and uses are skipped; that none is left is KZ_INVALID. */
KZ_MUST_USE enum kz_code kz_jwks_parse(
        struct kz_str text, struct kz_jwks **ret_keys, struct kz_err *err);
void kz_jwks_free(struct kz_jwks *keys);
KZ_DEFINE_FREEP(struct kz_jwks, kz_jwks_free)
size_t kz_jwks_count(const struct kz_jwks *keys);

/* Claims; what is absent is empty or 0. Times are seconds since 1970. */
struct kz_jwt {
    struct kz_str issuer, audience, subject, email;
    bool email_verified;
    int64_t issued_s, not_before_s, expires_s;
};

/* Whether one of `keys` has signed `token`; its claims are for the caller to judge. KZ_NOT_FOUND:
 * it names a key that is not among them. `arena` has room for four times the token, or no limit. */
KZ_MUST_USE enum kz_code kz_jwt_verify(const struct kz_jwks *keys, struct kz_str token,
        struct kz_arena *arena, struct kz_jwt *ret_jwt, struct kz_err *err);
