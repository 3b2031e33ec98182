#include "app/roles/openerasures.h"

#include "codec/crc32c.h"

enum { MAGIC = 0x726f7a6b /* "kzor" */, VERSION = 1 };

/* Followed by the owners. */
struct head {
    uint32_t magic;
    uint32_t version;
    uint32_t count;
    uint32_t crc; /* CRC-32C of the owners */
};
_Static_assert(sizeof(struct head) == 16, "stored");
_Static_assert(sizeof(struct kz_open_erasure) == 40, "stored");

enum kz_code kz_open_erasures_read(struct kz_str bytes, struct kz_buf *out, struct kz_err *err)
{
    struct head head;

    if (!bytes.size)
        return KZ_OK;
    if (bytes.size < sizeof(head))
        return kz_fail(err, KZ_CORRUPT, "the word of open erasures has %zu bytes", bytes.size);
    memcpy(&head, bytes.ptr, sizeof(head));
    bytes.ptr += sizeof(head);
    bytes.size -= sizeof(head);
    if (head.magic != MAGIC || head.version != VERSION || head.count > KZ_OPEN_ERASURES_MAX ||
            bytes.size != head.count * sizeof(struct kz_open_erasure) ||
            kz_crc32c(0, bytes.ptr, bytes.size) != head.crc)
        return kz_fail(err, KZ_CORRUPT, "the word of open erasures is damaged");
    kz_buf_str(out, bytes);
    return KZ_OK;
}

enum kz_code kz_open_erasures_change(struct kz_str before, uint64_t erasure, int64_t at_ms,
        const struct kz_open_erasure *more, size_t count, struct kz_buf *out, struct kz_err *err)
{
    struct head head = {.magic = MAGIC, .version = VERSION};
    struct kz_buf all = {0};
    const struct kz_open_erasure *open;
    enum kz_code rc = kz_open_erasures_read(before, &all, err);

    kz_buf_clear(out);
    kz_buf_put(out, &head, sizeof(head));
    open = (const void *)all.data;
    for (size_t i = 0; rc == KZ_OK && i < all.size / sizeof(*open); i++)
        if (open[i].erasure != erasure || open[i].at_ms != at_ms)
            kz_buf_put(out, &open[i], sizeof(open[i]));
    kz_buf_done(&all);
    kz_buf_put(out, more, count * sizeof(*more));
    head.count = (uint32_t)((out->size - sizeof(head)) / sizeof(*more));
    if (rc == KZ_OK && head.count > KZ_OPEN_ERASURES_MAX)
        rc = kz_fail(err, KZ_OVERLOADED, "%u owners are being erased, the most there may be",
                head.count);
    head.crc = kz_crc32c(0, out->data + sizeof(head), out->size - sizeof(head));
    memcpy(out->data, &head, sizeof(head));
    if (rc != KZ_OK || !head.count)
        kz_buf_clear(out);
    return rc;
}
