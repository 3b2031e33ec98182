/* app/roles/role_words.c -- an operator's words, read by every role each second. */

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "app/roles/role.h"
#include "base/diag.h"
#include "history/views.h"
#include "sys/clock.h"
#include "sys/thread.h"

enum { READ_EVERY_MS = 1000, TRIES_MAX = 20 };
static const char WORD[] = "control";

struct kz_words {
    struct kz_predictions *predictions;
    struct kz_thread thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop, failing;
    struct kz_buf value;    /* as it was read last */
    struct kz_views *views; /* the same, to be asked */
};

/* The value as the CARRY record it stands for: seq 1, since views skip what they know already. */
static enum kz_code load(struct kz_str value, struct kz_views *views, struct kz_err *err)
{
    struct kz_record head = {
            .size = (uint32_t)(sizeof(head) + value.size), .type = KZ_RECORD_CARRY, .seq = 1};
    struct kz_buf record = {0};
    enum kz_code rc;

    if (!value.size)
        return KZ_OK;
    kz_buf_put(&record, &head, sizeof(head));
    kz_buf_str(&record, value);
    rc = kz_views_apply(views, 1, (const struct kz_record *)(void *)record.data, err);
    kz_buf_done(&record);
    return rc == KZ_OK ? KZ_OK : kz_wrap(err, "reading the operators' words");
}

/* Takes over what was read, where it is something new. */
static enum kz_code take(struct kz_words *words, struct kz_str value, struct kz_err *err)
{
    struct kz_views *views, *before;
    enum kz_code rc;

    if (kz_str_eq(value, kz_buf_view(&words->value)))
        return KZ_OK;
    views = kz_views_new(0);
    rc = load(value, views, err);
    if (rc != KZ_OK) {
        kz_views_free(views);
        return rc;
    }
    pthread_mutex_lock(&words->lock);
    before = words->views;
    words->views = views;
    kz_buf_clear(&words->value);
    kz_buf_str(&words->value, value);
    pthread_mutex_unlock(&words->lock);
    kz_views_free(before);
    return KZ_OK;
}

static enum kz_code read_word(struct kz_words *words, struct kz_buf *value, struct kz_err *err)
{
    KZ_TRY(words->predictions->ops->word(words->predictions, WORD, value, err));
    return take(words, kz_buf_view(value), err);
}

static void read_again_and_again(void *arg)
{
    struct kz_words *words = arg;
    struct kz_buf value = {0};

    pthread_mutex_lock(&words->lock);
    while (!words->stop) {
        struct timespec until = kz_mono_after(READ_EVERY_MS);
        struct kz_err err;
        bool failed;

        (void)pthread_cond_clockwait(
                &words->wake, &words->lock, CLOCK_MONOTONIC, &until); /* either way: look */
        if (words->stop)
            break;
        pthread_mutex_unlock(&words->lock);
        failed = read_word(words, &value, &err) != KZ_OK;
        if (failed && !words->failing)
            kz_diag_warn("the operators' words cannot be read: the last ones hold", "error=\"%s\"",
                    err.message);
        words->failing = failed;
        pthread_mutex_lock(&words->lock);
    }
    pthread_mutex_unlock(&words->lock);
    kz_buf_done(&value);
}

enum kz_code kz_words_open(
        struct kz_predictions *predictions, struct kz_words **ret_words, struct kz_err *err)
{
    struct kz_words *words = kz_calloc(1, sizeof(*words));
    struct kz_buf value = {0};
    enum kz_code rc;

    words->predictions = predictions;
    words->views = kz_views_new(0);
    pthread_mutex_init(&words->lock, NULL);
    pthread_cond_init(&words->wake, NULL);
    rc = read_word(words, &value, err);
    kz_buf_done(&value);
    if (rc == KZ_OK)
        rc = kz_thread_start(&words->thread, "kz-words", read_again_and_again, words, err);
    if (rc != KZ_OK) {
        kz_words_close(words);
        return rc;
    }
    *ret_words = words;
    return KZ_OK;
}

