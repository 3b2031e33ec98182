#include "codec/zstd.h"

#include <stdlib.h>
#include <zdict.h>
#include <zstd.h>

struct kz_zstd {
    ZSTD_CCtx *compressor;
    ZSTD_DCtx *decompressor;
};

struct kz_zstd_dictionary {
    ZSTD_DDict *prepared;
};

static void set(ZSTD_CCtx *compressor, ZSTD_cParameter what, int value)
{
    /* The parameters are ours, and the levels are clamped by the library. */
    KZ_BUG_ON(ZSTD_isError(ZSTD_CCtx_setParameter(compressor, what, value)));
}

/* Room for two entries a byte: with half of that 1 % more bytes come out. */
static int hash_log(size_t size_typical)
{
    enum { LEAST = 6, MOST = 20 }; /* zstd's, and what is no table for small things any more */
    int log = LEAST;

    while (log < MOST && (size_t)1 << (log - 1) < size_typical)
        log++;
    return log;
}

struct kz_zstd *kz_zstd_new(struct kz_str dictionary, int level, size_t size_typical)
{
    struct kz_zstd *zstd = kz_malloc(sizeof(*zstd));

    zstd->compressor = ZSTD_createCCtx();
    zstd->decompressor = ZSTD_createDCtx();
    KZ_BUG_ON(!zstd->compressor || !zstd->decompressor);
    set(zstd->compressor, ZSTD_c_compressionLevel, level);
    if (size_typical)
        set(zstd->compressor, ZSTD_c_hashLog, hash_log(size_typical));
    set(zstd->compressor, ZSTD_c_checksumFlag, 0);
    set(zstd->compressor, ZSTD_c_dictIDFlag, 0); /* whoever keeps the frames knows which */
    if (dictionary.size && (ZSTD_isError(ZSTD_CCtx_loadDictionary(
                                    zstd->compressor, dictionary.ptr, dictionary.size)) ||
                                   ZSTD_isError(ZSTD_DCtx_loadDictionary(
                                           zstd->decompressor, dictionary.ptr, dictionary.size)))) {
        kz_zstd_free(zstd);
        return NULL;
    }
    return zstd;
}

void kz_zstd_free(struct kz_zstd *zstd)
{
    if (!zstd)
        return;
    ZSTD_freeCCtx(zstd->compressor);
    ZSTD_freeDCtx(zstd->decompressor);
    free(zstd);
}

enum kz_code kz_zstd_compress(
        struct kz_zstd *zstd, struct kz_str data, struct kz_buf *buf, struct kz_err *err)
{
    size_t bound = ZSTD_compressBound(data.size), size;

    kz_buf_reserve(buf, bound);
    size = ZSTD_compress2(
            zstd->compressor, buf->data + buf->size, bound, data.size ? data.ptr : "", data.size);
    if (ZSTD_isError(size))
        return kz_fail(err, KZ_INTERNAL, "could not compress %zu bytes: %s", data.size,
                ZSTD_getErrorName(size));
    buf->size += size;
    return KZ_OK;
}

enum kz_code kz_zstd_decompress_with(struct kz_zstd *zstd,
        const struct kz_zstd_dictionary *dictionary, struct kz_str frame, size_t size_max_bytes,
        struct kz_buf *buf, struct kz_err *err)
{
    unsigned long long want = ZSTD_getFrameContentSize(frame.ptr, frame.size);
    size_t size;
    char *to;

    if (want == ZSTD_CONTENTSIZE_ERROR || want == ZSTD_CONTENTSIZE_UNKNOWN)
        return kz_fail(err, KZ_CORRUPT, "no zstd frame that says its size");
    if (want > size_max_bytes)
        return kz_fail(err, KZ_TOO_LARGE, "zstd frame holds %llu bytes, the limit is %zu", want,
                size_max_bytes);
    kz_buf_reserve(buf, want + 1); /* never a NULL target */
    to = buf->data + buf->size;
    size = dictionary ? ZSTD_decompress_usingDDict(zstd->decompressor, to, want, frame.ptr,
                                frame.size, dictionary->prepared)
                      : ZSTD_decompressDCtx(zstd->decompressor, to, want, frame.ptr, frame.size);
    if (ZSTD_isError(size))
        return kz_fail(err, KZ_CORRUPT, "could not decompress a zstd frame of %zu bytes: %s",
                frame.size, ZSTD_getErrorName(size));
    buf->size += size;
    return KZ_OK;
}

enum kz_code kz_zstd_decompress(struct kz_zstd *zstd, struct kz_str frame, size_t size_max_bytes,
        struct kz_buf *buf, struct kz_err *err)
{
    return kz_zstd_decompress_with(zstd, NULL, frame, size_max_bytes, buf, err);
}

/* ---- dictionaries ---------------------------------------------------------------------------- */

struct kz_zstd_dictionary *kz_zstd_dictionary_new(struct kz_str dictionary)
{
    ZSTD_DDict *prepared = ZSTD_createDDict(dictionary.ptr, dictionary.size);
    struct kz_zstd_dictionary *made;

    if (!prepared)
        return NULL;
    made = kz_malloc(sizeof(*made));
    made->prepared = prepared;
    return made;
}

void kz_zstd_dictionary_free(struct kz_zstd_dictionary *dictionary)
{
    if (!dictionary)
        return;
    ZSTD_freeDDict(dictionary->prepared);
    free(dictionary);
}

enum kz_code kz_zstd_make_dictionary(struct kz_str content, struct kz_str samples,
        const size_t *sizes, unsigned count, int level, size_t size_max_bytes, struct kz_buf *buf,
        struct kz_err *err)
{
    ZDICT_params_t params = {.compressionLevel = level};
    size_t size;

    if (!content.size || !count)
        return kz_fail(err, KZ_INVALID, "there is nothing to make a dictionary of");
    kz_buf_reserve(buf, size_max_bytes);
    size = ZDICT_finalizeDictionary(buf->data + buf->size, size_max_bytes, content.ptr,
            content.size, samples.ptr, sizes, count, params);
    if (ZDICT_isError(size))
        return kz_fail(err, KZ_INVALID, "could not make a dictionary of %zu bytes: %s",
                content.size, ZDICT_getErrorName(size));
    buf->size += size;
    return KZ_OK;
}
