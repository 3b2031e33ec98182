/* app/roles/process_journal.c -- a transaction's records: kept in memory, seen by who decides, not there
 * before the commit. */

#include <stdlib.h>

#include "app/roles/address.h"
#include "app/roles/process_int.h"
#include "base/hash.h"
#include "contract/message.h"

static struct staging *of_journal(struct kz_journal *journal)
{
    return KZ_CONTAINER_OF(journal, struct staging, journal);
}

static struct staging *of_reader(struct kz_history_reader *reader)
{
    return KZ_CONTAINER_OF(reader, struct staging, reader);
}

/* ---- addresses ------------------------------------------------------------------------------ */

static kz_lsn last_of(const struct staging *staging, uint64_t owner)
{
    uint32_t user = kz_views_find_owner(staging->parts->views, owner);
    const struct kz_user *u = user ? kz_views_user(staging->parts->views, user) : NULL;

    return u ? KZ_MAX(u->events_head, u->notes_head) : 0;
}

kz_lsn kz_staging_next(struct staging *staging, uint64_t owner)
{
    return kz_address_next(staging->now_ms, owner, last_of(staging, owner));
}

/* A LINK comes after all there is of both, so that whoever reads as of a later record of the one
 * sees the other's. A dead letter is nobody's record: its address is of its own. */
static kz_lsn address_of(struct staging *staging, const struct kz_log_entry *entry)
{
    const struct kz_link_body *link = (const void *)entry->body.ptr;
    kz_lsn last = last_of(staging, entry->owner);

    if (entry->type == KZ_RECORD_DEADLETTER)
        return kz_address_next(
                staging->now_ms, kz_hash_mix(entry->owner, kz_hash_str(entry->body)), 0);
    if (entry->type == KZ_RECORD_LINK)
        last = KZ_MAX(last, last_of(staging, link->from_owner));
    return kz_address_next(staging->now_ms, entry->owner, last);
}

/* ---- the journal ---------------------------------------------------------------------------- */

static struct staged *add(struct staging *staging)
{
    if (staging->count == staging->capacity) {
        staging->capacity = staging->capacity ? staging->capacity * 2 : 256;
        staging->records = kz_realloc(
                staging->records, staging->capacity * sizeof(*staging->records));
    }
    return &staging->records[staging->count++];
}

/* The message of a request, made now: its sources are the heads as of it. */
static struct kz_str message_of(struct staging *staging, kz_lsn lsn, const struct kz_record *record)
{
    struct kz_views *views = staging->parts->views;
    struct loaded *loaded = kz_users_find(staging->users, record->owner);
    struct kz_request_message message = {
            .owner = record->owner,
            .lsn = lsn,
            .previous = loaded ? loaded->request : 0,
            .record = record,
    };
    struct kz_buf bytes = {0};
    struct kz_str kept;

    message.source_count = kz_views_sources(views, kz_views_find_owner(views, record->owner),
            KZ_CHAIN_EVENTS, lsn, message.sources);
    if (loaded)
        loaded->request = lsn;
    kz_request_message_encode(&message, &bytes);
    kept = kz_arena_str(&staging->arena, kz_buf_view(&bytes));
    kz_buf_done(&bytes);
    return kept;
}

static enum kz_code append(struct kz_journal *journal, const struct kz_log_entry *entry,
        kz_lsn *ret_lsn, const struct kz_record **ret_record, struct kz_err *err)
{
    struct staging *staging = of_journal(journal);
    size_t size = sizeof(struct kz_record) + entry->body.size;
    kz_lsn lsn = address_of(staging, entry);
    struct kz_record *record = kz_arena_must(&staging->arena, KZ_ALIGN8(size));
    struct staged *staged;

    (void)err;
    *record = (struct kz_record){
            .size = (uint32_t)size,
            .type = (uint8_t)entry->type,
            .flags = entry->flags,
            .seq = lsn,
            .at_ms = entry->at_ms,
            .owner = entry->owner,
            .prev = entry->prev,
            .key = entry->key,
    };
    memcpy(record + 1, entry->body.ptr, entry->body.size);
    staged = add(staging);
    *staged = (struct staged){.lsn = lsn, .record = record};
    if (entry->type == KZ_RECORD_REQUEST)
        staged->message = message_of(staging, lsn, record);
    else if (entry->type == KZ_RECORD_EVENT)
        *staging->seen = true;
    else if (entry->type == KZ_RECORD_LINK)
        kz_users_linked(staging->users,
                ((const struct kz_link_body *)(const void *)entry->body.ptr)->from_owner,
                entry->owner);
    *ret_lsn = lsn;
    *ret_record = record;
    return KZ_OK;
}

