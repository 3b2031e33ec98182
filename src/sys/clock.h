/* sys/clock.h -- what time it is.
 *
 * Decisions never call these: they are given `now` (see STYLE, step functions). Edges do.
 *
 * Threads  any.
 */
#pragma once

#include <time.h>

#include "base/base.h"

/* Our own wall clock, UTC, since 1970. May step back when the machine's clock is set. */
int64_t kz_clock_ms(void);
int64_t kz_clock_us(void);

/* Never steps back; the origin means nothing. For durations and deadlines. */
int64_t kz_mono_ms(void);
int64_t kz_mono_us(void);
int64_t kz_mono_ns(void);
/* `ms` from now by CLOCK_MONOTONIC, for pthread_cond_clockwait() and sem_clockwait(): a wait by the wall
 * clock goes on for an hour where that is set back by one. */
struct timespec kz_mono_after(int64_t ms);
