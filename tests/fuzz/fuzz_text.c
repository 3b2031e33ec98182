/* Small formats. The first byte says which: times, durations, quantities, percent-encoding, base64,
 * hex, JSON paths. What is read and has a way back must come back as it was. */
#include <stdlib.h>

#include "codec/base64.h"
#include "codec/duration.h"
#include "codec/hex.h"
#include "codec/json.h"
#include "codec/quantity.h"
#include "codec/timefmt.h"
#include "codec/url.h"
#include "sys/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_time(struct kz_str text)
{
    char out[KZ_TIME_BYTES];
    int64_t ms, again;

    if (kz_time_parse(text, &ms, NULL) != KZ_OK)
        return;
    KZ_BUG_ON(kz_time_parse(kz_str(kz_time_format(ms, out)), &again, NULL) != KZ_OK);
    /* A zone may carry a time over the edge of the years that are printed, by a day at most. */
    KZ_BUG_ON(again != ms && llabs(again - ms) > 86400000);
}

static void read_duration(struct kz_str text)
{
    char out[KZ_DURATION_BYTES];
    int64_t ms, again;

    if (kz_duration_parse(text, &ms, NULL) != KZ_OK)
        return;
    KZ_BUG_ON(ms < 0);
    KZ_BUG_ON(kz_duration_parse(kz_str(kz_duration_format(ms, out)), &again, NULL) != KZ_OK);
    KZ_BUG_ON(again != ms);
}

static void read_quantity(struct kz_str text)
{
    uint64_t bytes = 0, milli = 0;
    bool is_bytes = kz_quantity_bytes(text, &bytes, NULL) == KZ_OK;

    if (kz_quantity_milli(text, &milli, NULL) == KZ_OK)
        KZ_BUG_ON(!is_bytes || bytes != milli / 1000 + (milli % 1000 != 0));
}

static void read_url(struct kz_str text)
{
    struct kz_arena arena;
    struct kz_str value;
    struct kz_buf buf = {0};

    kz_url_encode(text, &buf);
    kz_arena_init(&arena, 0);
    /* Where there is a \0 it is refused: no path or parameter has one. */
    if (kz_http_unescape(&arena, kz_buf_view(&buf), false, &value))
        KZ_BUG_ON(!kz_str_eq(value, text));
    else
        KZ_BUG_ON(!text.size || !memchr(text.ptr, '\0', text.size));
    kz_buf_done(&buf);
    kz_arena_done(&arena);
}

static void read_base64(struct kz_str text)
{
    for (int alphabet = KZ_BASE64_STD; alphabet <= KZ_BASE64_URL; alphabet++) {
        struct kz_buf plain = {0}, again = {0};

        if (kz_base64_decode(text, (enum kz_base64)alphabet, &plain, NULL) == KZ_OK) {
            kz_base64_encode(kz_buf_view(&plain), (enum kz_base64)alphabet, &again);
            KZ_BUG_ON(again.size > text.size || memcmp(again.data, text.ptr, again.size) != 0);
        }
        kz_buf_done(&plain);
        kz_buf_done(&again);
    }
}

static void read_hex(struct kz_str text)
{
    uint8_t digest[32];
    char out[65];

    if (kz_hex_decode(text, digest, sizeof(digest), NULL) == KZ_OK)
        KZ_BUG_ON(
                text.size != 64 || strncasecmp(kz_hex(digest, sizeof(digest), out), text.ptr, 64));
}

static void read_path(struct kz_str text)
{
    static const char document[] = "{\"a\":{\"b\":[1,{\"c\":\"x\"}],\"\":null},\"a b\":true}";
    struct kz_json_value root;

    KZ_BUG_ON(kz_json_parse(kz_str(document), 0, &root, NULL) != KZ_OK);
    if (kz_json_path_check(text, NULL) == KZ_OK)
        (void)kz_json_get_path(root, text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const readers[])(struct kz_str text) = {
            read_time, read_duration, read_quantity, read_url, read_base64, read_hex, read_path};
    char *copy;

    if (!size)
        return 0;
    copy = malloc(size); /* without anything behind it */
    memcpy(copy, data + 1, size - 1);
    readers[data[0] % KZ_ARRAY_COUNT(readers)](kz_str_n(copy, size - 1));
    free(copy);
    return 0;
}
