/* Who may push: see contract/push.h. The signer's keys and the thread that fetches them.
 *
 * F1  `keys` are used until `expires_ms`, and not a moment longer; they are fetched again when
 *     half of that time is over, and then as often as RETRY_MS until it has worked.
 * F2  A token with an unknown key asks for a fetch, but not sooner than `asked_ms` behind the last
 *     one: nobody can make us hammer the signer.
 */
#include "contract/push.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <curl/curl.h>

#include "base/buf.h"
#include "base/diag.h"
#include "codec/jwt.h"
#include "sys/clock.h"
#include "sys/http.h"
#include "sys/thread.h"

enum {
    AUTH_MAGIC = 0x6b7a7075,
    RETRY_MS = 10000,
    ASKED_DEFAULT_MS = 30000,
    LIFE_MIN_MS = 5 * 60000, /* whatever Cache-Control says */
    LIFE_DEFAULT_MS = 3600000,
    LIFE_MAX_MS = 24 * 3600000,
    FETCH_TIMEOUT_MS = 10000,
    SKEW_S = 60, /* between the signer's clock and ours */
};

struct kz_push_auth {
    uint32_t magic;
    char *audience, *email, *source;
    int64_t asked_ms;
    struct kz_thread thread;

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake;
    bool stop, asked;
    struct kz_jwks *keys; /* NULL: none yet */
    int64_t expires_ms;   /* monotonic, all of these */
    int64_t fetched_ms;   /* when it was last tried */
    char problem[300];    /* of the last fetch; empty: it worked */
};

/* ---- fetching -------------------------------------------------------------------------------- */

struct answer {
    struct kz_buf body;
    int64_t life_ms;
};

static size_t take_body(char *data, size_t size, size_t count, void *arg)
{
    struct answer *answer = arg;

    if (answer->body.size + size * count > KZ_JWKS_SIZE_MAX)
        return 0; /* no more of it: the transfer fails */
    kz_buf_put(&answer->body, data, size * count);
    return size * count;
}

/* "Cache-Control: public, max-age=19845, must-revalidate" */
static size_t take_header(char *data, size_t size, size_t count, void *arg)
{
    static const char name[] = "cache-control", directive[] = "max-age=";
    struct answer *answer = arg;
    struct kz_str line = kz_str_n(data, size * count);
    const char *at = line.size ? memchr(line.ptr, ':', line.size) : NULL;

    if (!at || !kz_http_name_eq(kz_str_n(line.ptr, (size_t)(at - line.ptr)), name))
        return line.size;
    at = memmem(at, (size_t)(line.ptr + line.size - at), directive, sizeof(directive) - 1);
    if (at) {
        int64_t seconds = 0;

        for (at += sizeof(directive) - 1;
                at < line.ptr + line.size && *at >= '0' && *at <= '9' && seconds < LIFE_MAX_MS;
                at++)
            seconds = seconds * 10 + (*at - '0');
        answer->life_ms = KZ_MIN(
                KZ_MAX(seconds * 1000, (int64_t)LIFE_MIN_MS), (int64_t)LIFE_MAX_MS);
    }
    return line.size;
}

static bool is_url(const char *source)
{
    return strncmp(source, "https://", 8) == 0 || strncmp(source, "http://", 7) == 0;
}

static enum kz_code fetch_url(const char *url, struct answer *answer, struct kz_err *err)
{
    CURL *easy = curl_easy_init();
    char why[CURL_ERROR_SIZE] = "";
    long status = 0;
    CURLcode rc;

    if (!easy)
        return kz_fail(err, KZ_NO_MEMORY, "libcurl cannot start a transfer");
    /* These cannot fail but for want of memory, and then the transfer does. */
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)FETCH_TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "kizashi");
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, answer);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, answer);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, why);
    rc = curl_easy_perform(easy);
    if (rc == CURLE_OK)
        curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(easy);
    if (rc != CURLE_OK)
        return kz_fail(err, KZ_UNAVAILABLE, "%s", why[0] ? why : curl_easy_strerror(rc));
    if (status != 200)
        return kz_fail(err, KZ_UNAVAILABLE, "the answer is %ld %s", status,
                kz_http_status_text((int)status));
    return KZ_OK;
}

static enum kz_code read_file(const char *path, struct answer *answer, struct kz_err *err)
{
    FILE *file = fopen(path, "re");
    enum kz_code rc = KZ_OK;
    size_t size;

    if (!file)
        return kz_fail_errno(err, "could not open it");
    size = fread(kz_buf_extend(&answer->body, KZ_JWKS_SIZE_MAX), 1, KZ_JWKS_SIZE_MAX, file);
    if (ferror(file))
        rc = kz_fail_errno(err, "could not read it");
    answer->body.size = size;
    fclose(file);
    return rc;
}

