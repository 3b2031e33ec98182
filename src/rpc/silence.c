#include "rpc/silence.h"

#include "base/err.h"

void kz_rpc_silence_await(struct kz_rpc_silence *silence, int64_t now_ms)
{
    if (!silence->awaited++ && !silence->in_vain)
        silence->since_ms = now_ms;
}

void kz_rpc_silence_end(struct kz_rpc_silence *silence, bool answered, int64_t now_ms)
{
    KZ_BUG_ON(!silence->awaited);
    silence->awaited--;
    silence->in_vain = !answered;
    if (answered)
        silence->since_ms = now_ms;
}

int64_t kz_rpc_silence_ms(const struct kz_rpc_silence *silence, int64_t now_ms)
{
    if (!silence->awaited && !silence->in_vain)
        return 0;
    return KZ_MAX(now_ms - silence->since_ms, (int64_t)1);
}
