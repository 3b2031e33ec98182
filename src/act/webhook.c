#include "act/webhook.h"

#include <curl/curl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/crypto.h"
#include "codec/hex.h"
#include "sys/clock.h"
#include "sys/http.h"
#include "sys/ring.h"
#include "sys/thread.h"

enum {
    WEBHOOKS_MAGIC = 0x6b7a7768,
    OUTSTANDING_MAX = 256, /* submitted and not taken back; both rings have room for all of them */
    ACTIVE_MAX = KZ_WEBHOOKS_ACTIVE_MAX,
    ANSWER_MAX_BYTES = 64 << 10, /* of an answer's body, which is thrown away */
    TIMEOUT_DEFAULT_MS = 10000,
    CONNECT_TIMEOUT_MAX_MS = 10000,
};

/* One post under way; on the posting thread. */
struct post {
    CURL *easy;
    struct curl_slist *headers;
    struct kz_webhook_attempt *attempt; /* NULL: idle */
    char error[CURL_ERROR_SIZE];
    size_t answer_bytes;
};

struct kz_webhooks {
    uint32_t magic;
    void (*wake)(void *arg);
    void *arg;
    struct kz_thread thread;
    atomic_bool stop;
    struct kz_ring *submitted, *outcomes;
    size_t outstanding; /* the pipeline's thread only */

    /* The posting thread's. */
    CURLM *multi;
    struct post posts[ACTIVE_MAX];
    size_t active;
};

int64_t kz_webhook_retry_ms(uint32_t attempt_count, double dice)
{
    enum { FIRST_MS = 1000, LAST_MS = 600000 };
    uint32_t doublings = attempt_count ? attempt_count - 1 : 0;
    int64_t base_ms = doublings < 10 ? (int64_t)FIRST_MS << doublings : LAST_MS;

    return (int64_t)((double)KZ_MIN(base_ms, (int64_t)LAST_MS) * (0.8 + 0.4 * dice));
}

void kz_webhook_attempt_free(struct kz_webhook_attempt *attempt)
{
    if (!attempt)
        return;
    free(attempt->url);
    free(attempt->secret);
    free(attempt->project);
    kz_buf_done(&attempt->body);
    free(attempt);
}

/* ---- one post
 * ------------------------------------------------------------------------------------- */

static size_t discard(char *data, size_t size, size_t count, void *arg)
{
    struct post *post = arg;

    (void)data;
    post->answer_bytes += size * count;
    return post->answer_bytes > ANSWER_MAX_BYTES ? 0 : size * count; /* 0: no more of it */
}

static void add_header(struct post *post, const char *fmt, ...) KZ_PRINTF(2, 3);
static void add_header(struct post *post, const char *fmt, ...)
{
    struct kz_buf line = {0};
    struct curl_slist *list;
    va_list args;

    va_start(args, fmt);
    kz_buf_vprintf(&line, fmt, args);
    va_end(args);
    kz_buf_char(&line, '\0');
    list = curl_slist_append(post->headers, line.data);
    kz_buf_done(&line);
    KZ_BUG_ON(!list); /* out of memory, which ends the process anywhere else as well */
    post->headers = list;
}

static void sign(struct post *post, const struct kz_webhook_attempt *attempt, int64_t now_s)
{
    uint8_t mac[KZ_SHA256_BYTES];
    char hex[2 * KZ_SHA256_BYTES + 1];
    struct kz_buf text = {0};

    kz_buf_printf(&text, "%" PRId64 ".", now_s);
    kz_buf_put(&text, attempt->body.data, attempt->body.size);
    kz_hmac_sha256(kz_str(attempt->secret), kz_buf_view(&text), mac);
    kz_buf_done(&text);
    add_header(post, "Kizashi-Signature: v1=%s", kz_hex(mac, sizeof(mac), hex));
}

