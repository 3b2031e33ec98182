#include "history/carry.h"

#include "history/views_int.h"

/* Whether nothing would be another without the slot, which is as bytes. */
static bool is_over(const struct kz_slot *slot, const struct kz_keep *keep)
{
    const struct kz_trigger_state *trigger = &slot->trigger;

    if (keep->without & 1u << slot->kind)
        return true;
    switch ((enum kz_slot_kind)slot->kind) {
    case KZ_SLOT_TRIGGER:
        return !trigger->pending && trigger->window_due_ms < keep->since_ms &&
               trigger->delay_due_ms < keep->since_ms && trigger->rearm_due_ms < keep->since_ms;
    case KZ_SLOT_TIMES:
        return slot->times.at_ms[0] < keep->since_ms; /* the newest of them */
    case KZ_SLOT_PREDICTION:
        return slot->prediction.result < keep->below &&
               slot->prediction.expires_at_ms <= keep->now_ms;
    case KZ_SLOT_FREE:
    case KZ_SLOT_REQUEST:
    case KZ_SLOT_ACTION:
    case KZ_SLOT_DELIVERY:
    case KZ_SLOT_SOURCE:
    case KZ_SLOT_TARGET:
    case KZ_SLOT_KIND_END:
        break;
    }
    return false;
}

/* The slot as bytes; of times, those from the `index`th newest on. */
static struct kz_slot as_bytes(
        const struct kz_views *views, const struct kz_slot *slot, size_t index)
{
    struct kz_slot bytes = *slot;

    bytes.next = 0;
    if (slot->kind == KZ_SLOT_TIMES)
        bytes.times = kz_views_times_encode(views, slot, index);
    return bytes;
}

size_t kz_views_put_slots(const struct kz_views *views, uint32_t user,
        bool (*want)(const void *arg, const struct kz_slot *slot), const void *arg,
        struct kz_buf *out)
{
    size_t count = 0;

    for (uint32_t at = kz_views_at(views, user)->slots; at;) {
        const struct kz_slot *slot = kz_views_slot_at(views, at);
        size_t done = 0, all = slot->kind == KZ_SLOT_TIMES ? slot->ring.count : 1;

        at = slot->next;
        for (; done < all; done += KZ_TIMES_PER_SLOT) {
            struct kz_slot bytes = as_bytes(views, slot, done);

            if (!want(arg, &bytes))
                continue;
            kz_buf_put(out, &bytes, sizeof(bytes));
            count++;
        }
    }
    return count;
}

static bool is_kept(const void *arg, const struct kz_slot *slot)
{
    const struct kz_keep *keep = arg;

    return !keep || !is_over(slot, keep);
}

void kz_views_carry(
        const struct kz_views *views, uint32_t user, const struct kz_keep *keep, struct kz_buf *out)
{
    const struct kz_user *u = kz_views_user(views, user);
    const struct kz_link_node *node = kz_views_link_of(views, user);
    uint32_t to = node ? node->to : 0;
    struct kz_user_key key = kz_views_key(views, user);
    struct kz_user_key to_key = to ? kz_views_key(views, to) : (struct kz_user_key){0};
    struct kz_buf slots = {0};
    size_t slot_count = kz_views_put_slots(views, user, is_kept, keep, &slots);
    struct kz_carry_body body = {
            .version = KZ_CARRY_VERSION,
            .key_kind = key.kind,
            .slot_count = (uint32_t)slot_count,
            .events_head = u->events_head,
            .notes_head = u->notes_head,
            .first_seen_ms = u->first_seen_ms,
            .last_ts_ms = u->last_ts_ms,
            .last_event_at_ms = u->last_event_at_ms,
            .session = u->session,
            .session_ts_ms = u->session_ts_ms,
            .event_count = u->event_count,
            .to_kind = to_key.kind,
            .to_owner = to ? kz_views_at(views, to)->owner : 0,
            .merged = node ? node->merged : 0,
    };
    struct kz_body_writer w = kz_body_begin(out, &body, sizeof(body));

    kz_body_span(&w, offsetof(struct kz_carry_body, key_id), key.id);
    kz_body_span(&w, offsetof(struct kz_carry_body, to_id), to_key.id);
    kz_body_span(&w, offsetof(struct kz_carry_body, slots), kz_buf_view(&slots));
    kz_buf_done(&slots);
}

