/* app/roles/role_infer_task.c -- tasks of the infer role: lists, a user's turns, what becomes of one.
 * role_infer_int.h has the states and invariants.
 */

#include "app/roles/role_infer_int.h"

#include <stdlib.h>

#include "base/diag.h"
#include "base/hash.h"
#include "sys/clock.h"

enum { LATER_FIRST_MS = 50, LATER_MAX_MS = 5000 };

/* ---- lists -------------------------------------------------------------------------------------- */

void kz_tasks_init(struct task_list *list)
{
    *list = (struct task_list){.last = &list->first};
}

void kz_tasks_push(struct task_list *list, struct task *task)
{
    task->next = NULL;
    *list->last = task;
    list->last = &task->next;
    list->count++;
}

struct task *kz_tasks_pop(struct task_list *list)
{
    struct task *task = list->first;

    if (!task)
        return NULL;
    list->first = task->next;
    if (!list->first)
        list->last = &list->first;
    list->count--;
    return task;
}

/* ---- turns: under the lock --------------------------------------------------------------------- */

static struct task **bucket_of(struct role_infer *r, uint64_t owner)
{
    return &r->buckets[kz_hash_mix(owner, 1) % TASK_BUCKETS];
}

static bool is_before(const struct task *a, const struct task *b)
{
    if (kz_task_seq(a) != kz_task_seq(b))
        return kz_task_seq(a) < kz_task_seq(b);
    return a->arrival < b->arrival;
}

/* I3 */
static bool is_turn(struct role_infer *r, const struct task *task)
{
    const struct task *t = *bucket_of(r, task->message.owner);

    for (; t; t = t->bucket_next)
        if (t->message.owner == task->message.owner && t != task && is_before(t, task))
            return false;
    return true;
}

static void work(struct role_infer *r, struct task *task, enum task_state state)
{
    task->state = state;
    kz_tasks_push(&r->work, task);
    pthread_cond_signal(&r->work_there);
}

static void bucket_remove(struct role_infer *r, struct task *task)
{
    struct task **at = bucket_of(r, task->message.owner);

    while (*at && *at != task)
        at = &(*at)->bucket_next;
    if (!*at)
        return;
    *at = task->bucket_next;
    for (struct task *t = *bucket_of(r, task->message.owner); t; t = t->bucket_next) {
        if (t->message.owner != task->message.owner)
            continue;
        t->stale = true;
        if (!r->stop && t->state == TASK_TURN && is_turn(r, t)) /* else nobody works any more */
            work(r, t, TASK_FINISH);
    }
}

/* ---- what becomes of a task ---------------------------------------------------------------------- */

void kz_task_again(struct task *task, enum task_state state)
{
    struct role_infer *r = task->role;

    pthread_mutex_lock(&r->lock);
    work(r, task, state);
    pthread_mutex_unlock(&r->lock);
}

void kz_task_wait(struct task *task, enum task_state state, int64_t wait_ms)
{
    struct role_infer *r = task->role;

    pthread_mutex_lock(&r->lock);
    task->state = state;
    task->not_before_ms = kz_mono_ms() + wait_ms;
    kz_tasks_push(&r->delayed, task);
    pthread_cond_signal(&r->work_there);
    pthread_mutex_unlock(&r->lock);
}

void kz_task_later(struct task *task, enum task_state state)
{
    int64_t wait_ms = LATER_FIRST_MS << KZ_MIN(task->tries, 7u);

    task->tries++;
    kz_task_wait(task, state, KZ_MIN(wait_ms, (int64_t)LATER_MAX_MS));
}

void kz_task_ask(struct task *task)
{
    struct role_infer *r = task->role;

    pthread_mutex_lock(&r->lock);
    task->state = TASK_ASK;
    kz_tasks_push(&r->ask, task);
    pthread_mutex_unlock(&r->lock);
    sem_post(&r->driver_woken);
}

void kz_task_turn(struct task *task)
{
    struct role_infer *r = task->role;

    pthread_mutex_lock(&r->lock);
    task->state = TASK_TURN;
    if (is_turn(r, task))
        work(r, task, TASK_FINISH);
    pthread_mutex_unlock(&r->lock);
}

void kz_task_written(struct task *task)
{
    struct role_infer *r = task->role;

    pthread_mutex_lock(&r->lock);
    task->state = TASK_PUBLISH;
    bucket_remove(r, task);
    pthread_mutex_unlock(&r->lock);
}

bool kz_task_is_overtaken(struct task *task)
{
    struct role_infer *r = task->role;
    bool overtaken = false;

    pthread_mutex_lock(&r->lock);
    for (struct task *t = *bucket_of(r, task->message.owner); t && !overtaken; t = t->bucket_next)
        overtaken = t->message.owner == task->message.owner && t->model == task->model &&
                    kz_task_seq(t) > kz_task_seq(task);
    pthread_mutex_unlock(&r->lock);
    return overtaken;
}