void kz_words_close(struct kz_words *words)
{
    if (!words)
        return;
    pthread_mutex_lock(&words->lock);
    words->stop = true;
    pthread_cond_signal(&words->wake);
    pthread_mutex_unlock(&words->lock);
    kz_thread_join(&words->thread);
    kz_views_free(words->views);
    kz_buf_done(&words->value);
    pthread_cond_destroy(&words->wake);
    pthread_mutex_destroy(&words->lock);
    free(words);
}

bool kz_words_paused(struct kz_words *words, const char *what, struct kz_str name)
{
    bool paused;

    pthread_mutex_lock(&words->lock);
    paused = kz_views_paused(words->views, what, name);
    pthread_mutex_unlock(&words->lock);
    return paused;
}

int64_t kz_words_said_ms(struct kz_words *words, const char *family, struct kz_str object)
{
    int64_t said_ms = 0;
    struct kz_str verb;
    size_t at;

    pthread_mutex_lock(&words->lock);
    verb = kz_views_control(words->views, family, object);
    for (at = 0; at < verb.size && verb.ptr[at] != ':'; at++)
        ;
    for (at++; at < verb.size && at < 64; at++)
        if (verb.ptr[at] >= '0' && verb.ptr[at] <= '9' && said_ms < INT64_MAX / 100)
            said_ms = said_ms * 10 + (verb.ptr[at] - '0');
    pthread_mutex_unlock(&words->lock);
    return said_ms;
}

/* ---- saying -------------------------------------------------------------------------------------- */

/* What `before` becomes with one more word. */
static enum kz_code add(struct kz_str before, const char *verb, struct kz_str object,
        const char *who, int64_t now_ms, struct kz_buf *out, struct kz_err *err)
{
    struct kz_control_body fixed = {.verb = {0}};
    struct kz_record head = {.type = KZ_RECORD_CONTROL, .at_ms = now_ms};
    KZ_AUTO(kz_views_freep) struct kz_views *views = kz_views_new(0);
    struct kz_buf record = {0};
    struct kz_body_writer w;
    enum kz_code rc;

    KZ_TRY(load(before, views, err));
    kz_buf_put(&record, &head, sizeof(head));
    w = kz_body_begin(&record, &fixed, sizeof(fixed));
    kz_body_span(&w, offsetof(struct kz_control_body, verb), kz_str(verb));
    kz_body_span(&w, offsetof(struct kz_control_body, object), object);
    kz_body_span(&w, offsetof(struct kz_control_body, who), kz_str(who));
    head.size = (uint32_t)record.size;
    head.seq = KZ_MAX(kz_views_seq(views) + 1, (uint64_t)now_ms); /* the newer of two words holds */
    memcpy(record.data, &head, sizeof(head));
    rc = kz_views_apply(views, head.seq, (const struct kz_record *)(void *)record.data, err);
    kz_buf_done(&record);
    if (rc == KZ_OK) {
        kz_buf_clear(out);
        kz_views_carry_globals(views, 0, out);
    }
    return rc;
}

enum kz_code kz_words_say(struct kz_words *words, const char *verb, struct kz_str object,
        const char *who, int64_t now_ms, struct kz_err *err)
{
    struct kz_buf before = {0}, after = {0};
    enum kz_code rc = KZ_CONFLICT;

    for (unsigned i = 0; i < TRIES_MAX && rc == KZ_CONFLICT; i++) {
        rc = words->predictions->ops->word(words->predictions, WORD, &before, err);
        if (rc == KZ_OK)
            rc = add(kz_buf_view(&before), verb, object, who, now_ms, &after, err);
        if (rc == KZ_OK)
            rc = words->predictions->ops->set_word(
                    words->predictions, WORD, kz_buf_view(&before), kz_buf_view(&after), err);
    }
    if (rc == KZ_OK) { /* others within a second, this process now */
        pthread_mutex_lock(&words->lock);
        pthread_cond_signal(&words->wake);
        pthread_mutex_unlock(&words->lock);
    }
    kz_buf_done(&before);
    kz_buf_done(&after);
    return rc;
}
