#include "base/base.h"

#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void kz_bug(const char *file, int line, const char *what)
{
    void *frames[48];
    int count = backtrace(frames, KZ_ARRAY_COUNT(frames));

    fprintf(stderr, "kizashi: bug: %s:%d: %s\n", file, line, what);
    backtrace_symbols_fd(frames, count, STDERR_FILENO);
    abort();
}

static void *must(void *ptr, size_t size)
{
    if (KZ_UNLIKELY(!ptr)) {
        fprintf(stderr, "kizashi: could not get %zu bytes of memory\n", size);
        abort();
    }
    return ptr;
}

void *kz_malloc(size_t size)
{
    return must(malloc(size ? size : 1), size);
}

void *kz_calloc(size_t count, size_t size)
{
    return must(calloc(count ? count : 1, size ? size : 1), count * size);
}

void *kz_realloc(void *ptr, size_t size)
{
    return must(realloc(ptr, size ? size : 1), size);
}

char *kz_strndup(const char *s, size_t size)
{
    char *copy = kz_malloc(size + 1);

    if (size)
        memcpy(copy, s, size);
    copy[size] = '\0';
    return copy;
}

char *kz_strdup(const char *s)
{
    return kz_strndup(s, strlen(s));
}
