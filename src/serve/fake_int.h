/* serve/fake_int.h -- a stand-in for the pipeline, for the tests and for looking at the dashboard:
 * one user, "ada", with records in memory. Included by one test file.
 *
 * Threads  the loop's; the test's own before it starts.
 */
#pragma once

#include <math.h>
#include <stdlib.h>

#include "contract/auth.h"
#include "serve/serve.h"
#include "sys/clock.h"

enum { FAKE_RECORDS_MAX = 4096, FAKE_SLOTS_MAX = 16 };

struct fake {
    struct kz_query query;
    struct kz_history_reader reader;
    struct kz_project project;
    struct kz_user ada;
    struct kz_buf records[FAKE_RECORDS_MAX]; /* [seq]; the address is seq * 16 */
    uint64_t seq;
    struct kz_slot slots[FAKE_SLOTS_MAX];
    size_t slot_count;
    struct kz_subscription *subscriptions;
    struct kz_pipeline_counters counters;
    struct kz_pipeline_histograms histograms;
    struct kz_model_status models[2];
    enum kz_code health;
    bool hold; /* when_durable() waits for fake_release() */
    struct {
        void (*then)(void *arg, enum kz_code code, const struct kz_err *err);
        void *arg;
    } held[16];
    size_t held_count;
    char verb[64], object[64], who[80];
    uint64_t acknowledged, letters[8];
    size_t letter_count;
};

static const uint64_t ADA = 0xada;

static struct fake *fake_of(struct kz_query *query)
{
    return KZ_CONTAINER_OF(query, struct fake, query);
}

static const struct kz_record *fake_record(const struct fake *f, uint64_t seq)
{
    return (const struct kz_record *)(const void *)f->records[seq].data;
}

/* ---- records
 * -------------------------------------------------------------------------------------- */

static struct kz_buf *fake_begin(struct fake *f)
{
    KZ_BUG_ON(f->seq + 1 >= FAKE_RECORDS_MAX);
    kz_buf_extend(&f->records[++f->seq], sizeof(struct kz_record));
    return &f->records[f->seq];
}

static const struct kz_record *fake_end(struct fake *f, enum kz_record_type type)
{
    struct kz_buf *buf = &f->records[f->seq];
    enum kz_chain chain = kz_record_chain(type);
    struct kz_record head = {
            .size = (uint32_t)buf->size,
            .type = (uint8_t)type,
            .seq = f->seq,
            .at_ms = kz_clock_ms(),
            .owner = chain == KZ_CHAIN_NONE ? 0 : ADA,
    };

    memcpy(buf->data, &head, sizeof(head));
    if (chain == KZ_CHAIN_EVENTS)
        f->ada.events_head = f->seq * 16;
    else if (chain == KZ_CHAIN_NOTES)
        f->ada.notes_head = f->seq * 16;
    return fake_record(f, f->seq);
}

static const struct kz_record *fake_event(
        struct fake *f, const char *id, const char *name, const char *props)
{
    struct kz_event event = {
            .event_id = kz_str(id),
            .user_id = KZ_STR("ada"),
            .name = kz_str(name),
            .props = kz_str(props),
            .ts_ms = 1700000000000,
            .client_ts_ms = 1700000000000,
    };

    kz_event_encode(&event, fake_begin(f));
    return fake_end(f, KZ_RECORD_EVENT);
}

#define FAKE_SPAN(w, type, member, text)                                                           \
    kz_body_span(&(w), offsetof(struct type, member), kz_str(text))

static const struct kz_record *fake_request(
        struct fake *f, uint64_t event_seq, const char *event_id)
{
    struct kz_request_body fixed = {.now_ms = 1700000000000,
            .event = event_seq * 16,
            .event_seq = event_seq,
            .user_kind = 'u'};
    struct kz_body_writer w = kz_body_begin(fake_begin(f), &fixed, sizeof(fixed));

    FAKE_SPAN(w, kz_request_body, model, "purchase");
    FAKE_SPAN(w, kz_request_body, trigger, "browsing");
    FAKE_SPAN(w, kz_request_body, user_id, "ada");
    FAKE_SPAN(w, kz_request_body, event_id, event_id);
    return fake_end(f, KZ_RECORD_REQUEST);
}

