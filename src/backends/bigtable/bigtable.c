#include "backends/bigtable/bigtable.h"

#include <stdio.h>
#include <stdlib.h>

#include "backends/bigtable/bigtable_int.h"
#include "sys/clock.h"

#define DATA_ENDPOINT "bigtable.googleapis.com:443"
#define ADMIN_ENDPOINT "bigtableadmin.googleapis.com:443"

enum { TABLE_NAME_MAX = 50, DEFAULT_TIMEOUT_MS = 10000, ENTRY_FORMAT = 1 };

/* ---- names ----------------------------------------------------------------------------------- */

void kz_bt_put_hex(uint64_t number, char out[16])
{
    for (int i = 15; i >= 0; i--, number >>= 4)
        out[i] = "0123456789abcdef"[number & 15];
}

bool kz_bt_get_hex(struct kz_str text, uint64_t *ret_number)
{
    uint64_t number = 0;

    if (text.size != 16)
        return false;
    for (size_t i = 0; i < 16; i++) {
        char c = text.ptr[i];

        if (c >= '0' && c <= '9')
            number = number << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            number = number << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false;
    }
    *ret_number = number;
    return true;
}

struct row_key {
    char digits[KZ_BT_KEY_SIZE];
};

static struct kz_str key_of(struct row_key *key, uint64_t owner)
{
    kz_bt_put_hex(owner, key->digits);
    return kz_str_n(key->digits, sizeof(key->digits));
}

/* The newest entry first: the complement of its seq leads. */
static void put_qualifier(uint64_t seq, uint64_t request, char out[KZ_BT_QUALIFIER_SIZE])
{
    kz_bt_put_hex(~seq, out);
    kz_bt_put_hex(request, out + 16);
}

/* ---- reading --------------------------------------------------------------------------------- */

struct gathering {
    struct kz_user_row *row;
    struct kz_buf entries; /* struct kz_entry */
};

static enum kz_code decode_entry(
        const struct kz_bt_cell *cell, struct kz_entry *ret_entry, struct kz_err *err)
{
    struct kz_entry entry = {0};
    uint64_t complement;

    if (cell->qualifier.size != KZ_BT_QUALIFIER_SIZE ||
            !kz_bt_get_hex(kz_str_n(cell->qualifier.ptr, 16), &complement) ||
            !kz_bt_get_hex(kz_str_n(cell->qualifier.ptr + 16, 16), &entry.request))
        return kz_fail(err, KZ_CORRUPT, "entry \"" KZ_STR_FMT "\" has no valid name",
                KZ_STR_ARG(cell->qualifier));
    if (cell->value.size < KZ_BT_HEAD_SIZE || cell->value.ptr[0] != ENTRY_FORMAT)
        return kz_fail(err, cell->value.size ? KZ_UNSUPPORTED : KZ_CORRUPT,
                "entry \"" KZ_STR_FMT "\" is not of format %d", KZ_STR_ARG(cell->qualifier),
                ENTRY_FORMAT);
    entry.seq = ~complement;
    entry.type = (uint8_t)cell->value.ptr[1];
    memcpy(&entry.at_ms, cell->value.ptr + 8, sizeof(entry.at_ms));
    entry.record = kz_str_n(cell->value.ptr + KZ_BT_HEAD_SIZE, cell->value.size - KZ_BT_HEAD_SIZE);
    *ret_entry = entry;
    return KZ_OK;
}

/* A cell may come again (versions not collected yet, an interleave): the first is the newest. */
static enum kz_code gather(
        struct gathering *gathering, const struct kz_bt_row *from, struct kz_err *err)
{
    struct kz_str state = KZ_STR_NULL;
    struct kz_str before = KZ_STR_NULL;