static void set_headers(struct post *post, const struct kz_webhook_attempt *attempt)
{
    int64_t now_s = kz_clock_ms() / 1000;

    add_header(post, "Content-Type: application/json");
    add_header(post, "Idempotency-Key: kz-%s-%" PRIu64, attempt->project, attempt->decision);
    add_header(post, "Kizashi-Timestamp: %" PRId64, now_s);
    add_header(post, "Expect:"); /* no round trip before a small body */
    if (attempt->secret && *attempt->secret)
        sign(post, attempt, now_s);
}

/* The options cannot fail but for a URL that is no URL, which curl_multi_perform() then tells. */
static void set_options(struct post *post, const struct kz_webhook_attempt *attempt)
{
    long timeout_ms = attempt->timeout_ms > 0 ? (long)attempt->timeout_ms : TIMEOUT_DEFAULT_MS;
    CURL *easy = post->easy;

    curl_easy_setopt(easy, CURLOPT_URL, attempt->url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, attempt->body.size ? attempt->body.data : "");
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)attempt->body.size);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, post->headers);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "kizashi");
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout_ms);
    curl_easy_setopt(
            easy, CURLOPT_CONNECTTIMEOUT_MS, KZ_MIN(timeout_ms, (long)CONNECT_TIMEOUT_MAX_MS));
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, discard);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, post);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, post->error);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, post);
}

static void begin(struct kz_webhooks *w, struct kz_webhook_attempt *attempt)
{
    struct post *post = w->posts;

    while (post->attempt)
        post++;
    if (!post->easy)
        post->easy = curl_easy_init();
    KZ_BUG_ON(!post->easy);
    post->attempt = attempt;
    post->answer_bytes = 0;
    post->error[0] = '\0';
    set_headers(post, attempt);
    set_options(post, attempt);
    KZ_BUG_ON(curl_multi_add_handle(w->multi, post->easy) != CURLM_OK);
    w->active++;
}

static void judge(struct post *post, CURLcode code)
{
    struct kz_webhook_attempt *attempt = post->attempt;
    char *detail = attempt->detail;
    size_t size = sizeof(attempt->detail);
    long status = 0;

    curl_easy_getinfo(post->easy, CURLINFO_RESPONSE_CODE, &status);
    /* An answer longer than we care to read is an answer. */
    if (code == CURLE_OK || (code == CURLE_WRITE_ERROR && status)) {
        attempt->ok = status >= 200 && status <= 299;
        attempt->final = status >= 400 && status <= 499 && status != 408 && status != 425 &&
                         status != 429;
        if (attempt->ok)
            snprintf(detail, size, "%ld", status);
        else
            snprintf(detail, size, "%ld %s", status, kz_http_status_text((int)status));
        return;
    }
    attempt->final = code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL;
    if (code == CURLE_OPERATION_TIMEDOUT)
        snprintf(detail, size, "no answer within %lld ms",
                (long long)(attempt->timeout_ms > 0 ? attempt->timeout_ms : TIMEOUT_DEFAULT_MS));
    else
        snprintf(detail, size, "could not %s: %.160s",
                code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ? "connect"
                                                                                    : "post",
                post->error[0] ? post->error : curl_easy_strerror(code));
}

static struct kz_webhook_attempt *end(struct kz_webhooks *w, struct post *post)
{
    struct kz_webhook_attempt *attempt = post->attempt;

    curl_multi_remove_handle(w->multi, post->easy);
    curl_easy_reset(post->easy); /* the connection is the multi handle's and stays */
    curl_slist_free_all(post->headers);
    post->headers = NULL;
    post->attempt = NULL;
    w->active--;
    return attempt;
}

/* ---- the posting thread
 * --------------------------------------------------------------------------- */

static void take_submitted(struct kz_webhooks *w)
{
    struct kz_webhook_attempt *attempt;

    while (w->active < ACTIVE_MAX && (attempt = kz_ring_pop(w->submitted)))
        begin(w, attempt);
}

static void finish_done(struct kz_webhooks *w)
{
    bool any = false;
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(w->multi, &left))) {
        CURLcode code = message->data.result;
        struct post *post = NULL;

        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&post);
        judge(post, code);
        /* There is room: the ring holds all that can be outstanding. */
        KZ_BUG_ON(!kz_ring_push(w->outcomes, end(w, post)));
        any = true;
    }
    if (any)
        w->wake(w->arg);
}

