/* The database: whether it is there and of our version; making and migrating it.
 *
 * A migration is a list of statements that can be run again: each makes what is not there yet. Its
 * version is noted in the table `migrations` once all of them are through, so that a migration that
 * was interrupted is simply run again. docs/spanner-schema.md says what is in the tables.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "backends/spanner/spanner_int.h"
#include "rpc/proto/spanner_admin.pb-c.h"
#include "sys/clock.h"

#define ADMIN(name) Google__Spanner__Admin__##name

enum { ADMIN_TIMEOUT_MS = 600000 /* a change of the schema takes minutes */, POLL_MS = 50 };

static const char *const first[] = {
        "CREATE TABLE IF NOT EXISTS migrations (\n"
        "  version INT64 NOT NULL,\n"
        "  applied_at TIMESTAMP NOT NULL,\n"
        ") PRIMARY KEY (version)",
        "CREATE TABLE IF NOT EXISTS users (\n"
        "  owner INT64 NOT NULL,\n"
        "  state BYTES(MAX),\n"
        "  stored_at TIMESTAMP NOT NULL,\n"
        ") PRIMARY KEY (owner)",
        "CREATE TABLE IF NOT EXISTS ids (\n"
        "  owner INT64 NOT NULL,\n"
        "  id BYTES(1024) NOT NULL,\n"
        "  stored_at TIMESTAMP NOT NULL,\n"
        ") PRIMARY KEY (owner, id), INTERLEAVE IN PARENT users ON DELETE CASCADE",
        "CREATE TABLE IF NOT EXISTS events (\n"
        "  owner INT64 NOT NULL,\n"
        "  lsn INT64 NOT NULL,\n"
        "  event_id STRING(MAX),\n"
        "  user_id STRING(MAX),\n"
        "  anonymous_id STRING(MAX),\n"
        "  name STRING(MAX),\n"
        "  ts TIMESTAMP,\n"
        "  props STRING(MAX),\n"
        "  record BYTES(MAX) NOT NULL,\n"
        "  stored_at TIMESTAMP NOT NULL,\n"
        ") PRIMARY KEY (owner, lsn DESC), INTERLEAVE IN PARENT users ON DELETE CASCADE",
        "CREATE TABLE IF NOT EXISTS notes (\n"
        "  owner INT64 NOT NULL,\n"
        "  lsn INT64 NOT NULL,\n"
        "  record BYTES(MAX) NOT NULL,\n"
        "  stored_at TIMESTAMP NOT NULL,\n"
        ") PRIMARY KEY (owner, lsn DESC), INTERLEAVE IN PARENT users ON DELETE CASCADE",
        "CREATE TABLE IF NOT EXISTS timers (\n"
        "  shard INT64 NOT NULL,\n"
        "  due_ms INT64 NOT NULL,\n"
        "  owner INT64 NOT NULL,\n"
        "  rule INT64 NOT NULL,\n"
        ") PRIMARY KEY (shard, due_ms, owner, rule)",
        "CREATE TABLE IF NOT EXISTS outbox (\n"
        "  shard INT64 NOT NULL,\n"
        "  lsn INT64 NOT NULL,\n"
        "  owner INT64 NOT NULL,\n"
        "  message BYTES(MAX) NOT NULL,\n"
        "  stored_ms INT64 NOT NULL,\n"
        ") PRIMARY KEY (shard, lsn, owner)",
        "CREATE TABLE IF NOT EXISTS letters (\n"
        "  shard INT64 NOT NULL,\n"
        "  lsn INT64 NOT NULL,\n"
        "  digest INT64 NOT NULL,\n"
        "  owner INT64,\n"
        "  record BYTES(MAX) NOT NULL,\n"
        "  stored_at TIMESTAMP NOT NULL,\n"
        ") PRIMARY KEY (shard, lsn DESC, digest)",
        "CREATE NULL_FILTERED INDEX IF NOT EXISTS letters_by_owner ON letters (owner)",
        "CREATE TABLE IF NOT EXISTS stones (\n"
        "  user_hash INT64 NOT NULL,\n"
        "  body BYTES(MAX),\n"
        "  stored_at TIMESTAMP NOT NULL,\n"
        ") PRIMARY KEY (user_hash)",
};

