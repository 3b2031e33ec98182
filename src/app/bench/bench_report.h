/* app/bench/bench_report.h -- what was measured, beside what was wanted: a table, or JSON. */
#pragma once

#include "base/buf.h"
#include "base/err.h"

enum kz_bench_verdict { KZ_BENCH_TOLD, KZ_BENCH_MET, KZ_BENCH_MISSED }; /* TOLD: without a target */

struct kz_bench_row {
    const char *id, *what, *target;
    char measured[160];
    char details[700];
    double value; /* in the target's unit */
    const char *unit;
    enum kz_bench_verdict verdict;
};

enum { KZ_BENCH_ROWS_MAX = 48 };

struct kz_bench_report {
    struct kz_bench_row rows[KZ_BENCH_ROWS_MAX];
    size_t row_count;
    char machine[1200]; /* lines "name: value" */
    size_t machine_size;
};

/* What it ran on: cores, memory, kernel, compiler, versions; `dir` names the disk. Refuses memory
 * (tmpfs, ramfs) with KZ_INVALID, and measures an fdatasync of 4 KiB on the disk. */
KZ_MUST_USE enum kz_code kz_bench_machine(
        struct kz_bench_report *report, const char *dir, struct kz_err *err);
/* `verdict` for values that are to be at most (`smaller`) or at least `target_value`. */
struct kz_bench_row *kz_bench_row(struct kz_bench_report *report, const char *id, const char *what,
        const char *target, const char *unit, double value);
void kz_bench_at_least(struct kz_bench_row *row, double target);
void kz_bench_at_most(struct kz_bench_row *row, double target);
/* On standard error as soon as it is known: the whole takes minutes. */
void kz_bench_say(const struct kz_bench_row *row);

void kz_bench_print(const struct kz_bench_report *report);
void kz_bench_print_json(const struct kz_bench_report *report);
