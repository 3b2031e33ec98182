/* app/commands/import_store.c -- a history into the store of a deployment of roles: through process, so that an
 * event is there once, with its user's state, however often it is imported; silent, so that nothing
 * comes of it.
 */

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "app/commands/import.h"
#include "app/roles/process.h"
#include "app/roles/role.h"
#include "app/roles/userstate.h"
#include "base/diag.h"
#include "sys/clock.h"

enum { BATCH = 300, PATIENCE_MS = 300000 };

struct into_store {
    struct kz_import import;
    struct kz_import_options options;
    struct kz_backends backends;
    struct kz_process *process;
    struct kz_shaper *shaper;
    struct kz_offline_tally tally;

    struct kz_arena arena;
    struct kz_buf text;
    uint64_t lines[BATCH];
    size_t count;
};

/* Whether to try again: what passes is waited for, and after a lost answer the ids tell. */
static bool again(struct into_store *into, enum kz_code rc, int64_t until_ms)
{
    struct kz_store *store = into->backends.store;
    int64_t wait_ms;

    if (rc == KZ_OK || (rc != KZ_CONFLICT && !kz_code_retry(rc)) || kz_mono_ms() > until_ms)
        return false;
    wait_ms = store->ops->retry_ms(store);
    nanosleep(&(struct timespec){wait_ms / 1000, wait_ms % 1000 * 1000000}, NULL);
    return true;
}

/* ---- events ---------------------------------------------------------------------------------------- */

static enum kz_code shape(struct into_store *into, struct kz_shaped *ret, struct kz_err *err)
{
    struct kz_shape_input input = {.text = kz_buf_view(&into->text),
            .arena = &into->arena,
            .received_at_ms = kz_clock_ms()};

    kz_arena_reset(&into->arena);
    if (into->options.exported)
        return kz_export_shape(into->shaper, &input, ret, err);
    KZ_TRY(kz_shape_events(into->shaper, &input, ret, err));
    for (size_t i = 0; i < ret->item_count; i++) {
        ret->items[i]->event.flags |= KZ_EVENT_IMPORTED;
        ret->items[i]->event.received_at_ms = input.received_at_ms;
    }
    return KZ_OK;
}

static void count(struct into_store *into, const struct kz_shaped *shaped)
{
    for (size_t i = 0; i < shaped->item_count; i++) {
        const struct kz_intake_item *item = shaped->items[i];

        if (item->state == KZ_INTAKE_ACCEPTED)
            into->tally.accepted++;
        else if (item->state == KZ_INTAKE_DUPLICATE)
            into->tally.duplicates++;
        else
            into->tally.rejected++;
        if (item->state == KZ_INTAKE_REJECTED && into->options.rejected)
            into->options.rejected(into->options.arg, into->lines[KZ_MIN(i, into->count - 1)],
                    item->code, item->message);
    }
}

/* What is rejected is told, not kept: whoever has the file mends it and imports it again. */
static size_t without_rejected(struct kz_shaped *shaped, struct kz_intake_item **taken)
{
    size_t taken_count = 0;

    for (size_t i = 0; i < shaped->item_count; i++)
        if (shaped->items[i]->state != KZ_INTAKE_REJECTED)
            taken[taken_count++] = shaped->items[i];
    return taken_count;
}

static enum kz_code send_batch(struct into_store *into, struct kz_err *err)
{
    int64_t until_ms = kz_mono_ms() + PATIENCE_MS;
    struct kz_process_outcome outcome;
    struct kz_intake_item *taken[BATCH];
    struct kz_shaped shaped;
    size_t taken_count;
    enum kz_code rc = KZ_OK;

    if (!into->count)
        return KZ_OK;
    KZ_TRY(shape(into, &shaped, err));
    taken_count = without_rejected(&shaped, taken);
    do {
        rc = taken_count ? kz_process_events(into->process, taken, taken_count, &outcome, err)
                         : KZ_OK;
    } while (again(into, rc, until_ms));
    KZ_TRY(rc);
    count(into, &shaped);
    into->count = 0;
    kz_buf_clear(&into->text);
    return KZ_OK;
}

static enum kz_code store_add(
        struct kz_import *import, struct kz_str json, uint64_t line, struct kz_err *err)
{
    struct into_store *into = (struct into_store *)import;

    kz_buf_str(&into->text, json);
    kz_buf_char(&into->text, '\n');
    into->lines[into->count++] = line;
    return into->count < BATCH ? KZ_OK : send_batch(into, err);
}

/* ---- users from before, and those who are erased ---------------------------------------------------- */

/* A user's state as read, with what an export knows besides. */
static enum kz_code put_state(struct kz_views *views, const struct kz_store_user *read,
        struct kz_user_key key, const struct kz_export_line *line, uint64_t linked,
        struct kz_buf *out, struct kz_err *err)
{
    bool is_from = line->to.id.size && !linked;
    struct kz_carry_body body = {.version = KZ_CARRY_VERSION, .key_kind = key.kind};
    struct kz_user_state state = {.owner = read->owner};
    struct kz_buf carry = {0}, owners = {0};
    enum kz_code rc = KZ_OK;

