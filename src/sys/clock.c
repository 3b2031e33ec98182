#include "sys/clock.h"

static int64_t now_ns(clockid_t id)
{
    struct timespec ts;

    KZ_BUG_ON(clock_gettime(id, &ts) != 0);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t kz_clock_ms(void)
{
    return now_ns(CLOCK_REALTIME) / 1000000;
}

int64_t kz_clock_us(void)
{
    return now_ns(CLOCK_REALTIME) / 1000;
}

int64_t kz_mono_ms(void)
{
    return now_ns(CLOCK_MONOTONIC) / 1000000;
}

int64_t kz_mono_us(void)
{
    return now_ns(CLOCK_MONOTONIC) / 1000;
}

int64_t kz_mono_ns(void)
{
    return now_ns(CLOCK_MONOTONIC);
}

struct timespec kz_mono_after(int64_t ms)
{
    int64_t ns = kz_mono_ns() + ms * 1000000;

    return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}
