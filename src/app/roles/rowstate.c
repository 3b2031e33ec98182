#include "app/roles/rowstate.h"

#include <stdio.h>

#include "codec/crc32c.h"
#include "history/carry.h"
#include "sys/random.h"

enum { ROW_MAGIC = 0x77727a6b /* "kzrw" */ };

/* Followed by the key's id, slots, absorbed owners and records, each padded to a multiple of 8. */
struct head {
    uint32_t magic;
    uint16_t version;
    uint8_t key_kind;
    uint8_t zero;
    uint32_t size;   /* of everything */
    uint32_t crc;    /* CRC-32C of everything, itself 0 */
    uint64_t change; /* random: no two writers come to the same bytes by chance */
    uint64_t merged_into;
    uint32_t id_size;
    uint32_t slot_count;
    uint32_t absorbed_count;
    uint32_t record_bytes;
};
_Static_assert(sizeof(struct head) == 48, "stored");

/* ---- reading ------------------------------------------------------------------------------------ */

static bool is_kept(unsigned kind)
{
    return kind == KZ_SLOT_TIMES || kind == KZ_SLOT_PREDICTION || kind == KZ_SLOT_REQUEST ||
           kind == KZ_SLOT_ACTION || kind == KZ_SLOT_DELIVERY;
}

static enum kz_code check_head(const struct head *head, struct kz_str bytes, struct kz_err *err)
{
    struct head copy = *head;
    uint64_t size;

    if (head->magic != ROW_MAGIC)
        return kz_fail(err, KZ_CORRUPT, "a state of %zu bytes is no user's row", bytes.size);
    if (head->version != KZ_ROWSTATE_VERSION)
        return kz_fail(err, KZ_UNSUPPORTED, "a user's row has version %u, this build reads %d",
                head->version, KZ_ROWSTATE_VERSION);
    size = sizeof(*head) + KZ_ALIGN8((uint64_t)head->id_size) +
           (uint64_t)head->slot_count * sizeof(struct kz_slot) +
           (uint64_t)head->absorbed_count * sizeof(uint64_t) + head->record_bytes;
    if (head->size != bytes.size || size != bytes.size)
        return kz_fail(err, KZ_CORRUPT, "a user's row has %zu bytes and says %llu", bytes.size,
                (unsigned long long)size);
    copy.crc = 0;
    if (kz_crc32c(kz_crc32c(0, &copy, sizeof(copy)), bytes.ptr + sizeof(copy),
                bytes.size - sizeof(copy)) != head->crc)
        return kz_fail(err, KZ_CORRUPT, "a user's row fails its checksum");
    if ((head->key_kind != 'u' && head->key_kind != 'a') || !head->id_size ||
            head->id_size > KZ_ID_SIZE_MAX || head->record_bytes % 8 || head->zero)
        return kz_fail(err, KZ_CORRUPT, "a user's row has a key that cannot be");
    return KZ_OK;
}

static enum kz_code check_slots(const struct kz_rowstate *row, struct kz_err *err)
{
    for (size_t i = 0; i < row->slot_count; i++)
        if (!is_kept(row->slots[i].kind) || row->slots[i].next)
            return kz_fail(
                    err, KZ_CORRUPT, "a user's row has a slot of kind %u", row->slots[i].kind);
    return KZ_OK;
}

static enum kz_code check_records(struct kz_str bytes, struct kz_err *err)
{
    for (size_t at = 0; at < bytes.size;) {
        const struct kz_record *record = (const void *)(bytes.ptr + at);
        size_t left = bytes.size - at;

        if (left < sizeof(*record) || record->size < sizeof(*record) || record->size > left)
            return kz_fail(err, KZ_CORRUPT, "a user's row has a record beyond its end");
        if (record->type != KZ_RECORD_RESULT && record->type != KZ_RECORD_DECISION)
            return kz_fail(
                    err, KZ_CORRUPT, "a user's row holds a %s", kz_record_name(record->type));
        KZ_TRY(kz_record_check(record, err));
        at += KZ_ALIGN8((size_t)record->size);
    }
    return KZ_OK;
}

enum kz_code kz_rowstate_decode(
        struct kz_str bytes, struct kz_rowstate *ret_row, struct kz_err *err)
{
    struct kz_rowstate row = {.hold = ret_row->hold};
    const struct head *head;
    const char *at;