static const struct kz_record *fake_result(
        struct fake *f, uint64_t request, const char *event_id, double score, const char *error)
{
    struct kz_value features[2] = {
            {.type = KZ_TYPE_FLOAT, .real = 2.5}, {.type = KZ_TYPE_TEXT, .text = KZ_STR("shoes")}};
    struct kz_result_body fixed = {
            .request = request,
            .end = error ? KZ_END_DEAD : KZ_END_DONE,
            .has_score = !error,
            .score = score,
            .attempt_count = 1,
            .as_of_ms = 1700000000000,
            .computed_at_ms = 1700000000100,
            .expires_at_ms = 1700000600100,
            .queue_us = 11,
            .features_us = 22,
            .wait_us = 33,
            .model_us = 444,
            .user_kind = 'u',
    };
    struct kz_body_writer w = kz_body_begin(fake_begin(f), &fixed, sizeof(fixed));
    struct kz_buf row = {0};
    char output[32];

    kz_row_encode(features, 2, &row);
    snprintf(output, sizeof(output), "%.3f", score);
    FAKE_SPAN(w, kz_result_body, model, "purchase");
    FAKE_SPAN(w, kz_result_body, version, "v1");
    FAKE_SPAN(w, kz_result_body, user_id, "ada");
    FAKE_SPAN(w, kz_result_body, event_id, event_id);
    if (!error)
        FAKE_SPAN(w, kz_result_body, output, output);
    kz_body_span(&w, offsetof(struct kz_result_body, features), kz_buf_view(&row));
    if (error)
        FAKE_SPAN(w, kz_result_body, error, error);
    kz_buf_done(&row);
    return fake_end(f, KZ_RECORD_RESULT);
}

static const struct kz_record *fake_decision(
        struct fake *f, uint64_t request, enum kz_decision decision, int64_t expires_at_ms)
{
    struct kz_decision_body fixed = {
            .request = request,
            .decision = (uint8_t)decision,
            .kind = KZ_DELIVER_WEB,
            .expires_at_ms = expires_at_ms,
            .user_kind = 'u',
    };
    struct kz_body_writer w = kz_body_begin(fake_begin(f), &fixed, sizeof(fixed));

    FAKE_SPAN(w, kz_decision_body, action_name, "coupon");
    FAKE_SPAN(w, kz_decision_body, model, "purchase");
    FAKE_SPAN(w, kz_decision_body, user_id, "ada");
    FAKE_SPAN(w, kz_decision_body, event_id, "e1");
    if (decision == KZ_DECISION_DELIVER)
        FAKE_SPAN(w, kz_decision_body, payload, "{\"title\":\"10% off\",\"code\":\"KZ10\"}");
    return fake_end(f, KZ_RECORD_DECISION);
}

static void fake_shown(struct fake *f, uint64_t decision)
{
    struct kz_delivery_body fixed = {.decision = decision, .state = KZ_DELIVERY_SHOWN};

    (void)kz_body_begin(fake_begin(f), &fixed, sizeof(fixed));
    fake_end(f, KZ_RECORD_DELIVERY);
}

static void fake_letter(struct fake *f, enum kz_stage stage, uint64_t ref, const char *reason)
{
    struct kz_deadletter_body fixed = {.stage = (uint8_t)stage, .ref = ref};
    struct kz_body_writer w = kz_body_begin(fake_begin(f), &fixed, sizeof(fixed));

    FAKE_SPAN(w, kz_deadletter_body, code, "exception");
    FAKE_SPAN(w, kz_deadletter_body, reason, reason);
    FAKE_SPAN(w, kz_deadletter_body, model, "purchase");
    FAKE_SPAN(w, kz_deadletter_body, payload, "{\"a\":1");
    fake_end(f, KZ_RECORD_DEADLETTER);
    f->letters[f->letter_count++] = f->seq;
    f->counters.dead_letters++;
}

static void fake_slot(struct fake *f, struct kz_slot slot)
{
    KZ_BUG_ON(f->slot_count == FAKE_SLOTS_MAX);
    f->slots[f->slot_count++] = slot;
}

static void fake_release(struct fake *f)
{
    size_t count = f->held_count;

    f->held_count = 0;
    for (size_t i = 0; i < count; i++)
        f->held[i].then(f->held[i].arg, KZ_OK, NULL);
}

static void fake_publish(struct fake *f, enum kz_news_kind kind, const struct kz_record *record)
{
    struct kz_news news = {kind, record->owner, record};

    for (struct kz_subscription *s = f->subscriptions, *next; s; s = next) {
        next = s->next;
        if (!s->owner || s->owner == record->owner)
            s->news(s, &news);
    }
}

/* ---- the reader
 * ----------------------------------------------------------------------------------- */