struct migration {
    const char *const *statements;
    size_t count;
};
/* The version of each is its place, from 1. Never changed once released: a change is a new one. */
static const struct migration migrations[] = {
        {first, KZ_ARRAY_COUNT(first)},
};
_Static_assert(KZ_ARRAY_COUNT(migrations) == KZ_SP_SCHEMA_VERSION, "a migration a version");

typedef void say_fn(void *arg, const char *line);

struct say {
    say_fn *fn;
    void *arg;
};

static void tell(const struct say *say, const char *fmt, ...) KZ_PRINTF(2, 3);
static void tell(const struct say *say, const char *fmt, ...)
{
    char line[256];
    va_list args;

    if (!say->fn)
        return;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    say->fn(say->arg, line);
}

/* ---- calls ------------------------------------------------------------------------------- */

static enum kz_code call(struct kz_sp *sp, const char *method, const char *routing,
        const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type,
        ProtobufCMessage **ret_answer, struct kz_err *err)
{
    const struct kz_rpc_options options = {
            .method = method,
            .timeout_ms = KZ_MAX(sp->timeout_ms, (int64_t)60000),
            .routing = routing,
            .resource = sp->database_name,
    };

    return kz_rpc_call(sp->admin, &options, request, type, ret_answer, err);
}

static enum kz_code operation_failed(const ADMIN(Status) * status, struct kz_err *err)
{
    switch (status->code) {
    case KZ_RPC_ALREADY_EXISTS:
    case KZ_RPC_ABORTED:
        return kz_fail(err, KZ_CONFLICT, "%s", status->message);
    case KZ_RPC_NOT_FOUND:
        return kz_fail(err, KZ_NOT_FOUND, "%s", status->message);
    case KZ_RPC_PERMISSION_DENIED:
        return kz_fail(err, KZ_FORBIDDEN, "%s", status->message);
    default:
        return kz_fail(err, KZ_INVALID, "%s", status->message);
    }
}

/* Waits for the end of a long-running operation; frees it. */
static enum kz_code finish(struct kz_sp *sp, ProtobufCMessage *answer, struct kz_err *err)
{
    const int64_t until_ms = kz_mono_ms() + ADMIN_TIMEOUT_MS;
    enum kz_code rc = KZ_OK;

    for (;;) {
        ADMIN(Operation) *operation = (ADMIN(Operation) *)answer;
        ADMIN(GetOperationRequest) request = GOOGLE__SPANNER__ADMIN__GET_OPERATION_REQUEST__INIT;
        struct timespec pause = {0, POLL_MS * 1000000};
        char routing[400];
        ProtobufCMessage *next = NULL;

        if (operation->done) {
            rc = operation->error ? operation_failed(operation->error, err) : KZ_OK;
            break;
        }
        if (kz_mono_ms() > until_ms) {
            rc = kz_fail(err, KZ_TIMEOUT, "operation %s is still under way", operation->name);
            break;
        }
        nanosleep(&pause, NULL);
        request.name = operation->name;
        snprintf(routing, sizeof(routing), "name=%s", operation->name);
        rc = call(sp, "/google.longrunning.Operations/GetOperation", routing, &request.base,
                &google__spanner__admin__operation__descriptor, &next, err);
        if (rc != KZ_OK)
            break;
        protobuf_c_message_free_unpacked(answer, NULL);
        answer = next;
    }
    protobuf_c_message_free_unpacked(answer, NULL);
    return rc;
}

static char *routing_of(const char *name, const char *value)
{
    struct kz_buf buf = {0};

    kz_buf_printf(&buf, "%s=%s", name, value);
    kz_buf_char(&buf, '\0');
    return buf.data;
}

static enum kz_code operate(struct kz_sp *sp, const char *method, const char *name,
        const char *value, const ProtobufCMessage *request, struct kz_err *err)
{
    KZ_AUTO(kz_freep) char *routing = routing_of(name, value);
    ProtobufCMessage *answer = NULL;

    KZ_TRY(call(sp, method, routing, request, &google__spanner__admin__operation__descriptor,
            &answer, err));
    return finish(sp, answer, err);
}

