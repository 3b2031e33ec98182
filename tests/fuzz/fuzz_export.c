/* Any bytes as lines of an export: each is refused, or is written again as what it said. */
#include <stdlib.h>

#include "app/commands/exportfile.h"
#include "codec/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool same_key(struct kz_user_key a, struct kz_user_key b)
{
    return a.kind == b.kind && kz_str_eq(a.id, b.id);
}

/* Only where its text is what JSON can say: the reader takes bytes that the writer would mend. */
static void read_back(const struct kz_export_line *line, struct kz_arena *arena)
{
    struct kz_export_line again;
    struct kz_buf out = {0};
    struct kz_err err;

    kz_export_put(line, &out);
    KZ_BUG_ON(kz_export_read(kz_str_n(out.data, out.size - 1), arena, &again, &err) != KZ_OK);
    KZ_BUG_ON(again.kind != line->kind || again.stone != line->stone ||
              again.at_ms != line->at_ms || again.first_seen_ms != line->first_seen_ms ||
              again.seq != line->seq || again.event_count != line->event_count ||
              again.merged != line->merged || !same_key(again.user, line->user) ||
              !same_key(again.to, line->to));
    kz_buf_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct kz_project project = {.name = "fuzz"};
    KZ_AUTO(kz_shaper_freep) struct kz_shaper *shaper = kz_shaper_new(&project);
    struct kz_str text = kz_str_n((const char *)data, size), line;
    struct kz_lines lines = kz_lines(text);
    struct kz_export_line one;
    struct kz_shaped shaped;
    struct kz_arena arena;
    struct kz_err err;

    kz_arena_init(&arena, 0);
    (void)kz_export_is(text);
    while (kz_lines_next(&lines, &line)) {
        struct kz_shape_input input = {.text = line, .arena = &arena, .received_at_ms = 1};
        enum kz_code rc = kz_export_read(line, &arena, &one, &err);

        KZ_BUG_ON(rc != KZ_OK && !err.message[0]);
        if (rc == KZ_OK && one.kind != KZ_EXPORT_EVENT)
            read_back(&one, &arena);
        if (rc == KZ_OK && one.kind == KZ_EXPORT_EVENT &&
                kz_export_shape(shaper, &input, &shaped, &err) == KZ_OK)
            for (size_t i = 0; i < shaped.item_count; i++)
                KZ_BUG_ON(shaped.items[i]->state != KZ_INTAKE_REJECTED &&
                          !(shaped.items[i]->event.flags & KZ_EVENT_TIMED));
    }
    kz_arena_done(&arena);
    return 0;
}
