/* app/commands/version.h -- what this binary calls itself. */
#pragma once

#define KZ_VERSION "0.1.0"
#if defined(__clang__)
#define KZ_BUILD "clang " __clang_version__
#else
#define KZ_BUILD "gcc " __VERSION__
#endif