bool kz_task_is_copy(struct task *task)
{
    struct role_infer *r = task->role;
    bool copy = false;

    pthread_mutex_lock(&r->lock);
    for (struct task *t = *bucket_of(r, task->message.owner); t && !copy; t = t->bucket_next)
        copy = t != task && t->message.owner == task->message.owner &&
               kz_task_seq(t) == kz_task_seq(task) && t->arrival < task->arrival;
    pthread_mutex_unlock(&r->lock);
    return copy;
}

void kz_task_free(struct task *task)
{
    kz_buf_done(&task->hold);
    kz_buf_done(&task->pushed);
    kz_buf_done(&task->row.bytes);
    kz_buf_done(&task->published);
    task->magic = 0;
    free(task);
}

/* Out of all lists; its result goes back to the driver. */
void kz_task_end_locked(struct role_infer *r, struct task *task)
{
    bucket_remove(r, task);
    task->state = TASK_ENDED;
    if (task->all_prev)
        task->all_prev->all_next = task->all_next;
    else
        r->all = task->all_next;
    if (task->all_next)
        task->all_next->all_prev = task->all_prev;
    r->task_count--;
    if (task->puller)
        task->puller->held--;
    if (task->result) {
        task->result->next = r->returned;
        r->returned = task->result;
    }
    pthread_cond_broadcast(&r->idle);
}

/* The source is not closed before `held` says so: it is told first. */
static void end(struct task *task, bool done)
{
    struct role_infer *r = task->role;
    struct kz_role_env *env = r->env; /* outlives the role, which may go with its last task */
    bool pushed;                      /* then it is the loop's to answer and free */
    struct kz_bus_delivery *delivery;

    /* It is gone when it has been given back; whoever asks for the backlog must not look at it. */
    pthread_mutex_lock(&r->lock);
    delivery = kz_take(&task->delivery);
    r->counts.given_back_total += !done;
    pthread_mutex_unlock(&r->lock);
    if (delivery)
        (done ? env->bus->ops->ack : env->bus->ops->nack)(task->puller->source, &delivery, 1);
    pthread_mutex_lock(&r->lock);
    kz_task_end_locked(r, task);
    pushed = task->push != NULL;
    if (pushed) {
        task->push_done = done;
        kz_tasks_push(&r->pushed, task);
    }
    pthread_mutex_unlock(&r->lock);
    if (pushed)
        env->wake(env->wake_arg);
    else
        kz_task_free(task);
}

void kz_task_done(struct task *task)
{
    end(task, true);
}

void kz_task_give_back(struct task *task)
{
    end(task, false);
}

/* ---- poison ----------------------------------------------------------------------------------------- */

static void poison_kept(void *arg, enum kz_code code, const struct kz_err *err)
{
    struct task *task = arg;

    (void)err; /* the bus's stats have it */
    if (code == KZ_OK)
        kz_task_done(task);
    else
        kz_task_give_back(task);
}

void kz_task_poison(struct task *task, const char *code, const struct kz_err *err)
{
    struct kz_bus *bus = task->role->env->bus;
    struct kz_attribute attributes[] = {
            {KZ_STR(KZ_ATTRIBUTE_TOPIC), kz_str(kz_topic_suffix(KZ_TOPIC_REQUESTS))},
            {KZ_STR(KZ_ATTRIBUTE_CODE), kz_str(code)},
            {KZ_STR(KZ_ATTRIBUTE_REASON), kz_str(err->message)},
    };
    struct kz_bus_message message = {
            .data = task->delivery ? task->delivery->data : kz_buf_view(&task->pushed),
            .attributes = attributes,
            .attribute_count = KZ_ARRAY_COUNT(attributes),
    };
    struct kz_err ignored;

    pthread_mutex_lock(&task->role->lock);
    task->state = TASK_PUBLISH;
    pthread_mutex_unlock(&task->role->lock);
    task->role->counts.poison_total++;
    kz_diag_warn("a message on requests is none, it goes to the dead topic", "code=%s error=\"%s\"",
            code, err->message);
    if (bus->ops->publish(bus, KZ_TOPIC_DEAD, &message, 1, poison_kept, task, &ignored) != KZ_OK)
        kz_task_give_back(task);
}

/* ---- coming in --------------------------------------------------------------------------------------- */

static void add_locked(struct role_infer *r, struct task *task)
{
    task->arrival = ++r->arrivals;
    task->all_next = r->all;
    if (r->all)
        r->all->all_prev = task;
    r->all = task;
    r->task_count++;
    if (task->puller)
        task->puller->held++;
}

void kz_task_take_in(struct task *task, bool is_request)
{
    struct role_infer *r = task->role;

    r->counts.requests_total++;
    pthread_mutex_lock(&r->lock);
    add_locked(r, task);
    if (is_request) {
        struct task **bucket = bucket_of(r, task->message.owner);

        task->bucket_next = *bucket;
        *bucket = task;
        work(r, task, TASK_BEGIN);
    }
    pthread_mutex_unlock(&r->lock);
}
