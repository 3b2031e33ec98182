#include "app/commands/command.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "codec/duration.h"
#include "sys/clock.h"

/* ---- finding ---------------------------------------------------------------------------------------- */

static unsigned words_of(const char *name)
{
    unsigned count = 1;

    for (; *name; name++)
        count += *name == ' ';
    return count;
}

static bool starts_with_words(const char *name, int argc, char **argv)
{
    char joined[128] = "";
    unsigned words = words_of(name);

    if ((unsigned)argc < words)
        return false;
    for (unsigned i = 0; i < words; i++) {
        strncat(joined, argv[i], sizeof(joined) - strlen(joined) - 2);
        if (i + 1 < words)
            strcat(joined, " ");
    }
    return strcmp(joined, name) == 0;
}

static const struct kz_command *find(int argc, char **argv)
{
    for (const struct kz_command *const *c = kz_commands(); *c; c++)
        if (starts_with_words((*c)->name, argc, argv))
            return *c;
    return NULL;
}

static size_t option_count(const struct kz_command *command)
{
    size_t count = 0;

    while (count < KZ_OPTIONS_MAX && command->options[count].name)
        count++;
    return count;
}

static int option_index(const struct kz_command *command, const char *name, size_t size)
{
    for (size_t i = 0; i < option_count(command); i++)
        if (strlen(command->options[i].name) == size &&
                memcmp(command->options[i].name, name, size) == 0)
            return (int)i;
    return -1;
}

/* ---- help --------------------------------------------------------------------------------------------- */

static const char *dashes(const struct kz_option *option)
{
    return option->name[1] ? "--" : "-";
}

static void print_options(FILE *out, const struct kz_command *command)
{
    if (option_count(command))
        fprintf(out, "\nOptions:\n");
    for (size_t i = 0; i < option_count(command); i++) {
        const struct kz_option *o = &command->options[i];
        char left[64];

        snprintf(left, sizeof(left), "%s%s%s%s", dashes(o), o->name, o->metavar ? " " : "",
                o->metavar ? o->metavar : "");
        fprintf(out, "  %-22s %s", left, o->help);
        if (o->standard)
            fprintf(out, " (default: %s)", o->standard);
        fprintf(out, "\n");
    }
}

static void print_command(FILE *out, const struct kz_command *command)
{
    fprintf(out, "Usage: kizashi %s%s%s%s\n\n%s\n", command->name, command->arguments[0] ? " " : "",
            command->arguments, option_count(command) ? " [options]" : "", command->summary);
    if (command->details)
        fprintf(out, "\n%s\n", command->details);
    print_options(out, command);
    if (command->example)
        fprintf(out, "\nExample:\n  %s\n", command->example);
}

static void print_all(FILE *out)
{
    fprintf(out, "Kizashi: behaviour events in, predictions and actions out, while the visitor is "
                 "still there.\n\nUsage: kizashi COMMAND [arguments] [options]\n\nCommands:\n");
    for (const struct kz_command *const *c = kz_commands(); *c; c++) {
        char left[80];

        snprintf(left, sizeof(left), "%s %s", (*c)->name, (*c)->arguments);
        if (strlen(left) > 34)
            fprintf(out, "  %s\n  %-34s %s\n", left, "", (*c)->summary);
        else
            fprintf(out, "  %-34s %s\n", left, (*c)->summary);
    }
    fprintf(out, "\n`kizashi COMMAND --help` says more. Start with: kizashi init shop\n");
}

static void roff_text(const char *text)
{
    for (; *text; text++) {
        if (*text == '-')
            printf("\\-");
        else if (*text == '\\')
            printf("\\e");
        else
            putchar(*text);
        if (*text == '\n' && (text[1] == '.' || text[1] == '\''))
            printf("\\&");
    }
}

/* The man page in roff, made from the table (`kizashi help --man`). */
static void print_man(void)
{
    printf(".TH KIZASHI 1\n.SH NAME\nkizashi \\- real\\-time machine learning predictions from "
           "behaviour events\n.SH SYNOPSIS\n.B kizashi\n.I COMMAND\n[arguments] [options]\n"
           ".SH COMMANDS\n");
    for (const struct kz_command *const *c = kz_commands(); *c; c++) {
        printf(".SS ");
        roff_text((*c)->name);
        putchar(' ');
        roff_text((*c)->arguments);
        printf("\n");
        roff_text((*c)->summary);
        printf("\n");
        if ((*c)->details) {
            printf(".PP\n");
            roff_text((*c)->details);
            printf("\n");
        }
        for (size_t i = 0; i < option_count(*c); i++) {
            const struct kz_option *o = &(*c)->options[i];

            printf(".TP\n.B ");
            roff_text(dashes(o));
            roff_text(o->name);
            if (o->metavar) {
                printf(" \\fI");
                roff_text(o->metavar);
                printf("\\fR");
            }
            printf("\n");
            roff_text(o->help);
            if (o->standard) {
                printf(" (default: ");
                roff_text(o->standard);
                printf(")");
            }
            printf("\n");
        }
        if ((*c)->example) {
            printf(".PP\n.nf\n");
            roff_text((*c)->example);
            printf("\n.fi\n");
        }
    }
    printf(".SH EXIT STATUS\n0 done, 1 failed, 2 wrong usage.\n");
}

