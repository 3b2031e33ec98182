#include "log/kept.h"

enum {
    HAS_CLIENT_TS = 1,
    HAS_SHAPE = 2, /* columns_id and the like are not those of the event before */
    HAS_PROPS = 4, /* the event's own, or in place of columns of other definitions */
    VARINT_BYTES_MAX = 10,
    SHAPE_BYTES = 8,
    NUMBERS_BYTES_MAX = 6 * VARINT_BYTES_MAX + 1 + SHAPE_BYTES,
    LSN_ALIGN = 8, /* of records in a segment */
};

/* ---- numbers -------------------------------------------------------------------------------- */

/* LEB128. `to` has room for VARINT_BYTES_MAX. */
static char *put_varint(char *to, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *to++ = (char)(v | 0x80);
    *to++ = (char)v;
    return to;
}

static uint64_t get_varint(const char **at)
{
    uint64_t v = 0;
    unsigned shift = 0;
    uint8_t byte;

    do {
        byte = (uint8_t) * (*at)++;
        v |= (uint64_t)(byte & 0x7f) << shift;
        shift += 7;
    } while (byte & 0x80);
    return v;
}

/* a - b, small where they are near each other; any two numbers come back (it wraps). */
static char *put_difference(char *to, uint64_t a, uint64_t b)
{
    uint64_t d = a - b;

    return put_varint(to, d << 1 ^ (d >> 63 ? UINT64_MAX : 0));
}

static uint64_t get_sum(const char **at, uint64_t b)
{
    uint64_t v = get_varint(at);

    return b + (v >> 1 ^ (v & 1 ? UINT64_MAX : 0));
}

/* An address without the bits that are always 0, so that differences are short. */
static uint64_t pack_lsn(kz_lsn lsn)
{
    return (uint64_t)KZ_LSN_SEGMENT(lsn) << 29 | KZ_LSN_OFFSET(lsn) / LSN_ALIGN;
}

static kz_lsn unpack_lsn(uint64_t packed)
{
    return KZ_LSN(packed >> 29, (packed & ((UINT64_C(1) << 29) - 1)) * LSN_ALIGN);
}

/* ---- one event ------------------------------------------------------------------------------ */

/* An event as it is packed: of its strings those that are wanted. */
struct packed {
    uint16_t project;
    kz_lsn prev;
    struct kz_event event;
    struct kz_value columns[KZ_COLUMNS_MAX]; /* event.columns */
};

static bool has_columns(const struct kz_event_parts *parts, const struct kz_event *event)
{
    return parts->columns && event->columns_id == parts->columns_id;
}

/* Columns behind the last one that is wanted need no place. */
static unsigned columns_end(const struct kz_event_parts *parts)
{
    return parts->columns ? 64 - (unsigned)__builtin_clzll(parts->columns) : 0;
}

static void put_bytes(struct kz_buf *out, struct kz_str s)
{
    char *end = put_varint(kz_buf_extend(out, VARINT_BYTES_MAX), s.size);

    out->size = (size_t)(end - out->data);
    kz_buf_str(out, s);
}

static struct kz_str get_bytes(const char **at)
{
    size_t size = (size_t)get_varint(at);
    struct kz_str s = kz_str_n(*at, size);

    *at += size;
    return s;
}

static void put_value(struct kz_buf *out, struct kz_value value)
{
    char *end;

    kz_buf_char(out, (char)value.type);
    switch (value.type) {
    case KZ_TYPE_NULL:
        break;
    case KZ_TYPE_INT:
    case KZ_TYPE_BOOL:
        end = put_difference(kz_buf_extend(out, VARINT_BYTES_MAX), (uint64_t)value.integer, 0);
        out->size = (size_t)(end - out->data);
        break;
    case KZ_TYPE_FLOAT:
        kz_buf_f64(out, value.real);
        break;
    case KZ_TYPE_TEXT:
        put_bytes(out, value.text);
        break;
    }
}

static struct kz_value get_value(const char **at)
{
    struct kz_value value = {.type = (enum kz_type)(uint8_t) * (*at)++};

    switch (value.type) {
    case KZ_TYPE_NULL:
        break;
    case KZ_TYPE_INT:
    case KZ_TYPE_BOOL:
        value.integer = (int64_t)get_sum(at, 0);
        break;
    case KZ_TYPE_FLOAT:
        memcpy(&value.real, *at, sizeof(value.real));
        *at += sizeof(value.real);
        break;
    case KZ_TYPE_TEXT:
        value.text = get_bytes(at);
        break;
    }
    return value;
}