void kz_views_carry_globals(const struct kz_views *views, kz_lsn below, struct kz_buf *out)
{
    struct kz_views kept = *views; /* borrows everything */
    struct kz_dead_letters *letters = &kept.dead_letters;

    while (letters->count && letters->items[letters->first].lsn < below) {
        letters->first++;
        letters->count--;
    }
    kz_views_globals_encode(&kept, out);
}

bool kz_views_can_forget(const struct kz_views *views, uint32_t user, const struct kz_keep *keep)
{
    const struct kz_user *u = kz_views_user(views, user);

    if (u->events_head >= keep->below || u->notes_head >= keep->below ||
            kz_views_link_of(views, user))
        return false;
    for (uint32_t at = u->slots; at;) {
        struct kz_slot slot = as_bytes(views, kz_views_slot_at(views, at), 0);

        at = kz_views_slot_at(views, at)->next;
        if (slot.kind != KZ_SLOT_ACTION && !is_over(&slot, keep))
            return false;
    }
    return true;
}

void kz_views_forget(const struct kz_views *views, uint32_t user, struct kz_buf *out)
{
    struct kz_user_key key = kz_views_key(views, user);
    struct kz_carry_body body = {
            .version = KZ_CARRY_VERSION, .flags = KZ_CARRY_GONE, .key_kind = key.kind};
    struct kz_body_writer w = kz_body_begin(out, &body, sizeof(body));

    kz_body_span(&w, offsetof(struct kz_carry_body, key_id), key.id);
}

/* ---- applying -------------------------------------------------------------------------------- */

/* `body` is a copy: bytes of a store may lie anywhere. */
static enum kz_code check(
        uint64_t owner, struct kz_str bytes, struct kz_carry_body *ret_body, struct kz_err *err)
{
    struct kz_carry_body body;
    struct kz_str slots;

    if (bytes.size < sizeof(body))
        return kz_fail(err, KZ_CORRUPT, "the state of owner %016llx has only %zu bytes",
                (unsigned long long)owner, bytes.size);
    memcpy(&body, bytes.ptr, sizeof(body));
    if (!body.version || body.version > KZ_CARRY_VERSION)
        return kz_fail(err, KZ_UNSUPPORTED, "the state of owner %016llx has version %u, not %d",
                (unsigned long long)owner, body.version, KZ_CARRY_VERSION);
    slots = kz_span_str(bytes, body.slots);
    if (slots.size != body.slot_count * sizeof(struct kz_slot) ||
            kz_span_str(bytes, body.key_id).size != body.key_id.size ||
            kz_span_str(bytes, body.to_id).size != body.to_id.size)
        return kz_fail(err, KZ_CORRUPT, "the state of owner %016llx reaches beyond its end",
                (unsigned long long)owner);
    for (uint32_t i = 0; i < body.slot_count; i++) {
        struct kz_slot slot;

        memcpy(&slot, slots.ptr + i * sizeof(slot), sizeof(slot));
        if (slot.kind == KZ_SLOT_FREE || slot.kind >= KZ_SLOT_KIND_END)
            return kz_fail(err, KZ_CORRUPT,
                    "the state of owner %016llx has a slot of unknown kind %u",
                    (unsigned long long)owner, slot.kind);
    }
    *ret_body = body;
    return KZ_OK;
}

/* Live, a CARRY says what is known already. Then nothing is touched, so that pointers stay good. */
static bool says_nothing_new(const struct kz_views *views, uint32_t user, struct kz_str bytes)
{
    struct kz_buf now = {0};
    bool same;

    kz_views_carry(views, user, NULL, &now);
    same = kz_str_eq(kz_buf_view(&now), bytes);
    kz_buf_done(&now);
    return same;
}

static void put_user(struct kz_views *views, uint32_t user, const struct kz_carry_body *body,
        struct kz_str slots)
{
    struct kz_user *u = kz_views_at(views, user);

