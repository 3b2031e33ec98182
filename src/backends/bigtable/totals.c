/* Deliveries under a cap in total: one row a cap, one cell an id, and a cell that holds the row's
 * version.
 *
 *     t:version   version (8 bytes, big-endian), epoch (8 random bytes)
 *     t:<id>      version that put it and when it was reserved, in ms (8 bytes each, big-endian),
 *                 'h' held or 'r' released
 *
 * T1  A row changes only by CheckAndMutateRow with the version it was read at, which gives it the
 * next version. So whoever counted before has counted right, or changes nothing. T2  A process
 * keeps what it has read. What has changed since is what has a higher version; so that it shows, a
 * release leaves a cell behind. A row that was made anew has another epoch. T3  Cells are taken
 * away only when they lie before the window of whoever takes them: a process that still remembers
 * them does not count them either. T4  Of the threads that ask about one cap one leads: it takes
 * along all that wait, and they are answered by one change, or one look, begun after they asked.
 * Threads of one process never contend, and a full cap costs one small read for all of them.
 *
 * An answer that was lost is found by reading again: an id is there, or it is not.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "backends/bigtable/bigtable_int.h"
#include "sys/random.h"

enum {
    BATCH_MAX = 128,
    TRIM_MAX = 256,
    CELLS_MAX = 2 * KZ_TOTALS_MAX,
    VERSION_SIZE = 16,
    VALUE_SIZE = 17,
    HELD = 'h',
    RELEASED = 'r',
};

struct item {
    uint64_t id;
    int64_t at_ms;
    char what; /* HELD, RELEASED */
};

struct ask {
    struct ask *next;
    bool release;
    uint64_t id;
    int64_t at_ms, since_ms;
    uint32_t max;
    bool done, held;
    enum kz_code code;
    struct kz_err *err; /* of the thread that waits */
};

struct kz_bt_totals {
    struct kz_bt_totals *next;
    uint64_t action;
    char key[18];

    pthread_mutex_t lock; /* of the four below */
    pthread_cond_t turn;
    bool led;
    struct ask *first, **last;

    /* The leader's. */
    bool known, exists;
    char version[VERSION_SIZE]; /* the version cell; where it does not exist, zeros */
    struct item *items;         /* by id */
    size_t count, capacity;
};

/* ---- what is known of a row ------------------------------------------------------------------ */

static uint64_t get_be(const char *from)
{
    uint64_t v;

    memcpy(&v, from, sizeof(v));
    return __builtin_bswap64(v);
}

static void put_be(uint64_t v, char *to)
{
    v = __builtin_bswap64(v);
    memcpy(to, &v, sizeof(v));
}

static size_t place_of(const struct kz_bt_totals *t, uint64_t id)
{
    size_t from = 0, until = t->count;

    while (from < until) {
        size_t middle = from + (until - from) / 2;

        if (t->items[middle].id < id)
            from = middle + 1;
        else
            until = middle;
    }
    return from;
}

static const struct item *find_item(const struct kz_bt_totals *t, uint64_t id)
{
    size_t at = place_of(t, id);

    return at < t->count && t->items[at].id == id ? &t->items[at] : NULL;
}

static void put_item(struct kz_bt_totals *t, const struct item *item)
{
    /* A whole row comes in order. */
    size_t at = t->count && t->items[t->count - 1].id < item->id ? t->count : place_of(t, item->id);

    if (at < t->count && t->items[at].id == item->id) {
        t->items[at] = *item;
        return;
    }
    if (t->count == t->capacity) {
        t->capacity = t->capacity ? t->capacity * 2 : 64;
        t->items = kz_realloc(t->items, t->capacity * sizeof(*t->items));
    }
    memmove(&t->items[at + 1], &t->items[at], (t->count - at) * sizeof(*t->items));
    t->items[at] = *item;
    t->count++;
}

static void drop_item(struct kz_bt_totals *t, uint64_t id)
{
    size_t at = place_of(t, id);

    if (at == t->count || t->items[at].id != id)
        return;
    t->count--;
    memmove(&t->items[at], &t->items[at + 1], (t->count - at) * sizeof(*t->items));
}

/* ---- reading --------------------------------------------------------------------------------- */

