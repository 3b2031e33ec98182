#include "backends/memory/predictions.h"

#include <inttypes.h>
#include <pthread.h>
#include <search.h>
#include <stdlib.h>

#include "sys/clock.h"

/* Users, totals and words are each a tree by key (tsearch). */
struct user {
    uint64_t owner; /* first: what the tree compares */
    struct kz_buf state;
    struct kz_entry *entries; /* records and nothing else; each record is malloc'd */
    size_t entry_count, entry_capacity;
};

struct total {
    uint64_t id;
    int64_t at_ms;
};

struct totals {
    uint64_t action; /* first */
    struct total *items;
    size_t count, capacity;
};

struct word {
    char *name; /* first */
    struct kz_buf value;
};

struct memory {
    struct kz_predictions base;
    pthread_mutex_t lock;
    void *users, *totals, *words;
    struct kz_predictions_stats stats;
};

static struct memory *memory_of(struct kz_predictions *p)
{
    return KZ_CONTAINER_OF(p, struct memory, base);
}

static int by_number(const void *a, const void *b)
{
    uint64_t x, y;

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return x < y ? -1 : x > y;
}

static int by_name(const void *a, const void *b)
{
    const struct word *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static void *find(void *const *tree, uint64_t key)
{
    void **node = tfind(&key, tree, by_number);

    return node ? *node : NULL;
}

/* ---- users ----------------------------------------------------------------------------------- */

static void free_user(void *node)
{
    struct user *user = node;

    for (size_t i = 0; i < user->entry_count; i++)
        free((void *)(uintptr_t)user->entries[i].record.ptr);
    free(user->entries);
    kz_buf_done(&user->state);
    free(user);
}

static size_t entry_place(const struct user *user, const struct kz_entry *entry)
{
    size_t i = 0;

    while (i < user->entry_count &&
            (user->entries[i].request != entry->request || user->entries[i].seq != entry->seq))
        i++;
    return i;
}

static void put_entry(struct user *user, const struct kz_entry *entry)
{
    size_t at = entry_place(user, entry);
    char *copy;

    if (at < user->entry_count) {
        free((void *)(uintptr_t)user->entries[at].record.ptr);
        user->entries[at] = user->entries[--user->entry_count];
    }
    if (!entry->record.size)
        return;
    if (user->entry_count == user->entry_capacity) {
        user->entry_capacity = user->entry_capacity ? user->entry_capacity * 2 : 8;
        user->entries = kz_realloc(user->entries, user->entry_capacity * sizeof(*entry));
    }
    copy = kz_malloc(entry->record.size);
    memcpy(copy, entry->record.ptr, entry->record.size);
    user->entries[user->entry_count] = *entry;
    user->entries[user->entry_count++].record = kz_str_n(copy, entry->record.size);
}

static void fill_row(
        const struct user *user, const struct kz_predictions_read *what, struct kz_user_row *row)
{
    struct kz_entry *picked = kz_malloc((user->entry_count + 1) * sizeof(*picked));
    size_t count = 0;

    for (size_t i = 0; i < user->entry_count && what->entries_max; i++)
        if (!what->request || user->entries[i].request == what->request)
            picked[count++] = user->entries[i];
    kz_user_row_fill(row, kz_buf_view(&user->state), picked, count);
    row->entry_count = KZ_MIN(count, (size_t)what->entries_max);
    free(picked);
}

static enum kz_code memory_read(struct kz_predictions *p, uint64_t owner,
        const struct kz_predictions_read *what, struct kz_user_row *ret_row, struct kz_err *err)
{
    static const struct user nobody;
    struct memory *m = memory_of(p);
    const struct user *user;

    (void)err;
    pthread_mutex_lock(&m->lock);
    user = find(&m->users, owner);
    fill_row(user ? user : &nobody, what, ret_row);
    m->stats.reads++;
    m->stats.rows_read += user != NULL;
    pthread_mutex_unlock(&m->lock);
    return KZ_OK;
}

static enum kz_code conflict(struct memory *m, const char *what, uint64_t owner, struct kz_err *err)
{
    m->stats.conflicts++;
    return kz_fail(err, KZ_CONFLICT, "%s %016" PRIx64 " was changed meanwhile", what, owner);
}

static enum kz_code write_locked(struct memory *m, uint64_t owner, struct kz_str expected,
        struct kz_str state, const struct kz_entry *entries, size_t entry_count, struct kz_err *err)
{
    struct user *user = find(&m->users, owner);
    struct kz_str now = user ? kz_buf_view(&user->state) : KZ_STR_NULL;

    if (!kz_str_eq(now, expected))
        return kz_str_eq(now, state) ? KZ_OK : conflict(m, "state of user", owner, err);
    if (!user) {
        user = kz_calloc(1, sizeof(*user));
        user->owner = owner;
        tsearch(user, &m->users, by_number);
    }
    kz_buf_clear(&user->state);
    kz_buf_str(&user->state, state);
    for (size_t i = 0; i < entry_count; i++) {
        put_entry(user, &entries[i]);
        m->stats.bytes_written += entries[i].record.size;
    }
    m->stats.bytes_written += state.size;
    return KZ_OK;
}

static enum kz_code memory_write(struct kz_predictions *p, uint64_t owner, struct kz_str expected,
        struct kz_str state, const struct kz_entry *entries, size_t entry_count, struct kz_err *err)
{
    struct memory *m = memory_of(p);
    enum kz_code rc;

    KZ_TRY(kz_user_row_check(state, entries, entry_count, err));
    pthread_mutex_lock(&m->lock);
    m->stats.writes++;
    rc = write_locked(m, owner, expected, state, entries, entry_count, err);
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static enum kz_code memory_erase(struct kz_predictions *p, uint64_t owner, struct kz_err *err)
{
    struct memory *m = memory_of(p);
    struct user *user;

    (void)err;
    pthread_mutex_lock(&m->lock);
    user = find(&m->users, owner);
    if (user) {
        tdelete(user, &m->users, by_number);
        free_user(user);
    }
    pthread_mutex_unlock(&m->lock);
    return KZ_OK;
}

struct owners {
    uint64_t *items, from, until;
    size_t count, capacity;
};

static void collect_owner(const void *node, VISIT visit, void *arg)
{
    const struct user *user = *(const struct user *const *)node;
    struct owners *owners = arg;

    if ((visit != postorder && visit != leaf) || user->owner < owners->from ||
            (owners->until && user->owner >= owners->until))
        return;
    if (owners->count == owners->capacity) {
        owners->capacity = owners->capacity ? owners->capacity * 2 : 64;
        owners->items = kz_realloc(owners->items, owners->capacity * sizeof(uint64_t));
    }
    owners->items[owners->count++] = user->owner;
}

static enum kz_code memory_scan(struct kz_predictions *p, uint64_t from, uint64_t until,
        enum kz_code (*each)(void *arg, uint64_t owner, const struct kz_user_row *row), void *arg,
        struct kz_err *err)
{
    static const struct kz_predictions_read all = {.entries_max = UINT32_MAX};
    struct memory *m = memory_of(p);
    struct owners owners = {.from = from, .until = until};
    struct kz_user_row row = {0};
    enum kz_code rc = KZ_OK;

    (void)err;
    pthread_mutex_lock(&m->lock);
    twalk_r(m->users, collect_owner, &owners);
    pthread_mutex_unlock(&m->lock);
    for (size_t i = 0; i < owners.count && rc == KZ_OK; i++) {        /* `each` may call us */
        KZ_IGNORE(memory_read(p, owners.items[i], &all, &row, NULL)); /* it never fails */
        if (row.there)
            rc = each(arg, owners.items[i], &row);
    }
    kz_buf_done(&row.bytes);
    free(owners.items);
    return rc;
}

/* ---- totals ---------------------------------------------------------------------------------- */

static struct totals *totals_of(struct memory *m, uint64_t action)
{
    struct totals *totals = find(&m->totals, action);

    if (totals)
        return totals;
    totals = kz_calloc(1, sizeof(*totals));
    totals->action = action;
    tsearch(totals, &m->totals, by_number);
    return totals;
}

static size_t total_place(const struct totals *totals, uint64_t id)
{
    size_t i = 0;

    while (i < totals->count && totals->items[i].id != id)
        i++;
    return i;
}

/* How many lie at or after `since_ms`; the others are forgotten. */
static size_t forget_before(struct totals *totals, int64_t since_ms)
{
    size_t kept = 0;

    for (size_t i = 0; i < totals->count; i++)
        if (totals->items[i].at_ms >= since_ms)
            totals->items[kept++] = totals->items[i];
    totals->count = kept;
    return kept;
}

static enum kz_code memory_reserve(struct kz_predictions *p, uint64_t action, uint64_t id,
        int64_t at_ms, int64_t since_ms, uint32_t max, bool *ret_held, struct kz_err *err)
{
    struct memory *m = memory_of(p);
    struct totals *totals;
    bool held;

    if (max > KZ_TOTALS_MAX)
        return kz_fail(err, KZ_INVALID, "a cap of %u in total is over the limit of %d", max,
                KZ_TOTALS_MAX);
    pthread_mutex_lock(&m->lock);
    totals = totals_of(m, action);
    held = total_place(totals, id) < totals->count;
    if (!held && forget_before(totals, since_ms) < max) {
        if (totals->count == totals->capacity) {
            totals->capacity = totals->capacity ? totals->capacity * 2 : 16;
            totals->items = kz_realloc(totals->items, totals->capacity * sizeof(*totals->items));
        }
        totals->items[totals->count++] = (struct total){id, at_ms};
        held = true;
    }
    pthread_mutex_unlock(&m->lock);
    *ret_held = held;
    return KZ_OK;
}

static enum kz_code memory_release(
        struct kz_predictions *p, uint64_t action, uint64_t id, struct kz_err *err)
{
    struct memory *m = memory_of(p);
    struct totals *totals;
    size_t at;

    (void)err;
    pthread_mutex_lock(&m->lock);
    totals = totals_of(m, action);
    at = total_place(totals, id);
    if (at < totals->count)
        totals->items[at] = totals->items[--totals->count];
    pthread_mutex_unlock(&m->lock);
    return KZ_OK;
}

/* ---- words ----------------------------------------------------------------------------------- */

static struct word *find_word(struct memory *m, const char *name)
{
    struct word key = {.name = (char *)(uintptr_t)name};
    void **node = tfind(&key, &m->words, by_name);

    return node ? *node : NULL;
}

static enum kz_code memory_word(
        struct kz_predictions *p, const char *name, struct kz_buf *out, struct kz_err *err)
{
    struct memory *m = memory_of(p);
    const struct word *word;

    (void)err;
    kz_buf_clear(out);
    pthread_mutex_lock(&m->lock);
    word = find_word(m, name);
    if (word)
        kz_buf_str(out, kz_buf_view(&word->value));
    pthread_mutex_unlock(&m->lock);
    return KZ_OK;
}

static enum kz_code set_word_locked(struct memory *m, const char *name, struct kz_str expected,
        struct kz_str value, struct kz_err *err)
{
    struct word *word = find_word(m, name);
    struct kz_str now = word ? kz_buf_view(&word->value) : KZ_STR_NULL;

    if (!kz_str_eq(now, expected)) {
        if (kz_str_eq(now, value))
            return KZ_OK;
        m->stats.conflicts++;
        return kz_fail(err, KZ_CONFLICT, "\"%s\" was changed meanwhile", name);
    }
    if (!word) {
        word = kz_calloc(1, sizeof(*word));
        word->name = kz_strdup(name);
        tsearch(word, &m->words, by_name);
    }
    kz_buf_clear(&word->value);
    kz_buf_str(&word->value, value);
    return KZ_OK;
}

static enum kz_code memory_set_word(struct kz_predictions *p, const char *name,
        struct kz_str expected, struct kz_str value, struct kz_err *err)
{
    struct memory *m = memory_of(p);
    enum kz_code rc;

    if (value.size > KZ_STATE_SIZE_MAX)
        return kz_fail(err, KZ_TOO_LARGE, "\"%s\" of %zu bytes is over the limit of %d", name,
                value.size, KZ_STATE_SIZE_MAX);
    pthread_mutex_lock(&m->lock);
    rc = set_word_locked(m, name, expected, value, err);
    pthread_mutex_unlock(&m->lock);
    return rc;
}

/* ---- the rest -------------------------------------------------------------------------------- */

static enum kz_code memory_check(struct kz_predictions *p, struct kz_err *err)
{
    (void)p, (void)err;
    return KZ_OK;
}

static enum kz_code memory_create(struct kz_predictions *p,
        void (*say)(void *arg, const char *line), void *arg, struct kz_err *err)
{
    (void)p, (void)say, (void)arg, (void)err;
    return KZ_OK;
}

static void memory_stats(struct kz_predictions *p, struct kz_predictions_stats *ret_stats)
{
    struct memory *m = memory_of(p);

    pthread_mutex_lock(&m->lock);
    *ret_stats = m->stats;
    pthread_mutex_unlock(&m->lock);
}

static void free_totals(void *node)
{
    struct totals *totals = node;

    free(totals->items);
    free(totals);
}

static void free_word(void *node)
{
    struct word *word = node;

    free(word->name);
    kz_buf_done(&word->value);
    free(word);
}

static void memory_close(struct kz_predictions *p)
{
    struct memory *m = memory_of(p);

    tdestroy(m->users, free_user);
    tdestroy(m->totals, free_totals);
    tdestroy(m->words, free_word);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static const struct kz_predictions_ops memory_ops = {
        .name = "memory",
        .read = memory_read,
        .write = memory_write,
        .erase = memory_erase,
        .reserve = memory_reserve,
        .release = memory_release,
        .word = memory_word,
        .set_word = memory_set_word,
        .scan = memory_scan,
        .check = memory_check,
        .create = memory_create,
        .stats = memory_stats,
        .close = memory_close,
};

struct kz_predictions *kz_memory_predictions_new(void)
{
    struct memory *m = kz_calloc(1, sizeof(*m));

    m->base.ops = &memory_ops;
    pthread_mutex_init(&m->lock, NULL);
    return &m->base;
}
