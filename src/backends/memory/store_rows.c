#include "backends/memory/store_rows.h"

#include <stdlib.h>

static int compare(const struct kz_row_key *x, const struct kz_row_key *y)
{
    size_t shorter;
    int order;

    if (x->a != y->a)
        return x->a < y->a ? -1 : 1;
    if (x->b != y->b)
        return x->b < y->b ? -1 : 1;
    if (x->c != y->c)
        return x->c < y->c ? -1 : 1;
    shorter = KZ_MIN(x->tail.size, y->tail.size);
    order = shorter ? memcmp(x->tail.ptr, y->tail.ptr, shorter) : 0;
    if (order)
        return order;
    return x->tail.size < y->tail.size ? -1 : x->tail.size > y->tail.size;
}

void kz_rows_done(struct kz_rows *rows)
{
    struct kz_row *row = rows->head[0];

    while (row) {
        struct kz_row *next = row->next[0];

        free(row->bytes);
        free(row);
        row = next;
    }
    *rows = (struct kz_rows){0};
}

/* For each level the link that leads past every row before `key`. */
static struct kz_row *find(
        const struct kz_rows *rows, const struct kz_row_key *key, struct kz_row ***ret_links)
{
    struct kz_row **links = (struct kz_row **)rows->head;

    for (unsigned level = KZ_ROWS_LEVELS; level-- > 0;) {
        if (level < rows->level) {
            while (links[level] && compare(&links[level]->key, key) < 0)
                links = links[level]->next;
        }
        if (ret_links)
            ret_links[level] = &links[level];
    }
    return links[0];
}

struct kz_row *kz_rows_seek(const struct kz_rows *rows, struct kz_row_key key)
{
    return find(rows, &key, NULL);
}

struct kz_row *kz_rows_get(const struct kz_rows *rows, struct kz_row_key key)
{
    struct kz_row *row = find(rows, &key, NULL);

    return row && compare(&row->key, &key) == 0 ? row : NULL;
}

static unsigned random_level(struct kz_rows *rows)
{
    unsigned level = 1;

    rows->random = rows->random * 6364136223846793005u + 1442695040888963407u;
    for (uint64_t bits = rows->random >> 16; level < KZ_ROWS_LEVELS && (bits & 3) == 3; bits >>= 2)
        level++;
    return level;
}

static void set_value(struct kz_row *row, struct kz_str value, uint64_t version)
{
    char *bytes = kz_malloc(KZ_MAX(value.size, (size_t)1));

    if (value.size)
        memcpy(bytes, value.ptr, value.size);
    free(row->bytes);
    row->bytes = bytes;
    row->size = value.size;
    row->version = version;
}

void kz_rows_put(struct kz_rows *rows, struct kz_row_key key, struct kz_str value, uint64_t version)
{
    struct kz_row **links[KZ_ROWS_LEVELS];
    struct kz_row *row = find(rows, &key, links);
    unsigned level;
    char *tail;

    if (row && compare(&row->key, &key) == 0) {
        set_value(row, value, version);
        return;
    }
    level = random_level(rows);
    row = kz_calloc(1, sizeof(*row) + level * sizeof(row->next[0]) + key.tail.size);
    tail = (char *)&row->next[level];
    if (key.tail.size)
        memcpy(tail, key.tail.ptr, key.tail.size);
    row->key = key;
    row->key.tail = kz_str_n(tail, key.tail.size);
    row->level = level;
    set_value(row, value, version);
    for (unsigned i = 0; i < level; i++) {
        row->next[i] = *links[i];
        *links[i] = row;
    }
    rows->level = KZ_MAX(rows->level, level);
    rows->count++;
}

bool kz_rows_remove(struct kz_rows *rows, struct kz_row_key key)
{
    struct kz_row **links[KZ_ROWS_LEVELS];
    struct kz_row *row = find(rows, &key, links);

    if (!row || compare(&row->key, &key) != 0)
        return false;
    for (unsigned i = 0; i < row->level; i++)
        *links[i] = row->next[i];
    rows->count--;
    free(row->bytes);
    free(row);
    return true;
}
