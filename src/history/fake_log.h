/* history/fake_log.h -- for this folder's tests: makes records as the pipeline does, applies them
 * to views, and keeps them so that they can be applied to others.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"
#include "history/views_int.h"

struct fake_log {
    struct kz_views *views;
    struct {
        kz_lsn lsn;
        struct kz_record *record;
    } * all;
    size_t count, capacity;
    uint64_t seq;
    int64_t at_ms;
};

enum { FAKE_START_MS = 1000000 };

static inline void fake_open(struct fake_log *log)
{
    *log = (struct fake_log){.views = kz_views_new(8), .at_ms = FAKE_START_MS};
}

static inline void fake_close(struct fake_log *log)
{
    for (size_t i = 0; i < log->count; i++)
        free(log->all[i].record);
    free(log->all);
    kz_views_free(log->views);
}

static inline void must(enum kz_code code, const struct kz_err *err)
{
    if (code != KZ_OK)
        fail_msg("%s", err->message);
}

static inline void fake_check(const struct fake_log *log)
{
    struct kz_err err = {0};

    must(kz_views_check(log->views, &err), &err);
}

/* Appends and applies; gives the address. */
static inline kz_lsn fake_put(struct fake_log *log, enum kz_record_type type, uint8_t flags,
        uint64_t owner, const struct kz_buf *body)
{
    struct kz_record *record = kz_calloc(1, sizeof(*record) + body->size);
    kz_lsn lsn = KZ_LSN(1 + log->seq / 1000, 64 + 8 * (log->seq % 1000));
    struct kz_err err = {0};

    *record = (struct kz_record){.size = (uint32_t)(sizeof(*record) + body->size),
            .type = (uint8_t)type,
            .flags = flags,
            .seq = ++log->seq,
            .at_ms = log->at_ms,
            .owner = owner};
    if (body->size)
        memcpy(record + 1, body->data, body->size);
    if (log->count == log->capacity) {
        log->capacity = KZ_MAX((size_t)64, log->capacity * 2);
        log->all = kz_realloc(log->all, log->capacity * sizeof(*log->all));
    }
    log->all[log->count].lsn = lsn;
    log->all[log->count++].record = record;
    must(kz_views_apply(log->views, lsn, record, &err), &err);
    return lsn;
}

static inline void fake_replay(const struct fake_log *log, size_t from, struct kz_views *views)
{
    struct kz_err err = {0};

    for (size_t i = from; i < log->count; i++)
        must(kz_views_apply(views, log->all[i].lsn, log->all[i].record, &err), &err);
}

static inline struct kz_user_key user_key(const char *id)
{
    return (struct kz_user_key){'u', kz_str(id)};
}

static inline struct kz_user_key anon_key(const char *id)
{
    return (struct kz_user_key){'a', kz_str(id)};
}

static inline uint32_t user_of(const struct fake_log *log, struct kz_user_key key)
{
    return kz_views_resolve(log->views, key).index;
}

static inline uint64_t name(const char *s)
{
    return kz_name_hash(kz_str(s));
}

/* An event as sent under `key`, at `ts_ms`; the session is that of the seq given (0: its own). */
static inline kz_lsn fake_event(struct fake_log *log, struct kz_user_key key, int64_t ts_ms,
        uint64_t session, uint8_t flags)
{
    struct kz_buf body = {0};
    struct kz_event event = {.event_id = KZ_STR("e"),
            .name = KZ_STR("view"),
            .ts_ms = ts_ms,
            .session = session ? session : log->seq + 1};
    kz_lsn lsn;

    *(key.kind == 'u' ? &event.user_id : &event.anonymous_id) = key.id;
    kz_event_encode(&event, &body);
    lsn = fake_put(log, KZ_RECORD_EVENT, flags, kz_views_resolve(log->views, key).owner, &body);
    kz_buf_done(&body);
    return lsn;
}

static inline struct kz_link_plan fake_link(struct fake_log *log, struct kz_user_key from,
        struct kz_user_key to, enum kz_identity_op op, kz_lsn *ret_lsn)
{
    struct kz_link_plan plan = kz_views_link_plan(log->views, from, to, op);
    struct kz_buf body = {0};
    kz_lsn lsn = 0;

    if (plan.outcome == KZ_LINK_DO) {
        kz_link_plan_encode(&plan, &body);
        lsn = fake_put(log, KZ_RECORD_LINK, 0, plan.to.owner, &body);
    }
    kz_buf_done(&body);
    if (ret_lsn)
        *ret_lsn = lsn;
    return plan;
}

static inline uint64_t fake_owner(const struct fake_log *log, struct kz_user_key key)
{
    return kz_views_resolve(log->views, key).owner;
}

static inline void fake_trigger(struct fake_log *log, struct kz_user_key key, const char *rule,
        enum kz_trigger_op op, int64_t due_ms, int64_t ts_ms, kz_lsn event)
{
    struct kz_trigger_body fixed = {.rule = name(rule),
            .op = (uint8_t)op,
            .due_ms = due_ms,
            .event_ts_ms = ts_ms,
            .event = event};
    struct kz_buf body = {0};

