/* What a server says beside a status: any bytes give a time to wait that is sane. */
#include <stdlib.h>

#include "rpc/rpc_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t ms = kz_rpc_parse_retry_info_ms(kz_str_n(data, size));

    if (ms < 0 || ms > 610000)
        abort();
    return 0;
}