static void fetch(struct kz_push_auth *auth)
{
    struct answer answer = {.life_ms = is_url(auth->source) ? LIFE_DEFAULT_MS : LIFE_MIN_MS};
    struct kz_jwks *keys = NULL, *old = NULL;
    struct kz_err err;
    enum kz_code rc = is_url(auth->source) ? fetch_url(auth->source, &answer, &err)
                                           : read_file(auth->source, &answer, &err);

    if (rc == KZ_OK)
        rc = kz_jwks_parse(kz_buf_view(&answer.body), &keys, &err);
    kz_buf_done(&answer.body);
    pthread_mutex_lock(&auth->lock);
    auth->fetched_ms = kz_mono_ms();
    if (rc == KZ_OK) {
        old = auth->keys;
        auth->keys = keys;
        auth->expires_ms = auth->fetched_ms + answer.life_ms;
        auth->problem[0] = '\0';
    } else {
        if (!auth->problem[0])
            kz_diag_warn("could not fetch the keys of push tokens", "from=%s reason=\"%s\"",
                    auth->source, err.message);
        snprintf(auth->problem, sizeof(auth->problem), "%s", err.message);
    }
    pthread_mutex_unlock(&auth->lock);
    kz_jwks_free(old);
}

/* Under the lock. F1, F2: when to fetch next. */
static int64_t next_fetch_ms(const struct kz_push_auth *auth)
{
    int64_t next_ms;

    if (!auth->fetched_ms)
        return 0;
    if (auth->problem[0])
        return auth->fetched_ms + RETRY_MS;
    next_ms = auth->fetched_ms + (auth->expires_ms - auth->fetched_ms) / 2;
    return auth->asked ? KZ_MIN(next_ms, auth->fetched_ms + auth->asked_ms) : next_ms;
}

static void run(void *arg)
{
    struct kz_push_auth *auth = arg;

    pthread_mutex_lock(&auth->lock);
    while (!auth->stop) {
        int64_t next_ms = next_fetch_ms(auth);

        if (next_ms > kz_mono_ms()) {
            const struct timespec until = {next_ms / 1000, next_ms % 1000 * 1000000};

            pthread_cond_timedwait(&auth->wake, &auth->lock, &until); /* either way, look again */
            continue;
        }
        auth->asked = false;
        pthread_mutex_unlock(&auth->lock);
        fetch(auth);
        pthread_mutex_lock(&auth->lock);
    }
    pthread_mutex_unlock(&auth->lock);
}

/* ---- life ------------------------------------------------------------------------------------ */

/* The clear is for this machine only: whoever could change the keys could make any token. */
static bool is_safe(const char *source)
{
    static const char *const local[] = {"127.0.0.1", "localhost", "[::1]"};

    if (strncmp(source, "http://", 7) != 0)
        return true;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(local); i++) {
        size_t size = strlen(local[i]);

        if (strncmp(source + 7, local[i], size) == 0 && strchr(":/", source[7 + size]))
            return true; /* strchr finds the NUL, too */
    }
    return false;
}

enum kz_code kz_push_auth_open(const struct kz_push_auth_options *options,
        struct kz_push_auth **ret_auth, struct kz_err *err)
{
    const char *source = options->keys ? options->keys : KZ_PUSH_KEYS_URL;
    struct kz_push_auth *auth;
    pthread_condattr_t attributes;
    enum kz_code rc;

