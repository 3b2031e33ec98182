/* tests/roles/faults.h -- backends that fail now and then: before a call, or after it (the answer is lost),
 * with a conflict that is none, and publishing that comes to nothing.
 */
#pragma once

#include <stdatomic.h>

#include "base/hash.h"
#include "rig.h"

struct faults {
    struct kz_predictions predictions; /* over `rows` */
    struct kz_bus bus;                 /* over `messages` */
    struct kz_predictions_ops predictions_ops;
    struct kz_bus_ops bus_ops;
    struct kz_predictions *rows;
    struct kz_bus *messages;
    atomic_uint calls, injected;
    atomic_uint every;   /* one of so many calls fails; 0: none */
    atomic_bool no_news; /* nothing of it can be published */
    atomic_bool rivals;  /* who delivers `few` finds that somebody else has, to the same user */
    atomic_uint rival_writes;
    atomic_bool
            late; /* of the dead topic it is said by faults_answer_late() what became of a message */
    void (*late_done)(void *arg, enum kz_code code, const struct kz_err *err);
    _Atomic(void *) late_arg;
};

static struct faults *faults_of(struct kz_predictions *p)
{
    return KZ_CONTAINER_OF(p, struct faults, predictions);
}

static bool faults_strike(struct faults *f)
{
    unsigned every = atomic_load(&f->every);
    uint64_t call = atomic_fetch_add(&f->calls, 1);

    if (!every || kz_hash_mix(call, 7) % every)
        return false;
    atomic_fetch_add(&f->injected, 1);
    return true;
}

static enum kz_code faults_away(struct kz_err *err)
{
    return kz_fail(err, KZ_UNAVAILABLE, "injected");
}

static enum kz_code faults_read(struct kz_predictions *p, uint64_t owner,
        const struct kz_predictions_read *what, struct kz_user_row *ret_row, struct kz_err *err)
{
    struct faults *f = faults_of(p);

    if (faults_strike(f))
        return faults_away(err);
    return f->rows->ops->read(f->rows, owner, what, ret_row, err);
}

static bool faults_delivers_few(const struct kz_entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct kz_record *record = (const void *)entries[i].record.ptr;
        const struct kz_decision_body *body = (const void *)(record + 1);

        if (entries[i].type == KZ_RECORD_DECISION && body->decision == KZ_DECISION_DELIVER &&
                body->action == kz_name_hash(KZ_STR("few")))
            return true;
    }
    return false;
}

/* The state that the writer comes to, but by another request: what it counts is the same. */
static void faults_rival(
        struct faults *f, uint64_t owner, struct kz_str expected, struct kz_str state)
{
    KZ_AUTO(kz_views_freep) struct kz_views *views = kz_views_new_small();
    struct kz_rowstate row = {0};
    struct kz_rowstate_encode what = {.views = views, .before = &row};
    struct kz_buf theirs = {0};
    struct kz_err err;

    assert_int_equal(kz_rowstate_decode(state, &row, &err), KZ_OK);
    assert_int_equal(
            kz_rowstate_apply(views, owner, row.key, &row, NULL, NULL, 0, NULL, &what.user, &err),
            KZ_OK);
    kz_rowstate_encode(&what, &theirs);
    if (f->rows->ops->write(f->rows, owner, expected, kz_buf_view(&theirs), NULL, 0, &err) == KZ_OK)
        atomic_fetch_add(&f->rival_writes, 1);
    kz_buf_done(&theirs);
    kz_rowstate_done(&row);
}

static enum kz_code faults_write(struct kz_predictions *p, uint64_t owner, struct kz_str expected,
        struct kz_str state, const struct kz_entry *entries, size_t entry_count, struct kz_err *err)
{
    struct faults *f = faults_of(p);

    if (atomic_load(&f->rivals) && faults_delivers_few(entries, entry_count))
        faults_rival(f, owner, expected, state);
    if (faults_strike(f))
        return kz_fail(err, KZ_CONFLICT, "injected");
    if (faults_strike(f))
        return faults_away(err);
    KZ_TRY(f->rows->ops->write(f->rows, owner, expected, state, entries, entry_count, err));
    return faults_strike(f) ? faults_away(err) : KZ_OK; /* done, and the answer lost */
}

static enum kz_code faults_reserve(struct kz_predictions *p, uint64_t action, uint64_t id,
        int64_t at_ms, int64_t since_ms, uint32_t max, bool *ret_held, struct kz_err *err)
{
    struct faults *f = faults_of(p);

    if (faults_strike(f))
        return faults_away(err);
    KZ_TRY(f->rows->ops->reserve(f->rows, action, id, at_ms, since_ms, max, ret_held, err));
    return faults_strike(f) ? faults_away(err) : KZ_OK;
}

static enum kz_code faults_release(
        struct kz_predictions *p, uint64_t action, uint64_t id, struct kz_err *err)
{
    return faults_of(p)->rows->ops->release(faults_of(p)->rows, action, id, err);
}

static enum kz_code faults_word(
        struct kz_predictions *p, const char *name, struct kz_buf *out, struct kz_err *err)
{
    return faults_of(p)->rows->ops->word(faults_of(p)->rows, name, out, err);
}

static struct faults *faults_of_bus(struct kz_bus *bus)
{
    return KZ_CONTAINER_OF(bus, struct faults, bus);
}

static enum kz_code faults_publish(struct kz_bus *bus, enum kz_topic topic,
        const struct kz_bus_message *messages, size_t count,
        void (*done)(void *arg, enum kz_code code, const struct kz_err *err), void *arg,
        struct kz_err *err)
{
    struct faults *f = faults_of_bus(bus);

    if (faults_strike(f) || (topic == KZ_TOPIC_NEWS && atomic_load(&f->no_news)))
        return kz_fail(err, KZ_OVERLOADED, "injected");
    if (topic == KZ_TOPIC_DEAD && atomic_load(&f->late)) {
        f->late_done = done;
        atomic_store(&f->late_arg, arg);
        return KZ_OK;
    }
    return f->messages->ops->publish(f->messages, topic, messages, count, done, arg, err);
}

/* A thread's. */
static inline void faults_answer_late(void *faults)
{
    struct faults *f = faults;

    usleep(300000);
    f->late_done(atomic_load(&f->late_arg), KZ_OK, NULL);
}

static enum kz_code faults_open_source(struct kz_bus *bus,
        const struct kz_bus_pull_options *options, struct kz_bus_source **ret_source,
        struct kz_err *err)
{
    struct faults *f = faults_of_bus(bus);

    return f->messages->ops->open_source(f->messages, options, ret_source, err);
}

/* Puts itself before the rig's backends; a source's own ops are the real bus's. */
static void faults_init(struct faults *f, struct rig *rig)
{
    f->rows = rig->predictions;
    f->messages = rig->bus;
    f->predictions_ops = *rig->predictions->ops;
    f->predictions_ops.read = faults_read;
    f->predictions_ops.write = faults_write;
    f->predictions_ops.reserve = faults_reserve;
    f->predictions_ops.release = faults_release;
    f->predictions_ops.word = faults_word;
    f->predictions.ops = &f->predictions_ops;
    f->bus_ops = *rig->bus->ops;
    f->bus_ops.publish = faults_publish;
    f->bus_ops.open_source = faults_open_source;
    f->bus.ops = &f->bus_ops;
}
