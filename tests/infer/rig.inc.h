/* tests/infer/rig.inc.h -- the rig's code, included by each test (a test is one file to the build). */
#pragma once

#include "rig.h"

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codec/json.h"
#include "sys/clock.h"

/* ---- SQL for tests -------------------------------------------------------------------------------- */

struct kz_sql {
    struct kz_arena arena;
};
struct kz_sql_expr {
    struct kz_sql *sql;
    const char *names[64];
    struct kz_value values[64];
    size_t count;
    struct kz_arena arena;
    struct kz_sql_expr *next;
};

enum kz_code kz_sql_open(
        const struct kz_project *project, struct kz_sql **ret_sql, struct kz_err *err)
{
    (void)project;
    (void)err;
    *ret_sql = kz_calloc(1, sizeof(**ret_sql));
    kz_arena_init(&(*ret_sql)->arena, 0);
    return KZ_OK;
}

void kz_sql_close(struct kz_sql *sql)
{
    kz_arena_done(&sql->arena);
    free(sql);
}

uint64_t kz_sql_tables_hash(const struct kz_sql *sql)
{
    (void)sql;
    return 7;
}

const char *kz_sql_engine(void)
{
    return "test";
}

enum kz_code kz_sql_compile(struct kz_sql *sql, enum kz_sql_kind kind, const char *text,
        struct kz_place place, struct kz_sql_expr **ret_expr, struct kz_err *err)
{
    struct kz_sql_expr *expr = kz_arena_zero(&sql->arena, sizeof(*expr));
    char *copy = kz_arena_cstr(&sql->arena, kz_str(text)), *save = NULL;

    (void)kind;
    if (strcmp(text, "bad") == 0)
        return kz_fail(
                err, KZ_CONFIG, "%s:%u:%u: near \"bad\"", place.file, place.line, place.column);
    expr->sql = sql;
    for (char *name = strtok_r(copy, ",", &save); name; name = strtok_r(NULL, ",", &save))
        expr->names[expr->count++] = name;
    *ret_expr = expr;
    return KZ_OK;
}

void kz_sql_columns(
        const struct kz_sql_expr *expr, const char *const **ret_names, size_t *ret_count)
{
    *ret_names = expr->names;
    *ret_count = expr->count;
}

static struct kz_value value_of(struct kz_json_value json)
{
    struct kz_value v = {.type = KZ_TYPE_NULL};
    struct kz_json_number number;

    if (json.kind == KZ_JSON_STRING) {
        v.type = KZ_TYPE_TEXT;
        v.text = kz_str_n(json.raw.ptr + 1, json.raw.size - 2);
    } else if (kz_json_number(json, &number, NULL) == KZ_OK) {
        v.type = number.is_int ? KZ_TYPE_INT : KZ_TYPE_FLOAT;
        if (number.is_int)
            v.integer = number.i64;
        else
            v.real = number.f64;
    }
    return v;
}

enum kz_code kz_sql_features(struct kz_sql_expr *expr, const struct kz_history_rows *rows,
        const struct kz_sql_params *params, uint64_t steps_max, struct kz_row *ret_row,
        struct kz_err *err)
{
    struct kz_json_value props = kz_json_trusted(KZ_STR("{}")), steps;
    struct kz_event event;
    int64_t number;

    (void)params;
    if (rows->count && kz_event_decode(rows->records[rows->count - 1], &event, NULL) == KZ_OK)
        props = kz_json_trusted(event.props);
    steps = kz_json_get(props, "steps");
    if (steps.kind == KZ_JSON_INT && kz_json_i64(steps, &number, NULL) == KZ_OK &&
            (uint64_t)number > steps_max)
        return kz_fail(err, KZ_TIMEOUT, "over %llu steps", (unsigned long long)steps_max);
    if (kz_json_get(props, "fail").kind == KZ_JSON_TRUE)
        return kz_fail(err, KZ_INVALID, "asked to fail");
    for (size_t i = 0; i < expr->count; i++) {
        if (strcmp(expr->names[i], "count") == 0)
            expr->values[i] = (struct kz_value){
                    .type = KZ_TYPE_INT, .integer = (int64_t)rows->count};
        else
            expr->values[i] = value_of(kz_json_get(props, expr->names[i]));
    }
    *ret_row = (struct kz_row){expr->count, expr->values};
    return KZ_OK;
}