/* Addresses are unique within an owner only: it is a record of the user at hand. */
static const struct kz_record *staged_at(struct kz_journal *journal, kz_lsn lsn)
{
    struct staging *staging = of_journal(journal);
    struct kz_source sources[KZ_SOURCES_MAX];
    size_t count = staging->user ? kz_views_sources(staging->parts->views, staging->user,
                                           KZ_CHAIN_EVENTS, UINT64_MAX, sources)
                                 : 0;

    for (size_t i = staging->count; i-- > 0;) {
        if (staging->records[i].lsn != lsn)
            continue;
        for (size_t s = 0; s < count; s++)
            if (sources[s].owner == staging->records[i].record->owner)
                return staging->records[i].record;
    }
    return NULL;
}

/* Only ever asked about the event at hand; its id was looked for before. */
static enum kz_code find(struct kz_journal *journal, const struct kz_journal_id *id, uint64_t owner,
        int64_t since_ms, bool *ret_found, struct kz_err *err)
{
    (void)id, (void)owner, (void)since_ms, (void)err;
    *ret_found = *of_journal(journal)->seen;
    return KZ_OK;
}

static void prefetch(struct kz_journal *journal, uint64_t key)
{
    (void)journal, (void)key;
}

static uint64_t room(struct kz_journal *journal)
{
    (void)journal;
    return UINT64_MAX;
}

/* ---- reading: the store, staged records on top ---------------------------------------------- */

struct overlay {
    struct kz_history_rows below;
    bool was_read;
    const struct kz_record **records;
    kz_lsn *lsns;
};

static enum kz_code failed(struct staging *staging, enum kz_code rc, const struct kz_err *err)
{
    if (rc != KZ_NOT_FOUND && staging->read_code == KZ_OK) {
        staging->read_code = rc;
        staging->read_err = *err;
    }
    return rc;
}

static bool wanted(const struct kz_history_query *query, const struct staged *staged)
{
    const struct kz_record *record = staged->record;

    if (kz_record_chain((enum kz_record_type)record->type) != query->chain ||
            staged->lsn > query->as_of)
        return false;
    if (record->type == KZ_RECORD_EVENT &&
            (kz_event_body(record)->ts_ms < query->since_ms ||
                    ((record->flags & KZ_EVENT_ACTION) && !query->include_actions)))
        return false;
    for (size_t s = 0; s < query->source_count; s++)
        if (query->sources[s].owner == record->owner)
            return staged->lsn <= query->sources[s].head;
    return false;
}

static int by_lsn(const void *a, const void *b)
{
    const struct staged *x = *(const struct staged *const *)a,
                        *y = *(const struct staged *const *)b;

    return x->lsn < y->lsn ? -1 : x->lsn > y->lsn;
}

/* Both in order of address; the newest events_max of them. */
static void merge(const struct kz_history_query *query, const struct kz_history_rows *below,
        const struct staged **top, size_t top_count, struct overlay *o, struct kz_history_rows *ret)
{
    size_t all = below->count + top_count, b = 0, t = 0;
    size_t skip = query->events_max && all > query->events_max ? all - query->events_max : 0;

    o->records = kz_malloc((all + 1) * sizeof(struct kz_record *));
    o->lsns = kz_malloc((all + 1) * sizeof(kz_lsn));
    for (size_t i = 0; i < all; i++) {
        bool from_below = t == top_count || (b < below->count && below->lsns[b] <= top[t]->lsn);

        o->records[i] = from_below ? below->records[b] : top[t]->record;
        o->lsns[i] = from_below ? below->lsns[b] : top[t]->lsn;
        b += from_below;
        t += !from_below;
    }
    *ret = (struct kz_history_rows){
            .records = o->records + skip,
            .lsns = o->lsns + skip,
            .count = all - skip,
            .truncated = below->truncated || skip,
            .priv = o,
    };
}