struct update {
    struct kz_bt_totals *t;
    bool exists;
    char version[VERSION_SIZE];
    struct kz_buf items; /* struct item */
};

static enum kz_code take_cells(void *arg, const struct kz_bt_row *row, struct kz_err *err)
{
    struct update *update = arg;
    struct kz_str before = KZ_STR_NULL;

    for (size_t i = 0; i < row->cell_count; i++) {
        const struct kz_bt_cell *cell = &row->cells[i];
        struct item item;

        if (kz_str_eq(cell->qualifier, before))
            continue; /* an older version */
        before = cell->qualifier;
        if (kz_str_is(cell->qualifier, KZ_BT_VERSION) && cell->value.size == VERSION_SIZE) {
            update->exists = true;
            memcpy(update->version, cell->value.ptr, VERSION_SIZE);
        } else if (kz_bt_get_hex(cell->qualifier, &item.id) && cell->value.size == VALUE_SIZE) {
            item.at_ms = (int64_t)get_be(cell->value.ptr + 8);
            item.what = cell->value.ptr[16];
            kz_buf_put(&update->items, &item, sizeof(item));
        } else {
            return kz_fail(err, KZ_CORRUPT,
                    "cell \"t:" KZ_STR_FMT "\" of row \"" KZ_STR_FMT "\" is no delivery's",
                    KZ_STR_ARG(cell->qualifier), KZ_STR_ARG(row->key));
        }
    }
    return KZ_OK;
}

static enum kz_code read_update(struct kz_bt *bt, struct kz_bt_totals *t, KZ_BT_FILTER *filter,
        struct update *update, struct kz_err *err)
{
    const struct kz_bt_scan scan = {.key = kz_str_n(t->key, sizeof(t->key)), .filter = filter};

    return kz_bt_read_rows(bt, &scan, take_cells, update, err);
}

static void apply_update(struct kz_bt_totals *t, const struct update *update)
{
    const struct item *items = (const struct item *)(void *)update->items.data;

    for (size_t i = 0; i < update->items.size / sizeof(*items); i++)
        put_item(t, &items[i]);
    t->exists = update->exists;
    memcpy(t->version, update->version, VERSION_SIZE);
    t->known = true;
}

static enum kz_code read_all(struct kz_bt *bt, struct kz_bt_totals *t, struct kz_err *err)
{
    struct kz_bt_filters f = {0};
    struct update update = {.t = t};
    enum kz_code rc = read_update(
            bt, t, kz_bt_chain(&f, kz_bt_family(&f, "t"), kz_bt_newest(&f), NULL), &update, err);

    if (rc == KZ_OK) {
        t->count = 0;
        apply_update(t, &update);
    }
    kz_buf_done(&update.items);
    return rc;
}

static KZ_BT_FILTER *version_cell(struct kz_bt_filters *f)
{
    return kz_bt_chain(f, kz_bt_columns(f, "t", KZ_STR(KZ_BT_VERSION), KZ_STR(KZ_BT_VERSION)),
            kz_bt_newest(f), NULL);
}

/* Whether the row is still the one that is known: a read of one cell. */
static enum kz_code is_current(
        struct kz_bt *bt, struct kz_bt_totals *t, bool *ret_current, struct kz_err *err)
{
    struct kz_bt_filters f = {0};
    struct update update = {.t = t};

    KZ_TRY(read_update(bt, t, version_cell(&f), &update, err)); /* no items: nothing to free */
    *ret_current = update.exists == t->exists &&
                   memcmp(update.version, t->version, VERSION_SIZE) == 0;
    return KZ_OK;
}

/* What has changed since (T2). */
static enum kz_code read_changes(struct kz_bt *bt, struct kz_bt_totals *t, struct kz_err *err)
{
    struct kz_bt_filters f = {0};
    struct update update = {.t = t};
    char above[8];
    KZ_BT_FILTER *version = version_cell(&f), *changed;
    enum kz_code rc;

