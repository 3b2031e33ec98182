/* rpc/silence.h -- since when a service says nothing though it was asked.
 *
 *     answered --await--> awaited --end, answered--> answered
 *                            |
 *                            '----end, in vain-----> in vain: as silent as while it was awaited
 *
 * Silence begins with the first question behind the last answer, and any answer ends it, also where
 * others are still awaited: one call alone is slow, and no silence.
 *
 * Threads  one at a time: under the owner's lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* More than this is worth a word: it is longer than calls take, and shorter than they are tried. */
enum { KZ_RPC_SILENT_MS = 1500 };

struct kz_rpc_silence {
    unsigned awaited; /* answers, now */
    bool in_vain;     /* what was awaited last ended without the server's word */
    int64_t since_ms; /* where either is */
};

/* `now_ms` is monotonic. An answer is waited for; */
void kz_rpc_silence_await(struct kz_rpc_silence *silence, int64_t now_ms);
/* and is no more, it has come or not. */
void kz_rpc_silence_end(struct kz_rpc_silence *silence, bool answered, int64_t now_ms);
/* For how long now, at least 1; 0: nothing is waited for, and the last answer came. */
int64_t kz_rpc_silence_ms(const struct kz_rpc_silence *silence, int64_t now_ms);