static enum kz_code fake_scan(struct kz_history_reader *reader,
        const struct kz_history_query *query, struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct fake *f = KZ_CONTAINER_OF(reader, struct fake, reader);
    struct kz_history_rows rows = {0};
    const struct kz_record **records = kz_calloc(f->seq + 1, sizeof(*records));
    kz_lsn *lsns = kz_calloc(f->seq + 1, sizeof(*lsns));
    size_t skip, count = 0;

    (void)err;
    for (uint64_t seq = 1; seq <= f->seq; seq++) {
        const struct kz_record *record = fake_record(f, seq);

        if (record->owner != ADA || kz_record_chain(record->type) != query->chain ||
                seq * 16 > query->as_of)
            continue;
        records[count] = record;
        lsns[count++] = seq * 16;
    }
    skip = query->events_max && count > query->events_max ? count - query->events_max : 0;
    memmove(records, records + skip, (count - skip) * sizeof(*records));
    memmove(lsns, lsns + skip, (count - skip) * sizeof(*lsns));
    rows.records = records;
    rows.lsns = lsns;
    rows.count = count - skip;
    rows.truncated = skip > 0;
    *ret_rows = rows;
    return KZ_OK;
}

static void fake_rows_release(struct kz_history_reader *reader, struct kz_history_rows *rows)
{
    (void)reader;
    free((void *)rows->records);
    free((void *)rows->lsns);
    *rows = (struct kz_history_rows){0};
}

static enum kz_code fake_get(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    struct fake *f = KZ_CONTAINER_OF(reader, struct fake, reader);

    (void)owner;
    kz_buf_clear(out);
    if (lsn / 16 < 1 || lsn / 16 > f->seq)
        return kz_fail(err, KZ_NOT_FOUND, "gone");
    kz_buf_put(out, f->records[lsn / 16].data, f->records[lsn / 16].size);
    return KZ_OK;
}

static const struct kz_history_reader_ops fake_reader_ops = {
        .scan = fake_scan, .release = fake_rows_release, .get = fake_get};

/* ---- the query
 * ------------------------------------------------------------------------------------ */

static bool fake_find(struct kz_query *q, struct kz_user_key key, uint32_t *ret_user)
{
    (void)q;
    if (!kz_str_is(key.id, key.kind == 'u' ? "ada" : "visitor-of-ada"))
        return false;
    *ret_user = 1;
    return true;
}

static const struct kz_user *fake_user(struct kz_query *q, uint32_t user)
{
    (void)user;
    return &fake_of(q)->ada;
}

static struct kz_user_key fake_key(struct kz_query *q, uint32_t user)
{
    (void)q;
    (void)user;
    return (struct kz_user_key){'u', KZ_STR("ada")};
}

static size_t fake_sources(struct kz_query *q, uint32_t user, enum kz_chain chain,
        struct kz_source out[KZ_SOURCES_MAX])
{
    const struct kz_user *ada = fake_user(q, user);

    out[0] = (struct kz_source){ADA, chain == KZ_CHAIN_EVENTS ? ada->events_head : ada->notes_head};
    return 1;
}

static const struct kz_slot *fake_slot_of(
        struct kz_query *q, uint32_t user, enum kz_slot_kind kind, const struct kz_slot *after)
{
    struct fake *f = fake_of(q);

    (void)user;
    for (size_t i = after ? (size_t)(after - f->slots) + 1 : 0; i < f->slot_count; i++)
        if (f->slots[i].kind == kind)
            return &f->slots[i];
    return NULL;
}

static void fake_when_durable(struct kz_query *q, kz_lsn lsn,
        void (*then)(void *arg, enum kz_code code, const struct kz_err *err), void *arg)
{
    struct fake *f = fake_of(q);

    (void)lsn;
    if (!f->hold) {
        then(arg, KZ_OK, NULL);
        return;
    }
    f->held[f->held_count].then = then;
    f->held[f->held_count++].arg = arg;
}

static kz_lsn fake_log_end(struct kz_query *q)
{
    return (fake_of(q)->seq + 1) * 16;
}

static void fake_subscribe(struct kz_query *q, struct kz_subscription *s)
{
    struct fake *f = fake_of(q);

    s->prev = NULL;
    s->next = f->subscriptions;
    if (s->next)
        s->next->prev = s;
    f->subscriptions = s;
}

static void fake_unsubscribe(struct kz_query *q, struct kz_subscription *s)
{
    if (s->prev)
        s->prev->next = s->next;
    else
        fake_of(q)->subscriptions = s->next;
    if (s->next)
        s->next->prev = s->prev;
}