static void put_numbers(struct kz_buf *out, struct kz_kept_state *state, const struct packed *p)
{
    const struct kz_event *event = &p->event;
    struct kz_kept_state now = {
            .next = p->prev,
            .seq = event->seq,
            .at_ms = event->received_at_ms,
            .session = event->session,
            .columns_id = event->columns_id,
            .project = p->project,
            .flags = (uint8_t)event->flags,
            .identity = (uint8_t)event->identity,
    };
    bool shape = now.columns_id != state->columns_id || now.project != state->project ||
                 now.flags != state->flags || now.identity != state->identity;
    char *to = kz_buf_extend(out, NUMBERS_BYTES_MAX);

    *to++ = (char)((event->client_ts_ms ? HAS_CLIENT_TS : 0) | (shape ? HAS_SHAPE : 0) |
                   (event->props.size ? HAS_PROPS : 0));
    to = put_varint(to, p->prev ? pack_lsn(state->next) - pack_lsn(p->prev) : 0);
    to = put_difference(to, state->seq, now.seq);
    to = put_difference(to, (uint64_t)state->at_ms, (uint64_t)now.at_ms);
    to = put_difference(to, (uint64_t)now.at_ms, (uint64_t)event->ts_ms);
    if (event->client_ts_ms)
        to = put_difference(to, (uint64_t)event->ts_ms, (uint64_t)event->client_ts_ms);
    to = put_difference(to, state->session, now.session);
    if (shape) {
        memcpy(to, &now.columns_id, sizeof(now.columns_id));
        memcpy(to + 4, &now.project, sizeof(now.project));
        to[6] = (char)now.flags;
        to[7] = (char)now.identity;
        to += SHAPE_BYTES;
    }
    out->size = (size_t)(to - out->data);
    *state = now;
}

/* Also says whether there are props. */
static bool get_numbers(const char **at, struct kz_kept_state *state, struct packed *p)
{
    uint8_t has = (uint8_t) * (*at)++;
    uint64_t back = get_varint(at);
    struct kz_event *event = &p->event;

    state->next = back ? unpack_lsn(pack_lsn(state->next) - back) : 0;
    state->seq -= get_sum(at, 0);
    state->at_ms = (int64_t)((uint64_t)state->at_ms - get_sum(at, 0));
    event->ts_ms = (int64_t)((uint64_t)state->at_ms - get_sum(at, 0));
    event->client_ts_ms = has & HAS_CLIENT_TS ? (int64_t)((uint64_t)event->ts_ms - get_sum(at, 0))
                                              : 0;
    state->session -= get_sum(at, 0);
    if (has & HAS_SHAPE) {
        memcpy(&state->columns_id, *at, sizeof(state->columns_id));
        memcpy(&state->project, *at + 4, sizeof(state->project));
        state->flags = (uint8_t)(*at)[6];
        state->identity = (uint8_t)(*at)[7];
        *at += SHAPE_BYTES;
    }
    p->project = state->project;
    p->prev = state->next;
    event->seq = state->seq;
    event->received_at_ms = state->at_ms;
    event->session = state->session;
    event->columns_id = state->columns_id;
    event->flags = state->flags;
    event->identity = (enum kz_identity_op)state->identity;
    return has & HAS_PROPS;
}

static void put_event(struct kz_buf *out, const struct kz_event_parts *parts,
        struct kz_kept_state *state, const struct packed *p)
{
    const struct kz_event *event = &p->event;

    put_numbers(out, state, p);
    if (parts->event_id)
        put_bytes(out, event->event_id);
    if (parts->name)
        put_bytes(out, event->name);
    if (event->props.size)
        put_bytes(out, event->props);
    if (has_columns(parts, event))
        for (uint64_t left = parts->columns; left; left &= left - 1)
            put_value(out, p->columns[__builtin_ctzll(left)]);
}

/* Strings lie in the packed bytes. */
static void get_event(const char **at, const struct kz_event_parts *parts,
        struct kz_kept_state *state, struct packed *p)
{
    struct kz_event *event = &p->event;
    bool props = get_numbers(at, state, p);

    event->event_id = parts->event_id ? get_bytes(at) : KZ_STR_NULL;
    event->name = parts->name ? get_bytes(at) : KZ_STR_NULL;
    event->props = props ? get_bytes(at) : KZ_STR_NULL;
    event->user_id = event->anonymous_id = KZ_STR_NULL;
    event->columns = p->columns;
    event->column_count = 0;
    if (has_columns(parts, event)) {
        event->column_count = (uint16_t)columns_end(parts);
        for (unsigned i = 0; i < event->column_count; i++)
            p->columns[i] = parts->columns >> i & 1 ? get_value(at)
                                                    : (struct kz_value){.type = KZ_TYPE_NULL};
    }
}

/* ---- writing -------------------------------------------------------------------------------- */

void kz_kept_begin(struct kz_kept_build *build, uint64_t owner)
{
    struct kz_buf bytes = build->bytes;

    kz_buf_clear(&bytes);
    *build = (struct kz_kept_build){.owner = owner, .bytes = bytes};
}

void kz_kept_build_done(struct kz_kept_build *build)
{
    kz_buf_done(&build->bytes);
}

/* Whether an event at `lsn` with `prev` may be the next one (K1). */
static bool follows(const struct kz_kept_build *build, kz_lsn lsn, kz_lsn prev)
{
    return !build->ended && (!build->count || lsn == build->state.next) && prev < lsn &&
           lsn % LSN_ALIGN == 0 && prev % LSN_ALIGN == 0;
}

