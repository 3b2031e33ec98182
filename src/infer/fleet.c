/* The replicas of a model: how many, and what to do when they are lost.
 *
 *   failures in a row   0 -> all is well, a lost replica is replaced at once
 *                       1 -> replaced at once: a row may be at fault, not the model
 *                       2 -> after 100 ms, then 200, 400, ... up to a minute
 *             fence_after -> fenced: no new jobs; tried again at the same pace
 *   A fenced model whose replica loads is given jobs again, but the count stays one below the fence
 *   until a batch is done, so that the next loss fences it anew and the pace slows further.
 */
#include "infer/infer_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/diag.h"
#include "codec/utf8.h"
#include "sys/clock.h"

static unsigned count_state(const struct model *model, enum replica_state state)
{
    unsigned count = 0;

    for (size_t i = 0; i < model->replica_count; i++)
        count += model->replicas[i]->state == state &&
                 model->replicas[i]->generation == model->generation;
    return count;
}

void kz_fleet_set(struct replica *replica, enum replica_state state)
{
    replica->state = state;
    replica->since_ms = kz_mono_ms();
    replica->model->dirty = true;
}

struct replica *kz_fleet_idle(struct model *model)
{
    for (size_t i = 0; i < model->replica_count; i++) {
        struct replica *r = model->replicas[i];

        if (r->state == REPLICA_IDLE && r->generation == model->generation)
            return r;
    }
    return NULL;
}

static struct replica *find(struct model *model, const struct kz_replica *runtime)
{
    for (size_t i = 0; i < model->replica_count; i++)
        if (model->replicas[i]->runtime == runtime)
            return model->replicas[i];
    return NULL;
}

/* Out of the list and freed; its process is the runtime's affair. */
void kz_fleet_remove(struct replica *r)
{
    struct model *model = r->model;
    size_t i = 0;

    while (model->replicas[i] != r)
        i++;
    model->replicas[i] = model->replicas[--model->replica_count];
    free(r->numeric);
    free(r->text);
    free(r->user_ids);
    free(r->event_ids);
    free(r->histories);
    free(r->now_ms);
    free(r->truncated);
    kz_arena_done(&r->arena);
    free(r);
    model->dirty = true;
}

/* ---- failures ----------------------------------------------------------------------------------- */

static struct kz_str take_line(struct kz_str *text)
{
    const char *end = text->size ? memchr(text->ptr, '\n', text->size) : NULL;
    struct kz_str line = kz_str_n(text->ptr, end ? (size_t)(end - text->ptr) : text->size);
    size_t taken = line.size + (end != NULL);

    *text = kz_str_n(text->ptr + taken, text->size - taken);
    return line;
}

/* Where it happened: the innermost frame of a Python traceback that is in the model's directory, as
 * " (model.py:12)"; empty where there is none. A frame is `  File "PATH", line N, in NAME`. */
static void place_of(const struct kz_model_def *def, struct kz_str traceback, char ret[100])
{
    static const char before[] = "  File \"", after[] = "\", line ";
    size_t dir_size = def->path ? strlen(def->path) : 0;

    ret[0] = '\0';
    while (dir_size && traceback.size) {
        struct kz_str line = take_line(&traceback);
        size_t skip = sizeof(before) - 1 + dir_size + 1;
        const char *name = line.ptr + skip, *quote;
        unsigned number = 0;

        if (line.size <= skip || memcmp(line.ptr, before, sizeof(before) - 1) != 0 ||
                memcmp(line.ptr + sizeof(before) - 1, def->path, dir_size) != 0 || name[-1] != '/')
            continue;
        quote = memmem(name, line.size - skip, after, sizeof(after) - 1);
        if (!quote || quote - name > 60)
            continue;
        for (const char *digit = quote + sizeof(after) - 1;
                digit < line.ptr + line.size && *digit >= '0' && *digit <= '9' && number < 1000000;
                digit++)
            number = number * 10 + (unsigned)(*digit - '0');
        snprintf(ret, 100, " (%.*s:%u)", (int)(quote - name), name, number);
    }
}

void kz_fleet_note(struct model *model, const char *code, struct kz_str message)
{
    struct kz_str line = take_line(&message);
    char place[100];

    place_of(model->def, message, place);
    snprintf(model->now.reason, sizeof(model->now.reason), "%s: " KZ_STR_FMT "%s", code,
            KZ_STR_ARG(kz_utf8_cut(line, 250 - strlen(place))), place);
    model->dirty = true;
}