/* ---- parsing ------------------------------------------------------------------------------------------ */

int kz_command_usage(const struct kz_args *args, const char *fmt, ...)
{
    va_list list;

    fprintf(stderr, "kizashi %s: ", args->command->name);
    va_start(list, fmt);
    vfprintf(stderr, fmt, list);
    va_end(list);
    fprintf(stderr, "\nUsage: kizashi %s%s%s\n`kizashi %s --help` says more.\n",
            args->command->name, args->command->arguments[0] ? " " : "", args->command->arguments,
            args->command->name);
    return KZ_EXIT_USAGE;
}

static int parse_option(struct kz_args *args, int argc, char **argv, int *at)
{
    const char *text = argv[*at] + 2, *equals = strchr(text, '=');
    size_t size = equals ? (size_t)(equals - text) : strlen(text);
    int index = option_index(args->command, text, size);
    const struct kz_option *option;

    if (index < 0)
        return kz_command_usage(args, "unknown option --%.*s", (int)size, text);
    option = &args->command->options[index];
    if (!option->metavar) {
        if (equals)
            return kz_command_usage(args, "--%s takes no value", option->name);
        args->values[index] = "";
    } else if (equals) {
        args->values[index] = equals + 1;
    } else if (*at + 1 < argc) {
        args->values[index] = argv[++*at];
    } else {
        return kz_command_usage(
                args, "--%s needs a value: --%s %s", option->name, option->name, option->metavar);
    }
    return 0;
}

static int parse(struct kz_args *args, int argc, char **argv)
{
    bool only_arguments = false;

    for (int i = (int)words_of(args->command->name); i < argc; i++) {
        if (!only_arguments && strcmp(argv[i], "--") == 0) {
            only_arguments = true;
        } else if (!only_arguments &&
                   (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)) {
            print_command(stdout, args->command);
            exit(KZ_EXIT_DONE);
        } else if (!only_arguments && strncmp(argv[i], "--", 2) == 0) {
            int rc = parse_option(args, argc, argv, &i);

            if (rc)
                return rc;
        } else if (!only_arguments && argv[i][0] == '-' && argv[i][1] &&
                   option_index(args->command, argv[i] + 1, strlen(argv[i] + 1)) >= 0) {
            args->values[option_index(args->command, argv[i] + 1, strlen(argv[i] + 1))] = "";
        } else if (!only_arguments && argv[i][0] == '-' && argv[i][1]) {
            return kz_command_usage(args, "unknown option %s", argv[i]);
        } else if (args->argument_count < args->command->argument_max &&
                   args->argument_count < KZ_ARGUMENTS_MAX) {
            args->arguments[args->argument_count++] = argv[i];
        } else {
            return kz_command_usage(args, "one argument too many: \"%s\"", argv[i]);
        }
    }
    if (args->argument_count < args->command->argument_min)
        return kz_command_usage(args, "something is missing");
    return 0;
}

/* The commands that begin with a word: `kizashi models`. false: none does. */
static bool print_group(FILE *out, const char *word)
{
    size_t size = strlen(word);
    bool any = false;

    for (const struct kz_command *const *c = kz_commands(); *c; c++) {
        char left[80];

        if (strncmp((*c)->name, word, size) != 0 || (*c)->name[size] != ' ')
            continue;
        snprintf(left, sizeof(left), "kizashi %s%s%s", (*c)->name, (*c)->arguments[0] ? " " : "",
                (*c)->arguments);
        fprintf(out, "  %-36s %s\n", left, (*c)->summary);
        any = true;
    }
    return any;
}

static int unknown_command(int argc, char **argv)
{
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) &&
            print_group(stdout, argv[0])) {
        printf("\n`kizashi %s COMMAND --help` says more.\n", argv[0]);
        return KZ_EXIT_DONE;
    }
    if (argc == 1 && print_group(stderr, argv[0]))
        return KZ_EXIT_USAGE;
    fprintf(stderr, "kizashi: there is no command \"%s%s%s\"; `kizashi --help` lists them\n",
            argv[0], argc > 1 ? " " : "", argc > 1 ? argv[1] : "");
    (void)print_group(stderr, argv[0]); /* none that begins so is fine, too */
    return KZ_EXIT_USAGE;
}