    kz_buf_clear(&gathering->entries);
    for (size_t i = 0; i < from->cell_count; i++) {
        const struct kz_bt_cell *cell = &from->cells[i];

        if (kz_str_is(cell->family, "s") && kz_str_is(cell->qualifier, KZ_BT_STATE)) {
            if (!state.size)
                KZ_TRY(kz_bt_cell_value(cell, &state, err));
        } else if (kz_str_is(cell->family, "e") && !kz_str_eq(cell->qualifier, before)) {
            struct kz_entry entry;

            KZ_TRY(decode_entry(cell, &entry, err));
            kz_buf_put(&gathering->entries, &entry, sizeof(entry));
            before = cell->qualifier;
        }
    }
    kz_user_row_fill(gathering->row, state, (struct kz_entry *)(void *)gathering->entries.data,
            gathering->entries.size / sizeof(struct kz_entry));
    return KZ_OK;
}

static enum kz_code gather_one(void *arg, const struct kz_bt_row *row, struct kz_err *err)
{
    return gather(arg, row, err);
}

/* An entry comes after its request, so those of a request lie among what is newer than it: few, in
 * an order that has them first. The regular expression then looks at those only. */
static KZ_BT_FILTER *user_filter(struct kz_bt_filters *f, const struct kz_predictions_read *what,
        char until[16], char regex[24])
{
    KZ_BT_FILTER *state = kz_bt_chain(f, kz_bt_family(f, "s"), kz_bt_newest(f), NULL);
    KZ_BT_FILTER *entries;

    if (!what->entries_max)
        return state;
    if (what->request) {
        kz_bt_put_hex(~what->request, until);
        memcpy(regex, ".{16}", 5);
        kz_bt_put_hex(what->request, regex + 5);
        entries = kz_bt_chain(f, kz_bt_columns(f, "e", KZ_STR("0"), kz_str_n(until, 16)),
                kz_bt_qualifier(f, kz_str_n(regex, 21)), kz_bt_newest(f),
                kz_bt_limit(f, what->entries_max), NULL);
    } else {
        entries = kz_bt_chain(
                f, kz_bt_family(f, "e"), kz_bt_newest(f), kz_bt_limit(f, what->entries_max), NULL);
    }
    return kz_bt_interleave(f, state, entries, NULL);
}

static enum kz_code bigtable_read(struct kz_predictions *p, uint64_t owner,
        const struct kz_predictions_read *what, struct kz_user_row *ret_row, struct kz_err *err)
{
    struct gathering gathering = {.row = ret_row};
    struct kz_bt_filters filters = {0};
    struct row_key key;
    char until[16], regex[24];
    const struct kz_bt_scan scan = {
            .key = key_of(&key, owner), .filter = user_filter(&filters, what, until, regex)};
    struct kz_user_row row = {.bytes = ret_row->bytes};
    enum kz_code rc;

    gathering.row = &row;
    kz_user_row_fill(&row, KZ_STR_NULL, NULL, 0);
    rc = kz_bt_read_rows(kz_bt_of(p), &scan, gather_one, &gathering, err);
    kz_buf_done(&gathering.entries);
    if (rc == KZ_OK)
        *ret_row = row;
    else
        ret_row->bytes = row.bytes; /* it may have been moved */
    return rc;
}

struct user_scan {
    struct gathering gathering;
    struct kz_user_row row;
    enum kz_code (*each)(void *arg, uint64_t owner, const struct kz_user_row *row);
    void *arg;
};

static enum kz_code scan_one(void *arg, const struct kz_bt_row *row, struct kz_err *err)
{
    struct user_scan *scan = arg;
    uint64_t owner;

    if (!kz_bt_get_hex(row->key, &owner))
        return kz_fail(
                err, KZ_CORRUPT, "row \"" KZ_STR_FMT "\" is no user's", KZ_STR_ARG(row->key));
    KZ_TRY(gather(&scan->gathering, row, err));
    return scan->row.there ? scan->each(scan->arg, owner, &scan->row) : KZ_OK;
}