    if (!options->audience || !options->audience[0] || !options->email || !options->email[0])
        return kz_fail(err, KZ_CONFIG,
                "push tokens are checked for an audience and the address of "
                "a service account: name both");
    if (!is_safe(source))
        return kz_fail(err, KZ_CONFIG,
                "the keys of push tokens would come in the clear from \"%s\": "
                "use https://",
                source);
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return kz_fail(err, KZ_NO_MEMORY, "libcurl cannot be started");
    auth = kz_calloc(1, sizeof(*auth));
    auth->magic = AUTH_MAGIC;
    auth->audience = kz_strdup(options->audience);
    auth->email = kz_strdup(options->email);
    auth->source = kz_strdup(source);
    auth->asked_ms = options->asked_ms ? options->asked_ms : ASKED_DEFAULT_MS;
    pthread_mutex_init(&auth->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&auth->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    rc = kz_thread_start(&auth->thread, "kz-push-keys", run, auth, err);
    if (rc != KZ_OK) {
        kz_push_auth_close(auth);
        return rc;
    }
    *ret_auth = auth;
    return KZ_OK;
}

enum kz_code kz_push_auth_open_project(
        const struct kz_project *project, struct kz_push_auth **ret_auth, struct kz_err *err)
{
    const struct kz_push_auth_options options = {
            .audience = project->backends.gcp.push.audience,
            .email = project->backends.gcp.push.email,
            .keys = project->backends.gcp.push.jwks,
    };

    if (options.audience)
        return kz_push_auth_open(&options, ret_auth, err);
    *ret_auth = NULL;
    return KZ_OK;
}

void kz_push_auth_close(struct kz_push_auth *auth)
{
    if (!auth)
        return;
    KZ_CHECK_MAGIC(auth, AUTH_MAGIC);
    pthread_mutex_lock(&auth->lock);
    auth->stop = true;
    pthread_cond_signal(&auth->wake);
    pthread_mutex_unlock(&auth->lock);
    kz_thread_join(&auth->thread);
    kz_jwks_free(auth->keys);
    pthread_cond_destroy(&auth->wake);
    pthread_mutex_destroy(&auth->lock);
    free(auth->audience);
    free(auth->email);
    free(auth->source);
    auth->magic = 0;
    free(auth);
    curl_global_cleanup();
}

/* ---- a token --------------------------------------------------------------------------------- */

static enum kz_code no_token(const struct kz_push_auth *auth, struct kz_err *err)
{
    (void)kz_fail(err, KZ_UNAUTHENTICATED, "the push has no token");
    return kz_hint(err,
            "gcloud pubsub subscriptions update SUBSCRIPTION --push-auth-service-account=%s "
            "--push-auth-token-audience=%s",
            auth->email, auth->audience);
}

static bool bearer(struct kz_str header, struct kz_str *ret_token)
{
    const char *blank = header.size ? memchr(header.ptr, ' ', header.size) : NULL;

    if (!blank || !kz_http_name_eq(kz_str_n(header.ptr, (size_t)(blank - header.ptr)), "bearer"))
        return false;
    while (blank < header.ptr + header.size && *blank == ' ')
        blank++;
    *ret_token = kz_str_n(blank, (size_t)(header.ptr + header.size - blank));
    return ret_token->size > 0;
}

static enum kz_code judge(const struct kz_push_auth *auth, const struct kz_jwt *jwt, int64_t now_s,
        struct kz_err *err)
{
    if (!kz_str_is(jwt->issuer, "https://accounts.google.com") &&
            !kz_str_is(jwt->issuer, "accounts.google.com"))
        return kz_fail(err, KZ_UNAUTHENTICATED, "the token was not issued by Google");
    if (jwt->expires_s + SKEW_S <= now_s)
        return kz_fail(err, KZ_UNAUTHENTICATED, "the token has expired, %" PRId64 " s ago",
                now_s - jwt->expires_s);
    if (KZ_MAX(jwt->issued_s, jwt->not_before_s) - SKEW_S > now_s) {
        (void)kz_fail(err, KZ_UNAUTHENTICATED, "the token is not valid yet");
        return kz_hint(err, "set this machine's clock");
    }
    if (!kz_str_is(jwt->audience, auth->audience))
        return kz_fail(err, KZ_FORBIDDEN,
                "the token is for the audience \"" KZ_STR_FMT "\", not for \"%s\"",
                KZ_STR_ARG(kz_str_n(jwt->audience.ptr, KZ_MIN(jwt->audience.size, 200u))),
                auth->audience);
    if (!kz_str_is(jwt->email, auth->email))
        return kz_fail(err, KZ_FORBIDDEN, "the token is of \"" KZ_STR_FMT "\", not of \"%s\"",
                KZ_STR_ARG(kz_str_n(jwt->email.ptr, KZ_MIN(jwt->email.size, 200u))), auth->email);
    if (!jwt->email_verified)
        return kz_fail(err, KZ_FORBIDDEN, "the address in the token is not verified");
    return KZ_OK;
}

/* Under the lock. */
static enum kz_code no_keys(struct kz_push_auth *auth, struct kz_err *err)
{
    (void)kz_fail(err, KZ_UNAVAILABLE, "the keys of push tokens are not here%s%s%s%s",
            auth->problem[0] ? ": " : " yet", auth->problem, auth->problem[0] ? ", from " : "",
            auth->problem[0] ? auth->source : "");
    return kz_hint(err, "they are fetched again; push it again after Retry-After");
}

enum kz_code kz_push_auth_check(
        struct kz_push_auth *auth, struct kz_str authorization, int64_t now_ms, struct kz_err *err)
{
    struct kz_arena arena;
    struct kz_str token;
    struct kz_jwt jwt;
    enum kz_code rc;

    KZ_CHECK_MAGIC(auth, AUTH_MAGIC);
    if (!bearer(authorization, &token))
        return no_token(auth, err);
    kz_arena_init(&arena, 0);
    pthread_mutex_lock(&auth->lock);
    if (!auth->keys || kz_mono_ms() >= auth->expires_ms) {
        rc = no_keys(auth, err);
    } else {
        rc = kz_jwt_verify(auth->keys, token, &arena, &jwt, err);
        if (rc == KZ_NOT_FOUND) {
            rc = KZ_UNAUTHENTICATED;
            if (err)
                err->code = rc;
            auth->asked = true;
            pthread_cond_signal(&auth->wake);
        }
    }
    pthread_mutex_unlock(&auth->lock);
    if (rc == KZ_OK)
        rc = judge(auth, &jwt, now_ms / 1000, err);
    kz_arena_done(&arena);
    return rc;
}