    put_be(get_be(t->version) + 1, above);
    changed = kz_bt_chain(&f, kz_bt_columns(&f, "t", KZ_STR("0"), KZ_STR("g")), kz_bt_newest(&f),
            kz_bt_values(&f, kz_str_n(above, sizeof(above)), KZ_STR_NULL), NULL);
    rc = read_update(bt, t, kz_bt_interleave(&f, version, changed, NULL), &update, err);
    if (rc == KZ_OK) {
        if (update.exists == t->exists && get_be(update.version) >= get_be(t->version) &&
                memcmp(update.version + 8, t->version + 8, 8) == 0)
            apply_update(t, &update);
        else
            t->known = false;
    }
    kz_buf_done(&update.items);
    return rc;
}

static enum kz_code refresh(struct kz_bt *bt, struct kz_bt_totals *t, struct kz_err *err)
{
    bool current = false;

    if (t->known)
        KZ_TRY(is_current(bt, t, &current, err));
    if (t->known && !current)
        KZ_TRY(read_changes(bt, t, err));
    return t->known ? KZ_OK : read_all(bt, t, err);
}

/* ---- deciding -------------------------------------------------------------------------------- */

/* What a batch would change, in its order; the same id may come more than once. */
struct plan {
    struct item items[BATCH_MAX];
    size_t count;
};

static const struct item *find_planned(
        const struct kz_bt_totals *t, const struct plan *plan, uint64_t id)
{
    for (size_t i = plan->count; i > 0; i--)
        if (plan->items[i - 1].id == id)
            return &plan->items[i - 1];
    return find_item(t, id);
}

static size_t count_since(const struct kz_bt_totals *t, const struct plan *plan, int64_t since_ms)
{
    size_t count = 0;

    for (size_t i = 0; i < t->count; i++)
        count += t->items[i].what == HELD && t->items[i].at_ms >= since_ms;
    for (size_t i = 0; i < plan->count; i++)
        if (plan->items[i].at_ms >= since_ms)
            count += plan->items[i].what == HELD ? 1 : (size_t)-1;
    return count;
}

static void decide(const struct kz_bt_totals *t, struct plan *plan, struct ask *ask)
{
    const struct item *there = find_planned(t, plan, ask->id);
    bool held = there && there->what == HELD;

    ask->code = KZ_OK;
    if (ask->release) {
        if (held)
            plan->items[plan->count++] = (struct item){ask->id, there->at_ms, RELEASED};
        return;
    }
    ask->held = held;
    if (held || count_since(t, plan, ask->since_ms) >= ask->max)
        return;
    if (t->count + plan->count >= CELLS_MAX) {
        ask->code = kz_fail(ask->err, KZ_LIMIT,
                "over %d deliveries are remembered under one cap in total", CELLS_MAX);
        return;
    }
    plan->items[plan->count++] = (struct item){ask->id, ask->at_ms, HELD};
    ask->held = true;
}

/* The earliest window of those who reserve; nothing before it counts for any of them. */
static int64_t earliest_since(struct ask *const *asks, size_t count)
{
    int64_t since_ms = INT64_MAX;

    for (size_t i = 0; i < count; i++)
        if (!asks[i]->release)
            since_ms = KZ_MIN(since_ms, asks[i]->since_ms);
    return since_ms == INT64_MAX ? INT64_MIN : since_ms;
}

static size_t find_past(const struct kz_bt_totals *t, const struct plan *plan, int64_t since_ms,
        uint64_t ids[TRIM_MAX])
{
    size_t count = 0;

    for (size_t i = 0; i < t->count && count < TRIM_MAX; i++)
        if (t->items[i].at_ms < since_ms && find_planned(t, plan, t->items[i].id) == &t->items[i])
            ids[count++] = t->items[i].id;
    return count;
}

/* ---- changing -------------------------------------------------------------------------------- */

struct names { /* what the mutations of one change borrow */
    char ids[BATCH_MAX + TRIM_MAX][16];
    char values[BATCH_MAX][VALUE_SIZE];
    char version[VERSION_SIZE];
};

static void next_version(const struct kz_bt_totals *t, char version[VERSION_SIZE])
{
    memcpy(version, t->version, VERSION_SIZE);
    put_be(get_be(t->version) + 1, version);
    if (!t->exists)
        kz_random_bytes(version + 8, 8);
}

