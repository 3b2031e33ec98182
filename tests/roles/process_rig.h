/* tests/roles/process_rig.h -- a random stream of events of some users, through the embedded pipeline and through
 * what the process role is made of, and what came of it in a form that can be compared.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "app/pipeline/pipeline_int.h"
#include "app/roles/process.h"
#include "backends/memory/store.h"
#include "base/hash.h"
#include "contract/message.h"
#include "sys/file_sim.h"
#include "sys/random.h"
#include "../support.h"

#define MINUTE ((int64_t)60000)
#define T0 ((int64_t)1760000000000)

/* ---- a project that uses all there is of rules ---------------------------------------------- */

static struct kz_column_def rig_columns[] = {
        {.name = "price", .path = "$.price", .type = KZ_TYPE_FLOAT},
        {.name = "item", .path = "$.item", .type = KZ_TYPE_TEXT},
};
#define RIG_HISTORY                                                                                \
    {                                                                                              \
        7 * 24 * 60 * MINUTE, 50, false                                                            \
    }
static struct kz_trigger_def rig_triggers[] = {
        {.name = "browsing",
                .when = "name IN ('view', 'cart') AND price > 20",
                .debounce_ms = 30000,
                .max_age_ms = 10 * MINUTE,
                .history = RIG_HISTORY},
        {.name = "abandoning",
                .when = "name = 'cart'",
                .delay_ms = 2 * MINUTE,
                .unless = "name = 'purchase'",
                .having = "(SELECT count(*) FROM events WHERE name = 'view') >= 2",
                .history = RIG_HISTORY},
        {.name = "third_view",
                .count = {.of = "name = 'view'",
                        .within_ms = 5 * MINUTE,
                        .reaches = 3,
                        .rearm_ms = 5 * MINUTE},
                .history = RIG_HISTORY},
        {.name = "spending",
                .when = "name = 'purchase'",
                .having = "(SELECT sum(price) FROM events) > 100 AND @first_seen < @now",
                .history = {60 * MINUTE, 10, false}},
};
static const char *rig_of_purchase[] = {"browsing", "abandoning"};
static const char *rig_of_leave[] = {"third_view", "abandoning", "spending"};
static char rig_sql[] =
        "SELECT count(*) AS n, sum(price) AS total, count(DISTINCT session) AS sessions, "
        "@now - min(ts) AS age, @now - @first_seen AS since, @truncated AS cut, "
        "group_concat(item) AS items FROM events";
#define RIG_MODEL(n, rules)                                                                        \
    {                                                                                              \
        .name = n, .triggers = rules, .trigger_count = KZ_ARRAY_COUNT(rules), .runtime = "native", \
        .path = "/dev/null", .features_path = "f.sql", .features_sql = rig_sql,                    \
        .horizon_ms = 600000, .valid_for_ms = 600000, .history = RIG_HISTORY, .batch = {64, 1000}, \
        .replicas = {1, 1}, .timeout_ms = 1000, .queue_max = 1000, .config_json = "{}"             \
    }
static struct kz_model_def rig_models[] = {
        RIG_MODEL("purchase", rig_of_purchase), RIG_MODEL("leave", rig_of_leave)};
static const struct kz_project rig_project = {
        .name = "rig",
        .dir = "/",
        .file = "kizashi.yaml",
        .events = {.columns = rig_columns,
                .column_count = 2,
                .columns_id = 5,
                .max_ahead_ms = 5000,
                .max_behind_ms = 86400000,
                .dedupe_ms = 604800000,
                .session_gap_ms = 30 * MINUTE},
        .triggers = rig_triggers,
        .trigger_count = KZ_ARRAY_COUNT(rig_triggers),
        .models = rig_models,
        .model_count = KZ_ARRAY_COUNT(rig_models),
        .limits = {.segment_size_bytes = 1 << 20,
                .checkpoint_bytes = 256 << 20,
                .pending_max = 1000000,
                .dead_letters_max = 1000},
};

