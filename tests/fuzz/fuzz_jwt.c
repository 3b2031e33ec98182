/* Key sets and tokens, both from foreign servers. Up to the first NUL byte it is a key set, behind
 * it a token that is checked against that set, or, where it is none, against a fixed one. */
#include <stdlib.h>

#include "codec/jwt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The key of RFC 7515, appendix A.2, and so its tokens get as far as a signature can. */
static const char fixed[] =
        "{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"k\",\"n\":"
        "\"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-"
        "4qPCJrcS2mJPMEzP1Pt0Bm4"
        "d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-"
        "bSf63kpaSHSXndS5z5rexM"
        "dbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_"
        "I5IhlJH7aGhyxXFvUK"
        "-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ\",\"e\":\"AQAB\"}]}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = malloc(size + 1);
    const char *nul;
    struct kz_str set, token;
    struct kz_jwks *keys = NULL;
    struct kz_arena arena;
    struct kz_jwt jwt;

    memcpy(copy, data, size);
    nul = size ? memchr(copy, '\0', size) : NULL;
    set = kz_str_n(copy, nul ? (size_t)(nul - copy) : size);
    token = nul ? kz_str_n(nul + 1, size - set.size - 1) : kz_str_n(copy, size);
    if (kz_jwks_parse(set, &keys, NULL) != KZ_OK &&
            kz_jwks_parse(kz_str(fixed), &keys, NULL) != KZ_OK)
        abort();
    KZ_BUG_ON(!kz_jwks_count(keys) || kz_jwks_count(keys) > KZ_JWKS_KEYS_MAX);
    kz_arena_init(&arena, 0);
    if (kz_jwt_verify(keys, token, &arena, &jwt, NULL) == KZ_OK)
        KZ_BUG_ON(jwt.issuer.size + jwt.audience.size + jwt.email.size > token.size);
    KZ_BUG_ON(arena.used_bytes > 4 * token.size + 256);
    kz_arena_done(&arena);
    kz_jwks_free(keys);
    free(copy);
    return 0;
}
