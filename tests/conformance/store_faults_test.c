/* What is Spanner's alone: outages, against an emulator of its own; what is made, and what is
 * refused. Skipped where tools/with-emulators has not found one. */
#include "store_rig.h"

/* ---- when the service does not answer ---------------------------------------------------- */

static void suspend(struct fixture *f)
{
    int status;

    emulator_suspend(&f->emulator);
    assert_int_equal(waitpid(f->emulator.pid, &status, WUNTRACED), f->emulator.pid);
    assert_true(WIFSTOPPED(status)); /* all of it: the signal alone takes a moment */
}

static void a_suspended_service_loses_and_doubles_nothing(void **state)
{
    struct fixture *f = fixture_of(state);
    const struct kz_source source = {ADA, UINT64_MAX};
    struct kz_history_reader *reader = f->ops->reader(f->store);
    struct kz_history_query query = query_of(&source, 1);
    struct kz_history_rows rows;
    struct racer racers[2];
    struct kz_err err = {0};
    int64_t until_ms;

    for (unsigned i = 0; i < 2; i++) {
        racers[i] = (struct racer){.f = f, .number = i, .rounds = 150};
        assert_int_equal(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        struct kz_store_stats before, now;

        f->ops->stats(f->store, &before);
        until_ms = kz_mono_ms() + 60000;
        do { /* under way */
            sleep_ms(1);
            f->ops->stats(f->store, &now);
        } while (now.commits < before.commits + 10 && kz_mono_ms() < until_ms);
        suspend(f);
        sleep_ms(2500);
        emulator_resume(&f->emulator);
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(racers[i].thread, NULL);
    for (unsigned i = 0; i < 2; i++) {
        assert_string_equal(racers[i].problem, "");
        assert_int_equal(racers[i].done, 150);
    }
    must(reader->ops->scan(reader, &query, &rows, &err), &err);
    assert_int_equal(rows.count, 300);
    assert_true(rows.lsns[299] == at(300));
    reader->ops->release(reader, &rows);
}

/* The answer to a commit is lost: what was put is there, or it is not, and the id tells. */
static void a_lost_answer_is_told_by_the_ids(void **state)
{
    struct fixture *f = fixture_of(state);
    struct kz_spanner_options options = options_of(f);
    const struct kz_source source = {ADA, UINT64_MAX};
    struct kz_record *record = event_record(&(struct event){.owner = ADA, .lsn = at(1)});
    const struct kz_store_record put = {at(1), record};
    const struct kz_store_id id = id_of(ADA, "uada\0e1", 7);
    const struct kz_store_commit what = {
            .ids = &id, .id_count = 1, .records = &put, .record_count = 1, .now_ms = NOW};
    struct kz_store *hasty;
    struct kz_store_txn *txn;
    struct kz_err err = {0};
    bool there;
    enum kz_code rc;

    options.timeout_ms = 6000;
    must(kz_spanner_open(&options, &f->other, &err), &err);
    hasty = f->other;
    must(hasty->ops->begin(hasty, &txn, &err), &err);
    must(hasty->ops->read_ids(txn, &id, 1, &there, &err), &err);
    assert_false(there);
    suspend(f);
    rc = hasty->ops->commit(txn, &what, &err);
    emulator_resume(&f->emulator);
    if (rc != KZ_TIMEOUT && rc != KZ_UNAVAILABLE)
        fail_msg("%s: %s", kz_code_name(rc), err.message);
    assert_true(hasty->ops->retry_ms(hasty) > 0);
    for (int i = 0; i < 50; i++) {
        txn = begin(f);
        rc = f->ops->read_ids(txn, &id, 1, &there, &err);
        if (rc == KZ_OK && !there)
            rc = f->ops->commit(txn, &what, &err);
        else
            f->ops->rollback(txn);
        if (rc == KZ_OK)
            break;
        assert_int_equal(rc, KZ_CONFLICT);
        sleep_ms(f->ops->retry_ms(f->store));
    }
    assert_int_equal(rc, KZ_OK);
    assert_scan(f, query_of(&source, 1), "a1");
    free(record);
}

/* The emulator keeps everything in memory: after its end there is nothing, until it is made again.
 */
static void a_service_that_has_lost_everything_is_made_again(void **state)
{
    struct fixture *f = fixture_of(state);
    struct kz_store_txn *txn;
    struct kz_err err = {0};

    put_user(f, ADA, "state");
    emulator_kill(&f->emulator);
    emulator_start(&f->emulator);
    assert_int_equal(f->ops->check(f->store, &err), KZ_NOT_FOUND);
    assert_non_null(strstr(err.message, f->database));
    assert_non_null(strstr(err.hint, "kizashi gcp migrate"));
    must(f->ops->begin(f->store, &txn, &err), &err);
    assert_int_equal(
            f->ops->commit(txn,
                    &(struct kz_store_commit){.users = &(struct kz_store_user){ADA, KZ_STR("x")},
                            .user_count = 1,
                            .now_ms = NOW},
                    &err),
            KZ_NOT_FOUND);
    must(f->ops->create(f->store, NULL, NULL, &err), &err);
    must(f->ops->check(f->store, &err), &err);
    assert_user(f, ADA, "");
    put_user(f, ADA, "again");
    assert_user(f, ADA, "again");
}

/* ---- making it -------------------------------------------------------------------------- */

static void create_says_what_it_makes(void **state)
{
    struct fixture *f = fixture_of(state);
    struct kz_spanner_options options = options_of(f);
    struct kz_store *other;
    struct kz_buf said = {0};
    struct kz_err err = {0};
    char name[40];

    if (!f->spanner)
        skip();
    snprintf(name, sizeof(name), "%s-b", f->database);
    options.database = name;
    options.dedupe_ms = 0;
    must(kz_spanner_open(&options, &other, &err), &err);
    assert_int_equal(other->ops->check(other, &err), KZ_NOT_FOUND);
    assert_non_null(strstr(err.message, name));
    assert_non_null(strstr(err.hint, "kizashi gcp migrate"));
    must(other->ops->create(other, gather_line, &said, &err), &err);
    kz_buf_char(&said, '\0');
    assert_non_null(strstr(said.data, "created in instance conformance"));
    assert_non_null(strstr(said.data, "schema version 1\n"));
    assert_non_null(strstr(said.data, "table events keeps rows for 90 days\n"));
    assert_null(strstr(said.data, "table ids"));
    must(other->ops->check(other, &err), &err);
    other->ops->close(other);
    /* Another retention is mended. */
    options.retention_ms = 0;
    options.dedupe_ms = 36 * INT64_C(3600000);
    kz_buf_clear(&said);
    must(kz_spanner_open(&options, &other, &err), &err);
    must(other->ops->create(other, gather_line, &said, &err), &err);
    kz_buf_char(&said, '\0');
    assert_string_equal(said.data, "Spanner table ids keeps rows for 2 days\n"
                                   "Spanner table events keeps rows for ever\n"
                                   "Spanner table notes keeps rows for ever\n"
                                   "Spanner table letters keeps rows for ever\n");
    other->ops->close(other);
    kz_buf_done(&said);
}

static void options_that_cannot_be_are_refused(void **state)
{
    struct fixture *f = fixture_of(state);
    struct kz_spanner_options options = options_of(f);
    struct kz_store *other;
    struct kz_err err = {0};

    if (!f->spanner)
        skip();
    options.database = "Shop";
    assert_int_equal(kz_spanner_open(&options, &other, &err), KZ_CONFIG);
    options = options_of(f);
    options.instance = NULL;
    assert_int_equal(kz_spanner_open(&options, &other, &err), KZ_CONFIG);
    options = options_of(f);
    options.state_retention_ms = 1;
    assert_int_equal(kz_spanner_open(&options, &other, &err), KZ_CONFIG);
}

int main(void)
{
#define OWN(name) cmocka_unit_test_setup_teardown(name, own_spanner_up, down)
#define SHARED(name) cmocka_unit_test_setup_teardown(name, spanner_up, down)
    const struct CMUnitTest tests[] = {
            OWN(a_suspended_service_loses_and_doubles_nothing),
            OWN(a_lost_answer_is_told_by_the_ids),
            OWN(a_service_that_has_lost_everything_is_made_again),
            SHARED(create_says_what_it_makes),
            SHARED(options_that_cannot_be_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