/* ---- a stream ------------------------------------------------------------------------------- */

struct rig_event {
    char user_id[16], anonymous_id[16], event_id[24], props[64];
    const char *name;
    enum kz_identity_op identity;
    int64_t ts_ms; /* our clock, when it came */
    int64_t client_ts_ms;
    double price;
    char item[8];
};

struct rig_stream {
    struct rig_event *events;
    size_t count;
};

static void rig_one(
        struct kz_prng *random, struct rig_event *e, size_t i, unsigned users, bool links)
{
    static const char *const names[] = {
            "view", "view", "view", "cart", "cart", "purchase", "noise"};
    unsigned person = (unsigned)kz_prng_below(random, users);

    e->name = names[kz_prng_below(random, KZ_ARRAY_COUNT(names))];
    snprintf(e->event_id, sizeof(e->event_id), "e%zu", i);
    e->price = (double)kz_prng_below(random, 80);
    snprintf(e->item, sizeof(e->item), "i%u", (unsigned)kz_prng_below(random, 30));
    snprintf(e->props, sizeof(e->props), "{\"price\": %g, \"item\": \"%s\"}", e->price, e->item);
    if (kz_prng_below(random, 2))
        snprintf(e->user_id, sizeof(e->user_id), "u%u", person);
    else /* a device; some are shared */
        snprintf(e->anonymous_id, sizeof(e->anonymous_id), "a%u",
                person + (unsigned)kz_prng_below(random, 2));
    if (links && kz_prng_below(random, 12) == 0) {
        e->identity = kz_prng_below(random, 4) ? KZ_IDENTITY_IDENTIFY : KZ_IDENTITY_ALIAS;
        e->name = e->identity == KZ_IDENTITY_ALIAS ? "alias" : "identify";
        snprintf(e->user_id, sizeof(e->user_id), "u%u", person);
        /* An alias's previous id may be a user's. */
        snprintf(e->anonymous_id, sizeof(e->anonymous_id), "%c%u",
                e->identity == KZ_IDENTITY_ALIAS && kz_prng_below(random, 2) ? 'u' : 'a',
                (unsigned)kz_prng_below(random, users));
    }
    if (kz_prng_below(random, 8) == 0) /* a clock that is off, or very wrong */
        e->client_ts_ms = e->ts_ms - (int64_t)kz_prng_below(random, 3) * 2 * 24 * 60 * MINUTE - 7;
}

/* `links`: ids are linked to each other, too. */
static struct rig_stream rig_stream(uint64_t seed, size_t count, unsigned users, bool links)
{
    struct kz_prng random;
    struct rig_stream stream = {kz_calloc(count, sizeof(struct rig_event)), count};
    int64_t now_ms = T0;

    kz_prng_init(&random, seed);
    for (size_t i = 0; i < count; i++) {
        struct rig_event *e = &stream.events[i];

        /* Of two ids in one millisecond that are linked later, which came first is known to nobody who
         * shares a store. */
        now_ms += 1 + (int64_t)kz_prng_below(&random, 4) * (int64_t)kz_prng_below(&random, 9000);
        e->ts_ms = now_ms;
        if (i && kz_prng_below(&random, 25) == 0) { /* sent again */
            *e = stream.events[kz_prng_below(&random, i)];
            e->ts_ms = now_ms;
        } else {
            rig_one(&random, e, i, users, links);
        }
    }
    return stream;
}

/* As shape makes it; the columns lie in the item. */
static struct kz_intake_item *rig_item(const struct rig_event *e)
{
    struct kz_intake_item *item = kz_calloc(1, sizeof(*item));

