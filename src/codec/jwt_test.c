#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "codec/jwt.h"
#include "codec/jwt_fixture.h"

#define HEADER "{\"alg\":\"RS256\",\"kid\":\"k1\",\"typ\":\"JWT\"}"
#define CLAIMS                                                                                     \
    "{\"aud\":\"https://infer\",\"azp\":\"113\",\"email\":\"push@p.iam.gserviceaccount.com\","     \
    "\"email_verified\":true,\"exp\":1795481500,\"iat\":1795477900,"                               \
    "\"iss\":\"https://accounts.google.com\",\"sub\":\"113\"}"

struct rig {
    EVP_PKEY *key, *other;
    struct kz_jwks *keys; /* `key` as k1, `other` as k2 */
    struct kz_arena arena;
};

static int up(void **state)
{
    struct rig *rig = kz_calloc(1, sizeof(*rig));
    struct kz_buf text = {0};
    struct kz_err err;

    rig->key = jwt_make_key(2048);
    rig->other = jwt_make_key(2048);
    kz_buf_cstr(&text, "{\"keys\":[");
    jwt_put_jwk(rig->key, "k1", &text);
    kz_buf_char(&text, ',');
    jwt_put_jwk(rig->other, "k2", &text);
    kz_buf_cstr(&text, "]}");
    if (kz_jwks_parse(kz_buf_view(&text), &rig->keys, &err) != KZ_OK)
        fail_msg("%s", err.message);
    kz_buf_done(&text);
    kz_arena_init(&rig->arena, 0);
    *state = rig;
    return 0;
}

static int down(void **state)
{
    struct rig *rig = *state;

    kz_jwks_free(rig->keys);
    EVP_PKEY_free(rig->key);
    EVP_PKEY_free(rig->other);
    kz_arena_done(&rig->arena);
    free(rig);
    return 0;
}

static void a_signed_token_says_its_claims(void **state)
{
    struct rig *rig = *state;
    char *token = jwt_sign(rig->key, HEADER, CLAIMS);
    struct kz_jwt jwt;
    struct kz_err err;

    assert_int_equal(kz_jwks_count(rig->keys), 2);
    if (kz_jwt_verify(rig->keys, kz_str(token), &rig->arena, &jwt, &err) != KZ_OK)
        fail_msg("%s", err.message);
    assert_true(kz_str_is(jwt.issuer, "https://accounts.google.com"));
    assert_true(kz_str_is(jwt.audience, "https://infer"));
    assert_true(kz_str_is(jwt.subject, "113"));
    assert_true(kz_str_is(jwt.email, "push@p.iam.gserviceaccount.com"));
    assert_true(jwt.email_verified);
    assert_int_equal(jwt.issued_s, 1795477900);
    assert_int_equal(jwt.not_before_s, 0);
    assert_int_equal(jwt.expires_s, 1795481500);
    free(token);
}

static void claims_of_another_kind_are_absent(void **state)
{
    struct rig *rig = *state;
    char *token = jwt_sign(rig->key, HEADER,
            "{\"aud\":[\"https://infer\"],\"email_verified\":\"true\",\"exp\":\"1795481500\"}");
    struct kz_jwt jwt;

    assert_int_equal(kz_jwt_verify(rig->keys, kz_str(token), &rig->arena, &jwt, NULL), KZ_OK);
    assert_int_equal(jwt.audience.size, 0);
    assert_false(jwt.email_verified);
    assert_int_equal(jwt.expires_s, 0);
    free(token);
}

static void what_proves_nothing_is_refused(void **state)
{
    static const struct {
        const char *header, *claims, *why;
    } rows[] = {
            {"{\"alg\":\"none\",\"kid\":\"k1\"}", CLAIMS, "RS256"},
            {"{\"alg\":\"HS256\",\"kid\":\"k1\"}", CLAIMS, "RS256"},
            {"{\"alg\":\"RS512\",\"kid\":\"k1\"}", CLAIMS, "RS256"},
            {"{\"kid\":\"k1\"}", CLAIMS, "RS256"},
            {"{\"alg\":\"RS256\"}", CLAIMS, "name its key"},
            {"{\"alg\":\"RS256\",\"kid\":7}", CLAIMS, "name its key"},
            {"{\"alg\":\"RS256\",\"kid\":\"k1\",\"crit\":[\"b64\"]}", CLAIMS, "extensions"},
            {"[\"alg\"]", CLAIMS, "header"},
            {"{\"alg\":\"RS256\",\"kid\":\"k2\"}", CLAIMS,
                    "signature is wrong"}, /* signed with k1 */
            {HEADER, "[]", "claims"},
            {HEADER, "{", "claims"},
    };
    struct rig *rig = *state;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        char *token = jwt_sign(rig->key, rows[i].header, rows[i].claims);
        struct kz_jwt jwt;
        struct kz_err err;

        assert_int_equal(kz_jwt_verify(rig->keys, kz_str(token), &rig->arena, &jwt, &err),
                KZ_UNAUTHENTICATED);
        if (!strstr(err.message, rows[i].why))
            fail_msg("row %zu: \"%s\"", i, err.message);
        free(token);
    }
}

