/* codec/crc32c.h -- CRC-32C (Castagnoli; RFC 3720, appendix B.4), by SSE4.2 where the CPU has it.
 *
 * Values are stored on disk. Threads: pure.
 */
#pragma once

#include "base/base.h"

/* kz_crc32c(kz_crc32c(0, a), b) is the checksum of a and b together. */
uint32_t kz_crc32c(uint32_t crc, const void *data, size_t size);
/* The table-driven one, for tests and other CPUs. */
uint32_t kz_crc32c_portable(uint32_t crc, const void *data, size_t size);
