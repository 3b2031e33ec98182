#include "backends/spanner/spanner.h"

#include <stdio.h>
#include <stdlib.h>

#include "backends/spanner/spanner_int.h"

#define ENDPOINT "spanner.googleapis.com:443"

enum { DEFAULT_TIMEOUT_MS = 10000, DEFAULT_SESSIONS = 100, DATABASE_MIN = 2, DATABASE_MAX = 30 };

static void spanner_stats(struct kz_store *store, struct kz_store_stats *ret_stats)
{
    struct kz_sp *sp = kz_sp_of(store);
    struct kz_store_stats stats = {
            .commits = sp->commits,
            .conflicts = sp->conflicts,
            .retries = sp->retries,
            .reads = sp->reads,
            .rows_read = sp->rows_read,
            .rows_written = sp->rows_written,
            .bytes_written = sp->bytes_written,
            .commit_us_total = sp->commit_us_total,
            .read_us_total = sp->read_us_total,
    };

    kz_rpc_health_get(&sp->health, &stats.throttled, stats.problem);
    kz_rpc_health_add_silence(sp->data, stats.problem);
    pthread_mutex_lock(&sp->sessions_lock);
    stats.sessions = sp->session_count;
    pthread_mutex_unlock(&sp->sessions_lock);
    *ret_stats = stats;
}

static struct kz_history_reader *spanner_reader(struct kz_store *store)
{
    return &kz_sp_of(store)->reader;
}

static void spanner_close(struct kz_store *store)
{
    struct kz_sp *sp = kz_sp_of(store);

    kz_sp_sessions_done(sp);
    if (sp->data)
        kz_rpc_channel_close(sp->data);
    if (sp->admin)
        kz_rpc_channel_close(sp->admin);
    pthread_cond_destroy(&sp->sessions_there);
    pthread_mutex_destroy(&sp->sessions_lock);
    kz_rpc_health_done(&sp->health);
    free(sp->project);
    free(sp->instance);
    free(sp->database);
    free(sp->project_name);
    free(sp->instance_name);
    free(sp->database_name);
    free(sp->routing);
    sp->magic = 0;
    free(sp);
}

static const struct kz_store_ops spanner_ops = {
        .name = "spanner",
        .begin = kz_sp_begin,
        .read_users = kz_sp_read_users,
        .read_ids = kz_sp_read_ids,
        .commit = kz_sp_commit_txn,
        .rollback = kz_sp_rollback,
        .retry_ms = kz_sp_retry_ms,
        .users = kz_sp_users,
        .reader = spanner_reader,
        .stored_ms = kz_sp_stored_ms,
        .due = kz_sp_due,
        .outbox = kz_sp_outbox,
        .published = kz_sp_published,
        .letters = kz_sp_letters,
        .drop_letters = kz_sp_drop_letters,
        .erase = kz_sp_erase,
        .stones = kz_sp_stones,
        .check = kz_sp_check,
        .create = kz_sp_create,
        .stats = spanner_stats,
        .close = spanner_close,
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

/* [a-z][a-z0-9_-]*[a-z0-9], as the service wants it. */
static bool is_database_name(const char *name)
{
    size_t size = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-");

    return size >= DATABASE_MIN && size <= DATABASE_MAX && !name[size] && name[0] >= 'a' &&
           name[0] <= 'z' && name[size - 1] != '-' && name[size - 1] != '_';
}

static enum kz_code check_options(const struct kz_spanner_options *options, struct kz_err *err)
{
    if (!options->project || !options->project[0])
        return kz_fail(err, KZ_CONFIG, "Spanner needs the Google Cloud project");
    if (!options->instance || !options->instance[0])
        return kz_fail(err, KZ_CONFIG, "Spanner needs the name of an instance");
    if (!options->database || !is_database_name(options->database))
        return kz_fail(err, KZ_CONFIG,
                "\"%s\" is no name of a Spanner database: %d to %d lower-case letters, digits, "
                "\"-\" and \"_\", a letter first and no \"-\" or \"_\" last",
                options->database ? options->database : "", DATABASE_MIN, DATABASE_MAX);
    if (options->state_retention_ms &&
            (!options->retention_ms || options->state_retention_ms < options->retention_ms))
        return kz_fail(err, KZ_CONFIG,
                "users cannot be kept for a shorter time than their events: a user's row takes all "
                "that is theirs with it");
    return KZ_OK;
}

static enum kz_code connect_channels(
        struct kz_sp *sp, const struct kz_spanner_options *options, struct kz_err *err)
{
    const char *emulator = options->emulator ? options->emulator : getenv("SPANNER_EMULATOR_HOST");
    struct kz_rpc_target target = {.endpoint = ENDPOINT,
            .emulator = emulator,
            .connection_count = options->connection_count};

    sp->emulator = emulator && emulator[0];
    KZ_TRY(kz_rpc_connect(options->rpc, &target, &sp->data, err));
    target.connection_count = 1;
    return kz_rpc_connect(options->rpc, &target, &sp->admin, err);
}

static void init_locks(struct kz_sp *sp)
{
    pthread_condattr_t monotonic;

    pthread_mutex_init(&sp->sessions_lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&sp->sessions_there, &monotonic);
    pthread_condattr_destroy(&monotonic);
    kz_rpc_health_init(&sp->health);
}

enum kz_code kz_spanner_open(
        const struct kz_spanner_options *options, struct kz_store **ret_store, struct kz_err *err)
{
    struct kz_sp *sp;
    enum kz_code rc;

    KZ_TRY(check_options(options, err));
    sp = kz_calloc(1, sizeof(*sp));
    sp->magic = KZ_SP_MAGIC;
    sp->base.ops = &spanner_ops;
    sp->reader.ops = &kz_sp_reader_ops;
    sp->project = kz_strdup(options->project);
    sp->instance = kz_strdup(options->instance);
    sp->database = kz_strdup(options->database);
    sp->project_name = text("projects/%s", sp->project);
    sp->instance_name = text("%s/instances/%s", sp->project_name, sp->instance);
    sp->database_name = text("%s/databases/%s", sp->instance_name, sp->database);
    sp->routing = text("database=%s", sp->database_name);
    sp->retention_ms = options->retention_ms;
    sp->dedupe_ms = options->dedupe_ms;
    sp->state_retention_ms = options->state_retention_ms;
    sp->session_max = options->session_max ? options->session_max : DEFAULT_SESSIONS;
    sp->timeout_ms = options->timeout_ms ? options->timeout_ms : DEFAULT_TIMEOUT_MS;
    init_locks(sp);
    rc = connect_channels(sp, options, err);
    if (rc != KZ_OK) {
        spanner_close(&sp->base);
        return rc;
    }
    *ret_store = &sp->base;
    return KZ_OK;
}
