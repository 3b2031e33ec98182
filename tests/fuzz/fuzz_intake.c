/* What strangers send to the intake. The first byte says as what the rest is read: our own events,
 * a call of the Segment clients, a compressed body, a key file, a user token. Whatever was accepted
 * must hold the limits that the rest of Kizashi relies on. */
#include <stdlib.h>

#include "codec/gzip.h"
#include "codec/json.h"
#include "contract/auth.h"
#include "contract/shape.h"
#include "sys/file_sim.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct kz_column_def columns[] = {
        {.name = "price", .path = "$.price", .type = KZ_TYPE_FLOAT},
        {.name = "n", .path = "$.n", .type = KZ_TYPE_INT},
        {.name = "item", .path = "$.item", .type = KZ_TYPE_TEXT},
        {.name = "gift", .path = "$.gift", .type = KZ_TYPE_BOOL},
        {.name = "deep", .path = "$.a.b[0]", .type = KZ_TYPE_TEXT},
};
static const struct kz_project project = {
        .name = "fuzz", .events = {.columns = columns, .column_count = KZ_ARRAY_COUNT(columns)}};

static void check_id(struct kz_str id)
{
    KZ_BUG_ON(id.size > KZ_ID_SIZE_MAX);
    for (size_t i = 0; i < id.size; i++)
        KZ_BUG_ON((unsigned char)id.ptr[i] < 0x20 || id.ptr[i] == 0x7f);
}

static void check_item(const struct kz_intake_item *item)
{
    const struct kz_event *e = &item->event;
    struct kz_json_value props;

    check_id(e->user_id);
    check_id(e->anonymous_id);
    check_id(e->event_id);
    KZ_BUG_ON(e->ts_ms);
    if (item->state == KZ_INTAKE_REJECTED) {
        KZ_BUG_ON(!item->code || !item->message.size);
        return;
    }
    KZ_BUG_ON(!e->user_id.size && !e->anonymous_id.size);
    KZ_BUG_ON(
            !e->name.size || e->name.size > KZ_NAME_SIZE_MAX || kz_str_starts(e->name, "kizashi."));
    KZ_BUG_ON(e->props.size > KZ_PROPS_SIZE_MAX);
    KZ_BUG_ON(e->props.size &&
              (kz_json_parse(e->props, 34, &props, NULL) != KZ_OK || props.kind != KZ_JSON_OBJECT));
    KZ_BUG_ON(e->column_count != KZ_ARRAY_COUNT(columns));
    for (size_t i = 0; i < e->column_count; i++)
        KZ_BUG_ON(e->columns[i].type != KZ_TYPE_NULL && e->columns[i].type != columns[i].type);
}

static void check_shaped(const struct kz_shaped *shaped)
{
    size_t rejected = 0;

    for (size_t i = 0; i < shaped->item_count; i++) {
        check_item(shaped->items[i]);
        rejected += shaped->items[i]->state == KZ_INTAKE_REJECTED;
    }
    KZ_BUG_ON(rejected != shaped->rejected_count);
    KZ_BUG_ON(shaped->single && shaped->item_count != 1);
}

static void shape(unsigned mode, struct kz_str text)
{
    KZ_AUTO(kz_shaper_freep) struct kz_shaper *shaper = kz_shaper_new(&project);
    struct kz_shaped shaped = {0};
    struct kz_arena arena;
    struct kz_shape_input input = {.text = text, .arena = &arena, .received_at_ms = 1795477900000};
    struct kz_err err;
    enum kz_code rc;

    kz_arena_init(&arena, mode & 8 ? 2000 : 4 << 20);
    rc = (mode & 7) == 7 ? kz_shape_events(shaper, &input, &shaped, &err)
                         : kz_shape_calls(shaper, (enum kz_call)(mode & 7), &input, &shaped, &err);
    if (rc == KZ_OK)
        check_shaped(&shaped);
    else
        KZ_BUG_ON((rc != KZ_INVALID && rc != KZ_TOO_LARGE) || !err.message[0]);
    kz_arena_done(&arena);
}

static void read_keys(struct kz_str text)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    KZ_AUTO(kz_auth_closep) struct kz_auth *auth = NULL;
    struct kz_identity identity = {0};
    struct kz_err err;

    KZ_BUG_ON(kz_fs_replace(fs, "/keys.json", text.ptr, text.size, &err) != KZ_OK);
    if (kz_auth_open(fs, "/", &auth, &err) != KZ_OK || !kz_auth_key_count(auth))
        return;
    identity.key = kz_auth_key_at(auth, 0);
    (void)kz_auth_may_send(&identity, text);
}

static void read_token(struct kz_str token)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    KZ_AUTO(kz_auth_closep) struct kz_auth *auth = NULL;
    struct kz_key_spec spec = {.name = "s", .kind = KZ_KEY_SIGNING};
    struct kz_key key = {.kind = KZ_KEY_WRITE};
    struct kz_identity identity = {.key = &key};
    char secret[KZ_SECRET_BYTES];
    struct kz_err err;

    KZ_BUG_ON(kz_auth_open(fs, "/", &auth, &err) != KZ_OK);
    KZ_BUG_ON(kz_auth_create(auth, &spec, 1, secret, NULL, &err) != KZ_OK);
    /* Nobody guesses an HMAC. */
    KZ_BUG_ON(kz_auth_user(auth, &identity, (struct kz_user_key){'u', KZ_STR("u")}, token, 0,
                      &err) != KZ_FORBIDDEN);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kz_buf plain = {0};
    struct kz_str text;
    char *copy; /* without anything behind it, so that reading past the end is seen */

    if (!size)
        return 0;
    copy = malloc(size);
    memcpy(copy, data + 1, size - 1);
    text = kz_str_n(copy, size - 1);
    switch (data[0] >> 4) {
    case 1:
        read_keys(text);
        break;
    case 2:
        read_token(text);
        break;
    case 3:
        if (kz_gzip_inflate(text, 1 << 20, &plain, NULL) == KZ_OK)
            shape(data[0] & 15, kz_buf_view(&plain));
        break;
    default:
        shape(data[0] & 15, text);
    }
    kz_buf_done(&plain);
    free(copy);
    return 0;
}