static void add_changes(const struct plan *plan, const uint64_t *past, size_t past_count,
        struct names *names, struct kz_bt_changes *changes)
{
    struct kz_str version = kz_str_n(names->version, VERSION_SIZE);

    kz_bt_replace(changes, "t", KZ_STR(KZ_BT_VERSION), version);
    for (size_t i = 0; i < plan->count; i++) {
        struct kz_str id = kz_str_n(names->ids[i], 16);

        kz_bt_put_hex(plan->items[i].id, names->ids[i]);
        memcpy(names->values[i], names->version, 8);
        put_be((uint64_t)plan->items[i].at_ms, names->values[i] + 8);
        names->values[i][16] = plan->items[i].what;
        kz_bt_replace(changes, "t", id, kz_str_n(names->values[i], VALUE_SIZE));
    }
    for (size_t i = 0; i < past_count; i++) {
        kz_bt_put_hex(past[i], names->ids[BATCH_MAX + i]);
        kz_bt_remove(changes, "t", kz_str_n(names->ids[BATCH_MAX + i], 16));
    }
}

/* One attempt (T1). `ret_done`: false: the row is of another version. */
static enum kz_code change(struct kz_bt *bt, struct kz_bt_totals *t, const struct plan *plan,
        int64_t since_ms, int64_t timeout_ms, bool *ret_done, struct kz_err *err)
{
    struct kz_bt_filters f = {0};
    struct kz_bt_changes changes = kz_bt_changes(2 + 2 * plan->count + TRIM_MAX);
    struct names *names = kz_malloc(sizeof(*names));
    uint64_t past[TRIM_MAX];
    size_t past_count = find_past(t, plan, since_ms, past);
    char until[VERSION_SIZE + 1] = {0};
    KZ_BT_FILTER *filter;
    enum kz_code rc;

    memcpy(until, t->version, VERSION_SIZE); /* and a NUL: the very next value */
    filter = t->exists ? kz_bt_chain(&f, version_cell(&f),
                                 kz_bt_values(&f, kz_str_n(t->version, VERSION_SIZE),
                                         kz_str_n(until, sizeof(until))),
                                 NULL)
                       : version_cell(&f);
    next_version(t, names->version);
    add_changes(plan, past, past_count, names, &changes);
    rc = kz_bt_check_and_mutate(bt, kz_str_n(t->key, sizeof(t->key)), filter, t->exists, &changes,
            timeout_ms, ret_done, err);
    if (rc == KZ_OK && *ret_done) {
        for (size_t i = 0; i < plan->count; i++)
            put_item(t, &plan->items[i]);
        for (size_t i = 0; i < past_count; i++)
            drop_item(t, past[i]);
        t->exists = true;
        memcpy(t->version, names->version, VERSION_SIZE);
    }
    kz_bt_changes_done(&changes);
    free(names);
    return rc;
}

/* Decides all of `asks` and makes it so. Where nothing is to change, the row was looked at after
 * they asked: a change that went through has shown it, else it is read. */
static enum kz_code settle(struct kz_bt *bt, struct kz_bt_totals *t, struct ask **asks,
        size_t count, struct kz_err *err)
{
    const int64_t since_ms = earliest_since(asks, count);
    struct kz_rpc_patience patience = kz_rpc_patience(bt->timeout_ms);
    bool looked = false;

    for (;;) {
        struct plan plan = {.count = 0};
        bool done = false;
        enum kz_code rc;

        if (!t->known) {
            KZ_TRY(read_all(bt, t, err));
            looked = true;
        }
        for (size_t i = 0; i < count; i++)
            decide(t, &plan, asks[i]);
        if (!plan.count) {
            if (looked)
                return KZ_OK;
            KZ_TRY(refresh(bt, t, err));
            looked = true;
            continue;
        }
        rc = change(bt, t, &plan, since_ms,
                KZ_MIN(kz_rpc_left_ms(&patience), bt->timeout_ms / 3 + 1), &done, err);
        if (rc == KZ_OK && done)
            return KZ_OK;
        if (rc != KZ_OK && !kz_rpc_may_pass(rc))
            return kz_bt_failed(bt, rc, err);
        atomic_fetch_add(rc == KZ_OK ? &bt->conflicts : &bt->retries, 1);
        if (!kz_rpc_wait(&patience, 0))
            return rc != KZ_OK ? kz_bt_failed(bt, rc, err)
                               : kz_fail(err, KZ_UNAVAILABLE,
                                         "cap %016" PRIx64 " was changed by others again and again",
                                         t->action);
        KZ_TRY(refresh(bt, t, err));
        looked = true;
    }
}