    kz_views_slots_free(views, user);
    u->events_head = body->events_head;
    u->first_seen_ms = body->first_seen_ms;
    u->last_ts_ms = body->last_ts_ms;
    u->last_event_at_ms = body->last_event_at_ms;
    u->session = body->session;
    u->session_ts_ms = body->session_ts_ms;
    u->event_count = body->event_count;
    for (uint32_t i = body->slot_count; i > 0; i--) { /* added in front: from the last */
        struct kz_slot from, *slot;
        uint32_t next;

        memcpy(&from, slots.ptr + (i - 1) * sizeof(from), sizeof(from));
        if (from.kind == KZ_SLOT_TIMES) {
            kz_views_times_decode(views, user, &from);
            continue;
        }
        slot = kz_views_slot_add(views, user, (enum kz_slot_kind)from.kind, from.name);
        next = slot->next;
        *slot = from;
        slot->next = next;
    }
}

static bool nobody_goes(const void *arg, uint64_t owner)
{
    (void)arg;
    (void)owner;
    return false;
}

static void forget(struct kz_views *views, uint64_t owner)
{
    uint32_t user = kz_views_find_owner(views, owner);

    if (!user)
        return;
    kz_views_slots_free(views, user);
    kz_views_link_clear(views, user, nobody_goes, NULL);
    kz_views_remove_user(views, user);
}

/* `to`: whom the user is linked to, 0 nobody. */
static enum kz_code put_linked(struct kz_views *views, uint32_t user, uint32_t to,
        const struct kz_carry_body *body, struct kz_str bytes, struct kz_err *err)
{
    if (to) {
        KZ_TRY(kz_views_link_set(views, user, to, err));
        kz_views_link_set_merged(views, user, body->merged);
    }
    put_user(views, user, body, kz_span_str(bytes, body->slots));
    return KZ_OK;
}

enum kz_code kz_views_restore(
        struct kz_views *views, uint64_t owner, struct kz_str carry, struct kz_err *err)
{
    struct kz_carry_body body;
    uint32_t user;

    KZ_TRY(check(owner, carry, &body, err));
    if (!owner || kz_views_find_owner(views, owner) || body.flags ||
            (body.to_owner && !kz_views_find_owner(views, body.to_owner)))
        return kz_fail(err, KZ_CORRUPT, "the state of owner %016llx cannot be put here",
                (unsigned long long)owner);
    KZ_TRY(kz_views_ensure_owner(views, owner,
            (struct kz_user_key){body.key_kind, kz_span_str(carry, body.key_id)}, &user, err));
    KZ_TRY(put_linked(views, user, kz_views_find_owner(views, body.to_owner), &body, carry, err));
    kz_views_at(views, user)->notes_head = body.notes_head;
    return KZ_OK;
}

enum kz_code kz_views_apply_carry(
        struct kz_views *views, kz_lsn lsn, const struct kz_record *record, struct kz_err *err)
{
    struct kz_str bytes = kz_record_body(record);
    struct kz_carry_body body;
    struct kz_user_key key, to_key;
    uint32_t user = 0, to = 0;

    if (!record->owner)
        return kz_views_globals_decode(views, bytes, err);
    KZ_TRY(check(record->owner, bytes, &body, err));
    if (body.flags & KZ_CARRY_GONE) {
        forget(views, record->owner);
        return KZ_OK;
    }
    key = (struct kz_user_key){body.key_kind, kz_span_str(bytes, body.key_id)};
    KZ_TRY(kz_views_ensure_owner(views, record->owner, key, &user, err));
    if (!says_nothing_new(views, user, bytes)) {
        to_key = (struct kz_user_key){body.to_kind, kz_span_str(bytes, body.to_id)};
        if (body.to_owner)
            KZ_TRY(kz_views_ensure_owner(views, body.to_owner, to_key, &to, err));
        KZ_TRY(put_linked(views, user, to, &body, bytes, err));
    }
    kz_views_at(views, user)->notes_head = lsn;
    return KZ_OK;
}
