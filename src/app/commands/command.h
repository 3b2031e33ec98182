/* app/commands/command.h -- commands and their options as a table: the parser, --help, the man page and the
 * docs come from it.
 *
 * A command's run() gets what was parsed and returns the exit code: 0 done, 1 failed, 2 usage.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

enum { KZ_EXIT_DONE = 0, KZ_EXIT_FAILED = 1, KZ_EXIT_USAGE = 2 };
enum { KZ_OPTIONS_MAX = 24, KZ_ARGUMENTS_MAX = 16 };

struct kz_option {
    const char *name;     /* "listen": --listen ADDR, --listen=ADDR */
    const char *metavar;  /* "ADDR"; NULL: a flag */
    const char *standard; /* default, as text; NULL none */
    const char *help;
};

struct kz_args;

struct kz_command {
    const char *name;      /* "models pause" for a subcommand */
    const char *arguments; /* "DIR [FILE]" as in the synopsis */
    unsigned argument_min, argument_max;
    const char *summary; /* one line */
    const char *details; /* paragraphs for --help and the man page, or NULL */
    const char *example; /* one command line, or NULL */
    struct kz_option options[KZ_OPTIONS_MAX];
    int (*run)(const struct kz_args *args);
};

struct kz_args {
    const struct kz_command *command;
    const char *arguments[KZ_ARGUMENTS_MAX];
    unsigned argument_count;
    const char
            *values[KZ_OPTIONS_MAX]; /* by the option's place in the table; flags: "" when given */
};

/* The value given, else the default, else NULL. The name must be one of the command's. */
const char *kz_args_get(const struct kz_args *args, const char *option);
bool kz_args_flag(const struct kz_args *args, const char *option);
/* Numbers and durations; a bad one prints usage to stderr and exits with KZ_EXIT_USAGE. */
int64_t kz_args_int(const struct kz_args *args, const char *option, int64_t min, int64_t max);
int64_t kz_args_duration_ms(const struct kz_args *args, const char *option);

/* All commands, ended by a NULL name. Each group of commands has a file app/cmd_<group>.c and a row
 * in commands.c. */
const struct kz_command *const *kz_commands(void);
int kz_command_main(int argc, char **argv);

/* Prints "kizashi: <message>" and the hint to stderr; returns KZ_EXIT_FAILED. */
int kz_command_fail(const struct kz_err *err);
int kz_command_usage(const struct kz_args *args, const char *fmt, ...) KZ_PRINTF(2, 3);

/* Where a project's data lives: --data, or DIR/.kizashi. In `out`, returned. */
const char *kz_command_data(
        const struct kz_args *args, const char *dir, char *out, size_t out_size);

/* A line of progress on a terminal, a line every few seconds elsewhere; nothing when quiet. */
struct kz_progress {
    const char *what; /* "replaying" */
    uint64_t total;   /* 0: not known */
    int64_t started_ms, shown_ms;
    bool terminal, quiet;
};
void kz_progress_begin(struct kz_progress *progress, const char *what, uint64_t total, bool quiet);
void kz_progress_show(struct kz_progress *progress, uint64_t done, const char *extra);
/* To be printed before a line of another kind on stderr: takes the line of progress away. */
const char *kz_progress_clear(void);
void kz_progress_end(struct kz_progress *progress, uint64_t done, const char *extra);
