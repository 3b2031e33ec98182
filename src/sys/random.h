/* sys/random.h -- unguessable bytes, and a repeatable generator.
 *
 * Threads  kz_random_bytes() any; a kz_prng one at a time.
 */
#pragma once

#include "base/base.h"

/* From the kernel (getentropy); for keys, ids and tokens. Ends the process where there are none. */
void kz_random_bytes(void *data, size_t size);

/* xoshiro256** (Blackman and Vigna), seeded by splitmix64: the same seed gives the same numbers for
 * ever. For tests, the simulator and jitter; never for secrets. */
struct kz_prng {
    uint64_t state[4];
};

void kz_prng_init(struct kz_prng *prng, uint64_t seed);
uint64_t kz_prng_u64(struct kz_prng *prng);
/* Uniform in [0, bound); 0 where bound is 0. */
uint64_t kz_prng_below(struct kz_prng *prng, uint64_t bound);
/* Uniform in [0, 1). */
double kz_prng_unit(struct kz_prng *prng);
void kz_prng_bytes(struct kz_prng *prng, void *data, size_t size);