static int64_t backoff_ms(unsigned failures)
{
    int64_t ms = BACKOFF_FIRST_MS;

    if (failures < 2)
        return 0;
    for (unsigned i = 2; i < failures && ms < BACKOFF_MAX_MS; i++)
        ms *= 2;
    return KZ_MIN(ms, BACKOFF_MAX_MS);
}

static void settle(struct model *model, int how)
{
    struct kz_infer *infer = model->infer;

    pthread_mutex_lock(&infer->lock);
    if (model->settled == UNSETTLED || how == SETTLED_READY) {
        model->settled = how;
        memcpy(model->shared.reason, model->now.reason, sizeof(model->shared.reason));
        pthread_cond_broadcast(&infer->settled);
    }
    pthread_mutex_unlock(&infer->lock);
}

void kz_fleet_failed(struct model *model, const char *code, struct kz_str message)
{
    model->failures++;
    model->now.restarts++;
    model->next_try_ms = kz_mono_ms() + backoff_ms(model->failures);
    kz_fleet_note(model, code, message);
    kz_diag_warn("a model's replica was lost", "model=%s failures=%u reason=\"%s\"",
            model->def->name, model->failures, model->now.reason);
    if (model->failures >= model->infer->options.fence_after && !atomic_load(&model->fenced)) {
        atomic_store(&model->fenced, true);
        model->on_trial = false;
        model->infer->news = true; /* room has changed */
        kz_diag_error("model fenced", "model=%s after=%u reason=\"%s\"", model->def->name,
                model->failures, model->now.reason);
    }
    settle(model, SETTLED_FAILED);
}

void kz_fleet_succeeded(struct model *model)
{
    if (model->on_trial)
        kz_diag_info("model no longer fenced", "model=%s", model->def->name);
    model->on_trial = false;
    model->failures = 0;
    model->next_try_ms = 0;
}

/* It is no longer fenced when it has answered. */
static void lift_fence(struct model *model)
{
    if (!atomic_exchange(&model->fenced, false))
        return;
    model->on_trial = true;
    model->infer->news = true;
    model->dirty = true;
    kz_diag_info("fenced model is tried again", "model=%s", model->def->name);
}

void kz_fleet_unfence(struct model *model)
{
    model->failures = 0;
    model->next_try_ms = 0;
    lift_fence(model);
}

/* ---- what the runtime says ------------------------------------------------------------------------ */

static void on_ready(void *arg, struct kz_replica *runtime)
{
    struct model *model = arg;
    struct replica *r = find(model, runtime);

    KZ_BUG_ON(!r || r->state != REPLICA_STARTING);
    model->infer->called = true;
    kz_fleet_set(r, REPLICA_IDLE);
    if (r->forked)
        model->forks_refused = 0;
    if (atomic_load(&model->fenced)) {
        lift_fence(model);
        model->failures = KZ_MAX(model->failures, 1u) - 1;
    }
    settle(model, SETTLED_READY);
}

static void on_lost(void *arg, struct kz_replica *runtime, const char *code, struct kz_str message)
{
    struct model *model = arg;
    struct replica *r = find(model, runtime);
    bool refused = r->forked && strcmp(code, "refused") == 0;

    KZ_BUG_ON(!r || r->rows.first);
    model->infer->called = true;
    kz_fleet_remove(r);
    if (refused)
        model->forks_refused++;
    else
        kz_fleet_failed(model, code, message);
}

static void on_done(void *arg, struct kz_replica *runtime, const struct kz_batch_outcome *outcome)
{
    struct model *model = arg;
    struct replica *r = find(model, runtime);

    KZ_BUG_ON(!r);
    model->infer->called = true;
    kz_batch_done(r, outcome);
    /* At once, not at the end of the turn: the replica is warm and idle. */
    kz_batch_dispatch(model);
}

static void on_printed(void *arg, struct kz_str line)
{
    const struct model *model = arg;
    struct kz_buf text = {0};

    for (size_t i = 0; i < line.size; i++) {
        char c = line.ptr[i];

        kz_buf_char(&text, (unsigned char)c < 0x20 ? ' ' : c == '"' ? '\'' : c);
    }
    kz_diag_info("model output", "model=%s line=\"" KZ_STR_FMT "\"", model->def->name,
            KZ_STR_ARG(kz_buf_view(&text)));
    kz_buf_done(&text);
}

static const struct kz_replica_events events = {on_ready, on_lost, on_done, on_printed};

/* ---- how many ------------------------------------------------------------------------------------- */