static enum kz_code fake_acknowledge(
        struct kz_query *q, uint32_t user, uint64_t decision, struct kz_err *err)
{
    struct fake *f = fake_of(q);

    (void)user;
    for (size_t i = 0; i < f->slot_count; i++) {
        if (f->slots[i].kind != KZ_SLOT_DELIVERY || f->slots[i].delivery.decision != decision)
            continue;
        f->slots[i].kind = KZ_SLOT_FREE;
        f->acknowledged = decision;
        return KZ_OK;
    }
    return kz_fail(err, KZ_NOT_FOUND, "no delivery %llu waits for this user",
            (unsigned long long)decision);
}

static bool fake_timing(struct kz_query *q, uint64_t seq, struct kz_event_timing *ret)
{
    (void)q;
    (void)seq;
    *ret = (struct kz_event_timing){.parse_us = 7, .log_us = 250};
    return true;
}

static enum kz_code fake_control(struct kz_query *q, const char *verb, struct kz_str object,
        const char *who, uint64_t *ret_count, struct kz_err *err)
{
    struct fake *f = fake_of(q);

    if (kz_str_is(object, "nobody"))
        return kz_fail(err, KZ_NOT_FOUND, "there is no \"nobody\"");
    snprintf(f->verb, sizeof(f->verb), "%s", verb);
    snprintf(f->object, sizeof(f->object), KZ_STR_FMT, KZ_STR_ARG(object));
    snprintf(f->who, sizeof(f->who), "%s", who);
    *ret_count = 3;
    return KZ_OK;
}

static enum kz_code fake_erase(struct kz_query *q, struct kz_user_key key, const char *who,
        uint64_t *ret_erasure, struct kz_err *err)
{
    uint32_t user;

    (void)who;
    if (!fake_find(q, key, &user))
        return kz_fail(err, KZ_NOT_FOUND, "nothing is known of this user");
    *ret_erasure = 77;
    return KZ_OK;
}

static enum kz_code fake_erasure(struct kz_query *q, uint64_t erasure, bool *ret_done,
        int64_t *ret_asked_ms, int64_t *ret_done_ms, struct kz_err *err)
{
    (void)q;
    if (erasure != 77)
        return kz_fail(err, KZ_NOT_FOUND, "there is no erasure %llu", (unsigned long long)erasure);
    *ret_done = false;
    *ret_asked_ms = 1700000000000;
    *ret_done_ms = 0;
    return KZ_OK;
}

static size_t fake_dead_letters(
        struct kz_query *q, uint64_t before, size_t count, struct kz_letter_place *places)
{
    struct fake *f = fake_of(q);
    size_t found = 0;

    for (size_t i = f->letter_count; i-- > 0 && found < count;) {
        if (before && f->letters[i] >= before)
            continue;
        places[found++] = (struct kz_letter_place){f->letters[i], f->letters[i] * 16, 0};
    }
    return found;
}

static void fake_counters(struct kz_query *q, struct kz_pipeline_counters *ret)
{
    *ret = fake_of(q)->counters;
}

static const struct kz_pipeline_histograms *fake_histograms(struct kz_query *q)
{
    return &fake_of(q)->histograms;
}

static void fake_model(struct kz_query *q, unsigned model, struct kz_model_status *ret)
{
    *ret = fake_of(q)->models[model];
}

static bool fake_action_paused(struct kz_query *q, unsigned action)
{
    (void)q, (void)action;
    return false;
}

static enum kz_code fake_health(struct kz_query *q, struct kz_err *err)
{
    if (fake_of(q)->health != KZ_OK)
        return kz_fail(err, fake_of(q)->health, "the disk of the log is full");
    return KZ_OK;
}

static enum kz_code fake_backup(struct kz_query *q, const char *dest,
        void (*done)(void *arg, enum kz_code code, const struct kz_err *err), void *arg,
        struct kz_err *err)
{
    (void)q;
    if (strcmp(dest, "/there") == 0)
        return kz_fail(err, KZ_CONFLICT, "\"/there\" exists");
    done(arg, KZ_OK, NULL);
    return KZ_OK;
}

static enum kz_code fake_checkpoint(struct kz_query *q, struct kz_err *err)
{
    (void)q;
    (void)err;
    return KZ_OK;
}