static void add(struct kz_kept_build *build, const struct kz_event_parts *parts, kz_lsn lsn,
        const struct packed *p)
{
    size_t size = build->bytes.size;
    struct kz_kept_state state = build->state;

    if (!build->count) {
        build->newest = lsn;
        build->state.next = lsn;
    }
    put_event(&build->bytes, parts, &build->state, p);
    if (build->bytes.size > KZ_KEPT_RUN_BYTES_MAX) {
        build->bytes.size = size;
        build->state = state;
        build->ended = true;
        return;
    }
    build->oldest = lsn;
    build->count++;
}

void kz_kept_add(struct kz_kept_build *build, const struct kz_event_parts *parts, kz_lsn lsn,
        const struct kz_record *record)
{
    struct packed p;

    if (!follows(build, lsn, record->prev) || record->owner != build->owner ||
            kz_event_decode(record, &p.event, NULL) != KZ_OK) {
        build->ended = true;
        return;
    }
    p.project = record->project;
    p.prev = record->prev;
    if (!parts->event_id)
        p.event.event_id = KZ_STR_NULL;
    if (!parts->name)
        p.event.name = KZ_STR_NULL;
    if (!parts->props && (!parts->columns || has_columns(parts, &p.event)))
        p.event.props = KZ_STR_NULL;
    if (has_columns(parts, &p.event))
        for (unsigned i = 0; i < columns_end(parts); i++)
            p.columns[i] = kz_event_column(record, i);
    add(build, parts, lsn, &p);
}

void kz_kept_join(struct kz_kept_build *build, const struct kz_event_parts *parts,
        const struct kz_kept_run *run, uint32_t count)
{
    struct kz_kept_cursor cursor;
    struct packed p;
    const char *from;

    count = KZ_MIN(count, run->count);
    if (!count)
        return;
    KZ_BUG_ON(run->owner != build->owner || !kz_kept_seek(&cursor, run, parts, run->newest));
    get_event(&cursor.at, parts, &cursor.state, &p);
    if (!follows(build, run->newest, p.prev)) {
        build->ended = true;
        return;
    }
    add(build, parts, run->newest, &p);
    if (build->ended)
        return;
    /* Only the first is told by what is before it: those behind it stay as they are. */
    from = cursor.at;
    for (uint32_t i = 1; i < count && !build->ended; i++) {
        const char *at = cursor.at;
        struct kz_kept_state state = cursor.state;

        get_event(&at, parts, &state, &p);
        if (build->bytes.size + (size_t)(at - from) > KZ_KEPT_RUN_BYTES_MAX) {
            build->ended = true;
        } else {
            build->oldest = cursor.state.next;
            build->count++;
            cursor.at = at;
            cursor.state = state;
        }
    }
    kz_buf_put(&build->bytes, from, (size_t)(cursor.at - from));
    build->state = cursor.state;
}

struct kz_kept_run kz_kept_built(const struct kz_kept_build *build)
{
    return (struct kz_kept_run){
            .owner = build->owner,
            .newest = build->newest,
            .oldest = build->oldest,
            .behind = build->state.next,
            .count = build->count,
            .size = (uint32_t)build->bytes.size,
            .ended = build->ended,
            .bytes = build->bytes.data,
    };
}

/* ---- reading -------------------------------------------------------------------------------- */

bool kz_kept_seek(struct kz_kept_cursor *cursor, const struct kz_kept_run *run,
        const struct kz_event_parts *parts, kz_lsn lsn)
{
    struct packed p;

    *cursor = (struct kz_kept_cursor){
            .run = run, .parts = parts, .at = run->bytes, .state.next = run->newest};
    for (; cursor->passed < run->count && cursor->state.next > lsn; cursor->passed++)
        get_event(&cursor->at, parts, &cursor->state, &p);
    return cursor->passed < run->count;
}

const struct kz_record *kz_kept_prev(struct kz_kept_cursor *cursor, struct kz_buf *scratch,
        struct kz_arena *arena, kz_lsn *ret_lsn)
{
    struct kz_record *record;
    struct packed p;

    if (cursor->passed == cursor->run->count)
        return NULL;
    cursor->passed++;
    *ret_lsn = cursor->state.next;
    get_event(&cursor->at, cursor->parts, &cursor->state, &p);
    kz_buf_clear(scratch);
    kz_event_encode(&p.event, scratch);
    record = kz_arena_must(arena, KZ_ALIGN8(sizeof(*record) + scratch->size));
    *record = (struct kz_record){
            .size = (uint32_t)(sizeof(*record) + scratch->size),
            .type = KZ_RECORD_EVENT,
            .flags = (uint8_t)p.event.flags,
            .project = p.project,
            .seq = p.event.seq,
            .at_ms = p.event.received_at_ms,
            .owner = cursor->run->owner,
            .prev = p.prev,
    };
    memcpy(record + 1, scratch->data, scratch->size);
    return record;
}
