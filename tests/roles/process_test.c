/* Events into a shared store, each with what follows from it: the same as in the embedded
 * pipeline, and the same again after redelivery, shuffling, conflicts, lost answers and beside
 * another process. */
#include "process_rig.h"

#include "app/roles/userstate.h"
#include "base/diag.h"

enum { USERS = 14, EVENTS = 1500 };

/* ---- taking a stream ------------------------------------------------------------------------ */

static struct kz_process *open_process(struct kz_store *store)
{
    struct kz_process_options options = {.project = &rig_project, .store = store};
    struct kz_process *process;
    struct kz_err err;

    if (kz_process_open(&options, &process, &err) != KZ_OK)
        fail_msg("%s", err.message);
    return process;
}

/* In transactions of up to `batch`; an answer that was lost leads to the same call again. */
static void take(
        struct kz_process *process, struct rig_event *const *events, size_t count, size_t batch)
{
    for (size_t at = 0; at < count; at += batch) {
        size_t n = KZ_MIN(batch, count - at);
        struct kz_intake_item **items = kz_malloc(n * sizeof(struct kz_intake_item *));
        struct kz_process_outcome outcome;
        struct kz_err err;
        enum kz_code rc;

        for (size_t i = 0; i < n; i++)
            items[i] = rig_item(events[at + i]);
        do
            rc = kz_process_events(process, items, n, &outcome, &err);
        while (rc == KZ_TIMEOUT || rc == KZ_CONFLICT);
        if (rc != KZ_OK)
            fail_msg("%s", err.message);
        for (size_t i = 0; i < n; i++)
            free(items[i]);
        free(items);
    }
}

static void fire(struct kz_process *process, struct kz_store *store, int64_t until_ms)
{
    struct kz_store_timer timers[64];
    struct kz_process_outcome outcome;
    int64_t next_ms;
    size_t count;
    struct kz_err err;

    for (;;) {
        enum kz_code rc;

        assert_int_equal(
                store->ops->due(store, until_ms, 0, 1, 64, timers, &count, &next_ms, &err), KZ_OK);
        if (!count)
            return;
        do
            rc = kz_process_timers(process, timers, count, &outcome, &err);
        while (rc == KZ_TIMEOUT || rc == KZ_CONFLICT);
        if (rc != KZ_OK)
            fail_msg("%s", err.message);
    }
}

/* ---- what is in a store, all of it ---------------------------------------------------------- */

static enum kz_code dump_record(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    kz_buf_printf(arg, "record %016llx %016llx\n", (unsigned long long)lsn,
            (unsigned long long)kz_hash(record, record->size));
    return KZ_OK;
}

static void dump_users(struct kz_store *store, struct kz_buf *out)
{
    struct kz_buf states = {0};

    for (unsigned i = 0; i < 2 * USERS + 8; i++) {
        char id[8];
        struct kz_store_user user;

        snprintf(id, sizeof(id), "%c%u", i % 2 ? 'u' : 'a', i / 2);
        user.owner = kz_owner_hash((struct kz_user_key){i % 2 ? 'u' : 'a', kz_str(id)}, 0);
        assert_int_equal(store->ops->users(store, &user, 1, &states, NULL), KZ_OK);
        kz_buf_printf(out, "user %s %016llx\n", id, (unsigned long long)kz_hash_str(user.state));
    }
    kz_buf_done(&states);
}

static void dump(struct kz_store *store, struct kz_buf *out)
{
    struct kz_history_reader *reader = store->ops->reader(store);
    struct kz_store_timer *timers = kz_malloc(1000 * sizeof(*timers));
    struct kz_store_request *requests = kz_malloc(10000 * sizeof(*requests));
    struct kz_buf messages = {0};
    int64_t next_ms;
    size_t count;

    kz_buf_clear(out);
    dump_users(store, out);
    assert_int_equal(reader->ops->scan_all(reader, 0, UINT64_MAX, dump_record, out, NULL), KZ_OK);
    assert_int_equal(
            store->ops->due(store, INT64_MAX, 0, 1, 1000, timers, &count, &next_ms, NULL), KZ_OK);
    for (size_t i = 0; i < count; i++)
        kz_buf_printf(out, "timer %lld %016llx %016llx\n", (long long)timers[i].due_ms,
                (unsigned long long)timers[i].owner, (unsigned long long)timers[i].rule);
    assert_int_equal(
            store->ops->outbox(store, INT64_MAX, 10000, requests, &count, &messages, NULL), KZ_OK);
    for (size_t i = 0; i < count; i++)
        kz_buf_printf(out, "request %016llx %016llx %016llx\n", (unsigned long long)requests[i].lsn,
                (unsigned long long)requests[i].owner,
                (unsigned long long)kz_hash_str(requests[i].message));
    kz_buf_done(&messages);
    free(timers);
    free(requests);
    kz_buf_char(out, '\0');
}

