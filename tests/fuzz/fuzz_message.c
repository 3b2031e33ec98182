/* What comes over the bus, or is read from a shared store, of any bytes is what it says or an error:
 * collected events, requests, users' states, tombstones. The first byte says which. */
#include <stdlib.h>

#include "app/roles/userstate.h"
#include "codec/crc32c.h"
#include "contract/message.h"
#include "contract/shape.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct kz_column_def columns[] = {
        {.name = "price", .path = "$.price", .type = KZ_TYPE_FLOAT},
        {.name = "city", .path = "$.address.city", .type = KZ_TYPE_TEXT},
};
static const struct kz_project project = {
        .name = "fuzz", .events = {.columns = columns, .column_count = 2, .columns_id = 7}};

/* What was read is written and read again: the same bytes. */
static void read_events(struct kz_str text)
{
    struct kz_shaper *shaper = kz_shaper_new(&project);
    struct kz_buf once = {0}, twice = {0};
    struct kz_arena arena;
    struct kz_shape_input input = {.text = text, .arena = &arena};
    struct kz_shaped shaped = {0};

    kz_arena_init(&arena, 64 << 20);
    if (kz_shape_collected(shaper, &input, &shaped, NULL) == KZ_OK) {
        if (!shaped.item_count)
            abort();
        for (size_t i = 0; i < shaped.item_count; i++) {
            const struct kz_event *event = &shaped.items[i]->event;

            if (event->received_at_ms < 1)
                abort();
            if (shaped.items[i]->state != KZ_INTAKE_REJECTED &&
                    (!event->event_id.size || !event->name.size || !kz_event_key(event).id.size))
                abort();
            kz_message_put_item(shaped.items[i], &once);
        }
        input.text = kz_buf_view(&once);
        if (kz_shape_collected(shaper, &input, &shaped, NULL) != KZ_OK)
            abort();
        for (size_t i = 0; i < shaped.item_count; i++)
            kz_message_put_item(shaped.items[i], &twice);
        if (!kz_str_eq(kz_buf_view(&once), kz_buf_view(&twice)))
            abort();
    }
    kz_arena_done(&arena);
    kz_shaper_free(shaper);
    kz_buf_done(&once);
    kz_buf_done(&twice);
}

/* Both heads have their size and checksum there; made right, or nothing would get past them. */
static struct kz_str made_right(struct kz_str bytes, struct kz_buf *copy)
{
    enum { SIZE_AT = 8, CRC_AT = 12 };

    kz_buf_str(copy, bytes);
    if (copy->size < CRC_AT + 4)
        return bytes;
    kz_store_u32(copy->data + SIZE_AT, (uint32_t)copy->size);
    kz_store_u32(copy->data + CRC_AT, 0);
    kz_store_u32(copy->data + CRC_AT, kz_crc32c(0, copy->data, copy->size));
    return kz_buf_view(copy);
}

static void read_request(struct kz_str bytes)
{
    struct kz_request_message message;
    struct kz_buf hold = {0}, again = {0};

    if (kz_request_message_decode(bytes, &hold, &message, NULL) == KZ_OK) {
        kz_request_message_encode(&message, &again);
        if (!kz_str_eq(kz_buf_view(&again), bytes) ||
                kz_request_message_model(&message).size > bytes.size)
            abort();
    }
    kz_buf_done(&hold);
    kz_buf_done(&again);
}

static void read_state(struct kz_str bytes)
{
    struct kz_views *views = kz_views_new_small();
    struct kz_user_state state;
    struct kz_buf again = {0};

    kz_views_set_part(views);
    if (kz_user_state_decode(bytes, &state, NULL) == KZ_OK && !state.to_owner &&
            kz_user_state_restore(views, &state, NULL) == KZ_OK)
        kz_user_state_encode(views, kz_views_find_owner(views, state.owner), &state, 0, &again);
    kz_views_free(views);
    kz_buf_done(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kz_stone stone;
    struct kz_buf copy = {0};
    struct kz_str bytes = kz_str_n(data + 1, size ? size - 1 : 0);

    switch (size ? data[0] : 4) {
    case 0:
        read_events(bytes);
        break;
    case 1:
        read_request(made_right(bytes, &copy));
        break;
    case 2:
        read_state(made_right(bytes, &copy));
        break;
    default:
        (void)kz_stone_decode(bytes, &stone, NULL); /* it may say no */
        break;
    }
    kz_buf_done(&copy);
    return 0;
}