    kz_buf_clear(&row.hold);
    if (!bytes.size) {
        *ret_row = row;
        return KZ_OK;
    }
    if (bytes.size < sizeof(*head))
        return kz_fail(err, KZ_CORRUPT, "a state of %zu bytes is no user's row", bytes.size);
    kz_buf_str(&row.hold, bytes);
    ret_row->hold = row.hold; /* it may have moved, whatever follows */
    head = (const void *)row.hold.data;
    KZ_TRY(check_head(head, kz_buf_view(&row.hold), err));
    at = row.hold.data + sizeof(*head);
    row.there = true;
    row.merged_into = head->merged_into;
    row.key = (struct kz_user_key){(char)head->key_kind, kz_str_n(at, head->id_size)};
    at += KZ_ALIGN8((size_t)head->id_size);
    row.slots = (const void *)at;
    row.slot_count = head->slot_count;
    at += head->slot_count * sizeof(struct kz_slot);
    row.absorbed = (const void *)at;
    row.absorbed_count = head->absorbed_count;
    at += head->absorbed_count * sizeof(uint64_t);
    row.records = kz_str_n(at, head->record_bytes);
    KZ_TRY(check_slots(&row, err));
    KZ_TRY(check_records(row.records, err));
    *ret_row = row;
    return KZ_OK;
}

void kz_rowstate_done(struct kz_rowstate *row)
{
    kz_buf_done(&row->hold);
    *row = (struct kz_rowstate){0};
}

const struct kz_record *kz_rowstate_record(const struct kz_rowstate *row, uint64_t seq)
{
    for (size_t at = 0; at < row->records.size;) {
        const struct kz_record *record = (const void *)(row->records.ptr + at);

        if (record->seq == seq)
            return record;
        at += KZ_ALIGN8((size_t)record->size);
    }
    return NULL;
}

bool kz_rowstate_has_absorbed(const struct kz_rowstate *row, uint64_t owner)
{
    for (size_t i = 0; i < row->absorbed_count; i++)
        if (row->absorbed[i] == owner)
            return true;
    return false;
}

/* ---- writing ------------------------------------------------------------------------------------ */

static void pad(struct kz_buf *out, size_t start)
{
    static const char zeros[8];
    size_t over = (out->size - start) % 8;

    if (over)
        kz_buf_put(out, zeros, 8 - over);
}

static size_t begin(struct kz_buf *out, struct kz_user_key key)
{
    struct head head = {.magic = ROW_MAGIC,
            .version = KZ_ROWSTATE_VERSION,
            .key_kind = (uint8_t)key.kind,
            .id_size = (uint32_t)key.id.size};
    size_t start = out->size;

    kz_random_bytes(&head.change, sizeof(head.change));
    kz_buf_put(out, &head, sizeof(head));
    kz_buf_str(out, key.id);
    pad(out, start);
    return start;
}

static void end(struct kz_buf *out, size_t start, const struct head *counts)
{
    struct head head;

    memcpy(&head, out->data + start, sizeof(head));
    head.merged_into = counts->merged_into;
    head.slot_count = counts->slot_count;
    head.absorbed_count = counts->absorbed_count;
    head.record_bytes = counts->record_bytes;
    head.size = (uint32_t)(out->size - start);
    memcpy(out->data + start, &head, sizeof(head));
    head.crc = kz_crc32c(0, out->data + start, head.size);
    memcpy(out->data + start, &head, sizeof(head));
}

void kz_rowstate_encode_frozen(const struct kz_rowstate *row, uint64_t merged_into,
        struct kz_user_key key, struct kz_buf *out)
{
    size_t start = begin(out, key);

    if (row->slot_count)
        kz_buf_put(out, row->slots, row->slot_count * sizeof(*row->slots));
    if (row->absorbed_count)
        kz_buf_put(out, row->absorbed, row->absorbed_count * sizeof(*row->absorbed));
    kz_buf_str(out, row->records);
    end(out, start,
            &(struct head){.merged_into = merged_into,
                    .slot_count = (uint32_t)row->slot_count,
                    .absorbed_count = (uint32_t)row->absorbed_count,
                    .record_bytes = (uint32_t)row->records.size});
}

/* What was given to a topic is done when its request is. */
static bool is_over(const struct kz_slot *slot, int64_t now_ms)
{
    if (slot->kind != KZ_SLOT_DELIVERY || slot->delivery.kind == KZ_DELIVER_WEBHOOK)
        return false;
    return slot->delivery.kind == KZ_DELIVER_PUBSUB || slot->delivery.expires_at_ms <= now_ms;
}