/* ---- the same as embedded ------------------------------------------------------------------- */

static void read_requests(struct kz_store *store, struct rig_lines *lines)
{
    struct kz_store_request *requests = kz_malloc(10000 * sizeof(*requests));
    struct rig_sql sql = rig_sql_open();
    struct kz_buf messages = {0}, hold = {0};
    struct kz_request_message message;
    size_t count;

    assert_int_equal(
            store->ops->outbox(store, INT64_MAX, 10000, requests, &count, &messages, NULL), KZ_OK);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(
                kz_request_message_decode(requests[i].message, &hold, &message, NULL), KZ_OK);
        assert_true(message.lsn == requests[i].lsn && message.owner == requests[i].owner);
        rig_request(lines, sql.features, store->ops->reader(store), message.record, message.lsn,
                message.sources, message.source_count);
    }
    qsort(lines->items, lines->count, sizeof(char *), rig_by_text);
    kz_sql_close(sql.sql);
    kz_buf_done(&messages);
    kz_buf_done(&hold);
    free(requests);
}

static void assert_same_lines(
        const struct rig_lines *a, const struct rig_lines *b, const char *what)
{
    for (size_t i = 0; i < KZ_MAX(a->count, b->count); i++) {
        const char *x = i < a->count ? a->items[i] : "(none)",
                   *y = i < b->count ? b->items[i] : "(none)";

        if (strcmp(x, y) != 0) {
            fprintf(stderr, "%s\n%s\n", x, y);
            fail_msg("%s: request %zu of %zu and %zu differs", what, i, a->count, b->count);
        }
    }
}

static struct rig_event **in_order(const struct rig_stream *stream)
{
    struct rig_event **list = kz_malloc(stream->count * sizeof(struct rig_event *));

    for (size_t i = 0; i < stream->count; i++)
        list[i] = &stream->events[i];
    return list;
}

static void requests_and_their_features_are_those_of_the_embedded_pipeline(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct rig_stream stream = rig_stream(seed, EVENTS, USERS, true);
        struct rig_event **events = in_order(&stream);
        int64_t end_ms = stream.events[EVENTS - 1].ts_ms + 60 * MINUTE;
        struct kz_store *store = kz_memory_store_new();
        struct kz_process *process = open_process(store);
        struct rig_lines embedded = {0}, roles = {0};
        struct kz_pipeline_counters a, b;
        uint64_t retries;

        rig_run_embedded(&stream, end_ms, &embedded, &a);
        take(process, events, EVENTS, 1 + seed * 40);
        fire(process, store, end_ms);
        read_requests(store, &roles);
        kz_process_counters(process, &b, &retries);
        assert_true(a.requests_total > 300 && a.links_total > 10 && a.timers_fired_total > 50);
        assert_true(a.events_duplicate_total > 20 && a.events_clamped_total > 20);
        assert_true(a.events_accepted_total == b.events_accepted_total);
        assert_true(a.events_duplicate_total == b.events_duplicate_total);
        assert_true(a.links_total == b.links_total);
        assert_same_lines(&embedded, &roles, "embedded, roles");
        rig_lines_done(&embedded);
        rig_lines_done(&roles);
        kz_process_close(process);
        store->ops->close(store);
        free(events);
        free(stream.events);
    }
}

/* ---- the same however it comes -------------------------------------------------------------- */

/* Everything, once, in order. */
static void run_once(const struct rig_stream *stream, int64_t end_ms, struct kz_buf *out)
{
    struct rig_event **events = in_order(stream);
    struct kz_store *store = kz_memory_store_new();
    struct kz_process *process = open_process(store);

    take(process, events, stream->count, 100);
    fire(process, store, end_ms);
    dump(store, out);
    kz_process_close(process);
    store->ops->close(store);
    free(events);
}

static void assert_same_store(const struct kz_buf *a, const struct kz_buf *b)
{
    const char *x = a->data, *y = b->data;

    while (*x && *x == *y)
        x++, y++;
    if (*x == *y)
        return;
    while (x > a->data && x[-1] != '\n')
        x--, y--;
    fail_msg("the stores differ: %.80s | %.80s", x, y);
}

/* Ids that are linked to each other are one group, whose order counts; others may come in any
 * order. */