/* Of whom the store knew nothing when they were read, it has no records either. */
static bool are_new(const struct staging *staging, const struct kz_history_query *query)
{
    for (size_t s = 0; s < query->source_count; s++) {
        const struct loaded *loaded = kz_users_find(staging->users, query->sources[s].owner);

        if (!loaded || loaded->bytes.size)
            return false;
    }
    return true;
}

static enum kz_code scan(struct kz_history_reader *reader, const struct kz_history_query *query,
        struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct staging *staging = of_reader(reader);
    struct kz_history_reader *store = staging->store->ops->reader(staging->store);
    struct overlay *o = kz_calloc(1, sizeof(*o));
    const struct staged **top = kz_malloc((staging->count + 1) * sizeof(struct staged *));
    size_t top_count = 0;
    struct kz_err why;
    enum kz_code rc = KZ_OK;

    o->was_read = !are_new(staging, query);
    if (o->was_read)
        rc = store->ops->scan(store, query, &o->below, &why);
    if (rc != KZ_OK) {
        free(top);
        free(o);
        if (err)
            *err = why;
        return failed(staging, rc, &why);
    }
    for (size_t i = 0; i < staging->count; i++)
        if (wanted(query, &staging->records[i]))
            top[top_count++] = &staging->records[i];
    qsort(top, top_count, sizeof(struct staged *), by_lsn);
    merge(query, &o->below, top, top_count, o, ret_rows);
    free(top);
    return KZ_OK;
}

static void release(struct kz_history_reader *reader, struct kz_history_rows *rows)
{
    struct kz_store *store = of_reader(reader)->store;
    struct kz_history_reader *below = store->ops->reader(store);
    struct overlay *o = rows->priv;

    *rows = (struct kz_history_rows){0};
    if (!o)
        return;
    if (o->was_read)
        below->ops->release(below, &o->below);
    free(o->records);
    free(o->lsns);
    free(o);
}

static enum kz_code get(struct kz_history_reader *reader, kz_lsn lsn, uint64_t owner,
        struct kz_buf *out, struct kz_err *err)
{
    struct staging *staging = of_reader(reader);
    struct kz_history_reader *store = staging->store->ops->reader(staging->store);
    struct kz_err why;
    enum kz_code rc;

    for (size_t i = 0; i < staging->count; i++)
        if (staging->records[i].lsn == lsn && staging->records[i].record->owner == owner) {
            kz_buf_clear(out);
            kz_buf_put(out, staging->records[i].record, staging->records[i].record->size);
            return KZ_OK;
        }
    rc = store->ops->get(store, lsn, owner, out, &why);
    if (rc != KZ_OK && err)
        *err = why;
    return rc == KZ_OK ? KZ_OK : failed(staging, rc, &why);
}

/* ---- life ----------------------------------------------------------------------------------- */

void kz_staging_init(struct staging *staging, struct kz_store *store, struct users *users)
{
    static const struct kz_journal_ops journal_ops = {.append = append,
            .staged = staged_at,
            .find = find,
            .prefetch = prefetch,
            .room = room};
    static const struct kz_history_reader_ops reader_ops = {
            .scan = scan, .release = release, .get = get};

    *staging = (struct staging){.journal = {.ops = &journal_ops},
            .reader = {&reader_ops},
            .users = users,
            .store = store};
    kz_arena_init(&staging->arena, 0);
}

void kz_staging_done(struct staging *staging)
{
    kz_arena_done(&staging->arena);
    free(staging->records);
}

void kz_staging_reset(struct staging *staging)
{
    kz_arena_reset(&staging->arena);
    staging->count = 0;
    staging->user = 0;
    staging->seen = NULL;
    staging->read_code = KZ_OK;
}
