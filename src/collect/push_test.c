/* Push tokens against a signer of the test's own: its keys come over HTTP from this process. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "codec/jwt_fixture.h"
#include "contract/push.h"
#include "sys/clock.h"
#include "sys/http.h"

#define AUDIENCE "https://infer.example/v1/pubsub/push"
#define EMAIL "push@p.iam.gserviceaccount.com"

enum { WAIT_MS = 60000 }; /* for what has to happen: a busy machine takes its time */

static const int64_t NOW_S = 1795477900;

struct rig {
    EVP_PKEY *key, *stranger;
    uv_loop_t loop;
    uv_async_t stop;
    struct kz_http_server *server;
    pthread_t thread;
    pthread_mutex_t lock;
    struct kz_buf answer; /* of the server */
    int status;
    unsigned fetches;
    char url[80];
    struct kz_push_auth *auth;
};

/* ---- the signer's server ---- */

static void handle(void *arg, struct kz_http_request *req)
{
    const struct kz_http_header headers[] = {
            {KZ_STR("Cache-Control"), KZ_STR("public, max-age=3600")}};
    struct rig *rig = arg;

    pthread_mutex_lock(&rig->lock);
    rig->fetches++;
    kz_http_respond(req, rig->status, "application/json", kz_buf_view(&rig->answer), headers, 1);
    pthread_mutex_unlock(&rig->lock);
}

static void drained(void *arg, size_t unanswered)
{
    struct rig *rig = arg;

    KZ_BUG_ON(unanswered);
    kz_http_server_free(kz_take(&rig->server));
    uv_close((uv_handle_t *)&rig->stop, NULL);
}

static void on_stop(uv_async_t *async)
{
    struct rig *rig = async->data;

    kz_http_server_stop(rig->server, 1000, drained, rig);
}

static void *run(void *arg)
{
    uv_run(&((struct rig *)arg)->loop, UV_RUN_DEFAULT);
    return NULL;
}

static void serve_key(struct rig *rig, EVP_PKEY *key, const char *kid)
{
    pthread_mutex_lock(&rig->lock);
    kz_buf_clear(&rig->answer);
    kz_buf_cstr(&rig->answer, "{\"keys\":[");
    jwt_put_jwk(key, kid, &rig->answer);
    kz_buf_cstr(&rig->answer, "]}");
    pthread_mutex_unlock(&rig->lock);
}

static int up(void **state)
{
    struct rig *rig = kz_calloc(1, sizeof(*rig));
    struct kz_http_handler handler = {.handle = handle, .arg = rig};
    struct kz_err err;

    rig->key = jwt_make_key(2048);
    rig->stranger = jwt_make_key(2048);
    rig->status = 200;
    pthread_mutex_init(&rig->lock, NULL);
    serve_key(rig, rig->key, "k1");
    uv_loop_init(&rig->loop);
    uv_async_init(&rig->loop, &rig->stop, on_stop);
    rig->stop.data = rig;
    rig->server = kz_http_server_new(&rig->loop, NULL, &handler);
    assert_int_equal(kz_http_server_listen(rig->server, "127.0.0.1:0", &err), KZ_OK);
    snprintf(rig->url, sizeof(rig->url), "http://127.0.0.1:%u/certs",
            kz_http_server_port(rig->server));
    pthread_create(&rig->thread, NULL, run, rig);
    *state = rig;
    return 0;
}

static int down(void **state)
{
    struct rig *rig = *state;

    kz_push_auth_close(rig->auth);
    uv_async_send(&rig->stop);
    pthread_join(rig->thread, NULL);
    uv_loop_close(&rig->loop);
    pthread_mutex_destroy(&rig->lock);
    EVP_PKEY_free(rig->key);
    EVP_PKEY_free(rig->stranger);
    kz_buf_done(&rig->answer);
    free(rig);
    return 0;
}

/* ---- tokens ---- */

static enum kz_code check_header(struct rig *rig, const char *header, struct kz_err *err)
{
    return kz_push_auth_check(rig->auth, kz_str(header), NOW_S * 1000, err);
}

static enum kz_code check(
        struct rig *rig, EVP_PKEY *key, const char *kid, const char *claims, struct kz_err *err)
{
    struct kz_buf text = {0};
    char *token, *header;
    enum kz_code rc;

    kz_buf_printf(&text, "{\"alg\":\"RS256\",\"kid\":\"%s\"}", kid);
    kz_buf_char(&text, '\0');
    token = jwt_sign(key, text.data, claims);
    kz_buf_clear(&text);
    kz_buf_printf(&text, "Bearer %s", token);
    kz_buf_char(&text, '\0');
    header = text.data;
    rc = check_header(rig, header, err);
    free(token);
    free(header);
    return rc;
}

