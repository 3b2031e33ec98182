/* Against Google's emulator of Bigtable: that a server which is not the library's own understands
 * us. Skipped where BIGTABLE_EMULATOR_HOST is not set (tools/with-emulators sets it). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "rpc/proto/bigtable.pb-c.h"
#include "rpc/proto/bigtable_admin.pb-c.h"
#include "rpc/rpc.h"

#define ADMIN(name) Google__Bigtable__Admin__V2__##name
#define DATA(name) Google__Bigtable__V2__##name

struct fixture {
    struct kz_rpc *rpc;
    struct kz_rpc_channel *channel;
    char parent[64], id[64], name[160];
};

static int set_up(void **state)
{
    const struct kz_rpc_target target = {
            .emulator = getenv("BIGTABLE_EMULATOR_HOST"), .connection_count = 2};
    struct fixture *f = kz_calloc(1, sizeof(*f));

    *state = f;
    if (!target.emulator)
        return 0;
    assert_int_equal(kz_rpc_open(&f->rpc, NULL), KZ_OK);
    assert_int_equal(kz_rpc_connect(f->rpc, &target, &f->channel, NULL), KZ_OK);
    snprintf(f->parent, sizeof(f->parent), "projects/p/instances/rpc-%d", (int)getpid());
    snprintf(f->id, sizeof(f->id), "table");
    snprintf(f->name, sizeof(f->name), "%s/tables/%s", f->parent, f->id);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    kz_rpc_channel_close(f->channel);
    kz_rpc_close(f->rpc);
    free(f);
    return 0;
}

static void skip_without_emulator(const struct fixture *f)
{
    if (!f->rpc)
        skip();
}

static enum kz_code create_table(struct fixture *f, struct kz_err *err)
{
    const struct kz_rpc_options options = {
            .method = "/google.bigtable.admin.v2.BigtableTableAdmin/CreateTable"};
    ADMIN(CreateTableRequest)
    request = GOOGLE__BIGTABLE__ADMIN__V2__CREATE_TABLE_REQUEST__INIT;
    ADMIN(Table) table = GOOGLE__BIGTABLE__ADMIN__V2__TABLE__INIT;
    ADMIN(Table__Family)
    family = GOOGLE__BIGTABLE__ADMIN__V2__TABLE__FAMILY__INIT, *families = &family;
    ADMIN(ColumnFamily) column = GOOGLE__BIGTABLE__ADMIN__V2__COLUMN_FAMILY__INIT;
    ProtobufCMessage *answer = NULL;

    family.key = (char *)"f";
    family.value = &column;
    table.column_families = &families;
    table.n_column_families = 1;
    request.parent = f->parent;
    request.table_id = f->id;
    request.table = &table;
    KZ_TRY(kz_rpc_call(f->channel, &options, &request.base,
            &google__bigtable__admin__v2__table__descriptor, &answer, err));
    assert_string_equal(((ADMIN(Table) *)answer)->name, f->name);
    protobuf_c_message_free_unpacked(answer, NULL);
    return KZ_OK;
}

static void put_row(struct fixture *f, const char *key, struct kz_str value)
{
    const struct kz_rpc_options options = {
            .method = "/google.bigtable.v2.Bigtable/MutateRow", .idempotent = true};
    DATA(MutateRowRequest) request = GOOGLE__BIGTABLE__V2__MUTATE_ROW_REQUEST__INIT;
    DATA(Mutation) mutation = GOOGLE__BIGTABLE__V2__MUTATION__INIT, *mutations = &mutation;
    DATA(Mutation__SetCell) set = GOOGLE__BIGTABLE__V2__MUTATION__SET_CELL__INIT;
    ProtobufCMessage *answer = NULL;

    set.family_name = (char *)"f";
    set.column_qualifier = (ProtobufCBinaryData){1, (uint8_t *)"q"};
    set.value = (ProtobufCBinaryData){value.size, (uint8_t *)value.ptr};
    mutation.mutation_case = GOOGLE__BIGTABLE__V2__MUTATION__MUTATION_SET_CELL;
    mutation.set_cell = &set;
    request.table_name = f->name;
    request.row_key = (ProtobufCBinaryData){strlen(key), (uint8_t *)key};
    request.mutations = &mutations;
    request.n_mutations = 1;
    assert_int_equal(kz_rpc_call(f->channel, &options, &request.base,
                             &google__bigtable__v2__mutate_row_response__descriptor, &answer, NULL),
            KZ_OK);
    protobuf_c_message_free_unpacked(answer, NULL);
}

/* Rows that ended in `stream`, and the bytes of their values, until it ends. */
static enum kz_code read_all(
        struct kz_rpc_stream *stream, size_t *ret_rows, size_t *ret_bytes, struct kz_err *err)
{
    size_t rows = 0, bytes = 0;
    enum kz_code rc;

