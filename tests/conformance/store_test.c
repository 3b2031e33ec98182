/* contract/store.h: the same cases over every backend. Spanner's run against Google's emulator,
 * where SPANNER_EMULATOR_HOST is set, each case in a database of its own. */
#include "store_rig.h"

/* ---- transactions ------------------------------------------------------------------------ */

static void users_are_read_as_they_were_put(void **state)
{
    struct fixture *f = fixture_of(state);
    struct kz_store_user users[] = {{.owner = BOB}, {.owner = CAT}, {.owner = ADA}, {.owner = BOB}};
    struct kz_store_txn *txn;
    struct kz_buf out = {0};
    struct kz_err err = {0};

    put_user(f, ADA, "state of ada");
    put_user(f, BOB, "b");
    txn = begin(f);
    must(f->ops->read_users(txn, users, 4, &err), &err);
    assert_str(users[0].state, "b");
    assert_str(users[1].state, "");
    assert_str(users[2].state, "state of ada");
    assert_str(users[3].state, "b");
    f->ops->rollback(txn);
    must(f->ops->users(f->store, users, 4, &out, &err), &err);
    assert_str(users[0].state, "b");
    assert_str(users[1].state, "");
    assert_str(users[2].state, "state of ada");
    assert_str(users[3].state, "b");
    put_user(f, ADA, ""); /* goes */
    assert_user(f, ADA, "");
    f->ops->rollback(NULL);
    kz_buf_done(&out);
}

static void state_of_any_bytes_comes_back(void **state)
{
    struct fixture *f = fixture_of(state);
    const size_t size = 300000;
    char *bytes = kz_malloc(size);
    struct kz_store_user user = {ADA, kz_str_n(bytes, size)};
    struct kz_buf out = {0};
    struct kz_err err = {0};

    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)(i * 7 + i / 256);
    commit(f, (struct kz_store_commit){.users = &user, .user_count = 1});
    user.state = KZ_STR_NULL;
    must(f->ops->users(f->store, &user, 1, &out, &err), &err);
    assert_int_equal(user.state.size, size);
    assert_memory_equal(user.state.ptr, bytes, size);
    kz_buf_done(&out);
    free(bytes);
}

static void what_is_put_is_not_seen_before_its_commit(void **state)
{
    struct fixture *f = fixture_of(state);
    struct kz_store_user user = {.owner = ADA};
    const struct kz_store_user put = {ADA, KZ_STR("new")};
    struct kz_err err = {0};
    struct kz_store_txn *txn;

    put_user(f, ADA, "old");
    txn = begin(f);
    must(f->ops->read_users(txn, &user, 1, &err), &err);
    assert_user(f, ADA, "old");
    must(f->ops->commit(txn,
                 &(struct kz_store_commit){.users = &put, .user_count = 1, .now_ms = NOW}, &err),
            &err);
    assert_user(f, ADA, "new");
}

/* One of two that read the same loses, at the latest by its commit. */
static void of_two_that_read_the_same_one_wins(void **state)
{
    struct fixture *f = fixture_of(state);
    const struct kz_store_user put = {ADA, KZ_STR("changed")};
    const struct kz_store_commit what = {.users = &put, .user_count = 1, .now_ms = NOW};
    struct kz_err err = {0};
    int won = 0;

    put_user(f, ADA, "old");
    for (int round = 0; round < 20 && won < 2; round++) {
        struct kz_store_user user = {.owner = ADA};
        struct kz_store_txn *txns[2] = {begin(f), begin(f)};
        enum kz_code rc[2];

        for (int i = 0; i < 2; i++)
            rc[i] = f->ops->read_users(txns[i], &user, 1, &err);
        for (int i = 0; i < 2; i++) {
            if (rc[i] == KZ_OK)
                rc[i] = f->ops->commit(txns[i], &what, &err);
            else
                f->ops->rollback(txns[i]);
            assert_true(rc[i] == KZ_OK || rc[i] == KZ_CONFLICT);
            assert_true(f->ops->retry_ms(f->store) >= 0);
        }
        assert_false(rc[0] == KZ_OK && rc[1] == KZ_OK);
        won += (rc[0] == KZ_OK) + (rc[1] == KZ_OK);
    }
    assert_true(won > 0);
    assert_user(f, ADA, "changed");
}