static enum kz_code bigtable_scan(struct kz_predictions *p, uint64_t from, uint64_t until,
        enum kz_code (*each)(void *arg, uint64_t owner, const struct kz_user_row *row), void *arg,
        struct kz_err *err)
{
    struct user_scan users = {.each = each, .arg = arg};
    struct kz_bt_filters f = {0};
    struct row_key from_key, until_key;
    const struct kz_bt_scan scan = {
            .from = key_of(&from_key, from),
            .until = until ? key_of(&until_key, until) : KZ_STR("g"), /* behind the last digit */
            .filter = kz_bt_chain(&f, kz_bt_family(&f, "s|e"), kz_bt_newest(&f), NULL),
    };
    enum kz_code rc;

    if (until && from >= until)
        return KZ_OK;
    users.gathering.row = &users.row;
    rc = kz_bt_read_rows(kz_bt_of(p), &scan, scan_one, &users, err);
    kz_buf_done(&users.gathering.entries);
    kz_buf_done(&users.row.bytes);
    return rc;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void put_entry(struct kz_bt_changes *changes, const struct kz_entry *entry,
        struct kz_str qualifier, char *value)
{
    if (!entry->record.size) {
        kz_bt_remove(changes, "e", qualifier);
        return;
    }
    memset(value, 0, KZ_BT_HEAD_SIZE);
    value[0] = ENTRY_FORMAT;
    value[1] = (char)entry->type;
    memcpy(value + 8, &entry->at_ms, sizeof(entry->at_ms));
    memcpy(value + KZ_BT_HEAD_SIZE, entry->record.ptr, entry->record.size);
    kz_bt_set(changes, "e", qualifier, kz_str_n(value, KZ_BT_HEAD_SIZE + entry->record.size));
    if (entry->json.size)
        kz_bt_replace(changes, "p", entry->model, entry->json);
}

static enum kz_code bigtable_write(struct kz_predictions *p, uint64_t owner, struct kz_str expected,
        struct kz_str state, const struct kz_entry *entries, size_t entry_count, struct kz_err *err)
{
    struct kz_bt_changes changes;
    struct row_key key;
    const struct kz_bt_place place = {key_of(&key, owner), "s", KZ_BT_STATE};
    size_t bytes = 0;
    enum kz_code rc;
    char *qualifiers, *values;

    KZ_TRY(kz_user_row_check(state, entries, entry_count, err));
    for (size_t i = 0; i < entry_count; i++)
        bytes += KZ_BT_HEAD_SIZE + entries[i].record.size;
    qualifiers = kz_malloc(entry_count * KZ_BT_QUALIFIER_SIZE + bytes + 1);
    values = qualifiers + entry_count * KZ_BT_QUALIFIER_SIZE;
    changes = kz_bt_changes(3 * entry_count + 2);
    for (size_t i = 0; i < entry_count; i++) {
        char *qualifier = qualifiers + i * KZ_BT_QUALIFIER_SIZE;

        put_qualifier(entries[i].seq, entries[i].request, qualifier);
        put_entry(&changes, &entries[i], kz_str_n(qualifier, KZ_BT_QUALIFIER_SIZE), values);
        values += KZ_BT_HEAD_SIZE + entries[i].record.size;
    }
    rc = kz_bt_swap(kz_bt_of(p), &place, expected, state, &changes, err);
    kz_bt_changes_done(&changes);
    free(qualifiers);
    return rc;
}

static enum kz_code bigtable_erase(struct kz_predictions *p, uint64_t owner, struct kz_err *err)
{
    struct kz_bt_changes changes = kz_bt_changes(1);
    struct row_key key;
    enum kz_code rc;

    kz_bt_remove_row(&changes);
    rc = kz_bt_mutate(kz_bt_of(p), key_of(&key, owner), &changes, err);
    kz_bt_changes_done(&changes);
    return rc;
}

/* ---- words ----------------------------------------------------------------------------------- */

static enum kz_code take_word(void *arg, const struct kz_bt_row *row, struct kz_err *err)
{
    struct kz_buf *out = arg;
    struct kz_str value;

