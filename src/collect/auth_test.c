#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "codec/base64.h"
#include "codec/hex.h"
#include "collect/auth_int.h"
#include "sys/file_sim.h"

static const int64_t NOW = 1795477900000;

struct rig {
    struct kz_fs *fs;
    struct kz_auth *auth;
    struct kz_err err;
};

static int up(void **state)
{
    struct rig *rig = kz_calloc(1, sizeof(*rig));

    rig->fs = kz_fs_sim_new(1);
    if (kz_auth_open(rig->fs, "/", &rig->auth, &rig->err) != KZ_OK)
        fail_msg("%s", rig->err.message);
    *state = rig;
    return 0;
}

static int down(void **state)
{
    struct rig *rig = *state;

    kz_auth_close(rig->auth);
    kz_fs_sim_free(rig->fs);
    free(rig);
    return 0;
}

static void create(struct rig *rig, const char *name, enum kz_key_kind kind, uint32_t rate,
        char secret[KZ_SECRET_BYTES])
{
    struct kz_key_spec spec = {.name = name, .kind = kind, .rate = rate};

    if (kz_auth_create(rig->auth, &spec, NOW, secret, NULL, &rig->err) != KZ_OK)
        fail_msg("%s", rig->err.message);
}

static void patterns(void **state)
{
    static const struct {
        const char *pattern, *text;
        bool matches;
    } rows[] = {
            {"view", "view", true},
            {"view", "views", false},
            {"view", "vie", false},
            {"*", "", true},
            {"*", "anything", true},
            {"", "", true},
            {"", "x", false},
            {"cart.*", "cart.add", true},
            {"cart.*", "cart.", true},
            {"cart.*", "cart", false},
            {"*.add", "cart.add.add", true},
            {"a*b*c", "aXbYbZc", true},
            {"a*b*c", "aXbYbZ", false},
            {"**a**", "bab", true},
            {"https://*.shop.example", "https://www.shop.example", true},
            {"https://*.shop.example", "https://shop.example", false},
    };

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++)
        if (auth_pattern(rows[i].pattern, kz_str(rows[i].text)) != rows[i].matches)
            fail_msg("%s against %s", rows[i].pattern, rows[i].text);
}

static void keys_survive_and_secrets_are_not_kept(void **state)
{
    static const char *const names[] = {"view", "cart \"x\""};
    static const char *const origins[] = {"https://shop.example"};
    struct rig *rig = *state;
    struct kz_key_spec spec = {.name = "web",
            .kind = KZ_KEY_WRITE,
            .events = names,
            .event_count = 2,
            .origins = origins,
            .origin_count = 1,
            .rate = 50};
    char secret[KZ_SECRET_BYTES], signing[KZ_SECRET_BYTES];
    const struct kz_key *key;
    char *file;
    size_t size;

    assert_true(kz_auth_is_open(rig->auth));
    create(rig, "sign", KZ_KEY_SIGNING, 0, signing);
    assert_true(kz_auth_is_open(rig->auth));
    assert_int_equal(kz_auth_create(rig->auth, &spec, NOW, secret, &key, &rig->err), KZ_OK);
    assert_false(kz_auth_is_open(rig->auth));
    assert_memory_equal(secret, "kz_w_", 5);
    assert_int_equal(strlen(secret), 37);
    assert_int_equal(strspn(secret + 5, "abcdefghijklmnopqrstuvwxyz234567"), 32);

    kz_fs_sim_power_cut(rig->fs, 3);
    kz_auth_close(kz_take(&rig->auth));
    assert_int_equal(
            kz_fs_read_all(rig->fs, "/keys.json", 1 << 20, &file, &size, &rig->err), KZ_OK);
    assert_null(strstr(file, secret));
    assert_non_null(strstr(file, signing));
    free(file);
    assert_int_equal(kz_auth_open(rig->fs, "/", &rig->auth, &rig->err), KZ_OK);
    assert_int_equal(kz_auth_key_count(rig->auth), 2);
    key = kz_auth_key_at(rig->auth, 1);
    assert_string_equal(key->name, "web");
    assert_int_equal(key->kind, KZ_KEY_WRITE);
    assert_int_equal(key->event_count, 2);
    assert_string_equal(key->events[1], "cart \"x\"");
    assert_string_equal(key->origins[0], "https://shop.example");
    assert_int_equal(key->rate, 50);
    assert_true(key->created_at_ms == NOW);
}

static void revoking_the_last_key_opens_nothing(void **state)
{
    struct rig *rig = *state;
    char secret[KZ_SECRET_BYTES];

    create(rig, "k", KZ_KEY_WRITE, 0, secret);
    assert_int_equal(kz_auth_revoke(rig->auth, "k", NOW, &rig->err), KZ_OK);
    assert_int_equal(kz_auth_revoke(rig->auth, "k", NOW, &rig->err), KZ_NOT_FOUND);
    assert_false(kz_auth_is_open(rig->auth));
    kz_auth_close(kz_take(&rig->auth));
    assert_int_equal(kz_auth_open(rig->fs, "/", &rig->auth, &rig->err), KZ_OK);
    assert_false(kz_auth_is_open(rig->auth));
    /* The name is free again. */
    create(rig, "k", KZ_KEY_READ, 0, secret);
    assert_memory_equal(secret, "kz_r_", 5);
}