void kz_sql_reads(const struct kz_sql_expr *expr, struct kz_event_parts *ret_parts)
{
    (void)expr;
    *ret_parts = (struct kz_event_parts){.name = true, .columns = 5};
}

/* ---- history --------------------------------------------------------------------------------------- */

struct held {
    const struct kz_record **records;
    kz_lsn *lsns;
};

static enum kz_code rig_scan(struct kz_history_reader *reader, const struct kz_history_query *query,
        struct kz_history_rows *ret_rows, struct kz_err *err)
{
    struct rig *rig = KZ_CONTAINER_OF(reader, struct rig, reader);
    const struct rig_user *user = &rig->users[query->sources[0].owner];
    size_t count = (size_t)KZ_MIN(query->sources[0].head, query->as_of), first = 0;
    struct held *held = kz_malloc(sizeof(*held));

    (void)err;
    atomic_fetch_add(query->cache ? &rig->scans_cached : &rig->scans_plain, 1);
    while (atomic_load(&rig->hold_scans))
        usleep(1000);
    if (query->events_max && count > query->events_max)
        first = count - query->events_max;
    held->records = kz_calloc(count + 1, sizeof(void *));
    held->lsns = kz_calloc(count + 1, sizeof(kz_lsn));
    for (size_t i = first; i < count; i++) {
        held->records[i - first] =
                (const struct kz_record *)(const void *)(user->bytes.data + user->starts[i]);
        held->lsns[i - first] = i + 1;
    }
    *ret_rows = (struct kz_history_rows){held->records, held->lsns, count - first, first > 0, held};
    return KZ_OK;
}

static void rig_release(struct kz_history_reader *reader, struct kz_history_rows *rows)
{
    struct held *held = rows->priv;

    (void)reader;
    free(held->records);
    free(held->lsns);
    free(held);
}

/* Keeps nothing; the tests look at who asks for it. */
static struct kz_history_cache *rig_cache_new(
        struct kz_history_reader *reader, const struct kz_event_parts *parts, uint64_t bytes_max)
{
    struct rig *rig = KZ_CONTAINER_OF(reader, struct rig, reader);

    rig->cache_parts = *parts;
    rig->cache_bytes = bytes_max;
    if (!bytes_max)
        return NULL;
    rig->caches++;
    return kz_malloc(1);
}

static void rig_cache_free(struct kz_history_reader *reader, struct kz_history_cache *cache)
{
    KZ_CONTAINER_OF(reader, struct rig, reader)->caches--;
    free(cache);
}

static void rig_cache_forget(
        struct kz_history_reader *reader, struct kz_history_cache *cache, uint64_t owner)
{
    struct rig *rig = KZ_CONTAINER_OF(reader, struct rig, reader);

    assert_non_null(cache);
    atomic_store(&rig->forgotten, owner);
    atomic_fetch_add(&rig->forgets, 1);
}

static const struct kz_history_reader_ops rig_reader = {
        .scan = rig_scan,
        .release = rig_release,
        .cache_new = rig_cache_new,
        .cache_free = rig_cache_free,
        .cache_forget = rig_cache_forget,
};

/* Not while a request of this user is inside: the bytes may move. */
void rig_event(struct rig *rig, unsigned user, const char *props)
{
    struct rig_user *u = &rig->users[user];
    struct kz_record header = {.type = KZ_RECORD_EVENT, .seq = u->count + 1, .at_ms = 1000};
    struct kz_event event = {
            .event_id = KZ_STR("e"),
            .user_id = KZ_STR("u"),
            .name = KZ_STR("view"),
            .props = kz_str(props),
            .ts_ms = 1000 + (int64_t)u->count,
            .received_at_ms = 1000,
            .seq = header.seq,
            .session = 1,
    };
    size_t start;

    while (u->bytes.size % 8)
        kz_buf_char(&u->bytes, 0);
    start = u->bytes.size;
    kz_buf_put(&u->bytes, &header, sizeof(header));
    kz_event_encode(&event, &u->bytes);
    header.size = (uint32_t)(u->bytes.size - start);
    memcpy(u->bytes.data + start, &header, sizeof(header));
    if (u->count == u->capacity) {
        u->capacity = KZ_MAX(u->capacity * 2, 8u);
        u->starts = kz_realloc(u->starts, u->capacity * sizeof(size_t));
    }
    u->starts[u->count++] = start;
}