    if (!row->cell_count)
        return KZ_OK;
    KZ_TRY(kz_bt_cell_value(&row->cells[0], &value, err));
    kz_buf_clear(out);
    kz_buf_str(out, value);
    return KZ_OK;
}

static struct kz_buf word_key(const char *name)
{
    struct kz_buf key = {0};

    kz_buf_cstr(&key, "w#");
    kz_buf_cstr(&key, name);
    return key;
}

static enum kz_code bigtable_word(
        struct kz_predictions *p, const char *name, struct kz_buf *out, struct kz_err *err)
{
    struct kz_buf key = word_key(name), value = {0};
    struct kz_bt_filters f = {0};
    const struct kz_bt_scan scan = {.key = kz_buf_view(&key),
            .filter = kz_bt_chain(&f, kz_bt_family(&f, "w"), kz_bt_newest(&f), NULL)};
    enum kz_code rc = kz_bt_read_rows(kz_bt_of(p), &scan, take_word, &value, err);

    if (rc == KZ_OK) {
        kz_buf_clear(out);
        kz_buf_str(out, kz_buf_view(&value));
    }
    kz_buf_done(&value);
    kz_buf_done(&key);
    return rc;
}

static enum kz_code bigtable_set_word(struct kz_predictions *p, const char *name,
        struct kz_str expected, struct kz_str value, struct kz_err *err)
{
    struct kz_buf key = word_key(name);
    const struct kz_bt_place place = {kz_buf_view(&key), "w", KZ_BT_WORD};
    enum kz_code rc = KZ_OK;

    if (value.size > KZ_STATE_SIZE_MAX)
        rc = kz_fail(err, KZ_TOO_LARGE, "\"%s\" of %zu bytes is over the limit of %d", name,
                value.size, KZ_STATE_SIZE_MAX);
    if (rc == KZ_OK)
        rc = kz_bt_swap(kz_bt_of(p), &place, expected, value, NULL, err);
    kz_buf_done(&key);
    return rc;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void bigtable_stats(struct kz_predictions *p, struct kz_predictions_stats *ret_stats)
{
    struct kz_bt *bt = kz_bt_of(p);
    struct kz_predictions_stats stats = {
            .reads = bt->reads,
            .writes = bt->writes,
            .conflicts = bt->conflicts,
            .retries = bt->retries,
            .rows_read = bt->rows_read,
            .bytes_written = bt->bytes_written,
            .read_us_total = bt->read_us_total,
            .write_us_total = bt->write_us_total,
    };

    kz_rpc_health_get(&bt->health, &stats.throttled, stats.problem);
    kz_rpc_health_add_silence(bt->data, stats.problem);
    *ret_stats = stats;
}

static void bigtable_close(struct kz_predictions *p)
{
    struct kz_bt *bt = kz_bt_of(p);

    kz_bt_totals_done(bt);
    if (bt->data)
        kz_rpc_channel_close(bt->data);
    if (bt->admin)
        kz_rpc_channel_close(bt->admin);
    pthread_mutex_destroy(&bt->totals_lock);
    kz_rpc_health_done(&bt->health);
    free(bt->project);
    free(bt->instance);
    free(bt->table);
    free(bt->instance_name);
    free(bt->table_name);
    free(bt->app_profile);
    free(bt->data_routing);
    free(bt->table_routing);
    free(bt->instance_routing);
    bt->magic = 0;
    free(bt);
}

static const struct kz_predictions_ops bigtable_ops = {
        .name = "bigtable",
        .read = bigtable_read,
        .write = bigtable_write,
        .erase = bigtable_erase,
        .reserve = kz_bt_reserve,
        .release = kz_bt_release,
        .word = bigtable_word,
        .set_word = bigtable_set_word,
        .scan = bigtable_scan,
        .check = kz_bt_check,
        .create = kz_bt_create,
        .stats = bigtable_stats,
        .close = bigtable_close,
};

static char *text(const char *fmt, ...) KZ_PRINTF(1, 2);
static char *text(const char *fmt, ...)
{
    struct kz_buf buf = {0};
    va_list args;

    va_start(args, fmt);
    kz_buf_vprintf(&buf, fmt, args);
    va_end(args);
    kz_buf_char(&buf, '\0');
    return buf.data;
}

/* [_a-zA-Z0-9][-_.a-zA-Z0-9]*, as the service wants it. */
static bool is_table_name(const char *name)
{
    size_t size = strspn(name, "_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.");

    return size > 0 && size <= TABLE_NAME_MAX && !name[size] && name[0] != '-' && name[0] != '.';
}

static enum kz_code check_options(const struct kz_bigtable_options *options, struct kz_err *err)
{
    if (!options->project || !options->project[0])
        return kz_fail(err, KZ_CONFIG, "Bigtable needs the Google Cloud project");
    if (!options->instance || !options->instance[0])
        return kz_fail(err, KZ_CONFIG, "Bigtable needs the name of an instance");
    if (!options->table || !is_table_name(options->table))
        return kz_fail(err, KZ_CONFIG,
                "\"%s\" is no name of a Bigtable table: 1 to %d letters, digits, \"-\", \"_\" and "
                "\".\", the first a letter, a digit or \"_\"",
                options->table ? options->table : "", TABLE_NAME_MAX);
    return KZ_OK;
}

static enum kz_code connect_channels(
        struct kz_bt *bt, const struct kz_bigtable_options *options, struct kz_err *err)
{
    const char *emulator = options->emulator ? options->emulator : getenv("BIGTABLE_EMULATOR_HOST");
    struct kz_rpc_target target = {.endpoint = DATA_ENDPOINT,
            .emulator = emulator,
            .connection_count = options->connection_count};