static void another_process_is_noticed(void **state)
{
    struct rig *rig = *state;
    struct kz_auth *other;
    char secret[KZ_SECRET_BYTES];
    struct kz_key_spec spec = {.name = "one", .kind = KZ_KEY_ADMIN};

    assert_int_equal(kz_auth_open(rig->fs, "/", &other, &rig->err), KZ_OK);
    create(rig, "one", KZ_KEY_WRITE, 0, secret);
    assert_true(kz_auth_is_open(other));
    assert_int_equal(kz_auth_reload(other, &rig->err), KZ_OK);
    assert_int_equal(kz_auth_key_count(other), 1);
    assert_int_equal(kz_auth_create(other, &spec, NOW, secret, NULL, &rig->err), KZ_CONFLICT);
    spec.name = "two";
    assert_int_equal(kz_auth_create(other, &spec, NOW, secret, NULL, &rig->err), KZ_OK);
    /* A change begins with what others have written. */
    create(rig, "three", KZ_KEY_WRITE, 0, secret);
    assert_int_equal(kz_auth_key_count(rig->auth), 3);
    kz_auth_close(other);
}

static void a_broken_file_is_no_open_door(void **state)
{
    static const char *const texts[] = {"", "{", "[]", "{\"format\":2,\"keys\":[]}",
            "{\"format\":1}", "{\"format\":1,\"keys\":[3]}",
            "{\"format\":1,\"keys\":[{\"id\":\"k\"}]}",
            /* Without a digest. */
            "{\"format\":1,\"keys\":[{\"id\":\"k\",\"name\":\"n\",\"kind\":\"write\"}]}"};
    struct rig *rig = *state;
    struct kz_auth *auth;
    char secret[KZ_SECRET_BYTES];

    create(rig, "k", KZ_KEY_WRITE, 0, secret);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(texts); i++) {
        assert_int_equal(
                kz_fs_replace(rig->fs, "/keys.json", texts[i], strlen(texts[i]), &rig->err), KZ_OK);
        assert_int_equal(kz_auth_open(rig->fs, "/", &auth, &rig->err), KZ_CORRUPT);
        assert_non_null(strstr(rig->err.message, "could not read \"/"));
        assert_int_equal(kz_auth_reload(rig->auth, &rig->err), KZ_CORRUPT);
        assert_int_equal(kz_auth_key_count(rig->auth), 1);
    }
}

static void specs_are_checked(void **state)
{
    static const char *const path[] = {"https://shop.example/page"};
    static const char *const empty[] = {""};
    struct rig *rig = *state;
    char secret[KZ_SECRET_BYTES];
    struct kz_key_spec bad[] = {
            {.name = "", .kind = KZ_KEY_WRITE},
            {.name = "a b", .kind = KZ_KEY_WRITE},
            {.name = "a\nb", .kind = KZ_KEY_WRITE},
            {.name = "n", .kind = KZ_KEY_WRITE, .origins = path, .origin_count = 1},
            {.name = "n", .kind = KZ_KEY_WRITE, .events = empty, .event_count = 1},
    };

    for (size_t i = 0; i < KZ_ARRAY_COUNT(bad); i++)
        assert_int_equal(
                kz_auth_create(rig->auth, &bad[i], NOW, secret, NULL, &rig->err), KZ_INVALID);
    /* A disk that fails leaves no key behind. */
    kz_fs_sim_fail_syncs(rig->fs, true);
    bad[0].name = "n";
    assert_int_not_equal(kz_auth_create(rig->auth, &bad[0], NOW, secret, NULL, &rig->err), KZ_OK);
    assert_int_equal(kz_auth_key_count(rig->auth), 0);
    assert_true(kz_auth_is_open(rig->auth));
}

static void listening_beyond_this_machine_needs_keys(void **state)
{
    struct rig *rig = *state;
    char secret[KZ_SECRET_BYTES];

    assert_int_equal(kz_auth_listen(rig->auth, "127.0.0.1:8080", &rig->err), KZ_OK);
    assert_int_equal(kz_auth_listen(rig->auth, "unix:/tmp/s", &rig->err), KZ_OK);
    assert_int_equal(kz_auth_listen(rig->auth, ":8080", &rig->err), KZ_CONFIG);
    assert_int_equal(kz_auth_listen(rig->auth, "192.0.2.1:8080", &rig->err), KZ_CONFIG);
    create(rig, "sign", KZ_KEY_SIGNING, 0, secret);
    assert_int_equal(kz_auth_listen(rig->auth, ":8080", &rig->err), KZ_CONFIG);
    create(rig, "k", KZ_KEY_WRITE, 0, secret);
    assert_int_equal(kz_auth_listen(rig->auth, ":8080", &rig->err), KZ_OK);
}