static void add(struct model *model, struct replica *r)
{
    if (model->replica_count == model->replica_capacity) {
        model->replica_capacity = KZ_MAX(model->replica_capacity * 2, 4u);
        model->replicas = kz_realloc(
                model->replicas, model->replica_capacity * sizeof(*model->replicas));
    }
    model->replicas[model->replica_count++] = r;
    model->dirty = true;
}

/* One to fork from; a busy one does so behind its batch. */
static struct replica *find_warm(struct model *model)
{
    struct replica *idle = kz_fleet_idle(model);

    for (size_t i = 0; !idle && i < model->replica_count; i++) {
        struct replica *r = model->replicas[i];

        if (r->state == REPLICA_BUSY && r->generation == model->generation)
            return r;
    }
    return idle;
}

static void start_one(struct model *model)
{
    struct replica *like = model->forks_refused < FORKS_REFUSED_MAX ? find_warm(model) : NULL;
    struct replica *r = kz_calloc(1, sizeof(*r));
    struct kz_replica_start start = {
            .model = model->def,
            .project = model->infer->project,
            .loop = &model->infer->loop,
            .columns = model->columns,
            .column_count = model->column_count,
            .version = model->version,
            .like = like ? like->runtime : NULL,
            .events = &events,
            .arg = model,
    };
    struct kz_err err;

    *r = (struct replica){.model = model,
            .state = REPLICA_STARTING,
            .generation = model->generation,
            .since_ms = kz_mono_ms(),
            .forked = like != NULL};
    kz_arena_init(&r->arena, 0);
    add(model, r);
    if (model->runtime->start(&start, &r->runtime, &err) == KZ_OK)
        return;
    kz_fleet_remove(r);
    kz_fleet_failed(model, "start", kz_str(err.message));
}

static void stop(struct replica *r)
{
    r->model->runtime->stop(r->runtime);
    kz_fleet_remove(r);
}

/* Replicas loaded for columns that have changed, once they are idle. */
static void stop_stale(struct model *model)
{
    for (size_t i = 0; i < model->replica_count;) {
        struct replica *r = model->replicas[i];

        if (r->generation != model->generation &&
                (r->state == REPLICA_IDLE || r->state == REPLICA_STARTING))
            stop(r);
        else
            i++;
    }
}

static void stop_idle(struct model *model, unsigned live, int64_t now_ms)
{
    for (size_t i = 0; live > model->def->replicas.min && i < model->replica_count; i++) {
        struct replica *r = model->replicas[i];

        if (r->state == REPLICA_IDLE && now_ms - r->since_ms > SCALE_DOWN_IDLE_MS) {
            stop(r);
            return; /* one a turn is soon enough */
        }
    }
}

void kz_fleet_tick(struct model *model, int64_t now_ms)
{
    unsigned idle, starting, live, most = KZ_MAX(model->def->replicas.max, 1u);
    bool waiting = kz_batch_waiting(model), want;

    if (atomic_exchange(&model->unfence, false))
        kz_fleet_unfence(model);
    stop_stale(model);
    idle = count_state(model, REPLICA_IDLE);
    starting = count_state(model, REPLICA_STARTING);
    live = idle + starting + count_state(model, REPLICA_BUSY);
    if (!waiting)
        stop_idle(model, live, now_ms);
    want = live < model->def->replicas.min && model->wanted;
    want |= live == 0 && (waiting || atomic_load(&model->fenced));
    want |= waiting && !idle && !starting && live < most &&
            kz_batch_wait_us(model) > SCALE_UP_WAIT_US;
    /* Under suspicion one at a time: a model that fails does not take the machine with it. */
    if (want && now_ms >= model->next_try_ms && (!model->failures || !starting) && live < most)
        start_one(model);
}

static uint64_t rss_bytes(int pid)
{
    char path[64];
    unsigned long long pages = 0;
    FILE *file;

    if (pid <= 0)
        return 0;
    snprintf(path, sizeof(path), "/proc/%d/statm", pid);
    file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%*s %llu", &pages) != 1)
        pages = 0;
    fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

void kz_fleet_measure(struct model *model)
{
    model->now.rss_bytes = 0;
    for (size_t i = 0; i < model->replica_count; i++)
        model->now.rss_bytes += rss_bytes(model->runtime->pid(model->replicas[i]->runtime));
    model->dirty = true;
}

void kz_fleet_close(struct model *model)
{
    while (model->replica_count)
        stop(model->replicas[model->replica_count - 1]);
    free(model->replicas);
    model->replicas = NULL;
    model->replica_capacity = 0;
}
