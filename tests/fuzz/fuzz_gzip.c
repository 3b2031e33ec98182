/* Compressed bodies and blocks. The first byte: 0 gzip or zlib, 1 a zstd frame, 2 one with a
 * dictionary of foreign bytes. The limit on what comes out holds in any case. */
#include <stdlib.h>

#include "codec/gzip.h"
#include "codec/zstd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LIMIT = 64 << 10 };

static void inflate(struct kz_str text)
{
    struct kz_buf out = {0}, back = {0}, again = {0};

    kz_buf_str(&out, KZ_STR("before"));
    (void)kz_gzip_is(text);
    if (kz_gzip_inflate(text, LIMIT, &out, NULL) != KZ_OK)
        KZ_BUG_ON(out.size != 6);
    KZ_BUG_ON(out.size > LIMIT + 6 || memcmp(out.data, "before", 6) != 0);
    KZ_BUG_ON(kz_gzip_deflate(text, 1, &back, NULL) != KZ_OK);
    KZ_BUG_ON(kz_gzip_inflate(kz_buf_view(&back), text.size, &again, NULL) != KZ_OK);
    KZ_BUG_ON(!kz_str_eq(kz_buf_view(&again), text));
    kz_buf_done(&out);
    kz_buf_done(&back);
    kz_buf_done(&again);
}

static void decompress(struct kz_str text, bool with_dictionary)
{
    size_t cut = with_dictionary ? text.size / 2 : 0;
    KZ_AUTO(kz_zstd_freep) struct kz_zstd *zstd = kz_zstd_new(kz_str_n(text.ptr, cut), 1, cut);
    struct kz_buf out = {0};

    if (!zstd)
        return;
    if (kz_zstd_decompress(zstd, kz_str_n(text.ptr + cut, text.size - cut), LIMIT, &out, NULL) !=
            KZ_OK)
        KZ_BUG_ON(out.size);
    KZ_BUG_ON(out.size > LIMIT);
    kz_buf_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy;

    if (!size)
        return 0;
    copy = malloc(size);
    memcpy(copy, data + 1, size - 1);
    if (data[0] % 3 == 0)
        inflate(kz_str_n(copy, size - 1));
    else
        decompress(kz_str_n(copy, size - 1), data[0] % 3 == 2);
    free(copy);
    return 0;
}