#define CLAIMS(iss, aud, email, verified, iat, exp)                                                \
    "{\"iss\":\"" iss "\",\"aud\":\"" aud "\",\"email\":\"" email                                  \
    "\",\"email_verified\":" verified ",\"iat\":" iat ",\"exp\":" exp "}"
#define GOOD                                                                                       \
    CLAIMS("https://accounts.google.com", AUDIENCE, EMAIL, "true", "1795477800", "1795481400")

static void open_auth(struct rig *rig, const char *keys, int64_t asked_ms)
{
    const struct kz_push_auth_options options = {
            .audience = AUDIENCE, .email = EMAIL, .keys = keys, .asked_ms = asked_ms};
    struct kz_err err;

    if (kz_push_auth_open(&options, &rig->auth, &err) != KZ_OK)
        fail_msg("%s", err.message);
}

/* The first fetch is a thread's. */
static enum kz_code await_keys(struct rig *rig, struct kz_err *err)
{
    int64_t until_ms = kz_mono_ms() + WAIT_MS;
    enum kz_code rc;

    do {
        rc = check(rig, rig->key, "k1", GOOD, err);
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    } while (rc == KZ_UNAVAILABLE && strstr(err->message, "yet") && kz_mono_ms() < until_ms);
    return rc;
}

/* ---- the tests ---- */

static void the_account_gets_in_and_nobody_else(void **state)
{
    static const struct {
        const char *claims;
        enum kz_code code;
        const char *why;
    } rows[] = {
            {GOOD, KZ_OK, ""},
            {CLAIMS("accounts.google.com", AUDIENCE, EMAIL, "true", "1795477800", "1795481400"),
                    KZ_OK, ""},
            {CLAIMS("https://evil.example", AUDIENCE, EMAIL, "true", "1795477800", "1795481400"),
                    KZ_UNAUTHENTICATED, "not issued by Google"},
            {CLAIMS("https://accounts.google.com", "https://other", EMAIL, "true", "1795477800",
                     "1795481400"),
                    KZ_FORBIDDEN, "audience \"https://other\", not for \"" AUDIENCE "\""},
            {CLAIMS("https://accounts.google.com", AUDIENCE, "eve@q.iam.gserviceaccount.com",
                     "true", "1795477800", "1795481400"),
                    KZ_FORBIDDEN, "of \"eve@q.iam.gserviceaccount.com\", not of \"" EMAIL "\""},
            {CLAIMS("https://accounts.google.com", AUDIENCE, EMAIL, "false", "1795477800",
                     "1795481400"),
                    KZ_FORBIDDEN, "not verified"},
            /* A minute is forgiven either way. */
            {CLAIMS("https://accounts.google.com", AUDIENCE, EMAIL, "true", "1795470000",
                     "1795477841"),
                    KZ_OK, ""},
            {CLAIMS("https://accounts.google.com", AUDIENCE, EMAIL, "true", "1795470000",
                     "1795477840"),
                    KZ_UNAUTHENTICATED, "expired, 60 s ago"},
            {CLAIMS("https://accounts.google.com", AUDIENCE, EMAIL, "true", "1795477960",
                     "1795481400"),
                    KZ_OK, ""},
            {CLAIMS("https://accounts.google.com", AUDIENCE, EMAIL, "true", "1795477961",
                     "1795481400"),
                    KZ_UNAUTHENTICATED, "not valid yet"},
            {"{\"iss\":\"https://accounts.google.com\",\"aud\":\"" AUDIENCE "\",\"email\":\"" EMAIL
             "\",\"email_verified\":true}",
                    KZ_UNAUTHENTICATED, "expired"}, /* one without an end */
            {"{}", KZ_UNAUTHENTICATED, "not issued by Google"},
    };
    struct rig *rig = *state;
    struct kz_err err = {0};

    open_auth(rig, rig->url, 0);
    assert_int_equal(await_keys(rig, &err), KZ_OK);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(rows); i++) {
        enum kz_code rc = check(rig, rig->key, "k1", rows[i].claims, &err);

        if (rc != rows[i].code || (rc != KZ_OK && !strstr(err.message, rows[i].why)))
            fail_msg("row %zu: %s: %s", i, kz_code_name(rc), rc == KZ_OK ? "" : err.message);
    }
    assert_int_equal(check(rig, rig->stranger, "k1", GOOD, &err), KZ_UNAUTHENTICATED);
    assert_string_equal(err.message, "the token's signature is wrong");
    assert_int_equal(rig->fetches, 1);
}

static void without_a_token_it_says_how_to_send_one(void **state)
{
    static const char *const headers[] = {"", "Bearer", "Bearer ", "Basic a2V5Og==", "kz_w_secret"};
    struct rig *rig = *state;
    struct kz_err err = {0};

    open_auth(rig, rig->url, 0);
    assert_int_equal(await_keys(rig, &err), KZ_OK);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(headers); i++) {
        assert_int_equal(check_header(rig, headers[i], &err), KZ_UNAUTHENTICATED);
        assert_non_null(strstr(err.hint, "--push-auth-service-account=" EMAIL));
    }
    assert_int_equal(check_header(rig, "Bearer kz_w_secret", &err), KZ_UNAUTHENTICATED);
}

