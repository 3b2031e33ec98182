/* Timers, the outbox, dead letters: rows in the order of a number, spread over shards.
 *
 * A queue is read in one call over all shards that matter; what comes is sorted here. Only where
 * more is there than was asked for, each shard is read by itself for as many as it takes.
 */
#include <stdlib.h>

#include "backends/spanner/spanner_int.h"
#include "base/hash.h"
#include "sys/clock.h"

/* due() looks so far ahead for the next timer. The rows in between are read each time. */
enum { LOOK_AHEAD_MS = 1000 };

int64_t kz_sp_shard_of_lsn(kz_lsn lsn)
{
    return (int64_t)(kz_hash_mix(lsn, 0) % KZ_SP_SHARDS);
}

/* ---- writing ----------------------------------------------------------------------------- */

static void put_timer(struct kz_sp_lists *lists, const struct kz_store_timer *timer)
{
    kz_sp_int(lists, kz_sp_shard_of_owner(timer->owner));
    kz_sp_int(lists, timer->due_ms);
    kz_sp_u64(lists, timer->owner);
    kz_sp_u64(lists, timer->rule);
    kz_sp_end(lists);
}

static void put_request_key(struct kz_sp_lists *lists, const struct kz_store_request *request)
{
    kz_sp_int(lists, kz_sp_shard_of_owner(request->owner));
    kz_sp_u64(lists, request->lsn);
    kz_sp_u64(lists, request->owner);
}

static void put_letter(
        struct kz_sp_lists *lists, const struct kz_store_record *letter, int64_t now_ms)
{
    struct kz_str bytes = kz_str_n(letter->record, letter->record->size);

    kz_sp_int(lists, kz_sp_shard_of_lsn(letter->lsn));
    kz_sp_u64(lists, letter->lsn);
    kz_sp_u64(lists, kz_hash_str(bytes));
    if (letter->record->owner)
        kz_sp_u64(lists, letter->record->owner);
    else
        kz_sp_null(lists); /* of nobody: not in the index of owners */
    kz_sp_bytes(lists, bytes);
    kz_sp_time(lists, now_ms);
    kz_sp_end(lists);
}

void kz_sp_put_queues(struct kz_sp_changes *changes, const struct kz_store_commit *commit)
{
    static const char *const timer_columns[] = {"shard", "due_ms", "owner", "rule"};
    static const char *const outbox_columns[] = {"shard", "lsn", "owner", "message", "stored_ms"};
    static const char *const letter_columns[] = {
            "shard", "lsn", "digest", "owner", "record", "stored_at"};
    struct kz_sp_keys *fired = kz_sp_changes_delete(changes, "timers");
    struct kz_sp_lists *timers = kz_sp_changes_write(changes, false, "timers", timer_columns, 4);
    struct kz_sp_lists *outbox = kz_sp_changes_write(changes, false, "outbox", outbox_columns, 5);
    struct kz_sp_lists *letters = kz_sp_changes_write(changes, false, "letters", letter_columns, 6);

    for (size_t i = 0; i < commit->fired_count; i++)
        put_timer(&fired->lists, &commit->fired[i]);
    for (size_t i = 0; i < commit->timer_count; i++)
        put_timer(timers, &commit->timers[i]);
    for (size_t i = 0; i < commit->request_count; i++) {
        put_request_key(outbox, &commit->requests[i]);
        kz_sp_bytes(outbox, commit->requests[i].message);
        kz_sp_int(outbox, commit->now_ms);
        kz_sp_end(outbox);
    }
    for (size_t i = 0; i < commit->letter_count; i++)
        put_letter(letters, &commit->letters[i], commit->now_ms);
}

/* ---- reading a queue --------------------------------------------------------------------- */

struct row {
    int64_t order;
    uint64_t owner, third;
    struct kz_str bytes;
};

