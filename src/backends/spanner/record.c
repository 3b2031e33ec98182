/* Records to columns and back.
 *
 * An event's bytes are: header, fixed body, cells of typed columns; then event_id, user_id,
 * anonymous_id, name, props, one behind the other; then what cells hold of other texts. Those five
 * are columns of the table, and `record` holds the rest. It says itself where they belong and how
 * large they are, so the record comes out as it was, bit for bit. A record that is laid out in
 * another way, or whose strings are no UTF-8, is kept whole, and its strings besides where they can
 * be.
 */
#include "backends/spanner/spanner_int.h"
#include "codec/utf8.h"

enum { STRINGS = KZ_SP_EVENT_COLUMN_COUNT - 2 };

static void spans_of(const struct kz_event_body *body, struct kz_span spans[STRINGS])
{
    spans[0] = body->event_id;
    spans[1] = body->user_id;
    spans[2] = body->anonymous_id;
    spans[3] = body->name;
    spans[4] = body->props;
}

/* Where the strings lie, from the record's beginning; false: not one behind the other. */
static bool find_strings(const struct kz_event_body *body, size_t *ret_from, size_t *ret_size)
{
    struct kz_span spans[STRINGS];
    uint64_t at = body->event_id.offset;

    spans_of(body, spans);
    if (at < sizeof(*body))
        return false;
    for (unsigned i = 0; i < STRINGS; i++) {
        if (spans[i].offset != at)
            return false;
        at += spans[i].size;
    }
    *ret_from = sizeof(struct kz_record) + body->event_id.offset;
    *ret_size = (size_t)(at - body->event_id.offset);
    return true;
}

static void put_string(struct kz_sp_lists *lists, struct kz_str s)
{
    if (s.size)
        kz_sp_text(lists, s);
    else
        kz_sp_null(lists);
}

/* A record too short for an event's body: nothing of it can be seen. */
static void put_opaque(struct kz_sp_lists *lists, kz_lsn lsn, const struct kz_record *record)
{
    kz_sp_u64(lists, record->owner);
    kz_sp_u64(lists, lsn);
    kz_sp_bytes(lists, kz_str_n(record, record->size));
    for (unsigned i = 0; i < STRINGS + 1; i++)
        kz_sp_null(lists);
}

void kz_sp_put_event(struct kz_sp_lists *lists, kz_lsn lsn, const struct kz_record *record)
{
    const struct kz_event_body *body = kz_event_body(record);
    const char *bytes = (const char *)record;
    struct kz_span spans[STRINGS];
    struct kz_str strings[STRINGS];
    size_t from = 0, size = 0;
    bool cut;

    if (record->size < sizeof(*record) + sizeof(*body)) {
        put_opaque(lists, lsn, record);
        return;
    }
    spans_of(body, spans);
    cut = find_strings(body, &from, &size) && from + size <= record->size;
    for (unsigned i = 0; i < STRINGS; i++) {
        strings[i] = kz_span_str(kz_record_body(record), spans[i]);
        if (!kz_utf8_check(strings[i], NULL)) {
            strings[i] = KZ_STR_NULL;
            cut = false;
        }
    }
    kz_sp_u64(lists, record->owner);
    kz_sp_u64(lists, lsn);
    if (cut)
        kz_sp_bytes2(lists, kz_str_n(bytes, from),
                kz_str_n(bytes + from + size, record->size - from - size));
    else
        kz_sp_bytes(lists, kz_str_n(record, record->size));
    for (unsigned i = 0; i < STRINGS; i++)
        put_string(lists, strings[i]);
    kz_sp_time(lists, body->ts_ms);
}

static enum kz_code no_record(kz_lsn lsn, struct kz_err *err)
{
    return kz_fail(err, KZ_CORRUPT, "the row of %016llx holds no record", (unsigned long long)lsn);
}

/* The strings go back to where they were cut out. */
static enum kz_code join(const struct kz_sp_cell *strings, kz_lsn lsn, struct kz_str stored,
        struct kz_record *record, size_t record_size, struct kz_err *err)
{
    const struct kz_event_body *body = (const void *)(stored.ptr + sizeof(*record));
    char *to = (char *)record;
    struct kz_span spans[STRINGS];
    size_t from, size;

    if (stored.size < sizeof(*record) + sizeof(*body) || !find_strings(body, &from, &size) ||
            stored.size < from || stored.size + size != record_size)
        return no_record(lsn, err);
    spans_of(body, spans);
    memcpy(to, stored.ptr, from);
    memcpy(to + from + size, stored.ptr + from, stored.size - from);
    to += from;
    for (unsigned i = 0; i < STRINGS; i++) {
        if (strings[i].text.size != spans[i].size)
            return no_record(lsn, err);
        if (spans[i].size)
            memcpy(to, strings[i].text.ptr, spans[i].size);
        to += spans[i].size;
    }
    return KZ_OK;
}

/* `strings`: NULL where the record is always whole. */
static enum kz_code get(const struct kz_sp_cell *cells, const struct kz_sp_cell *strings,
        struct kz_buf *scratch, struct kz_arena *arena, kz_lsn *ret_lsn,
        const struct kz_record **ret_record, struct kz_err *err)
{
    struct kz_record *record;
    size_t size, sum = 0;
    kz_lsn lsn;

    KZ_TRY(kz_sp_get_u64(&cells[0], &lsn, err));
    kz_buf_clear(scratch);
    KZ_TRY(kz_sp_get_bytes(&cells[1], scratch, err));
    if (scratch->size < sizeof(*record))
        return no_record(lsn, err);
    for (unsigned i = 0; i < STRINGS && strings; i++)
        sum += strings[i].text.size;
    size = kz_load_u32(scratch->data + offsetof(struct kz_record, size));
    if (size != scratch->size && size != scratch->size + sum)
        return no_record(lsn, err);
    record = kz_arena_must(arena, KZ_ALIGN8(size));
    if (size == scratch->size)
        memcpy(record, scratch->data, size);
    else
        KZ_TRY(join(strings, lsn, kz_buf_view(scratch), record, size, err));
    KZ_TRY(kz_record_check(record, err));
    *ret_lsn = lsn;
    *ret_record = record;
    return KZ_OK;
}

enum kz_code kz_sp_get_event(const struct kz_sp_cell *cells, struct kz_buf *scratch,
        struct kz_arena *arena, kz_lsn *ret_lsn, const struct kz_record **ret_record,
        struct kz_err *err)
{
    return get(cells, cells + 2, scratch, arena, ret_lsn, ret_record, err);
}

enum kz_code kz_sp_get_record(const struct kz_sp_cell *cells, struct kz_buf *scratch,
        struct kz_arena *arena, kz_lsn *ret_lsn, const struct kz_record **ret_record,
        struct kz_err *err)
{
    return get(cells, NULL, scratch, arena, ret_lsn, ret_record, err);
}
