/* Any bytes as what infer and serve read of each other: the state of a user's row, and news (and what process
 * says of what was not asked). Sizes and checksums are made to fit, or nothing behind them would ever be looked at. The first byte says which it is. */
#include <stdlib.h>

#include "act/delivery.h"
#include "app/roles/news.h"
#include "app/roles/openerasures.h"
#include "app/roles/rowstate.h"
#include "codec/crc32c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SIZE_AT = 8, CRC_AT = 12, HEAD_LEAST = 16 };

static void fit(char *bytes, size_t size)
{
    uint32_t words[2] = {(uint32_t)size, 0};

    if (size < HEAD_LEAST)
        return;
    memcpy(bytes + SIZE_AT, words, sizeof(words));
    words[1] = kz_crc32c(0, bytes, size);
    memcpy(bytes + CRC_AT, &words[1], sizeof(words[1]));
}

/* What is read is put into views, written, and read again. */
static void take_row(struct kz_str bytes)
{
    struct kz_rowstate row = {0}, again = {0};
    struct kz_views *views = kz_views_new_small();
    struct kz_rowstate_encode what = {.views = views, .before = &row, .now_ms = INT64_MIN};
    struct kz_buf out = {0};
    struct kz_err err;

    if (kz_rowstate_decode(bytes, &row, &err) == KZ_OK && row.there) {
        (void)kz_rowstate_record(&row, 1);
        (void)kz_rowstate_has_absorbed(&row, 1);
        if (kz_rowstate_apply(views, kz_owner_hash(row.key, 0), row.key, &row, NULL, NULL, 0, NULL,
                    &what.user, &err) == KZ_OK) {
            kz_rowstate_encode(&what, &out);
            KZ_BUG_ON(kz_rowstate_decode(kz_buf_view(&out), &again, &err) != KZ_OK);
            KZ_BUG_ON(again.absorbed_count != row.absorbed_count);
        }
        kz_buf_clear(&out);
        kz_rowstate_encode_frozen(&row, 7, row.key, &out);
        KZ_BUG_ON(kz_rowstate_decode(kz_buf_view(&out), &again, &err) != KZ_OK);
        KZ_BUG_ON(again.merged_into != 7);
    }
    kz_views_free(views);
    kz_rowstate_done(&row);
    kz_rowstate_done(&again);
    kz_buf_done(&out);
}

static void take_news(struct kz_str bytes)
{
    static const struct kz_project project = {.name = "fuzz"};
    struct kz_buf hold = {0}, out = {0};
    const struct kz_record *record;
    struct kz_err err;

    if (kz_news_decode(bytes, &hold, &record, &err) == KZ_OK) {
        (void)kz_news_kind_of(record);
        if (record->type == KZ_RECORD_DECISION) {
            const char *what = kz_action_event_what(record);

            kz_delivery_json(record, &out);
            kz_action_event_put(&project, record, what ? what : "shown", 1, &out);
        }
        kz_buf_clear(&out);
        kz_news_encode(record, &out);
        KZ_BUG_ON(!kz_str_eq(kz_buf_view(&out), bytes));
    }
    kz_buf_done(&hold);
    kz_buf_done(&out);
}

/* What is read is written and read again: the same. */
static void take_unasked(struct kz_str text)
{
    static struct kz_model_def models[] = {{.name = "counter"}, {.name = "churn"}};
    static const struct kz_project project = {.name = "fuzz", .models = models, .model_count = 2};
    const char *reasons[2], *again[2];
    struct kz_buf out = {0};

    if (kz_unasked_read(text, &project, reasons, NULL) == KZ_OK &&
            kz_unasked_put(&project, reasons, &out)) {
        KZ_BUG_ON(kz_unasked_read(kz_buf_view(&out), &project, again, NULL) != KZ_OK);
        KZ_BUG_ON(again[0] != reasons[0] || again[1] != reasons[1]);
    }
    kz_buf_done(&out);
}

/* Without a change, and with one that is taken back, the word is the same. */
static void take_open_erasures(struct kz_str bytes)
{
    const struct kz_open_erasure more = {.erasure = 1, .at_ms = -1, .owner = 7};
    struct kz_buf read = {0}, once = {0}, twice = {0}, back = {0};

    if (kz_open_erasures_read(bytes, &read, NULL) == KZ_OK &&
            kz_open_erasures_change(bytes, 1, -1, NULL, 0, &once, NULL) == KZ_OK &&
            kz_open_erasures_change(kz_buf_view(&once), 1, -1, &more, 1, &twice, NULL) == KZ_OK) {
        KZ_BUG_ON(
                kz_open_erasures_change(kz_buf_view(&twice), 1, -1, NULL, 0, &back, NULL) != KZ_OK);
        KZ_BUG_ON(!kz_str_eq(kz_buf_view(&once), kz_buf_view(&back)));
    }
    kz_buf_done(&read);
    kz_buf_done(&once);
    kz_buf_done(&twice);
    kz_buf_done(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy;

    if (!size)
        return 0;
    copy = kz_malloc(size);
    memcpy(copy, data + 1, size - 1);
    if (data[0] == 'u' || data[0] == 'e') {
        if (data[0] == 'u')
            take_unasked(kz_str_n(copy, size - 1));
        else
            take_open_erasures(kz_str_n(copy, size - 1));
        free(copy);
        return 0;
    }
    fit(copy, size - 1);
    if (data[0] & 1)
        take_news(kz_str_n(copy, size - 1));
    else
        take_row(kz_str_n(copy, size - 1));
    free(copy);
    return 0;
}
