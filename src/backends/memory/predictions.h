/* backends/memory/predictions.h -- contract/predictions.h in one process's memory, for tests of the
 * roles and for trying a deployment of roles without any service. Nothing outlives the process.
 *
 * Threads  any; one lock.
 */
#pragma once

#include "contract/predictions.h"

/* Freed by its close(). */
struct kz_predictions *kz_memory_predictions_new(void);