    for (;;) {
        ProtobufCMessage *message = NULL;
        const DATA(ReadRowsResponse) * answer;

        rc = kz_rpc_stream_next(stream, 60000, &message, err);
        if (rc != KZ_OK)
            break;
        answer = (const DATA(ReadRowsResponse) *)message;
        for (size_t i = 0; i < answer->n_chunks; i++) {
            rows += answer->chunks[i]->row_status_case ==
                    GOOGLE__BIGTABLE__V2__READ_ROWS_RESPONSE__CELL_CHUNK__ROW_STATUS_COMMIT_ROW;
            bytes += answer->chunks[i]->value.len;
        }
        protobuf_c_message_free_unpacked(message, NULL);
    }
    *ret_rows = rows;
    *ret_bytes = bytes;
    return rc;
}

static struct kz_rpc_stream *read_rows(struct fixture *f)
{
    const struct kz_rpc_options options = {.method = "/google.bigtable.v2.Bigtable/ReadRows"};
    DATA(ReadRowsRequest) request = GOOGLE__BIGTABLE__V2__READ_ROWS_REQUEST__INIT;
    struct kz_rpc_stream *stream = NULL;

    request.table_name = f->name;
    assert_int_equal(kz_rpc_stream_request(f->channel, &options, &request.base,
                             &google__bigtable__v2__read_rows_response__descriptor, &stream, NULL),
            KZ_OK);
    return stream;
}

static void test_calls_and_a_stream(void **state)
{
    enum { ROWS = 40, VALUE_SIZE = 200000 };
    struct fixture *f = *state;
    struct kz_rpc_stream *stream;
    struct kz_err err = {0};
    size_t rows, bytes;
    char *value;

    skip_without_emulator(f);
    if (create_table(f, &err) != KZ_OK)
        fail_msg("%s", err.message);
    assert_int_equal(create_table(f, &err), KZ_CONFLICT);
    assert_int_equal(kz_rpc_status(), KZ_RPC_ALREADY_EXISTS);
    value = kz_calloc(1, VALUE_SIZE);
    for (int i = 0; i < ROWS; i++) {
        char key[16];

        snprintf(key, sizeof(key), "%04d", i);
        put_row(f, key, kz_str_n(value, VALUE_SIZE));
    }
    free(value);
    stream = read_rows(f);
    assert_int_equal(read_all(stream, &rows, &bytes, &err), KZ_END);
    assert_int_equal(rows, ROWS);
    assert_int_equal(bytes, ROWS * VALUE_SIZE);
    kz_rpc_stream_close(stream);
    /* Given up unread. */
    stream = read_rows(f);
    kz_rpc_stream_close(stream);
}

static void test_a_table_that_is_missing(void **state)
{
    struct fixture *f = *state;
    struct kz_rpc_stream *stream;
    struct kz_err err = {0};
    size_t rows, bytes;

    skip_without_emulator(f);
    stream = read_rows(f);
    assert_int_equal(read_all(stream, &rows, &bytes, &err), KZ_NOT_FOUND);
    assert_int_equal(rows, 0);
    assert_non_null(strstr(err.message, f->name));
    kz_rpc_stream_close(stream);
}

static void test_a_method_that_is_missing(void **state)
{
    struct fixture *f = *state;
    const struct kz_rpc_options options = {
            .method = "/google.bigtable.v2.Bigtable/NoSuchMethod", .idempotent = true};
    DATA(MutateRowRequest) request = GOOGLE__BIGTABLE__V2__MUTATE_ROW_REQUEST__INIT;
    ProtobufCMessage *answer = NULL;

    skip_without_emulator(f);
    assert_int_equal(kz_rpc_call(f->channel, &options, &request.base,
                             &google__bigtable__v2__mutate_row_response__descriptor, &answer, NULL),
            KZ_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(test_a_table_that_is_missing, set_up, tear_down),
            cmocka_unit_test_setup_teardown(test_calls_and_a_stream, set_up, tear_down),
            cmocka_unit_test_setup_teardown(test_a_method_that_is_missing, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