    kz_buf_put(&body, &fixed, sizeof(fixed));
    fake_put(log, KZ_RECORD_TRIGGER, 0, fake_owner(log, key), &body);
    kz_buf_done(&body);
}

static inline uint64_t fake_request(struct fake_log *log, struct kz_user_key key, const char *model)
{
    struct kz_request_body fixed = {.expires_ms = log->at_ms + 60000};
    struct kz_buf body = {0};
    struct kz_body_writer w = kz_body_begin(&body, &fixed, sizeof(fixed));

    kz_body_span(&w, offsetof(struct kz_request_body, model), kz_str(model));
    fake_put(log, KZ_RECORD_REQUEST, 0, fake_owner(log, key), &body);
    kz_buf_done(&body);
    return log->seq;
}

static inline kz_lsn fake_result(struct fake_log *log, uint64_t owner, uint64_t request,
        enum kz_request_end end, double score)
{
    struct kz_result_body fixed = {.request = request,
            .end = (uint8_t)end,
            .has_score = 1,
            .score = score,
            .computed_at_ms = log->at_ms,
            .expires_at_ms = log->at_ms + 600000};
    struct kz_buf body = {0};
    kz_lsn lsn;

    kz_buf_put(&body, &fixed, sizeof(fixed));
    lsn = fake_put(log, KZ_RECORD_RESULT, 0, owner, &body);
    kz_buf_done(&body);
    return lsn;
}

static inline uint64_t fake_decision(
        struct fake_log *log, struct kz_user_key key, const char *action, enum kz_decision decision)
{
    struct kz_decision_body fixed = {.action = name(action),
            .decision = (uint8_t)decision,
            .kind = 1,
            .expires_at_ms = log->at_ms + 600000};
    struct kz_buf body = {0};

    kz_buf_put(&body, &fixed, sizeof(fixed));
    fake_put(log, KZ_RECORD_DECISION, 0, fake_owner(log, key), &body);
    kz_buf_done(&body);
    return log->seq;
}

static inline void fake_delivery(struct fake_log *log, struct kz_user_key key, uint64_t decision,
        enum kz_delivery_state state, uint32_t attempts, int64_t retry_at_ms)
{
    struct kz_delivery_body fixed = {.decision = decision,
            .state = (uint8_t)state,
            .attempt_count = attempts,
            .retry_at_ms = retry_at_ms};
    struct kz_buf body = {0};

    kz_buf_put(&body, &fixed, sizeof(fixed));
    fake_put(log, KZ_RECORD_DELIVERY, 0, fake_owner(log, key), &body);
    kz_buf_done(&body);
}

static inline uint64_t fake_dead_letter(struct fake_log *log, uint64_t owner, enum kz_stage stage)
{
    struct kz_deadletter_body fixed = {.stage = (uint8_t)stage, .ref = 7};
    struct kz_buf body = {0};

    kz_buf_put(&body, &fixed, sizeof(fixed));
    fake_put(log, KZ_RECORD_DEADLETTER, 0, owner, &body);
    kz_buf_done(&body);
    return log->seq;
}

static inline void fake_control(struct fake_log *log, const char *verb, const char *object)
{
    struct kz_control_body fixed = {0};
    struct kz_buf body = {0};
    struct kz_body_writer w = kz_body_begin(&body, &fixed, sizeof(fixed));

    kz_body_span(&w, offsetof(struct kz_control_body, verb), kz_str(verb));
    kz_body_span(&w, offsetof(struct kz_control_body, object), kz_str(object));
    fake_put(log, KZ_RECORD_CONTROL, 0, 0, &body);
    kz_buf_done(&body);
}

static inline uint64_t fake_erase(struct fake_log *log, struct kz_user_key key, uint64_t id_hash)
{
    uint32_t user = user_of(log, key);
    struct kz_erase_body fixed = {.id_hash = id_hash};
    struct kz_buf body = {0};

    kz_buf_put(&body, &fixed, sizeof(fixed));
    if (user)
        kz_views_erase_owners(log->views, user, &body);
    ((struct kz_erase_body *)body.data)->owner_count =
            (uint32_t)((body.size - sizeof(fixed)) / sizeof(uint64_t));
    fake_put(log, KZ_RECORD_ERASE, 0, 0, &body);
    kz_buf_done(&body);
    return log->seq;
}

static inline void fake_carry(struct fake_log *log, uint32_t user)
{
    struct kz_buf body = {0};

    if (user)
        kz_views_carry(log->views, user, NULL, &body);
    else
        kz_views_carry_globals(log->views, 0, &body);
    fake_put(log, KZ_RECORD_CARRY, 0, user ? kz_views_user(log->views, user)->owner : 0, &body);
    kz_buf_done(&body);
}

static inline void fake_clock(struct fake_log *log)
{
    struct kz_buf body = {0};

    fake_put(log, KZ_RECORD_CLOCK, 0, 0, &body);
    kz_buf_done(&body);
}