    item->event = (struct kz_event){
            .event_id = kz_str(e->event_id),
            .user_id = kz_str(e->user_id),
            .anonymous_id = kz_str(e->anonymous_id),
            .name = kz_str(e->name),
            .props = kz_str(e->props),
            .client_ts_ms = e->client_ts_ms,
            .received_at_ms = e->ts_ms,
            .identity = e->identity,
            .columns_id = 5,
            .column_count = 2,
            .columns = item->columns,
    };
    item->columns[0] = (struct kz_value){.type = KZ_TYPE_FLOAT, .real = e->price};
    item->columns[1] = (struct kz_value){.type = KZ_TYPE_TEXT, .text = kz_str(e->item)};
    return item;
}

/* ---- requests, in a form that does not know who made them ----------------------------------- */

struct rig_lines {
    char **items;
    size_t count, capacity;
};

static void rig_line(struct rig_lines *lines, struct kz_buf *text)
{
    if (lines->count == lines->capacity) {
        lines->capacity = lines->capacity ? lines->capacity * 2 : 256;
        lines->items = kz_realloc(lines->items, lines->capacity * sizeof(char *));
    }
    lines->items[lines->count++] = kz_strndup(text->data, text->size);
    kz_buf_clear(text);
}

static int rig_by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void rig_lines_done(struct rig_lines *lines)
{
    for (size_t i = 0; i < lines->count; i++)
        free(lines->items[i]);
    free(lines->items);
    *lines = (struct rig_lines){0};
}

/* A request with what its model would be given: parameters, features, the events it sees. */
static void rig_request(struct rig_lines *lines, struct kz_sql_expr *sql,
        struct kz_history_reader *reader, const struct kz_record *record, kz_lsn lsn,
        const struct kz_source *sources, size_t source_count)
{
    struct kz_str bytes = kz_record_body(record);
    const struct kz_request_body *body = (const void *)bytes.ptr;
    struct kz_history_query query = {
            .sources = sources,
            .source_count = source_count,
            .chain = KZ_CHAIN_EVENTS,
            .as_of = lsn,
            .events_max = 50,
            .since_ms = body->now_ms - 7 * 24 * 60 * MINUTE,
    };
    struct kz_sql_params params = {
            .now_ms = body->now_ms,
            .user_id = kz_span_str(bytes, body->user_id),
            .event_id = kz_span_str(bytes, body->event_id),
            .trigger_ts_ms = body->trigger_ts_ms,
            .session = body->session,
            .seq = body->event_seq,
            .first_seen_ms = body->first_seen_ms,
    };
    struct kz_history_rows rows;
    struct kz_buf text = {0}, encoded = {0};
    struct kz_row row;
    struct kz_err err;

    assert_int_equal(reader->ops->scan(reader, &query, &rows, &err), KZ_OK);
    params.truncated = rows.truncated;
    if (kz_sql_features(sql, &rows, &params, 0, &row, &err) != KZ_OK)
        fail_msg("features: %s", err.message);
    kz_row_encode(row.values, row.count, &encoded);
    kz_buf_printf(&text,
            "%c" KZ_STR_FMT " " KZ_STR_FMT " " KZ_STR_FMT " of " KZ_STR_FMT " now=%lld ts=%lld "
            "seen=%lld expires=%lld features=%016llx:",
            body->user_kind, KZ_STR_ARG(params.user_id),
            KZ_STR_ARG(kz_span_str(bytes, body->model)),
            KZ_STR_ARG(kz_span_str(bytes, body->trigger)), KZ_STR_ARG(params.event_id),
            (long long)body->now_ms, (long long)body->trigger_ts_ms, (long long)body->first_seen_ms,
            (long long)body->expires_ms, (unsigned long long)kz_hash_str(kz_buf_view(&encoded)));
    for (size_t i = 0; i < rows.count; i++) {
        struct kz_event event;

        assert_int_equal(kz_event_decode(rows.records[i], &event, NULL), KZ_OK);
        kz_buf_printf(
                &text, " " KZ_STR_FMT "@%lld", KZ_STR_ARG(event.event_id), (long long)event.ts_ms);
    }
    rig_line(lines, &text);
    reader->ops->release(reader, &rows);
    kz_buf_done(&text);
    kz_buf_done(&encoded);
}

