/* base/err.h -- the one way a failure travels.
 *
 * A function that can fail returns enum kz_code (0 is success), leaves its ret_ outputs untouched
 * on failure and describes it in `err`, which may be NULL where the caller does not care. Who
 * fails describes; who knows more wraps; only an edge logs.
 */
#pragma once

#include <stdarg.h>

#include "base/base.h"

enum kz_code {
#define X(code, name, http, grpc, retry, help) KZ_##code,
#include "base/errors.def"
#undef X
    KZ_CODE_COUNT
};

struct kz_err {
    enum kz_code code;
    char message[1000]; /* one line, no full stop; outermost context first */
    char hint[256];     /* the way out, may be empty */
};

/* What is wrong with a service now, message and remedy in one line, cut where it is longer. */
enum { KZ_PROBLEM_BYTES = 320 };

/* Fills `err` and returns `code`: `return kz_fail(err, KZ_IO, "could not open \"%s\": %s", ...)`. */
enum kz_code kz_fail(struct kz_err *err, enum kz_code code, const char *fmt, ...) KZ_PRINTF(3, 4);
/* The same with strerror(errno) appended after ": ". ENOSPC and EDQUOT become KZ_NO_SPACE. */
enum kz_code kz_fail_errno(struct kz_err *err, const char *fmt, ...) KZ_PRINTF(2, 3);
/* Puts "context: " before the message and returns its code. */
enum kz_code kz_wrap(struct kz_err *err, const char *fmt, ...) KZ_PRINTF(2, 3);
/* Says the way out, and returns err's code. */
enum kz_code kz_hint(struct kz_err *err, const char *fmt, ...) KZ_PRINTF(2, 3);

const char *kz_code_name(enum kz_code code);
int kz_code_http(enum kz_code code);
bool kz_code_retry(enum kz_code code);

/* Returns the code of a failed call to our own caller. */
#define KZ_TRY(expr)                                                                               \
    do {                                                                                           \
        enum kz_code kz_rc_ = (expr);                                                              \
        if (KZ_UNLIKELY(kz_rc_ != KZ_OK))                                                          \
            return kz_rc_;                                                                         \
    } while (0)
