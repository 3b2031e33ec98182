#include "app/bench/bench_report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "app/bench/bench_hist.h"
#include "app/commands/version.h"
#include "codec/json_out.h"
#include "contract/sql.h"
#include "sys/clock.h"
#include "sys/thread.h"

/* ---- the machine ---------------------------------------------------------------------------------- */

static void tell(struct kz_bench_report *report, const char *name, const char *fmt, ...)
        KZ_PRINTF(3, 4);
static void tell(struct kz_bench_report *report, const char *name, const char *fmt, ...)
{
    char value[300];
    va_list args;
    int n;

    va_start(args, fmt);
    vsnprintf(value, sizeof(value), fmt, args);
    va_end(args);
    n = snprintf(report->machine + report->machine_size,
            sizeof(report->machine) - report->machine_size, "%s: %s\n", name, value);
    report->machine_size = KZ_MIN(report->machine_size + (size_t)n, sizeof(report->machine) - 1);
}

static void first_value(const char *path, const char *name, char *out, size_t size)
{
    FILE *file = fopen(path, "re");
    char text[512];

    snprintf(out, size, "unknown");
    while (file && fgets(text, sizeof(text), file)) {
        const char *colon = strchr(text, ':');

        if (strncmp(text, name, strlen(name)) != 0 || !colon)
            continue;
        snprintf(out, size, "%s", colon + 1 + strspn(colon + 1, " \t"));
        out[strcspn(out, "\n")] = '\0';
        break;
    }
    if (file)
        fclose(file);
}

static const char *disk_kind(long type)
{
    switch ((unsigned long)type) {
    case 0xEF53:
        return "ext4";
    case 0x58465342:
        return "xfs";
    case 0x9123683E:
        return "btrfs";
    case 0x794C7630:
        return "overlayfs";
    default:
        return "other";
    }
}

static bool is_memory(long type)
{
    return type == 0x01021994 || (unsigned long)type == 0x858458f6; /* tmpfs, ramfs */
}

static enum kz_code measure_sync(
        struct kz_bench_report *report, const char *dir, struct kz_err *err)
{
    enum { WRITES = 300, BLOCK = 4096 };
    static char block[BLOCK];
    static struct kz_hist hist;
    char path[4200];
    int fd;

    memset(&hist, 0, sizeof(hist));
    snprintf(path, sizeof(path), "%s/sync-test", dir);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return kz_fail_errno(err, "could not open \"%s\"", path);
    /* Zero-filled first, as the log's segments are. */
    for (off_t i = 0; i < WRITES; i++)
        if (pwrite(fd, block, BLOCK, i * BLOCK) != BLOCK)
            goto failed;
    if (fsync(fd) != 0)
        goto failed;
    memset(block, 'k', BLOCK);
    for (off_t i = 0; i < WRITES; i++) {
        int64_t began_ns = kz_mono_ns();

        if (pwrite(fd, block, BLOCK, i * BLOCK) != BLOCK || fdatasync(fd) != 0)
            goto failed;
        kz_hist_add(&hist, (uint64_t)(kz_mono_ns() - began_ns));
    }
    close(fd);
    unlink(path);
    tell(report, "fdatasync of 4 KiB", "p50 %.0f us, p99 %.0f us, max %.0f us",
            (double)kz_hist_at(&hist, 0.5) / 1e3, (double)kz_hist_at(&hist, 0.99) / 1e3,
            (double)hist.max_ns / 1e3);
    return KZ_OK;
failed:
    (void)kz_fail_errno(err, "could not write \"%s\"", path);
    close(fd);
    unlink(path);
    return err->code;
}

static void first_line(const char *command, char *out, size_t size)
{
    FILE *pipe = popen(command, "re");

    if (!pipe || !fgets(out, (int)size, pipe))
        snprintf(out, size, "unknown");
    out[strcspn(out, "\n")] = '\0';
    if (pipe)
        pclose(pipe);
}

enum kz_code kz_bench_machine(struct kz_bench_report *report, const char *dir, struct kz_err *err)
{
    struct statfs fs;
    struct utsname name;
    char text[200];