struct rig_sql {
    struct kz_sql *sql;
    struct kz_sql_expr *features;
};

static struct rig_sql rig_sql_open(void)
{
    struct rig_sql s;
    struct kz_err err;

    assert_int_equal(kz_sql_open(&rig_project, &s.sql, &err), KZ_OK);
    if (kz_sql_compile(s.sql, KZ_SQL_FEATURES, rig_sql, (struct kz_place){"f.sql", 1, 1},
                &s.features, &err) != KZ_OK)
        fail_msg("%s", err.message);
    return s;
}

/* ---- through the embedded pipeline, on virtual time ----------------------------------------- */

static void rig_nobody(void *arg)
{
    (void)arg;
}

static void rig_submitted(
        struct kz_submission *submission, enum kz_code code, const struct kz_err *err)
{
    (void)submission, (void)err;
    assert_int_equal(code, KZ_OK);
}

struct rig_embedded {
    struct kz_pipeline *p;
    struct rig_lines *lines;
    struct rig_sql sql;
};

static enum kz_code rig_see(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct rig_embedded *e = arg;
    struct kz_source sources[KZ_SOURCES_MAX];
    size_t count;

    if (record->type != KZ_RECORD_REQUEST)
        return KZ_OK;
    count = kz_views_sources(e->p->views, kz_views_find_owner(e->p->views, record->owner),
            KZ_CHAIN_EVENTS, lsn, sources);
    rig_request(e->lines, e->sql.features, e->p->reader, record, lsn, sources, count);
    return KZ_OK;
}

/* What was asked, with all that is due by `end_ms`. */
static void rig_run_embedded(const struct rig_stream *stream, int64_t end_ms,
        struct rig_lines *lines, struct kz_pipeline_counters *ret_counters)
{
    struct kz_pipeline_options options = {
            .project = &rig_project,
            .fs = kz_fs_sim_new(1),
            .data_dir = "/data",
            .runtimes = support_runtimes,
            .wake = rig_nobody,
            .virtual_clock = true,
            .sync_inline = true,
            .ask = true,
    };
    struct rig_embedded e = {.lines = lines, .sql = rig_sql_open()};
    struct kz_err err;

    (void)support_project; /* of the others who include it */
    if (kz_pipeline_open(&options, &e.p, &err) != KZ_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < stream->count; i++) {
        struct kz_intake_item *item = rig_item(&stream->events[i]);
        struct kz_submission s = {.items = &item, .item_count = 1, .done = rig_submitted};
        struct kz_intake *intake = kz_pipeline_intake(e.p);

        assert_int_equal(kz_pipeline_set_clock(e.p, stream->events[i].ts_ms, &err), KZ_OK);
        intake->ops->submit(intake, &s);
        kz_pipeline_turn(e.p);
        free(item);
    }
    assert_int_equal(kz_pipeline_set_clock(e.p, end_ms, &err), KZ_OK);
    assert_int_equal(
            e.p->reader->ops->scan_all(e.p->reader, 0, UINT64_MAX, rig_see, &e, &err), KZ_OK);
    *ret_counters = e.p->counters;
    kz_pipeline_close(e.p);
    kz_fs_sim_free(options.fs);
    kz_sql_close(e.sql.sql);
    qsort(lines->items, lines->count, sizeof(char *), rig_by_text);
}

/* ---- a store that fails when told to -------------------------------------------------------- */

struct trouble {
    struct kz_store store; /* first */
    struct kz_store *inner;
    struct kz_store_ops ops;
    pthread_mutex_t lock;
    struct kz_prng dice;
    unsigned conflicts;    /* one commit in so many ends so; 0 none */
    unsigned lost_answers; /* commits that come about and say KZ_TIMEOUT */
    enum kz_code fail;     /* every commit; KZ_OK none */
};
static struct trouble *the_trouble; /* a transaction does not lead to its store */