static unsigned group_of(const unsigned *groups, const char *id)
{
    unsigned at = 0;

    for (const char *c = id; *c; c++)
        at = at * 31 + (unsigned char)*c;
    at %= 4096;
    while (groups[at] != at)
        at = groups[at];
    return at;
}

/* Keeps the order within every group, and mixes the groups. */
static struct rig_event **shuffled(const struct rig_stream *stream, uint64_t seed)
{
    struct rig_event **list = in_order(stream);
    unsigned *groups = kz_malloc(4096 * sizeof(*groups));
    struct kz_prng dice;

    kz_prng_init(&dice, seed);
    for (unsigned i = 0; i < 4096; i++)
        groups[i] = i;
    for (size_t i = 0; i < stream->count; i++) {
        const struct rig_event *e = &stream->events[i];

        if (e->user_id[0] && e->anonymous_id[0])
            groups[group_of(groups, e->anonymous_id)] = group_of(groups, e->user_id);
    }
    for (size_t round = 0; round < stream->count * 20; round++) {
        size_t i = kz_prng_below(&dice, stream->count - 1);
        const struct rig_event *a = list[i], *b = list[i + 1];

        if (group_of(groups, a->user_id[0] ? a->user_id : a->anonymous_id) !=
                group_of(groups, b->user_id[0] ? b->user_id : b->anonymous_id)) {
            list[i] = (struct rig_event *)b;
            list[i + 1] = (struct rig_event *)a;
        }
    }
    free(groups);
    return list;
}

static void everything_twice_and_shuffled_gives_the_same_store_bit_for_bit(void **state)
{
    (void)state;
    for (uint64_t seed = 11; seed <= 14; seed++) {
        struct rig_stream stream = rig_stream(seed, EVENTS, USERS, true);
        struct rig_event **events = shuffled(&stream, seed), **twice;
        int64_t end_ms = stream.events[EVENTS - 1].ts_ms + 60 * MINUTE;
        struct kz_store *store = kz_memory_store_new();
        struct kz_process *process = open_process(store);
        struct kz_buf once = {0}, now = {0};
        size_t count = 0;

        run_once(&stream, end_ms, &once);
        /* A part comes, comes again, and on it goes; some of it in one transaction. */
        twice = kz_malloc(2 * EVENTS * sizeof(struct rig_event *));
        for (size_t at = 0; at < EVENTS; at += 70) {
            size_t n = KZ_MIN((size_t)70, EVENTS - at);

            memcpy(twice + count, events + at, n * sizeof(struct rig_event *));
            memcpy(twice + count + n, events + at, n * sizeof(struct rig_event *));
            count += 2 * n;
        }
        take(process, twice, count, 53);
        fire(process, store, end_ms);
        take(process, events, EVENTS, 200); /* once more when all is over */
        dump(store, &now);
        assert_same_store(&once, &now);
        kz_buf_done(&once);
        kz_buf_done(&now);
        kz_process_close(process);
        store->ops->close(store);
        free(twice);
        free(events);
        free(stream.events);
    }
}

static void conflicts_and_lost_answers_change_nothing(void **state)
{
    struct rig_stream stream = rig_stream(21, EVENTS, USERS, true);
    struct rig_event **events = in_order(&stream);
    int64_t end_ms = stream.events[EVENTS - 1].ts_ms + 60 * MINUTE;
    struct kz_store *inner = kz_memory_store_new();
    struct trouble trouble;
    struct kz_process *process;
    struct kz_buf once = {0}, now = {0};
    struct kz_pipeline_counters counters;
    uint64_t retries;

    (void)state;
    run_once(&stream, end_ms, &once);
    trouble_init(&trouble, inner);
    trouble.conflicts = 3;
    trouble.lost_answers = 4;
    process = open_process(&trouble.store);
    take(process, events, EVENTS, 20);
    /* due() is the inner one's: the test asks it itself */
    fire(process, inner, end_ms);
    dump(inner, &now);
    kz_process_counters(process, &counters, &retries);
    assert_true(retries > 20);
    assert_same_store(&once, &now);
    kz_buf_done(&once);
    kz_buf_done(&now);
    kz_process_close(process);
    inner->ops->close(inner);
    free(events);
    free(stream.events);
}

