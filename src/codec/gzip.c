#include "codec/gzip.h"

#include <limits.h>
#include <zlib.h>

enum { STEP_BYTES = 64 * 1024, WINDOW_AUTO = 15 + 32, WINDOW_GZIP = 15 + 16 };

bool kz_gzip_is(struct kz_str data)
{
    return data.size >= 2 && (uint8_t)data.ptr[0] == 0x1f && (uint8_t)data.ptr[1] == 0x8b;
}

/* One step into `buf`; the limit is tested by leaving one byte of room more than is allowed. */
static int inflate_step(z_stream *z, struct kz_buf *buf, size_t room)
{
    size_t step = KZ_MIN(room, (size_t)STEP_BYTES);
    int rc;

    kz_buf_reserve(buf, step);
    z->next_out = (Bytef *)buf->data + buf->size;
    z->avail_out = (uInt)step;
    rc = inflate(z, Z_NO_FLUSH);
    buf->size += step - z->avail_out;
    return rc;
}

static enum kz_code inflate_all(
        z_stream *z, size_t size_max_bytes, struct kz_buf *buf, struct kz_err *err)
{
    size_t before = buf->size;

    for (;;) {
        size_t done = buf->size - before;
        int rc = inflate_step(z, buf, size_max_bytes - done + 1);

        if (buf->size - before > size_max_bytes)
            return kz_fail(
                    err, KZ_TOO_LARGE, "compressed data holds more than %zu bytes", size_max_bytes);
        if (rc == Z_STREAM_END) {
            if (z->avail_in == 0)
                return KZ_OK;
            /* RFC 1952: a file is a series of members. */
            if (!kz_gzip_is(kz_str_n(z->next_in, z->avail_in)) || inflateReset(z) != Z_OK)
                return kz_fail(err, KZ_INVALID, "garbage behind the compressed data");
        } else if (rc == Z_BUF_ERROR || (rc == Z_OK && z->avail_in == 0 && z->avail_out)) {
            return kz_fail(err, KZ_INVALID, "compressed data is cut off");
        } else if (rc != Z_OK) {
            return kz_fail(err, KZ_INVALID, "compressed data is damaged: %s",
                    z->msg ? z->msg : zError(rc));
        }
    }
}

enum kz_code kz_gzip_inflate(
        struct kz_str data, size_t size_max_bytes, struct kz_buf *buf, struct kz_err *err)
{
    size_t before = buf->size;
    z_stream z = {0};
    enum kz_code rc;

    if (data.size > UINT_MAX)
        return kz_fail(err, KZ_TOO_LARGE, "compressed data of %zu bytes", data.size);
    KZ_BUG_ON(size_max_bytes == SIZE_MAX);
    if (inflateInit2(&z, WINDOW_AUTO) != Z_OK)
        return kz_fail(err, KZ_NO_MEMORY, "could not prepare to decompress");
    z.next_in = (Bytef *)data.ptr;
    z.avail_in = (uInt)data.size;
    rc = inflate_all(&z, size_max_bytes, buf, err);
    inflateEnd(&z);
    if (rc != KZ_OK)
        buf->size = before;
    return rc;
}

enum kz_code kz_gzip_deflate(struct kz_str data, int level, struct kz_buf *buf, struct kz_err *err)
{
    z_stream z = {0};
    size_t bound;
    int rc;

    if (data.size > UINT_MAX / 2)
        return kz_fail(err, KZ_TOO_LARGE, "cannot compress %zu bytes at once", data.size);
    if (deflateInit2(&z, level, Z_DEFLATED, WINDOW_GZIP, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return kz_fail(err, KZ_NO_MEMORY, "could not prepare to compress at level %d", level);
    bound = deflateBound(&z, data.size);
    kz_buf_reserve(buf, bound);
    z.next_in = (Bytef *)data.ptr;
    z.avail_in = (uInt)data.size;
    z.next_out = (Bytef *)buf->data + buf->size;
    z.avail_out = (uInt)bound;
    rc = deflate(&z, Z_FINISH);
    KZ_BUG_ON(rc != Z_STREAM_END); /* there was room, by deflateBound()'s promise */
    buf->size += bound - z.avail_out;
    deflateEnd(&z);
    return KZ_OK;
}