static void four_racing_threads_lose_no_update(void **state)
{
    struct fixture *f = fixture_of(state);
    const struct kz_source source = {ADA, UINT64_MAX};
    struct kz_history_reader *reader = f->ops->reader(f->store);
    struct kz_history_query query = query_of(&source, 1);
    struct kz_history_rows rows;
    struct racer racers[4];
    struct kz_err err = {0};

    for (unsigned i = 0; i < 4; i++) {
        racers[i] = (struct racer){.f = f, .number = i, .rounds = 25};
        assert_int_equal(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(racers[i].thread, NULL);
    for (unsigned i = 0; i < 4; i++) {
        assert_string_equal(racers[i].problem, "");
        assert_int_equal(racers[i].done, 25);
    }
    must(reader->ops->scan(reader, &query, &rows, &err), &err);
    assert_int_equal(rows.count, 100);
    assert_true(rows.lsns[99] == at(100));
    reader->ops->release(reader, &rows);
}

static void ids_that_are_there_are_known(void **state)
{
    struct fixture *f = fixture_of(state);
    const struct kz_store_id ids[] = {
            id_of(ADA, "uada\0e1", 7), id_of(ADA, "uada\0e2", 7), id_of(BOB, "ubob\0e1", 7)};
    const struct kz_store_id asked[] = {id_of(ADA, "uada\0e1", 7), id_of(BOB, "uada\0e1", 7),
            id_of(BOB, "ubob\0e1", 7), id_of(ADA, "uada\0e", 6), id_of(ADA, "uada\0e2", 7)};
    bool there[5];
    struct kz_store_txn *txn;
    struct kz_err err = {0};

    commit(f, (struct kz_store_commit){.ids = ids, .id_count = 3});
    txn = begin(f);
    must(f->ops->read_ids(txn, asked, 5, there, &err), &err);
    f->ops->rollback(txn);
    assert_true(there[0]);
    assert_false(there[1]);
    assert_true(there[2]);
    assert_false(there[3]);
    assert_true(there[4]);
}

/* An id that is put twice is a conflict, and nothing of that commit is there. */
static void a_commit_is_whole_or_nothing(void **state)
{
    struct fixture *f = fixture_of(state);
    const struct kz_store_id ids[] = {id_of(BOB, "ubob\0e2", 7), id_of(ADA, "uada\0e1", 7)};
    const struct kz_store_user user = {BOB, KZ_STR("bob")};
    struct kz_record *record = event_record(&(struct event){.owner = BOB, .lsn = at(1)});
    const struct kz_store_record put = {at(1), record};
    const struct kz_store_timer timer = {BOB, 1, NOW};
    const struct kz_store_request request = {BOB, at(1), KZ_STR("m")};
    struct kz_record *letter = letter_record(0, at(2), "no");
    const struct kz_store_record letters = {at(2), letter};
    const struct kz_store_commit what = {.users = &user,
            .user_count = 1,
            .ids = ids,
            .id_count = 2,
            .records = &put,
            .record_count = 1,
            .timers = &timer,
            .timer_count = 1,
            .requests = &request,
            .request_count = 1,
            .letters = &letters,
            .letter_count = 1,
            .now_ms = NOW};
    const struct kz_source source = {BOB, UINT64_MAX};
    struct kz_store_request requests[4];
    struct kz_store_timer timers[4];
    struct kz_buf out = {0};
    struct kz_err err = {0};
    size_t count;
    int64_t next;

    commit(f, (struct kz_store_commit){.ids = &ids[1], .id_count = 1});
    assert_int_equal(f->ops->commit(begin(f), &what, &err), KZ_CONFLICT);
    assert_user(f, BOB, "");
    assert_scan(f, query_of(&source, 1), "");
    must(f->ops->due(f->store, NOW, 0, 1, 4, timers, &count, &next, &err), &err);
    assert_int_equal(count, 0);
    must(f->ops->outbox(f->store, NOW + 1, 4, requests, &count, &out, &err), &err);
    assert_int_equal(count, 0);
    must(f->ops->letters(f->store, 0, 4, &out, &count, &err), &err);
    assert_int_equal(count, 0);
    commit(f, (struct kz_store_commit){.users = &user,
                      .user_count = 1,
                      .ids = ids,
                      .id_count = 1,
                      .records = &put,
                      .record_count = 1,
                      .timers = &timer,
                      .timer_count = 1,
                      .requests = &request,
                      .request_count = 1,
                      .letters = &letters,
                      .letter_count = 1});
    assert_user(f, BOB, "bob");
    assert_scan(f, query_of(&source, 1), "b1");
    must(f->ops->due(f->store, NOW, 0, 1, 4, timers, &count, &next, &err), &err);
    assert_int_equal(count, 1);
    must(f->ops->outbox(f->store, NOW + 1, 4, requests, &count, &out, &err), &err);
    assert_int_equal(count, 1);
    must(f->ops->letters(f->store, 0, 4, &out, &count, &err), &err);
    assert_int_equal(count, 1);
    /* And an address that is taken. */
    assert_int_equal(
            f->ops->commit(begin(f),
                    &(struct kz_store_commit){.records = &put, .record_count = 1, .now_ms = NOW},
                    &err),
            KZ_CONFLICT);
    kz_buf_done(&out);
    free(record);
    free(letter);
}

/* ---- records ----------------------------------------------------------------------------- */

static void put_history(struct fixture *f)
{
    const struct event events[] = {
            {.owner = ADA, .lsn = at(1), .ts_ms = NOW - 3000},
            {.owner = ADA, .lsn = at(3), .ts_ms = NOW - 1000, .flags = KZ_EVENT_ACTION},
            {.owner = ADA, .lsn = at(5), .ts_ms = NOW - 2000},
            {.owner = ADA, .lsn = at(7), .ts_ms = NOW},
            {.owner = BOB, .lsn = at(2), .ts_ms = NOW - 500},
            {.owner = BOB, .lsn = at(5), .ts_ms = NOW - 400},
            {.owner = BOB, .lsn = at(6), .ts_ms = NOW - 300},
    };

    put_events(f, events, KZ_ARRAY_COUNT(events));
    put_note(f, ADA, at(4));
    put_note(f, ADA, at(6));
}

static void records_by_key_range(void **state)
{
    struct fixture *f = fixture_of(state);
    const struct kz_source ada = {ADA, at(7)};
    const struct kz_source both[] = {{ADA, at(5)}, {BOB, at(6)}};
    const struct kz_source twice[] = {{ADA, at(5)}, {ADA, at(7)}};
    const struct kz_source none = {CAT, UINT64_MAX};
    const struct kz_source empty = {ADA, 0};
    struct kz_history_query query;

    put_history(f);
    query = query_of(&ada, 1);
    assert_scan(f, query, "a1 a5 a7");
    query.include_actions = true;
    assert_scan(f, query, "a1 a3 a5 a7");
    query.as_of = at(5);
    assert_scan(f, query, "a1 a3 a5");
    query.as_of = at(4);
    assert_scan(f, query, "a1 a3");
    query = query_of(&ada, 1);
    query.events_max = 2;
    assert_scan(f, query, "a5 a7 ...");
    query.events_max = 3;
    assert_scan(f, query, "a1 a5 a7");
    query.since_ms = NOW - 2000;
    query.events_max = 0;
    assert_scan(f, query, "a5 a7");
    query.events_max = 2; /* what is cut off would not have been let in */
    assert_scan(f, query, "a5 a7");
    query.events_max = 1;
    assert_scan(f, query, "a7 ...");
    query = query_of(&ada, 1);
    query.chain = KZ_CHAIN_NOTES;
    assert_scan(f, query, "a4 a6");
    query = query_of(both, 2);
    assert_scan(f, query, "a1 b2 a5 b5 b6"); /* by address, then owner */
    query.events_max = 3;
    assert_scan(f, query, "a5 b5 b6 ...");
    query.as_of = at(2);
    assert_scan(f, query, "a1 b2");
    assert_scan(f, query_of(twice, 2), "a1 a5 a7");
    assert_scan(f, query_of(&none, 1), "");
    assert_scan(f, query_of(&empty, 1), "");
    assert_scan(f, query_of(NULL, 0), "");
}

/* What is known may be left out; all that is not comes. */
static void records_behind_those_known(void **state)
{
    struct fixture *f = fixture_of(state);
    struct kz_history_reader *reader = f->ops->reader(f->store);
    const struct kz_source ada = {ADA, at(7)};
    struct kz_history_query query = query_of(&ada, 1);
    struct kz_history_rows rows;
    struct kz_err err = {0};
    size_t behind = 0;

    put_history(f);
    query.after = at(1);
    must(reader->ops->scan(reader, &query, &rows, &err), &err);
    for (size_t i = 0; i < rows.count; i++)
        behind += rows.lsns[i] > at(1);
    assert_int_equal(behind, 2);
    assert_true(rows.lsns[rows.count - 1] == at(7));
    reader->ops->release(reader, &rows);
}

static void too_many_sources_are_refused(void **state)
{
    struct fixture *f = fixture_of(state);
    struct kz_history_reader *reader = f->ops->reader(f->store);
    struct kz_source sources[KZ_SOURCES_MAX + 1] = {{0}};
    struct kz_history_query query = query_of(sources, KZ_SOURCES_MAX + 1);
    struct kz_history_rows rows;
    struct kz_err err = {0};

    assert_int_equal(reader->ops->scan(reader, &query, &rows, &err), KZ_LIMIT);
    for (unsigned i = 0; i < KZ_SOURCES_MAX; i++)
        sources[i] = (struct kz_source){i + 1, UINT64_MAX};
    put_events(f, &(struct event){.owner = 64, .lsn = at(9)}, 1);
    query.source_count = KZ_SOURCES_MAX;
    assert_scan(f, query, "c9");
}

static void a_record_by_owner_and_address(void **state)
{
    struct fixture *f = fixture_of(state);
    struct kz_history_reader *reader = f->ops->reader(f->store);
    struct kz_record *event = event_record(&(struct event){.owner = ADA, .lsn = at(1)});
    struct kz_buf out = {0};
    struct kz_err err = {0};

    put_events(f, &(struct event){.owner = ADA, .lsn = at(1)}, 1);
    put_note(f, BOB, at(2));
    must(reader->ops->get(reader, at(1), ADA, &out, &err), &err);
    assert_int_equal(out.size, event->size);
    assert_memory_equal(out.data, event, event->size);
    must(reader->ops->get(reader, at(2), BOB, &out, &err), &err);
    assert_int_equal(((const struct kz_record *)(const void *)out.data)->type, KZ_RECORD_TRIGGER);
    assert_int_equal(reader->ops->get(reader, at(1), BOB, &out, &err), KZ_NOT_FOUND);
    assert_int_equal(reader->ops->get(reader, at(3), ADA, &out, &err), KZ_NOT_FOUND);
    kz_buf_done(&out);
    free(event);
}

struct seen {
    struct kz_buf text;
    unsigned left;
};

static enum kz_code see(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct seen *seen = arg;

    if (!seen->left)
        return KZ_END;
    seen->left--;
    assert_true(record->seq == lsn);
    kz_buf_printf(&seen->text, "%s%llu ", record->owner == ADA ? "a" : "b",
            (unsigned long long)lsn & 0xffff);
    return KZ_OK;
}

static void assert_all(struct fixture *f, kz_lsn from, kz_lsn until, unsigned left,
        enum kz_code expected_rc, const char *expected)
{
    struct kz_history_reader *reader = f->ops->reader(f->store);
    struct seen seen = {.left = left};
    struct kz_err err = {0};

    assert_int_equal(reader->ops->scan_all(reader, from, until, see, &seen, &err), expected_rc);
    kz_buf_char(&seen.text, '\0');
    assert_string_equal(seen.text.data, expected);
    kz_buf_done(&seen.text);
}

static void an_event_says_when_it_was_stored(void **state)
{
    struct fixture *f = fixture_of(state);
    const struct event event = {.owner = ADA, .lsn = at(1), .ts_ms = NOW - 3000};
    int64_t ms = 0;
    struct kz_err err;

    put_events(f, &event, 1);
    put_note(f, ADA, at(2));
    assert_int_equal(f->ops->stored_ms(f->store, at(1), ADA, &ms, &err), KZ_OK);
    assert_true(ms == NOW);
    assert_int_equal(f->ops->stored_ms(f->store, at(2), ADA, &ms, &err), KZ_NOT_FOUND);
    assert_int_equal(f->ops->stored_ms(f->store, at(1), BOB, &ms, &err), KZ_NOT_FOUND);
}

static void all_records_in_the_order_of_addresses(void **state)
{
    struct fixture *f = fixture_of(state);

    put_history(f);
    assert_all(f, 0, UINT64_MAX, 100, KZ_OK, "a1 b2 a3 a4 a5 b5 a6 b6 a7 ");
    assert_all(f, at(3), at(6), 100, KZ_OK, "a3 a4 a5 b5 ");
    assert_all(f, at(2), UINT64_MAX, 2, KZ_END, "b2 a3 ");
    assert_all(f, at(8), UINT64_MAX, 2, KZ_OK, "");
}

static void a_megabyte_of_props_comes_back_bit_for_bit(void **state)
{
    struct fixture *f = fixture_of(state);
    struct kz_history_reader *reader = f->ops->reader(f->store);
    const struct kz_source ada = {ADA, UINT64_MAX};
    struct kz_history_query query = query_of(&ada, 1);
    struct kz_buf props = {0};
    struct event event = {.owner = ADA, .lsn = at(1)};
    struct kz_history_rows rows;
    struct kz_record *record;
    struct kz_err err = {0};

    kz_buf_cstr(&props, "{\"text\":\"");
    while (props.size < KZ_PROPS_SIZE_MAX - 8) /* of two and three bytes, so that chunks cut them */
        kz_buf_cstr(&props, props.size % 5 ? "\xc3\xa9" : "\xe5\x85\x86");
    kz_buf_cstr(&props, "\"}");
    kz_buf_char(&props, '\0');
    event.props = props.data;
    record = event_record(&event);
    put_events(f, &event, 1);
    must(reader->ops->scan(reader, &query, &rows, &err), &err);
    assert_int_equal(rows.count, 1);
    assert_int_equal(rows.records[0]->size, record->size);
    assert_memory_equal(rows.records[0], record, record->size);
    reader->ops->release(reader, &rows);
    kz_buf_done(&props);
    free(record);
}

/* A record whose strings are not where they mostly are, or no text at all, is kept as it is. */
static void records_of_any_layout_come_back_bit_for_bit(void **state)
{
    struct fixture *f = fixture_of(state);
    struct kz_history_reader *reader = f->ops->reader(f->store);
    struct kz_record *records[3];
    struct kz_store_record puts[3];
    struct kz_event_body *body;
    struct kz_buf out = {0};
    struct kz_err err = {0};

    for (unsigned i = 0; i < 3; i++) {
        records[i] = event_record(&(struct event){
                .owner = ADA, .lsn = at(i + 1), .event_id = "e\x01\x7f", .props = "{\"a\":1}"});
        puts[i] = (struct kz_store_record){at(i + 1), records[i]};
    }
    body = (struct kz_event_body *)(records[0] + 1); /* two strings share their bytes */
    body->user_id = body->name;
    body = (struct kz_event_body *)(records[1] + 1); /* no UTF-8 */
    ((char *)body)[body->name.offset] = (char)0xff;
    commit(f, (struct kz_store_commit){.records = puts, .record_count = 3});
    for (unsigned i = 0; i < 3; i++) {
        must(reader->ops->get(reader, at(i + 1), ADA, &out, &err), &err);
        assert_int_equal(out.size, records[i]->size);
        assert_memory_equal(out.data, records[i], out.size);
        free(records[i]);
    }
    kz_buf_done(&out);
}

static void five_hundred_of_twenty_thousand(void **state)
{
    enum { BATCH = 2000, ALL = 20000 };
    struct fixture *f = fixture_of(state);
    struct kz_history_reader *reader = f->ops->reader(f->store);
    const struct kz_source ada = {ADA, UINT64_MAX};
    struct kz_history_query query = query_of(&ada, 1);
    struct kz_history_rows rows;
    struct kz_err err = {0};
    struct event *events = kz_calloc(BATCH, sizeof(*events));

    for (unsigned from = 0; from < ALL; from += BATCH) {
        for (unsigned i = 0; i < BATCH; i++)
            events[i] = (struct event){.owner = ADA,
                    .lsn = at(from + i + 1),
                    .ts_ms = NOW + i,
                    .flags = i % 4 ? 0 : KZ_EVENT_ACTION};
        put_events(f, events, BATCH);
    }
    query.events_max = 500;
    must(reader->ops->scan(reader, &query, &rows, &err), &err);
    assert_int_equal(rows.count, 500);
    assert_true(rows.truncated);
    assert_true(rows.lsns[499] == at(ALL));
    assert_true(rows.lsns[0] == at(ALL - 665)); /* every fourth of what is newer is hidden */
    reader->ops->release(reader, &rows);
    query.events_max = 0;
    must(reader->ops->scan(reader, &query, &rows, &err), &err);
    assert_int_equal(rows.count, 15000);
    reader->ops->release(reader, &rows);
    free(events);
}

/* ---- timers, outbox, letters ------------------------------------------------------------- */

static void assert_due(struct fixture *f, int64_t now_ms, unsigned part, unsigned part_count,
        size_t max, int64_t next_at_most, const char *expected)
{
    struct kz_store_timer timers[64];
    struct kz_buf text = {0};
    struct kz_err err = {0};
    size_t count;
    int64_t next;

    must(f->ops->due(f->store, now_ms, part, part_count, max, timers, &count, &next, &err), &err);
    for (size_t i = 0; i < count; i++)
        kz_buf_printf(&text, "%llu:%lld ", (unsigned long long)timers[i].rule,
                (long long)(timers[i].due_ms - NOW));
    kz_buf_char(&text, '\0');
    assert_string_equal(text.data, expected);
    assert_true(next <= next_at_most);
    assert_true(count == max || next > now_ms); /* all of them were given */
    kz_buf_done(&text);
}

static void timers_by_time_and_part(void **state)
{
    struct fixture *f = fixture_of(state);
    const struct kz_store_timer timers[] = {{101, 1, NOW - 50}, {102, 2, NOW - 60},
            {103, 3, NOW + 100}, {101, 4, NOW}, {104, 5, -5}, {105, 6, NOW + INT64_C(4000000000)}};

    assert_due(f, NOW, 0, 1, 10, INT64_MAX, "");
    commit(f, (struct kz_store_commit){.timers = timers, .timer_count = 6});
    assert_due(f, NOW, 0, 1, 10, NOW + 100, "5:-1795500000005 2:-60 1:-50 4:0 ");
    assert_due(f, NOW, 0, 1, 2, NOW - 50, "5:-1795500000005 2:-60 ");
    assert_due(f, NOW, 1, 2, 10, NOW + 100, "1:-50 4:0 ");
    assert_due(f, NOW, 0, 2, 10, INT64_MAX, "5:-1795500000005 2:-60 ");
    assert_due(f, NOW, 2, 3, 10, INT64_MAX, "5:-1795500000005 1:-50 4:0 ");
    /* Fired ones go, and one that is not there does no harm; what is armed in the same commit
     * stays. */
    commit(f, (struct kz_store_commit){
                      .fired = timers, .fired_count = 4, .timers = &timers[3], .timer_count = 1});
    commit(f, (struct kz_store_commit){.fired = timers, .fired_count = 2});
    assert_due(f, NOW + 200, 0, 1, 10, NOW + INT64_C(4000000000), "5:-1795500000005 4:0 ");
}

/* More are due than one call takes, spread over all shards. */
static void a_flood_of_timers(void **state)
{
    enum { ALL = 3000, MAX = 500 };
    struct fixture *f = fixture_of(state);
    struct kz_store_timer *timers = kz_calloc(ALL, sizeof(*timers)), got[MAX];
    struct kz_err err = {0};
    int64_t next, seen = 0;
    size_t count;

    for (unsigned i = 0; i < ALL; i++)
        timers[i] = (struct kz_store_timer){(i * 7919) % 1000 + 1, i, NOW + (i * 31) % ALL};
    commit(f, (struct kz_store_commit){.timers = timers, .timer_count = ALL});
    for (int64_t expected = NOW;; expected += MAX) {
        must(f->ops->due(f->store, NOW + ALL, 0, 1, MAX, got, &count, &next, &err), &err);
        for (size_t i = 0; i < count; i++)
            assert_true(got[i].due_ms == expected + (int64_t)i);
        seen += (int64_t)count;
        if (!count)
            break;
        assert_true(next == (seen == ALL ? next : expected + MAX));
        commit(f, (struct kz_store_commit){.fired = got, .fired_count = count});
    }
    assert_int_equal(seen, ALL);
    free(timers);
}

static void assert_outbox(struct fixture *f, int64_t before_ms, size_t max, const char *expected)
{
    struct kz_store_request requests[16];
    struct kz_buf out = {0}, text = {0};
    struct kz_err err = {0};
    size_t count;

    must(f->ops->outbox(f->store, before_ms, max, requests, &count, &out, &err), &err);
    for (size_t i = 0; i < count; i++)
        kz_buf_printf(&text, "%s%llu:" KZ_STR_FMT " ", requests[i].owner == ADA ? "a" : "b",
                (unsigned long long)requests[i].lsn & 0xffff, KZ_STR_ARG(requests[i].message));
    kz_buf_char(&text, '\0');
    assert_string_equal(text.data, expected);
    kz_buf_done(&text);
    kz_buf_done(&out);
}

static void the_outbox_holds_what_is_not_published(void **state)
{
    struct fixture *f = fixture_of(state);
    const struct kz_store_request requests[] = {{BOB, at(2), KZ_STR("two")},
            {ADA, at(1), KZ_STR("one")}, {ADA, at(3), KZ_STR("three")}, {BOB, at(3), KZ_STR("")}};
    struct kz_err err = {0};

    commit(f, (struct kz_store_commit){.requests = requests, .request_count = 2});
    commit(f, (struct kz_store_commit){
                      .requests = &requests[2], .request_count = 2, .now_ms = NOW + 500});
    assert_outbox(f, NOW, 10, "");
    assert_outbox(f, NOW + 1, 10, "a1:one b2:two ");
    assert_outbox(f, NOW + 501, 10, "a1:one b2:two a3:three b3: ");
    assert_outbox(f, NOW + 501, 1, "a1:one ");
    must(f->ops->published(f->store, requests, 2, &err), &err);
    assert_outbox(f, NOW + 501, 10, "a3:three b3: ");
    must(f->ops->published(f->store, requests, 4, &err), &err); /* again does no harm */
    must(f->ops->published(f->store, requests, 0, &err), &err);
    assert_outbox(f, NOW + 501, 10, "");
}

static void assert_letters(struct fixture *f, kz_lsn before, size_t max, const char *expected)
{
    struct kz_buf out = {0}, text = {0};
    struct kz_err err = {0};
    const char *ptr;
    size_t count;

    must(f->ops->letters(f->store, before, max, &out, &count, &err), &err);
    ptr = out.data;
    for (size_t i = 0; i < count; i++) {
        const struct kz_record *record = (const void *)ptr;
        const struct kz_deadletter_body *body = (const void *)(record + 1);

        must(kz_record_check(record, &err), &err);
        kz_buf_printf(&text, "%llu:" KZ_STR_FMT " ", (unsigned long long)record->seq & 0xffff,
                KZ_STR_ARG(kz_span_str(kz_record_body(record), body->reason)));
        ptr += KZ_ALIGN8(record->size);
    }
    assert_int_equal(ptr - out.data, out.size);
    kz_buf_char(&text, '\0');
    assert_string_equal(text.data, expected);
    kz_buf_done(&text);
    kz_buf_done(&out);
}

static void dead_letters_by_pages(void **state)
{
    struct fixture *f = fixture_of(state);
    const char *const reasons[] = {"one", "two", "three", "three", "four"};
    const uint64_t owners[] = {ADA, 0, ADA, BOB, 0};
    const unsigned places[] = {1, 2, 3, 3, 4};
    struct kz_store_record puts[5];
    const kz_lsn gone[] = {at(3), at(9)};
    struct kz_err err = {0};

    for (unsigned i = 0; i < 5; i++)
        puts[i] = (struct kz_store_record){
                at(places[i]), letter_record(owners[i], at(places[i]), reasons[i])};
    commit(f, (struct kz_store_commit){.letters = puts, .letter_count = 5});
    assert_letters(f, 0, 1, "4:four ");
    assert_letters(f, at(4), 1, "3:three 3:three "); /* those of one address are not parted */
    assert_letters(f, at(4), 3, "3:three 3:three 2:two ");
    assert_letters(f, at(2), 3, "1:one ");
    assert_letters(f, at(1), 3, "");
    must(f->ops->drop_letters(f->store, gone, 2, &err), &err);
    assert_letters(f, 0, 9, "4:four 2:two 1:one ");
    for (unsigned i = 0; i < 5; i++)
        free((void *)(uintptr_t)puts[i].record);
}

/* ---- erasure ----------------------------------------------------------------------------- */

static void put_much(struct fixture *f, uint64_t owner, unsigned count)
{
    struct event *events = kz_calloc(count, sizeof(*events));

    for (unsigned i = 0; i < count; i++)
        events[i] = (struct event){.owner = owner, .lsn = at(i + 1)};
    put_events(f, events, count);
    free(events);
}

/* Everything that there is of a user. */
static void put_all_of(struct fixture *f, uint64_t owner, unsigned n)
{
    const struct kz_store_user user = {owner, KZ_STR("state")};
    const struct kz_store_id id = id_of(owner, "uada\0e1", 7);
    const struct kz_store_timer timer = {owner, n, NOW};
    const struct kz_store_request request = {owner, at(n), KZ_STR("m")};
    struct kz_record *letter = letter_record(owner, at(n), "no");
    const struct kz_store_record put = {at(n), letter};

    commit(f, (struct kz_store_commit){.users = &user,
                      .user_count = 1,
                      .ids = &id,
                      .id_count = 1,
                      .timers = &timer,
                      .timer_count = 1,
                      .requests = &request,
                      .request_count = 1,
                      .letters = &put,
                      .letter_count = 1});
    put_note(f, owner, at(n));
    free(letter);
}

static bool knows_id(struct fixture *f, uint64_t owner)
{
    const struct kz_store_id id = id_of(owner, "uada\0e1", 7);
    struct kz_store_txn *txn = begin(f);
    struct kz_err err = {0};
    bool there;

    must(f->ops->read_ids(txn, &id, 1, &there, &err), &err);
    f->ops->rollback(txn);
    return there;
}

static void an_erased_user_is_gone_and_nobody_else(void **state)
{
    struct fixture *f = fixture_of(state);
    const uint64_t owners[] = {ADA, CAT, 12345 /* was never there */};
    const struct kz_source all[] = {{ADA, UINT64_MAX}, {CAT, UINT64_MAX}, {BOB, UINT64_MAX}};
    struct kz_history_query query = query_of(all, 3);
    struct kz_err err = {0};

    for (unsigned i = 0; i < 2; i++)
        put_much(f, owners[i], i ? 3 : 4500); /* more than a batch of anything */
    put_much(f, BOB, 2);
    put_all_of(f, ADA, 20);
    put_all_of(f, CAT, 21);
    put_all_of(f, BOB, 22);
    for (int i = 0; i < 2; i++) { /* it can be run again */
        must(f->ops->erase(f->store, 99, KZ_STR("body"), owners, 3, &err), &err);
        assert_user(f, ADA, "");
        assert_user(f, CAT, "");
        assert_user(f, BOB, "state");
        query.chain = KZ_CHAIN_EVENTS;
        assert_scan(f, query, "b1 b2");
        query.chain = KZ_CHAIN_NOTES;
        assert_scan(f, query, "b22");
        assert_all(f, 0, UINT64_MAX, 100, KZ_OK, "b1 b2 b22 ");
        assert_due(f, NOW, 0, 1, 10, INT64_MAX, "22:0 ");
        assert_outbox(f, NOW + 1, 10, "b22:m ");
        assert_letters(f, 0, 10, "22:no ");
        assert_false(knows_id(f, ADA));
        assert_true(knows_id(f, BOB));
    }
}

static void tombstones_stay(void **state)
{
    struct fixture *f = fixture_of(state);
    const uint64_t hashes[] = {UINT64_C(0xfedcba9876543210), 5, 99};
    const uint64_t ada = ADA;
    struct kz_str bodies[3];
    struct kz_buf out = {0};
    struct kz_err err = {0};

    must(f->ops->erase(f->store, hashes[0], KZ_STR("first"), &ada, 1, &err), &err);
    must(f->ops->erase(f->store, 99, KZ_STR("of nobody"), NULL, 0, &err), &err);
    must(f->ops->stones(f->store, hashes, 3, bodies, &out, &err), &err);
    assert_str(bodies[0], "first");
    assert_str(bodies[1], "");
    assert_str(bodies[2], "of nobody");
    must(f->ops->erase(f->store, hashes[0], KZ_STR("second"), &ada, 1, &err), &err);
    must(f->ops->stones(f->store, hashes, 1, bodies, &out, &err), &err);
    assert_str(bodies[0], "second");
    kz_buf_done(&out);
}

/* As process does it with a message that comes again: the stone is asked for between reading the
 * user and committing. The erasure goes between any two steps. */
static enum kz_code process_once(struct fixture *f, int erase_before, struct kz_err *err)
{
    const uint64_t hash = 77, ada = ADA;
    struct kz_store_user user = {.owner = ADA};
    struct kz_record *record = event_record(&(struct event){.owner = ADA, .lsn = at(1)});
    const struct kz_store_record put = {at(1), record};
    struct kz_store_commit what = {.now_ms = NOW};
    struct kz_store_txn *txn;
    struct kz_buf out = {0};
    struct kz_str body = KZ_STR_NULL;
    enum kz_code rc = KZ_OK;

    for (int step = 0; step <= 3; step++) {
        if (step == erase_before) {
            struct kz_err erasing = {0};

            must(f->ops->erase(f->store, hash, KZ_STR("x"), &ada, 1, &erasing), &erasing);
        }
        if (step == 0)
            txn = begin(f);
        else if (step == 1)
            rc = f->ops->read_users(txn, &user, 1, err);
        else if (step == 2)
            must(f->ops->stones(f->store, &hash, 1, &body, &out, err), err);
    }
    if (!body.size) {
        user.state = KZ_STR("new");
        what.users = &user;
        what.user_count = 1;
        what.records = &put;
        what.record_count = 1;
    }
    if (rc == KZ_OK) {
        rc = f->ops->commit(txn, &what, err);
    } else {
        f->ops->rollback(txn);
    }
    kz_buf_done(&out);
    free(record);
    return rc;
}

static void a_tombstone_keeps_a_redelivery_away(void **state)
{
    struct fixture *f = fixture_of(state);
    const struct kz_source ada = {ADA, UINT64_MAX};

    for (int step = 0; step <= 3; step++) {
        for (int round = 0; round < 5; round++) {
            struct kz_err err = {0};
            enum kz_code rc = process_once(f, round ? -1 : step, &err);

            if (rc == KZ_OK)
                break;
            assert_int_equal(rc, KZ_CONFLICT);
            assert_int_not_equal(round, 4);
        }
        assert_user(f, ADA, "");
        assert_scan(f, query_of(&ada, 1), "");
    }
}

/* ---- the schema -------------------------------------------------------------------------- */

static void made_once_and_checked(void **state)
{
    struct fixture *f = fixture_of(state);
    struct kz_buf said = {0};
    struct kz_err err = {0};

    for (int i = 0; i < 2; i++) {
        must(f->ops->create(f->store, gather_line, &said, &err), &err);
        must(f->ops->check(f->store, &err), &err);
    }
    assert_int_equal(said.size, 0); /* it was there: nothing was made */
    kz_buf_done(&said);
}

static void what_is_done_is_counted(void **state)
{
    struct fixture *f = fixture_of(state);
    const struct kz_source ada = {ADA, UINT64_MAX};
    struct kz_store_stats before, now;

    f->ops->stats(f->store, &before);
    put_events(f, &(struct event){.owner = ADA, .lsn = at(1)}, 1);
    assert_scan(f, query_of(&ada, 1), "a1");
    f->ops->stats(f->store, &now);
    assert_int_equal(now.commits - before.commits, 1);
    assert_int_equal(now.reads - before.reads, 1);
    assert_int_equal(now.rows_read - before.rows_read, 1);
    assert_true(now.rows_written > before.rows_written);
    assert_true(now.bytes_written > before.bytes_written + sizeof(struct kz_record));
    assert_false(now.throttled);
    assert_string_equal(now.problem, "");
    if (f->spanner)
        assert_true(now.sessions > 0);
}

static void a_commit_that_is_too_large_is_refused(void **state)
{
    struct fixture *f = fixture_of(state);
    struct kz_store_timer *timers = kz_calloc(KZ_STORE_ROWS_MAX + 1, sizeof(*timers));
    struct kz_err err = {0};

    for (int64_t i = 0; i <= KZ_STORE_ROWS_MAX; i++)
        timers[i] = (struct kz_store_timer){1, (uint64_t)i, NOW};
    assert_int_equal(
            f->ops->commit(begin(f),
                    &(struct kz_store_commit){
                            .timers = timers, .timer_count = KZ_STORE_ROWS_MAX + 1, .now_ms = NOW},
                    &err),
            KZ_TOO_LARGE);
    commit(f, (struct kz_store_commit){.timers = timers, .timer_count = KZ_STORE_ROWS_MAX});
    free(timers);
}

/* ---- all of it --------------------------------------------------------------------------- */

#define CASES(X)                                                                                   \
    X(users_are_read_as_they_were_put)                                                             \
    X(state_of_any_bytes_comes_back)                                                               \
    X(what_is_put_is_not_seen_before_its_commit)                                                   \
    X(of_two_that_read_the_same_one_wins)                                                          \
    X(four_racing_threads_lose_no_update)                                                          \
    X(ids_that_are_there_are_known)                                                                \
    X(a_commit_is_whole_or_nothing)                                                                \
    X(a_commit_that_is_too_large_is_refused)                                                       \
    X(records_by_key_range)                                                                        \
    X(records_behind_those_known)                                                                  \
    X(too_many_sources_are_refused)                                                                \
    X(an_event_says_when_it_was_stored)                                                            \
    X(a_record_by_owner_and_address)                                                               \
    X(all_records_in_the_order_of_addresses)                                                       \
    X(a_megabyte_of_props_comes_back_bit_for_bit)                                                  \
    X(records_of_any_layout_come_back_bit_for_bit)                                                 \
    X(five_hundred_of_twenty_thousand)                                                             \
    X(timers_by_time_and_part)                                                                     \
    X(a_flood_of_timers)                                                                           \
    X(the_outbox_holds_what_is_not_published)                                                      \
    X(dead_letters_by_pages)                                                                       \
    X(an_erased_user_is_gone_and_nobody_else)                                                      \
    X(tombstones_stay)                                                                             \
    X(a_tombstone_keeps_a_redelivery_away)                                                         \
    X(made_once_and_checked)                                                                       \
    X(what_is_done_is_counted)

int main(void)
{
#define X(name) {"memory_" #name, name, memory_up, down, NULL},
    const struct CMUnitTest memory[] = {CASES(X)};
#undef X
#define X(name) {"spanner_" #name, name, spanner_up, down, NULL},
    const struct CMUnitTest spanner[] = {CASES(X)};
#undef X
    int failed = cmocka_run_group_tests_name("memory", memory, NULL, NULL);

    return failed + cmocka_run_group_tests_name("spanner", spanner, NULL, NULL);
}