/* The emulator's instances cost nothing and are gone when it ends: there it is made. */
static enum kz_code create_instance(struct kz_sp *sp, const struct say *say, struct kz_err *err)
{
    ADMIN(CreateInstanceRequest) request = GOOGLE__SPANNER__ADMIN__CREATE_INSTANCE_REQUEST__INIT;
    ADMIN(Instance) instance = GOOGLE__SPANNER__ADMIN__INSTANCE__INIT;
    KZ_AUTO(kz_freep) char *config = NULL;
    struct kz_buf buf = {0};
    enum kz_code rc;

    kz_buf_printf(&buf, "%s/instanceConfigs/emulator-config", sp->project_name);
    kz_buf_char(&buf, '\0');
    config = buf.data;
    instance.name = sp->instance_name;
    instance.config = config;
    instance.display_name = sp->instance;
    instance.node_count = 1;
    request.parent = sp->project_name;
    request.instance_id = sp->instance;
    request.instance = &instance;
    rc = operate(sp, "/google.spanner.admin.instance.v1.InstanceAdmin/CreateInstance", "parent",
            sp->project_name, &request.base, err);
    if (rc == KZ_CONFLICT) /* somebody else was quicker, or it was there */
        return KZ_OK;
    if (rc == KZ_OK)
        tell(say, "Spanner instance %s created on the emulator", sp->instance);
    return rc;
}

static enum kz_code create_database(struct kz_sp *sp, const struct say *say, struct kz_err *err)
{
    ADMIN(CreateDatabaseRequest) request = GOOGLE__SPANNER__ADMIN__CREATE_DATABASE_REQUEST__INIT;
    KZ_AUTO(kz_freep) char *statement = NULL;
    struct kz_buf buf = {0};
    enum kz_code rc;

    kz_buf_printf(&buf, "CREATE DATABASE `%s`", sp->database);
    kz_buf_char(&buf, '\0');
    statement = buf.data;
    request.parent = sp->instance_name;
    request.create_statement = statement;
    rc = operate(sp, "/google.spanner.admin.database.v1.DatabaseAdmin/CreateDatabase", "parent",
            sp->instance_name, &request.base, err);
    if (rc == KZ_CONFLICT)
        return KZ_OK;
    if (rc == KZ_OK)
        tell(say, "Spanner database %s created in instance %s", sp->database, sp->instance);
    return rc;
}

static enum kz_code update(
        struct kz_sp *sp, const char *const *statements, size_t count, struct kz_err *err)
{
    ADMIN(UpdateDatabaseDdlRequest)
    request = GOOGLE__SPANNER__ADMIN__UPDATE_DATABASE_DDL_REQUEST__INIT;

    request.database = sp->database_name;
    request.statements = (char **)(uintptr_t)statements;
    request.n_statements = count;
    return operate(sp, "/google.spanner.admin.database.v1.DatabaseAdmin/UpdateDatabaseDdl",
            "database", sp->database_name, &request.base, err);
}

static enum kz_code get_ddl(
        struct kz_sp *sp, ADMIN(GetDatabaseDdlResponse) * *ret_ddl, struct kz_err *err)
{
    ADMIN(GetDatabaseDdlRequest) request = GOOGLE__SPANNER__ADMIN__GET_DATABASE_DDL_REQUEST__INIT;
    ProtobufCMessage *answer = NULL;

    request.database = sp->database_name;
    KZ_TRY(call(sp, "/google.spanner.admin.database.v1.DatabaseAdmin/GetDatabaseDdl", sp->routing,
            &request.base, &google__spanner__admin__get_database_ddl_response__descriptor, &answer,
            err));
    *ret_ddl = (ADMIN(GetDatabaseDdlResponse) *)answer;
    return KZ_OK;
}

static void free_ddl(ADMIN(GetDatabaseDdlResponse) * ddl)
{
    if (ddl)
        protobuf_c_message_free_unpacked(&ddl->base, NULL);
}

