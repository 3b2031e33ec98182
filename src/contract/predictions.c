#include "contract/predictions.h"

#include <inttypes.h>
#include <stdlib.h>

static int newest_first(const void *a, const void *b)
{
    const struct kz_entry *x = a, *y = b;

    if (x->seq != y->seq)
        return x->seq > y->seq ? -1 : 1;
    return x->request == y->request ? 0 : x->request > y->request ? -1 : 1;
}

/* The bytes are reserved in one go, so that what points into them stays good. */
void kz_user_row_fill(
        struct kz_user_row *row, struct kz_str state, struct kz_entry *entries, size_t entry_count)
{
    size_t array_bytes = entry_count * sizeof(*entries);
    size_t bytes = array_bytes + KZ_ALIGN8(state.size);
    char *at;

    if (entry_count)
        qsort(entries, entry_count, sizeof(*entries), newest_first);
    for (size_t i = 0; i < entry_count; i++)
        bytes += KZ_ALIGN8(entries[i].record.size);
    kz_buf_clear(&row->bytes);
    at = kz_buf_extend(&row->bytes, bytes);
    row->there = state.size > 0;
    row->entries = (struct kz_entry *)(void *)at;
    row->entry_count = entry_count;
    at += array_bytes;
    row->state = kz_str_n(at, state.size);
    if (state.size)
        memcpy(at, state.ptr, state.size);
    at += KZ_ALIGN8(state.size);
    for (size_t i = 0; i < entry_count; i++) {
        struct kz_str record = entries[i].record;

        row->entries[i] = entries[i];
        row->entries[i].record = kz_str_n(at, record.size);
        row->entries[i].model = row->entries[i].json = KZ_STR_NULL;
        memcpy(at, record.ptr, record.size);
        at += KZ_ALIGN8(record.size);
    }
}

enum kz_code kz_user_row_check(
        struct kz_str state, const struct kz_entry *entries, size_t entry_count, struct kz_err *err)
{
    if (!state.size)
        return kz_fail(err, KZ_INVALID, "a user's state cannot be empty");
    if (state.size > KZ_STATE_SIZE_MAX)
        return kz_fail(err, KZ_TOO_LARGE, "a user's state of %zu bytes is over the limit of %d",
                state.size, KZ_STATE_SIZE_MAX);
    if (entry_count > KZ_ENTRIES_PUT_MAX)
        return kz_fail(err, KZ_TOO_LARGE, "%zu entries in one write are over the limit of %d",
                entry_count, KZ_ENTRIES_PUT_MAX);
    for (size_t i = 0; i < entry_count; i++) {
        const struct kz_entry *entry = &entries[i];

        if (!entry->request || entry->seq <= entry->request)
            return kz_fail(err, KZ_INVALID,
                    "entry %" PRIu64 " does not come after its request %" PRIu64, entry->seq,
                    entry->request);
        if (entry->record.size > KZ_STATE_SIZE_MAX || entry->json.size > KZ_STATE_SIZE_MAX)
            return kz_fail(err, KZ_TOO_LARGE,
                    "entry %" PRIu64 " of %zu bytes is over the limit of %d", entry->seq,
                    KZ_MAX(entry->record.size, entry->json.size), KZ_STATE_SIZE_MAX);
        if (entry->json.size && !entry->model.size)
            return kz_fail(err, KZ_INVALID, "prediction %" PRIu64 " names no model", entry->seq);
    }
    return KZ_OK;
}
