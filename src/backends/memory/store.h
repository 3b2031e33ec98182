/* backends/memory/store.h -- contract/store.h in one process's memory: for tests, and for roles that
 * all run in one process. Nothing is kept when it is closed.
 *
 * Transactions are optimistic: reads note what they saw, commit compares. Retention is not applied.
 *
 * Threads  any; one lock around everything.
 */
#pragma once

#include "contract/store.h"

struct kz_store *kz_memory_store_new(void); /* its ops' close() frees it */