static const struct kz_record *find(const struct kz_rowstate_encode *what, uint64_t seq)
{
    const struct kz_record *record = what->record ? what->record(what->arg, seq) : NULL;

    return record || !what->before ? record : kz_rowstate_record(what->before, seq);
}

static bool is_wanted(const void *arg, const struct kz_slot *slot)
{
    const struct kz_rowstate_encode *what = arg;

    return is_kept(slot->kind) && !is_over(slot, what->now_ms);
}

/* The slots, and into `seqs` what they lean on. */
static uint32_t put_slots(
        const struct kz_rowstate_encode *what, struct kz_buf *out, struct kz_buf *seqs)
{
    size_t start = out->size;
    size_t count = kz_views_put_slots(what->views, what->user, is_wanted, what, out);

    for (size_t i = 0; i < count; i++) {
        struct kz_slot slot;

        memcpy(&slot, out->data + start + i * sizeof(slot), sizeof(slot));
        if (slot.kind == KZ_SLOT_PREDICTION)
            kz_buf_u64(seqs, slot.prediction.result);
        else if (slot.kind == KZ_SLOT_DELIVERY)
            kz_buf_u64(seqs, slot.delivery.decision_lsn);
    }
    return (uint32_t)count;
}

void kz_rowstate_encode(const struct kz_rowstate_encode *what, struct kz_buf *out)
{
    size_t start = begin(out, kz_views_key(what->views, what->user)), records;
    size_t before = what->before ? what->before->absorbed_count : 0;
    struct kz_buf seqs = {0};
    struct head counts = {
            .slot_count = put_slots(what, out, &seqs),
            .absorbed_count = (uint32_t)(before + what->absorbed_count),
    };

    if (before)
        kz_buf_put(out, what->before->absorbed, before * sizeof(uint64_t));
    if (what->absorbed_count)
        kz_buf_put(out, what->absorbed, what->absorbed_count * sizeof(uint64_t));
    records = out->size;
    for (size_t i = 0; i < seqs.size; i += sizeof(uint64_t)) {
        uint64_t seq;
        const struct kz_record *record;

        memcpy(&seq, seqs.data + i, sizeof(seq));
        record = find(what, seq);
        if (record) {
            kz_buf_put(out, record, record->size);
            pad(out, start);
        }
    }
    counts.record_bytes = (uint32_t)(out->size - records);
    end(out, start, &counts);
    kz_buf_done(&seqs);
}

/* ---- into views --------------------------------------------------------------------------------- */

/* A CARRY body of the row. A request may be about an id that is the user's by now. */
static void put_carry(uint64_t owner, struct kz_user_key key, const struct kz_rowstate *row,
        const struct kz_request_message *request, struct kz_buf *out)
{
    const struct kz_request_body *asked =
            request ? (const void *)kz_record_body(request->record).ptr : NULL;
    bool own = request && request->sources[0].owner == owner;
    size_t sources = request ? request->source_count : 0;
    struct kz_carry_body body = {
            .version = KZ_CARRY_VERSION,
            .key_kind = key.kind,
            .slot_count = (uint32_t)(row->slot_count + sources - own),
            .events_head = own ? request->sources[0].head : 0,
            .first_seen_ms = asked ? asked->first_seen_ms : 0,
            .session = asked ? asked->session : 0,
    };
    struct kz_body_writer w = kz_body_begin(out, &body, sizeof(body));
    struct kz_buf slots = {0};

    if (row->slot_count)
        kz_buf_put(&slots, row->slots, row->slot_count * sizeof(*row->slots));
    for (size_t i = own; i < sources; i++) {
        struct kz_slot slot = {.kind = KZ_SLOT_SOURCE,
                .source = {.owner = request->sources[i].owner,
                        .events_head = request->sources[i].head}};

        kz_buf_put(&slots, &slot, sizeof(slot));
    }
    kz_body_span(&w, offsetof(struct kz_carry_body, key_id), key.id);
    kz_body_span(&w, offsetof(struct kz_carry_body, to_id), KZ_STR_NULL);
    kz_body_span(&w, offsetof(struct kz_carry_body, slots), kz_buf_view(&slots));
    kz_buf_done(&slots);
}

