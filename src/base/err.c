#include "base/err.h"

#include <errno.h>
#include <stdio.h>

static const struct {
    const char *name;
    int http;
    bool retry;
} codes[] = {
#define X(code, name, http, grpc, retry, help) {name, http, retry},
#include "base/errors.def"
#undef X
};

enum kz_code kz_fail(struct kz_err *err, enum kz_code code, const char *fmt, ...)
{
    if (err) {
        va_list args;

        va_start(args, fmt);
        vsnprintf(err->message, sizeof(err->message), fmt, args);
        va_end(args);
        err->code = code;
        err->hint[0] = '\0';
    }
    return code;
}

enum kz_code kz_fail_errno(struct kz_err *err, const char *fmt, ...)
{
    int number = errno;
    enum kz_code code = number == ENOSPC || number == EDQUOT ? KZ_NO_SPACE
                        : number == ENOENT                   ? KZ_NOT_FOUND
                                                             : KZ_IO;

    if (err) {
        va_list args;
        size_t used;

        va_start(args, fmt);
        vsnprintf(err->message, sizeof(err->message), fmt, args);
        va_end(args);
        used = strlen(err->message);
        snprintf(err->message + used, sizeof(err->message) - used, ": %s", strerror(number));
        err->code = code;
        err->hint[0] = '\0';
    }
    return code;
}

enum kz_code kz_wrap(struct kz_err *err, const char *fmt, ...)
{
    char inner[sizeof(err->message)];
    va_list args;
    size_t used;

    if (!err)
        return KZ_INTERNAL;
    memcpy(inner, err->message, sizeof(inner));
    va_start(args, fmt);
    vsnprintf(err->message, sizeof(err->message), fmt, args);
    va_end(args);
    used = strlen(err->message);
    snprintf(err->message + used, sizeof(err->message) - used, ": %s", inner);
    return err->code;
}

enum kz_code kz_hint(struct kz_err *err, const char *fmt, ...)
{
    va_list args;

    if (!err)
        return KZ_INTERNAL;
    va_start(args, fmt);
    vsnprintf(err->hint, sizeof(err->hint), fmt, args);
    va_end(args);
    return err->code;
}

const char *kz_code_name(enum kz_code code)
{
    KZ_BUG_ON((unsigned)code >= KZ_CODE_COUNT);
    return codes[code].name;
}

int kz_code_http(enum kz_code code)
{
    KZ_BUG_ON((unsigned)code >= KZ_CODE_COUNT);
    return codes[code].http;
}

bool kz_code_retry(enum kz_code code)
{
    KZ_BUG_ON((unsigned)code >= KZ_CODE_COUNT);
    return codes[code].retry;
}
