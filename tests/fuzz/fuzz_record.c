/* Any bytes as records of the log, of every type (CARRY among them): checked, printed, read by every
 * accessor, and applied to the views, checked or not, as a recovery does. The input is records as on
 * disk, one behind the other; sizes are made to fit and seqs dense, the rest is as it comes. */
#include <stdlib.h>

#include "history/carry.h"
#include "history/views.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { COUNT_MAX = 64, VALUES_MAX = 64 };

static void read_event(const struct kz_record *record)
{
    struct kz_event event;
    uint64_t sum = 0;

    if (kz_event_decode(record, &event, NULL) != KZ_OK)
        return;
    KZ_BUG_ON(event.name.size > record->size || event.props.size > record->size);
    for (unsigned i = 0; i < 8; i++) {
        struct kz_value value = kz_event_column(record, i);

        if (value.type == KZ_TYPE_TEXT)
            for (size_t k = 0; k < value.text.size; k++)
                sum += (unsigned char)value.text.ptr[k];
    }
    KZ_BUG_ON(sum > UINT32_MAX);
}

static void read_row(struct kz_str bytes)
{
    struct kz_value values[VALUES_MAX];
    struct kz_buf again = {0};
    size_t count;

    if (kz_row_decode(bytes, values, VALUES_MAX, &count, NULL) != KZ_OK)
        return;
    kz_row_encode(values, count, &again);
    KZ_BUG_ON(again.size > bytes.size);
    kz_buf_done(&again);
}

/* What a checkpoint and retention do with the views that came of it. */
static void use(struct kz_views *views)
{
    struct kz_buf out = {0};
    struct kz_err err;

    if (kz_views_check(views, &err) != KZ_OK)
        KZ_BUG_ON(!err.message[0]);
    (void)kz_views_hash(views);
    (void)kz_views_stats(views);
    for (uint32_t user = 0; (user = kz_views_next_user(views, user));) {
        struct kz_source sources[KZ_SOURCES_MAX];

        kz_views_carry(views, user, NULL, &out);
        kz_views_erase_owners(views, user, &out);
        KZ_BUG_ON(kz_views_sources(views, user, KZ_CHAIN_EVENTS, UINT64_MAX, sources) >
                  KZ_SOURCES_MAX);
        kz_buf_clear(&out);
    }
    kz_views_carry_globals(views, 0, &out);
    kz_buf_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kz_views *views = kz_views_new(8);
    kz_lsn lsn = KZ_LSN(1, 4144);
    uint64_t seq = 1;

    for (size_t at = 0; size - at >= sizeof(struct kz_record) && seq <= COUNT_MAX; seq++) {
        struct kz_record head, *record;
        struct kz_buf line = {0};

        memcpy(&head, data + at, sizeof(head));
        if (head.size < sizeof(head) || head.size > size - at)
            head.size = (uint32_t)(size - at);
        head.seq = seq;
        record = malloc(head.size); /* of its own, so that reading past its end is seen */
        memcpy(record, &head, sizeof(head));
        memcpy(record + 1, data + at + sizeof(head), head.size - sizeof(head));
        if (kz_record_check(record, NULL) == KZ_OK)
            kz_record_dump(record, lsn, &line);
        read_event(record);
        read_row(kz_record_body(record));
        (void)!kz_views_apply(views, lsn, record, NULL);
        kz_buf_done(&line);
        lsn += KZ_ALIGN8(head.size);
        at += KZ_MIN(KZ_ALIGN8((size_t)head.size), size - at);
        free(record);
    }
    use(views);
    kz_views_free(views);
    return 0;
}
