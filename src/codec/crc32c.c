#include "codec/crc32c.h"

/* x^32 + x^28 + ... (0x1edc6f41), bits reversed. */
#define POLYNOMIAL 0x82f63b78u

static uint32_t table[256];

/* Before main(), so that nobody has to ask whether it has been done. */
__attribute__((constructor)) static void fill_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;

        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ POLYNOMIAL : crc >> 1;
        table[i] = crc;
    }
}

uint32_t kz_crc32c_portable(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *at = data;

    crc = ~crc;
    while (size--)
        crc = crc >> 8 ^ table[(crc ^ *at++) & 0xff];
    return ~crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(
        uint32_t crc, const void *data, size_t size)
{
    const char *at = data;
    uint64_t wide = ~crc;

    for (; size >= 8; at += 8, size -= 8)
        wide = __builtin_ia32_crc32di(wide, kz_load_u64(at));
    crc = (uint32_t)wide;
    for (; size; at++, size--)
        crc = __builtin_ia32_crc32qi(crc, (unsigned char)*at);
    return ~crc;
}
#endif

uint32_t kz_crc32c(uint32_t crc, const void *data, size_t size)
{
#ifdef __x86_64__
    /* A load and a bit test of what the start-up code has found out; no CPUID here. */
    if (KZ_LIKELY(__builtin_cpu_supports("sse4.2")))
        return crc32c_sse42(crc, data, size);
#endif
    return kz_crc32c_portable(crc, data, size);
}