static const struct kz_query_ops fake_ops = {
        .find = fake_find,
        .user = fake_user,
        .key = fake_key,
        .sources = fake_sources,
        .slot = fake_slot_of,
        .when_durable = fake_when_durable,
        .end = fake_log_end,
        .subscribe = fake_subscribe,
        .unsubscribe = fake_unsubscribe,
        .acknowledge = fake_acknowledge,
        .timing = fake_timing,
        .control = fake_control,
        .erase = fake_erase,
        .erasure = fake_erasure,
        .dead_letters = fake_dead_letters,
        .counters = fake_counters,
        .histograms = fake_histograms,
        .model = fake_model,
        .action_paused = fake_action_paused,
        .health = fake_health,
        .backup = fake_backup,
        .checkpoint = fake_checkpoint,
};

static struct kz_model_def fake_model_defs[] = {
        {.name = "purchase", .runtime = "python", .timeout_ms = 500},
        {.name = "leave", .runtime = "python", .timeout_ms = 500},
};
static struct kz_trigger_def fake_trigger_defs[] = {{.name = "browsing"}};

static struct fake *fake_new(void)
{
    struct fake *f = kz_calloc(1, sizeof(*f));

    f->reader.ops = &fake_reader_ops;
    f->query = (struct kz_query){&fake_ops, &f->project, &f->reader};
    f->project.name = "shop";
    f->project.models = fake_model_defs;
    f->project.model_count = 2;
    f->project.triggers = fake_trigger_defs;
    f->project.trigger_count = 1;
    f->ada.owner = ADA;
    for (unsigned m = 0; m < 2; m++)
        f->models[m] = (struct kz_model_status){.name = fake_model_defs[m].name,
                .version = "v1",
                .runtime = "python",
                .replicas_ready = 1,
                .replicas_max = 4};
    return f;
}

static void fake_free(struct fake *f)
{
    for (uint64_t seq = 0; seq <= f->seq; seq++)
        kz_buf_done(&f->records[seq]);
    free(f);
}

/* ---- keys: "Bearer write|read|admin"; the proof of a user is the token "proof"
 * ---------------------- */

struct kz_auth {
    int unused;
};

enum kz_code kz_auth_check(struct kz_auth *auth, struct kz_http_request *req,
        enum kz_auth_need need, unsigned flags, struct kz_str body_key,
        struct kz_identity *ret_identity, struct kz_err *err)
{
    static const struct kz_key keys[] = {{.kind = KZ_KEY_WRITE, .name = "write"},
            {.kind = KZ_KEY_READ, .name = "read"}, {.kind = KZ_KEY_ADMIN, .name = "admin"}};
    static const enum kz_key_kind least[] = {KZ_KEY_WRITE, KZ_KEY_WRITE, KZ_KEY_READ, KZ_KEY_ADMIN};
    struct kz_str header = kz_http_request_header(req, "Authorization");

    (void)auth;
    (void)flags;
    (void)body_key;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(keys); i++) {
        if (header.size < 8 || !kz_str_is(kz_str_n(header.ptr + 7, header.size - 7), keys[i].name))
            continue;
        if (keys[i].kind < least[need])
            return kz_fail(err, KZ_FORBIDDEN, "the key is too weak");
        ret_identity->key = &keys[i];
        snprintf(ret_identity->who, sizeof(ret_identity->who), "%s", keys[i].name);
        return KZ_OK;
    }
    return kz_fail(err, KZ_UNAUTHENTICATED, "no key");
}

enum kz_code kz_auth_user(const struct kz_auth *auth, const struct kz_identity *identity,
        struct kz_user_key user, struct kz_str token, int64_t now_ms, struct kz_err *err)
{
    (void)auth;
    (void)user;
    (void)now_ms;
    if (identity->key->kind >= KZ_KEY_READ || kz_str_is(token, "proof"))
        return KZ_OK;
    return kz_fail(err, KZ_FORBIDDEN, "no proof");
}

size_t kz_auth_cors(const struct kz_auth *auth, const struct kz_http_request *req,
        struct kz_http_header ret_headers[KZ_CORS_HEADERS_MAX])
{
    (void)auth;
    if (!kz_http_request_header(req, "Origin").ptr)
        return 0;
    ret_headers[0] = (struct kz_http_header){
            KZ_STR("Access-Control-Allow-Origin"), kz_http_request_header(req, "Origin")};
    return 1;
}

void kz_auth_preflight(const struct kz_auth *auth, struct kz_http_request *req)
{
    (void)auth;
    kz_http_respond(req, 204, NULL, KZ_STR_NULL, NULL, 0);
}

void kz_auth_refuse(
        const struct kz_auth *auth, struct kz_http_request *req, const struct kz_err *err)
{
    (void)auth;
    kz_http_respond_error(req, err);
}