struct queue {
    /* What to read. */
    const char *table;
    const char *const *columns;
    size_t column_count;
    void (*range)(const struct queue *queue, int64_t shard, struct kz_sp_keys *keys);
    enum kz_code (*parse)(struct queue *queue, const struct kz_sp_cell *cells, struct row *ret_row,
            bool *ret_wanted, struct kz_err *err);
    unsigned part, part_count; /* of owners, 0 of 1: all, where shards are by owner */
    int64_t bound;             /* of `order`, as `range` takes it */
    int64_t before_ms;         /* of the outbox */
    size_t max;
    /* What came: the first `max` and one more, and those with the order of the last. */
    struct row *rows;
    size_t count, capacity;
    struct kz_arena arena;
    struct kz_buf scratch;
    /* The read that is under way. */
    uint64_t raw;   /* rows, wanted or not */
    size_t first;   /* of its rows */
    bool one_shard; /* stops where it has enough */
};

static int compare_rows(const void *a, const void *b)
{
    const struct row *x = a, *y = b;

    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    if (x->owner != y->owner)
        return x->owner < y->owner ? -1 : 1;
    return x->third < y->third ? -1 : x->third > y->third;
}

static enum kz_code take_row(void *arg, const struct kz_sp_cell *cells, struct kz_err *err)
{
    struct queue *queue = arg;
    struct row row = {0};
    bool wanted = true;

    queue->raw++;
    KZ_TRY(queue->parse(queue, cells, &row, &wanted, err));
    if (!wanted)
        return KZ_OK;
    if (queue->one_shard && queue->count - queue->first > queue->max &&
            row.order != queue->rows[queue->count - 1].order)
        return KZ_END;
    if (queue->count == queue->capacity) {
        queue->capacity = queue->capacity ? queue->capacity * 2 : 256;
        queue->rows = kz_realloc(queue->rows, queue->capacity * sizeof(*queue->rows));
    }
    row.bytes = kz_arena_str(&queue->arena, row.bytes);
    queue->rows[queue->count++] = row;
    return KZ_OK;
}

static void forget_rows(void *arg)
{
    struct queue *queue = arg;

    queue->count = queue->first;
    queue->raw = 0;
}

static unsigned common_divisor(unsigned a, unsigned b)
{
    while (b) {
        unsigned rest = a % b;

        a = b;
        b = rest;
    }
    return a;
}

/* Whether a shard by owner can hold owners of the part. */
static bool concerns(const struct queue *queue, unsigned shard)
{
    return (shard % common_divisor(KZ_SP_SHARDS, queue->part_count)) ==
           (queue->part % common_divisor(KZ_SP_SHARDS, queue->part_count));
}

static enum kz_code read_shards(struct kz_sp *sp, struct queue *queue, unsigned from,
        unsigned until, int64_t limit, struct kz_err *err)
{
    struct kz_sp_keys keys = {0};
    struct kz_sp_read read = {
            .table = queue->table,
            .columns = queue->columns,
            .column_count = queue->column_count,
            .limit = limit,
            .small = limit > 0,
            .each = take_row,
            .again = forget_rows,
            .arg = queue,
    };
    enum kz_code rc;

    for (unsigned shard = from; shard < until; shard++)
        if (concerns(queue, shard))
            queue->range(queue, shard, &keys);
    read.keys = kz_sp_keys_set(&keys);
    queue->first = queue->count;
    queue->raw = 0;
    rc = kz_sp_read(sp, NULL, &read, err);
    kz_sp_keys_done(&keys);
    return rc == KZ_END ? KZ_OK : rc;
}

static enum kz_code read_queue(struct kz_sp *sp, struct queue *queue, struct kz_err *err)
{
    const int64_t limit = (int64_t)queue->max + 64;

    kz_arena_init(&queue->arena, 0);
    queue->one_shard = false;
    KZ_TRY(read_shards(sp, queue, 0, KZ_SP_SHARDS, limit, err));
    if (queue->raw >=
            (uint64_t)limit) { /* there is more, and in some shards nothing was read yet */
        queue->count = 0;
        kz_arena_reset(&queue->arena);
        queue->one_shard = true;
        for (unsigned shard = 0; shard < KZ_SP_SHARDS; shard++)
            if (concerns(queue, shard))
                KZ_TRY(read_shards(sp, queue, shard, shard + 1, 0, err));
    }
    if (queue->count)
        qsort(queue->rows, queue->count, sizeof(*queue->rows), compare_rows);
    return KZ_OK;
}

static void queue_done(struct queue *queue)
{
    free(queue->rows);
    kz_arena_done(&queue->arena);
    kz_buf_done(&queue->scratch);
}