static enum kz_code trouble_begin(
        struct kz_store *store, struct kz_store_txn **ret, struct kz_err *err)
{
    struct kz_store *inner = ((struct trouble *)store)->inner;

    return inner->ops->begin(inner, ret, err);
}

static bool trouble_roll(struct trouble *t, unsigned one_in)
{
    bool hit;

    pthread_mutex_lock(&t->lock);
    hit = one_in && kz_prng_below(&t->dice, one_in) == 0;
    pthread_mutex_unlock(&t->lock);
    return hit;
}

static enum kz_code trouble_commit(
        struct kz_store_txn *txn, const struct kz_store_commit *commit, struct kz_err *err)
{
    struct trouble *t = the_trouble;
    enum kz_code fail = __atomic_load_n(&t->fail, __ATOMIC_ACQUIRE), rc;

    if (trouble_roll(t, t->conflicts)) {
        t->inner->ops->rollback(txn);
        return kz_fail(err, KZ_CONFLICT, "so it was told");
    }
    if (fail != KZ_OK) {
        t->inner->ops->rollback(txn);
        return kz_fail(err, fail, "so it was told");
    }
    rc = t->inner->ops->commit(txn, commit, err);
    if (rc == KZ_OK && trouble_roll(t, t->lost_answers))
        return kz_fail(err, KZ_TIMEOUT, "the answer was lost");
    return rc;
}

#define INNER(store) (((struct trouble *)(store))->inner)
static int64_t trouble_retry(struct kz_store *store)
{
    return INNER(store)->ops->retry_ms(INNER(store));
}
static struct kz_history_reader *trouble_reader(struct kz_store *store)
{
    return INNER(store)->ops->reader(INNER(store));
}
static enum kz_code trouble_stones(struct kz_store *store, const uint64_t *hashes, size_t count,
        struct kz_str *ret, struct kz_buf *out, struct kz_err *err)
{
    return INNER(store)->ops->stones(INNER(store), hashes, count, ret, out, err);
}

static enum kz_code trouble_due(struct kz_store *store, int64_t now_ms, unsigned part,
        unsigned part_count, size_t max, struct kz_store_timer *ret, size_t *ret_count,
        int64_t *ret_next_ms, struct kz_err *err)
{
    return INNER(store)->ops->due(
            INNER(store), now_ms, part, part_count, max, ret, ret_count, ret_next_ms, err);
}
static enum kz_code trouble_outbox(struct kz_store *store, int64_t before_ms, size_t max,
        struct kz_store_request *ret, size_t *ret_count, struct kz_buf *out, struct kz_err *err)
{
    return INNER(store)->ops->outbox(INNER(store), before_ms, max, ret, ret_count, out, err);
}
static enum kz_code trouble_published(struct kz_store *store,
        const struct kz_store_request *requests, size_t count, struct kz_err *err)
{
    return INNER(store)->ops->published(INNER(store), requests, count, err);
}
static void trouble_stats(struct kz_store *store, struct kz_store_stats *ret)
{
    INNER(store)->ops->stats(INNER(store), ret);
}

static void trouble_init(struct trouble *t, struct kz_store *inner)
{
    *t = (struct trouble){.inner = inner, .ops = *inner->ops};
    t->ops.begin = trouble_begin;
    t->ops.commit = trouble_commit;
    t->ops.retry_ms = trouble_retry;
    t->ops.reader = trouble_reader;
    t->ops.stones = trouble_stones;
    t->ops.due = trouble_due;
    t->ops.outbox = trouble_outbox;
    t->ops.published = trouble_published;
    t->ops.stats = trouble_stats;
    t->store.ops = &t->ops;
    kz_prng_init(&t->dice, 5);
    pthread_mutex_init(&t->lock, NULL);
    the_trouble = t;
}