static void run(void *arg)
{
    struct kz_webhooks *w = arg;
    int running;

    KZ_CHECK_MAGIC(w, WEBHOOKS_MAGIC);
    while (!atomic_load(&w->stop)) {
        take_submitted(w);
        KZ_BUG_ON(curl_multi_perform(w->multi, &running) != CURLM_OK);
        finish_done(w);
        /* A submission wakes this, also one between the look above and here. More than ACTIVE_MAX
         * wait for one of those under way, which is an event of the poll itself. */
        if (kz_ring_count(w->submitted) == 0 || w->active == ACTIVE_MAX)
            KZ_BUG_ON(curl_multi_poll(w->multi, NULL, 0, 60000, NULL) != CURLM_OK);
    }
    for (size_t i = 0; i < ACTIVE_MAX; i++) {
        if (w->posts[i].attempt)
            kz_webhook_attempt_free(end(w, &w->posts[i]));
        curl_easy_cleanup(w->posts[i].easy); /* copes with NULL */
    }
}

/* ---- the pipeline's side
 * -------------------------------------------------------------------------- */

static void rings_free(struct kz_webhooks *w)
{
    struct kz_webhook_attempt *attempt;

    while ((attempt = kz_ring_pop(w->submitted)))
        kz_webhook_attempt_free(attempt);
    while ((attempt = kz_ring_pop(w->outcomes)))
        kz_webhook_attempt_free(attempt);
    kz_ring_free(w->submitted);
    kz_ring_free(w->outcomes);
}

enum kz_code kz_webhooks_open(
        void (*wake)(void *arg), void *arg, struct kz_webhooks **ret_webhooks, struct kz_err *err)
{
    struct kz_webhooks *w;
    enum kz_code rc;

    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return kz_fail(err, KZ_NO_MEMORY, "could not start libcurl");
    w = kz_calloc(1, sizeof(*w));
    w->magic = WEBHOOKS_MAGIC;
    w->wake = wake;
    w->arg = arg;
    w->submitted = kz_ring_new(OUTSTANDING_MAX);
    w->outcomes = kz_ring_new(OUTSTANDING_MAX);
    w->multi = curl_multi_init();
    KZ_BUG_ON(!w->multi);
    curl_multi_setopt(w->multi, CURLMOPT_MAXCONNECTS, (long)ACTIVE_MAX);
    rc = kz_thread_start(&w->thread, "kz-webhooks", run, w, err);
    if (rc != KZ_OK) {
        kz_webhooks_close(w);
        return kz_wrap(err, "starting the posting of webhooks");
    }
    *ret_webhooks = w;
    return KZ_OK;
}

void kz_webhooks_close(struct kz_webhooks *w)
{
    if (!w)
        return;
    KZ_CHECK_MAGIC(w, WEBHOOKS_MAGIC);
    atomic_store(&w->stop, true);
    curl_multi_wakeup(w->multi);
    kz_thread_join(&w->thread);
    rings_free(w);
    curl_multi_cleanup(w->multi);
    curl_global_cleanup();
    w->magic = 0;
    free(w);
}

bool kz_webhooks_submit(struct kz_webhooks *w, struct kz_webhook_attempt *attempt)
{
    KZ_CHECK_MAGIC(w, WEBHOOKS_MAGIC);
    if (w->outstanding >= OUTSTANDING_MAX)
        return false;
    attempt->ok = false;
    attempt->final = false;
    attempt->detail[0] = '\0';
    attempt->next = NULL;
    if (!kz_ring_push(w->submitted, attempt))
        return false;
    w->outstanding++;
    curl_multi_wakeup(w->multi);
    return true;
}

struct kz_webhook_attempt *kz_webhooks_take(struct kz_webhooks *w)
{
    struct kz_webhook_attempt *first = NULL, **tail = &first, *attempt;

    while ((attempt = kz_ring_pop(w->outcomes))) {
        attempt->next = NULL;
        *tail = attempt;
        tail = &attempt->next;
        w->outstanding--;
    }
    return first;
}