static bool of_part(const struct queue *queue, uint64_t owner)
{
    return owner % queue->part_count == queue->part;
}

/* All of a shard up to `bound`. */
static void range_until(const struct queue *queue, int64_t shard, struct kz_sp_keys *keys)
{
    kz_sp_int(&keys->lists, shard);
    kz_sp_end(&keys->lists);
    kz_sp_int(&keys->lists, shard);
    kz_sp_int(&keys->lists, queue->bound);
    kz_sp_end(&keys->lists);
    kz_sp_keys_range(keys);
}

/* ---- timers ------------------------------------------------------------------------------ */

static enum kz_code parse_timer(struct queue *queue, const struct kz_sp_cell *cells,
        struct row *ret_row, bool *ret_wanted, struct kz_err *err)
{
    KZ_TRY(kz_sp_get_int(&cells[0], &ret_row->order, err));
    KZ_TRY(kz_sp_get_u64(&cells[1], &ret_row->owner, err));
    KZ_TRY(kz_sp_get_u64(&cells[2], &ret_row->third, err));
    *ret_wanted = of_part(queue, ret_row->owner);
    return KZ_OK;
}

enum kz_code kz_sp_due(struct kz_store *store, int64_t now_ms, unsigned part, unsigned part_count,
        size_t max, struct kz_store_timer *ret_timers, size_t *ret_count, int64_t *ret_next_ms,
        struct kz_err *err)
{
    static const char *const columns[] = {"due_ms", "owner", "rule"};
    const int64_t until_ms = now_ms > INT64_MAX - LOOK_AHEAD_MS ? INT64_MAX
                                                                : now_ms + LOOK_AHEAD_MS;
    struct queue queue = {
            .table = "timers",
            .columns = columns,
            .column_count = KZ_ARRAY_COUNT(columns),
            .range = range_until,
            .parse = parse_timer,
            .part = part,
            .part_count = part_count,
            .bound = until_ms,
            .max = max,
    };
    enum kz_code rc = read_queue(kz_sp_of(store), &queue, err);
    size_t count = 0;

    if (rc == KZ_OK) {
        for (; count < queue.count && count < max && queue.rows[count].order <= now_ms; count++)
            ret_timers[count] = (struct kz_store_timer){
                    .owner = queue.rows[count].owner,
                    .rule = queue.rows[count].third,
                    .due_ms = queue.rows[count].order,
            };
        *ret_next_ms = count < queue.count ? queue.rows[count].order : until_ms;
        *ret_count = count;
    }
    queue_done(&queue);
    return rc;
}

/* ---- the outbox -------------------------------------------------------------------------- */

static enum kz_code parse_request(struct queue *queue, const struct kz_sp_cell *cells,
        struct row *ret_row, bool *ret_wanted, struct kz_err *err)
{
    int64_t stored_ms;

    KZ_TRY(kz_sp_get_int(&cells[0], &ret_row->order, err));
    KZ_TRY(kz_sp_get_u64(&cells[1], &ret_row->owner, err));
    KZ_TRY(kz_sp_get_int(&cells[2], &stored_ms, err));
    *ret_wanted = stored_ms < queue->before_ms;
    kz_buf_clear(&queue->scratch);
    if (*ret_wanted)
        KZ_TRY(kz_sp_get_bytes(&cells[3], &queue->scratch, err));
    ret_row->bytes = kz_buf_view(&queue->scratch);
    return KZ_OK;
}

enum kz_code kz_sp_outbox(struct kz_store *store, int64_t before_ms, size_t max,
        struct kz_store_request *ret_requests, size_t *ret_count, struct kz_buf *out,
        struct kz_err *err)
{
    static const char *const columns[] = {"lsn", "owner", "stored_ms", "message"};
    struct queue queue = {
            .table = "outbox",
            .columns = columns,
            .column_count = KZ_ARRAY_COUNT(columns),
            .range = range_until,
            .parse = parse_request,
            .part_count = 1,
            .bound = INT64_MAX,
            .before_ms = before_ms,
            .max = max,
    };
    enum kz_code rc = read_queue(kz_sp_of(store), &queue, err);
    size_t count = KZ_MIN(queue.count, max), at = 0;