/* The statement that made a table; NULL: it is not there. */
static const char *find_table(const ADMIN(GetDatabaseDdlResponse) * ddl, const char *table)
{
    char head[64];

    snprintf(head, sizeof(head), "CREATE TABLE %s (", table);
    for (size_t i = 0; i < ddl->n_statements; i++)
        if (strncmp(ddl->statements[i], head, strlen(head)) == 0)
            return ddl->statements[i];
    return NULL;
}

/* ---- the version ------------------------------------------------------------------------- */

static enum kz_code take_version(void *arg, const struct kz_sp_cell *cells, struct kz_err *err)
{
    int64_t *version = arg, found;

    KZ_TRY(kz_sp_get_int(&cells[0], &found, err));
    *version = KZ_MAX(*version, found);
    return KZ_OK;
}

static void forget_version(void *arg)
{
    *(int64_t *)arg = 0;
}

static enum kz_code read_version(struct kz_sp *sp, int64_t *ret_version, struct kz_err *err)
{
    static const char *const columns[] = {"version"};
    KZ_SP(KeySet) all = GOOGLE__SPANNER__V1__KEY_SET__INIT;
    int64_t version = 0;
    const struct kz_sp_read read = {
            .table = "migrations",
            .columns = columns,
            .column_count = 1,
            .keys = &all,
            .small = true,
            .each = take_version,
            .again = forget_version,
            .arg = &version,
    };

    all.all = true;
    KZ_TRY(kz_sp_read(sp, NULL, &read, err));
    *ret_version = version;
    return KZ_OK;
}

static enum kz_code note_version(struct kz_sp *sp, int64_t version, struct kz_err *err)
{
    static const char *const columns[] = {"version", "applied_at"};
    struct kz_sp_changes changes = {.count = 0};
    struct kz_sp_lists *rows = kz_sp_changes_write(&changes, false, "migrations", columns, 2);
    enum kz_code rc;

    kz_sp_int(rows, version);
    kz_sp_time(rows, kz_clock_ms());
    kz_sp_end(rows);
    rc = kz_sp_commit(sp, NULL, &changes, err);
    kz_sp_changes_done(&changes);
    return rc;
}

static enum kz_code check_version(struct kz_sp *sp, int64_t version, struct kz_err *err)
{
    if (version <= KZ_SP_SCHEMA_VERSION)
        return KZ_OK;
    return kz_fail(err, KZ_UNSUPPORTED,
            "database \"%s\" of Spanner instance \"%s\" has version %lld of the schema, newer than "
            "the %d of this program: run a newer one",
            sp->database, sp->instance, (long long)version, KZ_SP_SCHEMA_VERSION);
}

enum kz_code kz_sp_check(struct kz_store *store, struct kz_err *err)
{
    struct kz_sp *sp = kz_sp_of(store);
    int64_t version;

    KZ_TRY(read_version(sp, &version, err)); /* names what is missing, and the remedy */
    KZ_TRY(check_version(sp, version, err));
    if (version == KZ_SP_SCHEMA_VERSION)
        return KZ_OK;
    (void)kz_fail(err, KZ_NOT_FOUND,
            "database \"%s\" of Spanner instance \"%s\" in project \"%s\" has version %lld of the "
            "schema, this program needs %d",
            sp->database, sp->instance, sp->project, (long long)version, KZ_SP_SCHEMA_VERSION);
    return err ? kz_hint(err, "`kizashi gcp migrate DIR` brings it up") : KZ_NOT_FOUND;
}

/* ---- retention --------------------------------------------------------------------------- */

/* Days until rows go; 0: never. A day more than asked for: the service counts in days, and takes up
 * to three more. */
static int64_t days_of(int64_t ms)
{
    return ms ? (ms + 86399999) / 86400000 : 0;
}

/* The policy a table has now; 0: none. */
static int64_t policy_of(const char *statement)
{
    const char *policy = strstr(statement, "ROW DELETION POLICY");
    const char *interval = policy ? strstr(policy, "INTERVAL ") : NULL;

    return interval ? strtoll(interval + strlen("INTERVAL "), NULL, 10) : 0;
}