int kz_command_main(int argc, char **argv)
{
    struct kz_args args = {0};
    int rc;

    argc--;
    argv++;
    if (argc == 0 || strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0 ||
            strcmp(argv[0], "help") == 0) {
        if (argc > 1 && strcmp(argv[1], "--man") == 0) {
            print_man();
            return KZ_EXIT_DONE;
        }
        if (argc > 1 && (args.command = find(argc - 1, argv + 1))) {
            print_command(stdout, args.command);
            return KZ_EXIT_DONE;
        }
        if (argc > 1 && print_group(stdout, argv[1]))
            return KZ_EXIT_DONE;
        print_all(argc ? stdout : stderr);
        return argc ? KZ_EXIT_DONE : KZ_EXIT_USAGE;
    }
    if (strcmp(argv[0], "--version") == 0)
        argv[0] = (char *)"version";
    args.command = find(argc, argv);
    if (!args.command)
        return unknown_command(argc, argv);
    rc = parse(&args, argc, argv);
    return rc ? rc : args.command->run(&args);
}

/* ---- values ------------------------------------------------------------------------------------------- */

const char *kz_args_get(const struct kz_args *args, const char *option)
{
    int index = option_index(args->command, option, strlen(option));

    KZ_BUG_ON(index < 0);
    return args->values[index] ? args->values[index] : args->command->options[index].standard;
}

bool kz_args_flag(const struct kz_args *args, const char *option)
{
    return kz_args_get(args, option) != NULL;
}

int64_t kz_args_int(const struct kz_args *args, const char *option, int64_t min, int64_t max)
{
    const char *text = kz_args_get(args, option);
    char *end;
    long long value = text ? strtoll(text, &end, 10) : 0;

    if (!text)
        return 0;
    if (end == text || *end || value < min || value > max)
        exit(kz_command_usage(args,
                "--%s is \"%s\", it has to be a whole number from %" PRId64 " to %" PRId64, option,
                text, min, max));
    return value;
}

int64_t kz_args_duration_ms(const struct kz_args *args, const char *option)
{
    const char *text = kz_args_get(args, option);
    int64_t ms = 0;
    struct kz_err err;

    if (text && kz_duration_parse(kz_str(text), &ms, &err) != KZ_OK)
        exit(kz_command_usage(args, "--%s: %s", option, err.message));
    return ms;
}

int kz_command_fail(const struct kz_err *err)
{
    fprintf(stderr, "kizashi: %s\n", err->message);
    if (err->hint[0])
        fprintf(stderr, "  %s\n", err->hint);
    return KZ_EXIT_FAILED;
}

const char *kz_command_data(const struct kz_args *args, const char *dir, char *out, size_t out_size)
{
    const char *given = kz_args_get(args, "data");

    if (given)
        snprintf(out, out_size, "%s", given);
    else
        snprintf(out, out_size, "%s/.kizashi", dir);
    return out;
}

/* ---- progress ----------------------------------------------------------------------------------------- */

void kz_progress_begin(struct kz_progress *progress, const char *what, uint64_t total, bool quiet)
{
    *progress = (struct kz_progress){.what = what,
            .total = total,
            .started_ms = kz_mono_ms(),
            .terminal = isatty(STDERR_FILENO),
            .quiet = quiet};
}

static void show(struct kz_progress *progress, uint64_t done, const char *extra, bool last)
{
    int64_t ms = KZ_MAX(kz_mono_ms() - progress->started_ms, (int64_t)1);
    double rate = (double)done * 1000.0 / (double)ms;
    char bar[32] = "";

    if (progress->total) {
        unsigned filled = (unsigned)(20 * KZ_MIN(done, progress->total) / progress->total);

        for (unsigned i = 0; i < 20; i++)
            bar[i] = i < filled ? '#' : '.';
        bar[20] = '\0';
    }
    fprintf(stderr, "%s%s %s%s%s%" PRIu64, progress->terminal ? "\r\033[K" : "", progress->what,
            bar[0] ? "[" : "", bar, bar[0] ? "] " : "", done);
    if (progress->total)
        fprintf(stderr, " of %" PRIu64 " (%.0f %%)", progress->total,
                100.0 * (double)done / (double)progress->total);
    fprintf(stderr, ", %.0f a second", rate);
    if (progress->total && !last && rate > 0 && done < progress->total)
        fprintf(stderr, ", %.0f s left", (double)(progress->total - done) / rate);
    if (extra)
        fprintf(stderr, ", %s", extra);
    if (!progress->terminal || last)
        fprintf(stderr, "\n");
    fflush(stderr);
}

void kz_progress_show(struct kz_progress *progress, uint64_t done, const char *extra)
{
    int64_t now_ms = kz_mono_ms();

    if (progress->quiet || now_ms - progress->shown_ms < (progress->terminal ? 200 : 5000))
        return;
    if (!progress->shown_ms && !progress->terminal) {
        progress->shown_ms = now_ms; /* a log gets its first line after the first five seconds */
        return;
    }
    progress->shown_ms = now_ms;
    show(progress, done, extra, false);
}

const char *kz_progress_clear(void)
{
    return isatty(STDERR_FILENO) ? "\r\033[K" : "";
}

void kz_progress_end(struct kz_progress *progress, uint64_t done, const char *extra)
{
    if (!progress->quiet)
        show(progress, done, extra, true);
}
