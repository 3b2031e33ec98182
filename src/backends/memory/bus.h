/* backends/memory/bus.h -- contract/bus.h in one process's memory: for tests, and for roles that
 * all run in one process. Topics and subscriptions are there once it is open; nothing is kept when
 * it is closed.
 *
 * Threads  any; one lock, and a thread that calls `done`.
 * Fails    KZ_OVERLOADED where waiting messages take more memory than they may; KZ_NOT_FOUND for a
 *          subscription that was not asked for; KZ_NO_MEMORY without a thread.
 */
#pragma once

#include "contract/bus.h"

struct kz_memory_bus_options {
    const struct kz_bus_subscription *subscriptions; /* besides KZ_SUBSCRIPTIONS; strings copied */
    size_t subscription_count;
    size_t waiting_max_bytes; /* 0: 256 MiB; of messages nobody has taken */
    unsigned attempts_max;    /* 0: KZ_BUS_ATTEMPTS_MAX */
};

/* `options` may be NULL; freed by its ops' close(). */
KZ_MUST_USE enum kz_code kz_memory_bus_open(
        const struct kz_memory_bus_options *options, struct kz_bus **ret_bus, struct kz_err *err);