/* Two processes that take everything both, turn by turn, and both fire every timer. */
static void two_replicas_that_do_the_same_work_do_it_once(void **state)
{
    struct rig_stream stream = rig_stream(31, EVENTS, USERS, true);
    struct rig_event **events = in_order(&stream);
    int64_t end_ms = stream.events[EVENTS - 1].ts_ms + 60 * MINUTE;
    struct kz_store *store = kz_memory_store_new();
    struct kz_process *a = open_process(store), *b = open_process(store);
    struct kz_buf once = {0}, now = {0};
    struct kz_store_timer timers[64];
    struct kz_process_outcome outcome;
    int64_t next_ms;
    size_t count = 1;

    (void)state;
    run_once(&stream, end_ms, &once);
    for (size_t at = 0; at < EVENTS; at += 50) {
        take(a, events + at, KZ_MIN((size_t)50, EVENTS - at), 50);
        take(b, events + at, KZ_MIN((size_t)50, EVENTS - at), 25);
    }
    while (count) {
        assert_int_equal(
                store->ops->due(store, end_ms, 0, 1, 64, timers, &count, &next_ms, NULL), KZ_OK);
        if (!count)
            break;
        assert_int_equal(kz_process_timers(a, timers, count, &outcome, NULL), KZ_OK);
        assert_int_equal(kz_process_timers(b, timers, count, &outcome, NULL), KZ_OK);
        assert_int_equal(outcome.request_count, 0);
    }
    dump(store, &now);
    assert_same_store(&once, &now);
    kz_buf_done(&once);
    kz_buf_done(&now);
    kz_process_close(a);
    kz_process_close(b);
    store->ops->close(store);
    free(events);
    free(stream.events);
}

/* ---- erasure
 * ------------------------------------------------------------------------------------------------
 * */

static enum kz_intake_state send_one(struct kz_process *process, const char *user, const char *id,
        int64_t at_ms, int64_t client_ts_ms)
{
    struct rig_event e = {.name = "noise", .ts_ms = at_ms, .client_ts_ms = client_ts_ms};
    struct kz_process_outcome outcome;
    struct kz_intake_item *item;
    enum kz_intake_state state;

    snprintf(e.user_id, sizeof(e.user_id), "%s", user);
    snprintf(e.event_id, sizeof(e.event_id), "%s", id);
    item = rig_item(&e);
    assert_int_equal(kz_process_events(process, &item, 1, &outcome, NULL), KZ_OK);
    state = item->state;
    free(item);
    return state;
}

static void what_comes_again_of_who_was_erased_stays_away(void **state)
{
    struct kz_store *store = kz_memory_store_new();
    struct kz_process *process = open_process(store);
    struct kz_user_key ada = {'u', KZ_STR("ada")};
    uint64_t owner = kz_owner_hash(ada, 0);
    struct kz_stone stone = {.erasure = 1, .at_ms = T0 + 1000};
    struct kz_pipeline *parts;
    struct kz_buf body = {0};
    struct kz_pipeline_options options = {.project = &rig_project};

    (void)state;
    assert_int_equal(send_one(process, "ada", "e1", T0, T0), KZ_INTAKE_ACCEPTED);
    assert_int_equal(kz_pl_parts_open(&options, NULL, NULL, &parts, NULL), KZ_OK);
    kz_stone_encode(&stone, &body);
    assert_int_equal(store->ops->erase(store, kz_pl_tombstone_hash(parts, ada), kz_buf_view(&body),
                             &owner, 1, NULL),
            KZ_OK);
    assert_int_equal(send_one(process, "ada", "e1", T0 + 2000, T0), KZ_INTAKE_REJECTED);
    assert_int_equal(send_one(process, "ada", "e2", T0 + 3000, T0 + 2500),
            KZ_INTAKE_ACCEPTED); /* came back */
    assert_int_equal(send_one(process, "ada", "e1", T0 + 4000, T0), KZ_INTAKE_REJECTED);
    assert_int_equal(send_one(process, "bob", "e1", T0 + 4000, T0), KZ_INTAKE_ACCEPTED);
    kz_pipeline_close(parts);
    kz_buf_done(&body);
    kz_process_close(process);
    store->ops->close(store);
}