    kz_buf_clear(out);
    if (rc == KZ_OK) {
        for (size_t i = 0; i < count; i++)
            kz_buf_str(out, queue.rows[i].bytes);
        for (size_t i = 0; i < count; i++) { /* the buffer does not move any more */
            ret_requests[i] = (struct kz_store_request){
                    .owner = queue.rows[i].owner,
                    .lsn = (kz_lsn)queue.rows[i].order,
                    .message = kz_str_n(out->data + at, queue.rows[i].bytes.size),
            };
            at += queue.rows[i].bytes.size;
        }
        *ret_count = count;
    }
    queue_done(&queue);
    return rc;
}

enum kz_code kz_sp_published(struct kz_store *store, const struct kz_store_request *requests,
        size_t count, struct kz_err *err)
{
    struct kz_sp_changes changes = {.count = 0};
    struct kz_sp_keys *keys = kz_sp_changes_delete(&changes, "outbox");
    enum kz_code rc;

    for (size_t i = 0; i < count; i++) {
        put_request_key(&keys->lists, &requests[i]);
        kz_sp_end(&keys->lists);
    }
    rc = kz_sp_commit(kz_sp_of(store), NULL, &changes, err);
    kz_sp_changes_done(&changes);
    return rc;
}

/* ---- dead letters ------------------------------------------------------------------------ */

/* Newest first: from `bound`, where there is one, down. */
static void range_below(const struct queue *queue, int64_t shard, struct kz_sp_keys *keys)
{
    kz_sp_int(&keys->lists, shard);
    kz_sp_int(&keys->lists, queue->bound);
    kz_sp_end(&keys->lists);
    kz_sp_int(&keys->lists, shard);
    kz_sp_end(&keys->lists);
    kz_sp_keys_range(keys);
}

static enum kz_code parse_letter(struct queue *queue, const struct kz_sp_cell *cells,
        struct row *ret_row, bool *ret_wanted, struct kz_err *err)
{
    const struct kz_record *record;
    kz_lsn lsn;

    (void)ret_wanted;
    KZ_TRY(kz_sp_get_record(cells, &queue->scratch, &queue->arena, &lsn, &record, err));
    ret_row->order = -(int64_t)lsn;
    ret_row->owner = record->owner;
    ret_row->bytes = kz_str_n(record, record->size);
    return KZ_OK;
}

enum kz_code kz_sp_letters(struct kz_store *store, kz_lsn before, size_t max, struct kz_buf *out,
        size_t *ret_count, struct kz_err *err)
{
    static const char *const columns[] = {"lsn", "record"};
    struct queue queue = {
            .table = "letters",
            .columns = columns,
            .column_count = KZ_ARRAY_COUNT(columns),
            .range = range_below,
            .parse = parse_letter,
            .part_count = 1,
            .bound = before && before <= INT64_MAX ? (int64_t)before - 1 : INT64_MAX,
            .max = max,
    };
    enum kz_code rc = read_queue(kz_sp_of(store), &queue, err);
    size_t count = 0;

    kz_buf_clear(out);
    if (rc == KZ_OK) {
        for (; count < queue.count &&
                (count < max || (count && queue.rows[count].order == queue.rows[count - 1].order));
                count++) {
            struct kz_str bytes = queue.rows[count].bytes;

            memcpy(kz_buf_extend(out, KZ_ALIGN8(bytes.size)), bytes.ptr, bytes.size);
        }
        *ret_count = count;
    }
    queue_done(&queue);
    return rc;
}

enum kz_code kz_sp_drop_letters(
        struct kz_store *store, const kz_lsn *lsns, size_t count, struct kz_err *err)
{
    struct kz_sp_changes changes = {.count = 0};
    struct kz_sp_keys *keys = kz_sp_changes_delete(&changes, "letters");
    enum kz_code rc;

    for (size_t i = 0; i < count; i++) {
        kz_sp_int(&keys->lists, kz_sp_shard_of_lsn(lsns[i]));
        kz_sp_u64(&keys->lists, lsns[i]);
        kz_sp_end(&keys->lists);
        kz_sp_keys_prefix(keys);
    }
    rc = kz_sp_commit(kz_sp_of(store), NULL, &changes, err);
    kz_sp_changes_done(&changes);
    return rc;
}