    if (read->state.size)
        rc = kz_user_state_decode(read->state, &state, err);
    if (rc == KZ_OK && read->state.size) {
        kz_buf_str(&carry, state.carry);
    } else if (rc == KZ_OK) {
        struct kz_body_writer w = kz_body_begin(&carry, &body, sizeof(body));

        kz_body_span(&w, offsetof(struct kz_carry_body, key_id), key.id);
        if (is_from)
            kz_body_span(&w, offsetof(struct kz_carry_body, to_id), line->to.id);
        kz_body_span(&w, offsetof(struct kz_carry_body, slots), KZ_STR_NULL);
    }
    if (rc == KZ_OK) {
        memcpy(&body, carry.data, sizeof(body));
        if (is_from && !read->state.size) {
            body.to_kind = line->to.kind;
            body.to_owner = kz_owner_hash(line->to, 0);
            body.merged = line->merged ? body.to_owner : 0;
        }
        if (!linked && line->first_seen_ms &&
                (!body.first_seen_ms || line->first_seen_ms < body.first_seen_ms))
            body.first_seen_ms = line->first_seen_ms;
        memcpy(carry.data, &body, sizeof(body));
        kz_buf_str(&owners, state.linked);
        if (linked && !memmem(owners.data, owners.size, &linked, sizeof(linked)))
            kz_buf_put(&owners, &linked, sizeof(linked));
        state.linked = kz_buf_view(&owners);
        rc = kz_views_restore(views, read->owner, kz_buf_view(&carry), err);
    }
    if (rc == KZ_OK)
        kz_user_state_encode(views, kz_views_find_owner(views, read->owner), &state, 0, out);
    kz_buf_done(&owners);
    kz_buf_done(&carry);
    return rc;
}

/* The one linked to first: the other one's state names them. */
static enum kz_code put_user(
        struct into_store *into, const struct kz_export_line *line, struct kz_err *err)
{
    struct kz_store *store = into->backends.store;
    KZ_AUTO(kz_views_freep) struct kz_views *views = kz_views_new_small();
    struct kz_user_key keys[2] = {line->to, line->user};
    size_t from = line->to.id.size ? 1 : 0, user_count = from + 1;
    struct kz_store_user users[2] = {0};
    struct kz_store_commit commit = {
            .users = users, .user_count = user_count, .now_ms = kz_clock_ms()};
    struct kz_buf bytes[2] = {0};
    struct kz_store_txn *txn;
    enum kz_code rc;

    if (!from)
        keys[0] = line->user;
    for (size_t i = 0; i < user_count; i++)
        users[i].owner = kz_owner_hash(keys[i], 0);
    kz_views_set_part(views);
    KZ_TRY(store->ops->begin(store, &txn, err));
    rc = store->ops->read_users(txn, users, user_count, err);
    for (size_t i = 0; rc == KZ_OK && i < user_count; i++) {
        rc = put_state(
                views, &users[i], keys[i], line, i < from ? users[from].owner : 0, &bytes[i], err);
        users[i].state = kz_buf_view(&bytes[i]);
    }
    if (rc == KZ_OK)
        rc = store->ops->commit(txn, &commit, err);
    else
        store->ops->rollback(txn);
    kz_buf_done(&bytes[0]);
    kz_buf_done(&bytes[1]);
    return rc;
}

static enum kz_code put_stone(
        struct into_store *into, const struct kz_export_line *line, struct kz_err *err)
{
    struct kz_store *store = into->backends.store;
    struct kz_stone stone = {
            .erasure = line->stone, .at_ms = line->at_ms, .done_at_ms = kz_clock_ms()};
    struct kz_buf body = {0};
    enum kz_code rc;

    kz_stone_encode(&stone, &body);
    rc = store->ops->erase(store, line->stone, kz_buf_view(&body), NULL, 0, err);
    kz_buf_done(&body);
    return rc;
}

static enum kz_code store_note(
        struct kz_import *import, const struct kz_export_line *line, struct kz_err *err)
{
    struct into_store *into = (struct into_store *)import;
    int64_t until_ms = kz_mono_ms() + PATIENCE_MS;
    enum kz_code rc;

    do {
        rc = line->kind == KZ_EXPORT_USER ? put_user(into, line, err) : put_stone(into, line, err);
    } while (again(into, rc, until_ms));
    return rc;
}

/* ---- from the opening to the end -------------------------------------------------------------------- */

static enum kz_code store_finish(struct kz_import *import, struct kz_err *err)
{
    return send_batch((struct into_store *)import, err);
}

static const struct kz_offline_tally *store_tally(const struct kz_import *import)
{
    return &((const struct into_store *)import)->tally;
}

static void store_free(struct kz_import *import)
{
    struct into_store *into = (struct into_store *)import;

    kz_process_close(into->process);
    kz_backends_close(&into->backends);
    kz_shaper_free(into->shaper);
    kz_arena_done(&into->arena);
    kz_buf_done(&into->text);
    free(into);
}

enum kz_code kz_import_store(
        const struct kz_import_options *options, struct kz_import **ret_import, struct kz_err *err)
{
    static const struct kz_import_ops ops = {
            .add = store_add,
            .note = store_note,
            .finish = store_finish,
            .tally = store_tally,
            .free = store_free,
    };
    struct into_store *into = kz_calloc(1, sizeof(*into));
    struct kz_store *store;
    enum kz_code rc;

    into->import.ops = &ops;
    into->options = *options;
    kz_arena_init(&into->arena, 0);
    into->shaper = kz_shaper_new(options->project);
    rc = kz_backends_open(options->project, options->backend, KZ_NEEDS_STORE, &into->backends, err);
    store = into->backends.store;
    if (rc == KZ_OK)
        rc = store->ops->check(store, err);
    if (rc == KZ_OK)
        rc = kz_process_open(
                &(struct kz_process_options){
                        .project = options->project, .store = store, .silent = true},
                &into->process, err);
    if (rc != KZ_OK) {
        store_free(&into->import);
        return rc;
    }
    *ret_import = &into->import;
    return KZ_OK;
}