static enum kz_code mend_policies(struct kz_sp *sp, const ADMIN(GetDatabaseDdlResponse) * ddl,
        const struct say *say, struct kz_err *err)
{
    const struct {
        const char *table;
        int64_t days;
    } wanted[] = {
            {"users", days_of(sp->state_retention_ms)},
            {"ids", days_of(sp->dedupe_ms)},
            {"events", days_of(sp->retention_ms)},
            {"notes", days_of(sp->retention_ms)},
            {"letters", days_of(sp->retention_ms)},
    };

    for (size_t i = 0; i < KZ_ARRAY_COUNT(wanted); i++) {
        const char *table = find_table(ddl, wanted[i].table);
        int64_t there = table ? policy_of(table) : 0;
        char text[200];
        const char *statement = text;

        if (there == wanted[i].days)
            continue;
        if (wanted[i].days)
            snprintf(text, sizeof(text),
                    "ALTER TABLE %s %s ROW DELETION POLICY (OLDER_THAN(stored_at, INTERVAL %lld "
                    "DAY))",
                    wanted[i].table, there ? "REPLACE" : "ADD", (long long)wanted[i].days);
        else
            snprintf(
                    text, sizeof(text), "ALTER TABLE %s DROP ROW DELETION POLICY", wanted[i].table);
        KZ_TRY(update(sp, &statement, 1, err));
        if (wanted[i].days)
            tell(say, "Spanner table %s keeps rows for %lld days", wanted[i].table,
                    (long long)wanted[i].days);
        else
            tell(say, "Spanner table %s keeps rows for ever", wanted[i].table);
    }
    return KZ_OK;
}

/* ---- create ------------------------------------------------------------------------------ */

static enum kz_code migrate(struct kz_sp *sp, const ADMIN(GetDatabaseDdlResponse) * ddl,
        const struct say *say, struct kz_err *err)
{
    int64_t version = 0;

    if (find_table(ddl, "migrations"))
        KZ_TRY(read_version(sp, &version, err));
    KZ_TRY(check_version(sp, version, err));
    for (; version < KZ_SP_SCHEMA_VERSION; version++) {
        const struct migration *migration = &migrations[version];

        KZ_TRY(update(sp, migration->statements, migration->count, err));
        KZ_TRY(note_version(sp, version + 1, err));
        tell(say, "Spanner database %s: schema version %lld", sp->database, (long long)version + 1);
    }
    return KZ_OK;
}

static enum kz_code create(struct kz_sp *sp, const struct say *say, struct kz_err *err)
{
    ADMIN(GetDatabaseDdlResponse) *ddl = NULL;
    enum kz_code rc = get_ddl(sp, &ddl, err);

    if (rc == KZ_NOT_FOUND) {
        rc = sp->emulator ? create_instance(sp, say, err) : KZ_OK;
        if (rc == KZ_OK)
            rc = create_database(sp, say, err);
        if (rc == KZ_OK)
            rc = get_ddl(sp, &ddl, err);
    }
    if (rc == KZ_OK)
        rc = migrate(sp, ddl, say, err);
    free_ddl(ddl);
    ddl = NULL;
    if (rc == KZ_OK)
        rc = get_ddl(sp, &ddl, err);
    if (rc == KZ_OK)
        rc = mend_policies(sp, ddl, say, err);
    free_ddl(ddl);
    return rc;
}

enum kz_code kz_sp_create(struct kz_store *store, void (*say)(void *arg, const char *line),
        void *arg, struct kz_err *err)
{
    struct kz_sp *sp = kz_sp_of(store);
    const struct say to = {say, arg};
    struct kz_err local = {0};
    enum kz_code rc = create(sp, &to, err ? err : &local);

    if (rc == KZ_OK || rc == KZ_UNSUPPORTED)
        return rc;
    return strstr((err ? err : &local)->message, "Spanner instance") ? rc
                                                                     : kz_sp_failed(sp, rc, err);
}
