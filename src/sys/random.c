#include "sys/random.h"

#include <unistd.h>

void kz_random_bytes(void *data, size_t size)
{
    char *at = data;

    /* getentropy() is getrandom() in pieces of at most 256 bytes, and declared where our own
     * sys/random.h does not hide it. A system without randomness must not hand out keys. */
    while (size) {
        size_t n = KZ_MIN(size, (size_t)256);

        KZ_BUG_ON(getentropy(at, n) != 0);
        at += n;
        size -= n;
    }
}

static uint64_t rotate_left(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

void kz_prng_init(struct kz_prng *prng, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        uint64_t x = seed += 0x9e3779b97f4a7c15ull;

        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
        x = (x ^ x >> 27) * 0x94d049bb133111ebull;
        prng->state[i] = x ^ x >> 31;
    }
}

uint64_t kz_prng_u64(struct kz_prng *prng)
{
    uint64_t *s = prng->state;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

uint64_t kz_prng_below(struct kz_prng *prng, uint64_t bound)
{
    /* Lemire's multiplication with rejection: no bias, rarely a second draw. */
    unsigned __int128 product;
    uint64_t low_min;

    if (bound == 0)
        return 0;
    low_min = -bound % bound;
    do {
        product = (unsigned __int128)kz_prng_u64(prng) * bound;
    } while ((uint64_t)product < low_min);
    return (uint64_t)(product >> 64);
}

double kz_prng_unit(struct kz_prng *prng)
{
    return (double)(kz_prng_u64(prng) >> 11) * 0x1p-53;
}

void kz_prng_bytes(struct kz_prng *prng, void *data, size_t size)
{
    char *at = data;

    while (size) {
        uint64_t v = kz_prng_u64(prng);
        size_t n = KZ_MIN(size, sizeof(v));

        memcpy(at, &v, n);
        at += n;
        size -= n;
    }
}