static void rates_refill_and_lend(void **state)
{
    struct rig *rig = *state;
    char secret[KZ_SECRET_BYTES];
    struct kz_identity identity = {0};
    const int64_t second = 1000000;
    int64_t at = 100 * second;

    create(rig, "k", KZ_KEY_WRITE, 10, secret);
    identity.key = kz_auth_key_at(rig->auth, 0);
    for (int i = 0; i < 10; i++)
        assert_int_equal(kz_auth_spend(rig->auth, &identity, 1, at, &rig->err), KZ_OK);
    assert_int_equal(kz_auth_spend(rig->auth, &identity, 1, at, &rig->err), KZ_LIMIT);
    assert_int_equal(kz_auth_spend(rig->auth, &identity, 1, at + second / 20, &rig->err), KZ_LIMIT);
    assert_int_equal(kz_auth_spend(rig->auth, &identity, 1, at + second / 10, &rig->err), KZ_OK);
    /* A batch of 30 passes a full bucket of 10, and the next waits for 2.1 s. */
    at += 10 * second;
    assert_int_equal(kz_auth_spend(rig->auth, &identity, 30, at, &rig->err), KZ_OK);
    assert_int_equal(kz_auth_spend(rig->auth, &identity, 1, at + 2 * second, &rig->err), KZ_LIMIT);
    assert_int_equal(
            kz_auth_spend(rig->auth, &identity, 1, at + 2 * second + second / 10, &rig->err),
            KZ_OK);
    /* No key, no limit. */
    identity.key = NULL;
    assert_int_equal(kz_auth_spend(rig->auth, &identity, 1000000, at, &rig->err), KZ_OK);
}

static void sign(const char *secret, const char *user, const char *expiry, struct kz_buf *token)
{
    uint8_t mac[KZ_SHA256_BYTES];
    char hex[2 * KZ_SHA256_BYTES + 1];

    kz_buf_clear(token);
    kz_base64_encode(kz_str(user), KZ_BASE64_URL, token);
    kz_buf_printf(token, ".%s", expiry);
    kz_hmac_sha256(kz_str(secret), kz_buf_view(token), mac);
    kz_buf_printf(token, ".%s", kz_hex(mac, sizeof(mac), hex));
}

static void users_prove_themselves(void **state)
{
    struct rig *rig = *state;
    char secret[KZ_SECRET_BYTES], signing[KZ_SECRET_BYTES];
    struct kz_identity web = {0}, local = {0};
    struct kz_user_key user = {'u', KZ_STR("u1")};
    struct kz_buf token = {0};

    create(rig, "web", KZ_KEY_WRITE, 0, secret);
    create(rig, "sign", KZ_KEY_SIGNING, 0, signing);
    web.key = kz_auth_key_at(rig->auth, 0);
#define ASK(who, key, text) kz_auth_user(rig->auth, who, key, text, NOW, &rig->err)
    sign(signing, "u1", "1795477901", &token);
    assert_int_equal(ASK(&web, user, kz_buf_view(&token)), KZ_OK);
    assert_int_equal(ASK(&web, ((struct kz_user_key){'u', KZ_STR("u2")}), kz_buf_view(&token)),
            KZ_FORBIDDEN);
    assert_non_null(strstr(rig->err.message, "another user's"));
    token.data[token.size - 1] ^= 1;
    assert_int_equal(ASK(&web, user, kz_buf_view(&token)), KZ_FORBIDDEN);
    sign(signing, "u1", "1795477900", &token);
    assert_int_equal(ASK(&web, user, kz_buf_view(&token)), KZ_FORBIDDEN);
    assert_non_null(strstr(rig->err.message, "expired"));
    sign(secret, "u1", "1795477901", &token);
    assert_int_equal(ASK(&web, user, kz_buf_view(&token)), KZ_FORBIDDEN);
    assert_int_equal(ASK(&web, user, KZ_STR("..")), KZ_FORBIDDEN);
    assert_int_equal(ASK(&web, user, KZ_STR_NULL), KZ_FORBIDDEN);
    assert_int_equal(ASK(&local, user, KZ_STR_NULL), KZ_OK);
    assert_int_equal(
            ASK(&web, ((struct kz_user_key){'a', KZ_STR("3f8a6c1e9b2d4f7081a2b3")}), KZ_STR_NULL),
            KZ_OK);
    assert_int_equal(
            ASK(&web, ((struct kz_user_key){'a', KZ_STR("anon-1")}), KZ_STR_NULL), KZ_FORBIDDEN);
    sign(signing, "u1", "1795477901", &token);
    assert_int_equal(kz_auth_revoke(rig->auth, "sign", NOW, &rig->err), KZ_OK);
    assert_int_equal(ASK(&web, user, kz_buf_view(&token)), KZ_FORBIDDEN);
    kz_buf_done(&token);
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, up, down)
    const struct CMUnitTest tests[] = {
            T(patterns),
            T(keys_survive_and_secrets_are_not_kept),
            T(revoking_the_last_key_opens_nothing),
            T(another_process_is_noticed),
            T(a_broken_file_is_no_open_door),
            T(specs_are_checked),
            T(listening_beyond_this_machine_needs_keys),
            T(rates_refill_and_lend),
            T(users_prove_themselves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
