#include "app/roles/userstate.h"

#include "codec/crc32c.h"

enum { STATE_MAGIC = 0x73757a6b /* "kzus" */, STATE_VERSION = 1, STATE_SIZE_MAX = 8 << 20 };

/* Followed by the linked owners, then the CARRY body. */
struct state_head {
    uint32_t magic;
    uint16_t version;
    uint16_t zero;
    uint32_t size; /* of everything */
    uint32_t crc;  /* CRC-32C of everything, itself 0 */
    uint64_t owner;
    kz_lsn request;
    int64_t erased_at_ms;
    uint32_t linked_count;
    uint32_t zero2;
};
_Static_assert(sizeof(struct state_head) == 48, "in the store");

static enum kz_code check_head(struct kz_str bytes, struct state_head *ret, struct kz_err *err)
{
    struct state_head head;
    uint32_t crc;

    if (bytes.size < sizeof(head) || bytes.size > STATE_SIZE_MAX)
        return kz_fail(err, KZ_CORRUPT, "a user's state has %zu bytes", bytes.size);
    memcpy(&head, bytes.ptr, sizeof(head));
    if (head.magic != STATE_MAGIC || head.size != bytes.size)
        return kz_fail(err, KZ_CORRUPT, "%zu bytes are no user's state", bytes.size);
    if (head.version != STATE_VERSION)
        return kz_fail(err, KZ_UNSUPPORTED, "a user's state has version %u, this build reads %d",
                head.version, STATE_VERSION);
    crc = head.crc;
    head.crc = 0;
    if (kz_crc32c(kz_crc32c(0, &head, sizeof(head)), bytes.ptr + sizeof(head),
                bytes.size - sizeof(head)) != crc)
        return kz_fail(err, KZ_CORRUPT, "the state of owner %016llx fails its checksum",
                (unsigned long long)head.owner);
    if (!head.owner || head.linked_count > (bytes.size - sizeof(head)) / sizeof(uint64_t))
        return kz_fail(err, KZ_CORRUPT, "a user's state has no owner, or %u linked ids",
                head.linked_count);
    *ret = head;
    return KZ_OK;
}

static bool is_key(struct kz_user_key key)
{
    return (key.kind == 'u' || key.kind == 'a') && key.id.size && key.id.size <= KZ_ID_SIZE_MAX;
}

enum kz_code kz_user_state_decode(
        struct kz_str bytes, struct kz_user_state *ret_state, struct kz_err *err)
{
    struct kz_user_state state;
    struct kz_carry_body body;
    struct state_head head = {0};
    size_t linked;

    KZ_TRY(check_head(bytes, &head, err));
    linked = head.linked_count * sizeof(uint64_t);
    state = (struct kz_user_state){
            .owner = head.owner,
            .request = head.request,
            .erased_at_ms = head.erased_at_ms,
            .linked = kz_str_n(bytes.ptr + sizeof(head), linked),
            .carry = kz_str_n(
                    bytes.ptr + sizeof(head) + linked, bytes.size - sizeof(head) - linked),
    };
    if (state.carry.size < sizeof(body))
        return kz_fail(err, KZ_CORRUPT, "the state of owner %016llx is cut off",
                (unsigned long long)head.owner);
    memcpy(&body, state.carry.ptr, sizeof(body));
    state.key = (struct kz_user_key){body.key_kind, kz_span_str(state.carry, body.key_id)};
    state.to_owner = body.to_owner;
    state.merged = body.merged;
    if (!is_key(state.key) || body.to_owner == head.owner || body.merged == head.owner)
        return kz_fail(err, KZ_CORRUPT,
                "the state of owner %016llx has no key, or is linked to itself",
                (unsigned long long)head.owner);
    *ret_state = state;
    return KZ_OK;
}

enum kz_code kz_user_state_restore(
        struct kz_views *views, const struct kz_user_state *state, struct kz_err *err)
{
    return kz_views_restore(views, state->owner, state->carry, err);
}

void kz_user_state_encode(const struct kz_views *views, uint32_t user,
        const struct kz_user_state *extra, uint32_t without, struct kz_buf *out)
{
    struct kz_keep keep = {.now_ms = INT64_MIN, .since_ms = INT64_MIN, .without = without};
    size_t start = out->size;
    struct state_head head = {
            .magic = STATE_MAGIC,
            .version = STATE_VERSION,
            .owner = kz_views_user(views, user)->owner,
            .request = extra->request,
            .erased_at_ms = extra->erased_at_ms,
            .linked_count = (uint32_t)(extra->linked.size / sizeof(uint64_t)),
    };

    kz_buf_put(out, &head, sizeof(head));
    kz_buf_str(out, extra->linked);
    kz_views_carry(views, user, &keep, out);
    head.size = (uint32_t)(out->size - start);
    memcpy(out->data + start, &head, sizeof(head));
    head.crc = kz_crc32c(0, out->data + start, head.size);
    memcpy(out->data + start, &head, sizeof(head));
}

/* ---- tombstones --------------------------------------------------------------------------------
 * */

enum { STONE_VERSION = 1 };

void kz_stone_encode(const struct kz_stone *stone, struct kz_buf *out)
{
    kz_buf_u32(out, STONE_VERSION);
    kz_buf_u64(out, stone->erasure);
    kz_buf_i64(out, stone->at_ms);
    kz_buf_i64(out, stone->done_at_ms);
}

enum kz_code kz_stone_decode(struct kz_str bytes, struct kz_stone *ret_stone, struct kz_err *err)
{
    struct kz_cursor c = kz_cursor(bytes);
    uint32_t version = kz_cursor_u32(&c);
    struct kz_stone stone;

    stone.erasure = kz_cursor_u64(&c);
    stone.at_ms = kz_cursor_i64(&c);
    stone.done_at_ms = kz_cursor_i64(&c);
    if (c.failed || version != STONE_VERSION)
        return kz_fail(err, version > STONE_VERSION ? KZ_UNSUPPORTED : KZ_CORRUPT,
                "a tombstone of %zu bytes has version %u, this build reads %d", bytes.size, version,
                STONE_VERSION);
    *ret_stone = stone;
    return KZ_OK;
}