/* Their devices' ids are named in their state, so that they can go with them. */
static void a_state_names_the_ids_that_were_merged_into_it(void **state)
{
    struct rig_event login = {.user_id = "ada",
            .anonymous_id = "phone",
            .event_id = "l1",
            .name = "identify",
            .identity = KZ_IDENTITY_IDENTIFY,
            .ts_ms = T0};
    struct kz_store *store = kz_memory_store_new();
    struct kz_process *process = open_process(store);
    struct kz_store_user user = {
            .owner = kz_owner_hash((struct kz_user_key){'u', KZ_STR("ada")}, 0)};
    struct kz_intake_item *item = rig_item(&login);
    struct kz_process_outcome outcome;
    struct kz_user_state decoded;
    struct kz_buf bytes = {0};

    (void)state;
    assert_int_equal(kz_process_events(process, &item, 1, &outcome, NULL), KZ_OK);
    assert_int_equal(store->ops->users(store, &user, 1, &bytes, NULL), KZ_OK);
    assert_int_equal(kz_user_state_decode(user.state, &decoded, NULL), KZ_OK);
    assert_int_equal(decoded.linked.size, 8);
    assert_true(kz_load_u64(decoded.linked.ptr) ==
                kz_owner_hash((struct kz_user_key){'a', KZ_STR("phone")}, 0));
    /* Every byte of it counts. */
    for (size_t i = 0; i < user.state.size; i++) {
        bytes.data[i] ^= 1;
        assert_int_not_equal(kz_user_state_decode(user.state, &decoded, NULL), KZ_OK);
        bytes.data[i] ^= 1;
    }
    free(item);
    kz_buf_done(&bytes);
    kz_process_close(process);
    store->ops->close(store);
}

/* What an event that somebody waits for has not asked: "purchase reason, leave reason"; "": nothing is said. */
static const char *unasked(struct kz_process *process, struct rig_event e, const char *awaited,
        bool again, char out[100])
{
    struct kz_intake_item *item = rig_item(&e);
    struct kz_process_outcome outcome = {0};

    item->awaited = kz_str(awaited);
    item->again = again;
    assert_int_equal(kz_process_events(process, &item, 1, &outcome, NULL), KZ_OK);
    out[0] = '\0';
    if (outcome.unasked_count) {
        const struct kz_process_unasked *one = outcome.unasked;

        assert_int_equal(outcome.unasked_count, 1);
        assert_true(kz_str_is(one->awaited, awaited));
        snprintf(out, 100, "%s, %s", one->reasons[0] ? one->reasons[0] : "asked",
                one->reasons[1] ? one->reasons[1] : "asked");
    }
    free(item);
    return out;
}

static void who_waits_is_told_what_was_not_asked(void **state)
{
    struct kz_store *store = kz_memory_store_new();
    struct kz_process *process = open_process(store);
    struct rig_event view = {
            .user_id = "ada", .event_id = "v1", .name = "view", .price = 30, .ts_ms = T0};
    struct rig_event noise = {.user_id = "ada", .event_id = "n1", .name = "noise", .ts_ms = T0};
    struct rig_event cart = {
            .user_id = "ada", .event_id = "c1", .name = "cart", .price = 5, .ts_ms = T0 + 2000};
    char text[100];

    (void)state;
    assert_string_equal(unasked(process, noise, "w", false, text), "not_triggered, not_triggered");
    assert_string_equal(unasked(process, view, "w", false, text), "asked, not_triggered");
    /* From a client it was not asked now; what the bus brings again may have asked then. */
    assert_string_equal(unasked(process, view, "w", false, text), "not_triggered, not_triggered");
    assert_string_equal(unasked(process, view, "w", true, text), "");
    view = (struct rig_event){
            .user_id = "ada", .event_id = "v2", .name = "view", .price = 30, .ts_ms = T0 + 1000};
    assert_string_equal(unasked(process, view, "w", true, text), "debounced, not_triggered");
    assert_string_equal(unasked(process, cart, "w", false, text), "delayed, delayed");
    /* The third view asks `leave`; and nothing is said where nobody waits. */
    view.ts_ms += 2000;
    snprintf(view.event_id, sizeof(view.event_id), "v3");
    assert_string_equal(unasked(process, view, "", false, text), "");
    view.ts_ms += MINUTE;
    snprintf(view.event_id, sizeof(view.event_id), "v4");
    assert_string_equal(unasked(process, view, "w", false, text), "asked, not_triggered");
    kz_process_close(process);
    store->ops->close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(requests_and_their_features_are_those_of_the_embedded_pipeline),
            cmocka_unit_test(everything_twice_and_shuffled_gives_the_same_store_bit_for_bit),
            cmocka_unit_test(conflicts_and_lost_answers_change_nothing),
            cmocka_unit_test(two_replicas_that_do_the_same_work_do_it_once),
            cmocka_unit_test(what_comes_again_of_who_was_erased_stays_away),
            cmocka_unit_test(a_state_names_the_ids_that_were_merged_into_it),
            cmocka_unit_test(who_waits_is_told_what_was_not_asked),
    };

    kz_diag_set(KZ_DIAG_ERROR, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