static void an_unknown_key_is_told_from_a_wrong_signature(void **state)
{
    struct rig *rig = *state;
    char *token = jwt_sign(rig->key, "{\"alg\":\"RS256\",\"kid\":\"k9\"}", CLAIMS);
    struct kz_jwt jwt;

    assert_int_equal(
            kz_jwt_verify(rig->keys, kz_str(token), &rig->arena, &jwt, NULL), KZ_NOT_FOUND);
    free(token);
}

static void every_byte_is_signed(void **state)
{
    struct rig *rig = *state;
    char *token = jwt_sign(rig->key, HEADER, CLAIMS);
    size_t size = strlen(token);
    struct kz_jwt jwt;

    for (size_t i = 0; i < size; i++) {
        char was = token[i];

        token[i] = was == 'A' ? 'B' : 'A';
        assert_int_not_equal(
                kz_jwt_verify(rig->keys, kz_str(token), &rig->arena, &jwt, NULL), KZ_OK);
        token[i] = was;
        assert_int_not_equal(
                kz_jwt_verify(rig->keys, kz_str_n(token, i), &rig->arena, &jwt, NULL), KZ_OK);
    }
    assert_int_equal(kz_jwt_verify(rig->keys, kz_str(token), &rig->arena, &jwt, NULL), KZ_OK);
    free(token);
}

static void a_token_has_three_parts_and_no_padding(void **state)
{
    struct rig *rig = *state;
    char *token = jwt_sign(rig->key, HEADER, CLAIMS);
    struct kz_buf text = {0};
    struct kz_jwt jwt;

    kz_buf_cstr(&text, token);
    kz_buf_char(&text, '=');
    assert_int_equal(kz_jwt_verify(rig->keys, kz_buf_view(&text), &rig->arena, &jwt, NULL),
            KZ_UNAUTHENTICATED);
    text.data[text.size - 1] = '.';
    assert_int_equal(kz_jwt_verify(rig->keys, kz_buf_view(&text), &rig->arena, &jwt, NULL),
            KZ_UNAUTHENTICATED);
    assert_int_equal(
            kz_jwt_verify(rig->keys, KZ_STR(".."), &rig->arena, &jwt, NULL), KZ_UNAUTHENTICATED);
    assert_int_equal(
            kz_jwt_verify(rig->keys, KZ_STR_NULL, &rig->arena, &jwt, NULL), KZ_UNAUTHENTICATED);
    kz_buf_clear(&text);
    memset(kz_buf_extend(&text, KZ_JWT_SIZE_MAX + 1), 'A', KZ_JWT_SIZE_MAX + 1);
    assert_int_equal(kz_jwt_verify(rig->keys, kz_buf_view(&text), &rig->arena, &jwt, NULL),
            KZ_UNAUTHENTICATED);
    kz_buf_done(&text);
    free(token);
}

static void keys_that_are_not_for_us_are_skipped(void **state)
{
    static const char *const sets[] = {
            "{}",
            "{\"keys\":{}}",
            "{\"keys\":[]}",
            "{\"keys\":[7,\"x\",{}]}",
            "{\"keys\":[{\"kty\":\"EC\",\"kid\":\"a\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}",
            "{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"a\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}",
            "{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"a\",\"e\":\"AQAB\"}]}",
            "{\"keys\":[",
    };
    struct rig *rig = *state;
    struct kz_buf text = {0};
    struct kz_jwks *keys = NULL;
    EVP_PKEY *small = jwt_make_key(1024);
    struct kz_err err;

    for (size_t i = 0; i < KZ_ARRAY_COUNT(sets); i++)
        assert_int_equal(kz_jwks_parse(kz_str(sets[i]), &keys, &err), KZ_INVALID);
    kz_buf_cstr(&text, "{\"keys\":[");
    jwt_put_jwk(small, "small", &text); /* too short to be trusted */
    kz_buf_cstr(&text, "]}");
    assert_int_equal(kz_jwks_parse(kz_buf_view(&text), &keys, &err), KZ_INVALID);
    assert_null(keys);
    text.size -= 2;
    kz_buf_char(&text, ',');
    jwt_put_jwk(rig->key, "k1", &text);
    kz_buf_cstr(&text, "]}");
    assert_int_equal(kz_jwks_parse(kz_buf_view(&text), &keys, &err), KZ_OK);
    assert_int_equal(kz_jwks_count(keys), 1);
    kz_jwks_free(keys);
    EVP_PKEY_free(small);
    kz_buf_done(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(a_signed_token_says_its_claims),
            cmocka_unit_test(claims_of_another_kind_are_absent),
            cmocka_unit_test(what_proves_nothing_is_refused),
            cmocka_unit_test(an_unknown_key_is_told_from_a_wrong_signature),
            cmocka_unit_test(every_byte_is_signed),
            cmocka_unit_test(a_token_has_three_parts_and_no_padding),
            cmocka_unit_test(keys_that_are_not_for_us_are_skipped),
    };

    return cmocka_run_group_tests(tests, up, down);
}