/* ---- project, open, close --------------------------------------------------------------------------- */

static void rig_wake(void *arg)
{
    const struct rig *rig = arg;
    uint64_t one = 1;

    assert_int_equal(write(rig->bell, &one, sizeof(one)), sizeof(one));
}

static const struct kz_runtime_ops *const rig_runtimes[] = {&kz_runtime_python, NULL};

void rig_init(struct rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    strcpy(rig->dir, "/tmp/kz-infer-XXXXXX");
    assert_non_null(mkdtemp(rig->dir));
    rig->reader.ops = &rig_reader;
    rig->project = (struct kz_project){
            .name = "rig", .dir = "/nowhere", .file = "kizashi.yaml", .models = rig->models};
    rig->options = (struct kz_infer_options){.project = &rig->project,
            .reader = &rig->reader,
            .runtimes = rig_runtimes,
            .wake = rig_wake,
            .arg = rig,
            .start_replicas = true};
    rig->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

static void write_model(const struct rig *rig, const char *path, const char *source)
{
    char file[200];
    FILE *out;

    (void)rig;
    assert_true(mkdir(path, 0700) == 0 || access(path, W_OK) == 0);
    snprintf(file, sizeof(file), "%s/model.py", path);
    out = fopen(file, "w");
    assert_non_null(out);
    fputs("import kizashi, os, time\n\n", out);
    fputs(source, out);
    fclose(out);
}

struct kz_model_def *rig_model(struct rig *rig, const char *source, const char *sql)
{
    struct kz_model_def *def = &rig->models[rig->project.model_count];
    char path[128];

    snprintf(path, sizeof(path), "%s/m%zu", rig->dir, rig->project.model_count++);
    write_model(rig, path, source);
    *def = (struct kz_model_def){
            .name = "m",
            .runtime = "python",
            .path = kz_strdup(path),
            .features_path = sql,
            .features_sql = (char *)(uintptr_t)sql,
            .history = {.events_max = 500},
            .batch = {.size_max = 64},
            .replicas = {.min = 1, .max = 1},
            .timeout_ms = RIG_WAIT_MS,
            .queue_max = 8192,
            .config_json = "{\"greeting\": \"hello\"}",
    };
    return def;
}

void rig_open(struct rig *rig)
{
    struct kz_err err;

    if (kz_infer_open(&rig->options, &rig->infer, &err) != KZ_OK)
        fail_msg("%s", err.message);
}

void rig_ready(struct rig *rig)
{
    struct kz_err err;

    rig_open(rig);
    if (kz_infer_wait_ready(rig->infer, RIG_WAIT_MS, NULL, NULL, &err) != KZ_OK)
        fail_msg("%s: %s", err.message, rig_status(rig, 0).reason);
}

static void remove_tree(const char *path)
{
    char command[200];

    snprintf(command, sizeof(command), "rm -rf %s", path);
    assert_int_equal(system(command), 0);
}

void rig_close(struct rig *rig)
{
    if (rig->infer)
        kz_infer_close(rig->infer);
    for (size_t i = 0; i < rig->project.model_count; i++)
        free((char *)(uintptr_t)rig->models[i].path);
    for (size_t i = 0; i < RIG_USERS_MAX; i++) {
        kz_buf_done(&rig->users[i].bytes);
        free(rig->users[i].starts);
    }
    close(rig->bell);
    remove_tree(rig->dir);
    assert_int_equal(rig_children(), 0);
}

/* ---- asking ------------------------------------------------------------------------------------------ */

struct kz_infer_job *rig_job(struct rig *rig, unsigned model, unsigned user)
{
    struct kz_infer_job *job = kz_infer_job_new(rig->infer);
    int size = snprintf(job->text, sizeof(job->text), "u%u", user);

    job->request = ++rig->request;
    job->request_lsn = rig->users[user].count;
    job->model = model;
    job->user_kind = 'u';
    job->owner = user;
    job->params.now_ms = 5000 + user;
    job->params.user_id = kz_str_n(job->text, (size_t)size);
    job->params.event_id = KZ_STR("e");
    job->sources[0] = (struct kz_source){user, rig->users[user].count};
    job->source_count = 1;
    job->queued_us = kz_mono_us();
    return job;
}

size_t rig_ask(struct rig *rig, unsigned user, const char *props)
{
    struct kz_infer_job *job;

    rig_event(rig, user, props);
    job = rig_job(rig, 0, user);
    kz_infer_submit(rig->infer, job);
    return (size_t)rig->request - 1;
}

void rig_take(struct rig *rig)
{
    struct kz_infer_result *r = kz_infer_take(rig->infer);

    for (; r; r = r->next) {
        size_t at = (size_t)r->job->request - 1;

        assert_null(rig->results[at]); /* I1 */
        rig->results[at] = r;
        rig->done++;
    }
}

void rig_wait(struct rig *rig, size_t count)
{
    int64_t until_ms = kz_mono_ms() + RIG_WAIT_MS;

    for (rig_take(rig); rig->done < count; rig_take(rig)) {
        struct pollfd p = {.fd = rig->bell, .events = POLLIN};
        uint64_t drained;

        if (kz_mono_ms() > until_ms)
            fail_msg("%zu of %zu ended; %s", rig->done, count, rig_status(rig, 0).reason);
        if (poll(&p, 1, 100) > 0)
            assert_int_equal(read(rig->bell, &drained, sizeof(drained)), sizeof(drained));
    }
}

void rig_assert_done(struct rig *rig, size_t request, double score)
{
    const struct kz_infer_result *r = rig->results[request];

    assert_non_null(r);
    if (r->end != KZ_END_DONE)
        fail_msg("request %zu: %s " KZ_STR_FMT, request, r->code,
                KZ_STR_ARG(kz_buf_view(&r->error)));
    assert_true(r->has_score);
    assert_true(r->score == score);
}

void rig_assert_dead(struct rig *rig, size_t request, const char *code, const char *in_message)
{
    struct kz_infer_result *r = rig->results[request];

    assert_non_null(r);
    assert_int_equal(r->end, KZ_END_DEAD);
    assert_string_equal(r->code, code);
    if (!memmem(r->error.data, r->error.size, in_message, strlen(in_message)))
        fail_msg("\"%s\" is not in: " KZ_STR_FMT, in_message, KZ_STR_ARG(kz_buf_view(&r->error)));
}

struct kz_infer_status rig_status(struct rig *rig, unsigned model)
{
    struct kz_infer_status status;

    kz_infer_status(rig->infer, model, &status);
    return status;
}

void rig_until(struct rig *rig, unsigned model, bool (*holds)(const struct kz_infer_status *status))
{
    int64_t until_ms = kz_mono_ms() + RIG_WAIT_MS;

    for (;;) {
        struct kz_infer_status status = rig_status(rig, model);

        if (holds(&status))
            return;
        if (kz_mono_ms() > until_ms)
            fail_msg("ready %u starting %u fenced %d: %s", status.replicas_ready,
                    status.replicas_starting, status.fenced, status.reason);
        usleep(2000);
    }
}

unsigned rig_children(void)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    unsigned count = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir))) {
        char path[64], text[512], *end;
        FILE *file;
        int parent;

        if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
            continue;
        snprintf(path, sizeof(path), "/proc/%.20s/stat", entry->d_name);
        file = fopen(path, "r");
        if (!file)
            continue;
        text[fread(text, 1, sizeof(text) - 1, file)] = 0;
        fclose(file);
        end = strrchr(text, ')');
        count += end && sscanf(end + 1, " %*c %d", &parent) == 1 && parent == getpid();
    }
    closedir(dir);
    return count;
}
