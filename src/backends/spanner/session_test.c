/* Sessions against Spanner's emulator: forgotten ones, and more wanted than there may be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backends/spanner/spanner_int.h"

struct fixture {
    struct kz_rpc *rpc;
    struct kz_store *store;
    const struct kz_store_ops *ops;
};

static void must(enum kz_code rc, const struct kz_err *err)
{
    if (rc != KZ_OK)
        fail_msg("%s: %s", kz_code_name(rc), err->message);
}

static int up(void **state)
{
    static unsigned number;
    struct fixture *f = kz_calloc(1, sizeof(*f));
    struct kz_spanner_options options = {.project = "kizashi-test",
            .instance = "sessions",
            .session_max = 2,
            .timeout_ms = 8000};
    struct kz_err err = {0};
    char database[40];

    *state = f;
    if (!getenv("SPANNER_EMULATOR_HOST"))
        return 0;
    snprintf(database, sizeof(database), "s%d-%u", (int)getpid(), number++);
    options.database = database;
    must(kz_rpc_open(&f->rpc, &err), &err);
    options.rpc = f->rpc;
    must(kz_spanner_open(&options, &f->store, &err), &err);
    f->ops = f->store->ops;
    must(f->ops->create(f->store, NULL, NULL, &err), &err);
    return 0;
}

static int down(void **state)
{
    struct fixture *f = *state;

    if (f->store)
        f->ops->close(f->store);
    if (f->rpc)
        kz_rpc_close(f->rpc);
    free(f);
    return 0;
}

static void forget(struct kz_sp *sp, const char *name)
{
    KZ_SP(DeleteSessionRequest) request = GOOGLE__SPANNER__V1__DELETE_SESSION_REQUEST__INIT;
    const struct kz_rpc_options options = {.method = "/google.spanner.v1.Spanner/DeleteSession"};
    ProtobufCMessage *answer = NULL;
    struct kz_err err = {0};

    request.name = (char *)(uintptr_t)name;
    must(kz_rpc_call(sp->data, &options, &request.base, &google__spanner__v1__empty__descriptor,
                 &answer, &err),
            &err);
    protobuf_c_message_free_unpacked(answer, NULL);
}

/* As the service may at any time, of all that wait. */
static void forget_all(struct kz_sp *sp)
{
    for (struct kz_sp_session *session = sp->sessions; session; session = session->next)
        forget(sp, session->name);
}

static void forgotten_sessions_are_replaced(void **state)
{
    struct fixture *f = *state;
    const struct kz_store_user put = {7, KZ_STR("state")};
    const struct kz_store_commit what = {.users = &put, .user_count = 1, .now_ms = 1};
    struct kz_store_user user = {.owner = 7};
    struct kz_store_txn *txn;
    struct kz_buf out = {0};
    struct kz_err err = {0};

    if (!f->store)
        skip();
    forget_all(kz_sp_of(f->store)); /* a commit by itself */
    must(f->ops->begin(f->store, &txn, &err), &err);
    must(f->ops->commit(txn, &what, &err), &err);
    forget_all(kz_sp_of(f->store)); /* a read by itself */
    must(f->ops->users(f->store, &user, 1, &out, &err), &err);
    assert_int_equal(user.state.size, 5);
    forget_all(kz_sp_of(f->store)); /* a transaction's first read */
    must(f->ops->begin(f->store, &txn, &err), &err);
    must(f->ops->read_users(txn, &user, 1, &err), &err);
    assert_int_equal(user.state.size, 5);
    must(f->ops->commit(txn, &what, &err), &err);
    kz_buf_done(&out);
}

/* Gives the size of the state before. The emulator knows a transaction longer than its session, so
 * that others are in conflict with it until it has had enough of it. */
static size_t put_state(struct fixture *f)
{
    const struct kz_store_user put = {7, KZ_STR("state")};
    const struct kz_store_commit what = {.users = &put, .user_count = 1, .now_ms = 1};
    struct kz_store_user user = {.owner = 7};
    struct kz_err err = {0};
    enum kz_code rc = KZ_CONFLICT;
    size_t size = 0;

    for (int i = 0; i < 100 && rc == KZ_CONFLICT; i++) {
        struct kz_store_txn *txn;

        usleep((useconds_t)f->ops->retry_ms(f->store) * 1000);
        must(f->ops->begin(f->store, &txn, &err), &err);
        rc = f->ops->read_users(txn, &user, 1, &err);
        size = user.state.size;
        if (rc == KZ_OK)
            rc = f->ops->commit(txn, &what, &err);
        else
            f->ops->rollback(txn);
    }
    must(rc, &err);
    return size;
}

/* Within a transaction nothing can be saved: whoever made it begins again. (The session gets a name
 * that the emulator does not know: one that is deleted within a transaction makes it crash.) */
static void a_transaction_whose_session_is_forgotten_begins_again(void **state)
{
    struct fixture *f = *state;
    const struct kz_store_user put = {7, KZ_STR("state")};
    const struct kz_store_commit what = {.users = &put, .user_count = 1, .now_ms = 1};
    struct kz_store_user user = {.owner = 7};
    struct kz_store_txn *txn;
    struct kz_err err = {0};
    enum kz_code rc;

    if (!f->store)
        skip();
    for (int at_commit = 0; at_commit < 2; at_commit++) {
        must(f->ops->begin(f->store, &txn, &err), &err);
        must(f->ops->read_users(txn, &user, 1, &err), &err);
        txn->session->name[strlen(txn->session->name) - 1] ^= 1;
        if (at_commit) {
            rc = f->ops->commit(txn, &what, &err);
        } else {
            rc = f->ops->read_users(txn, &user, 1, &err);
            f->ops->rollback(txn);
        }
        assert_true(rc == KZ_CONFLICT || rc == KZ_UNAVAILABLE);
        assert_true(f->ops->retry_ms(f->store) > 0);
        assert_int_equal(put_state(f), at_commit ? 5 : 0);
    }
}

static void no_more_sessions_than_allowed(void **state)
{
    struct fixture *f = *state;
    struct kz_store_txn *txns[2], *third;
    struct kz_store_stats stats;
    struct kz_err err = {0};

    if (!f->store)
        skip();
    for (int i = 0; i < 2; i++)
        must(f->ops->begin(f->store, &txns[i], &err), &err);
    assert_int_equal(f->ops->begin(f->store, &third, &err), KZ_OVERLOADED);
    assert_non_null(strstr(err.message, "all 2 sessions are busy"));
    f->ops->rollback(txns[0]);
    must(f->ops->begin(f->store, &third, &err), &err);
    f->ops->rollback(third);
    f->ops->rollback(txns[1]);
    f->ops->stats(f->store, &stats);
    assert_int_equal(stats.sessions, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(forgotten_sessions_are_replaced, up, down),
            cmocka_unit_test_setup_teardown(
                    a_transaction_whose_session_is_forgotten_begins_again, up, down),
            cmocka_unit_test_setup_teardown(no_more_sessions_than_allowed, up, down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