    KZ_TRY(kz_rpc_connect(options->rpc, &target, &bt->data, err));
    target.endpoint = ADMIN_ENDPOINT;
    target.connection_count = 1;
    return kz_rpc_connect(options->rpc, &target, &bt->admin, err);
}

enum kz_code kz_bigtable_open(const struct kz_bigtable_options *options,
        struct kz_predictions **ret_predictions, struct kz_err *err)
{
    struct kz_bt *bt;
    enum kz_code rc;

    KZ_TRY(check_options(options, err));
    bt = kz_calloc(1, sizeof(*bt));
    bt->magic = KZ_BT_MAGIC;
    bt->base.ops = &bigtable_ops;
    bt->project = kz_strdup(options->project);
    bt->instance = kz_strdup(options->instance);
    bt->table = kz_strdup(options->table);
    bt->app_profile = kz_strdup(options->app_profile ? options->app_profile : "");
    bt->instance_name = text("projects/%s/instances/%s", bt->project, bt->instance);
    bt->table_name = text("%s/tables/%s", bt->instance_name, bt->table);
    bt->data_routing = text("table_name=%s&app_profile_id=%s", bt->table_name, bt->app_profile);
    bt->table_routing = text("name=%s", bt->table_name);
    bt->instance_routing = text("parent=%s", bt->instance_name);
    bt->retention_ms = options->retention_ms;
    bt->state_retention_ms = options->state_retention_ms;
    bt->timeout_ms = options->timeout_ms ? options->timeout_ms : DEFAULT_TIMEOUT_MS;
    pthread_mutex_init(&bt->totals_lock, NULL);
    kz_rpc_health_init(&bt->health);
    rc = connect_channels(bt, options, err);
    if (rc != KZ_OK) {
        bigtable_close(&bt->base);
        return rc;
    }
    *ret_predictions = &bt->base;
    return KZ_OK;
}