static void a_new_key_of_the_signer_is_fetched_when_it_is_used(void **state)
{
    struct rig *rig = *state;
    int64_t until_ms = kz_mono_ms() + WAIT_MS;
    struct kz_err err = {0};
    enum kz_code rc;

    open_auth(rig, rig->url, 50);
    assert_int_equal(await_keys(rig, &err), KZ_OK);
    serve_key(rig, rig->stranger, "k2");
    assert_int_equal(check(rig, rig->stranger, "k2", GOOD, &err), KZ_UNAUTHENTICATED);
    assert_string_equal(err.message, "the token is signed with an unknown key");
    do {
        nanosleep(&(struct timespec){0, 5000000}, NULL);
        rc = check(rig, rig->stranger, "k2", GOOD, &err);
    } while (rc != KZ_OK && kz_mono_ms() < until_ms);
    assert_int_equal(rc, KZ_OK);
    assert_int_equal(check(rig, rig->key, "k1", GOOD, &err), KZ_UNAUTHENTICATED); /* withdrawn */
}

static void strangers_cannot_make_us_fetch_keys_all_the_time(void **state)
{
    struct rig *rig = *state;
    struct kz_err err = {0};

    open_auth(rig, rig->url, 0);
    assert_int_equal(await_keys(rig, &err), KZ_OK);
    for (int64_t until_ms = kz_mono_ms() + 300; kz_mono_ms() < until_ms;)
        assert_int_equal(check(rig, rig->stranger, "k2", GOOD, &err), KZ_UNAUTHENTICATED);
    pthread_mutex_lock(&rig->lock);
    assert_int_equal(rig->fetches, 1);
    pthread_mutex_unlock(&rig->lock);
}

static void while_there_are_no_keys_nobody_gets_in(void **state)
{
    struct rig *rig = *state;
    struct kz_err err = {0};

    rig->status = 500;
    open_auth(rig, rig->url, 0);
    assert_int_equal(await_keys(rig, &err), KZ_UNAVAILABLE);
    assert_non_null(strstr(err.message, "500 Internal Server Error"));
    assert_non_null(strstr(err.message, rig->url));
}

static void a_key_set_that_is_none_lets_nobody_in(void **state)
{
    struct rig *rig = *state;
    struct kz_err err = {0};

    kz_buf_clear(&rig->answer);
    kz_buf_cstr(&rig->answer, "<html>");
    open_auth(rig, rig->url, 0);
    assert_int_equal(await_keys(rig, &err), KZ_UNAVAILABLE);
    assert_non_null(strstr(err.message, "byte 0"));
}

static void keys_may_lie_in_a_file(void **state)
{
    struct rig *rig = *state;
    char path[] = "/tmp/kizashi-push-XXXXXX";
    int fd = mkstemp(path);
    struct kz_err err = {0};

    assert_true(fd >= 0);
    assert_int_equal(write(fd, rig->answer.data, rig->answer.size), rig->answer.size);
    close(fd);
    open_auth(rig, path, 0);
    assert_int_equal(await_keys(rig, &err), KZ_OK);
    assert_int_equal(rig->fetches, 0);
    unlink(path);
}

static void an_account_is_required_and_keys_do_not_come_in_the_clear(void **state)
{
    static const char *const refused[] = {"http://keys.example/certs",
            "http://localhost.evil/certs", "http://127.0.0.1.evil/certs"};
    struct rig *rig = *state;
    struct kz_push_auth_options options = {.audience = AUDIENCE};
    struct kz_err err;

    assert_int_equal(kz_push_auth_open(&options, &rig->auth, &err), KZ_CONFIG);
    options = (struct kz_push_auth_options){.email = EMAIL};
    assert_int_equal(kz_push_auth_open(&options, &rig->auth, &err), KZ_CONFIG);
    options.audience = AUDIENCE;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(refused); i++) {
        options.keys = refused[i];
        assert_int_equal(kz_push_auth_open(&options, &rig->auth, &err), KZ_CONFIG);
        assert_non_null(strstr(err.message, "in the clear"));
    }
    assert_null(rig->auth);
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, up, down)
    const struct CMUnitTest tests[] = {
            T(the_account_gets_in_and_nobody_else),
            T(without_a_token_it_says_how_to_send_one),
            T(a_new_key_of_the_signer_is_fetched_when_it_is_used),
            T(strangers_cannot_make_us_fetch_keys_all_the_time),
            T(while_there_are_no_keys_nobody_gets_in),
            T(a_key_set_that_is_none_lets_nobody_in),
            T(keys_may_lie_in_a_file),
            T(an_account_is_required_and_keys_do_not_come_in_the_clear),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