static enum kz_code apply(struct kz_views *views, enum kz_record_type type, uint64_t owner,
        uint64_t seq, struct kz_str body, struct kz_err *err)
{
    struct kz_record head = {
            .size = (uint32_t)(sizeof(head) + body.size), .type = type, .seq = seq, .owner = owner};
    struct kz_buf record = {0};
    enum kz_code rc;

    kz_buf_put(&record, &head, sizeof(head));
    kz_buf_str(&record, body);
    rc = kz_views_apply(views, seq, (const void *)record.data, err);
    kz_buf_done(&record);
    return rc;
}

static enum kz_code apply_row(struct kz_views *views, uint64_t owner, struct kz_user_key key,
        uint64_t seq, const struct kz_rowstate *row, const struct kz_request_message *request,
        struct kz_err *err)
{
    struct kz_buf body = {0};
    enum kz_code rc;

    put_carry(owner, key, row, request, &body);
    rc = apply(views, KZ_RECORD_CARRY, owner, seq, kz_buf_view(&body), err);
    kz_buf_done(&body);
    return rc;
}

/* As when the id was linked: what is known of it becomes the user's. What the id was called does not
 * matter. */
static enum kz_code apply_merge(struct kz_views *views, uint64_t owner, struct kz_user_key key,
        uint64_t from_owner, uint64_t seq, const struct kz_rowstate *from, struct kz_err *err)
{
    struct kz_link_body link = {
            .from_owner = from_owner, .kind = KZ_LINK_MERGE, .from_kind = 'a', .to_kind = key.kind};
    struct kz_user_key from_key = {'a', KZ_STR_NULL};
    char name[32];
    struct kz_buf body = {0};
    struct kz_body_writer w;
    enum kz_code rc;

    snprintf(name, sizeof(name), "owner %016llx", (unsigned long long)from_owner);
    from_key.id = kz_str(name);
    KZ_TRY(apply_row(views, from_owner, from_key, seq, from, NULL, err));
    w = kz_body_begin(&body, &link, sizeof(link));
    kz_body_span(&w, offsetof(struct kz_link_body, from_id), from_key.id);
    kz_body_span(&w, offsetof(struct kz_link_body, to_id), key.id);
    rc = apply(views, KZ_RECORD_LINK, owner, seq + 1, kz_buf_view(&body), err);
    kz_buf_done(&body);
    return rc;
}

static bool is_kept_slot(const void *arg, const struct kz_slot *slot)
{
    (void)arg;
    return is_kept(slot->kind);
}

void kz_rowstate_slots(const struct kz_views *views, uint32_t user, struct kz_buf *out)
{
    (void)kz_views_put_slots(views, user, is_kept_slot, NULL, out);
}

/* The runs of events are the request's to say, so they come last. */
static enum kz_code apply_merged(struct kz_views *views, uint64_t owner, struct kz_user_key key,
        const struct kz_rowstate *const *also, const uint64_t *also_owners, size_t also_count,
        const struct kz_request_message *request, struct kz_err *err)
{
    struct kz_rowstate merged = {0};
    struct kz_buf slots = {0};
    uint64_t seq = 2;
    enum kz_code rc;

    for (size_t i = 0; i < also_count; i++) {
        if (!also[i]->there)
            continue;
        KZ_TRY(apply_merge(views, owner, key, also_owners[i], seq, also[i], err));
        seq += 2;
    }
    kz_rowstate_slots(views, kz_views_find_owner(views, owner), &slots);
    merged.slots = (const void *)slots.data;
    merged.slot_count = slots.size / sizeof(struct kz_slot);
    rc = apply_row(views, owner, key, seq, &merged, request, err);
    kz_buf_done(&slots);
    return rc;
}

enum kz_code kz_rowstate_apply(struct kz_views *views, uint64_t owner, struct kz_user_key key,
        const struct kz_rowstate *row, const struct kz_rowstate *const *also,
        const uint64_t *also_owners, size_t also_count, const struct kz_request_message *request,
        uint32_t *ret_user, struct kz_err *err)
{
    KZ_TRY(apply_row(views, owner, key, 1, row, also_count ? NULL : request, err));
    if (also_count)
        KZ_TRY(apply_merged(views, owner, key, also, also_owners, also_count, request, err));
    *ret_user = kz_views_find_owner(views, owner);
    return *ret_user ? KZ_OK : kz_fail(err, KZ_CORRUPT, "a user's row does not make a user");
}