    if (statfs(dir, &fs) != 0)
        return kz_fail_errno(err, "could not look at the disk of \"%s\"", dir);
    if (is_memory(fs.f_type)) {
        (void)kz_fail(err, KZ_INVALID, "\"%s\" is in memory, where an fsync costs nothing", dir);
        return kz_hint(err, "--data PATH on a real disk");
    }
    first_value("/proc/cpuinfo", "model name", text, sizeof(text));
    tell(report, "processor", "%s, %u cores", text, kz_cpu_count());
    first_value("/proc/meminfo", "MemTotal", text, sizeof(text));
    tell(report, "memory", "%.1f GiB", strtod(text, NULL) / (1 << 20));
    uname(&name);
    tell(report, "kernel", "%s %s %s", name.sysname, name.release, name.machine);
    tell(report, "disk", "%s (statfs type %lx)", disk_kind(fs.f_type), (unsigned long)fs.f_type);
    KZ_TRY(measure_sync(report, dir, err));
    tell(report, "build", "kizashi %s, %s, %s", KZ_VERSION, KZ_BUILD, kz_sql_engine());
    first_line("python3 --version 2>&1", text, sizeof(text));
    tell(report, "python", "%s", text);
    return KZ_OK;
}

/* ---- rows ----------------------------------------------------------------------------------------- */

struct kz_bench_row *kz_bench_row(struct kz_bench_report *report, const char *id, const char *what,
        const char *target, const char *unit, double value)
{
    struct kz_bench_row *row = &report->rows[report->row_count++];

    KZ_BUG_ON(report->row_count > KZ_BENCH_ROWS_MAX);
    *row = (struct kz_bench_row){
            .id = id, .what = what, .target = target, .unit = unit, .value = value};
    return row;
}

void kz_bench_at_least(struct kz_bench_row *row, double target)
{
    row->verdict = row->value >= target ? KZ_BENCH_MET : KZ_BENCH_MISSED;
}

void kz_bench_at_most(struct kz_bench_row *row, double target)
{
    row->verdict = row->value <= target ? KZ_BENCH_MET : KZ_BENCH_MISSED;
}

static const char *verdict_text(const struct kz_bench_row *row)
{
    static const char *const texts[] = {"-", "met", "MISSED"};

    return texts[row->verdict];
}

void kz_bench_say(const struct kz_bench_row *row)
{
    fprintf(stderr, "  %s: %s%s%s\n", row->what, row->measured, *row->details ? "; " : "",
            row->details);
}

void kz_bench_print(const struct kz_bench_report *report)
{
    printf("\n%s\n", report->machine);
    printf("%-50s %-18s %-34s %s\n", "what", "target", "measured", "verdict");
    for (size_t i = 0; i < report->row_count; i++) {
        const struct kz_bench_row *row = &report->rows[i];

        printf("%-50s %-18s %-34s %s\n", row->what, row->target, row->measured, verdict_text(row));
        if (*row->details)
            printf("    %s\n", row->details);
    }
}

void kz_bench_print_json(const struct kz_bench_report *report)
{
    struct kz_buf buf = {0};
    struct kz_json_out out = kz_json_out(&buf);
    struct kz_str rest = kz_str(report->machine);

    kz_json_out_object(&out);
    kz_json_out_key(&out, "machine");
    kz_json_out_object(&out);
    while (rest.size) {
        size_t size = strcspn(rest.ptr, "\n");
        const char *colon = memchr(rest.ptr, ':', size);

        if (colon) {
            kz_json_out_key_str(&out, kz_str_n(rest.ptr, (size_t)(colon - rest.ptr)));
            kz_json_out_str(&out, kz_str_n(colon + 2, (size_t)(rest.ptr + size - colon - 2)));
        }
        rest = kz_str(rest.ptr + size + (rest.ptr[size] == '\n'));
    }
    kz_json_out_object_end(&out);
    kz_json_out_key(&out, "results");
    kz_json_out_array(&out);
    for (size_t i = 0; i < report->row_count; i++) {
        const struct kz_bench_row *row = &report->rows[i];

        kz_json_out_object(&out);
        kz_json_out_kv_cstr(&out, "id", row->id);
        kz_json_out_kv_cstr(&out, "what", row->what);
        kz_json_out_kv_cstr(&out, "target", row->target);
        kz_json_out_kv_f64(&out, "value", row->value);
        kz_json_out_kv_cstr(&out, "unit", row->unit);
        kz_json_out_kv_cstr(&out, "measured", row->measured);
        kz_json_out_kv_cstr(&out, "details", row->details);
        kz_json_out_kv_cstr(&out, "verdict", verdict_text(row));
        kz_json_out_object_end(&out);
    }
    kz_json_out_array_end(&out);
    kz_json_out_object_end(&out);
    printf("%.*s\n", (int)buf.size, buf.data);
    kz_buf_done(&buf);
}