/* ---- leading --------------------------------------------------------------------------------- */

static size_t take_batch(struct kz_bt_totals *t, struct ask *asks[BATCH_MAX])
{
    size_t count = 0;

    while (t->first && count < BATCH_MAX) {
        asks[count++] = t->first;
        t->first = t->first->next;
    }
    if (!t->first)
        t->last = &t->first;
    return count;
}

static void lead(struct kz_bt *bt, struct kz_bt_totals *t)
{
    struct ask *asks[BATCH_MAX];
    size_t count = take_batch(t, asks);
    struct kz_err err = {0};
    enum kz_code rc;

    t->led = true;
    pthread_mutex_unlock(&t->lock);
    rc = settle(bt, t, asks, count, &err);
    if (rc == KZ_OK)
        kz_rpc_health_worked(&bt->health);
    pthread_mutex_lock(&t->lock);
    t->led = false;
    for (size_t i = 0; i < count; i++) {
        if (rc != KZ_OK) {
            asks[i]->code = rc;
            if (asks[i]->err)
                *asks[i]->err = err;
        }
        asks[i]->done = true;
    }
    pthread_cond_broadcast(&t->turn);
}

static void submit(struct kz_bt *bt, struct kz_bt_totals *t, struct ask *ask)
{
    pthread_mutex_lock(&t->lock);
    *t->last = ask;
    t->last = &ask->next;
    while (!ask->done) {
        if (t->led)
            pthread_cond_wait(&t->turn, &t->lock);
        else
            lead(bt, t); /* its own may be behind a full batch: again */
    }
    pthread_mutex_unlock(&t->lock);
}

static struct kz_bt_totals *totals_of(struct kz_bt *bt, uint64_t action)
{
    struct kz_bt_totals *t;

    pthread_mutex_lock(&bt->totals_lock);
    for (t = bt->totals; t && t->action != action; t = t->next)
        ;
    if (!t) {
        t = kz_calloc(1, sizeof(*t));
        t->action = action;
        memcpy(t->key, "t#", 2);
        kz_bt_put_hex(action, t->key + 2);
        pthread_mutex_init(&t->lock, NULL);
        pthread_cond_init(&t->turn, NULL);
        t->last = &t->first;
        t->next = bt->totals;
        bt->totals = t;
    }
    pthread_mutex_unlock(&bt->totals_lock);
    return t;
}

enum kz_code kz_bt_reserve(struct kz_predictions *p, uint64_t action, uint64_t id, int64_t at_ms,
        int64_t since_ms, uint32_t max, bool *ret_held, struct kz_err *err)
{
    struct kz_bt *bt = kz_bt_of(p);
    struct ask ask = {.id = id, .at_ms = at_ms, .since_ms = since_ms, .max = max, .err = err};

    if (max > KZ_TOTALS_MAX)
        return kz_fail(err, KZ_INVALID, "a cap of %u in total is over the limit of %d", max,
                KZ_TOTALS_MAX);
    submit(bt, totals_of(bt, action), &ask);
    if (ask.code == KZ_OK)
        *ret_held = ask.held;
    return ask.code;
}

enum kz_code kz_bt_release(
        struct kz_predictions *p, uint64_t action, uint64_t id, struct kz_err *err)
{
    struct kz_bt *bt = kz_bt_of(p);
    struct ask ask = {.release = true, .id = id, .err = err};

    submit(bt, totals_of(bt, action), &ask);
    return ask.code;
}

void kz_bt_totals_done(struct kz_bt *bt)
{
    while (bt->totals) {
        struct kz_bt_totals *t = bt->totals;

        bt->totals = t->next;
        pthread_mutex_destroy(&t->lock);
        pthread_cond_destroy(&t->turn);
        free(t->items);
        free(t);
    }
}
